"""Child processes: the same interpreter, the same code as their parent, and gone when it is gone.

The kernel ends the child (PR_SET_PDEATHSIG), so that a parent killed with SIGKILL leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_PARENT = "SHARDSCOPE_PARENT"
_ROOT = Path(__file__).resolve().parent.parent
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


def start(
    module: str,
    *arguments: str,
    output: IO[bytes] | int | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    detached: bool = False,
) -> subprocess.Popen[bytes]:
    """Run `python -m module` in a process group of its own: a terminal's Ctrl-C reaches us, and we decide about it.

    `output` takes stdout and stderr; None: they are ours. The child, if it calls `die_with_parent`, ends with us; `detached`: it
    outlives us and our terminal. Raises OSError.
    """
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)}
    env.pop(_PARENT, None)
    # The kernel's "parent" is the thread that forked: bound to a passing thread, the child would die with the thread.
    if not detached and threading.current_thread() is threading.main_thread():
        env[_PARENT] = str(os.getpid())
    return subprocess.Popen(
        # -P: a directory called `runtime` where the user happens to stand is not ours
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=stdin,
        stdout=output,
        stderr=output,
        pass_fds=pass_fds,
        env=env,
        process_group=None if detached else 0,
        start_new_session=detached,
    )


def die_with_parent(parent: int | None = None) -> None:
    """Called by a child first of all. `parent` None: the process that called `start`; nothing to do if nobody did."""
    told = os.environ.pop(_PARENT, None)
    expected = parent if parent is not None else int(told) if told else None
    if expected is None:
        return
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # it may have died before the kernel knew our wish
    if os.getppid() != expected:
        os._exit(1)


def set_name(name: str) -> None:
    """What `ps` and `top` call this process; cut after 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)

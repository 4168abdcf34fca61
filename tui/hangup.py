"""The end of a dashboard whose terminal has gone without a signal: no controlling terminal, or SIGHUP ignored.

Textual's threads would go on to read and write what is no longer there.
"""

from __future__ import annotations

import os
import select
import sys
import threading


def end_with_the_terminal() -> None:
    """From now on: at a hang-up of standard input, if it is a terminal, the process ends. Nothing is asked for until then."""
    if sys.stdin is not None and sys.stdin.isatty():
        threading.Thread(target=_watch, args=(sys.stdin.fileno(),), name="hangup", daemon=True).start()


def _watch(terminal: int) -> None:
    poll = select.poll()
    poll.register(terminal, 0)  # a hang-up is told without being asked for
    poll.poll()
    os._exit(1)

"""A daemon as a process of its own, started by a dashboard, the demo or a test, and awaited until it answers."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from runtime import child
from runtime.client import ControlClient
from runtime.run_dir import RunDir

STOP_S = 30.0


class StartFailed(Exception):
    """The daemon did not start; the message is its last words."""


class DaemonProcess:
    """`detached`: it outlives us, and nobody stops it but its user. Else it ends with us at the latest."""

    def __init__(self, run_dir: Path | None = None, http: str = "127.0.0.1:8000", detached: bool = False) -> None:
        """Returns when it can be asked. Raises StartFailed, and RunDirError for a directory that cannot be."""
        self.run_dir = RunDir(run_dir)
        self.run_dir.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = self.run_dir.path / "daemon.log"
        heard, told = os.pipe()
        arguments = ["daemon", "--http", http, "--run-dir", str(self.run_dir.path), "--ready-fd", str(told)]
        with self.log.open("wb") as output, open(heard) as ear:
            self._process = child.start("shardscope", *arguments, output=output, pass_fds=[told], detached=detached)
            os.close(told)
            if not ear.readline():
                self._process.wait()
                raise StartFailed(self._last_words())

    @property
    def pid(self) -> int:
        return self._process.pid

    def client(self) -> ControlClient:
        return ControlClient(self.run_dir.path)

    def stop(self, timeout: float = STOP_S) -> int:
        """SIGTERM, then SIGKILL after `timeout` seconds; its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _last_words(self) -> str:
        with suppress(OSError, IndexError):
            return self.log.read_text(errors="replace").strip().splitlines()[-1].removeprefix("error: ")
        return f"the daemon ended with exit code {self._process.returncode}"

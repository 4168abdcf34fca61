"""Ctrl-C at a moment of our choosing, and other signals that end us as Ctrl-C does: through every `finally`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Held:
    """An interrupt that has come and waits."""

    def __init__(self) -> None:
        self._came: tuple[int, FrameType | None] | None = None
        self._previous: Any = signal.SIG_DFL

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._came = signum, frame

    def let_through(self) -> None:
        """Where nothing can be torn apart: do what the interrupt would have done, KeyboardInterrupt as a rule."""
        if self._came is not None:
            came, self._came = self._came, None
            if callable(self._previous):
                self._previous(*came)


@contextmanager
def interrupts_held() -> Iterator[Held]:
    """Between its points of `let_through`, and in the main thread, the only one that is interrupted, Ctrl-C waits."""
    held = Held()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    previous = signal.getsignal(signal.SIGINT)
    if not callable(previous):  # ignored, the system's own, or not Python's: as it is
        yield held
        return
    held._previous = signal.signal(signal.SIGINT, held._note)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, previous)
        held.let_through()


def leave_in_order() -> None:
    """From now on SIGTERM, and the SIGHUP of a terminal that closes, end us through every `finally`, with exit code 128 + signal.

    One that is ignored, as behind `nohup`, stays ignored.
    """
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, lambda number, _frame: sys.exit(128 + number))

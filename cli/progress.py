"""Where a start or a reconfiguration is, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from runtime.control import Progress

LINE_EVERY_S = 5.0  # where the line cannot be written over


class ProgressLines:
    """One line a phase: on a terminal written over as the phase goes on, elsewhere followed by another now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: tuple[int, str, str] | None = None
        self._line = ""
        self._said = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._phase is not None and sys.stderr.isatty():
            print(file=sys.stderr, flush=True)

    def show(self, progress: Progress) -> None:
        from runtime.demo import progress_line

        phase, line = (progress.generation, progress.state, progress.phase), progress_line(progress)
        if line == self._line:
            return
        goes_on = phase == self._phase
        if sys.stderr.isatty():
            begin = "\r\x1b[K" if goes_on or self._phase is None else "\n"
            print(f"{begin}{line}", end="", file=sys.stderr, flush=True)
        elif not goes_on or self._clock() - self._said >= LINE_EVERY_S:
            print(line, file=sys.stderr, flush=True)
            self._said = self._clock()
        self._phase, self._line = phase, line

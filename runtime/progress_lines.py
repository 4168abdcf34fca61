"""Where a start or a reconfiguration is, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from runtime.live_line import LiveLine

if TYPE_CHECKING:
    from runtime.control import Progress


class ProgressLines:
    """A live line for each phase."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._line = LiveLine(clock)
        self._phase: tuple[int, str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._line.keep()

    def show(self, progress: Progress) -> None:
        before, self._phase = self._phase, (progress.generation, progress.state, progress.phase)
        share = f" {100 * progress.share:.0f} %" if progress.share is not None else ""
        words = f"{progress.state.lower()}, generation {progress.generation}: {progress.phase}{share}"
        self._line.show(words, fresh=self._phase != before)

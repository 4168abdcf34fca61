"""How long a piece of work takes when it is done again and again, on a machine that may have other work besides."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

_clock, _used = time.perf_counter, time.process_time
SLICE_S = 2e-3
FEWEST = 4  # slices
PATIENCE = 4  # windows
LEAST = 0.1  # of a call


def _interrupted() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class _Slice(NamedTuple):
    """`cores` that this process had; how often others got one of them instead; `seconds` of a call."""

    cores: float
    interruptions: int
    seconds: float


class Stopwatch:
    """`window_s`: how long to look at each piece of work; once the clock is past `until`, one look must do. `settle` returns once
    the device has done what it was given.
    """

    def __init__(self, window_s: float, settle: Callable[[], None] = lambda: None, until: float = float("inf")) -> None:
        self._window_s, self._settle, self._until = window_s, settle, until

    def seconds(self, work: Callable[[], object]) -> float:
        """Of one call, after a warm-up: mean within a slice of milliseconds, median over the half of the slices in which this
        process had most of its cores. What others took is not the work's: while too few slices are calm, it looks longer."""
        work()
        self._settle()
        slices: list[_Slice] = []
        start = _clock()
        while not slices or (self._goes_on(_clock() - start, slices) and _clock() < self._until):
            slices.append(self._slice(work))
        slices.sort(key=lambda each: -each.cores)
        return statistics.median(each.seconds for each in slices[: max(1, len(slices) // 2)])

    def _goes_on(self, seconds: float, slices: Sequence[_Slice]) -> bool:
        calm = sum(each.interruptions == 0 for each in slices)
        return len(slices) < FEWEST or seconds < self._window_s or (calm < FEWEST and seconds < PATIENCE * self._window_s)

    def _slice(self, work: Callable[[], object]) -> _Slice:
        calls, start, used, interrupted = 0, _clock(), _used(), _interrupted()
        while not calls or _clock() - start < SLICE_S:
            work()
            calls += 1
        self._settle()
        wall = _clock() - start
        return _Slice((_used() - used) / wall, _interrupted() - interrupted, wall / calls)

    def beyond(self, known: float, work: Callable[[], object]) -> float:
        """What a call takes besides so many seconds: a tenth at least, for these may be of a worse moment."""
        found = self.seconds(work)
        return max(found - known, LEAST * found)

"""How long a piece of work takes when it is done again and again, on a machine that may have other work besides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

_clock, _used = time.perf_counter, time.process_time
SLICE_S = 2e-3
FEWEST = 4  # slices
LEAST = 0.1  # of a call


class Stopwatch:
    """`window_s`: how long to look at each piece of work; once the clock is past `until`, one look must do. `settle` returns once
    the device has done what it was given; `meet` once all who look at the same are about to begin. `chill`: drives out of the
    caches what work had read, as the weights of a model do that is larger than these.
    """

    def __init__(
        self,
        window_s: float,
        settle: Callable[[], None] = lambda: None,
        until: float = float("inf"),
        meet: Callable[[], object] = lambda: None,
        chill: Callable[[], object] = lambda: None,
    ) -> None:
        self._window_s, self._settle, self._until, self._meet, self._chill = window_s, settle, until, meet, chill

    def seconds(self, work: Callable[[], object], cold: bool = False) -> float:
        """Of one call, after a warm-up: mean within a slice of milliseconds, median over the half of the slices in which this
        process had most of its cores. What others took of them is not the work's. `cold`: each call finds cold caches."""
        work()
        self._settle()
        self._meet()
        slices: list[tuple[float, float]] = []
        end = _clock() + self._window_s
        while not slices or ((len(slices) < FEWEST or _clock() < end) and _clock() < self._until):
            if cold:
                self._chill()
            calls, start, used = 0, _clock(), _used()
            while not calls or (not cold and _clock() - start < SLICE_S):
                work()
                calls += 1
            self._settle()
            wall = _clock() - start
            slices.append(((_used() - used) / wall, wall / calls))
        slices.sort(key=lambda each: -each[0])
        return statistics.median(each for _, each in slices[: max(1, len(slices) // 2)])

    def beyond(self, known: float, work: Callable[[], object]) -> float:
        """What a call takes on cold caches besides so many seconds: a tenth at least, for they may be of a worse moment."""
        found = self.seconds(work, cold=True)
        return max(found - known, LEAST * found)

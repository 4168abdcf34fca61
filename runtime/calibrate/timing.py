"""How long a piece of work takes when it is done again and again, on a machine that may have other work besides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

_clock, _used = time.perf_counter, time.process_time
SLICE_S = 2e-3
FEWEST = 2  # slices
LEAST = 0.1  # of a call


class Piece(NamedTuple):
    """Of work; `cold`: each call finds cold caches."""

    work: Callable[[], object]
    cold: bool = False


class Stopwatch:
    """`window_s`: how long to look at each piece of work; once the clock is past `until`, one look must do.

    `settle` returns once the device has done what it was given. `meet` returns once all who look at the same are about to begin,
    with the number that the first of them gave. `chill` drives out of the caches what work had read, as the weights of a model do
    that is larger than these.
    """

    def __init__(
        self,
        window_s: float,
        settle: Callable[[], None] = lambda: None,
        until: float = float("inf"),
        meet: Callable[[int], int] = lambda number: number,
        chill: Callable[[], object] = lambda: None,
    ) -> None:
        self._window_s, self._settle, self._until, self._meet, self._chill = window_s, settle, until, meet, chill

    def seconds(self, work: Callable[[], object], cold: bool = False) -> float:
        """As `each`, of one piece."""
        return self.each([Piece(work, cold)])[0]

    def each(self, pieces: Sequence[Piece]) -> list[float]:
        """Seconds of a call of each, after a warm-up: mean within a slice of milliseconds, median over the slices in which this
        process had most of its cores. What others took of them is not the work's.

        The pieces are looked at in turns: a machine whose pace changes is as slow for one of them as for the others.
        """
        for piece in pieces:
            piece.work()
        self._settle()
        self._meet(0)
        start = _clock()
        slices = [[self._slice(piece)] for piece in pieces]
        end = _clock()
        rounds = max(FEWEST, round(self._window_s * len(pieces) / (end - start))) if end < self._until else 1
        for _ in range(self._meet(rounds) - 1):
            self._meet(0)
            for piece, seen in zip(pieces, slices, strict=True):
                seen.append(self._slice(piece))
        return [_calm(seen) for seen in slices]

    def _slice(self, piece: Piece) -> tuple[float, float]:
        """(share of the time in which this process had a core, seconds of a call)"""
        if piece.cold:
            self._chill()
        calls, start, used = 0, _clock(), _used()
        while not calls or (not piece.cold and _clock() - start < SLICE_S):
            piece.work()
            calls += 1
        self._settle()
        wall = _clock() - start
        return (_used() - used) / wall, wall / calls


def _calm(slices: list[tuple[float, float]]) -> float:
    calm = sorted(slices, key=lambda each: -each[0])[: max(FEWEST, len(slices) // 2)]
    return statistics.median(seconds for _, seconds in calm)


def beyond(found: float, known: float) -> float:
    """What a call takes besides so many seconds: a tenth at least, for they may be of a worse moment."""
    return max(found - known, LEAST * found)

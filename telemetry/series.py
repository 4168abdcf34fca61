"""Amounts by the second, and when there was work: the two memories that the fold keeps of time."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

SECOND = 1_000_000_000  # ns
HISTORY = 60  # complete seconds that a history shows; no window is longer

Key = TypeVar("Key", bound=Hashable)


class Seconds(Generic[Key]):
    """Amounts under keys, summed by the clock's seconds, the last minute of them.

    An amount belongs to a stretch of time and spreads evenly over it, so a second holds what happened in it even where steps
    cross its border, and a late record still falls into the seconds it is about.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, dict[Key, float]] = {}
        self._first: int | None = None
        self._newest = 0

    @property
    def first_ns(self) -> int | None:
        """Where the first stretch ever began."""
        return self._first

    def spread(self, start_ns: int, end_ns: int, amounts: Mapping[Key, float]) -> None:
        """Add `amounts`, spread over [start, end); all of them at `end` when that is no later than `start`."""
        self._first = start_ns if self._first is None else min(self._first, start_ns)
        last = end_ns // SECOND
        first = max(start_ns // SECOND, last - HISTORY - 1)
        if first >= last:
            self._add(last, 1.0, amounts)
            return
        for second in range(first, last + 1):
            inside = min(end_ns, (second + 1) * SECOND) - max(start_ns, second * SECOND)
            if inside > 0:
                self._add(second, inside / (end_ns - start_ns), amounts)

    def total(self, now_ns: int, window_ns: int) -> dict[Key, float]:
        """Sums over the window before `now`; the second that its edge cuts counts by the share inside."""
        edge, cut = divmod(now_ns - window_ns, SECOND)
        sums: dict[Key, float] = {}
        for second in range(edge, now_ns // SECOND + 1):
            weight = 1 - cut / SECOND if second == edge else 1.0
            for key, amount in self._seconds.get(second, {}).items():
                sums[key] = sums.get(key, 0.0) + weight * amount
        return sums

    def history(self, now_ns: int, key: Key) -> tuple[float, ...]:
        """The amount under `key` in each of the last complete seconds, oldest first, none from before the first stretch."""
        if self._first is None:
            return ()
        now = now_ns // SECOND
        return tuple(
            self._seconds.get(second, {}).get(key, 0.0) for second in range(max(now - HISTORY, self._first // SECOND), now)
        )

    def span_s(self, now_ns: int, window_ns: int) -> float:
        """By how many seconds to divide a total for a rate: the window, or as much as there has been of it, 1 at least."""
        lived = window_ns if self._first is None else now_ns - self._first
        return max(SECOND, min(window_ns, lived)) / SECOND

    def _add(self, second: int, share: float, amounts: Mapping[Key, float]) -> None:
        bucket = self._seconds.get(second)
        if bucket is None:
            if second > self._newest:
                self._newest = second
                for old in [s for s in self._seconds if s < second - HISTORY - 1]:
                    del self._seconds[old]
            elif second < self._newest - HISTORY - 1:
                return
            bucket = self._seconds[second] = {}
        for key, amount in amounts.items():
            bucket[key] = bucket.get(key, 0.0) + share * amount


class WorkTimeline:
    """When a replica had running requests: constant between its engine's records, unknown before the first."""

    def __init__(self) -> None:
        self._turns: deque[tuple[int, bool]] = deque()  # (from when, work or none)

    def note(self, time_ns: int, work: bool) -> None:
        """From `time_ns` on there was work, or none."""
        turns = self._turns
        if turns and (turns[-1][1] == work or time_ns < turns[-1][0]):
            return
        turns.append((time_ns, work))
        while len(turns) > 1 and turns[1][0] < time_ns - (HISTORY + 1) * SECOND:
            turns.popleft()

    def pieces(self, start_ns: int, end_ns: int) -> Iterator[tuple[int, int, bool]]:
        """[start, end) cut where work began or ended, latest first: (from, to, work). What is not known is left out."""
        for since, work in reversed(self._turns):
            if end_ns <= start_ns:
                return
            begin = max(since, start_ns)
            if begin < end_ns:
                yield begin, end_ns, work
                end_ns = begin

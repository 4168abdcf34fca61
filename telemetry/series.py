"""Amounts by the second, and when there was work: the two memories that the fold keeps of time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from operator import add
from typing import Generic, TypeVar

from msgspec import Struct

Row = TypeVar("Row")

SECOND = 1_000_000_000  # ns
MAX_TURNS = 4096  # from work to none and back, that one replica remembers
HISTORY = 60  # complete seconds that a history shows; no window is longer


class SecondsState(Struct, frozen=True, array_like=True):
    """What a `Seconds` knows: whole rows where a window may still look, of older ones the column that a history shows."""

    first_ns: int | None
    newest: int
    rows: dict[int, list[int | float]]
    older: dict[int, int | float]


class Seconds:
    """Rows of amounts, a column each, summed by the clock's seconds, the last minute of them.

    An amount belongs to a stretch of time and spreads evenly over it, so a second holds what happened in it even where steps
    cross its border, and a late record still falls into the seconds it is about. `shown` is the column that has a history;
    `None`: none has one, and no more than `kept_s` is kept.
    """

    def __init__(self, shown: int | None = 0, kept_s: float = HISTORY) -> None:
        self._shown = shown
        self._kept = math.ceil(kept_s) + 1
        self._rows: dict[int, list[int | float]] = {}
        self._first: int | None = None
        self._newest = 0

    def spread(self, start_ns: int, end_ns: int, amounts: Sequence[int | float]) -> None:
        """Add `amounts`, spread over [start, end); all of them at `end` when that is no later than `start`."""
        self._first = start_ns if self._first is None else min(self._first, start_ns)
        last = end_ns // SECOND
        first = start_ns // SECOND
        if first >= last:
            self._add(last, amounts)
            return
        for second in range(max(first, last - self._kept), last + 1):
            inside = min(end_ns, (second + 1) * SECOND) - max(start_ns, second * SECOND)
            if inside > 0:
                share = inside / (end_ns - start_ns)
                self._add(second, [share * amount for amount in amounts])

    def total(self, now_ns: int, window_ns: int) -> list[float]:
        """Sums by column over the window before `now`; the second that its edge cuts counts by the share inside."""
        edge, cut = divmod(now_ns - window_ns, SECOND)
        weight = 1 - cut / SECOND
        sums: list[float] = [weight * amount for amount in self._rows.get(edge, ())]
        for second in range(edge + 1, now_ns // SECOND + 1):
            row = self._rows.get(second)
            if row is None:
                continue
            if len(row) == len(sums):
                sums = list(map(add, sums, row))
            else:
                sums = [done + amount for done, amount in zip_longest(sums, row, fillvalue=0)]
        return sums

    def history(self, now_ns: int) -> tuple[float, ...]:
        """The shown column in each of the last complete seconds, oldest first, none from before the first stretch."""
        if self._first is None:
            return ()
        now = now_ns // SECOND
        return tuple(
            self._shown_in(self._rows.get(second, ())) for second in range(max(now - HISTORY, self._first // SECOND), now)
        )

    def span_s(self, now_ns: int, window_ns: int) -> float:
        """By how many seconds to divide a total for a rate: the window, or as much as there has been of it, 1 at least."""
        lived = window_ns if self._first is None else now_ns - self._first
        return max(SECOND, min(window_ns, lived)) / SECOND

    def state(self, now_ns: int, window_ns: int) -> SecondsState:
        """All that a window of this length and a history can show from `now` on."""
        edge = (now_ns - window_ns) // SECOND
        rows = {second: list(row) for second, row in self._rows.items() if second >= edge}
        older = {second: shown for second, row in self._rows.items() if second < edge and (shown := self._shown_in(row))}
        return SecondsState(self._first, self._newest, rows, older)

    def restore(self, state: SecondsState) -> None:
        """Become what `state` was taken of. Raises ValueError when it can be of no `Seconds`."""
        if not all(map(math.isfinite, chain(state.older.values(), *state.rows.values()))):
            raise ValueError("an amount that is no number")
        before = [0] * (self._shown or 0)
        self._rows = {second: list(row) for second, row in state.rows.items()}
        self._rows |= {second: [*before, amount] for second, amount in state.older.items()}
        self._first, self._newest = state.first_ns, state.newest

    def _shown_in(self, row: Sequence[int | float]) -> float:
        return 0.0 if self._shown is None or len(row) <= self._shown else row[self._shown]

    def _add(self, second: int, amounts: Sequence[int | float]) -> None:
        row = self._rows.get(second)
        if row is None:
            if second > self._newest:
                self._newest = second
                for old in [s for s in self._rows if s < second - self._kept]:
                    del self._rows[old]
            elif second < self._newest - self._kept:
                return
            self._rows[second] = list(amounts)
        else:
            row += [0] * (len(amounts) - len(row))
            row[: len(amounts)] = map(add, row, amounts)


class Recent(Generic[Row]):
    """A row for each of the clock's seconds, as far back as a window looks; what a row holds is its user's affair."""

    def __init__(self, make: Callable[[], Row], window_s: float) -> None:
        self._make = make
        self._kept = math.ceil(window_s) + 1
        self._rows: dict[int, Row] = {}
        self._newest: int | None = None

    @property
    def newest(self) -> int | None:
        """The latest second that has a row, or had one."""
        return self._newest

    def at(self, second: int) -> Row | None:
        """That second's row, to add to; `None` for one that no window shows any more."""
        row = self._rows.get(second)
        if row is None:
            if self._newest is None or second > self._newest:
                self._newest = second
                for old in [s for s in self._rows if s < second - self._kept]:
                    del self._rows[old]
            elif second < self._newest - self._kept:
                return None
            row = self._rows[second] = self._make()
        return row

    def spread(self, start_ns: int, end_ns: int, amounts: Sequence[int]) -> Iterator[tuple[Row, list[int]]]:
        """Whole `amounts` spread over [start, end), their sums kept: a row and its part of them, second by second."""
        length, last = end_ns - start_ns, end_ns // SECOND
        first = start_ns // SECOND if length > 0 else last
        for second in range(max(first, last - self._kept), last + 1):
            if (row := self.at(second)) is not None:
                begin, until = max(0, second * SECOND - start_ns), min(length, (second + 1) * SECOND - start_ns)
                yield row, list(amounts) if first == last else [n * until // length - n * begin // length for n in amounts]

    def window(self, now_ns: int, window_ns: int) -> Iterator[tuple[float, Row]]:
        """The rows of the window before `now`, oldest first, each with the share of it that the window's edge leaves."""
        edge, cut = divmod(now_ns - window_ns, SECOND)
        for second in range(edge, now_ns // SECOND + 1):
            row = self._rows.get(second)
            if row is not None:
                yield (1 - cut / SECOND if second == edge else 1.0), row

    def state(self, now_ns: int, window_ns: int) -> tuple[int | None, dict[int, Row]]:
        """(the newest second, the rows that a window can show from `now` on); the rows are this one's own."""
        edge = (now_ns - window_ns) // SECOND
        return self._newest, {second: row for second, row in self._rows.items() if second >= edge}

    def restore(self, newest: int | None, rows: Mapping[int, Row]) -> None:
        """Become what `state` was taken of."""
        self._newest, self._rows = newest, dict(rows)


class WorkTimeline:
    """When a replica had running requests: constant between its engine's records, unknown before the first."""

    def __init__(self) -> None:
        self._turns: deque[tuple[int, bool]] = deque(maxlen=MAX_TURNS)  # (from when, work or none)

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

    def state(self) -> list[tuple[int, bool]]:
        """Every turn that is remembered: (from when, work or none)."""
        return list(self._turns)

    def restore(self, state: list[tuple[int, bool]]) -> None:
        """Become what `state` was taken of."""
        self._turns = deque(state, MAX_TURNS)

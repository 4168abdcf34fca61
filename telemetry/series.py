"""Amounts by the second, and when there was work: the two memories that the fold keeps of time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from operator import add, sub
from typing import Generic, TypeVar

from msgspec import Struct

Row = TypeVar("Row")

SECOND = 1_000_000_000  # ns
MAX_TURNS = 4096  # from work to none and back, that one replica remembers
HISTORY = 60  # complete seconds that a history shows; no window is longer
_UNSETTLED = 2  # seconds of which records still come


class SecondsState(Struct, frozen=True, array_like=True):
    """What a `Seconds` knows: whole rows where a window may still look, of older ones the column that a history shows."""

    first_ns: int | None
    newest: int
    rows: dict[int, list[int | float]]  # earlier versions kept fractions
    older: dict[int, int | float]


class Seconds:
    """Rows of whole amounts, a column each, summed by the clock's seconds, the last minute of them.

    An amount belongs to a stretch of time and spreads evenly over it, so a second holds what happened in it even where steps
    cross its border, and a late record still falls into the seconds it is about. `shown` is the column that has a history;
    `None`: none has one, and no more than `kept_s` is kept.

    A window's sum goes along with the window: asking again a moment later costs the rows that came and went, and for they are
    whole numbers gives the same as adding them all up.
    """

    def __init__(self, shown: int | None = 0, kept_s: float = HISTORY, unit: float = 1.0, most: float = math.inf) -> None:
        """A history shows amounts by the `unit`, from 0 to `most`."""
        self._shown, self._unit, self._most = shown, unit, most
        self._kept = math.ceil(kept_s) + 1
        self._rows: dict[int, list[int]] = {}
        self._older: dict[int, int] = {}  # what a history shows of seconds that were restored without a row
        self._first: int | None = None
        self._newest = 0
        self._sum: list[int] = []
        self._after, self._until = 0, 0  # the seconds that `_sum` is of: those after the one, up to the other
        self._past: deque[float] = deque()  # the history up to second `_settled`
        self._settled = 0

    def spread(self, start_ns: int, end_ns: int, amounts: Sequence[int]) -> None:
        """Add `amounts`, spread over [start, end), their sums kept; all of them at `end` when that is no later than `start`."""
        self._first = start_ns if self._first is None else min(self._first, start_ns)
        last = end_ns // SECOND
        first = start_ns // SECOND
        if first >= last:
            self._add(last, amounts)
            return
        length = end_ns - start_ns
        for second in range(max(first, last - self._kept), last + 1):
            begin, until = max(0, second * SECOND - start_ns), min(length, (second + 1) * SECOND - start_ns)
            if until > begin:
                self._add(second, [n * until // length - n * begin // length for n in amounts])

    def total(self, now_ns: int, window_ns: int) -> list[float]:
        """Sums by column over the window before `now`; the second that its edge cuts counts by the share inside."""
        edge, cut = divmod(now_ns - window_ns, SECOND)
        self._go_to(edge, now_ns // SECOND)
        row = self._rows.get(edge)
        if row is None:
            return list(self._sum)
        weight = 1 - cut / SECOND
        if len(row) == len(self._sum):
            return [done + weight * amount for done, amount in zip(self._sum, row, strict=True)]
        return [done + weight * amount for done, amount in zip_longest(self._sum, row, fillvalue=0)]

    def _go_to(self, after: int, until: int) -> None:
        """Make `_sum` that of the seconds after one, up to another."""
        rows = self._rows
        there = self._after + 1 >= self._newest - self._kept  # all that has to be taken away
        if there and self._after <= after <= self._until <= until <= self._until + self._kept:
            for second in range(self._after + 1, after + 1):
                if (gone := rows.get(second)) is not None:
                    self._sum[: len(gone)] = map(sub, self._sum, gone)
            for second in range(self._until + 1, until + 1):
                if (row := rows.get(second)) is not None:
                    _put(self._sum, row)
            if after > self._after:  # columns that no row has any more
                del self._sum[max((len(rows.get(second, ())) for second in range(after + 1, until + 1)), default=0) :]
        else:
            known = [row for second in range(after + 1, until + 1) if (row := rows.get(second)) is not None]
            self._sum = list(map(sum, zip_longest(*known, fillvalue=0)))
        self._after, self._until = after, until

    def history(self, now_ns: int) -> tuple[float, ...]:
        """What is shown of each of the last complete seconds, oldest first, none from before the first stretch."""
        if self._first is None:
            return ()
        now = now_ns // SECOND
        first = max(now - HISTORY, self._first // SECOND)
        if not first <= self._settled <= now or len(self._past) < self._settled - first:
            self._past.clear()
            self._settled = first
        settled = max(self._settled, now - _UNSETTLED)
        self._past += self._shown_between(self._settled, settled)
        self._settled = settled
        while len(self._past) > settled - first:
            self._past.popleft()
        return (*self._past, *self._shown_between(settled, now))

    def _shown_between(self, first: int, end: int) -> list[float]:
        column, unit, most = self._shown, self._unit, self._most
        if column is None:
            return [0.0] * (end - first)
        rows, older = self._rows, self._older
        amounts = [row[column] if (row := rows.get(at)) and len(row) > column else older.get(at, 0) for at in range(first, end)]
        # conditions, not min and max: a quarter of the time, for each second of each rank
        return [0.0 if (shown := unit * amount) < 0 else most if shown > most else shown for amount in amounts]

    def span_s(self, now_ns: int, window_ns: int) -> float:
        """By how many seconds to divide a total for a rate: the window, or as much as there has been of it, 1 at least."""
        lived = window_ns if self._first is None else now_ns - self._first
        return max(SECOND, min(window_ns, lived)) / SECOND

    def state(self, now_ns: int, window_ns: int) -> SecondsState:
        """All that a window of this length and a history can show from `now` on."""
        edge = (now_ns - window_ns) // SECOND
        rows: dict[int, list[int | float]] = {second: [*row] for second, row in self._rows.items() if second >= edge}
        older: dict[int, int | float] = {
            at: shown for at, shown in self._older.items() if shown and at >= self._newest - self._kept
        }
        older |= {second: shown for second, row in self._rows.items() if second < edge and (shown := self._shown_in(row))}
        return SecondsState(self._first, self._newest, rows, older)

    def restore(self, state: SecondsState) -> None:
        """Become what `state` was taken of. Raises ValueError when it can be of no `Seconds`."""
        self._rows = {second: _whole(row) for second, row in state.rows.items()}
        self._older = dict(zip(state.older, _whole(list(state.older.values())), strict=True))
        self._first, self._newest = state.first_ns, state.newest
        self._after = self._until = self._settled = 0
        self._sum = []
        self._past.clear()

    def _shown_in(self, row: Sequence[int]) -> int:
        return 0 if self._shown is None or len(row) <= self._shown else row[self._shown]

    def _add(self, second: int, amounts: Sequence[int]) -> None:
        row = self._rows.get(second)
        if row is None:
            if second > self._newest:
                self._newest = second
                for old in [s for s in self._rows if s < second - self._kept]:
                    del self._rows[old]
            elif second < self._newest - self._kept:
                return
            row = self._rows[second] = [0] * (self._shown or 0) + [self._older.pop(second)] if second in self._older else []
        _put(row, amounts)
        if self._after < second <= self._until:
            _put(self._sum, amounts)
        if second < self._settled:
            self._settled = 0


def _whole(row: list[int | float]) -> list[int]:
    """A copy in whole amounts. Raises ValueError for what is no number."""
    if type(sum(row)) is int:
        return list(row)  # type: ignore[arg-type]
    if not all(map(math.isfinite, row)):
        raise ValueError("an amount that is no number")
    return list(map(round, row))


def _put(row: list[int], amounts: Sequence[int]) -> None:
    if len(row) < len(amounts):
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

    @property
    def oldest(self) -> int:
        """No second before it has a row."""
        return 0 if self._newest is None else self._newest - self._kept

    def get(self, second: int) -> Row | None:
        """That second's row, if it has one."""
        return self._rows.get(second)

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

    def spread(self, start_ns: int, end_ns: int, amounts: Sequence[int]) -> Iterator[tuple[int, Row, list[int]]]:
        """Whole `amounts` spread over [start, end), their sums kept: a second, its row and its part of them."""
        length, last = end_ns - start_ns, end_ns // SECOND
        first = start_ns // SECOND if length > 0 else last
        for second in range(max(first, last - self._kept), last + 1):
            if (row := self.at(second)) is not None:
                begin, until = max(0, second * SECOND - start_ns), min(length, (second + 1) * SECOND - start_ns)
                yield (
                    second,
                    row,
                    list(amounts) if first == last else [n * until // length - n * begin // length for n in amounts],
                )

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

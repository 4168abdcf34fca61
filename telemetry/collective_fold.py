"""The fold of one deployment's collectives: what each kind of call cost, and for whom the others wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import add, sub
from typing import TypeAlias

from msgspec import Struct, field

from telemetry.formulas import algorithm_bandwidth, bus_factor, by_chance
from telemetry.histograms import DURATION_BUCKETS, bucket_percentile
from telemetry.records import CollectiveRecord
from telemetry.series import SECOND, Recent
from telemetry.snapshot import CollectiveTotal, CollectiveView

MAX_KINDS = 32  # of (axis, op, size class); beyond, the one that was silent longest makes room
MAX_RANKS = 2048  # that one kind keeps apart
MAX_NAME = 32
MAX_TOTAL = 1 << 62
MAX_SIZE_CLASS = 64
LAG_NS = 3 * SECOND // 2  # a rank tells once a second: who told of nothing for longer made no calls

CHANCE = 0.05  # chance would single out a rank as often in less than this share of cases
WORTH_NAMING = 0.1  # of a call's mean duration, for which the others wait

_POINT_TO_POINT = ("send", "recv")  # whoever waits here waits for work, not for a group
_NONE = (0, 0, 0, 0)

Group: TypeAlias = Callable[[int, str], Hashable]  # (rank, axis) -> what it shares with those whom it meets on that axis


class KindSecond(Struct, array_like=True):
    """One second of one kind. By rank: calls, bytes, ns of wait, ns of transfer; calls by bucket of wait and of duration."""

    ranks: dict[int, list[int]] = field(default_factory=dict)
    waits: dict[int, int] = field(default_factory=dict)
    durations: dict[int, int] = field(default_factory=dict)

    def copy(self) -> KindSecond:
        return KindSecond({rank: list(sums) for rank, sums in self.ranks.items()}, dict(self.waits), dict(self.durations))


class KindState(Struct, frozen=True, array_like=True):
    """One kind of call, as far as a window can show it."""

    axis: str
    op: str
    size_class: int
    members: int
    newest: int | None
    seconds: dict[int, KindSecond]


Seconds: TypeAlias = Sequence[tuple[float, KindSecond]]  # of a window, each with its share in it


TotalState: TypeAlias = tuple[str, str, int, int, int, int]  # axis, op, calls, bytes, ns of wait, ns of transfer


class CollectiveState(Struct, frozen=True, array_like=True):
    """All that a `CollectiveFold` can still show."""

    told: dict[int, tuple[int, int]] = {}
    kinds: list[KindState] = []


class CollectiveTotals:
    """Sums over a deployment's whole life, by axis and op."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[int]] = {}

    def add(self, record: CollectiveRecord) -> None:
        """Take a record."""
        sums = self._sums.get((record.axis, record.op))
        if sums is None:
            if len(self._sums) >= MAX_KINDS or max(len(record.axis), len(record.op)) > MAX_NAME:
                return
            sums = self._sums[record.axis, record.op] = [0, 0, 0, 0]
        more = (record.calls, record.bytes, record.wait_ns, record.transfer_ns)
        sums[:] = (min(MAX_TOTAL, amount) for amount in map(add, sums, more))

    def view(self) -> tuple[CollectiveTotal, ...]:
        """In order."""
        return tuple(
            CollectiveTotal(*key, calls, size, wait / 1e9, transfer / 1e9)
            for key, (calls, size, wait, transfer) in sorted(self._sums.items())
        )

    def state(self) -> list[TotalState]:
        return [(*key, calls, size, wait, transfer) for key, (calls, size, wait, transfer) in self._sums.items()]

    def restore(self, state: Sequence[TotalState]) -> None:
        """Become what `state` was taken of."""
        self._sums = {(axis, op): list(sums) for axis, op, *sums in state[:MAX_KINDS]}


class _Kind:
    """One kind of call. The window's sums go along with the window, as those of `series.Seconds` do."""

    def __init__(self, members: int, window_s: float) -> None:
        self.members = members
        self.seconds = Recent(KindSecond, window_s)
        self._sums: dict[int, list[int]] = {}  # by rank, of the seconds after `_after`, up to `_until`
        self._after, self._until = 0, 0

    def add(self, record: CollectiveRecord) -> None:
        amounts = (record.calls, record.bytes, record.wait_ns, record.transfer_ns)
        for second, row, part in self.seconds.spread(record.start_ns, record.end_ns, amounts):
            sums = row.ranks.get(record.rank)
            if sums is None:
                if len(row.ranks) >= MAX_RANKS:
                    continue
                row.ranks[record.rank] = part
            else:
                sums[:] = map(add, sums, part)
            if self._after < second <= self._until:
                self._count({record.rank: part}, add)
        if (last := self.seconds.at(record.end_ns // SECOND)) is not None:
            _count(last.waits, record.waits)
            _count(last.durations, record.durations)

    def sums(self, now_ns: int, window_ns: int) -> dict[int, list[float]]:
        """By rank: calls, bytes, wait, transfer of the window."""
        edge, cut = divmod(now_ns - window_ns, SECOND)
        self._go_to(edge, now_ns // SECOND)
        sums: dict[int, list[float]] = {rank: [*amounts] for rank, amounts in self._sums.items()}
        weight, row = 1 - cut / SECOND, self.seconds.get(edge)
        for rank, amounts in row.ranks.items() if row is not None else ():
            done = sums.get(rank, _NONE)
            sums[rank] = [before + weight * amount for before, amount in zip(done, amounts, strict=True)]
        return {rank: amounts for rank, amounts in sums.items() if amounts[0] > 0}

    def _go_to(self, after: int, until: int) -> None:
        there = self._after + 1 >= self.seconds.oldest  # all that has to be taken away
        if there and self._after <= after <= self._until <= until:
            for second in range(self._after + 1, after + 1):
                if (row := self.seconds.get(second)) is not None:
                    self._count(row.ranks, sub)
            begin = self._until
        else:
            self._sums, begin = {}, after
        for second in range(max(begin + 1, self.seconds.oldest), until + 1):
            if (row := self.seconds.get(second)) is not None:
                self._count(row.ranks, add)
        self._after, self._until = after, until

    def _count(self, ranks: Mapping[int, Sequence[int]], operation: Callable[[int, int], int]) -> None:
        for rank, amounts in ranks.items():
            sums = self._sums.setdefault(rank, [0, 0, 0, 0])
            sums[:] = map(operation, sums, amounts)


class CollectiveFold:
    """Sums and histograms by kind of call, second and rank."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._kinds: dict[tuple[str, str, int], _Kind] = {}
        self._told: dict[int, tuple[int, int]] = {}  # by rank: from when and until when it told of its calls

    def add(self, record: CollectiveRecord) -> None:
        """Take a record of a rank that the layout has."""
        if len(record.axis) > MAX_NAME or len(record.op) > MAX_NAME or not 0 <= record.size_class <= MAX_SIZE_CLASS:
            return
        if record.members < 1:
            return
        since, until = self._told.get(record.rank, (record.start_ns, record.end_ns))
        self._told[record.rank] = min(since, record.start_ns), max(until, record.end_ns)
        self._kind((record.axis, record.op, record.size_class), record.members).add(record)

    def _kind(self, key: tuple[str, str, int], members: int) -> _Kind:
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                del self._kinds[min(self._kinds, key=lambda k: self._kinds[k].seconds.newest or 0)]
            kind = self._kinds[key] = _Kind(members, self._window_s)
        kind.members = members
        return kind

    def views(self, group: Group, now_ns: int, window_ns: int) -> tuple[CollectiveView, ...]:
        """By axis, op and size class, those that were called in the window."""
        told_s = {
            rank: max(SECOND, min(now_ns, max(until, now_ns - LAG_NS)) - max(since, now_ns - window_ns)) / SECOND
            for rank, (since, until) in self._told.items()
        }
        views = []
        for key in sorted(self._kinds):
            kind = self._kinds[key]
            seconds = list(kind.seconds.window(now_ns, window_ns))
            if (view := _view(key, kind.members, kind.sums(now_ns, window_ns), seconds, group, told_s)) is not None:
                views.append(view)
        return tuple(views)

    def state(self, now_ns: int, window_ns: int) -> CollectiveState:
        """All that views from `now` on can show of what came so far."""
        kinds = []
        for key, kind in self._kinds.items():
            newest, rows = kind.seconds.state(now_ns, window_ns)
            if rows:
                kinds.append(KindState(*key, kind.members, newest, {second: row.copy() for second, row in rows.items()}))
        return CollectiveState(dict(self._told), kinds)

    def restore(self, state: CollectiveState) -> None:
        """Become what `state` was taken of. Raises ValueError when it can be of no collectives."""
        self._told = dict(state.told)
        for told in state.kinds[:MAX_KINDS]:
            ranks = [each for second in told.seconds.values() for each in second.ranks.items()]
            known = told.members >= 1 and 0 <= told.size_class <= MAX_SIZE_CLASS
            if not known or any(len(sums) != 4 or rank not in state.told for rank, sums in ranks):
                raise ValueError("sums of something else than collectives")
            kind = self._kind((told.axis, told.op, told.size_class), told.members)
            kind.seconds.restore(told.newest, {second: row.copy() for second, row in told.seconds.items()})


def _view(
    key: tuple[str, str, int],
    members: int,
    ranks: Mapping[int, Sequence[float]],
    seconds: Seconds,
    group: Group,
    told_s: Mapping[int, float],
) -> CollectiveView | None:
    axis, op, size_class = key
    calls, size, wait, transfer = (sum(column) for column in zip(*ranks.values(), strict=True)) if ranks else (0.0,) * 4
    if calls <= 0:
        return None
    groups: dict[Hashable, list[int]] = {}
    for rank in ranks:
        groups.setdefault(group(rank, axis), []).append(rank)
    met = [ranks_of for ranks_of in groups.values() if len(ranks_of) == members > 1 and op not in _POINT_TO_POINT]
    told_apart = wait > 0
    straggler, late_ns = _straggler(
        met, ranks, seconds, _wait if told_apart else _inside, WORTH_NAMING * (wait + transfer) / calls
    )
    if not told_apart:  # who was inside least is taken to have waited for nobody
        wait = sum(_beyond_the_least([ranks[rank] for rank in ranks_of]) for ranks_of in met)
        transfer -= wait
    bandwidth = algorithm_bandwidth(size, transfer / 1e9) if size > 0 and transfer > 0 else None
    return CollectiveView(
        axis=axis,
        op=op,
        size_class=size_class,
        members=members,
        calls_per_s=sum(sums[0] / told_s[rank] for rank, sums in ranks.items()) / len(ranks),
        bytes=size / calls,
        wait_us=wait / calls / 1e3,
        transfer_us=transfer / calls / 1e3,
        p50_us=_percentile_us(seconds, "durations", 50),
        p99_us=_percentile_us(seconds, "durations", 99),
        wait_p99_us=_percentile_us(seconds, "waits", 99) if told_apart else None,
        algorithm_bandwidth=bandwidth,
        bus_bandwidth=None if bandwidth is None else _bus_bandwidth(op, bandwidth, members),
        straggler=straggler,
        late_us=None if late_ns is None else late_ns / 1e3,
    )


def _percentile_us(seconds: Seconds, which: str, q: float) -> float | None:
    counts: Counter[int] = Counter()
    for _, second in seconds:
        counts.update(getattr(second, which))
    ns = bucket_percentile(counts, q)
    return None if ns is None else ns / 1e3


def _bus_bandwidth(op: str, algorithm: float, members: int) -> float | None:
    try:
        return algorithm * bus_factor(op, members)
    except ValueError:  # a later version's op
        return None


def _beyond_the_least(sums: Sequence[Sequence[float]]) -> float:
    """Of a group's members, what they were inside calls longer than the one who was so least, at as many calls."""
    least = min(transfer / calls for calls, _, _, transfer in sums)
    return sum(transfer - least * calls for calls, _, _, transfer in sums)


def _straggler(
    groups: Sequence[Sequence[int]],
    ranks: Mapping[int, Sequence[float]],
    seconds: Seconds,
    measure: Callable[[Sequence[float]], float],
    worth_ns: float,
) -> tuple[int | None, float | None]:
    """(the rank for which the others of its group wait most, how long in the mean); none where nobody stands out.

    The last to come waits least. A rank stands out when the others wait `worth_ns` for it, and when it waited least in more of
    the window's seconds than chance would single out anybody (`CHANCE`).
    """
    worst: tuple[int | None, float | None] = None, None
    for members in groups:
        waits = {rank: measure(ranks[rank]) for rank in members}
        last = min(members, key=waits.__getitem__)
        late_ns = (sum(waits.values()) - waits[last]) / (len(members) - 1) - waits[last]
        if late_ns < worth_ns or (worst[1] is not None and late_ns <= worst[1]):
            continue
        rounds = [second.ranks for _, second in seconds if all(second.ranks.get(rank, _NONE)[0] for rank in members)]
        times = sum(min(members, key=lambda rank: measure(of[rank])) == last for of in rounds)
        if by_chance(times, len(rounds), len(members)) < CHANCE:
            worst = last, late_ns
    return worst


def _wait(sums: Sequence[float]) -> float:
    """Nanoseconds that a call waits."""
    return sums[2] / sums[0]


def _inside(sums: Sequence[float]) -> float:
    """Nanoseconds of a call: all leave it together, so this tells waits apart where no transport does."""
    return (sums[2] + sums[3]) / sums[0]


def _count(counts: dict[int, int], more: Mapping[int, int]) -> None:
    for bucket, calls in more.items():
        if not 0 <= bucket < DURATION_BUCKETS:
            bucket = 0 if bucket < 0 else DURATION_BUCKETS - 1
        counts[bucket] = counts.get(bucket, 0) + calls

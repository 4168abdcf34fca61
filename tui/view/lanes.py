"""What each rank did when: step records cut into stretches of one kind, idle ones into bubbles and no demand."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from telemetry.records import StepRecord
from telemetry.snapshot import DeploymentView

PREFILL, DECODE, MIXED, SEND, SAMPLE, RECV, HOST, BUBBLE, IDLE = "F", "D", "M", ">", "s", "·", ":", "░", " "
BUSY = (PREFILL, DECODE, MIXED, SEND, SAMPLE)
_PHASES = {"recv": RECV, "send": SEND, "sample": SAMPLE}


class Stretch(NamedTuple):
    """`step`: when the step began that it is a part of; -1 between two."""

    start_ns: int
    end_ns: int
    kind: str
    step: int = -1


@dataclass(frozen=True)
class Lane:
    """One row: a rank, all its steps by time, and what it did in the time that is looked at, and a little before and after."""

    rank: int
    title: str
    steps: tuple[StepRecord, ...]
    stretches: tuple[Stretch, ...]

    @property
    def known_ns(self) -> int:
        """Until when it is known what it did; 0 for nothing."""
        return end_of(self.steps[-1]) if self.steps else 0

    def within(self, start_ns: int, end_ns: int) -> Sequence[Stretch]:
        """The stretches that touch [start, end)."""
        first = bisect_right(self.stretches, start_ns, key=lambda stretch: stretch.end_ns)
        last = bisect_left(self.stretches, end_ns, key=lambda stretch: stretch.start_ns)
        return self.stretches[first:last]

    def shares(self, start_ns: int, end_ns: int) -> dict[str, float]:
        """Percent of [start, end) by kind; what was before the first step or after the last counts for nothing."""
        sums: defaultdict[str, int] = defaultdict(int)
        for stretch in self.within(start_ns, end_ns):
            sums[stretch.kind] += min(end_ns, stretch.end_ns) - max(start_ns, stretch.start_ns)
        whole = sum(sums.values())
        return {kind: 100 * length / whole for kind, length in sums.items()} if whole else {}

    def wait_share(self, start_ns: int, end_ns: int) -> float | None:
        """Percent of the same time that the rank waited for others in collectives, spread evenly over each step."""
        waited = 0.0
        for record in _near(self.steps, (start_ns, end_ns)):
            inside = min(end_ns, end_of(record)) - max(start_ns, record.start_ns)
            if inside > 0:
                waited += sum(axis.wait_ns for axis in record.axes.values()) * inside / record.wall_ns
        known = sum(min(end_ns, one.end_ns) - max(start_ns, one.start_ns) for one in self.within(start_ns, end_ns))
        return 100 * waited / known if known else None


def groups(deployment: DeploymentView) -> list[tuple[int, int]]:
    """Replica and member of the ep axis: who steps together with hidden states passed on only within."""
    return sorted({(rank.info.dp, rank.info.ep) for rank in deployment.ranks})


def lanes(
    deployment: DeploymentView, records: Iterable[StepRecord], by_rank: bool, group: int, window: tuple[int, int] | None = None
) -> list[Lane]:
    """A row a rank of the group's replica, or a row a stage of the group: its first rank, the others step with it.

    `window`: from and to before in ns; `None` is all time.
    """
    known = groups(deployment)
    if not known:
        return []
    replica, member = known[group % len(known)]
    inside = [rank.info for rank in deployment.ranks if rank.info.dp == replica]
    by_number: dict[int, list[StepRecord]] = {info.rank: [] for info in inside}
    for record in records:
        if record.rank in by_number:
            by_number[record.rank].append(record)
    for steps in by_number.values():
        steps.sort(key=lambda record: record.start_ns)
    seen = {rank: _near(steps, window) for rank, steps in by_number.items()}
    work = _union(_busy(record) for steps in seen.values() for record in steps)
    used = [axis for axis in ("pp", "ep", "tp") if deployment.layout.get(axis, 1) > 1]
    found = []
    for info in inside:
        if by_rank or (info.ep == member and info.tp == 0):
            place = "".join(f"{axis[0]}{getattr(info, axis)}" for axis in used)
            title = f"r{info.rank} {place}".strip() if by_rank else f"stage {info.pp}"
            found.append(Lane(info.rank, title, tuple(by_number[info.rank]), tuple(_stretches(seen[info.rank], work))))
    return found


def end_of(record: StepRecord) -> int:
    return record.start_ns + record.wall_ns


def _near(steps: Sequence[StepRecord], window: tuple[int, int] | None) -> Sequence[StepRecord]:
    """Those that touch the window, one before and one after: what is idle between two is known by both."""
    if window is None:
        return steps
    first = bisect_right(steps, window[0], key=end_of)
    last = bisect_left(steps, window[1], key=lambda record: record.start_ns)
    return steps[max(0, first - 1) : last + 1]


def kind_of(record: StepRecord) -> str:
    """Of its forward pass."""
    if not record.prefill_tokens:
        return DECODE
    return MIXED if record.decode_tokens else PREFILL


def _stretches(steps: Sequence[StepRecord], work: list[tuple[int, int]]) -> Iterator[Stretch]:
    reached: int | None = None
    for record in steps:
        begin = record.start_ns if reached is None else max(reached, record.start_ns)
        if reached is not None:
            yield from _idle(reached, begin, work)
        at = begin
        for phase in record.phases:
            start = max(at, record.start_ns + phase.offset_ns)
            end = start + phase.duration_ns
            if start > at:
                yield Stretch(at, start, HOST, record.start_ns)
            kind = _PHASES.get(phase.name, kind_of(record))
            if end > start:
                yield Stretch(start, end, kind, record.start_ns)
            at = max(at, end)
        end = end_of(record)
        if end > at:  # host work, or a step of which no phases are known
            yield Stretch(at, end, HOST if record.phases else kind_of(record), record.start_ns)
        reached = max(at, end)


def _idle(start_ns: int, end_ns: int, work: list[tuple[int, int]]) -> Iterator[Stretch]:
    """A bubble while another rank of the replica was at work; else nobody was."""
    at = start_ns
    for begin, end in work[bisect_right(work, start_ns, key=lambda piece: piece[1]) :]:
        if begin >= end_ns:
            break
        if begin > at:
            yield Stretch(at, begin, IDLE)
            at = begin
        if min(end, end_ns) > at:
            yield Stretch(at, min(end, end_ns), BUBBLE)
            at = min(end, end_ns)
    if at < end_ns:
        yield Stretch(at, end_ns, IDLE)


def _busy(record: StepRecord) -> tuple[int, int]:
    """From the forward pass to the end; waiting for the previous stage is not work."""
    begin = record.start_ns + record.gap_ns + record.recv_wait_ns
    return begin, max(begin, end_of(record))


def _union(pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(pieces):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    return joined

"""Records in, an immutable `Snapshot` of any moment out.

The fold reads no clock: the same envelopes with the same arrivals give the same snapshots, live or replayed. Records are placed
by their own times, which on one host are the times of one clock.
"""

from __future__ import annotations

from collections import defaultdict, deque
from math import prod
from typing import NamedTuple, Self

import msgspec

from telemetry.collective_fold import CollectiveFold, CollectiveTotals
from telemetry.engine_fold import EngineFold
from telemetry.expert_fold import ExpertFold
from telemetry.formulas import bubble_steady_decode
from telemetry.keyframe import DeploymentState, Keyframe, LateGroup
from telemetry.lateness import GroupLateness, Told
from telemetry.losses import Losses
from telemetry.rank_fold import RankFold
from telemetry.records import (
    SCHEMA_VERSION,
    CollectiveRecord,
    DeploymentRecord,
    DeviceRecord,
    EngineRecord,
    Envelope,
    EventRecord,
    ExpertRecord,
    RankMemory,
    RankRecord,
    Record,
    RequestRecord,
    StepRecord,
)
from telemetry.series import HISTORY, SECOND
from telemetry.snapshot import DeploymentView, RankView, Snapshot

MAX_EVENTS = 200
MAX_TEXT = 8192  # characters of an event: a traceback
MAX_DEPLOYMENTS = 64
MAX_RANKS = 4096
MAX_NAME = 256  # characters
FUTURE = SECOND  # a record from further ahead of its arrival tells of another clock

_COLLECTIVE_AXES = ("dp", "ep", "tp")  # on pp a rank waits for its previous stage, not for a group
_OVER = ("FAILED", "STOPPED")
_FAULTS = {"rank-died": "DEAD", "stalled": "STALLED"}  # by kind of event, what it makes of the rank


Place = tuple[str | int, ...]  # of a group: its axis, and the coordinates that its members share


class _Membership(NamedTuple):
    axis: str
    group: GroupLateness
    place: int  # of the rank in the group
    ranks: tuple[int, ...]  # the members


class DeploymentFold:
    """One deployment: its identity, its engines over all generations, its ranks in the present one."""

    def __init__(self, record: DeploymentRecord, window_s: float) -> None:
        self.engine = EngineFold()
        self._totals = CollectiveTotals()
        self._window_s = window_s
        self._generation = record.generation
        self._forget_ranks()
        self.announce(record)

    def _forget_ranks(self) -> None:
        self._ranks: dict[int, RankFold] = {}
        self._collectives = CollectiveFold(self._window_s)
        self._experts = ExpertFold(self._window_s)
        self._groups: dict[Place, GroupLateness] = {}
        self._memberships: dict[int, list[_Membership]] = {}  # by rank

    def announce(self, record: DeploymentRecord) -> None:
        """Take a new state, unless it is an older generation's."""
        if self._is_current(record.generation):
            self.record = record
            self._world = min(MAX_RANKS, prod(record.layout.values()))
            self._infos = {info.rank: info for info in record.ranks[:MAX_RANKS]}
            self._join_groups()
            self.engine.keep_replicas(min(MAX_RANKS, record.layout.get("dp", 1)))

    def _join_groups(self) -> None:
        """Who meets whom on which axis."""
        groups: defaultdict[Place, list[int]] = defaultdict(list)
        for rank in sorted(self._infos):
            for axis in _COLLECTIVE_AXES:
                groups[self._place(rank, axis)].append(rank)
        self._memberships = {rank: [] for rank in self._infos}
        known, self._groups = self._groups, {}
        for place, ranks in groups.items():
            if len(ranks) > 1:
                group = known.get(place)
                if group is None or group.size != len(ranks):
                    group = GroupLateness(len(ranks), self._window_s)
                self._groups[place] = group
                for at, rank in enumerate(ranks):
                    self._memberships[rank].append(_Membership(str(place[0]), group, at, tuple(ranks)))

    def _place(self, rank: int, axis: str) -> Place:
        """What a rank shares with those whom it meets on `axis`."""
        info = self._infos.get(rank)
        if info is None:
            return axis, "unknown", rank
        return axis, *(getattr(info, other) for other in ("dp", "pp", "ep", "tp") if other != axis)

    def add(self, record: Record) -> None:
        """Take a record. What an older generation's rank or engine still says is no longer true; a finished request stays so."""
        if isinstance(record, StepRecord):
            if self._is_current(record.generation):
                self._add_step(record)
        elif isinstance(record, RequestRecord):
            self.engine.add_request(record)
        elif not self._is_current(record.generation):
            return
        elif isinstance(record, EngineRecord):
            self.engine.add_engine(record)
        elif isinstance(record, EventRecord):
            if record.rank is not None and record.kind in _FAULTS and (rank := self._rank(record.rank)):
                rank.fault = _FAULTS[record.kind]
        elif isinstance(record, RankMemory):
            if (rank := self._rank(record.rank)) is not None:
                rank.memory = record
        elif isinstance(record, DeviceRecord):
            if (rank := self._rank(record.rank)) is not None:
                rank.add_device(record)
        elif isinstance(record, CollectiveRecord):
            if 0 <= record.rank < self._world:
                self._collectives.add(record)
                self._totals.add(record)
        elif isinstance(record, ExpertRecord):
            info = self._infos.get(record.rank)
            if (rank := self._rank(record.rank)) is not None:
                rank.add_experts(record)
            if info is not None and info.tp == 0:  # the others of its tp group counted the same tokens
                self._experts.add(record, info.ep)

    def _add_step(self, record: StepRecord) -> None:
        rank = self._rank(record.rank)
        if rank is None:
            return
        info = self._infos.get(record.rank)
        rank.add_step(record, self.engine.work(0 if info is None else info.dp))
        for axis, group, place, ranks in self._memberships.get(record.rank, ()):
            time = record.axes.get(axis)
            if time is not None:
                told = Told(record.start_ns, record.start_ns + record.wall_ns, time.wait_ns, time.transfer_ns)
                for moved in group.add(place, record.step, told):
                    if (member := self._rank(ranks[moved.place])) is not None:
                        member.recount(axis, moved)

    def view(self, losses: Losses, now_ns: int, window_ns: int) -> DeploymentView:
        """The deployment at `now_ns`."""
        record, engine = self.record, self.engine.view(now_ns, window_ns)
        return DeploymentView(
            name=record.deployment,
            state=record.state,
            generation=self._generation,
            model=record.model,
            layout=record.layout,
            device=record.device,
            dtype=record.dtype,
            emulated=record.emulated,
            phase=record.phase,
            progress=record.progress,
            reason=record.reason,
            loaded=record.loaded,
            to_load=record.to_load,
            phase_ns=record.phase_ns,
            engine=engine,
            ranks=self._rank_views(losses, now_ns, window_ns),
            collectives=self._collectives.views(self._place, now_ns, window_ns),
            collective_totals=self._totals.view(),
            experts=self._experts.view(now_ns, window_ns),
            ideal_bubble_pct=self._ideal_bubble(engine.micro_batches),
            no_demand_pct=self.engine.no_demand_pct(now_ns, window_ns),
        )

    def _ideal_bubble(self, micro_batches: float | None) -> float | None:
        stages = self.record.layout.get("pp", 1)
        if not 1 < stages <= MAX_RANKS or micro_batches is None:
            return None
        layers = 1 + max((info.last_layer for info in self._infos.values()), default=0)
        even = [max(1, layers // stages + (stage < layers % stages)) for stage in range(stages)]
        return 100 * bubble_steady_decode(stages, micro_batches, even)

    def state(self, now_ns: int, window_ns: int) -> DeploymentState:
        """All that views from `now` on can show of what came so far."""
        return DeploymentState(
            record=self.record,
            generation=self._generation,
            ranks={number: rank.state(now_ns, window_ns) for number, rank in self._ranks.items()},
            engine=self.engine.state(now_ns, window_ns),
            collectives=self._collectives.state(now_ns, window_ns),
            experts=self._experts.state(now_ns, window_ns),
            late=[LateGroup(list(place), group.state(now_ns, window_ns)) for place, group in self._groups.items()],
            totals=self._totals.state(),
        )

    @classmethod
    def restored(cls, state: DeploymentState, window_s: float) -> Self:
        """What `state` was taken of. Raises ValueError when it can be of no deployment."""
        fold = cls(state.record, window_s)
        fold._generation = state.generation
        fold.engine.restore(state.engine)
        fold._collectives.restore(state.collectives)
        fold._experts.restore(state.experts)
        fold._totals.restore(state.totals)
        for number, rank in state.ranks.items():
            if (restored := fold._rank(number)) is not None:
                restored.restore(rank)
        for late in state.late:
            if (group := fold._groups.get(tuple(late.place))) is not None:
                group.restore(late.state)
        return fold

    def _rank_views(self, losses: Losses, now_ns: int, window_ns: int) -> tuple[RankView, ...]:
        late: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for memberships in self._memberships.values():
            for axis, group, place, ranks in memberships:
                if place == 0:
                    late_ms = group.late_ms(now_ns, window_ns)
                    for member, ms in zip(ranks, late_ms, strict=False):
                        late[member][axis] = ms
        staged = self.record.layout.get("pp", 1) > 1
        return tuple(
            self._ranks.get(info.rank, RankFold(self._window_s)).view(
                info,
                self.record.state,
                self.engine.work(info.dp),
                losses.of(self.record.deployment, f"rank:{info.rank}"),
                late[info.rank],
                staged,
                now_ns,
                window_ns,
            )
            for info in self._infos.values()
        )

    def _is_current(self, generation: int) -> bool:
        if generation > self._generation:
            self._generation = generation
            self._forget_ranks()
        return generation == self._generation

    def _rank(self, rank: int) -> RankFold | None:
        if rank not in self._ranks and 0 <= rank < self._world:
            self._ranks[rank] = RankFold(self._window_s)
        return self._ranks.get(rank)


class Fold:
    """Every deployment of one daemon, or of one recording."""

    def __init__(self, window_s: float = 10.0) -> None:
        if not 0 < window_s <= HISTORY:
            raise ValueError(f"a window of {window_s} s: it is more than 0 and at most {HISTORY}")
        self.refused = 0  # messages that the hub could not read, records from the future
        self._window_s = window_s
        self._losses = Losses()
        self._deployments: dict[str, DeploymentFold] = {}
        self._events: deque[EventRecord] = deque(maxlen=MAX_EVENTS)

    def add(self, envelope: Envelope, arrived_ns: int) -> None:
        """Take one message. Records of a deployment that was never announced are ignored, but for its events."""
        self._losses.add(envelope)
        latest_ns = arrived_ns + FUTURE
        for record in envelope.records:
            if _time_ns(record) > latest_ns:
                self.refused += 1
                continue
            if isinstance(record, EventRecord):
                self._events.append(_cropped(record))
            name = envelope.deployment if isinstance(record, RankRecord) else record.deployment
            deployment = self._deployments.get(name)
            if isinstance(record, DeploymentRecord):
                if len(name) > MAX_NAME:
                    self.refused += 1
                elif deployment is None:
                    self._begin(record)
                else:
                    deployment.announce(record)
            elif deployment is not None:
                deployment.add(record)

    def snapshot(self, now_ns: int) -> Snapshot:
        """The state at `now_ns`, rates and shares over the window before it."""
        window_ns = round(self._window_s * SECOND)
        return Snapshot(
            time_ns=now_ns,
            window_s=self._window_s,
            deployments=tuple(d.view(self._losses, now_ns, window_ns) for d in self._deployments.values()),
            events=tuple(self._events),
            lost=self._losses.total,
            refused=self.refused,
        )

    def keyframe(self, now_ns: int) -> Keyframe:
        """The whole state, for a fold that goes on from here: `restored` of it and this one then show the same forever."""
        window_ns = round(self._window_s * SECOND)
        ended, senders = self._losses.state()
        deployments = [deployment.state(now_ns, window_ns) for deployment in self._deployments.values()]
        return Keyframe(SCHEMA_VERSION, now_ns, self._window_s, self.refused, ended, senders, deployments, list(self._events))

    @classmethod
    def restored(cls, keyframe: Keyframe) -> Self:
        """The fold that `keyframe` was taken of. Raises ValueError when it can be of none."""
        fold = cls(keyframe.window_s)
        fold.refused = keyframe.refused
        fold._losses.restore(keyframe.ended, keyframe.senders)
        fold._events.extend(keyframe.events)
        for state in keyframe.deployments[:MAX_DEPLOYMENTS]:
            fold._deployments[state.record.deployment] = DeploymentFold.restored(state, keyframe.window_s)
        return fold

    def _begin(self, record: DeploymentRecord) -> None:
        if len(self._deployments) >= MAX_DEPLOYMENTS:
            oldest = min(
                (d.record for d in self._deployments.values()), key=lambda r: (r.state not in _OVER, r.time_ns)
            ).deployment
            del self._deployments[oldest]
            self._losses.forget(oldest)
        self._deployments[record.deployment] = DeploymentFold(record, self._window_s)


def _cropped(event: EventRecord) -> EventRecord:
    return msgspec.structs.replace(
        event,
        deployment=event.deployment[:MAX_NAME],
        severity=event.severity[:MAX_NAME],
        kind=event.kind[:MAX_NAME],
        text=event.text[:MAX_TEXT],
    )


def _time_ns(record: Record) -> int:
    if isinstance(record, StepRecord):
        return record.start_ns + record.wall_ns
    if isinstance(record, RequestRecord):
        return record.finished_ns
    if isinstance(record, CollectiveRecord | ExpertRecord):
        return record.end_ns
    return record.time_ns

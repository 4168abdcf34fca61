"""The fold of one deployment: its identity, its engines over all generations, its ranks in the present one."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import NamedTuple, Self

from telemetry.collective_fold import CollectiveFold, CollectiveTotals
from telemetry.engine_fold import EngineFold
from telemetry.expert_fold import ExpertFold
from telemetry.formulas import bubble_steady_decode
from telemetry.keyframe import DeploymentState, LateGroup
from telemetry.lateness import GroupLateness, Told
from telemetry.losses import Losses
from telemetry.rank_fold import RankFold
from telemetry.records import (
    CollectiveRecord,
    DeploymentRecord,
    DeviceRecord,
    EngineRecord,
    EventRecord,
    ExpertRecord,
    RankMemory,
    Record,
    RequestRecord,
    StepRecord,
)
from telemetry.snapshot import DeploymentView, RankView

MAX_RANKS = 4096

_COLLECTIVE_AXES = ("dp", "ep", "tp")  # on pp a rank waits for its previous stage, not for a group
_OF_RANKS = {  # by kind of event, what it makes of the rank
    "rank-died": RankFold.die,
    "stalled": RankFold.stall,
    "suspended": RankFold.suspend,
    "resumed": RankFold.resume,
}

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
        self._places: dict[tuple[int, str], Place] = {}
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
        place = self._places.get((rank, axis))
        if place is None:
            info = self._infos.get(rank)
            if info is None:
                return axis, "unknown", rank
            place = axis, *(getattr(info, other) for other in ("dp", "pp", "ep", "tp") if other != axis)
            if axis in _COLLECTIVE_AXES:
                self._places[rank, axis] = place
        return place

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
            if record.rank is not None and record.kind in _OF_RANKS and (rank := self._rank(record.rank)):
                _OF_RANKS[record.kind](rank, record.time_ns)
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
            peaks=record.peaks,
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
            (self._ranks.get(info.rank) or RankFold(self._window_s)).view(
                info,
                self.record.state,
                self.engine.work(info.dp),
                losses.of(self.record.deployment, f"rank:{info.rank}"),
                late[info.rank],
                staged,
                self.record.peaks,
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

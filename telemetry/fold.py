"""Records in, an immutable `Snapshot` of any moment out.

The fold reads no clock: the same envelopes with the same arrivals give the same snapshots, live or replayed. Records are placed
by their own times, which on one host are the times of one clock.
"""

from __future__ import annotations

from collections import deque
from math import prod
from typing import Self

import msgspec

from telemetry.engine_fold import EngineFold
from telemetry.keyframe import DeploymentState, Keyframe
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
MAX_RANKS = 65_536
FUTURE = SECOND  # a record from further ahead of its arrival tells of another clock

_OVER = ("FAILED", "STOPPED")
_FAULTS = {"rank-died": "DEAD", "stalled": "STALLED"}  # by kind of event, what it makes of the rank


class DeploymentFold:
    """One deployment: its identity, its engines over all generations, its ranks in the present one."""

    def __init__(self, record: DeploymentRecord) -> None:
        self.engine = EngineFold()
        self._generation = record.generation
        self._ranks: dict[int, RankFold] = {}
        self.announce(record)

    def announce(self, record: DeploymentRecord) -> None:
        """Take a new state, unless it is an older generation's."""
        if self._is_current(record.generation):
            self.record = record
            self._world = min(MAX_RANKS, prod(record.layout.values()))
            self._replicas = {info.rank: info.dp for info in record.ranks}
            self.engine.keep_replicas(record.layout.get("dp", 1))

    def add(self, record: Record) -> None:
        """Take a record. What an older generation's rank or engine still says is no longer true; a finished request stays so."""
        if isinstance(record, RequestRecord):
            self.engine.add_request(record)
        elif not self._is_current(record.generation):
            return
        elif isinstance(record, EngineRecord):
            self.engine.add_engine(record)
        elif isinstance(record, EventRecord):
            if record.rank is not None and record.kind in _FAULTS and (rank := self._rank(record.rank)):
                rank.fault = _FAULTS[record.kind]
        elif isinstance(record, StepRecord | RankMemory | DeviceRecord) and (rank := self._rank(record.rank)):
            if isinstance(record, StepRecord):
                rank.add_step(record, self.engine.work(self._replicas.get(record.rank, 0)))
            elif isinstance(record, RankMemory):
                rank.memory = record
            else:
                rank.device = record

    def view(self, losses: Losses, now_ns: int, window_ns: int) -> DeploymentView:
        """The deployment at `now_ns`."""
        record = self.record
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
            engine=self.engine.view(now_ns, window_ns),
            ranks=self._rank_views(losses, now_ns, window_ns),
        )

    def state(self, now_ns: int, window_ns: int) -> DeploymentState:
        """All that views from `now` on can show of what came so far."""
        ranks = {number: rank.state(now_ns, window_ns) for number, rank in self._ranks.items()}
        return DeploymentState(self.record, self._generation, ranks, self.engine.state(now_ns, window_ns))

    @classmethod
    def restored(cls, state: DeploymentState) -> Self:
        """What `state` was taken of. Raises ValueError when it can be of no deployment."""
        fold = cls(state.record)
        fold._generation = state.generation
        fold.engine.restore(state.engine)
        for number, rank in state.ranks.items():
            if (restored := fold._rank(number)) is not None:
                restored.restore(rank)
        return fold

    def _rank_views(self, losses: Losses, now_ns: int, window_ns: int) -> tuple[RankView, ...]:
        return tuple(
            self._ranks.get(info.rank, RankFold()).view(
                info,
                self.record.state,
                self.engine.work(info.dp),
                losses.of(self.record.deployment, f"rank:{info.rank}"),
                now_ns,
                window_ns,
            )
            for info in self.record.ranks
        )

    def _is_current(self, generation: int) -> bool:
        if generation > self._generation:
            self._generation = generation
            self._ranks.clear()
        return generation == self._generation

    def _rank(self, rank: int) -> RankFold | None:
        if rank not in self._ranks and 0 <= rank < self._world:
            self._ranks[rank] = RankFold()
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
        for record in envelope.records:
            if _time_ns(record) > arrived_ns + FUTURE:
                self.refused += 1
                continue
            if isinstance(record, EventRecord):
                self._events.append(msgspec.structs.replace(record, text=record.text[:MAX_TEXT]))
            name = envelope.deployment if isinstance(record, RankRecord) else record.deployment
            deployment = self._deployments.get(name)
            if isinstance(record, DeploymentRecord):
                if deployment is None:
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
            fold._deployments[state.record.deployment] = DeploymentFold.restored(state)
        return fold

    def _begin(self, record: DeploymentRecord) -> None:
        if len(self._deployments) >= MAX_DEPLOYMENTS:
            oldest = min(
                (d.record for d in self._deployments.values()), key=lambda r: (r.state not in _OVER, r.time_ns)
            ).deployment
            del self._deployments[oldest]
            self._losses.forget(oldest)
        self._deployments[record.deployment] = DeploymentFold(record)


def _time_ns(record: Record) -> int:
    if isinstance(record, StepRecord):
        return record.start_ns + record.wall_ns
    if isinstance(record, RequestRecord):
        return record.finished_ns
    if isinstance(record, CollectiveRecord | ExpertRecord):
        return record.end_ns
    return record.time_ns

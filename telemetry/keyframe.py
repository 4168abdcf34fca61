"""The whole state of a fold as a message: with it a recording can be entered anywhere, and a seek is a keyframe and the rest."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from telemetry.collective_fold import CollectiveState, TotalState
from telemetry.engine_fold import EngineState
from telemetry.expert_fold import ExpertState
from telemetry.lateness import GroupState
from telemetry.losses import SenderState
from telemetry.rank_fold import RankState
from telemetry.records import DeploymentRecord, EventRecord


class LateGroup(Struct, frozen=True, array_like=True):
    """The members of one group on an axis: its axis and the coordinates that they share, their lateness."""

    place: list[str | int]
    state: GroupState


class DeploymentState(Struct, frozen=True, array_like=True):
    """One deployment: what it is, its ranks in the present generation, its engines."""

    record: DeploymentRecord
    generation: int
    ranks: dict[int, RankState]
    engine: EngineState
    collectives: CollectiveState = CollectiveState()
    experts: ExpertState = ExpertState()
    late: list[LateGroup] = []
    totals: list[TotalState] = []


class Keyframe(Struct, frozen=True, array_like=True):
    """What `Fold.keyframe` gives at `time_ns` (CLOCK_MONOTONIC), and `Fold.restored` takes."""

    version: int
    time_ns: int
    window_s: float
    refused: int
    ended: int  # messages lost in lives of senders that are over
    senders: list[SenderState]
    deployments: list[DeploymentState]
    events: list[EventRecord]

    def only(self, deployment: str) -> Keyframe:
        """The part that one deployment has in it."""
        return msgspec.structs.replace(
            self,
            refused=0,
            ended=0,
            senders=[sender for sender in self.senders if sender.deployment == deployment],
            deployments=[state for state in self.deployments if state.record.deployment == deployment],
            events=[event for event in self.events if event.deployment == deployment],
        )

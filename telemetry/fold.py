"""Records in, an immutable `Snapshot` of any moment out.

The fold reads no clock: the same envelopes with the same arrivals give the same snapshots, live or replayed. Records are placed
by their own times, which on one host are the times of one clock.
"""

from __future__ import annotations

from collections import deque
from typing import Self

import msgspec

from telemetry.deployment_fold import DeploymentFold
from telemetry.keyframe import Keyframe
from telemetry.losses import Losses
from telemetry.records import (
    SCHEMA_VERSION,
    CollectiveRecord,
    DeploymentRecord,
    Envelope,
    EventRecord,
    ExpertRecord,
    RankRecord,
    Record,
    RequestRecord,
    StepRecord,
)
from telemetry.series import HISTORY, SECOND
from telemetry.snapshot import Snapshot

MAX_EVENTS = 200
MAX_TEXT = 8192  # characters of an event: a traceback
MAX_DEPLOYMENTS = 64
MAX_NAME = 256  # characters
FUTURE = SECOND  # a record from further ahead of its arrival tells of another clock

_OVER = ("FAILED", "STOPPED")


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

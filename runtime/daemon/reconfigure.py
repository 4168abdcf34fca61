"""A change of a live deployment: to what, how far it is, how long each phase took, how it ended.

Plain data and a stopwatch: the supervisor acts. A change goes forward to the new spec; its first failure turns it back to the old
one, and what fails then is an ordinary failure of the deployment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from runtime.checkpoint.config import ModelShape
from runtime.control import ROLLING_BACK, Changed, Outcome, PhaseTime
from runtime.daemon.launcher import RankGroup
from runtime.daemon.settle import LaunchRefused, Machine, Placement, settle
from runtime.daemon.state import DRAIN, LOAD, REPLAY, STOP, WARM_UP
from runtime.rank.board import Phase
from runtime.spec import DeploymentSpec

# whose deployment it is, and what its engine, which outlives its ranks, was born with
FIXED = ("model", "name", "telemetry")


class Settled(NamedTuple):
    spec: DeploymentSpec
    placement: Placement


class Change:
    """`target`: what the next generation is to be. `over`: how it ended; None: it has not."""

    def __init__(self, old: Settled, new: Settled, tell: Callable[[str], None]) -> None:
        """`tell` hears of the end of each phase."""
        self.target = old
        self.back = False
        self.cause = ""
        self.over: Changed | None = None
        self._old, self._new, self._tell = old, new, tell
        before, after = old.spec.model_dump(mode="json"), new.spec.model_dump(mode="json")
        self.fields = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
        self._phases: list[PhaseTime] = []
        self._phase = DRAIN
        self._since = time.perf_counter_ns()

    def __str__(self) -> str:
        """`tp 2 -> 1, pp 1 -> 2`."""
        return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in self.fields.items())

    @property
    def reason(self) -> str:
        """What the deployment is at, for its record."""
        return f"{ROLLING_BACK} to {self._old.spec.layout}: {self.cause}" if self.back else str(self)

    def turn(self, cause: str) -> bool:
        """The present generation is over, because of `cause`; empty: as planned. False: that was the way back."""
        if self.back:
            self.cause += f"; then the way back to {self._old.spec.layout} failed: {cause}"
            return False
        if cause:
            self._enter("", time.perf_counter_ns())
            self.back, self.cause = True, cause
        self.target = self._old if self.back else self._new
        self.stops()
        return True

    def stops(self) -> None:
        """Ranks are being ended."""
        self._enter(STOP, time.perf_counter_ns())

    def loads(self) -> None:
        """The next ranks are being born."""
        self._enter(LOAD, time.perf_counter_ns())

    def looks(self, group: RankGroup) -> None:
        """Nobody tells when the last rank has loaded, but the ranks wrote it down."""
        if group.phase >= Phase.WARMING:
            self._enter(WARM_UP, max(status.loaded_ns for status in group.board.ranks))

    def replays(self) -> None:
        self._enter(REPLAY, time.perf_counter_ns())

    def end(self, outcome: Outcome | None = None, cause: str = "") -> Changed:
        """It is over, without an `outcome` as it was meant to be. `cause`: if it is none of a generation's."""
        self._enter("", time.perf_counter_ns())
        self.over = Changed(
            name=self._old.spec.name,
            outcome=outcome or (Outcome.ROLLED_BACK if self.back else Outcome.CHANGED),
            layout=self.target.spec.layout.asdict(),
            fields=self.fields,
            phases=self._phases,
            seconds=sum(each.seconds for each in self._phases),
            reason=cause or self.cause,
        )
        return self.over

    def _enter(self, phase: str, at: int) -> None:
        """The end of one phase is the beginning of the next."""
        if phase == self._phase:
            return
        if self._phase:
            ended = PhaseTime(self._phase, (at - self._since) / 1e9, self.back)
            self._phases.append(ended)
            self._tell(str(ended))
        self._phase, self._since = phase, at


def settled(old: DeploymentSpec, fields: Mapping[str, Any], shape: ModelShape, reach: int) -> Settled:
    """`old` with other `fields`. Raises ValueError (ValidationError and LaunchRefused among it) for what cannot be.

    `reach`: the tokens to which the longest open request may grow; a context that would cut it short is refused.
    """
    fixed = [name for name in fields if name in FIXED]
    if fixed:
        raise ValueError(f"{', '.join(fixed)} cannot change while it serves: stop it and deploy it anew")
    spec = DeploymentSpec.model_validate({**old.model_dump(), **fields})
    placement = settle(spec, shape, Machine.here())
    if reach > placement.max_model_len:
        raise LaunchRefused(
            f"max_model_len {placement.max_model_len}: an open request may come to {reach} tokens; let it end first"
        )
    return Settled(spec, placement)

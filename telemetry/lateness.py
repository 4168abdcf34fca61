"""Who is late: the members of one group, joined step by step.

All members of a group make the same collectives in the same step and leave each together. Who waited least in a step therefore
came last in it, and what the others waited more is what it cost them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from telemetry.formulas import split_collective
from telemetry.series import Seconds, SecondsState

MAX_PENDING = 32  # steps that not all members have told of; beyond, the oldest is given up


class Told(NamedTuple):
    """One member's collectives of one step, and the stretch of time that the step took."""

    start_ns: int
    end_ns: int
    wait_ns: int
    transfer_ns: int


class Moved(NamedTuple):
    """Time of one member that was counted as transfer and was wait."""

    place: int
    told: Told
    ns: int


class GroupState(Struct, frozen=True, array_like=True):
    """All that a `GroupLateness` can still show."""

    late: SecondsState
    pending: dict[int, dict[int, Told]] = {}


class GroupLateness:
    """The members of one group on one axis, by their place on it.

    A step's lateness belongs to the member that waited least: the mean of the others' waits less its own; 0 to the others.
    """

    def __init__(self, size: int, window_s: float) -> None:
        self.size = size
        self._pending: dict[int, dict[int, Told]] = {}  # by step, by place
        self._late = Seconds(shown=None, kept_s=window_s)  # columns: steps, then ns of lateness by place

    def add(self, place: int, step: int, told: Told) -> Sequence[Moved]:
        """Take a member's step. When all have told of it, and none of them could tell wait from transfer: what to count anew."""
        members = self._pending.get(step)
        if members is None:
            if len(self._pending) >= MAX_PENDING:
                del self._pending[next(iter(self._pending))]
            members = self._pending[step] = {}
        members[place] = told
        if len(members) < self.size:
            return ()
        del self._pending[step]
        waits: Sequence[float] = [members[at].wait_ns for at in range(self.size)]
        known = any(waits)
        if not known:
            _, waits = split_collective([members[at].transfer_ns for at in range(self.size)])
        least = min(waits)
        amounts = [1] + [0] * self.size
        amounts[1 + waits.index(least)] = round((sum(waits) - least) / (self.size - 1) - least)
        self._late.spread(told.end_ns, told.end_ns, amounts)
        return () if known else [Moved(at, members[at], round(ns)) for at, ns in enumerate(waits) if ns]

    def late_ms(self, now_ns: int, window_ns: int) -> tuple[float, ...]:
        """By place, mean over the window's joined steps; nothing before one was joined."""
        total = self._late.total(now_ns, window_ns)
        if not total or total[0] <= 0:
            return ()
        return tuple(ns / total[0] / 1e6 for ns in total[1:])

    def state(self, now_ns: int, window_ns: int) -> GroupState:
        """All that views from `now` on can show of what came so far."""
        return GroupState(self._late.state(now_ns, window_ns), {step: dict(told) for step, told in self._pending.items()})

    def restore(self, state: GroupState) -> None:
        """Become what `state` was taken of. Raises ValueError when it can be of no group of this size."""
        if any(not 0 <= place < self.size for told in state.pending.values() for place in told) or any(
            len(row) > 1 + self.size for row in state.late.rows.values()
        ):
            raise ValueError("a member that the group does not have")
        self._late.restore(state.late)
        self._pending = {step: dict(told) for step, told in state.pending.items()}

"""Which member of the ep axis should own which experts: a greedy assignment, and what either placement costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

_STAYS = 0.2  # of an expert's tokens, that a busiest member may do more so that the expert need not move


@dataclass(frozen=True)
class Move:
    expert: int
    source: int
    target: int


@dataclass(frozen=True)
class Placement:
    """`owners[e]`: place on the ep axis of expert e. `before`, `after`: see `imbalance`."""

    owners: tuple[int, ...]
    moves: tuple[Move, ...]
    before: float
    after: float


def member_loads(tokens: Sequence[Sequence[float]], owners: Sequence[int], members: int) -> list[list[float]]:
    """Tokens by layer and member; `tokens[i][e]` are those of expert e in the i-th layer."""
    owned = [[expert for expert, owner in enumerate(owners) if owner == member] for member in range(members)]
    return [[sum(map(row.__getitem__, experts)) for experts in owned] for row in tokens]


def imbalance(tokens: Sequence[Sequence[float]], owners: Sequence[int], members: int) -> float | None:
    """The busiest member's tokens over the mean, summed over layers before dividing, because each layer waits for its own
    busiest member: 1 is even, `members` is all on one. `None` without a token."""
    loads = member_loads(tokens, owners, members)
    total = sum(map(sum, loads))
    return sum(map(max, loads)) * members / total if total > 0 else None


def rebalanced(tokens: Sequence[Sequence[float]], owners: Sequence[int], members: int) -> Placement | None:
    """Experts from the busiest on, each to the member where the layers' busiest members grow least, or where it is now if that
    costs little; every member owns as many as now, so that their memory stays as it is. `None` where nothing can be better: one
    member, no token, or a greedy placement that is no better than this one.
    """
    before = imbalance(tokens, owners, members)
    if members < 2 or before is None:
        return None
    room = [sum(1 for owner in owners if owner == member) for member in range(members)]
    columns = list(zip(*tokens, strict=True))
    loads = [[0.0] * len(tokens) for _ in range(members)]
    peaks = [0.0] * len(tokens)
    found = [0] * len(owners)
    for expert in sorted(range(len(owners)), key=lambda e: (-sum(columns[e]), e)):
        column = columns[expert]
        grown = {member: _growth(loads[member], column, peaks) for member in range(members) if room[member]}
        best = min(grown, key=lambda member: (grown[member], sum(loads[member]), member))
        own = owners[expert]
        if grown.get(own, inf) <= grown[best] + _STAYS * sum(column):
            best = own
        room[best] -= 1
        found[expert] = best
        loads[best] = [held + more for held, more in zip(loads[best], column, strict=True)]
        peaks = [max(peak, held) for peak, held in zip(peaks, loads[best], strict=True)]
    after = imbalance(tokens, found, members)
    if after is None or after >= before:
        return None
    moves = [Move(e, old, new) for e, (old, new) in enumerate(zip(owners, found, strict=True)) if old != new]
    moves.sort(key=lambda move: (-sum(columns[move.expert]), move.expert))
    return Placement(tuple(found), tuple(moves), before, after)


def _growth(loads: Sequence[float], more: Sequence[float], peaks: Sequence[float]) -> float:
    """By how much the layers' busiest members grow when a member takes `more`."""
    return sum(max(0.0, held + added - peak) for held, added, peak in zip(loads, more, peaks, strict=True))

"""Which member of the ep axis should own which experts: a greedy assignment, and what either placement costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


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
    found = []
    for row in tokens:
        loads = [0.0] * members
        for expert, load in enumerate(row):
            loads[owners[expert]] += load
        found.append(loads)
    return found


def imbalance(tokens: Sequence[Sequence[float]], owners: Sequence[int], members: int) -> float | None:
    """The busiest member's tokens over the mean, summed over layers before dividing, because each layer waits for its own
    busiest member: 1 is even, `members` is all on one. `None` without a token."""
    loads = member_loads(tokens, owners, members)
    total = sum(map(sum, loads))
    return sum(map(max, loads)) * members / total if total > 0 else None


def rebalanced(tokens: Sequence[Sequence[float]], owners: Sequence[int], members: int) -> Placement | None:
    """Experts from the busiest on, each to the member where the layers' busiest members grow least; every member owns as many
    as now, so that their memory stays as it is. Members keep the new sets that are most like their old ones. `None` where
    nothing can be better: one member, no token, or a greedy placement that is no better than this one.
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

        free = [member for member in range(members) if room[member]]
        best = min(free, key=lambda m: (_growth(loads[m], column, peaks), sum(loads[m]), m != owners[expert], m))
        room[best] -= 1
        found[expert] = best
        loads[best] = [held + more for held, more in zip(loads[best], column, strict=True)]
        peaks = [max(peak, held) for peak, held in zip(peaks, loads[best], strict=True)]
    named = _named_as_before(found, owners, members)
    after = imbalance(tokens, named, members)
    if after is None or after >= before:
        return None
    moves = [Move(e, old, new) for e, (old, new) in enumerate(zip(owners, named, strict=True)) if old != new]
    moves.sort(key=lambda move: (-sum(columns[move.expert]), move.expert))
    return Placement(tuple(named), tuple(moves), before, after)


def mean_excess(tokens: Sequence[Sequence[float]]) -> float:
    """The busiest expert over the mean of its layer, mean over the layers with tokens; 0 without any."""
    ratios = [max(row) * len(row) / sum(row) for row in tokens if sum(row) > 0]
    return fmean(ratios) if ratios else 0.0


def _growth(loads: Sequence[float], more: Sequence[float], peaks: Sequence[float]) -> float:
    """By how much the layers' busiest members grow when a member takes `more`."""
    return sum(max(0.0, held + added - peak) for held, added, peak in zip(loads, more, peaks, strict=True))


def _named_as_before(found: list[int], owners: Sequence[int], members: int) -> list[int]:
    """Sets of equal size may swap names: each goes to the member that already holds most of it."""
    sizes = [sum(1 for owner in owners if owner == member) for member in range(members)]
    common = {(new, old): 0 for new in range(members) for old in range(members)}
    for new, old in zip(found, owners, strict=True):
        common[new, old] += 1
    name: dict[int, int] = {}
    for (new, old), _ in sorted(common.items(), key=lambda item: (-item[1], item[0])):
        if new not in name and old not in name.values() and sizes[new] == sizes[old]:
            name[new] = old
    return [name[new] for new in found]

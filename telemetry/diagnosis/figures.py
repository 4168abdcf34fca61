"""Figures that several rules read off a snapshot; `None` or nothing where they cannot be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from statistics import fmean, median
from typing import Any, NamedTuple

from telemetry.diagnosis.thresholds import TOKENS_TO_JUDGE
from telemetry.formulas import balancedness, bubble_steady_decode
from telemetry.snapshot import DeploymentView, RankView


def degree(deployment: DeploymentView, axis: str) -> int:
    """Of the layout; 1 of an axis that it does not have."""
    return max(1, deployment.layout.get(axis, 1))


def grouped(ranks: Iterable[RankView], *axes: str) -> list[list[RankView]]:
    """The ranks by their place on `axes`, in order."""
    groups: defaultdict[Any, list[RankView]] = defaultdict(list)
    place = attrgetter(*axes)
    for rank in ranks:
        groups[place(rank.info)].append(rank)
    return [groups[place] for place in sorted(groups)]


def joined_groups(deployment: DeploymentView) -> Iterator[tuple[str, list[RankView]]]:
    """(axis, members) of every group whose members' steps were joined."""
    for axis in ("tp", "ep", "dp"):
        if not any(axis in rank.axes for rank in deployment.ranks):
            continue
        others = [name for name in ("dp", "pp", "ep", "tp") if name != axis]
        for group in grouped(deployment.ranks, *others):
            if len(group) > 1 and all(axis in rank.axes and rank.axes[axis].late_ms is not None for rank in group):
                yield axis, group


def wall_ms(rank: RankView) -> float | None:
    """Mean wall time of a step: the sum of its parts."""
    parts = (rank.compute_ms, rank.recv_wait_ms, rank.gap_ms)
    if any(part is None for part in parts):
        return None
    wall = sum(part or 0.0 for part in parts) + sum(axis.wait_ms + axis.transfer_ms for axis in rank.axes.values())
    return wall if wall > 0 else None


def mean_split(deployment: DeploymentView, part: str) -> float | None:
    """Percent of the time with work, mean over the ranks that had some."""
    shares = [getattr(rank.split, part) for rank in deployment.ranks if rank.split is not None]
    return fmean(shares) if shares else None


def mean_bubble(deployment: DeploymentView) -> float | None:
    """Percent of the time with work, mean over ranks, so that it compares with theory's mean over stages."""
    shares = [rank.bubble_pct for rank in deployment.ranks if rank.bubble_pct is not None]
    return fmean(shares) if shares else None


def slower_than(rank: RankView, peers: Iterable[RankView]) -> float | None:
    """How many times as long a rank computes as others with the same work."""
    times = [peer.compute_ms for peer in peers if peer.compute_ms]
    return rank.compute_ms / median(times) if rank.compute_ms and times else None


def stage_peers(deployment: DeploymentView, rank: RankView) -> list[RankView]:
    """Who has the same work: the other ranks of its stage, in all replicas."""
    return [peer for peer in deployment.ranks if peer is not rank and peer.info.pp == rank.info.pp]


MAX_MEMBERS = 4096  # of an ep axis that somebody claims


class SlowStage(NamedTuple):
    """The slowest stage of a replica, judged by its fastest rank, so that one slow rank makes no slow stage."""

    ratio: float  # to the mean of the others
    share_pct: float  # that the mean stage idles for it, by theory, with the micro-batches in flight
    ranks: Sequence[RankView]
    others: Sequence[RankView]


def slowest_stage(deployment: DeploymentView) -> SlowStage | None:
    """Of the replica whose stages are least even."""
    found: list[SlowStage] = []
    for replica in grouped(deployment.ranks, "dp"):
        stages = grouped(replica, "pp")
        times = [min((rank.compute_ms for rank in stage if rank.compute_ms), default=0.0) for stage in stages]
        if len(times) < 2 or not all(times):
            continue
        slow, flying = max(range(len(times)), key=times.__getitem__), deployment.engine.micro_batches or len(times)
        share = bubble_steady_decode(len(times), flying, times) - bubble_steady_decode(len(times), flying)
        ratio = times[slow] / fmean(time for i, time in enumerate(times) if i != slow)
        others = [rank for i, stage in enumerate(stages) if i != slow for rank in stage]
        found.append(SlowStage(ratio, 100 * max(0.0, share), stages[slow], others))
    return max(found, key=lambda stage: stage.ratio, default=None)


def layers_of(rank: RankView) -> int:
    return rank.info.last_layer - rank.info.first_layer + 1


def spare_bytes(rank: RankView) -> int:
    """Memory that the rank might still take; 0 where it is not known."""
    memory = rank.memory
    if memory.free is not None:
        return memory.free
    return memory.total - memory.used if memory.total is not None and memory.used is not None else 0


class ExpertBalance(NamedTuple):
    """`balance`: mean over max of the ep members' tokens, 1 is perfect, mean over layers. The rest is of the hottest expert."""

    balance: float
    owner: int
    layer: int
    expert: int
    share: float  # of its layer's tokens


def expert_balance(deployment: DeploymentView) -> ExpertBalance | None:
    """`None` without an ep axis, and where so few tokens came that chance decides."""
    experts, members = deployment.experts, min(MAX_MEMBERS, degree(deployment, "ep"))
    if experts is None or members < 2:
        return None
    balances: list[float] = []
    totals = [0] * members
    hottest: tuple[float, int, int] = (0.0, 0, 0)
    for layer, tokens in zip(experts.layers, experts.tokens, strict=True):
        total = sum(tokens)
        if total < TOKENS_TO_JUDGE * members:
            continue
        loads = [0] * members
        for expert, (owner, count) in enumerate(zip(experts.owners, tokens, strict=False)):
            if 0 <= owner < members:
                loads[owner] += count
            hottest = max(hottest, (count / total, layer, expert))
        balances.append(balancedness(loads) or 0.0)
        totals = [done + load for done, load in zip(totals, loads, strict=True)]
    if not balances:
        return None
    share, layer, expert = hottest
    return ExpertBalance(fmean(balances), totals.index(max(totals)), layer, expert, share)

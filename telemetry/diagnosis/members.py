"""Rules for the members of a group: who is waited for, who has more to do, how much they only move bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from telemetry.diagnosis.figures import degree, expert_balance, joined_groups, mean_split, slower_than, spare_bytes, wall_ms
from telemetry.diagnosis.finding import Finding, Rule, ms, percent
from telemetry.diagnosis.thresholds import BALANCE, LEAD, TRANSFER, UNEVEN, WORTH_SAYING
from telemetry.snapshot import DeploymentView, RankView


class _Late(NamedTuple):
    share_pct: float  # of the others' step
    axis: str
    rank: RankView
    others: Sequence[RankView]


def straggler(deployment: DeploymentView) -> Iterator[Finding]:
    """One rank for which the others of its group wait, step after step."""
    late = _late_ranks(deployment)
    # who is late on one axis because it waits on another is not the one to look at
    waiting = {(peer.info.rank, one.axis) for one in late for peer in one.others}
    roots = [one for one in late if not any(number == one.rank.info.rank and axis != one.axis for number, axis in waiting)]
    if not late:
        return
    share, axis, rank, peers = max(roots or late, key=lambda one: one.share_pct)
    early, number = max(peers, key=lambda peer: peer.axes[axis].wait_ms), rank.info.rank
    most, least = early.axes[axis].wait_ms, rank.axes[axis].wait_ms
    evidence = f"rank {early.info.rank} waits {ms(most)} ms a step, rank {number} {ms(least)} ms"
    ratio = slower_than(rank, peers)
    slower = ratio is not None and ratio > UNEVEN
    yield Finding(
        kind="straggler",
        severity="warning",
        headline=f"wait {percent(share)} of a step for rank {number}",
        evidence=f"it computes {ratio:.1f}x its peers; {evidence}" if slower else evidence,
        advice="look at its device and what else runs there" if slower else "look at what holds it up on its host",
        ranks=(number,),
        share_pct=share,
    )


def _late_ranks(deployment: DeploymentView) -> list[_Late]:
    """Of every group the rank that leads in lateness, where that is worth saying."""
    balance = expert_balance(deployment)
    hot = balance.owner if balance is not None and balance.balance < BALANCE else None
    found = []
    for axis, group in joined_groups(deployment):
        ordered = sorted(group, key=lambda rank: rank.axes[axis].late_ms or 0.0, reverse=True)
        rank, *others = ordered
        most, second = (one.axes[axis].late_ms or 0.0 for one in ordered[:2])
        if most <= LEAD * second or (axis == "ep" and rank.info.ep == hot):
            continue
        if walls := [wall for peer in others if (wall := wall_ms(peer))]:
            found.append(_Late(100 * most / fmean(walls), axis, rank, others))
    return [one for one in found if one.share_pct >= WORTH_SAYING]


def unsteady(deployment: DeploymentView) -> Iterator[Finding]:
    """Members that wait for each other in turns: none of them is to blame."""
    share = mean_split(deployment, "wait")
    if share is None or share < WORTH_SAYING or any(straggler(deployment)) or any(expert_imbalance(deployment)):
        return
    limits = [rank.device.cpu_limit for rank in deployment.ranks if rank.device and rank.device.cpu_limit]
    ranks = len(deployment.ranks)
    crowded = deployment.device == "cpu" and bool(limits) and ranks > min(limits)
    yield Finding(
        kind="unsteady",
        severity="warning",
        headline=f"ranks wait {percent(share)} of the time for each other",
        evidence=f"{ranks} ranks share {min(limits):g} cores" if crowded else "now one comes last, now another",
        advice="fewer ranks, or more cores" if crowded else "keep other programs off the ranks' cores",
        share_pct=share,
    )


def communication(deployment: DeploymentView) -> Iterator[Finding]:
    """Much of every rank's time moves bytes."""
    share = mean_split(deployment, "transfer")
    moved: defaultdict[str, float] = defaultdict(float)
    for rank in deployment.ranks:
        for axis, view in rank.axes.items():
            moved[axis] += view.transfer_ms
    if share is None or share < TRANSFER or not moved:
        return
    axis = max(moved, key=moved.__getitem__)
    calls = fmean(rank.axes[axis].calls for rank in deployment.ranks if axis in rank.axes)
    size, pp, dp = (degree(deployment, name) for name in (axis, "pp", "dp"))
    advice, remedy = "larger batches, or a faster link", {}
    if axis == "tp" and size % 2 == 0:
        twice = all(spare_bytes(rank) > (rank.memory.weights or 0) > 0 for rank in deployment.ranks)
        remedy = {"tp": size // 2, "dp": 2 * dp} if twice else {"tp": size // 2, "pp": 2 * pp}
        advice = " ".join(f"{name} {count}" for name, count in remedy.items()) + " moves fewer bytes"
    yield Finding(
        kind="communication",
        severity="warning",
        headline=f"{percent(share)} of the time only moves bytes, most of it on {axis} {size}",
        evidence=f"{calls:.0f} calls a step on {axis}",
        advice=advice,
        share_pct=share,
        remedy=remedy,
    )


def expert_imbalance(deployment: DeploymentView) -> Iterator[Finding]:
    """A member of the ep axis takes more tokens than the others, which wait for it."""
    found = expert_balance(deployment)
    if found is None or found.balance >= BALANCE:
        return
    waits = [100 * rank.axes["ep"].wait_ms / wall for rank in deployment.ranks if "ep" in rank.axes and (wall := wall_ms(rank))]
    share = fmean(waits) if waits else None
    ep, tp = degree(deployment, "ep"), degree(deployment, "tp")
    evidence = f"expert {found.expert} takes {percent(100 * found.share)} of the tokens of layer {found.layer}"
    if share is not None:
        evidence += f"; members wait {percent(share)} of a step for each other"
    yield Finding(
        kind="expert-imbalance",
        severity="warning" if share is not None and share >= WORTH_SAYING else "info",
        headline=f"uneven experts: the mean ep member takes {percent(100 * found.balance)} of the fullest one's tokens",
        evidence=evidence,
        advice=f"tp {tp * ep} splits every expert evenly",
        ranks=tuple(sorted(rank.info.rank for rank in deployment.ranks if rank.info.ep == found.owner)),
        share_pct=share,
        remedy={"ep": 1, "tp": tp * ep},
    )


MEMBERS: tuple[Rule, ...] = (straggler, unsteady, communication, expert_imbalance)

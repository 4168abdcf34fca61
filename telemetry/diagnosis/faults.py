"""Rules for what is not as it should be at all: states, dead and silent ranks."""

from __future__ import annotations

from collections.abc import Iterator

from telemetry.diagnosis.figures import degree, grouped
from telemetry.diagnosis.finding import Finding, Rule, names, numbers, percent, seconds
from telemetry.diagnosis.thresholds import SILENT_S, STEPPING_S
from telemetry.snapshot import DeploymentView


def not_ready(deployment: DeploymentView) -> Iterator[Finding]:
    """What it does instead of serving."""
    state, reason = deployment.state, deployment.reason
    doing = deployment.phase or "starting"
    if deployment.progress is not None:
        doing += f" {percent(100 * deployment.progress)}"
    if state == "FAILED":
        advice = f"shardscope logs {deployment.name}"
        yield Finding("failed", "error", f"failed: {reason or 'no reason was given'}", advice=advice)
    elif state == "DRAINING":
        left = deployment.engine.running + deployment.engine.waiting
        yield Finding("draining", "info", "draining, new requests wait", f"{left:,} requests to finish")
    elif state == "STOPPED":
        yield Finding("stopped", "info", "stopped")
    elif state == "RECONFIGURING":
        yield Finding("reconfiguring", "warning", f"reconfiguring, requests wait: {doing}", reason)
    elif state == "RESTARTING" or (state != "READY" and deployment.generation > 1):
        yield Finding("restarting", "warning", f"launch {deployment.generation}: {doing}", reason)
    elif state != "READY":
        yield Finding("starting", "info", doing, reason)


def rank_fault(deployment: DeploymentView) -> Iterator[Finding]:
    """A rank that died or stalled, while the deployment does not know better yet."""
    if deployment.state == "FAILED":
        return
    for rank in deployment.ranks:
        if rank.state in ("DEAD", "STALLED"):
            number = rank.info.rank
            evidence = "it has made no step" if rank.age_s is None else f"its last step was {seconds(rank.age_s)} ago"
            advice = f"shardscope logs {deployment.name} --rank {number}"
            yield Finding("rank-fault", "error", f"rank {number} is {rank.state.lower()}", evidence, advice, (number,))


def suspended(deployment: DeploymentView) -> Iterator[Finding]:
    """Ranks that a signal stopped in the window, for which all others of a replica wait."""
    for rank in deployment.ranks:
        if rank.suspended_s > 0:
            info, still = rank.info, rank.state == "SUSPENDED"
            verb = "is" if still else "was"
            stage = f" (stage {info.pp})" if degree(deployment, "pp") > 1 else ""
            yield Finding(
                kind="suspended",
                severity="error" if still else "warning",
                headline=f"rank {info.rank}{stage} {verb} stopped by a signal for {seconds(rank.suspended_s)}",
                evidence="the other ranks of its replica wait for it" if still else "the other ranks of its replica waited",
                advice=f"kill -CONT {info.pid}" if still else "",
                ranks=(info.rank,),
            )


def silent(deployment: DeploymentView) -> Iterator[Finding]:
    """Ranks of one replica step together: either all are silent, or those that are have a problem of their own."""
    known = any(rank.state == "SUSPENDED" for rank in deployment.ranks)
    if deployment.state != "READY" or not deployment.engine.running or known:
        return
    ages = {rank.info.rank: rank.age_s for rank in deployment.ranks if rank.age_s is not None}
    if ages and min(ages.values()) > SILENT_S:
        evidence = f"{deployment.engine.running:,} requests are running"
        yield Finding("stale", "warning", f"no rank has made a step for {seconds(min(ages.values()))}", evidence)
        return
    for replica in grouped(deployment.ranks, "dp"):
        heard = [rank for rank in replica if rank.info.rank in ages]
        mute = [rank for rank in heard if ages[rank.info.rank] > SILENT_S and rank.state == "READY"]
        if mute and min(ages[rank.info.rank] for rank in heard) < STEPPING_S:
            longest = max(ages[rank.info.rank] for rank in mute)
            headline = f"{names(mute)} {'is' if len(mute) == 1 else 'are'} silent for {seconds(longest)}"
            yield Finding("silent", "warning", headline, "the others of its replica step", ranks=numbers(mute))


FAULTS: tuple[Rule, ...] = (not_ready, rank_fault, suspended, silent)

"""The second line of the screen: what matters most now, with its evidence and, where one is honest, a remedy.

Each rule is a pure function of plain data; the first that has something to say wins. Thresholds stand here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from telemetry.snapshot import DeploymentView, RankView, Snapshot
from tui.view.figures import age, milliseconds, percent, whole
from tui.view.options import STALE_AFTER_S, Feed, Options, chosen
from tui.view.ranks import grouped, stage_name

WORTH_SAYING_PCT = 10.0  # a loss below this share of the time is no news
UNEVEN = 1.2  # compute of the slowest rank or stage over that of the others
KV_FULL = 0.95


@dataclass(frozen=True)
class Verdict:
    level: str  # "good", "info", "warn", "bad"
    cause: str
    evidence: str = ""
    remedy: str = ""


def verdict(snapshot: Snapshot | None, feed: Feed, options: Options) -> Verdict:
    """What the screen says of the chosen deployment; a source that is silent comes before all."""
    if snapshot is None:
        return Verdict("warn" if feed.problem else "info", "waiting for the first data", feed.problem)
    if feed.stale:
        return Verdict("warn", f"no news for {age(feed.age_s)}, these are the last values", feed.problem)
    deployment = chosen(snapshot, options)
    if deployment is None:
        return Verdict("info", "nothing is deployed", remedy="shardscope deploy MODEL --tp 2")
    for rule in (_state, _silence, _kv_full, _demand):
        if found := rule(deployment):
            return found
    return _losses(deployment, snapshot.window_s)


def _state(deployment: DeploymentView) -> Verdict | None:
    if deployment.state == "READY":
        return None
    if deployment.state == "FAILED":
        logs = f"shardscope logs {deployment.name}"
        return Verdict("bad", f"failed: {deployment.reason or 'no reason was given'}", remedy=logs)
    if deployment.state == "DRAINING":
        left = deployment.engine.running + deployment.engine.waiting
        return Verdict("info", "draining, new requests wait", f"{whole(left)} requests to finish")
    if deployment.state == "STOPPED":
        return Verdict("info", "stopped")
    doing = deployment.phase or "starting"
    if deployment.progress is not None:
        doing += f" {percent(100 * deployment.progress)}"
    if deployment.state == "RECONFIGURING":
        return Verdict("warn", f"reconfiguring, requests wait: {doing}", deployment.reason)
    if deployment.state == "RESTARTING" or deployment.generation > 1:
        return Verdict("warn", f"launch {deployment.generation}: {doing}", deployment.reason)
    return Verdict("info", doing, deployment.reason)


def _silence(deployment: DeploymentView) -> Verdict | None:
    """Ranks of one replica step together: either all are silent, or those that are have a problem of their own."""
    for rank in deployment.ranks:
        if rank.state in ("DEAD", "STALLED"):
            return Verdict("bad", f"rank {rank.info.rank} is {rank.state.lower()}", f"its last step was {age(rank.age_s)} ago")
    if not deployment.engine.running:
        return None
    ages = {rank.info.rank: rank.age_s for rank in deployment.ranks if rank.age_s is not None}
    if ages and min(ages.values()) > STALE_AFTER_S:
        evidence = f"{whole(deployment.engine.running)} requests are running"
        return Verdict("warn", f"no rank has made a step for {age(min(ages.values()))}", evidence)
    for replica in grouped(deployment.ranks, "dp"):
        heard = [rank for rank in replica if rank.age_s is not None]
        slowest = max(heard, key=lambda rank: rank.age_s or 0.0, default=None)
        if slowest and (slowest.age_s or 0.0) > STALE_AFTER_S and min(rank.age_s or 0.0 for rank in heard) < 1.0:
            return Verdict(
                "warn", f"rank {slowest.info.rank} is silent for {age(slowest.age_s)}", "the others of its replica step"
            )
    return None


def _kv_full(deployment: DeploymentView) -> Verdict | None:
    engine = deployment.engine
    if not engine.kv_total or not engine.waiting or engine.kv_used < KV_FULL * engine.kv_total:
        return None
    evidence = f"{whole(engine.waiting)} wait, {whole(engine.preemptions)} preempted so far"
    return Verdict("warn", f"KV is full ({percent(100 * engine.kv_used / engine.kv_total)} used)", evidence)


def _demand(deployment: DeploymentView) -> Verdict | None:
    if deployment.engine.running or deployment.engine.waiting:
        return None
    return Verdict("good", "no demand, nothing runs or waits", f"{whole(deployment.engine.finished)} finished so far")


def _losses(deployment: DeploymentView, window_s: float) -> Verdict:
    """The greatest loss: idle stages or waiting for a late rank, both as a share of the time."""
    found = [(share, say) for share, say in (_bubble(deployment), _late_rank(deployment)) if share is not None]
    if not found:
        return Verdict("good", "serving", "no step measured yet")
    share, worst = max(found, key=lambda pair: pair[0])
    if share < WORTH_SAYING_PCT:
        return Verdict("good", f"no loss above {percent(WORTH_SAYING_PCT)}", f"the greatest is a {worst.cause.lower()}")
    return Verdict(worst.level, worst.cause, f"{worst.evidence}, last {window_s:.0f} s" if worst.evidence else "", worst.remedy)


def _bubble(deployment: DeploymentView) -> tuple[float | None, Verdict]:
    stages = [
        (fmean(bubbles), ranks)
        for ranks in grouped(deployment.ranks, "dp", "pp")
        if (bubbles := [rank.bubble_pct for rank in ranks if rank.bubble_pct is not None])
    ]
    if not stages:
        return None, Verdict("good", "")
    share, ranks = max(stages, key=lambda stage: stage[0])
    cause = f"bubble {percent(share)} in {stage_name(deployment, ranks)}"
    pp, running = deployment.layout.get("pp", 1), deployment.engine.running
    if pp > 1 and 0 < running < pp * deployment.layout.get("dp", 1):
        evidence = f"{running} running, {pp} stages to fill"
        return share, Verdict("warn", cause, evidence, "more requests at once, or a smaller pp")
    if evidence := _slow_rank(deployment):
        return share, Verdict("warn", cause, evidence)
    if evidence := _slow_stage(deployment):
        return share, Verdict("warn", cause, evidence, "fewer layers for it")
    return share, Verdict("warn", cause, _parts(ranks))


def _late_rank(deployment: DeploymentView) -> tuple[float | None, Verdict]:
    """In a tp group the rank that waits least is the one for which the others wait."""
    worst: tuple[float | None, Verdict] = (None, Verdict("good", ""))
    for group in grouped(deployment.ranks, "dp", "pp", "ep"):
        waits = [(rank.axes["tp"].wait_ms, rank) for rank in group if "tp" in rank.axes and rank.step_ms]
        if len(waits) < 2:
            continue
        least, late = min(waits, key=lambda pair: pair[0])
        most, early = max(waits, key=lambda pair: pair[0])
        share = 100 * (most - least) / (early.step_ms or 1.0)
        if worst[0] is None or share > worst[0]:
            cause = f"wait {percent(share)} of a step for rank {late.info.rank}"
            evidence = f"rank {early.info.rank} waits {milliseconds(most)} ms, rank {late.info.rank} {milliseconds(least)} ms"
            worst = share, Verdict("warn", cause, evidence)
    return worst


def _slow_rank(deployment: DeploymentView) -> str:
    """A rank that computes longer than the others of its stage, which have the same work."""
    for stage in grouped(deployment.ranks, "dp", "pp"):
        times = {rank.info.rank: rank.compute_ms for rank in stage if rank.compute_ms}
        if len(times) < 2:
            continue
        slow = max(times, key=lambda rank: times[rank])
        ratio = times[slow] / median(time for rank, time in times.items() if rank != slow)
        if ratio > UNEVEN:
            return f"rank {slow} computes {ratio:.1f}x its peers"
    return ""


def _slow_stage(deployment: DeploymentView) -> str:
    """A stage of which even the fastest rank computes longer than the other stages: it has more to do."""
    for replica in grouped(deployment.ranks, "dp"):
        stages = grouped(replica, "pp")
        times = [min((rank.compute_ms for rank in ranks if rank.compute_ms), default=0.0) for ranks in stages]
        if len(times) < 2 or not all(times):
            continue
        slow = max(range(len(times)), key=times.__getitem__)
        ratio = times[slow] / fmean(time for i, time in enumerate(times) if i != slow)
        if ratio > UNEVEN:
            return f"stage {stages[slow][0].info.pp} computes {ratio:.1f}x the others"
    return ""


def _parts(ranks: Sequence[RankView]) -> str:
    rank = max(ranks, key=lambda r: r.bubble_pct or 0.0)
    compute, arrives, host = (milliseconds(v) for v in (rank.compute_ms, rank.recv_wait_ms, rank.gap_ms))
    return f"a step computes {compute} ms, awaits its input {arrives} ms, host {host} ms"

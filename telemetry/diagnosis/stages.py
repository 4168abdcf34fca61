"""Rules for pipelines: stages that stand idle, told apart by why."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from telemetry.diagnosis.figures import degree, layers_of, mean_bubble, slower_than, slowest_stage, stage_peers
from telemetry.diagnosis.finding import Finding, Rule, ms, names, numbers, percent
from telemetry.diagnosis.members import straggler
from telemetry.diagnosis.thresholds import UNEVEN, WORTH_SAYING
from telemetry.snapshot import DeploymentView


def few_micro_batches(deployment: DeploymentView) -> Iterator[Finding]:
    """Fewer micro-batches in flight than stages: theory itself leaves stages idle."""
    ideal, bubble = deployment.ideal_bubble_pct, mean_bubble(deployment)
    if ideal is None or bubble is None or min(ideal, bubble) < WORTH_SAYING:
        return
    pp, dp, tp = (degree(deployment, axis) for axis in ("pp", "dp", "tp"))
    running, flying = deployment.engine.running, deployment.engine.micro_batches
    few_requests = running < pp * dp
    if not few_requests and (flying is None or flying > pp - 0.5):
        return  # theory's bubble is that of layers which do not divide by the stages
    evidence = f"{running:,} running, {pp} stages to fill"
    if flying is not None:
        evidence += f"; {flying:.1f} micro-batches in flight leave {percent(ideal)} by theory"
    advice = "more requests at once, or a smaller pp" if few_requests else f"as many micro-batches as stages: {pp}"
    yield Finding(
        kind="micro-batches",
        severity="warning",
        headline=f"bubble {percent(bubble)}, too few micro-batches",
        evidence=evidence,
        advice=advice,
        share_pct=min(ideal, bubble),
        remedy={"pp": 1, "tp": tp * pp} if few_requests else {"micro_batches": pp},
    )


def uneven_stages(deployment: DeploymentView) -> Iterator[Finding]:
    """A stage of which even the fastest rank computes longer than the other stages, which wait for it."""
    slow = slowest_stage(deployment)
    if slow is None or slow.ratio < UNEVEN or slow.share_pct < WORTH_SAYING:
        return
    stage, layers, usual = slow.ranks[0].info.pp, layers_of(slow.ranks[0]), fmean(map(layers_of, slow.others))
    last = stage == degree(deployment, "pp") - 1
    if layers > usual:
        evidence, advice = f"it has {layers} layers, the others {usual:.3g}", "fewer layers for it"
    elif last:
        evidence, advice = f"it has {layers} layers and the output head", "fewer layers for it, or look at its devices"
    else:
        evidence, advice = f"it has {layers} layers, as the others", "look at its devices"
    yield Finding(
        kind="uneven-stages",
        severity="warning",
        headline=f"stage {stage} computes {slow.ratio:.1f}x the others, which wait for it",
        evidence=evidence,
        advice=advice,
        ranks=numbers(slow.ranks),
        share_pct=slow.share_pct,
    )


def bubble_beyond(deployment: DeploymentView) -> Iterator[Finding]:
    """Idle stages beyond what micro-batches in flight, uneven stages and a straggler explain."""
    bubble, slow = mean_bubble(deployment), slowest_stage(deployment)
    if bubble is None or degree(deployment, "pp") < 2:
        return
    late = max((finding.share_pct or 0.0 for finding in straggler(deployment)), default=0.0)
    explained = max(deployment.ideal_bubble_pct or 0.0, slow.share_pct if slow else 0.0, late)
    if bubble - explained < WORTH_SAYING:
        return
    slower = [rank for rank in deployment.ranks if (slower_than(rank, stage_peers(deployment, rank)) or 0.0) > UNEVEN]
    most = max(deployment.ranks, key=lambda rank: rank.bubble_pct or 0.0)
    parts = (("computes", most.compute_ms), ("awaits its input", most.recv_wait_ms), ("host", most.gap_ms))
    evidence = f"a step of rank {most.info.rank} " + ", ".join(f"{n} {ms(v)} ms" for n, v in parts if v is not None)
    if explained >= 1:
        evidence = f"its known causes make up {percent(explained)}; {evidence}"
    if slower:
        ratio = slower_than(slower[0], stage_peers(deployment, slower[0])) or 0.0
        evidence = f"{names(slower[:1])} computes {ratio:.1f}x its peers; {evidence}"
    yield Finding(
        kind="bubble",
        severity="warning",
        headline=f"bubble {percent(bubble)}",
        evidence=evidence,
        ranks=numbers(slower or [most]),
        share_pct=bubble - explained,
    )


STAGES: tuple[Rule, ...] = (few_micro_batches, uneven_stages, bubble_beyond)

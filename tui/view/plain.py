"""The dashboard without a terminal: lines of plain text, one a rank, for pipes and logs."""

from __future__ import annotations

from telemetry.diagnosis import Finding, diagnose
from telemetry.snapshot import DeploymentView, RankView, Snapshot
from tui.view.cells import memory_text
from tui.view.figures import milliseconds, percent, short, whole
from tui.view.heading import layout_name
from tui.view.line import clean
from tui.view.ranks import place


def rank_lines(snapshot: Snapshot, width: int = 0) -> list[str]:
    """One line a rank of every deployment, cut at `width` (0: never)."""
    lines = [_rank(deployment, rank) for deployment in snapshot.deployments for rank in deployment.ranks]
    return [_cut(text, width) for text in lines]


def deployment_lines(snapshot: Snapshot, width: int = 0) -> list[str]:
    """One line a deployment: its state and what its engine does."""
    return [_cut(_deployment(deployment), width) for deployment in snapshot.deployments]


def finding_lines(snapshot: Snapshot, width: int = 0) -> list[str]:
    """What there is to say of each deployment, what matters most first."""
    return [
        _cut(f"{clean(deployment.name)}  {_finding(finding)}", width)
        for deployment in snapshot.deployments
        for finding in diagnose(deployment, snapshot.window_s)
    ]


def _finding(finding: Finding) -> str:
    evidence = f": {finding.evidence}" if finding.evidence else ""
    advice = f". Try: {finding.advice}" if finding.advice else ""
    return clean(f"{finding.severity}  {finding.headline}{evidence}{advice}")


def _rank(deployment: DeploymentView, rank: RankView) -> str:
    info = rank.info
    words = [
        clean(deployment.name),
        f"rank {info.rank}",
        place(deployment, rank),
        clean(info.device),
        clean(rank.state),
        f"util {percent(rank.util)}",
        f"bubble {percent(rank.bubble_pct)}",
        f"all-reduce {milliseconds(rank.allreduce_ms)} ms",
        f"step {milliseconds(rank.step_ms)} ms",
        f"{short(rank.tokens_per_s)} tok/s",
        f"mem {memory_text(rank.memory, 'GiB')}",
        "emulated" if deployment.emulated else "",
    ]
    return "  ".join(word for word in words if word)


def _deployment(deployment: DeploymentView) -> str:
    engine = deployment.engine
    kv = percent(100 * engine.kv_used / engine.kv_total) if engine.kv_total else percent(None)
    words = [
        clean(deployment.name),
        layout_name(deployment.layout),
        clean(deployment.state),
        _doing(deployment),
        f"generation {deployment.generation}",
        f"{whole(engine.running)} running",
        f"{whole(engine.waiting)} waiting",
        f"kv {kv}",
        f"{whole(engine.tokens_per_s)} tok/s",
        "emulated" if deployment.emulated else "",
    ]
    return "  ".join(word for word in words if word)


def _doing(deployment: DeploymentView) -> str:
    if deployment.state == "FAILED":
        return clean(deployment.reason)
    progress = f" {percent(100 * deployment.progress)}" if deployment.progress is not None else ""
    return clean(deployment.phase) + progress if deployment.phase and deployment.state != "READY" else ""


def _cut(text: str, width: int) -> str:
    return text[:width] if width > 0 else text

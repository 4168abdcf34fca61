"""Rules for memory, devices and hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean
from typing import Any

from telemetry.diagnosis.figures import degree, mean_split, spare_bytes
from telemetry.diagnosis.finding import Finding, Rule, ms, names, numbers, percent
from telemetry.diagnosis.thresholds import DRAM_ACTIVE, HARMLESS, HOST, KV_FULL, MBU, WORTH_SAYING
from telemetry.snapshot import DeploymentView, RankView


def kv_pressure(deployment: DeploymentView) -> Iterator[Finding]:
    """Requests wait for KV blocks, or had to give theirs back and are computed anew."""
    engine = deployment.engine
    full = engine.kv_total > 0 and engine.kv_used >= KV_FULL * engine.kv_total
    preempted = round(engine.preempted)
    if not (full and engine.waiting) and not preempted:
        return
    advice, remedy = _kv_remedy(deployment, preempted)
    used = percent(100 * engine.kv_used / engine.kv_total) if engine.kv_total else "--"
    yield Finding(
        kind="kv-pressure",
        severity="warning",
        headline=f"KV is full ({used} used)" if full else f"KV ran out, requests are computed anew ({used} used now)",
        evidence=f"{engine.waiting:,} wait, {preempted:,} preempted lately, {engine.preemptions:,} so far",
        advice=advice,
        remedy=remedy,
    )


def _kv_remedy(deployment: DeploymentView, preempted: int) -> tuple[str, dict[str, Any]]:
    running, dp = deployment.engine.running, degree(deployment, "dp")
    caches = [rank.memory.kv for rank in deployment.ranks if rank.memory.kv]
    if caches and len(caches) == len(deployment.ranks) and all(spare_bytes(rank) > 2 * max(caches) for rank in deployment.ranks):
        return "memory is free for twice the KV cache", {"kv_cache_bytes": 2 * max(caches)}
    members = dp * degree(deployment, "ep")
    if preempted and running > members:
        return "fewer sequences at once are computed once", {"max_num_seqs": max(1, running // members)}
    if dp % 2 == 0:
        fewer = {"dp": dp // 2, "tp": 2 * degree(deployment, "tp")}
        return "fewer replicas hold fewer copies of the weights", fewer
    return "more ranks, or shorter contexts", {}


def throttled(deployment: DeploymentView) -> Iterator[Finding]:
    """GPUs whose clock heat or power holds down."""
    held = {}
    for rank in deployment.ranks:
        reasons = (rank.device.throttle if rank.device else None) or []
        if bad := [reason for reason in reasons if not any(word in reason.lower() for word in HARMLESS)]:
            held[rank.info.rank] = bad
    if not held:
        return
    slow = [rank for rank in deployment.ranks if rank.info.rank in held]
    clocks = [rank.device.sm_clock_mhz for rank in slow if rank.device and rank.device.sm_clock_mhz]
    free = [r.device.sm_clock_mhz for r in deployment.ranks if r not in slow and r.device and r.device.sm_clock_mhz]
    share = 100 * max(0.0, 1 - min(clocks) / max(free)) if clocks and free else None
    reasons = sorted({reason for bad in held.values() for reason in bad})
    evidence = ", ".join(reasons)
    if share is not None:
        evidence += f"; SM clock {min(clocks):,} MHz, the others' {max(free):,} MHz"
    by_power = all("power" in reason.lower() for reason in reasons)
    yield Finding(
        kind="throttled",
        severity="info" if by_power and (share is None or share < WORTH_SAYING) else "warning",
        headline=f"{names(slow)}: the GPU is throttled" if len(slow) == 1 else f"{names(slow)}: the GPUs are throttled",
        evidence=evidence,
        advice="look at the power limit" if by_power else "look at the cooling",
        ranks=numbers(slow),
        share_pct=share,
    )


def host_bound(deployment: DeploymentView) -> Iterator[Finding]:
    """Devices stand without work between two steps, while there is some."""
    share = mean_split(deployment, "host")
    if share is None or share < HOST:
        return
    gaps = [rank.gap_ms for rank in deployment.ranks if rank.gap_ms is not None]
    on_cpu = deployment.device == "cpu"
    yield Finding(
        kind="host-bound",
        severity="warning",
        headline=f"devices wait {percent(share)} of the time for the host",
        evidence=f"{ms(fmean(gaps))} ms of a step are host work" if gaps else "",
        advice="more sequences in a step share its cost" + ("" if on_cpu else "; CUDA graphs"),
        share_pct=share,
        remedy={} if on_cpu else {"enforce_eager": False},
    )


def memory_bandwidth(deployment: DeploymentView) -> Iterator[Finding]:
    """Memory as busy as it gets, by what the model has to move or by what devices tell (GPM): the roof, no loss. Silent where
    neither is known of all ranks."""
    needed = _of_all(deployment, lambda rank: rank.work.mbu_pct if rank.work else None)
    active = _of_all(deployment, lambda rank: rank.device.dram_active if rank.device else None)
    told = [(needed, MBU, "of its peak for weights and KV"), (active, DRAM_ACTIVE, "of DRAM cycles active")]
    words = [f"{percent(fmean(shares))} {what}" for shares, _, what in told if shares]
    if any(shares and min(shares) >= roof for shares, roof, _ in told):
        advice = "more sequences in a step use each weight more often"
        yield Finding("memory-bandwidth", "info", f"memory bandwidth is the limit: {words[0]}", ", ".join(words[1:]), advice)


def _of_all(deployment: DeploymentView, figure: Callable[[RankView], float | None]) -> list[float]:
    """Nothing unless every rank has it."""
    shares = [value for rank in deployment.ranks if (value := figure(rank)) is not None]
    return shares if len(shares) == len(deployment.ranks) else []


DEVICES: tuple[Rule, ...] = (kv_pressure, throttled, host_bound, memory_bandwidth)

"""Deployments by hand, healthy unless a test changes them: for rules over snapshots."""

from msgspec.structs import replace

from telemetry.records import DeviceRecord, RankInfo
from telemetry.snapshot import AxisView, DeploymentView, EngineView, ExpertsView, MemoryView, RankView, TimeSplit

GIB = 1 << 30


def engine(**changes):
    view = EngineView(
        running=32,
        waiting=0,
        kv_used=500,
        kv_cached=100,
        kv_total=1000,
        tokens_per_s=900.0,
        prompt_tokens_per_s=100.0,
        tokens_history=(),
        prompt_tokens=1000,
        generated_tokens=9000,
        finished=12,
        aborted=0,
        preemptions=0,
        prefix_hit_rate=None,
        ttft_ms_p50=None,
        ttft_ms_p99=None,
        itl_ms_p50=None,
        micro_batches=4.0,
    )
    return replace(view, **changes)


def rank(number, dp=0, pp=0, ep=0, tp=0, **changes):
    """10 ms of compute, 1 ms of host work."""
    view = RankView(
        info=RankInfo(number, dp, pp, ep, tp, 100 + number, "cuda:0", pp * 8, pp * 8 + 7),
        state="READY",
        util=85.0,
        util_history=(),
        bubble_pct=2.0,
        step_ms=12.0,
        compute_ms=10.0,
        recv_wait_ms=0.0,
        gap_ms=1.0,
        axes={},
        tokens_per_s=900.0,
        memory=MemoryView(weights=20 * GIB, kv=50 * GIB, used=75 * GIB, total=80 * GIB, free=5 * GIB),
        expert_tokens=None,
        steps=100,
        lost=0,
        age_s=0.1,
        split=TimeSplit(compute=88.0, transfer=4.0, wait=1.0, stage=1.0, host=6.0),
        device=DeviceRecord(number, 1, 0, throttle=[], sm_clock_mhz=1700),
    )
    return replace(view, **changes)


def deployment(tp=1, pp=1, ep=1, dp=1, **changes):
    """Members of an axis wait 0.3 ms a step for each other, in turns."""
    axes = {axis: AxisView(32, 1e6, 0.3, 0.5, 0.1) for axis, size in (("tp", tp), ("ep", ep)) if size > 1}
    ranks = tuple(
        rank(((d * pp + p) * ep + e) * tp + t, d, p, e, t, axes=dict(axes))
        for d in range(dp)
        for p in range(pp)
        for e in range(ep)
        for t in range(tp)
    )
    view = DeploymentView(
        name="demo",
        state="READY",
        generation=1,
        model="/models/demo",
        layout={"dp": dp, "pp": pp, "ep": ep, "tp": tp},
        device="cuda",
        dtype="bfloat16",
        emulated=False,
        phase="",
        progress=None,
        reason="",
        engine=engine(),
        ranks=ranks,
        ideal_bubble_pct=0.0 if pp > 1 else None,
    )
    return replace(view, **changes)


def change(view, numbers=None, **changes):
    """The deployment with these fields of the ranks `numbers`, or of all."""
    ranks = tuple(replace(r, **changes) if numbers is None or r.info.rank in numbers else r for r in view.ranks)
    return replace(view, ranks=ranks)


def split(compute=88.0, transfer=4.0, wait=1.0, stage=1.0, host=6.0):
    return TimeSplit(compute, transfer, wait, stage, host)


def late(view, number, by_ms, axis="tp", compute_ms=10.0):
    """The others of rank `number`'s group wait `by_ms` longer than usual for it, perhaps because it computes longer."""
    info = view.ranks[number].info
    group = {
        r.info.rank
        for r in view.ranks
        if all(getattr(r.info, other) == getattr(info, other) for other in ("dp", "pp", "ep", "tp") if other != axis)
    }
    view = change(view, group - {number}, axes={axis: AxisView(32, 1e6, 0.3 + by_ms, 0.5, 0.0)})
    return change(view, {number}, axes={axis: AxisView(32, 1e6, 0.3, 0.5, by_ms)}, compute_ms=compute_ms)


def experts(loads, layers=2):
    """Of each member two experts, which share its load."""
    tokens = tuple(load // 2 for load in loads for _ in range(2))
    owners = tuple(member for member in range(len(loads)) for _ in range(2))
    return ExpertsView(tuple(range(layers)), owners, (tokens,) * layers)

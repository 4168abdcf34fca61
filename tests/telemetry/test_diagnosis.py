"""Each rule finds its cause and nothing else; together, what matters most comes first."""

import pytest
from deployments import GIB, change, deployment, engine, experts, late, rank, split
from msgspec.structs import replace

from runtime.spec import DeploymentSpec
from telemetry.diagnosis import diagnose
from telemetry.records import DeviceRecord
from telemetry.snapshot import AxisView, MemoryView, WorkView


def found(view):
    return {finding.kind: finding for finding in diagnose(view, 10.0)}


def only(view):
    (finding,) = diagnose(view, 10.0)
    return finding


def test_a_healthy_deployment_loses_nothing_and_says_where_its_time_goes():
    for layout in ({}, {"tp": 4}, {"pp": 4}, {"ep": 4}, {"tp": 2, "pp": 2, "dp": 2}):
        finding = only(deployment(**layout))
        assert (finding.kind, finding.severity) == ("fine", "good")
        assert "compute 88%" in finding.evidence


def test_no_demand_is_no_loss():
    finding = only(change(deployment(tp=2, engine=engine(running=0)), bubble_pct=90.0, split=split(5, 0, 0, 0, 95)))
    assert finding.kind == "no-demand"


def test_without_a_step_nothing_is_judged():
    blank = dict.fromkeys(("util", "bubble_pct", "step_ms", "compute_ms", "recv_wait_ms", "gap_ms", "split", "device", "age_s"))
    finding = only(change(deployment(tp=2, pp=2), axes={}, **blank))
    assert (finding.headline, finding.evidence) == ("serving", "no step measured yet")


@pytest.mark.parametrize(
    ("state", "kind", "severity"),
    [
        ("FAILED", "failed", "error"),
        ("STARTING", "starting", "info"),
        ("RESTARTING", "restarting", "warning"),
        ("RECONFIGURING", "reconfiguring", "warning"),
        ("DRAINING", "draining", "info"),
        ("STOPPED", "stopped", "info"),
        ("SOMETHING-NEW", "starting", "info"),
    ],
)
def test_a_deployment_that_is_not_ready_is_judged_by_its_state_alone(state, kind, severity):
    view = late(deployment(tp=2, state=state, reason="why", phase="load", progress=0.4), 1, 9.0)
    finding = only(view)
    assert (finding.kind, finding.severity) == (kind, severity)
    if state == "FAILED":
        assert finding.headline == "failed: why"
    if state in ("STARTING", "RESTARTING"):
        assert "load 40%" in finding.headline


def test_dead_and_stalled_ranks():
    view = change(change(deployment(tp=4), {2}, state="DEAD", age_s=3.0), {3}, state="STALLED")
    first, second, *_ = diagnose(view, 10.0)
    assert (first.severity, first.ranks, second.ranks) == ("error", (2,), (3,))
    assert first.headline == "rank 2 is dead"
    assert "--rank 2" in first.advice


def test_a_silent_rank_among_others_that_step():
    finding = diagnose(change(deployment(tp=4), {1, 2}, age_s=5.0), 10.0)[0]
    assert (finding.kind, finding.ranks) == ("silent", (1, 2))
    assert finding.headline == "ranks 1, 2 are silent for 5.0 s"


def test_all_silent_is_stale():
    finding = diagnose(change(deployment(tp=4), age_s=5.0), 10.0)[0]
    assert (finding.kind, finding.headline) == ("stale", "no rank has made a step for 5.0 s")


def test_a_stopped_rank_is_named_and_nothing_that_follows_from_it():
    waiting = change(deployment(pp=2, tp=2), age_s=5.0, bubble_pct=60.0, split=split(compute=30, stage=70))
    stopped = change(waiting, {1}, suspended_s=3.04, state="SUSPENDED")
    [finding] = diagnose(stopped, 10.0)
    assert (finding.kind, finding.severity, finding.ranks, finding.advice) == ("suspended", "error", (1,), "kill -CONT 101")
    assert finding.headline == "rank 1 (stage 0) is stopped by a signal for 3.0 s"
    [finding] = diagnose(change(stopped, {1}, state="READY", age_s=0.1), 10.0)[:1]
    assert (finding.severity, finding.headline) == ("warning", "rank 1 (stage 0) was stopped by a signal for 3.0 s")


def test_a_replica_without_requests_is_not_silent():
    assert "silent" not in found(change(deployment(tp=2, dp=2), {2, 3}, age_s=90.0))


def test_kv_pressure_when_requests_wait_for_blocks():
    full = engine(kv_used=980, waiting=7)
    finding = found(deployment(tp=2, engine=full))["kv-pressure"]
    assert finding.headline == "KV is full (98% used)"
    assert "7 wait" in finding.evidence
    assert "kv-pressure" not in found(deployment(engine=engine(kv_used=980)))
    assert "kv-pressure" not in found(deployment(engine=engine(kv_used=500, waiting=7)))


def test_kv_pressure_has_the_remedy_that_the_memory_allows():
    full = engine(kv_used=980, waiting=7)
    roomy = MemoryView(weights=GIB, kv=2 * GIB, used=4 * GIB, total=20 * GIB, free=16 * GIB)
    assert found(change(deployment(engine=full), memory=roomy))["kv-pressure"].remedy == {"kv_cache_bytes": 4 * GIB}
    assert found(deployment(dp=4, engine=full))["kv-pressure"].remedy == {"dp": 2, "tp": 2}
    assert found(deployment(tp=2, engine=full))["kv-pressure"].remedy == {}


def test_preemption_is_kv_pressure_even_when_there_is_room_again():
    finding = found(deployment(tp=2, engine=engine(preempted=3.2, preemptions=9, running=40)))["kv-pressure"]
    assert "3 preempted lately, 9 so far" in finding.evidence
    assert finding.remedy == {"max_num_seqs": 40}


def test_a_throttled_gpu():
    hot = DeviceRecord(1, 1, 0, throttle=["HW thermal slowdown"], sm_clock_mhz=1190)
    finding = found(change(deployment(tp=4), {1}, device=hot))["throttled"]
    assert (finding.severity, finding.ranks) == ("warning", (1,))
    assert finding.share_pct == pytest.approx(30)
    assert "1,190 MHz, the others' 1,700 MHz" in finding.evidence


def test_reasons_that_somebody_chose_are_no_throttling():
    idle = DeviceRecord(1, 1, 0, throttle=["GPU idle", "applications clocks setting"], sm_clock_mhz=300)
    assert "throttled" not in found(change(deployment(tp=4), {1}, device=idle))


def test_a_power_cap_on_all_is_no_alarm():
    capped = DeviceRecord(0, 1, 0, throttle=["SW power cap"], sm_clock_mhz=1600)
    assert found(change(deployment(tp=2), device=capped))["throttled"].severity == "info"


def test_host_bound():
    finding = found(change(deployment(tp=2), split=split(compute=60, host=34), gap_ms=5.0))["host-bound"]
    assert finding.share_pct == pytest.approx(34)
    assert "5.0 ms of a step" in finding.evidence


def test_memory_bandwidth_where_devices_tell():
    def active(percent):
        return change(deployment(tp=2), device=DeviceRecord(0, 1, 0, dram_active=percent))

    first, second = diagnose(active(91.0), 10.0)
    assert (first.kind, first.severity, second.kind) == ("memory-bandwidth", "info", "fine")
    assert "memory-bandwidth" not in found(active(50.0))
    assert "memory-bandwidth" not in found(active(None))


def test_memory_bandwidth_by_what_the_model_has_to_move():
    def needs(mbu, device=None):
        work = None if mbu is None else WorkView(1e12, 1e12, 1e11, 3.0, mbu, 0.0, 0.0, 0.0)
        return change(deployment(tp=2), work=work, device=device)

    first, _ = diagnose(needs(82.0), 10.0)
    assert (first.kind, first.headline) == (
        "memory-bandwidth",
        "memory bandwidth is the limit: 82% of its peak for weights and KV",
    )
    assert "memory-bandwidth" not in found(needs(40.0))
    assert "memory-bandwidth" not in found(needs(None))
    both = found(needs(82.0, DeviceRecord(0, 1, 0, dram_active=91.0)))["memory-bandwidth"]
    assert both.evidence == "91% of DRAM cycles active"


def test_a_straggler_is_named_with_its_cost_and_its_reason():
    finding = found(late(deployment(tp=4), 2, 4.0, compute_ms=14.0))["straggler"]
    assert finding.ranks == (2,)
    assert finding.share_pct == pytest.approx(100 * 4.0 / (10 + 1 + 0.3 + 4.0 + 0.5))
    assert finding.headline == "wait 25% of a step for rank 2"
    assert "computes 1.4x its peers" in finding.evidence
    assert "rank 0 waits 4.3 ms a step, rank 2 0.30 ms" in finding.evidence
    assert "host" in found(late(deployment(tp=4), 2, 4.0))["straggler"].advice


def test_the_worst_straggler_of_all_groups():
    view = late(late(deployment(tp=2, dp=2), 1, 2.0), 2, 5.0)
    assert found(view)["straggler"].ranks == (2,)


def test_who_is_late_because_it_waits_on_another_axis_is_no_straggler():
    """Rank 3 is slow; rank 2, of its tp group, waits for it and comes late to rank 0, of its ep group."""
    view = late(deployment(tp=2, ep=2), 3, 4.0, compute_ms=14.0)
    held = {"tp": view.ranks[2].axes["tp"], "ep": AxisView(32, 1e6, 0.3, 0.5, 4.5)}
    free = {"tp": AxisView(32, 1e6, 0.3, 0.5, 0.1), "ep": AxisView(32, 1e6, 4.8, 0.5, 0.0)}
    assert found(change(change(view, {2}, axes=held), {0}, axes=free))["straggler"].ranks == (3,)


def test_lateness_in_turns_names_nobody():
    view = change(deployment(tp=2), axes={"tp": AxisView(32, 1e6, 4.0, 0.5, 2.0)}, split=split(compute=60, wait=29))
    assert "straggler" not in found(view)
    assert found(view)["unsteady"].share_pct == pytest.approx(29)


def test_ranks_that_share_too_few_cores_are_unsteady_for_it():
    view = change(deployment(tp=4, device="cpu"), split=split(compute=60, wait=29), device=DeviceRecord(0, 1, 0, cpu_limit=2.0))
    assert found(view)["unsteady"].evidence == "4 ranks share 2 cores"


def test_a_small_lateness_is_no_news():
    assert "straggler" not in found(late(deployment(tp=4), 2, 0.9))


def test_too_few_requests_for_the_stages():
    view = deployment(pp=4, engine=engine(running=1, micro_batches=1.0), ideal_bubble_pct=75.0)
    finding = found(change(view, bubble_pct=77.0))["micro-batches"]
    assert finding.share_pct == pytest.approx(75)
    assert "1 running, 4 stages to fill; 1.0 micro-batches in flight leave 75% by theory" in finding.evidence
    assert finding.remedy == {"pp": 1, "tp": 4}


def test_too_few_slots_for_the_stages():
    view = deployment(pp=4, engine=engine(running=64, micro_batches=2.0), ideal_bubble_pct=50.0)
    assert found(change(view, bubble_pct=51.0))["micro-batches"].remedy == {"micro_batches": 4}


def test_uneven_stages():
    view = change(deployment(pp=2), {1}, compute_ms=20.0)
    finding = found(change(view, {0}, bubble_pct=50.0))["uneven-stages"]
    assert finding.headline == "stage 1 computes 2.0x the others, which wait for it"
    assert finding.share_pct == pytest.approx(25)
    assert finding.ranks == (1,)


def test_a_stage_with_more_layers_is_told_from_one_on_a_slow_device():
    slow = change(deployment(pp=4), {1}, compute_ms=20.0)
    assert "as the others" in found(slow)["uneven-stages"].evidence
    info = replace_info(slow, 1, last_layer=30)
    assert "23 layers, the others 8" in found(info)["uneven-stages"].evidence


def replace_info(view, number, **changes):
    ranks = [replace(r, info=replace(r.info, **changes)) if r.info.rank == number else r for r in view.ranks]
    return replace(view, ranks=tuple(ranks))


def test_one_slow_rank_makes_no_uneven_stage():
    assert "uneven-stages" not in found(change(deployment(pp=2, tp=2), {2}, compute_ms=20.0))


def test_uneven_stages_cost_nothing_while_one_micro_batch_is_in_flight():
    view = change(deployment(pp=2, engine=engine(running=1, micro_batches=1.0), ideal_bubble_pct=50.0), {1}, compute_ms=20.0)
    assert "uneven-stages" not in found(change(view, bubble_pct=50.0))


def test_a_bubble_beyond_theory_is_told_with_its_parts():
    view = change(deployment(pp=2, ideal_bubble_pct=0.0), bubble_pct=40.0, recv_wait_ms=6.0)
    finding = found(view)["bubble"]
    assert finding.share_pct == pytest.approx(40)
    assert "awaits its input 6.0 ms" in finding.evidence
    explained = deployment(pp=2, ideal_bubble_pct=38.0, engine=engine(running=1, micro_batches=1.2))
    assert "bubble" not in found(change(explained, bubble_pct=40.0))


def test_communication_bound_tp():
    view = change(deployment(tp=4), split=split(compute=55, transfer=38, wait=1), axes={"tp": AxisView(64, 1e8, 0.3, 6.0, 0.1)})
    finding = found(view)["communication"]
    assert finding.share_pct == pytest.approx(38)
    assert "64 calls a step" in finding.evidence
    assert finding.remedy == {"tp": 2, "pp": 2}
    roomy = MemoryView(weights=10 * GIB, used=20 * GIB, total=80 * GIB, free=60 * GIB)
    assert found(change(view, memory=roomy))["communication"].remedy == {"tp": 2, "dp": 2}


def test_expert_imbalance():
    view = deployment(ep=4, experts=experts([3000, 1000, 1000, 1000]))
    view = change(view, {1, 2, 3}, axes={"ep": AxisView(16, 1e6, 4.0, 0.5, 0.0)})
    finding = found(change(view, {0}, axes={"ep": AxisView(16, 1e6, 0.1, 0.5, 3.9)}))["expert-imbalance"]
    assert finding.severity == "warning"
    assert finding.headline == "uneven experts: the mean ep member takes 50% of the fullest one's tokens"
    assert finding.ranks == (0,)
    assert finding.remedy == {"ep": 1, "tp": 4}


def test_the_member_with_the_hot_experts_is_no_straggler():
    view = late(deployment(ep=4, experts=experts([3000, 1000, 1000, 1000])), 0, 5.0, axis="ep")
    assert "straggler" not in found(view)
    assert found(replace(view, experts=experts([1000] * 4)))["straggler"].ranks == (0,)


def test_few_tokens_are_uneven_by_chance():
    assert only(deployment(ep=4, experts=experts([60, 20, 20, 20]))).kind == "fine"
    assert found(deployment(ep=4, experts=experts([3000, 1000, 1000, 1000])))["expert-imbalance"].severity == "info"


def test_what_costs_most_comes_first():
    view = late(deployment(tp=4), 2, 4.0, compute_ms=14.0)
    view = change(view, split=split(compute=40, transfer=30, wait=20, host=9))
    assert [finding.kind for finding in diagnose(view, 10.0)] == ["communication", "straggler"]
    pressed = replace(view, engine=engine(kv_used=990, waiting=3))
    assert diagnose(pressed, 10.0)[0].kind == "kv-pressure"  # nobody can cost it
    assert diagnose(change(pressed, {1}, state="DEAD"), 10.0)[0].kind == "rank-fault"


def test_every_remedy_is_a_setting_of_a_deployment():
    full, hot = engine(kv_used=980, waiting=7, preempted=3, running=40), experts([3000, 1000])
    views = [
        deployment(dp=2, engine=full),
        deployment(engine=full),
        change(deployment(ep=2, experts=hot), split=split(transfer=40)),
        change(deployment(pp=4, engine=engine(running=1, micro_batches=1.0), ideal_bubble_pct=75.0), bubble_pct=75.0),
        change(deployment(pp=4, engine=engine(running=9, micro_batches=1.0), ideal_bubble_pct=75.0), bubble_pct=75.0),
        change(deployment(tp=2), split=split(transfer=40, host=30)),
    ]
    remedies = [finding.remedy for view in views for finding in diagnose(view, 10.0) if finding.remedy]
    assert len(remedies) >= 7
    for remedy in remedies:
        DeploymentSpec(model="/models/demo", **remedy)


def test_hostile_views_are_judged_without_an_exception():
    view = deployment(tp=2, pp=2, layout={"tp": -3, "pp": 2, "ep": 0}, experts=experts([10**9, 0]), generation=-1)
    view = change(view, compute_ms=0.0, gap_ms=0.0, axes={"tp": AxisView(0, 0, 0, 0, 0.0), "ep": AxisView(0, 0, 0, 0, 1e300)})
    diagnose(view, 10.0)
    diagnose(replace(view, ranks=(), engine=engine(kv_total=0, preempted=5)), 10.0)
    diagnose(replace(view, ranks=(rank(0, state="DEAD", age_s=None),), layout={}), 10.0)

"""Predicted beside measured for a running deployment: the load it is predicted for, the terms that meet, what nobody knows."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from runtime.planner.calibration import Calibration, Errors
from runtime.planner.comparison import Compared, Known, load_of, predicted_and_measured
from runtime.planner.cost import Setup
from runtime.planner.hardware import Cluster, find_gpu
from runtime.planner.local import nominal_cpu
from runtime.planner.memory import precision, rank_memory
from runtime.planner.models import find_model
from runtime.planner.parameters import Scale, find_engine
from runtime.planner.serving import Prediction, Workload, predict
from runtime.planner.sharding import Sharding
from telemetry.records import RankInfo
from telemetry.snapshot import AxisView, DeploymentView, EngineView, MemoryView, RankView

GIB = 1 << 30
MODEL = find_model("llama-3.1-8b")
LOAD = Workload(1000, 200, concurrency=16, text=False)


def prediction(scale: Scale, layout: dict[str, int]) -> Prediction:
    sharding = Sharding(layout.get("tp", 1), layout.get("pp", 1))
    form = precision(MODEL, "bf16", "plain")
    return predict(
        Setup(MODEL, sharding, Cluster(find_gpu("h100"), sharding.ranks), form, find_engine("shardscope"), scale), LOAD
    )


def view(true: Prediction, layout: dict[str, int]) -> DeploymentView:
    """What a deployment shows whose ranks do as `true` says."""
    pp, step = layout.get("pp", 1), true.step
    inside = (step.weights + step.kv + step.compute + step.launch) * 1e3 / pp
    axes = {}
    if layout.get("tp", 1) > 1:
        axes["tp"] = AxisView(65, 1e6, 0.25 * step.all_reduce * 1e3 / pp, 0.75 * step.all_reduce * 1e3 / pp)
    if pp > 1:
        axes["pp"] = AxisView(1, 1e5, 0.0, step.hand_over * 1e3 / pp)
    memory = MemoryView(
        weights=round(true.memory.weights), kv=round(true.memory.kv), used=round(true.memory.weights + true.memory.kv) + 2 * GIB
    )
    world = layout.get("tp", 1) * pp
    ranks = tuple(
        RankView(
            info=RankInfo(rank, 0, rank // layout.get("tp", 1), 0, rank % layout.get("tp", 1), 1, f"cuda:{rank}", 0, 31),
            state="READY",
            util=90.0,
            util_history=(),
            bubble_pct=100 * true.bubble if pp > 1 else 0.0,
            step_ms=1.0,
            compute_ms=inside * 0.9,
            recv_wait_ms=0.0,
            gap_ms=inside * 0.1,
            axes=axes,
            tokens_per_s=1.0,
            memory=memory,
            expert_tokens=None,
            steps=1,
            lost=0,
            age_s=0.1,
        )
        for rank in range(world)
    )
    blocks = true.memory.kv_tokens // 16
    engine = EngineView(
        running=16,
        waiting=0,
        kv_used=16 * 1100 // 16,
        kv_cached=0,
        kv_total=blocks,
        tokens_per_s=true.tokens_s,
        prompt_tokens_per_s=5 * true.tokens_s,
        tokens_history=(),
        prompt_tokens=1,
        generated_tokens=1,
        finished=1,
        aborted=0,
        preemptions=0,
        prefix_hit_rate=None,
        ttft_ms_p50=true.ttft * 1e3,
        ttft_ms_p99=None,
        itl_ms_p50=true.tpot * 1e3,
    )
    return DeploymentView("d", "READY", 1, "m", layout, "cuda", "bfloat16", False, "", None, "", engine, ranks)


def rows(deployment: DeploymentView, scale: Scale = Scale()) -> dict[str, Compared]:
    known = Known(MODEL, find_gpu("h100"), Calibration(scale=scale))
    return {row.name: row for row in predicted_and_measured(deployment, known).rows}


def test_the_load_is_what_runs() -> None:
    """1,100 tokens of context, five prompt tokens for each of output: 1,000 in and 200 out."""
    engine = view(prediction(Scale(), {}), {}).engine
    found = load_of(engine, 16)
    assert found == Workload(pytest.approx(1000), pytest.approx(200), concurrency=16, text=False)
    assert load_of(msgspec.structs.replace(engine, running=0), 16) is None


@pytest.mark.parametrize("layout", [{}, {"tp": 4}, {"pp": 2}, {"tp": 2, "pp": 2}])
def test_a_machine_as_predicted_is_off_nowhere(layout: dict[str, int]) -> None:
    found = rows(view(prediction(Scale(), layout), layout))
    met = {name for name, row in found.items() if row.measured is not None and name != "memory, a rank"}
    assert met >= {"all of these", "TPOT", "TTFT", "output", "KV capacity", "weights, a rank", "KV cache, a rank"}
    assert ("all-reduce" in met) == ("tp" in layout)
    assert ("hand-over" in met) == ("bubble" in met) == ("pp" in layout)
    for name in met:
        assert found[name].predicted == pytest.approx(found[name].measured, rel=0.01, abs=0.01), name
    assert found["memory, a rank"].off == pytest.approx(0, abs=0.05)
    # nobody can tell these apart from outside: their sum is measured
    parts = [found[name] for name in ("weights", "KV cache", "products", "launches")]
    assert all(part.measured is None and part.off is None for part in parts)
    assert sum(part.predicted or 0 for part in parts) == pytest.approx(found["all of these"].predicted)


def test_a_slow_link_shows_where_it_is_slow() -> None:
    layout = {"tp": 4}
    found = rows(view(prediction(Scale(latency=3.0, link=3.0), layout), layout))
    assert found["all-reduce"].off == pytest.approx(-2 / 3, abs=0.02)
    assert found["all of these"].off == pytest.approx(0, abs=0.01)
    assert found["TPOT"].off is not None
    assert found["TPOT"].off < -0.1


def test_without_load_only_memory_is_compared() -> None:
    deployment = view(prediction(Scale(), {}), {})
    idle = msgspec.structs.replace(deployment, engine=msgspec.structs.replace(deployment.engine, running=0))
    found = predicted_and_measured(idle, Known(MODEL, find_gpu("h100"), Calibration()))
    assert "nothing runs" in found.words
    speed = [row for row in found.rows if row.unit in ("ms", "%", "tok/s")]
    assert all(row.predicted is None for row in speed)
    assert {row.name for row in found.rows if row.predicted is not None} >= {"KV capacity", "memory, a rank"}


def test_settings_change_the_cache() -> None:
    deployment = view(prediction(Scale(), {}), {})
    known = Known(MODEL, find_gpu("h100"), Calibration())

    def capacity(**settings: object) -> float | None:
        found = predicted_and_measured(deployment, known, settings)
        return next(row.predicted for row in found.rows if row.name == "KV capacity")

    assert capacity(max_num_seqs=2, max_model_len=1600) == 3200
    assert capacity(kv_cache_bytes=131072 * 16 * 11) == 160
    assert (capacity(gpu_memory_utilization=0.5) or 0) < (capacity() or 0)


def test_it_says_how_it_was_calibrated() -> None:
    deployment = view(prediction(Scale(), {}), {})
    assert predicted_and_measured(deployment, Known(MODEL, find_gpu("h100"), Calibration())).state == "uncalibrated (+-25%)"
    known = Calibration("box", Scale(), {"tpot_ms": Errors(0.02, 0.06, 9)})
    assert predicted_and_measured(deployment, Known(MODEL, find_gpu("h100"), known)).state == "calibrated on box (+-6%)"


def test_ranks_on_a_cpu_have_taken_what_was_free() -> None:
    """6 GiB were free, 2.5 took the weights: the cache is half of the rest, whatever is left now."""
    model = find_model("llama-3.2-1b")
    cpu = replace(nominal_cpu(), memory=6.0 * GIB)
    form = precision(model, "bf16", "plain")
    before = rank_memory(model, Sharding(), cpu, form, find_engine("shardscope"))
    deployment = view(prediction(Scale(), {}), {})
    kept = MemoryView(weights=round(before.weights), kv=0, used=round(before.weights))
    deployment = msgspec.structs.replace(
        deployment, device="cpu", ranks=(msgspec.structs.replace(deployment.ranks[0], memory=kept),)
    )
    now = replace(cpu, memory=cpu.memory - before.weights)
    found = predicted_and_measured(deployment, Known(model, now, Calibration()))
    assert next(row.predicted for row in found.rows if row.name == "KV capacity") == pytest.approx(before.kv_tokens, rel=0.001)

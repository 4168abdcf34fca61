"""Factors from recorded steps: found where a machine made them up, refused where a recording says nothing of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from measured import found

from runtime.calibrate import assemble
from runtime.calibrate.recorded import fit_runs
from runtime.calibrate.steps import Stage, request_points, step_points
from runtime.planner.calibration import calibrate, load
from runtime.planner.cost import Setup, Work, head_terms, layer_terms, step_overhead
from runtime.planner.hardware import Cluster, read_gpu
from runtime.planner.machine import read_machine
from runtime.planner.memory import precision
from runtime.planner.models import find_model
from runtime.planner.names import PlanError
from runtime.planner.parameters import Scale, find_engine
from runtime.planner.serving import Workload, predict
from runtime.planner.sharding import Sharding
from telemetry.records import AxisTime, RequestRecord, StepRecord

TRUTH = Scale(memory=1.5, compute=0.7, kernel=2.0, latency=1.6, step=3.0)
SAMPLES = Path(__file__).parents[2] / "profiles" / "samples"


@pytest.fixture
def setup() -> Setup:
    cpu = replace(
        read_gpu("cpu", assemble.device(found(), 8 << 30, 2)), machine=read_machine(assemble.rates(found(), 2, 5e-4, 1e-3, 1e8))
    )
    model = find_model("llama-3.2-1b")
    return Setup(model, Sharding(tp=2), Cluster(cpu, 2), precision(model, "bf16", "plain"), find_engine("shardscope"))


def recorded(setup: Setup, decodes: int, prompt: int, context: int) -> list[StepRecord]:
    """What two ranks of the true machine would tell of such a step."""
    true = replace(setup, scale=TRUTH)
    work = Work(decodes, context, prompt, prompt / 2, busy=2)
    layers = layer_terms(true, work).times(setup.model.layers)
    head = head_terms(true, decodes + (prompt > 0), 2).total
    compute = layers.weights + layers.kv + layers.compute + layers.launch + head
    spent = round(1e9 * layers.all_reduce)
    gap = round(1e9 * step_overhead(true, 2).total)
    wall = round(1e9 * compute) + spent + gap
    record = StepRecord(
        rank=0,
        generation=1,
        step=0,
        slot=0,
        start_ns=0,
        wall_ns=wall,
        idle_ns=0,
        gap_ns=gap,
        recv_wait_ns=0,
        compute_ns=round(1e9 * compute),
        axes={"tp": AxisTime(33, 1, spent // 3, spent - spent // 3)},
        prefill_tokens=prompt,
        decode_tokens=decodes,
        sequences=decodes + (prompt > 0),
        kv_blocks_used=max(1, (decodes + (prompt > 0)) * context // 16),
        kv_blocks_total=1000,
        memory_bytes=0,
    )
    return [msgspec.structs.replace(record, rank=rank) for rank in (0, 1)] * 2


def test_factors_are_those_of_the_machine_that_was_recorded(setup: Setup) -> None:
    kinds = [(1, 0, 256), (8, 0, 256), (64, 0, 256), (8, 0, 2048), (1, 0, 2048), (0, 512, 0), (0, 128, 0), (32, 0, 512)]
    steps = [record for kind in kinds for record in recorded(setup, *kind)]
    points = step_points(setup, steps, dict.fromkeys((0, 1), Stage(setup.model.layers, True)), 16)
    assert {point.metric for point in points} == {"compute_ms", "all_reduce_ms", "host_ms"}
    scale = calibrate(points).scale
    assert scale.memory == pytest.approx(TRUTH.memory, rel=0.1)
    assert scale.compute == pytest.approx(TRUTH.compute, rel=0.15)
    assert scale.latency == pytest.approx(TRUTH.latency, rel=0.15)
    assert scale.step == pytest.approx(TRUTH.step, rel=0.1)
    assert all(abs(point.predicted(scale) / point.value - 1) < 0.06 for point in points)
    assert max(abs(point.predicted() / point.value - 1) for point in points) > 0.25


def test_rare_and_empty_steps_teach_nothing(setup: Setup) -> None:
    stages = {0: Stage(16, True)}
    assert step_points(setup, recorded(setup, 1, 0, 256)[:2], stages, 16) == []
    assert step_points(setup, recorded(setup, 0, 0, 256), stages, 16) == []


def test_requests_are_judged_among_those_beside_them(setup: Setup) -> None:
    """Four at a time, each the whole time: a concurrency of four."""
    load = Workload(100, 50, concurrency=4, text=False)
    true = predict(setup, load)
    first, end = round(1e9 * true.ttft), round(1e9 * (true.ttft + 49 * true.tpot))
    requests = [RequestRecord("d", 1, str(i), 0, 0, 0, first, end, 100, 0, 50, "length") for i in range(4)]
    by_metric = {point.metric: point for point in request_points(setup, requests)}
    assert by_metric["tpot_ms"].workload.concurrency == 4
    assert by_metric["tpot_ms"].value == pytest.approx(1e3 * true.tpot, rel=1e-3)
    assert by_metric["tpot_ms"].predicted() == pytest.approx(by_metric["tpot_ms"].value, rel=1e-3)
    assert by_metric["ttft_ms"].value == pytest.approx(1e3 * true.ttft, rel=1e-3)
    cached = [msgspec.structs.replace(request, cached_tokens=96) for request in requests]
    assert [point.metric for point in request_points(setup, cached)] == ["tpot_ms"]


def test_a_shipped_recording_and_what_was_measured_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample's own model is gone; a directory with its config says what it was."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    said: list[str] = []
    with pytest.raises(PlanError, match=r"name it with --model"):
        fit_runs([SAMPLES / "tp4.mcap"], None, None, said.append)
    with pytest.raises(PlanError, match="no MCAP"):
        fit_runs([Path(__file__)], None, None, said.append)
    out = tmp_path / "box.json"
    before = {"device": assemble.device(found(), 8 << 30, 2), "rates": assemble.rates(found(), 2, 5e-4, 1e-3, 1e8)}
    out.write_text(json.dumps({"version": 1, "gpu": "cpu", "machine": "box", "scale": {}, "errors": {}, **before}))
    fit_runs([SAMPLES / "tp4.mcap"], out, "llama-3.2-1b", said.append)
    fitted = load(out)
    assert fitted.calibrated
    assert fitted.gpu == "cpu"
    assert fitted.scale != Scale()
    assert fitted.device is not None
    assert fitted.device.machine == read_machine(before["rates"])
    assert any("factors on time: memory" in line for line in said)

"""This machine as hardware: its cores, what was measured of it, and the cache that the runtime would give its ranks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from asked import setup
from hypothesis import given
from hypothesis import strategies as st
from test_models import LLAMA

from runtime.checkpoint.config import parse_shape
from runtime.layout import stage_layers
from runtime.planner import local
from runtime.planner.calibration import Calibration, Errors, load, save
from runtime.planner.cost import Work, step
from runtime.planner.hardware import Cluster, find_gpu
from runtime.planner.local import calibration_path, find_device, local_count, nominal_cpu
from runtime.planner.memory import rank_memory
from runtime.planner.models import read_model
from runtime.planner.names import PlanError
from runtime.planner.parameters import Scale, find_engine
from runtime.planner.search import Request, find_use_case, make_plan
from runtime.planner.sharding import stage_split

GIB = 1 << 30


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's data directory of our own, and a machine without a GPU."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(local, "local_products", list)
    return tmp_path


def test_a_machine_without_gpu_is_planned_for_by_its_cores() -> None:
    for name in ("local", "cpu", "CPU"):
        gpu, known = find_device(name)
        assert gpu.shared
        assert not known.calibrated
        assert known.band("tpot_ms") == 1.0
        assert gpu.memory > GIB / 4


def test_what_was_measured_here_is_taken_unless_another_file_is_given(data: Path) -> None:
    cpu = {"memory_gib": 1, "bandwidth_gb_s": 77, "tflops": {"bf16": 1}, "shared": True}
    known = Calibration("box", Scale(memory=1.1), {"tpot_ms": Errors(0.02, 0.06, 9)}, gpu="cpu")
    save(known, calibration_path("cpu"), device=cpu)
    gpu, found = find_device("local")
    assert gpu.bandwidth == 77e9
    assert gpu.memory > 1.5 * GIB  # what is left now, not what was left when it was measured
    assert (found.scale.memory, found.band("tpot_ms")) == (1.1, 0.06)
    other = data / "other.json"
    save(replace(known, machine="other"), other, device={**cpu, "bandwidth_gb_s": 55})
    assert find_device("cpu", None, load(other))[0].bandwidth == 55e9
    # what is known of these cores says nothing of a GPU
    assert find_device("h100", None, load(other)) == (find_gpu("h100"), Calibration())


def test_factors_of_a_gpu_hold_for_it_and_no_other() -> None:
    known = Calibration("dc", Scale(link=2.0), gpu="h100")
    assert find_device("h100", None, known)[1].scale.link == 2.0
    assert find_device("h200", None, known)[1] == Calibration()


def test_a_gpu_that_the_catalogue_knows_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "local_products", lambda: ["NVIDIA L4"])
    assert find_device("local")[0].name == "l4"
    assert find_device("cpu")[0].shared
    with pytest.raises(PlanError, match="near by: h200"):
        find_device("h2000")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rates": {"cores": 2}}, "lacks ranks"),
        ({"rates": {"cores": 2, "ranks": {}}}, "nothing was measured"),
        ({"scale": {"memory": -1}}, "a factor is more than 0"),
        ({"scale": {"speed": 1}}, "speed"),
        ({"device": {"memory_gib": 1}}, "lacks bandwidth_gb_s"),
        ({"device": {"memory_gib": 0, "bandwidth_gb_s": 1, "tflops": {}}}, "memory_gib is 0"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(change: dict[str, object], words: str) -> None:
    cpu = {"memory_gib": 1, "bandwidth_gb_s": 77, "tflops": {"bf16": 1}, "shared": True}
    content = {"version": 1, "gpu": "cpu", "machine": "box", "device": cpu, "scale": {}, "errors": {}} | change
    calibration_path("cpu").parent.mkdir(parents=True)
    calibration_path("cpu").write_text(json.dumps(content))
    with pytest.raises(PlanError, match=words):
        find_device("cpu")


def test_a_gpu_that_nobody_described_is_named_with_what_would_do(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "local_products", lambda: ["NVIDIA CMP 170HX"])
    with pytest.raises(PlanError, match=r"'NVIDIA CMP 170HX' is not in the catalogue: .*--gpu NAME, .* --gpu-file"):
        find_device("local")
    file = data / "gpus.json"
    sheet = {"memory_gib": 8, "bandwidth_gb_s": 1493, "tflops": {"bf16": 50}}
    file.write_text(json.dumps({"other": sheet}))
    with pytest.raises(PlanError, match="under words of its name; other are not"):
        find_device("local", file)
    file.write_text(json.dumps({"CMP-170HX": sheet}))
    assert find_device("local", file)[0].bandwidth == 1493e9


def test_gpus_that_differ_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layout takes its ranks to be alike, so that "local" would be right for some of them."""
    monkeypatch.setattr(local, "local_products", lambda: ["Tesla T4", "NVIDIA A100 80GB PCIe", "Tesla T4"])
    words = (
        r"\(2 x Tesla T4, 1 x NVIDIA A100 80GB PCIe\) and a plan is for one kind: --gpu t4 --gpus 2 or --gpu a100-pcie --gpus 1"
    )
    with pytest.raises(PlanError, match=words):
        find_device("local")
    assert find_device("cpu")[0].shared
    monkeypatch.setattr(local, "local_products", lambda: ["Tesla T4", "NVIDIA CMP 170HX"])
    with pytest.raises(PlanError, match=r"one kind: --gpu t4 --gpus 1$"):
        find_device("local")


def test_this_machines_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (local_count("local"), local_count("cpu"), local_count("h100")) == (1, 1, 1)
    monkeypatch.setattr(local, "local_products", lambda: 4 * ["NVIDIA L4"])
    assert (local_count("local"), local_count("cpu"), local_count("h100")) == (4, 1, 1)


def test_ranks_share_the_machines_memory_and_hold_no_cuda_context() -> None:
    """The runtime's rule: half of what is left after loading, 4 GiB of all ranks together at most."""
    cpu = replace(nominal_cpu(), memory=64.0 * GIB)
    s = setup("llama-3.2-1b", weights="bf16", engine="shardscope", kv="plain", tp=2)
    memory = rank_memory(s.model, s.sharding, cpu, s.form, s.engine)
    assert memory.context < 0.1 * GIB
    blocks = (4 << 30) // 2 // (16 * 32768 // 2)
    assert memory.kv_tokens == 16 * (blocks - 1)
    small = rank_memory(s.model, s.sharding, replace(cpu, memory=6.0 * GIB), s.form, s.engine)
    free = 6 * GIB - 2.47e9 - 2 * 0.07 * GIB
    assert small.kv_tokens == pytest.approx(free / 2 / 32768, rel=0.01)
    assert rank_memory(s.model, s.sharding, replace(cpu, memory=2.0 * GIB), s.form, s.engine).kv_tokens == 0


def test_a_small_context_needs_no_more_than_it_can_fill() -> None:
    """256 sequences of 64 tokens in blocks of 16."""
    model = read_model("short", LLAMA | {"max_position_embeddings": 64})
    s = setup("llama-3.2-1b", weights="bf16", engine="shardscope", kv="plain")
    assert rank_memory(model, s.sharding, replace(nominal_cpu(), memory=64.0 * GIB), s.form, s.engine).kv_tokens == 256 * 64


def test_our_cache_on_a_gpu_is_the_share_less_what_the_allocator_holds() -> None:
    s = setup("llama-3.1-8b", "h100", weights="bf16", engine="shardscope", kv="plain")
    memory = rank_memory(s.model, s.sharding, s.gpu, s.form, s.engine)
    room = 0.9 * s.gpu.memory - memory.weights - memory.activations
    assert memory.kv == pytest.approx(room, rel=0.001)


@given(st.integers(1, 12), st.integers(0, 40), st.sampled_from([500, 32000, 128256]), st.sampled_from([64, 512, 2048]))
def test_stages_are_cut_as_the_runtime_cuts_them(pp: int, more: int, vocab: int, hidden: int) -> None:
    config = LLAMA | {"num_hidden_layers": pp + more, "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": 3 * hidden}
    stages = [len(stage) for stage in stage_layers(parse_shape(config), pp)]
    found = stage_split(read_model("m", config), pp, "balanced")
    assert found == (max(stages[:-1], default=stages[-1]), stages[-1])


def test_more_ranks_than_cores_are_no_faster() -> None:
    cpu = nominal_cpu()
    cores = cpu.machine.cores if cpu.machine is not None else 1
    s = setup("llama-3.2-1b", weights="bf16", engine="shardscope", kv="plain")
    times = []
    for ranks in (cores, 2 * cores, 4 * cores):
        one = replace(s, sharding=replace(s.sharding, dp=ranks), cluster=Cluster(cpu, ranks))
        times.append(step(one, Work(1, 100, busy=ranks)).whole.weights / ranks)
    assert times == [pytest.approx(times[0])] * 3


def test_a_plan_for_this_machine() -> None:
    model = read_model("tiny", LLAMA)
    plan = make_plan(
        Request(model, Cluster(nominal_cpu(), 4), 64, 16, engine=find_engine("shardscope").name), find_use_case("batch")
    )
    assert plan.choice is not None
    assert {str(entry.sharding) for entry in plan.entries if entry.runs} >= {"tp4", "tp2pp2", "pp4", "dp4"}

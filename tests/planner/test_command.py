"""`shardscope plan` as scripts see it: data on stdout, words on stderr, exit codes 0, 1 and 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from asked import measured
from typer.testing import CliRunner, Result

from cli.commands import app
from runtime.planner.search import use_cases


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


ROOT = Path(__file__).parents[2]
H200 = ("--gpu", "h200", "--gpus", "8")


def test_a_table_a_plot_and_a_choice() -> None:
    found = plan("llama-3.1-70b", *H200, "--isl", "2048", "--osl", "128", "--dtype", "fp8")
    assert found.exit_code == 0
    for words in ("layout", "tok/s/GPU", "@: the choice", "take tp", "with PCIe for NVLink", "uncalibrated"):
        assert words in found.stdout


def test_the_choice_says_where_its_time_goes_and_what_others_would_take() -> None:
    text = plan("llama-3.1-70b", *H200, "--concurrency", "8").stdout
    assert "a step of it, ms: weights " in text
    assert "all-reduce " in text.partition("a step of it")[2].partition("\n")[0]
    assert "no tp more than" in text
    assert "for other use cases:\n  voice: tp" in text


def test_ones_own_limits() -> None:
    """In place of the use case's, which only says what is wanted most beyond them."""
    loose, tight = (
        json.loads(plan("llama-3.1-70b", *H200, "--use-case", "batch", "--slo", slo, "--json").stdout)
        for slo in ("ttft=4000,tpot=60", "ttft=4000,tpot=15")
    )
    assert tight["choice"]["tpot_ms"] <= 15 < loose["choice"]["tpot_ms"] <= 60
    assert tight["request"]["use_case"] == "ttft=4000,tpot=15"
    assert set(tight["use_cases"]) == set(use_cases())
    whole = json.loads(plan("llama-3.1-70b", *H200, "--osl", "100", "--slo", "e2e=2000", "--json").stdout)["choice"]
    assert whole["tpot_e2e_ms"] * 100 <= 2000
    assert "; tp8 comes nearest: a request " in plan("llama-3.1-70b", *H200, "--slo", "e2e=1").stdout


def test_gpus_on_nodes() -> None:
    """Over two nodes, an all-reduce of eight leaves NVLink."""
    asked = ("llama-3.1-70b", *H200, "--concurrency", "1", "--json")
    one, two = (json.loads(plan(*asked, "--nodes", nodes).stdout) for nodes in ("1", "2"))
    assert (one["request"]["nodes"], two["request"]["nodes"]) == (1, 2)
    tp8 = [next(e for e in found["layouts"] if e["layout"] == "tp8")["points"][0]["tpot_ms"] for found in (one, two)]
    assert tp8[1] > 1.05 * tp8[0]
    tp4 = [next(e for e in found["layouts"] if e["layout"] == "tp4dp2")["points"][0]["tpot_ms"] for found in (one, two)]
    assert tp4[1] == tp4[0]


def test_one_object() -> None:
    found = plan("mixtral-8x7b", *H200, "--concurrency", "64", "--use-case", "voice", "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout)["request"]["use_case"] == "voice"


@pytest.mark.parametrize("engine", ["shardscope", "vllm", "sglang", "trtllm"])
def test_a_command_to_run(engine: str) -> None:
    asked = ("qwen3-235b-a22b", *H200, "--dtype", "bf16" if engine == "shardscope" else "fp8", "--launch", engine)
    found = plan(*asked)
    assert found.exit_code == 0
    assert "serve" in found.stdout or "deploy" in found.stdout or "launch_server" in found.stdout
    assert "tok/s/GPU" in found.stderr
    assert json.loads(plan(*asked, "--json").stdout)["command"] + "\n" == found.stdout


def test_our_command_serves_what_the_runtime_can() -> None:
    assert "--dtype float32" in plan("llama-3.2-1b", "--gpu", "h200", "--dtype", "fp32", "--launch", "shardscope").stdout
    refused = plan("llama-3.2-1b", "--gpu", "h200", "--dtype", "int8", "--launch", "shardscope")
    assert refused.exit_code == 2
    assert "bf16, fp16, fp32, no int8 weights" in refused.stderr


def test_each_prediction_says_how_far_off_it_may_be() -> None:
    found = json.loads(plan("llama-3.1-8b", "--gpu", "h100", "--json").stdout)
    assert found["request"]["calibrated"] is False
    assert all(point["band"] == {"tpot_ms": 0.25, "ttft_ms": 0.25} for point in found["front"])


NO_LAYERS = '{"hidden_size": 64, "num_hidden_layers": 0, "num_attention_heads": 1, "vocab_size": 9, "intermediate_size": 9}'


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[]", "holds no object"),
        ("{", "cannot be read"),
        ('{"hidden_size": 64}', "has no num_hidden_layers"),
        ('{"hidden_size": "x", "num_hidden_layers": 1, "num_attention_heads": 1}', "makes no model"),
        ('{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 0}', "makes no model"),
        (NO_LAYERS, "layers 0; it is 1 at least"),
        (None, "is no checkpoint: it has no config.json"),
    ],
)
def test_a_directory_that_is_no_model(tmp_path: Path, config: str | None, words: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    found = plan(str(tmp_path), "--gpu", "h100")
    assert found.exit_code == 2
    assert words in found.stderr
    assert "Traceback" not in found.output


SHEET = '"memory_gib": 9, "bandwidth_gb_s": 3, "tflops": {"bf16": 1}'


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ("3", "is no GPU file"),
        ('{"tflops": {"bf16": 1}}', "lacks memory_gib"),
        ('{"memory_gib": -1, "bandwidth_gb_s": 3, "tflops": {"bf16": 1}}', "memory_gib is -1; it must be more than 0"),
        ('{"memory_gib": 9, "bandwidth_gb_s": 3, "tflops": {"bf16": "fast"}}', "'fast'"),
        ('{"memory_gib": 9, "bandwidth_gb_s": 3, "tflops": {}}', "no tflops above 0"),
        (f'{{{SHEET}, "measured": {{"all_reduce_us": {{"x": 3}}}}}}', "measured all_reduce_us is no table"),
        (f'{{{SHEET}, "measured": {{"matmul": {{"bf16": 0.5}}}}}}', "measured matmul is no table"),
    ],
)
def test_a_gpu_file_that_is_wrong(tmp_path: Path, gpu: str, words: str) -> None:
    path = tmp_path / "gpus.json"
    path.write_text(f'{{"Mine": {gpu}}}')
    found = plan("llama-3.2-1b", "--gpu", "mine", "--gpu-file", str(path))
    assert found.exit_code == 2
    assert words in found.stderr
    assert "Traceback" not in found.output


def test_a_request_that_no_cache_holds_fits_nowhere() -> None:
    found = plan("llama-3.1-8b", "--gpu", "h100", "--isl", "10000000", "--osl", "1")
    assert found.exit_code == 1
    assert "one request needs 10,000,001" in found.stdout


def test_nothing_fits_is_a_failure() -> None:
    found = plan("llama-3.1-405b", "--gpu", "l4", "--gpus", "4")
    assert found.exit_code == 1
    assert "would fit: tp" in found.stdout
    assert plan("llama-3.1-405b", "--gpu", "l4", "--launch", "vllm").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lama-3.1-70b", *H200), "near by: llama-3.1-70b"),
        (("llama-3.1-8b", "--gpu", "h2000"), "near by: h200"),
        (("llama-3.1-8b", *H200, "--use-case", "chatt"), "near by: chat"),
        (("llama-3.1-8b", *H200, "--dtype", "fp17"), "number format 'fp17' is not known; near by: fp1"),
        (("llama-3.1-8b", *H200, "--kv-dtype", "x"), "number format 'x'"),
        (("llama-3.1-8b", *H200, "--engine", "vlm"), "near by: vllm"),
        (("llama-3.1-8b", *H200, "--launch", "vlm"), "near by: vllm"),
        (("llama-3.1-8b", *H200, "--concurrency", "4", "--rate", "2"), "give one"),
        (("llama-3.1-8b", *H200, "--slo", "ttfb=3"), "'ttfb' is none of ttft, itl, tpot, e2e"),
        (("llama-3.1-8b", *H200, "--slo", "ttft=0"), "it must be above 0; nearest that works: 1"),
        (("llama-3.1-8b", *H200, "--nodes", "3"), "8 GPUs do not divide by it; nearest 2 or 4"),
        ((), "which MODEL?"),
        (("--validate", "/nowhere.csv"), "cannot be read"),
        (("llama-3.1-8b", *H200, "--calibration", "/nowhere.json"), "cannot be read"),
        (("llama-3.1-8b", "--gpu", "x", "--gpu-file", "/nowhere.json"), "cannot be read"),
    ],
)
def test_bad_values_are_named_with_the_nearest_good_one(arguments: tuple[str, ...], words: str) -> None:
    found = plan(*arguments)
    assert found.exit_code == 2
    assert words in found.stderr
    assert "Traceback" not in found.output


@pytest.mark.parametrize(
    "arguments",
    [("--gpus", "0"), ("--isl", "-1"), ("--isl", "99999999"), ("--gpus", "many"), ("--rate", "nan"), ("--rate", "inf")],
)
def test_bad_numbers_are_usage(arguments: tuple[str, ...]) -> None:
    assert plan("llama-3.1-8b", "--gpu", "h100", *arguments).exit_code == 2


def test_validation_is_printed() -> None:
    path = measured("published_measurements.csv")
    found = plan("--validate", str(path))
    assert found.exit_code == 0
    assert "layout regret" in found.stdout
    scores = json.loads(plan("--validate", str(path), "--json").stdout)
    assert {"scores", "regrets", "skipped"} == set(scores)
    assert sum(score["rows"] for score in scores["scores"]) + len(scores["skipped"]) == 1186


def test_help_pays_for_no_planner() -> None:
    code = "import sys, cli.commands; print([m for m in sys.modules if m.startswith(('runtime.planner.', 'numpy', 'torch'))])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert found.stdout == "['runtime.planner.command']\n"

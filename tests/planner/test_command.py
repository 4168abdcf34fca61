"""`shardscope plan` as scripts see it: data on stdout, words on stderr, exit codes 0, 1 and 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from asked import measured
from typer.testing import CliRunner, Result

from shardscope import app


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


ROOT = Path(__file__).parents[2]
H200 = ("--gpu", "h200", "--gpus", "8")


def test_a_table_a_plot_and_a_choice() -> None:
    found = plan("llama-3.1-70b", *H200, "--isl", "2048", "--osl", "128", "--dtype", "fp8")
    assert found.exit_code == 0
    for words in ("layout", "tok/s/GPU", "@: the choice", "take tp", "with PCIe for NVLink", "uncalibrated"):
        assert words in found.stdout


def test_one_object() -> None:
    found = plan("mixtral-8x7b", *H200, "--concurrency", "64", "--use-case", "voice", "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout)["request"]["use_case"] == "voice"


@pytest.mark.parametrize("engine", ["shardscope", "vllm", "sglang", "trtllm"])
def test_a_command_to_run(engine: str) -> None:
    found = plan("qwen3-235b-a22b", *H200, "--dtype", "fp8", "--launch", engine)
    assert found.exit_code == 0
    assert "serve" in found.stdout or "deploy" in found.stdout or "launch_server" in found.stdout
    assert "tok/s/GPU" in found.stderr


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


@pytest.mark.parametrize("arguments", [("--gpus", "0"), ("--isl", "-1"), ("--gpus", "many"), ("--nonesuch",)])
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
    code = "import sys, shardscope; print([m for m in sys.modules if m.startswith(('runtime.planner.', 'numpy', 'torch'))])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert found.stdout == "['runtime.planner.command']\n"

"""`shardscope plan` as scripts see it: data on stdout, words on stderr, exit codes 0, 1 and 2."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from asked import measured
from test_models import LLAMA
from typer.testing import CliRunner, Result

from cli.commands import app
from runtime.planner import local
from runtime.planner.search import use_cases


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


ROOT = Path(__file__).parents[2]
H200 = ("--gpu", "h200", "--gpus", "8")


def test_a_table_a_plot_and_a_choice() -> None:
    found = plan("llama-3.1-70b", *H200, "--isl", "2048", "--osl", "128", "--dtype", "fp8")
    assert found.exit_code == 0
    for words in ("layout", "tok/s/GPU", "@: the choice", "take pp4dp2 at", "with PCIe for NVLink", "uncalibrated"):
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
        (None, "is no checkpoint: it has no config.json (a named model is spelled as llama-3.1-8b)"),
    ],
)
def test_a_directory_that_is_no_model(tmp_path: Path, config: str | None, words: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    found = plan(str(tmp_path), "--gpu", "h100")
    assert found.exit_code == 2
    assert words in found.stderr
    assert "Traceback" not in found.output


def test_a_path_that_is_no_directory_is_told_from_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert (
        f"is a file: a checkpoint is its directory, {tmp_path}\n" in plan(str(tmp_path / "config.json"), "--gpu", "h100").stderr
    )
    assert "there is no such directory" in plan("./nowhere", "--gpu", "h100").stderr
    monkeypatch.chdir(tmp_path)
    assert plan("config.json", "--gpu", "h100").stderr.startswith("error: config.json is a file: ")


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
    refused = plan("llama-3.1-405b", "--gpu", "l4", "--gpus", "4", "--launch", "vllm")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "nothing fits on 4 x l4: " in refused.stderr
    assert "; would fit: " in refused.stderr


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
        (("",), "which MODEL?"),
        (("llama-3.1-8b", "--gpu", "NVIDIA GeForce RTX 4090 Laptop GPU"), "another is described with --gpu-file"),
        (("llama-2-7b", *H200, "--isl", "4000", "--osl", "500", "--launch", "vllm"), "nearest that works: --isl 3596"),
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
    ("option", "value", "nearest"),
    [
        ("--gpus", "0", "1"),
        ("--gpus", "-1", "1"),
        ("--gpus", "99999", "16384"),
        ("--gpus", "many", "1"),
        ("--gpus", "2.6", "3"),
        ("--nodes", "0", "1"),
        ("--isl", "-1", "1"),
        ("--isl", "99999999", "16777216"),
        ("--osl", "1e99", "16777216"),
        ("--concurrency", "0", "1"),
        ("--rate", "nan", "0.001"),
        ("--rate", "inf", "1e+09"),
        ("--rate", "0", "0.001"),
    ],
)
def test_bad_numbers_are_named_with_rule_and_nearest(option: str, value: str, nearest: str) -> None:
    found = plan("llama-3.1-8b", "--gpu", "h100", option, value)
    assert found.exit_code == 2
    words = "a number" if option == "--rate" else "a whole number"
    assert f"'{option}': '{value}' is not {words} from " in found.stderr
    assert found.stderr.endswith(f"nearest that works: {nearest}\n")
    assert plan("llama-3.1-8b", "--gpu", "h100", option, nearest, "--json").exit_code in (0, 1)


def test_a_number_may_have_a_point() -> None:
    assert json.loads(plan("llama-3.1-8b", *H200, "--rate", "0.5", "--json").stdout)["request"]["rate"] == 0.5


def test_local_means_all_gpus_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpus(*arguments: str) -> tuple[str, int]:
        asked = json.loads(plan("llama-3.2-1b", *arguments, "--json").stdout)["request"]
        return asked["gpu"], asked["gpus"]

    monkeypatch.setattr(local, "local_products", lambda: 4 * ["NVIDIA L4"])
    assert gpus() == gpus("--gpu", "local") == ("l4", 4)
    assert gpus("--gpus", "2") == ("l4", 2)
    assert gpus("--gpu", "h100") == ("h100", 1)
    assert gpus("--gpu", "cpu") == ("cpu", 1)
    monkeypatch.setattr(local, "local_products", lambda: ["NVIDIA L4", "Tesla T4"])
    found = plan("llama-3.2-1b")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "--gpu l4 --gpus 1 or --gpu t4 --gpus 1" in found.stderr


def in_a_terminal(columns: int, *arguments: str) -> list[str]:
    """What `plan` prints to one so wide."""
    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, (40, columns))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "shardscope", "plan", *arguments]
    with subprocess.Popen(command, stdout=inner, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment) as running:
        os.close(inner)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux ends a terminal that nobody writes to any more
            while part := os.read(outer, 1 << 16):
                shown += part
    os.close(outer)
    assert running.returncode == 0
    return shown.decode().split("\r\n")


def test_a_terminal_gets_no_wider_lines_than_it_has_and_a_pipe_gets_them_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = in_a_terminal(60, "llama-3.1-70b", *H200)
    assert 40 < max(map(len, lines)) <= 60
    assert any(line.startswith("take ") for line in lines)
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, plan("llama-3.1-70b", *H200).stdout.splitlines())) > 120


def test_a_command_is_one_line_even_in_a_narrow_terminal() -> None:
    """It is to be copied."""
    lines = in_a_terminal(40, "llama-3.1-70b", *H200, "--launch", "vllm")
    assert lines == [plan("llama-3.1-70b", *H200, "--launch", "vllm").stdout.rstrip("\n"), ""]


@pytest.mark.parametrize(("typed", "engine"), [("VLLM", "vllm"), ("tensorrt-llm", "trtllm"), ("TRT_LLM", "trtllm")])
def test_engines_go_by_the_names_people_type(typed: str, engine: str) -> None:
    asked = ("mixtral-8x7b", *H200, "--concurrency", "8")
    assert plan(*asked, "--engine", typed).stdout == plan(*asked, "--engine", engine).stdout
    assert plan(*asked, "--launch", typed, "--json").stdout == plan(*asked, "--launch", engine, "--json").stdout


def test_a_checkpoints_directory_is_planned_for_and_started(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(LLAMA))
    found = plan(str(path), "--gpu", "h100", "--isl", "64", "--osl", "16")
    assert (found.exit_code, found.stderr) == (0, "")
    assert "worth knowing" not in found.stdout
    (path / "config.json").write_text(json.dumps(LLAMA | {"model_type": "gemma", "architectures": ["GemmaForCausalLM"]}))
    found = plan(str(path), "--gpu", "h100", "--isl", "64", "--osl", "16")
    assert found.exit_code == 0
    assert f"shardscope does not serve {path}" in found.stdout
    assert "--engine vllm" in found.stdout
    refused = plan(str(path), "--gpu", "h100", "--isl", "64", "--osl", "16", "--launch", "shardscope")
    assert refused.exit_code == 2
    assert "GemmaForCausalLM is not supported" in refused.stderr
    assert "--launch vllm" in refused.stderr


def test_the_engines_own_cache_format_is_planned_for() -> None:
    """TensorRT-LLM keeps 8 bits beside 8-bit weights only: the same checkpoint holds half as many tokens in 16."""
    asked = ("llama-3.1-8b", "--gpu", "h100", "--engine", "trtllm", "--dtype", "bf16", "--json")
    own, plain, fp8 = (
        json.loads(plan(*asked, *more).stdout)["layouts"][0]["kv_tokens"]
        for more in ((), ("--kv-dtype", "bf16"), ("--kv-dtype", "fp8_e4m3"))
    )
    assert own == plain
    assert fp8 == pytest.approx(2 * plain, rel=1e-4)


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

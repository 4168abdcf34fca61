"""Our engine beside its peers and beside the machine's limits, in one run, as ratios.

    python bench/engine.py MODEL [--layouts tp1,tp2,pp2] [--concurrency 1,8,32] [--rounds 3] [--vllm PYTHON]
        [--openvino PYTHON --openvino-model DIR]

Every engine runs in a process of its own, and the engines take turns, round by round: a machine that drifts slows all of them.
The same random prompts for all, greedy, end tokens ignored, all submitted at once. Medians over rounds.

  decode    output tokens/s once every request has its first token
  TTFT, ITL milliseconds: mean time to the first token; mean gap after it
  prefill   tokens/s of one prompt of 1,024 tokens
  memory    decode steps/s x (weights read + KV read) over the read bandwidth that this run measured
  limit     decode steps/s over what memory and matrix products allow together: the slower of the two
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PROMPT, NEW, LONG = 128, 64, 1024


def prompts(count: int, length: int, vocab: int) -> list[list[int]]:
    numbers = random.Random(count * 10007 + length)
    return [[numbers.randrange(10, vocab) for _ in range(length)] for _ in range(count)]


# --- one engine, in its own process


class Ours:
    """With telemetry on, to a hub on the same machine."""

    def __init__(self, model: str, layout: str) -> None:
        from bench.hub import running_hub
        from runtime import LLM
        from runtime.layout import Layout

        degrees = Layout.parse(layout)
        self.hub = running_hub(Path(model).resolve().name, degrees)
        limits = {"max_model_len": 2048, "enable_prefix_caching": False}
        self.llm = LLM(model, hub=self.hub.__enter__(), dtype="bfloat16", **limits, **degrees.asdict())

    def run(self, batch: list[list[int]], new: int) -> tuple[list[float], float]:
        from runtime import SamplingParams

        outs = self.llm.generate(batch, SamplingParams(temperature=0, max_tokens=new, ignore_eos=True))
        assert all(len(out.outputs[0].token_ids) == new for out in outs)
        return [out.metrics.first_token_time for out in outs], max(out.metrics.finished_time for out in outs)


class Transformers:
    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, LogitsProcessor

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to(self.device).eval()
        self.model.generation_config.eos_token_id = None

        class Clock(LogitsProcessor):
            def __init__(self) -> None:
                self.times: list[float] = []

            def __call__(self, ids, scores):
                if scores.is_cuda:
                    torch.cuda.synchronize()
                self.times.append(time.perf_counter())
                return scores

        self.clock = Clock

    def run(self, batch: list[list[int]], new: int) -> tuple[list[float], float]:
        clock, ids = self.clock(), self.torch.tensor(batch, device=self.device)
        start = time.perf_counter()
        with self.torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new,
                pad_token_id=0,
                logits_processor=[clock],
            )
        return [clock.times[0] - start] * len(batch), clock.times[-1] - start


class Vllm:
    """Any vLLM that this interpreter can import; its own metrics give the first tokens' times."""

    def __init__(self, model: str) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        from vllm import LLM, SamplingParams, TokensPrompt

        self.llm = LLM(model, dtype="bfloat16", max_model_len=2048, enable_prefix_caching=False, disable_log_stats=False)
        self.params = lambda new: SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        self.prompt = lambda ids: TokensPrompt(prompt_token_ids=ids)

    def run(self, batch: list[list[int]], new: int) -> tuple[list[float], float]:
        start = time.perf_counter()
        outs = self.llm.generate([self.prompt(ids) for ids in batch], self.params(new), use_tqdm=False)
        total = time.perf_counter() - start
        return [out.metrics.first_token_latency for out in outs], total


class OpenVino:
    """A model exported by optimum, run by openvino-genai in bfloat16, keys and values too."""

    def __init__(self, model: str) -> None:
        import openvino as ov
        import openvino_genai as genai

        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 2
        properties = {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": ov.Type.bf16}
        self.pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
        self.params = lambda new: genai.GenerationConfig(max_new_tokens=new, min_new_tokens=new, ignore_eos=True, do_sample=False)
        self.tensor = lambda ids: ov.Tensor(np.array([ids], dtype=np.int64))
        self.requests = itertools.count()

    def run(self, batch: list[list[int]], new: int) -> tuple[list[float], float]:
        start = time.perf_counter()
        params = self.params(new)
        handles = {i: self.pipeline.add_request(next(self.requests), self.tensor(ids), params) for i, ids in enumerate(batch)}
        first: dict[int, float] = {}
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            for i, handle in handles.items():
                while handle.can_read():
                    handle.read()
                    first.setdefault(i, time.perf_counter() - start)
        return list(first.values()), time.perf_counter() - start


def make(engine: str, model: str):
    if engine == "transformers":
        return Transformers(model)
    if engine == "vllm":
        return Vllm(model)
    if engine == "openvino":
        return OpenVino(model)
    return Ours(model, engine)


def worker(engine: str, model: str, concurrency: list[int], vocab: int) -> None:
    """Prints one JSON object for each line on stdin."""
    start = time.perf_counter()
    made = make(engine, model)
    load = getattr(getattr(made, "llm", None), "load_s", time.perf_counter() - start)
    made.run(prompts(2, 32, vocab), 4)
    print(json.dumps({"load": load}), flush=True)
    for _ in sys.stdin:
        found: dict[str, dict[str, float]] = {}
        for count in concurrency:
            first, total = made.run(prompts(count, PROMPT, vocab), NEW)
            decode_s = total - max(first)
            found[str(count)] = {
                "decode": count * (NEW - 1) / decode_s,
                "ttft": statistics.mean(first) * 1e3,
                "itl": decode_s / (NEW - 1) * 1e3,
            }
        first, _total = made.run(prompts(1, LONG, vocab), 1)
        found["prefill"] = {"tok_s": LONG / first[0]}
        print(json.dumps(found), flush=True)


# --- the machine


def limits() -> dict[str, float]:
    """Read bandwidth in GB/s and bf16 matrix products in GFLOP/s, of all cores or of the first GPU, in a process of its own."""
    code = """
import json, time, torch
torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
done = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
def best(f, n):
    f(); done(); times = []
    for _ in range(n):
        t = time.perf_counter(); f(); done(); times.append(time.perf_counter() - t)
    return min(times)
a = torch.ones(1 << 28)
a64, b64 = torch.randn(1024, 1024).bfloat16(), torch.randn(4096, 1024).bfloat16()
with torch.inference_mode():
    read = a.numel() * 4 / best(lambda: a.sum(), 5) / 1e9
    gemm = 2 * 1024 * 1024 * 4096 / best(lambda: torch.nn.functional.linear(a64, b64), 10) / 1e9
print(json.dumps({"read": read, "gemm": gemm}))
"""
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def shares(shape, count: int, decode: float, machine: dict[str, float]) -> tuple[float, float]:
    """(share of memory bandwidth, share of the slower of memory and arithmetic) that a decode rate reaches."""
    touched = shape.vocab_size * shape.hidden_size
    computed = touched
    for layer in range(shape.num_layers):
        active, full = shape.active_layer_parameters(layer), shape.layer_parameters(layer)
        if shape.is_moe_layer(layer):
            # distinct experts that `count` tokens touch
            hit = 1 - (1 - shape.experts_per_token / shape.num_experts) ** count
            expert = 3 * shape.hidden_size * shape.expert_intermediate_size
            touched += full - shape.num_experts * expert * (1 - hit)
        else:
            touched += full
        computed += active
    kv = count * (PROMPT + NEW / 2) * shape.kv_bytes_per_token_layer(2) * shape.num_layers
    memory_s = (2 * touched + kv) / (machine["read"] * 1e9)
    compute_s = 2 * computed * count / (machine["gemm"] * 1e9)
    step_s = count / decode
    return memory_s / step_s, max(memory_s, compute_s) / step_s


# --- all of them


def measure(
    args: argparse.Namespace, engines: list[str], vocab: int
) -> tuple[dict[str, list[dict]], dict[str, float], list[dict[str, float]]]:
    counts = ",".join(map(str, args.concurrency))
    rounds: dict[str, list[dict]] = {engine: [] for engine in engines}
    loads: dict[str, float] = {}
    machine: list[dict[str, float]] = []
    for _ in range(args.rounds):
        machine.append(limits())
        for engine in engines:
            python = {"vllm": args.vllm, "openvino": args.openvino}.get(engine) or sys.executable
            model = args.openvino_model if engine == "openvino" else args.model
            command = [python, __file__, model, "--worker", engine, "--concurrency", counts, "--vocab", str(vocab)]
            done = subprocess.run(command, input="go\n", text=True, capture_output=True)
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            if len(lines) != 2:
                raise SystemExit(f"{engine} failed:\n{done.stderr[-3000:]}")
            loads.setdefault(engine, lines[0]["load"])
            rounds[engine].append(lines[1])
            print(f"  {engine}: {json.dumps(lines[1])}", file=sys.stderr)
    return rounds, loads, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--layouts", default="tp1,tp2,pp2")
    parser.add_argument("--concurrency", default="1,8,32", type=lambda text: [int(each) for each in text.split(",")])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vllm", help="a Python interpreter that can import vllm")
    parser.add_argument("--openvino", help="a Python interpreter that can import openvino_genai")
    parser.add_argument("--openvino-model", help="what `optimum-cli export openvino` made of MODEL")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--vocab", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.model, args.concurrency, args.vocab)
        return
    from runtime.checkpoint.config import read_shape

    shape = read_shape(Path(args.model))
    ours = args.layouts.split(",")
    peers = ([] if args.no_transformers else ["transformers"]) + (["vllm"] if args.vllm else [])
    peers += ["openvino"] if args.openvino else []
    rounds, loads, machine = measure(args, [*peers, *ours], shape.vocab_size)
    limit = {key: statistics.median(each[key] for each in machine) for key in ("read", "gemm")}

    def median(engine: str, *keys: str) -> float:
        return statistics.median(each[keys[0]][keys[1]] for each in rounds[engine])

    print(
        f"{Path(args.model).name}, bfloat16, {len(os.sched_getaffinity(0))} cores, {args.rounds} rounds; "
        f"reads {limit['read']:.1f} GB/s, multiplies {limit['gemm']:.0f} GFLOP/s"
    )
    against = "".join(f"  x {peer}" for peer in peers)
    print(f"{'engine':<14}{'conc':>5}{'decode/s':>10}{'TTFT ms':>9}{'ITL ms':>8}{'memory':>8}{'limit':>7}{against}")
    for engine in [*peers, *ours]:
        for count in map(str, args.concurrency):
            decode = median(engine, count, "decode")
            memory, bound = shares(shape, int(count), decode, limit)
            ratios = "".join(f"{decode / median(peer, count, 'decode'):>{len(peer) + 4}.2f}" for peer in peers)
            print(
                f"{engine:<14}{count:>5}{decode:>10.1f}{median(engine, count, 'ttft'):>9.0f}{median(engine, count, 'itl'):>8.1f}"
                f"{memory:>8.0%}{bound:>7.0%}{ratios}"
            )
    for engine in [*peers, *ours]:
        print(f"{engine:<14}prefill {median(engine, 'prefill', 'tok_s'):.0f} tok/s, load {loads[engine]:.1f} s")


if __name__ == "__main__":
    main()

"""What telemetry costs: tokens/s with ranks telling a hub against ranks that keep silent, in pairs, in one run.

    python bench/telemetry.py MODEL [--layout tp2] [--concurrency 8] [--pairs 40]

Both deployments stay loaded; the idle one sleeps. The order within a pair alternates. The hub is a real one, in a process of
its own on the same cores. Prints the ratio of each pair's decode rates, their median with its 95 % interval, microseconds
per step record in the rank, and nanoseconds to count a collective.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

# before this folder, whose telemetry.py is not the package
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench.hub import running_hub
from runtime import LLM, SamplingParams
from runtime.engine.plan import MemberPlan, pack
from runtime.layout import Coordinates, Layout
from runtime.parallel.communicator import Communicator
from runtime.parallel.mesh import Mesh
from runtime.rank.board import Board, Op
from runtime.rank.memory import HostMemory
from runtime.rank.recorder import StepRecorder
from runtime.rank.timeline import HostTimeline
from telemetry.emitter import Emitter

NEW = 64


def rate(llm: LLM, count: int) -> float:
    """Decode tokens/s."""
    numbers = random.Random(count)
    prompts = [[numbers.randrange(10, 900) for _ in range(64)] for _ in range(count)]
    outs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True))
    first = max(out.metrics.first_token_time for out in outs)
    return count * (NEW - 1) / (max(out.metrics.finished_time for out in outs) - first)


def microseconds(endpoint: str, name: str) -> tuple[float, float]:
    """(median, mean) time that a rank spends on telling of a step, one every 2 ms, busy in between, collectives apart.

    The mean has in it what is done for many steps at once: their records, their message, what is told once a second.
    """
    tp = Communicator("tp", 2, 0, cast(Any, object()), Board.create(1).ranks[0])
    layers = range(24)
    mesh = Mesh(Layout(tp=2), 0, Coordinates(0, 0, 0, 0), tp, tp, tp, layers, range(8))
    executor = cast(Any, SimpleNamespace(mesh=mesh, stage=_mixture(len(layers)), timeline=HostTimeline()))
    config = cast(Any, SimpleNamespace(rank=0, generation=1))
    times, plan = [], MemberPlan(starts=pack([900] * 8), counts=pack([1] * 8), wanted=pack(list(range(8))), decodes=8, kv_used=10)
    with Emitter(endpoint, name, "rank:0") as emitter:
        recorder = StepRecorder(config, executor, 100, HostMemory(config, 0), emitter)
        for step in range(2000):
            for _ in range(49):
                tp._count(Op.ALL_REDUCE, step, 4096, 4096, 12_345, 6_789)
            start = time.perf_counter_ns()
            recorder.began(False)
            executor.timeline.enter("forward")
            executor.timeline.enter("sample")
            executor.timeline.leave()
            recorder.ended(step, 0, plan, 8, 8)
            times.append((time.perf_counter_ns() - start) / 1e3)
            while time.perf_counter_ns() - start < 2_000_000:
                pass
    return statistics.median(times), statistics.mean(times)


def interval(ratios: list[float]) -> tuple[float, float]:
    """Between which, in 95 of 100 runs, the median lies: two of the ordered ratios, by the binomial distribution (sign test)."""
    ordered, count = sorted(ratios), len(ratios)
    below, tail = 0, 0.5**count
    while tail <= 0.025 and below < (count - 1) // 2:
        below += 1
        tail += math.comb(count, below) * 0.5**count
    below = max(0, below - 1)
    return ordered[below], ordered[-1 - below]


def _mixture(layers: int) -> Any:
    """As much of a stage as telling looks at: every layer has experts, of which much is counted."""
    shape = SimpleNamespace(hidden_size=2048, num_heads=32, head_dim=128, intermediate_size=0, num_experts=128)
    shape.expert_intermediate_size, shape.sliding_windows, shape.is_moe_layer = 768, [None] * layers, lambda _layer: True
    experts = [SimpleNamespace(rows=0, touched=0) for _ in range(layers)]
    plain = [SimpleNamespace(mlp=None)] * layers
    return SimpleNamespace(shape=shape, kv_heads=2, dtype=torch.bfloat16, head=None, experts=experts, layers=plain, caches=[])


def nanoseconds() -> float:
    """Least time, of many rounds, to count one collective, in its axis' sums and by its kind."""
    tp, rounds = Communicator("tp", 2, 0, cast(Any, object()), Board.create(1).ranks[0]), []
    for _ in range(200):
        start = time.perf_counter_ns()
        for number in range(1000):
            tp._count(Op.ALL_REDUCE, number, 4096, 4096, 12_345, 6_789)
        rounds.append((time.perf_counter_ns() - start) / 1000)
    return min(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--layout", default="tp2", type=Layout.parse)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=40)
    args = parser.parse_args()
    name = Path(args.model).resolve().name
    options = {"max_model_len": 1024, "enable_prefix_caching": False, "device": "cpu", **args.layout.asdict()}
    with (
        running_hub(name, args.layout) as endpoint,
        LLM(args.model, telemetry=False, **options) as silent,
        LLM(args.model, hub=endpoint, **options) as telling,
    ):
        for llm in (silent, telling):
            rate(llm, args.concurrency)
        ratios = []
        for pair in range(args.pairs):
            order = (silent, telling) if pair % 2 else (telling, silent)
            found = {llm is telling: rate(llm, args.concurrency) for llm in order}
            ratios.append(found[True] / found[False])
            print(f"pair {pair}: on {found[True]:.1f}  off {found[False]:.1f} tok/s  ratio {ratios[-1]:.4f}")
        print(
            f"{name} {args.layout} concurrency {args.concurrency}: on/off median {statistics.median(ratios):.4f}, "
            "95 % interval {:.4f} to {:.4f}".format(*interval(ratios))
        )
        median, mean = microseconds(endpoint, name)
        print(f"one step in a rank: {median:.1f} us to tell of it, {mean:.1f} in the mean, {nanoseconds():.0f} ns a collective")


if __name__ == "__main__":
    main()

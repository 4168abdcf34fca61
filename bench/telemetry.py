"""What telemetry costs: tokens/s with ranks telling a hub against ranks that keep silent, in pairs, in one run.

    python bench/telemetry.py MODEL [--layout tp2] [--concurrency 8] [--pairs 8]

Both deployments stay loaded; the idle one sleeps. The order within a pair alternates. The hub is a real one, in a process of
its own on the same cores. Prints the ratio of each pair's decode rates, their median, and microseconds per record in the rank.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

# before this folder, whose telemetry.py is not the package
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.hub import running_hub
from runtime import LLM, SamplingParams
from runtime.layout import Layout
from telemetry.emitter import Emitter
from telemetry.records import AxisTime, StepRecord

NEW = 64


def rate(llm: LLM, count: int) -> float:
    """Decode tokens/s."""
    numbers = random.Random(count)
    prompts = [[numbers.randrange(10, 900) for _ in range(64)] for _ in range(count)]
    outs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True))
    first = max(out.metrics.first_token_time for out in outs)
    return count * (NEW - 1) / (max(out.metrics.finished_time for out in outs) - first)


def microseconds(endpoint: str, name: str) -> float:
    """Median time to build, encode and send a step record, one every 2 ms as a rank does, busy in between."""
    times = []
    with Emitter(endpoint, name, "rank:0") as emitter:
        for step in range(1000):
            start = time.perf_counter_ns()
            axes = {"tp": AxisTime(48, 1 << 20, 1000, 1000)}
            emitter.emit(StepRecord(0, 1, step, 0, start, 10, 0, 1, 1, 6, axes, 0, 8, 8, 10, 100, 1 << 30))
            times.append((time.perf_counter_ns() - start) / 1e3)
            while time.perf_counter_ns() - start < 2_000_000:
                pass
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--layout", default="tp2", type=Layout.parse)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=8)
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
            f"from {min(ratios):.4f} to {max(ratios):.4f}"
        )
        print(f"one step record in a rank: {microseconds(endpoint, name):.1f} us")


if __name__ == "__main__":
    main()

"""What telemetry costs, in real ranks under load: steps that they tell of against steps that they do not, in turns.

    python bench/telemetry.py MODEL [--layout tp2] [--concurrency 8] [--pairs 120] [--looking]

Ranks tell a real hub, a process of its own on the same cores, for 16 steps, and are silent for as many: then they read no
clock, count nothing and send nothing (`bench/half_silent_rank.py`). Two turns that follow each other are a pair, whose order
alternates. Only pairs are taken in which every step continued all sequences. `--looking`: somebody asks for a snapshot four
times a second, as a dashboard does. Prints

  on / off      tokens/s of steps that are told of over those that are not: median over the pairs, with its 95 % interval
  a step        microseconds that a rank spends on noting it (median of the steps after which nothing is sent), on a message that
                tells of some (median: their records, the sending, the hub's turn on the core), and in the mean of all, with what
                is told once a second
  a collective  nanoseconds to count it
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

# before this folder, whose telemetry.py is not the package
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.half_silent_rank import TURN
from bench.hub import running_hub
from runtime import LLM, SamplingParams
from runtime.layout import Layout
from runtime.parallel.communicator import Communicator
from runtime.rank.board import Board, Op
from runtime.rank.nursery import Zygote

RANK_MODULE = "bench.half_silent_rank"
PROMPT, NEW = 64, 512


def turns_under_load(model: Path, layout: Layout, concurrency: int, pairs: int, looking: bool) -> list[dict[str, Any]]:
    """What each rank wrote."""
    name, numbers = model.name, random.Random(concurrency)
    options = {"max_model_len": PROMPT + NEW, "enable_prefix_caching": False, "device": "cpu", **layout.asdict()}
    with tempfile.TemporaryDirectory() as scratch, running_hub(name, layout, looking) as endpoint:
        os.environ["SHARDSCOPE_BENCH"] = str(Path(scratch) / "turns")
        with Zygote(RANK_MODULE) as zygote, LLM(model, hub=endpoint, zygote=zygote, **options) as llm:
            for _ in range(-(-2 * pairs * TURN // (NEW - 4 * TURN))):
                prompts = [[numbers.randrange(10, 900) for _ in range(PROMPT)] for _ in range(concurrency)]
                llm.generate(prompts, SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True))
        ranks = range(layout.world_size)
        return [json.loads(Path(f"{scratch}/turns-{rank}.json").read_text(encoding="utf-8")) for rank in ranks]


def ratios(turns: list[tuple[bool, int, int]], concurrency: int) -> list[float]:
    """Of rates, told over silent, of turns that follow each other."""
    found = []
    for (first, one, load), (second, other, next_load) in zip(turns[::2], turns[1::2], strict=False):
        if first != second and load == next_load == concurrency:
            found.append(other / one if first else one / other)
    return found


def interval(ratios: list[float]) -> tuple[float, float]:
    """Between which, in 95 of 100 runs, the median lies: two of the ordered ratios, by the binomial distribution (sign test)."""
    ordered, count = sorted(ratios), len(ratios)
    below, tail = 0, 0.5**count
    while tail <= 0.025 and below < (count - 1) // 2:
        below += 1
        tail += math.comb(count, below) * 0.5**count
    below = max(0, below - 1)
    return ordered[below], ordered[-1 - below]


def nanoseconds() -> float:
    """Least time, of many rounds, to count one collective, in its axis' sums and by its kind."""
    tp, rounds = Communicator("tp", 2, 0, cast(Any, object()), Board.create(1).ranks[0]), []
    for _ in range(200):
        start = time.perf_counter_ns()
        for number in range(1000):
            tp._count(Op.ALL_REDUCE, number, 4096, 4096, 12_345, 6_789)
        rounds.append((time.perf_counter_ns() - start) / 1000)
        tp.take_tallies()
    return min(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--layout", default="tp2", type=Layout.parse)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--looking", action="store_true")
    args = parser.parse_args()
    found = turns_under_load(args.model.resolve(), args.layout, args.concurrency, args.pairs, args.looking)
    turns, name = found[0]["turns"], f"{args.model.name} {args.layout} concurrency {args.concurrency}"
    pairs = ratios(turns, args.concurrency)
    step = statistics.median(ns for _, ns, load in turns if load == args.concurrency) / (TURN - 1) / 1e3
    low, high = interval(pairs)
    print(f"{name}, a step of {step / 1e3:.1f} ms")
    print(f"on/off: median of {len(pairs)} pairs {statistics.median(pairs):.4f}, 95 % interval {low:.4f} to {high:.4f}")
    noted, sent = ([ns / 1e3 for rank in found for ns, message in rank["spent"] if message == which] for which in (False, True))
    mean = statistics.mean(noted + sent)
    note, message = (statistics.median(times) if times else math.nan for times in (noted, sent))
    each = len(noted + sent) / max(1, len(sent))
    print(f"a step in a rank: {note:.1f} us to note it, {message:.0f} a message, one for each {each:.1f} steps;", end=" ")
    print(f"{mean:.0f} in the mean, {mean / step:.2%} of it")
    print(f"a collective: {nanoseconds():.0f} ns to count it")


if __name__ == "__main__":
    main()

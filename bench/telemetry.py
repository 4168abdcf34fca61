"""What telemetry costs: in a rank, by the step; and tokens/s with ranks that tell a hub against ranks that do not, in pairs.

    python bench/telemetry.py MODEL [--layout tp2] [--concurrency 8] [--pairs 40] [--steps 1000]

First one rank of the layout's tp in this process, twice: one tells a hub, one is silent. Its collectives move nothing and
wait for nobody; all else is a rank's decode step. They take turns. Prints, by step and in microseconds

  records      what the recorder's calls take, in the median and in the mean, which has messages and what is told once a second
  collectives  what it takes to count a step's collectives, of as many counted in a row
  difference   CPU time of the one's steps beyond the other's, all threads: an independent count of both together, median of turns

and what the sum of the first two makes of a step's time. Then both as deployments (`--pairs 0`: not), loaded all the time; the
idle one sleeps. The order within a pair alternates. The hub is a real one, in a process of its own on the same cores. Prints the
ratio of each pair's decode rates, and their median with its 95 % interval.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

# before this folder, whose telemetry.py is not the package
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench.hub import running_hub
from runtime import LLM, SamplingParams
from runtime.checkpoint.config import read_shape
from runtime.checkpoint.weights import Checkpoint
from runtime.engine.plan import MemberPlan, NewRow, pack
from runtime.layout import Layout
from runtime.model.decoder import Stage
from runtime.model.kernels import compile_kernels
from runtime.parallel.communicator import Communicator
from runtime.parallel.mesh import DTYPES, Mesh
from runtime.rank.board import Board, Op
from runtime.rank.executor import Executor
from runtime.rank.memory import HostMemory
from runtime.rank.recorder import Recorder, StepRecorder
from runtime.rank.timeline import NoTimeline
from telemetry.emitter import Emitter

NEW = 64
CONTEXT = 128
TURN = 20  # steps


class Nowhere:
    """Members that are there at once and have nothing to give: as much of a transport as tp asks for."""

    def all_reduce(self, x: torch.Tensor) -> int:
        return 0

    def all_gather(self, x: torch.Tensor, out: torch.Tensor) -> int:
        out[:] = x
        return 0


class Timed:
    """A recorder or a timeline, and the nanoseconds that its calls take."""

    def __init__(self, what: Any) -> None:
        self._what = what
        self.spent_ns = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._what, name)

        def timed(*args: Any) -> Any:
            start = time.perf_counter_ns()
            try:
                return call(*args)
            finally:
                self.spent_ns += time.perf_counter_ns() - start

        setattr(self, name, timed)
        return timed


class Rank:
    """Rank 0 of `tp` in this process, `rows` sequences decoding."""

    def __init__(self, path: Path, tp: int, rows: int, emitter: Emitter | None) -> None:
        shape, layout, status = read_shape(path), Layout(tp=tp), Board.create(1).ranks[0]
        dtype, blocks = DTYPES[shape.dtype], rows * (CONTEXT // 16 + 1)
        compile_kernels(shape, dtype, tp)
        axes = [
            Communicator(axis, size, 0, cast(Any, Nowhere()) if size > 1 else None, status, counts=emitter is not None)
            for axis, size in (("tp", tp), ("ep", 1), ("pp", 1))
        ]
        mesh = Mesh(layout, 0, layout.coordinates(0), *axes, range(shape.num_layers), range(shape.num_experts))
        stage = Stage(Checkpoint(path), shape, mesh, dtype, torch.device("cpu"), 4 * CONTEXT)
        self.executor = Executor(stage, mesh, rows, 2 * CONTEXT, 16, blocks + 1)
        numbers = random.Random(1)
        for row in range(rows):
            prompt = [numbers.randrange(10, shape.vocab_size) for _ in range(CONTEXT)]
            taken = [part for i in range(CONTEXT // 16 + 1) for part in (row, i, 1 + row * (CONTEXT // 16 + 1) + i)]
            new = NewRow(row, 0, SamplingParams(temperature=0), CONTEXT, [], [], 0)
            self.executor.run(MemberPlan(pack([row]), pack([0]), pack([CONTEXT]), pack(prompt), pack(taken), pack([0]), [new]))
        wanted = pack(list(range(rows)))
        self._plan = MemberPlan(wanted, pack([CONTEXT] * rows), pack([1] * rows), pack([9] * rows), wanted=wanted, decodes=rows)
        self._rows, self._steps, self._calls = rows, 0, sum(axis.calls for axis in axes)
        config = cast(Any, SimpleNamespace(rank=0, generation=1))
        if emitter is None:
            self._recorder, self.executor.timeline = Recorder(), NoTimeline()
        else:
            self.executor.timeline.take()
            self._recorder = StepRecorder(config, self.executor, blocks + 1, HostMemory(config, 0), emitter)
        self.collectives, self.cpu_ns, self.wall_ns = 0, 0, 0
        self._timed = [Timed(self._recorder), Timed(self.executor.timeline)]
        self.recorder, self.executor.timeline = cast(Any, self._timed)

    def step(self) -> int:
        """Nanoseconds that telling of it took."""
        before = sum(timed.spent_ns for timed in self._timed)
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        self.recorder.began(False)
        self.executor.run(self._plan)
        self.recorder.ended(self._steps, 0, self._plan, self._rows, self._rows)
        self.cpu_ns += time.process_time_ns() - cpu
        self.wall_ns += time.perf_counter_ns() - wall
        self._steps += 1
        return sum(timed.spent_ns for timed in self._timed) - before

    def counting_ns(self) -> float:
        """Nanoseconds that it takes to count the collectives of a step: the least of many rounds."""
        calls = (self.executor.mesh.tp.calls - self._calls) // max(1, self._steps)
        tp, rounds = Communicator("tp", 2, 0, cast(Any, Nowhere()), Board.create(1).ranks[0]), []
        for _ in range(200 if calls else 0):
            start = time.perf_counter_ns()
            for number in range(calls):
                tp._count(Op.ALL_REDUCE, number, 4096, 4096, 12_345, 6_789)
            rounds.append(time.perf_counter_ns() - start)
            tp.take_tallies()
        return min(rounds, default=0.0)


class Cost(NamedTuple):
    """Microseconds a step."""

    records: float  # median
    records_mean: float
    collectives: float
    difference: float
    step: float  # how long it takes

    def __str__(self) -> str:
        share = (self.records_mean + self.collectives) / self.step
        return (
            f"a step of {self.step / 1e3:.2f} ms in a rank: records {self.records:.1f} us, in the mean {self.records_mean:.1f}; "
            f"collectives {self.collectives:.1f} us; by sum {share:.2%} of it; difference in CPU time {self.difference:+.1f} us"
        )


def cost(path: Path, layout: Layout, rows: int, steps: int, endpoint: str) -> Cost:
    with torch.inference_mode(), Emitter(endpoint, path.name, "rank:0") as emitter:
        telling, silent = Rank(path, layout.tp, rows, emitter), Rank(path, layout.tp, rows, None)
        for rank in (telling, silent):
            for _ in range(TURN):
                rank.step()
            rank.cpu_ns = rank.wall_ns = 0
        told: list[int] = []
        differences = []
        for turn in range(max(1, steps // TURN)):
            before = telling.cpu_ns - silent.cpu_ns
            for rank in (telling, silent) if turn % 2 else (silent, telling):
                spent = [rank.step() for _ in range(TURN)]
                told += spent if rank is telling else []
            differences.append((telling.cpu_ns - silent.cpu_ns - before) / TURN)
        found = statistics.median(told), statistics.mean(told), telling.counting_ns(), statistics.median(differences)
        return Cost(*(ns / 1e3 for ns in (*found, silent.wall_ns / len(told))))


def rate(llm: LLM, count: int) -> float:
    """Decode tokens/s."""
    numbers = random.Random(count)
    prompts = [[numbers.randrange(10, 900) for _ in range(64)] for _ in range(count)]
    outs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True))
    first = max(out.metrics.first_token_time for out in outs)
    return count * (NEW - 1) / (max(out.metrics.finished_time for out in outs) - first)


def interval(ratios: list[float]) -> tuple[float, float]:
    """Between which, in 95 of 100 runs, the median lies: two of the ordered ratios, by the binomial distribution (sign test)."""
    ordered, count = sorted(ratios), len(ratios)
    below, tail = 0, 0.5**count
    while tail <= 0.025 and below < (count - 1) // 2:
        below += 1
        tail += math.comb(count, below) * 0.5**count
    below = max(0, below - 1)
    return ordered[below], ordered[-1 - below]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--layout", default="tp2", type=Layout.parse)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    path, name = args.model.resolve(), args.model.resolve().name
    options = {"max_model_len": 1024, "enable_prefix_caching": False, "device": "cpu", **args.layout.asdict()}
    with running_hub(name, args.layout) as endpoint:
        print(cost(path, args.layout, args.concurrency, args.steps, endpoint))
        if not args.pairs:
            return
        with LLM(path, telemetry=False, **options) as silent, LLM(path, hub=endpoint, **options) as telling:
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


if __name__ == "__main__":
    main()

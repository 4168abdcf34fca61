"""The planner against this machine: calibrated predictions beside what our runtime does, in the same minutes.

    python bench/planner.py MODEL [MODEL ...] [--layouts tp1,tp2,pp2,tp2pp2] [--concurrency 1,8] [--rounds 3] [--quiet 60]

Each round calibrates (`shardscope calibrate`) and then runs every layout: prompts of 128 tokens, 48 out, all at once and greedy.
Models in turn, medians over rounds. `others`: cores that processes which are not ours kept busy in a run. Both wait, `--quiet`
seconds at most, until these are less than a tenth of the machine, and a run that was disturbed is made again, twice at most.

A host may change its pace from minute to minute, which no calibration can foresee. `pace` is how long a piece of arithmetic on
one core took around a run, over what it took around its round's calibration. Where either moved by more than 5 %, or they are
further apart, the row is left out; `kept`: rounds that were not. With none kept, the medians are of all and marked with `!`.

  TPOT      milliseconds between tokens after the first, mean over requests; calibrated, and as the catalogue would have said
  KV        tokens that the runtime's cache holds for one attention group
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from runtime.calibrate.check import predicted
from runtime.calibrate.others import Others, await_quiet
from runtime.calibrate.whole import Run, runs
from runtime.layout import Layout
from runtime.llm import LLM
from runtime.planner.calibration import load
from runtime.planner.local import find_device, nominal_cpu
from runtime.planner.memory import precision, rank_memory
from runtime.planner.models import find_model
from runtime.planner.parameters import Scale, find_engine
from runtime.planner.sharding import Sharding
from runtime.rank.nursery import Zygote

ISL, OSL, LONGEST = 128, 48, 2048
DISTURBED = 0.15  # cores
MOVED = 0.05  # of the pace
FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def measured(llm: LLM, concurrency: list[int], quiet: float) -> tuple[list[Run], float]:
    """The least disturbed of three tries, and the cores that others kept busy in it."""
    tries = []
    for _ in range(3):
        await_quiet(quiet)
        others = Others()
        tries.append((runs(llm, concurrency, rounds=3, isl=ISL, osl=OSL), others.cores))
        if tries[-1][1] < DISTURBED:
            break
    return min(tries, key=lambda each: each[1])


def pace() -> float:
    """Seconds of a piece of arithmetic on one core, the middle one of nine."""
    found = []
    for _ in range(9):
        start, total = time.perf_counter(), 0
        for number in range(500_000):
            total += number
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def steady(*paces: float) -> bool:
    return max(paces) <= (1 + MOVED) * min(paces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--layouts", default="tp1,tp2,pp2,tp2pp2", type=lambda text: list(map(Layout.parse, text.split(","))))
    parser.add_argument("--concurrency", default="1,8", type=lambda text: list(map(int, text.split(","))))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quiet", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=90.0, help="of a calibration")
    args = parser.parse_args()
    found, capacity, guess = defaultdict(list), {}, nominal_cpu()
    with tempfile.TemporaryDirectory() as scratch, Zygote() as zygote:
        file = Path(scratch) / "machine.json"
        for number in range(args.rounds):
            print(f"round {number + 1}: others keep {await_quiet(args.quiet):.2f} cores busy", file=sys.stderr)
            command = [sys.executable, "-m", "shardscope", "calibrate", "--device", "cpu", "--seconds", str(args.seconds)]
            before_it = pace()
            subprocess.run([*command, "-o", str(file)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            calibrated = (before_it, pace())
            for path, layout in itertools.product(args.models, args.layouts):
                device, known = find_device("cpu", None, load(file))
                model = replace(find_model(path), max_position=LONGEST)
                options = {"max_model_len": LONGEST, "enable_prefix_caching": False, "device": "cpu", **layout.asdict()}
                with LLM(path, zygote=zygote, telemetry=False, **options) as llm:
                    form = precision(model, FORMATS[llm.shape.dtype], "plain")
                    start = pace()
                    seen, others = measured(llm, args.concurrency, args.quiet)
                    around = (start, pace())
                    held = (llm._group.kv_blocks - 1) * llm.spec.block_size
                for run in seen:
                    said = predicted(run, model, device, form, known.scale, ISL, OSL)
                    before = predicted(run, model, guess, form, Scale(), ISL, OSL)
                    relative, kept = sum(around) / sum(calibrated), steady(*around, *calibrated)
                    row = (run.tpot, said.tpot, before.tpot, run.ttft, said.ttft, others, relative, kept)
                    found[Path(path).name, str(layout), run.concurrency].append(row)
                    off = said.tpot / run.tpot - 1
                    words = f"{layout} x{run.concurrency}: TPOT {1e3 * run.tpot:.1f} ms, said {off:+.0%}, pace {relative:.2f}"
                    print(words, file=sys.stderr)
                memory = rank_memory(model, Sharding.of(layout), device, form, find_engine("shardscope"))
                capacity[Path(path).name, str(layout)] = (held, memory.kv_tokens)
    titles = f"{'TPOT ms':>9}{'said':>8}{'off':>7}{'guess':>8}{'TTFT':>7}{'off':>7}{'others':>8}{'pace':>6}{'kept':>6}"
    print(f"{'model':<12}{'layout':<8}{'conc':>5}{titles}")
    for (name, layout, count), rows in found.items():
        calm = [row for row in rows if row[-1]]
        shown = calm or rows
        tpot, said, before, ttft, _, others, relative, _ = (statistics.median(column) for column in zip(*shown, strict=True))
        off, late = (statistics.median(row[i + 1] / row[i] - 1 for row in shown) for i in (0, 3))
        print(
            f"{name:<12}{layout:<8}{count:>5}{tpot * 1e3:>9.1f}{said * 1e3:>8.1f}{off:>+7.0%}{before * 1e3:>8.1f}"
            f"{ttft * 1e3:>7.0f}{late:>+7.0%}{others:>8.2f}{relative:>6.2f}{f'{len(calm)}/{len(rows)}':>5}{' ' if calm else '!'}"
        )
    for (name, layout), (held, said) in capacity.items():
        print(f"{name:<12}{layout:<8} KV {held:,} tokens, predicted {said:,} ({said / held - 1:+.1%})")


if __name__ == "__main__":
    main()

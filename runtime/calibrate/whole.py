"""Whole steps of the real runtime, small models of random weights: what the engine adds, and how far predictions are off.

Torch-free: ranks and checkpoints are made by processes of their own.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime import child
from runtime.calibrate.worlds import MeasureFailed
from runtime.layout import Layout
from runtime.llm import LLM
from runtime.rank.nursery import Zygote
from runtime.sampling import SamplingParams

ISL, OSL = 96, 32
# larger than the caches of most machines, small enough to be made in seconds
CHECK = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6, "num_attention_heads": 16}


@dataclass(frozen=True)
class Run:
    """Seconds: to the first token, and between tokens after it; means over the requests."""

    layout: Layout
    concurrency: int
    ttft: float
    tpot: float


def make_checkpoint(place: Path, size: str, **overrides: Any) -> Path:
    """A Llama of random weights in bfloat16. Raises MeasureFailed."""
    settings = ["--set", *(f"{key}={value}" for key, value in overrides.items())] if overrides else []
    order = ["--out", str(place), "--family", "llama", "--size", size, "--dtype", "bfloat16", *settings]
    if child.start("runtime.checkpoint.synthetic", *order, output=sys.stderr.fileno()).wait() != 0:
        raise MeasureFailed(f"the checkpoint to measure with could not be made in {place}")
    return place


@contextmanager
def served(model: Path, layout: Layout, device: str, zygote: Zygote, dtype: str = "bfloat16") -> Iterator[LLM]:
    options: dict[str, Any] = {
        "max_model_len": 1024,
        "enable_prefix_caching": False,
        "device": device,
        "dtype": dtype,
        **layout.asdict(),
    }
    with LLM(model, zygote=zygote, telemetry=False, **options) as llm:
        yield llm


def run(llm: LLM, concurrency: int, isl: int = ISL, osl: int = OSL) -> Run:
    """So many requests at once, of random tokens; the end token is ignored."""
    numbers = random.Random(concurrency * 7919 + isl)
    prompts = [[numbers.randrange(10, llm.shape.vocab_size) for _ in range(isl)] for _ in range(concurrency)]
    outs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=osl, ignore_eos=True))
    times = [(each.metrics.first_token_time or 0.0, each.metrics.finished_time or 0.0) for each in outs]
    tpot = statistics.mean((end - first) / (osl - 1) for first, end in times)
    return Run(llm.spec.layout, concurrency, statistics.mean(first for first, _ in times), tpot)


def runs(llm: LLM, concurrencies: Sequence[int], rounds: int = 3, isl: int = ISL, osl: int = OSL) -> list[Run]:
    """The middle one of some rounds for each, after one that counts for nothing. The rounds take turns."""
    found: dict[int, list[Run]] = {count: [] for count in concurrencies}
    for count in concurrencies:
        run(llm, count, isl, 4)
    for _ in range(rounds):
        for count in concurrencies:
            found[count].append(run(llm, count, isl, osl))
    return [sorted(each, key=lambda one: one.tpot)[len(each) // 2] for each in found.values()]


def engine_step(model: Path, device: str, layer_s: float, zygote: Zygote, several: bool) -> tuple[float, float]:
    """(seconds that the engine adds to a step, the same with stages), from a model whose layers take next to nothing each.

    `several`: whether there can be more ranks than one. The quickest of some rounds: steps of a millisecond are easily disturbed.
    """
    found = []
    for layout in (Layout(), Layout(pp=2))[: 1 + several]:
        with served(model, layout, device, zygote) as llm:
            run(llm, 1, ISL, 4)
            quickest = min(run(llm, 1).tpot for _ in range(6))
            found.append(max(0.0, quickest - llm.shape.num_layers * layer_s))
    return found[0], max(found)

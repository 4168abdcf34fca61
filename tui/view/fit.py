"""Whether a deployment fits into memory: every stage's parts by the planner's formulas, the cache by the runtime's own rule, and
the smallest change that fits. Pure: what the machine has is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any

from runtime.checkpoint.config import ModelShape
from runtime.kv_capacity import cpu_cache_bytes, cuda_cache_bytes, useful_blocks
from runtime.layout import Layout, broken_rules, stage_layers
from runtime.planner.hardware import GIB, read_gpu
from runtime.planner.memory import Precision, Verdict, precision, rank_memory, stage_weights
from runtime.planner.models import Model
from runtime.planner.parameters import find_engine, scalar
from runtime.planner.sharding import Sharding

FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_TYPICAL = 2048  # tokens of a sequence where no limit is asked for


@dataclass(frozen=True)
class Device:
    """A GPU: bytes of all of it, and of what nobody holds now."""

    name: str
    total: float
    free: float


@dataclass(frozen=True)
class Hardware:
    """What ranks may use. `memory`: bytes of the machine or of its control group; `available`: those that are left of them."""

    gpus: tuple[Device, ...]
    memory: float
    available: float


@dataclass(frozen=True)
class Wanted:
    """What of a deployment's settings takes memory; `device`: "cuda" or "cpu", `dtype`: a torch name, neither of them "auto"."""

    layout: Layout
    device: str
    dtype: str
    context: int | None  # tokens of prompt and output; None: as many as fit
    batch: int  # sequences in one step
    step_tokens: int
    share: float  # of a GPU
    kv_bytes: int | None
    block: int
    eager: bool = False


@dataclass(frozen=True)
class StageFit:
    """Bytes of one rank of a stage. `layers`: from and to before. What is `left` can be less than nothing."""

    layers: range
    weights: float
    kv: float
    work: float
    total: float

    @property
    def left(self) -> float:
        return self.total - self.weights - self.kv - self.work


@dataclass(frozen=True)
class Fit:
    """`total`: bytes that a rank may fill, `device` in words. `tokens`: of the cache of one attention group, of which there are
    `groups`; `sequences`: of `length` tokens that all of them hold at once. `remedy`: fields of a spec that make it fit."""

    verdict: Verdict
    device: str
    stages: tuple[StageFit, ...]
    groups: int
    tokens: int
    length: int
    sequences: int
    remedy: dict[str, Any] = field(default_factory=dict)


def fit(wanted: Wanted, model: Model, shape: ModelShape | None, hardware: Hardware) -> Fit:
    """`shape`: of a checkpoint that the runtime can serve; without one, layers are split evenly."""
    found = _judged(wanted, model, shape, hardware)
    if found.verdict.word != "no":
        return found
    for words, other, remedy in _changes(wanted, found, hardware):
        possible = shape is None or not broken_rules(other.layout, shape)
        if possible and _judged(other, model, shape, hardware).verdict.word != "no":
            return replace(found, verdict=replace(found.verdict, change=words), remedy=remedy)
    need = sum(stage.weights + stage.work for stage in found.stages) * wanted.layout.world_size / len(found.stages)
    words = f"a machine with more: weights and work space alone take {need / GIB:,.1f} GiB on all ranks"
    return replace(found, verdict=replace(found.verdict, change=words))


def _judged(wanted: Wanted, model: Model, shape: ModelShape | None, hardware: Hardware) -> Fit:
    layout, cuda = wanted.layout, wanted.device == "cuda"
    form = precision(model, FORMATS[wanted.dtype], "plain")
    sharding = Sharding.of(layout)
    total = min((gpu.total for gpu in hardware.gpus), default=0.0) if cuda else hardware.available / layout.world_size
    name = hardware.gpus[0].name if cuda and hardware.gpus else "this machine"
    layers = _layers(model, shape, layout.pp)
    weights = [_weights(model, sharding, form, len(at), at.start == 0, at.stop == model.layers) for at in layers]
    activations, process = _work(wanted, model, sharding, form, name, total)
    kv_token = [len(at) * model.kv_elements(layout.tp) * form.kv.bytes for at in layers]
    length = wanted.context or model.max_position
    free = hardware.available - layout.world_size * (sum(weights) / layout.pp + activations + process)
    blocks = min(
        _blocks(wanted, total, each + activations, free, wanted.block * token, length)
        for each, token in zip(weights, kv_token, strict=True)
    )
    tokens = max(0, blocks - 1) * wanted.block  # no sequence ever gets the first block
    length = min(length, tokens)
    each_group = min(wanted.batch, tokens // length) if length else 0
    stages = tuple(
        StageFit(at, each, max(0, blocks) * wanted.block * token, activations + process, total)
        for at, each, token in zip(layers, weights, kv_token, strict=True)
    )
    groups = layout.dp * layout.ep
    verdict = _verdict(wanted, hardware, stages, activations, tokens, each_group)
    return Fit(verdict, _device(wanted, hardware, name, total), stages, groups, tokens, length, groups * each_group)


def _layers(model: Model, shape: ModelShape | None, pp: int) -> list[range]:
    if shape is not None:
        return stage_layers(shape, pp)
    cuts = [round(i * model.layers / pp) for i in range(pp + 1)]
    return [range(first, end) for first, end in pairwise(cuts)]


def _weights(model: Model, sharding: Sharding, form: Precision, layers: int, first: bool, last: bool) -> float:
    """Of one rank: its layers, the embedding on the first stage, the head on the last; a tied one is stored for each."""
    vocab = -(-model.vocab // (64 * sharding.tp)) * 64 * model.hidden * form.plain.bytes
    return stage_weights(model, sharding, form, layers) + vocab * (first + last)


def _work(wanted: Wanted, model: Model, sharding: Sharding, form: Precision, name: str, total: float) -> tuple[float, float]:
    """Activations of the largest step, and what a process holds whatever it does."""
    cuda = wanted.device == "cuda"
    gpu = read_gpu(name, {"memory_gib": max(1.0, total / GIB), "bandwidth_gb_s": 1, "tflops": {}, "shared": not cuda})
    engine = replace(find_engine("shardscope"), memory_share=wanted.share, max_batched_tokens=wanted.step_tokens)
    memory = rank_memory(model, sharding, gpu, form, engine)
    return memory.activations, memory.context - (scalar("graphs_gib") * GIB if cuda and wanted.eager else 0.0)


def _blocks(wanted: Wanted, total: float, peak: float, free: float, block: float, length: int) -> int:
    """Of one rank's cache, as `runtime.rank.capacity` decides it. `peak`: of its largest step; `free`: on the machine by then."""
    useful = useful_blocks(wanted.batch, length, wanted.block)
    if wanted.kv_bytes is not None:
        return min(useful, int(wanted.kv_bytes // block))
    if wanted.device == "cuda":
        return int(cuda_cache_bytes(total, wanted.share, peak) // block)
    return min(useful, int(cpu_cache_bytes(free, wanted.layout.world_size) // block))


def _device(wanted: Wanted, hardware: Hardware, name: str, total: float) -> str:
    if wanted.device == "cuda":
        return f"{name}, {wanted.share:.0%} of {total / GIB:.1f} GiB"
    ranks = wanted.layout.world_size
    return f"{hardware.available / GIB:.1f} of {hardware.memory / GIB:.1f} GiB left" + (
        f", for {ranks} ranks" if ranks > 1 else ""
    )


def _verdict(
    wanted: Wanted, hardware: Hardware, stages: Sequence[StageFit], activations: float, tokens: int, sequences: int
) -> Verdict:
    fullest = min(stages, key=lambda stage: stage.left)
    parts = f"weights {fullest.weights / GIB:.2f} + work space {fullest.work / GIB:.2f}"
    room = (wanted.share if wanted.device == "cuda" else 1.0) * fullest.total
    if fullest.weights + activations > room or fullest.weights + fullest.work > fullest.total:
        return Verdict("no", f"{parts} are more than the {room / GIB:.2f} GiB of a rank")
    if tokens < (wanted.context or 1):
        one = f"one sequence needs {wanted.context:,}" if wanted.context else f"a block has {wanted.block}"
        return Verdict("no", f"{parts} of {room / GIB:.2f} GiB leave a cache of {tokens:,} tokens; {one}")
    if fullest.left < 0:
        return Verdict("no", f"{parts} + cache {fullest.kv / GIB:.2f} are more than the {fullest.total / GIB:.2f} GiB of a rank")
    taken = [
        gpu
        for gpu in hardware.gpus[: wanted.layout.world_size]
        if wanted.device == "cuda" and gpu.free < wanted.share * gpu.total
    ]
    if taken:
        free, share = min(gpu.free for gpu in taken) / GIB, wanted.share * fullest.total / GIB
        return Verdict("tight", f"only {free:.1f} GiB of a GPU are free now, the share is {share:.1f}")
    if wanted.context and sequences < wanted.batch:
        return Verdict(
            "tight", f"the cache holds {sequences} of {wanted.batch} sequences of {wanted.context:,} tokens; the others wait"
        )
    if tokens < min(_TYPICAL, wanted.context or _TYPICAL):
        return Verdict("tight", f"the cache holds {tokens:,} tokens in all")
    return Verdict("fits", f"{parts} of {room / GIB:.2f} GiB")


def _changes(wanted: Wanted, found: Fit, hardware: Hardware) -> Iterator[tuple[str, Wanted, dict[str, Any]]]:
    """In order of what they cost those who use it: words, the same with it, the fields that it changes."""
    if wanted.context and found.tokens:
        yield f"a context of {found.tokens:,} tokens", replace(wanted, context=found.tokens), {"max_model_len": found.tokens}
    if wanted.kv_bytes is not None:
        yield "a cache as large as the memory allows", replace(wanted, kv_bytes=None), {"kv_cache_bytes": None}
    if wanted.device == "cuda" and wanted.share < 0.95:
        yield "a memory share of 0.95", replace(wanted, share=0.95), {"gpu_memory_utilization": 0.95}
    if wanted.step_tokens > 512:
        yield "512 tokens a step", replace(wanted, step_tokens=512), {"max_num_batched_tokens": 512}
    ranks = len(hardware.gpus) if wanted.device == "cuda" else wanted.layout.world_size
    for layout in _wider(wanted.layout, ranks):
        how = "on the same ranks" if layout.world_size == wanted.layout.world_size else f"on {layout.world_size} GPUs"
        yield f"{layout} {how}", replace(wanted, layout=layout), layout.asdict()
    if wanted.dtype == "float32":
        yield "bfloat16", replace(wanted, dtype="bfloat16"), {"dtype": "bfloat16"}
        for layout in _wider(wanted.layout, ranks):
            other = replace(wanted, dtype="bfloat16", layout=layout)
            yield f"bfloat16 with {layout}", other, {"dtype": "bfloat16", **layout.asdict()}


def _wider(layout: Layout, ranks: int) -> Iterator[Layout]:
    """Fewer replicas with more of each model split, then more ranks, up to as many as there are."""
    found = []
    for dp in range(1, layout.dp + 1):
        for factor in (2, 4, 8, 16, 32):
            for axis in ("tp", "pp"):
                wider = Layout(**{**layout.asdict(), "dp": dp, axis: getattr(layout, axis) * factor})
                if prod(wider.asdict().values()) <= max(ranks, layout.world_size):
                    found.append(wider)
    yield from sorted(found, key=lambda each: (each.world_size > layout.world_size, each.world_size, -each.dp, each.pp))

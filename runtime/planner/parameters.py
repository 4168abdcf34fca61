"""The numbers that formulas use, from data/parameters.json, where each has its source; and the eight that a machine corrects."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache

from runtime.planner.hardware import Gpu
from runtime.planner.names import PlanError, find, load

Curve = tuple[tuple[float, float], ...]  # (x, y), x ascending


@dataclass(frozen=True)
class Scale:
    """What calibration fits: eight factors on time, 1 as the catalogue says. 1.2: this machine takes a fifth longer."""

    memory: float = 1.0  # reading weights
    compute: float = 1.0  # matrix products
    attention: float = 1.0  # reading the KV cache, attention of prompts
    kernel: float = 1.0  # launching a kernel
    step: float = 1.0  # the engine's own work a step
    latency: float = 1.0  # a collective's start and its wait for the slowest
    link: float = 1.0  # a collective's bytes
    queue: float = 1.0  # what a prompt waits before its turn


SCALES = tuple(field.name for field in fields(Scale))


@dataclass(frozen=True)
class Format:
    """How numbers are stored and multiplied: bytes an element (scales included), the compute type, bytes of activations."""

    name: str
    bytes: float
    compute: str
    activation_bytes: float
    block: int  # a rank's share of a matrix is a whole number of these


@dataclass(frozen=True)
class Engine:
    """What of a serving engine changes the prediction."""

    name: str
    all_reduce: str  # whose measured all-reduce: "nccl", "vllm", "trtllm"
    experts: str  # whose measured layers of experts: "vllm", "sglang", "trtllm"
    memory_share: float  # of the memory, for `share_of`
    share_of: str  # "total": of all, less all that is taken; "allocator": less weights and activations; "free": of the rest
    reserve: str  # "full": a request is admitted with input and output reserved; "mean": it grows into its blocks
    max_batched_tokens: int
    mixes: bool  # whether prompts ride in the steps of requests that decode, or go in passes of their own
    compiles_prompts: bool  # whether a compiler has joined the kernels of a step with prompts
    dispatch: str  # of tokens to experts: "all_to_all", "all_gather", or "nvlink": the first where NVLink is
    stages: str  # how layers are cut: "even", or "balanced" with the LM head
    pipeline_tensors: int  # hidden-size tensors that cross a boundary
    pipeline_split: bool  # whether each tp rank sends its part of them alone
    kv: str  # cache format when none is asked: a name, "same" (8 bits with quantised weights) or "plain" (never quantised)
    built: bool = False  # whether a step is one program, which no interpreter launches kernel by kernel
    prompt_steps: int = 0  # a stage, into which a pipeline cuts the prompts that wait; 0: as many as its token budget asks for
    block: int = 16  # tokens of a cache block
    max_num_seqs: int = 256  # in one step, of one attention group
    cache_bytes: float | None = None  # of a rank's cache; None: as the memory allows


@cache
def scalar(name: str) -> float:
    """A single number of the parameter file, in the unit it is given there."""
    return float(load("parameters")["scalars"][name]["value"])


@cache
def curve(name: str) -> Curve:
    return tuple((float(x), float(y)) for x, y in load("parameters")[name]["points"])


def read_curve(points: Curve, x: float) -> float:
    """Linear in log x between points, flat beyond them."""
    if x <= points[0][0]:
        return points[0][1]
    if x >= points[-1][0]:
        return points[-1][1]
    i = bisect_left(points, (x,))
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    return y0 + (y1 - y0) * math.log(x / x0) / math.log(x1 / x0)


@cache
def find_format(name: str) -> Format:
    """A format by name, `fp4` and the like included. Raises PlanError naming the known ones."""
    data = load("parameters")
    entry = find(data["format_alias"].get(name.lower(), name), dict.fromkeys(data["formats"], ()), "number format")
    given = data["formats"][entry]
    return Format(entry, float(given["bytes"]), given["compute"], float(given["activation_bytes"]), int(given.get("block", 1)))


@cache
def find_engine(name: str) -> Engine:
    engines = load("parameters")["engines"]
    entry = find(name, {engine: given.get("aliases", ()) for engine, given in engines.items()}, "engine")
    given = {key: value for key, value in engines[entry].items() if key not in ("source", "aliases")}
    return Engine(entry, **given)


def engines() -> Sequence[str]:
    return tuple(load("parameters")["engines"])


@dataclass(frozen=True)
class Rates:
    """What one device reaches of its data sheet in one format, before calibration."""

    memory: float  # bytes a second, weights of large matrices
    compute: float  # flops a second, many rows


def rates(gpu: Gpu, form: Format) -> Rates:
    """Measured shares of the data sheet's rates; the mean of the measured devices for one that nobody measured."""
    compute = form.compute
    fallback: Mapping[str, str] = load("parameters")["format_fallback"]
    while compute not in gpu.flops:
        if compute not in fallback:
            raise PlanError(f"{gpu.name} has no rate for {form.name}; it has {', '.join(gpu.flops)}")
        compute = fallback[compute]
    own = gpu.measured.get("matmul", {}).get(compute)
    memory_share, compute_share = own or _shares(gpu.measured_as, "fp8-block" if form.name == "fp8-block" else compute)
    return Rates(gpu.bandwidth * memory_share, gpu.flops[compute] * compute_share)


@cache
def _shares(measured_as: str, compute: str) -> tuple[float, float]:
    tables = {key: value for key, value in load("parameters")["matmul"].items() if isinstance(value, dict)}
    # int8 tensor cores keep fp8's rates where both exist, and bf16's shares where fp8 does not
    for column in {"fp4": ("nvfp4", "fp8"), "int8": ("fp8", "bf16"), "fp32": ("bf16",)}.get(compute, (compute,)):
        if column in tables.get(measured_as, ()):
            memory, compute_share = tables[measured_as][column]
            return float(memory), float(compute_share)
        if measured_as not in tables or column == "bf16":
            break
    column = {"fp4": "nvfp4", "int8": "fp8", "fp32": "bf16"}.get(compute, compute)
    found = [table[column] for table in tables.values() if column in table] or [table["bf16"] for table in tables.values()]
    return sum(m for m, _ in found) / len(found), sum(c for _, c in found) / len(found)


@dataclass(frozen=True)
class Grouped:
    """What a layer of experts reaches: many small products in one launch, each padded to whole tiles."""

    overhead: float  # seconds a layer: permute, launches, un-permute
    memory: float  # bytes a second
    compute: float  # flops a second
    padding: float  # rows that tiles add to each expert


def grouped(gpu: Gpu, form: Format, stack: str) -> Grouped:
    """Measured rates of expert layers; a device or format nobody measured reads its nearest relative's."""
    tables = {key: value for key, value in load("parameters")["grouped"].items() if isinstance(value, dict)}
    table = tables[gpu.measured_as if gpu.measured_as in tables else "h100"]
    instead = load("parameters")["on_fp4_cores"].get(stack, {}).get(form.name)
    if "fp4" in gpu.flops and instead in table.get(stack, ()):
        form = find_format(instead)
    compute = form.compute
    fallback: Mapping[str, str] = load("parameters")["format_fallback"]
    while compute not in gpu.flops and compute in fallback:
        compute = fallback[compute]
    near = {"fp4": "nvfp4", "int8": "fp8", "fp32": "bf16"}.get(compute, compute)
    known = {form: rates for other in (*reversed(table), stack) for form, rates in table.get(other, {}).items()}
    overhead, memory, share, padding = next(known[name] for name in (form.name, near, "bf16") if name in known)
    return Grouped(overhead * 1e-6, gpu.bandwidth * memory, gpu.flops[compute] * share, padding)

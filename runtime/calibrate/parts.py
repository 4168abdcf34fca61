"""The parts of a step, each measured by the operators that serve it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from runtime.calibrate.models import ROWS, Model
from runtime.calibrate.timing import Piece, Stopwatch, beyond
from runtime.model.linear import Linear
from runtime.rank.board import RankStatus
from runtime.rank.config import RankConfig
from telemetry.cgroup import Cgroup

Points = list[list[float]]

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
ROW_COUNTS = (1, 2, 4, 8, 16, 32, 64, 256)
SHAPES = ((1024, 1024), (2048, 4096))  # a difference of two sizes leaves out what a call costs
NOTHING = (64, 64)
POOL_BYTES = 192 << 20  # of weights in turn, so that no cache holds them
_LEAST_BYTES = 128 << 20

_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 256,
}
_DENSE, _MIXTURE = _SMALL | {"intermediate_size": 64}, _SMALL | {"intermediate_size": 32, "num_local_experts": 16}
_CACHED: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "vocab_size": 256, "max_position_embeddings": 4096}
_CACHED |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64, "num_hidden_layers": 4}
_CACHE_BYTES = 4 * 2 * 8 * 64  # of a token, an element
_ATTENTION_FLOPS = 4 * 4 * 16 * 64  # of a pair of tokens
FEW, MANY = 2, 18  # layers
SHORT, MIDDLE, LONG = 64, 256, 1536  # tokens of context
PROMPTS = (128, 512, 1024)


def beyond_caches(device: torch.device) -> torch.Tensor:
    """float32, more of it than the caches hold."""
    return torch.ones(uncached_bytes(device) // 4, device=device)


def uncached_bytes(device: torch.device) -> int:
    """More than the caches hold, as far as there is memory for it in every rank."""
    if device.type != "cpu":
        return _LEAST_BYTES
    last = max((_bytes(file.read_text()) for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")), default=0)
    return max(_LEAST_BYTES, min(last * 5 // 4, Cgroup().memory_available() // 32))


def _bytes(size: str) -> int:
    """As the kernel spells it: 307200K."""
    digits, unit = size.strip()[:-1], size.strip()[-1:]
    return int(digits) << {"K": 10, "M": 20}[unit] if digits.isdigit() and unit in "KM" else 0


def bandwidth(watch: Stopwatch, there: torch.Tensor) -> tuple[float, float]:
    """Bytes a second: `there` read by a sum; read and written by a copy."""
    copy = torch.empty_like(there)
    size = there.numel() * there.element_size()
    read, copied = watch.each([Piece(there.sum), Piece(lambda: copy.copy_(there))])
    return size / read, 2 * size / copied


def products(watch: Stopwatch, dtype: torch.dtype, device: torch.device) -> tuple[Points, Points]:
    """[[rows, seconds a parameter], ...] of weights that come from memory; [[rows, seconds], ...] that a call takes beyond a
    product of no size."""
    sizes = [math.prod(shape) for shape in SHAPES]
    small, large = (_by_rows(watch, shape, dtype, device) for shape in SHAPES)
    each, calls = [], []
    for rows, few, many in zip(ROW_COUNTS, small, large, strict=True):
        slope = (many - few) / (sizes[1] - sizes[0])
        # a large product that was the quicker one says that others disturbed us: then its own rate is the better guess
        each.append([float(rows), slope if slope > 0 else many / sizes[1]])
        if rows in (1, ROWS):
            nothing = Linear(torch.ones(*NOTHING, dtype=dtype, device=device))
            least = watch.seconds(partial(nothing, _rows(rows, NOTHING, dtype, device)))
            calls.append([float(rows), max(0.0, few - each[-1][1] * sizes[0] - least)])
    return each, calls


def _by_rows(watch: Stopwatch, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> list[float]:
    """Seconds of a product for each of ROW_COUNTS, with another matrix at each call."""
    count = max(2, math.ceil(POOL_BYTES / (math.prod(shape) * dtype.itemsize)))
    weights = itertools.cycle([Linear(torch.full(shape, 0.01, dtype=dtype, device=device)) for _ in range(count)])
    return watch.each([Piece(partial(_next_product, weights, _rows(rows, shape, dtype, device))) for rows in ROW_COUNTS])


def _rows(rows: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.full((rows, shape[1]), 0.01, dtype=dtype, device=device)


def _next_product(weights: Iterator[Linear], x: torch.Tensor) -> torch.Tensor:
    return next(weights)(x)


def layers(watch: Stopwatch, config: RankConfig, status: RankStatus, captured: bool) -> dict[str, Any]:
    """What a layer of no size takes, by rows; one with experts, by rows, and each expert that has work; a pass without layers, by
    rows, that finds cold caches.

    `captured`: of a rank that has the whole model, whose decode steps a CUDA device captures.
    """
    plain = [Model(config, status, "llama", SHORT, captured, num_hidden_layers=n, **_DENSE) for n in (FEW, MANY)]
    mixed = [Model(config, status, "mixtral", SHORT, num_hidden_layers=n, **_MIXTURE) for n in (FEW, MANY)]
    dense, moe, rest, touched = [], [], [], []
    pieces = [Piece(partial(model.step, rows, SHORT // 2)) for rows in (1, ROWS) for model in (*plain, *mixed)]
    pieces += [Piece(partial(plain[0].step, rows, SHORT // 2), cold=True) for rows in (1, ROWS)]
    *warm, one, several = watch.each(pieces)
    for rows, (few, many, few_mixed, many_mixed), cold in zip((1, ROWS), (warm[:4], warm[4:]), (one, several), strict=True):
        layer = max(0.0, many - few) / (MANY - FEW)
        dense.append([float(rows), layer])
        rest.append([float(rows), max(0.0, cold - FEW * layer)])
        moe.append([float(rows), max(0.0, many_mixed - few_mixed) / (MANY - FEW)])
        touched.append(16 * (1 - (1 - 2 / 16) ** rows))
    expert = max(0.0, (moe[1][1] - moe[0][1]) - (dense[1][1] - dense[0][1])) / (touched[1] - touched[0])
    without = [[rows, max(0.0, seconds - count * expert)] for (rows, seconds), count in zip(moe, touched, strict=True)]
    return {"layer": dense, "moe_layer": without, "expert": expert, "pass": rest}


def attention(watch: Stopwatch, config: RankConfig, status: RankStatus, rest: float, layer: float) -> dict[str, Points]:
    """Decode: [[bytes of cache read in a layer, bytes a second], ...]; prompts: [[tokens, flops a second], ...].

    What each sequence and head takes however short it is makes small reads slow ones. `rest`: seconds of a pass without layers;
    `layer`: of a layer of no size.
    """
    model = Model(config, status, "llama", LONG + 16, **_CACHED)
    itemsize, layers = getattr(torch, config.dtype).itemsize, _CACHED["num_hidden_layers"]
    contexts = (SHORT, MIDDLE, LONG)
    pieces = [Piece(partial(model.step, ROWS, context), cold=True) for context in contexts]
    pieces += [Piece(partial(model.step, 1, 0, tokens), cold=True) for tokens in PROMPTS]
    found = [beyond(seconds, rest + layers * layer) for seconds in watch.each(pieces)]  # of all layers' attention
    decode, prompts = [], []
    for context, seconds in zip(contexts, found, strict=False):
        read = ROWS * _CACHE_BYTES * itemsize * context
        decode.append([read / layers, read / seconds])
    for tokens, seconds in zip(PROMPTS, found[len(contexts) :], strict=True):
        prompts.append([float(tokens), _ATTENTION_FLOPS * tokens * tokens / 2 / seconds])
    return {"kv": decode, "prompts": prompts}

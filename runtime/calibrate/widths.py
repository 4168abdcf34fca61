"""Products on CPU, measured in whole layers of two widths: a product takes longer between its neighbours than alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import torch

from runtime.calibrate.models import Model
from runtime.calibrate.parts import uncached_bytes
from runtime.calibrate.timing import Piece, Stopwatch, beyond
from runtime.planner.machine import read_power
from runtime.planner.parameters import scalar
from runtime.rank.board import RankStatus
from runtime.rank.config import RankConfig

Points = list[list[float]]

ROW_COUNTS = {"bf16": (1, 2, 4, 8, 16, 32, 64, 256), "fp32": (1, 8, 256)}
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
DECODES = 64  # rows: more of them are a prompt
PRODUCTS = 4  # of a layer, as the runtime joins them
CONTEXT = 32  # tokens before a decode
_KV_HEADS, _HEAD = 4, 64
_CACHED_BYTES = 2 * _KV_HEADS * _HEAD * 2  # of a token in a layer, in bfloat16


class Width(NamedTuple):
    """A model whose products outweigh the rest of its layers."""

    hidden: int
    intermediate: int
    layers: int

    @property
    def shape(self) -> dict[str, Any]:
        heads = {"num_attention_heads": self.hidden // _HEAD, "num_key_value_heads": _KV_HEADS, "head_dim": _HEAD}
        sizes = {"hidden_size": self.hidden, "intermediate_size": self.intermediate, "num_hidden_layers": self.layers}
        return {**sizes, **heads, "vocab_size": 256}

    @property
    def parameters(self) -> int:
        """Of one layer's matrices."""
        return self.hidden * (2 * self.hidden + 2 * _KV_HEADS * _HEAD + 3 * self.intermediate)

    @property
    def moved(self) -> float:
        """Elements that the rest of a layer moves for a row, as the planner counts them."""
        return scalar("elementwise_hidden") * self.hidden + scalar("elementwise_wide") * self.intermediate


NARROW, WIDE = Width(512, 1408, 12), Width(1536, 4096, 3)


def products(
    watch: Stopwatch, config: RankConfig, status: RankStatus, found: Mapping[str, Any], formats: Sequence[str]
) -> tuple[dict[str, Points], Points]:
    """By format [[rows, seconds a parameter], ...]; [[rows, seconds], ...] that each of a layer's products takes beyond one of no
    size, for the rows of `found["layer"]`: a layer of no size. `found` has the rest of what `parts` measures, too.
    """
    tables, calls = {}, []
    for form in formats:
        tables[form], besides = _products(watch, config, status, form, found["pass"], found["read"])
        if form == "bf16":
            for rows, nothing in found["layer"]:
                cached = rows * CONTEXT * _CACHED_BYTES
                attention = cached / read_power(found["kv"], cached, beyond=0.0)
                calls.append([rows, max(0.0, besides[rows] - attention - nothing) / PRODUCTS])
    return tables, calls


def _products(
    watch: Stopwatch, config: RankConfig, status: RankStatus, form: str, rest: Points, read: float
) -> tuple[Points, dict[float, float]]:
    """[[rows, seconds a parameter], ...]; by rows, seconds that a layer takes besides its products."""
    config = msgspec.structs.replace(config, dtype=DTYPES[form])
    itemsize = getattr(torch, config.dtype).itemsize
    second = itemsize / read  # of an element moved
    # so many layers that their weights drive each other out of the caches
    enough = math.ceil(uncached_bytes(torch.device(config.device)) / (WIDE.parameters * itemsize))
    counts, both = ROW_COUNTS[form], (NARROW, WIDE._replace(layers=enough))
    models = [Model(config, status, "llama", counts[-1], sequences=DECODES, **width.shape) for width in both]
    found = watch.each([Piece(_pass(model, n), cold=model is models[0]) for n in counts for model in models])
    each, besides = [], {}
    for rows, *passes in zip(counts, found[::2], found[1::2], strict=True):
        known = rest[0][1] if rows == 1 else rest[-1][1]
        small, large = (beyond(seconds, known) / width.layers for seconds, width in zip(passes, both, strict=True))
        slope = (large - small - rows * second * (WIDE.moved - NARROW.moved)) / (WIDE.parameters - NARROW.parameters)
        # a wide layer that was the quicker one says that others disturbed us: then its own rate is the better guess
        each.append([float(rows), slope if slope > 0 else large / WIDE.parameters])
        besides[float(rows)] = small - rows * second * NARROW.moved - each[-1][1] * NARROW.parameters
    return each, besides


def _pass(model: Model, rows: int) -> Callable[[], None]:
    """Of so many sequences that go on, or of a prompt."""
    return partial(model.step, rows, CONTEXT) if rows <= DECODES else partial(model.step, 1, 0, rows)

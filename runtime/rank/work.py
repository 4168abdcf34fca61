"""What a step asks of a rank's shard, counted from its plan: the FLOPs that the model needs, the bytes that have to be moved.

FLOPs: two a row and parameter of every matrix product, and four a channel of attention for each pair of a new token and one that
it sees (PaLM, appendix B). Bytes: each weight matrix once a step, of the experts only those with a token (embeddings are looked
up, not read); keys and values of what a sequence's new tokens see, once, and of the new tokens, written. What kernels do beyond
that (padding, activations, a second pass over the keys) is no work that the model needs, and not counted.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from runtime.engine.plan import MemberPlan, unpack
from runtime.model.decoder import Stage
from runtime.parallel.mesh import Mesh


class Work(NamedTuple):
    """Of one step on one rank."""

    flops: int
    weight_bytes: int
    kv_bytes: int


class ExpertWork(NamedTuple):
    """Of local experts in one step."""

    rows: int = 0  # that they took
    touched: int = 0  # of all layers' experts, those that had any: whose weights were read


class WorkCounter:
    """Of one shard."""

    def __init__(self, stage: Stage, mesh: Mesh) -> None:
        shape, tp = stage.shape, mesh.tp.size
        itemsize = stage.dtype.itemsize
        self._itemsize = itemsize
        heads, kv = shape.num_heads // tp, stage.kv_heads
        attention = 2 * shape.hidden_size * (heads + kv) * shape.head_dim
        router = shape.hidden_size * shape.num_experts
        plain = 3 * shape.hidden_size * shape.intermediate_size // tp
        self._dense = sum(attention + (router if shape.is_moe_layer(layer) else plain) for layer in mesh.layers)
        self._expert = 3 * shape.hidden_size * shape.expert_intermediate_size // tp
        self._head = 0 if stage.head is None else shape.hidden_size * (stage.head.stop - stage.head.start)
        self._pair_flops = 4 * heads * shape.head_dim
        self._kv_bytes = 2 * kv * shape.head_dim * itemsize
        self._layers = len(mesh.layers)
        self._windows = Counter(shape.sliding_windows[layer] for layer in mesh.layers)
        self._narrowest = min((window for window in self._windows if window is not None), default=None)

    def of(self, plan: MemberPlan, tokens: int, experts: ExpertWork) -> Work:
        """`tokens`: new ones, as many as the plan has."""
        flops = weights = kv = 0
        if tokens:
            wanted = len(plan.wanted) // 4
            pairs, seen = self._decodes(plan) if len(plan.starts) // 4 == tokens else self._attention(plan)
            flops = 2 * (self._dense * tokens + self._head * wanted) + self._pair_flops * pairs
            weights = self._dense + (self._head if wanted else 0)
            kv = self._kv_bytes * (seen + self._layers * tokens)
        flops += 2 * self._expert * experts.rows
        weights += self._expert * experts.touched
        return Work(flops, weights * self._itemsize, kv)

    def _decodes(self, plan: MemberPlan) -> tuple[int, int]:
        """Every sequence has one new token, which is most steps: without numpy, whose calls are dear in cold caches."""
        starts = memoryview(plan.starts).cast("i")
        if self._narrowest is not None and max(starts) >= self._narrowest:
            return self._attention(plan)
        pairs = self._layers * (sum(starts) + len(starts))
        return pairs, pairs

    def _attention(self, plan: MemberPlan) -> tuple[int, int]:
        """(pairs of a new token and one that it sees, tokens whose keys are read), over all layers."""
        starts, counts = unpack(plan.starts), unpack(plan.counts)
        ends = starts + counts
        pairs = seen = 0
        for window, layers in self._windows.items():
            pairs += layers * int((_pairs_before(ends, window) - _pairs_before(starts, window)).sum())
            visible = ends if window is None else np.minimum(ends, window - 1 + counts)
            seen += layers * int(visible.sum())
        return pairs, seen


def _pairs_before(places: np.ndarray, window: int | None) -> np.ndarray:
    """Of the tokens before a place in a sequence, all that each of them sees, itself included."""
    growing = places if window is None else np.minimum(places, window)
    pairs: np.ndarray = growing * (growing + 1) // 2 + (places - growing) * (window or 0)
    return pairs

"""Grouped-query attention, heads divided over tp: projections, rotary angles, and the cache that does the rest."""

from __future__ import annotations

import math

import torch

from runtime.checkpoint.config import ModelShape, RopeScaling
from runtime.model.batch import Batch
from runtime.model.cache import KVCache, Rope
from runtime.model.linear import Loader
from runtime.model.row_kernels import head_norm_
from runtime.parallel.communicator import Communicator


def kv_heads_of(shape: ModelShape, tp: Communicator) -> slice:
    """The kv heads of a rank; with more ranks than kv heads, several hold the same one."""
    if shape.num_kv_heads >= tp.size:
        per_rank = shape.num_kv_heads // tp.size
        return slice(tp.index * per_rank, (tp.index + 1) * per_rank)
    head = tp.index * shape.num_kv_heads // tp.size
    return slice(head, head + 1)


class Rotary:
    """Rotary position embedding (Su et al., arXiv 2104.09864) in the half-split form of Hugging Face's models."""

    def __init__(self, rope: RopeScaling, head_dim: int, max_position: int, dtype: torch.dtype, device: torch.device) -> None:
        inverse = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
        if rope.kind == "linear":
            inverse = inverse / rope.factor
        elif rope.kind == "llama3":
            inverse = _llama3(inverse, rope)
        angles = torch.outer(torch.arange(max_position, dtype=torch.float32), inverse)
        cos, sin = angles.cos(), angles.sin()
        self._cos = torch.cat([cos, cos], -1).to(dtype).to(device)
        self._sin = torch.cat([-sin, sin], -1).to(dtype).to(device)

    def at(self, positions: torch.Tensor) -> Rope:
        """positions [n] -> (cos, signed sin), each [n, 1, head size]."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)


def _llama3(inverse: torch.Tensor, rope: RopeScaling) -> torch.Tensor:
    """Llama 3.1's scaling: long wavelengths divided by `factor`, short ones kept, a smooth passage between."""
    wavelength = 2 * math.pi / inverse
    smooth = (rope.original_max_position / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - smooth) * inverse / rope.factor + smooth * inverse
    long = wavelength > rope.original_max_position / rope.low_freq_factor
    short = wavelength < rope.original_max_position / rope.high_freq_factor
    return torch.where(long, inverse / rope.factor, torch.where(short, inverse, blended))


class Attention:
    """One layer's attention. Two all-reduces a layer are tensor parallelism's price; this is the first."""

    def __init__(self, load: Loader, shape: ModelShape, layer: int) -> None:
        prefix = f"model.layers.{layer}.self_attn"
        self._tp = load.tp
        self._window = shape.sliding_windows[layer]
        self._head_dim = shape.head_dim
        self._heads = shape.num_heads // load.tp.size
        kv = kv_heads_of(shape, load.tp)
        self._kv_heads = kv.stop - kv.start
        self._scale = shape.head_dim**-0.5
        queries = _scaled(load.share(shape.num_heads), shape.head_dim)
        keys = _scaled(kv, shape.head_dim)
        self._qkv = load.column_parallel([f"{prefix}.{p}_proj" for p in "qkv"], [queries, keys, keys])
        self._out = load.row_parallel(f"{prefix}.o_proj", queries)
        self._qk_norm = None
        self._eps = shape.rms_norm_eps
        if shape.qk_norm:
            q, k = load.full(f"{prefix}.q_norm.weight"), load.full(f"{prefix}.k_norm.weight")
            self._qk_norm = torch.cat([q.expand(self._heads, -1), k.expand(self._kv_heads, -1)])

    def __call__(self, x: torch.Tensor, batch: Batch, rope: Rope, cache: KVCache) -> torch.Tensor:
        """x [tokens, hidden] -> [tokens, hidden]."""
        n, heads, kv = x.shape[0], self._heads, self._kv_heads
        qkv = self._qkv(x).view(n, heads + 2 * kv, self._head_dim)
        if self._qk_norm is not None:
            head_norm_(qkv, self._qk_norm, self._eps)
        return self._tp.all_reduce(self._out(cache.attend(qkv, batch, rope, self._window, self._scale)))


def _scaled(heads: slice, head_dim: int) -> slice:
    return slice(heads.start * head_dim, heads.stop * head_dim)

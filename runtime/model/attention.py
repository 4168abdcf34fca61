"""Grouped-query attention over a paged cache, heads divided over tp.

The cache is kept head by head, [kv heads, blocks, block size, head size]: gathering a sequence's blocks with one
`index_select` gives matrices that batched products take as they are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from runtime.checkpoint.config import ModelShape, RopeScaling
from runtime.model.batch import Batch, Chunk, DecodeGroup
from runtime.model.linear import Loader
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

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """positions [n] -> (cos, signed sin), each [n, 1, head size]."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)


def rotate_(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """x [n, heads, head size], in place. `sin` carries the sign of the rotated half."""
    swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    x.mul_(cos).addcmul_(swapped, sin)


def _llama3(inverse: torch.Tensor, rope: RopeScaling) -> torch.Tensor:
    """Llama 3.1's scaling: long wavelengths divided by `factor`, short ones kept, a smooth passage between."""
    wavelength = 2 * math.pi / inverse
    smooth = (rope.original_max_position / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - smooth) * inverse / rope.factor + smooth * inverse
    long = wavelength > rope.original_max_position / rope.low_freq_factor
    short = wavelength < rope.original_max_position / rope.high_freq_factor
    return torch.where(long, inverse / rope.factor, torch.where(short, inverse, blended))


class KVCache:
    """Keys and values of one layer: the heads' keys, then their values, each [blocks x block size, head size].

    Zeroed, so that a padded place never holds a NaN.
    """

    __slots__ = ("_flat", "_heads", "places")

    def __init__(self, heads: int, blocks: int, block_size: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._heads = heads
        self.places = _zeros((2 * heads, blocks * block_size, head_dim), dtype, device)
        self._flat = self.places.view(2 * heads * blocks, block_size * head_dim)

    def write(self, slots: torch.Tensor, keys_values: torch.Tensor) -> None:
        """slots int64 [n]; keys_values [n, 2 x heads, head size], keys first."""
        self.places.index_copy_(1, slots, keys_values.transpose(0, 1))

    def gather(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """rows int64 [2 x heads x ...]: (head, block) pairs -> keys and values, each [heads x ..., block size x head size]."""
        keys, values = self._flat.index_select(0, rows).chunk(2)
        return keys, values

    def span(self, places: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Places that follow one another -> keys and values, each [heads, length, head size], without a copy."""
        part = self.places[:, places]
        return part[: self._heads], part[self._heads :]


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On CPU from untouched pages: memory is taken as blocks are first used. torch.zeros would write every byte."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(size)


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

    def __call__(self, x: torch.Tensor, batch: Batch, rope: tuple[torch.Tensor, torch.Tensor], cache: KVCache) -> torch.Tensor:
        """x [tokens, hidden] -> [tokens, hidden]."""
        n, heads, kv = x.shape[0], self._heads, self._kv_heads
        qkv = self._qkv(x).view(n, heads + 2 * kv, self._head_dim)
        turned = qkv[:, : heads + kv]
        if self._qk_norm is not None:
            turned.copy_(F.rms_norm(turned, (self._head_dim,), None, self._eps).mul_(self._qk_norm))
        rotate_(turned, *rope)
        cache.write(batch.slots, qkv[:, heads:])
        queries = qkv[:, :heads]
        if len(batch.groups) == 1 and not batch.chunks:
            mixed = self._decode(queries, batch.groups[0], cache)
        else:
            parts = [self._decode(queries[group.tokens], group, cache) for group in batch.groups]
            parts += [self._chunk(queries[chunk.tokens], chunk, cache) for chunk in batch.chunks]
            mixed = torch.cat(parts) if len(parts) > 1 else parts[0]
        return self._tp.all_reduce(self._out(mixed))

    def _decode(self, queries: torch.Tensor, group: DecodeGroup, cache: KVCache) -> torch.Tensor:
        """queries [n, heads, head size], one new token each -> [n, heads x head size].

        The query heads that share a kv head are the rows of one product.
        """
        n, kv, dim, length = queries.shape[0], self._kv_heads, self._head_dim, group.length
        keys, values = cache.gather(group.gather)
        grouped = (queries * self._scale).view(n, kv, -1, dim).transpose(0, 1).reshape(kv * n, -1, dim)
        scores = torch.bmm(grouped, keys.view(kv * n, length, dim).transpose(1, 2))
        scores.view(kv, n, -1, length).add_(group.bias[self._window])
        mixed = torch.bmm(torch.softmax(scores, -1), values.view(kv * n, length, dim))
        return mixed.view(kv, n, -1, dim).transpose(0, 1).reshape(n, -1)

    def _chunk(self, queries: torch.Tensor, chunk: Chunk, cache: KVCache) -> torch.Tensor:
        """queries [n, heads, head size] of one sequence -> [n, heads x head size]."""
        n, kv, dim = queries.shape[0], self._kv_heads, self._head_dim
        if chunk.span is not None:
            keys, values = cache.span(chunk.span)
        else:
            keys, values = (part.view(kv, -1, dim)[:, : chunk.length] for part in cache.gather(chunk.gather))
        mask = chunk.mask[self._window]
        if n == 1:
            # the query heads of a kv head stand in for several new tokens
            grouped = queries.reshape(1, kv, -1, dim)
            return F.scaled_dot_product_attention(
                grouped, keys.unsqueeze(0), values.unsqueeze(0), attn_mask=mask, scale=self._scale
            ).view(1, -1)
        grouped = queries.unflatten(1, (kv, -1)).permute(1, 2, 0, 3)
        shared = (kv, grouped.shape[1], -1, -1)
        keys, values = keys.unsqueeze(1).expand(shared), values.unsqueeze(1).expand(shared)
        causal = chunk.causal and mask is None
        mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, is_causal=causal, scale=self._scale)
        return mixed.permute(2, 0, 1, 3).reshape(n, -1)


def _scaled(heads: slice, head_dim: int) -> slice:
    return slice(heads.start * head_dim, heads.stop * head_dim)

"""The paged cache of one layer, and attention over it by torch's own operators or, for decodes on CPU, by a kernel of ours.

Kept head by head, [kv heads, blocks, block size, head size]: gathering a sequence's blocks with one `index_select` gives
matrices that batched products take as they are.
"""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from runtime.model.batch import Batch, Chunk, DecodeGroup, Paged
from runtime.model.decode_kernel import DecodeKernel

QUERY_BLOCK = 128


Rope = tuple[torch.Tensor, torch.Tensor]


class KVCache(Protocol):
    """One layer's keys and values. `paged`: which sequences its batches must have in `tables`."""

    paged: ClassVar[Paged]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that it holds."""
        ...

    def attend(self, qkv: torch.Tensor, batch: Batch, rope: Rope, window: int | None, scale: float) -> torch.Tensor:
        """qkv [n, query heads + 2 x kv heads, head size], overwritten -> [n, query heads x head size].

        Rotates queries and keys by `rope`, (cos, signed sin) [n, 1, head size] each, and keeps keys and values.
        """
        ...


def rotate_(x: torch.Tensor, rope: Rope) -> None:
    """x [n, heads, head size], in place. The sine carries the sign of the rotated half."""
    cos, sin = rope
    swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    x.mul_(cos).addcmul_(swapped, sin)


class GatheredCache:
    """Zeroed, so that a padded place never holds a NaN."""

    __slots__ = ("_block_size", "_dim", "_flat", "_heads", "_places")

    paged: ClassVar[Paged] = Paged.NONE

    def __init__(self, heads: int, blocks: int, block_size: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._heads, self._dim, self._block_size = heads, head_dim, block_size
        self._places = _zeros((2 * heads, blocks * block_size, head_dim), dtype, device)
        self._flat = self._places.view(2 * heads * blocks, block_size * head_dim)

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [self._places]

    def attend(self, qkv: torch.Tensor, batch: Batch, rope: Rope, window: int | None, scale: float) -> torch.Tensor:
        queries = self._keep(qkv, batch.slots, rope)
        parts = [self._decode(queries[group.tokens], group, window, scale) for group in batch.groups]
        parts += [self._chunk(queries[chunk.tokens], chunk, window, scale) for chunk in batch.chunks]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _keep(self, qkv: torch.Tensor, slots: torch.Tensor, rope: Rope) -> torch.Tensor:
        """Rotates, writes keys and values to their places: int64 [n]; gives the queries."""
        queries = qkv.shape[1] - 2 * self._heads
        rotate_(qkv[:, : queries + self._heads], rope)
        self._places.index_copy_(1, slots, qkv[:, queries:].transpose(0, 1))
        return qkv[:, :queries]

    def _gather(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """rows int64 [2 x heads x ...]: (head, block) pairs -> keys and values, each [heads x ..., block size x head size]."""
        keys, values = self._flat.index_select(0, rows).chunk(2)
        return keys, values

    def _decode(self, queries: torch.Tensor, group: DecodeGroup, window: int | None, scale: float) -> torch.Tensor:
        """queries [n, query heads, head size], one new token each; those that share a kv head are the rows of one product."""
        n, kv, dim, length = queries.shape[0], self._heads, self._dim, group.length
        keys, values = self._gather(group.gather)
        grouped = (queries * scale).view(n, kv, -1, dim).transpose(0, 1).reshape(kv * n, -1, dim)
        scores = torch.bmm(grouped, keys.view(kv * n, length, dim).transpose(1, 2))
        scores.view(kv, n, -1, length).add_(group.bias[window])
        mixed = torch.bmm(torch.softmax(scores, -1), values.view(kv * n, length, dim))
        return mixed.view(kv, n, -1, dim).transpose(0, 1).reshape(n, -1)

    def _chunk(self, queries: torch.Tensor, chunk: Chunk, window: int | None, scale: float) -> torch.Tensor:
        """queries [n, query heads, head size] of one sequence."""
        n, kv, dim = queries.shape[0], self._heads, self._dim
        if chunk.span is not None:
            places = self._places[:, chunk.span]
            keys, values = places[:kv], places[kv:]
        else:
            keys, values = (part.view(kv, -1, dim)[:, : chunk.length] for part in self._gather(chunk.gather))
        mask = chunk.mask[window]
        if n == 1:
            # the query heads of a kv head stand in for several new tokens
            grouped, keys, values = queries.reshape(1, kv, -1, dim), keys.unsqueeze(0), values.unsqueeze(0)
            return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale).view(1, -1)
        if queries.device.type == "cpu":
            return _by_query_block(queries, keys, values, mask, scale)
        if mask is None and n < chunk.length:
            mask = torch.ones(n, chunk.length, dtype=torch.bool, device=queries.device).tril(chunk.length - n)
        grouped = queries.unflatten(1, (kv, -1)).permute(1, 2, 0, 3)
        shared = (kv, grouped.shape[1], -1, -1)
        keys, values = keys.unsqueeze(1).expand(shared), values.unsqueeze(1).expand(shared)
        mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale)
        return mixed.permute(2, 0, 1, 3).reshape(n, -1)


class CompiledCache(GatheredCache):
    """On CPU: sequences of one new token by a kernel that reads blocks in place."""

    __slots__ = ()

    paged: ClassVar[Paged] = Paged.DECODES

    def attend(self, qkv: torch.Tensor, batch: Batch, rope: Rope, window: int | None, scale: float) -> torch.Tensor:
        if batch.tables is None:
            return super().attend(qkv, batch, rope, window, scale)
        cos, sin = rope
        single = batch.tables.lengths.shape[0]
        kernel = DecodeKernel(qkv.dtype, self._dim, qkv.shape[1] // self._heads - 2)
        one = kernel(qkv[:single], (cos[:single], sin[:single]), self._places, self._block_size, batch.tables, window, scale)
        if not batch.chunks:
            return one
        queries = self._keep(qkv[single:], batch.slots[single:], (cos[single:], sin[single:]))
        at = [slice(chunk.tokens.start - single, chunk.tokens.stop - single) for chunk in batch.chunks]
        more = [self._chunk(queries[part], chunk, window, scale) for part, chunk in zip(at, batch.chunks, strict=True)]
        return torch.cat([one, *more])


def _by_query_block(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Causal attention of the last n places: queries [n, query heads, head size], keys and values [heads, length, head size].

    Each block of queries multiplies the keys up to its own end. torch's fused kernel for CPU took 1.7 times as long for a
    prompt of 1,024 tokens in bfloat16 (2026-11-21, AMD Zen 4).
    """
    kv, length, dim = keys.shape
    before = length - queries.shape[0]
    parts = []
    for start in range(0, queries.shape[0], QUERY_BLOCK):
        block = queries[start : start + QUERY_BLOCK]
        n = block.shape[0]
        end = before + start + n
        grouped = (block * scale).unflatten(1, (kv, -1)).permute(1, 2, 0, 3).reshape(kv, -1, dim)
        scores = torch.bmm(grouped, keys[:, :end].transpose(1, 2)).view(kv, -1, n, end)
        if mask is None:
            ahead = torch.ones(n, n, dtype=torch.bool).triu_(1)
            scores[..., end - n :].masked_fill_(ahead, -torch.inf)
        else:
            scores.masked_fill_(~mask[start : start + n, :end], -torch.inf)
        mixed = torch.bmm(torch.softmax(scores, -1).view(kv, -1, end), values[:, :end])
        parts.append(mixed.view(kv, -1, n, dim).permute(2, 0, 1, 3).reshape(n, -1))
    return torch.cat(parts)


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On CPU from untouched pages: memory is taken as blocks are first used. torch.zeros would write every byte."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(size)

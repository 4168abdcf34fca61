"""Attention over a paged cache by the flash-attn package (Dao, arXiv 2307.08691), on CUDA where it is installed.

Its kernels read the blocks in place. They take half precision and blocks of a multiple of 256 tokens.
"""

from __future__ import annotations

import importlib.util
from typing import ClassVar

import torch

from runtime.model.batch import Batch, Paged
from runtime.model.cache import Rope, rotate_

BLOCK = 256


def usable(device: torch.device, dtype: torch.dtype, block_size: int) -> bool:
    """Whether flash-attn is there and takes this cache."""
    half = dtype in (torch.float16, torch.bfloat16)
    return device.type == "cuda" and half and block_size % BLOCK == 0 and importlib.util.find_spec("flash_attn") is not None


class FlashCache:
    """Keys and values [blocks, block size, heads, head size]."""

    __slots__ = ("_heads", "_keys", "_values")

    paged: ClassVar[Paged] = Paged.ALL

    def __init__(self, heads: int, blocks: int, block_size: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._heads = heads
        self._keys = torch.zeros((blocks, block_size, heads, head_dim), dtype=dtype, device=device)
        self._values = torch.zeros_like(self._keys)

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [self._keys, self._values]

    def attend(self, qkv: torch.Tensor, batch: Batch, rope: Rope, window: int | None, scale: float) -> torch.Tensor:
        from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache

        heads = qkv.shape[1] - 2 * self._heads
        rotate_(qkv[:, : heads + self._heads], rope)
        queries, keys, values = qkv.split([heads, self._heads, self._heads], 1)
        self._keys.flatten(0, 1).index_copy_(0, batch.slots, keys)
        self._values.flatten(0, 1).index_copy_(0, batch.slots, values)
        tables = batch.tables
        assert tables is not None
        # a window of w tokens sees itself and w - 1 before it
        common = {"softmax_scale": scale, "causal": True, "window_size": (-1 if window is None else window - 1, 0)}
        if tables.longest_query == 1:
            mixed = flash_attn_with_kvcache(
                queries.unsqueeze(1),
                self._keys,
                self._values,
                cache_seqlens=tables.lengths,
                block_table=tables.blocks,
                **common,
            )
        else:
            mixed = flash_attn_varlen_func(
                queries,
                self._keys,
                self._values,
                cu_seqlens_q=tables.query_ends,
                cu_seqlens_k=tables.key_ends,
                max_seqlen_q=tables.longest_query,
                max_seqlen_k=tables.longest_key,
                block_table=tables.blocks,
                **common,
            )
        flat: torch.Tensor = mixed.reshape(queries.shape[0], -1)
        return flat

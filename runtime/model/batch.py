"""One step's tokens, as the layers see them: positions, where their keys and values go, what each sequence may look at.

Made once a step from the rank's block tables by tensor operations, then shared by all layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

PAD_RATIO = 1.25  # a decode group's longest context over its shortest, at most (beyond PAD_BLOCKS)
PAD_BLOCKS = 4


@dataclass(frozen=True)
class DecodeGroup:
    """Consecutive sequences of one new token each and similar contexts, computed together.

    `gather` int64 [2 x kv heads x sequences x blocks]: rows of the cache. `bias` by sliding window: [sequences, 1, length],
    zero or minus infinity.
    """

    tokens: slice
    gather: torch.Tensor
    bias: dict[int | None, torch.Tensor]
    length: int


@dataclass(frozen=True)
class Chunk:
    """One or more new tokens of one sequence, computed by themselves.

    `span`: its places in the cache when its blocks follow one another, which spares the gathering; else `gather`. `mask` by
    window: [new, length] bool, or None where every new token sees all that came before it.
    """

    tokens: slice
    span: slice | None
    gather: torch.Tensor
    mask: dict[int | None, torch.Tensor | None]
    causal: bool
    length: int


@dataclass(frozen=True)
class Batch:
    """`tokens`, `positions`, `slots` int64 [n]; `slots` index the cache's token places. `wanted` int64: tokens with logits."""

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    wanted: torch.Tensor
    groups: list[DecodeGroup] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.tokens.shape[0]


class BlockTables:
    """The blocks of every row, kept on the host; and how a cache of (kv heads, blocks, block size) is indexed.

    A row is a sequence's place in the rank's tables, given by the engine.
    """

    def __init__(
        self, rows: int, max_blocks: int, block_size: int, num_blocks: int, kv_heads: int, windows: tuple[int | None, ...]
    ) -> None:
        self._table = np.zeros((rows, max_blocks), dtype=np.int64)
        self._block_size, self._num_blocks = block_size, num_blocks
        self._heads = np.arange(2 * kv_heads, dtype=np.int64)[:, None] * num_blocks  # keys, then values
        self._windows = sorted(set(windows), key=lambda w: w or 0)

    def extend(self, additions: np.ndarray) -> None:
        """additions [k, 3]: (row, index in the row, block)."""
        if additions.size:
            self._table[additions[:, 0], additions[:, 1]] = additions[:, 2]

    def batch(
        self,
        rows: np.ndarray,
        starts: np.ndarray,
        counts: np.ndarray,
        tokens: np.ndarray,
        wanted: np.ndarray,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Batch:
        """rows, starts, counts [sequences]: sequence i computes positions starts[i] .. starts[i] + counts[i] - 1.

        wanted: indices of the sequences whose last token's logits are asked for.
        """
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        first = ends - counts
        positions = np.arange(total) - np.repeat(first - starts, counts)
        owner = np.repeat(rows, counts)
        slots = self._table[owner, positions // self._block_size] * self._block_size + positions % self._block_size

        def put(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        contexts = starts + counts
        single = int(np.argmin(np.append(counts, 2) == 1))  # the leading sequences of one new token
        if single == 1:
            single = 0  # alone, a sequence is better off as a chunk
        groups = [self._group(rows, contexts, i, j, dtype, device) for i, j in _similar(self._blocks(contexts[:single]))]
        chunks = [
            self._chunk(int(rows[i]), int(starts[i]), slice(int(first[i]), int(ends[i])), device)
            for i in range(single, len(rows))
        ]
        return Batch(put(tokens), put(positions), put(slots), put(ends[wanted] - 1), groups, chunks)

    def _blocks(self, contexts: np.ndarray) -> np.ndarray:
        return -(-contexts // self._block_size)

    def _gather(self, blocks: np.ndarray, device: torch.device) -> torch.Tensor:
        return torch.from_numpy((self._heads + blocks.reshape(1, -1)).reshape(-1)).to(device, non_blocking=True)

    def _group(
        self, rows: np.ndarray, contexts: np.ndarray, i: int, j: int, dtype: torch.dtype, device: torch.device
    ) -> DecodeGroup:
        mine = contexts[i:j, None]
        width = int(self._blocks(contexts[i:j]).max())
        length = width * self._block_size
        places = np.arange(length)[None, :]
        bias = {}
        for window in self._windows:
            hidden = places >= mine
            if window is not None:
                hidden |= places < mine - window
            plain = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(torch.from_numpy(hidden), -torch.inf)
            bias[window] = plain.unsqueeze(1).to(device, non_blocking=True)
        return DecodeGroup(slice(i, j), self._gather(self._table[rows[i:j], :width], device), bias, length)

    def _chunk(self, row: int, start: int, tokens: slice, device: torch.device) -> Chunk:
        count = tokens.stop - tokens.start
        end = start + count
        blocks = self._table[row, : -(-end // self._block_size)]
        span = None
        if (np.diff(blocks) == 1).all():
            place = int(blocks[0]) * self._block_size
            span = slice(place, place + end)
        gather = self._gather(blocks if span is None else blocks[:0], device)
        query, key = np.arange(start, end)[:, None], np.arange(end)[None, :]
        mask: dict[int | None, torch.Tensor | None] = {}
        for window in self._windows:
            if window is not None and window < end:
                mask[window] = torch.from_numpy((key <= query) & (key > query - window)).to(device)
            elif start and count > 1:
                mask[window] = torch.from_numpy(key <= query).to(device)
            else:
                mask[window] = None
        return Chunk(tokens, span, gather, mask, count > 1, end)


def _similar(blocks: np.ndarray) -> list[tuple[int, int]]:
    """Cut a run of context lengths (in blocks) into runs whose padding is small."""
    runs: list[tuple[int, int]] = []
    begin, low, high = 0, 0, 0
    for i, n in enumerate(blocks.tolist()):
        if i > begin and (max(high, n) > PAD_RATIO * min(low, n) and max(high, n) > min(low, n) + PAD_BLOCKS):
            runs.append((begin, i))
            begin = i
        low, high = (n, n) if i == begin else (min(low, n), max(high, n))
    if len(blocks):
        runs.append((begin, len(blocks)))
    return runs

"""One step's tokens, as the layers see them: positions, where their keys and values go, what each sequence may look at.

Made once a step from the rank's block tables by tensor operations, then shared by all layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from runtime.model.decoder import Stage

PAD_RATIO = 1.25  # a decode group's longest context over its shortest, at most (beyond PAD_BLOCKS)
PAD_BLOCKS = 4


class Paged(Enum):
    """Which sequences of a batch are in `tables`: those whose cache is read in place."""

    NONE = 0
    DECODES = 1
    ALL = 2


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
    window: [new, length] bool, what a new token sees, or None where that is all that came before it.
    """

    tokens: slice
    span: slice | None
    gather: torch.Tensor
    mask: dict[int | None, torch.Tensor | None]
    length: int


@dataclass(frozen=True)
class PagedTables:
    """Sequences of a batch, the first ones, for a kernel that reads blocks in place.

    int32: `blocks` [sequences, width], `lengths` [sequences], `query_ends` and `key_ends` [sequences + 1], cumulative from 0.
    """

    blocks: torch.Tensor
    lengths: torch.Tensor
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    longest_query: int
    longest_key: int


@dataclass(frozen=True)
class Batch:
    """`tokens`, `positions`, `slots` int64 [n]; `slots` index the cache's token places. `wanted` int64: tokens with logits.

    Sequences are in `tables`, `groups` or `chunks`, as the cache wants them: decodes first.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    wanted: torch.Tensor
    groups: list[DecodeGroup] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    tables: PagedTables | None = None

    @property
    def size(self) -> int:
        return self.tokens.shape[0]

    def tensors(self) -> list[torch.Tensor]:
        """All that a step of decodes reads, in a fixed order."""
        found = [self.tokens, self.positions, self.slots, self.wanted]
        for group in self.groups:
            found += [group.gather, *group.bias.values()]
        if self.tables is not None:
            found += [self.tables.blocks, self.tables.lengths]
        return found


class BlockTables:
    """The blocks of every row, kept on the host; and how a cache of (kv heads, blocks, block size) is indexed.

    A row is a sequence's place in the rank's tables, given by the engine.
    """

    def __init__(self, rows: int, max_blocks: int, block_size: int, num_blocks: int, stage: Stage) -> None:
        self._table = np.zeros((rows, max_blocks), dtype=np.int64)
        self._block_size = block_size
        self._heads = np.arange(2 * stage.kv_heads, dtype=np.int64)[:, None] * num_blocks  # keys, then values
        self._windows = sorted(set(stage.shape.sliding_windows), key=lambda w: w or 0)
        self._paged = stage.paged
        self._dtype, self._device = stage.dtype, stage.device

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
        put, contexts = self._put, starts + counts
        inputs = put(tokens), put(positions), put(slots), put(ends[wanted] - 1)
        if self._paged is Paged.ALL:
            return Batch(*inputs, tables=self._tables(rows, counts, contexts))
        single = int(np.argmin(np.append(counts, 2) == 1))  # the leading sequences of one new token
        tables, groups = None, []
        if self._paged is Paged.DECODES and single:
            tables = self._tables(rows[:single], counts[:single], contexts[:single])
        elif single == 1:
            single = 0  # alone, a sequence is better off as a chunk
        else:
            runs = _similar(self._blocks(contexts[:single]))
            groups = [self._group(rows[i:j], contexts[i:j], slice(i, j)) for i, j in runs]
        chunks = [self._chunk(int(rows[i]), int(starts[i]), slice(int(first[i]), int(ends[i]))) for i in range(single, len(rows))]
        return Batch(*inputs, groups, chunks, tables)

    def _blocks(self, contexts: np.ndarray) -> np.ndarray:
        return -(-contexts // self._block_size)

    def decodes(self, rows: np.ndarray, starts: np.ndarray, tokens: np.ndarray, size: int, width: int) -> Batch:
        """One new token a row, all wanted, padded to `size` sequences and `width` blocks: what a captured graph takes.

        What is added belongs to block 0.
        """
        added = size - len(rows)
        starts, tokens = np.pad(starts, (0, added)), np.pad(tokens, (0, added))
        blocks = np.zeros((size, width), dtype=np.int64)
        known = min(width, self._table.shape[1])
        blocks[: len(rows), :known] = self._table[rows, :known]
        slots = blocks[np.arange(size), starts // self._block_size] * self._block_size + starts % self._block_size
        put, contexts = self._put, starts + 1
        inputs = put(tokens), put(starts), put(slots), put(np.arange(size))
        if self._paged is not Paged.NONE:
            return Batch(*inputs, tables=self._paged_tables(blocks, np.ones_like(starts), contexts))
        return Batch(*inputs, groups=[self._padded_group(blocks, contexts, slice(0, size))])

    def width(self, starts: np.ndarray) -> int:
        """Blocks of the longest context once a token is added to each."""
        return int(self._blocks(starts + 1).max())

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def _tables(self, rows: np.ndarray, counts: np.ndarray, contexts: np.ndarray) -> PagedTables:
        width = int(self._blocks(contexts).max(initial=1))
        return self._paged_tables(self._table[rows, :width], counts, contexts)

    def _paged_tables(self, blocks: np.ndarray, counts: np.ndarray, contexts: np.ndarray) -> PagedTables:
        def ends(lengths: np.ndarray) -> torch.Tensor:
            return self._put(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))

        lengths = self._put(contexts.astype(np.int32))
        longest = int(counts.max(initial=1)), int(contexts.max(initial=1))
        return PagedTables(self._put(blocks.astype(np.int32)), lengths, ends(counts), ends(contexts), *longest)

    def _gather(self, blocks: np.ndarray) -> torch.Tensor:
        return self._put((self._heads + blocks.reshape(1, -1)).reshape(-1))

    def _group(self, rows: np.ndarray, contexts: np.ndarray, tokens: slice) -> DecodeGroup:
        width = int(self._blocks(contexts).max())
        return self._padded_group(self._table[rows, :width], contexts, tokens)

    def _padded_group(self, blocks: np.ndarray, contexts: np.ndarray, tokens: slice) -> DecodeGroup:
        length = blocks.shape[1] * self._block_size
        mine, places = contexts[:, None], np.arange(length)[None, :]
        bias = {}
        for window in self._windows:
            hidden = places >= mine
            if window is not None:
                hidden |= places < mine - window
            plain = torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(torch.from_numpy(hidden), -torch.inf)
            bias[window] = plain.unsqueeze(1).to(self._device, non_blocking=True)
        return DecodeGroup(tokens, self._gather(blocks), bias, length)

    def _chunk(self, row: int, start: int, tokens: slice) -> Chunk:
        count = tokens.stop - tokens.start
        end = start + count
        blocks = self._table[row, : -(-end // self._block_size)]
        span = None
        if (np.diff(blocks) == 1).all():
            place = int(blocks[0]) * self._block_size
            span = slice(place, place + end)
        gather = self._gather(blocks if span is None else blocks[:0])
        query, key = np.arange(start, end)[:, None], np.arange(end)[None, :]
        mask: dict[int | None, torch.Tensor | None] = {}
        for window in self._windows:
            limited = window is not None and window < end
            mask[window] = self._put((key <= query) & (key > query - window)) if limited else None
        return Chunk(tokens, span, gather, mask, end)


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

"""Decode steps as captured CUDA graphs: one launch in place of a thousand.

A graph is captured for a number of sequences and a number of blocks, both rounded up, at their first use; a step copies its
inputs into the graph's own tensors and replays it. Graphs serve a rank that has the whole model: no collective is inside, so
none goes unmeasured, and no expert's share of tokens has to come to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from runtime.model.batch import Batch, BlockTables
from runtime.model.decoder import Stage

Work = Callable[[], torch.Tensor]
Capture = Callable[[Work], tuple[torch.Tensor, Callable[[], None]]]

MIN_BLOCKS = 8


@dataclass(frozen=True)
class _Graph:
    inputs: Batch
    logits: torch.Tensor
    replay: Callable[[], None]


class CudaCapture:
    """Captures work whose memory comes from one pool that all graphs share: they never run at the same time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> tuple[torch.Tensor, Callable[[], None]]:
        """(the output, which each replay overwrites; the replay)."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()  # libraries allocate their workspaces at the first call, which a capture forbids
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = work()
        return out, graph.replay


class DecodeGraphs:
    """The graphs of a stage. `capture` makes one of a piece of work."""

    def __init__(self, stage: Stage, tables: BlockTables, capture: Capture) -> None:
        self._stage, self._tables, self._capture = stage, tables, capture
        self._graphs: dict[tuple[int, int], _Graph] = {}

    def logits(self, rows: np.ndarray, starts: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
        """One new token for each row -> float32 [rows, vocab]; overwritten by the next call."""
        key = _round(len(rows)), max(MIN_BLOCKS, _power_of_two(self._tables.width(starts)))
        batch = self._tables.decodes(rows, starts, tokens, *key)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._captured(batch)
        else:
            for mine, new in zip(graph.inputs.tensors(), batch.tensors(), strict=True):
                mine.copy_(new, non_blocking=True)
            graph.replay()
        return graph.logits[: len(rows)]

    def _captured(self, batch: Batch) -> _Graph:
        stage = self._stage

        def work() -> torch.Tensor:
            return stage.logits(stage.forward(stage.embed(batch), batch), batch)

        logits, replay = self._capture(work)
        replay()
        return _Graph(batch, logits, replay)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _round(n: int) -> int:
    """1, 2, 4, 8, 16, then multiples of 32: what padding wastes stays small."""
    return _power_of_two(n) if n <= 16 else -(-n // 32) * 32

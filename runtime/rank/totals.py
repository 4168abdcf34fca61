"""What a rank counts between two moments, about a second apart: its collectives by kind, its experts' tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from runtime.model.experts import Experts
from runtime.parallel.communicator import Communicator
from runtime.parallel.tally import Tally, by_bucket
from runtime.rank.config import RankConfig
from runtime.rank.executor import Executor
from runtime.rank.work import ExpertWork
from telemetry.records import CollectiveRecord, ExpertRecord


class Totals:
    """Of one rank. A stretch begins with the first step that is `saw`n in it."""

    def __init__(self, config: RankConfig, executor: Executor) -> None:
        self._config, self._mesh = config, executor.mesh
        found = zip(executor.mesh.layers, executor.stage.layers, strict=True)
        self._layers = [number for number, layer in found if isinstance(layer.mlp, Experts)]
        self._tokens = torch.zeros((len(self._layers), len(executor.mesh.experts)), dtype=torch.int64)
        self._start_ns: int | None = None

    def saw(self, start_ns: int) -> None:
        """A step that began then has been counted."""
        if self._start_ns is None:
            self._start_ns = start_ns

    def experts(self, steps: Sequence[Sequence[torch.Tensor]]) -> list[ExpertWork]:
        """What each step asked of local experts, from its rows of each by layer of experts; counted from here on."""
        if not self._layers or not steps:
            return [ExpertWork()] * len(steps)
        counts = torch.stack([layer for step in steps for layer in step]).view(len(steps), *self._tokens.shape)
        self._tokens += counts.sum(0)
        return list(map(ExpertWork, counts.sum((1, 2)).tolist(), counts.count_nonzero((1, 2)).tolist()))

    def take(self, now_ns: int) -> list[CollectiveRecord | ExpertRecord]:
        """All that was counted since the last take; nothing where there was no step."""
        start, self._start_ns = self._start_ns, None
        if start is None:
            return []
        records: list[CollectiveRecord | ExpertRecord] = []
        for axis in self._mesh.axes:
            records += [self._collective(axis, tally, start, now_ns) for tally in axis.take_tallies()]
        if self._layers:
            records.append(self._taken(start, now_ns))
        return records

    def _collective(self, axis: Communicator, tally: Tally, start_ns: int, end_ns: int) -> CollectiveRecord:
        waits, transfers = np.array(tally.waits), np.array(tally.transfers)
        return CollectiveRecord(
            rank=self._config.rank,
            generation=self._config.generation,
            start_ns=start_ns,
            end_ns=end_ns,
            axis=axis.axis,
            op=tally.op.name.lower(),
            size_class=tally.size_class,
            members=axis.size,
            first=tally.first,
            calls=len(waits),
            bytes=tally.bytes,
            wait_ns=int(waits.sum()),
            transfer_ns=int(transfers.sum()),
            waits=by_bucket(waits),
            durations=by_bucket(waits + transfers),
        )

    def _taken(self, start_ns: int, end_ns: int) -> ExpertRecord:
        tokens = self._tokens.tolist()
        self._tokens.zero_()
        return ExpertRecord(
            rank=self._config.rank,
            generation=self._config.generation,
            start_ns=start_ns,
            end_ns=end_ns,
            layers=self._layers,
            experts=list(self._mesh.experts),
            tokens=tokens,
        )

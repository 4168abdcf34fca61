"""What a rank counts between two moments, about a second apart: its collectives by kind, its experts' tokens."""

from __future__ import annotations

import torch

from runtime.model.experts import Experts
from runtime.parallel.communicator import Communicator
from runtime.parallel.tally import Tally, by_bucket
from runtime.rank.config import RankConfig
from runtime.rank.executor import Executor
from telemetry.records import CollectiveRecord, ExpertRecord


class Totals:
    """Of one rank. A stretch begins with the first step that is `saw`n in it."""

    def __init__(self, config: RankConfig, executor: Executor) -> None:
        self._config, self._mesh = config, executor.mesh
        found = zip(executor.mesh.layers, executor.stage.layers, strict=True)
        self._experts: dict[int, Experts] = {number: layer.mlp for number, layer in found if isinstance(layer.mlp, Experts)}
        self._start_ns: int | None = None

    def saw(self, start_ns: int) -> None:
        """A step that began then has been counted."""
        if self._start_ns is None:
            self._start_ns = start_ns

    def take(self, now_ns: int) -> list[CollectiveRecord | ExpertRecord]:
        """All that was counted since the last take; nothing where there was no step."""
        start, self._start_ns = self._start_ns, None
        if start is None:
            return []
        records: list[CollectiveRecord | ExpertRecord] = []
        for axis in self._mesh.axes:
            records += [self._collective(axis, tally, start, now_ns) for tally in axis.take_tallies()]
        if self._experts:
            records.append(self._tokens(start, now_ns))
        return records

    def _collective(self, axis: Communicator, tally: Tally, start_ns: int, end_ns: int) -> CollectiveRecord:
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
            calls=tally.calls,
            bytes=tally.bytes,
            wait_ns=tally.wait_ns,
            transfer_ns=tally.transfer_ns,
            waits=by_bucket(tally.waits),
            durations=by_bucket(tally.durations),
        )

    def _tokens(self, start_ns: int, end_ns: int) -> ExpertRecord:
        counted = torch.stack([layer.tokens for layer in self._experts.values()])
        for layer in self._experts.values():
            layer.tokens.zero_()
        return ExpertRecord(
            rank=self._config.rank,
            generation=self._config.generation,
            start_ns=start_ns,
            end_ns=end_ns,
            layers=list(self._experts),
            experts=list(self._mesh.experts),
            tokens=counted.tolist(),
        )

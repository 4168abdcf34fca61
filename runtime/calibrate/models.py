"""Models that exist in memory alone, shaped so that one part of a step outweighs all others."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import torch

from runtime.checkpoint.config import ModelShape, parse_shape
from runtime.checkpoint.synthetic import synthetic_config
from runtime.checkpoint.synthetic_weights import random_tensors
from runtime.engine.plan import MemberPlan, NewRow, pack
from runtime.layout import Layout
from runtime.model.decoder import Stage
from runtime.parallel.mesh import DTYPES, connect
from runtime.rank.board import RankStatus
from runtime.rank.config import RankConfig
from runtime.rank.executor import Executor
from runtime.rank.graphs import CudaCapture
from runtime.sampling import SamplingParams

BLOCK = 16
ROWS = 8


class MemoryCheckpoint:
    """What a stage asks of a checkpoint, answered from random tensors: each layer has its own copies of the same."""

    def __init__(self, shape: ModelShape) -> None:
        self._tensors = dict(random_tensors(replace(shape, num_layers=1), 0, seed=0))

    def has(self, name: str) -> bool:
        return _in_first_layer(name) in self._tensors

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[_in_first_layer(name)].clone()

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensor(name)[start:stop]

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensor(name)[:, start:stop].contiguous()

    def router(self, layer: str) -> torch.Tensor:
        return self.tensor(f"{layer}.block_sparse_moe.gate.weight")

    def expert(self, layer: str, index: int, part: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        names = {"gate": "w1", "up": "w3", "down": "w2"}
        weight = self.tensor(f"{layer}.block_sparse_moe.experts.{index}.{names[part]}.weight")
        return weight[:, start:stop].contiguous() if part == "down" else weight[start:stop]

    def release(self) -> None:
        pass


def _in_first_layer(name: str) -> str:
    return re.sub(r"\.layers\.\d+\.", ".layers.0.", name)


class Model:
    """A whole model on one rank, its tables filled for so many sequences of up to `longest` tokens.

    `captured`: its decode steps are, where the device can and the model lets it, as those of a rank that has a whole model.
    """

    def __init__(
        self,
        config: RankConfig,
        status: RankStatus,
        family: str,
        longest: int,
        captured: bool = False,
        sequences: int = ROWS,
        **overrides: Any,
    ) -> None:
        self.shape = parse_shape(synthetic_config(family, "tiny", config.dtype, **overrides))
        alone = msgspec.structs.replace(config, layout=Layout().asdict(), rank=0, transport="")
        mesh = connect(alone, self.shape, status)
        stage = Stage(MemoryCheckpoint(self.shape), self.shape, mesh, DTYPES[config.dtype], torch.device(config.device), longest)  # type: ignore[arg-type]
        each = longest // BLOCK
        capture = CudaCapture() if captured and stage.device.type == "cuda" else None
        self._executor = Executor(stage, mesh, sequences, longest, BLOCK, 1 + sequences * each, capture)
        # blocks out of order, as they are after a while
        blocks = np.random.default_rng(0).permutation(sequences * each).reshape(sequences, each) + 1
        self._blocks = [[row, i, blocks[row, i]] for row in range(sequences) for i in range(each)]
        self._new = [NewRow(row, 0, SamplingParams(temperature=0.0), 1, [], [], 0) for row in range(sequences)]

    def step(self, sequences: int, context: int, count: int = 1) -> None:
        """`count` new tokens for each of so many sequences, which hold `context` before."""
        rows = list(range(sequences))
        plan = MemberPlan(
            rows=pack(rows),
            starts=pack([context] * sequences),
            counts=pack([count] * sequences),
            tokens=pack([7] * (sequences * count)),
            blocks=pack(np.array(self._blocks).reshape(-1)) if self._blocks else b"",
            wanted=pack(rows),
            new=self._new,
            decodes=sequences if count == 1 else 0,
        )
        self._blocks, self._new = [], []
        self._executor.run(plan)

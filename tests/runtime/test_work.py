"""The FLOPs and bytes that ranks count are those that torch is seen to do, and those of a count by hand."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import torch
from checkpoints import MakeCheckpoint
from torch.utils.flop_counter import FlopCounterMode

from runtime.checkpoint.config import read_shape
from runtime.checkpoint.weights import Checkpoint
from runtime.engine.plan import MemberPlan, NewRow, pack
from runtime.layout import Coordinates, Layout
from runtime.model.decoder import Stage
from runtime.parallel.communicator import Communicator
from runtime.parallel.mesh import Mesh
from runtime.rank.board import Board
from runtime.rank.executor import Executor
from runtime.rank.totals import Totals
from runtime.rank.work import ExpertWork, WorkCounter
from runtime.sampling import SamplingParams

CONTEXT = 40


def asked(executor: Executor) -> ExpertWork:
    """Of local experts in the last pass."""
    return Totals(cast(Any, None), executor).experts([[layer.counts for layer in executor.stage.experts]])[0]


def rank_of(path: Path) -> tuple[Executor, WorkCounter]:
    """A whole replica in this process."""
    shape = read_shape(path)
    status = Board.create(1).ranks[0]
    tp, ep, pp = (Communicator(axis, 1, 0, None, status) for axis in ("tp", "ep", "pp"))
    mesh = Mesh(Layout(), 0, Coordinates(0, 0, 0, 0), tp, ep, pp, range(shape.num_layers), range(shape.num_experts))
    stage = Stage(Checkpoint(path), shape, mesh, torch.float32, torch.device("cpu"), shape.max_position)
    return Executor(stage, mesh, 8, 2 * CONTEXT, 1, 8 * 2 * CONTEXT), WorkCounter(stage, mesh)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
def test_flops_of_matrix_products_are_those_that_torch_counts(family: str, make_checkpoint: MakeCheckpoint) -> None:
    executor, counter = rank_of(make_checkpoint(family))
    rows, prompt = range(3), [7 + i for i in range(CONTEXT)]
    for row in rows:
        blocks = [part for i in range(CONTEXT + 1) for part in (row, i, 1 + row * 2 * CONTEXT + i)]
        new = NewRow(row, 0, SamplingParams(temperature=0), CONTEXT, [], [], 0)
        plan = MemberPlan(pack([row]), pack([0]), pack([CONTEXT]), pack(prompt), pack(blocks), pack([0]), [new])
        executor.run(plan)
        counter.of(plan, CONTEXT, asked(executor))
    decode = MemberPlan(pack(list(rows)), pack([CONTEXT] * 3), pack([1] * 3), pack([9] * 3), wanted=pack(list(rows)))
    with FlopCounterMode(display=False) as seen:
        executor.run(decode)
    counted = counter.of(decode, 3, asked(executor))
    shape, item = executor.stage.shape, 4
    attention = 4 * shape.num_heads * shape.head_dim * 3 * (CONTEXT + 1) * shape.num_layers  # whose kernels may be no torch's
    products = (
        flops for op, flops in seen.get_flop_counts()["Global"].items() if op in (torch.ops.aten.mm, torch.ops.aten.addmm)
    )
    assert counted.flops - attention == sum(products) > 0
    assert counted.kv_bytes == 3 * (CONTEXT + 1 + 1) * shape.num_layers * shape.kv_bytes_per_token_layer(item)
    if not executor.stage.experts:
        norms = shape.num_layers * (2 * shape.hidden_size + 2 * shape.head_dim * shape.qk_norm)
        layers = sum(map(shape.layer_parameters, range(shape.num_layers))) - norms
        assert counted.weight_bytes == item * (layers + shape.vocab_size * shape.hidden_size)


def test_experts_without_a_token_are_not_read(make_checkpoint: MakeCheckpoint) -> None:
    executor, counter = rank_of(make_checkpoint("mixtral"))
    shape = executor.stage.shape
    blocks, new = [0, 0, 1], NewRow(0, 0, SamplingParams(temperature=0), 1, [], [], 0)
    plan = MemberPlan(pack([0]), pack([0]), pack([1]), pack([5]), pack(blocks), pack([0]), [new])
    executor.run(plan)
    one = counter.of(plan, 1, asked(executor))
    active = sum(map(shape.active_layer_parameters, range(shape.num_layers))) - 2 * shape.num_layers * shape.hidden_size
    assert one.weight_bytes == 4 * (active + shape.vocab_size * shape.hidden_size)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_attention_is_counted_pair_by_pair(family: str, make_checkpoint: MakeCheckpoint) -> None:
    """Chunks of prompts and decodes, short of a sliding window, across it and beyond."""
    executor, counter = rank_of(make_checkpoint(family))
    shape, chance = executor.stage.shape, Random(4)
    windows = set(shape.sliding_windows)
    assert windows == ({None} if family == "llama" else windows - {None})
    longest = 3 * max((window for window in windows if window), default=30)
    for _ in range(60):
        batch = [(chance.randrange(longest), chance.choice((1, 1, chance.randrange(1, longest)))) for _ in range(5)]
        starts, counts = zip(*batch, strict=True)
        plan = MemberPlan(starts=pack(list(starts)), counts=pack(list(counts)))
        pairs = seen = 0
        for window in shape.sliding_windows:
            for start, count in batch:
                visible = [
                    set(range(0 if window is None else max(0, at - window + 1), at + 1)) for at in range(start, start + count)
                ]
                pairs += sum(map(len, visible))
                seen += len(set().union(*visible))
        tokens = sum(counts)
        counted = counter.of(plan, tokens, asked(executor))
        none = counter.of(MemberPlan(starts=pack([0] * tokens), counts=pack([1] * tokens)), tokens, asked(executor))
        alone = shape.num_layers * tokens  # of tokens that see only themselves
        assert counted.flops - none.flops == (pairs - alone) * 4 * shape.num_heads * shape.head_dim
        assert counted.kv_bytes - none.kv_bytes == (seen - alone) * shape.kv_bytes_per_token_layer(4)

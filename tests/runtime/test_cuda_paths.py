"""What CUDA adds to a step, short of the device: padded inputs of a captured graph, and a kernel that reads blocks in place.

The capture is replaced by running the same work again, flash-attn by its definition in plain operators.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from checkpoints import MakeCheckpoint, oracle_greedy

from runtime.checkpoint.config import read_shape
from runtime.checkpoint.weights import Checkpoint
from runtime.engine.plan import MemberPlan, NewRow, pack
from runtime.layout import Coordinates, Layout
from runtime.model.cache import GatheredCache
from runtime.model.decoder import Stage
from runtime.parallel.communicator import Communicator
from runtime.parallel.mesh import Mesh
from runtime.rank.board import Board
from runtime.rank.executor import Executor
from runtime.sampling import SamplingParams

PROMPTS = [[11, 200, 37], list(range(20, 90)), [5] * 33, [400, 401, 402, 403, 404]]
NEW = 24


def stage_of(path: Path) -> tuple[Stage, Mesh]:
    shape = read_shape(path)
    status = Board.create(1).ranks[0]
    tp, ep, pp = (Communicator(axis, 1, 0, None, status) for axis in ("tp", "ep", "pp"))
    mesh = Mesh(Layout(), 0, Coordinates(0, 0, 0, 0), tp, ep, pp, range(shape.num_layers), range(0))
    return Stage(Checkpoint(path), shape, mesh, torch.float32, torch.device("cpu"), shape.max_position), mesh


def generate(executor: Executor, block_size: int) -> list[list[int]]:
    """Every prompt by itself, then all together, a token a step."""
    per_row = 1 + (max(map(len, PROMPTS)) + NEW) // block_size
    tokens = []
    for row, prompt in enumerate(PROMPTS):
        blocks = [part for i in range(per_row) for part in (row, i, 1 + row * per_row + i)]
        new = NewRow(row, 0, SamplingParams(temperature=0), len(prompt), [], [], 0)
        plan = MemberPlan(pack([row]), pack([0]), pack([len(prompt)]), pack(prompt), pack(blocks), pack([0]), [new])
        tokens.append(executor.run(plan).tokens.tolist())
    rows = range(len(PROMPTS))
    for step in range(NEW - 1):
        starts = [len(prompt) + step for prompt in PROMPTS]
        last = [each[-1] for each in tokens]
        plan = MemberPlan(pack(list(rows)), pack(starts), pack([1] * len(rows)), pack(last), wanted=pack(list(rows)))
        for each, token in zip(tokens, executor.run(plan).tokens.tolist(), strict=True):
            each.append(token)
    return tokens


class EagerCapture:
    """Runs the captured work at each replay; counts captures and replays."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        self.captures += 1
        out = work().clone()

        def replay() -> None:
            self.replays += 1
            out.copy_(work())

        return out, replay


def fake_flash() -> ModuleType:
    module = ModuleType("flash_attn")

    def one(q, keys, values, scale, window):
        n, length = q.shape[0], keys.shape[0]
        at = torch.arange(length - n, length)[:, None]
        seen = torch.arange(length)[None, :]
        hidden = seen > at
        if window >= 0:
            hidden |= seen < at - window
        group = q.shape[1] // keys.shape[1]
        scores = torch.einsum("qhd,khd->hqk", q, keys.repeat_interleave(group, 1)) * scale
        return torch.einsum(
            "hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), values.repeat_interleave(group, 1)
        )

    def with_kvcache(q, keys, values, cache_seqlens, block_table, softmax_scale, causal, window_size):
        assert causal
        outs = []
        for i, length in enumerate(cache_seqlens.tolist()):
            k, v = (cache[block_table[i].long()].flatten(0, 1)[:length] for cache in (keys, values))
            outs.append(one(q[i], k, v, softmax_scale, window_size[0]))
        return torch.stack(outs)

    def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, window_size, block_table):
        assert causal
        outs = []
        for i in range(block_table.shape[0]):
            length = int(cu_seqlens_k[i + 1] - cu_seqlens_k[i])
            mine = q[cu_seqlens_q[i] : cu_seqlens_q[i + 1]]
            assert len(mine) <= max_seqlen_q
            assert length <= max_seqlen_k
            keys, values = (cache[block_table[i].long()].flatten(0, 1)[:length] for cache in (k, v))
            outs.append(one(mine, keys, values, softmax_scale, window_size[0]))
        return torch.cat(outs)

    module.flash_attn_with_kvcache, module.flash_attn_varlen_func = with_kvcache, varlen  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("family", ["llama3", "mistral"])
@pytest.mark.parametrize("flash", [False, True], ids=["gathered", "flash"])
def test_graphs_and_paged_kernels_give_the_same_tokens(
    family: str, flash: bool, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint(family)
    if flash:
        monkeypatch.setitem(sys.modules, "flash_attn", fake_flash())
        monkeypatch.setattr("runtime.model.decoder.usable", lambda *_: True)
    else:
        monkeypatch.setattr("runtime.model.decoder.cache_class", lambda *_: GatheredCache)
    block_size = 256 if flash else 16
    stage, mesh = stage_of(path)
    capture = EagerCapture()
    expected = [oracle_greedy(path, prompt, NEW).tokens for prompt in PROMPTS]
    assert generate(Executor(stage, mesh, 8, stage.shape.max_position, block_size, 64, capture), block_size) == expected
    assert 0 < capture.captures <= 2  # four sequences, and at most two widths
    assert capture.replays >= NEW - 1
    assert generate(Executor(stage, mesh, 8, stage.shape.max_position, block_size, 64), block_size) == expected

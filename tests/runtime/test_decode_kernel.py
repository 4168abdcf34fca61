"""The compiled decode attention against its definition in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

from runtime.model.batch import PagedTables
from runtime.model.decode_kernel import DecodeKernel

KV_HEADS, BLOCK, BLOCKS = 2, 16, 64
CONTEXTS = [1, 15, 16, 17, 33, 100, 2]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tables(contexts: list[int], blocks: torch.Tensor) -> PagedTables:
    lengths = torch.tensor(contexts, dtype=torch.int32)
    ends = torch.cat([torch.zeros(1, dtype=torch.int32), lengths.cumsum(0, dtype=torch.int32)])
    return PagedTables(blocks[: len(contexts)], lengths, torch.arange(len(contexts) + 1), ends, 1, max(contexts))


class Case:
    """Random inputs, blocks in no order."""

    def __init__(self, dtype: torch.dtype, dim: int, group: int) -> None:
        random = torch.Generator().manual_seed(7)
        self.dim, self.group, self.heads = dim, group, KV_HEADS * group
        n = len(CONTEXTS)
        self.places = torch.randn(2 * KV_HEADS, BLOCKS * BLOCK, dim, generator=random).to(dtype)
        self.qkv = torch.randn(n, self.heads + 2 * KV_HEADS, dim, generator=random).to(dtype)
        angles = torch.rand(n, 1, dim // 2, generator=random) * 6
        self.cos = torch.cat([angles.cos(), angles.cos()], -1).to(dtype)
        self.sin = torch.cat([-angles.sin(), angles.sin()], -1).to(dtype)
        self.blocks = torch.randperm(BLOCKS, generator=random)[: n * 7].view(n, 7).int()
        self.kernel = DecodeKernel(dtype, dim, group)

    def run(self, places: torch.Tensor, window: int | None = None, only: slice = slice(None)) -> torch.Tensor:
        """`only`: these sequences."""
        rope = self.cos[only], self.sin[only]
        paged = tables(CONTEXTS[only], self.blocks[only])
        return self.kernel(self.qkv[only], rope, places, BLOCK, paged, window, self.dim**-0.5)

    def definition(self, window: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(what comes out, the cache after it), float64."""
        x, places = self.qkv.double(), self.places.double()
        swapped = torch.cat([x[..., self.dim // 2 :], x[..., : self.dim // 2]], -1)
        turned = x * self.cos.double() + swapped * self.sin.double()
        out = torch.empty(len(CONTEXTS), self.heads, self.dim, dtype=torch.float64)
        for i, context in enumerate(CONTEXTS):
            at = torch.cat([torch.arange(BLOCK) + int(block) * BLOCK for block in self.blocks[i]])[:context]
            for kv in range(KV_HEADS):
                places[kv, at[-1]] = turned[i, self.heads + kv]
                places[KV_HEADS + kv, at[-1]] = x[i, self.heads + KV_HEADS + kv]
                seen = at if window is None else at[-window:]
                keys = places[kv, seen].to(self.places.dtype).double()
                values = places[KV_HEADS + kv, seen]
                for head in range(kv * self.group, (kv + 1) * self.group):
                    scores = turned[i, head] @ keys.T * self.dim**-0.5
                    out[i, head] = torch.softmax(scores, -1) @ values
        return out.flatten(1), places


@pytest.mark.parametrize("window", [None, 20, 1])
@pytest.mark.parametrize(("dim", "group"), [(16, 1), (64, 2), (80, 3), (128, 8)])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_it_is_attention(dtype: torch.dtype, dim: int, group: int, window: int | None) -> None:
    case = Case(dtype, dim, group)
    places = case.places.clone()
    out, (expected, cached) = case.run(places, window), case.definition(window)
    torch.testing.assert_close(out.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    torch.testing.assert_close(places.double(), cached, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    written = (places != case.places).any(-1).any(0).sum()
    assert written == len(CONTEXTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sequence_gives_the_same_bits_in_any_company_on_any_number_of_threads(dtype: torch.dtype) -> None:
    case = Case(dtype, 64, 2)
    torch.set_num_threads(1)
    together = case.run(case.places.clone())
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        assert torch.equal(case.run(case.places.clone()), together)
        for first, last in pairwise([0, 1, 4, len(CONTEXTS)]):
            assert torch.equal(case.run(case.places.clone(), only=slice(first, last)), together[first:last])


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    case = Case(torch.float32, 64, 2)
    case.qkv *= 40  # scores of some hundreds
    out, (expected, _) = case.run(case.places.clone()), case.definition()
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out.double(), expected, rtol=1e-3, atol=1e-3)

"""Routing of tokens to experts: the compiled kernels against torch's operators."""

from __future__ import annotations

import pytest
import torch

from runtime.model import routing
from runtime.model.routing import Routed, mix, route


def by_torch(monkeypatch: pytest.MonkeyPatch, logits: torch.Tensor, k: int, renormalize: bool) -> Routed:
    with monkeypatch.context() as patch:
        patch.setattr(routing, "_native", lambda _: False)
        return route(logits, k, renormalize)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize(("experts", "k"), [(4, 1), (4, 4), (16, 2), (60, 8), (128, 8)])
@pytest.mark.parametrize("n", [0, 1, 7, 200])
def test_route(n: int, experts: int, k: int, renormalize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(n, experts, generator=torch.Generator().manual_seed(n)) * 3
    before = logits.clone()
    found, expected = route(logits, k, renormalize), by_torch(monkeypatch, logits, k, renormalize)
    assert torch.equal(logits, before)
    torch.testing.assert_close(found.weights, expected.weights)
    for name in ("tokens", "places", "counts"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_logits_far_apart_and_equal_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[300.0, -300.0, 0.0, 299.0], [-500.0, -500.0, -500.0, -500.0]])
    found = route(logits, 2, True)
    assert found.tokens.tolist() == [0, 1, 1, 0]  # of equal ones, the first
    torch.testing.assert_close(found.weights, torch.tensor([[0.7310586, 0.2689414], [0.5, 0.5]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [16, 50, 1024])
@pytest.mark.parametrize("n", [0, 1, 9, 100])
def test_mix(n: int, width: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(width)
    routed = route(torch.randn(n, 16, generator=random), 4, True)
    rows = torch.randn(4 * n, width, generator=random).to(dtype)
    expected = (rows[routed.places].view(n, 4, width).double() * routed.weights.double().unsqueeze(-1)).sum(1)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(mix(rows, routed).double(), expected, rtol=tolerance, atol=tolerance)

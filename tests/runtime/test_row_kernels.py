"""The compiled norm and gate against torch's operators in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from runtime.model.row_kernels import head_norm_, rms_norm, silu_and_mul

EPSILON = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("width", [16, 100, 1024])
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("dtype", list(EPSILON), ids=str)
def test_norm(dtype: torch.dtype, rows: int, width: int) -> None:
    x, weight = (torch.randn(rows, width) * 3).to(dtype), torch.randn(width).to(dtype)
    found = rms_norm(x, weight, 1e-5)
    expected = F.rms_norm(x.double(), (width,), weight.double(), 1e-5)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=EPSILON[dtype], atol=EPSILON[dtype])


@pytest.mark.parametrize("width", [16, 50, 128])
@pytest.mark.parametrize("dtype", list(EPSILON), ids=str)
def test_head_norm_leaves_the_other_heads(dtype: torch.dtype, width: int) -> None:
    x, weight = (torch.randn(7, 5, width) * 3).to(dtype), torch.randn(3, width).to(dtype)
    expected = x.double()
    expected[:, :3] = F.rms_norm(expected[:, :3], (width,), None, 1e-6) * weight.double()
    head_norm_(x, weight, 1e-6)
    torch.testing.assert_close(x.double(), expected, rtol=EPSILON[dtype], atol=EPSILON[dtype])


@pytest.mark.parametrize("width", [16, 50, 2816])
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("dtype", list(EPSILON), ids=str)
def test_gate(dtype: torch.dtype, rows: int, width: int) -> None:
    x = (torch.randn(rows, 2 * width) * 8).to(dtype)
    x[0, :4] = torch.tensor([300.0, -300.0, 95.0, -95.0])  # beyond what e to the power of float32 holds
    gate, up = x.double().chunk(2, -1)
    torch.testing.assert_close(silu_and_mul(x).double(), F.silu(gate) * up, rtol=EPSILON[dtype], atol=EPSILON[dtype])

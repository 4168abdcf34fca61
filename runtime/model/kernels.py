"""The kernels that a rank will call, compiled ahead."""

from __future__ import annotations

import torch

from runtime.checkpoint.config import ModelShape
from runtime.model import native, product_kernel, routing, row_kernels
from runtime.model.decode_kernel import DecodeKernel


def compile_kernels(shape: ModelShape, dtype: torch.dtype, tp: int) -> None:
    """Those of a rank on CPU. Each is compiled once a process, and its forks have it too."""
    if not native.available():
        return
    if dtype is torch.bfloat16:
        product_kernel.compile_all()
    row_kernels.compile_all(dtype)
    if shape.num_experts:
        routing.compile_all(dtype)
    kv_heads = max(1, shape.num_kv_heads // tp)
    DecodeKernel(dtype, shape.head_dim, shape.num_heads // tp // kv_heads)

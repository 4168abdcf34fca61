"""What stands between the products of a layer, row by row: normalisation and the gate.

torch computes its root mean square norm on CPU by seven operators. Here each is one pass, in float32, compiled for the
processor; on other devices, and for widths that vectors do not divide, torch's operators serve.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from llvmlite import ir

from runtime.model import native
from runtime.model.native import F32, I32, I64, LANES, Entry, Kernel, Value, constant, float_bits

_Body = Callable[[Entry], None]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x [n, width], weight [width] (Zhang & Sennrich, arXiv 1910.07467)."""
    if not _native(x, x.shape[1]):
        return F.rms_norm(x, weight.shape, weight, eps)
    out = torch.empty_like(x)
    n, width = x.shape
    _kernel(_norm, x.dtype)(
        [n, 1, width, width, float_bits(eps), x.data_ptr(), weight.data_ptr(), out.data_ptr()], alone=x.numel() < native.SMALL
    )
    return out


def head_norm_(x: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    """The first heads of x [n, heads, head size], in place: as many as weight [normed heads, head size] has."""
    normed, width = weight.shape
    if not _native(x, width):
        heads = x[:, :normed]
        heads.copy_(F.rms_norm(heads, (width,), None, eps).mul_(weight))
        return
    there = x.data_ptr()
    numbers = [x.shape[0], normed, width, x.stride(0), float_bits(eps), there, weight.data_ptr(), there]
    _kernel(_norm, x.dtype)(numbers, alone=x.numel() < native.SMALL)


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """[n, 2 x width], gate before up -> silu(gate) * up, [n, width]."""
    width = x.shape[1] // 2
    if not _native(x, width):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)
    out = x.new_empty((x.shape[0], width))
    _kernel(_gate, x.dtype)([*out.shape, x.data_ptr(), out.data_ptr()], alone=out.numel() < native.SMALL)
    return out


def _native(x: torch.Tensor, width: int) -> bool:
    return x.device.type == "cpu" and width % LANES == 0 and x.is_contiguous() and native.available()


def compile_all(dtype: torch.dtype) -> None:
    for body in (_norm, _gate):
        _kernel(body, dtype)


@functools.cache
def _kernel(body: _Body, dtype: torch.dtype) -> Kernel:
    module = ir.Module(body.__name__)
    entry = Entry(module, dtype)
    body(entry)
    entry.ret_void()
    return Kernel(module)


def _norm(b: Entry) -> None:
    """`several` rows of `width`, with a weight each, at the start of every `stride` elements."""
    n, several, width, stride = (b.number() for _ in range(4))
    eps = b.bitcast(b.trunc(b.number(), I32), F32)
    x, weight, out = (b.pointer(b.element) for _ in range(3))
    squares = b.variable(0.0, LANES)
    with b.share(n) as i, b.loop(I64(0), several) as head:
        at, its_weight = b.weighted((i, stride), (head, width)), b.mul(head, width)
        b.store(constant(0.0, LANES), squares)
        with b.loop(I64(0), width, LANES) as j:
            values = b.row(b.gep(x, [b.add(at, j)]), LANES)
            b.store(b.plus(b.load(squares), b.times(values, values)), squares)
        mean = b.fdiv(b.total(b.load(squares)), b.sitofp(width, F32))
        root = b.call_llvm("llvm.sqrt.f32", F32, b.fadd(mean, eps))
        factor = b.splat(b.fdiv(F32(1.0), root), LANES)
        with b.loop(I64(0), width, LANES) as j:
            scaled = b.times(b.row(b.gep(x, [b.add(at, j)]), LANES), factor)
            b.put_row(b.times(scaled, b.row(b.gep(weight, [b.add(its_weight, j)]), LANES)), b.gep(out, [b.add(at, j)]))


def _gate(b: Entry) -> None:
    rows, width = b.number(), b.number()
    x, out = b.pointer(b.element), b.pointer(b.element)
    across = b.sdiv(width, I64(LANES))
    one = constant(1.0, LANES)

    def silu(gate: Value) -> Value:
        return b.fdiv(gate, b.fadd(one, b.exp(b.fneg(gate))))

    with b.share(b.mul(rows, across)) as i:
        row, column = b.sdiv(i, across), b.mul(b.srem(i, across), I64(LANES))
        at = b.add(b.mul(row, b.mul(width, I64(2))), column)
        gate, up = b.row(b.gep(x, [at]), LANES), b.row(b.gep(x, [b.add(at, width)]), LANES)
        b.put_row(b.times(silu(gate), up), b.gep(out, [b.mul(i, I64(LANES))]))

"""Which experts a token goes to, and the way back: by a kernel compiled for the processor, elsewhere by torch's operators."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from llvmlite import ir

from runtime.model import native
from runtime.model.native import F32, I64, LANES, Entry, Kernel, Value, constant


@dataclass(frozen=True)
class Routed:
    """n tokens, k experts each. The n x k rows that experts process are sorted by expert, and by token within.

    `weights` float32 [n, k]: of each chosen expert. `tokens` int64 [n x k]: whose row it is. `places` int64 [n x k]: where the
    row of (token, choice) is. `counts` int64 [experts]: rows of each.
    """

    weights: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor
    counts: torch.Tensor


def route(logits: torch.Tensor, k: int, renormalize: bool) -> Routed:
    """logits float32 [n, experts]. `renormalize`: the weights of a token sum to 1, and else are the softmax over all experts."""
    n, experts = logits.shape
    if not _native(logits):
        weights, chosen = torch.softmax(logits, -1).topk(k, -1)
        if renormalize:
            weights = weights / weights.sum(-1, keepdim=True)
        flat = chosen.reshape(-1)
        order = flat.argsort(stable=True)
        places = torch.empty_like(order).index_copy_(0, order, torch.arange(n * k, device=order.device))
        return Routed(weights, order // k, places, torch.bincount(flat, minlength=experts))
    left = F.pad(logits, (0, -experts % LANES), value=-math.inf).contiguous().clone()
    weights = torch.empty((n, k), dtype=torch.float32)
    tokens, places = torch.empty((2, n * k), dtype=torch.int64)
    counts = torch.zeros(experts, dtype=torch.int64)
    chosen, starts = torch.empty((n, k), dtype=torch.int64), torch.empty(experts, dtype=torch.int64)
    tensors = (left, weights, chosen, tokens, places, counts, starts)
    numbers = [n, left.shape[1], k, experts, renormalize, *(each.data_ptr() for each in tensors)]
    _route_kernel()(numbers, alone=True)
    return Routed(weights, tokens, places, counts)


def mix(rows: torch.Tensor, routed: Routed) -> torch.Tensor:
    """rows [n x k, hidden] as `routed` sorted them -> [n, hidden], each token's rows by their weights."""
    n, k = routed.weights.shape
    width = rows.shape[1]
    if not _native(rows) or width % LANES:
        by_choice = rows.index_select(0, routed.places).view(n, k, width)
        return (by_choice * routed.weights.to(rows.dtype).unsqueeze(-1)).sum(1)
    out = rows.new_empty((n, width))
    tensors = (rows.contiguous(), routed.weights, routed.places, out)
    _mix_kernel(rows.dtype)([n, k, width, *(each.data_ptr() for each in tensors)], alone=rows.numel() < native.SMALL)
    return out


def compile_all(dtype: torch.dtype) -> None:
    _route_kernel()
    _mix_kernel(dtype)


def _native(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and native.available()


@functools.cache
def _route_kernel() -> Kernel:
    b = Entry(ir.Module("route"), torch.float32)
    n, width, k, experts, renormalize = (b.number() for _ in range(5))
    logits, weights = b.pointer(F32), b.pointer(F32)
    chosen, tokens, places, counts, starts = (b.pointer(I64) for _ in range(5))
    powers, highest, best = b.variable(0.0, LANES), b.variable(0.0, LANES), b.variable(0.0, 1)
    index = b.integer(0)

    def counter(expert: Value) -> Value:
        return b.gep(counts, [expert])

    with b.loop(I64(0), n) as i:
        row, mine = b.gep(logits, [b.mul(i, width)]), b.mul(i, k)
        b.store(constant(-math.inf, LANES), highest)
        with b.loop(I64(0), width, LANES) as e:
            b.store(b.higher(b.load(highest), b.row(b.gep(row, [e]), LANES)), highest)
        peak = b.splat(b.highest(b.load(highest)), LANES)
        b.store(constant(0.0, LANES), powers)
        with b.loop(I64(0), width, LANES) as e:
            power = b.exp(b.fsub(b.row(b.gep(row, [e]), LANES), peak))
            b.store(b.plus(b.load(powers), power), powers)
            b.put_row(power, b.gep(row, [e]))
        with b.loop(I64(0), k) as j:
            b.store(constant(-1.0, 1), best)
            with b.loop(I64(0), experts) as e:
                power = b.row(b.gep(row, [e]), 1)
                better = b.fcmp_ordered(">", b.total(power), b.total(b.load(best)))
                b.store(b.select(better, power, b.load(best)), best)
                b.store(b.select(better, e, b.load(index)), index)
            expert = b.load(index)
            b.put_row(constant(-1.0, 1), b.gep(row, [expert]))  # taken
            b.put_row(b.load(best), b.gep(weights, [b.add(mine, j)]))
            b.store(expert, b.gep(chosen, [b.add(mine, j)]))
            b.store(b.add(b.load(counter(expert)), I64(1)), counter(expert))
        b.store(constant(0.0, 1), best)
        with b.loop(I64(0), k) as j:
            b.store(b.plus(b.load(best), b.row(b.gep(weights, [b.add(mine, j)]), 1)), best)
        whole = b.select(b.icmp_signed("!=", renormalize, I64(0)), b.total(b.load(best)), b.total(b.load(powers)))
        with b.loop(I64(0), k) as j:
            there = b.gep(weights, [b.add(mine, j)])
            b.put_row(b.fdiv(b.row(there, 1), b.splat(whole, 1)), there)
    b.store(I64(0), index)
    with b.loop(I64(0), experts) as e:
        b.store(b.load(index), b.gep(starts, [e]))
        b.store(b.add(b.load(index), b.load(counter(e))), index)
    with b.loop(I64(0), b.mul(n, k)) as flat:
        start = b.gep(starts, [b.load(b.gep(chosen, [flat]))])
        place = b.load(start)
        b.store(b.add(place, I64(1)), start)
        b.store(b.sdiv(flat, k), b.gep(tokens, [place]))
        b.store(place, b.gep(places, [flat]))
    b.ret_void()
    return Kernel(b.module)


@functools.cache
def _mix_kernel(dtype: torch.dtype) -> Kernel:
    b = Entry(ir.Module("mix"), dtype)
    n, k, width = (b.number() for _ in range(3))
    rows, weights, places, out = b.pointer(b.element), b.pointer(F32), b.pointer(I64), b.pointer(b.element)
    mixed = b.variable(0.0, LANES)
    with b.share(n) as i, b.loop(I64(0), width, LANES) as column:
        b.store(constant(0.0, LANES), mixed)
        with b.loop(b.mul(i, k), b.mul(b.add(i, I64(1)), k)) as flat:
            place = b.load(b.gep(places, [flat]))
            row = b.row(b.gep(rows, [b.add(b.mul(place, width), column)]), LANES)
            weight = b.splat(b.load(b.gep(weights, [flat])), LANES)
            b.store(b.plus(b.load(mixed), b.times(weight, row)), mixed)
        b.put_row(b.load(mixed), b.gep(out, [b.add(b.mul(i, width), column)]))
    b.ret_void()
    return Kernel(b.module)

"""Matrix products of bfloat16 for processors with AVX-512 BF16 and no matrix unit: AMD's, from Zen 4 on.

A thread takes some of the panels and multiplies them, tile by tile of up to 12 rows, with registers full of sums.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import llvmlite.binding as llvm
import torch
from llvmlite import ir

from runtime.model import native
from runtime.model.native import BFLOAT, I8, I32, I64, LINE, PANEL, Entry, Kernel, Value, Writer

STEP = 1  # pairs of inputs that are multiplied at once: panels have whole steps
TILE = 12  # rows, at most: with two registers of weights, as many sums as registers hold
BLOCK_BYTES = 1 << 19  # of rows that are multiplied with a panel before the next one: half of a second-level cache

_BYTES_A_PAIR = PANEL * 2 * 2


@functools.cache
def available() -> bool:
    features = llvm.get_host_cpu_features()
    return bool(features.get("avx512bf16")) and not features.get("amx-bf16")


def run(x: torch.Tensor, out: torch.Tensor, steps: int, weights: Sequence[tuple[int, int, int]], alone: bool) -> None:
    """See `product_kernel`."""
    block = max(1, BLOCK_BYTES // (steps * 4 * TILE)) * TILE
    numbers = [len(weights), out.shape[1] // PANEL, steps, block, x.data_ptr(), out.data_ptr()]
    for each in weights:
        numbers += each
    compiled()(numbers, alone=alone)


def compile_all() -> None:
    compiled()


@functools.cache
def compiled() -> Kernel:
    module = ir.Module("product")
    tiles = [_Tile(module, rows) for rows in range(1, TILE + 1)]
    b = Entry(module, torch.bfloat16)
    groups, panels, pairs, block = (b.number() for _ in range(4))
    inputs, outputs = b.mul(pairs, I64(2)), b.mul(panels, I64(PANEL))
    panel_size = b.mul(pairs, I64(PANEL * 2))
    last = b.sub(panels, I64(1))
    x, out = b.pointer(b.element), b.pointer(b.element)
    group, before = b.integer(0), b.integer(0)
    with b.loop(I64(0), groups):
        weight, bias = b.pointer(b.element, group), b.pointer(b.element, group, 1)
        rows = b.number(group, 2)
        start = b.load(before)
        with b.loop_by(I64(0), rows, block) as first:
            count = b.least(b.sub(rows, first), block)
            parts = b.sdiv(b.add(count, I64(TILE - 1)), I64(TILE))
            with b.share(panels) as panel:
                here = b.gep(weight, [b.mul(panel, panel_size)])
                after = b.gep(weight, [b.mul(b.least(b.add(panel, I64(1)), last), panel_size)])
                stride = b.sdiv(I64(_BYTES_A_PAIR), parts)  # each tile asks for its share of the next panel
                with b.loop(I64(0), parts) as part:
                    low, high = (b.sdiv(b.mul(count, i), parts) for i in (part, b.add(part, I64(1))))
                    row = b.add(b.add(start, first), low)
                    arguments = [
                        b.gep(x, [b.mul(row, inputs)]),
                        here,
                        b.gep(out, [b.add(b.mul(row, outputs), b.mul(panel, I64(PANEL)))]),
                        b.gep(bias, [b.mul(panel, I64(PANEL))]),
                        b.gep(b.bitcast(after, I8.as_pointer()), [b.mul(part, b.mul(stride, pairs))]),
                        stride,
                        pairs,
                        outputs,
                    ]
                    done = b.append_basic_block()
                    choice = b.switch(b.sub(high, low), done)
                    for tile in tiles:
                        case = b.append_basic_block()
                        choice.add_case(I64(tile.rows), case)
                        b.position_at_end(case)
                        b.call(tile.made, arguments)
                        b.branch(done)
                    b.position_at_end(done)
        b.store(b.add(start, rows), before)
        b.store(b.add(b.load(group), I64(3)), group)
    b.ret_void()
    return Kernel(module)


class _Tile(Writer):
    """`rows` rows times one panel: x, weight, out, bias; where to look ahead, and how far at each pair; pairs; out's width."""

    def __init__(self, module: ir.Module, rows: int) -> None:
        element = native.ELEMENTS[torch.bfloat16].as_pointer()
        super().__init__(module, f"tile{rows}", [element] * 4 + [I8.as_pointer()] + [I64] * 3, torch.bfloat16)
        self.made.linkage = "internal"
        self.rows = rows
        x, weight, out, bias, ahead, stride, pairs, width = self.made.args
        start = [self.row(self.gep(bias, [I64(16 * half)]), 16) for half in range(2)]
        sums = [[self.variable(0.0, 16) for _ in start] for _ in range(rows)]
        for row in sums:
            for place, value in zip(row, start, strict=True):
                self.store(value, place)
        half_stride = self.sdiv(stride, I64(2))
        with self.loop(I64(0), pairs) as pair:
            there = self.gep(ahead, [self.mul(pair, stride)])
            self.ask(there)
            self.ask(self.gep(there, [half_stride]))
            here = self.mul(pair, I64(2 * PANEL))
            weights = [self._words(weight, self.add(here, I64(PANEL * half))) for half in range(2)]
            for r, row in enumerate(sums):
                at = self.gep(x, [self.mul(self.add(self.mul(I64(r), pairs), pair), I64(2))])
                both = self._bfloats(self.splat(self.load(self.bitcast(at, I32.as_pointer()), align=4), 16))
                for place, each in zip(row, weights, strict=True):
                    self.store(self._dot(self.load(place), each, both), place)
        for r, row in enumerate(sums):
            for half, place in enumerate(row):
                self.put_row(self.load(place), self.gep(out, [self.add(self.mul(I64(r), width), I64(16 * half))]))
        self.ret_void()

    def _words(self, pointer: Value, offset: Value) -> Value:
        there = self.bitcast(self.gep(pointer, [offset]), ir.VectorType(I32, 16).as_pointer())
        return self._bfloats(self.load(there, align=LINE))

    def _bfloats(self, words: Value) -> Value:
        return self.bitcast(words, ir.VectorType(BFLOAT, 32))

    def _dot(self, sums: Value, a: Value, b: Value) -> Value:
        """sums[i] + a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1]"""
        return self.call_llvm("llvm.x86.avx512bf16.dpbf16ps.512", sums.type, sums, a, b)

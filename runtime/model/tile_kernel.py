"""Matrix products of bfloat16 for processors with a matrix unit: Intel's AMX, from Sapphire Rapids on.

A tile is a register of 16 rows of 64 bytes; `tdpbf16ps` multiplies 16 rows of 32 inputs with 32 inputs of 16 outputs. Up to 32
rows of a panel's 32 outputs are summed at once, in four tiles: two of x and two of weights are loaded for four products. However
many rows there are, a row's sums are made in one order, so that its bits do not depend on its company.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.binding as llvm
import torch
from llvmlite import ir

from runtime.model import native
from runtime.model.native import BFLOAT, F32, I8, I16, I64, LANES, LINE, PANEL, Entry, Kernel, Value, Writer

STEP = 16  # pairs of inputs that a tile holds: panels have whole steps
HEIGHT = 16  # rows of a tile
PACK_ROWS = 32  # more are copied tile by tile first: rows that are a power of two apart share few sets of a cache
MOST_PAIRS = 16  # of blocks of rows that are multiplied with a panel before the next one
X_BYTES = 1 << 20  # of those rows, about: half of a second-level cache. Wider ones are multiplied span after span of inputs
CHUNK = 16  # steps of a panel, 32 KiB, which stay in the first-level cache while all rows are multiplied with them
FEW_PAIRS = 2  # read a panel so seldom that it is better to keep sums in tiles from its start to its end

_HALVES = PANEL // LANES
_TILE = HEIGHT * LINE  # bytes
_SUMS = _HALVES * _TILE  # bytes of a block of rows' sums, and of a step's weights
_SECOND_LEVEL = 2  # of a prefetch: the first has no room for two chunks
_WEIGHTS, _X = 6, 4  # first of two tiles each, behind four of sums
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # <asm/prctl.h>; the state that Linux grants on request


@functools.cache
def available() -> bool:
    """Whether there are tiles, and Linux lets this process (and its forks) use them."""
    features = llvm.get_host_cpu_features()
    if not all(features.get(each) for each in ("amx-tile", "amx-bf16", "avx512bf16")):
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


@dataclass(frozen=True)
class _Rows:
    """Where x is: rows `stride` bytes apart, the next step of inputs `step` bytes on, the next 16 rows `block` bytes on."""

    x: torch.Tensor
    stride: int
    step: int
    block: int

    def size(self, rows: int) -> int:
        """Bytes of that many rows."""
        return rows * self.stride if self.step == LINE else -(-rows // HEIGHT) * self.block


def run(x: torch.Tensor, out: torch.Tensor, steps: int, weights: Sequence[tuple[int, int, int]], alone: bool) -> None:
    """See `product_kernel`."""
    source = _rows(x, steps, [rows for _, _, rows in weights], alone)
    panels, rows = out.shape[1] // PANEL, max(rows for _, _, rows in weights)
    pairs, span = _blocks(rows, steps)
    chunk = span if pairs <= FEW_PAIRS else CHUNK
    numbers = [len(weights), panels, steps, span, chunk, pairs, source.stride, source.step, source.block]
    sums = x.new_empty(panels * pairs * 2 * _SUMS if span < steps else 0, dtype=torch.uint8)
    numbers.append(sums.data_ptr())
    here, there = source.x.data_ptr(), out.data_ptr()
    for weight, bias, rows in weights:
        size = source.size(rows)
        numbers += weight, bias, rows, here, size, there
        here, there = here + size, there + rows * out.shape[1] * out.element_size()
    compiled()(numbers, alone=alone)


def _blocks(rows: int, steps: int) -> tuple[int, int]:
    """How many pairs of blocks of rows are multiplied with a panel before the next one, and along how many steps of x."""
    pairs = min(MOST_PAIRS, -(-rows // (2 * HEIGHT)))
    spans = max(1, round(steps * pairs * 2 * _TILE / X_BYTES))
    return pairs, -(-steps // (spans * CHUNK)) * CHUNK


def _rows(x: torch.Tensor, steps: int, counts: Sequence[int], alone: bool) -> _Rows:
    width = x.shape[1] * x.element_size()
    if width == steps * LINE and len(x) <= PACK_ROWS * len(counts):
        return _Rows(x, width, LINE, HEIGHT * width)
    blocks = sum(-(-rows // HEIGHT) for rows in counts)
    packed = _Rows(x.new_empty((blocks, steps, HEIGHT, 2 * STEP)), LINE, _TILE, steps * _TILE)
    here, there = x.data_ptr(), packed.x.data_ptr()
    numbers = [len(counts), x.shape[1] // 2, steps]
    for rows in counts:
        numbers += rows, here, there
        here, there = here + rows * width, there + packed.size(rows)
    compiled_packing()(numbers, alone=alone)
    return packed


def compile_all() -> None:
    for each in (compiled, compiled_packing):
        each()


@functools.cache
def compiled() -> Kernel:
    module = ir.Module("tiles")
    products = [_Product(module, blocks).made for blocks in (1, 2)]
    finish = _Finish(module).made
    b = Entry(module, torch.bfloat16)
    groups, panels, steps, span, chunk, most, x_stride, x_step, x_block = (b.number() for _ in range(9))
    all_sums = b.pointer(I8)
    panel_size, width = b.mul(steps, I64(_SUMS)), b.mul(panels, I64(PANEL))
    panel_sums, first_sums, shape = b.room(MOST_PAIRS * 2 * _SUMS), b.room(_HALVES * LINE), b.room(LINE)
    in_spans = b.icmp_signed("<", span, steps)
    group = b.integer(0)
    with b.loop(I64(0), groups):
        weight, bias, rows = b.pointer(I8, group), b.pointer(b.element, group, 1), b.number(group, 2)
        x, x_size, out = b.pointer(I8, group, 3), b.number(group, 4), b.pointer(b.element, group, 5)
        height = b.least(rows, I64(HEIGHT))
        _configure(b, shape, height)
        blocks = _rounded_up(b, rows, I64(HEIGHT))
        pairs = _rounded_up(b, blocks, I64(2))
        parts = _rounded_up(b, pairs, most)
        # the last block is a whole one: where 16 does not divide the rows, some of them are computed twice
        last_x, last_row = b.most(b.sub(x_size, x_block), I64(0)), b.sub(rows, height)
        with b.loop(I64(0), parts) as part:
            low, high = (b.sdiv(b.mul(pairs, i), parts) for i in (part, b.add(part, I64(1))))
            lines = _rounded_up(b, I64(_SUMS // LINE), b.sub(high, low))  # each pair asks for its share of the next chunk
            with b.loop_by(I64(0), steps, span) as span_start, b.share(panels) as panel:
                outputs = b.mul(panel, I64(PANEL))
                for half in range(_HALVES):
                    values = b.row(b.gep(bias, [b.add(outputs, I64(LANES * half))]), LANES)
                    there = b.gep(first_sums, [I64(LINE * half)])
                    b.store(values, b.bitcast(there, values.type.as_pointer()), align=LINE)
                sums = b.select(in_spans, b.gep(all_sums, [b.mul(panel, b.mul(most, I64(2 * _SUMS)))]), panel_sums)
                panel_start = b.gep(weight, [b.mul(panel, panel_size)])
                span_stop = b.least(b.add(span_start, span), steps)
                with b.loop_by(span_start, span_stop, chunk) as first:
                    stop = b.least(b.add(first, chunk), span_stop)
                    length = b.sub(stop, first)
                    begins, ends = b.icmp_signed("==", first, I64(0)), b.icmp_signed("==", stop, steps)
                    here = b.gep(panel_start, [b.mul(first, I64(_SUMS))])
                    following = b.add(b.mul(span_start, I64(_SUMS)), panel_size)  # of the next panel
                    following = b.select(b.icmp_signed("==", stop, span_stop), following, b.mul(stop, I64(_SUMS)))
                    after = b.gep(panel_start, [following])
                    along = b.gep(x, [b.mul(first, x_step)])
                    with b.loop(low, high) as pair:
                        index = b.sub(pair, low)
                        numbers = [b.add(b.mul(pair, I64(2)), I64(i)) for i in range(2)]
                        mine = [b.gep(sums, [b.mul(b.add(b.mul(index, I64(2)), I64(i)), I64(_SUMS))]) for i in range(2)]
                        arguments = [
                            *(b.gep(along, [b.least(b.mul(number, x_block), last_x)]) for number in numbers),
                            x_stride,
                            x_step,
                            here,
                            length,
                            *(b.select(begins, first_sums, each) for each in mine),
                            b.select(begins, I64(0), I64(_HALVES * LINE)),  # a bias is the same row 16 times
                            mine[0],
                            b.gep(after, [b.mul(index, b.mul(lines, b.mul(length, I64(LINE))))]),
                            lines,
                        ]
                        with b.if_else(b.icmp_signed("==", numbers[1], blocks)) as (one, two):
                            with one:
                                b.call(products[0], arguments)
                            with two:
                                b.call(products[1], arguments)
                        with b.if_then(ends):
                            for number, each in zip(numbers, mine, strict=True):
                                with b.if_then(b.icmp_signed("<", number, blocks)):
                                    row = b.least(b.mul(number, I64(HEIGHT)), last_row)
                                    b.call(finish, [each, b.gep(out, [b.add(b.mul(row, width), outputs)]), width, height])
        b.store(b.add(b.load(group), I64(6)), group)
    # tiles in use would be saved whenever this thread gives way
    b.call_llvm("llvm.x86.tilerelease", ir.VoidType())
    b.ret_void()
    return Kernel(module)


def _configure(b: Writer, shape: Value, height: Value) -> None:
    """Tiles of weights are whole, those of x and of sums have `height` rows. (Palette, its row; columns in bytes; rows.)"""
    whole = [1, *[0] * 15, *[LINE, 0] * 8, *[0] * 16, *[STEP] * 8, *[0] * 8]
    constant = ir.Constant(ir.VectorType(I8, LINE), whole)
    b.store(constant, b.bitcast(shape, constant.type.as_pointer()), align=LINE)
    for tile in range(_WEIGHTS):
        b.store(b.trunc(height, I8), b.gep(shape, [I64(48 + tile)]))
    b.call_llvm("llvm.x86.ldtilecfg", ir.VoidType(), shape)


def _rounded_up(b: Writer, x: Value, by: Value) -> Value:
    """x / by"""
    return b.sdiv(b.add(x, b.sub(by, I64(1))), by)


class _Product(Writer):
    """One or two blocks of rows times `steps` of a panel.

    Where their x is, from row to row and from step to step; weights; steps; what their sums start from, with a stride; where
    sums go; where to look ahead, and how many lines at each step.
    """

    def __init__(self, module: ir.Module, blocks: int) -> None:
        there = I8.as_pointer()
        kinds = [there, there, I64, I64, there, I64, there, there, I64, there, there, I64]
        super().__init__(module, f"product{blocks}", kinds, torch.bfloat16)
        self.made.linkage = "internal"
        x0, x1, x_stride, x_step, weight, steps, from0, from1, from_stride, sums, ahead, lines = self.made.args
        both = range(_HALVES)
        for block, source in enumerate((from0, from1)[:blocks]):
            for half in both:
                self._load(_HALVES * block + half, self.gep(source, [I64(LINE * half)]), from_stride)
        ahead_step = self.mul(lines, I64(LINE))
        with self.loop(I64(0), steps) as step:
            self._look(self.gep(ahead, [self.mul(step, ahead_step)]), lines)
            here, along = self.gep(weight, [self.mul(step, I64(_SUMS))]), self.mul(step, x_step)
            # all loads before all products: by turns they take longer
            for half in both:
                self._load(_WEIGHTS + half, self.gep(here, [I64(LINE * half)]), I64(_HALVES * LINE))
            for block, source in enumerate((x0, x1)[:blocks]):
                self._load(_X + block, self.gep(source, [along]), x_stride, "t1")  # that x passes by the chunk in the cache
            for block in range(blocks):
                for half in both:
                    tiles = I8(_HALVES * block + half), I8(_X + block), I8(_WEIGHTS + half)
                    self.call_llvm("llvm.x86.tdpbf16ps", ir.VoidType(), *tiles)
        for block in range(blocks):
            for half in both:
                place = self.gep(sums, [I64(_SUMS * block + LINE * half)])
                self.call_llvm("llvm.x86.tilestored64", ir.VoidType(), I8(_HALVES * block + half), place, I64(_HALVES * LINE))
        self.ret_void()

    def _load(self, tile: int, pointer: Value, stride: Value, hint: str = "") -> None:
        self.call_llvm(f"llvm.x86.tileloadd{hint}64", ir.VoidType(), I8(tile), pointer, stride)

    def _look(self, there: Value, lines: Value) -> None:
        """Ask for as many lines, rounded up to a power of two."""
        done = self.append_basic_block()
        asked, more = 0, 1
        while asked < _SUMS // LINE:
            for line in range(asked, more):
                self.ask(self.gep(there, [I64(LINE * line)]), _SECOND_LEVEL)
            following = self.append_basic_block()
            self.cbranch(self.icmp_signed(">", lines, I64(more)), following, done)
            self.position_at_end(following)
            asked, more = more, 2 * more
        self.branch(done)
        self.position_at_end(done)


class _Finish(Writer):
    """Sums of a block of rows -> bfloat16, nearest, ties to even: sums, out, out's width, rows."""

    def __init__(self, module: ir.Module) -> None:
        super().__init__(module, "finish", [I8.as_pointer(), I16.as_pointer(), I64, I64], torch.bfloat16)
        self.made.linkage = "internal"
        sums, out, width, rows = self.made.args
        with self.loop(I64(0), rows) as row:
            from_there = self.gep(sums, [self.mul(row, I64(PANEL * 4))])
            values = self.load(self.bitcast(from_there, ir.VectorType(F32, PANEL).as_pointer()), align=LINE)
            rounded = self.fptrunc(values, ir.VectorType(BFLOAT, PANEL))
            to = self.gep(out, [self.mul(row, width)])
            self.store(rounded, self.bitcast(to, rounded.type.as_pointer()), align=self.element_bytes)
        self.ret_void()


@functools.cache
def compiled_packing() -> Kernel:
    """Rows [rows, in] -> [rows / 16, in / 32, 16, 32]: a last block that is not whole begins sooner; missing inputs are zeros."""
    module = ir.Module("packing")
    b = Entry(module, torch.bfloat16)
    groups, pairs, steps = (b.number() for _ in range(3))
    words = ir.VectorType(native.I32, STEP)
    whole, rest = b.sdiv(pairs, I64(STEP)), b.srem(pairs, I64(STEP))
    group = b.integer(0)
    with b.loop(I64(0), groups):
        rows, x, out = b.number(group), b.pointer(native.I32, group, 1), b.pointer(native.I32, group, 2)
        height = b.least(rows, I64(HEIGHT))
        with b.share(_rounded_up(b, rows, I64(HEIGHT))) as block:
            start = b.least(b.mul(block, I64(HEIGHT)), b.sub(rows, height))
            to_block = b.gep(out, [b.mul(block, b.mul(steps, I64(_TILE // 4)))])
            with b.loop(I64(0), height) as row:
                source = b.gep(x, [b.mul(b.add(start, row), pairs)])
                to = b.gep(to_block, [b.mul(row, I64(STEP))])
                with b.loop(I64(0), whole) as step:
                    values = b.load(b.bitcast(b.gep(source, [b.mul(step, I64(STEP))]), words.as_pointer()), align=4)
                    b.store(values, b.bitcast(b.gep(to, [b.mul(step, I64(_TILE // 4))]), words.as_pointer()), align=4)
                with b.if_then(b.icmp_signed(">", rest, I64(0))):
                    tail = b.gep(to, [b.mul(whole, I64(_TILE // 4))])
                    b.store(ir.Constant(words, [0] * STEP), b.bitcast(tail, words.as_pointer()), align=4)
                    source_tail = b.gep(source, [b.mul(whole, I64(STEP))])
                    with b.loop(I64(0), rest) as pair:
                        b.store(b.load(b.gep(source_tail, [pair]), align=4), b.gep(tail, [pair]), align=4)
        b.store(b.add(b.load(group), I64(3)), group)
    b.ret_void()
    return Kernel(module)

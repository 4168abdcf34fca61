"""Attention of one new token a sequence over a paged cache, read in place: rotary embedding, the cache's write and the rest.

A thread takes some of the (sequence, kv head) pairs. Each: rotate the new key and put it and the value into the cache; scores
of all query heads that share the kv head; softmax; the mix of values. Arithmetic is float32, and that of a sequence does not
depend on what else is in the batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from llvmlite import ir

from runtime.model.batch import PagedTables
from runtime.model.native import ELEMENTS, F32, I32, I64, LANES, Entry, Kernel, Value, Writer, float_bits

EVERYTHING = 1 << 40  # tokens: the window of attention without one


class DecodeKernel:
    """For a cache of [2 x kv heads, places, head size]; `group` query heads share a kv head."""

    def __init__(self, dtype: torch.dtype, dim: int, group: int) -> None:
        self._run = _compiled(dtype, dim, group)
        self._dim, self._group = dim, group

    def __call__(
        self,
        qkv: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        places: torch.Tensor,
        block_size: int,
        tables: PagedTables,
        window: int | None,
        scale: float,
    ) -> torch.Tensor:
        """qkv [n, heads + 2 x kv heads, head size], whose last token's place is in `tables`; rope [n, 1, head size] each.

        -> [n, heads x head size]. `places` gets the new keys and values.
        """
        n, kv = qkv.shape[0], places.shape[0] // 2
        out = qkv.new_empty((n, kv * self._group * self._dim))
        stride = tables.longest_key + block_size + LANES
        scores = torch.empty((torch.get_num_threads(), self._group, stride), dtype=torch.float32)
        sizes = (n, kv, places.shape[1], block_size, tables.blocks.stride(0), window or EVERYTHING, stride, float_bits(scale))
        tensors = (qkv, *rope, places, tables.blocks, tables.key_ends, out, scores)
        assert all(each.is_contiguous() for each in tensors if each is not tables.blocks)
        self._run((*sizes, *(each.data_ptr() for each in tensors)))
        return out


@functools.cache
def _compiled(dtype: torch.dtype, dim: int, group: int) -> Kernel:
    module = ir.Module("decode")
    head = _Head(module, dtype, dim, group)
    b = Entry(module, dtype)
    n, kv, places, size, width, window, stride = (b.number() for _ in range(7))
    scale = b.bitcast(b.trunc(b.number(), I32), F32)
    qkv, cos, sin, cache = (b.pointer(b.element) for _ in range(4))
    blocks, ends, out, scores = b.pointer(I32), b.pointer(I32), b.pointer(b.element), b.pointer(F32)

    def until(sequence: Value) -> Value:
        return b.sext(b.load(b.gep(ends, [sequence])), I64)

    mine = b.gep(scores, [b.weighted((b.member, b.mul(stride, I64(group))))])
    # as many tokens of cache for each member
    all_tokens = b.mul(until(n), kv)
    low, high = (b.sdiv(b.mul(all_tokens, i), b.members) for i in (b.member, b.add(b.member, I64(1))))
    token, plane = I64(dim), b.mul(places, I64(dim))
    row = b.mul(b.add(b.mul(kv, I64(group)), b.mul(kv, I64(2))), token)
    with b.loop(I64(0), n) as i:
        before = until(i)
        context = b.sub(until(b.add(i, I64(1))), before)
        with b.loop(I64(0), kv) as h:
            at = b.weighted((before, kv), (h, context))
            ours = b.and_(b.icmp_signed(">=", at, low), b.icmp_signed("<", at, high))
            with b.if_then(ours):
                new = b.gep(qkv, [b.mul(i, row)])
                heads = b.mul(kv, I64(group))
                b.call(
                    head.made,
                    [
                        b.gep(new, [b.mul(h, I64(group * dim))]),
                        b.gep(new, [b.mul(b.add(heads, h), token)]),
                        b.gep(new, [b.mul(b.add(b.add(heads, kv), h), token)]),
                        b.gep(cos, [b.mul(i, token)]),
                        b.gep(sin, [b.mul(i, token)]),
                        b.gep(cache, [b.mul(h, plane)]),
                        b.gep(cache, [b.mul(b.add(kv, h), plane)]),
                        b.gep(blocks, [b.mul(i, width)]),
                        b.gep(out, [b.mul(b.weighted((i, kv), (h, I64(1))), I64(group * dim))]),
                        mine,
                        b.most(b.sub(context, window), I64(0)),
                        context,
                        size,
                        stride,
                        scale,
                    ],
                )
    b.ret_void()
    return Kernel(module)


class _Head(Writer):
    """The function `head`: one sequence's query heads of one kv head."""

    def __init__(self, module: ir.Module, dtype: torch.dtype, dim: int, group: int) -> None:
        element, number = ELEMENTS[dtype].as_pointer(), F32.as_pointer()
        super().__init__(module, "head", [element] * 7 + [I32.as_pointer(), element, number] + [I64] * 4 + [F32], dtype)
        self.made.linkage = "internal"
        self._dim = dim
        query, key, value, cos, sin, keys, values, blocks, out, scores, begin, end, size, stride, scale = self.made.args
        self._blocks, self._size, self._begin, self._end = blocks, size, begin, end
        turn = self.row(cos, dim), self.row(sin, dim)

        newest = self.sub(end, I64(1))
        place = self.add(self._start_of(self.sdiv(newest, size)), self.mul(self.srem(newest, size), I64(dim)))
        self.put_row(self._turned(self.row(key, dim), turn), self.gep(keys, [place]))
        self.put_row(self.row(value, dim), self.gep(values, [place]))

        heads = [self._turned(self.row(self.gep(query, [I64(g * dim)]), dim), turn) for g in range(group)]
        heads = [self.times(each, self.splat(scale, dim)) for each in heads]
        rows = [self.gep(scores, [self.mul(I64(g), stride)]) for g in range(group)]
        with self._tokens(keys) as (t, key_row):
            for each, row in zip(heads, rows, strict=True):
                self.store(self.total(self.times(each, key_row)), self.gep(row, [t]))
        inverses = [self._softmax(row) for row in rows]
        mixed = [self.variable(0.0, dim) for _ in rows]
        with self._tokens(values) as (t, value_row):
            for each, row in zip(mixed, rows, strict=True):
                weight = self.splat(self.load(self.gep(row, [t])), dim)
                self.store(self.plus(self.load(each), self.times(weight, value_row)), each)
        for g, (each, inverse) in enumerate(zip(mixed, inverses, strict=True)):
            self.put_row(self.times(self.load(each), self.splat(inverse, dim)), self.gep(out, [I64(g * dim)]))
        self.ret_void()

    def _start_of(self, index: Value) -> Value:
        """Where the sequence's block of that index begins in a head's plane."""
        return self.mul(self.sext(self.load(self.gep(self._blocks, [index])), I64), self.mul(self._size, I64(self._dim)))

    def _turned(self, x: Value, turn: tuple[Value, Value]) -> Value:
        cos, sin = turn
        return self.plus(self.times(x, cos), self.times(self.halves_swapped(x), sin))

    @contextmanager
    def _tokens(self, plane: Value) -> Iterator[tuple[Value, Value]]:
        """(t - begin, the token's row) for begin <= t < end; the block after is asked for meanwhile."""
        last = self.sdiv(self.sub(self._end, I64(1)), self._size)
        with self.loop(self.sdiv(self._begin, self._size), self.add(last, I64(1))) as block:
            here = self.gep(plane, [self._start_of(block)])
            after = self.gep(plane, [self._start_of(self.least(self.add(block, I64(1)), last))])
            first = self.mul(block, self._size)
            with self.loop(self.most(first, self._begin), self.least(self.add(first, self._size), self._end)) as t:
                at = self.mul(self.sub(t, first), I64(self._dim))
                self.fetch(self.gep(after, [at]), self._dim)
                yield self.sub(t, self._begin), self.row(self.gep(here, [at]), self._dim)

    def _softmax(self, row: Value) -> Value:
        """Makes the row e to the power of (score - highest); gives one over their sum."""
        count, lanes = self.sub(self._end, self._begin), ir.VectorType(F32, LANES)
        padded = self.and_(self.add(count, I64(LANES - 1)), I64(-LANES))
        with self.loop(count, padded) as i:
            self.store(F32(-math.inf), self.gep(row, [i]))

        def vectors() -> Iterator[Value]:
            with self.loop(I64(0), padded, LANES) as i:
                yield self.bitcast(self.gep(row, [i]), lanes.as_pointer())

        top, total = self.variable(-math.inf, LANES), self.variable(0.0, LANES)
        for there in vectors():
            self.store(self.higher(self.load(top), self.load(there, align=4)), top)
        highest = self.splat(self.highest(self.load(top)), LANES)
        for there in vectors():
            power = self.exp(self.fsub(self.load(there, align=4), highest))
            self.store(power, there, align=4)
            self.store(self.plus(self.load(total), power), total)
        return self.fdiv(F32(1.0), self.total(self.load(total)))

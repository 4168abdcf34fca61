"""Machine code for this processor, made by LLVM before ranks are forked: a few words to write kernels with, and how to run them.

A kernel is a function of one array of 64-bit numbers (sizes and addresses). It runs once in every thread of torch's own
OpenMP team, so that no second pool fights over the cores, and divides the work by `member` and `members`.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import llvmlite.binding as llvm
import torch
from llvmlite import ir

I64, I32, I16, I8, F32 = ir.IntType(64), ir.IntType(32), ir.IntType(16), ir.IntType(8), ir.FloatType()
ELEMENTS = {torch.float32: F32, torch.bfloat16: I16, torch.float16: ir.HalfType()}  # LLVM need not know bfloat16
PANEL = 32  # outputs that a packed weight has side by side
LANES = 16  # of what is computed vector by vector
LINE = 64  # bytes of a cache line
SMALL = 1 << 15  # elements: less is done sooner than a team is called together


class _BFloat(ir.HalfType):  # type: ignore[misc]
    """llvmlite writes no bfloat of its own."""

    def __str__(self) -> str:
        return "bfloat"


_BFloat._create_instance()  # there is one of each type, and without this it would be HalfType's
BFLOAT = _BFloat()

_LOADED = ctypes.CDLL(None)
_FAST = ("fast",)
Value = Any  # of llvmlite, which has no types


class Kernel:
    """The function `entry` of a module, compiled."""

    def __init__(self, module: ir.Module) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
        machine = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=3)
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
        passes.getModulePassManager().run(parsed, passes)
        for name in ("omp_get_thread_num", "omp_get_num_threads"):
            llvm.add_symbol(name, _address(getattr(_LOADED, name)))
        self._engine = llvm.create_mcjit_compiler(parsed, machine)  # owns the code
        self._engine.finalize_object()
        self._entry = self._engine.get_function_address("entry")
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._entry)

    def __call__(self, numbers: Sequence[int], alone: bool = False) -> None:
        """In all of torch's threads, or in this one; returns when the last one is done."""
        there = array("q", numbers)
        address, threads = there.buffer_info()[0], torch.get_num_threads()
        if alone or threads == 1:
            self._alone(address)
        else:
            _team()(self._entry, address, threads, 0)


@functools.cache
def _team() -> Any:
    run = _LOADED.GOMP_parallel
    run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return run


@functools.cache
def available() -> bool:
    """Whether torch brought GNU's OpenMP, whose team can be lent. (Its builds for Linux do.)"""
    return all(hasattr(_LOADED, name) for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads"))


def float_bits(x: float) -> int:
    """A float32 as one of a kernel's numbers."""
    return int.from_bytes(struct.pack("<f", x), "little")


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class Writer(ir.IRBuilder):  # type: ignore[misc]
    """LLVM's builder with loops, and vectors of float32 that are read and written in an element type of memory."""

    def __init__(self, module: ir.Module, name: str, arguments: Sequence[Any], dtype: torch.dtype) -> None:
        self.made = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        super().__init__(self.made.append_basic_block())
        self._dtype, self.element, self.element_bytes = dtype, ELEMENTS[dtype], dtype.itemsize

    def loop(self, start: Value, stop: Value, step: int = 1) -> AbstractContextManager[Value]:
        return self.loop_by(start, stop, I64(step))

    @contextmanager
    def loop_by(self, start: Value, stop: Value, step: Value) -> Iterator[Value]:
        """for (i = start; i < stop; i += step)"""
        head, body, done = (self.function.append_basic_block() for _ in range(3))
        before = self.block
        self.branch(head)
        self.position_at_end(head)
        i = self.phi(I64)
        i.add_incoming(start, before)
        self.cbranch(self.icmp_signed("<", i, stop), body, done)
        self.position_at_end(body)
        yield i
        i.add_incoming(self.add(i, step), self.block)
        self.branch(head)
        self.position_at_end(done)

    def variable(self, x: float, count: int) -> Value:
        """A place for a vector of float32, which holds x at first."""
        with self.goto_entry_block():
            place = self.alloca(_vector(F32, count))
        self.store(constant(x, count), place)
        return place

    def integer(self, x: int) -> Value:
        """A place for an integer, which holds x at first."""
        with self.goto_entry_block():
            place = self.alloca(I64)
        self.store(I64(x), place)
        return place

    def room(self, size: int) -> Value:
        """A place for so many bytes, from a cache line's start on."""
        with self.goto_entry_block():
            place = self.alloca(ir.ArrayType(I8, size))
        place.align = LINE
        return self.bitcast(place, I8.as_pointer())

    def least(self, a: Value, b: Value) -> Value:
        return self.select(self.icmp_signed("<", a, b), a, b)

    def most(self, a: Value, b: Value) -> Value:
        return self.select(self.icmp_signed(">", a, b), a, b)

    def weighted(self, *pairs: tuple[Value, Value]) -> Value:
        """The sum of products of integers: an offset."""
        terms = [self.mul(a, b) for a, b in pairs]
        return terms[0] if len(terms) == 1 else self.add(terms[0], self.weighted(*pairs[1:]))

    def call_llvm(self, name: str, result: Any, *arguments: Value, **options: Any) -> Value:
        """An intrinsic."""
        known = self.module.globals.get(name)
        kind = ir.FunctionType(result, [each.type for each in arguments])
        return self.call(known or ir.Function(self.module, kind, name), arguments, **options)

    def row(self, pointer: Value, count: int) -> Value:
        """`count` elements from there -> a vector of float32."""
        kind = ir.VectorType(self.element, count)
        found = self.load(self.bitcast(pointer, kind.as_pointer()), align=self.element_bytes)
        if self._dtype is torch.bfloat16:
            return self.bitcast(self.shl(self.zext(found, _vector(I32, count)), _constant(I32, 16, count)), _vector(F32, count))
        return found if self._dtype is torch.float32 else self.fpext(found, _vector(F32, count))

    def put_row(self, values: Value, pointer: Value) -> None:
        """A vector of float32, rounded to nearest, ties to even."""
        count = values.type.count
        if self._dtype is torch.bfloat16:
            bits = self.bitcast(values, _vector(I32, count))
            odd = self.and_(self.lshr(bits, _constant(I32, 16, count)), _constant(I32, 1, count))
            rounded = self.add(self.add(bits, _constant(I32, 0x7FFF, count)), odd)
            values = self.trunc(self.lshr(rounded, _constant(I32, 16, count)), _vector(I16, count))
        elif self._dtype is torch.float16:
            values = self.fptrunc(values, _vector(self.element, count))
        self.store(values, self.bitcast(pointer, values.type.as_pointer()), align=self.element_bytes)

    def fetch(self, pointer: Value, count: int) -> None:
        """Tell the processor that `count` elements will be read soon."""
        for at in range(0, count * self.element_bytes, LINE):
            self.ask(self.bitcast(self.gep(pointer, [I64(at // self.element_bytes)]), I8.as_pointer()))

    def ask(self, line: Value, locality: int = 3) -> None:
        """Tell the processor that a byte's cache line will be read soon. Locality 2: the second-level cache is near enough."""
        self.call_llvm("llvm.prefetch.p0", ir.VoidType(), line, I32(0), I32(locality), I32(1))

    def splat(self, x: Value, count: int) -> Value:
        first = self.insert_element(ir.Constant(_vector(x.type, count), ir.Undefined), x, I32(0))
        return self.shuffle_vector(first, first, _constant(I32, 0, count))

    def halves_swapped(self, x: Value) -> Value:
        count = x.type.count
        order = [*range(count // 2, count), *range(count // 2)]
        return self.shuffle_vector(x, x, ir.Constant(_vector(I32, count), order))

    def times(self, a: Value, b: Value) -> Value:
        return self.fmul(a, b, flags=_FAST)

    def plus(self, a: Value, b: Value) -> Value:
        return self.fadd(a, b, flags=_FAST)

    def total(self, x: Value) -> Value:
        """The sum of a vector."""
        return self.call_llvm(f"llvm.vector.reduce.fadd.v{x.type.count}f32", F32, F32(0.0), x, fastmath=_FAST)

    def highest(self, x: Value) -> Value:
        return self.call_llvm(f"llvm.vector.reduce.fmax.v{x.type.count}f32", F32, x)

    def higher(self, a: Value, b: Value) -> Value:
        return self.call_llvm(f"llvm.maxnum.v{a.type.count}f32", a.type, a, b)

    def exp(self, x: Value) -> Value:
        """e to the power of a vector, each held to between -87 and 88. Relative error 2e-7.

        2^n x e^f with a Taylor series for |f| <= ln(2) / 2.
        """
        count = x.type.count
        power = self.higher(self.times(x, constant(math.log2(math.e), count)), constant(-126.0, count))
        power = self.call_llvm(f"llvm.minnum.v{count}f32", x.type, power, constant(127.0, count))
        whole = self.call_llvm(f"llvm.floor.v{count}f32", x.type, self.fadd(power, constant(0.5, count)))
        f = self.times(self.fsub(power, whole), constant(math.log(2), count))
        series = constant(1 / math.factorial(6), count)
        for n in range(5, -1, -1):
            series = self.plus(self.times(series, f), constant(1 / math.factorial(n), count))
        exponent = self.add(self.fptosi(whole, _vector(I32, count)), _constant(I32, 127, count))
        return self.times(series, self.bitcast(self.shl(exponent, _constant(I32, 23, count)), x.type))


class Entry(Writer):
    """A kernel's outermost function: `number()` and `pointer()` take the next of its arguments."""

    def __init__(self, module: ir.Module, dtype: torch.dtype) -> None:
        super().__init__(module, "entry", [I64.as_pointer()], dtype)
        self._taken = 0
        self.member, self.members = (
            self.sext(self.call_llvm(name, I32), I64) for name in ("omp_get_thread_num", "omp_get_num_threads")
        )

    @contextmanager
    def share(self, count: Value) -> Iterator[Value]:
        """This member's part of 0 <= i < count."""
        start, stop = (self.sdiv(self.mul(count, i), self.members) for i in (self.member, self.add(self.member, I64(1))))
        with self.loop(start, stop) as i:
            yield i

    def number(self, further: Value | None = None, offset: int = 0) -> Value:
        """The next one; or that so far behind the last one taken: the integer at `further`, and `offset`."""
        if further is None:
            self._taken += 1
            at = I64(self._taken - 1)
        else:
            at = self.add(self.load(further), I64(self._taken + offset))
        return self.load(self.gep(self.made.args[0], [at]))

    def pointer(self, kind: Any, further: Value | None = None, offset: int = 0) -> Value:
        return self.inttoptr(self.number(further, offset), kind.as_pointer())


def constant(x: float, count: int) -> Value:
    return _constant(F32, x, count)


def _vector(kind: Any, count: int) -> Any:
    return ir.VectorType(kind, count)


def _constant(kind: Any, x: float, count: int) -> Value:
    return ir.Constant(_vector(kind, count), [x] * count)

"""Machine code at run time, by LLVM: what the kernels of this package are written with.

A kernel is a Python function that emits LLVM's intermediate code for one shape; LLVM compiles it
for the processor at hand in a few hundredths of a second, so no compiler has to be installed.
Operations are emitted in a fixed order and none may be reassociated or contracted: how wide the
processor's vectors are decides how many channels are computed at once, never the order in which a
number is added up. So a kernel gives the same bits on every processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import torch
from llvmlite import ir

INDEX, BYTE = ir.IntType(64), ir.IntType(8)
POINTER = ir.PointerType()
Value = Any  # llvmlite has no types for mypy


@dataclass(frozen=True)
class Processor:
    """Its vector registers: bytes of each, and how many there are."""

    width: int
    registers: int


@lru_cache(maxsize=1)
def processor() -> Processor:
    """The processor at hand."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return Processor(64, 32)
    if features.get("avx2") and features.get("fma"):
        return Processor(32, 16)
    return Processor(16, 32 if llvm.get_default_triple().startswith(("aarch64", "arm64")) else 16)


def lanes_of(channels: int, dtype: torch.dtype) -> int:
    """How many channels are computed at once.

    It is what a register holds, or the largest half of it that divides them.

    Args:
        channels: of the maps.
        dtype: of the numbers.
    """
    lanes = processor().width // dtype.itemsize
    while channels % lanes:
        lanes //= 2
    return lanes


def machine() -> Any:
    """LLVM's picture of the processor at hand, a new one."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=True
    )


@lru_cache(maxsize=1)
def _machine() -> Any:
    return machine()


class Code:
    """The body of one kernel while it is emitted.

    Its numbers are of ``dtype``, float32 or float64; offsets count numbers, not bytes.
    """

    def __init__(self, name: str, arguments: str, dtype: torch.dtype) -> None:
        """``arguments``: a letter each, "p" for an address (of numbers, mostly), "i" for an
        integer. No two addresses may overlap.
        """
        self.real = ir.FloatType() if dtype == torch.float32 else ir.DoubleType()
        self.dtype, self.size = dtype, dtype.itemsize
        self.module = ir.Module(name)
        kinds = [POINTER if kind == "p" else INDEX for kind in arguments]
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), name)
        self.arguments: Sequence[Value] = self.function.args
        for kind, argument in zip(arguments, self.arguments, strict=True):
            if kind == "p":
                argument.add_attribute("noalias")
        self.b = ir.IRBuilder(self.function.append_basic_block())

    def machine_code(self) -> bytes:
        """An object file that holds the kernel."""
        self.b.ret_void()
        return _machine().emit_object(llvm.parse_assembly(str(self.module)))  # type: ignore[no-any-return]

    # Integers

    def index(self, value: Value | int) -> Value:
        return ir.Constant(INDEX, value) if isinstance(value, int) else value

    def add(self, a: Value | int, b: Value | int) -> Value | int:
        return (
            a + b
            if isinstance(a, int) and isinstance(b, int)
            else self.b.add(self.index(a), self.index(b))
        )

    def mul(self, a: Value | int, b: Value | int) -> Value | int:
        return (
            a * b
            if isinstance(a, int) and isinstance(b, int)
            else self.b.mul(self.index(a), self.index(b))
        )

    def linear(self, *terms: tuple[Value | int, Value | int]) -> Value | int:
        """The sum of products."""
        total: Value | int = 0
        for a, b in terms:
            product = self.mul(a, b)
            total = product if isinstance(total, int) and total == 0 else self.add(total, product)
        return total

    def multiple(self, count: Value, of: int) -> Value:
        """The largest multiple of ``of`` that is not above ``count``."""
        return count if of == 1 else self.b.mul(self.b.sdiv(count, self.index(of)), self.index(of))

    def less(self, a: Value | int, b: Value) -> Value:
        return self.b.sub(self.index(a), b)

    def integer(self, pointer: Value, place: Value | int) -> Value:
        """One of the 64-bit integers that lie at ``pointer``."""
        return self.b.load(self.integer_at(pointer, place), align=8, typ=INDEX)

    def integer_at(self, pointer: Value, place: Value | int) -> Value:
        """``pointer`` moved by ``place`` 64-bit integers."""
        return self.b.gep(pointer, [self.index(place)], True, source_etype=INDEX)

    def byte(self, pointer: Value, place: Value | int) -> Value:
        """One of the bytes that lie at ``pointer``, as an integer."""
        return self.b.zext(self.b.load(self._byte_at(pointer, place), align=1, typ=BYTE), INDEX)

    def _byte_at(self, pointer: Value, place: Value | int) -> Value:
        return self.b.gep(pointer, [self.index(place)], True, source_etype=BYTE)

    def prefetch(self, pointer: Value, place: Value | int) -> None:
        """Ask for the bytes around one of those at ``pointer``, to be read soon."""
        word = ir.IntType(32)
        name = "llvm.prefetch.p0"
        kind = ir.FunctionType(ir.VoidType(), [POINTER, word, word, word])
        function = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        self.b.call(
            function, [self._byte_at(pointer, place), *(ir.Constant(word, n) for n in (0, 3, 1))]
        )  # to read, close, data

    # Numbers and vectors of them

    def bytes(self, pointer: Value, place: Value | int, lanes: int) -> Value:
        """Bytes in a row, as numbers."""
        kind = ir.VectorType(BYTE, lanes) if lanes > 1 else BYTE
        return self.b.uitofp(
            self.b.load(self._byte_at(pointer, place), align=1, typ=kind), self.kind(lanes)
        )

    def kind(self, lanes: int) -> Any:
        return ir.VectorType(self.real, lanes) if lanes > 1 else self.real

    def const(self, value: float, lanes: int = 1) -> Value:
        number = ir.Constant(self.real, value)
        return ir.Constant(self.kind(lanes), [number] * lanes) if lanes > 1 else number

    def at(self, pointer: Value, offset: Value | int) -> Value:
        """``pointer`` moved by ``offset`` numbers."""
        return (
            pointer
            if isinstance(offset, int) and offset == 0
            else self.b.gep(pointer, [self.index(offset)], True, source_etype=self.real)
        )

    def load(self, pointer: Value, lanes: int) -> Value:
        return self.b.load(pointer, align=self.size, typ=self.kind(lanes))

    def store(self, value: Value, pointer: Value) -> None:
        self.b.store(value, pointer, align=self.size)

    def room(self, count: int) -> Value:
        """The address of ``count`` numbers of the kernel's own."""
        pointer = self.b.alloca(self.real, count)
        pointer.type = POINTER  # as all addresses here: of nothing in particular
        return pointer

    def spread(self, value: Value, lanes: int) -> Value:
        """One number in every lane."""
        if lanes == 1:
            return value
        word = ir.IntType(32)
        undefined = ir.Constant(self.kind(lanes), ir.Undefined)
        first = self.b.insert_element(undefined, value, ir.Constant(word, 0))
        return self.b.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(word, lanes), [0] * lanes)
        )

    def transposed(self, rows: Sequence[Value]) -> list[Value]:
        """Columns of as many vectors as they have lanes."""
        columns, lanes, word = list(rows), len(rows), ir.IntType(32)
        for apart in (1 << bit for bit in range(lanes.bit_length() - 1)):
            even = [n if not n & apart else lanes + n - apart for n in range(lanes)]
            odd = [n + apart if not n & apart else lanes + n for n in range(lanes)]
            masks = [ir.Constant(ir.VectorType(word, lanes), mask) for mask in (even, odd)]
            for n in range(lanes):
                if not n & apart:
                    pair = columns[n], columns[n + apart]
                    columns[n], columns[n + apart] = (
                        self.b.shuffle_vector(*pair, mask) for mask in masks
                    )
        return columns

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        return self._intrinsic("fma", a, b, c)

    def sqrt(self, a: Value) -> Value:
        return self._intrinsic("sqrt", a)

    def _intrinsic(self, name: str, *values: Value) -> Value:
        kind = values[0].type
        lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        full = f"llvm.{name}.{lanes}f{8 * self.size}"
        function = self.module.globals.get(full) or ir.Function(
            self.module, ir.FunctionType(kind, [kind] * len(values)), full
        )
        return self.b.call(function, values)

    def total(self, values: Sequence[Value]) -> Value:
        """The sum by halves: ((a + b) + (c + d)) + ..."""
        if len(values) == 1:
            return values[0]
        half = (len(values) + 1) // 2
        return self.b.fadd(self.total(values[:half]), self.total(values[half:]))

    def greater(self, a: Value, b: Value, equal: bool = False) -> Value:
        """a > b, or a >= b, lane by lane; false where one is not a number."""
        return self.b.fcmp_ordered(">=" if equal else ">", a, b)

    def count(self, truths: Value) -> Value:
        """How many lanes are true, as an integer."""
        kind = truths.type
        if not isinstance(kind, ir.VectorType):
            return self.b.zext(truths, INDEX)
        word = ir.IntType(kind.count)
        name = f"llvm.ctpop.i{kind.count}"
        function = self.module.globals.get(name) or ir.Function(
            self.module, ir.FunctionType(word, [word]), name
        )
        bits = self.b.call(function, [self.b.bitcast(truths, word)])
        return self.b.zext(bits, INDEX)

    # Loops

    def loop(
        self,
        count: Value | int,
        body: Callable[[Value, list[Value]], Sequence[Value] | None],
        carried: Sequence[Value] = (),
        step: int = 1,
        start: Value | int = 0,
    ) -> list[Value]:
        """``body(i, values)`` for i from ``start`` below ``count`` by ``step``; it returns the
        values of the next round, if any are carried.
        """
        b, before = self.b, self.b.block
        head, inside, after = (self.function.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        i, held = b.phi(INDEX), [b.phi(value.type) for value in carried]
        for phi, value in zip([i, *held], [self.index(start), *carried], strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", i, self.index(count)), inside, after)
        b.position_at_end(inside)
        results = body(i, held) or ()
        next_i = b.add(i, self.index(step))
        for phi, value in zip([i, *held], [next_i, *results], strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return held

    def each(self, count: int, body: Callable[[Value | int], None]) -> None:
        """``body(i)`` for i in 0..count-1; without a loop for one."""
        if count == 1:
            body(0)
        else:
            self.loop(count, lambda i, _: body(i))

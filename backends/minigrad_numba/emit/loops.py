"""LLVM IR with loops and branches as `with` blocks, sizes and strides in 64-bit integers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir

INDEX = ir.IntType(64)
POINTER = ir.PointerType()
VOID = ir.VoidType()
FLOATS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
SIZES = {"float32": 4, "float64": 8}  # bytes


def index(value: int) -> ir.Constant:
    return ir.Constant(INDEX, value)


ZERO, ONE = index(0), index(1)


class Code(ir.IRBuilder):
    """A builder at the start of a new function: `code.arguments` are its parameters."""

    def __init__(self, function: ir.Function) -> None:
        super().__init__(function.append_basic_block("entry"))
        function.attributes.add("nounwind")
        self.arguments: Sequence[Any] = function.args

    @contextlib.contextmanager
    def loop(self, start: Any, stop: Any, step: Any = ONE) -> Iterator[Any]:
        """`for i in range(start, stop, step)`, step > 0."""
        before = self.block
        head, body, end = (self.append_basic_block(name) for name in ("head", "body", "end"))
        self.branch(head)
        self.position_at_end(head)
        i = self.phi(INDEX)
        i.add_incoming(start, before)
        self.cbranch(self.icmp_signed("<", i, stop), body, end)
        self.position_at_end(body)
        yield i
        i.add_incoming(self.add(i, step, flags=["nsw"]), self.block)
        self.branch(head)
        self.position_at_end(end)

    def local(self, typ: ir.Type) -> Any:
        """Memory of this call: in the entry block, where LLVM makes registers of it."""
        with self.goto_entry_block():
            place = self.alloca(typ)
        place.type = POINTER  # llvmlite would have a pointer to this type alone
        return place

    def unrelated(self, pointer: Any) -> Any:
        """The pointer, of which LLVM knows no more; it would chain neighbouring rows' addresses."""
        return self.asm(ir.FunctionType(POINTER, [POINTER]), "", "=r,0", [pointer], False)

    def fetch(self, pointer: Any, writes: bool = False) -> None:
        """Have a line of memory in the cache soon."""
        small = ir.IntType(32)
        function = self.module.globals.get("llvm.prefetch.p0") or ir.Function(
            self.module, ir.FunctionType(VOID, [POINTER, small, small, small]), "llvm.prefetch.p0"
        )
        self.call(function, [pointer, *(ir.Constant(small, i) for i in (int(writes), 3, 1))])

    def smaller(self, a: Any, b: Any) -> Any:
        return self.select(self.icmp_signed("<", a, b), a, b)

    def larger(self, a: Any, b: Any) -> Any:
        return self.select(self.icmp_signed("<", a, b), b, a)

    def multiples(self, size: Any, of: int) -> Any:
        """The greatest multiple of a constant in a size."""
        return self.mul(self.sdiv(size, index(of)), index(of))

    def at(self, pointer: Any, dtype: str, *offsets: tuple[Any, Any]) -> Any:
        """The pointer, moved by the sum of index times stride, in elements."""
        for i, stride in offsets:
            moved = i if stride is ONE else self.mul(i, stride, flags=["nsw"])
            pointer = self.gep(pointer, [moved], source_etype=FLOATS[dtype])
        return pointer

    def read(self, pointer: Any, dtype: str, lanes: int | None = None) -> Any:
        """A number, or a vector of so many, aligned to a number."""
        typ = FLOATS[dtype] if lanes is None else ir.VectorType(FLOATS[dtype], lanes)
        return self.load(pointer, align=SIZES[dtype], typ=typ)

    def write(self, value: Any, pointer: Any, dtype: str) -> None:
        self.store(value, pointer, align=SIZES[dtype])

    def splat(self, number: Any, lanes: int) -> Any:
        """A vector with one number in all its lanes."""
        undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        first = self.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.pick(first, first, [0] * lanes)

    def pick(self, a: Any, b: Any, lanes: Sequence[int]) -> Any:
        """Lanes of two vectors laid side by side."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
        return self.shuffle_vector(a, b, mask)


def define(
    module: ir.Module,
    name: str,
    parameters: Sequence[Any],
    internal: bool = False,
    result: ir.Type = VOID,
) -> Code:
    """A new function."""
    function = ir.Function(module, ir.FunctionType(result, parameters), name)
    if internal:
        function.linkage = "internal"
        function.attributes.add("noinline")
    return Code(function)

"""Values that write LLVM vector code: what an op's forward computes with them runs later, in lanes.

A `Vector` stands for one element per lane and takes Python's operators as an array does; a `Number`
for a Python float that is known only when the code runs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from minigrad_numba.emit.arithmetic import BOOL, FLOAT64, Operand, alike

UINT8, FLOAT32 = np.dtype("uint8"), np.dtype("float32")
_FLOATS = {FLOAT32: ir.FloatType(), FLOAT64: ir.DoubleType()}
_INDEX = ir.IntType(32)


def scalar_type(dtype: np.dtype[Any]) -> ir.Type:
    """The LLVM type of one element; a bool is one bit, but in memory a byte (see `load`)."""
    if dtype in _FLOATS:
        return _FLOATS[dtype]
    if dtype.kind not in "biu":
        raise TypeError(f"vector code has no {dtype}: only float32, float64, integers and bool")
    return ir.IntType(1 if dtype.kind == "b" else 8 * dtype.itemsize)


@functools.lru_cache(maxsize=4096)  # a program has the coefficients of exp in each of its kernels
def _repeated(dtype: np.dtype[Any], bits: bytes, count: int) -> ir.Constant:
    """The number with these bits in every lane."""
    number = np.frombuffer(bits, dtype)[0].item()
    return ir.Constant(ir.VectorType(scalar_type(dtype), count), [number] * count)


class Lanes:
    """Where code goes, and how many lanes its vectors have, of whatever dtype.

    fused: whether the target multiplies and adds in one instruction.
    """

    def __init__(self, builder: ir.IRBuilder, count: int, fused: bool = False) -> None:
        self.builder = builder
        self.count = count
        self.fused = fused

    def type(self, dtype: Any) -> ir.VectorType:
        return ir.VectorType(scalar_type(np.dtype(dtype)), self.count)

    def suffix(self, dtype: np.dtype[Any]) -> str:
        """A vector's type as the names of LLVM's intrinsics spell it, `v8f32`."""
        return f"v{self.count}{'f' if dtype.kind == 'f' else 'i'}{8 * dtype.itemsize}"

    def vector(self, value: ir.Value, dtype: Any) -> Vector:
        return Vector(self, value, np.dtype(dtype))

    def constant(self, value: float, dtype: Any) -> Vector:
        """The same Python number in every lane; raises OverflowError if an integer dtype lacks it.

        A number beyond the greatest float becomes infinite.
        """
        with np.errstate(over="ignore"):
            exact = np.dtype(dtype).type(value)
        return self.vector(_repeated(exact.dtype, exact.tobytes(), self.count), dtype)

    def splat(self, scalar: ir.Value, dtype: Any) -> Vector:
        """The same value of run time in every lane."""
        nothing = ir.Constant(self.type(dtype), ir.Undefined)
        first = self.builder.insert_element(nothing, scalar, _INDEX(0))
        zeros = ir.Constant(ir.VectorType(_INDEX, self.count), [0] * self.count)
        return self.vector(self.builder.shuffle_vector(first, nothing, zeros), dtype)

    def lift(self, x: Any, dtype: Any) -> Vector:
        """A Vector, Number or Python number as a Vector of a dtype."""
        if isinstance(x, Vector):
            return x.astype(dtype)
        if not isinstance(x, Number):
            return self.constant(x, dtype)
        return self.splat(x.value, FLOAT64).astype(dtype)

    def call(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        """The result of an intrinsic, or of a function of the C library."""
        function = self.builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [v.type for v in values])
            function = ir.Function(self.builder.module, kind, name)
        return self.builder.call(function, values)


class Vector(Operand):
    """One element of an array in each lane."""

    shape = ()
    ndim = 0

    def __init__(self, lanes: Lanes, value: ir.Value, dtype: np.dtype[Any]) -> None:
        self.lanes = lanes
        self.value = value
        self.dtype = dtype

    def __neg__(self) -> Vector:
        if self.dtype.kind == "b":
            raise TypeError("negative: not of bool, as in NumPy; write ~x")
        build = self.lanes.builder
        return self.like((build.fneg if self.dtype.kind == "f" else build.neg)(self.value))

    def __invert__(self) -> Vector:
        return self.like(self.lanes.builder.not_(self.value))

    def __and__(self, other: Any) -> Vector:
        a, b = alike(self, other)
        return a.like(a.lanes.builder.and_(a.value, b.value))

    def __or__(self, other: Any) -> Vector:
        a, b = alike(self, other)
        return a.like(a.lanes.builder.or_(a.value, b.value))

    __rand__, __ror__ = __and__, __or__

    def __lshift__(self, bits: int) -> Vector:
        return self.like(self.lanes.builder.shl(self.value, self.constant(bits).value))

    def __rshift__(self, bits: int) -> Vector:
        """Of a signed integer, which keeps its sign."""
        return self.like(self.lanes.builder.ashr(self.value, self.constant(bits).value))

    def like(self, value: ir.Value) -> Vector:
        """Another value of the same dtype."""
        return Vector(self.lanes, value, self.dtype)

    def constant(self, value: float) -> Vector:
        """A number in every lane, in the dtype of this vector."""
        return self.lanes.constant(value, self.dtype)

    def call(self, intrinsic: str, *others: Vector) -> Vector:
        """An LLVM intrinsic of vectors of this dtype."""
        name = f"llvm.{intrinsic}.{self.lanes.suffix(self.dtype)}"
        values = (self.value, *(v.value for v in others))
        return self.like(self.lanes.call(name, self.value.type, *values))

    def libm(self, function: str, *others: Vector) -> Vector:
        """A function of C's math library, by its name for double, lane by lane."""
        lanes, build = self.lanes, self.lanes.builder
        name = function + ("f" if self.dtype == FLOAT32 else "")
        result = ir.Constant(self.value.type, ir.Undefined)
        for i in range(lanes.count):
            scalars = [build.extract_element(v.value, _INDEX(i)) for v in (self, *others)]
            y = lanes.call(name, scalar_type(self.dtype), *scalars)
            result = build.insert_element(result, y, _INDEX(i))
        return self.like(result)

    def bits(self) -> Vector:
        """The bits of floats as signed integers."""
        return self._cast(f"int{8 * self.dtype.itemsize}", self.lanes.builder.bitcast)

    def floats(self) -> Vector:
        """The floats that have these bits."""
        return self._cast(f"float{8 * self.dtype.itemsize}", self.lanes.builder.bitcast)

    def astype(self, dtype: Any) -> Vector:
        """Converted as NumPy does; floats that an integer dtype lacks become its nearest, NaN 0."""
        dtype = np.dtype(dtype)
        build, here, there = self.lanes.builder, self.dtype.kind, dtype.kind
        if dtype == self.dtype:
            return self
        if there == "b":
            return self != self.constant(0)
        if here == "f" and there == "f":
            return self._cast(dtype, build.fptrunc if dtype == FLOAT32 else build.fpext)
        if here == "f":  # a plain fptosi is undefined where the integer does not fit
            conversion = "fptosi" if there == "i" else "fptoui"
            suffixes = f"{self.lanes.suffix(dtype)}.{self.lanes.suffix(self.dtype)}"
            name = f"llvm.{conversion}.sat.{suffixes}"
            return self._cast(dtype, lambda value, kind: self.lanes.call(name, kind, value))
        if there == "f":
            return self._cast(dtype, build.sitofp if here == "i" else build.uitofp)
        if here != "b" and dtype.itemsize <= self.dtype.itemsize:
            return self._cast(dtype, build.trunc)  # none at all where only the sign differs
        return self._cast(dtype, build.sext if here == "i" else build.zext)

    def _cast(self, dtype: Any, instruction: Callable[..., ir.Value]) -> Vector:
        return self.lanes.vector(instruction(self.value, self.lanes.type(dtype)), dtype)


class Number(Operand):
    """A Python float given when the code runs: a double, and its present value if that is known.

    Beside a Vector it takes the Vector's dtype; two Numbers make a Number, computed in double.
    """

    def __init__(self, lanes: Lanes, value: ir.Value, known: float | None) -> None:
        self.lanes = lanes
        self.value = value
        self.known = known

    def __neg__(self) -> Number:
        known = None if self.known is None else -self.known
        return Number(self.lanes, self.lanes.builder.fneg(self.value), known)

    def combined(
        self,
        vectors: Callable[[Vector, Vector], Vector],
        numbers: Callable[[Any, Any], Any],
        a: Any,
        b: Any,
    ) -> Number:
        """An operation on two numbers, one of which is this one."""
        single = Lanes(self.lanes.builder, 1, self.lanes.fused)
        y = vectors(single.lift(a, FLOAT64), single.lift(b, FLOAT64)).value
        known = None
        with contextlib.suppress(TypeError, ArithmeticError):  # not known, or Python refuses 1 / 0
            known = numbers(*(x.known if isinstance(x, Number) else x for x in (a, b)))
        known = known if isinstance(known, (int, float)) else None  # (-1) ** 0.5 is complex
        return Number(self.lanes, self.lanes.builder.extract_element(y, _INDEX(0)), known)


# --- memory --------------------------------------------------------------------------------------


def load(lanes: Lanes, pointer: ir.Value, dtype: Any, mask: Vector | None = None) -> Vector:
    """As many consecutive elements as there are lanes; 0, and no access, where a mask is False."""
    dtype = np.dtype(dtype)
    stored = UINT8 if dtype == BOOL else dtype
    kind = lanes.type(stored)
    place = lanes.builder.bitcast(pointer, ir.PointerType(kind))
    if mask is None:
        value = lanes.builder.load(place, align=dtype.itemsize, typ=kind)
    else:
        nothing = ir.Constant(kind, [0] * lanes.count)
        name = f"llvm.masked.load.{lanes.suffix(stored)}.p0"
        value = lanes.call(name, kind, place, _INDEX(dtype.itemsize), mask.value, nothing)
    return lanes.vector(value, stored).astype(dtype)


def store(lanes: Lanes, pointer: ir.Value, vector: Vector, mask: Vector | None = None) -> None:
    """Write the elements of a vector one after the other, but where a mask is False."""
    vector = vector.astype(UINT8) if vector.dtype == BOOL else vector
    align = vector.dtype.itemsize
    place = lanes.builder.bitcast(pointer, ir.PointerType(vector.value.type))
    if mask is None:
        lanes.builder.store(vector.value, place, align=align)
        return
    name = f"llvm.masked.store.{lanes.suffix(vector.dtype)}.p0"
    lanes.call(name, ir.VoidType(), vector.value, place, _INDEX(align), mask.value)

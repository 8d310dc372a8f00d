"""What Python's operators mean on values that write vector code: promotion, then instructions.

Dtypes promote as NumPy's do, and results are NumPy's too, NaN, infinities, signed zeros and
integers divided by zero included.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minigrad_numba.emit.vector import Lanes, Number, Vector

BOOL, INT8 = np.dtype("bool"), np.dtype("int8")
INT64, UINT64 = np.dtype("int64"), np.dtype("uint64")
FLOAT64 = np.dtype("float64")
WHOLE = range(-4, 9)  # exponents that become multiplications


def _both(vectors: Callable[..., Any], numbers: Callable[..., Any]) -> tuple[Any, Any]:
    """An operator and its reflection, of functions of two like Vectors and of two floats."""
    return (
        lambda a, b: binary(vectors, numbers, a, b),
        lambda b, a: binary(vectors, numbers, a, b),
    )


# --- two Vectors of one dtype --------------------------------------------------------------------


def _build(a: Vector, b: Vector, name: str, floats: str, integers: str, bools: str) -> Vector:
    instruction = {"f": floats, "b": bools}.get(a.dtype.kind, integers)
    if not instruction:
        raise TypeError(f"{name}: not of bool, as in NumPy")
    return a.like(getattr(a.lanes.builder, instruction)(a.value, b.value))


def _add(a: Vector, b: Vector) -> Vector:
    return _build(a, b, "add", "fadd", "add", "or_")


def _subtract(a: Vector, b: Vector) -> Vector:
    return _build(a, b, "subtract", "fsub", "sub", "")


def _multiply(a: Vector, b: Vector) -> Vector:
    return _build(a, b, "multiply", "fmul", "mul", "and_")


def _divide(a: Vector, b: Vector) -> Vector:
    if a.dtype.kind != "f":
        a, b = a.astype(FLOAT64), b.astype(FLOAT64)
    return a.like(a.lanes.builder.fdiv(a.value, b.value))


def _floor_divide(a: Vector, b: Vector) -> Vector:
    return _divmod(a, b)[0]


def _remainder(a: Vector, b: Vector) -> Vector:
    return _divmod(a, b)[1]


def _divmod(a: Vector, b: Vector) -> tuple[Vector, Vector]:
    """Quotient rounded down and remainder of b's sign; the optimiser drops the one not used."""
    build = a.lanes.builder
    if a.dtype.kind == "f":
        return _divmod_floats(a, b, a.like(build.frem(a.value, b.value)))
    if a.dtype.kind == "b":
        a, b = a.astype(INT8), b.astype(INT8)
    signed = a.dtype.kind == "i"
    # Division by zero, and of the least integer by -1, ends the process: divide by 1 instead.
    zero = b == 0
    negated = b == -1  # of unsigned integers never true
    divisor = where(zero | negated, 1, b)
    q = a.like((build.sdiv if signed else build.udiv)(a.value, divisor.value))
    r = a - q * divisor
    if signed:
        down = (r != 0) & ((r < 0) != (divisor < 0))
        q, r = where(down, q - 1, q), where(down, r + divisor, r)
    return where(zero, 0, where(negated, -a, q)), r


def _divmod_floats(a: Vector, b: Vector, r: Vector) -> tuple[Vector, Vector]:
    """NumPy's npy_divmod, from r, the remainder that has a's sign."""
    down = (r != 0) & ((b < 0) != (r < 0))
    q = (a - r) / b
    q = where(down, q - 1, q)
    whole = q.call("floor")
    whole = where(q - whole > 0.5, whole + 1, whole)
    whole = where(q == 0, q.constant(0).call("copysign", a / b), whole)
    signed = where(down, r + b, where(r == 0, r.call("copysign", b), r))
    return where(b == 0, a / b, whole), where(b == 0, r, signed)


def _pow(a: Vector, b: Vector) -> Vector:
    if a.dtype.kind != "f":
        raise TypeError(f"power: {a.dtype} to a vector of exponents is not vector code")
    return a.libm("pow", b)


# --- operands ------------------------------------------------------------------------------------


class Operand:
    """A Vector, or a Number, which has no dtype of its own; and what operators do with it."""

    lanes: Lanes
    dtype: Any = None

    __add__, __radd__ = _both(_add, operator.add)
    __sub__, __rsub__ = _both(_subtract, operator.sub)
    __mul__, __rmul__ = _both(_multiply, operator.mul)
    __truediv__, __rtruediv__ = _both(_divide, operator.truediv)
    __floordiv__, __rfloordiv__ = _both(_floor_divide, operator.floordiv)
    __mod__, __rmod__ = _both(_remainder, operator.mod)

    def __pow__(self, other: Any) -> Any:
        return power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return power(other, self)

    def __lt__(self, other: Any) -> Any:
        return compare("<", self, other)

    def __le__(self, other: Any) -> Any:
        return compare("<=", self, other)

    def __gt__(self, other: Any) -> Any:
        return compare(">", self, other)

    def __ge__(self, other: Any) -> Any:
        return compare(">=", self, other)

    def __eq__(self, other: Any) -> Any:
        return compare("==", self, other)

    def __ne__(self, other: Any) -> Any:
        return compare("!=", self, other)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("the truth of a value is not known while code for it is written")


def is_vector(x: Any) -> bool:
    return isinstance(x, Operand) and x.dtype is not None


def promoted(*operands: Any) -> np.dtype[Any]:
    """The dtype that NumPy computes in; Numbers and Python numbers are weak."""
    seen: list[Any] = []
    for x in operands:
        if not isinstance(x, (Operand, bool, int, float)):
            raise TypeError(f"vector code takes vectors and Python numbers, not {type(x).__name__}")
        seen.append((x.dtype or 1.0) if isinstance(x, Operand) else x)
    return np.dtype(np.result_type(*seen))


def alike(*operands: Any) -> list[Vector]:
    """Operands, at least one of which is no Python number, as Vectors of their common dtype."""
    lanes = next(x.lanes for x in operands if isinstance(x, Operand))
    dtype = promoted(*operands)
    return [lanes.lift(x, dtype) for x in operands]


def binary(
    vectors: Callable[[Vector, Vector], Vector],
    numbers: Callable[[Any, Any], Any],
    a: Any,
    b: Any,
) -> Vector | Number:
    """An operation on two operands: a Vector, or of two numbers a Number."""
    if is_vector(a) or is_vector(b):
        return vectors(*alike(a, b))
    promoted(a, b)  # refuses what is no number
    number: Number = a if isinstance(a, Operand) else b
    return number.combined(vectors, numbers, a, b)


def fma(a: Vector, b: Any, c: Any) -> Vector:
    """a b + c, rounded once where the target can."""
    if a.lanes.fused:
        return a.call("fma", a.lanes.lift(b, a.dtype), a.lanes.lift(c, a.dtype))
    return a * b + c


def where(condition: Vector, a: Any, b: Any) -> Vector:
    """a in the lanes where a condition holds, else b."""
    lanes, dtype = condition.lanes, promoted(a, b)
    a, b = lanes.lift(a, dtype), lanes.lift(b, dtype)
    return a.like(lanes.builder.select(condition.astype(BOOL).value, a.value, b.value))


def power(a: Any, b: Any) -> Any:
    """a to the b: multiplications or a root for some exponents, else C's pow.

    pow is within 1 ulp and has NumPy's special values; exp(b log a) in a's own precision would be
    as many ulp off as its exponent is great, up to 90 in float32 and 700 in float64.
    """
    exponent = b.known if isinstance(b, Operand) and not is_vector(b) else b
    if isinstance(a, Operand) and isinstance(exponent, (bool, int, float)):
        integers = is_vector(a) and a.dtype.kind != "f"
        if integers and not isinstance(exponent, float):
            return _integer_power(a, exponent)
        if not integers and (exponent in WHOLE or exponent == 0.5):
            return binary(lambda x, _: _short_power(x, exponent), operator.pow, a, exponent)
    return binary(_pow, operator.pow, a, b)


def _short_power(x: Vector, exponent: float) -> Vector:
    if exponent == 0.5:
        return x.call("sqrt")
    y = _whole_power(x, abs(int(exponent)))
    return 1.0 / y if exponent < 0 else y


def _integer_power(x: Vector, exponent: int) -> Vector:
    if exponent < 0:
        raise ValueError("power: integers to negative integer powers are not allowed")
    return _whole_power(alike(x, exponent)[0], exponent)


def _whole_power(x: Vector, exponent: int) -> Vector:
    """x to a power of 0 or more, by squaring."""
    if exponent < 2:
        return x if exponent else x.constant(1)
    half = _whole_power(x, exponent // 2)
    return half * half * x if exponent % 2 else half * half


COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip


def compare(symbol: str, a: Any, b: Any) -> Vector:
    """a symbol b; integers of any two dtypes, and any Python integer, by their exact values."""
    for x, other in ((a, b), (b, a)):
        if isinstance(x, int) and is_vector(other) and other.dtype.kind in "iu":
            limits = np.iinfo(other.dtype)
            if not limits.min <= x <= limits.max:  # all that other can hold is on zero's side of x
                truth = COMPARISONS[symbol](*((x, 0) if x is a else (0, x)))
                return other.lanes.constant(truth, BOOL)
    if is_vector(a) and is_vector(b) and {a.dtype, b.dtype} == {INT64, UINT64}:
        signed, below = (a, (-1, 0)) if a.dtype == INT64 else (b, (0, -1))
        unsigned = compare(symbol, a.astype(UINT64), b.astype(UINT64))
        return where(signed < 0, COMPARISONS[symbol](*below), unsigned)
    a, b = alike(a, b)
    build = a.lanes.builder
    if a.dtype.kind == "f":
        instruction = build.fcmp_unordered if symbol == "!=" else build.fcmp_ordered
    else:
        instruction = build.icmp_signed if a.dtype.kind == "i" else build.icmp_unsigned
    return a.lanes.vector(instruction(symbol, a.value, b.value), BOOL)

"""NumPy's elementwise functions on Vectors: what an op's forward finds as `xp`.

exp, expm1, tanh, log and log1p are polynomials without branches or calls, over the whole range of
float32 and float64; tests/test_emit_vector.py holds their greatest errors. The trigonometric and
the other hyperbolic functions, log2 and most powers call C's math library for each lane.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from minigrad_numba.emit.arithmetic import BOOL, COMPARISONS, Operand, alike, fma, promoted, where
from minigrad_numba.emit.vector import FLOAT32, FLOAT64, Lanes, Vector

INF, NAN = float("inf"), float("nan")


class _Format(NamedTuple):
    """Of a floating format, its layout, and the constants of exp and log in it."""

    mantissa: int  # bits
    bias: int
    shift: float  # adding it rounds to an integer and leaves that in the sum's low bits
    ln2: tuple[float, float]  # the first short enough that its products are exact
    exp_range: tuple[float, float]  # beyond it exp is 0 and infinite
    expm1_lowest: float  # below it expm1 is -1
    tanh_greatest: float  # above it tanh is 1
    expm1: tuple[float, ...]  # of r^2, r^3, ...: a Remez exchange of ours, see below
    log_ln2: tuple[float, float]
    root_half: int  # the bits of about sqrt(1/2)
    log: tuple[float, ...]


# expm1(r) = r + r^2 P(r), |r| <= ln(2) / 2: P by a Remez exchange on the relative error of expm1,
# in 60 digits, which is below 2^-26.0 in float32 and 2^-59.5 in float64, coefficients rounded. The
# parts of ln 2 for exp are those of Cephes; log is that of FreeBSD's msun (e_logf.c, e_log.c).
_FORMATS = {
    FLOAT32: _Format(
        mantissa=23,
        bias=127,
        shift=1.5 * 2.0**23,
        ln2=(0.693359375, -2.12194440e-4),
        exp_range=(-104.0, 89.0),
        expm1_lowest=-18.0,
        tanh_greatest=9.25,
        expm1=(
            *(0.4999999701976776, 0.16666539013385773, 0.04166774824261665),
            *(0.008367087692022324, 0.0013837860897183418),
        ),
        log_ln2=(6.9313812256e-01, 9.0580006145e-06),
        root_half=0x3F3504F3,
        log=(0.66666662693, 0.40000972152, 0.28498786688, 0.24279078841),
    ),
    FLOAT64: _Format(
        mantissa=52,
        bias=1023,
        shift=1.5 * 2.0**52,
        ln2=(6.93145751953125e-1, 1.42860682030941723212e-6),
        exp_range=(-746.0, 710.0),
        expm1_lowest=-38.0,
        tanh_greatest=20.0,
        expm1=(
            *(0.5, 0.16666666666666677, 0.041666666666666505, 0.008333333333321655),
            *(0.0013888888888962617, 0.00019841269886073013, 2.4801587172206217e-05),
            *(2.75572442546385e-06, 2.7557402797393253e-07, 2.5109024307166103e-08),
            2.0875321791412024e-09,
        ),
        log_ln2=(6.93147180369123816490e-01, 1.90821492927058770002e-10),
        root_half=0x3FE6A09E00000000,
        log=(
            *(6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01),
            *(2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01),
            1.479819860511658591e-01,
        ),
    ),
}


def _format(x: Vector) -> _Format:
    if x.dtype not in _FORMATS:
        raise TypeError(f"a function of floats was given a vector of {x.dtype}")
    return _FORMATS[x.dtype]


def _polynomial(coefficients: Sequence[float], x: Vector) -> Vector:
    """The sum of c[i] x^i by Horner's rule; a long one as two, of the even and the odd powers.

    The two run at the same time: in float64 tanh takes 7 % less with them.
    """
    if len(coefficients) > 6:
        even, odd = (_polynomial(coefficients[i::2], x * x) for i in (0, 1))
        return fma(odd, x, even)
    y = x.constant(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        y = fma(y, x, c)
    return y


# --- exponentials --------------------------------------------------------------------------------


def _reduced(
    x: Vector, ln2: Sequence[float], offset: int, factor: int = 1
) -> tuple[Vector, Vector, Vector]:
    """n + offset in the low bits of an integer, r, and P with expm1(factor r) = factor r + r^2 P.

    exp(factor x) = 2^n exp(factor r), n an integer, |factor r| <= ln(2) / 2 (Cody and Waite).
    """
    f = _format(x)
    shift = f.shift + offset  # none of whose own bits gets into an exponent
    t = fma(x, factor * math.log2(math.e), shift)
    n, r = t - shift, x
    for part in ln2:
        r = fma(n, -part / factor, r)
    return t.bits(), r, _polynomial([c * factor ** (i + 2) for i, c in enumerate(f.expm1)], r)


def _power_of_two(biased: Vector) -> Vector:
    """2^n, of n + bias in the low bits of an integer."""
    return (biased << _format(biased.floats()).mantissa).floats()


def exp(x: Vector) -> Vector:
    f = _format(x)
    lowest, greatest = f.exp_range
    x = where(x < lowest, lowest, x)  # a comparison lets NaN pass
    n, r, p = _reduced(where(x > greatest, greatest, x), f.ln2, 2 * f.bias)
    half = n >> 1  # in two steps, so that neither power overflows and subnormals round once
    return fma(r, fma(p, r, 1), 1) * _power_of_two(half) * _power_of_two(n - half)


def expm1(x: Vector) -> Vector:
    f = _format(x)
    greatest = f.exp_range[1]
    limited = where(x < f.expm1_lowest, f.expm1_lowest, x)
    limited = where(limited > greatest, greatest, limited)
    n, r, p = _reduced(limited, f.ln2, f.bias - 1)
    half = _power_of_two(n)  # of 2^n, which may overflow
    y = fma(half * r * r, p, fma(half, r, half - 0.5))
    return (y + y).call("copysign", x)


def tanh(x: Vector) -> Vector:
    """z / (z + 1), z = expm1(2 |x|) / 2, with the sign of x.

    A quotient of polynomials of degree 9 and 8 takes two thirds of the time, but is 5 ulp off.
    """
    f = _format(x)
    size = x.call("fabs")
    size = where(size > f.tanh_greatest, f.tanh_greatest, size)
    # n is at most 58, and great only where tanh is nearly 1: fused, one part of ln 2 is enough.
    n, r, p = _reduced(size, (math.log(2),) if x.lanes.fused else f.ln2, f.bias - 1, 2)
    half = _power_of_two(n)
    z = fma(half * r * r, p, fma(half * r, 2, half - 0.5))
    return ((z / (z + 1)).bits() | (x.bits() & x.constant(-0.0).bits())).floats()


# --- logarithms ----------------------------------------------------------------------------------


def _log(x: Vector, scaled: Vector | float, low: Vector | float) -> Vector:
    """log(x 2^-scaled) + low of a positive, normal x: x = 2^k (1 + f), s = f / (2 + f)."""
    c = _format(x)
    bits = x.bits()
    k = (bits - c.root_half) >> c.mantissa
    f = (bits - (k << c.mantissa)).floats() - 1
    # The integer k as a float, by the bits of a sum (AVX2 converts no 64-bit integers).
    k = (k + x.constant(c.shift).bits()).floats() - c.shift - scaled
    s = f / (f + 2)
    z = s * s
    half = f * f * 0.5
    y = fma(s, fma(_polynomial(c.log, z), z, half), fma(k, c.log_ln2[1], low))
    return fma(k, c.log_ln2[0], y - half + f)


def log(x: Vector) -> Vector:
    f = _format(x)
    tiny = x < 2.0 ** (1 - f.bias)
    digits = f.mantissa + 2
    y = _log(where(tiny, x * 2.0**digits, x), where(tiny, digits, x.constant(0)), 0.0)
    y = where(x < INF, y, x)  # infinity, and NaN
    return where(x > 0, y, where(x == 0, -INF, where(x < 0, NAN, x)))


def log1p(x: Vector) -> Vector:
    u = x + 1
    rest = u - 1
    lost = (1 - (u - rest)) + (x - rest)  # u + lost is exactly 1 + x
    y = _log(u, 0.0, lost / u)
    y = where(x < INF, y, x)
    y = where(x > -1, y, where(x == -1, -INF, where(x < -1, NAN, x)))
    return y.call("copysign", x)


# --- signs, extremes, truths ---------------------------------------------------------------------


def absolute(x: Vector) -> Vector:
    if x.dtype.kind == "f":
        return x.call("fabs")
    return where(x < 0, -x, x) if x.dtype.kind == "i" else x


def sign(x: Vector) -> Vector:
    if x.dtype.kind == "b":
        raise TypeError("sign: not of bool, as in NumPy")
    negative = -1 if x.dtype.kind != "u" else 0
    return where(x > 0, x.constant(1), where(x < 0, x.constant(negative), where(x == 0, 0, x)))


def maximum(a: Vector, b: Vector) -> Vector:
    return where(a != a, a, where(a > b, a, b))  # if b is NaN, no comparison holds


def minimum(a: Vector, b: Vector) -> Vector:
    return where(a != a, a, where(a < b, a, b))


def isfinite(x: Vector) -> Vector:
    return absolute(x) < INF if x.dtype.kind == "f" else x.lanes.constant(True, BOOL)


def isinf(x: Vector) -> Vector:
    return absolute(x) == INF if x.dtype.kind == "f" else x.lanes.constant(False, BOOL)


def _intrinsic(name: str) -> Callable[[Vector], Vector]:
    return lambda x: x.call(name) if _format(x) else x


def _libm(name: str) -> Callable[..., Vector]:
    return lambda *x: x[0].libm(name, *x[1:]) if _format(x[0]) else x[0]


# --- the namespace -------------------------------------------------------------------------------

# Of operands as they are: Vectors, Numbers, Python numbers.
OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "true_divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "negative": operator.neg,
    "where": where,
    **dict(
        zip(
            ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"),
            COMPARISONS.values(),
        )
    ),
}
# Of Vectors of one dtype.
FUNCTIONS: dict[str, Callable[..., Vector]] = {
    **{f.__name__: f for f in (exp, expm1, tanh, log, log1p, absolute, sign, maximum, minimum)},
    **{name: _intrinsic(name) for name in ("floor", "ceil", "rint", "sqrt")},
    **{name: _libm(name) for name in ("log2", "sin", "cos", "tan", "sinh", "cosh")},
    **{f"arc{name}": _libm(f"a{name}") for name in ("sin", "cos", "tan", "tan2")},
    **{f"arc{name}": _libm(f"a{name}") for name in ("sinh", "cosh", "tanh")},
    "isnan": lambda x: x != x,
    "isinf": isinf,
    "isfinite": isfinite,
    "logical_and": lambda a, b: a.astype(BOOL) & b.astype(BOOL),
    "logical_or": lambda a, b: a.astype(BOOL) | b.astype(BOOL),
    "logical_not": lambda x: ~x.astype(BOOL),
}


class Namespace:
    """NumPy's elementwise functions by their names, on Vectors, Numbers and Python numbers."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in OPERATORS and name not in FUNCTIONS:
            raise AttributeError(f"vector code has no function {name!r}", name=name, obj=self)
        return partial(self._call, name)

    def _call(self, name: str, *operands: Any) -> Any:
        if name == "where":
            return where(self._vector(operands[0]), *operands[1:])
        if not any(isinstance(x, Operand) for x in operands):
            operands = tuple(map(self._vector, operands))
        if name in OPERATORS:
            return OPERATORS[name](*operands)
        return FUNCTIONS[name](*alike(*operands))

    def _vector(self, x: Any) -> Vector:
        return x if isinstance(x, Vector) else self._lanes.lift(x, promoted(x))


def namespace(lanes: Lanes) -> Namespace:
    """The `xp` to give an op's forward, so that it writes its code there."""
    return Namespace(lanes)

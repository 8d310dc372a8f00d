"""exp, as polynomials without branches, so that LLVM turns loops over it into vector code.

`math.exp` is a call per element there. Method: exp(x) = 2^n exp(r), n the integer nearest x / ln 2,
|r| <= ln(2) / 2, with ln 2 in two parts so that r is exact (Cody and Waite 1980, as in Cephes).
Adding 1.5 * 2^(mantissa bits) rounds to that integer and leaves it in the low bits of the sum.
NaN stays NaN; infinite and finite overflow and underflow follow IEEE 754, subnormals included.
Error: below 1.1 ulp over the whole range, in float32 and in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

_BITS = {types.float32: 32, types.float64: 64}


@intrinsic
def scaled(context: Any, p: Any, t: Any, shift: Any) -> Any:
    """p 2^n, n in the low bits of t = n + shift, in two steps so that subnormals round once."""
    bits = _BITS[p]
    mantissa, bias = {32: (23, 127), 64: (52, 1023)}[bits]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        p, t, shift = arguments
        integer = ir.IntType(bits)
        n = builder.sub(builder.bitcast(t, integer), builder.bitcast(shift, integer))
        half = builder.ashr(n, integer(1))
        for part in (half, builder.sub(n, half)):
            exponent = builder.shl(builder.add(part, integer(bias)), integer(mantissa))
            p = builder.fmul(p, builder.bitcast(exponent, p.type))
        return p

    return p(p, t, shift), generate


@intrinsic
def ordered(context: Any, x: Any) -> Any:
    """The bits of x as an integer that sorts as x does; NaNs lie beyond the infinities.

    LLVM vectorises a maximum of integers, and one of floats only with flags that ignore NaN.
    """
    bits = _BITS[x]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(bits)
        return _flipped(builder, builder.bitcast(arguments[0], integer))

    return {32: types.int32, 64: types.int64}[bits](x), generate


@intrinsic
def unordered(context: Any, key: Any) -> Any:
    """The float of an `ordered` integer."""
    target = {types.int32: types.float32, types.int64: types.float64}[key]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = _flipped(builder, arguments[0])
        return builder.bitcast(value, context.get_value_type(target))

    return target(key), generate


def _flipped(builder: Any, i: Any) -> Any:
    """All bits but the sign's inverted where the sign is set; its own inverse."""
    sign = builder.ashr(i, i.type(i.type.width - 1))
    return builder.xor(i, builder.lshr(sign, i.type(1)))


# float32: minimax coefficients of Cephes' expf; float64: Taylor's, whose 13 terms suffice there.
_F = np.float32
_P0, _P1, _P2, _P3, _P4, _P5 = (
    _F(c)
    for c in (
        *(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3),
        *(4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
    )
)
_LOW32, _HIGH32, _LOG2E32 = _F(-104.0), _F(89.0), _F(1.4426950408889634)
_SHIFT32, _LN2_32, _LN2_LOW32 = _F(1.5 * 2.0**23), _F(0.693359375), _F(-2.12194440e-4)
_ONE32 = _F(1.0)
_LOW64, _HIGH64, _LOG2E64 = -746.0, 710.0, 1.4426950408889634
_SHIFT64, _LN2_64, _LN2_LOW64 = 1.5 * 2.0**52, 6.93145751953125e-1, 1.42860682030941723212e-6


def exp(x: Any) -> Any:
    """e to the x, of a float32 or float64 scalar inside a kernel."""
    return np.exp(x)


# "contract" lets a multiplication and an addition become one fused instruction: never less exact.
@overload(exp, jit_options={"fastmath": {"contract"}, "forceinline": True})
def _exp(x: Any) -> Any:
    if x == types.float32:

        def exp32(x: Any) -> Any:
            c = _LOW32 if x < _LOW32 else x  # written so that NaN passes
            c = _HIGH32 if c > _HIGH32 else c
            t = c * _LOG2E32 + _SHIFT32
            n = t - _SHIFT32
            r = c - n * _LN2_32
            r = r - n * _LN2_LOW32
            p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
            return scaled(p * (r * r) + r + _ONE32, t, _SHIFT32)

        return exp32

    def exp64(x: Any) -> Any:
        c = _LOW64 if x < _LOW64 else x
        c = _HIGH64 if c > _HIGH64 else c
        t = c * _LOG2E64 + _SHIFT64
        n = t - _SHIFT64
        r = c - n * _LN2_64
        r = r - n * _LN2_LOW64
        p = 1 / 6227020800.0
        p = (p * r + 1 / 479001600.0) * r + 1 / 39916800.0
        p = (p * r + 1 / 3628800.0) * r + 1 / 362880.0
        p = (p * r + 1 / 40320.0) * r + 1 / 5040.0
        p = (p * r + 1 / 720.0) * r + 1 / 120.0
        p = (p * r + 1 / 24.0) * r + 1 / 6.0
        p = p * r + 0.5
        return scaled(p * (r * r) + r + 1.0, t, _SHIFT64)

    return exp64

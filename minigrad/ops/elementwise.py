"""Elementwise ops: arithmetic, comparison, exponentials, trigonometry, where."""

from __future__ import annotations

import math
from typing import Any

from minigrad import arguments
from minigrad.op import Operation, op
from minigrad.ops import specs
from minigrad.spec import Spec, common_dtype
from minigrad.tensor import Tensor, check_dtype

# --- arithmetic ----------------------------------------------------------------------------------

add = op(
    "add",
    lambda xp, a, b: xp.add(a, b),
    shape=specs.promoted,
    a=lambda g: g,
    b=lambda g: g,
)
subtract = op(
    "subtract",
    lambda xp, a, b: xp.subtract(a, b),
    shape=specs.promoted,
    a=lambda g: g,
    b=lambda g: -g,
)
multiply = op(
    "multiply",
    lambda xp, a, b: xp.multiply(a, b),
    shape=specs.promoted,
    a=lambda g, b: g * b,
    b=lambda g, a: g * a,
)
divide = op(
    "divide",
    lambda xp, a, b: xp.true_divide(a, b),
    shape=specs.floating,
    dtypes="float",
    a=lambda g, b: g / b,
    b=lambda g, b, y: -g * y / b,
)
negative = op("negative", lambda xp, x: xp.negative(x), shape=specs.same, x=lambda g: -g)
floor_divide = op("floor_divide", lambda xp, a, b: xp.floor_divide(a, b), shape=specs.counted)
remainder = op(
    "remainder",
    lambda xp, a, b: xp.remainder(a, b),
    shape=specs.counted,
    a=lambda g: g,
    b=lambda g, a, b: -g * floor_divide(a, b),
)
power = op(
    "power",
    lambda xp, a, b: a**b,  # the operator, unlike xp.power, squares by one multiplication
    shape=specs.counted,
    a=lambda g, a, b: g * _power_slope(a, b),
    b=lambda g, a, y: g * y * _power_growth(a),
)


def _power_slope(a: Any, b: Any) -> Any:
    """b a^(b-1), and 0 rather than 0 * inf where b is 0."""
    if isinstance(b, (int, float)):
        return b * a ** (b - 1) if b else 0 * a
    return b * a ** where(b == 0, 1, b - 1)


def _power_growth(a: Any) -> Any:
    """log a, and 0 where there is none; of a number a number, which belongs to no backend."""
    if isinstance(a, (int, float)):
        return math.log(a) if a > 0 else 0.0
    return log(where(a > 0, a, 1))


absolute = op(
    "absolute", lambda xp, x: xp.absolute(x), shape=specs.same, x=lambda g, x: g * sign(x)
)
sign: Operation = op("sign", lambda xp, x: xp.sign(x), shape=specs.same)
floor = op("floor", lambda xp, x: xp.floor(x), shape=specs.floating, dtypes="float")
ceil = op("ceil", lambda xp, x: xp.ceil(x), shape=specs.floating, dtypes="float")
round = op("round", lambda xp, x: xp.rint(x), shape=specs.floating, dtypes="float")


def square(x: Any) -> Tensor:
    """x times x."""
    return multiply(x, x)


def reciprocal(x: Any) -> Tensor:
    """1 / x."""
    return divide(1.0, x)


# --- exponentials and roots ----------------------------------------------------------------------

_FLOAT: dict[str, Any] = {"shape": specs.floating, "dtypes": "float"}

exp = op("exp", lambda xp, x: xp.exp(x), **_FLOAT, x=lambda g, y: g * y)
expm1 = op("expm1", lambda xp, x: xp.expm1(x), **_FLOAT, x=lambda g, y: g * (y + 1))
log = op("log", lambda xp, x: xp.log(x), **_FLOAT, x=lambda g, x: g / x)
log1p = op("log1p", lambda xp, x: xp.log1p(x), **_FLOAT, x=lambda g, x: g / (x + 1))
log2 = op("log2", lambda xp, x: xp.log2(x), **_FLOAT, x=lambda g, x: g / (x * math.log(2)))
sqrt = op("sqrt", lambda xp, x: xp.sqrt(x), **_FLOAT, x=lambda g, y: g / (2 * y))

# --- trigonometric and hyperbolic ----------------------------------------------------------------

sin = op("sin", lambda xp, x: xp.sin(x), **_FLOAT, x=lambda g, x: g * cos(x))
cos: Operation = op("cos", lambda xp, x: xp.cos(x), **_FLOAT, x=lambda g, x: -g * sin(x))
tan = op("tan", lambda xp, x: xp.tan(x), **_FLOAT, x=lambda g, y: g * (y * y + 1))
arcsin = op("arcsin", lambda xp, x: xp.arcsin(x), **_FLOAT, x=lambda g, x: g / sqrt(1 - x * x))
arccos = op("arccos", lambda xp, x: xp.arccos(x), **_FLOAT, x=lambda g, x: -g / sqrt(1 - x * x))
arctan = op("arctan", lambda xp, x: xp.arctan(x), **_FLOAT, x=lambda g, x: g / (x * x + 1))
arctan2 = op(
    "arctan2",
    lambda xp, a, b: xp.arctan2(a, b),
    **_FLOAT,
    a=lambda g, a, b: g * b / (a * a + b * b),
    b=lambda g, a, b: -g * a / (a * a + b * b),
)
sinh = op("sinh", lambda xp, x: xp.sinh(x), **_FLOAT, x=lambda g, x: g * cosh(x))
cosh: Operation = op("cosh", lambda xp, x: xp.cosh(x), **_FLOAT, x=lambda g, x: g * sinh(x))
tanh = op("tanh", lambda xp, x: xp.tanh(x), **_FLOAT, x=lambda g, y: g * (1 - y * y))
arcsinh = op("arcsinh", lambda xp, x: xp.arcsinh(x), **_FLOAT, x=lambda g, x: g / sqrt(x * x + 1))
arccosh = op("arccosh", lambda xp, x: xp.arccosh(x), **_FLOAT, x=lambda g, x: g / sqrt(x * x - 1))
arctanh = op("arctanh", lambda xp, x: xp.arctanh(x), **_FLOAT, x=lambda g, x: g / (1 - x * x))


def _sigmoid(xp: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)), by way of tanh, which cannot overflow."""
    return 0.5 * xp.tanh(0.5 * x) + 0.5


sigmoid = op("sigmoid", _sigmoid, **_FLOAT, x=lambda g, y: g * y * (1 - y))

# --- comparison and choice -----------------------------------------------------------------------

_COMPARE: dict[str, Any] = {"shape": specs.boolean, "dtypes": "compare"}

equal = op("equal", lambda xp, a, b: xp.equal(a, b), **_COMPARE)
not_equal = op("not_equal", lambda xp, a, b: xp.not_equal(a, b), **_COMPARE)
less = op("less", lambda xp, a, b: xp.less(a, b), **_COMPARE)
less_equal = op("less_equal", lambda xp, a, b: xp.less_equal(a, b), **_COMPARE)
greater = op("greater", lambda xp, a, b: xp.greater(a, b), **_COMPARE)
greater_equal = op("greater_equal", lambda xp, a, b: xp.greater_equal(a, b), **_COMPARE)
logical_and = op("logical_and", lambda xp, a, b: xp.logical_and(a, b), shape=specs.boolean)
logical_or = op("logical_or", lambda xp, a, b: xp.logical_or(a, b), shape=specs.boolean)
logical_not = op("logical_not", lambda xp, x: xp.logical_not(x), shape=specs.boolean)
isnan = op("isnan", lambda xp, x: xp.isnan(x), shape=specs.boolean)
isinf = op("isinf", lambda xp, x: xp.isinf(x), shape=specs.boolean)
isfinite = op("isfinite", lambda xp, x: xp.isfinite(x), shape=specs.boolean)

maximum = op(  # at a tie each of the two gets half
    "maximum",
    lambda xp, a, b: xp.maximum(a, b),
    shape=specs.promoted,
    a=lambda g, a, b: where(a > b, g, where(a == b, 0.5 * g, 0)),
    b=lambda g, a, b: where(b > a, g, where(a == b, 0.5 * g, 0)),
)
minimum = op(
    "minimum",
    lambda xp, a, b: xp.minimum(a, b),
    shape=specs.promoted,
    a=lambda g, a, b: where(a < b, g, where(a == b, 0.5 * g, 0)),
    b=lambda g, a, b: where(b < a, g, where(a == b, 0.5 * g, 0)),
)


def _where_spec(condition: Spec, a: Spec, b: Spec) -> Spec:
    shape = specs.broadcast([condition.shape, a.shape, b.shape])
    return Spec(shape, common_dtype("where", "promote", [a.dtype, b.dtype]))


where: Operation = op(
    "where",
    lambda xp, condition, a, b: xp.where(condition, a, b),
    shape=_where_spec,
    fixed=("condition",),
    a=lambda g, condition: where(condition, g, 0),
    b=lambda g, condition: where(condition, 0, g),
)


def clip(x: Any, a_min: Any = None, a_max: Any = None) -> Tensor:
    """x limited to [a_min, a_max]; its gradient is that of the chosen side, half at a bound."""
    if a_min is not None:
        x = maximum(x, a_min)
    return x if a_max is None else minimum(x, a_max)


_clip_gradient = op(
    "clip_gradient",
    lambda xp, x, *, limit: x,
    shape=lambda x, *, limit: x,
    linear=False,
    jvp={"x": lambda g, limit: g},
    x=lambda g, limit: clip(g, -limit, limit),
)


def clip_gradient(x: Any, limit: float) -> Tensor:
    """x; in backward every element of its gradient is moved into [-limit, limit] (Graves 2013).

    Forward mode sees the identity that it is. Raises ValueError for a negative limit.
    """
    return _clip_gradient(x, limit=arguments.number("limit", limit, 0))


# --- dtype and identity --------------------------------------------------------------------------

_astype = op(
    "astype",
    lambda xp, x, *, dtype: x.astype(dtype),
    shape=lambda x, *, dtype: Spec(x.shape, dtype),
    x=lambda g: g,  # the edge casts it back
)


def astype(x: Any, dtype: Any) -> Tensor:
    """x converted to another dtype."""
    return _astype(x, dtype=check_dtype(dtype))


alias = op("alias", lambda xp, x: x, shape=specs.same, x=lambda g: g)

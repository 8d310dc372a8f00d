"""Reductions, cumulative sums and sorting."""

from __future__ import annotations

import math
from typing import Any

from minigrad.errors import ShapeError
from minigrad.op import Operation, op
from minigrad.ops import specs
from minigrad.ops.elementwise import astype, exp, isnan, logical_or, multiply, sqrt, where
from minigrad.ops.index import take_along_axis
from minigrad.ops.shape import (
    broadcast_to,
    concatenate,
    flip,
    moveaxis,
    reshape,
    split,
    squeeze,
    tensor,
)
from minigrad.spec import Spec
from minigrad.tensor import Axes, Tensor, normalize_axes, normalize_axis


def _expand(y: Any, x_shape: Any, axis: Any, keepdims: bool) -> Any:
    """A reduced value stretched back over the axes it was reduced along."""
    if not keepdims:
        y = reshape(y, specs.reduced(x_shape, axis, True))
    return broadcast_to(y, x_shape)


def _sum_spec(x: Spec, *, axis: tuple[int, ...], keepdims: bool) -> Spec:
    return Spec(specs.reduced(x.shape, axis, keepdims), specs.integral(x.dtype))


_sum = op(
    "sum",
    lambda xp, x, *, axis, keepdims: xp.sum(x, axis=axis, keepdims=keepdims),
    shape=_sum_spec,
    x=lambda g, x_shape, axis, keepdims: _expand(g, x_shape, axis, keepdims),
)


def _extremum_spec(x: Spec, *, axis: tuple[int, ...], keepdims: bool) -> Spec:
    for a in axis:
        if x.shape[a] == 0 and 0 not in specs.reduced(x.shape, axis, False):
            raise ShapeError(f"an empty axis {a} has no extremum; shape {x.shape}")
    return specs.reduction(x, axis=axis, keepdims=keepdims)


def _extremum_rule(g: Any, x: Any, y: Any, x_shape: Any, axis: Any, keepdims: bool) -> Any:
    """The cotangent shared equally among the elements that attain the extremum, NaN if it is."""
    hit = logical_or(x == _expand(y, x_shape, axis, keepdims), isnan(x))
    count = astype(_sum(hit, axis=axis, keepdims=True), x.dtype)
    if not keepdims:
        g = reshape(g, specs.reduced(x_shape, axis, True))
    return where(hit, broadcast_to(g / count, x_shape), 0)


_max = op(
    "max",
    lambda xp, x, *, axis, keepdims: xp.max(x, axis=axis, keepdims=keepdims),
    shape=_extremum_spec,
    x=_extremum_rule,
)
_min = op(
    "min",
    lambda xp, x, *, axis, keepdims: xp.min(x, axis=axis, keepdims=keepdims),
    shape=_extremum_spec,
    x=_extremum_rule,
)


def _logsumexp_forward(xp: Any, x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    """log(sum(exp(x))), shifted by the finite maximum."""
    if x.size == 0:
        return xp.log(xp.sum(x, axis=axis, keepdims=keepdims))
    shift = xp.max(x, axis=axis, keepdims=True)
    shift = xp.where(xp.isfinite(shift), shift, 0).astype(x.dtype)
    y = xp.log(xp.sum(xp.exp(x - shift), axis=axis, keepdims=True)) + shift
    return y if keepdims else y.reshape(specs.reduced(x.shape, axis, False))


def _logsumexp_rule(g: Any, x: Any, y: Any, x_shape: Any, axis: Any, keepdims: bool) -> Any:
    finite = where(y == -float("inf"), 0, y)
    share = exp(x - _expand(finite, x_shape, axis, keepdims))
    return _expand(g, x_shape, axis, keepdims) * share


_logsumexp = op(
    "logsumexp",
    _logsumexp_forward,
    shape=lambda x, *, axis, keepdims: Spec(
        specs.reduced(x.shape, axis, keepdims), specs.as_float(x.dtype)
    ),
    dtypes="float",
    x=_logsumexp_rule,
)


def _truth_spec(x: Spec, *, axis: tuple[int, ...], keepdims: bool) -> Spec:
    return Spec(specs.reduced(x.shape, axis, keepdims), specs.BOOL)


_any = op(
    "any",
    lambda xp, x, *, axis, keepdims: xp.any(x, axis=axis, keepdims=keepdims),
    shape=_truth_spec,
)
_all = op(
    "all",
    lambda xp, x, *, axis, keepdims: xp.all(x, axis=axis, keepdims=keepdims),
    shape=_truth_spec,
)


def _position_spec(x: Spec, *, axis: int) -> Spec:
    if x.shape[axis] == 0:
        raise ShapeError(f"an empty axis {axis} has no extremum; shape {x.shape}")
    return Spec(specs.reduced(x.shape, (axis,), False), specs.INT64)


_argmax = op("argmax", lambda xp, x, *, axis: xp.argmax(x, axis=axis), shape=_position_spec)
_argmin = op("argmin", lambda xp, x, *, axis: xp.argmin(x, axis=axis), shape=_position_spec)
_argsort = op(
    "argsort",
    lambda xp, x, *, axis: xp.argsort(x, axis=axis, kind="stable"),
    shape=lambda x, *, axis: Spec(x.shape, specs.INT64),
)
_cumsum: Operation = op(
    "cumsum",
    lambda xp, x, *, axis: xp.cumsum(x, axis=axis),
    shape=lambda x, *, axis: Spec(x.shape, specs.integral(x.dtype)),
    x=lambda g, axis: flip(_cumsum(flip(g, axis), axis=axis), axis),
)


def _over(reduce: Operation, x: Any, axis: Axes, keepdims: bool) -> Tensor:
    x = tensor(x)
    return reduce(x, axis=normalize_axes(axis, x.ndim, reduce.op.name), keepdims=keepdims)


def _count(x: Any, axis: Axes) -> int:
    return math.prod(x.shape[a] for a in normalize_axes(axis, x.ndim, "count"))


def sum(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The sum over axis (all axes by default)."""
    return _over(_sum, x, axis, keepdims)


def mean(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The mean over axis; of integers in the default dtype."""
    x = tensor(x)
    return sum(x, axis, keepdims) / (_count(x, axis) or math.nan)


def max(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The maximum over axis; its gradient is shared equally among the elements that attain it."""
    return _over(_max, x, axis, keepdims)


def min(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The minimum over axis; its gradient is shared equally among the elements that attain it."""
    return _over(_min, x, axis, keepdims)


def logsumexp(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over axis, without overflow."""
    return _over(_logsumexp, x, axis, keepdims)


def any(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Whether any element over axis is true."""
    return _over(_any, x, axis, keepdims)


def all(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Whether all elements over axis are true."""
    return _over(_all, x, axis, keepdims)


def var(x: Any, axis: Axes = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """The mean squared deviation from the mean over axis; the divisor is count - ddof."""
    x = tensor(x)
    deviation = x - mean(x, axis, keepdims=True)
    squares = multiply(deviation, deviation)
    if ddof == 0:
        return mean(squares, axis, keepdims)
    return sum(squares, axis, keepdims) / (_count(x, axis) - ddof)


def std(x: Any, axis: Axes = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """The square root of `var`."""
    return sqrt(var(x, axis, keepdims, ddof))


def prod(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The product over axis, by halving, so that every order of gradient stays right at zeros."""
    x = tensor(x)
    if x.dtype.kind != "f":
        x = astype(x, specs.integral(x.dtype))
    chosen = normalize_axes(axis, x.ndim, "prod")
    shape = specs.reduced(x.shape, chosen, keepdims)
    kept = [a for a in range(x.ndim) if a not in chosen]
    count = _count(x, chosen)
    y = moveaxis(x, kept, range(len(kept)))
    y = reshape(y, (*(x.shape[a] for a in kept), count))
    while count > 1:
        half = count // 2
        low, high, rest = split(y, [half, 2 * half], axis=-1)
        y = multiply(low, high)
        if rest.shape[-1]:
            y = concatenate([y, rest], axis=-1)
        count = y.shape[-1]
    if count == 0:
        return sum(y, axis=-1).reshape(shape) + 1
    return reshape(squeeze(y, -1), shape)


def _one_axis(x: Any, axis: int | None, name: str) -> tuple[Any, int]:
    x = tensor(x)
    if axis is None:
        return reshape(x, (-1,)), 0
    return x, normalize_axis(axis, x.ndim, name)


def _along(operation: Operation, x: Any, axis: int | None) -> Tensor:
    x, chosen = _one_axis(x, axis, operation.op.name)
    return operation(x, axis=chosen)


def argmax(x: Any, axis: int | None = None) -> Tensor:
    """The position of the first maximum along axis (of the flattened tensor by default)."""
    return _along(_argmax, x, axis)


def argmin(x: Any, axis: int | None = None) -> Tensor:
    """The position of the first minimum along axis (of the flattened tensor by default)."""
    return _along(_argmin, x, axis)


def cumsum(x: Any, axis: int | None = None) -> Tensor:
    """The running sum along axis (of the flattened tensor by default)."""
    return _along(_cumsum, x, axis)


def argsort(x: Any, axis: int | None = -1) -> Tensor:
    """The positions that sort x along axis; equal elements keep their order."""
    return _along(_argsort, x, axis)


def sort(x: Any, axis: int | None = -1) -> Tensor:
    """x sorted along axis, smallest first."""
    x, chosen = _one_axis(x, axis, "sort")
    return take_along_axis(x, _argsort(x, axis=chosen), chosen)


def top_k(x: Any, k: int, axis: int = -1) -> Tensor:
    """The k largest values along axis, largest first."""
    x, chosen = _one_axis(x, axis, "top_k")
    if not 0 <= k <= x.shape[chosen]:
        raise ShapeError(f"top_k: k={k} of an axis of {x.shape[chosen]} elements")
    order = flip(_argsort(x, axis=chosen), chosen)
    first, _ = split(order, [k], axis=chosen)
    return take_along_axis(x, first, chosen)

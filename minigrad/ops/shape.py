"""Ops that move or join elements without computing on them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from minigrad.errors import ShapeError
from minigrad.op import Operation, op
from minigrad.ops import specs
from minigrad.spec import Spec, common_dtype
from minigrad.tensor import Axes, Shape, Tensor, normalize_axes, normalize_axis


def tensor(x: Any) -> Any:
    """A tensor or an array as it is; numbers and lists as a tensor."""
    return x if hasattr(x, "ndim") else Tensor(x)


def _tensors(xs: Sequence[Any]) -> list[Any]:
    """Tensors and arrays as they are; numbers and lists join the backend of the first tensor."""
    home = next((x.backend for x in xs if isinstance(x, Tensor)), None)
    return [x if hasattr(x, "ndim") else Tensor(x, backend=home) for x in xs]


def _integers(values: Any, what: str) -> tuple[int, ...]:
    try:
        return tuple([operator.index(n) for n in values])
    except TypeError:
        raise ShapeError(f"{what} is made of integers, not {values!r}") from None


# --- reshape and permute -------------------------------------------------------------------------


def _reshape_spec(x: Spec, *, shape: Shape) -> Spec:
    if math.prod(x.shape) != math.prod(shape):
        raise ShapeError(f"shape {shape} is invalid for a tensor of shape {x.shape}")
    return Spec(shape, x.dtype)


_reshape = op(
    "reshape",
    lambda xp, x, *, shape: xp.reshape(x, shape),
    shape=_reshape_spec,
    x=lambda g, x_shape: reshape(g, x_shape),
)


def reshape(x: Any, *shape: Any) -> Tensor:
    """The same elements in another shape; one size may be -1."""
    x = tensor(x)
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], (int, np.integer)) else shape
    target = _integers(sizes, "reshape: a shape")
    if -1 in target:
        known = -math.prod(target)
        total = math.prod(x.shape)
        if target.count(-1) > 1 or known <= 0 or total % known:
            raise ShapeError(f"reshape: shape {target} is invalid for a tensor of shape {x.shape}")
        target = tuple(total // known if n == -1 else n for n in target)
    return _reshape(x, shape=target)


_transpose: Operation = op(
    "transpose",
    lambda xp, x, *, axes: xp.transpose(x, axes),
    shape=lambda x, *, axes: Spec(tuple(x.shape[a] for a in axes), x.dtype),
    x=lambda g, axes: _transpose(g, axes=tuple(sorted(range(len(axes)), key=axes.__getitem__))),
)


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """The axes permuted (reversed by default)."""
    x = tensor(x)
    order = normalize_axes(axes, x.ndim, "transpose")
    if axes is None:
        order = order[::-1]
    elif len(order) != x.ndim:
        raise ShapeError(f"transpose: axes {axes} do not permute the {x.ndim} axes of {x.shape}")
    return _transpose(x, axes=order)


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """Two axes exchanged."""
    x = tensor(x)
    order = list(range(x.ndim))
    a, b = (normalize_axis(axis, x.ndim, "swapaxes") for axis in (axis1, axis2))
    order[a], order[b] = b, a
    return _transpose(x, axes=tuple(order))


def moveaxis(x: Any, source: Axes, destination: Axes) -> Tensor:
    """Axes moved to other places, the rest in their order."""
    x = tensor(x)
    old, new = (normalize_axes(axis, x.ndim, "moveaxis") for axis in (source, destination))
    if len(old) != len(new):
        raise ShapeError(f"moveaxis: {source} to {destination} is not one place for each axis")
    order = [a for a in range(x.ndim) if a not in old]
    for place, axis in sorted(zip(new, old, strict=True)):
        order.insert(place, axis)
    return _transpose(x, axes=tuple(order))


def squeeze(x: Any, axis: Axes = None) -> Tensor:
    """Axes of size 1 removed (all of them by default)."""
    x = tensor(x)
    ones = [a for a, n in enumerate(x.shape) if n == 1]
    gone = normalize_axes(ones if axis is None else axis, x.ndim, "squeeze")
    for a in gone:
        if x.shape[a] != 1:
            raise ShapeError(f"squeeze: axis {a} of {x.shape} has size {x.shape[a]}, not 1")
    return reshape(x, tuple(n for a, n in enumerate(x.shape) if a not in gone))


def expand_dims(x: Any, axis: int | Sequence[int]) -> Tensor:
    """New axes of size 1 at the given places of the result."""
    x = tensor(x)
    ndim = x.ndim + (len(axis) if isinstance(axis, Sequence) else 1)
    places = normalize_axes(axis, ndim, "expand_dims")
    sizes = iter(x.shape)
    return reshape(x, tuple([1 if a in places else next(sizes) for a in range(ndim)]))


def _broadcast_spec(x: Spec, *, shape: Shape) -> Spec:
    if specs.broadcast([x.shape, shape]) != shape:
        raise ShapeError(f"shape {x.shape} does not broadcast to {shape}")
    return Spec(shape, x.dtype)


_broadcast_to = op(
    "broadcast_to",
    lambda xp, x, *, shape: xp.broadcast_to(x, shape),
    shape=_broadcast_spec,
    x=lambda g: g,  # the edge sums it back
)


def broadcast_to(x: Any, shape: Sequence[int]) -> Tensor:
    """x repeated, without a copy, to a shape that it broadcasts to."""
    return _broadcast_to(tensor(x), shape=tuple(shape))


_flip: Operation = op(
    "flip",
    lambda xp, x, *, axis: xp.flip(x, axis),
    shape=specs.same,
    x=lambda g, axis: _flip(g, axis=axis),
)


def flip(x: Any, axis: Axes = None) -> Tensor:
    """The order of elements reversed along axis (along all by default)."""
    x = tensor(x)
    return _flip(x, axis=normalize_axes(axis, x.ndim, "flip"))


_roll: Operation = op(
    "roll",
    lambda xp, x, *, shift, axis: xp.roll(x, shift, axis),
    shape=specs.same,
    x=lambda g, shift, axis: _roll(g, shift=-shift, axis=axis),
)


def roll(x: Any, shift: int, axis: int | None = None) -> Tensor:
    """Elements moved by shift places along axis, the last to the front (flattened by default)."""
    x = tensor(x)
    if axis is None:
        return reshape(_roll(reshape(x, -1), shift=shift, axis=0), x.shape)
    return _roll(x, shift=shift, axis=normalize_axis(axis, x.ndim, "roll"))


# --- join and cut --------------------------------------------------------------------------------


def _pad_spec(x: Spec, *, widths: tuple[tuple[int, int], ...], value: float) -> Spec:
    if any(n < 0 for pair in widths for n in pair):
        raise ShapeError(f"pad widths are not negative: {widths}")
    return Spec(tuple(n + a + b for n, (a, b) in zip(x.shape, widths, strict=True)), x.dtype)


def _unpad(g: Any, x_shape: Shape, widths: tuple[tuple[int, int], ...]) -> Any:
    for axis, ((before, _), n) in enumerate(zip(widths, x_shape, strict=True)):
        _, g, _ = split(g, [before, before + n], axis=axis)
    return g


_pad = op(
    "pad",
    lambda xp, x, *, widths, value: xp.pad(x, widths, constant_values=value),
    shape=_pad_spec,
    x=lambda g, x_shape, widths: _unpad(g, x_shape, widths),
)


def pad(x: Any, pad_width: Any, constant_values: float = 0) -> Tensor:
    """x with a constant around it: pad_width an int, (before, after), or one such pair per axis."""
    x = tensor(x)
    widths = np.broadcast_to(np.asarray(pad_width, dtype=int), (x.ndim, 2))
    pairs = tuple((int(a), int(b)) for a, b in widths)
    return _pad(x, widths=pairs, value=constant_values)


def _concatenate_spec(*xs: Spec, axis: int) -> Spec:
    first = xs[0].shape
    for x in xs:
        if len(x.shape) != len(first) or any(
            n != m for a, (n, m) in enumerate(zip(x.shape, first, strict=True)) if a != axis
        ):
            raise ShapeError(
                f"shapes {first} and {x.shape} cannot be joined along axis {axis}: the other axes "
                f"must agree"
            )
    total = sum(x.shape[axis] for x in xs)
    dtype = common_dtype("concatenate", "promote", [x.dtype for x in xs])
    return Spec((*first[:axis], total, *first[axis + 1 :]), dtype)


def _concatenate_rule(g: Any, xs_shape: tuple[Shape, ...], axis: int) -> Any:
    ends = np.cumsum([shape[axis] for shape in xs_shape])[:-1]
    return split(g, [int(end) for end in ends], axis=axis)


_concatenate = op(
    "concatenate",
    lambda xp, *xs, axis: xp.concatenate(xs, axis=axis),
    shape=_concatenate_spec,
    xs=_concatenate_rule,
)


def concatenate(xs: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors joined along an axis that they have."""
    xs = _tensors(xs)
    if not xs:
        raise ShapeError("concatenate: needs at least one tensor")
    return _concatenate(*xs, axis=normalize_axis(axis, xs[0].ndim, "concatenate"))


def _stack_spec(*xs: Spec, axis: int) -> Spec:
    first = xs[0].shape
    for x in xs:
        if x.shape != first:
            raise ShapeError(f"shapes {first} and {x.shape} cannot be stacked: they must be equal")
    dtype = common_dtype("stack", "promote", [x.dtype for x in xs])
    return Spec((*first[:axis], len(xs), *first[axis:]), dtype)


_stack = op(
    "stack",
    lambda xp, *xs, axis: xp.stack(xs, axis=axis),
    shape=_stack_spec,
    xs=lambda g, axis: unstack(g, axis=axis),
)


def stack(xs: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis."""
    xs = _tensors(xs)
    if not xs:
        raise ShapeError("stack: needs at least one tensor")
    return _stack(*xs, axis=normalize_axis(axis, xs[0].ndim + 1, "stack"))


def _take_slice(x: Any, axis: int, start: int, stop: int) -> Any:
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _split_forward(xp: Any, x: Any, *, ends: tuple[int, ...], axis: int) -> Any:
    bounds = (0, *ends, x.shape[axis])
    return [_take_slice(x, axis, a, b) for a, b in pairwise(bounds)]


def _split_spec(x: Spec, *, ends: tuple[int, ...], axis: int) -> list[Spec]:
    bounds = (0, *ends, x.shape[axis])
    return [
        Spec((*x.shape[:axis], b - a, *x.shape[axis + 1 :]), x.dtype) for a, b in pairwise(bounds)
    ]


_split: Callable[..., Any] = op(
    "split",
    _split_forward,
    shape=_split_spec,
    multiple=True,
    x=lambda g, axis: _concatenate(*g, axis=axis),
)


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """x cut along axis into equal sections, or (given a list) at those ascending positions."""
    x = tensor(x)
    axis = normalize_axis(axis, x.ndim, "split")
    size = x.shape[axis]
    if isinstance(sections, (int, np.integer)):
        if sections < 1 or size % sections:
            raise ShapeError(
                f"split: an axis of {size} does not divide into {sections} equal parts"
            )
        ends = tuple([size // int(sections) * i for i in range(1, sections)])
    else:
        ends = _integers(sections, "split: a list of positions")
        if any(a > b for a, b in pairwise((0, *ends, size))):
            raise ShapeError(f"split: positions {list(ends)} do not ascend within {size}")
    pieces: tuple[Tensor, ...] = _split(x, ends=ends, axis=axis)
    return pieces


def _unstack_forward(xp: Any, x: Any, *, axis: int) -> Any:
    if axis:
        x = xp.moveaxis(x, axis, 0)
    return [x[i, ...] for i in range(x.shape[0])]  # the ellipsis keeps 0-d results arrays


_unstack: Callable[..., Any] = op(
    "unstack",
    _unstack_forward,
    shape=lambda x, *, axis: (
        [Spec(specs.reduced(x.shape, (axis,), False), x.dtype)] * x.shape[axis]
    ),
    multiple=True,
    x=lambda g, axis: _stack(*g, axis=axis),
)


def unstack(x: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices of x along axis, without that axis."""
    x = tensor(x)
    slices: tuple[Tensor, ...] = _unstack(x, axis=normalize_axis(axis, x.ndim, "unstack"))
    return slices


def repeat(x: Any, repeats: int, axis: int | None = None) -> Tensor:
    """Every element repeated along axis (of the flattened tensor by default)."""
    x = tensor(x)
    if repeats < 0:
        raise ShapeError(f"repeat: repeats={repeats} is negative")
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = normalize_axis(axis, x.ndim, "repeat")
    before, n, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    wide = broadcast_to(reshape(x, (*before, n, 1, *after)), (*before, n, repeats, *after))
    return reshape(wide, (*before, n * repeats, *after))


# --- triangles -----------------------------------------------------------------------------------


def _triangle_spec(x: Spec, *, k: int) -> Spec:
    if len(x.shape) < 2:
        raise ShapeError(f"a triangle needs two axes, not shape {x.shape}")
    return x


_tril: Operation = op(
    "tril", lambda xp, x, *, k: xp.tril(x, k), shape=_triangle_spec, x=lambda g, k: _tril(g, k=k)
)
_triu: Operation = op(
    "triu", lambda xp, x, *, k: xp.triu(x, k), shape=_triangle_spec, x=lambda g, k: _triu(g, k=k)
)


def tril(x: Any, k: int = 0) -> Tensor:
    """The last two axes' lower triangle, zero above diagonal k."""
    return _tril(_two_axes(x, "tril"), k=k)


def triu(x: Any, k: int = 0) -> Tensor:
    """The last two axes' upper triangle, zero below diagonal k."""
    return _triu(_two_axes(x, "triu"), k=k)


def _two_axes(x: Any, name: str) -> Any:
    x = tensor(x)
    if x.ndim < 2:  # NumPy would make a matrix of a vector
        raise ShapeError(f"{name}: needs two axes, not shape {x.shape}")
    return x

"""Indexing: slices, integer arrays, gathers, and the scatter that is their gradient."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from minigrad import op as op_
from minigrad.errors import IndexRangeError, IndexTypeError, ShapeError
from minigrad.op import Operation, op
from minigrad.ops import specs
from minigrad.ops.elementwise import add
from minigrad.ops.shape import broadcast_to, reshape, tensor, unstack
from minigrad.spec import Spec
from minigrad.tensor import Shape, Tensor, make, normalize_axis


class _Array:
    """Stands in a static index where an integer array, an operand, belongs."""

    def __repr__(self) -> str:
        return "array"


ARRAY = _Array()
Template = tuple[Any, ...]


def _filled(template: Template, indices: tuple[Any, ...]) -> tuple[Any, ...]:
    arrays = iter(indices)
    return tuple(next(arrays) if item is ARRAY else item for item in template)


def check_range(indices: Any, size: int, xp: Any, what: str) -> None:
    """Raise IndexRangeError for the first index outside [-size, size).

    MINIGRAD_CHECK_INDEX=0 switches the look at the values off.
    """
    if indices.size == 0 or os.environ.get("MINIGRAD_CHECK_INDEX", "") == "0":
        return
    if -size <= int(xp.min(indices)) and int(xp.max(indices)) < size:
        return
    bad = (indices < -size) | (indices >= size)
    first = int(xp.argmax(bad.reshape(-1)))
    position = tuple(int(i) for i in np.unravel_index(first, indices.shape))
    value = int(indices.reshape(-1)[first])
    raise IndexRangeError(
        f"index {value} at position {position} is out of bounds for {what} of size {size}"
    )


def _check(backend: Any, shape: Shape, indices: tuple[Any, ...], template: Template) -> None:
    axis, arrays = 0, iter(indices)
    for item in template:
        if item is ARRAY:
            check_range(next(arrays), shape[axis], backend.xp, f"axis {axis} of shape {shape},")
        axis += item is not None


def _index_spec(x: Spec, *indices: Spec, template: Template) -> Spec:
    probes = tuple(np.zeros(i.shape, dtype=int) for i in indices)
    probe = np.broadcast_to(np.zeros((), dtype=bool), x.shape)
    return Spec(probe[_filled(template, probes)].shape, x.dtype)


index = op(
    "index",
    lambda xp, x, *indices, template: x[_filled(template, indices)],
    shape=_index_spec,
    dtypes="free",
    check=lambda backend, x, *indices, template: _check(backend, x.shape, indices, template),
    x=lambda g, x_shape, indices, template: scatter(g, *indices, template=template, shape=x_shape),
)


def _scatter_forward(
    backend: Any, values: Any, *indices: Any, template: Template, shape: Shape
) -> Any:
    out = backend.xp.zeros(shape, dtype=values.dtype)
    if not indices:
        out[template] += values
        return out
    return backend.scatter_add(out, _filled(template, indices), values)


scatter: Operation = op(
    "scatter",
    _scatter_forward,
    shape=lambda values, *indices, template, shape: Spec(shape, values.dtype),
    dtypes="free",
    check=lambda backend, values, *indices, template, shape: _check(
        backend, shape, indices, template
    ),
    values=lambda g, indices, template: index(g, *indices, template=template),
)


def _normalized(x: Any, key: Any) -> tuple[Template, list[Any]]:
    """A NumPy index as a static template, one item per axis or None, and its integer arrays."""
    items = list(key) if isinstance(key, tuple) else [key]
    indices: list[Any] = []
    template: list[Any] = []
    consumed = sum(item is not None and item is not Ellipsis for item in items)
    if consumed > x.ndim:
        raise IndexRangeError(f"too many indices: {consumed} for a tensor of {x.ndim} dimensions")
    seen = 0
    for item in items:
        if item is Ellipsis:
            template += [slice(None)] * (x.ndim - consumed)
            seen += x.ndim - consumed
        elif item is None:
            template.append(None)
        elif isinstance(item, slice):
            bounds = (item.start, item.stop, item.step)
            template.append(slice(*(None if b is None else int(b) for b in bounds)))
            seen += 1
        elif isinstance(item, (int, np.integer)) and not isinstance(item, bool):
            size = x.shape[seen]
            if not -size <= item < size:
                raise IndexRangeError(
                    f"index {int(item)} is out of bounds for axis {seen} of shape {x.shape}"
                )
            template.append(int(item))
            seen += 1
        else:
            indices.append(_integers(item, "an index"))
            template.append(ARRAY)
            seen += 1
    return tuple(template), indices


def _integers(item: Any, what: str) -> Any:
    if isinstance(item, (bool, float, str)) or item is None:
        raise IndexTypeError(f"{what} is made of integers, slices, None and ..., not {item!r}")
    if isinstance(item, list) and not item:
        item = np.zeros(0, dtype=np.int64)
    values = item if hasattr(item, "dtype") else Tensor(item)
    if values.dtype.kind == "b":
        raise IndexTypeError(
            "a bool mask selects a number of elements that depends on values; use minigrad.where, "
            "or index with the integers that numpy.nonzero gives"
        )
    if values.dtype.kind not in "iu":
        raise IndexTypeError(f"{what} has integer dtype, not {values.dtype}")
    return values


def getitem(x: Any, key: Any) -> Tensor:
    """x[key] with integers, slices, None, ... and integer arrays, as NumPy has it.

    xs[t] with an integer is unstack(xs)[t], the unstack made once: a loop over t costs O(T).
    """
    if key.__class__ is int and isinstance(x, Tensor) and x.ndim:
        size = x.shape[0]
        if not -size <= key < size:
            raise IndexRangeError(f"index {key} is out of bounds for axis 0 of shape {x.shape}")
        return parts(x)[key]
    template, indices = _normalized(x, key)
    return index(x, *indices, template=template)


def parts(x: Tensor) -> tuple[Tensor, ...]:
    """unstack(x) along the first axis, kept on the handle as long as it says the same."""
    mode = op_.mode.get()
    kept = getattr(x, "_parts", None)
    recorded = x.node is not None and mode.recording
    if kept is not None and kept[0] is mode.run and kept[1] == recorded:
        found: tuple[Tensor, ...] = kept[2]
        node = found[0].node if found else None
        if node is None or not op_.freed(node):
            return found
    found = unstack(x)
    x._parts = (mode.run, recorded, found)
    return found


def iterate(x: Tensor) -> Any:
    """`for part in x`: the slices along the first axis."""
    if x.ndim == 0:
        raise TypeError("iteration over a 0-d tensor")
    return iter(parts(x))


def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """The slices of x at integer indices along axis (of the flattened tensor by default)."""
    x = tensor(x)
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = normalize_axis(axis, x.ndim, "take")
    indices = _integers(indices, "take: indices")
    return index(x, indices, template=(slice(None),) * axis + (ARRAY,))


def take_along_axis(x: Any, indices: Any, axis: int) -> Tensor:
    """x at indices along axis, the other axes matched one to one."""
    x, indices = tensor(x), _integers(indices, "take_along_axis: indices")
    axis = normalize_axis(axis, x.ndim, "take_along_axis")
    others = [n for a, n in enumerate(x.shape) if a != axis]
    if indices.ndim != x.ndim or [n for a, n in enumerate(indices.shape) if a != axis] != others:
        raise ShapeError(
            f"take_along_axis: indices of shape {indices.shape} and a tensor of {x.shape} must "
            f"agree in all axes but {axis}"
        )
    grid = []
    for a, n in enumerate(x.shape):
        if a == axis:
            grid.append(indices)
            continue
        shape = [1] * x.ndim
        shape[a] = n
        grid.append(_arange_like(x, n).reshape(shape))
    return index(x, *grid, template=(ARRAY,) * x.ndim)


def _arange_like(x: Any, n: int) -> Any:
    if isinstance(x, Tensor):
        return make(x.backend.xp.arange(n), x.backend)
    return op_.bare_backend().xp.arange(n)


def scatter_add(x: Any, key: Any, values: Any) -> Tensor:
    """A new tensor: x with values added at x[key], every one of several duplicates counted."""
    x = tensor(x)
    template, indices = _normalized(x, key)
    spec = _index_spec(x, *indices, template=template)
    if not hasattr(values, "dtype"):  # a number or a list is weak
        dtype = x.dtype if x.dtype.kind == "f" else None
        values = Tensor(values, dtype=dtype, backend=getattr(x, "backend", None))
    try:
        fits = specs.broadcast([values.shape, spec.shape]) == spec.shape
    except ShapeError:
        fits = False
    if not fits:
        raise ShapeError(
            f"scatter_add: values of shape {values.shape} do not fit x[index] of shape {spec.shape}"
        )
    if values.shape != spec.shape:
        values = broadcast_to(values, spec.shape)
    return add(x, scatter(values, *indices, template=template, shape=x.shape))

"""Indexing: slices, integer arrays, gathers, and the scatter that is their gradient."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from minigrad import op as op_
from minigrad.errors import IndexRangeError, IndexTypeError, ShapeError
from minigrad.op import Operation, op
from minigrad.ops import specs
from minigrad.ops.elementwise import add
from minigrad.ops.shape import broadcast_to, reshape, tensor, unstack
from minigrad.spec import Spec
from minigrad.tensor import Array, Node, Shape, Tensor, make, normalize_axis


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
            template.append(slice(*(_bound(b) for b in (item.start, item.stop, item.step))))
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
            indices.append(_integers(item, "an index", x))
            template.append(ARRAY)
            seen += 1
    return tuple(template), indices


def _bound(value: Any) -> int | None:
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise IndexTypeError(f"a slice is made of integers and None, not {value!r}") from None


def _integers(item: Any, what: str, x: Any) -> Any:
    """Indices into x; a list of them joins x's backend."""
    if isinstance(item, (bool, float, str)) or item is None:
        raise IndexTypeError(f"{what} is made of integers, slices, None and ..., not {item!r}")
    if isinstance(item, list) and not item:
        item = np.zeros(0, dtype=np.int64)
    values = item if hasattr(item, "dtype") else Tensor(item, backend=getattr(x, "backend", None))
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
    if (key.__class__ is int or isinstance(key, np.integer)) and isinstance(x, Tensor) and x.ndim:
        size = x.shape[0]
        if not -size <= key < size:
            raise IndexRangeError(f"index {key} is out of bounds for axis 0 of shape {x.shape}")
        node, arrays = _slices(x)
        t = int(key) % size
        return make(arrays[t], x.backend, node, t)
    template, indices = _normalized(x, key)
    return index(x, *indices, template=template)


def _slices(x: Tensor) -> tuple[Node | None, list[Array]]:
    """Node and arrays of unstack(x), kept on x as long as they say the same.

    Arrays, not handles: nobody's name, hook or assignment on x[t] reaches who asks for it next.
    """
    mode = op_.mode.get()
    recorded = x.node is not None and mode.recording
    kept = getattr(x, "_parts", None)
    if kept is not None:
        run, node, arrays = kept
        same = run is mode.run or run is _watched(mode.run)
        if same and (not recorded or (node is not None and node.hooks is None)):
            return (node if recorded else None), arrays
    found = unstack(x)
    node, arrays = (found[0].node if found else None), [op_.bare(part) for part in found]
    x._parts = (_watched(mode.run), node, arrays)
    return node, arrays


def _watched(run: Any) -> Any:
    """What a `run` that only looks on, as detect_anomaly's does, looks at."""
    return getattr(run, "watches", run)


def iterate(x: Tensor) -> Iterator[Tensor]:
    """`for part in x`: the slices along the first axis."""
    if x.ndim == 0:
        raise TypeError("iteration over a 0-d tensor")
    node, arrays = _slices(x)
    return iter([make(array, x.backend, node, t) for t, array in enumerate(arrays)])


def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """The slices of x at integer indices along axis (of the flattened tensor by default)."""
    x = tensor(x)
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = normalize_axis(axis, x.ndim, "take")
    indices = _integers(indices, "take: indices", x)
    return index(x, indices, template=(slice(None),) * axis + (ARRAY,))


def take_along_axis(x: Any, indices: Any, axis: int) -> Tensor:
    """x at indices along axis, the other axes matched one to one."""
    x = tensor(x)
    indices = _integers(indices, "take_along_axis: indices", x)
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

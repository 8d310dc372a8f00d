"""Sizes among specs and static arguments, and constants of other sizes, as `stretch` needs them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from minigrad.graph.ir import GraphError, Operand, Value, map_static
from minigrad.op import Static
from minigrad.spec import Spec
from minigrad.tensor import Tensor


class Size(NamedTuple):
    """An axis of an operand."""

    operand: int
    axis: int


def integers(static: Static) -> list[int]:
    found: list[int] = []
    map_static(lambda leaf: found.append(leaf) if leaf.__class__ is int else None, static)
    return found


def with_sizes(specs: Sequence[Spec], sizes: Iterable[tuple[Size, int]]) -> list[Spec]:
    """Specs with some sizes replaced."""
    shapes = [list(spec.shape) for spec in specs]
    for at, n in sizes:
        shapes[at.operand][at.axis] = n
    return [Spec(tuple(shape), spec.dtype) for shape, spec in zip(shapes, specs, strict=True)]


def continued(values: np.ndarray, axis: int, n: int) -> np.ndarray:
    """Evenly spaced values along an axis, as many as asked for."""
    size = values.shape[axis]
    if size == n:
        return values
    first = values.take([0], axis)
    if (values == first).all():
        return np.repeat(first, n, axis)
    step = values.take([1], axis) - first if values.dtype.kind in "if" else None
    shape = [1] * values.ndim
    shape[axis] = -1
    if step is None or (first + step * np.arange(size).reshape(shape) != values).any():
        raise GraphError(f"a constant has values for {size} steps and no others, as a mask has")
    more: np.ndarray = (first + step * np.arange(n).reshape(shape)).astype(values.dtype)
    return more


def more_constants(items: list[Operand], n: int) -> list[Operand]:
    """Evenly spaced constants of a loop's iterations, as many as asked for, to the same end."""
    if len(items) == n:
        return items
    first = items[0]
    if not isinstance(first, Value) or first.constant is None:
        raise GraphError(f"there are {len(items)} numbers for a loop, and no more")
    values = np.stack([x.constant.numpy() for x in items])  # type: ignore[union-attr]
    falls = bool((values[-1] < values[0]).all())
    values = continued(values[::-1] if falls else values, 0, n)
    backend = first.constant.backend
    made = [Tensor(value, backend=backend) for value in (values[::-1] if falls else values)]
    return [Value(first.spec, first.name, tensor) for tensor in made]

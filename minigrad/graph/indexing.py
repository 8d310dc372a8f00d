"""Reads and sums at computed places: what `index` and `scatter` are once their places are checked.

`within` makes a place of an index, counted from the start; only it looks at values. What `gather`
and `accumulate` are then given lies within the axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.graph.ir import Affine, Instruction, Value, map_static
from minigrad.op import REGISTRY, Op
from minigrad.ops.index import ARRAY, check_range

INDEX, SCATTER = REGISTRY["index"], REGISTRY["scatter"]
WITHIN = Op(
    "within",
    lambda xp, i, *, size, what: xp.where(i < 0, i + size, i),
    {},
    lambda i, *, size, what: i,
    dtypes="free",
    check=lambda backend, i, *, size, what: check_range(i, size, backend.xp, what),
)
GATHER = Op("gather", INDEX.forward, {}, INDEX.shape, dtypes="free")
ACCUMULATE = Op("accumulate", SCATTER.forward, {}, SCATTER.shape, dtypes="free")


def has_arrays(step: Instruction) -> bool:
    """Whether a step indexes with integers that are computed, at the same places in each run."""
    static: list[Any] = []
    map_static(static.append, step.static)
    return ARRAY in step.static.get("template", ()) and not any(
        isinstance(x, Affine) for x in static
    )


def items_of(template: tuple[Any, ...], rank: int) -> list[Any]:
    """One item for each axis that is indexed."""
    items = [item for item in template if item is not None]
    return items + [slice(None)] * (rank - len(items))


def axes_of(template: tuple[Any, ...], rank: int, ranks: int) -> tuple[list[int], list[int]]:
    """Which axes of x[template] are those of the indices, `ranks` of them, and which the slices'.

    As NumPy has it: in place of the indices that stand together, else at the front.
    """
    missing = rank - sum(item is not None for item in template)
    items = [*template, *[slice(None)] * missing]
    at = [i for i, item in enumerate(items) if item is ARRAY or isinstance(item, int)]
    first = at[0] if at[-1] - at[0] == len(at) - 1 else 0
    others = len(items) - len(at)
    own = list(range(first, first + ranks))
    slices = [a for a in range(others + ranks) if a not in own]
    kept = [item for i, item in enumerate(items) if i not in at]
    return own, [a for a, item in zip(slices, kept, strict=True) if item is not None]


def line(value: Value) -> tuple[int, dict[int, int]] | None:
    """A constant's start and step by axis, if its integers are evenly spaced along one axis."""
    if value.constant is None or 0 in value.spec.shape:
        return None
    integers = value.constant.numpy()
    start = int(integers.flat[0])
    steps: dict[int, int] = {}
    expected = np.full(integers.shape, start)
    for axis, n in enumerate(integers.shape):
        if n > 1:
            step = int(np.moveaxis(integers, axis, 0)[1].flat[0]) - start
            if step:
                steps[axis] = step
                shape = [1] * integers.ndim
                shape[axis] = n
                expected = expected + step * np.arange(n).reshape(shape)
    return (start, steps) if len(steps) < 2 and (expected == integers).all() else None


def stays_within(value: Value, size: int) -> bool:
    """Whether a constant's integers are places of an axis of this size."""
    integers = value.constant.numpy() if value.constant is not None else np.array([-1])
    return bool((integers >= 0).all() and (integers < size).all())

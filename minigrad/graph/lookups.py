"""look up: reads and sums at computed places, for backends that have code for single elements.

The integers of an `index` become places, checked once for all who use them, and the step a
`gather`. A `scatter` that adds at most one number to each element is a comparison of places; any
other one an `accumulate`. The position of the greatest along an axis is the least of those where it
stands; a running sum within a loop is a loop along its axis.

>>> import minigrad as mg
>>> def picked(x, labels):
...     return mg.take_along_axis(x, labels[:, None], axis=1), mg.argmax(x, axis=1)
>>> graph = mg.graph.capture(picked, mg.zeros((2, 3)), mg.zeros(2, "int64")).graph
>>> graph = mg.graph.simplify(graph)
>>> print(graph)
graph(
    %0: x0 (2, 3) float32,
    %1: x1 (2,) int64,
):
  %2 = index(%1, template=(slice(None, None, None), None))  (2, 1) int64
  %3 = index(%0, const([[0], [1]], (2, 1) int64), %2, template=(array, array))  (2, 1) float32
  %4 = argmax(%0, axis=1)  (2,) int64
  return %3, %4
>>> print(look_up(graph))
graph(
    %0: x0 (2, 3) float32,
    %1: x1 (2,) int64,
):
  %2 = index(%1, template=(slice(None, None, None), None))  (2, 1) int64
  %3 = within(%2, size=3, what='axis 1 of shape (2, 3),')  (2, 1) int64
  %4 = gather(%0, const([[0], [1]], (2, 1) int64), %3, template=(array, array))  (2, 1) float32
  %5 = max(%0, axis=(1,), keepdims=True)  (2, 1) float32
  %6 = equal(%0, %5)  (2, 3) bool
  %7 = not_equal(%0, %0)  (2, 3) bool
  %8 = logical_or(%6, %7)  (2, 3) bool
  %9 = where(%8, const([0, 1, 2], (3,) int64), 3)  (2, 3) int64
  %10 = min(%9, axis=(1,), keepdims=False)  (2,) int64
  return %4, %10
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from minigrad.backend import Backend, current, use_backend
from minigrad.graph.indexing import (
    ACCUMULATE,
    GATHER,
    INDEX,
    SCATTER,
    WITHIN,
    axes_of,
    has_arrays,
    items_of,
    line,
    stays_within,
)
from minigrad.graph.ir import Carry, Graph, Instruction, Loop, Sliced, Stacked, Step, Value
from minigrad.graph.properties import has_counter, positioner
from minigrad.graph.rewriting import ADD, TRANSPOSE, Builder, tall
from minigrad.op import REGISTRY
from minigrad.ops.index import ARRAY
from minigrad.spec import Spec
from minigrad.tensor import make

AND, OR, ASTYPE, EQUAL, NOT_EQUAL = (
    REGISTRY[name] for name in ("logical_and", "logical_or", "astype", "equal", "not_equal")
)
MAX, MIN, WHERE = (REGISTRY[name] for name in ("max", "min", "where"))
INT64 = np.dtype("int64")


def look_up(graph: Graph, backend: Backend | None = None) -> Graph:
    """The graph with computed places instead of indices, in loops as well.

    backend: of the constants that it takes, by default the current one.
    """
    with use_backend(backend or current()):
        return replace(graph, steps=_steps(graph.steps, False))


def _steps(steps: Sequence[Step], inside: bool) -> tuple[Step, ...]:
    out = Builder()
    checked: dict[Any, Value] = {}
    for step in steps:
        if isinstance(step, Loop):
            out.steps.append(replace(step, body=_steps(step.body, True)))
        elif step.op in (INDEX, SCATTER) and has_arrays(step):
            _indexed(step, out, checked)
        elif (name := positioner(step.op)) and not has_counter(step.static):
            if name != "cumsum":
                _extreme(step, name, out)
            elif inside:
                _running(step, out)
            else:
                out.steps.append(step)
        else:
            out.steps.append(step)
    return tuple(out.steps)


def _constant(array: np.ndarray) -> Value:
    backend = current()
    tensor = make(backend.asarray(array), backend)
    return Value(Spec(array.shape, array.dtype), constant=tensor)


# --- places --------------------------------------------------------------------------------------


def _indexed(step: Instruction, out: Builder, checked: dict[Any, Value]) -> None:
    x, *indices = cast(list[Value], list(step.operands))
    template = step.static["template"]
    shape = step.static["shape"] if step.op is SCATTER else x.spec.shape
    items = items_of(template, len(shape))
    axes = [axis for axis, item in enumerate(items) if item is ARRAY]
    if 0 in shape or any(
        i.constant is not None and not stays_within(i, shape[axis])
        for i, axis in zip(indices, axes, strict=True)
    ):
        out.steps.append(step)  # an error, it may be
        return
    places = []
    for i, axis in zip(indices, axes, strict=True):
        if i.constant is None:
            key = i, shape[axis]
            if key not in checked:
                what = f"axis {axis} of shape {tuple(shape)},"
                wide = i if i.spec.dtype == INT64 else out.emit(ASTYPE, i, dtype=INT64)
                checked[key] = out.emit(WITHIN, wide, size=shape[axis], what=what)
            i = checked[key]
        places.append(i)
    if step.op is INDEX:
        out.steps.append(replace(step, op=GATHER, operands=(x, *places)))
        return
    if not _compared(step, x, places, items, out):
        out.steps.append(replace(step, op=ACCUMULATE, operands=(x, *places)))


def _compared(
    step: Instruction, values: Value, places: list[Value], items: list[Any], out: Builder
) -> bool:
    """Write a scatter as a comparison, if each element of its result gets one number at most."""
    shape = tuple(step.static["shape"])
    if any(item is not ARRAY and item != slice(None) for item in items):
        return False
    ranks = max(len(i.spec.shape) for i in places)
    own, slices = axes_of(step.static["template"], len(shape), ranks)
    source: dict[int, int] = {}  # of an axis of the result, the one of values it runs along
    compared: list[tuple[int, Value]] = []
    given, rest = iter(places), iter(slices)
    for axis, item in enumerate(items):
        if item is not ARRAY:
            source[axis] = next(rest)
            continue
        i = next(given)
        start, steps = line(i) or (1, {})
        along = next(iter(steps), 0)
        if start == 0 and steps == {along: 1} and i.spec.shape[along] == shape[axis]:
            source[axis] = own[along + ranks - len(i.spec.shape)]
        else:
            compared.append((axis, i))
    left = [a for a in range(len(values.spec.shape)) if a not in source.values()]
    if any(values.spec.shape[a] != 1 for a in left) or len(set(source.values())) < len(source):
        return False

    def beside(x: Value) -> Value:
        """x, which has the axes of values, with those of the result."""
        x = out.transposed(x, (*source.values(), *left))
        sizes = iter(x.spec.shape)
        return out.reshaped(x, *(next(sizes) if a in source else 1 for a in range(len(shape))))

    mask: Value | None = None
    for axis, i in compared:
        sizes = [1] * len(values.spec.shape)
        for a, n in zip(own[ranks - len(i.spec.shape) :], i.spec.shape, strict=True):
            sizes[a] = n
        positions = np.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - 1 - axis))
        same = out.emit(EQUAL, beside(out.reshaped(i, *sizes)), _constant(positions))
        mask = same if mask is None else out.emit(AND, mask, same)
    if mask is None:
        return False
    out.emit(WHERE, mask, beside(values), 0, into=step.outputs[0])
    return True


# --- positions -----------------------------------------------------------------------------------


def _extreme(step: Instruction, name: str, out: Builder) -> None:
    """The first position of the greatest or the smallest, NaN being either."""
    [x] = cast(list[Value], list(step.operands))
    axis, rank = step.static["axis"], len(x.spec.shape)
    n = x.spec.shape[axis]
    best = out.emit(MAX if name == "argmax" else MIN, x, axis=(axis,), keepdims=True)
    found = out.emit(OR, out.emit(EQUAL, x, best), out.emit(NOT_EQUAL, x, x))
    positions = _constant(np.arange(n).reshape(n, *[1] * (rank - 1 - axis)))
    at = out.emit(WHERE, found, positions, n)
    out.emit(MIN, at, axis=(axis,), keepdims=False, into=step.outputs[0])


def _running(step: Instruction, out: Builder) -> None:
    """A running sum, one place after another."""
    [x] = cast(list[Value], list(step.operands))
    [made] = step.outputs
    axis, dtype = step.static["axis"], made.spec.dtype
    if x.spec.shape[axis] == 0:  # no iteration
        out.emit(ASTYPE, x, dtype=dtype, into=made)
        return
    wide = x if x.spec.dtype == dtype else out.emit(ASTYPE, x, dtype=dtype)
    order = (axis, *(a for a in range(len(x.spec.shape)) if a != axis))
    rows = out.transposed(wide, order)
    trips, *shape = rows.spec.shape
    row, total = (Value(Spec(tuple(shape), dtype)) for _ in range(2))
    body = Builder()
    result = body.emit(ADD, total, row)
    start = _constant(np.zeros(shape, dtype))
    whole = tall(trips, result.spec)
    loop = Loop(
        trips,
        tuple(body.steps),
        carries=(Carry(total, result, (start,)),),
        sliced=(Sliced(row, rows),),
        stacked=(Stacked(result, whole),),
    )
    out.steps.append(loop)
    back = tuple(order.index(a) for a in range(len(order)))
    if back == tuple(range(len(order))):
        loop.stacked[0].whole = made
    else:
        out.emit(TRANSPOSE, whole, axes=back, into=made)

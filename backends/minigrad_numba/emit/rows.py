"""Loops whose steps work on the rows of a batch alone: which they are, and in what portions.

    h = tanh(h @ W + x)    a row of h needs that row of x and of the h before: up to B threads
    h = tanh(W @ h + x)    a row of h needs all of the h before: one thread

Rows that are independent need no barrier, and few of them at a time find in a cache what they left
there one iteration before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minigrad.graph.fusing import Kernel
from minigrad.graph.indexing import ACCUMULATE
from minigrad.graph.ir import Loop, Step, Value, walk
from minigrad.graph.nests import Nest
from minigrad.graph.planning import Plan
from minigrad.graph.properties import PRODUCT, View, has_counter, is_join, views

RESIDENT = 128 * 1024  # bytes that rows carry from step to step: of an L2 cache that others share


def made_in(loop: Loop) -> set[Value]:
    """What is another value in each iteration."""
    found = set(loop.parameters)
    for step in walk(loop.body):
        found.update(step.outputs)
        if isinstance(step, Loop):
            found.update(step.parameters)
    return found


def independent(plan: Plan, loop: Loop) -> tuple[int, str]:
    """The size of the first axis, and why some step needs other rows of it, if one does."""
    if not loop.results:
        return 0, "of which nothing is left, one thread"
    shape = loop.results[0].spec.shape
    rows = shape[0] if shape else 0
    moving = made_in(loop) - {s.parameter for s in loop.sliced}
    if rows < 2 or any(x.parameter.spec.shape[:1] != (rows,) for x in loop.carries):
        return rows, "no batch to share, one thread"
    for step in loop.body:
        if not _by_rows(plan, step, rows, moving):
            name = "a loop" if isinstance(step, Loop) else step.op.name
            return rows, f"{name} needs all rows, one thread"
    if any(copy.target.view.shape[:1] != (rows,) for copy in plan.turns.get(loop, ())):
        return rows, "what is kept has other rows, one thread"
    return rows, ""


def rows_at_once(loop: Loop, rows: int) -> int:
    """How many rows go through all iterations before the next do.

    About as many as carry what stays in a cache; but all, where each block would read more weights
    again than it spares the memory.
    """

    def size(value: Value) -> int:
        return math.prod(value.spec.shape) * value.spec.dtype.itemsize

    moving = made_in(loop)
    factors = {x for s in loop.body if s.op is PRODUCT for x in s.operands if isinstance(x, Value)}
    if sum(size(x) for x in factors - moving) > RESIDENT:
        return rows
    carried = sum(size(carry.parameter) for carry in loop.carries)
    return min(rows, math.ceil(RESIDENT * rows / max(carried, 1)))


def _by_rows(plan: Plan, step: Step, rows: int, moving: set[Value]) -> bool:
    if isinstance(step, Loop) or any(v.spec.shape[:1] != (rows,) for v in step.outputs):
        return False
    if step.op is ACCUMULATE or has_counter(step.static):
        return False
    if isinstance(step.op, Kernel):
        nest = Nest(plan, step)
        return (
            step.op.space[:1] == (rows,)
            and 0 not in nest.folded
            and all(
                _within_row(node.place.view, plan.home(node.value).view, node.lookups)
                for node in nest.nodes
                if node.place is not None and node.value in moving
            )
        )
    if step.op is PRODUCT:
        left, right = (x for x in step.operands if isinstance(x, Value))
        ones = (len(left.spec.shape) == 1) + (len(right.spec.shape) == 1)
        axes = len(step.outputs[0].spec.shape) + ones
        if axes == 2 and (right in moving or len(left.spec.shape) == 1):
            return False
        sides = [x.spec.shape for x in (left, right) if x in moving]
        return all(shape[0] == rows and len(shape) == axes for shape in sides)
    if is_join(step.op):
        return step.static["axis"] != 0
    (base,) = (x for x in step.operands if isinstance(x, Value))
    home = plan.home(base).view
    return base not in moving or all(_within_row(v, home) for v in views(step, home) or ())


def _within_row(view: View, home: View, lookups: Sequence[tuple[Any, int]] = ()) -> bool:
    """Whether place i along the first axis of a view lies in row i of what it shows."""
    row = home.strides[0]
    if any(stride >= row for _, stride in lookups):
        return False
    others = zip(view.shape[1:], view.strides[1:], strict=True)
    low = high = view.offset - home.offset
    for n, stride in others:
        low, high = low + min(0, stride * (n - 1)), high + max(0, stride * (n - 1))
    return view.strides[:1] == (row,) and low >= 0 and high < row

"""The sides of a product in memory, as matrices with strides."""

from __future__ import annotations

import math
from typing import Any

from minigrad.graph.ir import Instruction, Value
from minigrad.graph.planning import Location, Plan
from minigrad.graph.properties import View


def panels_of(place: Location) -> tuple[Any, ...]:
    """What panels are made of, as a key."""
    return (place.buffer, place.view, place.moves)


class Matrices:
    """The three sides of a product, as matrices with strides; batch: sizes of the axes before."""

    def __init__(self, plan: Plan, step: Instruction) -> None:
        left, right = (x for x in step.operands if isinstance(x, Value))
        result = step.outputs[0]
        self.dtype = result.spec.dtype
        a, b, c = (plan.home(x) for x in (left, right, result))
        if len(a.view.shape) == 1:
            a = a.part(View((1, *a.view.shape), (0, *a.view.strides), a.view.offset))
            c = c.part(_inserted(c.view, len(c.view.shape) - (len(b.view.shape) > 1)))
        if len(b.view.shape) == 1:
            b = b.part(View((*b.view.shape, 1), (*b.view.strides, 0), b.view.offset))
            c = c.part(_inserted(c.view, len(c.view.shape)))
        self.span = 1  # rows of the matrix in one of the first axis
        if len(b.view.shape) == 2 and len(a.view.shape) > 2:
            flat_a, flat_c = _flat(a.view), _flat(c.view)
            if flat_a and flat_c:
                self.span = math.prod(a.view.shape[1:-1])
                a, c = a.part(flat_a), c.part(flat_c)
        self.batch = c.view.shape[:-2]
        self.rows, self.depth = a.view.shape[-2:]
        self.columns = b.view.shape[-1]
        self.left, self.right, self.result = (
            side.part(_stretched(side.view, self.batch)) for side in (a, b, c)
        )

    @property
    def leading(self) -> int:
        """What is shared among threads: the first axis of a batch, else rows."""
        return self.batch[0] if self.batch else self.rows

    @property
    def work(self) -> int:
        return 2 * math.prod(self.batch) * self.rows * self.depth * self.columns

    @property
    def unit(self) -> int:
        return 1 if self.batch else 6


def _inserted(view: View, axis: int) -> View:
    shape, strides, offset = view
    return View((*shape[:axis], 1, *shape[axis:]), (*strides[:axis], 1, *strides[axis:]), offset)


def _flat(view: View) -> View | None:
    """All axes but the last as one, if they run on without a gap."""
    rows, stride = 1, view.strides[-2]
    for n, s in zip(reversed(view.shape[:-1]), reversed(view.strides[:-1]), strict=True):
        if n != 1 and s != rows * stride:
            return None
        rows *= n
    return View((rows, view.shape[-1]), (stride, view.strides[-1]), view.offset)


def _stretched(view: View, batch: tuple[int, ...]) -> View:
    shape, strides, offset = view
    missing = len(batch) - (len(shape) - 2)
    outer = [0] * missing + [
        0 if n == 1 else s for n, s in zip(shape[:-2], strides[:-2], strict=True)
    ]
    return View((*batch, *shape[-2:]), (*outer, *strides[-2:]), offset)

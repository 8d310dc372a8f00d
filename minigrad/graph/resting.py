"""rest: at which flags rows need no work, being zero, or what they were one iteration before.

A choice between two values by a flag that is one for all columns of a row is zero where it chooses
zero, and so is what is made of zeros. A carry stays where its result is a choice of the carry
itself, and so does what is made of such. An emitter sees in the numbers whether rows rest; this
tells it which products are worth a look.

>>> import minigrad as mg
>>> def f(xs, real, V, W):
...     h, hs = mg.zeros((2, 4)), []
...     for x, flag in zip(xs, real):
...         new = mg.tanh(mg.where(flag, x, 0) @ V + h @ W)
...         h = mg.where(flag, new, h)
...         hs.append(mg.where(flag, new, 0))
...     return mg.stack(hs)
>>> real = mg.ones((5, 2, 1), dtype="bool")
>>> graph = mg.graph.capture(f, mg.zeros((5, 2, 3)), real, mg.ones((3, 4)), mg.ones((4, 4))).graph
>>> for optimise in mg.graph.PASSES:
...     graph = optimise(graph)
>>> found, flag = rest(graph), graph.inputs[1]
>>> of_x, of_h = (s for s in graph.walk() if not hasattr(s, "trips") and s.op.name == "matmul")
>>> found.zero[of_x.operands[0]] == found.zero[of_x.outputs[0]] == {(flag, False)}
True
>>> found.still[of_h.operands[0]] == found.still[of_h.outputs[0]] == {(flag, False)}
True
>>> of_h.operands[0] in found.zero, of_x.operands[0] in found.still
(False, False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad.graph.engine import bare
from minigrad.graph.fusing import Kernel
from minigrad.graph.ir import Carry, Graph, Instruction, Loop, Operand, Step, Value
from minigrad.graph.properties import (
    PRODUCT,
    is_choice,
    is_elementwise,
    is_join,
    keeps_zeros,
    reducer,
    views,
)

Flag = tuple[Value, bool]  # what rows depend on, and what it is for those that rest
Flags = frozenset[Flag]
NEVER: Flags = frozenset()


@dataclass(eq=False)
class Rest:
    """The flags at which a value's rows are zero, and at which they are what they were before."""

    zero: dict[Value, Flags] = field(default_factory=dict)
    still: dict[Value, Flags] = field(default_factory=dict)


def rest(graph: Graph) -> Rest:
    """What rests in a graph."""
    search = _Search()
    search.zeros(graph.steps)
    for loop in graph.loops():
        search.stills(loop)
    return search.found


class _Search:
    """Goes through the steps in their order, once for zeros, and once a loop for what stays."""

    def __init__(self) -> None:
        self.found = Rest()
        self.maker: dict[Value, Instruction] = {}
        self.origins: dict[Value, Value] = {}  # of what shows another value, or a row of it

    def origin(self, x: Any) -> Any:
        return self.origins.get(x, x)

    def is_zero(self, x: Operand, flag: Flag) -> bool:
        """Whether an operand is zero in rows at a flag."""
        if not isinstance(x, Value):
            return x == 0
        if x.constant is not None:
            return not np.any(bare(x.constant))
        return flag in self.found.zero.get(x, NEVER) or flag == (self.origin(x), False)

    def zeros(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Loop):
                for sliced in step.sliced:
                    self.shows(sliced.parameter, sliced.whole)
                self.zeros(step.body)
                for stacked in step.stacked:
                    self.shows(stacked.whole, stacked.result)
            elif isinstance(step.op, Kernel):
                self.zeros(step.op.body)
            else:
                self.maker.update(dict.fromkeys(step.outputs, step))
                self.zeros_of(step)

    def shows(self, value: Value, base: Value) -> None:
        self.origins[value] = self.origin(base)
        self.found.zero[value] = self.found.zero.get(base, NEVER)

    def zeros_of(self, step: Instruction) -> None:
        operands = [x for x in step.operands if isinstance(x, Value)]
        if views(step) is not None:
            for value in step.outputs:
                self.shows(value, operands[0])
            return
        known = {flag for x in operands for flag in self.found.zero.get(x, NEVER)}
        known.update((self.origin(x), False) for x in operands if is_flag(x, step))
        flags = {flag for flag in known if self.makes_zero(step, flag)}
        flags.update(f for f, x in chosen(step, self.origin) if self.is_zero(x, f))
        if flags:
            self.found.zero.update(dict.fromkeys(step.outputs, frozenset(flags)))

    def makes_zero(self, step: Instruction, flag: Flag) -> bool:
        """Whether rows at a flag come out as zeros because operands have zeros there."""
        zero = tuple(self.is_zero(x, flag) for x in step.operands)
        if is_elementwise(step.op):
            return keeps_zeros(step, zero)
        if step.op is PRODUCT:
            return zero[0]
        folds = is_join(step.op) or (reducer(step.op) and 0 not in step.static["axis"])
        return bool(folds) and all(zero)

    def stills(self, loop: Loop) -> None:
        known = self.found.still
        for carry in loop.carries:
            known[carry.parameter] = frozenset(self.stays(carry))
        every = {flag for carry in loop.carries for flag in known[carry.parameter]}
        for sliced in loop.sliced:
            x = sliced.parameter
            known[x] = frozenset(f for f in every if self.is_zero(x, f) or self.origin(x) is f[0])
        inside = set(loop.parameters)
        for step in inlined(loop.body) if every else ():
            inside.update(step.outputs)
            moving = [x for x in step.operands if isinstance(x, Value) and x in inside]
            for value in step.outputs:
                zero = every & self.found.zero.get(value, NEVER)
                stays = every.intersection(*(known.get(x, NEVER) for x in moving))
                known[value] = frozenset(zero | stays)

    def stays(self, carry: Carry) -> Iterator[Flag]:
        """The flags at which a carry's result is the carry."""
        step = self.maker.get(carry.result)
        for flag, side in chosen(step, self.origin) if step and carry.delay == 1 else ():
            x: Any = side
            while x in self.maker and is_choice(self.maker[x].op):
                by, yes, no = self.maker[x].operands
                x = no if self.is_zero(by, flag) else yes if self.origin(by) is flag[0] else None
            if x is carry.parameter:
                yield flag


def is_flag(x: Value, step: Instruction) -> bool:
    """Whether an operand says of whole rows, or in what is itself a flag, what they are."""
    of_flags = step.outputs[0].spec.dtype.kind == "b"
    return x.spec.dtype.kind == "b" and (of_flags or x.spec.shape[-1:] in ((), (1,)))


def chosen(step: Instruction, origin: Callable[[Value], Value]) -> Iterator[tuple[Flag, Operand]]:
    """What a choice by a flag of rows is where the flag is set, and where it is not."""
    by = step.operands[0] if is_choice(step.op) else None
    columns = step.outputs[0].spec.shape[-1:]
    if isinstance(by, Value) and columns > (1,) and by.spec.shape[-1:] in ((), (1,)):
        yield from zip(((origin(by), True), (origin(by), False)), step.operands[1:], strict=True)


def inlined(steps: Iterable[Step]) -> Iterator[Instruction]:
    """The instructions among steps, and those of kernels."""
    for step in steps:
        if isinstance(step, Instruction):
            yield from step.op.body if isinstance(step.op, Kernel) else (step,)

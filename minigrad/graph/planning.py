"""plan: where each value lies while a program runs.

A value that is a row of a loop's whole, a part of a join, or a result, is written right there. The
others have scratch memory, which values that are not alive at the same time share. Carries that no
whole keeps run through a ring of delay + 1 slots.

>>> import minigrad as mg
>>> def rnn(xs, W):
...     h, hs = mg.zeros((2, 4)), []
...     for x in xs:
...         h = mg.tanh(x + h @ W)
...         hs.append(h)
...     return mg.stack(hs)
>>> graph = mg.graph.capture(rnn, mg.zeros((3, 2, 4)), mg.zeros((4, 4))).graph
>>> for optimise in (*mg.graph.PASSES, mg.graph.fuse):
...     graph = optimise(graph)
>>> print(graph)  # doctest: +ELLIPSIS
graph(
    %0: x0 (3, 2, 4) float32,
    %1: x1 (4, 4) float32,
):
  for t in 3:
    %2 = %0[t]  (2, 4) float32
    %3 = delay 1 of %..., first const(0.0, (2, 4) float32)  (2, 4) float32
    %4 = matmul(%3, %1)  (2, 4) float32
    ...
    %... -> %...[t]  (3, 2, 4) float32
  return %...
>>> found = plan(graph, lambda step: False)
>>> [loop] = graph.loops()
>>> def place(value):
...     return found.places[value].buffer.kind, [move[1:] for move in found.places[value].moves]
>>> place(loop.sliced[0].parameter)  # a row of the input, 8 elements further each time
('input', [(8,)])
>>> place(loop.carries[0].parameter)  # slot t modulo 2 of a ring
('scratch', [(0, 2, 8)])
>>> place(loop.body[0].outputs[0])  # the product: always at the same place
('scratch', [])
>>> place(loop.carries[0].result)  # the kernel's: a row of the result; a copy goes to the ring
('output', [(8,)])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from minigrad.graph.fusing import Kernel
from minigrad.graph.ir import (
    Carry,
    Counter,
    Graph,
    Instruction,
    Loop,
    Operand,
    Sliced,
    Stacked,
    Step,
    Value,
)
from minigrad.graph.properties import (
    PRODUCT,
    STACK,
    View,
    contiguous,
    everywhere,
    is_elementwise,
    is_join,
    moving,
    reducer,
    through,
    views,
)

ALIGNMENT = 64  # bytes, a line of the cache


@dataclass(slots=True, eq=False)
class Buffer:
    """Memory for `size` elements: of an input, a constant, an output, or scratch."""

    dtype: np.dtype
    size: int
    kind: str = "scratch"
    value: Value | None = None
    first: int = -1  # the steps of the graph between which it is in use
    last: int = -1
    offset: int = 0  # of scratch, in bytes

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


class Row(NamedTuple):
    """Iteration t is `step` elements further than t - 1."""

    counter: Counter
    step: int


class Slot(NamedTuple):
    """Iteration t is in slot (t + shift) modulo slots, each of `size` elements."""

    counter: Counter
    shift: int
    slots: int
    size: int


class Location(NamedTuple):
    """A view of a buffer that moves with the iterations of the loops around."""

    buffer: Buffer
    view: View
    moves: tuple[Row | Slot, ...] = ()

    def part(self, view: View) -> Location:
        """The same memory, other elements of it."""
        return self._replace(view=view)


class Copy(NamedTuple):
    """A value, or a number, that has to be written to a second place."""

    source: Operand
    target: Location


@dataclass(eq=False)
class Plan:
    """Where values lie, and what has to be copied when."""

    graph: Graph
    opaque: set[Step] = field(default_factory=set)  # steps that run outside, on arrays of their own
    places: dict[Value, Location] = field(default_factory=dict)
    stores: dict[Value, list[Location]] = field(default_factory=dict)  # where else it is written
    copies: dict[Step, list[Copy]] = field(
        default_factory=dict
    )  # before a loop, after another step
    turns: dict[Loop, list[Copy]] = field(default_factory=dict)  # at the end of each iteration
    last: list[Copy] = field(default_factory=list)  # at the end of the program
    buffers: list[Buffer] = field(default_factory=list)
    bytes: int = 0  # of scratch memory

    def scratch(self, dtype: np.dtype, size: int, kind: str = "scratch") -> Buffer:
        """A new buffer."""
        self.buffers.append(Buffer(np.dtype(dtype), size, kind))
        return self.buffers[-1]

    def home(self, value: Value) -> Location:
        """Where a value lies."""
        if value not in self.places:
            kind = "constant" if value.constant is not None else "scratch"
            buffer = self.scratch(value.spec.dtype, math.prod(value.spec.shape), kind)
            buffer.value = value
            self.places[value] = Location(buffer, contiguous(value.spec.shape))
        return self.places[value]


def plan(graph: Graph, is_opaque: Callable[[Step], bool]) -> Plan:
    """The places of all values that lie in memory; is_opaque says which steps run outside."""
    found = Plan(graph, {step for step in graph.walk() if is_opaque(step)})
    for value in graph.inputs:
        found.home(value).buffer.kind = "input"
    planner = _Planner(found)
    planner.ask(graph)
    planner.give(graph.steps)
    planner.take(graph.steps)
    _share(found)
    return found


class _Planner:
    """Goes through the steps twice: from the end, where values are asked for, and back again."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.scope: dict[Value, int] = {}  # the scope in which a native step makes a value
        self.shown: set[Value] = set()
        self.whole: set[Value] = set()  # what must not lie scattered
        self.lines: set[Value] = set()  # products, whose columns lie beside each other
        self.wanted: dict[Value, list[Location]] = {}
        self.loops: list[Loop] = []
        self.trips = {loop.counter: loop.trips for loop in plan.graph.loops()}
        self.know(plan.graph.steps)
        self.spread()

    def know(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if step in self.plan.opaque:
                continue
            if isinstance(step, Loop):
                self.loops.append(step)
                self.know(step.body)
                made = [stacked.whole for stacked in step.stacked]
            else:
                made = list(step.outputs)
                if not isinstance(step.op, Kernel) and not is_join(step.op):
                    self.whole.update(x for x in step.operands if isinstance(x, Value))
                    if step.op is PRODUCT:
                        self.lines.update(made)
                    elif views(step) is not None or moving(step, self.trips) is not None:
                        self.shown.update(made)
                elif isinstance(step.op, Kernel):
                    self.whole.update(scattered(step.op))
            self.scope.update(dict.fromkeys(made, id(steps)))

    def spread(self) -> None:
        """What must not lie scattered because a row of it, or what it is in a loop, must not."""
        before = -1
        while before < len(self.whole):
            before = len(self.whole)
            for loop in self.loops:
                for sliced in loop.sliced:
                    if sliced.parameter in self.whole:
                        self.whole.add(sliced.whole)
                for carry in loop.carries:
                    if carry.parameter in self.whole:
                        self.whole.add(carry.result)
                        self.whole.update(s.whole for s in loop.stacked if keeps(s, carry))
                for collected in loop.collected:
                    if not self.whole.isdisjoint(collected.outputs.values()):
                        self.whole.add(collected.result)

    def want(self, x: Operand, target: Location, steps: Sequence[Step], copies: list[Copy]) -> None:
        """Have x written to a place by what makes it among the steps, else by a copy."""
        made = isinstance(x, Value) and self.scope.get(x) == id(steps)
        if isinstance(x, Value) and made and x.spec.dtype == target.buffer.dtype:
            self.wanted.setdefault(x, []).append(target)
        else:
            copies.append(Copy(x, target))

    def ask(self, graph: Graph) -> None:
        """Have each result that is made here written to an array of its own."""
        made = {v for s in graph.steps if s not in self.plan.opaque for v in s.outputs}
        for value in dict.fromkeys(graph.outputs):
            if value in made:
                target = self.plan.scratch(value.spec.dtype, math.prod(value.spec.shape), "output")
                target.value = value
                place = Location(target, contiguous(value.spec.shape))
                self.want(value, place, graph.steps, self.plan.last)

    # from the end

    def give(self, steps: Sequence[Step]) -> None:
        """Places for what the steps make, the last first."""
        for step in reversed(steps):
            if step in self.plan.opaque:
                for value in step.outputs:
                    self.plan.home(value).buffer.kind = "array"
            elif isinstance(step, Loop):
                self.give_loop(step)
            elif step.outputs and step.outputs[0] in self.shown:
                continue
            else:
                for value in step.outputs:
                    self.settle(value)
                if is_join(step.op):
                    self.give_parts(step, steps)

    def settle(self, value: Value) -> None:
        """Give a value the first fitting place of those where it is wanted; the others as well."""
        targets = self.wanted.pop(value, [])
        for i, target in enumerate(targets):
            if self.fits(value, target.view):
                self.plan.places[value] = targets.pop(i)
                break
        else:
            self.plan.home(value)
        if targets:
            self.plan.stores[value] = targets

    def fits(self, value: Value, view: View) -> bool:
        """Whether what makes a value can write it there, and all who read it read it there."""
        if value in self.lines and view.strides and view.strides[-1] != 1 != view.shape[-1]:
            return False
        return value not in self.whole or view.is_contiguous

    def give_parts(self, step: Instruction, steps: Sequence[Step]) -> None:
        home = self.plan.home(step.outputs[0])
        _, strides, offset = home.view
        axis = step.static["axis"]
        for x in step.operands:
            own = x.spec.shape if isinstance(x, Value) else ()
            part = View(own, strides, offset)
            if step.op is STACK:
                part = View(own, strides[:axis] + strides[axis + 1 :], offset)
            offset += strides[axis] * (1 if step.op is STACK else own[axis])
            self.want(x, home.part(part), steps, self.plan.copies.setdefault(step, []))

    def give_loop(self, loop: Loop) -> None:
        before = self.plan.copies.setdefault(loop, [])
        turns = self.plan.turns.setdefault(loop, [])
        for stacked in loop.stacked:
            self.settle(stacked.whole)
            row = row_of(self.plan.home(stacked.whole), stacked, loop.counter)
            for i, x in enumerate(stacked.initial):
                before.append(Copy(x, at(row, loop.counter, i - len(stacked.initial))))
            self.want(stacked.result, row, loop.body, turns)
        for carry in loop.carries:
            spec, delay = carry.parameter.spec, carry.delay
            kept = next((s for s in loop.stacked if keeps(s, carry)), None)
            if kept is not None:
                row = row_of(self.plan.home(kept.whole), kept, loop.counter)
                self.plan.places[carry.parameter] = back(row, loop.counter, delay)
                continue
            size = math.prod(spec.shape)
            ring = self.plan.scratch(spec.dtype, (delay + 1) * size)
            view = contiguous(spec.shape)
            for i, first in enumerate(carry.initial):
                before.append(Copy(first, Location(ring, view._replace(offset=i * size))))
            now, new = (Slot(loop.counter, shift, delay + 1, size) for shift in (0, delay))
            self.plan.places[carry.parameter] = Location(ring, view, (now,))
            self.want(carry.result, Location(ring, view, (new,)), loop.body, turns)
        self.give(loop.body)

    # from the start

    def take(self, steps: Sequence[Step]) -> None:
        """Places for what shows other values, which have theirs now."""
        for step in steps:
            if step in self.plan.opaque:
                continue
            if isinstance(step, Loop):
                for sliced in step.sliced:
                    row = row_of(self.plan.home(sliced.whole), sliced, step.counter)
                    self.plan.places[sliced.parameter] = row
                self.take(step.body)
                for collected in step.collected:
                    for t, value in collected.outputs.items():
                        self.plan.places[value] = at(
                            self.plan.home(collected.result), step.counter, t
                        )
            elif step.outputs and step.outputs[0] in self.shown:
                (base,) = (self.plan.home(x) for x in step.operands if isinstance(x, Value))
                found = views(step, base.view)
                if moved := moving(step, self.trips) if base.view.is_contiguous else None:
                    view, by = moved
                    rows = (Row(counter, n) for counter, n in by.items())
                    view = view._replace(offset=base.view.offset + view.offset)
                    found, base = [view], base._replace(moves=(*base.moves, *rows))
                if found is None:
                    raise NotImplementedError(f"{step.op.name} of what lies scattered")
                for made, view in zip(step.outputs, found, strict=True):
                    self.plan.places[made] = base.part(view)
                    if made in self.wanted:
                        self.plan.stores[made] = self.wanted.pop(made)


def keeps(stacked: Stacked, carry: Carry) -> bool:
    """Whether a whole has all that a carry brings."""
    return stacked.result is carry.result and stacked.initial == carry.initial


def row_of(whole: Location, rows: Sliced | Stacked, counter: Counter) -> Location:
    """The row of an iteration."""
    shape, strides, offset = whole.view
    view = View(shape[1:], strides[1:], offset + rows.start * strides[0])
    return Location(whole.buffer, view, (*whole.moves, Row(counter, rows.step * strides[0])))


def at(place: Location, counter: Counter, t: int) -> Location:
    """The place in one iteration of a loop."""
    offset, moves = place.view.offset, []
    for move in place.moves:
        if move.counter is not counter:
            moves.append(move)
        elif isinstance(move, Row):
            offset += move.step * t
        else:
            offset += (t + move.shift) % move.slots * move.size
    return Location(place.buffer, place.view._replace(offset=offset), tuple(moves))


def back(row: Location, counter: Counter, delay: int) -> Location:
    """The row of an earlier iteration."""
    offset = at(row, counter, -delay).view.offset
    return Location(row.buffer, row.view._replace(offset=offset), row.moves)


def scattered(kernel: Kernel) -> Iterator[Value]:
    """Inputs whose elements a kernel finds by their order alone, as reshape does."""
    for step in kernel.body:
        shown = None if is_elementwise(step.op) or reducer(step.op) else views(step)
        for view in shown or ():
            (base,) = (x for x in step.operands if isinstance(x, Value))
            if through(view, base.spec.shape, everywhere(view.shape)) is None:
                yield base


# --- memory that is shared -----------------------------------------------------------------------


def _share(plan: Plan) -> None:
    """When each buffer is in use, and where in the scratch memory it lies."""
    end = len(plan.graph.steps)
    for i, step in enumerate(plan.graph.steps):
        for place in _touched(plan, step):
            if place.buffer.first < 0:
                place.buffer.first = i
            place.buffer.last = i
    for copy in plan.last:
        for place in _ends(plan, copy):
            place.buffer.last = end
    placed: list[Buffer] = []
    for buffer in sorted(plan.buffers, key=lambda b: -b.bytes):
        if buffer.kind == "scratch":
            beside = sorted(
                (b.offset, b.offset + b.bytes)
                for b in placed
                if b.first <= buffer.last and buffer.first <= b.last
            )
            offset = 0
            for start, stop in beside:
                if offset + buffer.bytes <= start:
                    break
                offset = max(offset, -(-stop // ALIGNMENT) * ALIGNMENT)
            buffer.offset = offset
            placed.append(buffer)
            plan.bytes = max(plan.bytes, offset + buffer.bytes)


def _touched(plan: Plan, step: Step) -> Iterator[Location]:
    for value in (*step.operands, *step.outputs):
        if isinstance(value, Value):
            yield plan.home(value)
            yield from plan.stores.get(value, ())
    for copy in (
        *plan.copies.get(step, ()),
        *(plan.turns.get(step, ()) if isinstance(step, Loop) else ()),
    ):
        yield from _ends(plan, copy)
    if isinstance(step, Loop) and step not in plan.opaque:
        for value in step.parameters:
            yield plan.home(value)
        for inner in step.body:
            yield from _touched(plan, inner)


def _ends(plan: Plan, copy: Copy) -> Iterator[Location]:
    yield copy.target
    if isinstance(copy.source, Value):
        yield plan.home(copy.source)

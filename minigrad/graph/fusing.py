"""fuse: neighbouring elementwise instructions become kernels, one pass over memory each.

What is computed element by element, and what only shows or looks up elements elsewhere, is not
computed until somebody needs it in memory: a product, a join, a reduction, a loop, a result. That
value then is an output of a kernel, whose body is everything between it and what lies in memory
already. Outputs of one space whose operands are there at the same time share a kernel.

>>> import minigrad as mg
>>> def gated(x, W):
...     i, g = mg.split(x @ W, 2, axis=1)
...     return mg.sigmoid(i) * mg.tanh(g)
>>> graph = mg.graph.capture(gated, mg.zeros((2, 3)), mg.zeros((3, 8))).graph
>>> print(graph)
graph(
    %0: x0 (2, 3) float32,
    %1: x1 (3, 8) float32,
):
  %2 = matmul(%0, %1)  (2, 8) float32
  %3 = split(%2, ends=(4,), axis=1)  2 x (2, 4) float32
  %4 = sigmoid(%3[0])  (2, 4) float32
  %5 = tanh(%3[1])  (2, 4) float32
  %6 = multiply(%4, %5)  (2, 4) float32
  return %6
>>> product, kernel = fuse(graph).steps
>>> [step.op.name for step in kernel.op.body]
['split', 'sigmoid', 'tanh', 'multiply']
>>> kernel.operands == product.outputs, kernel.outputs == graph.outputs
(True, True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from minigrad.graph.indexing import GATHER
from minigrad.graph.ir import Graph, Instruction, Loop, Operand, Step, Value
from minigrad.graph.properties import (
    Places,
    View,
    contiguous,
    everywhere,
    has_counter,
    is_elementwise,
    looked_up,
    reducer,
    stretched,
    through,
    views,
)
from minigrad.graph.skeleton import fresh
from minigrad.op import REGISTRY, Op
from minigrad.spec import Spec, specs_of
from minigrad.tensor import Shape

ALIAS = REGISTRY["alias"]


class Kernel(Op):
    """An op generated from instructions: its forward is their composition, one after another."""

    __slots__ = ("body", "inputs", "made", "space")

    def __init__(
        self,
        space: Shape,
        body: tuple[Instruction, ...],
        inputs: tuple[Value, ...],
        made: tuple[Value, ...],
    ) -> None:
        self.space, self.body, self.inputs, self.made = space, body, inputs, made
        super().__init__("kernel", self._run, {}, self._shapes, dtypes="free", outputs=True)

    def _run(self, backend: Any, *xs: Any) -> list[Any]:
        def run(step: Instruction, operands: list[Any]) -> Any:
            if step.op.check is not None:
                step.op.check(backend, *operands, **step.static)
            made = (step.op.bound.get(backend) or step.op.bind(backend))(*operands, **step.static)
            return made if step.op.outputs else [made]

        return [backend.asarray(y) for y in self._through(run, xs)]

    def _shapes(self, *xs: Spec) -> list[Spec]:
        def run(step: Instruction, operands: list[Any]) -> Any:
            given = [x if isinstance(x, Spec) else specs_of([x])[0] for x in operands]
            made = step.op.shape(*given, **step.static)
            return made if step.op.outputs else [made]

        return self._through(run, xs)

    def _through(self, run: Any, xs: Sequence[Any]) -> list[Any]:
        known: dict[Operand, Any] = dict(zip(self.inputs, xs, strict=True))
        for step in self.body:
            made = run(
                step, [known.get(x, x) if isinstance(x, Value) else x for x in step.operands]
            )
            known.update(zip(step.outputs, made, strict=True))
        return [known[value] for value in self.made]


def is_computed(step: Instruction) -> bool:
    """Whether a step makes each element of its result from some element of each operand."""
    return is_elementwise(step.op) or step.op is GATHER


def fuse(graph: Graph, can: Callable[[Instruction], bool] = lambda step: True) -> Graph:
    """The graph with its elementwise instructions and reductions in kernels.

    can: which of them a backend has code for; the others stay as they are.
    """
    steps = _Scope(graph.steps, graph.outputs, {}, can).fused()
    return Graph(graph.inputs, steps, graph.outputs, graph.notes)


def _gathered(steps: Sequence[Step], around: dict[Value, View]) -> list[Step]:
    """The steps, views that what lies scattered around them does not allow on copies of that."""
    copies: dict[Value, Value] = {}
    found: list[Step] = []
    for step in steps:
        base = step.operands[0] if len(step.operands) == 1 else None
        if isinstance(base, Value) and base in around and isinstance(step, Instruction):
            moves = has_counter(step.static)
            shown = moves or (not is_elementwise(step.op) and views(step) is not None)
            lies = around[base]
            if shown and (not lies.is_contiguous if moves else views(step, lies) is None):
                if base not in copies:
                    copies[base] = fresh(base)
                    found.append(Instruction(ALIAS, (base,), {}, (copies[base],)))
                step = replace(step, operands=(copies[base],))
        found.append(step)
    return found


@dataclass(eq=False)
class _Group:
    """Outputs that one kernel computes."""

    key: tuple[Any, ...]
    space: Shape
    roots: list[Value] = field(default_factory=list)


class _Scope:
    """The steps of a graph, or of a loop's body."""

    def __init__(
        self,
        steps: Sequence[Step],
        results: Iterable[Value],
        around: dict[Value, View],
        can: Callable[[Instruction], bool],
    ) -> None:
        steps = _gathered(steps, around)
        self.steps, self.can = steps, can
        self.views = dict(around)  # values that lie in memory otherwise than one after another
        self.index = {step: i for i, step in enumerate(steps)}
        self.maker = {value: step for step in steps for value in step.outputs}
        self.kept: dict[Value, None] = {}  # what a kernel must write to memory
        self.shown: set[Step] = set()  # views of memory that others than kernels look at
        for step in steps:
            if isinstance(step, Loop) or not (self.is_lazy(step) or self.is_reduction(step)):
                moves = isinstance(step, Instruction) and has_counter(step.static)
                for x in step.operands:
                    if moves and isinstance(x, Value) and self.is_lazy(self.maker.get(x)):
                        self.kept[x] = None  # one after another, whatever shows it
                    self.keep(x)
        for value in results:
            if self.is_lazy(self.maker.get(self.origin(value))):
                self.kept[value] = None
            else:
                self.keep(value)
        for step in reversed(steps):
            if self.is_lazy(step) and step not in self.shown:
                self.keep_what_is_scattered(step)

    def is_lazy(self, step: Step | None) -> bool:
        """Whether a step may be a part of kernels."""
        if not isinstance(step, Instruction) or reducer(step.op) or has_counter(step.static):
            return False
        return views(step) is not None or (is_computed(step) and self.can(step))

    def is_in_memory(self, value: Value) -> bool:
        """Whether a kernel can read a value instead of computing it."""
        step = self.maker.get(value)
        return not self.is_lazy(step) or step in self.shown or value in self.kept

    def is_reduction(self, step: Step) -> bool:
        """Whether a step is the end of a kernel of its own."""
        return (
            isinstance(step, Instruction)
            and reducer(step.op) is not None
            and not has_counter(step.static)
            and self.can(step)
        )

    def origin(self, value: Value) -> Value:
        """What a view, of a view, is a view of; any other value itself."""
        step = self.maker.get(value)
        while self.is_lazy(step) and isinstance(step, Instruction) and not is_computed(step):
            (value,) = (x for x in step.operands if isinstance(x, Value))
            step = self.maker.get(value)
        return value

    def keep(self, value: Operand) -> None:
        """Have a value in memory, or as a view of what is."""
        step = self.maker.get(value) if isinstance(value, Value) else None
        if not isinstance(step, Instruction) or not self.is_lazy(step) or step in self.shown:
            return
        if is_computed(step):
            self.kept.update(dict.fromkeys(step.outputs))
            return
        (base,) = (x for x in step.operands if isinstance(x, Value))
        self.keep(base)
        found = views(step, self.view(base))
        if found is None and base in self.maker:  # not of what lies scattered, but of a copy
            self.kept[base] = None
            found = views(step)
        if found is not None:
            self.views.update(zip(step.outputs, found, strict=True))
            self.shown.add(step)

    def view(self, value: Value) -> View:
        found = None if value in self.kept else self.views.get(value)
        return found or contiguous(value.spec.shape)

    def keep_what_is_scattered(self, step: Step) -> None:
        """Keep what a view shows if its axes run along several of the base's, as reshape's do; and
        what is looked up in more often than it has elements.
        """
        if not isinstance(step, Instruction) or is_elementwise(step.op):
            return
        base = cast(Value, step.operands[0])
        if step.op is GATHER:
            sizes = (math.prod(x.spec.shape) for x in (base, *step.outputs))
            if self.is_lazy(self.maker.get(base)) and next(sizes) < next(sizes):
                self.keep(base)
            return
        for view in views(step) or ():
            scattered = through(view, base.spec.shape, everywhere(view.shape)) is None
            if scattered and self.is_lazy(self.maker.get(base)):
                self.kept[base] = None

    # the order of kernels

    def fused(self) -> tuple[Step, ...]:
        slots: list[Step | _Group] = []
        place: dict[Value, int] = {}
        for step in self.steps:
            if isinstance(step, Loop):
                slots.append(self.loop(step))
            elif self.is_reduction(step):
                self.place(step.outputs[0], step, slots, place)
                continue
            elif self.is_lazy(step):
                written = [value for value in step.outputs if value in self.kept]
                for value in written:
                    self.place(value, step, slots, place)
                if step not in self.shown or len(written) == len(step.outputs):
                    continue
                others = tuple(fresh(v) if v in self.kept else v for v in step.outputs)
                slots.append(replace(step, outputs=others))
                place.update({v: len(slots) - 1 for v in others})
                continue
            else:
                slots.append(step)
            place.update(dict.fromkeys(step.outputs, len(slots) - 1))
        return tuple(self.kernel(s) if isinstance(s, _Group) else s for s in slots)

    def loop(self, loop: Loop) -> Loop:
        around = {v: self.view(v) for v in self.views}
        for sliced in loop.sliced:
            whole = self.view(sliced.whole)
            around[sliced.parameter] = View(whole.shape[1:], whole.strides[1:])
        return replace(loop, body=_Scope(loop.body, loop.results, around, self.can).fused())

    def place(
        self,
        root: Value,
        step: Instruction,
        slots: list[Step | _Group],
        place: dict[Value, int],
    ) -> None:
        """Put an output into the first kernel of its space that comes late enough, or a new one."""
        space, key = self.space(root, step)
        first = 0
        for value, same in self.reads(root, step, space).items():
            at = place.get(value, -1)
            slot = slots[at] if at >= 0 else None
            together = same and isinstance(slot, _Group) and slot.key == key and key[0] == "map"
            first = max(first, at + (not together))
        for at in range(first, len(slots)):
            slot = slots[at]
            if isinstance(slot, _Group) and slot.key == key:
                break
        else:
            at = len(slots)
            slots.append(_Group(key, space))
        cast(_Group, slots[at]).roots.append(root)
        place[root] = at

    def space(self, root: Value, step: Instruction) -> tuple[Shape, tuple[Any, ...]]:
        if self.is_reduction(step):
            (x,) = (x for x in step.operands if isinstance(x, Value))
            return x.spec.shape, ("reduce", x.spec.shape, tuple(step.static["axis"]))
        return root.spec.shape, ("map", root.spec.shape)

    def reads(self, root: Value, step: Instruction, space: Shape) -> dict[Value, bool]:
        """What in memory a kernel for root reads, and whether each element at its own place."""
        found: dict[Value, bool] = {}
        whole = everywhere(space)
        start: list[tuple[Value, Places | None]] = [(root, whole)]
        if self.is_reduction(step):
            start = [(x, whole) for x in step.operands if isinstance(x, Value)]
        waiting, seen = start, set(start)
        while waiting:
            value, places = waiting.pop()
            made = self.maker.get(value)
            if made is None:
                continue
            if value is not root and self.is_in_memory(value):
                found[value] = found.get(value, True) and places == whole
                continue
            for item in self.behind(value, places):
                if item not in seen:
                    seen.add(item)
                    waiting.append(item)
        return found

    def behind(self, value: Value, places: Places | None) -> list[tuple[Value, Places | None]]:
        """The operands of what makes a lazy value, and which elements of them it reads."""
        step = cast(Instruction, self.maker[value])
        operands = [x for x in step.operands if isinstance(x, Value)]
        if is_elementwise(step.op):
            return [
                (x, places and stretched(places, value.spec.shape, x.spec.shape)) for x in operands
            ]
        if step.op is GATHER:
            if places is None:
                return [(x, None) for x in operands]
            return list(looked_up(step, operands[0].spec.shape, places))
        view = (views(step) or [])[step.outputs.index(value)]
        (base,) = operands
        return [(base, through(view, base.spec.shape, places) if places is not None else None)]

    def kernel(self, group: _Group) -> Instruction:
        """The instruction that computes a group's outputs from what lies in memory."""
        needed: set[Step] = set()
        roots = set(group.roots)
        waiting = list(group.roots)
        while waiting:
            value = waiting.pop()
            step = self.maker.get(value)
            if step is None or step in needed:
                continue
            if value in roots or not self.is_in_memory(value):
                needed.add(step)
                waiting += [x for x in step.operands if isinstance(x, Value)]
        order = sorted(needed, key=self.index.__getitem__)
        body = tuple(self.part(s, roots) for s in order if isinstance(s, Instruction))
        made = {value for step in body for value in step.outputs}
        inputs = dict.fromkeys(
            x for step in body for x in step.operands if isinstance(x, Value) and x not in made
        )
        op = Kernel(group.space, body, tuple(inputs), tuple(group.roots))
        return Instruction(op, tuple(inputs), {}, tuple(group.roots))

    def part(self, step: Instruction, roots: set[Value]) -> Instruction:
        """A step of a kernel's body; what it makes that lies in memory is read from there."""
        outputs = tuple(
            fresh(v) if v not in roots and self.is_in_memory(v) else v for v in step.outputs
        )
        return step if outputs == step.outputs else replace(step, outputs=outputs)

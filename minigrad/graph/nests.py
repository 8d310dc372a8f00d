"""Kernels as loops over a space: what each element is computed from, and where it lies.

A backend's emitter writes a nest as code; which axes one loop may run along is known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from minigrad.graph.fusing import Kernel
from minigrad.graph.indexing import GATHER
from minigrad.graph.ir import Instruction, Operand, Value
from minigrad.graph.planning import Copy, Location, Plan
from minigrad.graph.properties import (
    Places,
    View,
    as_view,
    everywhere,
    is_elementwise,
    looked_up,
    reducer,
    steps_by,
    stretched,
    through,
    views,
)


@dataclass(eq=False)
class Node:
    """A value that a kernel reads or computes; strides: per axis of the space, in elements."""

    place: Location | None = None
    strides: list[int] = field(default_factory=list)
    value: Value | None = None  # that lies there
    step: Instruction | None = None
    operands: tuple[Any, ...] = ()
    dtype: Any = None
    number: Operand = 0
    depth: int = 0  # the number of loops that it lies in
    lookups: tuple[tuple[Node, int], ...] = ()  # integers, and the stride of each, to go on by


@dataclass(eq=False)
class Write:
    """An output in one of the places where it belongs; folded: the reduction that makes it."""

    node: Node
    place: Location
    strides: list[int]
    folded: str | None = None
    total: Any = None  # the memory in which the reduction is gathered
    lookups: tuple[tuple[Node, int], ...] = ()
    adds: bool = False  # to what stands there, element after element


class Nest:
    """The loops of one kernel, and what is in them."""

    def __init__(self, plan: Plan, kernel: Instruction) -> None:
        self.plan, self.op = plan, cast(Kernel, kernel.op)
        self.maker = {value: step for step in self.op.body for value in step.outputs}
        self.known: dict[tuple[Value, Places], Node] = {}
        self.nodes: list[Node] = []
        self.writes: list[Write] = []
        self.folded: tuple[int, ...] = ()
        for value in kernel.outputs:
            self.root(value)

    # what is computed from what

    def root(self, value: Value) -> None:
        step = self.maker[value]
        name = reducer(step.op)
        whole = everywhere(self.op.space)
        if name is None:
            node, results = self.node(value, whole), list(range(len(self.op.space)))
        else:
            (operand,) = (x for x in step.operands if isinstance(x, Value))
            node = self.node(operand, whole)
            self.folded = step.static["axis"]
            kept = [a for a in range(len(self.op.space)) if a not in self.folded]
            results = list(range(len(self.op.space))) if step.static["keepdims"] else kept
        for place in (self.plan.home(value), *self.plan.stores.get(value, ())):
            strides = [0] * len(self.op.space)
            for axis, stride in zip(results, place.view.strides, strict=True):
                strides[axis] = 0 if axis in self.folded else stride
            self.writes.append(Write(node, place, strides, name))

    def node(self, value: Value, places: Places) -> Node:
        if (value, places) not in self.known:
            self.known[value, places] = self.made(value, places)
        return self.known[value, places]

    def made(self, value: Value, places: Places) -> Node:
        step = self.maker.get(value)
        if step is None:
            return self.read(value, self.plan.home(value), places)
        if is_elementwise(step.op):
            operands = tuple(
                self.node(x, stretched(places, value.spec.shape, x.spec.shape))
                if isinstance(x, Value)
                else x
                for x in step.operands
            )
            return self.add(Node(step=step, operands=operands, dtype=value.spec.dtype))
        if step.op is GATHER:
            x = cast(Value, step.operands[0])
            return self.node(*looked_up(step, x.spec.shape, places)[0])
        (base,) = (x for x in step.operands if isinstance(x, Value))
        at = step.outputs.index(value)
        if base not in self.maker:
            home = self.plan.home(base)
            shown = views(step, home.view)
            if shown is not None:
                return self.read(base, home.part(shown[at]), places)
        inner = through((views(step) or [])[at], base.spec.shape, places)
        if inner is None:
            raise NotImplementedError(f"{step.op.name} of what is not in memory")
        return self.node(base, inner)

    def read(self, value: Value, place: Location, places: Places) -> Node:
        view = as_view(places, place.view, self.op.space)
        strides, lookups = list(view.strides), self.lookups(places, place.view)
        made = Node(place.part(view), strides, value, dtype=value.spec.dtype, lookups=lookups)
        return self.add(made)

    def lookups(self, places: Places, of: View) -> tuple[tuple[Node, int], ...]:
        return tuple((self.node(*by), stride) for by, stride in steps_by(places, of))

    def add(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    # axes

    def accesses(self) -> Iterator[list[int]]:
        for node in self.nodes:
            if node.place is not None:
                yield node.strides
        for write in self.writes:
            yield write.strides

    def axes(self) -> list[list[int]]:
        """Groups of axes of the space that one loop runs along; those of size 1 are in none."""
        groups: list[list[int]] = []
        space = self.op.space
        for axis, n in enumerate(space):
            if n == 1:
                continue
            if groups:
                last = groups[-1][-1]
                alike = (last in self.folded) == (axis in self.folded)
                if alike and all(s[last] == s[axis] * n for s in self.accesses()):
                    groups[-1].append(axis)
                    continue
            groups.append([axis])
        return groups


class SumNest(Nest):
    """An accumulate as a nest over what is added, in its order, to what is zero before."""

    def __init__(self, plan: Plan, step: Instruction) -> None:
        self.plan, target = plan, plan.home(step.outputs[0])
        values = cast(Value, step.operands[0])
        self.op = Kernel(values.spec.shape, (), (), ())
        self.known, self.nodes, self.writes, self.folded, self.maker = {}, [], [], (), {}
        places = everywhere(values.spec.shape)
        node = self.read(values, plan.home(values), places)
        (_, found), *_ = looked_up(step, step.static["shape"], places)
        lookups = self.lookups(found, target.view)
        view = as_view(found, target.view, self.op.space)
        write = Write(node, target.part(view), list(view.strides), lookups=lookups, adds=True)
        self.writes.append(write)


class CopyNest(Nest):
    """A copy as a nest: one value, or number, to one place."""

    def __init__(self, plan: Plan, copy: Copy) -> None:
        self.plan = plan
        view = copy.target.view
        self.op = Kernel(view.shape, (), (), ())
        self.known, self.nodes, self.writes, self.folded, self.maker = {}, [], [], (), {}
        if isinstance(copy.source, Value):
            node = self.read(copy.source, plan.home(copy.source), everywhere(view.shape))
        else:
            node = self.add(Node(number=copy.source, dtype=copy.target.buffer.dtype))
        self.writes.append(Write(node, copy.target, list(view.strides)))

"""distribute: what needs no loop leaves it.

Products leave, as one product for all iterations, and sums over the first axis, which would tie
the rows of a batch together; elementwise work stays, to be fused with what reads it.

1. A sum over iterations, which is a carry that its iterations only add to, is made after the loop:
   of products it is one product of the operands' wholes.
2. A product or sum on no cycle of delay edges is made for all iterations at once. The loop is split
   there: what the product needs stands in a loop before, what needs the product in one after.
   Other steps stand as late as their readers allow; one that needs rows alone stands in each loop
   that reads it.

    >>> import minigrad as mg
    >>> from minigrad.graph import whole
    >>> def f(xs, W, V):
    ...     h, total = mg.zeros((2, 5)), mg.zeros((3, 5))
    ...     for x in xs:
    ...         h = mg.tanh(x @ W + h @ V)
    ...         total = total + x.T @ h
    ...     return total
    >>> graph = whole(mg.fold(f, mg.ones((4, 2, 3)), mg.ones((3, 5)), mg.ones((5, 5))))
    >>> print(graph)
    graph(
        %0: x0 (4, 2, 3) float32,
        %1: x1 (3, 5) float32,
        %2: x2 (5, 5) float32,
    ):
      for t in 4:
        %3 = %0[t]  (2, 3) float32
        %4 = delay 1 of %9, first const(0.0, (2, 5) float32)  (2, 5) float32
        %5 = delay 1 of %12, first const(0.0, (3, 5) float32)  (3, 5) float32
        %6 = matmul(%3, %1)  (2, 5) float32
        %7 = matmul(%4, %2)  (2, 5) float32
        %8 = add(%6, %7)  (2, 5) float32
        %9 = tanh(%8)  (2, 5) float32
        %10 = transpose(%3, axes=(1, 0))  (3, 2) float32
        %11 = matmul(%10, %9)  (3, 5) float32
        %12 = add(%5, %11)  (3, 5) float32
        %12 -> %13[3]
      return %13[3]
    >>> print(distribute(graph))
    graph(
        %0: x0 (4, 2, 3) float32,
        %1: x1 (3, 5) float32,
        %2: x2 (5, 5) float32,
    ):
      %3 = reshape(%0, shape=(8, 3))  (8, 3) float32
      %4 = matmul(%3, %1)  (8, 5) float32
      %5 = reshape(%4, shape=(4, 2, 5))  (4, 2, 5) float32
      for t in 4:
        %6 = %5[t]  (2, 5) float32
        %7 = delay 1 of %10, first const(0.0, (2, 5) float32)  (2, 5) float32
        %8 = matmul(%7, %2)  (2, 5) float32
        %9 = add(%6, %8)  (2, 5) float32
        %10 = tanh(%9)  (2, 5) float32
        %10 -> %11[t]  (4, 2, 5) float32
      %12 = transpose(%0, axes=(2, 0, 1))  (3, 4, 2) float32
      %13 = reshape(%12, shape=(3, 8))  (3, 8) float32
      %14 = reshape(%11, shape=(8, 5))  (8, 5) float32
      %15 = matmul(%13, %14)  (3, 5) float32
      return %15
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import cast

from minigrad.graph.accumulation import summed
from minigrad.graph.batching import batched, is_rowwise
from minigrad.graph.ir import (
    Carry,
    Collected,
    Graph,
    Indexed,
    Instruction,
    Loop,
    Sliced,
    Stacked,
    Step,
    Value,
)
from minigrad.graph.placement import Placement
from minigrad.graph.properties import PRODUCT, STACK
from minigrad.graph.rewriting import (
    INDEX,
    Builder,
    Names,
    Rows,
    first_row,
    lifted,
    live,
    renamed,
    renamed_loop,
    row_order,
)
from minigrad.graph.skeleton import fresh


def distribute(graph: Graph) -> Graph:
    """The graph with all products that need no loop outside of loops, inner loops first."""
    names: Names = {}
    steps = tuple(_steps(graph.steps, names))
    outputs = tuple(names.get(value, value) for value in graph.outputs)
    return Graph(graph.inputs, steps, outputs, graph.notes)


def _steps(steps: Iterable[Step], names: Names) -> list[Step]:
    found: list[Step] = []
    for step in steps:
        if isinstance(step, Instruction):
            found.append(renamed(step, names))
            continue
        body = tuple(_steps(step.body, names))
        before, loop = lifted(live(renamed_loop(step, names, body)))
        loop, after = summed(loop)
        found += [*before, *_Split(loop, names).steps()]
        found += [renamed(late, names) for late in after]
    return found


@dataclass(slots=True)
class _Part:
    """One of the loops that a loop becomes; known: what stands in it for the loop's values."""

    body: list[Step] = field(default_factory=list)
    carries: list[Carry] = field(default_factory=list)
    indexed: list[Indexed] = field(default_factory=list)
    collected: list[Collected] = field(default_factory=list)
    sliced: list[Sliced] = field(default_factory=list)
    stacked: list[Stacked] = field(default_factory=list)
    known: Names = field(default_factory=dict)


class _Split:
    """A loop taken apart, as the placement of its steps says."""

    def __init__(self, loop: Loop, names: Names) -> None:
        self.loop, self.names, self.order = loop, names, row_order(loop)
        self.rows = Rows(loop, self.keep)
        self.placed = Placement(loop, self.rows)
        self.maker, self.leaving = self.placed.maker, self.placed.leaving
        self.given = {i.parameter: i for i in loop.indexed}
        self.parts: defaultdict[int, _Part] = defaultdict(_Part)
        self.gaps: defaultdict[int, Builder] = defaultdict(Builder)

    def steps(self) -> list[Step]:
        """The loops and products in place of the loop."""
        if not self.leaving:
            return [self.loop] if self.loop.results else []
        self.rows.wholes.update(
            (s.result, s)
            for s in reversed(self.loop.stacked)
            if self.maker.get(s.result) not in self.leaving
        )
        for i in sorted(self.leaving, key=lambda i: (self.placed.level[i], i)):
            self.batch(i)
        for k in sorted({k for stages in self.placed.stages for k in stages}):
            self.fill(k)
        last = Builder()
        self.results(last)
        found: list[Step] = []
        for k in range(-1, max((*self.parts, *self.gaps)) + 1):
            found += self.finished(self.parts[k]) if k in self.parts else []
            found += self.gaps[k].steps
        return found + last.steps

    def keep(self, stacked: Stacked) -> None:
        self.parts[self.home(stacked.result)].stacked.append(stacked)

    def home(self, value: Value) -> int:
        """The part that makes a value for others."""
        stages = self.placed.stages[self.maker[value]] if value in self.maker else ()
        return min(stages or self.parts or (0,))

    def batch(self, i: int) -> None:
        """A product, a sum of rows, a draw or a gather for all iterations."""
        step, out = cast(Instruction, self.placed.nodes[i]), self.gaps[self.placed.level[i]]
        if is_rowwise(step, self.rows):
            self.rows.known[step.outputs[0]] = batched(step, self.rows, out)
            return
        if step.op is not PRODUCT:
            whole = self.rows.of(cast(Value, step.operands[0]), out)
            axes = tuple(axis + 1 for axis in step.static["axis"])
            made = out.emit(step.op, whole, axis=axes, keepdims=step.static["keepdims"])
            self.rows.known[step.outputs[0]] = made
            return
        a, b = (self.rows.of(x, out) for x in step.operands)  # type: ignore[arg-type]
        left, right = (self.rows.varies(x) for x in step.operands)
        rank = len(b.spec.shape) - right
        if left and not right and rank == 2 and len(a.spec.shape) > 2:
            *lead, inner = a.spec.shape
            found = out.emit(PRODUCT, out.reshaped(a, prod(lead), inner), b)
            found = out.reshaped(found, *lead, b.spec.shape[1])
        elif right and not left and rank == 1:
            found = out.emit(PRODUCT, b, out.transposed(a, (1, 0)))
        else:
            found = out.emit(PRODUCT, a, b)
        self.rows.known[step.outputs[0]] = found

    def local(self, value: Value, k: int) -> Value:
        """What stands for a value in part k."""
        part = self.parts[k]
        if not self.rows.varies(value) or value in part.known:
            return part.known.get(value, value)
        new = part.known[value] = fresh(value)
        if value in self.rows.known and value in self.maker:
            row = first_row(self.loop.trips, self.order)
            part.sliced.append(Sliced(new, self.rows.known[value], row, self.order))
        elif value in self.maker:
            made = self.rows.stacked(value)
            part.sliced.append(Sliced(new, made.whole, made.start, made.step))
        elif value in self.rows.sliced:
            part.sliced.append(replace(self.rows.sliced[value], parameter=new))
        else:
            part.indexed.append(replace(self.given[value], parameter=new))
        return new

    def fill(self, k: int) -> None:
        """The body and the carries of part k."""
        part = self.parts[k]
        placed = zip(self.placed.nodes, self.placed.stages, strict=True)
        here = [node for node, stages in placed if k in stages]
        carries = [node for node in here if isinstance(node, Carry)]
        part.known.update({c.parameter: c.parameter for c in carries})
        for node in here:
            if isinstance(node, Carry):
                continue
            operands = dict.fromkeys(x for x in node.operands if isinstance(x, Value))
            new = renamed(node, {x: self.local(x, k) for x in operands})
            made = [v if self.home(v) == k else fresh(v) for v in node.outputs]
            if isinstance(new, Instruction):
                new = replace(new, outputs=tuple(made))
            part.known.update(zip(node.outputs, made, strict=True))
            part.body.append(new)
        part.carries += [replace(c, result=self.local(c.result, k)) for c in carries]

    def results(self, out: Builder) -> None:
        """What is seen outside, where it is made."""
        trips, order = self.loop.trips, self.order
        for collected in self.loop.collected:
            if self.maker.get(collected.result) in self.leaving:
                whole = self.rows.known[collected.result]
                for t, value in collected.outputs.items():
                    row = first_row(trips, order) + order * t
                    out.emit(INDEX, whole, into=value, template=(row,))
            else:
                k = self.home(collected.result)
                result = self.local(collected.result, k)
                self.parts[k].collected.append(replace(collected, result=result))
        for stacked in self.loop.stacked:
            if self.maker.get(stacked.result) in self.leaving:
                whole = self.rows.known[stacked.result]
                if stacked.step != order:
                    whole = out.rows(whole, trips - 1, -1, trips)
                if stacked.initial:
                    first = out.emit(STACK, *stacked.initial[:: stacked.step], axis=0)
                    whole = out.joined([first, whole][:: stacked.step])
                self.names[stacked.whole] = whole
            else:
                k = self.home(stacked.result)
                result = self.local(stacked.result, k)
                self.parts[k].stacked.append(replace(stacked, result=result))

    def finished(self, part: _Part) -> list[Step]:
        loop = Loop(
            self.loop.trips,
            tuple(part.body),
            tuple(part.carries),
            tuple(part.indexed),
            tuple(part.collected),
            tuple(part.sliced),
            tuple(part.stacked),
            self.loop.counter,
        )
        return [loop] if loop.results else []

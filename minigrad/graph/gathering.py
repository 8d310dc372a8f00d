"""whole: arrays of rows instead of a value for each iteration.

A value has a place if it is a row of something: output i of an `unstack` is row i of what is taken
apart; output t of a loop is row t of what that result makes, and the initial values of a carry of
the result are its rows before 0. Items of a loop at places that follow one another become slices of
the whole, and what made them keeps the whole; `stack` and `concatenate` of such values become
slices too, other items are stacked before the loop. A loop that reads most of its inputs backward
keeps its rows backward, so that what it returns stands in natural order.

    >>> import minigrad as mg
    >>> def f(xs):
    ...     h, hs = mg.zeros(3), []
    ...     for x in xs:
    ...         h = mg.tanh(h + x)
    ...         hs.append(h)
    ...     return mg.stack(hs)
    >>> print(mg.fold(f, mg.ones((4, 3))))
    graph(
        %0: x0 (4, 3) float32,
    ):
      %1 = unstack(%0, axis=0)  4 x (3,) float32
      for t in 4:
        %2 = (%1[0:4])[t]  (3,) float32
        %3 = delay 1 of %5, first const(0.0, (3,) float32)  (3,) float32
        %4 = add(%3, %2)  (3,) float32
        %5 = tanh(%4)  (3,) float32
        %5 -> %6[0:4]
      %7 = stack(%6[0:4], axis=0)  (4, 3) float32
      return %7
    >>> print(whole(mg.fold(f, mg.ones((4, 3)))))
    graph(
        %0: x0 (4, 3) float32,
    ):
      for t in 4:
        %1 = %0[t]  (3,) float32
        %2 = delay 1 of %4, first const(0.0, (3,) float32)  (3,) float32
        %3 = add(%2, %1)  (3,) float32
        %4 = tanh(%3)  (3,) float32
        %4 -> %5[t]  (4, 3) float32
      return %5
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from minigrad.graph.ir import (
    Graph,
    Indexed,
    Instruction,
    Loop,
    Operand,
    Sliced,
    Stacked,
    Step,
    Value,
)
from minigrad.graph.places import Group, Piece, Plan, Run
from minigrad.graph.properties import STACK
from minigrad.graph.rewriting import INDEX, Builder, Names, first_row, renamed, renamed_loop, tall
from minigrad.op import bare
from minigrad.tensor import make


def whole(graph: Graph) -> Graph:
    """The graph with wholes in place of the values of single iterations, wherever it can be."""
    plan = Plan()
    plan.scan(graph.steps)
    plan.plain.update(graph.outputs)
    writer = _Writer(plan)
    steps = writer.written(graph.steps)
    outputs = tuple(writer.names.get(value, value) for value in graph.outputs)
    return Graph(graph.inputs, tuple(steps), outputs, graph.notes)


class _Writer:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.names: Names = {}

    def written(self, steps: Iterable[Step]) -> list[Step]:
        out = Builder()
        for step in steps:
            if isinstance(step, Loop):
                self.loop(step, out)
                continue
            new = renamed(step, self.names)
            pieces = self.plan.pieces.get(step, [])
            group = self.plan.groups.get(step)
            if group and group.wanted:
                self.unstack(step, cast(Value, new.operands[0]), group, out)
            elif any(isinstance(piece, Run) for piece in pieces):
                self.join(step, pieces, out)
            else:
                out.steps.append(new)
        return out.steps

    def unstack(self, step: Instruction, x: Value, group: Group, out: Builder) -> None:
        axis = step.static["axis"]
        rest = (a for a in range(len(x.spec.shape)) if a != axis)
        group.whole = out.transposed(x, (axis, *rest))
        for i, value in enumerate(step.outputs):
            if value in self.plan.plain:
                template = (*(slice(None),) * axis, i)
                out.emit(INDEX, x, into=value, template=template)

    def join(self, step: Instruction, pieces: list[Piece], out: Builder) -> None:
        """A stack or a concatenation, by runs."""
        [value] = step.outputs
        axis = step.static["axis"]
        if step.op is STACK:
            found = self.stacked(pieces, out)
            place = list(range(1, len(found.spec.shape)))
            place.insert(axis, 0)
            found = out.transposed(found, tuple(place))
        else:
            found = out.joined([self.flat(piece, out) for piece in pieces])
        self.names[value] = found

    def flat(self, piece: Piece, out: Builder) -> Value:
        if isinstance(piece, Run):
            rows = self.run(piece, out)
            count, first, *rest = rows.spec.shape
            return out.reshaped(rows, count * first, *rest)
        return self.names.get(cast(Value, piece), cast(Value, piece))

    def run(self, run: Run, out: Builder) -> Value:
        group = run.group
        start = group.start + group.step * run.first
        return out.rows(group.whole, start, group.step * run.step, run.length)

    def stacked(self, pieces: list[Piece], out: Builder) -> Value:
        """One whole of all pieces' rows."""
        parts: list[Value] = []
        single: list[Operand] = []
        for piece in (*pieces, None):
            if piece is not None and not isinstance(piece, Run):
                single.append(self.names.get(piece, piece) if isinstance(piece, Value) else piece)
                continue
            if single:
                parts.append(out.emit(STACK, *single, axis=0))
                single = []
            if piece is not None:
                parts.append(self.run(piece, out))
        return out.joined(parts)

    def loop(self, loop: Loop, out: Builder) -> None:
        order, trips = self.plan.order[loop], loop.trips
        indexed, sliced, stacked, collected = [], [], list(loop.stacked), []
        for given in loop.indexed:
            found = self.sliced(given, order, out)
            indexed += [] if found else [given]
            sliced += [found] if found else []
        body = tuple(self.written(loop.body))
        after = Builder()
        for kept in loop.collected:
            group = self.plan.groups[kept]
            plain = {t: v for t, v in kept.outputs.items() if v in self.plan.plain}
            if not group.wanted and plain.keys() <= {trips - 1}:
                collected += [replace(kept, outputs=plain)] if plain else []
                continue
            group.whole = tall(trips - group.first, kept.result.spec)
            group.start = first_row(trips, order) - (group.first if order == 1 else 0)
            initial = tuple(group.rows[row] for row in range(group.first, 0))
            stacked.append(
                Stacked(kept.result, group.whole, group.start, order, initial)  # type: ignore[arg-type]
            )
            for t, value in plain.items():
                after.emit(INDEX, group.whole, into=value, template=(group.start + order * t,))
        changed = replace(
            loop, indexed=tuple(indexed), collected=tuple(collected), stacked=tuple(stacked)
        )
        changed = renamed_loop(changed, self.names, body)
        changed.sliced += tuple(sliced)
        out.steps += [changed, *after.steps]

    def sliced(self, given: Indexed, order: int, out: Builder) -> Sliced | None:
        """The items as rows of one whole, if they are no numbers."""
        pieces = self.plan.pieces[given]
        first = pieces[0]
        if given in self.plan.direct and isinstance(first, Run):
            start, step = first.group.start, first.group.step
            return Sliced(
                given.parameter,
                first.group.whole,
                start + step * first.first,
                step * first.step,
            )
        if not all(isinstance(x, Value) for x in given.items):
            return None
        found = _constant(given.items[::order]) or self.stacked(pieces, out)
        return Sliced(given.parameter, found, first_row(len(given.items), order), order)


def _constant(items: tuple[Operand, ...]) -> Value | None:
    """One constant of these constants, on their backend."""
    tensors = [x.constant for x in items if isinstance(x, Value) and x.constant is not None]
    if len(tensors) < len(items):
        return None
    backend = tensors[0].backend
    value = tall(len(items), items[0].spec)  # type: ignore[union-attr]
    value.constant = make(backend.xp.stack([bare(x) for x in tensors]), backend)
    return value

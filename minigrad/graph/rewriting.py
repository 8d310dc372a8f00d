"""What passes write instructions with: outputs by shape rules, rows of wholes, other names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from minigrad.graph.ir import (
    Carry,
    Instruction,
    Loop,
    Operand,
    Stacked,
    Step,
    Value,
    spec_of,
)
from minigrad.graph.properties import CONCATENATE, counters
from minigrad.op import REGISTRY, Op
from minigrad.spec import Spec

ADD, INDEX, MULTIPLY, RESHAPE, SUM, TRANSPOSE, UNSTACK = (
    REGISTRY[name]
    for name in ("add", "index", "multiply", "reshape", "sum", "transpose", "unstack")
)
VIEWS = (RESHAPE, TRANSPOSE)
View = tuple[Op, tuple[int, ...]]  # axes of a transpose, shape of a reshape
Names = dict[Value, Value]  # what stands for a value from now on


class Builder:
    """A growing list of steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def emit(self, op: Op, *operands: Operand, into: Value | None = None, **static: Any) -> Value:
        """The op's only output for these operands, perhaps a value that is there already."""
        value = into or Value(op.shape(*map(spec_of, operands), **static))
        self.steps.append(Instruction(op, operands, static, (value,)))
        return value

    def reshaped(self, value: Value, *shape: int) -> Value:
        """A value in another shape, no instruction where it has it."""
        return value if value.spec.shape == shape else self.emit(RESHAPE, value, shape=shape)

    def transposed(self, value: Value, axes: tuple[int, ...]) -> Value:
        """A value with its axes permuted, no instruction where they stay."""
        same = axes == tuple(range(len(axes)))
        return value if same else self.emit(TRANSPOSE, value, axes=axes)

    def viewed(self, value: Value, views: list[View]) -> Value:
        """A value seen through views, neighbours of one kind as one."""
        merged: list[View] = []
        for op, sizes in views:
            if merged and merged[-1][0] is op:
                before = merged.pop()[1]
                sizes = tuple(before[a] for a in sizes) if op is TRANSPOSE else sizes
            merged.append((op, sizes))
        for op, sizes in merged:
            if op is TRANSPOSE:
                value = self.transposed(value, sizes)
            else:
                value = self.reshaped(value, *sizes)
        return value

    def rows(self, whole: Value, start: int, step: int, count: int) -> Value:
        """whole[start], whole[start + step], ... as one value, which may be the whole itself."""
        if (start, step, count) == (0, 1, whole.spec.shape[0]):
            return whole
        stop: int | None = start + step * count
        stop = stop if stop is None or stop >= 0 else None
        part = slice(start, stop) if step == 1 else slice(start, stop, step)
        return self.emit(INDEX, whole, template=(part,))

    def joined(self, parts: list[Value]) -> Value:
        """Wholes one after another."""
        return parts[0] if len(parts) == 1 else self.emit(CONCATENATE, *parts, axis=0)


def tall(count: int, row: Spec) -> Value:
    """A new value of so many rows."""
    return Value(Spec((count, *row.shape), row.dtype))


def first_row(trips: int, order: int) -> int:
    """The row of iteration 0 where rows stand in the order of iterations, 1, or backward, -1."""
    return 0 if order == 1 else trips - 1


def renamed(step: Step, names: Mapping[Any, Value]) -> Step:
    """The step on what stands for its operands; a loop with all that is in it."""
    if isinstance(step, Instruction):
        return replace(step, operands=tuple(names.get(x, x) for x in step.operands))
    return renamed_loop(step, names, tuple(renamed(inner, names) for inner in step.body))


def renamed_loop(loop: Loop, names: Mapping[Any, Value], body: tuple[Step, ...]) -> Loop:
    """The loop around another body, its operands and results by their new names."""

    def new(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(names.get(x, x) for x in values)

    def result(x: Any) -> Value:
        return names.get(x.result, x.result)

    return replace(
        loop,
        body=body,
        carries=tuple(
            replace(c, result=result(c), initial=new(c.initial)) for c in loop.carries
        ),
        indexed=tuple(replace(i, items=new(i.items)) for i in loop.indexed),
        collected=tuple(replace(c, result=result(c)) for c in loop.collected),
        sliced=tuple(replace(s, whole=names.get(s.whole, s.whole)) for s in loop.sliced),
        stacked=tuple(
            replace(s, result=result(s), initial=new(s.initial)) for s in loop.stacked
        ),
    )  # fmt: skip


def row_order(loop: Loop) -> int:
    """1 if a loop reads and keeps rows in the order of its iterations, -1 if backward."""
    steps = [s.step for s in loop.sliced] + [s.step for s in loop.stacked]
    return -1 if sum(steps) < 0 else 1


class Rows:
    """What changes in a loop, as wholes in the loop's row order; `keep` adds one to the loop."""

    def __init__(self, loop: Loop, keep: Callable[[Stacked], None]) -> None:
        self.keep, self.trips, self.order = keep, loop.trips, row_order(loop)
        self.maker: dict[Any, Step] = {v: step for step in loop.body for v in step.outputs}
        self.sliced = {s.parameter: s for s in loop.sliced}
        self.parameters = set(loop.parameters)
        self.carries = {c.parameter: c for c in loop.carries}
        self.known: Names = {}
        self.wholes: dict[Value, Stacked] = {}

    def varies(self, x: Operand) -> bool:
        """Whether an operand is no invariant of the loop."""
        return x in self.maker or x in self.parameters

    def base(self, x: Any) -> Any:
        """What a view shows, x itself if it is none."""
        while isinstance(step := self.maker.get(x), Instruction) and step.op in VIEWS:
            [x] = step.operands
        return x

    def base_maker(self, x: Operand) -> Step | None:
        """The step of the body that makes what a view shows."""
        return self.maker.get(self.base(x))

    def stacked(self, value: Value) -> Stacked:
        """Where the rows of a value are that the loop makes; a carry's are its result's, later."""
        if value not in self.wholes:
            carry = self.carries.get(value)
            if carry is None or not self._shift(carry):
                self._keep(value, ())
        return self.wholes[value]

    def _shift(self, carry: Carry) -> bool:
        """Let a carry's rows be those of its result, if the loop makes that."""
        result = carry.result
        initial = tuple(x for x in carry.initial if isinstance(x, Value))
        if len(initial) < carry.delay or result not in self.maker:
            return False
        if result not in self.wholes and result not in self.known:
            self._keep(result, initial)
        kept = self.wholes.get(result)
        if kept is None or kept.initial != initial:
            return False
        start = kept.start - carry.delay * kept.step
        self.wholes[carry.parameter] = Stacked(carry.parameter, kept.whole, start, kept.step)
        return True

    def _keep(self, value: Value, initial: tuple[Value, ...]) -> None:
        start = first_row(self.trips, self.order) + (len(initial) if self.order == 1 else 0)
        whole = tall(self.trips + len(initial), value.spec)
        self.wholes[value] = Stacked(value, whole, start, self.order, initial)
        self.keep(self.wholes[value])

    def of(self, value: Value, out: Builder, *views: View) -> Value:
        """The whole of a value, an invariant as it is; seen through views of iterations' axes."""
        found = list(views)
        while isinstance(step := self.maker.get(value), Instruction) and step.op in VIEWS:
            if step.op is RESHAPE:
                found.insert(0, (RESHAPE, (self.trips, *value.spec.shape)))
            else:
                found.insert(0, (TRANSPOSE, (0, *(a + 1 for a in step.static["axes"]))))
            value = step.operands[0]  # type: ignore[assignment]
        if self.varies(value) and value not in self.known:
            kept = self.sliced.get(value) or self.stacked(value)
            start, step_ = kept.start, kept.step
            if self.order < 0:
                start, step_ = start + step_ * (self.trips - 1), -step_
            self.known[value] = out.rows(kept.whole, start, step_, self.trips)
        return out.viewed(self.known.get(value, value), found)


def lifted(loop: Loop) -> tuple[list[Step], Loop]:
    """The instructions of a body that do the same in all iterations, and the loop without them."""
    changing: set[Any] = set(loop.parameters)
    before: list[Step] = []
    body: list[Step] = []
    for step in loop.body:
        if (
            isinstance(step, Loop)
            or not changing.isdisjoint(step.operands)
            or loop.counter in counters(step.static)
        ):  # fmt: skip
            body.append(step)
            changing.update(step.outputs)
        else:
            before.append(step)
    return before, replace(loop, body=tuple(body)) if before else loop


def live(loop: Loop) -> Loop:
    """The loop with what its results outside need."""
    maker: dict[Any, Step] = {v: step for step in loop.body for v in step.outputs}
    carried: dict[Any, Value] = {c.parameter: c.result for c in loop.carries}
    waiting: list[Any] = [x.result for kind in (loop.collected, loop.stacked) for x in kind]
    needed: set[Any] = set()
    kept: set[Step] = set()
    while waiting:
        x = waiting.pop()
        if x in needed:
            continue
        needed.add(x)
        if x in carried:
            waiting.append(carried[x])
        step = maker.get(x)
        if step and step not in kept:
            kept.add(step)
            waiting += step.operands
    return replace(
        loop,
        body=tuple(step for step in loop.body if step in kept),
        carries=tuple(c for c in loop.carries if c.parameter in needed),
        indexed=tuple(i for i in loop.indexed if i.parameter in needed),
        sliced=tuple(s for s in loop.sliced if s.parameter in needed),
    )

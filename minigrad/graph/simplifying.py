"""simplify: the same outputs from fewer steps, none of which runs more often than it has to.

Steps that no output needs go. Of equal steps one stays. A step within a loop that depends on
nothing of the iteration runs once, before the loop. What is made of constants, and is no
larger, is a constant. A step that gives its operand back, or undoes the one before it, is that
operand; which steps do is found by running them on samples. `-0.0 + 0` is the one case in which the
sign of a zero differs. Only a step with one operand that is no number is looked through.

>>> x = mg.Tensor([3.0, 4.0])
>>> def f(x):
...     y = mg.tanh(x) * mg.tanh(x)
...     unused = mg.exp(y)
...     for _ in range(3):
...         y = mg.negative(mg.negative(y)) + mg.sin(x) * 1
...     return y
>>> print(mg.fold(f, x))
graph(
    %0: x0 (2,) float32,
):
  %1 = tanh(%0)  (2,) float32
  %2 = tanh(%0)  (2,) float32
  %3 = multiply(%1, %2)  (2,) float32
  %4 = exp(%3)  (2,) float32
  for t in 3:
    %5 = delay 1 of %10, first %3  (2,) float32
    %6 = negative(%5)  (2,) float32
    %7 = negative(%6)  (2,) float32
    %8 = sin(%0)  (2,) float32
    %9 = multiply(%8, 1)  (2,) float32
    %10 = add(%7, %9)  (2,) float32
    %10 -> %11[2]
  return %11[2]
>>> print(simplify(mg.fold(f, x)))
graph(
    %0: x0 (2,) float32,
):
  %1 = tanh(%0)  (2,) float32
  %2 = multiply(%1, %1)  (2,) float32
  %3 = sin(%0)  (2,) float32
  for t in 3:
    %4 = delay 1 of %5, first %2  (2,) float32
    %5 = add(%4, %3)  (2,) float32
    %5 -> %6[2]
  return %6[2]
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minigrad.errors import MinigradError
from minigrad.graph.ir import (
    Carry,
    Collected,
    Graph,
    Indexed,
    Instruction,
    Loop,
    Operand,
    Step,
    Value,
    is_number,
    key_of,
    same,
)
from minigrad.graph.properties import contiguous, counters, is_elementwise, views
from minigrad.graph.skeleton import hashable, skeleton
from minigrad.op import execute
from minigrad.spec import Spec
from minigrad.tensor import Shape, Tensor

SMALL = 4096  # elements at most of a result that becomes a constant
SAMPLES = 64  # how many numbers at least show that a step gives its operand back


def simplify(graph: Graph) -> Graph:
    """The graph without steps that need not run; what is assigned or returned stays equal."""
    return sweep(_rewritten(graph, True))


def share(graph: Graph) -> Graph:
    """The graph with one step in place of equal ones, and invariant steps before their loop."""
    return _rewritten(graph, False)


def _rewritten(graph: Graph, algebra: bool) -> Graph:
    rewriter = _Rewriter(algebra)
    for step in graph.steps:
        rewriter.step(step)
    outputs = tuple(rewriter.known.get(v, v) for v in graph.outputs)
    return replace(graph, steps=tuple(rewriter.levels[0].steps), outputs=outputs)


def _elements(values: Iterable[Value]) -> int:
    return sum(math.prod(v.spec.shape) for v in values)


def _number(x: Operand) -> Hashable:
    return key_of(x) if is_number(x) else None


@dataclass(slots=True)
class _Level:
    """What has been written so far of the whole graph or of a loop's body."""

    steps: list[Step] = field(default_factory=list)
    seen: dict[Hashable, Instruction] = field(default_factory=dict)


class _Rewriter:
    """Writes steps anew, in order, each into the outermost level that knows its operands."""

    def __init__(self, algebra: bool) -> None:
        self.algebra = algebra
        self.levels = [_Level()]
        self.known: dict[Any, Any] = {}  # what stands now for a value that was there before
        self.depth: dict[Any, int] = {}  # of what is made within a loop
        self.maker: dict[Operand, Instruction] = {}
        self.answers: dict[Hashable, bool] = {}

    def operands(self, operands: Iterable[Operand]) -> tuple[Operand, ...]:
        return tuple([self.known.get(x, x) for x in operands])

    def step(self, step: Step) -> None:
        if isinstance(step, Loop):
            self.loop(step)
            return
        given = self.operands(step.operands)
        step = step if given == step.operands else replace(step, operands=given)
        stands = self.simpler(step) if self.algebra else None
        if stands is None:
            stands = self.written(step)
        self.known.update(zip(step.outputs, stands, strict=True))

    def written(self, step: Instruction) -> tuple[Value, ...]:
        """The outputs of the step, or of an equal one that stands there already."""
        needs = (*step.operands, *counters(step.static))
        level = self.levels[depth := max([self.depth.get(x, 0) for x in needs], default=0)]
        key, operands, integers = skeleton(step)
        twin = level.seen.setdefault((key, *map(key_of, operands), integers), step)
        if twin is step:
            level.steps.append(step)
            self.maker.update(dict.fromkeys(step.outputs, step))
            self.depth.update(dict.fromkeys(step.outputs, depth))
        return twin.outputs

    def simpler(self, step: Instruction) -> tuple[Operand, ...] | None:
        """What the outputs are without this step, if that is known."""
        values = [x for x in step.operands if isinstance(x, Value)]
        if all(x.constant is not None for x in values) and not counters(step.static):
            if _elements(step.outputs) > min(SMALL, _elements(values)):
                return None
            given = [x.constant if isinstance(x, Value) else x for x in step.operands]
            made = execute(step.op, given, step.static)
            made = made if step.op.outputs else (made,)
            return tuple(Value(v.spec, v.name, y) for v, y in zip(step.outputs, made, strict=True))
        chain: list[Instruction] = []
        before: Instruction | None = step
        while before is not None and len(chain) < 2:
            values = [x for x in before.operands if isinstance(x, Value)]
            if len(values) > 1 or before.op.outputs or counters(before.static):
                return None
            chain.insert(0, before)
            if values[0].spec == step.outputs[0].spec and self.gives_back(values[0].spec, chain):
                return (values[0],)
            before = self.maker.get(values[0])
        return None

    def gives_back(self, spec: Spec, chain: Sequence[Instruction]) -> bool:
        """Whether steps, one after the other, give back whatever there is of a kind."""
        keys = [(skeleton(s).key, hashable(s.static), *map(_number, s.operands)) for s in chain]
        key = (tuple(spec.shape), spec.dtype.str, *keys)
        if key not in self.answers:
            self.answers[key] = _gives_back(spec, chain)
        return self.answers[key]

    def loop(self, loop: Loop) -> None:
        """A loop, but for inputs that are the same thing in all iterations, or twice there."""
        depth = len(self.levels)
        self.levels.append(_Level())
        self.depth[loop.counter] = depth
        self.depth.update(dict.fromkeys(loop.parameters, depth))
        indexed: dict[Hashable, Indexed] = {}
        for i in loop.indexed:
            items = self.operands(i.items)
            first = indexed.setdefault(tuple(map(key_of, items)), Indexed(i.parameter, items))
            self.known[i.parameter] = first.parameter
            if all(same(x, items[0]) for x in items):
                self.known[i.parameter] = items[0]
        starts = [self.operands(carry.initial) for carry in loop.carries]
        for step in loop.body:
            self.step(step)
        level = self.levels.pop()
        items_of = {i.parameter: i.items for i in indexed.values()}
        kept: dict[Operand, Collected] = {}
        for c in loop.collected:
            result = self.known.get(c.result, c.result)
            if result in items_of or self.depth.get(result, 0) < depth:
                items = items_of.get(result, (result,) * loop.trips)
                self.known.update({v: items[t] for t, v in c.outputs.items()})
                continue
            outputs = kept.setdefault(result, Collected(result, {})).outputs
            for t, value in c.outputs.items():
                self.known[value] = outputs.setdefault(t, value)
                self.depth[value] = depth - 1
        carries = [
            Carry(c.parameter, self.known.get(c.result, c.result), start)
            for c, start in zip(loop.carries, starts, strict=True)
        ]
        new = replace(
            loop,
            body=tuple(level.steps),
            carries=tuple(carries),
            indexed=tuple(indexed.values()),
            collected=tuple(kept.values()),
            sliced=tuple(replace(s, whole=self.known.get(s.whole, s.whole)) for s in loop.sliced),
            stacked=tuple(
                replace(
                    s,
                    result=self.known.get(s.result, s.result),
                    initial=tuple(self.known.get(x, x) for x in s.initial),
                )
                for s in loop.stacked
            ),
        )
        self.depth.update(dict.fromkeys((s.whole for s in new.stacked), depth - 1))
        self.levels[-1].steps.append(new)


def _gives_back(spec: Spec, chain: Sequence[Instruction]) -> bool:
    """Whether steps, one after the other, give back what they are given."""
    if all(is_elementwise(step.op) for step in chain):
        return _same_after((SAMPLES,), np.dtype(spec.dtype), chain)
    whole = shown = contiguous(spec.shape)
    for step in chain:
        found = views(step, shown)
        if found is None or len(found) != 1:  # a copy, perhaps of nothing changed
            return math.prod(spec.shape) <= SMALL and _same_after(spec.shape, spec.dtype, chain)
        shown = found[0]
    pairs = zip(whole.shape, whole.strides, shown.strides, strict=False)
    return shown.shape == whole.shape and all(n == 1 or a == b for n, a, b in pairs)


def _same_after(shape: Shape, dtype: np.dtype[Any], chain: Sequence[Instruction]) -> bool:
    size = math.prod(shape)
    for turn in range(turns(size)):
        x = sample(Spec(shape, dtype), turn)
        y = computed(functools.partial(functools.reduce, _applied, chain, x))
        if y is None or y.dtype != dtype or not np.array_equal(x.numpy(), y, equal_nan=True):
            return False
    return size > 0


def sample(spec: Spec, turn: int = 0) -> Tensor:
    """Numbers of a shape and dtype; together, `turns` of them hold the smallest, inf, nan, ..."""
    size, dtype = math.prod(spec.shape), np.dtype(spec.dtype)
    numbers: Any = np.random.default_rng(turn * size // SAMPLES).normal(size=max(size, SAMPLES))
    if dtype.kind == "f":
        kind = np.finfo(dtype)
        ends = [0, kind.smallest_subnormal, kind.tiny, kind.eps, 1, 1 / kind.eps, kind.max, np.inf]
        special = np.array([*ends, *np.negative(ends), np.nan], dtype)
    elif dtype.kind == "b":
        special = np.array([False, True])
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        ends = [least, least + 1, most]  # abs gives back the least of a signed dtype
        special = np.array([*ends, 0, 1, 2], dtype)
    numbers = (9 * numbers if dtype.kind == "f" else numbers > 0).astype(dtype)
    numbers[: len(special)] = special
    numbers = np.random.default_rng(turn * size // SAMPLES).permutation(numbers)
    part = numbers[(turn * size + np.arange(size)) % len(numbers)]
    return Tensor(part.reshape(spec.shape), backend="numpy")


def turns(size: int) -> int:
    """How many samples of so many numbers hold all that a sample should."""
    return -(-SAMPLES // size) if size else 0


def computed(f: Callable[[], Any]) -> np.ndarray | None:
    """What f gives for samples, or None if an op in it does not take such values."""
    with np.errstate(all="ignore"):
        try:
            return np.asarray(f().numpy())
        except (MinigradError, ValueError):
            return None


def _applied(x: Tensor, step: Instruction) -> Tensor:
    given = [x if isinstance(of, Value) else of for of in step.operands]
    y: Tensor = execute(step.op, given, step.static)
    return y


# --- what nothing needs --------------------------------------------------------------------------


def sweep(graph: Graph) -> Graph:
    """The graph without the steps, carries, items and collected outputs that no output needs."""
    return replace(graph, steps=needed_of(graph.steps, set(graph.outputs)))


def needed_of(steps: Sequence[Step], needed: set[Value]) -> tuple[Step, ...]:
    """The steps that make what is needed; what they need is added to it."""
    kept = []
    for step in reversed(steps):
        if needed.isdisjoint(step.outputs):
            continue
        if isinstance(step, Loop):
            step = _asked_of(step, needed)
        kept.append(step)
        needed.update(x for x in step.operands if isinstance(x, Value))
    return tuple(kept[::-1])


def _asked_of(loop: Loop, needed: set[Value]) -> Loop:
    """A loop that gives no more than what is needed of its outputs."""
    collected = []
    for c in loop.collected:
        outputs = {t: v for t, v in c.outputs.items() if v in needed}
        collected += [replace(c, outputs=outputs)] if outputs else []
    stacked = tuple(s for s in loop.stacked if s.whole in needed)
    body = needed_of(loop.body, set(loop.results))
    maker = {v: step for step in body for v in step.outputs}
    back = {c.parameter: c.result for c in loop.carries}
    given = {c.result for c in collected} | {s.result for s in stacked}
    live: set[Operand] = set(given)
    waiting = list(live)
    while waiting:
        x = waiting.pop()
        found = [back[x]] if x in back else maker[x].operands if x in maker else ()
        new = set(found) - live
        live |= new
        waiting += new
    carries = tuple(c for c in loop.carries if c.parameter in live)
    return replace(
        loop,
        body=needed_of(body, given | {c.result for c in carries}),
        carries=carries,
        indexed=tuple(i for i in loop.indexed if i.parameter in live),
        sliced=tuple(s for s in loop.sliced if s.parameter in live),
        collected=tuple(collected),
        stacked=stacked,
    )

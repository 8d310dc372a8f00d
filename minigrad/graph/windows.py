"""Windows: iterations of a loop that stand around it, step by step, in the place of its own.

A body is matched with the steps around in two ways: from results up to what they come from, where
what is still zero may be missing, and from operands down to what is made of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import is_
from typing import Any

import numpy as np

from minigrad.backend import Backend
from minigrad.graph.ir import (
    Affine,
    Carry,
    Collected,
    Counter,
    Instruction,
    Loop,
    Operand,
    Step,
    Value,
    at_iteration,
    is_number,
    key_of,
    map_static,
    same,
)
from minigrad.graph.simplifying import computed, sample, turns
from minigrad.graph.skeleton import Skeleton, fresh, skeleton
from minigrad.op import NOTHING, REGISTRY, Static, execute
from minigrad.ops.create import full
from minigrad.tensor import Tensor

ADD = REGISTRY["add"]
Key = tuple[Hashable, ...]


class Known:
    """What a step does and makes, what of it are items of one thing: outputs, those of a loop."""

    def __init__(self, step: Step) -> None:
        self.skeleton = skeleton(step)
        what, operands, integers = self.skeleton
        self.key: Key = (what, *map(key_of, operands), integers)
        self.makes: dict[Operand, tuple[Step, int]] = {
            v: (step, i) for i, v in enumerate(step.outputs)
        }
        groups: dict[Any, dict[int, Any]] = {}  # items by their places
        if isinstance(step, Loop):
            groups = {c.result: dict(c.outputs) for c in step.collected}
            for c in step.carries:
                groups.setdefault(c.result, {}).update(enumerate(c.initial, -c.delay))
        elif step.op.outputs:
            groups[step] = dict(enumerate(step.outputs))
        self.groups = [(group, set(group.values())) for group in groups.values()]


class Facts:
    """What is found out once about steps, also what they make of zeros; constants."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.steps: dict[Step, Known] = {}
        self.vanishing: dict[Hashable, bool] = {}
        self.constants: dict[Hashable, Value] = {}

    def known(self, step: Step) -> Known:
        if step not in self.steps:
            self.steps[step] = Known(step)
        return self.steps[step]

    def vanishes(self, step: Step, zero: Sequence[bool | None]) -> bool:
        """Whether a step makes zeros of zeros in these places, whatever the other operands are."""
        if not any(zero) or isinstance(step, Loop) or step.op.outputs:
            return False
        what, operands, integers = skeleton(step)
        constants = (x for x in operands if not isinstance(x, Value) or x.constant is not None)
        key = (what, integers, *zero, *map(key_of, constants))
        if key not in self.vanishing:
            values = [x for x in operands if isinstance(x, Value)]
            every = max(turns(math.prod(x.spec.shape)) for x in values)
            self.vanishing[key] = all(_zeros(step, zero, turn) for turn in range(every))
        return self.vanishing[key]

    def constant(self, like: Value, number: Any) -> Value:
        """A constant in place of the number."""
        key = (tuple(like.spec.shape), like.spec.dtype.str, key_of(number))
        if key not in self.constants:
            values = full(like.spec.shape, number, like.spec.dtype, self.backend)
            self.constants[key] = Value(like.spec, constant=values)
        return self.constants[key]


def _zeros(step: Instruction, zero: Sequence[bool | None], turn: int) -> bool:
    given: list[Any] = []
    for x, is_zero in zip(step.operands, zero):
        if not isinstance(x, Value):
            given.append(x)
        elif is_zero:
            given.append(Tensor(np.zeros(x.spec.shape, x.spec.dtype), backend="numpy"))
        else:
            given.append(sample(x.spec, turn) if x.constant is None else x.constant.to("numpy"))
    y = computed(lambda: execute(step.op, given, step.static))
    return y is not None and not y.any()


class Around:
    """The steps around a loop, by what they make and by what they do to what."""

    def __init__(
        self,
        steps: tuple[Step, ...],
        needed: set[Value],
        facts: Facts,
        outer: Around | None,
    ) -> None:
        self.steps, self.needed, self.facts, self.outer = steps, needed, facts, outer
        self.maker: dict[Operand, tuple[Step, int]] = {}
        self.by_key: dict[Key, Step] = {}
        self.groups: list[tuple[dict[int, Any], set[Any]]] = []
        for step in steps:
            known = facts.known(step)
            self.by_key.setdefault(known.key, step)
            self.maker.update(known.makes)
            self.groups += known.groups

    def find(self, key: Key) -> Step | None:
        """The step, here or further out, that does this."""
        if key in self.by_key or self.outer is None:
            return self.by_key.get(key)
        return self.outer.find(key)

    def find_like(self, step: Step) -> Step | None:
        """The step, here or further out, that does what this one does."""
        what, operands, integers = skeleton(step)
        return self.find((what, *map(key_of, operands), integers))

    def beyond(self, items: Sequence[Operand]) -> Operand | None:
        """The item that comes before the first one of evenly spaced items."""
        for known, values in self.groups:
            if len(items) == 1 or not values.issuperset(items[:2]):
                continue
            first, second = ([i for i, x in known.items() if x is item] for item in items[:2])
            for i, j in itertools.product(first, second):
                found = [known.get(i + (j - i) * t) for t in range(len(items))]
                if all(map(is_, found, items)):
                    return known.get(i - (j - i))
        return None


class Window:
    """Steps of a loop's body as they are found around it, at an iteration t.

    bound: what a value of the body is outside; found: the step outside that a step of the body is.
    loose: values that may be bound to anything; zero: those of them that are 0 then.
    """

    def __init__(
        self, around: Around, loop: Loop, t: int, body: Sequence[Step], loose: Iterable[Any] = ()
    ) -> None:
        self.around, self.loop, self.t, self.body, self.loose = around, loop, t, body, loose
        made = {v for step in loop.body for v in step.outputs}
        self.local = made | set(loop.parameters)
        self.maker: dict[Operand, Step] = {v: step for step in body for v in step.outputs}
        self.place = {step: i for i, step in enumerate(body)}
        self.bound: dict[Operand, Operand] = {}
        self.zero: set[Operand] = set()
        self.found: dict[Step, Step | None] = {}

    def now(self, step: Step) -> Step:
        if isinstance(step, Loop):
            return step
        return replace(step, static=at_iteration(step.static, {self.loop.counter: self.t}))

    def skeleton(self, step: Step) -> Skeleton:
        return skeleton(self.now(step))

    def bind(self, x: Operand, outside: Operand) -> bool:
        """Whether a value of the body may be this one outside."""
        if x not in self.local:
            return same(x, outside)
        return x not in self.zero and same(self.bound.setdefault(x, outside), outside)

    def up(self, zero_first: bool) -> bool:
        """Find what the bound results come from; False if they do not come from such steps."""
        return all(
            self.found_up(step, zero_first)
            for step in reversed(self.body)
            if not self.bound.keys().isdisjoint(step.outputs)
        )

    def found_up(self, step: Step, zero_first: bool) -> bool:
        i = next(i for i, v in enumerate(step.outputs) if v in self.bound)
        outside = self.bound[step.outputs[i]]
        there, j = self.around.maker.get(outside, (None, 0))
        if zero_first and self.without_zero(step, outside):
            return True
        here = self.skeleton(step)
        if there is not None and there is not self.loop and i == j:
            other = self.around.facts.known(there).skeleton
            if here.key == other.key and here.integers == other.integers:
                self.found[step] = there
                pairs = [*zip(here.operands, other.operands), *zip(step.outputs, there.outputs)]
                return all(self.bind(x, y) for x, y in pairs)
            if self.with_number(step, there):
                return True
        return self.without_zero(step, outside)

    def without_zero(self, step: Step, outside: Operand) -> bool:
        """Whether x stands outside where the body adds it to a carry."""
        if not isinstance(step, Instruction) or step.op is not ADD:
            return False
        for p, x in (step.operands, step.operands[::-1]):
            alone = isinstance(x, Value) and x is not p and x.spec == step.outputs[0].spec
            if alone and self.vanishes(p) and self.bind(x, outside):
                self.found[step] = None
                return True
        return False

    def vanishes(self, x: Operand) -> bool:
        """Let x be 0, if the carries that it comes from may be, and are enough for it."""
        behind, waiting = [], [x]
        zero: dict[Operand, bool] = {}
        while waiting:
            y = waiting.pop()
            if y in zero or y not in self.local or y in self.bound:
                continue
            zero[y] = y in self.loose
            step = self.maker.get(y)
            if step is not None and not zero[y]:
                behind.append(step)
                waiting += step.operands
        behind.sort(key=self.place.__getitem__)
        for step in behind:
            if self.around.facts.vanishes(self.now(step), [zero.get(p) for p in step.operands]):
                zero.update(dict.fromkeys(step.outputs, True))
        if not zero.get(x):
            return False
        self.zero.add(x)
        for step in reversed(behind):
            if not self.zero.isdisjoint(step.outputs):
                self.found[step] = None
                self.zero.update(p for p in step.operands if zero.get(p))
        return True

    def with_number(self, step: Step, there: Step) -> bool:
        """Whether there a number stands where the body has a carry."""
        if not isinstance(step, Instruction) or not isinstance(there, Instruction):
            return False
        if step.op is not there.op or len(step.operands) != len(there.operands):
            return False
        pairs = [*zip(step.operands, there.operands), *zip(step.outputs, there.outputs)]
        if any(is_number(y) and not is_number(x) and x not in self.loose for x, y in pairs):
            return False
        given = [x if is_number(y) else y for x, y in zip(step.operands, there.operands)]
        kind = skeleton(replace(there, operands=tuple(given)))
        self.found[step] = there
        return self.skeleton(step)[::2] == kind[::2] and all(self.bind(x, y) for x, y in pairs)

    def down(self) -> None:
        """Find the steps of which all operands are known."""
        for step in self.body:
            what, operands, integers = self.skeleton(step)
            given = [self.bound.get(x) if x in self.local else x for x in operands]
            if step in self.found or any(x is None for x in given):
                continue
            there = self.around.find((what, *(key_of(x) for x in given if x is not None), integers))
            if there is not None and there is not self.loop:
                self.found[step] = there
                self.bound.update(zip(step.outputs, there.outputs))

    def start(self, x: Value) -> Operand:
        """What a carry's first iteration sees, of which nothing but this window is known."""
        y = 0 if x in self.zero else self.bound.get(x, 0)
        return self.around.facts.constant(x, y) if is_number(y) else y

    def replaced(self, loop: Loop, names: Mapping[Any, Value] = NOTHING) -> list[Step]:
        """The steps around with the loop in the window's place; it gives what others need of it.

        names: what the loop calls values of the body now.
        """
        gone = {step for step in self.found.values() if step is not None}
        gone.intersection_update(self.around.steps)
        rest = [step for step in self.around.steps if step not in gone and step is not self.loop]
        needed = self.around.needed.union(loop.operands, *(step.operands for step in rest))
        collected: dict[Value, dict[int, Any]] = {c.result: {**c.outputs} for c in loop.collected}
        images: dict[Operand, Value] = {}
        made = {v for step in gone for v in step.outputs}
        for step in self.found:
            for x in filter(self.bound.__contains__, step.outputs):
                v, name = self.bound[x], names.get(x, x)
                if v in needed and v in made and (v not in images or name in collected):
                    images[v] = name
        for there in tuple(gone):  # others may absorb it themselves
            mine = [v for v in there.outputs if v in images]
            given = made.isdisjoint(there.operands)
            if mine and given and collected.keys().isdisjoint(images[v] for v in mine):
                gone.remove(there)
                for v in mine:
                    del images[v]
        t = max(self.t, 0)
        for v, x in images.items():
            collected.setdefault(x, {})[t] = v
        kept = tuple(Collected(x, outputs) for x, outputs in collected.items())
        loop = replace(loop, collected=kept)
        if any(len(c.outputs) == self.loop.trips for c in self.loop.collected):
            loop = complete(loop)
        return [loop if s is self.loop else s for s in self.around.steps if s not in gone]


def complete(loop: Loop) -> Loop:
    """The loop with all iterations of what it gives, for others to absorb more; see sweep."""
    every = range(loop.trips)
    collected = tuple(
        Collected(c.result, {t: c.outputs.get(t) or fresh(c.result) for t in every})
        for c in loop.collected
    )
    return replace(loop, collected=collected)


def later(static: Static, counter: Counter) -> Static:
    """Static arguments when their loop starts one iteration earlier."""

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, Affine) and leaf.counter is counter:
            return replace(leaf, start=leaf.start - leaf.step)
        return leaf

    found: Static = map_static(moved, static)
    return found


def matched(
    around: Around,
    loop: Loop,
    body: Sequence[Step],
    loose: set[Any],
    items: Mapping[Any, Any],
    carries: Iterable[Carry],
) -> Window | None:
    """Iteration -1 of these steps, if what the carries start from are its results."""
    for zero_first in (False, True):
        window = Window(around, loop, -1, body, loose)
        window.bound.update(items)
        if all(window.bind(c.result, c.initial[-1]) for c in carries) and window.up(zero_first):
            return window
    return None

"""absorb: the first and last iterations that differ from a loop's body become iterations too.

A window that fold left outside is the body where (i) a carry that is still zero is not added,
(ii) results that nobody needs are not computed. It becomes an iteration: the carry starts as zeros,
the results are computed and not looked at. Where only the end of the body stands before a loop, as
it takes items that the last iteration has none of, these steps move to the next iteration.
`0 + x` is x but for the sign of zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minigrad.backend import Backend, current
from minigrad.graph.checks import ordered
from minigrad.graph.ir import (
    Affine,
    Carry,
    Collected,
    Graph,
    GraphError,
    Indexed,
    Instruction,
    Loop,
    Operand,
    Step,
    Value,
    at_iteration,
    is_number,
    map_static,
)
from minigrad.graph.rolling import same
from minigrad.graph.simplifying import computed, key_of, needed_of, sample, share, sweep
from minigrad.graph.skeleton import Skeleton, fresh, skeleton
from minigrad.op import NOTHING, REGISTRY, execute
from minigrad.ops.create import full
from minigrad.tensor import Tensor

ADD = REGISTRY["add"]
ENOUGH = 0.5  # the part of a body that must stand outside to be an iteration
Key = tuple[Hashable, ...]


def absorb(graph: Graph, backend: Backend | None = None) -> Graph:
    """The graph with what fold left of first and last iterations within the loops.

    backend: of zeros to start from; by default that of a constant of the graph, or the current one.
    """
    graph = sweep(share(graph))
    if backend is None:
        values = (x for step in graph.walk() for x in step.operands if isinstance(x, Value))
        known = (x.constant.backend for x in values if x.constant is not None)
        backend = next(known, None) or current()
    steps = _Absorber(backend).steps(graph.steps, set(graph.outputs))
    return sweep(replace(graph, steps=steps))


class _Absorber:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.skeletons: dict[Step, Skeleton] = {}  # also keeps the steps that are its keys
        self.vanishing: dict[Hashable, bool] = {}
        self.constants: dict[Hashable, Value] = {}

    def steps(
        self, steps: tuple[Step, ...], needed: set[Value], outer: _Around | None = None
    ) -> tuple[Step, ...]:
        """Each loop extended as long as it goes, again and again, those in bodies first."""
        around = _Around(steps, needed, self, outer)
        steps = tuple(
            replace(s, body=self.steps(s.body, set(s.results), around))
            if isinstance(s, Loop)
            else s
            for s in steps
        )
        while True:
            # With all that loops could give, then with what is asked of them: a loop in a body is
            # found outside only if it gives the same.
            full = tuple(_complete(s) if isinstance(s, Loop) else s for s in steps)
            around = self.extended(_Around(full, needed, self, outer))
            around = _Around(needed_of(around.steps, set(needed)), needed, self, outer)
            steps = self.extended(around).steps
            if steps is around.steps:
                return steps

    def extended(self, around: _Around) -> _Around:
        before = None
        while before is not around:
            before = around
            for counter in [s.counter for s in around.steps if isinstance(s, Loop)]:
                while longer := self.longer(around, counter):
                    around = _Around(longer, around.needed, self, around.outer)
        return around

    def longer(self, around: _Around, counter: Any) -> tuple[Step, ...] | None:
        """The steps with one more iteration in a loop, if there is one around it."""
        for loop in around.steps:
            if isinstance(loop, Loop) and loop.counter is counter:
                for way in (_before, _after, _turned, _loosened):
                    try:
                        steps = way(around, loop)
                        if steps and (way not in (_before, _after) or len(steps) < len(around.steps)):
                            return ordered(steps)
                    except GraphError:  # the loop would need what it makes
                        pass
        return None

    def skeleton(self, step: Step) -> Skeleton:
        if step not in self.skeletons:
            self.skeletons[step] = skeleton(step)
        return self.skeletons[step]

    def vanishes(self, step: Step, zero: Sequence[bool | None]) -> bool:
        """Whether a step makes zeros of zeros in these places, whatever the other operands are."""
        if not any(zero) or isinstance(step, Loop) or step.op.outputs:
            return False
        what, operands, integers = skeleton(step)
        constants = (x for x in operands if not isinstance(x, Value) or x.constant is not None)
        key = (what, integers, *zero, *map(key_of, constants))
        if key not in self.vanishing:
            given: list[Any] = []
            for i, (x, is_zero) in enumerate(zip(operands, zero)):
                if is_zero and isinstance(x, Value):
                    given.append(Tensor(np.zeros(x.spec.shape, x.spec.dtype), backend="numpy"))
                elif isinstance(x, Value):
                    given.append(sample(x.spec, i) if x.constant is None else x.constant.to("numpy"))
                else:
                    given.append(x)
            y = computed(lambda: execute(step.op, given, step.static))
            self.vanishing[key] = y is not None and not y.any()
        return self.vanishing[key]

    def constant(self, like: Value, number: Any) -> Value:
        """A constant in place of the number."""
        key = (tuple(like.spec.shape), like.spec.dtype.str, key_of(number))
        if key not in self.constants:
            values = full(like.spec.shape, number, like.spec.dtype, self.backend)
            self.constants[key] = Value(like.spec, constant=values)
        return self.constants[key]


class _Around:
    """The steps around a loop, by what they make and by what they do to what."""

    def __init__(
        self,
        steps: tuple[Step, ...],
        needed: set[Value],
        absorber: _Absorber,
        outer: _Around | None,
    ) -> None:
        self.steps, self.needed, self.absorber, self.outer = steps, needed, absorber, outer
        self.maker: dict[Operand, tuple[Step, int]] = {}
        self.by_key: dict[Key, Step] = {}
        self.places: dict[Operand, list[tuple[Any, int]]] = {}  # of a value: in what, and where
        self.groups: dict[Any, dict[int, Operand]] = {}
        for step in steps:
            what, operands, integers = absorber.skeleton(step)
            self.by_key.setdefault((what, *map(key_of, operands), integers), step)
            self.maker.update({v: (step, i) for i, v in enumerate(step.outputs)})
            if isinstance(step, Loop):
                for c in step.collected:
                    self.group(c.result, c.outputs)
                for carry in step.carries:
                    self.group(carry.result, dict(enumerate(carry.initial, -carry.delay)))
            elif step.op.outputs:
                self.group(step, dict(enumerate(step.outputs)))

    def find(self, key: Key) -> Step | None:
        """The step, here or further out, that does this."""
        if key in self.by_key or self.outer is None:
            return self.by_key.get(key)
        return self.outer.find(key)

    def group(self, name: Any, places: dict[int, Any]) -> None:
        self.groups.setdefault(name, {}).update(places)
        for i, value in places.items():
            self.places.setdefault(value, []).append((name, i))

    def beyond(self, items: Sequence[Operand]) -> Operand | None:
        """The item that comes before the first one of evenly spaced items."""
        for group, i in self.places.get(items[0], ()):
            for other, j in self.places.get(items[1], ()) if len(items) > 1 else ():
                known, step = self.groups[group], j - i
                if other is group and all(
                    same(known.get(i + step * t), x) for t, x in enumerate(items)
                ):
                    return known.get(i - step)
        return None


# --- one more iteration --------------------------------------------------------------------------


class _Window:
    """Steps of a loop's body as they are found around it, at an iteration t.

    bound: what a value of the body is outside; found: the step outside that a step of the body is.
    loose: values that may be bound to anything; zero: those of them that are 0 then.
    """

    def __init__(
        self, around: _Around, loop: Loop, t: int, body: Sequence[Step], loose: Iterable[Any] = ()
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
            other = self.around.absorber.skeleton(there)
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
            if isinstance(x, Value) and x is not p and x.spec == step.outputs[0].spec:
                if self.vanishes(p) and self.bind(x, outside):
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
            if self.around.absorber.vanishes(self.now(step), [zero.get(p) for p in step.operands]):
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
        if not all(is_number(y) <= (x in self.loose or is_number(x)) for x, y in pairs):
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
            there = self.around.find((what, *map(key_of, given), integers))  # type: ignore
            if there is not None and there is not self.loop:
                self.found[step] = there
                self.bound.update(zip(step.outputs, there.outputs))

    def start(self, x: Value) -> Operand:
        """What a carry's first iteration sees, of which nothing but this window is known."""
        y = 0 if x in self.zero else self.bound.get(x, 0)
        return self.around.absorber.constant(x, y) if is_number(y) else y

    def replaced(self, loop: Loop, names: Mapping[Any, Value] = NOTHING) -> list[Step]:
        """The steps around with the loop in the window's place; it gives what others need of it.

        names: what the loop calls values of the body now.
        """
        gone = {step for step in self.found.values() if step is not None}
        gone.intersection_update(self.around.steps)
        rest = [step for step in self.around.steps if step not in gone and step is not self.loop]
        needed = self.around.needed.union(*(step.operands for step in rest))
        collected = {c.result: dict(c.outputs) for c in loop.collected}
        images: dict[Operand, Value] = {}
        made = {v for step in gone for v in step.outputs}
        for step, there in self.found.items():
            for x in step.outputs if there is not None else ():
                v, name = self.bound[x], names.get(x, x)
                if v in needed and v in made and (v not in images or name in collected):
                    images[v] = name
        for there in tuple(gone):  # others may absorb it themselves
            mine = [v for v in there.outputs if v in images]
            if mine and made.isdisjoint(there.operands):
                if collected.keys().isdisjoint(images[v] for v in mine):
                    gone.remove(there)
                    for v in mine:
                        del images[v]
        t = max(self.t, 0)
        for v, x in images.items():
            collected.setdefault(x, {})[t] = v
        kept = tuple(Collected(x, outputs) for x, outputs in collected.items())
        loop = replace(loop, collected=kept)
        if any(len(c.outputs) == self.loop.trips for c in self.loop.collected):
            loop = _complete(loop)
        return [loop if s is self.loop else s for s in self.around.steps if s not in gone]


def _complete(loop: Loop) -> Loop:
    """The loop with all iterations of what it gives, for others to absorb more; see sweep."""
    every = range(loop.trips)
    collected = tuple(
        Collected(c.result, {t: c.outputs.get(t) or fresh(c.result) for t in every})
        for c in loop.collected
    )
    return replace(loop, collected=collected)


def _items(around: _Around, loop: Loop, first: bool) -> dict[Value, Operand] | None:
    """The item before the first or after the last one of each indexed input."""
    found = {}
    for i in loop.indexed:
        item = around.beyond(i.items if first else i.items[::-1])
        if item is None:
            return None
        found[i.parameter] = item
    return found


def _matched(
    around: _Around,
    loop: Loop,
    body: Sequence[Step],
    loose: set[Any],
    items: dict[Value, Operand],
    carries: Iterable[Carry],
) -> _Window | None:
    """Iteration -1 of these steps, if what the carries start from are its results."""
    for zero_first in (False, True):
        window = _Window(around, loop, -1, body, loose)
        window.bound.update(items)
        if all(window.bind(c.result, c.initial[-1]) for c in carries) and window.up(zero_first):
            return window
    return None


def _before(around: _Around, loop: Loop) -> list[Step] | None:
    """Iteration -1: what the carries start from are its results."""
    items = _items(around, loop, True)
    if items is None:
        return None
    starts = {c.parameter for c in loop.carries}
    window = _matched(around, loop, loop.body, starts, items, loop.carries)
    if window is None:
        return None
    window.down()
    if len(window.found) < ENOUGH * len(loop.body):
        return None
    return window.replaced(
        replace(
            loop,
            trips=loop.trips + 1,
            body=tuple(_later(step, loop) for step in loop.body),
            carries=tuple(
                replace(c, initial=(window.start(c.parameter), *c.initial[:-1]))
                for c in loop.carries
            ),
            indexed=tuple(replace(i, items=(items[i.parameter], *i.items)) for i in loop.indexed),
            collected=tuple(
                Collected(c.result, {t + 1: v for t, v in c.outputs.items()})
                for c in loop.collected
            ),
        )
    )


def _later(step: Step, loop: Loop) -> Step:
    """The step when its loop starts one iteration earlier."""

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, Affine) and leaf.counter is loop.counter:
            return replace(leaf, start=leaf.start - leaf.step)
        return leaf

    if isinstance(step, Loop):
        return replace(step, body=tuple(_later(inner, loop) for inner in step.body))
    return replace(step, static=map_static(moved, step.static))


def _after(around: _Around, loop: Loop) -> list[Step] | None:
    """Iteration `trips`, of what the loop leaves."""
    items = _items(around, loop, False)
    if items is None:
        return None
    n = loop.trips
    window = _Window(around, loop, n, loop.body)
    window.bound.update(items)
    outputs = {c.result: c.outputs for c in loop.collected}
    for c in loop.carries:
        seen = outputs.get(c.result, {}).get(n - c.delay) if n >= c.delay else c.initial[n]
        if seen is not None:
            window.bound[c.parameter] = seen
    window.down()
    if len(window.found) < ENOUGH * len(loop.body):
        return None
    indexed = tuple(replace(i, items=(*i.items, items[i.parameter])) for i in loop.indexed)
    return window.replaced(replace(loop, trips=n + 1, indexed=indexed))


def _turned(around: _Around, loop: Loop) -> list[Step] | None:
    """The loop with what depends on an item that runs out at the end moved to the next iteration.

    These steps stand before the loop too: they make what the carries that they lead to start from.
    """
    late: set[Operand] = {i.parameter for i in loop.indexed if not around.beyond(i.items[::-1])}
    moving = []
    for step in loop.body:
        if not late.isdisjoint(step.operands):
            moving.append(step)
            late.update(step.outputs)
    return _moved(around, loop, moving)


def _loosened(around: _Around, loop: Loop) -> list[Step] | None:
    """The loop with a carry the less: what makes it of items alone moves to the next iteration."""
    uses: dict[Operand, list[Step]] = {}
    for step in loop.body:
        for x in step.operands:
            uses.setdefault(x, []).append(step)
    carried = {c.result for c in loop.carries}
    other = {c.parameter for c in loop.carries} | {v for s in loop.body for v in s.outputs}
    for c in loop.carries:
        moving: set[Step] = set()
        reached: set[Operand] = {c.result}
        for step in reversed(loop.body):
            if not reached.isdisjoint(step.outputs) and all(
                moving.issuperset(uses.get(x, ())) and (x is c.result or x not in carried)
                for x in step.outputs
            ):
                moving.add(step)
                reached.update(step.operands)
        makes = {v for step in moving for v in step.outputs}
        if makes and not (reached - makes) & other:
            steps = _moved(around, loop, [step for step in loop.body if step in moving])
            if steps:
                return steps
    return None


def _moved(around: _Around, loop: Loop, moving: Sequence[Step]) -> list[Step] | None:
    """The loop with steps that carries and collected outputs alone need in the next iteration."""
    late: set[Operand] = {v for step in moving for v in step.outputs}
    turning = {c.result: c for c in loop.carries if c.result in late}
    used = dict.fromkeys(x for step in moving for x in step.operands)
    if (
        not turning
        or any(isinstance(step, Loop) for step in moving)
        or any(c.delay > 1 or turning[c.result] is not c for c in loop.carries if c.result in late)
    ):
        return None
    given = [v for s in loop.body for v in s.outputs if v in used and v not in late]
    past = [c for c in loop.carries if c.parameter in used]
    taken = [i for i in loop.indexed if i.parameter in used]
    first = {i.parameter: around.beyond(i.items) for i in taken}
    if not all(first.values()):
        return None
    loose = {*given, *(c.parameter for c in past)}
    window = _matched(around, loop, moving, loose, first, turning.values())
    if window is None:
        return None

    n = loop.trips
    rest = [step for step in loop.body if step not in set(moving)]
    ended = set(first).difference(*(step.operands for step in rest))
    names: dict[Any, Value] = {x: fresh(x) for x in (*loose, *first)}
    carries = [Carry(names[x], x, (window.start(x),)) for x in given]
    for c in past:
        name, start = names[c.parameter], window.start(c.parameter)
        if c.result in turning:
            carries.append(Carry(name, c.parameter, (start,)))
        else:
            carries.append(Carry(name, c.result, (start, *c.initial)))
    names.update({x: c.parameter for x, c in turning.items()})
    collected = {c.result: dict(c.outputs) for c in loop.collected}
    known: dict[Any, Any] = {i.parameter: i.items[-1] for i in taken}
    known.update({x: collected.setdefault(x, {}).setdefault(n - 1, fresh(x)) for x in given})
    for c in past:
        seen = collected.setdefault(c.result, {})
        known[c.parameter] = seen.setdefault(n - 1 - c.delay, fresh(c.result)) if n > c.delay else (
            c.initial[n - 1]
        )
    moved: list[Step] = []
    last: list[Step] = []  # of the last iteration, outside
    for step in moving:
        for x in step.outputs:
            known[x] = collected.get(x, {}).pop(n - 1, None) or fresh(x)
        last.append(_renamed(step, known, at_iteration(step.static, {loop.counter: n - 1})))
        moved.append(_renamed(_later(step, loop), names))
    steps = window.replaced(
        replace(
            loop,
            body=(*moved, *rest),
            carries=(
                *(c for c in loop.carries if c.result not in turning),
                *carries,
            ),
            indexed=(
                *(i for i in loop.indexed if i.parameter not in ended),
                *(Indexed(names[i.parameter], (first[i.parameter], *i.items[:-1])) for i in taken),
            ),
            collected=tuple(
                Collected(names.get(x, x), {t + 1: v for t, v in outputs.items()})
                if x in late
                else Collected(x, outputs)
                for x, outputs in collected.items()
            ),
        ),
        names,
    )
    return [*steps, *last]


def _renamed(step: Step, names: dict[Any, Any], static: Any = None) -> Instruction:
    return replace(
        step,
        operands=tuple(names.get(x, x) for x in step.operands),
        outputs=tuple(names.get(x, x) for x in step.outputs),
        static=step.static if static is None else static,
    )

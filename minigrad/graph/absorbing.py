"""absorb: the first and last iterations that differ from a loop's body become iterations too.

fold leaves windows outside that are the body but where (i) a carry that is still zero is not added,
or (ii) results that nobody needs are not computed. Such a window becomes an iteration: the carry
starts as zeros, and the results are computed, but not looked at. Of a loop whose last iteration has
no item for some steps, these steps move to the start of the next iteration, if their like stands
before the loop. `0 + x` is x but for the sign of zero.

>>> def f(xs, w):
...     total = 0
...     for x in xs:
...         total = total + x * w
...     return total
>>> graph = mg.fold(f, mg.ones((4, 2)), mg.ones(2))
>>> print(graph)
graph(
    %0: x0 (4, 2) float32,
    %1: x1 (2,) float32,
):
  %2 = unstack(%0, axis=0)  4 x (2,) float32
  %3 = multiply(%2[0], %1)  (2,) float32
  %4 = add(0, %3)  (2,) float32
  for t in 3:
    %5 = (%2[1:4])[t]  (2,) float32
    %6 = delay 1 of %8, first %4  (2,) float32
    %7 = multiply(%5, %1)  (2,) float32
    %8 = add(%6, %7)  (2,) float32
    %8 -> %9[2]
  return %9[2]
>>> print(absorb(graph))
graph(
    %0: x0 (4, 2) float32,
    %1: x1 (2,) float32,
):
  %2 = unstack(%0, axis=0)  4 x (2,) float32
  for t in 4:
    %3 = (%2[0:4])[t]  (2,) float32
    %4 = delay 1 of %6, first const(0.0, (2,) float32)  (2,) float32
    %5 = multiply(%3, %1)  (2,) float32
    %6 = add(%4, %5)  (2,) float32
    %6 -> %7[3]
  return %7[3]
"""

from __future__ import annotations

from dataclasses import replace

from minigrad.backend import Backend, current
from minigrad.graph.checks import ordered
from minigrad.graph.ir import Collected, Counter, Graph, GraphError, Loop, Operand, Step, Value
from minigrad.graph.simplifying import needed_of, share, sweep
from minigrad.graph.turning import copied, loosened, turned
from minigrad.graph.windows import Around, Facts, Window, complete, later, matched

ENOUGH = 0.5  # the part of a body that must stand outside to be an iteration


def absorb(graph: Graph, backend: Backend | None = None) -> Graph:
    """The graph with what fold left of first and last iterations within the loops.

    backend: of zeros to start from; by default that of a constant of the graph, or the current one.
    """
    if any(loop.sliced or loop.stacked for loop in graph.loops()):
        raise GraphError("absorb takes loops as fold makes them, without whole arrays")
    graph = sweep(share(graph))
    if backend is None:
        values = (x for step in graph.walk() for x in step.operands if isinstance(x, Value))
        known = (x.constant.backend for x in values if x.constant is not None)
        backend = next(known, None) or current()
    steps = _Absorber(backend).steps(graph.steps, set(graph.outputs))
    return sweep(share(replace(graph, steps=steps)))  # items that were not equal may be now


class _Absorber:
    def __init__(self, backend: Backend) -> None:
        self.facts = Facts(backend)

    def steps(
        self, steps: tuple[Step, ...], needed: set[Value], outer: Around | None = None
    ) -> tuple[Step, ...]:
        """Each loop extended as long as it goes, again and again, those in bodies first."""
        around = Around(steps, needed, self.facts, outer)
        steps = tuple(
            replace(s, body=self.steps(s.body, set(s.results), around))
            if isinstance(s, Loop)
            else s
            for s in steps
        )
        while True:
            # With all that loops could give, then with what is asked of them: a loop in a body is
            # found outside only if it gives the same.
            full = tuple(complete(s) if isinstance(s, Loop) else s for s in steps)
            around = self.extended(Around(full, needed, self.facts, outer))
            around = Around(needed_of(around.steps, set(needed)), needed, self.facts, outer)
            steps = self.extended(around).steps
            if steps is around.steps:
                return steps

    def extended(self, around: Around) -> Around:
        before = None
        while before is not around:
            before = around
            for counter in [s.counter for s in around.steps if isinstance(s, Loop)]:
                while longer := self.longer(around, counter):
                    around = Around(longer, around.needed, self.facts, around.outer)
        return around

    def longer(self, around: Around, counter: Counter) -> tuple[Step, ...] | None:
        """The steps with one more iteration in a loop, if there is one around it."""
        for loop in around.steps:
            if isinstance(loop, Loop) and loop.counter is counter:
                for way in (_before, _after, turned, loosened, copied):
                    steps = way(around, loop)
                    fewer = steps is not None and len(steps) < len(around.steps)
                    if steps and (fewer or way in (turned, loosened, copied)):
                        try:
                            return ordered(steps)
                        except GraphError:  # the loop would need what it makes
                            continue
        return None


def _items(around: Around, loop: Loop, first: bool) -> dict[Operand, Operand] | None:
    """The item before the first or after the last one of each indexed input."""
    found: dict[Operand, Operand] = {}
    for i in loop.indexed:
        item = around.beyond(i.items if first else i.items[::-1])
        if item is None:
            return None
        found[i.parameter] = item
    return found


def _before(around: Around, loop: Loop) -> list[Step] | None:
    """Iteration -1: what the carries start from are its results."""
    items = _items(around, loop, True)
    if items is None:
        return None
    starts = {c.parameter for c in loop.carries}
    window = matched(around, loop, loop.body, starts, items, loop.carries)
    if window is None:
        return None
    window.down()
    if len(window.found) < ENOUGH * len(loop.body):
        return None
    return window.replaced(
        replace(
            loop,
            trips=loop.trips + 1,
            body=tuple(_later(step, loop.counter) for step in loop.body),
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


def _later(step: Step, counter: Counter) -> Step:
    if isinstance(step, Loop):
        return replace(step, body=tuple(_later(inner, counter) for inner in step.body))
    return replace(step, static=later(step.static, counter))


def _after(around: Around, loop: Loop) -> list[Step] | None:
    """Iteration `trips`, of what the loop leaves."""
    items = _items(around, loop, False)
    if items is None:
        return None
    n = loop.trips
    window = Window(around, loop, n, loop.body)
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

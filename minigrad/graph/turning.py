"""turned, loosened, copied: a loop whose iterations begin with what the one before it ended with.

The results are the same, one iteration later: steps that only a delay edge and collected outputs
need move to the start of the next iteration, their first run into the loop from before it, and
their last one out of it. That pays where they take an item that the last iteration has none of, or
where items alone make what a carry hands on; if that is needed in both places, it is made twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from minigrad.graph.ir import (
    Carry,
    Collected,
    Indexed,
    Instruction,
    Loop,
    Operand,
    Step,
    Value,
    at_iteration,
)
from minigrad.graph.skeleton import fresh
from minigrad.graph.windows import Around, later, matched
from minigrad.op import Static


def turned(around: Around, loop: Loop) -> list[Step] | None:
    """The steps with a loop that begins with what takes items that its last iteration has not."""
    late: set[Operand] = {i.parameter for i in loop.indexed if around.beyond(i.items[::-1]) is None}
    moving: list[Step] = []
    for step in loop.body:
        if not late.isdisjoint(step.operands):
            moving.append(step)
            late.update(step.outputs)
    return _moved(around, loop, moving)


def loosened(around: Around, loop: Loop) -> list[Step] | None:
    """The steps with a loop that begins with what is made of items alone, and carries it not."""
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


def copied(around: Around, loop: Loop) -> list[Step] | None:
    """The steps with a loop that makes anew what a carry brings of the last iteration's items."""
    for c in loop.carries:
        chain = _of_items(loop, c.result) if c.delay == 1 else []
        used = {x for step in chain for x in step.operands}
        taken = [i for i in loop.indexed if i.parameter in used]
        known: dict[Any, Any] = {i.parameter: around.beyond(i.items) for i in taken}
        if not chain or None in known.values():
            continue
        first = dict(known)
        for step in chain:
            there = around.find_like(
                _renamed(step, known, at_iteration(step.static, {loop.counter: -1}))
            )
            known.update(zip(step.outputs, there.outputs if there else ()))
        if known.get(c.result) is not c.initial[0]:
            continue
        names = {x: fresh(x) for x in (*first, *(v for step in chain for v in step.outputs))}
        names[c.result] = c.parameter
        again = [_renamed(step, names, later(step.static, loop.counter)) for step in chain]
        longer = replace(
            loop,
            body=(*again, *loop.body),
            carries=tuple(other for other in loop.carries if other is not c),
            indexed=(
                *loop.indexed,
                *(Indexed(names[i.parameter], (first[i.parameter], *i.items[:-1])) for i in taken),
            ),
        )
        return [longer if step is loop else step for step in around.steps]
    return None


def _of_items(loop: Loop, result: Value) -> list[Instruction]:
    """The steps of a body that make a value of items and of what is outside, if they alone do."""
    local = {c.parameter for c in loop.carries}
    chain: list[Instruction] = []
    needed: set[Operand] = {result}
    for step in reversed(loop.body):
        if not needed.isdisjoint(step.outputs):
            if not isinstance(step, Instruction):
                return []
            chain.insert(0, step)
            needed.update(step.operands)
    return chain if needed.isdisjoint(local) else []


def _moved(around: Around, loop: Loop, steps: Sequence[Step]) -> list[Step] | None:
    """The steps around with the loop so changed, if those that move stand before it too."""
    moving = [step for step in steps if isinstance(step, Instruction)]
    late: set[Operand] = {v for step in moving for v in step.outputs}
    turning = {c.result: c for c in loop.carries if c.result in late}
    used = dict.fromkeys(x for step in moving for x in step.operands)
    if (
        not turning
        or len(moving) < len(steps)
        or any(c.delay > 1 or turning[c.result] is not c for c in loop.carries if c.result in late)
    ):
        return None
    given = [v for s in loop.body for v in s.outputs if v in used and v not in late]
    past = [c for c in loop.carries if c.parameter in used]
    taken = [i for i in loop.indexed if i.parameter in used]
    first: dict[Any, Any] = {i.parameter: around.beyond(i.items) for i in taken}
    if None in first.values():
        return None
    loose = {*given, *(c.parameter for c in past)}
    window = matched(around, loop, moving, loose, first, turning.values())
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
        known[c.parameter] = (
            seen.setdefault(n - 1 - c.delay, fresh(c.result)) if n > c.delay else (c.initial[n - 1])
        )
    moved: list[Step] = []
    last: list[Step] = []  # of the last iteration, outside
    for step in moving:
        for x in step.outputs:
            known[x] = collected.get(x, {}).pop(n - 1, None) or fresh(x)
        last.append(_renamed(step, known, at_iteration(step.static, {loop.counter: n - 1})))
        moved.append(_renamed(step, names, later(step.static, loop.counter)))
    around_it = window.replaced(
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
    return [*around_it, *last]


def _renamed(step: Instruction, names: dict[Any, Any], static: Static) -> Instruction:
    return replace(
        step,
        operands=tuple(names.get(x, x) for x in step.operands),
        outputs=tuple(names.get(x, x) for x in step.outputs),
        static=static,
    )

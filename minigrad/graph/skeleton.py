"""Steps as what they do and what they do it to: two steps of one skeleton differ in operands only.

Static integers count among what may differ: a loop over positions has a new one at each iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from minigrad.graph.ir import (
    Affine,
    Carry,
    Collected,
    Counter,
    Indexed,
    Instruction,
    Loop,
    Operand,
    Step,
    Value,
    map_static,
)
from minigrad.op import Static


class Skeleton(NamedTuple):
    """key: equal for steps that do the same; what differs: operands, and integers among statics."""

    key: Hashable
    operands: tuple[Operand, ...]
    integers: tuple[int, ...]


def skeleton(step: Step) -> Skeleton:
    """What a step does, apart from what it does it to."""
    if isinstance(step, Loop):
        operands: list[Operand] = []
        return Skeleton(_loop_key(step, {}, {}, operands), tuple(operands), ())
    static, integers = _static(step.static) if step.static else ((), ())
    return Skeleton((_what(step), static), step.operands, integers)


def _static(static: Static) -> tuple[Hashable, tuple[int, ...]]:
    """Static arguments with holes for their integers, and these; of simple ones found only once."""
    items = tuple(static.items())
    simple = all(
        x.__class__ in SIMPLE or (x.__class__ is tuple and {*map(type, x)} == {int})
        for x in static.values()
    )
    if simple and (items, types := tuple(map(type, static.values()))) in _found:
        return _found[items, types]
    integers: list[int] = []

    def hole(leaf: Any) -> Any:
        if leaf.__class__ is int:
            integers.append(leaf)
            return "int"
        return leaf

    found = hashable(map_static(hole, static)), tuple(integers)
    if simple:
        if len(_found) > MOST:
            _found.clear()
        _found[items, types] = found
    return found


SIMPLE = {int, bool, str, type(None)}
MOST = 10_000
_found: dict[Any, tuple[Hashable, tuple[int, ...]]] = {}


def _what(step: Instruction) -> Hashable:
    kinds = tuple([x.spec if x.__class__ is Value else x.__class__ for x in step.operands])
    outputs = step.outputs
    made = (outputs[0].spec,) if len(outputs) == 1 else tuple([v.spec for v in outputs])
    return step.op.name, kinds, made


def hashable(static: Any) -> Hashable:
    """Static arguments as a key; lists and slices cannot be one themselves."""
    if isinstance(static, Mapping):
        return tuple((key, hashable(item)) for key, item in sorted(static.items()))
    if isinstance(static, (tuple, list)):
        return tuple(hashable(item) for item in static)
    if isinstance(static, slice):
        return "slice", hashable(static.start), hashable(static.stop), hashable(static.step)
    key = repr(static) if isinstance(static, float) else static  # 0.0 is not -0.0, nan is nan
    return type(static).__name__, key  # 1, 1.0 and True are not the same


def _loop_key(
    loop: Loop, local: dict[Value, int], counters: dict[Counter, int], operands: list[Operand]
) -> Hashable:
    """A loop's key; its operands, in the order in which `clone` takes others, go to operands."""

    def place(x: Operand) -> Hashable:
        if x.__class__ is Value and x in local:
            return local[x]
        operands.append(x)
        return x.spec if x.__class__ is Value else None

    counters = {**counters, loop.counter: len(counters)}
    initial = tuple([tuple(map(place, c.initial)) for c in loop.carries])
    items = tuple([tuple(map(place, i.items)) for i in loop.indexed])
    for value in loop.parameters:
        local[value] = len(local)
    body: list[Hashable] = []
    for step in loop.body:
        if isinstance(step, Loop):
            body.append(_loop_key(step, local, counters, operands))
        else:
            places = tuple(place(x) for x in step.operands)
            static = map_static(lambda leaf: _affine_key(leaf, counters), step.static)
            body.append((_what(step), places, hashable(static)))
        for value in step.outputs:
            local[value] = len(local)
    results = tuple(place(c.result) for c in loop.carries)
    kept = tuple((place(c.result), tuple(sorted(c.outputs))) for c in loop.collected)
    return "loop", loop.trips, initial, items, tuple(body), results, kept


def _affine_key(leaf: Any, counters: Mapping[Counter, int]) -> Any:
    if isinstance(leaf, Affine):
        counter: Any = counters.get(leaf.counter, leaf.counter)
        return ("affine", leaf.start, leaf.step, counter)
    return leaf


# --- copies --------------------------------------------------------------------------------------


def clone(
    step: Step,
    operands: Iterable[Operand],
    integers: Iterable[Any] = (),
    made: Callable[[Value], Value] | None = None,
) -> Step:
    """The same step on other operands and integers, in a skeleton's order, with fresh outputs."""
    supply = iter(operands)
    if isinstance(step, Loop):
        return _clone_loop(step, {}, {}, supply)
    numbers = iter(integers)

    def filled(leaf: Any) -> Any:
        return next(numbers, leaf) if leaf.__class__ is int else leaf

    static: Static = map_static(filled, step.static)
    return Instruction(
        step.op,
        tuple(next(supply) for _ in step.operands),
        static,
        tuple(map(made or fresh, step.outputs)),
    )


def fresh(value: Value) -> Value:
    """A new value of the same kind."""
    return Value(value.spec, value.name)


def _clone_loop(
    loop: Loop,
    local: dict[Value, Value],
    counters: dict[Counter, Counter],
    supply: Iterator[Operand],
) -> Loop:
    def place(x: Any) -> Any:
        return local[x] if isinstance(x, Value) and x in local else next(supply)

    def own(leaf: Any) -> Any:
        if isinstance(leaf, Affine) and leaf.counter in counters:
            return Affine(leaf.start, leaf.step, counters[leaf.counter])
        return leaf

    counters = {**counters, loop.counter: Counter()}
    initial = [tuple(place(x) for x in c.initial) for c in loop.carries]
    items = [tuple(place(x) for x in i.items) for i in loop.indexed]
    local.update({value: fresh(value) for value in loop.parameters})
    body: list[Step] = []
    for step in loop.body:
        if isinstance(step, Loop):
            inner: Step = _clone_loop(step, local, counters, supply)
        else:
            inner = Instruction(
                step.op,
                tuple(place(x) for x in step.operands),
                map_static(own, step.static),
                tuple(map(fresh, step.outputs)),
            )
        body.append(inner)
        local.update(zip(step.outputs, inner.outputs, strict=True))
    results = [place(c.result) for c in loop.carries]
    kept = []
    for c in loop.collected:
        result = place(c.result)
        kept.append(Collected(result, {t: fresh(v) for t, v in sorted(c.outputs.items())}))
    return Loop(
        loop.trips,
        tuple(body),
        tuple(
            Carry(local[c.parameter], result, start)
            for c, result, start in zip(loop.carries, results, initial, strict=True)
        ),
        tuple(
            Indexed(local[i.parameter], given) for i, given in zip(loop.indexed, items, strict=True)
        ),
        tuple(kept),
        counter=counters[loop.counter],
    )

"""What every graph must satisfy: an order without cycles but through delays, and right shapes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from minigrad.errors import MinigradError
from minigrad.graph.ir import (
    Counter,
    Graph,
    GraphError,
    Instruction,
    Loop,
    Operand,
    Sliced,
    Stacked,
    Step,
    Value,
    at_iteration,
    is_number,
    spec_of,
)


def describe(step: Step) -> str:
    """A step as error messages name it: its op and its first output."""
    name = "loop" if isinstance(step, Loop) else step.op.name
    first = step.outputs[0].name if step.outputs else None
    return f"{name} {first!r}" if first else name


def ordered(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps so that values are made before their use, else in the order given.

    A carry's delay edge asks for no order: it brings what an earlier iteration made.
    Raises GraphError that names the cycle where there is one without a delay.
    """
    steps = tuple(steps)
    maker = {value: i for i, step in enumerate(steps) for value in step.outputs}
    needs = [
        {maker[x] for x in step.operands if isinstance(x, Value) and x in maker} for step in steps
    ]
    users: list[list[int]] = [[] for _ in steps]
    for i, needed in enumerate(needs):
        for j in needed:
            users[j].append(i)
    waiting = [len(needed) for needed in needs]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in users[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                heapq.heappush(ready, j)
    if len(order) < len(steps):
        raise GraphError(_cycle(steps, needs, {i for i, n in enumerate(waiting) if n}))
    return tuple(steps[i] for i in order)


def _cycle(steps: Sequence[Step], needs: Sequence[set[int]], stuck: set[int]) -> str:
    """The message that names one cycle: every stuck step needs another stuck one."""
    path = [min(stuck)]
    place = {path[0]: 0}
    while True:
        i = min(needs[path[-1]] & stuck)
        if i in place:
            break
        place[i] = len(path)
        path.append(i)
    cycle = [steps[j] for j in reversed(path[place[i] :])]
    return _named(cycle)


def _named(cycle: Sequence[Step]) -> str:
    names = " -> ".join(describe(step) for step in (*cycle, cycle[0]))
    return f"delay-free cycle: {names}; a feedback needs a delay of at least one step (a carry)"


def verify(graph: Graph) -> Graph:
    """The graph itself, if it is sound; raises GraphError that says what is wrong, and where."""
    known: set[Value] = set()
    for value in graph.inputs:
        _make(value, known, "the inputs")
    _steps(graph.steps, known, {})
    for value in graph.outputs:
        _demand(value, known, "the outputs")
    return graph


def _make(value: Value, known: set[Value], where: str) -> None:
    if value in known or value.constant is not None:
        raise GraphError(f"{where}: {value!r} is made twice")
    known.add(value)


def _demand(x: Operand, known: set[Value], where: str) -> None:
    if isinstance(x, Value) and x.constant is None and x not in known:
        raise GraphError(f"{where}: {x!r} is used before it is made")


def _steps(steps: Sequence[Step], known: set[Value], iterations: dict[Counter, int]) -> None:
    later = {value for step in steps for value in step.outputs}
    for step in steps:
        if any(x in later and x not in known for x in step.operands if isinstance(x, Value)):
            ordered(steps)  # names the cycle, if that is why
        where = describe(step)
        for x in step.operands:
            _demand(x, known, where)
        if isinstance(step, Loop):
            _loop(step, set(known), iterations)
        else:
            _instruction(step, iterations)
        for value in step.outputs:
            _make(value, known, where)


def _instruction(step: Instruction, iterations: dict[Counter, int]) -> None:
    try:
        found = step.op.shape(*map(spec_of, step.operands), **at_iteration(step.static, iterations))
    except MinigradError as error:
        raise GraphError(f"{describe(step)}: {error}") from error
    specs = list(found) if step.op.outputs else [found]
    if [(tuple(s.shape), s.dtype) for s in specs] != [v.spec for v in step.outputs]:
        raise GraphError(f"{describe(step)}: outputs {step.outputs} are not as its shape rule says")


def _loop(loop: Loop, known: set[Value], iterations: dict[Counter, int]) -> None:
    if loop.trips < 1:
        raise GraphError(f"a loop of {loop.trips} iterations")
    for value in loop.parameters:
        _make(value, known, "a loop's parameters")
    for carry in loop.carries:
        if carry.delay < 1:
            raise GraphError(_through(loop, carry.parameter, carry.result))
        if any(not _fits(x, carry.parameter) for x in (*carry.initial, carry.result)):
            raise GraphError(f"a carry of {carry.parameter!r} has values of another kind")
    for indexed in loop.indexed:
        if len(indexed.items) != loop.trips:
            raise GraphError(f"{len(indexed.items)} items for a loop of {loop.trips} iterations")
        if any(not _fits(x, indexed.parameter) for x in indexed.items):
            raise GraphError(f"items for {indexed.parameter!r} are of another kind")
    for sliced in loop.sliced:
        _rows(sliced, sliced.parameter, 0, loop.trips)
    for t in sorted({0, loop.trips - 1}):
        _steps(loop.body, set(known), {**iterations, loop.counter: t})
    for step in loop.body:
        known.update(step.outputs)
    for carry in loop.carries:
        _demand(carry.result, known, "a carry")
    for collected in loop.collected:
        _demand(collected.result, known, "a collected output")
        if any(v.spec != collected.result.spec for v in collected.outputs.values()):
            raise GraphError(f"collected outputs of {collected.result!r} are of another kind")
        if not all(0 <= t < loop.trips for t in collected.outputs):
            raise GraphError(f"an output of an iteration beyond {loop.trips}")
    for stacked in loop.stacked:
        _demand(stacked.result, known, "a stacked output")
        _rows(stacked, stacked.result, -len(stacked.initial), loop.trips)
        if stacked.whole.spec.shape[0] != loop.trips + len(stacked.initial):
            raise GraphError(f"rows of {stacked.whole!r} that no iteration makes")
        if any(x.spec != stacked.result.spec for x in stacked.initial):
            raise GraphError(f"initial rows of {stacked.whole!r} are of another kind")


def _rows(rows: Sliced | Stacked, row: Value, first: int, trips: int) -> None:
    """Refuse a whole whose rows are of another kind than a value, and rows beyond its ends."""
    count, *shape = rows.whole.spec.shape
    if (tuple(shape), rows.whole.spec.dtype) != row.spec:
        raise GraphError(f"rows of {rows.whole!r} are no {row!r}")
    ends = [rows.start + rows.step * t for t in (first, trips - 1)]
    if rows.step not in (1, -1) or min(ends) < 0 or max(ends) >= count:
        raise GraphError(f"rows {ends[0]} to {ends[1]} of {rows.whole!r}")


def _fits(x: Operand, parameter: Value) -> bool:
    return is_number(x) or (isinstance(x, Value) and x.spec == parameter.spec)


def _through(loop: Loop, parameter: Value, result: Value) -> str:
    """The message for a carry without a delay: the steps from its parameter to its result."""
    came: dict[Value, tuple[Step, Value]] = {}
    reached = {parameter}
    for step in loop.body:
        source = next((x for x in step.operands if isinstance(x, Value) and x in reached), None)
        if source is not None:
            reached.update(step.outputs)
            came.update(dict.fromkeys(step.outputs, (step, source)))
    if result not in reached or result is parameter:
        return f"a carry of {parameter!r} has no initial value: its delay is at least one step"
    cycle = []
    while result is not parameter:
        step, result = came[result]
        cycle.append(step)
    return _named(cycle[::-1])

"""A small pass for tests: loops that read and write whole arrays, where unstack and stack did."""

from __future__ import annotations

from minigrad.graph import Collected, Graph, Indexed, Instruction, Loop
from minigrad.graph.ir import Sliced, Stacked


def with_rows(graph: Graph) -> Graph:
    """Indexed outputs of one unstack become Sliced; collected outputs of one stack, Stacked.

    Only in loops of the program itself, and where every row of the stack is an iteration's.
    """
    made = {v: (s, i) for s in graph.steps for i, v in enumerate(s.outputs)}
    uses = {}
    for i, step in enumerate(graph.steps):
        for x in step.operands:
            uses.setdefault(x, []).append(i)
    gone, steps = set(), list(graph.steps)
    for place, loop in enumerate(graph.steps):
        if not isinstance(loop, Loop):
            continue
        indexed, sliced = [], []
        for x in loop.indexed:
            found = _slices(x, made)
            (sliced if found else indexed).append(found or x)
        collected, stacked = [], []
        for x in loop.collected:
            found = _stack(x, loop, graph, uses)
            if found is None:
                collected.append(x)
            else:
                stacked.append(found[0])
                gone.add(found[1])
        steps[place] = Loop(
            loop.trips, loop.body, loop.carries, tuple(indexed), tuple(collected),
            (*loop.sliced, *sliced), (*loop.stacked, *stacked), loop.counter,
        )  # fmt: skip
    steps = [step for i, step in enumerate(steps) if i not in gone]
    return Graph(graph.inputs, tuple(steps), graph.outputs)


def _slices(indexed: Indexed, made: dict) -> Sliced | None:
    sources = [made.get(x, (None, 0)) for x in indexed.items]
    step = sources[0][0]
    if not isinstance(step, Instruction) or step.op.name != "unstack" or step.static["axis"]:
        return None
    places = [i for s, i in sources if s is step]
    for way in (1, -1):
        if places == [places[0] + way * t for t in range(len(indexed.items))]:
            return Sliced(indexed.parameter, step.operands[0], places[0], way)
    return None


def _stack(
    collected: Collected, loop: Loop, graph: Graph, uses: dict
) -> tuple[Stacked, int] | None:
    values = [collected.outputs.get(t) for t in range(loop.trips)]
    users = {i for v in values for i in uses.get(v, ())}
    if None in values or len(users) != 1 or set(values) & set(graph.outputs):
        return None
    [place] = users
    step = graph.steps[place]
    if not isinstance(step, Instruction) or step.op.name != "stack" or step.static["axis"]:
        return None
    for way, start in ((1, 0), (-1, loop.trips - 1)):
        if list(step.operands) == values[::way]:
            return Stacked(collected.result, step.outputs[0], start, way), place
    return None

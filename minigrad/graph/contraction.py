"""contract: a graph reduced to the values that have a name, an edge for every path between them.

An edge leads from u to v where a path of unnamed steps does; it says which weights the path meets,
and by how many iterations a loop delays it. Nothing is drawn here, and nothing known of what the
names mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

from minigrad.graph.ir import Graph, Instruction, Loop, Operand, Value, spec_of
from minigrad.graph.skeleton import hashable

PRODUCTS = {"matmul", "multiply", "einsum", "take", "index"}  # a row taken is one of a product


class Link(NamedTuple):
    """A path of unnamed steps: from where to where, past which weights, how many iterations on."""

    source: Hashable
    target: Hashable
    weights: tuple[str, ...] = ()
    delay: int = 0


class _Origin(NamedTuple):
    """What a value comes from, past which weights and how many iterations before."""

    value: Value
    weights: tuple[str, ...] = ()
    delay: int = 0


Origins = dict[Value, list[_Origin]]


def contract(
    graph: Graph, names: Mapping[Value, Hashable], weights: Mapping[Value, str] | None = None
) -> list[Link]:
    """The edges between named values, in the order of their targets' names, each once.

    Values of one name are one node, and what happens in it within an iteration is no edge; equal
    steps are one step, but where their values have two names these are two nodes. A value
    inside a loop and what stands for it outside (items, collected outputs) are one too where both
    have the name: `inside` gives it to the inner one. weights: names of values, inputs in most
    cases, that label the paths which multiply by them. Of paths through one unnamed value that
    meet the same weights the one with the fewest steps counts, with its delay.
    """
    first = _first(graph, names)
    origins = _origins(graph, first, dict(weights or {}))
    names = {first.get(value, value): name for value, name in names.items()}
    links: dict[Link, None] = {}
    for value, name in names.items():
        seen = set()
        waiting = deque([_Origin(value)])
        while waiting:
            at = waiting.popleft()
            for origin in origins.get(at.value, ()):
                found = _Origin(
                    origin.value,
                    tuple(dict.fromkeys((*origin.weights, *at.weights))),
                    at.delay + origin.delay,
                )
                if origin.value in names:
                    if found.delay or names[origin.value] != name:
                        links[Link(names[origin.value], name, *found[1:])] = None
                elif (origin.value, found.weights) not in seen:
                    seen.add((origin.value, found.weights))
                    waiting.append(found)
    return list(links)


def inside(graph: Graph, names: Mapping[Value, Hashable]) -> dict[Value, Hashable]:
    """The names, and for values in loops those of what they are item by item.

    A collected result takes the one name that its outputs have, an indexed parameter that of its
    items; where these have several names, none.
    """
    first = _first(graph, names)
    found = dict(names) | {first.get(value, value): name for value, name in names.items()}
    for loop in graph.loops():
        groups = [(c.result, tuple(c.outputs.values())) for c in loop.collected]
        groups += [(i.parameter, _values(i.items)) for i in loop.indexed]
        for value, parts in groups:
            of = {found[x] for x in (first.get(part, part) for part in parts) if x in found}
            if len(of) == 1 and value not in found:
                found[value] = of.pop()
    return found


def maker(graph: Graph, value: Value) -> Instruction | None:
    """The instruction that makes a value; None for an input, a constant and what a loop gives."""
    steps = (step for step in graph.walk() if isinstance(step, Instruction))
    return next((step for step in steps if value in step.outputs), None)


def made_by(graph: Graph, op: str, *operands: Value) -> list[Value]:
    """The outputs of all instructions of an op that take these operands, perhaps among others."""
    return [
        value
        for step in graph.walk()
        if isinstance(step, Instruction) and step.op.name == op and {*operands} <= {*step.operands}
        for value in step.outputs
    ]


def _values(operands: tuple[Operand, ...]) -> tuple[Value, ...]:
    return tuple(x for x in operands if isinstance(x, Value))


def _first(graph: Graph, names: Mapping[Value, Hashable]) -> dict[Value, Value]:
    """Of each value the first that is the same: made by an equal step, or a part of a stack.

    Two names keep two values apart, and all that is made of them.
    """
    first: dict[Value, Value] = {}
    called = dict(names)
    makers: dict[Operand, Instruction] = {}
    equal: dict[Hashable, Instruction] = {}

    def root(x: Operand) -> Operand:
        return first.get(x, x) if isinstance(x, Value) else x

    for step in graph.walk():
        if isinstance(step, Loop):
            continue
        makers.update(dict.fromkeys(step.outputs, step))
        operands = [root(x) for x in step.operands]
        joined = makers.get(operands[0]) if operands else None
        key = step.op.name, hashable(step.static), *map(hashable, operands)
        if joined and _unstacks(step, joined):
            of: tuple[Operand, ...] = joined.operands
        else:
            of = equal.setdefault(key, step).outputs
        for v, x in zip(step.outputs, map(root, of)):
            if x is v or not isinstance(x, Value):
                continue
            if called.get(v, called.get(x)) == called.get(x, called.get(v)):
                first[v] = x
                called.update({x: called[v]} if v in called else {})
    return first


def _unstacks(step: Instruction, joined: Instruction) -> bool:
    """Whether it takes apart what a stack has joined."""
    same = step.op.name == "unstack" and joined.op.name == "stack"
    return same and step.static == joined.static


def _origins(graph: Graph, first: dict[Value, Value], weights: dict[Value, str]) -> Origins:
    """Each value's origins; a step between weights and constants alone makes a weight."""
    origins: Origins = {}
    whole = [step for step in graph.walk() if isinstance(step, Instruction)]
    makers: dict[Operand, Instruction] = {v: step for step in whole for v in step.outputs}
    carried = {c.parameter: c for c in graph.delay_edges()}
    of: dict[Operand, tuple[str, ...]] = {value: (name,) for value, name in weights.items()}

    def values(operands: Iterable[Operand]) -> list[Value]:
        found = (first.get(x, x) for x in operands if isinstance(x, Value))
        return [x for x in found if x.constant is None]

    for step in graph.walk():
        if isinstance(step, Loop):
            for carry in step.carries:
                [result] = values([carry.result])
                origins[carry.parameter] = [_Origin(result, (), carry.delay)]
                origins[carry.parameter] += [_Origin(x) for x in values(carry.initial)]
            for indexed in step.indexed:
                items = values(indexed.items)
                origins[indexed.parameter] = [_Origin(x) for x in items]
            for collected in step.collected:
                for value in collected.outputs.values():
                    origins[value] = [_Origin(x) for x in values([collected.result])]
            continue
        given = values(step.operands)
        met = tuple(dict.fromkeys(name for x in given for name in of.get(x, ())))
        if met and all(x in of for x in given):
            of.update(dict.fromkeys(step.outputs, met))
        label = met if step.op.name in PRODUCTS else ()
        found = [_Origin(x, label) for x in given if x not in of]
        if step.op.name == "matmul":
            joined = [m for m in map(makers.get, given) if m and m.op.name == "concatenate"]
            if len(joined) == 2:
                left, right = ([first.get(x, x) for x in _values(m.operands)] for m in joined)
                found = _blocks(left, right, of) or found
        origins.update(dict.fromkeys(step.outputs, found))
        stacked = makers.get(given[0]) if given else None
        if stacked and _unstacks(step, stacked):  # into values of names of their own
            for value, x in zip(step.outputs, stacked.operands):
                origins[value] = [_Origin(y) for y in values([x]) if y not in of]
        late = carried.get(given[0]) if step.op.name == "split" and given else None
        parts = makers.get(late.result) if late else None
        if late and parts and _undoes(step, parts):  # what was joined is cut after a delay
            for value, part in zip(step.outputs, values(parts.operands)):
                origins[value] = [_Origin(part, (), late.delay)]
                origins[value] += [_Origin(x) for x in values(late.initial)]
    return origins


def _undoes(step: Instruction, joined: Instruction) -> bool:
    """Whether a split cuts where a concatenation has joined."""
    axis = step.static["axis"]
    sizes = [v.spec.shape[axis] for v in step.outputs]
    same_axis = joined.op.name == "concatenate" and joined.static["axis"] == axis
    return same_axis and sizes == [spec_of(x).shape[axis] for x in joined.operands]


def _blocks(
    left: list[Value], right: list[Value], of: Mapping[Operand, tuple[str, ...]]
) -> list[_Origin]:
    """Of a product of joined blocks with joined weights: each block, past its own weight."""
    fits = [(x.spec.shape[-1:], w.spec.shape[-2:-1]) for x, w in zip(left, right)]
    if len(left) != len(right) or any(a != b for a, b in fits) or any(w not in of for w in right):
        return []
    return [_Origin(x, of[w]) for x, w in zip(left, right) if x.constant is None]

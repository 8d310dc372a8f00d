"""unfold: a graph with every iteration written out; and a hash of it that forgets all names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from minigrad.graph.ir import (
    Counter,
    Graph,
    Instruction,
    Loop,
    Operand,
    Step,
    Value,
    at_iteration,
)
from minigrad.graph.skeleton import fresh, hashable

Known = dict[Operand, Operand]


def unfold(graph: Graph) -> Graph:
    """The flat graph that a graph with loops stands for: `unfold(fold(g))` is g up to names."""
    flat: list[Step] = []
    known: Known = {}
    _write(graph.steps, known, {}, flat)
    outputs = tuple(_value(known.get(v, v)) for v in graph.outputs)
    return Graph(graph.inputs, tuple(flat), outputs)


def _value(x: Operand) -> Value:
    if not isinstance(x, Value):
        raise TypeError(f"an output of a graph is a value, not {x!r}")
    return x


def _write(
    steps: Iterable[Step], known: Known, iterations: dict[Counter, int], flat: list[Step]
) -> None:
    for step in steps:
        if isinstance(step, Loop):
            _loop(step, known, iterations, flat)
            continue
        made = tuple(map(fresh, step.outputs))
        operands = tuple(known.get(x, x) for x in step.operands)
        flat.append(Instruction(step.op, operands, at_iteration(step.static, iterations), made))
        known.update(zip(step.outputs, made, strict=True))


def _loop(loop: Loop, known: Known, iterations: dict[Counter, int], flat: list[Step]) -> None:
    past = [[known.get(x, x) for x in carry.initial] for carry in loop.carries]
    items = [[known.get(x, x) for x in indexed.items] for indexed in loop.indexed]
    for t in range(loop.trips):
        known.update({c.parameter: results[t] for c, results in zip(loop.carries, past)})
        known.update({i.parameter: values[t] for i, values in zip(loop.indexed, items)})
        _write(loop.body, known, {**iterations, loop.counter: t}, flat)
        for carry, results in zip(loop.carries, past, strict=True):
            results.append(known.get(carry.result, carry.result))
        for collected in loop.collected:
            if t in collected.outputs:
                known[collected.outputs[t]] = known.get(collected.result, collected.result)


def fingerprint(graph: Graph) -> str:
    """A canonical hash of a graph, loops written out: names and order of steps do not matter.

    Each step is hashed by what it is computed from, then by what is computed from it, so that two
    equal steps and one step used twice differ.
    """
    graph = unfold(graph)
    down: dict[Operand, bytes] = {v: _hash("input", i, v.spec) for i, v in enumerate(graph.inputs)}
    for step in graph.steps:
        of = _hash(*_what(step), *(_operand(x, down) for x in step.operands))
        down.update({value: _hash(of, i) for i, value in enumerate(step.outputs)})
    uses: dict[Operand, list[bytes]] = {}
    for i, value in enumerate(graph.outputs):
        uses.setdefault(value, []).append(_hash("output", i))
    found = []
    for step in reversed(graph.steps):
        above = [_hash(i, *sorted(uses.get(v, ()))) for i, v in enumerate(step.outputs)]
        of = _hash(*_what(step), *(_operand(x, down) for x in step.operands), *above)
        found.append(of)
        for i, x in enumerate(step.operands):
            uses.setdefault(x, []).append(_hash(of, i))
    found += [_hash("input", i, *sorted(uses.get(v, ()))) for i, v in enumerate(graph.inputs)]
    found += [_hash("output", i, _operand(v, down)) for i, v in enumerate(graph.outputs)]
    return _hash(*sorted(found)).hex()


def _what(step: Step) -> tuple[object, ...]:
    if isinstance(step, Loop):
        raise TypeError("a loop in a flat graph")
    return step.op.name, hashable(step.static)


def _operand(x: Operand, down: dict[Operand, bytes]) -> bytes:
    if isinstance(x, Value) and x.constant is not None:
        return _hash("constant", x.spec, x.constant.numpy().tobytes())
    return down[x] if isinstance(x, Value) else _hash("number", repr(x))


def _hash(*parts: object) -> bytes:
    """A digest of parts, each of which says how long it is."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        written = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(written).to_bytes(8, "little") + written)
    return digest.digest()

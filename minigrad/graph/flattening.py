"""unfold: a graph with every iteration written out; and a hash of it that forgets all names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

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
from minigrad.op import REGISTRY
from minigrad.spec import Spec

STACK, UNSTACK = REGISTRY["stack"], REGISTRY["unstack"]
Known = dict[Operand, Operand]


def unfold(graph: Graph) -> Graph:
    """The flat graph that a graph with loops stands for: `unfold(fold(g))` is g up to names."""
    flat: list[Step] = []
    known: Known = {}
    _write(graph.steps, known, {}, flat)
    outputs = tuple(_value(known.get(v, v)) for v in graph.outputs)
    return Graph(graph.inputs, tuple(flat), outputs)


def written_out(loop: Loop) -> tuple[list[Step], dict[Value, Value]]:
    """A loop's iterations one after another, and what stands for the loop's outputs."""
    flat: list[Step] = []
    known: Known = {}
    _loop(loop, known, {}, flat)
    return flat, {v: _value(known[v]) for v in loop.outputs}


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
    slices = [_unstacked(known.get(s.whole, s.whole), s.whole.spec, flat) for s in loop.sliced]
    rows: list[list[Operand]] = [[known.get(x, x) for x in s.initial] for s in loop.stacked]
    for t in range(loop.trips):
        known.update({c.parameter: results[t] for c, results in zip(loop.carries, past)})
        known.update({i.parameter: values[t] for i, values in zip(loop.indexed, items)})
        known.update(
            {s.parameter: parts[s.start + s.step * t] for s, parts in zip(loop.sliced, slices)}
        )
        _write(loop.body, known, {**iterations, loop.counter: t}, flat)
        for carry, results in zip(loop.carries, past, strict=True):
            results.append(known.get(carry.result, carry.result))
        for collected in loop.collected:
            if t in collected.outputs:
                known[collected.outputs[t]] = known.get(collected.result, collected.result)
        for stacked, results in zip(loop.stacked, rows, strict=True):
            results.append(known.get(stacked.result, stacked.result))
    for stacked, results in zip(loop.stacked, rows, strict=True):
        whole = fresh(stacked.whole)
        flat.append(Instruction(STACK, tuple(results[:: stacked.step]), {"axis": 0}, (whole,)))
        known[stacked.whole] = whole


def _unstacked(whole: Operand, spec: Spec, flat: list[Step]) -> tuple[Value, ...]:
    count, *shape = spec.shape
    parts = tuple(Value(Spec(tuple(shape), spec.dtype)) for _ in range(count))
    flat.append(Instruction(UNSTACK, (whole,), {"axis": 0}, parts))
    return parts


def fingerprint(graph: Graph) -> str:
    """A canonical hash of a graph, loops written out: names and order of steps do not matter.

    Each step is hashed by what it is computed from, then by what is computed from it, so that two
    equal steps and one step used twice differ.
    """
    graph = unfold(graph)
    down: dict[Operand, Any] = {v: ("input", i, v.spec) for i, v in enumerate(graph.inputs)}
    made: list[bytes] = []
    for step in graph.steps:
        made.append(_hash(*_what(step), *(_operand(x, down) for x in step.operands)))
        down.update({value: (made[-1], i) for i, value in enumerate(step.outputs)})
    uses: dict[Operand, list[tuple[Any, ...]]] = {}
    for i, value in enumerate(graph.outputs):
        uses.setdefault(value, []).append((b"output", i, _operand(value, down)))
    found = []
    for step, of in zip(reversed(graph.steps), reversed(made), strict=True):
        found.append(_hash(of, *(sorted(uses.get(value, ())) for value in step.outputs)))
        for i, x in enumerate(step.operands):
            if isinstance(x, Value):
                uses.setdefault(x, []).append((found[-1], i))
    found += [_hash("input", i, sorted(uses.get(v, ()))) for i, v in enumerate(graph.inputs)]
    found += [_hash("output", i, _operand(v, down)) for i, v in enumerate(graph.outputs)]
    return _hash(*sorted(found)).hex()


def _what(step: Step) -> tuple[Any, ...]:
    if isinstance(step, Loop):
        raise TypeError("a loop in a flat graph")
    return step.op.name, hashable(step.static)


def _operand(x: Operand, down: dict[Operand, Any]) -> Any:
    if isinstance(x, Value) and x.constant is not None:
        return "constant", x.spec, _hash(x.constant.numpy().tobytes())
    return down[x] if isinstance(x, Value) else ("number", x)


def _hash(*parts: Any) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()

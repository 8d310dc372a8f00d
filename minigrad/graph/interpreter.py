"""evaluate: the meaning of a graph, and what every pass is tested against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minigrad.errors import ShapeError
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
from minigrad.op import at_choke_points, mode
from minigrad.ops.shape import stack, unstack
from minigrad.tensor import Tensor

Known = dict[Value, Any]


def evaluate(graph: Graph, inputs: Sequence[Any]) -> list[Tensor]:
    """The outputs of a graph for its inputs (tensors or arrays), one instruction after another.

    Raises ShapeError for inputs of another number, shape or dtype than the graph was made for.
    """
    if len(inputs) != len(graph.inputs):
        raise ShapeError(f"the graph has {len(graph.inputs)} inputs, not {len(inputs)}")
    known: Known = {}
    for i, (value, given) in enumerate(zip(graph.inputs, inputs, strict=True)):
        tensor = given if isinstance(given, Tensor) else Tensor(given)
        if (tensor.shape, tensor.dtype) != value.spec:
            raise ShapeError(
                f"input {i} ({value.name}) is {tensor.shape} {tensor.dtype}, but the graph was "
                f"made for {value.spec.shape} {value.spec.dtype}"
            )
        known[value] = tensor
    with at_choke_points(recording=False):
        _run(graph.steps, known, {})
    return [_find(value, known) for value in graph.outputs]


def _find(x: Operand, known: Known) -> Any:
    if not isinstance(x, Value):
        return x
    return x.constant if x.constant is not None else known[x]


def _run(steps: Iterable[Step], known: Known, iterations: dict[Counter, int]) -> None:
    for step in steps:
        if isinstance(step, Loop):
            _loop(step, known, iterations)
        else:
            _instruction(step, known, iterations)


def _instruction(step: Instruction, known: Known, iterations: dict[Counter, int]) -> None:
    operands = [_find(x, known) for x in step.operands]
    made = mode.get().run(step.op, operands, at_iteration(step.static, iterations))
    known.update(zip(step.outputs, made if step.op.outputs else (made,), strict=True))


def _loop(loop: Loop, known: Known, iterations: dict[Counter, int]) -> None:
    past = [[_find(x, known) for x in carry.initial] for carry in loop.carries]
    items = [[_find(x, known) for x in indexed.items] for indexed in loop.indexed]
    slices = [unstack(_find(sliced.whole, known)) for sliced in loop.sliced]
    rows: list[list[Any]] = [[_find(x, known) for x in stacked.initial] for stacked in loop.stacked]
    for t in range(loop.trips):
        for carry, results in zip(loop.carries, past, strict=True):
            known[carry.parameter] = results[t]  # the result of iteration t - delay
        for indexed, values in zip(loop.indexed, items, strict=True):
            known[indexed.parameter] = values[t]
        for sliced, parts in zip(loop.sliced, slices, strict=True):
            known[sliced.parameter] = parts[sliced.start + sliced.step * t]
        _run(loop.body, known, {**iterations, loop.counter: t})
        for carry, results in zip(loop.carries, past, strict=True):
            results.append(_find(carry.result, known))
        for collected in loop.collected:
            if t in collected.outputs:
                known[collected.outputs[t]] = _find(collected.result, known)
        for stacked, results in zip(loop.stacked, rows, strict=True):
            results.append(_find(stacked.result, known))
    for stacked, results in zip(loop.stacked, rows, strict=True):
        known[stacked.whole] = stack(results[:: stacked.step])

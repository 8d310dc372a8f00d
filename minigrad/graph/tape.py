"""Tape: how the results of a capture came from its inputs, for derivatives of captured functions.

The capture is resumed for a traversal back to the inputs, which captures the graph of the backward
computation: with detach, no_grad and hooks at their places, and a tape of its own where the
traversal was recorded, so that derivatives exist to any order, each captured when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minigrad.graph.ir import Graph
from minigrad.graph.simplifying import needed_of
from minigrad.ops.create import zeros_like
from minigrad.sweep import pull, reached
from minigrad.tensor import FREED, Node, Tensor

if TYPE_CHECKING:
    from minigrad.graph.recorder import Recorder


@dataclass(eq=False)
class Tape:
    """Traced handles, on their graph, of all inputs and of the results a function returns."""

    recorder: Recorder
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    differentiable: tuple[int, ...]  # positions of the outputs that gradients flow from
    dtypes: tuple[Any, ...]  # of these
    wrt: tuple[int, ...]  # positions of the inputs that gradients reach, each leaf once

    @property
    def handles(self) -> tuple[Tensor, ...]:
        return (*self.inputs, *self.outputs)

    def backward(self, recording: bool, hooks: bool) -> tuple[Graph, Tape | None]:
        """The graph from (inputs, cotangents of differentiable) to the cotangents of wrt.

        recording: with a tape of its own. hooks: as for `pull`.
        """
        recorder = self.recorder
        ys = [self.outputs[i] for i in self.differentiable]
        xs = [self.inputs[i] for i in self.wrt]
        with recorder.resumed(recording):
            gs = [recorder.cotangent(y, f"g{i}", recording) for i, y in enumerate(ys)]
            found = pull(ys, gs, xs, recording, stop=True, hooks=hooks)
            found = [zeros_like(x) if g is None else g for x, g in zip(xs, found, strict=True)]
            inputs = [*self.inputs, *gs]
            outputs = tuple(map(recorder.value, found))
            graph = Graph(
                tuple(map(recorder.value, inputs)), needed_of(recorder.steps, set(outputs)), outputs
            )
            tape = tape_of(recorder, inputs, found) if recording else None
        return graph, tape


def tape_of(recorder: Recorder, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tape | None:
    """The tape of handles on their graph; None where no gradient can flow.

    None flows from a result whose graph backward has freed.
    """
    nodes = reached(y.node for y in outputs if y.node)
    freed: set[Node] = set()
    for node in reversed(nodes):
        if node.saved is FREED or not freed.isdisjoint(node.parents):
            freed.add(node)
    differentiable = [i for i, y in enumerate(outputs) if y.node and y.node not in freed]
    if freed:
        nodes = reached(y.node for i in differentiable if (y := outputs[i]).node)
    known = set(nodes)
    first = {x.node: i for i, x in reversed(list(enumerate(inputs))) if x.node in known}
    if not first:
        return None
    dtypes = tuple(outputs[i].dtype for i in differentiable)
    wrt = tuple(sorted(first.values()))
    return Tape(recorder, inputs, outputs, tuple(differentiable), dtypes, wrt)

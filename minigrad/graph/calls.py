"""Call: a program that can be differentiated, each call one node of the eager graph around it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from minigrad.backend import Backend
from minigrad.graph import tracing
from minigrad.graph.building import Program
from minigrad.graph.ir import Graph
from minigrad.graph.tape import Tape
from minigrad.op import BareRun, Mode, Op, Plan, bare, in_mode, mode
from minigrad.recompute import as_output
from minigrad.sweep import tensor_of
from minigrad.tensor import Node, Tensor


class CallOp(Op):
    """The op of the node: its operands are the inputs, all of them under one name."""

    def operand(self, position: Any) -> str:
        return "xs"


class Call:
    """A program and its derivative, which is a call again, built when it is first asked for."""

    def __init__(self, graph: Graph, tape: Tape | None, backend: Backend) -> None:
        self.program = Program(graph, backend)
        self.backend, self.tape = backend, tape
        self.derivatives: dict[tuple[bool, bool], Call] = {}
        everything = range(len(graph.inputs))
        rule, without_hooks = partial(self._rule, True), partial(self._rule, False)
        self.plan = Plan(((everything, rule, lambda values: values),), (("operand", everything),))
        self.op = CallOp(
            "compiled",
            forward=lambda xp, *xs: xs,
            rules={"xs": rule},
            shape=lambda *xs: list(xs),
            dtypes="free",
            outputs=True,
            jvp={"xs": without_hooks},
        )

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs; those of the tape have their history, if it is recorded."""
        outputs = self.program(inputs)
        tape = self.tape
        if tape is None or not mode.get().recording:
            return outputs
        edges = {i: inputs[i] for i in tape.wrt if inputs[i].node is not None}
        if not edges:
            return outputs
        ys = [outputs[i] for i in tape.differentiable]
        node = Node(
            self.op,
            self.plan,
            tuple(edges[i].node if i in edges else None for i in range(len(inputs))),
            tuple(x.index for x in inputs),
            {},
            (tuple(map(bare, inputs)),),
            self.backend,
            tuple(y.shape for y in ys),
            max((y.dtype for y in ys), key=attrgetter("itemsize")),
        )
        for slot, (i, y) in enumerate(zip(tape.differentiable, ys, strict=True)):
            outputs[i] = as_output(y, node, slot)
        return outputs

    def _rule(self, hooks: bool, g: Sequence[Any], xs: Sequence[Any]) -> list[Any]:
        """The cotangents of the inputs, by a call of the derivative's program."""
        tape, here = self.tape, mode.get()
        if tape is None:
            raise TypeError("a call without a tape has no derivative")
        alone = isinstance(here.run, BareRun)
        inputs = [tensor_of(self.backend, x) for x in (*xs, *g)]
        with in_mode(Mode(recording=False)) if alone else contextlib.nullcontext():
            for k, dtype in enumerate(tape.dtypes, len(xs)):
                if inputs[k].dtype != dtype:  # the node has one dtype
                    inputs[k] = inputs[k].astype(dtype)
            found = self.derivative(mode.get().recording, hooks)(inputs)
        parts: list[Any] = [None] * len(xs)
        for i, part in zip(tape.wrt, found, strict=True):
            parts[i] = bare(part) if alone else part
        return parts

    def derivative(self, recording: bool, hooks: bool = True) -> Call:
        """The call from inputs and cotangents to cotangents; recording: to be differentiated."""
        key = recording, hooks
        with tracing.capturing, tracing.uncollected():
            if key not in self.derivatives and self.tape is not None:
                self.derivatives[key] = Call(*self.tape.backward(recording, hooks), self.backend)
            return self.derivatives[key]

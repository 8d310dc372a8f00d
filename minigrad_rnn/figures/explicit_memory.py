"""A network with explicit memory (Figure 10.18), drawn from the graph of a Turing machine."""

from __future__ import annotations

import math
from typing import Any

import minigrad as mg
from minigrad.graph import Graph, maker
from minigrad.pictures import Panel
from minigrad_rnn.cells import RNNCell
from minigrad_rnn.figures.parts import B, D, H, record, vectors
from minigrad_rnn.figures.registry import figure
from minigrad_rnn.figures.trace import Look, Names, Trace, circuit
from minigrad_rnn.memory import NTMCell

N, M = 5, 3  # memory cells, numbers in each


def heads(graph: Graph, found: Names) -> Names:
    """Where the read head and the write head are: joined in this order in the state."""
    for value, name in found.items():
        step = maker(graph, value) if name == "weights" else None
        if step is not None and step.op.name == "concatenate":
            return dict(zip(step.operands, ("read head", "write head")))  # type: ignore[arg-type]
    return {}


@figure("10.18", "Networks with explicit Memory")
def explicit_memory() -> list[Panel]:
    """A network with explicit memory. The task network, itself recurrent, moves a head that writes
    into memory cells and one that reads; both also look at what the cells hold. What was read goes
    back to the task network, at the next step."""
    cell = NTMCell(RNNCell(D + M, H), H, N, M)

    def program(xs: mg.Tensor) -> Any:
        found: dict[str, list[Any]] = {name: [] for name in ("x", "h", "memory", "weights", "r")}
        state = cell.initial_state(B)
        for x in xs:
            _, state = cell(x, state)
            memory, weights, read, h = state
            record(found, x=x, h=h, memory=memory, weights=weights, r=read)
        return found

    at = {
        "x": (2, 0), "h": (2, 1), "write head": (0.4, 2.4), "read head": (3.2, 2.4),
        "memory": (2, 3.8), "r": (4.7, 2.4),
    }  # fmt: skip
    bends = {
        ("write head", "memory"): 0.12, ("memory", "write head"): 0.12,
        ("memory", "memory"): math.pi / 2, ("read head", "read head"): -1.0, ("h", "h"): math.pi,
        ("r", "h"): 0.35,
    }  # fmt: skip
    labels = {"h": "task network", "memory": "memory cells"}
    kinds = {"h": "box", "write head": "box", "read head": "box", "memory": "cells"}
    return [circuit(Trace(program, vectors(3), find=heads), Look(at, labels, kinds, bends))]

"""Figures of the other lectures: kinds of RNN, computational graphs, truncated backpropagation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import minigrad as mg
from minigrad import functional as F
from minigrad.graph import Graph, made_by
from minigrad.pictures import Panel
from minigrad_rnn.attention import Additive, BahdanauCell
from minigrad_rnn.cells import RNNCell
from minigrad_rnn.depth import MLP, ResNet

# isort: off
from minigrad_rnn.figures.parts import (
    B, D, Driven, H, Watched, readout, record, rows, symbols, vectors, weight,
)  # fmt: skip

# isort: on
from minigrad_rnn.figures.registry import figure
from minigrad_rnn.figures.trace import Look, Names, Trace, circuit, steps
from minigrad_rnn.patterns import HiddenLayer
from minigrad_rnn.unrolling import unroll

# --- networks -------------------------------------------------------------------------------------


@figure("feed-forward", "Feed-Forward Networks")
def feed_forward() -> list[Panel]:
    """Information flows from the input through the hidden layers to the output and never back: the
    graph has no cycle, and no delay."""
    hidden = Watched(mg.tanh)
    network = MLP([D, H, H, H], hidden)

    def program(x: mg.Tensor) -> Any:
        y = network(x)
        (_, h1), (_, h2) = hidden.take()
        return {"x": x, "h1": h1, "h2": h2, "y": y}

    at = {"x": (0, 0), "h1": (1, 0), "h2": (2, 0), "y": (3, 0)}
    labels = {"h1": "h_1", "h2": "h_2"}
    return [circuit(Trace(program, mg.zeros((B, D))), Look(at, labels))]


@figure("rnn", "Recurrent Neural Network (RNN)", joint="unroll")
def rnn() -> list[Panel]:
    """The state h is a function of the input x and of the last state, which a delay (black square)
    brings back: the network remembers. Unrolled, it is a feed-forward graph again, with the same
    weights at every step."""
    cell, output = RNNCell(D, H), readout()

    def program(xs: mg.Tensor, h: mg.Tensor) -> Any:
        found: dict[str, list[Any]] = {name: [] for name in "xhy"}
        start = h
        for x in xs:
            _, h = cell(x, h)
            record(found, x=x, h=h, y=output(h))
        return found | {"h0": start}

    trace = Trace(program, vectors(3), mg.zeros((B, H)))
    at = {"x": (1, 0), "h": (1, 1), "y": (1, 2), "h0": (0, 1)}
    labels = {"h0": "h^(0)"}
    return [
        circuit(trace, rows("x", "h", "y")),
        steps(trace, Look(at, labels), "123"),
    ]


@figure("residual", "Res-Net")
def residual() -> list[Panel]:
    """Three blocks of a residual network: what a block F makes of x is added to x, which passes by
    it unchanged. With one F for all blocks this is a recurrent network unrolled."""
    inner = Watched(MLP([H, H, H]))

    def program(x: mg.Tensor) -> Any:
        states = [x]
        for _ in range(3):
            states.append(ResNet([inner])(states[-1]))
        return {"x": states, "F": [made for _, made in inner.take()]}

    at = {"x": (0, 0, 2), "F": (1, 0.9, 2)}
    look = Look(at, kinds={"F": "box"})
    return [steps(Trace(program, mg.zeros((B, H))), look, {"x": "0123", "F": "123"})]


# --- kinds of RNN ---------------------------------------------------------------------------------


@figure("kinds", "Recurrent Neural Networks: Process Sequences")
def kinds() -> list[Panel]:
    """Kinds of RNN, by what they read and write. An image to a caption is one to many, a review to
    its sentiment many to one, translation many to many, and so, with an output for every input, is
    a label for each frame of a video."""
    layer, output, cell, second = HiddenLayer(D, H), readout(), RNNCell(D, H), Driven()
    U = weight(D, H)

    def one_to_one(x: mg.Tensor) -> Any:
        h, _ = layer(x)
        return {"x": [x], "h": [h], "y": [output(h)]}

    def one_to_many(x: mg.Tensor) -> Any:
        found: dict[str, list[Any]] = {"x": [x], "h": [], "y": []}
        state, u = second.initial_state(B), x @ U
        for _ in range(3):
            h, state = second(u, state)
            record(found, h=h, y=output(h))
            u = mg.zeros((B, H))
        return found

    def many_to_one(xs: mg.Tensor) -> Any:
        hs, h = unroll(cell, xs)
        return {"x": list(xs), "h": list(hs), "y": output(h)}

    def translation(xs: mg.Tensor) -> Any:
        hs, state = unroll(cell, xs)
        more, _ = unroll(lambda x, h: second(mg.zeros((B, H)), h), None, state, steps=2)
        return {"x": list(xs), "h": list(hs) + list(more), "y": [output(h) for h in more]}

    def frames(xs: mg.Tensor) -> Any:
        hs, _ = unroll(cell, xs)
        return {"x": list(xs), "h": list(hs), "y": [output(h) for h in hs]}

    def panel(program: Any, x: mg.Tensor, y: float, title: str) -> Panel:
        at = {"x": (0, 0), "h": (0, 1), "y": (y, 2)}
        return steps(Trace(program, x), Look(at, kinds={"x": "gate", "y": "output"}), title=title)

    return [
        panel(one_to_one, mg.zeros((B, D)), 0, "one to one"),
        panel(one_to_many, mg.zeros((B, D)), 0, "one to many"),
        panel(many_to_one, vectors(3), 2, "many to one"),
        panel(translation, vectors(3), 3, "many to many"),
        panel(frames, vectors(3), 0, "many to many"),
    ]


# --- computational graphs -------------------------------------------------------------------------


def unrolled(inputs: int, outputs: Sequence[int] = (), losses: bool = False) -> Panel:
    """Three steps of a vanilla RNN with what it computes at each (f) and the weight W, one node
    for all steps; inputs in the first steps, outputs and losses in some."""
    cell, output = RNNCell(D, H), readout()
    f = cell.activation = Watched(mg.tanh)

    def program(xs: mg.Tensor, targets: mg.Tensor, h: mg.Tensor) -> Any:
        found: dict[str, Any] = {"h0": h, "W": (cell.Wx, cell.Wh), "x": list(xs)}
        found |= {name: [] for name in ("f", "h", "y", "L")}
        for t, target in enumerate(targets):
            x = xs[t] if t < inputs else mg.zeros((B, D))
            _, h = cell(x, h)
            [(given, _)] = f.take()
            record(found, f=given, h=h)
            if t in outputs:
                record(found, y=output(h))
                record(found, L=F.cross_entropy(found["y"][-1], target))
        return found | {"loss": mg.sum(mg.stack(found["L"])) if losses else None}

    trace = Trace(program, vectors(inputs), symbols(3), mg.zeros((B, H)))
    first = outputs[0] if outputs else 0
    at: dict[str, tuple[float, ...]] = {
        "h0": (0, 2), "f": (1, 2, 2), "h": (2, 2, 2), "W": (3, 0.6), "x": (1, 3, 2),
    }  # fmt: skip
    if outputs:
        at["y"] = (2 + 2 * first, 3, 2)
    if losses:
        at |= {"L": (2 + 2 * first, 4, 2), "loss": (4, 5.1)}
    names = ("1", "2", "3")
    columns = dict.fromkeys("xh", names) | dict.fromkeys("yL", names[first:])
    labels = {"f": "f_W", "h0": "h^(0)", "loss": "L"}
    kinds = {"f": "box", "W": "gate", "x": "gate"}
    return steps(trace, Look(at, labels, kinds), columns)


@figure("computational-graph", "RNN: Computational Graph")
def computational_graph() -> list[Panel]:
    """The same function f, with the same weight matrices W, at every step: W is one node, which all
    steps use."""
    return [unrolled(3)]


@figure("many-to-many", "RNN: Computational Graph: Many to Many")
def many_to_many() -> list[Panel]:
    """An output y and a loss at every step; the loss L of the sequence is their sum, from which one
    backward pass reaches every use of W."""
    return [unrolled(3, (0, 1, 2), losses=True)]


@figure("many-to-one", "RNN: Computational Graph: Many to One")
def many_to_one_graph() -> list[Panel]:
    """The output comes from the last state, which sums up the whole sequence."""
    return [unrolled(3, (2,))]


@figure("one-to-many", "RNN: Computational Graph: One to Many")
def one_to_many_graph() -> list[Panel]:
    """One input, at the first step, and an output at every step."""
    return [unrolled(1, (0, 1, 2))]


@figure("sequence-to-sequence", "Sequence to Sequence: Many-to-one + one-to-many")
def sequence_to_sequence() -> list[Panel]:
    """Many to one: an encoder with weights W1 reads the sequence into its last state. One to many:
    a decoder with weights W2 writes from that state alone."""
    encoder, decoder, output = RNNCell(D, H), Driven(), readout()
    f = encoder.activation = Watched(mg.tanh)

    def program(xs: mg.Tensor, h: mg.Tensor) -> Any:
        found: dict[str, Any] = {"W1": (encoder.Wx, encoder.Wh), "W2": decoder.W, "h0": h}
        found |= {name: [] for name in "xfhgsy"}
        for x in xs:
            _, h = encoder(x, h)
            [(given, _)] = f.take()
            record(found, x=x, f=given, h=h)
        for _ in range(2):
            g = h @ decoder.W
            h = mg.tanh(g)
            record(found, g=g, s=h, y=output(h))
        return found

    trace = Trace(program, vectors(3), mg.zeros((B, H)))
    at = {
        "h0": (0, 2), "f": (1, 2, 2), "h": (2, 2, 2), "x": (1, 3, 2), "W1": (3, 0.8),
        "g": (7, 2, 2), "s": (8, 2, 2), "y": (8, 3, 2), "W2": (8, 0.8),
    }  # fmt: skip
    labels = {"f": "f_W1", "g": "f_W2", "h0": "h^(0)", "W1": "W_1", "W2": "W_2"}
    columns = dict.fromkeys("xhsy", ("1", "2", "3"))
    kinds = {"f": "box", "g": "box", "W1": "gate", "W2": "gate", "x": "gate"}
    return [steps(trace, Look(at, labels, kinds), columns)]


# --- training -------------------------------------------------------------------------------------


def backward_frame(chunks: int, length: int) -> Panel:
    """A stream read in chunks, the state carried on and cut off; the gradients of the last one."""
    cell, output = RNNCell(D, H), readout()

    def program(xs: mg.Tensor, targets: mg.Tensor) -> Any:
        found: dict[str, list[Any]] = {name: [] for name in "xhL"}
        h = cell.initial_state(B)
        for t, (x, target) in enumerate(zip(xs, targets, strict=True)):
            if t % length == 0:
                h = h.detach()  # the values go on, the gradient does not go back
            _, h = cell(x, h)
            record(found, x=x, h=h, L=F.cross_entropy(output(h), target))
        chunk = found["L"][-length:]
        kept = [*found["h"], *chunk]
        gradients = mg.pullback(mg.sum(mg.stack(chunk)), kept, allow_unused=True)
        n = len(found["h"])
        return found | {"dh": gradients[:n], "dL": [None] * (n - length) + list(gradients[n:])}

    T = chunks * length
    trace = Trace(program, vectors(T), symbols(T))
    names = [str(t + 1) for t in range(T)]
    return steps(trace, Look(rows("x", "h", "L").at, gradients={"dh": "h", "dL": "L"}), names)


@figure("bptt", "Backpropagation through time")
def backpropagation_through_time() -> list[Panel]:
    """Forward through the entire sequence to compute the loss, then backward (dashed) through the
    entire sequence to compute the gradient."""
    return [backward_frame(1, 6)]


@figure("tbptt", "Truncated Backpropagation through time", stacked=True)
def truncated() -> list[Panel]:
    """Chunk after chunk of a sequence. The hidden state is carried forward for ever, but gradients
    (dashed) flow back only to the beginning of the chunk."""
    panels = [backward_frame(n, 3) for n in (1, 2, 3)]
    for n, panel in enumerate(panels):
        panel.title = f"chunk {n + 1}"
    return panels


@figure("attention", "Attention")
def attention() -> list[Panel]:
    """A step of a decoder that looks back. The last state s and all states h of the encoder give
    the weights α of where to look; the context c, the sum of all h by their weights, enters the
    next state with the last symbol y. No vector of fixed size has to hold all of the input."""
    encoder = RNNCell(D, H)
    cell = BahdanauCell(RNNCell(D + H, H), Additive(H, H, H))

    def program(xs: mg.Tensor, y: mg.Tensor, s: mg.Tensor) -> Any:
        hs, _ = unroll(encoder, xs)
        _, (memory, new) = cell(y, cell.begin(hs, s))
        found = {"x": list(xs), "h": list(hs), "memory": memory.values, "α": memory.weights}
        return found | {"y": y, "s before": s, "s": new}

    def context(graph: Graph, found: Names) -> Names:
        [memory] = [value for value, name in found.items() if name == ("memory", None)]
        return {made_by(graph, "matmul", memory)[-1]: ("c", None)}  # the other makes the keys

    at = {
        "x": (0, 0), "h": (0, 1), "memory": (1.5, 2), "α": (0.6, 3.2), "c": (2.4, 3.2),
        "s before": (0.6, 4.3), "s": (2.4, 4.3), "y": (3.5, 3.2),
    }  # fmt: skip
    labels = {"memory": "all h", "s before": "s^(t-1)", "s": "s^(t)", "y": "y^(t-1)"}
    kinds = {"memory": "cells", "α": "gate", "x": "gate"}
    trace = Trace(program, vectors(4), *(mg.zeros((B, n)) for n in (D, H)), find=context)
    return [steps(trace, Look(at, labels, kinds), dict.fromkeys("xh", "1234"))]

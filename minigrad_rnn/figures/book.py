"""Figures 10.1 to 10.14 of Deep Learning (Goodfellow, Bengio and Courville 2016)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Linear
from minigrad.pictures import Panel
from minigrad_rnn.cells import RNNCell
from minigrad_rnn.compose import Bidirectional, Recurrent, Stack
from minigrad_rnn.decode import draw
from minigrad_rnn.depth import MLP, DeepCell

# isort: off
from minigrad_rnn.figures.parts import (
    MIDDLE, B, D, Driven, H, T, V, Watched, readout, record, rows, symbols, vectors, weight,
)  # fmt: skip

# isort: on
from minigrad_rnn.figures.registry import figure
from minigrad_rnn.figures.trace import ELISION, Look, Trace, circuit, steps
from minigrad_rnn.patterns import Decoder, EncoderDecoder, HiddenLayer, OutputFeedback
from minigrad_rnn.recursive import RecursiveCell, Tree, balanced
from minigrad_rnn.unrolling import unroll


@figure("10.1", "Classical Dynamical Systems")
def dynamical_system() -> list[Panel]:
    """A dynamical system unfolded: each state is f of the one before, and f, with its parameters,
    is the same at every step.
    """
    theta = weight(H, H)

    def program(s: mg.Tensor) -> Any:
        states = []
        for _ in range(T):
            s = mg.tanh(s @ theta)
            states.append(s)
        return {"s": states}

    trace = Trace(program, mg.zeros((B, H)), weights={"f": theta})
    return [steps(trace, rows("s"), MIDDLE)]


@figure("10.2", "Unfolding Computation Graphs", joint="unfold")
def driven_system() -> list[Panel]:
    """A recurrent network without outputs takes its input x into the state h. Left, the circuit:
    the black square is a delay of one step. Right, the same graph unfolded, with a node for every
    step.
    """
    cell = RNNCell(D, H)

    def program(xs: mg.Tensor) -> Any:
        hs, _ = unroll(cell, xs)
        return {"x": list(xs), "h": list(hs)}

    trace = Trace(program, vectors(T))
    at = rows("x", "h")
    return [circuit(trace, at), steps(trace, at, MIDDLE)]


NET = rows("x", "h", "o", "L", "y")


def net(cell: Any, steps_of: int = T, feeds: str = "") -> Trace:
    """A net with outputs o and losses L. Where it feeds something back, "o" or the true "y", the
    cell has an activation that is watched and a matrix of two blocks, U and W or, of y, R."""
    output, U, back = readout(), weight(D, H), weight(V, H)
    fed = OutputFeedback(cell, output)
    hidden = cell.activation = Watched(mg.tanh)

    def program(xs: mg.Tensor, ys: mg.Tensor) -> Any:
        cell.Wx = mg.concatenate([U, back]) if feeds else U
        found: dict[str, list[Any]] = {name: [] for name in NET.at}
        state = fed.initial_state(B) if feeds else cell.initial_state(B)
        for x, y in zip(xs, ys, strict=True):
            if feeds:
                o, state = fed(x, state)
            else:
                out, state = cell(x, state)
                o = output(out)
            if feeds == "y":
                state = (state[0], y)
            L = F.cross_entropy(o, mg.argmax(y, -1))
            [(_, h)] = hidden.take()
            record(found, x=x, h=h, o=o, L=L, y=y)
        cell.Wx = U  # the joined matrix ends with the capture
        return found

    weights = {"U": U, "V": output.W, "W": back}
    if hasattr(cell, "Wh"):
        weights |= {"R": back, "W": cell.Wh}
    return Trace(program, vectors(steps_of), vectors(steps_of, V), weights=weights)


@figure("10.3", "Recurrent Hidden Units", joint="unfold")
def recurrent_net() -> list[Panel]:
    """Inputs x give outputs o, which a loss L compares with targets y at every step. U leads from
    input to hidden units, W from hidden to hidden units, V from hidden units to output; all three
    are the same at all steps.
    """
    trace = net(RNNCell(D, H))
    return [circuit(trace, NET), steps(trace, NET, MIDDLE)]


# --- 10.2.1, 10.2.2: other recurrences ------------------------------------------------------------


@figure("10.4", "Recurrence through only the Output", joint="unfold")
def output_recurrence() -> list[Panel]:
    """The only recurrence leads from the output o to the next hidden layer h, which must tell the
    future all it needs by way of o. Such a net can do less than that of Figure 10.3, but its
    steps can be trained each on its own.
    """
    trace = net(HiddenLayer(D + V, H), feeds="o")
    return [circuit(trace, Look(NET.at, bends={("o", "h"): 1.0})), steps(trace, NET, MIDDLE)]


@figure("10.5", "Sequence Input, Single Output")
def many_to_one() -> list[Panel]:
    """A sequence is read to its end, and one output made of what was read: a summary of fixed
    size. A target may stand at the end, as here, or the gradient of o come from whatever is built
    on it.
    """
    cell, output = RNNCell(D, H), readout()

    def program(xs: mg.Tensor, y: mg.Tensor) -> Any:
        hs, h = unroll(cell, xs)
        o = output(h)
        return {"x": list(xs), "h": list(hs), "o": o, "L": F.cross_entropy(o, y), "y": y}

    weights = {"U": cell.Wx, "W": cell.Wh, "V": output.W}
    trace = Trace(program, vectors(6), symbols(1)[0], weights=weights)
    at = {**rows("x", "h").at} | {name: (5, 2 + n) for n, name in enumerate("oLy")}
    labels = {name: f"{name}^(τ)" for name in "oLy"}
    panel = steps(trace, Look(at, labels), (ELISION, "t-1", "t", "t+1", ELISION, "τ"))
    return [panel]


@figure("10.6", "Teacher Forcing")
def teacher_forcing() -> list[Panel]:
    """Teacher forcing. (a) While training, the true output y of a step is fed to the next. (b)
    Afterwards it is not known, and the model's own output o is fed back instead.
    """
    train, test = (net(HiddenLayer(D + V, H), 2, feeds) for feeds in "yo")
    columns = ("t-1", "t")
    return [
        steps(train, NET, columns, title="(a) training"),
        steps(test, rows("x", "h", "o"), columns, title="(b) test"),
    ]


# --- 10.2.3, 10.2.4: graphical models, vector to sequence -----------------------------------------


def symbols_drawn() -> Trace:
    """A decoder that draws each symbol given all before it."""
    decoder = Decoder(V, H, Driven(), H)

    def program() -> Any:
        y, state = decoder.start(B), decoder.initial_state(B)
        key = mg.random.key(0)
        found: dict[str, list[Any]] = {"h": [], "y": []}
        for t in range(6):
            o, state = decoder(y, state)
            y = draw(o, key.fold(t))
            record(found, h=state[1], y=y)
        return found

    return Trace(program)


SIX = ("1", "2", "3", "4", "5", ELISION)


@figure("10.7", "Fully Connected Graphical Model")
def fully_connected() -> list[Panel]:
    """The graphical model of a sequence y(1), y(2), ...: every value may depend on all before it.
    Drawn here is the graph of Figure 10.8 with h left out.
    """
    names = [f"y({name})" for name in (*SIX[:5], f"{ELISION}6")]
    # Above the line or below it as in the drawings with the fewest crossings: 3, of 6 nodes.
    bends = {
        (names[i], names[j]): 0.45 if (i + j) % 6 < 3 else -0.45
        for i in range(6)
        for j in range(i + 2, 6)
    }
    return [steps(symbols_drawn(), Look({"y": (0, 0)}, bends=bends), SIX)]


@figure("10.8", "RNN Graphical Model")
def graphical_model() -> list[Panel]:
    """The model of Figure 10.7 with the state h of the recurrent network, a deterministic function
    of what came before. Every step is parametrised alike, and still each y reaches all later ones,
    by way of h.
    """
    return [steps(symbols_drawn(), rows("h", "y"), SIX)]


@figure("10.9", "Vector to Sequence")
def vector_to_sequence() -> list[Panel]:
    """From a vector x, such as an image, to a sequence, such as its caption. x enters at every
    step by the same product with R. Each y is the input of its step and the target of the step
    before.
    """
    decoder = Decoder(V, H, Driven(), H, D, condition="input")

    def program(x: mg.Tensor, ys: mg.Tensor) -> Any:
        state = decoder.begin(x)
        found: dict[str, list[Any]] = {name: [] for name in ("h", "o", "L")}
        ys = list(ys)
        for y, following in pairwise(ys):
            o, state = decoder(y, state)
            record(found, h=state[1], o=o, L=F.cross_entropy(o, following))
        return found | {"x": x, "y": ys}

    weights = {"U": decoder.embedding.W, "W": decoder.cell.W, "V": decoder.readout.W,
               "R": decoder.R}  # fmt: skip
    trace = Trace(program, mg.zeros((B, D)), symbols(T + 1), weights=weights)
    at = {"h": (0, 1), "o": (0, 2), "L": (0, 3), "y": (0, 4), "x": (2, -0.2)}
    return [steps(trace, Look(at), (*MIDDLE, ELISION))]


@figure("10.10", "Hidden and Output Recurrence")
def hidden_and_output() -> list[Panel]:
    """The net of Figure 10.3, and every output y enters the next state by R. Given x, the outputs
    now need not be independent of one another.
    """
    return [steps(net(RNNCell(D + V, H), feeds="y"), NET, MIDDLE)]


# --- 10.3 to 10.6: directions, sequences, depth, trees --------------------------------------------


@figure("10.11", "Bidirectional RNN")
def bidirectional() -> list[Panel]:
    """A bidirectional network: h carries what was read forward in time, g what will be read
    backward, so that every output sees past and future.
    """
    layer, output = Bidirectional(RNNCell(D, H), RNNCell(D, H), merge=None), Linear(2 * H, V)

    def program(xs: mg.Tensor, ys: mg.Tensor) -> Any:
        (hs, gs), _ = layer(xs)
        found: dict[str, list[Any]] = {name: [] for name in ("x", "h", "g", "o", "L", "y")}
        for x, h, g, y in zip(xs, hs, gs, ys, strict=True):
            o = output(mg.concatenate([h, g], axis=-1))
            record(found, x=x, h=h, g=g, o=o, L=F.cross_entropy(o, y), y=y)
        return found

    trace = Trace(program, vectors(T), symbols(T))
    at = rows("x", "h", "g", "o", "L", "y")
    return [steps(trace, at, MIDDLE)]


@figure("10.12", "Sequence to Sequence Architecture")
def encoder_decoder() -> list[Panel]:
    """Sequence to sequence: an encoder reads the input x, its last state gives the context C, and
    a decoder writes y, whose length is another.
    """
    cell = Driven()
    model = EncoderDecoder(Recurrent(RNNCell(D, H)), Decoder(V, H, cell, H, H, condition="input"))

    def program(xs: mg.Tensor) -> Any:
        hs, state = model.encode(xs)
        context = mg.reshape(state, (B, H))
        y, state = model.decoder.start(B), model.decoder.begin(context)
        found: dict[str, list[Any]] = {"g": [], "y": []}
        for _ in range(3):
            o, state = model.decoder(y, state)
            y = mg.argmax(o, -1)
            record(found, g=state[1], y=y)
        return found | {"x": list(xs), "h": list(hs), "C": context}

    trace = Trace(program, vectors(4))
    at = {"x": (0, 0), "h": (0, 1), "C": (4.2, 1), "g": (5.4, 1), "y": (5.4, 2)}
    read, written = ("1", "2", ELISION, "n"), ("1", ELISION, "m")
    columns = {"x": read, "h": read, "g": written, "y": written}
    return [steps(trace, Look(at), columns)]


@figure("10.13", "Deep RNNs")
def deep_networks() -> list[Panel]:
    """Depth in a recurrent network. (a) The state in groups, one above the other. (b) A hidden
    layer within each of the three blocks: the way from a state to the next is now twice as long.
    (c) A direct connection makes the shortest way as short as before.
    """
    stack = Stack([RNNCell(D, H), RNNCell(H, H)])
    output = readout()

    def hierarchy(xs: mg.Tensor) -> Any:
        found: dict[str, list[Any]] = {name: [] for name in "xhzy"}
        state = stack.initial_state(B)
        for x in xs:
            top, state = stack(x, state)
            record(found, x=x, h=state[0], z=state[1], y=output(top))
        return found

    first = circuit(Trace(hierarchy, vectors(3)), rows("x", "h", "z", "y"), title="(a)")
    return [first, *(deeper(skip) for skip in (False, True))]


def deeper(skip: bool) -> Any:
    """Fig 10.13b, or c: MLPs with a hidden layer within a step, whose units are named too."""
    watched = {name: Watched(mg.tanh) for name in "abc"}
    cell = DeepCell(
        D, H,
        input=MLP([D, H, H], watched["a"]),
        transition=MLP([H, H, H], watched["b"]),
        output=MLP([H, H, V], watched["c"]),
        skip=skip,
    )  # fmt: skip

    def program(xs: mg.Tensor) -> Any:
        found: dict[str, list[Any]] = {name: [] for name in "xhyabc"}
        h = cell.initial_state(B)
        for x in xs:
            y, h = cell(x, h)
            layers = {name: f.take()[0][1] for name, f in watched.items()}
            record(found, x=x, h=h, y=y, **layers)
        return found

    at = {"x": (0, 0), "a": (0, 1), "h": (0, 2), "c": (0, 3), "y": (0, 4), "b": (-1.1, 2)}
    labels = dict.fromkeys("abc", "")
    bends = {("h", "b"): 0.3, ("b", "h"): 0.3, ("h", "h"): 0.0}
    title = "(c)" if skip else "(b)"
    return circuit(Trace(program, vectors(3)), Look(at, labels, bends=bends), title)


@figure("10.14", "Recursive Network")
def recursive_network() -> list[Panel]:
    """A recursive network over a tree: V leads from an input to a leaf, U from the left child and
    W from the right child to their parent. Of 4 inputs none is further than 2 compositions from
    the output o; a chain takes as many steps as there are inputs.
    """
    cell, n = RecursiveCell(D, H), 4
    trees = balanced(range(n))

    def program(xs: mg.Tensor, y: mg.Tensor) -> Any:
        inputs, leaves, inner = mg.split(xs, n), [], []

        def visit(tree: Tree) -> mg.Tensor:
            below = tuple(visit(child) for child in tree.children)
            _, state = cell(None if below else inputs[tree.value], below)
            (inner if below else leaves).append(state)
            return state

        o = visit(trees)
        L = F.cross_entropy(o, y)
        return {"x": list(inputs), "leaf": leaves, "node": inner[:-1], "o": o, "L": L, "y": y}

    weights = {"U": cell.U, "W": cell.W, "V": cell.V}
    trace = Trace(program, mg.zeros((n, D)), symbols(1)[0], weights=weights)
    at = {
        "x": (0, 0),
        "leaf": (0, 1),
        "node": (0.5, 2, 2),
        "o": (1.5, 3),
        "L": (1.5, 4),
        "y": (2.5, 4),
    }
    labels = {"leaf": "", "node": ""}
    return [steps(trace, Look(at, labels), "1234")]

"""Gated cells, drawn from the graphs of the cells themselves: Figure 10.16, LSTM, GRU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minigrad as mg
from minigrad.graph import Graph, made_by
from minigrad.pictures import Panel
from minigrad_rnn.cells import GRUCell, LSTMCell
from minigrad_rnn.compose import Bidirectional, EmitState
from minigrad_rnn.figures.parts import MIDDLE, B, D, H, T, record, vectors
from minigrad_rnn.figures.registry import figure
from minigrad_rnn.figures.trace import Look, Names, Trace, circuit, steps
from minigrad_rnn.gated import BookLSTMCell, PeepholeLSTMCell

WORDS = {"i": "input gate", "f": "forget gate", "g": "input", "o": "output gate"}


def gates(graph: Graph, found: Names) -> Names:
    """The gates i, f, g, o of an LSTM (in this order they leave the split), what goes into them
    all, and the products of i and g and of f and the cell."""
    named: Names = {}
    parts = made_by(graph, "split")
    for letter, part in zip("ifgo", parts, strict=True):
        inputs = [part, *made_by(graph, "add", part)]  # a peephole is added
        squashed = [v for x in inputs for op in ("sigmoid", "tanh") for v in made_by(graph, op, x)]
        named[squashed[0]] = letter
        if letter in "if":
            named[made_by(graph, "multiply", squashed[0])[0]] = f"× {letter}"
    [joined] = [step for step in graph.walk() if parts[0] in step.outputs]
    return named | {joined.operands[0]: "a"}  # type: ignore[dict-item]


def over_time(cell: Any) -> Callable[[mg.Tensor], Any]:
    """x, h and s at every step of an LSTM."""

    def program(xs: mg.Tensor) -> Any:
        found: dict[str, list[Any]] = {name: [] for name in "xhs"}
        state = cell.initial_state(B)
        for x in xs:
            h, state = cell(x, state)
            record(found, x=x, h=h, s=state[1])
        return found

    return program


BLOCK = {
    "x": (1.8, 0), "a": (1.8, 1), "g": (0, 2), "i": (1.2, 2), "f": (2.4, 2), "o": (3.6, 2),
    "× i": (0.6, 3), "× f": (2.4, 4), "s": (0.6, 5.2), "h": (3.6, 6.2),
}  # fmt: skip
OPERATORS = {"s": (0.6, 4), "h": (3.6, 5.2)}
BENDS = {("s", "i"): 0.12, ("s", "f"): 0.12, ("s", "o"): 0.3, ("s", "× f"): 0.12, ("s", "× h"): 0.0}
KINDS = dict.fromkeys(("a", *WORDS), "box") | dict.fromkeys(("× i", "× f"), "operator")


def block(cell: Any, state: str, a: str) -> list[Panel]:
    """An LSTM block: gates, products, the cell's loop through its delay and the forget gate."""
    trace = Trace(over_time(cell), vectors(3), find=gates)
    labels = WORDS | {"× i": "×", "× f": "×", "s": state, "a": a}
    return [circuit(trace, Look(BLOCK, labels, KINDS, BENDS, OPERATORS))]


@figure("10.16", "LSTM")
def book_lstm() -> list[Panel]:
    """A block of an LSTM network. The input is let in by the input gate and added to the state s,
    whose loop through a delay of one step (black square) is weighted by the forget gate; the output
    gate can shut the output h off. What goes into all four is a sum of products with the input x
    and the last output."""
    return block(BookLSTMCell(D, H), "s", "Ux + Wh + b")


@figure("peephole-lstm", "LSTM with peepholes")
def peephole_lstm() -> list[Panel]:
    """The gates also see the cell: input and forget gate the last one, by the delay, the output
    gate the new one."""
    return block(PeepholeLSTMCell(D, H), "c", "Ux + Wh + b")


def once(cell: Any, parts: int) -> Callable[..., Any]:
    """One step of a cell, from the state before to the state after."""

    def program(x: mg.Tensor, *before: mg.Tensor) -> Any:
        _, after = cell(x, before if parts == 2 else before[0])
        after = after if parts == 2 else (after,)
        named = dict(zip(("h", "c"), after)) | dict(zip(("h before", "c before"), before))
        return named | {"x": x}

    return program


@figure("lstm", "Long Short-Term Memory (LSTM)")
def lstm() -> list[Panel]:
    """One step. The cell c is long-term memory: from left to right only a product with the forget
    gate f and a sum lie on its way, as in a residual connection. The input gate i says how much of
    the candidate g is added, the output gate o how much of the cell is seen in h."""
    at = {
        "x": (1.5, 0), "h before": (-1, 1), "c before": (-1, 4), "a": (1.5, 1), "f": (0, 2.1),
        "i": (1, 2.1), "g": (2, 2.1), "o": (3, 2.1), "× f": (0, 4), "× i": (1.5, 3.05),
        "c": (4.2, 4), "h": (4.2, 3.05),
    }  # fmt: skip
    labels = {"a": "Ux + Wh + b", "× i": "×", "× f": "×", "x": "x^(t)", "h": "h^(t)", "c": "c^(t)"}
    labels |= {"h before": "h^(t-1)", "c before": "c^(t-1)"}
    kinds = {"a": "box", "× f": "operator", "× i": "operator"} | dict.fromkeys("ifgo", "gate")
    trace = Trace(once(LSTMCell(D, H), 2), *(mg.zeros((B, n)) for n in (D, H, H)), find=gates)
    operators = {"c": (1.5, 4), "h": (3, 3.05)}
    return [circuit(trace, Look(at, labels, kinds, operators=operators))]


def gru_gates(graph: Graph, found: Names) -> Names:
    """The gates r, z of a GRU and its candidate n: the only squashed values there are."""
    [both] = made_by(graph, "sigmoid")
    r, z = made_by(graph, "split", both)
    return {r: "r", z: "z", made_by(graph, "tanh")[0]: "n"}


@figure("gru", "Gated Recurrent Unit (GRU)")
def gru() -> list[Panel]:
    """One step. A single state h; two gates: r says how much of the last state the candidate n
    sees, z how much of it stays."""
    at = {
        "x": (2.1, 1), "h before": (0, 1), "r": (1.05, 1), "n": (1.05, 2), "z": (1.05, 0),
        "h": (3.6, 1),
    }  # fmt: skip
    labels = {"x": "x^(t)", "h": "h^(t)", "h before": "h^(t-1)"}
    kinds = dict.fromkeys("rzn", "gate")
    trace = Trace(once(GRUCell(D, H), 1), mg.zeros((B, D)), mg.zeros((B, H)), find=gru_gates)
    return [circuit(trace, Look(at, labels, kinds))]


@figure("bidirectional-lstm", "Bidirectional LSTMs")
def bidirectional_lstm() -> list[Panel]:
    """Two LSTMs over one sequence, one from each end; every output sees both. A box is a cell
    with its state, h and c."""
    ahead, behind = EmitState(LSTMCell(D, H)), EmitState(LSTMCell(D, H))
    layer = Bidirectional(ahead, behind, merge=None)

    def program(xs: mg.Tensor) -> Any:
        (forward, backward), _ = layer(xs)
        found: dict[str, list[Any]] = {name: [] for name in ("x", "LSTM", "LSTM'", "y")}
        parts = [list(zip(*(list(s) for s in states))) for _, states in (forward, backward)]
        for x, (h, c), (g, d) in zip(xs, *parts, strict=True):
            y = mg.concatenate([h, g], axis=-1)
            record(found, x=x, y=y, **{"LSTM": (h, c), "LSTM'": (g, d)})
        return found

    at = {"x": (0, 0, 1.5), "LSTM": (0, 1, 1.5), "LSTM'": (0, 2, 1.5), "y": (0, 3, 1.5)}
    labels, kinds = {"LSTM'": "LSTM"}, {"LSTM": "box", "LSTM'": "box"}
    bends = {("x", "LSTM'"): 0.8, ("LSTM", "y"): -0.8} | {(n, n): 0.0 for n in ("LSTM", "LSTM'")}
    return [steps(Trace(program, vectors(T)), Look(at, labels, kinds, bends), MIDDLE)]

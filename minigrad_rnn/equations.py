"""The lectures' equations, each printed from the graph of a program and checked against NumPy.

A function here is an equation: its docstring has the lecture's own formula, `program` is what is
captured, with the package's own cell where there is one, `reference` says in NumPy what its named
values are, for t = 1, 2, ... Cells compute with rows, x W where a lecture writes W x; what is no
cell is written with columns.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.graph import Equation, Graph, capture, equations, evaluate, fold, label
from minigrad_rnn.formulas import readable
from minigrad_rnn.train_command import UsageError
from minigrad_rnn.vanishing import omega as package_omega

T, D, H, V = 3, 3, 2, 4  # steps, input, hidden, outputs
DRAWS = 4  # of weights and inputs, for a check
TOLERANCE = 1e-12
F8: Any = {"dtype": "float64"}
Arrays = dict[str, Any]
Steps = Iterator[Arrays]


@dataclass
class Case:
    """A program, and a reference that takes the arrays of its inputs and yields named values."""

    program: Callable[..., Any]
    reference: Callable[..., Steps]
    inputs: dict[str, mg.Tensor]
    folded: bool = True
    parts: dict[str, list[str]] = field(default_factory=dict)  # of the cell's weights
    inside: dict[str, str] = field(default_factory=dict)  # names of the cell's own results, by op
    constants: Arrays = field(default_factory=dict)  # what else stands in the lecture's formula

    def captured(self) -> tuple[Graph, Arrays]:
        """The flat graph, and the values of each name in it for the inputs, in order."""
        traced = capture(self.program, *self.inputs.values())
        for op, words in self.inside.items():
            for i, step in enumerate(s for s in traced.graph.steps if s.op.name == op):
                for value, name in zip(
                    step.outputs, words.split()[i % len(words.split())].split(",")
                ):
                    value.name = name if name != "-" else value.name
        named = tuple(v for step in traced.graph.steps for v in step.outputs if v.name)
        graph = Graph(traced.graph.inputs, traced.graph.steps, named)
        found = evaluate(graph, traced.inputs(list(self.inputs.values())))
        return traced.graph, collect({v.name: y.numpy()} for v, y in zip(named, found, strict=True))

    def printed(self) -> tuple[Equation, ...]:
        """The formulas of the graph, its loop found again."""
        graph = fold(self.captured()[0]) if self.folded else self.captured()[0]
        return equations(Graph(graph.inputs, graph.steps, ()), self.parts)

    def expected(self) -> Arrays:
        """What NumPy says of each name, in order."""
        return collect(self.reference(*(x.numpy() for x in self.inputs.values())))

    def difference(self) -> float:
        """The largest between the graph's values and NumPy's; infinite if names are missing.

        NaN where either has one: `np.max` keeps it, Python's `max` only if it comes first.
        """
        found, expected = self.captured()[1], self.expected()
        shapes = [{k: np.shape(v) for k, v in x.items()} for x in (found, expected)]
        if not found or shapes[0] != shapes[1]:
            return np.inf
        return float(np.max([np.max(np.abs(np.subtract(found[k], expected[k]))) for k in found]))


EQUATIONS: dict[str, tuple[str, Callable[[np.random.Generator], Case]]] = {}  # name: rows, function


def equation(rows: str) -> Callable[[Any], Any]:
    """Enter a function under its name, with the rows of the lectures' table."""
    return lambda build: EQUATIONS.setdefault(build.__name__, (rows, build))[1]


def lecture(name: str) -> tuple[str, list[str]]:
    """What the equation is and where it stands; the lecture's formulas."""
    text = inspect.getdoc(EQUATIONS[name][1])
    if text is None:
        raise UsageError("python -OO drops the formulas, which are docstrings: run without it")
    title, formulas = text.split("\n\n")
    return " ".join(title.split()), re.sub(r"\n +", " ", formulas).splitlines()


def collect(steps: Any) -> Arrays:
    """The values of each name, from those of each step."""
    found: Arrays = {}
    for step in steps:
        for name, value in step.items():
            found.setdefault(name, []).append(value)
    return found


def named(name: str, values: Any) -> mg.Tensor:
    """A tensor with a name that requires a gradient."""
    tensor = mg.Tensor(values, requires_grad=True, dtype="float64")
    tensor.name = name
    return tensor


def draw(rng: np.random.Generator, shapes: dict[str, Any]) -> dict[str, mg.Tensor]:
    """Tensors of normal numbers; those called y and k hold T and one one-hot columns."""
    columns = np.eye(V)[rng.integers(V, size=T)][..., None]
    chosen = {"y": columns, "k": columns[0]}
    return {n: named(n, chosen.get(n, rng.normal(size=s))) for n, s in shapes.items()}


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def softmax(x: Any) -> Any:
    """exp(x) / sum(exp(x))."""
    return np.exp(x) / np.exp(x).sum()


def of_cell(
    rng: Any,
    cell: Any,
    weights: dict[str, str],
    state: str,
    reference: Any,
    output: str = "",
    **inside: str,
) -> Case:
    """A cell unrolled over T steps of one row.

    weights: what the parts of its weights are called; state: what the parts of its state, output
    what y is where it is none of them; inside: what its own results are, by op, - for no name.
    """
    parts = {name: words.split() for name, words in weights.items()}
    known: Arrays = {}
    for name, p in cell.named_parameters():
        p.name = name if len(parts[name]) > 1 else parts[name][0]
        p.assign(rng.normal(size=p.shape))
        split = p.numpy() if name == "p" else np.split(p.numpy(), len(parts[name]), -1)
        known |= dict(zip(parts[name], split, strict=True))
    starts = [f"{name}^{{(0)}}" for name in state.split()]
    inputs = draw(rng, {"x": (T, 1, D)} | dict.fromkeys(starts, (1, H)))

    def program(xs: Any, *given: Any) -> None:
        now = given if len(given) > 1 else given[0]
        for x in xs:
            y, now = cell(x, now)
            for part, name in zip(mg.tree.flatten(now)[0], state.split(), strict=True):
                label(part, name)
            if output:
                label(y, output)

    return Case(
        program,
        lambda *given: reference(known | dict(zip(inputs, given, strict=True))),
        inputs,
        parts={name: words for name, words in parts.items() if len(words) > 1},
        inside=inside,
        constants=known,
    )


# --- dynamical systems and recurrent networks -----------------------------------------------------


@equation("A1")
def dynamical(rng: np.random.Generator) -> Case:
    r"""A dynamical system ("Classical Dynamical Systems", "Recurrent Networks", eq 10.1-10.3), here
    with f(s; W) = tanh(W s).

    s^{(t)} = f(s^{(t-1)}; \theta)
    s^{(3)} = f(f(f(s^{(0)}; \theta); \theta); \theta)
    """

    def program(s, theta):
        for _ in range(T):
            s = label(mg.tanh(theta @ s), "s")

    def reference(s, theta):
        for _ in range(T):
            s = np.tanh(theta @ s)
            yield {"s": s}

    return Case(program, reference, draw(rng, {"s^{(0)}": (H, 1), r"\theta": (H, H)}))


@equation("A2")
def driven(rng: np.random.Generator) -> Case:
    r"""A driven system ("Unfolding Computation Graphs", "Recurrent Neural Network (RNN)", eq 10.4,
    10.5), here with the f of a leaky unit.

    h^{(t)} = f(h^{(t-1)}, x^{(t)}; \theta)
    """

    def program(xs, h, theta):
        for x in xs:
            h = label(0.5 * h + mg.sigmoid(theta @ x), "h")

    def reference(xs, h, theta):
        for t in range(1, T + 1):
            yield {
                "h": 0.5**t * h
                + sum(0.5 ** (t - k) * sigmoid(theta @ xs[k - 1]) for k in range(1, t + 1))
            }

    shapes = {"x": (T, H, 1), "h^{(0)}": (H, 1), r"\theta": (H, H)}
    return Case(program, reference, draw(rng, shapes))


@equation("C1")
def tanh(rng: np.random.Generator) -> Case:
    r"""The hyperbolic tangent ("Which activation function?").

    f = \tanh(x) = \frac{\sinh(x)}{\cosh(x)} = \frac{e^x - e^{-x}}{e^x + e^{-x}}
    """

    def program(x):
        label(mg.tanh(x), "f_1")
        label(mg.sinh(x) / mg.cosh(x), "f_2")
        label((mg.exp(x) - mg.exp(-x)) / (mg.exp(x) + mg.exp(-x)), "f_3")

    def reference(x):
        yield dict.fromkeys(("f_1", "f_2", "f_3"), (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1))

    return Case(program, reference, draw(rng, {"x": (5,)}))


@equation("B6 A7 C2")
def recurrent(rng: np.random.Generator) -> Case:
    r"""The recurrent net with its loss ("Recurrent Hidden Units", "Recurrent Neural Network (4)",
    Fig 10.3, eq 10.8-10.14).

    a^{(t)} = b + W h^{(t-1)} + U x^{(t)}
    h^{(t)} = \tanh(a^{(t)})
    o^{(t)} = c + V h^{(t)}
    \hat{y}^{(t)} = \textit{softmax}(o^{(t)})
    L^{(t)} = -\log \sum(y^{(t)} \odot \hat{y}^{(t)})
    L = \sum_{t=1}^{\tau} L^{(t)}
    """
    cell = rnn.RNNCell(D, H, lambda a: mg.tanh(label(a, "a")), **F8)
    layer = mg.nn.Linear(H, V, **F8)
    weights = draw(rng, {"U": (D, H), "W": (H, H), "b": (H,), "V": (H, V), "c": (V,)})
    for p, w in zip([*cell.parameters(), *layer.parameters()], weights.values(), strict=True):
        p.assign(w)
        p.name = w.name

    def program(xs, h, ys):
        losses = []
        for x, y in zip(xs, ys, strict=True):
            h = label(cell(x, h)[0], "h")
            share = label(mg.functional.softmax(label(layer(h), "o")), r"\hat{y}")
            losses.append(label(-mg.log(mg.sum(y.T * share)), "L^{(t)}"))
        label(mg.sum(mg.stack(losses)), "L")

    def reference(xs, h, ys):
        U, W, b, V, c = (w.numpy() for w in weights.values())
        total = 0.0
        for x, y in zip(xs, ys, strict=True):
            a = b + h @ W + x @ U
            h = np.tanh(a)
            o = c + h @ V
            loss = -np.log(softmax(o)[y.T == 1][0])
            total += loss
            yield {"a": a, "h": h, "o": o, r"\hat{y}": softmax(o), "L^{(t)}": loss}
        yield {"L": total}

    inputs = draw(rng, {"x": (T, 1, D), "h^{(0)}": (1, H), "y": ()})
    constants = {name: w.numpy() for name, w in weights.items()}
    return Case(program, reference, inputs, constants=constants)


@equation("B7")
def vanilla(rng: np.random.Generator) -> Case:
    r"""The vanilla recurrent net ("(Vanilla) Recurrent Neural Network").

    h_t = \tanh(W_{hh} h_{t-1} + W_{xh} x_t)
    y_t = W_{hy} h_t
    """

    def reference(w):
        h = w["h^{(0)}"]
        for x in w["x"]:
            h = np.tanh(h @ w["W_hh"] + x @ w["W_xh"])
            yield {"h": h, "y": h @ w["W_hy"]}

    cell = rnn.Readout(rnn.RNNCell(D, H, bias=False, **F8), mg.nn.Linear(H, V, False, "float64"))
    weights = {"cell.Wx": "W_xh", "cell.Wh": "W_hh", "layer.W": "W_hy"}
    return of_cell(rng, cell, weights, "h", reference, output="y")


# --- probabilities of sequences -------------------------------------------------------------------


def chain(rng: np.random.Generator, terms: str) -> Case:
    """P of T outputs, from their conditionals p(t); terms: what a state depends on, l: a length."""
    shapes = {"h^{(0)}": (H, 1), "x": (T, D, 1), "y^{(0)}": (V, 1), "y": (), "W": (H, H)}
    shapes |= {"U": (H, D), "R": (H, V), "V": (V, H), "b": (V, 1), "k": ()}

    def program(h, xs, before, ys, W, U, R, Vh, b, k):
        logs = []
        for x, y in zip(xs, ys, strict=True):
            given = {"h": (W, h), "x": (U, x), "y": (R, before)}
            first, second = (given[term][0] @ given[term][1] for term in terms[:2])
            h, before = label(mg.tanh(first + second), "h"), y
            p = mg.sum(y * mg.functional.softmax(Vh @ h, axis=0))
            logs.append(mg.log(label(p, "p")))
        if "l" in terms:
            p = mg.sum(k * mg.functional.softmax(b, axis=0))
            logs.append(mg.log(label(p, "q")))
        label(mg.exp(mg.sum(mg.stack(logs))), "P")

    def reference(h, xs, before, ys, W, U, R, Vh, b, k):
        of_length = softmax(b)[k == 1][0]
        total = of_length if "l" in terms else 1.0
        for x, y in zip(xs, ys, strict=True):
            given = {"h": W @ h, "x": U @ x, "y": R @ before}
            h, before = np.tanh(given[terms[0]] + given[terms[1]]), y
            p = softmax(Vh @ h)[y == 1][0]
            total *= p
            yield {"h": h, "p": p}
        yield {"P": total} | ({"q": of_length} if "l" in terms else {})

    return Case(program, reference, draw(rng, shapes), folded="y" not in terms)


@equation("D4")
def forcing(rng: np.random.Generator) -> Case:
    r"""Teacher forcing ("Teacher Forcing", eq 10.15, 10.16); p(t) is the conditional of y(t).

    \log p(y^{(1)}, y^{(2)} | x^{(1)}, x^{(2)}) =
        \log p(y^{(2)} | y^{(1)}, x^{(1)}, x^{(2)}) + \log p(y^{(1)} | x^{(1)}, x^{(2)})
    h^{(t)} = \tanh(U x^{(t)} + R y^{(t-1)})
    p^{(t)} = \sum(y^{(t)} \odot \textit{softmax}(V h^{(t)}))
    P = \exp(\log p^{(3)} + \log p^{(2)} + \log p^{(1)})
    """
    return chain(rng, "xy")


@equation("G1 D14")
def likelihood(rng: np.random.Generator) -> Case:
    r"""The likelihood of a sequence ("Language Modeling", "Fully Connected Graphical Model", eq
    10.31-10.33); p(t) is the conditional of y(t).

    P(y_1, \dots, y_T) = \prod_{i=1}^T P(y_i | y_1, \dots, y_{i-1})
    h^{(t)} = \tanh(W h^{(t-1)} + R y^{(t-1)})
    p^{(t)} = \sum(y^{(t)} \odot \textit{softmax}(V h^{(t)}))
    L^{(t)} = -\log p^{(t)}
    P = \exp(-\sum_t L^{(t)})
    """
    return chain(rng, "hy")


@equation("G7")
def length(rng: np.random.Generator) -> Case:
    r"""A length drawn first ("Sampling from an RNN", eq 10.34); q is P(tau), k one-hot.

    P(x^{(1)}, \dots, x^{(\tau)}) = P(\tau) P(x^{(1)}, \dots, x^{(\tau)} | \tau)
    h^{(t)} = \tanh(W h^{(t-1)} + R y^{(t-1)})
    p^{(t)} = \sum(y^{(t)} \odot \textit{softmax}(V h^{(t)}))
    q = \sum(k \odot \textit{softmax}(b))
    P = q \prod_{t=1}^{\tau} p^{(t)}
    """
    return chain(rng, "hyl")


@equation("B10")
def conditional(rng: np.random.Generator) -> Case:
    r"""Outputs that are independent given the inputs ("Hidden and Output Recurrence", eq 10.35).

    P(y^{(1)}, \dots, y^{(\tau)} | x^{(1)}, \dots, x^{(\tau)}) =
        \prod_t P(y^{(t)} | x^{(1)}, \dots, x^{(t)})
    h^{(t)} = \tanh(W h^{(t-1)} + U x^{(t)})
    p^{(t)} = \sum(y^{(t)} \odot \textit{softmax}(V h^{(t)}))
    P = \prod_{t=1}^{\tau} p^{(t)}
    """
    return chain(rng, "hx")


# --- the gradient, and its norm -------------------------------------------------------------------


@equation("D1 C2")
def bptt(rng: np.random.Generator) -> Case:
    r"""Back-propagation through time ("Backpropagation through time", eq 10.17-10.28), read off the
    graph that pullback records.

    a^{(t)} = b + W h^{(t-1)} + U x^{(t)}
    h^{(t)} = \tanh(a^{(t)})
    o^{(t)} = c + V h^{(t)}
    \nabla_{o^{(t)}} L = \textit{softmax}(o^{(t)}) - y^{(t)}
    \nabla_{h^{(\tau)}} L = V^{\top} \nabla_{o^{(\tau)}} L
    \nabla_{h^{(t)}} L = W^{\top} \operatorname{diag}(1 - (h^{(t+1)})^2) \nabla_{h^{(t+1)}} L
        + V^{\top} \nabla_{o^{(t)}} L \qquad t = \tau-1, \dots, 1
    \nabla_{a^{(t)}} L = \operatorname{diag}(1 - (h^{(t)})^2) \nabla_{h^{(t)}} L
    \nabla_b L = \sum_t \nabla_{a^{(t)}} L
    \nabla_c L = \sum_t \nabla_{o^{(t)}} L
    \nabla_U L = \sum_t \nabla_{a^{(t)}} L x^{(t)\top}
    \nabla_V L = \sum_t \nabla_{o^{(t)}} L h^{(t)\top}
    \nabla_W L = \sum_t \nabla_{a^{(t)}} L h^{(t-1)\top}
    """

    def program(xs, h, ys, b, c, U, Vh, W):
        loss, places = 0.0, []
        for x, y in zip(xs, ys, strict=True):
            a = label(b + W @ h + U @ x, "a")
            h = label(mg.tanh(a), "h")
            o = label(c + Vh @ h, "o")
            loss = loss + mg.log(mg.sum(mg.exp(o))) - mg.sum(y * o)
            places += [o, h, a]
        names = [f"{name}^{{({t})}}" for t in range(1, T + 1) for name in "oha"]
        gradients = mg.pullback(loss, [*places, b, c, U, Vh, W])
        for name, gradient in zip([*names, *"bcUVW"], gradients, strict=True):
            label(gradient, rf"\nabla_{{{name}}} L" if len(name) > 1 else rf"\nabla_{name} L")

    def reference(xs, h, ys, b, c, U, Vh, W):
        hs, outputs = [h], []
        for x in xs:
            a = b + W @ hs[-1] + U @ x
            hs.append(np.tanh(a))
            outputs.append(c + Vh @ hs[-1])
            yield {"a": a, "h": hs[-1], "o": outputs[-1]}
        totals, back = dict.fromkeys("bcUVW", 0.0), np.zeros((H, 1))
        for t in range(T, 0, -1):
            g_o = softmax(outputs[t - 1]) - ys[t - 1]
            g_h = back + Vh.T @ g_o
            g_a = np.diagflat(1 - hs[t] ** 2) @ g_h
            back = W.T @ g_a
            yield {
                rf"\nabla_{{{k}^{{({t})}}}} L": g for k, g in (("o", g_o), ("h", g_h), ("a", g_a))
            }
            terms = (g_a, g_o, g_a @ xs[t - 1].T, g_o @ hs[t].T, g_a @ hs[t - 1].T)
            totals = {
                k: total + term for (k, total), term in zip(totals.items(), terms, strict=True)
            }
        yield {rf"\nabla_{name} L": total for name, total in totals.items()}

    shapes = {"x": (T, D, 1), "h^{(0)}": (H, 1), "y": (), "b": (H, 1), "c": (V, 1), "U": (H, D)}
    return Case(program, reference, draw(rng, shapes | {"V": (V, H), "W": (H, H)}), folded=False)


@equation("D10")
def linear(rng: np.random.Generator) -> Case:
    r"""The linear recurrence ("Vanishing (and Exploding) Gradient Problem", eq 10.36-10.39), for W
    symmetric and W = Q \Lambda Q^\top.

    h^{(t)} = W^{\top} h^{(t-1)}
    h^{(t)} = (W^t)^{\top} h^{(0)}
    h^{(t)} = Q \Lambda^t Q^{\top} h^{(0)}
    """
    inputs = draw(rng, {"h^{(0)}": (H, 1), "W": (H, H)})
    inputs["W"].assign(inputs["W"] + inputs["W"].T)
    values, Q = np.linalg.eigh(inputs["W"].numpy())

    def program(h, W):
        for _ in range(T):
            h = label(W.T @ h, "h")

    def reference(h, W):
        for t in range(1, T + 1):
            yield {"h": Q @ np.diag(values**t) @ Q.T @ h}

    constants = {"Q": Q, r"\Lambda": np.diag(values)}
    return Case(program, reference, inputs, constants=constants)


@equation("D6")
def clip(rng: np.random.Generator) -> Case:
    r"""Gradient clipping ("Vanishing/Exploding Gradients", "Gradient Clipping", eq 10.48, 10.49),
    with \epsilon = v = 1.

    g = \min(1, \frac{\epsilon}{|\nabla L|}) \nabla L
    g = \begin{cases} \frac{v \nabla L}{|\nabla L|} & |\nabla L| > v \\
        \nabla L & \text{otherwise} \end{cases}
    """
    parameter = named(r"\theta", np.zeros(D))
    inputs = draw(rng, {r"\nabla L": (D,)})
    (gradient,) = inputs.values()
    gradient.assign(gradient * (4.0 if rng.integers(2) else 0.1))

    def program(g):
        parameter.grad = g
        mg.optim.clip_by_global_norm([parameter], 1.0, error_if_nonfinite=False)
        label(parameter.grad, "g")

    def reference(g):
        yield {"g": g / np.linalg.norm(g) if np.linalg.norm(g) > 1 else g}

    return Case(program, reference, inputs, constants={r"\epsilon": 1.0, "v": 1.0})


@equation("D8")
def omega(rng: np.random.Generator) -> Case:
    r"""The regulariser for vanishing gradients ("How to deal with vanishing gradients?", eq
    10.50-10.52), its exact mode, for L = \sum_t |h(t)|^2; J is \partial h(t) / \partial h(t-1).

    h^{(t)} = \tanh(W h^{(t-1)} + U x^{(t)})
    J^{(t)} = \operatorname{diag}(1 - (h^{(t)})^2) W
    \nabla_{h^{(\tau)}} L = 2 h^{(\tau)}
    \nabla_{h^{(t)}} L = 2 h^{(t)} + J^{(t+1)\top} \nabla_{h^{(t+1)}} L \qquad t = \tau-1, \dots, 1
    \Omega = \sum_{t=2}^{\tau} (\frac{|J^{(t)\top} \nabla_{h^{(t)}} L|}{|\nabla_{h^{(t)}} L|} - 1)^2
    """
    cell = rnn.RNNCell(D, H, bias=False, **F8)
    for p, name in ((cell.Wx, "U"), (cell.Wh, "W")):
        p.assign(rng.normal(size=p.shape))
        p.name = name
    U, W = cell.Wx.numpy(), cell.Wh.numpy()

    def program(xs, h):
        label(package_omega(cell, lambda ys: mg.sum(ys * ys), xs, h)[1], r"\Omega")

    def reference(xs, h):
        hs = [h]
        for x in xs:
            hs.append(np.tanh(x @ U + hs[-1] @ W))
        g, total = 2 * hs[-1], 0.0
        for t in range(T, 1, -1):
            back = (g * (1 - hs[t] ** 2)) @ W.T
            total += (np.linalg.norm(back) / np.linalg.norm(g) - 1) ** 2
            g = back + 2 * hs[t - 1]
        yield {r"\Omega": total}

    inputs = draw(rng, {"x": (T, 1, D), "h^{(0)}": (1, H)})
    return Case(program, reference, inputs, folded=False, constants={"U": U, "W": W})


# --- gated cells ----------------------------------------------------------------------------------

LSTM = {"Wx": "W_xi W_xf W_xc W_xo", "Wh": "W_hi W_hf W_hc W_ho", "b": "b_i b_f b_c b_o"}


def lstm_steps(w: Arrays) -> Steps:
    """The LSTM in NumPy, with peepholes if it has them."""
    h, c = w["h^{(0)}"], w["c^{(0)}"]
    for x in w["x"]:
        i, f, g, o = (x @ w[f"W_x{k}"] + h @ w[f"W_h{k}"] + w[f"b_{k}"] for k in "ifco")
        i, f = sigmoid(i + c * w.get("W_ci", 0)), sigmoid(f + c * w.get("W_cf", 0))
        c = f * c + i * np.tanh(g)
        o = sigmoid(o + c * w.get("W_co", 0))
        h = o * np.tanh(c)
        yield {"i": i, "f": f, "o": o, "c": c, "h": h}


@equation("E2")
def lstm(rng: np.random.Generator) -> Case:
    r"""Long short-term memory ("Long Short-Term Memory (LSTM)", "LSTM"), which the slides draw; in
    the letters of the peephole LSTM's slide.

    i_t = \sigma(W_{xi} x_t + W_{hi} h_{t-1} + b_i)
    f_t = \sigma(W_{xf} x_t + W_{hf} h_{t-1} + b_f)
    c_t = f_t \odot c_{t-1} + i_t \odot \tanh(W_{xc} x_t + W_{hc} h_{t-1} + b_c)
    o_t = \sigma(W_{xo} x_t + W_{ho} h_{t-1} + b_o)
    h_t = o_t \odot \tanh(c_t)
    """
    return of_cell(rng, rnn.LSTMCell(D, H, **F8), LSTM, "h c", lstm_steps, sigmoid="f i o")


@equation("E3")
def peephole(rng: np.random.Generator) -> Case:
    r"""Long short-term memory with peepholes ("LSTM (2)" of "Deep Learning: Theory and Practice");
    the matrices W_ci, W_cf and W_co are diagonal, their products elementwise here.

    i_t = \sigma(W_{xi} x_t + W_{hi} h_{t-1} + W_{ci} \odot c_{t-1} + b_i)
    f_t = \sigma(W_{xf} x_t + W_{hf} h_{t-1} + W_{cf} \odot c_{t-1} + b_f)
    c_t = f_t \odot c_{t-1} + i_t \odot \tanh(W_{xc} x_t + W_{hc} h_{t-1} + b_c)
    o_t = \sigma(W_{xo} x_t + W_{ho} h_{t-1} + W_{co} \odot c_t + b_o)
    h_t = o_t \odot \tanh(c_t)
    """
    weights = LSTM | {"p": "W_ci W_cf W_co"}
    return of_cell(
        rng, rnn.PeepholeLSTMCell(D, H, **F8), weights, "h c", lstm_steps, sigmoid="i f o"
    )


@equation("E1")
def book_lstm(rng: np.random.Generator) -> Case:
    r"""The LSTM of the book ("LSTM", Fig 10.16, eq 10.40-10.44), for all units at once.

    f^{(t)} = \sigma(b^f + U^f x^{(t)} + W^f h^{(t-1)})
    g^{(t)} = \sigma(b^g + U^g x^{(t)} + W^g h^{(t-1)})
    s^{(t)} = f^{(t)} \odot s^{(t-1)} + g^{(t)} \odot \sigma(b + U x^{(t)} + W h^{(t-1)})
    q^{(t)} = \sigma(b^o + U^o x^{(t)} + W^o h^{(t-1)})
    h^{(t)} = \tanh(s^{(t)}) \odot q^{(t)}
    """

    def reference(w):
        h, s = w["h^{(0)}"], w["s^{(0)}"]
        for x in w["x"]:
            f, g, q, new = (
                sigmoid(w["b" + k] + x @ w["U" + k] + h @ w["W" + k])
                for k in ("^f", "^g", "^o", "")
            )
            s = f * s + g * new
            h = np.tanh(s) * q
            yield {"f": f, "g": g, "s": s, "q": q, "h": h}

    weights = {"Wx": "U^g U^f U U^o", "Wh": "W^g W^f W W^o", "b": "b^g b^f b b^o"}
    return of_cell(rng, rnn.BookLSTMCell(D, H, **F8), weights, "h s", reference, sigmoid="f g - q")


@equation("E4")
def gru(rng: np.random.Generator) -> Case:
    r"""The gated recurrent unit ("Gated Recurrent Unit (GRU)"), which the slide draws; Cho et al.
    2014, reset after the product.

    r_t = \sigma(W_{xr} x_t + W_{hr} h_{t-1} + b_r)
    z_t = \sigma(W_{xz} x_t + W_{hz} h_{t-1} + b_z)
    n_t = \tanh(W_{xn} x_t + b_n + r_t \odot (W_{hn} h_{t-1} + b_h))
    h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1}
    """

    def reference(w):
        h = w["h^{(0)}"]
        for x in w["x"]:
            r, z = (sigmoid(x @ w[f"W_x{k}"] + h @ w[f"W_h{k}"] + w[f"b_{k}"]) for k in "rz")
            n = np.tanh(x @ w["W_xn"] + w["b_n"] + r * (h @ w["W_hn"] + w["b_h"]))
            h = (1 - z) * n + z * h
            yield {"r": r, "z": z, "n": n, "h": h}

    weights = {"Wx": "W_xr W_xz W_xn", "Wh": "W_hr W_hz W_hn", "b": "b_r b_z b_n", "bh": "b_h"}
    inside = {"split": "- - r,z", "tanh": "n"}
    return of_cell(rng, rnn.GRUCell(D, H, **F8), weights, "h", reference, **inside)


@equation("E4")
def book_gru(rng: np.random.Generator) -> Case:
    r"""The GRU of the book (eq 10.45-10.47). There u, r and x have the number t-1 of the state that
    they act on; here that of the state which they make.

    u^{(t)} = \sigma(b^u + U^u x^{(t)} + W^u h^{(t-1)})
    r^{(t)} = \sigma(b^r + U^r x^{(t)} + W^r h^{(t-1)})
    h^{(t)} = u^{(t)} \odot h^{(t-1)}
        + (1 - u^{(t)}) \odot \sigma(b + U x^{(t)} + W (r^{(t)} \odot h^{(t-1)}))
    """

    def reference(w):
        h = w["h^{(0)}"]
        for x in w["x"]:
            u, r = (sigmoid(w[f"b^{k}"] + x @ w[f"U^{k}"] + h @ w[f"W^{k}"]) for k in "ur")
            h = u * h + (1 - u) * sigmoid(w["b"] + x @ w["U"] + (r * h) @ w["W"])
            yield {"u": u, "r": r, "h": h}

    weights = {"Wx": "U^r U^u U", "Wh": "W^r W^u W", "b": "b^r b^u b"}
    return of_cell(rng, rnn.BookGRUCell(D, H, **F8), weights, "h", reference, split="- - r,u")


# --- the command ----------------------------------------------------------------------------------


def listing() -> str:
    """The equations by name, with their rows of the lectures' table."""
    rows = ((name, rows, readable(lecture(name)[0])) for name, (rows, _) in EQUATIONS.items())
    return "\n".join(f"{name:<12}{row:<10}{title}" for name, row, title in rows)


def numbered(text: str) -> set[int]:
    """The n of the book's equations 10.n that a text names, 10.40-10.44 being five of them."""
    spans = re.findall(r"(?<!Fig )\b10\.(\d{1,2})\b(?:-10\.(\d{1,2})\b)?", text)
    return {n for a, b in spans for n in range(int(a), int(b or a) + 1)}


def show(name: str) -> bool:
    """Print the lecture's formulas and the graph's, and how far their values differ."""
    rows, build = EQUATIONS[name]
    title, formulas = lecture(name)
    case = build(np.random.default_rng(0))
    print(f"{name} ({', '.join(rows.split())}): {readable(title)}")
    for source, lines in (("lecture", formulas), ("graph", list(map(str, case.printed())))):
        for line in lines:
            print(f"  {source:<9}{line}")
            if sys.stdout.isatty():
                print(f"  {'':<9}{readable(line)}")
    worst = np.max([build(np.random.default_rng(seed)).difference() for seed in range(DRAWS)])
    names = [readable(name) for name in case.expected()]
    names = names if len(names) < 9 else [*names[:8], f"and {len(names) - 8} more"]
    verdict = "equal" if worst <= TOLERANCE else f"NOT EQUAL, more than {TOLERANCE:g}"
    between = f"{', '.join(names)}: graph and the lecture's formula in NumPy differ"
    print(f"  {'check':<9}{between} by {worst:.1e}: {verdict}\n")
    return bool(worst <= TOLERANCE)


def run(options: argparse.Namespace) -> int:
    """Run the command: 0 where every check holds, else 1; UsageError for a name there is not."""
    if options.list:
        print(listing())
        return 0
    asked = options.name
    numbers = numbered(asked or "")
    found = [n for n, (rows, _) in EQUATIONS.items() if asked in (None, n, *rows.split())]
    found = found or [n for n in EQUATIONS if numbers & numbered(lecture(n)[0])]
    if not found:
        raise UsageError(f"there is no equation, row or number {asked!r}: --list says what is")
    held = [show(name) for name in found]
    print(f"{sum(held)} of {len(held)} equations hold for {DRAWS} draws of weights and inputs")
    return 0 if all(held) else 1

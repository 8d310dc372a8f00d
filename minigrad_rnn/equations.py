"""The lectures' equations, each printed from the graph of a program and checked against NumPy.

A function here is an equation: its docstring has the lecture's own formula, `program` is what is
captured (the package's own cell where there is one), `expected` the formula once more, in NumPy.
Cells compute with rows, x W where a lecture writes W x; what is no cell is written with columns.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.graph import Equation, Graph, capture, evaluate, label
from minigrad_rnn import vanishing
from minigrad_rnn.formulas import readable
from minigrad_rnn.train_command import UsageError

T, D, H, V = 3, 3, 2, 4  # steps, input, hidden, outputs
DRAWS = 4  # of weights and inputs, for a check
TOLERANCE = 1e-12
Arrays = dict[str, Any]


@dataclass
class Case:
    """A program with inputs, and what NumPy says of the values that have a name in it."""

    program: Callable[..., Any]
    inputs: dict[str, mg.Tensor]  # the program's arguments
    expected: dict[str, list[Any]]  # the values of a name, for t = 1, 2, ...
    parts: dict[str, list[str]] = field(default_factory=dict)  # of the cell's weights
    inside: dict[str, str] = field(default_factory=dict)  # what the cell's own results are called
    folded: bool = True
    constants: Arrays = field(default_factory=dict)  # numbers in the formula

    def captured(self) -> tuple[Graph, dict[str, list[np.ndarray]]]:
        """The flat graph, and what it gives for the inputs: the values of each name in order."""
        tensors = list(self.inputs.values())
        traced = capture(self.program, *tensors)
        for op, words in self.inside.items():
            found = [step for step in traced.graph.steps if step.op.name == op]
            for i, step in enumerate(found):
                names = words.split()[i % len(words.split())].split(",")
                for value, name in zip(step.outputs, names, strict=False):
                    value.name = value.name or name.strip("-") or None
        named = [v for s in traced.graph.steps for v in s.outputs if v.name]
        graph = Graph(traced.graph.inputs, traced.graph.steps, tuple(named))
        values: dict[str, list[np.ndarray]] = {}
        for value, given in zip(named, evaluate(graph, traced.inputs(tensors)), strict=True):
            values.setdefault(str(value.name), []).append(given.numpy())
        return traced.graph, values

    def printed(self) -> tuple[Equation, ...]:
        """The formulas of the graph, its loop found again."""
        graph = self.captured()[0]
        graph = mg.graph.fold(graph) if self.folded else graph
        return mg.graph.equations(Graph(graph.inputs, graph.steps, ()), self.parts)

    def difference(self) -> float:
        """The largest between the graph's values and NumPy's."""
        values = self.captured()[1]
        if set(values) != set(self.expected):
            return float("inf")
        pairs = [
            (a, np.asarray(b))
            for name, given in values.items()
            for a, b in zip(given, self.expected[name], strict=True)
        ]
        return max(float(np.max(abs(a - b))) if a.shape == b.shape else np.inf for a, b in pairs)


Build = Callable[[np.random.Generator], Case]
EQUATIONS: dict[str, tuple[str, Build]] = {}  # by name: the rows of the lectures' table


def equation(rows: str) -> Callable[[Build], Build]:
    """Enter a function under its own name and these rows."""

    def enter(build: Build) -> Build:
        EQUATIONS[build.__name__] = rows, build
        return build

    return enter


def lecture(name: str) -> tuple[str, list[str]]:
    """The first line of an equation's docstring, where it stands, and its formulas."""
    text = inspect.getdoc(EQUATIONS[name][1])
    if text is None:
        raise UsageError("python -OO drops the formulas, which are docstrings: run without it")
    title, *lines = text.splitlines()
    return title, [line for line in lines if line]


# --- the parts of cases --------------------------------------------------------------------------


def tensors(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, mg.Tensor]:
    """Normal numbers under these names."""
    return {name: named(name, rng.normal(size=shape)) for name, shape in shapes.items()}


def named(name: str, values: Any) -> mg.Tensor:
    """A tensor with a name that requires a gradient."""
    tensor = mg.Tensor(values, requires_grad=True, dtype="float64")
    tensor.name = name
    return tensor


def arrays(given: dict[str, mg.Tensor]) -> Arrays:
    """What is in tensors, by their names."""
    return {name: tensor.numpy() for name, tensor in given.items()}


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def softmax(x: Any) -> Any:
    """exp(x) / sum(exp(x))."""
    return np.exp(x) / np.exp(x).sum()


def of_cell(
    rng: np.random.Generator,
    cell: Any,
    weights: dict[str, str],
    state: str,
    reference: Callable[[Arrays], Iterator[Arrays]],
    inside: dict[str, str] | None = None,
    output: str = "",
) -> Case:
    """A cell unrolled over T steps of one row; weights: what the parts of its weights are called.

    state: the names of its state's parts; output: that of y where it is none of them.
    """
    known: Arrays = {}
    parts = {name: words.split() for name, words in weights.items()}
    for name, p in cell.named_parameters():
        p.name = name if len(parts[name]) > 1 else parts[name][0]
        p.assign(rng.normal(size=p.shape))
        axis = 0 if name == "p" else -1
        split = np.split(p.numpy(), len(parts[name]), axis)
        known |= {k: v[0] if name == "p" else v for k, v in zip(parts[name], split, strict=True)}
    names = state.split()
    starts = {f"{name}^{{(0)}}": (1, H) for name in names}
    inputs = {"x": named("x", rng.normal(size=(T, 1, D)))}
    inputs |= {n: named(n, rng.normal(size=shape)) for n, shape in starts.items()}

    def program(xs: mg.Tensor, *given: mg.Tensor) -> None:
        now: Any = given if len(names) > 1 else given[0]
        for x in xs:
            y, now = cell(x, now)
            for part, name in zip(mg.tree.flatten(now)[0], names, strict=True):
                label(part, name)
            if output:
                label(y, output)

    steps = list(reference(known | arrays(inputs)))
    expected = {name: [step[name] for step in steps] for name in steps[0]}
    wholes = {name: words for name, words in parts.items() if len(words) > 1}
    return Case(program, inputs, expected, wholes, inside or {}, constants=known)


# --- dynamical systems and recurrent networks -----------------------------------------------------


@equation("A1")
def dynamical(rng: np.random.Generator) -> Case:
    r"""A dynamical system: S3 "Recurrent Networks", eq 10.1-10.3; here f(s; W) = tanh(W s).

    s^{(t)} = f(s^{(t-1)}; \theta)
    s^{(3)} = f(f(f(s^{(0)}; \theta); \theta); \theta)
    """
    inputs = tensors(rng, **{"s^{(0)}": (H, 1), "\\theta": (H, H)})

    def program(s: mg.Tensor, theta: mg.Tensor) -> None:
        for _ in range(T):
            s = label(mg.tanh(theta @ s), "s")

    s, theta = arrays(inputs).values()
    one = np.tanh(theta @ s)
    two = np.tanh(theta @ one)
    return Case(program, inputs, {"s": [one, two, np.tanh(theta @ two)]})


@equation("A2")
def driven(rng: np.random.Generator) -> Case:
    r"""A driven system: S1, S3, S4 "recurrence formula", eq 10.4-10.5; here a leaky f.

    h^{(t)} = f(h^{(t-1)}, x^{(t)}; \theta)
    """
    inputs = tensors(rng, **{"x": (T, H, 1), "h^{(0)}": (H, 1), "\\theta": (H, H)})

    def program(xs: mg.Tensor, h: mg.Tensor, theta: mg.Tensor) -> None:
        for x in xs:
            h = label(0.5 * h + mg.sigmoid(theta @ x), "h")

    xs, h, theta = arrays(inputs).values()
    hs = [0.5 ** (t + 1) * h + sum(0.5 ** (t - k) * sigmoid(theta @ xs[k]) for k in range(t + 1))
          for t in range(T)]  # fmt: skip
    return Case(program, inputs, {"h": hs})


@equation("C1")
def tanh(rng: np.random.Generator) -> Case:
    r"""Which activation function: S2.

    f = \tanh(x) = \frac{\sinh(x)}{\cosh(x)} = \frac{e^x - e^{-x}}{e^x + e^{-x}}
    """
    inputs = tensors(rng, x=(5,))

    def program(x: mg.Tensor) -> None:
        label(mg.tanh(x), "f_1")
        label(mg.sinh(x) / mg.cosh(x), "f_2")
        label((mg.exp(x) - mg.exp(-x)) / (mg.exp(x) + mg.exp(-x)), "f_3")

    doubled = np.exp(2 * inputs["x"].numpy())
    expected = [(doubled - 1) / (doubled + 1)]
    return Case(program, inputs, {"f_1": expected, "f_2": expected, "f_3": expected})


@equation("B6 A7 C2 G1")
def recurrent(rng: np.random.Generator) -> Case:
    r"""The recurrent net with its loss: S2 "for t = 1 to tau", Fig 10.3, eq 10.8-10.14.

    a^{(t)} = b + W h^{(t-1)} + U x^{(t)}
    h^{(t)} = \tanh(a^{(t)})
    o^{(t)} = c + V h^{(t)}
    \hat{y}^{(t)} = \textit{softmax}(o^{(t)})
    L^{(t)} = -\log \sum(y^{(t)} \odot \hat{y}^{(t)})
    L = \sum_{t=1}^{\tau} L^{(t)}
    """
    inputs = tensors(rng, **{"x": (T, 1, D), "h^{(0)}": (1, H)})
    inputs["y"] = named("y", np.eye(V)[rng.integers(V, size=(T, 1))])
    weights = tensors(rng, U=(D, H), W=(H, H), b=(H,), V=(H, V), c=(V,))
    cell = rnn.RNNCell(D, H, lambda a: mg.tanh(label(a, "a")), dtype="float64")
    layer = mg.nn.Linear(H, V, dtype="float64")
    for p, tensor in zip([*cell.parameters(), *layer.parameters()], weights.values(), strict=True):
        p.assign(tensor)
        p.name = tensor.name

    def program(xs: mg.Tensor, h: mg.Tensor, ys: mg.Tensor) -> None:
        losses = []
        for x, y in zip(xs, ys, strict=True):
            h = label(cell(x, h)[0], "h")
            o = label(layer(h), "o")
            share = label(mg.functional.softmax(o), r"\hat{y}")
            losses.append(label(-mg.log(mg.sum(y * share)), "L^{(t)}"))
        label(mg.sum(mg.stack(losses)), "L")

    w, expected = arrays(inputs | weights), {}
    h = w["h^{(0)}"]
    for x, y in zip(w["x"], w["y"], strict=True):
        a = w["b"] + h @ w["W"] + x @ w["U"]
        h = np.tanh(a)
        o = w["c"] + h @ w["V"]
        step = {
            "a": a,
            "h": h,
            "o": o,
            r"\hat{y}": softmax(o),
            "L^{(t)}": -np.log(softmax(o)[y == 1][0]),
        }
        for name, value in step.items():
            expected.setdefault(name, []).append(value)
    expected["L"] = [sum(expected["L^{(t)}"])]
    return Case(program, inputs, expected, constants=arrays(weights))


@equation("B7")
def vanilla(rng: np.random.Generator) -> Case:
    r"""The vanilla recurrent net of S4.

    h_t = \tanh(W_{hh} h_{t-1} + W_{xh} x_t)
    y_t = W_{hy} h_t
    """

    def expected(w: Arrays) -> Iterator[Arrays]:
        h = w["h^{(0)}"]
        for x in w["x"]:
            h = np.tanh(h @ w["W_hh"] + x @ w["W_xh"])
            yield {"h": h, "y": h @ w["W_hy"]}

    cell = rnn.Readout(
        rnn.RNNCell(D, H, bias=False, dtype="float64"), mg.nn.Linear(H, V, False, "float64")
    )
    weights = {"cell.Wx": "W_xh", "cell.Wh": "W_hh", "layer.W": "W_hy"}
    return of_cell(rng, cell, weights, "h", expected, output="y")


# --- probabilities of sequences -------------------------------------------------------------------


def chain(rng: np.random.Generator, terms: str, steps: int = T) -> Case:
    """P of outputs as the product of their conditionals; terms: what a state depends on."""
    shapes = {"x": (steps, D, 1), "h^{(0)}": (H, 1), "W": (H, H), "U": (H, D), "R": (H, V)}
    inputs = tensors(rng, **shapes, V=(V, H), b=(6, 1))
    ys, lengths = np.eye(V)[rng.integers(V, size=steps)][..., None], np.eye(6)[:, [steps - 1]]
    inputs |= {"y": named("y", ys), "y^{(0)}": named("y^{(0)}", np.zeros((V, 1)))}
    inputs["l"] = named("l", lengths)

    def program(*given: mg.Tensor) -> None:
        w = dict(zip(inputs, given, strict=True))
        h, before, logs = w["h^{(0)}"], w["y^{(0)}"], []
        for x, y in zip(w["x"], w["y"], strict=True):
            a: Any = w["W"] @ h if "h" in terms else None
            for name, weight, seen in (("x", "U", x), ("y", "R", before)):
                if name in terms:
                    a = w[weight] @ seen if a is None else a + w[weight] @ seen
            h, before = label(mg.tanh(a), "h"), y
            p = mg.sum(y * mg.functional.softmax(w["V"] @ h, axis=0))
            logs.append(mg.log(label(p, "p")))
        if "l" in terms:
            p = mg.sum(w["l"] * mg.functional.softmax(w["b"], axis=0))
            logs.append(mg.log(label(p, r"P_\tau")))
        label(mg.exp(mg.sum(mg.stack(logs))), "P")

    w = arrays(inputs)
    h, before = w["h^{(0)}"], w["y^{(0)}"]
    expected: dict[str, list[Any]] = {"h": [], "p": []}
    for x, y in zip(w["x"], w["y"], strict=True):
        on = [
            w["W"] @ h * ("h" in terms),
            w["U"] @ x * ("x" in terms),
            w["R"] @ before * ("y" in terms),
        ]
        h, before = np.tanh(sum(on)), y
        expected["h"].append(h)
        expected["p"].append(softmax(w["V"] @ h)[y == 1][0])
    if "l" in terms:
        expected[r"P_\tau"] = [softmax(w["b"])[steps - 1, 0]]
    expected["P"] = [np.prod(np.concatenate(list(expected.values())[1:]))]
    return Case(program, inputs, expected)


@equation("D4")
def forcing(rng: np.random.Generator) -> Case:
    r"""Teacher forcing: eq 10.15-10.16; p(t) stands for the conditional of y(t).

    \log p(y^{(1)}, y^{(2)} | x^{(1)}, x^{(2)}) = \log p(y^{(2)} | y^{(1)}, x^{(1)}, x^{(2)}) + \log p(y^{(1)} | x^{(1)}, x^{(2)})
    h^{(t)} = \tanh(U x^{(t)} + R y^{(t-1)})
    p^{(t)} = \sum(y^{(t)} \odot \textit{softmax}(V h^{(t)}))
    P = \exp(\log p^{(2)} + \log p^{(1)})
    """
    return chain(rng, "xy", steps=2)


@equation("G1 D14")
def likelihood(rng: np.random.Generator) -> Case:
    r"""The likelihood of a sequence: S2 "Language Modeling", eq 10.31-10.33.

    P(y_1, \dots, y_T) = \prod_{i=1}^T P(y_i | y_1, \dots, y_{i-1})
    h^{(t)} = \tanh(W h^{(t-1)} + R y^{(t-1)})
    p^{(t)} = \sum(y^{(t)} \odot \textit{softmax}(V h^{(t)}))
    L^{(t)} = -\log p^{(t)}
    P = \exp(-\sum_t L^{(t)})
    """
    return chain(rng, "hy")


@equation("G7")
def length(rng: np.random.Generator) -> Case:
    r"""The likelihood where a length is drawn first: eq 10.34.

    P(x^{(1)}, \dots, x^{(\tau)}) = P(\tau) P(x^{(1)}, \dots, x^{(\tau)} | \tau)
    h^{(t)} = \tanh(W h^{(t-1)} + R y^{(t-1)})
    p^{(t)} = \sum(y^{(t)} \odot \textit{softmax}(V h^{(t)}))
    P_\tau = \sum(l \odot \textit{softmax}(b))
    P = P_\tau \prod_{t=1}^{\tau} p^{(t)}
    """
    return chain(rng, "hyl")


@equation("B10")
def conditional(rng: np.random.Generator) -> Case:
    r"""Outputs that are independent given the inputs: eq 10.35.

    P(y^{(1)}, \dots, y^{(\tau)} | x^{(1)}, \dots, x^{(\tau)}) = \prod_t P(y^{(t)} | x^{(1)}, \dots, x^{(t)})
    h^{(t)} = \tanh(W h^{(t-1)} + U x^{(t)})
    p^{(t)} = \sum(y^{(t)} \odot \textit{softmax}(V h^{(t)}))
    P = \prod_{t=1}^{\tau} p^{(t)}
    """
    return chain(rng, "hx")


# --- the gradient, and its norm -------------------------------------------------------------------


@equation("D1 C2")
def bptt(rng: np.random.Generator) -> Case:
    r"""Back-propagation through time: eq 10.17-10.28, read off the graph that pullback records.

    a^{(t)} = b + W h^{(t-1)} + U x^{(t)}
    h^{(t)} = \tanh(a^{(t)})
    o^{(t)} = c + V h^{(t)}
    \nabla_{o^{(t)}} L = \textit{softmax}(o^{(t)}) - y^{(t)}
    \nabla_{h^{(\tau)}} L = V^{\top} \nabla_{o^{(\tau)}} L
    \nabla_{h^{(t)}} L = W^{\top} \operatorname{diag}(1 - (h^{(t+1)})^2) \nabla_{h^{(t+1)}} L + V^{\top} \nabla_{o^{(t)}} L \qquad t = \tau-1, \dots, 1
    \nabla_{a^{(t)}} L = \operatorname{diag}(1 - (h^{(t)})^2) \nabla_{h^{(t)}} L
    \nabla_c L = \sum_t \nabla_{o^{(t)}} L
    \nabla_b L = \sum_t \nabla_{a^{(t)}} L
    \nabla_V L = \sum_t \nabla_{o^{(t)}} L h^{(t)\top}
    \nabla_W L = \sum_t \nabla_{a^{(t)}} L h^{(t-1)\top}
    \nabla_U L = \sum_t \nabla_{a^{(t)}} L x^{(t)\top}
    """
    shapes = {"x": (T, D, 1), "h^{(0)}": (H, 1)}
    weights = tensors(rng, b=(H, 1), c=(V, 1), U=(H, D), V=(V, H), W=(H, H))
    inputs = tensors(rng, **shapes) | {
        "y": named("y", np.eye(V)[rng.integers(V, size=T)][..., None])
    }
    inputs |= weights

    def program(xs: Any, h: Any, ys: Any, b: Any, c: Any, U: Any, Vh: Any, W: Any) -> None:
        loss: Any = 0
        steps: list[list[mg.Tensor]] = []
        for x, y in zip(xs, ys, strict=True):
            a = label(b + W @ h + U @ x, "a")
            h = label(mg.tanh(a), "h")
            o = label(c + Vh @ h, "o")
            loss = loss + mg.log(mg.sum(mg.exp(o))) - mg.sum(y * o)
            steps.append([o, h, a])
        found = iter(mg.pullback(loss, [s for step in steps for s in step] + [b, c, U, Vh, W]))
        for t in range(1, T + 1):
            for name in "oha":
                label(next(found), rf"\nabla_{{{name}^{{({t})}}}} L")
        for name, gradient in zip(weights, found, strict=True):
            label(gradient, rf"\nabla_{name} L")

    w = arrays(inputs)
    hs, a_s, os = [w["h^{(0)}"]], [], []
    for x in w["x"]:
        a_s.append(w["b"] + w["W"] @ hs[-1] + w["U"] @ x)
        hs.append(np.tanh(a_s[-1]))
        os.append(w["c"] + w["V"] @ hs[-1])
    expected: dict[str, list[Any]] = {"a": a_s, "h": hs[1:], "o": os}
    totals = dict.fromkeys(weights, 0.0)
    back = np.zeros((H, 1))
    for t in range(T, 0, -1):
        g_o = softmax(os[t - 1]) - w["y"][t - 1]
        g_h = back + w["V"].T @ g_o
        g_a = np.diagflat(1 - hs[t] ** 2) @ g_h
        back = w["W"].T @ g_a
        for name, g in zip("oha", (g_o, g_h, g_a), strict=True):
            expected[rf"\nabla_{{{name}^{{({t})}}}} L"] = [g]
        terms = {"b": g_a, "c": g_o, "U": g_a @ w["x"][t - 1].T, "V": g_o @ hs[t].T}
        for name, term in (terms | {"W": g_a @ hs[t - 1].T}).items():
            totals[name] = totals[name] + term
    expected |= {rf"\nabla_{name} L": [total] for name, total in totals.items()}
    return Case(program, inputs, expected, folded=False)


@equation("D10")
def linear(rng: np.random.Generator) -> Case:
    r"""The linear recurrence: eq 10.36-10.39, for symmetric W = Q \Lambda Q^T.

    h^{(t)} = W^{\top} h^{(t-1)}
    h^{(t)} = (W^t)^{\top} h^{(0)}
    h^{(t)} = Q \Lambda^t Q^{\top} h^{(0)}
    """
    inputs = tensors(rng, **{"h^{(0)}": (H, 1), "W": (H, H)})
    inputs["W"].assign(inputs["W"] + inputs["W"].T)

    def program(h: mg.Tensor, W: mg.Tensor) -> None:
        for _ in range(T):
            h = label(W.T @ h, "h")

    h, W = arrays(inputs).values()
    values, Q = np.linalg.eigh(W)
    hs = [Q @ np.diag(values**t) @ Q.T @ h for t in range(1, T + 1)]
    constants = {"Q": Q, r"\Lambda": np.diag(values)}
    return Case(program, inputs, {"h": hs}, constants=constants)


@equation("D6")
def clip(rng: np.random.Generator) -> Case:
    r"""Gradient clipping: S1 "Exploding gradients", eq 10.48-10.49, with \epsilon = v = 1.

    g = \min(1, \frac{\epsilon}{|\nabla L|}) \nabla L
    """
    inputs = tensors(rng, **{r"\nabla L": (D,)})
    inputs[r"\nabla L"].assign(inputs[r"\nabla L"] * (4.0 if rng.integers(2) else 0.1))
    parameter = named("\\theta", np.zeros(D))

    def program(g: mg.Tensor) -> None:
        parameter.grad = g
        mg.optim.clip_by_global_norm([parameter], 1.0, error_if_nonfinite=False)
        label(parameter.grad, "g")

    g = inputs[r"\nabla L"].numpy()
    norm = np.linalg.norm(g)
    return Case(program, inputs, {"g": [g / norm if norm > 1 else g]}, constants={r"\epsilon": 1.0})


@equation("D8")
def omega(rng: np.random.Generator) -> Case:
    r"""The regulariser for vanishing gradients: S2, eq 10.50-10.52, the exact mode.

    \Omega = \sum_{t=2}^{\tau} (\frac{|J^{(t)\top} \nabla_{h^{(t)}} L|}{|\nabla_{h^{(t)}} L|} - 1)^2
    J^{(t)} = \frac{\partial h^{(t)}}{\partial h^{(t-1)}}
    """
    cell = rnn.RNNCell(D, H, bias=False, dtype="float64")
    inputs = tensors(rng, **{"x": (T, 1, D), "h^{(0)}": (1, H)})
    for p, name in ((cell.Wx, "U"), (cell.Wh, "W")):
        p.assign(rng.normal(size=p.shape))
        p.name = name

    def program(xs: mg.Tensor, h: mg.Tensor) -> None:
        loss, term = vanishing.omega(cell, lambda ys: mg.sum(ys**2), xs, h)
        label(term, r"\Omega")

    xs, h = arrays(inputs).values()
    U, W = cell.Wx.numpy(), cell.Wh.numpy()
    hs = [h]
    for x in xs:
        hs.append(np.tanh(x @ U + hs[-1] @ W))
    g, total = 2 * hs[-1], 0.0
    for t in range(T, 1, -1):
        back = (g * (1 - hs[t] ** 2)) @ W.T
        total += (np.linalg.norm(back) / np.linalg.norm(g) - 1) ** 2
        g = back + 2 * hs[t - 1]
    return Case(program, inputs, {r"\Omega": [total]}, folded=False)


# --- gated cells ----------------------------------------------------------------------------------


def lstm(squash: Callable[[Any], Any] = np.tanh) -> Callable[[Arrays], Iterator[Arrays]]:
    """The LSTM in NumPy, with peepholes if it has them."""

    def steps(w: Arrays) -> Iterator[Arrays]:
        h, c = w["h^{(0)}"], w["c^{(0)}"]
        for x in w["x"]:
            i, f, g, o = (x @ w[f"W_x{k}"] + h @ w[f"W_h{k}"] + w[f"b_{k}"] for k in "ifco")
            i, f = (sigmoid(a + c * w.get(f"W_c{k}", 0)) for a, k in ((i, "i"), (f, "f")))
            c = f * c + i * squash(g)
            o = sigmoid(o + c * w.get("W_co", 0))
            h = o * np.tanh(c)
            yield {"i": i, "f": f, "o": o, "c": c, "h": h}

    return steps


LSTM = {"Wx": "W_xi W_xf W_xc W_xo", "Wh": "W_hi W_hf W_hc W_ho", "b": "b_i b_f b_c b_o"}


@equation("E2")
def standard(rng: np.random.Generator) -> Case:
    r"""Long short-term memory: the slides of S1 and S2, which draw it, in S3's letters.

    i_t = \sigma(W_{xi} x_t + W_{hi} h_{t-1} + b_i)
    f_t = \sigma(W_{xf} x_t + W_{hf} h_{t-1} + b_f)
    c_t = f_t \odot c_{t-1} + i_t \odot \tanh(W_{xc} x_t + W_{hc} h_{t-1} + b_c)
    o_t = \sigma(W_{xo} x_t + W_{ho} h_{t-1} + b_o)
    h_t = o_t \odot \tanh(c_t)
    """
    return of_cell(
        rng, rnn.LSTMCell(D, H, dtype="float64"), LSTM, "h c", lstm(), {"sigmoid": "f i o"}
    )


@equation("E3")
def peephole(rng: np.random.Generator) -> Case:
    r"""Long short-term memory with peepholes: S3's five equations; W_c. diagonal, so odot here.

    i_t = \sigma(W_{xi} x_t + W_{hi} h_{t-1} + W_{ci} \odot c_{t-1} + b_i)
    f_t = \sigma(W_{xf} x_t + W_{hf} h_{t-1} + W_{cf} \odot c_{t-1} + b_f)
    c_t = f_t \odot c_{t-1} + i_t \odot \tanh(W_{xc} x_t + W_{hc} h_{t-1} + b_c)
    o_t = \sigma(W_{xo} x_t + W_{ho} h_{t-1} + W_{co} \odot c_t + b_o)
    h_t = o_t \odot \tanh(c_t)
    """
    cell = rnn.PeepholeLSTMCell(D, H, dtype="float64")
    weights = LSTM | {"p": "W_ci W_cf W_co"}
    return of_cell(rng, cell, weights, "h c", lstm(), {"sigmoid": "i f o"})


@equation("E1")
def book_lstm(rng: np.random.Generator) -> Case:
    r"""The LSTM of the book: Fig 10.16, eq 10.40-10.44, for all units at once.

    f^{(t)} = \sigma(b^f + U^f x^{(t)} + W^f h^{(t-1)})
    g^{(t)} = \sigma(b^g + U^g x^{(t)} + W^g h^{(t-1)})
    s^{(t)} = f^{(t)} \odot s^{(t-1)} + g^{(t)} \odot \sigma(b + U x^{(t)} + W h^{(t-1)})
    q^{(t)} = \sigma(b^o + U^o x^{(t)} + W^o h^{(t-1)})
    h^{(t)} = \tanh(s^{(t)}) \odot q^{(t)}
    """

    def expected(w: Arrays) -> Iterator[Arrays]:
        h, s = w["h^{(0)}"], w["s^{(0)}"]
        for x in w["x"]:
            f, g, q, new = (
                sigmoid(w[f"b{k}"] + x @ w[f"U{k}"] + h @ w[f"W{k}"])
                for k in ("^f", "^g", "^o", "")
            )
            s = f * s + g * new
            h = np.tanh(s) * q
            yield {"f": f, "g": g, "s": s, "q": q, "h": h}

    weights = {"Wx": "U^g U^f U U^o", "Wh": "W^g W^f W W^o", "b": "b^g b^f b b^o"}
    cell = rnn.BookLSTMCell(D, H, dtype="float64")
    return of_cell(rng, cell, weights, "h s", expected, {"sigmoid": "f g - q"})


@equation("E4")
def gru(rng: np.random.Generator) -> Case:
    r"""The gated recurrent unit: S1's slide names it; Cho et al. 2014, reset after the product.

    r_t = \sigma(W_{xr} x_t + W_{hr} h_{t-1} + b_r)
    z_t = \sigma(W_{xz} x_t + W_{hz} h_{t-1} + b_z)
    n_t = \tanh(W_{xn} x_t + b_n + r_t \odot (W_{hn} h_{t-1} + b_h))
    h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1}
    """

    def expected(w: Arrays) -> Iterator[Arrays]:
        h = w["h^{(0)}"]
        for x in w["x"]:
            r, z = (sigmoid(x @ w[f"W_x{k}"] + h @ w[f"W_h{k}"] + w[f"b_{k}"]) for k in "rz")
            n = np.tanh(x @ w["W_xn"] + w["b_n"] + r * (h @ w["W_hn"] + w["b_h"]))
            h = (1 - z) * n + z * h
            yield {"r": r, "z": z, "n": n, "h": h}

    weights = {"Wx": "W_xr W_xz W_xn", "Wh": "W_hr W_hz W_hn", "b": "b_r b_z b_n", "bh": "b_h"}
    inside = {"split": "- - r,z", "tanh": "n"}
    return of_cell(rng, rnn.GRUCell(D, H, dtype="float64"), weights, "h", expected, inside)


@equation("E4")
def book_gru(rng: np.random.Generator) -> Case:
    r"""The GRU of the book: eq 10.45-10.47, whose x, u and r stand at t-1 where the program's x
    comes with the h(t-1) that it updates; written here with the program's numbers.

    u^{(t)} = \sigma(b^u + U^u x^{(t)} + W^u h^{(t-1)})
    r^{(t)} = \sigma(b^r + U^r x^{(t)} + W^r h^{(t-1)})
    h^{(t)} = u^{(t)} \odot h^{(t-1)} + (1 - u^{(t)}) \odot \sigma(b + U x^{(t)} + W (r^{(t)} \odot h^{(t-1)}))
    """

    def expected(w: Arrays) -> Iterator[Arrays]:
        h = w["h^{(0)}"]
        for x in w["x"]:
            u, r = (sigmoid(w[f"b^{k}"] + x @ w[f"U^{k}"] + h @ w[f"W^{k}"]) for k in "ur")
            h = u * h + (1 - u) * sigmoid(w["b"] + x @ w["U"] + (r * h) @ w["W"])
            yield {"u": u, "r": r, "h": h}

    weights = {"Wx": "U^r U^u U", "Wh": "W^r W^u W", "b": "b^r b^u b"}
    cell = rnn.BookGRUCell(D, H, dtype="float64")
    return of_cell(rng, cell, weights, "h", expected, {"split": "- - r,u"})


# --- the command ----------------------------------------------------------------------------------


def listing() -> str:
    """The equations by name, with their rows of the lectures' table."""
    return "\n".join(
        f"{name:<12}{rows:<13}{lecture(name)[0]}" for name, (rows, _) in EQUATIONS.items()
    )


def chosen(asked: str | None) -> list[str]:
    """The names of the equations of a row or a name; of None all. Raises UsageError for none."""
    found = [n for n, (rows, _) in EQUATIONS.items() if asked in (None, n, *rows.split())]
    if not found:
        raise UsageError(f"there is no equation or row {asked!r}: --list says what there is")
    return found


def show(name: str) -> bool:
    """Print an equation: the lecture's formula, the graph's, and how far their values differ."""
    rows, build = EQUATIONS[name]
    title, formulas = lecture(name)
    case = build(np.random.default_rng(0))
    printed = [str(line) for line in case.printed()]
    print(f"{name}: {title} (row {', '.join(rows.split())})")
    for source, lines in (("lecture", formulas), ("graph", printed)):
        for line in lines:
            print(f"  {source:<9}{line}")
            if sys.stdout.isatty():
                print(f"  {'':<9}{readable(line)}")
    worst = max(build(np.random.default_rng(seed)).difference() for seed in range(DRAWS))
    good = worst <= TOLERANCE
    what = ", ".join(readable(symbol) for symbol in case.expected)
    verdict = "equal" if good else f"NOT EQUAL (more than {TOLERANCE:g})"
    print(
        f"  {'check':<9}{what} against NumPy, {DRAWS} draws: largest difference {worst:.1e}: {verdict}\n"
    )
    return good


def run(options: argparse.Namespace) -> int:
    """Run the command: 0 where every check holds, else 1."""
    if options.list:
        print(listing())
        return 0
    results = [show(name) for name in chosen(options.name)]
    print(f"{sum(results)} of {len(results)} equations hold on backend {mg.resolve().name}")
    return 0 if all(results) else 1

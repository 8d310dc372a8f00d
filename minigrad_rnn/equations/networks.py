"""Dynamical systems and recurrent networks (eq 10.1-10.14)."""

from __future__ import annotations

import numpy as np

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.graph import label
from minigrad_rnn.equations.case import (
    F8,
    Case,
    D,
    H,
    T,
    V,
    draw,
    equation,
    of_cell,
    sigmoid,
    softmax,
)


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

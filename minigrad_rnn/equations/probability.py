"""Probabilities of sequences (eq 10.15, 10.16 and 10.31-10.35)."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from minigrad.graph import label
from minigrad_rnn.equations.case import Case, D, H, T, V, draw, equation, softmax


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

"""Distributions over sequences by listing all of them (Goodfellow et al. 2016, section 10.2.3).

A model is `conditional(prefix) -> o`: the outputs (N,) of the step after a prefix, a tuple. The
probability of a whole sequence is the product of its steps' (eq 10.31). The three ways to say where
a sequence ends are those of section 10.2.3.1; `bernoulli` decides before each element whether it
comes at all, so that the empty sequence is possible under each.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

Prefix = tuple
Conditional = Callable[[Prefix], np.ndarray]


def sequences(symbols: Iterable[int], length: int) -> list[Prefix]:
    """All sequences of a length, in lexicographic order."""
    return list(itertools.product(symbols, repeat=length))


def up_to(symbols: Sequence[int], length: int) -> list[Prefix]:
    """All sequences of at most a length, the empty one first."""
    return [y for n in range(length + 1) for y in sequences(symbols, n)]


def softmax(o: np.ndarray) -> np.ndarray:
    """Return exp(o) / sum exp(o)."""
    odds = np.exp(o - np.max(o))
    return odds / np.sum(odds)


def sigmoid(a: float) -> float:
    """Return 1 / (1 + exp(-a))."""
    return 1 / (1 + np.exp(-a))


def symbol(o: np.ndarray, y: int) -> float:
    """P(y) of a categorical output with logits o."""
    return softmax(o)[y]


def gaussian(o: np.ndarray, y: np.ndarray) -> float:
    """The density at y (D,) of independent normal variables, o = (means, logs of deviations)."""
    mean, deviation = o[: len(y)], np.exp(o[len(y) :])
    return np.prod(
        np.exp(-((y - mean) ** 2) / (2 * deviation**2)) / np.sqrt(2 * np.pi * deviation**2)
    )


def chain(conditional: Conditional, y: Prefix, density: Callable = symbol) -> float:
    """P(y) of a sequence whose length is no part of it (eq 10.31)."""
    p = 1.0
    for t in range(len(y)):
        p *= density(conditional(tuple(y[:t])), y[t])
    return p


def end_symbol(conditional: Conditional, y: Prefix, end: int) -> float:
    """P(y), then the end symbol."""
    return chain(conditional, (*y, end))


def bernoulli(conditional: Conditional, y: Prefix, density: Callable = symbol) -> float:
    """P(y), o = (a, what describes the element): the sequence halts with probability sigmoid(a)."""
    p = 1.0
    for t in range(len(y)):
        o = conditional(tuple(y[:t]))
        p *= (1 - sigmoid(o[0])) * density(o[1:], y[t])
    return p * sigmoid(conditional(tuple(y))[0])


def drawn_length(
    lengths: np.ndarray,
    conditional: Callable[[Prefix, int], np.ndarray],
    y: Prefix,
    density: Callable = symbol,
) -> float:
    """P(tau) P(y | tau) (eq 10.34), lengths (L + 1,) being P(tau).

    The model sees how many elements are left: conditional(prefix, tau - its length).
    """
    tau = len(y)
    return lengths[tau] * chain(lambda prefix: conditional(prefix, tau - len(prefix)), y, density)


def empirical_joint(rows: Sequence[Prefix], k: int) -> np.ndarray:
    """The share of each sequence among rows, an array (k, ..., k)."""
    joint = np.zeros((k,) * len(rows[0]))
    for row in rows:
        joint[tuple(row)] += 1 / len(rows)
    return joint


def joint(conditional: Conditional, k: int, length: int) -> np.ndarray:
    """P of every sequence of a length, an array (k, ..., k)."""
    table = np.zeros((k,) * length)
    for y in sequences(range(k), length):
        table[y] = chain(conditional, y)
    return table


def missing_values(table: np.ndarray, y: Sequence[int | None]) -> np.ndarray:
    """P(the missing | the others) from a joint table: None is missing, an array (k,) * m."""
    slab = table[tuple(slice(None) if value is None else value for value in y)]
    return slab / slab.sum()

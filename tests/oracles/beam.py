"""Search for the best sequence: by listing all, and beam search with lists, for one sample.

Wu et al. 2016 (GNMT), section 7, eq 14:
    s(Y, X) = log P(Y | X) / lp(Y) + cp(X; Y)
    lp(Y) = (5 + |Y|)^alpha / (5 + 1)^alpha
    cp(X; Y) = beta sum_i log(min(sum_j p_ij, 1.0))
p_ij: the attention that the j-th target symbol pays to the i-th source symbol. A hypothesis whose
last symbol is the end symbol leaves the beam (Sutskever et al. 2014, section 3.2); one that has L
symbols counts as it is. |Y| counts the end symbol. Sequences of probability 0 are not found.

A model is `conditional(prefix) -> (logits (V,), attention (S,))` of the step after a prefix.
"""

import itertools
from collections.abc import Callable

import numpy as np

Model = Callable[[tuple], tuple[np.ndarray, np.ndarray]]
Hypothesis = tuple[tuple, float, float]  # symbols with the end symbol, s(Y, X), log P


def length_penalty(length: int, alpha: float) -> float:
    """Return lp(Y)."""
    return (5 + length) ** alpha / (5 + 1) ** alpha


def coverage_penalty(attention: np.ndarray, beta: float) -> float:
    """Return cp(X; Y) of attention (|Y|, S)."""
    total = 0.0
    for i in range(attention.shape[1]):
        covered = 0.0
        for j in range(attention.shape[0]):
            covered += attention[j, i]
        with np.errstate(divide="ignore"):
            total += np.log(min(covered, 1.0))
    return beta * total if beta else 0.0


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log(exp(o) / sum exp(o)); no probability anywhere where all logits are -inf."""
    if np.max(logits) == -np.inf:
        return np.full_like(logits, -np.inf)
    with np.errstate(divide="ignore"):
        odds = np.exp(logits - np.max(logits))
        return np.log(odds / np.sum(odds))


def scored(model: Model, y: tuple, log_p: float, alpha: float, beta: float) -> Hypothesis:
    """Return y with its score."""
    attention = np.array([model(y[:t])[1] for t in range(len(y))])
    score = log_p / length_penalty(len(y), alpha) + coverage_penalty(attention, beta)
    return y, score, log_p


def exhaustive(
    model: Model, V: int, L: int, end: int, alpha: float, beta: float
) -> list[Hypothesis]:
    """Return every sequence that ends, or has L symbols, best first."""
    found = []
    for length in range(1, L + 1):
        for y in itertools.product(range(V), repeat=length):
            if end not in y[:-1] and (y[-1] == end or length == L):
                log_p = sum(log_softmax(model(y[:t])[0])[y[t]] for t in range(length))
                if log_p > -np.inf:
                    found.append(scored(model, y, log_p, alpha, beta))
    return sorted(found, key=lambda item: -item[1])


def beam(model: Model, L: int, end: int, width: int, alpha: float, beta: float) -> list[Hypothesis]:
    """Return all hypotheses that beam search completes, best first."""
    alive: list[tuple[tuple, float]] = [((), 0.0)]
    done = []
    for step in range(1, L + 1):
        longer = []
        for y, log_p in alive:
            for v, change in enumerate(log_softmax(model(y)[0])):
                if change > -np.inf:
                    longer.append(((*y, v), log_p + change))
        longer.sort(key=lambda item: -item[1])  # stable: ties stay in order
        alive = []
        for y, log_p in longer[:width]:
            if y[-1] == end or step == L:
                done.append(scored(model, y, log_p, alpha, beta))
            else:
                alive.append((y, log_p))
    done.sort(key=lambda item: -item[1])
    return done

"""Vanishing and exploding gradients over a hundred steps (eq 10.36-10.39)."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np

import minigrad as mg
from minigrad.nn import orthogonal
from minigrad_rnn.cells import LSTMCell, RNNCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import keys
from minigrad_rnn.vanishing import state_jacobians

LAG, H = 100, 4
RADII = {"radius 0.9": 0.9, "radius 1": 1.0, "radius 1.1": 1.1}
OPEN = 5.0  # bias of the LSTM's forget gate
PATH = (1 + math.exp(-OPEN)) ** -LAG  # sigmoid(5)^100


def _cell(variant: str, Q: np.ndarray) -> RNNCell | LSTMCell:
    """A linear RNN, a tanh RNN with symmetric weights, or an LSTM whose weights are zero."""
    if variant == "lstm":
        lstm = LSTMCell(1, H, dtype="float64")
        for p in (lstm.Wx, lstm.Wh):
            p.assign(np.zeros(p.shape))
        lstm.b.assign(np.repeat([0.0, OPEN, 0.0, 0.0], H))  # i, f, g, o
        return lstm
    values = RADII.get(variant, 0.9) * np.array([1, -0.8, 0.5, -0.1])
    f = mg.tanh if variant == "tanh 0.9" else lambda a: a
    cell = RNNCell(1, H, f, dtype="float64")
    cell.Wh.assign(Q @ np.diag(values) @ Q.T)
    return cell


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """|ds(T)/ds(0)| at T = 100, of the LSTM's cell c; the curve is over T - t."""
    _, key = keys(seed)
    cell = _cell(variant, orthogonal((H, H), dtype="float64").numpy())
    jacobians = state_jacobians(cell, mg.random.normal(key, (LAG, 1, 1), "float64")).numpy()[:, 0]
    norms = np.linalg.norm(jacobians[:, -H:, -H:], ord=2, axis=(-2, -1))  # h, or of (h, c) c
    for lag in range(0, LAG + 1, 5):
        yield lag / LAG, float(norms[LAG - lag])
    return float(norms[0])


def _power(name: str, radius: float) -> Bar:
    power = radius**LAG
    return Bar(
        f"{name}: |lambda|^100 = {power:.4g} to 1e-10",
        lambda r: all(abs(norm / power - 1) <= 1e-10 for norm in r[name]),
    )


_BARS = (
    *(_power(*pair) for pair in RADII.items()),
    Bar(
        "tanh 0.9: at most 0.9^100 = 2.7e-5",
        lambda r: max(r["tanh 0.9"]) <= 0.9**LAG * (1 + 1e-12),
    ),
    Bar(
        f"lstm: sigmoid(5)^100 = {PATH:.3f} to 1e-9",
        lambda r: all(abs(norm / PATH - 1) <= 1e-9 for norm in r["lstm"]),
    ),
)

EXPERIMENT = Experiment(
    name="gradient_norms",
    row="D10",
    question="Do gradients vanish or explode with the spectral radius, and last in an LSTM's cell?",
    measure="|ds(T)/ds(0)|, T = 100",
    variants=(*RADII, "tanh 0.9", "lstm"),
    run=run,
    bars=_BARS,
    quick_bars=_BARS,
)

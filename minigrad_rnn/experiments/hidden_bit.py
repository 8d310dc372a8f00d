"""Outputs that depend on one another: only feedback of y models them (Fig 10.10)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Linear
from minigrad_rnn import forcing
from minigrad_rnn.cells import RNNCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import keys, learn
from minigrad_rnn.patterns import OutputFeedback, Readout
from minigrad_rnn.unrolling import unroll

TAU = 5
LN2 = math.log(2)


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """Nats a sequence on y(t) = x(t) xor r, r a hidden bit, over all x of TAU bits and both r."""
    H, steps = (12, 300) if quick else (16, 1200)
    strings = np.array(list(itertools.product([0, 1], repeat=TAU + 1))).T
    labels = strings[:-1] ^ strings[-1]
    xs = mg.Tensor(2.0 * strings[:-1, :, None] - 1, dtype="float64")
    ys = mg.Tensor(2 * np.eye(2)[labels] - 1)
    keys(seed)
    fed = 2 if variant == "with" else 0
    hidden, readout = RNNCell(1 + fed, H, dtype="float64"), Linear(H, 2, dtype="float64")
    cell = OutputFeedback(hidden, readout) if fed else Readout(hidden, readout)

    def loss() -> mg.Tensor:
        os, _ = forcing.run(cell, xs, ys) if fed else unroll(cell, xs)
        return TAU * F.cross_entropy(os, labels)

    yield from learn(lambda n: (), loss, hidden.parameters() + readout.parameters(), steps)
    with mg.no_grad():
        return loss().item()


def _bars(without: float, with_feedback: float) -> tuple[Bar, ...]:
    floor = TAU * LN2
    return (
        Bar(
            f"without: tau ln 2 = {floor:.4f} nats, at most {without:.0%} more",
            lambda r: (
                floor - 1e-9 <= min(r["without"]) and max(r["without"]) <= floor * (1 + without)
            ),
        ),
        Bar(
            f"with: ln 2 = {LN2:.4f} nats, at most {with_feedback:.0%} more",
            lambda r: min(r["with"]) >= LN2 - 1e-9 and max(r["with"]) <= LN2 * (1 + with_feedback),
        ),
    )


EXPERIMENT = Experiment(
    name="hidden_bit",
    row="B10",
    question="Are outputs conditionally independent unless they are fed back?",
    measure="nats a sequence",
    variants=("without", "with"),
    run=run,
    bars=_bars(0.02, 0.02),
    quick_bars=_bars(0.02, 0.1),
)

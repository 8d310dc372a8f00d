"""Which of two symbols came first: with clipping, and with what keeps gradients from vanishing."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Linear
from minigrad_rnn.cells import RNNCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import exact, keys, learn
from minigrad_rnn.experiments.tasks import ORDER_SYMBOLS, temporal_order
from minigrad_rnn.unrolling import unroll
from minigrad_rnn.vanishing import omega

OMEGA = "clipped + omega"  # whose gradient is that of the paper, or the exact one
VARIANTS = ("plain", "clipped", OMEGA, f"{OMEGA}, exact")
CLASSES = 4
RADIUS = 0.5  # of the recurrent weights at first: gradients vanish
RATE, WEIGHT = 0.01, 1.0  # of learning; of Omega


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """A tanh RNN trained by SGD on fresh sequences; its share of right answers."""
    T, H, B, steps = (20, 16, 20, 400) if quick else (50, 32, 20, 5000)
    train, test = keys(seed)
    cell, head = RNNCell(ORDER_SYMBOLS, H), Linear(H, CLASSES)
    cell.Wh.assign(RADIUS * cell.Wh.numpy())

    def loss(xs: Any, labels: Any) -> mg.Tensor:
        def score(hs: mg.Tensor) -> mg.Tensor:
            return F.cross_entropy(head(hs[-1]), labels[0])

        if not variant.startswith(OMEGA):
            return score(unroll(cell, mg.Tensor(xs))[0])
        mode = "approximate" if variant == OMEGA else "exact"
        value, term = omega(cell, score, mg.Tensor(xs), mode=mode)
        return value + WEIGHT * term

    def answers(xs: np.ndarray, steps: int) -> mg.Tensor:
        return head(unroll(cell, mg.Tensor(xs))[0][-steps:])

    yield from learn(
        lambda n: temporal_order(train.fold(n), T, B),
        loss,
        cell.parameters() + head.parameters(),
        steps,
        RATE,
        clip=None if variant == "plain" else 1.0,
        optimizer=partial(mg.optim.SGD, momentum=0.9),
    )
    return exact(answers, [temporal_order(test, T, 1000)])


EXPERIMENT = Experiment(
    name="temporal_order",
    row="D8",
    question="Does Omega let a tanh RNN learn over a lag where clipping alone does not?",
    measure="share of right answers (guessing has 0.25)",
    variants=VARIANTS,
    run=run,
    bars=(
        Bar(
            "clipped + omega: the median is at least 0.99",
            lambda r: np.median(r[OMEGA]) >= 0.99,
        ),
        Bar("clipped: the median is below 0.9", lambda r: np.median(r["clipped"]) < 0.9),
    ),
    quick_bars=(
        Bar(
            "clipped + omega: at least 0.1 above clipped",
            lambda r: min(r[OMEGA]) >= max(r["clipped"]) + 0.1,
        ),
        Bar(
            "clipped + omega: at least 0.1 above plain",
            lambda r: min(r[OMEGA]) >= max(r["plain"]) + 0.1,
        ),
    ),
)

"""The adding problem: two numbers far apart, and the sum is asked at the end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad_rnn.cells import GRUCell, LSTMCell, RNNCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import Answering, keys, learn
from minigrad_rnn.experiments.tasks import adding

CELLS = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}
VARIANCE = 1 / 6  # of the sum of two uniform numbers: the error of always answering 1


def learn_sums(
    make: Callable[[], Answering], T: int, B: int, steps: int, seed: int
) -> Generator[tuple[float, float], None, float]:
    """Train make() on fresh sequences; the mean squared error on 2,000 others."""
    train, test = keys(seed)
    model = make()

    def loss(xs: Any, sums: Any) -> mg.Tensor:
        return mg.mean(mg.square(model(xs)[0] - mg.Tensor(sums)))

    yield from learn(lambda n: adding(train.fold(n), T, B), loss, model.parameters(), steps)
    xs, sums = adding(test, T, 2000)
    with mg.no_grad():
        return float(np.mean((model(xs)[0].numpy() - sums) ** 2))


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """The mean squared error of the sum."""
    T, H, B, steps = (12, 24, 48, 250) if quick else (50, 32, 48, 1600)
    error = yield from learn_sums(lambda: Answering(CELLS[variant](2, H), H, 1), T, B, steps, seed)
    return error


EXPERIMENT = Experiment(
    name="adding",
    row="A6",
    question="Do gated cells add two numbers that stand far apart, and a tanh RNN not?",
    measure="mean squared error (always answering 1 has the variance, 0.1667)",
    variants=tuple(CELLS),
    run=run,
    bars=(
        Bar("lstm: the median is below 0.01", lambda r: np.median(r["lstm"]) < 0.01),
        Bar("gru: the median is below 0.01", lambda r: np.median(r["gru"]) < 0.01),
        Bar("rnn: the median is above 0.08", lambda r: np.median(r["rnn"]) > 0.08),
    ),
    quick_bars=(
        Bar("lstm: below half the variance", lambda r: max(r["lstm"]) < VARIANCE / 2),
        Bar("gru: below half the variance", lambda r: max(r["gru"]) < VARIANCE / 2),
    ),
)

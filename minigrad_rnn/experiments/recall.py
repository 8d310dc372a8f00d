"""Delayed recall: which of four symbols came first, asked many steps later."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from minigrad_rnn.cells import GatedCell, GRUCell, LSTMCell, RNNCell
from minigrad_rnn.experiments import tasks
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import Answering, classify, open_gates

CELLS = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}


def make(variant: str, D: int, H: int, lag: int) -> GatedCell:
    """A cell of small random weights, whose gates, where it has some, begin open for the lag."""
    return open_gates(CELLS[variant](D, H, init="torch"), lag)


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """The share of right answers."""
    lag, H, B, steps = (30, 16, 32, 120) if quick else (50, 32, 32, 1000)
    measure = yield from classify(
        lambda: Answering(make(variant, 2 * tasks.SYMBOLS, H, lag), H, tasks.SYMBOLS),
        lambda key: tasks.recall(key, lag, B),
        steps,
        0.02 if quick else 0.01,
        seed,
        batches=30,
    )
    return measure


EXPERIMENT = Experiment(
    name="recall",
    row="A6",
    question="Does the state carry a symbol over 50 steps?",
    measure="share of right answers (guessing has 0.25)",
    variants=tuple(CELLS),
    run=run,
    bars=(
        Bar("lstm: at least 0.99 from every seed", lambda r: min(r["lstm"]) >= 0.99),
        Bar("gru: at least 0.99 from every seed", lambda r: min(r["gru"]) >= 0.99),
        Bar(
            "rnn: the median is below lstm's", lambda r: np.median(r["rnn"]) < np.median(r["lstm"])
        ),
    ),
    quick_bars=(
        Bar("lstm: at least 0.2 above rnn", lambda r: min(r["lstm"]) >= max(r["rnn"]) + 0.2),
        Bar("gru: at least 0.2 above rnn", lambda r: min(r["gru"]) >= max(r["rnn"]) + 0.2),
    ),
)

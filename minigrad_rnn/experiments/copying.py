"""Copying: the first symbols are repeated, in their order, many steps later."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from minigrad_rnn.experiments import tasks
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import Answering, classify
from minigrad_rnn.experiments.recall import CELLS, make


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """The share of sequences repeated without a mistake."""
    length, lag, H, B, steps = (2, 30, 24, 32, 350) if quick else (5, 50, 64, 64, 4000)
    measure = yield from classify(
        lambda: Answering(make(variant, tasks.SYMBOLS + 1 + length, H, lag), H, tasks.SYMBOLS),
        lambda key: tasks.copying(key, lag, B, length),
        steps,
        0.02 if quick else 0.01,
        seed,
        batches=30,
    )
    return measure


EXPERIMENT = Experiment(
    name="copying",
    row="A6",
    question="Does the state carry several symbols, in order, over 50 steps?",
    measure="share of sequences repeated without a mistake",
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
        Bar("lstm: at least 0.1 above rnn", lambda r: min(r["lstm"]) >= max(r["rnn"]) + 0.1),
        Bar("gru: at least 0.1 above rnn", lambda r: min(r["gru"]) >= max(r["rnn"]) + 0.1),
    ),
)

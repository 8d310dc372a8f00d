"""Units of different time scales: leaky ones and a clockwork, against a plain tanh RNN."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from minigrad_rnn.cells import GatedCell, RNNCell
from minigrad_rnn.experiments import tasks
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import Answering, classify
from minigrad_rnn.timescales import ClockworkCell, LeakyCell, leaky_groups

VARIANTS = ("plain", "leaky", "clockwork")
ALPHAS = (0.0, 0.5, 0.9, 0.98)  # time scales of 1, 2, 10 and 50 steps
PERIODS = (1, 2, 8, 32)


def make(variant: str, D: int, H: int) -> GatedCell:
    """A cell whose recurrent weights are small at first, so that plain gradients vanish."""
    cell: GatedCell
    if variant == "leaky":
        cell = LeakyCell(D, H, leaky_groups(H, ALPHAS))
    elif variant == "clockwork":
        cell = ClockworkCell(D, H, PERIODS)
    else:
        cell = RNNCell(D, H)
    cell.Wh.assign(0.5 * cell.Wh.numpy())
    return cell


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """Delayed recall; the share of right answers."""
    lag, H, B, steps = (30, 16, 32, 150) if quick else (50, 32, 32, 1500)
    measure = yield from classify(
        lambda: Answering(make(variant, 2 * tasks.SYMBOLS, H), H, tasks.SYMBOLS),
        lambda key: tasks.recall(key, lag, B),
        steps,
        0.01,
        seed,
        batches=30,
    )
    return measure


EXPERIMENT = Experiment(
    name="time_scales",
    row="D12",
    question="Do leaky units and a clockwork remember where a plain tanh RNN forgets?",
    measure="share of right answers (guessing has 0.25)",
    variants=VARIANTS,
    run=run,
    bars=(
        Bar("leaky: the median is at least 0.9", lambda r: np.median(r["leaky"]) >= 0.9),
        Bar("clockwork: the median is at least 0.9", lambda r: np.median(r["clockwork"]) >= 0.9),
        Bar("plain: the median is below 0.5", lambda r: np.median(r["plain"]) < 0.5),
    ),
    quick_bars=(
        Bar("leaky: at least 0.2 above plain", lambda r: min(r["leaky"]) >= max(r["plain"]) + 0.2),
        Bar(
            "clockwork: at least 0.2 above plain",
            lambda r: min(r["clockwork"]) >= max(r["plain"]) + 0.2,
        ),
    ),
)

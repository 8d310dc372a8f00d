"""A GRU and an LSTM of as many parameters, on three tasks."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from minigrad_rnn.cells import GRUCell, LSTMCell
from minigrad_rnn.experiments import tasks
from minigrad_rnn.experiments.adding import VARIANCE, learn_sums
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import Answering, classify, open_gates

TASKS = ("recall", "order", "adding")
CELLS = ("gru", "lstm")
T_95 = 2.776  # Student's t for five pairs


def parameters(kind: str, D: int, H: int) -> int:
    """How many numbers a cell has: the GRU with its second bias of the new gate."""
    return 3 * H * (D + H + 1) + H if kind == "gru" else 4 * H * (D + H + 1)


def make(kind: str, D: int, H: int, V: int, lag: int) -> Answering:
    """An LSTM of H units, or the GRU that is nearest to it in parameters."""
    if kind == "lstm":
        return Answering(open_gates(LSTMCell(D, H, init="torch"), lag), H, V)
    size = parameters("lstm", D, H)
    H = min(range(H, 2 * H), key=lambda h: abs(parameters("gru", D, h) - size))
    return Answering(open_gates(GRUCell(D, H, init="torch"), lag), H, V)


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """The share of right answers, or of the variance that the answers explain."""
    task, kind = variant.split()
    T, H, B, steps = (30, 16, 32, 130) if quick else (50, 32, 32, 1500)
    if task == "adding":
        T, B = (12, 48) if quick else (T, B)
        error = yield from learn_sums(lambda: make(kind, 2, H, 1, T), T, B, 2 * steps, seed)
        return 1 - error / VARIANCE
    data = tasks.recall if task == "recall" else tasks.temporal_order
    D, V = (2 * tasks.SYMBOLS, tasks.SYMBOLS) if task == "recall" else (tasks.ORDER_SYMBOLS, 4)
    share = yield from classify(
        lambda: make(kind, D, H, V, T),
        lambda key: data(key, T, B),
        steps,
        0.02 if quick else 0.01,
        seed,
        batches=30,
    )
    return share


def interval(gru: Sequence[float], lstm: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean difference over five seeds, in pairs."""
    difference = np.subtract(gru, lstm)
    half = T_95 * difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean() - half), float(difference.mean() + half)


def _similar(task: str) -> Bar:
    def holds(low: float, high: float) -> bool:
        return low >= -0.1 and high <= 0.1

    return Bar(
        f"{task} gru less {task} lstm: the 95 % interval of the mean is within 0.1 of 0",
        lambda r: holds(*interval(r[f"{task} gru"], r[f"{task} lstm"])),
    )


def _learned(task: str) -> Bar:
    gru, lstm = (f"{task} {kind}" for kind in CELLS)
    return Bar(
        f"{gru} and {lstm}: both at least 0.5, and within 0.3 of one another",
        lambda r: (
            min(*r[gru], *r[lstm]) >= 0.5
            and all(abs(a - b) <= 0.3 for a, b in zip(r[gru], r[lstm]))
        ),
    )


EXPERIMENT = Experiment(
    name="gru_lstm",
    row="E7",
    question="Does a GRU perform like an LSTM of as many parameters?",
    measure="share of right answers, of explained variance in adding",
    variants=tuple(f"{task} {kind}" for task in TASKS for kind in CELLS),
    run=run,
    bars=tuple(map(_similar, TASKS)),
    quick_bars=tuple(map(_learned, TASKS)),
)

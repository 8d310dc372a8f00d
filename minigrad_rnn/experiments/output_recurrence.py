"""What recurrence through the output alone cannot remember (Fig 10.4)."""

from __future__ import annotations

import itertools
from collections.abc import Generator

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Linear
from minigrad_rnn import forcing
from minigrad_rnn.cells import RNNCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import keys, learn
from minigrad_rnn.patterns import HiddenLayer, OutputFeedback

MAKE = {"output": HiddenLayer, "hidden": RNNCell}


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """All strings of T bits: the output is 0 until the end, where it is the first bit.

    What is fed back, the true outputs before, says nothing of the first bit.
    """
    T, H, steps = (5, 12, 150) if quick else (8, 16, 600)
    bits = np.array(list(itertools.product([0, 1], repeat=T))).T
    labels = np.zeros_like(bits)
    labels[-1] = bits[0]
    end = np.broadcast_to(np.arange(T)[:, None] == T - 1, bits.shape)  # which step is the last
    xs = mg.Tensor(np.stack([2 * bits - 1, end], axis=-1), dtype="float32")
    ys = mg.Tensor(np.eye(2)[labels], dtype="float32")
    keys(seed)
    cell = OutputFeedback(MAKE[variant](4, H), Linear(H, 2))
    yield from learn(
        lambda n: (),
        lambda: F.cross_entropy(forcing.run(cell, xs, ys)[0], labels),
        cell.parameters(),
        steps,
    )
    with mg.no_grad():
        os, _ = forcing.run(cell, xs, ys)
    return float((os[-1].numpy().argmax(-1) == labels[-1]).mean())


EXPERIMENT = Experiment(
    name="output_recurrence",
    row="B8",
    question="Is recurrence through the output alone weaker than between hidden units?",
    measure="share of strings whose last output is the first bit (guessing has 0.5)",
    variants=tuple(MAKE),
    run=run,
    bars=(
        Bar("output: at most 0.5 from every seed", lambda r: max(r["output"]) <= 0.5),
        Bar("hidden: at least 0.99 from every seed", lambda r: min(r["hidden"]) >= 0.99),
    ),
    quick_bars=(
        Bar("output: at most 0.5", lambda r: max(r["output"]) <= 0.5),
        Bar("hidden: at least 0.9", lambda r: min(r["hidden"]) >= 0.9),
    ),
)

"""Copying (Graves, Wayne and Danihelka 2014, section 4.1): a neural Turing machine and an LSTM.

A list of random bit vectors comes in, then a mark; what came must go out, in order.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from statistics import median
from typing import NamedTuple

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Linear
from minigrad.optim import Adam, clip_by_global_norm
from minigrad_rnn.cells import LSTMCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.memory import NTMCell
from minigrad_rnn.patterns import HiddenLayer, Readout
from minigrad_rnn.unrolling import unroll


class Size(NamedTuple):
    """How large the task, the two networks and the training are."""

    bits: int
    longest: int  # list in training
    tested: int  # length of the lists that are measured
    controller: int  # hidden units of the machine's feed-forward controller
    cells: int
    width: int  # of a memory cell
    hidden: int  # units of the LSTM to compare with
    updates: int
    batch: int
    rate: float


FULL = Size(8, 20, 40, 100, 128, 20, 256, 10_000, 16, 1e-3)
QUICK = Size(3, 4, 8, 32, 10, 8, 64, 150, 64, 1e-2)


def lists(rng: np.random.Generator, length: int, batch: int, bits: int) -> tuple[np.ndarray, ...]:
    """Inputs (2 length + 1, batch, bits + 1), the last channel the mark; and the bits to copy."""
    target = rng.integers(0, 2, (length, batch, bits)).astype("float32")
    xs = np.zeros((2 * length + 1, batch, bits + 1), "float32")
    xs[:length, :, :bits] = target
    xs[length, :, bits] = 1
    return xs, target


def network(variant: str, size: Size) -> Readout:
    """The cell from inputs to logits of bits."""
    D = size.bits + 1
    if variant == "LSTM":
        return Readout(LSTMCell(D, size.hidden), Linear(size.hidden, size.bits))
    controller = HiddenLayer(D + size.width, size.controller)
    machine = NTMCell(controller, size.controller, size.cells, size.width)
    return Readout(machine, Linear(size.controller + size.width, size.bits))


def cost(cell: Readout, xs: np.ndarray, target: np.ndarray) -> mg.Tensor:
    """The cross-entropy of the copy, in bits per bit: 1 is what guessing costs."""
    ys, _ = unroll(cell, xs)
    return F.binary_cross_entropy_with_logits(ys[-len(target) :], target) / math.log(2)


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """Train on lists of 1 to `longest` vectors, then measure the cost of longer ones."""
    size = QUICK if quick else FULL
    mg.random.seed(seed)
    rng = np.random.default_rng(seed)
    cell = network(variant, size)
    parameters = cell.parameters()
    optimizer = Adam(parameters, lr=size.rate)
    for i in range(size.updates):
        length = int(rng.integers(1, size.longest + 1))
        loss = cost(cell, *lists(rng, length, size.batch, size.bits))
        optimizer.zero_grad()
        loss.backward()
        clip_by_global_norm(parameters, 10.0)
        optimizer.step()
        if i % 10 == 9:
            yield (i + 1) / size.updates, loss.item()
    with mg.no_grad():
        return cost(cell, *lists(rng, size.tested, 100, size.bits)).item()


EXPERIMENT = Experiment(
    name="ntm-copy",
    row="H5",
    question="Does a machine that learned to copy up to 20 vectors copy 40, where an LSTM does not?",
    measure="bits of cross-entropy per bit copied, 40 vectors (--quick: 8)",
    variants=("NTM", "LSTM"),
    run=run,
    bars=(
        Bar("the machine's median is at most 0.05", lambda r: median(r["NTM"]) <= 0.05),
        Bar("the LSTM's median is at least 0.5", lambda r: median(r["LSTM"]) >= 0.5),
    ),
    quick_bars=(
        Bar(
            "after as many lists the machine's cost is below the LSTM's",
            lambda r: max(r["NTM"]) < min(r["LSTM"]),
        ),
    ),
)

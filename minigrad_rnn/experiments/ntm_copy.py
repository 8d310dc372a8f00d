"""Copying (Graves, Wayne and Danihelka 2014, section 4.1): a neural Turing machine and an LSTM.

A list of random bit vectors comes in, then a mark; what came must go out, in order.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Linear
from minigrad_rnn.cells import LSTMCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import keys, learn
from minigrad_rnn.experiments.tasks import integers
from minigrad_rnn.memory import NTMCell
from minigrad_rnn.patterns import HiddenLayer, Readout
from minigrad_rnn.unrolling import unroll

LN2 = math.log(2)


class Size(NamedTuple):
    """How large the task, the two networks and the training are."""

    bits: int
    longest: int  # list in training; twice as long are those that are measured
    controller: int  # hidden units of the machine's feed-forward controller
    cells: int
    width: int  # of a memory cell
    hidden: int  # units of the LSTM to compare with
    updates: int
    batch: int
    rate: float


FULL = Size(8, 20, 100, 128, 20, 256, 10_000, 16, 1e-3)
QUICK = Size(3, 4, 32, 10, 8, 64, 120, 64, 1e-2)


def lists(key: mg.random.Key, length: int, B: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (2 length + 1, B, bits + 1), the last channel the mark; and the bits to copy."""
    target = integers(key, 2, (length, B, bits)).astype("float32")
    xs = np.zeros((2 * length + 1, B, bits + 1), "float32")
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


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """The cost of lists twice as long as the longest in training."""
    size = QUICK if quick else FULL
    train, test = keys(seed)
    cell = network(variant, size)

    def cost(xs: Any, target: Any) -> mg.Tensor:
        ys, _ = unroll(cell, xs)
        return F.binary_cross_entropy_with_logits(ys[-len(target) :], target) / LN2

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        length = 1 + int(integers(train.fold(n).fold(0), size.longest, ()))
        return lists(train.fold(n).fold(1), length, size.batch, size.bits)

    yield from learn(draw, cost, cell.parameters(), size.updates, size.rate, clip=10.0)
    with mg.no_grad():
        return cost(*lists(test, 2 * size.longest, 100, size.bits)).item()


EXPERIMENT = Experiment(
    name="ntm_copy",
    row="H5",
    question="Does a machine that learned to copy up to 20 vectors copy 40, unlike an LSTM?",
    measure="bits of cross-entropy per bit of 40 vectors (of 8 with --quick); guessing costs 1",
    variants=("NTM", "LSTM"),
    run=run,
    bars=(
        Bar("NTM: the median is at most 0.05", lambda r: np.median(r["NTM"]) <= 0.05),
        Bar("LSTM: the median is at least 0.5", lambda r: np.median(r["LSTM"]) >= 0.5),
    ),
    quick_bars=(
        Bar("NTM: below LSTM after as many lists", lambda r: max(r["NTM"]) < min(r["LSTM"])),
    ),
)

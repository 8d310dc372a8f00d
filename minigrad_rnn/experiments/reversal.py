"""Row H2 (and B12): strings read forwards and written backwards, with and without attention."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad_rnn.experiments import pairs
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.plots import saved
from minigrad_rnn.seq2seq import AttentionEncoderDecoder

SYMBOLS = 8
# the longest, the lengths kept for the test, updates, H, the rate, whether it falls
QUICK = (7, (5,), 260, 24, 0.01, False)
FULL = (50, (13, 29, 41), 8000, 64, 0.003, True)


def strings(rng: np.random.Generator, lengths: Any) -> pairs.Pairs:
    """Random strings of these lengths, each with its reverse."""
    rows = [rng.integers(0, SYMBOLS, n).tolist() for n in lengths]
    return [(row, row[::-1]) for row in rows]


def trained(
    variant: str,
    seed: int,
    longest: int,
    unseen: tuple[int, ...],
    updates: int,
    H: int,
    rate: float,
    falling: bool,
) -> Generator[tuple[float, float], None, pairs.EncoderDecoder]:
    """A model trained on strings of 1 to `longest` symbols, the unseen lengths left out.

    Of two lengths drawn the longer is taken: an error in any symbol spoils the match.
    """
    mg.random.seed(seed)
    rng = np.random.default_rng(seed)
    net = pairs.model(variant, (SYMBOLS, SYMBOLS), 16, H)
    seen = [n for n in range(1, longest + 1) if n not in unseen]

    def draw() -> pairs.Pairs:
        at = max(rng.integers(0, len(seen), 2))
        near = seen[max(0, at - 2) : at + 3]  # lengths that waste little on padding
        return strings(rng, rng.choice(near, 32))

    yield from pairs.train(net, draw, updates, rate, falling=falling)
    return net


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """Exact match on new strings: the lower of the longest length's and the unseen lengths'."""
    longest, unseen, *_ = sizes = QUICK if quick else FULL
    net = yield from trained(variant, seed, *sizes)
    rng = np.random.default_rng(1000 + seed)
    tests = [[longest] * 200, rng.choice(unseen, 200)]
    return min(pairs.exact_match(net, strings(rng, lengths)) for lengths in tests)


def draw_alignment(net: AttentionEncoderDecoder, row: list[int], path: Any = None) -> Any:
    """The weights of each written symbol over the read ones, a matplotlib figure, saved at path."""
    from matplotlib.figure import Figure

    batch = pairs.arrays(net, [(row, row[::-1])])
    with mg.no_grad():
        weights = net.alignment(batch["xs"], batch["ys"]).numpy()[:-1, 0]
    figure = Figure()
    axes = figure.add_subplot()
    axes.imshow(weights, cmap="gray", vmin=0, vmax=1)
    axes.set(xlabel="read", ylabel="written")
    axes.set_xticks(range(len(row)), map(str, row))
    axes.set_yticks(range(len(row)), map(str, row[::-1]))
    return saved(figure, path)


EXPERIMENT = Experiment(
    name="reversal",
    row="H2",
    question="Does attention reverse strings that are too long for one vector?",
    measure="exact match",
    variants=("attention", "none"),
    run=run,
    bars=(
        Bar("attention: at least 99 % in every seed", lambda r: min(r["attention"]) >= 0.99),
        Bar("without it: less than 50 % in every seed", lambda r: max(r["none"]) < 0.5),
    ),
    quick_bars=(
        Bar(
            "attention is at least 40 points better",
            lambda r: min(r["attention"]) >= max(r["none"]) + 0.4,
        ),
    ),
)

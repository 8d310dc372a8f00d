"""Row H2 (and B12): strings read forwards and written backwards, with and without attention."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad_rnn.experiments import pairs
#from minigrad_rnn.experiments.experiment import Bar, Experiment

SYMBOLS = 8


def strings(rng: np.random.Generator, lengths: Any) -> pairs.Pairs:
    """Random strings of these lengths, each with its reverse."""
    rows = [rng.integers(0, SYMBOLS, n).tolist() for n in lengths]
    return [(row, row[::-1]) for row in rows]


def trained(
    variant: str, seed: int, longest: int, unseen: tuple[int, ...], updates: int, H: int
) -> Generator[tuple[float, float], None, pairs.EncoderDecoder]:
    """A model trained on strings of 1 to `longest` symbols, the unseen lengths left out."""
    mg.random.seed(seed)
    rng = np.random.default_rng(seed)
    net = pairs.model(variant, (SYMBOLS, SYMBOLS), 16, H)
    seen = [n for n in range(1, longest + 1) if n not in unseen]
    # batches of neighbouring lengths waste little on padding
    def draw() -> pairs.Pairs:
        at = rng.integers(0, len(seen))
        near = seen[max(0, at - 2) : at + 3]
        return strings(rng, rng.choice(near, 32))

    yield from pairs.train(net, draw, updates)
    return net


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """Exact match on new strings: the lower of the longest length's and the unseen lengths'."""
    longest, unseen, updates, H = (8, (5,), 500, 24) if quick else (50, (13, 29, 41), 6000, 64)
    net = yield from trained(variant, seed, longest, unseen, updates, H)
    rng = np.random.default_rng(1000 + seed)
    tests = [[longest] * 200, rng.choice(unseen, 200)]
    return min(pairs.exact_match(net, strings(rng, lengths)) for lengths in tests)

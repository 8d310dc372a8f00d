"""Zero-shot translation (Johnson et al. 2017): two languages without a sentence in common.

Languages say the same ideas in words of their own, every other one in the opposite order. One
encoder and decoder learn all directions but those between languages 0 and 1.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import permutations
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.nn import Embedding
from minigrad_rnn.cells import GRUCell
from minigrad_rnn.compose import Recurrent
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import keys, learn
from minigrad_rnn.experiments.tasks import integers
from minigrad_rnn.languages import with_target
from minigrad_rnn.patterns import Decoder, EncoderDecoder

LANGUAGES, IDEAS, T = 6, 10, 3
WORDS = LANGUAGES * IDEAS
UNSEEN = ((0, 1), (1, 0))
SEEN = tuple(pair for pair in permutations(range(LANGUAGES), 2) if pair not in UNSEEN)
D, H = 32, 96


def said(ideas: np.ndarray, language: np.ndarray) -> np.ndarray:
    """Ideas (T, B) in a language (B,) each: words (T, B)."""
    return np.where(language % 2, ideas[::-1], ideas) + language * IDEAS


def pairs(
    key: mg.random.Key, directions: tuple[tuple[int, int], ...], B: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sentences and their translations, both (T, B), and the language of the latter (B,)."""
    chosen = integers(key.fold(0), len(directions), B)
    source, target = np.array(directions)[chosen].T
    ideas = integers(key.fold(1), IDEAS, (T, B))
    return said(ideas, source), said(ideas, target), target


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """The share of right words between languages 0 and 1; "none": the token is always the same."""
    train, test = keys(seed)
    decoder = Decoder(WORDS, D, GRUCell(D, H), H, Dx=H)
    model = EncoderDecoder(Recurrent(GRUCell(D, H)), decoder, Embedding(WORDS + LANGUAGES, D))

    def asked(xs: Any, target: Any) -> mg.Tensor:
        return with_target(xs, target if variant == "token" else 0 * target, WORDS)

    def loss(xs: Any, ys: Any, target: Any) -> mg.Tensor:
        return -mg.mean(model.log_probability(asked(xs, target), ys)) / T

    yield from learn(
        lambda n: pairs(train.fold(n), SEEN, 64),
        loss,
        model.parameters(),
        300 if quick else 3000,
        0.005,
    )
    xs, ys, target = pairs(test, UNSEEN, 500)
    return float(np.mean(model.greedy(asked(xs, target), T).numpy() == ys))


EXPERIMENT = Experiment(
    name="zero_shot",
    row="H4",
    question="Does a token for the target language translate in a direction that was never seen?",
    measure="share of right words (a random word of the language has 0.1)",
    variants=("token", "none"),
    run=run,
    bars=(
        Bar("token: the median is at least 0.5", lambda r: np.median(r["token"]) >= 0.5),
        Bar("token: at least 0.2 from every seed", lambda r: min(r["token"]) >= 0.2),
        Bar("none: the median is below 0.2", lambda r: np.median(r["none"]) < 0.2),
    ),
    quick_bars=(
        Bar("token: at least 0.3", lambda r: min(r["token"]) >= 0.3),
        Bar("token: above none", lambda r: min(r["token"]) > max(r["none"])),
    ),
)

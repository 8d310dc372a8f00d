"""Zero-shot translation (Johnson et al. 2017): a pair of languages without a sentence in common.

Languages say the same ideas in words of their own, every other one in the opposite order. One
encoder and decoder learn all directions but those between languages 0 and 1.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import permutations
from statistics import median

import numpy as np

import minigrad as mg
from minigrad.nn import Embedding
from minigrad.optim import Adam, clip_by_global_norm
from minigrad_rnn.cells import GRUCell
from minigrad_rnn.compose import Recurrent
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.languages import with_target
from minigrad_rnn.patterns import Decoder, EncoderDecoder

LANGUAGES, IDEAS, LENGTH = 4, 10, 3
WORDS = LANGUAGES * IDEAS
UNSEEN = ((0, 1), (1, 0))
SEEN = tuple(pair for pair in permutations(range(LANGUAGES), 2) if pair not in UNSEEN)
D, H = 32, 96


def said(ideas: np.ndarray, language: np.ndarray) -> np.ndarray:
    """What is said of ideas (T, B) in a language (B,) each: words (T, B)."""
    ordered = np.where(language % 2, ideas[::-1], ideas)
    return ordered + language * IDEAS


def sentences(
    rng: np.random.Generator, directions: tuple[tuple[int, int], ...], batch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words in the one language and in the other, both (T, B), and which that is, (B,)."""
    source, target = np.array(directions)[rng.integers(0, len(directions), batch)].T
    ideas = rng.integers(0, IDEAS, (LENGTH, batch))
    return said(ideas, source), said(ideas, target), target


def network() -> EncoderDecoder:
    """From words and tokens to words."""
    decoder = Decoder(WORDS, D, GRUCell(D, H), H, Dx=H)
    return EncoderDecoder(Recurrent(GRUCell(D, H)), decoder, Embedding(WORDS + LANGUAGES, D))


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """Train on the seen directions; return the share of right words between 0 and 1."""
    updates = 400 if quick else 3000
    mg.random.seed(seed)
    rng = np.random.default_rng(seed)
    model = network()
    optimizer = Adam(model.parameters(), lr=5e-3)

    def asked(xs: np.ndarray, target: np.ndarray) -> mg.Tensor:
        return with_target(xs, target if variant == "token" else 0 * target, WORDS)

    for i in range(updates):
        xs, ys, target = sentences(rng, SEEN, 64)
        loss = -mg.mean(model.log_probability(asked(xs, target), ys)) / LENGTH
        optimizer.zero_grad()
        loss.backward()
        clip_by_global_norm(model.parameters(), 5.0)
        optimizer.step()
        if i % 10 == 9:
            yield (i + 1) / updates, loss.item()
    xs, ys, target = sentences(rng, UNSEEN, 500)
    return float(np.mean(model.greedy(asked(xs, target), LENGTH).numpy() == ys))


EXPERIMENT = Experiment(
    name="zero-shot",
    row="H4",
    question="Does a token for the target language suffice to translate in a direction never seen?",
    measure="share of right words, unseen direction (chance: 0.1)",
    variants=("token", "none"),
    run=run,
    bars=(
        Bar("the token's median is at least 0.5", lambda r: median(r["token"]) >= 0.5),
        Bar("the token's least is at least 0.2", lambda r: min(r["token"]) >= 0.2),
        Bar("without, the median is below 0.2", lambda r: median(r["none"]) < 0.2),
    ),
    quick_bars=(
        Bar("it is at least 0.3, three times chance", lambda r: min(r["token"]) >= 0.3),
        Bar("it is above what it is without the token", lambda r: min(r["token"]) > max(r["none"])),
    ),
)

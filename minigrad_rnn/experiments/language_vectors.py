"""Language vectors (Ostling and Tiedemann 2017) on a family of languages whose tree is known.

A language is a table of which letter most often follows which. That of the first is random, every
daughter changes a few of her mother's entries, and the leaves of a binary tree are spoken.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad_rnn.cells import GRUCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.experiments.learning import keys, learn
from minigrad_rnn.experiments.tasks import integers
from minigrad_rnn.languages import MultilingualDecoder, tree_correlation

LETTERS, MUTATIONS = 32, 6  # of a table, of a daughter
REGULAR = 0.85  # how often the favourite follows, else any letter
T, ROWS = 16, 8  # letters of a text, texts a language in a batch


def family(key: mg.random.Key, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The tables (L, V) of L = 2^depth languages, and in which generation (L, L) two are one."""
    tables = integers(key, LETTERS, (1, LETTERS))
    for generation in range(depth):
        here = key.fold(generation)
        tables = np.repeat(tables, 2, axis=0)
        chosen = mg.random.uniform(here.fold(0), tables.shape).numpy().argsort(axis=1)
        other = (tables + 1 + integers(here.fold(1), LETTERS - 1, tables.shape)) % LETTERS
        tables = np.where(chosen < MUTATIONS, other, tables)
    leaves = np.arange(2**depth)
    apart = [leaves[:, None] >> level != leaves >> level for level in range(depth)]
    return tables, np.sum(apart, axis=0)


def texts(key: mg.random.Key, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts (T, B) and the language (B,) of each."""
    spoken = np.repeat(np.arange(len(tables)), ROWS)
    letters = integers(key.fold(0), LETTERS, (T, len(spoken)))
    regular = mg.random.bernoulli(key.fold(1), letters.shape, REGULAR).numpy()
    for t in range(1, T):
        letters[t] = np.where(regular[t], tables[spoken, letters[t - 1]], letters[t])
    return letters, spoken


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """How well the vectors of one model of all languages' letters show the tree."""
    depth, D, E, H, steps = (3, 16, 8, 48, 250) if quick else (4, 16, 16, 64, 1500)
    key, _ = keys(seed)
    tables, generations = family(key.fold(0), depth)
    model = MultilingualDecoder(LETTERS, D, GRUCell(D + E, H), H, len(tables), E)

    def loss(ys: Any, spoken: Any) -> mg.Tensor:
        return -mg.mean(model.log_probability(ys, spoken)) / T

    if variant == "trained":
        yield from learn(lambda n: texts(key.fold(1 + n), tables), loss, model.parameters(), steps)
    return tree_correlation(model.vectors.W, generations)


EXPERIMENT = Experiment(
    name="language_vectors",
    row="H4",
    question="Do learned vectors of languages show which descend from which?",
    measure="cophenetic correlation with the planted tree",
    variants=("trained", "untrained"),
    run=run,
    bars=(
        Bar("trained: the median is above 0.8", lambda r: np.median(r["trained"]) > 0.8),
        Bar("untrained: the median is below 0.5", lambda r: np.median(r["untrained"]) < 0.5),
    ),
    quick_bars=(
        Bar("trained: above 0.8", lambda r: min(r["trained"]) > 0.8),
        Bar("untrained: below 0.5", lambda r: max(r["untrained"]) < 0.5),
    ),
)

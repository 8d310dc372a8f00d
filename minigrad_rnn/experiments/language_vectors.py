"""Language vectors (Ostling and Tiedemann 2017) on a family of languages whose tree is known.

A language is a table of which letter most often follows which. The table of the first is random;
every daughter re-draws a share of its mother's; the leaves of a binary tree are spoken.
"""

from __future__ import annotations

from collections.abc import Generator
from statistics import median

import numpy as np

import minigrad as mg
from minigrad.optim import Adam
from minigrad_rnn.cells import GRUCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.languages import MultilingualDecoder, tree_correlation

LETTERS, REGULAR, SHARE = 12, 0.85, 0.3  # letters; how often the favourite follows; mutations
STEPS, ROWS = 16, 8  # of a text, and texts of each language in a batch


def family(rng: np.random.Generator, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The tables (L, V) of 2^depth languages, and the heights (L, L) at which two have a mother."""
    tables = rng.integers(0, LETTERS, (1, LETTERS))
    for _ in range(depth):
        daughters = np.repeat(tables, 2, axis=0)
        mutated = rng.random(daughters.shape) < SHARE
        tables = np.where(mutated, rng.integers(0, LETTERS, daughters.shape), daughters)
    leaves = np.arange(2**depth)
    apart = [leaves[:, None] >> level != leaves[None] >> level for level in range(depth)]
    return tables, np.sum(apart, axis=0).astype("float64")


def texts(rng: np.random.Generator, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts (T, B) and the language (B,) of each: the favourite follows, or any letter."""
    spoken = np.repeat(np.arange(len(tables)), ROWS)
    letters = [rng.integers(0, LETTERS, len(spoken))]
    for _ in range(STEPS - 1):
        other = rng.integers(0, LETTERS, len(spoken))
        regular = rng.random(len(spoken)) < REGULAR
        letters.append(np.where(regular, tables[spoken, letters[-1]], other))
    return np.stack(letters), spoken


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """Train one model of all languages' letters; return how well their vectors show the tree."""
    depth, updates = (3, 400) if quick else (4, 1000)
    mg.random.seed(seed)
    rng = np.random.default_rng(seed)
    tables, heights = family(rng, depth)
    model = MultilingualDecoder(LETTERS, 12, GRUCell(12 + 8, 48), 48, len(tables), 8)
    optimizer = Adam(model.parameters(), lr=0.01)
    for i in range(updates if variant == "trained" else 0):
        ys, spoken = texts(rng, tables)
        loss = -mg.mean(model.log_probability(ys, spoken)) / STEPS
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 10 == 9:
            yield (i + 1) / updates, loss.item()
    return tree_correlation(model.vectors.W, heights)


EXPERIMENT = Experiment(
    name="language-vectors",
    row="H4",
    question="Do learned vectors of languages show which descend from which?",
    measure="cophenetic correlation with the planted tree",
    variants=("trained", "untrained"),
    run=run,
    bars=(
        Bar("the median of the trained is above 0.8", lambda r: median(r["trained"]) > 0.8),
        Bar("the median of the untrained is below 0.5", lambda r: median(r["untrained"]) < 0.5),
    ),
    quick_bars=(
        Bar("trained, it is above 0.8", lambda r: min(r["trained"]) > 0.8),
        Bar("untrained, it is below 0.5", lambda r: max(r["untrained"]) < 0.5),
    ),
)

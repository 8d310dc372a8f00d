"""Language embeddings: a token for the language to translate to, and a learned vector a language.

Letters: T time, B batch, V symbols, D embedding, E numbers of a language's vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import arguments
from minigrad.nn import Embedding
from minigrad_rnn.patterns import Decoder
from minigrad_rnn.unrolling import unroll

# --- three readings of the name ------------------------------------------------------------------


def with_target(xs: Any, languages: Any, V: int) -> mg.Tensor:
    """Sentences (T, B) behind a token for the language to translate each to, (T + 1, B).

    languages (B,) integers from 0; the token of language l is V + l, V the number of words, so an
    embedding for both has V + L rows (Johnson et al. 2017). Lengths grow by 1.
    """
    xs = xs if isinstance(xs, mg.Tensor) else mg.Tensor(xs)
    if not isinstance(languages, mg.Tensor):
        languages = mg.Tensor(languages, backend=xs.backend)
    if languages.shape != xs.shape[1:]:
        raise mg.ShapeError(
            f"with_target: sentences {tuple(xs.shape)} need languages of shape "
            f"{tuple(xs.shape[1:])}, one a sentence, not {tuple(languages.shape)}"
        )
    languages = _known(languages)
    return mg.concatenate([(languages + V).reshape(1, -1), xs])


def _known(languages: mg.Tensor) -> mg.Tensor:
    """Languages, none of which is below 0, where an index counts from the end."""
    try:
        least = languages.numpy().min(initial=0)
    except mg.MinigradError:  # an input of a capture, which has no values yet
        return languages
    if least < 0:
        raise mg.IndexRangeError(f"languages are integers from 0, not {least}")
    return languages


class MultilingualDecoder(Decoder):
    """log P(text | language): one model of all languages, a learned vector each in `vectors`.

    The vector (E,) of a text's language stands beside every input: the cell, any of D + E inputs
    and H outputs, sees [E[y], l] (Ostling and Tiedemann 2017). A Decoder whose x is the languages,
    integers (B,); its state is (l, the cell's).
    """

    def __init__(
        self, V: int, D: int, cell: Any, H: int, languages: int, E: int, dtype: Any = None
    ) -> None:
        super().__init__(V, D, cell, H, dtype=dtype)
        self.vectors = Embedding(arguments.size("languages", languages), E, dtype=dtype)
        self.vectors.W.assign(0.01 * self.vectors.W)  # what sets languages apart is to be learned

    def begin(self, x: Any) -> tuple[mg.Tensor, Any]:
        """The state before the first symbol of texts in languages x (B,)."""
        vectors = self.vectors(_known(self._symbols(x)))
        return vectors, self.cell.initial_state(vectors.shape[0])

    def initial_state(self, batch: int) -> tuple[mg.Tensor, Any]:
        """The state before the first symbol in no language: a vector of zeros."""
        W = self.vectors.W
        vectors = mg.zeros((batch, W.shape[1]), W.dtype, backend=W.backend)
        return vectors, self.cell.initial_state(batch)

    def __call__(self, y: mg.Tensor, state: tuple[mg.Tensor, Any]) -> tuple[mg.Tensor, Any]:
        vectors, inner = state
        h, inner = self.cell(mg.concatenate([self.embedding(y), vectors], axis=-1), inner)
        return self.readout(h), (vectors, inner)

    def logits(self, ys: Any, x: Any = None, *, lengths: Any = None) -> mg.Tensor:
        """The logits (T, B, V) of each symbol of ys (T, B), given those before and the language."""
        ys = self._symbols(ys)
        vectors, inner = self.initial_state(ys.shape[1]) if x is None else self.begin(x)
        us = self.embedding(self._seen(ys, lengths))
        beside = mg.broadcast_to(vectors, (len(ys), *vectors.shape))
        hs, _ = unroll(self.cell, mg.concatenate([us, beside], axis=-1), inner, lengths=lengths)
        return self.readout(hs)


def nearest(vectors: Any, k: int = 1) -> np.ndarray:
    """The k nearest neighbours of each vector (V, D) by their cosine, nearest first, (V, k)."""
    values = vectors.numpy() if isinstance(vectors, mg.Tensor) else np.asarray(vectors)
    k = arguments.size("k", k)
    if values.ndim != 2 or k >= len(values):
        raise ValueError(f"nearest: {k} neighbours need more than {k} vectors (V, D)")
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-30)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


# --- trees of languages --------------------------------------------------------------------------


def distances(vectors: Any) -> np.ndarray:
    """Euclidean distances between vectors (L, E), (L, L)."""
    values = vectors.numpy() if isinstance(vectors, mg.Tensor) else np.asarray(vectors)
    return np.linalg.norm(values[:, None] - values[None], axis=-1)


def cophenetic(distance: np.ndarray) -> np.ndarray:
    """The height at which two leaves meet in the tree that average linkage builds, (L, L).

    The nearest two groups join, at the mean distance of their members, until one is left (Sokal and
    Michener 1958, "UPGMA").
    """
    groups = [[i] for i in range(len(distance))]
    heights = np.zeros_like(distance, dtype="float64")
    while len(groups) > 1:
        pairs = [
            (distance[np.ix_(a, b)].mean(), i, j)
            for j, b in enumerate(groups)
            for i, a in enumerate(groups[:j])
        ]
        height, i, j = min(pairs)
        a, b = groups[i], groups.pop(j)
        heights[np.ix_(a, b)] = heights[np.ix_(b, a)] = height
        groups[i] = a + b
    return heights


def tree_correlation(vectors: Any, heights: np.ndarray) -> float:
    """How well vectors (L, E) reproduce a tree: the cophenetic correlation, at most 1.

    Pearson's r, over all pairs, of the heights (L, L) at which they meet in that tree and in the
    one that average linkage builds from the vectors' distances (Sokal and Rohlf 1962).
    """
    upper = np.triu_indices(len(heights), 1)
    found, known = cophenetic(distances(vectors))[upper], heights[upper]
    if any(len(x) < 2 or np.ptp(x) <= 1e-12 * np.abs(x).max() for x in (found, known)):
        raise ValueError("tree_correlation: pairs of languages must meet at two heights or more")
    return float(np.corrcoef(found, known)[0, 1])

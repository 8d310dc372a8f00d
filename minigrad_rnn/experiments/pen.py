"""Lines of pen strokes to learn handwriting from: letters by a hand of changing size and slant."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from minigrad_rnn.likelihood import padded

STEP, SPACE = 0.75, 1.4  # between points of a stroke, from letter to letter
LETTERS = {  # strokes, each a line through corners (x, y)
    "L": [[(0, 2), (0, 0), (1, 0)]],
    "V": [[(0, 2), (0.5, 0), (1, 2)]],
    "N": [[(0, 0), (0, 2), (1, 0), (1, 2)]],
    "Z": [[(0, 2), (1, 2), (0, 0), (1, 0)]],
    "O": [[(0.5, 2), (0, 1), (0.5, 0), (1, 1), (0.5, 2)]],
    "T": [[(0, 2), (1, 2)], [(0.5, 2), (0.5, 0)]],
}


def written(text: str, rng: np.random.Generator, tremor: float = 0.03) -> np.ndarray:
    """The points (T, 3) of a text: dx, dy from the point before, and 1 at the end of a stroke."""
    places: list[tuple[float, float]] = []
    ends: list[float] = []
    for column, letter in enumerate(text):
        for stroke in LETTERS[letter]:
            line = [stroke[0]]
            for a, b in pairwise(np.array(stroke, float)):
                n = max(1, round(float(np.linalg.norm(b - a)) / STEP))
                line += [a + (b - a) * i / n for i in range(1, n + 1)]
            places += [(x + SPACE * column, y) for x, y in line]
            ends += [0.0] * (len(line) - 1) + [1.0]
    size, slant = rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.3)
    drawn = size * np.array(places) @ [[1, 0], [slant, 1]] + rng.normal(0, tremor, (len(ends), 2))
    return np.column_stack([np.diff(drawn, axis=0, prepend=[drawn[0]]), ends])


def lines(
    rng: np.random.Generator, count: int, letters: int = 3
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts of random letters, their points (T, B, 3), float32, and lengths (B,)."""
    texts = ["".join(rng.choice(list(LETTERS), letters)) for _ in range(count)]
    ys, lengths = padded([written(text, rng) for text in texts])
    return texts, ys.astype("float32"), lengths

"""Tasks whose data are drawn anew for every update: long memory is all that they ask for.

Letters: T time, B batch. Each takes a key, and gives the same data on every backend.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg

Batch = tuple[np.ndarray, np.ndarray]

SYMBOLS = 4  # of recall and copying
ORDER_SYMBOLS = 6  # of temporal order: two that count, four that distract


def integers(key: mg.random.Key, below: int, shape: Any) -> np.ndarray:
    """Integers in 0, ..., below - 1."""
    return mg.random.bits(key, shape).numpy().astype("int64") % below


def one_hot(symbols: np.ndarray, n: int) -> np.ndarray:
    """Float32 unit vectors (..., n)."""
    return np.eye(n, dtype="float32")[symbols]


def adding(key: mg.random.Key, T: int, B: int) -> Batch:
    """The sum of the two numbers that are marked, one in each half: (T, B, 2) and (B, 1).

    Hochreiter and Schmidhuber 1997, experiment 4, with numbers in [0, 1) and a fixed length, as in
    Le et al. 2015. Always answering 1 has the squared error 1/6, the variance of the sum.
    """
    numbers = mg.random.uniform(key.fold(0), (T, B)).numpy()
    marks, rows = np.zeros((T, B), "float32"), np.arange(B)
    half = T // 2
    marks[integers(key.fold(1), half, B), rows] = 1
    marks[half + integers(key.fold(2), T - half, B), rows] = 1
    return np.stack([numbers, marks], axis=-1), (numbers * marks).sum(axis=0)[:, None]


def recall(key: mg.random.Key, lag: int, B: int) -> Batch:
    """Which symbol came first, asked `lag` steps later: (lag + 1, B, 2 n) and (1, B).

    Between, other symbols come in the other n places of the input.
    """
    symbols = integers(key.fold(0), SYMBOLS, (lag + 1, B))
    shown = symbols + SYMBOLS
    shown[0] = symbols[0]
    return one_hot(shown, 2 * SYMBOLS), symbols[:1]


def copying(key: mg.random.Key, lag: int, B: int, length: int = 2) -> Batch:
    """Repeat the first symbols `lag` steps later: (lag + length, B, n + 1 + length), (length, B).

    Between there are blanks; while it is asked, a mark says which one (after Hochreiter and
    Schmidhuber 1997, whose net has one mark for all).
    """
    symbols = integers(key.fold(0), SYMBOLS, (length, B))
    blanks = np.full((lag - length, B), SYMBOLS)
    marks = np.repeat(SYMBOLS + 1 + np.arange(length)[:, None], B, axis=1)
    return one_hot(np.concatenate([symbols, blanks, marks]), SYMBOLS + 1 + length), symbols


def temporal_order(key: mg.random.Key, T: int, B: int) -> Batch:
    """Which of A, B came in the second tenth and which in the sixth: (T, B, 6) and (1, B).

    At the other steps four others; 4 classes (Hochreiter and Schmidhuber 1997, experiment 6a;
    Pascanu et al. 2013).
    """
    symbols = 2 + integers(key.fold(0), 4, (T, B))
    first, second = integers(key.fold(1), 2, (2, B))
    tenth, rows = max(1, T // 10), np.arange(B)
    symbols[tenth + integers(key.fold(2), tenth, B), rows] = first
    symbols[T // 2 + integers(key.fold(3), tenth, B), rows] = second
    return one_hot(symbols, ORDER_SYMBOLS), (2 * first + second)[None]

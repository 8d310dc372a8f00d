"""Rows of minigrad/ops/random.py: the reference is Philox in plain integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.ops.random import Key, _next
from tests.op_rows.row import Bad, R, Row, S, U
from tests.oracles.philox import philox4x32

MASK = 0xFFFFFFFF
ONE = np.array([7, 3], dtype=np.uint32)
BATCH = np.array([[1, 0], [2, 0], [MASK, MASK]], dtype=np.uint32)
GRID = np.arange(8, dtype=np.uint32).reshape(2, 2, 2)
NO_KEYS = np.zeros((0, 2), dtype=np.uint32)
SHAPES = [S(ONE, ()), S(ONE, (5,)), S(BATCH, (2, 3)), S(GRID, (4,)), S(ONE, (0,)), S(NO_KEYS, (3,))]


def per_key(words: np.ndarray, draw: Any) -> np.ndarray:
    """draw(key) for each key of a batch."""
    drawn = [draw((int(low), int(high))) for low, high in words.reshape(-1, 2)]
    if not drawn:
        drawn = [draw((0, 0))]
        return np.array(drawn).reshape((1, *drawn[0].shape))[:0]
    return np.array(drawn).reshape((*words.shape[:-1], *drawn[0].shape))


def bits(words: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    def draw(key: tuple[int, int]) -> np.ndarray:
        count = math.prod(shape)
        flat = [philox4x32((i // 4, 0, 0, 0), key)[i % 4] for i in range(count)]
        return np.array(flat, dtype=np.uint32).reshape(shape)

    return per_key(words, draw)


def fold(words: np.ndarray, n: np.ndarray, word: int = 1) -> np.ndarray:
    shape = np.broadcast_shapes(words.shape[:-1], n.shape)
    keys, numbers = np.broadcast_to(words, (*shape, 2)), np.broadcast_to(n, shape)
    out = np.zeros((*shape, 2), dtype=np.uint32)
    for place in np.ndindex(*shape):
        number = int(numbers[place]) % 2**64
        key = (int(keys[place][0]), int(keys[place][1]))
        out[place] = philox4x32((number & MASK, number >> 32, word, 0), key)[:2]
    return out


def uniform(words: np.ndarray, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    if dtype == "float32":
        return ((bits(words, shape) >> 8).astype(np.float64) / 2**24).astype(np.float32)
    pairs = bits(words, (*shape, 2)).astype(np.uint64)
    return ((pairs[..., 0] >> 5) * 2**26 + (pairs[..., 1] >> 6)).astype(np.float64) / 2**53


def normal(words: np.ndarray, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    pair = uniform(words, (*shape, 2), dtype).astype(np.float64)
    y = np.sqrt(-2 * np.log(1 - pair[..., 0])) * np.cos(2 * np.pi * pair[..., 1])
    return y.astype(dtype)


def categorical(words: np.ndarray, shape: tuple[int, ...], logits: np.ndarray) -> np.ndarray:
    u = uniform(words, shape).astype(np.float64)
    logits = np.broadcast_to(logits, (*u.shape, logits.shape[-1]))
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return (np.cumsum(share, -1) <= u[..., None]).sum(-1)


def row(name: str, call: Any, reference: Any, samples: Any, **more: Any) -> Row:
    settings = {"kind": "exact", "order": 0, **more}
    return Row(name, call, reference, samples, **settings)


NUMBERS = [
    S(ONE, np.array(5)),
    S(ONE, np.array([0, 1, 2**40, -1])),
    S(BATCH, np.array([[3], [4]])),
    S(NO_KEYS, np.array(1)),
]
NOT_A_KEY = (
    Bad(S(np.zeros(2, np.int64), (3,)), mg.DtypeError, "a key is made of uint32 words"),
    Bad(S(ONE, (-1,)), mg.ShapeError, "no negative sizes"),
)

ROWS = [
    row(
        "random.bits",
        lambda words, shape: mg.random.bits(Key(words), shape),
        bits,
        SHAPES,
        op="random_bits",
        errors=NOT_A_KEY,
    ),
    row(
        "random.fold",
        lambda words, n: Key(words).fold(n).words,
        fold,
        NUMBERS,
        op="random_fold",
        errors=(Bad(S(ONE, np.array(1.5)), mg.DtypeError, "fold takes integers, not float64"),),
    ),
    row(
        "random.next",
        _next,
        lambda state: fold(
            np.array([state[0] & MASK, state[0] >> 32 & MASK], dtype=np.uint32), state[1:2], 2
        )[0],
        [S(np.array([3, 0])), S(np.array([2**40 + 5, 9])), S(np.array([-1, 1]))],
        op="random_next",
        errors=(Bad(S("word"), mg.DtypeError, "cannot take a str"),),
    ),
    row(
        "random.uniform",
        lambda words, shape, dtype="float32": mg.random.uniform(Key(words), shape, dtype),
        uniform,
        [*SHAPES, S(BATCH, (2,), "float64"), S(ONE, (5,), "float64")],
        op="random_uniform",
        errors=(*NOT_A_KEY, Bad(S(ONE, (2,), "int64"), mg.DtypeError, "not int64")),
    ),
    row(
        "random.bernoulli",
        lambda words, shape, p: mg.random.bernoulli(Key(words), shape, p),
        lambda words, shape, p: uniform(words, shape) < p,
        [
            S(ONE, (9,), 0.3),
            S(BATCH, (4,), U(0, 1, 4)),
            S(ONE, (5,), 0.0),
            S(ONE, (5,), 1.0),
            S(ONE, (0,), 0.5),
        ],
        errors=(Bad(S(ONE, (3,), R(2)), mg.ShapeError, "do not broadcast"),),
    ),
    row(
        "random.normal",
        lambda words, shape, dtype="float32": mg.random.normal(Key(words), shape, dtype),
        normal,
        [*SHAPES, S(BATCH, (2,), "float64")],
        kind="reduction",
        errors=NOT_A_KEY,
    ),
    row(
        "random.categorical",
        lambda words, shape, logits: mg.random.categorical(Key(words), shape, logits),
        categorical,
        [S(ONE, (20,), R(5)), S(BATCH, (4,), R(4, 3)), S(ONE, (), R(1)), S(ONE, (0,), R(3))],
        errors=(
            Bad(S(np.zeros(2, np.int64), (3,), R(2)), mg.DtypeError, "a key is made of uint32"),
        ),
    ),
]

"""Rows of minigrad/ops/index.py."""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from tests.op_rows.row import Bad, R, Row, S, Sample


def scattered(x: Any, key: Any, values: Any) -> Any:
    """x with values added at x[key], one after the other."""
    out = x.copy()
    places = np.arange(x.size).reshape(x.shape)[key]
    values = np.broadcast_to(values, places.shape)
    for place, value in zip(places.reshape(-1), values.reshape(-1)):
        out.reshape(-1)[place] += value
    return out


def ints(*values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int64)


KEYS: list[tuple[tuple[int, ...], Any]] = [
    ((3,), 1),
    ((4, 3), -1),
    ((4, 3), slice(1, 3)),
    ((4, 3), (slice(None, None, -2), 1)),
    ((4, 3), (Ellipsis, 0)),
    ((4, 3), (None, slice(None), slice(0, 0))),
    ((4, 3), ints(0, 2, 0, -1)),
    ((4, 3), (slice(None), ints(2, 2, 0))),
    ((4, 3), (ints(0, 1, 0), ints(2, 2, 2))),
    ((4, 3, 2), (ints(0, 1), slice(None), ints(1, 1))),
    ((4, 3, 2), (1, ints([0, 1], [2, 2]))),
    ((4, 3), ints().reshape(0)),
    ((0, 3), (slice(None), 1)),
]
OUT = Bad(
    S(R(4, 3), 5), mg.IndexRangeError, r"index 5 is out of bounds for axis 0 of shape \(4, 3\)"
)


def refused(index: Any, values: tuple[Any, ...] = ()) -> tuple[Bad, ...]:
    """What every kind of integer index must refuse."""

    def bad(key: Any, error: type[Exception], match: str) -> Bad:
        return Bad(index(key, *values), error, match)

    return (
        bad(ints(0, 1, 7), mg.IndexRangeError, r"index 7 at position \(2,\) is out of bounds"),
        bad(ints([0], [-5]), mg.IndexRangeError, r"index -5 at position \(1, 0\) is out of bounds"),
        bad(np.array([0.0]), mg.IndexTypeError, "integer dtype, not float64"),
        bad(np.array([True]), mg.IndexTypeError, "bool mask"),
    )


def along(draw: Any, *shape: int, axis: int) -> Sample:
    x = draw(*shape)
    return S(x, np.argsort(x, axis=axis), axis=axis)


ROWS = [
    Row(
        "index",
        lambda x, key: x[key],
        lambda x, key: x[key],
        [S(R(*shape), key) for shape, key in KEYS],
        op="index",
        kind="exact",
        analytic=True,
        errors=(
            OUT,
            *refused(lambda key: S(R(4, 3), key)),
            Bad(S(R(4, 3), (0, 0, 0)), mg.IndexRangeError, "too many indices: 3 for a tensor of 2"),
            Bad(S(R(4, 3), 1.0), mg.IndexTypeError, "not 1.0"),
            Bad(S(R(4, 3), "a"), mg.IndexTypeError, "not 'a'"),
            Bad(S(R(4, 3), (0, 3)), mg.IndexRangeError, "index 3 is out of bounds for axis 1"),
        ),
    ),
    Row(
        "take",
        mg.take,
        np.take,
        [
            S(R(4), ints(0, 3, 0)),
            S(R(2, 3), ints([0, 5], [5, -1])),
            S(R(2, 3), ints(2, 2), axis=1),
            S(R(2, 3, 2), ints([0, 1], [1, 1]), axis=-1),
            S(R(3, 2), ints().reshape(0), axis=0),
            S(R(5, 2), ints([[0, 4]], [[4, 4]]), axis=0),
        ],
        kind="exact",
        analytic=True,
        errors=refused(lambda key: S(R(4, 3), key, axis=0)),
    ),
    Row(
        "take_along_axis",
        mg.take_along_axis,
        np.take_along_axis,
        [
            along(R, 5, axis=0),
            along(R, 2, 3, axis=1),
            along(R, 3, 2, 2, axis=-2),
            S(R(2, 3), ints([0, 0, 0, 1], [2, 2, 2, 2]), axis=1),
            S(R(0, 3), np.zeros((0, 2), int), axis=1),
        ],
        kind="exact",
        analytic=True,
        errors=(
            Bad(S(R(2, 3), ints([0]), axis=1), mg.ShapeError, "must agree in all axes but 1"),
            Bad(S(R(2, 2), np.zeros((2, 2)), axis=1), mg.IndexTypeError, "not float64"),
            Bad(S(R(1, 2), ints([2]), axis=1), mg.IndexRangeError, "index 2 at position"),
        ),
    ),
    Row(
        "scatter_add",
        mg.scatter_add,
        scattered,
        [
            *(S(R(*shape), key, R(*np.zeros(shape)[key].shape)) for shape, key in KEYS),
            S(R(4, 3), ints(0, 0, 3), R(3)),
            S(R(4, 3), slice(1, None), R()),
        ],
        op="scatter",
        kind="reduction",
        analytic=True,
        errors=(
            *refused(lambda key, value: S(R(4, 3), key, value), (R(),)),
            Bad(S(R(4, 3), 0, R(2)), mg.ShapeError, r"values of shape \(2,\) do not fit.*\(3,\)"),
        ),
    ),
]

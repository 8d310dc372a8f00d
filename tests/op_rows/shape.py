"""Rows of minigrad/ops/shape.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from tests.op_rows.row import WORD, Bad, R, Row, S, Sample


def move(name: str, samples: Sequence[Sample], reference: Any = None, **more: Any) -> Row:
    """An op that moves values about and computes nothing."""
    settings = {"op": name, "kind": "exact", "dtypes": "keep", "analytic": True, **more}
    return Row(name, getattr(mg, name), reference or getattr(np, name), samples, **settings)


def slices(x: Any, axis: int = 0) -> list[Any]:
    return [np.take(x, i, axis) for i in range(x.shape[axis])]


def triangle(lower: bool) -> Callable[..., Any]:
    def cut(x: Any, k: int = 0) -> Any:
        rows, columns = np.indices(x.shape[-2:])
        inside = columns - rows <= k if lower else columns - rows >= k
        return np.where(inside, x, 0)

    return cut


def ones_around(x: Any, pad_width: Any, constant_values: float = 0) -> Any:
    """pad, entry by entry."""
    widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2))
    shape = [n + int(a) + int(b) for n, (a, b) in zip(x.shape, widths)]
    out = np.full(shape, constant_values, x.dtype)
    for place in np.ndindex(x.shape):
        out[tuple(i + int(a) for i, (a, _) in zip(place, widths))] = x[place]
    return out


TRIANGLES = [S(R(3, 3)), S(R(2, 4), 1), S(R(4, 2), -1), S(R(2, 3, 3), k=-1), S(R(0, 3))]
NO_MATRIX = Bad(S(R(3)), mg.ShapeError, "needs two axes")

ROWS = [
    move(
        "reshape",
        [
            S(R(2, 3), (3, 2)),
            S(R(2, 3), -1),
            S(R(2, 3), (3, -1)),
            S(R(), (1, 1)),
            S(R(0, 3), (3, 0)),
        ],
        errors=(
            Bad(S(R(4), (3,)), mg.ShapeError, r"\(3,\) is invalid for a tensor of shape \(4,\)"),
            Bad(S(R(4), (3, -1)), mg.ShapeError, r"\(3, -1\) is invalid for a tensor of shape \(4"),
            Bad(S(R(4), (-1, -1)), mg.ShapeError, "is invalid"),
            WORD._replace(sample=S("word", (1,))),
        ),
    ),
    move(
        "transpose",
        [S(R(2, 3)), S(R(2, 3, 4), (2, 0, 1)), S(R(2, 3, 4), (0, -1, 1)), S(R()), S(R(0, 3))],
        errors=(
            Bad(S(R(2, 3), (0, 0)), mg.ShapeError, "names an axis twice"),
            Bad(S(R(2, 3), (0, 2)), mg.AxisError, "axis 2 is out of bounds"),
        ),
    ),
    move(
        "swapaxes",
        [S(R(2, 3), 0, 1), S(R(2, 3, 4), -1, 0), S(R(2, 0, 3), 1, 2)],
        op=None,
        errors=(Bad(S(R(2, 3), 0, 2), mg.AxisError, "swapaxes: axis 2"),),
    ),
    move(
        "moveaxis",
        [S(R(2, 3, 4), 0, 2), S(R(2, 3, 4), (0, 2), (-1, 0)), S(R(2, 0, 3), 1, -1)],
        op=None,
        errors=(
            Bad(S(R(2, 3), (0, 1), (1, 1)), mg.ShapeError, "names an axis twice"),
            Bad(S(R(2, 3), 2, 0), mg.AxisError, "moveaxis: axis 2"),
        ),
    ),
    move(
        "squeeze",
        [S(R(1, 3, 1)), S(R(1, 3, 1), 0), S(R(1, 3, 1), (0, -1)), S(R()), S(R(1, 0), axis=0)],
        op=None,
        errors=(Bad(S(R(2, 3), 1), mg.ShapeError, "has size 3, not 1"),),
    ),
    move(
        "expand_dims",
        [S(R(2, 3), 0), S(R(2, 3), -1), S(R(2, 3), (0, 2)), S(R(), 0), S(R(0), 1)],
        op=None,
        errors=(Bad(S(R(2), (0, 0)), mg.ShapeError, "names an axis twice"),),
    ),
    move(
        "broadcast_to",
        [S(R(3), (2, 3)), S(R(2, 1), (2, 3)), S(R(), (2, 2)), S(R(1, 3), (0, 3)), S(R(2), (2,))],
        errors=(Bad(S(R(2), (3,)), mg.ShapeError, r"\(2,\).*\(3,\)"),),
    ),
    move(
        "flip",
        [S(R(5)), S(R(2, 3), 0), S(R(2, 3), (0, 1)), S(R(2, 3), axis=-1), S(R(0)), S(R())],
        errors=(Bad(S(R(2), 1), mg.AxisError, "flip: axis 1"),),
    ),
    move(
        "roll",
        [S(R(5), 2), S(R(2, 3), -1, 1), S(R(2, 3), 4), S(R(2, 3), 1, axis=0), S(R(0), 1)],
        errors=(Bad(S(R(2), 1, 1), mg.AxisError, "roll: axis 1"),),
    ),
    move(
        "pad",
        [S(R(3), 1), S(R(2, 3), ((1, 0), (0, 2))), S(R(2, 3), (1, 2)), S(R(0), 2), S(R(3), 0)],
        reference=ones_around,
        extra=[S(R(2), 1, 7.5), S(R(2, 2), ((0, 1), (1, 0)), constant_values=-1.0)],
        dtypes=None,
        errors=(Bad(S(R(3), -1), mg.ShapeError, "not negative"),),
    ),
    move(
        "concatenate",
        [
            S([R(2), R(3)]),
            S([R(2, 3), R(2, 1), R(2, 2)], axis=1),
            S([R(2, 3), R(0, 3)], axis=0),
            S([R(2, 3)], axis=-1),
            S((R(1, 2, 2), R(1, 1, 2)), axis=-2),
        ],
        dtypes=None,
        errors=(
            Bad(S([R(2, 3), R(3, 2)]), mg.ShapeError, r"\(2, 3\) and \(3, 2\) cannot be joined"),
            Bad(S([]), mg.ShapeError, "at least one"),
            Bad(S([R(2)], axis=1), mg.AxisError, "concatenate: axis 1"),
        ),
    ),
    move(
        "stack",
        [S([R(2), R(2)]), S([R(2, 3), R(2, 3)], axis=-1), S([R(), R(), R()]), S([R(0, 2)], axis=1)],
        dtypes=None,
        errors=(
            Bad(S([R(2), R(3)]), mg.ShapeError, r"\(2,\) and \(3,\) cannot be stacked"),
            Bad(S([]), mg.ShapeError, "at least one"),
        ),
    ),
    move(
        "split",
        [
            S(R(6), 3),
            S(R(2, 6), [1, 4], axis=1),
            S(R(4, 2), 2, axis=0),
            S(R(3), [0, 3]),
            S(R(0, 2), 1),
            S(R(2, 0), [0], axis=-1),
        ],
        dtypes=None,
        errors=(
            Bad(S(R(5), 2), mg.ShapeError, "does not divide into 2"),
            Bad(S(R(5), [3, 1]), mg.ShapeError, "do not ascend"),
            Bad(S(R(5), [6]), mg.ShapeError, "do not ascend within 5"),
        ),
    ),
    move(
        "unstack",
        [S(R(3)), S(R(2, 3)), S(R(2, 3), axis=1), S(R(2, 3, 2), axis=-1), S(R(2, 0)), S(R(0, 2))],
        reference=slices,
        dtypes=None,
        errors=(Bad(S(np.array(1.0)), mg.AxisError, "unstack: axis 0"),),
    ),
    move(
        "repeat",
        [S(R(3), 2), S(R(2, 3), 3), S(R(2, 3), 2, axis=1), S(R(2, 3), 0, axis=0), S(R(0), 2)],
        op=None,
        errors=(Bad(S(R(3), -1), mg.ShapeError, "repeats=-1 is negative"),),
    ),
    move("tril", TRIANGLES, triangle(lower=True), dtypes=None, errors=(NO_MATRIX,)),
    move("triu", TRIANGLES, triangle(lower=False), dtypes=None, errors=(NO_MATRIX,)),
]

"""Rows of minigrad/ops/reduce.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from tests.op_rows.row import WORD, Bad, Point, R, Row, S, Sample


def over_axes(draw: Callable[..., Any] = R, empty: bool = True) -> list[Sample]:
    samples = [
        S(draw(2, 3)),
        S(draw(2, 3), axis=0),
        S(draw(2, 3), axis=-1, keepdims=True),
        S(draw(2, 3, 2), axis=(0, 2)),
        S(draw(2, 3, 2), axis=(-1, 1), keepdims=True),
        S(draw()),
        S(draw(2, 0, 3), axis=0),
        S(draw(5)),
    ]
    return [*samples, S(draw(2, 0), axis=1)] if empty else samples


AXIS = (
    Bad(S(R(2, 3), axis=2), mg.AxisError, "axis 2 is out of bounds for a tensor of 2"),
    Bad(S(R(2, 3), axis=(0, -2)), mg.ShapeError, "twice"),
    WORD,
)
ONE_AXIS = (Bad(S(R(2, 3), axis=-3), mg.AxisError, "axis -3 is out of bounds"), WORD)
EMPTY = Bad(S(np.zeros((2, 0)), axis=1), mg.ShapeError, "empty axis 1 has no extremum")


def reduction(name: str, reference: Any = None, samples: Any = None, **more: Any) -> Row:
    settings = {"kind": "reduction", "op": name, "errors": AXIS, **more}
    return Row(
        name,
        getattr(mg, name),
        reference or getattr(np, name),
        samples or over_axes(),
        **settings,
    )


def along_axis(draw: Callable[..., Any] = R, empty: bool = True) -> list[Sample]:
    samples = [
        S(draw(5)),
        S(draw(2, 3)),
        S(draw(2, 3), axis=0),
        S(draw(2, 3), axis=-1),
        S(draw(2, 3), axis=None),
        S(draw(2, 3, 2), axis=1),
    ]
    return [*samples, S(draw(2, 0), axis=0), S(draw(0), axis=0)] if empty else samples


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def largest(x: Any, k: int, axis: int = -1) -> Any:
    return np.take(np.flip(np.sort(x, axis=axis), axis), range(k), axis=axis)


def truth(draw: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *shape: (draw(*shape) > 0) * 1.0


ROWS = [
    reduction("sum", dtypes="sum", analytic=True),
    reduction("mean", dtypes="float", analytic=True, op=None),
    reduction(
        "var",
        op=None,
        dtypes="float",
        samples=[*over_axes(), S(R(4), ddof=1), S(R(2, 3), axis=1, ddof=1, keepdims=True)],
    ),
    reduction(  # of one value, or of equal ones, it has no derivative
        "std",
        op=None,
        samples=[
            S(R(2, 3)),
            S(R(2, 3), axis=0, keepdims=True),
            S(R(2, 3, 2), axis=(0, 2)),
            S(R(4), ddof=1),
            S(R(2, 0, 3), axis=0),
        ],
        extra=[S(R()), S(R(2, 0), axis=1)],
    ),
    reduction(
        "prod",
        op=None,
        analytic=True,
        dtypes="sum",
        samples=[
            *over_axes(),
            S(np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 1.5]]), axis=1),
            S(R(7)),
        ],
    ),
    reduction(
        "max",
        samples=over_axes(empty=False),
        kind="exact",
        dtypes="keep",
        errors=(*AXIS, EMPTY),
        points=[
            Point(
                S(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), axis=1),
                ([[0, 0.5, 0.5], [1 / 3] * 3],),
            )
        ],
    ),
    reduction(
        "min",
        samples=over_axes(empty=False),
        kind="exact",
        dtypes="keep",
        errors=(*AXIS, EMPTY),
        points=[Point(S(np.array([1.0, 1.0, 3.0])), ([0.5, 0.5, 0],))],
    ),
    reduction(
        "logsumexp",
        logsumexp,
        samples=over_axes(empty=False),
        dtypes="float",
        analytic=True,
        points=[
            Point(S(np.array([1000.0, 1000.0])), ([0.5, 0.5],)),
            Point(S(np.array([0.0, -np.inf])), ([1.0, 0.0],)),
        ],
    ),
    *(
        Row(
            name,
            getattr(mg, name),
            getattr(np, name),
            [*over_axes(truth(R)), S(np.array([[True, False], [True, True]]), axis=1)],
            op=name,
            kind="exact",
            dtypes="bool",
            order=0,
            errors=AXIS,
        )
        for name in ("any", "all")
    ),
    *(
        Row(
            name,
            getattr(mg, name),
            getattr(np, name),
            [*along_axis(empty=False), S(np.array([2.0, 3.0, 3.0, 2.0])), S(R(2, 0), axis=0)],
            op=name,
            kind="exact",
            dtypes="int64",
            order=0,
            errors=(*ONE_AXIS, EMPTY),
        )
        for name in ("argmax", "argmin")
    ),
    Row(
        "argsort",
        mg.argsort,
        lambda x, axis=-1: np.argsort(x, axis=axis, kind="stable"),
        [*along_axis(), S(np.array([2.0, 1.0, 2.0, 1.0]))],
        op="argsort",
        kind="exact",
        dtypes="int64",
        order=0,
        errors=ONE_AXIS,
    ),
    Row(
        "cumsum",
        mg.cumsum,
        np.cumsum,
        along_axis(),
        op="cumsum",
        kind="reduction",
        dtypes="sum",
        analytic=True,
        errors=ONE_AXIS,
    ),
    Row(
        "sort",
        mg.sort,
        np.sort,
        along_axis(),
        kind="exact",
        dtypes="keep",
        errors=ONE_AXIS,
    ),
    Row(
        "top_k",
        mg.top_k,
        largest,
        [S(R(5), 2), S(R(2, 4), 3), S(R(4, 2), 1, axis=0), S(R(3), 0), S(R(2, 3), 3)],
        kind="exact",
        errors=(Bad(S(R(3), 4), mg.ShapeError, "k=4 of an axis of 3"),),
    ),
]

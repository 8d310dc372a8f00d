"""Rows of minigrad/ops/create.py."""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from tests.op_rows.row import Bad, R, Row, S, Sample

COMPLEX = "complex64"


def made(name: str, samples: list[Sample], reference: Any, errors: tuple[Bad, ...]) -> Row:
    return Row(name, getattr(mg, name), reference, samples, kind="exact", order=0, errors=errors)


def single(function: Any) -> Any:
    """A NumPy function whose default dtype is float32."""
    return lambda *args, dtype="float32": function(*args, dtype=dtype)


def bad_dtype(*args: Any) -> tuple[Bad, ...]:
    return (Bad(S(*args, dtype=COMPLEX), mg.DtypeError, "not complex64"),)


SIZES = [S((2, 3)), S(4), S(()), S((0, 2)), S((2,), dtype="int32"), S((2,), dtype="float64")]
EXAMPLES = [S(R(2, 3)), S(R()), S(R(0)), S(np.arange(3)), S(R(2), dtype="float32")]

ROWS = [
    made("zeros", SIZES, single(np.zeros), bad_dtype((2,))),
    made("ones", SIZES, single(np.ones), bad_dtype((2,))),
    made(
        "full",
        [
            S((2, 3), 1.5),
            S((2,), 3),
            S((2,), True),
            S((), 2.0),
            S((0,), 1.0),
            S(2, 1, dtype="int8"),
        ],
        lambda shape, value, dtype=None: np.full(
            shape, value, dtype or ("float32" if isinstance(value, float) else None)
        ),
        bad_dtype((2,), 1.0),
    ),
    made("eye", [S(3), S(2, 3), S(0), S(2, dtype="int64")], single(np.eye), bad_dtype(2)),
    made(
        "arange",
        [S(5), S(2, 7), S(7, 2, -2), S(0, 1, 0.25), S(2.0), S(3, dtype="float64"), S(0)],
        lambda *args, dtype=None: np.arange(
            *args, dtype=dtype or ("float32" if any(isinstance(n, float) for n in args) else None)
        ),
        bad_dtype(3),
    ),
    made(
        "linspace",
        [S(0, 1, 5), S(1.0, -1.0, 3), S(0, 1, 0), S(2, 3, 1), S(0, 1, 4, dtype="float64")],
        single(np.linspace),
        bad_dtype(0, 1, 3),
    ),
    made("zeros_like", EXAMPLES, np.zeros_like, bad_dtype(R(2))),
    made("ones_like", EXAMPLES, np.ones_like, bad_dtype(R(2))),
    made(
        "full_like",
        [S(R(2, 3), 1.5), S(np.arange(3), 2), S(R(0), 1.0), S(R(2), 7, dtype="int64")],
        np.full_like,
        bad_dtype(R(2), 1.0),
    ),
]

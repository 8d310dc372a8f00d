"""Rows of minigrad/ops/linalg.py."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from tests.op_rows.row import Bad, R, Row, S

SHAPES = (
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (4, 3, 2)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((0, 3), (3, 2)),
    ((2, 0), (0, 3)),
    ((0, 2, 3), (3, 2)),
    ((4, 2, 0), (0, 3)),
    ((4, 2, 3), (3, 0)),
)

ROWS = [
    Row(
        "matmul",
        mg.matmul,
        np.matmul,
        [S(R(*a), R(*b)) for a, b in SHAPES],
        op="matmul",
        kind="product",
        dtypes="keep",
        strict=True,
        analytic=True,
        errors=(
            Bad(S(R(3, 4), R(5, 6)), mg.ShapeError, r"\(3, 4\) and \(5, 6\) cannot be multiplied"),
            Bad(S(R(3), R(4)), mg.ShapeError, r"\(3,\) and \(4,\) cannot be multiplied.*only axis"),
            Bad(S(R(), R(3)), mg.ShapeError, "at least one axis"),
            Bad(S(R(2, 2, 3), R(3, 3, 1)), mg.ShapeError, "do not broadcast"),
        ),
    ),
    Row(
        "outer",
        mg.outer,
        np.outer,
        [S(R(2), R(3)), S(R(0), R(3)), S(R(1), R(1))],
        kind="exact",
        kind_float32="elementwise",
        dtypes="keep",
        analytic=True,
        errors=(Bad(S("word", R(2)), mg.DtypeError, "str|tensors hold"),),
    ),
    Row(
        "tensordot",
        mg.tensordot,
        np.tensordot,
        [
            S(R(2, 3), R(3, 4), 1),
            S(R(2, 3, 4), R(3, 4, 2)),
            S(R(2, 3), R(4, 2), axes=(0, 1)),
            S(R(2, 3, 2), R(2, 4, 3), axes=([1, 0], [2, 0])),
            S(R(2), R(3), 0),
            S(R(0, 2), R(2, 3), 1),
        ],
        kind="product",
        dtypes=None,
        strict=True,
        analytic=True,
        errors=(
            Bad(S(R(2, 3), R(4, 5), 1), mg.ShapeError, "differ in size"),
            Bad(S(R(2), R(2), axes=(1, 0)), mg.AxisError, "tensordot: axis 1"),
        ),
    ),
    Row(
        "einsum",
        mg.einsum,
        np.einsum,
        [
            S("ij,jk->ik", R(2, 3), R(3, 4)),
            S("ij,jk", R(2, 3), R(3, 4)),
            S("ji,jk->ki", R(2, 3), R(2, 4)),
            S("tbh,hk->tbk", R(2, 2, 3), R(3, 2)),
            S("bij,bjk->bik", R(2, 2, 3), R(2, 3, 2)),
            S("...ij,...jk->...ik", R(2, 2, 3), R(2, 3, 2)),
            S("i,j->ij", R(2), R(3)),
            S("i,i->", R(3), R(3)),
            S("ij,k->ik", R(2, 3), R(2)),
            S("ij->ji", R(2, 3)),
            S("ij->j", R(2, 3)),
            S("ii->i", R(3, 3)),
            S("ii", R(3, 3)),
            S("iji->j", R(2, 3, 2)),
            S("ij,jk->ik", R(0, 3), R(3, 2)),
        ],
        op="einsum",
        kind="product",
        strict=True,
        analytic=True,
        errors=(
            Bad(S("ij,jk->ik", R(2, 3), R(4, 2)), mg.ShapeError, "'j' has sizes 3 and 4"),
            Bad(S("ijk->i", R(2, 3)), mg.ShapeError, "'ijk' names 3 axes"),
            Bad(S("ij->k", R(2, 3)), ValueError, "'k' names unknown or repeated letters"),
            Bad(S("ij->i", R(2, 3), R(2)), ValueError, "names 1 operands, got 2"),
            Bad(S("i,i,i->i", R(2), R(2), R(2)), ValueError, "one or two operands, not 3"),
            Bad(S("ii->i", R(2, 3)), mg.ShapeError, "'i' has sizes 2 and 3"),
        ),
    ),
]

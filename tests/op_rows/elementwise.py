"""Rows of minigrad/ops/elementwise.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.ops.elementwise import alias
from minigrad.optim import _finite
from tests.op_rows.row import (
    NO_BROADCAST,
    WORD,
    Bad,
    Point,
    R,
    Row,
    S,
    U,
    binary,
    positive,
    signed,
    unary,
)


def function(name: str, low: float, high: float, **more: Any) -> Row:
    """A smooth function of one number with a NumPy function of the same name."""
    settings = {"reference": getattr(np, name, None), "analytic": True, "dtypes": "float", **more}
    settings = {"op": name, **settings}
    return Row(name, getattr(mg, name), samples=unary(low, high), errors=(WORD,), **settings)


def step(name: str, reference: Callable[..., Any], **more: Any) -> Row:
    """A piecewise constant function of one number, or one with a truth value."""
    settings = {"order": 0, "dtypes": "float", "kind": "exact", **more}
    values = [
        S(np.array([-2.5, -2.0, -0.5, -0.0, 0.0, 0.5, 1.5, 2.0, np.inf, -np.inf, np.nan])),
        *unary(-3, 3),
    ]
    return Row(
        name, getattr(mg, name), reference, samples=values, op=name, errors=(WORD,), **settings
    )


def combination(name: str, draw_a: Any = signed, draw_b: Any = signed, **more: Any) -> Row:
    """A function of two numbers with a NumPy function of the same name."""
    settings = {"reference": getattr(np, name), "dtypes": "keep", **more}
    return Row(
        name,
        getattr(mg, name),
        samples=binary(draw_a, draw_b),
        op=name,
        errors=NO_BROADCAST,
        **settings,
    )


def comparison(name: str) -> Row:
    whole = np.array([1.0, 2.0, np.nan, 3.0])
    other = np.array([2.0, 2.0, np.nan, 1.0])
    extra = [S(whole, other), S(whole, 2), S(np.array([1, 2, 3]), 2.0), S(np.array([True]), 1)]
    return combination(name, dtypes="bool", order=0, kind="exact", extra=extra)


def tie(a: Any, b: Any, grad_a: Any, grad_b: Any) -> Point:
    return Point(S(np.array(a), np.array(b)), (np.array(grad_a), np.array(grad_b)))


ROUNDED = {"kind": "exact", "kind_float32": "elementwise"}

ROWS = [
    combination("add", analytic=True, **ROUNDED),
    combination("subtract", analytic=True, **ROUNDED, bools=False),
    combination("multiply", analytic=True, **ROUNDED),
    combination("divide", analytic=True, dtypes="float"),
    combination("floor_divide", order=0, **ROUNDED, draw_b=positive, bools=False),
    combination("remainder", kind_float32="reduction", draw_b=positive, bools=False),
    combination(
        "power",
        draw_a=positive,
        analytic=True,
        bools=False,
        extra=[S(R(2, 3), 2), S(R(2, 3), 3.0), S(R(3), np.array([2, 0, 3]))],
        points=[
            Point(S(np.array([0.0, -2.0, 3.0]), 2), (np.array([0.0, -4.0, 6.0]),)),
            Point(S(np.array([0.0, -2.0, 3.0]), 0), (np.zeros(3),)),
            Point(S(np.array([0.0, -2.0, 3.0]), 1), (np.ones(3),)),
            tie([0.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, np.log(2.0)]),
            tie([0.0, 0.0], [1.0, 3.0], [1.0, 0.0], [0.0, 0.0]),
        ],
    ),
    combination(
        "maximum",
        points=[tie([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [0.0, 0.5, 1.0], [1.0, 0.5, 0.0])],
    ),
    combination(
        "minimum",
        points=[tie([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [1.0, 0.5, 0.0], [0.0, 0.5, 1.0])],
    ),
    combination("arctan2", dtypes="float", bools=True),
    combination("logical_and", dtypes="bool", order=0, kind="exact"),
    combination("logical_or", dtypes="bool", order=0, kind="exact"),
    *(
        comparison(name)
        for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
    ),
    function("negative", -3, 3, dtypes="keep", bools=False, kind="exact"),
    function("square", -3, 3, op=None, dtypes="keep", reference=lambda x: x * x, **ROUNDED),
    function("reciprocal", 0.3, 3, op=None, reference=lambda x: 1 / x),
    function("exp", -3, 3),
    function("expm1", -3, 3, extra=[S(np.array([1e-12, -1e-9]))]),
    function("log", 0.2, 5),
    function("log1p", -0.8, 5, extra=[S(np.array([1e-12, -1e-9]))]),
    function("log2", 0.2, 5),
    function("sqrt", 0.2, 5),
    function("sin", -3, 3),
    function("cos", -3, 3),
    function("tan", -1.2, 1.2),
    function("arcsin", -0.9, 0.9, whole=(0, 1)),
    function("arccos", -0.9, 0.9, whole=(0, 1)),
    function("arctan", -3, 3),
    function("sinh", -3, 3),
    function("cosh", -3, 3),
    function("tanh", -3, 3, extra=[S(np.array([-1000.0, -30.0, 0.0, 30.0, 1000.0]))]),
    function("arcsinh", -3, 3),
    function("arccosh", 1.2, 4, bools=False),
    function("arctanh", -0.9, 0.9, whole=(0,), bools=False),
    function(
        "sigmoid",
        -4,
        4,
        reference=lambda x: np.where(x.real > 0, 1 / (1 + np.exp(-x)), np.exp(x) / (1 + np.exp(x))),
        extra=[S(np.array([-1000.0, -20.0, 0.0, 20.0, 1000.0]))],
    ),
    Row(
        "absolute",
        mg.absolute,
        np.absolute,
        unary(-3, 3, without=0),
        op="absolute",
        kind="exact",
        dtypes="keep",
        points=[Point(S(np.array([-2.0, 0.0, 2.0])), (np.array([-1.0, 0.0, 1.0]),))],
        errors=(WORD,),
    ),
    step("sign", np.sign, dtypes="keep", bools=False),
    step("floor", np.floor),
    step("ceil", np.ceil),
    step("round", np.rint),
    step("isnan", np.isnan, dtypes="bool"),
    step("isinf", np.isinf, dtypes="bool"),
    step("isfinite", np.isfinite, dtypes="bool"),
    step("logical_not", np.logical_not, dtypes="bool"),
    Row(  # clip_by_global_norm's look at the norm
        "finite",
        _finite,
        lambda x: x,
        [S(R()), S(R()), S(np.array(0.0))],
        op="finite",
        kind="exact",
        dtypes="keep",
        order=0,
        errors=(Bad(S(np.array(np.inf)), mg.NonFiniteError, "the total norm .* is inf"),),
    ),
    Row(
        "where",
        mg.where,
        np.where,
        [
            S(np.array([[True, False, True], [False, True, True]]), R(2, 3), R(3)),
            S(np.array([True, False]).reshape(2, 1), R(1, 3), R()),
            S(np.array(True), R(), R()),
            S(np.zeros((0, 3), bool), R(3), R(0, 3)),
            S(np.array([True, False, False]), R(3), 0.5),
            S(np.array([True, False, False]), 0.5, R(3)),
        ],
        op="where",
        kind="exact",
        analytic=True,
        errors=(Bad(S(np.ones(2, bool), R(3), R(3)), mg.ShapeError, "do not broadcast"),),
    ),
    Row(
        "clip",
        mg.clip,
        np.clip,
        [
            S(U(-3, 3, 2, 3), -1.0, 1.5),
            S(U(-3, 3, 3), None, 0.5),
            S(U(-3, 3, 3), 0.5, None),
            S(U(-3, 3), -1.0, 1.0),
            S(U(-3, 3, 0), -1.0, 1.0),
            S(U(-3, 3, 2, 3), U(-2, -1, 3), U(1, 2, 2, 1)),
        ],
        kind="exact",
        points=[Point(S(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), -1.0, 1.0), ([0, 0.5, 1, 0.5, 0],))],
        errors=(Bad(S("word", 0.0, 1.0), mg.DtypeError, "cannot take a str"),),
    ),
    Row(  # within the limit; beyond it the rule is not the derivative
        "clip_gradient",
        mg.clip_gradient,
        lambda x, limit: x,
        [S(R(2, 3), 50.0), S(R(), 50.0), S(R(0), 50.0)],
        op="clip_gradient",
        kind="exact",
        dtypes="keep",
        analytic=True,
        points=[Point(S(R(3), 0.25), (np.full(3, 0.25),)), Point(S(R(3), 0), (np.zeros(3),))],
        errors=(
            Bad(S("word", 1.0), mg.DtypeError, "str|tensors hold"),
            Bad(S(R(3), -1), ValueError, "limit=-1: give a number >= 0"),
        ),
    ),
    Row(
        "astype",
        mg.astype,
        lambda x, dtype: x.astype(dtype),
        [S(R(2, 3), "float64"), S(R(), "float64"), S(R(0), "float64")],
        op="astype",
        kind="exact",
        extra=[S(R(3), "float32"), S(R(3) * 10, "int64"), S(R(3), "bool"), S(R(2, 3), "int8")],
        points=[Point(S(R(3), "float32"), (np.ones(3),))],
        errors=(
            Bad(S(R(3), "float16"), mg.DtypeError, "float16"),
            Bad(S(R(3), "complex128"), mg.DtypeError, "complex128"),
        ),
    ),
    Row(
        "alias",
        alias,
        lambda x: x,
        unary(-2, 2),
        op="alias",
        kind="exact",
        dtypes="keep",
        analytic=True,
        errors=(WORD,),
    ),
]

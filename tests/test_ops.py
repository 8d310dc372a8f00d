"""Generated from the op table: every row, every check, every backend; and the table is complete."""

from __future__ import annotations

import types

import pytest

import minigrad as mg
from tests.conftest import usable_backends
from tests.mutants import own_ops
from tests.op_checks import CHECKS, calls, outcome
from tests.op_table import BY_NAME, BY_OP, ROWS
from tests.tolerances import close

TABLE = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@TABLE
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_row(row, check, backend):
    check(row, backend)


@TABLE
def test_backends_agree(row):
    """Values and gradients of every backend that runs here are NumPy's, to the table's accuracy."""
    want = outcome(row, "numpy")
    for backend in usable_backends():
        for (label, a), (_, b) in zip(outcome(row, backend), want, strict=True):
            kind, dtype = label.rsplit(" ", 1)
            close(a, b, dtype, kind, f"{row.name} on {backend}")


# --- completeness --------------------------------------------------------------------------------


def public_functions():
    """The functions of minigrad that compute or make tensors."""
    for name in dir(mg):
        value = getattr(mg, name)
        if isinstance(value, types.FunctionType) and value.__module__.startswith("minigrad.ops."):
            yield name
    for name in ("bits", "uniform", "bernoulli", "normal", "categorical"):
        yield f"random.{name}"


def test_every_registered_op_has_a_row():
    assert sorted(BY_OP) == sorted(own_ops())
    assert len(BY_OP) == sum(row.op is not None for row in ROWS), "an op with two rows"


def test_every_public_function_has_a_row():
    assert set(public_functions()) <= set(BY_NAME)
    assert len(BY_NAME) == len(ROWS), "two rows of one name"


def test_every_row_says_what_is_refused():
    assert [row.name for row in ROWS if not row.errors] == []


def test_every_rule_is_differentiated_twice():
    rules = {name: bool(op.rules) for name, op in own_ops().items()}
    assert [name for name, row in BY_OP.items() if rules[name] != (row.order == 2)] == []


@TABLE
def test_samples_are_enough(row):
    """Several calls, and among them one with an operand, or a result, without elements."""
    found = list(calls(row))
    assert len(found) >= 3
    sizes = [x.size for call in found for x in (*call.arrays, *call.reference(call.arrays))]
    fixed = {"random.next": "its state always holds two numbers", "finite": "it looks at one"}
    assert 0 in sizes or row.name in fixed

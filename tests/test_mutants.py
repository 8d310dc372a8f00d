"""No op can be wrong by a thousandth without its own row of the table turning red."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from tests.mutants import Mutant, all_mutants, applied, caught, own_ops

MUTANTS = all_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_row_turns_red(mutant):
    assert caught(mutant), f"{mutant} survived"


def test_every_forward_and_every_rule_has_a_mutant():
    parts = sum(1 + len(op.rules) for op in own_ops().values())
    assert sum(m.part != "kernel" for m in MUTANTS) == parts > 140


def test_a_mutant_is_wrong_and_leaves_no_trace():
    """In effect within the block, forward and backward alike, and gone after it."""

    def both():
        x = mg.Tensor(np.ones(2), requires_grad=True)
        y = mg.exp(x)
        y.sum().backward()
        return y.numpy()[0], x.grad.numpy()[0]

    e = np.exp(1)
    with mg.use_backend("numpy"):
        assert both() == (e, e)
        with applied(Mutant("exp", "x")):
            assert both() == (e, e * 1.001)
        with applied(Mutant("exp", "forward")):
            assert both() == (e * 1.001, e * 1.001)
        assert both() == (e, e)

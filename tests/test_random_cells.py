"""The random cells: the same from one seed, different from many, differentiable, bounded."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import tree
from minigrad_rnn import unroll
from tests.random_cells import RECIPES, RandomCell


@pytest.mark.parametrize("seed", range(6))
def test_gradients_are_right(seed):
    cell = RandomCell(seed, 2, 3, dtype="float64")
    xs = mg.Tensor(np.random.default_rng(seed).normal(size=(3, 2, 2)))
    assert mg.gradcheck(lambda cell, xs: unroll(cell, xs), cell, xs)


def test_a_seed_is_a_cell():
    xs = mg.Tensor(np.random.default_rng(0).normal(size=(50, 2, 5)).astype("float32"))
    for seed in range(40):
        ys, state = unroll(RandomCell(seed, 5, 4), xs)
        again, _ = unroll(RandomCell(seed, 5, 4), xs)
        assert (ys.numpy() == again.numpy()).all()
        assert all((abs(s.numpy()) < 60).all() for s in tree.flatten(state)[0])
        assert ys.shape == (50, 2, 4) and (abs(ys.numpy()) <= 1).all()


def test_seeds_give_many_structures():
    cells = [RandomCell(seed, 2, 2) for seed in range(40)]
    assert len({cell.equations for cell in cells}) > 35
    assert {cell.parts for cell in cells} == {1, 2, 3}
    assert {recipe for cell in cells for recipe, *_ in cell.renewals} == set(RECIPES)

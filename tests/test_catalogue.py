"""Row E6: every cell of the catalogue against its paper; row A8 for all of them."""

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad_rnn import unroll
from minigrad_rnn.catalogue import CATALOGUE
from tests.catalogue import ORACLES, B, H, T, compare, make

lecture = pytest.mark.lecture
EACH = pytest.mark.parametrize("name", CATALOGUE)


def test_every_cell_has_a_transcription():
    assert set(ORACLES) == set(CATALOGUE)
    assert len(CATALOGUE) >= 12 + 15


@EACH
@lecture("E6", "values")
@lecture("E6", "gradients")
def test_values_and_gradients_are_the_papers(backend, name):
    compare(name)


# --- A8: outputs depend on all earlier inputs, on nothing later, on no other row -----------------

FORMS = {
    "plain": lambda cell: cell,
    "stacked": lambda cell: rnn.Stack([cell, cell]),
    "residual": lambda cell: rnn.Residual(cell),
}


def reach(cell, lengths):
    """Which y(t, b) move with which x(s, c), bool (T, B, T, B), by random projections of y.

    What does not move has a gradient of exactly 0; what does, one that is 0 with probability 0.
    """
    rng = np.random.default_rng(31)
    xs = mg.Tensor(rng.normal(size=(T, B, H)), requires_grad=True)
    ys, _ = unroll(cell, xs, lengths=lengths)
    found = np.zeros((T, B, T, B), bool)
    for t, b in np.ndindex(T, B):
        y = mg.sum(ys[t, b] * mg.Tensor(rng.normal(size=ys.shape[2:])))
        [g] = mg.pullback(y, [xs])
        found[t, b] = (g.numpy() != 0).any(axis=-1)
    return found


@EACH
@pytest.mark.parametrize("form", FORMS)
@lecture("A8", "catalogue")
def test_outputs_depend_on_all_earlier_inputs_and_nothing_else(backend, name, form):
    cell = make(name, H, H)
    if name == "IndRNN":  # a relu that is off lets nothing through: keep all on
        cell.b.assign(np.full(H, 9.0))
    cell = FORMS[form](cell)
    t, b, s, c = np.ogrid[:T, :B, :T, :B]
    for lengths in (None, [T - 1, T]) if form == "plain" else ([T - 1, T],):
        real = np.arange(T)[:, None] < np.array(lengths or [T] * B)
        expected = (b == c) & (s <= t) & real[:, :, None, None] & real
        np.testing.assert_array_equal(reach(cell, lengths), expected)

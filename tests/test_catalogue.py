"""Row E6: every cell of the catalogue against its paper, and random ones; row A8 for all."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad_rnn import unroll
from minigrad_rnn.catalogue import CATALOGUE
from tests.catalogue import ORACLES, B, H, T, compare, make
from tests.recurrent import close, gradients, same_bits

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


QUICK = ("RNN", "LSTM", "GRU", "clockwork", "mLSTM", "LSTM, layer norm")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CATALOGUE]
)
@lecture("E6", "compiled")
def test_values_and_gradients_of_the_compiled_cell_are_the_papers(backend, name, monkeypatch):
    monkeypatch.delenv("MINIGRAD_COMPILE", raising=False)
    compare(name, mg.compile)


# --- A8: outputs depend on all earlier inputs, on nothing later, on no other row -----------------

FORMS = {
    "plain": lambda cell: cell,
    "stacked, residual": lambda cell: rnn.Stack([cell, rnn.Residual(cell)]),
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


@pytest.mark.parametrize("name", ["sLSTM", "mLSTM"])
def test_exponential_gates_do_not_overflow(backend, name):
    """A thousand in the exponent: values and gradients stay finite, as the stabiliser is for."""
    cell = make(name, H, H)
    xs = mg.Tensor(1e3 * np.random.default_rng(51).normal(size=(T, B, H)), requires_grad=True)
    ys, _ = unroll(cell, xs)
    assert np.isfinite(ys.numpy()).all()
    assert all(np.isfinite(g).all() for g in gradients(mg.sum(ys), xs, cell.parameters()))


# --- any cell in any wiring ----------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ragged_rows_with_resets_are_the_rows_alone(backend, name, reverse):
    """Whatever the state is made of: values and gradients of a batch, and of each row by itself."""
    cell, rng = make(name, H, H), np.random.default_rng(41)
    xs, lengths = mg.Tensor(rng.normal(size=(T + 1, B, H))), [T + 1, T - 1]
    resets = np.zeros((T + 1, B), bool)
    resets[2, 0] = resets[1, 1] = True
    ys, last = unroll(cell, xs, lengths=lengths, resets=resets, reverse=reverse)
    found = gradients(mg.sum(ys**2), cell.parameters())
    alone = [np.zeros(g.shape) for g in found]
    for b, n in enumerate(lengths):
        row = (slice(0, n), slice(b, b + 1))
        y, end = unroll(cell, xs[row], resets=resets[row], reverse=reverse)
        close(ys[row], y.numpy())
        assert not ys.numpy()[n:, b].any()
        for ours, theirs in zip(tree.flatten(last)[0], tree.flatten(end)[0], strict=True):
            close(ours[b : b + 1], theirs.numpy())
        own = gradients(mg.sum(y**2), cell.parameters())
        alone = [a + g for a, g in zip(alone, own, strict=True)]
    for ours, theirs in zip(found, alone, strict=True):
        close(ours, theirs, 1e-11)


@EACH
def test_any_cell_with_any_state_around_it(backend, name):
    """Learned and noisy first states, all states of all steps, both directions, in float32."""
    cell = CATALOGUE[name](H, H)
    xs = mg.ones((T, B, H))
    learned = rnn.LearnedState(rnn.NoisyState(cell, 0.1))
    (ys, states), last = unroll(rnn.EmitState(learned), xs)
    same_bits(tree.map(lambda s: s[-1], states), last)
    mg.sum(ys).backward()
    reached = [p.grad is not None and p.grad.numpy().any() for p in learned.start]
    assert any(reached)
    both, _ = rnn.Bidirectional(cell, CATALOGUE[name](H, H))(xs, lengths=[T, T - 1])
    assert both.shape == (T, B, 2 * H)
    assert both.dtype == ys.dtype == np.dtype("float32")
    for part in tree.flatten(last)[0]:
        assert part.dtype.kind == "i" or part.dtype == np.dtype("float32")


# --- random cells --------------------------------------------------------------------------------


class RandomCell(NamedTuple):
    """A cell as a list of instructions on a pool of values (B, H), which begins with x and state.

    Each instruction (name, i, j, k) appends one value of pool[i], pool[j], pool[k], taken modulo
    the pool's size; y and the new states, squashed, are picked from the pool in the same way.
    """

    states: int
    program: list[tuple[str, int, int, int]]
    picks: list[int]

    def step(self, xp, W, x, state):
        """y and the new state, in minigrad or in NumPy on real and complex arrays."""

        def sigmoid(a):
            return 0.5 * (1 + xp.tanh(0.5 * a))

        pool = [x, *state]
        for n, (name, *operands) in enumerate(self.program):
            a, b, c = (pool[i % len(pool)] for i in operands)
            pool.append(
                {
                    "linear": lambda a=a, n=n: a @ W[n],
                    "tanh": lambda a=a: xp.tanh(a),
                    "sum": lambda a=a, b=b: a + 0.5 * b,
                    "product": lambda a=a, b=b: a * xp.tanh(b),
                    "gate": lambda a=a, b=b, c=c: sigmoid(a) * b + (1 - sigmoid(a)) * c,
                    "share": lambda a=a, b=b: a / (1.5 + xp.sin(b)),
                    "halves": lambda a=a: xp.concatenate(xp.split(a, 2, axis=-1)[::-1], axis=-1),
                }[name]()
            )
        y, *new = (pool[i % len(pool)] for i in self.picks)
        return y, tuple(xp.tanh(part) for part in new)


NAMES = ["linear", "linear", "tanh", "sum", "product", "gate", "share", "halves"]


@st.composite
def random_cells(draw):
    states, place = draw(st.integers(1, 3)), st.integers(0, 30)
    instructions = st.tuples(st.sampled_from(NAMES), place, place, place)
    program = draw(st.lists(instructions, min_size=1, max_size=8))
    return RandomCell(states, program, [draw(place) for _ in range(states + 1)])


@given(cell=random_cells(), seed=st.integers(0, 1000))
@settings(max_examples=40)
@lecture("E6", "random cells")
def test_cells_that_nobody_thought_of(backend, cell, seed):
    """Values, and the gradient along a random direction of all weights, inputs and states."""
    rng = np.random.default_rng(seed)
    shapes = [(len(cell.program), H, H), (T, B, H), *[(B, H)] * cell.states]
    values = [0.6 * rng.normal(size=shape) for shape in shapes]
    along = [rng.normal(size=shape) for shape in shapes]
    weight = rng.normal(size=(T, B, H))

    def in_numpy(W, xs, *state):
        ys = []
        for x in xs:
            y, state = cell.step(np, W, x, state)
            ys.append(y)
        return np.array(ys)

    W, xs, *state = leaves = [mg.Tensor(v, requires_grad=True) for v in values]
    layers = list(W)
    ys, _ = unroll(lambda x, s: cell.step(mg, layers, x, s), xs, tuple(state))
    close(ys, in_numpy(*values))
    found = gradients(mg.sum(ys * mg.Tensor(weight)), leaves)
    moved = [v + 1e-30j * a for v, a in zip(values, along, strict=True)]
    expected = np.sum(in_numpy(*moved) * weight).imag / 1e-30
    close(sum(np.sum(g * a) for g, a in zip(found, along, strict=True)), expected, 1e-10)

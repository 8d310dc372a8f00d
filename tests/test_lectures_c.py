"""Rows C of the lectures: units, outputs, states, inputs."""

import decimal

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad import nn
from minigrad.graph.ir import Instruction
from minigrad_rnn import unroll
from tests.oracles import vanilla
from tests.recurrent import KINDS, close, gradients, leaf, random_cell, same_bits

lecture = pytest.mark.lecture


# --- C1: tanh ------------------------------------------------------------------------------------


def points():
    """Both signs, from 1e-12 to 15, and an even grid."""
    small = np.geomspace(1e-12, 14.99, 300)
    return np.concatenate([-small, small, np.linspace(-14.99, 14.99, 301)])


def exact_tanh(x):
    """tanh of a float64, to 60 digits, rounded once."""
    with decimal.localcontext(prec=80):
        e = (2 * decimal.Decimal(float(x))).exp()
        return (e - 1) / (e + 1)


def three_formulas(values):
    x = mg.Tensor(values)
    e, inverse = mg.exp(x), mg.exp(-x)
    return mg.tanh(x), mg.sinh(x) / mg.cosh(x), (e - inverse) / (e + inverse)


@lecture("C1", "absolute")
def test_the_three_formulas_of_tanh_agree(backend):
    values = [formula.numpy() for formula in three_formulas(points())]
    for a in values:
        for b in values:
            assert np.abs(a - b).max() <= 4 * 2.0**-52


@lecture("C1", "relative")
def test_tanh_and_the_quotient_of_sinh_and_cosh_to_four_ulp(backend):
    x = points()[::3]
    exact = [exact_tanh(v) for v in x]
    direct, quotient, _ = three_formulas(x)
    for formula in (direct.numpy(), quotient.numpy()):
        for value, wanted in zip(formula, exact, strict=True):
            error = abs(decimal.Decimal(float(value)) - wanted)
            assert error <= 4 * decimal.Decimal(float(np.spacing(abs(float(wanted)))))


@lecture("C1", "finite")
def test_tanh_is_finite_far_out_where_the_quotients_are_not(backend):
    far = np.array([1e4, -1e4])
    assert mg.tanh(mg.Tensor(far)).tolist() == [1.0, -1.0]
    x = leaf(far)
    mg.sum(mg.tanh(x)).backward()
    assert x.grad.tolist() == [0.0, 0.0]
    with np.errstate(all="ignore"):
        _, quotient, exponentials = three_formulas(far)
    assert not np.isfinite(quotient.numpy()).any()
    assert not np.isfinite(exponentials.numpy()).any()


@lecture("C1", "derivative")
def test_the_derivative_of_tanh(backend):
    x = leaf(points())
    y = mg.tanh(x)
    mg.sum(y).backward()
    close(x.grad, 1 - y.numpy() ** 2, 1e-15)


@lecture("C1", "second derivative")
def test_the_second_derivative_of_tanh(backend):
    x = leaf(points())
    y = mg.tanh(x)
    first = mg.pullback(mg.sum(y), x)
    second = mg.pullback(mg.sum(first), x).numpy()
    y = y.numpy()
    close(second, -2 * y * (1 - y**2), 1e-15)


# --- C2: softmax ---------------------------------------------------------------------------------


@lecture("C2", "shift")
@pytest.mark.parametrize("shift", [-700.0, 3.25, 1e4])
def test_softmax_does_not_see_a_shift(backend, shift):
    rng = np.random.default_rng(1)
    o = np.round(rng.normal(size=(5, 4)) * 2**20) / 2**20  # exact under every shift here
    labels = rng.integers(0, 4, 5)
    for f in (F.softmax, F.log_softmax, lambda o: F.cross_entropy(o, labels)):
        same_bits(f(mg.Tensor(o + shift)), f(mg.Tensor(o)))
    for row, found in zip(o, F.softmax(mg.Tensor(o + shift)).numpy(), strict=True):
        close(found, vanilla.softmax(row), 1e-15)


@lecture("C2", "gradient")
def test_the_gradient_of_the_loss_is_softmax_minus_one_hot(backend):
    rng = np.random.default_rng(2)
    o, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    x = leaf(o)
    F.cross_entropy(x, labels, reduction="sum").backward()
    expected = np.array([vanilla.softmax(row) for row in o]) - np.eye(4)[labels]  # eq 10.18
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=0, atol=1e-15)


# --- C3: the initial state -----------------------------------------------------------------------


@lecture("C3", "learned gradient")
@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_states_gradient_is_the_sum_over_the_batch(backend, kind):
    rng = np.random.default_rng(3)
    cell = random_cell(kind, 2, 3, rng)
    learned = rnn.LearnedState(cell)
    for start in learned.start:
        start.assign(rng.normal(size=start.shape))
    xs, weight = rng.normal(size=(4, 5, 2)), rng.normal(size=(4, 5, 3))
    found = gradients(mg.sum(unroll(learned, mg.Tensor(xs))[0] * mg.Tensor(weight)), learned.start)
    total = [0.0] * len(found)
    for b in range(5):  # each row alone, from a leaf of its own
        rows = [leaf(start.numpy()) for start in learned.start]
        state = tuple(rows) if kind == "lstm" else rows[0]
        ys, _ = unroll(cell, mg.Tensor(xs[:, b : b + 1]), state)
        own = gradients(mg.sum(ys * mg.Tensor(weight[:, b : b + 1])), rows)
        total = [t + g for t, g in zip(total, own, strict=True)]
    for ours, expected in zip(found, total, strict=True):
        close(ours, expected)


@lecture("C3", "learned helps")
def test_a_learned_state_lowers_the_loss_where_the_first_answer_depends_on_it(backend):
    """The input is silent and the cell has no bias: only h0 can answer 0.8 at the first step."""
    xs, target = mg.zeros((2, 3, 1), dtype="float64"), np.array([0.8, -0.4])[:, None, None]

    def trained(learn):
        mg.random.seed(4)
        cell = rnn.RNNCell(1, 2, bias=False, dtype="float64")
        cell = rnn.LearnedState(cell) if learn else cell
        if learn:
            cell.start[0].assign([[0.1, -0.1]])
        head = nn.Linear(2, 1, bias=False, dtype="float64")
        for _ in range(150):
            loss = mg.mean((head(unroll(cell, xs)[0]) - mg.Tensor(target)) ** 2)
            parameters = cell.parameters() + head.parameters()
            for p, g in zip(parameters, gradients(loss, parameters), strict=True):
                p.assign(p.numpy() - 0.3 * g)
        return loss.item()

    assert abs(trained(learn=False) - (0.8**2 + 0.4**2) / 2) < 1e-12
    assert trained(learn=True) < 0.01


@lecture("C3", "zero")
@pytest.mark.parametrize("kind", KINDS)
def test_no_state_is_a_state_of_zeros_to_the_bit(backend, kind):
    cell = random_cell(kind, 2, 3, np.random.default_rng(5))
    xs = mg.Tensor(np.random.default_rng(6).normal(size=(4, 2, 2)))
    zeros = mg.Tensor(np.zeros((2, 3)))
    explicit = unroll(cell, xs, (zeros, zeros) if kind == "lstm" else zeros)
    same_bits(unroll(cell, xs), explicit)
    same_bits(unroll(rnn.LearnedState(cell), xs), explicit)


# --- C4: one-hot inputs --------------------------------------------------------------------------

IDS = np.array([[0, 2, 2, 5], [2, 0, 6, 2]])  # with repeats, and rows that nothing names


@lecture("C4", "values")
def test_a_gather_is_a_product_with_one_hot_vectors_in_value(backend):
    embedding = nn.Embedding(7, 3, dtype="float64")
    one_hot = np.eye(7)[IDS]
    close(embedding(mg.Tensor(IDS)), one_hot @ embedding.W.numpy(), 0)
    close(mg.Tensor(one_hot) @ embedding.W, one_hot @ embedding.W.numpy(), 0)


@lecture("C4", "gradients")
def test_a_gather_is_a_product_with_one_hot_vectors_in_gradient(backend):
    rng = np.random.default_rng(7)
    embedding, weight = nn.Embedding(7, 3, dtype="float64"), rng.normal(size=(2, 4, 3))
    [gathered] = gradients(mg.sum(embedding(mg.Tensor(IDS)) * mg.Tensor(weight)), embedding.W)
    product = mg.Tensor(np.eye(7)[IDS]) @ embedding.W
    [multiplied] = gradients(mg.sum(product * mg.Tensor(weight)), embedding.W)
    close(gathered, multiplied)
    expected = np.zeros((7, 3))
    for position in np.ndindex(IDS.shape):
        expected[IDS[position]] += weight[position]
    close(gathered, expected)
    assert not gathered[[1, 3, 4]].any()


# --- C5: the output layer over the whole sequence ------------------------------------------------


@lecture("C5", "hoisted")
def test_one_product_over_the_sequence_is_the_one_inside_the_loop(backend):
    rng = np.random.default_rng(8)
    cell, head = random_cell("rnn", 2, 3, rng), nn.Linear(3, 4, dtype="float64")
    head.b.assign(rng.normal(size=4))
    xs, weight = leaf(rng.normal(size=(5, 2, 2))), rng.normal(size=(5, 2, 4))
    hoisted = head(unroll(cell, xs)[0])
    inside, h = [], cell.initial_state(2)
    for x in xs:
        _, h = cell(x, h)
        inside.append(head(h))
    inside = mg.stack(inside)
    close(hoisted, inside.numpy())
    results = [
        gradients(mg.sum(o * mg.Tensor(weight)), head.parameters(), cell.parameters(), xs)
        for o in (hoisted, inside)
    ]
    for a, b in zip(*results, strict=True):
        close(a, b)


@lecture("C5", "automatic")
def test_compiling_takes_the_output_layer_out_of_the_loop(backend, monkeypatch):
    """Written inside: no product with V stays there, forwards or backwards; the numbers stay."""
    monkeypatch.delenv("MINIGRAD_COMPILE", raising=False)
    rng, T, B, H, V = np.random.default_rng(9), 6, 2, 3, 13  # no other size is 13
    Wx, Wh, W, c = (leaf(rng.normal(size=s)) for s in ((2, H), (H, H), (H, V), (V,)))
    xs, weight = rng.normal(size=(T, B, 2)), rng.normal(size=(T, B, V))

    @mg.compile
    def inside(xs):
        h, os = mg.zeros((B, H), dtype="float64"), []
        for x in xs:
            h = mg.tanh(x @ Wx + h @ Wh)
            os.append(h @ W + c)
        os = mg.stack(os)
        mg.sum(os * mg.Tensor(weight)).backward()
        return os

    hs, h = [], np.zeros((B, H))
    for x in xs:
        h = np.tanh(x @ Wx.numpy() + h @ Wh.numpy())
        hs.append(h)
    hs = np.array(hs)
    close(inside(xs), hs @ W.numpy() + c.numpy())
    close(W.grad, np.einsum("tbh,tbv->hv", hs, weight))
    close(c.grad, weight.sum(axis=(0, 1)))

    def products(steps):
        found = [s for s in steps if isinstance(s, Instruction) and s.op.name == "matmul"]
        shapes = [[v.spec.shape for v in (*s.operands, *s.outputs)] for s in found]
        return [shape for shape in shapes if any(V in one for one in shape)]

    graph = inside.graph
    assert graph.loops()
    assert [products(loop.body) for loop in graph.loops()] == [[]] * len(graph.loops())
    assert len(products(graph.steps)) == 3  # o, and what flows back to h and to V
    assert [(T * B, H), (H, V), (T * B, V)] in products(graph.steps)

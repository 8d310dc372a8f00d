"""Rows F2, F3 and F4 of the lectures: depth inside a step, skip connections, residual networks.

Shapes: T time, B batch, D input, H hidden.
"""

from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad_rnn import MLP, unroll
from minigrad_rnn.depth import gradient_norms, path_length, plot_gradient_norms
from tests.catalogue import compare
from tests.recurrent import close, gradients, leaf, random_cell, randomise

lecture = pytest.mark.lecture
T, B, D, H = 4, 2, 3, 4


def recorded(cell, steps=T):
    """x(t), h(t) and y(t) of a recorded run; h(-1) first."""
    rng = np.random.default_rng(1)
    xs = [leaf(rng.normal(size=(B, D))) for _ in range(steps)]
    hs, ys = [leaf(rng.normal(size=(B, H)))], []
    for x in xs:
        y, h = cell(x, hs[-1])
        hs.append(h)
        ys.append(y)
    return xs, hs, ys


def mlp(rows, layers, columns=H):
    """An MLP with the given number of hidden layers."""
    return MLP([rows, *[5] * layers, columns], dtype="float64")


# --- F2: deeper computation ----------------------------------------------------------------------


@lecture("F2", "path lengths")
def test_one_hidden_layer_doubles_the_path(backend):
    """Layers of units on the shortest path from h(t) to h(t + k): k in (a), 2k in (b)."""
    plain = rnn.RNNCell(D, H, dtype="float64")
    deep = rnn.DeepCell(D, H, transition=mlp(H, 1), dtype="float64")
    for cell, per_step in ((plain, 1), (rnn.DeepCell(D, H, dtype="float64"), 1), (deep, 2)):
        _, hs, _ = recorded(cell)
        for k in range(1, T):
            assert path_length(hs[0], hs[k]) == per_step * k
            assert path_length(hs[1], hs[1 + k]) == per_step * k
        assert path_length(hs[2], hs[1]) is None


@lecture("F2", "path lengths")
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_each_of_the_three_blocks_can_be_deep(backend, layers):
    cell = rnn.DeepCell(
        D,
        H,
        input=mlp(D, layers),
        transition=mlp(H, layers),
        output=mlp(H, layers, 2),
        dtype="float64",
    )
    xs, hs, ys = recorded(cell)
    assert ys[0].shape == (B, 2)
    for t in range(T):
        assert path_length(xs[t], hs[t + 1]) == 1 + layers
        assert path_length(hs[t], hs[t + 1]) == 1 + layers
        assert path_length(hs[t + 1], ys[t]) == layers
        assert path_length(xs[t], ys[t]) == 1 + 2 * layers


@lecture("F2", "path lengths")
def test_the_deep_rnn_transcribed(backend):
    compare("deep (b)")


def test_a_path_is_measured_as_the_shortest(backend):
    """Against all paths of a small graph by hand; constants and strangers have none."""
    x = leaf([1.0])
    a = mg.tanh(mg.tanh(mg.tanh(x)))
    y = mg.tanh(a + 2 * x) + mg.tanh(mg.tanh(x))
    assert path_length(x, y) == 1
    assert path_length(a, y) == 1
    assert path_length(x, a) == 3
    assert path_length(x, x) == 0
    assert path_length(x, y, ops=("add",)) == 1
    assert path_length(y, x) is None
    assert path_length(mg.ones(1), y) is None


# --- F3: skip connections ------------------------------------------------------------------------


@lecture("F3", "path lengths")
@pytest.mark.parametrize("layers", [1, 3])
def test_a_skip_connection_makes_the_path_short_again(backend, layers):
    deep, skipping = (
        rnn.DeepCell(D, H, transition=mlp(H, layers), skip=skip, dtype="float64")
        for skip in (False, True)
    )
    for cell, per_step in ((deep, 1 + layers), (skipping, 1)):
        _, hs, _ = recorded(cell)
        for k in range(1, T):
            assert path_length(hs[0], hs[k]) == per_step * k


@lecture("F3", "path lengths")
def test_the_deep_rnn_with_skips_transcribed(backend):
    compare("deep (c)")


def scaled(cell, seed):
    """Orthogonal matrices on every edge between hidden units, a little contracting."""
    rng = np.random.default_rng(seed)
    for name, p in cell.named_parameters():
        if p.ndim == 2 and p.shape[0] == p.shape[1]:
            p.assign(0.9 * np.linalg.qr(rng.normal(size=p.shape))[0])
        else:
            p.assign(0.1 * rng.normal(size=p.shape) if "W" in name else np.zeros(p.shape))
    return cell


@lecture("F3", "gradient norms")
def test_gradient_norms_of_the_three_forms(backend, tmp_path):
    """(a) falls slower than (b), (c) is close to (a) again; the norms are those of Jacobians."""
    steps, xs = 15, mg.Tensor(0.1 * np.random.default_rng(2).normal(size=(15, 1, D)))
    start, weight = mg.zeros((1, H), dtype="float64"), mg.ones((1, H), dtype="float64")

    def square():
        return MLP([H, H, H], dtype="float64")

    cells = {
        "a": rnn.DeepCell(D, H, dtype="float64"),
        "b": rnn.DeepCell(D, H, transition=square(), dtype="float64"),
        "c": rnn.DeepCell(D, H, transition=square(), skip=True, dtype="float64"),
    }
    norms = {k: gradient_norms(scaled(cell, 3), xs, start, weight) for k, cell in cells.items()}
    first = {k: v.numpy()[0] for k, v in norms.items()}
    assert first["b"] < 0.5 * first["a"]
    assert first["c"] > 2 * first["b"]

    # (a) by hand: the gradient at h(T) times W diag(1 - h^2) of each step back
    cell, h, hs, g = cells["a"], np.zeros((1, H)), [], np.ones((1, H))
    U, W = cell.input.W.numpy(), cell.transition.W.numpy()
    for x in xs.numpy():
        h = np.tanh(x @ U + h @ W)
        hs.append(h)
    expected = np.zeros(steps)
    for t in reversed(range(steps)):
        g = (g * (1 - hs[t] ** 2)) @ W.T
        expected[t] = np.linalg.norm(g)
    close(norms["a"], expected)

    pytest.importorskip("matplotlib")
    path = tmp_path / "norms.svg"
    plot_gradient_norms(norms, str(path))
    picture = Path(path).read_text("utf-8")
    assert picture.count('id="line2d_') >= 3
    assert "steps back" in picture


# --- F4: residual networks -----------------------------------------------------------------------


def block(rng=None, **options):
    made = MLP([H, 5, H], dtype="float64", **options)
    return made if rng is None else randomise(made, rng)


@lecture("F4", "identity")
def test_with_zero_last_weights_it_is_the_identity(backend):
    rng = np.random.default_rng(4)
    net = rnn.ResNet([block(zero_last=True) for _ in range(6)])
    x = leaf(rng.normal(size=(B, H)))
    y = net(x)
    assert y.numpy().tobytes() == x.numpy().tobytes()
    weight = rng.normal(size=(B, H))
    found = gradients(mg.sum(y * mg.Tensor(weight)), x, net.parameters())
    close(found[0], weight, 0)
    last = net.blocks[-1].layers[-1].W.grad.numpy()  # and it can learn: not every gradient is 0
    assert last.any()


@lecture("F4", "identity")
def test_a_residual_cell_with_zero_output_is_the_identity(backend):
    """Row H3's stacks too: x(i) = m(i) + x(i-1), m = 0 where the output gate's cell is 0."""
    cell = rnn.Residual(rnn.LSTMCell(H, H, dtype="float64"))
    cell.cell.Wx.assign(np.zeros((H, 4 * H)))
    xs = mg.Tensor(np.random.default_rng(5).normal(size=(T, B, H)))
    ys, _ = unroll(rnn.Stack([cell] * 3), xs)
    assert ys.numpy().tobytes() == xs.numpy().tobytes()


def test_a_resnet_by_hand(backend):
    rng = np.random.default_rng(6)
    net = rnn.ResNet([block(rng) for _ in range(3)])
    x = rng.normal(size=(B, H))
    expected = x
    for part in net.blocks:
        (U, b), (V, c) = ((layer.W.numpy(), layer.b.numpy()) for layer in part.layers)
        expected = expected + np.tanh(expected @ U + b) @ V + c
    close(net(mg.Tensor(x)), expected)


@pytest.mark.parametrize("form", ["autonomous", "constant input"])
def test_a_tied_resnet_is_a_recurrent_network(backend, form):
    """The same F at every layer: an RNN with constant input, in values, gradients and op counts."""
    rng, L = np.random.default_rng(7), 6
    F, U = block(rng), leaf(rng.normal(size=(D, H)))
    x0, u = leaf(rng.normal(size=(B, H))), mg.Tensor(rng.normal(size=(B, D)))
    if form == "autonomous":
        y = rnn.ResNet([F] * L)(x0)
        _, last = unroll(rnn.Increment(F), None, x0, steps=L)
        leaves = [x0, *F.parameters()]
    else:
        y = rnn.ResNet([lambda x: F(x + u @ U)] * L)(x0)
        cell = rnn.Increment(lambda h, x: F(h + x @ U))
        _, last = unroll(cell, mg.stack([u] * L), x0)
        leaves = [x0, U, *F.parameters()]
    close(y, last.numpy(), 0)
    ours, theirs = (gradients(mg.sum(out**2), leaves) for out in (y, last))
    for a, b in zip(ours, theirs, strict=True):
        assert a.any()
        close(a, b)


def final_loss(residual):
    """The loss of 20 recurrent layers that copy their input, after a few steps of Adam."""
    rng = np.random.default_rng(8)
    xs = mg.Tensor(rng.normal(size=(2, 8, H)))
    cells = [random_cell("rnn", H, H, rng) for _ in range(20)]
    stack = rnn.Stack([rnn.Residual(c) if residual else c for c in cells])
    head = mg.nn.Linear(H, H, dtype="float64")
    head.W.assign(0.1 * rng.normal(size=(H, H)))
    optimizer = mg.optim.Adam(stack.parameters() + head.parameters(), lr=0.02)
    for _ in range(30):
        loss = mg.mean((head(unroll(stack, xs)[0]) - xs) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@lecture("F4", "20 layers")
def test_twenty_layers_train_with_residuals_and_hardly_without(backend):
    assert final_loss(residual=True) < 0.3
    assert final_loss(residual=False) > 0.8

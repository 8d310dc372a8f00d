"""Rows B of the lectures: patterns of input and output."""

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad import nn
from minigrad_rnn import unroll
from tests.oracles import rnn as plain
from tests.oracles import vanilla
from tests.oracles.batch import over_batch
from tests.recurrent import (
    KINDS,
    close,
    complex_step,
    gradients,
    leaf,
    random_cell,
    randomise,
    torch_layers,
)

lecture = pytest.mark.lecture
T, B, D, H, V = 6, 3, 2, 4, 5


# --- B1: the vanilla network ---------------------------------------------------------------------


def descend(parameters, loss, steps, rate):
    """Gradient descent with momentum 0.9, in plain code; returns the last loss."""
    speed = [0.0] * len(parameters)
    for _ in range(steps):
        value = loss()
        found = gradients(value, parameters)
        speed = [0.9 * v - rate * g for v, g in zip(speed, found, strict=True)]
        for parameter, v in zip(parameters, speed, strict=True):
            parameter.assign(parameter.numpy() + v)
    return value.item()


@lecture("B1", "trains")
def test_a_network_with_one_hidden_layer_learns_xor(backend):
    mg.random.seed(0)
    x = mg.Tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype="float64")
    labels = [0, 1, 1, 0]
    hidden, output = nn.Linear(2, 8, dtype="float64"), nn.Linear(8, 2, dtype="float64")
    net = lambda: output(mg.tanh(hidden(x)))  # noqa: E731
    parameters = hidden.parameters() + output.parameters()
    last = descend(parameters, lambda: F.cross_entropy(net(), labels), 150, 0.3)
    assert last < 0.05
    assert mg.argmax(net(), -1).tolist() == labels


@lecture("B1", "trains")
def test_a_network_with_one_hidden_layer_learns_two_spirals(backend):
    mg.random.seed(1)
    turn = np.linspace(0.3, 1.6, 40)[:, None] * np.pi
    arm = turn * np.concatenate([np.cos(turn), np.sin(turn)], axis=1) / np.pi
    x, labels = mg.Tensor(np.concatenate([arm, -arm])), np.repeat([0, 1], 40)
    hidden, output = nn.Linear(2, 32, dtype="float64"), nn.Linear(32, 2, dtype="float64")
    net = lambda: output(mg.tanh(3 * hidden(x)))  # noqa: E731
    parameters = hidden.parameters() + output.parameters()
    descend(parameters, lambda: F.cross_entropy(net(), labels), 300, 0.1)
    assert (mg.argmax(net(), -1).numpy() == labels).all()


@lecture("B1", "one step")
def test_the_vanilla_network_is_an_rnn_of_one_step_without_use_of_w(backend):
    rng = np.random.default_rng(2)
    cell = random_cell("rnn", D, H, rng)
    head = randomise(nn.Linear(H, V, dtype="float64"), rng)
    x, labels = leaf(rng.normal(size=(B, D))), rng.integers(0, V, B)
    ys, _ = unroll(cell, mg.stack([x]))
    network = head(mg.tanh(x @ cell.Wx + cell.b))
    hidden = np.tanh(x.numpy() @ cell.Wx.numpy() + cell.b.numpy())
    for o in (network, head(ys)[0]):
        close(o, hidden @ head.W.numpy() + head.b.numpy())
    shared = [cell.Wx, cell.b, *head.parameters(), x]
    *ours, unused = gradients(F.cross_entropy(head(ys)[0], labels), shared, cell.Wh)
    for a, b in zip(ours, gradients(F.cross_entropy(network, labels), shared), strict=True):
        close(a, b)
    assert not unused.any()
    before = head(ys).numpy()
    cell.Wh.assign(rng.normal(size=(H, H)))
    assert head(unroll(cell, mg.stack([x]))[0]).numpy().tobytes() == before.tobytes()


# --- B3: many to one -----------------------------------------------------------------------------

LENGTHS = [4, 6, 1]


def many_to_one(kind, rng):
    """A cell, a head, and the loss at each row's own last step; the padding is NaN."""
    cell, head = random_cell(kind, D, H, rng), randomise(nn.Linear(H, V, dtype="float64"), rng)
    values = rng.normal(size=(T, B, D))
    for b, n in enumerate(LENGTHS):
        values[n:, b] = np.nan
    labels = rng.integers(0, V, B)

    def run(xs, labels, lengths=None):
        _, state = unroll(cell, xs, lengths=lengths)
        o = head(state[0] if kind == "lstm" else state)
        return o, F.cross_entropy(o, labels, reduction="sum")

    return cell, head, leaf(values), labels, run


@lecture("B3", "ragged")
@pytest.mark.parametrize("kind", KINDS)
def test_a_ragged_batch_equals_runs_of_its_samples(backend, kind):
    cell, head, xs, labels, run = many_to_one(kind, np.random.default_rng(3))
    parameters = cell.parameters() + head.parameters()
    o, loss = run(xs, labels, LENGTHS)
    found = gradients(loss, parameters, xs)
    total = [0.0] * len(parameters)
    for b, n in enumerate(LENGTHS):
        x = leaf(xs.numpy()[:n, b : b + 1])
        alone, own = run(x, labels[b : b + 1])
        close(o[b], alone.numpy()[0])
        *grads, dx = gradients(own, parameters, x)
        total = [t + g for t, g in zip(total, grads, strict=True)]
        close(found[-1][:n, b : b + 1], dx)
    for ours, expected in zip(found, total, strict=False):
        close(ours, expected)


@lecture("B3", "reaches the first input")
@lecture("B3", "zero on padding")
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_the_first_input_and_no_padding(backend, kind):
    _, _, xs, labels, run = many_to_one(kind, np.random.default_rng(4))
    [dx] = gradients(run(xs, labels, LENGTHS)[1], xs)
    real = np.arange(T)[:, None] < np.array(LENGTHS)
    assert (dx[0] != 0).all()
    assert (dx[real] != 0).all()
    assert (dx[~real] == 0).all()


# --- B6, B7: recurrence between hidden units, a loss at every step --------------------------------


def book_net(rng):
    """The book's parameters, ours with the same values, inputs, labels and h0."""
    shapes = {"U": (H, D), "W": (H, H), "V": (V, H), "b": (H,), "c": (V,)}
    p = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    cell = rnn.RNNCell(D, H, dtype="float64")
    cell.load_state_dict({"Wx": p["U"].T, "Wh": p["W"].T, "b": p["b"]})
    head = nn.Linear(H, V, dtype="float64")
    head.load_state_dict({"W": p["V"].T, "b": p["c"]})
    x, labels = rng.normal(size=(T, B, D)), rng.integers(0, V, (T, B))
    return p, cell, head, x, labels, rng.normal(size=(B, H))


def forward(cell, head, x, h0, labels):
    """o (T, B, V) and the summed loss, eq 10.8-10.14."""
    hs, _ = unroll(cell, x, h0)
    o = head(hs)
    return hs, o, F.cross_entropy(o, labels, reduction="sum")


@lecture("B6", "values")
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_books_net_values(backend, scale):
    """Also with logits of +-1e4, where only the shifted form of softmax survives."""
    p, cell, head, x, labels, h0 = book_net(np.random.default_rng(5))
    p["V"] = p["V"] * scale
    head.W.assign(p["V"].T)
    expected = over_batch(vanilla.forward, p, [x, labels], [h0])
    hs, o, loss = forward(cell, head, mg.Tensor(x), mg.Tensor(h0), labels)
    close(hs, expected["h"])
    close(o, expected["o"])
    close(F.softmax(o), expected["yhat"], 1e-12 * scale)
    close(F.cross_entropy(o, labels, reduction="none"), expected["losses"])
    close(loss, expected["loss"])
    assert np.isfinite(loss.item())


@lecture("B6", "gradients")
def test_the_books_net_gradients(backend):
    p, cell, head, x, labels, h0 = book_net(np.random.default_rng(6))
    expected = over_batch(vanilla.backward, p, [x, labels], [h0])
    x, h0 = leaf(x), leaf(h0)
    _, _, loss = forward(cell, head, x, h0, labels)
    found = gradients(loss, cell.Wx, cell.Wh, cell.b, head.W, head.b, x, h0)
    for ours, name in zip(found, ["U", "W", "b", "V", "c", "x", "h0"], strict=True):
        wanted = expected[name]
        close(ours, wanted.T if name in "UWV" else wanted)


@lecture("B6", "torch")
def test_the_books_net_in_torch(backend):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    net, [[cell]] = torch_layers(torch, "rnn", D, H, 1, False, seed=7)
    linear = torch.nn.Linear(H, V).double()
    head = nn.Linear(H, V, dtype="float64")
    head.load_state_dict({"W": linear.weight.detach().numpy().T, "b": linear.bias.detach().numpy()})
    x, h0 = rng.normal(size=(T, B, D)), rng.normal(size=(B, H))
    labels = rng.integers(0, V, (T, B))
    x_t, h0_t = (torch.tensor(a, requires_grad=True) for a in (x, h0[None]))
    o_t = linear(net(x_t, h0_t)[0])
    loss_t = torch.nn.functional.cross_entropy(
        o_t.reshape(-1, V), torch.tensor(labels.reshape(-1)), reduction="sum"
    )
    loss_t.backward()
    x, h0 = leaf(x), leaf(h0)
    _, o, loss = forward(cell, head, x, h0, labels)
    close(o, o_t.detach().numpy())
    close(loss, loss_t.item())
    found = gradients(loss, cell.parameters(), head.parameters(), x, h0)
    theirs = [net.weight_ih_l0.grad.T, net.weight_hh_l0.grad.T, net.bias_hh_l0.grad]
    theirs += [linear.weight.grad.T, linear.bias.grad, x_t.grad, h0_t.grad[0]]
    for ours, expected in zip(found, theirs, strict=True):
        close(ours, expected.numpy())


@lecture("B6", "torch")
def test_the_books_net_with_two_biases(backend):
    """torch's RNN and Linear transcribed, both biases apart, differentiated by complex step."""
    rng = np.random.default_rng(8)
    T, D, H, V = 4, 2, 3, 3
    shapes = {"w_ih": (H, D), "w_hh": (H, H), "b_ih": (H,), "b_hh": (H,), "w": (V, H), "b": (V,)}
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x, labels = rng.normal(size=(T, D)), rng.integers(0, V, T)

    def transcribed(p):
        h, loss = np.zeros(H), 0.0
        for t in range(T):
            h = np.tanh(p["w_ih"] @ x[t] + p["b_ih"] + p["w_hh"] @ h + p["b_hh"])
            o = p["w"] @ h + p["b"]
            loss = loss + np.log(np.exp(o).sum()) - o[labels[t]]
        return loss

    cell, head = rnn.RNNCell(D, H, dtype="float64"), nn.Linear(H, V, dtype="float64")
    both = values["b_ih"] + values["b_hh"]
    cell.load_state_dict({"Wx": values["w_ih"].T, "Wh": values["w_hh"].T, "b": both})
    head.load_state_dict({"W": values["w"].T, "b": values["b"]})
    _, _, loss = forward(cell, head, mg.Tensor(x[:, None]), None, labels[:, None])
    close(loss, transcribed(values))
    found = gradients(loss, cell.Wx, cell.Wh, cell.b, cell.b, head.W, head.b)
    for ours, name in zip(found, shapes, strict=True):
        expected = complex_step(transcribed, values, name)
        close(ours, expected.T if expected.ndim == 2 else expected)


@lecture("B7", "no biases")
def test_the_vanilla_rnn_without_biases(backend):
    """h = tanh(W_hh h + W_xh x), y = W_hy h: against its transcription, and B6 with b = c = 0."""
    rng = np.random.default_rng(9)
    shapes = {"W_hh": (H, H), "W_xh": (H, D), "W_hy": (V, H)}
    p = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x, h0, weight = (rng.normal(size=s) for s in ((T, B, D), (B, H), (T, B, V)))
    cell = rnn.RNNCell(D, H, bias=False, dtype="float64")
    cell.load_state_dict({"Wx": p["W_xh"].T, "Wh": p["W_hh"].T})
    head = nn.Linear(H, V, bias=False, dtype="float64")
    head.load_state_dict({"W": p["W_hy"].T})
    x_m, h_m = leaf(x), leaf(h0)
    hs, _ = unroll(cell, x_m, h_m)
    y = head(hs)
    expected = over_batch(plain.cs231n_forward, p, [x], [h0])
    close(hs, expected["h"])
    close(y, expected["y"])
    result = over_batch(plain.cs231n_backward, p, [x, weight], [h0])
    found = gradients(mg.sum(y * mg.Tensor(weight)), cell.Wh, cell.Wx, head.W, x_m, h_m)
    for ours, name in zip(found, [*shapes, "x", "h0"], strict=True):
        close(ours, result[name].T if name in p else result[name])

    zeros = {"b": np.zeros(H), "c": np.zeros(V)}
    book = {"U": p["W_xh"], "W": p["W_hh"], "V": p["W_hy"], **zeros}
    labels = rng.integers(0, V, (T, B))
    close(y, over_batch(vanilla.forward, book, [x, labels], [h0])["o"])

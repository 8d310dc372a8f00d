"""Rows B of the lectures, second part: what is fed back, one vector to many symbols, both ways."""

import itertools

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad import nn, optim
from minigrad_rnn import forcing, unroll
from minigrad_rnn.patterns import (
    Bridge,
    Decoder,
    EncoderDecoder,
    HiddenLayer,
    OutputFeedback,
    each_frame,
    itself,
    likeliest,
    sampled,
    state_size,
    state_vector,
)
from tests.oracles import feedback as oracle
from tests.oracles import lstm as lstm_oracle
from tests.oracles.batch import over_batch
from tests.recurrent import (
    KINDS,
    close,
    gradients,
    leaf,
    oracle_parameters,
    random_cell,
    random_state,
    randomise,
    same_bits,
    torch_layers,
)

lecture = pytest.mark.lecture
T, B, D, H, V = 5, 3, 2, 4, 3
ALL = ["memoryless", *KINDS]


def inner(kind, size, rng):
    if kind == "memoryless":
        return randomise(HiddenLayer(size, H, dtype="float64"), rng)
    return random_cell(kind, size, H, rng)


def fed_back(kind, rng, feed=itself):
    """A cell with recurrence through its output, random inputs, labels, and these as they are fed."""
    cell = OutputFeedback(
        inner(kind, D + V, rng), randomise(nn.Linear(H, V, dtype="float64"), rng), feed
    )
    labels = rng.integers(0, V, (T, B))
    return cell, mg.Tensor(rng.normal(size=(T, B, D))), labels, mg.Tensor(np.eye(V)[labels])


def train(parameters, loss, steps, rate=0.03):
    """Adam on a whole data set; returns the last loss."""
    adam = optim.Adam(parameters, lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
    return loss().item()


def ancestors(tensor):
    """The recorded nodes that a tensor was computed from."""
    seen, waiting = set(), [tensor.node]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(node.parents)
    return seen


# --- B4: synchronous -----------------------------------------------------------------------------


@lecture("B4", "masked loss")
@pytest.mark.parametrize("kind", KINDS)
def test_the_masked_loss_is_the_mean_over_real_frames(backend, kind):
    rng = np.random.default_rng(1)
    cell, head = random_cell(kind, D, H, rng), randomise(nn.Linear(H, V, dtype="float64"), rng)
    xs, labels, lengths = rng.normal(size=(T, B, D)), rng.integers(0, V, (T, B)), [2, 5, 0]
    o = head(unroll(cell, mg.Tensor(xs), lengths=lengths)[0])
    mask = np.arange(T)[:, None] < np.array(lengths)
    nats = []
    for b, n in enumerate(lengths):
        if n:
            alone = head(unroll(cell, mg.Tensor(xs[:n, b : b + 1]))[0]).numpy()[:, 0]
            share = np.exp(alone) / np.exp(alone).sum(axis=-1, keepdims=True)
            nats += [-np.log(share[t, labels[t, b]]) for t in range(n)]
    assert len(nats) == 7
    close(F.cross_entropy(o, labels, mask=mask), np.mean(nats))


@lecture("B4", "shared features")
def test_features_of_frames_come_from_one_network(backend):
    """Frames (2, 3) of a video; the network's gradient is the sum over the frames'."""
    rng = np.random.default_rng(2)
    layer = randomise(nn.Linear(6, D, dtype="float64"), rng)
    network = lambda frames: mg.tanh(layer(frames.reshape(-1, 6)))  # noqa: E731
    video, weight = rng.normal(size=(T, B, 2, 3)), rng.normal(size=(T, B, D))
    features = each_frame(network, mg.Tensor(video))
    assert len([n for n in ancestors(features) if n.op and n.op.name == "matmul"]) == 1
    flat = video.reshape(T, B, 6)
    expected = np.tanh(flat @ layer.W.numpy() + layer.b.numpy())
    close(features, expected)
    [dW] = gradients(mg.sum(features * mg.Tensor(weight)), layer.W)
    frames = [
        np.outer(flat[t, b], weight[t, b] * (1 - expected[t, b] ** 2))
        for t in range(T)
        for b in range(B)
    ]
    close(dW, np.sum(frames, axis=0))


# --- B8: recurrence through only the output -------------------------------------------------------


@lecture("B8", "batched")
def test_output_recurrence_is_its_equations(backend):
    """h(t) = tanh(b + W o(t-1) + U x(t)), o(t) = c + V h(t), free running and forced."""
    rng = np.random.default_rng(3)
    cell, xs, labels, ys = fed_back("memoryless", rng)
    W = cell.cell.Wx.numpy()
    p = {"U": W[:D].T, "W": W[D:].T, "b": cell.cell.b.numpy()}
    p |= {"V": cell.readout.W.numpy().T, "c": cell.readout.b.numpy()}
    free, _ = unroll(cell, xs)
    close(free, over_batch(oracle.free, p, [xs.numpy()])["o"])
    forced, _ = forcing.run(cell, xs, ys)
    close(forced, over_batch(oracle.forced, p, [xs.numpy(), ys.numpy()])["o"])


@lecture("B8", "batched")
@pytest.mark.parametrize("feed", [itself, F.softmax, likeliest])
def test_under_teacher_forcing_all_steps_are_one_product(backend, feed):
    """Equal, with all gradients, to the step-by-step run, and one product for each weight."""
    rng = np.random.default_rng(4)
    cell, xs, labels, ys = fed_back("memoryless", rng, feed)
    batched, (_, fed) = forcing.run(cell, xs, ys)
    products = [n for n in ancestors(batched) if n.op is not None and n.op.name == "matmul"]
    assert len(products) == 2
    state, os = cell.initial_state(B), []
    for t in range(T):
        o, state = cell(xs[t], state)
        os.append(o)
        state = ((), ys[t])
    sequential = mg.stack(os)
    close(batched, sequential.numpy())
    close(fed, feed(os[-1]).numpy())
    parts = cell.parameters()
    found = [gradients(F.cross_entropy(o, labels), parts) for o in (batched, sequential)]
    for ours, expected in zip(*found, strict=True):
        close(ours, expected)
    masked, _ = forcing.run(cell, xs, ys, lengths=[T] * B)  # which takes the loop
    close(batched, masked.numpy())


@lecture("B8", "delay edges")
@pytest.mark.parametrize("kind", ALL)
def test_what_crosses_from_step_to_step(backend, kind):
    """Every edge of the recorded graph from one step to the next starts at o, of B8 alone."""
    cell, xs, _, _ = fed_back(kind, np.random.default_rng(5))
    state, os, born = cell.initial_state(B), [], []
    for x in mg.unstack(xs):
        born.append(leaf(0.0).node.id)
        o, state = cell(x, state)
        os.append(o)
    edges = set()
    for node in ancestors(os[-1]):
        for parent in node.parents:
            if parent is not None and parent.id > born[0]:
                step = [sum(b < n.id for b in born) for n in (parent, node)]
                if step[0] != step[1]:
                    assert step[0] + 1 == step[1]
                    edges.add(parent)
    outputs = {o.node for o in os[:-1]}
    assert outputs <= edges
    assert (edges == outputs) == (kind == "memoryless")


@lecture("A8", "teacher forcing")
def test_under_teacher_forcing_the_jacobian_is_block_diagonal(backend):
    cell, xs, _, ys = fed_back("memoryless", np.random.default_rng(6))
    x, y = leaf(xs.numpy()), leaf(ys.numpy())
    for lengths in (None, [T] * B):  # in one product, and step by step
        os, _ = forcing.run(cell, x, y, lengths=lengths)
        for t in range(T):
            dx, dy = (g.copy() for g in gradients(mg.sum(os[t, 0]), x, y))
            os, _ = forcing.run(cell, x, y, lengths=lengths)
            assert (dx[t, 0] != 0).all()
            dx[t, 0] = 0
            assert not dx.any()
            if t:
                assert (dy[t - 1, 0] != 0).all()
                dy[t - 1, 0] = 0
            assert not dy.any()


@lecture("B8", "weakness")
def test_what_output_recurrence_cannot_remember(backend):
    """All 16 strings of 4 bits; y is 0 until the end, where it is the first bit.

    The outputs that are fed back say nothing of the first bit, so that the last loss cannot fall
    below ln 2; with recurrence between hidden units the same net learns it.
    """
    bits = np.array(list(itertools.product([0, 1], repeat=4))).T
    labels = np.zeros((4, 16), int)
    labels[-1] = bits[0]
    end = np.repeat(np.arange(4)[:, None] == 3, 16, axis=1)  # an input tells which step is the last
    xs, ys = mg.Tensor(np.stack([2.0 * bits - 1, end], axis=-1)), mg.Tensor(np.eye(2)[labels])
    last = {}
    for name, make in (("output", HiddenLayer), ("hidden", rnn.RNNCell)):
        mg.random.seed(0)
        cell = OutputFeedback(make(4, 8, dtype="float64"), nn.Linear(8, 2, dtype="float64"))
        loss = lambda cell=cell: F.cross_entropy(forcing.run(cell, xs, ys)[0], labels)  # noqa: E731
        train(cell.parameters(), loss, 120)
        last[name] = F.cross_entropy(forcing.run(cell, xs, ys)[0][-1], labels[-1]).item()
    assert last["output"] >= np.log(2) - 1e-12
    assert last["output"] < np.log(2) * 1.05  # it has learned all that it can
    assert last["hidden"] < 0.05


# --- B9 (B2): vector to sequence ------------------------------------------------------------------

Dx = 3


def decoder(kind, condition, rng, dtype="float64"):
    made = Decoder(V, D, random_cell(kind, D, H, rng), H, Dx, condition, dtype=dtype)
    return randomise(made, rng)


@lecture("B9", "dR")
@lecture("B2", "as B9")
@pytest.mark.parametrize("condition", ["input", "both"])
def test_the_gradient_of_r_is_the_sum_over_time(backend, condition):
    """Fig 10.9 transcribed: with Wx = 1 the cell's input E[y] + x R is added in its activation."""
    rng = np.random.default_rng(7)
    net = Decoder(V, H, rnn.RNNCell(H, H, dtype="float64"), H, Dx, condition, dtype="float64")
    randomise(net, rng).cell.Wx.assign(np.eye(H))
    labels, x = rng.integers(0, V, (T, B)), rng.normal(size=(B, Dx))
    p = {
        "R": net.R.numpy().T,
        "U": net.embedding.W.numpy().T,
        "W": net.cell.Wh.numpy().T,
        "V": net.readout.W.numpy().T,
        "b": net.cell.b.numpy(),
        "c": net.readout.b.numpy(),
    }
    h0 = np.zeros((B, H))
    if condition == "both":
        h0 = np.tanh(x @ net.bridge.linear.W.numpy() + net.bridge.linear.b.numpy())
    rows = [oracle.vector_to_sequence(p, x[b], labels[:, b], h0[b]) for b in range(B)]
    c, state = net.begin(mg.Tensor(x))
    close(state, h0)
    copies = [leaf(c.numpy()) for _ in range(T)]  # of x R, each used at one step
    os, y = [], net.start(B)
    for t in range(T):
        o, (_, state) = net(y, (copies[t], state))
        os.append(o)
        y = mg.Tensor(labels[t])
    close(mg.stack(os), np.stack([row["o"] for row in rows], axis=1))
    per_step = gradients(F.cross_entropy(mg.stack(os), labels, reduction="sum"), copies)
    value = -mg.sum(net.log_probability(labels, mg.Tensor(x)))
    close(value, sum(row["loss"] for row in rows))
    [dR] = gradients(value, net.R)
    close(dR, sum(x.T @ g for g in per_step))
    if condition == "input":
        close(dR, sum(row["R"] for row in rows).T)


@lecture("B9", "gradients")
@lecture("B2", "as B9")
@pytest.mark.parametrize("condition", ["input", "state", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_three_ways_of_conditioning_pass_gradcheck(backend, kind, condition):
    rng = np.random.default_rng(8)
    net = decoder(kind, condition, rng)
    labels, x = rng.integers(0, V, (3, 2)), mg.Tensor(rng.normal(size=(2, Dx)))
    way = [net.R] * (net.R is not None) + (net.bridge.parameters() if net.bridge else [])
    assert len(way) == {"input": 1, "state": 2, "both": 3}[condition]

    def score(x, *values):
        for p, value in zip(way, values, strict=True):
            vars(owner[id(p)][0])[owner[id(p)][1]] = value
        return net.log_probability(labels, x)

    holders = [(net, "R")] + ([(net.bridge.linear, "W"), (net.bridge.linear, "b")] if net.bridge else [])
    owner = {id(vars(o)[name]): (o, name) for o, name in holders}
    assert mg.gradcheck(score, x, *[p.detach() for p in way])


@lecture("B9", "one product")
def test_the_product_with_r_is_made_once(backend):
    net = decoder("gru", "both", np.random.default_rng(9))
    x = leaf(np.random.default_rng(9).normal(size=(B, Dx)))
    c, state = net.begin(x)
    node, y, os = c.node, net.start(B), []
    for _ in range(T):
        o, (c, state) = net(y, (c, state))
        os.append(o)
    nodes = ancestors(mg.stack(os))
    with_R = [n for n in nodes if n.op and n.op.name == "matmul" and net.R.node in n.parents]
    assert with_R == [node]
    assert sum(n.parents.count(node) for n in nodes) == T


@lecture("B9", "captions")
@lecture("B2", "as B9")
@pytest.mark.parametrize("condition", ["input", "state", "both"])
def test_ten_images_and_their_captions_are_learned_exactly(backend, condition):
    rng = np.random.default_rng(10)
    images, captions = mg.Tensor(rng.normal(size=(10, 16))), rng.integers(0, 6, (5, 10))
    mg.random.seed(1)
    net = Decoder(6, 16, rnn.GRUCell(16, 24, dtype="float64"), 24, 16, condition, dtype="float64")
    train(net.parameters(), lambda: -mg.mean(net.log_probability(captions, images)), 60)
    assert (net.greedy(images, 5).numpy() == captions).all()


# --- B10: hidden and output recurrence ------------------------------------------------------------


def hidden_bit(feedback, steps):
    """The loss a sequence on y(t) = x(t) xor r, over all x of 3 bits and both r."""
    strings = np.array(list(itertools.product([0, 1], repeat=4))).T
    x, labels = strings[:3], strings[:3] ^ strings[3]
    xs = mg.Tensor(2.0 * x[..., None] - 1)
    mg.random.seed(2)
    if feedback:
        ys = mg.Tensor(2 * np.eye(2)[labels] - 1)
        cell = OutputFeedback(rnn.RNNCell(3, 12, dtype="float64"), nn.Linear(12, 2, dtype="float64"))
        run = lambda: forcing.run(cell, xs, ys)[0]  # noqa: E731
        parameters = cell.parameters()
    else:
        hidden, readout = rnn.RNNCell(1, 12, dtype="float64"), nn.Linear(12, 2, dtype="float64")
        run = lambda: readout(unroll(hidden, xs)[0])  # noqa: E731
        parameters = hidden.parameters() + readout.parameters()
    total = lambda: 3 * F.cross_entropy(run(), labels)  # noqa: E731
    return train(parameters, total, steps)


@lecture("B10", "without feedback")
def test_without_feedback_outputs_are_conditionally_independent(backend):
    loss = hidden_bit(False, 150)
    assert 3 * np.log(2) - 1e-12 <= loss <= 1.02 * 3 * np.log(2)


@lecture("B10", "with feedback")
def test_with_feedback_the_first_output_tells_the_others(backend):
    loss = hidden_bit(True, 250)
    assert np.log(2) - 1e-12 <= loss <= 1.02 * np.log(2)

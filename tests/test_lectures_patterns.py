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
    state_size,
    state_vector,
)
from tests.oracles import feedback as oracle
from tests.oracles import onnx_lstm
from tests.oracles.batch import over_batch
from tests.recurrent import (
    KINDS,
    close,
    gradients,
    leaf,
    oracle_parameters,
    random_cell,
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
    """A cell with recurrence through its output, inputs, labels, and these as they are fed."""
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
    cell, xs, _, ys = fed_back("memoryless", rng)
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

    holders = [(net, "R")] + (
        [(net.bridge.linear, "W"), (net.bridge.linear, "b")] if net.bridge else []
    )
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


@pytest.mark.parametrize("languages", [False, True])
def test_no_symbols_have_probability_1(backend, languages):
    rng = np.random.default_rng(21)
    net, x = decoder("gru", "both", rng), mg.Tensor(rng.normal(size=(B, Dx)))
    if languages:
        cell = random_cell("gru", D + 2, H, rng)
        net, x = rnn.MultilingualDecoder(V, D, cell, H, B, 2, dtype="float64"), np.arange(B)
    nothing = np.zeros((0, B), int)
    assert net.logits(nothing, x).shape == (0, B, V)
    assert net.log_probability(nothing, x).tolist() == [0] * B
    assert net.greedy(x, 0).shape == (0, B)


def test_padding_may_hold_what_is_no_symbol(backend):
    rng = np.random.default_rng(22)
    net, x = decoder("gru", "both", rng), mg.Tensor(rng.normal(size=(B, Dx)))
    ys, lengths = rng.integers(0, V, (T, B)), [T, 2, 0]
    padded = np.where(np.arange(T)[:, None] < lengths, ys, 99)
    found = net.log_probability(padded, x, lengths=lengths)
    same_bits(found, net.log_probability(ys, x, lengths=lengths))


def test_bytes_are_symbols_of_a_decoder(backend):
    net, ys = Decoder(256, D, rnn.RNNCell(D, H), H), np.array([[0, 255], [7, 254]])
    same_bits(net.log_probability(ys.astype("uint8")), net.log_probability(ys))


def test_a_decoder_without_dx_takes_no_x(backend):
    net = EncoderDecoder(rnn.Recurrent(rnn.LSTMCell(3, 4)), Decoder(5, 3, rnn.LSTMCell(3, 4), 4))
    xs = mg.ones((T, B, 3))
    with pytest.raises(ValueError, match="Decoder: made without Dx, it takes no x"):
        net.log_probability(xs, [[1] * B])
    with pytest.raises(ValueError, match="Decoder: made without Dx"):
        net.greedy(xs, 2)
    found = net.decoder.greedy(None, 3, batch=2).numpy()
    logits = net.decoder.logits(found).numpy()
    assert (logits.argmax(-1) == found).all()


def test_the_size_of_a_noisy_state_draws_nothing(backend):
    cell = rnn.NoisyState(rnn.RNNCell(D, H), 0.5)
    bridge, before = Bridge(2, cell), mg.random.generator.detach()
    assert state_size(cell) == H
    same_bits(mg.random.generator, before)
    bridge(mg.ones((B, 2)))
    same_bits(mg.random.generator, before)


# --- B10: hidden and output recurrence ------------------------------------------------------------


def hidden_bit(feedback, steps):
    """The loss a sequence on y(t) = x(t) xor r, over all x of 3 bits and both r."""
    strings = np.array(list(itertools.product([0, 1], repeat=4))).T
    x, labels = strings[:3], strings[:3] ^ strings[3]
    xs = mg.Tensor(2.0 * x[..., None] - 1)
    mg.random.seed(2)
    if feedback:
        ys = mg.Tensor(2 * np.eye(2)[labels] - 1)
        cell = OutputFeedback(
            rnn.RNNCell(3, 12, dtype="float64"), nn.Linear(12, 2, dtype="float64")
        )
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


# --- B11: bidirectional ---------------------------------------------------------------------------

LENGTHS = [5, 2, 4]


def two_ways(kind, rng, merge="concat", size=D):
    make = rnn.PeepholeLSTMCell if kind == "peephole" else KINDS[kind].make
    pair = [randomise(make(size, H, dtype="float64"), rng) for _ in range(2)]
    return rnn.Bidirectional(*pair, merge=merge)


@lecture("B11", "both sides")
@pytest.mark.parametrize("kind", [*KINDS, "peephole"])
def test_outputs_see_both_sides(backend, kind):
    rng = np.random.default_rng(11)
    layer, x = two_ways(kind, rng), leaf(rng.normal(size=(T, B, D)))
    for t in range(T):
        ys, _ = layer(x)
        [dx] = gradients(mg.sum(ys[t, 0]), x)
        assert (dx[:, 0] != 0).all()
        assert not dx[:, 1:].any()
        forward, behind = (
            gradients(mg.sum(layer(x)[0][t, 0, :H]), x),
            gradients(mg.sum(layer(x)[0][t, 0, H:]), x),
        )
        assert not forward[0][t + 1 :].any()
        assert not behind[0][:t].any()


@lecture("B11", "ragged")
@pytest.mark.parametrize(
    ("kind", "merge"),
    [*zip([*KINDS, "peephole"], ["ave", "concat", "sum", "mul", None], strict=True)],
)
def test_a_ragged_bidirectional_batch_is_runs_of_its_samples(backend, kind, merge):
    """Two layers; outputs, last states and all gradients; what stands in the padding is nothing."""
    rng = np.random.default_rng(12)
    width = 2 * H if merge == "concat" else H
    layers = [two_ways(kind, rng, merge)]
    if merge is not None:
        layers.append(two_ways(kind, rng, merge, width))
    net = rnn.Layers(layers)
    x = rng.normal(size=(T, B, D))
    join = lambda ys: mg.concatenate(ys, axis=-1) if merge is None else ys  # noqa: E731
    weight = mg.Tensor(rng.normal(size=(T, B, 2 * H if merge is None else width)))

    def run(x, weight, lengths=None):
        ys, state = net(x, lengths=lengths)
        parts = mg.tree.flatten(state)[0]
        return join(ys), parts, mg.sum(join(ys) * weight) + sum(mg.sum(s**2) for s in parts)

    whole = leaf(np.where((np.arange(T)[:, None] < LENGTHS)[..., None], x, np.nan))
    ys, states, loss = run(whole, weight, LENGTHS)
    *found, dx = gradients(loss, net.parameters(), whole)
    total = [np.zeros(p.shape) for p in net.parameters()]
    for b, n in enumerate(LENGTHS):
        alone = leaf(x[:n, b : b + 1])
        own, parts, loss = run(alone, weight[:n, b : b + 1])
        close(ys.numpy()[:n, b : b + 1], own.numpy())
        assert not ys.numpy()[n:, b].any()
        for s, part in zip(states, parts, strict=True):
            close(s.numpy()[b : b + 1], part.numpy())
        *grads, dx_own = gradients(loss, net.parameters(), alone)
        total = [t + g for t, g in zip(total, grads, strict=True)]
        close(dx[:n, b : b + 1], dx_own)
        assert not dx[n:, b].any()
    for ours, expected in zip(found, total, strict=True):
        close(ours, expected)


def transcribed_layers(kind, cells, x):
    """Stacked bidirectional layers as torch has them, by the oracle: y and last states."""
    states = []
    for pair in cells:
        outputs = []
        for cell, turn in zip(pair, (1, -1), strict=True):
            zeros = [np.zeros((x.shape[1], H))] * len(KINDS[kind].parts)
            trace = over_batch(
                KINDS[kind].forward, oracle_parameters(kind, cell), [x[::turn]], zeros
            )
            outputs.append(trace["h"][::turn])
            states.append([trace[part][-1] for part in KINDS[kind].parts])
        x = np.concatenate(outputs, axis=-1)
    return x, states


@lecture("B11", "torch")
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_stacked_bidirectional_layers_transcribed(backend, kind):
    rng = np.random.default_rng(13)
    layers = [two_ways(kind, rng), two_ways(kind, rng, size=2 * H)]
    x = rng.normal(size=(T, B, D))
    ys, state = rnn.Layers(layers)(mg.Tensor(x))
    cells = [(layer.forward, layer.backward) for layer in layers]
    expected, states = transcribed_layers(kind, cells, x)
    close(ys, expected)
    found = [mg.tree.flatten(one)[0] for pair in state for one in pair]
    for ours, parts in zip(found, states, strict=True):
        for s, part in zip(ours, parts, strict=True):
            close(s, part)


@lecture("B11", "torch")
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_stacked_bidirectional_layers_of_torch(backend, kind):
    torch = pytest.importorskip("torch")
    net, cells = torch_layers(torch, kind, D, H, 2, True, seed=3)
    x = np.random.default_rng(14).normal(size=(T, B, D))
    ys, _ = rnn.Layers([rnn.Bidirectional(*pair) for pair in cells])(mg.Tensor(x))
    close(ys, net(torch.tensor(x))[0].detach().numpy())


def onnx_weights(layer):
    """W, R, bias and P of a bidirectional peephole LSTM in ONNX's order i, o, f, c."""
    found = []
    for cell in (layer.forward, layer.backward):
        i, f, g, o = (slice(n * H, (n + 1) * H) for n in range(4))
        order = np.r_[i, o, f, g]
        bias = np.concatenate([cell.b.numpy()[order], np.zeros(4 * H)])
        p_i, p_f, p_o = cell.p.numpy()
        found.append(
            (cell.Wx.numpy().T[order], cell.Wh.numpy().T[order], bias, np.r_[p_i, p_o, p_f])
        )
    return [np.stack(parts) for parts in zip(*found, strict=True)]


def compare_with_onnx(layer, x, lengths, Y, Y_h, Y_c, tolerance):
    ys, (ahead, behind) = layer(mg.Tensor(x), lengths=lengths)
    close(ys, np.concatenate([Y[:, 0], Y[:, 1]], axis=-1), tolerance)
    for d, (h, c) in enumerate((ahead, behind)):
        close(h, Y_h[d], tolerance)
        close(c, Y_c[d], tolerance)


@lecture("B11", "peephole")
@pytest.mark.parametrize("lengths", [[T] * B, LENGTHS, [0, 1, T]])
def test_the_bidirectional_peephole_lstm_by_onnxs_specification(backend, lengths):
    rng = np.random.default_rng(15)
    layer, x = two_ways("peephole", rng), rng.normal(size=(T, B, D))
    expected = onnx_lstm.lstm(x, *onnx_weights(layer), np.array(lengths))
    compare_with_onnx(layer, x, lengths, *expected, 1e-12)


@lecture("B11", "peephole")
def test_the_bidirectional_peephole_lstm_of_onnxruntime(backend):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from onnx import helper

    rng = np.random.default_rng(16)
    layer, x = two_ways("peephole", rng), rng.normal(size=(T, B, D))
    W, R, bias, P = onnx_weights(layer)
    inputs = {"X": x, "W": W, "R": R, "bias": bias, "lens": np.array(LENGTHS), "P": P}
    kinds = dict.fromkeys(inputs, onnx.TensorProto.FLOAT) | {"lens": onnx.TensorProto.INT32}
    values = {
        name: value.astype("int32" if name == "lens" else "float32")
        for name, value in inputs.items()
    }
    node = helper.make_node(
        "LSTM",
        ["X", "W", "R", "bias", "lens", "", "", "P"],
        ["Y", "Y_h", "Y_c"],
        hidden_size=H,
        direction="bidirectional",
    )
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info(n, kinds[n], values[n].shape) for n in inputs],
        [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None)
            for n in ("Y", "Y_h", "Y_c")
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString())
    compare_with_onnx(layer, x, LENGTHS, *session.run(None, values), 1e-6)


# --- B12 (B5): encoder and decoder ----------------------------------------------------------------

ENCODERS = {
    "recurrent": lambda rng: rnn.Recurrent(random_cell("lstm", D, 3, rng)),
    "bidirectional": lambda rng: two_ways("gru", rng),
    "layers": lambda rng: rnn.Layers([two_ways("lstm", rng), random_cell("gru", 2 * H, 2, rng)]),
}
WIDTHS = {"recurrent": 6, "bidirectional": 2 * H, "layers": 4 * H + 2}


@lecture("B12", "log-probability")
@lecture("B5", "as B12")
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_forced_log_probability_is_that_of_the_stepwise_decoder(backend, encoder, kind):
    """Encoders of other sizes, depths and directions than the decoder, both sides ragged."""
    rng = np.random.default_rng(17)
    layer = ENCODERS[encoder](rng)
    net = EncoderDecoder(
        layer,
        randomise(
            Decoder(V, D, random_cell(kind, D, H, rng), H, WIDTHS[encoder], dtype="float64"), rng
        ),
    )
    xs, ys = rng.normal(size=(T, B, D)), rng.integers(0, V, (4, B))
    own, targets = [5, 2, 4], [1, 4, 3]
    found = net.log_probability(mg.Tensor(xs), ys, lengths=own, target_lengths=targets)
    for b, (n, m) in enumerate(zip(own, targets, strict=True)):
        c = net.context(mg.Tensor(xs[:n, b : b + 1]))
        assert c.shape == (1, WIDTHS[encoder])
        state, y, total = net.decoder.begin(c), net.decoder.start(1), 0.0
        for t in range(m):
            o, state = net.decoder(y, state)
            share = np.exp(o.numpy()[0]) / np.exp(o.numpy()[0]).sum()
            total += np.log(share[ys[t, b]])
            y = mg.Tensor(ys[t, b : b + 1])
        close(found[b], total)
    noise = np.where((np.arange(T)[:, None] < own)[..., None], xs, np.nan)
    other = np.where(np.arange(4)[:, None] < targets, ys, (ys + 1) % V)
    again = net.log_probability(mg.Tensor(noise), other, lengths=own, target_lengths=targets)
    same_bits(found, again)


def test_bridges_between_states_of_any_shape(backend):
    """LSTM forwards and a GRU backwards, to a stack of an RNN and an LSTM of other sizes."""
    rng = np.random.default_rng(18)
    pair = rnn.Bidirectional(random_cell("lstm", D, 3, rng), random_cell("gru", D, 5, rng))
    stack = rnn.Stack([random_cell("rnn", D, 2, rng), random_cell("lstm", 2, 4, rng)])
    _, state = pair(mg.Tensor(rng.normal(size=(T, B, D))))
    (h, c), g = state
    vector = state_vector(state)
    close(vector, np.concatenate([h.numpy(), c.numpy(), g.numpy()], axis=-1))
    assert state_size(stack) == 10
    bridge = randomise(Bridge(11, stack, dtype="float64"), rng)
    h1, (h2, c2) = bridge(vector)
    expected = np.tanh(vector.numpy() @ bridge.linear.W.numpy() + bridge.linear.b.numpy())
    for part, columns in ((h1, slice(0, 2)), (h2, slice(2, 6)), (c2, slice(6, 10))):
        close(part, expected[:, columns])
    ys, _ = unroll(stack, mg.Tensor(rng.normal(size=(T, B, D))), bridge(vector))
    assert ys.shape == (T, B, 4)
    assert (np.abs(gradients(mg.sum(ys**2), pair.parameters())[0]) > 0).all()


def fraction_exact(net, xs, ys, **more):
    return (net.greedy(xs, len(ys), **more).numpy() == ys).all(axis=0).mean()


@lecture("B12", "quick")
@lecture("B5", "as B12")
def test_reversal_is_learned_on_strings_never_seen(backend):
    """Strings of 3 of 4 symbols: 48 of 64 are for training; chance is 1 in 64."""
    strings = np.array(list(itertools.product(range(4), repeat=3))).T
    order = np.random.default_rng(19).permutation(64)
    seen, unseen = strings[:, order[:48]], strings[:, order[48:]]
    mg.random.seed(3)
    net = EncoderDecoder(
        rnn.Recurrent(rnn.GRUCell(8, 24, dtype="float64")),
        Decoder(4, 8, rnn.GRUCell(8, 24, dtype="float64"), 24, 24, dtype="float64"),
        embed=nn.Embedding(4, 8, dtype="float64"),
    )
    loss = lambda: -mg.mean(net.log_probability(mg.Tensor(seen), seen[::-1].copy()))  # noqa: E731
    assert train(net.parameters(), loss, 100, 0.02) < 0.3
    assert fraction_exact(net, mg.Tensor(unseen), unseen[::-1]) > 0.5


@lecture("B12", "quick")
def test_dates_are_normalised(backend):
    """Day and month (a word), in either order and without a leading zero, to MM-DD."""
    day_first, month_first = [], []
    for month, day in itertools.product(range(12), range(1, 21)):
        digits = [int(d) for d in str(day)]
        day_first.append([*digits, 10 + month])
        month_first.append([10 + month, *digits])
    written = day_first + month_first
    lengths = np.array([len(w) for w in written])
    xs = np.array([w + [22] * (3 - len(w)) for w in written]).T
    dates = list(itertools.product(range(1, 13), range(1, 21))) * 2
    ys = np.array([[m // 10, m % 10, d // 10, d % 10] for m, d in dates]).T
    order = np.random.default_rng(20).permutation(len(dates))
    seen, unseen = order[:400], order[400:]
    mg.random.seed(4)
    net = EncoderDecoder(
        rnn.Recurrent(rnn.GRUCell(12, 24, dtype="float64")),
        Decoder(10, 12, rnn.GRUCell(12, 24, dtype="float64"), 24, 24, dtype="float64"),
        embed=nn.Embedding(23, 12, dtype="float64"),
    )
    score = lambda: fraction_exact(  # noqa: E731
        net, mg.Tensor(xs[:, unseen]), ys[:, unseen], lengths=lengths[unseen]
    )
    before = score()
    train(
        net.parameters(),
        lambda: (
            -mg.mean(
                net.log_probability(mg.Tensor(xs[:, seen]), ys[:, seen], lengths=lengths[seen])
            )
        ),
        50,
        0.03,
    )
    assert before < 0.05
    assert score() > 0.4

"""Rows D of the lectures: training techniques."""

import copy

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad import nn
from minigrad_rnn import unroll
from tests.oracles import vanilla
from tests.recurrent import KINDS, close, gradients, leaf, plain_for, random_cell, randomise

lecture = pytest.mark.lecture
T, D, H, V = 6, 2, 4, 3


# --- D1: backpropagation through time ------------------------------------------------------------


def book_run(seed):
    """One sequence through the book's net: parameters, data, modules, and h, o, loss recorded."""
    rng = np.random.default_rng(seed)
    shapes = {"U": (H, D), "W": (H, H), "V": (V, H), "b": (H,), "c": (V,)}
    p = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x, labels, h0 = rng.normal(size=(T, D)), rng.integers(0, V, T), rng.normal(size=H)
    cell, head = rnn.RNNCell(D, H, dtype="float64"), nn.Linear(H, V, dtype="float64")
    cell.load_state_dict({"Wx": p["U"].T, "Wh": p["W"].T, "b": p["b"]})
    head.load_state_dict({"W": p["V"].T, "b": p["c"]})
    hs, _ = plain_for(cell, mg.Tensor(x[:, None]), leaf(h0[None]))
    os = [head(h) for h in hs]
    loss = sum(F.cross_entropy(o, labels[t : t + 1]) for t, o in enumerate(os))
    return p, (x, labels, h0), (cell, head), hs, os, loss


@lecture("D1", "transcription")
def test_the_gradient_is_the_literal_transcription(backend):
    p, data, (cell, head), _, os, loss = book_run(1)
    expected = vanilla.backward(p, *data)
    for t, nabla_o in enumerate(mg.pullback(loss, os)):
        close(nabla_o[0], expected["nabla_o"][t])  # 10.18
    found = gradients(loss, head.b, cell.b, head.W, cell.Wh, cell.Wx)
    for ours, name in zip(found, ["c", "b", "V", "W", "U"], strict=True):  # 10.22-10.28
        close(ours, expected[name].T if name in "VWU" else expected[name])


@lecture("D1", "each step")
def test_the_gradient_at_every_state_is_shown(backend, capsys):
    """Three ways to see it: as gradients of recorded tensors, by hooks, and step by step."""
    p, data, _, hs, _, loss = book_run(2)
    expected = vanilla.backward(p, *data)["nabla_h"]
    pulled = mg.pullback(loss, hs)
    hooked = {}
    for t, h in enumerate(hs):
        h.register_hook(lambda g, t=t: hooked.__setitem__(t, g.numpy()[0]))
    places = {h.node: t for t, h in enumerate(hs)}
    stepped = {}
    for step in loss.backward_steps():
        if step.node in places:
            t = places[step.node]
            stepped[t] = step.incoming.numpy()[0]
            print(f"t = {t + 1}: nabla_h L = {np.array2string(stepped[t], precision=6)}")
    for t in range(T):
        for ours in (pulled[t][0], hooked[t], stepped[t]):
            close(ours, expected[t])
    assert list(stepped) == list(reversed(range(T)))  # from the last step to the first
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == T
    assert shown[0].startswith(f"t = {T}: nabla_h L = [")


@lecture("D1", "order of 10.21")
def test_the_order_in_the_recursion_for_h(backend):
    """W^T diag(1 - h^2) nabla, and not W^T nabla diag(1 - h^2), as early printings have it."""
    p, _, _, hs, os, loss = book_run(3)
    nabla_h = [g.numpy()[0] for g in mg.pullback(loss, hs)]
    nabla_o = [g.numpy()[0] for g in mg.pullback(loss, os)]
    for t in range(T - 1):
        h = hs[t + 1].numpy()[0]
        direct = p["V"].T @ nabla_o[t]
        right = p["W"].T @ np.diag(1 - h**2) @ nabla_h[t + 1] + direct
        wrong = np.diag(1 - h**2) @ p["W"].T @ nabla_h[t + 1] + direct
        close(nabla_h[t], right)
        assert np.abs(nabla_h[t] - wrong).max() > 1e-3


# --- D2: shared weights by generic traversal ------------------------------------------------------


def summed(modules):
    """The sum of corresponding gradients of modules with the same parameters."""
    return [
        sum(np.zeros(p.shape) if p.grad is None else p.grad.numpy() for p in same)
        for same in zip(*(m.parameters() for m in modules), strict=True)
    ]


@lecture("D2", "over time")
@pytest.mark.parametrize("kind", KINDS)
def test_one_weight_at_every_step(backend, kind):
    rng = np.random.default_rng(4)
    cell = random_cell(kind, 3, 3, rng)
    copies = [copy.deepcopy(cell) for _ in range(T)]
    xs = mg.Tensor(rng.normal(size=(T, 2, 3)))
    state = cell.initial_state(2)
    for own, x in zip(copies, xs, strict=True):
        y, state = own(x, state)
    mg.sum(y**2).backward()
    shared, _ = unroll(cell, xs)
    found = gradients(mg.sum(shared[-1] ** 2), cell.parameters())
    for ours, expected in zip(found, summed(copies), strict=True):
        close(ours, expected)


@lecture("D2", "layers")
@pytest.mark.parametrize("kind", KINDS)
def test_one_weight_tied_across_layers(backend, kind):
    rng = np.random.default_rng(5)
    cell = random_cell(kind, 3, 3, rng)
    tied, untied = rnn.Stack([cell] * 3), rnn.Stack([copy.deepcopy(cell) for _ in range(3)])
    assert len(tied.parameters()) == len(cell.parameters())
    xs, weight = mg.Tensor(rng.normal(size=(T, 2, 3))), rng.normal(size=(T, 2, 3))
    ours, theirs = (unroll(stack, xs)[0] for stack in (tied, untied))
    close(ours, theirs.numpy(), 0)
    mg.sum(theirs * mg.Tensor(weight)).backward()
    found = gradients(mg.sum(ours * mg.Tensor(weight)), cell.parameters())
    for gradient, expected in zip(found, summed(untied.cells), strict=True):
        close(gradient, expected)


@lecture("D2", "encoder and decoder")
@pytest.mark.parametrize("kind", KINDS)
def test_one_weight_tied_across_encoder_and_decoder(backend, kind):
    rng = np.random.default_rng(6)
    cell = random_cell(kind, 3, 3, rng)
    pair = [copy.deepcopy(cell) for _ in range(2)]
    xs = mg.Tensor(rng.normal(size=(T, 2, 3)))

    def translate(encoder, decoder):
        _, context = unroll(encoder, xs)
        y, ys = mg.ones((2, 3), dtype="float64"), []
        for _ in range(4):  # another length than the input's, fed with its own outputs
            y, context = decoder(y, context)
            ys.append(y)
        return mg.sum(mg.stack(ys) ** 2)

    translate(*pair).backward()
    found = gradients(translate(cell, cell), cell.parameters())
    for ours, expected in zip(found, summed(pair), strict=True):
        close(ours, expected)


@lecture("D2", "embedding and softmax")
def test_one_weight_tied_as_embedding_and_as_softmax(backend):
    rng = np.random.default_rng(7)
    cell = random_cell("gru", 3, 3, rng)
    ids, labels = rng.integers(0, 5, (T, 2)), rng.integers(0, 5, (T, 2))
    values = rng.normal(size=(5, 3))

    def loss(rows, columns):
        hs, _ = unroll(cell, rows[mg.Tensor(ids)])
        return F.cross_entropy(hs @ columns.T, labels)

    E, rows, columns = leaf(values), leaf(values), leaf(values)
    apart = gradients(loss(rows, columns), rows, columns)
    [tied] = gradients(loss(E, E), E)
    close(tied, apart[0] + apart[1])
    assert all(g.any() for g in apart)


# --- D5: minibatches -----------------------------------------------------------------------------

LENGTHS = [4, 1, 6, 3]


def batch(kind, seed):
    """A model, and its per-token losses (T, B) or (T, 1) for all rows or for one alone."""
    rng = np.random.default_rng(seed)
    cell = random_cell(kind, D, H, rng)
    head = randomise(nn.Linear(H, V, dtype="float64"), rng)
    xs, labels = rng.normal(size=(6, 4, D)), rng.integers(0, V, (6, 4))
    parameters = cell.parameters() + head.parameters()

    def together():
        ys, _ = unroll(cell, mg.Tensor(xs), lengths=LENGTHS)
        return head(ys), labels

    def alone(b):
        n = LENGTHS[b]
        ys, _ = unroll(cell, mg.Tensor(xs[:n, b : b + 1]))
        return gradients(F.cross_entropy(head(ys), labels[:n, b : b + 1]), parameters)

    mask = np.arange(6)[:, None] < np.array(LENGTHS)
    return parameters, together, alone, mask


@lecture("D5", "per token")
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_tokens_weights_samples_by_their_tokens(backend, kind):
    parameters, together, alone, mask = batch(kind, 8)
    logits, labels = together()
    found = gradients(F.cross_entropy(logits, labels, mask=mask), parameters)
    per_sample = [alone(b) for b in range(4)]
    for i, ours in enumerate(found):
        weighted = sum(n * grads[i] for n, grads in zip(LENGTHS, per_sample, strict=True))
        close(ours, weighted / sum(LENGTHS))


@lecture("D5", "per sequence")
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_per_sequence_weights_samples_equally(backend, kind):
    parameters, together, alone, mask = batch(kind, 9)
    logits, labels = together()
    losses = F.cross_entropy(logits, labels, mask=mask, reduction="none")
    loss = mg.mean(mg.sum(losses, axis=0) / mg.Tensor(LENGTHS, dtype="float64"))
    found = gradients(loss, parameters)
    per_sample = [alone(b) for b in range(4)]
    for i, ours in enumerate(found):
        close(ours, sum(grads[i] for grads in per_sample) / 4)

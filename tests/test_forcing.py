"""Teacher forcing and its mixtures (row D4), and the language-model loss (row D14)."""

import itertools

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad import nn
from minigrad_rnn import forcing, unroll
from minigrad_rnn.patterns import Decoder, HiddenLayer, OutputFeedback, likeliest, sampled
from tests.recurrent import KINDS, close, gradients, leaf, random_cell, randomise

lecture = pytest.mark.lecture
T, B, D, H, V = 5, 3, 2, 4, 3
ALL = ["memoryless", *KINDS]


def net(kind, rng, feed=F.softmax):
    size = D + V
    cell = (
        randomise(HiddenLayer(size, H, dtype="float64"), rng)
        if kind == "memoryless"
        else random_cell(kind, size, H, rng)
    )
    return OutputFeedback(cell, randomise(nn.Linear(H, V, dtype="float64"), rng), feed)


def data(rng, steps=T, rows=B):
    labels = rng.integers(0, V, (steps, rows))
    return mg.Tensor(rng.normal(size=(steps, rows, D))), labels, mg.Tensor(np.eye(V)[labels])


def by_hand(cell, xs, ys, use):
    """Step by step: where use[t, b], row b of step t sees y[t-1], else its own output before."""
    state, os = cell.initial_state(xs.shape[1]), []
    for t in range(len(xs)):
        if t:
            inner, fed = state
            rows = [ys[t - 1, b] if use[t, b] else fed[b] for b in range(xs.shape[1])]
            state = inner, mg.stack(rows)
        o, state = cell(xs[t], state)
        os.append(o)
    return mg.stack(os)


# --- D4 ------------------------------------------------------------------------------------------


@lecture("D4", "chain rule")
@pytest.mark.parametrize("kind", ALL)
def test_the_likelihood_under_forcing_is_the_product_of_conditionals(backend, kind):
    """All 27 strings of 3 at once: a joint distribution, whose conditionals are softmax(o(t))."""
    rng = np.random.default_rng(1)
    cell, x = net(kind, rng), rng.normal(size=(3, 1, D))
    strings = np.array(list(itertools.product(range(V), repeat=3)))
    labels = strings.T
    xs = mg.Tensor(np.repeat(x, 27, axis=1))
    os, _ = forcing.run(cell, xs, mg.Tensor(np.eye(V)[labels]))
    nats = F.cross_entropy(os, labels, reduction="none").numpy()
    joint = np.exp(-nats.sum(axis=0)).reshape(V, V, V)
    assert joint.sum() == pytest.approx(1, abs=1e-12)
    share = F.softmax(os).numpy().reshape(3, V, V, V, V)
    for first, second in itertools.product(range(V), repeat=2):
        close(share[0, first, second, 0], joint.sum(axis=(1, 2)))
        close(share[1, first, second, 0], joint[first].sum(axis=1) / joint[first].sum())
        close(share[2, first, second, 0], joint[first, second] / joint[first, second].sum())


def step_by_step_gradients(cell, xs, labels, ys, carry):
    """The sum of the gradients of each step alone: the state that it starts from is a constant."""
    state, total = cell.initial_state(B), None
    for t in range(T):
        state = mg.tree.map(lambda s: s.detach(), state)
        if t:
            state = state[0], ys[t - 1]
        o, state = cell(xs[t], state)
        found = gradients(F.cross_entropy(o, labels[t], reduction="sum"), cell.parameters())
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
    return total


@lecture("D4", "output recurrence")
@lecture("D4", "hidden recurrence")
@pytest.mark.parametrize("kind", ALL)
def test_forcing_frees_from_going_back_in_time_unless_states_do(backend, kind):
    """The whole gradient is the sum of single steps' with recurrence through the output alone."""
    rng = np.random.default_rng(2)
    cell = net(kind, rng)
    xs, labels, ys = data(rng)
    os, _ = forcing.run(cell, xs, ys)
    whole = gradients(F.cross_entropy(os, labels, reduction="sum"), cell.parameters())
    single = step_by_step_gradients(cell, xs, labels, ys, None)
    apart = max(np.abs(a - b).max() for a, b in zip(whole, single, strict=True))
    if kind == "memoryless":
        assert apart < 1e-12
    else:
        assert apart > 1e-3  # it needs both: true outputs, and the way back through the states
        dx, dy = leaf(xs.numpy()), leaf(ys.numpy())
        os, _ = forcing.run(cell, dx, dy)
        for g in gradients(mg.sum(os[-1, 0]), dx, dy):
            assert (g[: T - 1, 0] != 0).all()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_mixture_is_the_loop_by_hand(backend, kind, share):
    """Teacher forcing, free running, and a fixed ratio; values and all gradients."""
    rng = np.random.default_rng(3)
    cell = net(kind, rng)
    xs, labels, ys = data(rng)
    key = mg.random.key(7)
    use = mg.random.bernoulli(key, (T, B), share).numpy()
    os, _ = forcing.run(cell, xs, ys, share, key=key)
    expected = by_hand(cell, xs, ys, use)
    close(os, expected.numpy())
    found = [gradients(F.cross_entropy(o, labels), cell.parameters()) for o in (os, expected)]
    for ours, g in zip(*found, strict=True):
        close(ours, g)
    assert use.mean() == share if share != 0.5 else 0 < use.mean() < 1


def test_free_running_back_propagates_where_its_feed_does(backend):
    for feed, reaches in ((F.softmax, True), (likeliest, False), (sampled, False)):
        rng = np.random.default_rng(4)
        cell = net("memoryless", rng, feed)
        xs, _, ys = data(rng)
        x = leaf(xs.numpy())
        os, _ = forcing.run(cell, x, ys, 0.0)
        [dx] = gradients(mg.sum(os[-1, 0]), x)
        assert dx[-1, 0].all()
        assert dx[0, 0].any() == reaches


def test_free_running_is_unroll(backend):
    rng = np.random.default_rng(5)
    cell = net("gru", rng)
    xs, _, ys = data(rng)
    close(forcing.run(cell, xs, ys, 0.0)[0], unroll(cell, xs)[0].numpy())
    nothing = OutputFeedback(
        random_cell("gru", V, H, rng), randomise(nn.Linear(H, V, dtype="float64"), rng)
    )
    os, _ = forcing.run(nothing, None, ys)
    state, expected = nothing.initial_state(B), []
    for t in range(T):
        if t:
            state = state[0], ys[t - 1]
        o, state = nothing(None, state)
        expected.append(o)
    close(os, mg.stack(expected).numpy())


def test_the_outputs_of_a_ragged_batch_are_those_of_its_rows(backend):
    rng = np.random.default_rng(6)
    cell, lengths = net("lstm", rng), [5, 2, 4]
    xs, _, ys = data(rng)
    os, _ = forcing.run(cell, xs, ys, lengths=lengths)
    for b, n in enumerate(lengths):
        alone, _ = forcing.run(cell, xs[:n, b : b + 1], ys[:n, b : b + 1])
        close(os[:n, b : b + 1], alone.numpy())


def test_feeds_are_one_hot(backend):
    o = mg.Tensor([[0.0, 3.0, 1.0], [50.0, 0.0, 0.0]], dtype="float64")
    assert likeliest(o).tolist() == [[0, 1, 0], [1, 0, 0]]
    drawn = sampled(mg.broadcast_to(o[0], (4000, 3)))
    close(drawn.numpy().mean(axis=0), F.softmax(o[0]).numpy(), 0.05)
    assert set(drawn.numpy().sum(axis=1)) == {1.0}
    assert drawn.dtype == o.dtype


def test_the_share_falls_from_update_to_update():
    assert [forcing.linear_decay(i, 1.2, 0.5, 0.1) for i in range(4)] == pytest.approx(
        [1.0, 0.7, 0.2, 0.1]
    )
    assert forcing.exponential_decay(3, 0.5) == 0.125
    assert forcing.inverse_sigmoid_decay(0, 10) == pytest.approx(10 / 11)
    assert forcing.inverse_sigmoid_decay(100, 10) == pytest.approx(10 / (10 + np.exp(10)))
    assert forcing.inverse_sigmoid_decay(10**6, 10) < 1e-300
    with pytest.raises(ValueError, match=r"share=1.5: give a number in \[0, 1\]"):
        forcing.run(None, None, None, 1.5)


# --- D14: the language-model loss -----------------------------------------------------------------


def language(kind, rng):
    """A Decoder that is conditioned on nothing: P(y(1), ..., y(T))."""
    made = Decoder(4, D, random_cell(kind, D, H, rng), H, dtype="float64")
    return randomise(made, rng, 1.0)


@lecture("D14", "normalised")
@pytest.mark.parametrize("kind", KINDS)
def test_the_probabilities_of_all_strings_sum_to_one(backend, kind):
    model = language(kind, np.random.default_rng(7))
    strings = np.array(list(itertools.product(range(4), repeat=6))).T
    with mg.no_grad():
        total = mg.sum(mg.exp(model.log_probability(strings))).item()
    assert strings.shape == (6, 4**6)
    assert total == pytest.approx(1, abs=1e-12)


@lecture("D14", "scorer")
@pytest.mark.parametrize("kind", KINDS)
def test_the_scorer_is_the_negative_loss(backend, kind):
    """Of a ragged batch, and of each string alone by the chain rule, one symbol after another."""
    rng = np.random.default_rng(8)
    model, ys, lengths = language(kind, rng), rng.integers(0, 4, (6, B)), [6, 0, 3]
    scores = model.log_probability(ys, lengths=lengths)
    mask = np.arange(6)[:, None] < lengths
    loss = F.cross_entropy(model.logits(ys, lengths=lengths), ys, mask=mask, reduction="sum")
    close(mg.sum(scores), -loss.item())
    for b, n in enumerate(lengths):
        state, y, total = model.initial_state(1), model.start(1), 0.0
        for t in range(n):
            o, state = model(y, state)
            total += np.log(F.softmax(o).numpy()[0, ys[t, b]])
            y = mg.Tensor(ys[t, b : b + 1])
        close(scores[b], total)
    with pytest.raises(ValueError, match="condition='all': give one of input, state, both"):
        Decoder(4, D, rnn.RNNCell(D, H), H, 2, "all")

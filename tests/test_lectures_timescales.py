"""Rows D12 and D13 of the lectures: leaky units, delays through time, a clockwork.

Shapes: T time, B batch, D input, H hidden.
"""

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad_rnn import unroll
from minigrad_rnn.timescales import leaky_groups
from tests.catalogue import compare, make
from tests.recurrent import close, gradients, leaf, randomise

lecture = pytest.mark.lecture
T, B, D, H = 6, 2, 3, 4


def identity(x):
    return x


# --- D12: leaky units ----------------------------------------------------------------------------


def impulse(cell, value, steps):
    """What units without recurrent weights answer to one input at t = 0: (steps, H), over f(x)."""
    cell.load_state_dict({"Wh": np.zeros(cell.Wh.shape), "b": np.zeros(cell.H)}, strict=False)
    xs = np.zeros((steps, 1, D))
    xs[0] = value
    ys, _ = unroll(cell, mg.Tensor(xs))
    return ys.numpy()[:, 0] / np.tanh(value @ cell.Wx.numpy())


@lecture("D12", "impulse")
@pytest.mark.parametrize("way", ["fixed", "sampled", "learned"])
def test_the_impulse_response_is_a_decaying_power(backend, way):
    rng, rates = np.random.default_rng(1), np.array([0.1, 0.5, 0.9, 0.99])
    if way == "fixed":
        cell = rnn.LeakyCell(D, H, list(rates), dtype="float64")
    elif way == "learned":
        cell = rnn.LeakyCell(D, H, "learned", start=list(rates), dtype="float64")
    else:
        mg.random.seed(5)
        cell = rnn.LeakyCell(D, H, "sampled", dtype="float64")
        rates = cell.alpha.numpy()
        assert len(set(rates)) == H
        assert ((rates >= 0) & (rates < 1)).all()
    found = impulse(cell, rng.normal(size=D), steps=20)
    close(found, rates ** np.arange(20)[:, None] * (1 - rates))


@lecture("D12", "impulse")
def test_how_a_leak_is_stored(backend):
    """Fixed and sampled leaks are buffers, saved but not trained; a learned one is a parameter."""
    for alpha in (0.5, "sampled"):
        cell = rnn.LeakyCell(D, H, alpha)
        assert "fixed" in cell.state_dict()
        assert {name for name, _ in cell.named_parameters()} == {"Wx", "Wh", "b"}
    assert rnn.LeakyCell(D, H).alpha_logit.shape == (H,)
    with pytest.raises(ValueError, match="alpha='random': give numbers, 'learned' or 'sampled'"):
        rnn.LeakyCell(D, H, "random")
    with pytest.raises(ValueError, match="alpha"):
        rnn.LeakyCell(D, H, 1.5)
    with pytest.raises(mg.ShapeError, match="alpha: give one number or 4, not 3"):
        rnn.LeakyCell(D, H, [0.1, 0.2, 0.3])


@lecture("D12", "no leak")
def test_without_a_leak_it_is_the_rnn(backend):
    compare("leaky, not at all")
    rng = np.random.default_rng(2)
    cell, usual = rnn.LeakyCell(D, H, 0.0, dtype="float64"), rnn.RNNCell(D, H, dtype="float64")
    cell.load_state_dict(randomise(usual, rng).state_dict(), strict=False)
    xs = mg.Tensor(rng.normal(size=(T, B, D)))
    expected = unroll(usual, xs)[0].numpy()
    close(unroll(cell, xs)[0], expected)
    distances = []
    for rate in (1e-2, 1e-4, 1e-6):  # alpha -> 0
        cell.load_state_dict({"fixed": np.full(H, rate)}, strict=False)
        distances.append(np.abs(unroll(cell, xs)[0].numpy() - expected).max())
    assert 0 < distances[2] < 1e-5
    np.testing.assert_allclose(np.divide(distances[:-1], distances[1:]), 100, rtol=0.1)


@lecture("D12", "gradient")
def test_the_gradient_of_a_leak(backend):
    compare("leaky, learned")
    rng = np.random.default_rng(3)
    cell = randomise(rnn.LeakyCell(D, 2, dtype="float64"), rng)
    xs = mg.Tensor(rng.normal(size=(3, B, D)))
    logit = cell.alpha_logit.detach()

    def f(values):
        cell.alpha_logit = values
        return unroll(cell, xs)[0]

    assert mg.gradcheck(f, logit)


@lecture("D12", "learned")
@pytest.mark.parametrize("start", [0.3, 0.97])
def test_a_learned_leak_moves_to_the_lag_of_the_task(backend, start):
    """The target remembers for 5 steps, alpha = 0.8: from below and above the unit goes there."""
    rng = np.random.default_rng(4)
    cell = rnn.LeakyCell(1, 1, "learned", identity, start=start, bias=False, dtype="float64")
    cell.Wx.assign(np.ones((1, 1)))
    cell.Wh.assign(np.zeros((1, 1)))
    xs, target, h = rng.normal(size=(8, 8, 1)), np.zeros((8, 8, 1)), np.zeros((8, 1))
    for t in range(8):
        h = 0.8 * h + 0.2 * xs[t]
        target[t] = h
    optimizer = mg.optim.Adam([cell.alpha_logit], lr=0.1)
    away = [abs(start - 0.8)]
    for _ in range(60):
        error = unroll(cell, mg.Tensor(xs))[0] - mg.Tensor(target)
        gradients(mg.sum(error**2), cell.parameters())
        optimizer.step()
        away.append(abs(cell.alpha.numpy()[0] - 0.8))
    assert away[5] < away[0]
    assert max(away[-10:]) < 0.04


# --- D13 (i), (iii): delays ----------------------------------------------------------------------


def linear_net(delays, weights):
    """One linear unit with the given weights on the given delays."""
    cell = rnn.DelayCell(1, 1, delays, identity, dtype="float64")
    for parameter, value in zip(cell.parameters(), (1.0, *weights, 0.0), strict=True):
        parameter.assign(np.full(parameter.shape, value))  # Wx, Wh, b
    return cell


def decay(cell, steps):
    """|d h(t + tau) / d x(t)| for tau < steps."""
    x = leaf(np.zeros((steps, 1, 1)))
    ys, _ = unroll(cell, x)
    [gradient] = mg.pullback(mg.sum(ys[-1]), [x])
    return abs(gradient.numpy()[::-1, 0, 0])


@lecture("D13", "skip")
@pytest.mark.parametrize("d", [1, 2, 4, 8])
def test_gradients_decay_with_tau_over_d(backend, d):
    """A linear unit over delay d alone: log |gradient| falls by log(1 / w) in d steps, fitted."""
    steps, w = 33, 0.6
    sizes = decay(linear_net((d,), [w]), steps)
    tau = np.arange(0, steps, d)
    assert not sizes[np.setdiff1d(np.arange(steps), tau)].any()
    slope = np.polyfit(tau, np.log(sizes[tau]), 1)[0]
    np.testing.assert_allclose(slope * d, np.log(w), rtol=1e-10)


@lecture("D13", "skip")
def test_a_skip_beside_the_usual_connection_slows_the_decay(backend):
    """With delays 1 and d the rate is the largest root of z^d = a z^(d-1) + w."""
    a, w, fitted = 0.3, 0.6, []
    for d in (2, 4, 8):
        sizes = decay(linear_net((1, d), [a, w]), 41)
        fitted.append(np.polyfit(np.arange(17, 41), np.log(sizes[17:]), 1)[0])
        root = max(abs(np.roots([1, -a, *[0] * (d - 2), -w])))
        np.testing.assert_allclose(fitted[-1], np.log(root), atol=0.01)
    assert np.log(a) < fitted[0] < fitted[1] < fitted[2] < 0


def test_delays_transcribed(backend):
    compare("delays 1 and 3")
    compare("delays 2 and 3")


def test_without_connections_of_length_one_no_edge_joins_neighbouring_steps(backend):
    """On the recorded graph h(t) reaches h(t+2) and h(t+3), and h(t+1) not at all."""
    cell = make("delays 2 and 3", D, H)
    xs = mg.Tensor(np.random.default_rng(6).normal(size=(5, B, D)))
    first = leaf(np.ones((B, H)))
    zero = mg.zeros((B, H), dtype="float64")
    hs, state = [], (first, zero, zero)
    for x in xs:
        h, state = cell(x, state)
        hs.append(h)
    reached = [rnn.depth.path_length(first, h) for h in hs]
    assert reached == [None, 1, 1, 2, 2]


def test_delays_that_do_not_fit_are_refused(backend):
    for delays in ((), (1, 1), (0, 2)):
        with pytest.raises(ValueError, match="delays"):
            rnn.DelayCell(D, H, delays)


# --- D13 (ii): groups of leaky units -------------------------------------------------------------


@lecture("D13", "leaky groups")
def test_groups_of_leaky_units(backend):
    compare("leaky groups")
    rates = leaky_groups(6, [0.0, 0.9, 0.99])
    assert rates == [0.0, 0.0, 0.9, 0.9, 0.99, 0.99]
    cell = rnn.LeakyCell(D, 6, rates, dtype="float64")
    found = impulse(cell, np.random.default_rng(7).normal(size=D), steps=101)
    half_lives = [int(np.argmax(column < column[0] / 2)) for column in found.T]
    assert half_lives == [1, 1, 7, 7, 69, 69]  # log(1/2) / log(alpha), rounded up
    with pytest.raises(ValueError, match="5 units do not fall into 2 equal groups"):
        leaky_groups(5, [0.1, 0.2])


# --- D13 (iv): clockwork -------------------------------------------------------------------------

PERIODS = (1, 2, 4)


def clockwork(seed):
    rng = np.random.default_rng(seed)
    cell = randomise(rnn.ClockworkCell(D, 6, PERIODS, dtype="float64"), rng)
    return cell, mg.Tensor(rng.normal(size=(9, B, D)))


@lecture("D13", "clockwork")
def test_a_clockwork_transcribed(backend):
    compare("clockwork")


@lecture("D13", "clockwork")
@pytest.mark.parametrize("form", ["cell", "layer"])
def test_idle_groups_keep_every_bit(backend, form):
    cell, xs = clockwork(8)
    ys = (unroll(cell, xs) if form == "cell" else rnn.Clockwork(cell)(xs))[0].numpy()
    for t in range(1, len(ys)):
        for i, period in enumerate(PERIODS):
            group = slice(2 * i, 2 * i + 2)
            same = ys[t, :, group].tobytes() == ys[t - 1, :, group].tobytes()
            assert same == (t % period != 0)


@lecture("D13", "clockwork")
def test_slow_groups_do_not_see_fast_ones(backend):
    """d h_i(t) / d h_j(t-1) is 0 where group j is faster than group i, and not elsewhere."""
    cell, xs = clockwork(9)
    h, t = cell.initial_state(1)
    J = mg.jacobian(lambda h: cell(xs[0, :1], (h, t))[0])(h).numpy()[0, :, 0]
    blocks = (J.reshape(3, 2, 3, 2) != 0).all(axis=(1, 3))
    np.testing.assert_array_equal(blocks, np.triu(np.ones((3, 3), bool)))


@lecture("D13", "clockwork work")
def test_the_layer_leaves_the_work_of_idle_groups_out(backend, monkeypatch):
    """Counted by the shapes of all products: sum over groups of ceil(T / T_i) size (D + slower)."""
    cell, xs = clockwork(10)
    count, plain = [], mg.Tensor.__matmul__
    monkeypatch.setattr(
        mg.Tensor,
        "__matmul__",
        lambda a, b: (count.append(a.shape[0] * a.shape[1] * b.shape[1]), plain(a, b))[1],
    )
    ys, h = rnn.Clockwork(cell)(xs)
    layer = sum(count)
    count.clear()
    expected, (last, _) = unroll(cell, xs)
    whole = sum(count)
    T = len(xs)
    assert whole == T * B * 6 * (D + 6)
    assert layer == B * (9 * 2 * (D + 6) + 5 * 2 * (D + 4) + 3 * 2 * (D + 2)) == B * cell.work(T)
    assert layer < 0.6 * whole
    close(ys, expected.numpy())
    close(h, last.numpy())


@lecture("D13", "clockwork work")
def test_cell_and_layer_are_one_network(backend):
    """Values and gradients on ragged rows; masks and resets need a clock a row, hence the cell."""
    cell, xs = clockwork(11)
    lengths = [5, 9]
    results = []
    for ys in (
        rnn.Clockwork(cell)(xs, lengths=lengths)[0],
        unroll(cell, xs, lengths=lengths)[0],
    ):
        results.append([ys.numpy(), *gradients(mg.sum(ys**2), cell.parameters())])
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)
    with pytest.raises(ValueError, match="Clockwork: with mask or resets unroll the"):
        rnn.Clockwork(cell)(xs, resets=np.zeros((9, B), bool))


def test_a_clock_counts_a_rows_own_real_steps(backend):
    """A row that is reset in the middle, or begins late, is the row alone."""
    cell, xs = clockwork(12)
    resets = np.zeros((9, B), bool)
    resets[3, 1] = True
    ys, _ = unroll(cell, xs, resets=resets)
    close(ys[3:, 1:], unroll(cell, xs[3:, 1:])[0].numpy())
    mask = np.ones((9, B), bool)
    mask[:2, 0] = False
    ys, _ = unroll(cell, xs, mask=mask)
    close(ys[2:, :1], unroll(cell, xs[2:, :1])[0].numpy())
    for periods in ((), (2, 1), (1, 1), (1, 2, 4, 8)):
        with pytest.raises(ValueError, match=r"periods increase|equal groups"):
            rnn.ClockworkCell(D, 6, periods)

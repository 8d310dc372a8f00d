"""Row I11, a time series: the network against autoregression, and what both are made of."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import minigrad as mg
from minigrad.nn import Linear
from minigrad_rnn import BPTT, RTRL, TBPTT, LSTMCell, Readout, Residual, RNNCell, Stack
from minigrad_rnn.series import Autoregression, forecasts, mackey_glass
from tests.recurrent import close

lecture = pytest.mark.lecture

TRAIN, HELD_OUT, CONTEXT, AHEAD = 2000, 600, 100, 20
SEEDS = (0, 1, 2, 3, 4)


# --- the series, and the two predictors, against independent sources ------------------------------


@pytest.mark.parametrize("tau", [5, 17, 30])
def test_the_series_solves_the_equation(backend, tau):
    """x(t+1) - x(t-1) is the integral of the right-hand side, here by Simpson's rule."""
    x = mackey_glass(mg.random.key(0), 300, 3, tau, every=1)
    slope = 0.2 * x[:-tau] / (1 + x[:-tau] ** 10) - 0.1 * x[tau:]
    change = x[tau + 2 :] - x[tau:-2]
    integral = (slope[:-2] + 4 * slope[1:-1] + slope[2:]) / 3
    assert np.abs(change - integral).max() < 6e-4 < np.abs(change).max() / 50


def test_with_its_usual_delay_the_series_never_settles(backend):
    x = mackey_glass(mg.random.key(0), 400, 3)
    assert x.shape == (400, 3) and x.dtype == np.float64
    assert (x > 0.2).all() and (x < 1.5).all() and x.std(axis=0).min() > 0.2
    assert np.abs(x[200:, 0] - x[200:, 1]).max() > 0.3  # other pasts, other futures
    daily = mackey_glass(mg.random.key(0), 60, 3, every=1)
    assert np.array_equal(daily[5::6], x[:10])
    for wrong in ({"T": 0}, {"tau": 0}, {"every": 1.5}):
        with pytest.raises(ValueError, match="give an integer >= 1"):
            mackey_glass(mg.random.key(0), **{"T": 5, "B": 1} | wrong)


def by_brute_force(series, orders):
    """Every order by a least-squares fit of its own; the order and weights of the least AIC."""
    T = len(series)
    y = np.concatenate([column[orders:] for column in series.T])
    fits = []
    for p in range(1, orders + 1):
        lags = [np.concatenate([c[orders - k : T - k] for c in series.T]) for k in range(1, p + 1)]
        X = np.column_stack([np.ones(len(y)), *lags])
        w = np.linalg.lstsq(X, y, rcond=None)[0]
        fits.append((len(y) * np.log(np.mean((y - X @ w) ** 2)) + 2 * (p + 1), p, w))
    return min(fits, key=lambda fit: fit[0])[1:]


@pytest.mark.parametrize("B", [1, 3])
def test_the_order_of_least_aic(B):
    rng = np.random.default_rng(0)
    x = np.zeros((400, B))
    for t in range(3, 400):  # an AR(3) process, whose order is to be found among eight
        x[t] = 0.3 + 0.5 * x[t - 1] - 0.4 * x[t - 2] + 0.3 * x[t - 3] + rng.normal(size=B)
    linear = Autoregression(x, orders=8)
    p, w = by_brute_force(x, 8)
    assert linear.order == p and 3 <= p < 8
    assert np.abs(linear.weights - w).max() < 1e-9
    with pytest.raises(ValueError, match="orders=8: 17 steps allow 1 to 7"):
        Autoregression(x[:17], orders=8)


def test_linear_forecasts_go_on_from_forecasts():
    x = np.random.default_rng(1).normal(size=(60, 2)).cumsum(axis=0)
    linear = Autoregression(x, orders=4)
    p, w = linear.order, linear.weights
    found = linear.forecasts(x, 5)
    assert found.shape == (5, 60, 2)
    assert np.isnan(found[:, : p - 1]).all() and not np.isnan(found[:, p - 1 :]).any()
    for t in (p - 1, 30, 59):
        for b in range(2):
            past = list(x[: t + 1, b])
            for step in range(5):
                past.append(w[0] + sum(w[k] * past[-k] for k in range(1, p + 1)))
                assert abs(past[-1] - found[step, t, b]) < 1e-9


@pytest.mark.parametrize("kind", ["rnn", "stack"])
def test_the_forecasts_of_a_network_by_a_plain_loop(backend, kind):
    """From every start: forced up to it, then fed with what it said."""
    inner = Stack([LSTMCell(1, 3), RNNCell(3, 3)]) if kind == "stack" else RNNCell(1, 3)
    model = Residual(Readout(inner, Linear(3, 1)))
    xs = mg.random.normal(mg.random.key(0), (5, 2, 1))
    found = forecasts(model, xs, 4)
    assert found.shape == (4, 5, 2, 1)
    for t in range(5):
        state = model.initial_state(2)
        for x in xs[: t + 1]:
            y, state = model(x, state)
        for step in range(4):
            close(found[step, t], y.numpy(), 1e-5)
            y, state = model(y, state)


# --- I11 ------------------------------------------------------------------------------------------


def learn(train, seed, H, passes, k, B=20):
    """A tanh network that says the next value, by TBPTT along B pieces of the series."""
    mg.random.seed(seed)
    model = Residual(Readout(RNNCell(1, H), Linear(H, 1)))
    L = (len(train) - 1) // B
    pieces = (x[: L * B].reshape(B, L).T[..., None] for x in (train, train[1:]))
    xs, targets = (mg.Tensor(x.astype("float32")) for x in pieces)
    parameters = model.parameters()
    optimizer = mg.optim.Adam(parameters, lr=0.01)
    decay = mg.optim.CosineSchedule(optimizer, passes * -(-L // k))

    def update(steps, value):
        mg.optim.clip_by_global_norm(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay.step()

    def loss(ys, targets):
        return mg.sum(mg.square(ys - targets)) / (k * B)

    for _ in range(passes):
        TBPTT(k, k)(model, loss, xs, targets, after=update)
    return model


@functools.cache
def compared(backend, seed, H, passes, k):
    """Errors on the held-out part, 1 ... AHEAD ahead, of both predictors; the network's forced."""
    x = mackey_glass(mg.random.key(seed), TRAIN + HELD_OUT, 1)
    x = (x - x[:TRAIN].mean()) / x[:TRAIN].std()
    train, test = x[:TRAIN], x[TRAIN:]
    starts = slice(CONTEXT, HELD_OUT - AHEAD)

    def errors(ahead):
        true = np.stack([test[starts.start + n : starts.stop + n] for n in range(1, AHEAD + 1)])
        return np.sqrt(np.mean((ahead[:, starts] - true) ** 2, axis=(1, 2)))

    ar = errors(Autoregression(train).forecasts(test, AHEAD))
    model = learn(train, seed, H, passes, k)
    ahead = forecasts(model, mg.Tensor(test[..., None].astype("float32")), AHEAD)
    ahead = ahead.numpy()[..., 0]
    late = np.mean((ahead[0, starts.start + AHEAD - 1 : -1] - test[starts.start + AHEAD :]) ** 2)
    return ar, errors(ahead), np.sqrt(late)


@lecture("I11", "forecast")
@pytest.mark.long
def test_five_networks_beat_autoregression_at_horizons_1_and_20(backend):
    for seed in SEEDS:
        ar, net, _ = compared(backend, seed, 32, 40, 20)
        assert net[0] < ar[0] / 4, (seed, net[0], ar[0])
        assert net[19] < ar[19], (seed, net[19], ar[19])


@lecture("I11", "free-running")
@pytest.mark.long
def test_free_running_errors_grow_and_forced_ones_do_not(backend):
    """The forced error is the same 20 steps on; the free-running one has grown by then."""
    for seed in SEEDS:
        _, net, late = compared(backend, seed, 32, 40, 20)
        assert 0.8 < late / net[0] < 1.25
        assert net[19] > net[9] > net[4] > net[0] and net[19] > 3 * net[0]


@pytest.mark.slow
def test_trained_to_the_end_the_networks_err_by_half_as_much(backend):
    for seed in SEEDS:
        ar, net, _ = compared(backend, seed, 32, 150, 20)
        assert net[0] < ar[0] / 8 and net[19] < ar[19] / 2


def test_schedules_say_what_they_are():
    assert (str(BPTT()), str(RTRL())) == ("BPTT()", "RTRL()")
    assert BPTT() == BPTT() != RTRL() and len({BPTT(), BPTT(), RTRL()}) == 2

"""Time series: one to predict, the linear predictor to beat, forecasts many steps ahead.

Letters: T time, B series side by side, D numbers a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import arguments
from minigrad_rnn.compose import EmitState
from minigrad_rnn.unrolling import unroll


def mackey_glass(key: mg.random.Key, T: int, B: int, tau: int = 17, every: int = 6) -> np.ndarray:
    """dx/dt = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x, sampled `every` so often: (T, B).

    Chaotic for tau = 17 (Mackey and Glass 1977). Each series has a constant past, drawn from
    [0.5, 1.5), and is followed for 300 before its first sample. Float64, by Heun's method in steps
    of 1/2. Raises ValueError where T, tau or every is no positive integer.
    """
    T, tau, every = (arguments.size(*pair) for pair in (("T", T), ("tau", tau), ("every", every)))
    x = 0.5 + mg.random.uniform(key, B, dtype="float64").numpy()
    born = [0.2 * x / (1 + x**10)] * (2 * tau + 1)  # what x(t) brings forth at t + tau
    samples = []
    for n in range(1, 600 + 2 * every * T + 1):
        slope = born[n - 1] - 0.1 * x
        x = x + 0.25 * (slope + born[n] - 0.1 * (x + 0.5 * slope))
        born.append(0.2 * x / (1 + x**10))
        if n > 600 and (n - 600) % (2 * every) == 0:
            samples.append(x)
    return np.stack(samples)


class Autoregression:
    """x(t) = w0 + w1 x(t-1) + ... + wp x(t-p), by least squares; p minimises Akaike's criterion.

    Fitted to series (T, B), p = 1, ..., orders, all on the same T - orders steps: AIC = n log(s²) +
    2 (p + 1), s² the mean of n squared residuals (Akaike 1974). `weights` are w0, ..., wp.
    """

    def __init__(self, series: np.ndarray, orders: int = 100) -> None:
        series = np.asarray(series, "float64")
        T = len(series)
        if not 1 <= orders < (T - 1) / 2:
            most = (T - 2) // 2
            raise ValueError(f"orders={orders}: {T} steps allow 1 to {most}")
        past = [series[orders - lag : T - lag].ravel() for lag in range(1, orders + 1)]
        X = np.stack([np.ones_like(past[0]), *past], axis=1)
        y = series[orders:].ravel()
        Q, R = np.linalg.qr(X)  # one for all orders: each column explains what those before left
        explained = Q.T @ y
        left = y @ y - np.cumsum(explained**2)
        p = np.arange(1, orders + 1)
        aic = len(y) * np.log(np.maximum(left[1:], 1e-300) / len(y)) + 2 * (p + 1)
        self.order = int(p[np.argmin(aic)])
        n = self.order + 1
        self.weights = np.linalg.solve(R[:n, :n], explained[:n])

    def forecasts(self, series: np.ndarray, steps: int) -> np.ndarray:
        """1, ..., steps ahead from every step t of series (T, B): (steps, T, B).

        What comes after t stands for itself, as forecast. NaN before order - 1, where the past is
        too short.
        """
        series, steps = np.asarray(series, "float64"), arguments.size("steps", steps)
        T, p = len(series), self.order
        window = [
            np.concatenate([np.full_like(series[:lag], np.nan), series[: T - lag]])
            for lag in range(p)
        ]
        ahead = []
        for _ in range(steps):
            y = self.weights[0] + sum(w * x for w, x in zip(self.weights[1:], window, strict=True))
            ahead.append(y)
            window = [y, *window[:-1]]
        return np.stack(ahead)


def forecasts(model: Any, xs: mg.Tensor, steps: int) -> mg.Tensor:
    """The same of a cell that answers x(t) with x(t+1), for xs (T, B, D): (steps, T, B, D).

    The first is forced: it has seen all true values up to t. The others run free from there, each
    on the one before. All starts are rows of one batch.
    """
    (T, B), steps = xs.shape[:2], arguments.size("steps", steps)
    with mg.no_grad():
        (y, state), _ = unroll(EmitState(model), xs)
        y, state = mg.tree.map(lambda s: s.reshape(T * B, *s.shape[2:]), (y, state))
        ahead = [y]
        for _ in range(steps - 1):
            y, state = model(y, state)
            ahead.append(y)
        return mg.stack(ahead).reshape(steps, *xs.shape)

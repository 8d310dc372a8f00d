"""Nets whose outputs are fed back, and the net from a vector to a sequence; one sequence each.

Recurrence through only the output (Fig 10.4): h(t) = tanh(b + W o(t-1) + U x(t)), o(t) = c +
V h(t), o(0) = 0; under teacher forcing y(t-1) in o(t-1)'s place, y(0) = 0. U (H, D), W (H, V),
V (V, H).

Vector to sequence (Fig 10.9): h(t) = tanh(b + R x + U[:, y(t-1)] + W h(t-1)), o(t) = c + V h(t),
loss = -sum over t of log softmax(o(t))[y(t)]; y(0) is the start symbol, the last column of U.
"""

import numpy as np

Arrays = dict[str, np.ndarray]


def free(p: Arrays, x: np.ndarray) -> Arrays:
    """Return o (T, V), each step fed with the output before."""
    o, os = np.zeros(len(p["c"])), []
    for row in x:
        h = np.tanh(p["b"] + p["W"] @ o + p["U"] @ row)
        o = p["c"] + p["V"] @ h
        os.append(o)
    return {"o": np.array(os)}


def forced(p: Arrays, x: np.ndarray, y: np.ndarray) -> Arrays:
    """Return o (T, V), each step fed with the true output before, y (T, V)."""
    os = []
    for t, row in enumerate(x):
        before = y[t - 1] if t > 0 else np.zeros(len(p["c"]))
        h = np.tanh(p["b"] + p["W"] @ before + p["U"] @ row)
        os.append(p["c"] + p["V"] @ h)
    return {"o": np.array(os)}


def vector_to_sequence(p: Arrays, x: np.ndarray, y: np.ndarray, h0: np.ndarray) -> Arrays:
    """Return o (T, V), the loss, and dR with h(0) held fixed, for a vector x and labels y (T,)."""
    h, hs, os, loss = h0, [], [], 0.0
    for t, label in enumerate(y):
        symbol = y[t - 1] if t > 0 else p["U"].shape[1] - 1
        h = np.tanh(p["b"] + p["R"] @ x + p["U"][:, symbol] + p["W"] @ h)
        hs.append(h)
        os.append(p["c"] + p["V"] @ h)
        loss -= os[-1][label] - np.log(np.exp(os[-1]).sum())
    dR, later = np.zeros_like(p["R"]), np.zeros_like(h0)
    for t in reversed(range(len(y))):
        do = np.exp(os[t]) / np.exp(os[t]).sum()
        do[y[t]] -= 1
        da = (p["V"].T @ do + later) * (1 - hs[t] ** 2)
        dR += np.outer(da, x)
        later = p["W"].T @ da
    return {"o": np.array(os), "loss": np.array(loss), "R": dR}

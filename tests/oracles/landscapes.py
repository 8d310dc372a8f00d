"""The unit of Fig 10.17 and Pascanu's regulariser, written out.

Fig 10.17: x(t) = w sigmoid(x(t-1)) + b, x(0) = 0, E = (sigmoid(x(T)) - 0.7)².

Omega (eq 10.52; Pascanu, Mikolov, Bengio 2013, eq 9), for a net of one sequence:
sum over t of (|g(t) J(t)| / |g(t)| - 1)², g(t) = dL/dh(t), J(t) = dh(t)/dh(t-1), t = 2, ..., T.
Their eq 10, in their parametrisation h(t) = W s(h(t-1)) + U x(t) + b with s = tanh: J(t) = W
diag(s'(h(t-1))), and the published gradient is the "immediate" one: W moves in J(t) alone, while
g(t) and h(t-1) are constants.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-x))


def cliff(w: Any, b: Any, T: int) -> tuple[Any, Any, Any]:
    """Return E, dE/dw and dE/db of the unit after T steps, elementwise."""
    x = dw = db = 0.0 * (w + b)
    for _ in range(T):
        s = sigmoid(x)
        dw, db = s + w * s * (1 - s) * dw, 1 + w * s * (1 - s) * db
        x = w * s + b
    s = sigmoid(x)
    outer = 2 * (s - 0.7) * s * (1 - s)
    return (s - 0.7) ** 2, outer * dw, outer * db


def tanh_states(p: dict[str, np.ndarray], x: np.ndarray, h0: np.ndarray) -> list[np.ndarray]:
    """Return h(0), ..., h(T) of h(t) = tanh(U x(t) + W h(t-1) + b)."""
    h = [h0]
    for row in x:
        h.append(np.tanh(p["U"] @ row + p["W"] @ h[-1] + p["b"]))
    return h


def omega(gs: Sequence[np.ndarray], Js: Sequence[np.ndarray]) -> float:
    """Return Omega of g(2), ..., g(T) and J(2), ..., J(T)."""
    ratios = [np.linalg.norm(g @ J) / np.linalg.norm(g) for g, J in zip(gs, Js, strict=True)]
    return float(sum((ratio - 1) ** 2 for ratio in ratios))


def tanh_omega(
    p: dict[str, np.ndarray], x: np.ndarray, target: np.ndarray, h0: np.ndarray
) -> float:
    """Return Omega of the tanh RNN with the loss sum of (h(t) - target(t))²."""
    h = tanh_states(p, x, h0)
    Js = [np.diag(1 - h[t] ** 2) @ p["W"] for t in range(1, len(h))]
    gs = [2 * (h[-1] - target[-1])]
    for t in reversed(range(1, len(h) - 1)):
        gs.insert(0, 2 * (h[t] - target[t - 1]) + gs[0] @ Js[t])
    return omega(gs[1:], Js[1:])


def published_gradient(
    p: dict[str, np.ndarray], x: np.ndarray, gs: Sequence[np.ndarray], h0: np.ndarray
) -> np.ndarray:
    """Return their d+Omega/dW: gs are the constants g(2), ..., g(T), h(t) = W tanh(h(t-1)) + ..."""
    h, total = h0, np.zeros_like(p["W"])
    for t, row in enumerate(x):
        if t > 0:
            g, slope = gs[t - 1], 1 - np.tanh(h) ** 2
            v = (g @ p["W"]) * slope
            size, scale = np.linalg.norm(v), np.linalg.norm(g)
            total += 2 * (size / scale - 1) * np.outer(g, v * slope) / (size * scale)
        h = p["W"] @ np.tanh(h) + p["U"] @ row + p["b"]
    return total

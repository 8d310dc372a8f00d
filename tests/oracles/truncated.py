"""Truncated backpropagation through time for the tanh RNN, one sequence, by its definition.

h(t) = tanh(U x(t) + W h(t-1) + b). After every k1 steps, and after the last, the gradient of the
losses since the time before is taken through the steps from k2 - k1 before them on: the state that
these start from is a constant. grad_h (T, H) holds the direct dL/dh(t). U (H, D), W (H, H), b (H,).
"""

import numpy as np

Arrays = dict[str, np.ndarray]


def gradients(
    p: Arrays, x: np.ndarray, grad_h: np.ndarray, h0: np.ndarray, k1: int, k2: int
) -> list[Arrays]:
    """Return the gradients of U, W, b and x of every piece."""
    h, T = [h0], len(x)
    for t in range(T):
        h.append(np.tanh(p["U"] @ x[t] + p["W"] @ h[-1] + p["b"]))
    pieces = []
    for start in range(0, T, k1):
        stop = min(start + k1, T)
        first = max(0, start - (k2 - k1))
        g = {name: np.zeros_like(value) for name, value in p.items()} | {"x": np.zeros_like(x)}
        later = np.zeros_like(h0)
        for t in reversed(range(first, stop)):
            direct = grad_h[t] if t >= start else 0.0
            da = (direct + later) * (1 - h[t + 1] ** 2)
            g["U"] += np.outer(da, x[t])
            g["W"] += np.outer(da, h[t])
            g["b"] += da
            g["x"][t] = p["U"].T @ da
            later = p["W"].T @ da
        pieces.append(g)
    return pieces

"""The plain RNN, and CS231n's bias-free one with its output layer.

h' = f(U x + W h + b), f = tanh or relu; the letters are the book's, lectures also swap U and W.
CS231n: h' = tanh(W_hh h + W_xh x), y = W_hy h'. Shapes: x (T, D), h0 (H,); U, W_xh (H, D),
W, W_hh (H, H), b (H,), W_hy (V, H).
"""

import numpy as np

Arrays = dict[str, np.ndarray]


def step(
    parameters: Arrays, x: np.ndarray, state: tuple[np.ndarray], activation: str = "tanh"
) -> tuple[np.ndarray, tuple[np.ndarray]]:
    """Return (h', (h',)) of one step."""
    (h,) = state
    a = parameters["U"] @ x + parameters["W"] @ h + parameters["b"]
    h = {"tanh": np.tanh, "relu": lambda a: np.where(a > 0, a, 0.0)}[activation](a)
    return h, (h,)


def forward(parameters: Arrays, x: np.ndarray, h0: np.ndarray, activation: str = "tanh") -> Arrays:
    """Return h (T, H) of every step."""
    h, rows = h0, []
    for t in range(len(x)):
        h, _ = step(parameters, x[t], (h,), activation)
        rows.append(h)
    return {"h": np.array(rows).reshape(len(x), len(h0))}


def backward(
    parameters: Arrays,
    x: np.ndarray,
    grad_h: np.ndarray,
    h0: np.ndarray,
    activation: str = "tanh",
) -> Arrays:
    """Return the gradients of U, W, b, x and h0; grad_h (T, H) holds the direct dL/dh_t."""
    h = forward(parameters, x, h0, activation)["h"]
    result = {name: np.zeros_like(value) for name, value in parameters.items()}
    result["x"] = np.zeros_like(x)
    later = np.zeros_like(h0)
    for t in reversed(range(len(x))):
        previous = h[t - 1] if t > 0 else h0
        slope = 1 - h[t] ** 2 if activation == "tanh" else np.where(h[t] > 0, 1.0, 0.0)
        da = (grad_h[t] + later) * slope
        result["U"] += np.outer(da, x[t])
        result["W"] += np.outer(da, previous)
        result["b"] += da
        result["x"][t] = parameters["U"].T @ da
        later = parameters["W"].T @ da
    return {**result, "h0": later}


def cs231n_forward(parameters: Arrays, x: np.ndarray, h0: np.ndarray) -> Arrays:
    """Return h (T, H) and y (T, V) of CS231n's vanilla RNN, which has no bias."""
    h, hs, ys = h0, [], []
    for t in range(len(x)):
        h = np.tanh(parameters["W_hh"] @ h + parameters["W_xh"] @ x[t])
        hs.append(h)
        ys.append(parameters["W_hy"] @ h)
    outputs = len(parameters["W_hy"])
    return {
        "h": np.array(hs).reshape(len(x), len(h0)),
        "y": np.array(ys).reshape(len(x), outputs),
    }


def cs231n_backward(
    parameters: Arrays, x: np.ndarray, grad_y: np.ndarray, h0: np.ndarray
) -> Arrays:
    """Return the gradients of W_hh, W_xh, W_hy, x and h0; grad_y (T, V) holds dL/dy_t."""
    h = cs231n_forward(parameters, x, h0)["h"]
    result = {name: np.zeros_like(value) for name, value in parameters.items()}
    result["x"] = np.zeros_like(x)
    later = np.zeros_like(h0)
    for t in reversed(range(len(x))):
        previous = h[t - 1] if t > 0 else h0
        result["W_hy"] += np.outer(grad_y[t], h[t])
        da = (parameters["W_hy"].T @ grad_y[t] + later) * (1 - h[t] ** 2)
        result["W_hh"] += np.outer(da, previous)
        result["W_xh"] += np.outer(da, x[t])
        result["x"][t] = parameters["W_xh"].T @ da
        later = parameters["W_hh"].T @ da
    return {**result, "h0": later}

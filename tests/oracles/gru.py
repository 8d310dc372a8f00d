"""The GRU with its reset after or before the product, and hand-written gradients.

    r = sigma(U_r x + W_r h + b_r)    z = sigma(U_z x + W_z h + b_z)
    after:   n = tanh(U_n x + b_n + r * (W_n h + bh_n))    (torch.nn.GRU, Keras reset_after=True)
    before:  n = tanh(U_n x + b_n + W_n (r * h))           (Cho et al. 2014; ONNX's
                                                            linear_before_reset=0)
    h' = (1 - z) * n + z * h

Shapes: x (T, D), h0 (H,); U_k (H, D), W_k (H, H), b_k (H,) for k in r, z, n; bh_n (H,), after only.
"""

import numpy as np

Arrays = dict[str, np.ndarray]
GATES = ("r", "z", "n")


def sigmoid(a: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-a)), by way of tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * a))


def gates_after(parameters: Arrays, x: np.ndarray, h: np.ndarray) -> Arrays:
    """Return r, z, n and q = W_n h + bh_n, each (H,), at one step, reset after the product."""
    p = parameters
    r = sigmoid(p["U_r"] @ x + p["W_r"] @ h + p["b_r"])
    z = sigmoid(p["U_z"] @ x + p["W_z"] @ h + p["b_z"])
    q = p["W_n"] @ h + p["bh_n"]
    n = np.tanh(p["U_n"] @ x + p["b_n"] + r * q)
    return {"r": r, "z": z, "n": n, "q": q}


def gates_before(parameters: Arrays, x: np.ndarray, h: np.ndarray) -> Arrays:
    """Return r, z, n and q = r * h, each (H,), at one step, reset before the product."""
    p = parameters
    r = sigmoid(p["U_r"] @ x + p["W_r"] @ h + p["b_r"])
    z = sigmoid(p["U_z"] @ x + p["W_z"] @ h + p["b_z"])
    q = r * h
    n = np.tanh(p["U_n"] @ x + p["b_n"] + p["W_n"] @ q)
    return {"r": r, "z": z, "n": n, "q": q}


def step_after(
    parameters: Arrays, x: np.ndarray, state: tuple[np.ndarray]
) -> tuple[np.ndarray, tuple[np.ndarray]]:
    """Return (h', (h',)) of one step, reset after the product."""
    (h,) = state
    k = gates_after(parameters, x, h)
    h = (1 - k["z"]) * k["n"] + k["z"] * h
    return h, (h,)


def step_before(
    parameters: Arrays, x: np.ndarray, state: tuple[np.ndarray]
) -> tuple[np.ndarray, tuple[np.ndarray]]:
    """Return (h', (h',)) of one step, reset before the product."""
    (h,) = state
    k = gates_before(parameters, x, h)
    h = (1 - k["z"]) * k["n"] + k["z"] * h
    return h, (h,)


def forward_after(parameters: Arrays, x: np.ndarray, h0: np.ndarray) -> Arrays:
    """Return h (T, H) of every step, reset after the product."""
    h, rows = h0, []
    for t in range(len(x)):
        h, _ = step_after(parameters, x[t], (h,))
        rows.append(h)
    return {"h": np.array(rows).reshape(len(x), len(h0))}


def forward_before(parameters: Arrays, x: np.ndarray, h0: np.ndarray) -> Arrays:
    """Return h (T, H) of every step, reset before the product."""
    h, rows = h0, []
    for t in range(len(x)):
        h, _ = step_before(parameters, x[t], (h,))
        rows.append(h)
    return {"h": np.array(rows).reshape(len(x), len(h0))}


def backward_after(parameters: Arrays, x: np.ndarray, grad_h: np.ndarray, h0: np.ndarray) -> Arrays:
    """Return the gradients of parameters, x and h0; grad_h (T, H) holds the direct dL/dh_t."""
    p = parameters
    h = forward_after(p, x, h0)["h"]
    result = {name: np.zeros_like(value) for name, value in p.items()}
    result["x"] = np.zeros_like(x)
    later = np.zeros_like(h0)
    for t in reversed(range(len(x))):
        previous = h[t - 1] if t > 0 else h0
        k = gates_after(p, x[t], previous)
        r, z, n, q = k["r"], k["z"], k["n"], k["q"]
        dh = grad_h[t] + later
        da_n = dh * (1 - z) * (1 - n**2)
        da_z = dh * (previous - n) * z * (1 - z)
        da_r = da_n * q * r * (1 - r)
        dq = da_n * r
        result["U_r"] += np.outer(da_r, x[t])
        result["U_z"] += np.outer(da_z, x[t])
        result["U_n"] += np.outer(da_n, x[t])
        result["W_r"] += np.outer(da_r, previous)
        result["W_z"] += np.outer(da_z, previous)
        result["W_n"] += np.outer(dq, previous)
        result["b_r"] += da_r
        result["b_z"] += da_z
        result["b_n"] += da_n
        result["bh_n"] += dq
        result["x"][t] = p["U_r"].T @ da_r + p["U_z"].T @ da_z + p["U_n"].T @ da_n
        later = dh * z + p["W_r"].T @ da_r + p["W_z"].T @ da_z + p["W_n"].T @ dq
    return {**result, "h0": later}


def backward_before(
    parameters: Arrays, x: np.ndarray, grad_h: np.ndarray, h0: np.ndarray
) -> Arrays:
    """Return the gradients of parameters, x and h0; grad_h (T, H) holds the direct dL/dh_t."""
    p = parameters
    h = forward_before(p, x, h0)["h"]
    result = {name: np.zeros_like(value) for name, value in p.items()}
    result["x"] = np.zeros_like(x)
    later = np.zeros_like(h0)
    for t in reversed(range(len(x))):
        previous = h[t - 1] if t > 0 else h0
        k = gates_before(p, x[t], previous)
        r, z, n, q = k["r"], k["z"], k["n"], k["q"]
        dh = grad_h[t] + later
        da_n = dh * (1 - z) * (1 - n**2)
        da_z = dh * (previous - n) * z * (1 - z)
        dq = p["W_n"].T @ da_n
        da_r = dq * previous * r * (1 - r)
        result["U_r"] += np.outer(da_r, x[t])
        result["U_z"] += np.outer(da_z, x[t])
        result["U_n"] += np.outer(da_n, x[t])
        result["W_r"] += np.outer(da_r, previous)
        result["W_z"] += np.outer(da_z, previous)
        result["W_n"] += np.outer(da_n, q)
        result["b_r"] += da_r
        result["b_z"] += da_z
        result["b_n"] += da_n
        result["x"][t] = p["U_r"].T @ da_r + p["U_z"].T @ da_z + p["U_n"].T @ da_n
        later = dh * z + dq * r + p["W_r"].T @ da_r + p["W_z"].T @ da_z
    return {**result, "h0": later}

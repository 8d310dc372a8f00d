"""The standard LSTM and its hand-written gradient (Hochreiter & Schmidhuber 1997, Gers 2000).

    i = sigma(U_i x + W_i h + b_i)    f = sigma(U_f x + W_f h + b_f)
    g = tanh (U_g x + W_g h + b_g)    o = sigma(U_o x + W_o h + b_o)
    c' = f * c + i * g                h' = o * tanh(c')

Shapes: x (T, D), h0, c0 (H,); U_k (H, D), W_k (H, H), b_k (H,) for k in i, f, g, o.
"""

import numpy as np

Arrays = dict[str, np.ndarray]
GATES = ("i", "f", "g", "o")


def sigmoid(a: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-a)), by way of tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * a))


def gates(parameters: Arrays, x: np.ndarray, h: np.ndarray) -> Arrays:
    """Return the four gates i, f, g, o (H,) at one step."""
    values = {}
    for k in GATES:
        a = parameters[f"U_{k}"] @ x + parameters[f"W_{k}"] @ h + parameters[f"b_{k}"]
        values[k] = np.tanh(a) if k == "g" else sigmoid(a)
    return values


def step(
    parameters: Arrays, x: np.ndarray, state: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return (h', (h', c')) of one step from x (D,) and (h, c)."""
    h, c = state
    k = gates(parameters, x, h)
    c = k["f"] * c + k["i"] * k["g"]
    h = k["o"] * np.tanh(c)
    return h, (h, c)


def forward(parameters: Arrays, x: np.ndarray, h0: np.ndarray, c0: np.ndarray) -> Arrays:
    """Return h, c and the gates i, f, g, o of every step, each (T, H)."""
    trace: dict[str, list[np.ndarray]] = {name: [] for name in ("h", "c", *GATES)}
    h, c = h0, c0
    for t in range(len(x)):
        for k, value in gates(parameters, x[t], h).items():
            trace[k].append(value)
        _, (h, c) = step(parameters, x[t], (h, c))
        trace["h"].append(h)
        trace["c"].append(c)
    return {name: np.array(rows).reshape(len(x), len(h0)) for name, rows in trace.items()}


def backward(
    parameters: Arrays,
    x: np.ndarray,
    grad_h: np.ndarray,
    grad_c: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
) -> Arrays:
    """Return the gradients of every parameter, of x (T, D), h0 and c0.

    grad_h and grad_c (T, H) are the loss's direct derivatives by h_t and c_t; what reaches them
    through later steps is added here.
    """
    trace = forward(parameters, x, h0, c0)
    result = {name: np.zeros_like(value) for name, value in parameters.items()}
    result["x"] = np.zeros_like(x)
    later_h, later_c = np.zeros_like(h0), np.zeros_like(c0)
    for t in reversed(range(len(x))):
        h_previous = trace["h"][t - 1] if t > 0 else h0
        c_previous = trace["c"][t - 1] if t > 0 else c0
        i, f, g, o = (trace[k][t] for k in GATES)
        tanh_c = np.tanh(trace["c"][t])
        dh = grad_h[t] + later_h
        dc = grad_c[t] + later_c + dh * o * (1 - tanh_c**2)
        da = {
            "i": dc * g * i * (1 - i),
            "f": dc * c_previous * f * (1 - f),
            "g": dc * i * (1 - g**2),
            "o": dh * tanh_c * o * (1 - o),
        }
        later_c = dc * f
        later_h = np.zeros_like(h0)
        for k in GATES:
            result[f"U_{k}"] += np.outer(da[k], x[t])
            result[f"W_{k}"] += np.outer(da[k], h_previous)
            result[f"b_{k}"] += da[k]
            result["x"][t] += parameters[f"U_{k}"].T @ da[k]
            later_h = later_h + parameters[f"W_{k}"].T @ da[k]
    return {**result, "h0": later_h, "c0": later_c}

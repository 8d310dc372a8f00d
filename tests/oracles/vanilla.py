"""The book's recurrent net and its hand-written gradients (Deep Learning, eq 10.8-10.28).

Shapes: x (T, D), labels (T,), h0 (H,); U (H, D), W (H, H), V (V, H), b (H,), c (V,).
"""

import numpy as np

Arrays = dict[str, np.ndarray]


def softmax(o: np.ndarray) -> np.ndarray:
    """softmax(o)_i = exp(o_i) / sum_j exp(o_j), shifted by max(o), which changes nothing."""
    e = np.exp(o - o.max())
    return e / e.sum()


def forward(parameters: Arrays, x: np.ndarray, labels: np.ndarray, h0: np.ndarray) -> Arrays:
    """Run eq 10.8-10.14 over one sequence: a, h (T, H), o, yhat (T, V), losses (T,) and loss."""
    U, W, V, b, c = (parameters[name] for name in ("U", "W", "V", "b", "c"))
    a, h, o, yhat, losses = [], [], [], [], []
    previous = h0
    for t in range(len(x)):
        a.append(b + W @ previous + U @ x[t])  # 10.8
        h.append(np.tanh(a[t]))  # 10.9
        o.append(c + V @ h[t])  # 10.10
        yhat.append(softmax(o[t]))  # 10.11
        shifted = o[t] - o[t].max()  # log yhat without log(0) for large o
        losses.append(-(shifted[labels[t]] - np.log(np.exp(shifted).sum())))  # 10.14
        previous = h[t]
    return {
        "a": np.array(a),
        "h": np.array(h),
        "o": np.array(o),
        "yhat": np.array(yhat),
        "losses": np.array(losses),
        "loss": np.array(sum(losses)),  # 10.12-10.13
    }


def backward(parameters: Arrays, x: np.ndarray, labels: np.ndarray, h0: np.ndarray) -> Arrays:
    """Run eq 10.17-10.28: gradients of the summed loss.

    Returns nabla_o (T, V), nabla_h (T, H), the parameters' U, W, V, b, c, the inputs' x and h0,
    and U_uses, W_uses, V_uses (T, ...), each step's own contribution to a shared matrix (10.25).
    Eq 10.21 is taken in its right order, W^T diag(1 - h^2) nabla; early printings swap the first
    two factors.
    """
    U, W, V = parameters["U"], parameters["W"], parameters["V"]
    steps = len(x)
    trace = forward(parameters, x, labels, h0)
    h, yhat = trace["h"], trace["yhat"]

    nabla_o = np.zeros_like(yhat)
    for t in range(steps):
        for i in range(yhat.shape[1]):
            nabla_o[t, i] = yhat[t, i] - (1.0 if i == labels[t] else 0.0)  # 10.18

    nabla_h = np.zeros_like(h)
    for t in reversed(range(steps)):
        nabla_h[t] = V.T @ nabla_o[t]  # 10.19, all there is at the last step
        if t + 1 < steps:
            nabla_h[t] += W.T @ np.diag(1 - h[t + 1] ** 2) @ nabla_h[t + 1]  # 10.21

    gradients = {name: np.zeros_like(parameters[name]) for name in ("c", "b", "V", "W", "U")}
    uses: dict[str, list[np.ndarray]] = {"V": [], "W": [], "U": []}
    x_gradient = np.zeros_like(x)
    for t in range(steps):
        previous = h[t - 1] if t > 0 else h0
        nabla_a = np.diag(1 - h[t] ** 2) @ nabla_h[t]
        uses["V"].append(np.outer(nabla_o[t], h[t]))
        uses["W"].append(np.outer(nabla_a, previous))
        uses["U"].append(np.outer(nabla_a, x[t]))
        gradients["c"] += nabla_o[t]  # 10.22
        gradients["b"] += nabla_a  # 10.23
        gradients["V"] += uses["V"][t]  # 10.24
        gradients["W"] += uses["W"][t]  # 10.25-10.26
        gradients["U"] += uses["U"][t]  # 10.27-10.28
        x_gradient[t] = U.T @ nabla_a
    h0_gradient = np.zeros_like(h0)
    if steps:
        h0_gradient = W.T @ np.diag(1 - h[0] ** 2) @ nabla_h[0]
    return {
        "nabla_o": nabla_o,
        "nabla_h": nabla_h,
        **gradients,
        "x": x_gradient,
        "h0": h0_gradient,
        **{f"{name}_uses": np.array(parts) for name, parts in uses.items()},
    }

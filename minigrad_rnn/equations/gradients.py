"""The gradient through time, and what becomes of its norm (eq 10.17-10.28, 10.36-10.52)."""

from __future__ import annotations

import numpy as np

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.graph import label
from minigrad_rnn.equations.case import F8, Case, D, H, T, V, draw, equation, named, softmax
from minigrad_rnn.vanishing import omega as package_omega


@equation("D1 C2")
def bptt(rng: np.random.Generator) -> Case:
    r"""Back-propagation through time ("Backpropagation through time", eq 10.17-10.28), read off the
    graph that pullback records.

    a^{(t)} = b + W h^{(t-1)} + U x^{(t)}
    h^{(t)} = \tanh(a^{(t)})
    o^{(t)} = c + V h^{(t)}
    \nabla_{o^{(t)}} L = \textit{softmax}(o^{(t)}) - y^{(t)}
    \nabla_{h^{(\tau)}} L = V^{\top} \nabla_{o^{(\tau)}} L
    \nabla_{h^{(t)}} L = W^{\top} \operatorname{diag}(1 - (h^{(t+1)})^2) \nabla_{h^{(t+1)}} L
        + V^{\top} \nabla_{o^{(t)}} L \qquad t = \tau-1, \dots, 1
    \nabla_{a^{(t)}} L = \operatorname{diag}(1 - (h^{(t)})^2) \nabla_{h^{(t)}} L
    \nabla_b L = \sum_t \nabla_{a^{(t)}} L
    \nabla_c L = \sum_t \nabla_{o^{(t)}} L
    \nabla_U L = \sum_t \nabla_{a^{(t)}} L x^{(t)\top}
    \nabla_V L = \sum_t \nabla_{o^{(t)}} L h^{(t)\top}
    \nabla_W L = \sum_t \nabla_{a^{(t)}} L h^{(t-1)\top}
    """

    def program(xs, h, ys, b, c, U, Vh, W):
        loss, places = 0.0, []
        for x, y in zip(xs, ys, strict=True):
            a = label(b + W @ h + U @ x, "a")
            h = label(mg.tanh(a), "h")
            o = label(c + Vh @ h, "o")
            loss = loss + mg.log(mg.sum(mg.exp(o))) - mg.sum(y * o)
            places += [o, h, a]
        names = [f"{name}^{{({t})}}" for t in range(1, T + 1) for name in "oha"]
        gradients = mg.pullback(loss, [*places, b, c, U, Vh, W])
        for name, gradient in zip([*names, *"bcUVW"], gradients, strict=True):
            label(gradient, rf"\nabla_{{{name}}} L" if len(name) > 1 else rf"\nabla_{name} L")

    def reference(xs, h, ys, b, c, U, Vh, W):
        hs, outputs = [h], []
        for x in xs:
            a = b + W @ hs[-1] + U @ x
            hs.append(np.tanh(a))
            outputs.append(c + Vh @ hs[-1])
            yield {"a": a, "h": hs[-1], "o": outputs[-1]}
        totals, back = dict.fromkeys("bcUVW", 0.0), np.zeros((H, 1))
        for t in range(T, 0, -1):
            g_o = softmax(outputs[t - 1]) - ys[t - 1]
            g_h = back + Vh.T @ g_o
            g_a = np.diagflat(1 - hs[t] ** 2) @ g_h
            back = W.T @ g_a
            yield {
                rf"\nabla_{{{k}^{{({t})}}}} L": g for k, g in (("o", g_o), ("h", g_h), ("a", g_a))
            }
            terms = (g_a, g_o, g_a @ xs[t - 1].T, g_o @ hs[t].T, g_a @ hs[t - 1].T)
            totals = {
                k: total + term for (k, total), term in zip(totals.items(), terms, strict=True)
            }
        yield {rf"\nabla_{name} L": total for name, total in totals.items()}

    shapes = {"x": (T, D, 1), "h^{(0)}": (H, 1), "y": (), "b": (H, 1), "c": (V, 1), "U": (H, D)}
    return Case(program, reference, draw(rng, shapes | {"V": (V, H), "W": (H, H)}), folded=False)


@equation("D10")
def linear(rng: np.random.Generator) -> Case:
    r"""The linear recurrence ("Vanishing (and Exploding) Gradient Problem", eq 10.36-10.39), for W
    symmetric and W = Q \Lambda Q^\top.

    h^{(t)} = W^{\top} h^{(t-1)}
    h^{(t)} = (W^t)^{\top} h^{(0)}
    h^{(t)} = Q \Lambda^t Q^{\top} h^{(0)}
    """
    inputs = draw(rng, {"h^{(0)}": (H, 1), "W": (H, H)})
    inputs["W"].assign(inputs["W"] + inputs["W"].T)
    values, Q = np.linalg.eigh(inputs["W"].numpy())

    def program(h, W):
        for _ in range(T):
            h = label(W.T @ h, "h")

    def reference(h, W):
        for t in range(1, T + 1):
            yield {"h": Q @ np.diag(values**t) @ Q.T @ h}

    constants = {"Q": Q, r"\Lambda": np.diag(values)}
    return Case(program, reference, inputs, constants=constants)


@equation("D6")
def clip(rng: np.random.Generator) -> Case:
    r"""Gradient clipping ("Vanishing/Exploding Gradients", "Gradient Clipping", eq 10.48, 10.49),
    with \epsilon = v = 1.

    g = \min(1, \frac{\epsilon}{|\nabla L|}) \nabla L
    g = \begin{cases} \frac{v \nabla L}{|\nabla L|} & |\nabla L| > v \\
        \nabla L & \text{otherwise} \end{cases}
    """
    parameter = named(r"\theta", np.zeros(D))
    inputs = draw(rng, {r"\nabla L": (D,)})
    (gradient,) = inputs.values()
    gradient.assign(gradient * (4.0 if rng.integers(2) else 0.1))

    def program(g):
        parameter.grad = g
        mg.optim.clip_by_global_norm([parameter], 1.0, error_if_nonfinite=False)
        label(parameter.grad, "g")

    def reference(g):
        yield {"g": g / np.linalg.norm(g) if np.linalg.norm(g) > 1 else g}

    return Case(program, reference, inputs, constants={r"\epsilon": 1.0, "v": 1.0})


@equation("D8")
def omega(rng: np.random.Generator) -> Case:
    r"""The regulariser for vanishing gradients ("How to deal with vanishing gradients?", eq
    10.50-10.52), its exact mode, for L = \sum_t |h(t)|^2; J is \partial h(t) / \partial h(t-1).

    h^{(t)} = \tanh(W h^{(t-1)} + U x^{(t)})
    J^{(t)} = \operatorname{diag}(1 - (h^{(t)})^2) W
    \nabla_{h^{(\tau)}} L = 2 h^{(\tau)}
    \nabla_{h^{(t)}} L = 2 h^{(t)} + J^{(t+1)\top} \nabla_{h^{(t+1)}} L \qquad t = \tau-1, \dots, 1
    \Omega = \sum_{t=2}^{\tau} (\frac{|J^{(t)\top} \nabla_{h^{(t)}} L|}{|\nabla_{h^{(t)}} L|} - 1)^2
    """
    cell = rnn.RNNCell(D, H, bias=False, **F8)
    for p, name in ((cell.Wx, "U"), (cell.Wh, "W")):
        p.assign(rng.normal(size=p.shape))
        p.name = name
    U, W = cell.Wx.numpy(), cell.Wh.numpy()

    def program(xs, h):
        label(package_omega(cell, lambda ys: mg.sum(ys * ys), xs, h)[1], r"\Omega")

    def reference(xs, h):
        hs = [h]
        for x in xs:
            hs.append(np.tanh(x @ U + hs[-1] @ W))
        g, total = 2 * hs[-1], 0.0
        for t in range(T, 1, -1):
            back = (g * (1 - hs[t] ** 2)) @ W.T
            total += (np.linalg.norm(back) / np.linalg.norm(g) - 1) ** 2
            g = back + 2 * hs[t - 1]
        yield {r"\Omega": total}

    inputs = draw(rng, {"x": (T, 1, D), "h^{(0)}": (1, H)})
    return Case(program, reference, inputs, folded=False, constants={"U": U, "W": W})

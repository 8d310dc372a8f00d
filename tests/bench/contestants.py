"""The same user-written LSTM in each library; one process each, driven through stdin by eager.py.

Each builds `step(arrays) -> (loss, gradients)`: forward, loss = mean(y^2), backward, no optimizer.
Shapes: xs (T, B, D), Wx (D, 4H), Wh (H, 4H), b (4H,); gates i, f, g, o; float32.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import Arrays, serve

Step = Callable[[], tuple[float, list[Any]]]
WEIGHTS = ("Wx", "Wh", "b")


def minigrad(arrays: Arrays) -> Step:
    import minigrad as mg

    xs = mg.Tensor(arrays["xs"])
    weights = [mg.nn.Parameter(arrays[name]) for name in WEIGHTS]
    H = arrays["Wh"].shape[0]

    def cell(x: Any, state: Any) -> Any:
        h, c = state
        i, f, g, o = mg.split(x @ weights[0] + h @ weights[1] + weights[2], 4, axis=-1)
        c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
        h = mg.sigmoid(o) * mg.tanh(c)
        return h, (h, c)

    def step() -> tuple[float, list[Any]]:
        state = (mg.zeros((xs.shape[1], H)), mg.zeros((xs.shape[1], H)))
        ys = []
        for x in xs:
            y, state = cell(x, state)
            ys.append(y)
        loss = (mg.stack(ys) ** 2).mean()
        for w in weights:
            w.grad = None
        loss.backward()
        return loss.item(), [w.grad.numpy() for w in weights]

    return step


def minigrad_numba(arrays: Arrays) -> Step:
    os.environ["MINIGRAD_BACKEND"] = "numba"
    return minigrad(arrays)


def torch(arrays: Arrays) -> Step:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    xs = torch.tensor(arrays["xs"])
    weights = [torch.tensor(arrays[name], requires_grad=True) for name in WEIGHTS]
    H = arrays["Wh"].shape[0]

    def cell(x: Any, state: Any) -> Any:
        h, c = state
        i, f, g, o = torch.chunk(x @ weights[0] + h @ weights[1] + weights[2], 4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)

    def step() -> tuple[float, list[Any]]:
        state = (torch.zeros(xs.shape[1], H), torch.zeros(xs.shape[1], H))
        ys = []
        for x in xs:
            y, state = cell(x, state)
            ys.append(y)
        loss = (torch.stack(ys) ** 2).mean()
        for w in weights:
            w.grad = None
        loss.backward()
        return loss.item(), [w.grad.numpy() for w in weights]

    return step


def autograd(arrays: Arrays) -> Step:
    import autograd.numpy as anp
    from autograd import value_and_grad

    xs, H = arrays["xs"], arrays["Wh"].shape[0]
    half = np.float32(0.5)

    def sigmoid(x: Any) -> Any:
        return half * anp.tanh(half * x) + half

    def loss(weights: Any) -> Any:
        Wx, Wh, b = weights
        h = c = np.zeros((xs.shape[1], H), np.float32)
        ys = []
        for x in xs:
            a = anp.dot(x, Wx) + anp.dot(h, Wh) + b
            i, f, g, o = (a[:, k * H : (k + 1) * H] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * anp.tanh(g)
            h = sigmoid(o) * anp.tanh(c)
            ys.append(h)
        return anp.mean(anp.stack(ys) ** 2)

    both = value_and_grad(loss)
    weights = tuple(arrays[name] for name in WEIGHTS)

    def step() -> tuple[float, list[Any]]:
        value, gradients = both(weights)
        return float(value), list(gradients)

    return step


def mygrad(arrays: Arrays) -> Step:
    import mygrad as mgr

    xs, H = arrays["xs"], arrays["Wh"].shape[0]
    weights = [mgr.tensor(arrays[name]) for name in WEIGHTS]

    def sigmoid(x: Any) -> Any:
        return 0.5 * mgr.tanh(0.5 * x) + 0.5

    def step() -> tuple[float, list[Any]]:
        h = c = np.zeros((xs.shape[1], H), np.float32)
        ys = []
        for x in xs:
            a = mgr.matmul(x, weights[0]) + mgr.matmul(h, weights[1]) + weights[2]
            i, f, g, o = (a[:, k * H : (k + 1) * H] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * mgr.tanh(g)
            h = sigmoid(o) * mgr.tanh(c)
            ys.append(h)
        loss = (mgr.stack(ys) ** 2).mean()
        loss.backward()
        return float(loss), [w.grad for w in weights]

    return step


def by_hand(arrays: Arrays) -> Step:
    """Forward and backward written out in NumPy: what the array calls alone cost."""
    xs, Wx, Wh, b = (arrays[name] for name in ("xs", *WEIGHTS))
    T, B, _ = xs.shape
    H = Wh.shape[0]

    def sigmoid(x: Any) -> Any:
        return 0.5 * np.tanh(0.5 * x) + 0.5

    def step() -> tuple[float, list[Any]]:
        h = c = np.zeros((B, H), np.float32)
        kept = []
        for x in xs:
            a = x @ Wx + h @ Wh + b
            i, f, o = sigmoid(a[:, :H]), sigmoid(a[:, H : 2 * H]), sigmoid(a[:, 3 * H :])
            g = np.tanh(a[:, 2 * H : 3 * H])
            new = f * c + i * g
            t = np.tanh(new)
            kept.append((x, h, c, i, f, g, o, t))
            h, c = o * t, new
        ys = np.stack([k[6] * k[7] for k in kept])
        loss = np.mean(ys**2)
        dys = ys * np.float32(2 / ys.size)
        dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(b)
        dh, dc = np.zeros((B, H), np.float32), np.zeros((B, H), np.float32)
        for n in reversed(range(T)):
            x, h, c, i, f, g, o, t = kept[n]
            dh = dh + dys[n]
            dc = dc + dh * o * (1 - t * t)
            da = np.concatenate(
                [
                    dc * g * i * (1 - i),
                    dc * c * f * (1 - f),
                    dc * i * (1 - g * g),
                    dh * t * o * (1 - o),
                ],
                axis=1,
            )
            dc = dc * f
            dh = da @ Wh.T
            dWx += x.T @ da
            dWh += h.T @ da
            db += da.sum(axis=0)
        return float(loss), [dWx, dWh, db]

    return step


def main(name: str, path: str) -> None:
    step = globals()[name](dict(np.load(path)))

    def check() -> Arrays:
        loss, gradients = step()
        return {"loss": np.asarray(loss), **dict(zip(WEIGHTS, gradients, strict=True))}

    serve(step, check)


if __name__ == "__main__":
    main(*sys.argv[1:])

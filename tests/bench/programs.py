"""An LSTM as its user writes it, in each library: what lstm.py times, one process each.

    python tests/bench/programs.py NAME FILE TASK

Tasks: `train` is forward, loss = mean(y^2) and the gradients of all parameters, readable
afterwards; `infer` forward alone; `stack` two layers, a readout and cross-entropy; `adam` is train
with an update by Adam. Arrays of FILE: xs (T, B, D); a layer's Wx (D, 4H), Wh (H, 4H), b (4H,),
gates i, f, g, o; for `stack` also V (H, K), c (K,) and targets (T, B); float32.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import Arrays, serve

RATE = 1e-3  # of Adam
Step = Callable[[], Any]  # -> the loss, or ys
Build = Callable[[Arrays, str], tuple[Step, Callable[[Any], Arrays]]]


def layer_names(arrays: Arrays) -> list[tuple[str, str, str]]:
    return [(f"Wx{k}", f"Wh{k}", f"b{k}") for k in range(2) if f"Wx{k}" in arrays]


def parameter_names(arrays: Arrays) -> list[str]:
    return sorted(set(arrays) - {"xs", "targets"})


# --- minigrad ------------------------------------------------------------------------------------


def minigrad(arrays: Arrays, task: str) -> tuple[Step, Callable[[Any], Arrays]]:
    """The user's program; MINIGRAD_BACKEND and MINIGRAD_COMPILE say how it runs."""
    import minigrad as mg

    class LSTM:
        def __init__(self, Wx: Any, Wh: Any, b: Any) -> None:
            self.Wx, self.Wh, self.b = Wx, Wh, b

        def initial_state(self, batch: int) -> Any:
            H = self.Wh.shape[0]
            return mg.zeros((batch, H)), mg.zeros((batch, H))

        def __call__(self, x: Any, state: Any) -> Any:
            h, c = state
            i, f, g, o = mg.split(x @ self.Wx + h @ self.Wh + self.b, 4, axis=-1)
            c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
            h = mg.sigmoid(o) * mg.tanh(c)
            return h, (h, c)

    weights = {name: mg.nn.Parameter(arrays[name]) for name in parameter_names(arrays)}
    cells = [LSTM(*(weights[name] for name in names)) for names in layer_names(arrays)]
    optimizer = mg.optim.Adam(list(weights.values()), lr=RATE)

    def forward(xs: Any) -> Any:
        states = [cell.initial_state(xs.shape[1]) for cell in cells]
        ys = []
        for x in xs:
            for k, cell in enumerate(cells):
                x, states[k] = cell(x, states[k])
            ys.append(x)
        return mg.stack(ys)

    def loss_of(xs: Any, targets: Any) -> Any:
        ys = forward(xs)
        if task != "stack":
            return (ys**2).mean()
        return mg.functional.cross_entropy(ys @ weights["V"] + weights["c"], targets)

    @mg.compile
    def train(xs: Any, targets: Any) -> Any:
        loss = loss_of(xs, targets)
        optimizer.zero_grad()
        loss.backward()
        if task == "adam":
            optimizer.step()
        return loss

    infer = mg.compile(forward)
    xs = mg.Tensor(arrays["xs"])
    targets = mg.Tensor(arrays["targets"]) if task == "stack" else None

    def step() -> Any:
        if task != "infer":
            return train(xs, targets)
        with mg.no_grad():
            return infer(xs)

    def read(y: Any) -> Arrays:
        if task == "infer":
            return {"ys": y.numpy()}
        return {"loss": y.numpy(), **{k: w.grad.numpy() for k, w in weights.items()}}

    return step, read


# --- PyTorch -------------------------------------------------------------------------------------


def _torch_weights(arrays: Arrays) -> Any:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return {k: torch.tensor(arrays[k], requires_grad=True) for k in parameter_names(arrays)}


def _torch_step(
    forward: Callable[[Any], Any], weights: list[Any], readout: Any, arrays: Arrays, task: str
) -> Step:
    import torch

    xs = torch.tensor(arrays["xs"])
    targets = torch.tensor(arrays["targets"]).reshape(-1) if task == "stack" else None
    adam = torch.optim.Adam(weights, lr=RATE)

    def step() -> Any:
        if task == "infer":
            with torch.no_grad():
                return forward(xs)
        ys = forward(xs)
        if task == "stack":
            V, c = readout
            logits = (ys @ V + c).reshape(-1, V.shape[1])
            loss = torch.nn.functional.cross_entropy(logits, targets)
        else:
            loss = (ys**2).mean()
        for w in weights:
            w.grad = None
        loss.backward()
        if task == "adam":
            adam.step()
        return loss

    return step


def torch(arrays: Arrays, task: str) -> tuple[Step, Callable[[Any], Arrays]]:
    """torch.nn.LSTM, which runs oneDNN's kernels."""
    import torch

    ours, layers = _torch_weights(arrays), layer_names(arrays)
    (D, _), (H, _) = arrays["Wx0"].shape, arrays["Wh0"].shape
    lstm = torch.nn.LSTM(D, H, num_layers=len(layers))
    with torch.no_grad():
        for k, (Wx, Wh, b) in enumerate(layers):
            getattr(lstm, f"weight_ih_l{k}").copy_(ours[Wx].T)
            getattr(lstm, f"weight_hh_l{k}").copy_(ours[Wh].T)
            getattr(lstm, f"bias_ih_l{k}").copy_(ours[b])
            getattr(lstm, f"bias_hh_l{k}").zero_().requires_grad_(False)  # ours has one bias
    readout = [ours[k] for k in ("V", "c") if k in ours]
    weights = [p for p in lstm.parameters() if p.requires_grad] + readout
    step = _torch_step(lambda xs: lstm(xs)[0], weights, readout, arrays, task)

    def read(y: Any) -> Arrays:
        if task == "infer":
            return {"ys": y.numpy()}
        found = {"loss": y.detach().numpy()}
        for k, (Wx, Wh, b) in enumerate(layers):
            found[Wx] = getattr(lstm, f"weight_ih_l{k}").grad.numpy().T
            found[Wh] = getattr(lstm, f"weight_hh_l{k}").grad.numpy().T
            found[b] = getattr(lstm, f"bias_ih_l{k}").grad.numpy()
        return found | {k: ours[k].grad.numpy() for k in ("V", "c") if k in ours}

    return step, read


def compile(arrays: Arrays, task: str) -> tuple[Step, Callable[[Any], Arrays]]:
    """torch.compile of the same cell."""
    import torch

    weights, layers = _torch_weights(arrays), layer_names(arrays)

    def forward(xs: Any) -> Any:
        states = [(xs.new_zeros(xs.shape[1], weights[Wh].shape[0]),) * 2 for _, Wh, _ in layers]
        ys = []
        for x in xs.unbind():
            for k, (Wx, Wh, b) in enumerate(layers):
                h, c = states[k]
                a = x @ weights[Wx] + h @ weights[Wh] + weights[b]
                i, f, g, o = torch.chunk(a, 4, dim=-1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                x = torch.sigmoid(o) * torch.tanh(c)
                states[k] = x, c
            ys.append(x)
        return torch.stack(ys)

    readout = [weights[k] for k in ("V", "c") if k in weights]
    compiled = torch.compile(forward)
    step = _torch_step(compiled, list(weights.values()), readout, arrays, task)

    def read(y: Any) -> Arrays:
        if task == "infer":
            return {"ys": y.numpy()}
        return {"loss": y.detach().numpy(), **{k: w.grad.numpy() for k, w in weights.items()}}

    return step, read


# --- JAX -----------------------------------------------------------------------------------------


def jax(arrays: Arrays, task: str) -> tuple[Step, Callable[[Any], Arrays]]:
    """lax.scan with jit. XLA's CPU client has no thread count: the process is pinned instead."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[: int(os.environ["OMP_NUM_THREADS"])])
    import jax
    import jax.numpy as jnp

    layers = layer_names(arrays)
    weights = {k: jnp.asarray(arrays[k]) for k in parameter_names(arrays)}
    xs = jnp.asarray(arrays["xs"])
    targets = jnp.asarray(arrays["targets"]).reshape(-1) if task == "stack" else None

    def forward(weights: Any, xs: Any) -> Any:
        def body(states: Any, x: Any) -> Any:
            after = []
            for (h, c), (Wx, Wh, b) in zip(states, layers):
                a = x @ weights[Wx] + h @ weights[Wh] + weights[b]
                i, f, g, o = jnp.split(a, 4, axis=-1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                x = jax.nn.sigmoid(o) * jnp.tanh(c)
                after.append((x, c))
            return after, x

        zeros = [jnp.zeros((xs.shape[1], weights[Wh].shape[0])) for _, Wh, _ in layers]
        return jax.lax.scan(body, [(z, z) for z in zeros], xs)[1]

    def loss_of(weights: Any, xs: Any) -> Any:
        ys = forward(weights, xs)
        if task != "stack":
            return (ys**2).mean()
        logits = (ys @ weights["V"] + weights["c"]).reshape(len(targets), -1)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], 1).mean()

    def adam(weights: Any, moments: Any, count: Any, gradients: Any) -> Any:
        new, kept = {}, {}
        for k, g in gradients.items():
            m, v = (0.9 * moments[k][0] + 0.1 * g, 0.999 * moments[k][1] + 0.001 * g * g)
            scaled = (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
            new[k], kept[k] = weights[k] - RATE * scaled, (m, v)
        return new, kept

    @jax.jit
    def train(state: Any, xs: Any) -> Any:
        weights, moments, count = state
        loss, gradients = jax.value_and_grad(loss_of)(weights, xs)
        if task == "adam":
            weights, moments = adam(weights, moments, count + 1, gradients)
        return loss, gradients, (weights, moments, count + 1)

    infer = jax.jit(forward)
    state = [(weights, {k: (0 * w, 0 * w) for k, w in weights.items()}, jnp.zeros(()))]

    def step() -> Any:
        if task == "infer":
            return jax.block_until_ready(infer(weights, xs))
        loss, gradients, state[0] = jax.block_until_ready(train(state[0], xs))
        return loss, gradients

    def read(y: Any) -> Arrays:
        if task == "infer":
            return {"ys": np.asarray(y)}
        return {"loss": np.asarray(y[0]), **{k: np.asarray(g) for k, g in y[1].items()}}

    return step, read


BUILDS: dict[str, Build] = {
    "minigrad": minigrad, "numpy": minigrad, "torch": torch, "compile": compile, "jax": jax,
}  # fmt: skip


def main(name: str, path: str, task: str) -> None:
    step, read = BUILDS[name](dict(np.load(path)), task)

    def check() -> Arrays:
        for _ in range(2 if task == "adam" else 0):
            step()
        return read(step())

    serve(step, check)


if __name__ == "__main__":
    main(*sys.argv[1:])

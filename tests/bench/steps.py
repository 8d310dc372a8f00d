"""Training steps per second of a small character model, backend against backend, eagerly.

    PYTHONPATH=.:backends python tests/bench/steps.py [numpy numba ...]

Embedding, two LSTM layers written out below, softmax; T = 50, B = 50, H = 128, 96 characters. A
step is forward, loss and the gradients of all parameters. Every measurement is a process of its
own; the processes take turns, and the medians of the rounds' ratios to the first backend are shown.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

import minigrad as mg

T, B, H, V = 50, 50, 128, 96
ROUNDS, STEPS = 7, 12


def parameters() -> dict[str, mg.Tensor]:
    draw = np.random.default_rng(0)
    shapes = {"E": (V, H), "V": (H, V), "c": (V,)}
    for layer in "12":
        shapes |= {f"Wx{layer}": (H, 4 * H), f"Wh{layer}": (H, 4 * H), f"b{layer}": (4 * H,)}
    return {
        name: mg.Tensor(draw.uniform(-0.09, 0.09, shape), requires_grad=True, dtype="float32")
        for name, shape in shapes.items()
    }


def lstm(p: dict[str, mg.Tensor], layer: str, x: mg.Tensor, h: mg.Tensor, c: mg.Tensor):
    a = x @ p["Wx" + layer] + h @ p["Wh" + layer] + p["b" + layer]
    i, f, g, o = mg.split(a, 4, axis=-1)
    c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
    return mg.sigmoid(o) * mg.tanh(c), c


def loss_of(p: dict[str, mg.Tensor], tokens: np.ndarray, targets: np.ndarray) -> mg.Tensor:
    h1 = c1 = h2 = c2 = mg.zeros((B, H))
    ys = []
    for x in mg.take(p["E"], tokens, axis=0):
        h1, c1 = lstm(p, "1", x, h1, c1)
        h2, c2 = lstm(p, "2", h1, h2, c2)
        ys.append(h2)
    logits = mg.reshape(mg.stack(ys), (T * B, H)) @ p["V"] + p["c"]
    picked = mg.take_along_axis(logits, targets.reshape(-1, 1), axis=1)
    return (mg.logsumexp(logits, axis=1, keepdims=True) - picked).mean()


def measure() -> None:
    draw = np.random.default_rng(1)
    tokens, targets = draw.integers(0, V, (T, B)), draw.integers(0, V, (T, B))
    p = parameters()
    times = []
    for _ in range(STEPS + 2):
        start = time.perf_counter()
        loss = loss_of(p, tokens, targets)
        loss.backward()
        times.append(time.perf_counter() - start)
        total = float(np.sqrt(sum((t.grad.numpy() ** 2).sum() for t in p.values())))
        for t in p.values():
            t.grad = None
    print(json.dumps({"s": statistics.median(times[2:]), "loss": loss.item(), "norm": total}))


def run(backend: str, threads: int) -> dict[str, float]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads)) | {"MINIGRAD_BACKEND": backend}
    command = [sys.executable, __file__, "--measure"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(backends: list[str]) -> int:
    same = True
    print(f"{'threads':<9}{'backend':<9}{'steps/s':>9}{'ms':>8}{'ratio':>7}  loss")
    for threads in sorted({1, min(2, os.cpu_count() or 1)}):
        rounds = [{name: run(name, threads) for name in backends} for _ in range(ROUNDS)]
        for name in backends:
            seconds = statistics.median(r[name]["s"] for r in rounds)
            ratio = statistics.median(r[backends[0]]["s"] / r[name]["s"] for r in rounds)
            loss = rounds[0][name]["loss"]
            print(f"{threads:<9}{name:<9}{1 / seconds:>9.2f}{seconds * 1e3:>8.1f}{ratio:>7.2f}"
                  f"  {loss:.6f}")  # fmt: skip
            for what in ("loss", "norm"):
                reference = rounds[0][backends[0]][what]
                same &= abs(rounds[0][name][what] - reference) <= 1e-5 * abs(reference)
    print("PASS: losses and gradients agree" if same else "FAIL: losses or gradients differ")
    return not same


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        measure()
    else:
        sys.exit(main(sys.argv[1:] or ["numpy", "numba"]))

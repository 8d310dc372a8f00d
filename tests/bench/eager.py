"""The eager engine against its peers: a user-written LSTM, per-op overhead, growth, import time.

    python tests/bench/eager.py [--rounds 7] [--threads 1] [--shapes tiny,small] [--json FILE]

Each contestant runs in a process of its own; the rounds alternate between them, and what is quoted
is the median over rounds of the ratio to the peer in the same round. Gradients are compared with
the NumPy backend's in the same run. Peers that are not installed are left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from harness import BENCH, Contestant, close, compare, environment, headline, present, result, save

SHAPES = {"tiny": (64, 1, 64, 64), "small": (100, 32, 64, 128)}
PEERS = {
    "minigrad": "numpy",
    "minigrad_numba": "numba",
    "by_hand": "numpy",
    "torch": "torch",
    "autograd": "autograd",
    "mygrad": "mygrad",
}
BARS = {"torch": ("at most", 1.8), "autograd": ("at most", 1 / 3), "mygrad": ("at most", 1 / 2)}


def data(shape: tuple[int, ...], path: Path) -> None:
    T, B, D, H = shape
    rng = np.random.default_rng(0)
    arrays = {
        "xs": rng.normal(size=(T, B, D)),
        "Wx": rng.normal(size=(D, 4 * H)) / D**0.5,
        "Wh": rng.normal(size=(H, 4 * H)) / H**0.5,
        "b": np.zeros(4 * H),
    }
    np.savez(path, **{k: v.astype(np.float32) for k, v in arrays.items()})


def race(shape: str, threads: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Milliseconds per training step, a list over rounds for each contestant."""
    path = folder / f"{shape}.npz"
    data(SHAPES[shape], path)
    program = str(BENCH / "contestants.py")
    runners = [Contestant(name, [program, name, str(path)], threads) for name in present(PEERS)]
    try:
        reference: dict[str, np.ndarray] = {}
        for runner in runners:
            found = result(runner, folder)
            reference = reference or found
            compare(f"{runner.name} at {shape}", found, reference, 1e-4)
        times: dict[str, list[float]] = {runner.name: [] for runner in runners}
        for runner in runners:
            runner.ask("time 0.5")  # warm
        for _ in range(rounds):
            for runner in runners:
                times[runner.name].append(runner.ask("time 0.5"))
    finally:
        for runner in runners:
            runner.close()
    return times


def report(shape: str, times: dict[str, list[float]]) -> list[tuple[str, bool]]:
    verdicts = []
    T, B, D, H = SHAPES[shape]
    print(f"\n{shape}: T={T} B={B} D={D} H={H}")
    print(f"{'contestant':16} {'ms':>8} {'spread':>15} {'minigrad / it':>14}")
    ours = np.array(times["minigrad"])
    for name, values in times.items():
        ratio = float(np.median(ours / np.array(values)))
        spread = f"{min(values):.2f}..{max(values):.2f}"
        print(f"{name:16} {np.median(values):8.2f} {spread:>15} {ratio:14.2f}")
        if shape == "tiny" and name in BARS:
            words, bar = BARS[name]
            verdicts.append((f"P6 {name}: {ratio:.2f}, {words} {bar:.2f}", ratio <= bar))
    return verdicts


def per_op(threads: int) -> None:
    """What an op costs on a tensor of one element, beyond NumPy's own call."""
    code = """
import timeit, numpy as np, minigrad as mg
a = np.ones(1, np.float32); x = mg.Tensor(a); w = mg.Tensor(a, requires_grad=True)
def us(f, n=20000): return min(timeit.repeat(f, number=n, repeat=7)) / n * 1e6
rows = [("numpy a * a", us(lambda: a * a)), ("tensor x * x", us(lambda: x * x)),
        ("recorded w * w", us(lambda: w * w)), ("numpy tanh", us(lambda: np.tanh(a))),
        ("recorded tanh", us(lambda: mg.tanh(w))), ("recorded w * 2.0", us(lambda: w * 2.0))]
def chain():
    y = w
    for _ in range(1000): y = y * w
    return y
forward = us(chain, 20) / 1000
rows.append(("recorded, in a chain", forward))
rows.append(("backward, per node", us(lambda: chain().sum().backward(), 20) / 1000 - forward))
for name, value in rows: print(f"{name:22} {value:6.2f} us")
"""
    print("\nper op, one element")
    subprocess.run([sys.executable, "-c", code], env=environment(threads), check=True)


def growth(threads: int) -> list[tuple[str, bool]]:
    """P7: time and memory of a training step from T = 100 to 10,000; checkpointing."""
    code = """
import json, time, tracemalloc, numpy as np, minigrad as mg
mg.random.seed(0)
H = 16
U, W = (mg.nn.Parameter(mg.nn.orthogonal((H, H))) for _ in range(2))
x = mg.ones((4, H))  # the same input at every step: a sequence would be linear memory by itself
def segment(h, steps):
    for _ in range(steps): h = mg.tanh(x @ U + h @ W)
    return h
def step(T, every=None):
    h = mg.zeros((4, H))
    for _ in range(T // (every or T)):
        h = mg.checkpoint(segment)(h, every) if every else segment(h, T)
    h.sum().backward(); U.grad = W.grad = None
def seconds(*a):
    best = 1e9
    for _ in range(3):
        t = time.perf_counter(); step(*a); best = min(best, time.perf_counter() - t)
    return best
def peak(*a):
    tracemalloc.start(); step(*a)
    p = tracemalloc.get_traced_memory()[1]; tracemalloc.stop(); return p
step(10)
sizes = ((100, 10), (1024, 32), (10000, 100))
rows = [(T, seconds(T), peak(T), peak(T, root)) for T, root in sizes]
print(json.dumps(rows))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(threads),
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout)
    print("\ngrowth with T (tanh network, H=16, B=4)")
    print(f"{'T':>6} {'ms':>9} {'us/step':>8} {'peak kB':>9} {'checkpointed kB':>16}")
    for T, seconds, *memory in rows:
        cells = f"{memory[0] / 1e3:9.0f} {memory[1] / 1e3:16.0f}"
        print(f"{T:6} {seconds * 1e3:9.1f} {seconds / T * 1e6:8.1f} {cells}")
    (_, t1, _, _), (_, _, m2, c2), (_, t3, m3, c3) = rows
    return [  # memory from T = 1024 on: below, Python's free lists hide part of it from the tracer
        (f"P7 time grows {t3 / t1:.0f}x for 100x the steps", t3 / t1 <= 130),
        (f"P7 memory grows {m3 / m2:.1f}x for 9.8x the steps", m3 / m2 <= 12),
        (f"P7 checkpointed, it grows {c3 / c2:.1f}x, its root being 3.1x", c3 / c2 <= 4.5),
    ]


def imports(threads: int, rounds: int) -> list[tuple[str, bool]]:
    """P8: seconds that `import minigrad` takes beyond `import numpy`."""
    extra = []
    for _ in range(rounds):
        pair = []
        for code in ("import numpy", "import minigrad"):
            text = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
            done = subprocess.run(
                [sys.executable, "-c", text],
                env=environment(threads),
                capture_output=True,
                text=True,
            )
            pair.append(float(done.stdout))
        extra.append(pair[1] - pair[0])
    middle = float(np.median(extra))
    print(f"\nimport minigrad beyond numpy: {middle * 1e3:.0f} ms "
          f"({min(extra) * 1e3:.0f}..{max(extra) * 1e3:.0f})")  # fmt: skip
    return [(f"P8 {middle * 1e3:.0f} ms, at most 100", middle <= 0.1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", default="tiny,small")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    print("\n".join(headline([arguments.threads])))
    verdicts, everything = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes.split(","):
            times = race(shape, arguments.threads, arguments.rounds, Path(folder))
            everything[shape] = times
            verdicts += report(shape, times)
    per_op(arguments.threads)
    verdicts += growth(arguments.threads)
    verdicts += imports(arguments.threads, arguments.rounds)
    save(arguments.json, everything)
    return close(verdicts)


if __name__ == "__main__":
    sys.exit(main())

"""A user's LSTM, compiled on the Numba backend, against torch.nn.LSTM, torch.compile and JAX.

    python tests/bench/lstm.py [--peers torch,jax,compile] [--threads 1,2] [--shapes tiny,mid]
                               [--task train,infer] [--stack] [--adam] [--drawn] [--quick]

The cell stands in programs.py, a plain class of a dozen lines. Each contestant runs in a process of
its own, the rounds alternate between them; shown are medians over the rounds, the median of the
rounds' ratios, their spread, and GFLOP/s. Every result is compared with the eager NumPy backend's
in the same run. Exit status 1 where a bar that is owed is missed; a goal that is missed is said.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    BENCH,
    EAGER,
    OURS,
    ROOT,
    Contestant,
    Verdict,
    alternate,
    close,
    compare,
    geometric,
    headline,
    middle,
    present,
    ratios,
    result,
    save,
    say,
    spread,
)

Shape = tuple[int, int, int, int]  # T, B, D, H
SHAPES: dict[str, Shape] = {
    "tiny": (64, 1, 64, 64),
    "small": (100, 32, 64, 128),
    "mid": (100, 64, 256, 256),
    "ptb": (35, 20, 650, 650),
    "big": (128, 64, 512, 512),
}
QUICK: dict[str, Shape] = {"quick": (12, 4, 8, 16)}
COMPILED_BY_TORCH = ("tiny", "small", "quick")  # it takes minutes, and grows with T
NEEDS = {"torch": "torch", "compile": "torch", "jax": "jax"}
CLASSES = 100  # of the stack's readout


def drawn(seed: str, count: int = 8) -> dict[str, Shape]:
    """Shapes that nobody chose: log-uniform, none a multiple of 8, from a hexadecimal seed."""
    draw = np.random.default_rng(int(seed, 16))

    def size(low: int, high: int) -> int:
        while True:
            n = round(float(np.exp(draw.uniform(np.log(low), np.log(high)))))
            if n % 8:
                return n

    rows = [(size(8, 300), size(1, 128), size(16, 1024), size(16, 1024)) for _ in range(count)]
    return {f"drawn{k}": row for k, row in enumerate(rows)}


def commit() -> str:
    """The hash of the commit that is checked out."""
    words = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def arrays(shape: Shape, task: str) -> dict[str, np.ndarray]:
    """Input and weights of one or two layers, as programs.py names them."""
    T, B, D, H = shape
    draw = np.random.default_rng(0)
    found = {"xs": draw.normal(size=(T, B, D))}
    for k, width in enumerate((D, H) if task == "stack" else (D,)):
        found[f"Wx{k}"] = draw.normal(size=(width, 4 * H)) / width**0.5
        found[f"Wh{k}"] = draw.normal(size=(H, 4 * H)) / H**0.5
        found[f"b{k}"] = draw.normal(size=4 * H) / 10
    if task == "stack":
        found |= {"V": draw.normal(size=(H, CLASSES)) / H**0.5, "c": np.zeros(CLASSES)}
    found = {k: v.astype(np.float32) for k, v in found.items()}
    return found | ({"targets": draw.integers(0, CLASSES, (T, B))} if task == "stack" else {})


def flops(shape: Shape, task: str) -> float:
    """Of the matrix products: three times the forward's but for the gradient of the input."""
    T, B, D, H = shape
    widths = (D, H) if task == "stack" else (D,)
    forward = sum(2 * T * B * 4 * H * (width + H) for width in widths)
    head = 2 * T * B * H * CLASSES if task == "stack" else 0
    if task == "infer":
        return forward + head
    return 3 * (forward + head) - 2 * T * B * 4 * H * D


def race(
    name: str, shape: Shape, task: str, peers: list[str], threads: int, options: Any
) -> dict[str, list[float]]:
    """Milliseconds per step, a list over rounds for each contestant."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = folder / "data.npz"
        np.savez(path, **arrays(shape, task))
        program = str(BENCH / "programs.py")
        with Contestant("numpy", [program, "numpy", str(path), task], threads, **EAGER) as eager:
            wanted = result(eager, folder)
        running: list[Contestant] = []
        try:
            for who in ["minigrad", *peers]:
                say(f"{name}, {task}, {threads} threads: {who} starts, and may compile")
                words = [program, who, str(path), task]
                running.append(Contestant(who, words, threads, **OURS))
                error = compare(who, result(running[-1], folder), wanted)
                say(f"{name}, {task}, {threads} threads: {who} agrees to {error:.0e}")
            return alternate(running, options.rounds, options.seconds)
        finally:
            for contestant in running:
                contestant.close()


def table(rows: list[dict[str, Any]]) -> None:
    """One line a shape and peer."""
    print(
        f"\n{'task':6} {'threads':>7} {'shape':8} {'T, B, D, H':>20} {'contestant':10} "
        f"{'ms':>9} {'spread':>18} {'GFLOP/s':>8} {'ours is faster':>15} {'spread':>12}"
    )
    for row in rows:
        for who, times in row["ms"].items():
            gain, found = "", ""
            if who != "minigrad":
                each = ratios(times, row["ms"]["minigrad"])
                gain, found = f"{middle(each):.2f}x", spread(each)
            shown = ", ".join(map(str, row["shape"]))
            rate = row["flops"] / middle(times) / 1e6
            print(
                f"{row['task']:6} {row['threads']:7} {row['name']:8} {shown:>20} {who:10} "
                f"{middle(times):9.2f} {spread(times):>18} {rate:8.1f} {gain:>15} {found:>12}"
            )


def gains(rows: list[dict[str, Any]], peer: str, task: str) -> dict[tuple[str, int], float]:
    """How many times as fast as the peer, by shape and threads."""
    return {
        (row["name"], row["threads"]): middle(ratios(row["ms"][peer], row["ms"]["minigrad"]))
        for row in rows
        if row["task"] == task and peer in row["ms"]
    }


def verdicts(rows: list[dict[str, Any]]) -> list[Verdict]:
    """P1 and P2; the bars are for the training step, the other tasks are shown beside it."""
    found: list[Verdict] = []
    for task in ("train", "stack"):
        if known := gains(rows, "torch", task):
            mean, (where, least) = (
                geometric(known.values()),
                min(known.items(), key=lambda item: item[1]),
            )
            worst = f"{least:.2f}x at {where[0]} with {where[1]}"
            found += [
                (f"P1 {task} owed: {mean:.2f}x in geometric mean, at least 1.0", mean >= 1.0),
                (f"P1 {task} owed: {worst}, at least 0.8 at each", least >= 0.8),
                (f"P1 {task} goal: {mean:.2f}x in geometric mean, at least 1.6", mean >= 1.6),
            ]
            bars = {key: 1.1 if key == ("ptb", 2) else 1.25 for key in known}
            short = [
                f"{n} with {t}: {known[n, t]:.2f}x" for n, t in known if known[n, t] < bars[n, t]
            ]
            said = ", ".join(short) or "none is short of it"
            found.append((f"P1 {task} goal: 1.25x at each (1.1 at ptb with 2): {said}", not short))
    for peer, owed, goal in (("jax", 1.7, 2.5), ("compile", 3.5, 4.0)):
        if known := gains(rows, peer, "train"):
            mean = geometric(known.values())
            for words, bar in (("owed", owed), ("goal", goal)):
                found.append(
                    (
                        f"P2 {peer} {words}: {mean:.2f}x in geometric mean, at least {bar}",
                        mean >= bar,
                    )
                )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="A full run of one task takes about ten minutes; torch.compile adds as many.",
    )
    add = parser.add_argument
    add("--peers", default="torch,jax,compile", help="(default: %(default)s)")
    add("--threads", default="1,2", help="(default: %(default)s)")
    add("--shapes", default=",".join(SHAPES), help="(default: %(default)s)")
    add("--task", default="train,infer", help="(default: %(default)s)")
    add("--stack", action="store_true", help="also two layers with cross-entropy on top")
    add("--adam", action="store_true", help="also the step with Adam on both sides")
    add("--drawn", action="store_true", help="eight shapes drawn with the commit hash instead")
    add("--seed", metavar="HEX", help="of --drawn (default: the commit's hash)")
    add("--rounds", type=int, default=7, help="(default: %(default)s)")
    add("--seconds", type=float, default=0.5, help="a round of a contestant (default: %(default)s)")
    add("--quick", action="store_true", help="one very small shape, three short rounds")
    add("--json", metavar="FILE", help="all times")
    options = parser.parse_args()
    shapes = {name: SHAPES[name] for name in options.shapes.split(",")}
    if options.drawn:
        seed = options.seed or commit()
        print(f"shapes drawn from {seed}")
        shapes = drawn(seed)
    if options.quick:
        shapes, options.rounds, options.seconds = QUICK, 3, 0.02
    threads = [int(n) for n in options.threads.split(",")]
    tasks = options.task.split(",") + ["stack"] * options.stack + ["adam"] * options.adam
    lines = headline(threads)
    print("\n".join(lines))
    peers = present({p: NEEDS[p] for p in options.peers.split(",") if p})
    rows: list[dict[str, Any]] = []
    for task in tasks:
        for count in threads:
            for name, shape in shapes.items():
                chosen = [p for p in peers if p != "compile" or name in COMPILED_BY_TORCH]
                row = {"name": name, "shape": shape, "task": task, "threads": count}
                row |= {"flops": flops(shape, task)}
                rows.append({**row, "ms": race(name, shape, task, chosen, count, options)})
    table(rows)
    save(options.json, {"where": lines, "rows": rows})
    return close(verdicts(rows))


if __name__ == "__main__":
    sys.exit(main())

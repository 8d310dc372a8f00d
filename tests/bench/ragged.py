"""Ragged batches and resets, compiled on the Numba backend, against the whole rectangle (row N11).

    python tests/bench/ragged.py [--threads 1,2] [--shapes small,mid] [--rounds 7] [--quick]

The same LSTM through `unroll`, a training step as in lstm.py: without lengths, with lengths that
are all T, with lengths uniform in 1..T as they come, the same sorted, and with resets at one step
in a hundred. Each is a process of its own, the rounds alternate between them; shown are medians,
the median of the rounds' ratios to the step without lengths, their spread, and the share of steps
that are real. Every result is compared with the eager NumPy backend's in the same run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    EAGER,
    OURS,
    Arrays,
    Contestant,
    Verdict,
    alternate,
    close,
    compare,
    headline,
    middle,
    ratios,
    result,
    save,
    say,
    serve,
    spread,
)
from lstm import QUICK, SHAPES, Shape, arrays

CASES = ("whole", "full", "unsorted", "sorted", "resets")
OFTEN = 0.01  # a step's chance of a reset
SORTED, RESETS = 1.25, 1.1  # time over share of real steps; time over that without resets


def flags(case: str, shape: Shape) -> Arrays:
    """What a case gives to unroll besides the inputs."""
    T, B, *_ = shape
    draw = np.random.default_rng(1)
    lengths = draw.integers(1, T + 1, B)
    return {
        "whole": {},
        "full": {"lengths": np.full(B, T)},
        "unsorted": {"lengths": lengths},
        "sorted": {"lengths": np.sort(lengths)[::-1].copy()},
        "resets": {"resets": draw.random((T, B)) < OFTEN},
    }[case]


def share(given: Arrays, shape: Shape) -> float:
    """The part of all steps and rows that is real."""
    return float(given["lengths"].mean() / shape[0]) if "lengths" in given else 1.0


# --- a contestant --------------------------------------------------------------------------------


def program(path: str) -> None:
    """Serve the training step on a file's arrays."""
    import minigrad as mg
    from minigrad_rnn import LSTMCell, unroll

    given = dict(np.load(path))
    xs = mg.Tensor(given.pop("xs"))
    cell = LSTMCell(xs.shape[2], given["Wh0"].shape[0])
    weights = dict(cell.named_parameters())
    for name, weight in weights.items():
        weight.assign(given.pop(f"{name}0"))
    options = {name: mg.Tensor(value) for name, value in given.items()}

    @mg.compile
    def train(xs: Any, options: Any) -> Any:
        ys, _ = unroll(cell, xs, **options)
        loss = (ys**2).mean()
        for weight in weights.values():
            weight.grad = None
        loss.backward()
        return loss

    def check() -> Arrays:
        loss = train(xs, options)
        return {"loss": loss.numpy(), **{k: w.grad.numpy() for k, w in weights.items()}}

    serve(lambda: train(xs, options), check)


# --- the benchmark -------------------------------------------------------------------------------


def race(name: str, shape: Shape, threads: int, options: Any) -> dict[str, list[float]]:
    """Milliseconds per step, a list over rounds for each case."""
    with tempfile.TemporaryDirectory() as place:
        running: list[Contestant] = []
        try:
            for case in CASES:
                path = str(Path(place) / f"{case}.npz")
                np.savez(path, **arrays(shape, "train"), **flags(case, shape))
                words = [__file__, "--serve", path]
                with Contestant("numpy", words, threads, **EAGER) as eager:
                    wanted = result(eager, Path(place))
                running.append(Contestant(case, words, threads, **OURS))
                error = compare(case, result(running[-1], Path(place)), wanted)
                say(f"{name}, {threads} threads, {case}: agrees to {error:.0e}")
            return alternate(running, options.rounds, options.seconds)
        finally:
            for contestant in running:
                contestant.close()


def table(rows: list[dict[str, Any]]) -> None:
    """One line a shape, thread count and case."""
    print(
        f"\n{'threads':>7} {'shape':8} {'T, B, D, H':>18} {'case':9} {'ms':>9} {'spread':>16} "
        f"{'real steps':>10} {'time':>6} {'spread':>12} {'time/real':>10}"
    )
    for row in rows:
        for case, times in row["ms"].items():
            each = ratios(times, row["ms"]["whole"])
            part = row["share"][case]
            print(
                f"{row['threads']:7} {row['name']:8} {', '.join(map(str, row['shape'])):>18} "
                f"{case:9} {middle(times):9.2f} {spread(times):>16} {part:10.3f} "
                f"{middle(each):6.3f} {spread(each):>12} {middle(each) / part:10.3f}"
            )


def verdicts(rows: list[dict[str, Any]]) -> list[Verdict]:
    """N11's two bars at each shape and thread count."""
    found: list[Verdict] = []
    for row in rows:
        time = {case: middle(ratios(ms, row["ms"]["whole"])) for case, ms in row["ms"].items()}
        where = f"{row['name']} with {row['threads']}"
        over = time["sorted"] / row["share"]["sorted"]
        words = f"{where}: sorted lengths take {over:.2f} of their share, at most {SORTED}"
        found.append((f"N11 {words}", over <= SORTED))
        words = f"{where}: resets take {time['resets']:.2f} of the time without, at most {RESETS}"
        found.append((f"N11 {words}", time["resets"] <= RESETS))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--threads", default="1,2", help="(default: %(default)s)")
    add("--shapes", default="small,mid", help="(default: %(default)s)")
    add("--rounds", type=int, default=7, help="(default: %(default)s)")
    add("--seconds", type=float, default=0.5, help="a round of a contestant (default: %(default)s)")
    add("--quick", action="store_true", help="one very small shape, three short rounds")
    add("--json", metavar="FILE", help="all times")
    add("--serve", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        program(options.serve)
        return 0
    shapes = {name: SHAPES[name] for name in options.shapes.split(",")}
    if options.quick:
        shapes, options.rounds, options.seconds = QUICK, 3, 0.02
    threads = [int(n) for n in options.threads.split(",")]
    lines = headline(threads)
    print("\n".join(lines))
    rows: list[dict[str, Any]] = []
    for count in threads:
        for name, shape in shapes.items():
            parts = {case: share(flags(case, shape), shape) for case in CASES}
            row = {"name": name, "shape": shape, "threads": count, "share": parts}
            rows.append({**row, "ms": race(name, shape, count, options)})
    table(rows)
    save(options.json, {"where": lines, "rows": rows})
    return close(verdicts(rows))


if __name__ == "__main__":
    sys.exit(main())

"""Every cell of the catalogue, and random ones, against our own compiled LSTM (bar P4).

    python tests/bench/cells.py [--cells LSTM,GRU] [--random 20] [--shape 50,32,64,128] [--quick]

A cell's training step may take 1.3 times what our LSTM's pace allows: its matrix FLOPs at our
LSTM's rate and its elementwise ops at our LSTM's time per op. Both are counted in the captured
graph, forward and backward, before any pass. The time per op is that of the LSTM without its
products, the rate that of what the products add. Gradients are compared with the eager NumPy
backend's in the same run. Modules are in evaluation mode: random bits have no bar.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    EAGER,
    OURS,
    ROOT,
    Arrays,
    Contestant,
    Verdict,
    alternate,
    close,
    compare,
    headline,
    middle,
    result,
    save,
    say,
    serve,
    spread,
)

ALLOWED = 1.3
FREE = {  # moves or renames what is there
    "reshape", "transpose", "broadcast_to", "split", "unstack", "stack", "concatenate", "index",
    "flip", "roll", "pad", "alias",
}  # fmt: skip


# --- a contestant --------------------------------------------------------------------------------


def count(steps: Any) -> tuple[float, float]:
    """Matrix FLOPs, and elements of elementwise ops and reductions, of a program's steps."""
    from minigrad.graph import Loop

    flops = elements = 0.0
    for step in steps:
        if isinstance(step, Loop):
            inside = count(step.body)
            flops, elements = flops + step.trips * inside[0], elements + step.trips * inside[1]
            continue
        shapes = [x.spec.shape for x in (*step.operands, *step.outputs) if hasattr(x, "spec")]
        if step.op.name == "matmul":
            flops += 2 * math.prod(step.outputs[0].spec.shape) * shapes[0][-1]
        elif step.op.name == "einsum":
            flops += 2 * math.prod(_sizes(step.static["terms"], shapes).values())
        elif step.op.name not in FREE:
            elements += max(math.prod(shape) for shape in shapes)
    return flops, elements


def _sizes(terms: tuple[str, ...], shapes: list[tuple[int, ...]]) -> dict[str, int]:
    return {n: size for term, shape in zip(terms, shapes) for n, size in zip(term, shape)}


def program(name: str, T: int, B: int, D: int, H: int) -> None:
    """Serve the training step of one cell: check, time, count."""
    sys.path.insert(0, str(ROOT))
    import minigrad as mg
    from minigrad import tree
    from minigrad_rnn import unroll
    from minigrad_rnn.catalogue import CATALOGUE
    from tests.random_cells import RandomCell

    class Pointwise(mg.nn.Module):
        """The LSTM without its products, for which inputs (T, B, 4H) are given."""

        def __init__(self) -> None:
            self.b = mg.nn.Parameter(mg.zeros(4 * H))

        def initial_state(self, batch: int) -> Any:
            return mg.zeros((batch, H)), mg.zeros((batch, H))

        def __call__(self, x: Any, state: Any) -> Any:
            h, c = state
            i, f, g, o = mg.split(x + self.b, 4, axis=-1)
            c = mg.sigmoid(f) * c + mg.sigmoid(i + h) * mg.tanh(g)
            h = mg.sigmoid(o) * mg.tanh(c)
            return h, (h, c)

    mg.random.seed(0)
    if name == "pointwise":
        cell, D = Pointwise(), 4 * H
    elif name.startswith("random "):
        cell = RandomCell(int(name.split()[1]), D, H)
    else:
        cell = CATALOGUE[name](D, H)
    cell.eval()
    xs = mg.Tensor(np.random.default_rng(0).normal(size=(T, B, D)), dtype="float32")
    weights = dict(cell.named_parameters())

    def loss_of(xs: Any) -> Any:
        ys, _ = unroll(cell, xs)
        return sum((y**2).mean() for y in tree.flatten(ys)[0])

    def both(xs: Any) -> Any:
        loss = loss_of(xs)
        for w in weights.values():
            w.grad = None
        loss.backward()
        return loss

    train = mg.compile(both)

    def check() -> Arrays:
        loss = train(xs)
        found = {k: w.grad.numpy() for k, w in weights.items() if w.grad is not None}
        return {"loss": loss.numpy(), **found}

    def counted() -> tuple[float, float]:
        def gradients(xs: Any) -> Any:
            loss = loss_of(xs)
            return loss, mg.pullback(loss, list(weights.values()), allow_unused=True)

        return count(mg.fold(gradients, xs).steps)

    serve(lambda: train(xs), check, count=counted)


# --- the benchmark -------------------------------------------------------------------------------


def contestant(name: str, options: Any, **variables: str) -> Contestant:
    words = [__file__, "--serve", name, "--shape", options.shape]
    return Contestant(name, words, options.threads, **variables)


def measure(names: list[str], options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each cell, and the cells that failed; the LSTM's pace is measured beside each."""
    rows, failed = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        contestant("LSTM", options, **OURS) as lstm,
        contestant("pointwise", options, **OURS) as pointwise,
    ):
        counts = {c.name: c.ask("count") for c in (lstm, pointwise)}
        for name in names:
            say(f"{name} starts, and compiles")
            try:
                with contestant(name, options, **EAGER) as eager:
                    wanted = result(eager, Path(folder))
                    flops, elements = eager.ask("count")
                with contestant(name, options, **OURS) as cell:
                    cell.name = f"this {name}"  # beside the LSTM, which may be the same
                    compare(name, result(cell, Path(folder)), wanted, 2e-3)
                    times = alternate([lstm, pointwise, cell], options.rounds, options.seconds)
            except SystemExit as error:
                failed.append(f"{name}: {error}")
                continue
            found = []
            for whole, bare, own in zip(times["LSTM"], times["pointwise"], times[cell.name]):
                per_op = bare / counts["pointwise"][1]
                products = max(whole - per_op * counts["LSTM"][1], 0.05 * whole)
                allowed = flops * products / counts["LSTM"][0] + elements * per_op
                found.append(own / allowed)
            rows.append({
                "cell": name, "flops": flops, "elements": elements, "ms": times[cell.name],
                "LSTM": times["LSTM"], "pointwise": times["pointwise"], "ratio": middle(found),
                "ratios": found,
            })  # fmt: skip
            say(f"{name}: {middle(times[cell.name]):.2f} ms, {middle(found):.2f} times allowed")
    return rows, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--cells", default="all", help="names of the catalogue, or none (default: %(default)s)")
    add("--random", type=int, default=20, help="how many random ones (default: %(default)s)")
    add("--shape", default="50,32,64,128", help="T,B,D,H (default: %(default)s)")
    add("--threads", type=int, default=1, help="(default: %(default)s)")
    add("--rounds", type=int, default=7, help="(default: %(default)s)")
    add("--seconds", type=float, default=0.1, help="a round of a contestant (default: %(default)s)")
    add("--quick", action="store_true", help="two cells and a random one, a small shape")
    add("--json", metavar="FILE", help="all times")
    add("--serve", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        program(options.serve, *map(int, options.shape.split(",")))
        return 0
    if options.quick:
        options.cells, options.random, options.shape = "LSTM,GRU", 1, "6,2,3,4"
        options.rounds, options.seconds = 3, 0.02
    sys.path[:0] = [str(ROOT), str(ROOT / "backends")]
    from minigrad_rnn.catalogue import CATALOGUE

    chosen = {"all": list(CATALOGUE), "none": []}
    names = chosen.get(options.cells, options.cells.replace(", ", "|").split(","))
    names = [name.replace("|", ", ") for name in names]
    if unknown := [name for name in names if name not in CATALOGUE]:
        parser.error(f"no cell of the catalogue: {', '.join(unknown)}")
    lines = headline([options.threads])
    print("\n".join(lines))
    names += [f"random {seed}" for seed in range(options.random)]
    rows, failed = measure(names, options)
    print(f"\n{'cell':22} {'ms':>8} {'MFLOP':>9} {'M ops':>8} {'of allowed':>11} {'spread':>12}")
    for row in rows:
        work = f"{row['flops'] / 1e6:9.1f} {row['elements'] / 1e6:8.2f}"
        print(f"{row['cell']:22} {middle(row['ms']):8.2f} {work} {row['ratio']:11.2f} "
              f"{spread(row['ratios']):>12}")  # fmt: skip
    save(options.json, {"where": lines, "rows": rows, "failed": failed})
    slow = [f"{row['cell']} {row['ratio']:.2f}" for row in rows if row["ratio"] > ALLOWED]
    verdicts: list[Verdict] = [(words, False) for words in failed]
    said = ", ".join(slow) or "none is slower"
    verdicts.append((f"P4 {len(rows)} cells, at most {ALLOWED} times allowed: {said}", not slow))
    return close(verdicts)


if __name__ == "__main__":
    sys.exit(main())

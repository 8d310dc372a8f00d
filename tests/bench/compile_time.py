"""How long it takes to compile the LSTM's training step (P3).

    python tests/bench/compile_time.py [--rounds 5] [--quick] [--json FILE]

Processes of their own, with folders of their own for compiled code: first with nothing compiled at
all, then with the eager kernels there but no program, then with everything there. Native compile
time and the number of compiled libraries are the backend's counters
(`minigrad_numba.emit.objects.counters`); where it has none, that is said.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

from harness import Verdict, close, environment, headline, middle, save, say, spread

EMPTY, NEVER, CACHED = 3.0, 10.0, 0.4  # seconds
PER_INSTRUCTION = 15e-6
SHAPE = (32, 64, 128)  # B, D, H of small
COUNTERS = ("compiled", "loaded", "compile_seconds", "load_seconds")


# --- what is measured, in a process of its own ---------------------------------------------------


def counters() -> dict[str, float] | None:
    """What the backend counts, or None where it does not."""
    try:
        from minigrad_numba.emit import objects
    except ImportError:
        return None
    found = getattr(objects, "counters", None)
    if any(not hasattr(found, name) for name in COUNTERS):
        return None
    return {name: getattr(found, name) for name in COUNTERS}


def training(sizes: tuple[int, int, int]) -> Any:
    """The compiled training step, and what makes an input of T steps."""
    import numpy as np

    import minigrad as mg

    B, D, H = sizes
    draw = np.random.default_rng(0)
    shapes = ((D, 4 * H), (H, 4 * H), (4 * H,))
    Wx, Wh, b = (mg.nn.Parameter(draw.normal(size=s) / H**0.5, dtype="float32") for s in shapes)

    def loss_of(xs: Any) -> Any:
        h = c = mg.zeros((B, H))
        ys = []
        for x in xs:
            i, f, g, o = mg.split(x @ Wx + h @ Wh + b, 4, axis=-1)
            c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
            h = mg.sigmoid(o) * mg.tanh(c)
            ys.append(h)
        return (mg.stack(ys) ** 2).mean()

    def step(xs: Any) -> Any:
        loss = loss_of(xs)
        Wx.grad = Wh.grad = b.grad = None
        loss.backward()
        return loss

    def inputs(T: int) -> Any:
        return mg.Tensor(draw.normal(size=(T, B, D)), dtype="float32")

    return mg.compile(step), inputs


def measure(what: str, sizes: list[int]) -> dict[str, Any]:
    """`first`: seconds from `import numba` to the end of the first step, at T; `eager`: one eager
    step, which compiles the kernels; `sizes`: one row for each T, all in this process."""
    import time

    begin = time.perf_counter()
    import numba  # noqa: F401

    imported = time.perf_counter()
    import minigrad as mg  # noqa: F401

    step, inputs = training((2, 8, 16) if what == "sizes" else SHAPE)
    if what != "sizes":
        step(inputs(sizes[0])).item()
        now = time.perf_counter()
        return {"numba": imported - begin, "seconds": now - imported, "counters": counters()}
    rows = []
    for T in sizes:
        xs, before = inputs(T), counters()
        start = time.perf_counter()
        step(xs).item()
        seconds, after = time.perf_counter() - start, counters()
        native = after["compile_seconds"] - before["compile_seconds"] if after and before else None
        compiled = after["compiled"] - before["compiled"] if after and before else None
        capture, build = step.last.seconds
        rows.append({"T": T, "seconds": seconds, "native": native, "compiled": compiled,
                     "instructions": len(step.last.raw.steps), "captures": step.captures,
                     "capture": capture, "build": build - (native or 0)})  # fmt: skip
    return {"rows": rows}


# --- the benchmark -------------------------------------------------------------------------------


def process(what: str, folder: str, sizes: list[int], **variables: str) -> dict[str, Any]:
    """What measure(what, sizes) gives, with compiled code kept in a folder."""
    settings = {"MINIGRAD_BACKEND": "numba", "MINIGRAD_CACHE_DIR": folder, **variables}
    words = [sys.executable, __file__, "--measure", what, "--sizes", ",".join(map(str, sizes))]
    done = subprocess.run(words, env=environment(1, **settings), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"FAIL compile_time.py {what} {sizes}: exit status {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def fresh(rounds: int, T: int) -> dict[str, list[float]]:
    """Seconds of the first step beyond `import numba`: never run, no program, all on disk."""
    found: dict[str, list[float]] = {"never": [], "empty": [], "cached": []}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: nothing compiled, no program, all on disk")
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as second:
            found["never"].append(process("first", folder, [T])["seconds"])
            found["cached"].append(process("first", folder, [T])["seconds"])
            process("eager", second, [T], MINIGRAD_COMPILE="0")  # compiles the eager kernels
            found["empty"].append(process("first", second, [T])["seconds"])
    return found


def natives(rounds: int, sizes: list[int]) -> list[list[float]] | None:
    """Seconds of native compilation for the first and the last T, each with an empty folder."""
    pairs = []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: native code for T = {sizes[0]} and {sizes[-1]}")
        pair = []
        for T in (sizes[0], sizes[-1]):
            with tempfile.TemporaryDirectory() as folder:
                pair.append(process("sizes", folder, [T])["rows"][0]["native"])
        if None in pair:
            return None
        pairs.append(pair)
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="(default: %(default)s)")
    add("--quick", action="store_true", help="one round, short sequences")
    add("--json", metavar="FILE", help="the numbers")
    add("--measure", metavar="WHAT", help=argparse.SUPPRESS)
    add("--sizes", default="16,256,1024,4096", metavar="T", help="(default: %(default)s)")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, [int(n) for n in options.sizes.split(",")])))
        return 0
    if options.quick:
        options.rounds, options.sizes = 1, "8,32,128"
    sizes = [int(n) for n in options.sizes.split(",")]
    T = 10 if options.quick else 100
    lines = headline([1])
    print("\n".join(lines))
    firsts = fresh(options.rounds, T)
    with tempfile.TemporaryDirectory() as folder:
        say(f"T = {', '.join(map(str, sizes))} in one process")
        rows = process("sizes", folder, [sizes[0], sizes[0] + 1, *sizes[1:]])["rows"]
    pairs = natives(options.rounds, sizes)

    words = {
        "never": f"T = {T}, nothing compiled on this machine",
        "empty": f"T = {T}, kernels compiled, no program",
        "cached": f"T = {T}, all on disk, beyond import numba",
    }
    print(f"\n{'the first step':48} {'s':>7} {'spread':>12}")
    for name, values in firsts.items():
        print(f"{words[name]:48} {middle(values):7.2f} {spread(values):>12}")
    print(f"\n{'T':>6} {'instructions':>13} {'s':>7} {'us each':>8} {'capture':>8} {'build':>8} "
          f"{'libraries compiled':>19}")  # fmt: skip
    for row in rows:
        row["each"] = (row["seconds"] - (row["native"] or 0)) / row["instructions"]
        made = "not counted" if row["compiled"] is None else row["compiled"]
        print(f"{row['T']:6} {row['instructions']:13} {row['seconds']:7.2f} "
              f"{row['each'] * 1e6:8.1f} {row['capture'] / row['instructions'] * 1e6:8.1f} "
              f"{row['build'] / row['instructions'] * 1e6:8.1f} {made:>19}")  # fmt: skip
    save(options.json, {"where": lines, "first": firsts, "sizes": rows, "native": pairs})
    return close(verdicts(firsts, rows, pairs, sizes))


def verdicts(
    firsts: dict[str, list[float]],
    rows: list[dict[str, Any]],
    pairs: list[list[float]] | None,
    sizes: list[int],
) -> list[Verdict]:
    """P3, clause by clause."""
    found: list[Verdict] = []
    for name, bar in (("empty", EMPTY), ("never", NEVER), ("cached", CACHED)):
        seconds = middle(firsts[name])
        found.append((f"P3 {name}: {seconds:.2f} s, at most {bar:g}", seconds <= bar))
    worst = max(row["each"] for row in rows[1:])  # the first one compiles
    grown = rows[-1]["each"] / rows[1]["each"]
    found += [
        (f"P3 capture, passes and a step: {worst * 1e6:.1f} us per instruction, at most 15",
         worst <= PER_INSTRUCTION),
        (f"P3 linear: {grown:.2f} times as long per instruction at T = {sizes[-1]} as at "
         f"{rows[1]['T']}, at most 1.3", grown <= 1.3),
        (f"P3 another T is captured: {rows[1]['captures']} captures after two",
         rows[1]["captures"] == 2),
    ]  # fmt: skip
    if pairs is None:
        return [*found, ("P3 native compile time: minigrad_numba has no counters", False)]
    made = [row["compiled"] for row in rows[1:]]
    found.append((f"P3 not compiled: {made} libraries for further T", not any(made)))
    if not min(map(min, pairs)):
        return [*found, ("P3 native compile time: nothing was compiled", False)]
    ratio = middle(large / small for small, large in pairs)
    said = f"P3 native compile time at T = {sizes[-1]} is {ratio:.2f} of that at {sizes[0]}"
    return [*found, (f"{said}, within 10 %", abs(ratio - 1) <= 0.1)]


if __name__ == "__main__":
    sys.exit(main())

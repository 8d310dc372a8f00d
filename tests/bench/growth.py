"""Time and peak memory of a training step from T = 100 to T = 10,000, eager and compiled (P7).

    python tests/bench/growth.py [--steps 100,1000,10000] [--quick] [--json FILE]

A tanh network, H = 16, B = 4. Every measurement is a process of its own, and memory the most that
the process held (getrusage), native code and LLVM's buffers included, beyond what it held after a
step of T = 10.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from harness import Verdict, close, headline, run, save, say

MODES = {
    "eager": {"MINIGRAD_BACKEND": "numpy", "MINIGRAD_COMPILE": "0"},
    "compiled": {"MINIGRAD_BACKEND": "numba"},
}
TIME, MEMORY = 1.3, 1.25  # times what the number of steps grows by


def measure(T: int) -> None:
    """Print seconds of the first step and of a later one, and KiB beyond a step of T = 10."""
    import resource
    import time

    import minigrad as mg

    mg.random.seed(0)
    U, W = (mg.nn.Parameter(mg.nn.orthogonal((16, 16))) for _ in range(2))
    xs = mg.random.normal(mg.random.key(0), (T, 4, 16))

    @mg.compile
    def step(xs: Any) -> Any:
        h, ys = mg.zeros((4, 16)), []
        for x in xs:
            h = mg.tanh(x @ U + h @ W)
            ys.append(h)
        loss = (mg.stack(ys) ** 2).mean()
        U.grad = W.grad = None
        loss.backward()
        return loss

    def seconds(xs: Any) -> float:
        start = time.perf_counter()
        step(xs)
        return time.perf_counter() - start

    step(xs[:10].detach())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first, later = seconds(xs), min(seconds(xs) for _ in range(3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([first, later, peak // 1024 if sys.platform == "darwin" else peak]))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", default="100,1000,10000", help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="to T = 1,000 only")
    parser.add_argument("--json", metavar="FILE", help="the table")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return 0
    sizes = [10, 100, 1000] if options.quick else [int(n) for n in options.steps.split(",")]
    lines = headline([1])
    print("\n".join(lines))
    rows: dict[str, list[list[float]]] = {}
    for mode, variables in MODES.items():
        for T in sizes:
            say(f"{mode}, T = {T:,}")
            found = run(__file__, "--measure", str(T), threads=1, **variables)
            rows.setdefault(mode, []).append([T, *found])
    print(f"\n{'':10} {'T':>7} {'first, s':>9} {'ms':>10} {'us a step':>10} {'peak, MiB':>10}")
    verdicts: list[Verdict] = []
    for mode, table in rows.items():
        for T, first, later, peak in table:
            print(f"{mode:10} {T:7} {first:9.2f} {later * 1e3:10.2f} {later / T * 1e6:10.1f} "
                  f"{peak / 1024:10.1f}")  # fmt: skip
        (small, _, t1, _), (_, first2, _, m2), (large, first3, t3, m3) = table[0], *table[-2:]
        times, middle = large / small, large / table[-2][0]
        bars = [
            ("time", t3 / t1, times, TIME),
            ("peak memory", m3 / max(m2, 1024), middle, MEMORY),  # below 1 MiB is a page or two
        ]
        if mode == "compiled":
            bars.append(("time to capture and compile", first3 / first2, middle, TIME))
        for words, grown, by, bar in bars:
            limit = f"at most {bar * by:.0f}x"
            said = f"P7 {mode}: {words} grows {grown:.1f}x for {by:.0f}x the steps, {limit}"
            verdicts.append((said, grown <= bar * by))
    save(options.json, {"where": lines, "rows": rows})
    return close(verdicts)


if __name__ == "__main__":
    sys.exit(main())

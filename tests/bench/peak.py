"""What share of this machine's float32 peak a compiled LSTM's training step reaches (P5).

    python tests/bench/peak.py [--threads 1,2] [--shapes mid,big] [--quick] [--json FILE]

The peak is the best of three, each in a process of its own: multiply-adds that never leave the
registers, written in LLVM IR; torch's product of two 2048 x 2048 matrices; NumPy's. They and our
LSTM take turns, round by round.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    BENCH,
    OURS,
    Contestant,
    Verdict,
    alternate,
    close,
    headline,
    middle,
    present,
    save,
    say,
    serve,
    spread,
)
from lstm import SHAPES, arrays, flops

SHARE = 0.75
N = 2048
KINDS = ("registers", "torch", "numpy")
REPEATS = 2_000_000  # of the loop's body
CHAINS = 12  # independent sums: enough to fill two pipes of four or five cycles


# --- contestants ---------------------------------------------------------------------------------


def loop(lanes: int) -> str:
    """LLVM IR of run(n): CHAINS vectors, each a * x + b n times over, and their sum at the end."""
    vector = f"<{lanes} x float>"
    names = [f"%x{k}" for k in range(CHAINS)]
    body = [f"{n} = phi {vector} [ %a, %entry ], [ {n}n, %loop ]" for n in names]
    body.append("%i = phi i64 [ 0, %entry ], [ %next, %loop ]")
    body += [f"{n}n = call {vector} @llvm.fma.v{lanes}f32({vector} {n}, {vector} %a, {vector} %b)"
             for n in names]  # fmt: skip
    body += ["%next = add i64 %i, 1", "%more = icmp slt i64 %next, %n",
             "br i1 %more, label %loop, label %end"]  # fmt: skip
    total = [f"%s0 = fadd {vector} {names[0]}n, {names[1]}n"]
    total += [f"%s{k} = fadd {vector} %s{k - 1}, {names[k + 1]}n" for k in range(1, CHAINS - 1)]
    total += [f"%r = extractelement {vector} %s{CHAINS - 2}, i32 0", "ret float %r"]
    spread = [f"{v} = insertelement {vector} {before}, float {x}, i32 {k}"
              for name, x in (("a", "%p"), ("b", "%q")) for k in range(lanes)
              for v, before in [(f"%{name}{k}" if k < lanes - 1 else f"%{name}",
                                 f"%{name}{k - 1}" if k else "undef")]]  # fmt: skip
    lines = [f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})",
             "define float @run(i64 %n, float %p, float %q) {", "entry:", *spread,
             "br label %loop", "loop:", *body, "end:", *total, "}"]  # fmt: skip
    return "\n".join(lines)


def registers(threads: int) -> tuple[Any, float]:
    """The loop in every thread, and its GFLOP."""
    from llvmlite import binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    lanes = 16 if features.get("avx512f") else 8 if features.get("avx") else 4
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
    )
    module = llvm.parse_assembly(loop(lanes))
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_float, ctypes.c_float)
    run = kind(engine.get_function_address("run"))  # ctypes releases the GIL

    def step() -> None:
        others = [
            threading.Thread(target=run, args=(REPEATS, 0.5, 0.5)) for _ in range(threads - 1)
        ]
        for other in others:
            other.start()
        run(REPEATS, 0.5, 0.5)
        for other in others:
            other.join()

    step.engine = engine  # type: ignore[attr-defined]  # the code lives as long as this
    return step, 2e-9 * REPEATS * CHAINS * lanes * threads


def torch(threads: int) -> tuple[Any, float]:
    """torch's product of two square matrices."""
    import torch

    torch.set_num_threads(threads)
    a, b, out = torch.randn(N, N), torch.randn(N, N), torch.empty(N, N)
    return lambda: torch.mm(a, b, out=out), 2e-9 * N**3


def numpy(threads: int) -> tuple[Any, float]:
    """NumPy's, by its BLAS library."""
    a, b = np.random.default_rng(0).standard_normal((2, N, N), dtype=np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out), 2e-9 * N**3


def program(name: str, threads: int) -> None:
    """Serve one of the three."""
    step, gflop = globals()[name](threads)
    serve(step, dict, size=lambda: gflop)


# --- the benchmark -------------------------------------------------------------------------------


def race(names: list[str], threads: int, options: Any) -> dict[str, list[float]]:
    """GFLOP/s, a list over rounds for each."""
    with tempfile.TemporaryDirectory() as place:
        running: list[Contestant] = []
        sizes: dict[str, float] = {}
        try:
            for name in options.kinds:
                say(f"{name}, {threads} threads, starts")
                words = [__file__, "--serve", name, "--threads", str(threads)]
                running.append(Contestant(name, words, threads))
                sizes[name] = running[-1].ask("size")
            for name in names:
                say(f"our LSTM at {name}, {threads} threads, starts, and compiles")
                path = Path(place) / f"{name}.npz"
                np.savez(path, **arrays(SHAPES[name], "train"))
                words = [str(BENCH / "programs.py"), "minigrad", str(path), "train"]
                running.append(Contestant(name, words, threads, **OURS))
                sizes[name] = flops(SHAPES[name], "train") / 1e9
            times = alternate(running, options.rounds, options.seconds)
        finally:
            for contestant in running:
                contestant.close()
    return {name: [sizes[name] / ms * 1e3 for ms in times[name]] for name in times}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--threads", default="1,2", help="(default: %(default)s)")
    add("--shapes", default="mid,big", help="(default: %(default)s)")
    add("--rounds", type=int, default=7, help="(default: %(default)s)")
    add("--seconds", type=float, default=0.5, help="a round of a contestant (default: %(default)s)")
    add("--quick", action="store_true", help="the peak and the small shape, two short rounds")
    add("--json", metavar="FILE", help="all rates")
    add("--serve", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        program(options.serve, int(options.threads))
        return 0
    if options.quick:
        options.shapes, options.rounds, options.seconds = "tiny", 2, 0.05
    threads = [int(n) for n in options.threads.split(",")]
    lines = headline(threads)
    print("\n".join(lines))
    options.kinds = present({name: "llvmlite" if name == "registers" else name for name in KINDS})
    names = options.shapes.split(",")
    rates = {count: race(names, count, options) for count in threads}
    print(f"\n{'threads':>7} {'what':10} {'GFLOP/s':>9} {'spread':>16} {'of the peak':>12}")
    verdicts: list[Verdict] = []
    for count, found in rates.items():
        peaks = np.max([found[name] for name in options.kinds], axis=0)
        for name, values in found.items():
            share = middle(np.array(values) / peaks)
            print(
                f"{count:7} {name:10} {middle(values):9.1f} {spread(values, 1):>16} {share:12.0%}"
            )
            if name in names:
                said = f"P5 {name} with {count}: {share:.0%} of the peak, at least {SHARE:.0%}"
                verdicts.append((said, share >= SHARE))
    save(options.json, {"where": lines, "rates": rates})
    return close(verdicts)


if __name__ == "__main__":
    sys.exit(main())

"""Each kernel of minigrad_numba against the op's forward on NumPy, at three sizes.

    PYTHONPATH=.:backends python tests/bench/kernels.py

Both run in this process, on one thread, round by round in turn; shown are medians over the rounds
and the median of the rounds' ratios. A kernel that wins at none of its sizes has no place: the
command then fails and names it.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import minigrad_numba
import numpy as np
from minigrad_numba import kernels

from minigrad.op import REGISTRY

ROUNDS = 9
SECONDS = 0.004  # of one round of one contestant
WIN = 1.1
T, B, H, V = 50, 50, 128, 96  # steps, batch, hidden units, characters

Call = Callable[[], Any]
F32, F64 = np.dtype("float32"), np.dtype("float64")


def ops() -> list[tuple[str, str, tuple[Any, ...], dict[str, Any]]]:
    """(op, what it is called on, operands, statics): what the steps of a small model call."""
    draw = np.random.default_rng(0)

    def normal(*shape: int, dtype: Any = F32) -> np.ndarray:
        return draw.standard_normal(shape).astype(dtype)

    rows: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = []
    for dtype in (F32, F64):
        for shape in ((1, H), (B, H), (T, B, 4 * H)):
            rows.append(("sigmoid", f"{dtype} {shape}", (normal(*shape, dtype=dtype),), {}))
        gate = normal(B, 4 * H, dtype=dtype)[:, H : 2 * H]
        rows.append(("sigmoid", f"{dtype} {gate.shape} a view", (gate,), {}))
    for shape in ((B, H), (B, 4 * H), (T, B, V)):
        rows.append(("exp", f"{F32} {shape}", (normal(*shape),), {}))
    for name in ("sum", "max", "logsumexp"):
        for dtype in (F32, F64):
            for shape in ((B, V), (T * B, V), (64, 1000)):
                static = {"axis": (1,), "keepdims": True}
                x = normal(*shape, dtype=dtype)
                rows.append((name, f"{dtype} {shape} axis 1", (x,), static))
    key = np.array([1, 2], np.uint32)
    for shape in ((B,), (B, H), (T, B, H)):
        rows.append(("random_bits", f"{shape}", (key,), {"shape": shape}))
        for dtype, words in ((F32, ()), (F64, (2,))):
            bits = kernels.random_bits(key, shape=shape + words)
            rows.append(("random_uniform", f"{dtype} {shape}", (bits,), {"dtype": dtype}))
    for numbers in (np.array(5), np.arange(B), np.arange(T * B)):
        rows.append(("random_fold", f"{numbers.shape}", (key, numbers), {}))
    rows.append(("random_next", "()", (np.array([1, 2]),), {}))
    return rows


def scatters() -> list[tuple[str, Call, Call]]:
    """(what, on NumPy, compiled): the gradient of an embedding's rows."""
    draw = np.random.default_rng(0)
    rows = []
    for size, width, count in ((V, H, B), (V, H, T * B), (10_000, 650, 700)):
        out, index = np.zeros((size, width), F32), (draw.integers(0, size, count),)
        values = draw.standard_normal((count, width)).astype(F32)

        def on_numpy(out: Any = out, index: Any = index, values: Any = values) -> None:
            np.add.at(out, index, values)

        def compiled(out: Any = out, index: Any = index, values: Any = values) -> None:
            kernels.scatter_add(out, index, values)

        rows.append((f"float32 {count} of {size} rows of {width}", on_numpy, compiled))
    return rows


def cases() -> list[tuple[str, str, Call, Call]]:
    """(kernel, size, on NumPy, compiled)."""

    def both(name: str, operands: Any, static: Any) -> tuple[Call, Call]:
        forward, kernel = REGISTRY[name].forward, kernels.KERNELS[name]
        return (lambda: forward(np, *operands, **static)), (lambda: kernel(*operands, **static))

    rows = [(name, what, *both(name, operands, static)) for name, what, operands, static in ops()]
    return rows + [("scatter_add", *row) for row in scatters()]


def microseconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats * 1e6


def compare(on_numpy: Call, compiled: Call) -> tuple[float, float, float]:
    """Median microseconds of both, and the median of the rounds' ratios."""
    calls = (on_numpy, compiled)
    for call in calls:
        call()  # compiles, or loads what was compiled
    repeats = [max(1, int(SECONDS * 1e6 / max(microseconds(call, 3), 0.1))) for call in calls]
    rounds = [
        [microseconds(call, n) for call, n in zip(calls, repeats, strict=True)]
        for _ in range(ROUNDS)
    ]
    first, second = (statistics.median(times) for times in zip(*rounds, strict=True))
    return first, second, statistics.median(a / b for a, b in rounds)


def verdict(ratio: float) -> str:
    return "wins" if ratio >= WIN else "loses" if ratio <= 1 / WIN else "even"


def main() -> int:
    np.seterr(all="ignore")
    backend = minigrad_numba.backend()
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, "
          f"Numba {backend.version}, one thread; {backend.note}")  # fmt: skip
    print(f"{'kernel':<15}{'size':<36}{'numpy us':>10}{'numba us':>10}{'ratio':>7}  verdict")
    won = dict.fromkeys([*kernels.KERNELS, "scatter_add"], 0)
    for name, what, on_numpy, compiled in cases():
        first, second, ratio = compare(on_numpy, compiled)
        won[name] += ratio >= WIN
        print(f"{name:<15}{what:<36}{first:>10.2f}{second:>10.2f}{ratio:>7.2f}  {verdict(ratio)}")
    useless = [name for name, count in won.items() if not count]
    print(f"FAIL: {', '.join(useless)} win nowhere" if useless else "PASS: every kernel wins")
    return bool(useless)


if __name__ == "__main__":
    sys.exit(main())

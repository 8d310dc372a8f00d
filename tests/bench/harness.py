"""What the benchmarks share: contestants in processes of their own, rounds, ratios, verdicts.

A contestant is a program that builds its step and calls `serve`; the benchmark starts one process
each, lets them take turns round by round, and quotes the median of the rounds' ratios.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BENCH = Path(__file__).resolve().parent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# What a contestant runs on, and what its results are compared with.
OURS = {"MINIGRAD_BACKEND": "numba"}
EAGER = {"MINIGRAD_BACKEND": "numpy", "MINIGRAD_COMPILE": "0"}
PACKAGES = ("torch", "jax", "autograd", "mygrad", "numba", "llvmlite")

Verdict = tuple[str, bool]
Arrays = dict[str, np.ndarray]


# --- the benchmark's side ------------------------------------------------------------------------


def say(*words: object) -> None:
    """Progress, on standard error: the tables on standard output stay as they are."""
    print(*words, file=sys.stderr, flush=True)


def environment(threads: int, **variables: str) -> dict[str, str]:
    """This process's environment with so many threads, our sources first, and nothing of ours set.

    PYTHONDONTWRITEBYTECODE goes: compiled modules are kept, as a user's are.
    """
    hidden = ("MINIGRAD_", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    counts = dict.fromkeys(THREADS, str(threads))
    paths = [str(ROOT), str(ROOT / "backends")]
    return {**kept, **counts, **variables, "PYTHONPATH": os.pathsep.join(paths)}


def run(*words: str, threads: int = 1, **variables: str) -> Any:
    """What a process of this interpreter prints last, as JSON; SystemExit if it fails."""
    done = subprocess.run(
        [sys.executable, *words],
        env=environment(threads, **variables),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"FAIL {' '.join(words)[:200]}: exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


class Contestant:
    """A process that waits to be asked: `check FILE`, `time SECONDS`, or what else it serves."""

    def __init__(self, name: str, words: Sequence[str], threads: int, **variables: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads, **variables),
        )

    def ask(self, order: str) -> Any:
        """Its answer; SystemExit if it has died."""
        assert self.process.stdin and self.process.stdout
        try:
            print(order, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise SystemExit(f"FAIL {self.name} died") from None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"FAIL {self.name} died")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def result(contestant: Contestant, folder: Path) -> Arrays:
    """What its program computes, through a file."""
    target = folder / f"{contestant.name}-{time.monotonic_ns()}.npz"
    contestant.ask(f"check {target}")
    found = dict(np.load(target))
    target.unlink()
    return found


def compare(name: str, found: Arrays, wanted: Arrays, tolerance: float = 1e-3) -> float:
    """The largest difference relative to each array's largest value; SystemExit if too large."""
    worst = 0.0
    for key, value in wanted.items():
        scale = float(np.abs(value).max()) + 1e-30
        error = float(np.abs(np.asarray(found[key], float) - value).max()) / scale
        if not error <= tolerance:
            raise SystemExit(f"FAIL {name}: {key} differs from eager NumPy's by {error:.1e}")
        worst = max(worst, error)
    return worst


def alternate(
    contestants: Sequence[Contestant], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds per step, a list over rounds for each; a first round warms up."""
    times: dict[str, list[float]] = {c.name: [] for c in contestants}
    for number in range(rounds + 1):
        for contestant in contestants:
            found = contestant.ask(f"time {seconds}")
            if number:
                times[contestant.name].append(found)
    return times


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> np.ndarray:
    """How many times as fast we are, round by round."""
    return np.array(theirs) / np.array(ours)


def middle(values: Iterable[float]) -> float:
    """The median."""
    return float(np.median(list(values)))


def spread(values: Iterable[float], digits: int = 2) -> str:
    """The least and the greatest."""
    known = list(values)
    return f"{min(known):.{digits}f}..{max(known):.{digits}f}"


def geometric(values: Iterable[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(list(values)))))


def processor() -> str:
    """The processor's name, and the widest vectors that it has."""
    name, flags = platform.processor(), ""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":")[1].strip()
            if line.startswith("flags"):
                flags = line
    widest = next((f for f in ("avx512f", "avx2") if f in flags), "")
    return f"{name} {widest}".strip()


def versions(packages: Sequence[str] = PACKAGES) -> list[str]:
    """Of the packages that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


BLAS = """
import json, numpy
try:
    import threadpoolctl
    found = [f"{p['internal_api']} {p['version']} for {p.get('architecture')}, "
             f"{p['num_threads']} threads" for p in threadpoolctl.threadpool_info()]
except ImportError:
    found = ["threadpoolctl is not installed"]
print(json.dumps(found))
"""


def headline(threads: Iterable[int]) -> list[str]:
    """Processor, threads, versions and NumPy's BLAS: what every published table carries."""
    lines = [f"{processor()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} at the start"]
    found = [f"Python {platform.python_version()}", f"NumPy {np.__version__}", *versions()]
    lines.append(", ".join(found))
    for count in threads:
        lines.append(f"BLAS at {count}: {'; '.join(run('-c', BLAS, threads=count))}")
    return lines


def present(needs: Mapping[str, str]) -> list[str]:
    """Those whose package is installed, of contestants and what each needs; the others are said."""
    absent = [name for name, package in needs.items() if not importlib.util.find_spec(package)]
    if absent:
        print(f"LEFT OUT, not installed: {', '.join(absent)}")
    return [name for name in needs if name not in absent]


def close(verdicts: Sequence[Verdict]) -> int:
    """Print the verdicts; 0 if all are good. A goal that is missed is said, and is no failure."""
    print()
    for words, good in verdicts:
        print("PASS" if good else "MISS" if " goal" in words else "FAIL", words)
    return 0 if all(good for words, good in verdicts if " goal" not in words) else 1


def save(path: str | None, content: Mapping[str, Any]) -> None:
    """Write a table as JSON, where a file was asked for."""
    if path:
        Path(path).write_text(json.dumps(content, indent=1))


# --- the contestant's side -----------------------------------------------------------------------


def serve(
    step: Callable[[], Any],
    check: Callable[[], Arrays],
    **more: Callable[[], Any],
) -> None:
    """Answer orders on standard input until it ends, in one line of JSON each.

    check FILE: write what the program computes; time SECONDS: the median of a step in ms, of at
    least three after one that is not counted; any other: what more[order] gives.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints stays out of the way
    for line in sys.stdin:
        order, _, argument = line.strip().partition(" ")
        reply: Any = "done"
        if order == "check":
            np.savez(argument, **check())
        elif order == "time":
            step()
            times: list[float] = []
            until = time.perf_counter() + float(argument)
            while time.perf_counter() < until or len(times) < 3:
                start = time.perf_counter()
                step()
                times.append(time.perf_counter() - start)
            reply = 1e3 * float(np.median(times))
        else:
            reply = more[order]()
        print(json.dumps(reply), file=answers, flush=True)

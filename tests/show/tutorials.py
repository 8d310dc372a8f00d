"""Run every tutorial, in full and fast, on NumPy and Numba, and print what it takes.

`python tests/show/tutorials.py [N ...]`. Processor seconds, on one thread: a tutorial takes at most
120 in full and 8 with MINIGRAD_TUTORIAL_FAST=1.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"full": 120.0, "fast": 8.0}
BACKENDS = ("numpy", "numba")


def rows() -> dict[str, list[str]]:
    """The rows of the lectures' table by tutorial, as tutorials/LECTURES.md has them.

    A row counts where its slide belongs to that tutorial; a slide of many rows may have several.
    """
    found: dict[str, list[str]] = {}
    for line in (ROOT / "tutorials/LECTURES.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6:
            for number in re.findall(r"\[(\d\d)\]", cells[4]):
                found.setdefault(number, []).extend(cells[1].split(", "))
    return {number: sorted(set(those)) for number, those in found.items()}


def run(path: Path, backend: str, how: str) -> tuple[float, str]:
    """Processor seconds of one run, and its last words if it failed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MINIGRAD_")}
    environment = {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")]),
        "MPLBACKEND": "Agg",
        "MINIGRAD_BACKEND": backend,
        "MINIGRAD_TUTORIAL_FAST": "1" if how == "fast" else "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(path)],
            capture_output=True, text=True, cwd=folder, env=environment,
        )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def main() -> int:
    wanted = {int(word) for word in sys.argv[1:]}
    columns = [(how, backend) for how in LIMITS for backend in BACKENDS]
    print(f"{'tutorial':34}{'lines':>6}", *(f"{h} {b}".rjust(11) for h, b in columns), " rows")
    taught, failures = rows(), []
    for path in sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py")):
        if wanted and int(path.name[:2]) not in wanted:
            continue
        lines = len(path.read_text("utf-8").splitlines())
        print(f"{path.stem:34}{lines:6}", end="", flush=True)
        for how, backend in columns:
            seconds, error = run(path, backend, how)
            print(f"{seconds:12.1f}", end="", flush=True)
            if error or seconds > LIMITS[how]:
                failures.append(
                    f"FAIL {path.stem}, {how}, {backend}: {error or f'{seconds:.1f} s'}"
                )
        print("  " + " ".join(taught.get(path.name[:2], ["-"])), flush=True)
    for line in failures:
        print(line)
    if not failures:
        print("PASS every tutorial runs within 120 s in full and 8 s fast, on both backends")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())

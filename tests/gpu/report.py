"""Run pytest on a machine with a GPU, and print what came out as a table in Markdown."""

from __future__ import annotations

import importlib
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path

OUTCOMES = ("passed", "failed", "skipped")
LIBRARIES = ("cupy", "numpy", "numba", "torch", "hypothesis", "pytest")


def machine(cupy, device: int) -> list[tuple[str, str]]:
    """The rows that say where it ran, on what."""
    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(device)

    def number(version: int) -> str:
        return f"{version // 1000}.{version % 1000 // 10}"

    def version(name: str) -> str:
        try:
            return importlib.import_module(name).__version__
        except ImportError:
            return "not installed"

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    capability = f"{properties['major']}.{properties['minor']}"
    return [
        ("device", f"{properties['name'].decode()}, compute capability {capability}"),
        ("memory", f"{properties['totalGlobalMem'] / 2**30:.0f} GiB"),
        ("CUDA", f"driver {number(runtime.driverGetVersion())}, "
                 f"runtime {number(runtime.runtimeGetVersion())}"),
        ("python", platform.python_version()),
        *((name, version(name)) for name in LIBRARIES),
        ("commit", commit.stdout.strip() or "not a git checkout"),
    ]  # fmt: skip


def read(path: Path) -> tuple[dict[tuple[str, str], Counter[str]], Counter[str]]:
    """Outcomes and seconds by (test file, backend), and how often each reason to skip was given."""
    results: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    for case in ElementTree.parse(path).iter("testcase"):
        children = {child.tag: child for child in case}
        parameters = case.get("name", "").partition("[")[2].rstrip("]").split("-")
        backend = next((name for name in ("cupy", "numba", "numpy") if name in parameters), "")
        outcome = "passed"
        if "failure" in children or "error" in children:
            outcome = "failed"
        elif "skipped" in children:
            outcome = "skipped"
            reasons[children["skipped"].get("message", "")] += 1
        row = results[case.get("classname", "").removeprefix("tests."), backend]
        row[outcome] += 1
        row["seconds"] += float(case.get("time", 0))  # type: ignore[assignment]
    return results, reasons


def table(
    rows: list[tuple[str, str]],
    results: dict[tuple[str, str], Counter[str]],
    reasons: Counter[str],
    seconds: float,
) -> str:
    """The whole report."""
    lines = ["# The suite on a GPU", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += ["", "| tests | backend | passed | failed | skipped | seconds |", "|" + "---|" * 6]
    for (name, backend), row in sorted(results.items()):
        cells = [name, backend, *(str(row[o]) for o in OUTCOMES), f"{row['seconds']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for backend in ("cupy", ""):
        chosen = [row for key, row in results.items() if not backend or key[1] == backend]
        total = [sum(row[outcome] for row in chosen) for outcome in OUTCOMES]
        spent = sum(row["seconds"] for row in chosen) if backend else seconds
        cells = [f"**all{' on ' + backend if backend else ''}**", backend, *map(str, total)]
        lines.append(f"| {' | '.join(cells)} | {spent:.1f} |")
    if reasons:
        lines += ["", "Skipped:", ""]
        lines += [f"- {count} x {reason}" for reason, count in reasons.most_common()]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    try:
        import cupy
        import minigrad_cupy

        backend = minigrad_cupy.backend()
    except (ImportError, RuntimeError) as error:
        print(f"FAIL no GPU to test on: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.xml")
        command = [sys.executable, "-m", "pytest", "-rs", f"--junitxml={path}", *arguments]
        began = time.perf_counter()
        status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        seconds = time.perf_counter() - began
        if not path.exists():
            print("FAIL pytest wrote no results", file=sys.stderr)
            return status or 1
        results, reasons = read(path)
    print(table(machine(cupy, backend.device), results, reasons, seconds))
    print(f"\npytest ended with status {status}: {'PASS' if status == 0 else 'FAIL'}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

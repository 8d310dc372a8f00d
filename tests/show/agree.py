"""Numba against NumPy on one seed, the messages without a GPU, and a training across backends.

    python tests/show/agree.py

Each side is a process of its own, chosen by MINIGRAD_BACKEND, as a user chooses it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "backends")]

import minigrad as mg  # noqa: E402

TRAIN = ("train", "--hidden", "64", "--steps", "200")
verdicts: list[bool] = []


def verdict(good: bool, words: str) -> None:
    verdicts.append(good)
    print("PASS" if good else "FAIL", words, flush=True)


def command(backend: str, folder: str, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    environment = {**os.environ, "PYTHONPATH": path, "MINIGRAD_BACKEND": backend}
    print(f"$ MINIGRAD_BACKEND={backend} minigrad-rnn {' '.join(words)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "minigrad_rnn.cli", *words],
        cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1])
    return done


def losses(folder: str, name: str) -> list[float]:
    values: list[float] = mg.load(Path(folder, name))[0]["losses"].tolist()
    return values


def largest(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def agree(folder: str) -> None:
    """200 steps on each, from one seed."""
    for backend in ("numpy", "numba"):
        command(backend, folder, *TRAIN, "--save", f"{backend}.safetensors")
    ours, theirs = losses(folder, "numba.safetensors"), losses(folder, "numpy.safetensors")
    print(f"losses: {theirs[0]:.6f} ... {theirs[-1]:.6f} on numpy, "
          f"{ours[0]:.6f} ... {ours[-1]:.6f} on numba")  # fmt: skip
    difference = largest(ours, theirs)
    verdict(difference <= 1e-4, f"200 losses differ by {difference:.1e}, at most 1e-4")


def messages(folder: str) -> None:
    """A backend that cannot run here, and one that there is not: one line each."""
    done = command("cupy", folder, *TRAIN, "--save", "cupy.safetensors")
    if done.returncode == 0:
        print("cupy runs here: it has no message to show")
    else:
        verdict(
            done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "cupy" in done.stderr,
            "without a GPU, cupy is an error of one line",
        )
    done = command("nubma", folder, "train")
    verdict(
        done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "numba" in done.stderr,
        "nubma is an error of one line, which names numba",
    )


def across(folder: str) -> None:
    """100 steps on numba, resumed on numpy, sampled on numba."""
    code = (  # the command would go on to 200
        "import dataclasses, sys; from minigrad_rnn.session import Session, Settings; "
        "from minigrad_rnn.text import default_corpus; "
        "session = Session(Settings(hidden=64, steps=200), default_corpus()); "
        "[session.advance() for _ in range(100)]; session.save('across.safetensors')"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True,
        env={**os.environ, "PYTHONPATH": path, "MINIGRAD_BACKEND": "numba"},
    )  # fmt: skip
    print("100 of 200 steps made on numba")
    for line in command(
        "numpy", folder, "train", "--resume", "--save", "across.safetensors"
    ).stdout.splitlines():
        if line.startswith(("note", "running", "done")):
            print(line)
    whole, mended = losses(folder, "numba.safetensors"), losses(folder, "across.safetensors")
    difference = largest(whole, mended)
    verdict(
        difference <= 1e-4, f"the curve differs from numba's own by {difference:.1e}, at most 1e-4"
    )
    texts = [
        command(
            "numba", folder, "sample", "--length", "200", "--model", f"{name}.safetensors"
        ).stdout
        for name in ("across", "numba")
    ]
    print(texts[0])
    verdict(texts[0] == texts[1] and len(texts[0]) > 200, "numba writes the same text from both")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        agree(folder)
        messages(folder)
        across(folder)
    return int(not all(verdicts))


if __name__ == "__main__":
    sys.exit(main())

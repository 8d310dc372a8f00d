"""The listings of six programs after all passes, kept in tests/ir as a detector of changes.

`python -m tests.ir --write` writes them anew; look at the difference before you keep it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import minigrad as mg
from minigrad.graph import fuse
from tests import graph_programs as programs

FOLDER = Path(__file__).with_name("ir")
PROGRAMS: dict[str, Callable[[], programs.Captured]] = {
    "lstm": programs.lstm_step,
    "gru": lambda: programs.lstm_step(kind="gru"),
    "clockwork": lambda: programs.cell("clockwork"),
    "attention": programs.attention,
    "bidirectional": lambda: programs.training("bidirectional"),
    "ragged": lambda: programs.training("ragged, both ways"),
}


def listing(name: str) -> str:
    """The text of a program as the NumPy or the Numba backend is given it, kernels made."""
    with mg.use_backend("numpy"):
        return f"{fuse(programs.optimised(PROGRAMS[name]()[0]))}\n"


def path(name: str) -> Path:
    return FOLDER / f"{name}.txt"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("python -m tests.ir --write")
    FOLDER.mkdir(exist_ok=True)
    for name in PROGRAMS:
        path(name).write_text(listing(name), "utf-8")

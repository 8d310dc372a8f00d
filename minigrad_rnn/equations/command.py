"""`minigrad-rnn equations`: prints formulas beside what graphs say, and checks both."""

from __future__ import annotations

import argparse
import re
import sys

import numpy as np

from minigrad_rnn.equations.case import DRAWS, EQUATIONS, TOLERANCE, lecture
from minigrad_rnn.formulas import readable
from minigrad_rnn.train_command import UsageError


def listing() -> str:
    """The equations by name, with their rows of the lectures' table."""
    rows = ((name, rows, readable(lecture(name)[0])) for name, (rows, _) in EQUATIONS.items())
    return "\n".join(f"{name:<12}{row:<10}{title}" for name, row, title in rows)


def numbered(text: str) -> set[int]:
    """The n of the book's equations 10.n that a text names, 10.40-10.44 being five of them."""
    spans = re.findall(r"(?<!Fig )\b10\.(\d{1,2})\b(?:-10\.(\d{1,2})\b)?", text)
    return {n for a, b in spans for n in range(int(a), int(b or a) + 1)}


def show(name: str) -> bool:
    """Print the lecture's formulas and the graph's, and how far their values differ."""
    rows, build = EQUATIONS[name]
    title, formulas = lecture(name)
    case = build(np.random.default_rng(0))
    print(f"{name} ({', '.join(rows.split())}): {readable(title)}")
    for source, lines in (("lecture", formulas), ("graph", list(map(str, case.printed())))):
        for line in lines:
            print(f"  {source:<9}{line}")
            if sys.stdout.isatty():
                print(f"  {'':<9}{readable(line)}")
    worst = np.max([build(np.random.default_rng(seed)).difference() for seed in range(DRAWS)])
    names = [readable(name) for name in case.expected()]
    names = names if len(names) < 9 else [*names[:8], f"and {len(names) - 8} more"]
    verdict = "equal" if worst <= TOLERANCE else f"NOT EQUAL, more than {TOLERANCE:g}"
    between = f"{', '.join(names)}: graph and the lecture's formula in NumPy differ"
    print(f"  {'check':<9}{between} by {worst:.1e}: {verdict}\n")
    return bool(worst <= TOLERANCE)


def run(options: argparse.Namespace) -> int:
    """Run the command: 0 where every check holds, else 1; UsageError for a name there is not."""
    if options.list:
        print(listing())
        return 0
    asked = options.name
    numbers = numbered(asked or "")
    found = [n for n, (rows, _) in EQUATIONS.items() if asked in (None, n, *rows.split())]
    found = found or [n for n in EQUATIONS if numbers & numbered(lecture(n)[0])]
    if not found:
        raise UsageError(f"there is no equation, row or number {asked!r}: --list says what is")
    held = [show(name) for name in found]
    print(f"{sum(held)} of {len(held)} equations hold for {DRAWS} draws of weights and inputs")
    return 0 if all(held) else 1

"""`minigrad-rnn figure`: lists the figures, writes one, or all of them into a folder."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
from pathlib import Path

from minigrad_rnn.figures import FIGURES, Figure
from minigrad_rnn.plots import saved
from minigrad_rnn.train_command import UsageError

PLOTS = (".png", ".svg", ".pdf")


def run(options: argparse.Namespace) -> int:
    """Run the command; 0."""
    if options.all is not None:
        return _all(options)
    if options.name is None or options.list:
        print(listing())
        return 0
    asked = find(options.name)
    path = Path(options.save or _file(asked))
    allowed = PLOTS if asked.plot else (".svg",)
    if path.suffix.lower() not in allowed:
        raise UsageError(f"--save {path}: figure {asked.name} is saved as {' or '.join(allowed)}")
    write(asked, path)
    print(f"{asked.title}: {asked.caption}\nwrote {path}")
    return 0


def find(name: str) -> Figure:
    """The figure of that name; UsageError with the nearest ones where there is none."""
    if name not in FIGURES:
        near = difflib.get_close_matches(name, FIGURES, 3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"there is no figure {name}; {hint}`minigrad-rnn figure` lists them")
    return FIGURES[name]


def listing() -> str:
    """All figures, a line each."""
    width = max(map(len, FIGURES))
    return "\n".join(f"{figure.name:{width}}  {figure.title}" for figure in FIGURES.values())


def write(figure: Figure, path: Path) -> None:
    """Draw a figure into a file; UsageError where it is a plot and matplotlib is missing."""
    if not figure.plot:
        figure.diagram().save(path)
    elif importlib.util.find_spec("matplotlib") is None:
        missing = "a plot, and matplotlib is not installed: pip install matplotlib"
        raise UsageError(f"figure {figure.name} is {missing}")
    else:
        saved(figure.build(), path, dpi=130)


def _all(options: argparse.Namespace) -> int:
    if options.name is not None or options.save is not None:
        raise UsageError("--all writes every figure: give it no name and no --save")
    folder = Path(options.all)
    folder.mkdir(parents=True, exist_ok=True)
    for figure in sorted(FIGURES.values(), key=lambda figure: figure.plot):  # plots may fail
        path = folder / _file(figure)
        write(figure, path)
        print(f"{path}  {figure.title}")
    return 0


def _file(figure: Figure) -> str:
    return f"figure-{figure.name}{'.png' if figure.plot else '.svg'}"

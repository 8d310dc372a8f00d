"""`python -m minigrad.graph show FILE.py:function`: a function's graph after each pass."""

from __future__ import annotations

import argparse
import operator
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigrad.backend import current
from minigrad.graph.building import stages
from minigrad.graph.compiled import Compiled
from minigrad.graph.fusing import fuse
from minigrad.graph.ir import Graph
from minigrad.graph.tracing import capture


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m minigrad.graph")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    show = commands.add_parser(
        "show",
        help="print the graph of a function after each pass",
        description="Runs FILE.py, and prints the graph of its last call of a compiled function, "
        "or of a function that needs no arguments.",
    )
    show.add_argument("function", metavar="FILE.py:function", help="such as train.py:step")
    where = parser.parse_args(arguments).function
    path, _, name = where.rpartition(":")
    if not Path(path).is_file() or not name:
        parser.error(f"{where!r}: write FILE.py:function, FILE.py a file that there is")
    sys.path.insert(0, str(Path(path).resolve().parent))
    found = runpy.run_path(path, run_name="__main__")
    first, _, rest = name.partition(".")
    try:
        function = operator.attrgetter(rest)(found[first]) if rest else found[first]
    except (KeyError, AttributeError):
        parser.error(f"{path} defines no {name!r}")
    if not callable(function):
        parser.error(f"{name!r} is no function")
    graph = _graph(function, name, parser)
    for title, graph in stages(graph, current()):  # noqa: B020
        print(f"# {title}\n{graph.text()}\n")
    print(f"# fuse\n{fuse(graph).text()}")


def _graph(function: Any, name: str, parser: argparse.ArgumentParser) -> Graph:
    function = getattr(function, "__func__", function)  # of a method
    if isinstance(function, Compiled):
        if function.last is None or function.last.captured is None:
            parser.error(f"{name!r} was not called, or not captured, when the file ran")
        return function.last.captured.graph
    try:
        return capture(function).graph
    except TypeError as error:
        parser.error(f"{error}: put @mg.compile above it, and call it in the file")


if __name__ == "__main__":
    main()

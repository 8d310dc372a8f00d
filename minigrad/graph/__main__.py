"""`python -m minigrad.graph show FILE.py:function`: a function's graph after each pass."""

from __future__ import annotations

import argparse
import operator
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minigrad.backend import current
from minigrad.graph.building import PASSES, stages, summary
from minigrad.graph.compiled import Compiled
from minigrad.graph.fusing import fuse
from minigrad.graph.ir import Graph
from minigrad.graph.tracing import capture

LINES = 200  # of a graph, unless all are asked for
RULES = {  # the first lines of the passes' files
    f.__name__: (sys.modules[f.__module__].__doc__ or f.__name__).splitlines()[0]
    for f in (capture, *PASSES, fuse)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m minigrad.graph")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    show = commands.add_parser(
        "show",
        help="print the graph of a function after each pass",
        description="Runs FILE.py, and prints what the last call of a compiled function in it was "
        "captured as, and what each pass has made of that; or the same of a function that needs no "
        "arguments. The passes are those for the current backend, MINIGRAD_BACKEND.",
    )
    show.add_argument(
        "function", metavar="FILE.py:function", help="such as train.py:step, or train.py:model.step"
    )
    show.add_argument("--all", action="store_true", help=f"graphs of over {LINES} lines in full")
    options = parser.parse_args(arguments)
    where = options.function
    path, _, name = where.rpartition(":")
    if not Path(path).is_file() or not name:
        parser.error(f"{where!r}: write FILE.py:function, FILE.py a file that there is")
    sys.path.insert(0, str(Path(path).resolve().parent))
    sys.argv = [path]  # those of show are none of the file's
    found = runpy.run_path(path, run_name="__main__")
    first, _, rest = name.partition(".")
    try:
        function = operator.attrgetter(rest)(found[first]) if rest else found[first]
    except (KeyError, AttributeError):
        parser.error(f"{path} defines no {name!r}")
    if not callable(function):
        parser.error(f"{name!r} is no function")
    graph = _graph(function, name, parser)
    before = ""
    for title, graph in _stages(graph):  # noqa: B020
        text = graph.text()
        print(f"# {RULES[title]}\n# {summary(graph)}")
        print("# as before\n" if text == before else f"{text if options.all else _cut(text)}\n")
        before = text


def _stages(graph: Graph) -> Iterator[tuple[str, Graph]]:
    for title, graph in stages(graph, current()):  # noqa: B020
        yield title, graph
    yield "fuse", fuse(graph)


def _cut(text: str) -> str:
    """The first lines of a long text, and how many there are more."""
    lines = text.splitlines()
    left = len(lines) - LINES
    return "\n".join([*lines[:LINES], f"# ... {left:,} more lines: --all"]) if left > 0 else text


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

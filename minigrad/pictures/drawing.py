"""`draw`: the graph of a tensor, of a function or of a captured program as a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import tree
from minigrad.graph import Captured, Graph, fold, unfold
from minigrad.pictures.facts import observe
from minigrad.pictures.naming import capture_named
from minigrad.pictures.recorded import graph_of, recorded
from minigrad.pictures.scene import scene
from minigrad.pictures.svg import Picture
from minigrad.tensor import Tensor

VIEWS = ("ops", "modules", "folded", "unfolded")


def draw(
    program: Tensor | Graph | Captured | Callable[..., Any],
    *args: Any,
    view: str | None = None,
    T: int = 4,
    values: bool = True,
    gradients: bool = True,
    limit: int = 400,
    direction: str | None = None,
) -> Picture:
    """A picture of what computed a tensor, or of what a function computes of `args`.

    view: "ops", a box for each op (of a tensor, whose recorded graph it is, the default);
    "folded", loops as frames with their delays as black squares (otherwise the default);
    "unfolded", the iterations of a loop from left to right, T of them and a box for the others;
    "modules", a box for each module call, in folded loops.

    A function is captured, so names of variables, parameters and modules are known, and run, for
    ranges (values) and gradient norms (gradients), unless both are False. A graph of
    `minigrad.fold` is drawn with the names that it has.

    values: show those of a tensor's graph of up to 4 elements. A graph keeps only what its rules
    need, and `backward` frees that, so some are unknown; hand over tensors as args to see theirs,
    and their names. gradients: `grad` is what a leaf's `.grad` holds (of a large one the norm);
    where nothing was freed, no hook waits and y is one number, `∂` is the derivative by the box.
    limit: so many nodes of a tensor's graph are drawn, those nearest to it, and so many steps of a
    graph, the last ones. direction: "down", "up" or, where there are no frames, "right".

    In a notebook a picture shows itself; `.svg` is its text; `.save("graph.svg")` writes it, as do
    "graph.html" (zoom, pan, groups that open and close, backward step by step) and "graph.dot".
    Raises TypeError for other programs, ValueError for another view, limit, T or direction.
    """
    if view is not None and view not in VIEWS:
        raise ValueError(f"view is {view!r}; write one of {', '.join(map(repr, VIEWS))}")
    for name, number in (("limit", limit), ("T", T)):
        if number < 1:
            raise ValueError(f"{name} is {number}; something must be drawn: write {name}=1")
    if isinstance(program, Tensor):
        if not all(isinstance(x, Tensor) for x in args):
            raise TypeError("draw takes tensors after a tensor, whose names and values it shows")
        if view == "modules":
            raise ValueError(
                "a tensor does not know the modules that made it; write "
                "draw(function, *args, view='modules')"
            )
        if view in (None, "ops"):
            return recorded(program, args, values, gradients, limit, direction or "down")
        return _picture(graph_of(program, args), view, T, limit, direction, None)
    if isinstance(program, (Graph, Captured)):
        if args:
            raise TypeError("draw takes no arguments after a graph, whose inputs are known")
        graph = program if isinstance(program, Graph) else program.graph
        return _picture(graph, view, T, limit, direction, None)
    if not callable(program):
        raise TypeError(f"draw takes a tensor, a function or a graph, not {type(program).__name__}")
    captured = capture_named(program, *args)
    known = captured.inputs(tree.flatten(args)[0]) if values or gradients else None
    return _picture(captured.graph, view, T, limit, direction, known, values, gradients)


def _picture(
    graph: Graph,
    view: str | None,
    T: int,
    limit: int,
    direction: str | None,
    inputs: list[Tensor] | None,
    values: bool = False,
    gradients: bool = False,
) -> Picture:
    graph = unfold(graph) if view == "ops" else fold(graph)
    drawn = scene(graph, view or "folded", T, limit)
    steps = observe(drawn, graph, inputs, values, gradients) if inputs is not None else []
    title = f"graph of {', '.join(v.name or 'a value' for v in graph.outputs[:3])}"
    return Picture(
        drawn.boxes,
        drawn.edges,
        groups=drawn.groups,
        title=title,
        direction=direction or "up",
        steps=steps,
    )

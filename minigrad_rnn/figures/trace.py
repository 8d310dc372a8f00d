"""A program's variables found again in its graph, and the graph reduced to them as a panel.

A program returns its variables by name: a list for one that each step has anew, else the tensor.
It is captured and folded; the circuit comes from the folded graph, the drawing step by step from
the same graph unfolded. Which arrows there are, the graph says; where things stand, the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import minigrad as mg
from minigrad import tree
from minigrad.graph import Graph, Link, Value, capture, contract, inside, maker
from minigrad.pictures import Arrow, Panel, Spot

ELISION = "…"
SYMBOLS = {"add": "+", "multiply": "×"}
Names = dict[Value, Any]
Columns = Sequence[str] | Mapping[str, Sequence[str]]
Places = Mapping[str, tuple[float, ...]]


class Trace:
    """program(*args), captured and folded; weights: tensors that label the paths they are on.

    A variable is a tensor or a nest of them. find: more variables, from the graph and these.
    """

    def __init__(
        self,
        program: Callable[..., Any],
        *args: Any,
        weights: Mapping[str, Any] | None = None,
        find: Callable[[Graph, Names], Names] | None = None,
    ) -> None:
        captured = capture(program, *args)
        self.graph = mg.fold(captured)
        self.captured, self.find = captured, find
        names = {id(tensor): name for name, tensor in (weights or {}).items()}
        held = [id(getattr(source, "tensor", None)) for source in captured.sources]
        self.weights = {
            value: names[tensor]
            for value, tensor in zip(captured.graph.inputs, held, strict=True)
            if tensor in names
        }

    def unfolded(self) -> tuple[Graph, Names]:
        """Every step written out; the variables are (name, step), step None where there is one."""
        graph = mg.unfold(self.graph)
        named = self._named(graph)
        return graph, named | (self.find(graph, named) if self.find else {})

    def folded(self) -> tuple[Graph, Names]:
        """With loops; a variable is its name, whatever the step."""
        named = {value: name for value, (name, _) in self._named(self.graph).items()}
        named = inside(self.graph, named)
        return self.graph, named | (self.find(self.graph, named) if self.find else {})

    def _named(self, graph: Graph) -> Names:
        named: Names = {}
        values = iter(graph.outputs)
        returned = [next(values) if isinstance(x, Value) else x for x in self.captured.returned]
        variables: dict[str, Any] = self.captured.rebuild(returned)
        for name, found in variables.items():
            each = enumerate(found) if isinstance(found, list) else [(None, found)]
            for step, nest in each:
                leaves = (leaf for leaf in tree.flatten(nest)[0] if isinstance(leaf, Value))
                named.update(dict.fromkeys(leaves, (name, step)))
        return named

    def links(self, graph: Graph, named: Names) -> list[Link]:
        """The edges between variables."""
        return contract(graph, named, self.weights)


class _Key(NamedTuple):
    """A variable at a step (None: it has one value) and what its columns are called."""

    name: str
    step: int | None
    columns: Sequence[str]

    @property
    def called(self) -> str:
        if self.step is None:
            return ""
        return self.columns[self.step] if self.step < len(self.columns) else f"{self.step + 1}"

    @property
    def elided(self) -> bool:
        return self.called == ELISION

    @property
    def text(self) -> str:
        """`h(t-1)`; of a column that is not drawn in full `h(…1)`, told apart by its step."""
        if self.step is None:
            return self.name
        return f"{self.name}({self.called}{self.step + 1 if self.elided else ''})"

    def at(self, of: Mapping[str, str]) -> str:
        """Where it is drawn: a gradient at what it is the gradient of."""
        return self._replace(name=of.get(self.name, self.name)).text


@dataclass(frozen=True)
class Look:
    """How variables are drawn, those that are left out of `at` not at all.

    at: column (the first), row and, for a variable that each step has anew, columns a step (1).
    labels and kinds: as Spot has them. bends: of arrows, from variable to variable or, as they are
    named in the picture, from `y(1)` to `y(3)`. operators: of which variables the op that makes
    them stands apart, and where, as `+` or `×`. gradients: of which variables others are the
    gradients; these arrows are drawn where those are.
    """

    at: Places
    labels: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    bends: Mapping[tuple[str, str], float] = field(default_factory=dict)
    operators: Places = field(default_factory=dict)
    gradients: Mapping[str, str] = field(default_factory=dict)

    def spot(self, name: str, key: _Key | None = None) -> Spot:
        """Where a variable, or one of its steps, stands."""
        (x, y, *by), label = self.at[name], self.labels.get(name, name)
        if key is not None and key.step is not None:
            x += key.step * (by[0] if by else 1)
            label += f"^({key.called})" if label and key.columns else ""
        elided = key is not None and key.elided
        return Spot(x, y, label.replace("-", "−"), self.kinds.get(name, "variable"), elided)


def circuit(trace: Trace, look: Look, title: str = "") -> Panel:
    """The folded graph: each variable once, a black square where a loop carries it on."""
    graph, found = trace.folded()
    named = {value: name for value, name in found.items() if name in look.at}
    apart = {}
    for value, name in named.items():
        step = maker(graph, value) if name in look.operators else None
        if step is not None and step.op.name in SYMBOLS:
            apart[name] = f"{SYMBOLS[step.op.name]} {name}"
    spots = {name: look.spot(name) for name in look.at}
    spots |= {k: Spot(*look.operators[name][:2], k[0], "operator") for name, k in apart.items()}
    arrows = []
    for link in trace.links(graph, named):
        ends = link.source, apart.get(link.target, link.target)
        arrows.append(Arrow(*ends, " ".join(link.weights), link.delay, bend=look.bends.get(ends)))
    arrows += [Arrow(key, name, bend=look.bends.get((key, name))) for name, key in apart.items()]
    return Panel(spots, arrows, title)


def steps(trace: Trace, look: Look, columns: Columns = (), title: str = "") -> Panel:
    """The unfolded graph, a column a step; what the columns are called, for all variables or each.

    Of a column called `…` only what has an edge to another column stays, and is drawn dashed.
    """
    graph, found = trace.unfolded()
    at, of = look.at, look.gradients
    column = columns if isinstance(columns, Mapping) else dict.fromkeys(at, columns)
    named = {
        value: _Key(*key, tuple(column.get(key[0], ())))
        for value, key in found.items()
        if key[0] in {*at, *of}
    }
    links = [
        link
        for group in (at, of)  # gradients come from values too, but flow from gradient to gradient
        for link in trace.links(graph, {v: key for v, key in named.items() if key.name in group})
    ]
    whole = {key for key in named.values() if not key.elided}
    used = whole | {end for link in links if whole & {*link[:2]} for end in link[:2]}
    keys = [key for key in named.values() if key.name in at and key in used]
    arrows = []
    for link in links:
        if used >= {*link[:2]}:
            a, b = link.source, link.target
            ends = a.at(of), b.at(of)
            kind = "dashed" if a.elided or b.elided else "backward" if a.name in of else "solid"
            bend = look.bends.get(ends, look.bends.get((a.name, b.name)))
            arrows.append(Arrow(*ends, " ".join(link.weights), kind=kind, bend=bend))
    return Panel({key.text: look.spot(key.name, key) for key in keys}, arrows, title)

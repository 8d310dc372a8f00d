"""What an equation is: a formula of the lectures, a program whose graph says it, a check in NumPy.

A function entered by `equation` is one: its docstring has the lecture's own formula, `program` is
what is captured, with the package's own cell where there is one, `reference` says in NumPy what its
named values are, for t = 1, 2, ... Cells compute with rows, x W where a lecture writes W x; what is
no cell is written with columns.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.graph import Equation, Graph, capture, equations, evaluate, fold, label
from minigrad_rnn.train_command import UsageError

T, D, H, V = 3, 3, 2, 4  # steps, input, hidden, outputs
DRAWS = 4  # of weights and inputs, for a check
TOLERANCE = 1e-12
F8: Any = {"dtype": "float64"}
Arrays = dict[str, Any]
Steps = Iterator[Arrays]


@dataclass
class Case:
    """A program, and a reference that takes the arrays of its inputs and yields named values."""

    program: Callable[..., Any]
    reference: Callable[..., Steps]
    inputs: dict[str, mg.Tensor]
    folded: bool = True
    parts: dict[str, list[str]] = field(default_factory=dict)  # of the cell's weights
    inside: dict[str, str] = field(default_factory=dict)  # names of the cell's own results, by op
    constants: Arrays = field(default_factory=dict)  # what else stands in the lecture's formula

    def captured(self) -> tuple[Graph, Arrays]:
        """The flat graph, and the values of each name in it for the inputs, in order."""
        traced = capture(self.program, *self.inputs.values())
        for op, words in self.inside.items():
            for i, step in enumerate(s for s in traced.graph.steps if s.op.name == op):
                for value, name in zip(
                    step.outputs, words.split()[i % len(words.split())].split(",")
                ):
                    value.name = name if name != "-" else value.name
        named = tuple(v for step in traced.graph.steps for v in step.outputs if v.name)
        graph = Graph(traced.graph.inputs, traced.graph.steps, named)
        found = evaluate(graph, traced.inputs(list(self.inputs.values())))
        return traced.graph, collect({v.name: y.numpy()} for v, y in zip(named, found, strict=True))

    def printed(self) -> tuple[Equation, ...]:
        """The formulas of the graph, its loop found again."""
        graph = fold(self.captured()[0]) if self.folded else self.captured()[0]
        return equations(Graph(graph.inputs, graph.steps, ()), self.parts)

    def expected(self) -> Arrays:
        """What NumPy says of each name, in order."""
        return collect(self.reference(*(x.numpy() for x in self.inputs.values())))

    def difference(self) -> float:
        """The largest between the graph's values and NumPy's; infinite if names are missing.

        NaN where either has one: `np.max` keeps it, Python's `max` only if it comes first.
        """
        found, expected = self.captured()[1], self.expected()
        shapes = [{k: np.shape(v) for k, v in x.items()} for x in (found, expected)]
        if not found or shapes[0] != shapes[1]:
            return np.inf
        return float(np.max([np.max(np.abs(np.subtract(found[k], expected[k]))) for k in found]))


EQUATIONS: dict[str, tuple[str, Callable[[np.random.Generator], Case]]] = {}  # name: rows, function


def equation(rows: str) -> Callable[[Any], Any]:
    """Enter a function under its name, with the rows of the lectures' table."""
    return lambda build: EQUATIONS.setdefault(build.__name__, (rows, build))[1]


def lecture(name: str) -> tuple[str, list[str]]:
    """What the equation is and where it stands; the lecture's formulas."""
    text = inspect.getdoc(EQUATIONS[name][1])
    if text is None:
        raise UsageError("python -OO drops the formulas, which are docstrings: run without it")
    title, formulas = text.split("\n\n")
    return " ".join(title.split()), re.sub(r"\n +", " ", formulas).splitlines()


def collect(steps: Any) -> Arrays:
    """The values of each name, from those of each step."""
    found: Arrays = {}
    for step in steps:
        for name, value in step.items():
            found.setdefault(name, []).append(value)
    return found


def named(name: str, values: Any) -> mg.Tensor:
    """A tensor with a name that requires a gradient."""
    tensor = mg.Tensor(values, requires_grad=True, dtype="float64")
    tensor.name = name
    return tensor


def draw(rng: np.random.Generator, shapes: dict[str, Any]) -> dict[str, mg.Tensor]:
    """Tensors of normal numbers; those called y and k hold T and one one-hot columns."""
    columns = np.eye(V)[rng.integers(V, size=T)][..., None]
    chosen = {"y": columns, "k": columns[0]}
    return {n: named(n, chosen.get(n, rng.normal(size=s))) for n, s in shapes.items()}


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def softmax(x: Any) -> Any:
    """exp(x) / sum(exp(x))."""
    return np.exp(x) / np.exp(x).sum()


def of_cell(
    rng: Any,
    cell: Any,
    weights: dict[str, str],
    state: str,
    reference: Any,
    output: str = "",
    **inside: str,
) -> Case:
    """A cell unrolled over T steps of one row.

    weights: what the parts of its weights are called; state: what the parts of its state, output
    what y is where it is none of them; inside: what its own results are, by op, - for no name.
    """
    parts = {name: words.split() for name, words in weights.items()}
    known: Arrays = {}
    for name, p in cell.named_parameters():
        p.name = name if len(parts[name]) > 1 else parts[name][0]
        p.assign(rng.normal(size=p.shape))
        split = p.numpy() if name == "p" else np.split(p.numpy(), len(parts[name]), -1)
        known |= dict(zip(parts[name], split, strict=True))
    starts = [f"{name}^{{(0)}}" for name in state.split()]
    inputs = draw(rng, {"x": (T, 1, D)} | dict.fromkeys(starts, (1, H)))

    def program(xs: Any, *given: Any) -> None:
        now = given if len(given) > 1 else given[0]
        for x in xs:
            y, now = cell(x, now)
            for part, name in zip(mg.tree.flatten(now)[0], state.split(), strict=True):
                label(part, name)
            if output:
                label(y, output)

    return Case(
        program,
        lambda *given: reference(known | dict(zip(inputs, given, strict=True))),
        inputs,
        parts={name: words for name, words in parts.items() if len(words) > 1},
        inside=inside,
        constants=known,
    )

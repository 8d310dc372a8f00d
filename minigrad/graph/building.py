"""Program: a graph becomes one, by passes and then by the backend, which may emit code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad.backend import Backend, use_backend, users_level
from minigrad.graph.absorbing import absorb
from minigrad.graph.fission import distribute
from minigrad.graph.gathering import whole
from minigrad.graph.interpreter import evaluate
from minigrad.graph.ir import Graph, Instruction
from minigrad.graph.lowering import lower
from minigrad.graph.properties import PRODUCT
from minigrad.graph.rolling import fold
from minigrad.graph.simplifying import simplify
from minigrad.op import bare, execute, mode
from minigrad.tensor import Tensor, make

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    fold,
    absorb,
    simplify,
    lower,
    whole,
    distribute,
    simplify,
)


class Program:
    """A graph, optimised, and what the backend makes of it; without that it is interpreted.

    A backend may have `emit(graph)`, which returns what is called with the inputs' arrays, gives
    the outputs' arrays, and has report() and source(). Where it raises NotImplementedError, a
    warning says so.
    """

    def __init__(self, graph: Graph, backend: Backend) -> None:
        self.passed: list[str] = []
        for name, graph in stages(graph, backend):  # noqa: B020  the last one is what counts
            self.passed.append(f"{name + ':':11} {summary(graph)}")
        self.emitted: Any = None
        self.refused = ""
        try:
            if emit := getattr(backend, "emit", None):
                self.emitted = emit(graph)
        except NotImplementedError as error:  # a program that is rarer than those of the tests
            self.refused = f": {error}"
            said = f"a compiled function is interpreted on {backend.name}{self.refused}"
            warnings.warn(said, RuntimeWarning, stacklevel=users_level())
        self.plain = graph  # of ops alone: a backend may have fused some
        self.graph, self.backend = getattr(self.emitted, "graph", graph), backend

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, which are never memory that a later call writes to.

        Whoever stands at the choke point `run` sees every op: the graph is interpreted then.
        """
        if self.emitted is None or mode.get().run is not execute:
            return [y.detach() for y in evaluate(self.plain, inputs)]
        made = self.emitted([bare(x) for x in inputs])
        return [make(array, self.backend) for array in made]

    def report(self) -> str:
        """What each pass has left, and what the backend has to say about that."""
        alone = f"interpreted on {self.backend.name}{self.refused}"
        said = self.emitted.report() if self.emitted else alone
        return "\n".join([*self.passed, said])

    def source(self) -> str:
        """The text that the backend generated."""
        return self.emitted.source() if self.emitted else "interpreted"


def stages(graph: Graph, backend: Backend) -> Iterator[tuple[str, Graph]]:
    """The captured graph, and the graph after each pass, by name."""
    yield "capture", graph
    with use_backend(backend):  # that of constants which passes make
        for optimise in PASSES:
            graph = optimise(graph)
            yield optimise.__name__, graph


def summary(graph: Graph) -> str:
    """`76 steps; loops of 100 and 98 with 20 and 36; products: 2 outside, 3 in loops`."""
    loops = graph.loops()
    inside = [s for loop in loops for s in loop.body if isinstance(s, Instruction)]
    around = [s for s in graph.steps if isinstance(s, Instruction)]
    products = [sum(s.op is PRODUCT for s in steps) for steps in (around, inside)]
    steps = len(graph.steps)
    found = [f"{steps} step{'s' * (steps != 1)}"]
    found += [f"a loop of {loop.trips} with {len(loop.body)}" for loop in loops[:4]]
    found += [f"{len(loops) - 4} more loops"] * (len(loops) > 4)
    return f"{', '.join(found)}; products: {products[0]} outside of loops, {products[1]} inside"

"""Captured: a program, where its inputs come from and where its outputs go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.backend import current
from minigrad.graph.circumstances import Circumstances
from minigrad.graph.interpreter import evaluate
from minigrad.graph.ir import CaptureError, Graph, Value
from minigrad.graph.sources import Gradient, Held, Source, refuse_twice
from minigrad.ops.random import Key
from minigrad.spec import Spec
from minigrad.tensor import Node, Tensor


@dataclass(eq=False)
class Captured:
    """A captured function: its graph, where the inputs come from and where the outputs go.

    Called with arguments like those it was captured with, it computes what the function would, and
    then commits all assignments and gradients together.
    """

    graph: Graph
    sources: tuple[Source, ...]
    targets: tuple[Source, ...]  # of the graph's last outputs; what is returned stands before them
    cleared: tuple[Gradient, ...]  # those that become None
    gradients: tuple[tuple[Gradient, bool], ...]  # whether a .grad that was looked at was None
    arguments: tuple[Any, ...]  # leaves: the Spec of a tensor or an array, else the value itself
    nest: str  # of the arguments, without the leaves
    rebuild: Callable[[Sequence[Any]], Any]
    returned: tuple[Any, ...]  # leaves: a Value's place among the outputs is taken in order
    circumstances: Circumstances
    leaves: InitVar[Sequence[Any]]
    bound: tuple[tuple[Tensor, Node | None, Any, Any], ...] = field(init=False)
    around: set[Any] = field(init=False)  # of what tensors around f, or their .grad, came
    shared: list[bool] = field(init=False)  # whether arguments are among these

    def __post_init__(self, leaves: Sequence[Any]) -> None:
        used = (*self.sources, *self.targets, *self.cleared)
        held = [s.tensor for s in used if isinstance(s, Held)]
        self.bound = tuple((x, x.node, x.backend, _hooks(x)) for x in dict.fromkeys(held))
        self.around = {place_of(x) for x in held}
        self.around |= {(s.node, 0) for s in used if isinstance(s, Gradient) and s.position is None}
        self.shared = self._shared(leaves)

    def _shared(self, leaves: Sequence[Any]) -> list[bool]:
        return [isinstance(x, Tensor) and place_of(x) in self.around for x in leaves]

    def __call__(self, *args: Any) -> Any:
        leaves, _ = flatten(args)
        self.check(leaves)
        if (nest := nest_of(args)) != self.nest:
            raise CaptureError(f"captured for arguments {self.nest}, not {nest}")
        if was := self.difference(leaves):
            raise CaptureError(f"captured {was}, which is otherwise now; capture it anew")
        refuse_twice(leaves, self.targets)
        places = self.places(leaves)
        return self.commit(places, evaluate(self.graph, self.inputs(leaves)))

    def check(self, leaves: Sequence[Any]) -> None:
        """Raise CaptureError for leaves of a call's arguments that are of another signature."""
        if len(leaves) != len(self.arguments):
            raise CaptureError(f"captured for {len(self.arguments)} arguments, not {len(leaves)}")
        for i, (was, now) in enumerate(zip(self.arguments, leaves, strict=True)):
            if not (spec_of_leaf(now) == was if isinstance(was, Spec) else _same(was, now)):
                shown = spec_of_leaf(now) if is_array(now) else repr(now)
                raise CaptureError(f"captured for argument {i} = {was}, not {shown}")

    def difference(self, leaves: Sequence[Any]) -> str | None:
        """What is otherwise now than at the capture, if anything is."""
        for tensor, node, backend, hooks in self.bound:
            if tensor.node is not node or tensor.backend is not backend:
                return f"with {tensor.name or 'a tensor'} on {backend.name!r}"
            if _hooks(tensor) != hooks:
                return f"with other hooks of {tensor.name or 'a tensor'}"
        if self._shared(leaves) != self.shared:
            return "with an argument that is a tensor around it, or is none any more"
        for gradient, none in self.gradients:
            if (gradient.place(leaves).grad is None) != none:
                return f"with a .grad that was {'' if none else 'not '}None"
        return self.circumstances.difference()

    def inputs(self, leaves: Sequence[Any]) -> list[Tensor]:
        """The graph's inputs for the leaves of a call's arguments: handles of their own."""
        return [source.read(leaves) for source in self.sources]

    def places(self, leaves: Sequence[Any]) -> list[Tensor | Node]:
        """What takes the graph's last outputs, then what is cleared."""
        return [target.place(leaves) for target in (*self.targets, *self.cleared)]

    def commit(self, places: Sequence[Tensor | Node], outputs: Sequence[Tensor]) -> Any:
        """Assign all that is to be assigned, and return what the function returns.

        Ctrl-C in between does not part what belongs together.
        """
        count = len(outputs) - len(self.targets)
        values = [*outputs[count:], *[None] * len(self.cleared)]
        try:
            _commit(places, values)
        except KeyboardInterrupt:
            _commit(places, values)
            raise
        results = iter(outputs[:count])
        return self.rebuild([next(results) if isinstance(x, Value) else x for x in self.returned])


def place_of(x: Tensor) -> Any:
    """What is one for handles on one value: an output of a node, or the tensor itself."""
    return x if x.node is None else (x.node, x.index)


def _hooks(x: Tensor) -> list[Any] | None:
    return [*x.node.hooks] if x.node is not None and x.node.hooks else None


def _commit(places: Sequence[Tensor | Node], values: Sequence[Tensor | None]) -> None:
    for place, value in zip(places, values, strict=True):
        if isinstance(place, Node):
            place.grad = value
        else:
            place.assign(value)


def flatten(nest: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """tree.flatten, in which a key of random numbers is a nest as well, of its words."""
    leaves, rebuild = tree.flatten(nest)
    keys = {i for i, x in enumerate(leaves) if isinstance(x, Key)}
    if not keys:
        return leaves, rebuild

    def rebuilt(values: Sequence[Any]) -> Any:
        return rebuild([Key(x) if i in keys else x for i, x in enumerate(values)])

    return [x.words if i in keys else x for i, x in enumerate(leaves)], rebuilt


def is_array(x: Any) -> bool:
    """Whether a leaf of the arguments is a tensor or an array, and so an input."""
    return isinstance(x, (Tensor, np.ndarray, current().xp.ndarray))


def spec_of_leaf(x: Any) -> Spec | None:
    """Shape and dtype of a leaf that is an input."""
    return Spec(tuple(x.shape), x.dtype) if is_array(x) else None


def nest_of(args: tuple[Any, ...]) -> str:
    """How arguments are nested, `({'a': ..., 'b': ...},)`."""
    return repr(tree.map(lambda leaf: ..., args)).replace("Ellipsis", "...")


def _same(was: Any, now: Any) -> bool:
    return was is now or (type(was) is type(now) and bool(was == now))

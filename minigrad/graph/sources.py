"""Where a captured function's inputs come from, and where its outputs go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minigrad.graph.ir import CaptureError
from minigrad.op import bare
from minigrad.ops import random
from minigrad.tensor import Node, Tensor, make


@dataclass(frozen=True, eq=False)
class Argument:
    """Input or output: the n-th leaf of the call's arguments, a tensor or an array."""

    position: int

    def read(self, arguments: Sequence[Any]) -> Tensor:
        """The value in a call with these leaves of arguments."""
        given = arguments[self.position]
        return handle(given) if isinstance(given, Tensor) else Tensor(given)

    def place(self, arguments: Sequence[Any]) -> Tensor:
        """The tensor to assign in a call with these leaves of arguments."""
        given = arguments[self.position]
        if not isinstance(given, Tensor) or not given.is_leaf:
            raise CaptureError(f"argument {self.position} is assigned: pass a tensor, and a leaf")
        return given


@dataclass(frozen=True, eq=False)
class Held:
    """Input or output: the value of a tensor that existed before the call."""

    tensor: Tensor

    def read(self, arguments: Sequence[Any]) -> Tensor:
        """The value now."""
        return handle(self.tensor)

    def place(self, arguments: Sequence[Any]) -> Tensor:
        """The tensor."""
        return self.tensor


@dataclass(frozen=True, eq=False)
class Ambient:
    """Input or output: the state of the ambient generator, whichever tensor that is."""

    @property
    def tensor(self) -> Tensor:
        return random.generator

    def read(self, arguments: Sequence[Any]) -> Tensor:
        """The state now."""
        return handle(self.tensor)

    def place(self, arguments: Sequence[Any]) -> Tensor:
        """The tensor that holds it."""
        return self.tensor


@dataclass(frozen=True, eq=False)
class Gradient:
    """Input or output: the `.grad` of a leaf from before the call, or of the n-th argument."""

    node: Node
    position: int | None = None

    def read(self, arguments: Sequence[Any]) -> Tensor:
        """The gradient in a call with these leaves of arguments."""
        grad = self.place(arguments).grad
        if grad is None:
            raise CaptureError("captured with a gradient in a .grad that is None now")
        return handle(grad)

    def place(self, arguments: Sequence[Any]) -> Node:
        """The node whose .grad is meant in a call with these leaves of arguments."""
        given = self if self.position is None else arguments[self.position]
        node: Node | None = getattr(given, "node", None)  # an array has none
        if node is None:
            raise CaptureError(f"captured with an argument {self.position} that requires_grad")
        return node


Source = Argument | Held | Ambient | Gradient


def handle(x: Tensor) -> Tensor:
    """Another handle of the same value: what a tensor is now, whatever it is assigned later."""
    return make(bare(x), x.backend, x.node, x.index)


def refuse_twice(leaves: Sequence[Any], targets: Sequence[Source]) -> None:
    """Refuse one tensor at two positions where its gradient or an assignment would be lost."""
    assigned = {target.position for target in targets if isinstance(target, Argument)}
    first: dict[int, int] = {}
    for i, x in enumerate(leaves):
        if isinstance(x, Tensor):
            before = first.setdefault(id(x if x.node is None else x.node), i)
            if before != i and (x.node is not None or assigned & {before, i}):
                raise CaptureError(f"one tensor is argument {before} and {i}; pass it once")

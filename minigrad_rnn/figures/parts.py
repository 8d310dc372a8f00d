"""What the figures' programs are made of: inputs, a cell, a function that is watched.

Graphs are captured from shapes alone, so all inputs are zeros. Letters: B batch, D input, H hidden,
V outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minigrad as mg
from minigrad.nn import Linear, Module, Parameter
from minigrad_rnn.figures.trace import ELISION, Look

B, D, H, V = 1, 2, 3, 4
MIDDLE = (ELISION, "t-1", "t", "t+1", ELISION)  # what the book shows of a long sequence
T = len(MIDDLE)


def vectors(steps: int, size: int = D) -> mg.Tensor:
    """Inputs (steps, B, size)."""
    return mg.zeros((steps, B, size))


def symbols(steps: int) -> mg.Tensor:
    """Symbols (steps, B)."""
    return mg.zeros((steps, B), dtype="int64")


def weight(*shape: int) -> Parameter:
    """A weight of that shape."""
    return Parameter(mg.zeros(shape))


class Watched:
    """A function; `take` gives what it was given and what it made since it was last asked."""

    def __init__(self, function: Callable[[Any], Any] = mg.tanh) -> None:
        self.function = function
        self.seen: list[tuple[Any, Any]] = []

    def __call__(self, x: Any) -> Any:
        self.seen.append((x, self.function(x)))
        return self.seen[-1][1]

    def take(self) -> list[tuple[Any, Any]]:
        """(given, made) of each call; a program takes them all: its values end with its capture."""
        seen, self.seen = self.seen, []
        return seen


class Driven(Module):
    """h' = tanh(u + h W): a cell whose input u is a sum of products made elsewhere."""

    def __init__(self) -> None:
        self.W = weight(H, H)

    def initial_state(self, batch: int) -> mg.Tensor:
        """Zeros (B, H)."""
        return mg.zeros((batch, H))

    def __call__(self, u: mg.Tensor, state: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        h = mg.tanh(u + state @ self.W)
        return h, h


def readout() -> Linear:
    """The output layer, whose matrix the book calls V."""
    return Linear(H, V)


def rows(*names: str) -> Look:
    """Variables in one column, the first at the bottom."""
    return Look({name: (0, row) for row, name in enumerate(names)})


def record(found: dict[str, list[Any]], **now: Any) -> None:
    """Append to each variable's list what it is at this step."""
    for name, value in now.items():
        found[name].append(value)

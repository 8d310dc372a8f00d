"""Depth: MLPs inside a step, skip connections, residual networks, and paths measured on the graph.

Letters: T time, B batch, D input, H hidden (Goodfellow et al., section 10.5, Fig 10.13).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import minigrad as mg
from minigrad import arguments
from minigrad.nn import Linear, Module, Parameter, orthogonal
from minigrad_rnn.plots import saved


class MLP(Module):
    """Linear layers of the given sizes with f between them: sizes [D, ..., O], x (..., D).

    zero_last=True starts the last layer at 0: as a block of a ResNet it begins as the identity.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Callable[[mg.Tensor], mg.Tensor] = mg.tanh,
        *,
        zero_last: bool = False,
        dtype: Any = None,
    ) -> None:
        if len(sizes) < 2:
            raise ValueError(f"MLP: sizes name input and output at least, unlike {list(sizes)}")
        self.layers = [Linear(*pair, dtype=dtype) for pair in pairwise(sizes)]
        self.activation = activation
        if zero_last:
            self.layers[-1].W.assign(mg.zeros_like(self.layers[-1].W))

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class DeepCell(Module):
    """The deep RNNs of Fig 10.13b and c: h' = tanh(input(x) + transition(h)), y = output(h').

    Each of the three blocks is any function: input (B, D) -> (B, H), transition (B, H) -> (B, H),
    output (B, H) -> y; a linear layer for input and transition and y = h' where none is given. An
    MLP with one hidden layer as transition doubles the path from h to h' (b); skip=True adds h W,
    which makes it as short as before (c) (Pascanu et al. 2014).
    """

    def __init__(
        self,
        D: int,
        H: int,
        *,
        input: Callable[[Any], mg.Tensor] | None = None,
        transition: Callable[[mg.Tensor], mg.Tensor] | None = None,
        output: Callable[[mg.Tensor], Any] | None = None,
        skip: bool = False,
        dtype: Any = None,
    ) -> None:
        self.H = arguments.size("H", H)
        self.input = Linear(D, H, dtype=dtype) if input is None else input
        self.transition = (
            Linear(H, H, bias=False, dtype=dtype) if transition is None else transition
        )
        self.output = output
        self.W = Parameter(orthogonal((H, H), dtype=dtype)) if skip else None

    def initial_state(self, batch: int) -> mg.Tensor:
        """The zero state of a batch: h (B, H)."""
        like = self.parameters()[0]
        return mg.zeros((batch, self.H), dtype=like.dtype, backend=like.backend)

    def __call__(self, x: Any, state: mg.Tensor) -> tuple[Any, mg.Tensor]:
        a = self.input(x) + self.transition(state)
        h = mg.tanh(a if self.W is None else a + state @ self.W)
        return (h if self.output is None else self.output(h)), h


class ResNet(Module):
    """x(l+1) = x(l) + F_l(x(l)) (He et al. 2016). The same block at each place ties the weights.

    Tied, it is a recurrent network: `unroll(Increment(F), None, x, steps=L)`.
    """

    def __init__(self, blocks: Sequence[Callable[[mg.Tensor], mg.Tensor]]) -> None:
        self.blocks = list(blocks)

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Increment(Module):
    """The cell h' = h + F(h), or h + F(h, x) where there is an input; y = h'."""

    def __init__(self, block: Callable[..., mg.Tensor]) -> None:
        self.block = block

    def __call__(self, x: Any, state: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        h = state + (self.block(state) if x is None else self.block(state, x))
        return h, h


# --- measured on the recorded graph --------------------------------------------------------------


def path_length(earlier: mg.Tensor, later: mg.Tensor, ops: Sequence[str] = ("tanh",)) -> int | None:
    """The least number of nodes of the given ops on a path from one recorded tensor to another.

    By default the number of layers of units on the shortest path (section 10.5). None: no path.
    """
    if earlier.node is None or later.node is None:
        return None
    lengths = {later.node: 0}
    waiting = deque([later.node])
    while waiting:
        node = waiting.popleft()
        if node is earlier.node:
            return lengths[node]
        length = lengths[node] + (node.op is not None and node.op.name in ops)
        for parent in node.parents:
            if parent is not None and length < lengths.get(parent, length + 1):
                lengths[parent] = length
                (waiting.appendleft if length == lengths[node] else waiting.append)(parent)
    return None


def gradient_norms(cell: Any, xs: mg.Tensor, state: mg.Tensor, weight: mg.Tensor) -> mg.Tensor:
    """|d sum(weight h(T)) / d h(t)| for t = 0 .. T-1, (T,), for a cell whose state is h (B, H)."""
    states = [mg.Tensor(state, requires_grad=True)]
    for x in xs:
        states.append(cell(x, states[-1])[1])
    gradients = mg.pullback(mg.sum(weight * states[-1]), states[:-1])
    return mg.stack([mg.sqrt(mg.sum(g * g)) for g in gradients])


def plot_gradient_norms(norms: dict[str, mg.Tensor], path: str) -> None:
    """Write a picture of gradient norms over the distance in time, one line a name, to a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="steps back", ylabel="|dL / dh(t)|", yscale="log")
    for name, values in norms.items():
        column = values.numpy()[::-1]
        axes.plot(range(1, len(column) + 1), column, label=name)
    axes.legend()
    saved(figure, path)

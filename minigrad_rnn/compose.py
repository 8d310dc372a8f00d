"""Cells out of cells (Stack, Residual, states), and layers that need the whole sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import minigrad as mg
from minigrad import arguments, tree
from minigrad.nn import Dropout, Module, Parameter
from minigrad_rnn.randomness import row_shape, sample_keys, sample_numbers, step_keys
from minigrad_rnn.unrolling import outcome, real_steps, step_flags, unroll

MERGES = ("concat", "sum", "mul", "ave", None)


# --- cells again ---------------------------------------------------------------------------------


class Stack(Module):
    """Cells on top of one another (Fig 10.13a): the y of each is the x of the next.

    The state is the tuple of their states, y that of the top. dropout=p drops parts of what passes
    from one cell to the next, while training. Sizes may differ from cell to cell.
    """

    def __init__(self, cells: Sequence[Any], dropout: float = 0.0) -> None:
        if not cells:
            raise ValueError("Stack: needs at least one cell")
        dropout = arguments.number("dropout", dropout, 0, 1)
        if dropout and len(cells) == 1:
            raise ValueError("Stack: dropout acts between cells, and there is only one")
        self.cells = list(cells)
        self.dropout = Dropout(dropout)

    def initial_state(self, batch: int) -> tuple[Any, ...]:
        """The tuple of the cells' initial states."""
        return tuple(cell.initial_state(batch) for cell in self.cells)

    def __call__(self, x: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        if len(state) != len(self.cells):
            raise mg.ShapeError(f"Stack: {len(self.cells)} cells got a state of {len(state)} parts")
        states = []
        for depth, (cell, part) in enumerate(zip(self.cells, state, strict=True)):
            x, new = outcome(cell, self.dropout(x, sample_keys()) if depth else x, part)
            states.append(new)
        return x, tuple(states)


class Residual(Module):
    """A cell whose input is added to its output: y' = y + x (GNMT, Wu et al. 2016, eq 6)."""

    def __init__(self, cell: Any) -> None:
        self.cell = cell

    def initial_state(self, batch: int) -> Any:
        """The cell's own."""
        return self.cell.initial_state(batch)

    def __call__(self, x: mg.Tensor, state: Any) -> tuple[mg.Tensor, Any]:
        y, state = outcome(self.cell, x, state)
        if y.shape != x.shape:
            raise mg.ShapeError(
                f"Residual: input {x.shape} and output {y.shape} are added and must be of one shape"
            )
        return x + y, state


class EmitState(Module):
    """A cell whose output is (y, state), so that unroll returns the state of every step."""

    def __init__(self, cell: Any) -> None:
        self.cell = cell

    def initial_state(self, batch: int) -> Any:
        """The cell's own."""
        return self.cell.initial_state(batch)

    def __call__(self, x: Any, state: Any) -> tuple[tuple[Any, Any], Any]:
        y, state = outcome(self.cell, x, state)
        return (y, state), state


class LearnedState(Module):
    """A cell with a learned initial state: a Parameter (1, ...) a part, broadcast to the batch.

    Parts that count, such as a clock, begin as the cell has them.
    """

    def __init__(self, cell: Any) -> None:
        self.cell = cell
        leaves = tree.flatten(cell.initial_state(1))[0]
        self.start = [Parameter(leaf) for leaf in leaves if leaf.dtype.kind == "f"]

    def initial_state(self, batch: int) -> Any:
        """The learned state, the same for every row."""
        learned = iter(self.start)

        def begin(s: mg.Tensor) -> mg.Tensor:
            return mg.broadcast_to(next(learned), s.shape) if s.dtype.kind == "f" else s

        return tree.map(begin, self.cell.initial_state(batch))

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        return self.cell(x, state)  # type: ignore[no-any-return]


class NoisyState(Module):
    """A cell whose initial state has normal noise of a standard deviation added, while training."""

    def __init__(self, cell: Any, std: float) -> None:
        self.cell, self.std = cell, arguments.number("std", std, 0)

    def initial_state(self, batch: int) -> Any:
        """The cell's own, with fresh noise in every call while training."""
        state = self.cell.initial_state(batch)
        if not self.training or self.std == 0:
            return state

        def noisy(s: mg.Tensor) -> mg.Tensor:
            if s.dtype.kind != "f":
                return s
            key = sample_keys()
            return s + self.std * mg.random.normal(key, row_shape(key, s), dtype=s.dtype)

        return tree.map(noisy, state)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        return self.cell(x, state)  # type: ignore[no-any-return]


# --- layers --------------------------------------------------------------------------------------


class Recurrent(Module):
    """The layer that unrolls one cell: layer(xs, state) -> (ys, state)."""

    def __init__(self, cell: Any, reverse: bool = False) -> None:
        self.cell, self.reverse = cell, reverse

    def __call__(
        self,
        xs: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        ids: Any = None,
    ) -> tuple[Any, Any]:
        return unroll(
            self.cell,
            xs,
            state,
            lengths=lengths,
            mask=mask,
            resets=resets,
            reverse=self.reverse,
            ids=ids,
        )


class Bidirectional(Module):
    """Two cells over one sequence, one from each end (Fig 10.11; Schuster and Paliwal 1997).

    merge: "concat" (T, B, 2H), "sum", "mul", "ave", or None for the pair. The state is the pair of
    both directions' states. On ragged rows the backward cell starts at each row's own end; where a
    reset begins a new sequence for the forward cell, the backward cell begins the one before it.
    """

    def __init__(self, forward: Any, backward: Any, merge: str | None = "concat") -> None:
        if merge not in MERGES:
            raise ValueError(f"Bidirectional: merge is one of {MERGES}, not {merge!r}")
        if forward is backward:
            raise ValueError("Bidirectional: the two directions need a cell each")
        self.forward, self.backward, self.merge = forward, backward, merge

    def __call__(
        self,
        xs: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        ids: Any = None,
    ) -> tuple[Any, Any]:
        ahead, behind = (None, None) if state is None else state
        resets = step_flags(resets, *tree.flatten(xs)[0][0].shape[:2], "resets")
        turned = None if resets is None else _turned(resets, lengths, mask)
        padding = {"lengths": lengths, "mask": mask, "ids": ids}
        hs, ahead = unroll(self.forward, xs, ahead, resets=resets, **padding)
        gs, behind = unroll(self.backward, xs, behind, resets=turned, reverse=True, **padding)
        return self._merged(hs, gs), (ahead, behind)

    def _merged(self, h: Any, g: Any) -> Any:
        if self.merge == "concat":
            return mg.concatenate([h, g], axis=-1)
        if self.merge == "sum":
            return h + g
        if self.merge == "mul":
            return h * g
        if self.merge == "ave":
            return 0.5 * (h + g)
        return h, g


def _turned(resets: mg.Tensor, lengths: Any, mask: Any) -> mg.Tensor:
    """The resets of the backward direction: at the last real step before each of the forward's.

    That is a delay by one real step, backwards: what is fed now comes out at the next.
    """
    none = mg.zeros(resets.shape[1], dtype="bool", backend=resets.backend)
    turned, _ = unroll(
        lambda reset, last: (last, reset), resets, none, lengths=lengths, mask=mask, reverse=True
    )
    return turned  # type: ignore[no-any-return]


class Layers(Module):
    """Layers one after another, each over the whole sequence of the one below; cells are unrolled.

    The state is the tuple of the layers' states. dropout=p acts between layers, while training.
    """

    def __init__(self, layers: Sequence[Any], dropout: float = 0.0) -> None:
        if not layers:
            raise ValueError("Layers: needs at least one layer")
        dropout = arguments.number("dropout", dropout, 0, 1)
        if dropout and len(layers) == 1:
            raise ValueError("Layers: dropout acts between layers, and there is only one")
        self.layers = [
            Recurrent(item) if hasattr(item, "initial_state") else item for item in layers
        ]
        self.dropout = Dropout(dropout)

    def __call__(
        self,
        xs: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        ids: Any = None,
    ) -> tuple[Any, tuple[Any, ...]]:
        states = (None,) * len(self.layers) if state is None else state
        if len(states) != len(self.layers):
            raise mg.ShapeError(
                f"Layers: {len(self.layers)} layers got a state of {len(states)} parts"
            )
        options = {"lengths": lengths, "mask": mask, "resets": resets}
        if ids is not None:  # a layer of one's own that draws nothing need not know them
            options["ids"] = ids
        new = []
        for depth, (layer, part) in enumerate(zip(self.layers, states, strict=True)):
            if depth:
                xs = self.dropout(xs, self._keys(xs, lengths, mask, ids))
            xs, part = layer(xs, part, **options)
            new.append(part)
        return xs, tuple(new)

    def _keys(self, xs: Any, lengths: Any, mask: Any, ids: Any) -> mg.random.Key | None:
        """The keys (T, B) of the dropout between two layers, where samples have numbers."""
        if ids is None or not self.training or self.dropout.p == 0:
            return None
        (T, B), home = xs.shape[:2], xs.backend
        samples = sample_numbers(ids, B, home)
        return step_keys(samples, T, real_steps(T, B, lengths, mask, home), home)

"""Regularisers of recurrent networks: dropout with one mask a sequence, zoneout, recurrent dropout.

Weight decay is an option of the optimizers. All act while training; eval() is their mean.
"""

from __future__ import annotations

from typing import Any

import minigrad as mg
from minigrad import arguments, tree
from minigrad.functional import dropout
from minigrad.nn import Module
from minigrad_rnn.cells import LSTMCell
from minigrad_rnn.randomness import row_shape, sample_keys


class VariationalDropout(Module):
    """Dropout around a cell with the same masks at every step of a sequence (Gal 2016).

    x, h, y: rates for the input, for the h that the cell sees and for the output; h is the first
    part of the cell's state. The state is (the cell's, key (B, 2)): one random key a row, drawn by
    initial_state, gives its masks at every step. A row that is reset gets new ones, the same after
    each of its resets, as unroll draws one state for them all. What an LSTM's forget gate carries
    is not dropped; a GRU's h is, as its one state carries and is seen.
    """

    def __init__(self, cell: Any, x: float = 0.0, h: float = 0.0, y: float = 0.0) -> None:
        self.cell = cell
        self.x, self.h, self.y = (
            arguments.number(name, p, 0, 1) for name, p in (("x", x), ("h", h), ("y", y))
        )

    def initial_state(self, batch: int) -> tuple[Any, mg.Tensor]:
        """The cell's own, and new keys."""
        state = self.cell.initial_state(batch)
        home = tree.flatten(state)[0][0].backend
        with mg.use_backend(home):
            keys = sample_keys() or mg.random.next_key().fold(mg.arange(batch))
        return state, keys.words.to(home)

    def __call__(self, x: Any, state: tuple[Any, mg.Tensor]) -> tuple[Any, tuple[Any, mg.Tensor]]:
        inner, words = state
        leaves, rebuild = tree.flatten(inner)
        seen = rebuild([self._drop(leaves[0], self.h, words, 1), *leaves[1:]])
        y, inner = self.cell(self._drop(x, self.x, words, 0), seen)
        return self._drop(y, self.y, words, 2), (inner, words)

    def _drop(self, value: mg.Tensor, p: float, words: mg.Tensor, place: int) -> mg.Tensor:
        if not self.training or p == 0:
            return value
        key = mg.random.Key(words).fold(place)
        kept = mg.random.bernoulli(key, value.shape[1:], 1 - p)
        return value * (kept.astype(value.dtype) * (1 / (1 - p) if p < 1 else 0.0))


class Zoneout(Module):
    """Units that keep their old value with probability p at a step (Krueger et al. 2017).

    p: one rate for the whole state, or a nest of rates like it: (p_h, p_c) for an LSTM. In eval()
    the new state is p old + (1 - p) new. Where y is a part of the cell's state, as h is in most
    cells, it is that part after zoneout.
    """

    def __init__(self, cell: Any, p: Any = 0.1) -> None:
        self.cell = cell
        self.p = tree.map(lambda rate: arguments.number("p", rate, 0, 1), p)

    def initial_state(self, batch: int) -> Any:
        """The cell's own."""
        return self.cell.initial_state(batch)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        y, new = self.cell(x, state)
        rates = tree.map(lambda _: self.p, state) if isinstance(self.p, float) else self.p
        mixed = tree.map(self._mix, rates, state, new)
        parts = zip(tree.flatten(new)[0], tree.flatten(mixed)[0], strict=True)
        return next((kept for part, kept in parts if part is y), y), mixed

    def _mix(self, p: float, old: mg.Tensor, new: mg.Tensor) -> mg.Tensor:
        if p == 0 or new.dtype.kind != "f":
            return new
        if not self.training:
            return p * old + (1 - p) * new
        with mg.use_backend(new.backend):
            key = sample_keys()
            return mg.where(mg.random.bernoulli(key, row_shape(key, new), p), old, new)


class RecurrentDropoutLSTMCell(LSTMCell):
    """The LSTM with dropout on the candidate: c' = f c + i drop(tanh(g)) (Semeniuta et al. 2016).

    What the cell carries is never dropped. A new mask at every step.
    """

    def __init__(self, D: int, H: int, p: float = 0.25, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.dropout = arguments.number("p", p, 0, 1)

    def __call__(
        self, x: mg.Tensor, state: tuple[mg.Tensor, mg.Tensor]
    ) -> tuple[mg.Tensor, tuple[mg.Tensor, mg.Tensor]]:
        h, c = state
        self.check_shapes(x, h, c)
        i, f, g, o = mg.split(self.preactivations(x, h), 4, axis=-1)
        g = dropout(mg.tanh(g), self.dropout, sample_keys(), self.training)
        c = mg.sigmoid(f) * c + mg.sigmoid(i) * g
        h = mg.sigmoid(o) * mg.tanh(c)
        return h, (h, c)

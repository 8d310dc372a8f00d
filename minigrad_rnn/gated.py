"""Gated cells beside LSTMCell and GRUCell: the book's, peepholes, coupled gates, projection, norm.

Letters: B batch, D input, H hidden, P projection. Gates of an LSTM in order i, f, g, o.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minigrad as mg
from minigrad import arguments
from minigrad.nn import LayerNorm, Parameter, glorot_uniform, orthogonal
from minigrad_rnn.cells import GatedCell, LSTMCell

State = tuple[mg.Tensor, mg.Tensor]
SQUASHING = {"sigmoid": mg.sigmoid, "tanh": mg.tanh}


class BookLSTMCell(LSTMCell):
    """The LSTM of Fig 10.16: s' = f s + i squash(g), h' = tanh(s') o (eq 10.40-10.44).

    The book squashes the candidate by a sigmoid; candidate="tanh" makes it the usual LSTM, and any
    function may stand there. The book's letters f, g, q are the gates f, i, o here.
    """

    def __init__(
        self,
        D: int,
        H: int,
        *,
        candidate: str | Callable[[mg.Tensor], mg.Tensor] = "sigmoid",
        bias: bool = True,
        init: str = "default",
        dtype: Any = None,
    ) -> None:
        if isinstance(candidate, str) and candidate not in SQUASHING:
            raise ValueError(f"candidate={candidate!r}: give 'sigmoid', 'tanh' or a function")
        super().__init__(D, H, bias=bias, init=init, dtype=dtype)
        self.squash = SQUASHING[candidate] if isinstance(candidate, str) else candidate

    def __call__(self, x: mg.Tensor, state: State) -> tuple[mg.Tensor, State]:
        h, s = state
        self.check_shapes(x, h, s)
        i, f, g, o = mg.split(self.preactivations(x, h), 4, axis=-1)
        s = mg.sigmoid(f) * s + mg.sigmoid(i) * self.squash(g)
        h = mg.tanh(s) * mg.sigmoid(o)
        return h, (h, s)


class PeepholeLSTMCell(LSTMCell):
    """The LSTM whose gates see the cell: i and f see c(t-1), o sees c(t) (Graves 2013, eq 7-11).

    peephole="diagonal": one weight a unit, `p` (3, H) in order i, f, o; peephole="full": matrices,
    `p` (3, H, H), each (in, out). They start at 0, where the cell is the LSTM.
    """

    def __init__(
        self,
        D: int,
        H: int,
        *,
        peephole: str = "diagonal",
        bias: bool = True,
        init: str = "default",
        dtype: Any = None,
    ) -> None:
        if peephole not in ("diagonal", "full"):
            raise ValueError(f"peephole={peephole!r}: give 'diagonal' or 'full'")
        super().__init__(D, H, bias=bias, init=init, dtype=dtype)
        self.peephole = peephole
        shape = (3, self.H) if peephole == "diagonal" else (3, self.H, self.H)
        self.p = Parameter(mg.zeros(shape, dtype))

    def __call__(self, x: mg.Tensor, state: State) -> tuple[mg.Tensor, State]:
        h, c = state
        self.check_shapes(x, h, c)
        see = mg.multiply if self.peephole == "diagonal" else mg.matmul
        p_i, p_f, p_o = self.p
        i, f, g, o = mg.split(self.preactivations(x, h), 4, axis=-1)
        i, f = mg.sigmoid(i + see(c, p_i)), mg.sigmoid(f + see(c, p_f))
        c = f * c + i * mg.tanh(g)
        h = mg.sigmoid(o + see(c, p_o)) * mg.tanh(c)
        return h, (h, c)


class CoupledLSTMCell(GatedCell):
    """The LSTM with f = 1 - i, "CIFG" (Greff et al. 2017): gates in order i, g, o."""

    gates = 3

    def initial_state(self, batch: int) -> State:
        """The zero state of a batch: (h, c), both (B, H)."""
        return self.zeros(batch), self.zeros(batch)

    def __call__(self, x: mg.Tensor, state: State) -> tuple[mg.Tensor, State]:
        h, c = state
        self.check_shapes(x, h, c)
        i, g, o = mg.split(self.preactivations(x, h), 3, axis=-1)
        c = c + mg.sigmoid(i) * (mg.tanh(g) - c)
        h = mg.sigmoid(o) * mg.tanh(c)
        return h, (h, c)


class ProjectedLSTMCell(GatedCell):
    """The LSTM whose output, P numbers, is what recurs: r' = (o tanh(c')) Wy (Sak et al. 2014).

    `Wy` (H, P), `Wh` (P, 4H); the state is (r (B, P), c (B, H)), y = r'.
    """

    gates = 4

    def __init__(self, D: int, H: int, P: int, *, bias: bool = True, dtype: Any = None) -> None:
        super().__init__(D, H, bias=bias, dtype=dtype)
        self.P = arguments.size("P", P)
        self.Wh = self._weight(self.P, orthogonal, dtype)
        self.Wy = Parameter(glorot_uniform((self.H, self.P), dtype=dtype))

    def initial_state(self, batch: int) -> State:
        """The zero state of a batch: r (B, P) and c (B, H)."""
        r = mg.zeros((batch, self.P), dtype=self.Wh.dtype, backend=self.Wh.backend)
        return r, self.zeros(batch)

    def __call__(self, x: mg.Tensor, state: State) -> tuple[mg.Tensor, State]:
        r, c = state
        i, f, g, o = mg.split(self.preactivations(x, r), 4, axis=-1)
        c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
        r = (mg.sigmoid(o) * mg.tanh(c)) @ self.Wy
        return r, (r, c)


class LayerNormLSTMCell(LSTMCell):
    """The LSTM with layer norm over x Wx, h Wh and c', each with gain and bias of its own.

    a = LN(h Wh) + LN(x Wx) + b;  c' = sigmoid(f) c + sigmoid(i) tanh(g);
    h' = sigmoid(o) tanh(LN(c')) (Ba, Kiros and Hinton 2016, eq 20-22).
    """

    def __init__(self, D: int, H: int, *, bias: bool = True, dtype: Any = None) -> None:
        super().__init__(D, H, bias=bias, dtype=dtype)
        self.norm_x, self.norm_h = LayerNorm(4 * self.H, dtype=dtype), LayerNorm(4 * H, dtype=dtype)
        self.norm_c = LayerNorm(self.H, dtype=dtype)

    def __call__(self, x: mg.Tensor, state: State) -> tuple[mg.Tensor, State]:
        h, c = state
        self.check_shapes(x, h, c)
        a = self.norm_h(h @ self.Wh) + self.norm_x(x @ self.Wx)
        i, f, g, o = mg.split(a if self.b is None else a + self.b, 4, axis=-1)
        c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
        h = mg.sigmoid(o) * mg.tanh(self.norm_c(c))
        return h, (h, c)


class BookGRUCell(GatedCell):
    """The GRU of the book: h(t) = u h(t-1) + (1 - u) sigmoid(x W + (r h(t-1)) W' + b).

    Gates in order r, u, then the candidate, which a sigmoid squashes (eq 10.45-10.47). There all
    of u, r and x stand at t-1: the x given here with h(t-1) is the book's x(t-1), y is h(t).
    """

    gates = 3

    def __call__(self, x: mg.Tensor, state: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        h = state
        self.check_shapes(x, h)
        ax = x @ self.Wx if self.b is None else x @ self.Wx + self.b
        ax_gates, ax_new = mg.split(ax, [2 * self.H], axis=-1)
        Wh_gates, Wh_new = mg.split(self.Wh, [2 * self.H], axis=-1)
        r, u = mg.split(mg.sigmoid(ax_gates + h @ Wh_gates), 2, axis=-1)
        h = u * h + (1 - u) * mg.sigmoid(ax_new + (r * h) @ Wh_new)
        return h, h

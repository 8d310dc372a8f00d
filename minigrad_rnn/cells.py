"""The cells that most models start from, each a function (x, state) -> (y, state) in graph code.

Letters: B batch, D input, H hidden. A cell of your own needs the same two methods,
`initial_state(batch)` and `__call__(x, state)`; the state is any nest of tensors. Derived from
`minigrad.nn.Module`, its weights are found wherever it is built in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minigrad as mg
from minigrad import arguments
from minigrad.nn import Module, Parameter, glorot_uniform, orthogonal, uniform

INITS = ("default", "torch")


class GatedCell(Module):
    """What cells with G gates of one shape share: `Wx` (D, G*H), `Wh` (H, G*H), `b` (G*H,).

    init="default": Wx Glorot-uniform and Wh orthogonal per gate, b zero; init="torch": all uniform
    in +-1/sqrt(H). bias=False leaves b out.
    """

    gates = 1

    def __init__(
        self, D: int, H: int, *, bias: bool = True, init: str = "default", dtype: Any = None
    ) -> None:
        if init not in INITS:
            raise ValueError(f"init={init!r}: give one of {', '.join(map(repr, INITS))}")
        self.D, self.H = arguments.size("D", D), arguments.size("H", H)
        self.init = init
        self.Wx = self._weight(self.D, glorot_uniform, dtype)
        self.Wh = self._weight(self.H, orthogonal, dtype)
        self.b = self._bias(self.gates * self.H, dtype) if arguments.flag("bias", bias) else None

    def _weight(self, rows: int, draw: Callable[..., mg.Tensor], dtype: Any) -> Parameter:
        if self.init == "torch":
            return Parameter(uniform((rows, self.gates * self.H), self.H**-0.5, dtype=dtype))
        per_gate = [draw((rows, self.H), dtype=dtype) for _ in range(self.gates)]
        return Parameter(mg.concatenate(per_gate, axis=1))

    def _bias(self, size: int, dtype: Any) -> Parameter:
        if self.init == "torch":
            return Parameter(uniform((size,), self.H**-0.5, dtype=dtype))
        return Parameter(mg.zeros(size, dtype))

    def initial_state(self, batch: int) -> Any:
        """The zero state of a batch: h (B, H)."""
        return self.zeros(batch)

    def zeros(self, batch: int) -> mg.Tensor:
        """Zeros (B, H) of the weights' dtype, where the weights are."""
        return mg.zeros((batch, self.H), dtype=self.Wh.dtype, backend=self.Wh.backend)

    def check_shapes(self, x: mg.Tensor, *state: mg.Tensor) -> None:
        """Raise ShapeError unless x is (B, D) and each part of the state (B, H)."""
        if x.shape[-1:] != (self.D,):
            raise mg.ShapeError(
                f"{type(self).__name__}: x has shape {tuple(x.shape)}, but its last axis must have "
                f"the {self.D} features that the cell was made for"
            )
        expected = (*x.shape[:-1], self.H)
        for part in state:
            if part.shape != expected:
                raise mg.ShapeError(
                    f"{type(self).__name__}: x of shape {tuple(x.shape)} goes with a state of "
                    f"shape {expected}, not {tuple(part.shape)}"
                )

    def preactivations(self, x: mg.Tensor, h: mg.Tensor) -> mg.Tensor:
        """x Wx + h Wh + b, (B, G*H)."""
        a = x @ self.Wx + h @ self.Wh
        return a if self.b is None else a + self.b


class RNNCell(GatedCell):
    """The vanilla recurrent unit: h' = f(x Wx + h Wh + b), y = h' (eq 10.8, 10.9).

    x (B, D), state h (B, H). Wx is the book's U, Wh its W, both transposed.
    Raises ShapeError for x and states of other shapes, ValueError for wrong sizes.
    """

    def __init__(
        self,
        D: int,
        H: int,
        activation: Callable[[mg.Tensor], mg.Tensor] = mg.tanh,
        *,
        bias: bool = True,
        init: str = "default",
        dtype: Any = None,
    ) -> None:
        super().__init__(D, H, bias=bias, init=init, dtype=dtype)
        self.activation = activation

    def __call__(self, x: mg.Tensor, state: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        self.check_shapes(x, state)
        h = self.activation(self.preactivations(x, state))
        return h, h


class LSTMCell(GatedCell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate Gers et al. 2000).

    i, f, g, o = split(x Wx + h Wh + b);  c' = sigmoid(f) c + sigmoid(i) tanh(g);
    h' = sigmoid(o) tanh(c');  y = h'. x (B, D), state (h, c), both (B, H). The forget gate's bias
    starts at 1. Raises ShapeError for x and states of other shapes, ValueError for wrong sizes.
    """

    gates = 4

    def _bias(self, size: int, dtype: Any) -> Parameter:
        if self.init == "torch":
            return super()._bias(size, dtype)
        H = self.H
        return Parameter(mg.pad(mg.ones(H, dtype), (H, 2 * H)))  # i, f, g, o

    def initial_state(self, batch: int) -> tuple[mg.Tensor, mg.Tensor]:
        """The zero state of a batch: (h, c), both (B, H)."""
        return self.zeros(batch), self.zeros(batch)

    def __call__(
        self, x: mg.Tensor, state: tuple[mg.Tensor, mg.Tensor]
    ) -> tuple[mg.Tensor, tuple[mg.Tensor, mg.Tensor]]:
        h, c = state
        self.check_shapes(x, h, c)
        i, f, g, o = mg.split(self.preactivations(x, h), 4, axis=-1)
        c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
        h = mg.sigmoid(o) * mg.tanh(c)
        return h, (h, c)


class GRUCell(GatedCell):
    """The gated recurrent unit (Cho et al. 2014), h' = (1 - z) n + z h, y = h'.

    reset="after" (default): n = tanh(x Wxn + bn + r (h Whn + bh)), with `bh` (H,);
    reset="before": n = tanh(x Wxn + bn + (r h) Whn). r, z = sigmoid of their preactivations.
    x (B, D), state h (B, H); gates in order r, z, n.
    Raises ShapeError for x and states of other shapes, ValueError for wrong sizes.
    """

    gates = 3

    def __init__(
        self,
        D: int,
        H: int,
        *,
        reset: str = "after",
        bias: bool = True,
        init: str = "default",
        dtype: Any = None,
    ) -> None:
        if reset not in ("after", "before"):
            raise ValueError(f"reset={reset!r}: give 'after' or 'before'")
        super().__init__(D, H, bias=bias, init=init, dtype=dtype)
        self.reset = reset
        self.bh = self._bias(H, dtype) if bias and reset == "after" else None

    def __call__(self, x: mg.Tensor, state: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        h = state
        self.check_shapes(x, h)
        ax = x @ self.Wx
        if self.b is not None:
            ax = ax + self.b
        ax_rz, ax_n = mg.split(ax, [2 * self.H], axis=-1)
        if self.reset == "after":
            ah_rz, ah_n = mg.split(h @ self.Wh, [2 * self.H], axis=-1)
            if self.bh is not None:
                ah_n = ah_n + self.bh
            r, z = mg.split(mg.sigmoid(ax_rz + ah_rz), 2, axis=-1)
            n = mg.tanh(ax_n + r * ah_n)
        else:
            Wh_rz, Wh_n = mg.split(self.Wh, [2 * self.H], axis=-1)
            r, z = mg.split(mg.sigmoid(ax_rz + h @ Wh_rz), 2, axis=-1)
            n = mg.tanh(ax_n + (r * h) @ Wh_n)
        h = n + z * (h - n)
        return h, h

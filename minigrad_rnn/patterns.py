"""Patterns of input and output: what feeds a cell, and what its outputs and states feed.

Letters: T time, B batch, D input, H hidden, V outputs. Every class takes any cell, and those that
are called as `(x, state) -> (y, state)` are cells again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import minigrad as mg
from minigrad import arguments, tree
from minigrad import functional as F
from minigrad.nn import Embedding, Linear, Module, Parameter, glorot_uniform
from minigrad_rnn.randomness import row_shape, sample_keys
from minigrad_rnn.unrolling import float_parts, real_steps, undrawn, unroll

CONDITIONS = ("input", "state", "both")


# --- one step ------------------------------------------------------------------------------------


class HiddenLayer(Module):
    """A cell without memory: h = f(x Wx + b), its state the empty nest ().

    Wx (D, H) Glorot-uniform, b (H,) zero. Inside OutputFeedback it is the net of Fig 10.4.
    """

    def __init__(
        self,
        D: int,
        H: int,
        activation: Callable[[mg.Tensor], mg.Tensor] = mg.tanh,
        dtype: Any = None,
    ) -> None:
        D, H = arguments.size("D", D), arguments.size("H", H)
        self.Wx = Parameter(glorot_uniform((D, H), dtype=dtype))
        self.b = Parameter(mg.zeros(H, dtype))
        self.activation = activation

    def initial_state(self, batch: int) -> tuple[()]:
        """Nothing."""
        return ()

    def __call__(self, x: mg.Tensor, state: tuple[()] = ()) -> tuple[mg.Tensor, tuple[()]]:
        return self.activation(x @ self.Wx + self.b), ()


class Readout(Module):
    """A cell with an output layer inside: y = layer(h), h the cell's own output (eq 10.10)."""

    def __init__(self, cell: Any, layer: Callable[[Any], Any]) -> None:
        self.cell, self.layer = cell, layer

    def initial_state(self, batch: int) -> Any:
        """The cell's own."""
        return self.cell.initial_state(batch)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        h, state = self.cell(x, state)
        return self.layer(h), state


class Embedded(Module):
    """A cell with an input layer inside: the cell sees layer(x), an embedding for instance."""

    def __init__(self, layer: Callable[[Any], Any], cell: Any) -> None:
        self.layer, self.cell = layer, cell

    def initial_state(self, batch: int) -> Any:
        """The cell's own."""
        return self.cell.initial_state(batch)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        return self.cell(self.layer(x), state)  # type: ignore[no-any-return]


def each_frame(network: Callable[[mg.Tensor], mg.Tensor], xs: mg.Tensor) -> mg.Tensor:
    """network of every frame of xs (T, B, ...), the same for all, in one call on (T*B, ...)."""
    T, B, *frame = xs.shape
    ys = network(mg.reshape(xs, (T * B, *frame)))
    return mg.reshape(ys, (T, B, *ys.shape[1:]))


# --- recurrence through the output (Fig 10.4, 10.10) ----------------------------------------------


def itself(o: mg.Tensor) -> mg.Tensor:
    """Feed back o as it is."""
    return o


def likeliest(o: mg.Tensor) -> mg.Tensor:
    """Feed back the one-hot vector of the largest logit; no gradient passes."""
    with mg.use_backend(o.backend):
        return F.one_hot(mg.argmax(o, -1), o.shape[-1], o.dtype)


def sampled(o: mg.Tensor) -> mg.Tensor:
    """Feed back the one-hot vector of a draw from softmax(o); no gradient passes."""
    with mg.use_backend(o.backend):
        key = sample_keys()
        drawn = mg.random.categorical(key, row_shape(key, o)[:-1], o)
        return F.one_hot(drawn, o.shape[-1], o.dtype)


class OutputFeedback(Module):
    """A cell that also sees its last output: h = cell([x, feed(o before)]), o = readout(h).

    Around HiddenLayer it is recurrence through the output alone (Fig 10.4): no edge leads from
    h(t-1) to h(t); around any other cell, recurrence of both (Fig 10.10, eq 10.35). feed: `itself`,
    mg.functional.softmax, `likeliest` or `sampled`. The state is (the cell's, what is fed next),
    the latter zero at first; `forcing.run` puts true outputs there. x may be None.
    """

    def __init__(
        self, cell: Any, readout: Linear, feed: Callable[[mg.Tensor], mg.Tensor] = itself
    ) -> None:
        self.cell, self.readout, self.feed = cell, readout, feed

    def initial_state(self, batch: int) -> tuple[Any, mg.Tensor]:
        """The cell's own, and zeros (B, V)."""
        W = self.readout.W
        fed = mg.zeros((batch, W.shape[1]), dtype=W.dtype, backend=W.backend)
        return self.cell.initial_state(batch), fed

    def __call__(self, x: Any, state: tuple[Any, mg.Tensor]) -> tuple[mg.Tensor, Any]:
        inner, fed = state
        h, inner = self.cell(fed if x is None else mg.concatenate([x, fed], axis=-1), inner)
        o = self.readout(h)
        return o, (inner, self.feed(o))


# --- states that stand for something else ---------------------------------------------------------


def state_size(cell: Any) -> int:
    """How many numbers a row of the cell's state holds."""
    return sum(math.prod(s.shape[1:]) for s in float_parts(undrawn(cell.initial_state, 1)))


def state_vector(state: Any) -> mg.Tensor:
    """All parts of a nest of states side by side, (B, N), without those that count."""
    parts = [s.reshape(s.shape[0], -1) for s in float_parts(state)]
    return parts[0] if len(parts) == 1 else mg.concatenate(parts, axis=-1)


class Bridge(Module):
    """A state for `cell` from a vector (B, N): activation(c W + b), cut into the state's parts.

    Parts that count, such as a clock, begin as the cell has them. With state_vector in front it
    leads from any nest of states to any other: other sizes, other cells, two directions to one.
    """

    def __init__(
        self,
        N: int,
        cell: Any,
        activation: Callable[[mg.Tensor], mg.Tensor] = mg.tanh,
        dtype: Any = None,
    ) -> None:
        self._begin = cell.initial_state  # no part of this module, whose weights are its own
        self.activation = activation
        self.linear = Linear(N, state_size(cell), dtype=dtype)

    def __call__(self, c: mg.Tensor) -> Any:
        values = self.activation(self.linear(c))
        state = undrawn(self._begin, c.shape[0])
        ends = list(itertools.accumulate(math.prod(s.shape[1:]) for s in float_parts(state)))
        parts = iter(mg.split(values, ends[:-1], axis=-1) if len(ends) > 1 else (values,))
        return tree.map(lambda s: next(parts).reshape(s.shape) if s.dtype.kind == "f" else s, state)


# --- vector to sequence (Fig 10.9), sequence to sequence (Fig 10.12) ------------------------------


class Decoder(Module):
    """P(y(1), ..., y(T) | x): each symbol given all before it and, if Dx is given, a vector x.

    y(t) is the input of step t + 1 and the target of step t, the start symbol V the first input.
    x (B, Dx) enters as an extra input x R at every step, one product for all of them, as the
    initial state through a Bridge, or as both: condition = "input", "state" or "both". The cell
    sees E[y] + x R, of D numbers; the logits are a linear layer of its output (H numbers).
    A Decoder is a cell of symbols: x of `__call__` is (B,) integers; its state is (x R, cell's).
    """

    def __init__(
        self,
        V: int,
        D: int,
        cell: Any,
        H: int,
        Dx: int | None = None,
        condition: str = "both",
        dtype: Any = None,
    ) -> None:
        if condition not in CONDITIONS:
            raise ValueError(f"condition={condition!r}: give one of {', '.join(CONDITIONS)}")
        self.V = arguments.size("V", V)
        self.embedding = Embedding(V + 1, D, dtype=dtype)
        self.cell = cell
        self.readout = Linear(H, V, dtype=dtype)
        as_input = Dx is not None and condition != "state"
        as_state = Dx is not None and condition != "input"
        self.R = Parameter(glorot_uniform((Dx, D), dtype=dtype)) if as_input else None
        self.bridge = Bridge(Dx, cell, dtype=dtype) if as_state else None

    def begin(self, x: mg.Tensor) -> tuple[Any, Any]:
        """The state before the first symbol, given x (B, Dx): the product with R is made here."""
        if self.R is None and self.bridge is None:
            raise ValueError("Decoder: made without Dx, it takes no x; give Dx=, the width of x")
        c = () if self.R is None else x @ self.R
        state = self.cell.initial_state(x.shape[0]) if self.bridge is None else self.bridge(x)
        return c, state

    def initial_state(self, batch: int) -> tuple[Any, Any]:
        """The state before the first symbol without x, or for x = 0 and no bridge."""
        W = self.embedding.W
        c = () if self.R is None else mg.zeros((batch, W.shape[1]), W.dtype, backend=W.backend)
        return c, self.cell.initial_state(batch)

    def __call__(self, y: mg.Tensor, state: tuple[Any, Any]) -> tuple[mg.Tensor, tuple[Any, Any]]:
        c, inner = state
        u = self.embedding(y)
        h, inner = self.cell(u if isinstance(c, tuple) else u + c, inner)
        return self.readout(h), (c, inner)

    def _symbols(self, ys: Any) -> mg.Tensor:
        W = self.embedding.W
        ys = ys if isinstance(ys, mg.Tensor) else mg.Tensor(ys, backend=W.backend)
        narrow = ys.dtype.kind in "iu" and ys.dtype.itemsize < 8  # V may be too large for it
        return ys.astype("int64") if narrow else ys  # type: ignore[no-any-return]

    def _seen(self, ys: mg.Tensor, lengths: Any) -> mg.Tensor:
        """What the T steps see: the start symbol and ys (T, B) but for the last; 0 in padding."""
        T, B = ys.shape
        real = real_steps(T, B, lengths, None, ys.backend, "Decoder")
        ys = ys if real is None else mg.where(real, ys, 0)
        return mg.concatenate([self.start(B).reshape(1, B), ys[:-1]]) if T else ys

    def start(self, batch: int) -> mg.Tensor:
        """The start symbol, (B,)."""
        return mg.full((batch,), self.V, dtype="int64", backend=self.embedding.W.backend)

    def logits(self, ys: Any, x: mg.Tensor | None = None, *, lengths: Any = None) -> mg.Tensor:
        """The logits (T, B, V) of every symbol of ys (T, B), all before it given (teacher forcing).

        The readout is one product over all steps.
        """
        ys = self._symbols(ys)
        c, state = self.initial_state(ys.shape[1]) if x is None else self.begin(x)
        us = self.embedding(self._seen(ys, lengths))
        hs, _ = unroll(self.cell, us if isinstance(c, tuple) else us + c, state, lengths=lengths)
        return self.readout(hs)

    def log_probability(
        self, ys: Any, x: mg.Tensor | None = None, *, lengths: Any = None
    ) -> mg.Tensor:
        """log P(ys | x) of each row, (B,): the sum of its conditionals (eq 10.31-10.33)."""
        ys = self._symbols(ys)
        T, B = ys.shape
        counts = real_steps(T, B, lengths, None, ys.backend, "Decoder")
        nats = F.cross_entropy(
            self.logits(ys, x, lengths=lengths), ys, mask=counts, reduction="none"
        )
        return -mg.sum(nats, axis=0)

    def greedy(self, x: Any, steps: int, batch: int = 1) -> mg.Tensor:
        """The likeliest symbol at each step, given those chosen before, (steps, B).

        Without x, None, there are `batch` rows.
        """
        steps = arguments.size("steps", steps, least=0)
        with mg.no_grad():
            state = self.initial_state(batch) if x is None else self.begin(x)
            chosen = [self.start(batch if x is None else tree.flatten(state)[0][0].shape[0])]
            for _ in range(steps):
                o, state = self(chosen[-1], state)
                chosen.append(mg.argmax(o, -1))
            return mg.stack(chosen)[1:]


class EncoderDecoder(Module):
    """P(ys | xs) by way of a vector of fixed size (Fig 10.12): many-to-one, then one-to-many.

    C (B, N) is the encoder's last state laid side by side; the decoder is conditioned on it, so
    its Dx is N. encoder: a layer (Recurrent, Bidirectional, Layers); embed, if given, is applied to
    xs first. The lengths of xs and ys are independent, row by row.
    """

    def __init__(self, encoder: Any, decoder: Decoder, embed: Any = None) -> None:
        self.encoder, self.decoder, self.embed = encoder, decoder, embed

    def context(self, xs: Any, *, lengths: Any = None) -> mg.Tensor:
        """C (B, N) of inputs (Tx, B, ...), after each row's last real step."""
        return state_vector(self.encode(xs, lengths=lengths)[1])

    def encode(self, xs: Any, *, lengths: Any = None) -> tuple[Any, Any]:
        """The encoder's outputs (Tx, B, ...) and last state; arrays go to where the weights are."""
        if not isinstance(xs, mg.Tensor):
            xs = mg.Tensor(xs, backend=self.decoder.embedding.W.backend)
        xs = xs if self.embed is None else self.embed(xs)
        return self.encoder(xs, lengths=lengths)  # type: ignore[no-any-return]

    def log_probability(
        self, xs: Any, ys: Any, *, lengths: Any = None, target_lengths: Any = None
    ) -> mg.Tensor:
        """log P(ys | xs) of each row, (B,), for ys (Ty, B)."""
        c = self.context(xs, lengths=lengths)
        return self.decoder.log_probability(ys, c, lengths=target_lengths)

    def greedy(self, xs: Any, steps: int, *, lengths: Any = None) -> mg.Tensor:
        """The likeliest symbol at each step, given those chosen before, (steps, B)."""
        with mg.no_grad():
            return self.decoder.greedy(self.context(xs, lengths=lengths), steps)

"""Published cells as a user would write them, each the equations of its paper and nothing else.

CATALOGUE has every cell of the package by name, for tests, tables and benchmarks to go through.
Letters: B batch, D input, H hidden. What stands beside h in a state differs from cell to cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import arguments
from minigrad.functional import layer_norm, relu
from minigrad.nn import Module, Parameter, glorot_uniform, orthogonal
from minigrad_rnn.cells import GatedCell, GRUCell, LSTMCell, RNNCell
from minigrad_rnn.depth import MLP, DeepCell
from minigrad_rnn.gated import (
    BookGRUCell,
    BookLSTMCell,
    CoupledLSTMCell,
    LayerNormLSTMCell,
    PeepholeLSTMCell,
    ProjectedLSTMCell,
)
from minigrad_rnn.regularize import Zoneout
from minigrad_rnn.timescales import ClockworkCell, DelayCell, LeakyCell

Tensor = mg.Tensor


class PublishedCell(Module):
    """What a cell of one's own needs: sizes, and parameters and zeros of one dtype."""

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        self.D, self.H, self.dtype = arguments.size("D", D), arguments.size("H", H), dtype

    def matrix(self, rows: int, columns: int) -> Parameter:
        """A Glorot-uniform matrix."""
        return Parameter(glorot_uniform((rows, columns), dtype=self.dtype))

    def square(self, copies: int = 1) -> Parameter:
        """Orthogonal matrices (H, H) side by side."""
        parts = [orthogonal((self.H, self.H), dtype=self.dtype) for _ in range(copies)]
        return Parameter(mg.concatenate(parts, axis=1))

    def vector(self, size: int, value: float = 0.0) -> Parameter:
        """A vector of one value."""
        return Parameter(mg.full(size, value, dtype=self.dtype))

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the parameters' dtype, where they are."""
        like = self.parameters()[0]
        return mg.zeros(shape, dtype=like.dtype, backend=like.backend)

    def initial_state(self, batch: int) -> Any:
        """The zero state of a batch: h (B, H)."""
        return self.zeros(batch, self.H)


# --- one gate or none ----------------------------------------------------------------------------


class IndRNNCell(PublishedCell):
    """h' = relu(x W + u h + b): a unit sees itself alone (Li et al. 2018, eq 2)."""

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.W, self.u, self.b = self.matrix(D, H), self.vector(H, 1.0), self.vector(H)

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = relu(x @ self.W + self.u * h + self.b)
        return h, h


class MGUCell(PublishedCell):
    """Minimal gated unit: h' = (1 - f) h + f n, n = tanh(x Wxn + (f h) Whn + b) (Zhou et al. 2016).

    f = sigmoid of its preactivations; gates in order f, n.
    """

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.Wx, self.Wh, self.b = self.matrix(D, 2 * H), self.square(2), self.vector(2 * H)

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x_f, x_n = mg.split(x @ self.Wx + self.b, 2, axis=-1)
        W_f, W_n = mg.split(self.Wh, 2, axis=-1)
        f = mg.sigmoid(x_f + h @ W_f)
        h = h + f * (mg.tanh(x_n + (f * h) @ W_n) - h)
        return h, h


class UGRNNCell(GatedCell):
    """Update gate RNN: h' = g h + (1 - g) tanh(.) (Collins et al. 2017). Gates in order g, c."""

    gates = 2

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        g, c = mg.split(self.preactivations(x, h), 2, axis=-1)
        g = mg.sigmoid(g)
        h = g * h + (1 - g) * mg.tanh(c)
        return h, h


class AntisymmetricCell(PublishedCell):
    """h' = h + eps z tanh(h A + x V_h + b_h), A = W - W^T - gamma I, gated (Chang et al. 2019).

    z = sigmoid(h A + x V_z + b_z): a step of a stable differential equation. V and b hold z, h.
    """

    def __init__(
        self, D: int, H: int, epsilon: float = 0.1, gamma: float = 0.01, *, dtype: Any = None
    ) -> None:
        super().__init__(D, H, dtype=dtype)
        self.epsilon, self.gamma = epsilon, gamma
        self.W, self.V, self.b = self.square(), self.matrix(D, 2 * H), self.vector(2 * H)

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        flow = h @ self.W - h @ self.W.T - self.gamma * h
        x_z, x_h = mg.split(x @ self.V + self.b, 2, axis=-1)
        h = h + self.epsilon * mg.sigmoid(flow + x_z) * mg.tanh(flow + x_h)
        return h, h


class FastGRNNCell(PublishedCell):
    """Gate and candidate share W and U: z, n = sigmoid, tanh(x W + h U + b_z, b_n).

    h' = (zeta (1 - z) + nu) n + z h, zeta, nu sigmoids of learned numbers (Kusupati et al. 2018,
    section 3.2).
    """

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.W, self.U, self.b = self.matrix(D, H), self.square(), self.vector(2 * H)
        self.zeta, self.nu = self.vector(1, 1.0), self.vector(1, -4.0)

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        a = x @ self.W + h @ self.U
        b_z, b_n = mg.split(self.b, 2)
        z, n = mg.sigmoid(a + b_z), mg.tanh(a + b_n)
        h = (mg.sigmoid(self.zeta) * (1 - z) + mg.sigmoid(self.nu)) * n + z * h
        return h, h


class CFNCell(PublishedCell):
    """Chaos-free: h' = theta tanh(h) + eta tanh(x W), two gates.

    theta, eta = sigmoid(x V + h U + b), in that order (Laurent and von Brecht 2017, eq 1-3).
    """

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.W, self.V, self.U = self.matrix(D, H), self.matrix(D, 2 * H), self.square(2)
        self.b = self.vector(2 * H, 1.0)

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        theta, eta = mg.split(mg.sigmoid(x @ self.V + h @ self.U + self.b), 2, axis=-1)
        h = theta * mg.tanh(h) + eta * mg.tanh(x @ self.W)
        return h, h


class RHNCell(PublishedCell):
    """Recurrent highway: `depth` layers s' = n t + s c within each step.

    n = tanh, t, c = sigmoid of s R_l + b_l, and of x W in the first layer alone; in order n, t, c
    (Zilly et al. 2017, eq 6-9).
    """

    def __init__(self, D: int, H: int, depth: int = 2, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.W, layers = self.matrix(D, 3 * H), range(arguments.size("depth", depth))
        self.R, self.b = [self.square(3) for _ in layers], [self.vector(3 * H) for _ in layers]

    def __call__(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        for layer, (R, b) in enumerate(zip(self.R, self.b, strict=True)):
            a = s @ R + b if layer else x @ self.W + s @ R + b
            n, t, c = mg.split(a, 3, axis=-1)
            s = mg.tanh(n) * mg.sigmoid(t) + s * mg.sigmoid(c)
        return s, s


# --- a state that is not h alone -----------------------------------------------------------------


class QRNNCell(PublishedCell):
    """Gates of x(t-1) and x(t) alone: c' = f c + (1 - f) z, y = o c'.

    z = tanh, f, o = sigmoid of x(t-1) W1 + x W2, in that order; state (c (B, H), x(t-1) (B, D)).
    Width 2 and fo-pooling (Bradbury et al. 2017, eq 2 and 4).
    """

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.W1, self.W2 = self.matrix(D, 3 * H), self.matrix(D, 3 * H)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros (B, H), and a zero input (B, D)."""
        return self.zeros(batch, self.H), self.zeros(batch, self.D)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        c, before = state
        z, f, o = mg.split(before @ self.W1 + x @ self.W2, 3, axis=-1)
        f = mg.sigmoid(f)
        c = f * c + (1 - f) * mg.tanh(z)
        return mg.sigmoid(o) * c, (c, x)


class SRUCell(PublishedCell):
    """Gates see c through vectors: c' = f c + (1 - f) x W, y = r c' + (1 - r) x.

    f, r = sigmoid(x W + v c + b); Wx (D, 3H) in order n, f, r; x through Ws (D, H) if D != H
    (Lei et al. 2018, eq 1-4).
    """

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.Wx, self.v, self.b = self.matrix(D, 3 * H), self.vector(2 * H), self.vector(2 * H)
        self.Ws = None if D == H else self.matrix(D, H)

    def __call__(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        n, gates = mg.split(x @ self.Wx, [self.H], axis=-1)
        seen = mg.concatenate([c, c], axis=-1)
        f, r = mg.split(mg.sigmoid(gates + self.v * seen + self.b), 2, axis=-1)
        c = f * c + (1 - f) * n
        return r * c + (1 - r) * (x if self.Ws is None else x @ self.Ws), c


class RANCell(PublishedCell):
    """Additive: c' = i (x W) + f c, h' = tanh(c'), nothing squashes x W.

    i, f = sigmoid(x Wx + h Wh + b); state (h, c) (Lee et al. 2017, eq 1).
    """

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.W, self.Wx, self.Wh = self.matrix(D, H), self.matrix(D, 2 * H), self.square(2)
        self.b = self.vector(2 * H)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """The zero state of a batch: (h, c), both (B, H)."""
        return self.zeros(batch, self.H), self.zeros(batch, self.H)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, c = state
        i, f = mg.split(mg.sigmoid(x @ self.Wx + h @ self.Wh + self.b), 2, axis=-1)
        c = i * (x @ self.W) + f * c
        h = mg.tanh(c)
        return h, (h, c)


class SCRNCell(PublishedCell):
    """A slow context beside h: s' = alpha s + (1 - alpha) x Ws.

    h' = sigmoid(x Wx + s' P + h Wh); y = h' Uh + s' Us, (B, H). State (h (B, H), s (B, S)) (Mikolov
    et al. 2015, eq 3-5, with the readout linear).
    """

    def __init__(
        self, D: int, H: int, S: int = 4, alpha: float = 0.95, *, dtype: Any = None
    ) -> None:
        super().__init__(D, H, dtype=dtype)
        self.S, self.alpha = arguments.size("S", S), arguments.number("alpha", alpha, 0, 1)
        self.Wx, self.Wh, self.Ws = self.matrix(D, H), self.square(), self.matrix(D, S)
        self.P, self.Uh, self.Us = self.matrix(S, H), self.square(), self.matrix(S, H)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros (B, H) and (B, S)."""
        return self.zeros(batch, self.H), self.zeros(batch, self.S)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, s = state
        s = self.alpha * s + (1 - self.alpha) * (x @ self.Ws)
        h = mg.sigmoid(x @ self.Wx + s @ self.P + h @ self.Wh)
        return h @ self.Uh + s @ self.Us, (h, s)


class MultiplicativeLSTMCell(GatedCell):
    """The LSTM on m = (x Wmx) (h Wmh) in h's place (Krause et al. 2016). Gates i, f, g, o."""

    gates = 4

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.Wmx = Parameter(glorot_uniform((D, H), dtype=dtype))
        self.Wmh = Parameter(orthogonal((H, H), dtype=dtype))

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """The zero state of a batch: (h, c), both (B, H)."""
        return self.zeros(batch), self.zeros(batch)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, c = state
        m = (x @ self.Wmx) * (h @ self.Wmh)
        i, f, g, o = mg.split(self.preactivations(x, m), 4, axis=-1)
        c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
        h = mg.sigmoid(o) * mg.tanh(c)
        return h, (h, c)


class CoRNNCell(PublishedCell):
    """Coupled oscillators, positions y and velocities z (Rusch and Mishra 2021, eq 3).

    z' = z + dt (tanh(y W + z Wz + x V + b) - gamma y - eps z);  y' = y + dt z'. State (y, z).
    """

    def __init__(
        self,
        D: int,
        H: int,
        dt: float = 0.1,
        gamma: float = 1.0,
        epsilon: float = 1.0,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__(D, H, dtype=dtype)
        self.dt, self.gamma, self.epsilon = dt, gamma, epsilon
        self.W, self.Wz = self.square(), self.square()
        self.V, self.b = self.matrix(D, H), self.vector(H)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """At rest: (y, z), both zeros (B, H)."""
        return self.zeros(batch, self.H), self.zeros(batch, self.H)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, z = state
        force = mg.tanh(y @ self.W + z @ self.Wz + x @ self.V + self.b)
        z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        y = y + self.dt * z
        return y, (y, z)


class LRUCell(PublishedCell):
    """Linear recurrent unit: complex h' = lambda h + gamma x B, y = Re(h' C) + x skip.

    lambda = exp(-exp(nu) + i exp(theta)) a unit, gamma = exp of a parameter (Orvieto et al. 2023,
    section 3).
    The state is (Re h, Im h), both (B, H); B (D, 2H) and C (2H, H) hold real and imaginary parts.
    """

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        size = mg.random.uniform(None, H, dtype=dtype) * 0.1 + 0.85  # |lambda| from 0.85 to 0.95
        self.nu = Parameter(mg.log(-mg.log(size)))
        self.theta = Parameter(mg.log(mg.random.uniform(None, H, dtype=dtype) * math.pi + 0.01))
        self.gamma = Parameter(0.5 * mg.log(1 - size * size))
        self.B, self.C = self.matrix(D, 2 * H), self.matrix(2 * H, H)
        self.skip = self.matrix(D, H)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zero real and imaginary parts, both (B, H)."""
        return self.zeros(batch, self.H), self.zeros(batch, self.H)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        re, im = state
        size, angle = mg.exp(-mg.exp(self.nu)), mg.exp(self.theta)
        l_re, l_im = size * mg.cos(angle), size * mg.sin(angle)
        x_re, x_im = mg.split(x @ self.B, 2, axis=-1)
        gamma = mg.exp(self.gamma)
        re, im = l_re * re - l_im * im + gamma * x_re, l_im * re + l_re * im + gamma * x_im
        return mg.concatenate([re, -im], axis=-1) @ self.C + x @ self.skip, (re, im)


class LMUCell(PublishedCell):
    """Legendre memory m' = m A + u b of the last `theta` steps of u.

    u = x e_x + h e_h + m e_m, one number; h' = tanh(x Wx + h Wh + m' Wm). A and b are fixed, by
    Euler's method; state (h (B, H), m (B, order)) (Voelker et al. 2019, eq 2 and 4-7).
    """

    def __init__(
        self, D: int, H: int, order: int = 4, theta: float = 16.0, *, dtype: Any = None
    ) -> None:
        super().__init__(D, H, dtype=dtype)
        self.order = arguments.size("order", order)
        self.ex, self.eh = self.matrix(D, 1), self.matrix(H, 1)
        self.em = Parameter(mg.zeros((order, 1), dtype))
        self.Wx, self.Wh, self.Wm = self.matrix(D, H), self.square(), self.matrix(order, H)
        i, j = np.arange(order)[:, None], np.arange(order)[None, :]
        A = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)) / theta
        b = (2 * i[:, 0] + 1) * (-1.0) ** i[:, 0] / theta
        self.A = mg.Tensor((np.eye(order) + A).T, dtype=self.Wh.dtype)
        self.B = mg.Tensor(b, dtype=self.Wh.dtype)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros (B, H) and (B, order)."""
        return self.zeros(batch, self.H), self.zeros(batch, self.order)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, m = state
        u = x @ self.ex + h @ self.eh + m @ self.em
        m = m @ self.A + u * self.B
        h = mg.tanh(x @ self.Wx + h @ self.Wh + m @ self.Wm)
        return h, (h, m)


# --- normalisers and matrices --------------------------------------------------------------------


class SLSTMCell(GatedCell):
    """The LSTM with an exponential input gate: c' = f c + i z, n' = f n + i, h' = o c' / n'.

    i = exp(.), f, o = sigmoid, z = tanh; c and n are kept over exp(m), m' = max(log f + m, log i),
    so that exp cannot overflow (Beck et al. 2024, eq 8-17). Gates i, f, z, o; state (h, c, n, m).
    """

    gates = 4

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The zero state of a batch: (h, c, n, m), all (B, H)."""
        return (self.zeros(batch),) * 4

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, c, n, m = state
        log_i, f, z, o = mg.split(self.preactivations(x, h), 4, axis=-1)
        log_f = -mg.functional.softplus(-f) + m
        m = mg.maximum(log_f, log_i)
        i, f = mg.exp(log_i - m), mg.exp(log_f - m)
        c, n = f * c + i * mg.tanh(z), f * n + i
        h = mg.sigmoid(o) * (c / n)
        return h, (h, c, n, m)


class MLSTMCell(PublishedCell):
    """A matrix memory, written by keys and read by queries: C' = f C + i v k^T, n' = f n + i k.

    y = o (C' q) / max(|n' q|, 1); i = exp, f = sigmoid, one number a row, o = sigmoid, all of x
    alone; C and n are kept over exp(m) (Beck et al. 2024, eq 19-27). W (D, 4H) in order q, k, v, o;
    state (C (B, H, H), n (B, H), m (B, 1)).
    """

    def __init__(self, D: int, H: int, *, dtype: Any = None) -> None:
        super().__init__(D, H, dtype=dtype)
        self.W, self.b = self.matrix(D, 4 * H), self.vector(4 * H)
        self.w, self.b_if = self.matrix(D, 2), self.vector(2)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """Zeros (B, H, H), (B, H) and (B, 1)."""
        H = self.H
        return self.zeros(batch, H, H), self.zeros(batch, H), self.zeros(batch, 1)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        C, n, m = state
        q, k, v, o = mg.split(x @ self.W, 4, axis=-1)
        b_q, b_k, b_v, b_o = mg.split(self.b, 4)
        q, k, v, o = q + b_q, k * self.H**-0.5 + b_k, v + b_v, mg.sigmoid(o + b_o)
        log_i, f = mg.split(x @ self.w + self.b_if, 2, axis=-1)
        log_f = -mg.functional.softplus(-f) + m
        m = mg.maximum(log_f, log_i)
        i, f = mg.exp(log_i - m), mg.exp(log_f - m)
        C = mg.expand_dims(f, -1) * C + mg.expand_dims(i * v, -1) * mg.expand_dims(k, -2)
        n = f * n + i * k
        read = mg.einsum("bij,bj->bi", C, q)
        along = abs(mg.sum(n * q, axis=-1, keepdims=True))
        return o * read / mg.maximum(along, mg.exp(-m)), (C, n, m)


class FastWeightsCell(PublishedCell):
    """A fast associative memory A' = lambda A + eta h h^T, attended to in `inner` steps.

    From h = relu(a), a = h W + x C + b, h <- relu(LN(a + h A')) (Ba et al. 2016, eq 1-2). State
    (h (B, H), A (B, H, H)).
    """

    def __init__(
        self,
        D: int,
        H: int,
        inner: int = 1,
        decay: float = 0.95,
        eta: float = 0.5,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__(D, H, dtype=dtype)
        self.inner, self.decay, self.eta = arguments.size("inner", inner), decay, eta
        self.W, self.C, self.b = self.square(), self.matrix(D, H), self.vector(H)
        self.gain, self.bias = self.vector(H, 1.0), self.vector(H)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros (B, H) and (B, H, H)."""
        return self.zeros(batch, self.H), self.zeros(batch, self.H, self.H)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, A = state
        A = self.decay * A + self.eta * (mg.expand_dims(h, -1) * mg.expand_dims(h, -2))
        a = h @ self.W + x @ self.C + self.b
        h = relu(a)
        for _ in range(self.inner):
            h = relu(layer_norm(a + mg.einsum("bij,bj->bi", A, h), self.gain, self.bias))
        return h, (h, A)


# --- all of them ---------------------------------------------------------------------------------


def _deep(skip: bool) -> Callable[..., DeepCell]:
    def make(D: int, H: int, dtype: Any = None) -> DeepCell:
        blocks = {
            name: MLP([size, H, H], dtype=dtype)
            for name, size in (("input", D), ("transition", H), ("output", H))
        }
        return DeepCell(D, H, **blocks, skip=skip, dtype=dtype)

    return make


def _leaky(alpha: Any) -> Callable[..., LeakyCell]:
    return lambda D, H, dtype=None: LeakyCell(D, H, alpha, dtype=dtype)


CATALOGUE: dict[str, Callable[..., Any]] = {
    "RNN": RNNCell,
    "leaky, fixed": _leaky(0.7),
    "leaky, sampled": _leaky("sampled"),
    "leaky, learned": _leaky("learned"),
    "delays 1 and 3": DelayCell,
    "clockwork": lambda D, H, dtype=None: ClockworkCell(D, H, (1, 2), dtype=dtype),
    "deep (b)": _deep(skip=False),
    "deep (c)": _deep(skip=True),
    "LSTM": LSTMCell,
    "LSTM of the book": BookLSTMCell,
    "LSTM, peephole": PeepholeLSTMCell,
    "LSTM, full peephole": lambda D, H, dtype=None: PeepholeLSTMCell(
        D, H, peephole="full", dtype=dtype
    ),
    "LSTM, coupled": CoupledLSTMCell,
    "LSTM, projected": lambda D, H, dtype=None: ProjectedLSTMCell(D, H + 1, H, dtype=dtype),
    "LSTM, layer norm": LayerNormLSTMCell,
    "LSTM, zoneout": lambda D, H, dtype=None: Zoneout(LSTMCell(D, H, dtype=dtype), (0.2, 0.4)),
    "GRU": GRUCell,
    "GRU, reset before": lambda D, H, dtype=None: GRUCell(D, H, reset="before", dtype=dtype),
    "GRU of the book": BookGRUCell,
    "IndRNN": IndRNNCell,
    "MGU": MGUCell,
    "UGRNN": UGRNNCell,
    "antisymmetric": AntisymmetricCell,
    "FastGRNN": FastGRNNCell,
    "CFN": CFNCell,
    "RHN": RHNCell,
    "QRNN": QRNNCell,
    "SRU": SRUCell,
    "RAN": RANCell,
    "SCRN": SCRNCell,
    "multiplicative LSTM": MultiplicativeLSTMCell,
    "coRNN": CoRNNCell,
    "LRU": LRUCell,
    "LMU": LMUCell,
    "sLSTM": SLSTMCell,
    "mLSTM": MLSTMCell,
    "fast weights": FastWeightsCell,
}

"""Units and wiring for different time scales: leaky units, delays through time, a clockwork.

Letters: T time, B batch, D input, H hidden (Goodfellow et al., section 10.9).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import arguments
from minigrad.nn import Module, Parameter, glorot_uniform, orthogonal
from minigrad_rnn.cells import GatedCell, RNNCell
from minigrad_rnn.unrolling import unroll

Activation = Callable[[mg.Tensor], mg.Tensor]


class LeakyCell(RNNCell):
    """Leaky units: h' = alpha h + (1 - alpha) f(x Wx + h Wh + b), alpha a number a unit (10.9.2).

    alpha near 1 remembers for about 1 / (1 - alpha) steps, alpha = 0 is RNNCell. It is a number or
    H numbers, fixed (groups of units with their own: `leaky_groups`); "sampled", fixed after a
    uniform draw; or "learned", the sigmoid of the parameter `alpha_logit` (H,), which starts as
    `start`, a number or H numbers.
    """

    def __init__(
        self,
        D: int,
        H: int,
        alpha: float | Sequence[float] | str = "learned",
        activation: Activation = mg.tanh,
        *,
        start: float | Sequence[float] = 0.5,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(D, H, activation, bias=bias, dtype=dtype)
        if isinstance(alpha, str) and alpha not in ("learned", "sampled"):
            raise ValueError(f"alpha={alpha!r}: give numbers, 'learned' or 'sampled'")
        self.alpha_logit = self.fixed = None
        if alpha == "learned":
            rate = _rates("start", start, self.H, open="both")
            self.alpha_logit = Parameter(np.log(rate / (1 - rate)), dtype=self.Wh.dtype)
        elif alpha == "sampled":
            self.fixed = mg.random.uniform(None, self.H, dtype=self.Wh.dtype)
        else:
            self.fixed = mg.Tensor(_rates("alpha", alpha, self.H), dtype=self.Wh.dtype)

    @property
    def alpha(self) -> mg.Tensor:
        """The share of its old value that each unit keeps, (H,)."""
        return mg.sigmoid(self.alpha_logit) if self.fixed is None else self.fixed

    def __call__(self, x: mg.Tensor, state: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        self.check_shapes(x, state)
        alpha = self.alpha
        h = alpha * state + (1 - alpha) * self.activation(self.preactivations(x, state))
        return h, h


def leaky_groups(H: int, alphas: Sequence[float]) -> list[float]:
    """alpha for H units in equal groups, one a given alpha: units of different time scales."""
    H = arguments.size("H", H)
    if not alphas or H % len(alphas):
        raise ValueError(f"leaky_groups: {H} units do not fall into {len(alphas)} equal groups")
    return [alpha for alpha in alphas for _ in range(H // len(alphas))]


def _rates(name: str, values: Any, H: int, open: str = "neither") -> np.ndarray:
    """H numbers from 0 to 1, out of one or of H."""
    given = [values] * H if isinstance(values, (int, float)) else list(values)
    if len(given) != H:
        raise mg.ShapeError(f"{name}: give one number or {H}, not {len(given)}")
    return np.array([arguments.number(name, value, 0, 1, open) for value in given])


class DelayCell(Module):
    """Connections with delays: h(t) = f(x(t) Wx + sum over d of h(t-d) W_d + b) (10.9.1, 10.9.3).

    delays=(1, d) adds skip connections through time; delays without 1 removes the connections of
    length one, so that units must work on a longer time scale. The state is (h(t-1), h(t-2), ...)
    as far back as the longest delay; `Wh` holds a matrix (H, H) a delay (Lin et al. 1996).
    """

    def __init__(
        self,
        D: int,
        H: int,
        delays: Sequence[int] = (1, 3),
        activation: Activation = mg.tanh,
        *,
        dtype: Any = None,
    ) -> None:
        D, self.H = arguments.size("D", D), arguments.size("H", H)
        self.delays = tuple(arguments.size("delays", d) for d in delays)
        if not self.delays or len(set(self.delays)) < len(self.delays):
            raise ValueError(f"DelayCell: delays are distinct and at least one, not {delays}")
        self.activation = activation
        self.Wx = Parameter(glorot_uniform((D, H), dtype=dtype))
        self.Wh = [Parameter(orthogonal((H, H), dtype=dtype)) for _ in self.delays]
        self.b = Parameter(mg.zeros(H, dtype))

    def initial_state(self, batch: int) -> tuple[mg.Tensor, ...]:
        """Zeros (B, H) for each of the steps before the first that a delay reaches."""
        zero = mg.zeros((batch, self.H), dtype=self.Wx.dtype, backend=self.Wx.backend)
        return (zero,) * max(self.delays)

    def __call__(
        self, x: mg.Tensor, state: tuple[mg.Tensor, ...]
    ) -> tuple[mg.Tensor, tuple[mg.Tensor, ...]]:
        a = x @ self.Wx + self.b
        for d, W in zip(self.delays, self.Wh, strict=True):
            a = a + state[d - 1] @ W
        h = self.activation(a)
        return h, (h, *state[:-1])


class ClockworkCell(GatedCell):
    """Groups of units with clocks: group i updates at steps t with t mod T_i = 0, else it keeps h.

    Groups see themselves and slower ones (Koutnik et al. 2014): `periods` increase, the H units
    fall into equal groups in that order, and of Wh (H, H) the block from group j to i counts where
    T_j >= T_i. t counts a row's real steps from 0, so all groups update at the first. The state is
    (h (B, H), t (B,)); every group is computed and then kept or not. Where all rows share one
    clock, the layer `Clockwork` leaves the idle groups' work out.
    """

    def __init__(
        self, D: int, H: int, periods: Sequence[int] = (1, 2, 4, 8), *, dtype: Any = None
    ) -> None:
        super().__init__(D, H, dtype=dtype)
        self.periods = tuple(arguments.size("periods", period) for period in periods)
        if not self.periods or sorted(set(self.periods)) != list(self.periods):
            raise ValueError(f"ClockworkCell: periods increase, unlike {tuple(periods)}")
        if self.H % len(self.periods):
            raise ValueError(
                f"ClockworkCell: {H} units do not fall into {len(self.periods)} equal groups"
            )
        self.size = self.H // len(self.periods)
        group = np.arange(self.H) // self.size
        self.clock = mg.Tensor(np.array(self.periods)[group])
        self.slower = mg.Tensor(group[:, None] >= group[None, :], dtype=self.Wh.dtype)

    def initial_state(self, batch: int) -> tuple[mg.Tensor, mg.Tensor]:
        """Zeros (B, H), and 0 steps so far (B,)."""
        return self.zeros(batch), mg.zeros(batch, dtype="int64", backend=self.Wh.backend)

    def __call__(
        self, x: mg.Tensor, state: tuple[mg.Tensor, mg.Tensor]
    ) -> tuple[mg.Tensor, tuple[mg.Tensor, mg.Tensor]]:
        h, t = state
        self.check_shapes(x, h)
        new = mg.tanh(x @ self.Wx + h @ (self.Wh * self.slower) + self.b)
        active = mg.remainder(mg.expand_dims(t, -1), self.clock) == 0
        h = mg.where(active, new, h)
        return h, (h, t + 1)

    def at(self, t: int, x: mg.Tensor, h: mg.Tensor) -> mg.Tensor:
        """h after step t, known on the host, by the active groups' products alone."""
        groups = list(mg.split(h, len(self.periods), axis=-1))
        biases = mg.split(self.b, len(self.periods))
        for i, period in enumerate(self.periods):
            if t % period == 0:
                to, start = slice(i * self.size, (i + 1) * self.size), i * self.size
                a = x @ self.Wx[:, to] + h[:, start:] @ self.Wh[start:, to] + biases[i]
                groups[i] = mg.tanh(a)
        return mg.concatenate(groups, axis=-1)

    def work(self, steps: int) -> int:
        """Multiplications a row that `at` needs for steps 0 .. steps-1."""
        return sum(
            -(-steps // period) * self.size * (self.D + self.H - i * self.size)
            for i, period in enumerate(self.periods)
        )


class Clockwork(Module):
    """The layer that unrolls a ClockworkCell with one clock for all rows, idle groups left out.

    layer(xs, h) -> (ys, h), h (B, H), the clock at 0; lengths as in `unroll`. Masks and resets give
    rows clocks of their own: unroll the cell then.
    """

    def __init__(self, cell: ClockworkCell) -> None:
        self.cell = cell

    def __call__(
        self,
        xs: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
    ) -> tuple[Any, Any]:
        if mask is not None or resets is not None:
            raise ValueError("Clockwork: with mask or resets unroll the ClockworkCell itself")
        state = self.cell.zeros(xs.shape[1]) if state is None else state
        clock = itertools.count()

        def step(x: mg.Tensor, h: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
            h = self.cell.at(next(clock), x, h)
            return h, h

        return unroll(step, xs, state, lengths=lengths)

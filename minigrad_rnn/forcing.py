"""What is fed back in training: true outputs (teacher forcing), the model's own, or a mixture."""

from __future__ import annotations

import math
from typing import Any

import minigrad as mg
from minigrad import arguments, tree
from minigrad.nn import Module
from minigrad_rnn.patterns import OutputFeedback
from minigrad_rnn.unrolling import unroll


class Forced(Module):
    """OutputFeedback as a cell of (x, y, use): where use (B,) is set, y is fed back in o's place.

    y is the true output of the step before. Nothing flows from there into the step before.
    """

    def __init__(self, cell: OutputFeedback) -> None:
        self.cell = cell

    def initial_state(self, batch: int) -> Any:
        """The cell's own."""
        return self.cell.initial_state(batch)

    def __call__(self, x: Any, state: Any) -> tuple[mg.Tensor, Any]:
        x, y, use = x
        inner, fed = state
        return self.cell(x, (inner, mg.where(use.reshape(-1, 1), y, fed)))


def run(
    cell: OutputFeedback,
    xs: Any,
    ys: mg.Tensor,
    share: float = 1.0,
    state: Any = None,
    *,
    key: mg.random.Key | None = None,
    lengths: Any = None,
    mask: Any = None,
) -> tuple[mg.Tensor, Any]:
    """The outputs o (T, B, V), each step seeing the true output before it with probability share.

    ys (T, B, V): the true outputs as they are fed, say one-hot. share=1 is teacher forcing (eq
    10.15-10.16), 0 free running, which still back-propagates where `feed` does, a number between a
    fixed mixing ratio, and one that falls from update to update scheduled sampling (Bengio et al.
    2015). Draws a flag a step and row from key or the ambient generator. xs may be None.

    A cell without memory of its own, all of whose true outputs are known, needs no loop: with
    share=1 all T steps are one batched call (section 10.2.1).
    """
    share = arguments.number("share", share, 0, 1)
    T, B = ys.shape[:2]
    state = cell.initial_state(B) if state is None else state
    inner, fed = state
    before = mg.concatenate([fed.reshape(1, *fed.shape), ys[:-1]]) if T else ys
    if share == 1 and not tree.flatten(inner)[0] and lengths is None and mask is None and T:
        os, (_, fed) = cell(xs, ((), before))
        return os, ((), fed[-1])
    with mg.use_backend(ys.backend):
        use = mg.random.bernoulli(key, (T, B), share)
        first = mg.arange(T).reshape(T, 1) == 0  # whose output before is the state's own
    return unroll(Forced(cell), (xs, before, use & ~first), state, lengths=lengths, mask=mask)


# --- scheduled sampling: the share of true outputs at update i ------------------------------------


def linear_decay(i: int, start: float, slope: float, least: float = 0.0) -> float:
    """max(least, start - slope i), at most 1."""
    return min(1.0, max(least, start - slope * i))


def exponential_decay(i: int, k: float) -> float:
    """k^i, k < 1."""
    return float(k**i)


def inverse_sigmoid_decay(i: int, k: float) -> float:
    """k / (k + exp(i / k)), k >= 1."""
    return k / (k + math.exp(min(i / k, 700.0)))

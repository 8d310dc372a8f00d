"""Vanishing and exploding gradients: measured (eq 10.36-39), and regularised (eq 10.50-52)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import tree

MODES = ("exact", "approximate")


def _copy(state: Any) -> Any:
    """The same values on nodes of their own, from where gradients go on."""
    return tree.map(lambda s: mg.reshape(s, s.shape), state)


def _steps(cell: Any, xs: mg.Tensor, state: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """The outputs, and the states as they leave each step and as they enter each step.

    What leaves is a copy: parts of a state that are computed from one another stand side by side,
    as they do in ds(t)/ds(t-1). An output that is a part of the state becomes that copy's.
    """
    ys, left, entered = [], [], []
    for x in xs:
        entered.append(_copy(state))
        y, new = cell(x, entered[-1])
        state = _copy(new)
        parts = zip(tree.flatten(new)[0], tree.flatten(state)[0], strict=True)
        ys.append(next((copy for part, copy in parts if part is y), None))
        left.append(state)
    return ys, left, entered


def state_jacobians(cell: Any, xs: mg.Tensor, state: Any = None) -> mg.Tensor:
    """ds(T)/ds(t) for t = 0, ..., T: (T + 1, B, N, N), the parts of a state side by side.

    xs (T, B, D); row i, column j: element i of s(T) by element j of s(t). N + 1 traversals.
    """
    start = cell.initial_state(xs.shape[1]) if state is None else state
    start = tree.map(lambda s: mg.Tensor(s, requires_grad=True), start)
    with mg.enable_grad():
        _, left, _ = _steps(cell, xs.detach(), start)
    places = [tree.flatten(s)[0] for s in (start, *left)]
    rows = []
    with mg.no_grad():
        for n, part in enumerate(places[-1]):
            for i in range(part[0].size):
                one = np.zeros((part.shape[0], part[0].size), part.dtype)
                one[:, i] = 1
                gs = [mg.zeros_like(p) for p in places[-1]]
                gs[n] = mg.Tensor(one.reshape(part.shape), backend=part.backend)
                rows.append(_pulled(places[-1], gs, places))
        return mg.stack(rows, axis=2)


def _pulled(ys: Sequence[mg.Tensor], gs: Sequence[mg.Tensor], places: Any) -> mg.Tensor:
    """The gradients of <ys, gs> at every place, parts side by side: (places, B, N)."""
    with mg.enable_grad():
        total = sum(mg.sum(y * g) for y, g in zip(ys, gs, strict=True))
    flat = [p for parts in places for p in parts]
    found = iter(mg.pullback(total, flat, allow_unused=True))
    return mg.stack([_side_by_side([next(found) for _ in parts], parts) for parts in places])


def _side_by_side(gs: Sequence[Any], like: Sequence[mg.Tensor]) -> mg.Tensor:
    """Gradients of the parts of a state as one (B, N), None standing for zero."""
    full = [mg.zeros_like(s) if g is None else g for g, s in zip(gs, like, strict=True)]
    return mg.concatenate([g.reshape(g.shape[0], -1) for g in full], axis=-1)


def jacobian_norms(cell: Any, xs: mg.Tensor, state: Any = None) -> np.ndarray:
    """The largest singular value of ds(T)/ds(t), (T + 1, B)."""
    return np.linalg.norm(state_jacobians(cell, xs, state).numpy(), ord=2, axis=(-2, -1))


def omega(
    cell: Any,
    loss: Callable[[mg.Tensor], mg.Tensor],
    xs: mg.Tensor,
    state: Any = None,
    mode: str = "exact",
) -> tuple[mg.Tensor, mg.Tensor]:
    """(L, Omega): the loss, and what keeps gradients' norms from one state to the one before.

    Omega = sum over t of (|g(t) ds(t)/ds(t-1)| / |g(t)| - 1)², g(t) = dL/ds(t), for t = 2, ..., T
    (eq 10.52; Pascanu et al. 2013), the mean over the rows of the batch; steps with g(t) = 0, or
    too small to be squared, do not count. Both results are recorded: (L + weight *
    Omega).backward() trains with both.
    loss(ys) is a number, from ys (T, B, ...), where each y is a part of the state, as h is.
    mode "exact" differentiates Omega through everything, g(t) included; "approximate" as published:
    g(t) and s(t-1) count as constants. That much the authors' own program confirms, RNN.py of
    github.com/pascanur/trainingRNNs. It differs in that tanh' is constant as well (in the paper's
    form, s' = tanh(s) W + ..., that is the same), in squaring both norms, in dividing by the number
    of steps that count, and in adding the gradient to that of the recurrent weights alone.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: give one of {', '.join(map(repr, MODES))}")
    with mg.enable_grad():
        start = cell.initial_state(xs.shape[1]) if state is None else state
        ys, left, entered = _steps(cell, xs, start)
        if any(y is None for y in ys):
            raise ValueError(
                f"omega: the output of {type(cell).__name__} is no part of its state, so dL/ds(t) "
                f"cannot be told from it; compute the output in the loss"
            )
        value = loss(mg.stack(ys))
        after = [tree.flatten(s)[0] for s in left[1:]]
        before = [tree.flatten(s)[0] for s in entered[1:]]
        if mode == "approximate":
            with mg.no_grad():
                sent = _gradients(value, after)
            back = [
                _one_step(cell, x, s, g) for x, s, g in zip(xs[1:], left[:-1], sent, strict=True)
            ]
        else:
            found = _gradients(value, after + before)
            sent, back = found[: len(after)], found[len(after) :]
        terms = [_term(g, gJ) for g, gJ in zip(sent, back, strict=True)]
        if not terms:
            raise mg.ShapeError("omega: needs at least two time steps")
        return value, mg.mean(mg.sum(mg.stack(terms), axis=0))


def _gradients(value: mg.Tensor, places: Sequence[Sequence[mg.Tensor]]) -> list[mg.Tensor]:
    """The gradients of value at every place, each (B, N)."""
    flat = [p for parts in places for p in parts]
    found = iter(mg.pullback(value, flat, allow_unused=True))
    return [_side_by_side([next(found) for _ in parts], parts) for parts in places]


def _one_step(cell: Any, x: mg.Tensor, state: Any, g: mg.Tensor) -> mg.Tensor:
    """g ds(t)/ds(t-1), of a step by itself that begins at a constant state."""
    state = tree.map(lambda s: mg.Tensor(s.detach(), requires_grad=True), state)
    _, new = cell(x, state)
    total = mg.sum(_side_by_side(tree.flatten(new)[0], tree.flatten(new)[0]) * g)
    return _gradients(total, [tree.flatten(state)[0]])[0]


def _term(g: mg.Tensor, gJ: mg.Tensor) -> mg.Tensor:
    """(|gJ| / |g| - 1)² of each row, 0 where g or gJ is 0, whose norm has no derivative."""
    above, below = mg.sum(gJ * gJ, axis=-1), mg.sum(g * g, axis=-1)
    counts = (above > 0) & (below > np.finfo(g.dtype).tiny)  # of less, 1 / below is infinite
    ratio = mg.sqrt(mg.where(counts, above, 1) / mg.where(counts, below, 1))
    return mg.square(ratio - 1)

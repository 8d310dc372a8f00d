"""Gradient schedules: how the gradient of a summed loss is found, an option and not a rewrite.

`BPTT()`, `TBPTT(k1, k2)`, `Checkpoint(memory)` and `RTRL()` are called alike, on the same model:

    value, state = schedule(cell, loss, xs, targets, state)

adds d value / d parameter to `.grad` and returns the loss and the last state, detached: what the
next piece of the stream starts from. loss(ys, targets) is a sum over time steps, because all but
the first call it with pieces of the sequence: ys (T', B, ...) and the same steps of the targets.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad import arguments, tree
from minigrad.nn import Module
from minigrad_rnn.unrolling import first_state, float_parts, real_steps, step_flags, unroll

Loss = Callable[[Any, Any], mg.Tensor]
After = Callable[[int, mg.Tensor], object]  # is told the steps done and the last piece's loss


class ClippedState(Module):
    """A cell whose state's back-propagated gradient is clipped at every step (Graves 2013).

    Each element of what flows back from step t + 1 into the state of step t is moved into
    [-limit, limit]; the values stay as they are.
    """

    def __init__(self, cell: Any, limit: float) -> None:
        self.cell, self.limit = cell, arguments.number("limit", limit, 0)

    def initial_state(self, batch: int) -> Any:
        """The cell's own."""
        return self.cell.initial_state(batch)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        return self.cell(x, tree.map(lambda s: mg.clip_gradient(s, self.limit), state))  # type: ignore[no-any-return]


# --- a piece of the data -------------------------------------------------------------------------


class Piece(NamedTuple):
    """Inputs, targets, mask and resets of some time steps."""

    xs: Any
    targets: Any
    mask: mg.Tensor | None
    resets: mg.Tensor | None

    @property
    def steps(self) -> int:
        return int(tree.flatten(self.xs)[0][0].shape[0])

    @property
    def rows(self) -> int:
        return int(tree.flatten(self.xs)[0][0].shape[1])

    def part(self, start: int, stop: int) -> Piece:
        """The time steps from start to stop; the piece itself where that is all of it."""
        if (start, stop) == (0, self.steps):
            return self
        return Piece(*(tree.map(lambda a: None if a is None else a[start:stop], x) for x in self))


def _piece(
    xs: Any, targets: Any, lengths: Any = None, mask: Any = None, resets: Any = None
) -> Piece:
    leaves = tree.flatten(xs)[0]
    if not leaves or any(getattr(x, "ndim", 0) < 2 for x in leaves):
        raise mg.ShapeError("a schedule needs inputs (T, B, ...)")
    T, B = leaves[0].shape[:2]
    if T == 0:
        raise mg.ShapeError(f"a schedule needs a step or more, not inputs {leaves[0].shape}")
    for y in tree.flatten(targets)[0]:
        if y is not None and (getattr(y, "ndim", 0) < 1 or y.shape[0] != T):
            wrong = f"shape {y.shape}" if hasattr(y, "shape") else type(y).__name__
            raise mg.ShapeError(
                f"targets are arrays of {T} steps, as the inputs are, or nests of them, not {wrong}"
            )
    home = next((x.backend for x in leaves if isinstance(x, mg.Tensor)), None)
    real = real_steps(T, B, lengths, mask, home)
    return Piece(xs, targets, real, step_flags(resets, T, B, "resets", home))


class _Drawn:
    """A cell whose random initial state is drawn here, once, and given again at every call.

    It is drawn again from the same state of the generator, so that each call has its own graph.
    """

    def __init__(self, cell: Any, batch: int) -> None:
        self.cell, self.draws = cell, mg.random.generator.detach()
        with mg.no_grad():
            first_state(cell, batch)

    def initial_state(self, batch: int) -> Any:
        now = mg.random.generator.detach()
        mg.random.generator.assign(self.draws)
        state = self.cell.initial_state(batch)
        mg.random.generator.assign(now)
        return state

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        return self.cell(x, state)  # type: ignore[no-any-return]


def _one_reset(cell: Any, piece: Piece) -> Any:
    """The cell with one draw of what all resets of the piece, cut or not, begin anew from."""
    known = piece.resets is None or isinstance(cell, _Drawn)
    return cell if known else _Drawn(cell, piece.rows)


class _OneEntry:
    """A cell that each part of the state enters once, so that what it sends back is one sum.

    Where a sequence is cut, that sum is what crosses the cut: all schedules add in one order.
    """

    def __init__(self, cell: Any, silent: bool = False) -> None:
        self.cell, self.silent = cell, silent  # silent: no outputs, which a long run would collect
        if hasattr(cell, "initial_state"):
            self.initial_state = cell.initial_state

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        y, state = self.cell(x, tree.map(lambda s: mg.reshape(s, s.shape), state))
        return () if self.silent else y, state


def _run(cell: Any, piece: Piece, state: Any, silent: bool = False) -> tuple[Any, Any]:
    entered = _OneEntry(cell, silent)
    return unroll(entered, piece.xs, state, mask=piece.mask, resets=piece.resets)


def _detached(state: Any) -> Any:
    return tree.map(lambda s: s.detach(), state)


# --- schedules -----------------------------------------------------------------------------------


class Schedule:
    """Base class: a subclass defines `run` on the whole piece.

    parameters: those that the cell's state depends on, by default cell.parameters(); only
    Checkpoint and RTRL ask. lengths, mask, resets as in unroll. after(steps, loss) is called
    whenever gradients have been added, say to take an optimizer's step and forget them; without it
    they add up.
    """

    def __call__(
        self,
        cell: Any,
        loss: Loss,
        xs: Any,
        targets: Any,
        state: Any = None,
        *,
        parameters: Sequence[mg.Tensor] | None = None,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        after: After | None = None,
    ) -> tuple[mg.Tensor, Any]:
        piece = _piece(xs, targets, lengths, mask, resets)
        if parameters is None:
            parameters = cell.parameters() if hasattr(cell, "parameters") else ()
        return self.run(cell, loss, piece, state, list(parameters), after or (lambda *_: None))

    def run(
        self,
        cell: Any,
        loss: Loss,
        piece: Piece,
        state: Any,
        parameters: list[mg.Tensor],
        after: After,
    ) -> tuple[mg.Tensor, Any]:
        """Add the gradients; the loss and the last state, detached."""
        raise NotImplementedError(f"{type(self).__name__} defines no run")


@dataclass(frozen=True)
class BPTT(Schedule):
    """Backpropagation through time: forward and backward through the whole sequence.

    Called as every Schedule: value, state = BPTT()(cell, loss, xs, targets, state).
    """

    def run(
        self,
        cell: Any,
        loss: Loss,
        piece: Piece,
        state: Any,
        parameters: list[mg.Tensor],
        after: After,
    ) -> tuple[mg.Tensor, Any]:
        ys, state = _run(cell, piece, state)
        value = loss(ys, piece.targets)
        value.backward()
        after(piece.steps, value)
        return value.detach(), _detached(state)


def _window(k1: int, k2: int) -> tuple[int, int]:
    k1, k2 = arguments.size("k1", k1), arguments.size("k2", k2)
    if k1 > k2:
        raise ValueError(
            f"k1={k1}, k2={k2}: of every {k1} steps the losses of the first {k1 - k2} would train "
            f"nothing; give k1 <= k2"
        )
    return k1, k2


class Stream:
    """Truncated backpropagation along a stream without end (Williams and Peng 1990).

    Every `advance` takes the next k1 steps, or fewer, and back-propagates their losses through them
    and the k2 - k1 steps before; the state is carried forward forever, what is older is forgotten.
    With k1 < k2 those steps before are computed again, from the state that they started from and
    with the same random numbers. Each advance draws the state that its resets begin anew from.
    `advance` binds its state anew, which compile refuses: what is to be compiled takes TBPTT.
    """

    def __init__(self, cell: Any, loss: Loss, k1: int, k2: int, state: Any = None) -> None:
        self.k1, self.k2 = _window(k1, k2)
        self.cell, self.loss = cell, loss
        self.state = state  # after the last step
        self._begin = state  # of the window, where gradients end
        self._past: list[tuple[Any, Piece, mg.Tensor]] = []  # cells, steps, the generator before

    def advance(
        self,
        xs: Any,
        targets: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
    ) -> mg.Tensor:
        """Add the gradients of the next steps' loss to `.grad`, and return the loss."""
        new = _piece(xs, targets, lengths, mask, resets)
        if new.steps > self.k1:
            raise ValueError(f"a stream with k1={self.k1} takes so many steps, not {new.steps}")
        if self._begin is None:
            self._begin = _Drawn(self.cell, new.rows)
        drawn = isinstance(self._begin, _Drawn)
        state = self._begin.initial_state(new.rows) if drawn else self._begin
        cell = _one_reset(self.cell, new)
        window = [*self._past, (cell, new, mg.random.generator.detach())]
        older = max(0, sum(piece.steps for _, piece, _ in window) - (self.k2 - self.k1))
        past: list[tuple[Any, Piece, mg.Tensor]] = []
        outputs, begin = [], None
        for cell, piece, draws in window:
            mg.random.generator.assign(draws)
            cut = min(older, piece.steps)  # where the next window begins
            older -= cut
            for start, stop in ((0, cut), (cut, piece.steps)):
                if start == stop:
                    continue
                part = piece.part(start, stop)
                if start == cut:
                    past.append((cell, part, mg.random.generator.detach()))
                ys, state = _run(cell, part, state, silent=piece is not new)
                begin = state if stop == cut else begin
                if piece is new:
                    outputs.append(ys)
        ys = tree.map(lambda *ys: mg.concatenate(ys), *outputs) if len(outputs) > 1 else outputs[0]
        value = self.loss(ys, new.targets)
        value.backward(retain_graph=self.k1 < self.k2)  # the next window has some inputs again
        self.state, self._past = _detached(state), past
        if begin is not None:
            self._begin = _detached(begin)
        return value.detach()


@dataclass(frozen=True)
class TBPTT(Schedule):
    """Truncated backpropagation through time: every k1 steps, through the last k2 (see Stream).

    Called as every Schedule, with a loss that is a sum over steps: a mean would count each chunk as
    the whole. Raises ValueError unless 1 <= k1 <= k2.
    """

    k1: int
    k2: int

    def __post_init__(self) -> None:
        _window(self.k1, self.k2)

    def run(
        self,
        cell: Any,
        loss: Loss,
        piece: Piece,
        state: Any,
        parameters: list[mg.Tensor],
        after: After,
    ) -> tuple[mg.Tensor, Any]:
        k2 = self.k2 if self.k2 < piece.steps else piece.steps + self.k1  # all is within reach
        stream = Stream(cell, loss, self.k1, k2, state)
        if state is None:
            stream._begin = _Drawn(cell, piece.rows)
        stream.cell = _one_reset(cell, piece)
        values = []
        for start in range(0, piece.steps, self.k1):
            stop = min(start + self.k1, piece.steps)
            xs, targets, mask, resets = piece.part(start, stop)
            values.append(stream.advance(xs, targets, mask=mask, resets=resets))
            after(stop, values[-1])
        return mg.sum(mg.stack(values)), stream.state


@functools.cache
def reach(memory: int, depth: int) -> int:
    """The longest sequence that `memory` steps serve if each is computed up to depth times again.

    k states at the beginnings of k segments leave memory - k for the segment that is worked on.
    """
    if depth == 0:
        return memory
    return max((k * reach(memory - k, depth - 1) for k in range(1, memory)), default=0)


def segments(T: int, memory: int) -> list[int]:
    """The ends of the segments to cut T steps into: few recomputations first, then few segments.

    Raises ValueError where no number of recomputations suffices.
    """
    depth = next((d for d in range(memory) if reach(memory, d) >= T), None)
    if depth is None:
        least = next(m for m in itertools.count(memory) if any(reach(m, d) >= T for d in range(m)))
        raise ValueError(f"memory={memory}: not enough for {T} steps; give {least} or more")
    if depth == 0:
        return [T]
    k = next(k for k in range(1, memory) if k * reach(memory - k, depth - 1) >= T)
    return [T * (i + 1) // k for i in range(k)]


@dataclass(frozen=True)
class Checkpoint(Schedule):
    """Backpropagation through time in the memory of so many steps (Chen et al. 2016).

    Called as every Schedule, with a loss that is a sum over steps: a mean would count each segment
    as the whole.

    At most `memory` steps are held at once: states at the beginnings of segments, and the recorded
    steps of the segment that backward is in; all else is computed again, with the same random
    numbers. The gradients of `parameters` are BPTT's to the bit, if the loss has none of its own;
    to rounding where a cell indexes a parameter, p[0], whose uses add up row by row first.
    """

    memory: int

    def __post_init__(self) -> None:
        arguments.size("memory", self.memory)

    def run(
        self,
        cell: Any,
        loss: Loss,
        piece: Piece,
        state: Any,
        parameters: list[mg.Tensor],
        after: After,
    ) -> tuple[mg.Tensor, Any]:
        before = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        first = _first_state(cell, piece, state)
        cell = _one_reset(cell, piece)
        values: list[mg.Tensor] = []
        last, g = self._back(
            cell, loss, piece, _detached(first), None, self.memory, parameters, values
        )
        _pull_back(None, first, g, parameters)
        for p, old in zip(parameters, before):
            if old is not None:
                p.grad = old if p.grad is None else old + p.grad
        value = mg.sum(mg.stack(values[::-1]))
        after(piece.steps, value)
        return value, last

    def _back(
        self,
        cell: Any,
        loss: Loss,
        piece: Piece,
        state: Any,
        g: Any,
        memory: int,
        parameters: list[mg.Tensor],
        values: list[mg.Tensor],
    ) -> tuple[Any, Any]:
        """Backward through a piece that starts at state, g at its last state: that one and the
        gradient at the first; appends the losses of the segments, from last to first.
        """
        ends = segments(piece.steps, memory)
        if len(ends) == 1:
            entered = _entered(state)
            ys, last = _run(cell, piece, entered)
            values.append(loss(ys, piece.targets))
            _pull_back(values[-1], last, g, parameters)
            values[-1] = values[-1].detach()
            return _detached(last), tree.map(lambda s: s.grad, entered)
        starts = [0, *ends[:-1]]
        kept = []
        for start, end in zip(starts, ends):
            kept.append((state, mg.random.generator.detach()))
            if end < piece.steps:
                with mg.no_grad():
                    _, state = _run(cell, piece.part(start, end), state, silent=True)
        last = None
        for start, end in zip(reversed(starts), reversed(ends)):
            state, draws = kept.pop()
            mg.random.generator.assign(draws)
            left, g = self._back(
                cell, loss, piece.part(start, end), state, g, memory - len(ends), parameters, values
            )
            if last is None:
                last, done = left, mg.random.generator.detach()
        mg.random.generator.assign(done)
        return last, g


def _entered(state: Any) -> Any:
    """The state as leaves; gradients enter the parts that hold numbers."""

    def enter(s: mg.Tensor) -> mg.Tensor:
        leaf = mg.Tensor(s, requires_grad=s.dtype.kind == "f")
        leaf.assign(s.detach())  # the array itself: products with a copy's layout may round anew
        return leaf

    return tree.map(enter, state)


def _first_state(cell: Any, piece: Piece, state: Any) -> Any:
    return first_state(cell, piece.rows) if state is None else state


def _pull_back(
    value: mg.Tensor | None, state: Any, g: Any, parameters: Sequence[mg.Tensor]
) -> None:
    """backward of value with the gradient g at state as well, going on with the sums in `.grad`.

    A sum that goes on must not be begun anew and added: floating-point addition is not
    associative. So what is in `.grad` enters the traversal, and being made last it comes first.
    """
    terms = [] if value is None else [value]
    if g is not None:
        for s, part in zip(tree.flatten(state)[0], tree.flatten(g)[0]):
            if part is not None and s.requires_grad:
                terms.append(mg.sum(s * part))
    if not terms:
        return
    for p in parameters:
        if p.grad is not None:
            terms.append(mg.sum(p * p.grad))
            p.grad = None
    functools.reduce(mg.add, terms).backward()


@dataclass(frozen=True)
class RTRL(Schedule):
    """Real-time recurrent learning (Williams and Zipser 1989): the gradient forward in time.

    Called as every Schedule, with a loss that is a sum over steps: a mean would count each step as
    the whole.

    Carries ds(t)/dparameters, so that each step's gradient is complete at that step, and nothing of
    the past is kept: N n numbers for states of N numbers in all and n parameters, and N + 1
    pullbacks of one step a step. Inputs get no gradient, nor does what a given state was computed
    from; a state that is itself a leaf does.
    """

    def run(
        self,
        cell: Any,
        loss: Loss,
        piece: Piece,
        state: Any,
        parameters: list[mg.Tensor],
        after: After,
    ) -> tuple[mg.Tensor, Any]:
        if not parameters:
            raise ValueError("RTRL: needs the cell's parameters; pass parameters=[...]")
        first = _first_state(cell, piece, state)
        cell = _one_reset(cell, piece)
        known = {id(p) for p in parameters}
        given = [s for s in float_parts(first) if s.requires_grad and s.is_leaf]
        parameters = [*parameters, *(s for s in given if id(s) not in known)]
        influence = _jacobian(float_parts(first), parameters)  # (N, n)
        state = _detached(first)
        values = []
        for t in range(piece.steps):
            now = piece.part(t, t + 1)
            now = now._replace(xs=tree.map(_constant, now.xs))
            entered = _entered(state)
            parts = float_parts(entered)
            ys, new = _run(cell, now, entered)
            value = loss(ys, now.targets)
            local = _jacobian(float_parts(new), [*parts, *parameters])
            value.backward()
            with mg.no_grad():
                g = _row([s.grad for s in parts], parts) @ influence
                _deposit(g, parameters)
                N = influence.shape[0]
                influence = local[:, :N] @ influence + local[:, N:]
            state = _detached(new)
            values.append(value.detach())
            after(t + 1, values[-1])
        return mg.sum(mg.stack(values)), state


def _constant(x: Any) -> Any:
    return x.detach() if isinstance(x, mg.Tensor) else x


def _jacobian(ys: Sequence[mg.Tensor], xs: Sequence[mg.Tensor]) -> mg.Tensor:
    """All elements of ys by all of xs, one row an element of ys, by pullbacks."""
    rows = []
    with mg.no_grad():
        for y in ys:
            for i in range(y.size):
                g = np.zeros(y.size, y.dtype)
                g[i] = 1
                found: Any = [None] * len(xs)
                if y.requires_grad:
                    one = mg.Tensor(g.reshape(y.shape), backend=y.backend)
                    found = mg.pullback(y, list(xs), one, allow_unused=True)
                rows.append(_row(found, xs))
        return mg.stack(rows)


def _row(gs: Sequence[Any], xs: Sequence[mg.Tensor]) -> mg.Tensor:
    """Gradients of xs, None standing for zero, side by side."""
    flat = [(mg.zeros_like(x) if g is None else g).reshape(-1) for g, x in zip(gs, xs)]
    return mg.concatenate(flat)


def _deposit(g: mg.Tensor, parameters: Sequence[mg.Tensor]) -> None:
    """Add to `.grad` what `_row` laid side by side."""
    start = 0
    for p in parameters:
        part = g[start : start + p.size].reshape(p.shape)
        p.grad = part if p.grad is None else p.grad + part
        start += p.size

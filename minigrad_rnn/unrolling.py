"""unroll: a cell along time, with ragged lengths, masks, resets and either direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import arguments, tree
from minigrad_rnn.randomness import drawing_cell, drawing_for, sample_numbers, step_keys

Cell = Callable[[Any, Any], tuple[Any, Any]]
BLANK = False  # stands in the padding: zero, in the dtype of whatever stands beside it


def unroll(
    cell: Cell,
    xs: Any,
    state: Any = None,
    *,
    steps: int | None = None,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reverse: bool = False,
    ids: Any = None,
) -> tuple[Any, Any]:
    """Run a cell over a sequence: y(t), s(t) = cell(x(t), s(t-1)); returns (ys, last state).

    xs: a nest of (T, B, ...), or None with `steps`; ys: the nest of y, each (T, B, ...).
    state: a nest like the cell's; None means `cell.initial_state(B)`.
    mask (T, B) bool, True at real steps; lengths (B,) means mask[t, b] = t < lengths[b]. At a
    masked step the state passes unchanged, y is 0 and the cell sees x = 0, so nothing in the
    padding reaches a value or a gradient; the state returned is after each row's last real step.
    resets (T, B) bool: before step t these rows take initial_state's; at a masked step a reset does
    nothing either. reverse: each row from its last real step to its first, ys in the given order.
    ids (B,) integers: the samples' numbers. What the cell draws at random for a sample (dropout,
    zoneout, a noisy state) then depends on its number and step, not on its row, on the rest of the
    batch or on padding. A cell of your own draws with the keys of `randomness.sample_keys()`.
    Tensors among lengths, mask and resets stay tensors, inputs of a captured function as xs is;
    there a length above T counts as T, because only lengths that can be read are checked.
    Raises ShapeError and ValueError for sequences, masks, lengths and states that do not fit, and
    for a state whose shapes change; TypeError for a cell that returns no pair (y, state).
    """
    leaves = [x for x in tree.flatten(xs)[0] if x is not None]
    T, B = _extent(leaves, steps, state)
    samples = None if ids is None else sample_numbers(ids, B, _backend(leaves, state))
    with drawing_for(samples and samples.fold(0)):
        if state is None:
            state = first_state(cell, B)
        elif leaves and hasattr(cell, "initial_state"):
            _check_state(cell, state, B)
        start = first_state(cell, B) if resets is not None else None
    home = _backend(leaves, state)
    xs = tree.map(lambda x: _tensor(x, home), xs)
    keep = real_steps(T, B, lengths, mask, home)
    anew = step_flags(resets, T, B, "resets", home)
    if anew is not None and keep is not None:
        anew = anew & keep
    step = cell
    if samples is not None:
        step, xs = drawing_cell(cell), (xs, step_keys(samples, T, keep, home).words)
    inputs = _inputs(xs, T)
    ys: list[Any] = [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        x = inputs[t]
        if anew is not None:
            state = _choose(anew[t], start, state)
        y, new = outcome(step, x if keep is None else _choose(keep[t], x, BLANK), state, cell)
        if _shapes(new) != _shapes(state):
            _refuse(cell, t, _shapes(state), _shapes(new))
        if keep is not None:
            y, new = _choose(keep[t], y, BLANK), _choose(keep[t], new, state)
        ys[t], state = y, new
    if T == 0:
        return _no_outputs(step, xs, state), state
    return tree.map(lambda *parts: mg.stack(parts), *ys), state


def _extent(leaves: Sequence[Any], steps: int | None, state: Any) -> tuple[int, int]:
    """T and B, the same for all inputs; without inputs T is `steps` and B comes from the state."""
    if not leaves:
        if steps is None:
            raise ValueError("unroll: without inputs, give steps=, the number of steps")
        known = [s for s in tree.flatten(state)[0] if getattr(s, "ndim", 0)]
        return arguments.size("steps", steps, least=0), known[0].shape[0] if known else 1
    for x in leaves:
        if getattr(x, "ndim", 0) < 2:
            what = tuple(x.shape) if hasattr(x, "shape") else f"a {type(x).__name__}"
            raise mg.ShapeError(f"unroll: inputs are tensors (T, B, ...), not {what}")
    T, B = leaves[0].shape[:2]
    for x in leaves:
        if tuple(x.shape[:2]) != (T, B):
            raise mg.ShapeError(
                f"unroll: inputs of shapes {tuple(leaves[0].shape)} and {tuple(x.shape)} differ "
                f"in T or B"
            )
    if steps is not None and steps != T:
        raise ValueError(f"unroll: steps={steps}, but the inputs have {T}; leave steps out")
    return int(T), int(B)


def first_state(cell: Any, batch: int, caller: str = "unroll") -> Any:
    """cell.initial_state(batch), or ValueError where the cell has none."""
    if not hasattr(cell, "initial_state"):
        raise ValueError(f"{caller}: {_name(cell)} has no initial_state(batch); pass state=")
    return cell.initial_state(batch)


def outcome(step: Any, x: Any, state: Any, cell: Any = None) -> tuple[Any, Any]:
    """step(x, state), or TypeError, which names the cell, where that is no pair (y, state)."""
    result = step(x, state)
    if isinstance(result, tuple) and len(result) == 2:
        return result
    what = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
    raise TypeError(
        f"{_name(cell or step)} returned {what}: a cell returns the pair (y, state), its output "
        f"and its next state"
    )


def _name(cell: Any) -> str:
    return str(getattr(cell, "__name__", type(cell).__name__))


def _shapes(state: Any) -> list[tuple[int, ...]]:
    return [getattr(s, "shape", ()) for s in tree.flatten(state)[0]]


def _refuse(cell: Any, t: int, before: list[Any], after: list[Any]) -> None:
    changed = [k for k, (a, b) in enumerate(zip(before, after)) if a != b]
    where, old, new = "", f"{len(before)} parts", f"{len(after)} parts"
    if len(before) == len(after):
        where, old, new = f"part {changed[0]} of ", before[changed[0]], after[changed[0]]
    raise mg.ShapeError(
        f"unroll: {where}the state of {_name(cell)} changes from {old} to {new} at step {t}"
    )


def _check_state(cell: Any, state: Any, B: int) -> None:
    expected, given = _shapes(undrawn(cell.initial_state, B)), _shapes(state)
    if expected != given:
        raise mg.ShapeError(
            f"unroll: {type(cell).__name__} expects a state of shapes {expected}, got {given}"
        )


def undrawn(initial_state: Callable[[int], Any], batch: int) -> Any:
    """initial_state(batch) for its shapes: a noisy one, which is not used, draws nothing."""
    draws = mg.random.generator.detach()
    state = initial_state(batch)
    mg.random.generator.assign(draws)
    return state


def real_steps(
    T: int, B: int, lengths: Any, mask: Any, home: Any = None, name: str = "unroll"
) -> mg.Tensor | None:
    """The mask (T, B) that lengths or mask stand for, on a backend; None if all steps are real.

    Errors begin with `name`.
    """
    if lengths is not None and mask is not None:
        raise ValueError(f"{name}: give lengths or mask, not both")
    if lengths is None:
        return step_flags(mask, T, B, "mask", home)
    sizes = _placed(lengths, home)
    if sizes.shape != (B,) or (B and sizes.dtype.kind not in "iu"):
        raise mg.ShapeError(
            f"{name}: lengths are {B} integers, one a row, not {sizes.dtype} of shape {sizes.shape}"
        )
    _check_range(sizes, T, name)
    return mg.arange(T, backend=sizes.backend).reshape(T, 1) < sizes


def _check_range(sizes: mg.Tensor, T: int, name: str) -> None:
    try:
        known = sizes.numpy()
    except mg.MinigradError:  # an input of a capture, which has no values yet
        return
    for row, n in enumerate(known):
        if not 0 <= n <= T:
            raise ValueError(f"{name}: row {row} has length {n}, which is not between 0 and {T}")


def step_flags(flags: Any, T: int, B: int, name: str, home: Any = None) -> mg.Tensor | None:
    """One flag a step and row, on a backend, or None. Raises ShapeError unless bool (T, B)."""
    if flags is None:
        return None
    values = _placed(flags, home)
    if values.shape != (T, B) or values.dtype.kind != "b":
        raise mg.ShapeError(
            f"unroll: {name} is bool of shape (T, B) = {(T, B)}, not {values.dtype} of shape "
            f"{values.shape}"
        )
    return values


def float_parts(state: Any) -> list[mg.Tensor]:
    """The parts of a nest of states that hold numbers; those that count, a clock, say, do not."""
    return [s for s in tree.flatten(state)[0] if s.dtype.kind == "f"]


def _placed(values: Any, home: Any) -> mg.Tensor:
    """Lengths or flags, which may come from anywhere, where the rest is."""
    if isinstance(values, mg.Tensor):
        return values if home is None else values.to(home)
    return mg.Tensor(np.asarray(values), backend=home)


def _tensor(x: Any, home: Any) -> Any:
    return x if x is None or isinstance(x, mg.Tensor) else mg.Tensor(x, backend=home)


def _backend(leaves: Sequence[Any], state: Any) -> Any:
    tensors = [x for x in [*tree.flatten(state)[0], *leaves] if isinstance(x, mg.Tensor)]
    return tensors[0].backend if tensors else None


def _inputs(xs: Any, T: int) -> Sequence[Any]:
    """x(0) ... x(T-1): each leaf unstacked once."""
    flat, rebuild = tree.flatten(xs)
    columns = [[None] * T if x is None else mg.unstack(x) for x in flat]
    return [rebuild(parts) for parts in zip(*columns, strict=True)] if T else []


def _choose(rows: mg.Tensor, ours: Any, theirs: Any) -> Any:
    """In each leaf, the rows of ours where the flag (B,) is set, else theirs, a nest or BLANK."""

    def choose(a: Any, b: Any) -> Any:
        if a is None or a is b:  # a constant of the state passes as it is
            return a
        return mg.where(rows.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    if theirs is BLANK:
        return tree.map(lambda a: choose(a, theirs), ours)
    return tree.map(choose, ours, theirs)


def _no_outputs(cell: Cell, xs: Any, state: Any) -> Any:
    """ys for T = 0, whose shapes only the cell knows."""

    def zeros(like: Any, shape: tuple[int, ...]) -> mg.Tensor:
        return mg.zeros(shape, dtype=like.dtype, backend=like.backend)

    with mg.no_grad():
        blank = tree.map(lambda x: None if x is None else zeros(x, x.shape[1:]), xs)
        y, _ = outcome(cell, blank, state)
    return tree.map(lambda part: zeros(part, (0, *part.shape)), y)

"""Random draws that belong to a sample, not to its place in a batch (`ids=` of unroll).

A key is folded from the sample's number, the step and the site, the draw within the step: so a
sample's masks are the same whatever else stands in the batch, however it is padded, on any backend.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

import minigrad as mg


class _Step:
    """The keys (B,) of one step, and how many draws have been made in it."""

    __slots__ = ("keys", "sites")

    def __init__(self, keys: mg.random.Key) -> None:
        self.keys, self.sites = keys, 0


_step: ContextVar[_Step | None] = ContextVar("minigrad_rnn_step", default=None)


def sample_keys() -> mg.random.Key | None:
    """A key a row (B,) for the next random draw of a cell's step, or None where ids are not given.

    mg.random.bernoulli(key, shape, p) and the like draw (B, *shape) from it; None draws from the
    ambient generator.
    """
    step = _step.get()
    if step is None:
        return None
    step.sites += 1
    return step.keys.fold(step.sites)


def row_shape(key: mg.random.Key | None, x: mg.Tensor) -> tuple[int, ...]:
    """What to draw for x (B, ...): with one key for all the whole shape, else what a row needs."""
    return x.shape if key is None else x.shape[len(key.shape) :]


@contextlib.contextmanager
def drawing_for(keys: mg.random.Key | None) -> Iterator[None]:
    """The block in which random draws come from keys (B,), one a row; None changes nothing."""
    if keys is None:
        yield
        return
    token = _step.set(_Step(keys))
    try:
        yield
    finally:
        _step.reset(token)


def sample_numbers(ids: Any, B: int, home: Any) -> mg.random.Key:
    """The keys (B,) of samples ids under a new key of the ambient generator."""
    ids = ids if isinstance(ids, mg.Tensor) else mg.Tensor(np.asarray(ids), backend=home)
    if ids.shape != (B,) or (B and ids.dtype.kind not in "iu"):
        raise mg.ShapeError(
            f"unroll: ids are {B} integers, one a row, not {ids.dtype} of shape {tuple(ids.shape)}"
        )
    with mg.use_backend(ids.backend):
        return mg.random.next_key().fold(ids.astype("int64"))


def step_keys(samples: mg.random.Key, T: int, keep: mg.Tensor | None, home: Any
) -> mg.random.Key:
    """The keys (T, B) of all steps, which are counted from 1: 0 is the initial state.

    Only real steps count (keep (T, B)), so that padding anywhere changes nothing.
    """
    words = samples.words if home is None else samples.words.to(home)
    with mg.use_backend(words.backend):
        if keep is None:
            steps = mg.arange(1, T + 1).reshape(T, 1)
        else:
            steps = mg.cumsum(keep.astype("int64"), axis=0)
        return mg.random.Key(words).fold(steps)


def drawing_cell(cell: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """The cell with inputs (x, words), which draws from the key of these words."""

    def step(pair: tuple[Any, mg.Tensor], state: Any) -> tuple[Any, Any]:
        x, words = pair
        with drawing_for(mg.random.Key(words)):
            return cell(x, state)

    return step

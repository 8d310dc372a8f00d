"""Tensors out of nothing: zeros, ones, full, eye, arange, linspace, and their *_like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.backend import Backend, current, resolve
from minigrad.tensor import Tensor, check_dtype, default_dtype, make

Sizes = int | Sequence[int]


def _place(dtype: Any, backend: str | Backend | None) -> tuple[Any, Backend]:
    where = current() if backend is None else resolve(backend, "backend=")
    return default_dtype() if dtype is None else check_dtype(dtype), where


def zeros(shape: Sizes, dtype: Any = None, backend: str | Backend | None = None) -> Tensor:
    """Zeros of a shape."""
    dtype, where = _place(dtype, backend)
    return make(where.xp.zeros(shape, dtype=dtype), where)


def ones(shape: Sizes, dtype: Any = None, backend: str | Backend | None = None) -> Tensor:
    """Ones of a shape."""
    dtype, where = _place(dtype, backend)
    return make(where.xp.ones(shape, dtype=dtype), where)


def full(
    shape: Sizes, value: float, dtype: Any = None, backend: str | Backend | None = None
) -> Tensor:
    """One value in a whole shape; ints give int64, bools bool, floats the default dtype."""
    if dtype is None and isinstance(value, (bool, int)):
        dtype = np.dtype(type(value))
    dtype, where = _place(dtype, backend)
    return make(where.xp.full(shape, value, dtype=dtype), where)


def eye(
    n: int, m: int | None = None, dtype: Any = None, backend: str | Backend | None = None
) -> Tensor:
    """The identity matrix, (n, n) or (n, m)."""
    dtype, where = _place(dtype, backend)
    return make(where.xp.eye(n, m, dtype=dtype), where)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: Any = None,
    backend: str | Backend | None = None,
) -> Tensor:
    """start, start + step, ... below stop; of ints int64, of floats the default dtype."""
    if stop is None:
        start, stop = 0, start
    if dtype is None and all(isinstance(n, (int, np.integer)) for n in (start, stop, step)):
        dtype = np.dtype("int64")
    dtype, where = _place(dtype, backend)
    return make(where.xp.arange(start, stop, step, dtype=dtype), where)


def linspace(
    start: float,
    stop: float,
    num: int = 50,
    dtype: Any = None,
    backend: str | Backend | None = None,
) -> Tensor:
    """num evenly spaced numbers from start to stop, both included."""
    dtype, where = _place(dtype, backend)
    return make(where.xp.linspace(start, stop, num, dtype=dtype), where)


def zeros_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Zeros of x's shape, dtype and backend."""
    return zeros(x.shape, x.dtype if dtype is None else dtype, x.backend)


def ones_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Ones of x's shape, dtype and backend."""
    return ones(x.shape, x.dtype if dtype is None else dtype, x.backend)


def full_like(x: Tensor, value: float, dtype: Any = None) -> Tensor:
    """One value in x's shape, dtype and backend."""
    return full(x.shape, value, x.dtype if dtype is None else dtype, x.backend)

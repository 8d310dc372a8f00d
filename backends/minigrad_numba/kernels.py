"""The kernels: each replaces the forward of the op it is named for, with the same operands.

They take every layout; what Numba cannot win runs on NumPy. tests/bench/kernels.py measures both.
No kernels: float32 tanh and log and float64 exp, in which NumPy's own vector code is as fast or
faster (0.36, 0.38 and 0.83 ns per element with AVX-512); a pool of threads, whose dispatch takes
longer than most of these calls.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import register_jitable

from minigrad_numba.disk import kernel
from minigrad_numba.vector_math import exp as exp_scalar
from minigrad_numba.vector_math import ordered, unordered

Array = Any
FLOATS = (np.dtype("float32"), np.dtype("float64"))
FROM = 2_000  # elements; below, NumPy's exp, sum and max are over before a kernel has begun
LONGEST_ROW = 1_024  # above, NumPy's work per row costs little, and its pairwise sum is more exact


def _plain(x: Array) -> Array:
    """x itself if in C order, aligned and writable, else a copy that is.

    To Numba a read-only array is a type of its own, for which it would compile again.
    """
    return x if x.flags.carray else np.array(x, order="C")


def _flat(x: Array) -> Array:
    """The elements of x in one plain row."""
    return _plain(x).ravel()


# --- elementwise ---------------------------------------------------------------------------------


@kernel()
def _exp(x: Array, y: Array) -> None:
    for i in range(x.size):
        y[i] = exp_scalar(x[i])


def exp(x: Array) -> Array:
    """e to the x: float32 by polynomial, float64 by NumPy, which is as fast."""
    if x.dtype != FLOATS[0] or x.size < FROM:
        return np.exp(x)
    y = np.empty(x.shape, x.dtype)
    _exp(_flat(x), y.ravel())
    return y


@kernel()
def _sigmoid(x: Array, y: Array) -> None:
    one = x.dtype.type(1)
    for i in range(x.size):
        y[i] = one / (one + exp_scalar(-x[i]))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) in one pass; exp overflows to infinity, whose reciprocal is the limit 0.

    Error at most 3 ulp where the result is at least 1.2e-38 (float32), 2.3e-308 (float64).
    """
    if x.dtype not in FLOATS:
        return 0.5 * np.tanh(0.5 * x) + 0.5
    y = np.empty(x.shape, x.dtype)
    _sigmoid(_flat(x), y.ravel())
    return y


# --- reductions of rows --------------------------------------------------------------------------

# "reassoc" lets a sum run in several lanes, whose number the machine's code fixes.


@kernel(fastmath={"reassoc"})
def _sum_rows(x: Array, y: Array) -> None:
    for i in range(x.shape[0]):
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            total += x[i, j]
        y[i] = total


@kernel()
def _max_rows(x: Array, y: Array) -> None:
    top = ordered(x.dtype.type(np.inf))
    bottom = ordered(x.dtype.type(-np.inf))
    for i in range(x.shape[0]):
        high = low = ordered(x[i, 0])
        for j in range(x.shape[1]):
            key = ordered(x[i, j])
            high = max(high, key)
            low = min(low, key)
        y[i] = unordered(high) if low >= bottom and high <= top else np.nan


@kernel(fastmath={"reassoc"})
def _logsumexp_rows(x: Array, y: Array) -> None:
    for i in range(x.shape[0]):
        high = ordered(x[i, 0])
        for j in range(x.shape[1]):
            high = max(high, ordered(x[i, j]))
        shift = unordered(high)
        if not math.isfinite(shift):
            shift = x.dtype.type(0)
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            total += exp_scalar(x[i, j] - shift)
        y[i] = np.log(total) + shift


def _short_rows(x: Array, axis: tuple[int, ...]) -> bool:
    """Whether a reduction runs along the last axis, over many rows that are short."""
    return (
        x.size >= FROM
        and axis == (x.ndim - 1,)
        and x.shape[-1] <= LONGEST_ROW
        and x.dtype in FLOATS
    )


def _by_rows(rows: Any, x: Array, keepdims: bool) -> Array:
    """Reduce x along its last axis."""
    y = np.empty(x.shape[:-1], x.dtype)
    rows(_plain(x).reshape(-1, x.shape[-1]), y.ravel())
    return y[..., None] if keepdims else y


def sum(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The sum of short rows; anything else on NumPy."""
    if not _short_rows(x, axis):
        return np.sum(x, axis=axis, keepdims=keepdims)
    return _by_rows(_sum_rows, x, keepdims)


def max_(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The greatest of short rows, NaN where there is one; anything else on NumPy."""
    if not _short_rows(x, axis):
        return np.max(x, axis=axis, keepdims=keepdims)
    return _by_rows(_max_rows, x, keepdims)


def logsumexp(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    """log(sum(exp(x))), shifted by the finite maximum, in two passes over each row."""
    if x.size == 0 or x.dtype not in FLOATS:
        return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))
    if axis == (x.ndim - 1,):
        return _by_rows(_logsumexp_rows, x, keepdims)
    kept = tuple(a for a in range(x.ndim) if a not in axis)
    row = math.prod(x.shape[a] for a in axis)
    moved = x.transpose(kept + axis).reshape(*(x.shape[a] for a in kept), row)
    y = _by_rows(_logsumexp_rows, moved, False)
    return np.expand_dims(y, axis) if keepdims else y


# --- random numbers ------------------------------------------------------------------------------

_U = np.uint64
_M0, _M1, _W0, _W1 = _U(0xD2511F53), _U(0xCD9E8D57), _U(0x9E3779B9), _U(0xBB67AE85)
_LOW, _HALF, _ZERO, _ONE, _TWO = _U(0xFFFFFFFF), _U(32), _U(0), _U(1), _U(2)


@register_jitable(forceinline=True)
def _round(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    p0, p1 = c0 * _M0, c2 * _M1
    c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
    return c0, c1, c2, c3, (k0 + _W0) & _LOW, (k1 + _W1) & _LOW


@register_jitable(forceinline=True)
def _philox(block: Any, c2: Any, k0: Any, k1: Any) -> Any:
    """Philox 4x32-10 (Salmon et al. 2011) of counter (block low, block high, c2, 0), in uint64.

    Ten calls rather than a loop: LLVM vectorises only the innermost, and that is the blocks'.
    """
    c = (block & _LOW, block >> _HALF, c2, _ZERO, k0, k1)
    c = _round(*_round(*_round(*_round(*_round(*c)))))
    c = _round(*_round(*_round(*_round(*_round(*c)))))
    return c[0], c[1], c[2], c[3]


@kernel()
def _bits(keys: Array, out: Array) -> None:
    # LLVM vectorises the blocks only if their words go to four separate rows; those are then woven.
    rows = np.empty((4, 128), np.uint32)
    for r in range(out.shape[0]):
        k0, k1 = _U(keys[r, 0]), _U(keys[r, 1])
        for start in range(0, out.shape[1], 128):
            woven = out[r, start : start + 128]
            for b in range(woven.shape[0]):
                c0, c1, c2, c3 = _philox(_U(start + b), _ZERO, k0, k1)
                rows[0, b], rows[1, b], rows[2, b], rows[3, b] = c0, c1, c2, c3
            for b in range(woven.shape[0]):
                for word in range(4):
                    woven[b, word] = rows[word, b]


def random_bits(key: Array, *, shape: tuple[int, ...]) -> Array:
    """The words of each key, equal to the bit to those of the op's forward."""
    keys = _plain(key).reshape(-1, 2)
    rows, count = keys.shape[0], math.prod(shape)
    out = np.empty((rows, (count + 3) // 4, 4), np.uint32)
    _bits(keys, out)
    words = out.reshape(rows, out.shape[1] * 4)[:, :count]
    return words.reshape(key.shape[:-1] + shape)


@kernel()
def _fold(keys: Array, numbers: Array, word: Any, out: Array) -> None:
    for i in range(numbers.size):
        n, k0, k1 = _U(numbers[i]), _U(keys[i, 0]), _U(keys[i, 1])
        first, second, _, _ = _philox(n, word, k0, k1)
        out[i, 0], out[i, 1] = first, second


def random_fold(key: Array, n: Array) -> Array:
    """The n-th key under each key, equal to the bit to that of the op's forward."""
    return _folded(key, n, _ONE)


def _folded(key: Array, n: Array, word: Any) -> Array:
    shape = n.shape
    if key.shape[:-1] != shape:
        shape = np.broadcast_shapes(key.shape[:-1], shape)
        key, n = np.broadcast_to(key, (*shape, 2)), np.broadcast_to(n, shape)
    keys = _plain(key).reshape(-1, 2)
    numbers = n.astype(np.int64).ravel()
    out = np.empty((numbers.size, 2), np.uint32)
    _fold(keys, numbers, word, out)
    return out.reshape((*shape, 2))


def random_next(state: Array) -> Array:
    """The key of a generator's (seed, counter), (..., 2)."""
    seed = np.array(state[..., :1], np.dtype("<i8"), order="C").view(np.dtype("<u4"))
    return _folded(seed, state[..., 1], _TWO)


@kernel()
def _uniform32(words: Array, out: Array) -> None:
    for i in range(out.size):
        out[i] = np.float32(words[i] >> np.uint32(8)) * np.float32(2.0**-24)


@kernel()
def _uniform64(words: Array, out: Array) -> None:
    for i in range(out.size):
        high, low = words[2 * i] >> np.uint32(5), words[2 * i + 1] >> np.uint32(6)
        out[i] = (np.float64(high) * 67108864.0 + np.float64(low)) * 2.0**-53


def random_uniform(bits: Array, *, dtype: Any) -> Array:
    """Words as numbers in [0, 1), equal to the bit to those of the op's forward."""
    if dtype == FLOATS[0]:
        out = np.empty(bits.shape, np.float32)
        _uniform32(_flat(bits), out.ravel())
    else:
        out = np.empty(bits.shape[:-1], np.float64)
        _uniform64(_flat(bits), out.ravel())
    return out


# --- scatter -------------------------------------------------------------------------------------


@kernel()
def _add_rows(out: Array, index: Array, values: Array) -> Any:
    """Add row r of values to row index[r] of out, in order; a wrong index's position, else -1."""
    size = out.shape[0]
    for r in range(index.size):
        if not -size <= index[r] < size:
            return r
    for r in range(index.size):
        i = index[r]
        if i < 0:
            i += size
        for j in range(out.shape[1]):
            out[i, j] += values[r, j]
    return -1


def scatter_add(out: Array, index: tuple[Any, ...], values: Array) -> Array:
    """Add values at out[index], in index order, every one of several duplicates counted.

    Rows chosen by one integer array on the first axis run compiled, all else is numpy.add.at.
    """
    first = index[0]
    rows = (
        len(index) == 1
        and isinstance(first, np.ndarray)
        and first.dtype.kind in "iu"
        and values.size >= 64
        and out.dtype in FLOATS
        and out.dtype == values.dtype
        and out.flags.c_contiguous
        and values.shape == first.shape + out.shape[1:]
    )
    if not rows:
        np.add.at(out, index, values)
        return out
    matrix = out.reshape(out.shape[0], -1)
    chosen = _flat(first.astype(np.int64, copy=False))
    added = _plain(values).reshape(-1, matrix.shape[1])
    wrong = _add_rows(matrix, chosen, added)
    if wrong >= 0:
        raise IndexError(f"index {chosen[wrong]} is out of bounds for axis 0 of size {len(out)}")
    return out


KERNELS = {
    "exp": exp,
    "sigmoid": sigmoid,
    "sum": sum,
    "max": max_,
    "logsumexp": logsumexp,
    "random_bits": random_bits,
    "random_fold": random_fold,
    "random_next": random_next,
    "random_uniform": random_uniform,
}

"""Random numbers: Philox 4x32-10 (Salmon et al. 2011), counted, not drawn.

A key is 64 bits; the numbers of a key are a function of the key and their position alone, so they
are the same on every backend and do not depend on what else stands in a batch.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from minigrad.backend import current
from minigrad.errors import DtypeError, ShapeError
from minigrad.op import op
from minigrad.ops import specs
from minigrad.ops.elementwise import add, astype, cos, exp, less, log, multiply, sqrt, where
from minigrad.ops.reduce import cumsum, max, sum
from minigrad.ops.shape import broadcast_to, expand_dims, reshape, tensor
from minigrad.spec import Spec
from minigrad.tensor import Shape, Tensor, check_dtype, default_dtype

UINT32 = np.dtype("uint32")
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox(xp: Any, counter: Sequence[Any], key: Sequence[Any]) -> list[Any]:
    """Ten rounds over counter words (4) and key words (2), uint64 arrays that hold 32 bits each."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * xp.uint64(_MULTIPLIERS[0]), c2 * xp.uint64(_MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (p1 >> xp.uint64(32)) ^ c1 ^ k0,
            p1 & xp.uint64(_LOW),
            (p0 >> xp.uint64(32)) ^ c3 ^ k1,
            p0 & xp.uint64(_LOW),
        )
        k0 = (k0 + xp.uint64(_WEYL[0])) & xp.uint64(_LOW)
        k1 = (k1 + xp.uint64(_WEYL[1])) & xp.uint64(_LOW)
    return [c0, c1, c2, c3]


def _bits_forward(xp: Any, key: Any, *, shape: Shape) -> Any:
    """Words number 0 ... n-1 of each key: word i is part i % 4 of the block with counter i // 4."""
    count = math.prod(shape)
    batch = key.shape[:-1]
    words = key.astype(xp.uint64).reshape((-1, 2))
    block = xp.arange((count + 3) // 4, dtype=xp.uint64)[None, :]
    zero = xp.zeros((words.shape[0], block.shape[1]), dtype=xp.uint64)
    counter = [zero + (block & xp.uint64(_LOW)), zero + (block >> xp.uint64(32)), zero, zero]
    blocks = philox(xp, counter, [words[:, :1], words[:, 1:]])
    flat = xp.stack(blocks, axis=-1).reshape((words.shape[0], 4 * block.shape[1]))[:, :count]
    return flat.astype(xp.uint32).reshape(batch + shape)


_bits = op(
    "random_bits",
    _bits_forward,
    shape=lambda key, *, shape: Spec(key.shape[:-1] + shape, UINT32),
    dtypes="free",
)


def _key_under(xp: Any, key: Any, n: Any, word: int) -> Any:
    """Two words of the block with counter (n low, n high, word, 0); bits has those of word 0."""
    n = n.astype(xp.int64).astype(xp.uint64)
    shape = np.broadcast_shapes(key.shape[:-1], n.shape)
    zero = xp.zeros(shape, dtype=xp.uint64)
    counter = [
        zero + (n & xp.uint64(_LOW)),
        zero + (n >> xp.uint64(32)),
        zero + xp.uint64(word),
        zero,
    ]
    words = key.astype(xp.uint64)
    first, second, _, _ = philox(xp, counter, [words[..., 0], words[..., 1]])
    return xp.stack([first, second], axis=-1).astype(xp.uint32)


def _fold_forward(xp: Any, key: Any, n: Any) -> Any:
    return _key_under(xp, key, n, 1)


_fold = op(
    "random_fold",
    _fold_forward,
    shape=lambda key, n: Spec((*specs.broadcast([key.shape[:-1], n.shape]), 2), UINT32),
    dtypes="free",
)


def _uniform_forward(xp: Any, bits: Any, *, dtype: Any) -> Any:
    """The top 24 bits of a word (float32), or 53 bits of two words (float64), over their range."""
    if dtype == np.dtype("float32"):
        return (bits >> xp.uint32(8)).astype(xp.float32) * xp.float32(2.0**-24)
    high = (bits[..., 0] >> xp.uint32(5)).astype(xp.float64)
    low = (bits[..., 1] >> xp.uint32(6)).astype(xp.float64)
    return (high * 67108864.0 + low) * 2.0**-53


_to_uniform = op(
    "random_uniform",
    _uniform_forward,
    shape=lambda bits, *, dtype: Spec(
        bits.shape if dtype == np.dtype("float32") else bits.shape[:-1], dtype
    ),
    dtypes="free",
)


class Key:
    """A batch of random keys: words (*shape, 2) uint32; `.fold(n)` gives the n-th key under it."""

    __slots__ = ("words",)

    def __init__(self, words: Tensor) -> None:
        if words.dtype != UINT32 or words.shape[-1:] != (2,):
            raise DtypeError(
                f"a key is made of uint32 words (..., 2), not {words.shape} {words.dtype}"
            )
        self.words = words

    @property
    def shape(self) -> Shape:
        return self.words.shape[:-1]

    def fold(self, n: Any) -> Key:
        """The key for an integer, or the keys for an integer tensor (broadcast against this)."""
        if not isinstance(n, Tensor):
            n = Tensor(n, dtype="int64", backend=self.words.backend)
        if n.dtype.kind not in "iu":
            raise DtypeError(f"fold takes integers, not {n.dtype}")
        return Key(_fold(self.words, n))

    def __repr__(self) -> str:
        return f"Key(shape={self.shape}, backend={self.words.backend.name!r})"


def key(seed: int) -> Key:
    """The key of a seed in [0, 2^64)."""
    seed = _checked_seed(seed)
    return Key(Tensor(np.array([seed & _LOW, seed >> 32], dtype=np.uint32)))


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise ValueError(f"a seed is an integer from 0 to 2^64 - 1, not {seed!r}")
    return int(seed)


# --- the ambient generator -----------------------------------------------------------------------

_whole_process: list[Tensor] = []  # the generator's one place, empty until it is asked for
_place: ContextVar[list[Tensor]] = ContextVar("minigrad_generator", default=_whole_process)
_lock = threading.RLock()  # two threads do not draw the same key


def _after_fork() -> None:
    """The thread that may have held the lock is not in the child."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _next_forward(xp: Any, state: Any) -> Any:
    """The key number counter of a seed; word 2 keeps it apart from what key(seed).fold gives."""
    seed, counter = state[..., 0], state[..., 1]
    words = xp.stack([seed & _LOW, (seed >> 32) & _LOW], axis=-1).astype(xp.uint32)
    return _key_under(xp, words, counter, 2)


_next = op(
    "random_next",
    _next_forward,
    shape=lambda state: Spec(state.shape, UINT32),
    dtypes="free",
)


def seed(n: int) -> None:
    """Start the ambient generator anew: the same seed gives the same numbers on every backend."""
    state = np.array([_checked_seed(n), 0], dtype=np.uint64).view(np.int64)
    with _lock:
        _ambient().assign(state)


def __getattr__(name: str) -> Tensor:
    """`generator`, the ambient one on the current backend: an int64 tensor (seed, counter)."""
    if name == "generator":
        return _ambient()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _ambient() -> Tensor:
    place = _place.get()
    with _lock:
        if not place:
            place.append(Tensor(np.zeros(2, dtype=np.int64)))
        if place[0].backend is not current():
            place[0] = place[0].to(current())
        return place[0]


@contextlib.contextmanager
def drawing_from(state: Tensor) -> Iterator[None]:
    """The block in which this thread has an ambient generator of its own, which starts at state."""
    token = _place.set([state.detach()])
    try:
        yield
    finally:
        _place.reset(token)


def next_key() -> Key:
    """A fresh key of the ambient generator, which moves on by one."""
    with _lock:
        state = _ambient()
        words = _next(state)
        state.assign(add(state, Tensor([0, 1], backend=state.backend)))
    return Key(words)


# --- distributions -------------------------------------------------------------------------------


def _draw(key: Key | None, shape: Sequence[int] | int, words: int = 1) -> Tensor:
    key = next_key() if key is None else key
    if not isinstance(key, Key):
        raise DtypeError(f"expected a key of minigrad.random.key(seed), not {type(key).__name__}")
    sizes = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    if any(n < 0 for n in sizes):
        raise ShapeError(f"a shape has no negative sizes: {sizes}")
    return _bits(key.words, shape=sizes + ((words,) if words > 1 else ()))


def _float_dtype(dtype: Any) -> np.dtype[Any]:
    chosen = default_dtype() if dtype is None else check_dtype(dtype)
    if chosen.kind != "f":
        raise DtypeError(f"random floats have dtype float32 or float64, not {chosen}")
    return chosen


def bits(key: Key | None = None, shape: Sequence[int] | int = ()) -> Tensor:
    """Random uint32 words of shape key.shape + shape."""
    return _draw(key, shape)


def uniform(key: Key | None = None, shape: Sequence[int] | int = (), dtype: Any = None) -> Tensor:
    """Uniform numbers in [0, 1) of shape key.shape + shape."""
    chosen = _float_dtype(dtype)
    words = _draw(key, shape, words=1 if chosen.itemsize == 4 else 2)
    return _to_uniform(words, dtype=chosen)


def bernoulli(key: Key | None = None, shape: Sequence[int] | int = (), p: Any = 0.5) -> Tensor:
    """True with probability p (a number or a tensor), of shape key.shape + shape."""
    return less(uniform(key, shape), p)


def normal(key: Key | None = None, shape: Sequence[int] | int = (), dtype: Any = None) -> Tensor:
    """Standard normal numbers of shape key.shape + shape, by Box and Muller's transform."""
    chosen = _float_dtype(dtype)
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    pair = uniform(key, (*sizes, 2), chosen)
    radius = sqrt(multiply(-2.0, log(1.0 - pair[..., 0])))
    return multiply(radius, cos(multiply(2 * math.pi, pair[..., 1])))


def categorical(key: Key | None, shape: Sequence[int] | int, logits: Any) -> Tensor:
    """Indices drawn with probabilities softmax(logits) (..., V), broadcast to key.shape + shape.

    The index of the first cumulated probability above a uniform number: one number per draw.
    """
    logits = tensor(logits)
    v = logits.shape[-1]
    u = uniform(key, shape)
    share = exp(logits - max(logits, axis=-1, keepdims=True))
    cumulated = cumsum(share, axis=-1)
    threshold = multiply(astype(u, logits.dtype), reshape(cumulated[..., -1], logits.shape[:-1]))
    cumulated = broadcast_to(cumulated, (*threshold.shape, v))
    below = sum(cumulated <= expand_dims(threshold, -1), axis=-1)
    return where(below < v, below, v - 1)

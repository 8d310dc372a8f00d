"""Functions of tensors that are compositions of ops: activations, normalisation, losses.

Shapes: V classes; `...` any leading axes, which losses reduce over.
"""

from __future__ import annotations

from typing import Any

from minigrad import arguments
from minigrad.ops import random
from minigrad.ops.elementwise import astype, maximum, multiply, sqrt
from minigrad.ops.reduce import logsumexp, mean
from minigrad.ops.shape import tensor
from minigrad.tensor import Tensor


def relu(x: Any) -> Tensor:
    """max(x, 0); the gradient at 0 is one half."""
    return maximum(x, 0)  # type: ignore[no-any-return]


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """x - log(sum(exp(x))) along axis."""
    x = tensor(x)
    return x - logsumexp(x, axis, keepdims=True)  # type: ignore[no-any-return]


def layer_norm(x: Any, gain: Any = None, b: Any = None, eps: float = 1e-5) -> Tensor:
    """gain (x - mean) / sqrt(var + eps) + b over the last axis (Ba et al. 2016)."""
    centred = x - mean(x, axis=-1, keepdims=True)
    y = centred / sqrt(mean(multiply(centred, centred), axis=-1, keepdims=True) + eps)
    if gain is not None:
        y = y * gain
    return y if b is None else y + b  # type: ignore[no-any-return]


def dropout(x: Any, p: float = 0.5, key: random.Key | None = None, training: bool = True) -> Tensor:
    """x with each element 0 with probability p, the others over 1 - p; outside training x itself.

    Draws from key, or from the ambient generator (Srivastava et al. 2014).
    """
    p = arguments.number("p", p, 0, 1)
    x = tensor(x)
    if not training or p == 0:
        return x  # type: ignore[no-any-return]
    if p == 1:
        return multiply(x, 0)
    kept = random.bernoulli(key, x.shape, 1 - p)
    return multiply(x, multiply(astype(kept, x.dtype), 1 / (1 - p)))  # type: ignore[no-any-return]

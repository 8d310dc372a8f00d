"""Functions of tensors that are compositions of ops: activations, normalisation, dropout, losses.

Shapes: V classes; `...` any leading axes.
"""

from __future__ import annotations

from typing import Any

from minigrad import arguments
from minigrad.backend import use_backend
from minigrad.errors import DtypeError, IndexRangeError, IndexTypeError, ShapeError
from minigrad.ops import random
from minigrad.ops.create import arange, zeros
from minigrad.ops.elementwise import exp, log, log1p, maximum, sqrt, where
from minigrad.ops.index import scatter_add, take_along_axis
from minigrad.ops.reduce import max, mean, sum
from minigrad.ops.shape import expand_dims, reshape
from minigrad.tensor import Tensor, default_dtype


def tensor(x: Any) -> Tensor:
    """x itself, or the tensor of an array, a number or a list."""
    return x if isinstance(x, Tensor) else Tensor(x)


# --- activations and normalisation ---------------------------------------------------------------


def relu(x: Any) -> Tensor:
    """x where it is positive, else 0; the gradient at 0 is 0."""
    x = tensor(x)
    return where(x <= 0, 0, x)


def softplus(x: Any) -> Tensor:
    """log(1 + exp(x)), without overflow."""
    x = tensor(x)
    if x.dtype.kind != "f":  # bools have no negative, nor do unsigned integers
        x = x.astype(default_dtype())
    return relu(x) + log1p(exp(where(x <= 0, x, -x)))


def _shifted(x: Tensor, axis: int) -> Tensor:
    """x less its maximum along axis, a constant: softmax does not change, exp stays finite."""
    return x - max(x, axis, keepdims=True).detach()


def softmax(x: Any, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along axis (eq 6.29)."""
    share = exp(_shifted(tensor(x), axis))
    return share / sum(share, axis, keepdims=True)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """x - log(sum(exp(x))) along axis: the normalised of unnormalised log-probabilities."""
    shifted = _shifted(tensor(x), axis)
    return shifted - log(sum(exp(shifted), axis, keepdims=True))


def layer_norm(x: Any, gain: Any = None, b: Any = None, eps: float = 1e-5) -> Tensor:
    """gain (x - mean) / sqrt(var + eps) + b over the last axis (Ba et al. 2016)."""
    x = tensor(x)
    centred = x - mean(x, axis=-1, keepdims=True)
    y = centred / sqrt(mean(centred * centred, axis=-1, keepdims=True) + eps)
    if gain is not None:
        y = y * gain
    return y if b is None else y + b  # type: ignore[no-any-return]


def dropout(x: Any, p: float = 0.5, key: random.Key | None = None, training: bool = True) -> Tensor:
    """x with each element 0 with probability p, the others over 1 - p; outside training x itself.

    Draws from key, or from the ambient generator (Srivastava et al. 2014); with keys of the first
    axes' shape, each row's mask depends on its own key alone.
    """
    p = arguments.number("p", p, 0, 1)
    x = tensor(x)
    if not training or p == 0:
        return x  # type: ignore[no-any-return]
    with use_backend(x.backend):
        shape = x.shape[len(key.shape) :] if isinstance(key, random.Key) else x.shape
        kept = random.bernoulli(key, shape, 1 - p)
    scale = 1 / (1 - p) if p < 1 else 0.0
    return x * (kept.astype(x.dtype) * scale)  # type: ignore[no-any-return]


# --- labels --------------------------------------------------------------------------------------


def _labels(name: str, labels: Any, like: Tensor | None) -> Tensor:
    """labels as an integer tensor on the backend of `like`."""
    if not isinstance(labels, Tensor):
        labels = Tensor(labels, backend=None if like is None else like.backend)
    if labels.dtype.kind not in "iu":
        raise IndexTypeError(f"{name}: labels are integers, not {labels.dtype}")
    # one that stands for no class may be too large for a byte
    wide: Tensor = labels if labels.dtype.itemsize == 8 else labels.astype("int64")
    return wide


def _range_error(name: str, labels: Tensor, classes: int) -> IndexRangeError:
    values = labels.numpy()
    first = ((values < 0) | (values >= classes)).reshape(-1).argmax()
    position = tuple(int(i[0]) for i in ((values < 0) | (values >= classes)).nonzero())
    return IndexRangeError(
        f"{name}: label {values.reshape(-1)[first]} at position {position} is not one of the "
        f"{classes} classes 0 to {classes - 1}"
    )


def one_hot(labels: Any, classes: int, dtype: Any = None) -> Tensor:
    """1 at each label and 0 elsewhere, (..., V) for integer labels (...).

    Raises IndexTypeError, and IndexRangeError for a label outside [0, classes).
    """
    classes = arguments.size("classes", classes)
    labels = _labels("one_hot", labels, None)
    flat = reshape(where(labels < 0, classes, labels), -1)  # an index may be negative
    with use_backend(labels.backend):
        blank = zeros((labels.size, classes), dtype)
        rows = arange(labels.size)
    try:
        hot = scatter_add(blank, (rows, flat), 1.0)
    except IndexRangeError:
        raise _range_error("one_hot", labels, classes) from None
    return reshape(hot, (*labels.shape, classes))


# --- losses --------------------------------------------------------------------------------------


def _reduced(losses: Tensor, reduction: str, valid: Tensor | None = None) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r}: give 'mean', 'sum' or 'none'")
    if reduction == "none":
        return losses
    if reduction == "sum":
        return sum(losses)
    if valid is None:
        return mean(losses)
    return sum(losses) / maximum(valid.sum(), 1).astype(losses.dtype)


def _pair(name: str, x: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Prediction and target, of one shape and one floating dtype: a loss broadcasts nothing."""
    x = tensor(x)
    if not isinstance(target, Tensor):
        target = Tensor(target, backend=x.backend)
    if x.shape != target.shape:
        raise ShapeError(
            f"{name}: a prediction of shape {x.shape} and a target of shape {target.shape} must "
            f"have the same shape; reshape one of them"
        )
    if x.dtype.kind != "f" or x.dtype != target.dtype:
        raise DtypeError(
            f"{name}: a prediction of {x.dtype} and a target of {target.dtype} must have the same "
            f"floating dtype; convert one of them, for instance with .astype('{default_dtype()}')"
        )
    return x, target


def mse(x: Any, target: Any, reduction: str = "mean") -> Tensor:
    """(x - target)², for x and target of one shape and dtype."""
    x, target = _pair("mse", x, target)
    difference = x - target
    return _reduced(difference * difference, reduction)


def binary_cross_entropy_with_logits(x: Any, target: Any, reduction: str = "mean") -> Tensor:
    """-t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)), targets t in [0, 1] of x's shape."""
    x, target = _pair("binary_cross_entropy_with_logits", x, target)
    return _reduced(softplus(-x) + (1 - target) * x, reduction)


def cross_entropy(
    logits: Any,
    labels: Any,
    *,
    smoothing: float = 0.0,
    mask: Any = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-log(softmax(logits)[label]) for logits (..., V) and integer labels (...) (eq 10.18).

    mask (...), bool, is True where a label counts; a label equal to ignore_index does not either.
    The mean is over those that count (0 if none does); "none" gives 0 at the others. Nothing at a
    position that does not count, NaN included, reaches the loss or a gradient. With smoothing the
    target is (1 - smoothing) one-hot + smoothing / V (Szegedy et al. 2016).
    Raises ShapeError, DtypeError, IndexTypeError, and IndexRangeError for a label outside [0, V).
    """
    logits = tensor(logits)
    labels = _labels("cross_entropy", labels, logits)
    smoothing = arguments.number("smoothing", smoothing, 0, 1)
    if logits.ndim == 0 or labels.shape != logits.shape[:-1]:
        raise ShapeError(
            f"cross_entropy: labels of shape {labels.shape} do not fit logits of shape "
            f"{logits.shape}: they need the logits' shape without its last axis, the classes"
        )
    if logits.dtype.kind != "f":
        raise DtypeError(f"cross_entropy: logits are floating, not {logits.dtype}")
    valid = None if ignore_index is None else labels != ignore_index
    if mask is not None:
        mask = mask if isinstance(mask, Tensor) else Tensor(mask, backend=logits.backend)
        if mask.dtype.kind != "b":
            raise DtypeError(f"cross_entropy: a mask is bool, not {mask.dtype}")
        if mask.shape != labels.shape:
            raise ShapeError(
                f"cross_entropy: a mask of shape {mask.shape} does not fit labels of {labels.shape}"
            )
        valid = mask if valid is None else valid & mask
    if valid is not None:
        labels = where(valid, labels, 0)
        logits = where(expand_dims(valid, -1), logits, 0)
    classes = logits.shape[-1]
    shifted = _shifted(logits, -1)
    bounded = where(labels < 0, classes, labels)  # an index may be negative, a label not
    try:
        picked = take_along_axis(shifted, expand_dims(bounded, -1), -1)[..., 0]
    except IndexRangeError:
        raise _range_error("cross_entropy", labels, classes) from None
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * mean(shifted, -1)
    losses = log(sum(exp(shifted), -1)) - picked
    if valid is not None:
        losses = where(valid, losses, 0)
    return _reduced(losses, reduction, valid)

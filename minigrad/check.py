"""`gradcheck`: what the rules say, against central differences in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.autodiff import jvp, no_grad, vjp
from minigrad.errors import DtypeError, GradientError
from minigrad.ops import random
from minigrad.sweep import reached
from minigrad.tensor import Tensor

ENTRIES = 100  # of a larger argument, this many entries are compared


def gradcheck(
    f: Callable[..., Any],
    *xs: Any,
    order: int = 1,
    step: float = 1e-5,
    rtol: float = 1e-6,
    atol: float = 1e-7,
) -> bool:
    """True if the derivatives of f at xs agree with central differences; modules give parameters.

    xs are nests of tensors, or modules: f gets a copy of a module with the tensors that are moved.

    With a fixed random cotangent v, each entry of v . df/dx is compared with
    (v . f(x + step) - v . f(x - step)) / (2 step), and jvp with a difference along a random
    direction; order=2 does the same for the function x -> v . df/dx. Integer tensors are constants.
    Raises GradientError that names the argument, the worst entry and both values, or an argument
    that f does not use, and DtypeError for float32, whose rounding would hide a wrong gradient.
    """
    if order not in (1, 2):
        raise ValueError(f"gradcheck: order is 1 or 2, not {order!r}")
    modules = {i: x for i, x in enumerate(xs) if hasattr(x, "using")}
    xs = tuple(dict(x.named_parameters()) if i in modules else x for i, x in enumerate(xs))
    leaves, rebuild = tree.flatten(xs)
    labels = _labels(xs)
    moving = []
    for i, x in enumerate(leaves):
        if hasattr(x, "dtype") and not isinstance(x, Tensor):
            leaves[i] = x = Tensor(x)
        if isinstance(x, Tensor) and x.dtype == np.dtype("float32"):
            raise DtypeError(
                f"gradcheck: {labels[i]} is float32, whose rounding hides small errors; pass it "
                f"as float64, for instance with .astype('float64'), and make modules after "
                f"minigrad.set_default_dtype('float64')"
            )
        if isinstance(x, Tensor) and x.dtype.kind == "f":
            leaves[i] = x.detach()
            moving.append(i)
    if not moving:
        raise GradientError("gradcheck: no argument holds float64 tensors")

    def of_moving(*values: Any) -> list[Tensor]:
        full = list(leaves)
        for i, value in zip(moving, values, strict=True):
            full[i] = value
        args = [modules[i].using(x) if i in modules else x for i, x in enumerate(rebuild(full))]
        return tree.flatten(f(*args))[0]

    points = [leaves[i] for i in moving]
    names = [labels[i] for i in moving]
    _compare(of_moving, points, names, "", step, rtol, atol)
    _refuse_unused(of_moving, points, names)
    if order == 2:
        cotangents = _directions(of_moving(*points), 2)

        def gradient(*values: Any) -> list[Tensor]:
            return list(vjp(of_moving, *values)[1](cotangents))

        _compare(gradient, points, names, "second order, ", step, rtol, atol)
    return True


def _labels(xs: Sequence[Any]) -> list[str]:
    labels = []
    for number, x in enumerate(xs):
        parts = tree.flatten(x)[0]
        for i, part in enumerate(parts):
            name = getattr(part, "name", None)
            inside = f", tensor {i}" if len(parts) > 1 else ""
            labels.append(f"argument {number}{inside}" + (f" ({name})" if name else ""))
    return labels


def _refuse_unused(
    f: Callable[..., list[Tensor]], xs: Sequence[Tensor], labels: Sequence[str]
) -> None:
    """Raise GradientError for an argument that no result depends on: there would be 0 = 0."""
    own = [Tensor(x, requires_grad=True) for x in xs]
    nodes = set(reached([y.node for y in f(*own) if y.node is not None]))
    for x, label in zip(own, labels, strict=True):
        if x.size and x.node not in nodes:
            raise GradientError(
                f"gradcheck: the function does not depend on {label}; use the argument it is "
                f"given, not a tensor or module from outside"
            )


def _directions(tensors: Sequence[Tensor], salt: int) -> list[Tensor]:
    """Fixed random tensors of the given shapes."""
    keys = [random.key(salt).fold(i) for i in range(len(tensors))]
    return [
        random.normal(key, t.shape, t.dtype).to(t.backend)
        for key, t in zip(keys, tensors, strict=True)
    ]


def _compare(
    f: Callable[..., list[Tensor]],
    xs: Sequence[Tensor],
    labels: Sequence[str],
    what: str,
    step: float,
    rtol: float,
    atol: float,
) -> None:
    """Raise GradientError unless vjp and jvp of f at xs agree with central differences."""
    arrays = [x.numpy().copy("K") for x in xs]  # the layout decides the last bits of products

    def values(moved: Sequence[np.ndarray]) -> list[np.ndarray]:
        with no_grad():
            ys = f(*(Tensor(a, backend=x.backend) for a, x in zip(moved, xs, strict=True)))
        return [y.numpy() for y in ys]

    ys, pull = vjp(f, *xs)
    if any(
        not np.array_equal(y.numpy(), again, equal_nan=True)
        for y, again in zip(ys, values(arrays), strict=True)
    ):
        raise GradientError(
            "gradcheck: the function gives other values when it is called again; if it draws "
            "random numbers, give it a key"
        )
    cotangents = _directions(ys, 0)
    weights = [v.numpy() for v in cotangents]
    gradients = [g.numpy() for g in pull(cotangents)]

    def along(directions: Sequence[np.ndarray]) -> list[np.ndarray]:
        above = values([a + step * d for a, d in zip(arrays, directions, strict=True)])
        below = values([a - step * d for a, d in zip(arrays, directions, strict=True)])
        return [(p - m) / (2 * step) for p, m in zip(above, below, strict=True)]

    for n, (array, gradient, label) in enumerate(zip(arrays, gradients, labels, strict=True)):
        entries = np.unique(np.linspace(0, array.size - 1, min(array.size, ENTRIES)).astype(int))
        expected = np.zeros(len(entries))
        for i, entry in enumerate(entries):
            directions = [np.zeros(a.shape) for a in arrays]
            directions[n].reshape(-1)[entry] = 1
            expected[i] = sum(
                float((v * d).sum()) for v, d in zip(weights, along(directions), strict=True)
            )
        _agree(f"{what}the gradient of {label}", gradient.reshape(-1)[entries], expected,
               [np.unravel_index(e, array.shape) for e in entries], rtol, atol)  # fmt: skip
    across = _directions(xs, 1)
    tangents = [t.numpy() for t in jvp(f, xs, across)[1]]
    for n, (got, want) in enumerate(zip(tangents, along([d.numpy() for d in across]), strict=True)):
        _agree(f"{what}jvp of result {n}", got.reshape(-1), want.reshape(-1),
               list(np.ndindex(got.shape)), rtol, atol)  # fmt: skip


def _agree(
    what: str,
    got: np.ndarray,
    expected: np.ndarray,
    entries: Sequence[Any],
    rtol: float,
    atol: float,
) -> None:
    """Raise GradientError that names the worst entry; a NaN agrees with nothing."""
    error = np.abs(got - expected)
    scale = np.abs(expected).max(initial=0.0)
    excess = np.where(np.isnan(error), np.inf, error - (atol + rtol * scale))
    if excess.size and excess.max() > 0:
        worst = int(excess.argmax())
        entry = tuple(int(n) for n in entries[worst])
        raise GradientError(
            f"gradcheck: {what} is wrong: at {entry} the rules give {got[worst]:.9g}, central "
            f"differences {expected[worst]:.9g}"
        )

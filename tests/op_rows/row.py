"""What a row of the op table says, and the arguments that many rows share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg


class Sample(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Bad(NamedTuple):
    """Arguments that must be refused, by which error, with which words."""

    sample: Sample
    error: type[Exception]
    match: str


class Point(NamedTuple):
    """Arguments at a kink or an edge, and the gradients of the sum there, known in closed form."""

    sample: Sample
    gradients: tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """One op or composition.

    samples: float64 arguments at which the function is smooth; extra: further ones, for values.
    op: the registered op whose own row this is; kind: the class of tolerances, for float32 too
    unless kind_float32 names another (an op that is exact on what it gets rounds its result).
    dtypes: what integers and bool give: "keep" theirs, the default "float", "bool", "int64", "sum"
    (int64), or None for no rule; bools: takes bool; whole: integers of the domain.
    strict: refuses two floating dtypes. order: how often it can be differentiated.
    analytic: the reference takes complex numbers.
    """

    name: str
    call: Callable[..., Any]
    reference: Callable[..., Any]
    samples: Sequence[Sample]
    op: str | None = None
    kind: str = "elementwise"
    kind_float32: str | None = None
    dtypes: str | None = None
    bools: bool = True
    whole: tuple[int, ...] = (1, 2, 3)
    strict: bool = False
    order: int = 2
    analytic: bool = False
    extra: Sequence[Sample] = ()
    errors: Sequence[Bad] = ()
    points: Sequence[Point] = field(default_factory=tuple)


def S(*args: Any, **kwargs: Any) -> Sample:
    return Sample(args, kwargs)


_random = np.random.default_rng(20240611)


def U(low: float, high: float, *shape: int) -> np.ndarray:
    """Uniform numbers between bounds."""
    return np.asarray(_random.uniform(low, high, shape))


def R(*shape: int) -> np.ndarray:
    """Numbers between -2 and 2, none of them near 0."""
    values = _random.uniform(0.2, 2, shape) * _random.choice([-1, 1], shape)
    return np.asarray(values, dtype=np.float64)


def unary(low: float, high: float, without: float | None = None) -> list[Sample]:
    def draw(*shape: int) -> np.ndarray:
        x = U(low, high, *shape)
        return x if without is None else np.where(np.abs(x - without) < 0.05, x + 0.2, x)

    return [S(draw(*shape)) for shape in ((), (3,), (2, 3), (0,), (2, 0, 3), (2, 3, 2))]


PAIRS = (
    ((), ()),
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((2, 3), ()),
    ((0, 3), (3,)),
    ((4, 1, 3), (2, 1)),
)


def binary(draw_a: Callable[..., Any], draw_b: Callable[..., Any]) -> list[Sample]:
    """Shapes that broadcast, empty ones, and a Python number on either side."""
    pairs = [S(draw_a(*a), draw_b(*b)) for a, b in PAIRS]
    return [*pairs, S(draw_a(2, 3), float(draw_b())), S(float(draw_a()), draw_b(2, 3))]


WORD = Bad(S("word"), mg.DtypeError, "str|tensors hold")
NO_BROADCAST = (
    Bad(S(R(2, 3), R(4)), mg.ShapeError, r"\(2, 3\).*\(4,\).*do not broadcast: axis -1"),
    Bad(S(R(2, 3), "word"), mg.DtypeError, "cannot take a str"),
)


def signed(*shape: int) -> np.ndarray:
    return R(*shape)


def positive(*shape: int) -> np.ndarray:
    return U(0.3, 2.5, *shape)

"""Random programs, written by hypothesis, against the same programs in NumPy.

A program is a list of instructions over a growing pool of values: they are shared, dropped,
split, joined and reduced in ways nobody thought of. Its gradients are compared with central
differences of the NumPy run, or with a complex step where all instructions take complex numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from tests.op_checks import LAYOUTS, laid_out, leaves_of
from tests.tolerances import close


class Instruction(NamedTuple):
    """What it is called, how many values it takes, and the pieces it gives; numbers steer it."""

    name: str
    arity: int
    ours: Callable[..., Any]
    numpy: Callable[..., Any]
    analytic: bool = True


def both(name: str, arity: int, f: Callable[..., Any], analytic: bool = True) -> Instruction:
    """An instruction written once against NumPy's names: f(namespace, numbers, *values)."""
    return Instruction(
        name, arity, lambda n, *xs: f(mg, n, *xs), lambda n, *xs: f(np, n, *xs), analytic
    )


def axis_of(n: int, x: Any) -> int:
    return n % x.ndim if x.ndim else 0


def constant(xp: Any, array: np.ndarray) -> Any:
    return array if xp is np else mg.Tensor(array)


def halves(xp: Any, n: int, x: Any) -> Any:
    if not x.ndim:
        return [x]
    a = axis_of(n, x)
    pieces = xp.split(x, [x.shape[a] // 2], axis=a)
    return list(pieces)


def reduced(name: str) -> Callable[..., Any]:
    def reduce(xp: Any, n: int, x: Any) -> Any:
        if not x.ndim or x.size == 0:
            return x * 1.5
        return getattr(xp, name)(x, axis=axis_of(n, x), keepdims=bool(n & 8))

    return reduce


def product(xp: Any, n: int, a: Any, b: Any) -> Any:
    """A matrix product if the shapes allow one, scaled so that values stay small."""
    if a.ndim and b.ndim and a.shape[-1] == b.shape[max(b.ndim - 2, 0)] and a.ndim < 3 > b.ndim:
        return xp.matmul(a, b) / (1 + a.shape[-1])
    return added(xp, n, a, b)


def added(xp: Any, n: int, a: Any, b: Any) -> Any:
    return xp.add(a, b) / 2 if fits(a, b) else xp.sum(a) / (1 + a.size) + b


def multiplied(xp: Any, n: int, a: Any, b: Any) -> Any:
    return xp.multiply(a, xp.sin(b)) if fits(a, b) else a * xp.sin(xp.sum(b))


def divided(xp: Any, n: int, a: Any, b: Any) -> Any:
    """A quotient whose denominator is between 1 and 3."""
    return xp.divide(a, 2 + xp.sin(b)) if fits(a, b) else a / (2 + xp.sin(xp.sum(b)))


def fits(a: Any, b: Any) -> bool:
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return False
    return True


def joined(xp: Any, n: int, a: Any, b: Any) -> Any:
    if a.ndim and a.ndim == b.ndim and a.shape[1:] == b.shape[1:]:
        return xp.concatenate([a, b, a], axis=0)
    return xp.stack([a, a * 0.5], axis=n % (a.ndim + 1))


def sliced(xp: Any, n: int, x: Any) -> Any:
    if not x.ndim or not x.shape[0]:
        return x
    first = n % x.shape[0]
    return [x[first], x[::-2], x[constant(xp, np.array([first, -1, first]))]]


def chosen(xp: Any, n: int, a: Any, b: Any) -> Any:
    mask = np.arange(a.size).reshape(a.shape) % 2 == n % 2
    return xp.where(constant(xp, mask), a, b) if fits(a, b) and fits(a, b * 1.0) else a


def unstacked(n: int, x: Any) -> Any:
    if not x.ndim:
        return x
    return mg.unstack(x, axis_of(n, x)) if isinstance(x, mg.Tensor) else pieces(n, x)


def pieces(n: int, x: Any) -> Any:
    return [np.take(x, i, axis_of(n, x)) for i in range(x.shape[axis_of(n, x)])] if x.ndim else x


def turned(xp: Any, n: int, x: Any) -> Any:
    x = xp.flip(xp.transpose(x))
    return xp.roll(x, n % 4, axis_of(n, x)) if x.ndim else x


def reshaped(xp: Any, n: int, x: Any) -> Any:
    return xp.reshape(x, (-1,) if n & 1 or x.size % 2 else (2, x.size // 2))


def spread(xp: Any, n: int, x: Any) -> Any:
    return xp.broadcast_to(xp.expand_dims(x, 0), (2, *x.shape))


INSTRUCTIONS = [
    *(
        both(name, 1, lambda xp, n, x, name=name: getattr(xp, name)(x))
        for name in ("tanh", "sin", "cos", "arctan", "negative", "arcsinh")
        if name != "arctan"
    ),
    both("exp", 1, lambda xp, n, x: xp.exp(xp.sin(x))),
    both("log", 1, lambda xp, n, x: xp.log(2 + xp.sin(x))),
    both("sqrt", 1, lambda xp, n, x: xp.sqrt(2 + xp.cos(x))),
    both("power", 1, lambda xp, n, x: xp.sin(x) ** (n % 4)),
    Instruction("sigmoid", 1, lambda n, x: mg.sigmoid(x), lambda n, x: 1 / (1 + np.exp(-x))),
    both("add", 2, added),
    both("multiply", 2, multiplied),
    both("divide", 2, divided),
    both("matmul", 2, product),
    both("concatenate", 2, joined),
    both("where", 2, chosen),
    both("split", 1, halves),
    both("index", 1, sliced),
    Instruction("unstack", 1, unstacked, pieces),
    both("turn", 1, turned),
    both("reshape", 1, reshaped),
    both("broadcast", 1, spread),
    both("sum", 1, reduced("sum")),
    both("mean", 1, reduced("mean")),
    both("cumsum", 1, lambda xp, n, x: xp.cumsum(x, axis=axis_of(n, x)) if x.ndim else x),
    both("tril", 1, lambda xp, n, x: xp.tril(x, n % 3 - 1) if x.ndim > 1 else x),
    both("maximum", 2, lambda xp, n, a, b: xp.maximum(a, b) if fits(a, b) else a, analytic=False),
    both("absolute", 1, lambda xp, n, x: xp.absolute(x), analytic=False),
    both("max", 1, reduced("max"), analytic=False),
    both("var", 1, reduced("var"), analytic=False),
    both("sort", 1, lambda xp, n, x: xp.sort(x, axis=-1) if x.ndim else x, analytic=False),
]
ANALYTIC = [i for i, instruction in enumerate(INSTRUCTIONS) if instruction.analytic]
Program = list[tuple[int, int, int, int]]  # instruction, two operands (from the end), its number


def programs(analytic: bool) -> st.SearchStrategy[Program]:
    which = st.sampled_from(ANALYTIC) if analytic else st.integers(0, len(INSTRUCTIONS) - 1)
    number = st.integers(0, 15)
    return st.lists(st.tuples(which, number, number, number), min_size=3, max_size=14)


inputs = st.lists(
    st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=3
).flatmap(lambda shapes: st.tuples(st.just(shapes), st.integers(0, 2**16)))


def drawn(shapes: list[tuple[int, ...]], seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [np.asarray(random.uniform(-2, 2, shape)) for shape in shapes]


def run(program: Program, values: list[Any], ours: bool) -> Any:
    """A sum over all values of the pool at the end, each weighted in its own way."""
    pool = list(values)
    for which, first, second, number in program:
        instruction = INSTRUCTIONS[which]
        operands = [pool[-1 - n % len(pool)] for n in (first, second)][: instruction.arity]
        result = (instruction.ours if ours else instruction.numpy)(number, *operands)
        new = list(result) if isinstance(result, (list, tuple)) else [result]
        pool += [x for x in new if x.ndim < 4 and x.size <= 64]
    xp: Any = mg if ours else np
    return sum(xp.sum(xp.sin(x * (1 + i**0.5))) / (1 + x.size) for i, x in enumerate(pool))


def gradients(program: Program, tensors: list[mg.Tensor]) -> tuple[float, list[np.ndarray]]:
    y = run(program, tensors, ours=True)
    y.backward()
    return y.item(), [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors]


@settings(max_examples=150)
@given(program=programs(analytic=True), data=inputs)
def test_analytic_programs_against_a_complex_step(backend, program, data):
    arrays = drawn(*data)
    value, found = gradients(program, leaves_of(arrays))
    assert abs(value - run(program, arrays, ours=False)) <= 1e-12 * (1 + abs(value))
    for n, got in enumerate(found):
        want = np.zeros(arrays[n].shape)
        for place in np.ndindex(want.shape):
            moved = [a.astype(complex) for a in arrays]
            moved[n][place] += 1e-30j
            want[place] = run(program, moved, ours=False).imag / 1e-30
        close(got, want, "float64", "complex step", "a random program")


@settings(max_examples=100)
@given(program=programs(analytic=False), data=inputs)
def test_programs_against_central_differences(backend, program, data):
    arrays = drawn(*data)
    _, found = gradients(program, leaves_of(arrays))
    for n, got in enumerate(found):
        for place in np.ndindex(got.shape):
            slopes = []
            for step in (1e-6, 1e-7):  # both sides of both: at a kink they disagree
                sides = []
                for sign in (1, -1):
                    moved = [a.copy() for a in arrays]
                    moved[n][place] += sign * step
                    sides.append(run(program, moved, ours=False))
                here = run(program, arrays, ours=False)
                slopes += [(sides[0] - here) / step, (here - sides[1]) / step]
            if max(slopes) - min(slopes) < 1e-4:
                assert abs(got[place] - np.mean(slopes)) <= 1e-4
            else:  # between the slopes of the two sides
                assert min(slopes) - 1e-4 <= got[place] <= max(slopes) + 1e-4


@settings(max_examples=40)
@given(program=programs(analytic=True), data=inputs)
def test_second_derivatives_of_programs(backend, program, data):
    arrays = drawn(*data)[:2]
    if any(a.size for a in arrays):
        mg.gradcheck(
            lambda *xs: run(program, list(xs), ours=True),
            *(mg.Tensor(a) for a in arrays),
            order=2,
            rtol=1e-5,
            atol=1e-6,
        )


@settings(max_examples=40)
@given(program=programs(analytic=False), data=inputs, layout=st.sampled_from(LAYOUTS))
def test_layout_changes_nothing(backend, program, data, layout):
    """The same bits come out, wherever the operands lie in memory; and jvp agrees with backward."""
    arrays = [a if a.size else np.ones((2, 2)) for a in drawn(*data)]
    moved = [
        laid_out(a, layout) if a.ndim and layout != "read-only" else mg.Tensor(a) for a in arrays
    ]
    plain = [np.array(t.numpy(), order="C") for t in moved]
    _, want = gradients(program, leaves_of(plain))
    y, got = mg.value_and_grad(lambda xs: run(program, xs, ours=True))(moved)
    for g, w in zip(got, want, strict=True):
        close(g.numpy(), w, "float64", "gradient", layout)
    ones = [mg.Tensor(np.ones(a.shape)) for a in plain]
    along, dy = mg.jvp(lambda xs: run(program, xs, ours=True), (moved,), (ones,))
    assert along.item() == y.item()
    total = sum(float(w.sum()) for w in want)
    size = sum(float(np.abs(w).sum()) for w in want)
    assert abs(dy.item() - total) <= 1e-10 * (1 + size)

"""Products that leave out rows at rest: their numbers, what they leave out, and whole programs.

Shapes: T time, B batch, H hidden.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("numba") is None:
    pytest.skip("numba is not installed", allow_module_level=True)

from minigrad_numba.emit import library, pool, products, resting, running, target

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad.graph.resting import Rest
from tests import graph_programs as programs
from tests.catalogue import make
from tests.native import program
from tests.test_emit_library import CANARY, DTYPES, Guarded, laid_out, place

H = 4
SEEDS = st.integers(0, 10_000)
WAYS = st.sampled_from(["all", "none", "first", "scattered"])


def function(name: str, dtype: str) -> Any:
    return library.function(f"{name}_{dtype}")


def rows_of(way: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Which rows rest."""
    chosen = {"all": np.ones(n), "none": np.zeros(n), "first": np.arange(n) < n // 2}
    return np.asarray(chosen.get(way, rng.random(n) < 0.5), bool)


def zeros(a: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """a with zeros of both signs in some rows."""
    return np.where(rows[:, None], np.copysign(0.0, a), a).astype(a.dtype)


# --- rows ----------------------------------------------------------------------------------------


class Product:
    """product_resting of A's and C's of one shape by one B, with what it keeps between calls."""

    def __init__(self, m: int, b: np.ndarray, keeps: bool = True) -> None:
        (self.depth, self.n), self.m, self.dtype = b.shape, m, b.dtype.name
        form = products.shape(self.dtype, target.host())
        size = products.packed_size(self.depth, self.n, form)
        self.panels = np.zeros(max(1, size), self.dtype)
        function("pack", self.dtype)(*place(b), *b.shape, self.panels.ctypes.data)
        found = np.full(1, -1)
        function("finite", self.dtype)(self.panels.ctypes.data, size, found.ctypes.data)
        self.finite = int(found[0])
        self.last = Guarded(m * self.depth, self.dtype) if keeps else None
        self.called = False

    def __call__(self, a: np.ndarray, c: np.ndarray, gap: int = 0) -> np.ndarray:
        scratch = Guarded(resting.row_scratch_size(self.depth, self.n), self.dtype)
        output = Guarded(self.m * (self.n + gap), self.dtype)
        rows = output.inside.reshape(self.m, self.n + gap)
        rows[:, : self.n] = c
        address, row, _ = place(a)  # of an array that the caller holds
        last = self.last.address() if self.last else None
        function("product_resting", self.dtype)(
            *(self.m, self.n, self.depth, address, row, self.panels.ctypes.data),
            *(output.address(), self.n + gap, self.finite, last, int(self.called)),
            scratch.address(),
        )
        self.called = True
        assert output.untouched() and scratch.untouched() and (rows[:, self.n :] == CANARY).all()
        assert self.last is None or self.last.untouched()
        return rows[:, : self.n].copy()

    def plain(self, a: np.ndarray) -> np.ndarray:
        c = np.empty((self.m, self.n), self.dtype)
        sides = (*place(a), self.panels.ctypes.data, c.ctypes.data, self.n)
        function("product", self.dtype)(self.m, self.n, self.depth, *sides)
        return c


@settings(max_examples=60)
@given(DTYPES, st.integers(0, 220), st.integers(0, 70), st.integers(1, 40), WAYS, WAYS, SEEDS)
def test_rows_at_rest_change_no_bit(
    dtype: str, m: int, n: int, depth: int, zero: str, same: str, seed: int
) -> None:
    """Three times, with rows of zeros, and rows as they were, in what C holds from before."""
    rng = np.random.default_rng(seed)
    b = rng.standard_normal((depth, n)).astype(dtype)
    product, gap = Product(m, b, keeps=bool(rng.integers(4))), int(rng.integers(3))
    a, c = None, np.full((m, n), np.nan, dtype)  # which must not be read
    for _ in range(3):
        new = zeros(rng.standard_normal((m, depth)).astype(dtype), rows_of(zero, m, rng))
        a = new if a is None else np.where(rows_of(same, m, rng)[:, None], a, new)
        c = product(laid_out(a, str(rng.choice(["rows", "padded"]))), c, gap)
        assert c.tobytes() == product.plain(a).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_at_rest_are_not_multiplied(dtype: str) -> None:
    """What B's panels hold when a row rests reaches nothing; nor is C written where A stays."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((30, 9)).astype(dtype)
    product = Product(30, rng.standard_normal((9, 21)).astype(dtype))
    assert product.finite
    product(a, np.zeros((30, 21), dtype))
    product.panels[:] = np.nan
    changed, zero = np.arange(30) % 3 == 0, np.arange(30) % 3 == 1
    later = zeros(np.where(changed[:, None], a + 1, a), zero)
    c = product(later, np.full((30, 21), CANARY, dtype))
    assert np.isnan(c[changed]).all() and not c[zero].any()
    assert (c[~changed & ~zero] == CANARY).all()
    product.called = False  # of another loop, or the first iteration: C holds something else
    assert np.isnan(product(later, c)[~zero]).all()


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeros_times_what_is_not_finite_are_multiplied(dtype: str, wild: float) -> None:
    a, b = np.zeros((5, 40), dtype), np.ones((40, 35), dtype)
    b[-1, -1] = wild
    product = Product(5, b)
    assert not product.finite
    c = product(a, np.zeros((5, 35), dtype))
    assert np.isnan(c[:, -1]).all() and not c[:, :-1].any()


# --- terms of tall products ----------------------------------------------------------------------


def tall(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A B, A's columns being rows in memory, and the terms that were added."""
    (m, depth), n, dtype = a.shape, b.shape[1], a.dtype.name
    form = products.shape(dtype, target.host())
    scratch, terms = Guarded(products.scratch_size(n, form), dtype), np.full(depth, -1)
    output, across = Guarded(m * n, dtype), np.ascontiguousarray(a.T)
    function("product_tall_resting", dtype)(
        *(m, n, depth, across.ctypes.data, m, b.ctypes.data, n, output.address(), n),
        *(scratch.address(), terms.ctypes.data),
    )
    assert output.untouched() and scratch.untouched()
    return output.inside.reshape(m, n).copy(), terms


@settings(max_examples=60)
@given(DTYPES, st.integers(0, 40), st.integers(0, 70), st.integers(0, 600), WAYS, SEEDS)
def test_a_sum_is_that_of_the_terms_which_are_left(
    dtype: str, m: int, n: int, depth: int, way: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, depth), (depth, n)))
    rests = rows_of(way, depth, rng)
    kept = np.flatnonzero(~rests if n else np.zeros(depth, bool))
    form = products.shape(dtype, target.host())
    want, more = np.full((m, n), CANARY, dtype), np.empty(products.scratch_size(n, form), dtype)
    some_a, some_b = np.asfortranarray(a[:, kept]), b[kept]
    sides = (*place(some_a), *place(some_b), want.ctypes.data, n, more.ctypes.data)
    function("product_tall", dtype)(m, n, len(kept), *sides)
    got, terms = tall(a, zeros(b, rests))
    assert got.tobytes() == want.tobytes()
    np.testing.assert_array_equal(terms[: len(kept)], kept)
    assert (terms[len(kept) :] == -1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_terms_of_zeros_are_left_out_unless_they_are_times_infinity(dtype: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 100)).astype(dtype), rng.standard_normal((100, 18)).astype(dtype)
    a[3, 50], b[::2] = np.inf, 0
    c, terms = tall(a, b)
    assert np.isnan(c[3]).all() and np.isfinite(np.delete(c, 3, axis=0)).all()
    np.testing.assert_array_equal(terms[:51], np.sort(np.r_[np.arange(1, 100, 2), 50]))


# --- programs ------------------------------------------------------------------------------------


def training(name: str, **fixed: Any) -> tuple[Any, Any]:
    """A cell of the catalogue, and f(xs, options): outputs, last state, gradients."""
    cell = make(name, H, H)

    def f(xs: Any, options: Any) -> Any:
        ys, state = rnn.unroll(cell, xs, **options, **fixed)
        parts = [s for s in tree.flatten((ys, state))[0] if s.dtype.kind == "f"]
        loss = sum(mg.sum(s * mg.cos(s)) for s in parts)
        return ys, state, mg.pullback(loss, [*cell.parameters(), xs], allow_unused=True)

    return cell, f


def flat(nest: Any) -> list[np.ndarray]:
    return [x.numpy() for x in tree.flatten(nest)[0] if x is not None]


def both(name: str, xs: np.ndarray, options: Any, threads: int, **fixed: Any) -> Any:
    """Compiled on Numba with so many threads, and eagerly on NumPy."""
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(pool, "threads", lambda: threads)
        patch.setattr(running, "SMALL", -1)
        found = []
        for backend in ("numba", "numpy"):
            with mg.use_backend(backend):
                _, f = training(name, **fixed)
                step = mg.compile(f) if backend == "numba" else f
                given = {k: mg.Tensor(v) for k, v in options.items()}
                found.append(flat(step(mg.Tensor(xs, requires_grad=True), given)))
    return found


def drawn(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Inputs with NaN in the padding, lengths or a mask, often resets, and what is real."""
    rng = np.random.default_rng(seed)
    steps, batch = int(rng.integers(3, 9)), int(rng.integers(1, 15))
    lengths = rng.integers(0, steps + 1, batch)
    if rng.random() < 0.3:
        lengths = np.sort(lengths)[::-1].copy()
    real = np.arange(steps)[:, None] < lengths
    options = {"lengths": lengths}
    if rng.random() < 0.5:
        real = rng.random((steps, batch)) < rng.choice([0.2, 0.6, 0.95])
        options = {"mask": real}
    if rng.random() < 0.4:
        options["resets"] = rng.random((steps, batch)) < 0.3
    xs = np.where(real[:, :, None], rng.standard_normal((steps, batch, H)), np.nan)
    return xs, options, real


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["LSTM", "GRU", "RNN", "SRU"]), SEEDS, st.sampled_from([1, 2, 3]), st.booleans()
)
def test_compiled_ragged_training_is_the_eager_one(
    name: str, seed: int, threads: int, reverse: bool
) -> None:
    xs, options, real = drawn(seed)
    ours, theirs = both(name, xs, options, threads, reverse=reverse)
    assert not ours[0][~real].any() and not ours[-1][~real].any()
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12 * max(1, np.abs(y).max(initial=0)))


@settings(max_examples=3, deadline=None)
@given(SEEDS)
def test_padding_reaches_no_bit_and_threads_change_none_of_a_row(seed: int) -> None:
    xs, options, real = drawn(seed)
    found = [
        both("LSTM", given, options, threads)[0]
        for given, threads in ((xs, 1), (np.where(real[:, :, None], xs, 7.0), 1), (xs, 3))
    ]
    assert [x.tobytes() for x in found[0]] == [x.tobytes() for x in found[1]]
    rows = [0, 1, 2, -1]  # outputs, state, gradient of the inputs: sums over the batch may differ
    assert all(found[0][i].tobytes() == found[2][i].tobytes() for i in rows)


def test_a_state_at_rest_passes_bit_for_bit() -> None:
    xs, lengths = np.random.default_rng(0).standard_normal((9, 6, H)), np.array([0, 9, 4, 1, 7, 2])
    ys, h, *_ = both("RNN", xs, {"lengths": lengths}, 2)[0]
    for b, n in enumerate(lengths):
        assert h[b].tobytes() == (ys[n - 1, b] if n else np.zeros(H)).tobytes()


@pytest.mark.parametrize("where", ["Wx", "Wh"])
def test_what_is_not_finite_spreads_as_it_does_eagerly(where: str) -> None:
    """A weight that is infinite makes NaN of zeros, skipped or not."""
    rng = np.random.default_rng(0)
    xs, lengths = rng.standard_normal((6, 5, H)), np.array([0, 6, 3, 1, 4])
    found = []
    for backend in ("numba", "numpy"):
        with mg.use_backend(backend), np.errstate(all="ignore"):
            cell, f = training("LSTM")
            weight = dict(cell.named_parameters())[where]
            value = weight.numpy().copy()
            value[1, 2] = np.inf
            weight.assign(value)
            step = mg.compile(f) if backend == "numba" else f
            found.append(
                flat(step(mg.Tensor(xs, requires_grad=True), {"lengths": mg.Tensor(lengths)}))
            )
    for x, y in zip(*found, strict=True):
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y))


def native(f: Any, *args: Any) -> running.Program:
    with mg.use_backend("numba"):
        return program(programs.optimised(programs.captured(f, *args)[0]))


def calls(source: str, name: str) -> int:
    return source.count(f'call void @"minigrad_{name}_float64"')


def test_a_ragged_step_calls_what_looks_at_rows_and_no_other_program_does() -> None:
    with mg.use_backend("numba"):
        xs = mg.Tensor(np.zeros((24, 26, H)), requires_grad=True)
        _, f = training("LSTM")
        ragged = native(f, xs, {"lengths": mg.Tensor(np.full(26, 24))}).source()
        plain = native(f, xs, {}).source()
    for source, rows, terms in ((ragged, 4, 2), (plain, 0, 0)):
        assert calls(source, "product_resting") == rows
        assert calls(source, "product_tall_resting") == terms
    assert calls(ragged, "product_tall") == 0 < calls(plain, "product_tall")


@pytest.mark.parametrize("name", ["LSTM", "GRU", "SRU"])
def test_code_of_programs_without_choices_is_as_if_nobody_had_asked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mg.use_backend("numba"):
        xs = mg.Tensor(np.zeros((24, 26, H)), requires_grad=True)
        _, f = training(name)
        source = native(f, xs, {}).source()
        monkeypatch.setattr(running, "rest", lambda graph: Rest())
        assert native(f, xs, {}).source() == source


def test_a_choice_by_columns_is_compiled_as_any_other() -> None:
    def f(xs: Any, flags: Any, W: Any) -> Any:
        h, hs = mg.zeros((3, H), dtype="float64"), []
        for x, flag in zip(xs, flags):
            h = mg.where(flag, mg.tanh(mg.where(flag, x, 0) + h @ W), h)
            hs.append(h)
        ys = mg.stack(hs)
        return ys, mg.pullback(mg.sum(ys**2), [W, xs])

    rng = np.random.default_rng(0)
    with mg.use_backend("numba"):
        xs, W = (mg.Tensor(rng.normal(size=s), requires_grad=True) for s in ((6, 3, H), (H, H)))
        flags = mg.Tensor(rng.random((6, 3, H)) < 0.5)
        expected = flat(f(xs, flags, W))
    found = native(f, xs, flags, W)
    assert "resting" not in found.source()
    given = [xs.numpy(), flags.numpy(), W.numpy()]
    for x, y in zip(found(given), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)

"""lower: composed ops written out, with the same results."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.graph import evaluate, lower, lowering, verify
from minigrad.graph.ir import Loop
from minigrad.graph.lowering import einstein, vector_product
from minigrad.op import REGISTRY
from tests import graph_programs as programs
from tests.tolerances import close

WRITTEN_OUT = {"einsum", "logsumexp"}
KEYS = st.one_of(
    st.none(),
    st.integers(-4, 3),
    st.slices(4),
    st.builds(slice, *[st.none() | st.integers(-5, 5)] * 2),
)


def same(captured, kind="gradient"):
    graph, inputs = captured
    lowered = verify(lower(graph))
    with np.errstate(all="ignore"):
        found, expected = evaluate(lowered, inputs), evaluate(graph, inputs)
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        close(x.numpy(), y.numpy(), "float64", kind if y.dtype.kind == "f" else "exact", "lower")
    return lowered


def names(graph):
    return [step.op.name for step in graph.steps]


def test_the_examples_of_the_documentation():
    assert doctest.testmod(lowering).failed == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in programs.FEW else pytest.mark.slow)
        for n in programs.PROGRAMS
    ],
)
def test_programs(name):
    lowered = same(programs.PROGRAMS[name]())
    assert not WRITTEN_OUT & set(names(lowered))


def test_random_programs():
    for seed in range(6):
        same(programs.pooled(seed))


LETTERS = "abcd"
TERM = st.lists(st.sampled_from(LETTERS), unique=True, max_size=4).map("".join)


@settings(max_examples=60)
@given(terms=st.lists(TERM, min_size=1, max_size=2), data=st.data())
def test_einsteins_sums(terms, data):
    """Against NumPy's, for all ways in which letters are shared, summed and kept."""
    there = sorted(set("".join(terms)))
    result = "".join(
        data.draw(st.lists(st.sampled_from(there), unique=True) if there else st.just([]))
    )
    sizes = {c: data.draw(st.integers(1, 3)) for c in LETTERS}
    rng = np.random.default_rng(0)
    xs = [np.asarray(rng.normal(size=tuple(sizes[c] for c in term))) for term in terms]
    found = einstein([mg.Tensor(x) for x in xs], terms, result)
    expected = np.einsum(f"{','.join(terms)}->{result}", *xs)
    close(found.numpy(), expected, "float64", "reduction", f"{terms} -> {result}")


@pytest.mark.parametrize(
    ("a", "b"), [((2, 1, 3), (2, 3, 4)), ((2, 4, 3), (2, 3, 1)), ((1, 1, 3), (5, 3, 2))]
)
def test_a_row_or_column_for_each_matrix_of_a_batch(a, b):
    x, y = (np.random.default_rng(i).normal(size=s) for i, s in enumerate((a, b)))
    found = vector_product(mg.Tensor(x), mg.Tensor(y))
    close(found.numpy(), x @ y, "float64", "reduction", "a row")
    lowered = same(programs.captured(lambda x, y: x @ y, mg.Tensor(x), mg.Tensor(y)))
    assert "matmul" not in names(lowered)


@settings(max_examples=12)
@given(key=st.lists(KEYS, max_size=5).filter(lambda k: sum(x is not None for x in k) < 4))
def test_gradients_of_slices(key):
    """The gradient of x[key] by x, whichever it is; without strides it is a join."""
    x = np.random.default_rng(0).normal(size=(4, 4, 4))
    shape = x[tuple(key)].shape
    g = np.random.default_rng(1).normal(size=shape)

    def f(x, g):
        return mg.vjp(lambda x: x[tuple(key)], x)[1](g)

    graph, inputs = programs.captured(f, mg.Tensor(x, requires_grad=True), mg.Tensor(g))
    lowered = same((graph, inputs), "exact")
    expected = np.zeros(x.shape)
    expected[tuple(key)] = g
    close(evaluate(lowered, inputs)[0].numpy(), expected, "float64", "exact", str(key))
    if all(not isinstance(k, slice) or k.step in (None, 1) for k in key):
        assert "scatter" not in names(lowered)


def test_what_needs_values_or_is_its_own_composition_stays():
    def f(x, i):
        return mg.cumsum(x, axis=0), mg.argsort(x), mg.roll(x, 1, 0), mg.take(x, i, axis=0)

    ids = mg.Tensor(np.array([1, 0]))
    lowered = same(programs.captured(f, mg.Tensor(np.ones((2, 3))), ids), "exact")
    assert {"cumsum", "argsort"} <= set(names(lowered))


@pytest.mark.parametrize("first", [-1, 0, -3])
@pytest.mark.parametrize("count", [3, 7])
def test_what_each_iteration_composes_otherwise(monkeypatch, first, count):
    """A circular convolution, one roll an iteration: a short loop is written out, a long one not.

    In a loop around, whose carry it changes.
    """

    def f(w, shares):
        for _ in range(3):
            moved = [shares[j] * mg.roll(w, first + j, -1) for j in range(count)]
            w = mg.tanh(mg.sum(mg.stack(moved), axis=0))
        return w, mg.pullback(mg.sum(w), [shares], allow_unused=True)

    w, shares = (mg.Tensor(np.random.default_rng(i).normal(size=n), requires_grad=True)
                 for i, n in enumerate((5, count)))  # fmt: skip
    graph, inputs = programs.captured(f, w, shares)
    folded = mg.graph.fold(graph)
    rolls = {s.op.name for loop in folded.loops() for s in loop.body if not isinstance(s, Loop)}
    assert "roll" in rolls
    monkeypatch.setattr(lowering, "LONGEST", 3 * 3)  # steps that fold leaves in the inner loop
    lowered = mg.graph.simplify(same((folded, inputs)))  # without the rolls by nothing
    left = {s.op.name for s in lowered.walk() if not isinstance(s, Loop)}
    assert ("roll" in left) == (count > 3)


def test_an_op_of_a_user_is_written_out():
    def forward(xp, x):
        return xp.sum(xp.exp(x), axis=(0,), keepdims=False) * 2.0

    try:
        made = mg.op.op("summed_for_a_test", forward, shape=lambda x: x._replace(shape=x.shape[1:]))
        lowered = same(programs.captured(made, mg.Tensor(np.arange(6.0).reshape(2, 3))))
    finally:
        REGISTRY.pop("summed_for_a_test", None)
    assert names(lowered) == ["exp", "sum", "multiply"]


def test_constants_of_a_composition_belong_to_the_backend():
    """The same op of the same shapes, lowered for one backend and then for another."""
    for name in ("numpy", "module://tests.fake_cupy:backend", "numpy"):
        with mg.use_backend(name):
            same(programs.captured(lambda x: mg.logsumexp(x, axis=0), mg.ones((2, 3))), "gradient")

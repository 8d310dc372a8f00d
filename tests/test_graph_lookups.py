"""look_up: reads and sums at computed places, as a graph and as Numba's code, against NumPy."""

import doctest
import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad.errors import IndexRangeError
from minigrad.graph import evaluate, fuse, indexing, lookups, verify
from minigrad.graph.ir import Loop, Value
from minigrad.graph.lookups import look_up
from minigrad.op import bare
from minigrad.spec import Spec
from tests import graph_programs as programs

NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not NUMBA, reason="numba is not installed")


def rng_of(seed):
    return np.random.default_rng(seed)


def names(graph):
    inner = [s for step in graph.walk() for s in getattr(getattr(step, "op", None), "body", ())]
    return {s.op.name for s in (*graph.walk(), *inner) if not isinstance(s, Loop)}


def found_by(graph, inputs, threads=(1, 3)):
    """The outputs after look_up, of the interpreter, of kernels, and of native code."""
    yield evaluate(verify(look_up(graph)), inputs)
    yield evaluate(fuse(look_up(graph)), inputs)
    if NUMBA:
        from tests.native import program

        for count in threads:
            native = program(programs.optimised(graph), count)
            assert "op by op" not in native.report()
            native.interpreted = lambda inputs: pytest.fail("it was interpreted after all")
            arrays = [bare(x) for x in inputs]
            first, again = native(arrays), native(arrays)
            assert [a.tobytes() for a in first] == [a.tobytes() for a in again]
            yield first


def agree(f, expected, *args, tolerance=1e-12, threads=(1, 3)):
    graph, inputs = programs.captured(f, *args)
    for found in found_by(graph, inputs, threads):
        for x, y in zip(found, expected, strict=True):
            x = x.numpy() if isinstance(x, mg.Tensor) else x
            assert x.shape == y.shape and x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)
    return graph


def test_the_examples_of_the_documentation():
    assert doctest.testmod(lookups).failed == 0


# --- reads, and sums, their gradients -------------------------------------------------------------


@st.composite
def keys(draw):
    """A shape, a key with at least one array of integers, many of them equal, and the arrays."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    grid = draw(st.lists(st.integers(1, 5), max_size=2))
    kinds = draw(st.lists(st.sampled_from(["array", "array", "slice", "int"]),
                          min_size=len(sizes), max_size=len(sizes)))  # fmt: skip
    kinds[draw(st.integers(0, len(sizes) - 1))] = "array"
    key, arrays = [], []
    for n, kind in zip(sizes, kinds, strict=True):
        key += [None] * draw(st.integers(0, 1))
        if kind == "slice":
            key.append(draw(st.slices(n)))
        elif kind == "int":
            key.append(draw(st.integers(-n, n - 1)))
        else:
            own = [draw(st.sampled_from([1, m])) for m in grid]
            own = own[draw(st.integers(0, len(own))) :]
            dtype = draw(st.sampled_from(["int64", "int32"]))
            count = int(np.prod(own))
            values = draw(st.lists(st.integers(-n, n - 1), min_size=count, max_size=count))
            array = np.array(values, dtype).reshape(own)
            if draw(st.booleans()) and own and own[-1] == n:
                array = np.arange(n).reshape([1] * (len(own) - 1) + [n])  # a constant
                key.append(array)
            else:
                key.append(len(arrays) + 0.5)  # that operand
                arrays.append(array)
    return tuple(sizes), key, arrays


def with_arrays(key, arrays):
    return tuple(arrays[int(k)] if isinstance(k, float) else k for k in key)


ROWS, ROW = np.array([[2, 0, -1], [1, 1, 1]]), np.array([1, -2, 0])
TRICKY = [
    (
        (4, 3, 2, 4),
        [None, 0.5, slice(None), 1.5, slice(1, None)],
        [ROWS, ROW],
    ),  # apart: at the front
    ((3, 4, 4), [slice(None, None, -2), 0.5, 1.5], [ROWS, ROW]),
    ((4, 3, 4), [slice(1, 3), 0.5, -1], [ROWS]),
    ((4, 4), [0.5, None, 1], [ROWS]),
    ((4, 3), [np.arange(4)[:, None], 0.5], [ROW]),  # several numbers of a row
    ((4, 3), [np.arange(4), 0.5], [np.array([2, 0, -1, 2])]),  # one
    ((4, 40), [0.5], [ROW]),  # rows, longer than a vector
    ((40, 3), [slice(None), 0.5], [np.zeros(1, int)]),
    ((2, 3), [0.5], [np.zeros(0, int)]),
]


@settings(max_examples=12, deadline=None)
@given(drawn=st.sampled_from(TRICKY) | keys(), dtype=st.sampled_from(["float32", "float64"]))
def test_any_index_and_its_gradient(drawn, dtype):
    check_index(*drawn, dtype)


@pytest.mark.parametrize("case", range(len(TRICKY)))
def test_tricky_indices(case):
    check_index(*TRICKY[case], "float64")


def check_index(shape, key, arrays, dtype):
    """y = x[key] of computed x and computed integers; and duplicates are added up, in order."""
    x = rng_of(0).normal(size=shape).astype(dtype)
    y = np.tanh(x)[with_arrays(key, arrays)] * 2
    g = rng_of(1).normal(size=y.shape).astype(dtype)
    total = np.zeros(shape, dtype)
    np.add.at(total, with_arrays(key, arrays), g)

    def f(x, g, *arrays):
        chosen = with_arrays(key, [a - 50 for a in arrays])
        return mg.tanh(x)[chosen] * 2, mg.vjp(lambda x: x[chosen], x)[1](g)

    given = [mg.Tensor(a + np.array(50, a.dtype)) for a in arrays]
    agree(f, (y, total), mg.Tensor(x), mg.Tensor(g), *given,
          tolerance=1e-5 if dtype == "float32" else 1e-12)  # fmt: skip


def test_one_number_for_each_row_is_a_comparison():
    """The gradient of what cross-entropy picks is no sum; that of an embedding is one."""
    ids = mg.Tensor(np.array([2, 0, 2, 1]))

    def f(x, table, ids):
        picked, rows = mg.take_along_axis(x, ids[:, None], 1), mg.take(table, ids, axis=0)
        return mg.pullback(mg.sum(picked**2) + mg.sum(rows**2), [x, table])

    x, table = (mg.Tensor(rng_of(i).normal(size=s), requires_grad=True)
                for i, s in enumerate([(4, 3), (3, 5)]))  # fmt: skip
    expected = [np.zeros((4, 3)), np.zeros((3, 5))]
    at = np.arange(4), ids.numpy()
    np.add.at(expected[0], at, 2 * x.numpy()[at])
    np.add.at(expected[1], ids.numpy(), 2 * table.numpy()[ids.numpy()])
    graph = agree(f, expected, x, table, ids)
    left = [s.op.name for s in look_up(mg.graph.simplify(graph)).steps]
    assert left.count("accumulate") == 1 and "scatter" not in left


@needs_numba
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_rows_among_few_are_added_in_order(threads, dtype):
    """To the bit: every place gets its terms in the order in which they stand."""
    ids, g = rng_of(0).integers(0, 3, 100), rng_of(1).normal(size=(100, 37)).astype(dtype)
    expected = np.zeros((3, 37), dtype)
    np.add.at(expected, ids, g)
    table = mg.zeros((3, 37), dtype=dtype)

    def f(table, ids, g):
        return mg.vjp(lambda table: table[ids], table)[1](g)

    agree(f, (expected,), table, mg.Tensor(ids), mg.Tensor(g), tolerance=0, threads=(threads,))


def test_what_is_evenly_spaced():
    spaced = {
        (0, ((1, 1),)): np.arange(3)[None], (2, ((0, -2),)): np.array([[2], [0]]),
        (1, ()): np.ones((2, 2), int), None: np.array([0, 1, 3]),
    }  # fmt: skip
    for expected, array in spaced.items():
        spec = Spec(array.shape, array.dtype)
        found = indexing.line(Value(spec, constant=mg.Tensor(array)))
        assert (found and (found[0], tuple(found[1].items()))) == expected


# --- positions ------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_positions_of_extremes(data):
    """The first of equals, and NaN is greater and smaller than anything."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan])
    count = int(np.prod(shape))
    x = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count))).reshape(shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))

    def f(x):
        return mg.argmax(x, axis), mg.argmin(x, axis), mg.argmax(mg.isnan(x), axis)

    expected = x.argmax(axis), x.argmin(axis), np.isnan(x).argmax(axis)
    assert {"argmax", "argmin"}.isdisjoint(
        names(look_up(agree(f, expected, mg.Tensor(x), threads=(1,))))
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("axis", [0, 1])
def test_running_sums_in_loops(dtype, axis):
    x = rng_of(0).integers(0, 2 if dtype == "bool" else 5, (3, 4)).astype(dtype)

    def f(x):
        y, ys = x, []
        for _ in range(4):
            y = mg.cumsum(y, axis) % 7
            ys.append(y)
        return ys

    y, expected = x, []
    for _ in range(4):
        y = np.cumsum(y, axis) % y.dtype.type(7) if dtype[0] == "f" else np.cumsum(y, axis) % 7
        expected.append(y)
    graph, inputs = programs.captured(f, mg.Tensor(x))
    graph = programs.optimised(graph)
    for found in evaluate(look_up(graph), inputs), evaluate(graph, inputs):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.numpy(), b)
            assert a.dtype == b.dtype
    assert "cumsum" not in {s.op.name for loop in look_up(graph).loops() for s in loop.body
                            if not isinstance(s, Loop)}  # fmt: skip


# --- loops that feed back what they found ---------------------------------------------------------


def language_model(feedback, dtype):
    """Embedding, cell, cross-entropy of each step; what the next one sees depends on it."""
    V, H, B, T = 7, 5, 4, 6
    rng = rng_of(3)
    table, out = (mg.Tensor(rng.normal(size=s).astype(dtype), requires_grad=True)
                  for s in ((V, H), (H, V)))  # fmt: skip
    cell = rnn.GRUCell(H, H, dtype=dtype)

    def f(ids):
        h, total, x, weight = cell.initial_state(B), 0.0, ids[0], 1.0
        for t in range(T):
            y, h = cell(mg.take(table, x, axis=0) * weight, h)
            logits = y @ out
            loss = F.cross_entropy(logits, ids[t + 1])
            total, x = total + loss, ids[t + 1]
            if feedback == "loss":
                weight = mg.tanh(loss)
            elif feedback == "likeliest":
                x = mg.argmax(logits, -1)
            elif feedback == "drawn":
                shares = mg.cumsum(F.softmax(logits), axis=-1)
                x = mg.argmax(shares > 0.4, -1)
        return total, mg.pullback(total, [table, out, *cell.parameters()])

    return f, mg.Tensor(rng.integers(0, V, (T + 1, B)))


@needs_numba
@pytest.mark.parametrize(
    ("feedback", "dtype"),
    [
        pytest.param(feedback, dtype, marks=() if first else pytest.mark.slow)
        for feedback, dtypes in (
            ("none", ("float64", "float32")),
            ("loss", ("float32", "float64")),
            ("likeliest", ("float64", "float32")),
            ("drawn", ("float32", "float64")),
        )
        for first, dtype in zip((True, False), dtypes, strict=True)
    ],
)
def test_losses_and_symbols_that_go_back_in(feedback, dtype):
    """Against eager calls on NumPy; everything is native."""
    mg.random.seed(0)
    f, ids = language_model(feedback, dtype)
    total, gradients = f(ids)
    graph, inputs = programs.captured(f, ids)
    assert graph.outputs
    expected = [total.detach().numpy(), *(g.numpy() for g in gradients)]
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    *_, first, last = found_by(graph, inputs)
    for found in first, last:
        for x, y in zip(found, expected, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


@pytest.mark.parametrize("feedback", ["none", "loss", "likeliest"])
def test_an_embeddings_gradient_leaves_the_loop(feedback):
    """What all iterations scatter is scattered once, after the loop."""
    graph, inputs = programs.captured(*language_model(feedback, "float64"))
    made = programs.optimised(graph)
    inside = [s for loop in made.loops() for s in loop.body if not isinstance(s, Loop)]
    rows = [s for s in made.walk() if s.outputs[0].spec.shape == (7, 5)]
    scattered = [s for s in rows if not isinstance(s, Loop) and s.op.name == "scatter"]
    assert len(scattered) <= 2 and not set(scattered) & set(inside)
    for x, y in zip(evaluate(made, inputs), evaluate(graph, inputs), strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("template", ["rows", "rows and columns", "columns"])
def test_sums_of_what_iterations_scatter(template):
    """Indices of fewer axes than others, invariant ones, and places that stand behind a slice."""
    rng = rng_of(0)
    ids, more = rng.integers(0, 3, (5, 2)), rng.integers(0, 4, (3, 1))
    shape = {"rows": (2, 4), "rows and columns": (3, 2), "columns": (3, 2)}[template]
    xs = rng.normal(size=(5, *shape))

    def key(i):
        return {"rows": (i,), "rows and columns": (i, more), "columns": (slice(None), i)}[template]

    def f(xs, ids):
        total, h = mg.zeros((3, 4), dtype="float64"), mg.zeros(shape, dtype="float64")
        for x, i in zip(xs, ids, strict=True):
            h = mg.tanh(h + x)
            total = mg.scatter_add(total, key(i), h)
        return total

    expected, h = np.zeros((3, 4)), np.zeros(shape)
    for x, i in zip(xs, ids, strict=True):
        h = np.tanh(h + x)
        np.add.at(expected, key(i), h)
    graph = agree(f, (expected,), mg.Tensor(xs), mg.Tensor(ids))
    made = programs.optimised(graph)
    inside = {s.op.name for loop in made.loops() for s in loop.body if not isinstance(s, Loop)}
    assert ("scatter" in inside) == (template == "columns")


@needs_numba
@pytest.mark.parametrize("own", [True, False])
def test_threads_share_rows_that_look_up_in_themselves_alone(own):
    """Rows that read each other at computed places are the work of one thread."""
    ids = rng_of(0).integers(0, 7, (4, 7))

    def f(h, ids):
        for i in ids:
            picked = mg.take_along_axis(h, i[:, None], 1) if own else mg.take(h, i, axis=0)
            h = mg.tanh(h + picked)
        return h

    x = rng_of(1).normal(size=(7, 7))
    h = x
    for i in ids:
        h = np.tanh(h + (np.take_along_axis(h, i[:, None], 1) if own else h[i]))
    graph = agree(f, (h,), mg.Tensor(x), mg.Tensor(ids), threads=(1, 2, 3))
    from tests.native import program

    report = program(programs.optimised(graph), 3).report()
    assert ("each thread some of 7 rows" in report) == own


# --- errors ---------------------------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize("wrong", [7, -8, 2**40])
@pytest.mark.parametrize("feedback", ["none", "likeliest"])
def test_an_index_out_of_range_is_the_error_of_an_eager_call(feedback, wrong):
    """Native code goes on with place 0, and the call raises before anything is assigned."""
    with mg.use_backend("numba"):
        mg.random.seed(0)
        table = mg.Tensor(rng_of(0).normal(size=(7, 3)), requires_grad=True)

        def f(ids):
            total, weight = 0.0, mg.ones((2, 3), dtype="float64")
            for x in ids:
                weight = mg.tanh(mg.take(table, x, axis=0) * weight)
                total = total + mg.sum(weight)
                if feedback == "likeliest":
                    weight = weight + mg.expand_dims(mg.argmax(weight, -1), -1)
            total.backward()
            table.assign(table - table.grad)
            table.grad = None
            return total.detach()

        compiled = mg.compile(f)
        good = np.array([[0, 1], [6, -7], [2, 2]])
        before = table.numpy().copy()
        first = compiled(mg.Tensor(good)).numpy()
        assert "op by op" not in compiled.report()
        table.assign(before)
        bad = good.copy()
        bad[1, 1] = wrong
        with pytest.raises(IndexRangeError) as eager:
            f(mg.Tensor(bad))
        with pytest.raises(IndexRangeError) as ours:
            compiled(mg.Tensor(bad))
        value = f"index {wrong} at position"
        assert value in str(eager.value) and value in str(ours.value)
        assert "axis 0 of shape (7, 3), of size 7" in str(ours.value)
        np.testing.assert_array_equal(table.numpy(), before)
        np.testing.assert_array_equal(compiled(mg.Tensor(good)).numpy(), first)

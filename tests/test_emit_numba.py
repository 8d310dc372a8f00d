"""Numba's programs against the interpreter, without LLVM's optimiser but for the last ones.

Shapes: T time, B batch, D input, H hidden.
"""

import importlib.util
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("numba") is None:
    pytest.skip("numba is not installed", allow_module_level=True)

from minigrad_numba.emit import library, objects, running
from minigrad_numba.emit import program as emitted
from minigrad_numba.emit.rows import rows_at_once

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.errors import IndexRangeError
from minigrad.graph import Carry, Collected, Graph, Instruction, Loop, Value, evaluate
from minigrad.graph.ir import Affine, Counter, Sliced, Stacked
from minigrad.graph.properties import moving
from minigrad.op import REGISTRY, bare, op
from minigrad.ops import specs
from minigrad.spec import Spec
from tests import graph_programs as programs
from tests.native import agrees, close, optimised, program  # noqa: F401
from tests.op_checks import calls, laid_out
from tests.op_table import ROWS
from tests.random_loops import random_graph
from tests.recurrent import leaf

F64 = np.dtype("float64")


@pytest.fixture(autouse=True)
def on_numba():
    with mg.use_backend("numba"):
        yield


def rng_of(seed):
    return np.random.default_rng(seed)


def tensor(*shape, seed=0, dtype="float64"):
    return leaf(rng_of(seed).normal(size=shape), dtype)


def native(f, *args, threads=(1, 3), tolerance=1e-12):
    """f's program, after it was compared; nothing of it runs op by op."""
    found = agrees(*programs.captured(f, *args), threads, tolerance)
    assert "op by op" not in found.report()
    return found


def some(names, few):
    return [pytest.param(n, marks=[] if n in few else pytest.mark.slow) for n in names]


# --- whole programs ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(programs.PROGRAMS, programs.FEW))
def test_programs(name):
    agrees(*programs.PROGRAMS[name](), threads=(2,) if name in programs.FEW else (1, 2, 3))


SIZES_OF = [(1, 1), (1, 7), (2, 2), (3, 1), (3, 3), (5, 7)]


@pytest.mark.parametrize(
    ("T", "B"),
    [
        pytest.param(T, B, marks=[] if (T, B) in SIZES_OF else pytest.mark.slow)
        for T in (1, 2, 3, 5)
        for B in (1, 2, 3, 7)
    ],
)
def test_lengths_and_batches(T, B):
    H = {1: 1, 2: 3, 3: 9, 7: 17}[B]
    for kind in ("lstm", "gru") if T == B else ("lstm",):
        agrees(*programs.lstm_step(T, B, H, H, kind=kind), threads=(1, 2, 3) if T == 5 else (3,))


@pytest.mark.slow
@pytest.mark.parametrize("T", [1, 2, 3, 7])
@pytest.mark.parametrize("name", [n for n in programs.PROGRAMS if n.startswith("cell")])
def test_every_cell_at_other_sizes(name, T):
    for B, H in ((1, 3), (3, 9), (7, 1)):
        H += name == "cell clockwork"  # two groups of units
        agrees(*programs.cell(name.removeprefix("cell "), T, B, H), threads=(1, 2, 3))


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_float32(name):
    """Against float64: a few units in the last place for each of the steps."""
    graph, inputs = programs.cell(name, dtype="float32")
    exact, wide = programs.cell(name)
    found = program(programs.optimised(graph), 2)([bare(x) for x in inputs])
    for x, y in zip(found, evaluate(exact, wide), strict=True):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, y.numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_random_programs():
    for seed in range(8):
        agrees(*programs.pooled(seed), threads=(1 + seed % 3,))


@pytest.mark.slow
def test_more_random_programs():
    for seed in range(8, 300):
        agrees(*programs.pooled(seed))


def loops(seeds):
    for seed in seeds:
        graph, arrays = random_graph(seed, native=seed % 3 > 0)
        found = agrees(graph, [mg.Tensor(a) for a in arrays], (1 + seed % 2 * 2,), optimise=False)
        assert seed % 3 == 0 or "op by op" not in found.report()


def test_random_loops():
    loops(range(12))


@pytest.mark.slow
def test_more_random_loops():
    loops(range(12, 500))


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_every_op(part):
    """A sample of each row of the op table, inputs in several layouts."""
    layouts = (None, "fortran", "negative strides", "every other")
    for i, row in list(enumerate(ROWS))[part::3]:
        for call in list(calls(row))[:1]:
            if not call.arrays:
                continue
            data = [
                laid_out(a, layout) if layout and a.size and a.ndim and a.dtype.kind == "f" else a
                for a, layout in zip(call.arrays, [layouts[i % 4]] * 9)
            ]
            graph, inputs = programs.captured(lambda *xs, call=call: call.run(xs), *data)
            agrees(graph, inputs, (1,), 1e-6 if row.name == "random.normal" else 1e-12)


# --- results and inputs --------------------------------------------------------------------------


def test_results_that_are_inputs_constants_duplicates_and_views():
    def f(x):
        y, c = mg.tanh(x), mg.ones((2, 3), dtype="float64")
        return x, x.T, x[1], c, c.T, y, y, y.T, mg.reshape(y, -1), y[0, 1], mg.sum(y), x * 1.0

    native(f, tensor(2, 3))


def test_results_of_twenty_calls_ago_are_as_they_were():
    graph, inputs = programs.lstm_step()
    found = program(programs.optimised(graph), 2)
    arrays = [bare(x) for x in inputs]
    kept = []
    for n in range(20):
        results = found([a * (1 + n / 10) if a.dtype.kind == "f" else a for a in arrays])
        kept.append((results, [x.copy() for x in results]))
    for results, copies in kept:
        for x, y in zip(results, copies, strict=True):
            assert x.tobytes() == y.tobytes()
    del results, copies, x, y
    alive = {x.ctypes.data for results, _ in kept for x in results}
    again = found(arrays)
    assert not alive & {x.ctypes.data for x in again if x.size > 1}


def test_what_a_step_outside_returns_is_no_memory_of_the_program():
    """A view of scratch memory, made op by op, and used after that memory has served others."""

    def f(x):
        y = mg.tanh(x)
        z = mg.roll(y, 0, 0)
        return z, mg.roll(mg.sum(mg.exp(x) * 3.0, axis=0), 1, 0), y[mg.Tensor(np.array([1, 0]))]

    agrees(*programs.captured(f, tensor(2, 3)))


def test_layouts_of_inputs():
    graph, inputs = programs.captured(
        lambda x, y: (mg.tanh(x @ y), mg.sum(x * 2.0, axis=0)), tensor(4, 6), tensor(6, 4)
    )
    expected = evaluate(graph, inputs)
    found = program(programs.optimised(graph))
    for layout in ("fortran", "negative strides", "every other"):
        given = [bare(x) for x in (laid_out(bare(x), layout) for x in inputs)]
        before = [x.copy() for x in given]
        close(found(given), expected, 1e-14)
        for x, y in zip(given, before, strict=True):
            assert (x == y).all()


def test_nan_and_infinities_pass():
    def f(x, W):
        y = mg.where(x > 0, x, mg.tanh(x)) @ W
        return y, mg.max(x, axis=0), mg.min(x), mg.sum(x, axis=1), mg.any(x > 1), mg.maximum(x, y)

    x = np.array([[np.nan, 1.0, -2.0], [np.inf, -np.inf, 0.5], [0.0, -0.0, 3.0]])
    native(f, mg.Tensor(x), mg.Tensor(np.eye(3)))


def test_bools_and_integers():
    def f(x, i, b):
        j = i * 3 - i // 2
        c = mg.logical_and(b, j > 2)
        some = [mg.sum(c), mg.sum(i, axis=0), mg.max(i), mg.max(b), mg.min(c, axis=1), mg.all(b)]
        return j, c, mg.where(c, x, 0.0), mg.where(c, i, j), i + b, x * i, *some, b.T, j.T % 3

    i = mg.Tensor(rng_of(1).integers(-5, 9, (3, 5)))
    native(f, tensor(3, 5), i, mg.Tensor(rng_of(2).random((3, 5)) < 0.5))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3)])
def test_empty_arrays(shape):
    def f(x, W):
        y = mg.tanh(x) @ W
        return y, mg.sum(x, axis=0), mg.sum(y), mg.any(x > 0, axis=-1), mg.concatenate([x, x * 2.0])

    native(f, tensor(*shape), tensor(shape[-1], 4))


def test_an_empty_batch_and_no_steps():
    agrees(*programs.lstm_step(B=0), threads=(3,))
    cell = programs.random_cell("lstm", 3, 4, rng_of(1))

    def f(xs):
        state = cell.initial_state(2)
        for x in xs:
            _, state = cell(x, state)
        return state

    agrees(*programs.captured(f, tensor(0, 2, 3)))


def test_errors_of_steps_outside_are_those_of_eager_calls():
    graph, inputs = programs.captured(
        lambda x, i: mg.take(mg.tanh(x), i, axis=0), tensor(3, 2), mg.Tensor(np.array([0, 2]))
    )
    found = program(programs.optimised(graph))
    with pytest.raises(IndexRangeError, match="index 7"):
        found([bare(inputs[0]), np.array([0, 7])])
    close(found([bare(x) for x in inputs]), evaluate(graph, inputs), 1e-15)


def test_around_the_loops_of_a_large_program_no_step_is_computed_twice(monkeypatch):
    """What two kernels would compute both is an instruction of its own, in one run of them."""
    monkeypatch.setattr(running, "MOST", 10)

    def f(xs, W):
        shared, h = mg.exp(xs[0]), mg.zeros((2, 4), dtype="float64")
        shared = mg.tanh(shared) * shared
        for x in xs:
            h = mg.tanh(x @ W + h)
        last = shared @ W
        return h * shared.sum(), last, (shared + last @ W.T).max(axis=0), mg.take(last, 1, axis=0)

    found = agrees(*programs.captured(f, tensor(5, 2, 3), tensor(3, 4, seed=1)))
    assert "its loops alone are native" in found.report()
    outside = [s for s in found.graph.steps if not isinstance(s, Loop)]
    assert [s.op.name for s in outside].count("exp") == 1
    assert "kernel" not in [s.op.name for s in outside]
    runs = [part for part in found.parts if isinstance(part, running.Outside)]
    assert sum(len(part.steps) for part in runs) > len(runs) <= len(found.graph.loops()) + 1


def test_python_threads_take_turns():
    graph, inputs = programs.lstm_step()
    found = program(programs.optimised(graph), 2)
    given = [
        [bare(x) * s if bare(x).dtype.kind == "f" else bare(x) for x in inputs] for s in (1, 2, 3)
    ]
    expected = [[y.tobytes() for y in found(arrays)] for arrays in given]
    wrong = []

    def work(i):
        for _ in range(10):
            wrong.extend(i for _ in [0] if [y.tobytes() for y in found(given[i])] != expected[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- kernels -------------------------------------------------------------------------------------

SIZES = st.sampled_from([0, 1, 1, 2, 3, 5, 17])
SHAPES = st.lists(SIZES, min_size=1, max_size=4).map(tuple)
FOLDS = {"sum": "fib", "max": "fib", "min": "fib", "any": "b", "all": "b"}


@settings(max_examples=25)
@given(shape=SHAPES, name=st.sampled_from(sorted(FOLDS)), keep=st.booleans(), data=st.data())
def test_reductions(shape, name, keep, data):
    """Over every choice of axes, of every kind of number, of what kernels compute or read."""
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    kind = data.draw(st.sampled_from(FOLDS[name]))
    if name in ("max", "min") and any(shape[a] == 0 for a in axes):
        return
    x = rng_of(3).normal(size=shape) * 4
    x = {"f": x, "i": x.astype("int64"), "b": x > 0}[kind]
    turned = data.draw(st.permutations(range(len(shape))))
    back = np.argsort(turned)

    def f(x):
        y = mg.transpose(mg.transpose(x, turned), tuple(int(a) for a in back))
        y = y * 2.0 if kind == "f" else y
        fold = getattr(mg, name)
        return fold(y, axis=tuple(axes), keepdims=keep), fold(mg.transpose(x, turned))

    native(f, mg.Tensor(x), threads=(data.draw(st.sampled_from([1, 3])),)) if x.size or name in (
        "sum", "any", "all"
    ) else None  # fmt: skip


@settings(max_examples=25)
@given(shape=SHAPES, data=st.data())
def test_broadcasting_and_views_in_kernels(shape, data):
    def part():
        own = tuple(n if data.draw(st.booleans()) else 1 for n in shape)
        return own[data.draw(st.integers(0, len(shape))) :]

    def seen(x, kind):
        if kind == "flip" and x.ndim:
            return mg.flip(x, data_axis % x.ndim)
        if kind == "twice":
            return mg.transpose(mg.transpose(x))
        if kind == "cut" and x.ndim:
            return mg.concatenate([x, x], axis=0)[: x.shape[0]]
        if kind == "square" and x.ndim > 1 and x.shape[0] == x.shape[1]:
            return mg.swapaxes(x, 0, 1)
        if kind == "flat":
            return mg.reshape(mg.reshape(x, -1), x.shape)
        return x

    kinds = [
        data.draw(st.sampled_from(["as it is", "flip", "twice", "cut", "square", "flat"]))
        for _ in range(3)
    ]
    data_axis = data.draw(st.integers(0, 3))
    shapes = [shape, part(), part()]

    def f(*xs):
        a, b, c = (seen(x, kind) for x, kind in zip(xs, kinds, strict=True))
        y = mg.where(a > b, a * c, b - c)
        return y, mg.tanh(y + b), y.T

    xs = [tensor(*s, seed=i) for i, s in enumerate(shapes)]
    native(f, *xs, threads=(data.draw(st.sampled_from([1, 3])),))


PRODUCTS = [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((17, 9), (9, 33)),
    ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 3), (5, 3, 4)), ((5, 1, 2, 3), (1, 6, 3, 4)),
    ((5, 2, 3), (3,)), ((3,), (5, 3, 4)), ((2, 0), (0, 4)), ((0, 3), (3, 4)), ((2, 3), (3, 0)),
    ((0, 2, 3), (0, 3, 4)), ((1, 3), (3, 1)), ((2, 700), (700, 5)), ((13, 520), (520, 40)),
    ((5, 2, 1), (5, 1, 4)), ((5, 1, 3), (5, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products(dtype):
    """Of every rank, with operands as they are, transposed and as parts of others."""
    for a, b in PRODUCTS:
        x, y = tensor(*a, dtype=dtype), tensor(*b, seed=1, dtype=dtype)

        def turned(x):
            return mg.swapaxes(mg.swapaxes(x, -1, -2) * 1.0, -1, -2) if x.ndim > 1 else x

        def f(x, y, turned=turned):
            part = mg.concatenate([x, x], axis=-1)[..., : x.shape[-1]]
            return x @ y, turned(x) @ y, x @ turned(y), mg.tanh(part @ y) + 1.0

        native(f, x, y, threads=(3,), tolerance=1e-13 if dtype == "float64" else 2e-5)


def test_products_of_integers_and_of_transposed_inputs():
    i = mg.Tensor(rng_of(1).integers(0, 5, (3, 3)))
    agrees(*programs.captured(lambda i, x: (i @ i, i @ x, x.T @ x, x @ x.T), i, tensor(3, 3)))


def test_joins():
    """Of inputs, numbers' tensors, one value twice, products and other joins, along every axis."""
    for axis in (0, 1, 2, -1):

        def f(x, y, axis=axis):
            a, one = mg.tanh(x), mg.ones(x.shape, dtype="float64")
            both = mg.concatenate([a, x, a, one], axis=axis)
            outer = mg.concatenate([both, mg.stack([x, a, y @ y])[0], x * 2.0], axis=axis)
            parts = mg.stack([a, x @ y, a, mg.zeros(x.shape, dtype="float64")], axis=axis)
            return both, outer, parts, mg.sum(outer, axis=axis), a

        native(f, tensor(2, 3, 3), tensor(2, 3, 3, seed=1))


def test_joins_of_other_dtypes():
    """A part that is computed in another dtype is copied, not written in place."""
    a, b = (Value(Spec((2,), np.dtype(d))) for d in ("int64", "float64"))
    doubled, found = Value(Spec((2,), np.dtype("int64"))), Value(Spec((4,), F64))
    steps = (
        Instruction(REGISTRY["multiply"], (a, 2), {}, (doubled,)),
        Instruction(REGISTRY["concatenate"], (doubled, b), {"axis": 0}, (found,)),
    )
    inputs = [mg.Tensor(np.array([1, 2])), mg.Tensor(np.array([0.5, 1.5]))]
    agrees(Graph((a, b), steps, (found,)), inputs, optimise=False)


# --- loops ---------------------------------------------------------------------------------------


def test_carries_of_every_kind():
    """Delays, swaps, carries of carries, what never changes, numbers at the start."""

    def f(xs, W, c):
        h, g, a, b, far = mg.tanh(c), c, c * 0.5, c, [c, c * 2.0, c * 3.0]
        kept = []
        for x in xs:
            h, g = g, h
            a, b = mg.tanh(x @ W + b + far[-3]), a
            far = [*far[1:], a + h]
            kept.append(g + b)
        return mg.stack(kept), h, g, a, b, far, mg.pullback(mg.sum(a * b), [W, c, xs])

    native(f, tensor(7, 3, 5), tensor(5, 5), tensor(3, 5))


def loop_of(trips, initial, result=None, keep=True):
    """h = tanh(h + x) from `initial`, or `result` in place of h; the last h, and all of them."""
    spec = Spec((2, 3), F64)
    xs = Value(Spec((trips, 2, 3), F64))
    x, h, added, made, last = (Value(spec) for _ in range(5))
    whole = Value(Spec((trips, 2, 3), F64))
    steps = (
        Instruction(REGISTRY["add"], (h, x), {}, (added,)),
        Instruction(REGISTRY["tanh"], (added,), {}, (made,)),
    )
    loop = Loop(
        trips, steps, (Carry(h, result or made, initial),),
        collected=(Collected(made, {trips - 1: last}),), sliced=(Sliced(x, xs, trips - 1, -1),),
        stacked=(Stacked(made, whole, 0, 1),) if keep else (),
    )  # fmt: skip
    return xs, loop, (last, whole) if keep else (last,)


def test_carries_that_start_as_numbers():
    for initial in ((0.5,), (2.0, 0.25), (True, 1, 0.5)):
        for keep in (False, True):
            xs, loop, outputs = loop_of(5, initial, keep=keep)
            graph = Graph((xs,), (loop,), outputs)
            found = agrees(graph, [tensor(5, 2, 3)], optimise=False)
            assert "op by op" not in found.report()


def test_a_carry_whose_result_is_no_iterations_own():
    given = Value(Spec((2, 3), F64))
    constant = Value(Spec((2, 3), F64), constant=mg.Tensor(np.full((2, 3), 0.3)))
    for result in (given, constant):
        xs, loop, outputs = loop_of(4, (given,), result)
        graph = Graph((xs, given), (loop,), outputs)
        agrees(graph, [tensor(4, 2, 3), tensor(2, 3)], optimise=False)


def test_what_a_loop_keeps_may_have_other_rows_than_what_it_carries():
    """All rows of what is kept are copied, also by threads that share the carry's rows."""
    xs, loop, outputs = loop_of(4, (Value(Spec((2, 3), F64)),))
    ys, y, kept = Value(Spec((4, 7, 2), F64)), Value(Spec((7, 2), F64)), Value(Spec((4, 7, 2), F64))
    loop = replace(
        loop,
        sliced=(*loop.sliced, Sliced(y, ys)),
        stacked=(*loop.stacked, Stacked(y, kept, 3, -1)),
    )
    graph = Graph((xs, ys, loop.carries[0].initial[0]), (loop,), (*outputs, kept))
    agrees(graph, [tensor(4, 2, 3), tensor(4, 7, 2), tensor(2, 3)], (1, 2, 3), optimise=False)


def test_loops_without_rows_of_their_own():
    """Transposes, sums over the batch, products of carried values, vectors, other batches."""
    bodies = {
        "transpose": (lambda h, x, W: mg.tanh(h.T + x), (3, 3)),
        "sum over the batch": (lambda h, x, W: mg.tanh(h - mg.mean(h, axis=0) + x), (3, 3)),
        "carried product": (lambda h, x, W: mg.tanh(h @ h + x), (3, 3)),
        "carried right": (lambda h, x, W: mg.tanh(W @ h + x), (3, 3)),
        "vector": (lambda h, x, W: mg.tanh(h @ W + x), (3,)),
        "vector right": (lambda h, x, W: mg.tanh(W @ h + x), (3,)),
        "turned rows": (lambda h, x, W: mg.tanh(h[::-1] + x), (3, 3)),
        "first row": (lambda h, x, W: mg.tanh(h[:1] + x), (3, 3)),
        "joined rows": (lambda h, x, W: mg.tanh(mg.concatenate([h[1:], h[:1]]) + x), (3, 3)),
    }
    for name, (body, shape) in bodies.items():

        def f(xs, W, h, body=body):
            hs = []
            for x in xs:
                h = body(h, x, W)
                hs.append(h)
            return mg.stack(hs), mg.pullback(mg.sum(h), [xs, W], allow_unused=True)

        args = tensor(5, *shape), tensor(3, 3), tensor(*shape, seed=2)
        found = agrees(*programs.captured(f, *args), threads=(3,))
        assert "one thread" in found.report(), name


def test_loops_whose_threads_share_rows():
    """Products with weights and of each row's own matrices, of three axes and of two."""
    bodies = [
        (lambda h, x, W: mg.tanh(h @ W + x), (7, 3)),
        (lambda h, x, W: mg.tanh(h @ W + x), (7, 2, 3)),
        (lambda h, x, W: mg.tanh(h @ mg.swapaxes(h, 1, 2) @ x), (7, 3, 3)),
        (
            lambda h, x, W: mg.tanh(mg.reshape(mg.reshape(h, (7, 6)) * 0.5, (7, 2, 3)) + x),
            (7, 2, 3),
        ),
        (lambda h, x, W: mg.tanh(mg.concatenate([h[:, 1:], h[:, :1]], axis=1) @ W + x), (7, 3)),
        (lambda h, x, W: h / (1.0 + mg.sum(h * h, axis=1, keepdims=True)) + x, (7, 3)),
    ]
    for body, shape in bodies:

        def f(xs, W, h, body=body):
            hs = []
            for x in xs:
                h = body(h, x, W)
                hs.append(h)
            return mg.stack(hs)

        found = native(
            f, tensor(5, *shape), tensor(3, 3), tensor(*shape, seed=2), threads=(1, 2, 3)
        )
        assert "each thread some of 7 rows" in found.report()


def test_rows_go_through_a_loop_in_blocks(monkeypatch):
    """A matrix memory few rows at a time, a vector all at once; blocks of any size are the same."""

    def f(xs, C):
        for x in xs:
            C = mg.tanh(C * 0.5 + mg.expand_dims(x, -1) * mg.expand_dims(x, -2))
        return C

    large = programs.captured(f, tensor(3, 5, 96), tensor(5, 96, 96))
    assert "each thread some of 5 rows, 2 at a time" in agrees(*large, threads=(1, 3)).report()
    assert "at a time" not in agrees(*programs.lstm_step(T=4, B=5), threads=(1,)).report()
    for n in (1, 2, 3):
        monkeypatch.setattr(emitted, "rows_at_once", lambda loop, rows, n=n: min(n, rows))
        for graph in (programs.lstm_step(T=4, B=7), large, programs.cell("mLSTM", 3, 5, 4)):
            assert f", {n} at a time" in agrees(*graph, threads=(1, 3)).report()


def test_where_each_block_would_read_large_weights_again_all_rows_go_at_once():
    def f(xs, h, W):
        for x in xs:
            h = mg.tanh(h @ W + x)
        return h

    rows = {}
    for H in (32, 256):  # weights of 8 and 512 KB, of 2 MB that rows carry
        B = 2**18 // H
        given = tensor(4, B, H), tensor(B, H), tensor(H, H)
        steps = programs.optimised(programs.captured(f, *given)[0]).steps
        (loop,) = (s for s in steps if isinstance(s, Loop))
        rows[H] = rows_at_once(loop, B)
    assert rows == {32: 2**18 // 32 // 16, 256: 2**18 // 256}  # 128 KB of them, all of them


def test_nested_loops():
    W = tensor(3, 3, seed=4)

    def f(xs, ys):
        total, found = mg.zeros((2, 3), dtype="float64"), []
        for x in xs:
            h = x
            for y in ys:
                h = mg.tanh(h @ W + y)
                total = total + h
            found.append(h)
        return mg.stack(found), total, mg.pullback(mg.sum(total), [W, xs])

    agrees(*programs.captured(f, tensor(5, 2, 3), tensor(4, 2, 3, seed=5)), threads=(1, 2, 3))


# --- what has no native code ---------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    start=st.integers(0, 6),
    by=st.sampled_from([1, 2, 3, -1, -2]),
    length=st.integers(1, 3),
    source=st.sampled_from(["input", "transposed", "carried", "kernel"]),
)
def test_windows_that_move_with_the_iterations(start, by, length, source):
    """Overlapping or not, forward and back, of what lies in order and of what does not."""
    start += -3 * by if by < 0 else 0

    def f(x, h):
        hs = []
        for t in range(4):
            first = start + by * t
            whole = {"input": x, "transposed": x.T, "carried": x * mg.sum(h), "kernel": x * 2}
            window = whole[source][first : first + length]
            h = mg.tanh(mg.sum(window @ mg.ones((17, 3), dtype="float64"), axis=0) + h)
            hs.append(h * mg.sum(window))
        return mg.stack(hs), h

    x, h = rng_of(0).normal(size=(17, 17)), rng_of(1).normal(size=3)
    native(f, mg.Tensor(x), mg.Tensor(h))


def test_places_that_wrap_around_do_not_move_evenly():
    """x[-1], x[0], x[1]: a loop over such items runs op by op, and right."""
    x, counter = Value(Spec((3, 2), F64)), Counter()
    row, total, start = (Value(Spec((2,), F64)) for _ in range(3))
    template = {"template": (Affine(-1, 1, counter),)}
    body = Instruction(REGISTRY["index"], (x,), template, (row,))
    added = Instruction(REGISTRY["add"], (total, row), {}, (Value(Spec((2,), F64)),))
    whole = Value(Spec((3, 2), F64))
    loop = Loop(3, (body, added), carries=(Carry(total, added.outputs[0], (start,)),),
                stacked=(Stacked(added.outputs[0], whole),), counter=counter)  # fmt: skip
    graph = Graph((x, start), (loop,), (whole,))
    assert moving(body, {counter: 2}) and not moving(body, {counter: 3})
    inputs = [tensor(3, 2), tensor(2, seed=1)]
    assert "op by op" in agrees(graph, inputs, optimise=False).report()
    expected = bare(inputs[1]) + np.cumsum(bare(inputs[0])[[-1, 0, 1]], axis=0)
    np.testing.assert_allclose(evaluate(graph, inputs)[0].numpy(), expected)


def test_a_machine_whose_heads_shift():
    """Iterations that roll by other distances, in a loop with feedback, forward and backward."""
    cell = rnn.NTMCell(rnn.HiddenLayer(3 + 4, 5, dtype="float64"), 5, 8, 4, dtype="float64")
    native(programs.with_gradients(cell), tensor(4, 2, 3), tolerance=1e-10)


def test_ops_of_a_user_that_vectors_cannot_follow_run_op_by_op():
    forwards = {
        "hypot_for_a_test": lambda xp, x: xp.hypot(x, 2.0),  # elementwise, but not in the namespace
        "prod_for_a_test": lambda xp, x, *, axis, keepdims: xp.prod(
            x, axis=axis, keepdims=keepdims
        ),
        "sign_for_a_test": lambda xp, x: xp.where(xp.signbit(x), -1.0, 1.0) * x,
    }

    def reduced(x, *, axis, keepdims):
        return Spec(tuple(1 if a in axis else n for a, n in enumerate(x.shape)), x.dtype)

    try:
        made = [
            op(name, forward, shape=reduced if "prod" in name else specs.same)
            for name, forward in forwards.items()
        ]

        def f(xs):
            h, hs = mg.zeros((2, 3), dtype="float64"), []
            for x in xs:
                h = mg.tanh(made[0](h + x)) * made[1](x, axis=(0,), keepdims=True)
                hs.append(h)
            return mg.stack(hs), made[2](xs * 2.0) + 1.0

        found = agrees(*programs.captured(f, tensor(4, 2, 3)))
        assert "hypot_for_a_test" in found.report() and "op by op" in found.report()
    finally:
        for name in forwards:
            REGISTRY.pop(name, None)


# --- one structure, one code ---------------------------------------------------------------------


def test_other_lengths_and_other_numbers_are_the_same_code():
    """An LSTM's training step of few and many steps, and the same with other weak floats."""
    lengths = 5, 9, 33, 600  # kernels and sums of any size
    texts = {program(programs.optimised(programs.lstm_step(T)[0])).text for T in lengths}
    assert len(texts) == 1

    def scaled(a, b):
        return lambda x, W: mg.tanh(x @ W * a + b) / (a + 2.5)

    texts = {
        program(
            programs.optimised(programs.captured(scaled(*n), tensor(n_rows, 3), tensor(3, 4))[0])
        ).text
        for n, n_rows in (((0.5, 1.5), 4), ((0.25, 3.5), 6))
    }
    assert len(texts) == 1


def test_another_length_compiles_nothing(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("MINIGRAD_CACHE_DIR", str(tmp_path))
    library.load()
    first, given = programs.lstm_step(5)
    program(programs.optimised(first))([bare(x) for x in given])
    before = replace(objects.counters)
    graph, inputs = programs.lstm_step(9)
    found = program(programs.optimised(graph))
    close(found([bare(x) for x in inputs]), evaluate(graph, inputs), 1e-12)
    assert objects.counters == before and "earlier program" in found.report()


# --- with LLVM's optimiser -----------------------------------------------------------------------


@pytest.mark.parametrize("name", some(programs.PROGRAMS, ("attention",)))
@pytest.mark.usefixtures("optimised")
def test_optimised_code(name):
    agrees(*programs.PROGRAMS[name]())


@pytest.mark.usefixtures("optimised")
def test_training_in_float32_follows_float64():
    """A step, optimised, on two threads, against the interpreter in float64."""
    graph, inputs = programs.lstm_step(6, 3, 5, 9, "float32")
    exact, wide = programs.lstm_step(6, 3, 5, 9, "float64")
    found = program(programs.optimised(graph), 2)
    names = {v: i for i, v in enumerate(graph.inputs)}
    assert len(names) == len(exact.inputs)
    arrays = [bare(x) for x in inputs]
    expected = evaluate(exact, wide)
    for x, y in zip(found(arrays), expected, strict=True):
        np.testing.assert_allclose(x, y.numpy(), rtol=2e-5, atol=2e-5)
    assert math.isfinite(float(expected[0])) and isinstance(found, running.Program)

"""fuse: elementwise instructions and reductions in kernels; and what it asks of ops and views."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import minigrad as mg
from minigrad.graph import Instruction, Loop, Value, evaluate, fuse, fusing, properties, verify
from minigrad.graph.fusing import Kernel
from minigrad.graph.properties import (
    Place,
    View,
    as_view,
    contiguous,
    everywhere,
    is_elementwise,
    reducer,
    stretched,
    through,
    views,
)
from minigrad.op import REGISTRY, op
from minigrad.ops import specs
from minigrad.spec import Spec
from tests import graph_programs as programs
from tests.op_checks import calls
from tests.op_table import ROWS
from tests.random_loops import random_graph

FLOAT = np.dtype("float64")


def same(graph, inputs):
    """The fused graph, which gave the very bits, and computes nothing outside of kernels."""
    before = str(graph)
    fused = verify(fuse(graph))
    assert str(graph) == before
    with np.errstate(all="ignore"):
        for x, y in zip(evaluate(fused, inputs), evaluate(graph, inputs), strict=True):
            assert x.dtype == y.dtype and x.shape == y.shape
            assert x.numpy().tobytes() == y.numpy().tobytes()
    for step in fused.walk():
        assert isinstance(step, Loop) or not is_elementwise(step.op)
    return fused


def kernels(graph):
    return [s for s in graph.walk() if isinstance(s, Instruction) and isinstance(s.op, Kernel)]


def inside(kernel):
    return [step.op.name for step in kernel.op.body]


def fused(f, *args):
    graph, inputs = programs.captured(f, *args)
    return same(graph, inputs)


def tensor(*shape, seed=0):
    return mg.Tensor(np.random.default_rng(seed).normal(size=shape))


def test_the_examples_of_the_documentation():
    assert doctest.testmod(fusing).failed == doctest.testmod(properties).failed == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in programs.FEW else pytest.mark.slow)
        for n in programs.PROGRAMS
    ],
)
def test_programs(name):
    graph, inputs = programs.PROGRAMS[name]()
    same(programs.optimised(graph), inputs)


def test_random_programs():
    for seed in range(12):
        same(*programs.pooled(seed))


def test_random_loops():
    for seed in range(25):
        graph, arrays = random_graph(seed)
        same(graph, [mg.Tensor(a) for a in arrays])


# --- what becomes a kernel -----------------------------------------------------------------------


def test_a_chain_is_one_kernel_and_a_reduction_ends_one():
    graph = fused(lambda x: mg.sum(mg.tanh(x * 2.0) + 1.0, axis=0), tensor(3, 4))
    assert [inside(k) for k in kernels(graph)] == [["multiply", "tanh", "add", "sum"]]


def test_gates_are_read_where_the_product_left_them():
    def f(x, W):
        i, g = mg.split(x @ W, 2, axis=1)
        return mg.sigmoid(i) * mg.tanh(g)

    graph = fused(f, tensor(2, 3), tensor(3, 8))
    assert [s.op.name for s in graph.steps] == ["matmul", "kernel"]


def test_results_of_one_space_share_a_kernel():
    graph = fused(lambda x, y: (mg.tanh(x), mg.exp(y), mg.tanh(x) * y), tensor(3), tensor(3))
    assert len(kernels(graph)) == 1 and len(kernels(graph)[0].outputs) == 3


def test_what_is_read_at_other_places_is_another_kernel():
    def f(x):
        y = mg.tanh(x)
        return y, y + y.T

    assert len(kernels(fused(f, tensor(3, 3)))) == 2


def test_what_a_backend_has_no_code_for_stays():
    graph, _ = programs.captured(lambda x: mg.exp(mg.arctan2(x * 2.0, x)), tensor(3))
    found = fuse(graph, lambda step: step.op.name != "arctan2")
    assert [s.op.name for s in found.steps] == ["kernel", "arctan2", "kernel"]


def test_reshapes_of_what_lies_scattered_read_a_copy():
    def f(x, W):
        return mg.reshape(x.T, (6,)) @ W, mg.tanh(mg.reshape(x.T, (3, 2))), x.T @ x

    fused(f, tensor(2, 3), tensor(6, 2))
    graph, inputs = programs.second_axis()
    same(programs.optimised(graph), inputs)


# --- elementwise, reducer ------------------------------------------------------------------------


@pytest.mark.slow
def test_elementwise_ops_are_those_whose_results_change_with_their_own_elements_alone():
    """Found out by brute force: one element of every operand is changed, one of the result does."""
    seen = set()
    for row in ROWS:
        for call in list(calls(row))[:2]:
            if not call.arrays or any(a.size < 2 for a in call.arrays):
                continue
            graph, _ = programs.captured(lambda *xs, c=call: c.run(xs), *call.arrays)
            for step in graph.steps:
                values = [x for x in step.operands if isinstance(x, Value)]
                shapes = {v.spec.shape for v in (*values, *step.outputs)}
                if step.op.name in seen or len(shapes) > 1 or len(values) < len(step.operands):
                    continue
                if shapes == {()} or math.prod(*shapes) < 2 or step.op.outputs:
                    continue
                seen.add(step.op.name)
                shifts = step.op.name == "random_uniform"  # bits, as no array is asked to
                assert is_elementwise(step.op) == (moves_alone(step, values) and not shifts), (
                    step.op
                )
    assert {"tanh", "add", "flip", "maximum"} <= seen


def moves_alone(step, values):
    rng = np.random.default_rng(1)
    with np.errstate(all="ignore"):
        for at in np.ndindex(values[0].spec.shape):
            xs = [rng.uniform(0.2, 0.8, v.spec.shape).astype(v.spec.dtype) for v in values]
            changed = [x.copy() for x in xs]
            for x in changed:
                x[at] = x[at] * 0.5 if x.dtype.kind == "f" else x[at] + 1
            y, z = (np.asarray(step.op.forward(np, *v, **step.static)) for v in (xs, changed))
            other = (y != z) & ((y == y) | (z == z))
            other[at] = False
            if other.any():
                return False
    moving = ("flip", "roll", "transpose", "reshape", "tril", "triu")  # by place, not by value
    return step.op.name not in moving


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda xp, x: xp.exp(x) * 2.0, True),
        (lambda xp, x: xp.where(x > 0, x, -x), True),
        (lambda xp, x: xp.matmul(x, x), False),  # a ufunc, but of matrices
        (lambda xp, x: x if x > 0 else -x, False),
        (lambda xp, x: xp.sum(x), False),
        (lambda xp, x: xp.add.reduce(x), False),
        (lambda xp, x: x[0], False),
        (lambda xp, x: xp.sort(x), False),
        (lambda xp, x: x.T, False),
        (lambda xp, x: 1.0, False),
    ],
)
def test_elementwise_forwards(forward, expected):
    try:
        made = op("forward_for_a_test", forward, shape=specs.same).op
    finally:
        REGISTRY.pop("forward_for_a_test", None)
    assert is_elementwise(made) is expected


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda xp, x, *, axis, keepdims: xp.sum(x, axis=axis, keepdims=keepdims), "sum"),
        (lambda xp, x, *, axis, keepdims: xp.max(x, axis=axis, keepdims=keepdims), "max"),
        (lambda xp, x, *, axis, keepdims: xp.sum(-x, axis=axis, keepdims=keepdims), None),
        (lambda xp, x, *, axis, keepdims: -xp.sum(x, axis=axis, keepdims=keepdims), None),
        (lambda xp, x, *, axis, keepdims: xp.sum(x, axis=axis), None),
        (lambda xp, x, *, axis, keepdims: xp.mean(x, axis=axis, keepdims=keepdims), None),
        (lambda xp, x, *, axis, keepdims: xp.prod(x, axis=axis, keepdims=keepdims), None),
    ],
)
def test_reductions(forward, expected):
    try:
        made = op("reduction_for_a_test", forward, shape=specs.same).op
    finally:
        REGISTRY.pop("reduction_for_a_test", None)
    assert reducer(made) == expected


# --- views and places, against NumPy -------------------------------------------------------------


def numbered(shape):
    return np.arange(math.prod(shape)).reshape(shape)


def shown(view, size):
    """What a view shows of so many numbers in memory."""
    memory = np.arange(size)
    return as_strided(memory[view.offset :], view.shape, [8 * s for s in view.strides])


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
FULL = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@st.composite
def view_ops(draw, shape):
    """An op that may show another's elements: name, static arguments."""
    n = len(shape)
    kind = draw(st.sampled_from(["reshape", "transpose", "flip", "broadcast_to", "index", "split"]))
    if kind == "reshape":
        sizes = list(shape)
        if sizes:
            draw(st.randoms(use_true_random=False)).shuffle(sizes)
        cut = draw(st.integers(0, n))
        return kind, {"shape": (*sizes[:cut], math.prod(sizes[cut:]))}
    if kind == "transpose":
        return kind, {"axes": tuple(draw(st.permutations(range(n))))}
    if kind == "flip":
        return kind, {"axis": tuple(draw(st.sets(st.integers(0, n - 1)) if n else st.just(())))}
    if kind == "broadcast_to":
        return kind, {"shape": (draw(st.integers(1, 3)), *shape)}
    if kind == "split" and n:
        axis = draw(st.integers(0, n - 1))
        return kind, {"ends": (draw(st.integers(0, shape[axis])),), "axis": axis}
    items = []
    for size in shape:
        item = draw(st.sampled_from(["all", "one", "part", "new"]))
        if item == "one" and size:
            items.append(draw(st.integers(-size, size - 1)))
        elif item == "part":
            bounds = st.none() | st.integers(-5, 5)
            step = draw(st.sampled_from([None, 1, 2, -1, -2]))
            items.append(slice(draw(bounds), draw(bounds), step))
        else:
            items += [slice(None)] if item != "new" else [None, slice(None)]
    return "index", {"template": tuple(items)}


def instruction(name, static, shape):
    x = Value(Spec(shape, FLOAT))
    found = REGISTRY[name].shape(x.spec, **static)
    made = found if isinstance(found, (list, tuple)) and not isinstance(found, Spec) else [found]
    return Instruction(REGISTRY[name], (x,), static, tuple(Value(s) for s in made))


def of_numpy(step, array):
    made = step.op.forward(np, array, **step.static)
    return made if step.op.outputs else [made]


@settings(max_examples=150)
@given(data=st.data(), shape=SHAPES)
def test_views_show_what_numpy_shows(data, shape):
    step = instruction(*data.draw(view_ops(shape)), shape)
    expected = of_numpy(step, numbered(shape))
    found = views(step)
    assert found is not None
    for view, y in zip(found, expected, strict=True):
        assert view.shape == y.shape
        assert (shown(view, math.prod(shape) + 1) == y).all()
        if view.is_contiguous and y.size:
            assert (y.reshape(-1) == y.reshape(-1)[0] + np.arange(y.size)).all()


@settings(max_examples=150)
@given(data=st.data(), shape=FULL)
def test_views_of_views(data, shape):
    """Where NumPy needs a copy there is None, else the elements are those of two views in turn."""
    first = instruction(*data.draw(view_ops(shape)), shape)
    of = views(first)[0]
    second = instruction(*data.draw(view_ops(of.shape)), of.shape)
    found = views(second, of)
    array = numbered(shape)
    before = np.asarray(of_numpy(first, array)[0])
    expected = of_numpy(second, before)
    shares = all(np.may_share_memory(y, before) or not (y.ndim and y.size) for y in expected)
    assert (found is not None) == shares
    for view, y in zip(found or (), expected, strict=False):
        assert (shown(view, array.size + 1) == y).all()


@settings(max_examples=150)
@given(data=st.data(), shape=FULL)
def test_places_of_elements(data, shape):
    """through: the base's element at each element of a view; None if axes are not kept apart."""
    step = instruction(*data.draw(view_ops(shape)), shape)
    view = views(step)[0]
    places = through(view, shape, everywhere(view.shape))
    array, y = numbered(shape), of_numpy(step, numbered(shape))[0]
    if places is None:
        assert step.op.name == "reshape" or not y.size
        return
    assert len(places) == len(shape)
    for at in np.ndindex(*view.shape):
        where = tuple(
            p.offset + (p.step * at[p.along] if p.along is not None else 0) for p in places
        )
        assert array[where] == y[at]
    if y.size:
        again = as_view(places, contiguous(shape), view.shape)
        assert (shown(again, array.size + 1) == y).all()


@settings(max_examples=150)
@given(data=st.data(), shape=FULL)
def test_places_through_two_views(data, shape):
    first = instruction(*data.draw(view_ops(shape)), shape)
    one = views(first)[0]
    second = instruction(*data.draw(view_ops(one.shape)), one.shape)
    two = views(second)[0]
    inner = through(two, one.shape, everywhere(two.shape))
    places = through(one, shape, inner) if inner is not None else None
    if places is None or 0 in two.shape:
        return
    expected = of_numpy(second, of_numpy(first, numbered(shape))[0])[0]
    found = as_view(places, contiguous(shape), two.shape)
    assert (shown(found, math.prod(shape) + 1) == expected).all()


@given(shape=FULL, data=st.data())
def test_places_of_what_is_broadcast(shape, data):
    smaller = tuple(n if data.draw(st.booleans()) else 1 for n in shape)
    smaller = smaller[data.draw(st.integers(0, len(shape))) :]
    array = numbered(smaller)
    found = as_view(stretched(everywhere(shape), shape, smaller), contiguous(smaller), shape)
    assert (shown(found, array.size + 1) == np.broadcast_to(array, shape)).all()


def test_ops_that_copy_are_no_views():
    for name, static in (
        ("roll", {"shift": 1, "axis": 0}),
        ("cumsum", {"axis": 0}),
        ("argsort", {"axis": 0}),
    ):
        assert views(instruction(name, static, (3, 2))) is None
    assert views(instruction("argsort", {"axis": 0}, (0, 2))) is None  # another dtype


def test_a_view_of_an_empty_array():
    assert views(instruction("transpose", {"axes": (1, 0)}, (0, 3))) == [View((3, 0), (1, 3))]
    assert everywhere((2, 3)) == (Place(0, 1, 0), Place(0, 1, 1))

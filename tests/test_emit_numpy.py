"""Programs that the NumPy backend emits: the bits of `evaluate`, on memory planned beforehand."""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from minigrad_numpy import NumpyBackend

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad.errors import IndexRangeError
from minigrad.graph import (
    Carry,
    Collected,
    Graph,
    Indexed,
    Instruction,
    Loop,
    Value,
    capture,
    evaluate,
    verify,
)
from minigrad.graph.sources import Held
from minigrad.op import REGISTRY, bare, op
from minigrad.ops import specs
from minigrad.spec import Spec
from tests import test_programs as programs
from tests.catalogue import ORACLES, make
from tests.op_checks import calls, laid_out, leaves_of
from tests.op_table import ROWS
from tests.random_loops import random_graph
from tests.recurrent import leaf, random_cell
from tests.rows import with_rows

NUMPY = mg.resolve("numpy")
B, D, H = 2, 3, 4


@pytest.fixture(autouse=True)
def on_numpy():
    with mg.use_backend("numpy"):
        yield


def rng_of(seed):
    return np.random.default_rng(seed)


def bits(arrays):
    return [(a.shape, a.dtype.str, a.tobytes()) for a in arrays]


def same(graph, inputs):
    """Emit a graph and demand evaluate's outputs for these inputs, and for others in between."""
    program = NUMPY.emit(verify(graph))
    wanted = bits([y.numpy() for y in evaluate(graph, inputs)])
    arrays = [bare(x) for x in inputs]
    first = program(arrays)
    assert bits(first) == wanted
    assert [y.dtype for y in first] == [v.spec.dtype for v in graph.outputs]
    with np.errstate(all="ignore"):
        program([np.copy(a) * 2 if a.dtype.kind == "f" else a for a in arrays])
    assert bits(first) == wanted  # nobody wrote into what was returned
    assert bits(program(arrays)) == wanted
    return program


def emitted(f, *args, flat=True):
    """The program of f's folded graph, after it, the flat one and one with rows gave the bits."""
    captured = capture(f, *args)
    inputs = captured.inputs(tree.flatten(args)[0])
    folded = mg.fold(captured)
    if flat:
        same(captured.graph, inputs)
    same(with_rows(folded), inputs)
    return same(folded, inputs)


def sequence(T, seed=0, dtype="float64"):
    return leaf(rng_of(seed).normal(size=(T, B, D)), dtype)


def with_gradients(net):
    def f(xs):
        ys, state = rnn.unroll(net, xs)
        loss = mg.mean(ys**2)
        for part in tree.flatten(state)[0]:
            loss = loss + mg.sum(part) if part.dtype.kind == "f" else loss
        return loss, mg.pullback(loss, [*net.parameters(), xs], allow_unused=True)

    return f


# --- nets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORACLES)
def test_every_cell_of_the_catalogue_with_its_gradients(name):
    cell = make(name, D, H)
    program = emitted(with_gradients(cell), sequence(4), flat=len(name) < 5)
    assert "0 calls allocate" in program.report()


def trained(cell, optimizer, T, batch, D, H, dtype="float32"):
    """A training step of a user's loop, and data for it."""

    def step(xs, target):
        state, ys = cell.initial_state(batch), []
        for x in xs:
            y, state = cell(x, state)
            ys.append(y)
        loss = mg.mean((mg.stack(ys) - target) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    rng = rng_of(3)
    shapes = (T, batch, D), (T, batch, H)
    return step, [mg.Tensor(rng.normal(size=shape), dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("kind", ["SGD", "Adam", "RMSProp"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_training_steps(name, kind):
    cell = random_cell(name, D, H, rng_of(1), "float32")
    optimizer = getattr(mg.optim, kind)(cell.parameters(), lr=0.01)
    emitted(*_flat(trained(cell, optimizer, 5, B, D, H)))


def _flat(pair):
    step, data = pair
    return step, *data


def test_several_steps_are_those_of_the_eager_engine():
    """State carried by hand from call to call: parameters and moments, twenty steps."""
    cell = random_cell("lstm", D, H, rng_of(1), "float32")
    optimizer = mg.optim.Adam(cell.parameters(), lr=0.01)
    step, data = trained(cell, optimizer, 6, B, D, H)
    captured = capture(step, *data)
    program = NUMPY.emit(mg.fold(captured))
    inputs = captured.inputs(data)
    held = {id(s.tensor): i for i, s in enumerate(captured.sources) if isinstance(s, Held)}
    places = [target.place(data) for target in captured.targets]
    arrays = [bare(x) for x in inputs]
    for _ in range(20):
        loss, *changed = program(arrays)
        for place, array in zip(places, changed, strict=True):
            if id(place) in held:
                arrays[held[id(place)]] = array
        assert loss.tobytes() == step(*data).numpy().tobytes()


def test_masks_lengths_resets_and_dropout():
    cell = random_cell("gru", D, H, rng_of(4))
    rng = rng_of(5)
    mask, resets = rng.random((6, B)) < 0.7, rng.random((6, B)) < 0.3

    def masked(xs):
        ys, state = rnn.unroll(cell, xs, mask=mask, resets=resets, reverse=True)
        return ys, mg.pullback(mg.sum(ys * ys) + mg.sum(state), [*cell.parameters(), xs])

    def ragged(xs):
        ys, _ = rnn.unroll(cell, xs, lengths=np.array([6, 3]))
        kept = mg.functional.dropout(ys, 0.3)
        return kept, mg.pullback(mg.sum(kept * kept), [*cell.parameters(), xs])

    def per_step(xs):
        h = mg.zeros((B, D), dtype="float64")
        for x in xs:
            h = mg.functional.dropout(mg.tanh(h + x), 0.4, mg.random.key(3))
        return h, mg.random.uniform(None, (3,))

    for f in (masked, ragged, per_step):
        emitted(f, sequence(6))


def test_attention_over_a_memory_embedding_and_cross_entropy():
    cell = random_cell("lstm", 2 * D, H, rng_of(6))
    table, out = leaf(rng_of(7).normal(size=(7, D))), leaf(rng_of(8).normal(size=(H, 7)))
    keys = leaf(rng_of(9).normal(size=(5, B, D)))
    project = leaf(rng_of(10).normal(size=(H, D)))

    def decode(symbols):
        state, loss = cell.initial_state(B), 0
        h = state[0]
        for t in range(5):
            score = mg.sum(keys * (h @ project), axis=-1)
            context = mg.sum(mg.functional.softmax(score, axis=0)[..., None] * keys, axis=0)
            x = mg.concatenate([table[symbols[t]], context], axis=-1)
            h, state = cell(x, state)
            loss = loss + mg.functional.cross_entropy(h @ out, symbols[t + 1])
        return loss, mg.pullback(loss, [*cell.parameters(), table, out, keys, project])

    program = emitted(decode, mg.Tensor(rng_of(11).integers(0, 7, (6, B))))
    bad = mg.Tensor(np.full((6, B), 7))
    captured = capture(decode, bad)
    messages = []
    for run in (lambda xs: evaluate(captured.graph, xs), lambda xs: program([*map(bare, xs)])):
        with pytest.raises(IndexRangeError, match="index 7 at position") as caught:
            run(captured.inputs([bad]))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_time_along_the_second_axis_and_directions_and_layers():
    W = leaf(rng_of(12).normal(size=(D, D)))

    def second(xs):
        h, hs = mg.zeros((B, D), dtype="float64"), []
        for t in reversed(range(xs.shape[1])):
            h = mg.tanh(xs[:, t] + h @ W)
            hs.append(h)
        return hs, mg.pullback(mg.sum(mg.stack(hs, axis=1) ** 2), [W, xs])

    emitted(second, leaf(rng_of(13).normal(size=(B, 6, D))))
    both = [
        rnn.Bidirectional(*(random_cell("lstm", size, H, rng_of(26)) for _ in range(2)))
        for size in (D, 2 * H)
    ]
    net = rnn.Layers(both)
    emitted(lambda xs: mg.pullback(mg.sum(net(xs)[0] ** 2), [*net.parameters()]), sequence(5))


def test_gradients_added_up_over_minibatches():
    cell = random_cell("rnn", D, H, rng_of(21))

    def f(batches):
        for p in cell.parameters():
            p.grad = None
        for xs in batches:
            mg.mean(rnn.unroll(cell, xs)[0] ** 2).backward()
        return [p.grad for p in cell.parameters()]

    emitted(f, mg.Tensor(rng_of(22).normal(size=(5, 4, B, D))))


# --- loops and ops -------------------------------------------------------------------------------


def loops(seeds):
    for seed in seeds:
        graph, arrays = random_graph(seed)
        if seed % 3 == 1:
            arrays = [np.asfortranarray(a) for a in arrays]
        with np.errstate(all="ignore"):
            same(graph, [mg.Tensor(a) for a in arrays])


def test_loops_written_at_random():
    loops(range(30))


@pytest.mark.slow
def test_more_loops_written_at_random():
    loops(range(30, 1000))


def test_a_carry_that_starts_as_a_number():
    """y(t) = y(t-1) x, from 0.5: the first product is one with a weak number."""
    spec = Spec((2,), np.dtype("float32"))
    xs = tuple(Value(spec) for _ in range(4))
    seen, made, last = Value(spec), Value(spec), Value(spec)
    x = Value(spec)
    step = Instruction(REGISTRY["multiply"], (seen, x), {}, (made,))
    loop = Loop(
        4, (step,), (Carry(seen, made, (0.5,)),), (Indexed(x, xs),), (Collected(made, {3: last}),)
    )
    graph = Graph(xs, (loop,), (last,))
    arrays = [rng_of(i).normal(size=2).astype("float32") for i in range(4)]
    same(graph, [mg.Tensor(a) for a in arrays])
    want = np.float32(0.5) * np.prod(np.stack(arrays), axis=0)
    np.testing.assert_allclose(NUMPY.emit(graph)(arrays)[0], want, rtol=1e-6)


@settings(max_examples=20)
@given(program=programs.programs(analytic=False), data=programs.inputs)
def test_programs_written_at_random_with_gradients(program, data):
    arrays = programs.drawn(*data)

    def f(*leaves):
        y = programs.run(program, list(leaves), ours=True)
        return y, mg.pullback(y, leaves, allow_unused=True)

    leaves = leaves_of(arrays)
    captured = capture(f, *leaves)
    same(captured.graph, captured.inputs(leaves))


SLOW_LAYOUTS = [
    pytest.param(layout, marks=pytest.mark.slow)
    for layout in ("fortran", "negative strides", "every other", "zero strides")
]


@pytest.mark.parametrize("layout", [None, *SLOW_LAYOUTS])
def test_every_op_in_every_layout(layout):
    """A sample of each row of the op table, its inputs as they lie in memory."""
    for row in ROWS:
        for call in list(calls(row))[:1]:
            data = [
                laid_out(a, layout) if layout and a.size and a.ndim and a.dtype.kind == "f" else a
                for a in call.arrays
            ]
            if not data:
                continue
            with np.errstate(all="ignore"):  # of values out of an op's domain
                captured = capture(lambda *xs, call=call: call.run(xs), *data)
                same(captured.graph, captured.inputs(data))


def test_ops_that_symbols_cannot_follow_are_called_as_they_are():
    def forward(xp, x):
        return xp.array(sorted(x.tolist()), dtype=x.dtype)

    name = "sorted_for_a_test"
    try:
        ordered = op(name, forward, shape=specs.same)
        program = emitted(lambda x: mg.tanh(ordered(x * 2.0)), mg.Tensor([3.0, 1.0, 2.0]))
    finally:
        REGISTRY.pop(name, None)
    assert f"{name}_" in program.source()
    assert "1 calls allocate" in program.report()


def test_kernels_of_a_backend_stand_before_its_functions():
    class Faster(NumpyBackend):
        name = "faster"
        kernels = {"tanh": lambda x: np.clip(x, -1, 1)}  # noqa: RUF012

    graph = capture(lambda x: mg.tanh(x) + 1.0, mg.Tensor([3.0, 0.5])).graph
    [y] = Faster().emit(graph)([np.array([3.0, 0.5], "float32")])
    assert y.tolist() == [2.0, 1.5]


def test_warnings_are_numpys_and_come_once():
    program = NUMPY.emit(capture(lambda x: mg.log(x) * 2.0, mg.ones(2)).graph)
    with pytest.warns(RuntimeWarning, match="invalid value encountered in log") as found:
        program([np.array([-1.0, 1.0], "float32")])
    assert len(found) == 1
    cast = NUMPY.emit(capture(lambda x: (x * 2.0).astype("int64") + 1, mg.ones(2)).graph)
    with pytest.warns(RuntimeWarning, match="invalid value encountered in cast"):
        cast([np.array([np.nan, 1.0], "float32")])


# --- memory --------------------------------------------------------------------------------------


def test_what_is_returned_is_never_written_again():
    """An input, a constant, a view of either, of a result and of an intermediate one."""

    def f(x):
        y = mg.tanh(x)
        z = mg.sigmoid(y * 2.0)
        c = mg.ones((2, 3), dtype="float64")
        return x, x.T, c, c.T, y, y.T, z.T, mg.reshape(z, -1), mg.unstack(z)[1], mg.sum(z)

    program = emitted(f, mg.Tensor(rng_of(0).normal(size=(2, 3))))
    a, b = (rng_of(i).normal(size=(2, 3)) for i in (1, 2))
    first = program([a])
    before = bits(first)
    second = program([b])
    assert bits(first) == before
    for x in first[4:]:
        assert not any(np.shares_memory(x, y) for y in second)


def test_a_warm_call_allocates_nothing_but_its_outputs():
    T, batch, D, H = 12, 8, 32, 64
    cell = random_cell("lstm", D, H, rng_of(1), "float32")
    step, data = trained(cell, mg.optim.Adam(cell.parameters()), T, batch, D, H)
    captured = capture(step, *data)
    program = NUMPY.emit(mg.fold(captured))
    arrays = [bare(x) for x in captured.inputs(data)]
    allowed = sum({id(y): y.nbytes for y in program(arrays)}.values())
    tracemalloc.start()
    try:
        results = program(arrays)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(results) == len(captured.graph.outputs)
    small = 40_000  # bytes: array objects, Python's lists and numbers
    assert peak < allowed + small
    assert sum(root.nbytes for root in program.first.plan.roots) > 4 * small  # it would show


def test_memory_does_not_grow_with_a_loop_that_keeps_nothing():
    W = leaf(rng_of(12).normal(size=(D, D)))

    def f(h):
        for _ in range(200):
            h = mg.tanh(h @ W)
        return h

    folded = mg.fold(f, mg.ones((B, D), dtype="float64"))
    program = same(folded, [mg.ones((B, D), dtype="float64"), W])
    assert sum(program.first.plan.sizes) < 1000
    assert len(program.source().splitlines()) < 20


def test_threads_take_turns():
    cell = random_cell("lstm", D, H, rng_of(1))
    captured = capture(with_gradients(cell), sequence(6))
    program = NUMPY.emit(mg.fold(captured))
    data = [[bare(x) for x in captured.inputs([sequence(6, seed)])] for seed in range(4)]
    wanted = [bits(program(arrays)) for arrays in data]
    wrong = []

    def work(i):
        wrong.extend(i for _ in range(20) if bits(program(data[i])) != wanted[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_source_is_what_runs_and_the_report_counts_it():
    program = NUMPY.emit(capture(lambda x: mg.sigmoid(x * 3.0) * 2.0, mg.ones(4)).graph)
    assert program.source() == (
        "def run(x0):\n"
        "    multiply(x0, 3.0, b1)\n"
        "    multiply(0.5, b1, b1)\n"
        "    tanh(b1, b1)\n"
        "    multiply(0.5, b1, b1)\n"
        "    add(b1, 0.5, b1)\n"
        "    v2 = multiply(b1, 2.0)\n"
        "    return [v2]\n"
    )
    assert program.report() == (
        "6 calls in 8 lines\n"
        "loops (iterations x lines): none\n"
        "1 buffers of 16 bytes for 5 arrays of 80\n"
        "0 calls allocate what they give, besides the outputs"
    )

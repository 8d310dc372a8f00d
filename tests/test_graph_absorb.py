"""absorb: the first and last iterations in their loops, with the same values.

Shapes: T time, B batch, D input, H hidden.
"""

import doctest
import re

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad.graph import (
    GraphError,
    absorbing,
    capture,
    evaluate,
    simplify,
    text,
    verify,
)
from minigrad.graph.absorbing import absorb
from minigrad.graph.ir import Stacked, Value
from minigrad_rnn.catalogue import CATALOGUE
from tests.graph_programs import work
from tests.recurrent import leaf, random_cell, randomise
from tests.test_graph_fold import NETS, forward, random_program

B, D, H = 2, 3, 4


def rng_of(seed):
    return np.random.default_rng(seed)


def sequence(T, *sizes):
    return leaf(rng_of(0).normal(size=(T, B, *(sizes or (D,)))))


def equal(ours, theirs):
    """Demand equal values, but for the sign of zero."""
    for x, y in zip(ours, theirs, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x.numpy(), y.numpy())


def absorbed(f, *args):
    """The absorbed graph of f(*args), of which all is demanded that absorbing promises."""
    captured = capture(f, *args)
    found = verify(absorb(mg.fold(captured)))
    inputs = captured.inputs(tree.flatten(args)[0])
    wanted = evaluate(captured.graph, inputs)
    equal(evaluate(found, inputs), wanted)
    equal(evaluate(verify(simplify(found)), inputs), wanted)
    return found


def trips(graph):
    return [loop.trips for loop in graph.loops()]


def training(run, parameters):
    """A step that leaves the gradients of the mean of squares of what run gives."""

    def step(*args):
        for p in parameters:
            p.grad = None
        loss = mg.mean(run(*args) ** 2)
        loss.backward()
        return loss

    return step


def test_the_example_in_the_docstring():
    tested = doctest.testmod(absorbing, extraglobs={"mg": mg})
    assert tested.attempted and not tested.failed


# --- training steps ------------------------------------------------------------------------------


def lstm():
    """A user's own: x Wx + h Wh + b, cut into gates i, f, g, o."""
    rng = rng_of(1)
    Wx, Wh, b = (leaf(rng.normal(size=s)) for s in ((D, 4 * H), (H, 4 * H), 4 * H))

    def run(xs):
        h = c = mg.zeros((B, H), dtype="float64")
        hs = []
        for x in xs:
            i, f, g, o = mg.split(x @ Wx + h @ Wh + b, 4, axis=-1)
            c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
            h = mg.sigmoid(o) * mg.tanh(c)
            hs.append(h)
        return mg.stack(hs)

    return training(run, [Wx, Wh, b])


def test_a_training_step_is_two_loops(backend):
    found = absorbed(lstm(), sequence(6))
    assert trips(found) == [6, 6] and text(absorb(found)) == text(found)
    ahead, back = found.loops()
    assert [c.delay for c in (*ahead.carries, *back.carries)] == [1] * (2 + 5)
    names = [step.op.name for step in found.steps if step not in (ahead, back)]
    assert names.count("unstack") == 2 and "matmul" not in names and "concatenate" not in names
    for loop in (ahead, back):  # items in reach of a slice: neighbours in time
        assert all(len(i.items) == 6 for i in loop.indexed)


def test_what_is_found_does_not_depend_on_the_length():
    found = [text(absorbed(lstm(), sequence(T))) for T in (6, 15)]
    assert re.sub(r"\d+", "n", found[0]) == re.sub(r"\d+", "n", found[1])


# Two iterations of the QRNN add to one sum in another order; the third of a cell with delays 1 and
# 3 is the first in which all is added.
OTHERS = {"QRNN": [7, 6], "delays 1 and 3": [7, 4, 2]}


SOME = ("RNN", "deep (c)", "LSTM, peephole", "LSTM, zoneout", "GRU, reset before", "coRNN", *OTHERS)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in SOME else [pytest.mark.slow]) for n in CATALOGUE]
)
def test_cells_of_the_catalogue(name):
    mg.random.seed(0)
    cell = randomise(CATALOGUE[name](D, H, dtype="float64"), rng_of(2))
    step = training(lambda xs: rnn.unroll(cell, xs)[0], cell.parameters())
    assert trips(absorbed(step, sequence(7))) == OTHERS.get(name, [7, 7])


@pytest.mark.parametrize("name", NETS)
def test_nets(name):
    net = NETS[name](rng_of(3))
    run = forward(net)
    found = absorbed(training(lambda xs: run(xs)[0], net.parameters()), sequence(5))
    assert trips(found) == [5] * (4 if name == "bidirectional" else 2)


def masked(cell, **options):
    return training(lambda xs: rnn.unroll(cell, xs, **options)[0], cell.parameters())


STEPS = rng_of(4).random((7, B)) < 0.7
WAYS = {
    "masked": lambda cell: masked(cell, mask=STEPS),
    "resets": lambda cell: masked(cell, resets=STEPS),
    "reverse": lambda cell: masked(cell, reverse=True),
    "last state": lambda cell: training(lambda xs: rnn.unroll(cell, xs)[1][0], cell.parameters()),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_unroll(way):
    assert trips(absorbed(WAYS[way](random_cell("lstm", D, H, rng_of(5))), sequence(7))) == [7, 7]


def test_layers_of_both_directions():
    def both(size):
        return rnn.Bidirectional(*(random_cell("lstm", size, H, rng_of(6)) for _ in range(2)))

    net = rnn.Layers([both(D), both(2 * H)])
    step = training(lambda xs: net(xs)[0], net.parameters())
    assert trips(absorbed(step, sequence(5))) == [5] * 8


def test_gradients_of_the_state_and_of_the_inputs():
    cell, h0, xs = random_cell("gru", D, H, rng_of(7)), leaf(rng_of(8).normal(size=(B, H))), None
    xs = sequence(6)
    step = training(lambda xs: rnn.unroll(cell, xs, h0)[0], [*cell.parameters(), h0, xs])
    assert trips(absorbed(step, xs)) == [6, 6]


def test_a_loss_added_up_step_by_step():
    cell = random_cell("gru", D, H, rng_of(9))

    def f(xs):
        h, loss = cell.initial_state(B), 0
        for x in xs:
            y, h = cell(x, h)
            loss = loss + mg.sum(y**2)
        return mg.pullback(loss, cell.parameters())

    found = absorbed(f, sequence(6))
    assert trips(found) == [6, 6] and len(found.steps) < 10


def test_attention_in_the_loop():
    cell, memory = random_cell("lstm", 2 * D, D, rng_of(10)), leaf(rng_of(11).normal(size=(4, D)))

    def run(xs):
        state, ys = cell.initial_state(B), []
        for x in xs:
            seen = mg.functional.softmax((state[0] + x) @ memory.T) @ memory
            y, state = cell(mg.concatenate([x, seen], axis=-1), state)
            ys.append(y)
        return mg.stack(ys)

    assert trips(absorbed(training(run, [*cell.parameters(), memory]), sequence(5))) == [5, 5]


def test_batch_first():
    cell = random_cell("gru", D, H, rng_of(12))

    def run(xs):
        h, ys = cell.initial_state(B), []
        for t in range(xs.shape[1]):
            y, h = cell(xs[:, t], h)
            ys.append(y)
        return mg.stack(ys, axis=1)

    xs = mg.Tensor(rng_of(13).normal(size=(B, 6, D)))
    found = absorbed(training(run, cell.parameters()), xs)
    assert trips(found) == [6, 6]


def test_loops_in_loops():
    """Gradients added up over minibatches, and truncated backpropagation with an update each."""
    cell = random_cell("gru", D, D, rng_of(14))

    def added(batches):
        for p in cell.parameters():
            p.grad = None
        for xs in batches:
            mg.mean(rnn.unroll(cell, xs)[0] ** 2).backward()

    batches = mg.Tensor(rng_of(15).normal(size=(5, 6, B, D)))
    assert trips(absorbed(added, batches)) == [5, 6, 6]

    def truncated(batches):
        h, total = cell.initial_state(B), mg.zeros((), dtype="float64")
        for xs in batches:
            for p in cell.parameters():
                p.grad = None
            ys, h = rnn.unroll(cell, xs, h.detach())
            loss = mg.mean(ys**2)
            loss.backward()
            total = total + loss
            for p in cell.parameters():
                p.assign(p - 0.1 * p.grad)
        return total, h

    assert trips(absorbed(truncated, batches)) == [5, 6, 6]


def test_a_hessian_vector_product():
    W, v = leaf(rng_of(16).normal(size=(D, D))), mg.Tensor(rng_of(17).normal(size=(D, D)))

    def f(xs):
        def loss(W):
            h, hs = mg.zeros((B, D), dtype="float64"), []
            for x in xs:
                h = mg.tanh(x + h @ W)
                hs.append(h)
            return mg.mean(mg.stack(hs) ** 2)

        return mg.hvp(loss, [W], [v])

    assert trips(absorbed(f, sequence(7))) == [7, 7, 7]


# --- the rest of the promise ---------------------------------------------------------------------


def test_delays():
    """h(t) = x(t) + h(t - 2) w: what is before it starts as zeros, twice."""
    w = leaf(rng_of(18).normal(size=D))

    def f(xs):
        past = []
        for x in xs:
            past.append(x * 0.5 + past[-2] if len(past) > 1 else x * 0.5)
        return past[-1], past[-2]

    def g(xs):
        past = []
        for x in xs:
            past.append(past[-2] * w + x if len(past) > 1 else x)
        return past[-1]

    found = absorbed(f, sequence(8))
    [loop] = found.loops()
    assert loop.trips == 8 and [c.delay for c in loop.carries] == [2]
    absorbed(g, sequence(8))


def test_a_loop_that_would_need_what_it_makes_stays():
    w = leaf(rng_of(19).normal(size=D))

    def f(xs):
        first = mg.tanh(xs[0] * w)
        total = first * first
        for x in xs[1:]:
            total = total + mg.tanh(x * w) * first
        return total

    def g(xs):
        first, *others = mg.unstack(xs)
        first = mg.tanh(first * w)
        total = first * first
        for x in others:
            total = total + mg.tanh(x * w) * first
        return total

    for program in (f, g):
        assert trips(absorbed(program, sequence(6))) == [5]


def test_minus_zero_becomes_zero():
    def f(xs):
        total = xs[0] * 1.0
        for x in mg.unstack(xs)[1:]:
            total = total + x * 1.0
        return total

    xs = mg.Tensor(np.full((4, 1), -0.0))
    captured = capture(f, xs)
    before, after = (
        evaluate(graph, captured.inputs([xs]))[0].numpy()
        for graph in (captured.graph, absorb(mg.fold(captured)))
    )
    assert np.signbit(before) and not np.signbit(after) and after == 0


def test_zeros_are_on_the_backend_of_the_graph():
    """Of a constant's; without one, of the current one, or as asked."""

    def f(xs, w):
        total = mg.unstack(xs)[0] * w
        for x in mg.unstack(xs)[1:]:
            total = total + x * w
        return total

    with mg.use_backend("numba"):
        args = mg.ones((5, 2)), mg.ones(2)
    for asked, wanted in ((None, "numpy"), (args[0].backend, "numba")):
        graph = absorb(mg.fold(f, *args), backend=asked)
        [loop] = graph.loops()
        assert loop.trips == 5
        assert loop.carries[0].initial[0].constant.backend.name == wanted
    with mg.use_backend("numba"):
        step = lstm()
        xs = sequence(5)
        graph = mg.fold(step, xs)
    for loop in absorb(graph).loops():
        for carry in loop.carries:
            for x in carry.initial:
                assert x.constant is None or x.constant.backend.name == "numba"


def test_whole_arrays_are_refused():
    graph = mg.fold(lstm(), sequence(5))
    loop = graph.loops()[0]
    result = loop.collected[0].result
    whole = Value(type(result.spec)((5, *result.spec.shape), result.spec.dtype))
    loop.stacked = (Stacked(result, whole),)
    with pytest.raises(GraphError, match="whole arrays"):
        absorb(graph)


def recurrent_program(rng):
    """A cell of random operations with a state of two parts, and the gradients of its weights."""
    kinds, pairs = rng.integers(6, size=6), rng.integers(1, 7, size=(6, 2))
    ends = rng.choice(5, size=2, replace=False) + 1
    w, v = leaf(rng.normal(size=D)), leaf(rng.normal(size=(D, D)))
    every = bool(rng.integers(2))

    def f(xs):
        a = b = mg.zeros((B, D), dtype="float64")
        ys = []
        for x in xs:
            made = [w, a, b, a * 0.5 + b, x, x @ v]
            for kind, (i, j) in zip(kinds, pairs, strict=True):
                p, q = made[-i], made[-j]
                made.append(
                    [
                        lambda p, q: p + q,
                        lambda p, q: p * q,
                        lambda p, q: mg.tanh(p),
                        lambda p, q: mg.where(p > 0, q, p),
                        lambda p, q: mg.tanh((p + q) @ v),
                        lambda p, q: p - mg.sin(q),
                    ][kind](p, q)
                )
            a, b = (mg.tanh(made[-n]) + mg.zeros((B, D), dtype="float64") for n in ends)
            ys.append(a if every else b)
        loss = mg.sum(mg.stack(ys) ** 2) if every else mg.sum(ys[-1] * ys[0])
        return mg.pullback(loss + mg.sum(w), [w, v, xs], allow_unused=True)

    return f


@pytest.mark.parametrize("count", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_random_cells(count):
    """Whatever is made of them gives the same numbers, and some become loops of full length."""
    rng = rng_of(20)
    found = [trips(absorbed(recurrent_program(rng), sequence(6))) for _ in range(count)]
    assert sum(all(t == 6 for t in each) and len(each) > 1 for each in found) > count / 6


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_random_programs(count):
    rng = rng_of(21)
    xs = mg.Tensor(rng.normal(size=(8, 3)))
    for _ in range(count):
        absorbed(random_program(rng), xs)


def test_the_work_is_linear_in_the_length():
    calls = []
    step = lstm()
    for T in (20, 80):
        graph = mg.fold(step, sequence(T))
        calls.append(work(lambda: absorb(graph)))  # noqa: B023
        assert trips(absorb(graph)) == [T, T]
    assert calls[1] < 4.5 * calls[0]

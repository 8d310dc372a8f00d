"""distribute: products leave loops, with the same results to rounding. T time, B batch."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad import tree
from minigrad.graph import capture, distribute, evaluate, fission, verify, whole
from minigrad_rnn import unroll
from minigrad_rnn.catalogue import CATALOGUE
from tests.catalogue import make
from tests.graph_programs import work
from tests.recurrent import leaf, random_cell, randomise
from tests.test_graph_whole import (
    B,
    D,
    H,
    T,
    agree,
    joined,
    lstm,
    rng_of,
    tensor,
    training_step,
    uniform_rnn,
)


def split(f, *args):
    """distribute(whole(fold(f))), which gives what f does; distribute(fold(f)) too."""
    captured = capture(f, *args)
    folded = mg.fold(captured)
    agree(distribute(folded), captured, args)
    graph = whole(folded)
    before = str(graph)
    found = agree(distribute(graph), captured, args)
    assert str(graph) == before
    return found


def products(steps):
    return sum(step.op.name == "matmul" for step in steps if hasattr(step, "op"))


def shape(graph):
    """Of a graph in order: how many products stand outside before, in and after each loop."""
    found = [0]
    for step in graph.steps:
        if hasattr(step, "body"):
            found += [[products(step.body)], 0]
        else:
            found[-1] += products([step])
    return found


def test_the_examples_of_the_documentation():
    assert doctest.testmod(fission).failed == 0


# --- training steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9])
def test_a_training_step(steps):
    """Peeled at both ends: three products more before and two after the backward loop."""
    graph = split(training_step(), tensor(steps, B, D))
    if steps > 3:
        assert shape(graph)[:2] == [1, [1]] and shape(graph)[3] == [1]
        back = graph.loops()[1]
        assert len(back.carries) == 2 and {c.delay for c in back.carries} == {1}


def lstm_by_hand(xs, Wx, Wh, b, h, c, saved, before):
    """An LSTM and the gradients of sum(h^2) / 2; saved: i, f, g, o, c, h; before: c, h before t."""
    made = [[] for _ in range(6)]
    for x in xs:
        gates = mg.split(x @ Wx + h @ Wh + b, 4, axis=-1)
        i, f, g, o = (mg.tanh(z) if k == 2 else mg.sigmoid(z) for k, z in enumerate(gates))
        c = f * c + i * g
        h = o * mg.tanh(c)
        for values, value in zip(made, (i, f, g, o, c, h), strict=True):
            values.append(value)
    dh, dc = (mg.zeros((B, H), dtype="float64") for _ in range(2))
    dWx, dWh, db = (mg.zeros(w.shape, dtype="float64") for w in (Wx, Wh, b))
    WxT, WhT, dxs = Wx.T, Wh.T, []
    for t in reversed(range(len(xs))):
        i, f, g, o, c, h = (values[t] for values in saved)
        y, dh = mg.tanh(c), dh + h
        dc = dc + dh * o * (1 - y * y)
        parts = dc * g * i * (1 - i), dc * before[0][t] * f * (1 - f)
        parts = (*parts, dc * i * (1 - g * g), dh * y * o * (1 - o))
        dz = mg.concatenate(parts, axis=-1)
        dWx, dWh, db = dWx + xs[t].T @ dz, dWh + before[1][t].T @ dz, db + mg.sum(dz, axis=0)
        dxs.append(dz @ WxT)
        dh, dc = dz @ WhT, dc * f
    return dWx, dWh, db, mg.stack(dxs[::-1]), dh, dc, [mg.stack(values) for values in made]


def uniform_lstm():
    """lstm_by_hand with all windows in loops, its inputs, and loss gradients by the engine."""
    args = [tensor(*s, seed=i) for i, s in enumerate(
        ((T, B, D), (D, 4 * H), (H, 4 * H), (4 * H,), (B, H), (B, H))
    )]  # fmt: skip
    zeros = [mg.zeros((T, B, H), dtype="float64") for _ in range(8)]
    made = lstm_by_hand(*args, zeros[:6], zeros[6:])[-1]
    states = [mg.stack([x, *xs[:-1]]) for x, xs in zip((args[5], args[4]), made[4:], strict=True)]
    saved = [x.detach() for x in (*made, *states)]
    graph = mg.fold(lstm_by_hand, *args, saved[:6], saved[6:])
    [*_, h0, c0], given = graph.inputs[:6], graph.inputs[6:]
    rows = {c.outputs[0]: tuple(c.outputs.values()) for c in graph.loops()[0].collected}
    stacks = [step for step in graph.steps if getattr(step, "op", None) is mg_stack]
    values = [rows[step.operands[0]] for step in stacks if step.operands[0] in rows]
    values += [(c0, *values[4][:-1]), (h0, *values[5][:-1])]
    loss = mg.sum(mg.stack(lstm(args[0], *args[1:6])) ** 2) / 2
    gradients = mg.pullback(loss, [args[1], args[2], args[3], args[0], args[4], args[5]])
    return joined(graph, dict(zip(given, values, strict=True))), args, gradients


mg_stack = mg.op.REGISTRY["stack"]


def test_an_lstm_has_one_product_in_each_loop_and_one_for_each_weight():
    """Before: x Wx for all T. Forward h Wh, backward dz Wh^T. After: dx, dWx, dWh."""
    folded, args, expected = uniform_lstm()
    graph = verify(distribute(verify(whole(folded))))
    for x, y in zip(evaluate(graph, args), expected, strict=False):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-12, atol=1e-14)
    assert shape(graph) == [1, [1], 0, [1], 3]
    ahead, back = graph.loops()
    assert (ahead.trips, back.trips) == (T, T) and len(back.carries) == 2
    assert not {"stack", "unstack", "flip", "concatenate"} & {
        step.op.name for step in graph.steps if hasattr(step, "op")
    }
    dWx, dWh = (v for v in graph.outputs[:2])
    for value, rows in ((dWx, D), (dWh, H)):
        [step] = (s for s in graph.steps if value in s.outputs)
        assert [x.spec.shape for x in step.operands] == [(rows, T * B), (T * B, 4 * H)]


def test_gradients_by_hand_against_the_engine():
    folded, args, expected = uniform_rnn()
    found = evaluate(verify(distribute(whole(folded))), args)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-12, atol=1e-14)


# --- sums -----------------------------------------------------------------------------------------

M = (3, 3)  # all matrices are square, so that everything can be multiplied by everything


def loops_over(body, *start):
    """f(xs, ys, W): what body makes of its carries, over the rows of xs and ys backward."""

    def f(xs, ys, W):
        carries = list(start)
        for x, y in zip(xs, ys[::-1], strict=True):
            *carries, _ = *body(x, y, W, *carries), None
        return carries

    return f


def square(*more, seed=0):
    return tensor(*more, *M, seed=seed)


ZERO, ONE = mg.zeros(M, dtype="float64"), mg.ones(M, dtype="float64")
SUMS = {  # what is added up, and the shape of what is left
    "product": (lambda x, y, W, p: [p + x @ y], [1]),
    "transposed": (lambda x, y, W, p: [x.T @ y + p], [1]),
    "right": (lambda x, y, W, p: [p + x @ mg.tanh(y).T], [0, [0], 1]),
    "two": (lambda x, y, W, p: [p + (x @ y + mg.sin(x).T @ y)], [0, [0], 2]),
    "row": (lambda x, y, W, p: [p + mg.sum(x * y, axis=0)], [0, [0], 0]),
    "product and row": (lambda x, y, W, p: [p + x @ y + mg.sum(x, axis=0)], [1]),
    "scaled": (lambda x, y, W, p: [p + (x @ y) * W], [1]),
    "turned": (lambda x, y, W, p: [p + (x @ y).T], [1]),
    "joined": (lambda x, y, W, p: [p + mg.concatenate([x[:1] @ y, x[1:] @ y])], [0, [0], 2]),
    "joined, turned and scaled": (
        lambda x, y, W, p: [p + W * mg.concatenate([x[:1] @ y, (y @ x)[1:]]).T],
        [0, [0], 2],
    ),
    "joined with an invariant": (
        lambda x, y, W, p: [p + mg.concatenate([x[:1] @ y, W[1:]])],
        [0, [0], 1, [0], 0],
    ),
    "joined twice": (lambda x, y, W, p: [p + mg.concatenate([x[:, :1] @ y[:1, :]] * 3)[:3]], None),
    "row of something": (lambda x, y, W, p: [p + x @ y + mg.sum(x * y, axis=0)], [0, [0], 1]),
    "stretched": (
        lambda x, y, W, p: [p + mg.sum(x, axis=0) + mg.sum(y, axis=0)],
        None,
    ),
    "left invariant": (lambda x, y, W, p: [p + W @ x], None),
    "some stays": (
        lambda x, y, W, p: [p + x @ y + mg.reshape(x[0], (3, 1)) * y[:1]],
        [0, [0], 1],
    ),
    "all stays": (lambda x, y, W, p: [p + mg.reshape(x[0], (3, 1)) * y[:1]], [0, [0], 0]),
    "number": (lambda x, y, W, p: [p + 1.5 + x @ W], None),
    "invariant": (lambda x, y, W, p: [p + W], None),
    "seen": (lambda x, y, W, p, q: [p + x @ y, q + mg.tanh(p)], None),
    "own": (lambda x, y, W, p: [p + mg.tanh(p) @ x], None),
    "twice": (lambda x, y, W, p: [p + p * 0.5 + x @ y], None),
}


@pytest.mark.parametrize("initial", [ZERO, square(seed=7)], ids=["zero", "initial"])
@pytest.mark.parametrize("name", SUMS)
def test_sums_over_iterations(name, initial):
    body, expected = SUMS[name]
    start = [initial] * (body.__code__.co_argcount - 3)
    graph = split(loops_over(body, *start), square(5), square(5, seed=1), square(seed=2))
    assert expected is None or shape(graph) == expected


def test_a_sum_that_is_read_at_every_step_stays():
    def f(xs, ys):
        total, seen = ZERO, []
        for x, y in zip(xs, ys, strict=True):
            total = total + x @ y
            seen.append(total)
        return mg.stack(seen)

    graph = split(f, square(5), square(5, seed=1))
    assert [len(loop.carries) for loop in graph.loops()] == [1]


# --- products -------------------------------------------------------------------------------------

SHAPES = [  # of two operands, those of x per iteration
    ("x", (2, 3), (3, 4)), ("x", (3,), (3, 4)), ("x", (2, 3), (3,)), ("x", (3,), (3,)),
    ("x", (5, 2, 3), (3, 4)), ("x", (5, 2, 3), (5, 3, 4)), ("x", (2, 3), (5, 3, 4)),
    ("y", (2, 3), (3, 4)), ("y", (2, 3), (3,)), ("y", (3,), (3, 4)), ("y", (2, 3), (5, 3, 4)),
    ("y", (5, 2, 3), (3, 4)), ("y", (5, 2, 3), (3,)), ("xy", (2, 3), (3, 4)), ("xy", (3,), (3,)),
    ("xy", (5, 2, 3), (5, 3, 1)), ("xy", (2, 1), (1, 9)),
]  # fmt: skip
STAY = {6, 11, 12, 14, 16}  # batches that do not line up, nothing shared by iterations


@pytest.mark.parametrize("case", range(len(SHAPES)))
def test_products_of_every_rank(case):
    rows, left, right = SHAPES[case]
    a = tensor(*((4, *left) if "x" in rows else left))
    b = tensor(*((4, *right) if "y" in rows else right), seed=1)

    def f(a, b):
        found = []
        for t in range(4):
            found.append(mg.tanh((a[t] if "x" in rows else a) @ (b[t] if "y" in rows else b)))
        return mg.stack(found)

    graph = split(f, a, b)
    [loop] = graph.loops()
    assert products(loop.body) == (case in STAY)


def test_layers_become_loops_one_after_another():
    """Each layer's input product stands before its own loop; no step is in two of them."""
    net = rnn.Stack([random_cell(kind, H, H, rng_of(1)) for kind in ("rnn", "lstm", "rnn")])
    graph = split(lambda xs: unroll(net, xs)[0], tensor(T, B, H))
    assert shape(graph) == [1, [1], 1, [1], 1, [1], 0]


def test_what_needs_rows_alone_stands_where_it_is_read():
    """The mask of x is in both loops rather than stored; a transposition of W in neither."""

    def f(xs, W):
        h = g = ZERO
        for x in xs:
            mask = mg.sigmoid(x)
            h = mg.tanh(h @ W + mask)
            g = mg.tanh(g @ W + (h @ W.T) * mask)
        return g

    graph = split(f, square(6), square(seed=1))
    assert shape(graph) == [0, [1], 1, [1], 0]
    assert [[s.op.name for s in loop.body].count("sigmoid") for loop in graph.loops()] == [1, 1]
    assert [len(loop.stacked) for loop in graph.loops()] == [1, 0]


def test_nested_loops():
    def f(xs, ys, W):
        total, h = ZERO, ZERO
        for x in xs:
            g = h
            for y in ys:
                g = mg.tanh(y @ W + g @ W + x)
            h = g + x @ W
            total = total + x.T @ h
        return total, h

    graph = split(f, square(5), square(4, seed=1), square(seed=2))
    [inner] = (loop for loop in graph.loops() if loop not in graph.steps)
    assert products(inner.body) == 1 and shape(graph) == [2, [0], 1]


# --- all kinds of nets ----------------------------------------------------------------------------

WIRINGS = {
    "plain": lambda cell: cell(),
    "stacked": lambda cell: rnn.Stack([cell(), cell()]),
    "residual": lambda cell: rnn.Residual(cell()),
    "bidirectional": lambda cell: rnn.Bidirectional(cell(), cell()),
}


def with_gradients(net, **options):
    def f(xs):
        ys, _ = unroll(net, xs, **options) if hasattr(net, "initial_state") else net(xs, **options)
        loss = sum(mg.mean(y**2) for y in tree.flatten(ys)[0])
        return loss, mg.pullback(loss, [*net.parameters(), xs])

    return f


CELLS = [
    pytest.param(name, wiring, marks=() if i % 4 == j else pytest.mark.slow)
    for i, name in enumerate(CATALOGUE)
    for j, wiring in enumerate(WIRINGS)
]


@pytest.mark.parametrize(("name", "wiring"), CELLS)
def test_every_cell_in_every_wiring(name, wiring):
    split(with_gradients(WIRINGS[wiring](lambda: make(name, H, H))), tensor(5, B, H))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_cell_at_other_lengths(name, steps):
    split(with_gradients(make(name, H, H)), tensor(steps, B, H))


def test_ragged_lengths_and_resets():
    net = rnn.Bidirectional(*(random_cell("lstm", D, H, rng_of(i)) for i in (3, 4)))
    resets = rng_of(5).random((7, B)) < 0.3
    split(with_gradients(net, lengths=[7, 4], resets=resets), tensor(7, B, D))


def test_attention_over_a_memory():
    memory, W, V = tensor(B, 5, H), tensor(D + H, H, seed=1), tensor(H, H, seed=2)

    def f(xs):
        h = mg.zeros((B, H), dtype="float64")
        hs = []
        for x in xs:
            scores = memory @ mg.expand_dims(h @ V, -1)
            context = mg.sum(F.softmax(scores, axis=1) * memory, axis=1)
            h = mg.tanh(mg.concatenate([x, context], axis=-1) @ W)
            hs.append(h)
        loss = mg.mean(mg.stack(hs) ** 2)
        return loss, mg.pullback(loss, [memory, W, V, xs])

    split(f, tensor(6, B, D, seed=3))


SCHEDULES = {
    "bptt": rnn.BPTT(), "tbptt": rnn.TBPTT(4, 4), "checkpoint": rnn.Checkpoint(6),
    "rtrl": rnn.RTRL(),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    cell = random_cell("rnn", D, H, rng_of(16))

    def step(xs, targets):
        for p in cell.parameters():
            p.grad = None
        return SCHEDULES[name](cell, lambda ys, ts: mg.mean((ys - ts) ** 2), xs, targets)

    split(step, tensor(8, B, D), mg.Tensor(rng_of(17).normal(size=(8, B, H))))


def test_a_language_model():
    """Embeddings, an output layer and the cross-entropy of every step in the loop."""
    cell = random_cell("gru", H, H, rng_of(6))
    table, out = tensor(7, H, seed=7), randomise(mg.nn.Linear(H, 7, dtype="float64"), rng_of(8))
    targets = rng_of(9).integers(0, 7, (6, B))

    def f(ids):
        h, loss = cell.initial_state(B), 0.0
        for t in range(5):
            y, h = cell(mg.take(table, ids[t], axis=0), h)
            loss = loss + F.cross_entropy(out(y), ids[t + 1])
        return loss, mg.pullback(loss, [table, *cell.parameters(), *out.parameters()])

    split(f, mg.Tensor(targets))


def test_the_work_is_linear_in_the_length():
    step, calls = training_step(), []
    for steps in (50, 200):
        folded = mg.fold(step, tensor(steps, B, D))
        calls.append(work(lambda: distribute(whole(folded))))  # noqa: B023
    assert calls[1] < 4.5 * calls[0]


# --- random bodies --------------------------------------------------------------------------------

ROWS = tuple(st.integers(0, 9) for _ in range(3))
OPS = {
    "matmul": lambda a, b: a @ b / 3.0, "add": lambda a, b: a + b, "tanh": lambda a, b: mg.tanh(a),
    "multiply": lambda a, b: a * mg.sin(b), "transpose": lambda a, b: a.T,
    "row": lambda a, b: mg.sum(a, axis=0, keepdims=True) - b,
    "reshape": lambda a, b: mg.reshape(mg.reshape(a, (9,)), M),
    "split": lambda a, b: mg.concatenate(mg.split(a, 3, axis=0)[::-1], axis=0),
}  # fmt: skip
BODIES = st.lists(st.tuples(st.sampled_from(sorted(OPS)), *ROWS), min_size=2, max_size=10)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    body=BODIES, carried=st.tuples(*ROWS), kept=st.integers(0, 9), trips=st.integers(2, 5),
    backward=st.booleans(), gradients=st.booleans(),
)  # fmt: skip
def test_random_bodies(body, carried, kept, trips, backward, gradients):
    """Values count from the last one made; three are carried on, one of them a sum."""

    def run(xs, ys, W, V):
        a, b, total, late = ZERO, ONE, ONE * 0.5, [ZERO, ONE]
        found = []
        for t in reversed(range(trips)) if backward else range(trips):
            pool = [W, V, a, b, late[-2], xs[t], ys[trips - 1 - t]]
            for name, i, j, _ in body:
                pool.append(OPS[name](pool[-1 - i % len(pool)], pool[-1 - j % len(pool)]))
            new = [pool[-1 - n % len(pool)] for n in carried]
            a, b, total = mg.tanh(new[0]), mg.cos(new[1]), total + new[2]
            late.append(mg.sin(a + b))
            found.append(pool[-1 - kept % len(pool)] * 1.0)
        return mg.stack(found), total, a, found[0]

    def f(*args):
        made = run(*args)
        if not gradients:
            return made
        loss = mg.sum(made[0] * made[0]) + mg.sum(made[1]) + sum(map(mg.sum, args))
        return made, mg.pullback(loss, args)

    split(f, square(trips), square(trips, seed=1), leaf(square(seed=2).numpy()), square(seed=3))

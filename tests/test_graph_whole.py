"""whole: rows of arrays in place of the values of iterations. T time, B batch."""

import doctest
from collections import Counter

import numpy as np
import pytest

import minigrad as mg
from minigrad import tree
from minigrad.graph import Graph, Value, capture, evaluate, gathering, verify, whole
from minigrad.graph.rewriting import renamed
from tests.recurrent import leaf, random_cell

T, B, D, H = 6, 2, 3, 4


def rng_of(seed):
    return np.random.default_rng(seed)


def tensor(*shape, seed=0):
    return leaf(rng_of(seed).normal(size=shape))


def agree(graph, captured, args):
    """A sound graph gives what the flat one gives, to rounding; returned for more questions."""
    verify(graph)
    inputs = captured.inputs(tree.flatten(args)[0])
    found, expected = evaluate(graph, inputs), evaluate(captured.graph, inputs)
    for x, y in zip(found, expected, strict=True):
        x, y = x.numpy(), y.numpy()
        assert x.shape == y.shape and x.dtype == y.dtype
        if x.dtype.kind == "f":
            finite = np.abs(y[np.isfinite(y)])
            scale = finite.max(initial=1e-3)
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-12 * scale, equal_nan=True)
        else:
            assert (x == y).all()
    return graph


def gathered(f, *args):
    """whole(fold(f)), of which all that it promises is demanded."""
    captured = capture(f, *args)
    folded = mg.fold(captured)
    before = str(folded)
    graph = agree(whole(folded), captured, args)
    assert str(folded) == before
    for loop in graph.loops():
        assert all(list(c.outputs) == [loop.trips - 1] for c in loop.collected)
        for indexed in loop.indexed:
            assert not all(isinstance(x, Value) for x in indexed.items)
    return graph


def ops(graph):
    """How often each op stands in the graph, outside of loops."""
    return Counter(step.op.name for step in graph.steps if step not in graph.loops())


def lstm(xs, Wx, Wh, b, h, c):
    hs = []
    for x in xs:
        i, f, g, o = mg.split(x @ Wx + h @ Wh + b, 4, axis=-1)
        c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
        h = mg.sigmoid(o) * mg.tanh(c)
        hs.append(h)
    return hs


def training_step(seed=1):
    """Loss and gradients of an LSTM: mean of squares of all h."""
    weights = [tensor(*s, seed=seed) for s in ((D, 4 * H), (H, 4 * H), (4 * H,))]

    def step(xs):
        for w in weights:
            w.grad = None
        zero = mg.zeros((B, H), dtype="float64")
        loss = mg.mean(mg.stack(lstm(xs, *weights, zero, zero)) ** 2)
        loss.backward()
        return loss

    return step


def rnn_by_hand(xs, Wx, Wh, h0, hs, before):
    """h(t) = tanh(x Wx + h(t-1) Wh) and the gradients of sum(h^2) / 2, from h(t) and h(t-1)."""
    h, made = h0, []
    for x in xs:
        h = mg.tanh(x @ Wx + h @ Wh)
        made.append(h)
    back = mg.zeros((B, H), dtype="float64")
    dWx, dWh = mg.zeros((D, H), dtype="float64"), mg.zeros((H, H), dtype="float64")
    dxs = []
    for t in reversed(range(len(xs))):
        dz = (hs[t] + back) * (1 - hs[t] * hs[t])
        dWx = dWx + xs[t].T @ dz
        dWh = dWh + before[t].T @ dz
        dxs.append(dz @ Wx.T)
        back = dz @ Wh.T
    return mg.stack(made), mg.stack(dxs[::-1]), dWx, dWh, back


RNN = ((T, B, D), (D, H), (H, H), (B, H))


def joined(graph, made):
    """The graph with values of its own in place of the inputs in `made`, which are unstacked.

    So a graph looks that has all of its iterations in loops.
    """
    names = {}
    for value, values in made.items():
        [parts] = (step for step in graph.steps if value in step.operands)
        names.update(zip(parts.outputs, values, strict=True))
    steps = [step for step in graph.steps if not made.keys() & {*step.operands}]
    given = tuple(value for value in graph.inputs if value not in made)
    return verify(Graph(given, tuple(renamed(step, names) for step in steps), graph.outputs))


def uniform_rnn():
    """rnn_by_hand with all of its T windows in loops, its inputs and what it gives."""
    args = [tensor(*s, seed=i) for i, s in enumerate(RNN)]
    hs = [args[3]]
    for x in args[0]:
        hs.append(mg.tanh(x @ args[1] + hs[-1] @ args[2]))
    args += [mg.stack(hs[1:]).detach(), mg.stack(hs[:-1]).detach()]
    graph = mg.fold(rnn_by_hand, *args)
    [made] = (tuple(c.outputs.values()) for c in graph.loops()[0].collected)
    *_, h0, now, before = graph.inputs
    return joined(graph, {now: made, before: (h0, *made[:-1])}), args[:4], rnn_by_hand(*args)


def test_the_examples_of_the_documentation():
    assert doctest.testmod(gathering).failed == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_a_training_step(steps):
    graph = gathered(training_step(), tensor(steps, B, D))
    if steps > 3:
        ahead, back = graph.loops()
        assert [s.step for s in ahead.sliced] == [1] and {s.step for s in back.sliced} == {-1}
        assert "unstack" not in ops(graph)
        assert ops(graph)["stack"] == 2  # of the peeled ends of the gradient by the inputs


def test_a_backward_loop_writes_in_the_order_of_time():
    """What it stacks needs no turning round; the row before 0 of h is the initial one."""
    folded, args, expected = uniform_rnn()
    graph = verify(whole(folded))
    for x, y in zip(evaluate(graph, args), expected, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-12, atol=1e-14)
    ahead, back = graph.loops()
    assert not ops(graph).keys() & {"stack", "unstack", "flip", "concatenate"}
    [hs] = ahead.stacked
    assert (hs.start, hs.step, hs.initial) == (1, 1, (graph.inputs[3],))
    found = [(s.start, s.step) for s in back.sliced if s.whole is hs.whole]
    assert sorted(found) == [(T - 1, -1), (T, -1)]
    [dx] = back.stacked
    assert (dx.start, dx.step) == (T - 1, -1) and dx.whole is graph.outputs[1]


def test_rows_by_every_stride_and_axis():
    def f(xs):
        h, hs = xs[0], []
        for t in range(1, 9, 2):
            h = mg.tanh(h + xs[t])
            hs.append(h)
        gs = [x * 2.0 for x in mg.unstack(xs, axis=1)]
        return (
            mg.stack(hs, axis=1), mg.stack(hs[::-1]), mg.stack(hs[::2]), mg.concatenate(hs),
            mg.concatenate([xs[0], *hs, h[:1]]), mg.stack([xs[0], *hs, xs[3]]), hs[1],
            mg.stack(gs, axis=1), mg.stack(mg.unstack(xs, axis=2)),
        )  # fmt: skip

    graph = gathered(f, tensor(9, B + 2, D))
    assert not ops(graph).keys() & {"unstack"} and ops(graph)["stack"] <= 1


@pytest.mark.parametrize("d", [1, 2, 3])
def test_initial_values_are_rows_before_the_first(d):
    """Read forward, backward, and where all of them are one value."""

    def f(start, zero):
        past = [*start, *[zero] * d]
        for _ in range(7):
            past.append(mg.tanh(past[-d] * 0.5 + past[-1]))
        h, gs = zero, []
        for t in reversed(range(d, len(past) - 2)):
            h = past[t] * h + past[t - 2 + (d == 1)]
            gs.append(h)
        return mg.stack(past[d:]), mg.stack(gs)

    gathered(f, [tensor(B, H, seed=i) for i in range(d)], tensor(B, H, seed=9))


def test_a_loop_goes_on_where_another_ended():
    def f(xs, h):
        hs, gs = [h], []
        for x in xs:
            hs.append(mg.tanh(x + hs[-1]))
        for x in xs:
            gs.append(mg.sin(x * gs[-1] if gs else hs[-1]))
        out = [mg.cos(a * b) for a, b in zip([hs[-1], *gs], [*gs, hs[0]], strict=True)]
        return mg.stack(hs), mg.stack(out), hs[2], gs[3]

    gathered(f, tensor(T, B, H), tensor(B, H, seed=1))


def test_constants_are_one_constant():
    masks = rng_of(5).random((T, B, H)) < 0.5

    def f(xs):
        h = mg.zeros((B, H), dtype="float64")
        hs = []
        for t, x in enumerate(xs):
            h = mg.where(mg.Tensor(masks[t]), h + x, h)
            hs.append(h)
        return mg.stack(hs), h

    graph = gathered(f, tensor(T, B, H))
    [loop] = graph.loops()
    [mask] = (s.whole for s in loop.sliced if s.whole.spec.dtype.kind == "b")
    assert (mask.constant.numpy() == masks).all()


def test_only_the_last_iteration_needs_no_whole():
    cell = random_cell("gru", D, H, rng_of(3))

    def f(xs):
        h = mg.zeros((B, H), dtype="float64")
        for x in xs:
            h, _ = cell(x, h)
        return h

    [loop] = gathered(f, tensor(T, B, D)).loops()
    assert not loop.stacked and len(loop.collected) == 1


def test_loops_within_loops():
    W = tensor(H, H, seed=4)

    def f(xs, ys):
        total = mg.zeros((B, H), dtype="float64")
        found = []
        for x in xs:
            h = x
            for y in ys:
                h = mg.tanh(h @ W + y)
                total = total + h
            found.append(h)
        return mg.stack(found), total

    graph = gathered(f, tensor(5, B, H), tensor(4, B, H, seed=5))
    outer, inner = graph.loops()
    assert (outer.trips, inner.trips) == (5, 4)
    assert inner.sliced[0].whole is graph.inputs[1] and outer.sliced[0].whole is graph.inputs[0]


def test_the_steps_that_are_left_do_not_grow_with_time():
    sizes = {len(gathered(training_step(), tensor(n, B, D)).steps) for n in (6, 12)}
    assert len(sizes) == 1

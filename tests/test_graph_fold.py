"""fold and unfold: loops found again in traces, exact both ways. Shapes: T time, B batch."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad.graph import Affine, Loop, Value, capture, evaluate, fingerprint, text, verify
from tests.graph_programs import work
from tests.recurrent import leaf, random_cell, randomise

ROOT = Path(__file__).resolve().parent.parent
lecture = pytest.mark.lecture
B, D, H = 2, 3, 3


def rng_of(seed):
    return np.random.default_rng(seed)


# --- an isomorphism, written without the code under test -----------------------------------------


def isomorphic(a, b):
    """Whether two flat graphs are one up to names: a bijection of steps found from the outputs.

    Operands and outputs are ordered, so there is at most one way; what no output needs is compared
    by the number of such steps of each op.
    """
    made_a, made_b = ({v: (s, i) for s in g.steps for i, v in enumerate(s.outputs)} for g in (a, b))
    if [v.spec for v in a.inputs] != [v.spec for v in b.inputs] or len(a.steps) != len(b.steps):
        return False
    values = dict(zip(a.inputs, b.inputs, strict=True))
    steps = {}
    waiting = list(zip(a.outputs, b.outputs, strict=True))
    if len(a.outputs) != len(b.outputs):
        return False
    while waiting:
        x, y = waiting.pop()
        if not (isinstance(x, Value) and isinstance(y, Value)):
            if type(x) is not type(y) or x != y:
                return False
        elif x.constant is not None or y.constant is not None:
            if x.constant is None or y.constant is None or x.spec != y.spec:
                return False
            if x.constant.numpy().tobytes() != y.constant.numpy().tobytes():
                return False
        elif x in values:
            if values[x] is not y:
                return False
        elif x not in made_a or y not in made_b:
            return False
        else:
            (s, i), (t, j) = made_a[x], made_b[y]
            if i != j or steps.setdefault(s, t) is not t or x.spec != y.spec:
                return False
            values[x] = y
            if s.op is not t.op or repr(s.static) != repr(t.static):
                return False
            if len(s.operands) != len(t.operands):
                return False
            waiting += zip(s.operands, t.operands, strict=True)
    dead = [sorted(s.op.name for s in a.steps if s not in steps)]
    reached = set(steps.values())
    dead.append(sorted(s.op.name for s in b.steps if s not in reached))
    return len(reached) == len(steps) and dead[0] == dead[1]


def test_the_isomorphism_sees_differences():
    def graph(f):
        return capture(f, mg.ones(3), mg.zeros(3)).graph

    f = graph(lambda x, y: mg.tanh(x * y) + mg.tanh(x * y))
    assert isomorphic(f, graph(lambda x, y: mg.tanh(x * y) + mg.tanh(x * y)))
    others = [
        lambda x, y: mg.tanh(y * x) + mg.tanh(x * y),
        lambda x, y: mg.tanh(x * y) + mg.sigmoid(x * y),
        lambda x, y: mg.tanh(x * y) * mg.tanh(x * y),
        lambda x, y: (lambda p: mg.tanh(p) + mg.tanh(p))(x * y),
        lambda x, y: (lambda p: p + p)(mg.tanh(x * y)),
        lambda x, y: mg.tanh(x * y) + mg.tanh(x * 2.0),
        lambda x, y: mg.tanh(x * y) + mg.tanh(x * mg.zeros(3)),
    ]
    for other in map(graph, others):
        assert not isomorphic(f, other)
        assert fingerprint(f) != fingerprint(other)


def in_order(graph):
    """The ops of a flat graph, without the unstacks, which fold may move to the front."""
    return [step.op.name for step in graph.steps if step.op.name != "unstack"]


def folds(f, *args, bits=True):
    """Fold f's graph and demand all that folding promises; returns the folded graph."""
    captured = capture(f, *args)
    flat = captured.graph
    folded = verify(mg.fold(captured))
    again = verify(mg.unfold(folded))
    assert isomorphic(again, flat)
    assert fingerprint(folded) == fingerprint(flat)
    assert in_order(again) == in_order(flat)
    inputs = captured.inputs(tree.flatten(args)[0])
    ours, theirs = evaluate(folded, inputs), evaluate(flat, inputs)
    for x, y in zip(ours, theirs, strict=True):
        assert x.numpy().tobytes() == y.numpy().tobytes()
    if bits:  # the returned values stand first, and eager execution gives the same
        eager = [y for y in tree.flatten(f(*args))[0] if isinstance(y, mg.Tensor)]
        for x, y in zip(ours, eager, strict=False):
            assert x.numpy().tobytes() == y.numpy().tobytes()
    return folded


def sizes(graph):
    """(iterations, steps in the body, delay edges) of each loop."""
    return [(loop.trips, len(loop.body), len(loop.carries)) for loop in graph.loops()]


# --- A3: recurrent nets, forward and backward ----------------------------------------------------


def one(kind):
    return lambda rng: random_cell(kind, D, H, rng)


NETS = {
    "rnn": one("rnn"),
    "lstm": one("lstm"),
    "gru": one("gru"),
    "gru before": one("gru before"),
    "stacked": lambda rng: rnn.Stack([random_cell(kind, H, H, rng) for kind in ("lstm", "gru")]),
    "same twice": lambda rng: rnn.Stack([random_cell("rnn", H, H, rng) for _ in range(2)]),
    "bidirectional": lambda rng: rnn.Bidirectional(
        random_cell("lstm", D, H, rng), random_cell("gru", D, H, rng)
    ),
}  # fmt: skip
STATES = {"rnn": 1, "lstm": 2, "gru": 1, "gru before": 1, "stacked": 3, "same twice": 2}


def forward(net):
    if isinstance(net, rnn.Bidirectional | rnn.Layers):
        return lambda xs: net(xs)
    return lambda xs: rnn.unroll(net, xs)


def with_gradients(net):
    run = forward(net)

    def f(xs):
        ys, _ = run(xs)
        loss = mg.mean(ys**2)
        found = mg.pullback(loss, [*net.parameters(), xs])
        return loss, found

    return f


def sequence(T, seed=0):
    return leaf(rng_of(seed).normal(size=(T, B, D)))


def lengths(backend, name, some):
    """1 to 20 for an LSTM; for all with -m slow."""
    return range(1, 21) if backend == "numpy" and name == "lstm" else some


@lecture("A3", "isomorphic")
@pytest.mark.parametrize("name", NETS)
def test_unfold_undoes_fold_forward(backend, name):
    net = NETS[name](rng_of(1))
    for T in lengths(backend, name, (1, 2, 7)):
        folded = folds(forward(net), sequence(T))
        if T > 2:
            trips = [loop.trips for loop in folded.loops()]
            assert trips == [T] * (2 if name == "bidirectional" else 1)
            assert not folded.notes


@lecture("A3", "isomorphic")
@pytest.mark.parametrize("name", NETS)
def test_unfold_undoes_fold_backward(backend, name):
    net = NETS[name](rng_of(2))
    for T in lengths(backend, name, (1, 3, 4) if backend == "numpy" else (1, 4)):
        folded = folds(with_gradients(net), sequence(T))
        if T >= 4:
            trips = [loop.trips for loop in folded.loops()]
            ways = 2 if name == "bidirectional" else 1
            assert len(trips) >= 2 * ways and sum(t >= T - 2 for t in trips) >= 2 * ways


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_unfold_undoes_fold_at_every_length(backend, name):
    net = NETS[name](rng_of(2))
    for T in range(1, 21):
        folds(with_gradients(net), sequence(T))


@lecture("A3", "delay edges")
@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("T", [2, 6])
def test_one_delay_edge_per_component_of_the_state(backend, name, T):
    folded = mg.fold(forward(NETS[name](rng_of(3))), sequence(T))
    [loop] = folded.loops()
    assert loop.trips == T
    assert [c.delay for c in folded.delay_edges()] == [1] * STATES[name]


@lecture("A3", "delay edges")
def test_the_edge_of_the_plain_net_is_h(backend):
    """From the tanh of one step to the product with Wh of the next, and it starts at h(0)."""
    cell = random_cell("rnn", D, H, rng_of(4))
    h0 = leaf(rng_of(5).normal(size=(B, H)))
    folded = mg.fold(lambda xs, h: rnn.unroll(cell, xs, h), sequence(5), h0)
    [loop], [edge] = folded.loops(), folded.delay_edges()
    makes = {v: step for step in loop.body for v in step.outputs}
    assert makes[edge.result].op.name == "tanh"
    [user] = [step for step in loop.body if edge.parameter in step.operands]
    assert user.op.name == "matmul" and edge.initial == (folded.inputs[1],)


@pytest.mark.parametrize("name", NETS)
def test_the_folded_text_of_two_lengths_differs_in_numbers_alone(name):
    found = []
    for T in (7, 20):
        net = NETS[name](rng_of(6))
        listed = text(mg.fold(with_gradients(net), sequence(T)))
        found.append(re.sub(r"\d+", "n", listed))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NETS)
def test_folding_again_changes_nothing_and_folds_no_input_in_place(name):
    folded = mg.fold(with_gradients(NETS[name](rng_of(6))), sequence(6))
    before = text(folded)
    assert text(mg.fold(folded)) == before == text(folded)


def test_a_training_step_falls_into_the_same_loops_at_any_length():
    """An LSTM's: T times forward, T - 2 times backward; the rest does not grow with T."""
    cell = random_cell("lstm", D, H, rng_of(7))
    optimizer = mg.optim.Adam(cell.parameters())

    def step(xs):
        optimizer.zero_grad()
        loss = (rnn.unroll(cell, xs)[0] ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    rest = set()
    for T in (7, 20):
        folded = folds(step, sequence(T), bits=False)
        ahead, back = folded.loops()
        assert (ahead.trips, back.trips) == (T, T - 2)
        assert [c.delay for c in ahead.carries] == [1, 1]
        rest.add((len(folded.steps), len(ahead.body), len(back.body), len(back.carries)))
    assert len(rest) == 1


# --- every way to write a loop -------------------------------------------------------------------


def test_indexing_and_iterating_fold_alike():
    W = leaf(rng_of(8).normal(size=(D, D)))

    def by_index(xs):
        h = mg.zeros((B, D), dtype="float64")
        for t in range(len(xs)):
            h = mg.tanh(xs[t] + h @ W)
        return h

    def by_item(xs):
        h = mg.zeros((B, D), dtype="float64")
        for x in xs:
            h = mg.tanh(x + h @ W)
        return h

    a, b = (folds(f, sequence(6)) for f in (by_index, by_item))
    assert text(a) == text(b) and sizes(a) == [(6, 3, 1)]


def test_batch_first_slices_have_a_static_integer_affine_in_the_iteration():
    W = leaf(rng_of(9).normal(size=(D, D)))

    def f(xs):
        h = mg.zeros((B, D), dtype="float64")
        for t in reversed(range(xs.shape[1])):
            h = mg.tanh(xs[:, t] + h @ W)
        return h

    folded = folds(f, mg.Tensor(rng_of(10).normal(size=(B, 5, D))))
    assert sizes(folded) == [(5, 4, 1)]
    found = []
    for step in folded.loops()[0].body:
        found += [x for x in step.static.get("template", ()) if isinstance(x, Affine)]
    assert [(x.start, x.step) for x in found] == [(4, -1)]


@pytest.mark.parametrize("shifts", [(1, 2, 1), (0, 1, 0, 1), (1, 2, 3, 1, 2), (2, 2, 2, 3)])
def test_static_integers_that_come_back_to_the_first_are_not_affine(shifts):
    def f(x):
        for shift in shifts:
            x = mg.tanh(mg.roll(x, shift, axis=0)) * 2 + x * 3
        return x

    x = mg.Tensor(rng_of(9).normal(size=7))
    [found] = evaluate(folds(f, x), [x])
    assert np.array_equal(found.numpy(), f(x).numpy())


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_an_edge_of_delay_d_in_place_of_the_one_of_delay_1(backend, d):
    """h(t) = tanh(h(t - d) W + x(t)): the folded graph has one edge, of delay d, none of 1."""
    W = leaf(rng_of(11).normal(size=(D, D)))
    start = [mg.Tensor(rng_of(20 + i).normal(size=(B, D))) for i in range(d)]

    def f(xs, start):
        past = list(start)
        for x in xs:
            past.append(mg.tanh(past[-d] @ W + x))
        return past[d:]

    folded = folds(f, sequence(9), start)
    assert sizes(folded) == [(9, 3, 1)]
    [edge] = folded.delay_edges()
    assert edge.delay == d
    assert len(set(edge.initial)) == d


def test_skips_through_time_have_an_edge_each():
    """h(t) = tanh(h(t-1) W + h(t-3) V): two edges from one result, of delay 1 and 3."""
    W, V = (leaf(rng_of(s).normal(size=(D, D))) for s in (12, 13))

    def f(past):
        past = list(past)
        for _ in range(8):
            past.append(mg.tanh(past[-1] @ W + past[-3] @ V))
        return past[-1]

    folded = folds(f, [mg.Tensor(rng_of(30 + i).normal(size=(B, D))) for i in range(3)])
    edges = folded.delay_edges()
    assert sorted(c.delay for c in edges) == [1, 3]
    assert len({c.result for c in edges}) == 1


@pytest.mark.parametrize("forced", [False, True])
def test_output_recurrence_has_no_edge_but_from_o(backend, forced):
    """h(t) = tanh(b + o(t-1) W + x(t) U), o = h V + c; under teacher forcing no edge is left."""
    rng = rng_of(14)
    U, W, V = (leaf(rng.normal(size=s)) for s in ((D, H), (2, H), (H, 2)))
    b, c = leaf(rng.normal(size=H)), leaf(rng.normal(size=2))

    def f(xs, targets):
        o = mg.zeros((B, 2), dtype="float64")
        os = []
        for x, target in zip(xs, targets, strict=True):
            h = mg.tanh(o @ W + x @ U + b)
            os.append(h @ V + c)
            o = target if forced else os[-1]
        return mg.stack(os)

    folded = folds(f, sequence(6), mg.Tensor(rng.normal(size=(6, B, 2))))
    edges = folded.delay_edges()
    assert folded.loops() and len(edges) == (0 if forced else 1)
    for loop in folded.loops():
        makes = {v: step for step in loop.body for v in step.outputs}
        for edge in loop.carries:
            assert makes[edge.result].op.name == "add" and edge.result.spec.shape == (B, 2)
            assert edge.result in [collected.result for collected in loop.collected]


def test_a_tied_residual_net_folds_to_the_graph_of_an_rnn(backend):
    """x(l+1) = x(l) + F(x(l)) with one F, and a cell h' = h + F(h) without input: one text."""
    rng = rng_of(15)
    W, V = (leaf(rng.normal(size=(H, H))) for _ in range(2))

    def block(x):
        return x + mg.tanh(x @ W) @ V

    def residual(x):
        for _ in range(7):
            x = block(x)
        return x

    def recurrent(h):
        return rnn.unroll(lambda x, h: (h, block(h)), None, h, steps=7)[1]

    x = mg.Tensor(rng.normal(size=(B, H)))
    tied = folds(residual, x)
    assert sizes(tied) == [(7, 4, 1)]
    again = capture(recurrent, x).graph
    again.steps = tuple(s for s in again.steps if s.op.name != "stack")  # the h's, which none needs
    assert text(mg.fold(again)) == text(tied)
    layers = [(leaf(rng.normal(size=(H, H))), leaf(rng.normal(size=(H, H)))) for _ in range(7)]

    def untied(x):
        for W, V in layers:
            x = x + mg.tanh(x @ W) @ V
        return x

    assert not folds(untied, x).loops()


def test_masks_resets_and_reverse_fold():
    net = random_cell("lstm", D, H, rng_of(16))
    rng = rng_of(17)
    mask, resets = rng.random((6, B)) < 0.7, rng.random((6, B)) < 0.3

    def f(xs):
        return rnn.unroll(net, xs, mask=mask, resets=resets, reverse=True)

    folded = folds(f, sequence(6))
    assert [loop.trips for loop in folded.loops() if loop in folded.steps] == [6]


def test_two_sequences_by_index_fold_as_by_zip():
    def by_index(xs, zs):
        h = mg.zeros((B, D), dtype="float64")
        for t in range(6):
            h = mg.tanh(xs[t] + h) * zs[t]
        return h

    def by_zip(xs, zs):
        h = mg.zeros((B, D), dtype="float64")
        for x, z in zip(xs, zs, strict=True):
            h = mg.tanh(x + h) * z
        return h

    a = folds(by_index, sequence(6, 1), sequence(6, 2))
    assert text(a) == text(folds(by_zip, sequence(6, 1), sequence(6, 2)))
    assert sizes(a) == [(6, 3, 1)]


def test_the_sign_of_zero_is_kept(backend):
    """Factors 0.0 and -0.0 are equal numbers, but not the same."""
    factors = [-0.0, 0.0, 0.0] * 3

    def program(x):
        found = []
        for c in factors:
            x = mg.tanh(x) * c
            found.append(x)
        return found

    x = mg.Tensor([1.0])
    captured = capture(program, x)
    found = evaluate(mg.fold(captured.graph), captured.inputs([x]))
    want = np.cumprod([np.copysign(1, c) for c in factors])
    assert [np.copysign(1, y.numpy()[0]) for y in found] == list(want)


def test_random_numbers_per_step_fold(backend):
    key = mg.random.key(3)

    def f(xs):
        h = mg.zeros((B, D), dtype="float64")
        for t, x in enumerate(xs):
            keep = mg.random.bernoulli(key.fold(t), (B, D), 0.5)
            h = mg.where(keep, mg.tanh(h + x), h)
        return h

    folded = folds(f, sequence(6))
    assert [loop.trips for loop in folded.loops()] == [6]
    assert len(folded.delay_edges()) == 1

    def ambient(xs):
        h = mg.zeros((B, D), dtype="float64")
        for x in xs:
            h = mg.where(mg.random.bernoulli(None, (B, D), 0.5), mg.tanh(h + x), h)
        return h

    folded = folds(ambient, sequence(6), bits=False)
    [loop] = folded.loops()
    assert loop.trips == 6 and len(loop.carries) == 2  # h, and the generator


def test_attention_over_a_fixed_memory_folds_and_over_a_growing_one_says_why_not():
    memory = mg.Tensor(rng_of(18).normal(size=(4, D)))

    def fixed(xs):
        h = mg.zeros((B, D), dtype="float64")
        for x in xs:
            weights = mg.functional.softmax((h + x) @ memory.T)
            h = mg.tanh(weights @ memory)
        return h

    folded = folds(fixed, sequence(6))
    assert [loop.trips for loop in folded.loops()] == [6] and len(folded.delay_edges()) == 1

    def growing(xs):
        past = [xs[0]]
        for x in xs[1:]:
            past.append(mg.tanh(x * mg.sum(mg.stack(past), axis=0)))
        return past[-1]

    folded = folds(growing, sequence(6))
    assert not folded.loops()
    assert folded.notes == ("flat: no sequence of steps repeats",)


def test_what_repeats_and_is_no_loop_stays_flat_and_says_why():
    xs = [mg.Tensor(rng_of(40 + i).normal(size=D)) for i in range(6)]

    def f(x):
        for i in (3, 0, 4, 1, 5, 2):  # in no order
            x = mg.tanh(x * xs[i])
        return x

    folded = folds(f, mg.ones(D, dtype="float64"))
    assert not folded.loops()
    assert "operand 1 of multiply" in folded.notes[0] and "stacked value" in folded.notes[0]
    assert folded.notes[0] in text(folded)


def test_loops_nest():
    """Three minibatches of a net each, the state handed on: a loop of T in one of three."""
    cell = random_cell("rnn", D, H, rng_of(19))

    def f(batches):
        h = mg.zeros((B, H), dtype="float64")
        total = mg.zeros((), dtype="float64")
        for xs in batches:
            ys, h = rnn.unroll(cell, xs, h)
            total = total + mg.sum(ys**2)
        return total, h

    folded = folds(f, mg.Tensor(rng_of(20).normal(size=(3, 5, B, D))))
    [outer] = [step for step in folded.steps if isinstance(step, Loop)]
    [inner] = [step for step in outer.body if isinstance(step, Loop)]
    assert (outer.trips, inner.trips) == (3, 5)


def test_gradients_added_up_over_minibatches_fold_and_nest():
    cell = random_cell("rnn", D, H, rng_of(21))

    def f(batches):
        for p in cell.parameters():
            p.grad = None
        for xs in batches:
            mg.mean(rnn.unroll(cell, xs)[0] ** 2).backward()
        return [p.grad for p in cell.parameters()]

    folded = folds(f, mg.Tensor(rng_of(22).normal(size=(5, 4, B, D))), bits=False)
    assert max(loop.trips for loop in folded.loops()) >= 4
    assert any(isinstance(s, Loop) for loop in folded.loops() for s in loop.body)


def test_a_loss_that_is_added_up_step_by_step_folds():
    cell = random_cell("gru", D, H, rng_of(23))

    def f(xs):
        h, loss = cell.initial_state(B), 0
        for x in xs:
            y, h = cell(x, h)
            loss = loss + mg.sum(y**2)
        return mg.pullback(loss, cell.parameters())

    trips = [loop.trips for loop in folds(f, sequence(6)).loops()]
    assert trips == [5, 3]  # the first iteration adds to the number 0


def test_an_operand_that_comes_from_the_first_window_twice_is_no_delay_edge():
    """From window 0 to windows 1 and 4, and to none between."""

    def f(xs):
        ys = []
        for t in range(5):
            ys.append(mg.tanh(xs[t] * (ys[0] if t in (1, 4) else xs[7])))
        return ys

    xs = sequence(8)
    for d in range(1, 4):
        folds(lambda xs, d=d: f(xs)[d:], xs)


def random_program(rng):
    """Windows that repeat, operands chosen at random, and perhaps one step that is another."""
    kinds = rng.integers(4, size=rng.integers(1, 5))
    operands = rng.integers(1, 9, size=(len(kinds), 2))
    trips, change = int(rng.integers(1, 8)), int(rng.integers(40))

    def f(xs):
        made = [*mg.unstack(xs), mg.tanh(xs[0])]
        for i in range(trips * len(kinds)):
            x, y = (made[-n] for n in operands[i % len(kinds)])
            kind = kinds[i % len(kinds)] + (i == change)
            made.append([x + y, x * y, mg.tanh(x), mg.where(x > 0, y, x)][kind % 4])
        return made[-1], made[-2]

    return f


def test_random_programs():
    """Whatever fold makes of them is exact, and often it makes something."""
    rng = rng_of(24)
    xs = mg.Tensor(rng.normal(size=(8, 3)))
    found = [bool(folds(random_program(rng), xs).loops()) for _ in range(20)]
    assert sum(found) > 5


def test_layers_of_both_directions_fold_into_a_loop_each():
    def both(size):
        return rnn.Bidirectional(*(random_cell("lstm", size, H, rng_of(26)) for _ in range(2)))

    net = rnn.Layers([both(D), both(2 * H)])
    assert sizes(folds(forward(net), sequence(5))) == [(5, 14, 2)] * 4
    trips = [loop.trips for loop in folds(with_gradients(net), sequence(6)).loops()]
    assert trips == [6] * 4 + [4] * 4


def test_sampling_from_a_model_folds():
    """The state, the last symbol and the generator are carried."""
    cell, out = random_cell("lstm", 4, H, rng_of(27)), mg.nn.Linear(H, 4, dtype="float64")

    def f():
        state, x, drawn = cell.initial_state(1), mg.zeros((1, 4), dtype="float64"), []
        for _ in range(6):
            y, state = cell(x, state)
            drawn.append(mg.random.categorical(None, (1,), out(y)))
            x = mg.functional.one_hot(drawn[-1], 4, "float64")
        return mg.stack(drawn)

    [loop] = folds(f, bits=False).loops()
    assert loop.trips == 6 and len(loop.carries) == 4


def test_the_same_thing_computed_again_and_again_is_no_loop():
    def f(x):
        return [mg.tanh(x) for _ in range(6)]

    assert not folds(f, mg.ones(3)).loops()


def test_the_work_of_folding_is_linear_in_the_length():
    cell = randomise(rnn.LSTMCell(2, 2, dtype="float64"), rng_of(25))
    calls = []
    for T in (80, 320):
        graph = capture(with_gradients(cell), mg.Tensor(np.ones((T, 1, 2)), True)).graph
        calls.append(work(lambda: mg.fold(graph)))  # noqa: B023
        folded = mg.fold(graph)
        assert [loop.trips for loop in folded.loops()] == [T, T - 2]
        assert len(text(folded)) < 20_000
    assert calls[1] < 4.5 * calls[0]


# --- the core does without -----------------------------------------------------------------------


def test_everything_but_graphs_and_pictures_works_without_them(tmp_path):
    """A copy of the source without minigrad/graph and minigrad/pictures still trains."""
    for name in ("minigrad", "minigrad_rnn", "backends"):
        skipped = shutil.ignore_patterns("__pycache__", "graph", "pictures")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skipped)
    program = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f)]  # it would find the folder
import minigrad as mg, minigrad_rnn as rnn
mg.random.seed(1)
cell = rnn.LSTMCell(2, 3)
optimizer = mg.optim.Adam(cell.parameters(), lr=0.05)
losses = []
for _ in range(20):
    loss = (rnn.unroll(cell, mg.ones((4, 2, 2)))[0] ** 2).mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    losses.append(float(loss))
print(losses[-1] < losses[0], mg.__file__.startswith(%r))
try:
    mg.fold
except ImportError as error:
    print(error.name)
""" % str(tmp_path)  # noqa: UP031
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{tmp_path / 'backends'}", "PATH": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True", "minigrad.graph"]

"""Rows A of the lectures: the graph itself. Shapes: T time, B batch, D input, H hidden."""

import ast
import copy
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.autodiff import reached
from minigrad_rnn import unroll
from tests.oracles import vanilla
from tests.oracles.batch import over_batch
from tests.oracles.differences import central
from tests.recurrent import (
    KINDS,
    close,
    gradients,
    leaf,
    oracle_parameters,
    plain_for,
    random_cell,
    same_bits,
)

ROOT = Path(__file__).resolve().parent.parent
lecture = pytest.mark.lecture


def leaves_of(y):
    """The leaves that a recorded tensor depends on."""
    return [node for node in reached([y.node]) if node.op is None]


def children_first(y):
    """A topological sort by Kahn's algorithm of what y depends on, itself first."""
    consumers, parents_of, waiting, seen = {y.node: 0}, {}, [y.node], {y.node}
    while waiting:
        node = waiting.pop()
        parents_of[node] = [p for p in node.parents if p is not None]
        for parent in parents_of[node]:
            consumers[parent] = consumers.get(parent, 0) + 1
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    ready, order = [y.node], []
    while ready:
        order.append(ready.pop())
        for parent in parents_of[order[-1]]:
            consumers[parent] -= 1
            if not consumers[parent]:
                ready.append(parent)
    return order, seen


# --- A1, A2: dynamical systems -------------------------------------------------------------------


def autonomous(rng):
    """theta = (W, b), s0 and f: the state alone moves, s(t) = tanh(s(t-1) W + b)."""
    W, b = leaf(rng.normal(size=(2, 2))), leaf(rng.normal(size=2))
    s0 = leaf(rng.normal(size=(1, 2)))

    def f(x, s):
        s = mg.tanh(s @ W + b)
        return s, s

    return (W, b), s0, f


@lecture("A1", "three steps")
def test_three_steps_are_f_of_f_of_f(backend):
    (W, b), s0, f = autonomous(np.random.default_rng(1))
    ss, last = unroll(f, None, s0, steps=3)
    W, b, s = W.numpy(), b.numpy(), s0.numpy()
    by_hand = np.tanh(np.tanh(np.tanh(s @ W + b) @ W + b) @ W + b)  # eq 10.3
    close(last, by_hand)
    close(ss[2], by_hand)


@lecture("A1", "gradient")
@pytest.mark.parametrize("T", [1, 3, 6])
def test_gradients_of_the_shared_parameters_and_the_first_state(backend, T):
    (W, b), s0, f = autonomous(np.random.default_rng(2))
    found = gradients(mg.sum(unroll(f, None, s0, steps=T)[0] ** 2), W, b, s0)
    values = [x.numpy().copy() for x in (W, b, s0)]

    def loss():
        W, b, s = values
        total = 0.0
        for _ in range(T):
            s = np.tanh(s @ W + b)
            total += np.sum(s**2)
        return total

    for ours, value in zip(found, values, strict=True):
        close(ours, central(loss, value), 1e-8)


@lecture("A1", "leaves")
@lecture("A5", "parameter count")
def test_the_leaves_are_the_parameters_for_every_number_of_steps(backend):
    (W, b), s0, f = autonomous(np.random.default_rng(3))
    cell = random_cell("lstm", 2, 3, np.random.default_rng(4))
    for T in (1, 2, 7, 40):
        assert set(leaves_of(unroll(f, None, s0.detach(), steps=T)[1])) == {W.node, b.node}
        ys, _ = unroll(cell, mg.ones((T, 1, 2), dtype="float64"))
        assert set(leaves_of(ys)) == {p.node for p in cell.parameters()}
        assert len(cell.parameters()) == 3


@lecture("A2", "plain for")
@pytest.mark.parametrize("T", [1, 4])
def test_the_same_function_by_unroll_and_by_a_plain_for(backend, T):
    """Nests of inputs, states and outputs, a constant besides, any Python inside."""
    rng = np.random.default_rng(5)
    W, U, memory = (leaf(rng.normal(size=s)) for s in ((3, 3), (2, 3), (5, 3)))

    def f(x, state):
        h, (fast, slow) = state["h"], state["traces"]
        attention = mg.functional.softmax(h @ memory.T) @ memory
        h = mg.tanh(h @ W + x["left"] @ U + attention)
        if W.shape[0] == 3:
            h = h * mg.sigmoid(x["right"])
        return {"h": h, "gap": fast - slow}, {
            "h": h,
            "traces": (0.5 * fast + h, 0.9 * slow + 0.1 * h),
        }

    xs = {"left": leaf(rng.normal(size=(T, 2, 2))), "right": leaf(rng.normal(size=(T, 2, 1)))}
    start = {"h": leaf(rng.normal(size=(2, 3))), "traces": (mg.zeros((2, 3), dtype="float64"),) * 2}
    ys, last = unroll(f, xs, start)
    steps = [{name: x[t] for name, x in xs.items()} for t in range(T)]
    rows, states = plain_for(f, steps, start)
    looped = {name: mg.stack([row[name] for row in rows]) for name in ys}
    same_bits((ys, last), (looped, states[-1]))
    ours, theirs = (
        gradients(mg.sum(y["h"] ** 2) + mg.sum(y["gap"]), xs, start["h"], W, U, memory)
        for y in (ys, looped)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a.any()
        assert a.tobytes() == b.tobytes()


@lecture("A2", "compiled")
@pytest.mark.parametrize("way", ["unroll", "plain for"])
def test_the_same_function_through_the_compiled_path(backend, way, monkeypatch):
    """Against NumPy, and the gradient along a direction against a complex step, exact."""
    monkeypatch.delenv("MINIGRAD_COMPILE", raising=False)
    rng, T = np.random.default_rng(6), 5
    shapes = {"W": (3, 3), "U": (2, 3), "memory": (4, 3), "left": (T, 2, 2), "right": (T, 2, 1)}
    shapes |= {"h": (2, 3), "fast": (2, 3), "slow": (2, 3)}
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    along = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    weight = rng.normal(size=(2, T, 2, 3))
    h_weight, gap_weight = (mg.Tensor(w) for w in weight)

    def step(xp, p, x, state):
        h, (fast, slow) = state["h"], state["traces"]
        scores = xp.exp(h @ p["memory"].T)
        attention = scores / scores.sum(axis=-1, keepdims=True) @ p["memory"]
        h = xp.tanh(h @ p["W"] + x["left"] @ p["U"] + attention)
        h = h / (1 + xp.exp(-x["right"]))
        traces = 0.5 * fast + h, 0.9 * slow + 0.1 * h
        return {"h": h, "gap": fast - slow}, {"h": h, "traces": traces}

    def by_hand(xp, p):
        state, rows = {"h": p["h"], "traces": (p["fast"], p["slow"])}, []
        for t in range(T):
            y, state = step(xp, p, {"left": p["left"][t], "right": p["right"][t]}, state)
            rows.append(y)
        return {name: xp.stack([row[name] for row in rows]) for name in ("h", "gap")}

    @mg.compile
    def run(p):
        if way == "unroll":
            xs, start = {k: p[k] for k in ("left", "right")}, {"h": p["h"]}
            start["traces"] = p["fast"], p["slow"]
            ys, _ = unroll(lambda x, state: step(mg, p, x, state), xs, start)
        else:
            ys = by_hand(mg, p)
        (mg.sum(ys["h"] * h_weight) + mg.sum(ys["gap"] * gap_weight)).backward()
        return ys

    leaves = {name: leaf(value) for name, value in values.items()}
    ys, expected = run(leaves), by_hand(np, values)
    for name, y in ys.items():
        close(y, expected[name])
    moved = by_hand(np, {name: v + 1e-30j * along[name] for name, v in values.items()})
    slope = (moved["h"].imag * weight[0] + moved["gap"].imag * weight[1]).sum() / 1e-30
    close(sum((leaves[k].grad.numpy() * v).sum() for k, v in along.items()), slope, 1e-11)
    assert run.captures == 1
    assert run.graph.loops()


# --- A4: an acyclic graph ------------------------------------------------------------------------


@lecture("A4", "topological sort")
@pytest.mark.parametrize("kind", KINDS)
def test_a_topological_sort_of_the_unrolled_graph_exists(backend, kind):
    rng = np.random.default_rng(6)
    upper = rnn.Residual(random_cell(kind, 3, 3, rng))
    stack = rnn.Stack([random_cell(kind, 2, 3, rng), upper])
    y = mg.sum(unroll(stack, mg.ones((6, 2, 2), dtype="float64"))[0])
    order, nodes = children_first(y)
    assert len(order) == len(nodes)
    assert set(order) == nodes == set(reached([y.node]))
    place = {node: i for i, node in enumerate(reached([y.node]))}
    for node in nodes:
        assert all(place[node] < place[p] for p in node.parents if p is not None)


@lecture("A4", "topological sort")
def test_the_sort_needs_no_recursion(backend):
    W = leaf([[0.5]])

    start = mg.ones((1, 1), dtype="float64")
    _, s = unroll(lambda x, s: (s, mg.tanh(s @ W)), None, start, steps=5_000)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        order, nodes = children_first(s)
        s.backward([[1.0]])
    finally:
        sys.setrecursionlimit(limit)
    assert len(order) == len(nodes) >= 10_000
    assert np.isfinite(W.grad.numpy()).all()


# --- A5: one function, one set of parameters -----------------------------------------------------


@lecture("A5", "sum over uses")
@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_weights_gradient_is_the_sum_over_copies_used_once(backend, kind):
    """Copies W(t), used at step t alone, against the graph's own uses of W (eq 10.25)."""
    rng = np.random.default_rng(8)
    T = 6
    cell = random_cell(kind, 2, 3, rng)
    xs, weight = rng.normal(size=(T, 2, 2)), rng.normal(size=(T, 2, 3))

    copies = [copy.deepcopy(cell) for _ in range(T)]
    state, ys = cell.initial_state(2), []
    for t in range(T):
        y, state = copies[t](mg.Tensor(xs[t]), state)
        ys.append(y)
    mg.sum(mg.stack(ys) * mg.Tensor(weight)).backward()

    loss = mg.sum(unroll(cell, mg.Tensor(xs))[0] * mg.Tensor(weight))
    for name, shared in cell.named_parameters():
        per_step = np.stack([getattr(c, name).grad.numpy() for c in copies])
        uses = mg.pullback(loss, shared, split="use")
        close(uses, per_step)
        close(mg.sum(uses, axis=0), per_step.sum(axis=0))
    loss.backward()
    for name, shared in cell.named_parameters():
        close(shared.grad, sum(getattr(c, name).grad.numpy() for c in copies))


@lecture("A5", "sum over uses")
def test_each_uses_gradient_equals_the_hand_written_one(backend):
    rng = np.random.default_rng(9)
    shapes = {"U": (3, 2), "W": (3, 3), "V": (4, 3), "b": (3,), "c": (4,)}
    p = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x, labels = rng.normal(size=(5, 2)), rng.integers(0, 4, 5)
    U, W, V = (leaf(p[name].T) for name in "UWV")
    h, losses = mg.zeros((1, 3), dtype="float64"), []
    for t in range(5):
        h = mg.tanh(h @ W + mg.Tensor(x[t : t + 1]) @ U + mg.Tensor(p["b"]))
        losses.append(mg.functional.cross_entropy(h @ V + mg.Tensor(p["c"]), labels[t : t + 1]))
    expected = vanilla.backward(p, x, labels, np.zeros(3))
    loss = mg.sum(mg.stack(losses))
    for name, leaf_ in (("U", U), ("W", W), ("V", V)):
        uses = mg.pullback(loss, leaf_, split="use")
        close(mg.swapaxes(uses, 1, 2), expected[f"{name}_uses"])


# --- A7: one backward through the whole sequence -------------------------------------------------


@lecture("A7", "consumers")
@pytest.mark.parametrize("T", [1, 5, 12])
def test_a_weight_has_a_consumer_for_every_step(backend, T):
    rng = np.random.default_rng(10)
    cell = random_cell("rnn", 2, 3, rng)
    head = mg.nn.Linear(3, 4, dtype="float64")
    xs, labels = mg.Tensor(rng.normal(size=(T, 2, 2))), rng.integers(0, 4, (T, 2))
    losses, state = [], cell.initial_state(2)
    for t in range(T):
        y, state = cell(xs[t], state)
        losses.append(mg.functional.cross_entropy(head(y), labels[t]))
    nodes = reached([mg.sum(mg.stack(losses)).node])
    for parameter in [*cell.parameters(), *head.parameters()]:
        uses = [node for node in nodes if parameter.node in node.parents]
        assert len(uses) == T
        assert {node.op.name for node in uses} <= {"matmul", "add"}
    assert len([n for n in nodes if n.op is not None and n.op.name == "tanh"]) == T


@lecture("A7", "one gradient")
@pytest.mark.parametrize("pattern", ["many to many", "many to one", "one to many"])
def test_one_backward_of_the_summed_loss_gives_one_gradient(backend, pattern):
    """The loss is one node, the sum of the steps'; W's gradient arrives once and is whole."""
    rng = np.random.default_rng(11)
    T = 5
    cell = random_cell("rnn", 2, 3, rng)
    xs = mg.Tensor(rng.normal(size=(T, 2, 2)))
    if pattern == "one to many":
        xs = mg.concatenate([xs[:1], mg.zeros((T - 1, 2, 2), dtype="float64")])
    at = [T - 1] if pattern == "many to one" else range(T)
    ys, _ = unroll(cell, xs)
    losses = [mg.sum(ys[t] ** 2) for t in at]

    direct = np.zeros(ys.shape)
    direct[list(at)] = 2 * ys.numpy()[list(at)]
    parameters, start = oracle_parameters("rnn", cell), np.zeros((2, 3))
    result = over_batch(KINDS["rnn"].backward, parameters, [xs.numpy(), direct], [start])
    expected = result["W"].T
    arrived = []
    cell.Wh.register_hook(lambda g: arrived.append(g.numpy()))
    [found] = gradients(mg.sum(mg.stack(losses)), cell.Wh)
    close(found, expected)
    assert len(arrived) == 1
    close(arrived[0], expected)


TIME = re.compile(r"rnn|lstm|gru|recurr|unroll|bptt|timestep|time_step|through_time")


@lecture("A7", "no time", backend="any")
def test_the_engine_has_no_concept_of_time():
    """No name in the engine or a backend speaks of recurrence, and nothing there imports it."""
    files = [
        *(p for p in (ROOT / "minigrad").rglob("*.py") if "pictures" not in p.parts),
        *(ROOT / "backends").rglob("*.py"),
    ]
    assert len(files) > 20
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            fields = ("id", "attr", "name", "arg", "module", "asname")
            names = [n for f in fields if isinstance(n := getattr(node, f, None), str)]
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names += [node.value] if node.value.isidentifier() else []
            found = [n for n in names if TIME.search(n.lower())]
            assert set(found) <= {"loop_unrolling"}, path  # LLVM's name of an option


@lecture("A7", "no time")
def test_backward_walks_a_recurrent_graph_as_any_other(backend):
    """The steps of backward are the recorded nodes in descending order of creation, no more."""
    cell = random_cell("lstm", 2, 3, np.random.default_rng(12))
    loss = mg.sum(unroll(cell, mg.ones((4, 2, 2), dtype="float64"))[0])
    nodes = reached([loss.node])
    walked = [step.node for step in loss.backward_steps()]
    assert walked == nodes == sorted(nodes, key=lambda node: -node.id)
    generic = {"sum", "stack", "multiply", "sigmoid", "tanh", "add", "split", "matmul"}
    assert {node.op.name for node in walked if node.op is not None} <= generic


# --- A8: all earlier inputs, nothing later, no other row ------------------------------------------

T, B, D = 4, 3, 2


def blocks(layer, rng, **options):
    """Which blocks d y(t, b) / d x(s, c) hold anything: bool (T, B, T, B)."""
    x = mg.Tensor(rng.normal(size=(T, B, D)))
    J = mg.jacobian(lambda x: layer(x, **options)[0])(x).numpy()
    assert np.isfinite(J).all()
    return (J != 0).any(axis=(2, 5))


def expected_blocks(lengths=(T,) * B, both=False):
    t, b, s, c = np.ogrid[:T, :B, :T, :B]
    real = np.arange(T)[:, None] < np.array(lengths)
    inside = real[:, :, None, None] & real[None, None]
    return inside & (b == c) & (both | (s <= t))


GATED = pytest.mark.parametrize("kind", KINDS)


@lecture("A8", "plain")
@GATED
def test_causal_plain(backend, kind):
    rng = np.random.default_rng(20)
    layer = rnn.Recurrent(random_cell(kind, D, 2, rng))
    np.testing.assert_array_equal(blocks(layer, rng), expected_blocks())


@lecture("A8", "stacked")
@GATED
def test_causal_stacked(backend, kind):
    rng = np.random.default_rng(21)
    stack = rnn.Stack([random_cell(kind, D, 3, rng), random_cell(kind, 3, 2, rng)])
    np.testing.assert_array_equal(blocks(rnn.Recurrent(stack), rng), expected_blocks())


@lecture("A8", "residual")
@GATED
def test_causal_residual(backend, kind):
    rng = np.random.default_rng(22)
    cell = rnn.Residual(rnn.Stack([rnn.Residual(random_cell(kind, D, D, rng))] * 2))
    np.testing.assert_array_equal(blocks(rnn.Recurrent(cell), rng), expected_blocks())


@lecture("A8", "ragged")
@GATED
@pytest.mark.parametrize("form", ["plain", "stacked", "residual"])
def test_causal_ragged(backend, kind, form):
    rng = np.random.default_rng(23)
    cell = random_cell(kind, D, D, rng)
    cell = {"plain": cell, "stacked": rnn.Stack([cell, cell]), "residual": rnn.Residual(cell)}[form]
    lengths = [2, 4, 0]
    found = blocks(rnn.Recurrent(cell), rng, lengths=lengths)
    np.testing.assert_array_equal(found, expected_blocks(lengths))


@lecture("A8", "bidirectional")
@GATED
@pytest.mark.parametrize("lengths", [(T, T, T), (3, 4, 1)])
def test_both_sides_bidirectional(backend, kind, lengths):
    rng = np.random.default_rng(24)
    layer = rnn.Bidirectional(random_cell(kind, D, 2, rng), random_cell(kind, D, 2, rng))
    found = blocks(layer, rng, lengths=list(lengths))
    np.testing.assert_array_equal(found, expected_blocks(lengths, both=True))

"""simplify: fewer steps, the same values. Shapes: T time, B batch, D input, H hidden."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad.graph import Loop, capture, evaluate, simplify, simplifying, text, verify
from minigrad.graph.simplifying import share
from tests.graph_programs import work
from tests.op_checks import leaves_of
from tests.recurrent import leaf, random_cell
from tests.test_graph_fold import NETS, forward, random_program
from tests.test_programs import drawn, inputs, programs, run

B, D, H = 2, 3, 3


def rng_of(seed):
    return np.random.default_rng(seed)


def simplified(f, *args, fold=True):
    """The simplified graph of f(*args): equal values but for the sign of zero, and idempotent."""
    captured = capture(f, *args)
    given = captured.inputs(tree.flatten(args)[0])
    wanted = evaluate(captured.graph, given)
    graph = mg.fold(captured) if fold else captured.graph
    before = text(graph)
    for found in (verify(share(graph)), verify(simplify(graph))):
        for x, y in zip(evaluate(found, given), wanted, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x.numpy(), y.numpy())
    assert text(simplify(found)) == text(found)
    assert text(graph) == before
    return found


def ops(graph):
    return [step.op.name for step in graph.walk() if not isinstance(step, Loop)]


def test_the_example_in_the_docstring():
    tested = doctest.testmod(simplifying, extraglobs={"mg": mg})
    assert tested.attempted and not tested.failed


# --- what goes, and what stays -------------------------------------------------------------------

NOTHING = {
    "reshape": lambda x: mg.reshape(x, (2, 3)),
    "reshape and back": lambda x: mg.reshape(mg.reshape(x, (3, 2)), (2, 3)),
    "transpose and back": lambda x: x.T.T,
    "transpose in place": lambda x: mg.transpose(x, (0, 1)),
    "flip and back": lambda x: mg.flip(mg.flip(x)),
    "roll by nothing": lambda x: mg.roll(x, 0, 1),
    "own dtype": lambda x: mg.astype(x, x.dtype),
    "wider and back": lambda x: mg.astype(mg.astype(x, "float64"), "float32"),
    "own shape": lambda x: mg.broadcast_to(x, (2, 3)),
    "times 1": lambda x: 1 * (x * 1.0),
    "plus 0": lambda x: 0 + (x + 0.0),
    "minus 0": lambda x: x - 0,
    "over 1": lambda x: x / 1,
    "power 1": lambda x: x**1,
    "negated twice": lambda x: mg.negative(-x),
    "all of it": lambda x: x[:],
    "limited gradient": lambda x: mg.clip_gradient(x, 1.0),
    "no lower limit": lambda x: mg.maximum(x, -np.inf),
}
SOMETHING = {
    "transpose of a square": lambda x: (x @ x.T).T,
    "flip": lambda x: mg.flip(x),
    "roll": lambda x: mg.roll(x, 1, 1),
    "0 minus": lambda x: 0 - x,
    "1 over": lambda x: 1 / x,
    "square": lambda x: x**2,
    "absolute": lambda x: abs(x),
    "negative": lambda x: -x,
    "round": lambda x: mg.round(x),
    "lower limit": lambda x: mg.maximum(x, 0.0),
    "far limit": lambda x: mg.maximum(x, -1e30),
    "tiny sum": lambda x: x + 1e-30,
    "nearly 1": lambda x: x * (1 + 2**-23),
    "doubled and halved": lambda x: (x * 2.0) / 2.0,
    "exponential and logarithm": lambda x: mg.log(mg.exp(x)),
    "narrower and back": lambda x: mg.astype(mg.astype(x, "int64"), "float32"),
    "cumulated": lambda x: mg.cumsum(x, axis=1),
    "lower triangle": lambda x: mg.tril(x),
}


@pytest.mark.parametrize("name", NOTHING)
def test_steps_that_give_their_operand_back_go(backend, name):
    x = mg.Tensor(rng_of(0).normal(size=(2, 3)), dtype="float32")
    assert not simplified(NOTHING[name], x).steps


@pytest.mark.parametrize("name", SOMETHING)
def test_steps_that_do_something_stay(name):
    x = mg.Tensor(rng_of(0).normal(size=(2, 3)), dtype="float32")
    before = len(capture(SOMETHING[name], x).graph.steps)
    assert len(simplified(SOMETHING[name], x).steps) == before


@pytest.mark.parametrize("dtype", ["int64", "bool", "float64"])
def test_dtypes_count(dtype):
    x = mg.Tensor([0, 1, 1], dtype=dtype)
    assert ops(simplified(lambda x: x * 1, x)) == ([] if dtype != "bool" else ["astype"])
    assert ops(simplified(lambda x: mg.astype(x, "int64"), x)) == (
        [] if dtype == "int64" else ["astype"]
    )
    assert not ops(simplified(lambda x: mg.astype(x, dtype), x))


def test_what_nothing_needs_goes():
    def f(x):
        y = mg.tanh(x)
        mg.exp(y) * mg.sin(x)
        first, _ = mg.split(y, 2)
        return first

    assert ops(simplified(f, mg.ones(4))) == ["tanh", "split"]


def test_what_nothing_needs_of_a_loop_goes():
    w = leaf(rng_of(1).normal(size=D))

    def f(xs):
        a, b, unused = (mg.zeros(D, dtype="float64") for _ in range(3))
        for x in xs:
            a, b, unused = mg.tanh(a + x * w), b + a, mg.sin(unused + x) * b
        return a

    [loop] = simplified(f, mg.Tensor(rng_of(2).normal(size=(5, D)))).loops()
    assert [step.op.name for step in loop.body] == ["multiply", "add", "tanh"]
    assert len(loop.carries) == 1 and len(loop.indexed) == 1 and len(loop.collected) == 1
    assert list(loop.collected[0].outputs) == [4]


def test_of_equal_steps_one_stays():
    key = mg.random.key(1)

    def f(x):
        noise = mg.random.normal(key, (3,)) + mg.random.normal(key, (3,))
        return mg.tanh(x * 2) + mg.tanh(x * 2) + mg.tanh(x * 2.0) + noise

    found = ops(simplified(f, mg.ones(3)))
    assert found.count("tanh") == 2  # 2 and 2.0 are not the same number
    assert found.count("random_bits") == 1


def test_ambient_random_numbers_stay_apart():
    def f(x):
        return mg.random.uniform(None, (3,)) + mg.random.uniform(None, (3,)) + x

    assert ops(simplified(f, mg.ones(3), fold=False)).count("random_bits") == 2


def test_constants_are_computed_but_not_made_larger():
    def f(x):
        return x * mg.reshape(mg.tanh(mg.Tensor([1.0, 2.0]) * 2), (2, 1))

    assert ops(simplified(f, mg.ones(2))) == ["multiply"]

    def g(x):
        return x * mg.broadcast_to(mg.tanh(mg.Tensor([1.0])), (100,))

    assert ops(simplified(g, mg.ones(100))) == ["broadcast_to", "multiply"]


def test_invariant_steps_run_once(backend):
    """Out of both loops, each as far as it goes; a position is not the same in each iteration."""
    w, v = (leaf(rng_of(s).normal(size=(D, D))) for s in (3, 4))

    def f(batches):
        h = mg.zeros((B, D), dtype="float64")
        for xs in batches:
            scale = mg.sum(xs, axis=(0, 2), keepdims=False)
            for t in range(5):
                h = mg.tanh(xs[:, t] + h @ w.T + mg.exp(v)[0] + mg.sin(scale[0]))
        return h

    found = simplified(f, mg.Tensor(rng_of(5).normal(size=(4, B, 5, D))))
    [outer] = [step for step in found.steps if isinstance(step, Loop)]
    [inner] = [step for step in outer.body if isinstance(step, Loop)]

    def names(steps):
        return [step.op.name for step in steps if not isinstance(step, Loop)]

    assert {"transpose", "exp"} <= set(names(found.steps))
    assert {"sum", "sin"} <= set(names(outer.body))
    assert set(names(inner.body)) == {"index", "matmul", "add", "tanh"}


def test_outputs_may_be_inputs_constants_and_each_other():
    def f(x):
        y = mg.tanh(x)
        return mg.negative(-x), y, mg.tanh(x), mg.ones(2) * 3, y

    found = simplified(f, mg.ones(2))
    assert len(found.steps) == 1 and found.outputs[0] is found.inputs[0]
    assert found.outputs[1] is found.outputs[2] is found.outputs[4]


def test_checkpoint_gives_the_same():
    """What it computes again in backward is equal to what was computed first, and goes too."""
    w = leaf(rng_of(7).normal(size=(D, D)))

    def f(x):
        block = mg.checkpoint(lambda x: mg.tanh(mg.tanh(x @ w) @ w))
        return mg.grad(lambda x: mg.sum(block(block(x))))(x)

    simplified(f, leaf(rng_of(8).normal(size=(B, D))))


# --- programs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_nets(name):
    net = NETS[name](rng_of(9))
    call = forward(net)

    def f(xs):
        ys, _ = call(xs)
        return mg.pullback(mg.mean(ys**2), [*net.parameters(), xs])

    xs = leaf(rng_of(10).normal(size=(5, B, D)))
    before = mg.fold(f, xs)
    found = simplified(f, xs)
    assert len(list(found.walk())) < len(list(before.walk()))
    assert [loop.trips for loop in found.loops()] == [loop.trips for loop in before.loops()]


def test_a_training_step(backend):
    cell, out = random_cell("gru", D, H, rng_of(11)), mg.nn.Linear(H, 4, dtype="float64")
    optimizer = mg.optim.Adam([*cell.parameters(), *out.parameters()])

    def step(xs, targets):
        optimizer.zero_grad()
        loss = mg.functional.cross_entropy(out(rnn.unroll(cell, xs)[0]), targets)
        loss.backward()
        optimizer.step()
        return loss

    targets = mg.Tensor(rng_of(12).integers(4, size=(6, B)))
    xs = mg.Tensor(rng_of(13).normal(size=(6, B, D)))
    simplified(step, xs, targets)
    simplified(step, xs, targets, fold=False)


@settings(max_examples=15)
@given(program=programs(analytic=False), data=inputs, gradient=st.booleans())
def test_random_programs_of_all_ops(program, data, gradient):
    def value(xs):
        return run(program, list(xs), ours=True)

    f = mg.value_and_grad(value) if gradient else value
    with np.errstate(all="ignore"):
        simplified(f, leaves_of(drawn(*data)), fold=False)


def test_random_loops():
    rng = rng_of(14)
    xs = mg.Tensor(rng.normal(size=(8, 3)))
    for _ in range(20):
        simplified(random_program(rng), xs)


def test_the_work_is_linear_in_the_length():
    def f(x):
        for i in range(count):
            x = mg.tanh(mg.negative(-x) * 1) + i
        return x

    calls = []
    for count in (50, 200):
        graph = capture(f, mg.ones(2)).graph
        calls.append(work(lambda: simplify(graph)))  # noqa: B023
        assert len(simplify(graph).steps) == 2 * count - 1
    assert calls[1] < 4.5 * calls[0]

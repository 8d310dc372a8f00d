"""capture and evaluate: the graph of a function computes what the function does, bit for bit."""

import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

import minigrad as mg
from minigrad import tree
from minigrad.graph import (
    CaptureError,
    Carry,
    Collected,
    Graph,
    GraphError,
    Indexed,
    Instruction,
    Loop,
    Value,
    capture,
    evaluate,
    ordered,
    text,
    verify,
)
from minigrad.graph.tracing import trace
from minigrad.spec import Spec
from tests.graph_programs import work
from tests.recurrent import KINDS, leaf, random_cell

pytestmark = pytest.mark.long  # what is captured is the same above any backend
lecture = pytest.mark.lecture
F8 = np.dtype("float64")


def program(cell, optimizer):
    """A training step as a user writes it."""

    def step(xs, target):
        state = cell.initial_state(xs.shape[1])
        ys = []
        for x in xs:
            y, state = cell(x, state)
            ys.append(y)
        loss = ((mg.stack(ys) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def training(kind, T, B=2, D=3, H=4, seed=0):
    """A step, its arguments, the parameters and all that the optimizer keeps."""
    rng = np.random.default_rng(seed)
    cell = random_cell(kind, D, H, rng)
    optimizer = mg.optim.Adam(cell.parameters(), lr=1e-2)
    data = mg.Tensor(rng.normal(size=(T, B, D))), mg.Tensor(rng.normal(size=(T, B, H)))
    return program(cell, optimizer), data, cell.parameters(), optimizer


def bits(tensors):
    return [(x.shape, str(x.dtype), x.numpy().tobytes()) for x in tensors]


@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_training_step_is_the_eager_one_bit_for_bit(backend, kind):
    """Loss, parameters, moments, step count and .grad over three steps, at a rate that changes."""
    found = []
    for captured in (False, True):
        step, data, parameters, optimizer = training(kind, T=4)
        if captured:
            before = bits([*parameters, *optimizer.state_dict().values()])
            step = capture(step, *data)
            verify(step.graph)
            assert before == bits([*parameters, *optimizer.state_dict().values()])
            assert all(p.grad is None for p in parameters)
        losses = []
        for i in range(3):
            optimizer.lr = 0.1 / (i + 1)
            losses.append(step(*data).detach())
        grads = [p.grad for p in parameters]
        found.append(bits([*losses, *parameters, *optimizer.state_dict().values(), *grads]))
    assert found[0] == found[1]


def test_arguments_are_nests_and_arrays_come_anew_at_each_call(backend):
    def f(pair, *, scale=2.0):
        return {"sum": pair["a"] + pair["b"][0], "other": (pair["a"] * scale, "said")}

    a, b = np.arange(3.0), np.ones(3)
    captured = capture(f, {"a": mg.Tensor(a), "b": [mg.Tensor(b)]})
    y = captured({"a": mg.Tensor(2 * a), "b": [mg.Tensor(3 * b)]})
    assert y["other"][1] == "said"
    np.testing.assert_array_equal(y["sum"].numpy(), 2 * a + 3 * b)
    np.testing.assert_array_equal(y["other"][0].numpy(), 4 * a)


def test_a_numpy_batch_is_an_input(backend):
    if backend not in ("numpy", "numba"):
        captured = capture(lambda x: x * 2, np.ones(3))
        np.testing.assert_array_equal(captured(np.arange(3.0)).numpy(), [0, 2, 4])
        return
    captured = capture(lambda x, n: x * n, np.ones(3), 2)
    np.testing.assert_array_equal(captured(np.arange(3.0), 2).numpy(), [0, 2, 4])
    for wrong in ((np.ones(4), 2), (np.ones(3, "float32"), 2), (np.ones(3), 3), (np.ones(3), True)):
        with pytest.raises(CaptureError, match="captured for argument"):
            captured(*wrong)
    with pytest.raises(CaptureError, match="2 arguments, not 1"):
        captured(np.ones(3))


def test_what_existed_is_read_at_each_call_and_what_is_made_is_a_constant(backend):
    w, frozen = mg.Tensor([1.0, 2.0]), mg.Tensor([5.0, 5.0])

    def f(x):
        return x * w + mg.ones(2) + w.detach() * frozen

    captured = capture(f, mg.Tensor([1.0, 1.0]))
    assert len(captured.graph.inputs) == 3
    w.assign([10.0, 20.0])
    frozen.assign([0.0, 1.0])
    np.testing.assert_array_equal(captured(mg.Tensor([1.0, 2.0])).numpy(), [11.0, 61.0])


def test_assignments_are_seen_inside_at_once_and_outside_at_the_end(backend):
    count = mg.Tensor(0.0)

    def f(x):
        count.assign(count + 1)
        first = count * 1
        count.assign(count + x)
        return first, count.detach()

    captured = capture(f, mg.Tensor(5.0))
    assert float(count) == 0
    assert [float(y) for y in captured(mg.Tensor(5.0))] == [1, 6]
    assert float(count) == 6
    assert [float(y) for y in captured(mg.Tensor(1.0))] == [7, 8]


def test_an_error_within_leaves_everything_as_it_was(backend):
    w = leaf([1.0, 2.0])
    kept = w.numpy().copy()

    def f(x):
        (w * x).sum().backward()
        w.assign(w * 2)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        capture(f, mg.Tensor([1.0, 2.0], dtype="float64"))
    assert w.grad is None
    np.testing.assert_array_equal(w.numpy(), kept)
    assert (w * 2).numpy().tolist() == [2.0, 4.0]


def test_gradients_add_up_to_what_was_there_and_zero_grad_clears(backend):
    w = leaf([1.0, 2.0])
    x = mg.Tensor([3.0, 4.0], dtype="float64")
    (w * x).sum().backward()
    more = capture(lambda x: (w * x).sum().backward(), x)
    assert more(x) is None
    np.testing.assert_array_equal(w.grad.numpy(), [6.0, 8.0])
    more(x)
    np.testing.assert_array_equal(w.grad.numpy(), [9.0, 12.0])

    def clear(x):
        w.grad = None
        return x * 1

    captured = capture(clear, x)
    assert w.grad is not None
    captured(x)
    assert w.grad is None
    with pytest.raises(CaptureError, match=r"with a \.grad that was not None, .* otherwise now"):
        more(x)


def test_two_leaves_do_not_share_a_gradient(backend):
    """An addition sends one cotangent to both; assigning one .grad must not change the other."""
    a, b = leaf([1.0]), leaf([2.0])
    (a + b).sum().backward()
    assert a.grad is not b.grad
    with mg.detect_anomaly():
        (a + b).sum().backward()
    assert a.grad is not b.grad
    a.grad.assign([9.0])
    assert b.grad.numpy().tolist() == [2.0]


def test_the_gradient_of_an_argument_goes_to_the_argument_of_the_call(backend):
    captured = capture(lambda x: (x * x).sum().backward(), leaf([1.0, 2.0]))
    other = leaf([3.0, 5.0])
    captured(other)
    np.testing.assert_array_equal(other.grad.numpy(), [6.0, 10.0])


def test_an_argument_that_is_assigned_is_the_one_of_the_call(backend):
    def descend(x, rate):
        x.grad = None
        (x * x).sum().backward()
        x.assign(x - rate * x.grad)
        return x * 1

    x, rate = leaf([1.0, 2.0]), mg.Tensor(0.25, dtype="float64")
    captured = capture(descend, x, rate)
    assert x.numpy().tolist() == [1.0, 2.0]
    other = leaf([4.0, 8.0])
    for expected in ([2.0, 4.0], [1.0, 2.0]):
        assert captured(other, rate).numpy().tolist() == expected
        assert other.numpy().tolist() == expected
    assert x.numpy().tolist() == [1.0, 2.0]
    count = mg.Tensor(1.0)
    capture(lambda n: n.assign(n + 1), count)(count)
    assert float(count) == 2


def test_an_argument_that_is_assigned_must_be_a_leaf_tensor(backend):
    def f(x, y):
        y.assign(y * 2)
        kept.assign(kept + x)

    kept, x = mg.Tensor(0.0), mg.Tensor(1.0)
    captured = capture(f, x, mg.Tensor(3.0, dtype="float64"))
    for wrong in (np.array(3.0), leaf(3.0) * 1):
        with pytest.raises(CaptureError, match="argument 1 is assigned: pass a tensor, and a leaf"):
            captured(x, wrong)
    assert float(kept) == 0  # all or nothing
    with pytest.raises(CaptureError, match="argument 1 is assigned"):
        capture(f, x, np.array(3.0))


def test_one_tensor_at_two_positions(backend):
    """Its gradient would be that of one position alone; where nothing is lost it is allowed."""

    def both(x, y):
        (x * y).sum().backward()

    a, b = leaf([1.0]), leaf([2.0])
    with pytest.raises(CaptureError, match="one tensor is argument 0 and 1; pass it once"):
        capture(both, a, a)
    captured = capture(both, a, b)
    with pytest.raises(CaptureError, match="one tensor is argument 0 and 1"):
        captured(b, b)
    captured(a, b)
    assert (a.grad.tolist(), b.grad.tolist()) == ([2.0], [1.0])
    data = mg.Tensor([3.0])
    with pytest.raises(CaptureError, match="one tensor"):
        capture(lambda x, y: y.assign(x + y), data, data)
    assert capture(lambda x, y: x * y, data, data)(data, data).tolist() == [9.0]


def test_arguments_are_nested_as_they_were(backend):
    one, two = mg.Tensor(1.0), mg.Tensor(2.0)
    named = capture(lambda pair: sum(pair.values()), {"a": one, "b": two})
    for wrong in ({"c": one, "d": two}, {"b": one, "a": two}):  # the order is part of a dict
        expected = rf"arguments \(\{{'a': \.\.\., 'b': .*, not \(\{{'{next(iter(wrong))}'"
        with pytest.raises(CaptureError, match=expected):
            named(wrong)
    assert float(named({"a": one, "b": two})) == 3
    parts = capture(lambda x, y: len(x), (one, one), (two,))
    for wrong in [((one,), (one, two)), ([one, one], (two,))]:
        with pytest.raises(CaptureError, match="captured for arguments"):
            parts(*wrong)


def test_random_numbers_are_the_generators_and_move_it_on(backend):
    captured = capture(lambda: mg.random.uniform(None, (3,)))
    mg.random.seed(7)
    expected = [mg.random.uniform(None, (3,)).numpy().copy() for _ in range(2)]
    mg.random.seed(7)
    for numbers in expected:
        np.testing.assert_array_equal(captured().numpy(), numbers)
    key = capture(lambda: mg.random.normal(mg.random.key(3).fold(5), (4,), dtype="float64"))
    expected = mg.random.normal(mg.random.key(3).fold(5), (4,), dtype="float64")
    assert bits([key()]) == bits([expected])


@pytest.mark.parametrize(
    "f",
    [
        lambda w, x: mg.grad(lambda w: mg.tanh(w * x).sum())(w),
        lambda w, x: mg.jvp(lambda w: mg.tanh(w * x), (w,), (x,)),
        lambda w, x: mg.hvp(lambda w: (mg.tanh(w * x) ** 2).sum(), (w,), (x,)),
        lambda w, x: mg.hessian(lambda w: (mg.tanh(w * x) ** 2).sum())(w),
        lambda w, x: mg.grad(lambda w: mg.checkpoint(lambda v: mg.tanh(v * x))(w).sum())(w),
        lambda w, x: mg.grad(lambda w: (w[[0, 1, 1]] * w[1]).sum())(w),
        lambda w, x: mg.grad(lambda w: (w @ mg.outer(x, w)).sum())(w),
    ],
    ids=["grad", "jvp", "hvp", "hessian", "checkpoint", "index", "matmul"],
)
def test_transforms_are_captured(backend, f):
    rng = np.random.default_rng(1)
    w, x = mg.Tensor(rng.normal(size=3)), mg.Tensor(rng.normal(size=3))
    captured = capture(f, w, x)
    verify(captured.graph)
    other = mg.Tensor(rng.normal(size=3))
    for ours, eager in zip(
        tree.flatten(captured(w, other))[0], tree.flatten(f(w, other))[0], strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), eager.numpy(), rtol=1e-14, atol=1e-15)


def test_mixed_dtypes_are_cast_by_instructions(backend):
    i, f, d = mg.Tensor([1, 2]), mg.Tensor([0.5, 0.5]), mg.Tensor([2.0, 3.0], dtype="float64")
    captured = capture(lambda i, f, d: (i / 2, i * f, f * d, i**2, 2.0 * f), i, f, d)
    verify(captured.graph)
    eager = (i / 2, i * f, f * d, i**2, 2.0 * f)
    assert bits(captured(i, f, d)) == bits(eager)
    assert any(step.op.name == "astype" for step in captured.graph.steps)


# --- what a captured function may not do ---------------------------------------------------------


def branches(x):
    if x.sum() > 0:  # the line to name
        return x
    return -x


@pytest.mark.parametrize(
    "f", [branches, lambda x: float(x[0]), lambda x: x.numpy(), lambda x: x.tolist()]
)
def test_reading_a_value_names_the_line_and_says_what_to_write(backend, f):
    line = f.__code__.co_firstlineno + (f is branches)
    with pytest.raises(CaptureError, match=r"minigrad\.where") as caught:
        capture(f, mg.Tensor([1.0, 2.0]))
    assert re.search(rf"test_graph_capture.py:{line}\b", str(caught.value))
    assert f is not branches or "x.sum() > 0:  # the line to name" in str(caught.value)


def test_reading_what_existed_before_is_refused_too_but_constants_may_be_read(backend):
    w = mg.Tensor([1.0])
    with pytest.raises(CaptureError, match="not there yet"):
        capture(lambda x: x * float(w), mg.Tensor([1.0]))
    captured = capture(lambda x: x * float(mg.full((), 3.0)), mg.Tensor([1.0]))
    assert float(captured(mg.Tensor([2.0]))) == 6.0


def test_what_is_left_of_a_capture_says_so(backend):
    left = []

    def f(x):
        left.append(x * 2)
        return x

    capture(f, mg.Tensor([1.0]))
    for use in (
        lambda t: t + 1,
        lambda t: mg.tanh(t),
        lambda t: t.numpy(),
        lambda t: mg.stack([t]),
    ):
        with pytest.raises(CaptureError, match="a capture that has ended; return it or assign it"):
            use(left[0])
    with pytest.raises(CaptureError, match="has ended"):
        capture(lambda x: x + left[0], mg.Tensor([1.0]))


def test_refusals(backend):
    w = leaf([1.0])
    with pytest.raises(CaptureError, match="already"):
        capture(lambda x: capture(lambda y: y, x), w)
    before = w * 2
    with pytest.raises(CaptureError, match="result of multiply"):
        capture(lambda x: x * before, w)
    with pytest.raises(mg.ShapeError, match="matmul"):
        capture(lambda x: x @ mg.ones((2, 3), dtype="float64"), mg.ones((2, 4), dtype="float64"))
    with pytest.raises(mg.ShapeError, match="1 inputs, not 2"):
        evaluate(capture(lambda x: x, w).graph, [w, w])
    with pytest.raises(mg.ShapeError, match="made for"):
        evaluate(capture(lambda x: x, w).graph, [mg.ones(3)])


def test_tensors_that_the_garbage_collector_hides():
    """Frozen before minigrad is there: none is hidden. Afterwards: some may be, or are told of.

    What was hidden before and has died since must not make up for what was hidden after.
    """
    program = """
import gc, numpy
old = [[] for _ in range(10_000)]
gc.freeze()
import minigrad as mg
del old
compiled = lambda: mg.compile(lambda x: x * w)(mg.ones(2)).tolist()
def refused():
    try:
        print(compiled())
    except mg.graph.CaptureError as error:
        print(error)
w = mg.nn.Parameter(numpy.array([2.0, 3.0]))
print(compiled())
gc.freeze()
refused()
gc.unfreeze()
mg.graph.freeze()
v = mg.nn.Parameter(numpy.array([4.0, 5.0]))
print(compiled(), mg.compile(lambda x: x * w * v)(mg.ones(2)).tolist())
mg.graph.freeze()
f = mg.compile(lambda x: x * w * v)
print(f(mg.ones(2)).tolist())
w.assign(mg.ones(2))
v.assign(mg.ones(2))
print(f(mg.ones(2)).tolist())
gc.freeze()
refused()
gc.unfreeze()
print(compiled())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    refusal = "gc.freeze() hides the tensors there are; call gc.unfreeze(), and mg.graph.freeze() "
    expected = ["[2.0, 3.0]", refusal + "instead", "[2.0, 3.0] [8.0, 15.0]", "[8.0, 15.0]"]
    expected += ["[1.0, 1.0]", refusal + "instead", "[1.0, 1.0]"]
    assert done.stdout.splitlines() == expected, done.stderr


def test_a_captured_function_can_be_called_in_another(backend):
    w = leaf([2.0, 3.0])
    inner = capture(lambda x: (x * w).sum(), mg.ones(2, dtype="float64"))
    outer = capture(lambda x: inner(x) + 1, mg.ones(2, dtype="float64"))
    assert float(outer(mg.Tensor([1.0, 10.0], dtype="float64"))) == 33.0


# --- what belongs to a capture, and what happens once --------------------------------------------


def test_eval_after_train_asks_for_another_capture(backend):
    """Of the modules that were asked; others may be switched as they like."""
    model, other = mg.nn.Dropout(0.5), mg.nn.Dropout(0.5)
    x = mg.ones(8)
    captured = capture(lambda x: model(x) * 2, x)
    assert set(captured(x).numpy()) <= {0.0, 4.0}
    other.eval()
    captured(x)
    model.eval()
    with pytest.raises(CaptureError, match="captured with Dropout in training"):
        captured(x)
    evaluated = capture(lambda x: model(x) * 2, x)
    np.testing.assert_array_equal(evaluated(x).numpy(), np.full(8, 2.0))
    model.train()
    with pytest.raises(CaptureError, match="captured with Dropout not in training"):
        evaluated(x)
    captured(x)
    assert vars(mg.nn.Module)["training"] is True


def test_a_capture_within_no_grad_is_another_one(backend):
    captured = capture(lambda x: x * 2, mg.ones(2))
    with mg.no_grad():
        with pytest.raises(CaptureError, match="captured outside no_grad"):
            captured(mg.ones(2))
        within = capture(lambda x: x * 2, mg.ones(2))
        within(mg.ones(2))
    with pytest.raises(CaptureError, match="captured within no_grad"):
        within(mg.ones(2))


def test_the_debug_switches_see_a_captured_call(backend):
    """They stand at the choke points, so they need not be the same at the capture."""
    captured = capture(lambda x: mg.log(x) * 1, mg.ones(2))
    x = mg.Tensor([-1.0, 1.0])
    caught = pytest.raises(FloatingPointError, match="log")
    with np.errstate(invalid="ignore"), mg.detect_anomaly(), caught:
        captured(x)


def test_copies_are_no_constants(backend):
    """Tensor(t), of a tensor from before or of one made within, goes by the values of each call."""
    w = mg.Tensor([1.0, 2.0])
    captured = capture(lambda x: mg.Tensor(x * w, requires_grad=True) + mg.Tensor(w), mg.ones(2))
    w.assign([10.0, 20.0])
    np.testing.assert_array_equal(captured(mg.Tensor([1.0, 2.0])).numpy(), [20.0, 60.0])


def test_what_happens_once_is_reported(backend):
    kept, model, w = [], mg.nn.Dropout(0.5), leaf([1.0, 2.0])
    x = mg.ones(2, dtype="float64")

    def leaves_one(x):
        kept.append(x * 2)
        return x

    [note] = capture(leaves_one, x).graph.notes
    assert "a tensor of shape (2,) was left in a list" in note
    assert note in str(capture(leaves_one, x).graph)
    [note] = capture(lambda x: model.eval()(x), x).graph.notes
    assert "Dropout was switched" in note
    calls = []
    remove = w.register_hook(lambda g: (calls.append(1), 3 * g)[1])
    captured = capture(lambda x: (w * x).sum().backward(), x)
    [note] = captured.graph.notes
    assert "a hook of a leaf ran" in note
    captured(x)
    with pytest.raises(CaptureError, match=r"with a \.grad that was None"):
        captured(x)
    w.grad = None
    captured(x)
    assert calls == [1]
    np.testing.assert_array_equal(w.grad.numpy(), [3.0, 3.0])
    remove()

    def hooks(x):
        y = mg.tanh(w * x)
        y.register_hook(lambda g: 2 * g)
        y.sum().backward()

    [note] = capture(hooks, x).graph.notes
    assert "a hook of the result of tanh" in note
    assert not capture(lambda x: (w * x).sum().backward(), x).graph.notes


# --- order, verifier and text, on graphs made by hand --------------------------------------------


def value(name, shape=(2,)):
    return Value(Spec(shape, F8), name)


def add(a, b, out):
    return Instruction(mg.add.op, (a, b), {}, (out,))


def tanh(x, out):
    return Instruction(mg.tanh.op, (x,), {}, (out,))


def feedback(delay):
    """h = tanh(a), a = h(t - delay) + x, three times."""
    x, h0, a, h, past = (value(n) for n in ("x", "h0", "a", "h", "past"))
    last = value("last")
    loop = Loop(
        3, (add(past, x, a), tanh(a, h)), (Carry(past, h, (h0,) * delay),), (),
        (Collected(h, {2: last}),),
    )  # fmt: skip
    return Graph((x, h0), (loop,), (last,))


def test_the_work_of_a_capture_with_a_tape_is_linear_in_the_number_of_results():
    calls = []
    for n in (50, 200):

        def f(x, n=n):
            ys = [x]
            for _ in range(n):
                ys.append(mg.tanh(ys[-1]))
            return ys

        leaves = [mg.Tensor([0.5], requires_grad=True)]

        def traced(f=f, leaves=leaves):
            return trace(f, leaves, lambda given: (given, {}), "", graphs=True)

        _, tape = traced()
        assert tape.differentiable == tuple(range(n + 1)) and tape.wrt == (0,)
        calls.append(work(traced))
    assert calls[1] < 4.5 * calls[0]


def test_no_gradient_flows_from_results_whose_graph_backward_has_freed():
    def f(x, y):
        a, b = mg.tanh(x), mg.tanh(y)
        c = mg.exp(a)
        a.sum().backward()
        return a, b, c * b

    leaves = [mg.Tensor([0.5], requires_grad=True) for _ in range(2)]
    _, tape = trace(f, leaves, lambda given: (given, {}), "", graphs=True)
    assert tape.differentiable == (1,) and tape.wrt == (1,)


@lecture("A4", "delay-free cycle", backend="any")
def test_a_cycle_without_a_delay_raises_and_is_named():
    x, a, b = value("x"), value("a"), value("b")
    for build in (ordered, lambda steps: verify(Graph((x,), tuple(steps), (b,)))):
        with pytest.raises(GraphError, match="delay-free cycle: tanh 'b' -> add 'a' -> tanh 'b'"):
            build([add(x, b, a), tanh(a, b)])
    with pytest.raises(GraphError, match="delay-free cycle: add 'a' -> tanh 'h' -> add 'a'"):
        verify(feedback(0))
    with pytest.raises(GraphError, match="delay-free cycle: add 'a' -> add 'a'"):
        ordered([add(x, a, a)])


@lecture("A4", "delay-free cycle")
@pytest.mark.parametrize("delay", [1, 2, 3])
def test_with_a_delay_the_same_feedback_is_a_recurrent_operation(backend, delay):
    """The loop by hand: h(t) = tanh(h(t - delay) + x), its delay edges cut, has an order."""
    graph = verify(feedback(delay))
    [loop] = graph.loops()
    assert ordered(loop.body) == loop.body == ordered(reversed(loop.body))
    assert [c.delay for c in graph.delay_edges()] == [delay]
    x, h0 = np.array([0.3, -1.0]), np.array([0.5, 2.0])
    h = [h0] * delay
    for _ in range(3):
        h.append(np.tanh(h[-delay] + x))
    [y] = evaluate(graph, [mg.Tensor(x), mg.Tensor(h0)])
    np.testing.assert_allclose(y.numpy(), h[-1], rtol=1e-14)


@lecture("A4", "delay-free cycle", backend="any")
def test_a_hundred_thousand_steps_are_sorted_and_named_without_recursion():
    values = [value(None) for _ in range(100_001)]
    steps = [tanh(a, b) for a, b in pairwise(values)]
    assert ordered(steps[::-1]) == tuple(steps)
    with pytest.raises(GraphError, match="delay-free cycle"):
        ordered([*steps, add(values[-1], 1.0, values[0])])


def broken(change):
    graph = feedback(1)
    [loop] = graph.steps
    change(graph, loop)
    return graph


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g, loop: setattr(g, "outputs", (value("nowhere"),)), "nowhere"),
        (lambda g, loop: setattr(g, "inputs", g.inputs[:1]), "'?h0|before it is made"),
        (lambda g, loop: setattr(g, "inputs", g.inputs * 2), "made twice"),
        (lambda g, loop: setattr(loop, "trips", 0), "0 iterations"),
        (
            lambda g, loop: setattr(loop, "indexed", (Indexed(value("i"), (1.0,)),)),
            "1 items for a loop of 3",
        ),
        (
            lambda g, loop: setattr(loop.carries[0], "initial", (value("h", (3,)),)),
            "before it is made",
        ),
        (lambda g, loop: loop.collected[0].outputs.update({3: value("y")}), "beyond 3"),
        (
            lambda g, loop: loop.collected[0].outputs.update({1: value("y", (4,))}),
            "of another kind",
        ),
        (
            lambda g, loop: setattr(loop.body[1], "op", mg.isfinite.op),
            "not as its shape rule says",
        ),
        (
            lambda g, loop: setattr(loop.body[1], "operands", (value("y", (5,)),)),
            "before it is made",
        ),
    ],
)  # fmt: skip
def test_the_verifier_says_what_is_wrong(change, message):
    with pytest.raises(GraphError, match=message):
        verify(broken(change))


def test_the_text_of_a_loop():
    assert text(feedback(1)).splitlines() == [
        "graph(",
        "    %0: x (2,) float64,",
        "    %1: h0 (2,) float64,",
        "):",
        "  for t in 3:",
        "    %2 = delay 1 of %4, first %1  (2,) float64",
        "    %3 = add(%2, %0)  (2,) float64",
        "    %4 = tanh(%3)  (2,) float64",
        "    %4 -> %5[2]",
        "  return %5[2]",
    ]


def test_the_text_of_a_captured_function():
    captured = capture(lambda xs: mg.stack(mg.unstack(xs)[::-1]) + mg.ones(2), mg.ones((3, 2)))
    assert str(captured.graph).splitlines() == [
        "graph(",
        "    %0: x0 (3, 2) float32,",
        "):",
        "  %1 = unstack(%0, axis=0)  3 x (2,) float32",
        "  %2 = stack(%1[2:-1:-1], axis=0)  (3, 2) float32",
        "  %3 = add(%2, const(1.0, (2,) float32))  (3, 2) float32",
        "  return %3",
    ]

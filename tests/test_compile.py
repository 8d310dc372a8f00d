"""mg.compile: what a compiled function reads, writes and refuses; when it is captured anew."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import types
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

import minigrad as mg
from minigrad.graph import CaptureError, Graph
from tests.recurrent import close, leaf, same_bits

pytestmark = pytest.mark.long  # what is captured is the same above any backend


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    monkeypatch.delenv("MINIGRAD_COMPILE", raising=False)


def vector(*values):
    return mg.Tensor(np.array(values))


def square(x):
    return (x * x).sum()


# --- signatures ----------------------------------------------------------------------------------


def test_it_is_captured_once_for_each_kind_of_arguments(backend):
    runs = []

    @mg.compile
    def f(x, n, flag=True):
        runs.append(n)
        return {"y": x["a"] * n, "z": (x["b"][0] if flag else x["a"], "said")}

    def call(size, n, **named):
        a, b = mg.ones(size), mg.full(size, 3.0)
        return f({"b": [b], "a": a}, n, **named)

    for _ in range(3):
        found = call(2, 2)
        assert found["y"].tolist() == [2.0, 2.0]
        assert found["z"][0].tolist() == [3.0, 3.0]
        assert found["z"][1] == "said"
    assert len(runs) == f.captures == 1
    call(3, 2), call(2, 2.0), call(2, True), call(2, 2, flag=False), call(2, 2, flag=True)
    assert len(runs) == f.captures == 6
    call(3, 2), call(2, 2.0), call(2, True), call(2, 2, flag=False), call(2, 2)
    assert f.captures == 6
    with mg.no_grad():
        call(2, 2)
    assert f.captures == 7


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.0, -0.0),
        (1, True),
        (1, 1.0),
        (np.float32(1), np.float64(1)),
        (np.array(2.0), np.array(3.0)),
        ("a", "b"),
        (None, 0),
        (slice(0, 1), slice(0, 2)),
        ((), []),
        (np.ones(2), np.ones(3)),
        (np.ones(2), np.ones(2, "float32")),
        (mg.tanh, mg.sin),
    ],
)
def test_other_values_are_other_signatures(one, other):
    f = mg.compile(lambda x, y: x * 1)
    x = mg.ones(2)
    f(x, one), f(x, other), f(x, one)
    assert f.captures == 2


def test_a_value_that_is_not_there_a_second_time(backend):
    f = mg.compile(lambda x, y: x * y)
    for _ in range(2):
        assert np.isnan(f(mg.ones(2), float("nan")).numpy()).all()
    assert f.captures == 1
    with pytest.raises(CaptureError, match="an argument is a set, which may change"):
        f(mg.ones(2), {1, 2})


def test_numpy_scalars_and_0d_arrays_are_weak_as_ever(backend):
    f = mg.compile(lambda x, y: x * y)
    x = mg.ones(2, dtype="float32")
    for y in (np.float64(2), np.array(2.0), 2.0):
        assert f(x, y).dtype == (x * y).dtype == np.dtype("float32")
        assert f(x, y).tolist() == [2.0, 2.0]


def test_a_numpy_batch_comes_anew_at_each_call(backend):
    f = mg.compile(lambda x: x * 2 if isinstance(x, mg.Tensor) else mg.Tensor(x) * 2)
    for n in range(3):
        assert f(np.full(3, float(n))).tolist() == [2.0 * n] * 3
    assert f.captures == 1


def test_numpy_arrays_are_arguments_of_their_own(backend):
    """Also one array at two positions; of other dtypes, one after another."""
    f = mg.compile(lambda a, b, c: (a * 2, b * 3, c * 4))
    for n in range(4):
        a, b = np.arange(3) + n, np.linspace(0, 1, 5) + n
        found = f(a, b, a)
        for y, expected in zip(found, (2 * a, 3 * b, 4 * a), strict=True):
            assert y.dtype == expected.dtype
            np.testing.assert_array_equal(y.numpy(), expected)
    assert f.captures == 1


def test_keys_of_random_numbers_are_inputs_and_results(backend):
    @mg.compile
    def f(key, x):
        return x * mg.random.uniform(key, x.shape), key.fold(1)

    key = eager = mg.random.key(5)
    x = mg.ones(3)
    for _ in range(3):
        y, key = f(key, x)
        expected = x * mg.random.uniform(eager, x.shape)
        eager = eager.fold(1)
        same_bits(y, expected)
    assert f.captures == 1


def test_only_so_many_captures_are_kept_and_the_last_used_stay(backend, monkeypatch):
    monkeypatch.setattr("minigrad.graph.compiled.MOST", 3)
    f = mg.compile(lambda x, n: x * n)
    x = mg.ones(2)
    for n in (0, 1, 2, 0):
        assert f(x, n).tolist() == [n, n]
    with pytest.warns(RuntimeWarning, match=r"captured 4 times, last for .* \(2,\), 3") as told:
        f(x, 3)
    assert [warning.filename for warning in told] == [__file__]
    for n in (0, 4):  # told once
        assert f(x, n).tolist() == [n, n]
    assert f.captures == 5
    assert "3 kept, 2 dropped" in f.report()
    assert "(..., ...) of float32 (2,), 4: 1 steps" in f.report()
    f(x, 0)
    assert f.captures == 5
    f(x, 1)
    assert f.captures == 6


def test_one_tensor_at_two_positions(backend):
    """Eagerly both are one object: so in a capture, which two others do not share."""

    @mg.compile
    def f(a, b):
        a.grad = b.grad = None
        a.assign(a * 2)
        (a * b).sum().backward()
        return a + b

    a, b = leaf([1.0]), leaf([3.0])
    assert f(a, a).tolist() == [4.0]
    assert (a.tolist(), a.grad.tolist()) == ([2.0], [4.0])
    assert f(a, b).tolist() == [7.0]
    assert (a.grad.tolist(), b.grad.tolist()) == ([3.0], [4.0])
    assert f(b, b).tolist() == [12.0]
    assert f.captures == 2


# --- what existed before -------------------------------------------------------------------------


class Scale(mg.nn.Module):
    factor = 1.0

    def __init__(self, size=2):
        self.W = mg.nn.Parameter(np.ones(size), dtype="float64")
        self.layers = [mg.nn.Linear(size, size, dtype="float64")]
        self.power = 1

    def __call__(self, x):
        return self.layers[0](x * self.W) * self.factor**self.power


def test_a_replaced_parameter_layer_or_number_is_seen(backend):
    model = Scale()
    f = mg.compile(lambda x: model(x))
    x = vector(1.0, 2.0)

    def changes():
        yield lambda: None
        yield lambda: model.W.assign([3.0, 4.0])
        yield lambda: setattr(model, "W", mg.nn.Parameter([5.0, 6.0], dtype="float64"))
        yield lambda: model.layers[0].W.assign(np.eye(2))
        yield lambda: model.layers.__setitem__(0, mg.nn.Linear(2, 2, dtype="float64"))
        yield lambda: setattr(model, "power", 2)
        yield lambda: setattr(model, "factor", 3.0)
        yield lambda: setattr(model, "factor", 1.0 + 2.0)

    counts = []
    for change in changes():
        change()
        same_bits(f(x), model(x))
        counts.append(f.captures)
    assert counts == [1, 1, 2, 2, 3, 4, 5, 5]
    assert "with another W of Scale" in f.report()


def test_training_a_replaced_parameter_trains_the_new_one(backend):
    model = Scale()

    @mg.compile
    def step(x):
        for p in model.parameters():
            p.grad = None
        square(model(x)).backward()

    x = vector(1.0, 2.0)
    step(x)
    old, new = model.W, mg.nn.Parameter([5.0, 6.0], dtype="float64")
    old.grad, model.W = None, new
    step(x)
    assert old.grad is None
    found = new.grad.numpy()
    new.grad = None
    square(model(x)).backward()
    np.testing.assert_allclose(found, new.grad.numpy(), rtol=1e-12)


def test_hyperparameters_of_an_optimizer_that_change(backend):
    w = leaf([1.0, 2.0])
    optimizer = mg.optim.SGD([w], lr=0.5)

    @mg.compile
    def step():
        optimizer.zero_grad()
        square(w).backward()
        optimizer.step()

    step()
    assert w.tolist() == [0.0, 0.0]
    w.assign([1.0, 2.0])
    optimizer.lr = 0.25
    step()
    assert w.tolist() == [0.5, 1.0]
    assert step.captures == 1
    optimizer.weight_decay = 2.0
    step()
    assert w.tolist() == [0.0, 0.0]
    assert step.captures == 2


def test_variables_around_a_function_that_are_bound_anew(backend):
    w, factor = vector(1.0), 2.0

    def scaled(x):
        return x * factor

    @mg.compile
    def f(x):
        return scaled(x) + w

    x = vector(1.0)
    assert f(x).tolist() == [3.0]
    w = vector(10.0)
    assert f(x).tolist() == [12.0]
    factor = 3.0
    assert f(x).tolist() == [13.0]
    assert f.captures == 3
    assert f(x).tolist() == [13.0]
    assert f.captures == 3
    assert "captured again: was with another factor" in f.report()


GLOBAL = 2.0


def with_global(x):
    return x * GLOBAL


def test_globals_that_are_bound_anew(backend, monkeypatch):
    f = mg.compile(lambda x: with_global(x))
    assert f(vector(1.0)).tolist() == [2.0]
    monkeypatch.setattr(sys.modules[__name__], "GLOBAL", 3.0)
    assert f(vector(1.0)).tolist() == [3.0]


class Plain:
    """A class of the user's own, not a module."""

    def __init__(self):
        self.w = leaf([1.0])
        self.inner = [self]

    def __call__(self, x):
        return self.inner[0].w * x


class Settings:
    """What is found through lists, through its class, through a module."""

    scale = 2.0

    def __init__(self):
        self.rate = 2.0


settings = types.ModuleType("settings")
settings.scale = 2.0


def test_numbers_in_containers_classes_and_modules_that_are_bound_anew(backend, monkeypatch):
    several, one = [{"a": (Settings(),)}], Settings()

    @mg.compile
    def f(x):
        return x * several[0]["a"][0].rate, x * one.scale, x * settings.scale

    def found():
        return [y.tolist() for y in f(vector(1.0))]

    assert found() == [[2.0], [2.0], [2.0]]
    several[0]["a"][0].rate = 3.0
    assert found() == [[3.0], [2.0], [2.0]]
    monkeypatch.setattr(Settings, "scale", 5.0)
    assert found() == [[3.0], [5.0], [2.0]]
    monkeypatch.setattr(settings, "scale", 7.0)
    assert found() == [[3.0], [5.0], [7.0]]
    one.scale = 11.0
    assert found() == [[3.0], [11.0], [7.0]]
    assert f.captures == 5
    assert found() == [[3.0], [11.0], [7.0]]
    assert f.captures == 5
    for what in ("rate of Settings", "scale of Settings", "scale"):
        assert f"captured again: was with another {what}\n" in f.report()


def test_attributes_of_plain_objects_that_are_bound_anew(backend):
    cell = Plain()
    f = mg.compile(lambda x: cell(x))
    assert f(vector(2.0)).tolist() == [2.0]
    cell.w = leaf([5.0])
    assert f(vector(2.0)).tolist() == [10.0]
    assert f.captures == 2
    assert "__getattribute__" not in vars(Plain)
    assert "__getattribute__" not in vars(mg.nn.Module)


def test_a_model_that_moves_to_another_backend_is_captured_anew(backend):
    if backend != "numpy":
        return
    model = Scale()
    f = mg.compile(lambda x: model(x))
    x = vector(1.0, 2.0)
    before = f(x).numpy()
    model.to("numba")
    moved = f(x.to("numba"))
    assert moved.backend.name == "numba"
    np.testing.assert_allclose(moved.numpy(), before, rtol=1e-14)
    model.to("numpy")
    np.testing.assert_array_equal(f(x).numpy(), before)


def test_eval_after_train(backend):
    model = mg.nn.Dropout(0.5)
    f = mg.compile(lambda x: model(x) * 2)
    x = mg.ones(64)
    assert set(f(x).numpy()) == {0.0, 4.0}
    model.eval()
    assert set(f(x).numpy()) == {2.0}
    model.train()
    assert set(f(x).numpy()) == {0.0, 4.0}
    assert f.captures == 2


def test_the_default_dtype_belongs_to_the_signature(backend):
    f = mg.compile(lambda x: x * mg.full((2,), 0.1))
    x = mg.ones(2, dtype="float32")
    assert f(x).dtype == np.dtype("float32")
    mg.set_default_dtype("float64")
    try:
        assert f(x).dtype == np.dtype("float64")
    finally:
        mg.set_default_dtype("float32")


# --- what it writes ------------------------------------------------------------------------------


def test_gradients_add_up_over_calls(backend):
    w, x = leaf([1.0, 2.0]), vector(3.0, 4.0)
    f = mg.compile(lambda x: (w * x).sum().backward())
    for n in (1, 2, 3):
        f(x)
        np.testing.assert_array_equal(w.grad.numpy(), [3.0 * n, 4.0 * n])
    assert f.captures == 2  # onto None, and onto a gradient


def test_zero_grad_first_makes_one_capture_enough(backend):
    w, x = leaf([1.0, 2.0]), vector(3.0, 4.0)
    unused = leaf([1.0])
    optimizer = mg.optim.Adam([w, unused], lr=0.1)

    @mg.compile
    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    step(x)
    unused.grad = vector(1.0)
    step(x)
    assert unused.grad is None
    step(x)
    assert step.captures == 1
    np.testing.assert_array_equal(w.grad.numpy(), [3.0, 4.0])


def test_what_was_returned_or_assigned_is_never_written_to(backend):
    w = vector(1.0, 2.0)

    @mg.compile
    def f(x):
        w.assign(w + x)
        return w * 1, w

    kept = []
    for n in range(20):
        found = f(vector(1.0, float(n)))
        kept.append((found, [y.numpy().copy() for y in found], w.detach(), w.numpy().copy()))
    for found, values, assigned, value in kept:
        for y, expected in zip(found, values, strict=True):
            np.testing.assert_array_equal(y.numpy(), expected)
        np.testing.assert_array_equal(assigned.numpy(), value)


def test_state_that_a_module_keeps_and_state_passed_on(backend):
    class Counter(mg.nn.Module):
        def __init__(self):
            self.h = mg.zeros(2, dtype="float64")

        def __call__(self, x, c):
            self.h.assign(mg.tanh(self.h + x))
            return self.h * 2, c + self.h

    found = []
    for wrap in (lambda f: f, mg.compile):
        model, c, ys = Counter(), mg.zeros(2, dtype="float64"), []
        step = wrap(lambda x, c, model=model: model(x, c))
        for n in range(5):
            y, c = step(vector(1.0, 0.1 * n), c)
            ys.append(y)
        found.append([*ys, c, model.h])
    for a, b in zip(*found, strict=True):
        close(a, b.numpy(), 1e-15 if backend == "numba" else 0)


@pytest.mark.parametrize("times", [1, 3])
def test_dropout_masks_differ_and_are_the_eager_ones(backend, times):
    model = mg.nn.Dropout(0.5)
    found = []
    for wrap in (lambda f: f, mg.compile):
        f = wrap(lambda x: [model(x) for _ in range(times)])
        mg.random.seed(3)
        masks = [f(mg.ones(32)) for _ in range(3)]
        mg.random.uniform()  # drawn between calls
        masks += [f(mg.ones(32))]
        mg.random.seed(4)
        found.append([*masks, f(mg.ones(32)), mg.random.generator])
    same_bits(*found)
    drawn = [m.numpy().tobytes() for masks in found[0][:-1] for m in masks]
    assert len(set(drawn)) == len(drawn)


def test_the_generator_is_the_ambient_one_of_each_call(backend):
    """Also after it has been on another backend, where another tensor holds it."""
    found = []
    for wrap in (lambda f: f, mg.compile):
        f = wrap(lambda: mg.random.uniform(None, (4,)))
        mg.random.seed(1)
        ys = [f()]
        with mg.use_backend("numba" if backend == "numpy" else "numpy"):
            mg.random.uniform()
        ys.append(f())
        mg.random.seed(1)
        found.append([*ys, f()])
    same_bits(*found)


def test_an_exception_in_the_function_changes_nothing_and_is_forgotten(backend):
    w, fail = leaf([1.0, 2.0]), [True]

    @mg.compile
    def f(x):
        (w * x).sum().backward()
        w.assign(w * 2)
        if fail[0]:
            raise KeyError("mine")
        return w * 1

    before = mg.random.generator.numpy().copy()
    with pytest.raises(KeyError, match="mine"):
        f(vector(1.0, 1.0))
    assert w.grad is None
    assert w.tolist() == [1.0, 2.0]
    np.testing.assert_array_equal(mg.random.generator.numpy(), before)
    fail[0] = False
    assert f(vector(1.0, 1.0)).tolist() == [2.0, 4.0]
    assert w.grad.tolist() == [1.0, 1.0]


def test_an_exception_in_the_program_leaves_no_parameter_half_updated(backend):
    v, w = leaf([1.0, 2.0, 3.0]), leaf([1.0, 2.0, 3.0])
    optimizer = mg.optim.Adam([v, w], lr=0.1)

    @mg.compile
    def step(x, index):
        optimizer.zero_grad()
        loss = (v * x).sum() + mg.take(w, index).sum()
        loss.backward()
        optimizer.step()
        return mg.take(w, index)

    x = vector(1.0, 1.0, 1.0)
    step(x, mg.Tensor([0, 1]))
    everything = [v, w, v.grad, w.grad, *optimizer.state_dict().values()]
    before = [t.numpy().copy() for t in everything]
    with pytest.raises(mg.IndexRangeError):
        step(x, mg.Tensor([0, 7]))
    now = [v, w, v.grad, w.grad, *optimizer.state_dict().values()]
    for t, expected in zip(now, before, strict=True):
        np.testing.assert_array_equal(t.numpy(), expected)
    step(x, mg.Tensor([0, 1]))
    assert step.captures == 1


def test_what_it_does_to_python_happens_once_and_is_reported(backend):
    class Log(mg.nn.Module):
        count = 0

    lines, log, total = [], Log(), 0

    @mg.compile
    def f(x):
        nonlocal total
        total += 1
        log.count += 1
        lines.append("called")
        return x * 2

    with pytest.warns(RuntimeWarning, match="^total was changed while .* keep state in a tensor"):
        f(vector(1.0))
    for _ in range(2):
        f(vector(1.0))
    assert (lines, log.count, total, f.captures) == (["called"], 1, 1, 1)
    for what in ("a list", "count of Log", "total"):
        assert f"once: {what} was changed" in f.report()


@pytest.mark.parametrize(
    "draw",
    [
        random.random,
        np.random.rand,
        functools.partial(random.Random(0).gauss, 0, 1),
        np.random.default_rng(0).normal,
        np.random.RandomState(0).normal,
    ],
)
def test_a_random_number_that_each_call_would_repeat_is_told(backend, draw):
    f = mg.compile(lambda x: x * draw())
    with pytest.warns(RuntimeWarning, match=r"random number was drawn .* minigrad\.random") as told:
        f(vector(1.0))
    assert told[0].filename == __file__
    mg.compile(mg.nn.Dropout(0.5))(vector(1.0))


SCALE = 1.0


def doubled(x):
    return x * 2 * SCALE


def by_default(x, factors=[1.0]):  # noqa: B006
    return x * factors[0]


@functools.lru_cache
def looked_up(n):
    return 1.0 * n


class Held:
    factor = 1.0
    __slots__ = ("slot",)


class Reads(mg.nn.Module):
    """Each way in which a method may come by a number that stands elsewhere."""

    factor = 1.0

    def __init__(self):
        self.function, self.table = doubled, {"f": doubled}
        self.names, self.bag, self.line = types.SimpleNamespace(a=1.0), {1.0}, deque([1.0])
        self.held = Held()
        self.held.slot = 1.0

    def __call__(self, x):
        return x * SCALE

    @staticmethod
    def static(x):
        return x * SCALE

    @classmethod
    def of_class(cls, x):
        return x * cls.factor

    @property
    def scale(self):
        return SCALE


class Further(Reads):
    def __call__(self, x):
        return super().__call__(x)


# What f reads of an object o (of class k) and x; what changes it.
READ = {
    "a global, by a call": (lambda o, k, x: o(x), "SCALE"),
    "a global, by super()": (lambda o, k, x: o(x), "SCALE"),
    "a global, by a static method": (lambda o, k, x: o.static(x), "SCALE"),
    "a global, by a property": (lambda o, k, x: x * o.scale, "SCALE"),
    "a global, by a function of an object": (lambda o, k, x: o.function(x), "SCALE"),
    "a global, by a function in a dict": (lambda o, k, x: o.table["f"](x), "SCALE"),
    "a method": (lambda o, k, x: o(x), lambda o, k: setattr(k, "__call__", lambda s, x: x * 3)),
    "a value of a class": (lambda o, k, x: o.of_class(x), lambda o, k: setattr(k, "factor", 2.0)),
    "a value of a class itself": (
        lambda o, k, x: x * Held.factor,
        lambda o, k: setattr(Held, "factor", Held.factor + 1),
    ),
    "a slot": (lambda o, k, x: x * o.held.slot, lambda o, k: setattr(o.held, "slot", 2.0)),
    "a namespace": (lambda o, k, x: x * o.names.a, lambda o, k: setattr(o.names, "a", 2.0)),
    "a set": (lambda o, k, x: x * sum(o.bag), lambda o, k: o.bag.add(2.0)),
    "a deque": (lambda o, k, x: x * sum(o.line), lambda o, k: o.line.append(2.0)),
    "what is not there": (
        lambda o, k, x: x * getattr(o, "more", 1.0),
        lambda o, k: setattr(o, "more", 2.0),
    ),
    "a default argument": (
        lambda o, k, x: by_default(x),
        lambda o, k: by_default.__defaults__[0].__setitem__(0, by_default(1.0) + 1),
    ),
    "a cached function": (lambda o, k, x: x * looked_up(2), "SCALE"),
}


@pytest.mark.parametrize("what", READ)
def test_what_methods_read_is_watched(backend, monkeypatch, what):
    read, change = READ[what]
    kind = Further if "super" in what else type("Own", (Reads,), {"__module__": __name__})
    o, x = kind(), vector(1.0, 2.0)
    f = mg.compile(lambda x: read(o, kind, x))
    before = f(x).tolist()
    assert f(x).tolist() == before and f.captures == 1
    if change == "SCALE":
        monkeypatch.setitem(globals(), "SCALE", 2.0)
    else:
        change(o, kind)
    assert f(x).tolist() == read(o, kind, x).tolist()
    assert what == "a cached function" or f(x).tolist() != before


def pair():
    return mg.nn.Parameter([1.0, 2.0]), mg.nn.Parameter([5.0, 6.0])


def slices_of_one(compiled):
    p = mg.nn.Parameter(np.ones((2, 2)))
    xs = p * 1
    f = compiled(lambda a, b: (a * 3 + b * 5).sum())
    f(xs[0], xs[0])
    f(xs[0], xs[1]).backward()
    return p.grad.tolist()


def an_argument_around_it(compiled):
    w, v = pair()
    f = compiled(lambda x: (x * 3 + w * 5).sum())
    f(w)
    f(v).backward()
    return v.grad.tolist(), w.grad.tolist()


def its_gradient(compiled):
    w, v = pair()
    f = compiled(lambda x: (x * w * 3).sum().backward())
    f(v)
    w.grad = None
    f(w)
    return w.grad.tolist(), v.grad.tolist()


def assigned_around_or_as_argument(compiled):
    w, *others = (mg.Tensor([float(n), 1.0]) for n in range(3))

    def around(x):
        w.assign(w + 1)
        return x * 1

    def argument(x):
        x.assign(x + 1)
        return w * 1

    calls = [(f, x) for f in map(compiled, (around, argument)) for x in (*others, w, others[0])]
    return [(f(x).tolist(), w.tolist(), others[0].tolist()) for f, x in calls]


def orders_of_dicts(compiled):
    f = compiled(lambda d={}, **named: mg.stack([*d.values(), *named.values()]))
    x, y = vector(1.0), vector(2.0)
    by_name = f(b=x, a=y), f(a=x, b=y)
    in_dicts = f({"b": x, "a": y}), f({"a": x, "b": y}), f({1: x, "a": y})
    return [z.tolist() for z in (*by_name, *in_dicts)]


def a_dict_and_names(compiled):
    f = compiled(lambda x, o=None, y=None: x if o is None else x * 2)
    x = vector(1.0)
    return f(x, {"y": x}).tolist(), f(x, y=x).tolist()


def equal_settings(compiled):
    f = compiled(lambda x, c: x * c.factor)
    return [str(f(mg.Tensor([1, 2]), Factor(n)).dtype) for n in (1, 1.0)]


def a_later_hook(compiled):
    w, _ = pair()

    def f(x):
        w.grad = None
        (w * x).sum().backward()
        return x * 1

    f = compiled(f)
    f(mg.ones(2))
    w.register_hook(lambda g: g * 100)
    f(mg.ones(2))
    return w.grad.tolist()


def another_name_in_a_dict(compiled):
    table = {"a": 1.0}
    f = compiled(lambda x: x * (2.0 if "b" in table else 3.0))
    first = f(mg.ones(1)).tolist()
    table["b"] = table.pop("a")
    return first, f(mg.ones(1)).tolist()


def bools_that_count(compiled):
    a, b = mg.Tensor([True, False]), mg.Tensor([True, True])
    found = [compiled(f)(a, b) for f in (mg.floor_divide, mg.remainder, mg.power)]
    return [(str(y.dtype), y.tolist()) for y in found]


def rows_that_are_fewer_than_the_axis(compiled):
    i, k = np.array([[0, 0, 0], [1, 1, 1]]), mg.zeros((2, 3), dtype="int64")

    def of_x(x, k):
        return mg.grad(lambda x: x[mg.Tensor(i), mg.Tensor(np.arange(3)), k].sum())(x)

    return compiled(of_x)(mg.ones((3, 3, 4)), k).tolist()


def sums_of_nothing(compiled):
    def f(xs):
        h = mg.zeros((2, 0))
        for x in xs:
            h = mg.cumsum(h + x, axis=1)
        return h

    return compiled(f)(mg.zeros((3, 2, 0))).tolist()


@dataclass(frozen=True)
class Factor:
    factor: float


@pytest.mark.parametrize(
    "program",
    [
        slices_of_one, an_argument_around_it, its_gradient, assigned_around_or_as_argument,
        orders_of_dicts, a_dict_and_names, equal_settings, a_later_hook, another_name_in_a_dict,
        bools_that_count, rows_that_are_fewer_than_the_axis, sums_of_nothing,
    ],
)  # fmt: skip
def test_what_tells_calls_from_one_another(backend, program):
    """Programs of which some call looks like an earlier one, and is another, against eager."""
    assert program(mg.compile) == program(lambda f: f)


def test_bools_are_divided_as_numpy_divides_them(backend):
    a, b = np.array([True, False]), np.array([True, True])
    for name in ("floor_divide", "remainder", "power"):
        y, expected = getattr(mg, name)(mg.Tensor(a), mg.Tensor(b)), getattr(np, name)(a, b)
        assert y.dtype == expected.dtype
        np.testing.assert_array_equal(y.numpy(), expected)


def test_a_norm_that_is_not_finite_stops_each_call(backend):
    """It is an op that gives its operand back, and raises or not."""
    p = mg.nn.Parameter([1.0, 1.0])
    optimizer = mg.optim.SGD([p], lr=0.1)

    @mg.compile
    def step(x):
        loss = (p * x).sum()
        optimizer.zero_grad()
        loss.backward()
        mg.optim.clip_by_global_norm([p], 1.0)
        optimizer.step()
        return loss

    step(mg.ones(2))
    before = p.numpy().copy()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(mg.NonFiniteError, match="the total norm of the gradients is"):
            step(mg.Tensor([1.0, bad]))
        np.testing.assert_array_equal(p.numpy(), before)
    step(mg.ones(2))
    assert step.captures == 1 and (p.numpy() < before).all()


def test_a_state_that_is_bound_anew_instead_of_assigned_is_no_constant(backend):
    class Cell(mg.nn.Module):
        def __init__(self):
            self.h = mg.zeros(1)
            self.past = [mg.zeros(1)]
            self.both = (mg.zeros(1), mg.zeros(1))

    cell = Cell()

    @mg.compile
    def f(x):
        cell.h = cell.h + x
        return cell.h * 1

    @mg.compile
    def g(x):
        cell.past[0] = cell.past[0] + x
        return cell.past[0] * 1

    @mg.compile
    def of_a_pair(x):
        cell.both = (cell.both[0] + x, cell.both[1] * x)
        return cell.both[0] * 1

    for step in (f, g, of_a_pair):
        step(mg.ones(1))
        with pytest.raises(CaptureError, match="return it or assign it"):
            step(mg.ones(1))


def test_ctrl_c_does_not_part_what_belongs_together(backend, monkeypatch):
    v, w = vector(1.0), vector(1.0)

    @mg.compile
    def f(x):
        v.assign(v + x)
        w.assign(w + x)

    f(vector(1.0))
    plain, left = mg.Tensor.assign, [1]

    def interrupted(tensor, value):
        plain(tensor, value)
        if left:
            left.pop()
            raise KeyboardInterrupt

    monkeypatch.setattr(mg.Tensor, "assign", interrupted)
    with pytest.raises(KeyboardInterrupt):
        f(vector(1.0))
    assert (v.tolist(), w.tolist()) == ([3.0], [3.0])


# --- what it refuses, and what is around it ------------------------------------------------------


def test_reading_a_value_names_the_line(backend):
    @mg.compile
    def f(x):
        return float(x.sum())  # the line

    line = inspect.getsourcelines(f.f)[1] + 2
    with pytest.raises(CaptureError, match=rf"test_compile.py:{line}: .*# the line"):
        f(vector(1.0))


def test_a_tensor_that_is_left_behind_raises_when_it_is_used(backend):
    left = []

    @mg.compile
    def f(x):
        left.append(x * 2)
        return x * 1

    f(vector(1.0))
    with pytest.raises(CaptureError, match="return it or assign it"):
        left[0] + 1
    assert "was left in a list" in f.report()


@pytest.mark.parametrize("f", [3, classmethod(square)])
def test_what_is_no_function(f):
    with pytest.raises(TypeError, match="compile takes a function"):
        mg.compile(f)


def test_generators_and_coroutines_are_refused():
    def steps(x):
        yield x

    async def later(x):
        return x

    for f in (steps, later):
        with pytest.raises(TypeError, match="whose body runs after the call"):
            mg.compile(f)


def test_it_is_called_as_the_function_was():
    @mg.compile
    def documented(x, *, scale=2):
        """What it does."""
        return x * scale

    assert documented.__doc__ == "What it does."
    assert documented.__name__ == "documented"
    assert str(inspect.signature(documented)) == "(x, *, scale=2)"
    assert mg.compile(documented) is documented
    with pytest.raises(TypeError, match="unexpected keyword argument 'scales'"):
        documented(mg.ones(2), scales=3)


def test_compile_0_runs_it_as_it_is(backend, monkeypatch):
    f = mg.compile(lambda x: x * float(x.sum()))
    with pytest.raises(CaptureError):
        f(vector(2.0))
    monkeypatch.setenv("MINIGRAD_COMPILE", "0")
    assert f(vector(2.0)).tolist() == [4.0]
    assert f.captures == 0
    with pytest.raises(CaptureError, match="has not been captured yet"):
        _ = f.graph


def test_a_method_is_compiled_per_object(backend):
    class Model(mg.nn.Module):
        def __init__(self, w):
            self.w = vector(w)

        @mg.compile
        def step(self, x, scale=1):
            self.w.assign(self.w + x)
            return self.w * scale

        @classmethod
        @functools.cache
        def unbound(cls):
            return cls.step

    a, b = Model(1.0), Model(10.0)
    for _ in range(2):
        a.step(vector(1.0)), b.step(vector(2.0), scale=3)
    assert (a.w.tolist(), b.w.tolist()) == ([3.0], [14.0])
    assert a.step.captures == Model.step.captures == 2
    assert Model.unbound()(a, vector(1.0)).tolist() == [4.0]


def test_copies_of_a_compiled_method_have_captures_of_their_own(backend):
    class Model(mg.nn.Module):
        def __init__(self):
            self.w = mg.nn.Parameter([1.0])
            self.step = mg.compile(self.advance)

        def advance(self, x):
            return self.w * x

    model = Model()
    model.step(mg.ones(1))
    other = copy.deepcopy(model)
    other.w.assign([5.0])
    assert other.step(mg.ones(1)).tolist() == [5.0]
    assert model.step(mg.ones(1)).tolist() == [1.0]
    compiled = pickle.loads(pickle.dumps(mg.compile(square)))
    assert float(compiled(mg.full(2, 2.0))) == 8.0


def test_a_callable_object_is_compiled(backend):
    model = Scale()
    f = mg.compile(model)
    x = vector(1.0, 2.0)
    same_bits(f(x), model(x))
    model.W = mg.nn.Parameter([5.0, 6.0], dtype="float64")
    same_bits(f(x), model(x))


def test_a_compiled_function_inside_another_is_part_of_it(backend):
    w = leaf([2.0, 3.0])
    inner = mg.compile(lambda x: (x * w).sum())

    @mg.compile
    def outer(x):
        w.grad = None
        y = inner(x) + inner(x * 2)
        y.backward()
        return y

    for _ in range(2):
        assert float(outer(vector(1.0, 10.0))) == 96.0
    assert w.grad.tolist() == [3.0, 30.0]
    assert (inner.captures, outer.captures) == (0, 1)

    @mg.compile
    def factorial(x, n):
        return x if n == 0 else factorial(x, n - 1) * n

    assert factorial(vector(1.0), 5).tolist() == [120.0]
    assert factorial.captures == 1


def test_threads_that_call_one_function_at_once(backend):
    total = vector(0.0)
    model = mg.nn.Linear(4, 4, dtype="float64")

    @mg.compile
    def f(x, n):
        total.assign(total * 1)
        return model(x) * n

    errors = []

    def work(n):
        try:
            with mg.use_backend(backend):
                for i in range(20):
                    x = mg.full((3, 4), float(i), dtype="float64")
                    np.testing.assert_allclose(f(x, n).numpy(), (model(x) * n).numpy(), rtol=1e-12)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert f.captures == 3


def test_whoever_stands_at_a_choke_point_sees_every_op(backend):
    f = mg.compile(lambda x: mg.log(x) * 1)
    f(vector(1.0))
    with (
        np.errstate(invalid="ignore"),
        mg.detect_anomaly(),
        pytest.raises(FloatingPointError, match="log"),
    ):
        f(vector(-1.0))


def test_reports(backend):
    @mg.compile
    def f(xs):
        h = mg.zeros(2, dtype="float64")
        for x in xs:
            h = mg.tanh(h + x)
        return h

    f(mg.ones((5, 2), dtype="float64"))
    assert isinstance(f.graph, Graph)
    assert f.graph.text() == str(f.graph)
    assert len(f.graph.loops()) == 1
    assert "11 steps" in f.report()
    assert "1 loops" in f.report()
    assert isinstance(f.source(), str)


def test_a_backend_that_emits_is_asked_for_the_program(backend, monkeypatch):
    """Its arrays in and out; whoever watches gets the interpreter."""
    seen = []

    class Emitted:
        def __init__(self, graph):
            self.graph = graph

        def __call__(self, arrays):
            seen.append(len(arrays))
            return [arrays[0] * 3]

        def report(self):
            return "by hand"

        def source(self):
            return "times three"

    home = mg.resolve(backend)
    monkeypatch.setattr(type(home), "emit", lambda self, graph: Emitted(graph), raising=False)
    f = mg.compile(lambda x: x * 3)
    assert f(vector(2.0)).tolist() == [6.0]
    assert seen == [1]
    assert "by hand" in f.report()
    assert f.source() == "times three"
    with mg.detect_anomaly():
        assert f(vector(2.0)).tolist() == [6.0]
    assert seen == [1]


def test_a_program_that_a_backend_cannot_emit_is_interpreted_and_says_so(backend, monkeypatch):
    def emit(self, graph):
        raise NotImplementedError("no code for this")

    monkeypatch.setattr(type(mg.resolve(backend)), "emit", emit, raising=False)
    f = mg.compile(lambda x: x * 3)
    with pytest.warns(RuntimeWarning, match="interpreted on .*: no code for this") as warned:
        assert f(vector(2.0)).tolist() == [6.0]
    assert warned[0].filename == __file__
    assert f(vector(3.0)).tolist() == [9.0]
    assert "interpreted on" in f.report() and "no code for this" in f.report()
    assert f.source() == "interpreted"


# --- gradients through it ------------------------------------------------------------------------


def eager_and_compiled(f, *args):
    """f's result, and that of f compiled, and of compiled f a second time."""
    compiled = mg.compile(f)
    return f(*args), compiled(*args), compiled(*args)


def test_backward_reaches_arguments_bound_leaves_and_what_they_came_from(backend):
    w, v = leaf([1.0, 2.0]), leaf([0.5, -1.0])

    def f(x, y):
        return {"a": mg.tanh(x * w) * y, "b": (x @ y, mg.sum(w))}

    compiled = mg.compile(f)
    found = []
    for g in (f, compiled, compiled):
        for p in (w, v):
            p.grad = None
        x = v * 3
        out = g(x, v)
        (out["a"].sum() * out["b"][0] + out["b"][1]).backward()
        found.append([w.grad, v.grad])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-12)
    assert compiled.captures == 1


def test_detach_no_grad_and_clipping_are_where_they_were(backend):
    w = leaf([1.0, 2.0])

    def f(x):
        with mg.no_grad():
            scale = mg.exp(x)
        return (x * scale * w.detach() + mg.clip_gradient(x * w, 0.1) + w).sum()

    for derivative in (
        lambda g: mg.grad(g),
        lambda g: lambda x: mg.jvp(g, (x,), (vector(1.0, -2.0),))[1],
        lambda g: lambda x: mg.hvp(g, (x,), (vector(1.0, -2.0),))[1][0],
    ):
        expected, *found = (derivative(g)(vector(0.3, 0.7)) for g in (f, mg.compile(f)))
        for y in found:
            np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-12, atol=1e-15)


def test_any_order_of_derivative(backend):
    x = mg.Tensor(0.7, dtype="float64")
    f = mg.compile(mg.sin)
    for want in (np.sin(0.7), np.cos(0.7), -np.sin(0.7), -np.cos(0.7), np.sin(0.7)):
        assert f(x).item() == pytest.approx(want, rel=1e-12)
        f = mg.grad(f)

    def along(g):
        return lambda x: mg.jvp(g, (x,), (mg.Tensor(1.0, dtype="float64"),))[1]

    f = mg.compile(mg.sin)
    for want in (np.sin(0.7), np.cos(0.7), -np.sin(0.7)):
        assert f(x).item() == pytest.approx(want, rel=1e-12)
        f = along(f)
    assert along(mg.grad(mg.compile(mg.sin)))(x).item() == pytest.approx(-np.sin(0.7), rel=1e-12)
    compiled = mg.compile(mg.grad(mg.compile(mg.grad(mg.sin))))
    assert compiled(x).item() == pytest.approx(-np.sin(0.7), rel=1e-12)


def test_transforms_of_and_in_a_compiled_function(backend):
    def energy(x):
        return (mg.tanh(x) * mg.sin(x)).sum() + mg.logsumexp(x)

    x, v = vector(0.3, -1.0, 2.0), vector(1.0, 2.0, -0.5)
    compiled = mg.compile(energy)
    pairs = [
        (mg.value_and_grad(energy)(x), mg.value_and_grad(compiled)(x)),
        (mg.value_and_grad(energy)(x), mg.compile(mg.value_and_grad(energy))(x)),
        (mg.hvp(energy, (x,), (v,)), mg.hvp(compiled, (x,), (v,))),
        (mg.hessian(energy)(x), mg.hessian(compiled)(x)),
        (mg.hessian(energy)(x), mg.compile(mg.hessian(energy))(x)),
        (mg.vjp(mg.tanh, x)[1](v), mg.vjp(mg.compile(mg.tanh), x)[1](v)),
        (mg.grad(mg.checkpoint(energy))(x), mg.grad(mg.compile(mg.checkpoint(energy)))(x)),
        (mg.grad(mg.checkpoint(energy))(x), mg.grad(mg.checkpoint(compiled))(x)),
    ]
    for eager, ours in pairs:
        for a, b in zip(mg.tree.flatten(eager)[0], mg.tree.flatten(ours)[0], strict=True):
            np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-11, atol=1e-14)


def test_results_of_several_dtypes_have_gradients(backend):
    def f(x):
        return x.astype("float32") * 2, x * 3, mg.argmax(x)

    x = leaf([1.0, 2.0])
    found = []
    for g in (f, mg.compile(f)):
        a, b, n = g(x)
        assert (a.dtype, b.dtype, n.dtype.kind) == (np.dtype("float32"), x.dtype, "i")
        x.grad = None
        (a.sum() + b.sum().astype("float32")).backward()
        found.append(x.grad)
    same_bits(*found)


def test_the_gradient_belongs_to_the_values_of_the_call(backend):
    w = leaf([2.0])
    f = mg.compile(lambda x: w * x * w)
    y = f(vector(3.0))
    w.assign([100.0])
    y.backward(vector(1.0))
    assert w.grad.tolist() == [12.0]
    with pytest.raises(mg.GradientError, match="freed"):
        y.backward(vector(1.0))


def test_hooks_on_leaves_run_once_and_hooks_within_keep_it_eager(backend):
    w = leaf([1.0, 2.0])
    remove = w.register_hook(lambda g: 2 * g)
    f = mg.compile(lambda x: (w * x).sum())
    f(vector(1.0, 1.0)).backward()
    assert w.grad.tolist() == [2.0, 2.0]
    remove()
    calls = []

    @mg.compile
    def hooked(x):
        y = x * w
        y.register_hook(lambda g: calls.append(1) or 3 * g)
        return y.sum()

    for _ in range(2):
        w.grad = None
        hooked(vector(1.0, 1.0)).backward()
        assert w.grad.tolist() == [3.0, 3.0]
    assert len(calls) == 2
    assert "not compiled: a hook" in hooked.report()


def test_backward_within_that_would_leave_the_function_runs_as_it_is(backend):
    w = leaf([1.0, 2.0])

    @mg.compile
    def f(x):
        (x * x).sum().backward()
        return x * 1

    for _ in range(2):
        w.grad = None
        f(w * 3)
        assert w.grad.tolist() == [18.0, 36.0]
    assert "not compiled: backward within it reaches" in f.report()


def test_within_no_grad_results_are_constants(backend):
    w = leaf([1.0])
    f = mg.compile(lambda x: x * w)
    with mg.no_grad():
        assert not f(w * 2).requires_grad
    assert f(vector(1.0)).requires_grad
    assert not mg.compile(lambda x: x * 2)(vector(1.0)).requires_grad


# --- the command ---------------------------------------------------------------------------------

PROGRAM = """
import sys
import minigrad as mg
assert sys.argv[1:] == []
@mg.compile
def step(xs):
    h = mg.zeros(2)
    for x in xs:
        h = mg.tanh(h + x)
    return h
def plain(n=2):
    return mg.ones(3) * n
def main():
    step(mg.ones((120, 2)))
if __name__ == "__main__":
    main()
"""


def show(*words, code=0):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "minigrad.graph", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_show_prints_the_graph_after_each_pass(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    out, _ = show("show", f"{path}:step")
    assert (
        out.index("# capture") < out.index("graph(") < out.index("# fold") < out.index("for t in")
    )
    assert "mg.ones" not in out
    assert re.findall(r"^# (\w+):", out, re.MULTILINE)[-3:] == ["distribute", "simplify", "fuse"]
    assert out.count("# as before") == 5  # after all but fold, whole and fuse
    assert "# 241 steps; products: 0" in out and "# ... 45 more lines: --all" in out
    whole, _ = show("show", "--all", f"{path}:step")
    assert "more lines" not in whole and whole.count("tanh(") == out.count("tanh(") + 22
    assert "multiply" in show("show", f"{path}:plain")[0]
    for wrong, why in [("nothing", "defines no 'nothing'"), ("mg", "'mg' is no function")]:
        assert why in show("show", f"{path}:{wrong}", code=2)[1]
    path.write_text(PROGRAM.replace("    main()", "    pass"))
    assert "was not called" in show("show", f"{path}:step", code=2)[1]


def test_two_threads_share_what_a_step_assigns(backend):
    """Reading, computing and assigning is one, so no increment and no random number is lost."""
    count = mg.Tensor(0.0)

    @mg.compile
    def step(x):
        count.assign(count + 1)
        return mg.functional.dropout(x, 0.5)

    x, masks = mg.ones((64,)), []
    step(x)

    def work():
        with mg.use_backend(backend):
            masks.extend(step(x).numpy().tobytes() for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.item() == 21 and len(set(masks)) == 20


def test_a_child_forked_while_a_program_runs_can_run_it(backend):
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    program = mg.compile(lambda x: mg.tanh(x @ x))
    x = mg.ones((8, 8))
    expected, done = program(x).numpy().tobytes(), threading.Event()

    def work():
        while not done.is_set():
            program(x)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # a child that hangs dies of this
                os._exit(program(x).numpy().tobytes() != expected)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        done.set()
        thread.join()


def test_a_gradient_that_another_thread_sets_during_a_capture_is_its_own(backend):
    mine, other = leaf([1.0, 2.0]), leaf([3.0])

    def elsewhere():
        with mg.use_backend(backend):
            other.grad = mg.Tensor([7.0], dtype=other.dtype)

    @mg.compile
    def step(x):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        mine.grad = None
        (mine * x).sum().backward()

    step(mg.ones((2,), dtype=mine.dtype))
    assert other.grad.tolist() == [7.0] and mine.grad.tolist() == [1.0, 1.0]
    other.grad = None
    step(mg.ones((2,), dtype=mine.dtype))
    assert other.grad is None

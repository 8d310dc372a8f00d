"""Transforms of functions nest, and agree with finite differences; checkpoint; gradcheck itself."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import minigrad as mg
from tests.oracles.differences import central

W = np.random.default_rng(0).normal(size=(3, 3))
X = np.random.default_rng(1).normal(size=3)
V = np.random.default_rng(2).normal(size=3)


def energy(x):
    return (mg.tanh(mg.Tensor(W) @ x) * mg.sin(x)).sum() + mg.logsumexp(x)


def energy_in_numpy(x: np.ndarray) -> float:
    return float((np.tanh(W @ x) * np.sin(x)).sum() + np.log(np.exp(x).sum()))


def differences(f, x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """d f / d x of an array-valued f: (*f(x).shape, *x.shape)."""
    columns = []
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = step
        e = e.reshape(x.shape)
        columns.append((np.asarray(f(x + e)) - np.asarray(f(x - e))) / (2 * step))
    return np.stack(columns, axis=-1).reshape((*np.shape(f(x)), *x.shape))


def test_grad_and_value(backend):
    moved = X.copy()
    want = central(lambda: energy_in_numpy(moved), moved)
    y, g = mg.value_and_grad(energy)(mg.Tensor(X))
    assert abs(y.item() - energy_in_numpy(X)) < 1e-13
    np.testing.assert_allclose(g.numpy(), want, rtol=1e-8)
    np.testing.assert_allclose(mg.grad(energy)(mg.Tensor(X)).numpy(), want, rtol=1e-8)
    assert not g.requires_grad
    assert not y.requires_grad


def test_grad_of_nests_and_of_several_arguments(backend):
    def f(p, s, n):
        return (p["a"] * p["b"][0]).sum() * s * n + p["b"][1].sum()

    p = {"a": mg.Tensor([1.0, 2.0]), "b": (mg.Tensor([3.0, 4.0]), mg.Tensor([5.0]))}
    dp, ds = mg.grad(f, wrt=(0, 1))(p, mg.Tensor(2.0), 3)
    assert dp["a"].tolist() == [18.0, 24.0]
    assert dp["b"][0].tolist() == [6.0, 12.0]
    assert dp["b"][1].tolist() == [1.0]
    assert ds.item() == 33.0
    assert mg.grad(f, wrt=1)(p, mg.Tensor(2.0), 3).item() == 33.0
    with pytest.raises(ValueError, match="wrt=3, but the function got 3 arguments"):
        mg.grad(f, wrt=3)(p, mg.Tensor(2.0), 3)
    with pytest.raises(mg.GradientError, match=r"shape \(2,\), not one number"):
        mg.grad(lambda x: x * 2)(p["a"])


def test_jacobian_and_hessian(backend):
    def f(x):
        return mg.tanh(mg.Tensor(W) @ x)[:2]

    want = differences(lambda x: np.tanh(W @ x)[:2], X)
    np.testing.assert_allclose(mg.jacobian(f)(mg.Tensor(X)).numpy(), want, rtol=1e-8)

    def gradient(x):
        moved = x.copy()
        return central(lambda: energy_in_numpy(moved), moved, 1e-4)

    hessian = mg.hessian(energy)(mg.Tensor(X)).numpy()
    np.testing.assert_allclose(hessian, differences(gradient, X, 1e-4), atol=1e-6)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-11)


def test_jvp_vjp_hvp(backend):
    def f(x):
        return mg.exp(mg.sin(x)), {"s": (x * x).sum()}

    (a, b), (da, db) = mg.jvp(f, (mg.Tensor(X),), (mg.Tensor(V),))
    np.testing.assert_allclose(a.numpy(), np.exp(np.sin(X)), rtol=1e-14)
    np.testing.assert_allclose(da.numpy(), np.exp(np.sin(X)) * np.cos(X) * V, rtol=1e-13)
    np.testing.assert_allclose(db["s"].item(), 2 * X @ V, rtol=1e-13)
    assert b["s"].item() == pytest.approx(X @ X, rel=1e-14)
    _, pull = mg.vjp(f, mg.Tensor(X))
    (g,) = pull((mg.Tensor(V), {"s": mg.Tensor(2.0, dtype="float64")}))
    np.testing.assert_allclose(g.numpy(), np.exp(np.sin(X)) * np.cos(X) * V + 4 * X, rtol=1e-13)
    g, hv = mg.hvp(energy, (mg.Tensor(X),), (mg.Tensor(V),))
    g, hv = (part[0] if isinstance(part, tuple) else part for part in (g, hv))
    hessian = mg.hessian(energy)(mg.Tensor(X)).numpy()
    np.testing.assert_allclose(hv.numpy(), hessian @ V, rtol=1e-11)
    np.testing.assert_allclose(g.numpy(), mg.grad(energy)(mg.Tensor(X)).numpy(), rtol=1e-14)


def test_transforms_nest_to_any_order(backend):
    """Derivatives of sin by grad of grad of ..., of jvp of jvp, and mixed."""
    x = mg.Tensor(0.7, dtype="float64")
    f = mg.sin
    wanted = [np.sin(0.7), np.cos(0.7), -np.sin(0.7), -np.cos(0.7), np.sin(0.7), np.cos(0.7)]
    for want in wanted:
        assert f(x).item() == pytest.approx(want, rel=1e-12)
        f = mg.grad(f)

    def along(g):
        return lambda x: mg.jvp(g, (x,), (mg.Tensor(1.0, dtype="float64"),))[1]

    f = mg.sin
    for want in wanted[:4]:
        assert f(x).item() == pytest.approx(want, rel=1e-12)
        f = along(f)
    assert along(mg.grad(mg.sin))(x).item() == pytest.approx(-np.sin(0.7), rel=1e-12)
    assert mg.grad(along(mg.sin))(x).item() == pytest.approx(-np.sin(0.7), rel=1e-12)


def test_nested_transforms_do_not_confuse_their_variables(backend):
    """d/dx of x * d/dy (x + y) = 1: the perturbations of x and y are told apart."""

    def outer(x):
        return x * mg.grad(lambda y: x + y)(mg.Tensor(1.0, dtype="float64"))

    assert mg.grad(outer)(mg.Tensor(3.0, dtype="float64")).item() == 1.0

    def square_of_slope(x):
        return mg.grad(lambda y: x * y * y)(x) ** 2  # (2 x x)^2

    assert mg.grad(square_of_slope)(mg.Tensor(1.5, dtype="float64")).item() == 16 * 1.5**3


def test_gradient_penalty_through_parameters_that_are_closed_over(backend):
    w = mg.Tensor(W, requires_grad=True)
    x = mg.Tensor(X)

    def penalty() -> mg.Tensor:
        g = mg.grad(lambda x: mg.tanh(w @ x).sum())(x)
        return (g * g).sum()

    penalty().backward()
    moved = W.copy()

    def by_hand() -> float:
        g = moved.T @ (1 - np.tanh(moved @ X) ** 2)
        return float(g @ g)

    np.testing.assert_allclose(w.grad.numpy(), central(by_hand, moved), rtol=1e-7)


def test_pullback_is_recorded_and_backward_is_not(backend):
    x = mg.Tensor(X, requires_grad=True)
    g = mg.pullback((x * x * x).sum(), x)
    assert g.requires_grad
    h = mg.pullback((g * mg.Tensor(V)).sum(), x)
    np.testing.assert_allclose(h.numpy(), 6 * X * V, rtol=1e-14)
    (x * x * x).sum().backward()
    assert not x.grad.requires_grad


def test_transforms_work_where_nothing_is_recorded(backend):
    with mg.no_grad():
        g = mg.grad(lambda x: (x * x).sum())(mg.Tensor(X))
        assert mg.grad(mg.grad(mg.sin))(mg.Tensor(0.5, dtype="float64")).item() == -np.sin(0.5)
    assert np.array_equal(g.numpy(), 2 * X)
    assert not g.requires_grad


# --- checkpoint ----------------------------------------------------------------------------------


def block(x, w):
    h = mg.tanh(x @ w)
    h = h * mg.random.bernoulli(None, h.shape, 0.7).astype(h.dtype)
    return mg.sin(h @ w) + x


@pytest.mark.parametrize("closed_over", [False, True], ids=["argument", "closed over"])
def test_checkpoint_gives_the_same_gradients(closed_over, backend):
    """To rounding, with the same random draws; w an argument, or only seen from inside."""
    found = []
    for wrap in (lambda f: f, mg.checkpoint):
        w = mg.Tensor(W, requires_grad=True)
        x = mg.Tensor(np.stack([X, V]), requires_grad=True)
        step = wrap((lambda x: block(x, w)) if closed_over else block)  # noqa: B023
        mg.random.seed(4)
        h = x
        for _ in range(3):
            h = step(h) if closed_over else step(h, w)
        (h * h).sum().backward()
        after = mg.random.uniform(None, (2,)).numpy()
        found.append([h.numpy(), x.grad.numpy(), w.grad.numpy(), after])
    (h, *gradients, draw), (h_again, *gradients_again, draw_again) = found
    assert np.array_equal(h, h_again)
    assert np.array_equal(draw, draw_again)
    for plain, again in zip(gradients, gradients_again, strict=True):
        np.testing.assert_allclose(plain, again, rtol=1e-12, atol=1e-13)


def test_checkpoint_of_second_order(backend):
    def f(x):
        return mg.tanh(mg.Tensor(W) @ mg.sin(x)).sum()

    want = mg.hessian(f)(mg.Tensor(X)).numpy()
    got = mg.hessian(mg.checkpoint(f))(mg.Tensor(X)).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
    mg.gradcheck(mg.checkpoint(f), mg.Tensor(X), order=2)


def sliced(xs):
    """sum(xs[0]) + sum(w * xs[1] * xs[2]), w all ones, the second part recomputed in backward."""
    first = xs[0]
    w = mg.Tensor(np.ones(2), requires_grad=True)
    y = mg.checkpoint(lambda w: (w * xs[1] * xs[2]).sum())(w)
    return first.sum(), y


def test_a_checkpoint_finds_the_slices_that_it_used_whatever_came_between(backend):
    rows = np.arange(1.0, 7.0).reshape(3, 2)
    want = [[1.0, 1.0], rows[2], rows[1]]

    def nothing(xs, first):
        return first

    def anomaly(xs, first):
        with mg.detect_anomaly():
            assert xs[0].requires_grad
        return first

    def unrecorded(xs, first):
        with mg.no_grad():
            assert not xs[1].requires_grad
        return first

    def backward_before(xs, first):
        first.backward()
        return 0.0

    for between in (nothing, anomaly, unrecorded, backward_before):
        for scope in (contextlib.nullcontext(), mg.detect_anomaly()):
            xs = mg.Tensor(rows, requires_grad=True)
            first, y = sliced(xs)
            first = between(xs, first)
            with scope:
                (y + first).backward()
            np.testing.assert_array_equal(xs.grad.numpy(), want, err_msg=between.__name__)


def test_a_checkpoint_that_takes_another_way_the_second_time_is_an_error(backend):
    a, b = mg.Tensor(X, requires_grad=True), mg.Tensor(X + 1, requires_grad=True)
    which = [a]
    y = mg.checkpoint(lambda v: (v * which[0]).sum())(mg.Tensor(V, requires_grad=True))
    which[0] = b
    with pytest.raises(mg.GradientError, match="came from other tensors; pass what"):
        y.backward()
    assert a.grad is None and b.grad is None
    way = [True]
    y = mg.checkpoint(lambda v: (v * 2 if way[0] else mg.ones(3)).sum())(a)
    way[0] = False
    with pytest.raises(mg.GradientError, match="came from other tensors"):
        y.backward()


def test_a_checkpoint_recomputes_on_the_backend_and_the_numbers_of_the_first_time():
    def noisy(x):
        return (x * mg.random.normal(None, (3,), "float64") * mg.ones(3, dtype="float64")).sum()

    elsewhere = mg.resolve("numpy").__class__()
    mg.random.seed(7)
    want = mg.random.normal(None, (3,), "float64").numpy()
    mg.random.seed(7)
    x = mg.Tensor(X, requires_grad=True)
    y = mg.checkpoint(noisy)(x)
    other = mg.random.normal(None, (), "float64").item()
    with mg.use_backend(elsewhere):
        y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), want)
    mg.random.seed(7)
    mg.random.normal(None, (3,))
    assert mg.random.normal(None, (), "float64").item() == other


def test_results_of_a_checkpoint_keep_their_own_precision(backend):
    """A float32 result beside a float64 one costs the other's gradient no digits."""
    x = mg.Tensor(X, requires_grad=True)

    def pair(x):
        return mg.sin(x).astype("float32"), mg.exp(x)

    single, double = mg.checkpoint(pair)(x)
    assert single.dtype == np.float32 and double.dtype == np.float64
    seen = []
    single.register_hook(lambda g: seen.append(g.dtype))
    ((double * mg.Tensor(V)).sum() + (single * 0).sum()).backward()
    np.testing.assert_allclose(x.grad.numpy(), np.exp(X) * V, rtol=1e-15)
    assert seen == [np.float32]


def test_hooks_do_not_act_on_forward_derivatives(backend):
    """d (h^2) = 2 h dh, whatever becomes of gradients at h; h = 2 x, x = 1, dx = 1."""

    def hooked(x):
        h = x * 2
        h.register_hook(lambda g: g * 10)
        return h * h / 2

    one = mg.Tensor(1.0)
    assert [t.item() for t in mg.jvp(hooked, (one,), (one,))] == [2.0, 4.0]
    assert mg.grad(hooked)(one).item() == 40.0


def test_checkpoint_keeps_only_the_inputs(backend):
    """Its node is the only one between the result and the inputs."""
    x = mg.Tensor(X, requires_grad=True)
    y = mg.checkpoint(lambda x: mg.sin(mg.exp(mg.tanh(x))))(x)
    assert y.node.op.name == "checkpoint"
    assert [parent.op for parent in y.node.parents] == [None]
    nest = mg.checkpoint(lambda p: {"y": (p["a"] * 2, p["a"])})({"a": x})
    assert nest["y"][0].requires_grad
    assert not mg.checkpoint(lambda x: x * 2)(mg.Tensor(X)).requires_grad


def test_checkpoint_refuses_a_leaf_that_has_changed(backend):
    w = mg.Tensor(W, requires_grad=True)
    y = mg.checkpoint(lambda x: mg.tanh(w @ x))(mg.Tensor(X, requires_grad=True))
    w.assign(W * 2)
    with pytest.raises(mg.GradientError, match=r"checkpoint: a leaf.*was assigned a new value"):
        y.sum().backward()


# --- gradcheck -----------------------------------------------------------------------------------


def test_gradcheck_passes_what_is_right(backend):
    assert mg.gradcheck(lambda x, w: mg.tanh(w @ x), mg.Tensor(X), mg.Tensor(W), order=2)
    assert mg.gradcheck(lambda p: p["a"] * p["b"], {"a": mg.Tensor(X), "b": mg.Tensor(V)})
    assert mg.gradcheck(lambda x, i: mg.take(x, i), mg.Tensor(X), mg.Tensor([0, 2, 0]))
    assert mg.gradcheck(mg.sin, X)
    assert mg.gradcheck(mg.exp, mg.Tensor(np.zeros((0, 2))))


def test_gradcheck_names_what_is_wrong(backend):
    wrong = lambda x, w: mg.sin(x) * (w.detach() if w is not None else 1)  # noqa: E731
    with pytest.raises(mg.GradientError) as caught:
        mg.gradcheck(wrong, mg.Tensor(X), mg.Tensor(V))
    text = str(caught.value)
    assert "the gradient of argument 1 is wrong: at (" in text
    assert "the rules give 0, central differences " in text

    def wrong_twice(x):  # right slope, constant as far as the next derivative can tell
        return x.detach() * x * 2 - (x * x).detach()

    assert mg.gradcheck(wrong_twice, mg.Tensor(X))
    with pytest.raises(mg.GradientError, match="second order, the gradient of argument 0"):
        mg.gradcheck(wrong_twice, mg.Tensor(X), order=2)
    named = mg.Tensor(X)
    named.name = "speed"
    with pytest.raises(mg.GradientError, match=r"argument 0, tensor 1 \(speed\) is wrong"):
        mg.gradcheck(lambda p: p[0] * p[1].detach(), (mg.Tensor(V), named))


def test_gradcheck_of_a_module_moves_its_parameters(backend):
    class Slope(mg.nn.Module):
        def __init__(self, right):
            self.layers, self.right = [mg.nn.Linear(3, 2, dtype="float64")], right

        def __call__(self, x):
            y = mg.tanh(self.layers[0](x))
            return y if self.right else y * self.layers[0].b.detach()

    x = mg.Tensor(np.arange(6.0).reshape(2, 3) / 6)
    module = Slope(True)
    before = {name: t.numpy() for name, t in module.state_dict().items()}
    assert mg.gradcheck(lambda m, x: m(x), module, x, order=2)
    assert all(np.array_equal(t.numpy(), before[n]) for n, t in module.state_dict().items())
    wrong = Slope(False)
    wrong.layers[0].b.assign(mg.ones(2, dtype="float64"))
    with pytest.raises(mg.GradientError, match=r"layers\.0\.b\) is wrong"):
        mg.gradcheck(lambda m, x: m(x), wrong, x)
    with pytest.raises(mg.GradientError, match=r"does not depend on argument 0.*layers\.0\.W"):
        mg.gradcheck(lambda m, x: module(x), module, x)


def test_gradcheck_refuses(backend):
    with pytest.raises(mg.DtypeError, match=r"argument 0 is float32.*\.astype\('float64'\)"):
        mg.gradcheck(mg.sin, mg.Tensor([1.0]))
    with pytest.raises(mg.GradientError, match="no argument holds float64"):
        mg.gradcheck(lambda i: mg.sin(i), mg.Tensor([1]))
    with pytest.raises(mg.GradientError, match=r"other values when it is called again.*key"):
        mg.gradcheck(lambda x: x * mg.random.uniform(None, (3,)), mg.Tensor(X))
    with pytest.raises(ValueError, match="order is 1 or 2, not 3"):
        mg.gradcheck(mg.sin, mg.Tensor(X), order=3)

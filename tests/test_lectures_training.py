"""Rows D of the lectures, second part: schedules, clipping, what gradients do over time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad import nn, optim
from minigrad.op import REGISTRY
from minigrad.op import op as define_op
from minigrad_rnn import landscapes, unroll, vanishing
from minigrad_rnn.patterns import Readout
from minigrad_rnn.training import TBPTT, ClippedState
from tests.oracles import landscapes as cliff_oracle
from tests.oracles import truncated
from tests.recurrent import KINDS, close, gradients, leaf, random_cell, randomise

lecture = pytest.mark.lecture
T, B, D, H, V = 11, 3, 2, 4, 3


def model(kind, rng):
    """A cell whose output is logits, inputs and labels."""
    cell = Readout(random_cell(kind, D, H, rng), randomise(nn.Linear(H, V, dtype="float64"), rng))
    return cell, rng.normal(size=(T, B, D)), rng.integers(0, V, (T, B))


def summed(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def scheduled(schedule, cell, xs, labels, *wrt, **more):
    """The gradients that a schedule adds to the parameters', and to those of other leaves."""
    found = [*cell.parameters(), *wrt]
    for p in found:
        p.grad = None
    schedule(cell, summed, xs, labels, **more)
    return [p.grad.numpy() for p in found]


# --- D3: truncated backpropagation through time ---------------------------------------------------


@lecture("D3", "long window")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k1", [1, 4, T, 2 * T])
def test_a_window_as_long_as_the_sequence_is_backpropagation_through_time(backend, kind, k1):
    cell, xs, labels = model(kind, np.random.default_rng(1))
    expected = gradients(summed(unroll(cell, mg.Tensor(xs))[0], labels), cell.parameters())
    for k2 in (max(k1, T), max(k1, T) + 3):
        for ours, g in zip(scheduled(TBPTT(k1, k2), cell, mg.Tensor(xs), labels), expected):
            close(ours, g)


@lecture("D3", "detach loop")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4, 5])
def test_equal_strides_are_a_loop_that_detaches(backend, kind, k):
    """Also where some rows begin anew in the middle of a piece, with a step of SGD after each."""
    rng = np.random.default_rng(2)
    cell, xs, labels = model(kind, rng)
    values = [p.numpy().copy() for p in cell.parameters()]
    resets = rng.random((T, B)) < 0.2
    blank = cell.initial_state(B)

    def fresh(t, state):
        flags = mg.Tensor(resets[t][:, None])
        return mg.tree.map(lambda new, old: mg.where(flags, new, old), blank, state)

    state = blank
    for start in range(0, T, k):
        loss = 0.0
        for t in range(start, min(start + k, T)):
            o, state = cell(mg.Tensor(xs[t]), fresh(t, state))
            loss = loss + summed(o, labels[t])
        for p, g in zip(cell.parameters(), gradients(loss, cell.parameters())):
            p.assign(p.numpy() - 0.1 * g)
        state = mg.tree.map(lambda s: s.detach(), state)
    expected = [p.numpy().copy() for p in cell.parameters()]
    for p, value in zip(cell.parameters(), values):
        p.assign(value)
        p.grad = None
    sgd = optim.SGD(cell.parameters(), lr=0.1)

    def update(steps, loss):
        sgd.step()
        sgd.zero_grad()

    _, last = TBPTT(k, k)(cell, summed, mg.Tensor(xs), labels, resets=resets, after=update)
    for p, value in zip(cell.parameters(), expected):
        close(p, value)
    for ours, manual in zip(mg.tree.flatten(last)[0], mg.tree.flatten(state)[0]):
        close(ours, manual.numpy())


@lecture("D3", "older inputs")
@lecture("A8", "truncated")
@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 2), (1, 4), (2, 5), (3, 4), (4, 9)])
def test_stride_and_window_apart(backend, k1, k2):
    """Every piece against the definition; inputs that are older get exactly nothing."""
    rng = np.random.default_rng(3)
    cell = random_cell("rnn", D, H, rng)
    x, weight = rng.normal(size=(T, 1, D)), rng.normal(size=(T, 1, H))
    p = {"U": cell.Wx.numpy().T, "W": cell.Wh.numpy().T, "b": cell.b.numpy()}
    expected = truncated.gradients(p, x[:, 0], weight[:, 0], np.zeros(H), k1, k2)
    xs, pieces = leaf(x), []
    watched = [cell.Wx, cell.Wh, cell.b, xs]

    def note(steps, loss):
        pieces.append([q.grad.numpy() for q in watched])
        for q in watched:
            q.grad = None

    loss = lambda ys, w: mg.sum(ys * w)  # noqa: E731
    TBPTT(k1, k2)(cell, loss, xs, mg.Tensor(weight), after=note)
    assert len(pieces) == len(expected) == -(-T // k1)
    for n, (ours, g) in enumerate(zip(pieces, expected, strict=True)):
        for a, b in zip(ours, [g["U"].T, g["W"].T, g["b"], g["x"][:, None]], strict=True):
            close(a, b)
        oldest = max(0, n * k1 - (k2 - k1))
        assert (ours[-1][:oldest] == 0).all()
        assert (ours[-1][oldest : n * k1 + 1] != 0).all()
        assert (ours[-1][n * k1 + k1 :] == 0).all()


STREAM = """
import resource, sys
import numpy as np
import minigrad as mg, minigrad_rnn as rnn
from minigrad_rnn.training import Stream

k1, k2 = int(sys.argv[1]), int(sys.argv[2])
cell = rnn.RNNCell(8, 64)
stream = Stream(cell, lambda ys, w: mg.sum(ys * w), k1, k2)
x, w = mg.ones((k1, 64, 8)), mg.ones((k1, 64, 64))
peaks = []
for n in range(1000):
    stream.advance(x, w)
    for p in cell.parameters():
        p.grad = None
    if n in (300, 999):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""


@lecture("D3", "memory")
@pytest.mark.parametrize(("k1", "k2"), [(1, 2)])
def test_memory_does_not_grow_with_the_stream(backend, k1, k2):
    """The peak of resident memory after 300 steps and after 1,000, in kB; a step records 50 kB."""
    pytest.importorskip("resource")
    root = Path(__file__).resolve().parent.parent
    paths = os.pathsep.join([str(root), str(root / "backends")])
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(k1), str(k2)],
        env=os.environ | {"PYTHONPATH": paths, "MINIGRAD_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    grown = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    assert grown < 5_000, f"{grown} kB more after 700 further steps"


# --- D6, D7: clipping, and the cliff of Fig 10.17 -------------------------------------------------

START, RATE, LIMIT, STEPS = (6.0, -2.9), 0.3, 1.0, 100  # with T = 20; axes as in the figure


def inside(w, b):
    return -2 <= w <= 8 and -4 <= b <= 2


def descend(clipping, start=START, steps=STEPS, T=20):
    """Gradient descent on the cliff, until it leaves the axes: the points (w, b), one a step."""
    unit = landscapes.Unit(np.array(start[0]), np.array(start[1]))
    cell = ClippedState(unit, LIMIT / T) if clipping == "back-propagated" else unit
    path = [start]
    for _ in range(steps):
        w, b = gradients(landscapes.cliff(cell, T), unit.w, unit.b)
        unit.w.grad, unit.b.grad = mg.Tensor(w), mg.Tensor(b)
        if clipping == "norm":
            optim.clip_by_global_norm(unit.parameters(), LIMIT)
        elif clipping == "value":
            optim.clip_by_value(unit.parameters(), LIMIT)
        elif clipping == "random":
            optim.step_if_nonfinite(unit.parameters(), LIMIT, mg.random.key(0))
        for p in unit.parameters():
            p.assign(p.numpy() - RATE * p.grad.numpy())
        path.append((unit.w.item(), unit.b.item()))
        if not inside(*path[-1]):
            break
    return path


@lecture("D6", "cliff")
@lecture("D6", "unclipped leaves")
@lecture("D7", "runs")
def test_the_cliff_throws_the_unclipped_run_off(backend):
    path = descend(None)
    assert len(path) < 20
    assert not inside(*path[-1])
    last = np.array(path[-2])
    _, dw, db = cliff_oracle.cliff(*last, 20)
    close(np.array(path[-1]), last - RATE * np.array([dw, db]), 1e-9)


@lecture("D6", "cliff")
@lecture("D6", "unclipped leaves")
@lecture("D7", "runs")
@pytest.mark.parametrize("clipping", ["norm", "value", "back-propagated"])
def test_the_clipped_runs_stay(backend, clipping):
    path = np.array(descend(clipping))
    assert len(path) == STEPS + 1
    assert all(inside(*point) for point in path)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    if clipping == "norm":
        assert steps.max() <= RATE * LIMIT * (1 + 1e-12)
    if clipping == "value":
        assert np.abs(np.diff(path, axis=0)).max() <= RATE * LIMIT * (1 + 1e-12)


@lecture("D6", "cliff")
def test_where_the_gradient_overflows_a_random_step_of_its_size_leaves(backend):
    """At b = -w/2 the state stays 0 and dE/db is 2 (1/2 - 0.7) / 4 * sum of (w/4)^k: infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        path = np.array(descend("random", start=(7.9, -3.95), steps=1, T=1200))
        unit = landscapes.Unit(np.array(7.9), np.array(-3.95))
        wild = gradients(landscapes.cliff(unit, 1200), unit.w, unit.b)
    assert not np.isfinite(wild).all()
    assert np.linalg.norm(path[1] - path[0]) == pytest.approx(RATE * LIMIT, rel=1e-12)
    calm = [leaf([3.0]), leaf([4.0])]
    for p in calm:
        p.grad = mg.Tensor([0.5], dtype="float64")
    assert not optim.step_if_nonfinite(calm, 2.0)
    assert [p.grad.item() for p in calm] == [0.5, 0.5]


@lecture("D6", "cliff")
@pytest.mark.parametrize("kind", KINDS)
def test_the_back_propagated_gradient_is_clipped_at_every_step(backend, kind):
    """Against a step-by-step pullback that clips between the steps; the values do not change."""
    rng = np.random.default_rng(4)
    cell = random_cell(kind, D, H, rng)
    xs, weight = mg.Tensor(rng.normal(size=(T, B, D))), mg.Tensor(rng.normal(size=(T, B, H)))
    ys, _ = unroll(ClippedState(cell, 0.2), xs)
    plain, _ = unroll(cell, xs)
    assert (ys.numpy() == plain.numpy()).all()
    found = gradients(mg.sum(ys * weight), cell.parameters())
    states = [cell.initial_state(B)]
    for x in xs:
        states.append(cell(x, states[-1])[1])
    expected = [np.zeros(p.shape) for p in cell.parameters()]
    later, clipped = None, 0
    for t in reversed(range(T)):
        entered = mg.tree.map(lambda s: leaf(s.numpy()), states[t])
        y, new = cell(xs[t], entered)
        total = mg.sum(y * weight[t])
        if later is not None:
            for part, g in zip(mg.tree.flatten(new)[0], later):
                total = total + mg.sum(part * mg.Tensor(g))
        parts = mg.tree.flatten(entered)[0]
        (*own,) = gradients(total, cell.parameters(), parts)
        expected = [e + g for e, g in zip(expected, own)]
        arrived = own[len(expected) :]
        clipped += sum(int((np.abs(g) > 0.2).sum()) for g in arrived)
        later = [np.clip(g, -0.2, 0.2) for g in arrived]
    assert clipped > 10
    for ours, g in zip(found, expected):
        close(ours, g)


@lecture("D6", "compiled")
@pytest.mark.parametrize("limit", [0.05, 1e3])
def test_the_back_propagated_gradient_is_clipped_inside_compiled_backward(
    backend, limit, monkeypatch
):
    """Against the equations of a tanh RNN in NumPy, whose gradient is clipped between steps."""
    monkeypatch.delenv("MINIGRAD_COMPILE", raising=False)
    rng = np.random.default_rng(14)
    cell = random_cell("rnn", D, H, rng)
    xs, weight = rng.normal(size=(T, B, D)), rng.normal(size=(T, B, H))
    Wx, Wh, b = cell.Wx.numpy(), cell.Wh.numpy(), cell.b.numpy()

    @mg.compile
    def step(xs):
        ys, _ = unroll(ClippedState(cell, limit), xs)
        mg.sum(ys * mg.Tensor(weight)).backward()
        return ys

    hs = [np.zeros((B, H))]
    for x in xs:
        hs.append(np.tanh(x @ Wx + hs[-1] @ Wh + b))
    close(step(xs), np.array(hs[1:]))
    dWx, dWh, db, later, clipped = 0.0, 0.0, 0.0, 0.0, 0
    for t in reversed(range(T)):
        da = (weight[t] + later) * (1 - hs[t + 1] ** 2)
        dWx, dWh, db = dWx + xs[t].T @ da, dWh + hs[t].T @ da, db + da.sum(axis=0)
        later = np.clip(da @ Wh.T, -limit, limit)
        clipped += int((np.abs(da @ Wh.T) > limit).sum())
    assert (clipped > 50) == (limit < 1)
    for p, g in ((cell.Wx, dWx), (cell.Wh, dWh), (cell.b, db)):
        close(p.grad, g)
    assert step.graph.loops()


def test_clipping_backward_is_invisible_in_forward_mode(backend):
    x, v = mg.Tensor([1.0, -2.0]), mg.Tensor([30.0, 0.5])
    _, tangent = mg.jvp(lambda x: 3.0 * mg.clip_gradient(x, 0.0), [x], [v])
    close(tangent, 3.0 * v.numpy())
    close(mg.grad(lambda x: mg.sum(mg.clip_gradient(x, 0.5) * v))(x), [0.5, 0.5])
    assert [op.name for op in REGISTRY.values() if not op.linear] == ["clip_gradient"]
    with pytest.raises(TypeError, match="linear=False goes with a jvp"):
        define_op("bent", lambda xp, x: x, shape=lambda x: x, linear=False, x=lambda g: g)
    with pytest.raises(TypeError, match="linear=False goes with a jvp"):
        define_op("bent", lambda xp, x: x, shape=lambda x: x, jvp={"x": lambda g: g})
    assert "bent" not in REGISTRY


@lecture("D6", "global norm")
@pytest.mark.parametrize("limit", [0.1, 2.0, 1e3])
def test_the_joint_norm_keeps_the_direction(backend, limit):
    rng = np.random.default_rng(5)
    parameters = [leaf(np.zeros(shape)) for shape in ((3, 4), (4,), (2, 2))]
    for scale, p in zip((10.0, 0.1, 1.0), parameters):
        p.grad = mg.Tensor(scale * rng.normal(size=p.shape))
    before = np.concatenate([p.grad.numpy().reshape(-1) for p in parameters])
    norm = optim.clip_by_global_norm(parameters, limit)
    after = np.concatenate([p.grad.numpy().reshape(-1) for p in parameters])
    size = np.sqrt((before**2).sum())
    assert norm.item() == pytest.approx(size, rel=1e-12)
    assert np.linalg.norm(after) == pytest.approx(min(size, limit), rel=1e-12)
    assert before @ after / (size * np.linalg.norm(after)) >= 1 - 1e-12


@lecture("D6", "edges")
def test_a_gradient_of_zero_or_of_the_limits_size_is_unchanged(backend):
    for values in ([[0.0, 0.0], [0.0]], [[3.0, 0.0], [-4.0]]):
        parameters = [leaf(np.zeros(len(v))) for v in values]
        for p, v in zip(parameters, values):
            p.grad = mg.Tensor(v, dtype="float64")
        optim.clip_by_global_norm(parameters, 5.0)
        assert [p.grad.tolist() for p in parameters] == values
        optim.clip_by_value(parameters, 4.0)
        assert [p.grad.tolist() for p in parameters] == values
        for p, v in zip(parameters, values):
            close(gradients(mg.sum(mg.clip_gradient(p, 4.0) * mg.Tensor(v)), p)[0], v, 0)


@lecture("D7", "picture")
def test_the_landscape_is_one_batch(backend, tmp_path):
    w, b, E = landscapes.cliff_grid(300, 20)
    assert E.shape == (300, 300)
    assert (w[0], w[-1], b[0], b[-1]) == (-2, 8, -4, 2)
    expected = cliff_oracle.cliff(*np.meshgrid(w, b), 20)[0]
    near = np.abs(b[:, None] + w / 2) < 1e-2  # on the cliff rounding is amplified
    close(np.where(near, 0, E), np.where(near, 0, expected), 1e-9)
    cells = mg.Tensor(np.linspace(0.0, 1.0, 5))
    unit = landscapes.Unit(3 * cells.numpy(), -cells.numpy())
    found = gradients(mg.sum(landscapes.cliff(unit, 7)), unit.w, unit.b)
    for ours, g in zip(found, cliff_oracle.cliff(3 * cells.numpy(), -cells.numpy(), 7)[1:]):
        close(ours, g)
    picture = tmp_path / "cliff.png"
    landscapes.draw_cliff(picture, n=30, runs=[np.array(descend("norm", steps=10))])
    assert picture.read_bytes()[:4] == b"\x89PNG"


@lecture("D7", "law")
def test_the_cliff_steepens_by_a_quarter_of_w_a_step(backend):
    """The maximum over b of |dE/db|, by golden section on the lower side of b = -w/2."""
    w, lengths = np.array([5.0, 6.0, 8.0]), [10, 30, 50]

    def steepness(offset, T):
        unit = landscapes.Unit(w, -w / 2 - offset)
        return np.abs(gradients(mg.sum(landscapes.cliff(unit, T)), unit.b)[0])

    logs = []
    for T in lengths:
        low, high = np.zeros(3), 20 * (w / 4) ** -float(T)
        for _ in range(16):
            a, b = high - 0.618 * (high - low), low + 0.618 * (high - low)
            left = steepness(a, T) > steepness(b, T)
            low, high = np.where(left, low, a), np.where(left, b, high)
        logs.append(np.log(steepness((low + high) / 2, T)))
    slopes = np.polyfit(lengths, np.array(logs), 1)[0]
    np.testing.assert_allclose(slopes, np.log(w / 4), rtol=0.03)


# --- D8: the regulariser for vanishing gradients --------------------------------------------------


def omega_case(kind, seed, T=5):
    rng = np.random.default_rng(seed)
    cell = random_cell(kind, D, H, rng)
    return cell, rng.normal(size=(T, B, D)), rng.normal(size=(T, B, H))


def squared(target):
    return lambda ys: mg.sum((ys - mg.Tensor(target)) ** 2)


@lecture("D8", "exact")
def test_omega_and_its_exact_gradient_are_those_of_the_equation(backend):
    cell, x, target = omega_case("rnn", 6)

    def written_out(values):
        p = {"U": values["Wx"].T, "W": values["Wh"].T, "b": values["b"]}
        rows = [cliff_oracle.tanh_omega(p, x[:, b], target[:, b], np.zeros(H)) for b in range(B)]
        return np.mean(rows)

    values = {name: p.numpy().copy() for name, p in cell.state_dict().items()}
    loss, omega = vanishing.omega(cell, squared(target), mg.Tensor(x))
    close(omega, written_out(values))
    ys, _ = unroll(cell, mg.Tensor(x))
    close(loss, ((ys.numpy() - target) ** 2).sum())
    found = dict(zip(values, gradients(omega, [getattr(cell, name) for name in values])))
    for name, value in values.items():
        expected = np.zeros(value.shape)
        for place in np.ndindex(value.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = value.copy()
                moved[place] += step
                sides.append(written_out({**values, name: moved}))
            expected[place] = (sides[0] - sides[1]) / 2e-5
        close(found[name], expected, 1e-7)


@lecture("D8", "exact")
@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_gradient_of_omega_for_any_cell(backend, kind):
    """And of the sum with the loss, along a random direction, against differences."""
    cell, x, target = omega_case(kind, 7)
    rng = np.random.default_rng(8)
    start = [p.numpy().copy() for p in cell.parameters()]
    way = [rng.normal(size=p.shape) for p in cell.parameters()]

    def total(step=0.0):
        for p, value, v in zip(cell.parameters(), start, way):
            p.assign(value + step * v)
        loss, omega = vanishing.omega(cell, squared(target), mg.Tensor(x))
        return 0.1 * loss + 3.0 * omega

    found = gradients(total(), cell.parameters())
    slope = (total(1e-5).item() - total(-1e-5).item()) / 2e-5
    assert sum((g * v).sum() for g, v in zip(found, way)) == pytest.approx(slope, rel=1e-6)


class PascanuCell(nn.Module):
    """h' = tanh(h) W + x U + b: the parametrisation in which the rule was published."""

    def __init__(self, p):
        self.W, self.U, self.b = (
            nn.Parameter(mg.Tensor(p[name].T.copy())) for name in ("W", "U", "b")
        )

    def initial_state(self, batch):
        return mg.zeros((batch, H), dtype="float64")

    def __call__(self, x, h):
        h = mg.tanh(h) @ self.W + x @ self.U + self.b
        return h, h


@lecture("D8", "approximate")
def test_the_approximate_gradient_is_the_published_rule(backend):
    rng = np.random.default_rng(9)
    p = {name: rng.normal(size=s) for name, s in {"W": (H, H), "U": (H, D), "b": (H,)}.items()}
    x, target, h0 = rng.normal(size=(5, D)), rng.normal(size=(5, H)), np.zeros(H)
    h = [h0]
    for row in x:
        h.append(p["W"] @ np.tanh(h[-1]) + p["U"] @ row + p["b"])
    Js = [p["W"] @ np.diag(1 - np.tanh(h[t]) ** 2) for t in range(1, 5)]  # dh(t+1)/dh(t)
    gs = [2 * (h[5] - target[4])]
    for t in (4, 3, 2):
        gs.insert(0, 2 * (h[t] - target[t - 1]) + gs[0] @ Js[t - 1])
    cell = PascanuCell(p)
    inputs, loss = mg.Tensor(x[:, None]), squared(target[:, None])
    _, exact = vanishing.omega(cell, loss, inputs)
    _, omega = vanishing.omega(cell, loss, inputs, mode="approximate")
    for value in (exact, omega):
        close(value, cliff_oracle.omega(gs, Js))
    [rule] = gradients(omega, cell.W)
    close(rule, cliff_oracle.published_gradient(p, x, gs, h0).T)
    assert np.abs(gradients(exact, cell.W)[0] - rule).max() > 1e-3


def test_omega_counts_no_step_without_a_gradient_and_needs_the_state(backend):
    cell, x, target = omega_case("rnn", 10)
    early = lambda ys: mg.sum((ys[:3] - mg.Tensor(target[:3])) ** 2)  # noqa: E731
    _, omega = vanishing.omega(cell, early, mg.Tensor(x))
    _, short = vanishing.omega(cell, squared(target[:3]), mg.Tensor(x[:3]))
    close(omega, short.item())
    assert all(np.isfinite(g).all() for g in gradients(omega, cell.parameters()))
    with pytest.raises(ValueError, match="the output of Readout is no part of its state"):
        vanishing.omega(Readout(cell, mg.tanh), early, mg.Tensor(x))
    with pytest.raises(ValueError, match="mode='quick': give one of 'exact', 'approximate'"):
        vanishing.omega(cell, early, mg.Tensor(x), mode="quick")
    with pytest.raises(mg.ShapeError, match="at least two time steps"):
        vanishing.omega(cell, squared(target[:1]), mg.Tensor(x[:1]))


@pytest.mark.parametrize("mode", vanishing.MODES)
def test_omega_of_small_gradients(backend, mode):
    """A loss times c has gradients times c, and the same Omega; those without squares are none."""
    cell, x, target = omega_case("rnn", 11)
    found = []
    for c in (1.0, 1e-140, 1e-160):
        loss = squared(target)
        _, omega = vanishing.omega(cell, lambda ys: c * loss(ys), mg.Tensor(x), mode=mode)  # noqa: B023
        found.append([omega.item(), *gradients(omega, cell.parameters())])
    for one, other, none in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9)
        np.testing.assert_array_equal(none, np.zeros_like(one))


# --- D10: vanishing and exploding gradients -------------------------------------------------------


def linear_cell(W):
    cell = rnn.RNNCell(1, len(W), activation=lambda a: a, dtype="float64")
    cell.Wh.assign(W)
    return cell


def rotation(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def lstm_with_open_gate():
    cell = rnn.LSTMCell(1, 2, dtype="float64")
    for p in (cell.Wx, cell.Wh):
        p.assign(np.zeros(p.shape))
    cell.b.assign([0, 0, 5, 5, 0, 0, 0, 0])  # i, f, g, o
    return cell


@lecture("D10", "linear")
@pytest.mark.parametrize("radius", [0.9, 1.0, 1.1])
def test_a_linear_rnn_scales_gradients_by_powers_of_its_eigenvalues(backend, radius):
    lag, Q = 30, rotation(4, 11)
    values = radius * np.array([1, -0.8, 0.5, -0.1])
    powers = [Q @ np.diag(values**k) @ Q.T for k in range(lag, -1, -1)]
    jacobians = vanishing.state_jacobians(
        linear_cell(Q @ np.diag(values) @ Q.T), mg.ones((lag, 2, 1), dtype="float64")
    )
    for b in range(2):
        np.testing.assert_allclose(jacobians.numpy()[:, b], powers, rtol=1e-10, atol=1e-12)
    norms = vanishing.jacobian_norms(linear_cell(radius * Q), mg.ones((lag, 2, 1), dtype="float64"))
    np.testing.assert_allclose(
        norms, np.repeat(radius ** np.arange(lag, -1.0, -1), 2).reshape(-1, 2), rtol=1e-10
    )


@lecture("D10", "LSTM path")
def test_the_path_of_the_lstms_cell_in_closed_form(backend):
    jacobians = vanishing.state_jacobians(
        lstm_with_open_gate(), mg.zeros((100, 1, 1), dtype="float64")
    )
    close(jacobians[0, 0, 2:, 2:], np.eye(2) * (1 + np.exp(-5)) ** -100.0, 1e-9)
    assert jacobians[0, 0, 2, 2].item() == pytest.approx(0.511, abs=5e-4)


@lecture("D10", "tanh path")
def test_the_path_of_a_tanh_rnn_vanishes(backend):
    Q = rotation(4, 12)
    cell = rnn.RNNCell(1, 4, dtype="float64")
    cell.Wh.assign(Q @ np.diag([0.9, -0.9, 0.4, 0.1]) @ Q.T)
    xs = mg.Tensor(np.random.default_rng(13).normal(size=(100, 2, 1)))
    assert (vanishing.jacobian_norms(cell, xs)[0] <= 2.7e-5).all()


@lecture("D10", "plots")
def test_the_curves_of_vanishing_and_exploding_gradients(backend, tmp_path):
    xs = mg.zeros((20, 1, 1), dtype="float64")
    cells = {f"radius {r}": linear_cell(r * rotation(4, 14)) for r in (0.9, 1.0, 1.1)}
    cells["LSTM"] = lstm_with_open_gate()
    curves = {name: vanishing.jacobian_norms(cell, xs)[:, 0] for name, cell in cells.items()}
    figure = landscapes.draw_norms(curves, tmp_path / "norms.svg")
    [axes] = figure.axes
    assert [line.get_label() for line in axes.lines] == list(cells)
    for line, rate in zip(axes.lines, (0.9, 1.0, 1.1, 1 / (1 + np.exp(-5)))):
        lags, norms = line.get_data()
        assert norms[lags == 0] == pytest.approx(1)
        assert np.log(norms[0] / norms[1]) == pytest.approx(np.log(rate), rel=1e-2, abs=1e-9)
    assert axes.get_yscale() == "log"
    assert "<svg" in (tmp_path / "norms.svg").read_text()


# --- D11: function composition --------------------------------------------------------------------


def composition(seed, points=8001, g=3.0, n=100):
    """x, and W, direction and projection of Fig 10.15."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=n)
    return (
        np.linspace(-20, 20, points),
        g * rng.normal(size=(n, n)) / np.sqrt(n),
        direction / np.linalg.norm(direction),
        rng.normal(size=n),
    )


def folds(seeds):
    """Per seed and k = 0, ..., 5: the number of extrema, and the share of flat points."""
    turns, flat = [], []
    for seed in seeds:
        with mg.no_grad():
            x, *rest = composition(seed)
            ys = landscapes.composed(*map(mg.Tensor, (x, *rest)), 5).numpy()
        turns.append([landscapes.extrema(y) for y in ys])
        flat.append([landscapes.flat_share(np.gradient(y, x)) for y in ys])
    return np.mean(turns, axis=0), np.mean(flat, axis=0)


@lecture("D11", "extrema")
@lecture("D11", "flat")
@pytest.mark.slow
def test_composition_folds_the_curve(backend):
    turns, flat = folds(range(30))
    assert (np.diff(turns) > 0).all()
    assert (flat[3:] >= 0.9).all()


def test_composition_folds_the_curve_quickly(backend):
    turns, flat = folds(range(3))
    assert turns[0] < turns[2] < turns[5]
    assert (flat[3:] >= 0.9).all()


@lecture("D11", "derivative")
def test_the_derivative_of_the_composition(backend):
    """By autograd against differences of a transcription, at g = 1, 2, 3, 5."""
    for g in (1.0, 2.0, 3.0, 5.0):
        x, W, direction, projection = composition(15, points=21, g=g, n=20)

        def curve(x, k, W=W, direction=direction, projection=projection):
            h = np.outer(x, direction)
            for _ in range(k + 1):
                h = np.tanh(h @ W)
            return h @ projection

        point = leaf(x)
        ys = landscapes.composed(point, *map(mg.Tensor, (W, direction, projection)), 3)
        for k in range(4):
            close(ys[k], curve(x, k))
            point.grad = None
            mg.sum(ys[k]).backward(retain_graph=True)
            step = 1e-6
            close(point.grad, (curve(x + step, k) - curve(x - step, k)) / (2 * step), 1e-6)


def test_turns_and_flat_points_are_counted():
    assert landscapes.extrema(np.array([0, 1, 1, 0, 2, 3, 1.0])) == 3
    assert landscapes.extrema(np.arange(5.0)) == 0
    assert landscapes.flat_share(np.array([10, -0.5, 0.9, 1.1])) == 0.5

"""Rows D of the lectures, second part: schedules, clipping, what gradients do over time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional as F
from minigrad import nn, optim
from minigrad.op import REGISTRY
from minigrad.op import op as define_op
from minigrad_rnn import landscapes, unroll
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
    w, lengths = np.array([5.0, 6.0, 8.0]), [10, 20, 30, 40, 50]

    def steepness(offset, T):
        unit = landscapes.Unit(w, -w / 2 - offset)
        return np.abs(gradients(mg.sum(landscapes.cliff(unit, T)), unit.b)[0])

    logs = []
    for T in lengths:
        low, high = np.zeros(3), 20 * (w / 4) ** -float(T)
        for _ in range(25):
            a, b = high - 0.618 * (high - low), low + 0.618 * (high - low)
            left = steepness(a, T) > steepness(b, T)
            low, high = np.where(left, low, a), np.where(left, b, high)
        logs.append(np.log(steepness((low + high) / 2, T)))
    slopes = np.polyfit(lengths, np.array(logs), 1)[0]
    np.testing.assert_allclose(slopes, np.log(w / 4), rtol=0.03)

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
from minigrad_rnn import unroll
from minigrad_rnn.patterns import Readout
from minigrad_rnn.training import TBPTT
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

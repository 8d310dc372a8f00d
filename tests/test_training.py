"""Schedules: any cell, ragged and with resets: all give the same gradient; what they cost."""

import tracemalloc

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad import nn
from minigrad_rnn import unroll
from minigrad_rnn.patterns import Readout
from minigrad_rnn.training import (
    BPTT,
    RTRL,
    TBPTT,
    Checkpoint,
    ClippedState,
    Stream,
    reach,
    segments,
)
from tests.recurrent import KINDS, close, gradients, leaf, random_cell, randomise

T, B, D, H, V = 9, 3, 2, 3, 3
SCHEDULES = {
    "tbptt": TBPTT(T, T),
    "tbptt in pieces": TBPTT(2, T),
    "checkpoint": Checkpoint(6),
    "checkpoint in all": Checkpoint(T),
    "checkpoint, nested": Checkpoint(7),
    "rtrl": RTRL(),
}
TO_THE_BIT = {"tbptt", "checkpoint", "checkpoint in all", "checkpoint, nested"}
WIRINGS = {
    "plain": lambda kind, rng: random_cell(kind, D, H, rng),
    "stack": lambda kind, rng: rnn.Stack(
        [random_cell(kind, D, 2, rng), random_cell("lstm", 2, H, rng)]
    ),
    "learned state": lambda kind, rng: randomise(
        rnn.LearnedState(random_cell(kind, D, H, rng)), rng
    ),
}


def model(kind, rng, wiring="plain"):
    head = randomise(nn.Linear(H, V, dtype="float64"), rng)
    return Readout(WIRINGS[wiring](kind, rng), head)


def summed(logits, targets):
    labels, counts = targets
    return F.cross_entropy(logits, labels, mask=counts, reduction="sum")


def found(schedule, cell, xs, targets, **more):
    for p in cell.parameters():
        p.grad = mg.ones_like(p)  # to which gradients are added
    value, state = schedule(cell, summed, xs, targets, **more)
    return value, state, [p.grad.numpy() for p in cell.parameters()]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("kind", "wiring"),
    [("rnn", "plain"), ("lstm", "stack"), ("gru", "plain"), ("gru before", "learned state")],
)
def test_every_schedule_gives_the_gradient_of_the_whole(backend, kind, wiring, schedule):
    """Against a plain loop through unroll; ragged, with resets; to the bit where none is cut."""
    rng = np.random.default_rng(1)
    cell, xs = model(kind, rng, wiring), mg.Tensor(rng.normal(size=(T, B, D)))
    labels, lengths = rng.integers(0, V, (T, B)), [T, 4, 0]
    mask = np.arange(T)[:, None] < lengths
    resets = rng.random((T, B)) < 0.2
    for options in ({}, {"lengths": lengths, "resets": resets}):
        counts = mask if options else np.ones((T, B), bool)
        ys, last = unroll(cell, xs, **options)
        loss = summed(ys, (labels, counts))
        expected = gradients(loss, cell.parameters())
        value, state, ours = found(SCHEDULES[schedule], cell, xs, (labels, counts), **options)
        close(value, loss.item())
        for s, own in zip(*(mg.tree.flatten(n)[0] for n in (last, state)), strict=True):
            close(own, s.numpy())
            assert not own.requires_grad
        for g, e in zip(ours, expected, strict=True):
            close(g, 1 + e, 1e-10 if schedule == "rtrl" else 1e-12)
        if schedule in TO_THE_BIT and not options:
            for g, e in zip(ours, found(BPTT(), cell, xs, (labels, counts))[2], strict=True):
                assert (g == e).all()


@pytest.mark.parametrize("kind", KINDS)
def test_real_time_recurrent_learning_at_every_step(backend, kind):
    """The gradient of each step's loss is complete at that step, and equal to the way back's."""
    rng = np.random.default_rng(2)
    cell, xs = random_cell(kind, D, H, rng), rng.normal(size=(T, 2, D))
    weight, seen = mg.Tensor(rng.normal(size=(T, 2, H))), []

    def note(steps, loss):
        seen.append([p.grad.numpy() for p in cell.parameters()])
        for p in cell.parameters():
            p.grad = None

    loss = lambda ys, w: mg.sum(ys * w)  # noqa: E731
    RTRL()(cell, loss, mg.Tensor(xs), weight, after=note)
    assert len(seen) == T
    for t, ours in enumerate(seen):
        ys, _ = unroll(cell, mg.Tensor(xs[: t + 1]))
        for g, e in zip(ours, gradients(mg.sum(ys[t] * weight[t]), cell.parameters()), strict=True):
            close(g, e, 1e-10)


def test_the_gradient_of_a_given_state_and_of_inputs(backend):
    rng = np.random.default_rng(3)
    cell, weight = random_cell("gru", D, H, rng), mg.Tensor(rng.normal(size=(T, B, H)))
    x, h = rng.normal(size=(T, B, D)), rng.normal(size=(B, H))
    loss = lambda ys, w: mg.sum(ys * w)  # noqa: E731
    results = []
    for schedule in (BPTT(), TBPTT(2, T), Checkpoint(6)):
        xs, state = leaf(x), leaf(h)
        schedule(cell, loss, xs, weight, state)
        results.append((xs.grad.numpy(), state.grad.numpy()))
    for ours in results[1:]:
        for g, e in zip(ours, results[0], strict=True):
            close(g, e)
    for named in (False, True):
        state = leaf(h)
        more = [state] if named else []
        RTRL()(cell, loss, mg.Tensor(x), weight, state, parameters=[*cell.parameters(), *more])
        close(state.grad, results[0][1])


def test_a_recomputed_step_draws_the_same_numbers(backend):
    """Dropout inside the cell: the same gradient as without recomputation, and the same draws."""
    rng = np.random.default_rng(4)
    cell = rnn.Stack([random_cell("rnn", D, H, rng), random_cell("rnn", H, H, rng)], dropout=0.5)
    xs, weight = mg.Tensor(rng.normal(size=(T, B, D))), mg.Tensor(rng.normal(size=(T, B, H)))
    loss, results = lambda ys, w: mg.sum(ys * w), []
    for schedule in (BPTT(), Checkpoint(6), Checkpoint(7)):
        mg.random.seed(5)
        for p in cell.parameters():
            p.grad = None
        schedule(cell, loss, xs, weight)
        results.append([*(p.grad.numpy() for p in cell.parameters()), mg.random.uniform(None, 3)])
    for ours in results[1:]:
        for g, e in zip(ours, results[0], strict=True):
            close(g, e if isinstance(e, np.ndarray) else e.numpy(), 0)


@pytest.mark.parametrize("schedule", [n for n in SCHEDULES if n != "tbptt"])
@pytest.mark.parametrize("given", [False, True])
def test_a_random_state_is_drawn_once_a_sequence(backend, schedule, given):
    """Noise in the state at the beginning and at resets, masks, zoneout: the same in all pieces."""
    rng = np.random.default_rng(8)
    inner = rnn.VariationalDropout(random_cell("gru", D, H, rng), x=0.3, h=0.3)
    cell = rnn.Zoneout(rnn.NoisyState(randomise(rnn.LearnedState(inner), rng), 0.5), 0.2)
    xs, weight = mg.Tensor(rng.normal(size=(T, B, D))), mg.Tensor(rng.normal(size=(T, B, H)))
    resets = np.zeros((T, B), bool)
    resets[[2, 5, 7], [0, 1, 0]] = True
    results = []
    for way in (BPTT(), SCHEDULES[schedule]):
        mg.random.seed(9)
        state = mg.tree.map(lambda s: s.detach(), cell.initial_state(B)) if given else None
        for p in cell.parameters():
            p.grad = None
        value, last = way(cell, lambda ys, w: mg.sum(ys * w), xs, weight, state, resets=resets)
        grads = [p.grad for p in cell.parameters() if p.grad is not None]
        results.append([value, *mg.tree.flatten(last)[0], *grads, mg.random.uniform(None, 3)])
    for ours, expected in zip(*results, strict=True):
        close(ours, expected.numpy())


class Witness:
    """A cell that shows the noise of its first state and that of the step, both in its state."""

    def initial_state(self, batch):
        return mg.random.normal(None, (batch, 1)), mg.zeros((batch, 1))

    def __call__(self, x, state):
        noise = mg.random.normal(None, x.shape)
        self.seen.setdefault(x.item(), set()).add((state[0].item(), noise.item()))
        return state[0] + noise * x, (state[0], noise)


def test_a_stream_runs_its_past_again_with_the_same_draws(backend):
    """Though others draw in between; every advance's resets have a draw of their own."""
    mg.random.seed(10)
    cell, steps = Witness(), mg.arange(1, 13).astype("float32").reshape(12, 1, 1)
    cell.seen = {}
    stream = Stream(cell, lambda ys, _: mg.sum(mg.random.normal(None, ()) * leaf(1) + ys), 2, 5)
    for start in range(0, 12, 2):
        part = steps[start : start + 2]
        stream.advance(part, None, resets=None if start < 6 else np.array([[False], [True]]))
        mg.random.uniform(None, 3)
    draws = [cell.seen[float(t)] for t in range(1, 13)]
    assert [len(pairs) for pairs in draws] == [1] * 12
    first, noise = zip(*(pair for pairs in draws for pair in pairs), strict=True)
    assert len(set(noise)) == 12
    assert [len(set(first[i:j])) for i, j in ((0, 7), (7, 9), (9, 11), (11, 12))] == [1] * 4
    assert len(set(first)) == 4


def peak(schedule, steps):
    cell = rnn.LSTMCell(16, 32)
    xs, weight = mg.ones((steps, 16, 16)), mg.ones((steps, 16, 32))
    tracemalloc.start()
    schedule(cell, lambda ys, w: mg.sum(ys * w), xs, weight)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_the_peak_of_memory_is_within_the_budget():
    """A step's share is what BPTT of 100 steps takes; 24 of 400 steps take no more than 24 do."""
    with mg.use_backend("numpy"):
        peak(BPTT(), 2)
        step = peak(BPTT(), 100) / 100
        for steps, memory in ((100, 20), (400, 24), (400, 40)):
            assert peak(Checkpoint(memory), steps) <= memory * step
        assert peak(TBPTT(5, 5), 400) <= 12 * step


def test_where_a_sequence_is_cut():
    """Brute force: the longest sequence for a memory and number of recomputations."""

    def longest(memory, depth):
        if depth == 0:
            return memory
        return max((k * longest(memory - k, depth - 1) for k in range(1, memory)), default=0)

    for memory in range(1, 9):
        for depth in range(3):
            assert reach(memory, depth) == longest(memory, depth)
    assert segments(9, 9) == [9]
    assert segments(9, 6) == [3, 6, 9]
    assert [len(segments(100, m)) for m in (99, 50, 20)] == [2, 3, 10]
    with pytest.raises(ValueError, match="memory=5: not enough for 7 steps; give 6 or more"):
        segments(7, 5)
    for T in (8, 30, 100):
        with pytest.raises(ValueError, match="not enough") as caught:
            segments(T, 3)
        least = int(str(caught.value).split()[-3])
        assert segments(T, least)[-1] == T
        with pytest.raises(ValueError, match=f"give {least} or more"):
            segments(T, least - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_do_not_depend_on_training_or_evaluation(backend, kind):
    """Without chance in the model they are equal to the bit; with dropout, in evaluation, FD's."""
    rng = np.random.default_rng(6)
    xs, weight = mg.Tensor(rng.normal(size=(T, B, D))), mg.Tensor(rng.normal(size=(T, B, H)))
    plain = rnn.Stack([random_cell(kind, D, H, rng), random_cell(kind, H, H, rng)])
    score = lambda cell: mg.sum(unroll(cell, xs)[0] * weight)  # noqa: E731
    both = []
    for training in (True, False):
        plain.train(training)
        x = leaf(xs.numpy())
        both.append(gradients(mg.sum(unroll(plain, x)[0] * weight), plain.parameters(), x))
    for a, b in zip(*both, strict=True):
        assert (a == b).all()
    noisy = rnn.NoisyState(rnn.Stack(plain.cells, dropout=0.5), 0.3)
    noisy.eval()
    for ours, expected in zip(gradients(score(noisy), noisy.parameters()), both[0], strict=False):
        close(ours, expected)
    value_and_second = mg.jvp(mg.grad(lambda x: mg.sum(unroll(noisy, x)[0] * weight)), [xs], [xs])
    step = 1e-6
    sides = [
        mg.grad(lambda x: mg.sum(unroll(plain, x)[0] * weight))(xs * (1 + s)).numpy()
        for s in (step, -step)
    ]
    close(value_and_second[1], (sides[0] - sides[1]) / (2 * step), 1e-6)


def test_a_stream_of_pieces_of_any_length_with_masks_and_resets(backend):
    """Fed in pieces of 1 to 3 steps: values and last state are those of the whole sequence."""
    rng = np.random.default_rng(7)
    cell, xs = random_cell("lstm", D, H, rng), rng.normal(size=(T, B, D))
    mask, resets = rng.random((T, B)) < 0.8, rng.random((T, B)) < 0.2
    ys, last = unroll(cell, mg.Tensor(xs), mask=mask, resets=resets)
    seen = []

    def loss(ys, targets):
        seen.append(ys.numpy())
        return mg.sum(ys)

    stream = Stream(cell, loss, 3, 5)
    for start, stop in ((0, 3), (3, 4), (4, 6), (6, 9)):
        part = slice(start, stop)
        stream.advance(mg.Tensor(xs[part]), None, mask=mask[part], resets=resets[part])
    close(np.concatenate(seen), ys.numpy())
    for ours, expected in zip(mg.tree.flatten(stream.state)[0], mg.tree.flatten(last)[0]):
        close(ours, expected.numpy())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TBPTT(3, 2), ValueError, "k1=3, k2=2: .* give k1 <= k2"),
        (lambda: TBPTT(0, 2), ValueError, "k1=0: give an integer >= 1"),
        (lambda: Stream(None, None, 4, 1), ValueError, "k1=4, k2=1"),
        (lambda: Checkpoint(0), ValueError, "memory=0: give an integer >= 1"),
        (lambda: ClippedState(None, -1), ValueError, "limit=-1: give a number >= 0"),
        (lambda: BPTT()(None, None, None, None), mg.ShapeError, r"inputs \(T, B, ...\)"),
        (
            lambda: BPTT()(None, None, np.ones((4, 2, 1)), np.ones((3, 2))),
            mg.ShapeError,
            r"targets are arrays of 4 steps, as the inputs are, .* not shape \(3, 2\)",
        ),
        (
            lambda: BPTT()(None, None, np.ones((2, 2, 1)), [[0, 1], [1, 0]]),
            mg.ShapeError,
            "targets are arrays of 2 steps, .* not int",
        ),
        *(
            (
                lambda way=way: way(None, None, np.ones((0, 2, 1)), np.ones((0, 2))),
                mg.ShapeError,
                r"a schedule needs a step or more, not inputs \(0, 2, 1\)",
            )
            for way in (BPTT(), TBPTT(1, 2), Checkpoint(2), RTRL())
        ),
        *(
            (
                lambda way=way: way(
                    lambda x, s: (x, s), mg.sum, np.ones((2, 2, 1)), None, parameters=[leaf(1)]
                ),
                ValueError,
                r"has no initial_state\(batch\); pass state=",
            )
            for way in (BPTT(), TBPTT(1, 2), Checkpoint(2), RTRL())
        ),
        (
            lambda: Stream(None, None, 2, 2).advance(np.ones((3, 2, 1)), None),
            ValueError,
            "k1=2 takes so many steps, not 3",
        ),
        (
            lambda: RTRL()(lambda x, s: (x, s), mg.sum, np.ones((3, 2, 1)), None, mg.ones((2, 1))),
            ValueError,
            r"RTRL: needs the cell's parameters; pass parameters=\[...\]",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()

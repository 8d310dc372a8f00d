"""Row D9 of the lectures: dropout with one mask a sequence, zoneout, recurrent dropout, decay.

Shapes: T time, B batch, D input, H hidden.
"""

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad_rnn import unroll
from tests.catalogue import compare
from tests.recurrent import close, gradients, random_cell, randomise, same_bits

lecture = pytest.mark.lecture
T, B, D, H = 5, 3, 16, 24  # large enough that equal masks are no accident


class Echo:
    """A cell that shows what it is given: y = (x, h), h stays."""

    def initial_state(self, batch):
        return mg.ones((batch, H), dtype="float64")

    def __call__(self, x, state):
        return mg.concatenate([x, state], axis=-1), mg.ones_like(state)


def masks(wrapped, batch=B, steps=T, **options):
    """What a dropout lets through of ones: (T, B, D) of the input and (T, B, H) of h."""
    ys, _ = unroll(wrapped, mg.ones((steps, batch, D), dtype="float64"), **options)
    return ys.numpy()[..., :D], ys.numpy()[..., D:]


# --- dropout with one mask a sequence ------------------------------------------------------------


@lecture("D9", "constant mask")
def test_the_mask_is_the_same_at_every_step(backend):
    mg.random.seed(1)
    for kept, p in zip(
        masks(rnn.VariationalDropout(Echo(), x=0.5, h=0.25)), (0.5, 0.25), strict=True
    ):
        assert (kept == kept[:1]).all()
        assert set(np.unique(kept)) == {0.0, 1 / (1 - p)}
        assert len({row.tobytes() for row in kept[0]}) == B  # another one in each row


@lecture("D9", "constant mask")
def test_each_sequence_has_a_mask_of_its_own(backend):
    """Another call, and a row that a reset begins anew, draw new masks; masked steps do not."""
    mg.random.seed(2)
    cell = rnn.VariationalDropout(Echo(), x=0.5, h=0.5)
    first, again = masks(cell)[0], masks(cell)[0]
    assert (first[0] != again[0]).any()
    resets = np.zeros((T, B), bool)
    resets[2, 1] = True
    x, h = masks(cell, resets=resets)
    for kept in (x, h):
        assert (kept[:, [0, 2]] == kept[:1, [0, 2]]).all()
        assert (kept[:2, 1] == kept[0, 1]).all()
        assert (kept[2:, 1] == kept[2, 1]).all()
        assert (kept[2, 1] != kept[0, 1]).any()
    resets[4, 1] = True  # a second reset: the masks of the first, which one state gave
    for kept in masks(cell, resets=resets):
        assert (kept[4, 1] == kept[2, 1]).all()
        assert (kept[2, 1] != kept[0, 1]).any()
    x, _ = masks(cell, lengths=[2, 5, 0])
    assert (x[:2, 0] == x[0, 0]).all()
    assert not x[2:, 0].any()
    assert (x[:, 1] == x[0, 1]).all()


@lecture("D9", "constant mask")
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_an_lstm_with_constant_masks_by_hand(backend, kind):
    """Gal 2016: masks on x and h at every step, the cell of an LSTM not dropped."""
    rng = np.random.default_rng(3)
    cell = random_cell(kind, D, H, rng)
    dropped = rnn.VariationalDropout(cell, x=0.3, h=0.4, y=0.2)
    mg.random.seed(4)
    state = dropped.initial_state(B)
    key = mg.random.Key(state[1])
    kept = [
        mg.random.bernoulli(key.fold(place), size, 1 - p).numpy() / (1 - p)
        for place, (size, p) in enumerate(((D, 0.3), (H, 0.4), (H, 0.2)))
    ]
    xs = rng.normal(size=(T, B, D))
    ys, _ = unroll(dropped, mg.Tensor(xs), state)
    inner, expected = state[0], []
    for x in xs:
        if kind == "lstm":
            inner = (inner[0] * mg.Tensor(kept[1]), inner[1])
        else:
            inner = inner * mg.Tensor(kept[1])
        y, inner = cell(mg.Tensor(x * kept[0]), inner)
        expected.append(y.numpy() * kept[2])
    close(ys, np.array(expected))


@lecture("D9", "expectation")
def test_constant_masks_keep_the_expectation(backend):
    mg.random.seed(5)
    n = 1000
    cell = rnn.VariationalDropout(Echo(), x=0.5, h=0.2)
    for kept, p in zip(masks(cell, n, 2), (0.5, 0.2), strict=True):
        error = np.sqrt(p / (1 - p) / kept[0].size)
        assert abs(kept[0].mean() - 1) < 4 * error
        assert (abs(kept[0].mean(axis=0) - 1) < 5 * np.sqrt(p / (1 - p) / n)).all()


@lecture("D9", "evaluation")
def test_outside_training_constant_masks_do_nothing(backend):
    rng = np.random.default_rng(6)
    cell = random_cell("gru", D, H, rng)
    wrapped = rnn.VariationalDropout(cell, x=0.5, h=0.5, y=0.5).eval()
    xs = mg.Tensor(rng.normal(size=(T, B, D)))
    same_bits(unroll(wrapped, xs)[0], unroll(cell, xs)[0])


# --- zoneout -------------------------------------------------------------------------------------


class Steps:
    """A cell whose state counts up: h and c go from n to n + 1; y is h."""

    def initial_state(self, batch):
        return mg.zeros((batch, H), dtype="float64"), mg.zeros((batch, H), dtype="float64")

    def __call__(self, x, state):
        h, c = state
        return h + 1, (h + 1, c + 1)


@lecture("D9", "expectation")
def test_zoneout_keeps_each_part_with_its_own_probability(backend):
    mg.random.seed(7)
    n, steps, rates = 600, 4, (0.2, 0.6)
    wrapped = rnn.Zoneout(Steps(), rates)
    state = wrapped.initial_state(n)
    total = [0, 0]
    for _ in range(steps):
        _, new = wrapped(None, state)
        for i in range(2):
            moved = new[i].numpy() - state[i].numpy()
            assert set(np.unique(moved)) <= {0.0, 1.0}
            share = moved.mean()
            assert abs(share - (1 - rates[i])) < 4 * np.sqrt(0.25 / moved.size)
            total[i] += share
        state = new
    # the mean over masks is what evaluation gives
    _, last = unroll(wrapped.eval(), None, wrapped.initial_state(1), steps=steps)
    for i in range(2):
        close(last[i], np.full((1, H), steps * (1 - rates[i])))
        assert abs(total[i] - steps * (1 - rates[i])) < 0.05


@lecture("D9", "expectation")
def test_zoneout_of_an_lstm_by_hand(backend):
    """Krueger et al. 2017: the kept old parts, told by who did not move, in the paper's formula."""
    rng = np.random.default_rng(8)
    cell = random_cell("lstm", D, H, rng)
    mg.random.seed(9)
    wrapped = rnn.Zoneout(cell, (0.3, 0.5))
    h, c = (mg.Tensor(rng.normal(size=(B, H))) for _ in range(2))
    kept = [0, 0]
    for x in rng.normal(size=(T, B, D)):
        _, (new_h, new_c) = cell(mg.Tensor(x), (h, c))
        y, (h2, c2) = wrapped(mg.Tensor(x), (h, c))
        for i, (old, new, got) in enumerate(((h, new_h, h2), (c, new_c, c2))):
            stayed = got.numpy() == old.numpy()
            close(got, np.where(stayed, old.numpy(), new.numpy()), 0)
            kept[i] += stayed.mean() / T
        assert y is h2
        h, c = h2, c2
    assert 0.15 < kept[0] < 0.45
    assert 0.35 < kept[1] < 0.65


@lecture("D9", "evaluation")
def test_zoneout_at_test_time_is_the_papers_mean(backend):
    compare("LSTM, zoneout")
    wrapped = rnn.Zoneout(Steps(), 0.25).eval()
    _, (h, c) = wrapped(None, wrapped.initial_state(B))
    close(h, np.full((B, H), 0.75))
    close(c, np.full((B, H), 0.75))


def test_zoneout_leaves_counters_alone(backend):
    """A part of the state that counts steps is no unit: a clockwork's clock goes on."""
    mg.random.seed(10)
    wrapped = rnn.Zoneout(rnn.ClockworkCell(D, 6, (1, 2)), 0.9)
    _, (_, t) = unroll(wrapped, mg.ones((T, B, D)))
    assert t.tolist() == [T] * B


# --- recurrent dropout ---------------------------------------------------------------------------


def dropping(seed):
    cell = rnn.RecurrentDropoutLSTMCell(D, H, 0.4, dtype="float64")
    return randomise(cell, np.random.default_rng(seed))


def candidates(cell, batch):
    """c' of one step from c = 0, where it is i drop(tanh(g)), against the cell without dropout."""
    rng = np.random.default_rng(11)
    x = mg.Tensor(np.broadcast_to(rng.normal(size=D), (batch, D)).copy())
    _, (_, c) = cell(x, cell.initial_state(batch))
    usual = rnn.LSTMCell(D, H, dtype="float64")
    usual.load_state_dict(cell.state_dict())
    _, (_, whole) = usual(x, usual.initial_state(batch))
    return c.numpy() / whole.numpy()


@lecture("D9", "expectation")
def test_recurrent_dropout_keeps_the_expectation_of_the_candidate(backend):
    mg.random.seed(12)
    cell = dropping(13)
    kept = candidates(cell, 800)
    zero, one = kept == 0, np.isclose(kept, 1 / 0.6, rtol=1e-12)
    assert (zero | one).all()
    assert abs(kept.mean() - 1) < 4 * np.sqrt(0.4 / 0.6 / kept.size)


@lecture("D9", "evaluation")
def test_recurrent_dropout_outside_training_is_the_lstm(backend):
    assert (candidates(dropping(14).eval(), B) == 1).all()


def test_what_an_lstm_carries_is_not_dropped(backend):
    """With everything dropped, c' = f c: the forget gate's path is whole."""
    cell = rnn.RecurrentDropoutLSTMCell(D, H, 1.0, dtype="float64")
    c = mg.ones((B, H), dtype="float64")
    _, (_, new) = cell(mg.zeros((B, D), dtype="float64"), (mg.zeros((B, H), dtype="float64"), c))
    close(new, np.full((B, H), 1 / (1 + np.exp(-1.0))))


# --- all of them, and weight decay ---------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_drops_the_same(backend, seed):
    cell = random_cell("lstm", D, H, np.random.default_rng(15))
    wrapped = rnn.Zoneout(rnn.VariationalDropout(cell, x=0.5, h=0.5), 0.3)
    xs = mg.ones((T, B, D), dtype="float64")
    runs = []
    for _ in range(2):
        mg.random.seed(seed)
        ys, _ = unroll(wrapped, xs)
        runs.append([ys.numpy(), *gradients(mg.sum(ys**2), cell.parameters())])
    for a, b in zip(*runs, strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_learned_state_inside_constant_masks(backend):
    """Keys of masks are no numbers to learn: they are drawn anew, the rest is learned."""
    mg.random.seed(17)
    cell = rnn.LearnedState(rnn.VariationalDropout(rnn.LSTMCell(D, H, dtype="float64"), h=0.5))
    assert [s.shape for s in cell.start] == [(1, H), (1, H)]
    keys = [cell.initial_state(B)[1].numpy() for _ in range(2)]
    assert keys[0].shape == (B, 2)
    assert (keys[0] != keys[1]).any()
    ys, _ = unroll(cell, mg.ones((T, B, D), dtype="float64"))
    assert all(g.any() for g in gradients(mg.sum(ys), cell.start))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_weight_decay_of_a_recurrent_network(backend, name):
    """SGD and Adam: the gradient of decay / 2 |p|^2 is added; AdamW: p shrinks by 1 - lr decay."""
    lr, decay = 0.1, 0.3
    xs = mg.ones((T, B, D), dtype="float64")
    cells = [random_cell("gru", D, H, np.random.default_rng(16)) for _ in range(2)]
    for cell, rate in zip(cells, (decay, 0.0), strict=True):
        before = [p.numpy().copy() for p in cell.parameters()]
        loss = mg.sum(unroll(cell, xs)[0] ** 2)
        if name != "AdamW" and rate == 0:
            loss = loss + decay / 2 * sum(mg.sum(p**2) for p in cell.parameters())
        optimizer = getattr(mg.optim, name)(cell.parameters(), lr=lr, weight_decay=rate)
        loss.backward()
        optimizer.step()
    for decayed, plain, old in zip(*(c.parameters() for c in cells), before, strict=True):
        shrunk = lr * decay * old if name == "AdamW" else 0
        close(decayed, plain.numpy() - shrunk, 1e-10)

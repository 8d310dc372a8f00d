"""Row N10: masks and samples that belong to a sample, not to its row, its batch or its padding.

`ids=` of unroll: the same on every backend, whatever else is in the batch. Shapes as elsewhere:
T time, B batch, D input, H hidden.
"""

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import nn, tree
from minigrad.graph import capture
from minigrad_rnn import decode, unroll
from minigrad_rnn.language import CharacterModel
from minigrad_rnn.patterns import sampled
from minigrad_rnn.randomness import sample_keys
from tests.conftest import FAKE_CUPY, usable_backends
from tests.oracles.philox import philox4x32
from tests.recurrent import close, gradients, leaf, random_cell, randomise, same_bits

T, B, D, H = 5, 4, 3, 6
IDS = [7, 0, 12, 3]
LENGTHS = [5, 2, 4, 3]


def wrapped(kind, rng):
    """A network that draws at random in training."""
    if kind == "recurrent dropout":
        return randomise(rnn.RecurrentDropoutLSTMCell(D, H, 0.5, dtype="float64"), rng)
    if kind == "stack":
        return rnn.Stack([random_cell("gru", D, H, rng), random_cell("gru", H, H, rng)], 0.5)
    cell = random_cell("lstm", D, H, rng)
    if kind == "variational dropout":
        return rnn.VariationalDropout(cell, x=0.4, h=0.3, y=0.2)
    if kind == "zoneout":
        return rnn.Zoneout(cell, (0.4, 0.6))
    if kind == "sampled feedback":
        readout = randomise(nn.Linear(H, 4, dtype="float64"), rng)
        return rnn.OutputFeedback(random_cell("gru", D + 4, H, rng), readout, feed=sampled)
    if kind == "noisy state":
        return rnn.NoisyState(cell, 0.5)
    assert kind == "all of them"
    dropped = randomise(rnn.RecurrentDropoutLSTMCell(H, H, 0.5, dtype="float64"), rng)
    whole = rnn.VariationalDropout(cell, x=0.3, h=0.3)
    return rnn.NoisyState(rnn.Stack([whole, rnn.Zoneout(dropped, 0.3)], 0.3), 0.1)


KINDS = ["variational dropout", "zoneout", "recurrent dropout", "stack", "noisy state",
         "sampled feedback", "all of them"]  # fmt: skip


def run(cell, x, ids, **options):
    """ys, and the gradients of sum(ys^2) by the input, from one state of the generator."""
    mg.random.seed(1)
    xs = leaf(x)
    ys, _ = unroll(cell, xs, ids=ids, **options)
    return ys.numpy(), gradients(mg.sum(ys**2), xs)[0]


# --- the rest of the batch, and padding ----------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sample_alone_is_the_sample_in_a_batch_with_padding(backend, kind, reverse):
    rng = np.random.default_rng(2)
    cell, x = wrapped(kind, rng), rng.normal(size=(T, B, D))
    for b, n in enumerate(LENGTHS):
        x[n:, b] = np.nan
    ys, dx = run(cell, x, IDS, lengths=LENGTHS, reverse=reverse)
    for b, n in enumerate(LENGTHS):
        alone = run(cell, x[:n, [b]], [IDS[b]], reverse=reverse)
        for batch, single in zip((ys, dx), alone, strict=True):
            close(batch[:n, b], single[:, 0])
            assert not batch[n:, b].any()
    assert (ys[:, 0] != run(cell, x, [8, *IDS[1:]], lengths=LENGTHS)[0][:, 0]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_in_another_order_among_others(backend, kind):
    rng = np.random.default_rng(3)
    cell, x = wrapped(kind, rng), rng.normal(size=(T, B, D))
    order = [2, 0, 3]
    ys, dx = run(cell, x, IDS)
    fewer = run(cell, x[:, order], np.array(IDS)[order])
    close(fewer[0], ys[:, order])
    close(fewer[1], dx[:, order])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_in_the_middle_and_at_the_front(backend, kind):
    rng = np.random.default_rng(4)
    cell, x = wrapped(kind, rng), rng.normal(size=(T, B, D))
    mask = np.ones((T, B), bool)
    mask[[0, 1], 0] = mask[2, 1] = mask[[1, 3], 3] = False
    ys, dx = run(cell, x, IDS, mask=mask)
    for b in range(B):
        real = mask[:, b]
        alone = run(cell, x[real][:, [b]], [IDS[b]])
        close(ys[real, b], alone[0][:, 0])
        close(dx[real, b], alone[1][:, 0])


def test_layers_in_both_directions_with_dropout_between_them(backend):
    rng = np.random.default_rng(5)
    net = rnn.Layers(
        [
            rnn.Bidirectional(*(rnn.Zoneout(random_cell("gru", n, H, rng), 0.4) for _ in range(2)))
            for n in (D, 2 * H)
        ],
        dropout=0.5,
    )
    x = rng.normal(size=(T, B, D))
    mg.random.seed(6)
    ys, _ = net(mg.Tensor(x), lengths=LENGTHS, ids=IDS)
    for b, n in enumerate(LENGTHS):
        mg.random.seed(6)
        close(net(mg.Tensor(x[:n, [b]]), ids=[IDS[b]])[0][:, 0], ys.numpy()[:n, b])


def test_the_seed_counts_and_so_does_the_call(backend):
    rng = np.random.default_rng(7)
    cell, xs = wrapped("zoneout", rng), mg.Tensor(rng.normal(size=(T, B, D)))
    mg.random.seed(8)
    first, second = (unroll(cell, xs, ids=IDS)[0].numpy() for _ in range(2))
    assert (first != second).any()
    mg.random.seed(8)
    assert (unroll(cell, xs, ids=IDS)[0].numpy() == first).all()
    assert (run(cell, xs.numpy(), IDS)[0] != first).any()


def test_outside_training_numbers_change_nothing(backend):
    rng = np.random.default_rng(9)
    cell, xs = wrapped("all of them", rng).eval(), mg.Tensor(rng.normal(size=(T, B, D)))
    same_bits(unroll(cell, xs, ids=IDS)[0], unroll(cell, xs)[0])


# --- the keys ------------------------------------------------------------------------------------


class Keys:
    """A cell whose state and outputs show the keys that are drawn from: y (B, 2 sites, 2 words)."""

    def initial_state(self, batch):
        return sample_keys().words

    def __call__(self, x, state):
        return mg.stack([sample_keys().words, sample_keys().words], axis=1), state


def test_site_step_and_sample_have_keys_of_their_own(backend):
    mg.random.seed(10)
    ys, first = unroll(Keys(), mg.zeros((T, B, D)), ids=IDS)
    found = np.concatenate([ys.numpy().reshape(-1, 2), first.numpy()])
    assert len({tuple(row) for row in found.tolist()}) == 2 * T * B + B


def test_a_reset_row_starts_from_new_keys(backend):
    mg.random.seed(11)
    resets = np.zeros((T, B), bool)
    resets[2, 1] = True
    _, first = unroll(Keys(), mg.zeros((T, B, D)), ids=IDS)
    mg.random.seed(11)
    _, last = unroll(Keys(), mg.zeros((T, B, D)), ids=IDS, resets=resets)
    changed = (first.numpy() != last.numpy()).any(axis=1)
    assert changed.tolist() == [False, True, False, False]


def fold(key, n):
    """Words 0 and 1 of the block with counter (n low, n high, 1, 0)."""
    return philox4x32((n & 0xFFFFFFFF, n >> 32, 1, 0), key)[:2]


class Masks:
    """A cell that puts out one mask a step (B, H), True with probability 0.3."""

    def __call__(self, x, state):
        return mg.random.bernoulli(sample_keys(), (H,), 0.3), state


@pytest.mark.parametrize("name", [*usable_backends(), FAKE_CUPY])
def test_masks_bit_by_bit_on_every_backend(name):
    """Key -> sample -> step -> site -> word of element, in plain integers; float32 has 24 bits."""
    with mg.use_backend(name):
        mg.random.seed(12)
        key = tuple(int(w) for w in mg.random.next_key().words.numpy())
        mg.random.seed(12)
        kept, _ = unroll(Masks(), mg.zeros((T, B, D)), mg.zeros((B, 1)), ids=IDS)
        expected = np.zeros((T, B, H), bool)
        for t, b in np.ndindex(T, B):
            site = fold(fold(fold(key, IDS[b]), t + 1), 1)
            words = [w for block in range(2) for w in philox4x32((block, 0, 0, 0), site)]
            expected[t, b] = [(w >> 8) * 2.0**-24 < np.float32(0.3) for w in words[:H]]
        assert kept.numpy().tobytes() == expected.tobytes()


def test_without_numbers_draws_are_the_generators(backend):
    """ids=None changes nothing: sample_keys() is None, and rows draw from the ambient generator."""
    mg.random.seed(13)
    kept, _ = unroll(lambda x, s: (mg.Tensor([sample_keys() is None]), s), mg.zeros((T, B, D)), ())
    assert kept.numpy().all()
    assert mg.random.generator.tolist() == [13, 0]


# --- training, and samples -----------------------------------------------------------------------


def trained(steps):
    """The losses and weights of an LSTM with recurrent dropout and zoneout, trained a while."""
    rng = np.random.default_rng(14)
    mg.random.seed(15)
    cell = rnn.Zoneout(rnn.RecurrentDropoutLSTMCell(D, H, 0.3), (0.2, 0.1))
    for parameter in cell.parameters():
        parameter.assign((0.5 * rng.normal(size=parameter.shape)).astype("float32"))
    optimizer = mg.optim.Adam(cell.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        x, target = (rng.normal(size=(T, B, n)).astype("float32") for n in (D, H))
        ys, _ = unroll(cell, mg.Tensor(x), lengths=LENGTHS, ids=rng.integers(0, 1000, B))
        loss = ((ys - mg.Tensor(target)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), [p.numpy() for p in cell.parameters()]


def test_a_hundred_steps_of_training_agree_across_backends():
    runs = []
    for name in usable_backends():
        with mg.use_backend(name):
            runs.append(trained(100))
    for losses, weights in runs[1:]:
        close(losses, runs[0][0], 1e-5)
        for ours, theirs in zip(weights, runs[0][1], strict=True):
            close(ours, theirs, 1e-5)


def texts(ids, length=12):
    """Symbols (length, B) drawn one by one from a model: the key of row b at step t is its own."""
    mg.random.seed(16)
    model = CharacterModel(9, H)
    keys, symbols = mg.random.key(17).fold(mg.Tensor(np.array(ids))), []
    y, state = mg.zeros(len(ids), dtype="int64"), model.initial_state(len(ids))
    with mg.no_grad():
        for t in range(length):
            logits, state = model(y.reshape(1, -1), state)
            y = decode.draw(logits[0], keys.fold(t), 1.5)
            symbols.append(y.numpy())
    return np.array(symbols)


def test_a_sampled_text_does_not_depend_on_the_others(backend):
    together = texts(IDS)
    assert len({column.tobytes() for column in together.T}) == B
    for b, number in enumerate(IDS):
        assert texts([number])[:, 0].tolist() == together[:, b].tolist()
    with mg.use_backend("numpy"):
        assert texts(IDS).tolist() == together.tolist()


# --- in a graph, and what does not fit -----------------------------------------------------------


def test_numbers_are_inputs_of_a_captured_graph_which_folds(backend):
    """Keys are operands: the steps of a loop with a mask each are one loop."""
    rng = np.random.default_rng(18)
    cell = wrapped("all of them", rng)
    xs, ids = mg.Tensor(rng.normal(size=(12, B, D))), mg.Tensor(np.array(IDS))

    def program(xs, ids):
        return unroll(cell, xs, ids=ids)[0]

    graph = capture(program, xs, ids).graph
    assert [value.spec.shape for value in graph.inputs[:2]] == [(12, B, D), (B,)]
    *_, loop = mg.fold(graph).loops()  # before it, the noise of the state's parts
    assert loop.trips == 12
    assert sum(step.op.name == "matmul" for step in graph.walk()) == 12 * 4


@pytest.mark.parametrize(
    "ids", [[1, 2], [[1], [2], [3], [4]], [0.5, 1, 2, 3], [True, False, True, False]]
)
def test_numbers_that_do_not_fit(ids):
    with pytest.raises(mg.ShapeError, match="ids are 4 integers, one a row, not"):
        unroll(rnn.LSTMCell(D, H), mg.zeros((T, B, D)), ids=ids)


def test_no_steps_and_no_rows(backend):
    cell = rnn.RecurrentDropoutLSTMCell(D, H)
    ys, state = unroll(cell, mg.zeros((0, B, D)), ids=IDS)
    assert ys.shape == (0, B, H)
    ys, state = unroll(cell, mg.zeros((T, 0, D)), ids=[])
    assert [s.shape for s in tree.flatten(state)[0]] == [(0, H), (0, H)]

"""fold and unfold of every pattern of the lectures: each cell in each wiring, each way to feed it.

`folds` demands that `unfold(fold(g))` is g, and that both compute the same bits.
"""

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad import tree
from minigrad.graph import Loop
from minigrad_rnn import forcing, unroll
from minigrad_rnn.catalogue import CATALOGUE
from minigrad_rnn.patterns import itself, likeliest, sampled
from tests.catalogue import make
from tests.recurrent import leaf, random_cell, randomise
from tests.test_graph_fold import folds

lecture = pytest.mark.lecture
B, D, H, V = 2, 3, 4, 3
F8 = {"dtype": "float64"}


def rng_of(seed):
    return np.random.default_rng(seed)


def inputs(T, size=H):
    return leaf(rng_of(T).normal(size=(T, B, size)))


def forward(net):
    """xs -> what the net makes of them; net is a cell or a layer."""
    return (lambda xs: unroll(net, xs)) if hasattr(net, "initial_state") else net


def backward(net):
    """xs -> a loss of all outputs, and its gradients by parameters and inputs."""

    def f(xs):
        ys, _ = forward(net)(xs)
        loss = sum(mg.mean(y**2) for y in tree.flatten(ys)[0])
        return loss, mg.pullback(loss, [*net.parameters(), xs])

    return f


def trips(graph):
    """The iterations of the outer loops, in order."""
    return [step.trips for step in graph.steps if isinstance(step, Loop)]


# --- any cell in any wiring -----------------------------------------------------------------------

WIRINGS = {
    "plain": lambda cell: cell(),
    "stacked": lambda cell: rnn.Stack([cell(), cell()]),
    "residual": lambda cell: rnn.Residual(cell()),
    "bidirectional": lambda cell: rnn.Bidirectional(cell(), cell()),
}
WAYS = {"forward": forward, "backward": backward}
PRODUCT = [
    pytest.param(name, wiring, way, marks=() if (i + 2 * j + k) % 8 == 1 else pytest.mark.slow)
    for i, name in enumerate(CATALOGUE)
    for j, wiring in enumerate(WIRINGS)
    for k, way in enumerate(WAYS)
]  # by default each cell in one of the four wirings, forward or back


def check(name, wiring, way, T):
    """The loops there are: one over (almost) all of T for each direction, and one back."""
    net = WIRINGS[wiring](lambda: make(name, H, H))
    found = trips(folds(WAYS[way](net), inputs(T)))
    directions = 1 + (wiring == "bidirectional")
    first = T - (name == "QRNN")  # which sees x(t-1), at first a constant, and peels this step
    if T > 2:
        assert found[:directions] == [first] * directions
        assert way == "backward" or len(found) == directions
    if (
        way == "backward" and T > 8
    ):  # the delayed cell's backward loop leaves out three steps at either end
        assert sum(T - 6 <= n <= T - 2 for n in found[directions:]) >= directions


@pytest.mark.parametrize(("name", "wiring", "way"), PRODUCT)
def test_every_cell_in_every_wiring(name, wiring, way):
    check(name, wiring, way, 5)


@pytest.mark.slow
@pytest.mark.parametrize("T", [1, 2, 3, 9])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_cell_in_every_wiring_at_other_lengths(name, wiring, way, T):
    check(name, wiring, way, T)


# --- what is fed back -----------------------------------------------------------------------------


def fed_back(kind, feed=itself):
    """OutputFeedback around a cell, one without memory where kind is None."""
    rng = rng_of(1)
    if kind is None:
        inner = randomise(rnn.HiddenLayer(D + V, H, **F8), rng)
    else:
        inner = random_cell(kind, D + V, H, rng)
    return rnn.OutputFeedback(inner, randomise(mg.nn.Linear(H, V, **F8), rng), feed)


def made_in(loop):
    return {value: step for step in loop.body for value in step.outputs}


@lecture("B8", "delay edges")
@pytest.mark.parametrize("feed", [itself, F.softmax, likeliest])
def test_every_delay_edge_of_output_recurrence_starts_at_o(backend, feed):
    """One edge: from what is fed back, o or a function of o alone, to the next step's input."""
    cell = fed_back(None, feed)
    folded = folds(forward(cell), inputs(6, D))
    [loop], [edge] = folded.loops(), folded.delay_edges()
    assert (loop.trips, edge.delay) == (6, 1)
    made = made_in(loop)
    [o] = [c.result for c in loop.collected if len(c.outputs) == 6]  # what unroll stacks
    assert made[o].op.name == "add" and made[o].operands[1].spec.shape == (V,)
    reached, waiting = set(), [edge.result]
    while waiting:  # back from the edge's start: to o, and past it nowhere
        value = waiting.pop()
        if value is not o and value in made:
            reached.add(value)
            waiting.extend(x for x in made[value].operands if x in made or x in loop.parameters)
        assert value not in loop.parameters
    assert (edge.result is o) == (feed is itself) == (not reached)
    users = {s.op.name for s in loop.body if edge.parameter in s.operands}
    assert users == {"concatenate"}


@lecture("B8", "delay edges")
def test_under_teacher_forcing_no_delay_edge_is_left(backend):
    """Step by step, as with a mask, and in one batched call, which is no loop at all."""
    cell, ys = fed_back(None), mg.Tensor(np.eye(V)[rng_of(2).integers(0, V, (6, B))])

    def stepwise(xs, ys):
        fed, os = mg.zeros((B, V), **F8), []
        for x, y in zip(xs, ys, strict=True):
            os.append(cell(x, ((), fed))[0])
            fed = y
        return mg.stack(os)

    folded = folds(stepwise, inputs(6, D), ys)
    assert folded.loops() and not folded.delay_edges()
    folded = folds(lambda xs, ys: forcing.run(cell, xs, ys)[0], inputs(6, D), ys)
    assert not folded.loops()


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_recurrence_of_both_has_the_edges_of_both(kind):
    """B10: the cell's own, and the output's."""
    cell = fed_back(kind)
    folded = folds(forward(cell), inputs(6, D))
    assert [c.delay for c in folded.delay_edges()] == [1] * {"rnn": 2, "lstm": 3}[kind]
    assert trips(folds(backward(cell), inputs(7, D))) == [7, 5]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", [None, "lstm"])
def test_forcing_sampling_and_free_running_fold(kind, share):
    cell, ys = fed_back(kind, F.softmax), mg.Tensor(np.eye(V)[rng_of(3).integers(0, V, (6, B))])

    def f(xs, ys):
        os, _ = forcing.run(cell, xs, ys, share, key=mg.random.key(1))
        loss = F.cross_entropy(os, mg.argmax(ys, -1))
        return loss, mg.pullback(loss, cell.parameters())

    found = trips(folds(f, inputs(6, D), ys))
    assert found[:1] == ([6] if kind or share < 1 else [])


def test_free_sampling_carries_the_generator():
    folded = folds(forward(fed_back("gru", sampled)), inputs(6, D), bits=False)
    assert trips(folded) == [6] and len(folded.delay_edges()) == 3  # h, what was drawn, generator


# --- vector to sequence, sequence to sequence -----------------------------------------------------


@pytest.mark.parametrize("condition", ["input", "state", "both"])
@pytest.mark.parametrize("lengths", [None, [6, 4]])
def test_vector_to_sequence_folds(condition, lengths):
    """B9, and x R stands once, outside the loop."""
    decoder = rnn.Decoder(V, D, random_cell("lstm", D, H, rng_of(4)), H, 5, condition, **F8)
    ys, x = mg.Tensor(rng_of(5).integers(0, V, (6, B))), leaf(rng_of(6).normal(size=(B, 5)))

    def f(ys, x):
        loss = -mg.sum(decoder.log_probability(ys, x, lengths=lengths))
        return loss, mg.pullback(loss, [*decoder.parameters(), x])

    assert trips(folds(f, ys, x)) == [6, 4]

    def stepwise(x):
        y, state, chosen = decoder.start(B), decoder.begin(x), []
        for _ in range(6):
            o, state = decoder(y, state)
            y = mg.argmax(o, -1)
            chosen.append(y)
        return mg.stack(chosen)

    folded = folds(stepwise, x)
    [loop] = folded.loops()
    assert loop.trips == 6 and len(loop.carries) == 3  # h, c and the symbol
    if condition != "state":
        products = [s for s in folded.steps if s not in folded.loops() and s.op.name == "matmul"]
        assert decoder.R.shape in [x.spec.shape for s in products for x in s.operands]


@pytest.mark.parametrize("way", ["forward", "bidirectional"])
def test_sequence_to_sequence_folds(way):
    """Encoder and decoder are loops of their own numbers of steps, and back the same."""
    rng = rng_of(7)
    cells = [random_cell("gru", D, H, rng) for _ in range(2)]
    encoder = rnn.Recurrent(cells[0]) if way == "forward" else rnn.Bidirectional(*cells)
    size = H if way == "forward" else 2 * H
    decoder = rnn.Decoder(V, D, random_cell("lstm", D, H, rng), H, size, **F8)
    model = rnn.EncoderDecoder(encoder, decoder)
    ys = mg.Tensor(rng.integers(0, V, (5, B)))

    def f(xs, ys):
        loss = -mg.sum(model.log_probability(xs, ys, lengths=[8, 6], target_lengths=[4, 5]))
        return loss, mg.pullback(loss, model.parameters())

    ahead = [8] * len(cells) if way == "bidirectional" else [8]
    assert trips(folds(f, inputs(8, D), ys)) == [*ahead, 5, 3, *(n - 2 for n in ahead)]


# --- time scales and depth ------------------------------------------------------------------------


@lecture("D13", "removed edges")
@pytest.mark.parametrize("delays", [(2,), (3,), (2, 5), (1, 3)])
def test_a_delayed_cell_has_the_delay_edges_it_was_made_for(backend, delays):
    """No edge of one step where delays leave 1 out; d edges would be d steps of one."""
    cell = randomise(rnn.DelayCell(D, H, delays, **F8), rng_of(8))
    folded = folds(forward(cell), inputs(12, D))
    [loop] = folded.loops()
    assert loop.trips == 12
    assert sorted(c.delay for c in loop.carries) == sorted(delays)
    assert len({c.result for c in loop.carries}) == 1


@pytest.mark.parametrize("delays", [(2,), (1, 3)])
def test_a_delayed_cell_folds_back(delays):
    cell = randomise(rnn.DelayCell(D, H, delays, **F8), rng_of(8))
    ahead, back, *_ = trips(folds(backward(cell), inputs(14, D)))
    assert ahead == 14 and back >= 14 - 2 * max(delays)


def test_a_clockwork_layer_is_a_loop_over_rounds():
    """Idle groups left out, steps differ; what repeats is a round of the slowest clock."""
    cell = randomise(rnn.ClockworkCell(D, H, (1, 2), **F8), rng_of(9))
    folded = folds(rnn.Clockwork(cell), inputs(12, D))
    assert trips(folded) == [6]
    whole = folds(forward(cell), inputs(12, D))
    assert trips(whole) == [12] and len(whole.delay_edges()) == 2  # h and the clock


@lecture("F4", "tied")
def test_a_tied_resnet_folds_to_the_graph_of_a_recurrent_net(backend):
    """ResNet with one block, and Increment around it unrolled without input: one text."""
    block = randomise(rnn.MLP([H, 5, H], **F8), rng_of(10))
    x = mg.Tensor(rng_of(11).normal(size=(B, H)))
    tied = folds(rnn.ResNet([block] * 7), x)
    assert trips(tied) == [7] and [c.delay for c in tied.delay_edges()] == [1]

    def recurrent(x):
        return unroll(rnn.Increment(block), None, x, steps=7)[1]

    again = mg.graph.capture(recurrent, x).graph
    again.steps = tuple(s for s in again.steps if s.op.name != "stack")  # the h's, which none needs
    assert str(mg.fold(again)) == str(tied)
    blocks = [randomise(rnn.MLP([H, 5, H], **F8), rng_of(i)) for i in range(7)]
    untied = folds(rnn.ResNet(blocks), x)
    assert not untied.loops()
    assert "operand 1 of matmul" in untied.notes[0]  # each layer has weights of its own


# --- regularised, remembered, cut -----------------------------------------------------------------

CELLS = {
    "learned state": lambda cell: rnn.LearnedState(cell),
    "noisy state": lambda cell: rnn.NoisyState(cell, 0.1),
    "every state": lambda cell: rnn.EmitState(cell),
    "readout": lambda cell: rnn.Readout(cell, mg.nn.Linear(H, V, **F8)),
    "variational dropout": lambda cell: rnn.VariationalDropout(cell, 0.2, 0.3),
    "zoneout": lambda cell: rnn.Zoneout(cell, 0.2),
    "clipped state": lambda cell: rnn.ClippedState(cell, 1.0),
    "stack with dropout": lambda cell: rnn.Stack([cell, random_cell("rnn", H, H, rng_of(1))], 0.3),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_around_cells_fold_in_training(name):
    net = CELLS[name](random_cell("gru", D, H, rng_of(12)))

    def f(xs):
        ys, _ = unroll(net, xs)
        loss = sum(mg.mean(y**2) for y in tree.flatten(ys)[0])
        return loss, mg.pullback(loss, [*net.parameters(), xs])

    found = trips(folds(f, inputs(7, D), bits=False))
    assert (found[0], found[-1]) == (7, 5)


def test_masks_resets_and_both_directions_fold_back():
    net = rnn.Bidirectional(*(random_cell("lstm", D, H, rng_of(i)) for i in (13, 14)))
    resets = rng_of(15).random((9, B)) < 0.3

    def f(xs):
        ys, _ = net(xs, lengths=[9, 5], resets=resets)
        loss = mg.mean(ys**2)
        return loss, mg.pullback(loss, net.parameters())

    # One direction, the resets turned round for the other, the other; and both backward.
    assert trips(folds(f, inputs(9, D))) == [9, 8, 8, 7, 7]


SCHEDULES = {  # and the loops that its steps leave, inner ones after those around them
    "bptt": (rnn.BPTT(), [8, 6]),
    "tbptt": (rnn.TBPTT(4, 4), [2, 4, 2]),
    "checkpoint": (rnn.Checkpoint(6), [4, 4, 3, 4, 3]),
    "rtrl": (rnn.RTRL(), [7, 8, 7, 8]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fold(name):
    schedule, expected = SCHEDULES[name]
    cell = random_cell("rnn", D, H, rng_of(16))

    def step(xs, targets):
        for p in cell.parameters():
            p.grad = None
        return schedule(cell, lambda ys, targets: mg.mean((ys - targets) ** 2), xs, targets)

    folded = folds(step, inputs(8, D), mg.Tensor(rng_of(17).normal(size=(8, B, H))), bits=False)
    assert [loop.trips for loop in folded.loops()] == expected

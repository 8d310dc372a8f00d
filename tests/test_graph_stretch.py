"""unfold(fold(g), T): the graph of one length from that of another, against captures at T."""

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad.graph import GraphError, capture, evaluate
from minigrad_rnn import forcing, unroll
from minigrad_rnn.catalogue import CATALOGUE
from tests.catalogue import make
from tests.recurrent import leaf, random_cell, randomise
from tests.test_graph_fold import isomorphic, one
from tests.test_graph_patterns import F8, B, D, H, V, backward, fed_back, forward, inputs, rng_of

lecture = pytest.mark.lecture
EVERY = pytest.param(range(1, 21), marks=pytest.mark.slow, id="every")
SOME = pytest.mark.parametrize("lengths", [pytest.param((2, 5, 12), id="some"), EVERY])


def stretches(f, arguments, captured, lengths):
    """The graph folded at one length is, unfolded at each, the one captured there."""
    folded = mg.fold(f, *arguments(captured))
    before = str(folded)
    for T in lengths:
        expected = capture(f, *arguments(T)).graph
        assert isomorphic(mg.unfold(folded, T), expected), f"T={T}"
    assert str(folded) == before


def both_ways(size):
    return rnn.Bidirectional(*(random_cell("lstm", size, H, rng_of(i)) for i in (1, 2)))


NETS = {
    "rnn": lambda: random_cell("rnn", D, H, rng_of(1)),
    "lstm": lambda: random_cell("lstm", D, H, rng_of(1)),
    "stack": lambda: rnn.Stack([random_cell("gru", n, H, rng_of(n)) for n in (D, H)]),
    "two layers, both ways": lambda: rnn.Layers([both_ways(D), both_ways(2 * H)]),
    "output feedback": lambda: fed_back(None),
    "hidden and output feedback": lambda: fed_back("lstm", F.softmax),
    "removed edges": lambda: randomise(rnn.DelayCell(D, H, (2,), **F8), rng_of(8)),
    "clockwork": lambda: randomise(rnn.ClockworkCell(D, H, (1, 2), **F8), rng_of(9)),
    "learned state": lambda: rnn.LearnedState(random_cell("gru", D, H, rng_of(1))),
}


@lecture("A3", "isomorphic")
@pytest.mark.parametrize("name", NETS)
def test_one_folded_graph_unfolds_to_every_length(backend, name):
    lengths = range(1, 21) if backend == "numpy" and name in ("rnn", "lstm") else (1, 9)
    stretches(forward(NETS[name]()), lambda T: (inputs(T, D),), 12, lengths)


@SOME
@pytest.mark.parametrize("name", NETS)
def test_and_back(name, lengths):
    """T = 1 is refused where the last step back, and the first, are steps of their own."""
    f, arguments = backward(NETS[name]()), lambda T: (inputs(T, D),)
    least = {"output feedback": 1, "removed edges": 4}.get(name, 2)
    stretches(f, arguments, 16, [n for n in lengths if n >= least])
    if least > 1:
        with pytest.raises(GraphError, match="T is too small"):
            mg.unfold(mg.fold(f, *arguments(16)), 1)


@SOME
@pytest.mark.parametrize("kind", ["lstm", "gru before"])
def test_a_training_step_unfolds_to_other_lengths(kind, lengths):
    """Optimizer, mean over T B H and all: what a call at T computes, to the bit."""
    cell = one(kind)(rng_of(3))
    optimizer = mg.optim.Adam(cell.parameters())

    def step(xs, targets):
        loss = ((unroll(cell, xs)[0] - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    def arguments(T):
        return inputs(T, D), mg.Tensor(rng_of(T + 30).normal(size=(T, B, cell.H)))

    stretches(step, arguments, 16, [n for n in lengths if n > 1])
    captured = capture(step, *arguments(12))
    given = captured.inputs(list(arguments(12)))
    graph = mg.unfold(mg.fold(step, *arguments(16)), 12)
    for x, y in zip(evaluate(graph, given), evaluate(captured.graph, given), strict=True):
        assert x.numpy().tobytes() == y.numpy().tobytes()


@SOME
@pytest.mark.parametrize("condition", ["input", "state", "both"])
def test_vector_to_sequence(condition, lengths):
    """Symbols moved by one step, one readout for all of them, a loss that picks: all follow."""
    decoder = rnn.Decoder(V, D, random_cell("lstm", D, H, rng_of(4)), H, 5, condition, **F8)

    def f(ys, x):
        loss = -mg.sum(decoder.log_probability(ys, x))
        return loss, mg.pullback(loss, [*decoder.parameters(), x])

    def arguments(T):
        return mg.Tensor(rng_of(5).integers(0, V, (T, B))), leaf(rng_of(6).normal(size=(B, 5)))

    stretches(f, arguments, 12, [n for n in lengths if n > 1])


def test_the_longest_loop_is_meant_and_the_others_stay():
    rng = rng_of(7)
    decoder = rnn.Decoder(V, D, random_cell("lstm", D, H, rng), H, H, **F8)
    model = rnn.EncoderDecoder(rnn.Recurrent(random_cell("gru", D, H, rng)), decoder)
    ys = mg.Tensor(rng.integers(0, V, (5, B)))

    def f(xs):
        loss = -mg.sum(model.log_probability(xs, ys))
        return loss, mg.pullback(loss, model.parameters())

    stretches(f, lambda T: (inputs(T, D),), 12, (2, 5, 12))


def test_attention_over_the_sequence_follows_inside_the_loop():
    """Each of T steps looks at all T items."""
    W = leaf(rng_of(8).normal(size=(D, D)))

    def f(xs):
        def step(x, h):
            weights = F.softmax(mg.sum(xs * (h @ W), axis=-1), axis=0)
            h = mg.tanh(x + mg.sum(mg.expand_dims(weights, -1) * xs, axis=0))
            return h, h

        ys, _ = unroll(step, xs, mg.zeros((B, D), **F8))
        return mg.mean(ys), mg.pullback(mg.mean(ys), [W, xs])

    stretches(f, lambda T: (inputs(T, D),), 12, (2, 5, 12))


def test_forcing_with_random_flags_follows():
    cell = fed_back("gru", F.softmax)

    def f(xs, ys):
        os, _ = forcing.run(cell, xs, ys, 0.5, key=mg.random.key(1))
        loss = F.cross_entropy(os, mg.argmax(ys, -1))
        return loss, mg.pullback(loss, cell.parameters())

    def arguments(T):
        return inputs(T, D), mg.Tensor(np.eye(V)[rng_of(3).integers(0, V, (T, B))])

    stretches(f, arguments, 12, (2, 5, 12))


def test_layers_without_input_follow():
    """A tied ResNet of 7 blocks, of any number; and key.fold(t), t counted on."""
    block = randomise(rnn.MLP([H, 5, H], **F8), rng_of(10))
    x = mg.Tensor(rng_of(11).normal(size=(B, H)))
    stretches(lambda x, L: rnn.ResNet([block] * L)(x), lambda L: (x, L), 7, (1, 2, 5, 12, 20))
    key = mg.random.key(3)

    def noisy(x, L):
        for layer in reversed(range(L)):
            x = mg.where(mg.random.bernoulli(key.fold(layer), (B, H), 0.5), block(x), x)
        return x

    stretches(noisy, lambda L: (x, L), 7, (1, 2, 5, 12, 20))


@pytest.mark.parametrize("way", [forward, backward])
def test_equal_numbers_are_told_apart(way):
    """T = B = D = H = 12: what follows is found by where it comes from, not by its value."""
    cell = random_cell("lstm", 12, 12, rng_of(12))
    stretches(way(cell), lambda T: (leaf(rng_of(T).normal(size=(T, 12, 12))),), 12, (2, 5, 20))


@pytest.mark.parametrize("way", [forward, backward])
@pytest.mark.parametrize("name", ["clockwork", "QRNN", "LRU"])
def test_some_cells_of_the_catalogue(name, way):
    stretches(way(make(name, H, H)), lambda T: (inputs(T),), 16, (5, 13))


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_cell_of_the_catalogue_at_every_length(name):
    cell = make(name, H, H)
    stretches(forward(cell), lambda T: (inputs(T),), 16, range(1, 21))
    least = 6 if name.startswith("delays") else 2
    stretches(backward(cell), lambda T: (inputs(T),), 16, range(least, 21))


def random_program(rng):
    """A recurrence along xs at random, and what is made of its outputs, forward or back."""
    kinds = rng.integers(5, size=rng.integers(1, 4))
    operands = rng.integers(1, 8, size=(len(kinds), 2))
    end = rng.integers(3)

    def f(xs):
        made, outs = [mg.tanh(xs[0] * 0.5)] * 8, []
        for x in xs:
            for kind, (p, q) in zip(kinds, operands, strict=True):
                a, b = made[-p], made[-q]
                made.append([a + b, a * x, mg.tanh(a + x), mg.where(a > 0, b, x), a * b][kind])
            outs.append(made[-1])
        ys = mg.stack(outs)
        if end == 0:
            return mg.mean(ys), mg.pullback(mg.mean(ys), [xs])
        if end == 1:
            return ys[-1], ys[1:] - ys[:-1], outs[2], outs[-3]
        return mg.sum(ys / len(ys), axis=0), mg.concatenate([ys, xs])

    return f


def test_random_programs_are_right_or_refused():
    outcomes = []
    for seed in range(6):
        f = random_program(rng_of(seed))
        folded = mg.fold(f, leaf(rng_of(seed).normal(size=(16, 3))))
        for T in (9, 20):
            try:
                found = mg.unfold(folded, T)
            except GraphError:
                outcomes.append(False)
                continue
            assert isomorphic(found, capture(f, leaf(rng_of(seed).normal(size=(T, 3)))).graph)
            outcomes.append(True)
    assert sum(outcomes) > len(outcomes) / 2


# --- what has no other length -------------------------------------------------------------------


def test_what_cannot_be_another_length_says_why():
    cell = random_cell("gru", D, H, rng_of(13))
    xs = inputs(7, D)
    flat = mg.fold(lambda x: mg.tanh(x), xs)
    with pytest.raises(GraphError, match="no loop"):
        mg.unfold(flat, 5)
    folded = mg.fold(forward(cell), xs)
    for T in (0, -1):
        with pytest.raises(GraphError, match="a sequence of"):
            mg.unfold(folded, T)
    mask = rng_of(15).random((7, B)) < 0.7
    masked = mg.fold(lambda xs: unroll(cell, xs, mask=mask), xs)
    with pytest.raises(GraphError, match="a constant has values for 7 steps and no others"):
        mg.unfold(masked, 8)

    def batch_first(xs):
        h = mg.zeros((B, D), **F8)
        for t in range(xs.shape[1]):
            h = mg.tanh(xs[:, t] + h)
        return h

    short = mg.fold(backward(cell), inputs(6, D))
    with pytest.raises(GraphError, match="near neither end; capture more steps"):
        mg.unfold(short, 8)
    indexed = mg.fold(batch_first, mg.Tensor(rng_of(14).normal(size=(B, 7, D))))
    with pytest.raises(GraphError, match="go through unstack"):
        mg.unfold(indexed, 8)

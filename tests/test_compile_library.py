"""compiled == eager for what the library makes of cells: schedules, decoders, losses, draws.

Shapes: T time, B batch, D input, H hidden, V symbols.
"""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad.graph.ir import Loop
from minigrad.nn import Embedding, Linear, Module
from minigrad_rnn import attention, forcing, patterns, unroll
from minigrad_rnn.losses import MixtureDensity, ctc
from minigrad_rnn.recursive import nested
from tests.recurrent import close

T, B, D, H, V = 6, 4, 3, 5, 7
STEPS = 4


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    monkeypatch.delenv("MINIGRAD_COMPILE", raising=False)
    mg.set_default_dtype("float64")
    yield
    mg.set_default_dtype("float32")


class Net(Module):
    """Modules by name."""

    def __init__(self, **modules):
        vars(self).update(modules)


# --- what is drawn anew for each step ------------------------------------------------------------


def inputs(rng):
    return rng.normal(size=(T, B, D))


def hidden(rng):
    return rng.normal(size=(T, B, H))


def symbols(rng):
    return rng.integers(0, V, (T, B))


def lengths(rng):
    return rng.integers(1, T + 1, B)


def flags(rng):
    return rng.random((T, B)) < 0.6


def numbers(rng):
    return rng.integers(0, 99, B)


# --- programs: a module, its loss, what the loss is given -----------------------------------------


def unrolled(make, **given):
    """A cell's outputs and last state, with what is given as inputs."""

    def build():
        cell = make()

        def loss(xs, *rest):
            ys, state = unroll(cell, xs, **dict(zip(given, rest, strict=True)))
            parts = [p for p in mg.tree.flatten(state)[0] if p.dtype.kind == "f"]
            return mg.mean(ys**2) + sum(mg.sum(p**2) for p in parts)

        return cell, loss, (inputs, *given.values())

    return build


def lstm():
    return rnn.LSTMCell(D, H)


def scheduled(make, **given):
    """A schedule, which takes its gradients itself."""

    def build():
        cell, schedule = lstm(), make()

        def step(xs, target, *rest):
            options = dict(zip(given, rest, strict=True))
            value, _ = schedule(cell, lambda y, t: mg.sum((y - t) ** 2), xs, target, **options)
            return value

        return cell, step, (inputs, hidden, *given.values())

    return build


def labelled(each):
    """An embedding and a cross-entropy, of all steps together or inside the loop."""

    def build():
        net = Net(embed=Embedding(V, D), cell=lstm(), head=Linear(H, V))

        def together(xs, ys):
            return F.cross_entropy(net.head(unroll(net.cell, net.embed(xs))[0]), ys)

        def step_by_step(xs, ys):
            state, total = net.cell.initial_state(B), 0.0
            for x, y in zip(xs, ys):
                h, state = net.cell(net.embed(x), state)
                total = total + F.cross_entropy(net.head(h), y)
            return total

        return net, step_by_step if each else together, (symbols, symbols)

    return build


def likely(stop):
    def build():
        rule = stop()
        head = Linear(H, rule.units + V)
        model = rnn.Embedded(Embedding(V + 1, D), rnn.Readout(lstm(), head))
        sequences = rnn.Sequences(model, rnn.Categorical(V), rule)

        def loss(ys, n):
            return -mg.mean(sequences.log_probability(ys % (V - 1), n))

        return sequences, loss, (symbols, lengths)

    return build


def fed(share, feed):
    def build():
        cell = rnn.OutputFeedback(rnn.RNNCell(D + V, H), Linear(H, V), feed)

        def loss(xs, labels):
            ys = F.one_hot(labels, V, "float64")
            return F.cross_entropy(forcing.run(cell, xs, ys, share)[0], labels)

        return cell, loss, (inputs, symbols)

    return build


def translated(decoder, score=attention.Additive):
    def build():
        encoder, N = rnn.Bidirectional(rnn.GRUCell(D, H), rnn.GRUCell(D, H)), 2 * H
        scores = score(N, N, H) if score is attention.Additive else score(N, N)
        cell = rnn.BahdanauCell(rnn.GRUCell(D + N, N), scores)
        net = rnn.AttentionEncoderDecoder(encoder, decoder(V, D, cell, 2 * N, N), Embedding(V, D))

        def loss(xs, ys, n, m):
            return -mg.mean(net.log_probability(xs, ys, lengths=n, target_lengths=m))

        return net, loss, (symbols, symbols, lengths, lengths)

    return build


def mixture():
    density = MixtureDensity(3, 2, correlated=True)
    net = Net(cell=lstm(), head=Linear(H, density.size))

    def loss(xs):
        return -mg.mean(density.log_density(net.head(unroll(net.cell, xs)[0]), xs[..., :2]))

    return net, loss, (inputs,)


def aligned():
    net = Net(cell=lstm(), head=Linear(H, V))

    def loss(xs, n, targets, m):
        logits = net.head(unroll(net.cell, xs, lengths=n)[0])
        return ctc(logits, targets, lengths=n, target_lengths=m)

    short = [lambda rng: rng.integers(1, V, (2, B)), lambda rng: rng.integers(1, 3, B)]
    return net, loss, (inputs, lambda rng: rng.integers(5, T + 1, B), *short)


def trees():
    net = Net(cell=rnn.ChildSumTreeLSTMCell(D, H), embed=Embedding(V, D))
    forest = [nested(((0, 1), (2, (3, 1)))), nested((4, (5, 0)))]

    def loss(scale):
        return mg.mean(rnn.recurse(net.cell, forest, net.embed.W * scale)[1][0] ** 2)

    return net, loss, (lambda rng: rng.normal(size=1),)


def turing():
    cell = rnn.Readout(rnn.NTMCell(rnn.HiddenLayer(D + 4, H), H, 8, 4), Linear(H + 4, D))
    return cell, lambda xs: mg.mean(unroll(cell, xs)[0] ** 2), (inputs,)


PROGRAMS = {
    "lengths": unrolled(lstm, lengths=lengths),
    "mask": unrolled(lstm, mask=flags),
    "lengths and resets": unrolled(lstm, lengths=lengths, resets=flags),
    "zoneout": unrolled(lambda: rnn.Zoneout(lstm(), 0.3)),
    "zoneout, ids": unrolled(lambda: rnn.Zoneout(lstm(), 0.3), ids=numbers),
    "recurrent dropout": unrolled(lambda: rnn.RecurrentDropoutLSTMCell(D, H)),
    "variational dropout, ids, resets": unrolled(
        lambda: rnn.VariationalDropout(lstm(), 0.2, 0.2, 0.2), ids=numbers, resets=flags
    ),
    "noisy state": unrolled(lambda: rnn.NoisyState(lstm(), 0.1)),
    "dropout between cells": unrolled(lambda: rnn.Stack([lstm(), rnn.GRUCell(H, H)], 0.3)),
    "clipped state": unrolled(lambda: rnn.ClippedState(lstm(), 0.01)),
    "bptt, lengths": scheduled(rnn.BPTT, lengths=lengths),
    "tbptt(2, 2)": scheduled(lambda: rnn.TBPTT(2, 2)),
    "tbptt(2, 4), resets": scheduled(lambda: rnn.TBPTT(2, 4), resets=flags),
    "checkpoint": scheduled(lambda: rnn.Checkpoint(5)),
    "rtrl, lengths": scheduled(rnn.RTRL, lengths=lengths),
    "labels together": labelled(each=False),
    "labels step by step": labelled(each=True),
    "known length": likely(rnn.KnownLength),
    "end symbol": likely(lambda: rnn.EndSymbol(V - 1)),
    "halt": likely(rnn.Halt),
    "scheduled sampling, softmax": fed(0.5, F.softmax),
    "scheduled sampling, likeliest": fed(0.5, patterns.likeliest),
    "scheduled sampling, sampled": fed(0.5, patterns.sampled),
    "additive attention": translated(rnn.AttentionDecoder),
    "general attention": translated(rnn.AttentionDecoder, attention.General),
    "copying": translated(rnn.CopyDecoder),
    "mixture density": mixture,
    "ctc": aligned,
    "trees": trees,
    "turing machine": turing,
}
DEFAULT = {
    "lengths and resets", "variational dropout, ids, resets", "tbptt(2, 2)",
    "labels step by step", "additive attention",
}  # fmt: skip


def train(name, wrap):
    """The losses of a few steps, and the parameters at the end."""
    mg.random.seed(1)
    net, loss, draws = PROGRAMS[name]()
    optimizer = mg.optim.Adam(net.parameters(), lr=0.01)

    @wrap
    def step(*batch):
        optimizer.zero_grad()
        value = loss(*batch)
        if value.requires_grad:  # a schedule has been there
            value.backward()
        optimizer.step()
        return value.detach()

    rng = np.random.default_rng(2)
    losses = [step(*(mg.Tensor(draw(rng)) for draw in draws)) for _ in range(STEPS)]
    return step, [*losses, *net.parameters()]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in DEFAULT else pytest.mark.slow) for n in PROGRAMS]
)
def test_a_compiled_training_is_the_eager_one(backend, name):
    _, eager = train(name, lambda f: f)
    step, ours = train(name, mg.compile)
    assert step.captures == 1
    for a, b in zip(ours, eager, strict=True):
        close(a, b.numpy(), 1e-7)


@pytest.mark.parametrize("name", ["zoneout", "zoneout, ids", "recurrent dropout", "noisy state"])
def test_no_random_number_is_drawn_within_a_loop(backend, name):
    step, _ = train(name, mg.compile)
    loops = [s for s in step.graph.walk() if isinstance(s, Loop)]
    assert loops
    inside = {s.op.name for loop in loops for s in loop.body if not isinstance(s, Loop)}
    assert not inside & {"random_next", "random_fold", "random_bits", "random_uniform"}

"""compiled == eager: whole trainings of many kinds, every cell, every order of derivative.

Shapes: T time, B batch, D input, H hidden.
"""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad.functional import dropout
from minigrad_rnn import unroll
from minigrad_rnn.attention import Additive
from minigrad_rnn.catalogue import CATALOGUE
from tests.recurrent import close, random_cell, randomise

T, B, D, H = 5, 2, 3, 4
pytestmark = pytest.mark.long  # what is captured is the same above any backend


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    monkeypatch.delenv("MINIGRAD_COMPILE", raising=False)


# --- trainings: from a generator of weights, (step, parameters and buffers, optimizer) -----------

OPTIMIZERS = {
    "sgd": lambda p: mg.optim.SGD(p, lr=0.1),
    "momentum": lambda p: mg.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: mg.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: mg.optim.Adam(p, lr=0.01),
    "adamw": lambda p: mg.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: mg.optim.RMSProp(p, lr=0.01),
    "graves": lambda p: mg.optim.RMSProp(p, lr=0.01, centered=True, momentum=0.9),
}


def looped(cell, xs, state):
    ys = []
    for x in xs:
        y, state = cell(x, state)
        ys.append(y)
    return mg.stack(ys), state


def trained(model, forward, optimizer="adam", clip=None):
    """A step of a model: forward(xs) gives ys (T, B, H)."""
    made = OPTIMIZERS[optimizer](model.parameters())

    def step(xs, target):
        loss = ((forward(xs) - target) ** 2).mean()
        made.zero_grad()
        loss.backward()
        norm = None
        if clip is not None:
            norm = mg.optim.clip_by_global_norm(model.parameters(), clip)
        made.step()
        return loss, norm

    return step, model, made


def of_cell(kind="lstm", **options):
    def make(rng):
        cell = random_cell(kind, D, H, rng)
        return trained(cell, lambda xs: looped(cell, xs, cell.initial_state(B))[0], **options)

    return make


def with_dropout(rng):
    cell = random_cell("lstm", D, H, rng)

    def forward(xs):
        ys, _ = looped(cell, dropout(xs, 0.3), cell.initial_state(B))
        return dropout(ys, 0.5)

    return trained(cell, forward)


def scheduled(rng):
    """A schedule and a loss of 0-d tensors that change with the step."""
    step, model, optimizer = of_cell("gru")(rng)
    schedule = mg.optim.CosineSchedule(optimizer, total=30, warmup=5)

    def both(xs, target):
        found = step(xs, target)
        schedule.step()
        return found

    return both, model, optimizer


def tbptt(rng):
    """The state goes from call to call, detached."""
    cell = random_cell("lstm", D, H, rng)
    state = [tree.map(lambda s: s.detach(), cell.initial_state(B))]
    kept = tree.flatten(state)[0]

    def forward(xs):
        ys, last = looped(cell, xs, state[0])
        for buffer, new in zip(kept, tree.flatten(last)[0], strict=True):
            buffer.assign(new.detach())
        return ys

    return trained(cell, forward, clip=1.0)


class Net(mg.nn.Module):
    """Modules by name."""

    def __init__(self, **modules):
        vars(self).update(modules)


def over(make, **options):
    """A layer or a cell for unroll, and its outputs brought to (T, B, H) by a linear layer."""

    def build(rng):
        layer = make(rng)
        width = unrolled(layer, mg.zeros((1, 1, D), dtype="float64")).shape[-1]
        head = randomise(mg.nn.Linear(width, H, dtype="float64"), rng)
        net = Net(layer=layer, head=head)
        return trained(net, lambda xs: head(unrolled(layer, xs, **options)))

    return build


def unrolled(layer, xs, **options):
    if isinstance(layer, (rnn.Bidirectional, rnn.Layers)):
        return layer(xs, **options)[0]
    return unroll(layer, xs, **options)[0]


def bidirectional(rng):
    return rnn.Bidirectional(*(random_cell(k, D, H, rng) for k in ("lstm", "gru")))


def layers(rng):
    return rnn.Layers([bidirectional(rng), random_cell("gru", 2 * H, H, rng)])


def stacked(rng):
    return rnn.Stack([random_cell(k, n, H, rng) for k, n in (("lstm", D), ("gru", H))])


def residual(rng):
    first = random_cell("lstm", D, H, rng)
    return rnn.Stack([first, rnn.Residual(random_cell("gru", H, H, rng))])


def attention(rng):
    """A decoder that reads a source, which it encodes itself."""
    encoder = random_cell("gru", D, H, rng)
    score = randomise(Additive(H, H, 3, dtype="float64"), rng)
    decoder = rnn.BahdanauCell(random_cell("gru", D + H, H, rng), score)

    head = randomise(mg.nn.Linear(2 * H, H, dtype="float64"), rng)

    def forward(xs):
        values, _ = unroll(encoder, xs)
        return head(looped(decoder, xs, decoder.begin(values))[0])

    return trained(Net(encoder=encoder, decoder=decoder, head=head), forward)


def recurrent_dropout(rng):
    cell = randomise(rnn.RecurrentDropoutLSTMCell(D, H, p=0.3, dtype="float64"), rng)
    return trained(cell, lambda xs: unroll(cell, xs)[0])


def checkpointed(rng):
    cell = random_cell("lstm", D, H, rng)
    run = mg.checkpoint(lambda xs: dropout(looped(cell, xs, cell.initial_state(B))[0], 0.5))
    return trained(cell, run)


def transform(rng):
    """value_and_grad of a nest of weights, and an update by hand."""
    weights = {"W": mg.Tensor(rng.normal(size=(D, H))), "b": mg.Tensor(np.zeros(H))}

    def loss(weights, xs, target):
        return ((mg.tanh(xs @ weights["W"] + weights["b"]) - target) ** 2).mean()

    def step(xs, target):
        value, g = mg.value_and_grad(loss)(weights, xs, target)
        for name, w in weights.items():
            w.assign(w - 0.1 * g[name])
        return value, g

    return step, weights, None


RESETS = np.zeros((T, B), dtype=bool)
RESETS[2, 0] = RESETS[3, 1] = True

PROGRAMS = {
    **{f"lstm, {name}": of_cell(optimizer=name) for name in OPTIMIZERS},
    "rnn": of_cell("rnn"),
    "gru before": of_cell("gru before"),
    "clipping": of_cell(clip=0.1, optimizer="sgd"),
    "schedule": scheduled,
    "dropout": with_dropout,
    "recurrent dropout": recurrent_dropout,
    "tbptt": tbptt,
    "bidirectional": over(bidirectional),
    "layers": over(layers),
    "stacked": over(stacked),
    "residual": over(residual),
    "ragged": over(stacked, lengths=[T, 2]),
    "ragged, both ways": over(bidirectional, lengths=[3, T]),
    "resets": over(stacked, resets=RESETS),
    "reverse": over(stacked, reverse=True),
    "attention": attention,
    "checkpoint": checkpointed,
    "value_and_grad": transform,
}
SLOW = {"layers", "bidirectional", "stacked", "reverse", "resets", "ragged", "residual"}
SLOW |= {"recurrent dropout", "lstm, nesterov", "lstm, sgd"}
CALLS = 50


def everything(found, model, optimizer):
    """All numbers that a training leaves, by what they are."""
    kept = {"returned": [x for x in tree.flatten(found)[0] if isinstance(x, mg.Tensor)]}
    if isinstance(model, mg.nn.Module):
        kept["parameters"] = list(model.state_dict().values())
        kept["gradients"] = [p.grad for p in model.parameters() if p.grad is not None]
    else:
        kept["weights"] = tree.flatten(model)[0]
    if optimizer is not None:
        kept["optimizer"] = list(optimizer.state_dict().values())
    return kept


def train(name, wrap, dtype):
    """CALLS steps on data that changes, with a rate that changes: what is there at the end."""
    rng = np.random.default_rng(1)
    mg.random.seed(2)
    step, model, optimizer = PROGRAMS[name](rng)
    step = wrap(step)
    losses = []
    for n in range(CALLS):
        if optimizer is not None and name != "schedule" and n % 20 == 19:
            optimizer.lr = optimizer.lr / 2
        xs, target = rng.normal(size=(T, B, D)), 0.5 * rng.normal(size=(T, B, H))
        found = step(mg.Tensor(xs, dtype=dtype), mg.Tensor(target, dtype=dtype))
        losses.append(tree.flatten(found)[0][0].detach())
    return step, {"losses": losses, **everything(found, model, optimizer)}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in PROGRAMS]
)
def test_a_compiled_training_is_the_eager_one(backend, name):
    """Over 50 steps: losses, parameters, gradients, what the optimizer keeps."""
    _, eager = train(name, lambda f: f, "float64")
    step, ours = train(name, mg.compile, "float64")
    assert step.captures == 1
    for kind, tensors in eager.items():
        assert len(tensors) == len(ours[kind])
        for a, b in zip(tensors, ours[kind], strict=True):
            assert a.dtype == b.dtype
            close(b, a.numpy(), 1e-9)


# --- every cell ----------------------------------------------------------------------------------


DEFAULT = ("LSTM", "fast weights")
TRAINED = (*DEFAULT, "RNN", "GRU", "clockwork", "LSTM, layer norm", "mLSTM", "QRNN", "LMU")
MANY = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in TRAINED else pytest.mark.slow) for n in CATALOGUE]
)
SOME = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in DEFAULT else pytest.mark.slow) for n in CATALOGUE]
)


def cell_of(name, rng):
    cell = CATALOGUE[name](D, H, dtype="float64")
    for p in cell.parameters():
        p.assign(p + 0.3 * mg.Tensor(rng.normal(size=p.shape)))
    return cell


@MANY
def test_every_cell_trains_as_it_does_eagerly(backend, name):
    """A plain loop and a ragged unroll, three steps."""
    found = []
    for wrap in (lambda f: f, mg.compile):
        rng = np.random.default_rng(3)
        mg.random.seed(4)
        cell = cell_of(name, rng)
        optimizer = mg.optim.Adam(cell.parameters(), lr=0.01)

        def step(xs, cell=cell, optimizer=optimizer):
            ys, last = looped(cell, xs, cell.initial_state(B))
            ragged, _ = unroll(cell, xs, lengths=[T, 3])
            loss = (ys**2).mean() + (ragged**2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss, last

        step = wrap(step)
        xs = [mg.Tensor(rng.normal(size=(T, B, D))) for _ in range(3)]
        returned = [step(x) for x in xs]
        found.append([*tree.flatten(returned)[0], *cell.parameters()])
    for a, b in zip(*found, strict=True):
        close(b, a.numpy(), 1e-10)


def steady(f, seed=5):
    """f with the same random numbers at every call."""

    def seeded(*args):
        mg.random.seed(seed)
        return f(*args)

    return seeded


def numbers(f, x, along, step=1e-4):
    """The derivative of f (array -> array) along a direction, with an error of order step^4."""
    at = {k: np.asarray(f(x + k * step * along)) for k in (-2, -1, 1, 2)}
    return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)


@SOME
def test_derivatives_through_a_compiled_cell(backend, name):
    """Reverse, forward, reverse over reverse and forward over reverse, against differences."""
    rng = np.random.default_rng(6)
    cell = cell_of(name, rng)
    weight = mg.Tensor(rng.normal(size=(T, B, H)))

    @mg.compile
    def run(xs):
        ys, _ = unroll(cell, xs)
        return mg.sum(mg.tanh(ys) * weight[..., : ys.shape[-1]])

    energy = steady(run)
    x, v, u = (rng.normal(size=(T, B, D)) for _ in range(3))

    def value(x):
        with mg.no_grad():
            return energy(mg.Tensor(x)).numpy()

    def slope(x):
        return mg.grad(energy)(mg.Tensor(x)).numpy()

    def along(x):
        return mg.jvp(energy, (mg.Tensor(x),), (mg.Tensor(v),))[1]

    def squared(x):
        g = mg.grad(energy)(x)
        return mg.sum(g * mg.Tensor(u))

    close(np.sum(slope(x) * v), numbers(value, x, v), 1e-7)
    close(along(x), numbers(value, x, v), 1e-7)
    second = numbers(slope, x, u)
    close(mg.grad(squared)(mg.Tensor(x)), second, 1e-7)
    _, (product,) = mg.hvp(energy, (mg.Tensor(x),), (mg.Tensor(u),))
    close(product, second, 1e-7)
    parameters = cell.parameters()
    for p in parameters:
        p.grad = None
    energy(mg.Tensor(x)).backward()
    for p, direction in [(p, rng.normal(size=p.shape)) for p in parameters]:
        kept = p.numpy().copy()

        def moved(w, p=p):
            p.assign(w)
            return value(x)

        expected = numbers(moved, kept, direction)
        p.assign(kept)
        g = np.zeros(p.shape) if p.grad is None else p.grad.numpy()
        close(np.sum(g * direction), expected, 1e-7)

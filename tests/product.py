"""Every cell with every wiring, conditioning, schedule, reading and regulariser: the axes.

A combination is a model of symbols, P(y(1), ..., y(T) | x): a Decoder around a wired cell, its
vector x given or the last states of a bidirectional encoder. AXES names the values of each axis in
the order of a combination; MEANINGLESS says which pairs of values are left out, and why.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional as F
from minigrad.nn import Linear, Module
from minigrad_rnn.catalogue import CATALOGUE
from minigrad_rnn.decode import beam, draw
from minigrad_rnn.likelihood import Categorical, DrawnLength, EndSymbol, Halt, Sequences
from minigrad_rnn.patterns import state_size, state_vector
from tests.recurrent import close, gradients, randomise, same_bits

B, H, V, DX = 2, 4, 3, 3
SEED = 8  # of what a model draws in training: no unit is dropped on all of its ways
Combination = tuple[str, ...]  # one value an axis

# --- the axes ------------------------------------------------------------------------------------

CELLS: dict[str, Callable[..., Any]] = {**CATALOGUE, "hidden layer": rnn.HiddenLayer}
REGULARISERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda cell: cell,
    "variational dropout": lambda cell: rnn.VariationalDropout(cell, x=0.1, h=0.2, y=0.1),
    "zoneout": lambda cell: rnn.Zoneout(cell, 0.3),
}


def fed_back(make: Callable[[int], Any]) -> Any:
    """The cell with the softmax of its last output beside its input (Fig 10.4, 10.10)."""
    return rnn.OutputFeedback(make(2 * H), Linear(H, H, dtype="float64"), feed=F.softmax)


# From make(D), a regularised cell with D inputs and H outputs, to a cell from H to H.
WIRINGS: dict[str, Callable[[Callable[[int], Any]], Any]] = {
    "plain": lambda make: make(H),
    "ragged": lambda make: make(H),  # with lengths
    "stacked": lambda make: rnn.Stack([make(H), make(H)]),
    "residual": lambda make: rnn.Residual(make(H)),
    "output feedback": fed_back,
    "bidirectional": lambda make: make(H),  # after an encoder of two more
}
CONDITIONINGS = ("none", *rnn.patterns.CONDITIONS)
SCHEDULES: dict[str, Any] = {
    "bptt": rnn.BPTT(),
    "tbptt": rnn.TBPTT(3, 3),
    "checkpoint": rnn.Checkpoint(5),
    "rtrl": rnn.RTRL(),
}
RECTIFIED = {"IndRNN": ("b", "u", "W"), "fast weights": ("bias", "gain")}  # what keeps a relu on
# Cells that index a parameter, p[0]: its uses add up by row first, so that sums over segments of a
# sequence, as Checkpoint makes them, round in another order than those over all of it.
INDEXED = ("LSTM, peephole", "LSTM, full peephole")


class Model(Module):
    """One combination: a decoder, and a bidirectional encoder where the wiring has one."""

    def __init__(self, combination: Combination) -> None:
        cell, wiring, condition, schedule, _, regulariser = combination
        self.T = 6 if schedule == "checkpoint" else 5  # the least that makes it compute again
        mg.random.seed(0)

        def make(D: int) -> Any:
            made = randomise(CELLS[cell](D, H, dtype="float64"), np.random.default_rng(D))
            if cell in RECTIFIED:  # a relu that is off lets nothing through: keep all on
                bias, *weights = (getattr(made, name) for name in RECTIFIED[cell])
                bias.assign(mg.full_like(bias, 5.0))
                for weight in weights:
                    weight.assign(0.3 * abs(weight))
            return REGULARISERS[regulariser](made)

        self.encoder, size = None, DX
        if wiring == "bidirectional":
            self.encoder = rnn.Bidirectional(make(DX), make(DX))
            size = 2 * state_size(self.encoder.forward) + 2 * H
        wired = WIRINGS[wiring](make)
        given = None if condition == "none" else size
        self.decoder = rnn.Decoder(
            V, H, wired, H, given, condition.replace("none", "both"), "float64"
        )
        rng = np.random.default_rng(1)
        randomise(self.decoder.embedding, rng)
        randomise(self.decoder.readout, rng)
        if self.decoder.bridge is not None:
            randomise(self.decoder.bridge, rng, 0.05)  # its tanh must not saturate
        self.lengths = [self.T, self.T - 1] if wiring == "ragged" else None

    def given(self, x: mg.Tensor) -> mg.Tensor | None:
        """What the decoder is conditioned on: x (T, B, DX) encoded, its first frame, or nothing.

        An encoder gives its last states and the mean of its outputs.
        """
        if self.encoder is not None:
            ys, last = self.encoder(x)
            return mg.concatenate([state_vector(last), mg.mean(ys, axis=0)], axis=-1)
        return None if self.decoder.R is None and self.decoder.bridge is None else x[0]

    def begin(self, x: mg.Tensor) -> Any:
        """The decoder's first state."""
        c = self.given(x)
        return self.decoder.initial_state(x.shape[1]) if c is None else self.decoder.begin(c)

    def log_probability(self, ys: Any, x: mg.Tensor) -> mg.Tensor:
        """log P(ys | x) of each row."""
        return self.decoder.log_probability(ys, self.given(x), lengths=self.lengths)


def data(T: int) -> tuple[mg.Tensor, mg.Tensor]:
    """Symbols ys (T, B) and what they are conditioned on, (T, B, DX)."""
    rng = np.random.default_rng(2)
    return mg.Tensor(rng.integers(0, V, (T, B))), mg.Tensor(rng.normal(size=(T, B, DX)))


# --- what is demanded of every combination -------------------------------------------------------


def check(combination: Combination, done: set[Combination] | None = None) -> None:
    """Demand all that must hold of a combination, in training and in evaluation.

    Training asks for no reading, and a reading for no schedule: `done`, kept over many calls, holds
    what the combination has without the one and without the other, which is not checked again.
    """
    done = set() if done is None else done
    _, wiring, _, _, reading, regulariser = combination
    to_train, to_read = combination[:4] + combination[5:], combination[:3] + combination[4:]
    model = Model(combination)
    ys, x = data(model.T)
    if to_train not in done:
        acting = causal(model, ys, x)
        trained(model, combination, ys, x)
        model.eval()
        if regulariser != "none":
            assert (logits(model, ys, x) != acting).any()
        if wiring == "ragged":
            rows_alone(model, ys, x)
    if to_read not in done:
        READINGS[reading](model.eval(), ys, x)
    done |= {to_train, to_read}


def logits(model: Model, ys: mg.Tensor, x: mg.Tensor) -> np.ndarray:
    mg.random.seed(SEED)
    with mg.no_grad():
        return model.decoder.logits(ys, model.given(x), lengths=model.lengths).numpy()


def causal(model: Model, ys: mg.Tensor, x: mg.Tensor) -> np.ndarray:
    """Row A8: another y(s) of row 0 moves later logits of row 0 and no bit of anything else.

    Returns the logits.
    """
    before, s = logits(model, ys, x), 1
    other = ys.numpy().copy()
    other[s, 0] = (other[s, 0] + 1) % V
    after = logits(model, mg.Tensor(other), x)
    assert after[: s + 1].tobytes() == before[: s + 1].tobytes()
    assert after[:, 1:].tobytes() == before[:, 1:].tobytes()
    assert (after[s + 1 :, 0] != before[s + 1 :, 0]).any(axis=-1).sum() >= 2
    if model.decoder.R is not None or model.decoder.bridge is not None:
        moved = x.numpy().copy()
        moved[0, 0] += 0.5
        after = logits(model, ys, mg.Tensor(moved))
        assert (after[:, 0] != before[:, 0]).any()
        assert after[:, 1:].tobytes() == before[:, 1:].tobytes()
    return before


def nats(os: mg.Tensor, targets: Any) -> mg.Tensor:
    """The summed negative log likelihood of the real steps."""
    ys, real = targets
    return mg.sum(F.cross_entropy(os, ys, reduction="none") * real)


def trained(model: Model, combination: Combination, ys: mg.Tensor, x: mg.Tensor) -> None:
    """The gradient reaches every parameter, is the slope, and is what the schedule promises."""
    cell, _, _, schedule, *_ = combination
    lengths, parameters, decoder = model.lengths, model.parameters(), model.decoder
    if schedule == "rtrl":  # whose work grows with the square of the batch: the last row does
        ys, x, model.lengths = ys[:, -1:], x[:, -1:], lengths and lengths[-1:]
    seen = mg.concatenate([decoder.start(ys.shape[1]).reshape(1, -1), ys[:-1]])
    T, batch = ys.shape
    real = np.arange(T)[:, None] < np.array(model.lengths or [T] * batch)
    targets = (ys, mg.Tensor(real.astype("float64")))

    def run(name: str) -> tuple[float, list[np.ndarray]]:
        for p in parameters:
            p.grad = None
        mg.random.seed(SEED)
        value, _ = SCHEDULES[name](
            decoder, nats, seen, targets, model.begin(x), parameters=parameters, mask=real
        )
        return float(value), [
            np.zeros(p.shape) if p.grad is None else p.grad.numpy() for p in parameters
        ]

    if schedule == "tbptt":
        value, expected = by_hand(model, seen, targets, x, cut=3)
    else:
        value, expected = run("bptt")
        rng = np.random.default_rng(3)
        along = [rng.normal(size=p.shape) for p in parameters]
        slope = sum(float(np.sum(g * a)) for g, a in zip(expected, along, strict=True))
        close(np.array(slope), np.array(difference(model, along, ys, x)), 1e-6)
    for (name, _), g in zip(model.named_parameters(), expected, strict=True):
        assert np.isfinite(g).all(), name
        assert g.any(), f"no gradient reaches {name}"
    if schedule != "bptt":
        other, found = run(schedule)
        close(np.array(other), np.array(value))
        for ours, theirs in zip(found, expected, strict=True):
            close(ours, theirs, 1e-10)
            if schedule == "checkpoint" and cell not in INDEXED:
                assert ours.tobytes() == theirs.tobytes()
    model.lengths = lengths


def difference(model: Model, along: list[np.ndarray], ys: mg.Tensor, x: mg.Tensor) -> float:
    """The central difference of the negative log likelihood along a direction."""
    parameters, step = model.parameters(), 1e-6
    start = [p.numpy().copy() for p in parameters]
    values = []
    for sign in (1, -1):
        for p, s, a in zip(parameters, start, along, strict=True):
            p.assign(s + sign * step * a)
        mg.random.seed(SEED)
        with mg.no_grad():
            values.append(-float(mg.sum(model.log_probability(ys, x))))
    for p, s in zip(parameters, start, strict=True):
        p.assign(s)
    return (values[0] - values[1]) / (2 * step)


def by_hand(
    model: Model, seen: mg.Tensor, targets: Any, x: mg.Tensor, cut: int
) -> tuple[float, list[np.ndarray]]:
    """Loss and gradients of a plain loop whose state is detached every `cut` steps."""
    mg.random.seed(SEED)
    ys, real = targets
    total: Any = 0.0
    state = model.begin(x)
    for t in range(len(ys)):
        if t and t % cut == 0:
            state = mg.tree.map(lambda s: s.detach(), state)
        o, new = model.decoder(seen[t], state)
        state = mg.tree.map(lambda n, s, t=t: kept(real[t], n, s), new, state)
        total = total + nats(o[None], (ys[t : t + 1], real[t : t + 1]))
    return float(total), gradients(total, model.parameters())


def kept(real: mg.Tensor, new: mg.Tensor, old: mg.Tensor) -> mg.Tensor:
    """The new state of the rows that go on."""
    return mg.where(real.reshape((-1,) + (1,) * (new.ndim - 1)) != 0, new, old)


def rows_alone(model: Model, ys: mg.Tensor, x: mg.Tensor) -> None:
    """A ragged batch is its rows, without their padding: likelihoods, and their gradients."""
    lengths = model.lengths
    together = model.log_probability(ys, x)
    whole = gradients(mg.sum(together), model.parameters())
    rows = [np.zeros(g.shape) for g in whole]
    model.lengths = None
    for b, n in enumerate(lengths or []):
        alone = model.log_probability(ys[:n, b : b + 1], x[:, b : b + 1])
        close(together[b : b + 1], alone.numpy())
        own = gradients(mg.sum(alone), model.parameters())
        rows = [r + g for r, g in zip(rows, own, strict=True)]
    for ours, theirs in zip(whole, rows, strict=True):
        close(ours, theirs)
    model.lengths = lengths
    noise = mg.where(mg.Tensor(np.arange(len(ys))[:, None] < np.array(lengths)), ys, (ys + 1) % V)
    same_bits(model.log_probability(noise, x), together)


# --- readings: what is asked of a trained model --------------------------------------------------


def scoring(model: Model, ys: mg.Tensor, x: mg.Tensor) -> None:
    """The score is the sum of the conditionals of single steps; over all sequences P sums to 1."""
    with mg.no_grad():
        state, y, total = model.begin(x), model.decoder.start(B), np.zeros(B)
        for t in range(len(ys)):
            o, state = model.decoder(y, state)
            y = ys[t]
            step = np.take_along_axis(o.numpy(), y.numpy()[:, None], 1)[:, 0]
            step = step - np.log(np.exp(o.numpy()).sum(-1))
            total += np.where(t < np.array(model.lengths or [len(ys)] * B), step, 0.0)
        close(model.log_probability(ys, x), total)
        model.lengths = None
        every = np.array(list(itertools.product(range(V), repeat=2))).T
        same = mg.concatenate([x[:, :1]] * every.shape[1], axis=1)
        close(mg.sum(mg.exp(model.log_probability(every, same))), np.array(1.0))


def sampling(model: Model, ys: mg.Tensor, x: mg.Tensor) -> None:
    """Symbols drawn step by step come from the conditionals that scoring gives them afterwards."""
    model.lengths = None
    key = mg.random.key(7)
    with mg.no_grad():
        for temperature in (0, 1.0):
            state, y = model.begin(x), model.decoder.start(B)
            drawn, conditionals = [], []
            for t in range(len(ys)):
                o, state = model.decoder(y, state)
                y = draw(o, key.fold(t), temperature)
                drawn.append(y)
                conditionals.append(o)
            chosen = mg.stack(drawn)
            forced = model.decoder.logits(chosen, model.given(x))
            close(forced, mg.stack(conditionals).numpy())
            if temperature == 0:
                same_bits(mg.argmax(forced, -1), chosen)
                c = model.given(x)
                if c is not None:
                    same_bits(model.decoder.greedy(c, len(ys)), chosen)
            else:
                again = mg.stack([draw(o, key.fold(t)) for t, o in enumerate(forced)])
                same_bits(again, chosen)


def candidates(symbols: int, longest: int) -> list[list[int]]:
    """All sequences of so many symbols, up to a length."""
    of_length = (itertools.product(range(symbols), repeat=n) for n in range(longest + 1))
    return [list(c) for c in itertools.chain.from_iterable(of_length)]


def stopping(symbols: int, V: int, make: Callable[[], Any]) -> Callable[..., None]:
    """A reading by a rule that stops: P of all sequences, or that they go on, sums to 1.

    symbols: how many can stand in a sequence; V: how many numbers of o describe them.
    """

    def read(model: Model, ys: mg.Tensor, x: mg.Tensor) -> None:
        p = Sequences(model.decoder, Categorical(V), make())
        ended = candidates(symbols, 2)
        longer = [c for c in candidates(symbols, 3) if len(c) == 3]
        with mg.no_grad():
            total = mg.sum(mg.exp(p.score(ended, alike(model, x, len(ended)))))
            going = p.log_beginning(np.array(longer).T, state=alike(model, x, len(longer)))
            close(total + mg.sum(mg.exp(going)), np.array(1.0))
            drawn = p.sample(B, 2, key=mg.random.key(7), state=model.begin(x))
            state = model.begin(x)
            assert np.isfinite(p.log_beginning(drawn.ys, drawn.lengths, state).numpy()).all()
            assert (drawn.lengths.numpy() <= 2).all()

    return read


def alike(model: Model, x: mg.Tensor, count: int) -> Any:
    """The first state of row 0, for so many rows."""
    return model.begin(mg.concatenate([x[:, :1]] * count, axis=1))


def beam_search(model: Model, ys: mg.Tensor, x: mg.Tensor) -> None:
    """A beam as wide as there are sequences finds the likeliest of them."""
    end, steps = V - 1, 2
    decoder = model.decoder
    with mg.no_grad():
        p = Sequences(decoder, Categorical(V), EndSymbol(end))
        ended = candidates(end, steps - 1)
        going = [c for c in candidates(end, steps) if len(c) == steps]
        worth = p.score(ended, alike(model, x, len(ended))).tolist()
        worth += p.log_beginning(np.array(going).T, state=alike(model, x, len(going))).tolist()
        options = {"end": end, "steps": steps, "width": V**steps, "n_best": len(worth)}
        found = beam(decoder, decoder.start(B), model.begin(x), **options)[0]
    expected = sorted(zip(worth, ended + going, strict=True), reverse=True)
    assert [list(h.symbols) for h in found] == [c for _, c in expected]
    close(np.array([h.log_probability for h in found]), np.array([w for w, _ in expected]))


# One more way to read a model is one more entry: a function of (model, ys, x) that asserts.
READINGS: dict[str, Callable[[Model, mg.Tensor, mg.Tensor], None]] = {
    "scoring": scoring,
    "sampling": sampling,
    "end symbol": stopping(V - 1, V, lambda: EndSymbol(V - 1)),
    "halting unit": stopping(V - 1, V - 1, Halt),
    "drawn length": stopping(V, V, lambda: DrawnLength(2, tell=False, dtype="float64")),
    "beam search": beam_search,
}

AXES: dict[str, tuple[str, ...]] = {
    "cell": tuple(CELLS),
    "wiring": tuple(WIRINGS),
    "conditioning": CONDITIONINGS,
    "schedule": tuple(SCHEDULES),
    "reading": tuple(READINGS),
    "regulariser": tuple(REGULARISERS),
}

# Pairs (or sets) of values that mean nothing together, and why. "*" stands for every other value.
MEANINGLESS: tuple[tuple[dict[str, tuple[str, ...]], str], ...] = (
    (
        {"wiring": ("bidirectional",), "conditioning": ("none",)},
        "a decoder that sees nothing of its encoder is the plain one",
    ),
    (
        {
            "cell": ("hidden layer",),
            "wiring": tuple(w for w in WIRINGS if w != "output feedback"),
        },
        "without memory it is recurrent through its output alone (Fig 10.4)",
    ),
    (
        {"cell": ("hidden layer",), "regulariser": ("variational dropout", "zoneout")},
        "both act on a state, and it has none",
    ),
)


def reason_against(combination: Combination) -> str | None:
    """Why a combination is left out, or None."""
    named = dict(zip(AXES, combination, strict=True))
    for values, reason in MEANINGLESS:
        if all(named[axis] in some for axis, some in values.items()):
            return reason
    return None


# --- which to run --------------------------------------------------------------------------------


def whole() -> list[Combination]:
    """Every combination that means something."""
    return [c for c in itertools.product(*AXES.values()) if reason_against(c) is None]


def pairs(combination: Combination) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    """The pairs of values, each with the number of its axis, that stand in a combination."""
    return itertools.combinations(enumerate(combination), 2)


def pairwise(seed: int = 0) -> list[Combination]:
    """Few combinations in which all pairs of values occur that occur anywhere (greedy, seeded).

    Each next one has a pair that is still missing and, of a hundred such, the most new pairs.
    """
    rng = np.random.default_rng(seed)
    everything = whole()
    by_pair: dict[Any, list[Combination]] = {}
    for combination in everything:
        for pair in pairs(combination):
            by_pair.setdefault(pair, []).append(combination)
    missing = dict.fromkeys(by_pair)  # a set that keeps its order
    chosen = []
    while missing:
        having = by_pair[next(iter(missing))]
        some = [having[i] for i in rng.integers(len(having), size=100)]
        best = max(some, key=lambda c: sum(pair in missing for pair in pairs(c)))
        chosen.append(best)
        for pair in pairs(best):
            missing.pop(pair, None)
    return chosen

"""Row N11: ragged batches are runs of their rows, through every wrapper, over 1,000 random cases.

A case draws sizes, lengths with zeros among them or any mask, resets in the middle, a state or
none, and what stands in the padding, NaN and infinity included. The reference takes one row, its
real steps alone, and goes along them by plain loops that know nothing of masks.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad.graph import capture, fingerprint, fold, unfold, verify
from minigrad_rnn import unroll
from tests.catalogue import make
from tests.recurrent import close, gradients, leaf, same_bits

T, B, H = 5, 3, 4
CASES, FIRST = 100, 8  # a wiring and backend; so many of them on every backend by default
GARBAGE = [0.0, np.nan, np.inf, -np.inf, -1e300]


def net(wiring: str, names: Any) -> Any:
    """A layer out of new cells, the names of whose kinds come one after another."""

    def cell() -> Any:
        return make(next(names), H, H)

    def learned() -> Any:
        cells = rnn.LearnedState(cell())
        for i, part in enumerate(cells.start):
            part.assign(np.random.default_rng(i).normal(size=part.shape))
        return cells

    return {
        "cell": lambda: rnn.Recurrent(cell()),
        "cell, reversed": lambda: rnn.Recurrent(cell(), reverse=True),
        "learned state": lambda: rnn.Recurrent(learned()),
        "learned state, reversed": lambda: rnn.Recurrent(learned(), reverse=True),
        "residual": lambda: rnn.Recurrent(rnn.Residual(learned())),
        "stack": lambda: rnn.Recurrent(rnn.Stack([learned(), rnn.Residual(cell())])),
        "bidirectional": lambda: rnn.Bidirectional(cell(), learned()),
        "bidirectional, multiplied": lambda: rnn.Bidirectional(learned(), cell(), merge="mul"),
        "bidirectional stacks": lambda: rnn.Bidirectional(
            rnn.Stack([cell(), cell()]), rnn.Residual(cell()), merge="sum"
        ),
        "layers": lambda: rnn.Layers([rnn.Bidirectional(cell(), cell(), merge="ave"), learned()]),
    }[wiring]()


WIRINGS = (
    "cell", "cell, reversed", "learned state", "learned state, reversed", "residual", "stack",
    "bidirectional", "bidirectional, multiplied", "bidirectional stacks", "layers",
)  # fmt: skip
KINDS = ("RNN", "LSTM", "GRU", "clockwork", "SRU", "QRNN", "fast weights")


# --- one row at a time ---------------------------------------------------------------------------


def along(cell: Any, xs: list[Any], fresh: list[bool], state: Any) -> tuple[list[Any], Any]:
    """A plain `for` over one row's real steps, anew wherever a sequence begins."""
    ys = []
    for x, begins in zip(xs, fresh, strict=True):
        y, state = cell(x, cell.initial_state(1) if begins else state)
        ys.append(y)
    return ys, state


def alone(layer: Any, xs: list[Any], fresh: list[bool], state: Any) -> tuple[list[Any], Any]:
    """The ys of one row's real steps and its last state, for whatever layer."""
    if isinstance(layer, rnn.Layers):
        states = []
        for each, part in zip(layer.layers, state, strict=True):
            xs, part = alone(each, xs, fresh, part)
            states.append(part)
        return xs, tuple(states)
    if isinstance(layer, rnn.Bidirectional):
        hs, ahead = along(layer.forward, xs, fresh, state[0])
        # Seen from the end a sequence begins where, in time, the next one does.
        gs, behind = along(layer.backward, xs[::-1], [False, *fresh[:0:-1]][: len(xs)], state[1])
        merge = {
            "concat": lambda h, g: mg.concatenate([h, g], axis=-1),
            "mul": lambda h, g: h * g,
            "sum": lambda h, g: h + g,
            "ave": lambda h, g: (h + g) / 2,
        }[layer.merge]
        return [merge(h, g) for h, g in zip(hs, gs[::-1], strict=True)], (ahead, behind)
    if layer.reverse:
        ys, state = along(layer.cell, xs[::-1], fresh[::-1], state)
        return ys[::-1], state
    return along(layer.cell, xs, fresh, state)


# --- a case --------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Inputs, what is real among them, where rows begin anew, and a first state or None."""

    xs: np.ndarray
    options: dict[str, np.ndarray]
    real: np.ndarray
    resets: np.ndarray
    state: Any


def states(layer: Any, batch: int) -> Any:
    """The state in which a layer begins."""
    if isinstance(layer, rnn.Layers):
        return tuple(states(each, batch) for each in layer.layers)
    if isinstance(layer, rnn.Bidirectional):
        return layer.forward.initial_state(batch), layer.backward.initial_state(batch)
    return layer.cell.initial_state(batch)


def values(rng: np.random.Generator, like: mg.Tensor) -> np.ndarray:
    """Normal values, or a count where the state counts."""
    return (
        rng.normal(size=like.shape) if like.dtype.kind == "f" else rng.integers(9, size=like.shape)
    )


def draw(layer: Any, rng: np.random.Generator) -> Case:
    """A random case."""
    steps, batch = int(rng.integers(1, T + 1)), int(rng.integers(1, B + 1))
    real = np.ones((steps, batch), bool)
    options: dict[str, np.ndarray] = {}
    kind = rng.choice(["all", "lengths", "mask"], p=[0.1, 0.4, 0.5])
    if kind == "lengths":
        options["lengths"] = rng.integers(0, steps + 1, batch)
        real = np.arange(steps)[:, None] < options["lengths"]
    elif kind == "mask":
        options["mask"] = real = rng.random((steps, batch)) < rng.choice([0.2, 0.6, 0.9])
    resets = rng.random((steps, batch)) < rng.choice([0.0, 0.3, 0.6])
    if resets.any():
        options["resets"] = resets
    xs = rng.normal(size=(steps, batch, H))
    xs = np.where(real[:, :, None], xs, rng.choice(GARBAGE, size=xs.shape))
    state = None
    if rng.random() < 0.5:
        state = tree.map(lambda s: values(rng, s), states(layer, batch))
    return Case(xs, options, real, resets, state)


def given(state: Any) -> Any:
    """Leaves for arrays, which require gradients where they can; None for None."""
    if state is None:
        return None
    return tree.map(lambda s: mg.Tensor(s, requires_grad=s.dtype.kind == "f"), state)


def loss(ys: Any, state: Any) -> mg.Tensor:
    """One number that depends on every output and on every part of the last state."""
    rng = np.random.default_rng(len(ys))
    parts = [s for s in tree.flatten((ys, state))[0] if s.dtype.kind == "f"]
    return sum(mg.sum(s * mg.Tensor(rng.normal(size=s.shape))) for s in parts)


def floats(state: Any) -> list[Any]:
    """The parts of a nest that have gradients."""
    return [s for s in tree.flatten(state)[0] if s is not None and s.requires_grad]


def batched(layer: Any, case: Case) -> tuple[Any, Any, list[np.ndarray]]:
    """Outputs, last state, and the gradients by inputs, parameters and first state."""
    xs, state = leaf(case.xs), given(case.state)
    ys, last = layer(xs, state, **case.options)
    return ys, last, gradients(loss(ys, last), xs, layer.parameters(), floats(state))


def by_rows(layer: Any, case: Case) -> tuple[Any, Any, list[np.ndarray]]:
    """The same from the rows alone, laid together."""
    steps, batch = case.real.shape
    state = given(case.state)
    blank = leaf(np.zeros(layer(mg.zeros((1, 1, H), dtype="float64"))[0].shape[1:]))
    xs, ys, lasts = {}, [], []
    for b in range(batch):
        times = np.flatnonzero(case.real[:, b]).tolist()
        xs |= {(t, b): leaf(case.xs[t, b : b + 1]) for t in times}
        row = states(layer, 1) if state is None else tree.map(lambda s, b=b: s[b : b + 1], state)
        fresh = [bool(case.resets[t, b]) for t in times]
        outputs, last = alone(layer, [xs[t, b] for t in times], fresh, row)
        column = dict(zip(times, outputs, strict=True))
        ys.append(mg.stack([column.get(t, blank) for t in range(steps)]))
        lasts.append(last)
    ys = mg.concatenate(ys, axis=1)
    last = tree.map(lambda *parts: mg.concatenate(parts), *lasts)
    found = gradients(loss(ys, last), list(xs.values()), layer.parameters(), floats(state))
    by_xs = np.zeros(case.xs.shape)
    for (t, b), g in zip(xs, found):
        by_xs[t, b] = g[0]
    return ys, last, [by_xs, *found[len(xs) :]]


def flat(nest: Any) -> list[np.ndarray]:
    """The leaves of a nest on the host."""
    return [x.numpy() if isinstance(x, mg.Tensor) else x for x in tree.flatten(nest)[0]]


def check(wiring: str, seeds: range) -> None:
    """Demand that cases are runs of their rows to 1e-12, and that padding changes no bit."""
    layers = {}
    for seed in seeds:
        rng = np.random.default_rng([seed, WIRINGS.index(wiring)])
        first = seed % len(KINDS)  # the other cells of a wiring are of the kinds that follow
        if first not in layers:
            layers[first] = net(wiring, iter(KINDS[first:] + KINDS))
        layer = layers[first]
        case = draw(layer, rng)
        found = batched(layer, case)
        try:
            assert not found[0].numpy()[~case.real].any()
            assert not found[2][0][~case.real].any()
            for ours, rows in zip(flat(found), flat(by_rows(layer, case)), strict=True):
                close(ours, rows)
            clean = case._replace(xs=np.where(case.real[:, :, None], case.xs, 0.0))
            for ours, other in zip(flat(found), flat(batched(layer, clean)), strict=True):
                assert ours.tobytes() == other.tobytes()
        except AssertionError as error:
            error.add_note(f"case {seed} of {wiring!r}: {case}")
            raise


@pytest.mark.lecture("B11", "ragged")
@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_few_ragged_batches_are_runs_of_their_rows(backend, wiring):
    check(wiring, range(FIRST))


@pytest.mark.long
@pytest.mark.parametrize("wiring", WIRINGS)
def test_ragged_batches_are_runs_of_their_rows(backend, wiring):
    check(wiring, range(FIRST, CASES))


def test_there_are_a_thousand_cases_of_every_sort():
    """Zero lengths, holes, resets in the middle, states and their absence all occur, often."""
    assert len(WIRINGS) * CASES >= 1000
    layer = net("cell", iter(KINDS))
    cases = [draw(layer, np.random.default_rng([seed, 0])) for seed in range(CASES)]
    for often in (
        ["lengths" in c.options and 0 in c.options["lengths"] for c in cases],
        ["mask" in c.options and (~c.real[:-1] & c.real[1:]).any() for c in cases],
        [(c.resets & c.real)[1:].any() for c in cases],
        [(c.resets & ~c.real).any() for c in cases],
        [np.isnan(c.xs).any() and np.isinf(c.xs).any() for c in cases],
        [c.state is None for c in cases],
        [c.state is not None for c in cases],
    ):
        assert sum(often) >= 10


@pytest.mark.parametrize("wiring", WIRINGS)
def test_other_rows_change_no_bit_of_a_row(backend, wiring):
    """Other inputs, lengths, resets and NaN in them: outputs, state and gradients of row 0 stay."""
    layer = net(wiring, iter(KINDS))
    rng = np.random.default_rng(WIRINGS.index(wiring))
    mask, resets = rng.random((2, T, B)) < 0.6
    found = []
    for others in (rng.normal(size=(T, B - 1, H)), np.full((T, B - 1, H), np.nan)):
        xs = leaf(np.concatenate([np.random.default_rng(1).normal(size=(T, 1, H)), others], axis=1))
        real, anew = (np.c_[flags[:, :1], rng.random((T, B - 1)) < 0.5] for flags in (mask, resets))
        ys, last = layer(xs, mask=real, resets=anew)
        [g] = mg.pullback(mg.sum(ys[:, 0] ** 2), [xs])
        first = flat((ys[:, 0], g[:, 0], tree.map(lambda s: s[:1], last)))
        found.append([x.tobytes() for x in first])
    assert found[0] == found[1]


# --- lengths, masks and resets as tensors --------------------------------------------------------


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("name", ["lengths", "mask"])
def test_a_captured_ragged_run_takes_its_lengths_at_each_call(backend, wiring, name):
    """Captured with one set of lengths, or mask, and resets, called with others."""
    layer = net(wiring, iter(KINDS))

    def step(xs, real, resets):
        ys, _ = layer(xs, **{name: real}, resets=resets)
        value = mg.sum(ys**2)
        value.backward()
        return ys, value

    rng = np.random.default_rng(3)
    captured = None
    for _ in range(3):
        xs, resets = mg.Tensor(rng.normal(size=(T, B, H))), mg.Tensor(rng.random((T, B)) < 0.3)
        lengths, mask = rng.integers(0, T + 1, B), rng.random((T, B)) < 0.6
        real = mg.Tensor(lengths if name == "lengths" else mask)
        if captured is None:
            captured = capture(step, xs, real, resets)
            verify(captured.graph)
        results = []
        for f in (step, captured):
            for p in layer.parameters():
                p.grad = None
            results.append((f(xs, real, resets), [p.grad for p in layer.parameters()]))
        same_bits(*results)


def test_a_ragged_loop_folds(backend):
    """One loop over time forwards and one backwards, where the mask is an indexed input."""
    cell = make("LSTM", H, H)

    def step(xs, lengths):
        value = mg.sum(unroll(cell, xs, lengths=lengths)[0])
        value.backward()
        return value

    sizes = mg.Tensor(np.array([12, 0, 7]))
    graph = capture(step, mg.zeros((12, B, H), dtype="float64"), sizes).graph
    folded = fold(graph)
    assert len(folded.steps) < len(graph.steps) / 4
    assert fingerprint(unfold(folded)) == fingerprint(graph)


def test_flags_may_come_from_another_backend(backend):
    with mg.use_backend("numpy"):
        lengths, resets = mg.Tensor([2, 5, 0]), mg.Tensor(np.eye(T, B, dtype=bool))
    layer = net("bidirectional", iter(KINDS))
    xs = mg.Tensor(np.random.default_rng(4).normal(size=(T, B, H)))
    same_bits(
        layer(xs, lengths=lengths, resets=resets),
        layer(xs, lengths=lengths.tolist(), resets=resets.numpy()),
    )


def test_lengths_that_are_tensors_are_checked_where_they_can_be_read(backend):
    cell, xs = make("RNN", H, H), mg.zeros((T, B, H), dtype="float64")
    with pytest.raises(ValueError, match="row 1 has length 6, which is not between 0 and 5"):
        unroll(cell, xs, lengths=mg.Tensor([5, 6, 0]))
    with pytest.raises(mg.ShapeError, match=r"lengths are 3 integers.* int64 of shape \(2,\)"):
        capture(lambda n: unroll(cell, xs, lengths=n), mg.Tensor([5, 6]))


def test_true_and_false_stay_what_they_are_under_a_mask(backend):
    """A cell's bool inputs and outputs are bool in a ragged batch too, False in the padding."""
    seen = []

    def f(x, state):
        seen.append(x.dtype)
        return x, state

    xs = mg.ones((T, B), dtype="bool")
    ys, _ = unroll(f, xs, mg.zeros(B), lengths=[T, 0, 2])
    assert {*seen, ys.dtype} == {np.dtype(bool)}
    assert ys.numpy().sum(axis=0).tolist() == [T, 0, 2]

"""Beam search against the listing of all sequences and against beam search with lists."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import nn
from minigrad_rnn.catalogue import CATALOGUE
from minigrad_rnn.decode import beam, coverage_penalty, draw, length_penalty, narrowed
from minigrad_rnn.language import CharacterModel
from minigrad_rnn.patterns import Embedded, Readout
from tests.oracles import beam as oracle
from tests.recurrent import close, randomise

lecture = pytest.mark.lecture
V, S, H, END = 3, 2, 4, 0


class Attending:
    """A step model of a table: what follows a prefix, and how much it looks at S source symbols.

    The state is a nest: the number of the prefix, and the attention of the last step. Row b has the
    tables of sample ids[b], so that a wrong reordering of the nest shows.
    """

    def __init__(self, logits, attention):
        self.logits, self.attention = logits, attention  # (samples, prefixes, V), (..., S)

    def begin(self, ids):
        return {
            "sample": mg.Tensor(np.array(ids, int)),
            "read": [mg.Tensor(np.zeros(len(ids), int)), mg.zeros((len(ids), S), "float64")],
        }

    def __call__(self, y, state):
        b, (prefix, _) = state["sample"].numpy(), state["read"]
        n = np.where(y.numpy() == V, 0, prefix.numpy() * V + 1 + y.numpy())
        read = [mg.Tensor(n), mg.Tensor(self.attention[b, n])]
        return mg.Tensor(self.logits[b, n]), {"sample": state["sample"], "read": read}

    def conditional(self, b):
        def after(prefix):
            n = 0
            for y in prefix:
                n = n * V + 1 + y
            return self.logits[b, n], self.attention[b, n]

        return after


def tables(samples, L, seed, holes=0.0):
    """Random tables for prefixes shorter than L; a share `holes` of the logits is -inf."""
    rng = np.random.default_rng(seed)
    prefixes = sum(V**t for t in range(L))
    logits = 2 * rng.normal(size=(samples, prefixes, V))
    logits[rng.random(logits.shape) < holes] = -np.inf
    attention = rng.dirichlet(np.ones(S), size=(samples, prefixes))
    return Attending(logits, attention)


def search(model, ids, L, width, n_best, alpha=0.0, beta=0.0):
    start = np.full(len(ids), V)
    how = {"alpha": alpha, "beta": beta, "alignment": lambda s: s["read"][1]}
    return beam(model, start, model.begin(ids), end=END, steps=L, width=width, n_best=n_best, **how)


def same(found, expected):
    """Demand the oracle's hypotheses, in its order, with its scores."""
    assert len(found) == len(expected)
    for h, (symbols, score, log_p) in zip(found, expected, strict=True):
        assert h.finished == (symbols[-1] == END)
        assert h.symbols == (symbols[:-1] if h.finished else symbols)
        assert h.score == pytest.approx(score, rel=1e-12, abs=1e-12)
        assert h.log_probability == pytest.approx(log_p, rel=1e-12, abs=1e-12)


# --- penalties -----------------------------------------------------------------------------------


@lecture("H3", "penalties")
@pytest.mark.parametrize("seed", range(5))
def test_penalties_are_those_of_opennmt(backend, seed):
    """length_wu(n, alpha) = ((5 + n) / 6)^alpha; coverage_wu(cov) = -beta sum log(min(cov, 1))."""
    rng = np.random.default_rng(seed)
    length, (alpha, beta) = int(rng.integers(1, 99)), 2 * rng.random(2)
    coverage = 2 * rng.random((2, 3, 5)) + 1e-6
    assert length_penalty(length, alpha) == pytest.approx(((5 + length) / 6.0) ** alpha, rel=1e-12)
    assert length_penalty(length, alpha) == pytest.approx(
        oracle.length_penalty(length, alpha), rel=1e-12
    )
    opennmt = beta * -np.log(np.minimum(coverage, np.ones_like(coverage))).sum(-1)
    close(coverage_penalty(coverage, beta), -opennmt)
    one = coverage[0, 0][None, :]
    close(coverage_penalty(one, beta), [oracle.coverage_penalty(one, beta)])


@lecture("H3", "penalties")
def test_the_penalty_ignores_padding_and_what_has_no_weight(backend):
    coverage = np.array([[0.5, 1.7, 0.0], [0.0, 1.0, 1.0]])
    real = np.array([[True, True, False], [True, True, True]])
    assert coverage_penalty(coverage, 2.0, real).tolist() == [2 * math.log(0.5), -math.inf]
    assert coverage_penalty(coverage, 0.0, real).tolist() == [0, 0]


# --- beam search ---------------------------------------------------------------------------------


@lecture("H3", "beam")
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.6, 0.0), (1.0, 0.3)])
def test_a_beam_as_wide_as_all_sequences_finds_all(backend, alpha, beta):
    L = 3
    model = tables(2, L, seed=1)
    everything = search(model, [1, 0], L, V**L, 100, alpha, beta)
    best = search(model, [1, 0], L, V**L, 1, alpha, beta)
    for row, b in enumerate([1, 0]):
        expected = oracle.exhaustive(model.conditional(b), V, L, END, alpha, beta)
        same(everything[row], expected)
        same(best[row], expected[:1])


@settings(max_examples=40)
@given(
    st.integers(1, 4), st.integers(1, 10), st.integers(1, 12), st.integers(0, 999),
    st.sampled_from([0.0, 0.4, 2.0]), st.sampled_from([0.0, 0.5]), st.sampled_from([0.0, 0.4]),
)  # fmt: skip
def test_every_width_is_beam_search_with_lists(L, width, n_best, seed, alpha, beta, holes):
    """Whole hypotheses, early stop included; samples differ, and some have few hypotheses."""
    with mg.use_backend("numpy"):
        model = tables(3, L, seed, holes)
        found = search(model, [2, 0, 1], L, width, n_best, alpha, beta)
    for row, b in zip(found, [2, 0, 1], strict=True):
        expected = oracle.beam(model.conditional(b), L, END, width, alpha, beta)
        same(row, expected[:n_best])
        assert not any(math.isnan(h.score) for h in row)


@pytest.mark.parametrize("name", ["GRU", "LSTM", "clockwork", "mLSTM"])
def test_beam_search_takes_the_state_of_any_cell(backend, name):
    model = network(name)
    found = beam(model, np.array([V, 1]), end=END, steps=4, width=V**4, n_best=5, alpha=0.7)
    for row, first in zip(found, (V, 1), strict=True):
        expected = oracle.exhaustive(replay(model, first), V, 4, END, 0.7, 0.0)
        same(row, expected[:5])


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_beam_search_takes_every_cell_of_the_catalogue(backend, name):
    test_beam_search_takes_the_state_of_any_cell(backend, name)


def network(name):
    """A cell of the catalogue between an embedding and an output layer."""
    mg.random.seed(3)
    cell = CATALOGUE[name](H, H, dtype="float64")
    y, _ = cell(mg.zeros((1, H), "float64"), cell.initial_state(1))
    model = Readout(
        Embedded(nn.Embedding(V + 1, H, dtype="float64"), cell),
        nn.Linear(y.shape[-1], V, dtype="float64"),
    )
    return randomise(model, np.random.default_rng(5), 1.0).eval()


def replay(model, first):
    """conditional(prefix) of the oracle: the model alone, from its first step on."""

    def after(prefix):
        state = model.initial_state(1)
        for y in (first, *prefix):
            o, state = model(mg.Tensor([y]), state)
        return o.numpy()[0], np.zeros(1)

    return after


def test_decoders_language_models_and_plain_functions_are_step_models(backend):
    rng = np.random.default_rng(0)
    decoder = randomise(
        rnn.Decoder(V, 2, rnn.LSTMCell(2, H, dtype="float64"), H, Dx=2, dtype="float64"), rng
    )
    x = mg.Tensor(rng.normal(size=(2, 2)))
    found = beam(decoder, decoder.start(2), decoder.begin(x), end=END, steps=3, width=V**3)
    for b in range(2):
        lists = [
            y for n in range(1, 4) for y in np.ndindex((V,) * n)
            if END not in y[:-1] and (y[-1] == END or n == 3)
        ]  # fmt: skip
        values = [decoder.log_probability(np.array([y]).T, x[b : b + 1]).item() for y in lists]
        best = lists[int(np.argmax(values))]
        assert found[b][0].log_probability == pytest.approx(max(values), rel=1e-9)
        assert found[b][0].symbols == (best[:-1] if best[-1] == END else best)
    characters = CharacterModel(5, 4, layers=2, cell="gru")
    with_state = characters.initial_state(1)
    [[h]] = beam(characters.step, np.array([2]), with_state, end=0, steps=3, width=125)
    assert len(h.symbols) <= 3
    function = lambda y, state: (mg.Tensor([[0.0, 1.0, 3.0]]), state)  # noqa: E731
    [[h]] = beam(function, [0], (), end=0, steps=2, width=1)
    assert h.symbols == (2, 2)
    assert not h.finished


@lecture("H3", "beam")
def test_a_beam_of_one_is_greedy(backend):
    model = network("LSTM")
    [[h]] = beam(model, np.array([V]), end=END, steps=6, width=1)
    y, state, chosen = mg.Tensor([V]), model.initial_state(1), []
    while len(chosen) < 6 and END not in chosen:
        o, state = model(y, state)
        y = draw(o, mg.random.key(0), temperature=0)
        chosen.append(y.item())
    assert list(h.symbols) == [y for y in chosen if y != END]


def test_the_other_rows_change_nothing(backend):
    model = tables(4, 4, seed=8)
    together = search(model, [0, 1, 2, 3], 4, 3, 2, 0.6, 0.2)
    for b in range(4):
        assert search(model, [b], 4, 3, 2, 0.6, 0.2) == [together[b]]


def test_equals_rank_by_parent_and_symbol(backend):
    """All sequences are equally likely: the first ones stay, on every backend alike."""
    model = tables(1, 3, seed=0)
    model.logits[:] = 0
    [found] = search(model, [0], 3, 4, 9)
    kept = [(0,), (1, 0), (2, 0), (1, 1, 0), (1, 1, 1), (1, 1, 2), (1, 2, 0)]  # by hand
    assert [h.symbols + (END,) * h.finished for h in found] == kept


def test_impossible_symbols_and_dead_ends(backend):
    """Symbol 1 leads nowhere, and nothing else but the end may follow symbol 2."""
    model = tables(1, 3, seed=0)
    model.logits[0, 0] = [-np.inf, 5, 1]
    model.logits[0, 2] = -np.inf  # after 1
    model.logits[0, 3] = [2, -np.inf, -np.inf]  # after 2
    [found] = search(model, [0], 3, 9, 4, 0.6, 0.3)
    assert [h.symbols for h in found] == [(2,)]
    assert found[0].log_probability == pytest.approx(-math.log1p(math.exp(4)))
    model.logits[0, 3] = -np.inf
    assert search(model, [0], 3, 9, 4) == [[]]


def test_no_rows_and_a_source_without_attention(backend):
    model = tables(1, 2, seed=0)
    assert search(model, [], 2, 2, 1) == []
    model.attention[..., 1] = 0  # the second source symbol is never looked at
    with pytest.raises(
        ValueError, match=r"no hypothesis of row 0 looks at the whole .* give real="
    ):
        search(model, [0], 2, 9, 1, 0.6, 1.0)
    real = np.array([[True, False]])
    how = {"end": END, "steps": 2, "width": 9, "beta": 1.0, "real": real}
    [[h]] = beam(model, [V], model.begin([0]), alignment=lambda s: s["read"][1], **how)
    assert math.isfinite(h.score)


def test_what_cannot_be_searched_says_so(backend):
    model = tables(1, 2, seed=0)
    state = model.begin([0])
    with pytest.raises(ValueError, match="width=0: give an integer >= 1"):
        beam(model, [V], state, end=END, steps=2, width=0)
    with pytest.raises(ValueError, match="alpha=-1: give a number >= 0"):
        beam(model, [V], state, end=END, steps=2, alpha=-1)
    with pytest.raises(ValueError, match="needs alignment="):
        beam(model, [V], state, end=END, steps=2, beta=0.1)
    for start in ([V] * 3, []):
        with pytest.raises(mg.ShapeError, match=f"start has {len(start)} rows, but the state a "):
            beam(model, np.array(start, int), state, end=END, steps=2)
    with pytest.raises(ValueError, match=r"beam: <lambda> has no initial_state\(batch\); pass"):
        beam(lambda y, state: (y, state), [V], end=END, steps=2)
    how = {"beta": 1.0, "alignment": lambda s: s["read"][1], "real": np.ones((2, 2), bool)}
    with pytest.raises(mg.ShapeError, match=r"real is \(B, S\) = \(1, 2\), not \(2, 2\)"):
        beam(model, [V], state, end=END, steps=2, **how)
    with pytest.raises(mg.ShapeError, match="V > end = 3"):
        beam(model, [V], state, end=V, steps=2)
    with pytest.raises(mg.ShapeError, match="one symbol a row"):
        beam(model, [[V]], state, end=END, steps=2)
    for wrong in (np.nan, np.inf):
        model.logits[0, 0, 1] = wrong
        with pytest.raises(ValueError, match=r"logits of step 1 are NaN or \+inf"):
            beam(model, [V], state, end=END, steps=2)


def test_a_share_of_1_keeps_every_symbol(backend):
    """50000 equal ones: sums in float32 pass 0.9999 far from where they should, 1 too."""
    logits = mg.Tensor(np.arange(50000) * 1e-6, dtype="float32")
    assert np.isfinite(narrowed(logits, top_p=1.0).numpy()).all()
    share = np.sort(np.exp(logits.numpy().astype("float64")))[::-1]
    for p in (0.5, 0.999, 0.99999):
        kept = np.isfinite(narrowed(logits, top_p=p).numpy()).sum()
        least = 1 + (np.cumsum(share / share.sum()) < p).sum()
        assert abs(kept - least) <= 1  # ties of float32 logits stay in
    tail = mg.Tensor([20.0, 0, -20, -60])
    assert np.isfinite(narrowed(tail, top_p=1).numpy()).all()

"""The character model's score and its text against NumPy, brute force and plain counting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad_rnn import language
from minigrad_rnn.decode import check_choices, draw, narrowed
from minigrad_rnn.language import (
    CELLS,
    CharacterModel,
    bits_per_character,
    evaluating,
    generate,
    log_loss,
    usual_prime,
)
from minigrad_rnn.text import TextError, Vocabulary

ALPHABET = "\n Tabcdeh"


@pytest.fixture(params=CELLS)
def model(request: pytest.FixtureRequest) -> CharacterModel:
    mg.random.seed(3)
    return CharacterModel(len(ALPHABET), 7, layers=2, cell=request.param, dropout=0.5)


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, len(ALPHABET), 31)


def conditionals(model: CharacterModel, ids: np.ndarray) -> np.ndarray:
    """P(. | ids[:t + 1]) for every t, in float64: each from the logits of the whole prefix."""
    model.eval()
    rows = []
    for t in range(len(ids)):
        logits, _ = model(ids[: t + 1, None], model.initial_state(1))
        scores = logits.numpy()[-1, 0].astype(np.float64)
        odds = np.exp(scores - scores.max())
        rows.append(odds / odds.sum())
    return np.array(rows)


# --- a score -------------------------------------------------------------------------------------


def test_bits_are_the_chain_rule(backend: str, ids: np.ndarray) -> None:
    mg.random.seed(0)
    model = CharacterModel(len(ALPHABET), 7)
    p = conditionals(model, ids[:-1])
    wanted = -sum(math.log2(p[t, ids[t + 1]]) for t in range(len(ids) - 1)) / (len(ids) - 1)
    assert bits_per_character(model, ids) == pytest.approx(wanted, rel=1e-5)


def test_bits_of_every_cell_are_the_chain_rule(model: CharacterModel, ids: np.ndarray) -> None:
    wanted = -np.log2(conditionals(model, ids)[np.arange(30), ids[1:]]).mean()
    model.train()  # dropout must not act on a score
    assert bits_per_character(model, ids) == pytest.approx(wanted, rel=1e-5)
    assert model.training


def test_an_untrained_model_with_a_zero_readout_knows_nothing(ids: np.ndarray) -> None:
    model = CharacterModel(len(ALPHABET), 7)
    model.readout.W.assign(np.zeros((7, len(ALPHABET)), np.float32))
    assert bits_per_character(model, ids) == pytest.approx(math.log2(len(ALPHABET)), rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 29, 30, 1000])
def test_chunks_do_not_change_the_loss(model: CharacterModel, ids: np.ndarray, chunk: int) -> None:
    columns = np.stack([ids, ids[::-1]], axis=1)
    calls: list[int] = []
    with evaluating(model):
        state = model.initial_state(2)
        nats, end = log_loss(model, columns, state, chunk=chunk, progress=calls.append)
    wanted = sum(
        -np.log(conditionals(model, row)[np.arange(30), row[1:]]).sum() for row in columns.T
    )
    assert nats == pytest.approx(wanted, rel=1e-5)
    assert sum(calls) == 60
    assert len(calls) == math.ceil(30 / chunk)
    _, whole = log_loss(model, columns, model.initial_state(2), chunk=30)
    for ours, theirs in zip(mg.tree.flatten(end)[0], mg.tree.flatten(whole)[0]):
        assert np.allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


def test_a_loss_goes_on_from_the_state_before(model: CharacterModel, ids: np.ndarray) -> None:
    with evaluating(model):
        first, state = log_loss(model, ids[:16, None], model.initial_state(1))
        second, _ = log_loss(model, ids[15:, None], state)
    whole = bits_per_character(model, ids) * math.log(2) * 30
    assert first + second == pytest.approx(whole, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("reset", [0.0, 3.0])  # added to the forget gates: 3 keeps 98 % of c a step
def test_a_long_text_read_in_parts_has_the_score_of_one_pass(
    monkeypatch: pytest.MonkeyPatch, reset: float
) -> None:
    mg.random.seed(0)
    model = CharacterModel(len(ALPHABET), 7)
    for cell in model.cells.cells:
        b = cell.b.numpy().copy()
        b[7:14] += reset
        cell.b.assign(b)
    ids = np.random.default_rng(0).integers(0, len(ALPHABET), 50 * 401 + 3)
    read: list[int] = []

    def counted(model: Any, ids: Any, *rest: Any, **how: Any) -> Any:
        read.append(ids.shape[1])
        return log_loss(model, ids, *rest, **how)

    monkeypatch.setattr(language, "log_loss", counted)
    told: list[int] = []
    found = bits_per_character(model, ids, told.append)
    assert sum(told) == len(ids) - 1
    assert read[:-1] == [50] * (len(read) - 1) and len(read) <= 5  # the last: what is left over
    with evaluating(model):
        nats, _ = log_loss(model, ids[:, None], model.initial_state(1))
    assert found == pytest.approx(nats / math.log(2) / (len(ids) - 1), rel=1e-6)


def test_a_model_that_never_forgets_is_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CharacterModel(len(ALPHABET), 3, layers=1, cell="rnn")
    cell = model.cells.cells[0]
    cell.Wh.assign(40 * np.eye(3, dtype=np.float32))  # a latch: what came first decides
    ids = np.random.default_rng(0).integers(0, len(ALPHABET), 50 * 401 + 3)
    found = bits_per_character(model, ids)
    with evaluating(model):
        nats, _ = log_loss(model, ids[:, None], model.initial_state(1))
    assert found == pytest.approx(nats / math.log(2) / (len(ids) - 1), rel=1e-6)


def test_a_score_needs_two_characters(model: CharacterModel) -> None:
    with pytest.raises(ValueError, match="at least 2 characters, got 1"):
        bits_per_character(model, np.array([0]))


def test_a_score_leaves_no_graph_and_no_gradient(model: CharacterModel, ids: np.ndarray) -> None:
    bits_per_character(model, ids)
    _, state = log_loss(model, ids[:, None], model.initial_state(1))
    assert all(p.grad is None for p in model.parameters())
    assert not any(part.requires_grad for part in mg.tree.flatten(state)[0])


@pytest.mark.parametrize(("cell", "layers"), [("lstn", 1), ("lstm", 0), ("gru", True)])
def test_a_model_says_what_it_cannot_be(cell: str, layers: int) -> None:
    with pytest.raises(ValueError, match=r"cell is one of|layers is a whole number"):
        CharacterModel(5, 4, layers, cell)


# --- a text --------------------------------------------------------------------------------------


def text_of(model: CharacterModel, prime: str = "The ", length: int = 40, **how: object) -> str:
    return "".join(generate(model, Vocabulary(ALPHABET), prime, length, **how))


def test_the_same_seed_writes_the_same_text(model: CharacterModel) -> None:
    assert text_of(model, seed=5) == text_of(model, seed=5)
    assert text_of(model, seed=5) != text_of(model, seed=6)
    assert text_of(model, seed=5).startswith(text_of(model, seed=5, length=9))
    assert len(text_of(model)) == 40
    assert text_of(model, length=0) == ""


def test_the_ambient_generator_neither_changes_a_text_nor_is_changed(model: CharacterModel) -> None:
    mg.random.seed(1)
    one, generator = text_of(model), mg.random.generator.numpy()
    assert np.array_equal(generator, [1, 0])
    mg.random.seed(2)
    assert text_of(model) == one


def test_temperature_0_takes_the_likeliest(model: CharacterModel) -> None:
    vocabulary = Vocabulary(ALPHABET)
    written = vocabulary.encode("The " + text_of(model, length=12, temperature=0))
    p = conditionals(model, written)
    assert np.array_equal(p[3:-1].argmax(axis=1), written[4:])


def test_the_whole_prime_counts(model: CharacterModel) -> None:
    """After two primes that end alike, the likeliest character follows each prime's own state."""
    vocabulary = Vocabulary(ALPHABET)
    for prime in ("a", "ba", "cba", "hhhh ba"):
        p = conditionals(model, vocabulary.encode(prime))[-1]
        likeliest = vocabulary.characters[p.argmax()]
        assert text_of(model, prime, 1, temperature=0) == likeliest


def test_a_text_is_drawn_from_the_conditionals() -> None:
    """Counts of the first character over many seeds, against its probabilities: chi squared."""
    mg.random.seed(4)
    model = CharacterModel(len(ALPHABET), 5, layers=1)
    model.readout.b.assign(np.linspace(-1, 1, len(ALPHABET)).astype(np.float32))
    vocabulary = Vocabulary(ALPHABET)
    p = conditionals(model, vocabulary.encode("a"))[-1]
    drawn = [text_of(model, "a", 1, seed=seed) for seed in range(1000)]
    counts = np.array([drawn.count(c) for c in vocabulary.characters])
    statistic = ((counts - 1000 * p) ** 2 / (1000 * p)).sum()
    assert statistic < 26.1  # 8 degrees of freedom, one in a thousand


def test_characters_are_drawn_independently() -> None:
    """A model that knows nothing writes every pair of neighbours about equally often."""
    model = CharacterModel(len(ALPHABET), 2, layers=1)
    for p in model.parameters():
        p.assign(mg.zeros(p.shape))
    written = text_of(model, length=600)
    assert max(written.count(c) for c in ALPHABET) < 600 / 9 + 4.5 * math.sqrt(600 * 8 / 81)
    pairs = {written[i : i + 2] for i in range(599)}
    assert len(pairs) > 76  # of 81; 600 draws miss any one of them once in 1,700


def test_a_text_is_drawn_without_dropout_and_leaves_the_mode(model: CharacterModel) -> None:
    model.eval()
    quiet = text_of(model)
    model.train()
    assert text_of(model) == quiet
    assert model.training


def test_a_half_read_text_leaves_the_caller_as_it_was(model: CharacterModel) -> None:
    written = generate(model, Vocabulary(ALPHABET), "The ", 5)
    next(written)
    assert model.training
    x = mg.Tensor([2.0], requires_grad=True)
    assert (x * x).requires_grad  # no_grad does not reach across the yield


def test_every_backend_writes_the_same_text(backend: str) -> None:
    values = np.random.default_rng(0)
    model = CharacterModel(len(ALPHABET), 6, layers=1)
    for p in model.parameters():
        p.assign(values.normal(size=p.shape).astype(np.float32))
    written = text_of(model, temperature=0.8, top_k=6, top_p=0.9)
    with mg.use_backend("numpy"):
        same = CharacterModel(len(ALPHABET), 6, layers=1)
        same.load_state_dict({name: t.numpy() for name, t in model.state_dict().items()})
        assert text_of(same, temperature=0.8, top_k=6, top_p=0.9) == written


def test_a_prime_the_model_cannot_read(model: CharacterModel) -> None:
    with pytest.raises(TextError, match=r"'z' \(U\+007A, position 1\) is not among the 9"):
        text_of(model, "az")
    with pytest.raises(ValueError, match="prime needs at least one character"):
        text_of(model, "")


def test_the_usual_prime_is_in_the_vocabulary() -> None:
    assert usual_prime(Vocabulary("The end")) == "The "
    assert usual_prime(Vocabulary("na\nja")) == "\n"
    assert usual_prime(Vocabulary("zba")) == "a"


# --- drawing -------------------------------------------------------------------------------------

LOGITS = st.lists(st.integers(-4, 4).map(lambda n: n / 2), min_size=1, max_size=7)  # with ties


def kept_by_k(logits: list[float], k: int) -> set[int]:
    """Those with fewer than k strictly larger: the k largest, and ties with the last of them."""
    return {i for i, x in enumerate(logits) if sum(y > x for y in logits) < k}


def kept_by_p(logits: list[float], p: float) -> set[int]:
    """The likeliest, one by one, until they make up p; and ties with the last of them."""
    odds = np.exp(np.array(logits, np.float64))
    share, total, last = odds / odds.sum(), 0.0, math.inf
    for x, q in sorted(zip(logits, share), reverse=True):
        if total >= p - 1e-6:
            break
        total, last = total + q, x
    return {i for i, x in enumerate(logits) if x >= last}


def finite(logits: mg.Tensor) -> set[int]:
    return set(np.flatnonzero(np.isfinite(logits.numpy())).tolist())


@given(LOGITS, st.integers(1, 9))
def test_top_k_by_brute_force(logits: list[float], k: int) -> None:
    found = narrowed(mg.Tensor(logits, dtype="float32"), top_k=k)
    kept = kept_by_k(logits, k)
    assert finite(found) == kept
    assert [found.tolist()[i] for i in kept] == [logits[i] for i in kept]


@given(LOGITS, st.sampled_from([0.05, 0.21, 0.5, 0.77, 0.9, 0.999, 1.0]))
def test_top_p_by_brute_force(logits: list[float], p: float) -> None:
    assert finite(narrowed(mg.Tensor(logits, dtype="float64"), top_p=p)) == kept_by_p(logits, p)


@given(LOGITS, st.integers(1, 5), st.sampled_from([0.3, 0.6, 0.95]), st.sampled_from([0.5, 2.0]))
def test_top_p_counts_among_the_top_k(logits: list[float], k: int, p: float, T: float) -> None:
    found = narrowed(mg.Tensor(logits, dtype="float64"), T, top_k=k, top_p=p)
    k_kept = sorted(kept_by_k(logits, k))
    wanted = {k_kept[i] for i in kept_by_p([logits[i] / T for i in k_kept], p)}
    assert finite(found) == wanted
    assert all(found.tolist()[i] == pytest.approx(logits[i] / T) for i in wanted)


def test_rows_are_narrowed_apart(backend: str) -> None:
    rows = np.random.default_rng(1).normal(size=(3, 4, 6))
    whole = narrowed(mg.Tensor(rows), 0.7, top_k=3, top_p=0.8).numpy()
    for i, j in np.ndindex(3, 4):
        alone = narrowed(mg.Tensor(rows[i, j]), 0.7, top_k=3, top_p=0.8).numpy()
        assert np.array_equal(np.isfinite(whole[i, j]), np.isfinite(alone))


def test_a_tie_at_temperature_0_goes_to_the_first(backend: str) -> None:
    logits = mg.Tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, 1.0, 5.0]])
    assert draw(logits, mg.random.key(0), 0).tolist() == [1, 0, 2]
    assert finite(narrowed(logits[0], 0)) == {1, 2}


def test_what_is_left_out_is_never_drawn() -> None:
    logits = mg.Tensor(np.tile([0.0, 1.0, 2.0, 3.0, -1.0], (2000, 1)), dtype="float32")
    drawn = draw(logits, mg.random.key(7), temperature=3.0, top_k=3).numpy()
    assert set(drawn.tolist()) == {1, 2, 3}
    odds = np.exp(np.array([1, 2, 3]) / 3.0)
    share = np.bincount(drawn, minlength=4)[1:] / 2000
    assert np.allclose(share, odds / odds.sum(), atol=0.04)  # four standard deviations


@pytest.mark.parametrize(
    "choice",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": 1e-9},
        {"top_k": 0},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 2.0},
        {"top_p": math.nan},
    ],
)
def test_choices_out_of_range_name_themselves(choice: dict[str, float]) -> None:
    ((name, _),) = choice.items()
    with pytest.raises(ValueError, match=f"{name}=.*: give"):
        check_choices(**{"temperature": 1.0, "top_k": None, "top_p": None, **choice})


def test_the_coldest_temperature_is_finite() -> None:
    logits = mg.Tensor([[300.0, -300.0, 299.0]], dtype="float32")
    assert np.isfinite(narrowed(logits, 1e-6).numpy()).all()
    assert draw(logits, mg.random.key(0), 1e-6).tolist() == [0]

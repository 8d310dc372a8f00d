"""A training goes on after a stop as if there had been none, and believes no file."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad_rnn import text
from minigrad_rnn.language import bits_per_character, generate
from minigrad_rnn.session import Session, Settings, circumstances, load_model, threads

KEYS = ("kind", "settings", "vocabulary", "corpus", "step", "validations", "dtype", "made with")
TINY = Settings(layers=1, hidden=6, seq=5, batch=4, steps=40, seed=3)
CORPUS = text.Corpus.of("the cat sat on the mat; the dog ate the cat. " * 10, "nursery")


def weights(session: Session) -> dict[str, np.ndarray]:
    parts = {f"state {i}": t for i, t in enumerate(mg.tree.flatten(session.state)[0])}
    named = {**session.model.state_dict(), **session.optimizer.state_dict(), **parts}
    return {name: tensor.numpy() for name, tensor in named.items()}


def same_bits(a: Session, b: Session) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(
        ours[name].tobytes() == theirs[name].tobytes() for name in ours
    )


def advanced(session: Session, steps: int) -> Session:
    for _ in range(steps):
        session.advance()
    return session


# --- what a step does ----------------------------------------------------------------------------


def test_batches_come_in_the_order_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step reads where the last one stopped, every epoch the same, and the state of each
    epoch's first step is zero."""
    session = Session(TINY, CORPUS)
    seen: list[tuple[np.ndarray, np.ndarray, bool]] = []
    update = session.update

    def spy(inputs: np.ndarray, targets: np.ndarray, state: Any, clip: float) -> Any:
        zero = all(not part.numpy().any() for part in mg.tree.flatten(state)[0])
        seen.append((inputs, targets, zero))
        return update(inputs, targets, state, clip)

    monkeypatch.setattr(session, "update", spy)
    n = session.per_epoch
    advanced(session, 2 * n + 1)
    length = (len(session.train_ids) - 1) // 4
    assert n == length // 5
    for row in range(4):
        stream = session.train_ids[row * length : (row + 1) * length + 1]
        read = np.concatenate([inputs[:, row] for inputs, _, _ in seen[:n]])
        wanted = np.concatenate([targets[:, row] for _, targets, _ in seen[:n]])
        assert np.array_equal(read, stream[: 5 * n])
        assert np.array_equal(wanted, stream[1 : 5 * n + 1])
    for first, second in zip(seen[:n], seen[n : 2 * n], strict=True):
        assert np.array_equal(first[0], second[0])
    assert [i for i, (_, _, zero) in enumerate(seen) if zero] == [0, n, 2 * n]
    assert session.epoch == pytest.approx(2 + 1 / n)


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    session = Session(dataclasses.replace(TINY, steps=100, lr=0.1), CORPUS)
    rates = []
    for session.step in range(101):
        rates.append(session.learning_rate())
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == rates[4] == pytest.approx(0.1, rel=0.01)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert rates[50] == pytest.approx(0.05)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_a_step_applies_the_schedules_rate_and_the_clip() -> None:
    session = Session(dataclasses.replace(TINY, clip=1e-3), CORPUS)
    rate = session.learning_rate()
    session.advance()
    assert session.optimizer.lr == rate
    norm = math.sqrt(sum(float((p.grad.numpy() ** 2).sum()) for p in session.parameters))
    assert norm == pytest.approx(1e-3, rel=1e-4)


def test_a_training_learns_and_validation_sees_it() -> None:
    session = Session(dataclasses.replace(TINY, steps=150, lr=0.05), CORPUS)
    before = session.validate()
    advanced(session, 150)
    after = session.validate()
    assert before == pytest.approx(math.log2(len(session.vocabulary)), rel=0.2)
    assert after < 0.6 * before
    assert session.validations == [(0, before), (150, after)]
    assert session.done


def test_validation_of_one_stream_is_the_score_of_the_held_out_text() -> None:
    session = advanced(Session(TINY, CORPUS), 3)
    assert session.held_out.shape == (len(session.valid_ids), 1)
    wanted = bits_per_character(session.model, session.valid_ids)
    assert session.validate() == pytest.approx(wanted, rel=1e-6)


def test_a_long_held_out_text_is_read_in_streams() -> None:
    corpus = text.Corpus.of(CORPUS.text * 100, "long")
    session = Session(dataclasses.replace(TINY, validation=0.2), corpus)
    T, B = session.held_out.shape
    assert B == len(session.valid_ids) // 2000 > 1
    parts = [bits_per_character(session.model, session.held_out[:, b]) for b in range(B)]
    assert session.validate() == pytest.approx(np.mean(parts), rel=1e-5)
    assert len(session.valid_ids) // B == T


def test_looking_does_not_change_a_training() -> None:
    """Validation and samples between steps leave every bit as it would have been."""
    how = dataclasses.replace(TINY, layers=2, dropout=0.3)
    plain, watched = advanced(Session(how, CORPUS), 10), Session(how, CORPUS)
    for _ in range(10):
        watched.validate()
        "".join(generate(watched.model, watched.vocabulary, "the", 5))
        watched.advance()
    assert watched.losses != []
    plain_again = advanced(Session(how, CORPUS), 10)
    assert plain_again.losses == plain.losses == watched.losses
    assert same_bits(plain, watched)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_compiled_training_is_the_eager_one_captured_once(
    backend: str, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    how = dataclasses.replace(TINY, layers=2, dropout=dropout)
    monkeypatch.setenv("MINIGRAD_COMPILE", "0")
    eager = advanced(Session(how, CORPUS), 40)
    assert not eager.update.versions
    monkeypatch.delenv("MINIGRAD_COMPILE")
    session = Session(how, CORPUS)
    for n in (1, session.per_epoch, 40):
        advanced(session, n - session.step)
        session.validate()
        session.settings = dataclasses.replace(how)  # as a plan does
    assert session.update.captures == 1
    np.testing.assert_allclose(session.losses, eager.losses, rtol=1e-4)
    for name, value in weights(eager).items():
        np.testing.assert_allclose(weights(session)[name], value, rtol=1e-3, atol=1e-4)


def test_a_rehearsal_changes_no_number_and_what_it_compiled_stays(tmp_path: Path) -> None:
    how = dataclasses.replace(TINY, layers=2, dropout=0.3)
    plain, other = advanced(Session(how, CORPUS), 9), advanced(Session(how, CORPUS), 3)
    with other.rehearsal():
        advanced(other, 5)
        other.validate()
    advanced(other, 6)
    assert other.losses == plain.losses
    assert other.validations == []
    assert same_bits(plain, other)
    assert other.update.captures == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cell": "lstn"}, "cell='lstn': give one of lstm, gru, rnn"),
        ({"layers": 0}, "layers=0: give an integer >= 1"),
        ({"hidden": 1.5}, "hidden=1.5: give an integer"),
        ({"seq": True}, "seq=True: give an integer"),
        ({"batch": "8"}, "batch='8': give an integer"),
        ({"steps": 10**12}, "steps=1000000000000: give a number in"),
        ({"lr": -1.0}, "lr=-1.0: give a number"),
        ({"lr": math.nan}, "lr=nan: give a number"),
        ({"lr": 10**400}, "lr=1000+: give a number"),
        ({"clip": math.inf}, "clip=inf: give a number"),
        ({"dropout": 1}, "dropout=1: give a number"),
        ({"validation": 1}, "validation=1: give a number"),
        ({"validation": 0}, "validation=0: give a number"),
        ({"seed": -1}, "seed=-1: give an integer >= 0"),
    ],
)
def test_settings_name_what_is_wrong(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings(**given)


def test_a_text_too_short_to_train_or_to_validate_on() -> None:
    with pytest.raises(text.TextError, match="do not fill one batch of 50 x 50"):
        Session(Settings(), CORPUS)
    with pytest.raises(text.TextError, match="holds out 1 of 450 characters, and at least 2"):
        Session(dataclasses.replace(TINY, validation=0.003), CORPUS)


# --- stopped and gone on with --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "suffix"),
    [
        ("lstm", "npz"),
        ("gru", "safetensors"),
        pytest.param("lstm", "safetensors", marks=pytest.mark.slow),
        pytest.param("gru", "npz", marks=pytest.mark.slow),
        pytest.param("rnn", "safetensors", marks=pytest.mark.slow),
        pytest.param("rnn", "npz", marks=pytest.mark.slow),
    ],
)
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, cell: str, suffix: str) -> None:
    """Stopped at the start, within an epoch, at its end, and in the second one."""
    path = tmp_path / f"m.{suffix}"
    how = dataclasses.replace(TINY, cell=cell, layers=2, dropout=0.2)
    whole = Session(how, CORPUS)
    n = whole.per_epoch
    advanced(whole, n)
    whole.validate()
    advanced(whole, 40 - n)
    session = Session(how, CORPUS)
    for stop in (0, 7, n, n + 3, 40):
        advanced(session, stop - session.step)
        if stop == n:
            session.validate()
        session.save(path)
        mg.random.seed(99)  # another use of the process in between
        session = Session.load(path, CORPUS)
    assert session.losses == whole.losses
    assert session.validations == whole.validations
    assert same_bits(session, whole)


def test_a_saved_training_is_the_same_file_again(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    session = advanced(Session(TINY, CORPUS), 7)
    session.validate()
    session.save(one)
    Session.load(one, CORPUS).save(two)
    assert one.read_bytes() == two.read_bytes()
    assert Session.load(one, CORPUS).made_with == circumstances()


def test_across_backends(tmp_path: Path) -> None:
    """100 steps on numba, the rest on numpy, sampled on numba: curve to 1e-4, and the same text."""
    pytest.importorskip("numba")
    path = tmp_path / "m.safetensors"
    how = dataclasses.replace(TINY, steps=160, lr=0.02)

    def sample(session: Session) -> str:
        return "".join(generate(session.model, session.vocabulary, "the ", 60, temperature=0.7))

    with mg.use_backend("numba"):
        whole = advanced(Session(how, CORPUS), 160)
        wanted = sample(whole)
        advanced(Session(how, CORPUS), 100).save(path)
    with mg.use_backend("numpy"):
        session = Session.load(path, CORPUS)
        assert session.made_with["backend"] == "numba"
        assert session.model.readout.W.backend.name == "numpy"
        advanced(session, 60).save(path)
    with mg.use_backend("numba"):
        session = Session.load(path, CORPUS)
        assert session.model.readout.W.backend.name == "numba"
        assert sample(session) == wanted
    assert len(session.losses) == 160
    assert np.allclose(session.losses, whole.losses, rtol=0, atol=1e-4)
    assert whole.losses[-1] < 0.5 * whole.losses[0]


def test_every_backend_trains_alike(backend: str, tmp_path: Path) -> None:
    session = advanced(Session(TINY, CORPUS), 12)
    session.validate()
    session.save(tmp_path / "m.safetensors")
    with mg.use_backend("numpy"):
        wanted = advanced(Session(TINY, CORPUS), 12)
        wanted.validate()
        again = Session.load(tmp_path / "m.safetensors", CORPUS)
    assert np.allclose(session.losses, wanted.losses, rtol=0, atol=1e-4)
    assert again.losses == session.losses
    assert session.validations[0][1] == pytest.approx(wanted.validations[0][1], abs=1e-4)


def test_threads_are_what_the_environment_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert threads() == 3
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert threads() == 1
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "many")
    assert threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads() >= 1


# --- files that are not believed -----------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("session") / "m.safetensors"
    session = advanced(Session(TINY, CORPUS), 5)
    session.validate()
    session.save(path)
    return path


def rewritten(saved: Path, change: Any, drop: tuple[str, ...] = ()) -> Path:
    """The file with its metadata changed in place by change(metadata), some tensors left out."""
    tensors, metadata = mg.load(saved)
    change(metadata)
    path = saved.with_name("changed.safetensors")
    kept = {name: t for name, t in tensors.items() if not name.startswith(drop or ("-",))}
    mg.save(path, kept, metadata)
    return path


def refuse(path: Path) -> str:
    """The error of both ways to read it; they take no more memory than the file's size allows."""
    tracemalloc.start()
    try:
        with pytest.raises(mg.CheckpointError) as error:
            Session.load(path, CORPUS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
    assert str(error.value).startswith(str(path))
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", 10**8),
        ("hidden", 10**300),
        ("hidden", 5),
        ("hidden", -6),
        ("hidden", 6.0),
        ("hidden", None),
        ("layers", 10**9),
        ("layers", 2),
        ("cell", "gru"),
        ("cell", ["lstm"]),
        ("cell", "__class__"),
        ("batch", 10**9),
        ("batch", 3),
        ("seq", 10**7),
        ("steps", 10**400),
        ("steps", 0),
        ("lr", 10**400),
        ("lr", "fast"),
        ("seed", 2**64),
        ("validation", 0),
        ("dropout", 0.5),
        ("unheard-of", 1),
    ],
)
def test_hostile_settings(saved: Path, name: str, value: Any) -> None:
    def change(metadata: dict[str, Any]) -> None:
        metadata["settings"][name] = value

    path = rewritten(saved, change)
    assert "does not fit its own settings" in refuse(path)


def test_one_layer_too_many_of_another_width(saved: Path) -> None:
    """A tensor of the last layer's name does not vouch for the layers between."""
    tensors, metadata = mg.load(saved)
    metadata["settings"]["layers"] = 10**6
    path = saved.with_name("changed.safetensors")
    mg.save(
        path, {**tensors, f"model.cells.cells.{10**6 - 1}.Wh": np.zeros((6, 24), "f4")}, metadata
    )
    assert "there is no model.cells.cells.1.Wh" in refuse(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("kind", "another program", "is no model of `minigrad-rnn train`"),
        ("kind", None, "is no model of"),
        ("settings", [], "does not fit its own settings"),
        ("settings", None, "does not fit its own settings"),
        ("vocabulary", "ba", "not a sorted string of distinct"),
        ("vocabulary", "", "at least one character"),
        ("vocabulary", ["a"], "not a sorted string"),
        ("vocabulary", "".join(map(chr, range(32, 50_000))), "model.readout.W is"),
        ("corpus", None, "was trained on 'None'"),
        ("corpus", {"sha256": 3, "name": ["x" * 10_000]}, "was trained on"),
        ("step", -1, "step=-1"),
        ("step", "5", "step='5'"),
        ("step", 4, "5 losses of 4 steps"),
        ("step", 10**30, "5 losses of 10+ steps"),
        ("validations", [[1]], "does not fit"),
        ("validations", [[1, "low"]], "bits='low'"),
        ("validations", [[1, 10**400]], "bits=1"),
        ("validations", {"a": 1}, "does not fit"),
        ("validations", 7, "does not fit"),
        ("dtype", "float64", "weights of float64, but the default dtype is float32"),
        ("made with", 7, "does not fit"),
    ],
)
def test_hostile_metadata(saved: Path, key: str, value: Any, words: str) -> None:
    def change(metadata: dict[str, Any]) -> None:
        metadata[key] = value

    found = refuse(rewritten(saved, change))
    assert re.search(words, found), found


@pytest.mark.parametrize("key", KEYS)
def test_missing_metadata(saved: Path, key: str) -> None:
    refuse(rewritten(saved, lambda metadata: metadata.pop(key)))


@pytest.mark.parametrize(
    "prefix",
    ["model.readout.W", "model.cells.cells.0.b", "optimizer.m.", "optimizer.lr", "state.1",
     "generator", "losses"],
)  # fmt: skip
def test_missing_tensors(saved: Path, prefix: str) -> None:
    refuse(rewritten(saved, lambda metadata: None, drop=(prefix,)))


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("state.0", (4, 7), "f4"),
        ("state.0", (4, 6), "f8"),
        ("generator", (3,), "i8"),
        ("generator", (2,), "f4"),
        ("losses", (4,), "f8"),
        ("optimizer.m.readout.W", (6,), "f4"),
        ("model.embedding.W", (10**6, 6), "f4"),
    ],
)
def test_tensors_of_another_shape_or_dtype(
    saved: Path, name: str, shape: tuple[int, ...], dtype: str
) -> None:
    tensors, metadata = mg.load(saved)
    path = saved.with_name("changed.safetensors")
    assert name in tensors
    mg.save(path, {**tensors, name: np.zeros(shape, dtype)}, metadata)
    with pytest.raises(mg.CheckpointError, match="does not fit its own settings"):
        Session.load(path, CORPUS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
PLACES = [
    *((key,) for key in KEYS),
    ("corpus", "sha256"),
    *(("settings", field.name) for field in dataclasses.fields(Settings)),
]


@settings(max_examples=150)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_metadata_is_taken_or_refused(saved: Path, place: tuple[str, ...], value: Any) -> None:
    """Whatever stands in a place: CheckpointError, or a training that can go on."""

    def change(metadata: dict[str, Any]) -> None:
        for key in place[:-1]:
            metadata = metadata[key]
        metadata[place[-1]] = value

    try:
        path = rewritten(saved, change)
    except mg.CheckpointError:  # no JSON, such as a surrogate or an infinity
        return
    try:
        session = Session.load(path, CORPUS)
    except mg.CheckpointError as error:
        assert str(error).startswith(str(path))
    else:
        session.advance()
        session.learning_rate()
    try:
        model, vocabulary = load_model(path)
    except mg.CheckpointError:
        return
    assert len("".join(generate(model, vocabulary, vocabulary.characters[0], 2))) == 2


def test_a_flipped_or_cut_file(saved: Path) -> None:
    """The file is read, or refused in the same way, whatever byte of its header is another."""
    content = saved.read_bytes()
    path = saved.with_name("changed.safetensors")
    header = int.from_bytes(content[:8], "little")
    draw = np.random.default_rng(0)
    for place in draw.integers(0, header + 8, 150):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(flipped)
        try:
            Session.load(path, CORPUS).advance()
        except (mg.CheckpointError, mg.NonFiniteError):
            continue
    for length in (0, 7, 8, 100, header, len(content) - 1):
        path.write_bytes(content[:length])
        refuse(path)


def test_another_text(saved: Path) -> None:
    other = text.Corpus.of(CORPUS.text.replace("dog", "hen"), "farm")
    with pytest.raises(mg.CheckpointError) as error:
        Session.load(saved, other)
    assert "was trained on 'nursery', whose text was not that of 'farm'" in str(error.value)


def test_a_foreign_file(tmp_path: Path) -> None:
    mg.save(tmp_path / "a.safetensors", {"w": np.zeros(3)}, {"settings": {}})
    for read in (lambda path: Session.load(path, CORPUS), load_model):
        with pytest.raises(mg.CheckpointError, match="is no model of `minigrad-rnn train`"):
            read(tmp_path / "a.safetensors")


def test_load_model_gives_what_was_trained(saved: Path) -> None:
    model, vocabulary = load_model(saved)
    session = Session.load(saved, CORPUS)
    assert vocabulary == session.vocabulary
    ours, theirs = model.state_dict(), session.model.state_dict()
    assert all(ours[name].tolist() == theirs[name].tolist() for name in theirs)
    assert json.dumps(mg.load(saved)[1])  # plain JSON values

"""Handwriting and speech recognition: the losses, the data and what a network learns of them.

Shapes: T time, B batch, V labels, D numbers a step.
"""

import math

import numpy as np
import pytest

import minigrad as mg
from minigrad_rnn.experiments import recognition
from minigrad_rnn.experiments.recognition import (
    BANDS,
    FONT,
    HOP,
    RATE,
    SOUNDS,
    Batch,
    Recognizer,
    Speaker,
    batch,
    features,
    heard,
    label_error,
    speakers,
    spoken,
    written,
)
from tests.oracles import ctc as paths

lecture = pytest.mark.lecture


def learned(draw, D, V, H, updates, longest=4, rate=0.01, unseen=None):
    """Train on rows drawn anew; the label error of 200 rows of other random numbers."""
    mg.random.seed(0)
    rng, model = np.random.default_rng(0), Recognizer(D, H, V)
    optimizer = mg.optim.Adam(model.parameters(), lr=rate)
    for _ in range(updates):
        optimizer.zero_grad()
        model.loss(batch(draw, rng, 16, V, longest)).backward()
        mg.optim.clip_by_global_norm(model.parameters(), 5.0)
        optimizer.step()
    held_out = batch(unseen or draw, np.random.default_rng(1), 200, V, longest)
    return label_error(model.read(held_out), held_out)


def people(seed, n):
    return heard(speakers(np.random.default_rng(seed), n))


# --- the loss and the measure --------------------------------------------------------------------


@lecture("I7", "CTC")
@pytest.mark.parametrize("T", range(1, 7))
def test_the_loss_is_the_sum_over_all_paths(backend, T):
    """Of the recognizer's own outputs: every path of up to 6 steps, collapsed and added up."""
    model = Recognizer(3, 4, 2)
    model.layer.backward.b.assign(model.layer.backward.b.numpy() + 0.5)
    rng = np.random.default_rng(T)
    xs, lengths = rng.normal(size=(T, 3, 3)), np.array([T, max(1, T - 1), max(1, T - 2)])
    logits = model(xs.astype("float32"), lengths).numpy().astype(float)
    y = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    tables = [paths.labellings(y[:n, b], 0) for b, n in enumerate(lengths)]
    wanted = [max(table, key=len) for table in tables]  # 1 2 1 ... and, from 3 steps on, a blank
    for target in {(1,), (1, 1) if T > 4 else (2,)}:
        wanted[0] = target
        S = max(map(len, wanted))
        targets = np.array([[*w, *[0] * (S - len(w))] for w in wanted]).T
        data = Batch(xs.astype("float32"), lengths, targets, np.array(list(map(len, wanted))))
        expected = np.mean([-math.log(t[w]) for t, w in zip(tables, wanted, strict=True)])
        assert abs(model.loss(data).item() - expected) < 1e-5


def test_label_errors_are_counted_as_defined():
    """Against all ways to align two words, one by one."""

    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        kept = distance(a[1:], b[1:]) + (a[0] != b[0])
        return min(kept, distance(a[1:], b) + 1, distance(a, b[1:]) + 1)

    rng = np.random.default_rng(0)
    words = [[rng.integers(1, 4, rng.integers(0, 5)).tolist() for _ in "ab"] for _ in range(60)]
    for a, b in words:
        assert recognition.edit_distance(a, b) == distance(a, b)
    lengths = np.array([len(b) for _, b in words])
    targets = np.array([[*b, *[0] * (4 - len(b))] for _, b in words]).T
    data = Batch(np.zeros((1, 60, 1)), lengths, targets, lengths)
    expected = sum(distance(a, b) for a, b in words) / lengths.sum()
    assert label_error([a for a, _ in words], data) == pytest.approx(expected)


# --- what is drawn -------------------------------------------------------------------------------


def test_a_pen_goes_through_the_corners_of_the_letters():
    """A writer who neither leans nor shakes: every corner is a place where the pen was."""

    class Steady:
        normal = staticmethod(lambda mean, deviation, shape=None: np.zeros(shape or 3) + mean)

    for label, strokes in enumerate(FONT.values(), 1):
        moves = written(Steady, [label])
        corners = [[(int(x), int(y)) for x, y in s.split()] for s in strokes.split(",")]
        assert moves[:, 2].sum() == len(corners) and moves[0, 2] == 1
        path = np.cumsum(moves[:, :2], axis=0) + corners[0][0]
        visited = {tuple(map(int, p)) for p in path.round(6) if not (p % 1).any()}
        assert visited >= {corner for stroke in corners for corner in stroke}
        starts = path[moves[:, 2] == 1]
        np.testing.assert_allclose(starts, [stroke[0] for stroke in corners], atol=1e-6)


@pytest.mark.parametrize("hertz", [200, 700, 1500, 3000])
def test_a_tone_is_loudest_in_its_own_band(hertz):
    """Centres evenly spaced in mel, 2595 log10(1 + f / 700), up to RATE / 2; loud or soft."""
    tone = np.sin(2 * np.pi * hertz * np.arange(RATE // 4) / RATE)
    found = features(tone)
    centres = np.arange(1, BANDS + 1) / (BANDS + 1) * 2595 * np.log10(1 + RATE / 2 / 700)
    nearest = np.abs(centres - 2595 * np.log10(1 + hertz / 700)).argmin()
    assert found.shape == ((RATE // 4 - 256) // HOP + 1, BANDS)
    assert (found.argmax(axis=1) == nearest).all()
    assert features(30 * tone) == pytest.approx(found, abs=1e-3)


@pytest.mark.parametrize("tract", [0.87, 1.0, 1.15])
def test_a_sound_has_its_formants(tract):
    """The spectrum near a formant is above that half way to the next, for every voice."""
    for label, (first, second) in enumerate(SOUNDS.values(), 1):
        samples = spoken(np.random.default_rng(label), [label] * 30, Speaker(100, tract))
        energy = np.abs(np.fft.rfft(samples)) ** 2
        hertz = np.fft.rfftfreq(len(samples), 1 / RATE)

        def around(f, energy=energy, hertz=hertz):
            return energy[np.abs(hertz - tract * f) < 60].mean()

        valley = around(0.5 * (first + second))
        assert min(around(first), around(second)) > 1.2 * valley, (label, tract)


# --- what is learned -----------------------------------------------------------------------------


@lecture("I7", "label error")
@pytest.mark.long
def test_handwriting_is_read(backend):
    """Four letters, writers and words that were not in training."""
    assert learned(written, 3, V=4, H=24, updates=90, longest=3, rate=0.02) <= 0.05


@lecture("I9", "label error")
@pytest.mark.long
def test_unseen_speakers_are_understood(backend):
    """Four sounds of 24 voices; 12 other voices say other things."""
    unseen = people(8, 12)
    small = {"V": 4, "H": 24, "updates": 90, "longest": 3, "rate": 0.02}
    assert learned(people(7, 24), BANDS, **small, unseen=unseen) <= 0.1


@lecture("I7", "label error")
@pytest.mark.slow
def test_the_whole_font_is_read(backend):
    assert learned(written, 3, V=len(FONT), H=48, updates=400) <= 0.05


@lecture("I9", "label error")
@pytest.mark.slow
def test_all_sounds_of_unseen_speakers_are_understood(backend):
    unseen = people(8, 12)
    assert learned(people(7, 24), BANDS, V=len(SOUNDS), H=48, updates=300, unseen=unseen) <= 0.1

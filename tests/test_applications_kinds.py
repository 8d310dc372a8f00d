"""Applications of the kinds of networks: reviews, labels and headlines, captions, films, speech.

Each trains on generated data and is measured on what no training batch can hold: pairs of words,
names or things that are kept apart, films twice as long, utterances drawn later.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Embedding, Linear, Module
from minigrad_rnn import (
    MLP,
    AttentionDecoder,
    AttentionEncoderDecoder,
    BahdanauCell,
    Bidirectional,
    CopyDecoder,
    Decoder,
    GRUCell,
    Halt,
    LSTMCell,
    Readout,
    Sequences,
    unroll,
)
from minigrad_rnn.attention import Additive
from minigrad_rnn.experiments import generated, pairs
from minigrad_rnn.experiments.generated import THINGS
from minigrad_rnn.likelihood import padded
from minigrad_rnn.losses import MixtureDensity
from minigrad_rnn.patterns import each_frame
from minigrad_rnn.seq2seq import Encoded
from tests.test_lectures_g import chi_squared

ROOT = Path(__file__).resolve().parent.parent


def train(model, loss, updates, rate=0.01, fade=False):
    """Adam with clipping; fade lowers the rate linearly to a hundredth."""
    optimizer = mg.optim.Adam(model.parameters(), lr=rate)
    for n in range(updates):
        optimizer.lr = rate * max(0.01, 1 - n / updates) if fade else rate
        optimizer.zero_grad()
        loss().backward()
        mg.optim.clip_by_global_norm(model.parameters(), 1.0)
        optimizer.step()


def indices(words):
    return {word: i for i, word in enumerate(words)}


# --- I3: sentiment -------------------------------------------------------------------------------

REVIEW_WORDS = sorted(
    {
        "the", "is", "not", "and",
        *generated.PRAISE, *generated.BLAME, *generated.TOPICS, *generated.DEGREES,
    }
)  # fmt: skip
UNSEEN = generated.OPINIONS[::5]  # pairs of a word of praise and one of blame
SEEN = [pair for pair in generated.OPINIONS if pair not in UNSEEN]


class Sentiment(Module):
    """Many to one: the state after each review's own last word."""

    def __init__(self, H):
        self.embed, self.cell = Embedding(len(REVIEW_WORDS), 16), LSTMCell(16, H)
        self.readout = Linear(H, 2)

    def __call__(self, xs, lengths):
        _, (h, _) = unroll(self.cell, self.embed(xs), lengths=lengths)
        return self.readout(h)


def reviews(rng, n, opinions):
    """Indices (T, n), lengths and labels (n,)."""
    table = indices(REVIEW_WORDS)
    found = generated.reviews(rng, n, opinions)
    return *padded([[table[word] for word in words] for words in found]), np.tile([1, 0], n // 2)


def sentiment(updates, H):
    mg.random.seed(0)
    rng = np.random.default_rng(0)
    model = Sentiment(H)

    def loss():
        xs, lengths, labels = reviews(rng, 32, SEEN)
        return F.cross_entropy(model(xs, lengths), labels)

    train(model, loss, updates)
    return model, rng


@pytest.mark.long
@pytest.mark.lecture("I3", "negation")
@pytest.mark.lecture("I3", "ragged")
def test_negation_decides_and_a_bag_of_words_is_at_chance(backend):
    model, rng = sentiment(50, 24)
    xs, lengths, labels = reviews(rng, 400, UNSEEN)
    assert len(set(lengths)) >= 4
    twins = np.sort(np.where(np.arange(len(xs))[:, None] < lengths, xs, -1), axis=0)
    assert (twins[:, ::2] == twins[:, 1::2]).all()  # of the same words: no bag tells them apart
    with mg.no_grad():
        logits = model(xs, lengths)
        assert (logits.numpy().argmax(-1) == labels).mean() >= 0.9
        alone = [model(xs[:n, [b]], None).numpy()[0] for b, n in enumerate(lengths[:8])]
    assert np.abs(logits.numpy()[:8] - alone).max() < 1e-5

    counts = np.stack([(xs == i).sum(axis=0) for i in range(len(REVIEW_WORDS))], axis=1)
    bag = Linear(len(REVIEW_WORDS), 2)
    train(bag, lambda: F.cross_entropy(bag(counts.astype("float32")), labels), 30)
    guesses = bag(counts.astype("float32")).numpy().argmax(-1)
    assert (guesses == labels).mean() == 0.5  # even on what it was trained on


# --- I4: labels and headlines --------------------------------------------------------------------

STORY_WORDS = (*generated.NAMES, *generated.STORY_WORDS)
OLD_NAMES, NEW_NAMES = generated.NAMES[:-25], generated.NAMES[-25:]


def stories(rng, n, names):
    """Texts and headlines as indices, and the places of the labels."""
    table = indices(STORY_WORDS)
    found = [generated.story(rng, names) for _ in range(n)]
    coded = [([table[w] for w in text], [table[w] for w in head]) for text, _, head in found]
    return coded, np.array([place for _, place, _ in found])


class Pointer(Module):
    """One score a word, which sees both sides; the label is the word with the largest."""

    def __init__(self, H):
        self.embed = Embedding(len(STORY_WORDS), 16)
        self.layer = Bidirectional(GRUCell(16, H), GRUCell(16, H))
        self.readout = Linear(2 * H, 1)

    def __call__(self, xs, lengths):
        hs, _ = self.layer(self.embed(xs), lengths=lengths)
        real = mg.Tensor(np.arange(len(xs))[:, None] < lengths)
        return mg.where(real, self.readout(hs)[..., 0], -1e30).T


@pytest.mark.long
@pytest.mark.lecture("I4", "labels")
def test_the_label_is_a_word_of_the_text_even_a_new_one(backend):
    mg.random.seed(0)
    rng = np.random.default_rng(0)
    model = Pointer(16)

    def batch(n, names):
        coded, places = stories(rng, n, names)
        return *padded([text for text, _ in coded]), places

    def loss():
        xs, lengths, places = batch(32, OLD_NAMES)
        return F.cross_entropy(model(xs, lengths), places)

    train(model, loss, 30, rate=0.02)
    xs, lengths, places = batch(400, NEW_NAMES)
    with mg.no_grad():
        assert (model(xs, lengths).numpy().argmax(-1) == places).mean() >= 0.95


def headlines(make, H, updates):
    """Exact match of headlines about old names and about new ones."""
    mg.random.seed(0)
    rng = np.random.default_rng(0)
    V, N = len(STORY_WORDS) + 1, 2 * H
    encoder = Bidirectional(GRUCell(16, H), GRUCell(16, H))
    decoder = make(V, 16, BahdanauCell(GRUCell(16 + N, N), Additive(N, N, H)), 2 * N, N)
    model = AttentionEncoderDecoder(encoder, decoder, Embedding(V, 16))
    for _ in pairs.train(model, lambda: stories(rng, 24, OLD_NAMES)[0], updates):
        pass
    return [pairs.exact_match(model, stories(rng, 200, n)[0]) for n in (OLD_NAMES, NEW_NAMES)]


@pytest.mark.long
@pytest.mark.lecture("I4", "summaries")
def test_a_headline_copies_a_name_that_no_headline_had(backend):
    assert min(headlines(CopyDecoder, 16, 70)) >= 0.95


@pytest.mark.slow
@pytest.mark.lecture("I4", "summaries")
def test_without_copying_new_names_are_never_written(backend):
    old, new = headlines(AttentionDecoder, 24, 160)
    assert old >= 0.95 and new == 0
    assert min(headlines(CopyDecoder, 24, 160)) >= 0.99


@pytest.mark.lecture("I4", "summaries")
def test_a_copy_decoder_mixes_as_published(backend):
    """Equations 8 and 9 of See et al. 2017, step by step in NumPy."""
    mg.random.seed(1)
    rng = np.random.default_rng(1)
    V, D, H, N, Tx, Ty, B = 7, 3, 4, 5, 6, 3, 2
    cell = BahdanauCell(GRUCell(D + N, H, dtype="float64"), Additive(H, N, 4, dtype="float64"))
    decoder = CopyDecoder(V, D, cell, H + N, dtype="float64")
    xs, lengths = rng.integers(0, V, (Tx, B)), np.array([6, 4])
    ys = rng.integers(0, V, (Ty, B))
    x = Encoded(mg.Tensor(rng.normal(size=(Tx, B, N))), mg.zeros((B, 1)), lengths, xs)
    log_p = decoder.logits(ys, x).numpy()
    assert np.abs(np.exp(log_p).sum(axis=-1) - 1).max() < 1e-12

    y, state = decoder.start(B), cell.begin(x.values, lengths=lengths)
    for t in range(Ty):
        u = decoder.embedding(y)
        h, state = cell(u, state)
        h, u, alpha = h.numpy(), u.numpy(), state[0].weights.numpy()
        o = np.exp(h @ decoder.readout.W.numpy() + decoder.readout.b.numpy())
        a = np.concatenate([u, h], axis=1) @ decoder.own.W.numpy() + decoder.own.b.numpy()
        p = 1 / (1 + np.exp(-a))
        mixed = p * o / o.sum(axis=1, keepdims=True)
        for b, j in itertools.product(range(B), range(Tx)):
            mixed[b, xs[j, b]] += (1 - p[b, 0]) * alpha[b, j]
        assert np.abs(np.log(mixed) - log_p[t]).max() < 1e-12
        y = mg.Tensor(ys[t])

    assert mg.gradcheck(
        lambda values: decoder.log_probability(ys, x._replace(values=values)), x.values
    )


def test_a_copy_decoder_asks_for_the_source(backend):
    cell = BahdanauCell(GRUCell(2 + 3, 4), Additive(4, 3, 2))
    decoder = CopyDecoder(5, 2, cell, 7)
    values = mg.zeros((2, 1, 3))
    with pytest.raises(ValueError, match="whose inputs are symbols"):
        decoder.begin(Encoded(values, mg.zeros((1, 1))))
    with pytest.raises(ValueError, match="give the source"):
        decoder.logits(np.zeros((2, 1), int))


# --- I5: captions --------------------------------------------------------------------------------

CAPTION_WORDS = ("a", "beside", *generated.SIZES, *generated.SHAPES, ".")
COUPLES = [list(couple) for couple in itertools.product(THINGS, THINGS)]
NEW_COUPLES = COUPLES[::7]
OLD_SCENES = [c for c in COUPLES if c not in NEW_COUPLES] + [[thing] for thing in THINGS] * 2


class Captions(Module):
    """One to many: an eye that looks at both halves of a picture, and a decoder (Fig 10.9)."""

    def __init__(self, H, F_=24):
        self.eye = MLP((64, 48, F_), F.relu)
        self.decoder = Decoder(len(CAPTION_WORDS), 16, GRUCell(16, H), H, 2 * F_, "input")

    def see(self, pictures):
        halves = mg.split(mg.Tensor(pictures), 2, axis=2)
        return mg.concatenate([self.eye(half.reshape(-1, 64)) for half in halves], axis=1)


def scenes(rng, n, choices):
    """Pictures (n, 8, 16), captions (T, n) with the end symbol, lengths (n,)."""
    table = indices(CAPTION_WORDS)
    found = [generated.drawing(rng, choices[rng.integers(len(choices))]) for _ in range(n)]
    captions = [[*(table[w] for w in words), table["."]] for _, words in found]
    return np.stack([picture for picture, _ in found]), *padded(captions)


def captions(updates, H):
    """The share of right captions of couples that were in no training picture."""
    mg.random.seed(0)
    rng = np.random.default_rng(0)
    model = Captions(H)

    def loss():
        pictures, ys, lengths = scenes(rng, 32, OLD_SCENES)
        return -mg.mean(model.decoder.log_probability(ys, model.see(pictures), lengths=lengths))

    train(model, loss, updates, rate=0.005)
    pictures, ys, lengths = scenes(rng, 400, NEW_COUPLES)
    found = model.decoder.greedy(model.see(pictures), len(ys)).numpy()
    return ((found == ys) | (np.arange(len(ys))[:, None] >= lengths)).all(axis=0).mean()


@pytest.mark.long
@pytest.mark.lecture("I5", "captions")
def test_captions_of_couples_never_seen_together(backend):
    assert captions(120, 32) >= 0.95


@pytest.mark.slow
@pytest.mark.lecture("I5", "captions")
def test_captions_after_a_longer_training(backend):
    assert captions(600, 48) >= 0.99


# --- I6: films -----------------------------------------------------------------------------------


class Film(Module):
    """Synchronous many to many: one network for all frames, a cell, a label a frame."""

    def __init__(self, H, memory=True):
        self.frame = Linear(36, 32)
        self.cell = GRUCell(32, H) if memory else None
        self.readout = Linear(H, 4)

    def __call__(self, frames):
        features = each_frame(lambda x: F.relu(self.frame(x.reshape(-1, 36))), mg.Tensor(frames))
        hs = features if self.cell is None else unroll(self.cell, features)[0]
        return self.readout(hs[1:])


def moves(model, updates, T=8):
    """The share of right moves in films of twice the length."""
    rng = np.random.default_rng(0)

    def loss():
        frames, labels = generated.films(rng, T, 32)
        return F.cross_entropy(model(frames), labels)

    train(model, loss, updates)
    frames, labels = generated.films(rng, 2 * T, 200)
    with mg.no_grad():
        return (model(frames).numpy().argmax(-1) == labels).mean()


@pytest.mark.long
@pytest.mark.lecture("I6", "frames")
def test_a_network_with_memory_labels_every_move(backend):
    mg.random.seed(0)
    assert moves(Film(40), 100) >= 0.95


@pytest.mark.long
@pytest.mark.lecture("I6", "contrast")
def test_single_frames_say_nothing_of_the_move(backend):
    """3000 labels, a share of 1/4 has a standard deviation of 0.8 %."""
    mg.random.seed(0)
    assert abs(moves(Film(32, memory=False), 60) - 0.25) < 0.03


def test_what_a_frame_shows_is_independent_of_the_moves():
    """All 36 places and 4 moves, chi-squared; as the contrast is by construction."""
    frames, labels = generated.films(np.random.default_rng(0), 2, 4000)
    cross = generated.shape("cross", 2, 6, 2, 2)
    crosses = [b for b in range(4000) if frames[1, b].sum() == cross.sum()]
    places = [np.abs(np.fft.ifft2(np.fft.fft2(frames[1, b]) * np.conj(np.fft.fft2(cross)))).argmax()
              for b in crosses]  # fmt: skip
    counts = np.zeros((36, 4))
    np.add.at(counts, (places, labels[0, crosses]), 1)
    chi_squared(counts.ravel(), np.full(144, 1 / 144))


# --- I10: speech ---------------------------------------------------------------------------------

OUTSIDE = 3.0  # what stands before the first frame: no frame, scaled, is as loud


class Speech:
    """Utterances as scaled band energies, a model of them with a Bernoulli stop, and samples.

    In float64, so that the samples are the same wherever they are drawn.
    """

    def __init__(self, n, H, M):
        mg.random.seed(0)
        self.rng = np.random.default_rng(0)
        heard = [generated.band_energies(generated.utterance(self.rng)) for _ in range(n)]
        frames = np.concatenate(heard)
        self.mean, self.std = frames.mean(axis=0), frames.std(axis=0)
        self.heard = [self.scaled(u) for u in heard]
        density = MixtureDensity(M, 4)
        readout = Linear(H, 1 + density.size, dtype="float64")
        cell = Readout(GRUCell(4, H, dtype="float64"), readout)
        self.model = Sequences(cell, density, Halt())

    def scaled(self, energies):
        return (energies - self.mean) / self.std

    def loss(self, B=16):
        rows = [self.heard[i] for i in self.rng.integers(len(self.heard), size=B)]
        ys, lengths = padded(rows)
        start = mg.full((B, 4), OUTSIDE, dtype="float64")
        return -mg.sum(self.model.log_probability(ys, lengths, start=start)) / int(lengths.sum())

    def spoken(self, n):
        """n samples, each (T, 4)."""
        start = mg.full((n, 4), OUTSIDE, dtype="float64")
        found = self.model.sample(n, 60, key=mg.random.key(0), start=start)
        assert found.ended.numpy().all()
        ys = found.ys.numpy()
        return [ys[:length, b] for b, length in enumerate(found.lengths.numpy())]


def kolmogorov_smirnov(a, b):
    """p that two samples are of one distribution (Smirnov 1948, the limit for large ones)."""
    places = np.sort(np.concatenate([a, b]))
    shares = [np.searchsorted(np.sort(x), places, side="right") / len(x) for x in (a, b)]
    scale = math.sqrt(len(a) * len(b) / (len(a) + len(b))) * np.abs(shares[0] - shares[1]).max()
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scale) ** 2) for k in range(1, 101))


def law_of_lengths(longest=60):
    """P(T frames) by the definition: vowels and pauses, as many as a coin says."""
    syllable = np.zeros(longest + 1)
    syllable[[n + 1 for n in generated.LASTS]] = 1 / len(generated.LASTS)
    law, several = np.zeros(longest + 1), syllable
    for n in range(longest // 2):
        law += generated.ENDS * (1 - generated.ENDS) ** n * several
        several = np.convolve(several, syllable)[: longest + 1]
    return law


def speaks_like_the_others(speech, n):
    """One frame at random of each utterance, so that they are independent."""
    rng = np.random.default_rng(1)
    spoken = speech.spoken(n)
    others = [speech.scaled(generated.band_energies(generated.utterance(rng))) for _ in range(n)]
    ours, theirs = (
        np.array([u[rng.integers(len(u))] for u in found if len(u)]) for found in (spoken, others)
    )
    for band in range(4):
        assert kolmogorov_smirnov(ours[:, band], theirs[:, band]) > 0.01
    law = law_of_lengths()
    assert law.sum() == pytest.approx(1, abs=1e-4)
    counts = np.bincount([len(u) for u in spoken], minlength=len(law))
    chi_squared(counts, law / law.sum())
    # The tests can tell: independent normal variables have neither the shapes nor the lengths.
    normal = rng.normal(size=(n, 4)) * theirs.std(axis=0) + theirs.mean(axis=0)
    assert min(kolmogorov_smirnov(normal[:, k], theirs[:, k]) for k in range(4)) < 0.01


@pytest.mark.long
@pytest.mark.lecture("I10", "bands")
@pytest.mark.lecture("I10", "lengths")
def test_speech_has_the_energies_and_lengths_of_speech(backend):
    speech = Speech(600, 24, 4)
    train(speech.model, speech.loss, 450, rate=0.02, fade=True)
    speaks_like_the_others(speech, 200)


@pytest.mark.slow
@pytest.mark.lecture("I10", "bands")
@pytest.mark.lecture("I10", "lengths")
def test_speech_after_a_longer_training(backend):
    speech = Speech(3000, 48, 6)
    train(speech.model, lambda: speech.loss(32), 2000, rate=0.01, fade=True)
    speaks_like_the_others(speech, 500)


def test_lengths_and_kolmogorov_smirnov():
    """The law against counted utterances; p against published critical values."""
    rng = np.random.default_rng(2)
    frames = [len(generated.utterance(rng)) // generated.FRAME for _ in range(400)]
    law = law_of_lengths()
    chi_squared(np.bincount(frames, minlength=len(law)), law / law.sum())
    a = np.arange(1000.0)
    for p, c in ((0.10, 1.22385), (0.05, 1.35810), (0.01, 1.62762)):  # c(p) of the asymptotic law
        shift = round(c * math.sqrt(2 / 1000) * 1000)
        assert kolmogorov_smirnov(a, a + shift - 0.5) == pytest.approx(p, rel=0.06)


# --- exercises of the tutorials ------------------------------------------------------------------

WRONG = (
    (7, 1, lambda ys, lengths: ys[-1]),
    (7, 1, lambda ys, lengths: ys[0]),
    (7, 2, lambda logits, labels, lengths: (logits.argmax(-1) == labels).mean()),
    (7, 2, lambda logits, labels, lengths: 1.0),
    (7, 3, lambda p, own, weights, source: own),
    (7, 3, lambda p, own, weights, source: p * own + (1 - p) * weights),
    (8, 1, lambda ys: ys),
    (8, 1, lambda ys: np.concatenate([ys[1:], 0 * ys[:1]])),
    (8, 2, lambda a, log_p: log_p.sum()),
    (8, 2, lambda a, log_p: np.log(1 - 1 / (1 + np.exp(-a))).sum() + log_p.sum()),
    (8, 3, lambda step, ys, use: np.stack([step(t, ys[t]) for t in range(len(ys))])),
    (8, 3, lambda step, ys, use: ys),
)


@pytest.mark.parametrize(("number", "exercise", "answer"), WRONG)
def test_a_wrong_answer_gets_a_hint(number, exercise, answer):
    """The last cell of a tutorial defines the checks; None is refused like any other."""
    path = next((ROOT / "tutorials").glob(f"{number:02}_*.py"))
    cell = path.read_text(encoding="utf-8").rpartition("# %%\n")[2]
    names = {"np": np, "mg": mg, "math": math}
    exec(compile(cell, str(path), "exec"), names)
    for wrong in (answer, lambda *given: None):
        with pytest.raises(AssertionError, match=r"\w+ \w+ \w+"), np.errstate(all="ignore"):
            names[f"check_{exercise}"](wrong)

# %% [markdown]
# # Kinds of recurrent networks
#
# You will wire one and the same loop in four ways, and make something of each: a judge of reviews
# that understands "not" (many to one), a network that says what it sees (one to many), one that
# labels the frames of a film (many to many, step by step), and one that writes headlines with
# names it has never written before (many to many, by way of an encoder and a decoder).
#
# You need: tutorial 05. It takes about 20 minutes, of which the machine computes for one. It
# belongs to Fig 10.5 "Sequence Input, Single Output", Fig 10.9 "Vector to Sequence", Fig 10.12
# "Sequence to Sequence Architecture", to the slides "Kinds of RNN", "Recurrent Neural Networks:
# Process Sequences", "One-output RNN", "Encoder-Decoder Architecture", and to the applications
# sentiment, captions, video, labels and summaries.

# %%
import os

import numpy as np

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
    EncoderDecoder,
    GRUCell,
    LSTMCell,
    Recurrent,
    RNNCell,
    unroll,
)
from minigrad_rnn.attention import Additive
from minigrad_rnn.experiments import generated, pairs
from minigrad_rnn.likelihood import padded
from minigrad_rnn.patterns import each_frame

FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
rng = np.random.default_rng(0)
print("a small run" if FAST else "the whole run, about a minute")

# %% [markdown]
# ## One loop, four wirings
#
# A cell takes $x^{(t)}$ and a state, and gives an output and a state. What makes the kinds is only
# which steps have an input and which outputs are read. Letters: T steps, B sequences at once, D
# numbers of an input, H hidden units.

# %%
T, B, D, H = 5, 2, 3, 4
cell, start = RNNCell(D, H), mg.zeros((B, H))
xs = mg.Tensor(rng.normal(size=(T, B, D)), dtype="float32")

every, last = unroll(cell, xs, start)  # an input and an output at each step
one = last  # many to one: only the last state is read

x, state, outputs = xs[0], start, []  # one to many: the same x at each step
for _ in range(T):
    y, state = cell(x, state)
    outputs.append(y)
many = mg.stack(outputs)

print("many to many:", xs.shape, "->", every.shape)
print("many to one: ", xs.shape, "->", one.shape)
print("one to many: ", x.shape, "->", many.shape)
assert every.shape == many.shape == (T, B, H) and one.shape == (B, H)
assert np.array_equal(every.numpy()[-1], one.numpy())

# %% [markdown]
# The fourth kind, with input and output of different lengths, is the second and the third in a
# row. It comes at the end.
#
# All networks below are trained by the same few lines.


# %%
def train(model, loss, updates, rate=0.01):
    """Adam; the norm of the whole gradient is at most 1. Returns the losses."""
    optimizer, losses = mg.optim.Adam(model.parameters(), lr=rate), []
    for _ in range(updates):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        mg.optim.clip_by_global_norm(model.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
    return losses


line, points = Linear(1, 1), mg.linspace(-1, 1, 9).reshape(9, 1)
told = train(line, lambda: F.mse(line(points), 2 * points + 1), 50)
print(f"from {told[0]:.2f} to {told[-1]:.2f}")
assert told[-1] < told[0]

# %% [markdown]
# ## Many to one: is a review positive?
#
# A review holds a word of praise and a word of blame, and one of them is negated. Each has a twin
# of exactly the same words, with the "not" in the other place, and the opposite meaning.

# %%
twins = generated.reviews(rng, 2, generated.OPINIONS)
for words, meaning in zip(twins, ("positive", "negative"), strict=True):
    print(f"{meaning}: {' '.join(words)}")
assert sorted(twins[0]) == sorted(twins[1]) and twins[0] != twins[1]

# %% [markdown]
# So whatever looks only at *which* words occur, and how often, gives both twins one answer, and is
# right about exactly one of them: 50 %, however it is trained. Order is everything here.
#
# Reviews differ in length. `padded` lays them side by side in a table (T, B), with zeros below
# the short ones; `unroll` is told the `lengths`, and the state it returns is the one after each
# row's *own* last word. The tempting `ys[-1]` would read the padding.

# %%
VOCABULARY = sorted({word for r in generated.reviews(rng, 2000, generated.OPINIONS) for word in r})
number = {word: i for i, word in enumerate(VOCABULARY)}
unseen = generated.OPINIONS[::5]  # pairs of a word of praise and one of blame, kept for the test
seen = [pair for pair in generated.OPINIONS if pair not in unseen]


def some_reviews(n, opinions):
    """Words (T, n) as numbers, lengths (n,), and labels: 1 is positive."""
    rows = [[number[word] for word in r] for r in generated.reviews(rng, n, opinions)]
    return *padded(rows), np.tile([1, 0], n // 2)


class Sentiment(Module):
    def __init__(self, H):
        self.embed, self.cell = Embedding(len(VOCABULARY), 16), LSTMCell(16, H)
        self.readout = Linear(H, 2)

    def __call__(self, xs, lengths):
        _, (h, _) = unroll(self.cell, self.embed(xs), lengths=lengths)
        return self.readout(h)


xs, lengths, labels = some_reviews(6, seen)
print(lengths, "words of", xs.shape[0])
assert lengths.max() == len(xs) and (xs[lengths[0] :, 0] == 0).all()

# %%
mg.random.seed(0)
judge = Sentiment(24)


def loss():
    xs, lengths, labels = some_reviews(32, seen)
    return F.cross_entropy(judge(xs, lengths), labels)


losses = train(judge, loss, 12 if FAST else 120)
xs, lengths, labels = some_reviews(400, unseen)
with mg.no_grad():
    right = (judge(xs, lengths).numpy().argmax(axis=1) == labels).mean()
print(f"loss {losses[0]:.2f} -> {losses[-1]:.3f}; right on pairs never seen together: {right:.1%}")
assert FAST or right >= 0.9

# %% [markdown]
# And the bag of words, trained on the very reviews that it is asked about:

# %%
counts = np.stack([(xs == i).sum(axis=0) for i in range(len(VOCABULARY))], axis=1)
counts = counts.astype("float32")
bag = Linear(len(VOCABULARY), 2)
train(bag, lambda: F.cross_entropy(bag(counts), labels), 20 if FAST else 100)
chance = (bag(counts).numpy().argmax(axis=1) == labels).mean()
print(f"bag of words: {chance:.1%}")
assert chance == 0.5

# %% [markdown]
# The loss stands at one step of each row only. Its gradient reaches the first word all the same,
# and no word beyond the end: there it is not small but zero.

# %%
xs, lengths, labels = some_reviews(6, seen)
embedded = judge.embed(xs).detach()
embedded = mg.Tensor(embedded.numpy(), requires_grad=True)
_, (h, _) = unroll(judge.cell, embedded, lengths=lengths)
F.cross_entropy(judge.readout(h), labels).backward()
sizes = np.abs(embedded.grad.numpy()).sum(axis=2)  # (T, B)
beyond = np.arange(len(xs))[:, None] >= lengths
print("first words:", sizes[0].round(5), " beyond the end:", sizes[beyond].max(initial=0))
assert (sizes[0] > 0).all() and (sizes[beyond] == 0).all()

# %% [markdown]
# ## One to many: a caption for a picture
#
# Fig 10.9: a vector $x$ goes in at every step, as $x^\top R$, and the words come out. The word put
# out at one step is the input of the next, so that the caption is a sequence and not a bag. Each
# caption ends with a full stop, by which the network says that it is done.

# %%
CAPTION = ("a", "beside", *generated.SIZES, *generated.SHAPES, ".")
word_number = {word: i for i, word in enumerate(CAPTION)}
couples = [[first, second] for first in generated.THINGS for second in generated.THINGS]
new_couples = couples[::7]  # these stand beside one another in no training picture
old_scenes = [c for c in couples if c not in new_couples] + 2 * [[t] for t in generated.THINGS]


def shown(picture):
    """The picture in characters, dark to light."""
    return "\n".join("".join(" .:#"[int(np.clip(v, 0, 1) * 3.2)] for v in row) for row in picture)


def some_scenes(n, choices):
    """Pictures (n, 8, 16), captions (T, n) and their lengths (n,), full stop included."""
    found = [generated.drawing(rng, choices[rng.integers(len(choices))]) for _ in range(n)]
    captions = [[*(word_number[w] for w in words), word_number["."]] for _, words in found]
    return np.stack([picture for picture, _ in found]), *padded(captions)


picture, words = generated.drawing(rng, [("large", "ring"), ("small", "cross")])
print(shown(picture))
print(" ".join(words))
assert picture.shape == (8, 16) and words[:3] == ["a", "large", "ring"]

# %% [markdown]
# What turns a picture into a vector is a small network that looks at both halves with the same
# weights; it learns from the words alone, together with the decoder. `Decoder` computes
# $x^\top R$ once, before its loop. `log_probability` is teacher forcing: each word is scored given
# the true ones before it.


# %%
class Captions(Module):
    def __init__(self, H):
        self.eye = MLP((64, 48, 24), F.relu)
        self.decoder = Decoder(len(CAPTION), 16, GRUCell(16, H), H, Dx=48, condition="input")

    def see(self, pictures):
        halves = mg.split(mg.Tensor(pictures), 2, axis=2)
        return mg.concatenate([self.eye(half.reshape(-1, 64)) for half in halves], axis=1)


mg.random.seed(0)
speaker = Captions(32)


def caption_loss():
    pictures, ys, lengths = some_scenes(32, old_scenes)
    x = speaker.see(pictures)
    return -mg.mean(speaker.decoder.log_probability(ys, x, lengths=lengths))


losses = train(speaker, caption_loss, 12 if FAST else 250, rate=0.005)
pictures, ys, lengths = some_scenes(300, new_couples)
written = speaker.decoder.greedy(speaker.see(pictures), len(ys)).numpy()
counted = np.arange(len(ys))[:, None] < lengths
exact = ((written == ys) | ~counted).all(axis=0).mean()
print(f"nats a caption {losses[0]:.1f} -> {losses[-1]:.2f}; exact on new couples: {exact:.1%}")
print(shown(pictures[0]))
print(" ".join(CAPTION[i] for i in written[: lengths[0], 0]))
assert FAST or exact >= 0.95

# %% [markdown]
# ## Many to many, step by step: which way did it go?
#
# A shape moves on a torus; each frame after the first is labelled with the move that led to it.
# The shape starts anywhere, so a single frame says *nothing* about the move: all places are
# equally likely after each of the four.

# %%
frames, moves = generated.films(rng, 4, 1)
for row in range(6):
    print("   ".join(shown(frames[t, 0, row : row + 1]) for t in range(4)))
print([generated.MOVES[m] for m in moves[:, 0]])
assert frames.shape == (4, 1, 6, 6) and moves.shape == (3, 1)

# %% [markdown]
# One network turns every frame into features, the same for all frames: `each_frame` runs it once
# on all T times B of them. With a cell behind it the labels can depend on earlier frames; without
# one, this is the per-frame classifier.


# %%
class Film(Module):
    def __init__(self, H, memory):
        self.frame = Linear(36, 32)
        self.cell = GRUCell(32, H) if memory else None
        self.readout = Linear(H, 4)

    def __call__(self, frames):  # (T, B, 6, 6) -> logits (T - 1, B, 4)
        features = each_frame(lambda x: F.relu(self.frame(x.reshape(-1, 36))), mg.Tensor(frames))
        hs = features if self.cell is None else unroll(self.cell, features)[0]
        return self.readout(hs[1:])


def watch(model, updates):
    """Train on films of 8 frames; the share of moves named in films of 16."""

    def loss():
        frames, moves = generated.films(rng, 8, 32)
        return F.cross_entropy(model(frames), moves)

    train(model, loss, updates)
    frames, moves = generated.films(rng, 16, 200)
    with mg.no_grad():
        return (model(frames).numpy().argmax(axis=-1) == moves).mean()


mg.random.seed(0)
with_memory = watch(Film(40, memory=True), 12 if FAST else 200)
frame_by_frame = watch(Film(32, memory=False), 8 if FAST else 200)
print(f"with memory {with_memory:.1%}, frame by frame {frame_by_frame:.1%}, guessing 25.0%")
assert abs(frame_by_frame - 0.25) < 0.04
assert FAST or with_memory >= 0.95

# %% [markdown]
# ## Labels: which word is it about?
#
# A text of two or three sentences; one says what happened today. The label is who did it: a word
# of the text. A network with an output for every name could never give a name it was not trained
# on. One that gives a *score to each word* can: it points. To know that a name matters it has to
# see the word "today" before it, and in general what comes after, too: `Bidirectional`.

# %%
old_names, new_names = generated.NAMES[:-25], generated.NAMES[-25:]
STORY = (*generated.NAMES, *generated.STORY_WORDS)
story_number = {word: i for i, word in enumerate(STORY)}
text, place, headline = generated.story(rng, old_names)
print(" ".join(text))
print(f"label: {text[place]}; headline: {' '.join(headline)}")
assert text[place] == headline[0]


# %%
def some_stories(n, names):
    """Texts and headlines as numbers, and the places (n,) of the labels."""
    found = [generated.story(rng, names) for _ in range(n)]
    coded = [([story_number[w] for w in t], [story_number[w] for w in h]) for t, _, h in found]
    return coded, np.array([place for _, place, _ in found])


class Pointer(Module):
    def __init__(self, H):
        self.embed = Embedding(len(STORY), 16)
        self.layer = Bidirectional(GRUCell(16, H), GRUCell(16, H))
        self.readout = Linear(2 * H, 1)

    def __call__(self, xs, lengths):  # (T, B) -> one score a word, (B, T), none in the padding
        hs, _ = self.layer(self.embed(xs), lengths=lengths)
        real = mg.Tensor(np.arange(len(xs))[:, None] < lengths)
        return mg.where(real, self.readout(hs)[..., 0], -1e30).T


mg.random.seed(0)
pointer = Pointer(16)


def pointer_loss():
    coded, places = some_stories(32, old_names)
    return F.cross_entropy(pointer(*padded([text for text, _ in coded])), places)


train(pointer, pointer_loss, 6 if FAST else 60, rate=0.02)
coded, places = some_stories(300, new_names)
with mg.no_grad():
    found = pointer(*padded([text for text, _ in coded])).numpy().argmax(axis=1)
labelled = (found == places).mean()
print(f"right labels, all names new: {labelled:.1%}")
assert FAST or labelled >= 0.95

# %% [markdown]
# ## Many to many, by way of one vector
#
# Fig 10.12: many to one, then one to many. The encoder's last state is the vector C, and the
# decoder is conditioned on it. How long the input was and how long the output will be have
# nothing to do with one another, row by row.

# %%
encoder, decoder = GRUCell(3, 5), Decoder(4, 6, GRUCell(6, 5), 5, Dx=5)
both = EncoderDecoder(Recurrent(encoder), decoder)
xs, ys = rng.normal(size=(7, 2, 3)).astype("float32"), rng.integers(0, 4, (3, 2))
_, C = unroll(encoder, xs, lengths=[7, 4])  # many to one
in_two_parts = decoder.log_probability(ys, C, lengths=[2, 3])  # one to many
in_one = both.log_probability(xs, ys, lengths=[7, 4], target_lengths=[2, 3])
print("C:", C.shape, " log P(ys | xs):", in_one.numpy().round(3))
assert np.allclose(in_two_parts.numpy(), in_one.numpy(), atol=1e-6)

# %% [markdown]
# ## Headlines, with names to copy
#
# "found" becomes "finds": a headline has words that the text has not, so pointing is not enough.
# An encoder reads the text, a decoder writes. What no vector C has learned to hold is still there,
# in the text: this decoder also looks back at the encoder's outputs, with weights $\alpha_j$ that
# sum to 1 (attention). At each step it either writes a word of its own, with probability $p$, or
# repeats the word it looks at:
#
# $P(y) = p \, P_{own}(y) + (1 - p) \sum_j \alpha_j [x_j = y]$
#
# The sum gives a probability even to a name that no training headline ever had.


# %%
def writer(decoder_class, H):
    """A reader in both directions and a writer with attention."""
    V, N = len(STORY) + 1, 2 * H  # one symbol more: the end of a headline
    encoder = Bidirectional(GRUCell(16, H), GRUCell(16, H))
    looks = BahdanauCell(GRUCell(16 + N, N), Additive(N, N, H))
    decoder = decoder_class(V, 16, looks, 2 * N, N)
    return AttentionEncoderDecoder(encoder, decoder, Embedding(V, 16))


models, results = {}, {}
for decoder_class, updates in ((CopyDecoder, 70), (AttentionDecoder, 160)):
    mg.random.seed(0)
    model = writer(decoder_class, 8 if FAST else 24)
    curve = pairs.train(model, lambda: some_stories(24, old_names)[0], 3 if FAST else updates)
    told = [value for _, value in curve]
    results[decoder_class] = [
        pairs.exact_match(model, some_stories(100, names)[0]) for names in (old_names, new_names)
    ]
    print(
        f"{decoder_class.__name__}: nats a word {told[0]:.2f} -> {told[-1]:.3f}, exact headlines:"
    )
    print("   old names {:.0%}, new names {:.0%}".format(*results[decoder_class]))
    models[decoder_class] = model
assert FAST or min(results[CopyDecoder]) >= 0.95
assert FAST or (results[AttentionDecoder][0] >= 0.95 and results[AttentionDecoder][1] == 0)

# %% [markdown]
# Without copying, the network has learned its old names by heart and cannot write a new one.
# Where the copier looks when it writes a name is where the name stands:

# %%
[(source, target)], [place] = some_stories(1, new_names)
xs, ys = np.array(source)[:, None], np.array([*target, len(STORY)])[:, None]
with mg.no_grad():
    alignment = models[CopyDecoder].alignment(xs, ys).numpy()[:, 0]  # (Ty, Tx)
print(" ".join(STORY[i] for i in source))
for i, row in zip(target, alignment, strict=False):
    print(f"{STORY[i]:8} {shown(row[None])}")
assert np.abs(alignment.sum(axis=1) - 1).max() < 1e-5
assert FAST or alignment[0].argmax() == place

# %% [markdown]
# `minigrad-rnn figure 10.5`, `10.9` and `10.12` draw the wirings of this tutorial.
#
# ## Exercises
#
# 1. Write `last_real(ys, lengths)` that takes outputs `ys` (T, B, H) and gives each row's output
#    at its own last step, (B, H). All lengths are at least 1.
# 2. Write `frames_right(logits, labels, lengths)`: the share of right labels among the real frames
#    of all films together, for logits (T, B, V), labels (T, B) and lengths (B,).
# 3. Write `mixed(p, own, weights, source)`: the distribution (B, V) of a decoder that copies, for
#    p (B, 1), own (B, V), weights (B, T) and source (T, B), words as numbers. A word can occur
#    twice in the source.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 7 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def last_real(ys, lengths):
    return ys[lengths - 1, np.arange(len(lengths))]


def frames_right(logits, labels, lengths):
    real = np.arange(len(labels))[:, None] < lengths
    return ((logits.argmax(axis=-1) == labels) & real).sum() / real.sum()


def mixed(p, own, weights, source):
    shown = np.eye(own.shape[1])[source.T]  # (B, T, V)
    return p * own + (1 - p) * (weights[:, None] @ shown)[:, 0]


def check_close(found, expected, hint):
    """Raise with the hint unless found is what is expected, shape included."""
    found = found.numpy() if isinstance(found, mg.Tensor) else found
    fits = found is not None and np.shape(found) == np.shape(expected)
    assert fits and np.allclose(np.asarray(found, float), expected, atol=1e-6), hint


def check_1(last_real):
    ys, lengths = np.arange(24.0).reshape(4, 3, 2), np.array([4, 1, 2])
    expected = [ys[3, 0], ys[0, 1], ys[1, 2]]
    check_close(last_real(ys, lengths), expected, "row b ends at step lengths[b] - 1, not at T - 1")


def check_2(frames_right):
    labels = np.array([[0, 1], [1, 1], [2, 0]])
    logits = np.eye(3)[[[0, 1], [1, 2], [0, 0]]]  # the labels, but for two
    hint = "count steps t < lengths[b] only, and divide by how many of those there are"
    check_close(frames_right(logits, labels, np.array([3, 1])), 3 / 4, hint)
    check_close(frames_right(logits, labels, np.array([1, 3])), 3 / 4, hint)
    check_close(frames_right(logits, labels, np.array([3, 3])), 4 / 6, hint)


def check_3(mixed):
    p, own = np.array([[0.5], [1.0]]), np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    weights, source = (
        np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]),
        np.array([[0, 2], [1, 0], [0, 1]]),
    )
    expected = [[0.05 + 0.35, 0.1 + 0.15, 0.35], [0.3, 0.3, 0.4]]
    check_close(
        mixed(p, own, weights, source),
        expected,
        "a word's share is the sum of the weights of all places where it stands, times 1 - p",
    )


check_1(last_real)
check_2(frames_right)
check_3(mixed)
print("exercises: 3 of 3")

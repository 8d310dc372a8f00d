# %% [markdown]
# # Depth, two directions, time scales: and what they read
#
# You will put depth into a recurrent network in the three places that the book names and measure
# what it costs on the graph; shorten the paths again; read a sequence from both ends; give units
# a slow clock. Then one network made of these parts reads handwriting, and the same network
# understands speakers whom it has never heard.
#
# You need: tutorial 05. It takes about 20 minutes, and 10 more for the two applications at its
# end, for which the machine computes for one or two. It belongs to Fig 10.13 "Deep RNNs",
# "Res-Net", Fig 10.11 "Bidirectional RNN", "Bidirectional LSTMs", to "Leaky Units" and "different
# time scales" on the slide "How to deal with vanishing gradients?" (sections 10.5, 10.3 and 10.9 of
# the book), and to two lines of the slide "Applications": handwriting recognition and speech
# recognition.

# %%
import itertools
import os

import numpy as np

import minigrad as mg
from minigrad_rnn import (
    MLP,
    Bidirectional,
    ClockworkCell,
    DeepCell,
    DelayCell,
    Increment,
    LeakyCell,
    Residual,
    ResNet,
    RNNCell,
    Stack,
    unroll,
)
from minigrad_rnn.depth import gradient_norms, path_length

mg.set_default_dtype("float64")
FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
print("a small run" if FAST else "the whole run, one or two minutes")

# %% [markdown]
# ## Fig 10.13: three places for depth
#
# (a) Layers: the output of one cell is the input of the next, at the same step. A stack is a cell
# again, whose state is the tuple of its cells' states:

# %%
mg.random.seed(0)
T, B, D, H = 12, 2, 3, 16
xs = mg.Tensor(np.random.default_rng(0).normal(size=(T, B, D)))
bottom, top = RNNCell(D, H), RNNCell(H, H)
ys, (h1, h2) = unroll(Stack([bottom, top]), xs)

g1, g2 = bottom.initial_state(B), top.initial_state(B)
for x in xs:  # the same by hand: up first, then on in time
    y, g1 = bottom(x, g1)
    y, g2 = top(y, g2)
assert np.array_equal(y.numpy(), ys[-1].numpy()) and np.array_equal(g1.numpy(), h1.numpy())
print("both layers' states:", h1.shape, h2.shape)

# %% [markdown]
# (b) Depth inside a step: a network with a hidden layer stands where the matrix from
# $h^{(t-1)}$ to $h^{(t)}$ stood. It computes more in a step, but from one state to the next the
# way is twice as long. (c) A connection that jumps over the hidden layer. The paths can be
# measured: `path_length` counts the layers of units between two recorded tensors.

# %%
cells = {
    "a": RNNCell(D, H),
    "b": DeepCell(D, H, transition=MLP([H, H, H])),
    "c": DeepCell(D, H, transition=MLP([H, H, H]), skip=True),
}
lengths = {}
for name, cell in cells.items():
    _, before = cell(xs[0], cell.initial_state(B))
    _, after = cell(xs[1], before)
    lengths[name] = path_length(before, after)
print("shortest path from h(t) to h(t+1):", lengths)
assert lengths == {"a": 1, "b": 2, "c": 1}

# %% [markdown]
# A longer path is more factors in the chain rule. How much of a loss after 20 steps arrives at the
# first state? Fresh weights differ much, so take the geometric mean over draws.

# %%
long = mg.Tensor(np.random.default_rng(0).normal(size=(20, B, D)))
weight = mg.Tensor(np.random.default_rng(1).normal(size=(B, H)))
arrived = {"b": [], "c": []}
for seed in range(2 if FAST else 6):
    for name, skip in (("b", False), ("c", True)):
        mg.random.seed(seed)
        cell = DeepCell(D, H, transition=MLP([H, H, H]), skip=skip)
        norms = gradient_norms(cell, long, cell.initial_state(B), weight).numpy()
        arrived[name].append(np.log(norms[0] / norms[-1]))
shares = {name: np.exp(np.mean(logs)).item() for name, logs in arrived.items()}
print(f"|dL/dh(0)| / |dL/dh(T-1)|: (b) {shares['b']:.4f}, (c) {shares['c']:.4f}")
assert shares["c"] > 10 * shares["b"]

# %% [markdown]
# ## Res-Net
#
# The same idea for layers: $x_{l+1} = x_l + F_l(x_l)$. Write l as t and give every layer the same
# F, and a residual network *is* a recurrent network without input, $h^{(t)} = h^{(t-1)} +
# F(h^{(t-1)})$. `Increment(F)` is that cell:

# %%
F = MLP([H, H, H])
h0 = mg.Tensor(np.random.default_rng(2).normal(size=(B, H)))
by_layers = ResNet([F] * 6)(h0)
_, by_steps = unroll(Increment(F), None, h0, steps=6)
assert np.array_equal(by_layers.numpy(), by_steps.numpy())
print("largest difference:", np.abs(by_layers.numpy() - by_steps.numpy()).max())

# %% [markdown]
# What residuals are for: twenty recurrent layers on top of one another, to copy the input, from
# small random weights. The input has variance 1, so that an error of 1 means to know nothing.


# %%
def deep_copying(wrap, layers=20, updates=5 if FAST else 50):
    mg.random.seed(3)
    data = mg.Tensor(np.random.default_rng(3).normal(size=(2, 64, H)))
    stack = Stack([wrap(RNNCell(H, H, init="torch")) for _ in range(layers)])
    readout = mg.nn.Linear(H, H)
    optimizer = mg.optim.Adam(stack.parameters() + readout.parameters(), lr=0.01)
    for _ in range(updates):
        loss = mg.mean((readout(unroll(stack, data)[0]) - data) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


plain, residual = deep_copying(lambda cell: cell), deep_copying(Residual)
print(f"squared error after as many updates: plain {plain:.2f}, residual {residual:.2f}")
assert FAST or (plain > 0.8 and residual < 0.5)

# %% [markdown]
# ## Fig 10.11: from both ends
#
# $h^{(t)}$ has read $x^{(1)}, \dots, x^{(t)}$. A second state $g^{(t)}$ that runs from the end
# has read the rest, and $o^{(t)}$ sees both. Which inputs does each output depend on? Differentiate
# it and look. The second row of the batch has only 4 steps, the others are padding.


# %%
def dependence(layer, row, T=7, lengths=(7, 4)):
    """A line for each output of a row, a mark for each input that it depends on."""
    start = np.random.default_rng(4).normal(size=(T, 2, 1))

    def outputs(xs):
        return mg.sum(layer(xs, lengths), axis=-1)[:, row]

    J = mg.jacobian(outputs)(mg.Tensor(start)).numpy()[:, :, row, 0]  # (T outputs, T inputs)
    return ["".join("x" if d else "." for d in line) for line in J]


forward_cell, backward_cell = RNNCell(1, 4), RNNCell(1, 4)
both = Bidirectional(forward_cell, backward_cell)
one_way = dependence(lambda xs, n: unroll(forward_cell, xs, lengths=n)[0], 0)
two_ways = dependence(lambda xs, n: both(xs, lengths=n)[0], 0)
short = dependence(lambda xs, n: both(xs, lengths=n)[0], 1)
print("one cell   both ends  a short row")
print("\n".join(map("    ".join, zip(one_way, two_ways, short, strict=True))))
assert one_way == ["x" * t + "." * (7 - t) for t in range(1, 8)]
assert two_ways == ["x" * 7] * 7
assert short == ["xxxx..."] * 4 + ["......."] * 3

# %% [markdown]
# The short row shows what goes wrong easily: the second cell has to start at *each row's own* last
# step. Turning the whole padded array round starts it in the padding instead, and its first
# states then are about nothing.

# %%
ragged = mg.Tensor(np.random.default_rng(5).normal(size=(7, 2, 1)))
right, _ = unroll(backward_cell, ragged, lengths=[7, 4], reverse=True)
naive, _ = unroll(backward_cell, ragged[::-1])
wrong = np.abs(right.numpy()[:4] - naive.numpy()[::-1][:4]).max(axis=(0, 2))
print("difference in the long row and in the short one:", wrong.round(3))
assert wrong[0] < 1e-12 and wrong[1] > 0.01

# %% [markdown]
# ## Leaky units
#
# $\mu^{(t)} \leftarrow \alpha \mu^{(t-1)} + (1 - \alpha) v^{(t)}$: a running average. Its answer
# to a single pulse is $\alpha^t (1 - \alpha)$, so that a unit with $\alpha$ near 1 remembers for
# about $1 / (1 - \alpha)$ steps. Here are three units, each on its own, with the identity for tanh:

# %%
leaky = LeakyCell(1, 3, alpha=[0.5, 0.9, 0.99], activation=lambda a: a)
leaky.Wx.assign(np.ones((1, 3)))
leaky.Wh.assign(np.zeros((3, 3)))
pulse = np.zeros((50, 1, 1))
pulse[0] = 1
answer = unroll(leaky, mg.Tensor(pulse))[0].numpy()[:, 0]
expected = np.array([0.5, 0.9, 0.99]) ** np.arange(50)[:, None] * [0.5, 0.1, 0.01]
assert np.abs(answer - expected).max() < 1e-12
print("left of the pulse after 49 steps:", (answer[-1] / answer[0]).round(4))

# %% [markdown]
# $\alpha$ may be a number, a number for each group of units (`leaky_groups`), drawn at random, or
# learned, as a parameter.
#
# ## Delays
#
# Connections from $h^{(t-d)}$ to $h^{(t)}$ cross d steps at once. A gradient that shrinks by a
# factor at every *connection* then shrinks d times more slowly in *time*: by $\tau / d$ factors
# over $\tau$ steps. On a linear unit with weight 0.8 one can see it exactly.

# %%
tau = 24
for d in (1, 2, 4, 8):
    cell = DelayCell(1, 1, delays=(d,), activation=lambda a: a)
    cell.Wh[0].assign([[0.8]])
    cell.Wx.assign([[1.0]])
    inputs = mg.Tensor(np.ones((tau + 1, 1, 1)), requires_grad=True)
    last = unroll(cell, inputs)[0][-1].sum()
    share = mg.pullback(last, inputs).numpy()[0].item()
    print(f"delay {d}: d h(tau) / d x(0) = {share:.5f}")
    assert abs(share - 0.8 ** (tau / d)) < 1e-12

# %% [markdown]
# ## A clockwork
#
# Groups of units, each with a clock of its own: group i moves at the steps that its period
# divides, and keeps its state at the others. Below, a mark wherever a group's states changed.

# %%
periods = (1, 2, 4, 8)
clockwork = ClockworkCell(1, 8, periods)
ticking = mg.Tensor(np.random.default_rng(6).normal(size=(17, 1, 1)))
states = unroll(clockwork, ticking)[0].numpy()[:, 0].reshape(17, 4, 2)
moved = (np.diff(states, axis=0, prepend=0) != 0).any(axis=2)
for group, period in enumerate(periods):
    print(f"period {period}: {''.join('x' if m else '.' for m in moved[:, group])}")
    assert moved[:, group].tolist() == [t % period == 0 for t in range(17)]

# %% [markdown]
# A group that keeps its state need not be computed: `clockwork.work` counts the multiplications
# that are left. (The layer `Clockwork` leaves the others out.)

# %%
share = clockwork.work(1000) / (1000 * 8 * (1 + 8))
print(f"{share:.0%} of the multiplications of a plain RNN with as many units")
assert 0.3 < share < 0.5

# %% [markdown]
# ## Handwriting recognition
#
# A pen reports how it moves: at each step $(dx, dy)$, and whether it was lifted just before.
# Which letters was that? The data are drawn here: a font of a few strokes a letter, and for each
# word another writer, who leans, writes wide or high, and shakes.

# %%
from minigrad_rnn.experiments import recognition
from minigrad_rnn.losses import ctc

LETTERS = "".join(recognition.FONT)


def word(labels):
    """Labels as text; 0 is the blank."""
    return "".join(("-" + LETTERS)[i] for i in labels)


def sketch(moves, across=4, up=2):
    """The way of the pen, drawn with characters."""
    pen = np.cumsum(moves[:, :2], axis=0)
    pen = (pen - pen.min(axis=0)) * [across, up]
    columns, rows = np.ceil(pen.max(axis=0)).astype(int) + 1
    paper = np.full((rows, columns), " ")
    for i in range(len(pen)):
        start = pen[i] if moves[i, 2] or i == 0 else pen[i - 1]
        for s in np.linspace(0, 1, 12):
            x, y = (start + s * (pen[i] - start)).round().astype(int)
            paper[rows - 1 - y, x] = "#"
    return "\n".join(map("".join, paper))


hello = [LETTERS.index(c) + 1 for c in "noise"]
for writer in (1, 2):
    strokes = recognition.written(np.random.default_rng(writer), hello)
    print(sketch(strokes), end="\n\n")
assert strokes.shape[1] == 3 and word(hello) == "noise"

# %% [markdown]
# Nobody says which points belong to which letter. Connectionist temporal classification (CTC)
# does without: at each step the network names a letter or a blank, a *path* $\pi$; a path stands
# for what is left when repeats become one and the blanks go; and the probability of a word is
# the sum over all of its paths, $p(l \mid x) = \sum_\pi \prod_t y^{(t)}_{\pi_t}$. For 5 steps and
# 2 letters the paths can be counted by hand, and `ctc`, which uses a recursion like that of a
# hidden Markov model, has to agree:


# %%
def collapse(path):
    return [s for t, s in enumerate(path) if s and (t == 0 or s != path[t - 1])]


logits = np.random.default_rng(7).normal(size=(5, 3))
y = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
found = [p for p in itertools.product(range(3), repeat=5) if collapse(p) == [1, 1, 2]]
total = sum(np.prod([y[t, s] for t, s in enumerate(path)]) for path in found)
loss = ctc(mg.Tensor(logits[:, None]), np.array([[1], [1], [2]])).item()
print(len(found), "paths, the first of them", word(found[0]))
print("-log p:", loss, "by counting:", -np.log(total))
assert abs(loss + np.log(total)) < 1e-12

# %% [markdown]
# The network: an LSTM from each end (a letter is told by what follows as well), and a linear
# layer to the letters and the blank. It is `recognition.Recognizer`, these two lines:
#
#     hs, _ = Bidirectional(LSTMCell(D, H), LSTMCell(D, H))(xs, lengths=lengths)
#     logits = Linear(2 * H, V + 1)(hs)
#
# The measure is the label error: insertions, deletions and substitutions by which what is read
# differs from what was written, over the number of letters. Every row of the training is a new
# word of a new writer, and so are the 200 held-out words, from other random numbers.


# %%
def learn(draw, unseen, D, V, H, updates, longest):
    """Train on rows drawn anew; the network and 200 held-out rows."""
    mg.random.seed(0)
    rng, model = np.random.default_rng(0), recognition.Recognizer(D, H, V)
    held_out = recognition.batch(unseen, np.random.default_rng(1), 200, V, longest)
    optimizer = mg.optim.Adam(model.parameters(), lr=0.01)
    for n in range(updates):
        optimizer.zero_grad()
        loss = model.loss(recognition.batch(draw, rng, 16, V, longest))
        loss.backward()
        mg.optim.clip_by_global_norm(model.parameters(), 5.0)
        optimizer.step()
        if n % max(1, updates // 5) == 0:
            error = recognition.label_error(model.read(held_out), held_out)
            print(f"update {n:3}: CTC {loss.item():5.2f}, label error {error:.0%}")
    return model, held_out


mg.set_default_dtype("float32")
V, H, updates, longest = (4, 16, 8, 2) if FAST else (len(LETTERS), 40, 260, 4)
reader, words = learn(recognition.written, recognition.written, 3, V, H, updates, longest)
read = reader.read(words)
error = recognition.label_error(read, words)
print(f"handwriting, held out: {error:.1%}")
assert FAST or error <= 0.05

# %%
for b in range(4):
    wanted = words.targets[: words.target_lengths[b], b]
    print(f"{word(wanted):5} was read as {word(read[b])}")
path = mg.argmax(reader(words.xs[:, :1], words.lengths[:1]), axis=-1).numpy()[:, 0]
print("the likeliest path of the first word:", word(path[: words.lengths[0]]))
assert collapse(path[: words.lengths[0]].tolist()) == read[0]

# %% [markdown]
# The path is a row of blanks with a few spikes: CTC rewards nothing between them.
#
# ## Speech recognition
#
# The same network, other ears. A vowel is pulses from the vocal cords through the resonances of
# the mouth, the formants: whether it is an a or an i is where the first two lie. But a short
# vocal tract moves them all up, and children, women and men differ: the recognizer has to learn
# what a speaker does not change. Here are six sounds, in voices whose formants differ by up to
# 15 % each way, and the ears: log energies of 16 bands, evenly spaced in mel.

# %%
SOUNDS = list(recognition.SOUNDS)
heard_in_training = recognition.speakers(np.random.default_rng(7), 24)
strangers = recognition.speakers(np.random.default_rng(8), 12)
assert not set(heard_in_training) & set(strangers)

saying = [SOUNDS.index(c) + 1 for c in "mais"]
for speaker in (min(strangers, key=lambda s: s.tract), max(strangers, key=lambda s: s.tract)):
    bands = recognition.features(recognition.spoken(np.random.default_rng(0), saying, speaker))
    print(f"pitch {speaker.pitch:.0f} Hz, tract {speaker.tract:.2f} (time runs to the right)")
    for row in bands.T[::-1]:
        print("  " + "".join(" .:*#"[int(np.clip(2 + v, 0, 4))] for v in row))

# %% [markdown]
# Trained on 24 voices; measured on 12 others, who say other things.

# %%
V, H, updates, longest = (3, 16, 8, 2) if FAST else (len(SOUNDS), 40, 160, 4)
listener, utterances = learn(
    recognition.heard(heard_in_training),
    recognition.heard(strangers),
    recognition.BANDS,
    V,
    H,
    updates,
    longest,
)
error = recognition.label_error(listener.read(utterances), utterances)
print(f"speech, unseen speakers: {error:.1%}")
assert FAST or error <= 0.1

# %% [markdown]
# And where does it end? Voices outside of everything it was trained on:

# %%
for tract in (1.0, 1.2, 1.4):
    voice = recognition.heard([recognition.Speaker(150, tract)])
    rows = recognition.batch(voice, np.random.default_rng(2), 50, V, longest)
    error = recognition.label_error(listener.read(rows), rows)
    print(f"formants {tract:.1f} times as high: label error {error:.0%}")
assert FAST or error > 0.1

# %% [markdown]
# ## Exercises
#
# 1. Write `alpha_for(steps)` that returns the $\alpha$ with which a leaky unit has half of a pulse
#    left after that many steps.
# 2. Write `flip(xs, lengths)` that takes an array (T, B, D) and turns the first `lengths[b]` steps
#    of every row b round, its padding left where it is: with it a cell that runs forwards becomes
#    the second cell of Fig 10.11.
# 3. Write `edits(a, b)` that returns the least number of insertions, deletions and substitutions
#    that make the list b of the list a: the numerator of the label error.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 12 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def alpha_for(steps):
    return 0.5 ** (1 / steps)


def flip(xs, lengths):
    T = len(xs)
    steps = np.arange(T)[:, None]
    source = np.where(steps < lengths, np.asarray(lengths) - 1 - steps, steps)
    return np.take_along_axis(xs, source[:, :, None], axis=0)


def edits(a, b):
    row = list(range(len(b) + 1))  # row[j]: from what has been read of a to the first j of b
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def check_1(alpha_for):
    for steps in (1, 5, 70):
        alpha, unit = alpha_for(steps), 1.0
        hint = "after n steps a pulse is alpha to the power n of what it was: solve that for 1/2"
        assert isinstance(alpha, float) and 0 < alpha < 1, hint
        for _ in range(steps):
            unit = alpha * unit + (1 - alpha) * 0.0
        assert abs(unit - 0.5) < 1e-9, hint


def check_2(flip):
    xs = np.arange(10.0).reshape(5, 2, 1)
    found = flip(xs.copy(), [5, 2])
    assert isinstance(found, np.ndarray), "return an array"
    assert found.shape == xs.shape, "return an array of the shape that came in"
    assert found[:, 0, 0].tolist() == [8, 6, 4, 2, 0], "a full row is turned round whole"
    hint = "each row turns about its own middle: step t of the first n comes from n - 1 - t"
    assert found[:2, 1, 0].tolist() == [3, 1], hint
    assert found[2:, 1, 0].tolist() == [5, 7, 9], "what lies beyond lengths[b] stays in its place"


def check_3(edits):
    def tried(a, b):  # all ways to go through both lists
        if not a or not b:
            return len(a) + len(b)
        kept = tried(a[1:], b[1:]) + (a[0] != b[0])
        return min(kept, tried(a[1:], b) + 1, tried(a, b[1:]) + 1)

    rng = np.random.default_rng(0)
    cases = [([], []), ([1, 2], []), ([], [3]), ([1, 2, 3], [2, 3, 1]), ([1, 1, 2], [1, 2, 2])]
    cases += [
        tuple(rng.integers(1, 4, n).tolist() for n in rng.integers(0, 6, 2)) for _ in "x" * 20
    ]
    for a, b in cases:
        found = edits(list(a), list(b))
        assert isinstance(found, int | np.integer), "return an integer"
        assert found >= abs(len(a) - len(b)), f"{a}, {b}: what is too long must lose something"
        assert found == tried(a, b), (
            f"{a}, {b}: it takes {tried(a, b)}, not {found}: the last symbols are either matched "
            "(1 if they differ), or one of the two is dropped (1); take the least of the three"
        )


check_1(alpha_for)
check_2(flip)
check_3(edits)
print("exercises: 3 of 3")

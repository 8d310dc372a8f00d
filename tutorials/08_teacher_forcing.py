# %% [markdown]
# # Teacher forcing, recurrence through the output, and where a sequence ends
#
# You will feed a network its own outputs: in training the true ones in their place, all steps at
# once; see what such a network cannot remember, and what an ordinary one cannot say without it;
# measure how errors grow when the teacher leaves; and let a network speak, in frames of real
# numbers, until it decides that it is done.
#
# You need: tutorials 05 and 06. It takes about 20 minutes, of which the machine computes for one.
# It belongs to Fig 10.4 "Recurrence through only the Output", Fig 10.6 "Teacher Forcing", Figs 10.7
# "Fully Connected Graphical Model" and 10.8 "RNN Graphical Model", Fig 10.10 "Hidden and Output
# Recurrence", equations 10.15, 10.16, 10.31 and 10.34, to the slides "RNN with output recurrence"
# and "Sampling from an RNN", and to the application speech generation.

# %%
import itertools
import math
import os
import tempfile
import wave
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Linear
from minigrad_rnn import (
    Categorical,
    DrawnLength,
    Embedded,
    EndSymbol,
    GRUCell,
    Halt,
    HiddenLayer,
    OutputFeedback,
    Readout,
    Remaining,
    RNNCell,
    Sequences,
    Table,
    forcing,
    missing_values,
    unroll,
)
from minigrad_rnn.experiments import generated
from minigrad_rnn.likelihood import padded
from minigrad_rnn.losses import MixtureDensity

mg.set_default_dtype("float64")
FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
rng = np.random.default_rng(0)
print("a small run" if FAST else "the whole run, about a minute")

# %% [markdown]
# ## Recurrence through the output alone
#
# Fig 10.4: $h^{(t)} = \tanh(b + W o^{(t-1)} + U x^{(t)})$ and $o^{(t)} = c + V h^{(t)}$. No arrow
# leads from $h^{(t-1)}$ to $h^{(t)}$: whatever the network knows of the past has passed through
# the output. As a loop:

# %%
T, B, D, H, K = 6, 4, 3, 5, 2
mg.random.seed(0)
hidden, readout = HiddenLayer(D + K, H), Linear(H, K)  # b and [U; W] in one matrix; V and c
xs = mg.Tensor(rng.normal(size=(T, B, D)))
ys = mg.Tensor(rng.normal(size=(T, B, K)))  # the true outputs

o, free = mg.zeros((B, K)), []
for x in xs:
    h, _ = hidden(mg.concatenate([x, o], axis=1))
    o = readout(h)
    free.append(o)

cell = OutputFeedback(hidden, readout)  # the same, as a cell
assert np.allclose(unroll(cell, xs)[0].numpy(), mg.stack(free).numpy(), atol=1e-12)
print("memory beside the last output:", cell.initial_state(B)[0])

# %% [markdown]
# ## Teacher forcing
#
# Fig 10.6: at train time the step sees the *true* output $y^{(t-1)}$, at test time its own. Where
# nothing else leads from step to step, that cuts the loop: every step has all it needs before the
# first is computed, and T steps are one product of matrices.

# %%
before = mg.concatenate([mg.zeros((1, B, K)), ys[:-1]])  # what each step sees: nothing, then y
at_once = readout(hidden(mg.concatenate([xs, before], axis=2))[0])  # (T, B, K), without a loop
forced, _ = forcing.run(cell, xs, ys)  # the library does the same
step_by_step, o = [], mg.zeros((B, K))
for x, y in zip(xs, ys, strict=True):
    h, _ = hidden(mg.concatenate([x, o], axis=1))
    step_by_step.append(readout(h))
    o = y
difference = np.abs(at_once.numpy() - mg.stack(step_by_step).numpy()).max()
print("largest difference:", difference)
assert difference < 1e-12 and np.allclose(forced.numpy(), at_once.numpy(), atol=1e-12)

# %% [markdown]
# The gradient does not go back in time either: which inputs does the last output feel?


# %%
def felt(outputs):
    """Sizes of the gradients of the last output with respect to the T inputs."""
    g = mg.pullback(mg.sum(outputs[-1]), inputs).numpy()
    return np.abs(g).sum(axis=(1, 2))


inputs = mg.Tensor(xs.numpy(), requires_grad=True)
with_teacher, alone = felt(forcing.run(cell, inputs, ys)[0]), felt(unroll(cell, inputs)[0])
print("with the teacher:", with_teacher.round(4))
print("on its own:      ", alone.round(4))
assert (with_teacher[:-1] == 0).all() and (alone > 0).all()

# %% [markdown]
# ## What it cannot remember
#
# The price: what the true outputs do not say, such a network does not know. All strings of T bits
# go in; the answer is 0 at every step but the last, where it is the *first* bit. In between the
# fed back zeros say nothing.


# %%
def train(parameters, loss, updates, rate=0.01, fade=False):
    """Adam; the norm of the whole gradient is at most 1. Returns the last loss."""
    optimizer = mg.optim.Adam(parameters, lr=rate)
    for n in range(updates):
        optimizer.lr = rate * max(0.01, 1 - n / updates) if fade else rate
        optimizer.zero_grad()
        value = loss(n)
        value.backward()
        mg.optim.clip_by_global_norm(parameters, 1.0)
        optimizer.step()
    return value.item()


bits = np.array(list(itertools.product([0, 1], repeat=5))).T  # (T, B): every string
answers = np.zeros_like(bits)
answers[-1] = bits[0]
end = np.broadcast_to(np.arange(5)[:, None] == 4, bits.shape)
xs = mg.Tensor(np.stack([2 * bits - 1, end], axis=2))
ys = F.one_hot(mg.Tensor(answers), 2)
right = {}
for name, make in (("through the output", HiddenLayer), ("between hidden units", RNNCell)):
    mg.random.seed(0)
    cell = OutputFeedback(make(4, 12), Linear(12, 2))

    def loss(n, cell=cell):
        return F.cross_entropy(forcing.run(cell, xs, ys)[0], answers)

    train(cell.parameters(), loss, 20 if FAST else 200)
    guesses = forcing.run(cell, xs, ys)[0][-1].numpy().argmax(axis=1)
    right[name] = (guesses == answers[-1]).mean()
    print(f"recurrence {name}: {right[name]:.0%} of the last answers are right")
assert right["through the output"] <= 0.5
assert FAST or right["between hidden units"] >= 0.99

# %% [markdown]
# ## What an ordinary network cannot say
#
# Fig 10.10 has both arrows, $h^{(t-1)}$ and $y^{(t-1)}$ to $h^{(t)}$. The second is there because
# given $x$ the outputs of Fig 10.3 are *conditionally independent*: no step knows what another
# was drawn to be. Let $y^{(t)} = x^{(t)}$ xor $r$, with one hidden coin $r$ for the whole
# sequence. Each $y$ alone is a coin, so without feedback T steps cost T ln 2 nats, however long
# one trains; with it the first costs ln 2 and tells all others.

# %%
T, LN2 = 5, math.log(2)
strings = np.array(list(itertools.product([0, 1], repeat=T + 1))).T
answers = strings[:-1] ^ strings[-1]
xs = mg.Tensor(2 * strings[:-1, :, None] - 1)
ys = 2 * F.one_hot(mg.Tensor(answers), 2) - 1
nats = {}
for feedback in (False, True):
    mg.random.seed(0)
    inner, layer = RNNCell(3 if feedback else 1, 12), Linear(12, 2)
    cell = OutputFeedback(inner, layer) if feedback else Readout(inner, layer)

    def loss(n, cell=cell, feedback=feedback):
        os = forcing.run(cell, xs, ys)[0] if feedback else unroll(cell, xs)[0]
        return T * F.cross_entropy(os, answers)

    nats[feedback] = train(cell.parameters(), loss, 20 if FAST else 400)
print(f"without feedback {nats[False]:.3f} nats, the floor is {T * LN2:.3f}")
print(f"with feedback    {nats[True]:.3f} nats, the floor is {LN2:.3f}")
assert nats[False] > T * LN2 - 1e-9 and nats[True] > LN2 - 1e-9
assert FAST or (nats[False] < 1.02 * T * LN2 and nats[True] < 1.1 * LN2)

# %% [markdown]
# ## When the teacher leaves
#
# In training the network has seen true outputs only. At test time it sees its own, which are a
# little wrong, and goes on from there. Points on circles of several sizes turn by half a radian a
# step; a network with recurrence through the output learns the step, and is then left alone.


# %%
def circles(B, T):
    """First points (B, 2), and the T that follow, (T, B, 2)."""
    angles = rng.uniform(0, 2 * np.pi, B) + 0.5 * np.arange(T + 1)[:, None]
    radius = rng.uniform(0.4, 1.2, (B, 1))
    points = radius * np.stack([np.cos(angles), np.sin(angles)], axis=2)
    return mg.Tensor(points[0]), mg.Tensor(points[1:])


def errors(cell, share):
    """The root mean squared error at each of 20 steps, fed the true outputs or its own."""
    first, ys = circles(200, 20)
    with mg.no_grad():
        os, _ = forcing.run(cell, None, ys, share, ((), first))
    return np.sqrt(((os.numpy() - ys.numpy()) ** 2).sum(axis=2).mean(axis=1))


def turning(share):
    """Train with the share of true outputs that `share` gives for the n-th update."""
    mg.random.seed(0)
    cell = OutputFeedback(HiddenLayer(2, 6), Linear(6, 2))
    updates, key = 40 if FAST else 400, mg.random.key(0)

    def loss(n):
        first, ys = circles(16, 10)
        done = n / updates
        return F.mse(forcing.run(cell, None, ys, share(done), ((), first), key=key.fold(n))[0], ys)

    train(cell.parameters(), loss, updates, rate=0.02, fade=True)
    return cell


taught = turning(lambda done: 1.0)
forced, free = errors(taught, 1.0), errors(taught, 0.0)
print("error at step       1     5    10    20")
print("with the teacher", " ".join(f"{forced[t - 1]:.3f}" for t in (1, 5, 10, 20)))
print("on its own      ", " ".join(f"{free[t - 1]:.3f}" for t in (1, 5, 10, 20)))
assert abs(free[0] - forced[0]) < 0.01 and forced.max() < 1.5 * forced.min()
assert FAST or free[19] > 3 * forced[19]

# %% [markdown]
# Scheduled sampling (Bengio et al. 2015) takes the true outputs away step by step: here from all
# of them to none at half time. The gradient then goes back in time again, through what was fed.

# %%
weaned = turning(lambda done: forcing.linear_decay(done, start=1.0, slope=2.0))
own = errors(weaned, 0.0)
print("on its own      ", " ".join(f"{own[t - 1]:.3f}" for t in (1, 5, 10, 20)))
assert FAST or own[9] < free[9]

# %% [markdown]
# ## A table of everything, or a state
#
# What is such a network, as a model of probability? Any distribution of a sequence of symbols is a
# product of conditionals, $\prod_t P(y^{(t)} \mid y^{(1)}, \dots, y^{(t-1)})$ (equation 10.31).
# Fig 10.7 draws it: an arrow from every symbol to every later one. Written down
# as a table it needs a row for every beginning there may be:

# %%
k = 3
by_table = {tau: sum(p.size for p in Table(k, tau).parameters()) for tau in (2, 4, 6, 8)}
h, units = Embedded(mg.nn.Embedding(k + 1, 4), GRUCell(4, 8)), Linear(8, k)
by_network = sum(p.size for p in (*h.parameters(), *units.parameters()))
print(f"table: {by_table}; network: {by_network}, whatever the length")
assert by_table[8] == k * (k**8 - 1) // (k - 1) and by_table[8] > 20 * by_network

# %% [markdown]
# Fig 10.8 puts a state between them: every symbol goes into h, h reaches all later symbols, and
# being a *deterministic* function of what came before it adds nothing to be summed over. The
# arrows of Fig 10.7 are all still there, by way of h; so few numbers suffice because each step
# uses the same. What the state does not help with is a gap: to infer a symbol from what comes
# *after* it, all ways to fill the gap have to be tried, $k^n$ for n gaps.

# %%
mg.random.seed(3)
spoken = Sequences(Readout(h, units), Categorical(k))
everything = np.array(list(itertools.product(range(k), repeat=4))).T
joint = np.exp(spoken.log_probability(everything).numpy())
assert abs(joint.sum() - 1) < 1e-12
heard = np.array([2, 0, 0, 1])  # the second and the third were not heard
filled, chances = missing_values(spoken.log_probability, heard, heard == 0, k)
fits = (everything[0] == 2) & (everything[3] == 1)
assert np.abs(chances - joint[fits] / joint[fits].sum()).max() < 1e-12  # Bayes, by enumeration
print(f"{len(filled)} ways to fill two gaps; the likeliest is {filled[chances.argmax()]}")

# %% [markdown]
# ## Where a sequence ends
#
# A network that draws one symbol after the other has to stop somewhere. The book has three rules
# (section 10.2.3.1); `Sequences` joins any cell with any of them:
#
# 1. a special symbol that means the end, `EndSymbol`;
# 2. a unit of its own that says before each element whether to halt, a Bernoulli variable with
#    probability $\sigma(a)$, `Halt`;
# 3. the length $\tau$ is drawn first, $P(x) = P(\tau) P(x \mid \tau)$, and the cell is told
#    $\tau - t$, how many are still to come, `DrawnLength` (equation 10.34).
#
# Whichever it is, the probabilities of *all* sequences sum to 1, lengths included. Untrained
# networks will do to see it: all sequences of up to 5 symbols of two kinds, and the chance that it
# goes on for longer.


# %%
def total(sequences, longest=5):
    """The sum of P over all sequences up to `longest`, and the chance of any longer one."""
    finished = unfinished = 0.0
    for length in range(longest + 2):
        ys = np.array(list(itertools.product([0, 1], repeat=length)), int).T
        if length <= longest:
            finished += np.exp(sequences.log_probability(ys).numpy()).sum()
        else:  # all ways to begin
            unfinished = np.exp(sequences.log_beginning(ys).numpy()).sum()
    return finished, unfinished


def network(V, stop):
    """A GRU that sees its last symbol, the start symbol V at first."""
    symbols = mg.nn.Embedding(V + 1, 4)
    told = isinstance(stop, DrawnLength)
    see = Remaining(symbols, stop.longest) if told else symbols
    cell = Embedded(see, GRUCell(4 + told, 8))
    return Sequences(Readout(cell, Linear(8, stop.units + V)), Categorical(V), stop)


mg.random.seed(0)
rules = {
    "end symbol": network(3, EndSymbol(end=2)),
    "halting unit": network(2, Halt()),
    "drawn length": network(2, DrawnLength(L=7)),
}
for name, sequences in rules.items():
    finished, unfinished = total(sequences)
    print(f"{name}: {finished:.4f} + {unfinished:.4f} = {finished + unfinished:.6f}")
    assert abs(finished + unfinished - 1) < 1e-12

# %% [markdown]
# ## Speech
#
# The end symbol is for symbols. For real numbers there is no number that could be set aside, and
# that is what the halting unit is for. Utterances: vowels, each a pitch with its harmonics shaped
# by two resonances (formants), and a short pause after each. What the network generates are
# frames of 16 ms, each the logarithms of the energies in four bands.

# %%
sound = max((generated.utterance(rng) for _ in range(5)), key=len)
energies = generated.band_energies(sound)
print(f"{len(sound)} samples at {generated.RATE} Hz, {len(energies)} frames")
for band in reversed(range(4)):
    row = energies[:, band]
    levels = "".join(" .:-=+*#"[int(np.clip(2 * v + 1, 0, 7))] for v in row for _ in range(3))
    print(f"{generated.EDGES[band]:4}-{generated.EDGES[band + 1]:4} Hz |{levels}|")
assert energies.shape == (len(sound) // generated.FRAME, 4)
assert 1000 * generated.FRAME / generated.RATE == 16

# %% [markdown]
# The density of a frame, given all before it, is a mixture of Gaussians: one alone could not say
# "this vowel or that one". `Sequences` is the same class as above, only the kind of output has
# changed; in place of the start symbol the cell first sees values louder than any frame.

# %%
heard = [generated.band_energies(generated.utterance(rng)) for _ in range(200 if FAST else 2000)]
frames = np.concatenate(heard)
mean, std = frames.mean(axis=0), frames.std(axis=0)
scaled = [(u - mean) / std for u in heard]
density, H = MixtureDensity(4, D=4), 8 if FAST else 32
mg.random.seed(0)
speech = Sequences(Readout(GRUCell(4, H), Linear(H, 1 + density.size)), density, Halt())


def outside(n):
    return mg.full((n, 4), 3.0)


def speech_loss(n):
    ys, lengths = padded([scaled[i] for i in rng.integers(len(scaled), size=16)])
    log_p = speech.log_probability(ys, lengths, start=outside(16))
    return -mg.sum(log_p) / int(lengths.sum())


first = speech_loss(0).item()
last = train(speech.parameters(), speech_loss, 20 if FAST else 1200, rate=0.02, fade=True)
print(f"nats a frame: {first:.2f} -> {last:.2f}")
assert last < first

# %% [markdown]
# Does it speak like the others? Two questions with one number each, $p$: how likely would so large
# a difference be if there were none? For the energies, Kolmogorov and Smirnov's largest distance
# between two distributions, one frame of each utterance so that the values are independent; for
# the lengths, chi-squared against the law that the data were made by.


# %%
def same_distribution(a, b):
    """p of the Kolmogorov-Smirnov test."""
    places = np.sort(np.concatenate([a, b]))
    gap = [np.searchsorted(np.sort(x), places, side="right") / len(x) for x in (a, b)]
    scale = math.sqrt(len(a) * len(b) / (len(a) + len(b))) * np.abs(gap[0] - gap[1]).max()
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scale) ** 2) for k in range(1, 101))


def law_of_lengths(longest=60):
    """P(length): a sum of as many vowels with pauses as a coin says."""
    vowel = np.zeros(longest + 1)
    vowel[[n + 1 for n in generated.LASTS]] = 1 / len(generated.LASTS)
    law, several = np.zeros(longest + 1), vowel
    for n in range(longest // 2):
        law += generated.ENDS * (1 - generated.ENDS) ** n * several
        several = np.convolve(several, vowel)[: longest + 1]
    return law


n = 50 if FAST else 200
found = speech.sample(n, 60, key=mg.random.key(0), start=outside(n))
lengths = found.lengths.numpy()
spoken = [found.ys.numpy()[:T, b] for b, T in enumerate(lengths) if T]
others = [(generated.band_energies(generated.utterance(rng)) - mean) / std for _ in range(n)]
ours, theirs = (np.array([u[rng.integers(len(u))] for u in us]) for us in (spoken, others))
p = [same_distribution(ours[:, band], theirs[:, band]) for band in range(4)]
print("energies: p =", np.round(p, 3))

law = law_of_lengths()
counts = np.bincount(lengths, minlength=61)
often = n * law >= 5  # rarer lengths count together
counted, expected = (np.append(v[often], v[~often].sum()) for v in (counts, n * law))
statistic, df = ((counted - expected) ** 2 / expected).sum(), len(counted) - 1
bound = df * (1 - 2 / (9 * df) + 2.3263 * math.sqrt(2 / (9 * df))) ** 3  # p = 0.01, to rounding
print(f"lengths: seen {counted}, expected {expected.round(1)}")
print(f"chi-squared {statistic:.1f}, p > 0.01 below {bound:.1f}")
normal = rng.normal(size=(n, 4)) * theirs.std(axis=0) + theirs.mean(axis=0)
naive = [same_distribution(normal[:, band], theirs[:, band]) for band in range(4)]
print("independent normal variables: p =", np.round(naive, 3))
assert FAST or (min(p) > 0.01 and statistic < bound and min(naive) < 0.01)

# %% [markdown]
# Listen to it. A frame says how loud each band is; a tone in the middle of each band, at that
# loudness, will do for a voice.

# %%
chosen = max(spoken, key=len) * std + mean  # log energies (T, 4)
middle = np.array([(a + b) / 2 for a, b in itertools.pairwise(generated.EDGES)])
time = np.arange(len(chosen) * generated.FRAME) / generated.RATE
loudness = np.repeat(10 ** (chosen / 2), generated.FRAME, axis=0)
sound = (loudness * np.sin(2 * np.pi * time[:, None] * middle)).sum(axis=1)
path = Path(tempfile.mkdtemp(prefix="minigrad-")) / "speech.wav"
with wave.open(str(path), "wb") as file:
    file.setparams((1, 2, generated.RATE, 0, "NONE", "not compressed"))
    file.writeframes((sound / np.abs(sound).max() * 32767).astype("<i2").tobytes())
said = generated.band_energies(sound)
agreement = np.corrcoef(said.ravel(), chosen.ravel())[0, 1]
print(f"{len(sound) / generated.RATE:.2f} s in {path}; energies agree with r = {agreement:.3f}")
assert agreement > 0.8

# %% [markdown]
# `minigrad-rnn figure 10.4`, `10.6` and `10.10` draw the wirings of this tutorial.
#
# ## Exercises
#
# 1. Write `seen(ys)`: what the steps see under teacher forcing, for true outputs ys (T, B, K):
#    zeros first, then each step the output before it.
# 2. Write `log_halting(a, log_p)`: log P of one sequence of T elements with a halting unit. a
#    (T + 1,) are the unit's values before its sigmoid, $a^{(t)}$ before element t, the last one
#    after all; log_p (T,) are the elements' log densities.
# 3. Write `mixed_run(step, ys, use)`: the outputs (T, B, K) of a network that is fed the true
#    output where use (T, B) is set and its own elsewhere. step(t, fed) gives the output (B, K) of
#    step t; the first step sees zeros, whatever use says there.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 8 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def seen(ys):
    return np.concatenate([np.zeros_like(ys[:1]), ys[:-1]])


def log_halting(a, log_p):
    goes_on = -np.logaddexp(0, a[:-1])  # log(1 - sigmoid(a))
    return (goes_on + log_p).sum() - np.logaddexp(0, -a[-1])


def mixed_run(step, ys, use):
    outputs = [step(0, np.zeros_like(ys[0]))]
    for t in range(1, len(ys)):
        fed = np.where(use[t][:, None], ys[t - 1], outputs[-1])
        outputs.append(step(t, fed))
    return np.stack(outputs)


def check_close(found, expected, hint):
    """Raise with the hint unless found is what is expected, shape included."""
    found = found.numpy() if isinstance(found, mg.Tensor) else found
    fits = found is not None and np.shape(found) == np.shape(expected)
    assert fits and np.allclose(np.asarray(found, float), expected, atol=1e-6), hint


def check_1(seen):
    ys = np.arange(1.0, 13.0).reshape(3, 2, 2)
    expected = [[[0, 0], [0, 0]], [[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    check_close(
        seen(ys),
        expected,
        "step t sees y of step t - 1, the first step zeros; the last y is seen by none",
    )


def check_2(log_halting):
    halt, p = np.array([0.2, 0.5, 0.9]), np.array([0.3, 0.6])
    expected = math.log(0.8 * 0.3 * 0.5 * 0.6 * 0.9)
    hint = "multiply (1 - sigmoid(a)) p for each element, and sigmoid of the last a for the end"
    check_close(log_halting(np.log(halt / (1 - halt)), np.log(p)), expected, hint)
    check_close(
        log_halting(np.zeros(1), np.zeros(0)), math.log(0.5), "an empty sequence halts at once"
    )
    far = log_halting(np.array([1000.0, 0.0]), np.zeros(1))
    check_close(
        far, -1000 + math.log(0.5), "a = 1000 overflows: log(1 - sigmoid(a)) = -log(1 + e^a)"
    )


def check_3(mixed_run):
    def step(t, fed):
        return 10.0 * fed + t + 1

    ys, use = np.array([[[5.0], [6.0]], [[7.0], [8.0]], [[9.0], [9.0]]]), np.ones((3, 2), bool)
    hint = "use[t] says what step t sees: the true output of step t - 1, or its own of step t - 1"
    check_close(mixed_run(step, ys, ~use), [[[1], [1]], [[12], [12]], [[123], [123]]], hint)
    check_close(mixed_run(step, ys, use), [[[1], [1]], [[52], [62]], [[73], [83]]], hint)
    use[1, 0] = use[2, 1] = False
    check_close(mixed_run(step, ys, use), [[[1], [1]], [[12], [62]], [[73], [623]]], hint)


check_1(seen)
check_2(log_halting)
check_3(mixed_run)
print("exercises: 3 of 3")

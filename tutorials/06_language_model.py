# %% [markdown]
# # A language model: train, score, sample
#
# You will train a recurrent network to predict the next character of a real text, measure it in
# bits per character, compare it with counting, and let it write at several temperatures.
#
# You need: tutorial 05. It takes about 20 minutes, of which the machine computes for one. It
# belongs to the slides "Language Modeling", "Sampling from an RNN" and "Example: Language
# Generation", equations 10.31 to 10.33.

# %%
import math
import os
from collections import Counter

import numpy as np

import minigrad as mg
from minigrad_rnn import LSTMCell, unroll
from minigrad_rnn.text import Vocabulary, batches, default_corpus, split

FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
print("a small run" if FAST else "the whole run, about a minute")

# %% [markdown]
# ## A text
#
# The docstrings of the Python standard library on this machine: English of a kind, and everybody
# who reads this has it. The last twentieth is held out.

# %%
corpus = default_corpus(60_000 if FAST else 300_000)
vocabulary = Vocabulary(corpus.text)
ids = vocabulary.encode(corpus.text)
train_ids, held_out = split(ids)
print(f"{len(ids):,} characters, {len(vocabulary)} distinct")
print(repr(corpus.text[1000:1120]))
assert vocabulary.decode(ids[:50]) == corpus.text[:50]

# %% [markdown]
# ## The probability of a text
#
# $P(y_1, \dots, y_T) = \prod_i P(y_i \mid y_1, \dots, y_{i-1})$. A model of the conditionals is a
# model of texts. Its quality is the mean of $-\log_2 P(y_i \mid \dots)$: the bits per character
# that a coder using it would need. Knowing nothing costs $\log_2$ of the number of characters;
# knowing how frequent each is, the entropy of their distribution; knowing the character before it
# as well, less again.


# %%
def bits_by_counting(order):
    """Bits per character of 5,000 held-out ones, from `order` characters of context, add-one."""
    cut = len(train_ids)
    text, test = corpus.text[:cut], corpus.text[cut - order : cut + 5000]
    pieces = Counter(text[i : i + order + 1] for i in range(len(text) - order))
    contexts = Counter(text[i : i + order] for i in range(len(text) - order))
    V = len(vocabulary)
    total = 0.0
    for i in range(order, len(test)):
        context, piece = test[i - order : i], test[i - order : i + 1]
        total -= math.log2((pieces[piece] + 1) / (contexts[context] + V))
    return total / (len(test) - order)


counted = {order: bits_by_counting(order) for order in (0, 1, 2)}
print(f"uniform {math.log2(len(vocabulary)):.2f}", {k: round(v, 2) for k, v in counted.items()})
assert counted[1] < counted[0] < math.log2(len(vocabulary))

# %% [markdown]
# ## The network
#
# One LSTM between an embedding (a one-hot vector times a matrix is a row of the matrix: a gather)
# and a linear layer that gives the logits of the next character.

# %%
mg.random.seed(0)
H = 64 if FAST else 128


class Model(mg.nn.Module):
    def __init__(self, V, H):
        self.embedding = mg.nn.Embedding(V, H)
        self.cell = LSTMCell(H, H)
        self.readout = mg.nn.Linear(H, V)

    def __call__(self, ids, state):  # ids (T, B) -> logits (T, B, V), state
        hs, state = unroll(self.cell, self.embedding(ids), state)
        return self.readout(hs), state


model = Model(len(vocabulary), H)
print(model)

# %% [markdown]
# ## Training
#
# The text is cut into B streams read side by side, T characters at a time. From one batch to the
# next the *state* is carried on, so that the network may remember for longer than T; its
# *gradient* is not (`detach`): truncated backpropagation through time.

# %%
B, T = (20, 25) if FAST else (32, 50)
steps = 60 if FAST else 500
optimizer = mg.optim.Adam(model.parameters(), lr=5e-3)
state, losses = model.cell.initial_state(B), []
stream = batches(train_ids, B, T)
for _ in range(steps):
    found = next(stream, None)
    if found is None:  # the text is through: start over, from the zero state
        stream, state = batches(train_ids, B, T), model.cell.initial_state(B)
        found = next(stream)
    inputs, targets = found
    logits, state = model(inputs, state)
    loss = mg.functional.cross_entropy(logits, targets)
    optimizer.zero_grad()
    loss.backward()
    mg.optim.clip_by_global_norm(model.parameters(), 5.0)
    optimizer.step()
    state = tuple(part.detach() for part in state)
    losses.append(loss.item() / math.log(2))
print("bits per character:", [round(x, 2) for x in losses[:: max(1, steps // 8)]])
assert losses[-1] < losses[0] - 1.5

# %% [markdown]
# ## Score
#
# On the same held-out text, by the chain rule, in one pass. The network has to do better than
# counting single characters; with the longer training it does better than counting them after one
# or two others, too.


# %%
def score(model, ids):
    """Bits per character from the second character on."""
    with mg.no_grad():
        logits, _ = model(ids[:-1, None], model.cell.initial_state(1))
        nats = mg.functional.cross_entropy(logits, ids[1:, None])
    return nats.item() / math.log(2)


bits = score(model, held_out[:5000])
print(f"{bits:.2f} bits per character")
assert bits < counted[0]
assert FAST or bits < min(counted.values())

# %% [markdown]
# A score can be computed in pieces, as long as the state goes along: the probabilities are the
# same.

# %%
with mg.no_grad():
    whole, _ = model(held_out[:100, None], model.cell.initial_state(1))
    first, state = model(held_out[:60, None], model.cell.initial_state(1))
    rest, _ = model(held_out[60:100, None], state)
difference = np.abs(whole.numpy() - np.concatenate([first.numpy(), rest.numpy()])).max()
print("largest difference:", difference)
assert difference < 1e-4

# %% [markdown]
# ## Sample
#
# Draw a character from the conditional, feed it back, go on. Dividing the logits by a temperature
# before the softmax makes the likely likelier (below 1) or levels it (above 1). The draw for
# character $i$ uses key `fold(i)`: the same weights and the same seed write the same text on every
# backend. (Two trainings on two backends end in weights that differ in their last digits, and a
# text goes its own way at the first close call.)


# %%
def write(model, prime, length, temperature, seed=0):
    key, text = mg.random.key(seed), prime
    state, ids = model.cell.initial_state(1), vocabulary.encode(prime)
    with mg.no_grad():
        for i in range(length):
            logits, state = model(ids[:, None], state)
            ids = mg.random.categorical(key.fold(i), (1,), logits[-1] / temperature).numpy()
            text += vocabulary.decode(ids)
    return text


for temperature in (0.3, 0.7, 1.2):
    print(f"--- temperature {temperature}")
    print(write(model, "Return ", 60 if FAST else 200, temperature))
again = write(model, "Return ", 20, 0.7)
assert again == write(model, "Return ", 20, 0.7)

# %% [markdown]
# The command does all of this with a larger model: `minigrad-rnn train`, then `sample` and
# `score`. What is written out here is there to be called, too: the loop of the training as a
# *gradient schedule*, `minigrad_rnn.TBPTT(T)`, beside `BPTT()`, `Checkpoint(memory)` and `RTRL()`;
# drawing, with beam search as well, in `minigrad_rnn.decode`. And `minigrad-rnn experiment` lists
# what the lectures claim of such networks, each claim put to the test over several seeds.
#
# ## Exercises
#
# 1. Write `alone(model, ids)`: the bits per character of `ids` from the second character on, if
#    each is predicted from the zero state and the one character before it, its context thrown away.
#    Is it as good as counting pairs? (No: in training the state was hardly ever zero.)
# 2. Write `greedy(model, prime, length)`: the text that comes of a temperature near zero, `prime`
#    and then `length` characters, always the likeliest. Why does it repeat itself? (Near the same
#    state the same is likeliest, and nothing else is ever drawn.)
# 3. Write `surprises(model, ids)`: the bits that *each* character costs from the second on, a NumPy
#    array of `len(ids) - 1`, whose mean is the score. Where in a word is the model surprised? (At
#    its first letter.)
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 6 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def alone(model, ids):
    with mg.no_grad():
        n = len(ids) - 1
        logits, _ = model(ids[None, :-1], model.cell.initial_state(n))  # n rows, one step
        return mg.functional.cross_entropy(logits[0], ids[1:]).item() / math.log(2)


def greedy(model, prime, length):
    state, ids, text = model.cell.initial_state(1), vocabulary.encode(prime), prime
    with mg.no_grad():
        for _ in range(length):
            logits, state = model(ids[:, None], state)
            ids = logits[-1].numpy().argmax(axis=-1)
            text += vocabulary.decode(ids)
    return text


def surprises(model, ids):
    with mg.no_grad():
        logits, _ = model(ids[:-1, None], model.cell.initial_state(1))
        nats = mg.functional.cross_entropy(logits[:, 0], ids[1:], reduction="none")
    return nats.numpy() / math.log(2)


def check_1(alone):
    found = alone(model, held_out[:21])
    assert found is not None and np.ndim(found) == 0, "return one number, the bits per character"
    with mg.no_grad():  # one character after the other, from the zero state
        o = [model(held_out[i : i + 1, None], model.cell.initial_state(1))[0] for i in range(20)]
    o = np.array([x.numpy()[0, 0] for x in o], "float64")
    p = np.exp(o - o.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    bits = -np.log2(p[np.arange(20), held_out[1:21]]).mean()
    nats = np.isclose(found, bits * math.log(2), rtol=1e-4)
    assert not nats, "these are nats: divide by log 2"
    assert np.isclose(found, bits, rtol=1e-4), f"{bits:.4f} bits are right, not {found}"


def check_2(greedy):
    text = greedy(model, "Return ", 8)
    assert isinstance(text, str), "return the text"
    assert text.startswith("Return "), "the text begins with the prime"
    assert len(text) == 15, f"8 characters come after the prime, not {len(text) - 7}"
    for i in range(7, 15):  # each again, from the whole text before it
        with mg.no_grad():
            o, _ = model(vocabulary.encode(text[:i])[:, None], model.cell.initial_state(1))
        o = o.numpy()[-1, 0]
        chosen = vocabulary.encode(text[i])[0]
        assert o.max() - o[chosen] < 1e-3, f"{text[i]!r} is not the likeliest after {text[:i]!r}"


def check_3(surprises):
    ids = held_out[:200]
    found = surprises(model, ids)
    assert isinstance(found, np.ndarray), "return a NumPy array: .numpy() of a tensor"
    assert found.shape == (199,), f"one number a character, (199,), not {found.shape}"
    total = "their mean is the score, in bits: divide nats by log 2"
    assert np.isclose(np.mean(found), score(model, ids), rtol=1e-4), total
    for n in (2, 3, 40, 41, 150, 200):  # the last of n characters costs what all cost more
        last = score(model, ids[:n]) * (n - 1) - (
            score(model, ids[: n - 1]) * (n - 2) if n > 2 else 0
        )
        assert np.isclose(found[n - 2], last, atol=1e-2), f"character {n} costs {last:.3f} bits"


check_1(alone)
check_2(greedy)
check_3(surprises)
print("exercises: 3 of 3")

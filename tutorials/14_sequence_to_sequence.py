# %% [markdown]
# # Sequence to sequence: translate, look, search
#
# You will translate between two small languages, first through one vector of fixed size, then
# with attention, whose weights you will see; search for the likeliest translation instead of
# taking word after word; build Google's translation system at the size of a laptop; and learn a
# vector for each of eight languages that shows how they descend from one another.
#
# You need: tutorials 05 and 06. It takes about 20 minutes, of which the machine computes for two.
# It belongs to Fig 10.12 "Sequence to Sequence Architecture" and to the slides "Encoder-Decoder
# Architecture", "Attention", "Google's Neural Machine Translation System", "Language Embeddings",
# "Example: Translation", and "Language Modeling" where it says "word-level".

# %%
import math
import os
import tempfile
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad_rnn import (
    AttentionDecoder,
    AttentionEncoderDecoder,
    BahdanauCell,
    Bidirectional,
    Decoder,
    EncoderDecoder,
    GRUCell,
    MultilingualDecoder,
    beam,
    drawings,
    gnmt,
    languages,
    loaders,
)
from minigrad_rnn.attention import Additive
from minigrad_rnn.experiments import grammar, language_vectors
from minigrad_rnn.language import CharacterModel, bits_per_character, generate
from minigrad_rnn.likelihood import padded
from minigrad_rnn.text import (
    Vocabulary,
    WordVocabulary,
    batches,
    default_corpus,
    split,
)
from minigrad_rnn.wordpieces import WordPieces, bleu

FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
print("a small run" if FAST else "the whole run, about two minutes")

# %% [markdown]
# ## A parallel text
#
# A file with a sentence, a tab and its translation on each line is a parallel text. Ours is made
# by a grammar: English on the left; on the right a language in which the adverb comes first,
# adjectives follow their nouns and verbs end their clauses. To train on a text of yours, give its
# path to `loaders.parallel`. The last 200 lines are the test; no sentence of theirs occurs before
# them.

# %%
rng = np.random.default_rng(0)
made = grammar.sentences(rng, 300 if FAST else 2000, unseen=False, clauses=0.4)
made += grammar.sentences(rng, 200, unseen=True, clauses=0.4)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "pairs.tsv")
    path.write_text("".join(f"{ours}\t{theirs}\n" for ours, theirs in made), "utf-8")
    pairs = loaders.parallel(path)
train, test = pairs[:-200], pairs[-200:]
assert not {ours for ours, _ in train} & {ours for ours, _ in test}
for ours, theirs in train[4:8]:
    print(f"{ours}\n    {theirs}")

# %% [markdown]
# What a network reads and writes are *pieces* of words: it begins with the 256 bytes and merges the
# most frequent neighbours, so that frequent words become one piece, rare ones several, and none is
# unknown. One number more stands for the end.

# %%
pieces = WordPieces.learn([text for pair in train for text in pair], 60 if FAST else 150)
V, END = len(pieces) + 1, len(pieces)
encoded = [pieces.encode(text) for text in ("the red cat", "the red zebra")]
for row in encoded:
    print([pieces.decode([p]) for p in row])
assert pieces.decode(encoded[1]) == "the red zebra"


def arrays(rows):
    """Sources (Tx, B), targets (Ty, B) with the end symbol, and the lengths of both."""
    xs, lengths = padded([pieces.encode(ours) for ours, _ in rows])
    ys, target_lengths = padded([[*pieces.encode(theirs), END] for _, theirs in rows])
    return xs, ys, lengths, target_lengths


# %% [markdown]
# ## One vector (Fig 10.12)
#
# The encoder, a GRU in each direction, reads the source; its last states, side by side, are the
# context $C$. The decoder is conditioned on $C$ and trained to give $\log P(y^{(1)}, \dots,
# y^{(n)} \mid C)$ its largest value, each piece given the true ones before it. Source and target
# have lengths of their own.

# %%
H = 16 if FAST else 32
mg.random.seed(0)
encoder = Bidirectional(GRUCell(H, H), GRUCell(H, H))
decoder = Decoder(V, H, GRUCell(H, 2 * H), 2 * H, Dx=2 * H)
one_vector = EncoderDecoder(encoder, decoder, mg.nn.Embedding(V, H))


def learn(net, updates, rows=train, rate=0.01):
    """Adam on batches of 32 sources of similar length; the rate falls in the second half."""
    rows = sorted(rows, key=lambda pair: len(pair[0]))
    optimizer, draws = mg.optim.Adam(net.parameters(), lr=rate), np.random.default_rng(1)
    losses = []
    for n in range(updates):
        optimizer.lr = rate * min(1.0, 0.1 ** (2 * n / updates - 1))
        at = draws.integers(0, len(rows) - 64)
        chosen = [rows[at + i] for i in draws.choice(64, 32, replace=False)]
        xs, ys, lengths, target_lengths = arrays(chosen)
        log_p = net.log_probability(xs, ys, lengths=lengths, target_lengths=target_lengths)
        loss = -log_p.sum() / int(target_lengths.sum())
        optimizer.zero_grad()
        loss.backward()
        mg.optim.clip_by_global_norm(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    print("nats a piece:", [round(x, 3) for x in losses[:: max(1, updates // 5)]])
    return losses


losses = learn(one_vector, 12 if FAST else 200)
assert losses[-1] < losses[0] - 1

# %% [markdown]
# Two scores of the test: the share of sentences that are *exactly* right, and BLEU, which counts
# the runs of up to four words that a translation shares with the right one.

# %%
STEPS = 8 if FAST else 30  # pieces that a translation may have


def greedy(net, rows):
    """The likeliest piece at each step, given those chosen before."""
    xs, _, lengths, _ = arrays(rows)
    found = net.greedy(xs, STEPS, lengths=lengths).numpy().T.tolist()
    return [pieces.decode(row[: row.index(END)] if END in row else row) for row in found]


def scores(found, wanted):
    exact = np.mean([a == b for a, b in zip(found, wanted, strict=True)])
    return float(exact), bleu([a.split() for a in found], [[b.split()] for b in wanted])


wanted = [grammar.likeliest(ours, theirs) for ours, theirs in test]
vector_exact, vector_bleu = scores(greedy(one_vector, test), wanted)
print(f"one vector: {vector_exact:.0%} exactly right, BLEU {vector_bleu:.2f}")
assert FAST or vector_exact < 0.5

# %% [markdown]
# ## Attention
#
# All that the decoder knows of the source is $C$, whose size does not grow with the sentence.
# Bahdanau's decoder looks at the encoder's outputs $h_j$ at every step instead. With $s$ its own
# state, $e_j = v \cdot \tanh(s W + h_j U)$, $\alpha = \mathrm{softmax}(e)$, and
# $c = \sum_j \alpha_j h_j$ is an input of the step. The keys $h_j U$ do not change, and are
# computed once.

# %%
mg.random.seed(0)
score = Additive(2 * H, 2 * H, H)
looking = BahdanauCell(GRUCell(H + 2 * H, 2 * H), score)
attentive = AttentionEncoderDecoder(
    Bidirectional(GRUCell(H, H), GRUCell(H, H)),
    AttentionDecoder(V, H, looking, 4 * H, 2 * H),
    mg.nn.Embedding(V, H),
)
losses = learn(attentive, 12 if FAST else 200)
exact, shared = scores(greedy(attentive, test), wanted)
print(f"attention: {exact:.0%} exactly right, BLEU {shared:.2f}")
assert FAST or (exact > vector_exact + 0.3 and shared > 0.85)

# %% [markdown]
# The same weights by hand, for the first step of one sentence:

# %%
sentence = "the old dog sees red birds that like trees today"
xs = np.array(pieces.encode(sentence))[:, None]
with mg.no_grad():
    source = attentive.context(xs)
    _, (memory, s, *_) = attentive.decoder.begin(source)
    ys = attentive.greedy(xs, STEPS)
    weights = attentive.alignment(xs, ys).numpy()[:, 0]
h = source.values.numpy()[:, 0]
e = np.tanh(s.numpy()[0] @ score.W.numpy() + h @ score.U.numpy()) @ score.v.numpy()
alpha = np.exp(e - e.max()) / np.exp(e - e.max()).sum()
print("largest difference:", np.abs(alpha - weights[0]).max())
assert np.abs(alpha - weights[0]).max() < 1e-5
assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)

# %% [markdown]
# Row after row, what the decoder looked at while it wrote: the alignment of a translation. Nouns
# and adjectives look at the words that they translate, in another order; a verb looks at its own
# when its object is written; the adverb, first here and last there, looks around.

# %%
row = ys.numpy()[:, 0].tolist()
row = row[: row.index(END) + 1] if END in row else row
out = ["(end)" if p == END else pieces.decode([p]) for p in row]
read = [pieces.decode([p]) for p in xs[:, 0]]
print(" " * 11 + "".join(f"{word.strip()[:2]:2}" for word in read))
for word, line in zip(out, weights, strict=False):
    print(f"{word:>10} " + "".join(" .:-=+*#%@"[int(9.99 * min(weight, 1))] * 2 for weight in line))
seen = {word.strip(): read[w.argmax()].strip() for word, w in zip(out, weights, strict=False)}
aligned = {"hundol": "dog", "birdojn": "birds", "kiu": "that", "shatas": "like"}
assert FAST or sum(seen.get(a) == b for a, b in aligned.items()) >= 3
drawings.alignment(weights[: len(out)], out, read)

# %% [markdown]
# ## Search
#
# Choosing the likeliest piece each time does not find the likeliest sentence. "perhaps" has six
# translations here: `eble` with probability 0.4, and five that begin with `povas`, with 0.12 each.
# A greedy search sees 0.6 for `povas` and takes it. Beam search keeps the `width` likeliest
# beginnings and lets them compete:


# %%
def search(net, rows, width, n_best=1, alpha=0.0, beta=0.0):
    """The n_best hypotheses of each row, by GNMT's score where alpha or beta is given."""
    xs, _, lengths, _ = arrays(rows)
    with mg.no_grad():
        x = net.context(xs, lengths=lengths)
        state, start = net.decoder.begin(x), net.decoder.start(len(rows))
    real = np.arange(len(xs)) < lengths[:, None]
    looked = net.decoder.looked if beta else None
    return beam(
        net.decoder, start, state, end=END, steps=STEPS, width=width, n_best=n_best,
        alpha=alpha, beta=beta, alignment=looked, real=real,
    )  # fmt: skip


doubtful = [pair for pair in test if pair[0].startswith("perhaps")]
print(doubtful[0][0])
best = search(attentive, doubtful[:1], width=8, n_best=4)[0]
for found in best:
    print(f"{math.exp(found.log_probability):.2f}  {pieces.decode(found.symbols)}")
print("greedy:", greedy(attentive, doubtful[:1])[0])
first = [pieces.decode(row[0].symbols).split()[:1] for row in search(attentive, doubtful, 4)]
print(f"eble comes first in {first.count(['eble'])} of {len(first)} translations by a beam of 4")
assert FAST or first.count(["eble"]) > 0.8 * len(first)

# %% [markdown]
# On the whole test, against the likeliest translation of each sentence:

# %%
table = {1: greedy(attentive, test)}
for width in () if FAST else (2, 4):
    found = search(attentive, test, width)
    table[width] = [pieces.decode(row[0].symbols) for row in found]
for width, found in table.items():
    print(f"width {width}: {scores(found, wanted)[0]:.0%} exactly right")
assert FAST or scores(table[4], wanted)[0] > scores(table[1], wanted)[0] + 0.05

# %% [markdown]
# ## Google's system, scaled down
#
# GNMT stacks LSTMs: eight in the encoder, the first of them in both directions; eight in the
# decoder, whose *bottom* layer does the looking, while all its layers see what was found; residual
# connections from the third layer on. Three of each here, on the sentences without a clause in
# them, since so deep a stack learns slowly:

# %%
mg.random.seed(0)
deep = gnmt(V, V, 16 if FAST else 48, 16 if FAST else 48, layers=3)
for name, parameter in deep.named_parameters():
    if name.endswith("Wx"):
        print(f"{name:38} {parameter.shape}")
plain = [pair for pair in test if " that " not in pair[0]]
learn(deep, 6 if FAST else 320, rows=[pair for pair in train if " that " not in pair[0]])
exact, shared = scores(greedy(deep, plain), [grammar.likeliest(*pair) for pair in plain])
print(f"GNMT: {exact:.0%} exactly right, BLEU {shared:.2f}")
assert FAST or shared > 0.6

# %% [markdown]
# Its search compares sentences of different lengths: $\log P$ falls with every piece, so it is
# divided by `lp = ((5 + n) / 6)**alpha` for n pieces; and sources left unread cost
# $cp = \beta \sum_i \log \min(\sum_j p_{ij}, 1)$, with $p_{ij}$ the attention of piece j to source
# piece i. The score is $\log P / lp + cp$.

# %%
for alpha, beta in ((0.0, 0.0), (0.6, 0.2)):
    (found,) = search(deep, plain[:1], width=4, alpha=alpha, beta=beta)[0]
    print(f"alpha {alpha}, beta {beta}: {found.score:.3f}, {pieces.decode(found.symbols)}")
    assert found.score <= 0 and (alpha or found.score == found.log_probability)

# %% [markdown]
# ## Languages as vectors
#
# One model of many languages, told which one it reads by a vector beside every input, learns those
# vectors with everything else. Eight languages descend from one by three generations of changes;
# nobody tells the model which from which. (The other reading of "language embeddings" is a token
# for the language to translate *to*, `minigrad_rnn.languages.with_target`; `minigrad-rnn experiment
# zero_shot` asks whether it can translate between languages that it never saw side by side.)

# %%
mg.random.seed(0)
key = mg.random.key(0).fold(1)
tables, generations = language_vectors.family(key.fold(0), 3)
E = 8
model = MultilingualDecoder(32, 16, GRUCell(16 + E, 48), 48, len(tables), E)
optimizer = mg.optim.Adam(model.parameters(), lr=0.01)
for n in range(10 if FAST else 250):
    ys, spoken = language_vectors.texts(key.fold(1 + n), tables)
    loss = -mg.mean(model.log_probability(ys, spoken)) / len(ys)
    optimizer.zero_grad()
    loss.backward()
    mg.optim.clip_by_global_norm(model.parameters(), 1.0)
    optimizer.step()
apart = languages.distances(model.vectors.W)
print(apart.round(1))
np.fill_diagonal(apart, np.inf)
sisters = int((apart.argmin(axis=1) == np.arange(8) ^ 1).sum())
print(f"{sisters} of 8 have their sister for nearest")
correlation = languages.tree_correlation(model.vectors.W, generations)
print(f"the tree built from distances agrees with the planted one: r = {correlation:.2f}")
assert FAST or (sisters >= 4 and correlation > 0.7)  # by chance: 1, and 0

# %% [markdown]
# Of most languages the sister (0 and 1, 2 and 3, and so on) is the nearest, and nobody said so. The
# last number joins the two nearest groups again and again, and compares the heights at which two
# languages meet with the generations since they were one: the cophenetic correlation.
#
# ## Words in place of characters
#
# A language model needs symbols, and words are symbols. The vocabulary below has the words that
# occur five times, with the space before them, and the characters to spell all others; so it can
# say every text, and its bits can be compared with those of a model of characters: both add up to
# $-\log_2 P$ of the same held-out text.

# %%
corpus = default_corpus(30_000 if FAST else 200_000)
train_text, held_out = split(corpus.text)
held_out = held_out[: 500 if FAST else 4000]
letters = Vocabulary(corpus.text)
words = WordVocabulary(train_text, characters=letters.characters)
bits = {}
for name, vocabulary in (("characters", letters), ("words", words)):
    mg.random.seed(0)
    model = CharacterModel(len(vocabulary), 32 if FAST else 96, layers=1)
    optimizer = mg.optim.Adam(model.parameters(), lr=5e-3)
    ids, updates = vocabulary.encode(train_text), 8 if FAST else 120
    stream, state = iter(()), None
    for _ in range(updates):
        found = next(stream, None)
        if found is None:
            stream, state = batches(ids, 20, 25), model.initial_state(20)
            found = next(stream)
        logits, state = model(found[0], mg.tree.map(lambda s: s.detach(), state))
        loss = mg.functional.cross_entropy(logits, found[1])
        optimizer.zero_grad()
        loss.backward()
        mg.optim.clip_by_global_norm(model.parameters(), 5.0)
        optimizer.step()
    test_ids = vocabulary.encode(held_out)
    characters = len(vocabulary.decode(test_ids[1:]))
    bits[name] = bits_per_character(model, test_ids, characters=characters)
    print(f"{name}: {len(vocabulary)} symbols, {len(test_ids)} of them in {len(held_out)} "
          f"characters, {bits[name]:.2f} bits per character")  # fmt: skip
print(repr("".join(generate(model, vocabulary, "Return", 20 if FAST else 40, temperature=0.7))))
assert FAST or bits["words"] < bits["characters"]

# %% [markdown]
# After equally many updates of equally many symbols the words are ahead: an update sees more text.
#
# ## Exercises
#
# 1. Write `attend(scores, lengths)` that turns scores (B, Tx), a NumPy array, into weights: a
#    softmax over the first `lengths[b]` of each row and exactly 0 beyond, whatever stands there.
# 2. Write `gnmt_score(log_p, attention, alpha, beta)`: the score $\log P / lp + cp$ of one
#    translation, from its log-probability and its attention (Ty, Tx), a row for each piece.
# 3. Write `find(first, follow, steps, width)`: beam search in a chain. `first` (V,) and `follow`
#    (V, V) are log-probabilities, `follow[i, j]` that of j after i. Return the best sequence of
#    `steps` symbols that is found, a list.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 14 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def attend(scores, lengths):
    real = np.arange(scores.shape[1]) < np.asarray(lengths)[:, None]
    e = np.where(real, scores, -np.inf)
    e = np.exp(e - e.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def gnmt_score(log_p, attention, alpha, beta):
    lp = ((5 + len(attention)) / 6) ** alpha
    return log_p / lp + beta * np.log(np.minimum(attention.sum(axis=0), 1)).sum()


def find(first, follow, steps, width):
    live = sorted(((p, [i]) for i, p in enumerate(first)), key=lambda h: -h[0])[:width]
    for _ in range(steps - 1):
        live = [(p + q, [*row, j]) for p, row in live for j, q in enumerate(follow[row[-1]])]
        live = sorted(live, key=lambda h: -h[0])[:width]
    return live[0][1]


def check_1(attend):
    scores = np.array([[1.0, 2.0, np.nan], [0.5, np.inf, 3.0], [0.0, 0.0, 0.0]])
    with np.errstate(all="ignore"):  # a hint says more than a warning
        found = attend(scores, [2, 1, 3])
        large = attend(np.array([[1000.0, 1001.0]]), [2])
    assert np.shape(found) == (3, 3), "return weights of the shape of the scores"
    assert np.all(np.asarray(found)[[0, 1, 1], [2, 1, 2]] == 0), "padding gets exactly 0, NaN too"
    assert np.allclose(np.sum(found, axis=1), 1), "each row sums to 1"
    assert np.allclose(found[0][1] / found[0][0], math.e), "within the length it is a softmax"
    assert np.allclose(large[0][1], 1 / (1 + math.exp(-1))), "subtract the largest score first"


def check_2(gnmt_score):
    attention = np.array([[0.5, 0.25], [0.75, 0.25]])
    found = gnmt_score(-3.0, attention, 0.0, 0.0)
    assert found is not None and np.ndim(found) == 0, "return one number"
    assert math.isclose(found, -3.0), "with alpha = beta = 0 it is log P"
    hint = "alpha: divide log P by ((5 + n) / 6)^alpha, n the number of rows"
    assert math.isclose(gnmt_score(-3.0, attention, 1.0, 0.0), -3.0 * 6 / 7), hint
    hint = "beta: add beta times the sum over columns of log min(their sum, 1)"
    assert math.isclose(gnmt_score(-3.0, attention, 0.0, 2.0), -3.0 + 2 * math.log(0.5)), hint


def check_3(find):
    def found(*arguments):
        row = find(*arguments)
        assert row is not None, "return the best sequence, a list"
        return [int(i) for i in row]

    first = np.log([0.4, 0.6, 1e-9])
    follow = np.log([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]])
    assert found(first, follow, 1, 1) == [1], "one step: the likeliest first symbol"
    assert found(first, follow, 2, 1) == [1, 2], "width 1 is the greedy search"
    assert found(first, follow, 2, 2) == [0, 0], "width 2 keeps the beginning that pays off later"
    draws = np.random.default_rng(3)
    first, follow = (np.log(draws.dirichlet(np.ones(3), n)) for n in (1, 3))
    every = [[i, j, k] for i in range(3) for j in range(3) for k in range(3)]
    best = max(every, key=lambda s: first[0, s[0]] + follow[s[0], s[1]] + follow[s[1], s[2]])
    hint = "a width of all beginnings is an exhaustive search: go through every continuation"
    assert found(first[0], follow, 3, 9) == best, hint


for check, answer in ((check_1, attend), (check_2, gnmt_score), (check_3, find)):
    check(answer)
print("exercises: 3 of 3")

# %% [markdown]
# # Recursive networks: trees in place of chains
#
# You will run one small network over trees: by a recursive function of four lines, and batched
# over many trees of different shapes. You will measure how short the paths become, find the RNN
# among the trees, give every child a gate of its own, and teach the network what "not", "but"
# and "though" do to a phrase, on deeper phrases than it was trained on.
#
# You need: tutorial 05; tutorial 12 helps. It takes about 20 minutes, of which the machine
# computes for less than one. It belongs to Fig 10.14 "Recursive Network" and to the slide
# "Recursive Neural Network" (section 10.6 of the book).

# %%
import math
import os
from itertools import pairwise

import numpy as np

import minigrad as mg
from minigrad_rnn import (
    ChildSumTreeLSTMCell,
    LSTMCell,
    NaryTreeLSTMCell,
    RecursiveCell,
    Tree,
    recurse,
    unroll,
)
from minigrad_rnn.depth import path_length
from minigrad_rnn.recursive import balanced, chain, left_branching, nested, post_order

mg.set_default_dtype("float64")
FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
print("a small run" if FAST else "the whole run, less than a minute")

# %% [markdown]
# ## Fig 10.14
#
# A chain applies the same function at every step; a tree applies it at every *node*. A leaf turns
# an input into a state, $f(V x)$; a node turns the states of its two children into one,
# $f(U h_l + W h_r + b)$; the state of the root is the output o. As a function of nested pairs,
# whose leaves are the numbers of the inputs:

# %%
mg.random.seed(0)
D, H = 3, 8
cell = RecursiveCell(D, H)
V, U, W, b = cell.V, cell.U, cell.W, cell.b
rng = np.random.default_rng(0)
b.assign(0.1 * rng.normal(size=H))
xs = [mg.Tensor(rng.normal(size=(1, D)), requires_grad=True) for _ in range(64)]


def state(tree):
    if isinstance(tree, tuple):
        left, right = tree
        return mg.tanh(state(left) @ U + state(right) @ W + b)
    return mg.tanh(xs[tree] @ V)


figure = ((0, 1), (2, 3))
o = state(figure)
print("o:", o.numpy().round(3)[0, :4], "...")
assert o.shape == (1, H)

# %% [markdown]
# Four leaves and three nodes: V is used four times, U and W three times each. The weights are
# shared over the tree as those of an RNN are over time, and the engine, which knows of neither,
# adds up the contributions of all uses.

# %%
loss = mg.sum(o**2)
uses = {
    name: mg.pullback(loss, weight, split="use").shape[0]
    for name, weight in {"V": V, "U": U, "W": W}.items()
}
print("contributions to the gradient:", uses)
assert uses == {"V": 4, "U": 3, "W": 3}

# %%
for name, weight in {"V": V, "U": U, "W": W, "b": b}.items():
    weight.name = name
picture = mg.draw(state(((0, 1), 2)).sum(), values=False, gradients=False)
assert picture.svg.count("tanh") >= 5
picture

# %% [markdown]
# ## What a tree is good for
#
# The same $\tau$ inputs, from the first to the last: a chain puts up to $\tau$ applications of the
# function between an input and the output; a balanced tree about $\log_2 \tau$, so that what came
# first is not so far away. Count the layers of units between the first input and the root:


# %%
def pairs(tree):
    """A Tree as nested pairs."""
    return tuple(map(pairs, tree.children)) if tree.children else tree.value


print(" tau  balanced  left-branching")
for tau in (4, 8, 16, 64):
    flat = path_length(xs[0], state(pairs(balanced(range(tau)))))
    deep = path_length(xs[0], state(pairs(left_branching(range(tau)))))
    print(f"{tau:4}  {flat:8}  {deep:14}")
    assert flat == 1 + math.log2(tau) and deep == tau

# %% [markdown]
# One of the applications is the leaf's own. The left-branching tree (((0, 1), 2), 3) is a chain in
# disguise: its node takes what has been read so far from the left, with U, and the next word from
# the right, with W. That is the RNN with recurrent matrix U and input matrix W, whose inputs are
# the leaves' $f(V x)$. A plain loop says so:

# %%
h = mg.tanh(xs[0] @ V)
for x in xs[1:10]:
    h = mg.tanh(h @ U + mg.tanh(x @ V) @ W + b)
as_tree = state(pairs(left_branching(range(10))))
assert np.array_equal(h.numpy(), as_tree.numpy())
print("largest difference:", np.abs(h.numpy() - as_tree.numpy()).max())

# %% [markdown]
# Left and right are different: read from right to left, the tree says something else.

# %%
mirrored = state(((3, 2), (1, 0)))
difference = np.abs(mirrored.numpy() - o.numpy()).max()
print(f"largest difference: {difference:.2f}")
assert difference > 0.1

# %% [markdown]
# ## Many trees at once
#
# The recursive function visits one node at a time, and no two trees of a batch look alike. But
# all nodes of the same height can be computed together, over all trees: they are the rows of one
# call. `recurse` sorts them so and calls the cell, `cell(x, states of the children)`, once for
# each kind of node. Here are 40 random trees; a wrapper counts.


# %%
def random_tree(rng, leaves):
    if leaves == 1:
        return int(rng.integers(64))
    cut = int(rng.integers(1, leaves))
    return (random_tree(rng, cut), random_tree(rng, leaves - cut))


shapes = [random_tree(rng, int(rng.integers(1, 13))) for _ in range(40)]
calls = []


def counting(x, children):
    y, new = cell(x, children)
    calls.append(y.shape[0])
    return y, new


inputs = mg.concatenate(xs)
ys, roots = recurse(counting, [nested(shape) for shape in shapes], inputs)
alone = mg.concatenate([state(shape) for shape in shapes])
difference = np.abs(roots.numpy() - alone.numpy()).max()
print(f"{sum(calls)} nodes in {len(calls)} calls; largest difference {difference:.1e}")
assert difference < 1e-12
assert len(calls) < 14 and ys.shape == (sum(calls), H)

# %% [markdown]
# The trees are plain data. They may come from a parser, from brackets in a file, or be made from
# values that were just computed: nothing has to be known before the call.
#
# ## A gate for every child
#
# The Tree-LSTM brings the LSTM's cell into the tree: $c = \sigma(i) \tanh(g) + \sum_k
# \sigma(f_k) c_k$, with a forget gate $f_k$ *for each child*, so that a node can keep one child
# and drop the other. A chain is a tree whose nodes have one child; there it is the LSTM itself:

# %%
lstm, tree_lstm = LSTMCell(D, H), NaryTreeLSTMCell(D, H, N=1)
for ours, theirs in zip(tree_lstm.parameters(), lstm.parameters(), strict=True):
    ours.assign(theirs)
hs, _ = unroll(lstm, inputs[:10].reshape(10, 1, D))
ys, _ = recurse(tree_lstm, chain(range(10)), inputs)
difference = np.abs(ys.numpy() - hs.numpy()[:, 0]).max()
print(f"largest difference: {difference:.1e}")
assert difference < 1e-12

# %% [markdown]
# `NaryTreeLSTMCell` has a matrix for the first child, the second, and so on. Where children have
# no order, `ChildSumTreeLSTMCell` adds them up first, and takes any number of them:

# %%
family = ChildSumTreeLSTMCell(D, H)
for children in ((1, 2, 3), (3, 1, 2)):
    _, (h, c) = recurse(family, Tree(0, tuple(map(Tree, children))), inputs)
    print(children, h.numpy().round(4)[0, :4], "...")
_, (again, _) = recurse(family, Tree(0, tuple(map(Tree, (1, 2, 3)))), inputs)
assert np.abs(h.numpy() - again.numpy()).max() < 1e-12

# %% [markdown]
# ## Learning what words do to phrases
#
# The polarity of a phrase follows its structure. "not" turns a phrase round; in "X but Y" it is Y
# that counts, in "X though Y" it is X. So (not (good but bad)) is positive and ((not good) but
# bad) negative: the words are the same, in the same order. Every node has a label: positive,
# negative, or, for the three little words alone, neither.

# %%
mg.set_default_dtype("float32")
WORDS = ["good", "fine", "great", "bad", "poor", "awful", "not", "but", "though", "(", ")"]
ADJECTIVES, NOT, BUT, THOUGH = 6, 6, 7, 8


def phrase(rng, depth):
    """A phrase as nested pairs of word numbers, `depth` at most."""
    kind = rng.random()
    if depth == 0 or kind < 0.1:
        return int(rng.integers(ADJECTIVES))
    if kind < 0.4:
        return (NOT, phrase(rng, depth - 1))
    joint = BUT if kind < 0.7 else THOUGH
    return (phrase(rng, depth - 1), (joint, phrase(rng, depth - 1)))


def polarity(tree):
    """1 positive, 0 negative, 2 neither."""
    if not isinstance(tree, tuple):
        return 2 if tree >= ADJECTIVES else int(tree < ADJECTIVES // 2)
    left, right = tree
    if left == NOT:
        return 1 - polarity(right)
    if left in (BUT, THOUGH):
        return polarity(right)
    return polarity(right if right[0] == BUT else left)


def text(tree):
    return f"({' '.join(map(text, tree))})" if isinstance(tree, tuple) else WORDS[tree]


for seed in range(3):
    example = phrase(np.random.default_rng(seed), 2)
    print(text(example), "->", ("negative", "positive", "neither")[polarity(example)])
assert polarity((NOT, (0, (BUT, 3)))) == 1 and polarity(((NOT, 0), (BUT, 3))) == 0

# %% [markdown]
# Three networks: the recursive one of the figure, a Tree-LSTM, and, for comparison, an LSTM that
# reads the phrase as text, its brackets among the words, so that it is told as much. The trees
# may be asked at every node, where the chain has an answer at the end alone. (The linear layer
# that answers stands outside the recursion: all nodes in one product.)


# %%
class TreeReader(mg.nn.Module):
    def __init__(self, cell, H):
        self.words, self.cell = mg.nn.Embedding(len(WORDS), H), cell
        self.readout = mg.nn.Linear(H, 3)

    def loss(self, trees, everywhere=True):
        forest = [nested(tree) for tree in trees]
        ys, _ = recurse(self.cell, forest, self.words.W)
        labels = [polarity(pairs(node)) for tree in forest for node in post_order(tree)]
        if not everywhere:
            last = np.cumsum([len(post_order(tree)) for tree in forest]) - 1
            ys, labels = ys[last], np.array(labels)[last]
        return mg.functional.cross_entropy(self.readout(ys), np.array(labels))

    def answers(self, trees):
        forest = [nested(tree) for tree in trees]
        ys, _ = recurse(self.cell, forest, self.words.W)
        return self.readout(ys[np.cumsum([len(post_order(tree)) for tree in forest]) - 1])


class ChainReader(mg.nn.Module):
    def __init__(self, H):
        self.words, self.cell = mg.nn.Embedding(len(WORDS), H), LSTMCell(H, H)
        self.readout = mg.nn.Linear(H, 3)

    def answers(self, trees):
        rows = [
            [WORDS.index(w) for w in text(t).replace("(", "( ").replace(")", " )").split()]
            for t in trees
        ]
        lengths = [len(row) for row in rows]
        tokens = np.array([row + [0] * (max(lengths) - len(row)) for row in rows]).T
        _, (h, _) = unroll(self.cell, self.words(tokens), lengths=lengths)
        return self.readout(h)

    def loss(self, trees):
        labels = np.array([polarity(tree) for tree in trees])
        return mg.functional.cross_entropy(self.answers(trees), labels)


H, B, UPDATES = (12, 16, 16) if FAST else (24, 32, 120)


def train(make, updates=UPDATES, **options):
    mg.random.seed(1)
    rng, model = np.random.default_rng(1), make()
    optimizer = mg.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(updates):
        optimizer.zero_grad()
        model.loss([phrase(rng, 3) for _ in range(B)], **options).backward()
        mg.optim.clip_by_global_norm(model.parameters(), 5.0)
        optimizer.step()
    return model


def score(model, depth, trees=60 if FAST else 300):
    rng = np.random.default_rng(depth)
    asked = [phrase(rng, depth) for _ in range(trees)]
    with mg.no_grad():
        guessed = model.answers(asked).numpy().argmax(axis=1)
    return float(np.mean(guessed == [polarity(tree) for tree in asked]))


readers = {
    "recursive": train(lambda: TreeReader(RecursiveCell(H, H), H)),
    "Tree-LSTM": train(lambda: TreeReader(NaryTreeLSTMCell(H, H), H)),
    "LSTM on text": train(lambda: ChainReader(H)),
}
scores = {name: [score(model, depth) for depth in (2, 3, 5)] for name, model in readers.items()}
print("share of right answers at depth 2, 3 (the deepest in training) and 5:")
for name, row in scores.items():
    print(f"{name:14}", [round(s, 2) for s in row])
assert FAST or min(scores["recursive"][2], scores["Tree-LSTM"][2]) > 0.9
assert FAST or scores["LSTM on text"][2] < scores["Tree-LSTM"][2] - 0.1

# %% [markdown]
# The networks that follow the structure have learned the three little words, and apply them at
# any depth. The chain has to find out first what brackets mean.
#
# What do the labels inside the trees do? Train the Tree-LSTM with them and without, for half as
# long:

# %%
halfway = {}
for everywhere in (True, False):
    reader = train(
        lambda: TreeReader(NaryTreeLSTMCell(H, H), H), UPDATES // 2, everywhere=everywhere
    )
    halfway[everywhere] = score(reader, 3)
print(f"labels at every node {halfway[True]:.2f}, at the roots alone {halfway[False]:.2f}")
assert FAST or halfway[True] > halfway[False] + 0.1

# %% [markdown]
# A phrase taken apart, with the network's opinion of each of its parts:

# %%
example = nested((NOT, ((NOT, 0), (BUT, (3, (THOUGH, 1))))))
parts = post_order(example)
reader = readers["recursive"]
with mg.no_grad():
    ys, _ = recurse(reader.cell, example, reader.words.W)
    opinions = reader.readout(ys).numpy().argmax(axis=1)
for node, opinion in zip(parts, opinions, strict=True):
    print(f"{('negative', 'positive', '-')[opinion]:9}", text(pairs(node)))
right = [polarity(pairs(node)) for node in parts]
assert FAST or np.mean(opinions == right) > 0.9

# %% [markdown]
# ## Exercises
#
# 1. Write `depth(tree)` that returns how many compositions lie between the deepest leaf of nested
#    pairs and the root; a leaf alone has depth 0.
# 2. Write `mirror(tree)` that turns a `Tree` round, left for right at every node. (The
#    recursive network with U and W exchanged cannot tell the mirrored tree from the old one.)
# 3. Write `merge(states, node, score)` that lets the values choose the tree: as long as there is
#    more than one state in the list, put the neighbours with the highest `score(left, right)` (of
#    equal ones, the first) together into `node(left, right)`. Return the tree as nested pairs of
#    positions, 0 for the first state.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 13 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def depth(tree):
    return 1 + max(map(depth, tree)) if isinstance(tree, tuple) else 0


def mirror(tree):
    return Tree(tree.value, tuple(mirror(child) for child in reversed(tree.children)))


def merge(states, node, score):
    states, trees = list(states), list(range(len(states)))
    while len(states) > 1:
        scores = [score(a, b) for a, b in pairwise(states)]
        i = scores.index(max(scores))
        states[i : i + 2] = [node(states[i], states[i + 1])]
        trees[i : i + 2] = [(trees[i], trees[i + 1])]
    return trees[0]


def check_1(depth):
    cases = [(7, 0), ((0, 1), 1), (((0, 1), 2), 2), ((0, (1, ((2, 3), 4))), 4)]
    for tree, expected in cases:
        found = depth(tree)
        assert isinstance(found, int | np.integer), "return an integer"
        assert found == expected, f"{tree}: one more than the deeper child's; a leaf has 0"


def check_2(mirror):
    found = mirror(nested(((0, 1), (2, (3, 4)))))
    assert isinstance(found, Tree), "return a Tree"
    assert found != nested(((2, (3, 4)), (0, 1))), "turn the children's own children round as well"
    assert found == nested((((4, 3), 2), (1, 0))), "the last child first, at every node"
    kept = mirror(Tree(5, (Tree(1), Tree(2), Tree(3))))
    assert kept == Tree(5, (Tree(3), Tree(2), Tree(1))), "a node keeps its value"


def check_3(merge):
    def mean(a, b):
        return (a + b) / 2

    def near(a, b):
        return -abs(a - b)

    assert merge([3.0], mean, near) == 0, "one state is a leaf: its position, 0"
    cases = [
        ([1.0, 2.0, 9.0, 10.5], ((0, 1), (2, 3))),
        ([5.0, 1.0, 1.5, 4.5], (0, ((1, 2), 3))),
        ([0.0, 1.0, 2.0], ((0, 1), 2)),
        ([0.0, 4.0, 6.0, 9.0, 9.5], (0, ((1, 2), (3, 4)))),
    ]
    for states, expected in cases:
        given = list(states)
        found = merge(given, mean, near)
        assert given == states, "do not change the list that came in"
        assert found == expected, (
            f"{states} with means, near ones first: after each merge the new state has neighbours "
            "of its own, so compare again"
        )


check_1(depth)
check_2(mirror)
check_3(merge)
print("exercises: 3 of 3")

"""Rows H4 and H5 of the lectures: language embeddings in three readings, and explicit memory.

Shapes: T time, B batch, H hidden, V symbols, L languages, N cells of M numbers.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad_rnn import languages, memory
from minigrad_rnn.experiments import language_vectors, ntm_copy, zero_shot
from minigrad_rnn.languages import MultilingualDecoder, nearest, with_target
from minigrad_rnn.memory import NTMCell
from minigrad_rnn.patterns import Decoder, HiddenLayer
from tests.recurrent import KINDS, close, gradients, leaf, random_cell, randomise

lecture = pytest.mark.lecture
B, H, N, M = 2, 4, 6, 3


def measure(experiment, variant, seed=0):
    """What a quick run of one variant returns."""
    run = experiment.EXPERIMENT.run(variant, seed, True)
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


# --- H5: explicit memory -------------------------------------------------------------------------


class Puppet:
    """A controller that says what it is told: x moves the heads."""

    def __init__(self, H):
        self.H = H

    def initial_state(self, batch):
        return ()

    def __call__(self, x, state):
        return x[:, : self.H], state


SURE = 1e4  # softmax, sigmoid and softplus of it are 1, 1 and itself, of -SURE 0


def head(key=(0.0,) * M, content=False, shift=0):
    """What moves a head, in the order of `heads`: key, beta, gamma, g, s by -1, 0, 1."""
    return [*key, SURE, SURE, SURE if content else -SURE, *(SURE * np.eye(3)[1 + shift])]


def driven():
    """A machine of one head each whose inputs are what its heads are told."""
    size = 2 * (M + 6) + 2 * M
    cell = NTMCell(Puppet(size), size, N, M, dtype="float64")
    cell.heads.W.assign(np.eye(size))
    cell.heads.b.assign(np.zeros(size))
    return cell


def told(reading, writing, add=None, erase=False):
    """One input: heads, whether the writing head erases, and what it adds."""
    change = [SURE if erase else -SURE] * M
    numbers = [*reading, *writing, *change, *([0.0] * M if add is None else add)]
    return mg.Tensor([numbers], dtype="float64")


@lecture("H5", "weights")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["feed-forward", *KINDS])
@pytest.mark.parametrize("scale", [0.5, 20.0])
def test_weights_of_all_heads_sum_to_one(backend, dtype, kind, scale):
    """At every step, from 0 to 1, with moderate and with saturated heads."""
    rng = np.random.default_rng(1)
    size = 3 + 2 * M
    if kind == "feed-forward":
        controller = HiddenLayer(size, H, dtype=dtype)
    else:
        controller = random_cell(kind, size, H, rng, dtype)
    cell = NTMCell(controller, H, N, M, reads=2, writes=2, dtype=dtype)
    randomise(cell.heads, rng, scale)
    state = cell.initial_state(B)
    for x in mg.Tensor(rng.normal(size=(12, B, 3)), dtype=dtype):
        _, state = cell(x, state)
        weights = state[1].numpy()
        assert weights.min() >= 0
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5 if dtype == "float32" else 1e-13)


@lecture("H5", "write and read")
def test_a_read_after_a_write_returns_the_vector(backend):
    """By content, among other vectors and with a noisy key, once beta is large; and by location."""
    rng = np.random.default_rng(2)
    vectors, cell = rng.normal(size=(N, M)), driven()
    ahead, idle = head(shift=1), head()
    state = cell.initial_state(1)
    for i, v in enumerate(vectors):  # one cell after the other, from the first
        _, state = cell(told(idle, idle if i == 0 else ahead, add=v), state)
    close(state[0][0], vectors)

    for i, v in enumerate(vectors):
        by_content = head(key=3 * v + 0.01 * rng.normal(size=M), content=True)
        y, found = cell(told(by_content, idle), state)
        close(y[0, -M:], v)
        y, _ = cell(told(head(shift=1), idle), found)  # and what was written after it
        close(y[0, -M:], vectors[(i + 1) % N])


@lecture("H5", "write and read")
def test_a_larger_beta_reads_more_exactly(backend):
    rng = np.random.default_rng(3)
    cells = mg.Tensor(rng.normal(size=(1, N, M)))
    v = cells[:, :1]
    errors = []
    for beta in (1.0, 10.0, 100.0, 1000.0):
        w = memory.by_content(v, mg.full((1, 1, 1), beta, "float64"), cells)
        errors.append(float(mg.max(abs(memory.read(cells, w) - v))))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


def test_erasing_leaves_only_what_is_added(backend):
    rng = np.random.default_rng(4)
    old, new = rng.normal(size=(2, M))
    cell, state = driven(), driven().initial_state(1)
    for v in (old, new):
        _, state = cell(told(head(), head(), add=v), state)
    close(state[0][0, 0], old + new)
    _, state = cell(told(head(), head(), add=new, erase=True), state)
    close(state[0][0, 0], new)


@lecture("H5", "gradient")
@pytest.mark.parametrize("steps", [1, 50])
def test_the_gradient_through_a_copied_cell_is_one(backend, steps):
    """d cell(T) / d cell(0) is the identity where no head writes, while one writes elsewhere.

    And so is d read / d written over as many steps.
    """
    rng = np.random.default_rng(5)
    cell, v = driven(), leaf(rng.normal(size=M))
    copied, weights, reads, inner = cell.initial_state(1)
    start = leaf(rng.normal(size=copied.shape))

    begin = told(head(), head())
    begin = mg.concatenate([begin[:, :-M], v.reshape(1, M)], axis=1)  # adds v at the first cell
    _, state = cell(begin, (start, weights, reads, inner))
    _, state = cell(told(head(), head(shift=1)), state)  # moves on to the second
    for _ in range(steps):
        _, state = cell(told(head(), head(), add=rng.normal(size=M), erase=True), state)
    y, state = cell(told(head(), head()), state)

    weight = rng.normal(size=M)
    expected = np.zeros((1, N, M))
    expected[0, 0] = weight
    g_start, g_v = mg.pullback(mg.sum(y[0, -M:] * mg.Tensor(weight)), [start, v])
    close(g_v, weight)
    close(g_start, expected)
    (g_start,) = mg.pullback(mg.sum(state[0][0, 2:]), [start])
    close(g_start[0], np.arange(N)[:, None] >= 2 + np.zeros(M))


@lecture("H5", "quick")
@pytest.mark.long
def test_the_machine_copies_lists_longer_than_any_it_saw(backend):
    """A quick run of the copy experiment, whose bars stand in its file."""
    measures = {v: [measure(ntm_copy, v)] for v in ntm_copy.EXPERIMENT.variants}
    for bar in ntm_copy.EXPERIMENT.quick_bars:
        assert bar.holds(measures), (bar.text, measures)


# --- H4 (i): a token for the target language -----------------------------------------------------


def test_the_token_stands_before_the_sentence(backend):
    xs = np.array([[1, 2], [3, 0]])
    assert with_target(xs, [1, 0], 4).tolist() == [[5, 4], [1, 2], [3, 0]]
    with pytest.raises(mg.ShapeError, match=r"languages of shape \(2,\), .* not \(3,\)"):
        with_target(xs, [0, 0, 0], 4)


@lecture("H4", "zero-shot")
@pytest.mark.long
def test_zero_shot_translation_is_better_than_chance(backend):
    """Of 1,500 words a random one is right in one of ten cases: 0.3 is 25 standard deviations up.

    And no pair of the direction was in training.
    """
    assert not set(zero_shot.SEEN) & set(zero_shot.UNSEEN)
    key = mg.random.key(9)
    xs, ys, target = zero_shot.pairs(key, zero_shot.SEEN, 200)
    source, said = xs[0] // zero_shot.IDEAS, ys[0] // zero_shot.IDEAS
    assert set(zip(source, said, strict=True)) <= set(zero_shot.SEEN)
    np.testing.assert_array_equal(said, target)
    assert measure(zero_shot, "token") >= 0.3


# --- H4 (ii): language vectors -------------------------------------------------------------------

V, D, E, L = 5, 3, 2, 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_language_stands_beside_every_input(backend, kind):
    """The logits of texts equal those of the cell stepped by hand over [E[y], l]; ragged rows."""
    rng = np.random.default_rng(6)
    cell = random_cell(kind, D + E, H, rng)
    model = randomise(MultilingualDecoder(V, D, cell, H, L, E, dtype="float64"), rng)
    ys, spoken, lengths = rng.integers(0, V, (4, B)), np.array([2, 0]), [4, 2]
    W, vectors = model.embedding.W.numpy(), model.vectors.W.numpy()
    total, state = np.zeros(B), cell.initial_state(B)
    before = np.full(B, V)
    for t, y in enumerate(ys):
        x = np.concatenate([W[before], vectors[spoken]], axis=1)
        h, state = cell(mg.Tensor(x), state)
        o = model.readout(h).numpy()
        log_p = o - np.log(np.exp(o).sum(-1, keepdims=True))
        total += np.where(t < np.array(lengths), log_p[np.arange(B), y], 0)
        before = y
    close(model.log_probability(ys, spoken, lengths=lengths), total)

    y, state = model.start(B), model.begin(spoken)  # the decoder as a cell
    logits = model.logits(ys, spoken).numpy()
    for t in range(4):
        o, state = model(y, state)
        close(o, logits[t])
        y = mg.Tensor(ys[t])
    steps = model.greedy(mg.Tensor(spoken), 3)
    close(steps[0], logits[0].argmax(-1), 0)

    found = gradients(mg.sum(model.log_probability(ys, spoken)), model.vectors.W)[0]
    assert found[[0, 2]].all()
    assert not found[1].any()  # nobody spoke it
    assert model.log_probability(ys).shape == (B,)  # in no language


@lecture("H4", "tree")
@pytest.mark.long
def test_vectors_of_languages_reproduce_their_tree(backend):
    assert measure(language_vectors, "trained") > 0.8
    assert measure(language_vectors, "untrained") < 0.5


def test_the_planted_tree(backend):
    """Sisters differ least; the heights count the generations to the common mother."""
    tables, heights = language_vectors.family(mg.random.key(1), 3)
    assert tables.shape == (8, language_vectors.LETTERS)
    assert heights[0].tolist() == [0, 1, 2, 2, 3, 3, 3, 3]
    np.testing.assert_array_equal(heights, heights.T)
    differ = (tables[:, None] != tables).sum(-1)
    assert (differ[heights == 1] <= 2 * language_vectors.MUTATIONS).all()
    assert differ[heights == 1].mean() < differ[heights == 2].mean() < differ[heights == 3].mean()
    letters, spoken = language_vectors.texts(mg.random.key(2), tables)
    follows = tables[spoken, letters[:-1]] == letters[1:]
    assert abs(follows.mean() - (0.85 + 0.15 / language_vectors.LETTERS)) < 0.03


def merged(distance):
    """Average linkage by the definition: the closest two of all partitions' groups, step by step.

    Heights are read off the sets that were joined, distances taken anew from the members.
    """
    groups = {frozenset([i]) for i in range(len(distance))}
    heights = np.zeros(distance.shape)
    while len(groups) > 1:
        a, b = min(
            itertools.combinations(sorted(groups, key=sorted), 2),
            key=lambda ab: np.mean([distance[i, j] for i in ab[0] for j in ab[1]]),
        )
        for i, j in itertools.product(a, b):
            heights[i, j] = heights[j, i] = np.mean([distance[k, m] for k in a for m in b])
        groups = (groups - {a, b}) | {a | b}
    return heights


def test_cophenetic_heights_by_definition_and_of_an_ultrametric():
    rng = np.random.default_rng(7)
    for count in (2, 5, 9):
        distance = languages.distances(rng.normal(size=(count, 3)))
        close(languages.cophenetic(distance), merged(distance))
    _, heights = language_vectors.family(mg.random.key(1), 3)
    close(languages.cophenetic(heights), heights, 0)  # a tree's own heights are its tree


def test_cophenetic_correlation_of_scipy():
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    squareform = pytest.importorskip("scipy.spatial.distance").squareform
    rng = np.random.default_rng(8)
    for count in (3, 8, 16):
        vectors, tree = rng.normal(size=(2, count, 4))
        theirs = hierarchy.cophenet(hierarchy.linkage(vectors, "average"))
        heights = hierarchy.cophenet(hierarchy.linkage(tree, "average"))
        close(languages.cophenetic(languages.distances(vectors)), squareform(theirs))
        r = languages.tree_correlation(mg.Tensor(vectors), squareform(heights))
        close(r, np.corrcoef(theirs, heights)[0, 1])


def test_a_correlation_needs_two_heights():
    with pytest.raises(ValueError, match="must meet at two heights or more"):
        languages.tree_correlation(np.eye(2), np.array([[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="must meet at two heights or more"):
        languages.tree_correlation(np.diag([1.0, 2, 3]), 1 - np.eye(3))


def test_no_language_is_below_0(backend):
    with pytest.raises(mg.IndexRangeError, match="languages are integers from 0, not -1"):
        with_target([[1, 2]], [0, -1], V)
    model = MultilingualDecoder(V, D, rnn.RNNCell(D + E, H), H, L, E)
    with pytest.raises(mg.IndexRangeError, match="languages are integers from 0, not -1"):
        model.log_probability([[1, 2]], [0, -1])


# --- H4 (iii): word embeddings -------------------------------------------------------------------


def test_nearest_neighbours_by_hand(backend):
    vectors = [[1.0, 0.0], [5.0, 1.0], [0.0, 2.0], [-1.0, 0.1], [0.0, 0.0]]
    assert nearest(mg.Tensor(vectors), 2)[:3].tolist() == [[1, 2], [0, 2], [1, 3]]
    with pytest.raises(ValueError, match="5 neighbours need more than 5 vectors"):
        nearest(vectors, 5)


@pytest.mark.long
def test_words_of_one_kind_become_neighbours(backend):
    """Sentences adjective, noun, verb, adverb of random words: the embeddings tell the kinds."""
    kinds, each = 4, 6
    mg.random.seed(0)
    rng = np.random.default_rng(0)
    model = Decoder(kinds * each, 12, rnn.RNNCell(12, 24), 24)
    model.embedding.W.assign(0.1 * model.embedding.W)
    optimizer = mg.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        first = rng.integers(0, kinds, 32)
        kind = (first + np.arange(6)[:, None]) % kinds
        words = kind * each + rng.integers(0, each, kind.shape)
        loss = -mg.mean(model.log_probability(words))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    words = np.arange(kinds * each)
    found = nearest(model.embedding.W[: len(words)], 3)
    assert np.mean(found // each == words[:, None] // each) > 0.9  # 5 of 23 by chance

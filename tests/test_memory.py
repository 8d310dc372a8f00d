"""minigrad_rnn.memory beside its transcription: addressing, the machine as a cell, hops.

Shapes: T time, B batch, D input, H hidden, N cells of M numbers, K heads.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.graph import capture, fingerprint
from minigrad_rnn import memory, unroll
from minigrad_rnn.memory import MemoryNetwork, NTMCell, relevance
from minigrad_rnn.patterns import HiddenLayer
from tests.oracles import memory as oracle
from tests.recurrent import close, gradients, leaf, randomise, same_bits

T, B, D, H, N, M = 3, 2, 3, 4, 5, 3


def positive(rng, *shape):
    """Weights that sum to 1."""
    w = rng.uniform(0.1, 1, shape)
    return w / w.sum(-1, keepdims=True)


def compare_along(g, f, values, name, rng):
    """Demand that g is df/dvalues[name], along a random direction, by a complex step (exact)."""
    direction = rng.normal(size=g.shape)
    slope = f({**values, name: values[name] + 1e-30j * direction}).imag / 1e-30
    close((g * direction).sum(), slope, 1e-10)


# --- addressing ----------------------------------------------------------------------------------

sizes = st.integers(1, 4)


@given(B=sizes, K=sizes, N=st.integers(1, 6), M=sizes, reach=st.integers(0, 2), seed=st.integers(0))
def test_addressing_of_any_shape(B, K, N, M, reach, seed):
    """Eq 2-9 on any number of rows, heads, cells and shifts; one head at a time in the oracle."""
    rng = np.random.default_rng(seed)
    cells, keys = rng.normal(size=(B, N, M)), rng.normal(size=(B, K, M))
    before, s = positive(rng, B, K, N), positive(rng, B, K, 2 * reach + 1)
    beta, gamma = rng.uniform(0, 5, (B, K, 1)), rng.uniform(1, 5, (B, K, 1))
    g, erase, add = rng.uniform(size=(B, K, 1)), rng.uniform(size=(B, K, M)), keys
    w = memory.address(*map(mg.Tensor, (cells, before, keys, beta, g, s, gamma)))
    found = memory.write(mg.Tensor(cells), w, mg.Tensor(erase), mg.Tensor(add))
    got = memory.read(mg.Tensor(cells), w)
    close(mg.sum(w, axis=-1), np.ones((B, K)))
    assert w.numpy().min() >= 0
    for b in range(B):
        expected = np.array(cells[b])
        for k in range(K):
            content = oracle.content(keys[b, k], beta[b, k, 0], cells[b])
            gated = g[b, k] * content + (1 - g[b, k]) * before[b, k]
            shifts = dict(zip(range(-reach, reach + 1), s[b, k], strict=True))
            w_k = oracle.sharpen(oracle.convolve(gated, shifts), gamma[b, k])
            close(w[b, k], w_k, 1e-10)
            close(got[b, k], w_k @ cells[b], 1e-10)
            expected *= 1 - np.outer(w_k, erase[b, k])
        for k in range(K):
            expected += np.outer(w.numpy()[b, k], add[b, k])
        close(found[b], expected, 1e-10)


def test_a_shift_moves_the_head_around_the_ring(backend):
    w = mg.Tensor([[0.0, 0.0, 0.0, 1.0]])
    ahead, back = mg.Tensor([[0.0, 0.0, 1.0]]), mg.Tensor([[1.0, 0.0, 0.0]])
    assert memory.shifted(w, ahead).tolist() == [[1, 0, 0, 0]]
    assert memory.shifted(w, back).tolist() == [[0, 0, 1, 0]]


def test_blank_vectors_resemble_nothing_and_have_finite_gradients(backend):
    """Of length 0 and of length 1e-30, in float32: the cosine is 0, softmax is uniform."""
    for scale in (0.0, 1e-30):
        keys = leaf(scale * np.ones((1, 2, M)), "float32")
        cells = leaf(scale * np.ones((1, N, M)), "float32")
        w = memory.by_content(keys, mg.full((1, 2, 1), 50.0, "float32"), cells)
        np.testing.assert_array_equal(w.numpy(), np.float32(1 / N))
        for g in gradients(mg.sum(w[..., 0]), keys, cells):
            assert np.isfinite(g).all()


def test_sharpening_survives_weights_whose_powers_are_all_too_small(backend):
    """128 nearly equal weights to the power of 60 are below float32's least; zeros stay zero."""
    values = np.full((1, 128), 1 / 128, "float32")
    values[0, :2] = 1.1 / 128, 0
    w, gamma = leaf(values, "float32"), leaf([[60.0]], "float32")
    assert (values**60 == 0).all()
    y = memory.sharpened(w, gamma)
    exact = oracle.sharpen(values[0].astype("float64"), 60.0)
    np.testing.assert_allclose(y.numpy()[0], exact, rtol=1e-4)
    assert y.numpy()[0, 1] == 0
    for g in gradients(mg.sum(y * y), w, gamma):
        assert np.isfinite(g).all()


# --- the machine as a cell -----------------------------------------------------------------------

HEADS = pytest.mark.parametrize(("reads", "writes"), [(1, 1), (2, 1), (1, 3)])


def machine(controller="feed-forward", reads=1, writes=1, seed=0, **options):
    """A machine with random weights, float64."""
    size = D + reads * M
    makes = {
        "feed-forward": HiddenLayer,
        "rnn": rnn.RNNCell,
        "lstm": rnn.LSTMCell,
        "gru": rnn.GRUCell,
        "clockwork": lambda D, H, dtype: rnn.ClockworkCell(D, H, (1, 2), dtype=dtype),
    }
    inner = makes[controller](size, H, dtype="float64")
    cell = NTMCell(inner, H, N, M, reads=reads, writes=writes, dtype="float64", **options)
    return randomise(cell, np.random.default_rng(seed))


def begun(cell, rng, batch=B):
    """A state in the middle of a run, its leaves requiring gradients."""
    *_, inner = cell.initial_state(batch)
    return (
        leaf(rng.normal(size=(batch, N, M))),
        leaf(positive(rng, batch, cell.reads + cell.writes, N)),
        leaf(rng.normal(size=(batch, cell.reads, M))),
        mg.tree.map(lambda s: leaf(0.5 * rng.normal(size=s.shape)), inner),
    )


def paper_heads(cell, W, b):
    """The columns of `heads` by the paper's names, (out, in), reading heads and writing heads."""
    K, S = cell.reads + cell.writes, 2 * cell.reach + 1
    size = M + 3 + S
    cuts = {"k": (0, M), "beta": (M, M + 1), "gamma": (M + 1, M + 2), "g": (M + 2, M + 3)}
    cuts["s"] = (M + 3, size)
    heads = [{n: (k * size + i, k * size + j) for n, (i, j) in cuts.items()} for k in range(K)]
    for w, head in enumerate(heads[cell.reads :]):
        start = K * size + w * 2 * M
        head |= {"e": (start, start + M), "a": (start + M, start + 2 * M)}
    named = [
        {"W_" + n: W[:, i:j].T for n, (i, j) in h.items()}
        | {"b_" + n: b[i:j] for n, (i, j) in h.items()}
        for h in heads
    ]
    return named[: cell.reads], named[cell.reads :]


def transcribed(cell, values, row, states=None):
    """y (T, ...) and the last state of one row by the oracle, from arrays by name."""
    reading, writing = paper_heads(cell, values["heads.W"], values["heads.b"])

    def controller(x, h):
        a = x @ values["controller.Wx"] + values["controller.b"]
        if h is not None:
            a = a + h @ values["controller.Wh"]
        h = np.tanh(a)
        return h, None if "controller.Wh" not in values else h

    weights = values["weights"][row]
    inner = values["inner"][row] if "inner" in values else None
    split = list(weights[: cell.reads]), list(weights[cell.reads :])
    state = (values["memory"][row], *split, list(values["reads"][row]), inner)
    ys = []
    for x in values["x"][:, row]:
        y, state = oracle.step(controller, reading, writing, x, state)
        ys.append(y)
    return np.array(ys), state


@HEADS
@pytest.mark.parametrize("controller", ["feed-forward", "rnn"])
def test_the_machine_transcribed(backend, controller, reads, writes):
    """Values, the last state and all gradients, for several heads, in the middle of a run."""
    rng = np.random.default_rng(1)
    cell = machine(controller, reads, writes)
    xs, state = leaf(rng.normal(size=(T, B, D))), begun(cell, rng)
    ys, last = unroll(cell, xs, state)
    assert ys.shape == (T, B, H + reads * M)

    leaves = {"x": xs, "memory": state[0], "weights": state[1], "reads": state[2]}
    if controller == "rnn":
        leaves["inner"] = state[3]
    leaves |= dict(cell.named_parameters())
    values = {name: x.numpy() for name, x in leaves.items()}
    for row in range(B):
        y, (cells, rs, ws, got, _) = transcribed(cell, values, row)
        close(ys[:, row], y)
        close(last[0][row], cells)
        close(last[1][row], [*rs, *ws])
        close(last[2][row], got)

    weight = rng.normal(size=ys.shape)
    found = gradients(mg.sum(ys * mg.Tensor(weight)), list(leaves.values()))

    def loss(arrays):
        return sum((transcribed(cell, arrays, b)[0] * weight[:, b]).sum() for b in range(B))

    for name, g in zip(leaves, found, strict=True):
        compare_along(g, loss, values, name, rng)


@HEADS
def test_no_row_and_no_later_step_reaches_an_output(backend, reads, writes):
    """d y(t, b) / d x(s, c) is 0 unless b = c and s <= t, and not 0 there (row A8)."""
    rng = np.random.default_rng(2)
    cell = machine("lstm", reads, writes)
    x = mg.Tensor(rng.normal(size=(T, B, D)))
    J = mg.jacobian(lambda x: unroll(cell, x)[0][..., -M:])(x).numpy()
    t, b, s, c = np.ogrid[:T, :B, :T, :B]
    np.testing.assert_array_equal((J != 0).any(axis=(2, 5)), (b == c) & (s <= t))


@pytest.mark.parametrize("controller", ["feed-forward", "rnn", "lstm", "gru", "clockwork"])
def test_any_controller_in_any_wiring(backend, controller):
    """Ragged rows equal the rows alone; stacks, residuals and both directions take the machine."""
    rng = np.random.default_rng(3)
    cell = machine(controller)
    xs = mg.Tensor(rng.normal(size=(T, B, D)))
    ys, last = unroll(cell, xs, lengths=[T, 2])
    alone, state = unroll(cell, xs[:2, 1:])
    close(ys[:2, 1], alone.numpy()[:, 0])
    for a, b in zip(mg.tree.flatten(last)[0], mg.tree.flatten(state)[0], strict=True):
        close(a[1:], b.numpy())

    top = rnn.RNNCell(H + M, D, dtype="float64")
    ys, _ = unroll(rnn.Residual(rnn.Stack([cell, top])), xs)
    assert ys.shape == (T, B, D)
    ys, _ = rnn.Bidirectional(cell, machine(seed=4))(xs)
    assert ys.shape == (T, B, 2 * (H + M))


def test_it_begins_blank_with_all_heads_at_the_first_cell(backend):
    cell = machine(reads=2)
    cells, weights, reads, _ = cell.initial_state(B)
    assert not cells.numpy().any()
    assert not reads.numpy().any()
    np.testing.assert_array_equal(weights.numpy(), np.eye(N)[np.zeros((B, 3), int)])
    ys, _ = unroll(cell, mg.Tensor(np.zeros((20, B, D))))
    assert np.isfinite(ys.numpy()).all()


def test_truncated_training_goes_on_from_the_memory(backend):
    """A schedule takes the machine like any cell: with the longest window it changes nothing."""
    rng = np.random.default_rng(5)
    cell, xs = machine("gru"), mg.Tensor(rng.normal(size=(T, B, D)))
    targets = mg.Tensor(rng.normal(size=(T, B, H + M)))

    def loss(ys, targets):
        return mg.sum((ys - targets) ** 2)

    found = []
    for schedule in (rnn.BPTT(), rnn.TBPTT(2, T)):
        for p in cell.parameters():
            p.grad = None
        schedule(cell, loss, xs, targets)
        found.append([p.grad.numpy() for p in cell.parameters()])
    for a, b in zip(*found, strict=True):
        close(a, b)


def test_the_machine_folds(backend):
    """Its steps are one loop, and unfolding gives the same graph back, gradients included."""
    rng = np.random.default_rng(9)
    cell, xs = machine("lstm", 2, 2), leaf(rng.normal(size=(6, B, D)))

    def backwards(xs):
        return mg.pullback(mg.mean(unroll(cell, xs)[0] ** 2), [*cell.parameters(), xs])

    for f, loops in ((lambda xs: unroll(cell, xs), 1), (backwards, 2)):
        folded = mg.fold(f, xs)
        assert sum(loop.trips >= 4 for loop in folded.loops()) == loops
        assert not folded.notes
        assert fingerprint(mg.unfold(folded)) == fingerprint(capture(f, xs).graph)


def test_wrong_sizes(backend):
    with pytest.raises(ValueError, match=r"reach=2: .* N > 4"):
        NTMCell(HiddenLayer(D + M, H), H, 4, M, reach=2)
    with pytest.raises(ValueError, match="writes=0"):
        machine(writes=0)
    cell = NTMCell(HiddenLayer(D + M, H + 1), H, N, M)
    with pytest.raises(mg.ShapeError, match=r"output has shape \(2, 5\), .* H = 4"):
        cell(mg.zeros((B, D)), cell.initial_state(B))


# --- memory networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("tying", ["adjacent", "layer"])
@pytest.mark.parametrize("hops", [1, 3])
def test_hops_transcribed(backend, tying, hops):
    """Values and gradients, facts of different number in each row."""
    rng = np.random.default_rng(6)
    net = randomise(MemoryNetwork(D, H, hops, tying, dtype="float64"), rng)
    facts, query, lengths = leaf(rng.normal(size=(5, B, D))), leaf(rng.normal(size=(B, H))), [5, 2]
    u = net(facts, query, lengths=lengths)
    leaves = {"facts": facts, "query": query} | dict(net.named_parameters())
    values = {name: x.numpy() for name, x in leaves.items()}
    weight = rng.normal(size=(B, H))

    def expected(arrays, b):
        E = [arrays[f"embed.{i}"].T for i in range(len(net.embed))]
        A, C = (E[:-1], E[1:]) if tying == "adjacent" else ([E[0]] * hops, [E[1]] * hops)
        U = arrays["U"].T if tying == "layer" else None
        return oracle.hops(arrays["facts"][: lengths[b], b], arrays["query"][b], A, C, U)

    for b in range(B):
        close(u[b], expected(values, b))
    found = gradients(mg.sum(u * mg.Tensor(weight)), list(leaves.values()))

    def loss(arrays):
        return sum((expected(arrays, b) * weight[b]).sum() for b in range(B))

    for name, g in zip(leaves, found, strict=True):
        compare_along(g, loss, values, name, rng)


def test_padding_never_reaches_a_memory_network(backend):
    """NaN where no facts are changes no bit; a row without facts keeps its query."""
    rng = np.random.default_rng(7)
    net, query = MemoryNetwork(D, H, dtype="float64"), leaf(rng.normal(size=(3, H)))
    facts = rng.normal(size=(4, 3, D))
    results = []
    for value in (0.0, np.nan):
        facts[2:, 1], facts[:, 2] = value, value
        u = net(mg.Tensor(facts), query, lengths=[4, 2, 0])
        results.append((u, [mg.Tensor(g) for g in gradients(mg.sum(u), query, net.parameters())]))
    same_bits(*results)
    close(results[0][0][2], query.numpy()[2], 0)


def test_two_hops_answer_what_takes_two_facts(backend):
    """Facts that point on: one hop reaches the next fact's name, the second what that one says.

    By hand, no training: key and value of a fact are the two halves of its vector, in one-hot.
    """
    names, H2 = 4, 8
    net = MemoryNetwork(2 * names, H2, hops=2, tying="layer", dtype="float64")
    key, value = np.zeros((2 * names, H2)), np.zeros((2 * names, H2))
    key[:names, :names] = 50 * np.eye(names)
    value[names:, :names] = np.eye(names)
    net.embed[0].assign(key)
    net.embed[1].assign(value)
    net.U.assign(np.zeros((H2, H2)))
    facts = np.zeros((names, 1, 2 * names))
    successor = [2, 0, 3, 1]
    for i, j in enumerate(successor):
        facts[i, 0, i] = facts[i, 0, names + j] = 1
    for i in range(names):
        query = mg.Tensor(np.eye(H2)[[i]])
        assert net(facts, query).numpy()[0].argmax() == successor[successor[i]]


def test_relevance_sums_to_one_over_the_real_facts(backend):
    rng = np.random.default_rng(8)
    u, m = mg.Tensor(rng.normal(size=(B, H))), mg.Tensor(rng.normal(size=(4, B, H)))
    valid = mg.Tensor(np.arange(4)[:, None] < np.array([4, 2]))
    p = relevance(u, m, valid).numpy()
    np.testing.assert_allclose(p.sum(0), 1, rtol=1e-12)
    assert not p[2:, 1].any()


def test_a_memory_network_names_what_does_not_fit(backend):
    with pytest.raises(ValueError, match="tying='none'"):
        MemoryNetwork(D, H, tying="none")
    with pytest.raises(mg.ShapeError, match=r"facts \(N, B, D\) and a query \(B, 4\)"):
        MemoryNetwork(D, H)(mg.zeros((5, B, D)), mg.zeros((B, H + 1)))


@pytest.mark.parametrize("tying", memory.TYINGS)
def test_no_facts_at_all_are_rows_without_facts(backend, tying):
    net, query = MemoryNetwork(3, 4, tying=tying), mg.random.normal(mg.random.key(1), (2, 4))
    nothing = net(mg.zeros((0, 2, 3)), query)
    same_bits(nothing, net(mg.ones((5, 2, 3)), query, lengths=[0, 0]))

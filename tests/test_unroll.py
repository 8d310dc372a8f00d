"""unroll: ragged rows, masks, resets, both directions, nests, and what it refuses."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad_rnn import unroll
from tests.oracles import ragged
from tests.recurrent import (
    KINDS,
    close,
    gradients,
    leaf,
    oracle_parameters,
    plain_for,
    random_cell,
    random_state,
    same_bits,
)

T, B, D, H = 5, 4, 3, 4
ALL = pytest.mark.parametrize("kind", KINDS)


def reference(kind, cell, xs, state, **options):
    """The oracle's ys and state, its parts a flat tuple."""
    parameters = oracle_parameters(kind, cell)
    zero = tuple(np.zeros(s.shape) for s in tree.flatten(state)[0])
    return ragged.unroll(
        lambda x, s: KINDS[kind].step(parameters, x, s),
        xs.numpy(),
        tuple(s.numpy() for s in tree.flatten(state)[0]),
        initial=zero,
        **options,
    )


def rows_alone(cell, xs, state, real, resets, reverse):
    """ys and state from runs of one row at a time, a plain `for` over its real steps."""
    columns, finals = [], []
    for b in range(xs.shape[1]):
        row = tree.map(lambda s, b=b: s[b : b + 1], state)
        ys = [None] * xs.shape[0]
        for t in reversed(range(xs.shape[0])) if reverse else range(xs.shape[0]):
            if real[t, b]:
                if resets[t, b]:
                    row = cell.initial_state(1)
                ys[t], row = cell(xs[t][b : b + 1], row)
        blank = mg.zeros((1, cell.H), dtype="float64")
        columns.append(mg.stack([blank if y is None else y for y in ys]))
        finals.append(row)
    return mg.concatenate(columns, axis=1), tree.map(lambda *s: mg.concatenate(s), *finals)


def weighted(ys, state, seed=0):
    """One number that depends on every y and on every part of the state."""
    rng = np.random.default_rng(seed)
    parts = tree.flatten((ys, state))[0]
    return sum(mg.sum(part * mg.Tensor(rng.normal(size=part.shape))) for part in parts)


# --- values and gradients ------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("reverse", [False, True])
def test_equals_the_transcription_with_lengths(backend, kind, reverse):
    rng = np.random.default_rng(1)
    cell = random_cell(kind, D, H, rng)
    xs, state = leaf(rng.normal(size=(T, B, D))), random_state(cell, B, rng)
    lengths = [3, 0, 5, 1]
    ys, final = unroll(cell, xs, state, lengths=lengths, reverse=reverse)
    expected, parts = reference(kind, cell, xs, state, lengths=lengths, reverse=reverse)
    close(ys, expected)
    for ours, part in zip(tree.flatten(final)[0], parts, strict=True):
        close(ours, part)


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), reverse=st.booleans(), share=st.sampled_from([0.0, 0.3, 0.8]))
def test_any_mask_and_resets_equal_runs_of_single_rows(backend, seed, reverse, share):
    rng = np.random.default_rng(seed)
    kind = ["rnn", "lstm", "gru", "gru before"][seed % 4]
    T, B = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    cell = random_cell(kind, 2, 3, rng)
    xs, state = leaf(rng.normal(size=(T, B, 2))), random_state(cell, B, rng)
    mask, resets = rng.random((T, B)) >= share, rng.random((T, B)) < 0.3
    found = unroll(cell, xs, state, mask=mask, resets=resets, reverse=reverse)
    expected, parts = reference(kind, cell, xs, state, mask=mask, resets=resets, reverse=reverse)
    close(found[0], expected)
    for ours, part in zip(tree.flatten(found[1])[0], parts, strict=True):
        close(ours, part)

    alone = rows_alone(cell, xs, state, mask, resets, reverse)
    wanted = gradients(weighted(*alone), cell.parameters(), xs, state)
    got = gradients(weighted(*found), cell.parameters(), xs, state)
    for ours, theirs in zip(got, wanted, strict=True):
        close(ours, theirs)


@ALL
def test_the_padding_changes_no_bit(backend, kind):
    """NaN and infinity in the padding: values, states and gradients stay as with zeros there."""
    rng = np.random.default_rng(2)
    cell = random_cell(kind, D, H, rng)
    mask = rng.random((T, B)) < 0.6
    clean = np.where(mask[:, :, None], rng.normal(size=(T, B, D)), 0.0)
    results = []
    for dirt in (0.0, np.nan, np.inf, -1e300):
        xs = leaf(np.where(mask[:, :, None], clean, dirt))
        state = random_state(cell, B, np.random.default_rng(3))
        ys, final = unroll(cell, xs, state, mask=mask)
        assert not ys.numpy()[~mask].any()
        grads = gradients(weighted(ys, final), xs, state, cell.parameters())
        assert (grads[0][~mask] == 0).all()
        assert grads[0][mask].any(axis=-1).all()
        results.append([ys.numpy(), *(s.numpy() for s in tree.flatten(final)[0]), *grads])
    for others in zip(*results, strict=True):
        assert len({array.tobytes() for array in others}) == 1


@ALL
def test_other_rows_change_no_bit_of_a_row(backend, kind):
    rng = np.random.default_rng(4)
    cell = random_cell(kind, D, H, rng)
    first = rng.normal(size=(T, B, D))
    second = first.copy()
    second[:, 1:] = rng.normal(size=(T, B - 1, D))
    ys, others = (unroll(cell, mg.Tensor(x))[0].numpy() for x in (first, second))
    assert ys[:, 0].tobytes() == others[:, 0].tobytes()
    assert (ys[:, 1:] != others[:, 1:]).any(axis=-1).all()


def test_a_gradient_of_nan_on_the_padding_goes_nowhere(backend):
    rng = np.random.default_rng(5)
    cell = random_cell("lstm", D, H, rng)
    xs, mask = leaf(rng.normal(size=(T, B, D))), rng.random((T, B)) < 0.5
    ys, _ = unroll(cell, xs, mask=mask)
    weight = np.where(mask, 1.0, np.nan)[:, :, None] * np.ones(H)
    ys.backward(weight)
    assert all(np.isfinite(p.grad.numpy()).all() for p in [*cell.parameters(), xs])


def test_a_reset_at_a_masked_step_does_nothing(backend):
    rng = np.random.default_rng(6)
    cell = random_cell("gru", D, H, rng)
    xs, state = mg.Tensor(rng.normal(size=(T, B, D))), random_state(cell, B, rng)
    mask = np.ones((T, B), bool)
    mask[2, 0] = False
    resets = np.zeros((T, B), bool)
    resets[2, 0] = True
    same_bits(unroll(cell, xs, state, mask=mask, resets=resets), unroll(cell, xs, state, mask=mask))
    resets[2, 1] = True
    ys, _ = unroll(cell, xs, state, mask=mask, resets=resets)
    fresh, _ = unroll(cell, xs[2:, 1:2], None)
    close(ys[2:, 1:2], fresh.numpy())


@ALL
def test_resets_split_a_stream_into_sequences(backend, kind):
    rng = np.random.default_rng(7)
    cell = random_cell(kind, D, H, rng)
    xs = leaf(rng.normal(size=(6, 2, D)))
    resets = np.zeros((6, 2), bool)
    resets[2], resets[5] = True, True
    ys, final = unroll(cell, xs, random_state(cell, 2, rng), resets=resets)
    pieces = [unroll(cell, xs[a:b], None) for a, b in ((2, 5), (5, 6))]
    close(ys[2:], mg.concatenate([piece[0] for piece in pieces]).numpy())
    same_bits(final, pieces[-1][1])
    x_gradient = gradients(mg.sum(ys[3] ** 2), xs)[0]
    assert not x_gradient[:2].any()
    assert x_gradient[2:4].any(axis=(1, 2)).all()


def test_resets_bring_back_a_learned_state_with_its_gradient(backend):
    rng = np.random.default_rng(8)
    cell = rnn.LearnedState(random_cell("lstm", D, H, rng))
    for part in cell.start:
        part.assign(rng.normal(size=part.shape))
    xs = mg.Tensor(rng.normal(size=(3, 2, D)))
    resets = np.array([[False, False], [True, False], [False, True]])
    given_state = (mg.zeros((2, H), dtype="float64"), mg.zeros((2, H), dtype="float64"))
    found = gradients(mg.sum(unroll(cell, xs, given_state, resets=resets)[0]), cell.start)
    one = unroll(cell, xs[1:, :1])[0]
    two = unroll(cell, xs[2:, 1:])[0]
    for ours, theirs in zip(found, gradients(mg.sum(one) + mg.sum(two), cell.start), strict=True):
        close(ours, theirs)


def test_reverse_is_the_forward_run_on_flipped_rows(backend):
    rng = np.random.default_rng(9)
    cell = random_cell("lstm", D, H, rng)
    xs = mg.Tensor(rng.normal(size=(T, B, D)))
    ys, final = unroll(cell, xs, reverse=True)
    flipped, same = unroll(cell, mg.flip(xs, 0))
    same_bits((mg.flip(ys, 0), final), (flipped, same))


def test_lengths_as_list_array_and_tensor(backend):
    cell = random_cell("rnn", D, H, np.random.default_rng(10))
    xs = mg.ones((T, 2, D), dtype="float64")
    mask = np.arange(T)[:, None] < np.array([2, 5])
    wanted = unroll(cell, xs, mask=mask)
    for lengths in ([2, 5], np.array([2, 5], "int32"), mg.Tensor([2, 5])):
        same_bits(unroll(cell, xs, lengths=lengths), wanted)
    same_bits(unroll(cell, xs, mask=mg.Tensor(mask)), wanted)


# --- nests, functions, edges ---------------------------------------------------------------------


def test_nests_of_inputs_and_states(backend):
    """A plain function of a dict with token ids, a nested state and a nest of outputs."""
    rng = np.random.default_rng(11)
    W, E = leaf(rng.normal(size=(D, H))), leaf(rng.normal(size=(7, H)))

    def f(x, state):
        count, (h,) = state["count"], state["h"]
        h = mg.tanh(x["features"] @ W + E[x["token"]] + h)
        return (h, {"twice": 2 * h}), {"count": count + 1, "h": (h,)}

    xs = {
        "features": leaf(rng.normal(size=(T, B, D))),
        "token": mg.Tensor(rng.integers(0, 7, (T, B))),
    }
    start = {"count": mg.zeros((B,), dtype="int64"), "h": (leaf(rng.normal(size=(B, H))),)}
    (ys, more), final = unroll(f, xs, start)
    assert final["count"].tolist() == [T] * B

    rows = [{"features": xs["features"][t], "token": xs["token"][t]} for t in range(T)]
    pairs, states = plain_for(f, rows, start)
    same_bits(ys, mg.stack([y for y, _ in pairs]))
    same_bits(more["twice"], mg.stack([y["twice"] for _, y in pairs]))
    same_bits(final, states[-1])

    lengths = [2, 0, 5, 4]
    dirty = {
        "features": mg.where(
            mg.Tensor(np.arange(T)[:, None, None] < np.array(lengths)[:, None]),
            xs["features"],
            np.nan,
        ),
        "token": xs["token"],
    }
    (ys, _), final = unroll(f, dirty, start, lengths=lengths)
    assert final["count"].tolist() == lengths
    assert np.isfinite(ys.numpy()).all()
    same_bits(final["h"][0][1], start["h"][0][1])


def test_without_inputs(backend):
    W = leaf([[0.5, -1.0], [0.25, 1.0]])
    s0 = leaf([[1.0, 2.0], [0.0, -1.0], [3.0, 1.0]])

    def f(x, s):
        assert x is None
        return s @ W, s @ W

    ys, final = unroll(f, None, s0, steps=3)
    power = np.linalg.matrix_power(W.numpy(), 3)
    close(final, s0.numpy() @ power)
    same_bits(ys[-1], final)
    ys, final = unroll(f, None, s0, lengths=[3, 1, 0], steps=3)
    close(final[0], s0.numpy()[0] @ power)
    same_bits(final[2], s0[2])
    backwards, _ = unroll(f, None, s0, steps=3, reverse=True)
    close(backwards[0], s0.numpy() @ power)


@ALL
def test_no_steps_and_no_rows(backend, kind):
    rng = np.random.default_rng(12)
    cell = random_cell(kind, D, H, rng)
    state = random_state(cell, B, rng)
    ys, final = unroll(cell, mg.zeros((0, B, D), dtype="float64"), state)
    assert ys.shape == (0, B, H)
    assert ys.dtype == "float64"
    same_bits(final, state)
    ys, final = unroll(cell, mg.zeros((T, 0, D), dtype="float64"), lengths=[])
    assert ys.shape == (T, 0, H)
    assert {s.shape for s in tree.flatten(final)[0]} == {(0, H)}
    mg.sum(ys).backward()
    assert not cell.Wh.grad.numpy().any()
    ys, final = unroll(lambda x, s: (s, s), None, mg.ones((B, 2)), steps=0)
    assert ys.shape == (0, B, 2)
    assert final.shape == (B, 2)


def test_no_steps_in_any_row(backend):
    rng = np.random.default_rng(13)
    cell = random_cell("lstm", D, H, rng)
    state = random_state(cell, B, rng)
    xs = leaf(rng.normal(size=(T, B, D)))
    ys, final = unroll(cell, xs, state, lengths=[0] * B)
    same_bits(final, state)
    assert not ys.numpy().any()
    for g in gradients(weighted(ys, mg.sum(final[0])), xs, cell.parameters()):
        assert (g == 0).all()


def test_arrays_join_the_cells_backend(backend):
    cell = random_cell("gru", D, H, np.random.default_rng(14))
    xs = np.random.default_rng(15).normal(size=(T, B, D))
    with mg.use_backend("numpy"):
        ys, _ = unroll(cell, xs)
    assert ys.backend is cell.Wh.backend
    same_bits(ys, unroll(cell, mg.Tensor(xs))[0])


def test_many_steps_need_no_recursion(backend):
    cell = random_cell("rnn", 1, 1, np.random.default_rng(16))
    xs = leaf(np.ones((3_000, 1, 1)))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        mg.sum(unroll(cell, xs)[0]).backward()
    finally:
        sys.setrecursionlimit(limit)
    assert np.isfinite(xs.grad.numpy()).all()


# --- what it refuses -----------------------------------------------------------------------------

X = (T, B, D)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"lengths": [1, 2]}, mg.ShapeError, r"lengths are 4 integers.* int64 of shape \(2,\)"),
        ({"lengths": [1.0, 2, 3, 4]}, mg.ShapeError, "4 integers, one a row, not float64"),
        ({"lengths": [1, 2, -1, 4]}, ValueError, "row 2 has length -1.* between 0 and 5"),
        ({"lengths": [1, 6, 3, 4]}, ValueError, "row 1 has length 6"),
        ({"lengths": [1] * 4, "mask": np.ones((T, B), bool)}, ValueError, "lengths or mask, not"),
        ({"mask": np.ones((B, T), bool)}, mg.ShapeError, r"mask is bool .* \(5, 4\).* \(4, 5\)"),
        ({"mask": np.ones((T, B))}, mg.ShapeError, "mask is bool of shape .*not float64"),
        ({"resets": np.ones(T, bool)}, mg.ShapeError, r"resets is bool .*shape \(5,\)"),
        ({"steps": 4}, ValueError, "steps=4, but the inputs have 5"),
    ],
)
def test_bad_options(backend, options, kind, message):
    cell = rnn.LSTMCell(D, H)
    with pytest.raises(kind, match=message):
        unroll(cell, mg.zeros(X), **options)


def test_bad_inputs_and_states(backend):
    cell = rnn.LSTMCell(D, H)
    with pytest.raises(mg.ShapeError, match=r"the 3 features that the cell was made for"):
        unroll(cell, mg.zeros((T, B, D + 1)))
    with pytest.raises(mg.ShapeError, match=r"inputs are tensors \(T, B, ...\), not \(5,\)"):
        unroll(cell, mg.zeros((T,)))
    with pytest.raises(mg.ShapeError, match="not a str"):
        unroll(cell, "text")
    with pytest.raises(mg.ShapeError, match=r"\(5, 4, 3\) and \(5, 2, 3\) differ in T or B"):
        unroll(lambda x, s: (x[0], s), (mg.zeros(X), mg.zeros((T, 2, D))), mg.zeros((B, H)))
    with pytest.raises(mg.ShapeError, match=r"state of shapes \[\(4, 4\), \(4, 4\)\], got \[\(1,"):
        unroll(cell, mg.zeros(X), cell.initial_state(1))
    with pytest.raises(mg.ShapeError, match=r"expects a state of shapes .*, got \[\(4, 4\)\]"):
        unroll(cell, mg.zeros(X), mg.zeros((B, H)))
    with pytest.raises(ValueError, match=r"no initial_state\(batch\); pass state="):
        unroll(lambda x, s: (x, s), mg.zeros(X))
    with pytest.raises(ValueError, match="without inputs, give steps="):
        unroll(cell, None)
    with pytest.raises(ValueError, match="steps=-1: give an integer >= 0"):
        unroll(cell, None, steps=-1)


class OnlyH:
    """Returns h where (h, h) is due: with a batch of 2 its rows would pass for y and the state."""

    def initial_state(self, batch):
        return mg.zeros((batch, H))

    def __call__(self, x, h):
        return mg.tanh(h + x[:, :1])


@pytest.mark.parametrize("B", [2, 4])
@pytest.mark.parametrize("wrap", [lambda c: c, rnn.Residual, lambda c: rnn.Stack([c])])
def test_a_cell_that_returns_no_pair_is_named(wrap, B):
    words = r"OnlyH returned Tensor: a cell returns the pair \(y, state\)"
    for options in ({}, {"lengths": [1] * B}, {"ids": range(B)}):
        with pytest.raises(TypeError, match=words):
            unroll(wrap(OnlyH()), mg.zeros((T, B, D)), **options)
    with pytest.raises(TypeError, match=words):
        unroll(wrap(OnlyH()), mg.zeros((0, B, D)))
    with pytest.raises(TypeError, match="returned a tuple of 3"):
        unroll(lambda x, h: (h, h, h), mg.zeros((T, B, D)), mg.zeros((B, H)))


def test_a_state_that_changes_is_reported_with_its_step():
    def widens(x, state):
        h, n = state
        return h, (mg.concatenate([h, h], axis=-1) if x.numpy()[0, 0] == 3 else h, n)

    xs = mg.Tensor(np.broadcast_to(np.arange(T)[:, None, None], (T, B, D)).astype("float32"))
    state = (mg.zeros((B, H)), mg.zeros((B, 1)))
    words = r"part 0 of the state of widens changes from \(4, 4\) to \(4, 8\) at step 3"
    with pytest.raises(mg.ShapeError, match=words):
        unroll(widens, xs, state)
    with pytest.raises(mg.ShapeError, match="at step 3"):
        unroll(widens, xs, state, lengths=[T] * B)
    with pytest.raises(mg.ShapeError, match=r"state of <lambda> .* 2 parts to 1 parts at step 0"):
        unroll(lambda x, s: (s[0], s[0]), xs, state)

"""Stack, Residual, the states, and the layers, against chains of transcriptions and PyTorch."""

import copy
import pickle

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad_rnn import unroll
from tests.recurrent import (
    KINDS,
    chain_backward,
    chain_forward,
    close,
    compare_with_torch,
    gradients,
    leaf,
    oracle_parameters,
    packed,
    random_cell,
    random_state,
    randomise,
    same_bits,
    torch_layers,
)

T, B, D, H = 5, 3, 4, 4
TORCH = pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])


def host(state):
    """The parts of a cell's state as float64 arrays."""
    return [part.numpy() for part in tree.flatten(state)[0]]


# --- Stack, Residual -----------------------------------------------------------------------------


def test_a_stack_of_different_cells_and_sizes(backend):
    rng = np.random.default_rng(1)
    kinds, sizes = ["lstm", "gru", "rnn"], [4, 5, 3, 2]
    cells = [random_cell(k, a, b, rng) for k, a, b in zip(kinds, sizes, sizes[1:], strict=False)]
    stack = rnn.Stack(cells)
    xs, state = leaf(rng.normal(size=(T, B, 4))), random_state(stack, B, rng)
    weights = [oracle_parameters(k, cell) for k, cell in zip(kinds, cells, strict=True)]
    parts = [host(s) for s in state]
    ys, final = unroll(stack, xs, state)
    traces = chain_forward(kinds, weights, xs.numpy(), parts)
    close(ys, traces[-1]["h"])
    for kind, ours, trace in zip(kinds, final, traces, strict=True):
        for name, part in zip(KINDS[kind].parts, tree.flatten(ours)[0], strict=True):
            close(part, trace[name][-1])

    weight = rng.normal(size=ys.shape)
    found = gradients(mg.sum(ys * mg.Tensor(weight)), xs, state, cells[0].parameters())
    results = chain_backward(kinds, weights, xs.numpy(), weight, parts)
    close(found[0], results[0]["x"])
    starts = [r[f"{p}0"] for k, r in zip(kinds, results, strict=True) for p in KINDS[k].parts]
    for ours, expected in zip(
        found[1:], [*starts, *packed("lstm", results[0]).values()], strict=True
    ):
        close(ours, expected)
    for kind, cell, result in zip(kinds, cells, results, strict=True):
        for name, expected in packed(kind, result).items():
            close(getattr(cell, name).grad, expected)


def test_names_and_repr_of_a_stack(backend):
    stack = rnn.Stack([rnn.LSTMCell(2, 3), rnn.GRUCell(3, 3)])
    names = [name for name, _ in stack.named_parameters()]
    assert names == [f"cells.{i}.{p}" for i, p in [(0, "Wx"), (0, "Wh"), (0, "b")]] + [
        f"cells.1.{p}" for p in ("Wx", "Wh", "b", "bh")
    ]
    assert "cells.0: LSTMCell, 72 parameters" in repr(stack)


def test_dropout_acts_between_cells_while_training(backend):
    rng = np.random.default_rng(2)
    cells = [random_cell("rnn", H, H, rng) for _ in range(3)]
    stack = rnn.Stack(cells, dropout=0.5)
    bare = rnn.Stack(cells)
    xs = mg.Tensor(rng.normal(size=(T, B, H)))
    mg.random.seed(3)
    ys, _ = unroll(stack, xs)
    again, _ = unroll(stack, xs)
    assert (ys.numpy() != again.numpy()).any()
    mg.random.seed(3)
    same_bits(ys, unroll(stack, xs)[0])
    same_bits(unroll(stack.eval(), xs)[0], unroll(bare, xs)[0])

    # all dropped: only the bottom cell sees x, and the bottom's output is never dropped itself
    ys, (bottom, *_) = unroll(rnn.Stack(cells, dropout=1.0), xs)
    same_bits(bottom, unroll(cells[0], xs)[1])
    same_bits(ys, unroll(cells[2], mg.zeros_like(xs))[0])


def test_residual_adds_the_input(backend):
    rng = np.random.default_rng(4)
    cell = random_cell("lstm", H, H, rng)
    xs = leaf(rng.normal(size=(T, B, H)))
    ys, final = unroll(rnn.Residual(cell), xs)
    inner, state = unroll(cell, xs)
    close(ys, inner.numpy() + xs.numpy(), 0)
    same_bits(final, state)
    weight = rng.normal(size=ys.shape)
    through, inside = (gradients(mg.sum(y * mg.Tensor(weight)), xs)[0] for y in (ys, inner))
    close(through, inside + weight)
    with pytest.raises(mg.ShapeError, match=r"Residual: input \(3, 4\) and output \(3, 5\)"):
        unroll(rnn.Residual(rnn.RNNCell(4, 5)), mg.zeros((T, B, 4)))


# --- states --------------------------------------------------------------------------------------


def test_emit_state_returns_every_state(backend):
    rng = np.random.default_rng(5)
    cell = random_cell("lstm", D, H, rng)
    xs, start = mg.Tensor(rng.normal(size=(T, B, D))), random_state(cell, B, rng)
    (ys, (hs, cs)), final = unroll(rnn.EmitState(cell), xs, start)
    [trace] = chain_forward(["lstm"], [oracle_parameters("lstm", cell)], xs.numpy(), [host(start)])
    close(ys, trace["h"])
    close(hs, trace["h"])
    close(cs, trace["c"])
    same_bits(final, (hs[-1], cs[-1]))


def test_learned_state_starts_as_the_cells_own_and_is_learned(backend):
    rng = np.random.default_rng(6)
    cell = random_cell("lstm", D, H, rng)
    learned = rnn.LearnedState(cell)
    xs = mg.Tensor(rng.normal(size=(T, B, D)))
    same_bits(unroll(learned, xs), unroll(cell, xs))
    assert [name for name, _ in learned.named_parameters()][-2:] == ["start.0", "start.1"]
    assert [p.shape for p in learned.start] == [(1, H), (1, H)]

    randomise(learned, rng)
    state = random_state(cell, B, rng)
    for part, start in zip(state, learned.start, strict=True):
        part.assign(np.repeat(start.numpy(), B, axis=0))
    ours = gradients(mg.sum(unroll(learned, xs)[0]), learned.start)
    rows = gradients(mg.sum(unroll(cell, xs, state)[0]), state)
    for gradient, per_row in zip(ours, rows, strict=True):
        close(gradient, per_row.sum(axis=0, keepdims=True))


def test_a_learned_state_is_copied_and_pickled(backend):
    learned = rnn.LearnedState(random_cell("lstm", D, H, np.random.default_rng(7)))
    for other in (copy.deepcopy(learned), pickle.loads(pickle.dumps(learned))):
        assert other.start[0] is not learned.start[0]
        same_bits(other.initial_state(B), learned.initial_state(B))


def test_noisy_state_only_while_training(backend):
    cell = random_cell("lstm", D, 50, np.random.default_rng(7))
    noisy = rnn.NoisyState(cell, std=0.25)
    mg.random.seed(1)
    h, c = noisy.initial_state(40)
    assert h.dtype == "float64"
    assert (h.numpy() != c.numpy()).all()
    for part in (h, c):
        assert abs(part.numpy().std() - 0.25) < 0.01
        assert abs(part.numpy().mean()) < 0.02
    assert (noisy.initial_state(40)[0].numpy() != h.numpy()).all()
    noisy.eval()
    same_bits(noisy.initial_state(2), cell.initial_state(2))


# --- layers --------------------------------------------------------------------------------------


@TORCH
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 5, 1]])
def test_equals_torch(backend, kind, layers, bidirectional, lengths):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    net, cells = torch_layers(torch, kind, D, H, layers, bidirectional, seed=layers)
    directions = 1 + bidirectional
    x, weight = rng.normal(size=(T, B, D)), rng.normal(size=(T, B, directions * H))
    parts = KINDS[kind].parts
    starts = [rng.normal(size=(layers * directions, B, H)) for _ in parts]
    last = [rng.normal(size=(layers * directions, B, H)) for _ in parts]

    x_t = torch.tensor(x, requires_grad=True)
    starts_t = [torch.tensor(s, requires_grad=True) for s in starts]
    rnn_utils, fed = torch.nn.utils.rnn, x_t
    if lengths:
        fed = rnn_utils.pack_padded_sequence(x_t, torch.tensor(lengths), enforce_sorted=False)
    y_t, final_t = net(fed, tuple(starts_t) if kind == "lstm" else starts_t[0])
    if lengths:
        y_t, _ = rnn_utils.pad_packed_sequence(y_t, total_length=T)
    finals_t = final_t if kind == "lstm" else (final_t,)
    loss = (y_t * torch.tensor(weight)).sum()
    for part, w in zip(finals_t, last, strict=True):
        loss = loss + (part * torch.tensor(w)).sum()
    loss.backward()

    x_m = leaf(x)
    starts_m = [[leaf(s[i]) for s in starts] for i in range(layers * directions)]
    states = [tuple(s) if kind == "lstm" else s[0] for s in starts_m]
    if bidirectional:
        states = list(zip(states[::2], states[1::2], strict=True))
    net_m = rnn.Layers([rnn.Bidirectional(*pair) if bidirectional else pair[0] for pair in cells])
    ys, final = net_m(x_m, tuple(states), lengths=lengths)
    close(ys, y_t.detach().numpy())
    loss = mg.sum(ys * mg.Tensor(weight))
    flat = tree.flatten(final)[0]
    for i, part in enumerate(flat):
        row, which = divmod(i, len(parts))
        close(part, finals_t[which].detach().numpy()[row])
        loss = loss + mg.sum(part * mg.Tensor(last[which][row]))
    loss.backward()
    close(x_m.grad, x_t.grad.numpy())
    for row, state in enumerate(starts_m):
        for ours, theirs in zip(state, starts_t, strict=True):
            close(ours.grad, theirs.grad.numpy()[row])
    compare_with_torch(kind, net, cells)
    if not bidirectional:
        stacked = rnn.Stack([pair[0] for pair in cells])
        close(unroll(stacked, x_m, tuple(states), lengths=lengths)[0], ys.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_bidirectional_equals_two_transcriptions_on_ragged_rows(backend, kind):
    """The backward oracle runs over each row turned round within its own length."""
    rng = np.random.default_rng(9)
    pair = [random_cell(kind, D, H, rng) for _ in range(2)]
    lengths = [3, 5, 0]
    xs, weight = leaf(rng.normal(size=(T, B, D))), rng.normal(size=(T, B, 2 * H))
    state = tuple(random_state(cell, B, rng) for cell in pair)
    ys, final = rnn.Bidirectional(*pair)(xs, state, lengths=lengths)
    found = gradients(
        mg.sum(ys * mg.Tensor(weight)), xs, state, [cell.parameters() for cell in pair]
    )

    want_y, want_x = np.zeros(ys.shape), np.zeros(xs.shape)
    total = [{name: 0.0 for name, _ in cell.named_parameters()} for cell in pair]
    for b, n in enumerate(lengths):
        for way, cell in enumerate(pair):
            order, columns = slice(None, None, -1 if way else 1), slice(way * H, way * H + H)
            x = xs.numpy()[:n, b : b + 1][order]
            parameters, start = (
                oracle_parameters(kind, cell),
                [s[b : b + 1] for s in host(state[way])],
            )
            end = start
            if n:
                [trace] = chain_forward([kind], [parameters], x, [start])
                direct = weight[:n, b : b + 1, columns][order]
                [result] = chain_backward([kind], [parameters], x, direct, [start])
                want_y[:n, b : b + 1, columns] = trace["h"][order]
                want_x[:n, b : b + 1] += result["x"][order]
                for name, value in packed(kind, result).items():
                    total[way][name] = total[way][name] + value
                end = [trace[part][-1] for part in KINDS[kind].parts]
            for ours, part in zip(host(final[way]), end, strict=True):
                close(ours[b : b + 1], part)
    close(ys, want_y)
    close(found[0], want_x)
    count = sum(len(total[way]) for way in (0, 1))
    expected = [value for part in total for value in part.values()]
    for ours, value in zip(found[-count:], expected, strict=True):
        close(ours, value)


def test_merge_modes(backend):
    rng = np.random.default_rng(10)
    pair = [random_cell("gru", D, H, rng) for _ in range(2)]
    xs = mg.Tensor(rng.normal(size=(T, B, D)))
    (h, g), states = rnn.Bidirectional(*pair, merge=None)(xs)
    same_bits((h, states[0]), unroll(pair[0], xs))
    same_bits((g, states[1]), unroll(pair[1], xs, reverse=True))
    h, g = h.numpy(), g.numpy()
    merged = {"concat": np.concatenate([h, g], axis=-1), "sum": h + g, "mul": h * g}
    for merge, expected in {**merged, "ave": (h + g) / 2}.items():
        close(rnn.Bidirectional(*pair, merge=merge)(xs)[0], expected, 1e-15)


@pytest.mark.parametrize("holes", [False, True])
def test_resets_separate_sequences_in_both_directions(backend, holes):
    """Two sequences in one row equal two calls, also where padding lies between and after them."""
    rng = np.random.default_rng(11)
    layer = rnn.Bidirectional(*(random_cell("lstm", D, H, rng) for _ in range(2)))
    one, two = (mg.Tensor(rng.normal(size=(n, 1, D))) for n in (3, 4))
    blank = mg.Tensor(np.full((2, 1, D), np.nan))
    pieces = [one, blank, two, blank] if holes else [one, two]
    starts = np.concatenate([np.arange(len(p)) == 0 for p in pieces])[:, None]
    real = np.concatenate([np.full(len(p), p is not blank) for p in pieces])[:, None]
    state = tuple(random_state(layer.forward, 1, rng) for _ in range(2))
    ys, (ahead, behind) = layer(
        mg.concatenate(pieces), state, mask=real if holes else None, resets=starts & True
    )
    zero = layer.forward.initial_state(1)
    first, (_, first_behind) = layer(one, (zero, zero))
    second, (second_ahead, _) = layer(two, (zero, state[1]))
    found = ys.numpy()[real[:, 0]]
    close(found[:3], first.numpy())
    close(found[3:], second.numpy())
    same_bits((ahead, behind), (second_ahead, first_behind))


def test_layers_of_bidirectional_and_cells(backend):
    rng = np.random.default_rng(12)
    pair = [random_cell("lstm", D, H, rng) for _ in range(2)]
    top = random_cell("gru", 2 * H, 3, rng)
    xs, lengths = mg.Tensor(rng.normal(size=(T, B, D))), [5, 2, 4]
    ys, states = rnn.Layers([rnn.Bidirectional(*pair), top])(xs, lengths=lengths)
    middle, below = rnn.Bidirectional(*pair)(xs, lengths=lengths)
    same_bits((ys, states), (unroll(top, middle, lengths=lengths)[0], (below, states[1])))
    assert ys.shape == (T, B, 3)
    again, _ = rnn.Layers([rnn.Bidirectional(*pair), top], dropout=0.5).eval()(xs, lengths=lengths)
    same_bits(ys, again)
    backwards, _ = rnn.Recurrent(top, reverse=True)(middle, lengths=lengths)
    same_bits(backwards, unroll(top, middle, lengths=lengths, reverse=True)[0])


# --- bad arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda c: rnn.Stack([]), "at least one cell"),
        (lambda c: rnn.Stack([c, c], dropout=1.5), r"dropout=1\.5: give a number in \[0, 1\]"),
        (lambda c: rnn.Stack([c], dropout=0.5), "dropout acts between cells, and there is only"),
        (lambda c: rnn.Layers([]), "at least one layer"),
        (lambda c: rnn.Layers([c], dropout=0.5), "dropout acts between layers"),
        (lambda c: rnn.Layers([c, c], dropout="x"), "dropout='x': give a number"),
        (lambda c: rnn.Bidirectional(c, c), "need a cell each"),
        (lambda c: rnn.Bidirectional(c, rnn.RNNCell(2, 2), merge="max"), "not 'max'"),
        (lambda c: rnn.NoisyState(c, -1), "std=-1: give a number >= 0"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build(rnn.RNNCell(2, 2))


def test_states_of_other_shapes(backend):
    cells = [rnn.RNNCell(2, 2), rnn.RNNCell(2, 3)]
    xs = mg.zeros((T, B, 2))
    with pytest.raises(mg.ShapeError, match=r"expects a state of shapes \[\(3, 2\), \(3, 3\)\]"):
        unroll(rnn.Stack(cells), xs, (mg.zeros((B, 2)),))
    with pytest.raises(mg.ShapeError, match="Stack: 2 cells got a state of 1 parts"):
        rnn.Stack(cells)(xs[0], (mg.zeros((B, 2)),))
    with pytest.raises(mg.ShapeError, match="Layers: 2 layers got a state of 1 parts"):
        rnn.Layers(cells)(xs, (mg.zeros((B, 2)),))


def test_a_given_state_leaves_the_generator_alone(backend):
    cell = rnn.NoisyState(rnn.RNNCell(2, 3), 0.1)
    before = mg.random.generator.numpy().copy()
    unroll(cell, mg.zeros((T, B, 2)), mg.zeros((B, 3)))
    assert np.array_equal(mg.random.generator.numpy(), before)
    unroll(cell, mg.zeros((T, B, 2)))
    assert not np.array_equal(mg.random.generator.numpy(), before)

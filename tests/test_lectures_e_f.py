"""Rows E2, E5 and F1 of the lectures: the LSTM, networks of gated cells, stacked layers."""

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
    same_bits,
    torch_layers,
)

lecture = pytest.mark.lecture
T, B, D, H = 5, 3, 2, 4


def compare_network_with_torch(torch, kind, layers, seed):
    """Values, states and all gradients of a stack of `layers` cells against torch's layers."""
    rng = np.random.default_rng(seed)
    net, cells = torch_layers(torch, kind, D, H, layers, False, seed)
    x, weight = rng.normal(size=(T, B, D)), rng.normal(size=(T, B, H))
    x_t = torch.tensor(x, requires_grad=True)
    y_t, final_t = net(x_t)
    (y_t * torch.tensor(weight)).sum().backward()
    x_m = leaf(x)
    ys, final = unroll(rnn.Stack([cell for [cell] in cells]), x_m)
    close(ys, y_t.detach().numpy())
    finals_t = final_t if kind == "lstm" else (final_t,)
    for depth, state in enumerate(final):
        for ours, theirs in zip(tree.flatten(state)[0], finals_t, strict=True):
            close(ours, theirs.detach().numpy()[depth])
    mg.sum(ys * mg.Tensor(weight)).backward()
    close(x_m.grad, x_t.grad.numpy())
    compare_with_torch(kind, net, cells)


def compare_network_with_transcription(kinds, sizes, seed):
    """Values, every state of every step, and all gradients, against a chain of transcriptions."""
    rng = np.random.default_rng(seed)
    cells = [random_cell(k, a, b, rng) for k, a, b in zip(kinds, sizes, sizes[1:], strict=False)]
    weights = [oracle_parameters(k, cell) for k, cell in zip(kinds, cells, strict=True)]
    stack = rnn.Stack(cells)
    xs, state = leaf(rng.normal(size=(T, B, sizes[0]))), random_state(stack, B, rng)
    starts = [[part.numpy() for part in tree.flatten(s)[0]] for s in state]
    traces = chain_forward(kinds, weights, xs.numpy(), starts)
    (ys, states), final = unroll(rnn.EmitState(stack), xs, state)
    close(ys, traces[-1]["h"])
    for kind, ours, trace, last in zip(kinds, states, traces, final, strict=True):
        for name, part in zip(KINDS[kind].parts, tree.flatten(ours)[0], strict=True):
            assert part.shape == (T, B, trace["h"].shape[-1])
            close(part, trace[name])
        same_bits(tree.map(lambda s: s[-1], ours), last)
    weight = rng.normal(size=ys.shape)
    expected = chain_backward(kinds, weights, xs.numpy(), weight, starts)
    found = gradients(mg.sum(ys * mg.Tensor(weight)), xs, state, stack.parameters())
    first = [r[f"{p}0"] for k, r in zip(kinds, expected, strict=True) for p in KINDS[k].parts]
    own = [g for k, r in zip(kinds, expected, strict=True) for g in packed(k, r).values()]
    for ours, value in zip(found, [expected[0]["x"], *first, *own], strict=True):
        close(ours, value)


# --- E2: the LSTM --------------------------------------------------------------------------------


@lecture("E2", "torch")
def test_the_lstm_of_torch(backend):
    compare_network_with_torch(pytest.importorskip("torch"), "lstm", 1, seed=1)


@lecture("E2", "torch")
def test_the_lstm_in_the_layout_of_torch(backend):
    """w_ih (4H, D) and w_hh (4H, H) in order i, f, g, o, two biases, one row at a time."""
    rng = np.random.default_rng(2)
    w_ih, w_hh = rng.normal(size=(4 * H, D)), rng.normal(size=(4 * H, H))
    b_ih, b_hh = rng.normal(size=4 * H), rng.normal(size=4 * H)
    cell = rnn.LSTMCell(D, H, dtype="float64")
    cell.load_state_dict({"Wx": w_ih.T, "Wh": w_hh.T, "b": b_ih + b_hh})
    xs = rng.normal(size=(T, B, D))
    ys, (h_last, c_last) = unroll(cell, mg.Tensor(xs))
    for row in range(B):
        h, c = np.zeros(H), np.zeros(H)
        for t in range(T):
            gates = w_ih @ xs[t, row] + b_ih + w_hh @ h + b_hh
            i, f, g, o = (gates[n * H : (n + 1) * H] for n in range(4))
            i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            close(ys[t, row], h)
        close(h_last[row], h)
        close(c_last[row], c)


@lecture("E2", "torch")
def test_the_lstm_transcribed_with_all_gradients(backend):
    compare_network_with_transcription(["lstm"], [D, H], seed=3)


def cell_path(cell, xs, state, cut):
    """The gradients of sum(c_T) by c_0 .. c_(T-1); cut: none flows through any h."""
    cs = [state[1]]
    for x in xs:
        _, (h, c) = cell(x, state)
        if cut:
            h.register_hook(lambda g: g * 0)
        state = (h, c)
        cs.append(c)
    return [g.numpy() for g in mg.pullback(mg.sum(cs[-1]), cs[:-1])]


@lecture("E2", "cell path")
@pytest.mark.parametrize("recurrent", [True, False])
def test_the_gradient_along_the_cell_path_is_the_product_of_the_forget_gates(backend, recurrent):
    """With recurrent weights the paths through h are cut by hooks; without, none are there."""
    rng = np.random.default_rng(4)
    cell = random_cell("lstm", D, H, rng)
    if not recurrent:
        cell.Wh.assign(np.zeros((H, 4 * H)))
    xs, state = mg.Tensor(rng.normal(size=(8, B, D))), random_state(cell, B, rng)
    parameters = oracle_parameters("lstm", cell)
    [trace] = chain_forward(["lstm"], [parameters], xs.numpy(), [[s.numpy() for s in state]])
    for t, found in enumerate(cell_path(cell, xs, state, cut=recurrent)):
        close(found, np.prod(trace["f"][t:], axis=0))
        np.testing.assert_allclose(found, np.prod(trace["f"][t:], axis=0), rtol=1e-12)


@lecture("E2", "residual")
def test_an_open_forget_gate_and_a_shut_input_gate_keep_the_cell(backend):
    """f = 1, i = 0 exactly: c stays to the bit over 100 steps, its gradient is exactly 1."""
    rng = np.random.default_rng(5)
    cell = random_cell("lstm", D, H, rng)
    bias = np.concatenate([np.full(H, -1e4), np.full(H, 1e4), rng.normal(size=2 * H)])
    cell.b.assign(bias)
    xs, state = mg.Tensor(rng.normal(size=(100, B, D))), random_state(cell, B, rng)
    _, (_, last) = unroll(cell, xs, state)
    assert last.numpy().tobytes() == state[1].numpy().tobytes()
    for found in cell_path(cell, xs, state, cut=False):
        assert (found == 1).all()


# --- E5: LSTM and GRU networks -------------------------------------------------------------------


@lecture("E5", "three layers")
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_three_layers_of_torch(backend, kind):
    compare_network_with_torch(pytest.importorskip("torch"), kind, 3, seed=6)


@lecture("E5", "three layers")
@lecture("E5", "states")
@pytest.mark.parametrize("kind", ["lstm", "gru", "gru before"])
def test_three_layers_transcribed_with_every_state(backend, kind):
    compare_network_with_transcription([kind] * 3, [D, H, H, H], seed=7)


@lecture("E5", "sizes")
@lecture("E5", "states")
def test_sizes_and_cells_that_differ_from_layer_to_layer(backend):
    compare_network_with_transcription(["lstm", "gru", "lstm"], [D, 5, 3, 6], seed=8)


# --- F1: stacked layers --------------------------------------------------------------------------


@lecture("F1", "torch")
@pytest.mark.parametrize("layers", [2, 3])
def test_the_stacked_rnn_of_torch(backend, layers):
    compare_network_with_torch(pytest.importorskip("torch"), "rnn", layers, seed=9)


@lecture("F1", "torch")
@pytest.mark.parametrize("layers", [2, 3])
def test_the_stacked_rnn_transcribed(backend, layers):
    compare_network_with_transcription(["rnn"] * layers, [D] + [H] * layers, seed=10)


@lecture("F1", "torch")
def test_layers_one_after_another_are_the_stacked_cells(backend):
    """Each layer over the whole sequence, or all layers step by step: the same numbers."""
    rng = np.random.default_rng(11)
    cells = [random_cell("rnn", D, H, rng), random_cell("rnn", H, H, rng)]
    xs, state = mg.Tensor(rng.normal(size=(T, B, D))), random_state(rnn.Stack(cells), B, rng)
    same_bits(rnn.Layers(cells)(xs, state), unroll(rnn.Stack(cells), xs, state))

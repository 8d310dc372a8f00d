"""Rows E1, E3 and E4 of the lectures: the book's LSTM, peepholes, the GRU in four variants.

Literal forms in other frameworks' layouts stand here beside the frameworks themselves, which a
user need not have. Shapes: T time, B batch, D input, H hidden.
"""

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad_rnn import unroll
from tests.catalogue import compare
from tests.recurrent import (
    close,
    compare_with_torch,
    random_state,
    randomise,
    same_bits,
    torch_layers,
)

lecture = pytest.mark.lecture
T, B, D, H = 5, 3, 2, 4


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


# --- E1: the LSTM of the book --------------------------------------------------------------------


@lecture("E1", "transcription")
def test_the_lstm_of_the_book(backend):
    compare("LSTM of the book")


@lecture("E1", "candidate")
def test_with_tanh_for_the_candidate_it_is_the_lstm(backend):
    compare("LSTM of the book, tanh")
    cell = randomise(rnn.BookLSTMCell(D, H, candidate="tanh"), np.random.default_rng(1))
    usual = rnn.LSTMCell(D, H)
    usual.load_state_dict(cell.state_dict())
    xs = mg.random.normal(mg.random.key(1), (T, B, D))
    close(unroll(cell, xs)[0], unroll(usual, xs)[0].numpy(), 1e-6)


@lecture("E1", "candidate")
def test_any_squashing_candidate(backend):
    cell = rnn.BookLSTMCell(D, H, candidate=lambda a: mg.clip(a, -1, 1), dtype="float64")
    assert unroll(cell, mg.ones((T, B, D), dtype="float64"))[0].shape == (T, B, H)
    with pytest.raises(ValueError, match="candidate='relu': give 'sigmoid', 'tanh' or a function"):
        rnn.BookLSTMCell(D, H, candidate="relu")


# --- E3: peepholes -------------------------------------------------------------------------------


def onnx_weights(rng, directions, gates):
    """W, R, B, P of ONNX's recurrent operators, gates stacked along axis 1."""
    G = gates
    shapes = [(G * H, D), (G * H, H), (2 * G * H,), (3 * H,)]
    return [0.5 * rng.normal(size=(directions, *shape)) for shape in shapes]


def onnx_lstm(x, W, R, b, P):
    """ONNX's LSTM of one direction: gates i, o, f, c in W, R, b; i, o, f in P; y (T, B, H)."""
    W_i, W_o, W_f, W_c = np.split(W, 4)
    R_i, R_o, R_f, R_c = np.split(R, 4)
    Wb_i, Wb_o, Wb_f, Wb_c, Rb_i, Rb_o, Rb_f, Rb_c = np.split(b, 8)
    P_i, P_o, P_f = np.split(P, 3)
    h, c, ys = np.zeros((x.shape[1], H)), np.zeros((x.shape[1], H)), []
    for x_t in x:
        i = sigmoid(x_t @ W_i.T + h @ R_i.T + P_i * c + Wb_i + Rb_i)
        f = sigmoid(x_t @ W_f.T + h @ R_f.T + P_f * c + Wb_f + Rb_f)
        c = f * c + i * np.tanh(x_t @ W_c.T + h @ R_c.T + Wb_c + Rb_c)
        o = sigmoid(x_t @ W_o.T + h @ R_o.T + P_o * c + Wb_o + Rb_o)
        h = o * np.tanh(c)
        ys.append(h)
    return np.array(ys)


def peephole_cell(W, R, b, P):
    """Our cell with the weights of one direction: i, o, f, c to i, f, g, o; i, o, f to i, f, o."""
    cell = rnn.PeepholeLSTMCell(D, H, dtype="float64")
    order = np.concatenate([np.arange(H) + k * H for k in (0, 2, 3, 1)])
    bias = b[: 4 * H] + b[4 * H :]
    p = P.reshape(3, H)[[0, 2, 1]]
    cell.load_state_dict({"Wx": W[order].T, "Wh": R[order].T, "b": bias[order], "p": p})
    return cell


def onnx_session(operator, inputs, **attributes):
    """What onnxruntime makes of one recurrent operator: Y (T, directions, B, H)."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    values = {k: v for k, v in inputs.items() if v is not None}
    node = onnx.helper.make_node(
        operator, [k if v is not None else "" for k, v in inputs.items()], ["Y"], **attributes
    )
    describe = onnx.helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [describe(k, float32, v.shape) for k, v in values.items()],
        [describe("Y", float32, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])
    model.ir_version = 8
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(["Y"], {k: v.astype("float32") for k, v in values.items()})[0]


@lecture("E3", "ONNX")
def test_peepholes_in_the_layout_of_onnx(backend):
    rng = np.random.default_rng(2)
    x, weights = rng.normal(size=(T, B, D)), [w[0] for w in onnx_weights(rng, 1, 4)]
    close(unroll(peephole_cell(*weights), mg.Tensor(x))[0], onnx_lstm(x, *weights))


@lecture("E3", "ONNX")
def test_peepholes_of_onnx(backend):
    rng = np.random.default_rng(3)
    x, (W, R, b, P) = rng.normal(size=(T, B, D)), onnx_weights(rng, 1, 4)
    inputs = {"X": x, "W": W, "R": R, "B": b, "n": None, "h": None, "c": None, "P": P}
    y = onnx_session("LSTM", inputs, hidden_size=H)
    close(unroll(peephole_cell(W[0], R[0], b[0], P[0]), mg.Tensor(x))[0], y[:, 0], 1e-6)


@lecture("B11", "peephole")
def test_peepholes_in_both_directions_in_the_layout_of_onnx(backend):
    rng = np.random.default_rng(4)
    x, weights = rng.normal(size=(T, B, D)), onnx_weights(rng, 2, 4)
    ahead, behind = zip(*weights, strict=True)
    layer = rnn.Bidirectional(peephole_cell(*ahead), peephole_cell(*behind), merge=None)
    hs, gs = layer(mg.Tensor(x))[0]
    close(hs, onnx_lstm(x, *ahead))
    close(gs, onnx_lstm(x[::-1], *behind)[::-1])


@lecture("B11", "peephole")
def test_peepholes_in_both_directions_of_onnx(backend):
    rng = np.random.default_rng(5)
    x, weights = rng.normal(size=(T, B, D)), onnx_weights(rng, 2, 4)
    W, R, b, P = weights
    inputs = {"X": x, "W": W, "R": R, "B": b, "n": None, "h": None, "c": None, "P": P}
    y = onnx_session("LSTM", inputs, hidden_size=H, direction="bidirectional")
    ahead, behind = (peephole_cell(*part) for part in zip(*weights, strict=True))
    ys, _ = rnn.Bidirectional(ahead, behind)(mg.Tensor(x))
    close(ys, y.transpose(0, 2, 1, 3).reshape(T, B, 2 * H), 1e-6)


@lecture("E3", "no peepholes")
@pytest.mark.parametrize("peephole", ["diagonal", "full"])
def test_without_peepholes_it_is_the_lstm(backend, peephole):
    rng = np.random.default_rng(6)
    cell = rnn.PeepholeLSTMCell(D, H, peephole=peephole, dtype="float64")
    usual = randomise(rnn.LSTMCell(D, H, dtype="float64"), rng)
    weights = {**usual.state_dict(), "p": np.zeros(cell.p.shape)}
    cell.load_state_dict(weights)
    xs, state = mg.Tensor(rng.normal(size=(T, B, D))), random_state(usual, B, rng)
    close(unroll(cell, xs, state)[0], unroll(usual, xs, state)[0].numpy())


@lecture("E3", "gradient")
@pytest.mark.parametrize("name", ["LSTM, peephole", "LSTM, full peephole"])
def test_gradients_of_peepholes(backend, name):
    compare(name)


@lecture("E3", "gradient")
@pytest.mark.parametrize("peephole", ["diagonal", "full"])
def test_peepholes_pass_gradcheck(backend, peephole):
    rng = np.random.default_rng(7)
    cell = randomise(rnn.PeepholeLSTMCell(2, 2, peephole=peephole, dtype="float64"), rng)
    xs = mg.Tensor(rng.normal(size=(3, 2, 2)))
    p = cell.p

    def f(values):
        cell.p = values
        return unroll(cell, xs)[0]

    assert mg.gradcheck(f, p.detach())


@lecture("E3", "diagonal or full")
def test_diagonal_matrices_are_diagonal_peepholes(backend):
    rng = np.random.default_rng(8)
    diagonal = randomise(rnn.PeepholeLSTMCell(D, H, dtype="float64"), rng)
    full = rnn.PeepholeLSTMCell(D, H, peephole="full", dtype="float64")
    assert diagonal.p.shape == (3, H)
    assert full.p.shape == (3, H, H)
    p = np.array([np.diag(row) for row in diagonal.p.numpy()])
    full.load_state_dict({**diagonal.state_dict(), "p": p})
    xs = mg.Tensor(rng.normal(size=(T, B, D)))
    close(unroll(full, xs)[0], unroll(diagonal, xs)[0].numpy())
    full.p.assign(p + 0.1)  # a unit's gate that sees another unit's cell
    assert np.abs((unroll(full, xs)[0] - unroll(diagonal, xs)[0]).numpy()).max() > 1e-3
    with pytest.raises(ValueError, match="peephole='none': give 'diagonal' or 'full'"):
        rnn.PeepholeLSTMCell(D, H, peephole="none")


# --- E4: the GRU ---------------------------------------------------------------------------------


def gru_cell(order, Wx, Wh, b, bh=None):
    """Our GRU with gates r, z, n at the places `order` of Wx (D, 3H), Wh (H, 3H), b (3H,)."""
    places = np.concatenate([np.arange(H) + k * H for k in order])
    reset = "before" if bh is None else "after"
    cell = rnn.GRUCell(D, H, reset=reset, dtype="float64")
    weights = {"Wx": Wx[:, places], "Wh": Wh[:, places], "b": b[places]}
    cell.load_state_dict(weights if bh is None else weights | {"bh": bh})
    return cell


@lecture("E4", "torch")
def test_the_gru_in_the_layout_of_torch(backend):
    """w_ih (3H, D) and w_hh (3H, H) in order r, z, n, two biases."""
    rng = np.random.default_rng(9)
    w_ih, w_hh = rng.normal(size=(3 * H, D)), rng.normal(size=(3 * H, H))
    b_ih, b_hh = rng.normal(size=3 * H), rng.normal(size=3 * H)
    inside = np.where(np.arange(3 * H) < 2 * H, b_hh, 0)
    cell = gru_cell((0, 1, 2), w_ih.T, w_hh.T, b_ih + inside, b_hh[2 * H :])
    x, h, ys = rng.normal(size=(T, B, D)), np.zeros((B, H)), []
    for x_t in x:
        i_r, i_z, i_n = np.split(x_t @ w_ih.T + b_ih, 3, axis=1)
        h_r, h_z, h_n = np.split(h @ w_hh.T + b_hh, 3, axis=1)
        r, z = sigmoid(i_r + h_r), sigmoid(i_z + h_z)
        n = np.tanh(i_n + r * h_n)
        h = (1 - z) * n + z * h
        ys.append(h)
    close(unroll(cell, mg.Tensor(x))[0], np.array(ys))


@lecture("E4", "torch")
def test_the_gru_of_torch(backend):
    torch = pytest.importorskip("torch")
    net, cells = torch_layers(torch, "gru", D, H, 1, False, 10)
    x = np.random.default_rng(10).normal(size=(T, B, D))
    theirs, _ = net(torch.tensor(x))
    (theirs**2).sum().backward()
    ys, _ = unroll(cells[0][0], mg.Tensor(x))
    close(ys, theirs.detach().numpy())
    mg.sum(ys**2).backward()
    compare_with_torch("gru", net, cells)


@lecture("E4", "Keras")
def test_the_gru_in_the_layout_of_keras(backend):
    """kernel (D, 3H), recurrent_kernel (H, 3H), bias (3H,) in order z, r, h; reset_after=False."""
    rng = np.random.default_rng(11)
    kernel, recurrent = rng.normal(size=(D, 3 * H)), rng.normal(size=(H, 3 * H))
    bias = rng.normal(size=3 * H)
    x, h, ys = rng.normal(size=(T, B, D)), np.zeros((B, H)), []
    for x_t in x:
        x_z, x_r, x_h = np.split(x_t @ kernel + bias, 3, axis=1)
        z = sigmoid(x_z + h @ recurrent[:, :H])
        r = sigmoid(x_r + h @ recurrent[:, H : 2 * H])
        hh = np.tanh(x_h + (r * h) @ recurrent[:, 2 * H :])
        h = z * h + (1 - z) * hh
        ys.append(h)
    cell = gru_cell((1, 0, 2), kernel, recurrent, bias)
    close(unroll(cell, mg.Tensor(x))[0], np.array(ys))


def onnx_gru_cell(W, R, b, linear_before_reset):
    """Gates z, r, h; of the two biases of h, the recurrent one stays inside where it must."""
    Wb, Rb = b[: 3 * H], b[3 * H :]
    if linear_before_reset:
        folded = Wb + np.where(np.arange(3 * H) < 2 * H, Rb, 0)
        return gru_cell((1, 0, 2), W.T, R.T, folded, Rb[2 * H :])
    return gru_cell((1, 0, 2), W.T, R.T, Wb + Rb)


@lecture("E4", "ONNX")
@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_the_gru_in_the_layout_of_onnx(backend, linear_before_reset):
    rng = np.random.default_rng(12)
    W, R, b, _ = (w[0] for w in onnx_weights(rng, 1, 3))
    W_z, W_r, W_h = np.split(W, 3)
    R_z, R_r, R_h = np.split(R, 3)
    Wb_z, Wb_r, Wb_h, Rb_z, Rb_r, Rb_h = np.split(b, 6)
    x, h, ys = rng.normal(size=(T, B, D)), np.zeros((B, H)), []
    for x_t in x:
        z = sigmoid(x_t @ W_z.T + h @ R_z.T + Rb_z + Wb_z)
        r = sigmoid(x_t @ W_r.T + h @ R_r.T + Rb_r + Wb_r)
        if linear_before_reset:
            new = np.tanh(x_t @ W_h.T + r * (h @ R_h.T + Rb_h) + Wb_h)
        else:
            new = np.tanh(x_t @ W_h.T + (r * h) @ R_h.T + Rb_h + Wb_h)
        h = (1 - z) * new + z * h
        ys.append(h)
    cell = onnx_gru_cell(W, R, b, linear_before_reset)
    close(unroll(cell, mg.Tensor(x))[0], np.array(ys))


@lecture("E4", "ONNX")
@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_the_gru_of_onnx(backend, linear_before_reset):
    rng = np.random.default_rng(13)
    x, (W, R, b, _) = rng.normal(size=(T, B, D)), onnx_weights(rng, 1, 3)
    inputs = {"X": x, "W": W, "R": R, "B": b}
    y = onnx_session("GRU", inputs, hidden_size=H, linear_before_reset=linear_before_reset)
    cell = onnx_gru_cell(W[0], R[0], b[0], linear_before_reset)
    close(unroll(cell, mg.Tensor(x))[0], y[:, 0], 2e-6)


@lecture("E4", "book")
@pytest.mark.parametrize("name", ["GRU of the book", "GRU", "GRU, reset before"])
def test_the_gru_of_the_book_and_the_others_transcribed(backend, name):
    compare(name)


@lecture("E4", "book")
def test_the_book_counts_its_inputs_from_the_step_before(backend):
    """h(1) .. h(T) of eq 10.45-10.47, indices as printed, from x(0) .. x(T-1)."""
    rng = np.random.default_rng(14)
    cell = randomise(rnn.BookGRUCell(D, H, dtype="float64"), rng)
    Wx, Wh, b = (p.numpy() for p in (cell.Wx, cell.Wh, cell.b))
    x = rng.normal(size=(T, D))
    U_r, U_u, U = np.split(Wx, 3, axis=1)
    W_r, W_u, W = np.split(Wh, 3, axis=1)
    b_r, b_u, b_new = np.split(b, 3)
    h, u, r = {0: np.zeros(H)}, {}, {}
    for t in range(1, T + 1):
        u[t - 1] = sigmoid(b_u + x[t - 1] @ U_u + h[t - 1] @ W_u)
        r[t - 1] = sigmoid(b_r + x[t - 1] @ U_r + h[t - 1] @ W_r)
        new = sigmoid(b_new + x[t - 1] @ U + (r[t - 1] * h[t - 1]) @ W)
        h[t] = u[t - 1] * h[t - 1] + (1 - u[t - 1]) * new
    ys, _ = unroll(cell, mg.Tensor(x[:, None]))
    close(ys[:, 0], np.array([h[t] for t in range(1, T + 1)]))


VARIANTS = {
    "after": lambda: rnn.GRUCell(D, H),
    "before": lambda: rnn.GRUCell(D, H, reset="before"),
    "book": lambda: rnn.BookGRUCell(D, H),
}


@lecture("E4", "single state")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_state_of_a_gru_is_one_tensor(backend, variant):
    cell = VARIANTS[variant]()
    state = cell.initial_state(B)
    assert isinstance(state, mg.Tensor)
    assert state.shape == (B, H)
    ys, last = unroll(cell, mg.ones((T, B, D)))
    same_bits(ys[-1], last)


@lecture("E4", "fewer gates")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gru_has_three_quarters_of_the_weights_of_an_lstm(backend, variant):
    cell, lstm = VARIANTS[variant](), rnn.LSTMCell(D, H)
    assert 4 * (cell.Wx.size + cell.Wh.size) == 3 * (lstm.Wx.size + lstm.Wh.size)
    assert 4 * cell.b.size == 3 * lstm.b.size

"""One step of the recurrent layers of other frameworks, on their weights by their names.

Each function is the step of one layer and direction, (weights, x (B, D), h (B, H), c) -> (h', c'),
as the source named beside it computes it; c is None but for LSTMs. `run` takes it over x (T, B, D).
"""

from collections.abc import Callable

import numpy as np

Arrays = dict[str, np.ndarray]


def sigmoid(a: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-a))."""
    return 1 / (1 + np.exp(-a))


def run(step: Callable, w: Arrays, x: np.ndarray, H: int, reverse: bool = False) -> np.ndarray:
    """h (T, B, H) of every step from zero states; reverse: from the last step to the first."""
    h, c = np.zeros((x.shape[1], H)), np.zeros((x.shape[1], H))
    ys = np.zeros((*x.shape[:2], H))
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        h, c = step(w, x[t], h, c)
        ys[t] = h
    return ys


# --- torch/nn/modules/rnn.py, the equations in the docstrings of RNN, LSTM and GRU ----------------


def torch_rnn(w, x, h, c):
    a = x @ w["weight_ih_l0"].T + w["bias_ih_l0"] + h @ w["weight_hh_l0"].T + w["bias_hh_l0"]
    return np.tanh(a), c


def torch_lstm(w, x, h, c):
    W_ii, W_if, W_ig, W_io = np.split(w["weight_ih_l0"], 4)
    W_hi, W_hf, W_hg, W_ho = np.split(w["weight_hh_l0"], 4)
    b_ii, b_if, b_ig, b_io = np.split(w["bias_ih_l0"], 4)
    b_hi, b_hf, b_hg, b_ho = np.split(w["bias_hh_l0"], 4)
    i = sigmoid(x @ W_ii.T + b_ii + h @ W_hi.T + b_hi)
    f = sigmoid(x @ W_if.T + b_if + h @ W_hf.T + b_hf)
    g = np.tanh(x @ W_ig.T + b_ig + h @ W_hg.T + b_hg)
    o = sigmoid(x @ W_io.T + b_io + h @ W_ho.T + b_ho)
    c = f * c + i * g
    h = o * np.tanh(c)
    return h if "weight_hr_l0" not in w else h @ w["weight_hr_l0"].T, c


def torch_gru(w, x, h, c):
    W_ir, W_iz, W_in = np.split(w["weight_ih_l0"], 3)
    W_hr, W_hz, W_hn = np.split(w["weight_hh_l0"], 3)
    b_ir, b_iz, b_in = np.split(w["bias_ih_l0"], 3)
    b_hr, b_hz, b_hn = np.split(w["bias_hh_l0"], 3)
    r = sigmoid(x @ W_ir.T + b_ir + h @ W_hr.T + b_hr)
    z = sigmoid(x @ W_iz.T + b_iz + h @ W_hz.T + b_hz)
    n = np.tanh(x @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))
    return (1 - z) * n + z * h, c


# --- keras/src/layers/rnn/{simple_rnn,lstm,gru}.py, call() ---------------------------------------


def keras_rnn(w, x, h, c):
    return np.tanh(x @ w["kernel"] + w["bias"] + h @ w["recurrent_kernel"]), c


def keras_lstm(w, x, h, c):
    U = h.shape[1]
    z = x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
    z0, z1, z2, z3 = z[:, :U], z[:, U : 2 * U], z[:, 2 * U : 3 * U], z[:, 3 * U :]
    i, f = sigmoid(z0), sigmoid(z1)
    c = f * c + i * np.tanh(z2)
    o = sigmoid(z3)
    return o * np.tanh(c), c


def keras_gru(w, x, h, c):
    """reset_after where the bias is (2, 3U), reset before where it is (3U,)."""
    U = h.shape[1]
    reset_after = w["bias"].ndim == 2
    input_bias = w["bias"][0] if reset_after else w["bias"]
    x_z, x_r, x_h = np.split(x @ w["kernel"] + input_bias, 3, axis=1)
    if reset_after:
        inner_z, inner_r, inner_h = np.split(h @ w["recurrent_kernel"] + w["bias"][1], 3, axis=1)
    else:
        inner = h @ w["recurrent_kernel"][:, : 2 * U]
        inner_z, inner_r = inner[:, :U], inner[:, U:]
    z = sigmoid(x_z + inner_z)
    r = sigmoid(x_r + inner_r)
    inner_h = r * inner_h if reset_after else (r * h) @ w["recurrent_kernel"][:, 2 * U :]
    hh = np.tanh(x_h + inner_h)
    return z * h + (1 - z) * hh, c


# --- flax/linen/recurrent.py, __call__ of SimpleCell, LSTMCell and GRUCell -----------------------


def flax_rnn(w, x, h, c):
    return np.tanh(x @ w["i/kernel"] + w["i/bias"] + h @ w["h/kernel"]), c


def flax_lstm(w, x, h, c):
    i = sigmoid(x @ w["ii/kernel"] + h @ w["hi/kernel"] + w["hi/bias"])
    f = sigmoid(x @ w["if/kernel"] + h @ w["hf/kernel"] + w["hf/bias"])
    g = np.tanh(x @ w["ig/kernel"] + h @ w["hg/kernel"] + w["hg/bias"])
    o = sigmoid(x @ w["io/kernel"] + h @ w["ho/kernel"] + w["ho/bias"])
    new_c = f * c + i * g
    return o * np.tanh(new_c), new_c


def flax_gru(w, x, h, c):
    r = sigmoid(x @ w["ir/kernel"] + w["ir/bias"] + h @ w["hr/kernel"])
    z = sigmoid(x @ w["iz/kernel"] + w["iz/bias"] + h @ w["hz/kernel"])
    n = np.tanh(x @ w["in/kernel"] + w["in/bias"] + r * (h @ w["hn/kernel"] + w["hn/bias"]))
    return (1 - z) * n + z * h, c


# --- ONNX's operators RNN, LSTM and GRU, "Equations"; the direction is axis 0 --------------------


def onnx_rnn(w, x, h, c):
    Wb, Rb = np.split(w["B"][0], 2)
    return np.tanh(x @ w["W"][0].T + h @ w["R"][0].T + Wb + Rb), c


def onnx_lstm(w, x, h, c):
    """Peepholes where there is a P."""
    W_i, W_o, W_f, W_c = np.split(w["W"][0], 4)
    R_i, R_o, R_f, R_c = np.split(w["R"][0], 4)
    Wb_i, Wb_o, Wb_f, Wb_c, Rb_i, Rb_o, Rb_f, Rb_c = np.split(w["B"][0], 8)
    P_i, P_o, P_f = np.split(w["P"][0], 3) if "P" in w else (0, 0, 0)
    i = sigmoid(x @ W_i.T + h @ R_i.T + P_i * c + Wb_i + Rb_i)
    f = sigmoid(x @ W_f.T + h @ R_f.T + P_f * c + Wb_f + Rb_f)
    new = np.tanh(x @ W_c.T + h @ R_c.T + Wb_c + Rb_c)
    c = f * c + i * new
    o = sigmoid(x @ W_o.T + h @ R_o.T + P_o * c + Wb_o + Rb_o)
    return o * np.tanh(c), c


def _onnx_gru(w, x, h, linear_before_reset):
    W_z, W_r, W_h = np.split(w["W"][0], 3)
    R_z, R_r, R_h = np.split(w["R"][0], 3)
    Wb_z, Wb_r, Wb_h, Rb_z, Rb_r, Rb_h = np.split(w["B"][0], 6)
    z = sigmoid(x @ W_z.T + h @ R_z.T + Rb_z + Wb_z)
    r = sigmoid(x @ W_r.T + h @ R_r.T + Rb_r + Wb_r)
    if linear_before_reset:
        new = np.tanh(x @ W_h.T + r * (h @ R_h.T + Rb_h) + Wb_h)
    else:
        new = np.tanh(x @ W_h.T + (r * h) @ R_h.T + Rb_h + Wb_h)
    return (1 - z) * new + z * h


def onnx_gru(w, x, h, c):
    """linear_before_reset = 1."""
    return _onnx_gru(w, x, h, True), c


def onnx_gru_before(w, x, h, c):
    """linear_before_reset = 0."""
    return _onnx_gru(w, x, h, False), c


# --- chainer/links/rnn/lstm.py and functions/rnn/lstm.py, _extract_gates -------------------------


def chainer_lstm(w, x, h, c):
    inputs = x @ w["upward/W"].T + w["upward/b"] + h @ w["lateral/W"].T
    a, i, f, o = np.moveaxis(inputs.reshape(len(x), h.shape[1], 4), 2, 0)
    c = np.tanh(a) * sigmoid(i) + sigmoid(f) * c
    return np.tanh(c) * sigmoid(o), c


# --- haste, lib/lstm_forward_gpu.cu.cc and lib/gru_forward_gpu.cu.cc -----------------------------


def haste_lstm(w, x, h, c):
    i, g, f, o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def haste_gru(w, x, h, c):
    Wx_z, Wx_r, Wx_g = np.split(x @ w["kernel"] + w["bias"], 3, axis=1)
    Rh_z, Rh_r, Rh_g = np.split(h @ w["recurrent_kernel"] + w["recurrent_bias"], 3, axis=1)
    z, r = sigmoid(Wx_z + Rh_z), sigmoid(Wx_r + Rh_r)
    g = np.tanh(Wx_g + r * Rh_g)
    return z * h + (1 - z) * g, c

"""LSTM and GRU, of the slides and of the book (eq 10.40-10.47)."""

from __future__ import annotations

import numpy as np

import minigrad_rnn as rnn
from minigrad_rnn.equations.case import (
    F8,
    Arrays,
    Case,
    D,
    H,
    Steps,
    equation,
    of_cell,
    sigmoid,
)

LSTM = {"Wx": "W_xi W_xf W_xc W_xo", "Wh": "W_hi W_hf W_hc W_ho", "b": "b_i b_f b_c b_o"}


def lstm_steps(w: Arrays) -> Steps:
    """The LSTM in NumPy, with peepholes if it has them."""
    h, c = w["h^{(0)}"], w["c^{(0)}"]
    for x in w["x"]:
        i, f, g, o = (x @ w[f"W_x{k}"] + h @ w[f"W_h{k}"] + w[f"b_{k}"] for k in "ifco")
        i, f = sigmoid(i + c * w.get("W_ci", 0)), sigmoid(f + c * w.get("W_cf", 0))
        c = f * c + i * np.tanh(g)
        o = sigmoid(o + c * w.get("W_co", 0))
        h = o * np.tanh(c)
        yield {"i": i, "f": f, "o": o, "c": c, "h": h}


@equation("E2")
def lstm(rng: np.random.Generator) -> Case:
    r"""Long short-term memory ("Long Short-Term Memory (LSTM)", "LSTM"), which the slides draw; in
    the letters of the peephole LSTM's slide.

    i_t = \sigma(W_{xi} x_t + W_{hi} h_{t-1} + b_i)
    f_t = \sigma(W_{xf} x_t + W_{hf} h_{t-1} + b_f)
    c_t = f_t \odot c_{t-1} + i_t \odot \tanh(W_{xc} x_t + W_{hc} h_{t-1} + b_c)
    o_t = \sigma(W_{xo} x_t + W_{ho} h_{t-1} + b_o)
    h_t = o_t \odot \tanh(c_t)
    """
    return of_cell(rng, rnn.LSTMCell(D, H, **F8), LSTM, "h c", lstm_steps, sigmoid="f i o")


@equation("E3")
def peephole(rng: np.random.Generator) -> Case:
    r"""Long short-term memory with peepholes ("LSTM (2)" of "Deep Learning: Theory and Practice");
    the matrices W_ci, W_cf and W_co are diagonal, their products elementwise here.

    i_t = \sigma(W_{xi} x_t + W_{hi} h_{t-1} + W_{ci} \odot c_{t-1} + b_i)
    f_t = \sigma(W_{xf} x_t + W_{hf} h_{t-1} + W_{cf} \odot c_{t-1} + b_f)
    c_t = f_t \odot c_{t-1} + i_t \odot \tanh(W_{xc} x_t + W_{hc} h_{t-1} + b_c)
    o_t = \sigma(W_{xo} x_t + W_{ho} h_{t-1} + W_{co} \odot c_t + b_o)
    h_t = o_t \odot \tanh(c_t)
    """
    weights = LSTM | {"p": "W_ci W_cf W_co"}
    return of_cell(
        rng, rnn.PeepholeLSTMCell(D, H, **F8), weights, "h c", lstm_steps, sigmoid="i f o"
    )


@equation("E1")
def book_lstm(rng: np.random.Generator) -> Case:
    r"""The LSTM of the book ("LSTM", Fig 10.16, eq 10.40-10.44), for all units at once.

    f^{(t)} = \sigma(b^f + U^f x^{(t)} + W^f h^{(t-1)})
    g^{(t)} = \sigma(b^g + U^g x^{(t)} + W^g h^{(t-1)})
    s^{(t)} = f^{(t)} \odot s^{(t-1)} + g^{(t)} \odot \sigma(b + U x^{(t)} + W h^{(t-1)})
    q^{(t)} = \sigma(b^o + U^o x^{(t)} + W^o h^{(t-1)})
    h^{(t)} = \tanh(s^{(t)}) \odot q^{(t)}
    """

    def reference(w):
        h, s = w["h^{(0)}"], w["s^{(0)}"]
        for x in w["x"]:
            f, g, q, new = (
                sigmoid(w["b" + k] + x @ w["U" + k] + h @ w["W" + k])
                for k in ("^f", "^g", "^o", "")
            )
            s = f * s + g * new
            h = np.tanh(s) * q
            yield {"f": f, "g": g, "s": s, "q": q, "h": h}

    weights = {"Wx": "U^g U^f U U^o", "Wh": "W^g W^f W W^o", "b": "b^g b^f b b^o"}
    return of_cell(rng, rnn.BookLSTMCell(D, H, **F8), weights, "h s", reference, sigmoid="f g - q")


@equation("E4")
def gru(rng: np.random.Generator) -> Case:
    r"""The gated recurrent unit ("Gated Recurrent Unit (GRU)"), which the slide draws; Cho et al.
    2014, reset after the product.

    r_t = \sigma(W_{xr} x_t + W_{hr} h_{t-1} + b_r)
    z_t = \sigma(W_{xz} x_t + W_{hz} h_{t-1} + b_z)
    n_t = \tanh(W_{xn} x_t + b_n + r_t \odot (W_{hn} h_{t-1} + b_h))
    h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1}
    """

    def reference(w):
        h = w["h^{(0)}"]
        for x in w["x"]:
            r, z = (sigmoid(x @ w[f"W_x{k}"] + h @ w[f"W_h{k}"] + w[f"b_{k}"]) for k in "rz")
            n = np.tanh(x @ w["W_xn"] + w["b_n"] + r * (h @ w["W_hn"] + w["b_h"]))
            h = (1 - z) * n + z * h
            yield {"r": r, "z": z, "n": n, "h": h}

    weights = {"Wx": "W_xr W_xz W_xn", "Wh": "W_hr W_hz W_hn", "b": "b_r b_z b_n", "bh": "b_h"}
    inside = {"split": "- - r,z", "tanh": "n"}
    return of_cell(rng, rnn.GRUCell(D, H, **F8), weights, "h", reference, **inside)


@equation("E4")
def book_gru(rng: np.random.Generator) -> Case:
    r"""The GRU of the book (eq 10.45-10.47). There u, r and x have the number t-1 of the state that
    they act on; here that of the state which they make.

    u^{(t)} = \sigma(b^u + U^u x^{(t)} + W^u h^{(t-1)})
    r^{(t)} = \sigma(b^r + U^r x^{(t)} + W^r h^{(t-1)})
    h^{(t)} = u^{(t)} \odot h^{(t-1)}
        + (1 - u^{(t)}) \odot \sigma(b + U x^{(t)} + W (r^{(t)} \odot h^{(t-1)}))
    """

    def reference(w):
        h = w["h^{(0)}"]
        for x in w["x"]:
            u, r = (sigmoid(w[f"b^{k}"] + x @ w[f"U^{k}"] + h @ w[f"W^{k}"]) for k in "ur")
            h = u * h + (1 - u) * sigmoid(w["b"] + x @ w["U"] + (r * h) @ w["W"])
            yield {"u": u, "r": r, "h": h}

    weights = {"Wx": "U^r U^u U", "Wh": "W^r W^u W", "b": "b^r b^u b"}
    return of_cell(rng, rnn.BookGRUCell(D, H, **F8), weights, "h", reference, split="- - r,u")

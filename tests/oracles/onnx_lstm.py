"""ONNX's LSTM operator, direction = bidirectional, with peepholes: its specification written out.

    i = f(X W_i^T + H R_i^T + P_i (.) C + Wb_i + Rb_i)      f, the same with P_f
    c = g(X W_c^T + H R_c^T + Wb_c + Rb_c)                  C' = f (.) C + i (.) c
    o = f(X W_o^T + H R_o^T + P_o (.) C' + Wb_o + Rb_o)     H' = o (.) h(C')

f is the sigmoid, g and h tanh. Layout: X (T, B, D), W (2, 4H, D) and R (2, 4H, H) in order i, o, f,
c, the bias (2, 8H) is Wb then Rb, P (2, 3H) in order i, o, f; sequence_lens (B,). The reverse
direction turns each row's first sequence_lens steps. Y (T, 2, B, H), Y_h and Y_c (2, B, H); Y is 0
after a row's end.
"""

import numpy as np


def lstm(
    X: np.ndarray, W: np.ndarray, R: np.ndarray, bias: np.ndarray, P: np.ndarray, lens: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Y, Y_h and Y_c from zero states."""
    T, B, _ = X.shape
    H = R.shape[2]
    Y, Y_h, Y_c = np.zeros((T, 2, B, H)), np.zeros((2, B, H)), np.zeros((2, B, H))
    for d in range(2):
        W_i, W_o, W_f, W_c = np.split(W[d], 4)
        R_i, R_o, R_f, R_c = np.split(R[d], 4)
        b_i, b_o, b_f, b_c = np.split(bias[d][: 4 * H] + bias[d][4 * H :], 4)
        P_i, P_o, P_f = np.split(P[d], 3)
        for b in range(B):
            h, c = np.zeros(H), np.zeros(H)
            steps = range(lens[b]) if d == 0 else reversed(range(lens[b]))
            for t in steps:
                x = X[t, b]
                i = 1 / (1 + np.exp(-(W_i @ x + R_i @ h + P_i * c + b_i)))
                f = 1 / (1 + np.exp(-(W_f @ x + R_f @ h + P_f * c + b_f)))
                c = f * c + i * np.tanh(W_c @ x + R_c @ h + b_c)
                o = 1 / (1 + np.exp(-(W_o @ x + R_o @ h + P_o * c + b_o)))
                h = o * np.tanh(c)
                Y[t, d, b] = h
            Y_h[d, b], Y_c[d, b] = h, c
    return Y, Y_h, Y_c

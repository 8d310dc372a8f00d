"""Recursive networks over one tree, node by node: the book's (Fig 10.14) and Tree-LSTMs (Tai 2015).

A tree is a dict {"x": input or None, "children": [trees]}. Shapes: x (D,), h, c (H,); V (H, D),
U, W (H, H), b (H,); for a Tree-LSTM W_k (H, D), U_k (H, H), b_k (H,) for k in i, f, o, u.
Tai, Socher and Manning 2015 (ACL P15-1150), compared with what Chainer 7 computes
(chainer/links/rnn/tree_lstm.py), which N-ary differs in W_f: one matrix a child, after Bowman 2016.
"""

import numpy as np

Arrays = dict[str, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]


def sigmoid(a: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-a)), by way of tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * a))


def recursive(p: Arrays, tree: dict) -> np.ndarray:
    """Fig 10.14 with f = tanh: a leaf is f(V x), a node f(U left + W right + b)."""
    if not tree["children"]:
        return np.tanh(p["V"] @ tree["x"])
    left, right = (recursive(p, child) for child in tree["children"])
    return np.tanh(p["U"] @ left + p["W"] @ right + p["b"])


def child_sum(p: Arrays, tree: dict) -> Pair:
    """(h_j, c_j) of the root by eq 2-8; where there is no input, W x_j is left out."""
    below = [child_sum(p, child) for child in tree["children"]]
    x, zero = tree["x"], np.zeros_like(p["b_i"])

    def W(k: str) -> np.ndarray:
        return zero if x is None else p[f"W_{k}"] @ x

    h_tilde = sum((h for h, _ in below), zero)  # 2
    i = sigmoid(W("i") + p["U_i"] @ h_tilde + p["b_i"])  # 3
    f = [sigmoid(W("f") + p["U_f"] @ h + p["b_f"]) for h, _ in below]  # 4
    o = sigmoid(W("o") + p["U_o"] @ h_tilde + p["b_o"])  # 5
    u = np.tanh(W("u") + p["U_u"] @ h_tilde + p["b_u"])  # 6
    c = i * u + sum((f_k * c_k for f_k, (_, c_k) in zip(f, below, strict=True)), zero)  # 7
    return o * np.tanh(c), c  # 8


def nary(p: Arrays, tree: dict, N: int) -> Pair:
    """(h_j, c_j) of the root by eq 9-14; U_i, U_o, U_u (N, H, H), U_f (N, N, H, H).

    A node has at most N children, and h and c of one that is missing are 0.
    """
    x, zero = tree["x"], np.zeros_like(p["b_i"])
    below = [nary(p, child, N) for child in tree["children"]]
    below += [(zero, zero)] * (N - len(below))

    def W(k: str) -> np.ndarray:
        return zero if x is None else p[f"W_{k}"] @ x

    def U(matrices: np.ndarray) -> np.ndarray:
        return sum((matrices[n] @ below[n][0] for n in range(N)), zero)

    i = sigmoid(W("i") + U(p["U_i"]) + p["b_i"])  # 9
    f = [sigmoid(W("f") + U(p["U_f"][k]) + p["b_f"]) for k in range(N)]  # 10
    o = sigmoid(W("o") + U(p["U_o"]) + p["b_o"])  # 11
    u = np.tanh(W("u") + U(p["U_u"]) + p["b_u"])  # 12
    c = i * u + sum((f[n] * below[n][1] for n in range(N)), zero)  # 13
    return o * np.tanh(c), c  # 14

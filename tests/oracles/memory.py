"""Networks with a memory beside them, transcribed literally; one sequence, one row.

The neural Turing machine (Graves, Wayne and Danihelka 2014), eq 1-9: N locations of M numbers, any
number of heads. What a head emits is a linear function of the controller's output h (H,), brought
into its range: k as it is, beta = log(1 + exp), g = sigmoid, s = softmax over the allowed shifts,
gamma = 1 + log(1 + exp), e = sigmoid, a as it is. Write heads address the memory as it was; read
heads address, and read, what has been written. Everything is analytic: gradients follow by a
complex step.

End-to-end memory networks (Sukhbaatar et al. 2015), eq 1, 2 and 4: hops over a list of facts.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def softplus(a: Any) -> Any:
    """log(1 + exp(a))."""
    return np.log(1 + np.exp(a))


def softmax(a: np.ndarray) -> np.ndarray:
    """exp(a) / sum(exp(a))."""
    return np.exp(a) / np.exp(a).sum()


def sigmoid(a: Any) -> Any:
    """1 / (1 + exp(-a))."""
    return 1 / (1 + np.exp(-a))


def cosine(u: np.ndarray, v: np.ndarray) -> Any:
    """Eq 6: K[u, v] = u . v / (|u| |v|)."""
    return (u @ v) / (np.sqrt(u @ u) * np.sqrt(v @ v))


def content(k: np.ndarray, beta: Any, memory: np.ndarray) -> np.ndarray:
    """Eq 5: w_c(i) = exp(beta K[k, M(i)]) / sum_j exp(beta K[k, M(j)])."""
    scores = np.array([np.exp(beta * cosine(k, row)) for row in memory])
    return scores / scores.sum()


def convolve(w: np.ndarray, s: dict[int, Any]) -> np.ndarray:
    """Eq 8: w~(i) = sum_j w(j) s(i - j), indices modulo N; s maps a shift to its probability."""
    N = len(w)
    shifted = np.zeros(N, np.result_type(w, *s.values()))
    for i in range(N):
        for j in range(N):
            shifted[i] += w[j] * sum(p for d, p in s.items() if (i - j - d) % N == 0)
    return shifted


def sharpen(w: np.ndarray, gamma: Any) -> np.ndarray:
    """Eq 9: w(i) = w~(i)^gamma / sum_j w~(j)^gamma."""
    return w**gamma / (w**gamma).sum()


def address(memory: np.ndarray, before: np.ndarray, head: Arrays, h: np.ndarray) -> np.ndarray:
    """Eq 5-9, the weighting of one head; head: W_k, b_k, W_beta, b_beta, W_g, b_g, W_s, ..."""
    k, beta, g, s, gamma = (
        head["W_" + n] @ h + head["b_" + n] for n in ("k", "beta", "g", "s", "gamma")
    )
    (beta,), (g,), (gamma,) = softplus(beta), sigmoid(g), 1 + softplus(gamma)
    by_content = content(k, beta, memory)
    gated = g * by_content + (1 - g) * before  # eq 7
    reach = len(s) // 2
    shifts = dict(zip(range(-reach, reach + 1), softmax(s), strict=True))
    return sharpen(convolve(gated, shifts), gamma)


def step(
    controller: Callable[..., Any],
    reading: list[Arrays],
    writing: list[Arrays],
    x: np.ndarray,
    state: Any,
) -> Any:
    """Return y = [h, reads] and the state: memory (N, M), weightings, reads, the controller's."""
    memory, read_before, write_before, reads, inner = state
    h, inner = controller(np.concatenate([x, *reads]), inner)

    ws = [address(memory, w, head, h) for head, w in zip(writing, write_before, strict=True)]
    rows = list(memory)
    for w, head in zip(ws, writing, strict=True):  # eq 3; the order of the heads does not matter
        e = sigmoid(head["W_e"] @ h + head["b_e"])
        rows = [row * (1 - w_i * e) for row, w_i in zip(rows, w, strict=True)]
    for w, head in zip(ws, writing, strict=True):  # eq 4
        a = head["W_a"] @ h + head["b_a"]
        rows = [row + w_i * a for row, w_i in zip(rows, w, strict=True)]
    written = np.array(rows)

    rs = [address(written, w, head, h) for head, w in zip(reading, read_before, strict=True)]
    reads = [sum(w[i] * written[i] for i in range(len(memory))) for w in rs]  # eq 2
    return np.concatenate([h, *reads]), (written, rs, ws, reads, inner)


def hops(
    facts: np.ndarray,
    u: np.ndarray,
    A: list[np.ndarray],
    C: list[np.ndarray],
    H: np.ndarray | None = None,
) -> np.ndarray:
    """u after len(A) hops over facts (N, D); A, C (d, D) hop by hop, u (d,).

    m_i = A x_i, p_i = softmax(u . m_i) (eq 1), c_i = C x_i, o = sum_i p_i c_i (eq 2),
    u' = u + o (eq 4), or u' = H u + o where layers share their matrices (section 2.2).
    """
    for A_k, C_k in zip(A, C, strict=True):
        p = softmax(np.array([u @ (A_k @ x) for x in facts]))
        o = sum(p_i * (C_k @ x) for p_i, x in zip(p, facts, strict=True))
        u = (u if H is None else H @ u) + o
    return u

"""Attention, transcribed for one source sequence, with its padding already cut off.

Bahdanau, Cho, Bengio 2015 (appendix A.1.2, eq 5-6), Luong, Pham, Manning 2015 (eq 5, 7, 8), See,
Liu, Manning 2017 (eq 10-12), Wu et al. 2016 (GNMT, eq 4-6). Vectors are columns, as in the papers.

Shapes: annotations h (Tx, N), a decoder state s (H,); W_a (A, H), U_a (A, N), v_a (A,).
"""

from collections.abc import Callable, Sequence

import numpy as np

Arrays = dict[str, np.ndarray]
Step = Callable[[np.ndarray, tuple], tuple[np.ndarray, tuple]]


# --- scores --------------------------------------------------------------------------------------


def additive(p: Arrays, s: np.ndarray, h: np.ndarray) -> float:
    """a(s, h_j) = v_a . tanh(W_a s + U_a h_j)."""
    return float(p["v_a"] @ np.tanh(p["W_a"] @ s + p["U_a"] @ h))


def covered(p: Arrays, s: np.ndarray, h: np.ndarray, c: float) -> float:
    """e_i = v . tanh(W_h h_i + W_s s_t + w_c c_i), See et al. eq 11, without b_attn."""
    return float(p["v_a"] @ np.tanh(p["U_a"] @ h + p["W_a"] @ s + p["w_c"] * c))


def dot(p: Arrays, s: np.ndarray, h: np.ndarray) -> float:
    """score(h_t, h_s) = h_t . h_s."""
    return float(s @ h)


def general(p: Arrays, s: np.ndarray, h: np.ndarray) -> float:
    """score(h_t, h_s) = h_t . W_a h_s, W_a (H, N)."""
    return float(s @ (p["W_a"] @ h))


def concat(p: Arrays, s: np.ndarray, h: np.ndarray) -> float:
    """score(h_t, h_s) = v_a . tanh(W_a [h_t; h_s]), W_a (A, H + N)."""
    return float(p["v_a"] @ np.tanh(p["W_a"] @ np.concatenate([s, h])))


def attend(
    score: Callable[..., float],
    p: Arrays,
    s: np.ndarray,
    h: np.ndarray,
    coverage: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """alpha_ij = exp(e_ij) / sum_k exp(e_ik); c_i = sum_j alpha_ij h_j: (c (N,), alpha (Tx,))."""
    more = [() if coverage is None else (coverage[j],) for j in range(len(h))]
    e = np.array([score(p, s, h[j], *more[j]) for j in range(len(h))])
    alpha = np.exp(e - e.max()) / np.exp(e - e.max()).sum()
    context = np.zeros(h.shape[1])
    for j in range(len(h)):
        context += alpha[j] * h[j]
    return context, alpha


# --- decoders ------------------------------------------------------------------------------------


def bahdanau(
    score: Callable[..., float],
    p: Arrays,
    step: Step,
    xs: np.ndarray,
    h: np.ndarray,
    state: tuple,
    coverage: bool = False,
) -> Arrays:
    """s_i = f(s_{i-1}, y_{i-1}, c_i), c_i from s_{i-1}: outputs (T, H), contexts, alphas (T, Tx).

    step(x, state) -> (output, state) is f, its x being [y_{i-1}; c_i]; s is the whole state. The
    coverage vector is the sum of the alphas before (See et al. eq 10).
    """
    outputs, contexts, alphas = [], [], []
    total = np.zeros(len(h))
    for x in xs:
        c, alpha = attend(score, p, np.concatenate(state), h, total if coverage else None)
        y, state = step(np.concatenate([x, c]), state)
        total = total + alpha
        outputs.append(y)
        contexts.append(c)
        alphas.append(alpha)
    return {"y": np.array(outputs), "c": np.array(contexts), "alpha": np.array(alphas)}


def luong(
    score: Callable[..., float],
    p: Arrays,
    step: Step,
    W_c: np.ndarray,
    xs: np.ndarray,
    h: np.ndarray,
    state: tuple,
    feeding: bool = True,
) -> Arrays:
    """h~_t = tanh(W_c [c_t; h_t]), c_t from h_t; with input feeding, h~_{t-1} follows x_t."""
    outputs, alphas = [], []
    fed = np.zeros(len(W_c))
    for x in xs:
        y, state = step(np.concatenate([x, fed]) if feeding else x, state)
        c, alpha = attend(score, p, y, h)
        fed = np.tanh(W_c @ np.concatenate([c, y]))
        outputs.append(fed)
        alphas.append(alpha)
    return {"y": np.array(outputs), "alpha": np.array(alphas)}


def coverage_loss(alphas: np.ndarray) -> float:
    """sum_t sum_i min(a_i^t, c_i^t), c^t the sum of the attentions before t (See et al. eq 12)."""
    return float(
        sum(np.minimum(alphas[t], alphas[:t].sum(axis=0)).sum() for t in range(len(alphas)))
    )


def gnmt(
    p: Arrays, steps: Sequence[Step], xs: np.ndarray, h: np.ndarray, states: Sequence[tuple]
) -> Arrays:
    """The decoder of GNMT: eq 4 from y_{i-1}, the bottom layer's output, a_i fed to every layer.

    x^i = m^i for the first two layers, x^i = m^i + x^{i-1} from the third on (eq 5, 6).
    """
    states, outputs, alphas = list(states), [], []
    bottom = np.zeros(p["W_a"].shape[1])
    for x in xs:
        a, alpha = attend(additive, p, bottom, h)
        for i, step in enumerate(steps, 1):
            m, states[i - 1] = step(np.concatenate([x, a]), states[i - 1])
            x = m + x if i >= 3 else m
            if i == 1:
                bottom = m
        outputs.append(x)
        alphas.append(alpha)
    return {"y": np.array(outputs), "alpha": np.array(alphas)}


def gnmt_encoder(
    forward: Callable[[np.ndarray], np.ndarray],
    backward: Callable[[np.ndarray], np.ndarray],
    uppers: Sequence[Callable[[np.ndarray], np.ndarray]],
    xs: np.ndarray,
) -> np.ndarray:
    """Layer 1 in both directions, concatenated; residual connections from layer 3 on (section 3).

    Every argument but xs (Tx, D) is a recurrent layer over one sequence.
    """
    xs = np.concatenate([forward(xs), backward(xs[::-1])[::-1]], axis=1)
    for i, layer in enumerate(uppers, 2):
        xs = layer(xs) + xs if i >= 3 else layer(xs)
    return xs

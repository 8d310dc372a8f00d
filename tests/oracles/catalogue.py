"""One step of the catalogue's cells, transcribed from the equations of the papers that each names.

`cell(p, x, state)` returns (y, state); x (D,), the parts of the state are vectors or matrices of
one row, p holds the weights under the paper's letters: on the input (H, D), on the state (H, H).
Everything is analytic, so that gradients follow by a complex step; max and relu choose by real
parts. `run` goes along a sequence.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, Any]
State = tuple[np.ndarray, ...]


def run(
    step: Callable[..., Any], p: Arrays, x: np.ndarray, state: State
) -> tuple[np.ndarray, State]:
    """Return y (T, ...) and the last state, from x (T, D)."""
    ys = []
    for x_t in x:
        y, state = step(p, x_t, state)
        ys.append(y)
    return np.array(ys), state


def sigmoid(a: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-a)), by way of tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * a))


def relu(a: np.ndarray) -> np.ndarray:
    """max(a, 0), chosen by the real part."""
    return np.where(a.real > 0, a, 0)


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The larger by the real part."""
    return np.where(a.real > b.real, a, b)


def norm(a: np.ndarray) -> np.ndarray:
    """(a - mean) / sqrt(variance + 1e-5), without abs, which a complex step could not pass."""
    centred = a - a.mean()
    return centred / np.sqrt((centred * centred).mean() + 1e-5)


# --- what the lectures and the book name ---------------------------------------------------------


def vanilla(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Goodfellow et al., eq 10.8 and 10.9."""
    (h,) = state
    h = np.tanh(p["b"] + p["W"] @ h + p["U"] @ x)
    return h, (h,)


def leaky(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Goodfellow et al., section 10.9.2: mu <- alpha mu + (1 - alpha) v, v the usual unit."""
    (h,) = state
    v = np.tanh(p["b"] + p["W"] @ h + p["U"] @ x)
    h = p["alpha"] * h + (1 - p["alpha"]) * v
    return h, (h,)


def leaky_learned(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """The same, alpha = sigma(a) with free a."""
    return leaky({**p, "alpha": sigmoid(p["a"])}, x, state)


def delayed(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Section 10.9.1: h(t) = tanh(b + U x(t) + sum over delays d of W_d h(t - d)).

    state: h(t-1), h(t-2), ..., as many as the longest delay; p["W"] maps d to W_d.
    """
    a = p["b"] + p["U"] @ x
    for d, W in p["W"].items():
        a = a + W @ state[d - 1]
    h = np.tanh(a)
    return h, (h, *state[:-1])


def clockwork(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Koutnik et al. 2014, section 3: module i runs at steps t with t mod T_i = 0.

    state: the modules' outputs h (H,) joined and the number t of steps so far. p["periods"] are the
    T_i, increasing; W_i has columns for module i and those slower, zero for the faster.
    """
    h, t = state
    size = len(h) // len(p["periods"])
    modules = []
    for i, period in enumerate(p["periods"]):
        rows = slice(i * size, (i + 1) * size)
        if t % period == 0:
            W_i, slower = p["W"][rows, i * size :], h[i * size :]
            modules.append(np.tanh(p["U"][rows] @ x + W_i @ slower + p["b"][rows]))
        else:
            modules.append(h[rows])
    h = np.concatenate(modules)
    return h, (h, t + 1)


def book_lstm(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Goodfellow et al., eq 10.40-10.44, the squashing of the candidate in p["squash"]."""
    h, s = state
    f = sigmoid(p["b_f"] + p["U_f"] @ x + p["W_f"] @ h)  # 10.40
    g = sigmoid(p["b_g"] + p["U_g"] @ x + p["W_g"] @ h)  # 10.42
    s = f * s + g * p["squash"](p["b"] + p["U"] @ x + p["W"] @ h)  # 10.41
    q = sigmoid(p["b_o"] + p["U_o"] @ x + p["W_o"] @ h)  # 10.44
    h = np.tanh(s) * q  # 10.43
    return h, (h, s)


def lstm(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Hochreiter and Schmidhuber 1997, Gers et al. 2000, as in Greff et al. 2017 without peepholes.

    p["zoneout_h"] and p["zoneout_c"], where given, are Krueger et al. 2017's rates at test time.
    """
    h, c = state
    i = sigmoid(p["U_i"] @ x + p["W_i"] @ h + p["b_i"])
    f = sigmoid(p["U_f"] @ x + p["W_f"] @ h + p["b_f"])
    g = np.tanh(p["U_g"] @ x + p["W_g"] @ h + p["b_g"])
    o = sigmoid(p["U_o"] @ x + p["W_o"] @ h + p["b_o"])
    z_h, z_c = p.get("zoneout_h", 0.0), p.get("zoneout_c", 0.0)
    h_new = o * np.tanh(f * c + i * g)
    c_new = f * c + i * g
    h, c = z_h * h + (1 - z_h) * h_new, z_c * c + (1 - z_c) * c_new
    return h, (h, c)


def peephole(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Graves 2013, eq 7-11: W_ci, W_cf, W_co diagonal (vectors), the output gate sees c(t)."""
    h, c = state

    def see(w: np.ndarray, c: np.ndarray) -> np.ndarray:
        return w * c if w.ndim == 1 else w @ c

    i = sigmoid(p["W_xi"] @ x + p["W_hi"] @ h + see(p["W_ci"], c) + p["b_i"])
    f = sigmoid(p["W_xf"] @ x + p["W_hf"] @ h + see(p["W_cf"], c) + p["b_f"])
    c = f * c + i * np.tanh(p["W_xc"] @ x + p["W_hc"] @ h + p["b_c"])
    o = sigmoid(p["W_xo"] @ x + p["W_ho"] @ h + see(p["W_co"], c) + p["b_o"])
    h = o * np.tanh(c)
    return h, (h, c)


def coupled(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """CIFG of Greff et al. 2017: f = 1 - i."""
    h, c = state
    i = sigmoid(p["U_i"] @ x + p["W_i"] @ h + p["b_i"])
    g = np.tanh(p["U_g"] @ x + p["W_g"] @ h + p["b_g"])
    o = sigmoid(p["U_o"] @ x + p["W_o"] @ h + p["b_o"])
    c = (1 - i) * c + i * g
    h = o * np.tanh(c)
    return h, (h, c)


def projected(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """LSTMP of Sak et al. 2014 without peepholes: r = W_rm m is what recurs and what is output."""
    r, c = state
    i = sigmoid(p["U_i"] @ x + p["W_i"] @ r + p["b_i"])
    f = sigmoid(p["U_f"] @ x + p["W_f"] @ r + p["b_f"])
    g = np.tanh(p["U_g"] @ x + p["W_g"] @ r + p["b_g"])
    o = sigmoid(p["U_o"] @ x + p["W_o"] @ r + p["b_o"])
    c = f * c + i * g
    m = o * np.tanh(c)
    r = p["W_rm"] @ m
    return r, (r, c)


def layer_norm_lstm(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Ba, Kiros and Hinton 2016, eq 20-22: LN over all four gates of each product, and over c."""
    h, c = state
    a = p["gain_h"] * norm(p["W_h"] @ h) + p["bias_h"]
    a = a + p["gain_x"] * norm(p["W_x"] @ x) + p["bias_x"] + p["b"]
    i, f, g, o = np.split(a, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(p["gain_c"] * norm(c) + p["bias_c"])
    return h, (h, c)


def gru_after(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """torch.nn.GRU, Keras reset_after=True, ONNX linear_before_reset=1."""
    (h,) = state
    r = sigmoid(p["U_r"] @ x + p["W_r"] @ h + p["b_r"])
    z = sigmoid(p["U_z"] @ x + p["W_z"] @ h + p["b_z"])
    n = np.tanh(p["U_n"] @ x + p["b_n"] + r * (p["W_n"] @ h + p["bh_n"]))
    h = (1 - z) * n + z * h
    return h, (h,)


def gru_before(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Cho et al. 2014, Keras reset_after=False, ONNX linear_before_reset=0."""
    (h,) = state
    r = sigmoid(p["U_r"] @ x + p["W_r"] @ h + p["b_r"])
    z = sigmoid(p["U_z"] @ x + p["W_z"] @ h + p["b_z"])
    n = np.tanh(p["U_n"] @ x + p["b_n"] + p["W_n"] @ (r * h))
    h = (1 - z) * n + z * h
    return h, (h,)


def book_gru(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Goodfellow et al., eq 10.45-10.47: x is x(t-1), the state h(t-1), the result h(t)."""
    (h,) = state
    u = sigmoid(p["b_u"] + p["U_u"] @ x + p["W_u"] @ h)  # 10.46 at t-1
    r = sigmoid(p["b_r"] + p["U_r"] @ x + p["W_r"] @ h)  # 10.47 at t-1
    h = u * h + (1 - u) * sigmoid(p["b"] + p["U"] @ x + p["W"] @ (r * h))  # 10.45
    return h, (h,)


def deep(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Fig 10.13b and c: one hidden layer inside x -> h, h -> h and h -> y; c adds W h directly."""
    (h,) = state
    a = p["V_x"] @ np.tanh(p["U_x"] @ x + p["b_x"]) + p["c_x"]
    a = a + p["V_h"] @ np.tanh(p["U_h"] @ h + p["b_h"]) + p["c_h"]
    if "W" in p:
        a = a + p["W"] @ h
    h = np.tanh(a)
    return p["V_y"] @ np.tanh(p["U_y"] @ h + p["b_y"]) + p["c_y"], (h,)


# --- published cells -----------------------------------------------------------------------------


def indrnn(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Li et al. 2018, eq 2: h = sigma(W x + u * h + b), sigma = relu."""
    (h,) = state
    h = relu(p["W"] @ x + p["u"] * h + p["b"])
    return h, (h,)


def mgu(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Zhou et al. 2016, the minimal gated unit: one gate."""
    (h,) = state
    f = sigmoid(p["W_f"] @ np.concatenate([h, x]) + p["b_f"])
    candidate = np.tanh(p["W_h"] @ np.concatenate([f * h, x]) + p["b_h"])
    h = (1 - f) * h + f * candidate
    return h, (h,)


def rhn(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Zilly et al. 2017, eq 6-9: L highway layers within a step, x enters the first alone."""
    (s,) = state
    for layer in range(len(p["R_H"])):
        first = 1.0 if layer == 0 else 0.0
        h = np.tanh(first * (p["W_H"] @ x) + p["R_H"][layer] @ s + p["b_H"][layer])
        t = sigmoid(first * (p["W_T"] @ x) + p["R_T"][layer] @ s + p["b_T"][layer])
        c = sigmoid(first * (p["W_C"] @ x) + p["R_C"][layer] @ s + p["b_C"][layer])
        s = h * t + s * c
    return s, (s,)


def qrnn(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Bradbury et al. 2017, eq 2 and 4, width 2, fo-pooling; state c and x(t-1)."""
    c, before = state
    z = np.tanh(p["W1_z"] @ before + p["W2_z"] @ x)
    f = sigmoid(p["W1_f"] @ before + p["W2_f"] @ x)
    o = sigmoid(p["W1_o"] @ before + p["W2_o"] @ x)
    c = f * c + (1 - f) * z
    return o * c, (c, x)


def sru(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Lei et al. 2018, eq 1-4, x through W_s where D != H."""
    (c,) = state
    f = sigmoid(p["W_f"] @ x + p["v_f"] * c + p["b_f"])
    r = sigmoid(p["W_r"] @ x + p["v_r"] * c + p["b_r"])
    c = f * c + (1 - f) * (p["W"] @ x)
    h = r * c + (1 - r) * (p["W_s"] @ x if "W_s" in p else x)
    return h, (c,)


def ugrnn(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Collins et al. 2017, the update gate RNN."""
    (h,) = state
    c = np.tanh(p["W_ch"] @ h + p["W_cx"] @ x + p["b_c"])
    g = sigmoid(p["W_gh"] @ h + p["W_gx"] @ x + p["b_g"])
    h = g * h + (1 - g) * c
    return h, (h,)


def antisymmetric(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Chang et al. 2019, with gating: Euler steps of length epsilon."""
    (h,) = state
    A = p["W_h"] - p["W_h"].T - p["gamma"] * np.eye(len(h))
    z = sigmoid(A @ h + p["V_z"] @ x + p["b_z"])
    h = h + p["epsilon"] * z * np.tanh(A @ h + p["V_h"] @ x + p["b_h"])
    return h, (h,)


def cornn(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Rusch and Mishra 2021, eq 3 with n-bar = n - 1: y positions, z velocities."""
    y, z = state
    dt = p["dt"]
    force = np.tanh(p["W"] @ y + p["W_z"] @ z + p["V"] @ x + p["b"])
    z = z + dt * force - dt * p["gamma"] * y - dt * p["epsilon"] * z
    y = y + dt * z
    return y, (y, z)


def fastgrnn(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Kusupati et al. 2018, section 3.2: gate and candidate share W, U; zeta, nu in (0, 1)."""
    (h,) = state
    zeta, nu = sigmoid(p["zeta"]), sigmoid(p["nu"])
    z = sigmoid(p["W"] @ x + p["U"] @ h + p["b_z"])
    candidate = np.tanh(p["W"] @ x + p["U"] @ h + p["b_h"])
    h = (zeta * (1 - z) + nu) * candidate + z * h
    return h, (h,)


def slstm(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Beck et al. 2024, eq 8-17: exponential input gate, normaliser n, stabiliser m.

    The state holds c and n over exp(m), as eq 15-17 do; the step itself is eq 8-14, which knows
    no m, on the true c and n.
    """
    h, c, n, m = state
    c, n = c * np.exp(m), n * np.exp(m)
    z = np.tanh(p["W_z"] @ x + p["R_z"] @ h + p["b_z"])
    i_tilde = p["W_i"] @ x + p["R_i"] @ h + p["b_i"]
    i = np.exp(i_tilde)
    f = sigmoid(p["W_f"] @ x + p["R_f"] @ h + p["b_f"])
    o = sigmoid(p["W_o"] @ x + p["R_o"] @ h + p["b_o"])
    c = f * c + i * z
    n = f * n + i
    h = o * (c / n)
    m = maximum(np.log(f) + m, i_tilde)  # eq 15
    return h, (h, c * np.exp(-m), n * np.exp(-m), m)


def mlstm(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Beck et al. 2024, eq 19-27, one head, f = sigma: a matrix memory C = f C + i v k^T.

    As above: C and n come and go over exp(m), the step is that without stabiliser.
    """
    C, n, m = state
    C, n = C * np.exp(m), n * np.exp(m)
    q = p["W_q"] @ x + p["b_q"]
    k = (p["W_k"] @ x) / np.sqrt(len(n)) + p["b_k"]
    v = p["W_v"] @ x + p["b_v"]
    i_tilde = p["w_i"] @ x + p["b_i"]
    i = np.exp(i_tilde)
    f = sigmoid(p["w_f"] @ x + p["b_f"])
    o = sigmoid(p["W_o"] @ x + p["b_o"])
    C = f * C + i * np.outer(v, k)
    n = f * n + i * k
    along = n @ q
    along = along if along.real > 0 else -along
    h = o * (C @ q) / maximum(along, np.ones(()))
    m = maximum(np.log(f) + m, i_tilde)
    return h, (C * np.exp(-m), n * np.exp(-m), m)


def scrn(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Mikolov et al. 2015, eq 3-5 with the output linear: a slow context s beside h."""
    h, s = state
    s = (1 - p["alpha"]) * (p["B"] @ x) + p["alpha"] * s
    h = sigmoid(p["P"] @ s + p["A"] @ x + p["R"] @ h)
    return p["U"] @ h + p["V"] @ s, (h, s)


def multiplicative_lstm(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Krause et al. 2016, the mLSTM: m in h's place, a transition for every input."""
    h, c = state
    m = (p["W_mx"] @ x) * (p["W_mh"] @ h)
    i = sigmoid(p["W_ix"] @ x + p["W_im"] @ m + p["b_i"])
    f = sigmoid(p["W_fx"] @ x + p["W_fm"] @ m + p["b_f"])
    g = np.tanh(p["W_hx"] @ x + p["W_hm"] @ m + p["b_h"])
    o = sigmoid(p["W_ox"] @ x + p["W_om"] @ m + p["b_o"])
    c = f * c + i * g
    h = np.tanh(c) * o
    return h, (h, c)


def lmu(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Voelker et al. 2019, eq 2 and 4-7: m' = A m + B u, Legendre memory, Euler's A and B."""
    h, m = state
    d = len(m)
    A, B = np.zeros((d, d)), np.zeros(d)
    for i in range(d):
        B[i] = (2 * i + 1) * (-1.0) ** i
        for j in range(d):
            A[i, j] = (2 * i + 1) * (-1.0 if i < j else (-1.0) ** (i - j + 1))
    A, B = np.eye(d) + A / p["theta"], B / p["theta"]
    u = p["e_x"] @ x + p["e_h"] @ h + p["e_m"] @ m
    m = A @ m + B * u
    h = np.tanh(p["W_x"] @ x + p["W_h"] @ h + p["W_m"] @ m)
    return h, (h, m)


def lru(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Orvieto et al. 2023, section 3: complex h = lambda h + gamma B x, y = Re(C h) + D x.

    Real and imaginary parts are kept apart, (a + ib)(c + id) written out, for the complex step.
    lambda = exp(-exp(nu) + i exp(theta)); gamma, learned by its log, normalises x B.
    """
    re, im = state
    size, angle = np.exp(-np.exp(p["nu"])), np.exp(p["theta"])
    l_re, l_im = size * np.cos(angle), size * np.sin(angle)
    gamma = np.exp(p["gamma"])
    re, im = (
        l_re * re - l_im * im + gamma * (p["B_re"] @ x),
        l_re * im + l_im * re + gamma * (p["B_im"] @ x),
    )
    return p["C_re"] @ re - p["C_im"] @ im + p["D"] @ x, (re, im)


def cfn(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Laurent and von Brecht 2017, eq 1-3: no chaos, h decays to 0 without input."""
    (h,) = state
    theta = sigmoid(p["U_theta"] @ h + p["V_theta"] @ x + p["b_theta"])
    eta = sigmoid(p["U_eta"] @ h + p["V_eta"] @ x + p["b_eta"])
    h = theta * np.tanh(h) + eta * np.tanh(p["W"] @ x)
    return h, (h,)


def fast_weights(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Ba et al. 2016, eq 1-2: A = lambda A + eta h h^T, then S inner steps with layer norm.

    A(t) is made from h(t), the state before the step; f = relu.
    """
    h, A = state
    A = p["lambda"] * A + p["eta"] * np.outer(h, h)
    boundary = p["W"] @ h + p["C"] @ x + p["b"]
    h = relu(boundary)
    for _ in range(p["S"]):
        h = relu(p["gain"] * norm(boundary + A @ h) + p["bias"])
    return h, (h, A)


def ran(p: Arrays, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Lee et al. 2017, eq 1: additive, the candidate is W x alone; h = tanh(c)."""
    h, c = state
    i = sigmoid(p["W_ih"] @ h + p["W_ix"] @ x + p["b_i"])
    f = sigmoid(p["W_fh"] @ h + p["W_fx"] @ x + p["b_f"])
    c = i * (p["W_cx"] @ x) + f * c
    h = np.tanh(c)
    return h, (h, c)

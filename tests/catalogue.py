"""The cells of the catalogue beside their transcriptions: whose weights are called what.

`names(w)` gives the weights w of a cell, arrays (in, out) under their state_dict names, as the
paper calls them, matrices (out, in). It only cuts and transposes, so that complex numbers pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad_rnn import unroll
from minigrad_rnn.catalogue import CATALOGUE
from minigrad_rnn.timescales import leaky_groups
from tests.oracles import catalogue as papers
from tests.recurrent import close, complex_step, randomise

Arrays = dict[str, Any]
T, B, D, H = 3, 2, 3, 4


def cut(array: np.ndarray, *names: str) -> Arrays:
    """Equal pieces of the last axis by name; matrices transposed to (out, in)."""
    pieces = np.split(array, len(names), axis=-1)
    return {name: piece.T for name, piece in zip(names, pieces, strict=True)}


def gates(w: Arrays, *suffixes: str, x: str = "U", h: str = "W", b: str = "b") -> Arrays:
    """Wx, Wh, b cut into x + suffix, h + suffix, b + suffix."""
    return (
        cut(w["Wx"], *(x + s for s in suffixes))
        | cut(w["Wh"], *(h + s for s in suffixes))
        | cut(w["b"], *(b + s for s in suffixes))
    )


def lstm(w: Arrays) -> Arrays:
    return gates(w, "_i", "_f", "_g", "_o")


def book_lstm(w: Arrays) -> Arrays:
    """The book's g is the input gate, its f the forget gate, q has the weights with an o."""
    return gates(w, "_g", "_f", "", "_o") | {"squash": papers.sigmoid}


def peephole(w: Arrays) -> Arrays:
    p = dict(zip(("W_ci", "W_cf", "W_co"), w["p"], strict=True))
    return gates(w, "i", "f", "c", "o", x="W_x", h="W_h", b="b_") | {k: v.T for k, v in p.items()}


def layer_norm_lstm(w: Arrays) -> Arrays:
    norms = {f"gain_{k}": w[f"norm_{k}.gain"] for k in "xhc"}
    norms |= {f"bias_{k}": w[f"norm_{k}.b"] for k in "xhc"}
    return {"W_x": w["Wx"].T, "W_h": w["Wh"].T, "b": w["b"], **norms}


def gru(w: Arrays) -> Arrays:
    return gates(w, "_r", "_z", "_n") | ({"bh_n": w["bh"]} if "bh" in w else {})


def deep(w: Arrays) -> Arrays:
    names = {}
    for block, k in (("input", "x"), ("transition", "h"), ("output", "y")):
        for layer, matrix, bias in ((0, "U", "b"), (1, "V", "c")):
            names[f"{matrix}_{k}"] = w[f"{block}.layers.{layer}.W"].T
            names[f"{bias}_{k}"] = w[f"{block}.layers.{layer}.b"]
    return names | ({"W": w["W"].T} if "W" in w else {})


def mgu(w: Arrays) -> Arrays:
    """The paper's matrices act on [h, x]."""
    both = np.concatenate([w["Wh"], w["Wx"]])
    return cut(both, "W_f", "W_h") | cut(w["b"], "b_f", "b_h")


def rhn(w: Arrays) -> Arrays:
    names = cut(w["W"], "W_H", "W_T", "W_C")
    layers = [cut(w[f"R.{n}"], "R_H", "R_T", "R_C") for n in range(2)]
    biases = [cut(w[f"b.{n}"], "b_H", "b_T", "b_C") for n in range(2)]
    for k in "HTC":
        names[f"R_{k}"] = [layer[f"R_{k}"] for layer in layers]
        names[f"b_{k}"] = [bias[f"b_{k}"] for bias in biases]
    return names


def sru(w: Arrays) -> Arrays:
    names = cut(w["Wx"], "W", "W_f", "W_r") | cut(w["v"], "v_f", "v_r") | cut(w["b"], "b_f", "b_r")
    return names | ({"W_s": w["Ws"].T} if "Ws" in w else {})


def lru(w: Arrays) -> Arrays:
    names = cut(w["B"], "B_re", "B_im") | cut(w["C"].T, "C_re", "C_im")
    names = {k: v.T if k.startswith("C") else v for k, v in names.items()}
    return names | {k: w[k] for k in ("nu", "theta", "gamma")} | {"D": w["skip"].T}


def mlstm(w: Arrays) -> Arrays:
    names = cut(w["W"], "W_q", "W_k", "W_v", "W_o") | cut(w["b"], "b_q", "b_k", "b_v", "b_o")
    names |= {"w_i": w["w"][:, 0], "w_f": w["w"][:, 1]}
    return names | {"b_i": w["b_if"][:1], "b_f": w["b_if"][1:]}


def leaky(w: Arrays) -> Arrays:
    return gates(w, "") | {"alpha": w["fixed"]}


def by_hand(table: dict[str, str], **constants: Any) -> Callable[[Arrays], Arrays]:
    """The paper's name for each of ours: matrices transposed; and the cell's fixed numbers."""
    return lambda w: {theirs: w[ours].T for ours, theirs in table.items()} | constants


def antisymmetric(w: Arrays) -> Arrays:
    names = cut(w["V"], "V_z", "V_h") | cut(w["b"], "b_z", "b_h")
    return names | {"W_h": w["W"].T, "epsilon": 0.1, "gamma": 0.01}


def multiplicative(w: Arrays) -> Arrays:
    names = cut(w["Wx"], "W_ix", "W_fx", "W_hx", "W_ox") | cut(w["b"], "b_i", "b_f", "b_h", "b_o")
    names |= cut(w["Wh"], "W_im", "W_fm", "W_hm", "W_om")
    return names | {"W_mx": w["Wmx"].T, "W_mh": w["Wmh"].T}


@dataclass(frozen=True)
class Published:
    """A transcription and how it calls a cell's weights; `parts` changes random states that fit."""

    step: Callable[..., Any]
    names: Callable[[Arrays], Arrays]
    parts: Callable[..., Any] = lambda *parts: parts


def counted(h: Any, t: Any) -> Any:
    """A clock in the middle of its round, not the same in each row."""
    return h, np.arange(len(t))


def positive(*parts: Any) -> Any:
    """The normaliser of an sLSTM is positive."""
    h, c, n, m = parts
    return h, c, 1 + abs(n), m


SUFFIX_H = {"W": "W", "b": "b"}
ORACLES = {
    "RNN": Published(papers.vanilla, lambda w: gates(w, "")),
    "leaky, fixed": Published(papers.leaky, leaky),
    "leaky, sampled": Published(papers.leaky, leaky),
    "leaky, learned": Published(
        papers.leaky_learned, lambda w: gates(w, "") | {"a": w["alpha_logit"]}
    ),
    "delays 1 and 3": Published(
        papers.delayed,
        lambda w: {"U": w["Wx"].T, "b": w["b"], "W": {1: w["Wh.0"].T, 3: w["Wh.1"].T}},
    ),
    "clockwork": Published(papers.clockwork, lambda w: gates(w, "") | {"periods": (1, 2)}, counted),
    "deep (b)": Published(papers.deep, deep),
    "deep (c)": Published(papers.deep, deep),
    "LSTM": Published(papers.lstm, lstm),
    "LSTM of the book": Published(papers.book_lstm, book_lstm),
    "LSTM, peephole": Published(papers.peephole, peephole),
    "LSTM, full peephole": Published(papers.peephole, peephole),
    "LSTM, coupled": Published(papers.coupled, lambda w: gates(w, "_i", "_g", "_o")),
    "LSTM, projected": Published(papers.projected, lambda w: lstm(w) | {"W_rm": w["Wy"].T}),
    "LSTM, layer norm": Published(papers.layer_norm_lstm, layer_norm_lstm),
    "LSTM, zoneout": Published(
        papers.lstm,
        lambda w: (
            lstm({k.removeprefix("cell."): v for k, v in w.items()})
            | {"zoneout_h": 0.2, "zoneout_c": 0.4}
        ),
    ),
    "GRU": Published(papers.gru_after, gru),
    "GRU, reset before": Published(papers.gru_before, gru),
    "GRU of the book": Published(papers.book_gru, lambda w: gates(w, "_r", "_u", "")),
    "IndRNN": Published(papers.indrnn, by_hand({"W": "W", "u": "u", "b": "b"})),
    "MGU": Published(papers.mgu, mgu),
    "UGRNN": Published(
        papers.ugrnn,
        lambda w: (
            cut(w["Wx"], "W_gx", "W_cx") | cut(w["Wh"], "W_gh", "W_ch") | cut(w["b"], "b_g", "b_c")
        ),
    ),
    "antisymmetric": Published(papers.antisymmetric, antisymmetric),
    "FastGRNN": Published(
        papers.fastgrnn,
        lambda w: (
            {"W": w["W"].T, "U": w["U"].T, "zeta": w["zeta"], "nu": w["nu"]}
            | cut(w["b"], "b_z", "b_h")
        ),
    ),
    "CFN": Published(
        papers.cfn,
        lambda w: (
            {"W": w["W"].T}
            | cut(w["V"], "V_theta", "V_eta")
            | cut(w["U"], "U_theta", "U_eta")
            | cut(w["b"], "b_theta", "b_eta")
        ),
    ),
    "RHN": Published(papers.rhn, rhn),
    "QRNN": Published(
        papers.qrnn,
        lambda w: cut(w["W1"], "W1_z", "W1_f", "W1_o") | cut(w["W2"], "W2_z", "W2_f", "W2_o"),
    ),
    "SRU": Published(papers.sru, sru),
    "RAN": Published(
        papers.ran,
        lambda w: (
            {"W_cx": w["W"].T}
            | cut(w["Wx"], "W_ix", "W_fx")
            | cut(w["Wh"], "W_ih", "W_fh")
            | cut(w["b"], "b_i", "b_f")
        ),
    ),
    "SCRN": Published(
        papers.scrn,
        by_hand(
            {"Wx": "A", "Wh": "R", "Ws": "B", "P": "P", "Uh": "U", "Us": "V"},
            alpha=0.95,
        ),
    ),
    "multiplicative LSTM": Published(papers.multiplicative_lstm, multiplicative),
    "coRNN": Published(
        papers.cornn,
        by_hand({"W": "W", "Wz": "W_z", "V": "V", "b": "b"}, dt=0.1, gamma=1.0, epsilon=1.0),
    ),
    "LRU": Published(papers.lru, lru),
    "LMU": Published(
        papers.lmu,
        by_hand(
            {"ex": "e_x", "eh": "e_h", "em": "e_m", "Wx": "W_x", "Wh": "W_h", "Wm": "W_m"},
            theta=16.0,
        ),
    ),
    "sLSTM": Published(
        papers.slstm, lambda w: gates(w, "_i", "_f", "_z", "_o", x="W", h="R"), positive
    ),
    "mLSTM": Published(papers.mlstm, mlstm),
    "fast weights": Published(
        papers.fast_weights,
        by_hand(
            {"W": "W", "C": "C", "b": "b", "gain": "gain", "bias": "bias"},
            **{"lambda": 0.95, "eta": 0.5, "S": 1},
        ),
    ),
}


@dataclass(frozen=True)
class Case:
    """Random weights, inputs (T, B, D) and states of a cell, and what its paper makes of them.

    The loss is sum(ys * weight) + sum of the last state's float parts * theirs.
    """

    weights: Arrays
    xs: np.ndarray
    state: list[np.ndarray]
    weight: np.ndarray
    last_weights: list[np.ndarray]
    ys: np.ndarray
    last: list[np.ndarray]
    gradients: Arrays  # by the name of a parameter, "xs", or "state.0" ...


# Settings that turn one cell into another: make, and the transcription of what it then is.
VARIANTS = {
    "LSTM of the book, tanh": (
        lambda D, H, dtype: rnn.BookLSTMCell(D, H, candidate="tanh", dtype=dtype),
        Published(papers.lstm, lstm),
    ),
    "leaky, not at all": (
        lambda D, H, dtype: rnn.LeakyCell(D, H, 0.0, dtype=dtype),
        Published(papers.vanilla, lambda w: gates(w, "")),
    ),
    "delays 2 and 3": (
        lambda D, H, dtype: rnn.DelayCell(D, H, (2, 3), dtype=dtype),
        Published(
            papers.delayed,
            lambda w: {"U": w["Wx"].T, "b": w["b"], "W": {2: w["Wh.0"].T, 3: w["Wh.1"].T}},
        ),
    ),
    "leaky groups": (
        lambda D, H, dtype: rnn.LeakyCell(D, H, leaky_groups(H, [0.0, 0.9]), dtype=dtype),
        Published(papers.leaky, leaky),
    ),
}


def make(name: str, D: int = D, H: int = H) -> Any:
    """A cell of the catalogue in float64 with fixed random weights, not training."""
    mg.random.seed(0)
    build = CATALOGUE[name] if name in CATALOGUE else VARIANTS[name][0]
    return randomise(build(D, H, dtype="float64").eval(), np.random.default_rng(len(name)))


@functools.cache
def case(name: str) -> Case:
    """The case of a cell, the same on every backend."""
    oracle = ORACLES[name] if name in ORACLES else VARIANTS[name][1]
    rng = np.random.default_rng(7)
    with mg.use_backend("numpy"):
        cell = make(name)
        weights = {k: v.numpy().copy() for k, v in cell.state_dict().items()}
        free = dict(cell.named_parameters())
        start = tree.flatten(cell.initial_state(B))[0]
        y, _ = cell(mg.zeros((B, D), dtype="float64"), cell.initial_state(B))
    xs, weight = rng.normal(size=(T, B, D)), rng.normal(size=(T, *y.shape))
    state = list(oracle.parts(*(0.5 * rng.normal(size=s.shape) for s in start)))
    last_weights = [rng.normal(size=s.shape) for s in start]
    ys, last = run(oracle, weights, xs, state)
    values = {k: weights[k] for k in free} | {"xs": xs}
    floats = {f"state.{i}": s for i, s in enumerate(state) if s.dtype.kind == "f"}

    def loss(v: Arrays) -> Any:
        ys, last = run(
            oracle, weights | v, v["xs"], [v.get(f"state.{i}", s) for i, s in enumerate(state)]
        )
        ends = [np.sum(s * w) for s, w in zip(last, last_weights, strict=True)]
        return np.sum(ys * weight) + sum(e for i, e in enumerate(ends) if f"state.{i}" in floats)

    values |= floats
    gradients = {k: complex_step(loss, values, k) for k in values}
    return Case(weights, xs, state, weight, last_weights, ys, last, gradients)


def run(oracle: Published, weights: Arrays, xs: Any, state: Any) -> tuple[Any, list[Any]]:
    """ys (T, B, ...) and the parts of the last state (B, ...), row by row."""
    p = oracle.names(weights)
    results = [
        papers.run(oracle.step, p, xs[:, b], tuple(s[b] for s in state)) for b in range(xs.shape[1])
    ]
    ys = np.stack([ys for ys, _ in results], axis=1)
    return ys, [np.stack(parts) for parts in zip(*(s for _, s in results), strict=True)]


def compare(name: str, wrap: Callable[..., Any] = lambda f: f) -> None:
    """Demand a case's values, and its gradients by all parameters, inputs and first state."""
    expected, cell = case(name), make(name)
    cell.load_state_dict(expected.weights)
    parts, rebuild = tree.flatten(cell.initial_state(B))
    leaves = [
        mg.Tensor(value, requires_grad=value.dtype.kind == "f", dtype=part.dtype)
        for value, part in zip(expected.state, parts, strict=True)
    ]
    xs = mg.Tensor(expected.xs, requires_grad=True)

    @wrap
    def run(xs: mg.Tensor, leaves: list[mg.Tensor]) -> Any:
        ys, last = unroll(cell, xs, rebuild(leaves))
        loss = mg.sum(ys * mg.Tensor(expected.weight))
        for part, weight in zip(tree.flatten(last)[0], expected.last_weights, strict=True):
            if part.dtype.kind == "f":
                loss = loss + mg.sum(part * mg.Tensor(weight))
        loss.backward()
        return ys, last

    ys, last = run(xs, leaves)
    close(ys, expected.ys)
    for part, value in zip(tree.flatten(last)[0], expected.last, strict=True):
        close(part, value)
    found = {k: p.grad for k, p in cell.named_parameters()} | {"xs": xs.grad}
    found |= {f"state.{i}": leaf.grad for i, leaf in enumerate(leaves) if leaf.requires_grad}
    assert set(found) == set(expected.gradients)
    for key, value in expected.gradients.items():
        close(np.zeros_like(value) if found[key] is None else found[key], value, 1e-11)

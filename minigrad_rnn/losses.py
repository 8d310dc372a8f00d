"""Losses of applications: CTC for labels without an alignment, mixture densities for real numbers.

Letters: T time, B batch, V symbols, S target length, M components, D coordinates.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad import arguments
from minigrad import functional as F
from minigrad_rnn.unrolling import real_steps, unroll

IMPOSSIBLE = -1e30  # log 0, with which one can calculate
REDUCTIONS = {"mean": mg.mean, "sum": mg.sum, "none": lambda losses: losses}

# --- connectionist temporal classification -------------------------------------------------------


def ctc(
    logits: mg.Tensor,
    targets: Any,
    *,
    lengths: Any = None,
    target_lengths: Any = None,
    blank: int = 0,
    reduction: str = "mean",
) -> mg.Tensor:
    """-log p(targets | logits), summed over all alignments (Graves et al. 2006, eq 2, 3 and 6-8).

    A path has a symbol or the blank at each step; it stands for what is left when repeated symbols
    become one and the blanks go. logits (T, B, V); targets (S, B), integers other than the blank;
    lengths and target_lengths (B,): what lies beyond, NaN included, reaches nothing. reduction: the
    "mean" or "sum" over rows, or "none", (B,). A target that no path stands for, as T is too short,
    costs inf and has gradient 0; an empty target has one path, all blanks.
    Raises ShapeError, DtypeError and IndexRangeError for what does not fit.
    """
    T, B, V = _frames("ctc", logits, blank)
    home = logits.backend
    labels = targets if isinstance(targets, mg.Tensor) else mg.Tensor(targets, backend=home)
    if labels.ndim != 2 or labels.shape[1] != B or (labels.size and labels.dtype.kind not in "iu"):
        raise mg.ShapeError(
            f"ctc: targets are integers (S, B) with B = {B}, not {labels.dtype} of {labels.shape}"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}: give 'mean', 'sum' or 'none'")
    labels, S = labels.astype("int64"), labels.shape[0]  # V is out of range, and no byte
    real = real_steps(T, B, lengths, None, home, "ctc")
    given = real_steps(S, B, target_lengths, None, home, "ctc targets")
    counts = mg.full(B, S, backend=home) if given is None else mg.sum(given, axis=0)
    if real is not None:
        logits = mg.where(mg.expand_dims(real, -1), logits, 0)

    # l', the targets with a blank before, between and after them, (B, 2S + 1)
    labels = mg.where((labels < 0) | (labels == blank), V, labels)  # out of range, both of them
    if given is not None:
        labels = mg.where(given, labels, blank)
    pairs = mg.stack([labels.T, mg.full_like(labels.T, blank)], axis=-1).reshape(B, 2 * S)
    extended = mg.pad(pairs, ((0, 0), (1, 0)), blank)
    before = mg.pad(extended, ((0, 0), (2, 0)), blank)[:, :-2]
    may_skip = (extended != blank) & (extended != before)
    rows = mg.Tensor(np.arange(B)[:, None], backend=home)
    try:
        emitted = mg.maximum(F.log_softmax(logits)[:, rows, extended], IMPOSSIBLE)
    except mg.IndexRangeError:
        raise mg.IndexRangeError(
            f"ctc: targets are among 0 to {V - 1} without the blank, {blank}: {targets!r}"
        ) from None

    def forward(log_y: mg.Tensor, alpha: mg.Tensor) -> tuple[tuple[()], mg.Tensor]:
        """A step of log alpha (B, 2S + 1): stay, move on by one, or by two past a blank."""
        padded = mg.pad(alpha, ((0, 0), (2, 0)), IMPOSSIBLE)
        past = mg.where(may_skip, padded[:, :-2], IMPOSSIBLE)
        return (), mg.logsumexp(mg.stack([alpha, padded[:, 1:-1], past]), axis=0) + log_y

    place, end = mg.arange(2 * S + 1, backend=home), 2 * mg.expand_dims(counts, -1)
    nothing = mg.zeros((B, 2 * S + 1), dtype=logits.dtype, backend=home)
    alpha = mg.where(place == 0, nothing, IMPOSSIBLE)  # before the first blank
    _, alpha = unroll(forward, emitted, alpha, lengths=lengths)
    last = (place == end) | (place == end - 1)
    log_p = mg.logsumexp(mg.where(last, alpha, IMPOSSIBLE), axis=-1)
    losses = mg.where(log_p < 0.5 * IMPOSSIBLE, float("inf"), -log_p)
    return REDUCTIONS[reduction](losses)


def best_path(logits: mg.Tensor, *, lengths: Any = None, blank: int = 0) -> list[list[int]]:
    """What the likeliest path of each row stands for (Graves et al. 2006, eq 4).

    logits (T, B, V); of several labellings, it need not be the likeliest.
    """
    T, B, _ = _frames("best_path", logits, blank)
    real = real_steps(T, B, lengths, None, name="best_path")
    paths = mg.argmax(logits, axis=-1).numpy()
    counts = np.full(B, T) if real is None else real.numpy().sum(axis=0)
    rows = [paths[:n, b].tolist() for b, n in enumerate(counts)]
    return [
        [s for t, s in enumerate(row) if s != blank and (t == 0 or s != row[t - 1])] for row in rows
    ]


def _frames(name: str, logits: mg.Tensor, blank: int) -> tuple[int, int, int]:
    """T, B and V of logits that have the blank among them."""
    if logits.ndim != 3:
        raise mg.ShapeError(f"{name}: logits are (T, B, V), not {tuple(logits.shape)}")
    if logits.dtype.kind != "f":
        raise mg.DtypeError(f"{name}: logits are floating, not {logits.dtype}")
    T, B, V = logits.shape
    if arguments.size("blank", blank, 0) >= V:
        raise ValueError(f"blank={blank}: give an integer from 0 to {V - 1}")
    return T, B, V


# --- mixture densities ---------------------------------------------------------------------------

LOG_SIGMA, RHO = 20.0, 8.0  # beyond them float32 has no density; the gradient there is 0
LOG_2PI = math.log(2 * math.pi)


class Mixture(NamedTuple):
    """What a network's outputs say: log pi (..., M), mu and log sigma (..., M, D), atanh rho."""

    log_pi: mg.Tensor
    mu: mg.Tensor
    log_sigma: mg.Tensor
    rho: mg.Tensor | None  # (..., M), its hyperbolic tangent is the correlation
    end: mg.Tensor | None  # (...)


class MixtureDensity:
    """A density of real numbers from a network's outputs: a mixture of M Gaussians (Bishop 1994).

    Pr(x) = sum_j pi_j N(x | mu_j, sigma_j, rho_j), with pi = softmax, sigma = exp and rho = tanh of
    outputs (Graves 2013, eq 19-25). The D coordinates are independent in each component;
    correlated=True, for D = 2, adds rho. strokes=True adds a coordinate that is 1 at the end of a
    stroke, else 0: 1 with probability e = 1 / (1 + exp(output)) (eq 18, 23).
    The network gives `size` numbers: e, pi (M), mu (M, D), sigma (M, D), rho (M), before those
    functions. log sigma is held within +-20 and atanh rho within +-8.
    """

    def __init__(self, M: int, D: int = 2, correlated: bool = False, strokes: bool = False) -> None:
        self.M, self.D = arguments.size("M", M), arguments.size("D", D)
        self.correlated = arguments.flag("correlated", correlated)
        self.strokes = arguments.flag("strokes", strokes)
        if correlated and D != 2:
            raise ValueError(f"correlated=True needs D = 2 coordinates, not {D}")
        self.size = strokes + self.M * (1 + 2 * self.D + correlated)

    def start(self, batch: int) -> mg.Tensor:
        """Zeros (B, D), or (B, D + 1) with strokes."""
        return mg.zeros((batch, self.D + self.strokes))

    def mixture(self, outputs: mg.Tensor, bias: float = 0.0) -> Mixture:
        """The parameters that outputs (..., size) stand for; bias as in `sample`."""
        if outputs.shape[-1:] != (self.size,):
            raise mg.ShapeError(
                f"MixtureDensity: outputs of shape {tuple(outputs.shape)} need a last axis of "
                f"{self.size}"
            )
        M, D, first = self.M, self.D, int(self.strokes)
        ends = [first, first + M, first + M * (1 + D), first + M * (1 + 2 * D)]
        end, pi, mu, sigma, rho = mg.split(outputs, ends, axis=-1)
        shape = (*outputs.shape[:-1], M, D)
        return Mixture(
            F.log_softmax(pi * (1 + bias)),
            mu.reshape(shape),
            mg.clip(sigma.reshape(shape) - bias, -LOG_SIGMA, LOG_SIGMA),
            mg.clip(rho, -RHO, RHO) if self.correlated else None,
            end[..., 0] if self.strokes else None,
        )

    def log_density(self, outputs: mg.Tensor, x: mg.Tensor) -> mg.Tensor:
        """log Pr(x), (...), for x (..., D), or (..., D + 1) with strokes; the loss is minus that.

        Z / (1 - rho^2) of eq 24 is written as z1^2 + (z2 cosh r - z1 sinh r)^2, rho = tanh r.
        """
        m, width = self.mixture(outputs), self.D + self.strokes
        if x.shape != (*outputs.shape[:-1], width):
            raise mg.ShapeError(
                f"MixtureDensity: x of shape {tuple(x.shape)} does not fit outputs of shape "
                f"{tuple(outputs.shape)}: it needs {(*outputs.shape[:-1], width)}"
            )
        z = (mg.expand_dims(x[..., : self.D], -2) - m.mu) * mg.exp(-m.log_sigma)
        log_scale = mg.sum(m.log_sigma, axis=-1) + 0.5 * self.D * LOG_2PI
        if m.rho is not None:
            cosh = mg.cosh(m.rho)
            z1, z2 = z[..., 0], z[..., 1]
            z = mg.stack([z1, z2 * cosh - z1 * mg.sinh(m.rho)], axis=-1)
            log_scale = log_scale - mg.log(cosh)
        result = mg.logsumexp(m.log_pi - log_scale - 0.5 * mg.sum(z * z, axis=-1), axis=-1)
        if m.end is None:
            return result
        return result - F.binary_cross_entropy_with_logits(-m.end, x[..., -1], reduction="none")

    def sample(
        self, outputs: mg.Tensor, key: mg.random.Key | None = None, bias: float = 0.0
    ) -> mg.Tensor:
        """One x a row of outputs, as log_density takes it, drawn with key (one, or one a row).

        bias > 0 makes likely points likelier: pi = softmax(output (1 + bias)), sigma =
        exp(output - bias) (Graves 2013, section 5.4). No gradient passes.
        """
        bias = arguments.number("bias", bias, 0)
        with mg.no_grad(), mg.use_backend(outputs.backend):
            m = self.mixture(outputs, bias)
            key = mg.random.next_key() if key is None else key
            rest, dtype = outputs.shape[len(key.shape) : -1], outputs.dtype
            j = mg.random.categorical(key.fold(0), rest, m.log_pi)
            chosen = F.one_hot(j, self.M, dtype)
            z = mg.random.normal(key.fold(1), (*rest, self.D), dtype)
            if m.rho is not None:
                r = mg.sum(chosen * m.rho, axis=-1)
                z1, z2 = z[..., 0], z[..., 1]
                z = mg.stack([z1, mg.tanh(r) * z1 + z2 / mg.cosh(r)], axis=-1)
            mu, log_sigma = (
                mg.sum(mg.expand_dims(chosen, -1) * part, axis=-2) for part in (m.mu, m.log_sigma)
            )
            x = mu + mg.exp(log_sigma) * z
            if m.end is None:
                return x
            end = mg.random.bernoulli(key.fold(2), rest, mg.sigmoid(-m.end)).astype(dtype)
            return mg.concatenate([x, mg.expand_dims(end, -1)], axis=-1)

"""Networks with explicit memory (Fig 10.18): the neural Turing machine, and reads in several hops.

Letters: B batch, D input, H hidden, N memory cells of M numbers each, K heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import arguments
from minigrad import functional as F
from minigrad.nn import Linear, Module, Parameter, glorot_uniform, normal
from minigrad_rnn.unrolling import real_steps

SHORTEST = 1e-6  # the length below which a vector counts as nearly blank
TYINGS = ("adjacent", "layer")


# --- addressing ----------------------------------------------------------------------------------


def cosine(keys: mg.Tensor, memory: mg.Tensor) -> mg.Tensor:
    """u.v / (|u| |v|) of every key (B, K, M) with every cell (B, N, M), (B, K, N); 0 for blanks.

    A vector shorter than SHORTEST is divided by that, so that blank cells have finite gradients.
    """

    def direction(v: mg.Tensor) -> mg.Tensor:
        return v / mg.sqrt(mg.maximum(mg.sum(v * v, axis=-1, keepdims=True), SHORTEST**2))

    return direction(keys) @ mg.swapaxes(direction(memory), -1, -2)


def by_content(keys: mg.Tensor, beta: mg.Tensor, memory: mg.Tensor) -> mg.Tensor:
    """softmax(beta cosine(key, cell)) over the cells, (B, K, N); beta (B, K, 1) (eq 5, 6)."""
    return F.softmax(beta * cosine(keys, memory))


def shifted(weights: mg.Tensor, s: mg.Tensor) -> mg.Tensor:
    """w'(i) = sum over j of w(j) s(i - j), indices modulo N (eq 8).

    weights (..., N); s (..., 2r+1) weighs the shifts by -r, ..., r cells.
    """
    shares = mg.split(s, s.shape[-1], axis=-1)
    first = -(len(shares) // 2)
    moved = [share * mg.roll(weights, first + j, axis=-1) for j, share in enumerate(shares)]
    return mg.sum(mg.stack(moved), axis=0)


def sharpened(weights: mg.Tensor, gamma: mg.Tensor) -> mg.Tensor:
    """w(i)^gamma over the sum of all, for weights (..., N) and gamma >= 1 (..., 1) (eq 9).

    By way of logarithms: all powers may be too small for the dtype.
    """
    least = float(np.finfo(weights.dtype).tiny)
    return F.softmax(gamma * mg.log(mg.maximum(weights, least)))


def address(
    memory: mg.Tensor,
    before: mg.Tensor,
    key: mg.Tensor,
    beta: mg.Tensor,
    g: mg.Tensor,
    s: mg.Tensor,
    gamma: mg.Tensor,
) -> mg.Tensor:
    """Where heads go, (B, K, N): by content or from where they were, shifted, sharpened (eq 5-9).

    memory (B, N, M); of every head where it was before (B, K, N), key (B, K, M), s (B, K, 2r+1),
    and beta >= 0, g in [0, 1] and gamma >= 1, (B, K, 1).
    """
    w = g * by_content(key, beta, memory) + (1 - g) * before
    return sharpened(shifted(w, s), gamma)


def read(memory: mg.Tensor, weights: mg.Tensor) -> mg.Tensor:
    """sum over i of w(i) M(i), (B, K, M), for memory (B, N, M) and weights (B, K, N) (eq 2)."""
    return weights @ memory


def write(memory: mg.Tensor, weights: mg.Tensor, erase: mg.Tensor, add: mg.Tensor) -> mg.Tensor:
    """M(i) times 1 - w(i) e for every head, then w(i) a of every head added (eq 3, 4).

    memory (B, N, M), weights (B, K, N), erase and add (B, K, M), erase in [0, 1].
    """
    for w, e in zip(mg.unstack(weights, axis=1), mg.unstack(erase, axis=1), strict=True):
        memory = memory * (1 - mg.expand_dims(w, -1) * mg.expand_dims(e, 1))
    return memory + mg.swapaxes(weights, -1, -2) @ add


# --- the neural Turing machine -------------------------------------------------------------------


class NTMCell(Module):
    """The neural Turing machine (Graves, Wayne and Danihelka 2014, eq 1-9), as a cell.

    The controller, any cell of D + reads*M inputs and H outputs, sees [x, what was read before];
    `heads`, a linear layer of its output h, moves the heads: by content (key k, strength beta),
    interpolation g with where they were, a shift s of at most `reach` cells around the ring, and
    sharpening gamma; write heads also erase e and add a. All write at once, then the read heads
    address and read what stands there. y = [h, what was read], H + reads*M numbers. The state is
    (memory (B, N, M), weights (B, reads + writes, N), reads (B, reads, M), the controller's); at
    first the memory is blank and all heads are at cell 0. For a feed-forward controller take
    HiddenLayer. The paper leaves open how h becomes a head's numbers: here k and a are linear in h,
    beta softplus, g and e sigmoid, s softmax, gamma 1 + softplus.
    """

    def __init__(
        self,
        controller: Any,
        H: int,
        N: int,
        M: int,
        *,
        reads: int = 1,
        writes: int = 1,
        reach: int = 1,
        dtype: Any = None,
    ) -> None:
        self.controller = controller
        self.H, self.N, self.M = (
            arguments.size(name, value) for name, value in (("H", H), ("N", N), ("M", M))
        )
        self.reads, self.writes = arguments.size("reads", reads), arguments.size("writes", writes)
        self.reach = arguments.size("reach", reach, least=0)
        if 2 * self.reach >= self.N:
            raise ValueError(f"reach={reach}: shifts by up to that many cells need N > {2 * reach}")
        moves = (self.reads + self.writes) * (self.M + 4 + 2 * self.reach)
        self.heads = Linear(self.H, moves + self.writes * 2 * self.M, dtype=dtype)

    def initial_state(self, batch: int) -> tuple[mg.Tensor, mg.Tensor, mg.Tensor, Any]:
        """A blank memory, every head at cell 0, nothing read, the controller's own."""
        W = self.heads.W

        def zeros(*shape: int) -> mg.Tensor:
            return mg.zeros((batch, *shape), dtype=W.dtype, backend=W.backend)

        K = self.reads + self.writes
        at_first = mg.pad(zeros(K, self.N - 1), ((0, 0), (0, 0), (1, 0)), 1)
        return (
            zeros(self.N, self.M),
            at_first,
            zeros(self.reads, self.M),
            self.controller.initial_state(batch),
        )

    def __call__(self, x: mg.Tensor, state: Any) -> tuple[mg.Tensor, Any]:
        memory, before, reads, inner = state
        B = x.shape[0]
        beside = reads.reshape(B, self.reads * self.M)
        h, inner = self.controller(mg.concatenate([x, beside], axis=-1), inner)
        if h.shape != (B, self.H):
            raise mg.ShapeError(
                f"NTMCell: the controller's output has shape {tuple(h.shape)}, but the heads were "
                f"made for H = {self.H}"
            )
        K, M, S = self.reads + self.writes, self.M, 2 * self.reach + 1
        moves, changes = mg.split(self.heads(h), [K * (M + 3 + S)], axis=-1)
        key, scale, g, s = mg.split(moves.reshape(B, K, M + 3 + S), [M, M + 2, M + 3], axis=-1)
        beta, gamma = mg.split(F.softplus(scale), 2, axis=-1)
        emitted = (before, key, beta, mg.sigmoid(g), F.softmax(s), 1 + gamma)
        to_read, to_write = zip(
            *(mg.split(part, [self.reads], axis=1) for part in emitted), strict=True
        )
        w_write = address(memory, *to_write)
        erase, add = mg.split(changes.reshape(B, self.writes, 2 * M), 2, axis=-1)
        memory = write(memory, w_write, mg.sigmoid(erase), add)
        w_read = address(memory, *to_read)
        reads = read(memory, w_read)

        y = mg.concatenate([h, reads.reshape(B, self.reads * M)], axis=-1)
        return y, (memory, mg.concatenate([w_read, w_write], axis=1), reads, inner)


# --- memory networks -----------------------------------------------------------------------------


class MemoryNetwork(Module):
    """A query that reads a list of facts in several hops (Sukhbaatar et al. 2015, eq 1, 2, 4).

    A hop: p_i = softmax(u.m_i), o = sum of p_i c_i, u' = u + o, where m_i = x_i A and c_i = x_i C.
    tying="adjacent": the C of a hop is the A of the next, hops + 1 matrices (D, H) in `embed`;
    "layer": the same A and C at every hop, and u' = u U + o: a recurrent network along the hops.
    """

    def __init__(
        self, D: int, H: int, hops: int = 3, tying: str = "adjacent", dtype: Any = None
    ) -> None:
        if tying not in TYINGS:
            raise ValueError(f"tying={tying!r}: give one of {', '.join(map(repr, TYINGS))}")
        D, H = arguments.size("D", D), arguments.size("H", H)
        self.hops = arguments.size("hops", hops)
        count = self.hops + 1 if tying == "adjacent" else 2
        self.embed = [Parameter(normal((D, H), std=0.1, dtype=dtype)) for _ in range(count)]
        self.U = Parameter(glorot_uniform((H, H), dtype=dtype)) if tying == "layer" else None

    def __call__(self, facts: Any, query: mg.Tensor, *, lengths: Any = None) -> mg.Tensor:
        """u (B, H) after the hops, from facts (N, B, D), of which a row has `lengths`, and query.

        A row without facts keeps its query, or what U makes of it. Nothing in the padding counts.
        """
        facts = facts if isinstance(facts, mg.Tensor) else mg.Tensor(facts, backend=query.backend)
        if facts.ndim != 3 or query.shape != (facts.shape[1], self.embed[0].shape[1]):
            raise mg.ShapeError(
                f"MemoryNetwork: facts (N, B, D) and a query (B, {self.embed[0].shape[1]}) are "
                f"needed, not {tuple(facts.shape)} and {tuple(query.shape)}"
            )
        valid = real_steps(*facts.shape[:2], lengths, None, facts.backend, "MemoryNetwork")
        if not len(facts):  # as if all were padding
            facts, valid = (
                mg.pad(facts, ((0, 1), (0, 0), (0, 0))),
                mg.zeros((1, len(query)), "bool", backend=facts.backend),
            )
        if valid is not None:
            facts = mg.where(mg.expand_dims(valid, -1), facts, 0)
        embedded = [facts @ E for E in self.embed]
        u = query
        for k in range(self.hops):
            m, c = (embedded[k], embedded[k + 1]) if self.U is None else embedded
            o = mg.sum(mg.expand_dims(relevance(u, m, valid), -1) * c, axis=0)
            u = (u if self.U is None else u @ self.U) + o
        return u


def relevance(u: mg.Tensor, m: mg.Tensor, valid: mg.Tensor | None = None) -> mg.Tensor:
    """p_i = softmax over i of u.m_i, (N, B), for u (B, H) and m (N, B, H); 0 where not valid."""
    scores = mg.sum(m * u, axis=-1)
    if valid is None:
        return F.softmax(scores, axis=0)
    worst = float(np.finfo(scores.dtype).min)
    return mg.where(valid, F.softmax(mg.where(valid, scores, worst), axis=0), 0)

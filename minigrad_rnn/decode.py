"""Choosing symbols: draws from logits (greedy, temperature, top-k, top-p), and beam search.

What decodes or scores takes a *step model*, which is a cell of what it puts out:
`model(y, state) -> (o, state)`. y (B, ...) was put out last, o describes the distribution of what
comes next, logits (B, V) for symbols, and state is any nest of tensors with the batch axis first.
With `initial_state(batch)` it needs no state= below. So Decoder is one, Readout(Embedded(...), ...)
around any cell is one, and so is any function of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import arguments, tree
from minigrad import functional as F
from minigrad_rnn.unrolling import first_state

StepModel = Callable[[Any, Any], tuple[mg.Tensor, Any]]

NEVER = float("-inf")
COLDEST = 1e-6  # below it a float32 logit over the temperature may be infinite


def check_choices(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError for a temperature, k or p outside its range."""
    if temperature != 0 and not COLDEST <= temperature < float("inf"):
        raise ValueError(
            f"temperature={temperature!r}: give 0, which takes the likeliest, or at least {COLDEST}"
        )
    if top_k is not None:
        arguments.size("top_k", top_k)
    if top_p is not None:
        arguments.number("top_p", top_p, 0, 1, open="low")


def narrowed(
    logits: mg.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> mg.Tensor:
    """Logits (..., V) over the temperature, those not to be drawn at -inf.

    top_k keeps the k largest; top_p the fewest whose probabilities sum to at least p (Holtzman et
    al. 2020); ties with the last one kept stay in. Raises ValueError for values out of range.
    """
    check_choices(temperature, top_k, top_p)
    if temperature == 0:
        top_k, temperature = 1, 1.0
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = mg.min(mg.top_k(logits, top_k), axis=-1, keepdims=True)
        logits = mg.where(logits < least, NEVER, logits)
    if top_p is not None and top_p < 1:
        ordered = mg.flip(mg.sort(logits), -1)
        share = F.softmax(ordered.astype("float64"))  # a float32 sum may reach 1 too soon
        before = mg.cumsum(share, axis=-1) - share  # the mass of all that are likelier
        least = mg.min(mg.where(before < top_p, ordered, float("inf")), axis=-1, keepdims=True)
        logits = mg.where(logits < least, NEVER, logits)
    return logits


def draw(
    logits: mg.Tensor,
    key: mg.random.Key,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> mg.Tensor:
    """One index (B,) a row of logits (B, V); temperature 0 takes the first of the likeliest.

    One key serves all rows; with keys (B,) each row's draw depends on its own key alone.
    """
    if temperature == 0:
        check_choices(temperature, top_k, top_p)
        return mg.argmax(logits, axis=-1)
    chosen = narrowed(logits, temperature, top_k, top_p)
    return mg.random.categorical(key, logits.shape[len(key.shape) : -1], chosen)


# --- beam search ---------------------------------------------------------------------------------


def length_penalty(length: Any, alpha: float) -> Any:
    """lp(Y) = ((5 + |Y|) / 6)^alpha (Wu et al. 2016, eq 14)."""
    return ((5 + length) / 6) ** alpha


def coverage_penalty(coverage: np.ndarray, beta: float, real: Any = True) -> np.ndarray:
    """cp(X; Y) = beta sum over i of log(min(sum over j of p_ij, 1)) (Wu et al. 2016, eq 14).

    coverage (..., S) is the sum over the target's symbols j of the attention that source symbol i
    got; only the real ones (..., S) count. It is at most 0, and -inf where one got none at all.
    """
    if beta == 0:
        return np.zeros(coverage.shape[:-1])
    with np.errstate(divide="ignore"):
        logs = np.log(np.minimum(coverage, 1.0))
    return beta * np.where(real, logs, 0.0).sum(axis=-1)


@dataclass(frozen=True)
class Hypothesis:
    """What beam search found: its symbols, without the end symbol, and what they are worth.

    finished is False where `steps` symbols came without the end symbol.
    """

    symbols: tuple[int, ...]
    score: float
    log_probability: float
    finished: bool


def beam(
    model: StepModel,
    start: Any,
    state: Any = None,
    *,
    end: int,
    steps: int,
    width: int = 4,
    n_best: int = 1,
    alpha: float = 0.0,
    beta: float = 0.0,
    alignment: Callable[[Any], mg.Tensor] | None = None,
    real: Any = None,
) -> list[list[Hypothesis]]:
    """The n_best hypotheses of each row, best first, by s = log P / lp + cp (GNMT, eq 14).

    start (B,): the first input. Of all continuations of a row's hypotheses the `width` likeliest
    stay; one that ends with the symbol `end` leaves the beam, and so do all after `steps` symbols.
    |Y| counts the end symbol. alignment(state) -> (B, S), for beta, is the attention of the step
    that led to this state, and real (B, S) is False at the source's padding: a symbol that gets no
    attention at all makes cp -inf, and ValueError says so where a row has no other hypotheses.
    The search stops where nothing in the beam can still be among the n_best. Equal continuations
    rank by parent and symbol, equal scores by when they were found. What has probability 0 is never
    found, so that a row may have fewer than n_best. Raises ValueError for logits of NaN or +inf.
    """
    alpha, beta = arguments.number("alpha", alpha, 0), arguments.number("beta", beta, 0)
    if beta and alignment is None:
        raise ValueError(f"beam: beta={beta:g} needs alignment=, the attention found in a state")
    y = F.tensor(start)
    if y.ndim != 1:
        raise mg.ShapeError(f"beam: start is one symbol a row, (B,), not {tuple(y.shape)}")
    B, home = y.shape[0], y.backend
    search = _Search(B, end, steps, width, n_best, alpha, beta, real)
    with mg.no_grad():
        state = first_state(model, B, "beam") if state is None else state
        for part in tree.flatten(state)[0]:
            if part.shape[:1] != (B,):
                raise mg.ShapeError(
                    f"beam: start has {B} rows, but the state a tensor of shape {part.shape}"
                )
        y, state = rows((y, state), np.repeat(np.arange(B), width))
        while True:
            o, state = model(y, state)
            attention = None if alignment is None else alignment(state)
            places, symbols = search.advance(log_shares(o), attention)
            if search.over():
                search.check_coverage()
                return search.found
            y, state = mg.Tensor(symbols, backend=home), rows(state, places)


def rows(nest: Any, places: Sequence[int] | np.ndarray) -> Any:
    """The rows of every tensor of a nest at the integers `places` (N,), a nest of batch N."""
    return tree.map(lambda s: mg.take(s, mg.Tensor(places, backend=s.backend), axis=0), nest)


def log_shares(o: mg.Tensor) -> np.ndarray:
    """log softmax(o) of logits (..., V), in float64 on the host.

    Where all logits are -inf, so are the results; where one is NaN or +inf, all are NaN.
    """
    o = o.astype("float64")
    top = mg.max(o, axis=-1, keepdims=True)
    usable = mg.isfinite(top)
    otherwise = mg.where(top == NEVER, NEVER, float("nan"))
    return mg.where(usable, F.log_softmax(mg.where(usable, o, 0.0)), otherwise).numpy()


class _Search:
    """The hypotheses of beam search, B rows of `width` places, and those that it has found.

    log_p (B, width): of the hypotheses in the beam, -inf at a free place. symbols (B, width, step).
    coverage (B, width, S): the attention so far.
    """

    def __init__(
        self, B: int, end: int, steps: int, width: int, n_best: int, alpha: float, beta: float,
        real: Any,
    ) -> None:  # fmt: skip
        self.end = arguments.size("end", end, least=0)
        self.steps, self.width = arguments.size("steps", steps), arguments.size("width", width)
        self.n_best, self.alpha, self.beta = arguments.size("n_best", n_best), alpha, beta
        real = real.numpy() if isinstance(real, mg.Tensor) else real
        self.real: Any = True if real is None else np.asarray(real)
        self.step = 0
        self.log_p = np.full((B, width), NEVER)
        self.log_p[:, 0] = 0
        self.symbols = np.zeros((B, width, 0), np.int64)
        self.coverage: Any = np.zeros((B, width, 1))
        self.found: list[list[Hypothesis]] = [[] for _ in range(B)]

    def advance(
        self, shares: np.ndarray, attention: mg.Tensor | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One symbol more: the places (B * width,) of the survivors' parents, and their symbols."""
        B, width, V = *self.log_p.shape, shares.shape[-1]
        if shares.shape != (B * width, V) or not self.end < V:
            raise mg.ShapeError(
                f"beam: the model gave {shares.shape} for {B * width} rows, not logits (rows, V) "
                f"with V > end = {self.end}"
            )
        self.step += 1
        free = (self.log_p == NEVER)[..., None]
        longer = np.where(free, NEVER, self.log_p[..., None] + shares.reshape(B, width, V))
        if np.isnan(longer).any():
            raise ValueError(f"beam: the logits of step {self.step} are NaN or +inf")
        longer = longer.reshape(B, width * V)
        order = np.argsort(-longer, axis=-1, kind="stable")[:, :width]
        parent, symbol = order // V, order % V
        self.log_p = np.take_along_axis(longer, order, -1)
        self.symbols = np.take_along_axis(self.symbols, parent[..., None], 1)
        self.symbols = np.concatenate([self.symbols, symbol[..., None]], axis=-1)
        if attention is not None:
            seen = (B, attention.shape[-1])
            if self.real is not True and self.real.shape != seen:
                raise mg.ShapeError(f"beam: real is (B, S) = {seen}, not {self.real.shape}")
            share = attention.numpy().astype(np.float64).reshape(B, width, attention.shape[-1])
            self.coverage = np.take_along_axis(self.coverage + share, parent[..., None], 1)
        self._leave()
        return (np.arange(B)[:, None] * width + parent).reshape(-1), symbol.reshape(-1)

    def _leave(self) -> None:
        """Hypotheses that end, or have no steps left, go from the beam to those found."""
        ended = self.symbols[..., -1] == self.end
        leaves = (ended | (self.step == self.steps)) & (self.log_p > NEVER)
        real = True if self.real is True else self.real[:, None, :]
        penalty = coverage_penalty(self.coverage, self.beta, real)
        scores = self.log_p / length_penalty(self.step, self.alpha) + penalty
        for b, place in np.argwhere(leaves):
            end = bool(ended[b, place])
            symbols = tuple(self.symbols[b, place, : self.step - end].tolist())
            worth = float(scores[b, place]), float(self.log_p[b, place])
            self.found[b].append(Hypothesis(symbols, *worth, end))
        for row in self.found:
            row.sort(key=lambda h: -h.score)  # keeps the order of equals
            del row[self.n_best :]
        self.log_p = np.where(leaves, NEVER, self.log_p)

    def check_coverage(self) -> None:
        """Raise ValueError for a row of which no hypothesis has a score."""
        for b, row in enumerate(self.found):
            if row and all(h.score == NEVER for h in row):
                raise ValueError(
                    f"beam: no hypothesis of row {b} looks at the whole source, so all score -inf: "
                    f"give real=, False at padding, or beta=0"
                )

    def over(self) -> bool:
        """Whether nothing in the beam can come to be among the n_best.

        log P only falls, lp is largest after the last step, and cp is at most 0.
        """
        hopes = self.log_p.max(axis=-1) / length_penalty(self.steps, self.alpha)
        return all(
            hope == NEVER or (len(row) == self.n_best and row[-1].score >= hope)
            for hope, row in zip(hopes, self.found, strict=True)
        )

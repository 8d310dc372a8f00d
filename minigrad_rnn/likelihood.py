"""Distributions over whole sequences: P of a sequence, samples, and three ways to know its end.

A step model (see decode) says what comes next; an output (Categorical, Gaussian) what its numbers
mean; a stop rule (KnownLength, EndSymbol, Halt, DrawnLength) how a sequence ends. Each goes with
each, but for the end symbol, which wants symbols.
Letters: T time, B batch, N numbers of the model's output o, V symbols, D numbers of a real output.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad import arguments, tree
from minigrad import functional as F
from minigrad.nn import Module, Parameter
from minigrad_rnn.decode import NEVER, StepModel, draw
from minigrad_rnn.unrolling import first_state, real_steps, unroll

Choice = Callable[[mg.Tensor, mg.random.Key], mg.Tensor]


# --- what the outputs are ------------------------------------------------------------------------


class Categorical:
    """One of V symbols: o (..., V) are logits, y (...) integers; V itself is the start symbol."""

    def __init__(self, V: int) -> None:
        self.V = self.size = arguments.size("V", V)

    def start(self, batch: int) -> mg.Tensor:
        """The start symbol, (B,)."""
        return mg.full((batch,), self.V, dtype="int64")

    def log_density(self, o: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        """log P(y), (...)."""
        return -F.cross_entropy(o, y, reduction="none")

    def sample(self, o: mg.Tensor, key: mg.random.Key) -> mg.Tensor:
        """A symbol for each row of o."""
        return draw(o, key)


class Gaussian:
    """D independent normal variables: o (..., 2 D) are means and logs of standard deviations.

    log p(y) = - sum over d of ((y - mean)^2 / (2 s^2) + log s + log(2 pi) / 2); y is (..., D).
    """

    def __init__(self, D: int, dtype: Any = None) -> None:
        self.D = arguments.size("D", D)
        self.size, self.dtype = 2 * self.D, dtype

    def start(self, batch: int) -> mg.Tensor:
        """Zeros (B, D)."""
        return mg.zeros((batch, self.D), self.dtype)

    def log_density(self, o: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        """log p(y), (...)."""
        if y.shape[-1:] != (self.D,) or o.shape != (*y.shape[:-1], self.size):
            raise mg.ShapeError(
                f"Gaussian: o (..., {self.size}) and y (..., {self.D}) are needed, not "
                f"{tuple(o.shape)} and {tuple(y.shape)}"
            )
        mean, log_s = mg.split(o, 2, axis=-1)
        z = (y - mean) * mg.exp(-log_s)
        return -mg.sum(0.5 * z * z + log_s + 0.5 * math.log(2 * math.pi), axis=-1)

    def sample(self, o: mg.Tensor, key: mg.random.Key) -> mg.Tensor:
        """A vector for each row of o."""
        mean, log_s = mg.split(o, 2, axis=-1)
        z = mg.random.normal(key, mean.shape[len(key.shape) :], dtype=o.dtype)
        return mean + mg.exp(log_s) * z


# --- where a sequence ends -----------------------------------------------------------------------


class KnownLength(Module):
    """The length is given, and no part of the probability (eq 10.31). Base of the other rules.

    units: how many numbers of o, the first ones, the rule takes for itself. decides: whether it
    takes a decision after the last element too, by one more step. longest: the largest length, if
    lengths are drawn before the elements.
    """

    units = 0
    decides = False
    longest: int | None = None

    def inputs(self, y: Any, remaining: Any) -> Any:
        """What the model sees: y, with remaining = tau - t, where known, beside it or not."""
        return y

    def log_terms(self, output: Any, o: mg.Tensor, y: Any) -> tuple[Any, Any]:
        """log P(the sequence ends here) and log P(it goes on, with y), each (...)."""
        return 0.0, output.log_density(o, y)

    def log_prior(self, lengths: mg.Tensor) -> Any:
        """log P(tau), (...), where tau is drawn first."""
        return 0.0

    def draw_length(self, keys: mg.random.Key, steps: int) -> Any:
        """tau for each key (B,), or None where it is decided on the way."""
        return mg.full(keys.shape, steps, dtype="int64")

    def draw(
        self, o: mg.Tensor, keys: mg.random.Key, remaining: Any, choose: Choice
    ) -> tuple[Any, mg.Tensor]:
        """Which rows end here, (B,) bool, and the next element of the others."""
        return remaining == 0, choose(o, keys.fold(0))


class Decided(KnownLength):
    """A rule that decides after every element whether the sequence ends there."""

    decides = True

    def draw_length(self, keys: mg.random.Key, steps: int) -> None:
        """Not known yet."""
        return None


class EndSymbol(Decided):
    """Stop rule 1, of symbols: one of them, `end`, says that the sequence is over (sec 10.2.3.1).

    It is not written into ys and not counted in lengths: log_probability adds it to every sequence.
    A sequence that contains it before its end has probability 0.
    """

    def __init__(self, end: int) -> None:
        self.end = arguments.size("end", end, least=0)

    def log_terms(self, output: Any, o: mg.Tensor, y: Any) -> tuple[Any, Any]:
        """log P(end) and log P(y)."""
        self._check(y, o.shape[:-1])
        stop = output.log_density(o, mg.full_like(y, self.end))
        return stop, mg.where(y == self.end, NEVER, output.log_density(o, y))

    def draw(
        self, o: mg.Tensor, keys: mg.random.Key, remaining: Any, choose: Choice
    ) -> tuple[Any, mg.Tensor]:
        """A row ends where the symbol drawn is the end symbol."""
        y = choose(o, keys.fold(0))
        self._check(y, o.shape[:-1])
        return y == self.end, y

    def _check(self, y: mg.Tensor, shape: tuple[int, ...]) -> None:
        if y.shape != shape or y.dtype.kind not in "iu":
            raise mg.ShapeError(
                f"EndSymbol: is for symbols, integers {shape}, not {y.dtype} {y.shape}; Halt and "
                f"DrawnLength are for any output"
            )


class Halt(Decided):
    """Stop rule 2, of any output: a unit of its own says whether to halt (sec 10.2.3.1).

    o[..., 0] = a: before each element the sequence ends with probability sigmoid(a), so that the
    loss is the unit's cross-entropy plus that of the elements, which the rest of o describes.
    """

    units = 1

    def log_terms(self, output: Any, o: mg.Tensor, y: Any) -> tuple[Any, Any]:
        """log sigmoid(a), and log(1 - sigmoid(a)) + log p(y)."""
        a = o[..., 0]
        return -F.softplus(-a), output.log_density(o[..., 1:], y) - F.softplus(a)

    def draw(
        self, o: mg.Tensor, keys: mg.random.Key, remaining: Any, choose: Choice
    ) -> tuple[Any, mg.Tensor]:
        """A row ends where a coin of probability sigmoid(a) says so."""
        halt = mg.random.bernoulli(keys.fold(1), (), mg.sigmoid(o[:, 0]))
        return halt, choose(o[:, 1:], keys.fold(0))


class DrawnLength(KnownLength):
    """Stop rule 3, of any output: tau is drawn first, P(x) = P(tau) P(x | tau) (eq 10.34).

    tau is one of 0 ... L, P(tau) = softmax(logits), logits (L + 1,) learned. With tell=True the
    model sees the pair (y, tau - t), tau - t (B,) being the number of elements still to come;
    Remaining feeds it to any cell. Without it the model does not know that the end is near.
    """

    def __init__(self, L: int, tell: bool = True, dtype: Any = None) -> None:
        self.longest = arguments.size("L", L, least=0)
        self.tell = arguments.flag("tell", tell)
        self.logits = Parameter(mg.zeros(self.longest + 1, dtype))

    def inputs(self, y: Any, remaining: Any) -> Any:
        """The pair (y, tau - t)."""
        return (y, remaining) if self.tell else y

    def log_prior(self, lengths: mg.Tensor) -> mg.Tensor:
        """log P(tau); -inf above L."""
        possible = lengths <= self.longest
        table = F.log_softmax(self.logits)
        return mg.where(possible, mg.take(table, mg.where(possible, lengths, 0)), NEVER)

    def draw_length(self, keys: mg.random.Key, steps: int) -> mg.Tensor:
        """tau (B,) drawn from P(tau)."""
        return mg.random.categorical(keys, (), self.logits)


class Remaining(Module):
    """An input layer for DrawnLength: [layer(y), (tau - t) / L], one number wider than layer's."""

    def __init__(self, layer: Callable[[Any], mg.Tensor], L: int) -> None:
        self.layer, self.L = layer, arguments.size("L", L)

    def __call__(self, x: tuple[Any, mg.Tensor]) -> mg.Tensor:
        y, remaining = x
        u = self.layer(y)
        share = remaining.astype(u.dtype) / self.L
        return mg.concatenate([u, mg.expand_dims(share, -1)], axis=-1)


# --- sequences -----------------------------------------------------------------------------------


class Sample(NamedTuple):
    """ys (T, B, ...), 0 after a row's end, lengths (B,), and whether a row did end, (B,) bool."""

    ys: mg.Tensor
    lengths: mg.Tensor
    ended: mg.Tensor


class Sequences(Module):
    """P(y(1), ..., y(tau)), tau included, by a step model, what its output means and a stop rule.

    The model's o (B, N) has N = stop.units + output.size numbers. state and start may be left out
    where the model has initial_state(batch), and output.start is the model's first input.
    """

    def __init__(self, model: StepModel, output: Any, stop: KnownLength | None = None) -> None:
        self.model, self.output = model, output
        self.stop = KnownLength() if stop is None else stop

    def log_probability(
        self, ys: Any, lengths: Any = None, state: Any = None, start: Any = None
    ) -> mg.Tensor:
        """log P(ys) of each row, (B,), for ys (T, B, ...) whose row b ends after lengths[b].

        Nothing beyond that, NaN included, changes a bit of it.
        """
        ys, tau, state, start = self._given(ys, lengths, state, start)
        go, stop = self._terms(ys, tau, tau, state, start)
        return self.stop.log_prior(tau) + go + stop

    def log_beginning(
        self, ys: Any, lengths: Any = None, state: Any = None, start: Any = None
    ) -> mg.Tensor:
        """log P(a sequence begins with ys[:lengths[b], b]), whatever follows, (B,)."""
        ys, seen, state, start = self._given(ys, lengths, state, start)
        if self.stop.longest is None:
            return self._terms(ys, seen, seen, state, start)[0]
        parts, longest = [], self.stop.longest
        for n in range(longest + 1):
            tau = mg.full_like(seen, n)
            go, _ = self._terms(ys, seen, tau, state, start)
            possible = mg.minimum(seen, longest) <= n
            parts.append(mg.where(possible, self.stop.log_prior(tau) + go, NEVER))
        return mg.where(seen <= longest, mg.logsumexp(mg.stack(parts), axis=0), NEVER)

    def score(self, candidates: Sequence[Any], state: Any = None, start: Any = None) -> mg.Tensor:
        """log P of each candidate, (N,): sequences of any lengths.

        state and start have N rows; decode.rows(state, [0] * N) repeats a first one.
        """
        return self.log_probability(*padded(candidates), state, start)

    def sample(
        self,
        batch: int,
        steps: int | None = None,
        *,
        key: mg.random.Key,
        state: Any = None,
        start: Any = None,
        choose: Choice | None = None,
        ids: Any = None,
    ) -> Sample:
        """`batch` sequences of up to `steps` elements, each drawn given all before it.

        choose(o, keys) takes output.sample's place: functools.partial(draw, temperature=0), say.
        The draws of row b depend on key and ids[b] (b, if not given) alone, not on other rows.
        """
        batch = arguments.size("batch", batch)
        steps = self.stop.longest if steps is None else steps
        if steps is None:
            raise ValueError("sample: give steps=, the largest number of elements")
        steps = arguments.size("steps", steps, least=0)
        choose = self.output.sample if choose is None else choose
        ys: list[mg.Tensor] = []
        with mg.no_grad(), mg.use_backend(key.words.backend):
            ids = mg.arange(batch) if ids is None else F.tensor(ids)
            if ids.shape != (batch,):
                raise mg.ShapeError(f"sample: ids are {batch} integers, one a row, not {ids.shape}")
            keys = key.fold(ids)
            y = self.output.start(batch) if start is None else F.tensor(start)
            state = first_state(self.model, batch, "sample") if state is None else state
            tau = self.stop.draw_length(keys.fold(0), steps)
            going, lengths = mg.ones((batch,), "bool"), mg.zeros((batch,), "int64")
            for t in range(steps + self.stop.decides):
                remaining = None if tau is None else mg.maximum(tau - t, 0)
                o, state = self.model(self.stop.inputs(y, remaining), state)
                self._check(o)
                ends, y = self.stop.draw(o, keys.fold(t + 1), remaining, choose)
                going = going & ~ends
                if t == steps or not going.numpy().any():
                    break
                lengths = lengths + going.astype("int64")
                ys.append(mg.where(_beside(going, y), y, 0))
            drawn = mg.stack(ys) if ys else mg.zeros((0, *y.shape), y.dtype)
            return Sample(drawn, lengths, ~going if tau is None else tau <= steps)

    def _given(
        self, ys: Any, lengths: Any, state: Any, start: Any
    ) -> tuple[mg.Tensor, mg.Tensor, Any, mg.Tensor]:
        """ys, the lengths, the state and the first input, on the model's backend."""
        if np.ndim(ys) < 2:
            raise mg.ShapeError(f"sequences are (T, B, ...), not {np.shape(ys)}")
        T, B = np.shape(ys)[:2]
        state = first_state(self.model, B, "sequences") if state is None else state
        parts = tree.flatten(state)[0]
        with mg.use_backend(parts[0].backend) if parts else contextlib.nullcontext():
            ys, start = F.tensor(ys), self.output.start(B) if start is None else F.tensor(start)
            if ys.dtype.kind in "iu":
                ys = ys.astype("int64")  # the start symbol is V, 256 for bytes
                if start.dtype.kind == "f":
                    raise mg.DtypeError(
                        f"sequences of integers begin with integers, not {start.dtype}: convert "
                        f"start, or ys to floating"
                    )
            real = real_steps(T, B, lengths, None, name="sequences")
            n = mg.full(B, T) if real is None else mg.sum(real, axis=0)
            return ys, n.astype("int64"), state, start.astype(ys.dtype)

    def _terms(
        self, ys: mg.Tensor, n: mg.Tensor, tau: mg.Tensor, state: Any, start: mg.Tensor
    ) -> tuple[mg.Tensor, Any]:
        """log P(the first n elements), and log P(the end comes then), of rows of length tau."""
        T = ys.shape[0]
        steps = T + self.stop.decides
        frame = mg.expand_dims(start, 0)
        before = mg.concatenate([frame, ys])[:steps]
        ys = mg.concatenate([ys, frame])[:steps]
        t = mg.arange(steps, backend=ys.backend).reshape(steps, 1)
        xs = self.stop.inputs(before, mg.maximum(tau - t, 0))
        lengths = n + int(self.stop.decides) if _may_be_below(n, T) else None
        # Not the model itself, with whose initial_state unroll would compare the state: one that
        # holds a memory is as long as its source.
        o, _ = unroll(lambda x, state: self.model(x, state), xs, state, lengths=lengths)
        self._check(o)
        real = t < n
        stop, go = self.stop.log_terms(self.output, o, mg.where(_beside(real, ys), ys, 0))
        end = mg.sum(mg.where(t == n, stop, 0), axis=0) if self.stop.decides else 0.0
        return mg.sum(mg.where(real, go, 0), axis=0), end

    def _check(self, o: mg.Tensor) -> None:
        if o.shape[-1] != self.stop.units + self.output.size:
            raise mg.ShapeError(
                f"Sequences: the model puts out {o.shape[-1]} numbers, but the stop rule takes "
                f"{self.stop.units} and the output {self.output.size}"
            )


def _may_be_below(n: mg.Tensor, T: int) -> bool:
    """Whether a row is shorter than T, or may be."""
    try:
        return bool((n.numpy() < T).any())
    except mg.MinigradError:  # an input of a capture, which has no values yet
        return True


def _beside(flags: mg.Tensor, x: mg.Tensor) -> mg.Tensor:
    """Flags with trailing axes of 1, so that they choose among the rows of x."""
    return flags.reshape(flags.shape + (1,) * (x.ndim - flags.ndim))


def padded(sequences: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of any lengths as ys (T, B, ...), 0 in the padding, and lengths (B,)."""
    if not len(sequences):
        raise ValueError("padded: needs at least one sequence")
    arrays = [np.asarray(y) for y in sequences]
    lengths = np.array([len(y) for y in arrays])
    known = [y for y in arrays if y.size or y.ndim > 1] or [np.zeros(0, "int64")]  # [] fits any
    if len(frames := {y.shape[1:] for y in known}) > 1:
        raise mg.ShapeError(f"padded: elements of one shape are needed, not {sorted(frames)}")
    ys = np.zeros((lengths.max(), len(arrays), *frames.pop()), np.result_type(*known))
    for b, y in enumerate(arrays):
        ys[: len(y), b] = y if len(y) else 0
    return ys, lengths


# --- a graphical model without hidden units (Fig 10.7) -------------------------------------------


class Table(Module):
    """The fully connected graphical model of tau symbols: one conditional for each prefix.

    P(y(t) | y(1), ..., y(t-1)) = softmax(row of the prefix), W ((k^tau - 1) / (k - 1), k): it has
    O(k^tau) parameters, where a recurrent network has O(1) in tau. A step model whose state is the
    number of the prefix, (B,): 0 is the empty one, n k + 1 + y follows n. The start symbol is k.
    """

    def __init__(self, k: int, tau: int, dtype: Any = None) -> None:
        self.k, self.tau = arguments.size("k", k), arguments.size("tau", tau)
        self.W = Parameter(mg.zeros((sum(self.k**t for t in range(self.tau)), self.k), dtype))

    def initial_state(self, batch: int) -> mg.Tensor:
        """The empty prefix."""
        return mg.zeros((batch,), "int64", backend=self.W.backend)

    def __call__(self, y: mg.Tensor, state: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        state = mg.where(y == self.k, 0, state * self.k + 1 + y)
        return mg.take(self.W, state, axis=0), state

    def fit(self, ys: np.ndarray) -> None:
        """The maximum-likelihood table of sequences ys (tau, N): the empirical joint distribution.

        Each row holds the logs of what follows its prefix, as often; what never does gets -inf. A
        prefix that does not occur says nothing: its row is uniform.
        """
        ys = np.asarray(ys)
        if ys.ndim != 2 or len(ys) != self.tau or ys.dtype.kind not in "iu":
            raise mg.ShapeError(
                f"Table.fit: integers (tau, N) with tau = {self.tau}, not {ys.dtype} {ys.shape}"
            )
        if ys.size and not (ys.min() >= 0 and ys.max() < self.k):
            raise mg.IndexRangeError(f"Table.fit: symbols are 0 to {self.k - 1}")
        counts, prefix = np.zeros(self.W.shape), np.zeros(ys.shape[1], np.int64)
        for y in ys:
            np.add.at(counts, (prefix, y), 1)
            prefix = prefix * self.k + 1 + y
        counts[counts.sum(axis=1) == 0] = 1
        with np.errstate(divide="ignore"):
            logs = np.log(counts / counts.sum(axis=1, keepdims=True))
        self.W.assign(mg.Tensor(logs, dtype=self.W.dtype, backend=self.W.backend))


def missing_values(
    log_probability: Callable[[np.ndarray], mg.Tensor], ys: Any, missing: Any, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """P(the missing symbols | the others) of one sequence ys (T,), by trying all (section 10.2.3).

    missing (T,) bool marks m of them, of k symbols each. log_probability takes all k^m completions
    (T, k^m) at once: that is the price. Returns them, (k^m, m), and their probabilities (k^m,).
    """
    ys, missing = np.array(ys), np.asarray(missing)
    if ys.ndim != 1 or missing.shape != ys.shape or missing.dtype.kind != "b":
        raise mg.ShapeError(
            f"missing_values: a sequence (T,) and bool (T,), not {ys.shape} and {missing.dtype} "
            f"{missing.shape}"
        )
    choices = itertools.product(range(arguments.size("k", k)), repeat=int(missing.sum()))
    values = np.array(list(choices), dtype=np.int64)
    whole = np.repeat(ys[:, None], len(values), axis=1)
    whole[missing] = values.T
    with mg.no_grad():
        log_p = log_probability(whole)
        if np.isneginf(log_p.numpy()).all():
            raise ValueError("missing_values: the symbols given have probability 0")
        return values, F.softmax(log_p).numpy()

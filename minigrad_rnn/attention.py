"""Attention: which steps of a sequence a decoder looks at, and cells that look before or after.

Letters: Tx source steps, T target steps, B batch, N numbers of a source step, Q of a query, A of a
score's hidden layer. A score is any object with `keys(values)`, computed once per sequence, and
`__call__(query, keys, coverage)`; an attention cell takes any score and any inner cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import minigrad as mg
from minigrad import arguments
from minigrad import functional as F
from minigrad.nn import Module, Parameter, glorot_uniform
from minigrad_rnn.compose import Stack
from minigrad_rnn.patterns import state_vector
from minigrad_rnn.unrolling import real_steps

LOWEST = -1e30  # the score of padding: finite, so that a row of padding alone is no NaN


# --- scores --------------------------------------------------------------------------------------


class Additive(Module):
    """e_j = v . tanh(s W + h_j U), s the query (Bahdanau et al. 2015, appendix A.1.2).

    W (Q, A), U (N, A), v (A,); the keys are h_j U. coverage=True adds c_j w, w (A,), where c_j is
    the weight that step j got so far (See et al. 2017, eq 11; w starts at 0).
    """

    def __init__(self, Q: int, N: int, A: int, coverage: bool = False, dtype: Any = None) -> None:
        Q, N, A = (arguments.size(k, n) for k, n in (("Q", Q), ("N", N), ("A", A)))
        self.W = Parameter(glorot_uniform((Q, A), dtype=dtype))
        self.U = Parameter(glorot_uniform((N, A), dtype=dtype))
        self.v = Parameter(glorot_uniform((A, 1), dtype=dtype).reshape(A))
        self.w = Parameter(mg.zeros(A, dtype)) if arguments.flag("coverage", coverage) else None

    def keys(self, values: mg.Tensor) -> mg.Tensor:
        """h U, (B, Tx, A)."""
        return values @ self.U

    def __call__(self, query: mg.Tensor, keys: mg.Tensor, coverage: mg.Tensor) -> mg.Tensor:
        a = keys + mg.expand_dims(query @ self.W, 1)
        if self.w is not None:
            a = a + mg.expand_dims(coverage, -1) * self.w
        return mg.tanh(a) @ self.v


class Concat(Module):
    """e_j = v . tanh([s; h_j] W) (Luong et al. 2015, section 3.1), W (Q + N, A)."""

    def __init__(self, Q: int, N: int, A: int, dtype: Any = None) -> None:
        self.Q, N, A = (arguments.size(k, n) for k, n in (("Q", Q), ("N", N), ("A", A)))
        self.W = Parameter(glorot_uniform((self.Q + N, A), dtype=dtype))
        self.v = Parameter(glorot_uniform((A, 1), dtype=dtype).reshape(A))

    def keys(self, values: mg.Tensor) -> mg.Tensor:
        """h times the lower rows of W, (B, Tx, A)."""
        return values @ self.W[self.Q :]

    def __call__(self, query: mg.Tensor, keys: mg.Tensor, coverage: mg.Tensor) -> mg.Tensor:
        return mg.tanh(keys + mg.expand_dims(query @ self.W[: self.Q], 1)) @ self.v


class Dot(Module):
    """e_j = s . h_j, for queries as wide as the values (Luong et al. 2015, section 3.1)."""

    def keys(self, values: mg.Tensor) -> mg.Tensor:
        """The values themselves, (B, Tx, N)."""
        return values

    def __call__(self, query: mg.Tensor, keys: mg.Tensor, coverage: mg.Tensor) -> mg.Tensor:
        if query.shape[-1] != keys.shape[-1]:
            raise mg.ShapeError(
                f"{type(self).__name__}: a query of {query.shape[-1]} numbers and keys of "
                f"{keys.shape[-1]} have no dot product; General, Additive and Concat take any sizes"
            )
        return mg.squeeze(keys @ mg.expand_dims(query, -1), -1)


class General(Dot):
    """e_j = s . W h_j (Luong et al. 2015, section 3.1), W (N, Q) here; the keys are h_j W."""

    def __init__(self, Q: int, N: int, dtype: Any = None) -> None:
        Q, N = arguments.size("Q", Q), arguments.size("N", N)
        self.W = Parameter(glorot_uniform((N, Q), dtype=dtype))

    def keys(self, values: mg.Tensor) -> mg.Tensor:
        """h W, (B, Tx, Q)."""
        return values @ self.W


# --- a memory and how it is read ------------------------------------------------------------------


class Memory(NamedTuple):
    """What a decoder looks at, as parts of its state, so that they go where its rows go.

    keys (B, Tx, A), values (B, Tx, N) and real (B, Tx), bool, pass every step as they are; weights
    (B, Tx) are the last step's, coverage (B, Tx) the sum of all steps' so far.
    """

    keys: mg.Tensor
    values: mg.Tensor
    real: mg.Tensor
    weights: mg.Tensor
    coverage: mg.Tensor


def remember(score: Any, values: mg.Tensor, *, lengths: Any = None, mask: Any = None) -> Memory:
    """The memory of a sequence (Tx, B, N), as unroll returns it: the keys are computed here, once.

    Padding, by lengths (B,) or mask (Tx, B), counts as 0, whatever stands there.
    """
    if values.ndim != 3:
        raise mg.ShapeError(f"attention: values are (Tx, B, N), not {tuple(values.shape)}")
    Tx, B, _ = values.shape
    home = values.backend
    flags = real_steps(Tx, B, lengths, mask, home, "attention")
    values = mg.transpose(values, (1, 0, 2))
    if flags is None:
        real = mg.ones((B, Tx), "bool", backend=home)
    else:
        real = mg.transpose(flags, (1, 0))
        values = mg.where(mg.expand_dims(real, -1), values, 0)
    blank = mg.zeros((B, Tx), values.dtype, backend=home)
    return Memory(score.keys(values), values, real, blank, blank)


def weights(scores: mg.Tensor, real: mg.Tensor) -> mg.Tensor:
    """softmax of scores (B, Tx) over the real steps, exactly 0 elsewhere (eq 6 of Bahdanau et al.).

    A row without any real step has all weights 0, and so the context 0.
    """
    if not scores.shape[-1]:
        return scores
    return mg.where(real, F.softmax(mg.where(real, scores, LOWEST)), 0)


def read(score: Any, query: mg.Tensor, memory: Memory) -> tuple[mg.Tensor, Memory]:
    """c = sum over j of alpha_j h_j, (B, N), for a query (B, Q), and the memory after it."""
    share = weights(score(query, memory.keys, memory.coverage), memory.real)
    context = mg.squeeze(mg.expand_dims(share, 1) @ memory.values, 1)
    return context, memory._replace(weights=share, coverage=memory.coverage + share)


def coverage_loss(alignment: mg.Tensor) -> mg.Tensor:
    """sum over t and j of min(alpha_tj, what j got before t), (B,), of weights (T, B, Tx).

    See et al. 2017, eq 12: looking twice at one step costs.
    """
    before = mg.cumsum(alignment, axis=0) - alignment
    return mg.sum(mg.minimum(alignment, before), axis=(0, 2))


# --- cells ---------------------------------------------------------------------------------------


class AttentionCell(Module):
    """What attention cells share: any inner cell, any score, and where their state comes from.

    The state is (Memory, inner state, what else a kind keeps). `begin` makes it of a sequence;
    `over` makes a cell whose initial state it is, for wiring that asks cells for theirs.
    """

    def __init__(self, cell: Any, score: Any) -> None:
        self.cell, self.score = cell, score

    def begin(
        self, values: mg.Tensor, state: Any = None, *, lengths: Any = None, mask: Any = None
    ) -> Any:
        """The state before the first step, over values (Tx, B, N), from an inner state if given."""
        memory = remember(self.score, values, lengths=lengths, mask=mask)
        state = self.cell.initial_state(values.shape[1]) if state is None else state
        return (memory, state, *self.extra(memory))

    def extra(self, memory: Memory) -> tuple[mg.Tensor, ...]:
        """What the state holds beside the memory and the inner cell's."""
        return ()

    def over(
        self, values: mg.Tensor, state: Any = None, *, lengths: Any = None, mask: Any = None
    ) -> Over:
        """This cell with a sequence in place; the arguments are those of `begin`."""
        return Over(self, self.begin(values, state, lengths=lengths, mask=mask))


class Over(Module):
    """An attention cell whose initial state is at hand, memory included, for one batch."""

    def __init__(self, cell: AttentionCell, start: Any) -> None:
        self.cell, self._start = cell, start

    def initial_state(self, batch: int) -> Any:
        """The state that was made of the sequence; its batch is the sequence's."""
        found = self._start[0].real.shape[0]
        if batch != found:
            raise mg.ShapeError(f"attention over {found} sequences, but a batch of {batch}")
        return self._start

    def __call__(self, x: mg.Tensor, state: Any) -> tuple[mg.Tensor, Any]:
        return self.cell(x, state)  # type: ignore[no-any-return]


class BahdanauCell(AttentionCell):
    """Look, then step: c_i from s_{i-1}, s_i = f([x_i; c_i], s_{i-1}) (Bahdanau et al. 2015).

    The output is [y_i; c_i], for p(y_i) = g(s_i, c_i). The query s_{i-1} is the inner state, all of
    its parts side by side (patterns.state_size numbers), or query(state).
    """

    def __init__(
        self, cell: Any, score: Any, query: Callable[[Any], mg.Tensor] = state_vector
    ) -> None:
        super().__init__(cell, score)
        self.query = query

    def __call__(self, x: mg.Tensor, state: Any) -> tuple[mg.Tensor, Any]:
        memory, inner = state
        context, memory = read(self.score, self.query(inner), memory)
        y, inner = self.cell(mg.concatenate([x, context], axis=-1), inner)
        return mg.concatenate([y, context], axis=-1), (memory, inner)


class LuongCell(AttentionCell):
    """Step, then look: c_t from the inner output h_t, y_t = tanh([c_t; h_t] W) (Luong et al. 2015).

    W (N + H, H), eq 5. With feeding=True the inner cell's input is [x_t; y_{t-1}] (section 3.3), so
    that a choice of where to look can depend on those before.
    """

    def __init__(
        self, cell: Any, score: Any, N: int, H: int, feeding: bool = True, dtype: Any = None
    ) -> None:
        super().__init__(cell, score)
        N, H = arguments.size("N", N), arguments.size("H", H)
        self.W = Parameter(glorot_uniform((N + H, H), dtype=dtype))
        self.feeding = arguments.flag("feeding", feeding)

    def extra(self, memory: Memory) -> tuple[mg.Tensor, ...]:
        """The output that is fed to the first step: zeros (B, H)."""
        rows, H = memory.real.shape[0], self.W.shape[1]
        return (mg.zeros((rows, H), self.W.dtype, backend=self.W.backend),) * self.feeding

    def __call__(self, x: mg.Tensor, state: Any) -> tuple[mg.Tensor, Any]:
        memory, inner, *fed = state
        h, inner = self.cell(mg.concatenate([x, *fed], axis=-1), inner)
        context, memory = read(self.score, h, memory)
        y = mg.tanh(mg.concatenate([context, h], axis=-1) @ self.W)
        return y, (memory, inner, *([y] if self.feeding else []))


class GNMTCell(AttentionCell):
    """The decoder of GNMT (Wu et al. 2016, section 3): layers that all see one context.

    a_i comes from the bottom layer's output of the step before (eq 4) and follows the input of
    every layer; from the third on, a layer's input without a_i is added to its output (eq 6). The
    cells' inputs are D + N numbers, then H + N; H the size of all their outputs.
    """

    def __init__(self, cells: Any, score: Any, H: int) -> None:
        if not cells:
            raise ValueError("GNMTCell: needs at least one layer")
        super().__init__(Stack(cells), score)
        self.H = arguments.size("H", H)

    def extra(self, memory: Memory) -> tuple[mg.Tensor, ...]:
        """The bottom layer's output before the first step: zeros (B, H)."""
        like = memory.values
        return (mg.zeros((like.shape[0], self.H), like.dtype, backend=like.backend),)

    def __call__(self, x: mg.Tensor, state: Any) -> tuple[mg.Tensor, Any]:
        memory, inner, bottom = state
        context, memory = read(self.score, bottom, memory)
        states = []
        for layer, (cell, part) in enumerate(zip(self.cell.cells, inner, strict=True), 1):
            m, part = cell(mg.concatenate([x, context], axis=-1), part)
            x = x + m if layer >= 3 else m
            bottom = m if layer == 1 else bottom
            states.append(part)
        return x, (memory, tuple(states), bottom)

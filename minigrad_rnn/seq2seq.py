"""Sequence to sequence with attention: encoder, memory, decoder; GNMT's layers.

Letters: Tx, Ty steps of source and target, B batch, N numbers of an encoded step, M of the
encoder's last state, D of an embedding, H hidden, V target symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import minigrad as mg
from minigrad import arguments
from minigrad import functional as F
from minigrad.nn import Embedding, Linear
from minigrad_rnn.attention import Additive, AttentionCell, GNMTCell
from minigrad_rnn.cells import LSTMCell
from minigrad_rnn.compose import Bidirectional, Layers, Residual
from minigrad_rnn.patterns import Bridge, Decoder, EncoderDecoder, state_size, state_vector
from minigrad_rnn.unrolling import unroll


class Encoded(NamedTuple):
    """An encoded source: values (Tx, B, N), the last state (B, M), lengths (B,) or None.

    inputs: the source itself, symbols (Tx, B) for a CopyDecoder.
    """

    values: mg.Tensor
    last: mg.Tensor
    lengths: Any = None
    inputs: Any = None


class AttentionDecoder(Decoder):
    """P(y(1), ..., y(T) | source): a Decoder around an attention cell, which sees E[y].

    cell: an attention cell whose outputs have H numbers. With M, the encoder's last state (B, M)
    sets the inner cell's first state through a Bridge; without, that is the cell's own. x of begin,
    logits, log_probability and greedy is an Encoded.
    """

    def __init__(
        self,
        V: int,
        D: int,
        cell: AttentionCell,
        H: int,
        M: int | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(V, D, cell, H, dtype=dtype)
        self.bridge = None if M is None else Bridge(M, cell.cell, dtype=dtype)

    def initial_state(self, batch: int) -> Any:
        """There is none without a source: ValueError."""
        raise ValueError("AttentionDecoder: needs a source to look at; give x, or call begin(x)")

    def begin(self, x: Any) -> tuple[Any, Any]:
        """The state before the first symbol: the keys are computed here."""
        state = None if self.bridge is None else self.bridge(x.last)
        return (), self.cell.begin(x.values, state, lengths=x.lengths)

    def looked(self, state: Any) -> mg.Tensor:
        """The weights (B, Tx) of the step that led to this state, as decode.beam asks for them."""
        return state[1][0].weights  # type: ignore[no-any-return]

    def alignment(self, ys: Any, x: Encoded) -> mg.Tensor:
        """The weights (Ty, B, Tx) by which each symbol of ys (Ty, B) looked at each source step."""
        ys = self._symbols(ys)
        y, state = self.start(ys.shape[1]), self.begin(x)
        rows = [self.looked(state)]
        for following in mg.unstack(ys):
            _, state = self(y, state)
            rows.append(self.looked(state))
            y = following
        return mg.stack(rows)[1:]


class CopyDecoder(AttentionDecoder):
    """An AttentionDecoder that can repeat symbols of the source (See et al. 2017, eq 8 and 9).

    P(y) = p softmax(o)_y + (1 - p) sum over j with x_j = y of alpha_j: with probability p the
    symbol is one of the decoder's own, else one of those that the attention looks at, which need
    not occur in any training target. p = sigmoid([E[y before]; cell output] W + b). Source and
    target have their V symbols in common, and `inputs` of the Encoded holds those of the source,
    (Tx, B). What it puts out are logs of probabilities, which serve as logits.
    """

    def __init__(
        self, V: int, D: int, cell: AttentionCell, H: int, M: int | None = None, dtype: Any = None
    ) -> None:
        super().__init__(V, D, cell, H, M, dtype=dtype)
        self.own = Linear(D + H, 1, dtype=dtype)

    def begin(self, x: Any) -> tuple[Any, Any]:
        """The state before the first symbol, with the source as unit vectors (B, Tx, V)."""
        if getattr(x, "inputs", None) is None:
            raise ValueError("CopyDecoder: give the source, an Encoded whose inputs are symbols")
        shown = F.one_hot(self._symbols(x.inputs), self.V, x.values.dtype)
        return mg.transpose(shown, (1, 0, 2)), super().begin(x)[1]

    def __call__(self, y: mg.Tensor, state: tuple[Any, Any]) -> tuple[mg.Tensor, tuple[Any, Any]]:
        shown, inner = state
        u = self.embedding(y)
        h, inner = self.cell(u, inner)
        p = mg.sigmoid(self.own(mg.concatenate([u, h], axis=-1)))
        copied = mg.squeeze(mg.expand_dims(inner[0].weights, 1) @ shown, 1)
        mixed = p * F.softmax(self.readout(h)) + (1 - p) * copied
        return mg.log(mg.maximum(mixed, 1e-30)), (shown, inner)  # in float32 it may be 0

    def logits(self, ys: Any, x: Any = None, *, lengths: Any = None) -> mg.Tensor:
        """log P (T, B, V) of every symbol of ys (T, B), all before it given (teacher forcing)."""
        seen = self._seen(self._symbols(ys), lengths)
        return unroll(lambda y, s: self(y, s), seen, self.begin(x), lengths=lengths)[0]


class AttentionEncoderDecoder(EncoderDecoder):
    """P(ys | xs) with all of the encoder's outputs in sight, in place of one vector of fixed size.

    encoder: a layer (Recurrent, Bidirectional, Layers); decoder: an AttentionDecoder; embed, if
    given, is applied to xs first. The lengths of xs and ys are independent, row by row.
    """

    def context(self, xs: Any, *, lengths: Any = None) -> Any:
        """The Encoded of inputs (Tx, B, ...)."""
        values, state = self.encode(xs, lengths=lengths)
        return Encoded(values, state_vector(state), lengths, xs)

    def alignment(self, xs: Any, ys: Any, *, lengths: Any = None) -> mg.Tensor:
        """The weights (Ty, B, Tx) of each target step over the source steps, ys given."""
        return self.decoder.alignment(ys, self.context(xs, lengths=lengths))  # type: ignore


def gnmt(
    V_source: int,
    V: int,
    D: int,
    H: int,
    layers: int = 8,
    cell: Callable[..., Any] = LSTMCell,
    dtype: Any = None,
) -> AttentionEncoderDecoder:
    """GNMT (Wu et al. 2016, section 3) at any size, from symbols (Tx, B) to symbols (Ty, B).

    The first encoder layer runs in both directions, the others forwards; the decoder's bottom layer
    drives an attention with one hidden layer of H units, whose context all its layers see; residual
    connections begin at the third layer of both. The encoder's last states set the decoder's first
    through a Bridge, where the paper is silent. cell(D, H, dtype=) makes the layers.
    """
    layers = arguments.size("layers", layers)

    def make(size: int) -> Any:
        return cell(size, H, dtype=dtype)

    both, uppers = (make(D), make(D)), [make(2 * H if n == 2 else H) for n in range(2, layers + 1)]
    encoder = [Bidirectional(*both), *uppers[:1], *map(Residual, uppers[1:])]
    M = sum(map(state_size, (*both, *uppers)))
    N = H if uppers else 2 * H
    decoder = [make((D if n == 1 else H) + N) for n in range(1, layers + 1)]
    attention = GNMTCell(decoder, Additive(H, N, H, dtype=dtype), H)
    return AttentionEncoderDecoder(
        Layers(encoder),
        AttentionDecoder(V, D, attention, H, M, dtype=dtype),
        Embedding(V_source, D, dtype=dtype),
    )

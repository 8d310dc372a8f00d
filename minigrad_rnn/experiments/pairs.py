"""What the experiments on pairs of sequences share: two models, a training loop, exact match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.nn import Embedding
from minigrad_rnn.attention import Additive, BahdanauCell
from minigrad_rnn.cells import GRUCell
from minigrad_rnn.compose import Bidirectional
from minigrad_rnn.experiments.learning import Curve, learn
from minigrad_rnn.patterns import Decoder, EncoderDecoder
from minigrad_rnn.seq2seq import AttentionDecoder, AttentionEncoderDecoder

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]  # (source, target), the end symbol not in it
EVEN = 8  # what lengths in training are multiples of, so that few are to be compiled


def model(variant: str, symbols: tuple[int, int], D: int, H: int) -> EncoderDecoder:
    """A bidirectional GRU of 2H units and a GRU of 2H units: "attention" or "none".

    symbols: how many the source and the target have; the target's own, and then the end symbol.
    """
    source, target = symbols
    encoder, embed = Bidirectional(GRUCell(D, H), GRUCell(D, H)), Embedding(source, D)
    N = 2 * H
    if variant == "none":
        return EncoderDecoder(encoder, Decoder(target + 1, D, GRUCell(D, N), N, N), embed)
    cell = BahdanauCell(GRUCell(D + N, N), Additive(N, N, H))
    return AttentionEncoderDecoder(encoder, AttentionDecoder(target + 1, D, cell, 2 * N, N), embed)


def padded(
    rows: Sequence[Sequence[int]], fill: int = 0, multiple: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of symbols as (T, B), T a multiple, and their lengths (B,)."""
    lengths = np.array([len(row) for row in rows])
    T = -(-max(lengths, default=0) // multiple) * multiple
    table = np.full((T, len(rows)), fill)
    for b, row in enumerate(rows):
        table[: len(row), b] = row
    return table, lengths


def arrays(net: EncoderDecoder, pairs: Pairs, multiple: int = 1) -> dict[str, Any]:
    """The arguments of log_probability: targets end with the end symbol, the decoder's last."""
    end = net.decoder.V - 1
    xs, lengths = padded([source for source, _ in pairs], 0, multiple)
    ys, target_lengths = padded([[*target, end] for _, target in pairs], end, multiple)
    return {"xs": xs, "ys": ys, "lengths": lengths, "target_lengths": target_lengths}


def train(
    net: EncoderDecoder,
    draw: Callable[[], Pairs],
    updates: int,
    rate: float = 0.01,
    *,
    falling: bool = False,
) -> Curve:
    """A fresh batch an update; the curve is nats a target symbol. Falling: as in `learn`."""

    def loss(batch: dict[str, Any]) -> mg.Tensor:
        return -mg.sum(net.log_probability(**batch)) / mg.sum(mg.Tensor(batch["target_lengths"]))

    batches = lambda n: (arrays(net, draw(), EVEN),)  # noqa: E731
    return learn(batches, loss, net.parameters(), updates, rate, falling=falling)


def exact_match(net: EncoderDecoder, pairs: Pairs) -> float:
    """The share of sources whose greedy translation, up to its end symbol, is the target."""
    batch = arrays(net, pairs)
    ys, real = batch["ys"], batch["target_lengths"]
    found = net.greedy(batch["xs"], len(ys), lengths=batch["lengths"]).numpy()
    return float(((found == ys) | (np.arange(len(ys))[:, None] >= real)).all(axis=0).mean())

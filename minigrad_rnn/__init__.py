"""Recurrent networks as ordinary graph code on minigrad: cells, unrolling, what they compose to."""

from minigrad_rnn.cells import GRUCell, LSTMCell, RNNCell
from minigrad_rnn.compose import (
    Bidirectional,
    EmitState,
    Layers,
    LearnedState,
    NoisyState,
    Recurrent,
    Residual,
    Stack,
)
from minigrad_rnn.unrolling import unroll

__all__ = [
    "Bidirectional",
    "EmitState",
    "GRUCell",
    "LSTMCell",
    "Layers",
    "LearnedState",
    "NoisyState",
    "RNNCell",
    "Recurrent",
    "Residual",
    "Stack",
    "unroll",
]

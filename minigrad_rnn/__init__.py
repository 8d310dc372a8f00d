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
from minigrad_rnn.patterns import (
    Bridge,
    Decoder,
    EncoderDecoder,
    HiddenLayer,
    OutputFeedback,
    Readout,
)
from minigrad_rnn.training import BPTT, RTRL, TBPTT, Checkpoint, ClippedState, Stream
from minigrad_rnn.unrolling import unroll

__all__ = [
    "BPTT",
    "RTRL",
    "TBPTT",
    "Bidirectional",
    "Bridge",
    "Checkpoint",
    "ClippedState",
    "Decoder",
    "EmitState",
    "EncoderDecoder",
    "GRUCell",
    "HiddenLayer",
    "LSTMCell",
    "Layers",
    "LearnedState",
    "NoisyState",
    "OutputFeedback",
    "RNNCell",
    "Readout",
    "Recurrent",
    "Residual",
    "Stack",
    "Stream",
    "unroll",
]

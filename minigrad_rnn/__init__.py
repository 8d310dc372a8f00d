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
from minigrad_rnn.depth import MLP, DeepCell, Increment, ResNet
from minigrad_rnn.gated import (
    BookGRUCell,
    BookLSTMCell,
    CoupledLSTMCell,
    LayerNormLSTMCell,
    PeepholeLSTMCell,
    ProjectedLSTMCell,
)
from minigrad_rnn.languages import MultilingualDecoder
from minigrad_rnn.memory import MemoryNetwork, NTMCell
from minigrad_rnn.patterns import (
    Bridge,
    Decoder,
    EncoderDecoder,
    HiddenLayer,
    OutputFeedback,
    Readout,
)
from minigrad_rnn.regularize import RecurrentDropoutLSTMCell, VariationalDropout, Zoneout
from minigrad_rnn.timescales import Clockwork, ClockworkCell, DelayCell, LeakyCell
from minigrad_rnn.training import BPTT, RTRL, TBPTT, Checkpoint, ClippedState, Stream
from minigrad_rnn.unrolling import unroll

__all__ = [
    "BPTT",
    "MLP",
    "RTRL",
    "TBPTT",
    "Bidirectional",
    "BookGRUCell",
    "BookLSTMCell",
    "Bridge",
    "Checkpoint",
    "ClippedState",
    "Clockwork",
    "ClockworkCell",
    "CoupledLSTMCell",
    "Decoder",
    "DeepCell",
    "DelayCell",
    "EmitState",
    "EncoderDecoder",
    "GRUCell",
    "HiddenLayer",
    "Increment",
    "LSTMCell",
    "LayerNormLSTMCell",
    "Layers",
    "LeakyCell",
    "LearnedState",
    "MemoryNetwork",
    "MultilingualDecoder",
    "NTMCell",
    "NoisyState",
    "OutputFeedback",
    "PeepholeLSTMCell",
    "ProjectedLSTMCell",
    "RNNCell",
    "Readout",
    "Recurrent",
    "RecurrentDropoutLSTMCell",
    "ResNet",
    "Residual",
    "Stack",
    "Stream",
    "VariationalDropout",
    "Zoneout",
    "unroll",
]

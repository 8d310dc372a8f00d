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
from minigrad_rnn.regularize import RecurrentDropoutLSTMCell, VariationalDropout, Zoneout
from minigrad_rnn.timescales import Clockwork, ClockworkCell, DelayCell, LeakyCell
from minigrad_rnn.unrolling import unroll

__all__ = [
    "MLP",
    "Bidirectional",
    "BookGRUCell",
    "BookLSTMCell",
    "Clockwork",
    "ClockworkCell",
    "CoupledLSTMCell",
    "DeepCell",
    "DelayCell",
    "EmitState",
    "GRUCell",
    "Increment",
    "LSTMCell",
    "LayerNormLSTMCell",
    "Layers",
    "LeakyCell",
    "LearnedState",
    "NoisyState",
    "PeepholeLSTMCell",
    "ProjectedLSTMCell",
    "RNNCell",
    "Recurrent",
    "RecurrentDropoutLSTMCell",
    "ResNet",
    "Residual",
    "Stack",
    "VariationalDropout",
    "Zoneout",
    "unroll",
]

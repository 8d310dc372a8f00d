"""Recurrent networks as ordinary graph code on minigrad: cells, unrolling, what they compose to."""

from minigrad_rnn.attention import BahdanauCell, GNMTCell, LuongCell
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
from minigrad_rnn.decode import Hypothesis, beam
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
from minigrad_rnn.likelihood import (
    Categorical,
    DrawnLength,
    EndSymbol,
    Gaussian,
    Halt,
    KnownLength,
    Remaining,
    Sequences,
    Table,
    missing_values,
)
from minigrad_rnn.memory import MemoryNetwork, NTMCell
from minigrad_rnn.patterns import (
    Bridge,
    Decoder,
    Embedded,
    EncoderDecoder,
    HiddenLayer,
    OutputFeedback,
    Readout,
)
from minigrad_rnn.recursive import (
    ChildSumTreeLSTMCell,
    NaryTreeLSTMCell,
    RecursiveCell,
    Tree,
    recurse,
)
from minigrad_rnn.regularize import RecurrentDropoutLSTMCell, VariationalDropout, Zoneout
from minigrad_rnn.seq2seq import AttentionDecoder, AttentionEncoderDecoder, CopyDecoder, gnmt
from minigrad_rnn.timescales import Clockwork, ClockworkCell, DelayCell, LeakyCell
from minigrad_rnn.training import BPTT, RTRL, TBPTT, Checkpoint, ClippedState, Stream
from minigrad_rnn.unrolling import unroll

__all__ = [
    "BPTT",
    "MLP",
    "RTRL",
    "TBPTT",
    "AttentionDecoder",
    "AttentionEncoderDecoder",
    "BahdanauCell",
    "Bidirectional",
    "BookGRUCell",
    "BookLSTMCell",
    "Bridge",
    "Categorical",
    "Checkpoint",
    "ChildSumTreeLSTMCell",
    "ClippedState",
    "Clockwork",
    "ClockworkCell",
    "CopyDecoder",
    "CoupledLSTMCell",
    "Decoder",
    "DeepCell",
    "DelayCell",
    "DrawnLength",
    "Embedded",
    "EmitState",
    "EncoderDecoder",
    "EndSymbol",
    "GNMTCell",
    "GRUCell",
    "Gaussian",
    "Halt",
    "HiddenLayer",
    "Hypothesis",
    "Increment",
    "KnownLength",
    "LSTMCell",
    "LayerNormLSTMCell",
    "Layers",
    "LeakyCell",
    "LearnedState",
    "LuongCell",
    "MemoryNetwork",
    "MultilingualDecoder",
    "NTMCell",
    "NaryTreeLSTMCell",
    "NoisyState",
    "OutputFeedback",
    "PeepholeLSTMCell",
    "ProjectedLSTMCell",
    "RNNCell",
    "Readout",
    "Recurrent",
    "RecurrentDropoutLSTMCell",
    "RecursiveCell",
    "Remaining",
    "ResNet",
    "Residual",
    "Sequences",
    "Stack",
    "Stream",
    "Table",
    "Tree",
    "VariationalDropout",
    "Zoneout",
    "beam",
    "gnmt",
    "missing_values",
    "recurse",
    "unroll",
]

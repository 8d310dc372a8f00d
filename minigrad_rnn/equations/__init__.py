"""The lectures' equations, each printed from the graph of a program and checked against NumPy."""

from minigrad_rnn.equations.case import EQUATIONS, Case, lecture

# Entered in the order in which --list has them.
# isort: off
from minigrad_rnn.equations import networks, probability, gradients, gated

__all__ = ["EQUATIONS", "Case", "gated", "gradients", "lecture", "networks", "probability"]

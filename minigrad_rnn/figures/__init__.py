"""The figures of the lectures, drawn from the graphs of the programs they are about."""

from minigrad_rnn.figures import book, explicit_memory, gated, lectures, plots
from minigrad_rnn.figures.registry import FIGURES, Figure

__all__ = ["FIGURES", "Figure", "book", "explicit_memory", "gated", "lectures", "plots"]

"""Experiments: claims of the lectures put to the test, each a module with an EXPERIMENT.

`minigrad-rnn experiment NAME` runs one. Seeds and thresholds stand in the module before its first
full run.
"""

from __future__ import annotations

import importlib

from minigrad_rnn.experiments.experiment import Bar, Experiment

__all__ = ["NAMES", "Bar", "Experiment", "find"]

NAMES = (
    "adding",
    "cliff",
    "copying",
    "dates",
    "gradient_norms",
    "gru_lstm",
    "hidden_bit",
    "language_vectors",
    "listops",
    "ntm_copy",
    "output_recurrence",
    "recall",
    "reversal",
    "temporal_order",
    "time_scales",
    "translation",
    "zero_shot",
)


def find(name: str) -> Experiment:
    """The experiment of that name; ValueError for any other."""
    if name not in NAMES:
        raise ValueError(f"there is no experiment {name!r}, but {', '.join(NAMES)}")
    experiment: Experiment = importlib.import_module(f"{__name__}.{name}").EXPERIMENT
    return experiment

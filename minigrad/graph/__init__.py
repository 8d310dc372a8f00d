"""Graphs of captured functions: what a function computes, as data that passes can change.

A pass takes a graph and returns another that means the same; `evaluate` says what that is.
"""

from minigrad.graph.checks import ordered, verify
from minigrad.graph.interpreter import evaluate
from minigrad.graph.ir import (
    Affine,
    CaptureError,
    Carry,
    Collected,
    Graph,
    GraphError,
    Indexed,
    Instruction,
    Loop,
    Value,
)  # fmt: skip
from minigrad.graph.listing import text
from minigrad.graph.tracing import Captured, capture

__all__ = [
    "Affine", "CaptureError", "Captured", "Carry", "Collected", "Graph", "GraphError", "Indexed",
    "Instruction", "Loop", "Value", "capture", "evaluate", "ordered", "text", "verify",
]  # fmt: skip

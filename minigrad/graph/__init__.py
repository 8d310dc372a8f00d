"""Graphs of captured functions: what a function computes, as data that passes can change.

A pass takes a graph and returns another that means the same; `evaluate` says what that is.
"""

from minigrad.graph.absorbing import absorb
from minigrad.graph.building import PASSES, Program
from minigrad.graph.captured import Captured
from minigrad.graph.checks import ordered, verify
from minigrad.graph.compiled import Compiled, compile
from minigrad.graph.contraction import Link, contract, inside, made_by, maker
from minigrad.graph.existing import freeze
from minigrad.graph.fission import distribute
from minigrad.graph.flattening import fingerprint, unfold
from minigrad.graph.fusing import fuse
from minigrad.graph.gathering import whole
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
)
from minigrad.graph.latex import Equation, equations, label
from minigrad.graph.listing import text
from minigrad.graph.lowering import lower
from minigrad.graph.rolling import fold
from minigrad.graph.simplifying import simplify
from minigrad.graph.tracing import capture

# fmt: off
__all__ = [
    "PASSES", "Affine", "CaptureError", "Captured", "Carry", "Collected", "Compiled", "Equation",
    "Graph", "GraphError", "Indexed", "Instruction", "Link", "Loop", "Program", "Value", "absorb",
    "capture", "compile", "contract", "distribute", "equations", "evaluate", "fingerprint",
    "fold", "freeze", "fuse", "inside", "label", "lower", "made_by", "maker", "ordered", "simplify",
    "text", "unfold", "verify", "whole",
]

"""Draws of random numbers and gathers that are made for all iterations at once: part of fission."""

from __future__ import annotations

from typing import Any, cast

from minigrad.graph.ir import Instruction, Value, spec_of
from minigrad.graph.properties import has_counter
from minigrad.graph.rewriting import INDEX, Builder, Rows
from minigrad.op import REGISTRY
from minigrad.ops.index import ARRAY

NEXT, FOLD, BITS, UNIFORM = (
    REGISTRY[f"random_{name}"] for name in ("next", "fold", "bits", "uniform")
)


def is_rowwise(step: Instruction, rows: Rows) -> bool:
    """Whether a step draws with keys that change, or takes rows of what does not change.

    Each key's numbers are its own, whatever keys stand beside it.
    """
    changing = [rows.varies(x) for x in step.operands]
    if has_counter(step.static):
        return False
    if step.op is INDEX:
        first, *others = step.static["template"] or (None,)
        whole = all(item == slice(None) for item in others)
        return first is ARRAY and whole and changing == [False, True]
    return step.op in (NEXT, FOLD, BITS, UNIFORM) and any(changing)


def batched(step: Instruction, rows: Rows, out: Builder) -> Value:
    """The step for all iterations: its result's first axis is theirs."""
    operands: list[Any] = [rows.of(cast(Value, x), out) for x in step.operands]
    if step.op is FOLD:  # keys (..., 2) and numbers (...), which stretch to one another
        ends = 1, 0
        ranks = [len(spec_of(x).shape) - end for x, end in zip(step.operands, ends, strict=True)]
        for i, x in enumerate(step.operands):
            if rows.varies(x):
                trips, *own = operands[i].spec.shape
                ones = (1,) * (max(ranks) - ranks[i])
                operands[i] = out.reshaped(operands[i], trips, *ones, *own)
    return out.emit(step.op, *operands, **step.static)

"""Which instructions have vector code: those whose forward runs on vectors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from minigrad.graph.engine import Op
from minigrad.graph.indexing import GATHER
from minigrad.graph.ir import Instruction, Value
from minigrad.graph.properties import Statics, reducer
from minigrad.graph.skeleton import hashable

from .functions import namespace
from .loops import define
from .vector import Lanes, Number


def is_vector(step: Instruction) -> bool:
    """Whether an elementwise instruction, a reduction or a gather can be written as vector code."""
    values = [v for v in (*step.operands, *step.outputs) if isinstance(v, Value)]
    if (
        step.op is GATHER
        or reducer(step.op)
        or any(v.spec.dtype.kind not in "fbiu" for v in values)
    ):
        return all(v.spec.dtype.kind in "fbiu" for v in values)
    kinds = tuple(
        x.spec.dtype if isinstance(x, Value) else float if isinstance(x, float) else x
        for x in step.operands
    )
    return _is_vector(step.op, kinds, hashable(step.static), Statics(step.static))


@lru_cache(4096)
def _is_vector(op: Op, kinds: tuple[Any, ...], key: Any, static: Statics) -> bool:
    code = define(ir.Module(), "tried", ())
    lanes = Lanes(code, 4)
    half = Number(lanes, ir.Constant(ir.DoubleType(), 0.5), 0.5)
    operands = [
        lanes.constant(0, x) if isinstance(x, np.dtype) else half if x is float else x
        for x in kinds
    ]
    try:
        op.forward(namespace(lanes), *operands, **static)
    except Exception:  # whatever forward asks for, vectors do not have it
        return False
    return True

"""The tensors that exist when a capture begins: what it reads, and what it did not make.

They are found by looking at every object that Python's garbage collector knows, some 0.1 us each.
"""

from __future__ import annotations

import gc
from typing import Any

from minigrad.graph.ir import CaptureError
from minigrad.tensor import FIRST, Tensor

_hidden: list[Tensor] = []  # those that freeze hid from the collector
_witness = FIRST  # seen, unless somebody else hid it, and others with it


def _kinds(kind: type[Any]) -> set[type[Any]]:
    """A class and all that derive from it."""
    return {kind}.union(*(_kinds(child) for child in kind.__subclasses__()))


def existing() -> list[Tensor]:
    """All tensors there are; raises CaptureError where the collector was told to hide some."""
    kinds = _kinds(Tensor)  # an object refers to its class: half the time of gc.get_objects
    found = [x for x in gc.get_referrers(*kinds) if type(x) in kinds]
    if not any(x is _witness for x in found):
        raise CaptureError(
            "gc.freeze() hides the tensors there are; call gc.unfreeze(), and mg.graph.freeze() "
            "instead"
        )
    return list({id(x): x for x in (*_hidden, *found)}.values())


def freeze() -> None:
    """Hide all objects there are from the garbage collector, so that captures look at few.

    For a process with many objects, once they are loaded: each new shape of a compiled function is
    captured, at some 0.1 us an object. gc.freeze() alone would hide tensors from captures, which
    refuse to begin then; here they are kept, and live as long as the process.
    """
    global _witness
    _hidden[:] = existing()
    gc.freeze()
    _witness = object.__new__(Tensor)

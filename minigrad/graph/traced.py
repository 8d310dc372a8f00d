"""Traced: what tensors hold during a capture, and the error for a look at it."""

from __future__ import annotations

import linecache
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.graph.ir import CaptureError, Value
from minigrad.op import REGISTRY

if TYPE_CHECKING:
    from minigrad.graph.recorder import Recorder

ENDED = "this tensor belongs to a capture that has ended; return it or assign it"


class Traced:
    """What a tensor holds while a function is captured: a value's shape and dtype, no numbers."""

    __slots__ = ("recorder", "shape", "value")

    def __init__(self, value: Value, recorder: Recorder) -> None:
        self.value = value
        self.shape = value.spec.shape
        self.recorder = recorder

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.recorder.ended:  # every op, on every backend, asks for the dtype first
            raise CaptureError(ENDED)
        return self.value.spec.dtype  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    def astype(self, dtype: Any) -> Traced:
        """The cast as an instruction of its own: operands have the dtype that an op computes in."""
        return self.recorder.emit(REGISTRY["astype"], [self], {"dtype": np.dtype(dtype)})[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise CaptureError(ENDED) if self.recorder.ended else unreadable()

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise CaptureError(ENDED) if self.recorder.ended else unreadable()


def unreadable() -> CaptureError:
    """The error for a look at a value that is not there yet, at the user's own line."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_globals.get("__name__", "").startswith("minigrad"):
        frame = frame.f_back
    where = ""
    if frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        where = f' at {file}:{line}: "{linecache.getline(file, line).strip()}"'
    return CaptureError(
        f"a captured function looks at a value that is not there yet{where}; write minigrad.where "
        f"instead of if, keep numbers as tensors instead of float() and item(), and print what the "
        f"function returns"
    )

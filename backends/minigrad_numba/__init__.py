"""The Numba backend: NumPy's arrays, with compiled kernels where eager NumPy is weak."""

from __future__ import annotations

from typing import Any

import numba
import numpy

from . import disk, kernels


class NumbaBackend:
    """Arrays are numpy.ndarray, on the host; ops in `kernels` run compiled, the others on NumPy."""

    name = "numba"
    api = 1
    xp = numpy
    version = numba.__version__
    threads = "1 in a kernel, NumPy's BLAS library's in a matrix product"
    kernels = kernels.KERNELS

    @property
    def note(self) -> str:
        return disk.describe()

    def asarray(self, data: Any, dtype: Any = None) -> numpy.ndarray:
        return numpy.asarray(data, dtype=dtype)

    def to_numpy(self, array: numpy.ndarray) -> numpy.ndarray:
        return array

    def scatter_add(
        self, out: numpy.ndarray, index: tuple[Any, ...], values: numpy.ndarray
    ) -> numpy.ndarray:
        return kernels.scatter_add(out, index, values)

    def emit(self, graph: Any) -> Any:
        from .emit.running import Program  # LLVM, and the graph package

        return Program(graph, self)


def backend(device: str | None = None) -> NumbaBackend:
    """The factory that `minigrad.backends` names; the kernels run on the host alone."""
    if device not in (None, "cpu"):
        raise ValueError(f"numba has no device {device!r}; write 'numba'")
    return NumbaBackend()

"""The reference backend: NumPy's arrays, and nothing faster than NumPy."""

from __future__ import annotations

from typing import Any

import numpy


class NumpyBackend:
    """Arrays are numpy.ndarray, on the host; every op runs as its forward is written."""

    name = "numpy"
    api = 1
    xp = numpy
    version = numpy.__version__

    def asarray(self, data: Any, dtype: Any = None) -> numpy.ndarray:
        return numpy.asarray(data, dtype=dtype)

    def to_numpy(self, array: numpy.ndarray) -> numpy.ndarray:
        return array

    def scatter_add(
        self, out: numpy.ndarray, index: tuple[Any, ...], values: numpy.ndarray
    ) -> numpy.ndarray:
        numpy.add.at(out, index, values)
        return out

    def emit(self, graph: Any) -> Any:
        """A captured graph as straight-line Python: NumPy's functions on planned memory."""
        from minigrad_numpy.emit import emit  # late, for it imports the graph layer

        return emit(graph, self)


def backend(device: str | None = None) -> NumpyBackend:
    """The factory that `minigrad.backends` names; NumPy has one device."""
    if device not in (None, "cpu"):
        raise ValueError(f"numpy has no device {device!r}; write 'numpy'")
    return NumpyBackend()

"""Numba's programs for tests, their work shared among many threads however little it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from minigrad_numba.emit import nests, objects, pool, running

import minigrad as mg
from minigrad.graph import Graph, evaluate
from minigrad.op import bare
from tests import graph_programs as programs


@pytest.fixture
def optimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs compile with LLVM's optimiser, as for users; see conftest.unoptimised."""
    monkeypatch.setattr(objects, "LEVEL", 3)


def program(graph: Graph, threads: int = 1) -> running.Program:
    """The program of a graph on so many threads, among which all of its work is shared."""
    with pytest.MonkeyPatch.context() as patch, mg.use_backend("numba"):
        patch.setattr(pool, "threads", lambda: threads)
        patch.setattr(running, "SMALL", -1)
        patch.setattr(nests, "SMALL", 0 if threads > 1 else nests.SMALL)
        return running.Program(graph, mg.resolve("numba"))


def close(found: Sequence[np.ndarray], expected: Sequence[Any], tolerance: float) -> None:
    """Shapes, dtypes and values; float values relative to the greatest of their array."""
    for i, (x, y) in enumerate(zip(found, expected, strict=True)):
        y = y.numpy() if isinstance(y, mg.Tensor) else y
        assert x.shape == y.shape and x.dtype == y.dtype, i
        if x.dtype.kind == "f":
            size = np.abs(y[np.isfinite(y)]).max(initial=1e-3)
            np.testing.assert_allclose(
                x, y, rtol=0, atol=tolerance * size, equal_nan=True, err_msg=f"output {i}"
            )
        else:
            assert (x == y).all(), i


def agrees(
    graph: Graph,
    inputs: Sequence[Any],
    threads: Sequence[int] = (1, 3),
    tolerance: float = 1e-12,
    optimise: bool = True,
) -> running.Program:
    """A graph's native program gives what the captured graph does; returns the last one.

    Twice the same bits, no input written, and no result of the first call by the second.
    """
    with mg.use_backend("numba"), np.errstate(all="ignore"):
        expected = evaluate(graph, inputs)
        made = programs.optimised(graph) if optimise else graph
        arrays = [bare(x) for x in inputs]
        before = [a.tobytes() for a in arrays]
        for count in threads:
            found = program(made, count)
            assert found.pool.threads == count
            first = found(arrays)
            close(first, expected, tolerance)
            second = found(arrays)
            assert [a.tobytes() for a in arrays] == before
            for x, y in zip(first, second, strict=True):
                assert x.tobytes() == y.tobytes()
            others = [a * 0.5 if a.dtype.kind == "f" else a for a in arrays]
            found(others)
            close(first, expected, tolerance)
    return found

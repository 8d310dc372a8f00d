"""Scatter-add in a fixed order: sort by target, then one thread adds up one target's values.

CuPy's own `scatter_add` uses atomic additions, whose order, and with it the last bits of a sum,
changes from run to run; in an indexed assignment duplicates are undefined.
"""

from __future__ import annotations

import math
from typing import Any

# Arguments of cupy.ElementwiseKernel; `i` counts (value, column) pairs. `rows` is sorted, and
# order[k] tells where the value for rows[k] stood, so each sum runs in the order of the values,
# as numpy.add.at's does, and has the same bits.
SEGMENT_SUM = (
    "raw int64 rows, raw int64 order, raw T values, int64 count, int64 width",
    "raw T out",
    """
    const long long first = i / width, column = i % width;
    if (first == 0 || rows[first] != rows[first - 1]) {
        const long long target = rows[first] * width + column;
        T total = out[target];
        for (long long k = first; k < count && rows[k] == rows[first]; ++k)
            total += values[order[k] * width + column];
        out[target] = total;
    }
    """,
    "minigrad_segment_sum",
)


def scatter_add(xp: Any, segment_sum: Any, out: Any, index: tuple[Any, ...], values: Any) -> Any:
    """Add values at out[index], duplicates counted in the order of the values; writes into out."""
    leading = _leading(index)
    depth = len([item for item in leading if item is not None])
    shape, width = out.shape[:depth], math.prod(out.shape[depth:])
    rows = xp.arange(math.prod(shape), dtype=xp.int64).reshape(shape)[leading].reshape(-1)
    if rows.size and width:
        order = xp.argsort(rows, kind="stable")
        values = xp.ascontiguousarray(values)
        size = rows.size * width
        segment_sum(rows[order], order, values, rows.size, width, out, size=size)
    return out


def _leading(index: tuple[Any, ...]) -> tuple[Any, ...]:
    """The index without the whole axes at its end: those are columns, and need no sorting."""
    items = list(index)
    while items and isinstance(items[-1], slice) and items[-1] == slice(None):
        items.pop()
    return tuple(items)

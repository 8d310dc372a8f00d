"""The op table: one row per registered op and per public composition (the rows are in op_rows/).

Everything the tests know of an op stands in its row, beside those of its file in minigrad/ops/: the
reference (a NumPy function or plain Python with the same arguments), samples, errors, tolerances,
dtypes, gradients at kinks, and how often it can be differentiated.
"""

from __future__ import annotations

from tests.op_rows import create, elementwise, index, linalg, random, reduce, shape
from tests.op_rows.row import Bad, Point, Row, S, Sample

ROWS: tuple[Row, ...] = (
    *elementwise.ROWS,
    *reduce.ROWS,
    *shape.ROWS,
    *linalg.ROWS,
    *index.ROWS,
    *random.ROWS,
    *create.ROWS,
)
BY_NAME = {row.name: row for row in ROWS}
BY_OP = {row.op: row for row in ROWS if row.op is not None}

__all__ = ["BY_NAME", "BY_OP", "ROWS", "Bad", "Point", "Row", "S", "Sample"]

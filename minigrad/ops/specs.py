"""Shape-and-dtype rules that ops share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.errors import ShapeError
from minigrad.spec import Spec, common_dtype
from minigrad.tensor import Shape, default_dtype

BOOL = np.dtype("bool")
INT64 = np.dtype("int64")


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The common shape; raises ShapeError that names the offending axis."""
    rank = max((len(s) for s in shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for i, n in enumerate(shape, rank - len(shape)):
            if n != 1 and result[i] not in (1, n):
                raise ShapeError(
                    f"shapes {' and '.join(map(str, shapes))} do not broadcast: axis {i - rank} "
                    f"has sizes {result[i]} and {n}, which must be equal or 1"
                )
            result[i] = n if n != 1 else result[i]
    return tuple(result)


def promoted(*specs: Spec) -> Spec:
    """Elementwise: shapes broadcast, dtypes promote."""
    return Spec(
        broadcast([s.shape for s in specs]), common_dtype("", "promote", [s.dtype for s in specs])
    )


def counted(*specs: Spec) -> Spec:
    """Elementwise: as promoted, but bools count, as the least of integers."""
    found = promoted(*specs)
    return found if found.dtype != BOOL else Spec(found.shape, np.dtype("int8"))


def floating(*specs: Spec, **static: Any) -> Spec:
    """Elementwise with a floating result: integers give the default dtype."""
    return Spec(
        broadcast([s.shape for s in specs]), common_dtype("", "float", [s.dtype for s in specs])
    )


def boolean(*specs: Spec) -> Spec:
    """Elementwise with a bool result."""
    return Spec(broadcast([s.shape for s in specs]), BOOL)


def same(x: Spec, **static: Any) -> Spec:
    """The operand's own shape and dtype."""
    return x


def reduced(shape: Shape, axis: tuple[int, ...], keepdims: bool) -> Shape:
    """The shape after reducing some axes."""
    if keepdims:
        return tuple(1 if i in axis else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axis)


def reduction(x: Spec, *, axis: tuple[int, ...], keepdims: bool) -> Spec:
    """A reduction that keeps the dtype."""
    return Spec(reduced(x.shape, axis, keepdims), x.dtype)


def integral(dtype: Any) -> Any:
    """The dtype of a sum of bools and integers: int64 (uint64 of unsigned), as NumPy has it."""
    if dtype.kind == "b" or dtype.kind == "i":
        return INT64
    return np.dtype("uint64") if dtype.kind == "u" else dtype


def as_float(dtype: Any) -> Any:
    """A floating dtype as it is, any other as the default dtype."""
    return dtype if dtype.kind == "f" else default_dtype()

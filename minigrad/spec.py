"""Shapes and dtypes of operands: what shape rules see, how dtypes promote, what errors say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.backend import Backend
from minigrad.errors import (
    BackendMismatchError,
    DtypeError,
    GradientError,
    MinigradError,
    OpNotImplementedError,
    ShapeError,
)
from minigrad.tensor import Shape, Tensor, default_dtype

NUMBERS = frozenset((float, int, bool))  # Python's own: they take the dtype of what they meet


class Spec(NamedTuple):
    """The shape and dtype of a value, all that a shape rule sees of it."""

    shape: Shape
    dtype: Any


def specs_of(arrays: Sequence[Any]) -> list[Spec]:
    """Shape and dtype of arrays; a Python number, being weak, stands in its own dtype's place."""
    return [Spec((), a) if a.__class__ in NUMBERS else Spec(a.shape, a.dtype) for a in arrays]


def common_dtype(name: str, rule: str, dtypes: Sequence[Any]) -> np.dtype[Any]:
    """The dtype of a computation over dtypes and weak Python numbers.

    bool < integer < floating; across these the higher one's dtype stands, within them NumPy's
    promotion does, but integers stay integers: uint64 with a signed one gives int64.
    rule "float": floating at least; "strict": two floating dtypes raise DtypeError; "compare":
    integers meet floats in float64, which tells those up to 2^53 apart.
    """
    if rule == "compare" and {1, 2} <= {_rank(d) for d in dtypes}:
        return np.dtype("float64")
    top = max(2 if rule == "float" else 0, *(_rank(d) for d in dtypes))
    best = [d for d in dtypes if d.__class__ not in NUMBERS and _rank(d) == top]
    if not best:
        return default_dtype() if top == 2 else np.dtype("int64" if top else "bool")
    if rule == "strict" and top == 2 and any(d != best[0] for d in best):
        raise DtypeError(
            f"{name}: operands of {' and '.join(str(d) for d in dtypes)}; convert one of them, for "
            f"instance with .astype('{best[0]}')"
        )
    dtype = np.result_type(*best)
    # No integer holds both; a comparison is still right in float64, where int64 would wrap around.
    return np.dtype("int64") if top == 1 and dtype.kind == "f" and rule != "compare" else dtype


def _rank(dtype: Any) -> int:
    if dtype.__class__ in NUMBERS:
        return (bool, int, float).index(dtype.__class__)
    return 2 if dtype.kind == "f" else 0 if dtype.kind == "b" else 1


def describe(op: Any, arrays: Sequence[Any]) -> str:
    """`matmul(a: (3, 4) float32, b: (5, 6) float32)`: the operands as error messages show them."""
    specs = enumerate(specs_of(arrays))
    return f"{op.name}({', '.join(f'{op.operand(i)}: {s.shape} {s.dtype}' for i, s in specs)})"


def explain(
    op: Any, arrays: Sequence[Any], static: dict[str, Any], backend: Backend, error: Exception
) -> Exception:
    """The error to raise after an op has failed: the shape rule's words where it has any."""
    if isinstance(error, MinigradError):
        return error
    if isinstance(error, AttributeError) and getattr(error, "obj", None) is backend.xp:
        return OpNotImplementedError(
            f"backend {backend.name!r} cannot run {op.name}: its namespace lacks {error.name!r}"
        )
    where = f"{describe(op, arrays)} on backend {backend.name!r}"
    try:
        op.shape(*specs_of(arrays), **static)
    except MinigradError as rule:
        return type(rule)(f"{rule}; in {where}") if where not in str(rule) else rule
    except Exception:  # the shape rule itself could not cope: the original error says more
        pass
    error.add_note(f"in {where}")
    return error


def mismatch(op: Any, operands: Sequence[Any]) -> BackendMismatchError:
    """The error for tensors of two backends in one op."""
    found = [(op.operand(i), t) for i, t in enumerate(operands) if isinstance(t, Tensor)]
    places = ", ".join(f"{name} on {t.backend.name!r}" for name, t in found)
    first = found[0][1].backend.name
    return BackendMismatchError(f"{op.name}: {places}; move one with .to({first!r})")


def refuse_assignment(tensor: Tensor, value: Tensor) -> None:
    """Raise for a value that a tensor cannot be assigned."""
    if tensor.node is not None and tensor.node.op is not None:
        raise GradientError(
            f"assign: only a leaf can be given a value; this tensor is the result of "
            f"{tensor.node.op.name}"
        )
    if value.backend is not tensor.backend:
        raise BackendMismatchError(
            f"assign: a tensor on {tensor.backend.name!r} cannot take a value on "
            f"{value.backend.name!r}; move it with .to({tensor.backend.name!r})"
        )
    if value.shape != tensor.shape or value.dtype != tensor.dtype:
        raise ShapeError(
            f"assign: a value of shape {value.shape}, {value.dtype} does not fit a tensor of shape "
            f"{tensor.shape}, {tensor.dtype}"
        )

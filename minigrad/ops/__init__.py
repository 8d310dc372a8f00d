"""The ops, and the operators of Tensor filled in with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.op import REGISTRY
from minigrad.ops import create, elementwise, index, linalg, random, reduce, shape
from minigrad.tensor import Tensor


def _reversed(function: Any) -> Any:
    return lambda a, b: function(b, a)


_BINARY: dict[str, Any] = {
    "add": elementwise.add,
    "sub": elementwise.subtract,
    "mul": elementwise.multiply,
    "truediv": elementwise.divide,
    "floordiv": elementwise.floor_divide,
    "mod": elementwise.remainder,
    "pow": elementwise.power,
    "matmul": linalg.matmul,
    "and": elementwise.logical_and,
    "or": elementwise.logical_or,
}
_OTHER: dict[str, Any] = {
    "neg": elementwise.negative,
    "abs": elementwise.absolute,
    "invert": elementwise.logical_not,
    "lt": elementwise.less,
    "le": elementwise.less_equal,
    "gt": elementwise.greater,
    "ge": elementwise.greater_equal,
    "eq": elementwise.equal,
    "ne": elementwise.not_equal,
    "getitem": index.getitem,
    "iter": index.iterate,
}
for _name, _operator in _BINARY.items():
    setattr(Tensor, f"__{_name}__", _operator)
    setattr(Tensor, f"__r{_name}__", _reversed(_operator))
for _name, _operator in _OTHER.items():
    setattr(Tensor, f"__{_name}__", _operator)
for _method in (elementwise.astype, shape.reshape, shape.transpose, shape.swapaxes,
                reduce.sum, reduce.mean, reduce.max, reduce.min):  # fmt: skip
    setattr(Tensor, _method.__name__, _method)
Tensor.T = property(shape.transpose)  # type: ignore[assignment]

_SAME_NAME = """
    add subtract multiply negative floor_divide remainder power absolute sign floor ceil square
    reciprocal exp expm1 log log1p log2 sqrt sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh
    arcsinh arccosh arctanh equal not_equal less less_equal greater greater_equal logical_and
    logical_or logical_not isnan isinf isfinite maximum minimum"""
_UFUNCS = {getattr(np, name): getattr(elementwise, name) for name in _SAME_NAME.split()}
_UFUNCS |= {
    np.true_divide: elementwise.divide,
    np.matmul: linalg.matmul,
    np.rint: elementwise.round,
}


def _array_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """NumPy's functions of tensors: the minigrad op of the same meaning, on the graph."""
    function = _UFUNCS.get(ufunc)
    if function is None or method != "__call__" or options:
        how = f"numpy.{ufunc.__name__}" + (f".{method}" if method != "__call__" else "")
        how += f" with {', '.join(options)}" if options else ""
        near = f"use minigrad.{function.__name__}" if function else "it has no minigrad equivalent"
        raise TypeError(f"{how} cannot take a tensor; {near}, or tensor.detach().numpy()")
    return function(*inputs)


setattr(Tensor, "__array_ufunc__", _array_ufunc)  # noqa: B010  mypy wants no assignment to a method

__all__ = ["REGISTRY", "create", "elementwise", "index", "linalg", "random", "reduce", "shape"]

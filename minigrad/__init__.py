"""minigrad: a small reverse-mode autograd engine whose arrays come from a plug-in backend."""

from __future__ import annotations

from typing import Any

# One name a line, as both tools would have it, would take two hundred lines more.
# isort: off
# fmt: off
from minigrad import arguments, functional, io, nn, ops, optim, tree
from minigrad.autodiff import (
    enable_grad, grad, hessian, hvp, jacobian, jvp, no_grad, pullback, value_and_grad,
    vjp,
)
from minigrad.backend import resolve, set_backend, use_backend
from minigrad.check import gradcheck
from minigrad.debug import detect_anomaly
from minigrad.errors import (
    AxisError, BackendMismatchError, BackendUnavailableError, CheckpointError, DtypeError,
    GradientError, IndexRangeError, IndexTypeError, MinigradError, NonFiniteError,
    OpNotImplementedError, ShapeError, StateDictError, UnknownBackendError,
)
from minigrad.introspection import show_backends
from minigrad.io import load, save
from minigrad.ops import random
from minigrad.ops.create import (
    arange, eye, full, full_like, linspace, ones, ones_like, zeros, zeros_like,
)
from minigrad.ops.elementwise import (
    absolute, add, arccos, arccosh, arcsin, arcsinh, arctan, arctan2, arctanh, astype, ceil, clip,
    clip_gradient, cos, cosh, divide, equal, exp, expm1, floor, floor_divide, greater,
    greater_equal, isfinite, isinf, isnan, less, less_equal, log, log1p, log2, logical_and,
    logical_not, logical_or, maximum,
    minimum, multiply, negative, not_equal, power, reciprocal, remainder, round, sigmoid, sign, sin,
    sinh, sqrt, square, subtract, tan, tanh, where,
)
from minigrad.ops.index import scatter_add, take, take_along_axis
from minigrad.ops.linalg import einsum, matmul, outer, tensordot
from minigrad.ops.reduce import (
    all, any, argmax, argmin, argsort, cumsum, logsumexp, max, mean, min, prod, sort, std, sum,
    top_k, var,
)
from minigrad.ops.shape import (
    broadcast_to, concatenate, expand_dims, flip, moveaxis, pad, repeat, reshape, roll, split,
    squeeze, stack, swapaxes, transpose, tril, triu, unstack,
)
from minigrad.recompute import checkpoint
from minigrad.tensor import Tensor, default_dtype, from_dlpack, set_default_dtype

__version__ = "0.1.0"
__all__ = [
    "AxisError", "BackendMismatchError", "BackendUnavailableError", "CheckpointError", "DtypeError",
    "GradientError", "IndexRangeError", "IndexTypeError", "MinigradError", "NonFiniteError",
    "OpNotImplementedError", "ShapeError", "StateDictError", "Tensor", "UnknownBackendError",
    "__version__", "absolute", "add", "all", "any", "arange", "arccos", "arccosh", "arcsin",
    "arcsinh", "arctan", "arctan2", "arctanh", "argmax", "argmin", "argsort", "arguments", "astype",
    "broadcast_to", "ceil", "checkpoint", "clip", "clip_gradient", "compile", "concatenate", "cos",
    "cosh", "cumsum", "default_dtype", "detect_anomaly", "divide", "draw", "einsum", "enable_grad",
    "equal", "exp", "expand_dims", "expm1", "eye", "flip", "floor", "floor_divide", "fold",
    "from_dlpack", "full", "full_like", "functional", "grad", "gradcheck", "graph", "greater",
    "greater_equal", "hessian", "hvp", "io", "isfinite", "isinf", "isnan", "jacobian", "jvp",
    "less", "less_equal", "linspace", "load", "log", "log1p", "log2", "logical_and", "logical_not",
    "logical_or", "logsumexp", "matmul", "max", "maximum", "mean", "min", "minimum", "moveaxis",
    "multiply", "negative", "nn", "no_grad", "not_equal", "ones", "ones_like", "ops", "optim",
    "outer", "pad", "pictures", "power", "prod", "pullback", "random", "reciprocal", "remainder",
    "repeat", "reshape", "resolve", "roll", "round", "save", "scatter_add", "set_backend",
    "set_default_dtype", "show_backends", "sigmoid", "sign", "sin", "sinh", "sort", "split", "sqrt",
    "square", "squeeze", "stack", "std", "subtract", "sum", "swapaxes", "take", "take_along_axis",
    "tan", "tanh", "tensordot", "top_k", "transpose", "tree", "tril", "triu", "unfold", "unstack",
    "use_backend", "value_and_grad", "var", "vjp", "where", "zeros", "zeros_like",
]
# fmt: on


_ELSEWHERE = {  # what other libraries call it
    "abs": "absolute", "array": "Tensor", "asarray": "Tensor", "cat": "concatenate",
    "concat": "concatenate", "dot": "matmul", "float32": "set_default_dtype",
    "permute": "transpose", "pow": "power", "true_divide": "divide", "unsqueeze": "expand_dims",
}  # fmt: skip


_LATE = dict.fromkeys(("graph", "compile", "fold", "unfold"), "graph")
_LATE |= dict.fromkeys(("pictures", "draw"), "pictures")


def __getattr__(name: str) -> Any:
    """What is loaded at first use; of another name, an error with the nearest that there is."""
    if name in _LATE:
        import importlib

        package = importlib.import_module(f"minigrad.{_LATE[name]}")
        return package if name == _LATE[name] else getattr(package, name)
    if not name.startswith("_"):
        import difflib

        near = [_ELSEWHERE[name]] if name in _ELSEWHERE else []
        near += [f"functional.{name}"] if hasattr(functional, name) else []
        near += difflib.get_close_matches(name, __all__, 1)
        if near:
            raise AttributeError(f"minigrad has no {name!r}; did you mean minigrad.{near[0]}?")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

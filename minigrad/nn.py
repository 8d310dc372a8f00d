"""Modules: objects that own parameters, and the layers that every network is made of.

Shapes: B batch, D input, H output features, V vocabulary; `...` any leading axes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from minigrad import arguments, functional, state
from minigrad.backend import Backend, resolve
from minigrad.errors import ShapeError
from minigrad.op import rehome
from minigrad.ops import random
from minigrad.ops.create import ones, zeros
from minigrad.ops.elementwise import equal, multiply, where
from minigrad.ops.index import take
from minigrad.ops.linalg import matmul
from minigrad.ops.shape import expand_dims
from minigrad.tensor import Shape, Tensor, default_dtype

Self = TypeVar("Self", bound="Module")


class Parameter(Tensor):
    """A tensor that a module owns and an optimizer changes; requires_grad is True.

    data: a tensor keeps its dtype, everything else takes the default dtype unless dtype is given.
    """

    __slots__ = ()

    def __init__(self, data: Any, dtype: Any = None, backend: str | Backend | None = None) -> None:
        if dtype is None and not isinstance(data, Tensor):
            dtype = default_dtype()
        super().__init__(data, requires_grad=True, dtype=dtype, backend=backend)


# --- modules -------------------------------------------------------------------------------------


class Module:
    """What owns parameters: a subclass sets attributes and defines __call__.

    Parameters, buffers (other tensors, unless an op on a graph made them) and modules are found in
    attribute order, also inside lists, tuples and dicts; their names are the attribute paths joined
    by dots. What stands at several paths counts once, under its first. No super().__init__() is
    needed.
    """

    training: bool = True

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """This module (named "") and all below it."""
        return ((path, x) for path, x in _below(self) if isinstance(x, Module))

    def modules(self) -> list[Module]:
        return [module for _, module in self.named_modules()]

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters by path."""
        return ((path, x) for path, x in _below(self) if isinstance(x, Parameter))

    def parameters(self) -> list[Parameter]:
        """The parameters; one without a name takes its path, for pictures and optimizers."""
        found = list(self.named_parameters())
        for path, parameter in found:
            if parameter.name is None or path.endswith(f".{parameter.name}"):
                parameter.name = path
        return [parameter for _, parameter in found]

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by path, detached: later updates do not change them."""
        return {path: tensor.detach() for path, tensor in self._tensors().items()}

    def load_state_dict(self, values: Mapping[str, Any], strict: bool = True) -> None:
        """Take over a state_dict's values, all of them or, if one does not fit, none.

        strict=False ignores missing and unexpected names. Raises StateDictError with every problem.
        """
        state.load(self._tensors(), values, type(self).__name__, strict)

    def _tensors(self) -> dict[str, Tensor]:
        return {path: x for path, x in _below(self) if isinstance(x, Tensor)}

    def using(self: Self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy of this module with other tensors, by path, in place of its own."""
        shared = {id(x): tensors.get(path, x) for path, x in self._tensors().items()}
        return copy.deepcopy(self, shared)  # what is in the memo counts as copied

    def train(self: Self, mode: bool = True) -> Self:
        """Switch this module and all below it to training (dropout acts) or out of it."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        """`train(False)`."""
        return self.train(False)

    def to(self: Self, backend: str | Backend) -> Self:
        """Move all parameters, their gradients and buffers; the objects stay the same."""
        target = resolve(backend, "Module.to")
        for tensor in self._tensors().values():
            rehome(tensor, target)
        return self

    def __repr__(self) -> str:
        """The tree of modules with the shapes, dtypes and backends of their tensors, and counts."""
        sizes = {path: p.size for path, p in self.named_parameters()}
        lines = []
        open_paths: list[str] = []  # of the modules that the current line stands in
        for path, x in _below(self):
            while open_paths and not path.startswith(open_paths[-1]):
                open_paths.pop()
            indent = "  " * len(open_paths)
            label = f"{path.removeprefix(open_paths[-1])}: " if open_paths else ""
            if isinstance(x, Module):
                open_paths.append(f"{path}." if path else "")
                inside = [n for name, n in sizes.items() if name.startswith(open_paths[-1])]
                lines.append(f"{indent}{label}{type(x).__name__}, {sum(inside):,} parameters")
            else:
                kind = "" if isinstance(x, Parameter) else ", buffer"
                lines.append(f"{indent}{label}{x.shape} {x.dtype} on {x.backend.name}{kind}")
        return "\n".join(lines)


def _below(value: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Every module and tensor from value on, depth first, each object once, with its path."""
    seen = set() if seen is None else seen
    if isinstance(value, (Module, Tensor)):
        if id(value) in seen or (isinstance(value, Tensor) and not value.is_leaf):
            return
        seen.add(id(value))
        yield path, value
    items: Any = ()
    if isinstance(value, Module):
        items = vars(value).items()
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        if isinstance(item, (Module, Tensor, dict, list, tuple)):
            yield from _below(item, f"{path}.{key}" if path else str(key), seen)


# --- initial values ------------------------------------------------------------------------------


def uniform(
    shape: Shape, limit: float = 1.0, key: random.Key | None = None, dtype: Any = None
) -> Tensor:
    """U(-limit, limit)."""
    return multiply(random.uniform(key, shape, dtype), 2 * limit) - limit


def normal(
    shape: Shape, std: float = 1.0, key: random.Key | None = None, dtype: Any = None
) -> Tensor:
    """N(0, std²)."""
    return multiply(random.normal(key, shape, dtype), std)


def glorot_uniform(shape: Shape, key: random.Key | None = None, dtype: Any = None) -> Tensor:
    """U(-a, a), a = sqrt(6 / (rows + columns)), for a matrix (Glorot and Bengio 2010)."""
    rows, columns = _matrix("glorot_uniform", shape)
    return uniform(shape, math.sqrt(6 / max(rows + columns, 1)), key, dtype)


def orthogonal(
    shape: Shape, gain: float = 1.0, key: random.Key | None = None, dtype: Any = None
) -> Tensor:
    """gain times a matrix of orthonormal rows, or columns if these are fewer (Saxe et al. 2014)."""
    rows, columns = _matrix("orthogonal", shape)
    wide, narrow = max(rows, columns), min(rows, columns)
    drawn = random.normal(key, (wide, narrow), "float64")
    q, r = np.linalg.qr(drawn.numpy())  # on the host: the same matrix on every backend
    q = gain * q * np.where(np.diagonal(r) < 0, -1.0, 1.0)  # makes Q unique, hence uniform
    return Tensor(q if rows >= columns else q.T, dtype=dtype or default_dtype())


def _matrix(name: str, shape: Shape) -> tuple[int, int]:
    if len(shape) != 2:
        raise ShapeError(f"{name}: a matrix has two axes, not shape {tuple(shape)}")
    return shape[0], shape[1]


# --- layers --------------------------------------------------------------------------------------


class Linear(Module):
    """y = x W + b for x (..., D); W (D, H) Glorot-uniform, b (H,) zero, or None without bias."""

    def __init__(self, D: int, H: int, bias: bool = True, dtype: Any = None) -> None:
        D, H = arguments.size("D", D), arguments.size("H", H)
        self.W = Parameter(glorot_uniform((D, H), dtype=dtype))
        self.b = Parameter(zeros(H, dtype)) if arguments.flag("bias", bias) else None

    def __call__(self, x: Any) -> Tensor:
        y = matmul(x, self.W)
        return y if self.b is None else y + self.b


class Embedding(Module):
    """Row i of W (V, D), standard normal, for every index i of any shape.

    The vector of padding_idx, if given, is zero and gets no gradient. Raises IndexRangeError and
    IndexTypeError as indexing does.
    """

    def __init__(self, V: int, D: int, padding_idx: int | None = None, dtype: Any = None) -> None:
        V, D = arguments.size("V", V), arguments.size("D", D)
        if padding_idx is not None and arguments.size("padding_idx", padding_idx, least=0) >= V:
            raise ValueError(f"padding_idx={padding_idx}: give an integer from 0 to {V - 1}")
        self.padding_idx = padding_idx
        self.W = Parameter(normal((V, D), dtype=dtype))

    def __call__(self, indices: Any) -> Tensor:
        y = take(self.W, indices, axis=0)
        if self.padding_idx is None:
            return y
        return where(expand_dims(equal(indices, self.padding_idx), -1), 0, y)


class LayerNorm(Module):
    """gain (x - mean) / sqrt(var + eps) + b over the last axis (Ba et al. 2016); gain, b (H,)."""

    def __init__(self, H: int, eps: float = 1e-5, dtype: Any = None) -> None:
        H = arguments.size("H", H)
        self.eps = arguments.number("eps", eps, 0)
        self.gain = Parameter(ones(H, dtype))
        self.b = Parameter(zeros(H, dtype))

    def __call__(self, x: Any) -> Tensor:
        return functional.layer_norm(x, self.gain, self.b, self.eps)


class Dropout(Module):
    """In training 0 with probability p, else x / (1 - p) (Srivastava et al. 2014); in eval() x."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = arguments.number("p", p, 0, 1)

    def __call__(self, x: Any, key: random.Key | None = None) -> Tensor:
        return functional.dropout(x, self.p, key, self.training)

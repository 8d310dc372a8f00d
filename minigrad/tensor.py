"""Tensor, a handle on an array, and Node, the record of the op that made it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import backend as _backend
from minigrad.errors import AxisError, BackendMismatchError, DtypeError, GradientError, ShapeError

Array = Any  # an array of whichever backend
Shape = tuple[int, ...]
Axes = int | Iterable[int] | None
FREED: Any = ("freed",)  # what Node.saved holds once backward has used it
_ids = itertools.count()
_default_dtype: np.dtype[Any] = np.dtype("float32")


def default_dtype() -> np.dtype[Any]:
    """The dtype of Python floats, of new parameters and of float results of integers."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Make `float32` or `float64` the dtype of Python floats and of new parameters."""
    global _default_dtype
    chosen = np.dtype(dtype)
    if chosen not in (np.dtype("float32"), np.dtype("float64")):
        raise DtypeError(f"the default dtype is float32 or float64, not {chosen}")
    _default_dtype = chosen


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype itself if tensors may have it: float32, float64, integers, bool."""
    chosen: np.dtype[Any] = np.dtype(dtype)
    if chosen.kind in "iub" or chosen in (np.dtype("float32"), np.dtype("float64")):
        return chosen
    raise DtypeError(
        f"tensors hold float32, float64, integers and bool, not {chosen}; convert it first, for "
        f"instance with .astype('float32')"
    )


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """The record of one op: what it was, where its operands came from, and what its rules need.

    A leaf that requires a gradient has a node too, with op None; its `.grad` lives here. parents[i]
    is the node of operand i, or None if no gradient flows there, and slots[i] the number of the
    output it was. A node knows no tensor, so no cycle can form, and none outlives its last handle.
    """

    op: Any
    plan: Any
    parents: tuple[Node | None, ...]
    slots: tuple[int, ...]
    static: dict[str, Any]
    saved: tuple[Any, ...]
    backend: _backend.Backend
    shape: Any  # of a multi-output op: the tuple of its outputs' shapes
    dtype: np.dtype[Any]
    id: int = field(default_factory=_ids.__next__)
    hooks: list[tuple[int, Callable[[Tensor], Any]]] | None = None
    grad: Tensor | None = field(init=False)  # only leaves have this and the next two
    version: int = field(init=False)  # how often it was assigned a new value
    name: str | None = field(init=False)
    trace: Any = field(init=False)  # where it was made, if somebody watched

    def __repr__(self) -> str:
        kind = "leaf" if self.op is None else self.op.name
        return f"Node({kind}, shape={self.shape}, id={self.id})"


def leaf(backend: _backend.Backend, shape: Shape, dtype: Any) -> Node:
    """The node of a leaf that requires a gradient."""
    if dtype.kind != "f":
        raise GradientError(
            f"only floating tensors can require gradients, not {dtype}; write dtype='float32'"
        )
    node = Node(None, None, (), (), {}, (), backend, shape, dtype)
    node.grad = None
    node.version = 0
    node.name = None
    return node


def next_id() -> int:
    """A number above those of all nodes there are, and below those of all to come."""
    return next(_ids)


class Tensor:
    """An array on a backend that remembers how it was computed; its values never change.

    data: a number, a nest of lists, a NumPy array (copied) or an array of the backend (copied).
    Raises DtypeError for complex, float16 and object arrays, ShapeError for ragged lists.
    """

    __slots__ = ("_data", "_name", "_parts", "backend", "index", "node")
    __hash__ = object.__hash__
    _data: Array
    node: Node | None  # the op that made it, or its own record as a leaf; None for a constant
    index: int  # which of the node's outputs it is
    backend: _backend.Backend

    def __init__(
        self,
        data: Any,
        requires_grad: bool = False,
        dtype: Any = None,
        backend: str | _backend.Backend | None = None,
    ) -> None:
        if isinstance(data, Tensor) and backend is None:
            backend = data.backend
        where = _backend.current() if backend is None else _backend.resolve(backend, "backend=")
        self.backend = where
        if isinstance(data, Tensor) and where is data.backend:  # an op copies, so that captures see
            self._data = data.detach().astype(data.dtype if dtype is None else dtype)._data
        else:
            self._data = copy_in(data.numpy() if isinstance(data, Tensor) else data, dtype, where)
        self.index = 0
        self.node = leaf(where, self._data.shape, self._data.dtype) if requires_grad else None

    if TYPE_CHECKING:  # filled in by op.py, ops/ and autodiff.py
        _parts: Any
        _name: str | None

        def numpy(self) -> np.ndarray: ...
        def assign(self, value: Any) -> None: ...
        def to(self, backend: str | _backend.Backend) -> Tensor: ...
        def backward(self, gradient: Any = None, retain_graph: bool = False) -> None: ...
        def backward_steps(self, gradient: Any = None, retain_graph: bool = False) -> Any: ...
        def backward_norms(
            self, inputs: Any, gradient: Any = None, retain_graph: bool = False
        ) -> Any: ...
        def register_hook(self, hook: Callable[[Tensor], Any]) -> Callable[[], None]: ...
        def astype(self, dtype: Any) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def transpose(self, axes: Any = None) -> Tensor: ...
        def swapaxes(self, axis1: int, axis2: int) -> Tensor: ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def min(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        @property
        def T(self) -> Tensor: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __eq__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __getitem__(self, index: Any) -> Tensor: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def shape(self) -> Shape:
        return self._data.shape  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return self._data.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        return int(self._data.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._data.dtype  # type: ignore[no-any-return]

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @property
    def is_leaf(self) -> bool:
        return self.node is None or self.node.op is None

    @property
    def name(self) -> str | None:
        """The name that pictures and error messages show; None until one is given."""
        return getattr(self, "_name", None)

    @name.setter
    def name(self, name: str | None) -> None:
        self._name = name
        if self.node is not None:
            self.node.name = name

    @property
    def grad(self) -> Tensor | None:
        """What backward() has added up on this leaf, a constant of the same dtype; else None."""
        if self.node is None:
            return None
        if self.node.op is not None:
            import warnings

            warnings.warn(
                "only leaves keep .grad, and this tensor is the result of "
                f"{self.node.op.name}; use minigrad.pullback(y, [tensor]) for its gradient",
                stacklevel=2,
            )
            return None
        return self.node.grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if self.node is None or self.node.op is not None:
            raise GradientError("only a leaf with requires_grad=True has a .grad to set")
        if value is not None:
            if not isinstance(value, Tensor):
                raise GradientError(
                    f".grad is a tensor or None, not {type(value).__name__}; write minigrad.Tensor"
                    f"(value, dtype={str(self.dtype)!r}, backend={self.backend.name!r})"
                )
            if value.backend is not self.backend:
                raise BackendMismatchError(
                    f"a gradient on {value.backend.name!r} for a tensor on {self.backend.name!r}; "
                    f"move it with .to({self.backend.name!r})"
                )
            if value.shape != self.shape or value.dtype != self.dtype:
                raise ShapeError(
                    f"a gradient of shape {value.shape}, {value.dtype} does not fit a tensor of "
                    f"shape {self.shape}, {self.dtype}"
                )
            value = value.detach()
        self.node.grad = value

    def detach(self) -> Tensor:
        """The same values without their history."""
        return make(self._data, self.backend)

    def item(self) -> Any:
        """The Python number of a tensor with one element."""
        if self.size != 1:
            raise ShapeError(
                f"only one-element tensors convert to a Python number, not shape {self.shape}"
            )
        return self.numpy().item()

    def tolist(self) -> Any:
        return self.numpy().tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DtypeError(f"only an integer tensor is an index, not {self.dtype}")
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(
                f"the truth value of a tensor of shape {self.shape} is ambiguous; "
                f"reduce it first, for instance with minigrad.any or minigrad.all"
            )
        return bool(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __contains__(self, value: Any) -> bool:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return bool((self.numpy() == (value.numpy() if isinstance(value, Tensor) else value)).any())

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "tensors are never changed in place; use minigrad.where, minigrad.scatter_add or "
            "minigrad.concatenate to make a new one, or .assign(value) on a leaf"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if not isinstance(self._data, np.ndarray):
            raise BackendMismatchError(
                f"a tensor on {self.backend.name!r} does not become a NumPy array by itself; "
                f"use tensor.numpy()"
            )
        self._refuse_to_cut_graph("numpy()", "tensor.detach().numpy()")
        array = self.numpy()
        if copy is False and dtype is not None and array.dtype != np.dtype(dtype):
            raise ValueError(f"{array.dtype} does not become {np.dtype(dtype)} without a copy")
        return np.array(array, dtype=dtype, copy=True if copy is None else copy)

    def _refuse_to_cut_graph(self, call: str, instead: str) -> None:
        if self.node is not None and _recording():
            raise GradientError(
                f"Can't call {call} on Tensor that requires grad. Use {instead} instead."
            )

    def __dlpack__(self, **options: Any) -> Any:
        self._refuse_to_cut_graph("__dlpack__()", "tensor.detach()")
        if options.get("copy") is False:
            raise BufferError(
                "minigrad exports a copy: recorded values are never shared for writing"
            )
        return self._data.copy().__dlpack__(**{**options, "copy": None})

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.__copy__()

    def __copy__(self) -> Tensor:
        if not self.is_leaf:
            raise GradientError(
                "Only tensors created explicitly by the user (graph leaves) can be copied; "
                "use tensor.detach()"
            )
        copied = _rebuild(type(self), self.numpy(), self.requires_grad, self.backend)
        copied.name = self.name
        return copied

    def __reduce__(self) -> tuple[Any, Any, Any]:
        if not self.is_leaf:
            raise GradientError("only leaves can be pickled; use tensor.detach()")
        arguments = (type(self), self.numpy().copy(), self.requires_grad, self.backend.name)
        return _rebuild, arguments, {"name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.name = state["name"]

    def __repr__(self) -> str:
        if self.size > 1000:
            values = f"<{' x '.join(map(str, self.shape))} values>"
        else:
            values = np.array2string(self.numpy(), separator=", ", prefix="Tensor(")
        parts = [values]
        if self.dtype != _default_dtype:
            parts.append(f"dtype={self.dtype}")
        parts.append(f"backend={self.backend.name!r}")
        if self.node is not None:
            leafy = self.node.op is None
            parts.append("requires_grad=True" if leafy else f"grad_fn=<{self.node.op.name}>")
        return f"{type(self).__name__}({', '.join(parts)})"


_recording: Callable[[], bool] = lambda: True  # noqa: E731  op.py puts the grad mode here


def _rebuild(
    kind: type[Tensor], array: np.ndarray, requires_grad: bool, backend: str | _backend.Backend
) -> Tensor:
    tensor = Tensor(array, requires_grad=requires_grad, backend=backend)
    if kind is not Tensor:
        tensor.__class__ = kind
    return tensor


FIRST = object.__new__(Tensor)  # of no value; what hides it from the collector hides others


def make(
    data: Array, backend: _backend.Backend, node: Node | None = None, index: int = 0
) -> Tensor:
    """The handle of an own array; takes it as it is."""
    tensor = Tensor.__new__(Tensor)
    tensor._data = data
    tensor.node = node
    tensor.index = index
    tensor.backend = backend
    return tensor


def from_dlpack(x: Any, backend: str | _backend.Backend | None = None) -> Tensor:
    """A copy of another library's array, of whatever has `__dlpack__`."""
    where = _backend.current() if backend is None else _backend.resolve(backend, "backend=")
    return Tensor(where.xp.from_dlpack(x), backend=where)


def copy_in(data: Any, dtype: Any, backend: _backend.Backend) -> Array:
    """An own copy of host or own data, of a dtype that tensors may have."""
    if dtype is not None:
        dtype = check_dtype(dtype)
    foreign = hasattr(data, "__cuda_array_interface__") and not isinstance(data, backend.xp.ndarray)
    if foreign:
        raise BackendMismatchError(
            f"{type(data).__name__} lives on another device than backend {backend.name!r}; "
            f"copy it to the host first, or pass backend='cupy'"
        )
    if not hasattr(data, "dtype"):
        data = _from_python(data)
        if dtype is None and data.dtype == np.dtype("float64"):
            dtype = _default_dtype
    check_dtype(data.dtype)
    return backend.xp.array(data, dtype=dtype, copy=True)


def _from_python(data: Any) -> np.ndarray:
    if isinstance(data, (list, tuple)) and any(isinstance(item, Tensor) for item in data):
        raise DtypeError("a list of tensors: use minigrad.stack, which keeps their gradients")
    try:
        array = np.array(data)
    except ValueError as error:
        raise ShapeError(f"a nest of lists must be rectangular: {error}") from error
    if array.size == 0 and not hasattr(data, "dtype"):
        return array.astype("float64")
    return array


def normalize_axis(axis: int, ndim: int, name: str) -> int:
    """axis in [0, ndim); raises AxisError that names the op."""
    if not -ndim <= axis < ndim:
        raise AxisError(f"{name}: axis {axis} is out of bounds for a tensor of {ndim} dimensions")
    return axis % ndim


def normalize_axes(axis: Axes, ndim: int, name: str) -> tuple[int, ...]:
    """Distinct axes in [0, ndim), in the order given; all of them for None."""
    if axis is None:
        return tuple(range(ndim))
    given = (axis,) if isinstance(axis, (int, np.integer)) else axis
    found = tuple([normalize_axis(int(a), ndim, name) for a in given])
    if len(set(found)) != len(found):
        raise ShapeError(f"{name}: axis {axis} names an axis twice")
    return found

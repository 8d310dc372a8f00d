"""CuPy without a GPU: NumPy's arrays in a class as strict as CuPy's, which writes down its use.

Like CuPy it refuses implicit conversion to NumPy and operands of NumPy, wraps indices that are out
of range, gives 0-d arrays where NumPy gives scalars, and takes arrays alone where CuPy does. It
also counts copies to the host, and refuses what CuPy leaves undefined. `backend` is minigrad_cupy
on top of it: the spec `module://tests.fake_cupy:backend`; `compiling` emits programs as well.
"""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import numpy as np

from tests import host_cuda

SPEC = "module://tests.fake_cupy:backend"
COMPILING = "module://tests.fake_cupy:compiling"
CREATION = {"array", "asarray", "zeros", "ones", "full", "empty", "eye", "arange", "linspace"}
calls: set[tuple[str, int, tuple[str, ...]]] = set()  # (function, positional arguments, keywords)
methods: set[tuple[str, int, tuple[str, ...]]] = set()  # the same of an array's attributes
dtypes: set[tuple[str, tuple[Any, ...], Any]] = set()  # (ufunc, operands' types, the result's)
host_copies = 0


class ndarray:
    """One array on the pretended device."""

    __slots__ = ("base", "host")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        host: Any,
        dtype: Any = None,
        memptr: Any = None,
        strides: Any = None,
        base: Any = None,
    ) -> None:
        """Of an array of the host; or of a shape, whose elements lie where memptr points."""
        self.host = np.asarray(host if memptr is None else memptr.array(host, dtype, strides))
        self.base = base if self.host.base is not None else None

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(UnownedMemory(self.host.ctypes.data, self.host.nbytes, self), 0)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            raise TypeError(f"{ufunc.__name__}.{method} of a device array")
        return call(ufunc.__name__, *inputs, **options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.host, name)
        if not callable(value) or isinstance(value, type):
            methods.add((name, -1, ()))
            return ndarray(value, base=self) if isinstance(value, np.ndarray) else value

        def method(*args: Any, **options: Any) -> Any:
            methods.add((name, len(args), tuple(sorted(options))))
            if name == "argsort":
                refuse_other_sorts(options)
            return wrapped(value(*unwrapped(args), **unwrapped(options)), self)

        return method

    def get(self) -> np.ndarray:
        global host_copies
        host_copies += 1
        return self.host.copy()

    def item(self) -> Any:
        return self.get().item()

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(self.host[self._wrapping(key)], base=self)

    def __setitem__(self, key: Any, value: Any) -> None:
        if any(isinstance(item, ndarray) for item in (key if isinstance(key, tuple) else (key,))):
            raise NotImplementedError("an indexed assignment: with duplicates CuPy's is undefined")
        self.host[key] = unwrapped(value)

    def _wrapping(self, key: Any) -> tuple[Any, ...]:
        items, axis, wrapping = key if isinstance(key, tuple) else (key,), 0, []
        for item in items:
            if isinstance(item, (np.ndarray, list)):
                raise TypeError("an index on the host: CuPy would copy it to the device")
            if isinstance(item, ndarray):
                item = item.host % max(self.host.shape[axis], 1)
            if item is Ellipsis:
                axis = self.host.ndim - len([i for i in items if i is not None]) + axis
            axis += item is not None
            wrapping.append(item)
        return tuple(wrapping)

    def __len__(self) -> int:
        return len(self.host)


def _operator(name: str, reverse: bool = False) -> Any:
    return lambda a, b: call(name, b, a) if reverse else call(name, a, b)


def _in_place(ufunc: Any) -> Any:
    def method(a: ndarray, b: Any) -> ndarray:
        call(ufunc.__name__, a, b)
        ufunc(a.host, unwrapped(b), out=a.host)
        return a

    return method


for _short, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "pow": "power",
    "floordiv": "floor_divide", "mod": "remainder", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift", "matmul": "matmul",
}.items():  # fmt: skip
    setattr(ndarray, f"__{_short}__", _operator(_name))
    setattr(ndarray, f"__r{_short}__", _operator(_name, reverse=True))
    setattr(ndarray, f"__i{_short}__", _in_place(getattr(np, _name)))
for _short, _name in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
    "ne": "not_equal",
}.items():  # fmt: skip
    setattr(ndarray, f"__{_short}__", _operator(_name))
for _short, _name in {"neg": "negative", "abs": "absolute", "invert": "invert"}.items():
    setattr(ndarray, f"__{_short}__", lambda a, name=_name: call(name, a))
for _kind in (int, float, bool):
    setattr(ndarray, f"__{_kind.__name__}__", lambda a, kind=_kind: kind(a.item()))
ndarray.__index__ = ndarray.__int__  # type: ignore[attr-defined]


def unwrapped(value: Any) -> Any:
    """What NumPy computes with; raises TypeError for an array of the host, as CuPy does."""
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (list, tuple)):
        return type(value)(unwrapped(item) for item in value)
    if isinstance(value, dict):
        return {key: unwrapped(item) for key, item in value.items()}
    return value.host if isinstance(value, ndarray) else value


def wrapped(value: Any, of: Any = None) -> Any:
    """Arrays, which may be views, and NumPy's scalars, which CuPy has none of, as arrays."""
    return ndarray(value, base=of) if isinstance(value, (np.ndarray, np.generic)) else value


def refuse_other_sorts(options: dict[str, Any]) -> None:
    if options.get("kind") not in (None, "stable"):
        raise ValueError("CuPy sorts stably, and takes no other kind")


def call(name: str, *args: Any, **options: Any) -> Any:
    """A function of the namespace, written down, on arrays of the device."""
    calls.add((name, len(args), tuple(sorted(options))))
    function = getattr(np, name)
    ufunc = isinstance(function, np.ufunc)
    operands = args[0] if isinstance(args[0], (list, tuple)) else args if ufunc else args[:1]
    if name == "einsum":
        operands = args[1:]
    if not any(isinstance(operand, ndarray) for operand in operands):
        raise TypeError(f"{name} takes arrays of the device, not {args[0]!r}")
    refuse_other_sorts(options)
    with np.errstate(all="ignore"):
        result = wrapped(function(*unwrapped(args), **unwrapped(options)), operands)
    if ufunc or name == "where":
        kinds = [a.dtype.type if hasattr(a, "dtype") else type(a) for a in args]
        dtypes.add((name, tuple(kinds), result.dtype.type))
    return result


class UnownedMemory(NamedTuple):
    """Memory at an address of the pretended device."""

    ptr: int
    size: int
    owner: Any
    device_id: int = -1


class MemoryPointer(NamedTuple):
    """A place in memory."""

    mem: UnownedMemory
    offset: int

    @property
    def ptr(self) -> int:
        return self.mem.ptr + self.offset

    def array(self, shape: Any, dtype: Any, strides: Any) -> np.ndarray:
        """The array that lies there; as on a device nothing keeps it alive."""
        interface = {
            "shape": tuple(shape), "typestr": np.dtype(dtype).str, "strides": strides,
            "data": (self.ptr, False), "version": 3,
        }  # fmt: skip
        return np.asarray(types.SimpleNamespace(__array_interface__=interface))


class ElementwiseKernel:
    """A kernel: not CUDA's C++ but what it means, in Python, by its name."""

    def __init__(self, inputs: str, outputs: str, operation: str, name: str) -> None:
        self.twin = {"minigrad_segment_sum": segment_sum}[name]

    def __call__(self, *args: Any, size: int) -> None:
        self.twin(*unwrapped(args), size=size)


def segment_sum(
    rows: Any, order: Any, values: Any, count: int, width: int, out: Any, size: int
) -> None:
    """What minigrad_cupy.scatter.SEGMENT_SUM computes, one number at a time."""
    values, flat = values.reshape(-1), out.reshape(-1)
    if size != count * width or not np.shares_memory(flat, out):
        raise ValueError("the kernel runs once for each pair of a value and a column")
    for k in range(count):
        for column in range(width):
            flat[rows[k] * width + column] += values[order[k] * width + column]


class FakeCupy(types.ModuleType):
    """The namespace: names of its own where CuPy differs from NumPy, else NumPy's."""

    ndarray, ElementwiseKernel, __version__ = ndarray, ElementwiseKernel, "0 (fake)"
    RawModule = host_cuda.RawModule
    stream = types.SimpleNamespace(synchronize=lambda: None)
    cuda = types.SimpleNamespace(
        UnownedMemory=UnownedMemory,
        MemoryPointer=MemoryPointer,
        get_current_stream=lambda: FakeCupy.stream,
        runtime=types.SimpleNamespace(
            getDeviceCount=lambda: 1, getDeviceProperties=lambda device: {"name": b"the host"}
        ),
    )

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        if isinstance(value, type) or not callable(value):
            calls.add((name, -1, ()))
            return value
        return lambda *args, **options: (creation if name in CREATION else call)(
            name, *args, **options
        )

    def asnumpy(self, array: Any) -> np.ndarray:
        calls.add(("asnumpy", 1, ()))
        return array.get()  # type: ignore[no-any-return]


def creation(name: str, *args: Any, **options: Any) -> ndarray:
    """A function that makes arrays: the way from the host to the device."""
    calls.add((name, len(args), tuple(sorted(options))))
    own = name == "asarray" and isinstance(args[0], ndarray)
    if own and options.get("dtype") in (None, args[0].dtype):
        return args[0]  # type: ignore[no-any-return]
    args = tuple(a.host if isinstance(a, ndarray) else a for a in args)
    return ndarray(getattr(np, name)(*args, **options))


cupy = FakeCupy("fake_cupy")


def backend(device: str | None = None) -> Any:
    """minigrad_cupy over the pretended device."""
    return _made(SPEC, emit=None)


def compiling(device: str | None = None) -> Any:
    """The same, whose programs are kernels, compiled for the host: needs a C++ compiler."""
    return _made(COMPILING)


def _made(name: str, **changed: Any) -> Any:
    from minigrad_cupy import CupyBackend

    made = CupyBackend(cupy)
    made.name = name
    vars(made).update(changed)
    return made

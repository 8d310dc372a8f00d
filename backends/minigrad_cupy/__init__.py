"""CuPy's arrays on one NVIDIA GPU: every op runs as its forward is written, on `xp = cupy`.

Captured programs run as CUDA kernels made of the same forwards, see `minigrad_cupy.emit`.

Importing this module touches no device; `backend()` does, and says why where it cannot. The only
copies to the host are `to_numpy`, what the user reads, and, per gather, the smallest and largest
index that the range check compares (MINIGRAD_CHECK_INDEX=0 leaves that check out).
Results are bit-identical from run to run: CuPy reduces and scans in a fixed order, and
`scatter_add` sorts. CUPY_ACCELERATORS, CUPY_TF32 and the like keep CuPy's meaning.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from minigrad_cupy.scatter import SEGMENT_SUM, scatter_add

FORKED = (
    "this process was forked from one that uses the GPU, and CUDA does not survive a fork; start "
    "processes with multiprocessing's 'spawn' method, or choose the backend in the child alone"
)


class Namespace:
    """CuPy's names, each looked up once; in a forked child every name is a RuntimeError instead."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._process = os.getpid()
        _namespaces.add(self)

    def __getattr__(self, name: str) -> Any:  # for names that are not looked up yet
        if self._process != os.getpid():
            raise RuntimeError(FORKED)
        try:
            value = getattr(self._cupy, name)
        except AttributeError as error:
            raise AttributeError(str(error), name=name, obj=self) from None
        setattr(self, name, value)
        return value

    def forget(self) -> None:
        """Drop what was looked up, so that every name passes `__getattr__` again."""
        self.__dict__ = {"_cupy": self._cupy, "_process": self._process}


_namespaces: weakref.WeakSet[Namespace] = weakref.WeakSet()


def _after_fork() -> None:
    for namespace in _namespaces:
        namespace.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class CupyBackend:
    """Arrays are cupy.ndarray on one GPU; nothing copies them to the host but `to_numpy`."""

    api = 1

    def __init__(self, cupy: Any, device: int = 0) -> None:
        self.name = f"cupy:{device}" if device else "cupy"
        self.device = device
        self.version = cupy.__version__
        self.xp = Namespace(cupy)
        self.kernels = {"power": self._power, "cumsum": self._cumsum}
        self._segment_sum = cupy.ElementwiseKernel(*SEGMENT_SUM)  # compiled at its first call

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        return self.xp.asarray(data, dtype=dtype)

    def to_numpy(self, array: Any) -> Any:
        return self.xp.asnumpy(array)

    def scatter_add(self, out: Any, index: tuple[Any, ...], values: Any) -> Any:
        return scatter_add(self.xp, self._segment_sum, out, index, values)

    def synchronize(self) -> None:
        """Wait until the GPU has done what was asked of it."""
        self.xp.cuda.get_current_stream().synchronize()

    def emit(self, graph: Any) -> Any:
        """A captured graph as CUDA kernels, launched one after another."""
        from minigrad_cupy.emit.program import Program  # late, for it imports the graph layer

        return Program(graph, self)

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the GPUs, in CuPy's order."""
        runtime = self.xp.cuda.runtime
        count = runtime.getDeviceCount()
        return tuple(runtime.getDeviceProperties(i)["name"].decode() for i in range(count))

    def _power(self, a: Any, b: Any) -> Any:
        # CuPy hands a square to pow(), which rounds differently and is slower.
        return a * a if b.__class__ in (int, float) and b == 2 else a**b

    def _cumsum(self, x: Any, *, axis: int) -> Any:
        # CuPy launches no threads for an array without elements, which CUDA refuses.
        return self.xp.cumsum(x, axis=axis) if x.size else self.xp.zeros(x.shape, x.sum().dtype)


def backend(device: str | None = None) -> CupyBackend:
    """The backend on a GPU: the first, or number `device`; a process computes on one.

    Other threads than the one that chose a device but the first enter it themselves
    (`cupy.cuda.Device(n).use()`): CuPy's current device belongs to a thread.
    Raises ImportError without CuPy, ValueError for a device there is not, RuntimeError where it
    cannot compute.
    """
    global _made
    import cupy

    number = 0 if device is None else _device_number(device)
    if _made is None:
        check_usable(cupy, number)
        explain_out_of_memory(cupy)
        _made = CupyBackend(cupy, number)
    elif _made.device != number:
        raise RuntimeError(
            f"this process computes on {_made.name!r} already; give each process one GPU, for "
            f"instance with CUDA_VISIBLE_DEVICES"
        )
    return _made


_made: CupyBackend | None = None


def _device_number(device: str) -> int:
    if not device.isdecimal():
        raise ValueError(f"a CuPy device is a number from 0, not {device!r}: write 'cupy:0'")
    return int(device)


def check_usable(cupy: Any, device: int) -> None:
    """Raise what says why CuPy cannot compute on a device: no driver, no GPU, no compiler.

    cupy.is_available() alone also says yes where no kernel can be compiled: one is run and read.
    """
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except RuntimeError as error:
        raise RuntimeError(f"{_driver(runtime)} ({error})") from error
    if not count or not cupy.is_available():
        raise RuntimeError(f"{_driver(runtime)}, which finds no GPU")
    if device >= count:
        raise ValueError(f"there is no GPU {device}: the driver finds {count}, counted from 0")
    try:
        cupy.cuda.Device(device).use()
        kernel = cupy.ElementwiseKernel("T x", "T y", "y = x + 1", "minigrad_check")
        value = float(kernel(cupy.zeros((), dtype="float32")).get())
    except Exception as error:  # CuPy's, CUDA's and NVRTC's errors have no common class
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise RuntimeError(
            f"CuPy {cupy.__version__} finds the GPU but cannot compile and run a kernel on it: "
            f"{reason}; CuPy's extra [ctk] brings the compiler NVRTC and CUDA's headers"
        ) from error
    if value != 1:
        raise RuntimeError(f"a kernel that adds 1 to 0 gave {value} on GPU {device}")


def _driver(runtime: Any) -> str:
    """What is known of the NVIDIA driver: absent, too old, or which CUDA it serves."""

    def number(version: int) -> str:
        return f"{version // 1000}.{version % 1000 // 10}"

    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if not driver:
        return "there is no NVIDIA driver on this machine"
    if driver // 1000 < needed // 1000:
        return f"the NVIDIA driver serves CUDA {number(driver)}, this CuPy needs {number(needed)}"
    return f"the NVIDIA driver serves CUDA {number(driver)}"


def explain_out_of_memory(cupy: Any) -> None:
    """Let CuPy's OutOfMemoryError say how full its pool is and what to do; other allocators stay.

    It stands in the allocator because every array passes there, those of a backward pass too.
    """
    pool = cupy.get_default_memory_pool()
    if cupy.cuda.get_allocator() != pool.malloc:
        return
    peak = 0

    def allocate(size: int) -> Any:
        nonlocal peak
        try:
            memory = pool.malloc(size)
        except cupy.cuda.memory.OutOfMemoryError as error:
            free, total = cupy.cuda.runtime.memGetInfo()
            error.add_note(
                f"{size:,} bytes asked for; CuPy's pool has {pool.used_bytes():,} in use and held "
                f"{peak:,} at most; of the GPU's {total:,} bytes {free:,} are free. Use smaller "
                f"batches or shorter sequences, minigrad.checkpoint, or no_grad where no gradient "
                f"is needed; nvidia-smi shows what other processes hold"
            )
            raise
        peak = max(peak, pool.total_bytes())
        return memory

    cupy.cuda.set_allocator(allocate)

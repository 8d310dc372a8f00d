"""MINIGRAD_DEBUG=nan,dtype,dispatch: what stands at the choke point `run` to watch every op."""

from __future__ import annotations

import atexit
import contextlib
import linecache
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from minigrad.backend import Backend, at_first_use, users_level
from minigrad.errors import MinigradError, NonFiniteError
from minigrad.op import Op, at_choke_points, bare, default_mode, execute, mode
from minigrad.spec import describe
from minigrad.tensor import Tensor

KINDS = ("nan", "dtype", "dispatch")
Run = Callable[[Op, Sequence[Any], dict[str, Any]], Any]


class DebugError(MinigradError, ValueError):
    """A value of MINIGRAD_DEBUG that names nothing to watch."""


def configure() -> None:
    """Do what MINIGRAD_DEBUG says, in every thread; called when the first backend is resolved."""
    words = os.environ.get("MINIGRAD_DEBUG", "").lower().replace(",", " ").split()
    for word in words:
        if word not in KINDS:
            raise DebugError(f"MINIGRAD_DEBUG={word}: write {', '.join(KINDS)}, or several of them")
    if words and default_mode.run is execute:
        default_mode.run = watch(default_mode.run, words)


@contextlib.contextmanager
def detect_anomaly() -> Iterator[None]:
    """Within the block, the first op or rule that makes a NaN or an infinity raises NonFiniteError.

    The error names the op, the index, and, if a rule failed, where its op was called forward.
    """
    with at_choke_points(run=watch(mode.get().run, ["nan"])):
        yield


def watch(run: Run, kinds: Sequence[str]) -> Run:
    """A `run` that does the same and looks at it."""
    looked_at = getattr(run, "watches", run)
    checks: list[Callable[..., None]] = []
    checks += [_check_finite] if "nan" in kinds else []
    checks += [_check_promotion] if "dtype" in kinds else []
    if "dispatch" in kinds:
        run = Dispatch(run)

    def watched(op: Op, operands: Sequence[Any], static: dict[str, Any]) -> Any:
        y = run(op, operands, static)
        if not _raw(operands):
            outputs = y if isinstance(y, tuple) else (y,)
            for check in checks:
                check(op, operands, outputs)
        return y

    watched.watches = looked_at  # type: ignore[attr-defined]  # it makes the same values
    return watched


def _raw(operands: Sequence[Any]) -> bool:
    """Whether these operands are lifted first, and come through `run` again as tensors."""
    tensors = [isinstance(t, Tensor) for t in operands]
    return not any(tensors) or any(
        not own and type(t) not in (float, int, bool) for own, t in zip(tensors, operands)
    )


# --- nan -----------------------------------------------------------------------------------------


def _check_finite(op: Op, operands: Sequence[Any], outputs: Sequence[Tensor]) -> None:
    """Raise for a NaN, and for an infinity that comes of finite operands: -inf may be a mask."""
    for y in outputs:
        if y.dtype.kind != "f":
            continue
        xp, values = y.backend.xp, bare(y)
        if bool(xp.isfinite(values).all()):
            continue
        is_nan = bool(xp.isnan(values).any())
        if is_nan or all(_finite(t) for t in operands):
            raise NonFiniteError(_accusation(op, operands, y, is_nan))
    if outputs and outputs[0].node is not None:
        outputs[0].node.trace = _stack()


def _finite(x: Any) -> bool:
    if not isinstance(x, Tensor):
        return bool(-float("inf") < x < float("inf"))
    return bool(x.dtype.kind != "f" or x.backend.xp.isfinite(bare(x)).all())


def _accusation(op: Op, operands: Sequence[Any], y: Tensor, is_nan: bool) -> str:
    xp, values = y.backend.xp, bare(y)
    bad = y.backend.to_numpy(xp.isnan(values) if is_nan else xp.isinf(values))
    index = tuple(int(places[0]) for places in bad.nonzero())
    what = f"{'nan' if is_nan else 'inf'} at index {index}"
    arrays = [bare(t) for t in operands]
    where = f"{describe(op, arrays)} on backend {y.backend.name!r}"
    guilty = [op.operand(i) for i, t in enumerate(operands) if not _finite(t)]
    came_in = f"; operand {guilty[0]} was not finite before" if guilty else ""
    node = mode.get().at
    if node is None:
        return f"{op.name} returned {what}: {where}{came_in}"
    trace = getattr(node, "trace", None)
    called = f" {node.op.name} was called at:\n{_shown(trace)}" if trace else (
        f" Compute {node.op.name} within detect_anomaly() too, to see where it was called."
    )  # fmt: skip
    return f"backward of {node.op.name} returned {what}: {where}{came_in}.{called}"


def _stack() -> tuple[tuple[str, int, str], ...]:
    """Where the user's code is, outermost call first; the engine's own frames left out."""
    frame: FrameType | None = sys._getframe(1)
    found = []
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] != "minigrad":
            found.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(reversed(found))


def _shown(trace: Sequence[tuple[str, int, str]]) -> str:
    return "\n".join(
        f'  File "{file}", line {line}, in {name}\n    {linecache.getline(file, line).strip()}'
        for file, line, name in trace[-8:]
    )


# --- dtype ---------------------------------------------------------------------------------------


def _check_promotion(op: Op, operands: Sequence[Any], outputs: Sequence[Tensor]) -> None:
    """Warn, at the user's line, where float32 becomes float64 and nobody wrote so."""
    dtypes = {str(t.dtype) for t in operands if isinstance(t, Tensor)}
    became = {str(y.dtype) for y in outputs}
    asked_for = op.dtypes == "free" or "dtype" in op.static  # such as astype
    if not asked_for and "float32" in dtypes and "float64" in dtypes | became:
        warnings.warn(
            f"float32 became float64 in {describe(op, [bare(t) for t in operands])}",
            stacklevel=users_level(),
        )


# --- dispatch ------------------------------------------------------------------------------------


class Dispatch:
    """Prints each call of an op, and at the end of the process what all calls of each took."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.totals: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
        atexit.register(self.summary)

    def __call__(self, op: Op, operands: Sequence[Any], static: dict[str, Any]) -> Any:
        if _raw(operands):
            return self.run(op, operands, static)
        backend: Backend = next(t.backend for t in operands if isinstance(t, Tensor))
        wait = getattr(backend, "synchronize", None)
        start = time.perf_counter()
        y = self.run(op, operands, static)
        if wait is not None:
            wait()
        microseconds = (time.perf_counter() - start) * 1e6
        by = "kernel" if op.name in getattr(backend, "kernels", {}) else "xp"
        total = self.totals[op.name, backend.name, by]
        total[0] += 1
        total[1] += microseconds
        outputs = ", ".join(f"{t.shape}" for t in (y if isinstance(y, tuple) else (y,))[:4])
        print(
            f"{describe(op, [bare(t) for t in operands])} -> {outputs}  {backend.name} {by} "
            f"{microseconds:.1f} us",
            file=sys.stderr,
        )
        return y

    def summary(self) -> None:
        """The table of all calls, the most expensive first."""
        rows = sorted(self.totals.items(), key=lambda row: -row[1][1])
        lines = [f"{'op':<20} {'backend':<8} {'by':<6} {'calls':>8} {'us':>12} {'us/call':>9}"]
        lines += [
            f"{name:<20} {place:<8} {by:<6} {calls:>8} {us:>12.0f} {us / calls:>9.1f}"
            for (name, place, by), (calls, us) in rows
        ]
        if rows:
            print("\n".join(lines), file=sys.stderr)


at_first_use(configure)
with contextlib.suppress(DebugError):  # which the first use raises again
    configure()

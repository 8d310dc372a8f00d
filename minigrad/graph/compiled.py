"""compile: a function that is captured at its first call, and its program run at the next ones.

A call's signature is the nest of its arguments, shape, dtype, backend and requires_grad of tensors
and arrays among them, and the values of all others; whatever else the function went by (see
Circumstances and Looks) is compared with what it was. Where anything differs, it is captured anew.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from types import MethodType
from typing import Any

import numpy as np

from minigrad.backend import Backend, current, users_level
from minigrad.graph import tracing
from minigrad.graph.calls import Call
from minigrad.graph.captured import Captured, flatten, is_array, nest_of, place_of
from minigrad.graph.ir import CaptureError, Graph
from minigrad.graph.recorder import Outside, recorder_at
from minigrad.op import BareRun, execute, mode
from minigrad.ops.random import Key
from minigrad.tensor import Tensor, default_dtype
from minigrad.tree import in_order

MOST = 64  # how many captures are kept
SHOWN = 4  # how many of them a report shows in full
NUMBERS = (int, bool, str, bytes, type(None))


def compile(f: Callable[..., Any]) -> Compiled:
    """f, captured at its first call with arguments of a kind, and run as a program from then on.

    Arguments and result are nests of tensors, arrays and any other values. What f computes, assigns
    and leaves in `.grad` is what it does without compile, to rounding; gradients flow through it to
    any order, and its derivatives are programs too. A decorator, of methods as well.

    Inputs are the tensors and arrays among the arguments, by shape and dtype, and every tensor that
    existed before: weights, an optimizer's state and rate, the random generator; all are read at
    each call. Outputs are the result, what f assigns, and `.grad`; they are committed together at
    the end. Anything else that f went by (other arguments' values, numbers and objects around it,
    `training`, no_grad, the backend) is part of what was captured: where it differs, f is captured
    anew. What is in an array around f is constant; pass it as an argument. Other effects of f on
    Python happen at a capture alone, and the report names them.

    The result has `report()`, what was captured, why again, and what passes and backend made of it;
    `source()`, the backend's text; `graph`, after all passes; `captures`, their number; and `f`.
    MINIGRAD_COMPILE=0 has f run as it is, as it does within another capture and where f's tensors
    lie on two backends. Raises CaptureError where f looks at a value (float, bool, item, numpy), or
    uses a tensor that an earlier capture left behind; TypeError for a generator or a coroutine.
    """
    return f if isinstance(f, Compiled) else Compiled(f)


class Compiled:
    """A compiled function; a method is compiled per object.

    Threads may call it at once. While one captures, at a first call, the others must not use what
    it assigns.
    """

    def __init__(self, f: Callable[..., Any]) -> None:
        if not callable(f):
            raise TypeError(f"compile takes a function, not {f!r}; put @compile below @classmethod")
        for refused in ("isgeneratorfunction", "isasyncgenfunction", "iscoroutinefunction"):
            if getattr(inspect, refused)(f):
                raise TypeError(
                    f"compile cannot take {f.__name__!r}, whose body runs after the call; return "
                    f"a list, or compile what it calls"
                )
        functools.update_wrapper(self, f, updated=())
        self.f = f
        self.versions: OrderedDict[Hashable, list[Version]] = OrderedDict()
        self.notes: deque[str] = deque(maxlen=8)  # why it was captured again, the last times
        self.captures = self.dropped = 0
        self.last: Version | None = None

    def __get__(self, instance: Any, kind: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        return compile, (self.f,)  # a copy, of an object's method say, captures for itself

    def __repr__(self) -> str:
        return f"<compiled {getattr(self.f, '__qualname__', self.f)}>"

    def __call__(self, *args: Any, **named: Any) -> Any:
        run = mode.get().run
        if os.environ.get("MINIGRAD_COMPILE") == "0" or (
            run is not execute and (isinstance(run, BareRun) or recorder_at(run))
        ):
            return self.f(*args, **named)
        key, leaves = signature(args, named)
        with tracing.capturing:
            version = self._found(key, leaves) or self._captured(key, args, named, leaves)
            captured, call = version.captured, version.call
            if captured is not None and call is not None:
                places = captured.places(leaves)
                inputs = captured.inputs(leaves)
                if captured.targets:  # read, computed and assigned as one, for all threads
                    return captured.commit(places, call(inputs))
        if captured is None or call is None:
            return self.f(*args, **named)
        outputs = call(inputs)
        with tracing.capturing:
            return captured.commit(places, outputs)

    def _found(self, key: Hashable, leaves: Sequence[Any]) -> Version | None:
        for version in self.versions.get(key, ()):
            if version.captured is None or version.captured.difference(leaves) is None:
                self.versions.move_to_end(key)
                self.last = version
                return version
        return None

    def _captured(
        self, key: Hashable, args: Any, named: dict[str, Any], leaves: Sequence[Any]
    ) -> Version:
        same = self.versions.get(key, [])
        if same and same[-1].captured is not None:
            self.notes.append(f"captured again: was {same[-1].captured.difference(leaves)}")
        with tracing.uncollected():
            version = Version(self.f, args, named)
        self.versions.setdefault(key, []).append(version)
        self.versions.move_to_end(key)
        self.captures += 1
        self.last = version
        if self.captures == MOST + 1:
            warnings.warn(
                f"{self!r} was captured {self.captures} times, last for {version.given}, and the "
                f"oldest are dropped; give numbers that change as tensors, pad to few lengths",
                RuntimeWarning,
                stacklevel=users_level(),
            )
        while sum(map(len, self.versions.values())) > MOST:
            oldest = next(iter(self.versions))
            self.versions[oldest].pop(0)
            if not self.versions[oldest]:
                del self.versions[oldest]
            self.dropped += 1
        return version

    # what there is to see

    def _last(self) -> Version:
        if self.last is None:
            raise CaptureError(f"{self!r} has not been captured yet: call it first")
        return self.last

    @property
    def graph(self) -> Graph:
        """The graph of the last call's program, after all passes."""
        call = self._last().call
        if call is None:
            raise CaptureError(f"{self!r} was not captured: {self._last().why}")
        return call.program.graph

    def source(self) -> str:
        """The text of what the backend generated for the last call."""
        call = self._last().call
        return call.program.source() if call else "interpreted"

    def report(self) -> str:
        """What was captured, why again, and what passes and backend made of it."""
        versions = [v for same in self.versions.values() for v in same]
        kept = f"{len(versions)} kept" + (f", {self.dropped} dropped" if self.dropped else "")
        lines = [f"{self!r}: {self.captures} captures, {kept}"]
        lines += [f"  {note}" for note in dict.fromkeys(self.notes)]
        for version in versions[:-SHOWN]:
            lines += version.lines()[:1]
        for version in versions[-SHOWN:]:
            lines += version.lines()
        return "\n".join(lines)


class Version:
    """One capture of a function and its program; without one, why the function runs as it is."""

    def __init__(self, f: Callable[..., Any], args: Any, named: dict[str, Any]) -> None:
        start = time.perf_counter()
        leaves, rebuild = flatten((args, named))
        leaves = [x[()] if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in leaves]
        self.nest = nest_of((*args, named) if named else args)
        self.given = f"{self.nest} of {', '.join(map(_shown, leaves))}" if leaves else "()"
        self.captured: Captured | None = None
        self.call: Call | None = None
        self.why = ""
        try:
            self.captured, tape = tracing.trace(f, leaves, rebuild, self.nest, graphs=True)
            backend = _backend(self.captured, leaves)
        except Outside as error:
            self.captured, self.why = None, str(error)
            return
        self.raw = self.captured.graph
        captured = time.perf_counter()
        self.call = Call(self.raw, tape, backend)
        self.seconds = captured - start, time.perf_counter() - captured

    def lines(self) -> list[str]:
        """The part of the report."""
        if self.call is None:
            return [f"  {self.given}: not compiled: {self.why}"]
        program = self.call.program
        steps, left = len(self.raw.steps), sum(1 for _ in program.graph.walk())
        capture, build = self.seconds
        lines = [
            f"  {self.given}: {steps} steps, {left} after all passes with "
            f"{len(program.graph.loops())} loops; captured in {capture * 1e3:.1f} ms, built in "
            f"{build * 1e3:.1f} ms",
            *(f"    {note}" for note in program.graph.notes),
            *(f"    {line}" for line in program.report().splitlines()),
        ]
        for (recording, _), call in self.call.derivatives.items():
            kind = "derivative, itself differentiable" if recording else "derivative"
            lines.append(f"    {kind}: {sum(1 for _ in call.program.graph.walk())} steps")
        return lines


def _shown(leaf: Any) -> str:
    """An argument in a report: dtype and shape of an array, else the value."""
    if is_array(leaf):
        return f"{leaf.dtype} {tuple(leaf.shape)}"
    return repr(leaf) if len(repr(leaf)) < 40 else type(leaf).__name__


def _backend(captured: Captured, leaves: Sequence[Any]) -> Backend:
    """Where the program runs; raises Outside for one that needs two backends."""
    found = {x.backend: None for x in captured.inputs(leaves)}
    if len(found) > 1:
        raise Outside(f"it uses tensors on {' and '.join(b.name for b in found)}")
    return next(iter(found), current())


# --- the signature of a call ---------------------------------------------------------------------


def signature(args: Any, named: dict[str, Any]) -> tuple[Hashable, list[Any]]:
    """What a capture is found by, and the leaves of the arguments as `flatten` orders them."""
    leaves: list[Any] = []
    key: list[Any] = [mode.get().recording, current(), default_dtype(), len(args)]
    for x in args:
        _add(x, key, leaves)
    if named:
        _add(named, key, leaves)
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    for same in [*map(id, tensors)], [*map(place_of, tensors)]:
        if len(set(same)) < len(same):  # one is there twice
            key.append(tuple(map(same.index, same)))
    return tuple(key), leaves


def _add(x: Any, key: list[Any], leaves: list[Any]) -> None:
    kind = x.__class__
    if isinstance(x, Tensor):
        node = x.node
        key.append((x.shape, x.dtype, x.backend, node and node.op is None))
        leaves.append(x)
    elif isinstance(x, (tuple, list)):
        key += (kind, len(x))
        for item in x:
            _add(item, key, leaves)
    elif isinstance(x, dict):
        key += (dict, tuple(x))
        for name in in_order(x):
            _add(x[name], key, leaves)
    elif kind is Key:
        key.append(Key)
        _add(x.words, key, leaves)
    else:
        leaves.append(x)
        key += _value(x, kind)


def _value(x: Any, kind: type[Any]) -> tuple[Any, ...]:
    """The part of the key that a leaf is which is no tensor."""
    if kind in NUMBERS:
        return kind, x
    if kind is float:
        return kind, x.hex()  # 0.0 is not -0.0, and nan is nan
    if isinstance(x, np.generic) or (isinstance(x, np.ndarray) and x.ndim == 0):
        return kind, x.dtype, x.tobytes()
    if isinstance(x, (np.ndarray, current().xp.ndarray)):
        return kind, x.shape, x.dtype
    if kind is slice:
        return kind, *(_value(part, type(part)) for part in (x.start, x.stop, x.step))
    try:
        hash(x)
    except TypeError:
        if not hasattr(x, "__dict__"):
            raise CaptureError(
                f"an argument is a {kind.__name__}, which may change and has no hash; pass a "
                f"tuple, or what the function needs of it"
            ) from None
        return kind, _Itself(x)
    by_identity = getattr(kind, "__eq__") is object.__eq__  # noqa: B009
    return (kind, x) if by_identity else (kind, x, repr(x))  # equal ones may differ, by 1 and 1.0


class _Itself:
    """An object in a key, by identity."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __hash__(self) -> int:
        return id(self.x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.x is self.x

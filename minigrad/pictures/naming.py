"""Names for the values of a captured function, and the module calls that made them.

The engine knows neither variables nor module calls; Python does. While the function is captured a
profiler watches its frames: the `__call__` of a Module says which call the steps written meanwhile
belong to, and the variables of a frame that returns name the values that they hold.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from types import FrameType, FunctionType
from typing import Any

from minigrad import autodiff, tree
from minigrad.graph import Captured, Instruction, Value, capture
from minigrad.graph.sources import Argument, Held
from minigrad.nn import Module
from minigrad.op import bare, mode
from minigrad.tensor import Tensor

Call = tuple[str, str, int]  # path and class of a module, and the how manieth call it is
MOST = 1000  # containers, and elements of one, in which names are looked for
BACKWARD = (autodiff.backward.__code__, autodiff.pullback.__code__)  # are drawn as calls, too


class Named(str):
    """A value's name that also knows the module calls around the step which made the value.

    Passes hand names on to the copies that they make, so this finds its way through fold.
    """

    __slots__ = ("calls",)
    calls: tuple[Call, ...]

    def __new__(cls, name: str, calls: tuple[Call, ...] = ()) -> Named:
        made = super().__new__(cls, name)
        made.calls = calls
        return made


def calls_of(value: Value) -> tuple[Call, ...]:
    """The module calls around the step that made a value, outermost first."""
    return value.name.calls if isinstance(value.name, Named) else ()


def capture_named(f: Callable[..., Any], *args: Any) -> Captured:
    """capture(f, *args), with the names of variables, parameters and module calls."""
    around = dict(_around(f))
    watcher = _Watcher(around)
    before = sys.getprofile()
    sys.setprofile(watcher)
    try:
        captured = capture(f, *args)
    finally:
        if before is not None and not callable(before):  # cProfile's, which is no function
            before.enable()
        else:
            sys.setprofile(before)
    watcher.apply(captured, _arguments(f, args))
    return captured


def _arguments(f: Callable[..., Any], args: tuple[Any, ...]) -> list[str]:
    """What the function calls the leaves of its arguments."""
    try:
        names = list(inspect.signature(f).parameters)
    except ValueError:  # some functions in C have none
        names = []
    found = []
    for i, x in enumerate(args):
        name = names[i] if i < len(names) else f"x{i}"
        leaves = tree.flatten(x)[0]
        whole = len(leaves) == 1 and leaves[0] is x
        found += [name] if whole else [f"{name}[{j}]" for j in range(len(leaves))]
    return found


def _around(f: Callable[..., Any], seen: Set[Any] = frozenset()) -> Iterator[tuple[str, Any]]:
    """What a function, and those it calls, refer to by name: closures, globals, its self."""
    owner = f if isinstance(f, Module) else getattr(f, "__self__", None)
    if isinstance(owner, Module):
        yield "", owner
    if inspect.isfunction(f) and f not in seen:
        seen = {*seen, f}
        for name, x in _variables(f):
            yield name, x
            if inspect.isfunction(x) and not (x.__module__ or "").startswith("minigrad"):
                yield from _around(x, seen)


def _variables(f: FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables of a function's closure and the globals that it names."""
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
        with suppress(ValueError):  # it may hold nothing yet
            yield name, cell.cell_contents
    yield from (
        (name, f.__globals__[name]) for name in f.__code__.co_names if name in f.__globals__
    )


class _Watcher:
    """What sys.setprofile calls: at each call and return of Python code."""

    def __init__(self, around: dict[str, Any]) -> None:
        self.around = around
        self.paths: dict[int, str] = {}  # of modules, by identity
        self.held: dict[int, str] = {}  # of tensors
        self.names: dict[Value, str] = {}
        self.open: list[tuple[FrameType, Call, Module | None]] = []
        self.calls: list[tuple[Call, ...]] = []  # of each step written so far
        self.counts: dict[str, int] = {}
        self.seen: set[int] = set()  # containers, by identity: they may hold themselves
        for name, x in around.items():
            self.learn(name, x)

    def learn(self, name: str, x: Any) -> None:
        """The paths of a module and of all that is below it."""
        waiting = [(name, x)]
        while waiting:
            name, x = waiting.pop()
            if isinstance(x, (list, tuple, dict)):
                if id(x) not in self.seen and max(len(x), len(self.seen)) <= MOST:
                    self.seen.add(id(x))
                    items = list(x.items() if isinstance(x, dict) else enumerate(x))
                    waiting += [(f"{name}.{key}", item) for key, item in reversed(items)]
            elif isinstance(x, Tensor):
                self.held.setdefault(id(x), x.name or name)
            elif isinstance(x, Module):
                self.learn_module(name, x)

    def learn_module(self, name: str, x: Module) -> None:
        for path, module in x.named_modules():
            before = ".".join(filter(None, (name, path)))
            self.paths.setdefault(id(module), before)
            for own, tensor in vars(module).items():  # buffers among them
                if isinstance(tensor, Tensor):
                    self.held.setdefault(id(tensor), ".".join(filter(None, (before, own))))
        for path, tensor in x.named_parameters():
            self.held.setdefault(id(tensor), ".".join(filter(None, (name, path))))

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        recorder = getattr(mode.get().run, "__self__", None)
        if not hasattr(recorder, "steps"):
            return
        code = frame.f_code
        if code.co_name == "__call__" and code.co_varnames:
            module = frame.f_locals.get(code.co_varnames[0])
            if isinstance(module, Module):
                self.catch_up(recorder)
                if event == "call":
                    self.enter(frame, module)
                elif self.open and self.open[-1][0] is frame:
                    self.open.pop()
        elif code in BACKWARD:
            self.catch_up(recorder)
            if event == "call":
                self.push(frame, "backward", "backward")
            elif self.open and self.open[-1][0] is frame:
                self.open.pop()
        own = (frame.f_globals.get("__name__") or "").startswith("minigrad.")
        if event == "return" and not own and not code.co_name.startswith("<"):  # comprehensions
            for name, x in frame.f_locals.items():
                if isinstance(x, Tensor) and hasattr(x, "backend"):
                    value = getattr(bare(x), "value", None)
                    if isinstance(value, Value):
                        self.names.setdefault(value, name)

    def catch_up(self, recorder: Any) -> None:
        """The steps written since the last call or return belong to the calls open until now."""
        calls = tuple(call for _, call, _ in self.open)
        self.calls += [calls] * (len(recorder.steps) - len(self.calls))

    def enter(self, frame: FrameType, module: Module) -> None:
        if self.open and self.open[-1][2] is module and self.open[-1][0].f_code is not frame.f_code:
            return  # super().__call__: a call of itself would run the same code again
        kind = type(module).__name__
        if id(module) not in self.paths:
            self.learn(kind, module)
        self.push(frame, self.paths[id(module)] or kind, kind, module)

    def push(self, frame: FrameType, path: str, kind: str, module: Module | None = None) -> None:
        self.counts[path] = self.counts.get(path, 0) + 1
        self.open.append((frame, (path, kind, self.counts[path] - 1), module))

    def apply(self, captured: Captured, arguments: list[str]) -> None:
        """Name what was captured; the name of an argument is a Named, that of a weight is not."""
        graph = captured.graph
        for source, value in zip(captured.sources, graph.inputs, strict=True):
            if isinstance(source, Held):
                value.name = self.held.get(id(source.tensor), value.name)
            elif isinstance(source, Argument):
                own = value.name if value.name != f"x{source.position}" else None
                value.name = Named(own or arguments[source.position])
        for step, calls in zip(graph.steps, [*self.calls, *[()] * len(graph.steps)], strict=False):
            if isinstance(step, Instruction):
                for value in step.outputs:
                    value.name = Named(self.names.get(value, ""), calls)

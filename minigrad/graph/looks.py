"""What a captured function found behind Python's names: variables around it and attributes.

A tensor is bound to the object that was found. Where another object stands there later (a layer was
replaced, a number changed), the capture is no longer what the function would do.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import random
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import zip_longest
from operator import is_
from threading import get_ident
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from minigrad.nn import Module
from minigrad.optim import Optimizer, Schedule
from minigrad.tensor import Tensor

KINDS: tuple[type[Any], ...] = (Module, Optimizer, Schedule)  # whose attributes are watched
ENGINE = "minigrad"  # and what is called so with an ending: their own variables do not change
MUTABLE = 1 << 8 | 1 << 9  # CPython's flags: a class that Python code has made has the second alone
CONTAINERS = (list, tuple, dict, set, frozenset, deque, SimpleNamespace)
FUNCTIONS = (FunctionType, MethodType, partial)
UNCALLED = ("__init__", "__new__", "__repr__", "__str__", "__del__", "__getattribute__")
LIBRARIES = tuple(sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib"))
DRAWING = (random.Random, np.random.Generator, np.random.RandomState)
GENERATORS = random.random.__self__, np.random.rand.__self__  # type: ignore[attr-defined]
PLAIN = (int, float, complex, bool, str, bytes)
MISSING: Any = object()


class Looks:
    """The variables around f, and around the user's functions and methods that it may call; and,
    once watched, the attributes that were read of modules, optimizers and the user's own objects.
    """

    def __init__(self, f: Callable[..., Any], leaves: Iterable[Any]) -> None:
        # what reads a variable or an attribute, how it is called, what stood there; by its place
        self.places: dict[Any, tuple[Callable[[], Any], str, Any]] = {}
        self.items: dict[int, tuple[Any, tuple[Any, ...]]] = {}  # of containers found there
        self.patched: list[type[Any]] = []
        self.changed: list[str] = []  # by f itself, at the capture
        self.stuck: list[str] = []  # of these what f reads, and what it drew: each call the same
        self.kinds: dict[type[Any], None] = dict.fromkeys(KINDS)
        self.classes: set[type[Any]] = set()  # that were looked at
        self.functions: set[FunctionType] = set()  # that were followed
        self.generators: dict[int, tuple[Any, Any]] = {}  # of random numbers, with their states
        self.thread = 0
        for generator in GENERATORS:
            self.watch(generator)
        self._follow([f, *leaves])

    # around f

    def _follow(self, waiting: list[Any]) -> None:
        seen: dict[int, Any] = {}
        while waiting:
            x = waiting.pop()
            if id(x) in seen or (isinstance(x, FunctionType) and x in self.functions):
                continue
            seen[id(x)] = x
            if isinstance(x, partial):
                waiting += [x.func, *x.args, *x.keywords.values()]
            elif isinstance(x, MethodType):
                waiting += [x.__func__, x.__self__]
            elif isinstance(x, FunctionType):
                self.functions.add(x)
                waiting += self._variables(x)
            else:
                self.watch(x)
                waiting.append(getattr(x, "__wrapped__", None))

    def _variables(self, f: FunctionType) -> Iterator[Any]:
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            yield self._place(id(cell), partial(_inside, cell), name)
        for value in (*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()):
            self._contents(value)
            yield value
        if _of_library(str(f.__globals__.get("__name__"))):
            return
        for name, *attributes in _global_names(f.__code__):
            names = f.__globals__
            while attributes and isinstance(names.get(name), ModuleType):
                names, name = vars(names[name]), attributes.pop(0)
            if name in names and not str(names.get("__name__")).startswith(ENGINE):
                value = self._name(names, name, name)
                if isinstance(value, type) and attributes:
                    self._class(value, attributes[0])
                yield value

    def _name(self, names: dict[str, Any], name: str, called: str) -> Any:
        return self._place((id(names), name), partial(names.get, name, MISSING), called)

    def _place(self, place: Any, read: Callable[[], Any], called: str) -> Any:
        value = read()
        if not isinstance(value, (ModuleType, type)):
            self.places[place] = read, called, value
            self._contents(value)
        return value

    def _contents(self, value: Any) -> None:
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if not isinstance(value, CONTAINERS) or id(value) in self.items:
                continue
            items = tuple(_items(value))
            self.items[id(value)] = value, items
            of_each_kind = dict(zip(map(type, items), items))
            if any(issubclass(kind, CONTAINERS) for kind in of_each_kind):
                waiting += items
            for item in of_each_kind.values():
                self.watch(item)
            if not of_each_kind.keys().isdisjoint(FUNCTIONS):
                self._follow([x for x in items if isinstance(x, FUNCTIONS)])

    # attributes

    def watch(self, x: Any) -> None:
        """Watch an object of a class that Python code has made, and follow a function."""
        kind = type(x)
        if isinstance(x, FUNCTIONS):
            self._follow([x])
        elif isinstance(x, DRAWING) and id(x) not in self.generators:
            self.generators[id(x)] = x, _state(x)
        if kind in self.classes or kind.__flags__ & MUTABLE != 1 << 9 or isinstance(x, Tensor):
            return
        self.classes.add(kind)
        for owner in kind.__mro__:
            for name, value in list(vars(owner).items()):
                if name[:2] == "__" and name not in UNCALLED and isinstance(value, FunctionType):
                    self._class(kind, name)  # Python calls it without asking for the attribute
        plain = getattr(kind, "__getattribute__") is object.__getattribute__  # noqa: B009
        if plain and not _of_engine(kind) and not isinstance(x, KINDS):
            self.kinds[kind] = None
            if self.thread:
                self._patch(kind)

    def _class(self, kind: type[Any], name: str) -> None:
        """What the user's classes hold by a name, all of them, for super() asks further ones: a
        value is watched, code followed, with the names in it that are the class's."""
        owners = [k for k in kind.__mro__ if name in vars(k) and not _of_library(k.__module__)]
        for owner in dict.fromkeys([kind, *owners] if owners else []):
            place = owner, name
            if place in self.places:
                continue
            value = self._place(place, partial(_held, owner, name), f"{name} of {owner.__name__}")
            inner = getattr(value, "fget", getattr(value, "func", value))  # of a property
            inner = getattr(inner, "__func__", inner)  # of a static or class method
            self.watch(inner)
            if isinstance(inner, FunctionType):
                for read in inner.__code__.co_names:
                    self._class(kind, read)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within the block, attributes that this thread reads are seen."""
        self.thread = get_ident()
        try:
            for kind in list(self.kinds):
                self._patch(kind)
            yield
        finally:
            self.thread = 0
            for kind in self.patched:
                del kind.__getattribute__
            self.patched = []
        self._settle()
        if any(_state(x) != was for x, was in self.generators.values()):
            self.stuck.append("a random number was drawn")
        self.generators = {}  # whose states are large

    def _patch(self, kind: type[Any]) -> None:
        if "__getattribute__" in vars(kind):
            return
        find = object.__getattribute__

        def look(x: Any, name: str) -> Any:
            if name[:2] == "__" or name == "training" or get_ident() != self.thread:
                return find(x, name)
            try:
                return find(x, name)
            finally:  # where there is none, too: hasattr asks
                self._attribute(x, name)

        kind.__getattribute__ = look  # type: ignore[assignment]
        self.patched.append(kind)

    def _attribute(self, x: Any, name: str) -> None:
        own = _own(x)
        place = id(x if own is None else own), name
        if place in self.places:
            return
        kind = type(x)
        slot = next((vars(k)[name] for k in kind.__mro__ if name in vars(k)), None)
        if inspect.ismemberdescriptor(slot):
            read = partial(_slot, slot, x)
        elif own is not None:
            read = partial(own.get, name, MISSING)
        else:
            return
        self.watch(self._place(place, read, f"{name} of {kind.__name__}"))
        self._class(kind, name)

    # afterwards

    def _settle(self) -> None:
        """Forget what f itself has changed, which calls do not repeat; tensors remain, for what
        stands in their places now belongs to the capture."""
        for place, (read, called, was) in list(self.places.items()):
            now = read()
            if now is not was and not _tensors((was, now)):
                del self.places[place]
                self.changed.append(called)
                if isinstance(was, PLAIN) and isinstance(now, PLAIN):
                    self.stuck.append(f"{called} was changed")
        for number, (value, items) in list(self.items.items()):
            found = _items(value)
            if same(found, items):
                continue
            if not _tensors([x for x, y in zip_longest(items, found) if x is not y]):
                del self.items[number]
                if not _tensors(found):
                    self.changed.append(f"a {type(value).__name__}")

    def difference(self) -> str | None:
        """What is another object now than it was, if anything is."""
        for read, called, was in self.places.values():
            now = read()
            if now is not was and not _equal(was, now):
                return f"with another {called}"
        for value, items in self.items.values():
            if not same(_items(value), items):
                return f"with other items in a {type(value).__name__}"
        return None


def _of_engine(kind: type[Any]) -> bool:
    return str(kind.__module__).partition(".")[0] == ENGINE


@lru_cache(maxsize=1024)
def _of_library(module: str) -> bool:
    """Whether a module is Python's own or was installed: its classes do not change."""
    file = getattr(sys.modules.get(module), "__file__", None)
    installed = file is not None and file.startswith(LIBRARIES)
    return installed or module in sys.builtin_module_names or module.startswith(ENGINE)


def _state(generator: Any) -> Any:
    """What changes where a generator of Python or NumPy gives a number."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    bits = getattr(generator, "bit_generator", None) or generator._bit_generator
    state = bits.state["state"].values()
    return [x.tobytes() if isinstance(x, np.ndarray) else x for x in state]


def _own(x: Any) -> dict[str, Any] | None:
    try:
        own: dict[str, Any] = object.__getattribute__(x, "__dict__")
    except AttributeError:  # it has slots alone
        return None
    return own


def _held(kind: type[Any], name: str) -> Any:
    """What a class or the first above it holds by a name."""
    return next((vars(k)[name] for k in kind.__mro__ if name in vars(k)), MISSING)


def _slot(descriptor: Any, x: Any) -> Any:
    try:
        return descriptor.__get__(x)
    except AttributeError:
        return MISSING


def _inside(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value, yet or any more
        return MISSING


def _items(value: Any) -> Any:
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    return [*value.values(), *value] if isinstance(value, dict) else value


def same(found: Any, items: tuple[Any, ...]) -> bool:
    """Whether the same objects stand in a list or the values of a dict."""
    return len(found) == len(items) and all(map(is_, found, items))


def _tensors(found: Iterable[Any]) -> bool:
    """Whether there are tensors in containers within containers."""
    waiting, seen = list(found), set()
    while waiting:
        x = waiting.pop()
        if isinstance(x, Tensor):
            return True
        if isinstance(x, CONTAINERS) and id(x) not in seen:
            seen.add(id(x))
            waiting += _items(x)
    return False


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and isinstance(a, PLAIN) and repr(a) == repr(b)


@lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """The global variables that code reads, that of functions within it included, each with the
    attributes that are read of it in a row."""
    names: list[tuple[str, ...]] = []
    reading = False
    for x in dis.get_instructions(code):
        if x.opname in ("LOAD_ATTR", "LOAD_METHOD") and reading:
            names[-1] = *names[-1], x.argval
        elif reading := x.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.append((x.argval,))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names += _global_names(constant)
    return tuple(dict.fromkeys(names))

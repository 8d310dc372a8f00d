"""What a captured function found behind Python's names: variables around it and attributes.

A tensor is bound to the object that was found. Where another object stands there later (a layer was
replaced, a number changed), the capture is no longer what the function would do.
"""

from __future__ import annotations

import contextlib
import dis
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import pairwise, zip_longest
from operator import is_
from threading import get_ident
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from minigrad.nn import Module
from minigrad.optim import Optimizer, Schedule
from minigrad.tensor import Tensor

KINDS: tuple[type[Any], ...] = (Module, Optimizer, Schedule)  # whose attributes are watched
ENGINE = "minigrad"  # and what is called so with an ending: their own variables do not change
HEAP_TYPE = 1 << 9  # CPython's flag of a class that Python code has made
CONTAINERS = (list, tuple, dict)
PLAIN = (int, float, complex, bool, str, bytes)
MISSING: Any = object()


class Looks:
    """The variables around f and around the functions of its package that it calls, and, once
    watched, the attributes that were read of modules, optimizers and the user's own objects."""

    def __init__(self, f: Callable[..., Any], leaves: Iterable[Any]) -> None:
        # what reads a variable or an attribute, how it is called, what stood there; by its place
        self.places: dict[Any, tuple[Callable[[], Any], str, Any]] = {}
        self.items: dict[int, tuple[Any, tuple[Any, ...]]] = {}  # of containers found there
        self.patched: list[type[Any]] = []
        self.changed: list[str] = []  # by f itself, at the capture
        self.kinds: dict[type[Any], None] = dict.fromkeys(KINDS)
        self.thread = 0
        self._follow([(f, None), *((x, None) for x in leaves)])

    # around f

    def _follow(self, waiting: list[tuple[Any, str | None]]) -> None:
        seen: dict[int, Any] = {}
        while waiting:
            x, package = waiting.pop()
            if id(x) in seen:
                continue
            seen[id(x)] = x
            if isinstance(x, partial):
                waiting += [(y, None) for y in (x.func, *x.args, *x.keywords.values())]
            elif isinstance(x, MethodType):
                waiting += [(x.__func__, None), (x.__self__, None)]
            elif isinstance(x, FunctionType):
                waiting += self._variables(x, package)
            else:
                self.watch(x)
                waiting.append((getattr(x, "__wrapped__", None), None))

    def _variables(self, f: FunctionType, package: str | None) -> Iterator[tuple[Any, str | None]]:
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            yield self._place(id(cell), partial(_inside, cell), name), None
        own = str(f.__globals__.get("__name__")).partition(".")[0]
        if own.startswith(ENGINE) or package not in (None, own):
            return
        for name, attribute in _global_names(f.__code__):
            names = f.__globals__
            if isinstance(names.get(name), ModuleType) and attribute:
                names, name = vars(names[name]), attribute
                if str(names.get("__name__")).startswith(ENGINE):
                    continue
            if name in names:
                yield self._name(names, name, name), own

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

    # attributes

    def watch(self, x: Any) -> None:
        """Watch an object of a class that Python code has made."""
        kind = type(x)
        own = str(kind.__module__).partition(".")[0] == ENGINE
        if kind.__flags__ & HEAP_TYPE and not own and not isinstance(x, (*KINDS, Tensor)):
            plain = getattr(kind, "__getattribute__") is object.__getattribute__  # noqa: B009
            if plain and hasattr(x, "__dict__") and kind not in self.kinds:
                self.kinds[kind] = None
                if self.thread:
                    self._patch(kind)

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

    def _patch(self, kind: type[Any]) -> None:
        if "__getattribute__" in vars(kind):
            return
        places, find = self.places, object.__getattribute__

        def look(x: Any, name: str) -> Any:
            value = find(x, name)
            if name[:2] != "__" and name != "training" and get_ident() == self.thread:
                own = find(x, "__dict__")
                if (id(own), name) not in places:
                    self._name(own, name, f"{name} of {type(x).__name__}")
                    self._inherited(type(x), name)
                    self.watch(value)
            return value

        kind.__getattribute__ = look  # type: ignore[assignment]
        self.patched.append(kind)

    def _inherited(self, kind: type[Any], name: str) -> None:
        """The attribute of the first class that has it, unless that is code."""
        owner = next((k for k in kind.__mro__ if name in vars(k)), None)
        if owner and (owner, name) not in self.places and not hasattr(vars(owner)[name], "__get__"):
            read = partial(vars(owner).get, name, MISSING)
            self._place((owner, name), read, f"{name} of {owner.__name__}")

    # afterwards

    def _settle(self) -> None:
        """Forget what f itself has changed, which calls do not repeat; tensors remain, for what
        stands in their places now belongs to the capture."""
        for place, (read, called, was) in list(self.places.items()):
            now = read()
            if now is not was and not _tensors((was, now)):
                del self.places[place]
                self.changed.append(called)
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


def _inside(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value, yet or any more
        return MISSING


def _items(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


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
def _global_names(code: CodeType) -> tuple[tuple[str, str], ...]:
    """The global variables that code reads, that of functions within it included, each with the
    attribute that it reads of it, or ""."""
    names = [
        (x.argval, then.argval if then.opname in ("LOAD_ATTR", "LOAD_METHOD") else "")
        for x, then in pairwise(dis.get_instructions(code))
        if x.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    ]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names += _global_names(constant)
    return tuple(dict.fromkeys(names))

"""The contract of a backend, and how one is chosen: environment, call, scope or argument."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import operator
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ContextDecorator
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import numpy as np

from minigrad.errors import BackendUnavailableError, UnknownBackendError

API = 1
BUILTIN = {
    "numpy": "minigrad_numpy:backend",
    "numba": "minigrad_numba:backend",
    "cupy": "minigrad_cupy:backend",
}
INSTALL = {
    "numpy": "pip install numpy",
    "numba": "pip install numba scipy",
    "cupy": "pip install 'cupy-cuda13x[ctk]' (or cupy-cuda12x, as the driver asks)",
}
ENVIRONMENT = (
    "MINIGRAD_BACKEND",
    "MINIGRAD_COMPILE",
    "MINIGRAD_DEBUG",
    "MINIGRAD_CHECK_INDEX",
    "MINIGRAD_CACHE_DIR",
    "MINIGRAD_NO_PLUGINS",
    "MINIGRAD_TUTORIAL_FAST",
)
Call = TypeVar("Call", bound=Callable[..., Any])


@runtime_checkable
class Backend(Protocol):
    """What a plug-in's factory `backend(device=None)` returns: an array namespace and a few names.

    The factory raises ValueError for a device there is not, and whatever says why it cannot run.
    Optional attributes: `kernels` (op name -> faster forward with the operands and the static
    arguments of the op, without xp), `synchronize()`, `threads`, `devices`, `note`, `version`.
    """

    name: str
    api: int
    xp: Any

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """This backend's array of host or own data, without a copy where none is needed."""

    def to_numpy(self, array: Any) -> Any:
        """The host array of an own array."""

    def scatter_add(self, out: Any, index: tuple[Any, ...], values: Any) -> Any:
        """Add values at out[index] in a fixed order, duplicates counted; may write into out."""


class Known(NamedTuple):
    """A backend that can be asked for by name; `problem` says why its registration is no good."""

    target: str
    source: str
    problem: str | None = None


def registry() -> dict[str, Known]:
    """All known backends by name: the built-in table, then the entry points `minigrad.backends`.

    Nothing is imported. A plug-in cannot take a built-in name, nor two plug-ins one name.
    """
    known = {name: Known(target, "built in") for name, target in BUILTIN.items()}
    if os.environ.get("MINIGRAD_NO_PLUGINS", "") not in ("", "0"):
        return known
    from importlib.metadata import entry_points

    for entry in sorted(entry_points(group="minigrad.backends"), key=lambda e: (e.name, e.value)):
        name = entry.name.lower()
        source = f"plug-in {entry.dist.name}" if entry.dist else "plug-in"
        problem = None
        if not name.isidentifier() or name == "auto":
            problem = f"{source} registers {entry.name!r}, which is no name for a backend"
        elif name in known:
            other = known[name]
            if other.target == entry.value:
                continue
            problem = (
                f"{source} registers {name!r} as {entry.value}, but {other.source} means "
                f"{other.target}; uninstall one, or set MINIGRAD_NO_PLUGINS=1"
            )
            if name in BUILTIN:  # the built-in one stays usable
                name = f"{name} ({source})"
        known[name] = Known(entry.value, source, problem)
    return known


_instances: dict[str, Backend] = {}
_lock = threading.RLock()
_at_first_use: list[Callable[[], None]] = []
_begun = False


def at_first_use(call: Callable[[], None]) -> None:
    """Have call() run when the first backend is resolved, which is when the environment is read."""
    _at_first_use.append(call)


def _begin() -> None:
    global _begun
    check_environment()
    for call in _at_first_use:
        call()
    _begun = True


def resolve(spec: str | Backend, origin: str = "the call") -> Backend:
    """The one instance for `name[:device]`, `module://package.module:attribute` or `auto`.

    `module://` imports, and so runs, whatever it names. origin says where the spec came from.
    Raises UnknownBackendError and BackendUnavailableError; never falls back to another backend.
    """
    if not _begun:
        _begin()
    if not isinstance(spec, str):
        return _checked(spec, f"{origin}: {spec!r}")
    text = "".join(spec.split())
    if text[:9].lower() != "module://":  # a module path keeps its capitals
        text = text.lower()
    if text not in _instances:
        with _lock:
            if text not in _instances:
                _instances[text] = _automatic() if text == "auto" else _create(text, origin)
    return _instances[text]


def _create(text: str, origin: str) -> Backend:
    name, device, target = _parsed(text, origin)
    try:
        made = _load(target, device)
    # A plug-in's code may fail in any way; all of them mean that it cannot be used here.
    except Exception as error:
        others = ", ".join(_usable(but=text)) or "none"
        raise BackendUnavailableError(
            f"{origin} asks for the backend {name!r}, which cannot be used here: "
            f"{reason(error)}.{_advice(name, target, error)} Usable here: {others}."
        ) from error
    for other in _instances.values():  # `cupy` and `cupy:0`: one device, one backend
        if type(other) is type(made) and other.name == made.name:
            return other
    return made


def _parsed(text: str, origin: str) -> tuple[str, str | None, str]:
    if text[:9].lower() == "module://":
        module, _, attribute = text[9:].partition(":")
        if all(part.isidentifier() for part in f"{module}.{attribute}".split(".")):
            return text, None, text[9:]
        raise UnknownBackendError(f"{origin}: {text!r}; write module://package.module:attribute")
    name, _, device = text.partition(":")
    if name in BUILTIN:  # without a look at the entry points, which takes a while
        return name, device or None, BUILTIN[name]
    if name == "auto":
        raise UnknownBackendError(f"{origin}: auto chooses by itself and takes no device")
    known = registry()
    if name not in known:
        close = difflib.get_close_matches(name, [*known, "auto"], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownBackendError(
            f"{origin}: unknown backend {name!r}.{hint} Known: {', '.join(known)}, auto."
        )
    if known[name].problem:
        raise UnknownBackendError(f"{origin}: {known[name].problem}")
    return name, device or None, known[name].target


def _load(target: str, device: str | None = None) -> Backend:
    module, _, attribute = target.partition(":")
    factory = operator.attrgetter(attribute)(importlib.import_module(module))
    return _checked(factory(device=device), target)


def _checked(backend: Backend, target: str) -> Backend:
    required = ("name", "api", "xp", "asarray", "to_numpy", "scatter_add")
    missing = [name for name in required if not hasattr(backend, name)]
    if missing:
        raise BackendUnavailableError(f"{target} is not a backend: it lacks {', '.join(missing)}")
    if backend.api != API:
        raise BackendUnavailableError(
            f"{target} speaks version {backend.api} of the backend contract; this minigrad, {API}"
        )
    try:
        hash(backend)
    except TypeError as error:
        raise BackendUnavailableError(
            f"{target} is not a backend: {error}, and it must be a key; a dataclass needs eq=False"
        ) from error
    return backend


def reason(error: BaseException) -> str:
    """An error in one line: its class, where that says something, and its words."""
    words = " ".join(str(error).split()).rstrip(".")
    return (
        words if isinstance(error, BackendUnavailableError) else f"{type(error).__name__}: {words}"
    )


def _advice(name: str, target: str, error: Exception) -> str:
    module = target.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and error.name == module and name in BUILTIN:
        return " Install minigrad-rnn, or put its folder backends on PYTHONPATH."
    if isinstance(error, ImportError) and name in INSTALL:
        return f" Install: {INSTALL[name]}."
    return ""


def _usable(but: str) -> Iterator[str]:
    """The built-in backends that run here; imports those alone whose library is installed."""
    for name, target in BUILTIN.items():
        if name != but and name not in _instances and importlib.util.find_spec(name):
            try:
                _instances[name] = _load(target)
            except Exception:
                continue
        if name != but and name in _instances:
            yield name


def self_test(backend: Backend) -> None:
    """Allocate, multiply, run one kernel, scatter, copy back; raises what does not work."""
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    own = backend.asarray(a)
    index = (backend.asarray(np.array([1, 1])),)
    results = {
        "matmul": (backend.xp.matmul(own, own.T), a @ a.T),
        "scatter_add": (backend.scatter_add(own + 0, index, own), a + [[0], [1]] * a.sum(axis=0)),
    }
    for name, meaning in (("tanh", np.tanh), ("exp", np.exp)):
        if name in getattr(backend, "kernels", {}):
            results[name] = backend.kernels[name](own), meaning(a)  # type: ignore[attr-defined]
    for name, (found, wanted) in results.items():
        if not np.allclose(backend.to_numpy(found), wanted, rtol=1e-5):
            raise BackendUnavailableError(f"self-test: {name} gives wrong numbers")


def _automatic() -> Backend:
    refused = []
    for name in ("cupy", "numba", "numpy"):
        try:
            backend = _instances.get(name) or _load(BUILTIN[name])
            self_test(backend)
        except Exception as error:
            refused.append(f"{name}: {reason(error)}")
            continue
        why = f" ({'; '.join(refused)})" if refused else ""
        _say(f"backend auto: using {name}{why}")
        return _instances.setdefault(name, backend)
    raise BackendUnavailableError(f"auto: no backend can be used here: {'; '.join(refused)}")


def _say(what: str) -> None:
    import logging  # late, for it takes as long to import as the engine does

    logging.getLogger("minigrad").warning(what)


class Choice(NamedTuple):
    """A backend, the words that say why it was chosen, and the choice outside its scope."""

    backend: Backend
    origin: str
    outer: Choice | None = None


_scoped: ContextVar[Choice | None] = ContextVar("minigrad_backend", default=None)
_process: Choice | None = None
_seen_environment = ""


def current() -> Backend:
    """The backend of new tensors: of the innermost scope, of set_backend or the environment."""
    return selection().backend


def selection() -> Choice:
    """The current backend and why it was chosen; reads MINIGRAD_BACKEND when first asked."""
    global _process, _seen_environment
    scoped = _scoped.get()
    if scoped is not None:
        return scoped
    variable = os.environ.get("MINIGRAD_BACKEND", "")
    with _lock:
        if _process is None:
            spec = variable.strip()
            origin = f"MINIGRAD_BACKEND={spec}" if spec else "the default"
            _process = Choice(resolve(spec or "numpy", origin), origin)
            _seen_environment = variable
        elif variable != _seen_environment:
            _seen_environment = variable
            warnings.warn(
                f"MINIGRAD_BACKEND={variable} comes too late: tensors live on "
                f"{_process.backend.name!r} already; call minigrad.set_backend({variable!r})",
                stacklevel=users_level(),
            )
        return _process


def set_backend(spec: str | Backend) -> None:
    """Choose the process-wide backend of new tensors; existing tensors keep theirs."""
    global _process, _seen_environment
    chosen = Choice(resolve(spec, "set_backend"), f"set_backend({spec!r})")
    if _process is not None and _process.backend is not chosen.backend:
        old, new = _process.backend.name, chosen.backend.name
        _say(f"new tensors live on {new!r}; those there are stay on {old!r} until .to({new!r})")
    _process = chosen
    _seen_environment = os.environ.get("MINIGRAD_BACKEND", "")


class use_backend(ContextDecorator):
    """`with use_backend("numba"):` (or as a decorator): new tensors inside live on that backend."""

    def __init__(self, spec: str | Backend) -> None:
        self.backend = resolve(spec, "use_backend")
        self.origin = f"use_backend({spec!r})"

    def __enter__(self) -> Backend:
        # The way back is in the context itself, so that threads and tasks may share one object.
        _scoped.set(Choice(self.backend, self.origin, _scoped.get()))
        return self.backend

    def __exit__(self, *error: object) -> None:
        inner = _scoped.get()
        _scoped.set(inner and inner.outer)

    def __call__(self, function: Call) -> Call:
        return within(lambda: self, function, "use_backend")


def within(scope: Callable[[], AbstractContextManager[Any]], function: Call, name: str) -> Call:
    """function, each call within a scope of its own.

    Refuses a generator function, whose body would run after the scope has ended.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{name} cannot decorate the generator function {function.__name__!r}: its body runs "
            f"after the scope has ended; write `with {name}(...)` inside it"
        )

    @functools.wraps(function)
    def scoped(*args: Any, **kwargs: Any) -> Any:
        with scope():
            return function(*args, **kwargs)

    return cast(Call, scoped)


def check_environment(environment: Mapping[str, str] | None = None) -> None:
    """Warn about every MINIGRAD_* variable that nothing reads, with the nearest known name."""
    known = [name.removeprefix("MINIGRAD_") for name in ENVIRONMENT]
    for name in os.environ if environment is None else environment:
        if name.startswith("MINIGRAD_") and name not in ENVIRONMENT:
            close = difflib.get_close_matches(name.removeprefix("MINIGRAD_"), known, n=1)
            hint = f"; did you mean MINIGRAD_{close[0]}?" if close else ""
            warnings.warn(f"unknown environment variable {name}{hint}", stacklevel=users_level())


def users_level() -> int:
    """The stacklevel at which a warning of the function that asks names the user's own line."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("minigrad"):
        frame, level = frame.f_back, level + 1
    return level

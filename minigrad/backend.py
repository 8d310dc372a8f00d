"""The contract of a backend, and how one is chosen: environment, call, scope or argument."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

from minigrad.errors import BackendUnavailableError, UnknownBackendError

API = 1
BUILTIN = {
    "numpy": "minigrad_numpy:backend",
    "numba": "minigrad_numba:backend",
    "cupy": "minigrad_cupy:backend",
}
INSTALL = {
    "numba": 'pip install "minigrad-rnn[numba]"',
    "cupy": 'pip install "minigrad-rnn[cuda13]"',
}
ENVIRONMENT = (
    "MINIGRAD_BACKEND",
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


def registry() -> dict[str, tuple[str, str]]:
    """All known backends: name -> (target `module:attr`, source)."""
    known = {name: (target, "built in") for name, target in BUILTIN.items()}
    if os.environ.get("MINIGRAD_NO_PLUGINS", "") not in ("", "0"):
        return known
    from importlib.metadata import entry_points

    for entry in entry_points(group="minigrad.backends"):
        name = entry.name.lower()
        source = f"plug-in {entry.dist.name}" if entry.dist else "plug-in"
        if not entry.name.isidentifier():
            raise UnknownBackendError(
                f"{source} registers the backend name {entry.name!r}: not an identifier"
            )
        if name in known and known[name][0] != entry.value:
            raise UnknownBackendError(
                f"{source} registers the backend {name!r} as {entry.value}, but {known[name][1]} "
                f"already means {known[name][0]}; uninstall one, or set MINIGRAD_NO_PLUGINS=1"
            )
        known.setdefault(name, (entry.value, source))
    return known


_instances: dict[str, Backend] = {}
_lock = threading.RLock()


def resolve(spec: str | Backend, origin: str = "the call") -> Backend:
    """The one instance for `name[:device]`, `module://package.module:attr` or `auto`.

    Raises UnknownBackendError and BackendUnavailableError; origin says where the spec came from.
    """
    if not isinstance(spec, str):
        return _checked(spec, repr(spec))
    text = spec.strip()
    if not text.startswith("module://"):  # a module path keeps its capitals
        text = text.lower()
    with _lock:
        if text not in _instances:
            _instances[text] = _automatic() if text == "auto" else _create(text, origin)
        return _instances[text]


def _create(text: str, origin: str) -> Backend:
    if text.startswith("module://"):
        name, device, target = text, None, text.removeprefix("module://")
        if target.count(":") != 1:
            raise UnknownBackendError(
                f"{origin} is {text!r}: write module://package.module:attribute"
            )
    else:
        name, _, device = text.partition(":")
        known = registry()
        if name not in known:
            close = difflib.get_close_matches(name, [*known, "auto"], n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UnknownBackendError(
                f"{origin}: unknown backend {name!r}.{hint} Known: {', '.join(known)}, auto."
            )
        target = known[name][0]
    module, _, attribute = target.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
        return _checked(factory(device=device or None), target)
    except BackendUnavailableError as error:
        raise BackendUnavailableError(_unavailable(name, origin, str(error))) from error
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BackendUnavailableError(_unavailable(name, origin, reason)) from error


def _unavailable(name: str, origin: str, reason: str) -> str:
    install = f" Install: {INSTALL[name]}." if name in INSTALL else ""
    return (
        f"{origin} asks for the backend {name!r}, which cannot be used here: {reason}.{install} "
        f"Usable here: {', '.join(_usable(but=name))}."
    )


def _usable(but: str) -> Iterator[str]:
    for name in BUILTIN:
        if name != but:
            try:
                resolve(name)
                yield name
            except (BackendUnavailableError, RecursionError):
                continue


def _checked(backend: Backend, target: str) -> Backend:
    required = ("name", "api", "xp", "asarray", "to_numpy", "scatter_add")
    missing = [name for name in required if not hasattr(backend, name)]
    if missing:
        raise BackendUnavailableError(f"{target} is not a backend: it lacks {', '.join(missing)}")
    if backend.api != API:
        raise BackendUnavailableError(
            f"{target} speaks version {backend.api} of the backend contract, this minigrad speaks {API}"
        )
    return backend


def _automatic() -> Backend:
    for name in ("cupy", "numba", "numpy"):
        try:
            backend = resolve(name, "auto")
        except BackendUnavailableError:
            continue
        logging.getLogger("minigrad").warning("backend auto: using %s", name)
        return backend
    raise BackendUnavailableError("auto found no usable backend, not even numpy")


_scoped: ContextVar[tuple[Backend, str] | None] = ContextVar("minigrad_backend", default=None)
_process: tuple[Backend, str] | None = None
_seen_environment: str | None = None


def current() -> Backend:
    """The backend that new tensors take: the innermost scope, else set_backend's, else the environment's."""
    return selection()[0]


def selection() -> tuple[Backend, str]:
    """The current backend and the words that say why it was chosen."""
    global _process, _seen_environment
    scoped = _scoped.get()
    if scoped is not None:
        return scoped
    variable = os.environ.get("MINIGRAD_BACKEND", "")
    if _process is None:
        check_environment()
        with _lock:
            spec = variable.strip()
            origin = f"MINIGRAD_BACKEND={variable}" if spec else "the default"
            _process = (resolve(spec or "numpy", origin), origin)
            _seen_environment = variable
    elif _seen_environment is not None and variable != _seen_environment:
        _seen_environment = variable
        warnings.warn(
            f"MINIGRAD_BACKEND changed to {variable!r} after the first tensor was made on "
            f"{_process[0].name!r}; call minigrad.set_backend to switch",
            stacklevel=4,
        )
    return _process


def set_backend(spec: str | Backend) -> None:
    """Choose the process-wide backend of new tensors; existing tensors keep theirs."""
    global _process, _seen_environment
    _process = (resolve(spec, "set_backend"), f"set_backend({spec!r})")
    _seen_environment = os.environ.get("MINIGRAD_BACKEND", "")


class use_backend(ContextDecorator):
    """`with use_backend("numba"):` (or as a decorator): new tensors inside live on that backend."""

    def __init__(self, spec: str | Backend) -> None:
        self.backend = resolve(spec, "use_backend")
        self.origin = f"use_backend({spec!r})"
        self._tokens: list[Token[tuple[Backend, str] | None]] = []

    def __enter__(self) -> Backend:
        self._tokens.append(_scoped.set((self.backend, self.origin)))
        return self.backend

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _scoped.reset(self._tokens.pop())

    def __call__(self, function: Call) -> Call:
        refuse_generators(function, "use_backend")
        spec = self.backend

        @functools.wraps(function)
        def scoped(*args: Any, **kwargs: Any) -> Any:
            with use_backend(
                spec
            ):  # a scope of its own: the decorated function may recurse or run in threads
                return function(*args, **kwargs)

        return scoped  # type: ignore[return-value]


def refuse_generators(function: Callable[..., Any], scope: str) -> None:
    """A generator would run its body outside the scope that decorates it: refuse it by name."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{scope} cannot decorate the generator function {function.__name__!r}: its body runs "
            f"after the scope has ended; write `with {scope}(...)` inside it"
        )


def check_environment(environment: Mapping[str, str] | None = None) -> None:
    """Warn about every MINIGRAD_* variable that nothing reads, with the nearest name that something does."""
    for name in os.environ if environment is None else environment:
        if name.startswith("MINIGRAD_") and name not in ENVIRONMENT:
            close = difflib.get_close_matches(name, ENVIRONMENT, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            warnings.warn(f"unknown environment variable {name}{hint}", stacklevel=5)

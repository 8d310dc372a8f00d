"""Native code from LLVM IR, kept on disk: an object file is checked before LLVM reads it."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite
from llvmlite import binding, ir
from numba.core.compiler_lock import global_compiler_lock

from .. import disk
from . import target

LEVEL = 3  # of LLVM's optimisation of programs; at 0 they compile six times as fast
DIGEST = hashlib.sha256().digest_size  # bytes at the start of a file, of what follows them


@dataclass
class Counters:
    """What this process has compiled and loaded, and the seconds that took."""

    compiled: int = 0
    loaded: int = 0
    compile_seconds: float = 0.0
    load_seconds: float = 0.0


counters = Counters()
_libraries: dict[str, Library] = {}


class Library:
    """Machine code in memory; it stays there as long as this object or one of its functions."""

    def __init__(self, code: bytes) -> None:
        machine = target.host().machine(jit=True)
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        self._engine.add_object_file(binding.ObjectFileRef.from_data(code))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a function starts; KeyError if there is none of that name."""
        found: int = self._engine.get_function_address(name)
        if not found:
            raise KeyError(f"the library has no function {name!r}")
        return found

    def function(self, name: str, signature: Any) -> Any:
        """A function for Python to call, without the GIL; signature: a ctypes.CFUNCTYPE."""
        function = signature(self.address(name))
        function.code = self
        return function


def compile(module: ir.Module | str) -> Library:
    """The machine code of a module for this processor: made once in a process, or read from disk.

    Functions that it declares are looked up in the process and in binding.add_symbol's names.
    """
    text = str(module)
    return find(text, lambda: text, LEVEL)


def find(key: str, build: Callable[[], ir.Module | str], level: int = 3) -> Library:
    """The machine code of the module that `build` makes; equal keys mean equal modules."""
    digest = hashlib.sha256(f"{_surroundings()}\n{level}\n{key}".encode()).hexdigest()
    with global_compiler_lock:  # which disk.py makes safe across fork
        if digest not in _libraries:
            _libraries[digest] = _load(digest) or _make(digest, build, level)
        return _libraries[digest]


@functools.cache
def _surroundings() -> str:
    """What the code of a module depends on besides its text."""
    host = target.host()
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    parts = (llvmlite.__version__, host.triple, host.cpu, host.features, sources.hexdigest())
    return "\n".join(parts)


def _file(digest: str) -> Path:
    folder = disk.prepared() / "native"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{digest}.object"


def _load(digest: str) -> Library | None:
    """A library from disk, or None; a file that is not what was written is deleted."""
    started = time.perf_counter()
    try:
        path = _file(digest)
        stored = path.read_bytes()
        if hashlib.sha256(stored[DIGEST:]).digest() != stored[:DIGEST]:
            path.unlink(missing_ok=True)
            return None
    except OSError:  # not there, or there is no folder: disk.describe() says why
        return None
    library = Library(stored[DIGEST:])
    counters.loaded += 1
    counters.load_seconds += time.perf_counter() - started
    return library


def _make(digest: str, build: Callable[[], ir.Module | str], level: int) -> Library:
    """Compile, and write the code to disk where that is possible."""
    started = time.perf_counter()
    disk.announcement.begin()
    try:
        machine = target.host().machine(True, level)
        code = machine.emit_object(target.optimise(build(), level=level))
        library = Library(code)
    finally:
        disk.announcement.end()
    counters.compiled += 1
    counters.compile_seconds += time.perf_counter() - started
    try:
        path = _file(digest)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(hashlib.sha256(code).digest() + code)
        temporary.replace(path)
    except OSError:  # a full disk, or there is no folder
        pass
    return library

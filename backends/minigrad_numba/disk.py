"""Compiled kernels on disk: Numba's own files, in a private folder, checked before they are read.

Numba's index and code files are pickles of machine code: a flipped byte can crash the process. So
every kernel has a folder, with the checksums of its files beside them; what does not fit them is
deleted and compiled anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching
from numba.core.compiler_lock import global_compiler_lock

CHECKSUMS = "checksums.json"
Function = Callable[..., Any]


def kernel(fastmath: set[str] | bool = False) -> Callable[[Function], Any]:
    """Decorate a kernel: compiled at its first call with new types, or loaded from disk.

    fastmath: LLVM's flags, of which only those are used that keep NaN and infinity as they are.
    """

    def compiled(function: Function) -> Any:
        options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
        dispatcher = numba.njit(**options)(function)
        dispatcher._cache = CheckedCache(function)
        return dispatcher

    return compiled


# A child forked while another thread compiles would wait for that thread's lock for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


# --- the folder ----------------------------------------------------------------------------------


def user_folder() -> Path:
    """MINIGRAD_CACHE_DIR, else minigrad's folder where this system keeps a user's caches."""
    chosen = os.environ.get("MINIGRAD_CACHE_DIR", "").strip()
    if chosen:
        return Path(chosen).expanduser().absolute()
    if os.name == "nt":
        local = os.environ.get("LOCALAPPDATA", "")
        return (Path(local) if local else Path.home() / "AppData/Local") / "minigrad/cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/minigrad"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "minigrad"


@functools.cache
def version() -> str:
    """A digest of what the machine code depends on; Numba's index adds the processor's features."""
    digest = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, sys.version):
        digest.update(part.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def prepared() -> Path:
    """The folder of this version's kernels, made if need be, that nobody else can write to.

    Raises OSError where there is no such folder.
    """
    try:
        base = user_folder()
    except RuntimeError as error:  # no home directory
        raise OSError(str(error)) from error
    folder = base / f"numba-{version()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid"):
        found = folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise PermissionError(f"{folder} belongs to, or can be written by, another user")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written")
    return folder


def describe() -> str:
    """Where compiled kernels are kept, or why they are not."""
    try:
        return f"compiled kernels are kept in {prepared()}"
    except OSError as error:
        return f"kernels are compiled anew in every process: {error}"


# --- the announcement ----------------------------------------------------------------------------


class Announcement:
    """Says once on stderr that kernels are being compiled, when that takes over a second in all."""

    def __init__(self, patience: float = 1.0) -> None:
        self.patience = patience
        self.started = 0.0
        self.made = False
        self.timer: threading.Timer | None = None

    def begin(self) -> None:
        self.end()
        if not self.made:
            self.started = time.monotonic()
            self.timer = threading.Timer(max(self.patience, 0.0), self.make)
            self.timer.daemon = True
            self.timer.start()

    def end(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
            self.patience -= time.monotonic() - self.started

    def make(self) -> None:
        self.made = True
        message = f"minigrad_numba: compiling kernels, a few seconds, once; {describe()}"
        print(message, file=sys.stderr, flush=True)


announcement = Announcement()


# --- one kernel's files --------------------------------------------------------------------------


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    def __init__(self, function: Function, folder: Path) -> None:
        self._py_file = function.__code__.co_filename
        self._folder = folder

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return version()

    def get_disambiguator(self) -> str:
        return ""

    @classmethod
    def from_function(cls, function: Function, file: str) -> None:
        return None


class _Files(caching.FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, in the folder that it is told."""

    def __init__(self, function: Function, folder: Path) -> None:
        def implementation(function: Function) -> Any:
            made = caching.CompileResultCacheImpl.__new__(caching.CompileResultCacheImpl)
            made._lineno = function.__code__.co_firstlineno
            made._locator = _Locator(function, folder)
            made._filename_base = function.__name__
            return made

        self._impl_class = implementation
        super().__init__(function)


class CheckedCache:
    """What a Numba dispatcher asks for compiled code: files read only if their checksums fit.

    Opened at first use, so that MINIGRAD_CACHE_DIR may be set after the import.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._files: _Files | None = None
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        return self._files.cache_path if self._files else None

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        if self._files:
            discard(Path(self._files.cache_path))

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = None
        try:
            if self._enabled and self._files is None:
                self._files = _Files(self._function, prepared() / self._function.__name__)
            if self._enabled and self._files is not None:
                folder = Path(self._files.cache_path)
                if not intact(folder):
                    discard(folder)
                found = self._files.load_overload(signature, target)
        except OSError:  # compile in memory
            self.disable()
        except Exception:  # written by another state of Numba than it says
            self.flush()
        if found is None:
            announcement.begin()
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        announcement.end()
        if not self._enabled or self._files is None:
            return
        folder = Path(self._files.cache_path)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._files.save_overload(signature, compiled)
            seal(folder)
        except OSError:  # a full disk, or the folder is gone
            self.disable()


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each of Numba's files in a folder."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.nb[ic]"))
    }


def seal(folder: Path) -> None:
    """Write the checksums of the files there are."""
    temporary = folder / f"{CHECKSUMS}.{os.getpid()}"
    temporary.write_text(json.dumps(checksums(folder)), encoding="ascii")
    temporary.replace(folder / CHECKSUMS)


def intact(folder: Path) -> bool:
    """Whether the files of a folder are those that were sealed; a folder not there is."""
    if not folder.exists():
        return True
    try:
        sealed = json.loads((folder / CHECKSUMS).read_text(encoding="ascii"))
        return bool(sealed == checksums(folder))
    except (OSError, ValueError):
        return False


def discard(folder: Path) -> None:
    """Delete a kernel's files."""
    shutil.rmtree(folder, ignore_errors=True)

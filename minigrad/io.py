"""Checkpoints: named tensors and JSON metadata in one file, written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import io
import itertools
import json
import math
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minigrad import arguments
from minigrad.backend import Backend
from minigrad.errors import CheckpointError, MinigradError
from minigrad.tensor import Tensor, check_dtype

FORMAT = 1
HEADER_LIMIT = 1 << 24  # bytes of names and shapes; a tensor takes about a hundred
ENTRY = "minigrad"  # the one metadata entry of a file, so that its bytes do not depend on an order
_NAME = re.compile(r"(?=.{1,1000}\Z)[\w-]+([./][\w-]+)*")  # no "..", no path from /
Arrays = dict[str, np.ndarray]


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    keep: int = 1,
) -> None:
    """Write a nest of dicts of tensors or arrays, and a dict of JSON values, to one file.

    Nested names are joined by dots: {"model": {"Wx": t}} gives "model.Wx". The suffix chooses the
    format: .safetensors or .npz. A kill, or a full disk, at any moment leaves the old file or the
    new one, with the permissions of the old. With keep > 1 the files before stay as name.1.suffix
    (the last), name.2.suffix ...
    Raises CheckpointError if a name (words joined by dots or slashes), a value or the disk does not
    allow it.
    """
    keep = arguments.size("keep", keep)
    target = Path(os.path.realpath(path))
    if not isinstance(tensors, Mapping):
        hint = "; pass its .state_dict()" * hasattr(tensors, "state_dict")
        _refuse(target, f"a {type(tensors).__name__} is no dict of tensors by name{hint}")
    arrays = {name: _host_copy(target, name, value) for name, value in _flat(target, tensors)}
    text = _encoded(target, dict(metadata or {}))
    content = _FORMATS[_suffix(target)][0](target, arrays, text)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        _sweep(target)
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        _write(temporary, content, mode)
        if os.environ.get("MINIGRAD_DEBUG"):
            _read_back(temporary, target, arrays)
        _rotate(target, keep)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        kept = "; the old file is intact" if target.exists() else ""
        raise CheckpointError(f"{path}: not saved: {error.strerror or error}{kept}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load(
    path: str | os.PathLike[str], backend: str | Backend | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, metadata) of a file that save, or another program, has written.

    Nothing in the file is executed, and no more memory is taken than a few times its size.
    Raises CheckpointError, with path and cause, for a file that is missing, damaged or hostile.
    """
    target = Path(path)
    arrays, metadata = _read(target, _suffix(target))
    return {name: Tensor(array, backend=backend) for name, array in arrays.items()}, metadata


def section(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors whose names start with `prefix.`, by the rest of their names."""
    start = f"{prefix}."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


# --- writing -------------------------------------------------------------------------------------


def _flat(path: Path, nest: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    seen = set()
    for key, value in nest.items():
        pairs = [(f"{prefix}{key}", value)]
        if isinstance(value, Mapping):
            pairs = list(_flat(path, value, f"{prefix}{key}."))
        for name, leaf in pairs:
            if name in seen:
                _refuse(path, f"two tensors are called {name!r}")
            seen.add(name)
            yield _checked_name(path, name), leaf


def _host_copy(path: Path, name: str, value: Any) -> np.ndarray:
    try:
        array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
        # Always a copy in C order: safetensors 0.8 writes other layouts wrongly, without a word.
        return np.array(array, dtype=check_dtype(array.dtype.newbyteorder("=")), order="C")
    except MinigradError as error:
        raise CheckpointError(f"{path}: tensor {name!r}: {error}") from error


def _encoded(path: Path, metadata: dict[str, Any]) -> str:
    try:
        return json.dumps({"format": FORMAT, "metadata": metadata}, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: metadata must be JSON values: {error}") from error


def _sweep(target: Path) -> None:
    """Remove what saves of this file that were killed an hour ago or more have left."""
    for old in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # another process's, that has just renamed it
            if time.time() - old.stat().st_mtime > 3600:
                old.unlink()


def _rotate(target: Path, keep: int) -> None:
    older = [target, *(target.with_suffix(f".{i}{target.suffix}") for i in range(1, keep))]
    for newer, place in reversed(list(itertools.pairwise(older))):
        if newer is not target:
            with contextlib.suppress(FileNotFoundError):  # none yet, or just moved by another
                os.replace(newer, place)
        elif newer.exists():  # target itself stays in place until the new one replaces it
            spare = target.with_name(f".{target.name}.{os.getpid()}-old.tmp")
            try:
                os.link(target, spare)
            except OSError:  # a file system without links
                import shutil

                shutil.copy2(target, spare)
            os.replace(spare, place)
            spare.unlink(missing_ok=True)  # still there if both were links to one file


def _write(path: Path, content: bytes, mode: int | None) -> None:
    """Write content to the disk; who may read it: as `mode` says, else as usual here."""
    # By handle: a Ctrl-C between an open() and its `with` leaves a file object that nobody closes.
    binary = getattr(os, "O_BINARY", 0)  # Windows
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | binary, 0o600 if mode else 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    if mode:
        os.chmod(path, mode)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened, and needs no sync
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read_back(temporary: Path, target: Path, arrays: Arrays) -> None:
    found, _ = _read(temporary, _suffix(target))
    for name, array in arrays.items():
        if found[name].dtype != array.dtype or found[name].tobytes() != array.tobytes():
            _refuse(target, f"not saved: tensor {name!r} reads back with other values")


# --- reading: every check comes before the memory it speaks of ------------------------------------


def _read(path: Path, suffix: str) -> tuple[Arrays, dict[str, Any]]:
    try:
        with open(path, "rb", opener=_open_regular) as file:
            arrays, text = _FORMATS[suffix][1](path, file.read())
        metadata = _decoded(path, text) if isinstance(text, str) else text
    except CheckpointError:
        raise
    # Readers of damaged bytes raise what they like; none of it is the caller's concern.
    except Exception as error:
        cause = (isinstance(error, OSError) and error.strerror) or str(error) or repr(error)
        raise CheckpointError(f"{path}: cannot be read: {' '.join(cause.split())}") from error
    for name, array in arrays.items():
        _checked_name(path, name)
        if array.dtype == bool and array.size and array.view(np.uint8).max() > 1:
            _refuse(path, f"tensor {name!r} holds a bool that is neither 0 nor 1")
    return arrays, metadata


def _open_regular(path: str, flags: int) -> int:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(0, "not a regular file")
    return os.open(path, flags)


def _decoded(path: Path, text: str) -> dict[str, Any]:
    entry = _json(path, text)
    if not isinstance(entry, dict) or not isinstance(entry.get("metadata"), dict):
        _refuse(path, "its metadata is not what minigrad writes")
    if entry.get("format") != FORMAT:
        _refuse(path, f"format {entry.get('format')!r}; this minigrad reads {FORMAT}")
    return entry["metadata"]  # type: ignore[no-any-return]


def _json(path: Path, text: str | bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            _refuse(path, "a name occurs twice")
        return found

    return json.loads(
        text,
        object_pairs_hook=once,
        parse_constant=lambda word: _refuse(path, f"{word} is no JSON number"),
    )


def _safetensors_of(path: Path, arrays: Arrays, text: str) -> bytes:
    import safetensors.numpy

    content = safetensors.numpy.save(arrays, {ENTRY: text})
    if _header_length(content) > HEADER_LIMIT:
        _refuse(path, f"names and metadata take more than {HEADER_LIMIT} bytes")
    return content


def _header_length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _read_safetensors(path: Path, content: bytes) -> tuple[Arrays, Any]:
    import safetensors.numpy

    length = _header_length(content)
    if not 2 <= length <= min(len(content) - 8, HEADER_LIMIT):
        _refuse(path, f"a header of {length} bytes in a file of {len(content)}")
    header = _json(path, content[8 : 8 + length])  # the library takes the last of equal names
    if not isinstance(header, dict):
        _refuse(path, "its header is no table of tensors")
    for name, entry in header.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if name != "__metadata__" and dtype not in _SAFETENSORS:
            _refuse(path, f"tensor {name!r} has dtype {dtype}; known: {' '.join(_SAFETENSORS)}")
    entries = header.get("__metadata__", {})
    return safetensors.numpy.load(content), entries.get(ENTRY, entries)


def _npz_of(path: Path, arrays: Arrays, text: str) -> bytes:
    import zipfile

    members = {**arrays, "__metadata__": np.frombuffer(text.encode(), np.uint8)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in members.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # of 1980: equal values give equal bytes
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


def _read_npz(path: Path, content: bytes) -> tuple[Arrays, Any]:
    import zipfile

    arrays: Arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            _refuse(path, "compressed members, whose size nothing bounds; use numpy.savez")
        if sum(m.file_size for m in members) > len(content):
            _refuse(path, "its members claim more bytes than the file has")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                _refuse(path, f"the name {name!r} occurs twice")
            arrays[name] = _array(path, name, archive.read(member))
    text = arrays.pop("__metadata__", None)
    return arrays, {} if text is None else text.tobytes().decode()


def _array(path: Path, name: str, content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        _refuse(path, f"tensor {name!r} has version {version} of NumPy's format")
    read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, columns, dtype = read(file)
    if dtype.hasobject:
        _refuse(path, f"tensor {name!r} holds Python objects, which are never unpickled")
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell() or min(shape, default=0) < 0:
        _refuse(path, f"tensor {name!r} of shape {shape} does not have its bytes")
    array = np.frombuffer(content, dtype, offset=file.tell())
    array = array.reshape(shape, order="F" if columns else "C")
    return array.astype(check_dtype(dtype.newbyteorder("=")))


_SAFETENSORS = ("F64", "F32", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
_FORMATS = {
    ".safetensors": (_safetensors_of, _read_safetensors),
    ".npz": (_npz_of, _read_npz),
}


def _suffix(path: Path) -> str:
    if path.suffix not in _FORMATS:
        _refuse(path, f"the name must end in {' or '.join(_FORMATS)}")
    return path.suffix


def _checked_name(path: Path, name: str) -> str:
    if not _NAME.fullmatch(name) or name == "__metadata__":
        _refuse(path, f"{name[:80]!r} is no name of a tensor: words joined by dots or slashes")
    return name


def _refuse(path: Path, why: str) -> NoReturn:
    raise CheckpointError(f"{path}: {why}")

"""What runs here: the known backends after a self-test, and the versions for a bug report."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minigrad.backend import Backend, reason, registry, resolve, selection, self_test
from minigrad.errors import MinigradError

DISTRIBUTION = "minigrad-rnn"


def show_backends() -> None:
    """Print one line per known backend (`*` marks the current one), then the versions in use."""
    print("\n".join([*backend_lines(), "", *version_lines()]))


def backend_lines() -> Iterator[str]:
    """Name, version, source, then devices and threads after a self-test, or why it is unusable."""
    current: Backend | None = None
    try:
        current, origin, _ = selection()
        chosen = f"* {current.name}, because of {origin}"
    except MinigradError as error:
        chosen = f"no current backend: {reason(error)}"
    listed = set()
    for name, known in registry().items():
        mark, version, status = " ", "-", known.problem or ""
        if not status:
            try:
                backend = resolve(name, "show_backends")
                mark = "*" if backend is current else " "
                listed.add(id(backend))
                version, status = str(getattr(backend, "version", "-")), _tested(backend)
            except MinigradError as error:
                status = f"unusable: {reason(error.__cause__ or error)}"
        yield f"{mark} {name:<10} {version:<10} {known.source:<18} {status}"
    if current is not None and id(current) not in listed:
        version = str(getattr(current, "version", "-"))
        yield f"* {current.name:<10} {version:<10} {'chosen by hand':<18} {_tested(current)}"
    yield chosen


def _tested(backend: Backend) -> str:
    try:
        self_test(backend)
    # Whatever a plug-in raises is what there is to say about it.
    except Exception as error:
        return f"unusable: {reason(error)}"
    facts = ["works"]
    for name in ("devices", "threads", "note"):
        value = getattr(backend, name, None)
        if value not in (None, "", ()):
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            facts.append(text if name == "note" else f"{name}: {text}")
    kernels = len(getattr(backend, "kernels", {}))
    return "; ".join([*facts, f"kernels: {kernels}"] if kernels else facts)


def version_lines() -> Iterator[str]:
    """Python, minigrad, NumPy and its BLAS, numba, cupy: without importing any of them."""
    from importlib import metadata  # here, because the import of minigrad is to be quick

    yield f"python    {platform.python_version()} on {platform.platform()}"
    place = Path(__file__).resolve().parent
    yield f"minigrad  {sys.modules['minigrad'].__version__} in {place}"
    for owner in metadata.packages_distributions().get("minigrad", ()):
        if metadata.distribution(owner).name.lower().replace("_", "-") != DISTRIBUTION:
            yield f"          another distribution, {owner!r}, provides a package minigrad too"
    yield f"numpy     {np.__version__}, {_blas()}"
    installed = {d.name.lower(): d.version for d in metadata.distributions() if d.name}
    for library in ("numba", "llvmlite", "scipy", "cupy"):
        found = [f"{n} {v}" for n, v in sorted(installed.items()) if n.startswith(library)]
        yield f"{library:<9} {', '.join(found) or 'not installed'}"


def _blas() -> str:
    """NumPy's BLAS library, for which processor it chose its kernels, and its threads."""
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name = f"{built.get('name')} {built.get('version')}"
    package = Path(np.__file__).parent
    linux, mac = package.parent.glob("numpy.libs/*openblas*"), package.glob(".dylibs/*openblas*")
    for path in sorted([*linux, *mac]):
        try:
            blas = ctypes.CDLL(str(path))
            core = blas.scipy_openblas_get_corename64_
        except (OSError, AttributeError):
            continue
        core.restype = ctypes.c_char_p
        return f"{name} for {core().decode()}, {blas.scipy_openblas_get_num_threads64_()} threads"
    return name

"""The `backend` fixture, hypothesis's settings, and the table of the lectures' clauses."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.lecture_table import LectureTable, whole_suite

# Tests collect garbage again and again: what lives as long as the run of the whole suite is spared
# that, libraries before minigrad is there, and what pytest knows of its tests once it does.
if "PYTEST_XDIST_WORKER" in os.environ:
    for library in ("scipy.special", "matplotlib.pyplot", "numba", "onnx", "torch"):
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.collect()
    gc.freeze()

FAKE_CUPY = "module://tests.fake_cupy:backend"
PROCESSES = 4  # each collects all tests and loads what they need: 1 GB, 15 s

# The same examples on every run and machine; the fixtures here are safe to reuse between examples.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("suite")


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@functools.cache
def why_unusable(backend: str) -> str:
    """Return why a backend cannot run on this machine, or "" where it can."""
    if backend == "numpy" or backend.startswith("module://"):
        return ""
    if importlib.util.find_spec(backend) is None:
        return f"{backend} is not installed"
    if backend == "cupy":
        import cupy

        if not cupy.is_available():
            return "cupy finds no GPU"
    return ""


@functools.cache
def usable_backends() -> tuple[str, ...]:
    """Return the names of the first-party backends that run on this machine."""
    return tuple(name for name in ("numpy", "numba", "cupy") if not why_unusable(name))


def pytest_collection_finish() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        from minigrad.graph import freeze

        gc.collect()
        freeze()


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", action="append", help="run on this backend, or spec, alone")
    parser.addoption("--lecture", action="append", help="run the proofs of this row, say E2, alone")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lecture(row, clause): proves a clause of lectures.toml")
    table = LectureTable(
        config, lambda: chosen_backends(config), Path(__file__).with_name("lectures.toml")
    )
    config.pluginmanager.register(table, "lecture-table")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Share a run of the whole suite among processes, where pytest-xdist is installed.

    `-n 0` keeps it in one. A test that stops for a debugger or prints needs the terminal itself.
    """
    option = config.option
    if getattr(option, "numprocesses", 0) is not None or not whole_suite(config):
        return
    if option.usepdb or option.capture == "no" or hasattr(config, "workerinput"):
        return
    option.numprocesses = min(PROCESSES, processors())
    for name in THREADS:  # of each process
        os.environ.setdefault(name, "1")


def chosen_backends(config: pytest.Config) -> tuple[str, ...]:
    """Return the backends to test: those that `--backend` names, else all usable ones."""
    chosen = config.getoption("backend") or usable_backends()
    for name in chosen:
        if reason := why_unusable(name):
            raise pytest.UsageError(f"--backend {name}: {reason}")
    return tuple(chosen)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.iter_markers("parametrize")
    own = any("backend" in str(mark.args[0]).replace(",", " ").split() for mark in marks)
    if own or "backend" not in metafunc.fixturenames:
        return
    names = chosen_backends(metafunc.config)
    long = metafunc.definition.get_closest_marker("long") is not None
    runs = [
        pytest.param(name, id=name, marks=[pytest.mark.slow] if long and name != names[0] else [])
        for name in names
    ]
    if not metafunc.config.getoption("backend") and "cupy" not in names and not long:
        # The CuPy backend, over a CuPy on the host, which takes its time. What stands on the
        # engine reaches a backend through the engine's ops alone, and those always run on it.
        marks = [pytest.mark.slow] if uses_networks(metafunc.module) else []
        runs.append(pytest.param(FAKE_CUPY, id="cupy-fake", marks=marks))
    metafunc.parametrize("backend", runs, indirect=True)


def uses_networks(module: types.ModuleType) -> bool:
    """Return whether a test file imports minigrad_rnn."""
    found = (getattr(value, "__module__", None) or value for value in vars(module).values())
    names = (getattr(value, "__name__", value) for value in found)
    return any(isinstance(name, str) and name.startswith("minigrad_rnn") for name in names)


@pytest.fixture(autouse=True, scope="session")
def unoptimised() -> Iterator[None]:
    """Native programs compile without LLVM's optimiser here, in a sixth of the time."""
    if importlib.util.find_spec("llvmlite") is None:
        yield
        return
    from minigrad_numba.emit import objects

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "LEVEL", 0)
        yield


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on each usable backend; its value is the backend's name."""
    import minigrad as mg

    with mg.use_backend(request.param):
        yield request.param

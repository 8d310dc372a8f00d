"""The contract of backends: kept by ours and by a third party's, and able to see a fault."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from tests import contract, fake_cupy

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "tests/plugin"


def test_every_usable_backend_keeps_the_contract(backend: str) -> None:
    assert contract.check(backend) == {}


def test_the_cupy_backend_keeps_the_contract_over_the_pretended_device() -> None:
    assert contract.check(fake_cupy.SPEC) == {}


# --- a third party's backend, found by its entry point -------------------------------------------


def installed(folder: Path) -> Path:
    """The plug-in as pip would have installed it: its package and the metadata of its pyproject."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(PLUGIN / "minigrad_tally", folder / "minigrad_tally")
    info = folder / f"minigrad_tally-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    entries = project["entry-points"]["minigrad.backends"]
    (info / "entry_points.txt").write_text(
        "\n".join(["[minigrad.backends]", *(f"{k} = {v}" for k, v in entries.items())])
    )
    return folder


def run(
    *arguments: str, path: Path | None = None, code: int = 0, **variables: str
) -> tuple[str, str]:
    paths = [str(ROOT), str(ROOT / "backends"), *([str(path)] if path else [])]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINIGRAD_")}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
        env={**kept, **threads, **variables, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_a_plugin_is_found_by_its_entry_point_and_keeps_the_contract(tmp_path: Path) -> None:
    said, _ = run("-m", "tests.contract", "tally", path=installed(tmp_path))
    assert said.splitlines() == [f"PASS  {title}" for title in contract.CLAUSES]


def test_a_plugin_serves_a_program_that_names_it_in_the_environment(tmp_path: Path) -> None:
    program = (
        "import minigrad as mg; x = mg.Tensor([1.0, 2.0], requires_grad=True); "
        "y = mg.sigmoid(x * 2).sum(); y.backward(); "
        "print(y.backend.name, y.item(), x.grad.tolist(), y.backend.counts['tanh'])"
    )
    folder = installed(tmp_path)
    said, _ = run("-c", program, path=folder, MINIGRAD_BACKEND="tally")
    name, value, *gradient, count = said.replace("[", "").replace("]", "").split()
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, 4.0])))
    assert (name, count) == ("tally", "1")  # its own kernel ran, once
    assert float(value) == pytest.approx(sigmoid.sum(), rel=1e-6)
    found = [float(part.strip(",")) for part in gradient]
    assert found == pytest.approx(2 * sigmoid * (1 - sigmoid), rel=1e-5)
    off = {"MINIGRAD_BACKEND": "tally", "MINIGRAD_NO_PLUGINS": "1"}
    _, error = run("-c", program, path=folder, code=1, **off)
    assert "MINIGRAD_BACKEND=tally: unknown backend 'tally'" in error


def test_a_plugin_is_found_without_being_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from minigrad.backend import registry; print(registry()['tally']); "
        "import minigrad as mg; mg.Tensor(1.0); print('minigrad_tally' in sys.modules)"
    )
    said, _ = run("-c", program, path=installed(tmp_path))
    assert "target='minigrad_tally:backend', source='plug-in minigrad-tally'" in said
    assert said.endswith("False\n")


def test_plugins_have_a_place_in_the_table_of_backends(tmp_path: Path) -> None:
    folder = installed(tmp_path)
    said, _ = run("-m", "minigrad", "backends", path=folder, MINIGRAD_BACKEND="Tally ")
    line = next(line for line in said.splitlines() if "tally" in line)
    assert " ".join(line.split()) == "* tally 0.1 plug-in minigrad-tally works; kernels: 1"
    assert "* tally, because of MINIGRAD_BACKEND=Tally" in said


def test_the_plugin_is_about_forty_lines() -> None:
    source = (PLUGIN / "minigrad_tally/__init__.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) <= 50


# --- the contract sees faults --------------------------------------------------------------------


def tally() -> Any:
    location = PLUGIN / "minigrad_tally/__init__.py"
    spec = importlib.util.spec_from_file_location("minigrad_tally", location)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.backend()


def last_wins(out: np.ndarray, index: Any, values: np.ndarray) -> np.ndarray:
    out[index] += values
    return out


FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "duplicates are lost": ("scatter_add", last_wins),
    "scatter_add forgets the result": ("scatter_add", lambda out, index, values: None),
    "asarray copies": ("asarray", lambda data, dtype=None: np.array(data, dtype)),
    "asarray ignores dtype": ("asarray", lambda data, dtype=None: np.asarray(data)),
    "asarray changes float64": ("asarray", lambda data, dtype=None: np.asarray(data, "float32")),
    "asarray makes a scalar an axis": (
        "asarray",
        lambda data, dtype=None: np.ascontiguousarray(data, dtype),
    ),
    "to_numpy gives a list": ("to_numpy", lambda array: array.tolist()),
    "to_numpy flattens": ("to_numpy", lambda array: array.reshape(-1)),
    "a kernel of nothing": ("kernels", {"no_such_op": np.exp}),
    "a wrong kernel": ("kernels", {"exp": np.expm1}),
    "a kernel that writes": ("kernels", {"exp": lambda x: np.exp(x, out=x)}),
    "no hash": ("__hash__", None),
    "another contract": ("api", 2),
    "no name": ("name", ""),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_breaks_a_clause(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tally()
    name, wrong = FAULTS[fault]
    faulty = type("Faulty", (type(backend),), {})
    if callable(wrong):
        wrong = staticmethod(wrong)
    setattr(faulty, name, wrong)
    backend.__class__ = faulty
    backend.__dict__.pop(name, None)
    monkeypatch.setattr(mg, "resolve", lambda spec: backend if spec != "numpy" else NUMPY)
    assert contract.check("tally")


def test_a_misspelt_kernel_is_told_the_nearest_op(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tally()
    backend.kernels = {"sigmoyd": np.tanh}
    monkeypatch.setattr(mg, "resolve", lambda spec: backend if spec != "numpy" else NUMPY)
    broken = contract.check("tally")["kernels are ops and leave their operands alone"]
    assert broken == "Broken: 'sigmoyd' is a kernel of no op; did you mean 'sigmoid'?"


def test_the_check_says_how_it_is_called() -> None:
    said, _ = run("-m", "tests.contract", "--help")
    assert said.startswith("usage: python -m tests.contract [-h] spec\n")
    assert run("-m", "tests.contract", code=2)[1].startswith("usage: ")
    assert (
        "unknown backend 'nunpy'. Did you mean 'numpy'?"
        in run("-m", "tests.contract", "nunpy", code=2)[1]
    )


NUMPY = mg.resolve("numpy")

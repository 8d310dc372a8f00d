"""The wheel: built without a warning, complete, and usable in an environment of its own.

Works without network: the build uses the setuptools of the running environment, and the clean
environment borrows numpy, tqdm and safetensors from it, and nothing else.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("minigrad", "minigrad_rnn", "backends", "tutorials")
REQUIRED = ("numpy", "tqdm", "safetensors")
WINDOWS = os.name == "nt"


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command that sees neither this checkout nor the settings of this test run."""
    own = ("PYTHON", "MINIGRAD_", "PIP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | {"PYTHONUTF8": "1"} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


def must_run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = run(*command, cwd=cwd, **variables)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_of_the_tree(target: Path) -> Path:
    """What a build reads, without what earlier builds and runs left behind."""
    target.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, target)
    for name in SHIPPED:
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    return target


def build_wheel(tree: Path) -> tuple[Path, str]:
    """The wheel, and everything the build printed."""
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = run(sys.executable, "-W", "default", "-c", code, tree / "dist", cwd=tree)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    (wheel,) = (tree / "dist").glob("*.whl")
    return wheel, printed


def warnings_in(printed: str) -> list[str]:
    """Lines that begin a warning: setuptools' own need not have the word, but all have a `!!`."""
    signs = ("warning", "defined outside of", "deprecat", "!!")
    return [line for line in printed.splitlines() if any(sign in line.lower() for sign in signs)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    wheel, printed = build_wheel(copy_of_the_tree(tmp_path_factory.mktemp("build") / "tree"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    return SimpleNamespace(wheel=wheel, printed=printed, names=names, metadata=text)


@pytest.fixture(scope="module")
def clean(built: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An environment that holds the wheel and, through a .pth file, what the wheel requires."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "venv", with_pip=False, symlinks=not WINDOWS)
    scripts = folder / "venv" / ("Scripts" if WINDOWS else "bin")
    python = scripts / ("python.exe" if WINDOWS else "python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(must_run(python, "-c", code, cwd=folder).strip())

    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for requirement in REQUIRED:
        distribution = importlib.metadata.distribution(requirement)
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        for top in tops:
            source = Path(str(distribution.locate_file(top)))
            if WINDOWS:
                (shutil.copytree if source.is_dir() else shutil.copy)(source, borrowed / top)
            else:
                (borrowed / top).symlink_to(source)
    (site / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")

    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    must_run(*pip, "install", "--quiet", "--no-index", "--no-deps", built.wheel, cwd=folder)
    command = scripts / ("minigrad-rnn.exe" if WINDOWS else "minigrad-rnn")
    return SimpleNamespace(folder=folder, python=python, command=command, site=site)


def in_clean(clean: SimpleNamespace, code: str) -> object:
    """What `code` prints as JSON in the clean environment; a warning there is an error."""
    printed = must_run(clean.python, "-W", "error", "-c", f"import json\n{code}", cwd=clean.folder)
    return json.loads(printed)


def test_the_build_prints_no_warning(built: SimpleNamespace) -> None:
    assert not warnings_in(built.printed), built.printed


def test_a_field_in_the_wrong_file_would_be_seen(tmp_path: Path) -> None:
    """The check above can fail: metadata in setup.cfg is what it is there to catch."""
    tree = copy_of_the_tree(tmp_path / "tree")
    config = (tree / "setup.cfg").read_text(encoding="utf-8")
    stray = "[metadata]\nauthor = Stray\n[options]\n"
    (tree / "setup.cfg").write_text(config.replace("[options]\n", stray, 1), encoding="utf-8")
    _, printed = build_wheel(tree)
    assert any("`authors` defined outside of" in line for line in warnings_in(printed)), printed


def test_the_wheel_carries_every_source_file(built: SimpleNamespace) -> None:
    expected = set()
    for folder, inside in (
        ("minigrad", "minigrad"),
        ("minigrad_rnn", "minigrad_rnn"),
        ("backends", ""),
        ("tutorials", "minigrad_rnn/tutorials"),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                expected.add((Path(inside) / path.relative_to(ROOT / folder)).as_posix())
    shipped = {name for name in built.names if ".dist-info/" not in name}
    assert shipped == expected
    assert {"minigrad/py.typed", "minigrad_rnn/py.typed", "minigrad/pictures/page.js"} <= shipped
    assert {name.split("/")[0] for name in shipped} == {
        "minigrad",
        "minigrad_rnn",
        "minigrad_numpy",
        "minigrad_numba",
        "minigrad_cupy",
    }
    assert any(name.startswith("minigrad_rnn/tutorials/01_") for name in shipped)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in built.names)


def test_the_metadata(built: SimpleNamespace) -> None:
    lines = built.metadata.splitlines()
    for line in (
        "Name: minigrad-rnn",
        "License-Expression: MIT",
        "License-File: LICENSE",
        "Requires-Python: >=3.11",
        "Requires-Dist: numpy>=2.0",
        "Requires-Dist: tqdm",
        "Requires-Dist: safetensors>=0.5",
    ):
        assert line in lines
    unconditional = [x for x in lines if x.startswith("Requires-Dist:") and "extra ==" not in x]
    assert len(unconditional) == len(REQUIRED)


def test_no_extra_that_a_user_installs_asks_for_an_oracle_or_two_cupys() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {
        "numba",
        "cuda12",
        "cuda13",
        "plots",
        "tutorials",
        "test",
        "oracles",
        "bench",
        "dev",
    }
    for extra, requirements in extras.items():
        text = " ".join(requirements)
        assert ("torch" in text) == (extra in ("oracles", "bench"))
        assert text.count("cupy") <= 1


def test_setup_cfg_says_which_packages_and_nothing_else() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert set(config.sections()) == {"options", "options.package_data"}
    assert set(config["options"]) == {"packages", "package_dir"}


def test_the_clean_environment_has_nothing_else(clean: SimpleNamespace) -> None:
    code = "import importlib.metadata as m\n"
    code += "print(json.dumps(sorted({d.name.lower() for d in m.distributions()})))"
    assert in_clean(clean, code) == sorted(["minigrad-rnn", *REQUIRED])


def test_the_installed_packages_import(clean: SimpleNamespace) -> None:
    code = """
import importlib, pathlib
found = {}
for name in ("minigrad", "minigrad_rnn", "minigrad_numpy", "minigrad_numba", "minigrad_cupy"):
    try:
        found[name] = str(pathlib.Path(importlib.import_module(name).__file__).parent.parent)
    except ModuleNotFoundError as error:
        found[name] = f"needs {error.name}"
print(json.dumps(found))
"""
    found = in_clean(clean, code)
    assert isinstance(found, dict)
    site = str(clean.site)
    assert [found[name] for name in ("minigrad", "minigrad_rnn", "minigrad_numpy")] == [site] * 3
    # The other two are there as well; at most the library that each wraps is missing here.
    assert found["minigrad_numba"] in (site, "needs numba")
    assert found["minigrad_cupy"] in (site, "needs cupy")


def test_importing_minigrad_loads_numpy_alone(clean: SimpleNamespace) -> None:
    code = """
import sys
before = set(sys.modules)
import minigrad
tops = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(tops - sys.stdlib_module_names)))
"""
    loaded = in_clean(clean, code)
    assert isinstance(loaded, list)
    assert "minigrad" in loaded and set(loaded) <= {"minigrad", "minigrad_numpy", "numpy"}


def test_the_entry_points_name_the_three_backends(clean: SimpleNamespace) -> None:
    code = """
from importlib.metadata import entry_points
points = {p.name: p.value for p in entry_points(group="minigrad.backends")}
print(json.dumps(points))
"""
    assert in_clean(clean, code) == {
        name: f"minigrad_{name}:backend" for name in ("numpy", "numba", "cupy")
    }


def test_the_installed_command_lists_the_tutorials(clean: SimpleNamespace) -> None:
    printed = must_run(clean.command, "tutorial", cwd=clean.folder, PYTHONWARNINGS="error")
    tutorials = sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py"))
    assert tutorials
    for path in tutorials:
        topic = path.stem[3:]
        numbered = f"{int(path.stem[:2])}" in printed
        assert numbered and (path.stem in printed or topic.replace("_", " ") in printed.lower())


def test_a_wrong_backend_is_one_clear_message_in_the_clean_environment(
    clean: SimpleNamespace,
) -> None:
    """Numba is not installed there: asking for it must say what to install."""
    code = "import minigrad as mg\nmg.Tensor([1.0])"
    done = run(clean.python, "-c", code, cwd=clean.folder, MINIGRAD_BACKEND="numba")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "BackendUnavailableError" in last and "pip install numba" in last

"""Choosing a backend: where the choice may come from, which one wins, and what each error says."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend as selection
from minigrad.backend import BUILTIN, check_environment, current, registry, resolve
from tests.test_contract import run

NUMPY = resolve("numpy")
NAME = "import minigrad as mg; print(mg.Tensor(1.0).backend.name)"
NEEDS_NUMBA = pytest.mark.skipif(
    "numba" not in [name for name in BUILTIN if selection.importlib.util.find_spec(name)],
    reason="numba is not installed",
)


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test finds, and leaves, a process that has not chosen a backend yet."""
    monkeypatch.setattr(selection, "_process", None)
    monkeypatch.setattr(selection, "_seen_environment", "")
    for name in [name for name in os.environ if name.startswith("MINIGRAD_")]:
        monkeypatch.delenv(name)
    yield


def made(name: str, **attributes: Any) -> Any:
    """A backend of NumPy's arrays under another name."""
    names = ("api", "xp", "asarray", "to_numpy", "scatter_add")
    return types.SimpleNamespace(name=name, **{n: getattr(NUMPY, n) for n in names} | attributes)


class Other:
    """A backend that can be a key, unlike a bare namespace."""

    def __init__(self, name: str) -> None:
        self.__dict__.update(vars(made(name)))


@dataclasses.dataclass
class Compared(Other):
    """A backend that is compared by its fields, as a dataclass is unless told otherwise."""

    name: str

    def __post_init__(self) -> None:
        Other.__init__(self, self.name)


# --- where the choice comes from -----------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "  ", "numpy", "NumPy", " numpy ", "numpy:cpu", "NUMPY:CPU"])
def test_values_of_the_variable_that_mean_numpy(value: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("MINIGRAD_BACKEND", value)
    assert current() is resolve("numpy")


@NEEDS_NUMBA
def test_the_variable_is_read_at_the_first_tensor_not_at_import() -> None:
    late = "import os, minigrad as mg; os.environ['MINIGRAD_BACKEND'] = 'numba'; "
    assert run("-c", late + "print(mg.Tensor(1.0).backend.name)")[0] == "numba\n"
    assert run("-c", NAME, MINIGRAD_BACKEND=" Numba")[0] == "numba\n"
    assert run("-c", NAME)[0] == "numpy\n"


def test_a_change_after_the_first_tensor_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mg.Tensor(1.0)
    monkeypatch.setenv("MINIGRAD_BACKEND", "numba")
    with pytest.warns(UserWarning, match="MINIGRAD_BACKEND=numba comes too late") as told:
        assert mg.Tensor(1.0).backend.name == "numpy"
    assert told[0].filename == __file__
    assert "minigrad.set_backend('numba')" in str(told[0].message)
    mg.Tensor(1.0)  # and not again


def test_scope_beats_call_beats_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIGRAD_BACKEND", "nonsense")
    one, two = Other("one"), Other("two")
    mg.set_backend(one)
    assert mg.Tensor(1.0).backend is one
    with mg.use_backend(two) as entered:
        assert entered is two
        assert mg.Tensor(1.0).backend is two
        assert mg.Tensor(1.0, backend="numpy").backend.name == "numpy"
        with mg.use_backend("numpy"):
            assert mg.zeros(1).backend.name == "numpy"
        assert mg.zeros(1).backend is two
    assert mg.zeros(1).backend is one


def test_results_stay_where_their_operands_are() -> None:
    with mg.use_backend(Other("two")):
        x = mg.Tensor([1.0, 2.0], requires_grad=True)
    y = (mg.exp(x) * 2).sum()
    y.backward()
    assert y.backend.name == "two"
    assert x.grad is not None and x.grad.backend.name == "two"


def test_a_second_choice_says_what_becomes_of_the_first(caplog: pytest.LogCaptureFixture) -> None:
    mg.Tensor(1.0)
    mg.set_backend("numpy")
    assert not caplog.messages
    mg.set_backend(Other("two"))
    assert caplog.messages == [
        "new tensors live on 'two'; those there are stay on 'numpy' until .to('two')"
    ]


def test_a_scope_ends_with_an_error() -> None:
    with pytest.raises(KeyError), mg.use_backend(Other("two")):
        raise KeyError
    assert current().name == "numpy"


def test_the_decorator_scopes_each_call() -> None:
    @mg.use_backend(Other("two"))
    def depth(n: int) -> list[str]:
        """Doc."""
        return [current().name] if n == 0 else [*depth(n - 1), current().name]

    assert depth(2) == ["two"] * 3
    assert depth.__doc__ == "Doc."
    assert current().name == "numpy"


def test_the_decorator_refuses_generators() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def asynchronous() -> Any:
        yield 1

    for function in (generator, asynchronous):
        with pytest.raises(TypeError, match=f"generator function '{function.__name__}'"):
            mg.use_backend("numpy")(function)


def test_threads_and_tasks_have_scopes_of_their_own() -> None:
    shared = mg.use_backend(Other("two"))
    seen: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def worker() -> None:
        with shared:
            inside.set()
            leave.wait(5)
            seen.append(current().name)
        seen.append(current().name)

    thread = threading.Thread(target=worker)
    thread.start()
    inside.wait(5)
    with shared:  # the same object, entered here while it is entered there
        leave.set()
        thread.join()
        assert current().name == "two"
    assert current().name == "numpy"
    assert seen == ["two", "numpy"]

    async def task(name: str) -> list[str]:
        with mg.use_backend(Other(name)):
            await asyncio.sleep(0.01)
            return [current().name]

    async def both() -> list[list[str]]:
        return await asyncio.gather(task("one"), task("two"))

    assert asyncio.run(both()) == [["one"], ["two"]]


def test_one_device_is_one_backend() -> None:
    assert resolve("numpy:cpu") is resolve("numpy") is resolve(resolve("numpy"))


def test_a_backend_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Home_Made.py").write_text(
        "from minigrad_numpy import NumpyBackend\n"
        "class Made(NumpyBackend):\n    name = 'made'\n"
        "class Shelf:\n    def backend(device=None):\n        return Made()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MINIGRAD_BACKEND", "Module://Home_Made:Shelf.backend")
    assert mg.Tensor(1.0).backend.name == "made"


def test_auto_takes_the_first_that_passes_its_self_test(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a library that is not there nor one that computes nonsense is chosen."""

    def load(target: str, device: str | None = None) -> Any:
        if "cupy" in target:
            raise ImportError("no module\nnamed cupy")
        wrong = {"scatter_add": lambda out, index, values: out} if "numba" in target else {}
        return made(target.partition(":")[0], **wrong)

    monkeypatch.setattr(selection, "_instances", {})
    monkeypatch.setattr(selection, "_load", load)
    for _ in range(2):
        assert resolve("auto").name == "minigrad_numpy"
    assert caplog.messages == [
        "backend auto: using numpy (cupy: ImportError: no module named cupy; "
        "numba: self-test: scatter_add gives wrong numbers)"
    ]


# --- errors: one line, where the value came from, what to do --------------------------------------


def message(kind: type[Exception], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_name_is_told_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    known = "Known: numpy, numba, cupy"
    monkeypatch.setenv("MINIGRAD_BACKEND", "nubma")
    monkeypatch.setenv("MINIGRAD_NO_PLUGINS", "1")
    words = "unknown backend 'nubma'. Did you mean 'numba'? Known: numpy, numba, cupy, auto."
    unknown = mg.UnknownBackendError
    assert message(unknown, lambda: mg.Tensor(1.0)) == f"MINIGRAD_BACKEND=nubma: {words}"
    assert message(unknown, lambda: mg.set_backend("nubma")) == f"set_backend: {words}"
    assert message(unknown, lambda: mg.use_backend("nubma")) == f"use_backend: {words}"
    assert message(unknown, lambda: mg.Tensor(1, backend="nubma")) == f"backend=: {words}"
    far = message(unknown, lambda: mg.set_backend("tensorflow"))
    assert far == f"set_backend: unknown backend 'tensorflow'. {known}, auto."
    assert issubclass(mg.UnknownBackendError, ValueError)


@pytest.mark.parametrize("spec", ["module://", "module://numpy", "module://a:b:c", "module://1:x"])
def test_a_module_spec_is_spelled_out(spec: str) -> None:
    words = message(mg.UnknownBackendError, lambda: mg.set_backend(spec))
    assert "write module://package.module:attribute" in words


def test_auto_has_no_device() -> None:
    assert "takes no device" in message(mg.UnknownBackendError, lambda: mg.set_backend("auto:1"))


def refusing(error: Exception) -> Callable[..., Any]:
    def load(target: str, device: str | None = None) -> Any:
        if "cupy" in target or "tally" in target:
            raise error
        return made(target.partition(":")[0])

    return load


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("No module named 'cupy'", name="cupy"),
            "ModuleNotFoundError: No module named 'cupy'. Install: pip install 'cupy-cuda13x[ctk]'",
        ),
        (
            RuntimeError("no driver\n   on this machine."),
            "RuntimeError: no driver on this machine. Usable here: numpy",
        ),
        (
            ModuleNotFoundError("No module named 'minigrad_cupy'", name="minigrad_cupy"),
            "Install minigrad-rnn, or put its folder backends on PYTHONPATH. Usable here: numpy",
        ),
        (TypeError("whatever a plug-in does"), "TypeError: whatever a plug-in does. Usable here:"),
    ],
)
def test_an_unusable_backend_is_told_with_the_reason_and_the_way_out(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_load", refusing(error))
    monkeypatch.setattr(selection, "_instances", {})
    monkeypatch.setenv("MINIGRAD_BACKEND", "cupy")
    said = message(mg.BackendUnavailableError, lambda: mg.Tensor(1.0))
    start = "MINIGRAD_BACKEND=cupy asks for the backend 'cupy', which cannot be used here: "
    assert said.startswith(start)
    assert words in said
    assert issubclass(mg.BackendUnavailableError, ImportError)


def test_an_explicit_request_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_load", refusing(RuntimeError("no")))
    monkeypatch.setattr(selection, "_instances", {})
    monkeypatch.setenv("MINIGRAD_BACKEND", "cupy")
    for _ in range(2):
        with pytest.raises(mg.BackendUnavailableError):
            mg.Tensor(1.0)


def test_what_is_no_backend_is_told() -> None:
    anything: Any = object()
    lacking = message(mg.BackendUnavailableError, lambda: mg.set_backend(anything))
    assert "is not a backend: it lacks name, api, xp" in lacking
    newer = message(mg.BackendUnavailableError, lambda: mg.set_backend(made("new", api=2)))
    assert "speaks version 2 of the backend contract; this minigrad, 1" in newer
    no_key = message(mg.BackendUnavailableError, lambda: mg.set_backend(Compared("numbers")))
    assert "unhashable type: 'Compared', and it must be a key; a dataclass needs eq=False" in no_key


def test_the_real_cupy_without_a_gpu() -> None:
    cupy = pytest.importorskip("cupy")
    if cupy.is_available():
        pytest.skip("there is a GPU")
    _, said = run("-c", NAME, code=1, MINIGRAD_BACKEND="cupy")
    last = said.strip().splitlines()[-1]
    assert "MINIGRAD_BACKEND=cupy asks for the backend 'cupy', which cannot be used here: " in last
    assert re.search(r"Usable here: numpy(, numba)?\.$", last)


# --- plug-ins -------------------------------------------------------------------------------------


def entries(folder: Path, **projects: str) -> Path:
    """Distributions of nothing but entry points, each line of which is a backend."""
    for project, lines in projects.items():
        info = folder / f"{project}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[minigrad.backends]\n{lines}\n")
    return folder


def test_plugins_may_not_shadow_or_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = entries(
        tmp_path, first="twin = first:backend\nNumPy = first:other", second="twin = second:backend"
    )
    monkeypatch.syspath_prepend(entries(folder, third="a-b = third:x\nauto = third:y"))
    assert resolve("numpy").name == "numpy"  # the built-in one stays what it is
    known = registry()
    assert known["numpy"] == (BUILTIN["numpy"], "built in", None)
    assert (
        "first:other, but built in means minigrad_numpy" in known["numpy (plug-in first)"].problem
    )
    assert "no name for a backend" in known["a-b"].problem
    assert "no name for a backend" in known["auto"].problem
    said = message(mg.UnknownBackendError, lambda: mg.set_backend("twin"))
    assert "plug-in second registers 'twin' as second:backend, but plug-in first means" in said
    assert "MINIGRAD_NO_PLUGINS=1" in said
    monkeypatch.setenv("MINIGRAD_NO_PLUGINS", "1")
    assert set(registry()) == set(BUILTIN)


def test_a_built_in_name_is_resolved_without_a_look_at_the_plugins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "registry", lambda: pytest.fail("looked"))
    monkeypatch.setattr(selection, "_instances", {})
    assert resolve("numpy").name == "numpy"


# --- the environment -----------------------------------------------------------------------------


def test_an_unknown_variable_is_told_with_the_nearest_name() -> None:
    with pytest.warns(UserWarning) as told:
        check_environment({"MINIGRAD_BACKENDS": "numpy", "MINIGRAD_XYZZY": "1", "PATH": ""})
    assert [str(w.message) for w in told] == [
        "unknown environment variable MINIGRAD_BACKENDS; did you mean MINIGRAD_BACKEND?",
        "unknown environment variable MINIGRAD_XYZZY",
    ]
    check_environment(dict.fromkeys(selection.ENVIRONMENT, ""))


def test_a_program_is_told_of_an_unknown_variable_once_at_its_own_line() -> None:
    _, said = run("-c", f"{NAME}; mg.Tensor(1.0)", MINIGRAD_BAKEND="numpy")
    assert said.count("MINIGRAD_BAKEND") == 1
    assert said.startswith("<string>:1: UserWarning: unknown environment variable MINIGRAD_BAKEND")


# --- what is shown -------------------------------------------------------------------------------


def test_the_table_of_backends() -> None:
    said, _ = run("-m", "minigrad", "backends")
    table, versions = said.split("\n\n")
    rows = {line[2:].split()[0]: line for line in table.splitlines()}
    assert rows["numpy"].split() == ["*", "numpy", np.__version__, "built", "in", "works"]
    assert set(rows) >= set(BUILTIN)
    assert "* numpy, because of the default" in table
    for line in table.splitlines():
        assert re.search(r"works|unusable: \w|because of", line), line
    for words in ("python ", f"minigrad  {mg.__version__}", f"numpy     {np.__version__}", "cupy "):
        assert words in versions


def test_the_table_says_why_there_is_no_current_backend() -> None:
    said, _ = run("-m", "minigrad", "backends", MINIGRAD_BACKEND="nubma")
    assert "no current backend: UnknownBackendError: MINIGRAD_BACKEND=nubma" in said


def test_the_table_shows_what_a_scope_has_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    with mg.use_backend(Other("two")):
        mg.show_backends()
    said = capsys.readouterr().out
    assert re.search(r"^\* two +- +chosen by hand +works$", said, re.MULTILINE)
    assert "because of use_backend(" in said


def test_the_table_names_another_distribution_called_minigrad(tmp_path: Path) -> None:
    info = tmp_path / "minigrad-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: minigrad\nVersion: 3\n")
    (info / "top_level.txt").write_text("minigrad\n")
    said, _ = run("-m", "minigrad", "backends", path=tmp_path)
    assert "another distribution, 'minigrad', provides a package minigrad too" in said


def test_the_command_line_helps() -> None:
    said, _ = run("-m", "minigrad", "--help")
    assert "backends" in said and "MINIGRAD_BACKEND" in said and "MINIGRAD_DEBUG" in said
    assert run("-m", "minigrad", "--version")[0] == f"minigrad {mg.__version__}\n"
    _, said = run("-m", "minigrad", "bakends", code=2)
    assert "invalid choice: 'bakends'" in said


# --- fork ----------------------------------------------------------------------------------------

FORK = """
import os, threading
import numpy as np
import minigrad as mg

def gradient():
    x = mg.Tensor(np.linspace(-1, 1, 60_000).reshape(200, 300), requires_grad=True)
    (mg.tanh(x @ x.T)).sum().backward()
    return x.grad.numpy().tobytes()

here = []
threads = [threading.Thread(target=lambda: here.append(gradient())) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.write(write, b"same" if gradient() == here[0] else b"other")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(os.read(read, 9).decode(), len(set(here)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_computes_the_same() -> None:
    assert run("-W", "ignore::DeprecationWarning", "-c", FORK)[0] == "same 1\n"

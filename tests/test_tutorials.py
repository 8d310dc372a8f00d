"""Every tutorial runs: as a script, in the terminal, as a notebook; and is built as promised."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minigrad_rnn import stepper
from minigrad_rnn.cli import main

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py"))
NUMBERS = [int(path.name[:2]) for path in FILES]
PROCESSOR_SECONDS = 8  # that a fast run may take on an idle machine; twice that fails
SECONDS = 120  # by the clock, on a machine that has other work
ON_NUMBA = (3, 6, 17)  # an op, a training, native code: by default


def environment(backend: str, tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MINIGRAD_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")]),
        "MPLBACKEND": "Agg",
        "MINIGRAD_BACKEND": backend,
        "MINIGRAD_TUTORIAL_FAST": "1",
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def run(*command: str, cwd: Path, backend: str) -> str:
    """What a tutorial's process printed; warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(backend, cwd),
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# A tutorial's own process: all before its answers, then its checks alone, as --check has them, then
# the answers; after that its time, and what the checks say to the answers and to wrong functions.
CONTRACT = """
import inspect, json, sys, time
from pathlib import Path
from minigrad_rnn import exercises

path = Path(sys.argv[1])
names, asked = exercises.exercises(path)
known = sorted(set(names))
answers = dict(names)
cell = exercises.stepper.cells(path.read_text(encoding="utf-8"))[-1]
exec(compile(exercises.stepper.parsed(cell, path), str(path), "exec"), answers)
seconds = time.process_time()

def said(check, answer):
    try:
        check(answer)
    except AssertionError as error:
        return str(error)

print(json.dumps({
    "known": known,
    "seconds": seconds,
    "exercises": [
        {
            "number": exercise.number,
            "name": exercise.name,
            "parameters": list(inspect.signature(answers[exercise.name]).parameters),
            "answer": said(exercise.check, answers[exercise.name]),
            "nothing": said(exercise.check, lambda *args: None),
        }
        for exercise in asked
    ],
}))
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_runs_and_its_checks_tell_answers_from_nothing(path: Path, tmp_path: Path) -> None:
    *printed, facts = run("-c", CONTRACT, str(path), cwd=tmp_path, backend="numpy").splitlines()
    found = json.loads(facts)
    assert printed[-1] == "exercises: 3 of 3"
    assert found["seconds"] < 2 * PROCESSOR_SECONDS
    last = [cell.source for cell in stepper.cells(path.read_text(encoding="utf-8")) if cell.prose]
    items = re.split(r"^\d\. ", last[-1].partition("## Exercises")[2], flags=re.MULTILINE)[1:]
    assert len(items) == 3, "three exercises, numbered"
    assert [exercise["number"] for exercise in found["exercises"]] == [1, 2, 3]
    for item, exercise in zip(items, found["exercises"], strict=True):
        name, number = exercise["name"], exercise["number"]
        asked = re.search(rf"`{name}\(([^`]*)\)`", item)
        assert asked, f"exercise {number} asks for `{name}(...)`"
        wanted = [part.split("=")[0].strip() for part in asked[1].split(",") if part.strip()]
        assert wanted == exercise["parameters"], f"exercise {number} and its answer differ"
        assert name not in found["known"], f"the tutorial gives {name} away"
        assert exercise["answer"] is None, f"check_{number} refuses the answer"
        assert exercise["nothing"], f"check_{number} has no hint against a function without result"


def on_numba() -> list[Any]:
    """The tutorials: those that run on Numba by default, and, marked slow, the others."""
    return [
        pytest.param(
            path, id=path.stem, marks=[] if int(path.name[:2]) in ON_NUMBA else pytest.mark.slow
        )
        for path in FILES
    ]


@pytest.mark.parametrize("path", on_numba())
def test_runs_as_a_script_on_numba(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    printed = run(str(path), cwd=tmp_path, backend="numba")
    assert printed.splitlines()[-1] == "exercises: 3 of 3"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_is_built_as_promised(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    cells = stepper.cells(source)
    assert cells[0].prose, "a tutorial opens with prose"
    opening = cells[0].source
    assert re.match(r"# \S", opening), "the first cell begins with a heading"
    for promise in ("You will ", "You need: ", "minutes", "belongs to"):
        assert promise in opening, f"the first cell says {promise!r}"
    assert cells[-2].prose and re.search(r"^## Exercises$", cells[-2].source, re.MULTILINE)
    assert not cells[-1].prose, "the last cell tests the exercises' answers"
    for cell in cells:
        if cell.prose:
            continue
        last = [line for line in cell.source.splitlines() if line.strip()][-1]
        shows = re.search(r"\b(print|assert|raise|gradcheck|show_backends)\b", cell.source)
        assert shows or not re.match(r"\s|\w+\s*=|import|from|def|class", last), (
            f"{path.name}:{cell.line}: this cell shows nothing"
        )


def test_code_of_a_tutorial_is_all_in_its_cells() -> None:
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        code = "\n".join(cell.source for cell in stepper.cells(source) if not cell.prose)
        for line in source.splitlines():
            if line.strip() and not line.startswith("#"):
                assert line in code


def test_cells_of_the_percent_format() -> None:
    source = "# %% [markdown]\n# # Title\n#\n# Text\n\n# %%\nx = 1\n\n# %%\n\n\nx + 1\n"
    found = stepper.cells(source)
    assert found == [
        stepper.Cell(True, "# Title\n\nText", 2),
        stepper.Cell(False, "x = 1", 7),
        stepper.Cell(False, "x + 1", 12),
    ]


def test_listing_names_every_tutorial(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tutorial"]) == 0
    out = capsys.readouterr().out
    for path in FILES:
        assert path.stem[3:].replace("_", " ") in out


def test_unknown_number_is_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tutorial", "99"]) == 2
    err = capsys.readouterr().err
    assert "there is no tutorial 99" in err and len(err.splitlines()) == 1


def test_terminal_steps_through_and_stops_at_q(tmp_path: Path) -> None:
    """Prose, then the cell, then Enter, then its value; q leaves without running more."""
    script = (
        "import sys; sys.stdin.isatty = lambda: True\n"
        "from minigrad_rnn.cli import main; sys.exit(main(['tutorial', '2']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n\nq\n",
        capture_output=True,
        text=True,
        env=environment("numpy", tmp_path),
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert (
        out.index("Tensors, broadcasting")
        < out.index("import minigrad as mg")
        < out.index("(2, 3) float32 numpy")
    )
    assert "TypeError:" in out and "Node(matmul" not in out


def test_the_answers_are_shown_when_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "01_short.py"
    path.write_text("# %%\nprint('one')\n\n# %% [markdown]\n# ## Exercises\n\n# %%\nprint(6 * 7)\n")
    asked: list[tuple[str, bool]] = []

    def answer(question: str) -> str:
        asked.append((question, "6 * 7" in capsys.readouterr().out))
        return next(replies)

    monkeypatch.setattr("builtins.input", answer)
    replies = iter(["", "", ""])
    assert stepper.step_through(path, wait=True) == 0
    runs, shows = "[Enter runs the cell, q leaves] ", "[Enter shows the answers, q leaves] "
    assert asked == [(runs, False), (shows, False), (runs, True)]
    assert capsys.readouterr().out == "42\n"
    replies = iter(["", "q"])
    assert stepper.step_through(path, wait=True) == 0
    assert "6 * 7" not in capsys.readouterr().out


def test_list_items_stay_apart_and_bold_is_bold_on_a_terminal_only() -> None:
    prose = "## Exercises\n\n1. Is **it\n   so**, `x**2 - y**2`?\n2. " + "word " * 30 + "\n3. End."
    lines = stepper.wrapped(prose).splitlines()
    assert lines[:3] == ["## Exercises", "", "1. Is it so, `x**2 - y**2`?"]
    assert lines[3].startswith("2. word") and lines[4].startswith("   word")
    assert lines[-1] == "3. End."
    assert "1. Is \033[1mit so\033[0m, `x**2 - y**2`?" in stepper.wrapped(prose, bold=True)


@pytest.mark.parametrize(
    ("latex", "shown"),
    [
        (r"\partial y/\partial a = b", "∂y/∂a = b"),
        (r"h^{(t)} = \tanh(w h^{(t-1)} + u x^{(t)})", "h⁽ᵗ⁾ = tanh(w h⁽ᵗ⁻¹⁾ + u x⁽ᵗ⁾)"),
        (r"L = -\sum_t \log \hat y^{(t)}_{y^{(t)}}", "L = -Σₜ log ŷ⁽ᵗ⁾_y⁽ᵗ⁾"),
        (r"\nabla_W L = \mathrm{diag}(1 - (h^{(t)})^2) (\nabla_{h^{(t)}} L) h^{(t-1)\top}",
         "∇_W L = diag(1 - (h⁽ᵗ⁾)²) (∇_h⁽ᵗ⁾ L) h⁽ᵗ⁻¹⁾ᵀ"),
        (r"P(y_1, \dots, y_T) = \prod_i P(y_i \mid y_{i-1})", "P(y₁, …, y_T) = Πᵢ P(yᵢ | yᵢ₋₁)"),
        (r"x \leftarrow a \cdot b < c", "x ← a · b < c"),
        (r"\Omega \neq \min(1, \Lambda^t) \odot i", "Ω ≠ min(1, Λᵗ) ⊙ i"),
        (r"h^{(t-d)}, \cos(k)^\gamma", "h⁽ᵗ⁻ᵈ⁾, cos(k)ᵞ"),
    ],
)  # fmt: skip
def test_formulas_are_readable(latex: str, shown: str) -> None:
    assert stepper.wrapped(f"${latex}$") == shown


def test_no_formula_of_a_tutorial_is_left_in_latex() -> None:
    for path in FILES:
        for cell in stepper.cells(path.read_text(encoding="utf-8")):
            if cell.prose:
                shown = re.sub(r"`[^`]*`", "", stepper.wrapped(cell.source))
                assert not re.search(r"\$|\\[a-zA-Z]|[{}^]", re.sub(r"(?m)^    .*", "", shown)), (
                    path
                )


def test_a_cell_that_raises_is_located(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "01_broken.py"
    path.write_text("# %% [markdown]\n# # T\n\n# %%\nx = 1\nx / 0\n")
    assert stepper.step_through(path, wait=False) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err and "line 5" in err


def test_last_expression_is_shown_and_pictures_are_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = tmp_path / "01_shown.py"
    path.write_text(
        "# %%\n1 + 1\n\n# %%\nNone\n\n# %%\nfrom minigrad.pictures import Box, Picture\n"
        "Picture({1: Box(('a',))}, [])\n"
    )
    assert stepper.step_through(path, wait=False) == 0
    out = capsys.readouterr().out
    assert "\n2\n" in out and "\nNone\n\n" not in out
    picture = re.search(r"\[picture: (.+)\]", out)
    assert picture and Path(picture[1]).read_text().startswith("<svg")


def test_notebook(tmp_path: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    target = tmp_path / "one.ipynb"
    assert main(["tutorial", "1", "--notebook", str(target)]) == 0
    notebook = jupytext.read(target)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and kinds.count("code") == sum(
        not cell.prose for cell in stepper.cells(FILES[0].read_text(encoding="utf-8"))
    )


@pytest.mark.parametrize(
    "number", [n if n == 5 else pytest.param(n, marks=pytest.mark.slow) for n in NUMBERS]
)
def test_runs_as_a_notebook(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    target = tmp_path / "tutorial.ipynb"
    assert main(["tutorial", str(number), "--notebook", str(target)]) == 0
    for name, value in environment("numpy", tmp_path).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(target, as_version=4)
    nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3").execute()
    pictures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/svg+xml" in output.get("data", {})
    ]
    assert pictures or number not in (1, 2, 5)


# --- exercises -----------------------------------------------------------------------------------

TUTORIAL = """\
# %% [markdown]
# # Short

# %%
import os

base = 10
print("loud", os.environ["MINIGRAD_TUTORIAL_FAST"])
base

# %% [markdown]
# ## Exercises
#
# 1. Write `add(a)`, the sum of `a` and `base`.
# 2. Write `double(a)`.
# 3. Write `triple(a)`.

# %%
raise SystemExit("the answers are not run")


def add(a):
    return a + base


def check_1(add):
    assert add(1) == 11, "add(1) is base and\\n one"


def check_2(double):
    assert double(4) == 8, "twice"


def check_3(triple):
    assert triple(4) == 12, "thrice"
"""


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tutorial 1 of three exercises, in a folder of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stepper, "folder", lambda: tmp_path)
    monkeypatch.delenv("MINIGRAD_TUTORIAL_FAST", raising=False)
    (tmp_path / "01_short.py").write_text(TUTORIAL)
    return tmp_path


RIGHT = "def add(a): return a + base\ndef double(a): return 2 * a\ndef triple(a): return 3 * a\n"


@pytest.mark.parametrize(
    ("written", "status", "printed"),
    [
        (RIGHT, 0, ["1. add: right", "2. double: right", "3. triple: right", "exercises: 3 of 3"]),
        (
            RIGHT.replace("a + base", "a").replace("3 *", "a /").replace("triple", "thrice"),
            1,
            [
                "1. add: wrong: add(1) is base and one",
                "2. double: right",
                "3. triple: not written yet: mine.py defines no triple",
                "exercises: 1 of 3",
            ],
        ),
        (
            "\ndef add(a):\n    return a + missing\nbase = 0\ndouble = 7\n"
            "def triple(a):\n    assert a < 1\n",
            1,
            [
                "1. add: wrong: mine.py, line 3: NameError: name 'missing' is not defined",
                "2. double: wrong: TypeError: 'int' object is not callable",
                "3. triple: wrong: mine.py, line 7: AssertionError",
                "exercises: 0 of 3",
            ],
        ),
        ("print(base)\ndef triple(a): raise SystemExit(3)", 1, [
            "10",
            "1. add: not written yet: mine.py defines no add",
            "2. double: not written yet: mine.py defines no double",
            "3. triple: wrong: mine.py, line 2: SystemExit: 3",
            "exercises: 0 of 3",
        ]),
    ],
)  # fmt: skip
def test_check_says_what_each_answer_is(
    short: Path, written: str, status: int, printed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (short / "mine.py").write_text(written)
    assert main(["tutorial", "1", "--check", "mine.py"]) == status
    out, err = capsys.readouterr()
    assert out.splitlines() == printed and err == ""
    assert "MINIGRAD_TUTORIAL_FAST" not in os.environ


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("x = 1\ndef add(a:\n", "./mine.py, line 2: '(' was never closed"),
        ("x = 1\n\n1 / 0\n", "./mine.py, line 3: ZeroDivisionError: division by zero"),
        ("def f():\n    raise SystemExit\nf()\n", "./mine.py, line 2: SystemExit"),
        ("", "mine.py is empty"),
        (None, "mine.py does not exist: check the path"),
    ],
)
def test_a_file_that_does_not_run_is_a_line(
    short: Path, written: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if written is not None:
        (short / "mine.py").write_text(written)
    assert main(["tutorial", "1", "--check", "./mine.py"]) == 2
    out, err = capsys.readouterr()
    assert message in err and len(err.splitlines()) == 1 and out == ""


@pytest.mark.parametrize(
    ("tutorial", "message"),
    [
        (TUTORIAL.replace("base = 10", "base = 1 / 0"), "the tutorial itself fails"),
        (TUTORIAL[: TUTORIAL.index("def check_1")], "01_short.py: its exercises have no checks"),
        ("", "01_short.py: its exercises have no checks"),
    ],
)
def test_a_tutorial_without_checks_is_a_line(
    short: Path, tutorial: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (short / "01_short.py").write_text(tutorial)
    (short / "mine.py").write_text(RIGHT)
    assert main(["tutorial", "1", "--check", "mine.py"]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


def test_check_needs_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tutorial", "--check", "mine.py"]) == 2
    assert "--check needs the number of a tutorial" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["tutorial", "1", "--check", "mine.py", "--notebook", "one.ipynb"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_checks_hold_when_python_drops_assertions(short: Path) -> None:
    (short / "mine.py").write_text("def add(a): return 0\n")
    script = (
        "import pathlib; from minigrad_rnn import stepper; stepper.folder = pathlib.Path\n"
        "from minigrad_rnn.cli import main; raise SystemExit(main(['tutorial', '1', '--check', "
        "'mine.py']))"
    )
    done = subprocess.run(
        [sys.executable, "-O", "-c", script],
        capture_output=True,
        text=True,
        env=environment("numpy", short),
        timeout=SECONDS,
    )
    assert done.returncode == 1 and "1. add: wrong" in done.stdout, done.stderr

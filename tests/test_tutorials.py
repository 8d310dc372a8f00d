"""Every tutorial runs: as a script, in the terminal, as a notebook; and is built as promised."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minigrad_rnn import stepper
from minigrad_rnn.cli import main

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py"))
NUMBERS = [int(path.name[:2]) for path in FILES]
SECONDS = 60  # far above the 8 s that a fast run may take on an idle machine


def environment(backend: str, tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MINIGRAD_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")]),
        "MPLBACKEND": "Agg",
        "MINIGRAD_BACKEND": backend,
        "MINIGRAD_TUTORIAL_FAST": "1",
        "TMPDIR": str(tmp_path),
    }


@pytest.mark.parametrize("named", ["numpy", "numba"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_runs_as_a_script(path: Path, named: str, tmp_path: Path) -> None:
    if named == "numba":
        pytest.importorskip("numba")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(named, tmp_path),
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_is_built_as_promised(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    cells = stepper.cells(source)
    assert cells[0].prose, "a tutorial opens with prose"
    opening = cells[0].source
    assert re.match(r"# \S", opening), "the first cell begins with a heading"
    for promise in ("You will ", "You need: ", "minutes", "belongs to"):
        assert promise in opening, f"the first cell says {promise!r}"
    assert any(cell.prose and "## Exercises" in cell.source for cell in cells[-3:])
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


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
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

"""The harness of sabotage.py on a small tree, then a few of its edits on this one."""

import pytest

from tests.lecture_table import read_clauses
from tests.sabotage import EDITS, ROOT, Edit, apply, check, row_files

CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--backend")
    parser.addoption("--lecture")

def pytest_configure(config):
    config.addinivalue_line("markers", "lecture(row, clause)")
"""
TEST = """
import pytest
import minigrad

@pytest.mark.lecture("X1", "doubles")
def test_double():
    assert minigrad.double(3) == 6
"""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "minigrad").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "minigrad/__init__.py").write_text("def double(x):\n    return x + x  # twice\n")
    (tmp_path / "tests/conftest.py").write_text(CONFTEST)
    (tmp_path / "tests/test_double.py").write_text(TEST)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    return tmp_path


def edit(old, new, row="X1"):
    return Edit(row, "minigrad/__init__.py", old, new, "a test")


def test_a_wrong_edit_is_caught_and_the_tree_is_untouched(tree):
    before = (tree / "minigrad/__init__.py").read_text()
    verdict = check(edit("x + x", "x * x"), tree)
    assert verdict.caught
    assert verdict.summary.startswith("1 failed")
    assert (tree / "minigrad/__init__.py").read_text() == before


def test_an_edit_that_nothing_notices_survives(tree):
    verdict = check(edit("x + x", "2 * x"), tree)
    assert not verdict.caught
    assert verdict.summary.startswith("1 passed")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("x - x", "x", "holds 0 times, not once"),
        ("x", "y", "holds 3 times, not once"),
        ("x + x", "x + x", "changes nothing"),
        ("x + x", "x +", "is no Python"),
    ],
)
def test_an_edit_must_fit(tree, old, new, message):
    with pytest.raises(ValueError, match=message):
        apply(edit(old, new), tree)


def test_tests_that_do_not_run_are_no_catch(tree):
    with pytest.raises(RuntimeError, match="no test marks this row"):
        check(edit("x + x", "x * x", row="X2"), tree)
    (tree / "tests/test_double.py").write_text(TEST.replace("import pytest", "import pytest, nil"))
    with pytest.raises(RuntimeError, match=r"did not run .exit code 2."):
        check(edit("x + x", "x * x"), tree)


# --- the edits of this tree ---


def test_every_row_that_is_due_is_sabotaged():
    due, clauses = read_clauses(ROOT / "tests/lectures.toml")
    assert {entry.row for entry in EDITS} >= {
        clause.row for clause in clauses.values() if clause.stage in due
    }


@pytest.mark.parametrize("entry", EDITS, ids=lambda entry: f"{entry.row}-{entry.path}")
def test_edits_fit_the_source(entry, tmp_path):
    path = tmp_path / entry.path
    path.parent.mkdir(parents=True)
    path.write_text((ROOT / entry.path).read_text("utf-8"), "utf-8")
    apply(entry, tmp_path)
    assert row_files(entry.row, ROOT)


QUICK = ("A5",)  # the others take minutes; tests/show/sabotage.py prints all


@pytest.mark.parametrize(
    "entry",
    [pytest.param(entry, marks=() if entry.row in QUICK else pytest.mark.slow) for entry in EDITS],
    ids=lambda entry: f"{entry.row}-{entry.path}",
)
def test_the_row_turns_red(entry):
    verdict = check(entry)
    assert verdict.caught, f"{entry.row}: {entry.what}: {verdict.summary}"

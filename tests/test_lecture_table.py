"""The table of clauses, on small suites whose outcome is known."""

from pathlib import Path

import pytest

from tests.conftest import why_unusable
from tests.lecture_table import STAGES, read_clauses

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import pytest
from pathlib import Path
from tests.lecture_table import LectureTable

def pytest_configure(config):
    config.addinivalue_line("markers", "lecture(row, clause)")
    config.addinivalue_line("markers", "slow")
    path = Path(config.rootpath, "lectures.toml")
    config.pluginmanager.register(LectureTable(config, lambda: ("one", "two"), path), "table")

@pytest.fixture(params=["one", "two"])
def backend(request):
    return request.param
"""
CLAUSES = """
stage = ["engine"]
[X1]
item = "a row"
slow = ["long"]
[X1.engine]
"short" = "is short"
"long" = "is long"
[X1.lectures]
"later" = "is due later"
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Write a suite of one module and return a function that runs it."""
    monkeypatch.delenv("MINIGRAD_BACKEND", raising=False)

    def run(body, *arguments, clauses=CLAUSES):
        pytester.makeconftest(CONFTEST)
        pytester.makefile(".toml", lectures=clauses)
        pytester.makeini("[pytest]\ntestpaths = .\naddopts = -m 'not slow' -p no:cacheprovider")
        pytester.makepyfile("import pytest\nlecture = pytest.mark.lecture\n" + body)
        return pytester.runpytest_inprocess(*arguments)

    return run


PROVEN = """
@lecture("X1", "short")
def test_short(backend): pass

@pytest.mark.slow
@lecture("X1", "long")
def test_long(backend): pass
"""


def test_a_proven_table_passes_and_lists_what_is_slow(suite):
    result = suite(PROVEN)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "row*clause*one*two",
            "X1 *short*passed*passed",
            "X1 *long*slow*slow",
            "*1 on one, 1 on two",
        ]
    )
    assert "later" not in result.stdout.str()


def test_what_several_processes_prove_comes_together(suite):
    pytest.importorskip("xdist")
    result = suite(PROVEN, "-n", "2")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["X1 *short*passed*passed", "*1 on one, 1 on two"])
    assert suite("def test_nothing(): pass", "-n", "2").ret != 0


def test_the_slow_run_demands_the_slow_clauses(suite):
    result = suite(PROVEN, "-m", "slow")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["X1 *short*not selected*", "X1 *long*passed*passed"])
    result = suite(PROVEN.replace("@pytest.mark.slow", ""), "-m", "slow")
    assert result.ret != 0
    assert suite(PROVEN, "-m", "").ret == 0


def test_a_long_proof_is_demanded_of_the_first_backend_and_by_the_slow_run_of_the_others(suite):
    clauses = CLAUSES.replace('slow = ["long"]', 'long = ["long"]')
    short = '@lecture("X1", "short")\ndef test_short(backend): pass\n'
    two = "pytest.param('two', marks=pytest.mark.slow)"
    proof = (
        f"@pytest.mark.parametrize('backend', ['one', {two}])\n"
        '@lecture("X1", "long")\ndef test_long(backend): pass\n'
    )
    result = suite(short + proof, clauses=clauses)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["X1 *long*passed*slow"])
    result = suite(short + proof, "-m", "slow", clauses=clauses)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["X1 *long*not selected*passed"])
    assert suite(short + proof.replace("'one', ", ""), clauses=clauses).ret != 0
    only_one = proof.replace(f", {two}", "")
    assert suite(short + only_one, clauses=clauses).ret == 0
    assert suite(short + only_one, "-m", "slow", clauses=clauses).ret != 0
    assert suite(short + only_one, "-m", "", clauses=clauses).ret != 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("def test_nothing(): pass", "missing"),
        ('@lecture("X1", "short")\ndef test_short(backend): pytest.skip()', "missing"),
        ('@lecture("X1", "short")\n@pytest.mark.xfail\ndef test_short(backend): 1 / 0', "missing"),
        ('@lecture("X1", "short")\n@pytest.mark.slow\ndef test_short(backend): pass', "missing"),
        (
            '@lecture("X1", "short")\ndef test_short(backend):\n'
            '    if backend == "two": pytest.skip()',
            "missing",
        ),
        ('@lecture("X1", "short", oracle=True)\ndef test_short(backend): pass', "oracle only"),
    ],
)
def test_a_clause_without_proof_fails_the_whole_suite(suite, body, status):
    result = suite(body)
    assert result.ret != 0
    result.stdout.fnmatch_lines([f"FAIL X1 'short' on two: {status} (is short)"])
    assert "FAIL X1 'long'" not in result.stdout.str()


@pytest.mark.parametrize(
    "body",
    [
        'import json as torch\n@lecture("X1", "short")\ndef test_a(backend): assert torch',
        '@lecture("X1", "short")\ndef test_a(backend): pytest.importorskip("json", reason="onnx")',
        "import json as onnx\n@pytest.fixture\ndef peer(): return onnx\n"
        '@lecture("X1", "short")\ndef test_a(backend, peer): pass',
    ],
)
def test_an_oracle_is_recognised_and_counts_only_beside_another_proof(suite, body):
    result = suite(body)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["X1 *short*oracle only*oracle only"])
    assert suite(body + '\n@lecture("X1", "short")\ndef test_b(backend): pass').ret == 0


def test_a_proof_without_the_fixture_counts_for_the_default_backend(suite, monkeypatch):
    body = '@lecture("X1", "short")\ndef test_short(): pass'
    monkeypatch.setenv("MINIGRAD_BACKEND", "two")
    suite(body).stdout.fnmatch_lines(["X1 *short*missing*passed"])
    body = body.replace('"short")', '"short", backend="any")')
    suite(body).stdout.fnmatch_lines(["X1 *short*passed*passed"])


@pytest.mark.parametrize(
    "arguments", [["-k", "nothing"], ["test_a_part_of_the_suite_demands_nothing.py"]]
)
def test_a_part_of_the_suite_demands_nothing(suite, arguments):
    result = suite("def test_nothing(): pass", *arguments)
    assert result.ret == 0
    assert "X1" not in result.stdout.str()
    result = suite(PROVEN.replace("(backend): pass", "(backend): 'nothing'"), *arguments)
    result.stdout.fnmatch_lines(["lecture clauses proven in this run*1 on one*"])


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ('"X1", "shrt"', "*row X1 has no clause 'shrt', only *short*"),
        ('"Z9", "short"', "*no row 'Z9'*"),
        ('"X1"', "*missing 1 required positional argument: 'name'*"),
    ],
)
def test_an_unknown_clause_is_an_error(suite, mark, message):
    result = suite(f"@lecture({mark})\ndef test_short(backend): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_an_interrupted_run_judges_nothing(suite):
    result = suite(PROVEN + "\nimport nothing_of_this_name")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "clauses of the lectures" not in result.stdout.str()


def test_a_failed_proof_is_no_proof(suite):
    result = suite(PROVEN + '\n@lecture("X1", "short")\ndef test_other(backend): assert 0')
    assert result.ret != 0
    result.stdout.fnmatch_lines(["X1 *short*failed*failed"])


@pytest.mark.parametrize(
    ("clauses", "message"),
    [
        (CLAUSES.replace("X1.lectures", "X1.later"), "unknown stage 'later'"),
        (CLAUSES.replace('"later"', '"short"'), "clause 'short' twice"),
        (CLAUSES.replace('["long"]', '["none"]'), "no clause 'none' to be slow"),
        (CLAUSES.replace('["engine"]', '["soon"]'), "unknown stage"),
    ],
)
def test_a_wrong_list_of_clauses_is_an_error(tmp_path, clauses, message):
    path = tmp_path / "lectures.toml"
    path.write_text(clauses)
    with pytest.raises(ValueError, match=message):
        read_clauses(path)


def test_every_row_has_clauses():
    due, clauses = read_clauses(Path(__file__).with_name("lectures.toml"))
    letters = {"A": 8, "B": 12, "C": 5, "D": 14, "E": 7, "F": 6, "G": 7, "H": 5, "I": 11}
    expected = {f"{letter}{i}" for letter, n in letters.items() for i in range(1, n + 1)} - {"H1"}
    assert len(expected) == 74
    assert {clause.row for clause in clauses.values()} == expected
    assert due and due <= set(STAGES)
    first = "A1 A2 A4 A5 A7 A8 B1 B3 B6 B7 C1 C2 C3 C4 C5 D1 D2 D5 E2 E5 F1"
    assert {clause.row for clause in clauses.values() if clause.stage == "engine"} == set(
        first.split()
    )


def test_the_suite_runs_on_cupy_too():
    """One skip, counted, stands for all the tests that a machine without a GPU leaves out."""
    if reason := why_unusable("cupy"):
        pytest.skip(f"the suite does not run on cupy here: {reason}")

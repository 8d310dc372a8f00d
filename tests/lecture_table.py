"""Which clauses of tests/lectures.toml are proven: a pytest plugin, loaded by conftest.py.

`@pytest.mark.lecture("F2", "path lengths")` marks a test as proof of a clause. A clause that is
due counts as proven on a backend when a marked test passed there in this run and none failed;
skipped is missing. The backend is that of the `backend` fixture, else the default one, or every
one with `backend="any"` in the mark (for tests that read source, say). A test that needs another
framework proves nothing alone: users without it must have a proof too. It is recognised by that
framework's name in its code, its fixtures' and its helpers', or by `oracle=True` in the mark.

A run of the whole suite (no files, no -k, no mark expression but those in SELECTIONS) prints the
table and fails while a clause that is due is missing; any other run prints one line.
"""

from __future__ import annotations

import functools
import inspect
import os
import tomllib
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

STAGES = ("engine", "lectures", "tutorials", "compile", "trained")
# Which proofs a mark expression lets run: those not marked slow, those marked slow.
SELECTIONS = {
    "": (True, True),
    "not slow": (True, False),
    "slow": (False, True),
    "lecture": (True, True),
    "lecture and not slow": (True, False),
    "lecture and slow": (False, True),
}
FOREIGN = {"torch", "onnx", "onnxruntime"}
NOTE = "proves a clause"  # the name of a property of a test and of its report
PASSED, SLOW, ORACLE, FAILED, MISSING = "passed", "slow", "oracle only", "failed", "missing"


@dataclass(frozen=True)
class Clause:
    """One clause: row, short name, the stage it is due at, and whether its proof is marked slow.

    `slow`: on every backend. `long`: on all but the first, a short training, say.
    """

    row: str
    name: str
    stage: str
    slow: bool
    long: bool
    text: str

    def slow_on(self, backend: str, first: str) -> bool:
        """Return whether the proof on `backend` is marked slow, `first` being the first one."""
        return self.slow or (self.long and backend != first)


def read_clauses(path: Path) -> tuple[set[str], dict[tuple[str, str], Clause]]:
    """Return the stages that are due and the clauses by (row, name).

    Raises ValueError where the file names an unknown stage, or a clause of a row twice.
    """
    data = tomllib.loads(path.read_text("utf-8"))
    due = set(data.pop("stage"))
    clauses: dict[tuple[str, str], Clause] = {}
    for row, entry in data.items():
        slow, long = entry.get("slow", []), entry.get("long", [])
        for stage in set(entry) - {"item", "slow", "long"}:
            if stage not in STAGES:
                raise ValueError(f"{path.name}: {row} has the unknown stage {stage!r}: {STAGES}")
        for stage in STAGES:
            for name, text in entry.get(stage, {}).items():
                if (row, name) in clauses:
                    raise ValueError(f"{path.name}: {row} has the clause {name!r} twice")
                clauses[row, name] = Clause(row, name, stage, name in slow, name in long, text)
        for name in [*slow, *long]:
            if (row, name) not in clauses:
                raise ValueError(f"{path.name}: {row} has no clause {name!r} to be slow")
    if unknown := due - set(STAGES):
        raise ValueError(f"{path.name}: unknown stage {sorted(unknown)}: {STAGES}")
    return due, clauses


@dataclass
class Proofs:
    """What this run found out: outcomes by clause and backend, from tests that need no oracle."""

    outcomes: dict[tuple[str, str, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    def status(self, clause: Clause, backend: str) -> str:
        """Return PASSED, FAILED, ORACLE or MISSING for one clause on one backend."""
        seen = self.outcomes.get((clause.row, clause.name, backend), set())
        return next((status for status in (FAILED, PASSED, ORACLE) if status in seen), MISSING)


class LectureTable:
    """The plugin: collects marks and outcomes, judges them at the end of the session."""

    def __init__(
        self, config: pytest.Config, usable_backends: Callable[[], tuple[str, ...]], path: Path
    ) -> None:
        self.config = config
        self.usable_backends = usable_backends
        self.path = path
        self.due, self.clauses = read_clauses(path)
        self.proofs = Proofs()

    @functools.cached_property
    def backends(self) -> tuple[str, ...]:
        """The backends that must prove the clauses; looked up only once a test needs them."""
        return self.usable_backends()

    # --- collection ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        problems = []
        for item in items:
            for mark in item.iter_markers("lecture"):
                try:
                    self.add(item, *mark.args, **mark.kwargs)
                except (TypeError, ValueError) as error:
                    problems.append(f"{item.nodeid}: {error}")
        if problems:
            raise pytest.UsageError(*dict.fromkeys(problems))
        if rows := getattr(self.config.option, "lecture", None):
            wanted = {item for item in items if self.rows_of(item) & set(rows)}
            self.config.hook.pytest_deselected(items=[i for i in items if i not in wanted])
            items[:] = [item for item in items if item in wanted]

    def rows_of(self, item: pytest.Item) -> set[str]:
        """Return the rows that a test proves something of."""
        return {row for row, *_ in proven_by(item)}

    def add(
        self, item: pytest.Item, row: str, name: str, *, backend: str = "", oracle: bool = False
    ) -> None:
        """Note that `item` proves a clause; raises ValueError for one that does not exist.

        The note travels with the report, so that it arrives where the processes come together.
        """
        if (row, name) not in self.clauses:
            names = [clause for known, clause in self.clauses if known == row]
            what = f"row {row} has no clause {name!r}, only {names}" if names else f"no row {row!r}"
            raise ValueError(f"{self.path.name}: {what}")
        chosen = backend or item_backend(item)
        item.user_properties.append((NOTE, (row, name, chosen, oracle or needs_oracle(item))))

    # --- outcomes ---

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            outcome = FAILED
        elif report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
            outcome = PASSED
        else:
            return
        for row, name, chosen, oracle in proven_by(report):
            for backend in self.backends if chosen == "any" else (chosen,):
                seen = ORACLE if oracle and outcome == PASSED else outcome
                self.proofs.outcomes[row, name, backend].add(seen)

    # --- judgement ---

    def demanded(self) -> list[tuple[Clause, str]]:
        """Return the clauses, with the backend, that this run must prove.

        None where it is not the whole suite.
        """
        expression = " ".join((self.config.option.markexpr or "").split())
        if not whole_suite(self.config) or expression not in SELECTIONS:
            return []
        quick, slow = SELECTIONS[expression]
        return [
            (clause, backend)
            for clause in self.clauses.values()
            for backend in self.backends
            if clause.stage in self.due
            if (slow if clause.slow_on(backend, self.backends[0]) else quick)
        ]

    def missing(self) -> list[tuple[Clause, str]]:
        """Return the demanded clauses without proof, with the backend."""
        return [
            (clause, backend)
            for clause, backend in self.demanded()
            if not backend.startswith("module://")  # a stand-in: shown, but not demanded
            if self.proofs.status(clause, backend) != PASSED
        ]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        stopped = session.shouldstop or session.shouldfail
        if hasattr(self.config, "workerinput"):
            return  # one of several processes: what they come to is judged in the first
        if exitstatus == pytest.ExitCode.OK and not stopped and self.missing():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        code = pytest.ExitCode
        if exitstatus not in (code.OK, code.TESTS_FAILED, code.NO_TESTS_COLLECTED):
            return  # an error or Ctrl-C: most tests did not run
        demanded = self.demanded()
        due = [clause for clause in self.clauses.values() if clause.stage in self.due]
        if demanded:
            terminalreporter.section("clauses of the lectures")
            for line in self.table(due, set(demanded)):
                terminalreporter.write_line(line)
        if demanded or self.proofs.outcomes:
            terminalreporter.write_line(self.summary(due))
        missing = self.missing()
        for clause, backend in missing:
            terminalreporter.write_line(
                f"FAIL {clause.row} {clause.name!r} on {backend}: "
                f"{self.proofs.status(clause, backend)} ({clause.text})",
                red=True,
            )

    def table(self, due: list[Clause], demanded: set[tuple[Clause, str]]) -> Iterator[str]:
        """Yield the lines of the table: row, clause, one column a backend."""
        width = max(len(clause.name) for clause in due)
        heading = "  ".join(f"{name:11}" for name in self.backends)
        yield f"{'row':4} {'clause':{width}}  {heading}".rstrip()
        for clause in due:
            cells = []
            for backend in self.backends:
                status = self.proofs.status(clause, backend)
                if status == MISSING and (clause, backend) not in demanded:
                    slow = clause.slow_on(backend, self.backends[0])
                    status = SLOW if slow else "not selected"
                cells.append(f"{status:11}")
            yield f"{clause.row:4} {clause.name:{width}}  {'  '.join(cells)}".rstrip()

    def summary(self, due: list[Clause]) -> str:
        """Return one line: per backend, how many clauses of how many that are due passed."""
        others = {backend for _, _, backend in self.proofs.outcomes} - set(self.backends)
        counts = (
            f"{sum(self.proofs.status(clause, backend) == PASSED for clause in due)} on {backend}"
            for backend in (*self.backends, *sorted(others))
        )
        rows = len({clause.row for clause in due})
        return (
            f"lecture clauses proven in this run, of {len(due)} due in {rows} rows: "
            + ", ".join(counts)
        )


def whole_suite(config: pytest.Config) -> bool:
    """Return whether nothing but a mark expression restricts what runs."""
    option = config.option
    root = config.rootpath
    paths = [(root / path).resolve() for path in config.getini("testpaths")]
    start = config.invocation_params.dir
    given = [(start / argument).resolve() for argument in config.args]
    restricted = (
        option.keyword
        or getattr(option, "lecture", None)
        or getattr(option, "lf", False)
        or getattr(option, "deselect", None)
        or getattr(option, "ignore", None)
        or getattr(option, "ignore_glob", None)
        or getattr(option, "stepwise", False)
        or getattr(option, "collectonly", False)
    )
    return not restricted and all(
        any(path == folder or folder in path.parents for folder in given) for path in paths
    )


def proven_by(test: pytest.Item | pytest.TestReport) -> list[tuple[str, str, str, bool]]:
    """Return what `add` noted of a test: row, clause, backend, whether by an oracle alone."""
    return [note for name, note in test.user_properties if name == NOTE]  # type: ignore


def item_backend(item: pytest.Item) -> str:
    """Return the backend a test runs on: its `backend` parameter, else the default."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    chosen = parameters.get("backend") or os.environ.get("MINIGRAD_BACKEND", "").strip().lower()
    return str(chosen or "numpy")


def needs_oracle(item: pytest.Item) -> bool:
    """Return whether a test, a fixture it asks for, or a helper names another framework."""
    pending: list[object] = [getattr(item, "function", None)]
    fixtures = getattr(item, "_fixtureinfo", None)
    for definitions in fixtures.name2fixturedefs.values() if fixtures else ():
        pending.extend(definition.func for definition in definitions)
    seen: set[int] = set()
    while pending:
        function = pending.pop()
        hypothesis = getattr(function, "hypothesis", None)
        function = inspect.unwrap(getattr(hypothesis, "inner_test", function))  # type: ignore
        if not isinstance(function, types.FunctionType) or id(function) in seen:
            continue
        seen.add(id(function))
        names = set(names_in(function.__code__))
        if names & FOREIGN:
            return True
        found = (function.__globals__.get(name) for name in names)
        pending.extend(helper for helper in found if in_tests(helper))
    return False


def in_tests(helper: object) -> bool:
    """Return whether `helper` is a function written under tests/."""
    code = getattr(helper, "__code__", None)
    return code is not None and Path(__file__).parent in Path(code.co_filename).parents


def names_in(code: types.CodeType) -> Iterator[str]:
    """Yield the names that code uses, and its strings, since importorskip takes one."""
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_in(constant)
        elif isinstance(constant, str):
            yield constant

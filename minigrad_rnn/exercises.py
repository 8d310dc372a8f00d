"""The exercises of the tutorials: a reader's file is checked against the tests of the answers."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minigrad_rnn import stepper
from minigrad_rnn.text import TextError, read_text

QUIET = {"MINIGRAD_TUTORIAL_FAST": "1", "MPLBACKEND": "Agg"}


class Exercise(NamedTuple):
    """Its number, the name of the function that is asked for, and what tests that function."""

    number: int
    name: str
    check: Callable[[Any], Any]


def exercises(path: Path) -> tuple[dict[str, Any], list[Exercise]]:
    """The names that a tutorial defines before its answers, and its exercises.

    Its cells run small and without output. Of its last cell, the answers, nothing runs but the
    definitions `check_N(function)`, whose parameter has the name of the function asked for, and
    others that they share, `check_...` by name.
    Raises TextError where a cell raises, or there are no checks.
    """
    found = stepper.cells(path.read_text(encoding="utf-8"))
    body = stepper.parsed(found[-1], path).body if found else []
    defined = [s for s in body if isinstance(s, ast.FunctionDef) and s.name.startswith("check_")]
    checks = [s for s in defined if re.fullmatch(r"check_\d+", s.name)]
    if not checks:
        raise TextError(f"{path.name}: its exercises have no checks")
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(path), "__show__": id}
    try:
        with _quietly():
            for cell in found[:-1]:
                if not cell.prose:
                    stepper.run_cell(cell, path, names)
    except Exception as error:
        raise TextError(f"the tutorial itself fails, {_said(error, str(path))}") from None
    # Assertions are what the checks are made of: they hold under python -O as well.
    exec(compile(ast.Module(defined, []), str(path), "exec", dont_inherit=True, optimize=0), names)
    return names, [
        Exercise(int(check.name[6:]), check.args.args[0].arg, names[check.name]) for check in checks
    ]


def check(path: Path, file: str) -> int:
    """Print what each exercise's function in `file` is: right, wrong and a hint, or not written.

    The file sees the names of the tutorial. Returns 0 if all are right, else 1; raises TextError,
    with the line, for a file that does not run.
    """
    source = read_text(file, minimum=1)
    try:
        code = compile(source, file, "exec", dont_inherit=True, optimize=0)
    except SyntaxError as error:
        raise TextError(f"{file}, line {error.lineno}: {error.msg}") from None
    except ValueError as error:
        raise TextError(f"{file}: {error}") from None
    known, asked = exercises(path)
    names = {**known, "__file__": file}
    try:
        exec(code, names)
    except (Exception, SystemExit) as error:
        raise TextError(_said(error, file)) from None
    right = 0
    for exercise in asked:
        answer = names.get(exercise.name)
        if answer is known.get(exercise.name):
            verdict = f"not written yet: {file} defines no {exercise.name}"
        else:
            hint = _hint(exercise, answer, file)
            verdict = "right" if hint is None else f"wrong: {hint}"
            right += hint is None
        print(f"{exercise.number}. {exercise.name}: {verdict}")
    print(f"exercises: {right} of {len(asked)}")
    return 0 if right == len(asked) else 1


def _hint(exercise: Exercise, answer: Any, file: str) -> str | None:
    """What the check has to say against an answer, in a line; None where it is right."""
    try:
        exercise.check(answer)
    except AssertionError as error:
        return " ".join(str(error).split()) or _said(error, file)
    except (Exception, SystemExit) as error:
        return _said(error, file)
    return None


def _said(error: BaseException, file: str) -> str:
    """An error in a line, with the last line of the file that it came through."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines.append(error.lineno)
    place = f"{file}, line {lines[-1]}: " if lines else ""
    return " ".join(f"{place}{type(error).__name__}: {error}".split()).removesuffix(":")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Small runs, nothing printed, no window opened."""
    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update(QUIET)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

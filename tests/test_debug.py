"""MINIGRAD_DEBUG and detect_anomaly: what each says, whom it accuses, and that off is free."""

from __future__ import annotations

import contextlib
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import debug
from minigrad.op import default_mode, execute, in_mode, mode
from tests.op_checks import check_gradient, check_jvp
from tests.op_table import ROWS, Row
from tests.test_contract import run

ZERO = np.array([[1.0, 2.0], [3.0, 0.0]], np.float32)


@contextlib.contextmanager
def watching(*kinds: str) -> Iterator[None]:
    """The block in which every op is watched, as under MINIGRAD_DEBUG=kinds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atexit.register", lambda summary: None)  # not at the end of the suite
        run = debug.watch(execute, kinds)
    with in_mode(type(default_mode)(run=run)):
        yield


def accused(call: Callable[[], Any]) -> str:
    with np.errstate(all="ignore"), pytest.raises(mg.NonFiniteError) as caught:
        call()
    return str(caught.value)


# --- nan -----------------------------------------------------------------------------------------


def test_a_forward_op_is_named_with_index_operands_and_backend(backend: str) -> None:
    x = mg.Tensor(ZERO)
    with mg.detect_anomaly():
        said = accused(lambda: mg.log(x))
    where = f"log(x: (2, 2) float32) on backend '{backend}'"
    assert said == f"log returned inf at index (1, 1): {where}"
    with mg.detect_anomaly():
        assert accused(lambda: mg.sqrt(x - 2)).startswith("sqrt returned nan at index (0, 0)")
    with np.errstate(divide="ignore"):
        assert mg.log(x).shape == (2, 2)  # outside of the block nobody looks


def test_a_nan_that_came_in_is_told_from_one_that_was_made(backend: str) -> None:
    x = mg.Tensor([1.0, float("nan")])
    with mg.detect_anomaly():
        said = accused(lambda: x * 2)
    assert said.startswith("multiply returned nan at index (1,)")
    assert said.endswith("operand a was not finite before")


def test_a_nan_in_one_of_many_outputs_is_found(backend: str) -> None:
    x = mg.Tensor([[1.0, 2.0], [float("nan"), 0.0]])
    with mg.detect_anomaly():
        assert "at index (0,)" in accused(lambda: mg.unstack(x))


def test_an_infinity_that_was_asked_for_is_no_anomaly(backend: str) -> None:
    """A mask of -inf before a softmax is meant; the NaN that it makes of an empty row is not."""
    scores, mask = mg.Tensor([[1.0, 2.0]]), mg.Tensor([[True, False]])
    with mg.detect_anomaly():
        masked = mg.where(mask, scores, float("-inf"))
        assert mg.functional.softmax(masked).tolist() == [[1.0, 0.0]]
        assert "nan" in accused(lambda: masked - masked)


def root_at_the_kink(x: mg.Tensor) -> mg.Tensor:
    return mg.sqrt(x)


def test_a_failing_rule_is_named_by_its_op_and_where_that_was_called(backend: str) -> None:
    x = mg.Tensor(ZERO, requires_grad=True)
    with mg.detect_anomaly():
        y = mg.exp(root_at_the_kink(x)).sum()
        said = accused(y.backward)
    first, *stack = said.splitlines()
    assert first.startswith("backward of sqrt returned inf at index (1, 1): ")
    assert first.endswith("sqrt was called at:")
    source, start = inspect.getsourcelines(root_at_the_kink)
    line = start + next(i for i, text in enumerate(source) if "sqrt" in text)
    assert stack[-2:] == [
        f'  File "{__file__}", line {line}, in root_at_the_kink',
        "    return mg.sqrt(x)",
    ]
    assert any("y = mg.exp(root_at_the_kink(x)).sum()" in text for text in stack)
    assert not any("minigrad/ops" in text or "autodiff.py" in text for text in stack)
    assert x.grad is None


def test_a_gradient_of_a_gradient_is_watched_too(backend: str) -> None:
    """The first derivative of x^1.5 at 0 is 0; only the second, 0.75 / sqrt(x), is infinite."""
    f = lambda x: (x**1.5).sum()  # noqa: E731
    x = mg.Tensor([1.0, 0.0])
    with mg.detect_anomaly():
        assert mg.grad(f)(x).tolist() == [1.5, 0.0]
        said = accused(lambda: mg.grad(lambda x: mg.grad(f)(x).sum())(x))
    assert said.startswith("backward of ") and "inf at index (1,)" in said


def test_a_nan_in_the_cotangent_is_found(backend: str) -> None:
    x = mg.Tensor([1.0, 2.0], requires_grad=True)
    with mg.detect_anomaly():
        y = mg.exp(x)
        said = accused(lambda: y.backward(mg.Tensor([1.0, float("nan")])))
    assert said.startswith("backward of exp returned nan at index (1,)")


def test_a_forward_pass_outside_the_block_is_asked_into_it(backend: str) -> None:
    x = mg.Tensor(ZERO, requires_grad=True)
    y = mg.sqrt(x).sum()
    with mg.detect_anomaly():
        said = accused(y.backward)
    assert "Compute sqrt within detect_anomaly() too" in said


def test_the_decorator_watches_each_call(backend: str) -> None:
    @mg.detect_anomaly()
    def logarithm(x: mg.Tensor) -> mg.Tensor:
        return mg.log(x)

    for _ in range(2):
        assert "log returned inf" in accused(lambda: logarithm(mg.Tensor([0.0])))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_finite_is_not_accused_and_stays_the_same(row: Row, backend: str) -> None:
    """Gradients and jvps of every op, compared with differences while its rules are watched."""
    with watching("nan", "dtype", "dispatch"):
        check_gradient(row, backend)
        check_jvp(row, backend)


# --- dtype ---------------------------------------------------------------------------------------


def promoted(call: Callable[[], Any]) -> list[str]:
    with watching("dtype"), pytest.warns(UserWarning, match="float32 became float64") as told:
        call()
    assert {warning.filename for warning in told} == {__file__}
    return [str(warning.message) for warning in told]


def test_a_promotion_is_told_with_the_op_at_the_users_line(backend: str) -> None:
    single, double = mg.Tensor([1.0, 2.0]), mg.Tensor(np.ones(2))
    assert len(promoted(lambda: mg.where(single > 0, double, single))) == 1
    said = promoted(lambda: single * double)
    assert said == ["float32 became float64 in multiply(a: (2,) float32, b: (2,) float64)"]


def test_what_was_asked_for_is_no_promotion(backend: str) -> None:
    single = mg.Tensor([1.0, 2.0], requires_grad=True)
    with watching("dtype"):
        double = single.astype("float64") * mg.Tensor(np.ones(2))
        double.sum().backward()
        single * np.float64(2) + 1 + np.sqrt(2.0)
        mg.Tensor([1, 2]) / 2
        assert single.grad is not None and single.grad.dtype == np.float32


# --- dispatch ------------------------------------------------------------------------------------

PROGRAM = """
import numpy as np, minigrad as mg
x = mg.Tensor([[1.0, 2.0]], requires_grad=True)
y = (mg.exp(x) * np.float32(2)).sum()
y.backward()
"""


def test_each_call_is_shown_and_summed_up() -> None:
    _, said = run("-c", PROGRAM, MINIGRAD_DEBUG="dispatch")
    calls, table = said.split("op  ", 1)
    lines = [re.sub(r"\d+\.\d us$", "TIME us", line) for line in calls.splitlines()]
    assert lines[:3] == [
        "exp(x: (1, 2) float32) -> (1, 2)  numpy xp TIME us",
        "multiply(a: (1, 2) float32, b: () 2.0) -> (1, 2)  numpy xp TIME us",
        "sum(x: (1, 2) float32) -> ()  numpy xp TIME us",
    ]
    assert len(lines) > 4  # the rules of backward are ops too
    rows = {row.split()[0]: row.split() for row in table.splitlines()[1:]}
    assert rows["exp"][1:4] == ["numpy", "xp", "1"]
    assert sum(int(row[3]) for row in rows.values()) == len(lines)
    times = [float(row[4]) for row in rows.values()]
    assert times == sorted(times, reverse=True)


def test_a_kernel_is_told_from_the_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    class Kernels(type(mg.resolve("numpy"))):  # type: ignore[misc]
        name = "kernels"
        waited = 0

        def __init__(self) -> None:
            self.kernels = {"exp": np.exp}

        def synchronize(self) -> None:
            self.waited += 1

    there = Kernels()
    with watching("dispatch"), mg.use_backend(there):
        mg.log(mg.exp(mg.Tensor([1.0])))
    said = capsys.readouterr().err.splitlines()
    assert "  kernels kernel " in said[0] and said[0].startswith("exp(")
    assert "  kernels xp " in said[1] and said[1].startswith("log(")
    assert there.waited == 2


# --- the variable --------------------------------------------------------------------------------


def test_an_unknown_word_is_refused_at_the_first_tensor() -> None:
    _, said = run("-c", PROGRAM, MINIGRAD_DEBUG="nan,dispach", code=1)
    last = said.strip().splitlines()[-1]
    assert last.endswith(
        "DebugError: MINIGRAD_DEBUG=dispach: write nan, dtype, dispatch, or several of them"
    )
    assert issubclass(debug.DebugError, ValueError) and issubclass(
        debug.DebugError, mg.MinigradError
    )
    assert run("-m", "minigrad", "--version", MINIGRAD_DEBUG="nonsense")[0]


@pytest.mark.parametrize("setting", ["before", "after"])
def test_the_variable_counts_until_the_first_tensor_and_in_every_thread(setting: str) -> None:
    program = """
import os, threading
import minigrad as mg
os.environ["MINIGRAD_DEBUG"] = " NaN, dtype "
found = []
def work():
    try:
        mg.log(mg.Tensor([0.0]))
    except mg.NonFiniteError as error:
        found.append(str(error)[:16])
work()
thread = threading.Thread(target=work); thread.start(); thread.join()
with mg.no_grad(): work()
print(found)
"""
    before = {"MINIGRAD_DEBUG": "nan"} if setting == "before" else {}
    said, _ = run("-W", "ignore::RuntimeWarning", "-c", program, **before)
    assert said == f"{['log returned inf'] * 3}\n"


def test_off_costs_nothing() -> None:
    """Without the variable the choke point holds the engine's own function, in every thread."""
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(mode.get()))
    thread.start()
    thread.join()
    assert seen[0].run is default_mode.run is execute
    with mg.detect_anomaly():
        assert mode.get().run is not execute
    assert mode.get().run is execute
    assert run("-c", PROGRAM, MINIGRAD_DEBUG="") == ("", "")

"""The benchmarks: what they count and say is right, and each runs to its end (marked slow)."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad_rnn import RNNCell, unroll

BENCH = Path(__file__).resolve().parent / "bench"
NAMES = ("harness", "lstm", "cells", "growth", "peak", "compile_time", "programs", "eager")


@pytest.fixture
def bench() -> Iterator[Any]:
    """Import a benchmark by its name, as a script beside it would."""
    before = {name: sys.modules.pop(name, None) for name in NAMES}
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module
    sys.path.remove(str(BENCH))
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def test_a_training_step_costs_three_forwards_less_the_gradient_of_the_input(bench: Any) -> None:
    lstm = bench("lstm")
    T, B, D, H = lstm.SHAPES["mid"]
    forward = 2 * T * B * D * 4 * H + 2 * T * B * H * 4 * H
    assert lstm.flops((T, B, D, H), "infer") == forward
    assert lstm.flops((T, B, D, H), "train") / 1e9 == pytest.approx(16.8, abs=0.05)
    assert lstm.flops((1, 1, 1, 1), "stack") == 3 * (2 * 16 + 200) - 8


def test_drawn_shapes_depend_on_the_hash_alone_and_are_awkward(bench: Any) -> None:
    lstm = bench("lstm")
    seed = "ca3fbb7a" * 5
    shapes = list(lstm.drawn(seed).values())
    assert shapes == list(lstm.drawn(seed).values()) != list(lstm.drawn("1" + seed).values())
    assert len(set(shapes)) == 8
    for T, B, D, H in shapes:
        assert 8 <= T <= 300 and 1 <= B <= 128 and 16 <= D <= 1024 and 16 <= H <= 1024
        assert all(n % 8 for n in (T, B, D, H))


def test_bars_are_judged_as_they_are_written(bench: Any) -> None:
    """Ours takes 1 ms everywhere; torch and JAX what is given."""
    lstm = bench("lstm")

    def said(torch: list[float], jax: list[float]) -> dict[str, bool]:
        rows = [
            {"name": name, "threads": 2, "task": "train",
             "ms": {"minigrad": [1.0] * 3, "torch": [t] * 3, "jax": [j] * 3}}
            for name, t, j in zip(("mid", "ptb"), torch, jax)
        ]  # fmt: skip
        return dict(lstm.verdicts(rows))

    good = said([2.4, 1.2], [2.0, 4.0])
    assert good == {
        "P1 train owed: 1.70x in geometric mean, at least 1.0": True,
        "P1 train owed: 1.20x at ptb with 2, at least 0.8 at each": True,
        "P1 train goal: 1.70x in geometric mean, at least 1.6": True,
        "P1 train goal: 1.25x at each (1.1 at ptb with 2): none is short of it": True,
        "P2 jax owed: 2.83x in geometric mean, at least 1.7": True,
        "P2 jax goal: 2.83x in geometric mean, at least 2.5": True,
    }
    assert list(said([1.2, 0.7], [1.5, 1.5]).values()) == [False] * 6
    assert bench("harness").close([("P1 goal: short", False), ("P1 owed: there", True)]) == 0
    assert bench("harness").close([("P1 goal: there", True), ("P1 owed: short", False)]) == 1


def test_a_wrong_result_ends_the_run(bench: Any) -> None:
    compare = bench("harness").compare
    wanted = {"loss": np.float32(2.0), "W": np.array([1.0, -4.0])}
    assert compare("x", {**wanted, "W": np.array([1.0, -4.0002])}, wanted) == pytest.approx(5e-5)
    for wrong in (np.array([1.0, -4.1]), np.array([1.0, np.nan])):
        with pytest.raises(SystemExit, match="FAIL x: W differs"):
            compare("x", {**wanted, "W": wrong}, wanted)
    with pytest.raises(KeyError):
        compare("x", {"loss": np.float32(2.0)}, wanted)


def test_work_is_counted_in_the_graph(bench: Any) -> None:
    """A tanh network, by hand: products forward, for both weights, and for h but the first."""
    T, B, D, H = 6, 2, 3, 4
    cell = RNNCell(D, H)

    def gradients(xs: Any) -> Any:
        return mg.pullback((unroll(cell, xs)[0] ** 2).mean(), cell.parameters())

    flops, elements = bench("cells").count(mg.fold(gradients, mg.zeros((T, B, D))).steps)
    assert flops == 2 * T * (2 * B * D * H) + (3 * T - 1) * (2 * B * H * H)
    assert elements > T * 10 * B * H

    def product(x: Any) -> Any:
        return mg.einsum("tij,jk->tik", x, mg.ones((5, 7)))

    assert bench("cells").count(mg.fold(product, mg.zeros((2, 3, 5))).steps)[0] == 2 * 2 * 3 * 5 * 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "says"),
    [
        ("lstm", ["--peers", "", "--threads", "1", "--stack", "--adam"], "adam"),
        ("cells", [], "P4 3 cells"),
        ("ragged", ["--threads", "1"], "N11 quick with 1"),
        ("growth", [], "P7 compiled: peak memory"),
        ("peak", ["--threads", "1"], "P5 tiny with 1"),
        ("compile_time", [], "P3 another T is captured"),
    ],
)
def test_every_benchmark_runs_to_its_end(script: str, options: list[str], says: str) -> None:
    """Its bars may be missed on so small a problem; what it computes may not."""
    done = subprocess.run(
        [sys.executable, str(BENCH / f"{script}.py"), "--quick", *options],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    assert says in done.stdout
    assert "differs" not in done.stdout + done.stderr
    usage = subprocess.run(
        [sys.executable, str(BENCH / f"{script}.py"), "--help"], capture_output=True, text=True
    )
    assert "--quick" in usage.stdout and "--serve" not in usage.stdout

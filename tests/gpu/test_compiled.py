"""Compiled programs on a real GPU: NVRTC's kernels, cuBLAS, and memory that calls share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad.graph import capture, evaluate
from minigrad.graph.building import Program
from minigrad.op import bare
from tests.catalogue import ORACLES, make
from tests.gpu.test_gpu import SPEC, WHY_NOT
from tests.recurrent import leaf, random_cell

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"needs a GPU: {WHY_NOT}")
CLOSE = {"float32": 2e-4, "float64": 1e-9}


def check(f: Any, *args: Any) -> Any:
    """Demand of a program what evaluate gives on the same GPU, twice, with the same bits."""
    captured = capture(f, *args)
    inputs = captured.inputs(tree.flatten(args)[0])
    program = Program(captured.graph, mg.resolve(SPEC)).emitted
    wanted = [y.numpy() for y in evaluate(captured.graph, inputs)]
    first, second = (program([bare(x) for x in inputs]) for _ in range(2))
    for a, b, y in zip(first, second, wanted, strict=True):
        assert a.get().tobytes() == b.get().tobytes()
        bound = CLOSE.get(y.dtype.name, 0)
        scale = np.max(np.abs(y), initial=1) if y.dtype.kind == "f" else 1
        np.testing.assert_allclose(a.get(), y, rtol=bound, atol=bound * scale)
    return program


@pytest.mark.parametrize("name", ORACLES)
def test_every_cell_of_the_catalogue_with_its_gradients(name: str) -> None:
    with mg.use_backend(SPEC):
        net = make(name, 3, 4)

        def f(xs: Any) -> Any:
            ys, _ = rnn.unroll(net, xs)
            return mg.pullback(mg.mean(ys**2), [*net.parameters(), xs], allow_unused=True)

        check(f, leaf(np.random.default_rng(0).normal(size=(4, 2, 3))))


@pytest.mark.parametrize("shape", [(3, 5, 7), (70, 80), (80, 70), (5000, 300), (1, 100_000)])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_reductions_of_every_shape_of_a_block(shape: tuple[int, ...], axis: int | None) -> None:
    def f(x: Any) -> Any:
        return [g(x * 2, axis=axis) for g in (mg.sum, mg.max, mg.min)], mg.any(x > 3, axis=axis)

    with mg.use_backend(SPEC):
        check(f, mg.Tensor(np.random.default_rng(0).normal(size=shape)))


@pytest.mark.parametrize("kind", ["SGD", "Adam", "RMSProp"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_training_steps_are_those_of_the_eager_engine(name: str, kind: str) -> None:
    T, B, D, H = 20, 8, 32, 64

    def losses(compiled: bool, backend: str) -> list[float]:
        with mg.use_backend(backend):
            cell = random_cell(name, D, H, np.random.default_rng(1), "float32")
            optimizer = getattr(mg.optim, kind)(cell.parameters(), lr=1e-3)

            def step(xs: Any, target: Any) -> Any:
                ys, _ = rnn.unroll(cell, xs)
                loss = mg.mean((ys - target) ** 2)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                return loss

            rng = np.random.default_rng(2)
            data = [mg.Tensor(rng.normal(size=(T, B, n)), dtype="float32") for n in (D, H)]
            run = mg.compile(step) if compiled else step
            return [loss.item() for loss in [run(*data) for _ in range(10)]]

    wanted = losses(False, "numpy")
    np.testing.assert_allclose(losses(True, SPEC), wanted, rtol=1e-4)


def test_a_call_never_waits_for_the_gpu() -> None:
    cupyx = pytest.importorskip("cupyx")
    with mg.use_backend(SPEC):
        W = leaf(np.random.default_rng(0).normal(size=(64, 64)) / 8)

        @mg.compile
        def run(xs: Any) -> Any:
            h = xs[0]
            for x in xs:
                h = mg.tanh(h @ W + x)
            return mg.sum(h)

        xs = mg.ones((30, 16, 64), dtype="float64")
        run(xs)
        with cupyx.allow_synchronize(False):
            y = run(xs)
        assert np.isfinite(y.item())

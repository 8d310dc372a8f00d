"""What the traversal's rules may not do unseen: widen a dtype, or leave the world of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.op import BareRun, bare
from minigrad.sweep import Sweep
from minigrad.tensor import Node
from tests.op_checks import leaves_of, pulled, smooth_calls, weights
from tests.op_rows.row import Row
from tests.op_table import ROWS

WIDE = np.dtype("float64")


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.order and r.name != "astype"], ids=lambda row: row.name
)
def test_no_rule_computes_in_float64_on_float32(
    row: Row, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edge would cast such a cotangent back: half the speed, and no test of values sees it."""
    send, run = Sweep.add, BareRun.__call__

    def add(self: Sweep, node: Node, slot: int, g: Any) -> Any:
        assert g.dtype != WIDE, f"a rule of {row.name} gave float64"
        return send(self, node, slot, g)

    def call(self: BareRun, op: Any, operands: Any, static: Any) -> Any:
        y = run(self, op, operands, static)
        for part in y if isinstance(y, (tuple, list)) else [y]:
            assert part.dtype != WIDE, f"{op.name} in a rule of {row.name} gave float64"
        return y

    for call_ in smooth_calls(row):
        narrow = [a.astype(np.float32) if a.dtype == WIDE else a for a in call_.arrays]
        results = call_.run([mg.Tensor(a) for a in narrow])
        if all(y.dtype == np.float32 for y in results):
            with monkeypatch.context() as patch:
                patch.setattr(Sweep, "add", add)
                patch.setattr(BareRun, "__call__", call)
                pulled(call_, leaves_of(narrow), weights(results))


@pytest.mark.parametrize(
    "function",
    [mg.tanh, mg.sum, mg.mean, mg.max, mg.logsumexp, mg.var, mg.prod, lambda x: x**2.5,
     lambda x: 2 * x / 3, lambda x: x * np.float64(2), lambda x: mg.where(x > 0, x, 1),
     lambda x: mg.clip(x, 0, 1), lambda x: x.reshape(1)[0],
     lambda x: mg.unstack(mg.stack([x, x]))[1]],
)  # fmt: skip
def test_numbers_without_axes_stay_arrays_of_their_dtype(function: Any, backend: str) -> None:
    """NumPy turns 0-d results into scalars, which are weak and know no backend."""
    x = mg.Tensor(np.float32(0.5), requires_grad=True)
    y = function(x)
    y.backward()
    assert x.grad is not None
    for tensor in (y, x.grad):
        assert type(bare(tensor)) is y.backend.xp.ndarray
        assert tensor.shape == ()
        assert tensor.dtype == np.float32


def test_pullback_by_sample_of_an_unused_input_is_none() -> None:
    x = mg.Tensor([1.0, 2.0], requires_grad=True)
    other = mg.Tensor(1.0, requires_grad=True)
    found = mg.pullback(x * x, [x, other], split="sample", allow_unused=True)
    assert found[0].tolist() == [[2.0, 0.0], [0.0, 4.0]]
    assert found[1] is None


def test_pullback_by_sample_asks_for_samples() -> None:
    x = mg.Tensor(1.0, requires_grad=True)
    with pytest.raises(mg.ShapeError, match="axis of samples"):
        mg.pullback(x * x, x, split="sample")


def test_moving_a_result_without_recording_gives_a_constant() -> None:
    x = mg.Tensor([1.0], requires_grad=True, backend="numpy")
    y = x * 2
    elsewhere = mg.resolve("numpy").__class__()  # another instance is another backend
    with mg.no_grad():
        moved = y.to(elsewhere)
    assert moved.backend is elsewhere
    assert not moved.requires_grad
    with pytest.raises(mg.GradientError, match="detach"):
        y.to(elsewhere)

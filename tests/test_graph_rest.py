"""Which rows rest at which flags: what the analysis says, and that it holds for random programs."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.graph import Instruction, Value, fuse
from minigrad.graph.properties import PRODUCT, is_choice, keeps_zeros
from minigrad.graph.resting import Rest, rest
from minigrad.op import REGISTRY, op
from minigrad.spec import Spec
from tests import graph_programs as programs

T, B, H = 5, 3, 4


def analysed(f: Any, *args: Any) -> tuple[Rest, list[Instruction], tuple[Value, ...]]:
    """What rests in f's program after all passes, its products, and its inputs."""
    graph = fuse(programs.optimised(programs.captured(f, *args)[0]))
    products = [s for s in graph.walk() if isinstance(s, Instruction) and s.op is PRODUCT]
    return rest(graph), products, graph.inputs


def flags(*shape: int) -> mg.Tensor:
    return mg.ones(shape, dtype="bool")


def weight() -> mg.Tensor:
    return mg.Tensor(np.random.default_rng(0).normal(size=(H, H)), requires_grad=True)


# --- properties of ops ---------------------------------------------------------------------------


def test_a_choice_is_known_by_what_it_does_and_not_by_its_name() -> None:
    def forward(xp: Any, c: Any, a: Any, b: Any) -> Any:
        return xp.where(c, a, b)

    def turned(xp: Any, c: Any, a: Any, b: Any) -> Any:
        return xp.where(c, b, a)

    where = REGISTRY["where"]
    try:
        same = op("pick", forward, shape=where.shape, fixed=("c",)).op
        other = op("drop", turned, shape=where.shape, fixed=("c",)).op
        assert is_choice(where) and is_choice(same) and not is_choice(other)
    finally:
        REGISTRY.pop("pick", None)
        REGISTRY.pop("drop", None)
    assert not any(is_choice(REGISTRY[name]) for name in ("add", "power", "maximum", "matmul"))


def test_zeros_are_kept_where_the_numbers_say_so() -> None:
    def keeps(name: str, *zero: bool) -> bool:
        kinds = ("bool", "float64", "float64") if name == "where" else ("float64",) * len(zero)
        operands = tuple(Value(Spec((3,), np.dtype(kind))) for kind in kinds)
        return keeps_zeros(Instruction(REGISTRY[name], operands, {}, operands[-1:]), zero)

    assert keeps("multiply", True, False) and keeps("multiply", False, True)
    assert keeps("add", True, True) and not keeps("add", True, False)
    assert keeps("tanh", True) and not keeps("exp", True) and not keeps("tanh", False)
    assert keeps("divide", True, False) and not keeps("divide", False, True)
    assert keeps("where", False, True, True) and not keeps("where", False, True, False)
    assert keeps("where", True, False, True) and not keeps("where", True, True, False)


# --- what rests in a program ---------------------------------------------------------------------


def masked(xs: mg.Tensor, real: mg.Tensor, V: mg.Tensor, W: mg.Tensor) -> mg.Tensor:
    h, hs = mg.zeros((B, H), dtype="float64"), []
    for x, flag in zip(xs, real):
        new = mg.tanh(mg.where(flag, x, 0) @ V + h @ W)
        h = mg.where(flag, new, h)
        hs.append(mg.where(flag, new, 0))
    return mg.stack(hs)


def training(xs: mg.Tensor, real: mg.Tensor, V: mg.Tensor, W: mg.Tensor) -> Any:
    return mg.pullback(mg.sum(masked(xs, real, V, W) ** 2), [V, W])


def test_all_products_of_a_masked_training_step_rest_at_its_flag() -> None:
    xs = mg.zeros((T, B, H), dtype="float64")
    found, products, inputs = analysed(training, xs, flags(T, B, 1), weight(), weight())
    at = {(inputs[1], False)}
    by_left = [found.zero.get(s.operands[0]) == at for s in products]
    by_right = [found.zero.get(s.operands[1]) == at for s in products]
    still = [found.still.get(s.operands[0]) == at for s in products]
    assert len(products) == 5  # x V, h W; the cotangent times W^T; two gradients
    assert [any(ways) for ways in zip(by_left, by_right, still, strict=True)] == [True] * 5


def test_a_flag_that_differs_among_columns_is_none_of_rows() -> None:
    xs = mg.zeros((T, B, H), dtype="float64")
    found, products, _ = analysed(training, xs, flags(T, B, H), weight(), weight())
    assert len(products) == 5
    for table in (found.zero, found.still):
        assert not any(table.get(x) for s in products for x in s.operands)


def test_programs_without_a_choice_never_rest() -> None:
    def plain(xs: mg.Tensor, W: mg.Tensor) -> Any:
        h, total = mg.zeros((B, H), dtype="float64"), 0.0
        for x in xs:
            h = mg.tanh(x @ W + h @ W)
            total = total + mg.sum(h)
        return mg.pullback(total, [W])

    found, products, _ = analysed(plain, mg.zeros((T, B, H), dtype="float64"), weight())
    assert products and not any((*found.zero.values(), *found.still.values()))


def test_only_the_side_that_keeps_the_carry_stays() -> None:
    def latched(xs: mg.Tensor, hold: mg.Tensor, W: mg.Tensor) -> mg.Tensor:
        h = mg.zeros((B, H), dtype="float64")
        for x, flag in zip(xs, hold):
            h = mg.where(flag, h, mg.tanh(x + h @ W))
        return h

    def swapped(xs: mg.Tensor, hold: mg.Tensor, W: mg.Tensor) -> mg.Tensor:
        h = g = mg.ones((B, H), dtype="float64")
        for x, flag in zip(xs, hold):  # each holds what the other was
            h, g = mg.where(flag, g, mg.tanh(x + h @ W)), mg.where(flag, h, mg.tanh(x - g @ W))
        return h + g

    xs = mg.zeros((T, B, H), dtype="float64")
    found, products, inputs = analysed(latched, xs, flags(T, B, 1), weight())
    assert found.still[products[0].operands[0]] == {(inputs[1], True)}
    found, products, _ = analysed(swapped, xs, flags(T, B, 1), weight())
    assert products and not any(found.still.get(s.operands[0]) for s in products)


def test_resets_within_lengths_leave_the_carry_still() -> None:
    cell = rnn.GRUCell(H, H)

    def run(xs: mg.Tensor, lengths: mg.Tensor, resets: mg.Tensor) -> mg.Tensor:
        return rnn.unroll(cell, xs, lengths=lengths, resets=resets)[0]

    lengths = mg.Tensor(np.array([5, 2, 0]))
    found, products, _ = analysed(run, mg.zeros((T, B, H)), lengths, flags(T, B))
    assert any(found.still.get(s.operands[0]) for s in products)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_rows_are_zero_where_the_analysis_says(seed: int) -> None:
    """Of finite numbers, in random compositions of choices and arithmetic."""
    rng = np.random.default_rng(seed)
    plan = [(int(rng.integers(7)), *rng.integers(0, 100, 2).tolist()) for _ in range(8)]

    def f(flag: mg.Tensor, *xs: mg.Tensor) -> list[mg.Tensor]:
        known = list(xs)
        for kind, i, j in plan:
            a, b = known[i % len(known)], known[j % len(known)]
            known.append(
                [
                    lambda a, b: mg.where(flag, a, 0), lambda a, b: mg.where(flag, 0, a),
                    lambda a, b: mg.where(flag, a, b), lambda a, b: a * b, lambda a, b: a - b,
                    lambda a, b: mg.tanh(a), lambda a, b: a @ b.reshape(H, H),
                ][kind](a, b)
            )  # fmt: skip
        return known

    flag = mg.Tensor(rng.random((H, 1)) < 0.5)
    graph, _ = programs.captured(f, flag, *(mg.zeros((H, H), dtype="float64") for _ in range(2)))
    found = rest(graph)
    values = f(flag, *(mg.Tensor(rng.normal(size=(H, H))) for _ in range(2)))
    for value, x in zip(graph.outputs, values, strict=True):
        for root, side in found.zero.get(value, ()):
            if root is graph.inputs[0]:
                assert not x.numpy()[flag.numpy()[:, 0] == side].any()

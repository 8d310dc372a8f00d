"""The 23 wrong orders of four gates, put into the LSTM and into the layouts of its weights.

For each of them the test that compares with a literal transcription on random weights must fail.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import minigrad as mg
from minigrad_rnn import LSTMCell, convert
from tests import test_cells, test_convert

Order = tuple[int, ...]


def wrong_orders() -> list[Order]:
    """All orders of four gates but the right one."""
    return [order for order in itertools.permutations(range(4)) if order != (0, 1, 2, 3)]


@contextlib.contextmanager
def in_cell(order: Order) -> Iterator[None]:
    """LSTMCell reads its gates in another order."""
    right = LSTMCell.preactivations

    def wrong(self: LSTMCell, x: Any, h: Any) -> Any:
        parts = mg.split(right(self, x, h), 4, axis=-1)
        return mg.concatenate([parts[n] for n in order], axis=-1)

    LSTMCell.preactivations = wrong  # type: ignore[method-assign]
    try:
        yield
    finally:
        LSTMCell.preactivations = right  # type: ignore[method-assign]


@contextlib.contextmanager
def in_layout(framework: str, order: Order) -> Iterator[None]:
    """convert holds another order for a framework's LSTM."""
    layout = convert.LAYOUTS[framework]
    letters = layout.orders["lstm"]
    spoilt = {**layout.orders, "lstm": "".join(letters[n] for n in order)}
    convert.LAYOUTS[framework] = dataclasses.replace(layout, orders=spoilt)
    try:
        yield
    finally:
        convert.LAYOUTS[framework] = layout


def _check_cell() -> None:
    test_cells.test_values_and_all_gradients_equal_the_transcription("numpy", "lstm")


def _check_layout(framework: str) -> None:
    case = next(case for case in test_convert.CASES if case[:2] == (framework, "lstm"))
    test_convert.test_loaded_weights_compute_what_the_framework_computes("numpy", *case)


# Flax has an array a gate, with the gate in its name: no order.
ORDERED = [name for name in convert.LAYOUTS if name != "flax"]
PLACES: dict[str, tuple[Callable[[Order], Any], Callable[[], None]]] = {
    "LSTMCell": (in_cell, _check_cell),
    **{
        f"weights of {name}": (partial(in_layout, name), partial(_check_layout, name))
        for name in ORDERED
    },
}


def survivors(place: str) -> list[Order]:
    """The wrong orders at one place that its test does not notice; the right one must pass."""
    applied, check = PLACES[place]
    unnoticed = []
    with mg.use_backend("numpy"):
        check()
        for order in wrong_orders():
            with applied(order), contextlib.suppress(AssertionError):
                check()
                unnoticed.append(order)
    return unnoticed

"""Nested list operations (Nangia and Bowman 2018): a Tree-LSTM on the tree, an LSTM on the tokens.

"[MAX 2 9 [MIN 4 7] 0]" is 9; SM is the sum modulo 10, MED the lower median. Both see the brackets,
the one as a tree, the other as symbols in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Embedding, Linear, Module
from minigrad.optim import Adam, clip_by_global_norm
from minigrad_rnn.cells import LSTMCell
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.recursive import ChildSumTreeLSTMCell, Tree, recurse
from minigrad_rnn.unrolling import unroll

OPERATIONS: dict[str, Callable[[list[int]], int]] = {
    "MAX": max,
    "MIN": min,
    "MED": lambda digits: sorted(digits)[(len(digits) - 1) // 2],
    "SM": lambda digits: sum(digits) % 10,
}
CLOSE = 10 + len(OPERATIONS)  # symbols: the digits, the operations, the bracket at the end


class Size(NamedTuple):
    """How large the lists, the networks and the training are."""

    operations: int  # the first so many
    arguments: int  # at most, and at least 2
    depth: int  # at most
    H: int
    updates: int
    rate: float
    batch: int = 32
    tested: int = 1000


FULL = Size(operations=4, arguments=4, depth=4, H=64, updates=6_000, rate=3e-3)
QUICK = Size(operations=2, arguments=3, depth=3, H=24, updates=100, rate=1e-2, tested=500)


def expression(rng: np.random.Generator, size: Size, depth: int) -> Tree:
    """A list whose arguments are digits or, half of them while depth is left, lists."""
    arguments = [
        expression(rng, size, depth - 1)
        if depth > 1 and rng.random() < 0.5
        else Tree(int(rng.integers(10)))
        for _ in range(rng.integers(2, size.arguments + 1))
    ]
    return Tree(10 + int(rng.integers(size.operations)), tuple(arguments))


def result(tree: Tree) -> int:
    """What an expression evaluates to."""
    if not tree.children:
        return int(tree.value)
    operation = list(OPERATIONS.values())[tree.value - 10]
    return operation([result(child) for child in tree.children])


def symbols(tree: Tree) -> list[int]:
    """An expression as it is written: operation, arguments, bracket."""
    if not tree.children:
        return [tree.value]
    return [tree.value, *(s for child in tree.children for s in symbols(child)), CLOSE]


class Reader(Module):
    """Logits of the ten results, (B, 10), of expressions: a linear layer on the last h."""

    def __init__(self, cell: Any, H: int) -> None:
        self.cell = cell
        self.embedding = Embedding(CLOSE + 1, H)
        self.readout = Linear(H, 10)


class TreeReader(Reader):
    """A Tree-LSTM: a node's input is its digit or operation, its children are the arguments."""

    def __init__(self, H: int) -> None:
        super().__init__(ChildSumTreeLSTMCell(H, H), H)

    def __call__(self, trees: list[Tree]) -> mg.Tensor:
        _, (h, _) = recurse(self.cell, trees, self.embedding.W)
        return self.readout(h)


class ChainReader(Reader):
    """An LSTM over the symbols, left to right."""

    def __init__(self, H: int) -> None:
        super().__init__(LSTMCell(H, H), H)

    def __call__(self, trees: list[Tree]) -> mg.Tensor:
        rows = [symbols(tree) for tree in trees]
        lengths = [len(row) for row in rows]
        padded = [row + [CLOSE] * (max(lengths) - len(row)) for row in rows]
        tokens = mg.Tensor(np.array(padded).T, backend=self.embedding.W.backend)
        _, (h, _) = unroll(self.cell, self.embedding(tokens), lengths=lengths)
        return self.readout(h)


READERS: dict[str, Callable[[int], Any]] = {"tree": TreeReader, "chain": ChainReader}


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """Train on random lists, then count right results of new ones."""
    size = QUICK if quick else FULL
    mg.random.seed(seed)
    rng = np.random.default_rng(seed)
    reader = READERS[variant](size.H)
    parameters = reader.parameters()
    optimizer = Adam(parameters, lr=size.rate)
    for i in range(size.updates):
        trees = [expression(rng, size, size.depth) for _ in range(size.batch)]
        loss = F.cross_entropy(reader(trees), [result(tree) for tree in trees])
        optimizer.zero_grad()
        loss.backward()
        clip_by_global_norm(parameters, 5.0)
        optimizer.step()
        if i % 10 == 9:
            yield (i + 1) / size.updates, loss.item()
    with mg.no_grad():
        trees = [expression(rng, size, size.depth) for _ in range(size.tested)]
        guessed = mg.argmax(reader(trees), axis=-1).numpy()
    return float(np.mean(guessed == [result(tree) for tree in trees]))


EXPERIMENT = Experiment(
    name="listops",
    row="F6",
    question="Does a network that follows the tree evaluate nested lists better than a chain?",
    measure="share of right results",
    variants=tuple(READERS),
    run=run,
    bars=(
        Bar("the tree's median is at least 0.8", lambda r: median(r["tree"]) >= 0.8),
        Bar(
            "and at least 0.1 above the chain's",
            lambda r: median(r["tree"]) >= median(r["chain"]) + 0.1,
        ),
    ),
    quick_bars=(
        Bar(
            "after as many lists the tree is at least 0.1 above the chain",
            lambda r: min(r["tree"]) >= max(r["chain"]) + 0.1,
        ),
    ),
)

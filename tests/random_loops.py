"""Random programs with loops of (3, 3) values: every way in which loops bring values on."""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad.graph import Affine, Carry, Collected, Graph, Indexed, Instruction, Loop, Value
from minigrad.graph.ir import Counter, Sliced, Stacked, spec_of
from minigrad.op import REGISTRY
from minigrad.spec import Spec

N = 3
FLOAT = np.dtype("float64")
UNARY = ("tanh", "sigmoid", "negative", "alias", "absolute")
BINARY = ("add", "subtract", "multiply", "maximum", "where", "matmul")


class Writer:
    """Writes steps at random; every value is (N, N), wholes are (T, N, N)."""

    def __init__(self, seed: int, native: bool = False) -> None:
        self.native = native
        self.rng = np.random.default_rng(seed)
        self.steps: list[Any] = []
        self.wholes: list[Value] = []
        self.counters: list[tuple[Counter, int]] = []

    def make(self, name: str, *operands: Any, **static: Any) -> Value:
        op = REGISTRY[name]
        counted = {key: 0 if isinstance(x, Affine) else x for key, x in static.items()}
        if name == "index":
            items = static["template"]
            counted["template"] = tuple(0 if isinstance(x, Affine) else x for x in items)
        found = op.shape(*map(spec_of, operands), **counted)
        output = Value(Spec(tuple(found.shape), found.dtype))
        self.steps.append(Instruction(op, operands, static, (output,)))
        return output

    def pick(self, pool: list[Any]) -> Any:
        return pool[self.rng.integers(len(pool))]

    def one(self, pool: list[Any]) -> Value:
        """One more value out of some of those there are, small enough to go on."""
        kind, x = self.rng.integers(10), self.pick(pool)
        kind = 9 if self.native and kind in (4, 5) else kind
        if kind == 0:
            return self.make(self.pick(list(UNARY)), x)
        if kind == 1:
            return self.make("transpose", x, axes=(1, 0))
        if kind == 2:
            return self.make("flip", x, axis=(int(self.rng.integers(2)),))
        if kind == 3:
            return self.make("add", self.make("sum", x, axis=(1,), keepdims=True), self.pick(pool))
        if kind == 4 and self.counters and self.wholes:
            counter, trips = self.pick(self.counters)
            whole = self.pick(self.wholes)
            rows = whole.spec.shape[0]
            if rows >= trips:
                down = bool(self.rng.integers(2))
                place = Affine(rows - 1, -1, counter) if down else Affine(rows - trips, 1, counter)
                return self.make("index", whole, template=(place, slice(None), slice(None)))
        if kind == 5:  # a new array each time, in memory of its own
            return self.make("roll", x, shift=1, axis=0)
        name, y = self.pick(list(BINARY)), self.pick(pool)
        if name == "where":
            return self.make("where", self.make("greater", x, y), x, self.pick([*pool, 0.5]))
        if name == "matmul":
            return self.make("tanh", self.make("matmul", x, y))
        return self.make(name, x, self.pick([y, 0.5]) if name == "multiply" else y)

    def loop(self, pool: list[Any], depth: int) -> list[Value]:
        """A loop; returns what is known after it."""
        rng, trips = self.rng, int(self.rng.integers(1, 6))
        outer, self.steps = self.steps, []
        counter = Counter()
        self.counters.append((counter, trips))

        def value() -> Value:
            return Value(Spec((N, N), FLOAT))

        initial = [
            tuple(self.pick(pool) for _ in range(rng.integers(1, 4)))
            for _ in range(rng.integers(4))
        ]
        carried = [value() for _ in initial]
        indexed = [
            Indexed(value(), tuple(self.pick(pool) for _ in range(trips)))
            for _ in range(0 if self.native else rng.integers(2))
        ]
        sliced = []
        for whole in self.wholes:
            if whole.spec.shape[0] >= trips and rng.integers(2):
                places = [(0, 1), (trips - 1, -1)]
                sliced.append(Sliced(value(), whole, *self.pick(places)))
        parameters = [*carried, *(i.parameter for i in indexed), *(s.parameter for s in sliced)]
        inner = [*pool, *parameters, *parameters]
        for _ in range(rng.integers(1, 7)):
            if depth and not rng.integers(4):
                inner += self.loop(inner, depth - 1)
            else:
                inner.append(self.one(inner))
        body, self.steps = self.steps, outer
        self.counters.pop()
        results = [x for x in inner if x not in pool] or pool
        carries = [Carry(p, self.pick(results), x) for p, x in zip(carried, initial)]
        collected, stacked = [], []
        for _ in range(rng.integers(3)):
            last = trips - 1
            kept = [t for t in range(trips) if t == last or (rng.integers(2) and not self.native)]
            collected.append(Collected(self.pick(results), {t: value() for t in kept}))
        for _ in range(rng.integers(3)):
            first = tuple(self.pick(pool) for _ in range(rng.integers(3)))
            rows = trips + len(first)
            start, step = (len(first), 1) if rng.integers(2) else (trips - 1, -1)
            whole = Value(Spec((rows, N, N), FLOAT))
            stacked.append(Stacked(self.pick(results), whole, start, step, first))
        found = Loop(
            trips, tuple(body), tuple(carries), tuple(indexed), tuple(collected), tuple(sliced),
            tuple(stacked), counter,
        )  # fmt: skip
        self.steps.append(found)
        known = [v for c in collected for v in c.outputs.values()]
        for whole in (s.whole for s in stacked):
            known.append(self.make("sum", whole, axis=(0,), keepdims=False))
        if not self.counters:
            self.wholes += [s.whole for s in stacked]
        return known


def random_graph(seed: int, native: bool = False) -> tuple[Graph, list[np.ndarray]]:
    """A graph, and arrays for its inputs: four (N, N) and one (5, N, N).

    native: only what fold, whole and the other passes leave of most programs: loops that read and
    keep rows of wholes, and ops that are kernels, views, products or joins.
    """
    writer = Writer(seed, native)
    inputs = [Value(Spec((N, N), FLOAT)) for _ in range(4)]
    inputs.append(Value(Spec((5, N, N), FLOAT)))
    constant = mg.Tensor(writer.rng.normal(size=(N, N)))
    pool: list[Any] = [*inputs[:4], Value(Spec((N, N), FLOAT), constant=constant)]
    writer.wholes.append(inputs[4])
    for _ in range(writer.rng.integers(2, 7)):
        if writer.rng.integers(2):
            pool += writer.loop(pool, 2)
        else:
            pool.append(writer.one(pool))
    outputs = tuple(writer.pick(pool) for _ in range(4))
    graph = Graph(tuple(inputs), tuple(writer.steps), (*outputs, *writer.wholes[-1:]))
    return graph, [np.asarray(writer.rng.normal(size=v.spec.shape)) for v in inputs]

"""A graph's steps walked once on symbols: what a program calls, one after another.

Iterations of a loop whose parameters lie alike in memory share a body; the first few often differ,
for they see the initial values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from minigrad.graph.engine import Op, Static, Tensor, bare, promote
from minigrad.graph.ir import (
    Affine,
    Counter,
    Graph,
    Instruction,
    Loop,
    Operand,
    Stacked,
    Step,
    Value,
    at_iteration,
    map_static,
)
from minigrad.graph.properties import looks_at_values
from minigrad_numpy.symbols import Body, Layout, Queue, Recorder, Root, Symbol, compact, extent, row


def fixed(x: Symbol) -> bool:
    """Whether a symbol lies at one address throughout every run."""
    top = x.root.body.parent is None or x.t is not None
    return x.root.constant is not None or (top and not x.root.given)


def running(x: Any) -> bool:
    """Whether a value of an iteration is known when the loop is there, not before."""
    return isinstance(x, Symbol) and x.root.given and x.t is not None


class PerIteration(dict[Any, Callable[..., Any]]):
    """An op by the iterations that its static arguments depend on."""

    def __init__(self, make: Callable[..., Callable[..., Any]]) -> None:
        self.make = make
        self.copies = False  # of results that are views of planned memory

    def __missing__(self, t: Any) -> Callable[..., Any]:
        found = self.make(*(t if isinstance(t, tuple) else (t,)))
        self[t] = partial(_copied, found) if self.copies else found
        return self[t]


def _copied(function: Callable[..., Any], *arrays: Any) -> Any:
    found = function(*arrays)
    return [np.copy(x) for x in found] if isinstance(found, list) else np.copy(found)


class Walk(Recorder):
    """The entries of a graph's program for inputs that lie in memory as given."""

    def __init__(self, graph: Graph, backend: Any, inputs: Sequence[Layout]) -> None:
        self.backend = backend
        self.wanted = set(graph.outputs)
        self.top = self.body = Body()
        self.counters: dict[Counter, Body] = {}
        self.known: dict[Value, Any] = {}
        self.constants: dict[Any, Symbol] = {}
        self.inputs = [Symbol(self, Root(self.top, given=True), 0, like) for like in inputs]
        self.known.update(zip(graph.inputs, self.inputs, strict=True))
        for step in graph.steps:
            self.step(step)
        self.outputs = [self.find(value) for value in graph.outputs]

    def find(self, x: Operand) -> Any:
        if not isinstance(x, Value):
            return x
        return self.known[x] if x.constant is None else self.constant(x, bare(x.constant))

    def constant(self, key: Any, array: np.ndarray) -> Symbol:
        if key not in self.constants:
            root = Root(self.top, constant=array)
            self.constants[key] = Symbol(self, root, extent(array)[0], array)
        return self.constants[key]

    def step(self, step: Step) -> None:
        if isinstance(step, Loop):
            self.loop(step)
            return
        begun = len(self.body.entries)
        results = self.instruction(step)
        self.known.update(zip(step.outputs, results, strict=True))
        # What is returned is made anew by each call.
        if self.body is self.top:
            made = self.body.entries[begun:]
            for value, symbol in zip(step.outputs, results, strict=True):
                if value in self.wanted and symbol.root.entry in made:
                    symbol.root.given = symbol.root.output = True

    # --- ops

    def instruction(self, step: Instruction) -> list[Symbol]:
        operands = self.promoted(step.op, [self.find(x) for x in step.operands])
        counters: dict[Counter, Body] = {}

        def note(leaf: Any) -> None:
            if isinstance(leaf, Affine):
                counters[leaf.counter] = self.counters[leaf.counter]

        map_static(note, step.static)
        if counters:
            return self.moving(step, operands, counters)
        if looks_at_values(step):  # a call of its own: the op may give its operand back as it is
            self.effect(partial(step.op.check, self.backend, **step.static), operands, step.op.name)
            forward = self.bound(step.op)
            forward = partial(forward, **step.static) if step.static else forward
            return self.called(step, operands, forward)
        return self.followed(step.op, operands, step.static) or self.called(
            step, operands, self.checked(step.op, step.static)
        )

    def promoted(self, op: Op, operands: list[Any]) -> list[Any]:
        """Operands in the dtype that an op computes in, as the eager engine has it."""
        found = [x for x in operands if isinstance(x, Symbol)]
        if not found:  # numbers alone: the first is a tensor
            array = bare(Tensor(operands[0], backend=self.backend))
            found = [self.constant((operands[0].__class__, repr(operands[0])), array)]
            operands = [found[0], *operands[1:]]
        dtype, weak = found[-1].dtype, len(found) < len(operands)
        mixed = any(x.dtype != dtype for x in found)
        integral = dtype.kind != "f" and (weak or op.dtypes == "float")
        if mixed or (weak and not op.weak) or integral:
            operands = promote(op, operands, self.backend)
        return [
            self.constant((x.dtype.str, x.tobytes()), x) if isinstance(x, np.ndarray) else x
            for x in operands
        ]

    def bound(self, op: Op) -> Callable[..., Any]:
        return op.bound.get(self.backend) or op.bind(self.backend)

    def checked(self, op: Op, static: Static) -> Callable[..., Any]:
        """The op of arrays alone, called as it is, its check before it."""
        forward = partial(self.bound(op), **static) if static else self.bound(op)
        if op.check is None:
            return forward
        check = partial(op.check, self.backend, **static)

        def run(*arrays: Any) -> Any:
            check(*arrays)
            return forward(*arrays)

        return run

    def followed(self, op: Op, operands: list[Any], static: Static) -> list[Symbol] | None:
        """The results of an op's forward run on symbols, or None where it is more than they do."""
        if op.name in getattr(self.backend, "kernels", {}):
            return None
        begun = len(self.body.entries)
        try:
            if op.check is not None:  # one that looks at no value need not be run again
                op.check(self.backend, *operands, **static)
            space = self.backend.xp if op.namespace == "xp" else self.backend
            made = op.forward(space, *operands, **static)
        except Exception:
            made = None
        results = list(made) if op.outputs and made is not None else [made]
        of_given = op.outputs and any(r.root.given for r in results if isinstance(r, Symbol))
        if of_given or not all(isinstance(r, Symbol) for r in results):  # many views: one call
            del self.body.entries[begun:]
            return None
        return results

    def called(
        self, step: Instruction, operands: list[Any], function: Callable[..., Any]
    ) -> list[Symbol]:
        specs = [value.spec for value in step.outputs]
        several = step.op.outputs
        made = self.call(function, operands, specs=specs, several=several, name=step.op.name)
        return made if several else [made]

    def moving(
        self, step: Instruction, operands: list[Any], counters: dict[Counter, Body]
    ) -> list[Symbol]:
        """An op whose static arguments depend on iterations."""
        bodies = tuple(counters.values())
        begun = len(self.body.entries)

        def at(*iterations: int) -> Static:
            return at_iteration(step.static, dict(zip(counters, iterations, strict=True)))

        def views(t: int) -> list[Any] | None:
            """The results in an iteration, if they are views of what lies there."""
            outer, self.body = self.body, Body(bodies[0])
            found = self.followed(step.op, operands, at(t))
            views = found is not None and not any(entry.fresh for entry in self.body.entries)
            self.body = outer
            found = [self.at(x, bodies[0], t) for x in found or ()]
            return found if views and all(fixed(x) for x in found) else None

        start = [body.start for body in bodies]
        first = views(start[0]) if len(bodies) == 1 else None
        if first is not None:
            found = []
            for i, like in enumerate(first):
                root = Root(bodies[0], source=lambda t, i=i: views(t)[i])
                found.append(like.moved(root, 0))
                bodies[0].parameters.append(found[-1])
            return found
        table = PerIteration(lambda *iterations: self.checked(step.op, at(*iterations)))
        results = self.called(step, operands, lambda *arrays: table[tuple(start)](*arrays))
        entry = self.body.entries[begun]
        entry.function, entry.counters = table, bodies
        if not all(x.root.entry is entry or _lasting(x) for x in results):
            table.copies = entry.fresh = True
        entry.results = [x.moved(Root(self.body, given=True, entry=entry), 0) for x in results]
        return entry.results

    # --- loops

    def loop(self, loop: Loop) -> None:
        outer = self.body
        past = [[self.find(x) for x in carry.initial] for carry in loop.carries]
        items = [[self.find(x) for x in indexed.items] for indexed in loop.indexed]
        slices = [
            [row(self.find(s.whole), s.start + s.step * t) for t in range(loop.trips)]
            for s in loop.sliced
        ]
        wholes = [self.whole(stacked) for stacked in loop.stacked]
        sequences = [*past, *items, *slices]
        results = {c.result: [] for c in (*loop.collected, *loop.stacked)}
        place, bodies = len(outer.entries), []
        for t in range(loop.trips):
            kinds = [_kind(sequence[t]) for sequence in sequences]
            if not bodies or bodies[-1].kinds != kinds:
                bodies.append(self.iterations(loop, t, kinds, sequences))
                for stacked, whole in zip(loop.stacked, wholes):
                    self.stacked(bodies[-1], stacked, whole)
            body = bodies[-1]
            body.stop = t + 1
            for carry, known in zip(loop.carries, past):
                known.append(self.at(body.results[carry.result], body, t))
            for value, known in results.items():
                known.append(self.at(body.results[value], body, t))
        queues: list[Queue] = []

        def queue(value: Value, size: int | None) -> Queue:
            queues.append(Queue(size))
            for body in bodies:
                body.tails.append((queues[-1], body.results[value]))
            return queues[-1]

        for k, (carry, known) in enumerate(zip(loop.carries, past)):
            if any(map(running, known[: loop.trips])):
                last = queue(carry.result, carry.delay)
                for body in bodies:
                    if running(known[body.start]):
                        body.parameters[k].item = last, 0
        for collected in loop.collected:
            known = results[collected.result]
            everything = queue(collected.result, None) if any(map(running, known)) else None
            for t, value in collected.outputs.items():
                self.known[value] = known[t]
                if running(known[t]):
                    self.known[value] = known[t].moved(Root(outer, given=True), 0)
                    self.known[value].item = everything, t
        outer.entries[place:place] = queues

    def whole(self, stacked: Stacked) -> Symbol:
        like = compact(*stacked.whole.spec)
        whole = Symbol(self, Root(self.body, extent(like)[1]), 0, like)
        self.known[stacked.whole] = whole
        for i, value in enumerate(stacked.initial, -len(stacked.initial)):
            self.copy_into(row(whole, stacked.start + stacked.step * i), self.find(value))
        return whole

    def stacked(self, body: Body, stacked: Stacked, whole: Symbol) -> None:
        """Let a body write its result into a row of the whole: at once, where nothing forbids."""
        result = body.results[stacked.result]
        like = row(whole, 0)
        if whole.root.body is self.top and _alone(result, body) and result.strides == like.strides:
            result.root.rows = whole, stacked.start, stacked.step
            return

        def source(t: int) -> Symbol:
            return row(whole, stacked.start + stacked.step * t)

        target = like.moved(Root(body, given=not fixed(whole), source=source), 0)
        body.parameters.append(target)
        outer, self.body = self.body, body
        self.copy_into(target, result)
        self.body = outer

    def iterations(self, loop: Loop, t: int, kinds: Any, sequences: list[list[Any]]) -> Body:
        """The body of the iterations from t on whose parameters are of some kinds."""
        outer = self.body
        self.body = body = Body(outer, loop, t, t, kinds)
        self.counters[loop.counter] = body
        outer.entries.append(body)
        for parameter, sequence in zip(loop.parameters, sequences, strict=True):
            x = self.known[parameter] = sequence[t]
            if isinstance(x, Symbol):
                x = x.moved(Root(body, given=not fixed(x), source=sequence.__getitem__), 0)
                self.known[parameter] = x
            body.parameters.append(x)
        for step in loop.body:
            self.step(step)
        for value in loop.results:
            x = self.find(value)
            if isinstance(x, Symbol) and self.passing(x, body):
                x = self.known[value] = x.astype(x.dtype)
            body.results[value] = x
        self.body = outer
        return body

    def passing(self, x: Symbol, body: Body) -> bool:
        """Whether a result lies where nobody sees to it that it stays: in an inner loop's memory,

        or it is a view, made at run time, of what a parameter is.
        """
        if x.root.body is not body:
            return body in x.root.body.outwards()
        view = not any(x is parameter for parameter in body.parameters)
        return x.root.source is not None and x.root.given and view

    def at(self, x: Any, body: Body, t: int) -> Any:
        """What a symbol of a body is in its iteration t, seen from elsewhere."""
        if not isinstance(x, Symbol) or x.root.body is not body or x.t is not None:
            return x
        base = x.root.source(t) if x.root.source else None
        if base is not None and not base.root.given:
            return x.moved(base.root, base.offset + x.offset, base.t)
        if any(x is parameter for parameter in body.parameters):
            return base
        return x.moved(x.root, x.offset, t)


def _lasting(x: Symbol) -> bool:
    """Whether a symbol is of memory that nothing writes again."""
    return x.root.given and x.root.source is None


def _alone(x: Any, body: Body) -> bool:
    """Whether a symbol is all of some planned memory of a body."""
    if not isinstance(x, Symbol) or x.root.body is not body or x.root.given or x.root.source:
        return False
    return x.root.rows is None and extent(x) == (0, x.root.nbytes)


def _kind(x: Any) -> Any:
    if isinstance(x, Symbol):
        return x.strides, fixed(x), running(x)
    return x.__class__, repr(x)

"""stretch: a folded graph for sequences of another length than it was captured for.

What the length decides is looked for, not asked of ops: the loop gets more iterations, shape rules
are evaluated again, and where one objects, an input, a constant or a static integer has to follow.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter as Counted
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad.graph.checks import describe, verify
from minigrad.graph.ir import (
    Affine,
    Carry,
    Collected,
    Counter,
    Graph,
    GraphError,
    Indexed,
    Instruction,
    Loop,
    Operand,
    Step,
    Value,
    map_static,
    spec_of,
)
from minigrad.graph.sizes import Size, continued, integers, more_constants, with_sizes
from minigrad.graph.skeleton import fresh
from minigrad.op import REGISTRY, Static
from minigrad.spec import Spec
from minigrad.tensor import Tensor

PROBE = 101  # how many steps longer the graph is made to see what follows
MORE = "capture more steps, among which the ends are easier to tell"
LISTS = ("stack", "concatenate")  # ops whose number of operands may follow


def stretch(graph: Graph, T: int) -> Graph:
    """The graph as captured for T steps in place of those that its longest outer loop goes along.

    Sizes follow where the loop's items, shape rules and means ask for it; what is taken by its
    number counts from the end it is near. Raises GraphError where there is no loop, where values
    would be needed that the graph does not hold (a mask's further rows), where too few steps were
    captured to tell the ends apart, and where T leaves no room for them.
    """
    if T < 1:
        raise GraphError(f"a sequence of {T} steps")
    loops = [step for step in graph.steps if isinstance(step, Loop)]
    if not loops:
        raise GraphError("the graph has no loop, hence no length to change")
    longest = max(loops, key=lambda loop: loop.trips)
    follows: Follows = {}
    source = _unstacked(longest, graph)
    length = longest.trips if source is None else len(source.outputs)
    if source is None:
        follows[longest, 0] = 1
    else:
        probe = _Attempt(graph, length, length + PROBE, follows)
        probe.steps(graph.steps[: graph.steps.index(source)])
        probe.resize(source.operands[0], source.static["axis"], length + PROBE)
    known: Follows | None = None
    while follows != known:
        known = dict(follows)
        try:
            _Attempt(graph, length, length + PROBE, follows).graph()
        except _Again:
            continue
        return verify(_Attempt(graph, length, T, follows, settled=True).graph())
    raise GraphError("sizes of the graph follow its length in no way that can be told")


def _unstacked(loop: Loop, graph: Graph) -> Instruction | None:
    """What unstacks the sequence that a loop goes along, if anything does."""
    items = {x for indexed in loop.indexed for x in indexed.items}
    unstacked = (s for s in graph.steps if isinstance(s, Instruction) and s.op.name == "unstack")
    return next((step for step in unstacked if not items.isdisjoint(step.outputs)), None)


# By how much a size grows with each step: of (an input or a constant, axis), (an instruction, which
# of its static integers), (a loop, 0), its iterations.
Follows = dict[tuple[Any, int], int]


class _Again(Exception):
    """Something more follows the length than was known."""


@dataclass(eq=False)
class _Group:
    """Values known by number: outputs of a multi-output op, or of a loop's iterations."""

    old: int
    new: list[Value]
    before: dict[int, Operand] = field(default_factory=dict)  # of iterations before the first

    def place(self, p: int) -> int:
        """The number that the p-th has now: near the end it counts from there."""
        if self.old == len(self.new):
            return p
        if min(p, self.old - 1 - p) > self.old // 4:
            raise GraphError(f"item {p} of {self.old} is near neither end; {MORE}")
        return p if 2 * p < self.old else len(self.new) - (self.old - p)

    def at(self, p: int) -> Operand:
        if 0 <= p < len(self.new):
            return self.new[p]
        if p not in self.before:
            raise _too_short()
        return self.before[p]


def _too_short() -> GraphError:
    return GraphError("T is too small: iterations at the ends differ, and need to be apart")


class _Attempt:
    """The graph at another length, as far as it is known what follows."""

    def __init__(
        self, graph: Graph, length: int, T: int, follows: Follows, settled: bool = False
    ) -> None:
        self.old, self.length, self.T, self.settled = graph, length, T, settled
        self.known, self.follows = dict(follows), follows  # what is found out is for the next
        self.new: dict[Operand, Operand] = {}
        self.groups: dict[Operand, tuple[_Group, int]] = {}
        self.makers: dict[Operand, Any] = {}  # instruction, Carry, Indexed or Collected
        self.counters: dict[Counter, tuple[Counter, int]] = {}  # and how many iterations more
        self.counts: dict[int, int] = {length: T}
        self.inputs = [self.resized(v) for v in graph.inputs]
        self.new.update(zip(graph.inputs, self.inputs, strict=True))

    def graph(self) -> Graph:
        steps = self.steps(self.old.steps)
        outputs = tuple(_value(self.find(v)) for v in self.old.outputs)
        return Graph(tuple(self.inputs), tuple(steps), outputs, self.old.notes)

    def grown(self, size: int, what: Any, i: int) -> int:
        return size + self.known.get((what, i), 0) * (self.T - self.length)

    def resized(self, value: Value) -> Value:
        """An input or a constant, of the sizes that follow."""
        shape = tuple(self.grown(n, value, axis) for axis, n in enumerate(value.spec.shape))
        if shape == tuple(value.spec.shape):
            return value
        if value.constant is None:
            return Value(Spec(shape, value.spec.dtype), value.name)
        host = value.constant.numpy()
        for axis, n in enumerate(shape):
            host = continued(host, axis, n)
        made = Tensor(host, backend=value.constant.backend)
        return Value(Spec(shape, value.spec.dtype), value.name, made)

    def find(self, x: Operand) -> Operand:
        if isinstance(x, Value) and x not in self.new:
            if x.constant is not None:
                self.new[x] = self.resized(x)
            elif x in self.groups:
                group, p = self.groups[x]
                return group.at(group.place(p))
        return self.new.get(x, x) if isinstance(x, Value) else x

    def series(self, items: Sequence[Operand]) -> list[Operand]:
        """Operands in a list; the evenly spaced members of a group become as many as there are."""
        found: list[Operand] = []
        i = 0
        while i < len(items):
            group, p = self.groups.get(items[i], (None, 0))
            j = i + 1
            step = 0
            while group is not None and j < len(items):
                other, q = self.groups.get(items[j], (None, 0))
                if other is not group or (step and q - p != step * (j - i)):
                    break
                step = step or q - p
                j += 1
            if group is None or not step or (j - i == 2 and abs(step) > 1):
                found.append(self.find(items[i]))
                i += 1
                continue
            first, last = group.place(p), group.place(p + step * (j - i - 1))
            count, rest = divmod(last - first, step)
            if rest or count < -1:
                raise _too_short()
            found += [group.at(first + step * k) for k in range(count + 1)]
            i = j
        return found

    def filled(self, items: Sequence[Operand], found: list[Operand]) -> list[Operand]:
        """A list with an entry for (almost) each step has one operand again and again for those
        that fed nothing, a gradient of 0: it is there as often as there are steps left."""
        often, count = Counted(items).most_common(1)[0]
        more = self.T - self.length + len(items) - len(found)
        if abs(len(items) - self.length) > 2 or not more or count < 2:
            return found
        if count + more < 0:
            raise _too_short()
        place = found.index(self.find(often))
        return [*found[:place], *[found[place]] * (count + more), *found[place + count :]]

    # steps

    def steps(self, steps: Iterable[Step]) -> list[Step]:
        made: list[Step] = []
        for step in steps:
            made += self.loop(step) if isinstance(step, Loop) else [self.instruction(step)]
        return made

    def instruction(self, step: Instruction) -> Instruction:
        self.makers.update(dict.fromkeys(step.outputs, step))
        listed = step.op.name in LISTS
        operands = self.series(step.operands) if listed else list(map(self.find, step.operands))
        if step.op.name == "stack":
            operands = self.filled(step.operands, operands)
        if step.op.name == "divide" and isinstance(operands[1], int):  # by the count of a mean
            operands[1] = self.counts.get(operands[1], operands[1])
        static = self.static(step)
        specs = self.shapes(step, [spec_of(x) for x in operands], static)
        if specs is None:
            self.reconcile(step, operands, static)
            raise _Again
        if step.op.name == "sum":
            self.count(step, spec_of(operands[0]))
        if step.op.name == "unstack" and len(specs) == self.length != self.T and self.settled:
            raise GraphError(f"nothing tells whether {len(specs)} items are the steps; {MORE}")
        outputs = [Value(spec, step.outputs[0].name) for spec in specs]
        if step.op.outputs:
            group = _Group(len(step.outputs), outputs)
            self.groups.update({v: (group, i) for i, v in enumerate(step.outputs)})
        else:
            self.new[step.outputs[0]] = outputs[0]
        return Instruction(step.op, tuple(operands), static, tuple(outputs))

    def count(self, step: Instruction, spec: Spec) -> None:
        """Know how many numbers a sum adds up, for the mean that divides by it."""
        axes = step.static["axis"]
        was, now = (
            math.prod(s.shape[axis] for axis in axes) for s in (spec_of(step.operands[0]), spec)
        )
        if was != now:
            self.counts[was] = now

    def static(self, step: Instruction, others: Mapping[int, int] | None = None) -> Static:
        """Static arguments with the integers that follow, and others in some places."""
        places = itertools.count()

        def filled(leaf: Any) -> Any:
            if leaf.__class__ is int:
                i = next(places)
                return others[i] if others and i in others else self.grown(leaf, step, i)
            if not isinstance(leaf, Affine):
                return leaf
            if step.op.name in ("index", "scatter"):
                raise GraphError(
                    f"{step.op.name} takes an item by the number of the iteration, of a size that "
                    f"may follow the length or not; go through unstack, as by `for x in xs`"
                )
            counter, more = self.counters[leaf.counter]
            return Affine(leaf.start - min(leaf.step, 0) * more, leaf.step, counter)

        return map_static(filled, step.static)  # type: ignore[no-any-return]

    def loop(self, loop: Loop) -> list[Step]:
        """The loop with as many iterations as items; nothing where none are left."""
        trips, items = self.items(loop)
        counter = Counter()
        self.counters[loop.counter] = counter, trips - loop.trips
        initial = [tuple(map(self.find, carry.initial)) for carry in loop.carries]
        if not trips:
            for old in loop.collected:
                self.collect(loop, old, [])
            return []
        for carry, starts in zip(loop.carries, initial, strict=True):
            self.make(carry.parameter, spec_of(starts[0]), carry)
        for indexed, given in zip(loop.indexed, items, strict=True):
            self.make(indexed.parameter, spec_of(given[0]), indexed)
        body = self.steps(loop.body)
        carries, indexes, kept = [], [], []
        for carry, starts in zip(loop.carries, initial, strict=True):
            parameter, result = _value(self.find(carry.parameter)), _value(self.find(carry.result))
            sizes = zip(parameter.spec.shape, result.spec.shape, strict=True)
            for axis, (n, m) in enumerate(sizes):
                if n != m:
                    self.resize(carry.parameter, axis, m)
                    raise _Again
            carries.append(Carry(parameter, result, starts))
        for indexed, given in zip(loop.indexed, items, strict=True):
            indexes.append(Indexed(_value(self.find(indexed.parameter)), tuple(given)))
        for old in loop.collected:
            result = _value(self.find(old.result))
            new = [fresh(result) for _ in range(trips)]
            self.collect(loop, old, new)
            kept.append(Collected(result, dict(enumerate(new))))
        return [Loop(trips, tuple(body), tuple(carries), tuple(indexes), tuple(kept), counter)]

    def items(self, loop: Loop) -> tuple[int, list[list[Operand]]]:
        """How many iterations there are, and the items of each indexed input."""
        items = [self.series(indexed.items) for indexed in loop.indexed]
        known = [all(_is_constant(x) for x in indexed.items) for indexed in loop.indexed]
        lengths = [len(given) for given, constant in zip(items, known, strict=True) if not constant]
        trips = max(lengths, default=self.grown(loop.trips, loop, 0))
        for i, indexed in enumerate(loop.indexed):
            if known[i]:
                items[i] = more_constants(items[i], trips)
            elif len(items[i]) != trips:
                self.more_items(indexed, trips - len(items[i]))
                raise _Again
        return trips, items

    def collect(self, loop: Loop, old: Collected, new: list[Value]) -> None:
        """Know what the loop gives by its number; before the first iteration, initial values."""
        before = {
            i - carry.delay: self.find(x)
            for carry in loop.carries
            if carry.result is old.result
            for i, x in enumerate(carry.initial)
        }
        group = _Group(loop.trips, new, before)
        self.groups.update({value: (group, t) for t, value in old.outputs.items()})
        self.makers.update(dict.fromkeys(old.outputs.values(), old))

    def make(self, old: Value, spec: Spec, maker: Any) -> None:
        self.new[old] = Value(spec, old.name)
        self.makers[old] = maker

    # what else follows

    def more_items(self, indexed: Indexed, more: int) -> None:
        """Let the sequence of a loop's items be as long as the loop."""
        maker = self.makers.get(indexed.items[0])
        if not isinstance(maker, Instruction) or maker.op.name != "unstack":
            raise GraphError(f"there are {len(indexed.items)} items for a loop, and no more")
        axis = maker.static["axis"]
        size = spec_of(self.find(maker.operands[0])).shape[axis]
        self.resize(maker.operands[0], axis, size + more)

    def reconcile(self, step: Instruction, operands: Sequence[Operand], static: Static) -> None:
        """Find what else has to follow for a shape rule to agree: an integer, or other operands."""
        specs = list(map(spec_of, operands))
        if len(operands) != len(step.operands):
            raise GraphError(f"{describe(step)}: what is joined differs in size; {MORE}")
        changed = {self.length: self.T}
        for x, now in zip(step.operands, operands, strict=False):
            changed.update({n: m for n, m in zip(spec_of(x).shape, spec_of(now).shape) if n != m})
        numbers = integers(static)
        for (i, leaf), (n, m) in itertools.product(enumerate(numbers), changed.items()):
            other = leaf // n * m if n > 1 else leaf
            if leaf == other // m * n and self.shapes(step, specs, self.static(step, {i: other})):
                return self.follow(step, i, leaf, other)
        stale = [
            (Size(j, axis), changed[n])
            for j, x in enumerate(operands)
            for axis, n in enumerate(spec_of(x).shape)
            if n in changed
        ]
        for some in [*([each] for each in stale), stale]:
            if some and self.shapes(step, with_sizes(specs, some), static):
                for size, m in some:
                    self.resize(step.operands[size.operand], size.axis, m)
                return None
        raise GraphError(f"{describe(step)}: its sizes do not follow the length; {MORE}")

    def follow(self, what: Any, i: int, old: int, new: int) -> None:
        """Know that a size follows the length."""
        slope, rest = divmod(new - old, self.T - self.length)
        if rest:
            raise GraphError("a size follows the length in no straight line")
        self.follows[what, i] = self.known.get((what, i), 0) + slope

    def resize(self, x: Operand, axis: int, size: int) -> None:
        """Find what has to follow for an axis of a value to be of another size."""
        maker = self.makers.get(x)
        now = self.find(x)
        spec = spec_of(now)
        if not isinstance(x, Value) or not isinstance(now, Value):
            raise GraphError(f"{x} is a number, and its size follows nothing")
        if maker is None:
            return self.follow(x, axis, spec.shape[axis], size)
        if isinstance(maker, Carry):
            for start in dict.fromkeys(maker.initial):
                self.resize(start, axis, size)
        elif isinstance(maker, Indexed):
            self.resize(maker.items[0], axis, size)
        elif isinstance(maker, Collected):
            self.resize(maker.result, axis, size)
        else:
            self.resize_result(maker, maker.outputs.index(x), axis, size)
        return None

    def resize_result(self, step: Instruction, output: int, axis: int, size: int) -> None:
        """Find which operands or static integer of a step give its result another size."""
        specs = [spec_of(self.find(x)) for x in step.operands]
        static = self.static(step)
        before = self.shapes(step, specs, static) or []
        old = before[output].shape[axis]
        wanted = (*before[output].shape[:axis], size, *before[output].shape[axis + 1 :])

        def agrees(specs: Sequence[Spec], static: Static) -> bool:
            found = self.shapes(step, specs, static)
            return found is not None and found[output].shape == wanted

        sizes = [(Size(j, k), n) for j, s in enumerate(specs) for k, n in enumerate(s.shape)]
        equal = [(at, size) for at, n in sizes if n == old]
        places = [
            at for at, _ in equal if at.axis - len(specs[at.operand].shape) == axis - len(wanted)
        ]
        choices = [*([each] for each in equal), [(at, size) for at in places], equal]
        numbers = integers(static)
        for changed in ({}, *({i: size} for i, leaf in enumerate(numbers) if leaf == old)):
            other = self.static(step, changed)
            for some in (*choices, []):
                if agrees(with_sizes(specs, some), other):
                    for i in changed:
                        self.follow(step, i, old, size)
                    return self.resize_all(step, some)
        for at, n in sorted(sizes, key=lambda each: abs(each[1] - old)):
            if agrees(with_sizes(specs, [(at, n + size - old)]), static):
                return self.resize_all(step, [(at, n + size - old)])
        raise GraphError(f"{describe(step)}: its size {old} does not follow the length; {MORE}")

    def resize_all(self, step: Instruction, sizes: Sequence[tuple[Size, int]]) -> None:
        for at, n in sizes:
            self.resize(step.operands[at.operand], at.axis, n)

    def shapes(self, step: Instruction, specs: Sequence[Spec], static: Static) -> Any:
        """The specs of the outputs, or None where the shape rule objects."""
        given = map_static(lambda x: x.start if isinstance(x, Affine) else x, static)
        try:
            if step.op.name == "scatter":  # whose rule does not look at what is scattered
                there = Spec(tuple(given["shape"]), specs[0].dtype)
                index = REGISTRY["index"].shape(there, *specs[1:], template=given["template"])
                if tuple(index.shape) != tuple(specs[0].shape):
                    return None
            found = step.op.shape(*specs, **given)
        except (ValueError, TypeError, IndexError):
            return None
        made = list(found) if step.op.outputs else [found]
        return [Spec(tuple(s.shape), np.dtype(s.dtype)) for s in made]


def _value(x: Operand) -> Value:
    if not isinstance(x, Value):
        raise GraphError(f"the number {x} where a value is meant")
    return x


def _is_constant(x: Operand) -> bool:
    return not isinstance(x, Value) or x.constant is not None

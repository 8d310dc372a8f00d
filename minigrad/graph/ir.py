"""What a captured program is: values, instructions, and loops whose carries are delay edges.

A value is made once, by an input, a constant, an instruction or a loop, and never changes. A body
may use the values around it. Order matters to readers alone: any order that makes values before
they are used means the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from minigrad.errors import MinigradError
from minigrad.op import Op, Static
from minigrad.spec import NUMBERS, Spec
from minigrad.tensor import Tensor


class GraphError(MinigradError, ValueError):
    """A graph that breaks a rule, such as a cycle without a delay."""


class CaptureError(MinigradError, RuntimeError):
    """What a captured function may not do, such as look at a value that is not there yet."""


@dataclass(slots=True, eq=False, repr=False)
class Value:
    """One tensor of a program, of which shape and dtype are known; a constant's values too."""

    spec: Spec
    name: str | None = None
    constant: Tensor | None = None

    def __repr__(self) -> str:
        return f"Value({self.name or ''} {self.spec.shape} {self.spec.dtype})"


Operand = Value | float | int | bool  # Python's numbers are weak, as in eager calls


@dataclass(slots=True, eq=False)
class Instruction:
    """An op applied to operands."""

    op: Op
    operands: tuple[Operand, ...]
    static: Static
    outputs: tuple[Value, ...]


@dataclass(slots=True, eq=False)
class Counter:
    """The number of a loop's iteration, which static arguments in its body may depend on."""


@dataclass(slots=True, frozen=True)
class Affine:
    """A static integer start + step * t, t a loop's iteration."""

    start: int
    step: int
    counter: Counter


@dataclass(slots=True, eq=False)
class Carry:
    """A delay edge: iteration t sees as `parameter` the `result` of iteration t - delay.

    The first `delay` iterations see the initial values.
    """

    parameter: Value
    result: Value
    initial: tuple[Operand, ...]

    @property
    def delay(self) -> int:
        return len(self.initial)


@dataclass(slots=True, eq=False)
class Indexed:
    """An indexed input: iteration t sees items[t] as `parameter`."""

    parameter: Value
    items: tuple[Operand, ...]


@dataclass(slots=True, eq=False)
class Sliced:
    """An indexed input as one value: iteration t sees whole[start + step * t] as `parameter`."""

    parameter: Value
    whole: Value
    start: int = 0
    step: int = 1


@dataclass(slots=True, eq=False)
class Collected:
    """A collected output: the `result` of an iteration t is known outside as outputs[t]."""

    result: Value
    outputs: dict[int, Value]


@dataclass(slots=True, eq=False)
class Stacked:
    """A collected output as one value: whole[start + step * t] is the `result` of iteration t.

    Iterations before the first one count too: theirs are the initial values, as in a Carry.
    """

    result: Value
    whole: Value
    start: int = 0
    step: int = 1
    initial: tuple[Value, ...] = ()


@dataclass(slots=True, eq=False)
class Loop:
    """A body that runs `trips` times, one iteration after another."""

    trips: int
    body: tuple[Step, ...]
    carries: tuple[Carry, ...] = ()
    indexed: tuple[Indexed, ...] = ()
    collected: tuple[Collected, ...] = ()
    sliced: tuple[Sliced, ...] = ()
    stacked: tuple[Stacked, ...] = ()
    counter: Counter = field(default_factory=Counter)

    @property
    def outputs(self) -> tuple[Value, ...]:
        single = tuple(v for c in self.collected for _, v in sorted(c.outputs.items()))
        return (*single, *(s.whole for s in self.stacked))

    @property
    def results(self) -> tuple[Value, ...]:
        """What of an iteration is seen by later ones or outside."""
        kinds = (self.carries, self.collected, self.stacked)
        return tuple(x.result for kind in kinds for x in kind)

    @property
    def parameters(self) -> tuple[Value, ...]:
        kinds = (self.carries, self.indexed, self.sliced)
        return tuple(x.parameter for kind in kinds for x in kind)

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What the loop needs from around it: initial values, items, and what the body uses."""
        given: list[Operand] = [x for c in self.carries for x in c.initial]
        given += [x for i in self.indexed for x in i.items]
        given += [s.whole for s in self.sliced]
        given += [x for s in self.stacked for x in s.initial]
        made = set(self.parameters)
        free: dict[Operand, None] = {}
        for step in self.body:
            for x in step.operands:
                if isinstance(x, Value) and x not in made and x.constant is None:
                    free[x] = None
            made.update(step.outputs)
        free.update({r: None for r in self.results if r not in made and r.constant is None})
        return (*given, *free)


Step = Union[Instruction, Loop]  # noqa: UP007  Loop refers to it before it is there


@dataclass(slots=True, eq=False)
class Graph:
    """A program: inputs, steps in an order that makes values before their use, outputs.

    notes say what passes have to report, for instance why a repetition stayed flat.
    """

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Value, ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """The listing that `minigrad.graph.text` makes."""
        from minigrad.graph.listing import text

        return text(self)

    __str__ = text

    def walk(self) -> Iterator[Step]:
        """All steps, those of bodies after their loop."""
        return walk(self.steps)

    def loops(self) -> list[Loop]:
        """All loops, outer ones first."""
        return [step for step in self.walk() if isinstance(step, Loop)]

    def delay_edges(self) -> list[Carry]:
        """All carries of all loops."""
        return [carry for loop in self.loops() for carry in loop.carries]


def walk(steps: Iterable[Step]) -> Iterator[Step]:
    """All steps, those of bodies after their loop."""
    waiting = list(reversed(list(steps)))
    while waiting:
        step = waiting.pop()
        yield step
        if isinstance(step, Loop):
            waiting.extend(reversed(step.body))


def is_number(x: Any) -> bool:
    """Whether an operand is a weak Python number."""
    return x.__class__ in NUMBERS


def key_of(x: Operand) -> Hashable:
    """An operand as part of a key; 1, 1.0 and True are not the same, nor are 0.0 and -0.0."""
    return (type(x), repr(x)) if x.__class__ in NUMBERS else x


def same(x: Operand, y: Operand) -> bool:
    """Whether two operands are one value, or equal numbers; 0.0 and -0.0 are not."""
    return x is y or (type(x) is type(y) and not isinstance(x, Value) and repr(x) == repr(y))


def spec_of(x: Operand) -> Spec:
    """Shape and dtype of an operand, as shape rules take them."""
    return x.spec if isinstance(x, Value) else Spec((), x)


def map_static(f: Callable[[Any], Any], static: Any) -> Any:
    """f of the leaves of static arguments: dicts, lists, tuples and slices are taken apart."""
    if isinstance(static, Mapping):
        return {key: map_static(f, item) for key, item in static.items()}
    if isinstance(static, (tuple, list)):
        return tuple([map_static(f, item) for item in static])
    if isinstance(static, slice):
        return slice(*(map_static(f, x) for x in (static.start, static.stop, static.step)))
    return f(static)


def at_iteration(static: Static, iterations: Mapping[Counter, int]) -> Static:
    """Static arguments with the integers of the iterations that are known put in."""

    def fixed(leaf: Any) -> Any:
        if isinstance(leaf, Affine) and leaf.counter in iterations:
            return leaf.start + leaf.step * iterations[leaf.counter]
        return leaf

    return map_static(fixed, static) if iterations else static

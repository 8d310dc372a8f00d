"""text: a graph as a listing that a person can read and two graphs can be compared by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minigrad.graph.ir import (
    Affine,
    Counter,
    Graph,
    Instruction,
    Loop,
    Operand,
    Sliced,
    Stacked,
    Step,
    Value,
    map_static,
)
from minigrad.spec import Spec


def text(graph: Graph) -> str:
    """One line per step, bodies indented; `%3[0:20]` are the outputs 0 to 19 of step 3.

    A delay edge reads `delay 1: %h = %new, first %h0`; outputs of a loop are collected by `-> %7`.
    """
    return _Listing(graph).text


class _Listing:
    def __init__(self, graph: Graph) -> None:
        self.names: dict[Value, tuple[str, int | None]] = {}  # group and place within it
        self.counters: dict[Counter, str] = {}
        self.count = 0
        for value in graph.inputs:
            self.name(value)
        listed = [f"{self.names[v][0]}: {_label(v)}{kind(v.spec)}" for v in graph.inputs]
        self.lines: list[str] = []
        self.steps(graph.steps, "  ")
        self.lines.append(f"  return {self.operands(graph.outputs)}")
        head = ["graph(", *(f"    {line}," for line in listed), "):"] if listed else ["graph():"]
        self.text = "\n".join([*head, *self.lines, *(f"# {note}" for note in graph.notes)])

    def fresh(self) -> str:
        self.count += 1
        return f"%{self.count - 1}"

    def name(self, value: Value) -> str:
        name = self.fresh()
        self.names[value] = name, None
        return name

    def group(self, outputs: Iterable[tuple[int, Value]]) -> str:
        name = self.fresh()
        self.names.update({value: (name, i) for i, value in outputs})
        return name

    def steps(self, steps: Sequence[Step], indent: str) -> None:
        for step in steps:
            if isinstance(step, Loop):
                self.loop(step, indent)
            elif body := getattr(step.op, "body", None):
                self.kernel(step, body, indent)
            else:
                self.instruction(step, indent)

    def instruction(self, step: Instruction, indent: str) -> None:
        given = [self.operands(step.operands)] if step.operands else []
        given += [f"{key}={self.static(item)}" for key, item in step.static.items()]
        if step.op.outputs:
            name = self.group(enumerate(step.outputs))
            made = _kinds([v.spec for v in step.outputs])
        else:
            name, made = self.name(step.outputs[0]), kind(step.outputs[0].spec)
        self.lines.append(f"{indent}{name} = {step.op.name}({', '.join(given)})  {made}")

    def kernel(self, step: Instruction, body: Sequence[Instruction], indent: str) -> None:
        """`for each of (2, 4):`, what is computed of each, and which of it is kept."""
        space = tuple(getattr(step.op, "space", ()))
        self.lines.append(f"{indent}for each of {space}:")
        for inner in body:
            self.instruction(inner, indent + "  ")
        self.lines.append(f"{indent}  keep {self.operands(step.outputs)}")

    def loop(self, loop: Loop, indent: str) -> None:
        self.counters[loop.counter] = counter = "t" if not self.counters else (
            f"t{len(self.counters)}"
        )  # fmt: skip
        self.lines.append(f"{indent}for {counter} in {loop.trips}:")
        inner = indent + "  "
        for indexed in loop.indexed:
            items = self.operands(indexed.items)
            name = self.name(indexed.parameter)
            self.lines.append(
                f"{inner}{name} = ({items})[{counter}]  {kind(indexed.parameter.spec)}"
            )
        for sliced in loop.sliced:
            whole = self.operands([sliced.whole])
            name = self.name(sliced.parameter)
            self.lines.append(
                f"{inner}{name} = {whole}[{_row(sliced, counter)}]  {kind(sliced.parameter.spec)}"
            )
        starts = [self.operands(carry.initial) for carry in loop.carries]
        names = [self.name(carry.parameter) for carry in loop.carries]
        place = len(self.lines)
        self.steps(loop.body, inner)
        self.lines[place:place] = [
            f"{inner}{name} = delay {c.delay} of {self.operands([c.result])}, first {start}  "
            f"{kind(c.parameter.spec)}"
            for name, c, start in zip(names, loop.carries, starts, strict=True)
        ]
        for collected in loop.collected:
            result = self.operands([collected.result])
            name = self.group(sorted(collected.outputs.items()))
            kept = _ranges(sorted(collected.outputs))
            self.lines.append(f"{inner}{result} -> {name}[{kept}]")
        for stacked in loop.stacked:
            result = self.operands([stacked.result])
            first = self.operands(stacked.initial)
            name = self.name(stacked.whole)
            self.lines.append(
                f"{inner}{result} -> {name}[{_row(stacked, counter)}]"
                f"{', first ' + first if first else ''}  {kind(stacked.whole.spec)}"
            )

    def operands(self, operands: Sequence[Operand]) -> str:
        """Operands, those that are evenly spaced outputs of one step as a range."""
        shown: list[str] = []
        group = ""
        places: list[int] = []
        for x in operands:
            name, place = self.find(x)
            if place is None or name != group:
                shown += [f"{group}[{part}]" for part in _split(places)]
                group, places = name, []
            if place is None:
                shown.append(name)
                group = ""
            else:
                places.append(place)
        shown += [f"{group}[{part}]" for part in _split(places)]
        return ", ".join(shown)

    def find(self, x: Operand) -> tuple[str, int | None]:
        if not isinstance(x, Value):
            return repr(x), None
        if x in self.names:
            return self.names[x]
        if x.constant is None:
            return f"?{x.name or ''}", None
        values = x.constant.numpy()
        if values.size and (values == values.reshape(-1)[0]).all():
            shown = f"{values.reshape(-1)[0].item()}"
        else:
            shown = str(values.tolist()) if values.size <= 8 else "values"
        return f"const({shown}, {kind(x.spec)})", None

    def static(self, static: Any) -> str:
        def shown(leaf: Any) -> Any:
            if isinstance(leaf, Affine):
                return _Raw(f"{leaf.start} + {leaf.step} {self.counters[leaf.counter]}")
            return leaf if isinstance(leaf, (int, float, str, type(None))) else _Raw(str(leaf))

        return repr(map_static(shown, static))


class _Raw(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _row(rows: Sliced | Stacked, counter: str) -> str:
    """`t`, `1 + t`, `19 - t`."""
    sign = "-" if rows.step < 0 else "+"
    return f"{rows.start} {sign} {counter}" if rows.start or rows.step < 0 else counter


def _label(value: Value) -> str:
    return f"{value.name} " if value.name else ""


def kind(spec: Spec) -> str:
    """`(2, 3) float64`."""
    return f"{tuple(spec.shape)} {spec.dtype}"


def _kinds(specs: Sequence[Spec]) -> str:
    if all(spec == specs[0] for spec in specs):
        return f"{len(specs)} x {kind(specs[0])}" if specs else "nothing"
    return ", ".join(map(kind, specs))


def _split(places: list[int]) -> list[str]:
    """`0:4` for 0, 1, 2, 3; `3:-1:-1` downwards; single places as they are."""
    parts = []
    i = 0
    while i < len(places):
        j = i + 1
        step = places[j] - places[i] if j < len(places) else 0
        while j < len(places) and step and places[j] - places[j - 1] == step:
            j += 1
        if j - i < 2:
            j = i + 1
            parts.append(str(places[i]))
        elif step == 1:
            parts.append(f"{places[i]}:{places[j - 1] + 1}")
        else:
            parts.append(f"{places[i]}:{places[j - 1] + step}:{step}")
        i = j
    return parts


def _ranges(places: list[int]) -> str:
    return ", ".join(_split(places))

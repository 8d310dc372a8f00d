"""Where values have a place in a whole, and which wholes a graph wants: the plan of gathering."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from minigrad.graph.ir import Collected, Indexed, Instruction, Loop, Operand, Step, Value
from minigrad.graph.properties import CONCATENATE, STACK
from minigrad.graph.rewriting import UNSTACK


@dataclass(eq=False, slots=True)
class Group:
    """Values that are rows of one whole: row r is whole[start + step * r]."""

    rows: dict[int, Operand]
    step: int = 1
    first: int = 0  # the first row that is wanted, below 0 if initial values are
    wanted: bool = False
    start: int = 0
    whole: Value = field(init=False)  # once it is made


class Run(NamedTuple):
    """Values at evenly spaced places: rows first, first + step, ... of a group."""

    group: Group
    first: int
    step: int
    length: int


Piece = Run | Operand


class Plan:
    """What is to be whole, found in the order of the steps."""

    def __init__(self) -> None:
        self.places: dict[Operand, tuple[Group, int]] = {}
        self.groups: dict[Instruction | Collected, Group] = {}
        self.pieces: dict[Instruction | Indexed, list[Piece]] = {}
        self.plain: set[Operand] = set()  # what is used by itself
        self.order: dict[Loop, int] = {}
        self.direct: set[Indexed] = set()  # rows of one whole, one after another

    def scan(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Loop):
                self.loop(step)
            elif step.op is STACK or (step.op is CONCATENATE and step.static["axis"] == 0):
                self.use(step, step.operands)
            else:
                self.plain.update(step.operands)
                if step.op is UNSTACK:
                    self.group(step, Group(dict(enumerate(step.outputs))))

    def loop(self, loop: Loop) -> None:
        steps = [s.step for s in loop.sliced]
        others = []
        for indexed in loop.indexed:
            run = self.split(indexed.items)[0]
            if isinstance(run, Run) and run.length == loop.trips and run.step in (1, -1):
                steps.append(run.group.step * run.step)
                self.direct.add(indexed)
                self.use(indexed, indexed.items)
            else:
                others.append(indexed)
        order = self.order[loop] = -1 if 2 * steps.count(-1) > len(steps) else 1
        for indexed in others:
            self.use(indexed, indexed.items[::order])
        self.plain.update(x for c in loop.carries for x in c.initial)
        self.plain.update(x for s in loop.stacked for x in s.initial)
        self.scan(loop.body)
        self.plain.update(loop.results)
        for collected in loop.collected:
            group = Group(dict(collected.outputs), order)
            found = [
                c.initial
                for c in loop.carries
                if c.result is collected.result
                and all(isinstance(x, Value) and x.spec == c.result.spec for x in c.initial)
            ]
            for row, x in enumerate(reversed(max(found, key=len, default=())), 1):
                group.rows[-row] = x
            self.group(collected, group)

    def group(self, maker: Instruction | Collected, group: Group) -> None:
        self.groups[maker] = group
        self.places.update({x: (group, row) for row, x in group.rows.items() if row >= 0})

    def use(self, user: Instruction | Indexed, values: Sequence[Operand]) -> None:
        pieces = self.split(values)
        for piece in pieces:
            if isinstance(piece, Run):
                last = piece.first + piece.step * (piece.length - 1)
                piece.group.wanted = True
                piece.group.first = min(piece.group.first, piece.first, last)
            else:
                self.plain.add(piece)
        self.pieces[user] = pieces

    def split(self, values: Sequence[Operand]) -> list[Piece]:
        """The values as runs, as long as they can be, and single ones."""
        pieces: list[Piece] = []
        following = _following([x in self.places for x in values])
        i = 0
        while i < len(values):
            anchors = {i if values[i] in self.places else following[i], following[i]}
            runs = [run for j in anchors if j < len(values) for run in self.runs(values, i, j)]
            best = max(runs, key=lambda run: run.length, default=None)
            pieces.append(best or values[i])
            i += best.length if best else 1
        return pieces

    def runs(self, values: Sequence[Operand], i: int, j: int) -> Iterable[Run]:
        """Runs that start with value i, given the place of value j."""
        group, row = self.places[values[j]]
        after = self.places.get(values[j + 1]) if j + 1 < len(values) else None
        steps = (after[1] - row,) if after and after[0] is group else (1, -1)
        for step in steps:
            first = row - step * (j - i)
            count = 0
            while (
                i + count < len(values)
                and group.rows.get(first + step * count) is values[i + count]
            ):
                count += 1
            last = first + step * (count - 1)
            # Initial values alone may be needed before the loop that their whole comes from.
            early = min(first, last) < 0
            if step and count > 1 and max(first, last) >= 0 and (not early or abs(step) == 1):
                yield Run(group, first, step, count)


def _following(hits: list[bool]) -> list[int]:
    """For each position the next hit after it."""
    found = [len(hits)] * len(hits)
    for i in range(len(hits) - 2, -1, -1):
        found[i] = i + 1 if hits[i + 1] else found[i + 1]
    return found

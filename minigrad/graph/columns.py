"""Columns: what an operand of a window of steps is in the equal windows after it.

Values are numbered in the order in which steps make them, those from elsewhere after them. The
numbers of one operand in all windows are a column: it stays, or goes up by what a window makes, or
goes through the items of a stacked value.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from minigrad.graph.ir import Operand, Step, Value, key_of
from minigrad.graph.skeleton import skeleton

Items = dict[Value, tuple[Any, int]]  # of an item of a stacked value: which, and where in it
Use = tuple[Any, ...]


class Table:
    """A list of steps as numbers: what each does, and which values it takes and makes."""

    def __init__(self, steps: Sequence[Step], needed: set[Value], items: Items) -> None:
        kinds: dict[Hashable, int] = {}
        self.labels: list[int] = []  # equal for steps that do the same
        self.values: list[Value] = []  # that the steps make
        self.operands: list[Operand] = []
        self.integers: list[int] = []
        self.first_value, self.first_operand, self.first_integer = [0], [0], [0]  # of each step
        for step in steps:
            key, operands, integers = skeleton(step)
            self.labels.append(kinds.setdefault(key, len(kinds)))
            self.values += step.outputs
            self.operands += operands
            self.integers += integers
            self.first_value.append(len(self.values))
            self.first_operand.append(len(self.operands))
            self.first_integer.append(len(self.integers))

        self.number: dict[Any, int] = {v: i for i, v in enumerate(self.values)}
        number = self.number
        self.numbers = [
            number.setdefault(x if x.__class__ is Value else key_of(x), len(number))
            for x in self.operands
        ]
        made = len(self.values)
        self.constants = {
            i
            for i, x in enumerate(list(number)[made:], made)
            if x.__class__ is Value and x.constant is not None
        }
        self.items: dict[int, tuple[Any, int]] = {}
        self.remember({x: items[x] for x in number.keys() & items.keys()})
        # After which step a value is used no more.
        self.last_use = np.full(len(number), -1)
        users = np.repeat(np.arange(len(steps)), np.diff(self.first_operand))
        np.maximum.at(self.last_use, np.array(self.numbers, dtype=int), users)
        self.last_use[[number[v] for v in needed if v in number]] = len(steps)

    def remember(self, items: Items) -> None:
        """Know some of the values as items of something."""
        self.items.update({self.number[x]: i for x, i in items.items() if x in self.number})


class Columns:
    """Windows of equal labels, `most` of them, each `period` steps long, from step `start` on.

    agree: how many of them do the same; objection: why the next does not, the step that differs
    and its operand, None for a static integer.
    """

    def __init__(self, table: Table, start: int, period: int, most: int) -> None:
        self.table, self.start, self.period, self.most = table, start, period, most
        self.first, self.made = self._span(table.first_value)
        few = 2  # are compared first, for most differ soon
        self.agree, self.objection = self._agreement(few)
        while self.objection is None and few < most:
            few = min(8 * few, most)
            self.agree, self.objection = self._agreement(few)

    def _span(self, ends: list[int]) -> tuple[int, int]:
        """Where the first window begins in a list, and how long each is there."""
        begin = ends[self.start]
        return begin, ends[self.start + self.period] - begin

    def _agreement(self, most: int) -> tuple[int, tuple[int, int | None] | None]:
        """How many of these windows do the same, and why it is not more."""
        agree = most
        objection: tuple[int, int | None] | None = None
        ends = self.table.first_operand
        begin, width = self._span(ends)
        for c in range(begin, begin + width):
            same = self._goes_on(c, agree, width)
            if same < agree:
                step = bisect_right(ends, c) - 1
                agree, objection = same, (step, c - ends[step])
                if agree == 1:
                    return agree, objection  # two integers are evenly spaced
        ends = self.table.first_integer
        begin, width = self._span(ends)
        for c in range(begin, begin + width):
            column = self.table.integers[c : c + most * width : width]
            start, after = column[:2]
            same = _common(column, [start + t * (after - start) for t in range(most)])
            step = bisect_right(ends, c) - 1
            if same < agree or (same == agree < most and objection and step <= objection[0]):
                agree, objection = same, (step, None)
        return agree, objection

    def _goes_on(self, c: int, most: int, width: int) -> int:
        """In how many windows an operand is what it should be."""
        column = self.table.numbers[c : c + most * width : width]
        first, end, delay = self.first, len(self.table.values), 0
        if not first <= column[0] < end:
            same = self._items(column)
            if same == most:
                return most
            # By a delay it may come from the first window: before are initial values, any ones.
            every = self.table.numbers[c : c + self.most * width : width]
            delay = next((t for t, x in enumerate(every) if first <= x < end), 0)
            if not delay or every[delay] >= first + self.made:
                return same
            if delay >= most:
                return most
        elif column[1] - column[0] != self.made:
            return 1  # as most do
        start = column[delay]
        made = list(range(start, start + self.made * (most - delay), self.made))
        return delay + _common(column[delay:], made)

    def _items(self, column: list[int]) -> int:
        """In how many windows an operand stays, or is the next item; constants may just differ."""
        table, first = self.table, column[0]
        if first in table.constants:
            return next((t for t, x in enumerate(column) if x not in table.constants), len(column))
        second = column[1]
        if first == second:
            return _common(column, [first] * len(column))
        if first not in table.items or second not in table.items:
            return 1
        (group, start), (_, then) = table.items[first], table.items[second]
        places = [(group, start + t * (then - start)) for t in range(len(column))]
        return _common([table.items.get(x) for x in column], places)

    def uses(self) -> list[Use] | None:
        """What each operand of a window is: ("same", x), ("here", value), ("carry", value, initial
        values) or ("indexed", items), values by their order in a window; None if one is nothing."""
        table = self.table
        found: list[Use] = []
        end = len(table.values)
        begin, width = self._span(table.first_operand)
        for c in range(begin, begin + width):
            column = table.numbers[c : c + self.agree * width : width]
            operands = table.operands[c : c + self.agree * width : width]
            delay = next((t for t, x in enumerate(column) if self.first <= x < end), None)
            if delay is not None:
                place = column[delay] - self.first
                found.append(
                    ("carry", place, tuple(operands[:delay])) if delay else ("here", place)
                )
            elif column.count(column[0]) == len(column):
                found.append(("same", operands[0]))
            # What was taken for initial values, and no result came after them, must be items too.
            elif self._items(column) == len(column):
                found.append(("indexed", tuple(operands)))
            else:
                return None
        return found

    def integers(self) -> list[tuple[int, int]]:
        """The static integers of the first window and of the second."""
        begin, width = self._span(self.table.first_integer)
        given = self.table.integers
        return list(zip(given[begin : begin + width], given[begin + width : begin + 2 * width]))

    def seen(self) -> list[list[int]]:
        """For each value that a window makes, in which windows it is used after all of them."""
        uses = self.table.last_use[self.first : self.first + self.agree * self.made]
        after = uses.reshape(self.agree, self.made) >= self.start + self.period * self.agree
        return [np.flatnonzero(column).tolist() for column in after.T]


def _common(column: list[Any], expected: list[Any]) -> int:
    """How long two lists are equal."""
    if column == expected:
        return len(column)
    return next(t for t, (x, y) in enumerate(zip(column, expected, strict=True)) if x != y)

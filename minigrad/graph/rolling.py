"""fold: find the loops again that a trace has unrolled.

A `for` leaves a run of equal windows: the same ops, shapes and static arguments; operands that are
invariant, of the same iteration, of an earlier one (a delay edge), or the next item of a stacked
value. Such a run becomes one Loop, in its place; whatever differs at its ends stays outside.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from minigrad.graph.captured import Captured
from minigrad.graph.ir import (
    Affine,
    Carry,
    Collected,
    Counter,
    Graph,
    Indexed,
    Instruction,
    Loop,
    Operand,
    Step,
    Value,
    spec_of,
)
from minigrad.graph.skeleton import Skeleton, clone, fresh, skeleton
from minigrad.graph.tracing import capture

PERIODS = 64  # how many later occurrences of a step are tried as the start of the next iteration
PROBE = 4
WORTH_A_NOTE = 4  # how many steps a loop would have saved for its failure to be reported
Failures = dict[str, tuple[Step, ...]]  # why steps that look like a repetition are none
Places = dict[Value, tuple[Any, int]]  # of an item of a stacked value: which, and where in it


def fold(program: Graph | Captured | Callable[..., Any], *args: Any) -> Graph:
    """The graph with its repetitions as loops; also of a function, captured for these arguments.

    `unfold` gives the same graph back. What repeats and is no loop stays flat; `notes` says why.
    """
    if not isinstance(program, (Graph, Captured)):
        program = capture(program, *args)
    graph = program.graph if isinstance(program, Captured) else program
    folder = _Folder()
    first, rest = _unstacked_first(graph)
    for step in first:
        folder.remember(step)
    steps = (*first, *folder.fold(rest, set(graph.outputs)))
    flat = set(steps)
    notes = [f"flat: {why}" for why, region in folder.failures.items() if flat.issuperset(region)]
    if not notes and not any(isinstance(step, Loop) for step in steps):
        notes = ["flat: no sequence of steps repeats"]
    notes = list(dict.fromkeys((*graph.notes, *notes[:3])))
    return Graph(graph.inputs, steps, graph.outputs, tuple(notes))


def _unstacked_first(graph: Graph) -> tuple[list[Step], list[Step]]:
    """The steps that unstack inputs and constants, which stay before all else, and the others.

    `xs[t]` unstacks xs where it is first used, in the middle of the first iteration.
    """
    made = {value for step in graph.steps for value in step.outputs}
    first: list[Step] = [
        step
        for step in graph.steps
        if isinstance(step, Instruction)
        and step.op.name == "unstack"
        and made.isdisjoint(x for x in step.operands if isinstance(x, Value))
    ]
    early = set(first)
    return first, [step for step in graph.steps if step not in early]


class Run(NamedTuple):
    """Equal windows: `trips` of them, `period` steps long, from step `start` on."""

    start: int
    period: int
    trips: int
    saved: int  # steps fewer, less one for each carry, indexed input and the loop itself


class _Folder:
    def __init__(self) -> None:
        self.places: Places = {}
        self.failures: Failures = {}

    def fold(self, steps: Sequence[Step], needed: set[Value]) -> tuple[Step, ...]:
        """Loops in place of runs, again and again, then within their bodies."""
        steps = tuple(steps)
        while True:
            for step in steps:
                self.remember(step)
            found = _Sequence(steps, needed, self.places, self.failures).folded()
            if len(found) == len(steps):
                break
            steps = found
        return tuple(self.within(step) for step in steps)

    def remember(self, step: Step) -> None:
        """Know the outputs of a multi-output op, and those of a loop, as items of one thing."""
        if isinstance(step, Loop):
            _remember_items(step, self.places)
        elif step.op.outputs:
            self.places.update({v: (step, i) for i, v in enumerate(step.outputs)})

    def within(self, step: Step) -> Step:
        """The step with its body folded."""
        if isinstance(step, Loop):
            return replace(step, body=self.fold(step.body, set(step.results)))
        return step


def _remember_items(loop: Loop, places: Places) -> None:
    for collected in loop.collected:
        places.update({value: (collected, t) for t, value in collected.outputs.items()})


class _Sequence:
    """One list of steps, in which the best runs are sought from left to right."""

    def __init__(
        self,
        steps: tuple[Step, ...],
        needed: set[Value],
        places: Places,
        failures: Failures,
    ) -> None:
        self.steps, self.places, self.failures = steps, dict(places), failures
        self.skeletons: list[Skeleton] = [skeleton(step) for step in steps]
        numbers: dict[Any, int] = {}
        self.labels = [numbers.setdefault(s.key, len(numbers)) for s in self.skeletons]
        self.label_array = np.array(self.labels)
        self.breaks: dict[int, Any] = {}  # where a step differs from the one a period later
        self.where: list[list[int]] = [[] for _ in numbers]
        self.maker: dict[Operand, tuple[int, int]] = {}
        self.last_use: dict[Operand, float] = {}
        for i, (step, found) in enumerate(zip(steps, self.skeletons, strict=True)):
            self.where[self.labels[i]].append(i)
            for o, v in enumerate(step.outputs):
                self.maker[v] = i, o
            for x in found.operands:
                self.last_use[x] = i
        self.last_use.update(dict.fromkeys(needed, float("inf")))

    def folded(self) -> tuple[Step, ...]:
        result: list[Step] = []
        i = 0
        while i < len(self.steps):
            run = self.best_from(i)
            if run is None:
                result.append(self.steps[i])
                i += 1
                continue
            result += self.steps[i : run.start]
            result.append(self.loop(run))
            i = run.start + run.trips * run.period
        return tuple(result)

    def best_from(self, i: int) -> Run | None:
        """The run that saves most among those that start at i or, if there is one, soon after."""
        best = self.best_at(i, None)
        if best is None:
            return None
        j = i + 1
        while j < best.start + 2 * best.period and j < i + best.trips * best.period:
            better = self.best_at(j, best)
            best = better or best
            j += 1
        return best

    def best_at(self, i: int, best: Run | None) -> Run | None:
        """The run from i on that saves more than `best`, if any does."""
        found = None
        later = self.where[self.labels[i]]
        first = bisect_right(later, i)
        for j in later[first : first + PERIODS]:
            period = j - i
            trips = self.equal_windows(i, period)
            limit = found or best
            if trips < 2 or (limit and (trips - 1) * period - 1 <= limit.saved):
                continue
            if limit and trips > PROBE:  # a few windows tell how much all of them can save
                probe = self.run(i, period, PROBE)
                if probe and probe.saved + (trips - probe.trips) * period <= limit.saved:
                    continue
            run = self.run(i, period, trips)
            if run is not None and run.saved > (limit.saved if limit else 0):
                found = run
        return found

    def equal_windows(self, i: int, period: int) -> int:
        """How many windows of steps with the same labels there are from step i on."""
        labels, j = self.labels, i + period
        few = min(period, PROBE)  # most windows differ soon
        if labels[i : i + few] != labels[j : j + few] or labels[i:j] != labels[j : j + period]:
            return 1
        if period not in self.breaks:
            unequal = np.flatnonzero(self.label_array[period:] != self.label_array[:-period])
            self.breaks[period] = np.append(unequal, len(labels) - period)
        breaks = self.breaks[period]
        return (int(breaks[np.searchsorted(breaks, i)]) - i) // period + 1

    # one run

    def run(self, start: int, period: int, most: int) -> Run | None:
        """As many of these windows as agree in what they do it to."""
        trips, why = 1, None
        while trips < most and why is None:
            why = self._objection(start, period, trips, most)
            trips += why is None
        uses = self.uses(start, period, trips) if trips > 1 else None
        if uses is None:
            if most > 2 and (most - 1) * period > WORTH_A_NOTE and why is not None:
                self.failures.setdefault(why, self.steps[start : start + most * period])
            return None
        distinct = {use for row in uses for use in row if use[0] in ("carry", "indexed")}
        window = range(start, start + period)
        if not distinct and all(
            self.skeletons[i].integers == self.skeletons[i + period].integers for i in window
        ):
            return None  # the same computation again and again is none
        saved = (trips - 1) * period - 1 - len(distinct)
        return Run(start, period, trips, saved) if saved > 0 else None

    def _objection(self, start: int, period: int, t: int, most: int) -> str | None:
        """Why window t does not continue what windows 0 ... t-1 do, or None."""
        for q in range(start, start + period):
            i = q + t * period
            now, origin = self.skeletons[i], self.skeletons[q]
            if now.integers != origin.integers:
                second = self.skeletons[q + period].integers
                affine = tuple(a + t * (b - a) for a, b in zip(origin.integers, second))
                if now.integers != affine:
                    return f"a static integer of {self._name(i)} is not affine in the iteration"
            past = self.skeletons[i - period].operands
            for position, (x, before) in enumerate(zip(now.operands, past, strict=True)):
                first = origin.operands[position]
                if not self._continues(x, before, first, start, period, t) and not (
                    self._before_delay(q, position, start, period, t, most)
                ):
                    return (
                        f"operand {position} of {self._name(i)} is neither the same in all "
                        f"iterations, nor of this or an earlier one, nor the next item of a "
                        f"stacked value"
                    )
        return None

    def _name(self, i: int) -> str:
        step = self.steps[i]
        return "a loop" if isinstance(step, Loop) else step.op.name

    def _continues(
        self, x: Operand, before: Operand, first: Operand, start: int, period: int, t: int
    ) -> bool:
        """Whether x, in window t, follows the operands in windows t-1 and 0."""
        i, o = self.maker.get(x, (-1, 0))
        j, p = self.maker.get(before, (-1, 0))
        if i >= start:  # made within the run; the first such operand is made in its first window
            return (i == j + period and o == p) if j >= start else i < start + period
        return j < start and self._next_item(x, before, first, t)

    def _next_item(self, x: Operand, before: Operand, first: Operand, t: int) -> bool:
        if (x is before and x is first) or (same(x, before) and same(x, first)):
            return True
        if not (isinstance(x, Value) and isinstance(before, Value) and isinstance(first, Value)):
            return False
        if x.constant is not None and before.constant is not None and first.constant is not None:
            return True  # constants may differ in any way
        places = self.places
        if x not in places or before not in places or first not in places:
            return False
        (group, a), (other, b), (third, c) = places[first], places[before], places[x]
        return group is other is third and (b - a) * t == (c - a) * (t - 1)

    def _before_delay(
        self, q: int, position: int, start: int, period: int, t: int, most: int
    ) -> bool:
        """Whether a later window's operand is the first to come, by a delay, from the first one:
        the windows before have initial values, whatever these are."""
        for later in range(most):
            x = self.skeletons[q + later * period].operands[position]
            i, _ = self.maker.get(x, (-1, 0))
            if i >= start:
                return later > t and i < start + period
        return False

    def uses(self, start: int, period: int, trips: int) -> list[list[tuple[Any, ...]]] | None:
        """For each step of a window, what each operand is: ("same", x), ("here", step, output),
        ("carry", step, output, initial values) or ("indexed", items); None if some is nothing."""
        found = []
        for q in range(start, start + period):
            windows = [self.skeletons[q + t * period].operands for t in range(trips)]
            found.append([self._use(column, start) for column in zip(*windows, strict=True)])
        return None if any(use is None for row in found for use in row) else found  # type: ignore

    def _use(self, column: tuple[Operand, ...], start: int) -> tuple[Any, ...] | None:
        made = self.maker
        for delay, x in enumerate(column):
            if x in made and made[x][0] >= start:
                place = made[x][0] - start, made[x][1]
                return ("carry", *place, column[:delay]) if delay else ("here", *place)
        first = column[0]
        if all(x is first or same(x, first) for x in column):
            return "same", first
        # What was taken for initial values, and no result came after them, must be items too.
        agree = all(
            self._next_item(column[t], column[t - 1], column[0], t) for t in range(1, len(column))
        )
        return ("indexed", column) if agree else None

    # the loop

    def loop(self, run: Run) -> Loop:
        """The loop that a run is; its collected outputs are the values that others use."""
        start, period, trips = run.start, run.period, run.trips
        end = start + period * trips
        uses = self.uses(start, period, trips) or []
        counter = Counter()
        made: dict[tuple[int, int], Value] = {}
        parameters: dict[tuple[Any, ...], Value] = {}
        body: list[Step] = []
        for q, row in enumerate(uses):
            step = self.steps[start + q]
            operands: list[Operand] = []
            for x, use in zip(self.skeletons[start + q].operands, row, strict=True):
                if use[0] == "same":
                    operands.append(use[1])
                elif use[0] == "here":
                    operands.append(made[use[1], use[2]])
                else:
                    if use not in parameters:
                        parameters[use] = self._parameter(x, use, start)
                    operands.append(parameters[use])
            body.append(clone(step, operands, self._integers(start + q, period, counter)))
            made.update({(q, o): value for o, value in enumerate(body[-1].outputs)})
        loop = Loop(
            trips,
            tuple(body),
            tuple(
                Carry(v, made[u[1], u[2]], u[3]) for u, v in parameters.items() if u[0] == "carry"
            ),
            tuple(Indexed(v, u[1]) for u, v in parameters.items() if u[0] == "indexed"),
            tuple(self._collected(made, start, period, trips, end)),
            counter=counter,
        )
        _remember_items(loop, self.places)
        return loop

    def _parameter(self, x: Operand, use: tuple[Any, ...], start: int) -> Value:
        if use[0] == "carry":
            return fresh(self.steps[start + use[1]].outputs[use[2]])
        return Value(spec_of(x))

    def _integers(self, i: int, period: int, counter: Counter) -> list[Any]:
        """The static integers of a step, Affine where they change from iteration to iteration."""
        now, after = self.skeletons[i].integers, self.skeletons[i + period].integers
        return [a if a == b else Affine(a, b - a, counter) for a, b in zip(now, after, strict=True)]

    def _collected(
        self, made: dict[tuple[int, int], Value], start: int, period: int, trips: int, end: int
    ) -> Iterable[Collected]:
        for (q, o), result in made.items():
            outputs = {}
            for t in range(trips):
                value = self.steps[start + t * period + q].outputs[o]
                if self.last_use.get(value, -1) >= end:
                    outputs[t] = value
            if outputs:
                yield Collected(result, outputs)


def same(x: Operand, y: Operand) -> bool:
    """Whether two operands are one value, or equal numbers; 0.0 and -0.0 are not."""
    return x is y or (type(x) is type(y) and not isinstance(x, Value) and repr(x) == repr(y))

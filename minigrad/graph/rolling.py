"""fold: find the loops again that a trace has unrolled.

A `for` leaves a run of equal windows: the same ops, shapes and static arguments; operands that are
invariant, of the same iteration, of an earlier one (a delay edge), or the next item of a stacked
value. Such a run becomes one Loop, in its place; whatever differs at its ends stays outside.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from minigrad.graph.captured import Captured
from minigrad.graph.columns import Columns, Items, Table, Use
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
from minigrad.graph.skeleton import clone, fresh
from minigrad.graph.tracing import capture
from minigrad.op import REGISTRY

PERIODS = 64  # how many later occurrences of a step are tried as the start of the next iteration
PROBE = 4
WORTH_A_NOTE = 4  # how many steps a loop would have saved for its failure to be reported
UNSTACK = REGISTRY["unstack"]
Failures = dict[str, tuple[Step, ...]]  # why steps that look like a repetition are none


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
    inputs = set(graph.inputs)
    first: list[Step] = []
    rest: list[Step] = []
    for step in graph.steps:
        early = (
            isinstance(step, Instruction)
            and step.op is UNSTACK
            and all(x in inputs or getattr(x, "constant", None) is not None for x in step.operands)
        )
        (first if early else rest).append(step)
    return first, rest


class Run(NamedTuple):
    """Equal windows: `trips` of them, `period` steps long, from step `start` on."""

    start: int
    period: int
    trips: int
    saved: int  # steps fewer, less one for each carry, indexed input and the loop itself
    columns: Columns
    uses: list[Use]


class _Folder:
    def __init__(self) -> None:
        self.places: Items = {}
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
            self.places.update(_items(step))
        elif step.op.outputs:
            self.places.update({v: (step, i) for i, v in enumerate(step.outputs)})

    def within(self, step: Step) -> Step:
        """The step with its body folded."""
        if isinstance(step, Loop):
            return replace(step, body=self.fold(step.body, set(step.results)))
        return step


def _items(loop: Loop) -> Items:
    return {value: (c, t) for c in loop.collected for t, value in c.outputs.items()}


class _Sequence:
    """One list of steps, in which the best runs are sought from left to right."""

    def __init__(
        self, steps: tuple[Step, ...], needed: set[Value], places: Items, failures: Failures
    ) -> None:
        self.steps, self.failures = steps, failures
        self.table = Table(steps, needed, places)
        self.labels = self.table.labels
        self.label_array = np.array(self.labels)
        self.breaks: dict[int, np.ndarray] = {}  # where a step differs from the one a period later
        self.where: list[list[int]] = [[] for _ in range(max(self.labels, default=-1) + 1)]
        for i, label in enumerate(self.labels):
            self.where[label].append(i)

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
        return (int(breaks[breaks.searchsorted(i)]) - i) // period + 1

    # one run

    def run(self, start: int, period: int, most: int) -> Run | None:
        """As many of these windows as agree in what they do it to."""
        columns = Columns(self.table, start, period, most)
        trips, why = columns.agree, columns.objection
        uses = columns.uses() if trips > 1 else None
        if uses is None:
            if most > 2 and (most - 1) * period > WORTH_A_NOTE and why is not None:
                region = self.steps[start : start + most * period]
                self.failures.setdefault(self._told(*why), region)
            return None
        distinct = {use for use in uses if use[0] in ("carry", "indexed")}
        if not distinct and all(now == after for now, after in columns.integers()):
            return None  # the same computation again and again is none
        saved = (trips - 1) * period - 1 - len(distinct)
        return Run(start, period, trips, saved, columns, uses) if saved > 0 else None

    def _told(self, i: int, operand: int | None) -> str:
        step = self.steps[i]
        name = "a loop" if isinstance(step, Loop) else step.op.name
        if operand is None:
            return f"a static integer of {name} is not affine in the iteration"
        return (
            f"operand {operand} of {name} is neither the same in all iterations, nor of this or an "
            f"earlier one, nor the next item of a stacked value"
        )

    # the loop

    def loop(self, run: Run) -> Loop:
        """The loop that a run is; its collected outputs are the values that others use."""
        values, first, counter = self.table.values, run.columns.first, Counter()
        made: list[Value] = []
        parameters: dict[Use, Value] = {}

        def operands() -> Iterator[Operand]:
            for use in run.uses:
                if use[0] == "same":
                    yield use[1]
                elif use[0] == "here":
                    yield made[use[1]]
                else:
                    if use not in parameters:
                        carry = use[0] == "carry"
                        parameters[use] = (
                            fresh(values[first + use[1]]) if carry else Value(spec_of(use[1][0]))
                        )
                    yield parameters[use]

        supply = operands()
        pairs = run.columns.integers()
        integers = iter([a if a == b else Affine(a, b - a, counter) for a, b in pairs])
        body: list[Step] = []
        for step in self.steps[run.start : run.start + run.period]:
            body.append(clone(step, supply, integers))
            made += body[-1].outputs
        collected = []
        for i, (result, windows) in enumerate(zip(made, run.columns.seen(), strict=True), first):
            if windows:
                outputs = {t: values[i + t * len(made)] for t in windows}
                collected.append(Collected(result, outputs))
        loop = Loop(
            run.trips,
            tuple(body),
            tuple(Carry(v, made[u[1]], u[2]) for u, v in parameters.items() if u[0] == "carry"),
            tuple(Indexed(v, u[1]) for u, v in parameters.items() if u[0] == "indexed"),
            tuple(collected),
            counter=counter,
        )
        self.table.remember(_items(loop))
        return loop

"""Which products and sums need no loop, and where all other steps stand: part of fission."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

from minigrad.graph.batching import is_rowwise
from minigrad.graph.ir import Carry, Instruction, Loop, Step, Value, spec_of
from minigrad.graph.properties import PRODUCT
from minigrad.graph.rewriting import SUM, VIEWS, Rows


class Placement:
    """Numbers for the steps of a body and the carries, the nodes.

    leaving: the products and sums of rows that need no loop. level: of these the number of the
    part of the loop after which they are made, -1 before all; of other nodes the first part in
    which they could be. stages: the parts in which they are.
    """

    def __init__(self, loop: Loop, rows: Rows) -> None:
        self.loop, self.rows = loop, rows
        self.nodes: list[Step | Carry] = [*loop.body, *loop.carries]
        self.maker: dict[object, int] = {}
        for i, node in enumerate(self.nodes):
            self.maker.update(dict.fromkeys(_made(node), i))
        taken = [(n.result,) if isinstance(n, Carry) else n.operands for n in self.nodes]
        self.needs = [[self.maker[x] for x in xs if x in self.maker] for xs in taken]
        self.level = [0] * len(self.nodes)
        self.stages: list[set[int]] = [set() for _ in self.nodes]
        cycles = components(self.needs)
        self.leaving = self.free_products(cycles)
        if self.leaving:
            self.place(cycles)

    def free_products(self, cycles: Sequence[Sequence[int]]) -> set[int]:
        """The products and sums on no cycle, but for those of what a loop in the body makes or
        reads whole: they are made for many iterations already."""
        inner = {x for step in self.loop.body if isinstance(step, Loop) for x in step.operands}
        for step in reversed(self.loop.body):
            if isinstance(step, Instruction) and step.op in VIEWS and step.outputs[0] in inner:
                inner.update(step.operands)
        items = {i.parameter for i in self.loop.indexed}  # of no whole
        found = set()
        for i in (c[0] for c in cycles if len(c) == 1):
            node = self.nodes[i]
            if (
                isinstance(node, Instruction)
                and (node.op is PRODUCT or is_sum_of_rows(node) or is_rowwise(node, self.rows))
                and inner.isdisjoint(node.outputs)
                and items.isdisjoint(map(self.rows.base, node.operands))
                and not any(isinstance(self.rows.base_maker(x), Loop) for x in node.operands)
                and batches(node, self.rows)
            ):
                found.add(i)
        return found

    def place(self, cycles: Sequence[Sequence[int]]) -> None:
        """Levels and stages of all nodes; the nodes of one cycle share theirs."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        floating: set[int] = set()
        for cycle in cycles:
            needs = {j for i in cycle for j in self.seen(i)} - set(cycle)
            if cycle[0] in self.leaving:
                level = max((self.level[j] for j in needs), default=-1)
            else:
                level = max((self.level[j] + (j in self.leaving) for j in needs), default=0)
                node = self.nodes[cycle[0]]
                if (
                    len(cycle) == 1
                    and isinstance(node, Instruction)
                    and all(j in floating or j in self.leaving for j in needs)
                ):
                    floating.add(cycle[0])
            for i in cycle:
                self.level[i] = level
            for j in needs:
                readers[j].append(cycle[0])
        outside = {c.result for c in self.loop.collected} | {s.result for s in self.loop.stacked}
        for cycle in reversed(cycles):
            if cycle[0] in self.leaving:
                continue
            stages: set[int] = set()
            for reader in (r for i in cycle for r in readers[i]):
                stages |= {self.level[reader]} if reader in self.leaving else self.stages[reader]
            seen = any(not outside.isdisjoint(_made(self.nodes[i])) for i in cycle)
            if not stages and (seen or len(cycle) > 1):
                stages = {self.level[cycle[0]]}
            if cycle[0] not in floating:
                stages = {min(stages)} if stages else stages
            for i in cycle:
                self.stages[i] = stages

    def seen(self, i: int) -> list[int]:
        """The nodes that a node needs; a product takes what views show."""
        if i not in self.leaving:
            return self.needs[i]
        operands = map(self.rows.base, self.nodes[i].operands)  # type: ignore[union-attr]
        return [self.maker[x] for x in operands if x in self.maker]


def _made(node: Step | Carry) -> tuple[Value, ...]:
    return (node.parameter,) if isinstance(node, Carry) else node.outputs


def is_sum_of_rows(step: Instruction) -> bool:
    """Whether a step sums along the first axis, the only thing that rows of it have in common."""
    return step.op is SUM and 0 in step.static["axis"] and len(spec_of(step.operands[0]).shape) > 1


def batches(step: Instruction, rows: Rows) -> bool:
    """Whether the product of all iterations' operands is one product; a sum always is one sum."""
    if is_sum_of_rows(step):
        return rows.varies(step.operands[0])
    if step.op is not PRODUCT:
        return True
    a, b = cast(tuple[Value, Value], step.operands)
    left, right = len(a.spec.shape), len(b.spec.shape)
    if rows.varies(a) and rows.varies(b):  # what has no weight in common gains little
        made, *given = (prod(x.spec.shape) for x in (step.outputs[0], a, b))
        return left == right >= 2 and made <= sum(given)
    if rows.varies(a):
        return right <= 2 or left >= right
    return rows.varies(b) and (left == 2 if right == 1 else left <= right)


def components(needs: Sequence[Sequence[int]]) -> list[list[int]]:
    """Strongly connected components, each after those that it needs (Tarjan)."""
    found: list[list[int]] = []
    number: dict[int, int] = {}
    lowest: dict[int, int] = {}
    open_: list[int] = []
    inside: set[int] = set()
    for root in range(len(needs)):
        path = [] if root in number else [(root, iter(needs[root]))]
        while path:
            i, waiting = path[-1]
            if i not in number:
                number[i] = lowest[i] = len(number)
                open_.append(i)
                inside.add(i)
            for j in waiting:
                if j not in number:
                    path.append((j, iter(needs[j])))
                    break
                if j in inside:
                    lowest[i] = min(lowest[i], number[j])
            else:
                path.pop()
                if path:
                    up = path[-1][0]
                    lowest[up] = min(lowest[up], lowest[i])
                if lowest[i] == number[i]:
                    members = [open_.pop()]
                    while members[-1] != i:
                        members.append(open_.pop())
                    inside.difference_update(members)
                    found.append(sorted(members))
    return found

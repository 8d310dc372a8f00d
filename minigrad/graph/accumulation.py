"""Sums over a loop's iterations, which are made after the loop: part of fission."""

from __future__ import annotations

from collections import Counter as Count
from dataclasses import replace
from math import prod
from typing import cast

from minigrad.graph.indexing import SCATTER, axes_of, has_arrays
from minigrad.graph.ir import Carry, Instruction, Loop, Operand, Step, Value, spec_of
from minigrad.graph.properties import PRODUCT, is_join, views
from minigrad.graph.rewriting import ADD, MULTIPLY, RESHAPE, SUM, TRANSPOSE, Builder, Rows, live
from minigrad.graph.skeleton import fresh


def summed(loop: Loop) -> tuple[Loop, list[Step]]:
    """The loop without what it only adds up, and the steps that add it up after the loop.

    Products times an invariant, or joined, are summed before they are multiplied or joined: that
    rounds otherwise, and overflows otherwise where the invariant is huge or infinite.
    A sum stays where its terms, kept for all iterations, would take much memory.
    """
    sums = _Sums(loop)
    for carry in loop.carries:
        sums.take(carry)
    if not sums.out.steps:
        return loop, []
    changed = replace(
        loop,
        body=(*loop.body, *sums.body.steps),
        carries=tuple(sums.carries),
        collected=tuple(sums.collected),
        stacked=tuple(sums.stacked),
    )
    return live(changed), sums.out.steps


class _Sums:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.carries, self.collected = list(loop.carries), list(loop.collected)
        self.stacked = list(loop.stacked)
        self.rows = Rows(loop, self.stacked.append)
        self.rows.wholes.update((s.result, s) for s in reversed(loop.stacked))
        self.uses: Count[Operand] = Count(x for step in loop.body for x in step.operands)
        self.seen: Count[Operand] = Count(loop.results)
        self.body, self.out = Builder(), Builder()

    def take(self, carry: Carry) -> None:
        """Take a carry apart, if it is a sum that nobody sees before it is complete."""
        parameter, result, last = carry.parameter, carry.result, self.loop.trips - 1
        seen = [c for c in self.loop.collected if c.result is result]
        if (
            carry.delay > 1
            or parameter.spec.dtype.kind != "f"
            or self.uses[parameter] + self.seen[parameter] != 1
            or self.uses[result]
            or self.seen[result] != 2
            or [tuple(c.outputs) for c in seen] != [(last,)]
        ):
            return
        terms = self.terms(result, parameter.spec)
        if parameter not in terms:
            return
        terms.remove(parameter)
        products = [x for x in terms if self.is_of_products(x)]
        products += [x for x in terms if self.is_scattered(x)]
        small = [x for x in terms if x not in products and self.is_small(x)]
        stay = [x for x in terms if x not in products and x not in small]
        if stay:
            small, stay = [], [x for x in terms if x not in products]
        if not products and not small:
            return
        [kept] = seen
        [output] = kept.outputs.values()
        self.carries.remove(carry)
        self.collected.remove(kept)
        [first] = carry.initial
        if stay:
            total = parameter
            for term in stay:
                total = self.body.emit(ADD, total, term)
            first = fresh(output)
            self.carries.append(replace(carry, result=total))
            self.collected.append(replace(kept, result=total, outputs={last: first}))
        parts: list[Operand] = [] if _is_zero(first) else [first]
        parts += [self.scattered(x) if self.is_scattered(x) else self.product(x) for x in products]
        parts += [self.total(x) for x in small if isinstance(x, Value)]
        if not any(spec_of(x) == output.spec for x in parts):
            parts.insert(0, first)  # zeros, to which the terms are stretched
        while len(parts) > 2:
            parts[:2] = [self.out.emit(ADD, *parts[:2])]
        if len(parts) == 2:
            self.out.emit(ADD, *parts, into=output)
        else:
            cast(Instruction, self.out.steps[-1]).outputs = (output,)

    def terms(self, result: Value, spec: object) -> list[Operand]:
        """The terms of a tree of additions, from left to right."""
        found: list[Operand] = []
        waiting: list[Operand] = [result]
        while waiting:
            x = waiting.pop()
            step = self.rows.maker.get(x)
            if (
                isinstance(step, Instruction)
                and step.op is ADD
                and step.outputs[0].spec == spec
                and (x is result or self.uses[x] + self.seen[x] == 1)
                and all(
                    isinstance(y, Value) and y.spec.dtype == step.outputs[0].spec.dtype
                    for y in step.operands
                )
            ):
                waiting += reversed(step.operands)
            else:
                found.append(x)
        return found

    def is_product(self, x: Operand) -> bool:
        """Whether a term is a product of two matrices that both change, and of no inner loop."""
        step = self.rows.maker.get(x)
        return (
            isinstance(step, Instruction)
            and step.op is PRODUCT
            and self.uses[x] + self.seen[x] == 1
            and all(
                isinstance(y, Value)
                and len(y.spec.shape) == 2
                and self.rows.varies(y)
                and not isinstance(self.rows.base_maker(y), Loop)
                for y in step.operands
            )
        )

    def is_scattered(self, x: Operand) -> bool:
        """Whether a term is rows that are scattered to places which change, of no inner loop."""
        step = self.rows.maker.get(x)
        if (
            not isinstance(step, Instruction)
            or step.op is not SCATTER
            or not has_arrays(step)
            or self.uses[x] + self.seen[x] > 1
            or any(isinstance(self.rows.base_maker(y), Loop) for y in step.operands)
        ):
            return False
        values, *places = step.operands
        rank = len(step.static["shape"])
        first = axes_of(step.static["template"], rank, 1)[0] == [0]
        return first and self.rows.varies(values) and any(map(self.rows.varies, places))

    def scattered(self, x: Operand) -> Value:
        """The sum over iterations of what is scattered: all rows scattered at once."""
        step = cast(Instruction, self.rows.maker[x])
        values, *places = cast(list[Value], list(step.operands))
        ranks = max(len(i.spec.shape) for i in places)
        found = [self.rows.of(values, self.out)]
        for i in places:
            own = i.spec.shape
            if self.rows.varies(i):
                ones = (1,) * (ranks - len(own))
                i = self.out.reshaped(self.rows.of(i, self.out), self.loop.trips, *ones, *own)
            found.append(i)
        return self.out.emit(SCATTER, *found, **step.static)

    def is_of_products(self, x: Operand) -> bool:
        """Whether a term is a product, or what a linear step makes of products alone."""
        if self.is_product(x):
            return True
        step = self.linear(x)
        return step is not None and all(
            self.is_of_products(y) for y in step.operands if self.rows.varies(y)
        )

    def linear(self, x: Operand) -> Instruction | None:
        """The step that makes a term and would make the terms' sum of the sums of its operands: it
        multiplies by an invariant, puts beside each other, or shows in another order."""
        step = self.rows.maker.get(x)
        if not isinstance(step, Instruction) or self.uses[x] + self.seen[x] != 1:
            return None
        changing = [y for y in step.operands if self.rows.varies(y)]
        if step.op is MULTIPLY:
            return step if [spec_of(y) for y in changing] == [spec_of(x)] else None
        moves = is_join(step.op) or (len(step.outputs) == 1 and views(step) is not None)
        return step if moves and len(changing) == len(step.operands) else None

    def is_small(self, x: Operand) -> bool:
        """Whether a term is no larger than what it is made from, as the sum of a matrix is."""
        step = self.rows.base_maker(x)
        if step is None:
            return self.rows.varies(x)
        given = max((prod(spec_of(y).shape) for y in step.operands), default=0)
        made_here = isinstance(step, Instruction) and step.op is not PRODUCT
        return made_here and prod(spec_of(x).shape) <= given

    def total(self, x: Value) -> Value:
        """The sum over iterations; of what is a sum over rows already the sum of what that sums, so
        that the loop's rows need nothing of each other."""
        step = self.rows.base_maker(x)
        if isinstance(step, Instruction) and step.op is SUM and 0 in step.static["axis"]:
            (y,) = cast(tuple[Value], step.operands)
            axes = (0, *(axis + 1 for axis in step.static["axis"]))
            found = self.out.emit(SUM, self.rows.of(y, self.out), axis=axes, keepdims=False)
            return self.out.reshaped(found, *x.spec.shape)
        return self.out.emit(SUM, self.rows.of(x, self.out), axis=(0,), keepdims=False)

    def product(self, x: Operand) -> Value:
        """The sum over iterations of products: one product, of blocks side by side."""
        step = None if self.is_product(x) else self.linear(x)
        if step is not None:
            sums = (self.product(y) if self.rows.varies(y) else y for y in step.operands)
            return self.out.emit(step.op, *sums, **step.static)
        a, b = cast(tuple[Value, Value], self.rows.maker[x].operands)
        (rows, inner), columns = a.spec.shape, b.spec.shape[1]
        side_by_side = (TRANSPOSE, (1, 0, 2)), (RESHAPE, (rows, self.loop.trips * inner))
        left = self.rows.of(a, self.out, *side_by_side)
        right = self.rows.of(b, self.out, (RESHAPE, (self.loop.trips * inner, columns)))
        return self.out.emit(PRODUCT, left, right)


def _is_zero(x: Operand) -> bool:
    return isinstance(x, Value) and x.constant is not None and not x.constant.numpy().any()

"""Kernels as loops: one nest over a space, the last axis in vectors, all outputs at once.

What does not change along an axis is computed outside of that axis's loop. Axes along which every
operand and output runs on without a gap become one. Integers that are looked up move the pointer of
what they index: once where all lanes share them, else lane by lane.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from llvmlite import ir

from minigrad.graph.indexing import WITHIN
from minigrad.graph.nests import Nest, Node, Write
from minigrad.graph.planning import Location

from .functions import namespace
from .loops import INDEX, ZERO, index
from .vector import Lanes, Number, Vector, load, scalar_type, store

if TYPE_CHECKING:
    from .program import Function

START = {"sum": 0, "any": False, "all": True}  # of a reduction; max and min start at infinities
SMALL = 4096  # elements below which a kernel is not worth a second thread


@dataclass(eq=False)
class Sums:
    """Memory for what a reduction down columns comes to."""

    strides: list[int]
    dtype: np.dtype


class Loops:
    """A nest written as code."""

    def __init__(self, function: Function, nest: Nest, bounds: tuple[Any, Any] | None) -> None:
        self.function, self.nest, self.code = function, nest, function.code
        groups = nest.axes()
        folded = [g for g in groups if g[0] in nest.folded]
        kept = [g for g in groups if g[0] not in nest.folded]
        # Sums down columns: row after row is added to a row of sums, as memory lies.
        self.columns = kept.pop() if folded and groups[-1] in kept else None
        self.order = kept + folded + ([self.columns] if self.columns else [])
        self.kept = len(kept)
        self.vector = self.order.index(groups[-1]) if groups else -1
        self.lanes = Lanes(function.code, function.target.lanes, function.target.fma)
        self.xp = namespace(self.lanes)
        space = nest.op.space
        self.sizes = [function.number(math.prod(space[a] for a in g)) for g in self.order]
        self.bounds = {}
        if bounds is not None:
            for at, group in enumerate(self.order):
                if group[0] == 0:
                    inner = function.number(math.prod(space[a] for a in group[1:]))
                    low, high = (self.code.mul(b, inner) for b in bounds)
                    self.bounds[at] = (low, high)

    def write(self, split: bool) -> None:
        """The code; split: each thread a share of the outermost axis that is kept."""
        if not split:
            return self.start()
        shared = self.shared()
        if shared is None:
            with self.function.first_thread():
                self.start()
            return None
        unit = self.lanes.count if shared == self.vector else 1
        total = self.function.number(math.prod(self.nest.op.space))
        small = self.code.icmp_signed("<", total, index(SMALL))
        parts = self.code.select(small, index(1), self.function.threads)
        which = self.function.thread, parts
        self.bounds[shared] = self.function.share(self.sizes[shared], unit, which)
        return self.start()

    def shared(self) -> int | None:
        """The outermost loop whose turns write to places of their own."""
        if any(write.adds for write in self.nest.writes):
            places = range(len(self.order))
            return next((i for i in places if self.stride(self.nest.writes[0], i)), None)
        return 0 if self.kept else None if self.columns is None else self.vector

    def start(self) -> None:
        for node in self.nest.nodes:
            own = [self.depth(node.strides)] if node.place is not None else []
            inner = [x.depth for x in node.operands if isinstance(x, Node)]
            node.depth = max([*own, *inner, *(x.depth for x, _ in node.lookups)], default=0)
        pointers: dict[Any, Any] = {}
        for item in (*self.nest.nodes, *self.nest.writes):
            if item.place is not None:
                pointers[item] = self.function.address(item.place)
        for write in self.nest.writes:
            if write.folded and self.columns is None:
                write.total = self.code.local(self.lanes.type(self.gathered(write)))
            elif write.folded:
                self.row_of_sums(write, pointers)
        self.level(0, {}, pointers, None)

    def row_of_sums(self, write: Write, pointers: dict[Any, Any]) -> None:
        """Memory for the sums of all columns."""
        axes, dtype = cast(list[int], self.columns), self.gathered(write)
        count = math.prod(self.nest.op.space[a] for a in axes)
        strides = [0] * len(self.nest.op.space)
        strides[axes[-1]] = 1
        write.total = Sums(strides, dtype)
        pointers[write.total] = self.function.scratch(dtype, count, each=True)

    def depth(self, strides: list[int]) -> int:
        return max((i + 1 for i, g in enumerate(self.order) if strides[g[-1]]), default=0)

    def stride(self, item: Node | Write | Sums, at: int) -> int:
        return item.strides[self.order[at][-1]]

    def level(
        self, depth: int, known: dict[Node, Any], pointers: dict[Any, Any], mask: Any
    ) -> None:
        """The code inside `depth` loops: what is computed there, then the next loop."""
        known = dict(known)
        for node in self.nest.nodes:
            if node.depth == depth:
                known[node] = self.compute(node, known, pointers, mask)
        if depth == self.kept:
            self.begin(pointers)
        if depth < len(self.order):
            self.loop(depth, known, pointers, mask)
        else:
            self.finish_element(known, pointers, mask)
        if depth == self.kept:
            self.end(pointers, mask)

    def loop(self, depth: int, known: Any, pointers: Any, mask: Any) -> None:
        def inside(i: Any, mask: Any) -> None:
            self.level(depth + 1, known, self.moved(pointers, depth, i), mask)

        if depth != self.vector:
            with self.code.loop(*self.bounds.get(depth, (ZERO, self.sizes[depth]))) as i:
                inside(i, mask)
        else:
            self.along(inside)

    def moved(self, pointers: dict[Any, Any], at: int, i: Any) -> dict[Any, Any]:
        """Where everything is at position i of a loop."""
        found = dict(pointers)
        for item, pointer in pointers.items():
            stride = self.stride(item, at)
            if stride:
                by = i if stride == 1 else self.code.mul(i, self.function.number(stride))
                element = ir.IntType(8 * self.size(item))
                found[item] = self.code.gep(pointer, [by], inbounds=True, source_etype=element)
        return found

    def along(self, inside: Callable[[Any, Any], None]) -> None:
        """The loop over vectors, and what is left of one."""
        code = self.code
        low, high = self.bounds.get(self.vector, (ZERO, self.sizes[self.vector]))
        count = index(self.lanes.count)
        whole = code.add(low, code.multiples(code.sub(high, low), self.lanes.count))
        with code.loop(low, whole, count) as i:
            inside(i, None)
        with code.if_then(code.icmp_signed("<", whole, high)):
            inside(whole, self.tail(code.sub(high, whole)))

    def tail(self, left: Any) -> Vector:
        """The lanes that are still within the axis."""
        n = self.lanes.count
        places = ir.Constant(ir.VectorType(INDEX, n), list(range(n)))
        limit = self.lanes.splat(left, np.int64).value
        return self.lanes.vector(self.code.icmp_signed("<", places, limit), np.bool_)

    def size(self, item: Any) -> int:
        return (
            item.dtype.itemsize
            if isinstance(item, Sums)
            else cast(Location, item.place).buffer.dtype.itemsize
        )

    # elements

    def compute(self, node: Node, known: Any, pointers: Any, mask: Any) -> Any:
        if node.place is not None:
            return self.load(node, pointers[node], known, mask)
        if node.step is None:
            number = self.number(node.number, node.dtype.kind == "f")
            return self.lanes.lift(number, node.dtype)
        floating = (
            any(isinstance(x, Node) and x.dtype.kind == "f" for x in node.operands)
            or node.dtype.kind == "f"
        )
        operands = [
            known[x] if isinstance(x, Node) else self.number(x, floating) for x in node.operands
        ]
        if node.step.op is WITHIN:
            return self.within(operands[0], node.step.static["size"], mask)
        made = node.step.op.forward(self.xp, *operands, **node.step.static)
        if not isinstance(made, Vector):
            made = self.lanes.lift(made, node.dtype)
        return made.astype(node.dtype)

    def number(self, x: Any, floating: bool) -> Any:
        if isinstance(x, bool) or not floating:
            return x
        return Number(self.lanes, self.function.real(float(x)), float(x))

    def load(self, node: Node, pointer: Any, known: Any, mask: Any) -> Vector:
        along = self.stride(node, self.vector) if self.vector >= 0 else 0
        pointer, by = self.looked_up(node, pointer, known)
        if along == 1 and by is None:
            return load(self.lanes, pointer, node.dtype, mask)
        if along == 0 and by is None:
            return self.lanes.splat(self.scalar(pointer, node.dtype), node.dtype)
        return self.gather(node, pointer, along, by, mask)

    # what is looked up

    def within(self, place: Vector, size: int, mask: Any) -> Vector:
        """A place counted from the start; 0 for one outside of the axis, which is remembered."""
        n = self.lanes.splat(self.function.number(size), place.dtype)
        place = self.xp.where(place < 0, place + n, place)
        wrong = (place < 0) | (place >= n)
        place = self.xp.where(wrong, 0, place)
        wrong = wrong if mask is None else wrong & mask
        bits = ir.IntType(self.lanes.count)
        some = self.code.icmp_unsigned("!=", self.code.bitcast(wrong.value, bits), bits(0))
        with self.code.if_then(some, likely=False):
            self.code.store(ir.IntType(8)(1), self.function.fault_pointer())
        return place

    def looked_up(self, item: Node | Write, pointer: Any, known: Any) -> tuple[Any, Vector | None]:
        """Where the integers that are looked up lead: for all lanes, and from there for each."""
        element, each = ir.IntType(8 * self.size(item)), None
        for node, stride in item.lookups:
            unit = self.lanes.splat(self.function.number(stride), np.int64)
            by = known[node].astype(np.int64) * unit
            if node.depth <= self.vector or self.vector < 0:
                first = self.code.extract_element(by.value, ir.IntType(32)(0))
                pointer = self.code.gep(pointer, [first], inbounds=True, source_etype=element)
            else:
                each = by if each is None else each + by
        return pointer, each

    def scalar(self, pointer: Any, dtype: Any) -> Any:
        stored = ir.IntType(8) if dtype.kind == "b" else scalar_type(dtype)
        value = self.code.load(pointer, align=dtype.itemsize, typ=stored)
        return self.code.trunc(value, ir.IntType(1)) if dtype.kind == "b" else value

    def lane(self, i: int, along: int, by: Vector | None) -> Any:
        """How far a lane's element is from the first one's, and by what was looked up for it."""
        moved = self.code.mul(index(i), self.function.number(along))
        if by is not None:
            moved = self.code.add(moved, self.code.extract_element(by.value, ir.IntType(32)(i)))
        return moved

    def gather(self, node: Node, pointer: Any, along: int, by: Vector | None, mask: Any) -> Vector:
        """Lanes that do not lie beside each other, one by one."""
        result = ir.Constant(self.lanes.type(node.dtype), [0] * self.lanes.count)
        each = by
        for i in range(self.lanes.count):
            by = self.lane(i, along, each)
            if mask is not None:  # within the array in any case: lane 0 is
                inside = self.code.extract_element(mask.value, ir.IntType(32)(i))
                by = self.code.select(inside, by, ZERO)
            at = self.code.gep(
                pointer, [by], inbounds=True, source_etype=ir.IntType(8 * node.dtype.itemsize)
            )
            x = self.scalar(at, node.dtype)
            result = self.code.insert_element(result, x, ir.IntType(32)(i))
        return self.lanes.vector(result, node.dtype)

    def add(self, vector: Vector, write: Write, pointer: Any, known: Any, mask: Any) -> None:
        """Add to what stands there; of lanes that may meet at one place, one after another."""
        along = self.stride(write, self.vector) if self.vector >= 0 else 0
        pointer, each = self.looked_up(write, pointer, known)
        dtype = write.place.buffer.dtype
        if along == 1 and each is None:
            store(self.lanes, pointer, load(self.lanes, pointer, dtype, mask) + vector, mask)
            return
        size, plus = dtype.itemsize, self.code.fadd if dtype.kind == "f" else self.code.add
        for i in range(self.lanes.count if self.vector >= 0 else 1):
            with contextlib.ExitStack() as inside:
                if mask is not None:
                    there = self.code.extract_element(mask.value, ir.IntType(32)(i))
                    inside.enter_context(self.code.if_then(there))
                by = self.lane(i, along, each)
                at = self.code.gep(pointer, [by], inbounds=True, source_etype=ir.IntType(8 * size))
                x = self.code.extract_element(vector.value, ir.IntType(32)(i))
                before = self.code.load(at, align=size, typ=scalar_type(dtype))
                self.code.store(plus(before, x), at, align=size)

    def store(self, vector: Vector, write: Write, pointer: Any, mask: Any) -> None:
        along = self.stride(write, self.vector) if self.vector >= 0 else 0
        if along == 1:
            store(self.lanes, pointer, vector, mask)
            return
        size = write.place.buffer.dtype.itemsize
        value = vector.astype(np.uint8) if vector.dtype.kind == "b" else vector
        count = self.lanes.count if along else 1
        for i in range(count):
            by = self.code.mul(index(i), self.function.number(along))
            at = self.code.gep(pointer, [by], inbounds=True, source_etype=ir.IntType(8 * size))
            x = self.code.extract_element(value.value, ir.IntType(32)(i))
            if mask is not None and i:
                inside = self.code.extract_element(mask.value, ir.IntType(32)(i))
                with self.code.if_then(inside):
                    self.code.store(x, at, align=size)
            else:
                self.code.store(x, at, align=size)

    # reductions

    def gathered(self, write: Write) -> np.dtype:
        """The dtype in which a reduction is gathered: a sum of floats in float64."""
        if write.folded == "sum" and write.node.dtype.kind == "f":
            return np.dtype("float64")
        if write.folded == "sum":
            return write.place.buffer.dtype
        return np.dtype("bool") if write.folded in ("any", "all") else write.node.dtype

    def neutral(self, write: Write) -> Vector:
        dtype = self.gathered(write)
        if write.folded in START:
            return self.lanes.constant(START[write.folded], dtype)
        low, high = -np.inf, np.inf
        if dtype.kind != "f":
            ends = np.iinfo(dtype) if dtype.kind != "b" else None
            low, high = (ends.min, ends.max) if ends else (False, True)
        return self.lanes.constant(low if write.folded == "max" else high, dtype)

    def combine(self, write: Write, a: Vector, b: Vector) -> Vector:
        if write.folded == "sum":
            return a + b
        if write.folded in ("any", "all"):
            return a | b if write.folded == "any" else a & b
        found: Vector = (self.xp.maximum if write.folded == "max" else self.xp.minimum)(a, b)
        return found

    def begin(self, pointers: dict[Any, Any]) -> None:
        """Start all reductions."""
        folded = [write for write in self.nest.writes if write.folded]
        if self.columns is None:
            for write in folded:
                self.code.store(self.neutral(write).value, write.total)
        elif folded:

            def inside(j: Any, mask: Any) -> None:
                there = self.moved(pointers, self.vector, j)
                for write in folded:
                    store(self.lanes, there[write.total], self.neutral(write), mask)

            self.along(inside)

    def total(self, write: Write, pointers: dict[Any, Any], mask: Any) -> Vector:
        if self.columns is not None:
            return load(self.lanes, pointers[write.total], write.total.dtype, mask)
        dtype = self.gathered(write)
        return self.lanes.vector(self.code.load(write.total, typ=self.lanes.type(dtype)), dtype)

    def finish_element(self, known: Any, pointers: Any, mask: Any) -> None:
        for write in self.nest.writes:
            value = known[write.node]
            if not write.folded:
                value = value.astype(write.place.buffer.dtype)
                if write.adds:
                    self.add(value, write, pointers[write], known, mask)
                else:
                    self.store(value, write, pointers[write], mask)
                continue
            value = value.astype(self.gathered(write))
            total = self.combine(write, self.total(write, pointers, mask), value)
            if self.columns is not None:
                store(self.lanes, pointers[write.total], total, mask)
                continue
            if mask is not None:
                total = self.xp.where(mask, total, self.total(write, pointers, mask))
            self.code.store(total.value, write.total)

    def end(self, pointers: Any, mask: Any) -> None:
        """Write what the reductions have come to."""
        folded = [write for write in self.nest.writes if write.folded]
        if self.columns is not None and folded:

            def inside(j: Any, mask: Any) -> None:
                there = self.moved(pointers, self.vector, j)
                for write in folded:
                    value = self.total(write, there, mask)
                    value = value.astype(write.place.buffer.dtype)
                    self.store(value, write, there[write], mask)

            return self.along(inside)
        for write in folded:
            value = self.total(write, pointers, mask)
            if self.vector >= self.kept:
                value = self.across(write, value)
            self.store(value.astype(write.place.buffer.dtype), write, pointers[write], mask)
        return None

    def across(self, write: Write, value: Vector) -> Vector:
        """All lanes combined, in each of them."""
        half = self.lanes.count // 2
        n = self.lanes.count
        while half:
            turned = ir.Constant(
                ir.VectorType(ir.IntType(32), n), [(i + half) % n for i in range(n)]
            )
            other = self.code.shuffle_vector(value.value, value.value, turned)
            value = self.combine(write, value, value.like(other))
            half //= 2
        return value

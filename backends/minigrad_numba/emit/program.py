"""A graph as one native function: kernels, products and loops over memory that was planned.

All threads run the whole function. A kernel or a product outside of loops is shared among them,
with a barrier behind it; a loop each of whose steps works on the rows of a batch alone is run by
every thread for rows of its own, without one. Sizes, strides and numbers are arguments, so that
programs of one structure are one function.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from llvmlite import ir

from minigrad.graph.fusing import Kernel
from minigrad.graph.indexing import ACCUMULATE
from minigrad.graph.ir import Counter, Instruction, Loop, Step, walk
from minigrad.graph.nests import CopyNest, Nest, SumNest
from minigrad.graph.planning import ALIGNMENT, Buffer, Copy, Location, Plan, Row
from minigrad.graph.properties import PRODUCT, is_join
from minigrad.graph.resting import Rest

from . import library, products, resting
from .loops import INDEX, ONE, POINTER, ZERO, Code, define, index
from .matrices import Matrices, panels_of
from .nests import Loops
from .rows import independent, made_in, rows_at_once
from .target import Target

DOUBLE = ir.DoubleType()
TALL = 512  # terms of a sum from which on a product takes them block by block


class Function:
    """The code of a run of steps, and the tables it reads: pointers, numbers, reals."""

    def __init__(
        self, module: ir.Module, name: str, plan: Plan, target: Target, rest: Rest
    ) -> None:
        self.plan, self.target, self.rest = plan, target, rest
        self.code: Code = define(module, name, [INDEX, INDEX, POINTER, POINTER, POINTER, POINTER])
        self.thread, self.threads, self.pointers, self.integers, self.floats, self.state = (
            self.code.arguments
        )
        body = self.code.append_basic_block("body")
        self.code.branch(body)
        self.code.position_at_end(body)
        self.buffers: dict[Buffer, Any] = {}
        self.numbers: list[int] = []
        self.reals: list[float] = []
        self.iterations: dict[Counter, Any] = {}
        self.packed: dict[tuple[Any, ...], Buffer] = {}
        self.finite: dict[Buffer, Any] = {}  # where it stands whether panels are
        self.repeats = 1  # of the code that is being written
        self.work = 0  # multiplications and additions, and elements of kernels
        self.notes: list[str] = []
        self.fault: Buffer | None = None  # a byte that is 1 once an index was out of range

    # what the tables hold

    def pointer(self, buffer: Buffer) -> Any:
        if buffer not in self.buffers:
            at = len(self.buffers)
            with self.code.goto_entry_block():
                place = self.code.gep(self.pointers, [index(at)], source_etype=INDEX)
                self.buffers[buffer] = self.code.load(place, typ=POINTER)
        return self.buffers[buffer]

    def fault_pointer(self) -> Any:
        """The byte to set where an index is out of range."""
        self.fault = self.fault or self.plan.scratch(np.dtype("uint8"), 1, "fault")
        return self.pointer(self.fault)

    def number(self, n: int) -> Any:
        """An integer that another program of this structure may have otherwise."""
        if n in (0, 1):
            return index(n)
        self.numbers.append(n)
        with self.code.goto_entry_block():
            place = self.code.gep(self.integers, [index(len(self.numbers) - 1)], source_etype=INDEX)
            return self.code.load(place, typ=INDEX)

    def real(self, x: float) -> Any:
        self.reals.append(x)
        with self.code.goto_entry_block():
            place = self.code.gep(self.floats, [index(len(self.reals) - 1)], source_etype=DOUBLE)
            return self.code.load(place, typ=DOUBLE)

    def address(self, place: Location) -> Any:
        """Where a location starts in this iteration."""
        code = self.code
        offset = self.number(place.view.offset)
        for move in place.moves:
            t = self.iterations[move.counter]
            if isinstance(move, Row):
                offset = code.add(offset, code.mul(t, self.number(move.step)))
            else:
                slot = code.srem(code.add(t, index(move.shift)), index(move.slots))
                offset = code.add(offset, code.mul(slot, self.number(move.size)))
        element = ir.IntType(8 * place.buffer.dtype.itemsize)
        return code.gep(self.pointer(place.buffer), [offset], inbounds=True, source_etype=element)

    # threads

    def share(self, n: Any, unit: int, part: Any = None) -> tuple[Any, Any]:
        """This thread's part of range(n), in whole units but for the last; or one of so many."""
        code = self.code
        which, parts = part or (self.thread, self.threads)
        units = code.sdiv(code.add(n, index(unit - 1)), index(unit))
        ends = [
            code.mul(code.sdiv(code.mul(units, i), parts), index(unit))
            for i in (which, code.add(which, ONE))
        ]
        return code.smaller(ends[0], n), code.smaller(ends[1], n)

    @contextlib.contextmanager
    def shares(self, n: Any, unit: int, uneven: bool) -> Iterator[tuple[Any, Any]]:
        """Code for this thread's part of range(n); of what is uneven, two that lie apart.

        Of rows sorted by the work that they make, the first and the last part come to as much as
        two in the middle.
        """
        if not uneven:
            yield self.share(n, unit)
            return
        code = self.code
        several = code.icmp_signed(">", self.threads, ONE)
        with code.loop(ZERO, code.select(several, index(2), ONE)) as turn:
            parts = code.select(several, code.mul(self.threads, index(2)), ONE)
            back = code.sub(code.sub(parts, ONE), self.thread)
            which = code.select(code.icmp_signed("==", turn, ZERO), self.thread, back)
            yield self.share(n, unit, (which, parts))

    @contextlib.contextmanager
    def blocks(self, bounds: tuple[Any, Any], size: Any) -> Iterator[tuple[Any, Any]]:
        """Code for one block of a range after another."""
        with self.code.loop(*bounds, size) as low:
            yield low, self.code.smaller(self.code.add(low, size), bounds[1])

    @contextlib.contextmanager
    def first_thread(self) -> Iterator[None]:
        """Code for one thread only."""
        with self.code.if_then(self.code.icmp_signed("==", self.thread, ZERO)):
            yield

    def barrier(self) -> None:
        self.call("barrier", self.state, self.threads)

    def call(self, name: str, *arguments: Any) -> None:
        known = self.code.module.globals.get(f"minigrad_{name}")
        self.code.call(known or library.declare(self.code.module, name), arguments)

    # steps

    def step(self, step: Step) -> None:
        """A step outside of loops, and a barrier behind it."""
        if isinstance(step, Loop):
            self.loop(step)
        elif isinstance(step.op, Kernel):
            self.kernel(step, None, split=True)
        elif step.op is PRODUCT:
            self.product(step)
        elif step.op is ACCUMULATE:
            self.accumulate(step, split=True)
        elif not is_join(step.op):
            return self.copies(step)  # a view: nothing to do, but where it is wanted elsewhere
        self.barrier()
        return self.copies(step)

    def kernel(self, step: Instruction, bounds: Any, split: bool = False) -> None:
        op = cast(Kernel, step.op)
        self.work += self.repeats * math.prod(op.space) * len(op.body)
        Loops(self, Nest(self.plan, step), bounds).write(split)

    def accumulate(self, step: Instruction, split: bool = False) -> None:
        """Zeros, and what is added to them."""
        nest = SumNest(self.plan, step)
        self.work += 2 * self.repeats * math.prod(nest.op.space)
        self.copy(Copy(0, self.plan.home(step.outputs[0])), split)
        if split:
            self.barrier()
        Loops(self, nest, None).write(split)

    def copies(self, step: Step) -> None:
        parts = list(self.plan.copies.get(step, ())) if not isinstance(step, Loop) else []
        wholes = []
        if not (isinstance(step, Instruction) and isinstance(step.op, Kernel)):
            for value in step.outputs:
                wholes += [Copy(value, place) for place in self.plan.stores.get(value, ())]
        for found in (parts, wholes):  # of which the second may read what the first writes
            for copy in found:
                self.copy(copy, split=True)
            if found:
                self.barrier()

    def copy(self, copy: Copy, split: bool = False, bounds: Any = None) -> None:
        Loops(self, CopyNest(self.plan, copy), bounds).write(split)

    def loop(self, loop: Loop) -> None:
        """Iterations one after another: all threads on rows of their own, or the first alone."""
        for copy in self.plan.copies.get(loop, ()):
            self.copy(copy, split=True)
        packed = self.pack_around(loop)
        self.barrier()
        for step in packed:
            self.look_at(step)
        rows, why = independent(self.plan, loop)
        what = f"loop of {loop.trips}, {len(loop.body)} steps: "
        at_once = rows if why else rows_at_once(loop, rows)
        some = f"each thread some of {rows} rows" + (at_once < rows) * f", {at_once} at a time"
        self.notes.append(what + (why or some))
        if not why:
            uneven = any(self.is_worth_a_look(s, Matrices(self.plan, s)) for s in packed)
            with (
                self.shares(self.number(rows), 1, uneven) as share,
                self.blocks(share, self.number(at_once)) as bounds,
            ):
                self.iterate(loop, bounds)
        else:
            with self.first_thread():
                self.iterate(loop, None)

    def iterate(self, loop: Loop, bounds: Any) -> None:
        self.repeats *= loop.trips
        with self.code.loop(ZERO, self.number(loop.trips)) as t:
            self.iterations[loop.counter] = t
            for step in loop.body:
                self.inner(step, bounds)
            for copy in self.plan.turns.get(loop, ()):
                self.copy(copy, bounds=bounds)
        del self.iterations[loop.counter]
        self.repeats //= loop.trips

    def inner(self, step: Step, bounds: Any) -> None:
        """A step of a loop's body, for the rows of one thread."""
        if isinstance(step, Loop):
            for copy in self.plan.copies.get(step, ()):
                self.copy(copy)
            self.iterate(step, None)
        elif isinstance(step.op, Kernel):
            self.kernel(step, bounds)
            return
        elif step.op is PRODUCT:
            span = self.number(Matrices(self.plan, step).span)
            self.multiply(step, bounds and tuple(self.code.mul(b, span) for b in bounds))
        elif step.op is ACCUMULATE:
            self.accumulate(step)
        for copy in self.plan.copies.get(step, ()) if not isinstance(step, Loop) else ():
            self.copy(copy, bounds=bounds)
        for value in step.outputs:
            for place in self.plan.stores.get(value, ()):
                self.copy(Copy(value, place), bounds=bounds)

    # products

    def product(self, step: Instruction) -> None:
        """A product outside of loops, its rows shared among the threads."""
        m = Matrices(self.plan, step)
        uneven = not m.batch and self.is_worth_a_look(step, m)
        beside = m.left.view.strides[-2] == 1  # as in A^T B, whose depth is how much data there is
        tall = beside or m.depth >= TALL
        if m.batch or uneven or not tall or m.columns * m.rows == 0:
            if not m.batch:
                self.pack(m.right, m.depth, m.columns, m.dtype, split=True)
                self.barrier()
                self.look_at(step)
            with self.shares(self.number(m.leading), m.unit, uneven) as bounds:
                self.multiply(step, bounds)
            return
        form = products.shape(m.dtype.name, self.target)
        self.work += m.work * self.repeats
        scratch = self.scratch(m.dtype, products.scratch_size(m.columns, form), each=True)
        low, high = self.share(self.number(m.rows), form.rows)
        (a, row, column), (b, b_row, b_column), (c, c_row) = self.sides(m)
        a, c = self.at(a, low, row, m.dtype), self.at(c, low, c_row, m.dtype)
        size = (self.code.sub(high, low), self.number(m.columns), self.number(m.depth))
        if beside and m.right.view.strides[-1] == 1 and self.rest.zero.get(step.operands[1]):
            terms = self.scratch(np.dtype(np.int64), m.depth, each=True)
            sides = (a, column, b, b_row, c, c_row)
            self.call(f"product_tall_resting_{m.dtype.name}", *size, *sides, scratch, terms)
            return
        sides = (a, row, column, b, b_row, b_column, c, c_row)
        self.call(f"product_tall_{m.dtype.name}", *size, *sides, scratch)

    def multiply(self, step: Instruction, bounds: Any) -> None:
        """A product, or the rows `bounds` of it; of a batch of matrices one after another."""
        m = Matrices(self.plan, step)
        self.work += m.work * self.repeats
        low, high = bounds or (ZERO, self.number(m.leading))
        name = m.dtype.name
        if not m.batch:
            packed = self.pack(m.right, m.depth, m.columns, m.dtype)
            (a, row, column), _, (c, c_row) = self.sides(m)
            a, c = self.at(a, low, row, m.dtype), self.at(c, low, c_row, m.dtype)
            size = (self.code.sub(high, low), self.number(m.columns), self.number(m.depth))
            finite = self.finite.get(self.packed.get(panels_of(m.right)))
            if finite is None or not self.is_worth_a_look(step, m):
                self.call(f"product_{name}", *size, a, row, column, packed, c, c_row)
                return
            sides = (a, row, packed, c, c_row, self.code.load(finite, typ=INDEX))
            last = self.last_rows(step, m, low)
            most = resting.row_scratch_size(m.depth, m.columns)
            scratch = self.scratch(m.dtype, most, each=True)
            self.call(f"product_resting_{name}", *size, *sides, *last, scratch)
            return
        form = products.shape(name, self.target)
        size = products.packed_size(m.depth, m.columns, form)
        scratch = self.scratch(m.dtype, size, each=True)
        with contextlib.ExitStack() as loops:
            places = [
                loops.enter_context(
                    self.code.loop(low, high) if axis == 0 else self.code.loop(ZERO, self.number(n))
                )
                for axis, n in enumerate(m.batch)
            ]
            (a, row, column), (b, b_row, b_column), (c, c_row) = self.sides(m, places)
            n, k = self.number(m.columns), self.number(m.depth)
            self.call(f"pack_{name}", b, b_row, b_column, k, n, scratch)
            sides = (a, row, column, scratch, c, c_row)
            self.call(f"product_{name}", self.number(m.rows), n, k, *sides)

    def sides(self, m: Matrices, places: Sequence[Any] = ()) -> Any:
        """Pointers and strides of A, B and C, of one matrix of a batch."""
        found = []
        for side in (m.left, m.right, m.result):
            pointer = self.address(side)
            *outer, row, column = side.view.strides
            for i, stride in zip(places, outer, strict=False):
                pointer = self.at(pointer, i, self.number(stride), m.dtype)
            found.append((pointer, self.number(row), self.number(column)))
        return found[0], found[1], found[2][:2]

    def at(self, pointer: Any, i: Any, stride: Any, dtype: Any) -> Any:
        element = ir.IntType(8 * dtype.itemsize)
        by = self.code.mul(i, stride, flags=["nsw"])
        return self.code.gep(pointer, [by], inbounds=True, source_etype=element)

    def is_worth_a_look(self, step: Instruction, m: Matrices) -> bool:
        """Whether rows of a product's left side may rest, and lie as they can be looked at."""
        left = step.operands[0]
        rests = self.rest.zero.get(left) or self.rest.still.get(left)
        return bool(rests) and m.left.view.strides[-1] == 1

    def last_rows(self, step: Instruction, m: Matrices, low: Any) -> tuple[Any, Any]:
        """Memory for A's rows of the iteration before, and whether there was one; null if moot."""
        if not self.rest.still.get(step.operands[0]) or not self.iterations or m.result.moves:
            return ir.Constant(POINTER, None), ZERO
        buffer = self.plan.scratch(m.dtype, m.rows * m.depth, "own")
        *_, t = self.iterations.values()
        again = self.code.zext(self.code.icmp_signed(">", t, ZERO), INDEX)
        return self.at(self.pointer(buffer), low, self.number(m.depth), m.dtype), again

    def look_at(self, step: Instruction) -> None:
        """See whether packed panels are finite, for a product whose rows may be zero."""
        m = Matrices(self.plan, step)
        panels = self.packed[panels_of(m.right)]
        if panels in self.finite or not self.is_worth_a_look(step, m):
            return
        self.finite[panels] = self.scratch(np.dtype(np.int64), 1, each=True)
        size = self.number(panels.size)
        self.call(f"finite_{m.dtype.name}", self.pointer(panels), size, self.finite[panels])

    def pack_around(self, loop: Loop) -> list[Instruction]:
        """Pack what a loop multiplies by in every iteration, before it; the products by such."""
        found = []
        inside = made_in(loop)
        for step in walk(loop.body):
            if isinstance(step, Instruction) and step.op is PRODUCT:
                m = Matrices(self.plan, step)
                right = step.operands[1]
                if not m.batch and right not in inside and not m.right.moves:
                    self.pack(m.right, m.depth, m.columns, m.dtype, split=True)
                    found.append(step)
        return found

    def pack(
        self, right: Location, depth: int, columns: int, dtype: Any, split: bool = False
    ) -> Any:
        """B in panels: packed before, or now; split: by all threads, each some of the panels."""
        key = panels_of(right)
        if key in self.packed:
            return self.pointer(self.packed[key])
        form = products.shape(dtype.name, self.target)
        size = products.packed_size(depth, columns, form)
        row, column = map(self.number, right.view.strides)
        b, k = self.address(right), self.number(depth)
        if not split:
            scratch = self.scratch(dtype, size, each=True)
            n = self.number(columns)
            self.call(f"pack_{dtype.name}", b, row, column, k, n, scratch)
            return scratch
        self.packed[key] = self.plan.scratch(dtype, size, "own")
        panels = self.pointer(self.packed[key])
        low, high = self.share(self.number(columns), form.width)
        with self.code.if_then(self.code.icmp_signed("<", low, high)):
            part = self.at(b, low, column, dtype)
            to = self.at(panels, low, k, dtype)
            size_now = self.code.sub(high, low)
            self.call(f"pack_{dtype.name}", part, row, column, k, size_now, to)
        return panels

    def scratch(self, dtype: Any, size: int, each: bool) -> Any:
        """Memory for this thread alone."""
        line = ALIGNMENT // dtype.itemsize
        size = -(-size // line) * line
        buffer = self.plan.scratch(dtype, size, "each")
        return self.at(self.pointer(buffer), self.thread, self.number(size), dtype)

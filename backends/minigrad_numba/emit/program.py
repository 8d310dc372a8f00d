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

from llvmlite import ir

from minigrad.graph.fusing import Kernel
from minigrad.graph.ir import Counter, Instruction, Loop, Step, Value
from minigrad.graph.nests import CopyNest, Nest
from minigrad.graph.planning import ALIGNMENT, Buffer, Copy, Location, Plan, Row
from minigrad.graph.properties import PRODUCT, View, is_join, views

from . import library, products
from .loops import INDEX, ONE, POINTER, ZERO, Code, define, index
from .nests import Loops
from .target import Target

DOUBLE = ir.DoubleType()
TALL = 512  # terms of a sum from which on a product takes them block by block


class Function:
    """The code of a run of steps, and the tables it reads: pointers, numbers, reals."""

    def __init__(self, module: ir.Module, name: str, plan: Plan, target: Target) -> None:
        self.plan, self.target = plan, target
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
        self.repeats = 1  # of the code that is being written
        self.work = 0  # multiplications and additions, and elements of kernels
        self.notes: list[str] = []

    # what the tables hold

    def pointer(self, buffer: Buffer) -> Any:
        if buffer not in self.buffers:
            at = len(self.buffers)
            with self.code.goto_entry_block():
                place = self.code.gep(self.pointers, [index(at)], source_etype=INDEX)
                self.buffers[buffer] = self.code.load(place, typ=POINTER)
        return self.buffers[buffer]

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

    def share(self, n: Any, unit: int) -> tuple[Any, Any]:
        """This thread's part of range(n), in whole units but for the last."""
        code = self.code
        units = code.sdiv(code.add(n, index(unit - 1)), index(unit))
        ends = [
            code.mul(code.sdiv(code.mul(units, i), self.threads), index(unit))
            for i in (self.thread, code.add(self.thread, ONE))
        ]
        return ends[0], code.smaller(ends[1], n)

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
        elif not is_join(step.op):
            return self.copies(step)  # a view: nothing to do, but where it is wanted elsewhere
        self.barrier()
        return self.copies(step)

    def kernel(self, step: Instruction, bounds: Any, split: bool = False) -> None:
        op = cast(Kernel, step.op)
        self.work += self.repeats * math.prod(op.space) * len(op.body)
        Loops(self, Nest(self.plan, step), bounds).write(split)

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
        self.pack_around(loop)
        self.barrier()
        rows, why = batch(self.plan, loop)
        what = f"loop of {loop.trips}, {len(loop.body)} steps: "
        self.notes.append(what + (why or f"each thread some of {rows} rows"))
        if not why:
            self.iterate(loop, self.share(self.number(rows), 1))
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
        for copy in self.plan.copies.get(step, ()) if not isinstance(step, Loop) else ():
            self.copy(copy, bounds=bounds)
        for value in step.outputs:
            for place in self.plan.stores.get(value, ()):
                self.copy(Copy(value, place), bounds=bounds)

    # products

    def product(self, step: Instruction) -> None:
        """A product outside of loops, its rows shared among the threads."""
        m = Matrices(self.plan, step)
        if m.batch or m.depth < TALL or m.columns * m.rows == 0:
            if not m.batch:
                self.pack(m.right, m.depth, m.columns, m.dtype, split=True)
                self.barrier()
            self.multiply(step, self.share(self.number(m.leading), m.unit))
            return
        form = products.shape(m.dtype.name, self.target)
        self.work += m.work * self.repeats
        scratch = self.scratch(m.dtype, products.scratch_size(m.columns, form), each=True)
        low, high = self.share(self.number(m.rows), form.rows)
        (a, row, column), (b, b_row, b_column), (c, c_row) = self.sides(m)
        a, c = self.at(a, low, row, m.dtype), self.at(c, low, c_row, m.dtype)
        size = (self.code.sub(high, low), self.number(m.columns), self.number(m.depth))
        sides = (a, row, column, b, b_row, b_column, c, c_row)
        self.call(f"product_tall_{m.dtype.name}", *size, *sides, ZERO, scratch)

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
            self.call(f"product_{name}", *size, a, row, column, packed, c, c_row, ZERO)
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
            self.call(
                f"product_{name}",
                *(self.number(m.rows), n, k, a, row, column, scratch, c, c_row, ZERO),
            )

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

    def pack_around(self, loop: Loop) -> None:
        """Pack what a loop multiplies by in every iteration, before it."""
        inside = made_in(loop)
        for step in steps_in(loop):
            if isinstance(step, Instruction) and step.op is PRODUCT:
                m = Matrices(self.plan, step)
                right = step.operands[1]
                if not m.batch and right not in inside and not m.right.moves:
                    self.pack(m.right, m.depth, m.columns, m.dtype, split=True)

    def pack(
        self, right: Location, depth: int, columns: int, dtype: Any, split: bool = False
    ) -> Any:
        """B in panels: packed before, or now; split: by all threads, each some of the panels."""
        key = (right.buffer, right.view, right.moves)
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


class Matrices:
    """The three sides of a product, as matrices with strides; batch: sizes of the axes before."""

    def __init__(self, plan: Plan, step: Instruction) -> None:
        left, right = (x for x in step.operands if isinstance(x, Value))
        result = step.outputs[0]
        self.dtype = result.spec.dtype
        a, b, c = (plan.home(x) for x in (left, right, result))
        if len(a.view.shape) == 1:
            a = a.part(View((1, *a.view.shape), (0, *a.view.strides), a.view.offset))
            c = c.part(_inserted(c.view, len(c.view.shape) - (len(b.view.shape) > 1)))
        if len(b.view.shape) == 1:
            b = b.part(View((*b.view.shape, 1), (*b.view.strides, 0), b.view.offset))
            c = c.part(_inserted(c.view, len(c.view.shape)))
        self.span = 1  # rows of the matrix in one of the first axis
        if len(b.view.shape) == 2 and len(a.view.shape) > 2:
            flat_a, flat_c = _flat(a.view), _flat(c.view)
            if flat_a and flat_c:
                self.span = math.prod(a.view.shape[1:-1])
                a, c = a.part(flat_a), c.part(flat_c)
        self.batch = c.view.shape[:-2]
        self.rows, self.depth = a.view.shape[-2:]
        self.columns = b.view.shape[-1]
        self.left, self.right, self.result = (
            side.part(_stretched(side.view, self.batch)) for side in (a, b, c)
        )

    @property
    def leading(self) -> int:
        """What is shared among threads: the first axis of a batch, else rows."""
        return self.batch[0] if self.batch else self.rows

    @property
    def work(self) -> int:
        return 2 * math.prod(self.batch) * self.rows * self.depth * self.columns

    @property
    def unit(self) -> int:
        return 1 if self.batch else 6


def _inserted(view: View, axis: int) -> View:
    shape, strides, offset = view
    return View((*shape[:axis], 1, *shape[axis:]), (*strides[:axis], 1, *strides[axis:]), offset)


def _flat(view: View) -> View | None:
    """All axes but the last as one, if they run on without a gap."""
    rows, stride = 1, view.strides[-2]
    for n, s in zip(reversed(view.shape[:-1]), reversed(view.strides[:-1]), strict=True):
        if n != 1 and s != rows * stride:
            return None
        rows *= n
    return View((rows, view.shape[-1]), (stride, view.strides[-1]), view.offset)


def _stretched(view: View, batch: tuple[int, ...]) -> View:
    shape, strides, offset = view
    missing = len(batch) - (len(shape) - 2)
    outer = [0] * missing + [
        0 if n == 1 else s for n, s in zip(shape[:-2], strides[:-2], strict=True)
    ]
    return View((*batch, *shape[-2:]), (*outer, *strides[-2:]), offset)


# --- loops whose rows are independent ------------------------------------------------------------


def steps_in(loop: Loop) -> Iterator[Step]:
    """All steps of a body, and of the bodies within."""
    for step in loop.body:
        yield step
        if isinstance(step, Loop):
            yield from steps_in(step)


def made_in(loop: Loop) -> set[Value]:
    """What is another value in each iteration."""
    found = set(loop.parameters)
    for step in steps_in(loop):
        found.update(step.outputs)
        if isinstance(step, Loop):
            found.update(step.parameters)
    return found


def batch(plan: Plan, loop: Loop) -> tuple[int, str]:
    """The size of the first axis, and why some step needs other rows of it, if one does."""
    if not loop.results:
        return 0, "of which nothing is left, one thread"
    shape = loop.results[0].spec.shape
    rows = shape[0] if shape else 0
    moving = made_in(loop) - {s.parameter for s in loop.sliced}
    if rows < 2 or any(x.parameter.spec.shape[:1] != (rows,) for x in loop.carries):
        return rows, "no batch to share, one thread"
    for step in loop.body:
        if not _by_rows(plan, step, rows, moving):
            name = "a loop" if isinstance(step, Loop) else step.op.name
            return rows, f"{name} needs all rows, one thread"
    if any(copy.target.view.shape[:1] != (rows,) for copy in plan.turns.get(loop, ())):
        return rows, "what is kept has other rows, one thread"
    return rows, ""


def _by_rows(plan: Plan, step: Step, rows: int, moving: set[Value]) -> bool:
    if isinstance(step, Loop) or any(v.spec.shape[:1] != (rows,) for v in step.outputs):
        return False
    if isinstance(step.op, Kernel):
        nest = Nest(plan, step)
        return (
            step.op.space[:1] == (rows,)
            and 0 not in nest.folded
            and all(
                _within_row(node.place.view, plan.home(node.value).view)
                for node in nest.nodes
                if node.place is not None and node.value in moving
            )
        )
    if step.op is PRODUCT:
        left, right = (x for x in step.operands if isinstance(x, Value))
        ones = (len(left.spec.shape) == 1) + (len(right.spec.shape) == 1)
        axes = len(step.outputs[0].spec.shape) + ones
        if axes == 2 and (right in moving or len(left.spec.shape) == 1):
            return False
        sides = [x.spec.shape for x in (left, right) if x in moving]
        return all(shape[0] == rows and len(shape) == axes for shape in sides)
    if is_join(step.op):
        return step.static["axis"] != 0
    (base,) = (x for x in step.operands if isinstance(x, Value))
    home = plan.home(base).view
    return base not in moving or all(_within_row(v, home) for v in views(step, home) or ())


def _within_row(view: View, home: View) -> bool:
    """Whether place i along the first axis of a view lies in row i of what it shows."""
    row = home.strides[0]
    others = zip(view.shape[1:], view.strides[1:], strict=True)
    low = high = view.offset - home.offset
    for n, stride in others:
        low, high = low + min(0, stride * (n - 1)), high + max(0, stride * (n - 1))
    return view.strides[:1] == (row,) and low >= 0 and high < row

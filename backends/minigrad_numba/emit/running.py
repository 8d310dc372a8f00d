"""A captured graph as a callable: native functions, and between them what runs op by op."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from llvmlite import ir

from minigrad.graph.engine import bare, make
from minigrad.graph.fusing import Kernel, fuse
from minigrad.graph.indexing import ACCUMULATE
from minigrad.graph.interpreter import evaluate
from minigrad.graph.ir import Graph, Instruction, Loop, Step, Value
from minigrad.graph.lookups import look_up
from minigrad.graph.planning import ALIGNMENT, plan
from minigrad.graph.properties import PRODUCT, Trips, is_join, looks_at_values, moving, views
from minigrad.graph.resting import rest

from . import library, objects, pool, support, target
from .arenas import Arena, arena
from .program import Function

SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 4)
MOST = 2000  # steps that are left of a program; compiling more takes too long
PAGE = 4096  # bytes; memory that the system has to find anew is slow from there on
SMALL = 20_000_000  # operations below which a second thread costs more than it brings
DTYPES = {np.dtype(name) for name in ("float32", "float64", "bool", "int64", "int32", "uint32")}


def is_foreign(step: Step, trips: Trips) -> bool:
    """Whether a step has no native code."""
    if isinstance(step, Loop):
        last = all(list(c.outputs) == [step.trips - 1] for c in step.collected)
        return bool(step.indexed) or not last or any(is_foreign(s, trips) for s in step.body)
    values = (*step.operands, *step.outputs)
    if any(v.spec.dtype not in DTYPES for v in values if isinstance(v, Value)):
        return True
    if isinstance(step.op, Kernel):
        return False
    if looks_at_values(step):
        return True
    if step.op is PRODUCT:
        dtypes = {v.spec.dtype for v in values if isinstance(v, Value)}
        return len(dtypes) > 1 or step.outputs[0].spec.dtype.kind != "f"
    if step.op is ACCUMULATE:
        return step.outputs[0].spec.dtype.kind == "b"
    return not is_join(step.op) and views(step) is None and moving(step, trips) is None


class Segment:
    """A native function and the tables that it reads."""

    def __init__(self, function: Function, name: str) -> None:
        self.name = name
        self.buffers = list(function.buffers)
        self.looks_up = function.fault is not None
        self.numbers = np.array(function.numbers or [0], dtype=np.int64)
        self.reals = np.array(function.reals or [0.0])
        self.pointers = np.zeros(max(1, len(self.buffers)), dtype=np.uintp)
        self.scratch = np.zeros_like(self.pointers)  # 1 where an offset into the arena stands
        self.native: Any = None
        self.tables: tuple[int, ...] = ()  # where they lie
        self.moving: list[
            tuple[int, Any]
        ] = []  # places in the table of what is elsewhere each time


class Outside:
    """Steps that run op by op, one after another: a graph of what they need and what others do."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps

    def close(self, wanted: set[Value]) -> None:
        """Know what goes in and out; wanted: what others use."""
        made = dict.fromkeys(v for step in self.steps for v in step.outputs)
        used = dict.fromkeys(x for step in self.steps for x in step.operands)
        inputs = [x for x in used if isinstance(x, Value) and x not in made and x.constant is None]
        outputs = tuple(v for v in made if v in wanted)
        self.graph = Graph(tuple(inputs), tuple(self.steps), outputs)


class Program:
    """A graph as native code: called with arrays for its inputs, it returns those of its outputs.

    What has no native code runs op by op in between.
    """

    def __init__(self, graph: Graph, backend: Any) -> None:
        graph = look_up(graph, backend)
        self.graph, self.backend = fuse(graph, support.is_vector), backend
        large = sum(map(_instructions, self.graph.walk())) > MOST
        if large:  # op by op a kernel would compute again what others have computed
            inside = {step for loop in graph.loops() for step in loop.body}
            self.graph = fuse(graph, lambda step: step in inside and support.is_vector(step))
        around = {step for step in self.graph.steps if large and not isinstance(step, Loop)}
        self.trips = {loop.counter: loop.trips for loop in self.graph.loops()}
        self.plan = plan(self.graph, lambda step: step in around or is_foreign(step, self.trips))
        self.rest = rest(self.graph)
        self.lock = threading.Lock()
        self.parts: list[Segment | Outside] = []
        self.notes: list[str] = [f"more than {MOST} steps: its loops alone are native"] * large
        self.work = 0
        module = ir.Module("program")
        self.write(module)
        self.pool = pool.pool(pool.threads() if self.work > SMALL else 1)
        library.load()
        self.text = str(module)
        before = replace(objects.counters)
        self.native = objects.compile(self.text)
        self.cost = _spent(before)
        self.memory()
        _programs.add(self)

    def write(self, module: ir.Module) -> None:
        """The code of each run of native steps."""
        waiting: list[Step] = []
        for step in self.graph.steps:
            if step in self.plan.opaque:
                self.segment(module, waiting)
                waiting = []
                if not self.parts or isinstance(self.parts[-1], Segment):
                    self.parts.append(Outside([]))
                cast(Outside, self.parts[-1]).steps.append(step)
            else:
                waiting.append(step)
        self.segment(module, waiting, last=True)
        parts = [part for part in self.parts if isinstance(part, Outside)]
        runs = {step: part for part in parts for step in part.steps}
        for part in parts:
            others = (step for step in self.graph.steps if runs.get(step) is not part)
            part.close({*self.graph.outputs, *(x for step in others for x in step.operands)})

    def segment(self, module: ir.Module, steps: list[Step], last: bool = False) -> None:
        if not steps and not (last and self.plan.last):
            return
        name = f"part{len(self.parts)}"
        function = Function(module, name, self.plan, target.host(), self.rest)
        for step in steps:
            function.step(step)
        for copy in self.plan.last if last else ():
            function.copy(copy, split=True)
        function.code.ret_void()
        self.work += function.work
        self.notes += function.notes
        self.parts.append(Segment(function, name))

    def memory(self) -> None:
        """Scratch memory, which all calls share, and the addresses that never change."""
        size = self.plan.bytes
        for buffer in self.plan.buffers:
            if buffer.kind in ("own", "each"):
                size = -(-size // ALIGNMENT) * ALIGNMENT
                buffer.offset = size
                size += buffer.bytes * (self.pool.threads if buffer.kind == "each" else 1)
        self.bytes = size
        self.scratch_at = 0  # the arena's address that the tables are made for
        self.outputs = [b for b in self.plan.buffers if b.kind == "output"]
        self.kept: dict[Any, list[np.ndarray]] = {buffer: [] for buffer in self.outputs}
        self.constants = {
            buffer: np.ascontiguousarray(bare(buffer.value.constant))
            for buffer in self.plan.buffers
            if buffer.kind == "constant" and buffer.value is not None
        }
        self.fault = np.zeros(1, np.uint8)  # 1 once an index was out of range
        for part in self.parts:
            if not isinstance(part, Segment):
                continue
            part.moving = []
            part.native = self.native.function(part.name, SIGNATURE)
            tables = part.pointers, part.numbers, part.reals
            part.tables = tuple([table.ctypes.data for table in tables])
            for i, buffer in enumerate(part.buffers):
                if buffer in self.constants:
                    part.pointers[i] = self.constants[buffer].ctypes.data
                elif buffer.kind == "fault":
                    part.pointers[i] = self.fault.ctypes.data
                elif buffer.kind in ("own", "each", "scratch"):
                    part.pointers[i] = buffer.offset
                    part.scratch[i] = 1
                else:
                    part.moving.append((i, buffer))

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self.lock, arena(self.bytes) as memory:
            for part in self.parts:
                if isinstance(part, Segment) and memory.start != self.scratch_at:
                    part.pointers += part.scratch * np.uintp(memory.start)
                    part.pointers -= part.scratch * np.uintp(self.scratch_at)
            self.scratch_at = memory.start
            return self.run(inputs, memory)

    def run(self, inputs: Sequence[np.ndarray], memory: Arena) -> list[np.ndarray]:
        arrays: dict[Any, np.ndarray] = {}
        known: dict[Value, np.ndarray] = {}
        for value, array in zip(self.graph.inputs, inputs, strict=True):
            known[value] = array
            arrays[self.plan.places[value].buffer] = np.ascontiguousarray(array)
        for buffer in self.outputs:
            arrays[buffer] = self.fresh(buffer)
        for part in self.parts:
            if not isinstance(part, Segment):
                self.outside(part.graph, arrays, known, memory)
                continue
            for i, buffer in part.moving:
                part.pointers[i] = arrays[buffer].ctypes.data
            self.pool.run(part.native, *part.tables, memory.barrier)
            if part.looks_up and self.fault[0]:
                self.fault[0] = 0
                return self.interpreted(inputs)
        known.update({buffer.value: arrays[buffer] for buffer in self.outputs})
        return [
            bare(v.constant) if v.constant is not None else known[v] for v in self.graph.outputs
        ]

    def interpreted(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs op by op, which raises what an eager call does where an index is wrong."""
        given = [make(x, self.backend) for x in inputs]
        return [bare(y) for y in evaluate(self.graph, given)]

    def fresh(self, buffer: Any) -> np.ndarray:
        """An array that nobody holds: new, or one of two that were returned and let go since."""
        for array in self.kept[buffer]:
            if sys.getrefcount(array) == ALONE:
                return array
        made = np.empty(buffer.value.spec.shape, buffer.dtype)
        if made.nbytes > PAGE and len(self.kept[buffer]) < 2:
            self.kept[buffer].append(made)
        return made

    def outside(
        self,
        graph: Graph,
        arrays: dict[Any, np.ndarray],
        known: dict[Value, Any],
        memory: Arena,
    ) -> None:
        """Run steps on arrays of their own, and show native code where their results are."""
        given = [make(self.array(x, arrays, known, memory), self.backend) for x in graph.inputs]
        made = evaluate(graph, given)
        for value, tensor in zip(graph.outputs, made, strict=True):
            known[value] = bare(tensor)
            if np.may_share_memory(known[value], memory.array):  # which others use after this step
                known[value] = known[value].copy()
            arrays[self.plan.places[value].buffer] = np.ascontiguousarray(known[value])

    def array(
        self,
        value: Value,
        arrays: dict[Any, np.ndarray],
        known: dict[Value, Any],
        memory: Arena,
    ) -> Any:
        """A value's array, where native code has left it if need be."""
        if value in known:
            return known[value]
        buffer, view, _ = self.plan.places[value]
        held = arrays.get(buffer, self.constants.get(buffer))
        if held is not None:
            flat = held.reshape(-1)
        else:
            flat = memory.part(buffer.offset, buffer.bytes).view(buffer.dtype)
        strides = [s * buffer.dtype.itemsize for s in view.strides]
        return np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, strides)

    # what there is to see

    def source(self) -> str:
        """The LLVM code."""
        return self.text

    def report(self) -> str:
        """What runs natively, what does not, memory and time."""
        outside = [part for part in self.parts if isinstance(part, Outside)]
        foreign = [_described(step, self.trips) for part in outside for step in part.steps]
        count, threads = len(self.parts) - len(outside), self.pool.threads
        lines = [
            f"native: {count} function{'s' * (count != 1)}, "
            f"{threads} thread{'s' * (threads != 1)}, {self.bytes / 1e6:.2f} MB; {self.cost}",
            *self.notes,
        ]
        if foreign:
            counts = Counter(foreign).most_common()
            lines.append(
                "op by op: " + ", ".join(f"{n} {name}" if n > 1 else name for name, n in counts)
            )
        return "\n".join(lines)


def _instructions(step: Step) -> int:
    """How many instructions a step is."""
    return len(step.op.body) if isinstance(getattr(step, "op", None), Kernel) else 1


def _held(arrays: list[np.ndarray]) -> int:
    """The references to an array of a list, seen in a loop over the list, as in `fresh`."""
    for array in arrays:
        return sys.getrefcount(array)
    return 0


ALONE = _held([np.empty(0)])  # of an array that nobody else holds; it differs among Pythons
_programs: weakref.WeakSet[Program] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child no other thread runs a program, whatever was held when it was forked."""
    for program in list(_programs):
        program.lock = threading.Lock()
        program.memory()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _described(step: Step, trips: Trips) -> str:
    if not isinstance(step, Loop):
        return step.op.name
    reasons = {s.op.name for s in step.body if isinstance(s, Instruction) and is_foreign(s, trips)}
    return f"a loop of {step.trips}, for {', '.join(sorted(reasons)) or 'how it is fed'}"


def _spent(before: objects.Counters) -> str:
    now = objects.counters
    if now.compiled > before.compiled:
        return f"compiled in {now.compile_seconds - before.compile_seconds:.2f} s"
    if now.loaded > before.loaded:
        return f"loaded in {(now.load_seconds - before.load_seconds) * 1e3:.0f} ms"
    return "code of an earlier program of this structure"

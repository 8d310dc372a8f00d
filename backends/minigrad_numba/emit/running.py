"""A captured graph as a callable: native functions, and between them what runs op by op."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from minigrad.graph.fusing import Kernel
from minigrad.graph.interpreter import evaluate
from minigrad.graph.ir import Graph, Instruction, Loop, Step, Value
from minigrad.graph.planning import Location, Plan, is_join, plan
from minigrad.graph.properties import PRODUCT, views
from minigrad.op import bare
from minigrad.tensor import make

from . import library, objects, pool, target
from .nests import Loops, Nest
from .program import Function

SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 4)
DTYPES = {np.dtype(name) for name in ("float32", "float64", "bool", "int64", "int32", "uint32")}


def is_foreign(step: Step) -> bool:
    """Whether a step has no native code."""
    if isinstance(step, Loop):
        last = all(list(c.outputs) == [step.trips - 1] for c in step.collected)
        numbers = any(not isinstance(x, Value) for c in step.carries for x in c.initial)
        return bool(step.indexed) or not last or numbers or any(map(is_foreign, step.body))
    values = (*step.operands, *step.outputs)
    if any(v.spec.dtype not in DTYPES for v in values if isinstance(v, Value)):
        return True
    if isinstance(step.op, Kernel):
        return False
    if step.op is PRODUCT:
        return step.outputs[0].spec.dtype.kind != "f"
    return not is_join(step.op) and views(step) is None


class Segment:
    """A native function and the tables that it reads."""

    def __init__(self, function: Function, name: str) -> None:
        self.name = name
        self.buffers = list(function.buffers)
        self.numbers = np.array(function.numbers or [0], dtype=np.int64)
        self.reals = np.array(function.reals or [0.0])
        self.pointers = np.zeros(max(1, len(self.buffers)), dtype=np.uintp)
        self.native: Any = None


class Program:
    """What emit returns: called with arrays for the graph's inputs, it returns its outputs."""

    def __init__(self, graph: Graph, backend: Any) -> None:
        self.graph, self.backend = graph, backend
        self.plan = plan(graph, is_foreign)
        self.pool = _pool()
        self.threads = self.pool.threads
        self.lock = threading.Lock()
        self.module = ir.Module("program")
        self.parts: list[Segment | Step] = []
        self.write()
        library.load()
        self.native = objects.compile(self.module)
        self.memory()

    def write(self) -> None:
        """The code of each run of native steps."""
        waiting: list[Step] = []
        for step in self.graph.steps:
            if step in self.plan.opaque:
                self.segment(waiting)
                waiting = []
                self.parts.append(step)
            else:
                waiting.append(step)
        self.segment(waiting, last=True)

    def segment(self, steps: list[Step], last: bool = False) -> None:
        if not steps and not (last and self.plan.last):
            return
        name = f"part{len(self.parts)}"
        function = Function(self.module, name, self.plan, target.host())
        for step in steps:
            function.step(step)
        for copy in self.plan.last if last else ():
            function.copy(copy, split=True)
        function.code.ret_void()
        self.parts.append(Segment(function, name))

    def memory(self) -> None:
        """Scratch memory, which all calls share, and the addresses that never change."""
        own = [b for b in self.plan.buffers if b.kind in ("own", "each")]
        size = self.plan.bytes
        for buffer in own:
            size = -(-size // 64) * 64
            buffer.offset = size
            size += buffer.bytes * (self.threads if buffer.kind == "each" else 1)
        self.bytes = size
        self.arena = np.empty(size + 64, dtype=np.uint8)
        self.state = np.zeros(library.BARRIER_SIZE + 64, dtype=np.uint8)
        start = -(-self.arena.ctypes.data // 64) * 64
        self.first = start - self.arena.ctypes.data
        self.fixed: dict[Any, int] = {}
        self.constants: list[np.ndarray] = []
        for buffer in self.plan.buffers:
            if buffer.kind in ("own", "each", "scratch"):
                self.fixed[buffer] = start + buffer.offset
            elif buffer.kind == "constant":
                assert buffer.value is not None and buffer.value.constant is not None
                array = np.ascontiguousarray(bare(buffer.value.constant))
                self.constants.append(array)
                self.fixed[buffer] = array.ctypes.data
        for part in self.parts:
            if isinstance(part, Segment):
                part.native = self.native.function(part.name, SIGNATURE)
                for i, buffer in enumerate(part.buffers):
                    part.pointers[i] = self.fixed.get(buffer, 0)

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self.lock:
            return self.run(inputs)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        arrays: dict[Any, np.ndarray] = {}
        known: dict[Value, np.ndarray] = {}
        for value, array in zip(self.graph.inputs, inputs, strict=True):
            known[value] = array
            arrays[self.plan.home(value).buffer] = np.ascontiguousarray(array)
        for buffer in self.plan.buffers:
            if buffer.kind == "output":
                assert buffer.value is not None
                arrays[buffer] = np.empty(buffer.value.spec.shape, buffer.dtype)
                known[buffer.value] = arrays[buffer]
        state = -(-self.state.ctypes.data // 64) * 64
        for part in self.parts:
            if not isinstance(part, Segment):
                self.outside(part, arrays, known)
                continue
            for i, buffer in enumerate(part.buffers):
                if buffer in arrays:
                    part.pointers[i] = arrays[buffer].ctypes.data
            self.pool.run(
                part.native,
                part.pointers.ctypes.data,
                part.numbers.ctypes.data,
                part.reals.ctypes.data,
                state,
            )
        return [
            bare(v.constant) if v.constant is not None else known[v] for v in self.graph.outputs
        ]

    def outside(self, step: Step, arrays: dict[Any, np.ndarray], known: dict[Value, Any]) -> None:
        """Run a step on arrays of its own, and show native code where its results are."""
        inputs = [x for x in dict.fromkeys(step.operands) if isinstance(x, Value)]
        inputs = [x for x in inputs if x.constant is None]
        given = [make(self.array(x, arrays, known), self.backend) for x in inputs]
        made = evaluate(Graph(tuple(inputs), (step,), step.outputs), given)
        for value, tensor in zip(step.outputs, made, strict=True):
            known[value] = bare(tensor)
            arrays[self.plan.home(value).buffer] = np.ascontiguousarray(known[value])

    def array(self, value: Value, arrays: dict[Any, np.ndarray], known: dict[Value, Any]) -> Any:
        if value in known:
            return known[value]
        return self.seen(self.plan.home(value), arrays)

    def seen(self, place: Location, arrays: dict[Any, np.ndarray]) -> np.ndarray:
        """The array that native code has left in a place."""
        buffer, view = place.buffer, place.view
        if buffer in arrays:
            flat = arrays[buffer].reshape(-1)
        else:
            start = self.first + buffer.offset
            flat = self.arena[start : start + buffer.bytes].view(buffer.dtype)
        strides = [s * buffer.dtype.itemsize for s in view.strides]
        return np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, strides)


@functools.cache
def _pool() -> pool.Pool:
    return pool.Pool(pool.threads())


def emit(graph: Graph, backend: Any) -> Program:
    """The graph as native code."""
    return Program(graph, backend)

"""A captured graph as a sequence of launches on one stream, between which the host never waits."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np

from minigrad.graph.engine import bare, make
from minigrad.graph.fusing import Kernel, fuse
from minigrad.graph.interpreter import evaluate
from minigrad.graph.ir import Counter, Graph, Instruction, Loop, Step, Value, at_iteration
from minigrad.graph.nests import CopyNest, Nest
from minigrad.graph.planning import ALIGNMENT, Buffer, Copy, Location, at, plan
from minigrad.graph.properties import PRODUCT, View, is_join, looks_at_values, views

from .kernels import HEAD, Text, is_writable, write

KEPT = 4  # sets of addresses for which a step's launches are kept: outputs alternate between two

Iterations = dict[Counter, int]


def is_foreign(step: Step) -> bool:
    """Whether a step runs op by op."""
    if isinstance(step, Loop):
        last = all(list(c.outputs) == [step.trips - 1] for c in step.collected)
        inner = any(isinstance(s, Loop) and is_foreign(s) for s in step.body)
        return bool(step.indexed) or not last or inner
    if not is_writable(step) or looks_at_values(step):
        return True
    if isinstance(step.op, Kernel) or is_join(step.op):
        return False
    if step.op is PRODUCT:
        return step.outputs[0].spec.dtype.kind != "f"
    return views(step) is None


class Launch(NamedTuple):
    """A kernel: its arguments are addresses, numbers and sizes."""

    name: str
    text: Text
    places: tuple[Location, ...]


class Product(NamedTuple):
    """A matrix product by cuBLAS."""

    places: tuple[Location, ...]  # left, right, result


class Foreign(NamedTuple):
    """An op, or a loop, on CuPy's arrays, whose results are copied to planned memory."""

    step: Step
    places: tuple[Location, ...]  # inputs, outputs


class Part:
    """The launches of one step of the graph, and what they become at certain addresses."""

    def __init__(self, entries: list[Launch | Product | Foreign]) -> None:
        self.entries = entries
        buffers = dict.fromkeys(place.buffer for entry in entries for place in entry.places)
        self.moving = [b for b in buffers if b.kind in ("input", "output")]
        self.bound: dict[tuple[int, ...], list[Callable[[], Any]]] = {}


class Program:
    """A graph as launches: called with arrays for its inputs, it returns those of its outputs.

    Loops are unrolled into a flat list of launches whose arguments never change while inputs and
    outputs lie at the same addresses: what a CUDA graph records, to be launched at once, or what a
    persistent kernel would walk through. Foreign steps, and matmul's copies of matrices that are
    not contiguous, are what stands in a recording's way.
    """

    def __init__(self, graph: Graph, backend: Any) -> None:
        self.graph, self.backend, self.xp = fuse(graph, is_writable), backend, backend.xp
        self.plan = plan(self.graph, is_foreign)
        self.lock = threading.Lock()
        self.names: dict[str, str] = {}  # of kernels by their texts
        self.known: dict[Value, Any] = {}  # results of foreign steps
        self.wanted = set(self.graph.outputs)
        self.texts: dict[Any, tuple[str, Text]] = {}
        self.entries: list[Launch | Product | Foreign] = []
        self.parts: list[Part] = []
        for step in self.graph.steps:
            self.step(step, {})
            self.end_part()
        for copy in self.plan.last:
            self.copy(copy, {})
        self.end_part()
        self.stream: Any = None
        self.compile()
        self.memory()

    # the list of launches

    def end_part(self) -> None:
        if self.entries:
            self.parts.append(Part(self.entries))
            self.entries = []

    def step(self, step: Step, iterations: Iterations) -> None:
        if step in self.plan.opaque:
            self.foreign(step, iterations)
        elif isinstance(step, Loop):
            self.loop(step, iterations)
        elif isinstance(step.op, Kernel):
            self.launch(step, partial(Nest, self.plan, step), iterations)
        elif step.op is PRODUCT:
            values = cast(tuple[Value, ...], (*step.operands, *step.outputs))
            self.entries.append(Product(flat(*self.places(values, iterations))))
        if isinstance(step, Instruction):
            for copy in self.plan.copies.get(step, ()):
                self.copy(copy, iterations)
            if isinstance(step.op, Kernel):
                return  # it writes to all places itself
        for value in step.outputs:
            for place in self.plan.stores.get(value, ()):
                self.copy(Copy(value, place), iterations)

    def loop(self, loop: Loop, iterations: Iterations) -> None:
        for copy in self.plan.copies.get(loop, ()):
            self.copy(copy, iterations)
        for t in range(loop.trips):
            inner = {**iterations, loop.counter: t}
            for step in loop.body:
                self.step(step, inner)
            for copy in self.plan.turns.get(loop, ()):
                self.copy(copy, inner)

    def copy(self, copy: Copy, iterations: Iterations) -> None:
        self.launch(copy, partial(CopyNest, self.plan, copy), iterations)

    def foreign(self, step: Step, iterations: Iterations) -> None:
        if isinstance(step, Instruction):
            step = replace(step, static=at_iteration(step.static, iterations))
        values = (*inputs_of(step), *step.outputs)
        self.entries.append(Foreign(step, self.places(values, iterations)))

    def launch(self, key: Any, nest: Callable[[], Nest], iterations: Iterations) -> None:
        if key not in self.texts:
            text = write(nest())
            name = self.names.setdefault(text.text, f"kernel{len(self.names)}")
            self.texts[key] = name, text
        name, text = self.texts[key]
        places = tuple(placed(place, iterations) for place in text.places)
        if text.sizes[0]:
            self.entries.append(Launch(name, text, places))

    def places(self, values: Sequence[Value], iterations: Iterations) -> tuple[Location, ...]:
        return tuple(placed(self.plan.home(value), iterations) for value in values)

    # what is there before the first call

    def compile(self) -> None:
        began = time.perf_counter()
        self.kernels: dict[str, Any] = {}
        if self.names:
            module = self.xp.RawModule(code=self.source())
            self.kernels = {name: module.get_function(name) for name in self.names.values()}
        self.seconds = time.perf_counter() - began

    def memory(self) -> None:
        """Scratch memory, which all calls share, and the addresses that never change."""
        size = self.plan.bytes
        for buffer in self.plan.buffers:
            if buffer.kind == "array":
                buffer.offset = size = -(-size // ALIGNMENT) * ALIGNMENT
                size += buffer.bytes
        self.arena = self.xp.empty(max(size, 1), dtype=np.uint8)
        self.constants = [
            (buffer, self.xp.ascontiguousarray(bare(buffer.value.constant)))
            for buffer in self.plan.buffers
            if buffer.kind == "constant" and buffer.value is not None
        ]
        self.bases: dict[Buffer, int] = {b: array.data.ptr for b, array in self.constants}
        for buffer in self.plan.buffers:
            if buffer.kind in ("scratch", "array"):
                self.bases[buffer] = self.arena.data.ptr + buffer.offset
        self.outputs = [b for b in self.plan.buffers if b.kind == "output"]
        self.kept: dict[Buffer, list[Any]] = {buffer: [] for buffer in self.outputs}

    # a call

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        with self.lock:
            stream = self.xp.cuda.get_current_stream()
            if self.stream not in (None, stream):
                self.stream.synchronize()  # it may still use the scratch memory
            self.stream = stream
            return self.run(inputs)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        known = self.known = dict(zip(self.graph.inputs, inputs, strict=True))
        used = []  # copies, which have to live until the last launch
        for value, array in known.items():
            used.append(self.xp.ascontiguousarray(array))
            self.bases[self.plan.places[value].buffer] = used[-1].data.ptr
        for buffer in self.outputs:
            array = known[buffer.value] = self.fresh(buffer)
            self.bases[buffer] = array.data.ptr
        for part in self.parts:
            key = tuple([self.bases[buffer] for buffer in part.moving])
            if key not in part.bound:
                if len(part.bound) == KEPT:
                    del part.bound[next(iter(part.bound))]
                part.bound[key] = [self.bind(entry) for entry in part.entries]
            for call in part.bound[key]:
                call()
        self.known = {}
        return [
            bare(v.constant) if v.constant is not None else known[v] for v in self.graph.outputs
        ]

    def fresh(self, buffer: Buffer) -> Any:
        """An array that nobody holds: new, or one of two that were returned and let go since."""
        for array in self.kept[buffer]:
            if sys.getrefcount(array) == 3:  # the list, `array`, and the argument of this call
                return array
        made = self.xp.empty(cast(Value, buffer.value).spec.shape, dtype=buffer.dtype)
        if len(self.kept[buffer]) < 2:
            self.kept[buffer].append(made)
        return made

    def bind(self, entry: Launch | Product | Foreign) -> Callable[[], Any]:
        """A launch at the addresses of now."""
        if isinstance(entry, Launch):
            addresses = [self.address(place) for place in entry.places]
            arguments = (*addresses, *entry.text.reals, *entry.text.sizes)
            kernel = self.kernels[entry.name]
            return partial(kernel, (entry.text.grid,), entry.text.block, arguments)
        arrays = [self.view(place) for place in entry.places]
        if isinstance(entry, Foreign):
            return partial(self.outside, entry.step, arrays)
        return partial(self.xp.matmul, *arrays[:2], out=arrays[2])

    def address(self, place: Location) -> int:
        return self.bases[place.buffer] + place.view.offset * place.buffer.dtype.itemsize

    def view(self, place: Location) -> Any:
        """An array of what lies at a place, which does not keep it alive."""
        cuda, (buffer, view, _) = self.xp.cuda, place
        size = buffer.dtype.itemsize
        memory = cuda.UnownedMemory(self.bases[buffer], buffer.bytes, None, self.backend.device)
        pointer = cuda.MemoryPointer(memory, view.offset * size)
        strides = tuple([s * size for s in view.strides])
        return self.xp.ndarray(view.shape, buffer.dtype, pointer, strides)

    def outside(self, step: Step, arrays: list[Any]) -> None:
        """Run a step op by op, and copy its results to where kernels find them."""
        inputs = inputs_of(step)
        given = [make(array, self.backend) for array in arrays[: len(inputs)]]
        made = evaluate(Graph(inputs, (step,), step.outputs), given)
        for value, tensor, array in zip(step.outputs, made, arrays[len(inputs) :], strict=True):
            array[...] = bare(tensor)
            if value in self.wanted:
                self.known[value] = array.copy()

    # what there is to see

    def source(self) -> str:
        """The text of the kernels, CUDA C."""
        texts = [text.replace("@", name, 1) for text, name in self.names.items()]
        return "\n".join([HEAD, *texts])

    def report(self) -> str:
        """What is launched, what runs op by op, memory and time."""
        entries = [entry for part in self.parts for entry in part.entries]
        counts = {kind: sum(isinstance(x, kind) for x in entries) for kind in (Launch, Product)}
        lines = [
            f"cuda: {len(self.names)} kernels, {counts[Launch]} launches, {counts[Product]} "
            f"products, {self.arena.nbytes / 1e6:.2f} MB; compiled in {self.seconds:.2f} s"
        ]
        if foreign := [x.step for x in entries if isinstance(x, Foreign)]:
            names = dict.fromkeys(
                f"a loop of {s.trips}" if isinstance(s, Loop) else s.op.name for s in foreign
            )
            lines.append(f"op by op: {', '.join(names)}")
        return "\n".join(lines)


def inputs_of(step: Step) -> tuple[Value, ...]:
    """What a step reads, besides constants."""
    values = [x for x in dict.fromkeys(step.operands) if isinstance(x, Value)]
    return tuple([x for x in values if x.constant is None])


def placed(place: Location, iterations: Iterations) -> Location:
    """A place in one iteration of the loops around."""
    for counter, t in iterations.items():
        place = at(place, counter, t)
    return place


def flat(left: Location, right: Location, result: Location) -> tuple[Location, ...]:
    """The sides of a product; of many matrices with one as one product of matrices."""
    sides = (left, result)
    if len(right.view.shape) == 2 and all(
        len(x.view.shape) > 2 and x.view.is_contiguous for x in sides
    ):
        left, result = (x.part(_matrix(x.view)) for x in sides)
    return left, right, result


def _matrix(view: View) -> View:
    *outer, columns = view.shape
    return View((math.prod(outer), columns), (columns, 1), view.offset)

"""A captured program as Python text: NumPy's functions, told where in planned memory to write."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.graph.ir import Graph
from minigrad_numpy.plan import Plan
from minigrad_numpy.symbols import (
    REDUCE,
    Body,
    Entry,
    Layout,
    Queue,
    Symbol,
    astype,
    compact,
    getitem,
)
from minigrad_numpy.walk import Walk

# What the text may say besides the names of functions and arrays.
WORDS = {"np": np, "dtype": np.dtype, "deque": deque, "inf": float("inf"), "nan": float("nan")}


class Text:
    """A plan written out: `source`, and `run`, the function that it is."""

    def __init__(self, graph: Graph, backend: Any, inputs: Sequence[Layout]) -> None:
        self.walk = Walk(graph, backend, inputs)
        self.plan = Plan(self.walk)
        self.names: dict[Any, str] = {}
        self.space: dict[str, Any] = dict(WORDS)
        self.count = 0
        self.calls = self.allocated = 0
        self.loops: list[tuple[int, int]] = []  # iterations and lines
        top = self.walk.top
        given = [self.variable(x) for x in self.walk.inputs]
        self.body(top)
        outputs = ", ".join(map(self.returned, self.walk.outputs))
        lines = _indented([f"def run({', '.join(given)}):", [*top.lines, f"return [{outputs}]"]])
        self.source = "\n".join(lines) + "\n"
        exec(compile(self.source, "<a program of minigrad_numpy>", "exec"), self.space)
        self.run = self.space["run"]

    # --- names

    def fresh(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count - 1}"

    def variable(self, x: Symbol) -> str:
        x.text = self.fresh("x")
        return x.text

    def keep(self, value: Any, name: str, key: Any = None) -> str:
        """The global name of an object; the same object has one."""
        key = id(value) if key is None else key
        if key not in self.names:
            known = self.space.get(name, value)
            self.names[key] = name if known is value else self.fresh(f"{name}_")
            self.space[self.names[key]] = value
        return self.names[key]

    def array(self, array: np.ndarray) -> str:
        return self.names.get(id(array)) or self.keep(array, self.fresh("b"))

    def name(self, x: Any) -> str:
        """An argument as text."""
        if not isinstance(x, Symbol):
            return self.argument(x)
        if x.root.given:
            return x.text or self.item(x)
        body = x.root.body
        if body is self.walk.top or x.t is not None:
            return self.array(self.plan.array(x))
        arrays = [self.plan.array(self.walk.at(x, body, t)) for t in range(body.start, body.stop)]
        if all(array is arrays[0] for array in arrays):
            return self.array(arrays[0])
        key = tuple(map(id, arrays))
        if key not in self.names:
            self.names[key] = self.fresh("b")
            self.space[self.names[key].upper()] = arrays
        body.header[self.names[key]] = self.names[key].upper()
        return self.names[key]

    def item(self, x: Symbol, index: str = "") -> str:
        """An item of what is known at run time alone; or the one of an index in its place."""
        whole, i = x.item
        if isinstance(whole, Queue):
            return f"{whole.name}[{index or i}]"
        return f"{self.name(whole)}[{index or i}, ...]"  # an array, where it has no axis left

    def argument(self, x: Any) -> str:
        if isinstance(x, tuple):
            inner = ", ".join(map(self.name, x))
            return f"({inner},)" if len(x) == 1 else f"({inner})"
        if x is None or x.__class__ in (int, float, bool, str, slice, type(...)):
            return repr(x)
        if isinstance(x, (np.dtype, np.generic)):
            return repr(x)
        return self.keep(x, self.fresh("k"))

    def function(self, entry: Entry) -> str:
        known = entry.function.__name__ if not entry.name else self.fresh(f"{entry.name}_")
        name = self.keep(entry.function, known)
        if entry.counters:
            name += f"[{', '.join(map(self.counter, entry.counters))}]"
        return name

    def counter(self, body: Body) -> str:
        depth = sum(1 for _ in body.outwards()) - 2
        body.header[f"t{depth or ''}"] = f"range({body.start}, {body.stop})"
        return f"t{depth or ''}"

    # --- lines

    def body(self, body: Body) -> None:
        for entry in body.entries:
            if isinstance(entry, Body):
                self.loop(entry)
            elif isinstance(entry, Queue):
                entry.name = self.fresh("q")
                start = f"deque([None] * {entry.size}, {entry.size})" if entry.size else "[]"
                body.lines.append(f"{entry.name} = {start}")
            else:
                self.call(entry, body)

    def loop(self, body: Body) -> None:
        parent, trips = body.parent, body.stop - body.start
        used = [x for x in body.parameters if isinstance(x, Symbol) and x.root.used]
        given = [x for x in used if x.root.given]
        for x in given:
            if x.item is not None:
                body.lines.append(f"{self.variable(x)} = {self.item(x)}")
            else:
                x.text = self.name(x.root.source(body.start)) if trips == 1 else self.fresh("x")
        self.body(body)
        for x in given if trips > 1 else ():  # now, for views that the body makes have names
            if x.item is None:
                values = [x.root.source(t) for t in range(body.start, body.stop)]
                body.header[x.text] = self.items(values)
        for queue, x in body.tails:
            body.lines.append(f"{queue.name}.append({self.name(x)})")
        if trips == 1:
            firsts = [f"[{name}] = {over}" for name, over in body.header.items()]
            parent.lines += firsts + body.lines
            return
        self.loops.append((trips, len(body.lines)))
        if len(body.header) > 1:
            over = f"{', '.join(body.header)} in zip({', '.join(body.header.values())})"
        else:
            over = " ".join([*body.header, "in", *body.header.values()])
        over = over if body.header else f"_ in range({trips})"
        parent.lines += [f"for {over}:", body.lines or ["pass"]]

    def items(self, symbols: list[Symbol]) -> str:
        """A list of values, one for each iteration."""
        wholes = {id(x.item[0]) if x.item else None for x in symbols}
        if len(symbols) > 2 and len(wholes) == 1 and None not in wholes:
            numbers = [x.item[1] for x in symbols]
            step = numbers[1] - numbers[0]
            over = range(numbers[0], numbers[-1] + step, step) if step else range(0)
            if numbers == list(over):
                return f"[{self.item(symbols[0], 'i')} for i in {over!r}]"
        return f"[{', '.join(map(self.name, symbols))}]"

    def call(self, entry: Entry, body: Body) -> None:
        results = entry.results
        if not results:
            body.lines.append(self.plain(entry))
            self.calls += 1
            return
        given = any(x.root.given for x in results)
        if not entry.fresh and not given:
            return  # views of planned memory are there before the program runs
        fixed = not entry.fresh and not entry.counters  # a view, the same in each iteration
        target = results[0].root.body if fixed else body
        if given:
            self.allocated += entry.fresh and not results[0].root.output
            self.calls += entry.fresh
            target.lines.append(self.making(entry))
            return
        self.calls += 1
        body.lines += self.writing(entry)

    def making(self, entry: Entry) -> str:
        """A call whose result has memory of its own, or is a view."""
        call = self.plain(entry)
        if entry.several:
            group = self.fresh("v")
            queue = Queue(None, group)
            for i, x in enumerate(entry.results):
                x.item, x.text = (queue, i), f"{group}[{i}]"
            return f"{group} = {call}"
        [x] = entry.results
        x.text = self.fresh("v")
        if entry.scalar:
            call = f"{self.keep(np.asarray, 'asarray')}({call})"
        return f"{x.text} = {call}"

    def plain(self, entry: Entry) -> str:
        if entry.function is getitem:
            key = entry.args[1]
            return f"{self.name(entry.args[0])}[{self.name(key)}]"
        if entry.function in (np.transpose, np.reshape) and len(entry.args) == 2:
            x, key = map(self.name, entry.args)
            return f"{x}.{entry.function.__name__}({key})"
        options = [f"{key}={self.name(value)}" for key, value in entry.options.items()]
        return f"{self.function(entry)}({', '.join([*map(self.name, entry.args), *options])})"

    def writing(self, entry: Entry) -> list[str]:
        """A call that writes into planned memory."""
        function, args, options = entry.function, entry.args, entry.options
        [result] = entry.results
        out = self.name(result)
        copyto = self.keep(np.copyto, "copyto")
        if function is np.where:
            a, b = (self.cast(x, result) for x in args[1:])
            lines = [] if self.name(b) == out else [f"{copyto}({out}, {self.name(b)})"]
            return [*lines, f"{copyto}({out}, {self.name(a)}, where={self.name(args[0])})"]
        if function is astype:
            return [f"{copyto}({out}, {self.name(args[0])}, casting='unsafe')"]
        if function is np.reshape:
            like = compact(args[0].shape, args[0].dtype)
            target = Symbol(self.walk, result.root, result.offset, like, result.t)
            return [f"{copyto}({self.name(target)}, {self.name(args[0])})"]
        if function in REDUCE:
            reduce = self.keep(
                REDUCE[function].reduce, f"{REDUCE[function].__name__}_reduce", function
            )
            axis, keepdims = options["axis"], options["keepdims"]
            return [f"{reduce}({self.name(args[0])}, {axis}, None, {out}, {keepdims})"]
        deprecated = function in (np.maximum, np.minimum)  # a third operand by position
        if (isinstance(function, np.ufunc) and not deprecated) or function is np.dot:
            return [f"{self.function(entry)}({', '.join(map(self.name, args))}, {out})"]
        given = [f"{key}={self.name(value)}" for key, value in options.items()]
        given = [*map(self.name, args), *given, f"out={out}"]
        return [f"{self.function(entry)}({', '.join(given)})"]

    def cast(self, x: Any, like: Symbol) -> Any:
        """A number as the array that where makes of it."""
        return x if isinstance(x, Symbol) else np.asarray(x, like.dtype)

    def returned(self, x: Symbol) -> str:
        """An output: what later calls write is copied."""
        lasting = x.root.given or x.root.constant is not None
        return self.name(x) if lasting else f"{self.name(x)}.copy('K')"


def _indented(lines: list[Any], depth: int = 0) -> list[str]:
    found = []
    for line in lines:
        if isinstance(line, list):
            found += _indented(line, depth + 1)
        else:
            found.append("    " * depth + line)
    return found


class Program:
    """A graph as straight-line Python: arrays in the order of its inputs -> those of its outputs.

    Planned once for each way in which the inputs lie in memory. One call at a time: the memory for
    intermediate results is the program's own.
    """

    def __init__(self, graph: Graph, backend: Any) -> None:
        self.graph, self.backend = graph, backend
        self.lock = threading.Lock()
        _programs.add(self)
        layouts = [compact(*value.spec) for value in graph.inputs]
        self.first = Text(graph, backend, layouts)
        self.texts = {tuple([like.strides for like in layouts]): self.first}

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        key = tuple([array.strides for array in arrays])
        with self.lock:
            text = self.texts.get(key)
            if text is None:
                layouts = [Layout(array.shape, array.dtype, array.strides) for array in arrays]
                text = self.texts[key] = Text(self.graph, self.backend, layouts)
            found: list[np.ndarray] = text.run(*arrays)
            return found

    def source(self) -> str:
        """The Python text that runs, for inputs in C order."""
        return self.first.source

    def report(self) -> str:
        """Calls, loops, and memory, in a few lines."""
        text, plan = self.first, self.first.plan
        loops = ", ".join(f"{trips} x {lines}" for trips, lines in text.loops) or "none"
        wanted = sum(root.nbytes * root.versions for root in plan.roots)
        return (
            f"{text.calls} calls in {len(text.source.splitlines())} lines\n"
            f"loops (iterations x lines): {loops}\n"
            f"{len(plan.sizes)} buffers of {sum(plan.sizes):,} bytes for {len(plan.roots)} arrays "
            f"of {wanted:,}\n"
            f"{text.allocated} calls allocate what they give, besides the outputs"
        )


def emit(graph: Graph, backend: Any) -> Program:
    """A graph as a program for a backend whose arrays are NumPy's."""
    return Program(graph, backend)


_programs: weakref.WeakSet[Program] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child no other thread runs a program, whatever was held when it was forked."""
    for program in list(_programs):
        program.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

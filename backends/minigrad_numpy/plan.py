"""Memory for what a program computes: lifetimes, and buffers that several arrays use in turn."""

from __future__ import annotations

import bisect
import heapq

import numpy as np

from minigrad_numpy.symbols import Body, Entry, Queue, Root, Symbol, extent
from minigrad_numpy.walk import Walk

ALIGNMENT = 64


class Plan:
    """The buffers of a walked program, and the arrays in them."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.roots: dict[Root, None] = {}
        _number(walk.top, 0)
        self.touch(walk.top)
        for x in walk.outputs:
            self.hold(x, walk.top, walk.top.last, walk.top.last)
        self.sizes: list[int] = []
        self.share()
        self.buffers = [_aligned(size) for size in self.sizes]
        self.constants: dict[Root, np.ndarray] = {}
        self.arrays: dict[object, np.ndarray] = {}

    # --- lifetimes

    def touch(self, body: Body) -> None:
        for entry in body.entries:
            if isinstance(entry, Body):
                self.touch(entry)
            elif isinstance(entry, Entry):
                for x in entry.operands:
                    self.hold(x, body, entry.at, entry.at)
                if entry.fresh:
                    for x in entry.results:
                        self.hold(x, body, entry.at, entry.at)
        for _, x in body.tails:
            self.hold(x, body, body.last, body.last)
        for x in body.parameters:
            if isinstance(x, Symbol) and x.root.used and x.item is None:
                for t in range(body.start, body.stop):
                    self.hold(x.root.source(t), body, body.first, body.last, t)

    def hold(self, x: object, body: Body, first: int, last: int, t: int | None = None) -> None:
        """A symbol is used within a body; in its iteration t alone, if that is given."""
        if not isinstance(x, Symbol):
            return
        root, t0 = x.root, x.t
        if root.source is not None:
            root.used = True
        if root.given or root.source is not None or root.constant is not None:
            return
        home = root.body
        if t0 is not None:
            latest = home.stop - 1
            if t is not None and body.loop is home.loop:
                latest = min(t, latest)
            root.versions = max(root.versions, latest - t0 + 1)
            first, last = min(first, home.first), max(last, first)
        if root.rows is not None:
            *_, loop, _ = home.outwards()  # the outermost
            self.hold(root.rows[0], body, min(first, loop.first), max(last, loop.last))
            return
        around = set(map(id, home.outwards()))
        while id(body) not in around and body.parent is not None:
            first, last = min(first, body.first), max(last, body.last)
            body = body.parent
        self.roots[root] = None
        root.born = first if root.born is None else min(root.born, first)
        root.dies = max(root.dies, last)

    # --- buffers

    def share(self) -> None:
        """Give each root a buffer, its own from its birth to its death.

        Of those free the smallest that is large enough, if no more than half of it is wasted; or
        that of an operand that dies as the result is born, where no element is read twice.
        """
        alive: list[tuple[int, int, Root]] = []
        free: list[tuple[int, int]] = []
        inherited: set[Root] = set()
        for i, root in enumerate(sorted(self.roots, key=lambda r: r.born)):
            size = max(1, root.nbytes) * root.versions
            while alive and alive[0][0] < root.born:
                gone = heapq.heappop(alive)[2]
                if gone not in inherited:
                    bisect.insort(free, (self.sizes[gone.buffer], gone.buffer))
            dead = self.dead(root)
            if dead is not None:
                root.buffer = dead.buffer
                inherited.add(dead)
            else:
                place = bisect.bisect_left(free, (size, -1))
                if place < len(free) and free[place][0] <= 2 * size:
                    root.buffer = free.pop(place)[1]
                else:
                    root.buffer = len(self.sizes)
                    self.sizes.append(size)
            heapq.heappush(alive, (root.dies, i, root))

    def dead(self, root: Root) -> Root | None:
        """The dying operand whose memory an elementwise result can be written into."""
        entry = root.entry
        if entry is None or root.versions > 1 or entry.at != root.born:
            return None
        if entry.function is np.where:
            candidates = [entry.args[2]]
        elif isinstance(entry.function, np.ufunc) and entry.function.signature is None:
            candidates = list(entry.args)
        else:
            return None
        [result] = entry.results
        for x in candidates:
            if not isinstance(x, Symbol) or x.root not in self.roots or x.root.buffer is None:
                continue
            others = [y for y in entry.operands if y.root is x.root]
            if entry.function is np.where and any(y is not x for y in others):
                continue
            same = all(_same_place(y, result) for y in others)
            if same and x.root.dies == root.born and x.root.versions == 1:
                return x.root
        return None

    # --- arrays

    def array(self, x: Symbol) -> np.ndarray:
        """The array of a symbol at a fixed address."""
        root, offset = x.root, x.offset
        if root.rows is not None:
            whole, start, step = root.rows
            offset += whole.offset + (start + step * x.t) * whole.strides[0]
            root = whole.root
        elif x.t is not None:
            offset += (x.t - root.body.start) % root.versions * max(1, root.nbytes)
        buffer = self.constant(root) if root.constant is not None else self.buffers[root.buffer]
        key = id(buffer), offset, x.shape, x.dtype, x.strides
        if key not in self.arrays:
            self.arrays[key] = np.ndarray(x.shape, x.dtype, buffer, offset, x.strides)
        return self.arrays[key]

    def constant(self, root: Root) -> np.ndarray:
        """The memory of a constant, laid out as it was."""
        if root not in self.constants:
            given = root.constant
            before, after = extent(given)
            memory = _aligned(before + after)
            np.ndarray(given.shape, given.dtype, memory, before, given.strides)[...] = given
            self.constants[root] = memory
        return self.constants[root]


def _number(body: Body, clock: int) -> int:
    """Give entries their places in the order in which they are written."""
    body.first = clock
    for entry in body.entries:
        clock += 1
        if isinstance(entry, Body):
            clock = _number(entry, clock)
        elif not isinstance(entry, Queue):
            entry.at = clock
    body.last = clock + 1
    return body.last


def _same_place(x: Symbol, result: Symbol) -> bool:
    return (x.offset, x.shape, x.strides, x.dtype) == (
        result.offset,
        result.shape,
        result.strides,
        result.dtype,
    )


def _aligned(size: int) -> np.ndarray:
    """Bytes that begin at a cache line."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[start : start + size]

"""Kernels as CUDA C: one thread for each element of a space, or, where axes are folded, several.

Counts, sizes of outermost axes and Python's numbers are arguments: the text is the same for a
sequence of another length.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.graph.fusing import Kernel
from minigrad.graph.ir import Instruction, Value
from minigrad.graph.nests import Nest, Node, Write
from minigrad.graph.planning import Location
from minigrad.graph.properties import is_elementwise, reducer

from .expressions import PRELUDE, TYPES, WHOLE, Block, Expression, literal

THREADS = 256  # of a block
BLOCKS = 1024  # of a launch at most: threads go on to further elements
SHORT = 32  # elements that one thread folds alone
LONE = 64  # results below which a whole large block folds each
ARGUMENTS = 400  # CUDA passes 4,096 bytes of them

# A fold in a tree among the threads threadIdx.y of a block, whose number is a power of two: the
# order of the additions depends on the sizes alone. One thread has nothing to do here.
FOLD = """\
#define FOLD(name, formula) \\
    struct name { template <typename T> __device__ T operator()(T a, T b) { return formula; } };
FOLD(Sum, a + b)
FOLD(Greatest, greater_of(a, b))
FOLD(Smallest, smaller_of(a, b))
FOLD(Any, a || b)
FOLD(All, a && b)
template <typename T, typename F> __device__ T folded(T x, F f) {
    __shared__ T shared[1024];
    T* own = shared + threadIdx.y * blockDim.x + threadIdx.x;
    __syncthreads();
    *own = x;
    for (unsigned int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) *own = f(*own, own[half * blockDim.x]);
    }
    return *own;
}
"""
HEAD = PRELUDE + FOLD
FOLDS = {"sum": "Sum", "max": "Greatest", "min": "Smallest", "any": "Any", "all": "All"}


def is_writable(step: Instruction) -> bool:
    """Whether a kernel's text can be written."""
    op = step.op
    values = [x for x in (*step.operands, *step.outputs) if isinstance(x, Value)]
    if any(value.spec.dtype not in TYPES for value in values):
        return False
    if isinstance(op, Kernel):
        count = len(op.inputs) + len(op.made)
        return count < ARGUMENTS and all(is_writable(inner) for inner in op.body)
    if reducer(op) is not None:
        return reducer(op) in FOLDS
    if not is_elementwise(op):
        return True  # a view
    block = Block()
    given = [
        Expression(block, "x", x.spec.dtype) if isinstance(x, Value) else x for x in step.operands
    ]
    try:
        return isinstance(op.forward(block, *given, **step.static), Expression)
    except Exception:  # a function or a dtype that C has not, or not under this name
        return False


class Text(NamedTuple):
    """A kernel's text, `@` where its name belongs, and how it is launched.

    Its arguments are the addresses of places, then reals, then sizes: results, folded elements.
    """

    text: str
    places: tuple[Location, ...]
    reals: tuple[float, ...]
    sizes: tuple[int, ...]
    block: tuple[int, int]

    @property
    def grid(self) -> int:
        blocks = -(-self.sizes[0] // self.block[0])
        return blocks if len(self.sizes) > 1 else min(blocks, BLOCKS)


class Writer:
    """One nest as text."""

    def __init__(self, nest: Nest) -> None:
        self.nest, self.block = nest, Block()
        self.places: list[Location] = []
        self.parameters: list[str] = []
        self.reals: list[float] = []
        groups = nest.axes()
        space = nest.op.space
        sizes = {g[0]: math.prod(space[a] for a in g) for g in groups}
        self.kept = [(g, sizes[g[0]]) for g in groups if g[0] not in nest.folded]
        self.folded = [(g, sizes[g[0]]) for g in groups if g[0] in nest.folded]
        self.inner = bool(groups) and groups[-1][0] in nest.folded
        reach = [x.place.buffer.size for x in (*nest.nodes, *nest.writes) if x.place]
        small = max(math.prod(space), *reach) < 2**30
        self.index = "int" if small else "long long"

    # what the text refers to

    def locate(self, number: str, groups: Sequence[tuple[list[int], int]]) -> list[str]:
        """Lines that take a running number apart into the places along axes."""
        lines = []
        for at, (_, size) in enumerate(groups if len(groups) > 1 else ()):
            inner = math.prod(n for _, n in groups[at + 1 :])
            text = f"{number} / {inner}" if inner != 1 else number
            text += f" % {size}" if at else ""
            lines.append(f"const index {number}{at} = {text};")
        return lines

    @staticmethod
    def used(lines: list[str], by: Sequence[str]) -> list[str]:
        """Those of the lines that define what others name."""
        names = set(re.findall(r"\w+", " ".join(by)))
        return [line for line in lines if line.split()[2] in names]

    def element(self, item: Node | Write, name: str) -> str:
        """The element of a parameter that belongs to this thread's place."""
        terms = []
        for number, groups in (("i", self.kept), ("j", self.folded)):
            strides = [item.strides[group[-1]] for group, _ in groups]
            inner = [math.prod(n for _, n in groups[at + 1 :]) for at in range(len(groups))]
            if strides == inner:  # one after another
                terms += [number] * bool(groups)
                continue
            indices = [number] if len(groups) == 1 else [f"{number}{k}" for k in range(len(groups))]
            pairs = zip(indices, strides, strict=True)
            terms += [i if stride == 1 else f"{i} * {stride}" for i, stride in pairs if stride]
        return f"{name}[{' + '.join(terms) or '0'}]"

    def parameter(self, place: Location, form: str) -> str:
        name = f"p{len(self.places)}"
        self.places.append(place)
        self.parameters.append(form.format(TYPES[place.buffer.dtype], name))
        return name

    def number(self, x: Any, floating: bool) -> Any:
        """A Python number among floats: an argument unless it is one that formulas have."""
        formal = x in WHOLE or abs(x) == 0.5 or not math.isfinite(x)
        if isinstance(x, bool) or formal or not floating:
            return x
        self.reals.append(float(x))
        return Expression(self.block, f"r{len(self.reals) - 1}", None)

    # elements

    def compute(self) -> dict[Node, Expression]:
        """The values of all nodes at one place."""
        known: dict[Node, Expression] = {}
        for node in self.nest.nodes:
            if node.place is not None:
                name = self.parameter(node.place, "const {}* __restrict__ {}")
                made: Any = Expression(self.block, self.element(node, name), node.dtype)
            elif node.step is not None:
                dtypes = [x.dtype for x in node.operands if isinstance(x, Node)]
                floating = any(dtype.kind == "f" for dtype in (*dtypes, node.dtype))
                given = [
                    known[x] if isinstance(x, Node) else self.number(x, floating)
                    for x in node.operands
                ]
                made = node.step.op.forward(self.block, *given, **node.step.static)
            else:
                made = node.number
            known[node] = self.block.name(self.block.cast(made, node.dtype))
        return known

    def store(self, write: Write, value: Expression) -> str:
        name = self.parameter(write.place, "{}* __restrict__ {}")
        value = value.astype(write.place.buffer.dtype)
        return f"{self.element(write, name)} = {value.text};"

    def finished(self, body: list[str], sizes: tuple[int, ...], block: tuple[int, int]) -> Text:
        numbers = [f"const double r{i}" for i in range(len(self.reals))]
        counts = ["const long long n", "const long long m"][: len(sizes)]
        words = [x.replace(" ", "~") for x in (*self.parameters, *numbers, *counts)]
        parameters = textwrap.fill(", ".join(words), 96, subsequent_indent="    ")
        parameters = parameters.replace("~", " ")  # lines end between parameters
        lines = [f"typedef {self.index} index;", *body]
        text = "\n".join(f"    {line}" for line in lines)
        text = f'extern "C" __global__ void @(\n    {parameters})\n{{\n{text}\n}}\n'
        return Text(text, tuple(self.places), tuple(self.reals), sizes, block)

    def map(self) -> Text:
        """A thread for each element, which goes on to others if there are more than threads."""
        known = self.compute()
        writes = [self.store(write, known[write.node]) for write in self.nest.writes]
        inside = [*self.block.lines, *writes]
        places = self.used(self.locate("i", self.kept), inside)
        body = [
            "for (index i = index(blockIdx.x) * blockDim.x + threadIdx.x; i < n;",
            "     i += index(gridDim.x) * blockDim.x) {",
            *(f"    {line}" for line in (*places, *inside)),
            "}",
        ]
        return self.finished(body, (math.prod(self.nest.op.space),), (THREADS, 1))

    def reduce(self) -> Text:
        """blockDim.y threads fold one element: one where axes are short, or a tree of them.

        Threads beside each other read what lies side by side: along the folded axes if the last
        one is folded, else along the results.
        """
        n, m = (math.prod(size for _, size in groups) for groups in (self.kept, self.folded))
        known = self.compute()
        starts, steps, ends, stores = [], [], [], []
        totals: dict[tuple[Node, str | None], Expression] = {}
        for write in self.nest.writes:
            key = write.node, write.folded
            if key not in totals:
                dtype = gathered(write)
                fold, name = FOLDS[write.folded or ""], f"t{len(totals)}"
                totals[key] = Expression(self.block, name, dtype)
                value = known[write.node].astype(dtype).text
                starts.append(f"{TYPES[dtype]} {name} = {neutral(write.folded, dtype)};")
                steps.append(f"{name} = {fold}()({name}, {value});")
                ends.append(f"{name} = folded({name}, {fold}());")
            stores.append(self.store(write, totals[key]))
        inside = [*self.block.lines, *steps]
        outer = self.used(self.locate("i", self.kept), [*inside, *stores])
        inner = self.used(self.locate("j", self.folded), inside)
        body = [
            "const index i = index(blockIdx.x) * blockDim.x + threadIdx.x;",
            *outer,
            *starts,
            "if (i < n) for (index j = threadIdx.y; j < m; j += blockDim.y) {",
            *(f"    {line}" for line in (*inner, *inside)),
            "}",
            *ends,
            "if (i < n && threadIdx.y == 0) {",
            *(f"    {line}" for line in stores),
            "}",
        ]
        if m <= SHORT:
            block = (THREADS, 1)
        elif n <= LONE:
            block = (1, 4 * THREADS)
        else:
            block = (1, THREADS) if self.inner else (32, THREADS // 32)
        return self.finished(body, (n, m), block)


def write(nest: Nest) -> Text:
    """A nest as text."""
    return Writer(nest).reduce() if nest.writes[0].folded else Writer(nest).map()


def gathered(write: Write) -> np.dtype:
    """The dtype in which a reduction is gathered: a sum of floats in float64."""
    if write.folded == "sum":
        kind = write.node.dtype.kind
        return np.dtype("float64") if kind == "f" else write.place.buffer.dtype
    return np.dtype("bool") if write.folded in ("any", "all") else write.node.dtype


def neutral(fold: str | None, dtype: np.dtype) -> str:
    """What a fold starts with."""
    if fold in ("sum", "any", "all"):
        return literal(fold == "all", dtype)
    if dtype.kind == "f":
        return literal(-np.inf if fold == "max" else np.inf, dtype)
    if dtype.kind == "b":
        return literal(fold == "min", dtype)
    ends = np.iinfo(dtype)
    return f"({literal(ends.min + 1, dtype)} - 1)" if fold == "max" else literal(ends.max, dtype)

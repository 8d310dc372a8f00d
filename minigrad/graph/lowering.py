"""lower: an op that is neither elementwise, nor a view, a reduction or a product is written out.

An op's forward is NumPy's functions on arrays; run on minigrad's own functions, under a capture, it
gives the instructions it is composed of, as logsumexp does. What calls itself that way (cumsum), or
looks at values, stays. Einstein's sums, and products of one row or column for each matrix of a
batch, become multiplications and sums, which kernels do in passing, or products. What slices are
scattered to, their gradient, becomes a join with zeros; what rolls or pads, a join of pieces. Where
that is another composition in each iteration of a short loop, the loop's iterations are written
out.

>>> import minigrad as mg
>>> graph = mg.graph.capture(lambda x: mg.logsumexp(x, axis=0), mg.zeros((2, 3))).graph
>>> print(graph)
graph(
    %0: x0 (2, 3) float32,
):
  %1 = logsumexp(%0, axis=(0,), keepdims=False)  (3,) float32
  return %1
>>> print(lower(graph))
graph(
    %0: x0 (2, 3) float32,
):
  %1 = max(%0, axis=(0,), keepdims=True)  (1, 3) float32
  %2 = isfinite(%1)  (1, 3) bool
  %3 = where(%2, %1, const(0.0, () float32))  (1, 3) float32
  %4 = astype(%3, dtype=float32)  (1, 3) float32
  %5 = subtract(%0, %4)  (2, 3) float32
  %6 = exp(%5)  (2, 3) float32
  %7 = sum(%6, axis=(0,), keepdims=True)  (1, 3) float32
  %8 = log(%7)  (1, 3) float32
  %9 = add(%8, %4)  (1, 3) float32
  %10 = reshape(%9, shape=(3,))  (3,) float32
  return %10
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

from minigrad.backend import current
from minigrad.errors import MinigradError
from minigrad.graph.flattening import written_out
from minigrad.graph.ir import Graph, Instruction, Loop, Operand, Step, Value, at_iteration, walk
from minigrad.graph.properties import (
    PRODUCT,
    Statics,
    counters,
    has_counter,
    is_elementwise,
    is_join,
    reducer,
    views,
)
from minigrad.graph.rewriting import Names, renamed, renamed_loop
from minigrad.graph.skeleton import fresh, hashable
from minigrad.graph.tracing import capture
from minigrad.op import REGISTRY, Op
from minigrad.ops import create, elementwise, linalg, reduce, shape
from minigrad.ops.elementwise import multiply
from minigrad.ops.linalg import matmul
from minigrad.ops.shape import concatenate, reshape, transpose
from minigrad.spec import Spec

EINSUM, SCATTER, ROLL, PAD = (REGISTRY[name] for name in ("einsum", "scatter", "roll", "pad"))
LONGEST = 256  # steps of a loop's iterations that are written out


def lower(graph: Graph) -> Graph:
    """The graph with composed ops written out, in loops as well."""
    names: Names = {}
    steps = _steps(graph.steps, names)
    outputs = tuple(names.get(v, v) for v in graph.outputs)
    return Graph(graph.inputs, steps, outputs, graph.notes)


def _steps(steps: Sequence[Step], names: Names) -> tuple[Step, ...]:
    found: list[Step] = []
    for step in steps:
        if isinstance(step, Loop) and is_uneven(step):
            flat, outputs = written_out(cast(Loop, renamed(step, names)))
            names.update(outputs)
            found += _steps(flat, names)
            continue
        if isinstance(step, Loop):
            found.append(renamed_loop(step, names, _steps(step.body, names)))
            continue
        step = cast(Instruction, renamed(step, names))
        parts = composition(step)
        if parts is None:
            found.append(step)
            continue
        known: dict[Operand, Operand] = dict(zip(parts.inputs, _values(step), strict=True))
        last = dict(zip(parts.outputs, step.outputs, strict=True))
        for part in cast(tuple[Instruction, ...], parts.steps):
            made = tuple(last.get(v) or fresh(v) for v in part.outputs)
            operands = tuple(known.get(x, x) for x in part.operands)
            found.append(Instruction(part.op, operands, part.static, made))
            known.update(zip(part.outputs, made, strict=True))
    return tuple(found)


def is_uneven(loop: Loop) -> bool:
    """Whether a short loop has a step that is composed otherwise in each of its iterations."""
    steps = [s for s in walk(loop.body) if isinstance(s, Instruction)]
    if loop.trips * len(steps) > LONGEST:
        return False
    changing = [s for s in steps if loop.counter in counters(s.static)]
    return any(
        composition(replace(s, static=at_iteration(s.static, {loop.counter: t})))
        for t in range(loop.trips)
        for s in changing
    )


def _values(step: Instruction) -> list[Value]:
    return [x for x in step.operands if isinstance(x, Value)]


def composition(step: Instruction) -> Graph | None:
    """What an instruction is composed of, or None if it is not to be written out."""
    if has_counter(step.static) or len(_values(step)) < len(step.operands):
        return None
    if step.op is PRODUCT:
        a, b = (x.spec.shape for x in _values(step))
        if len(a) < 3 or len(b) < 3 or 1 not in (a[-2], b[-1]):
            return None
    elif (
        is_elementwise(step.op)
        or is_join(step.op)
        or reducer(step.op)
        or step.op.outputs
        or views(step) is not None
    ):
        return None
    specs = tuple(x.spec for x in _values(step))
    key = (hashable(step.static), current())  # constants in it belong to a backend
    return _composition(step.op, specs, key, Statics(step.static))


class _Functions:
    """minigrad's functions under NumPy's names, as an op's forward asks for them."""

    def __getattr__(self, name: str) -> Any:
        for module in (elementwise, reduce, shape, linalg):
            if name in vars(module):
                return vars(module)[name]
        raise AttributeError(name)


@lru_cache(1024)
def _composition(op: Op, specs: tuple[Spec, ...], key: Any, static: Statics) -> Graph | None:
    def run(*xs: Any) -> Any:
        if op is EINSUM:
            return einstein(xs, static["terms"], static["result"])
        if op is PRODUCT:
            return vector_product(*xs)
        if op is SCATTER:
            return among_zeros(*xs, **static)
        if op is ROLL:
            return rolled(*xs, **static)
        if op is PAD:
            return surrounded(*xs, **static)
        return op.forward(_Functions(), *xs, **static)

    if op.namespace != "xp" and op is not SCATTER:
        return None
    given = [create.zeros(s.shape, s.dtype) for s in specs]
    try:
        graph = capture(run, *given).graph
    except (AttributeError, TypeError, ValueError, MinigradError):
        return None  # it needs arrays
    made = graph.outputs
    if len(graph.inputs) != len(specs) or len(made) != 1 or graph.notes:
        return None
    if any(isinstance(s, Instruction) and s.op is op for s in graph.steps):
        return None
    same = (made[0].spec.shape, made[0].spec.dtype) == _result(op, specs, static)
    return graph if same and any(made[0] in s.outputs for s in graph.steps) else None


def _result(op: Op, specs: Sequence[Spec], static: Any) -> tuple[Any, Any]:
    spec = op.shape(*specs, **static)
    return tuple(spec.shape), spec.dtype


def among_zeros(values: Any, template: Sequence[Any], shape: Sequence[int]) -> Any:
    """Zeros with values where a template of integers, None and slices of step 1 points."""
    items = [item for item in template if item is not None]
    items += [slice(None)] * (len(shape) - len(items))
    bounds = [
        range(n)[slice(item, item + 1 or None) if isinstance(item, int) else item]
        for item, n in zip(items, shape, strict=True)
    ]
    if any(len(b) > 1 and b.step != 1 for b in bounds):
        raise ValueError("elements that are not neighbours")
    y = reshape(values, tuple(len(b) for b in bounds))
    for axis, (b, n) in enumerate(zip(bounds, shape, strict=True)):
        before = b[0] if b else n

        def zeros(count: int, y: Any = y, axis: int = axis) -> Any:
            return create.zeros((*y.shape[:axis], count, *y.shape[axis + 1 :]), values.dtype)

        parts = [zeros(before), y, zeros(n - before - len(b))]
        parts = [part for part in parts if part is y or part.shape[axis]]
        y = concatenate(parts, axis=axis) if len(parts) > 1 else y
    return y


# --- pieces side by side -------------------------------------------------------------------------


def rolled(x: Any, shift: int, axis: int) -> Any:
    """The end of x before its beginning."""
    place = -shift % max(1, x.shape[axis])
    return shape.concatenate(shape.split(x, [place], axis=axis)[::-1], axis=axis) if place else x


def surrounded(x: Any, widths: Sequence[tuple[int, int]], value: float) -> Any:
    """x between constants, one axis after another."""
    for axis, pair in enumerate(widths):
        sizes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in pair]
        before, after = ([create.full(s, value, x.dtype)] * (n > 0) for s, n in zip(sizes, pair))
        if any(pair):
            x = shape.concatenate([*before, x, *after], axis=axis)
    return x


# --- sums of products ----------------------------------------------------------------------------


def vector_product(a: Any, b: Any) -> Any:
    """a @ b for batches of matrices one of which is a single row or column."""
    if b.shape[-1] == 1:
        return reduce.sum(multiply(a, shape.swapaxes(b, -1, -2)), axis=-1, keepdims=True)
    return reduce.sum(multiply(shape.swapaxes(a, -1, -2), b), axis=-2, keepdims=True)


def einstein(xs: Sequence[Any], terms: Sequence[str], result: str) -> Any:
    """Einstein's sum of one or two operands, no letter twice in one of them."""
    xs, terms = list(xs), list(terms)
    for i, term in enumerate(terms):  # what one operand alone has is summed first
        others = result.join(t for j, t in enumerate(terms) if j != i) + result
        gone = tuple(a for a, letter in enumerate(term) if letter not in others)
        if gone:
            xs[i] = reduce.sum(xs[i], axis=gone)
            terms[i] = "".join(letter for letter in term if letter in others)
    if len(xs) == 1:
        return transpose(xs[0], [terms[0].index(letter) for letter in result])
    sizes = {letter: n for x, term in zip(xs, terms) for letter, n in zip(term, x.shape)}
    both = [letter for letter in terms[0] if letter in terms[1]]
    batch = [letter for letter in both if letter in result]
    inner = [letter for letter in both if letter not in result]
    rows, columns = ([c for c in t if c not in both] for t in terms)

    def count(letters: list[str]) -> int:
        n = 1
        for letter in letters:
            n *= sizes[letter]
        return n

    def matrices(x: Any, term: str, first: list[str], second: list[str]) -> Any:
        order = [*batch, *first, *second]
        x = transpose(x, [term.index(letter) for letter in order])
        return reshape(x, (*(sizes[c] for c in batch), count(first), count(second)))

    a = matrices(xs[0], terms[0], rows, inner)
    b = matrices(xs[1], terms[1], inner, columns)
    if count(inner) == 1:
        y = multiply(a, b)
    elif batch and 1 in (count(rows), count(columns)):
        y = vector_product(a, b)
    else:
        y = matmul(a, b)
    order = [*batch, *rows, *columns]
    y = reshape(y, tuple(sizes[letter] for letter in order))
    return transpose(y, [order.index(letter) for letter in result])

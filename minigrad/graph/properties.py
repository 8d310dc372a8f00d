"""What an op is, found out by running its forward on things that are no arrays.

No op is known by its name here but the product, the joins and addition: whoever adds an elementwise
op or a view adds nothing to this package.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minigrad.graph.indexing import WITHIN, axes_of, items_of, line
from minigrad.graph.ir import Affine, Counter, Instruction, Value, at_iteration, map_static
from minigrad.graph.skeleton import hashable
from minigrad.op import REGISTRY, Op, Static
from minigrad.ops.index import ARRAY
from minigrad.tensor import Shape

TRIED = 32  # iterations of which it is found out that views move evenly
Trips = Mapping[Counter, int]  # of the loops around

FOLDS = ("sum", "max", "min", "any", "all")
ALONG = ("argmax", "argmin", "cumsum")
PRODUCT, CONCATENATE, STACK = (REGISTRY[name] for name in ("matmul", "concatenate", "stack"))


# --- elementwise ---------------------------------------------------------------------------------


class _Element:
    """One element, of which nothing is known: every operator gives another."""

    dtype = np.dtype("float32")

    def astype(self, dtype: Any) -> _Element:
        return _Element()

    def _operator(self, *others: Any) -> _Element:
        return _Element()

    def __bool__(self) -> bool:
        raise TypeError("nothing is known of an element")


_OPERATORS = """
    add sub mul truediv floordiv mod pow and or xor lshift rshift lt le gt ge eq ne neg invert"""
for _name in _OPERATORS.split():
    setattr(_Element, f"__{_name}__", _Element._operator)
    setattr(_Element, f"__r{_name}__", _Element._operator)


class _Elements:
    """The functions of elements in NumPy's namespace: its ufuncs, and where."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if name != "where" and (not isinstance(found, np.ufunc) or found.signature):
            raise AttributeError(f"{name} is no function of single elements")
        return lambda *operands: _Element()


@cache
def is_elementwise(op: Op) -> bool:
    """Whether forward computes each element of the result from one element of each operand."""
    if op is WITHIN:  # whose check a backend writes too
        return True
    if op.outputs or op.variadic or op.check or op.namespace != "xp" or "shape" in op.static:
        return False
    static = dict.fromkeys(op.static, np.dtype("float32"))
    try:
        found = op.forward(_Elements(), *(_Element() for _ in op.operands), **static)
    except Exception:  # whatever it needs, one element is not enough
        return False
    return isinstance(found, _Element)


@cache
def reducer(op: Op) -> str | None:
    """Which of FOLDS, NumPy's functions that make whole axes one value, forward is, if any.

    Axes and keepdims are the op's static arguments.
    """
    return _function(op, {"axis": (0,), "keepdims": False}, FOLDS)


@cache
def positioner(op: Op) -> str | None:
    """Which of ALONG, NumPy's functions that go along one axis, forward is, if any."""
    return _function(op, {"axis": 0}, ALONG)


def _function(op: Op, static: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """Which of NumPy's functions of these names forward is, with its static arguments alone."""
    whole, made, named = _Element(), object(), []

    class Namespace:
        def __getattr__(self, name: str) -> Any:
            def call(x: Any, **given: Any) -> Any:
                named.append(name)
                return made if x is whole and given == static else None

            return call

    if set(op.static) != set(static) or op.namespace != "xp" or len(op.operands) != 1:
        return None
    try:
        found = op.forward(Namespace(), whole, **static)
    except Exception:  # it does more than that
        return None
    return named[0] if found is made and named[0] in names else None


@cache
def is_choice(op: Op) -> bool:
    """Whether forward is NumPy's where: elements of one operand where a flag is set, else another.

    The operands are the flag, the value where it is set, the value elsewhere.
    """
    given, chosen = tuple(_Element() for _ in op.operands), object()

    class Namespace:
        def where(self, *operands: Any) -> Any:
            same = len(operands) == len(given) and all(map(operator.is_, operands, given))
            return chosen if same else None

    if not is_elementwise(op) or len(given) != 3 or op.static:
        return False
    try:
        return op.forward(Namespace(), *given) is chosen
    except Exception:  # it does more than that
        return False


def keeps_zeros(step: Instruction, zero: tuple[bool, ...]) -> bool:
    """Whether an elementwise op makes zeros of zeros for some operands and any for the others."""
    draw = np.random.default_rng(0)

    def some(dtype: np.dtype) -> Any:
        drawn = draw.normal(0, 4, size=64)
        return drawn > 0 if dtype.kind == "b" else np.abs(drawn) if dtype.kind == "u" else drawn

    operands = [
        x if not isinstance(x, Value)
        else (0 * some(x.spec.dtype) if none else some(x.spec.dtype)).astype(x.spec.dtype)
        for x, none in zip(step.operands, zero, strict=True)
    ]  # fmt: skip
    try:
        with np.errstate(all="ignore"):
            return not np.any(step.op.forward(np, *operands, **step.static))
    except Exception:  # whatever it wants besides
        return False


def is_join(op: Op) -> bool:
    """Whether an op puts its operands beside each other."""
    return op in (CONCATENATE, STACK)


def counters(static: Static) -> list[Counter]:
    """Those that static arguments depend on."""
    found: list[Counter] = []
    map_static(lambda x: found.append(x.counter) if isinstance(x, Affine) else x, static)
    return found


def has_counter(static: Static) -> bool:
    """Whether static arguments depend on a loop's iteration."""
    return bool(counters(static))


def looks_at_values(step: Instruction) -> bool:
    """Whether an op's check asks for more than the shapes and dtypes of its operands."""
    if step.op.check is None:
        return False
    try:
        step.op.check(None, *(x.spec if isinstance(x, Value) else x for x in step.operands),
                      **step.static)  # fmt: skip
    except Exception:  # a backend, or numbers, would have been needed
        return True
    return False


# --- views ---------------------------------------------------------------------------------------


class View(NamedTuple):
    """Elements of an array of some other shape, without a copy: strides and offset in elements."""

    shape: Shape
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after another."""
        sizes = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        return self.strides == () or [s for _, s in sizes] == [
            math.prod(n for n, _ in sizes[i + 1 :]) for i in range(len(sizes))
        ]


def contiguous(shape: Shape) -> View:
    """All elements of an array in their order."""
    return View(tuple(shape), tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))))


def views(step: Instruction, of: View | None = None) -> list[View] | None:
    """The outputs as views of the only operand, itself a view of an array; None if one copies."""
    if len(step.operands) != 1 or not isinstance(step.operands[0], Value):
        return None
    if step.op.namespace != "xp" or is_elementwise(step.op):
        return None
    if has_counter(step.static) or looks_at_values(step):
        return None
    key = hashable(step.static)
    return _views(step.op, key, Statics(step.static), of or contiguous(step.operands[0].spec.shape))


def moving(step: Instruction, trips: Trips) -> tuple[View, dict[Counter, int]] | None:
    """An output that is another view of the operand, an array, in each iteration: the first one,
    and how much further the next is; None if it copies, is not contiguous, or moves unevenly.
    """
    found = set(counters(step.static))
    if not found or step.op.outputs or not found <= trips.keys():
        return None

    def at(iterations: dict[Counter, int]) -> View | None:
        shown = views(replace(step, static=at_iteration(step.static, iterations)))
        return shown[0] if shown and shown[0].is_contiguous else None

    start = dict.fromkeys(found, 0)
    first, by = at(start), {}
    if first is None:
        return None
    for counter in found:
        second = at({**start, counter: min(1, trips[counter] - 1)})
        by[counter] = second.offset - first.offset if second else 0
    tried = [{**start, counter: t} for counter in found for t in _some(trips[counter])]
    for iterations in (*tried, {counter: trips[counter] - 1 for counter in found}):
        offset = first.offset + sum(by[counter] * t for counter, t in iterations.items())
        if at(iterations) != first._replace(offset=offset):
            return None
    return first, by


def _some(trips: int) -> set[int]:
    """All iterations of a short loop; of a long one the first, the last and some between."""
    return {*range(min(trips, TRIED)), *range(0, trips, -(-trips // TRIED)), trips - 1}


class Statics(dict[str, Any]):
    """Static arguments beside their key, which alone counts."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0

    def __eq__(self, other: object) -> bool:
        return True


@lru_cache(4096)
def _views(op: Op, key: Any, static: Statics, of: View) -> list[View] | None:
    # Never touched if op makes views; zeros otherwise, which the system maps when they are read.
    reach = of.offset + sum(max(0, s * (n - 1)) for n, s in zip(of.shape, of.strides, strict=True))
    memory = np.zeros(reach + 1, dtype=np.int8)
    array = as_strided(memory[of.offset :], of.shape, of.strides)
    try:
        made = op.forward(np, array, **static)
    except Exception:
        return None
    parts = made if op.outputs else [made]
    found = []
    for part in parts:
        if isinstance(part, np.generic):  # NumPy takes a single element out of its array
            return _element(op, static, of)
        if part.dtype != memory.dtype or (part.size and not np.may_share_memory(part, memory)):
            return None
        offset = _address(part) - _address(memory) if part.size else 0
        found.append(View(tuple(part.shape), tuple(part.strides), offset))
    return found


def _element(op: Op, static: Statics, of: View) -> list[View] | None:
    """The one element that an op takes from an array, found by its value among random ones."""
    size = math.prod(of.shape)
    found = set()
    for seed in range(8):
        numbers = np.random.default_rng(seed).choice(8 * size, size, replace=False) - 4 * size
        element = op.forward(np, numbers.reshape(of.shape), **static)
        same = np.flatnonzero(numbers == element)
        if element.dtype != numbers.dtype or len(same) != 1:
            return None
        found.add(int(same[0]))
    if len(found) > 1:  # the greatest, say
        return None
    places = zip(np.unravel_index(found.pop(), of.shape), of.strides, strict=True)
    return [View((), (), of.offset + sum(int(i) * s for i, s in places))]


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


# --- places of elements --------------------------------------------------------------------------


class Place(NamedTuple):
    """Along one axis of a value: position offset + step * i, i the position along axis `along`, or
    an integer that is looked up in another value.
    """

    offset: int
    step: int = 0
    along: int | None = None
    by: Lookup | None = None


Places = tuple[Place, ...]  # one for each axis of a value


class Lookup(NamedTuple):
    """The integer at some place of a value."""

    value: Value
    places: Places


def everywhere(shape: Shape) -> Places:
    """Each element of a space at its own place."""
    return tuple(Place(0, 1, axis) for axis in range(len(shape)))


def stretched(places: Places, result: Shape, operand: Shape) -> Places:
    """The places of an operand that is broadcast to a result, given the places of the result."""
    first = len(result) - len(operand)
    return tuple(
        Place(0) if n == 1 and result[first + a] != 1 else places[first + a]
        for a, n in enumerate(operand)
    )


def through(view: View, base: Shape, places: Places) -> Places | None:
    """The places in an array of shape `base` of a view's elements, given places in the view.

    None if an axis of the view runs along several axes of the base.
    """
    strides = contiguous(base).strides
    offsets = []
    rest = view.offset
    for n, stride in zip(base, strides, strict=True):
        offsets.append(min(rest // stride, n - 1) if stride and n else 0)
        rest -= offsets[-1] * stride
    found = [Place(offset) for offset in offsets]
    for axis, (n, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        if n == 1 or stride == 0:
            continue
        for b, (size, unit) in enumerate(zip(base, strides, strict=True)):
            steps, remainder = divmod(stride, unit) if unit else (0, 1)
            last = offsets[b] + steps * (n - 1)
            if size > 1 and not remainder and 0 <= last < size:
                break
        else:
            return None
        if found[b].along is not None:
            return None
        found[b] = Place(offsets[b], steps, axis)
    return tuple(_composed(place, places) for place in found)


def _composed(place: Place, places: Places) -> Place:
    if place.along is None:
        return place
    inner = places[place.along]
    offset, step = place.offset + place.step * inner.offset, place.step * inner.step
    return Place(offset, step, inner.along, inner.by)


def looked_up(step: Instruction, shape: Shape, places: Places) -> list[tuple[Value, Places]]:
    """What a gather or an accumulate looks up: the places in an array of a shape for those in what
    is taken from it or added to it, under the step's first operand; and those in its indices.
    """
    x, *indices = [operand for operand in step.operands if isinstance(operand, Value)]
    template = step.static["template"]
    sizes = np.broadcast_shapes(*(i.spec.shape for i in indices))
    own, slices = axes_of(template, len(shape), len(sizes))
    around = tuple(places[a] for a in own)
    found: list[Place] = []
    looked: list[tuple[Value, Places]] = []
    rest, given = iter(slices), iter(indices)
    for item, n in zip(items_of(template, len(shape)), shape, strict=True):
        if isinstance(item, int):
            found.append(Place(item % n))
        elif item is not ARRAY:
            axis, bounds = next(rest), range(n)[item]
            found.append(_composed(Place(bounds.start, bounds.step, axis), places))
        else:
            i = next(given)
            inner = stretched(around, sizes, i.spec.shape)
            even = line(i)
            if even is None:
                looked.append((i, inner))
                found.append(Place(0, 1, by=Lookup(i, inner)))
            else:
                along, by = next(iter(even[1].items()), (None, 0))
                found.append(_composed(Place(even[0], by, along), inner))
    return [(x, tuple(found)), *looked]


def as_view(places: Places, of: View, space: Shape) -> View:
    """Places in an array that is itself a view of memory, as a view of that memory.

    What is looked up comes on top: see `steps_by`.
    """
    offset = of.offset
    strides = [0] * len(space)
    for place, stride in zip(places, of.strides, strict=True):
        offset += place.offset * stride
        if place.along is not None:
            strides[place.along] += place.step * stride
    return View(tuple(space), tuple(strides), offset)


def steps_by(places: Places, of: View) -> list[tuple[Lookup, int]]:
    """What is looked up among places, and by how many elements of memory each unit of it moves."""
    return [
        (place.by, place.step * stride)
        for place, stride in zip(places, of.strides, strict=True)
        if place.by is not None
    ]

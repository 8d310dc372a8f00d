"""Arrays that are known but for their values: NumPy's functions of them are recorded.

What a function of symbols gives (shape, dtype, strides, whether it is a view and of what) is found
by calling it on blank arrays that lie in memory as the symbols do, so that a program's arrays lie
as the eager engine's would: sums of one array in two orders differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Functions that write where they are told to, `out=`; all ufuncs do too.
OUT = {np.dot, np.concatenate, np.stack, np.einsum, np.cumsum, np.argmax, np.argmin, np.any, np.all}
REDUCE = {np.sum: np.add, np.max: np.maximum, np.min: np.minimum}  # out of their Python wrappers


@dataclass(slots=True, eq=False)
class Body:
    """What runs one after another: the program, or some iterations of a loop that are alike."""

    parent: Body | None = None
    loop: Any = None
    start: int = 0
    stop: int = 1
    kinds: Any = None  # of the parameters, the same in each iteration
    entries: list[Any] = field(default_factory=list)
    parameters: list[Symbol] = field(default_factory=list)
    results: dict[Any, Any] = field(default_factory=dict)
    tails: list[tuple[Queue, Any]] = field(default_factory=list)
    lines: list[Any] = field(default_factory=list)
    header: dict[str, str] = field(default_factory=dict)  # what a variable of the loop runs over
    first: int = 0
    last: int = 0

    def outwards(self) -> Iterator[Body]:
        """The body itself and those around it."""
        body: Body | None = self
        while body is not None:
            yield body
            body = body.parent


@dataclass(slots=True, eq=False)
class Root:
    """Memory: planned, else `given`, known at run time alone; a constant's; or an iteration's.

    Planned memory of a loop's body has as many versions as iterations see of it, or is a row each
    of another root. source(t) is what a loop's parameter is in iteration t.
    """

    body: Body
    nbytes: int = 0
    given: bool = False
    constant: np.ndarray | None = None
    source: Callable[[int], Any] | None = None
    rows: tuple[Symbol, int, int] | None = None  # whole, start, step
    entry: Entry | None = None  # what makes it
    output: bool = False  # given, for calls return it
    used: bool = False
    versions: int = 1
    born: int | None = None
    dies: int = -1
    buffer: int | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """A call: a function of arguments in which symbols stand; fresh if it makes new memory."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]
    operands: list[Symbol]  # the symbols in them, each once
    results: list[Symbol]
    name: str = ""
    fresh: bool = True
    scalar: bool = False  # a NumPy scalar comes, which belongs in an array
    several: bool = False
    counters: tuple[Body, ...] = ()  # on whose iterations the function depends
    at: int = 0


@dataclass(slots=True, eq=False)
class Queue:
    """Results of iterations that are known at run time alone: all of them, or the last few."""

    size: int | None
    name: str = ""


class Symbol(np.lib.mixins.NDArrayOperatorsMixin):
    """An array in a root's memory; in iteration t's version of it if t is given."""

    __slots__ = ("dtype", "item", "offset", "recorder", "root", "shape", "strides", "t", "text")
    __hash__ = object.__hash__
    __iter__ = None

    def __init__(
        self, recorder: Recorder, root: Root, offset: int, like: Any, t: int | None = None
    ) -> None:
        self.recorder, self.root, self.offset, self.t = recorder, root, offset, t
        self.shape, self.dtype, self.strides = like.shape, like.dtype, like.strides
        self.text: str | None = None  # its variable, where the memory is given
        self.item: tuple[Any, int] | None = None  # of which queue it is which item

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: int(np.prod(self.shape, dtype=int)))
    T = property(lambda self: self.recorder.call(np.transpose, (self,)))

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **options: Any) -> Symbol:
        if method != "__call__" or options or ufunc.nout != 1:
            raise Unfollowed(f"{ufunc.__name__}.{method}")
        return self.recorder.call(ufunc, args)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return self.recorder.call(function, args, options)

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise Unfollowed("the values")

    def __bool__(self) -> bool:
        raise Unfollowed("the values")

    def __pow__(self, exponent: Any) -> Any:  # as an array's own, unlike NumPy's function
        if exponent.__class__ in (int, float) and exponent in (1, 2) and self.dtype.kind == "f":
            return self.recorder.call(np.square if exponent == 2 else np.positive, (self,))
        return self.recorder.call(power, (self, exponent))

    def __rpow__(self, base: Any) -> Any:
        return self.recorder.call(power, (base, self))

    def __getitem__(self, key: Any) -> Symbol:
        return self.recorder.call(getitem, (self, key))

    def astype(self, dtype: Any) -> Symbol:
        return self.recorder.call(astype, (self, np.dtype(dtype)))

    def reshape(self, *shape: Any) -> Symbol:
        sizes = shape[0] if len(shape) == 1 else shape
        return self.recorder.call(np.reshape, (self, sizes))

    def moved(self, root: Root, offset: int, t: int | None = None) -> Symbol:
        """The same shape and strides elsewhere."""
        return Symbol(self.recorder, root, offset, self, t)


class Unfollowed(Exception):
    """A function does what symbols cannot."""


def getitem(x: Any, key: Any) -> Any:
    return x[key]


def astype(x: Any, dtype: Any) -> Any:
    return x.astype(dtype)


def power(a: Any, b: Any) -> Any:
    return a**b


@dataclass(slots=True)
class Layout:
    """How an array lies in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]


def compact(shape: tuple[int, ...], dtype: Any) -> Layout:
    """An array in C order."""
    return Layout(tuple(shape), dtype, np.empty(shape, dtype).strides)


def row(whole: Symbol, i: int) -> Symbol:
    """whole[i]."""
    like = Layout(whole.shape[1:], whole.dtype, whole.strides[1:])
    found = Symbol(whole.recorder, whole.root, whole.offset + i * whole.strides[0], like, whole.t)
    if whole.root.given:
        found.item = whole, i
    return found


def extent(like: Any) -> tuple[int, int]:
    """The bytes before and after an array's first element that it reaches over."""
    reach = [(n - 1) * s for n, s in zip(like.shape, like.strides) if n]
    return -sum(s for s in reach if s < 0), sum(s for s in reach if s > 0) + like.dtype.itemsize


def blank(like: Any) -> tuple[np.ndarray, int, int, int]:
    """An array of zeros with these strides, its address, where its memory begins and ends."""
    before, after = extent(like)
    memory = np.zeros(before + after, np.uint8)
    array = np.ndarray(like.shape, like.dtype, memory, before, like.strides)
    begin = address(memory)
    return array, begin + before, begin, begin + memory.size


def address(array: np.ndarray) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


def mapped(f: Callable[[Any], Any], x: Any) -> Any:
    """f of what is in a nest of tuples, lists and dicts; lists become tuples."""
    kind = x.__class__
    if kind is tuple or kind is list:
        return tuple([mapped(f, item) for item in x])
    return {key: mapped(f, item) for key, item in x.items()} if kind is dict else f(x)


def symbols_in(nest: Any) -> list[Symbol]:
    """The symbols in arguments, each once."""
    found: dict[int, Symbol] = {}

    def note(x: Any) -> None:
        if x.__class__ is Symbol:
            found[id(x)] = x

    mapped(note, nest)
    return list(found.values())


class Recorder:
    """Writes the calls that are made on symbols into the body that is at work."""

    body: Body

    def call(
        self,
        function: Callable[..., Any],
        args: Any,
        options: Any = None,
        *,
        specs: Any = None,
        several: bool = False,
        name: str = "",
    ) -> Any:
        """The symbol of function(*args), or of its several results; specs: they are not looked into

        but called as they are, and their memory is given.
        """
        args, options = tuple(args), options or {}
        operands = symbols_in((args, options))
        blanks = {id(s): blank(s) for s in operands}

        def real(x: Any) -> Any:
            if isinstance(x, np.ndarray):  # made by the op itself, perhaps not the same each time
                raise Unfollowed("an array")
            return blanks[id(x)][0] if x.__class__ is Symbol else x

        try:
            with np.errstate(all="ignore"):
                parts = function(*mapped(real, args), **mapped(real, options))
        except Exception:
            if specs is None:
                raise
            parts = [np.empty(spec.shape, spec.dtype) for spec in specs]
            parts = parts if several else parts[0]
        out = specs is None and has_out(function, args, options)
        entry = Entry(function, args, options, operands, [], name, False, several=several)
        for part in parts if several else [parts]:
            entry.scalar = not isinstance(part, np.ndarray)
            array = np.asarray(part)
            home, place = None, 0
            if array.size and not isinstance(function, np.ufunc):
                place = address(array)
                inside = (s for s in operands if blanks[id(s)][2] <= place < blanks[id(s)][3])
                home = next(inside, None)
            if home is not None:
                offset = home.offset + place - blanks[id(home)][1]
                symbol = Symbol(self, home.root, offset, array, home.t)
            else:
                before, after = extent(array)
                entry.fresh = True
                root = Root(self.body, before + after, given=not out, entry=entry)
                symbol = Symbol(self, root, before, array)
            entry.results.append(symbol)
        self.body.entries.append(entry)
        return entry.results if several else entry.results[0]

    def copy_into(self, target: Symbol, x: Any) -> None:
        """Write values into an array that is there."""
        self.effect(np.copyto, (target, x))

    def effect(self, function: Callable[..., Any], args: Any, name: str = "") -> None:
        """A call that gives nothing: it writes, or raises."""
        args = tuple(args)
        self.body.entries.append(Entry(function, args, {}, symbols_in((args, {})), [], name))


def has_out(function: Any, args: Any, options: Any) -> bool:
    """Whether a call can be told where to write."""
    if function is np.where:
        return len(args) == 3 and isinstance(args[0], Symbol) and args[0].dtype == np.bool_
    if function in REDUCE:
        return len(args) == 1 and set(options) == {"axis", "keepdims"}
    reshaped = function in (astype, np.reshape) and not options
    return isinstance(function, np.ufunc) or function in OUT or reshaped

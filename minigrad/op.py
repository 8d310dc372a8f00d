"""`op`: forward, rules and shape rule of an operation in one entry; and the three choke points.

Every op of every backend passes `run`, every value that Python looks at passes `read`, every change
of a tensor passes `assign`. Whoever replaces one of them (`at_choke_points`) sees everything.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from minigrad import backend as _backend
from minigrad import tensor as _tensor
from minigrad.errors import BackendMismatchError, DtypeError, GradientError
from minigrad.spec import NUMBERS, common_dtype, explain, mismatch, refuse_assignment
from minigrad.tensor import Array, Node, Tensor, make

Static = dict[str, Any]
NOTHING: Static = {}


class Plan(NamedTuple):
    """What one op keeps and runs when a certain set of its operands needs a gradient."""

    rules: tuple[tuple[Any, Callable[..., Any], Callable[[Any], Any]], ...]  # whose, rule, getter
    sources: tuple[tuple[str, Any], ...]  # where each saved value comes from
    keeps: bool = True  # whether arrays are among them, which backward gives up once used


@dataclass(slots=True, eq=False, repr=False)
class Op:
    """One operation: name, forward(xp, *operands, **static), one rule per operand, shape rule."""

    name: str
    forward: Callable[..., Any]
    rules: dict[str, Callable[..., Any]]
    shape: Callable[..., Any]
    dtypes: str = "promote"
    outputs: bool = False  # whether forward returns several
    fixed: tuple[str, ...] = ()
    check: Callable[..., None] | None = None
    jvp: dict[str, Callable[..., Any]] | None = None  # of an op whose rules are not linear
    signature: inspect.Signature = field(init=False)
    namespace: str = field(init=False)  # what forward wants to be given: "xp" or "backend"
    operands: tuple[str, ...] = field(init=False)
    static: tuple[str, ...] = field(init=False)
    variadic: str | None = field(init=False)
    weak: bool = field(init=False)  # whether forward takes Python numbers as they are
    plans: dict[int, Plan] = field(init=False, default_factory=dict)
    bound: dict[_backend.Backend, Callable[..., Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        first, *parameters = inspect.signature(self.forward).parameters.values()
        self.signature = inspect.Signature(parameters)
        self.namespace = first.name
        self.operands = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.static = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        # Beside an operand in fixed two numbers may meet each other alone, float64 to a namespace.
        self.weak = self.dtypes in ("promote", "float", "compare") and not self.fixed

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    @property
    def linear(self) -> bool:
        """Whether the rules are linear in g: the derivative of forward, and nothing else."""
        return self.jvp is None

    def operand(self, position: int) -> str:
        """The name of the operand at a position; all of a variadic tail share theirs."""
        return self.operands[min(position, len(self.operands) - 1)]

    def bind(self, backend: _backend.Backend) -> Callable[..., Any]:
        """The op on a backend: its kernel there, else forward on its namespace; kept in `bound`."""
        forward = getattr(backend, "kernels", NOTHING).get(self.name)
        if forward is None:
            forward = partial(self.forward, backend.xp if self.namespace == "xp" else backend)
        self.bound[backend] = forward
        return forward

    def plan(self, needed: int) -> Plan:
        """The plan for operands that need a gradient where a digit of needed (see execute) is 1."""
        digits = f"{needed:b}"[1:]
        sources: list[tuple[str, Any]] = [("g", None)]
        rules: list[tuple[Any, Callable[..., Any], Callable[[Any], Any]]] = []
        for position, digit in enumerate(digits):
            name = self.operand(position)
            if digit == "0" or name not in self.rules:
                continue
            wanted = []
            for parameter in inspect.signature(self.rules[name]).parameters:
                source = self._source(parameter, len(digits))
                if source not in sources:
                    sources.append(source)
                wanted.append(sources.index(source))
            if name == self.variadic:  # its one rule answers for all of the tail
                tail = range(self.operands.index(name), len(digits))
                rules.append((tail, self.rules[name], _getter(wanted)))
                break
            rules.append((position, self.rules[name], _getter(wanted)))
        keeps = any(kind in ("operand", "y") for kind, _ in sources)
        self.plans[needed] = Plan(tuple(rules), tuple(sources[1:]), keeps)
        return self.plans[needed]

    def _source(self, parameter: str, count: int) -> tuple[str, Any]:
        if parameter in ("g", "y"):
            return parameter, None
        if parameter in self.static:
            return "static", parameter
        for suffix, kind in (("", "operand"), ("_shape", "shape"), ("_dtype", "dtype")):
            name = parameter.removesuffix(suffix) if suffix else parameter
            if (not suffix or parameter != name) and name in self.operands:
                first = self.operands.index(name)
                return kind, (range(first, count) if name == self.variadic else first)
        raise TypeError(f"a rule of {self.name} asks for {parameter!r}, which is neither g, y, an "
                        f"operand, its _shape or _dtype, nor a static argument")  # fmt: skip


def _getter(positions: list[int]) -> Callable[[Any], Any]:
    if len(positions) == 1:
        only = positions[0]
        return lambda values: (values[only],)
    return itemgetter(*positions)


REGISTRY: dict[str, Op] = {}


class Operation(Protocol):
    """The public function of an op."""

    op: Op

    def __call__(self, *operands: Any, **static: Any) -> Tensor: ...


def op(
    name: str,
    forward: Callable[..., Any],
    *,
    shape: Callable[..., Any],
    dtypes: str = "promote",
    multiple: bool = False,
    fixed: tuple[str, ...] = (),
    check: Callable[..., None] | None = None,
    linear: bool = True,
    jvp: dict[str, Callable[..., Any]] | None = None,
    **rules: Callable[..., Any],
) -> Operation:
    """Register an operation and return its public function of (operands, keyword-only statics).

    forward(xp, *operands, *, statics) is written against an array namespace; every further keyword
    is the rule of the operand of that name: a composition of public ops, linear in the cotangent g,
    that names what it needs: g, y, operands, statics, and x_shape or x_dtype, which keep no array.
    dtypes: "promote" to the common dtype, "compare" (the same, integers beside floats as float64),
    "float" (integers too become floating), "strict" (two floating dtypes are an error), "free"
    (operands as they are); operands in fixed take no part.
    multiple: forward returns several outputs. check(backend, *operands, **static) raises for values
    that shape and dtype cannot tell, such as an index out of range.
    linear=False: rules that change gradients on purpose. jvp then holds, under the same names and
    asking for the same things, the rules of forward's derivative, which forward mode transposes.
    """
    if linear is not (jvp is None) or set(jvp or rules) != set(rules):
        raise TypeError(f"op {name}: linear=False goes with a jvp for each of {sorted(rules)}")
    made = Op(name, forward, rules, shape, dtypes, multiple, fixed, check, jvp)
    if name in REGISTRY:
        raise ValueError(f"an op named {name!r} is registered already")
    unknown = set(rules) - set(made.operands)
    if unknown:
        raise TypeError(f"op {name}: rules for {sorted(unknown)}, which are no operands")
    REGISTRY[name] = made
    apply: Callable[..., Any]
    if made.static or made.variadic or len(made.operands) > 2:

        def apply(*operands: Any, **static: Any) -> Any:
            return mode.get().run(made, operands, static)

    elif len(made.operands) == 1:

        def apply(x: Any) -> Any:
            return mode.get().run(made, (x,), NOTHING)

    else:

        def apply(a: Any, b: Any) -> Any:
            return mode.get().run(made, (a, b), NOTHING)

    apply.__name__ = apply.__qualname__ = name
    apply.__module__, apply.__doc__ = forward.__module__, forward.__doc__
    vars(apply).update(op=made, __signature__=made.signature)
    return cast(Operation, apply)


# --- run -----------------------------------------------------------------------------------------


def execute(op: Op, operands: Sequence[Any], static: Static) -> Any:
    """The eager meaning of `run`: compute on the operands' backend, and record."""
    # What the operands are, in one pass, for this is run for every op.
    arrays: list[Any] = []
    parents: list[Node | None] = []
    slots: list[int] = []
    needed = 1  # after this 1, one binary digit per operand: whether it needs a gradient
    recorded = mixed = weak = False
    backend = None
    dtype: Any = None
    for t in operands:
        if isinstance(t, Tensor):
            if backend is not t.backend:
                if backend is not None:
                    raise mismatch(op, operands)
                backend = t.backend
            array, node = t._data, t.node
            if array.dtype is not dtype:
                mixed = dtype is not None
                dtype = array.dtype
            if node is None:
                needed *= 2
            else:
                needed += needed + 1
                recorded = True
            arrays.append(array)
            parents.append(node)
            slots.append(t.index)
        elif t.__class__ in NUMBERS:
            weak = True
            needed *= 2
            arrays.append(t)
            parents.append(None)
            slots.append(0)
        else:
            return execute_raw(op, operands, static)
    if backend is None:
        return execute_raw(op, operands, static)

    # The result.
    if mixed or (weak and not op.weak) or (dtype.kind != "f" and (weak or op.dtypes == "float")):
        arrays = promote(op, arrays, backend)
    if op.check is not None:
        op.check(backend, *arrays, **static)
    try:
        y = (op.bound.get(backend) or op.bind(backend))(*arrays, **static)
    except Exception as error:
        raise explain(op, arrays, static, backend, error) from error
    if op.outputs:
        shape, dtype = tuple([part.shape for part in y]), (y[0] if y else arrays[0]).dtype
    else:
        if y.__class__ is not backend.xp.ndarray:
            y = backend.asarray(y)
        shape, dtype = y.shape, y.dtype

    # The record, if a gradient may be asked for.
    node = None
    if recorded and op.rules and dtype.kind == "f" and mode.get().recording:
        plan = op.plans.get(needed) or op.plan(needed)
        saved = save(plan, y, arrays, static) if plan.sources else ()
        node = Node(op, plan, tuple(parents), tuple(slots), static, saved, backend, shape, dtype)
    if op.outputs:
        return tuple([make(part, backend, node, i) for i, part in enumerate(y)])
    return make(y, backend, node)


def save(plan: Plan, y: Array, arrays: list[Any], static: Static) -> tuple[Any, ...]:
    saved: list[Any] = []
    for kind, key in plan.sources:
        if kind == "operand":
            saved.append(arrays[key] if key.__class__ is int else tuple(arrays[key.start :]))
        elif kind == "y":
            saved.append(y)
        elif kind == "static":
            saved.append(static[key])
        elif key.__class__ is int:
            saved.append(getattr(arrays[key], kind))
        else:
            saved.append(tuple([getattr(array, kind) for array in arrays[key.start :]]))
    return tuple(saved)


def execute_raw(op: Op, operands: Sequence[Any], static: Static) -> Any:
    """run for operands that are not all tensors or numbers: NumPy scalars, arrays, lists."""
    home = next((t.backend for t in operands if isinstance(t, Tensor)), None)
    lifted = [_lift(op, t, home) for t in operands]
    if not any(isinstance(t, Tensor) for t in lifted):
        lifted[0] = Tensor(lifted[0], backend=home)
    return mode.get().run(op, tuple(lifted), static)


def _lift(op: Op, raw: Any, home: _backend.Backend | None) -> Any:
    if isinstance(raw, Tensor) or raw.__class__ in NUMBERS:
        return raw
    single = isinstance(raw, np.generic) or (home is not None and getattr(raw, "ndim", None) == 0)
    if single and op.dtypes != "free":
        return raw.item()  # NumPy scalars and 0-d arrays are weak
    if hasattr(raw, "dtype"):
        backend = home or _backend.current()
        if home is not None and not isinstance(raw, backend.xp.ndarray):
            raise BackendMismatchError(
                f"{op.name}: a {type(raw).__module__}.{type(raw).__name__} met a tensor on backend "
                f"{home.name!r}; write minigrad.Tensor(array, backend={home.name!r}) first"
            )
    elif not isinstance(raw, (list, tuple, range)):
        raise DtypeError(f"{op.name}: cannot take a {type(raw).__name__} as operand")
    return Tensor(raw, backend=home)


def promote(op: Op, arrays: list[Any], backend: _backend.Backend) -> list[Any]:
    """Operands brought to the dtype that the op computes in; Python numbers stay weak."""
    if op.dtypes == "free":
        return [backend.asarray(a) if a.__class__ in NUMBERS else a for a in arrays]
    taking_part = [op.operand(i) not in op.fixed for i in range(len(arrays))]
    dtypes = [getattr(a, "dtype", a) for a, part in zip(arrays, taking_part, strict=True) if part]
    dtype = common_dtype(op.name, op.dtypes, dtypes)
    all_weak = all(d.__class__ in NUMBERS for d in dtypes)

    def converted(a: Any) -> Any:
        if a.__class__ in NUMBERS:
            return a if op.weak and not all_weak else backend.asarray(a, dtype)
        return a if a.dtype == dtype else a.astype(dtype)

    return [converted(a) if part else a for a, part in zip(arrays, taking_part, strict=True)]


# --- the choke points ----------------------------------------------------------------------------


def read_array(tensor: Tensor) -> np.ndarray:
    """The eager meaning of `read`: a read-only host view, or a copy from a device."""
    array: Any = np.asarray(tensor.backend.to_numpy(tensor._data))
    # By way of the buffer, for a view's own flag can be set back, and its base be written to.
    return np.asarray(memoryview(array).toreadonly())


def rebind(tensor: Tensor, value: Any) -> None:
    """The eager meaning of `assign`: the leaf takes the value's array; nothing is written into."""
    if not isinstance(value, Tensor):
        value = Tensor(value, dtype=tensor.dtype, backend=tensor.backend)
    refuse_assignment(tensor, value)
    tensor._data = value._data
    tensor._parts = None
    if tensor.node is not None:
        tensor.node.version += 1


@dataclass(slots=True)
class Mode:
    """What stands at the choke points, and whether ops are recorded."""

    run: Callable[[Op, Sequence[Any], Static], Any] = execute
    read: Callable[[Tensor], np.ndarray] = read_array
    assign: Callable[[Tensor, Any], None] = rebind
    recording: bool = True
    at: Node | None = None  # whose rules run, in a traversal that somebody at `run` may watch


default_mode = Mode()  # every thread starts with it; MINIGRAD_DEBUG changes its run
mode: ContextVar[Mode] = ContextVar("minigrad_mode", default=default_mode)


@contextlib.contextmanager
def in_mode(new: Mode) -> Iterator[Mode]:
    """The mode within the block."""
    token = mode.set(new)
    try:
        yield new
    finally:
        mode.reset(token)


def at_choke_points(
    run: Callable[..., Any] | None = None,
    read: Callable[..., Any] | None = None,
    assign: Callable[..., None] | None = None,
    recording: bool | None = None,
) -> contextlib.AbstractContextManager[Mode]:
    """Stand between Python and data within a block; what is not given stays as it is."""
    given = {"run": run, "read": read, "assign": assign, "recording": recording}
    changes: dict[str, Any] = {name: x for name, x in given.items() if x is not None}
    return in_mode(replace(mode.get(), **changes))


class BareRun:
    """A `run` for rules inside a traversal that records nothing: on the arrays themselves."""

    def __init__(self, backend: _backend.Backend) -> None:
        self.backend = backend

    def __call__(self, op: Op, operands: Sequence[Any], static: Static) -> Any:
        return (op.bound.get(self.backend) or op.bind(self.backend))(*operands, **static)


def numpy(tensor: Tensor) -> np.ndarray:
    """A detached, read-only host view of the values (a copy from a device)."""
    return mode.get().read(tensor)


def assign(tensor: Tensor, value: Any) -> None:
    """Give a leaf a new value of the same shape and dtype; graphs recorded before keep the old."""
    mode.get().assign(tensor, value)


def to(tensor: Tensor, spec: str | _backend.Backend) -> Tensor:
    """The same values on another backend, as a constant leaf or, if the tensor is one, a leaf."""
    backend = _backend.resolve(spec, ".to")
    if backend is tensor.backend:
        return tensor
    if not tensor.is_leaf and mode.get().recording:
        raise GradientError(
            "to: the graph stays on its backend; move the leaves, or detach() first"
        )
    return Tensor(
        numpy(tensor), requires_grad=tensor.requires_grad and tensor.is_leaf, backend=backend
    )


def rehome(tensor: Tensor, backend: _backend.Backend) -> None:
    """Move a leaf itself, with its gradient, to another backend.

    Graphs recorded before stay where they are: a gradient that one of them has for the leaf finds
    it no more, which raises GradientError.
    """
    if backend is tensor.backend:
        return
    moved = to(tensor, backend)
    if moved.node is not None and tensor.grad is not None:
        moved.node.grad = to(tensor.grad, backend)
    if tensor.node is not None:
        tensor.node.hooks = [(0, partial(_refuse_gradient, tensor.name, backend.name))]
    tensor._data, tensor.node, tensor.backend = moved._data, moved.node, backend
    tensor._parts = None
    tensor.name = tensor.name  # the new node shows it too


def _refuse_gradient(name: str | None, backend: str, g: Tensor) -> None:
    raise GradientError(
        f"backward: {name or 'a leaf'} was moved to {backend!r} after this graph was recorded; "
        f"move it first, then compute the loss again"
    )


def bare_backend() -> _backend.Backend:
    """The backend of bare arrays within a traversal, else the current one."""
    run = mode.get().run
    return run.backend if isinstance(run, BareRun) else _backend.current()


def bare(value: Any) -> Array:
    """The array of a tensor on this side of the choke points; anything else as it is."""
    return value._data if isinstance(value, Tensor) else value


for _name, _function in (("numpy", numpy), ("assign", assign), ("to", to)):
    setattr(Tensor, _name, _function)
_tensor._recording = lambda: mode.get().recording

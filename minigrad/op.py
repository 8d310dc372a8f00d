"""`op`: forward, rules and shape rule of an operation in one entry; and the three choke points.

Every op of every backend passes `run`, every value that Python looks at passes `read`, every change
of a tensor passes `assign`. Whoever replaces one of them (`at_choke_points`) sees everything.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from minigrad import backend as _backend
from minigrad import tensor as _tensor
from minigrad.errors import (
    BackendMismatchError,
    DtypeError,
    GradientError,
    MinigradError,
    OpNotImplementedError,
    ShapeError,
)
from minigrad.tensor import FREED, Array, Node, Shape, Tensor, default_dtype, make

Static = dict[str, Any]
NOTHING: Static = {}
_NUMBERS = frozenset((float, int, bool))


class Spec(NamedTuple):
    """The shape and dtype of a value, all that a shape rule sees of it."""

    shape: Shape
    dtype: Any


class Plan(NamedTuple):
    """What one op keeps and runs when a certain set of its operands needs a gradient."""

    rules: tuple[tuple[int, Callable[..., Any], Callable[[Any], Any]], ...]
    sources: tuple[tuple[str, Any], ...]  # where each saved value comes from


class Op:
    """One operation: name, forward(xp, *operands, **static), one rule per operand, shape rule."""

    __slots__ = (
        "check",
        "differentiable",
        "dtypes",
        "fixed",
        "forward",
        "name",
        "namespace",
        "operands",
        "outputs",
        "plans",
        "rules",
        "shape",
        "static",
        "variadic",
        "weak",
    )

    def __init__(
        self,
        name: str,
        forward: Callable[..., Any],
        rules: dict[str, Callable[..., Any]],
        shape: Callable[..., Any],
        dtypes: str,
        multiple: bool,
        fixed: tuple[str, ...],
        check: Callable[..., None] | None,
    ) -> None:
        first, *parameters = inspect.signature(forward).parameters.values()
        self.name = name
        self.forward = forward
        self.rules = rules
        self.shape = shape
        self.dtypes = dtypes  # "promote", "float", "strict" or "free"
        self.weak = dtypes in ("promote", "float")  # forward takes Python numbers as they are
        self.fixed = fixed
        self.outputs = multiple
        self.check = check
        self.namespace = "xp" if first.name == "xp" else "backend"  # what forward wants to be given
        self.operands = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.static = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self.differentiable = bool(rules)
        self.plans: dict[Any, Plan] = {}

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def operand(self, position: int) -> str:
        """The name of the operand at a position; all of a variadic tail share theirs."""
        return self.operands[min(position, len(self.operands) - 1)]

    def plan(self, needed: tuple[int, ...], count: int) -> Plan:
        """The plan for the positions of `count` operands that need a gradient."""
        found = self.plans.get((needed, count))
        if found is None:
            found = self.plans[needed, count] = self._plan(needed, count)
        return found

    def _plan(self, needed: tuple[int, ...], count: int) -> Plan:
        sources: list[tuple[str, Any]] = []
        rules = []
        groups: dict[str, int] = {}
        for position in needed:
            name = self.operand(position)
            if name not in self.rules or name in groups:
                continue
            groups[name] = position  # a variadic rule answers for all its operands at once
            rule = self.rules[name]
            wanted = []
            for parameter in inspect.signature(rule).parameters:
                if parameter == "g":
                    wanted.append(0)
                    continue
                source = self._source(parameter, count)
                if source not in sources:
                    sources.append(source)
                wanted.append(sources.index(source) + 1)
            rules.append((position, rule, _getter(wanted)))
        return Plan(tuple(rules), tuple(sources))

    def _source(self, parameter: str, count: int) -> tuple[str, Any]:
        if parameter == "y":
            return "y", None
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


def op(
    name: str,
    forward: Callable[..., Any],
    *,
    shape: Callable[..., Any],
    dtypes: str = "promote",
    multiple: bool = False,
    fixed: tuple[str, ...] = (),
    check: Callable[..., None] | None = None,
    **rules: Callable[..., Any],
) -> Callable[..., Any]:
    """Register an operation and return its public function of (operands, keyword-only statics).

    forward(xp, *operands, *, statics) is written against an array namespace; every further keyword
    is the rule of the operand of that name: a composition of public ops, linear in the cotangent g,
    that names what it needs: g, y, operands, statics, and x_shape or x_dtype, which keep no array.
    dtypes: "promote" to the common dtype, "float" (integers too become floating), "strict" (two
    floating dtypes are an error), "free" (operands as they are); operands in fixed take no part.
    multiple: forward returns several outputs. check(backend, *operands, **static) raises for values
    that shape and dtype cannot tell, such as an index out of range.
    """
    made = Op(name, forward, rules, shape, dtypes, multiple, fixed, check)
    if name in REGISTRY:
        raise ValueError(f"an op named {name!r} is registered already")
    unknown = set(rules) - set(made.operands)
    if unknown:
        raise TypeError(f"op {name}: rules for {sorted(unknown)}, which are no operands")
    REGISTRY[name] = made
    if made.static or made.variadic or len(made.operands) > 2:

        def apply(*operands: Any, **static: Any) -> Any:
            return mode.get().run(made, operands, static)

    elif len(made.operands) == 1:

        def apply(x: Any) -> Any:
            return mode.get().run(made, (x,), NOTHING)

    else:

        def apply(a: Any, b: Any) -> Any:  # type: ignore[misc]
            return mode.get().run(made, (a, b), NOTHING)

    apply.__name__ = apply.__qualname__ = name
    apply.__module__ = forward.__module__
    apply.__doc__ = forward.__doc__
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    apply.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    apply.op = made  # type: ignore[attr-defined]
    return apply


# --- run -----------------------------------------------------------------------------------------


def execute(op: Op, operands: Sequence[Any], static: Static) -> Any:
    """The eager meaning of `run`: compute on the operands' backend, and record."""
    arrays: list[Any] = []
    parents: list[Node | None] = []
    slots: list[int] = []
    needed: tuple[int, ...] = ()
    backend = dtype = None
    mixed = weak = False
    for t in operands:
        if isinstance(t, Tensor):
            if backend is not t.backend:
                if backend is not None:
                    raise _mismatch(op, operands)
                backend = t.backend
            array = t.data
            if array.dtype is not dtype:
                mixed = mixed or dtype is not None
                dtype = array.dtype
            arrays.append(array)
            node = t.node
            if node is not None:
                needed += (len(parents),)
            parents.append(node)
            slots.append(t.index)
        elif t.__class__ in _NUMBERS:
            arrays.append(t)
            parents.append(None)
            slots.append(0)
            weak = True
        else:
            return _execute_raw(op, operands, static)
    if backend is None:
        return _execute_raw(op, operands, static)
    if mixed or (dtype.kind != "f" and (weak or op.dtypes == "float")) or (weak and not op.weak):
        arrays = _promote(op, arrays, backend)
    if op.check is not None:
        op.check(backend, *arrays, **static)
    try:
        y = _forward(op, backend)(*arrays, **static)
    except Exception as error:
        raise explain(op, arrays, static, backend, error) from error
    if op.outputs:
        return _record_outputs(op, y, arrays, parents, slots, needed, static, backend)
    if y.__class__ is not backend.xp.ndarray:
        y = backend.asarray(y)
    node = None
    if needed and op.differentiable and y.dtype.kind == "f" and mode.get().recording:
        plan = op.plan(needed, len(arrays))
        saved = _save(plan, y, arrays, static) if plan.sources else ()
        node = Node(
            op, plan, tuple(parents), tuple(slots), static, saved, backend, y.shape, y.dtype
        )
    t = Tensor.__new__(Tensor)  # `make`, without the call
    t.data = y
    t.node = node
    t.index = 0
    t.backend = backend
    return t


def _record_outputs(
    op: Op,
    outputs: Sequence[Array],
    arrays: list[Any],
    parents: list[Node | None],
    slots: list[int],
    needed: tuple[int, ...],
    static: Static,
    backend: _backend.Backend,
) -> tuple[Tensor, ...]:
    node = None
    if needed and op.differentiable and outputs and mode.get().recording:
        plan = op.plan(needed, len(arrays))
        saved = _save(plan, None, arrays, static)
        shapes = tuple(y.shape for y in outputs)
        dtype = outputs[0].dtype
        node = Node(op, plan, tuple(parents), tuple(slots), static, saved, backend, shapes, dtype)
    return tuple(make(y, backend, node, i) for i, y in enumerate(outputs))


def _save(plan: Plan, y: Array, arrays: list[Any], static: Static) -> tuple[Any, ...]:
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
            saved.append(tuple(getattr(array, kind) for array in arrays[key.start :]))
    return tuple(saved)


_impls: dict[Any, Callable[..., Any]] = {}


def _forward(op: Op, backend: _backend.Backend) -> Callable[..., Any]:
    """The backend's kernel of the op, else its forward on the backend's namespace."""
    impl = _impls.get((op, backend))
    if impl is None:
        forward, xp = op.forward, backend.xp if op.namespace == "xp" else backend
        kernel = getattr(backend, "kernels", NOTHING).get(op.name)
        if kernel is not None:
            impl = kernel
        elif op.static or op.variadic or len(op.operands) > 2:
            impl = lambda *arrays, **static: forward(xp, *arrays, **static)  # noqa: E731
        elif len(op.operands) == 1:
            impl = lambda x: forward(xp, x)  # noqa: E731
        else:
            impl = lambda a, b: forward(xp, a, b)  # noqa: E731
        _impls[op, backend] = impl
    return impl


def _execute_raw(op: Op, operands: Sequence[Any], static: Static) -> Any:
    """run for operands that are not all tensors or numbers: NumPy scalars, arrays, lists."""
    home = next((t.backend for t in operands if isinstance(t, Tensor)), None)
    lifted = [_lift(op, t, home) for t in operands]
    if not any(isinstance(t, Tensor) for t in lifted):
        lifted[0] = Tensor(lifted[0], backend=home)
    return mode.get().run(op, tuple(lifted), static)


def _lift(op: Op, raw: Any, home: _backend.Backend | None) -> Any:
    if isinstance(raw, Tensor) or raw.__class__ in _NUMBERS:
        return raw
    if isinstance(raw, np.generic) or (getattr(raw, "ndim", None) == 0 and home is not None):
        if op.dtypes != "free":
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


def _promote(op: Op, arrays: list[Any], backend: _backend.Backend) -> list[Any]:
    """Operands brought to the dtype that the op computes in; Python numbers stay weak."""
    if op.dtypes == "free":
        return [backend.asarray(a) if a.__class__ in _NUMBERS else a for a in arrays]
    taking_part = [op.operand(i) not in op.fixed for i in range(len(arrays))]
    dtypes = [getattr(a, "dtype", a) for a, part in zip(arrays, taking_part, strict=True) if part]
    dtype = common_dtype(op.name, op.dtypes, dtypes)
    all_weak = all(d.__class__ in _NUMBERS for d in dtypes)

    def cast(a: Any) -> Any:
        if a.__class__ in _NUMBERS:
            return a if op.weak and not all_weak else backend.asarray(a, dtype)
        return a if a.dtype == dtype else a.astype(dtype)

    return [cast(a) if part else a for a, part in zip(arrays, taking_part, strict=True)]


def common_dtype(name: str, rule: str, dtypes: Sequence[Any]) -> np.dtype[Any]:
    """The dtype of a computation over dtypes and weak Python numbers.

    bool < integer < floating; across these the higher one's dtype stands, within them NumPy's
    promotion does; with rule "strict" two floating dtypes raise DtypeError.
    """
    strong = [d for d in dtypes if d.__class__ not in _NUMBERS]
    ranks = [_rank(d) for d in dtypes]
    top = max(ranks)
    if rule == "float":
        top = 2
    best = [d for d in strong if _rank(d) == top]
    if not best:
        return default_dtype() if top == 2 else np.dtype("int64" if top else "bool")
    if rule == "strict" and top == 2 and any(d != best[0] for d in best):
        raise DtypeError(
            f"{name}: operands of {' and '.join(str(d) for d in dtypes)}; convert one of them, for "
            f"instance with .astype('{best[0]}')"
        )
    return np.result_type(*best)


def _rank(dtype: Any) -> int:
    if dtype.__class__ in _NUMBERS:
        return 0 if dtype.__class__ is bool else 1 if dtype.__class__ is int else 2
    return 2 if dtype.kind == "f" else 0 if dtype.kind == "b" else 1


# --- errors --------------------------------------------------------------------------------------


def _mismatch(op: Op, operands: Sequence[Any]) -> BackendMismatchError:
    places = ", ".join(
        f"{op.operand(i)} on {t.backend.name!r}"
        for i, t in enumerate(operands)
        if isinstance(t, Tensor)
    )
    first = next(t.backend.name for t in operands if isinstance(t, Tensor))
    return BackendMismatchError(f"{op.name}: {places}; move one with .to({first!r})")


def specs_of(arrays: Sequence[Any]) -> list[Spec]:
    """Shape and dtype of arrays; a Python number, being weak, stands in its own dtype's place."""
    return [Spec((), a) if a.__class__ in _NUMBERS else Spec(a.shape, a.dtype) for a in arrays]


def describe(op: Op, arrays: Sequence[Any]) -> str:
    """`matmul(a: (3, 4) float32, b: (5, 6) float32)`: the operands as error messages show them."""
    specs = specs_of(arrays)
    return f"{op.name}({', '.join(f'{op.operand(i)}: {s.shape} {s.dtype}' for i, s in enumerate(specs))})"


def explain(
    op: Op, arrays: Sequence[Any], static: Static, backend: _backend.Backend, error: Exception
) -> Exception:
    """The error to raise after an op has failed: the shape rule's words where it has any."""
    if isinstance(error, MinigradError):
        return error
    if isinstance(error, AttributeError) and getattr(error, "obj", None) is backend.xp:
        return OpNotImplementedError(
            f"backend {backend.name!r} cannot run {op.name}: its namespace lacks {error.name!r}"
        )
    where = f"{describe(op, arrays)} on backend {backend.name!r}"
    try:
        op.shape(*specs_of(arrays), **static)
    except MinigradError as rule:
        return type(rule)(f"{rule}; in {where}") if where not in str(rule) else rule
    except Exception:  # the shape rule itself could not cope: the original error says more
        pass
    error.add_note(f"in {where}")
    return error


# --- the choke points ----------------------------------------------------------------------------


def read_array(tensor: Tensor) -> np.ndarray:
    """The eager meaning of `read`: a read-only host view, or a copy from a device."""
    array = tensor.backend.to_numpy(tensor.data).view()
    array.flags.writeable = False
    return array


def rebind(tensor: Tensor, value: Any) -> None:
    """The eager meaning of `assign`: the leaf takes the value's array; nothing is written into."""
    if tensor.node is not None and tensor.node.op is not None:
        raise GradientError(
            f"assign: only a leaf can be given a value; this tensor is the result of {tensor.node.op.name}"
        )
    if not isinstance(value, Tensor):
        value = Tensor(value, dtype=tensor.dtype, backend=tensor.backend)
    if value.backend is not tensor.backend:
        raise BackendMismatchError(
            f"assign: a tensor on {tensor.backend.name!r} cannot take a value on "
            f"{value.backend.name!r}; move it with .to({tensor.backend.name!r})"
        )
    if value.shape != tensor.shape or value.dtype != tensor.dtype:
        raise ShapeError(
            f"assign: a value of shape {value.shape}, {value.dtype} does not fit a tensor of shape "
            f"{tensor.shape}, {tensor.dtype}"
        )
    tensor.data = value.data
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
    old = mode.get()
    new = Mode(
        run or old.run,
        read or old.read,
        assign or old.assign,
        old.recording if recording is None else recording,
    )
    return in_mode(new)


class BareRun:
    """A `run` for rules inside a traversal that records nothing: no tensors, the arrays themselves."""

    def __init__(self, backend: _backend.Backend) -> None:
        self.backend = backend

    def __call__(self, op: Op, operands: Sequence[Any], static: Static) -> Any:
        return _forward(op, self.backend)(*operands, **static)


def numpy(tensor: Tensor) -> np.ndarray:
    """A detached, read-only host view of the values (a copy from a device)."""
    return mode.get().read(tensor)


def assign(tensor: Tensor, value: Any) -> None:
    """Give a leaf a new value of the same shape and dtype; graphs recorded before keep the old one."""
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
    return Tensor(numpy(tensor), requires_grad=tensor.requires_grad, backend=backend)


def rehome(tensor: Tensor, backend: _backend.Backend) -> None:
    """Move a leaf itself, with its gradient, to another backend; recorded graphs keep the old array."""
    if backend is tensor.backend:
        return
    moved = to(tensor, backend)
    if moved.node is not None and tensor.grad is not None:
        moved.node.grad = to(tensor.grad, backend)
    tensor.data, tensor.node, tensor.backend = moved.data, moved.node, backend
    tensor._parts = None
    tensor.name = tensor.name  # the new node shows it too


def bare_backend() -> _backend.Backend:
    """The backend of bare arrays within a traversal, else the current one."""
    run = mode.get().run
    return run.backend if isinstance(run, BareRun) else _backend.current()


def bare(value: Any) -> Array:
    """The array of a tensor on this side of the choke points; anything else as it is."""
    return value.data if isinstance(value, Tensor) else value


def freed(node: Node) -> bool:
    """Whether backward has used up what this node saved."""
    return node.saved is FREED


for _name, _function in (("numpy", numpy), ("assign", assign), ("to", to)):
    setattr(Tensor, _name, _function)
_tensor._recording = lambda: mode.get().recording

"""Derivatives: one traversal of the recorded graph, and the transforms of functions built on it."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from minigrad import tree
from minigrad.backend import within
from minigrad.errors import GradientError, ShapeError
from minigrad.op import Mode, Op, at_choke_points, bare, in_mode, mode
from minigrad.ops.create import zeros_like
from minigrad.ops.elementwise import alias, sqrt
from minigrad.ops.shape import concatenate, reshape, stack
from minigrad.sweep import Squares, Sweep, node_of, pull, reached, seed, tensor_of
from minigrad.tensor import Node, Tensor, leaf, make

Call = TypeVar("Call", bound=Callable[..., Any])


# The modes around the scopes entered: in the context, so that threads and tasks may share a scope.
_around: ContextVar[tuple[Mode, ...]] = ContextVar("minigrad_around", default=())


class no_grad(ContextDecorator):
    """`with no_grad():` or `@no_grad()`: ops inside are not recorded. Refuses generators."""

    recording = False

    def __enter__(self) -> None:
        _around.set((*_around.get(), mode.get()))
        mode.set(replace(mode.get(), recording=self.recording))

    def __exit__(self, *error: object) -> None:
        *around, before = _around.get()
        _around.set(tuple(around))
        mode.set(before)

    def __call__(self, function: Call) -> Call:
        return within(type(self), function, type(self).__name__)


class enable_grad(no_grad):
    """`with enable_grad():` ops inside are recorded, also within no_grad."""

    recording = True


# --- backward ------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One step of backward: a node, its cotangent(s), and what its rules sent to its parents."""

    node: Node
    op: Op | None
    incoming: Any
    outgoing: tuple[tuple[Node, Any], ...]


_active: dict[Node, Sequence[Node]] = {}  # root -> all nodes of a traversal that is on its way
_active_lock = threading.Lock()
_grad_lock = threading.Lock()


def _after_fork() -> None:
    """The threads that may have held the locks, and their traversals, are not in the child."""
    global _active_lock, _grad_lock
    _active_lock, _grad_lock = threading.Lock(), threading.Lock()
    _active.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def _claimed(root: Node, order: Sequence[Node]) -> Iterator[None]:
    """The block in which no other traversal may use what this one frees."""
    with _active_lock:
        if root in _active or any(_share(order, others) for others in _active.values()):
            raise GradientError("backward: another thread is running backward on this graph")
        _active[root] = order
    try:
        yield
    finally:
        with _active_lock:
            _active.pop(root, None)


def _share(order: Sequence[Node], others: Sequence[Node]) -> bool:
    shared = set(order).intersection(others)
    return any(node.op is not None and node.plan.keeps for node in shared)


def backward(y: Tensor, gradient: Any = None, retain_graph: bool = False) -> None:
    """Add d y / d leaf, times gradient, to `.grad` of all leaves that y depends on; free the graph.

    Raises GradientError if y has no graph, is no scalar and gets no gradient, was used before, or
    shares recorded values with a graph that another thread is running backward on.
    """
    _run(*_start(y, gradient, retain_graph))


def backward_norms(y: Tensor, inputs: Any, gradient: Any = None, retain_graph: bool = False) -> Any:
    """backward that returns, for a nest of tensors, the norms of what their uses sent: (uses,).

    In order of creation, as the parts of pullback(y, inputs, split="use"), none of which is kept.
    Squares are in the tensor's dtype: in float32, norms below 1e-19 may be 0, above 1e19 inf.
    """
    tensors, rebuild = tree.flatten(inputs)
    nodes = [node_of(x, "backward_norms (input)") for x in tensors]
    root, sweep, order = _start(y, gradient, retain_graph)
    sweep.uses = {node: Squares() for node in nodes}
    _run(root, sweep, order)
    norms = []
    with in_mode(sweep.inside):
        for x, node in zip(tensors, nodes, strict=True):
            sent = [square for slot, square in reversed(sweep.uses[node]) if slot == x.index]
            none = x.backend.xp.zeros(0, x.dtype)
            norms.append(tensor_of(x.backend, sqrt(concatenate(sent)) if sent else none))
    return rebuild(norms)


def _run(root: Node, sweep: Sweep, order: Sequence[Node]) -> None:
    with _claimed(root, order):
        with in_mode(sweep.inside):
            for node in order:
                sweep.step(node)
        _deposit(sweep, order)


def backward_steps(y: Tensor, gradient: Any = None, retain_graph: bool = False) -> Iterator[Step]:
    """backward, one node at a time: yields node, op, incoming and outgoing cotangents (tensors).

    `.grad` is set after the last step; a traversal left half way sets none.
    """
    root, sweep, order = _start(y, gradient, retain_graph)

    def shown(g: Any) -> Any:
        if isinstance(g, list):
            return [tensor_of(root.backend, part) for part in g]
        return tensor_of(root.backend, g)

    with _claimed(root, order):
        for node in order:
            sent: list[tuple[Node, Any]] = []
            with in_mode(sweep.inside):  # not across the yield: the caller's own ops run as ever
                g = sweep.step(node, sent)
            if g is not None:
                yield Step(node, node.op, shown(g), tuple((n, shown(part)) for n, part in sent))
        _deposit(sweep, order)


def _start(y: Tensor, gradient: Any, retain_graph: bool) -> tuple[Node, Sweep, list[Node]]:
    root = node_of(y, "backward")
    start = seed(y, gradient, "backward").detach()
    sweep = Sweep(root.backend, record=False, free=not retain_graph)
    sweep.add(root, y.index, start if sweep.as_tensors else bare(start))
    return root, sweep, reached([root])


def _deposit(sweep: Sweep, order: Sequence[Node]) -> None:
    """Add what has arrived at the leaves to their `.grad`, all of them or, after an error, none."""
    with _grad_lock:  # threads may share leaves
        for node in order:
            if node.op is None and node in sweep.cotangents:
                g = tensor_of(node.backend, sweep.cotangents.pop(node)).detach()
                node.grad = g if node.grad is None else node.grad + g


def pullback(
    y: Tensor,
    inputs: Any,
    gradient: Any = None,
    split: str | Sequence[str] | None = None,
    allow_unused: bool = False,
) -> Any:
    """Gradients of y with respect to a nest of recorded tensors, themselves recorded.

    split="use" keeps the contributions of each use apart, in order of creation: (uses, *shape);
    split="sample" those of each element of y's first axis: (samples, *shape); both: in that order.
    Raises GradientError for an input that y does not depend on, unless allow_unused (then None).
    """
    axes = (split,) if isinstance(split, str) else tuple(split or ())
    if not set(axes) <= {"use", "sample"} or len(set(axes)) != len(axes):
        raise ValueError(f"pullback: split is made of 'use' and 'sample', not {split!r}")
    tensors, rebuild = tree.flatten(inputs)
    root = node_of(y, "pullback")
    for x in tensors:
        node_of(x, "pullback (input)")
    record = mode.get().recording
    if "sample" in axes:
        if not y.shape or not y.shape[0]:
            raise ShapeError("pullback: split='sample' needs a y with an axis of samples")
        rows = [_one_hot_row(y, gradient, i) for i in range(y.shape[0])]
        per = "use" if "use" in axes else None
        pulled = [tree.flatten(pullback(y, inputs, g, per, allow_unused))[0] for g in rows]
        axis = axes.index("sample")
        return rebuild(
            [None if g[0] is None else stack(g, axis) for g in zip(*pulled, strict=True)]
        )
    start = seed(y, gradient, "pullback")
    found = pull([y], [start], tensors, record, per_use=bool(axes))
    for i, (x, g) in enumerate(zip(tensors, found, strict=True)):
        if (g is None or (isinstance(g, list) and not g)) and not allow_unused:
            label = f"{x.name!r}" if x.name else f"number {i}"
            raise GradientError(
                f"pullback: input {label} was not used in computing y ({root}); pass "
                f"allow_unused=True to get None for it"
            )
    if axes:
        found = [stack(g, axis=0) if g else None for g in found]
    return rebuild(found)


def _one_hot_row(y: Tensor, gradient: Any, row: int) -> Tensor:
    mask = y.backend.xp.zeros(y.shape, y.dtype)
    mask[row] = 1
    selected = make(mask, y.backend)
    return selected if gradient is None else selected * seed(y, gradient, "pullback")


def register_hook(x: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
    """Call hook(g) when a traversal has x's whole cotangent; what it returns replaces g.

    Returns the function that removes the hook again.
    """
    node = node_of(x, "register_hook")
    entry = (x.index, hook)
    node.hooks = [*(node.hooks or []), entry]

    def remove() -> None:
        node.hooks = [other for other in node.hooks or [] if other is not entry] or None

    return remove


# --- transforms ----------------------------------------------------------------------------------


def _variable(x: Any, call: str) -> Tensor:
    """A handle of its own for an argument: a fresh leaf, or an alias if x is on a graph already."""
    if not isinstance(x, Tensor):
        x = Tensor(x)
    if x.dtype.kind != "f":
        raise GradientError(f"{call}: cannot differentiate with respect to {x.dtype} values")
    if x.node is not None:
        return alias(x)
    return make(bare(x), x.backend, leaf(x.backend, x.shape, x.dtype))


def _call(f: Callable[..., Any], args: Sequence[Any], wrt: Sequence[int], name: str) -> Any:
    """f of variables in place of args[wrt], recorded: (result, flat variables, rebuild, depth)."""
    for i in wrt:
        if not -len(args) <= i < len(args):
            raise ValueError(f"{name}: wrt={i}, but the function got {len(args)} arguments")
    flat, rebuild = tree.flatten(tuple(args[i] for i in wrt))
    with at_choke_points(recording=True):
        variables = [_variable(x, name) for x in flat]
        chosen = rebuild(variables)
        full = list(args)
        for i, value in zip(wrt, chosen, strict=True):
            full[i] = value
        y = f(*full)
    return y, variables, rebuild


def _outside(ys: Sequence[Tensor], gs: Sequence[Tensor], variables: Sequence[Tensor]) -> bool:
    """Whether the result depends on a leaf that the caller could still differentiate by."""
    if not mode.get().recording:
        return False
    own = {x.node for x in variables}
    roots = [t.node for t in (*ys, *gs) if t.node is not None]
    return any(node.op is None and node not in own for node in reached(roots))


def _filled(xs: Sequence[Tensor], grads: Sequence[Any]) -> list[Any]:
    """The gradients, zeros where there is none."""
    return [zeros_like(x) if g is None else g for x, g in zip(xs, grads, strict=True)]


def value_and_grad(f: Callable[..., Any], wrt: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The function that returns (f(*args), gradient): f gives one number; wrt: index or tuple."""
    indices = (wrt,) if isinstance(wrt, int) else tuple(wrt)

    @functools.wraps(f)
    def transformed(*args: Any) -> Any:
        y, variables, rebuild = _call(f, args, indices, "grad")
        if not isinstance(y, Tensor):
            raise GradientError(f"grad: the function returned {type(y).__name__}, not a tensor")
        start = seed(y, None, "grad")
        record = _outside([y], [], variables)
        gradient = rebuild(_filled(variables, pull([y], [start], variables, record, not record)))
        return (y if record else y.detach()), (gradient[0] if isinstance(wrt, int) else gradient)

    return transformed


def grad(f: Callable[..., Any], wrt: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The function that returns the gradient of f, by any nest of tensors; nests freely."""
    both = value_and_grad(f, wrt)

    @functools.wraps(f)
    def transformed(*args: Any) -> Any:
        return both(*args)[1]

    return transformed


def _results(y: Any, call: str) -> tuple[list[Tensor], Callable[[Sequence[Any]], Any]]:
    ys, rebuild = tree.flatten(y)
    for part in ys:
        if not isinstance(part, Tensor):
            raise GradientError(f"{call}: f must return tensors, not {type(part).__name__}")
    return ys, rebuild


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], Any]]:
    """(f(*primals), pullback): pullback(cotangent nest) gives the cotangents of the primals."""
    y, variables, rebuild = _call(f, primals, range(len(primals)), "vjp")
    ys, rebuild_y = _results(y, "vjp")

    def back(cotangent: Any) -> Any:
        gs = [seed(part, g, "vjp") for part, g in zip(ys, tree.flatten(cotangent)[0], strict=True)]
        record = _outside(ys, gs, variables)
        return rebuild(_filled(variables, pull(ys, gs, variables, record)))

    outside = _outside(ys, [], variables)
    return rebuild_y([part if outside else part.detach() for part in ys]), back


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(y, dy): the derivative of f along tangents, as two pullbacks with a zero dummy cotangent."""
    y, variables, _ = _call(f, tuple(primals), range(len(primals)), "jvp")
    ys, rebuild = _results(y, "jvp")
    flat = tree.flatten(tuple(tangents))[0]
    directions = [seed(x, t, "jvp (tangent)") for x, t in zip(variables, flat, strict=True)]
    outside = _outside(ys, directions, variables)
    dummies = [Tensor(zeros_like(part), requires_grad=True) for part in ys]
    # Hooks act on gradients, and neither of these two is one.
    first = pull(ys, dummies, variables, record=True, hooks=False)
    used = [(g, t) for g, t in zip(first, directions, strict=True) if g is not None and g.node]
    tangent: list[Any] = [None] * len(ys)
    if used:
        gs, ts = zip(*used, strict=True)
        tangent = pull(gs, ts, dummies, record=outside, hooks=False)
    return rebuild([part if outside else part.detach() for part in ys]), rebuild(
        _filled(ys, tangent)
    )


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(gradient, Hessian times tangents) of a function that gives one number."""
    indices = tuple(range(len(primals)))
    return jvp(grad(f, indices), primals, tangents)


def jacobian(f: Callable[..., Any], wrt: int = 0) -> Callable[..., Any]:
    """The function that returns d f / d args[wrt] of shape y.shape + x.shape, row by row."""

    @functools.wraps(f)
    def transformed(*args: Any) -> Tensor:
        y, (x, *more), _ = _call(f, args, (wrt,), "jacobian")
        if more or not isinstance(y, Tensor):
            raise GradientError("jacobian: one tensor in, one tensor out")
        record = _outside([y], [], [x])
        rows = []
        for i in range(y.size):
            row = y.backend.xp.zeros(y.size, y.dtype)
            row[i] = 1
            g = pull([y], [make(row.reshape(y.shape), y.backend)], [x], record)[0]
            rows.append(zeros_like(x) if g is None else g)
        if not rows:
            return make(y.backend.xp.zeros(y.shape + x.shape, x.dtype), y.backend)
        return reshape(stack(rows, axis=0), y.shape + x.shape)

    return transformed


def hessian(f: Callable[..., Any], wrt: int = 0) -> Callable[..., Any]:
    """The function that returns the matrix of second derivatives, of shape x.shape + x.shape."""
    return jacobian(grad(f, wrt), wrt)


for _function in (backward, backward_norms, backward_steps, register_hook):
    setattr(Tensor, _function.__name__, _function)

"""Derivatives: one traversal of the recorded graph, and the transforms of functions built on it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ContextDecorator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from minigrad import tree
from minigrad.backend import Backend, refuse_generators
from minigrad.errors import GradientError, ShapeError
from minigrad.op import BareRun, Mode, Op, Plan, at_choke_points, bare, execute, freed, in_mode, mode
from minigrad.ops import random
from minigrad.ops.elementwise import alias, astype
from minigrad.ops.reduce import sum as sum_
from minigrad.ops.shape import reshape, stack
from minigrad.tensor import FREED, Node, Shape, Tensor, leaf, make, next_id

Call = TypeVar("Call", bound=Callable[..., Any])


class _Recording(ContextDecorator):
    recording = False

    def __init__(self) -> None:
        self._stack: list[contextlib.AbstractContextManager[Any]] = []

    def __enter__(self) -> None:
        scope = at_choke_points(recording=self.recording)
        scope.__enter__()
        self._stack.append(scope)

    def __exit__(self, *error: Any) -> None:
        self._stack.pop().__exit__(*error)

    def __call__(self, function: Call) -> Call:
        refuse_generators(function, type(self).__name__)
        kind = type(self)

        @functools.wraps(function)
        def scoped(*args: Any, **kwargs: Any) -> Any:
            with kind():
                return function(*args, **kwargs)

        return scoped  # type: ignore[return-value]


class no_grad(_Recording):
    """`with no_grad():` or `@no_grad()`: ops inside are not recorded. Refuses generator functions."""


class enable_grad(_Recording):
    """`with enable_grad():` ops inside are recorded, also within no_grad."""

    recording = True


# --- the traversal -------------------------------------------------------------------------------


class Step(NamedTuple):
    """One step of the traversal: a node, its cotangent(s), and what its rules sent to its parents."""

    node: Node
    op: Op | None
    incoming: Any
    outgoing: tuple[tuple[Node, Any], ...]


def reached(
    roots: Iterable[Node], targets: set[Node] | None = None, stop: bool = False
) -> list[Node]:
    """The nodes that roots depend on (and that depend on targets), in descending order of creation.

    With stop, the walk ends at the targets: nothing that they depend on is of interest.
    """
    seen = set(roots)
    waiting = list(seen)
    while waiting:
        node = waiting.pop()
        if stop and node in targets:  # type: ignore[operator]
            continue
        for parent in node.parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    order = sorted(seen, key=lambda node: node.id, reverse=True)
    if targets is not None:
        useful = set(targets)
        for node in reversed(order):
            if any(parent in useful for parent in node.parents):
                useful.add(node)
        order = [node for node in order if node in useful]
    return order


class Sweep:
    """The state of one traversal: cotangents by node, popped as they are used."""

    def __init__(
        self, backend: Backend, record: bool, free: bool, useful: set[Node] | None
    ) -> None:
        self.outside = mode.get()
        self.as_tensors = record or self.outside.run is not execute
        run = self.outside.run if self.as_tensors else BareRun(backend)
        self.inside = replace(self.outside, run=run, recording=record)  # where the rules work
        self.free = free
        self.useful = useful
        self.cotangents: dict[Node, Any] = {}
        self.uses: dict[
            Node, list[tuple[int, Any]]
        ] = {}  # contributions kept apart, for split="use"
        self._owned: set[Node] = set()

    def add(self, node: Node, slot: int, g: Any) -> Any:
        """Send a cotangent to output `slot` of a node; undoes broadcasting and promotion, once, here."""
        multiple = node.op is not None and node.op.outputs
        shape = node.shape[slot] if multiple else node.shape
        if g.shape != shape:
            g = _unbroadcast(g, shape)
        if g.dtype is not node.dtype and g.dtype != node.dtype:
            g = astype(g, node.dtype) if isinstance(g, Tensor) else g.astype(node.dtype)
        if node in self.uses:
            self.uses[node].append((slot, g))
        cotangents = self.cotangents
        if multiple:
            slots = cotangents.get(node)
            if slots is None:
                slots = cotangents[node] = [None] * len(node.shape)
            slots[slot] = g if slots[slot] is None else slots[slot] + g
        elif node not in cotangents:
            cotangents[node] = g
        elif node in self._owned:
            cotangents[node] += g  # a sum that this traversal made and nobody else holds
        else:
            total = cotangents[node] + g
            cotangents[node] = total
            if total.__class__ is node.backend.xp.ndarray:
                self._owned.add(node)
        return g

    def step(self, node: Node) -> Step | None:
        """Pop a node's cotangent, run the rules of the parents that need one, send on what they give."""
        g = self.cotangents.pop(node, None)
        if g is None:
            return None
        op, backend = node.op, node.backend
        if op is not None and op.outputs:
            zeros = backend.xp.zeros
            for i, part in enumerate(g):
                if part is None:
                    zero = zeros(node.shape[i], node.dtype)
                    g[i] = make(zero, backend) if self.as_tensors else zero
        if node.hooks is not None:
            g = self._hooked(node, g)
        if op is None:
            self.cotangents[node] = g  # a leaf keeps what has arrived
            return Step(node, None, g, ())
        if freed(node):
            raise GradientError(
                f"backward ran through this graph before and freed what {op.name} had saved; write "
                f"backward(retain_graph=True) the first time, or compute the loss again"
            )
        values = (g, *(_wrapped(node) if self.as_tensors else node.saved))
        parents, slots, useful = node.parents, node.slots, self.useful
        outgoing = []
        for position, rule, get in node.plan.rules:
            if op.variadic is not None and position >= len(op.operands) - 1:
                parts = rule(*get(values))
                first = len(op.operands) - 1
                pairs: Any = zip(range(first, len(parents)), parts, strict=True)
            else:
                parent = parents[position]
                if useful is not None and parent not in useful:
                    continue
                pairs = ((position, rule(*get(values))),)
            for i, part in pairs:
                parent = parents[i]
                if parent is not None and part is not None and (useful is None or parent in useful):
                    outgoing.append((parent, self.add(parent, slots[i], part)))
        if self.free:
            node.saved = FREED
        return Step(node, op, g, tuple(outgoing))

    def _hooked(self, node: Node, g: Any) -> Any:
        for slot, hook in node.hooks or ():
            part = g[slot] if isinstance(g, list) else g
            with in_mode(self.outside):
                new = hook(
                    part
                    if isinstance(part, Tensor)
                    else make(node.backend.asarray(part), node.backend)
                )
            if new is not None:
                new = new if self.as_tensors else bare(new)
                if isinstance(g, list):
                    g[slot] = new
                else:
                    g = new
        return g


def _wrapped(node: Node) -> list[Any]:
    """What a node saved, as tensors on the graph, for rules that are themselves recorded."""

    def operand(array: Any, i: int) -> Any:
        if not isinstance(array, node.backend.xp.ndarray):
            return array
        return make(array, node.backend, node.parents[i], node.slots[i])

    values: list[Any] = []
    for (kind, key), value in zip(node.plan.sources, node.saved, strict=True):
        if kind == "operand" and isinstance(key, range):
            values.append(tuple(operand(a, i) for i, a in zip(key, value, strict=True)))
        elif kind == "operand":
            values.append(operand(value, key))
        elif kind == "y":
            values.append(make(value, node.backend, node))
        else:
            values.append(value)
    return values


def _unbroadcast(g: Any, shape: Shape) -> Any:
    extra = len(g.shape) - len(shape)
    if extra < 0:
        raise ShapeError(f"a rule gave a cotangent of shape {g.shape} for a value of shape {shape}")
    axes = tuple(range(extra)) + tuple(
        i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1
    )
    return reshape(sum_(g, axis=axes, keepdims=True) if axes else g, shape)


def _seed(y: Tensor, gradient: Any, call: str) -> Any:
    if gradient is None:
        if y.shape != ():
            raise GradientError(
                f"{call}: the tensor has shape {y.shape}, not one number; call .sum() on it first, or "
                f"pass gradient= of that shape"
            )
        return make(y.backend.xp.ones((), y.dtype), y.backend)
    if not isinstance(gradient, Tensor):
        gradient = Tensor(gradient, dtype=y.dtype, backend=y.backend)
    if gradient.shape != y.shape:
        raise ShapeError(f"{call}: gradient has shape {gradient.shape}, the tensor {y.shape}")
    return gradient


def _node_of(y: Any, call: str) -> Node:
    if not isinstance(y, Tensor):
        raise GradientError(f"{call}: expected a tensor, not {type(y).__name__}")
    if y.node is None:
        why = (
            f"it holds {y.dtype} values"
            if y.dtype.kind != "f"
            else "it was made under no_grad, detached, or from constants alone"
        )
        raise GradientError(
            f"{call}: this tensor has no graph: {why}; give an input requires_grad=True"
        )
    return y.node


_active: set[Node] = set()
_active_lock = threading.Lock()


@contextlib.contextmanager
def _claimed(node: Node) -> Iterator[None]:
    with _active_lock:
        if node in _active:
            raise GradientError("backward: another thread is running backward on this graph")
        _active.add(node)
    try:
        yield
    finally:
        with _active_lock:
            _active.discard(node)


def backward(y: Tensor, gradient: Any = None, retain_graph: bool = False) -> None:
    """Add d y / d leaf, times gradient, to `.grad` of every leaf that y depends on; frees the graph.

    Raises GradientError if y has no graph, is no scalar and gets no gradient, or was used before.
    """
    root, sweep, order = _start(y, gradient, retain_graph)
    with _claimed(root):
        with in_mode(sweep.inside):
            for node in order:
                sweep.step(node)
        _deposit(sweep, order)


def backward_steps(
    y: Tensor, gradient: Any = None, retain_graph: bool = False
) -> Iterator[Step]:
    """backward, one node at a time: yields node, op, incoming and outgoing cotangents (tensors).

    `.grad` is set after the last step; a traversal left half way sets none.
    """
    root, sweep, order = _start(y, gradient, retain_graph)
    with _claimed(root):
        for node in order:
            with in_mode(sweep.inside):  # not across the yield: the caller's own ops run as ever
                step = sweep.step(node)
            if step is not None:
                yield _shown(step)
        _deposit(sweep, order)


def _start(y: Tensor, gradient: Any, retain_graph: bool) -> tuple[Node, Sweep, list[Node]]:
    root = _node_of(y, "backward")
    seed = _seed(y, gradient, "backward").detach()
    sweep = Sweep(root.backend, record=False, free=not retain_graph, useful=None)
    sweep.add(root, y.index, seed if sweep.as_tensors else bare(seed))
    return root, sweep, reached([root])


def _deposit(sweep: Sweep, order: Sequence[Node]) -> None:
    """Add what has arrived at the leaves to their `.grad`, all of them or, after an error, none."""
    for node in order:
        if node.op is None and node in sweep.cotangents:
            g = bare(sweep.cotangents.pop(node))
            g = g if node.grad is None else bare(node.grad) + g
            node.grad = make(node.backend.asarray(g), node.backend)


def _shown(step: Step) -> Step:
    backend = step.node.backend

    def tensor(g: Any) -> Any:
        if isinstance(g, list):
            return [tensor(part) for part in g]
        return g if isinstance(g, Tensor) else make(backend.asarray(g), backend)

    return Step(
        step.node, step.op, tensor(step.incoming), tuple((n, tensor(g)) for n, g in step.outgoing)
    )


def _pull(
    ys: Sequence[Tensor],
    gs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    record: bool,
    free: bool = False,
    per_use: bool = False,
    stop: bool = False,
) -> list[Any]:
    """Gradients of inputs (None where unused); with per_use the list of contributions of each.

    With stop, inputs do not depend on one another, and the walk ends at them.
    """
    roots = [y.node for y in ys if y.node is not None]
    targets = {x.node for x in inputs if x.node is not None}
    order = reached(roots, targets, stop)  # type: ignore[arg-type]
    sweep = Sweep((*ys, *inputs)[0].backend, record, free, set(order) | targets)  # type: ignore[arg-type]
    kept: dict[Node, Any] = {}
    if per_use:
        sweep.uses = {node: [] for node in targets}  # type: ignore[misc]
    with in_mode(sweep.inside):
        for y, g in zip(ys, gs, strict=True):
            if y.node is not None and y.node in sweep.useful:  # type: ignore[operator]
                sweep.add(y.node, y.index, g if sweep.as_tensors else bare(g))
        for node in order:
            if node in targets:
                kept[node] = sweep.cotangents.get(node)
                if kept[node] is None or stop:
                    continue
            step = sweep.step(node)
            if node in targets and step is not None:
                kept[node] = step.incoming  # after its hooks
    if per_use:
        return [
            [_tensor(x, g) for slot, g in reversed(sweep.uses[x.node]) if slot == x.index]
            for x in inputs
        ]
    grads = []
    for x in inputs:
        g = kept.get(x.node)  # type: ignore[arg-type]
        if isinstance(g, list):
            g = g[x.index]
        grads.append(None if g is None else _tensor(x, g))
    return grads


def _tensor(x: Tensor, g: Any) -> Tensor:
    return g if isinstance(g, Tensor) else make(x.backend.asarray(g), x.backend)


def _zeros_like(x: Tensor) -> Tensor:
    return make(x.backend.xp.zeros(x.shape, x.dtype), x.backend)


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
    root = _node_of(y, "pullback")
    for x in tensors:
        _node_of(x, "pullback (input)")
    record = mode.get().recording
    if "sample" in axes:
        rows = [_one_hot_rows(y, gradient, i) for i in range(y.shape[0])]
        per = "use" if "use" in axes else None
        pulled = [tree.flatten(pullback(y, inputs, g, per, allow_unused))[0] for g in rows]
        axis = axes.index("sample")
        return rebuild([stack(list(parts), axis=axis) for parts in zip(*pulled, strict=True)])
    seed = _seed(y, gradient, "pullback")
    found = _pull([y], [seed], tensors, record, per_use=bool(axes))
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


def _one_hot_rows(y: Tensor, gradient: Any, row: int) -> Tensor:
    if y.ndim == 0:
        raise ShapeError("pullback: split='sample' needs a y with an axis of samples")
    xp = y.backend.xp
    mask = xp.zeros(y.shape, y.dtype)
    mask[row] = 1
    selected = make(mask, y.backend)
    return selected if gradient is None else selected * _seed(y, gradient, "pullback")


def register_hook(x: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
    """Call hook(g) when a traversal has x's whole cotangent; what it returns replaces g.

    Returns the function that removes the hook again.
    """
    node = _node_of(x, "register_hook")
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
        return alias(x)  # type: ignore[no-any-return]
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


def value_and_grad(f: Callable[..., Any], wrt: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The function that returns (f(*args), gradient): f gives one number; wrt an index or a tuple."""
    indices = (wrt,) if isinstance(wrt, int) else tuple(wrt)

    @functools.wraps(f)
    def transformed(*args: Any) -> Any:
        y, variables, rebuild = _call(f, args, indices, "grad")
        if not isinstance(y, Tensor):
            raise GradientError(f"grad: the function returned {type(y).__name__}, not a tensor")
        seed = _seed(y, None, "grad")
        record = _outside([y], [], variables)
        grads = [
            _zeros_like(x) if g is None else g
            for x, g in zip(
                variables, _pull([y], [seed], variables, record, free=not record), strict=True
            )
        ]
        gradient = rebuild(grads)
        return (y if record else y.detach()), (gradient[0] if isinstance(wrt, int) else gradient)

    return transformed


def grad(f: Callable[..., Any], wrt: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The function that returns the gradient of f, with respect to a nest of tensors; nests freely."""
    both = value_and_grad(f, wrt)

    @functools.wraps(f)
    def transformed(*args: Any) -> Any:
        return both(*args)[1]

    return transformed


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], Any]]:
    """(f(*primals), pullback): pullback(cotangent nest) gives the cotangents of the primals."""
    y, variables, rebuild = _call(f, primals, range(len(primals)), "vjp")
    ys, rebuild_y = tree.flatten(y)

    def pull(cotangent: Any) -> Any:
        gs = [_seed(part, g, "vjp") for part, g in zip(ys, tree.flatten(cotangent)[0], strict=True)]
        record = _outside(ys, gs, variables)
        found = _pull(ys, gs, variables, record)
        return rebuild(
            [_zeros_like(x) if g is None else g for x, g in zip(variables, found, strict=True)]
        )

    outside = _outside(ys, [], variables)
    return rebuild_y([part if outside else part.detach() for part in ys]), pull


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(y, dy): the derivative of f along tangents, as two pullbacks with a zero dummy cotangent."""
    y, variables, _ = _call(f, tuple(primals), range(len(primals)), "jvp")
    ys, rebuild = tree.flatten(y)
    directions = [
        _seed(x, t, "jvp (tangent)")
        for x, t in zip(variables, tree.flatten(tuple(tangents))[0], strict=True)
    ]
    outside = _outside(ys, directions, variables)
    dummies = [
        make(bare(_zeros_like(part)), part.backend, leaf(part.backend, part.shape, part.dtype))
        for part in ys
    ]
    first = _pull(ys, dummies, variables, record=True)
    used = [
        (g, t)
        for g, t in zip(first, directions, strict=True)
        if g is not None and g.node is not None
    ]
    tangent: list[Any] = [None] * len(ys)
    if used:
        tangent = _pull([g for g, _ in used], [t for _, t in used], dummies, record=outside)
    dy = [_zeros_like(part) if d is None else d for part, d in zip(ys, tangent, strict=True)]
    return rebuild([part if outside else part.detach() for part in ys]), rebuild(dy)


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(gradient, Hessian times tangents) of a function that gives one number."""
    indices = tuple(range(len(primals)))
    return jvp(grad(f, indices), primals, tangents)


def jacobian(f: Callable[..., Any], wrt: int = 0) -> Callable[..., Any]:
    """The function that returns d f / d args[wrt], of shape y.shape + x.shape, a pullback per element."""

    @functools.wraps(f)
    def transformed(*args: Any) -> Tensor:
        y, (x, *more), _ = _call(f, args, (wrt,), "jacobian")
        if more or not isinstance(y, Tensor):
            raise GradientError("jacobian: one tensor in, one tensor out")
        record = _outside([y], [], [x])
        rows = []
        for i in range(y.size):
            seed = y.backend.xp.zeros(y.size, y.dtype)
            seed[i] = 1
            g = _pull([y], [make(seed.reshape(y.shape), y.backend)], [x], record)[0]
            rows.append(_zeros_like(x) if g is None else g)
        if not rows:
            return make(y.backend.xp.zeros(y.shape + x.shape, x.dtype), y.backend)
        return reshape(stack(rows, axis=0), y.shape + x.shape)  # type: ignore[no-any-return]

    return transformed


def hessian(f: Callable[..., Any], wrt: int = 0) -> Callable[..., Any]:
    """The function that returns the matrix of second derivatives, of shape x.shape + x.shape."""
    return jacobian(grad(f, wrt), wrt)


# --- checkpoint ----------------------------------------------------------------------------------


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, keeping only its inputs for backward and computing the rest again there.

    Arguments and result are nests of tensors; leaves that f closes over get their gradients too.
    The ambient generator is set back for the second computation, so that it draws the same numbers.
    Raises GradientError in backward if such a leaf was assigned a new value in between.
    """

    @functools.wraps(f)
    def checkpointed(*args: Any) -> Any:
        if not mode.get().recording:
            return f(*args)
        flat, rebuild = tree.flatten(args)
        inputs = [
            make(bare(x), x.backend, x.node, x.index) if isinstance(x, Tensor) else x for x in flat
        ]
        draws = random.generator.detach()
        born = next_id()
        ys, rebuild_y = tree.flatten(f(*rebuild(inputs)))
        numbers = [
            n
            for n, y in enumerate(ys)
            if isinstance(y, Tensor) and y.node is not None and y.node.id > born
        ]
        edges = _edges_from_before([ys[n] for n in numbers], born)
        if not edges:
            return rebuild_y(ys)
        closed_over = {node for node, _ in edges if node.op is None}
        closed_over -= {x.node for x in inputs if isinstance(x, Tensor)}
        versions = [(node, node.version) for node in closed_over]
        first = ys[numbers[0]]
        node = Node(
            _checkpoint_op,
            _CHECKPOINT_PLAN,
            tuple(node for node, _ in edges),
            tuple(slot for _, slot in edges),
            {},
            (lambda: f(*rebuild(inputs)), edges, draws, versions, numbers),
            first.backend,
            tuple(ys[n].shape for n in numbers),
            first.dtype,
        )
        for slot, n in enumerate(numbers):
            ys[n] = make(bare(ys[n]), first.backend, node, slot)
        return rebuild_y(ys)

    return checkpointed


def _edges_from_before(ys: Sequence[Tensor], born: int) -> list[tuple[Node, int]]:
    """The outputs (node, slot) made before `born` that ys were computed from."""
    edges: dict[tuple[Node, int], None] = {}
    seen: set[Node] = set()
    waiting = [y.node for y in ys if y.node is not None]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for parent, slot in zip(node.parents, node.slots, strict=True):
            if parent is not None and parent.id < born:
                edges[parent, slot] = None
            elif parent is not None:
                waiting.append(parent)
    return list(edges)


def _recompute(
    g: Sequence[Any],
    again: Callable[[], Any],
    edges: Sequence[tuple[Node, int]],
    draws: Tensor,
    versions: Sequence[tuple[Node, int]],
    numbers: Sequence[int],
) -> list[Any]:
    """The rule of a checkpoint: run f again, recorded, and pull g back to what it was computed from."""
    for node, version in versions:
        if node.version != version:
            raise GradientError(
                "checkpoint: a leaf that the function closes over was assigned a new value between "
                "the first computation and backward; run backward first"
            )
    here = mode.get()
    record = here.recording
    backend = edges[0][0].backend
    now = random.generator.detach()
    random.generator.assign(draws)
    try:
        with in_mode(Mode() if isinstance(here.run, BareRun) else replace(here, recording=True)):
            ys, _ = tree.flatten(again())
            gs = [part if isinstance(part, Tensor) else make(part, backend) for part in g]
            handles = [make(None, backend, node, slot) for node, slot in edges]
            with at_choke_points(recording=record):
                found = _pull([ys[n] for n in numbers], gs, handles, record, stop=True)
    finally:
        random.generator.assign(now)
    return found if record else [bare(part) for part in found]


_checkpoint_op = Op(
    "checkpoint", lambda xp, *edges: edges, {"edges": _recompute}, lambda *edges: list(edges),
    dtypes="free", multiple=True, fixed=(), check=None,
)  # fmt: skip
_CHECKPOINT_PLAN = Plan(
    rules=((0, _recompute, lambda values: values),), sources=(("static", None),) * 5
)


for _function in (backward, backward_steps, register_hook):
    setattr(Tensor, _function.__name__, _function)

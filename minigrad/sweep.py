"""The traversal: from a result back to what it came from, cotangents added up on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from minigrad.backend import Backend
from minigrad.errors import BackendMismatchError, GradientError, ShapeError
from minigrad.op import BareRun, bare, execute, in_mode, mode
from minigrad.ops.reduce import sum as sum_
from minigrad.spec import NUMBERS
from minigrad.tensor import FREED, Node, Shape, Tensor, make


def reached(
    roots: Iterable[Node], targets: set[Node] | None = None, stop: bool = False
) -> list[Node]:
    """The nodes that roots depend on (and that depend on targets), in descending order of creation.

    With stop, the walk ends at the targets: nothing that they depend on is of interest.
    """
    seen = set(roots)
    waiting = list(seen)
    ends = targets if stop and targets else ()
    while waiting:
        node = waiting.pop()
        if node in ends:
            continue
        for parent in node.parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    order = sorted(seen, key=attrgetter("id"), reverse=True)
    if targets is not None:
        useful = set(targets)
        for node in reversed(order):
            if any(parent in useful for parent in node.parents):
                useful.add(node)
        order = [node for node in order if node in useful]
    return order


class Sweep:
    """The state of one traversal: cotangents by node, popped as they are used.

    record: the rules work on tensors and are recorded; otherwise, unless somebody stands at `run`,
    on bare arrays. free: what a node saved is given up once used. useful: all other nodes are left
    out. hooks: whether what changes gradients on purpose does so: hooks, and rules that are not
    linear (Op.jvp). Where `uses` has a list for a node, what is added to it is also kept apart.
    """

    def __init__(
        self,
        backend: Backend,
        record: bool,
        free: bool,
        useful: set[Node] | None = None,
        hooks: bool = True,
    ) -> None:
        self.outside = mode.get()
        self.as_tensors = record or self.outside.run is not execute
        run = self.outside.run if self.as_tensors else BareRun(backend)
        self.inside = replace(self.outside, run=run, recording=record)  # where the rules work
        self.free = free
        self.useful = useful
        self.hooks = hooks
        self.cotangents: dict[Node, Any] = {}
        self.uses: dict[Node, list[tuple[int, Any]]] = {}
        self._sums: set[Node] = set()  # whose cotangent is an array that nobody else holds

    def add(self, node: Node, slot: int, g: Any) -> Any:
        """Send g to an output of a node; undoes broadcasting and promotion, once, here."""
        several = node.op is not None and node.op.outputs
        shape = node.shape[slot] if several else node.shape
        if g.shape != shape:
            g = _unbroadcast(g, shape)
        if g.dtype is not node.dtype and g.dtype != node.dtype:
            g = g.astype(node.dtype)
        if self.uses and node in self.uses:
            self.uses[node].append((slot, g))
        cotangents = self.cotangents
        if several:
            parts = cotangents.get(node)
            if parts is None:
                parts = cotangents[node] = [None] * len(node.shape)
            parts[slot] = g if parts[slot] is None else parts[slot] + g
        elif node not in cotangents:
            cotangents[node] = g
        elif node in self._sums:
            cotangents[node] += g
        else:
            cotangents[node] = total = cotangents[node] + g
            if total.__class__ is node.backend.xp.ndarray:
                self._sums.add(node)
        return g

    def step(self, node: Node, sent: list[tuple[Node, Any]] | None = None) -> Any:
        """Pop a node's cotangent, run the rules of parents that need one, send on what they give.

        Returns the cotangent, or None where nothing arrived; appends (parent, part) to sent.
        """
        g = self.cotangents.pop(node, None)
        if g is None:
            return None
        op = node.op
        if g.__class__ is list:
            g = [_zeros(node, i, self.as_tensors) if x is None else x for i, x in enumerate(g)]
        if node.hooks is not None and self.hooks:
            g = self._hooked(node, g)
        if op is None:
            self.cotangents[node] = g  # a leaf keeps what has arrived
            return g
        saved = node.saved  # looked at once: another thread's backward may free it
        if saved is FREED:
            if self.useful is not None and self.useful.isdisjoint(node.parents):
                return g  # an input that nothing behind is asked of
            raise GradientError(
                f"backward ran through this graph before and freed what {op.name} had saved; write "
                f"backward(retain_graph=True) the first time, or compute the loss again"
            )
        if self.as_tensors:
            self.inside.at, saved = node, _on_graph(node, saved)
        values = (g, *saved)
        plan, parents, slots, useful = node.plan, node.parents, node.slots, self.useful
        rules = plan.rules
        if not self.hooks and op.jvp is not None:
            rules = tuple((i, op.jvp[op.operand(i)], get) for i, _, get in rules)
        for position, rule, get in rules:
            if position.__class__ is range:  # one rule answers for all operands of a variadic tail
                parts: Any = zip(position, rule(*get(values)), strict=True)
            elif useful is None or parents[position] in useful:
                parts = ((position, rule(*get(values))),)
            else:
                continue
            for i, part in parts:
                parent = parents[i]
                if parent is None or part is None or (useful is not None and parent not in useful):
                    continue
                part = self.add(parent, slots[i], part)
                if sent is not None:
                    sent.append((parent, part))
        if self.free and plan.keeps:
            node.saved = FREED
        return g

    def _hooked(self, node: Node, g: Any) -> Any:
        parts = g if g.__class__ is list else [g]
        for slot, hook in node.hooks or ():
            given = tensor_of(node.backend, parts[slot])
            with in_mode(self.outside):
                new = hook(given)
            if new is not None:
                new = _replacement(new, given)
                new = new if self.as_tensors else bare(new)
                parts[slot] = new if new.dtype == node.dtype else new.astype(node.dtype)
        return parts if g.__class__ is list else parts[0]


class Squares(list[tuple[int, Any]]):
    """A list of Sweep.uses that holds, in place of each part, the sum of its squares, (1,)."""

    def append(self, use: tuple[int, Any]) -> None:
        slot, g = use  # as it is: a copy in float64 would cost three times the product
        list.append(self, (slot, g.reshape(1, -1) @ g.reshape(-1)))


def _replacement(new: Any, g: Tensor) -> Tensor:
    """What a hook gave in place of g, if it fits."""
    if not isinstance(new, Tensor):
        new = Tensor(new, backend=g.backend)
    if new.backend is not g.backend:
        raise BackendMismatchError(
            f"a hook gave a gradient on backend {new.backend.name!r} for a tensor on "
            f"{g.backend.name!r}"
        )
    if new.shape != g.shape:
        raise ShapeError(f"a hook gave a gradient of shape {new.shape} for a tensor of {g.shape}")
    found: Tensor = new
    return found


def _zeros(node: Node, slot: int, as_tensor: bool) -> Any:
    zeros = node.backend.xp.zeros(node.shape[slot], node.dtype)
    return make(zeros, node.backend) if as_tensor else zeros


def _on_graph(node: Node, saved: Sequence[Any]) -> tuple[Any, ...]:
    """What a node saved, as tensors on the graph, for rules that are themselves recorded."""

    def operand(array: Any, i: int) -> Any:
        if array.__class__ in NUMBERS:
            return array
        return make(array, node.backend, node.parents[i], node.slots[i])

    values: list[Any] = []
    for (kind, key), value in zip(node.plan.sources, saved, strict=True):
        if kind == "operand" and key.__class__ is range:
            values.append(tuple([operand(a, i) for i, a in zip(key, value, strict=True)]))
        elif kind == "operand":
            values.append(operand(value, key))
        else:
            values.append(make(value, node.backend, node) if kind == "y" else value)
    return tuple(values)


def _unbroadcast(g: Any, shape: Shape) -> Any:
    extra = len(g.shape) - len(shape)
    if extra < 0:
        raise ShapeError(f"a rule gave a cotangent of shape {g.shape} for a value of shape {shape}")
    padded = (1,) * extra + shape
    axes = tuple([i for i, n in enumerate(padded) if n == 1 and g.shape[i] != 1])
    return (sum_(g, axes, keepdims=True) if axes else g).reshape(shape)


def tensor_of(backend: Backend, g: Any) -> Tensor:
    """A cotangent as a tensor, whichever of the two it is."""
    return g if isinstance(g, Tensor) else make(backend.asarray(g), backend)


def pull(
    ys: Sequence[Tensor],
    gs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    record: bool,
    free: bool = False,
    per_use: bool = False,
    stop: bool = False,
    hooks: bool = True,
) -> list[Any]:
    """Gradients of inputs (None where unused); with per_use the list of contributions of each.

    With stop, inputs do not depend on one another, and the walk ends at them.
    """
    targets = {x.node for x in inputs if x.node is not None}
    order = reached([y.node for y in ys if y.node is not None], targets, stop)
    useful = set(order) | targets
    sweep = Sweep((*ys, *inputs)[0].backend, record, free, useful, hooks)
    kept: dict[Node | None, Any] = {}
    if per_use:
        sweep.uses = {node: [] for node in targets}
    with in_mode(sweep.inside):
        for y, g in zip(ys, gs, strict=True):
            if y.node is not None and y.node in useful:
                sweep.add(y.node, y.index, g if sweep.as_tensors else bare(g))
        for node in order:
            if node in targets:
                kept[node] = sweep.cotangents.get(node)
                if kept[node] is None or stop:
                    continue
            arrived = sweep.step(node)
            if node in targets:
                kept[node] = _arrived_only(arrived, kept[node])  # after its hooks
    if per_use:
        return [
            [tensor_of(x.backend, g) for slot, g in reversed(uses) if slot == x.index]
            for x, uses in ((x, sweep.uses.get(x.node, []) if x.node else []) for x in inputs)
        ]
    found = [kept.get(x.node) for x in inputs]
    found = [g[x.index] if g.__class__ is list else g for x, g in zip(inputs, found, strict=True)]
    return [g if g is None else tensor_of(x.backend, g) for x, g in zip(inputs, found, strict=True)]


def _arrived_only(g: Any, before: Any) -> Any:
    """Of the cotangents of several outputs those that came, without the zeros for the others."""
    if g.__class__ is not list:
        return g
    return [part if came is not None else None for part, came in zip(g, before, strict=True)]


# --- where a traversal starts --------------------------------------------------------------------


def seed(y: Tensor, gradient: Any, call: str) -> Tensor:
    """The cotangent that starts a traversal at y: gradient, or 1 where y is one number."""
    if gradient is None:
        if y.shape != ():
            raise GradientError(
                f"{call}: the tensor has shape {y.shape}, not one number; call .sum() on it first, "
                f"or pass gradient= of that shape"
            )
        return make(y.backend.xp.ones((), y.dtype), y.backend)
    given = isinstance(gradient, Tensor)
    g: Tensor = gradient if given else Tensor(gradient, dtype=y.dtype, backend=y.backend)
    if g.shape != y.shape:
        raise ShapeError(f"{call}: gradient has shape {g.shape}, the tensor {y.shape}")
    return g


def node_of(y: Any, call: str) -> Node:
    """y's node; raises GradientError, with the reason, where there is none."""
    if not isinstance(y, Tensor):
        raise GradientError(f"{call}: expected a tensor, not {type(y).__name__}")
    if y.node is None:
        made = "it was made under no_grad, detached, or from constants alone"
        why = made if y.dtype.kind == "f" else f"it holds {y.dtype} values"
        raise GradientError(
            f"{call}: this tensor has no graph: {why}; give an input requires_grad=True"
        )
    return y.node

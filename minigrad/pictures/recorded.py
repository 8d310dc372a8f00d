"""The recorded graph of a tensor as a picture, and as a graph that can be folded."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minigrad.autodiff import no_grad, pullback
from minigrad.graph import Graph, Instruction, Value
from minigrad.graph.ir import Operand, Step
from minigrad.pictures.compound import Edge
from minigrad.pictures.facts import Arrived, backward, spread, told
from minigrad.pictures.scene import operand_label
from minigrad.pictures.svg import Box, Picture
from minigrad.spec import Spec
from minigrad.sweep import reached
from minigrad.tensor import FREED, Node, Tensor, make

SMALL = 4  # elements of which a box shows the values
CROWD = 9  # so many operands and more get no labels
COUNTED = 1000  # hidden nodes are counted no further

NUMBERS = (bool, int, float)

Output = tuple[Node, int]  # an output of a node


def recorded(
    y: Tensor, tensors: Sequence[Tensor], values: bool, gradients: bool, limit: int, direction: str
) -> Picture:
    """A box for each leaf, constant and op of y's recorded graph, with arrows between."""
    if y.node is None:
        return Picture(
            {0: Box(_lines(y.name or "constant", y, values), "constant")}, [], direction=direction
        )
    nodes, complete = _nearest(y.node, limit)
    facts = _Facts(nodes, [y, *tensors])
    arrived: list[Arrived] = []
    if gradients and complete:
        facts.differentiate(y, nodes)
        arrived = backward(y)
    norms = {node: norm for node, norm, _ in arrived}
    boxes: dict[Hashable, Box] = {}
    edges: list[Edge] = []
    for node in nodes:
        box = _box(node, y, facts, values=values, gradients=gradients)
        more = [f"values {spread(facts.ranges[node])}"] if values and node in facts.ranges else []
        more += [f"gradient norm {norms[node]:.4g}"] if node in norms else []
        boxes[node.id] = replace(box, tip=" · ".join([*box.lines, *more]))
        hidden = []
        for i, parent in enumerate(node.parents):
            if parent is None:
                key = facts.constant(node, i)
                boxes.setdefault(key, facts.constant_box(node, i, values=values))
            elif parent in facts.drawn:
                key = parent.id
            else:
                hidden.append(parent)
                continue
            edges.append(Edge(key, node.id, _label(node, i)))
        if hidden:
            boxes["more", node.id] = Box((f"… {_count(hidden, facts.drawn)} more",), "more")
            edges.append(Edge(("more", node.id), node.id))
    names = {node: boxes[node.id].lines[0] for node in nodes}
    steps = list(zip((node.id for node, *_ in arrived), told(arrived, names), strict=True))
    what = "leaf" if y.node.op is None else y.node.op.name
    title = f"graph of {y.name or what}" + ("" if complete else f", the {limit} nearest nodes")
    return Picture(boxes, edges, title=title, direction=direction, steps=steps)


def graph_of(y: Tensor, tensors: Sequence[Tensor]) -> Graph:
    """What y's recorded graph computes, as a graph: leaves are inputs; what was not kept of a
    constant operand is 0 in it.
    """
    if y.node is None:
        raise ValueError(f"this {y.shape} tensor has no recorded graph to fold; draw it as it is")
    nodes = list(reversed(reached([y.node])))
    facts = _Facts(nodes, [y, *tensors])
    known: dict[Value | Hashable, Value] = {}
    steps: list[Step] = []

    def operand(node: Node, i: int) -> Operand:
        parent = node.parents[i]
        if parent is not None:
            return known[parent, node.slots[i]]
        saved, key = facts.constants.get((node.id, i)), facts.constant(node, i)
        if isinstance(saved, NUMBERS):
            return saved
        if key not in known:
            if saved is None:
                saved = node.backend.xp.zeros(facts.shapes.get((node.id, i), ()), node.dtype)
            kept = make(saved, node.backend)
            known[key] = Value(Spec(tuple(kept.shape), kept.dtype), facts.names.get(key), kept)
        return known[key]

    inputs = []
    for node in nodes:
        several = node.op is not None and node.op.outputs
        shapes = node.shape if several else [node.shape]
        name = None if several else getattr(node, "name", None)
        made = [Value(Spec(tuple(shape), node.dtype), name) for shape in shapes]
        if node.op is None:
            inputs += made
        else:
            operands = tuple(operand(node, i) for i in range(len(node.parents)))
            steps.append(Instruction(node.op, operands, node.static, tuple(made)))
        known.update({(node, i): value for i, value in enumerate(made)})
    return Graph(tuple(inputs), tuple(steps), (known[y.node, y.index],))


def _nearest(root: Node, limit: int) -> tuple[list[Node], bool]:
    """The `limit` nodes fewest steps away, oldest first; and whether that is all of them."""
    found = [root]
    seen = {root}
    for node in found:  # grows while it is walked, level by level
        for parent in node.parents:
            if parent is not None and parent not in seen:
                if len(found) == limit:
                    return sorted(found, key=_age), False
                seen.add(parent)
                found.append(parent)
    return sorted(found, key=_age), True


def _age(node: Node) -> int:
    return node.id


def _count(nodes: list[Node], drawn: set[Node]) -> str:
    """How many nodes stand behind these ones, themselves included, without those drawn."""
    found = list(dict.fromkeys(nodes))
    seen = set(found)
    for node in found:
        for parent in node.parents:
            if parent is not None and parent not in seen and parent not in drawn:
                if len(found) == COUNTED:
                    return f"{COUNTED} or"
                seen.add(parent)
                found.append(parent)
    return str(len(found))


class _Facts:
    """What the recorded graph and the tensors at hand tell about values and names."""

    def __init__(self, nodes: list[Node], tensors: list[Tensor]) -> None:
        self.drawn = set(nodes)
        self.constants: dict[tuple[int, int], Any] = {}  # (node id, operand) -> array or number
        self.shapes: dict[tuple[int, int], tuple[int, ...]] = {}
        self.values: dict[Output, np.ndarray] = {}
        self.ranges: dict[Node, list[float]] = {}
        self.names: dict[Hashable, str] = {}  # by the key of a constant's box
        self.derivatives: dict[Output, np.ndarray] = {}
        for node in nodes:
            for (kind, place), saved in _saved(node):
                if kind == "y":
                    self._keep((node, 0), saved)
                elif kind == "operand":
                    self._operand(node, place, saved)
                elif kind == "shape" and node.parents[place] is None:
                    self.shapes[node.id, place] = tuple(saved)
        for node in nodes:
            self._repeat(node)
        for tensor in tensors:
            if tensor.node is None:
                self._name(tensor)
            elif tensor.size <= SMALL:
                self.values.setdefault((tensor.node, tensor.index), tensor.numpy())

    def _keep(self, value: Output, array: Any) -> None:
        if array.size and value[0] not in self.ranges:
            self.ranges[value[0]] = [float(array.min()), float(array.max())]
        if array.size <= SMALL:  # a large one would be a copy for nothing, if it is on a device
            self.values[value] = _host(value[0], array)

    def _operand(self, node: Node, place: int, saved: Any) -> None:
        parent = node.parents[place]
        if parent is not None:
            self._keep((parent, node.slots[place]), saved)
        else:
            self.constants[node.id, place] = saved

    def _name(self, tensor: Tensor) -> None:
        """A tensor outside the graph is recognised by its memory, which the graph has saved."""
        for saved in self.constants.values() if tensor.name else []:
            if isinstance(saved, np.ndarray) and _place(saved) == _place(tensor.numpy()):
                self.names["constant", id(saved)] = str(tensor.name)

    def _repeat(self, node: Node) -> None:
        """A value that was not kept, computed again from recorded ones if all are small."""
        if node.op is None or node.op.outputs or (node, 0) in self.values or _size(node) > SMALL:
            return
        operands = []
        for i, (parent, slot) in enumerate(zip(node.parents, node.slots)):
            if parent is None:
                operands.append(self.constants.get((node.id, i)))
            else:
                operands.append(self.values.get((parent, slot)))
        if all(a is not None and np.size(a) <= SMALL for a in operands):
            own = [a if isinstance(a, NUMBERS) else node.backend.asarray(a) for a in operands]
            forward = node.op.bound.get(node.backend) or node.op.bind(node.backend)
            with np.errstate(all="ignore"):
                self.values[node, 0] = _host(node, forward(*own, **node.static))

    def differentiate(self, y: Tensor, nodes: list[Node]) -> None:
        """The derivative of y by every value drawn, if finding it changes nothing."""
        if y.shape or any(node.hooks or node.saved is FREED for node in nodes):
            return
        places: list[Output] = []
        handles = []
        for node in nodes:
            shapes = node.shape if node.op is not None and node.op.outputs else [node.shape]
            for i, shape in enumerate(shapes):
                xp = node.backend.xp  # pullback asks a handle for its place, not for its values
                blank = xp.broadcast_to(xp.zeros((), node.dtype), shape)
                handles.append(make(blank, node.backend, node, i))
                places.append((node, i))
        with no_grad():
            found = pullback(y, handles, allow_unused=True)
        for place, g in zip(places, found):
            if g is not None and g.size <= SMALL:
                self.derivatives[place] = g.numpy()

    def constant(self, node: Node, place: int) -> Hashable:
        """The key of a constant's box: one box for an array that several ops use."""
        saved = self.constants.get((node.id, place))
        shared = saved is not None and hasattr(saved, "shape")
        return ("constant", id(saved)) if shared else ("constant", node.id, place)

    def constant_box(self, node: Node, place: int, *, values: bool) -> Box:
        saved = self.constants.get((node.id, place))
        shape = self.shapes.get((node.id, place))
        if isinstance(saved, NUMBERS):
            return Box((f"{saved:.4g}",), "constant")
        if saved is not None:
            title = self.names.get(("constant", id(saved)), "constant")
            return Box(_lines(title, saved, values, node), "constant")
        return Box(("constant",) if shape is None else ("constant", str(shape)), "constant")


def _saved(node: Node) -> Iterator[tuple[tuple[str, Any], Any]]:
    """What a node keeps for its rules, the operands of a variadic op one by one."""
    if node.op is None or node.saved is FREED:
        return
    for (kind, place), saved in zip(node.plan.sources, node.saved):
        if isinstance(place, range):
            yield from (((kind, i), one) for i, one in zip(place, saved))
        else:
            yield (kind, place), saved


def _place(array: np.ndarray) -> tuple[int, ...]:
    """Where an array lies in memory, and how."""
    return (array.__array_interface__["data"][0], array.ndim, *array.shape, *array.strides)


def _host(node: Node, array: Any) -> np.ndarray:
    """An array of the node's backend, or a host array, as a host array."""
    if isinstance(array, node.backend.xp.ndarray):
        array = node.backend.to_numpy(array)
    return np.asarray(array)


def _size(node: Node) -> int:
    return int(np.prod(node.shape, dtype=np.int64))


def _box(node: Node, y: Tensor, facts: _Facts, *, values: bool, gradients: bool) -> Box:
    name = getattr(node, "name", None)
    if node.op is None:
        title, kind = name or "leaf", "parameter"
    else:
        title, kind = f"{name} = {node.op.name}" if name else node.op.name, "op"
    lines = [title]
    settings = [f"{k}={v!r}" for k, v in node.static.items() if _plain(v)]
    if settings:
        lines.append(", ".join(settings))
    several = node.op is not None and node.op.outputs
    shapes = list(dict.fromkeys(node.shape)) if several else [node.shape]
    shown = ", ".join(str(tuple(shape)) for shape in shapes)
    if several and len(shapes) == 1:
        shown = f"{len(node.shape)} × {shown}"
    lines.append(shown if node.dtype == y.dtype else f"{shown} {node.dtype}")
    stored = node.grad if gradients and node.op is None else None
    for i in range(min(len(node.shape), SMALL)) if several else [0]:
        known, derivative = facts.values.get((node, i)), facts.derivatives.get((node, i))
        which = f"[{i}] " if several else ""
        if values and known is not None and known.size <= SMALL:
            lines.append(f"{which}= {_format(known)}")
        if derivative is not None and stored is None:
            lines.append(f"{which}∂ {_format(derivative)}")
    if stored is not None and stored.size <= SMALL:
        lines.append(f"grad {_format(stored.numpy())}")
    elif stored is not None:
        lines.append(f"grad, norm {np.linalg.norm(stored.numpy()):.4g}")
    return Box(tuple(lines), "output" if node is y.node and node.op is not None else kind)


def _plain(value: Any) -> bool:
    """Whether a static argument says something in a few characters."""
    return (
        value is not False
        and isinstance(value, (bool, int, float, str, tuple))
        and len(repr(value)) <= 24
    )


def _lines(title: str, array: Any, values: bool, user: Node | None = None) -> tuple[str, ...]:
    """Title, shape, dtype unless it is that of the node that uses it, and few values."""
    shape = str(tuple(array.shape))
    lines = [title, shape if user and array.dtype == user.dtype else f"{shape} {array.dtype}"]
    if values and array.size <= SMALL:
        host = array.numpy() if user is None else _host(user, array)
        lines.append(f"= {_format(host)}")
    return tuple(lines)


def _format(array: np.ndarray) -> str:
    """The values in four digits, in brackets as NumPy nests them."""
    if array.ndim == 0:
        return f"{array.item():.4g}" if array.dtype.kind == "f" else str(array.item())
    return f"[{', '.join(_format(part) for part in array)}]"


def _label(node: Node, place: int) -> str:
    """Which operand, where that matters, and which output of the parent, where it has several."""
    parent, op = node.parents[place], node.op
    if len(node.parents) >= CROWD:
        return ""
    label = operand_label(op, place)
    if op.variadic:
        label = str(place) if len(node.parents) > 1 else ""
    if parent is not None and parent.op is not None and parent.op.outputs:
        label += f"[{node.slots[place]}]"
    return label

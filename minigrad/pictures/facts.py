"""What a picture knows of values: ranges, and what backward sends from node to node."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minigrad.graph import Graph, Instruction, Loop, Value, unfold
from minigrad.graph.ir import Step
from minigrad.op import at_choke_points, bare, in_mode, mode
from minigrad.pictures.scene import Scene
from minigrad.sweep import Sweep, reached, seed
from minigrad.tensor import FREED, Node, Tensor

MOST = 4000  # nodes through which backward is followed
Arrived = tuple[Node, float, list[tuple[Node, float]]]  # norms: of what came, of what was sent


def backward(y: Tensor) -> list[Arrived]:
    """Each node of y's graph in the order of backward, with the norm of its cotangent and of those
    it sends on; nothing where y is not one number, was freed, is large, or hooks wait.
    """
    if y.node is None or y.shape:
        return []
    order = reached([y.node])
    if len(order) > MOST or any(node.hooks or node.saved is FREED for node in order):
        return []
    sweep = Sweep(y.node.backend, record=False, free=False)
    start = seed(y, None, "draw").detach()
    found: list[Arrived] = []
    with in_mode(sweep.inside), np.errstate(all="ignore"):
        sweep.add(y.node, y.index, start if sweep.as_tensors else bare(start))
        for node in order:
            sent: list[tuple[Node, Any]] = []
            g = sweep.step(node, sent)
            if g is not None:
                found.append((node, _norm(node, g), [(to, _norm(node, part)) for to, part in sent]))
    return found


def told(arrived: Sequence[Arrived], names: Mapping[Node, str]) -> list[str]:
    """Each step of backward as a sentence."""
    texts = []
    for node, norm, sent in arrived:
        text = f"{names.get(node, 'a value')}: a cotangent of norm {norm:.3g} arrives"
        parts = [f"{names.get(to, 'a value')} {part:.3g}" for to, part in sent]
        if parts:
            text += f"; sends {', '.join(parts)}"
        texts.append(text + ("; stays in its .grad" if node.op is None else ""))
    return texts


def _norm(node: Node, g: Any) -> float:
    parts = g if isinstance(g, list) else [g]
    hosts = [p.numpy() if isinstance(p, Tensor) else node.backend.to_numpy(p) for p in parts]
    with np.errstate(over="ignore"):  # infinite is what it is then
        return float(np.sqrt(sum(float((np.asarray(p, "float64") ** 2).sum()) for p in hosts)))


def spread(numbers: Sequence[float]) -> str:
    """One number, or from the least to the largest."""
    low, high = min(numbers), max(numbers)
    return f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g}"


def facts(tensors: Sequence[Tensor], values: bool, norms: Mapping[Node, float]) -> list[str]:
    """The range of values, and of the norms of what backward brings to them."""
    hosts = [x.numpy() for x in tensors if x.size] if values else []
    found = []
    if hosts:
        ends = [float(f(host)) for host in hosts for f in (np.min, np.max)]
        found.append(f"values {spread(ends)}")
    known = [norms[x.node] for x in tensors if x.node is not None and x.node in norms]
    return found + ([f"gradient norm {spread(known)}"] if known else [])


def observe(
    scene: Scene, graph: Graph, inputs: Sequence[Tensor], values: bool, gradients: bool
) -> list[tuple[Hashable, str]]:
    """Run the graph, add ranges and gradient norms to the tips of boxes; the steps of backward."""
    made, results = _run(graph, inputs, gradients)
    drawn = {(maker, scene.iteration.get(key)): key for key, maker in scene.makers.items()}
    places: dict[Node, Hashable] = {}
    names: dict[Node, str] = {}
    seen: dict[Hashable, list[Tensor]] = {}
    for maker, t, tensors in made:
        key = drawn.get((maker, t), drawn.get((maker, None)))
        name = (maker.name or "an input") if isinstance(maker, Value) else maker.op.name
        seen.setdefault(key, []).extend(tensors)
        for node in (tensor.node for tensor in tensors if tensor.node is not None):
            places[node] = scene.within.get(key, key)
            names[node] = name if t is None else f"{name} of iteration {t}"
    arrived = backward(results[0]) if results and gradients else []
    norms = {node: norm for node, norm, _ in arrived}
    for key, tensors in seen.items():
        if key in scene.boxes:
            box = scene.boxes[key]
            tip = " · ".join(filter(None, [*box.lines, box.wire, *facts(tensors, values, norms)]))
            scene.boxes[key] = replace(box, tip=tip)
    steps = zip((node for node, *_ in arrived), told(arrived, names), strict=True)
    return [(places.get(node), text) for node, text in steps]


Made = tuple[Instruction | Value, int | None, list[Tensor]]


def _run(graph: Graph, inputs: Sequence[Tensor], record: bool) -> tuple[list[Made], list[Tensor]]:
    """The values of all inputs and steps, with the (outermost) iteration; the results."""
    flat = unfold(graph)
    known: dict[Value, Any] = {}
    made: list[Made] = []
    for value, x in zip(graph.inputs, inputs, strict=True):
        needed = record and x.dtype.kind == "f"
        known[value] = Tensor(x, requires_grad=needed, backend=x.backend)
        made.append((value, None, [known[value]]))
    with at_choke_points(recording=record), np.errstate(all="ignore"):
        for (step, t), same in zip(_in_order(graph.steps, None), flat.steps, strict=True):
            if not isinstance(same, Instruction):
                raise TypeError("a loop in a flat graph")
            found = mode.get().run(same.op, [_find(x, known) for x in same.operands], same.static)
            outputs = list(found) if same.op.outputs else [found]
            known.update(zip(same.outputs, outputs, strict=True))
            made.append((step, t, outputs))
    return made, [_find(value, known) for value in flat.outputs]


def _find(x: Any, known: Mapping[Value, Any]) -> Any:
    if not isinstance(x, Value):
        return x
    return x.constant if x.constant is not None else known[x]


def _in_order(steps: Iterable[Step], t: int | None) -> Iterator[tuple[Instruction, int | None]]:
    for step in steps:
        if isinstance(step, Loop):
            for i in range(step.trips):
                yield from _in_order(step.body, i if t is None else t)
        else:
            yield step, t

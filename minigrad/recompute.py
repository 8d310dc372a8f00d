"""`checkpoint`: memory for time; what lies inside a function is computed again in backward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from minigrad import tree
from minigrad.backend import use_backend
from minigrad.errors import GradientError
from minigrad.op import BareRun, Mode, Op, Plan, at_choke_points, bare, in_mode, mode
from minigrad.ops import random
from minigrad.ops.elementwise import astype
from minigrad.sweep import pull, tensor_of
from minigrad.tensor import Node, Tensor, make, next_id


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, keeping only its inputs for backward and computing the rest again there.

    Arguments and result are nests of tensors; leaves that f closes over get their gradients too.
    The second computation takes place on the backend and with the ambient random numbers of the
    first. What else f looks at must stay as it was until backward, constants that it closes over
    among it: pass what changes as an argument. Raises GradientError in backward if a leaf with a
    gradient was assigned a new value in between, or if the result came from other tensors.
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
        numbers = [n for n, y in enumerate(ys) if isinstance(y, Tensor) and _after(y.node, born)]
        edges = _edges_from_before([ys[n].node for n in numbers], born)
        if not edges:
            return rebuild_y(ys)
        closed_over = {node for node, _ in edges if node.op is None}
        closed_over -= {x.node for x in inputs if isinstance(x, Tensor)}
        versions = [(node, node.version) for node in closed_over]
        first = ys[numbers[0]]
        widest = max((ys[n].dtype for n in numbers), key=attrgetter("itemsize"))
        node = Node(
            op=_op,
            plan=Plan(
                rules=((range(len(edges)), _again, lambda values: values),), sources=_SOURCES
            ),
            parents=tuple(node for node, _ in edges),
            slots=tuple(slot for _, slot in edges),
            static={},
            saved=(lambda: f(*rebuild(inputs)), edges, draws, versions, numbers, born),
            backend=first.backend,
            shape=tuple(ys[n].shape for n in numbers),
            dtype=widest,
        )
        for slot, n in enumerate(numbers):
            ys[n] = as_output(ys[n], node, slot)
        return rebuild_y(ys)

    return checkpointed


def as_output(y: Tensor, node: Node, slot: int) -> Tensor:
    """y as an output of such a node, which as every node has one dtype, where y's may be less."""
    if y.dtype == node.dtype:
        return make(bare(y), y.backend, node, slot)
    wide = bare(astype(y.detach(), node.dtype))
    return astype(make(wide, y.backend, node, slot), y.dtype)


def _after(node: Node | None, born: int) -> bool:
    return node is not None and node.id > born


def _edges_from_before(nodes: Iterable[Node | None], born: int) -> list[tuple[Node, int]]:
    """The outputs (node, slot) made before `born` that later nodes were computed from."""
    edges: dict[tuple[Node, int], None] = {}
    seen: set[Node] = set()
    waiting = [node for node in nodes if node is not None]
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


def _again(
    g: Sequence[Any],
    f: Callable[[], Any],
    edges: Sequence[tuple[Node, int]],
    draws: Tensor,
    versions: Sequence[tuple[Node, int]],
    numbers: Sequence[int],
    born: int,
) -> list[Any]:
    """The rule of a checkpoint: run f again, recorded, and pull g back to what it came from."""
    for node, version in versions:
        if node.version != version:
            raise GradientError(
                "checkpoint: a leaf that the function closes over was assigned a new value between "
                "the first computation and backward; run backward first"
            )
    here = mode.get()
    record = here.recording
    backend = edges[0][0].backend
    run_again = Mode() if isinstance(here.run, BareRun) else replace(here, recording=True)
    with in_mode(run_again), use_backend(draws.backend), random.drawing_from(draws):
        ys, _ = tree.flatten(f())
        nodes = [y.node for y in ys if isinstance(y, Tensor) and _after(y.node, born)]
        if set(_edges_from_before(nodes, born)) != set(edges):
            raise GradientError(
                "checkpoint: the second computation took another way than the first: its result "
                "came from other tensors; pass what the function depends on as arguments"
            )
        gs = [tensor_of(backend, part) for part in g]
        handles = [make(None, backend, node, slot) for node, slot in edges]
        with at_choke_points(recording=record):
            found = pull([ys[n] for n in numbers], gs, handles, record, stop=True)
    return [bare(part) for part in found] if isinstance(here.run, BareRun) else found


_SOURCES = (("static", None),) * 6  # no tensors of the graph among what is saved
_op = Op(
    "checkpoint",
    forward=lambda xp, *edges: edges,
    rules={"edges": _again},
    shape=lambda *edges: list(edges),
    dtypes="free",
    outputs=True,
)

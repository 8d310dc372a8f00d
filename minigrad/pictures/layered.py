"""The layers of a directed acyclic graph, and an order in each with few crossings.

Layers by longest path; order by barycentre sweeps and swaps of neighbours. Nothing is recursive,
and nothing depends on a clock or on hashes: one graph, one order.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

Ports = tuple[float | None, float | None]


@dataclass
class Layered:
    """The layered graph: nodes 0..boxes-1 are boxes, the others bends of long edges."""

    boxes: int
    layer: list[int]
    ports: list[Ports]  # of each edge: where it leaves and enters, from the middle of its boxes
    side: list[int]  # rank in a layer: below 0 stands to the left of all else, above 0 to the right
    paths: list[list[int]] = field(default_factory=list)  # of each edge: source, bends, target

    def __post_init__(self) -> None:
        # Neighbours one layer above and below, one entry for each line drawn.
        self.up: list[list[int]] = [[] for _ in self.layer]
        self.down: list[list[int]] = [[] for _ in self.layer]
        # How far beside the middle of that neighbour the line ends, as a part of its room; and
        # the same of a node's own ends of its lines downwards. All 0 without ports.
        self.up_at: list[list[float]] = [[] for _ in self.layer]
        self.down_at: list[list[float]] = [[] for _ in self.layer]
        self.own: list[list[float]] = [[] for _ in self.layer]


def topological(count: int, after: Sequence[Sequence[int]]) -> list[int]:
    """Kahn's order of 0..count-1; shorter than `count` if there is a cycle."""
    waiting = [0] * count
    for targets in after:
        for v in targets:
            waiting[v] += 1
    ready = [v for v in range(count) if not waiting[v]]
    for u in ready:  # grows while it is walked
        for v in after[u]:
            waiting[v] -= 1
            if not waiting[v]:
                ready.append(v)
    return ready


def assign_layers(
    count: int,
    edges: Sequence[tuple[int, int]],
    keys: Sequence[object],
    ends: Sequence[str | None],
) -> list[int]:
    """Longest-path layers; then nodes sink towards their users where that shortens lines."""
    after: list[list[int]] = [[] for _ in range(count)]
    before: list[list[int]] = [[] for _ in range(count)]
    for u, v in dict.fromkeys(edges):
        after[u].append(v)
        before[v].append(u)
    order = topological(count, after)
    if len(order) < count:
        stuck = sorted(set(range(count)) - set(order))
        raise ValueError(f"the graph has a cycle at or above {keys[stuck[0]]!r}; draw it unfolded")
    layer = [0] * count
    for v in order:
        layer[v] = max((layer[u] + 1 for u in before[v]), default=0)
    deepest = max(layer, default=0)
    for v in reversed(order):
        layer[v] = min((layer[w] - 1 for w in after[v]), default=layer[v])
        if ends[v]:
            layer[v] = 0 if ends[v] == "first" else deepest
    # As late as possible now. A node that alone keeps two lines above it long moves up again,
    # as long as at least two of them get shorter (its own line gets longer by one).
    for v in order:
        if len(before[v]) > 1 and after[v]:
            others = [max((layer[w] for w in after[u] if w != v), default=-1) for u in before[v]]
            earliest = max(layer[u] + 1 for u in before[v])
            layer[v] = min(layer[v], max(earliest, sorted(others)[1]))
    return layer


def with_bends(
    layer: Sequence[int],
    edges: Sequence[tuple[int, int]],
    ports: Sequence[Ports],
    room: Sequence[float],
    side: Sequence[int],
) -> Layered:
    """Cut edges over several layers into pieces; the edges of one port share their bends."""
    graph = Layered(len(layer), list(layer), list(ports), list(side))

    def join(above: int, below: int, leaves: float, enters: float) -> None:
        graph.up[below].append(above)
        graph.up_at[below].append(leaves)
        graph.down[above].append(below)
        graph.down_at[above].append(enters)
        graph.own[above].append(leaves)

    bends: dict[tuple[int, float | None], list[int]] = {}
    for (u, v), (left, entered) in zip(edges, ports, strict=True):
        leaves, enters = (left or 0) / room[u], (entered or 0) / room[v]
        shared = bends.setdefault((u, left), [])
        while layer[u] + len(shared) + 1 < layer[v]:
            bend = len(graph.layer)
            graph.layer.append(layer[u] + len(shared) + 1)
            graph.side.append(0)
            for kept in (graph.up, graph.down, graph.up_at, graph.down_at, graph.own):
                kept.append([])
            join(shared[-1] if shared else u, bend, 0.0 if shared else leaves, 0.0)
            shared.append(bend)
        path = [u, *shared[: layer[v] - layer[u] - 1], v]
        join(path[-2], v, leaves if len(path) == 2 else 0.0, enters)
        graph.paths.append(path)
    return graph


# -- order -------------------------------------------------------------------------------------


def _depth_first(graph: Layered, starts: Sequence[int], mirrored: bool) -> list[list[int]]:
    """Layers filled in the order of a depth-first walk, operands from left to right or back."""
    order: list[list[int]] = [[] for _ in range(max(graph.layer, default=-1) + 1)]
    seen = [False] * len(graph.layer)
    for start in starts:
        stack = [start]
        while stack:
            v = stack.pop()
            if not seen[v]:
                seen[v] = True
                order[graph.layer[v]].append(v)
                near = graph.up[v] + graph.down[v]
                stack += near if mirrored else reversed(near)
    return order


def ordered(graph: Layered) -> tuple[list[list[int]], int]:
    """An order of each layer with few crossings, and their number."""
    nodes = range(len(graph.layer))
    sinks = [v for v in nodes if not graph.down[v]]
    sources = [v for v in nodes if not graph.up[v]]
    best: list[list[int]] = []
    fewest = -1
    # The starts and a number of rounds fixed by the size alone: no clock, so no luck.
    rounds = 24 if len(nodes) < 3000 else 8
    starts = [(sinks, False), (sources, False), (sinks, True), (sources, True)]
    shuffle = random.Random(0).sample  # more starts where they cost little, the same ones always
    starts += [(shuffle(nodes, len(nodes)), False) for _ in range(12 if len(nodes) < 50 else 0)]
    for first, mirrored in starts:
        order = _depth_first(graph, [*first, *nodes], mirrored)
        position = [0] * len(nodes)
        for row in order:
            row.sort(key=graph.side.__getitem__)
            renumber(row, position)
        idle = 0
        for turn in range(rounds):
            _swap(graph, order, position)
            count = sum(_crossings(graph, row, position) for row in order)
            if fewest < 0 or count < fewest:
                best, fewest, idle = [list(row) for row in order], count, 0
            else:
                idle += 1
            if fewest == 0:
                return best, 0
            if idle > 6:
                break
            _sweep(graph, order, position, upwards=bool(turn % 2), rightmost=bool(turn & 2))
    return best, max(fewest, 0)


def renumber(row: Sequence[int], position: list[int]) -> None:
    for i, v in enumerate(row):
        position[v] = i


def _crossings(graph: Layered, row: Sequence[int], position: Sequence[int]) -> int:
    """Crossings between a layer and the one below it."""
    seen: list[float] = []
    total = 0
    lines = sorted(
        (position[u] + own, position[v] + at)
        for u in row
        for v, at, own in zip(graph.down[u], graph.down_at[u], graph.own[u])
    )
    for _, starting in itertools.groupby(lines, key=lambda line: line[0]):
        ends = [end for _, end in starting]
        total += sum(len(seen) - bisect_right(seen, end) for end in ends)
        for end in ends:
            insort(seen, end)
    return total


def _sweep(
    graph: Layered, order: list[list[int]], position: list[int], *, upwards: bool, rightmost: bool
) -> None:
    """Sort each layer by the barycentres of its neighbours in the layer just sorted."""
    neighbours, places = (graph.down, graph.down_at) if upwards else (graph.up, graph.up_at)
    for row in reversed(order) if upwards else order:
        centre = {
            v: (sum(position[u] for u in neighbours[v]) + sum(places[v])) / len(neighbours[v])
            for v in row
            if neighbours[v]
        }
        movable = [v for v in row if v in centre]
        if rightmost:  # breaks ties the other way round, which leads out of some dead ends
            movable.reverse()
        ranked = iter(sorted(movable, key=centre.__getitem__))
        row[:] = [next(ranked) if v in centre else v for v in row]  # the others keep their place
        row.sort(key=graph.side.__getitem__)
        renumber(row, position)


def _swap(graph: Layered, order: list[list[int]], position: list[int]) -> None:
    """Swap neighbours in a layer as long as that removes crossings."""
    for _ in range(6):
        better = False
        for row in order:
            sides = {
                v: [
                    sorted(position[u] + at for u, at in zip(near[v], places[v]))
                    for near, places in ((graph.up, graph.up_at), (graph.down, graph.down_at))
                ]
                for v in row
            }
            for i in range(len(row) - 1):
                v, w = row[i], row[i + 1]
                if graph.side[v] != graph.side[w]:
                    continue
                gain = 0
                for a, b in zip(sides[v], sides[w]):
                    if a and b and a[-1] > b[0]:
                        gain += _inversions(a, b) - _inversions(b, a)
                    elif a and b:
                        gain -= _inversions(b, a)
                if gain > 0:
                    row[i], row[i + 1] = w, v
                    better = True
            renumber(row, position)
        if not better:
            return


def _inversions(left: Sequence[float], right: Sequence[float]) -> int:
    """Pairs of ends that cross if the node with ends `left` stands to the left of the other."""
    count = passed = 0
    for end in left:
        while passed < len(right) and right[passed] < end:
            passed += 1
        count += passed
    return count

"""Where the boxes and edges of a directed acyclic graph go: layers, order in a layer, coordinates.

The four steps of K. Sugiyama et al. 1981, each with a plain known method, none of them recursive:
layers by longest path; order by barycentre sweeps and swaps of neighbours; coordinates by
U. Brandes and B. Köpf 2002 (long edges straight); routes that slant only between two layers, so
that no edge ever runs through a box and the crossings drawn are the crossings counted.

The edges of one source share their way: a weight used at 100 time steps is one line with 100
arms. Everything is deterministic: the same graph gives the same picture on every machine.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right, insort
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Point = tuple[float, float]


@dataclass(frozen=True)
class Layout(Generic[Key]):
    """Centres of the boxes, one polyline for each edge, the size of it all, and the crossings."""

    width: float
    height: float
    positions: dict[Key, Point]
    routes: list[list[Point]]
    crossings: int
    direction: str


@dataclass
class _Graph:
    """The layered graph: nodes 0..boxes-1 are boxes, the others bends of long edges."""

    boxes: int
    layer: list[int]
    paths: list[list[int]]  # one for each edge: source, bends, target
    up: list[list[int]]  # neighbours one layer above, one entry for each line drawn
    down: list[list[int]]


def layout(
    sizes: Mapping[Key, tuple[float, float]],
    edges: Sequence[tuple[Key, Key]],
    *,
    direction: str = "down",
    gap: float = 22.0,
    channel: float = 30.0,
) -> Layout[Key]:
    """Place boxes of the given (width, height) so that every edge points in `direction`.

    `gap` separates boxes of one layer, `channel` (at least) two layers. Several edges between the
    same boxes are drawn apart. Raises ValueError for a cycle, for an edge to an unknown box and
    for a direction other than "down" and "right".
    """
    if direction not in ("down", "right"):
        raise ValueError(f'direction is {direction!r}; write "down" or "right"')
    keys = list(sizes)
    number = {key: i for i, key in enumerate(keys)}
    for pair in edges:
        for end in pair:
            if end not in number:
                raise ValueError(f"edge {pair!r} names {end!r}, which has no size")
    turned = direction == "right"
    extent = [(h, w) if turned else (w, h) for w, h in sizes.values()]
    numbered = [(number[a], number[b]) for a, b in edges]
    layer = _layers(len(keys), numbered, keys)
    graph = _with_bends(layer, numbered)
    order, crossings = _order(graph)
    width = [w for w, _ in extent] + [0.0] * (len(graph.layer) - len(keys))
    x = _coordinates(graph, order, width, gap)
    tops, bottoms = _bands(graph, order, x, extent, channel)
    y = [(tops[k] + bottoms[k]) / 2 for k in layer]
    routes = _routes(graph, order, x, y, extent, tops, bottoms)
    size = (max((x[i] + width[i] / 2 for i in range(len(x))), default=0.0), max(bottoms, default=0))
    if turned:
        routes = [[(b, a) for a, b in route] for route in routes]
        x, y, size = y, x, (size[1], size[0])
    positions = {key: (x[i], y[i]) for i, key in enumerate(keys)}
    return Layout(size[0], size[1], positions, routes, crossings, direction)


def _topological(count: int, after: Sequence[Sequence[int]]) -> list[int]:
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


def _layers(count: int, edges: Sequence[tuple[int, int]], keys: Sequence[object]) -> list[int]:
    """Longest-path layers; then nodes sink towards their users where that shortens lines."""
    after: list[list[int]] = [[] for _ in range(count)]
    before: list[list[int]] = [[] for _ in range(count)]
    for u, v in dict.fromkeys(edges):
        after[u].append(v)
        before[v].append(u)
    order = _topological(count, after)
    if len(order) < count:
        stuck = sorted(set(range(count)) - set(order))
        raise ValueError(f"the graph has a cycle at or above {keys[stuck[0]]!r}; draw it unfolded")
    layer = [0] * count
    for v in order:
        layer[v] = max((layer[u] + 1 for u in before[v]), default=0)
    for v in reversed(order):
        layer[v] = min((layer[w] - 1 for w in after[v]), default=layer[v])
    # As late as possible now. A node that alone keeps two lines above it long moves up again,
    # as long as at least two of them get shorter (its own line gets longer by one).
    for v in order:
        if len(before[v]) > 1 and after[v]:
            others = [max((layer[w] for w in after[u] if w != v), default=-1) for u in before[v]]
            earliest = max(layer[u] + 1 for u in before[v])
            layer[v] = min(layer[v], max(earliest, sorted(others)[1]))
    return layer


def _with_bends(layer: Sequence[int], edges: Sequence[tuple[int, int]]) -> _Graph:
    """Cut edges over several layers into pieces; the edges of one source share their bends."""
    layers = list(layer)
    bends: list[list[int]] = [[] for _ in layer]
    up: list[list[int]] = [[] for _ in layer]
    down: list[list[int]] = [[] for _ in layer]
    paths = []
    for u, v in edges:
        shared = bends[u]
        while layer[u] + len(shared) + 1 < layer[v]:
            above = shared[-1] if shared else u
            down[above].append(len(layers))
            up.append([above])
            down.append([])
            shared.append(len(layers))
            layers.append(layer[u] + len(shared))
        path = [u, *shared[: layer[v] - layer[u] - 1], v]
        up[v].append(path[-2])
        down[path[-2]].append(v)
        paths.append(path)
    return _Graph(len(layer), layers, paths, up, down)


# -- order -------------------------------------------------------------------------------------


def _depth_first(graph: _Graph, starts: Sequence[int]) -> list[list[int]]:
    """Layers filled in the order of a depth-first walk, operands from left to right."""
    order: list[list[int]] = [[] for _ in range(max(graph.layer, default=-1) + 1)]
    seen = [False] * len(graph.layer)
    for start in starts:
        stack = [start]
        while stack:
            v = stack.pop()
            if not seen[v]:
                seen[v] = True
                order[graph.layer[v]].append(v)
                stack += reversed(graph.up[v] + graph.down[v])
    return order


def _order(graph: _Graph) -> tuple[list[list[int]], int]:
    """An order of each layer with few crossings, and their number."""
    nodes = range(len(graph.layer))
    sinks = [v for v in nodes if not graph.down[v]]
    sources = [v for v in nodes if not graph.up[v]]
    best: list[list[int]] = []
    fewest = -1
    # Two starts and a number of rounds fixed by the size alone: no clock, so no luck.
    rounds = 24 if len(nodes) < 3000 else 8
    for starts in (sinks, sources):
        order = _depth_first(graph, [*starts, *nodes])
        position = [0] * len(nodes)
        for row in order:
            _number(row, position)
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


def _number(row: Sequence[int], position: list[int]) -> None:
    for i, v in enumerate(row):
        position[v] = i


def _crossings(graph: _Graph, row: Sequence[int], position: Sequence[int]) -> int:
    """Crossings between a layer and the one below it."""
    seen: list[int] = []
    total = 0
    for u in row:
        ends = sorted(position[v] for v in graph.down[u])
        total += sum(len(seen) - bisect_right(seen, end) for end in ends)
        for end in ends:
            insort(seen, end)
    return total


def _sweep(
    graph: _Graph, order: list[list[int]], position: list[int], *, upwards: bool, rightmost: bool
) -> None:
    """Sort each layer by the barycentres of its neighbours in the layer just sorted."""
    neighbours = graph.down if upwards else graph.up
    for row in reversed(order) if upwards else order:
        centre = {
            v: sum(position[u] for u in neighbours[v]) / len(neighbours[v])
            for v in row
            if neighbours[v]
        }
        movable = [v for v in row if v in centre]
        if rightmost:  # breaks ties the other way round, which leads out of some dead ends
            movable.reverse()
        ranked = iter(sorted(movable, key=centre.__getitem__))
        row[:] = [next(ranked) if v in centre else v for v in row]  # the others keep their place
        _number(row, position)


def _swap(graph: _Graph, order: list[list[int]], position: list[int]) -> None:
    """Swap neighbours in a layer as long as that removes crossings."""
    for _ in range(6):
        better = False
        for row in order:
            sides = {
                v: [sorted(position[u] for u in near[v]) for near in (graph.up, graph.down)]
                for v in row
            }
            for i in range(len(row) - 1):
                v, w = row[i], row[i + 1]
                gain = 0
                for a, b in zip(sides[v], sides[w]):
                    if a and b and a[-1] > b[0]:
                        gain += _inversions(a, b) - _inversions(b, a)
                    elif a and b:
                        gain -= _inversions(b, a)
                if gain > 0:
                    row[i], row[i + 1] = w, v
                    better = True
            _number(row, position)
        if not better:
            return


def _inversions(left: Sequence[int], right: Sequence[int]) -> int:
    """Pairs of ends that cross if the node with ends `left` stands to the left of the other."""
    count = passed = 0
    for end in left:
        while passed < len(right) and right[passed] < end:
            passed += 1
        count += passed
    return count


# -- coordinates -------------------------------------------------------------------------------


def _coordinates(
    graph: _Graph, order: list[list[int]], width: Sequence[float], gap: float
) -> list[float]:
    """Middle of the four extreme alignments of Brandes and Köpf; the leftmost edge is at 0."""
    if not order:
        return []
    conflicts = _conflicts(graph, order)
    candidates: list[list[float]] = []
    for upwards in (False, True):
        for mirrored in (False, True):
            rows = [row[::-1] for row in order] if mirrored else order
            root = _align(graph, rows, conflicts, upwards=upwards)
            x = _compact(rows, root, width, gap)
            candidates.append([-value for value in x] if mirrored else x)
    nodes = range(len(graph.layer))
    spans = [
        (min(x[v] - width[v] / 2 for v in nodes), max(x[v] + width[v] / 2 for v in nodes))
        for x in candidates
    ]
    low, high = min(spans, key=lambda span: span[1] - span[0])
    for i, (x, (left, right)) in enumerate(zip(candidates, spans)):
        shift = high - right if i % 2 else low - left
        candidates[i] = [value + shift for value in x]
    middle = [sum(sorted(four)[1:3]) / 2 for four in zip(*candidates)]
    left = min(middle[v] - width[v] / 2 for v in nodes)
    return [value - left for value in middle]


def _conflicts(graph: _Graph, order: list[list[int]]) -> set[tuple[int, int]]:
    """Lines that cross the straight middle part of a long edge: they give way."""
    found = set()
    position = [0] * len(graph.layer)
    for above, below in itertools.pairwise(order):
        _number(above, position)
        left = start = 0
        for i, v in enumerate(below):
            inner = v >= graph.boxes and graph.up[v][0] >= graph.boxes
            if not inner and i < len(below) - 1:
                continue
            right = position[graph.up[v][0]] if inner else len(above) - 1
            for w in below[start : i + 1]:
                for u in graph.up[w]:
                    if not left <= position[u] <= right and min(u, w) < graph.boxes:
                        found.add((u, w))
            start, left = i + 1, right
    return found


def _align(
    graph: _Graph, rows: list[list[int]], conflicts: set[tuple[int, int]], *, upwards: bool
) -> list[int]:
    """Stack nodes that want the same coordinate into blocks; returns each node's block."""
    root = list(range(len(graph.layer)))
    position = [0] * len(root)
    for row in rows:
        _number(row, position)
    neighbours = graph.down if upwards else graph.up
    for row in reversed(rows) if upwards else rows:
        reached = -1
        for v in row:
            near = sorted(set(neighbours[v]), key=position.__getitem__)
            if v >= graph.boxes:  # a bend follows its own line, not the arms
                near = [u for u in near if u >= graph.boxes] or near
            for u in near[(len(near) - 1) // 2 : len(near) // 2 + 1]:
                pair = (v, u) if upwards else (u, v)
                if root[v] == v and position[u] > reached and pair not in conflicts:
                    root[v] = root[u]
                    reached = position[u]
    return root


def _compact(
    rows: list[list[int]], root: Sequence[int], width: Sequence[float], gap: float
) -> list[float]:
    """Push the blocks together, first to the left, then back towards what lies to their right."""
    after: list[dict[int, float]] = [{} for _ in root]
    for row in rows:
        for v, w in itertools.pairwise(row):
            a, b = root[v], root[w]
            apart = (width[v] + width[w]) / 2 + gap
            after[a][b] = max(after[a].get(b, 0.0), apart)
    blocks = _topological(len(root), [list(targets) for targets in after])
    x = [0.0] * len(root)
    for a in blocks:
        for b, apart in after[a].items():
            x[b] = max(x[b], x[a] + apart)
    for a in reversed(blocks):
        if after[a]:
            x[a] = max(x[a], min(x[b] - apart for b, apart in after[a].items()))
    return [x[root[v]] for v in range(len(root))]


# -- routes ------------------------------------------------------------------------------------


def _bands(
    graph: _Graph,
    order: list[list[int]],
    x: Sequence[float],
    extent: Sequence[tuple[float, float]],
    channel: float,
) -> tuple[list[float], list[float]]:
    """Top and bottom of every layer; a channel crossed by wide slants is higher."""
    tops: list[float] = []
    bottoms: list[float] = []
    for row in order:
        if tops:
            reach = max((abs(x[u] - x[v]) for v in row for u in graph.up[v]), default=0.0)
            tops.append(bottoms[-1] + channel + min(3 * channel, 0.08 * reach))
        else:
            tops.append(0.0)
        bottoms.append(tops[-1] + max((extent[v][1] for v in row if v < graph.boxes), default=0.0))
    return tops, bottoms


def _routes(
    graph: _Graph,
    order: list[list[int]],
    x: Sequence[float],
    y: Sequence[float],
    extent: Sequence[tuple[float, float]],
    tops: Sequence[float],
    bottoms: Sequence[float],
) -> list[list[Point]]:
    """Polylines from the middle of a source's lower side to a place on a target's upper side."""
    position = [0] * len(graph.layer)
    for row in order:
        _number(row, position)
    entering: list[list[int]] = [[] for _ in range(graph.boxes)]
    for i, path in enumerate(graph.paths):
        entering[path[-1]].append(i)
    port = [0.0] * len(graph.paths)
    for v, arriving in enumerate(entering):
        arriving.sort(key=lambda i: position[graph.paths[i][-2]])
        away = [abs(x[graph.paths[i][-2]] - x[v]) for i in arriving]
        # A line from straight above stays straight and the others stand around it.
        middle = (
            float(away.index(min(away)))
            if away and min(away) < 1e-6 and away.count(min(away)) == 1
            else (len(away) - 1) / 2
        )
        furthest = max(middle, len(away) - 1 - middle, 0.5)
        step = min(18.0, (extent[v][0] / 2) * 0.8 / furthest)
        for place, i in enumerate(arriving):
            port[i] = x[v] + (place - middle) * step
    routes = []
    for i, path in enumerate(graph.paths):
        source, target = path[0], path[-1]
        points = [(x[source], y[source] + extent[source][1] / 2)]
        points.append((x[source], bottoms[graph.layer[source]]))
        for bend in path[1:-1]:
            points.append((x[bend], tops[graph.layer[bend]]))
            points.append((x[bend], bottoms[graph.layer[bend]]))
        points.append((port[i], tops[graph.layer[target]]))
        points.append((port[i], y[target] - extent[target][1] / 2))
        routes.append(_without_needless(points))
    return routes


def _without_needless(points: list[Point]) -> list[Point]:
    """Drop points that repeat or lie on a straight line between their neighbours."""
    kept: list[Point] = []
    for point in points:
        if kept and math.dist(kept[-1], point) < 1e-9:
            continue
        if len(kept) > 1 and abs(kept[-1][0] - kept[-2][0]) + abs(point[0] - kept[-1][0]) < 1e-9:
            kept.pop()
        kept.append(point)
    return kept

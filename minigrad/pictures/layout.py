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
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from minigrad.pictures.layered import (
    Layered,
    Ports,
    assign_layers,
    ordered,
    renumber,
    topological,
    with_bends,
)

Key = TypeVar("Key", bound=Hashable)
Point = tuple[float, float]


@dataclass(frozen=True)
class Layout(Generic[Key]):
    """Centres of the boxes, one polyline for each edge, the size of it all, and the crossings.

    bands: top and bottom of each layer; layers: that of each box.
    """

    width: float
    height: float
    positions: dict[Key, Point]
    routes: list[list[Point]]
    crossings: int
    direction: str
    bands: list[Point]
    layers: dict[Key, int]


def layout(
    sizes: Mapping[Key, tuple[float, float]],
    edges: Sequence[tuple[Key, Key]],
    *,
    direction: str = "down",
    gap: float = 22.0,
    channel: float = 30.0,
    ports: Sequence[Ports] | None = None,
    ends: Mapping[Key, str] | None = None,
    sides: Mapping[Key, int] | None = None,
    spread: Mapping[Key, float] | None = None,
) -> Layout[Key]:
    """Place boxes of the given (width, height) so that every edge points in `direction`.

    `gap` separates boxes of one layer, `channel` (at least) two layers. Several edges between the
    same boxes are drawn apart. ports: where edges leave and enter, from the middle of their boxes.
    ends: what stands in the "first" and in the "last" layer. sides: rank of what stands at the left
    (below 0) or right end (above 0) of its layer. spread: how far apart the edges enter a box.

    Raises ValueError for a cycle, for an edge to an unknown box and for a direction other than
    "down" and "right".
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
    layer = assign_layers(len(keys), numbered, keys, [(ends or {}).get(key) for key in keys])
    room = [w + gap for w, _ in extent]
    rank = [(sides or {}).get(key, 0) for key in keys]
    graph = with_bends(layer, numbered, ports or [(None, None)] * len(edges), room, rank)
    order, crossings = ordered(graph)
    width = [w for w, _ in extent] + [0.0] * (len(graph.layer) - len(keys))
    x = _coordinates(graph, order, width, gap)
    if ports is not None:
        x = _towards_ports(graph, order, x, width, gap)
    tops, bottoms = _bands(graph, order, x, extent, channel)
    y = [(tops[k] + bottoms[k]) / 2 for k in layer]
    apart = [(spread or {}).get(key) for key in keys]
    routes = _routes(graph, order, x, y, extent, tops, bottoms, apart)
    size = (max((x[i] + width[i] / 2 for i in range(len(x))), default=0.0), max(bottoms, default=0))
    if turned:
        routes = [[(b, a) for a, b in route] for route in routes]
        x, y, size = y, x, (size[1], size[0])
    positions = {key: (x[i], y[i]) for i, key in enumerate(keys)}
    bands = list(zip(tops, bottoms, strict=True))
    where = {key: layer[i] for i, key in enumerate(keys)}
    return Layout(size[0], size[1], positions, routes, crossings, direction, bands, where)


# -- coordinates -------------------------------------------------------------------------------


def _coordinates(
    graph: Layered, order: list[list[int]], width: Sequence[float], gap: float
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


def _conflicts(graph: Layered, order: list[list[int]]) -> set[tuple[int, int]]:
    """Lines that cross the straight middle part of a long edge: they give way."""
    found = set()
    position = [0] * len(graph.layer)
    for above, below in itertools.pairwise(order):
        renumber(above, position)
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
    graph: Layered, rows: list[list[int]], conflicts: set[tuple[int, int]], *, upwards: bool
) -> list[int]:
    """Stack nodes that want the same coordinate into blocks; returns each node's block."""
    root = list(range(len(graph.layer)))
    position = [0] * len(root)
    for row in rows:
        renumber(row, position)
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
    blocks = topological(len(root), [list(targets) for targets in after])
    x = [0.0] * len(root)
    for a in blocks:
        for b, apart in after[a].items():
            x[b] = max(x[b], x[a] + apart)
    for a in reversed(blocks):
        if after[a]:
            x[a] = max(x[a], min(x[b] - apart for b, apart in after[a].items()))
    return [x[root[v]] for v in range(len(root))]


def _towards_ports(
    graph: Layered, order: list[list[int]], x: list[float], width: Sequence[float], gap: float
) -> list[float]:
    """Rows drawn below and above the ports of wide boxes, which alignment takes for their middle.

    Each row in turn moves to where its lines are straightest for its order and gaps (least squares,
    by pooling neighbours that meet).
    """
    pull: list[list[tuple[int, float]]] = [[] for _ in graph.layer]
    for path, (leaves, enters) in zip(graph.paths, graph.ports, strict=True):
        for i, (u, v) in enumerate(itertools.pairwise(path)):
            offset = (leaves or 0 if i == 0 else 0) - (enters or 0 if v == path[-1] else 0)
            pull[v].append((u, offset))
            pull[u].append((v, -offset))
    for turn in range(6):
        for row in order if turn % 2 else reversed(order):
            blocks: list[list[float]] = []  # weight, place of the first, nodes, room
            for i, v in enumerate(row):
                near = [x[u] + offset for u, offset in pull[v] if (graph.layer[u] < graph.layer[v])
                        == bool(turn % 2)] or [x[u] + offset for u, offset in pull[v]]  # fmt: skip
                wish = sum(near) / len(near) if near else x[v]
                apart = (width[row[i - 1]] + width[v]) / 2 + gap if i else 0.0
                weight = 0.1 + len(near) * (4.0 if v >= graph.boxes else 1.0)
                blocks.append([weight, wish, 1, 0.0, apart])
                while len(blocks) > 1:
                    (w1, p1, n1, r1, a1), (w2, p2, n2, r2, a2) = blocks[-2:]
                    if p1 + r1 + a2 <= p2:
                        break
                    place = (w1 * p1 + w2 * (p2 - r1 - a2)) / (w1 + w2)
                    blocks[-2:] = [[w1 + w2, place, n1 + n2, r1 + a2 + r2, a1]]
            i = 0
            for _, place, count, _, _ in blocks:
                for j in range(int(count)):
                    v = row[i + j]
                    if j:
                        place += (width[row[i + j - 1]] + width[v]) / 2 + gap
                    x[v] = place
                i += int(count)
    left = min((x[v] - width[v] / 2 for v in range(len(x))), default=0.0)
    return [value - left for value in x]


# -- routes ------------------------------------------------------------------------------------


def _bands(
    graph: Layered,
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
    graph: Layered,
    order: list[list[int]],
    x: Sequence[float],
    y: Sequence[float],
    extent: Sequence[tuple[float, float]],
    tops: Sequence[float],
    bottoms: Sequence[float],
    apart: Sequence[float | None],
) -> list[list[Point]]:
    """Polylines from the middle of a source's lower side to a place on a target's upper side."""
    position = [0] * len(graph.layer)
    for row in order:
        renumber(row, position)
    entering: list[list[int]] = [[] for _ in range(graph.boxes)]
    for i, path in enumerate(graph.paths):
        entering[path[-1]].append(i)
    port = [0.0] * len(graph.paths)

    def leaving(i: int) -> float:
        return graph.ports[i][0] or 0.0 if len(graph.paths[i]) == 2 else 0.0

    for v, arriving in enumerate(entering):
        arriving.sort(key=lambda i: (position[graph.paths[i][-2]], leaving(i)))
        away = [abs(x[graph.paths[i][-2]] - x[v]) for i in arriving]
        # A line from straight above stays straight and the others stand around it.
        middle = (
            float(away.index(min(away)))
            if away and min(away) < 1e-6 and away.count(min(away)) == 1
            else (len(away) - 1) / 2
        )
        furthest = max(middle, len(away) - 1 - middle, 0.5)
        step = min(18.0, (extent[v][0] / 2) * 0.8 / furthest)
        if (given := apart[v]) is not None:
            middle, step = (len(away) - 1) / 2, given
        for place, i in enumerate(arriving):
            fixed = graph.ports[i][1]
            port[i] = x[v] + ((place - middle) * step if fixed is None else fixed)
    routes = []
    for i, path in enumerate(graph.paths):
        source, target = path[0], path[-1]
        start = x[source] + (graph.ports[i][0] or 0)
        points = [(start, y[source] + extent[source][1] / 2), (start, bottoms[graph.layer[source]])]
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


def cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the insides of the segments ab and cd cross."""
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: Point, b: Point, c: Point) -> float:
    """Twice the signed area of a triangle."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

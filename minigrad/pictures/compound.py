"""Boxes within frames within frames: each frame is laid out by itself, and then is a box outside.

A value that crosses a frame does so at a port on its border, which outside is where its line ends.
Inside, ports are the first and the last layer. What goes against the flow, a delay, leaves and
comes back at the side. A frame of kind "steps" holds its frames side by side instead, and what goes
from one to the next runs in the gap between them.

All of it flows down here; `Frame.turned` gives the picture that flows up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from minigrad.pictures.layered import Ports
from minigrad.pictures.layout import Point, cross, layout

SQUARE = 14.0  # side of the black square that stands for a delay
SIDE = 14.0  # height of what stands at a side
TRACK = 11.0  # between lines that run beside each other
PAD, TITLE_BAR = 12.0, 24.0
GAP, CHANNEL = 22.0, 34.0

Size = tuple[float, float]
Way = Callable[[float], tuple[Point, ...]]


@dataclass(frozen=True)
class Edge:
    """An arrow between two boxes, with a short label beside its head.

    kind: "" flows with the picture, "back" returns to a delay in the same loop, "step" goes on to
    another iteration of the same loop, "tag" is said in the target's text and not drawn.
    """

    source: Hashable
    target: Hashable
    label: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Group:
    """A frame around boxes: of kind "module", "loop", "steps" (side by side) or "step"."""

    title: str
    kind: str = "module"
    parent: Hashable = None
    tip: str = ""


@dataclass(frozen=True)
class Line:
    """A piece of a value's way within one frame; square: it turns at right angles."""

    source: Hashable
    start: Hashable
    end: Hashable
    points: tuple[Point, ...]
    head: bool = False
    label: str = ""
    square: bool = False


@dataclass
class Frame:
    """A laid-out frame: where its boxes and frames stand in it, and its lines."""

    key: Hashable
    width: float = 0.0
    height: float = 0.0
    boxes: dict[Hashable, Point] = field(default_factory=dict)
    frames: dict[Hashable, tuple[Frame, Point]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    bands: list[Point] = field(default_factory=list)
    layers: dict[Hashable, int] = field(default_factory=dict)
    crossings: int = 0
    inputs: list[tuple[Hashable, float]] = field(default_factory=list)
    outputs: list[tuple[Hashable, float]] = field(default_factory=list)

    def turned(self) -> Frame:
        """The same, flowing up."""

        def up(point: Point) -> Point:
            return point[0], self.height - point[1]

        return replace(
            self,
            boxes={key: up(point) for key, point in self.boxes.items()},
            frames={key: (frame.turned(), up(at)) for key, (frame, at) in self.frames.items()},
            lines=[replace(x, points=tuple(map(up, x.points))) for x in self.lines],
            bands=[(self.height - bottom, self.height - top) for top, bottom in self.bands],
        )

    def all_crossings(self) -> int:
        return self.crossings + sum(frame.all_crossings() for frame, _ in self.frames.values())


def arrange(
    sizes: Mapping[Hashable, Size],
    home: Mapping[Hashable, Hashable],
    edges: Sequence[Edge],
    groups: Mapping[Hashable, Group],
    titles: Mapping[Hashable, float],
    spread: Mapping[Hashable, float],
    up: bool,
) -> Frame:
    """The frame of everything, whose boxes stand in the group that `home` says, or in none.

    titles: how wide those of groups are; spread: how far apart arrows must arrive.

    Raises ValueError where boxes or groups form a cycle.
    """
    frame = _Arranger(dict(sizes), dict(home), edges, groups, titles, spread, up).frame(None)
    return frame.turned() if up else frame


@dataclass
class _Arranger:
    sizes: dict[Hashable, Size]
    home: dict[Hashable, Hashable]
    given: Sequence[Edge]
    groups: Mapping[Hashable, Group]
    titles: Mapping[Hashable, float]
    spread: Mapping[Hashable, float]
    up: bool

    def __post_init__(self) -> None:
        self.sides: dict[Hashable, int] = {}
        self.leaning: dict[Hashable, tuple[Hashable, int]] = {}  # to which side of which loop
        self.alias: dict[Hashable, Hashable] = {}  # of a place at a side: whose value passes there
        self.links: dict[Hashable, list[Edge]] = {}  # by frame: between two places at sides
        self.edges = [edge for edge in self.given if not edge.kind]
        for edge in self.given:
            if edge.kind in ("back", "step"):
                self.around(edge)
        self.ins: dict[Hashable, dict[Hashable, None]] = {}
        self.outs: dict[Hashable, dict[Hashable, None]] = {}
        for edge in self.edges:
            above, below = self.chain(self.home[edge.source]), self.chain(self.home[edge.target])
            for inside, outside, found in ((above, below, self.outs), (below, above, self.ins)):
                for group in inside:
                    if group not in outside:
                        found.setdefault(group, {})[edge.source] = None

    def chain(self, group: Hashable) -> list[Hashable]:
        """The group and those around it."""
        found = [group]
        while found[-1] is not None:
            found.append(self.groups[found[-1]].parent)
        return found

    def around(self, edge: Edge) -> None:
        """An edge against the flow, or to another iteration, as two places at sides and a link."""
        entry: Hashable
        out: Hashable
        if edge.kind == "back":
            loop = self.home[edge.target]
            entry, out = edge.target, ("exit", edge.target)
            links = self.links.setdefault(loop, [])
            side = -1 if len(links) % 2 else 1
            self.place(entry, loop, side)
            self.place(out, loop, side)
            links.append(Edge(out, entry, edge.label))
        else:
            a, b = (
                next(g for g in self.chain(self.home[key]) if self.groups[g].kind == "step")
                for key in (edge.source, edge.target)
            )
            entry, out = ("entry", b, edge.source), ("exit", a, edge.source)
            strip = self.groups[a].parent
            self.place(entry, b, -1)
            self.place(out, a, 1)
            link = Edge(out, entry)
            if link not in self.links.setdefault(strip, []):
                self.links[strip].append(link)
            self.edges.append(Edge(entry, edge.target, edge.label))
            self.alias[entry] = edge.source
        if out not in self.alias:
            self.alias[out] = edge.source
            self.edges.append(Edge(edge.source, out))

    def place(self, key: Hashable, group: Hashable, side: int) -> None:
        self.sizes.setdefault(key, (6.0, SIDE))
        self.home[key] = group
        self.sides[key] = side

    def frame(self, group: Hashable) -> Frame:
        links = self.links.get(group, [])
        if group is None or self.groups[group].kind == "steps" or not 0 < len(links) < 4:
            return self.laid_out(group)
        best: tuple[int, Frame] | None = None
        for sides in itertools.product((1, -1), repeat=len(links)):
            for link, side in zip(links, sides, strict=True):
                self.sides[link.source] = self.sides[link.target] = side
                self.leaning[self.alias[link.source]] = group, side
            made = self.laid_out(group)
            count = made.all_crossings()
            if best is None or count < best[0]:
                best = count, made
            if not count:
                break
        return best[1] if best else made

    def laid_out(self, group: Hashable) -> Frame:
        boxes = [key for key in self.sizes if self.home.get(key) == group]
        frames = [self.frame(key) for key, one in self.groups.items() if one.parent == group]
        if group is not None and self.groups[group].kind == "steps":
            made = self.strip(group, frames)
        else:
            made = self.layered(group, boxes, frames)
        return made if group is None else self.within_border(made)

    # a frame of layers

    def layered(self, group: Hashable, boxes: list[Hashable], frames: list[Frame]) -> Frame:
        sizes: dict[Hashable, Size] = {key: self.sizes[key] for key in boxes}
        beside = [key for key in boxes if key in self.sides]
        for key in beside:  # room for all that may stand at a side of the same layer
            count = sum(self.sides[other] == self.sides[key] for other in beside)
            sizes[key] = (sizes[key][0], SIDE * count)
        inner: dict[Hashable, Hashable] = {frame.key: ("frame", frame.key) for frame in frames}
        sizes.update({inner[frame.key]: (frame.width, frame.height) for frame in frames})
        sides = dict(self.sides)
        ends: dict[Hashable, str] = {}
        for u in self.ins.get(group, ()):
            ends["in", u] = "first"
            sides["in", u] = sides.get(u, 0)
        for u in self.outs.get(group, ()):
            ends["out", u] = "last"
            loop, side = self.leaning.get(u, (group, 0))
            sides["out", u] = side if loop in self.chain(group)[1:] else 0
        sizes.update(dict.fromkeys(ends, (8.0, 0.0)))
        sources: dict[Hashable, tuple[Hashable, float | None]] = {key: (key, None) for key in boxes}
        for frame in frames:
            for u, x in reversed(frame.outputs):
                sources[u] = inner[frame.key], x - frame.width / 2
        sources.update({u: (("in", u), None) for u in self.ins.get(group, ())})
        wanted: list[tuple[Hashable, Hashable, float | None, bool, str]] = [
            (e.source, e.target, None, e.target not in self.alias, e.label)
            for e in self.edges
            if self.home[e.target] == group
        ]
        for frame in frames:
            wanted += [(u, inner[frame.key], x - frame.width / 2, False, "")
                       for u, x in frame.inputs]  # fmt: skip
        wanted += [(u, ("out", u), None, False, "") for u in self.outs.get(group, ())]
        pairs: list[tuple[Hashable, Hashable]] = [
            (sources[u][0], target) for u, target, *_ in wanted
        ]
        ports: list[Ports] | None = [(sources[u][1], x) for u, _, x, *_ in wanted]
        plain = not self.groups  # one frame alone: lines are straight where boxes are aligned
        placed = layout(
            sizes,
            pairs,
            ports=None if plain else ports,
            ends=ends,
            sides=sides,
            spread=self.spread,
            gap=GAP,
            channel=30.0 if plain else CHANNEL,
        )
        made = Frame(
            group,
            placed.width,
            placed.height,
            crossings=placed.crossings,
            bands=placed.bands,
            layers=placed.layers,
        )
        made.boxes = {key: placed.positions[key] for key in boxes}
        made.frames = {frame.key: (frame, placed.positions[inner[frame.key]]) for frame in frames}
        at = self.beside(beside, made)
        for (u, target, _, head, label), (start, _), route in zip(wanted, pairs, placed.routes):
            points = list(route)
            if start in at:
                points[0] = (points[0][0], at[start] + self.sizes[start][1] / 2)
                if start in self.alias:  # no box stands there: the line goes on from its middle
                    points.insert(0, (points[0][0], at[start]))
            if target in at:
                points.append((points[-1][0], at[target]))
            made.lines.append(Line(self.alias.get(u, u), start, target, tuple(points), head, label))
        made.inputs = [(u, placed.positions["in", u][0]) for u in self.ins.get(group, ())]
        made.outputs = [(u, placed.positions["out", u][0]) for u in self.outs.get(group, ())]
        self.returns(group, made)
        return made

    def beside(self, keys: Iterable[Hashable], made: Frame) -> dict[Hashable, float]:
        """Heights of what stands at the sides, so that their lines to the border cross nothing."""
        rows: dict[tuple[int, int], list[Hashable]] = {}
        for key in keys:
            rows.setdefault((made.layers[key], self.sides[key]), []).append(key)
        heights = {}
        for (_, side), row in rows.items():
            inwards = sorted(row, key=lambda key: -side * made.boxes[key][0])
            left = [key for key in inwards if self.leaves(key)]
            order = [*left, *(key for key in reversed(inwards) if not self.leaves(key))]
            for i, key in enumerate(order):
                x, y = made.boxes[key]
                heights[key] = y + (i - (len(order) - 1) / 2) * SIDE
                made.boxes[key] = (x, heights[key])
        return heights

    def leaves(self, key: Hashable) -> bool:
        return isinstance(key, tuple) and key[0] == "exit"

    def returns(self, group: Hashable, made: Frame) -> None:
        """The lines of a loop's delays, around at its sides."""
        for side in (-1, 1):
            links = [link for link in self.links.get(group, []) if self.sides[link.target] == side]
            ends = [(made.boxes[link.source], made.boxes[link.target]) for link in links]
            border = made.width if side > 0 else 0.0
            ways = [_around(a, b, border, side) for a, b in ends]
            paths = _fewest_crossings(ways, [PAD / 2 + TRACK * i for i in range(len(links))])
            made.crossings += crossings(paths)
            made.lines += [
                Line(self.alias[link.source], link.source, link.target, path, True, "", True)
                for link, path in zip(links, paths, strict=True)
            ]
            room = TRACK * len(links)
            made.width += room
            if side < 0:
                _shift(made, room, 0.0)

    # a frame of steps side by side

    def strip(self, group: Hashable, frames: list[Frame]) -> Frame:
        links = self.links.get(group, [])
        columns = {frame.key: i for i, frame in enumerate(frames)}
        by_gap: dict[int, list[Edge]] = {}
        for link in links:
            by_gap.setdefault(columns[self.home[link.source]], []).append(link)
        made = Frame(group, height=max((frame.height for frame in frames), default=0.0))
        for frame in frames:
            frame.lines = [_longer(line, frame.height, made.height) for line in frame.lines]
            frame.height = made.height
        far = [x for x in links if columns[self.home[x.target]] > columns[self.home[x.source]] + 1]
        lane = {link: made.height + TRACK * (i + 1) for i, link in enumerate(far)}
        x = 0.0
        for i, frame in enumerate(frames):
            made.frames[frame.key] = frame, (x + frame.width / 2, frame.height / 2)
            x += frame.width + TRACK * (len(by_gap.get(i, ())) + 1)
        made.width = x - TRACK if frames else 0.0
        made.height += TRACK * len(far)
        for i, gap in sorted(by_gap.items()):
            frame, centre = made.frames[frames[i].key]
            tracks = [centre[0] + frame.width / 2 + TRACK * (n + 1) for n in range(len(gap))]
            ways = [self.way(link, made, lane.get(link)) for link in gap]
            for link, path in zip(gap, _fewest_crossings(ways, tracks), strict=True):
                made.lines.append(
                    Line(self.alias[link.source], link.source, link.target, path, square=True)
                )
        for frame, centre in made.frames.values():
            left = centre[0] - frame.width / 2
            made.inputs += [(u, left + x) for u, x in frame.inputs]
            made.outputs += [(u, left + x) for u, x in frame.outputs]
            for u, x in frame.outputs:
                ends = ((left + x, frame.height), (left + x, made.height))
                if far:
                    made.lines.append(Line(self.alias.get(u, u), frame.key, ("out", u), ends))
        made.bands, made.layers = [(0.0, made.height)], dict.fromkeys(made.frames, 0)
        made.crossings = crossings([line.points for line in made.lines])
        return made

    def way(self, link: Edge, made: Frame, lane: float | None) -> Way:
        (x0, y0), (x1, y1) = (self.inside(made, key) for key in (link.source, link.target))
        target = made.frames[self.home[link.target]]
        before = target[1][0] - target[0].width / 2 - TRACK / 2

        def path(track: float) -> tuple[Point, ...]:
            if lane is None:
                return (x0, y0), (track, y0), (track, y1), (x1, y1)
            return (x0, y0), (track, y0), (track, lane), (before, lane), (before, y1), (x1, y1)

        return path

    def inside(self, made: Frame, key: Hashable) -> Point:
        frame, centre = made.frames[self.home[key]]
        x, y = frame.boxes[key]
        return centre[0] - frame.width / 2 + x, centre[1] - frame.height / 2 + y

    # borders

    def within_border(self, made: Frame) -> Frame:
        """Room for border and title; lines from ports begin at the border."""
        top, bottom = (PAD, TITLE_BAR) if self.up else (TITLE_BAR, PAD)
        wide = max(made.width + 2 * PAD, self.titles[made.key] + 2 * PAD)
        _shift(made, (wide - made.width) / 2, top)
        made.width, made.height = wide, made.height + top + bottom
        made.lines = [self.to_border(line, made) for line in made.lines]
        if self.groups[made.key].kind == "steps":
            made.lines += [
                Line(self.alias.get(u, u), ("in", u), key, ((x, 0.0), (x, top)))
                for key, (frame, centre) in made.frames.items()
                for u, x in ((u, centre[0] - frame.width / 2 + x) for u, x in frame.inputs)
            ]
            ends = {line.end for line in made.lines}
            made.lines += [
                Line(self.alias.get(u, u), key, ("out", u),
                     ((x, made.height - bottom), (x, made.height)))
                for key, (frame, centre) in made.frames.items()
                for u, x in ((u, centre[0] - frame.width / 2 + x) for u, x in frame.outputs)
                if ("out", u) not in ends
            ]  # fmt: skip
        return made

    def to_border(self, line: Line, made: Frame) -> Line:
        points = line.points
        if isinstance(line.start, tuple) and line.start[0] == "in":
            points = ((points[0][0], 0.0), *points)
        if isinstance(line.end, tuple) and line.end[0] == "out":
            points = (*points, (points[-1][0], made.height))
        return replace(line, points=points)


def _longer(line: Line, before: float, height: float) -> Line:
    """A line that left its frame at the far border leaves the frame as it is now."""
    x, y = line.points[-1]
    return replace(line, points=(*line.points[:-1], (x, height))) if y == before else line


def _shift(made: Frame, dx: float, dy: float) -> None:
    def moved(point: Point) -> Point:
        return point[0] + dx, point[1] + dy

    made.boxes = {key: moved(point) for key, point in made.boxes.items()}
    made.frames = {key: (frame, moved(at)) for key, (frame, at) in made.frames.items()}
    made.lines = [replace(x, points=tuple(map(moved, x.points))) for x in made.lines]
    made.bands = [(top + dy, bottom + dy) for top, bottom in made.bands]
    made.inputs = [(u, x + dx) for u, x in made.inputs]
    made.outputs = [(u, x + dx) for u, x in made.outputs]


def _around(a: Point, b: Point, border: float, side: int) -> Way:
    """From a to the side of the square at b, by a track so far outside the border."""

    def path(track: float) -> tuple[Point, ...]:
        x = border + side * track
        return a, (x, a[1]), (x, b[1]), (b[0] + side * SQUARE / 2, b[1])

    return path


def _fewest_crossings(ways: Sequence[Way], tracks: Sequence[float]) -> list[tuple[Point, ...]]:
    """Each way on a track of its own; up to four are tried in all orders."""
    best: list[tuple[Point, ...]] = []
    fewest = -1
    orders = itertools.permutations(tracks) if len(tracks) < 5 else [tuple(tracks)]
    for order in orders:
        paths = [way(track) for way, track in zip(ways, order, strict=True)]
        count = crossings(paths)
        if fewest < 0 or count < fewest:
            best, fewest = paths, count
    return best


def crossings(paths: Sequence[Sequence[Point]]) -> int:
    """How often paths cross each other inside their pieces, by trying all pairs."""
    total = 0
    for one, other in itertools.combinations(paths, 2):
        for (a, b), (c, d) in itertools.product(itertools.pairwise(one), itertools.pairwise(other)):
            total += cross(a, b, c, d)
    return total

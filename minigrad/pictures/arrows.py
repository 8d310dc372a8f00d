"""Arrows between spots of a diagram: how they run, and where their labels stand.

Straight where nothing is in the way, else the least bend that meets no other spot and the fewest
other arrows; the same on every machine.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from minigrad.pictures.layout import Point, cross
from minigrad.pictures.svg import printable, text_width

COLUMN, ROW = 96.0, 76.0  # px between the centres of neighbours on the grid
RADIUS, SMALL = 23.0, 12.0  # px, of a variable and of an operator
SIZE, SCRIPT, WORDS = 15.0, 0.64, 12.0  # font sizes: px, part of it, px
HEAD, SQUARE = 7.5, 9.0
BENDS = [0.0, *(s * b for b in (0.12, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.3) for s in (1, -1))]
SIDES = (math.pi, 0.0, math.pi / 2, -math.pi / 2)  # where a loop at one spot may hang
STEPS = 20
# Where a label may stand: how far along, on which side, how far away; the best places first.
BESIDE = sorted(
    itertools.product((0.5, 0.4, 0.6, 0.3, 0.7, 0.2), (1, -1), (3.0, 6.0, 10.0, 16.0)),
    key=lambda place: place[2] / 10 + abs(place[0] - 0.5),
)
Frame = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spot:
    """What stands at x columns to the right and y rows up; a label reads base_sub^sup.

    kind: variable, gate, output, operator (circles), box, cells (boxes); elided: dashed.
    """

    x: float
    y: float
    label: str
    kind: str = "variable"
    elided: bool = False

    @property
    def centre(self) -> Point:
        return self.x * COLUMN, -self.y * ROW

    @property
    def square(self) -> bool:
        return self.kind in ("box", "cells")

    @property
    def size(self) -> float:
        """Of the label, in px: words are smaller than letters."""
        return SIZE if len(parts(self.label)[0]) == 1 else WORDS

    @cached_property
    def half(self) -> Point:
        """Half of the width and of the height."""
        if self.square:
            return max(RADIUS, label_width(self.label, self.size) / 2 + 9), 19.0
        return (SMALL, SMALL) if self.kind == "operator" else (RADIUS, RADIUS)

    def holds(self, p: Point, more: float = 0.0) -> bool:
        """Whether a point lies in the outline, grown by so much."""
        dx, dy = abs(p[0] - self.centre[0]), abs(p[1] - self.centre[1])
        if self.square:
            return dx < self.half[0] + more and dy < self.half[1] + more
        return math.hypot(dx, dy) < self.half[0] + more


@dataclass(frozen=True)
class Arrow:
    """From spot to spot; delay: a black square on it. kind: solid, dashed, backward.

    bend: how far it swings out to the left, in parts of its length, or the side (an angle) of a
    loop at one spot; None: chosen.
    """

    source: Hashable
    target: Hashable
    label: str = ""
    delay: int = 0
    kind: str = "solid"
    bend: float | None = None


def parts(label: str) -> tuple[str, str, str]:
    """base, subscript, superscript of a label base_sub^sup."""
    found = re.fullmatch(r"(.[^_^]*)(?:_([^^]+))?(?:\^(.+))?", printable(label), re.DOTALL)
    return (found[1], found[2] or "", found[3] or "") if found else (printable(label), "", "")


def label_width(label: str, size: float) -> float:
    """An upper bound for the width of a label in px."""
    base, low, high = parts(label)
    return text_width(base, size) + text_width(low + high, size * SCRIPT)


# --- ways -----------------------------------------------------------------------------------------


def _at(points: Sequence[Point], *where: float) -> Point:
    """The blossom of a Bézier curve: its point at t where all are t, else a control point."""
    for t in where:
        pairs = itertools.pairwise(points)
        points = [(a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])) for a, b in pairs]
    return points[0]


class Curve:
    """An arrow's way: control points cut at the outlines of its ends, and points on it."""

    def __init__(self, source: Spot, target: Spot, bend: float) -> None:
        (x0, y0), (x1, y1) = a, b = source.centre, target.centre
        if source is target:
            far = [bend + 0.62, bend - 0.62]
            out = 1.9 * (source.half[0] + source.half[1]) + 12
            middle = [(x0 + out * math.cos(s), y0 - out * math.sin(s)) for s in far]
        else:
            middle = [((x0 + x1) / 2 + bend * (y1 - y0), (y0 + y1) / 2 - bend * (x1 - x0))]
        whole = [a, *middle, b]
        n = len(whole) - 1

        def leaves(inner: float, outer: float, spot: Spot, more: float) -> float:
            """Where the way from `inner`, in the spot, to `outer` leaves its outline."""
            for _ in range(16):
                middle = (inner + outer) / 2
                within = spot.holds(_at(whole, *[middle] * n), more)
                inner, outer = (middle, outer) if within else (inner, middle)
            return outer

        start, last = leaves(0.0, 0.5, source, 0.5), leaves(1.0, 0.5, target, 0.5)
        self.tip, end = _at(whole, *[last] * n), last
        while end > start + 0.02 and math.dist(_at(whole, *[end] * n), self.tip) < HEAD - 1:
            end -= 1 / 256
        self.control = [_at(whole, *[start] * (n - i), *[end] * i) for i in range(n + 1)]
        self.points = [self.at(i / STEPS) for i in range(STEPS + 1)] + [self.tip]
        xs, ys = zip(*self.points)
        self.frame = min(xs), min(ys), max(xs), max(ys)

    def at(self, t: float) -> Point:
        return _at(self.control, *[t] * (len(self.control) - 1))

    def crosses(self, other: Curve) -> int:
        """How often two curves cross."""
        if not _meet(self.frame, other.frame):
            return 0
        pairs = itertools.product(*(itertools.pairwise(c.points) for c in (self, other)))
        return sum(cross(a, b, c, d) for (a, b), (c, d) in pairs)


def _meet(a: Frame, b: Frame) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def routes(spots: Mapping[Hashable, Spot], arrows: Sequence[Arrow]) -> list[Curve]:
    routed: dict[int, Curve] = {}
    # Arrows whose way is given first, then short ones: the others go around them.
    order = sorted(
        range(len(arrows)),
        key=lambda i: (
            arrows[i].bend is None,
            math.dist(spots[arrows[i].source].centre, spots[arrows[i].target].centre),
        ),
    )
    for i in order:
        arrow = arrows[i]
        a, b = spots[arrow.source], spots[arrow.target]
        beside = arrow.delay or arrow.kind == "backward"  # another arrow may go straight
        bends: Sequence[float] = SIDES if a is b else BENDS[5:] if beside else BENDS
        others = [s for s in spots.values() if s is not a and s is not b]
        best, least = None, math.inf
        for bend in bends if arrow.bend is None else [arrow.bend]:
            curve = Curve(a, b, bend)
            near = [s for s in others if _meet(curve.frame, frame_of(s.centre, *s.half, 3))]
            cost = 90.0 * sum(s.holds(p, 3) for s in near for p in curve.points)
            cost += 20 * sum(curve.crosses(other) for other in routed.values())
            for other in routed.values():  # two arrows on one line
                cost += 9 * (math.dist(curve.at(0.5), other.at(0.5)) < 8)
            if cost + (0 if a is b else abs(bend)) < least:
                best, least = curve, cost + (0 if a is b else abs(bend))
            if not cost:
                break
        routed[i] = best or Curve(a, b, 0.0)
    return [routed[i] for i in range(len(arrows))]


def label_places(
    spots: Mapping[Hashable, Spot], arrows: Sequence[Arrow], curves: Sequence[Curve]
) -> list[Frame | None]:
    """A frame for each arrow's label, beside the arrow and free of everything else if possible."""
    taken = [frame_of(s.centre, *s.half) for s in spots.values()]
    points = [p for c in curves for p in c.points]
    points += [c.at((i + 0.5) / STEPS) for c in curves for i in range(STEPS)]
    squares = [c.at(0.5) for c, a in zip(curves, arrows) if a.delay]
    taken += [frame_of(p, SQUARE, SQUARE) for p in squares]
    found: list[Frame | None] = []
    for arrow, curve in zip(arrows, curves):
        if not arrow.label:
            found.append(None)
            continue
        w, h = label_width(arrow.label, SIZE) / 2 + 1, SIZE / 2
        best, least = (0.0, 0.0, 0.0, 0.0), math.inf
        for t, side, far in BESIDE:
            (x, y), (x0, y0), (x1, y1) = curve.at(t), curve.at(t - 0.05), curve.at(t + 0.05)
            size = math.hypot(x1 - x0, y1 - y0) or 1.0
            nx, ny = side * (y1 - y0) / size, -side * (x1 - x0) / size
            reach = far + abs(nx) * w + abs(ny) * h
            frame = frame_of((x + nx * reach, y + ny * reach), w, h)
            cost = 50.0 * sum(_meet(frame, other) for other in taken)
            cost += 5 * sum(frame[0] < x < frame[2] and frame[1] < y < frame[3] for x, y in points)
            if cost < least:
                best, least = frame, cost
            if not cost:
                break
        taken.append(best)
        found.append(best)
    return found


def frame_of(centre: Point, w: float, h: float, more: float = 0.0) -> Frame:
    """The frame of this half width and height about a point, grown by so much."""
    w, h = w + more, h + more
    return centre[0] - w, centre[1] - h, centre[0] + w, centre[1] + h

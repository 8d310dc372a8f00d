"""Boxes and arrows as an SVG text that needs no network, script, style sheet or installed font.

Kinds of box differ in outline as well as in colour, so that a print in grey, and a reader who does
not see colours, lose nothing. The tints are those of M. Okabe and K. Ito.
"""

from __future__ import annotations

import itertools
import math
import os
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from minigrad.pictures.compound import PAD, SQUARE, Edge, Frame, Group, Line, arrange
from minigrad.pictures.layout import Point

FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
TITLE, TEXT, NOTE = 13.0, 11.0, 9.0  # font sizes in px
ADVANCE = 0.62  # em; the widest of the fonts above has 0.602
LEADING = 1.3
PADDING_X, PADDING_Y, MARGIN = 11.0, 7.0, 14.0
ARROW = 6.0
LONGEST = 48  # characters in a line of a box; the whole text is in the box's tooltip

# kind: (fill, outline, outline width, dashes, corner radius)
KINDS = {
    "parameter": ("#d6e8f7", "#0072b2", 2.0, "", 3.0),
    "constant": ("#ffffff", "#666666", 1.0, "5 3", 3.0),
    "op": ("#f6f4ee", "#3d3d3d", 1.0, "", 12.0),
    "output": ("#fdebc8", "#8a5a00", 2.6, "", 12.0),
    "input": ("#ffffff", "#0072b2", 2.0, "", 10.0),
    "module": ("#f1ecf7", "#6b4c93", 1.6, "", 6.0),
    "more": ("#ffffff", "#666666", 1.0, "1 3", 12.0),
    "delay": ("#111111", "#111111", 1.0, "", 0.0),
}
FRAMES = {
    "module": ("#f1ecf7", "#6b4c93", 1.0, "6 2", 6.0),
    "loop": ("#eaf4ee", "#007a55", 2.2, "", 8.0),
    "steps": ("#eaf4ee", "#007a55", 2.2, "", 8.0),
    "step": ("#ffffff", "#7a7a7a", 0.8, "2 2", 4.0),
}
LINES = '<g fill="none" stroke="#5a5a5a" stroke-width="1.3">'
Ids = Mapping[Hashable, str] | None
FLOW = {"down": (0.0, 1.0), "up": (0.0, -1.0), "right": (1.0, 0.0)}


@dataclass(frozen=True)
class Box:
    """Lines of text, the first one bold, in an outline by kind, within the frame of a group.

    tip: the tooltip. wire: what is written where its line begins. A box of kind "delay" is a black
    square, with its text beside it.
    """

    lines: tuple[str, ...]
    kind: str = "op"
    tip: str = ""
    group: Hashable = None
    wire: str = ""


class Drawing:
    """What can be looked at: `.svg` is its text; notebooks show it; `.save(path)` writes it."""

    formats: tuple[str, ...] = ("svg",)  # as what it can be saved: a property each

    @property
    def svg(self) -> str:
        raise NotImplementedError

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the drawing to `path`; the end of its name, such as .svg, says as what.

        Raises ValueError for an end that is none of `formats`.
        """
        target = Path(path)
        kind = target.suffix.lower()[1:]
        if kind not in self.formats:
            *others, last = (f".{name}" for name in self.formats)
            ends = " or ".join(filter(None, [", ".join(others), last]))
            raise ValueError(
                f"a picture is saved as {ends}; {target.name!r} ends in something else"
            )
        text: str = getattr(self, kind)
        target.write_text(text, encoding="utf-8", newline="\n")


class Picture(Drawing):
    """A drawing laid out by itself, of boxes and the lines between them.

    `.dot` is the same graph for Graphviz, `.html` a page of its own: to zoom and pan, to open and
    close groups, and to step backward where `steps` say (box, text) by text what happens.
    """

    formats = ("svg", "html", "dot")

    def __init__(
        self,
        boxes: Mapping[Hashable, Box],
        edges: Sequence[Edge],
        *,
        groups: Mapping[Hashable, Group] | None = None,
        title: str = "graph",
        direction: str = "down",
        steps: Sequence[tuple[Hashable, str]] = (),
    ) -> None:
        self.boxes, self.edges, self.groups = dict(boxes), list(edges), dict(groups or {})
        self.title, self.direction, self.steps = title, direction, list(steps)
        if direction not in ("down", "up", "right") or (direction == "right" and self.groups):
            more = "" if self.groups else ' or "right"'
            raise ValueError(f'direction is {direction!r}; write "down", "up"{more}')
        check_ends("box", self.boxes, ((e.source, e.target) for e in self.edges))
        self.sizes = _sizes(self.boxes, self.edges, direction)
        titles = {key: text_width(group.title, TEXT) for key, group in self.groups.items()}
        home = {key: box.group for key, box in self.boxes.items()}
        sizes = self.sizes
        if direction == "right":
            sizes = {key: (h, w) for key, (w, h) in sizes.items()}
        spread = _spread(self.edges) if direction != "right" else {}
        up = direction == "up"
        self.frame = arrange(sizes, home, self.edges, self.groups, titles, spread, up)

    @property
    def crossings(self) -> int:
        """How often lines of two values cross."""
        return self.frame.all_crossings()

    @property
    def svg(self) -> str:
        return document(self)

    @property
    def html(self) -> str:
        from minigrad.pictures.page import page

        return page(self)

    @property
    def dot(self) -> str:
        from minigrad.pictures.dot import text

        return text(self)

    def __repr__(self) -> str:
        counts = f"{len(self.boxes)} boxes, {len(self.edges)} edges"
        return f"<Picture: {counts}; .save('name.svg') writes it, a notebook shows it>"


def check_ends(
    noun: str, known: Mapping[Hashable, object], ends: Iterable[tuple[Hashable, Hashable]]
) -> None:
    """Raise ValueError unless both ends of each arrow are known."""
    for key in itertools.chain.from_iterable(ends):
        if key not in known:
            raise ValueError(
                f"an arrow names {key!r}, and there is no {noun} of that key; known are "
                f"{', '.join(map(repr, itertools.islice(known, 9))) or 'none'}"
            )


def printable(text: str) -> str:
    """`text` with every character that has no visible form of its own written as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def text_width(text: str, size: float) -> float:
    """An upper bound for the width of `text` in px, in any of the usual monospaced fonts."""
    cells = sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
    return cells * ADVANCE * size


def _shown(lines: Sequence[str]) -> list[tuple[str, float]]:
    """The lines as they are drawn, and their font sizes."""
    shown = []
    for i, line in enumerate(lines):
        line = printable(line)
        line = line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
        shown.append((line, TEXT if i else TITLE))
    return shown


def _sizes(
    boxes: Mapping[Hashable, Box], edges: Sequence[Edge], direction: str
) -> dict[Hashable, tuple[float, float]]:
    arriving = dict.fromkeys(boxes, 0)
    for edge in edges:
        if edge.target in arriving and edge.kind != "tag":
            arriving[edge.target] += 1
    sizes: dict[Hashable, tuple[float, float]] = {}
    spread = _spread(edges)
    for key, box in boxes.items():
        shown = _shown(box.lines)
        if box.kind == "delay":  # its text stands to either side
            beside = max((text_width(line, TEXT) for line, _ in shown), default=0)
            sizes[key] = (SQUARE + 2 * beside + 8, SQUARE)
            continue
        width = max((text_width(line, size) for line, size in shown), default=0) + 2 * PADDING_X
        height = sum(size * LEADING for _, size in shown) + 2 * PADDING_Y
        width = max(width, 2 * text_width(box.wire, NOTE) + 12)
        room = min(12.0 * (arriving[key] + 1), 420.0)  # for the arrow heads
        if direction == "right":
            height = max(height, room)
        elif key in spread:
            last = max(text_width(edge.label, NOTE) for edge in edges if edge.target == key)
            width = max(width, spread[key] * (arriving[key] - 1) + 2 * last + ARROW + 6)
        else:
            width = max(width, room)
        sizes[key] = (round(width, 1), round(height, 1))
    return sizes


def _spread(edges: Sequence[Edge]) -> dict[Hashable, float]:
    """How far apart several arrows arrive at a box, so that the labels beside them have room."""
    labels: dict[Hashable, list[str]] = {}
    for edge in edges:
        if edge.kind != "tag":
            labels.setdefault(edge.target, []).append(edge.label)
    return {
        key: max(18.0, max(text_width(label, NOTE) for label in found) + ARROW + 4)
        for key, found in labels.items()
        if any(found) and len(found) > 1
    }


def _n(value: float) -> str:
    """A coordinate with at most one decimal."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def document(picture: Picture, ids: Ids = None) -> str:
    """The picture as an SVG text, with ids only where a page asks for them."""
    root = picture.frame
    width, height = root.width, root.height
    if picture.direction == "right":
        width, height = height, width
    width, height = width + 2 * MARGIN, height + 2 * MARGIN
    size = f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" '
            f"aria-label={quoteattr(printable(picture.title))}>",
            f"<title>{escape(printable(picture.title))}</title>",
            f'<rect width="{_n(width)}" height="{_n(height)}" fill="#ffffff"/>',
            f'<g transform="translate({_n(MARGIN)} {_n(MARGIN)})" font-family="{FONT}">',
            *_inside(picture, root, ids),
            "</g>",
            "</svg>",
            "",
        ]
    )


def _inside(picture: Picture, frame: Frame, ids: Ids) -> list[str]:
    """Lines below boxes below frames; in a page all know whose they are, to move with it."""
    turned = picture.direction == "right"
    lines = [_turned(line) for line in frame.lines] if turned else frame.lines
    over = any(picture.groups[key].kind == "step" for key in frame.frames)  # lines over frames
    marks = [f' data-line="{i}"' if ids else "" for i in range(len(lines))]
    marked = list(zip(lines, marks, strict=True))
    strokes = [path(x, picture.direction, mark) for x, mark in marked if not (over and x.square)]
    parts = [LINES, *(strokes if ids else dict.fromkeys(strokes)), "</g>", '<g fill="#5a5a5a">']
    parts += [_head(line, picture.direction, mark) for line, mark in marked if line.head]
    parts += ["</g>", f'<g font-size="{_n(NOTE)}" fill="#444444" stroke="#ffffff" '
              'stroke-width="2.5" paint-order="stroke">']  # fmt: skip
    parts += [
        _label(line, picture.direction, mark.replace("line", "end"))
        for line, mark in marked
        if line.label
    ]
    first = {line.start: (line, mark) for line, mark in reversed(marked)}
    for key, (line, mark) in first.items():
        if key in picture.boxes and picture.boxes[key].wire:
            text = picture.boxes[key].wire
            parts.append(_wire(text, line, picture.direction, mark.replace("line", "start")))
    parts.append("</g>")
    for key, (x, y) in frame.boxes.items():
        if key in picture.boxes:
            at, inwards = (y, x) if turned else (x, y), 1 if x < frame.width / 2 else -1
            mark = f' id="{ids[key]}"' if ids else ""
            parts.append(_box(picture.boxes[key], at, picture.sizes[key], inwards, mark))
    for key, (inner, (x, y)) in frame.frames.items():
        at = (x - inner.width / 2, y - inner.height / 2)
        parts += _frame(picture, key, inner, at, ids)
    if over:
        parts += [LINES, *(path(x, picture.direction, m) for x, m in marked if x.square), "</g>"]
    return parts


def _turned(line: Line) -> Line:
    return replace(line, points=tuple((y, x) for x, y in line.points))


def _frame(picture: Picture, key: Hashable, frame: Frame, at: Point, ids: Ids) -> list[str]:
    group = picture.groups[key]
    fill, outline, weight, dashes, radius = FRAMES[group.kind]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    taken = [x for _, x in (frame.outputs if picture.direction == "up" else frame.inputs)]
    wide = text_width(group.title, TEXT)
    places = [PAD, frame.width - PAD - wide, *(x + 6 for x in sorted(taken))]
    free = [x for x in places if x + wide < frame.width
            and not any(x - 4 < port < x + wide + 4 for port in taken)]  # fmt: skip
    start = free[0] if free else PAD  # between the lines, where there is room
    mark = f' id="{ids["frame", key]}"' if ids else ""
    return [
        f'<g transform="translate({_n(at[0])} {_n(at[1])})"{mark}>',
        f'<rect width="{_n(frame.width)}" height="{_n(frame.height)}" rx="{_n(radius)}" '
        f'fill="{fill}" stroke="{outline}" stroke-width="{_n(weight)}"{dashed}/>',
        *_inside(picture, frame, ids),
        f'<text x="{_n(start)}" y="15" font-size="{_n(TEXT)}" fill="{outline}" stroke="{fill}" '
        f'stroke-width="3" paint-order="stroke">{escape(printable(group.title))}</text>',
        "</g>",
    ]


def _wire(text: str, line: Line, direction: str, mark: str) -> str:
    """What is written where the lines of a box begin, away from where the first one turns."""
    (x, y), *rest = line.points
    y += -4 if direction == "up" else NOTE + 1
    left = next((after > x for after, _ in rest if after != x), False)
    at = f'{_n(x - 4)}" text-anchor="end' if left else _n(x + 4)
    return f'<text x="{at}" y="{_n(y)}"{mark}>{escape(printable(text))}</text>'


def path(line: Line, direction: str, mark: str = "") -> str:
    """Straight lines inside the layers, S-curves between them.

    All curves between two layers go down by the same function, so two of them cross once if their
    ends change sides and never otherwise, exactly as the straight routes do.
    """
    points = list(line.points)
    if line.head:
        (x0, y0), (x, y) = points[-2:]
        along = (x - x0, 0.0) if line.square else FLOW[direction]
        dx, dy = (math.copysign(ARROW - 1, d) if d else 0.0 for d in along)
        points[-1] = (x - dx, y - dy)
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        end = f"{_n(x1)} {_n(y1)}"
        if line.square or x0 == x1 or y0 == y1:
            parts.append(f"L{end}")
        elif direction == "right":
            half = _n((x0 + x1) / 2)
            parts.append(f"C{half} {_n(y0)} {half} {_n(y1)} {end}")
        else:
            half = _n((y0 + y1) / 2)
            parts.append(f"C{_n(x0)} {half} {_n(x1)} {half} {end}")
    return f'<path d="{"".join(parts)}"{mark}/>'


def _head(line: Line, direction: str, mark: str) -> str:
    (x0, _), (x, y) = line.points[-2:]
    dx, dy = (math.copysign(1.0, x - x0), 0.0) if line.square else FLOW[direction]
    back = (x - ARROW * dx, y - ARROW * dy)
    corners = [(x, y)] + [
        (back[0] + side * dy * ARROW / 2, back[1] + side * dx * ARROW / 2) for side in (-1, 1)
    ]
    return f'<path d="M{"L".join(f"{_n(a)} {_n(b)}" for a, b in corners)}z"{mark}/>'


def _label(line: Line, direction: str, mark: str) -> str:
    x, y = line.points[-1]
    if direction == "right":
        x, y = x - ARROW - 9, y - 3
    else:
        x, y = x + ARROW / 2 + 1, y + (NOTE if direction == "up" else -3)
    return f'<text x="{_n(x)}" y="{_n(y)}"{mark}>{escape(printable(line.label))}</text>'


def _square(box: Box, centre: Point, inwards: int) -> list[str]:
    (x, y), half = centre, SQUARE / 2
    text = escape(printable(box.lines[0])) if box.lines else ""
    return [
        f'<rect x="{_n(x - half)}" y="{_n(y - half)}" width="{_n(SQUARE)}" '
        f'height="{_n(SQUARE)}" fill="#111111"/>',
        f'<text x="{_n(x + inwards * (half + 4))}" y="{_n(y + 4)}" font-size="{_n(TEXT)}" '
        f'text-anchor="{"start" if inwards > 0 else "end"}" '
        f'fill="#111111" stroke="#ffffff" stroke-width="2.5" paint-order="stroke">{text}</text>',
    ]


def _box(box: Box, centre: Point, size: tuple[float, float], inwards: int, mark: str) -> str:
    fill, outline, weight, dashes, radius = KINDS[box.kind]
    (x, y), (width, height) = centre, size
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    shown = _shown(box.lines)
    baseline = y - sum(s * LEADING for _, s in shown) / 2
    title = f"<title>{escape(printable(box.tip or ' · '.join(box.lines)))}</title>"
    if box.kind == "delay":
        return "\n".join([f"<g{mark}>", title, *_square(box, centre, inwards), "</g>"])
    parts = [
        f"<g{mark}>",
        title,
        f'<rect x="{_n(x - width / 2)}" y="{_n(y - height / 2)}" width="{_n(width)}" '
        f'height="{_n(height)}" rx="{_n(radius)}" fill="{fill}" stroke="{outline}" '
        f'stroke-width="{_n(weight)}"{dashed}/>',
    ]
    for i, (line, font) in enumerate(shown):
        style = 'font-weight="bold" fill="#111111"' if i == 0 else 'fill="#333333"'
        parts.append(
            f'<text x="{_n(x)}" y="{_n(baseline + font)}" font-size="{_n(font)}" '
            f'text-anchor="middle" {style}>{escape(line)}</text>'
        )
        baseline += font * LEADING
    return "\n".join([*parts, "</g>"])

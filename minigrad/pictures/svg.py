"""Boxes and arrows as an SVG text that needs no network, script, style sheet or installed font.

Kinds of box differ in outline as well as in colour, so that a print in grey, and a reader who does
not see colours, lose nothing. The tints are those of M. Okabe and K. Ito.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from minigrad.pictures.layout import Layout, Point, layout

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
    "more": ("#ffffff", "#666666", 1.0, "1 3", 12.0),
}


@dataclass(frozen=True)
class Box:
    """Lines of text, the first one bold, in an outline by kind; `tip` is the tooltip."""

    lines: tuple[str, ...]
    kind: str = "op"
    tip: str = ""


@dataclass(frozen=True)
class Edge:
    """An arrow between two boxes, with a short label beside its head."""

    source: Hashable
    target: Hashable
    label: str = ""


class Picture:
    """A laid-out drawing: `.svg` is its text; notebooks show it; `.save(path)` writes it."""

    def __init__(
        self,
        boxes: Mapping[Hashable, Box],
        edges: Sequence[Edge],
        *,
        title: str = "graph",
        direction: str = "down",
    ) -> None:
        self.boxes = dict(boxes)
        self.edges = list(edges)
        self.sizes = _sizes(self.boxes, self.edges, direction)
        pairs = [(edge.source, edge.target) for edge in self.edges]
        self.layout: Layout[Hashable] = layout(self.sizes, pairs, direction=direction)
        self.svg = _document(self, title)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        counts = f"{len(self.boxes)} boxes, {len(self.edges)} edges"
        return f"<Picture: {counts}; .save('name.svg') writes it, a notebook shows it>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to `path`, whose name must end in .svg (ValueError otherwise)."""
        target = Path(path)
        if target.suffix.lower() != ".svg":
            raise ValueError(f"a picture is saved as .svg; {target.name!r} ends in something else")
        target.write_text(self.svg, encoding="utf-8", newline="\n")


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
        if edge.target in arriving:
            arriving[edge.target] += 1
    sizes: dict[Hashable, tuple[float, float]] = {}
    for key, box in boxes.items():
        shown = _shown(box.lines)
        width = max((text_width(line, size) for line, size in shown), default=0) + 2 * PADDING_X
        height = sum(size * LEADING for _, size in shown) + 2 * PADDING_Y
        room = min(12.0 * (arriving[key] + 1), 420.0)  # for the arrow heads
        if direction == "right":
            height = max(height, room)
        else:
            width = max(width, room)
        sizes[key] = (round(width, 1), round(height, 1))
    return sizes


def _n(value: float) -> str:
    """A coordinate with at most one decimal."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _document(picture: Picture, title: str) -> str:
    placed = picture.layout
    width, height = placed.width + 2 * MARGIN, placed.height + 2 * MARGIN
    size = f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}"'
    name = escape(printable(title))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" '
            f"aria-label={quoteattr(printable(title))}>",
            f"<title>{name}</title>",
            f'<rect width="{_n(width)}" height="{_n(height)}" fill="#ffffff"/>',
            f'<g transform="translate({_n(MARGIN)} {_n(MARGIN)})" font-family="{FONT}">',
            '<g fill="none" stroke="#5a5a5a" stroke-width="1.3">',
            *dict.fromkeys(_curve(route, placed.direction) for route in placed.routes),
            "</g>",
            '<g fill="#5a5a5a">',
            *(_head(route, placed.direction) for route in placed.routes),
            "</g>",
            f'<g font-size="{_n(NOTE)}" fill="#444444" stroke="#ffffff" stroke-width="2.5" '
            'paint-order="stroke">',
            *(
                _label(route, edge.label, placed.direction)
                for route, edge in zip(placed.routes, picture.edges)
                if edge.label
            ),
            "</g>",
            *(
                _box(box, placed.positions[key], picture.sizes[key])
                for key, box in picture.boxes.items()
            ),
            "</g>",
            "</svg>",
            "",
        ]
    )


def _curve(route: Sequence[Point], direction: str) -> str:
    """Straight lines inside the layers, S-curves between them.

    All curves between two layers go down by the same function, so two of them cross once if their
    ends change sides and never otherwise, exactly as the straight routes do.
    """
    turned = direction == "right"
    x, y = route[-1]
    points = [*route[:-1], (x - ARROW + 1, y) if turned else (x, y - ARROW + 1)]
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        end = f"{_n(x1)} {_n(y1)}"
        if turned and y0 != y1:
            half = _n((x0 + x1) / 2)
            parts.append(f"C{half} {_n(y0)} {half} {_n(y1)} {end}")
        elif not turned and x0 != x1:
            half = _n((y0 + y1) / 2)
            parts.append(f"C{_n(x0)} {half} {_n(x1)} {half} {end}")
        else:
            parts.append(f"L{end}")
    return f'<path d="{"".join(parts)}"/>'


def _head(route: Sequence[Point], direction: str) -> str:
    x, y = route[-1]
    if direction == "right":
        corners = [(x, y), (x - ARROW, y - ARROW / 2), (x - ARROW, y + ARROW / 2)]
    else:
        corners = [(x, y), (x - ARROW / 2, y - ARROW), (x + ARROW / 2, y - ARROW)]
    return f'<path d="M{"L".join(f"{_n(a)} {_n(b)}" for a, b in corners)}z"/>'


def _label(route: Sequence[Point], label: str, direction: str) -> str:
    x, y = route[-1]
    x, y = (x - ARROW - 9, y - 3) if direction == "right" else (x + ARROW / 2 + 1, y - 3)
    return f'<text x="{_n(x)}" y="{_n(y)}">{escape(printable(label))}</text>'


def _box(box: Box, centre: Point, size: tuple[float, float]) -> str:
    fill, outline, weight, dashes, radius = KINDS[box.kind]
    (x, y), (width, height) = centre, size
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    shown = _shown(box.lines)
    baseline = y - sum(s * LEADING for _, s in shown) / 2
    parts = [
        "<g>",
        f"<title>{escape(printable(box.tip or ' · '.join(box.lines)))}</title>",
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

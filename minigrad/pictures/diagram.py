"""Diagrams as textbooks have them: circles on a grid, labelled arrows, black squares for delays."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from minigrad.pictures.arrows import (
    HEAD,
    SCRIPT,
    SIZE,
    SQUARE,
    WORDS,
    Arrow,
    Curve,
    Frame,
    Spot,
    frame_of,
    label_places,
    parts,
    routes,
)
from minigrad.pictures.layout import Point
from minigrad.pictures.svg import MARGIN, Drawing, check_ends, printable, text_width

SERIF = "'STIX Two Text', 'Latin Modern Roman', 'Times New Roman', 'DejaVu Serif', serif"
GAP, LINE, NARROWEST = 44.0, 17.0, 420.0  # px between panels, of a line of text, of a caption

KINDS = {  # of a spot: fill, outline
    "variable": ("#ffffff", "#222222"),
    "gate": ("#d6e8f7", "#0072b2"),
    "operator": ("#fdebc8", "#8a5a00"),
    "box": ("#f6f4ee", "#3d3d3d"),
    "output": ("#fdebc8", "#8a5a00"),
    "cells": ("#fdebc8", "#8a5a00"),
}
HALO = ' stroke="#ffffff" stroke-width="3" paint-order="stroke"'
STROKES = {  # of an arrow: colour, dashes
    "solid": ("#222222", ""),
    "dashed": ("#666666", "4 3"),
    "backward": ("#d55e00", "7 3"),
}


@dataclass
class Panel:
    """One drawing of a diagram: spots, arrows between them, a title below."""

    spots: Mapping[Hashable, Spot]
    arrows: Sequence[Arrow]
    title: str = ""


class Diagram(Drawing):
    """Panels side by side, or one below the other; joint: a word on an arrow between them.

    `.svg`, notebooks and `.save(path)` as of every Drawing. In the SVG a panel is a group with
    data-panel, a spot one with data-spot, an arrow one with data-source, data-target, data-label
    and data-delay. Raises ValueError where there is nothing to draw or an arrow names no spot.
    """

    def __init__(
        self,
        panels: Sequence[Panel],
        *,
        title: str,
        caption: str = "",
        joint: str = "",
        stacked: bool = False,
    ) -> None:
        self.panels, self.title, self.caption = list(panels), title, caption
        self.joint, self.stacked = joint, stacked
        if not self.panels or not all(panel.spots for panel in self.panels):
            raise ValueError("there is nothing to draw; a diagram has panels, and a panel spots")
        for panel in self.panels:
            check_ends("spot", panel.spots, ((a.source, a.target) for a in panel.arrows))

    @functools.cached_property
    def svg(self) -> str:
        return _document(self)

    def __repr__(self) -> str:
        spots, arrows = (sum(len(getattr(p, s)) for p in self.panels) for s in ("spots", "arrows"))
        return (
            f"<Diagram {self.title}: {spots} spots, {arrows} arrows; .save('name.svg') writes it>"
        )


def _document(diagram: Diagram) -> str:
    drawn = [_panel(panel) for panel in diagram.panels]
    joint = text_width(diagram.joint, WORDS) + 24 if diagram.joint else 0.0
    body: list[str] = []
    across, down = [f[2] - f[0] for f, _ in drawn], [f[3] - f[1] for f, _ in drawn]
    ends = (GAP + joint) * (len(drawn) - 1)
    width, height = max(across), sum(down) + ends
    if not diagram.stacked:
        width, height = sum(across) + ends, max(down)
    whole = max(width, NARROWEST if diagram.caption else 0.0)
    x, y = (whole - width) / 2, 0.0
    for i, ((left, top, _, _), lines) in enumerate(drawn):
        if i and joint:
            body += _joint(diagram.joint, x - (GAP + joint) / 2, height / 2, joint)
        dx, dy = x, (height - down[i]) / (2 if joint else 1)
        if diagram.stacked:
            dx, dy = (whole - across[i]) / 2, y
        place = f'transform="translate({_n(dx - left)} {_n(dy - top)})"'
        body += [f"<g data-panel={_quoted(diagram.panels[i].title)} {place}>", *lines, "</g>"]
        x, y = x + across[i] + GAP + joint, y + down[i] + GAP
    lines = textwrap.wrap(printable(diagram.caption), int(whole / (WORDS * 0.56)))
    for n, line in enumerate(lines):
        y = height + 16 + LINE * (n + 0.5)
        body.append(
            f'<text x="0" y="{_n(y)}" font-size="{WORDS}" fill="#333333">{escape(line)}</text>'
        )
    height += 16 + LINE * len(lines) if lines else 0
    w, h = _n(whole + 2 * MARGIN), _n(height + 2 * MARGIN)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" '
            f'viewBox="0 0 {w} {h}" role="img" aria-label={_quoted(diagram.title)}>',
            f"<title>{escape(printable(diagram.title))}</title>",
            f'<rect width="{w}" height="{h}" fill="#ffffff"/>',
            f'<g transform="translate({_n(MARGIN)} {_n(MARGIN)})" font-family="{SERIF}">',
            *body,
            "</g>",
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel) -> tuple[Frame, list[str]]:
    curves = routes(panel.spots, panel.arrows)
    labels = label_places(panel.spots, panel.arrows, curves)
    frames = [c.frame for c in curves] + [f for f in labels if f]
    frames += [frame_of(s.centre, s.half[0] + 1, s.half[1] + 1) for s in panel.spots.values()]
    left, top, right, bottom = (f(side) for f, side in zip((min, min, max, max), zip(*frames)))
    lines = []
    for arrow, curve, label in zip(panel.arrows, curves, labels):
        lines += _arrow(arrow, curve, label)
    for key, spot in panel.spots.items():
        lines += _spot(key, spot)
    if panel.title:
        half, middle = text_width(panel.title, WORDS) / 2, (left + right) / 2
        left, right, bottom = min(left, middle - half), max(right, middle + half), bottom + 26
        lines.append(_text(panel.title, (middle, bottom - 7), WORDS))
    return (left, top, right, bottom), lines


def _arrow(arrow: Arrow, curve: Curve, label: Frame | None) -> list[str]:
    colour, dashes = STROKES[arrow.kind]
    first, *rest = curve.control
    kind = {1: "L", 2: "Q", 3: "C"}[len(rest)]
    way = f"M{_n(first[0])} {_n(first[1])}{kind}" + " ".join(f"{_n(x)} {_n(y)}" for x, y in rest)
    (x0, y0), (x1, y1) = curve.control[-1], curve.tip
    share = HEAD * 0.42 / (math.dist((x0, y0), (x1, y1)) or 1.0)
    nx, ny = (y1 - y0) * share, (x0 - x1) * share
    corners = [(x1, y1), (x0 + nx, y0 + ny), (x0 - nx, y0 - ny)]
    data = f"data-source={_quoted(arrow.source)} data-target={_quoted(arrow.target)}"
    data += f' data-label={_quoted(arrow.label)} data-delay="{arrow.delay}"'
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    lines = [
        f'<g {data} data-kind="{arrow.kind}">',
        f'<path d="{way}" fill="none" stroke="{colour}" stroke-width="1.4"{dashed}/>',
        f'<path d="M{"L".join(f"{_n(x)} {_n(y)}" for x, y in corners)}z" fill="{colour}"/>',
    ]
    if arrow.delay:
        x, y = (v - SQUARE / 2 for v in curve.at(0.5))
        lines.append(f'<rect x="{_n(x)}" y="{_n(y)}" width="{SQUARE}" height="{SQUARE}"/>')
    if label:
        middle = ((label[0] + label[2]) / 2, (label[1] + label[3]) / 2)
        lines.append(_text(arrow.label, middle, SIZE, HALO))
    return [*lines, "</g>"]


def _spot(key: Hashable, spot: Spot) -> list[str]:
    fill, outline = KINDS[spot.kind]
    (x, y), (w, h) = spot.centre, spot.half
    look = f'fill="{fill}" stroke="{outline}" stroke-width="1.5"'
    if spot.elided:
        look = 'fill="#ffffff" stroke="#666666" stroke-width="1.2" stroke-dasharray="3 3"'
    lines = [f"<g data-spot={_quoted(key)}>"]
    if spot.square:
        box = f'x="{_n(x - w)}" y="{_n(y - h)}" width="{_n(2 * w)}" height="{_n(2 * h)}"'
        lines.append(f'<rect {box} rx="{0 if spot.kind == "cells" else 4}" {look}/>')
    else:
        lines.append(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(w)}" {look}/>')
    return [*lines, _text(spot.label, (x, y), spot.size), "</g>"]


def _text(label: str, centre: Point, size: float, edge: str = "") -> str:
    base, low, high = parts(label)
    slanted = ' font-style="italic"' if len(base) == 1 and base.isalpha() else ""
    spans = [f"<tspan{slanted}>{escape(base)}</tspan>"]
    for script, up in ((low, size / 4), (high, -size * (0.61 if low else 0.36))):
        if script:
            small = f'dy="{_n(up)}" font-size="{_n(size * SCRIPT)}"'
            spans.append(f"<tspan {small}>{escape(script)}</tspan>")
    place = f'x="{_n(centre[0])}" y="{_n(centre[1] + size * 0.34)}" font-size="{_n(size)}"'
    return f'<text {place} text-anchor="middle" fill="#111111"{edge}>{"".join(spans)}</text>'


def _joint(word: str, x: float, y: float, length: float) -> list[str]:
    """A broad grey arrow with a word above it."""
    a, b, c = (_n(x + part * length / 2) for part in (-1, 0.75, 1))
    return [
        _text(word, (x, y - 14), WORDS),
        f'<path d="M{a} {_n(y)}L{b} {_n(y)}" stroke="#999999" stroke-width="5"/>',
        f'<path d="M{c} {_n(y)}L{b} {_n(y - 7)}L{b} {_n(y + 7)}z" fill="#999999"/>',
    ]


def _quoted(value: Hashable) -> str:
    return quoteattr(printable(str(value)))


def _n(value: float) -> str:
    """A coordinate with at most two decimals."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text

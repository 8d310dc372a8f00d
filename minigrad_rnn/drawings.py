"""Pictures of results as SVG, without a plotting library: weights of an alignment, pen strokes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from minigrad.pictures import Drawing, printable

CELL, MARGIN, HEIGHT, WIDEST = 24, 110, 80, 4000  # pixels
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" font-size="12">'
WORD = '<text x="{:.0f}" y="{:.0f}"{}>{}</text>'


class _Lines(Drawing):
    """A drawing made of lines of SVG."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = (*lines, "</svg>", "")

    @property
    def svg(self) -> str:
        return "\n".join(self.lines)


def _word(x: float, y: float, how: str, text: str) -> str:
    return WORD.format(x, y, how, escape(printable(text)))


def alignment(weights: Any, written: Sequence[str], read: Sequence[str]) -> Drawing:
    """Weights (Ty, Tx) in [0, 1] as squares, black for 1: a row for each written symbol.

    Raises ValueError unless there is one written symbol a row and one read symbol a column.
    """
    weights = np.asarray(weights)
    if weights.shape != (len(written), len(read)):
        raise ValueError(
            f"alignment: {len(written)} written and {len(read)} read symbols need weights of shape "
            f"{(len(written), len(read))}, not {weights.shape}"
        )
    lines = [HEAD.format(MARGIN + CELL * len(read) + 60, MARGIN + CELL * len(written) + 10)]
    for column, word in enumerate(read):
        x, y = MARGIN + CELL * (column + 0.5), MARGIN - 6
        lines.append(_word(x, y, f' transform="rotate(-60 {x} {y})"', word))
    for row, word in enumerate(written):
        y = MARGIN + CELL * row
        lines.append(_word(MARGIN - 6, y + 16, ' text-anchor="end"', word))
        for column, weight in enumerate(weights[row]):
            shade = round(255 * (1 - float(weight)))
            lines.append(
                f'<rect x="{MARGIN + CELL * column}" y="{y}" width="{CELL}" height="{CELL}" '
                f'fill="rgb({shade},{shade},{shade})" stroke="silver"/>'
            )
    return _Lines(lines)


def strokes(points: Any) -> Drawing:
    """Pen movements (T, 3) as lines: dx, dy, and 1 at the last point of a stroke; y points up."""
    points = np.asarray(points, dtype="float64")
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"strokes: points are (T, 3), T at least 1, not {points.shape}")
    places = np.cumsum(points[:, :2], axis=0) * (1, -1)
    low, high = places.min(axis=0), places.max(axis=0)
    wide, tall = np.maximum(high - low, 1e-9)
    scale = min(HEIGHT / tall, WIDEST / wide) if len(points) > 1 else 1.0
    width = scale * (high[0] - low[0])
    lines = [HEAD.format(round(width) + 20, HEIGHT + 20)]
    for stroke in np.split((places - low) * scale + 10, np.flatnonzero(points[:-1, 2] > 0.5) + 1):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in stroke)
        lines.append(f'<polyline points="{path}" fill="none" stroke="black" stroke-width="2"/>')
    return _Lines(lines)

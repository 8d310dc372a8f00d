"""A picture as one HTML page that needs nothing else: no network, no fonts, no eval."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Hashable
from importlib import resources
from typing import Any
from xml.sax.saxutils import escape

from minigrad.pictures.compound import Frame, Line
from minigrad.pictures.svg import Picture, document, printable


def page(picture: Picture) -> str:
    """The page: the SVG of the picture, and what page.js needs to fold its frames and to step.

    Its content policy allows the one script, by its hash, and nothing from anywhere.
    """
    numbers: dict[Hashable, str] = {key: f"b{i}" for i, key in enumerate(picture.boxes)}
    numbers.update({("frame", key): f"g{i}" for i, key in enumerate(picture.groups)})
    data = {
        "direction": picture.direction,
        "frame": _frame(picture, picture.frame, numbers),
        "tips": {numbers[key]: printable(box.tip or " · ".join(box.lines))
                 for key, box in picture.boxes.items()},
        "steps": [[numbers.get(key), printable(text)] for key, text in picture.steps],
        "tags": [[numbers[e.source], numbers[e.target]] for e in picture.edges if e.kind == "tag"],
    }  # fmt: skip
    folder = resources.files("minigrad.pictures")
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "TITLE": escape(printable(picture.title)),
        "POLICY": f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        "SVG": document(picture, numbers),
        "DATA": shown,
        "SCRIPT": script,
    }
    pieces = (folder / "page.html").read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _frame(picture: Picture, frame: Frame, numbers: dict[Hashable, str]) -> dict[str, Any]:
    """Where everything in a frame stands, for it to move when a frame within is closed."""

    def end(key: Hashable) -> str | None:
        return numbers.get(key) or numbers.get(("frame", key))

    def line(x: Line) -> list[Any]:
        points = [[round(a, 1), round(b, 1)] for a, b in x.points]
        return [end(x.source), end(x.start), end(x.end), points, int(x.head), int(x.square)]

    bands = sorted([round(a, 1), round(b, 1)] for a, b in frame.bands)

    def placed(at: tuple[float, float], size: tuple[float, float]) -> list[Any]:
        layer = next((i for i, (a, b) in enumerate(bands) if a - 1 <= at[1] <= b + 1), 0)
        return [*(round(x, 1) for x in (*at, *size)), layer]

    return {
        "size": [round(frame.width, 1), round(frame.height, 1)],
        "bands": bands,
        "boxes": {numbers[key]: placed(at, picture.sizes[key])
                  for key, at in frame.boxes.items() if key in numbers},
        "frames": {numbers["frame", key]: [placed(at, (one.width, one.height)),
                                           _frame(picture, one, numbers),
                                           picture.groups[key].kind]
                   for key, (one, at) in frame.frames.items()},
        "lines": [line(x) for x in frame.lines],
    }  # fmt: skip

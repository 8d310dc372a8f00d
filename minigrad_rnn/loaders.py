"""Readers of the files that users have: labelled and parallel text, pen strokes, sound.

All raise DataError, a TextError of one line that names the file, the line and what to do, for
files that are missing, of another format or larger than 256 MiB. Text is UTF-8, and a blank line
counts for nothing.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from minigrad_rnn.text import TextError, read_text

LARGEST = 256 * 2**20  # bytes


class DataError(TextError):
    """A file that cannot be used; the message says where, why and what to do, in one line."""


@dataclass(frozen=True)
class Labelled:
    """N texts; labels (N,) int64 are places among `names`, the distinct labels in order."""

    texts: tuple[str, ...]
    labels: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Handwriting:
    """points (N, 3) float32: dx, dy, and 1 where the pen is lifted after the point, else 0."""

    points: np.ndarray
    text: str = ""


def labelled(path: str | Path, text: int | str = 0, label: int | str = 1) -> Labelled:
    """Texts with labels from a table whose columns are separated by tabs, one row a line.

    text, label: which columns, from 0; by name if the first line has the columns' names.
    """
    rows = list(_rows(path))
    if isinstance(text, str) or isinstance(label, str):
        number, names = rows[0][0], [name.strip() for name in rows.pop(0)[1]]
        for name in (text, label):
            if isinstance(name, str) and name not in names:
                raise DataError(
                    f"{path}, line {number}: no column {name!r}, but {', '.join(names)}"
                )
        text, label = (names.index(x) if isinstance(x, str) else x for x in (text, label))
    pairs = [_cells(path, number, cells, (text, label)) for number, cells in rows]
    if not pairs:
        raise DataError(f"{path} has no row below the columns' names: give at least one")
    texts, labels = zip(*pairs, strict=True)
    distinct, places = np.unique(np.array(labels, dtype=object), return_inverse=True)
    return Labelled(texts, places.astype(np.int64), tuple(distinct))


def parallel(
    source: str | Path, target: str | Path | None = None, columns: tuple[int, int] = (0, 1)
) -> list[tuple[str, str]]:
    """Pairs (source, target) of texts: line by line of two files, or two columns of one table.

    A pair of blank lines is left out; a line that is blank in one file alone is an error.
    """
    if target is None:
        return [_cells(source, number, cells, columns) for number, cells in _rows(source)]
    sides = [_text(path).rstrip("\n").split("\n") for path in (source, target)]
    if len(sides[0]) != len(sides[1]):
        lengths = f"{source} has {len(sides[0])} lines and {target} {len(sides[1])}"
        raise DataError(f"{lengths}: line n of one is the translation of line n of the other")
    pairs = []
    for number, pair in enumerate(zip(*sides, strict=True), 1):
        for path, line, other in zip((source, target), pair, reversed(pair), strict=True):
            if other.strip() and not line.strip():
                raise DataError(f"{path}, line {number} is blank, and its partner is not")
        if pair[0].strip():
            pairs.append(pair)
    return pairs


def strokes(path: str | Path) -> list[Handwriting]:
    """Pen strokes, one drawing a line in JSON, or the traces of one InkML file.

    JSON: {"strokes": [[dx, dy, pen], ...], "text": "optional"}, pen 1 where it is lifted after the
    point. InkML: <trace>x y, x y, ...</trace>, the positions; an <annotation> is the text. A
    document type, which could define entities, is refused.
    """
    text = _text(path)
    if text.lstrip().startswith("<"):
        return [_inkml(path, text)]
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        try:
            item = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is no JSON: {error}") from None
        if item is not None:
            if not isinstance(item, dict) or not isinstance(item.get("text", ""), str):
                raise DataError(f'{where}: give {{"strokes": [[dx, dy, pen], ...], "text": "..."}}')
            points = _points(where, item.get("strokes"), 3, int, float)
            if not np.isin(points[:, 2], (0, 1)).all():
                raise DataError(f"{where}: pen is 1 where it is lifted after the point, else 0")
            found.append(Handwriting(points, item.get("text", "")))
    return found


def sound(path: str | Path) -> tuple[np.ndarray, int]:
    """Samples (N,) float32 in [-1, 1] and their number a second, of a WAV file with PCM samples.

    8, 16, 24 or 32 bits; channels are mixed, each with the same weight.
    """
    try:
        with wave.open(io.BytesIO(_checked(path).read_bytes())) as file:
            channels, width, rate, frames, *_ = file.getparams()
            data = file.readframes(frames)
    except (wave.Error, EOFError, RuntimeError, OSError) as error:
        why = str(error) or "it ends too early"
        raise DataError(f"{path} is no WAV file with PCM samples ({why}): convert it") from None
    if width > 4 or rate < 1 or len(data) != frames * channels * width or not data:
        raise DataError(
            f"{path}: {len(data)} bytes of sound, but {frames} frames of {channels} x {8 * width} "
            f"bits at {rate} Hz are declared: give 8 to 32 bits, and as many samples as declared"
        )
    if width == 1:
        values = np.frombuffer(data, "u1") / 128 - 1  # the only width without a sign
    else:  # each sample as the upper bytes of four
        wide = np.pad(np.frombuffer(data, "u1").reshape(-1, width), ((0, 0), (4 - width, 0)))
        values = wide.view("<i4")[:, 0] / 2**31
    return values.reshape(-1, channels).mean(axis=1).astype(np.float32), rate


def _checked(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise DataError(f"{path} is no file: check the path")
    if (size := Path(path).stat().st_size) > LARGEST:
        raise DataError(f"{path} has {size} bytes: cut it into files of at most {LARGEST}")
    return Path(path)


def _text(path: str | Path) -> str:
    try:
        return read_text(_checked(path), minimum=1)
    except TextError as error:
        raise DataError(str(error)) from None


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    lines = enumerate(_text(path).split("\n"), 1)
    return ((number, line.split("\t")) for number, line in lines if line.strip())


def _cells(path: str | Path, number: int, cells: list[str], columns: Any) -> tuple[str, str]:
    if max(columns) >= len(cells) or min(columns) < 0:
        wanted = " and ".join(map(str, columns))
        raise DataError(
            f"{path}, line {number} has {len(cells)} columns, not the columns {wanted}, counted "
            f"from 0: separate columns by tabs"
        )
    first, second = (cells[column].strip() for column in columns)
    if not first or not second:
        raise DataError(f"{path}, line {number} has an empty cell: fill it, or remove the line")
    return first, second


def _points(where: str, rows: Any, width: int, *kinds: type) -> np.ndarray:
    """Points (N, width) of rows of these kinds, if they are numbers that float32 can hold."""
    try:
        if all(type(x) in kinds for row in rows for x in row):
            with np.errstate(over="ignore"):
                points = np.array(rows, np.float64).astype(np.float32)
            if points.ndim == 2 and points.shape[1] == width and np.isfinite(points).all():
                return points
    except (TypeError, ValueError, OverflowError):  # no rows, of different lengths, or no numbers
        pass
    raise DataError(f"{where}: give points of {width} finite numbers each, at least one")


class _Tree(ElementTree.TreeBuilder):
    def doctype(self, *_: Any) -> None:
        raise ValueError("remove the document type")


def _inkml(path: str | Path, text: str) -> Handwriting:
    try:
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=_Tree()))
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path} is no InkML: {error}") from None
    found = [(str(x.tag).rpartition("}")[2], x.text or "") for x in root.iter()]
    traces = []
    for number, trace in enumerate((text for tag, text in found if tag == "trace"), 1):
        rows = [point.split()[:2] for point in trace.split(",")]
        traces.append(_points(f"{path}, trace {number}", rows, 2, str))
    if not traces:
        raise DataError(f"{path} has no <trace>: give at least one")
    moves = np.diff(np.concatenate(traces), axis=0, prepend=traces[0][:1])
    lifted = np.zeros((len(moves), 1), np.float32)
    lifted[np.cumsum([len(trace) for trace in traces]) - 1] = 1
    words = (text.strip() for tag, text in found if tag == "annotation")
    return Handwriting(np.concatenate([moves, lifted], axis=1), " ".join(words))

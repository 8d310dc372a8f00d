"""Plots as files that are the same byte for byte every time: no date, no drawn identifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STAMPS = {".svg": "Date", ".pdf": "CreationDate"}  # what matplotlib enters of the day


def saved(figure: Any, path: Any = None, dpi: float | None = None) -> Any:
    """The matplotlib figure, written to a path if there is one; its suffix is the format."""
    if path is not None:
        import matplotlib

        stamp = STAMPS.get(Path(str(path)).suffix.lower())
        with matplotlib.rc_context({"svg.hashsalt": "minigrad"}):
            figure.savefig(path, dpi=dpi, metadata={stamp: None} if stamp else None)
    return figure

"""Checks of constructor arguments; each error names the argument, its value and the valid range."""

from __future__ import annotations

import math
import operator
from typing import Any


def size(name: str, value: Any, least: int = 1) -> int:
    """value as an int, at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{name}={value!r}: give an integer >= {least}")
    return number


def flag(name: str, value: Any) -> bool:
    """value, which is True or False and nothing that only counts as such."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: give True or False")
    return value


def number(
    name: str, value: Any, low: float, high: float = math.inf, open: str = "neither"
) -> float:
    """value as a float from low to high; open: the ends left out (low, high, both, neither)."""
    left, right = open in ("low", "both"), open in ("high", "both")
    good = not isinstance(value, (bool, str))
    try:
        found = float(value) if good else math.nan
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    inside = (low < found if left else low <= found) and (found < high if right else found <= high)
    if not inside or math.isinf(found):
        if high == math.inf:
            limits = f"> {low:g}" if left else f">= {low:g}"
        else:
            limits = f"in {'(' if left else '['}{low:g}, {high:g}{')' if right else ']'}"
        raise ValueError(f"{name}={value!r}: give a number {limits}")
    return found

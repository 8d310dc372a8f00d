"""Nests: tuples, named tuples, lists and dicts (sorted by key) around leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any


def flatten(nest: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """The leaves of a nest in order, and the function that rebuilds it around other leaves."""
    leaves: list[Any] = []
    shape = _shape(nest, leaves)
    return leaves, partial(_rebuild, shape, len(leaves))  # unlike a closure, it can be pickled


def _rebuild(shape: Any, count: int, values: Sequence[Any]) -> Any:
    if len(values) != count:
        raise ValueError(f"the nest has {count} leaves, not {len(values)}")
    return _build(shape, iter(values))


def _shape(nest: Any, leaves: list[Any]) -> Any:
    if isinstance(nest, dict):
        keys = sorted(nest)
        return dict, keys, [_shape(nest[key], leaves) for key in keys]
    if isinstance(nest, (tuple, list)):
        return type(nest), None, [_shape(item, leaves) for item in nest]
    leaves.append(nest)
    return None


def _build(shape: Any, values: Any) -> Any:
    if shape is None:
        return next(values)
    kind, keys, items = shape
    built = [_build(item, values) for item in items]
    if keys is not None:
        return dict(zip(keys, built, strict=True))
    return kind(*built) if hasattr(kind, "_fields") else kind(built)


def map(f: Callable[..., Any], nest: Any, *nests: Any) -> Any:
    """f of the corresponding leaves of nests of one structure, in that structure."""
    leaves, rebuild = flatten(nest)
    others = [flatten(other)[0] for other in nests]
    for other in others:
        if len(other) != len(leaves):
            raise ValueError(f"nests of {len(leaves)} and {len(other)} leaves do not correspond")
    return rebuild([f(*items) for items in zip(leaves, *others, strict=True)])

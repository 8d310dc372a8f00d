"""Nests: tuples, named tuples, lists and dicts (leaves sorted by key) around leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any


def flatten(nest: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """The leaves of a nest in order, and the function that rebuilds it around other leaves."""
    leaves: list[Any] = []
    shape = _shape(nest, leaves)
    return leaves, partial(_rebuild, shape, len(leaves))  # unlike a closure, it can be pickled


def in_order(keys: Iterable[Any]) -> list[Any]:
    """Keys of a dict sorted, those of different types by type."""
    return sorted(keys, key=lambda key: (type(key).__name__, key))


def _rebuild(shape: Any, count: int, values: Sequence[Any]) -> Any:
    if len(values) != count:
        raise ValueError(f"the nest has {count} leaves, not {len(values)}")
    return _build(shape, iter(values))


def _shape(nest: Any, leaves: list[Any]) -> Any:
    if isinstance(nest, dict):
        items = {key: _shape(nest[key], leaves) for key in in_order(nest)}
        return dict, (list(items), list(nest)), list(items.values())
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
        found = dict(zip(keys[0], built, strict=True))
        return {key: found[key] for key in keys[1]}  # the order is part of a dict
    return kind(*built) if hasattr(kind, "_fields") else kind(built)


def map(f: Callable[..., Any], nest: Any, *nests: Any) -> Any:
    """f of the corresponding leaves of nests of one structure, in that structure."""
    leaves, rebuild = flatten(nest)
    others = [flatten(other)[0] for other in nests]
    for other in others:
        if len(other) != len(leaves):
            raise ValueError(f"nests of {len(leaves)} and {len(other)} leaves do not correspond")
    return rebuild([f(*items) for items in zip(leaves, *others, strict=True)])

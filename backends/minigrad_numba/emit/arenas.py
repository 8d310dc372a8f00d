"""Scratch memory of native programs, which all of them share: a call takes an arena for itself."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np

from minigrad.graph.planning import ALIGNMENT

from . import library


class Arena:
    """Memory for one call at a time, and the state of its threads' barrier, zeros at first."""

    def __init__(self, size: int) -> None:
        self.array = np.zeros(size + library.BARRIER_SIZE + ALIGNMENT, dtype=np.uint8)
        self.size = size
        self.first = -self.array.ctypes.data % ALIGNMENT + library.BARRIER_SIZE
        self.start = self.array.ctypes.data + self.first
        self.barrier = self.start - library.BARRIER_SIZE

    def part(self, offset: int, size: int) -> np.ndarray:
        """Some bytes of it."""
        return self.array[self.first + offset : self.first + offset + size]


_free: list[Arena] = []
_lock = threading.Lock()


def _after_fork() -> None:
    """The child has none of the parent's threads, one of which may hold the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def arena(size: int) -> Iterator[Arena]:
    """An arena that nobody else uses within the block: the last one that was, if it is large
    enough."""
    with _lock:
        found = _free.pop() if _free else None
    if found is None or found.size < size:
        found = Arena(size)
    try:
        yield found
    finally:
        with _lock:
            _free.append(found)

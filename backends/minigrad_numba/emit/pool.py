"""Threads for native programs: f(thread, threads, ...) on all of them at once."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import operator
import os
import threading
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def threads() -> int:
    """How many threads a program gets: NUMBA_NUM_THREADS or OMP_NUM_THREADS, the first that is a
    positive integer, else as many as the processors this process may run on.
    """
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        wanted = os.environ.get(name, "")
        if wanted.isdecimal() and int(wanted) > 0:
            return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool:
    """A number of threads; thread 0 is the caller's, the others are made at the first run."""

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"a pool has one thread or more, not {threads}")
        self.threads = threads
        self._forget()

    def _forget(self) -> None:
        """There are no threads now: at first, and in the child of a fork."""
        self._turn = threading.Lock()
        self._workers: list[_Worker] = []

    def run(self, function: Function, *arguments: Any) -> None:
        """Call function(thread, threads, *arguments) on every thread; return when all have.

        function: a ctypes function, which releases the GIL. A second Python thread waits.
        """
        if self.threads == 1:
            function(0, 1, *arguments)
            return
        with self._turn:
            if not self._workers:
                self._workers = [_Worker(i, self.threads) for i in range(1, self.threads)]
            done, finished = threading.Lock(), itertools.count(2)
            done.acquire()
            for worker in self._workers:
                worker.job = (function, arguments, done, finished)
            mine = functools.partial(function, 0, self.threads, *arguments)
            steps: list[Any] = [*(worker.start.release for worker in self._workers), mine]
            # One call into C: no signal comes between the first start and thread 0's part, without
            # which the others would wait at a barrier for ever.
            together: Any = map(operator.call, steps)
            try:
                collections.deque(together, maxlen=0)
            finally:
                _wait(done)


class _Worker:
    """A daemon thread that does a job whenever `start` is released."""

    def __init__(self, thread: int, threads: int) -> None:
        self.start = threading.Lock()
        self.start.acquire()
        self.job: Any = None
        name = f"minigrad-{thread}"
        threading.Thread(target=self._serve, args=(thread, threads), name=name, daemon=True).start()

    def _serve(self, thread: int, threads: int) -> None:
        while True:
            self.start.acquire()
            function, arguments, done, finished = self.job
            with contextlib.suppress(Exception):  # of arguments; thread 0 raises it as well
                function(thread, threads, *arguments)
            self.job = function = arguments = None  # frees what the caller has freed
            if next(finished) == threads:
                done.release()


def _wait(done: threading.Lock) -> None:
    """Wait, also if interrupted: the threads work on the caller's arrays."""
    try:
        done.acquire()
    except BaseException:
        _wait(done)
        raise


@functools.cache
def pool(threads: int) -> Pool:
    """The process's pool of so many threads."""
    made = Pool(threads)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=made._forget)
    return made

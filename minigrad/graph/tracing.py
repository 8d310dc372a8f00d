"""capture: run a function once on values that are not there yet, and keep what it computes.

A captured function's inputs are its arguments and every tensor that existed before the call; what
it returns, assigns, an argument among it, and leaves in `.grad` are its outputs. Constants are what
it makes itself.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad.graph.captured import Captured, flatten, is_array, nest_of, spec_of_leaf
from minigrad.graph.circumstances import Circumstances
from minigrad.graph.ir import Graph, Value
from minigrad.graph.recorder import Recorder
from minigrad.graph.sources import refuse_twice
from minigrad.graph.tape import Tape
from minigrad.op import at_choke_points
from minigrad.tensor import Tensor

capturing = threading.RLock()  # a capture changes tensors for a while, and puts them back


def _after_fork() -> None:
    """The thread that may have held the lock is not in the child."""
    global capturing
    capturing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Within the block the garbage collector does not look at the many objects again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def capture(f: Callable[..., Any], *args: Any) -> Captured:
    """The program that f(*args) is, for any values of the tensors and arrays in args and around f.

    Tensors that existed before are inputs, read at each call; other Python values are part of what
    is captured. What f assigns, and what backward leaves in `.grad`, is restored and becomes an
    output. Raises CaptureError where f looks at a value, which an input does not have yet.

    Whether modules are in training, no_grad, and the objects that f finds in variables around it
    and in attributes of modules, belong to what is captured. Other effects on Python happen once,
    now; hooks, and tensors that f leaves in places of its own, are in `notes`.
    """
    leaves, rebuild = flatten(args)
    captured, _ = trace(f, leaves, lambda given: (rebuild(given), {}), nest_of(args))
    refuse_twice(leaves, captured.targets)
    captured.places(leaves)
    return captured


def trace(
    f: Callable[..., Any],
    leaves: Sequence[Any],
    rebuild: Callable[[Sequence[Any]], tuple[Sequence[Any], dict[str, Any]]],
    nest: str,
    graphs: bool = False,
) -> tuple[Captured, Tape | None]:
    """capture of f with arguments rebuilt from leaves, and how its results came from the inputs.

    With graphs, arguments and bound tensors may have a history: they stand for leaves, and there is
    a tape, if gradients may flow.
    """
    with capturing:
        recorder, circumstances = Recorder(graphs), Circumstances(f, leaves)
        recorder.written = circumstances.written
        alone = recorder.references()
        given = [recorder.argument(i, x) for i, x in enumerate(leaves)]
        try:
            with at_choke_points(run=recorder.run, read=recorder.read, assign=recorder.assign):
                args, named = rebuild(given)
                with circumstances.watched():
                    result = f(*args, **named)
                returned, rebuild_result = flatten(result)
                results = [x for x in returned if isinstance(x, Tensor)]
                returned = [recorder.value(x) if isinstance(x, Tensor) else x for x in returned]
                targets, outputs, cleared = recorder.changes(circumstances.gradients)
                looked_at = recorder.looked_at(circumstances.gradients)
                hooked = recorder.hooked()
                tape = recorder.tape(results, hooked) if graphs else None
        finally:
            recorder.end()
        del result, given, results, args, named
        own = tape.handles if tape else ()
        left = recorder.left(own) if recorder.references() > alone else []
        if left:  # perhaps in cycles only
            gc.collect()
            left = recorder.left(own)
        notes = circumstances.notes(hooked, left)
    values = [x for x in returned if isinstance(x, Value)]
    captured = Captured(
        Graph(
            tuple(value for _, value in recorder.inputs.values()),
            tuple(recorder.steps),
            (*values, *outputs),
            tuple(notes),
        ),
        tuple(source for source, _ in recorder.inputs.values()),
        tuple(targets),
        tuple(cleared),
        looked_at,
        tuple(spec_of_leaf(x) if is_array(x) else x for x in leaves),
        nest,
        rebuild_result,
        tuple(returned),
        circumstances,
        leaves,
    )
    return captured, tape

"""capture: run a function once on values that are not there yet, and keep what it computes.

A captured function's inputs are its arguments and every tensor that existed before the call; what
it returns, assigns, an argument among it, and leaves in `.grad` are its outputs. Constants are what
it makes itself.
"""

from __future__ import annotations

import gc
import hashlib
import linecache
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.errors import MinigradError, ShapeError
from minigrad.graph.circumstances import Circumstances
from minigrad.graph.interpreter import evaluate
from minigrad.graph.ir import CaptureError, Graph, Instruction, Operand, Value
from minigrad.graph.sources import Argument, Gradient, Held, Source, refuse_twice
from minigrad.op import (
    NOTHING,
    REGISTRY,
    Op,
    Static,
    at_choke_points,
    bare,
    execute_raw,
    mode,
    promote,
    read_array,
    rebind,
    save,
)  # fmt: skip
from minigrad.ops import random
from minigrad.spec import NUMBERS, Spec, explain, mismatch, refuse_assignment, specs_of
from minigrad.tensor import Node, Tensor, make

ENDED = "this tensor belongs to a capture that has ended; return it or assign it"


class Traced:
    """What a tensor holds while a function is captured: a value's shape and dtype, no numbers."""

    __slots__ = ("__weakref__", "recorder", "shape", "value")

    def __init__(self, value: Value, recorder: Recorder) -> None:
        self.value = value
        self.shape = value.spec.shape
        self.recorder = recorder
        recorder.traced.add(self)

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.recorder.ended:  # every op, on every backend, asks for the dtype first
            raise CaptureError(ENDED)
        return self.value.spec.dtype  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    def astype(self, dtype: Any) -> Traced:
        """The cast as an instruction of its own: operands have the dtype that an op computes in."""
        return self.recorder.emit(REGISTRY["astype"], [self], {"dtype": np.dtype(dtype)})[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise CaptureError(ENDED) if self.recorder.ended else unreadable()

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise CaptureError(ENDED) if self.recorder.ended else unreadable()


def unreadable() -> CaptureError:
    """The error for a look at a value that is not there yet, at the user's own line."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_globals.get("__name__", "").startswith("minigrad"):
        frame = frame.f_back
    where = ""
    if frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        where = f' at {file}:{line}: "{linecache.getline(file, line).strip()}"'
    return CaptureError(
        f"a captured function looks at a value that is not there yet{where}; write minigrad.where "
        f"instead of if, keep numbers as tensors instead of float() and item(), and print what the "
        f"function returns"
    )


# --- a captured function -------------------------------------------------------------------------


@dataclass(eq=False)
class Captured:
    """A captured function: its graph, where the inputs come from and where the outputs go.

    Called with arguments like those it was captured with, it computes what the function would, and
    then commits all assignments and gradients together.
    """

    graph: Graph
    sources: tuple[Source, ...]
    targets: tuple[Source, ...]  # of the graph's last outputs; what is returned stands before them
    cleared: tuple[Gradient, ...]  # those that become None
    arguments: tuple[Any, ...]  # leaves: the Spec of a tensor or an array, else the value itself
    nest: str  # of the arguments, without the leaves
    rebuild: Callable[[Sequence[Any]], Any]
    returned: tuple[Any, ...]  # leaves: a Value's place among the outputs is taken in order
    circumstances: Circumstances

    def __call__(self, *args: Any) -> Any:
        if was := self.circumstances.difference():
            raise CaptureError(f"captured {was}, which is otherwise now; capture it anew")
        leaves, _ = tree.flatten(args)
        inputs = self.inputs(leaves)
        if (nest := _nest(args)) != self.nest:
            raise CaptureError(f"captured for arguments {self.nest}, not {nest}")
        refuse_twice(leaves, self.targets)
        places = [target.place(leaves) for target in self.targets]
        cleared = [gradient.place(leaves) for gradient in self.cleared]
        outputs = [y.detach() for y in evaluate(self.graph, inputs)]
        count = len(outputs) - len(places)
        for place, y in zip(places, outputs[count:], strict=True):
            if isinstance(place, Node):
                place.grad = y
            else:
                place.assign(y)
        for node in cleared:
            node.grad = None
        results = iter(outputs[:count])
        return self.rebuild([next(results) if isinstance(x, Value) else x for x in self.returned])

    def inputs(self, leaves: Sequence[Any]) -> list[Tensor]:
        """The graph's inputs for the leaves of a call's arguments.

        Raises CaptureError for leaves of another signature.
        """
        if len(leaves) != len(self.arguments):
            raise CaptureError(f"captured for {len(self.arguments)} arguments, not {len(leaves)}")
        for i, (was, now) in enumerate(zip(self.arguments, leaves, strict=True)):
            if not (_spec(now) == was if isinstance(was, Spec) else _same(was, now)):
                shown = _spec(now) if _is_array(now) else repr(now)
                raise CaptureError(f"captured for argument {i} = {was}, not {shown}")
        return [self._input(source, leaves) for source in self.sources]

    def _input(self, source: Source, leaves: Sequence[Any]) -> Tensor:
        if isinstance(source, Held):
            return source.tensor
        if isinstance(source, Argument):
            given = leaves[source.position]
            return given if isinstance(given, Tensor) else Tensor(given)
        grad = source.place(leaves).grad
        if grad is None:
            raise CaptureError("captured with a gradient in a .grad that is None now")
        return grad


def _is_array(x: Any) -> bool:
    return isinstance(x, (Tensor, np.ndarray))


def _spec(x: Any) -> Spec | None:
    return Spec(tuple(x.shape), x.dtype) if _is_array(x) else None


def _nest(args: tuple[Any, ...]) -> str:
    return repr(tree.map(lambda leaf: ..., args)).replace("Ellipsis", "...")


def _same(was: Any, now: Any) -> bool:
    return was is now or (type(was) is type(now) and bool(was == now))


# --- capture -------------------------------------------------------------------------------------


def capture(f: Callable[..., Any], *args: Any) -> Captured:
    """The program that f(*args) is, for any values of the tensors and arrays in args and around f.

    Tensors that existed before are inputs, read at each call; other Python values are part of what
    is captured. What f assigns, and what backward leaves in `.grad`, is restored and becomes an
    output. Raises CaptureError where f looks at a value, which an input does not have yet.

    Whether modules are in training, and no_grad, belong to what is captured. Other effects on
    Python happen once, now; hooks, and tensors that f leaves in places of its own, are in `notes`.
    """
    random.generator.detach()  # there from now on, hence an input
    leaves, rebuild = tree.flatten(args)
    recorder, circumstances = Recorder(), Circumstances()
    given = [recorder.argument(i, x) for i, x in enumerate(leaves)]
    try:
        with (
            circumstances.watched(),
            at_choke_points(run=recorder.run, read=recorder.read, assign=recorder.assign),
        ):
            result = f(*rebuild(given))
            returned, rebuild_result = tree.flatten(result)
            returned = [recorder.value(x) if isinstance(x, Tensor) else x for x in returned]
            targets, outputs, cleared = recorder.changes()
            refuse_twice(leaves, targets)
            for target in targets:
                target.place(leaves)
            hooked = recorder.hooked()
    finally:
        recorder.end()
    del result, given
    values = [x for x in returned if isinstance(x, Value)]
    return Captured(
        Graph(
            tuple(value for _, value in recorder.inputs.values()),
            tuple(recorder.steps),
            (*values, *outputs),
            tuple(circumstances.notes(hooked, recorder.left())),
        ),
        tuple(source for source, _ in recorder.inputs.values()),
        tuple(targets),
        tuple(cleared),
        tuple(_spec(x) if _is_array(x) else x for x in leaves),
        _nest(args),
        rebuild_result,
        tuple(returned),
        circumstances,
    )


def _kinds(kind: type[Any]) -> set[type[Any]]:
    """A class and all that derive from it."""
    return {kind}.union(*(_kinds(child) for child in kind.__subclasses__()))


def _tensors() -> list[Tensor]:
    """All tensors there are: an object refers to its class. Half the time of gc.get_objects."""
    kinds = _kinds(Tensor)
    return [x for x in gc.get_referrers(*kinds) if type(x) in kinds]


def _refuse_history(tensor: Tensor, what: str) -> None:
    if not tensor.is_leaf and mode.get().recording:
        raise CaptureError(
            f"{what} is the result of {tensor.node and tensor.node.op.name}, and its graph is no "
            f"part of the call; write detach(), or compute it within"
        )


class Recorder:
    """What stands at the choke points during a capture."""

    def __init__(self) -> None:
        if isinstance(getattr(mode.get().run, "__self__", None), Recorder):
            raise CaptureError("a function is being captured already; capture the outer one alone")
        if gc.get_freeze_count():
            raise CaptureError("gc.freeze() hides the tensors there are; call gc.unfreeze() first")
        # Held, so that nothing made during the capture can take the place of one of them.
        self.existing: dict[int, Tensor] = {id(x): x for x in _tensors()}
        self.by_array: dict[int, list[Tensor]] = {}
        self.grads: dict[Node, Tensor | None] = {}
        self.owner: dict[int, Node] = {}  # of a tensor that is the .grad of a leaf
        for x in self.existing.values():
            if hasattr(x, "backend"):
                self.by_array.setdefault(id(bare(x)), []).append(x)
                if x.node is not None and x.node.op is None:
                    self.grads[x.node] = x.node.grad
                    if x.node.grad is not None:
                        self.owner[id(x.node.grad)] = x.node
        self.positions: dict[Node, int] = {}  # of arguments that are leaves
        self.given: dict[int, int] = {}  # positions of what the function gets, which capture holds
        self.inputs: dict[Any, tuple[Source, Value]] = {}
        self.steps: list[Instruction] = []
        self.constants: dict[Any, Value] = {}
        self.kept: dict[int, Any] = {}  # constants by array, which stays where it is
        self.assigned: dict[int, tuple[Tensor, Tensor, int]] = {}  # tensor, old value, old version
        self.traced: weakref.WeakSet[Traced] = weakref.WeakSet()
        self.nodes: list[Node] = []
        self.ended = False

    # inputs

    def argument(self, position: int, leaf: Any) -> Any:
        """The abstract tensor for a leaf of the arguments; what is no tensor or array itself."""
        if not _is_array(leaf):
            return leaf
        tensor = leaf if isinstance(leaf, Tensor) else Tensor(leaf)
        _refuse_history(tensor, f"argument {position}")
        if tensor.node is not None:
            self.positions[tensor.node] = position
        value = self._input(position, Argument(position), tensor, tensor.name or f"x{position}")
        given = make(Traced(value, self), tensor.backend, tensor.node)
        self.given[id(given)] = position
        return given

    def _input(self, key: Any, source: Source, tensor: Tensor, name: str | None) -> Value:
        if key not in self.inputs:
            spec = Spec(tuple(tensor.shape), tensor.dtype)
            self.inputs[key] = source, Value(spec, name)
        return self.inputs[key][1]

    def _gradient(self, node: Node) -> Gradient:
        return Gradient(node, self.positions.get(node))

    def value(self, x: Tensor) -> Value:
        """The value that a tensor stands for: traced, an input from before, or a constant."""
        array = bare(x)
        if isinstance(array, Traced):
            if array.recorder is not self:
                raise CaptureError(ENDED)
            return array.value
        before = x if id(x) in self.existing else self._before(x, array)
        if before is None:
            return self._constant(x, array)
        if id(before) in self.owner:
            node = self.owner[id(before)]
            return self._input(node, self._gradient(node), before, f"{node.name or ''}.grad")
        _refuse_history(before, "a tensor from before the call")
        return self._input(("held", id(before)), Held(before), before, before.name)

    def _before(self, x: Tensor, array: Any) -> Tensor | None:
        """The tensor from before the call whose value a handle made since then shows."""
        candidates = self.by_array.get(id(array), [])
        if x.node is not None:
            candidates = [c for c in candidates if c.node is x.node] or candidates
        if len(candidates) > 1:
            raise CaptureError(
                f"a tensor made during a capture shows the value of {len(candidates)} tensors that "
                f"existed before; use the one that is meant, or detach before the call"
            )
        return candidates[0] if candidates else None

    def _constant(self, x: Tensor, array: Any) -> Value:
        if id(array) not in self.kept:
            host = x.backend.to_numpy(array)
            content = hashlib.blake2b(np.ascontiguousarray(host).tobytes()).digest()
            key = (x.backend.name, x.shape, x.dtype.str, content)
            if key not in self.constants:
                spec = Spec(tuple(x.shape), x.dtype)
                self.constants[key] = Value(spec, x.name, constant=make(array, x.backend))
            self.kept[id(array)] = (array, self.constants[key])
        value: Value = self.kept[id(array)][1]
        return value

    # the choke points

    def run(self, op: Op, operands: Sequence[Any], static: Static) -> Any:
        """An op on abstract values: its shape rule instead of its forward, recorded as ever."""
        backend = None
        needed = 1  # digits as in execute
        for t in operands:
            if isinstance(t, Tensor):
                if backend is not None and backend is not t.backend:
                    raise mismatch(op, operands)
                backend = t.backend
            elif t.__class__ not in NUMBERS:
                return execute_raw(op, operands, static)
            needed = 2 * needed + (getattr(t, "node", None) is not None)
        if backend is None:
            return execute_raw(op, operands, static)
        given = [t if t.__class__ in NUMBERS else Traced(self.value(t), self) for t in operands]
        arrays = [self._traced(a, backend) for a in promote(op, given, backend)]
        try:
            made = self.emit(op, arrays, static)
        except (MinigradError, ValueError, TypeError) as error:
            why = ValueError(str(error)) if isinstance(error, ShapeError) else error
            raise explain(op, arrays, static, backend, why) from None
        node = self._node(op, operands, static, arrays, made, needed)
        if op.outputs:
            return tuple(make(part, backend, node, i) for i, part in enumerate(made))
        return make(made[0], backend, node)

    def _node(
        self,
        op: Op,
        operands: Sequence[Any],
        static: Static,
        arrays: list[Any],
        made: list[Traced],
        needed: int,
    ) -> Node | None:
        """The record that execute would make."""
        recorded = "1" in f"{needed:b}"[1:] and op.rules and mode.get().recording
        if not recorded or not made or made[0].dtype.kind != "f":
            return None
        plan = op.plans.get(needed) or op.plan(needed)
        tensors = [t if isinstance(t, Tensor) else None for t in operands]
        node = Node(
            op,
            plan,
            tuple(None if t is None else t.node for t in tensors),
            tuple(t.index if t is not None else 0 for t in tensors),
            static,
            save(plan, made if op.outputs else made[0], arrays, static),
            next(t.backend for t in tensors if t is not None),
            tuple(part.shape for part in made) if op.outputs else made[0].shape,
            made[0].dtype,
        )
        self.nodes.append(node)
        return node

    def _traced(self, a: Any, backend: Any) -> Any:
        if isinstance(a, Traced) or a.__class__ in NUMBERS:
            return a
        return Traced(self._constant(make(a, backend), a), self)

    def emit(self, op: Op, arrays: Sequence[Any], static: Static) -> list[Traced]:
        """Write an instruction down; its outputs are as the op's shape rule says."""
        if self.ended:
            raise CaptureError(ENDED)
        found = op.shape(*specs_of(arrays), **static)
        values = tuple(Value(Spec(tuple(s.shape), np.dtype(s.dtype))) for s in (
            found if op.outputs else [found]))  # fmt: skip
        operands: list[Operand] = [a.value if isinstance(a, Traced) else a for a in arrays]
        self.steps.append(Instruction(op, tuple(operands), dict(static) or NOTHING, values))
        return [Traced(value, self) for value in values]

    def read(self, tensor: Tensor) -> np.ndarray:
        """The values of a constant; those of anything else are not there yet."""
        if self.value(tensor).constant is None:
            raise unreadable()
        return read_array(tensor)

    def assign(self, tensor: Tensor, value: Any) -> None:
        """The tensor stands for the value from here on; what it was comes back at the end."""
        if not isinstance(value, Tensor):
            value = Tensor(value, dtype=tensor.dtype, backend=tensor.backend)
        refuse_assignment(tensor, value)
        traced = Traced(self.value(value), self)
        if id(tensor) not in self.assigned:
            version = 0 if tensor.node is None else tensor.node.version
            self.assigned[id(tensor)] = (tensor, make(bare(tensor), tensor.backend), version)
        rebind(tensor, make(traced, tensor.backend))

    # the end

    def changes(self) -> tuple[list[Source], list[Value], list[Gradient]]:
        """What was assigned and which gradients are others than before: where to, values, None."""
        targets: list[Source] = []
        outputs: list[Value] = []
        cleared: list[Gradient] = []
        for tensor, _, _ in self.assigned.values():
            if id(tensor) in self.existing:
                targets.append(Held(tensor))
                outputs.append(self.value(tensor))
            elif id(tensor) in self.given:
                targets.append(Argument(self.given[id(tensor)]))
                outputs.append(self.value(tensor))
        for node, old in sorted(self.grads.items(), key=lambda item: item[0].id):
            if node.grad is None and old is not None:
                cleared.append(self._gradient(node))
            elif node.grad is not None and node.grad is not old:
                targets.append(self._gradient(node))
                outputs.append(self.value(node.grad))
        return targets, outputs, cleared

    def hooked(self) -> list[Node]:
        """The nodes whose hooks the capture has run, or may have."""
        changed = [node for node, old in self.grads.items() if node.grad is not old]
        found = [node for node in (*changed, *self.nodes) if node.hooks]
        self.nodes = []
        return found

    def left(self) -> list[Tensor]:
        """Tensors of the capture that are still there after it."""
        if self.traced:
            gc.collect()
        if not self.traced:
            return []
        tensors = [x for x in _tensors() if hasattr(x, "backend")]
        return [x for x in tensors if getattr(bare(x), "recorder", None) is self]

    def end(self) -> None:
        """Put back what was there, and refuse what is left of the capture from now on."""
        for tensor, old, version in self.assigned.values():
            if id(tensor) in self.existing or id(tensor) in self.given:
                rebind(tensor, old)
                if tensor.node is not None:
                    tensor.node.version = version
        for node, grad in self.grads.items():
            node.grad = grad
        self.ended = True
        self.existing, self.by_array, self.owner = {}, {}, {}

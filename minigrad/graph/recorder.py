"""Recorder: what stands at the choke points during a capture, and writes the graph down."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minigrad.errors import MinigradError, ShapeError
from minigrad.graph.captured import is_array
from minigrad.graph.circumstances import WRITTEN
from minigrad.graph.existing import existing
from minigrad.graph.ir import CaptureError, Instruction, Operand, Value
from minigrad.graph.sources import Ambient, Argument, Gradient, Held, Source
from minigrad.graph.tape import Tape, tape_of
from minigrad.graph.traced import ENDED, Traced, unreadable
from minigrad.op import (
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
from minigrad.tensor import Node, Tensor, make, next_id
from minigrad.tensor import leaf as new_leaf


class Outside(CaptureError):
    """What cannot be captured together with a graph from before the call."""


def recorder_at(run: Any) -> Recorder | None:
    """The recorder whose capture a `run` belongs to, whoever watches it, if one does."""
    found = getattr(getattr(run, "watches", run), "__self__", None)
    return found if isinstance(found, Recorder) else None


def _refuse_history(tensor: Tensor, what: str) -> None:
    if not tensor.is_leaf and mode.get().recording:
        raise CaptureError(
            f"{what} is the result of {tensor.node and tensor.node.op.name}, and its graph is no "
            f"part of the call; write detach(), or compute it within"
        )


class Recorder:
    """What stands at the choke points during a capture."""

    def __init__(self, graphs: bool = False) -> None:
        if recorder_at(mode.get().run):
            raise CaptureError("a function is being captured already; capture the outer one alone")
        self.generator = random.generator  # there from now on, hence an input
        # Held, so that nothing made during the capture can take the place of one of them.
        self.existing: dict[int, Tensor] = {id(x): x for x in existing()}
        self.by_array: dict[int, list[Tensor]] = {}
        self.grads: dict[Node, Tensor | None] = {}
        self.written: set[Node] = set()  # of these, those that were set
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
        self.assigned: dict[int, Tensor] = {}
        self.before: dict[int, tuple[Tensor, Tensor, int]] = {}  # tensor, old value, old version
        self.kinds: dict[Spec, Spec] = {}
        self.specs: dict[Any, list[Spec]] = {}
        self.nodes: list[Node] = []
        self.graphs = graphs  # whether tensors with a history may come in, as leaves
        self.born = next_id()
        self.standins: dict[tuple[Node, int], Node] = {}  # leaves for results from before
        self.arguments: dict[int, Tensor] = {}  # what the function gets, by position
        self.twice: dict[int, int] = {}  # a tensor that is several arguments is one of them
        self.twins: dict[int, Tensor] = {}  # of what the function gets, the argument, and back
        self.ended = False

    # inputs

    def argument(self, position: int, leaf: Any) -> Any:
        """The abstract tensor for a leaf of the arguments; what is no tensor or array itself."""
        if not is_array(leaf):
            return leaf
        tensor = leaf if isinstance(leaf, Tensor) else Tensor(leaf)
        if self.graphs:
            twice = self.twice.get(id(leaf))
            if twice is not None and tensor is leaf:
                return self.arguments[twice]
            self.twice[id(leaf)] = position  # not of a tensor that is made here, and gone at once
        else:
            _refuse_history(tensor, f"argument {position}")
        node, _ = self._edge(tensor)
        if node is not None:
            self.positions[node] = position
        value = self._input(position, Argument(position), tensor, tensor.name or f"x{position}")
        given = make(Traced(value, self), tensor.backend, node)
        self.given[id(given)] = position
        self.arguments[position] = given
        if tensor is leaf:
            self.twins[id(leaf)], self.twins[id(given)] = given, leaf
        return given

    def _edge(self, x: Tensor) -> tuple[Node | None, int]:
        """Where a tensor's gradient goes: a result from before the capture is a leaf within it."""
        node = x.node
        if node is None or node.op is None or node.id > self.born:
            return node, x.index
        key = node, x.index
        if key not in self.standins:
            self.standins[key] = new_leaf(x.backend, tuple(x.shape), x.dtype)
        return self.standins[key], 0

    def _input(self, key: Any, source: Source, tensor: Tensor, name: str | None) -> Value:
        if key not in self.inputs:
            self.inputs[key] = source, Value(self._spec(tensor.shape, tensor.dtype), name)
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
        if not self.graphs:
            _refuse_history(before, "a tensor from before the call")
        return self._input(("held", id(before)), self._held(before), before, before.name)

    def _held(self, tensor: Tensor) -> Source:
        return Ambient() if tensor is self.generator else Held(tensor)

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
                spec = self._spec(x.shape, x.dtype)
                self.constants[key] = Value(spec, x.name, constant=make(array, x.backend))
            self.kept[id(array)] = (array, self.constants[key])
        value: Value = self.kept[id(array)][1]
        return value

    # the choke points

    def run(self, op: Op, operands: Sequence[Any], static: Static) -> Any:
        """An op on abstract values: its shape rule instead of its forward, recorded as ever."""
        arrays: list[Any] = []  # all as in execute
        parents: list[Node | None] = []
        slots: list[int] = []
        needed = 1
        recorded = mixed = weak = False
        backend: Any = None
        dtype: Any = None
        for t in operands:
            if isinstance(t, Tensor):
                if backend is not t.backend:
                    if backend is not None:
                        raise mismatch(op, operands)
                    backend = t.backend
                array, node, slot = bare(t), t.node, t.index
                if array.__class__ is not Traced or array.recorder is not self:
                    array = Traced(self.value(t), self)
                own = array.value.spec.dtype
                if own is not dtype:
                    mixed = dtype is not None
                    dtype = own
                if node is None:
                    needed *= 2
                else:
                    needed += needed + 1
                    recorded = True
                    if node.id < self.born:
                        node, slot = self._edge(t)
                arrays.append(array)
                parents.append(node)
                slots.append(slot)
            elif t.__class__ in NUMBERS:
                weak = True
                needed *= 2
                arrays.append(t)
                parents.append(None)
                slots.append(0)
            else:
                return execute_raw(op, operands, static)
        if backend is None:
            return execute_raw(op, operands, static)
        if mixed or (weak and not op.weak) or dtype.kind != "f":
            arrays = [self._traced(a, backend) for a in promote(op, arrays, backend)]
        try:
            made = self.emit(op, arrays, static)
        except (MinigradError, ValueError, TypeError) as error:
            why = ValueError(str(error)) if isinstance(error, ShapeError) else error
            raise explain(op, arrays, static, backend, why) from None
        node = None
        if recorded and op.rules and made and mode.get().recording:
            spec = made[0].value.spec
            if spec.dtype.kind == "f":
                plan = op.plans.get(needed) or op.plan(needed)
                y: Any = made if op.outputs else made[0]
                saved = save(plan, y, arrays, static) if plan.sources else ()
                shape = tuple([part.shape for part in made]) if op.outputs else spec.shape
                node = Node(
                    op,
                    plan,
                    tuple(parents),
                    tuple(slots),
                    static,
                    saved,
                    backend,
                    shape,
                    spec.dtype,
                )
                self.nodes.append(node)
        if op.outputs:
            return tuple([make(part, backend, node, i) for i, part in enumerate(made)])
        return make(made[0], backend, node)

    def _traced(self, a: Any, backend: Any) -> Any:
        if isinstance(a, Traced) or a.__class__ in NUMBERS:
            return a
        return Traced(self._constant(make(a, backend), a), self)

    def emit(self, op: Op, arrays: Sequence[Any], static: Static) -> list[Traced]:
        """Write an instruction down; its outputs are as the op's shape rule says."""
        if self.ended:
            raise CaptureError(ENDED)
        operands: list[Operand] = []
        key: Any = [op]
        for a in arrays:
            if a.__class__ is Traced:
                operands.append(a.value)
                key.append(a.value.spec)
            else:
                operands.append(a)
                key.append(a.__class__)
        key = (*key, *static.items())
        try:  # a Spec for each kind of instruction, which then stands in all values
            specs = self.specs[key]
        except KeyError:
            specs = self.specs[key] = self._specs(op, arrays, static)
        except TypeError:  # a static argument without a hash
            specs = self._specs(op, arrays, static)
        values = tuple([Value(spec) for spec in specs])
        self.steps.append(Instruction(op, tuple(operands), static, values))
        return [Traced(value, self) for value in values]

    def _specs(self, op: Op, arrays: Sequence[Any], static: Static) -> list[Spec]:
        """The specs of an op's outputs, as its shape rule says."""
        found = op.shape(*specs_of(arrays), **static)
        return [self._spec(s.shape, s.dtype) for s in (found if op.outputs else [found])]

    def _spec(self, shape: Sequence[int], dtype: Any) -> Spec:
        """The one object that stands for a shape and dtype."""
        spec = Spec(tuple(shape), np.dtype(dtype))
        return self.kinds.setdefault(spec, spec)

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
        twin = self.twins.get(id(tensor))  # f may know an argument as a tensor around it, too
        for x in (tensor,) if twin is None else (tensor, twin):
            if id(x) not in self.before:
                version = 0 if x.node is None else x.node.version
                self.before[id(x)] = (x, make(bare(x), x.backend), version)
            rebind(x, make(traced, x.backend))
        self.assigned[id(tensor)] = tensor

    # the end

    def changes(self, used: dict[Node, Any]) -> tuple[list[Source], list[Value], list[Gradient]]:
        """What was assigned and which gradients are others than before: where to, values, None."""
        targets: list[Source] = []
        outputs: list[Value] = []
        cleared: list[Gradient] = []
        for tensor in self.assigned.values():
            if id(tensor) in self.existing:
                targets.append(self._held(tensor))
                outputs.append(self.value(tensor))
            elif id(tensor) in self.given:
                targets.append(Argument(self.given[id(tensor)]))
                outputs.append(self.value(tensor))
        for node in sorted(self.written & self.grads.keys(), key=lambda node: node.id):
            old = self.grads[node]
            if node.grad is None and (old is not None or used.get(node) is WRITTEN):
                cleared.append(self._gradient(node))
            elif node.grad is not None and node.grad is not old:
                targets.append(self._gradient(node))
                outputs.append(self.value(node.grad))
        return targets, outputs, cleared

    def looked_at(self, used: dict[Node, Any]) -> tuple[tuple[Gradient, bool], ...]:
        """The gradients that were looked at before they were set, and whether they were None."""
        return tuple(
            (self._gradient(node), none)
            for node, none in used.items()
            if none is not WRITTEN and node in self.grads
        )

    def tape(self, results: Sequence[Tensor], hooked: Sequence[Node]) -> Tape | None:
        """How results came from the inputs, where gradients may flow."""
        if any(node.grad is not None for node in self.standins.values()):
            raise Outside("backward within it reaches a graph that was recorded before the call")
        inputs = []
        for source, value in self.inputs.values():
            node: Node | None = None
            if isinstance(source, Argument):
                node = self.arguments[source.position].node
            elif isinstance(source, Held):
                node, _ = self._edge(source.tensor)
            inputs.append(make(Traced(value, self), self._home(source), node))
        outputs = [make(Traced(self.value(y), self), y.backend, *self._edge(y)) for y in results]
        tape = tape_of(self, inputs, outputs)
        if tape and any(node.op for node in hooked):
            raise Outside("a hook in it waits for a backward outside")
        return tape

    def _home(self, source: Source) -> Any:
        if isinstance(source, Argument):
            return self.arguments[source.position].backend
        return source.node.backend if isinstance(source, Gradient) else source.tensor.backend

    def hooked(self) -> list[Node]:
        """The nodes whose hooks the capture has run, or may have."""
        known = self.written & self.grads.keys()
        changed = [node for node in known if node.grad is not self.grads[node]]
        found = [node for node in (*changed, *self.nodes) if node.hooks]
        self.nodes = []
        return found

    def references(self) -> int:
        """How many references to the recorder there are: every Traced holds one."""
        return sys.getrefcount(self)

    def left(self, own: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of the capture that are still there after it, but for a tape's own."""
        kept = set(map(id, own))
        tensors = [x for x in existing() if hasattr(x, "backend") and id(x) not in kept]
        return [x for x in tensors if getattr(bare(x), "recorder", None) is self]

    def end(self) -> None:
        """Put back what was there, and refuse what is left of the capture from now on."""
        held = [source.tensor for source, _ in self.inputs.values() if isinstance(source, Held)]
        self.versions = {x.node: x.node.version for x in held if x.node and x.node.op is None}
        for tensor, old, version in reversed(self.before.values()):
            if id(tensor) in self.existing or id(tensor) in self.given:
                rebind(tensor, old)
                if tensor.node is not None:
                    tensor.node.version = version
        for node in self.written & self.grads.keys():
            node.grad = self.grads[node]
        self.ended = True
        self.existing, self.by_array, self.owner = {}, {}, {}
        self.grads, self.arguments, self.given, self.twice = {}, {}, {}, {}
        self.twins, self.before = {}, {}

    # afterwards

    @contextlib.contextmanager
    def resumed(self, recording: bool) -> Iterator[None]:
        """Within the block the capture goes on: what came from its inputs may be used again."""
        held = [source.tensor for source, _ in self.inputs.values() if isinstance(source, Held)]
        self.existing = {id(x): x for x in held}
        for x in held:
            self.by_array.setdefault(id(bare(x)), []).append(x)
        versions = {node: node.version for node in self.versions}
        for node, version in self.versions.items():
            node.version = version
        self.ended = False
        try:
            with at_choke_points(self.run, self.read, self.assign, recording):
                yield
        finally:
            self.ended = True
            self.existing, self.by_array, self.assigned, self.nodes = {}, {}, {}, []
            self.before = {}
            for node, version in versions.items():
                node.version = version

    def cotangent(self, y: Tensor, name: str, recording: bool) -> Tensor:
        """One more input, of the shape of y, which requires a gradient if that is recorded."""
        spec = self._spec(y.shape, y.dtype)
        node = new_leaf(y.backend, *spec) if recording else None
        return make(Traced(Value(spec, name), self), y.backend, node)

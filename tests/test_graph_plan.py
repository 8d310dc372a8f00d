"""plan: places in memory, tried out by a machine that runs the steps there with NumPy."""

import doctest
import math

import numpy as np
import pytest

import minigrad as mg
from minigrad.graph import Instruction, Loop, Value, evaluate, fuse, planning
from minigrad.graph.fusing import Kernel
from minigrad.graph.ir import Graph, at_iteration
from minigrad.graph.planning import Row, plan
from minigrad.graph.properties import PRODUCT, is_join, views
from minigrad.op import bare
from tests import graph_programs as programs
from tests.random_loops import random_graph


def is_opaque(step):
    """As a backend might have it: what is no kernel, product, join or view runs outside."""
    if isinstance(step, Loop):
        last = all(list(c.outputs) == [step.trips - 1] for c in step.collected)
        return bool(step.indexed) or not last or any(map(is_opaque, step.body))
    known = isinstance(step.op, Kernel) or step.op is PRODUCT or is_join(step.op)
    return not known and views(step) is None


class Machine:
    """Runs a planned graph with NumPy, reading and writing where the plan says.

    Beside the memory, which starts as NaN, it keeps what each value is; whatever is read must be
    that, so that nothing is overwritten as long as somebody needs it.
    """

    def __init__(self, found, inputs):
        self.plan, self.graph = found, found.graph
        self.arena = np.full(found.bytes, 255, dtype=np.uint8)
        self.memory, self.truth, self.iterations = {}, {}, {}
        for value, array in zip(self.graph.inputs, inputs, strict=True):
            self.truth[value] = array
            self.flat(found.home(value).buffer)[:] = array.reshape(-1)

    def flat(self, buffer):
        if buffer not in self.memory:
            if buffer.kind == "scratch":
                part = self.arena[buffer.offset : buffer.offset + buffer.bytes]
                self.memory[buffer] = part.view(buffer.dtype)
            else:
                self.memory[buffer] = np.full(buffer.bytes, 255, np.uint8).view(buffer.dtype)
            if buffer.kind == "constant":
                self.memory[buffer][:] = bare(buffer.value.constant).reshape(-1)
        return self.memory[buffer]

    def at(self, place):
        offset, shape, strides = place.view.offset, place.view.shape, place.view.strides
        for move in place.moves:
            t = self.iterations[move.counter]
            if isinstance(move, Row):
                offset += t * move.step
            else:
                offset += (t + move.shift) % move.slots * move.size
        flat = self.flat(place.buffer)
        ends = [s * (n - 1) for n, s in zip(shape, strides, strict=True) if n]
        low, high = (offset + sum(f(0, e) for e in ends) for f in (min, max))
        assert 0 in shape or 0 <= low <= high < len(flat)
        strides = [s * flat.itemsize for s in strides]
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, strides)

    def read(self, x):
        """What lies where a value is, which must be that value."""
        if not isinstance(x, Value):
            return x
        array = self.at(self.plan.home(x))
        expected = self.known(x)
        assert array.shape == expected.shape and array.dtype == expected.dtype
        assert (array == expected).all() or np.array_equal(array, expected, equal_nan=True)
        return array

    def known(self, x):
        return bare(x.constant) if x.constant is not None else self.truth[x]

    def copy(self, copy):
        self.at(copy.target)[...] = self.read(copy.source)

    def run(self):
        for step in self.graph.steps:
            if step in self.plan.opaque:
                self.outside(step)
            else:
                self.step(step)
        for copy in self.plan.last:
            self.copy(copy)
        return [self.result(v) for v in self.graph.outputs]

    def result(self, value):
        own = [b for b in self.plan.buffers if b.kind == "output" and b.value is value]
        return self.flat(own[0]).reshape(value.spec.shape) if own else self.read(value)

    def outside(self, step):
        inputs = [x for x in dict.fromkeys(step.operands) if isinstance(x, Value)]
        inputs = [x for x in inputs if x.constant is None]
        given = [mg.Tensor(self.read(x)) for x in inputs]
        for value, y in zip(
            step.outputs, evaluate(Graph(tuple(inputs), (step,), step.outputs), given), strict=True
        ):
            self.truth[value] = y.numpy()
            self.at(self.plan.home(value))[...] = y.numpy()

    def step(self, step):
        if isinstance(step, Loop):
            self.loop(step)
            written = []
        else:
            static = at_iteration(step.static, self.iterations)
            given = [self.read(x) for x in step.operands]
            forward = step.op.bind(mg.resolve("numpy"))
            made = forward(*given, **static)
            made = [np.array(y) for y in (made if step.op.outputs else [made])]
            self.truth.update(zip(step.outputs, made, strict=True))
            written = list(zip(step.outputs, made, strict=True))
        if written and not is_join(step.op) and step.outputs[0] not in self.shown(step):
            for value, y in written:
                self.at(self.plan.home(value))[...] = y
        for copy in self.plan.copies.get(step, ()) if not isinstance(step, Loop) else ():
            self.copy(copy)
        for value in step.outputs:
            for place in self.plan.stores.get(value, ()):
                self.at(place)[...] = self.read(value)
            self.read(value)  # joins and views: already there

    def shown(self, step):
        kernel = isinstance(step.op, Kernel) or step.op is PRODUCT
        return () if kernel or views(step) is None else step.outputs

    def loop(self, loop):
        for copy in self.plan.copies.get(loop, ()):
            self.copy(copy)
        past = [
            [self.known(x) if isinstance(x, Value) else x for x in c.initial] for c in loop.carries
        ]
        rows = [[self.known(x) for x in s.initial] for s in loop.stacked]
        for t in range(loop.trips):
            self.iterations[loop.counter] = t
            for carry, results in zip(loop.carries, past, strict=True):
                spec = carry.parameter.spec
                self.truth[carry.parameter] = np.broadcast_to(results[t], spec.shape).astype(
                    spec.dtype
                )
            for sliced in loop.sliced:
                row = self.known(sliced.whole)[sliced.start + sliced.step * t]
                self.truth[sliced.parameter] = row
            for step in loop.body:
                self.step(step)
            for copy in self.plan.turns.get(loop, ()):
                self.copy(copy)
            for carry, results in zip(loop.carries, past, strict=True):
                results.append(self.known(carry.result))
            for kept, results in zip(loop.stacked, rows, strict=True):
                results.append(self.known(kept.result))
        for collected in loop.collected:
            for value in collected.outputs.values():
                self.truth[value] = self.known(collected.result)
        for kept, results in zip(loop.stacked, rows, strict=True):
            self.truth[kept.whole] = np.stack(results[:: kept.step])
        del self.iterations[loop.counter]


def sound(graph, inputs):
    """Plan and run a fused graph; returns the plan."""
    fused = fuse(graph)
    found = plan(fused, is_opaque)
    apart(found)
    count = len(places_of(found, "scratch"))
    with np.errstate(all="ignore"), mg.no_grad():
        made = Machine(found, [bare(x) for x in inputs]).run()
        for x, y in zip(made, evaluate(fused, inputs), strict=True):
            assert x.dtype == y.dtype and x.shape == y.shape
            scale = np.abs(y.numpy()).max(initial=1) if y.dtype.kind == "f" else 0
            np.testing.assert_allclose(x, y.numpy(), rtol=0, atol=1e-13 * scale, equal_nan=True)
    assert len(places_of(found, "scratch")) == count  # every value had its place
    return found


def apart(found):
    """Buffers in use at the same time do not overlap, start at lines and end within the arena."""
    scratch = [b for b in found.buffers if b.kind == "scratch" and b.bytes and b.first >= 0]
    for i, a in enumerate(scratch):
        assert a.offset % planning.ALIGNMENT == 0 and a.offset + a.bytes <= found.bytes
        for b in scratch[:i]:
            if a.first <= b.last and b.first <= a.last:
                assert a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset


def planned(f, *args):
    graph, inputs = programs.captured(f, *args)
    return sound(programs.optimised(graph), inputs)


def tensor(*shape, seed=0):
    return mg.Tensor(np.random.default_rng(seed).normal(size=shape))


def test_the_examples_of_the_documentation():
    assert doctest.testmod(planning).failed == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in programs.FEW else pytest.mark.slow)
        for n in programs.PROGRAMS
    ],
)
def test_programs(name):
    graph, inputs = programs.PROGRAMS[name]()
    sound(programs.optimised(graph), inputs)


def test_random_programs():
    for seed in range(8):
        graph, inputs = programs.pooled(seed)
        sound(programs.optimised(graph), inputs)


def loops(seeds):
    for seed in seeds:
        for native in (False, True):
            graph, arrays = random_graph(seed, native)
            sound(graph, [mg.Tensor(a) for a in arrays])


def test_random_loops():
    loops(range(20))


@pytest.mark.slow
def test_more_random_loops():
    loops(range(20, 600))


# --- where things lie ----------------------------------------------------------------------------


def places_of(found, *kinds):
    return [b for b in found.buffers if b.kind in kinds]


def test_memory_is_shared_by_what_is_not_alive_at_the_same_time():
    def f(x, W):
        for _ in range(20):
            x = mg.tanh(x @ W)
        return x

    graph, inputs = programs.captured(f, tensor(4, 8), tensor(8, 8))
    found = sound(graph, inputs)
    assert found.bytes == 2 * 4 * 8 * 8  # a product, and the kernel that reads it


def test_parts_of_a_join_are_written_right_there():
    def f(x, W):
        return mg.concatenate([mg.tanh(x), x @ W], axis=1) @ tensor(8, 2)

    found = planned(f, tensor(3, 4), tensor(4, 4))
    assert not found.copies or not any(found.copies.values())
    assert found.bytes == 3 * 8 * 8


def test_columns_of_a_product_stay_beside_each_other():
    """A product into every other place would be a product whose columns lie apart."""
    planned(lambda x, W: mg.tanh(mg.stack([x @ W, x @ W @ W], axis=2)), tensor(3, 4), tensor(4, 4))
    planned(lambda x, v: mg.stack([x @ v, mg.tanh(x @ v)], axis=1), tensor(3, 4), tensor(4))


def test_parts_of_a_join_that_are_read_as_rows_or_reshaped():
    """Wholes of a loop beside each other in a join, whose rows another loop reshapes."""

    def f(xs, W):
        h, hs, gs = mg.zeros((2, 3), dtype="float64"), [], []
        for x in xs:
            h = mg.tanh(x + h @ W)
            hs.append(h)
        for h in hs[::-1]:
            gs.append(mg.tanh(mg.reshape(mg.reshape(h.T, (6,)), (2, 3)) @ W))
        return mg.concatenate([mg.stack(hs), mg.stack(gs)], axis=2)

    planned(f, tensor(5, 2, 3), tensor(3, 3))


def test_results_lie_in_memory_of_their_own():
    def f(x):
        y = mg.tanh(x)
        return y, mg.reshape(y, -1), y.T, x, mg.sum(y)

    found = planned(f, tensor(2, 3))
    assert len(places_of(found, "output")) == 4 and found.bytes == 0


def test_what_is_in_use_when_a_step_runs_outside():
    def f(x):
        y = mg.tanh(x)
        return mg.cumsum(y, axis=0) @ y.T, mg.roll(y, 1, 0) * y

    found = planned(f, tensor(3, 3))
    assert places_of(found, "array")


def test_empty_values_take_no_memory():
    found = planned(lambda x: mg.sum(mg.tanh(x), axis=0) * 2.0, tensor(0, 3))
    assert math.prod(places_of(found, "input")[0].value.spec.shape) == 0


def test_instructions_are_all_that_random_graphs_hold():
    graph, _ = random_graph(3, native=True)
    assert not any(isinstance(s, Instruction) and s.op.name == "roll" for s in graph.walk())
    assert not any(loop.indexed for loop in graph.loops())

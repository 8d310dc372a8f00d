"""Programs that the CuPy backend emits: kernels as CUDA C, compiled for the host and run there.

What a GPU's compiler makes of the text is seen where there is nvcc; that it computes the same
there, in tests/gpu.
"""

import contextlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from minigrad_cupy.emit.kernels import HEAD
from minigrad_cupy.emit.program import Program

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad.graph import building, capture, evaluate
from minigrad.graph.gathering import whole
from minigrad.op import REGISTRY, bare, op
from minigrad.ops import specs
from tests import fake_cupy, host_cuda
from tests.catalogue import ORACLES, make
from tests.op_checks import calls
from tests.op_table import ROWS
from tests.random_loops import random_graph
from tests.recurrent import leaf, random_cell

BACKEND = mg.resolve(fake_cupy.COMPILING)
NVCC = shutil.which("nvcc")
B, D, H = 2, 3, 4
TOLERANCE = {"float32": 2e-5, "float64": 1e-10}

pytestmark = pytest.mark.skipif(
    host_cuda.COMPILER is None,
    reason="needs a C++ compiler, g++ or c++, to run kernels on the host",
)


@pytest.fixture(autouse=True)
def on_the_stand_in():
    with mg.use_backend(BACKEND):
        yield


def rng_of(seed):
    return np.random.default_rng(seed)


def close(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        bound = TOLERANCE.get(b.dtype.name, 0)
        scale = np.max(np.abs(b[np.isfinite(b)]), initial=1) if b.dtype.kind == "f" else 1
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound * scale)


class Case:
    """A captured function as a program, and its inputs. Kernels are compiled when it first runs."""

    def __init__(self, f, *args):
        self.captured = capture(f, *args)
        self.inputs = self.captured.inputs(tree.flatten(args)[0])
        self.program = building.Program(self.captured.graph, BACKEND).emitted
        assert isinstance(self.program, Program)

    def run(self, inputs=None):
        return self.program([bare(x) for x in inputs or self.inputs])

    def check(self):
        """Demand evaluate's outputs for these inputs, and again after others in between."""
        wanted = [y.numpy() for y in evaluate(self.captured.graph, self.inputs)]
        first = self.run()
        close([y.get() for y in first], wanted)
        before = [y.get().tobytes() for y in first]
        self.run([mg.Tensor(x.numpy() * 2) if x.dtype.kind == "f" else x for x in self.inputs])
        again = self.run()
        assert before == [y.get().tobytes() for y in first]  # nobody wrote into what was returned
        assert before == [y.get().tobytes() for y in again]
        return self.program


def launched(program):
    """How many kernels there are, how often they are launched, and how many products there are."""
    return tuple(map(int, re.findall(r"(\d+) (?:kernels|launches|products)", program.report())))


# --- nets ----------------------------------------------------------------------------------------


def with_gradients(net):
    def f(xs):
        ys, state = rnn.unroll(net, xs)
        loss = mg.mean(ys**2)
        for part in tree.flatten(state)[0]:
            loss = loss + mg.sum(part) if part.dtype.kind == "f" else loss
        return loss, mg.pullback(loss, [*net.parameters(), xs], allow_unused=True)

    return f


USUAL = "RNN", "clockwork", "LSTM", "LSTM, layer norm", "GRU", "LRU", "mLSTM", "fast weights"


@pytest.fixture(scope="module")
def cells(request):
    """The programs of the cells that are asked for; their kernels are compiled all at once."""
    prefix = f"{request.node.nodeid}::test_cells_of_the_catalogue_with_their_gradients["
    asked = [x.nodeid for x in request.session.items if x.nodeid.startswith(prefix)]
    with mg.use_backend(BACKEND):
        xs = leaf(rng_of(0).normal(size=(4, B, D)))
        return {
            name: Case(with_gradients(make(name, D, H)), xs)
            for name in ORACLES
            if f"{prefix}{name}]" in asked
        }


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [pytest.param(x, id=x, marks=[] if x in USUAL else pytest.mark.slow) for x in ORACLES],
)
def test_cells_of_the_catalogue_with_their_gradients(cell, cells):
    cells[cell].check()


def sequences():
    """Masks, lengths, resets and dropout; attention over a memory; an embedding."""
    cell = random_cell("gru", D, H, rng_of(4))
    rng = rng_of(5)
    mask, resets = rng.random((6, B)) < 0.7, rng.random((6, B)) < 0.3
    xs = leaf(rng_of(1).normal(size=(6, B, D)))

    def masked(xs):
        ys, state = rnn.unroll(cell, xs, mask=mask, resets=resets, reverse=True)
        return ys, mg.pullback(mg.sum(ys * ys) + mg.sum(state), [*cell.parameters(), xs])

    def dropped(xs):
        ys, _ = rnn.unroll(cell, xs, lengths=np.array([6, 3]))
        kept = mg.functional.dropout(ys, 0.3)
        return kept, mg.pullback(mg.sum(kept * kept), [*cell.parameters(), xs])

    def per_step(xs):
        h = mg.zeros((B, D), dtype="float64")
        for x in xs:
            h = mg.functional.dropout(mg.tanh(h + x), 0.4, mg.random.key(3))
        return h, mg.random.uniform(None, (3,))

    lstm = random_cell("lstm", 2 * D, H, rng_of(6))
    table, out = leaf(rng_of(7).normal(size=(7, D))), leaf(rng_of(8).normal(size=(H, 7)))
    keys, project = leaf(rng_of(9).normal(size=(5, B, D))), leaf(rng_of(10).normal(size=(H, D)))

    def attending(symbols):
        state, loss = lstm.initial_state(B), 0
        h = state[0]
        for t in range(5):
            score = mg.sum(keys * (h @ project), axis=-1)
            context = mg.sum(mg.functional.softmax(score, axis=0)[..., None] * keys, axis=0)
            x = mg.concatenate([table[symbols[t]], context], axis=-1)
            h, state = lstm(x, state)
            loss = loss + mg.functional.cross_entropy(h @ out, symbols[t + 1])
        return loss, mg.pullback(loss, [*lstm.parameters(), table, out, keys, project])

    symbols = mg.Tensor(rng_of(11).integers(0, 7, (6, B)))
    return [(masked, xs), (dropped, xs), (per_step, xs), (attending, symbols)]


def test_masks_resets_dropout_attention_and_embeddings():
    for case in [Case(f, x) for f, x in sequences()]:
        case.check()


def loops(seeds):
    """Loops written at random, some in loops: carries, wholes, items, indices that move."""
    cases = []
    for seed in seeds:
        graph, arrays = random_graph(seed)
        cases.append((graph, [mg.Tensor(a) for a in arrays], BACKEND.emit(whole(graph))))
    for graph, inputs, program in cases:
        with np.errstate(all="ignore"):
            wanted = [y.numpy() for y in evaluate(graph, inputs)]
        close([y.get() for y in program([bare(x) for x in inputs])], wanted)


@pytest.mark.slow
def test_loops_written_at_random():
    loops(range(20))


@pytest.mark.slow
def test_more_loops_written_at_random():
    loops(range(20, 400))


# --- training ------------------------------------------------------------------------------------


def trained(kind, name, optimizer, T=5, dtype="float32"):
    """A user's training step, and data for it, on the backend of now."""
    cell = random_cell(name, D, H, rng_of(1), dtype)
    optimizer = getattr(mg.optim, optimizer)(cell.parameters(), lr=0.01)

    def step(xs, target):
        state, ys = cell.initial_state(B), []
        for x in xs:
            y, state = cell(x, state)
            ys.append(y)
        loss = mg.mean((mg.stack(ys) - target) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    rng = rng_of(3)
    data = [mg.Tensor(rng.normal(size=(T, B, n)), dtype=dtype) for n in (D, H)]
    return (mg.compile(step) if kind == "compiled" else step), data, cell


KINDS = [("lstm", "Adam"), ("gru", "RMSProp"), ("lstm", "SGD")]


def test_training_steps_are_those_of_the_eager_engine_on_numpy():
    steps = [trained("compiled", *kind) for kind in KINDS]
    for kind, (step, data, cell) in zip(KINDS, steps):
        with mg.use_backend("numpy"):
            eager, same_data, twin = trained("eager", *kind)
            wanted = [eager(*same_data).item() for _ in range(6)]
        losses = [step(*data) for _ in range(6)]  # all held: no call writes into an earlier one's
        np.testing.assert_allclose([loss.item() for loss in losses], wanted, rtol=1e-5)
        for p, q in zip(cell.parameters(), twin.parameters()):
            np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-4, atol=1e-6)
        assert "op by op" not in step.report()


def test_a_step_waits_for_nothing_and_launches_a_handful_of_kernels_per_iteration():
    step, data, _ = trained("eager", "lstm", "Adam")
    program = Case(step, *data).check()
    kernels, launches, products = launched(program)
    T = 5
    assert kernels <= 8  # to fill, forward, loss, its gradient, backward, bias, two for Adam
    assert products == 2 * T + 3  # one in each iteration; inputs, and two matrices' gradients
    assert launches <= 2 * T + 13
    case = Case(step, *data)
    before = fake_cupy.host_copies
    case.run()
    assert fake_cupy.host_copies == before


def test_the_text_is_the_same_for_another_length():
    programs = []
    for T in (5, 9):
        step, data, _ = trained("eager", "lstm", "Adam", T)
        programs.append(Case(step, *data).program)
    assert programs[0].source() == programs[1].source()
    assert launched(programs[0])[1] < launched(programs[1])[1]


def test_launches_are_kept_for_the_addresses_between_which_outputs_alternate():
    step, data, _ = trained("compiled", "lstm", "Adam")
    for _ in range(8):
        step(*data)
    [[version]] = step.versions.values()
    program = version.call.program.emitted
    assert max(len(part.bound) for part in program.parts) == 2


# --- kernels -------------------------------------------------------------------------------------


def test_every_op_of_the_table():
    """A sample of each row of the op table, many in one program."""
    found = [call for row in ROWS for call in list(calls(row))[:1] if call.arrays]
    cases = []
    for first in range(0, len(found), 40):
        some = found[first : first + 40]

        def f(*given, some=some):
            return [call.run(xs) for call, xs in zip(some, given)]

        cases.append(Case(f, *([mg.Tensor(a) for a in call.arrays] for call in some)))
    for case in cases:
        case.check()


UNARY = [
    "negative",
    "absolute",
    "sign",
    "floor",
    "ceil",
    "round",
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "sqrt",
    "sin",
    "cos",
    "tan",
]
UNARY += [
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "arcsinh",
    "arccosh",
    "arctanh",
    "sigmoid",
    "isnan",
    "isinf",
]
BINARY = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "floor_divide",
    "remainder",
    "power",
    "arctan2",
    "maximum",
    "minimum",
]
BINARY += [
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "logical_and",
    "logical_or",
]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, -3.0, 7.25, 1e30, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_have_numpys_values_where_they_are_special(dtype):
    """All pairs of zeros, infinities, NaN and others, against NumPy; signs of zeros too."""
    a, b = (x.ravel() for x in np.meshgrid(SPECIAL, SPECIAL))
    a, b = a.astype(dtype), b.astype(dtype)

    def f(a, b):
        return [getattr(mg, n)(a) for n in UNARY], [getattr(mg, n)(a, b) for n in BINARY]

    case = Case(f, mg.Tensor(a), mg.Tensor(b))
    assert "op by op" not in case.program.report()
    found = [y.get() for y in case.run()]
    numpys = {"round": np.rint, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
    with np.errstate(all="ignore"):
        wanted = [numpys.get(n, getattr(np, n, None))(a) for n in UNARY]
        wanted += [getattr(np, n)(a, b) for n in BINARY]
    for name, y, z in zip([*UNARY, *BINARY], found, wanted):
        np.testing.assert_allclose(y, z, rtol=1e-5 if dtype == "float32" else 1e-12, err_msg=name)
        if y.dtype.kind == "f" and name != "sigmoid":
            zero = z == 0
            np.testing.assert_array_equal(np.signbit(y[zero]), np.signbit(z[zero]), name)


def test_integers_and_bools_are_computed_as_numpy_does():
    rng = rng_of(0)
    a, b = rng.integers(-9, 9, 200), rng.integers(-4, 4, 200)
    words = rng.integers(0, 2**32, 200, dtype="uint32")

    def f(a, b, words):
        yes = a > 1
        return (
            a + b, a - 3, a * b, a / b, a // b, a % b, a**3, -a, mg.absolute(a), mg.sign(b),
            yes + (b > 0), yes * (b > 0), mg.logical_not(yes), mg.where(yes, a, 0.5),
            words * 3, words // 7, words % 5, a.astype("float32") * 0.3, a * 2.5,
            mg.sum(yes), mg.max(a), mg.min(b), mg.any(yes), mg.all(yes), mg.sum(words),
        )  # fmt: skip

    Case(f, *map(mg.Tensor, (a, b, words))).check()


SHAPES = [((3, 5, 7), (1,)), ((70, 80), (0,)), ((80, 70), (1,)), ((130, 40), (0, 1))]


@pytest.mark.parametrize("threaded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_reductions_by_one_thread_and_by_trees_of_threads(threaded):
    """Short axes, tall and flat arrays, whole ones: each shape of a block, against NumPy."""
    cases = []
    with host_cuda.threads() if threaded else contextlib.nullcontext():
        for i, (shape, axes) in enumerate(SHAPES[threaded:]):
            x = rng_of(i).normal(size=shape)

            def f(x, axes=axes):
                more = {"axis": axes, "keepdims": len(axes) == 1}
                hot = x > 2
                return (
                    mg.sum(x * 2, **more), mg.max(x, **more), mg.min(x, **more),
                    mg.any(hot, **more), mg.all(hot, **more), mg.sum(hot, **more),
                )  # fmt: skip

            cases.append((Case(f, mg.Tensor(x)), x, axes))
    blocks = set()
    for case, x, axes in cases:
        found = [y.get() for y in case.run()]
        more = {"axis": axes, "keepdims": len(axes) == 1}
        wanted = [f(x, **more) for f in (np.sum, np.max, np.min)]
        wanted[0] = wanted[0] * 2
        wanted += [f(x > 2, **more) for f in (np.any, np.all, np.sum)]
        close(found, wanted)
        assert [y.tobytes() for y in found] == [y.get().tobytes() for y in case.run()]
        blocks |= {text.block for _, text in case.program.texts.values()}
    assert blocks >= {(32, 8), (1, 256), (1, 1024)}


def test_a_kernel_reads():
    """The text of one kernel, with its broadcast operand and a number that is an argument."""
    case = Case(lambda x, b: mg.sigmoid(x * 0.3 + b), mg.ones((4, 8)), mg.ones(8))
    assert case.program.source().partition("kernel0")[2] == (
        "(\n"
        "    const float* __restrict__ p0, const float* __restrict__ p1, float* __restrict__ p2,\n"
        "    const double r0, const long long n)\n"
        "{\n"
        "    typedef int index;\n"
        "    for (index i = index(blockIdx.x) * blockDim.x + threadIdx.x; i < n;\n"
        "         i += index(gridDim.x) * blockDim.x) {\n"
        "        const index i1 = i % 8;\n"
        "        const float v0 = p0[i];\n"
        "        const float v1 = v0 * ((float)r0);\n"
        "        const float v2 = p1[i1];\n"
        "        const float v3 = v1 + v2;\n"
        "        const float v4 = (0.5f * tanhf(0.5f * v3)) + 0.5f;\n"
        "        p2[i] = v4;\n"
        "    }\n"
        "}\n"
    )


def test_what_has_no_kernel_runs_op_by_op_in_its_place():
    """A sort inside a loop, and a loop whose every iteration has another index."""

    def ordered(xp, x):
        return x.argsort().astype(x.dtype)

    name = "ordered_for_a_test"
    try:
        order = op(name, ordered, shape=specs.same)

        def f(x, h):
            for row in x:
                h = mg.tanh(h + order(row * h))
            return h, mg.cumsum(h), mg.sort(h * 2.0)

        case = Case(
            f, mg.Tensor(rng_of(0).normal(size=(6, 5))), mg.Tensor(rng_of(1).normal(size=5))
        )
        program = case.check()
    finally:
        REGISTRY.pop(name, None)
    assert name in program.report() and "cumsum" in program.report()


def test_views_and_constants_and_inputs_are_returned():
    def f(x):
        y = mg.tanh(x)
        z = mg.sigmoid(y * 2.0)
        c = mg.ones((2, 3), dtype="float64")
        return x, x.T, c, c.T, y, y.T, z.T, mg.reshape(z, -1), mg.unstack(z)[1], mg.sum(z)

    Case(f, mg.Tensor(rng_of(0).normal(size=(2, 3)))).check()


def test_sizes_of_nothing():
    def f(x, y):
        return mg.sum(x, axis=0), mg.tanh(x), y @ x, mg.concatenate([x, x])

    Case(f, mg.zeros((0, 3)), mg.zeros((2, 0))).check()


# --- the compiler of CUDA ------------------------------------------------------------------------


@pytest.mark.skipif(NVCC is None, reason="needs nvcc, to compile kernels to PTX")
def test_nvcc_compiles_every_kernel_to_ptx(tmp_path):
    step, data, _ = trained("eager", "lstm", "Adam")

    def f(a, b, n, m):
        reals = [getattr(mg, x)(a) for x in UNARY], [getattr(mg, x)(a, b) for x in BINARY]
        whole = n // m, n % m, n**3, mg.sign(n), mg.absolute(n), mg.where(n > m, n, 0.5)
        return reals, whole, mg.max(a), mg.sum(a > b, axis=0), mg.min(n), mg.any(n > m)

    x, n = mg.ones((3, 4)), mg.ones((3, 4), dtype="int64")
    cases = [Case(step, *data), Case(f, x, x, n, n), Case(f, *[x.astype("float64")] * 2, n, n)]
    texts = dict.fromkeys(text for case in cases for text in case.program.names)
    source, made = tmp_path / "kernels.cu", tmp_path / "kernels.ptx"
    source.write_text(HEAD + "".join(x.replace("@", f"kernel{i}", 1) for i, x in enumerate(texts)))
    command = [NVCC, "-ptx", "-Werror", "all-warnings", "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    entries = re.findall(r"\.visible \.entry (\w+)\(", made.read_text())
    assert sorted(entries) == sorted(f"kernel{i}" for i in range(len(texts)))
    assert len(entries) > 12

# %% [markdown]
# # The GPU: the same program, and the code it would run
#
# You will see what one variable changes and what stays, read the CUDA code that the compiler makes
# of a recurrent network, run that code by hand, one thread after another, and count what a GPU is
# asked to do. No GPU is needed: what needs one says so and goes on.
#
# You need: tutorials 04 and 17. It takes about 15 minutes. It belongs to no slide: the lectures say
# what to compute, this says where. And to be honest: the CuPy backend has never run on a GPU. It is
# proven against a strict stand-in on the CPU, and its code by compiling it for the CPU. If you have
# a GPU, you will know more after this tutorial than we do.

# %%
import re

import numpy as np
from minigrad_cupy.emit.kernels import HEAD, is_writable, write

import minigrad as mg
from minigrad.graph import Loop, capture, evaluate, fuse
from minigrad.graph.building import stages
from minigrad.graph.nests import Nest
from minigrad.graph.planning import plan
from minigrad_rnn import GRUCell, unroll

mg.show_backends()

# %% [markdown]
# ## The switch
#
#     MINIGRAD_BACKEND=cupy python train.py
#     MINIGRAD_BACKEND=cupy:1 python train.py       # the second GPU
#
# Or `with mg.use_backend("cupy"):` for a part of a program, or `model.to("cupy")` for what is there
# already. If it cannot be, that is an error which says why; nothing runs elsewhere in secret.

# %%
try:
    places = ["numpy", mg.resolve("cupy")]
except mg.BackendUnavailableError as error:
    places = ["numpy"]
    print(error)
print(len(places), "of 2 backends can be used here")

# %% [markdown]
# ## What stays
#
# The program. Below, a network learns for a while on each backend there is. All its random numbers
# are the same everywhere, uniform ones to the bit, so that losses agree to rounding: on a GPU sums
# are added in another order.


# %%
def train(backend, updates=20):
    with mg.use_backend(backend):
        mg.random.seed(0)
        cell, key = GRUCell(3, 8), mg.random.key(1)
        optimizer = mg.optim.Adam(cell.parameters(), lr=0.01)
        xs, target = (
            mg.random.normal(key, (12, 4, 3)),
            mg.random.normal(key.fold(1), (12, 4, 8)),
        )
        losses = []
        for _ in range(updates):
            ys, _ = unroll(cell, xs)
            loss = ((ys - target) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss)
        return [loss.item() for loss in losses]


curves = [train(backend) for backend in places]
print([round(loss, 4) for loss in curves[0][::5]])
assert curves[0][-1] < curves[0][0]
assert np.allclose(curves, curves[0], rtol=1e-4)

# %% [markdown]
# What a GPU wants of its user stays as well. A tensor lives there until you ask: `.numpy()`,
# `.item()`, `print` and `if` copy to the host, and wait until all that was asked before is done. So
# the loop above keeps the losses as tensors, and reads them at the end. And for the same reason a
# time without `backend.synchronize()` at its end is the time of asking, not of doing.
#
# ## What an eager loop costs there
#
# A GPU runs *kernels*: functions of which thousands of threads each run one copy, with another
# number. Each op of an eager program is one or more, and to start one takes the host some
# microseconds, whatever its size. A small recurrent network has many small ops; their number is the
# length of the trace, and grows with T. Here a step of training as in tutorial 17, with a GRU:


# %%
D, H, B = 3, 8, 4
mg.random.seed(0)
cell = GRUCell(D, H)
optimizer = mg.optim.SGD(cell.parameters(), lr=0.1)


def step(xs, target):
    ys, _ = unroll(cell, xs)
    loss = ((ys - target) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def data(T):
    rng = np.random.default_rng(T)
    return [mg.Tensor(rng.normal(size=s).astype("float32")) for s in ((T, B, D), (T, B, H))]


def asked(steps):
    """How many kernels and products a graph's steps are: loops as often as they go round."""
    kernels = multiplied = 0
    for s in steps:
        if isinstance(s, Loop):
            inner = asked(s.body)
            kernels, multiplied = (
                kernels + s.trips * inner[0],
                multiplied + s.trips * inner[1],
            )
        elif s.op.name == "matmul":
            multiplied += 1
        else:
            kernels += s.op.name == "kernel"
    return kernels, multiplied


backend = mg.zeros(1).backend
for T in (10, 40):
    trace = capture(step, *data(T)).graph
    *_, (_, graph) = stages(trace, backend)
    kernels, multiplied = asked(fuse(graph).steps)
    print(
        f"T {T}: eager {len(trace.steps)} ops, compiled {kernels} kernels and {multiplied} products"
    )
    assert kernels + multiplied < len(trace.steps) / 4

# %% [markdown]
# So that is what compile does for a GPU: fewer and larger kernels. The products are cuBLAS's. The
# loop itself stays on the host, which starts kernel after kernel without waiting for results.
#
# ## A backend on paper
#
# To run a kernel needs a GPU; to write one does not. A backend that has `emit(graph)` gets each
# compiled graph, and returns what is called with arrays and has `source()` and `report()`: that is
# the whole contract (`Program` in `minigrad/graph/building.py`). Ours writes CUDA code, as the CuPy
# backend does, and computes with NumPy what the graph means:


# %%
def kernels_of(steps):
    """The kernels among the steps, those in loops as well."""
    for s in steps:
        if isinstance(s, Loop):
            yield from kernels_of(s.body)
        elif s.op.name == "kernel":
            yield s


class Written:
    def __init__(self, graph, backend):
        self.graph, self.backend = fuse(graph), backend
        self.plan = plan(self.graph, lambda step: False)
        self.kernels = list(kernels_of(self.graph.steps))
        self.texts = [write(Nest(self.plan, kernel)) for kernel in self.kernels]

    def __call__(self, arrays):
        inputs = [mg.Tensor(array, backend=self.backend) for array in arrays]
        return [y.numpy() for y in evaluate(self.graph, inputs)]

    def source(self):
        named = (t.text.replace("@", f"kernel{i}") for i, t in enumerate(self.texts))
        return "\n".join(named)

    def report(self):
        return f"{len(self.texts)} kernels on paper"


class OnPaper:
    name, api, xp = "on_paper", 1, np

    def asarray(self, data, dtype=None):
        return np.asarray(data, dtype=dtype)

    def to_numpy(self, array):
        return array

    def scatter_add(self, out, index, values):
        np.add.at(out, index, values)
        return out

    def emit(self, graph):
        return Written(graph, self)


def gated(a, b, h):
    z = mg.sigmoid(a + h)
    return z * h + (1 - z) * mg.tanh(b)


paper = OnPaper()
with mg.use_backend(paper):
    compiled = mg.compile(gated)
    given = [
        mg.Tensor(x) for x in np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    ]
    on_paper = compiled(*given)
    expected = gated(*given)
    written = compiled.last.call.program.emitted
print(compiled.source())
print(compiled.report().splitlines()[-1])
assert np.allclose(on_paper.numpy(), expected.numpy(), rtol=1e-6)
assert all(map(is_writable, written.kernels))

# %% [markdown]
# Seven ops have become one kernel: each thread takes one element (`i`), reads what it needs of
# `p0`, `p1` and `p2`, computes, and writes once. `blockIdx`, `blockDim` and `threadIdx` say which
# thread it is; if there are fewer threads than elements, each goes on by as many as there are.
#
# ## One thread after another
#
# Is it right? Its lines are nearly Python: without types and suffixes they run, for one value of i
# after another, thread by thread. `places` says which array each `p` points into.


# %%
FUNCTIONS = {"tanhf": np.tanh, "expf": np.exp}


def run_by_hand(text, arrays, n, threads):
    """Run an elementwise kernel's text on arrays (n,), all threads one after another."""
    lines = re.findall(r"^\s+(?:const \w+ )?((?:v|p)\d+(?:\[i\])? = .*);$", text, re.MULTILINE)
    code = "\n".join(re.sub(r"(\d\.\d+)f", r"\1", line) for line in lines)
    names = {f"p{k}": array for k, array in enumerate(arrays)}
    for thread in range(threads):
        for i in range(thread, n, threads):
            exec(code, {**FUNCTIONS, **names, "i": i})


(kernel,) = written.texts
arrays = dict(zip(written.graph.inputs, (x.numpy().reshape(-1) for x in given), strict=True))
*sources, _ = (place.buffer.value for place in kernel.places)
made = np.zeros(20, "float32")
run_by_hand(kernel.text, [*(arrays[value] for value in sources), made], 20, threads=7)
print("largest difference:", np.abs(made - expected.numpy().reshape(-1)).max())
assert np.allclose(made, expected.numpy().reshape(-1), rtol=1e-5, atol=1e-6)

# %% [markdown]
# The tests of the backend go further: they compile the whole text for the CPU with a C++ compiler,
# run it, and compare.
#
# ## The kernels of a training step
#
# The same of the step above. Sizes that change with T are arguments, so that the text does not
# change with T: a sequence of another length compiles nothing anew. Of its kernels, one from the
# forward loop, which computes two of the gates, and the one that sums the loss:

# %%
sources = {}
for T in (6, 12):
    with mg.use_backend(paper):
        mg.random.seed(0)
        cell = GRUCell(D, H)
        optimizer = mg.optim.SGD(cell.parameters(), lr=0.1)
        compiled = mg.compile(step)
        loss = compiled(*data(T)).item()
        sources[T] = compiled.source()
texts = [f'extern "C"{text}' for text in sources[12].split('extern "C"')[1:]]
gates = next(text for text in texts if "tanh" in text)
total = next(text for text in texts if "Sum()" in text)
print(gates, total, sep="\n")
print(
    len(texts),
    "kernels; the same text for T = 6 and T = 12:",
    sources[6] == sources[12],
)
assert np.isfinite(loss) and sources[6] == sources[12]

# %% [markdown]
# A sum is where threads have to meet: each adds up some of the elements, and then they fold theirs
# in halves, a tree whose shape depends on the sizes alone. So sums are the same in each run, which
# additions by whoever comes first (`atomicAdd`) would not be. This is the helper that does it:

# %%
fold = HEAD[HEAD.index("template <typename T, typename F>") :]
print(fold)
assert "__syncthreads" in fold

# %% [markdown]
# ## What you would see
#
# On a GPU, with MINIGRAD_BACKEND=cupy, `step.source()` gives the texts of above with their helpers,
# and `step.report()` says how many kernels and products a call starts, and what runs op by op. A
# large network should be much faster than here, a small one may well be slower, because of the
# starts. That is what we expect; we have not seen it. `python -m pytest tests/gpu`, from the
# repository, is what to run first.
#
# ## Exercises
#
# 1. Write `elements(thread, threads, n)`: the list of the elements, out of n, which a thread takes
#    in a kernel like the first one.
# 2. Write `folded(x)`: the sum of a NumPy array (a power of two long) as the helper above adds, in
#    halves, in the array's dtype. Why is it nearer to the true sum than adding from left to right?
# 3. Write `starts(graph)`: how many kernels and products a fused graph starts in all, loops counted
#    as often as they go round, and loops in loops. Views start nothing.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 18 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def elements(thread, threads, n):
    return list(range(thread, n, threads))


def folded(x):
    while len(x) > 1:
        half = len(x) // 2
        x = x[:half] + x[half:]
    return x[0]


def starts(graph):
    return sum(asked(graph.steps))


def check_1(elements):
    found = elements(2, 4, 11)
    assert found == [2, 6, 10], f"thread 2 of 4 takes 2, 6 and 10 of 11, not {found}"
    assert elements(3, 8, 3) == [], "a thread beyond the end takes nothing"
    every = sorted(i for thread in range(5) for i in elements(thread, 5, 23))
    assert every == list(range(23)), "each element is taken once"


def check_2(folded):
    ends = np.array([1e8, 1, -1e8, 1], "float32")
    found = folded(ends)
    assert found is not None, "return the sum"
    assert float(found) == 2.0, "element i is added to element i + half, not to its neighbour"
    x = np.random.default_rng(0).random(2**14).astype("float32")
    found = folded(x)
    assert found.dtype == np.float32, "in the array's dtype"
    assert abs(float(found) - x.sum(dtype="float64")) < 1e-2, "not the sum"
    assert folded(np.float32([3.0])) == 3.0, "one element is its own sum"


def check_3(starts):
    W = mg.ones((3, 3))

    def recurrent(xs):
        h = mg.zeros((2, 3))
        for x in xs:
            h = mg.tanh(x + h @ W)
        return h

    for T in (5, 9):
        *_, (_, graph) = stages(capture(recurrent, mg.ones((T, 2, 3))).graph, backend)
        found = starts(fuse(graph))
        assert isinstance(found, int), "return a number"
        assert found != 2, "a loop's body starts its kernels in every iteration"
        assert found == 2 * T, f"a product and a kernel, {T} times: not {found}"
    flat = fuse(capture(gated, *given).graph)
    assert starts(flat) == 1, "its ops are one kernel: one start"


check_1(elements)
check_2(folded)
check_3(starts)
print("exercises: 3 of 3")

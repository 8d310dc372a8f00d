# %% [markdown]
# # Compile: from a trace to folded loops to native code
#
# You will write a cell, train it by a plain Python loop, and follow what `mg.compile` makes of the
# training step, pass by pass: a trace, loops again, products outside of them, kernels, memory,
# code. Then you compare the numbers, change T, find out what cannot be captured, differentiate a
# compiled function, and take the time.
#
# You need: tutorials 05 and 06, and the engine's source open beside it: `minigrad/graph/`, one file
# a pass, whose first lines say its rule. It takes about 30 minutes. It belongs to Fig 10.2
# "Unfolding Computation Graphs", read from right to left.

# %%
import os
import re
import statistics
import time

import numpy as np

import minigrad as mg
from minigrad.graph import Loop, capture, evaluate, fuse
from minigrad.graph.building import stages
from minigrad.graph.planning import plan

mg.set_default_dtype("float64")
FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
BACKEND = mg.zeros(1).backend
print("on the backend", BACKEND.name)

# %% [markdown]
# ## A cell of your own, eager
#
# No cell of the library, so that nothing can have been prepared for it: one gate z, which says how
# much of the state stays.
#
# $[z, c] = x^{(t)} W_x + h^{(t-1)} W_h + b$, $h^{(t)} = \sigma(z) h^{(t-1)} + (1 - \sigma(z))
# \tanh(c)$.
#
# And a training step as one writes it: a loop, a loss, backward, the optimizer. The loop is written
# out here, so that there is no doubt about where it is.


# %%
class GatedCell(mg.nn.Module):
    def __init__(self, D, H):
        self.H = H
        self.Wx = mg.nn.Parameter(mg.nn.glorot_uniform((D, 2 * H)))
        self.Wh = mg.nn.Parameter(mg.concatenate([mg.nn.orthogonal((H, H))] * 2, axis=1))
        self.b = mg.nn.Parameter(mg.zeros(2 * H))

    def initial_state(self, batch):
        return mg.zeros((batch, self.H))

    def __call__(self, x, h):
        z, c = mg.split(x @ self.Wx + h @ self.Wh + self.b, 2, axis=-1)
        z = mg.sigmoid(z)
        h = z * h + (1 - z) * mg.tanh(c)
        return h, h


def outputs(cell, xs):
    h, ys = cell.initial_state(xs.shape[1]), []
    for x in xs:
        y, h = cell(x, h)
        ys.append(y)
    return mg.stack(ys)


def training(D, H):
    """A cell, the same for the same sizes, its optimizer and its training step."""
    mg.random.seed(0)
    cell = GatedCell(D, H)
    optimizer = mg.optim.SGD(cell.parameters(), lr=0.1)

    def step(xs, target):
        loss = ((outputs(cell, xs) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return cell, optimizer, step


def data(T, B, D, H):
    rng = np.random.default_rng(T)
    return mg.Tensor(rng.normal(size=(T, B, D))), mg.Tensor(rng.normal(size=(T, B, H)))


T, B, D, H = 4, 2, 3, 5
cell, optimizer, step = training(D, H)
xs, target = data(T, B, D, H)
losses = [step(xs, target).item() for _ in range(5)]
print("eager:", [round(loss, 4) for loss in losses])
assert losses == sorted(losses, reverse=True)

# %% [markdown]
# ## One word more
#
# Put `@mg.compile` above a function, or call `mg.compile(f)`, and nothing else changes: same
# arguments, same results, same side effects. At the first call with arguments of a kind the
# function is *captured* and made into a program; the calls after that run the program. With
# `MINIGRAD_COMPILE=0` in the environment the decorator does nothing.

# %%
_, _, step = training(D, H)
compiled = mg.compile(step)
again = [compiled(xs, target).item() for _ in range(5)]
print("compiled:", [round(loss, 4) for loss in again], "in", compiled.captures, "capture")
assert np.allclose(again, losses, rtol=1e-12, atol=0)

# %% [markdown]
# What has happened in between? We go through it by hand. `stages` gives the graph after each pass
# (`minigrad/graph/building.py` has the list).
#
# ## Capture: the trace
#
# The function runs once, in Python, on tensors without values: shapes and dtypes alone. The engine
# has three choke points between Python and data, and a capture stands at all three
# (`minigrad/graph/tracing.py`), so it sees each op, backward's and the optimizer's among them.
# A tensor that was there before, a weight say, is an input; what is assigned is an output. The
# Python loop has run meanwhile: the trace knows nothing of it, and grows with T.

# %%
captured = capture(step, xs, target)
trace = captured.graph
print(*trace.text().splitlines()[:24], "  ...", sep="\n")
lengths = {n: len(capture(step, *data(n, B, D, H)).graph.steps) for n in (4, 5, 6, 12)}
print("steps of the trace by T:", lengths)
assert lengths[4] == len(trace.steps)
assert lengths[12] - lengths[6] == 6 * (lengths[6] - lengths[5])

# %% [markdown]
# The inputs are the two arguments, the three weights, and two numbers that belong to the optimizer,
# its count of steps and its learning rate. A graph is data, and `evaluate` is its meaning, one
# instruction after another (`minigrad/graph/interpreter.py`, 88 lines). Each pass that follows is a
# function from a graph to a graph that must mean the same; we hold it to that on the way.

# %%
inputs = captured.inputs([xs, target])
expected = [y.numpy() for y in evaluate(trace, inputs)]


def products(steps):
    """The shapes of what matrix products among the steps give."""
    found = [s for s in steps if not isinstance(s, Loop) and s.op.name == "matmul"]
    return [s.outputs[0].spec.shape for s in found]


after, error = {}, 0.0
for name, graph in stages(trace, BACKEND):
    made = [y.numpy() for y in evaluate(graph, inputs)]
    error = max(error, *(np.abs(a - b).max() for a, b in zip(made, expected, strict=True)))
    after[name] = graph  # simplify runs twice, and its last graph stays
    inside = sum(len(products(loop.body)) for loop in graph.loops())
    print(
        f"{name:11}{len(graph.steps):4} steps, loops of {[x.trips for x in graph.loops()]},",
        f"products: {len(products(graph.steps))} outside, {inside} inside",
    )
print("largest difference between what they mean:", error)
assert error < 1e-12

# %% [markdown]
# ## Fold: the loop again
#
# A `for` leaves a trace that repeats itself. `fold` finds the period: windows of the same ops and
# shapes, whose operands are of the same iteration, of an earlier one (the delay, the black square
# of Fig 10.2), the next item of something, or the same all the time. Before and after, for the
# outputs alone and three steps:


# %%
def forward(xs):
    return outputs(cell, xs)


short = capture(forward, xs[:3]).graph
print(short, mg.fold(short), sep="\n\n")
assert len(short.steps) == 1 + 3 * 11 + 1 and len(mg.fold(short).steps) == 3

# %% [markdown]
# A loop is easier to look at than to read. The arrow back, with the square on it, is the delay:

# %%
picture = mg.draw(forward, xs)
assert "tanh" in picture.svg
picture

# %% [markdown]
# Of the whole step, backward folds as well: nobody has told the compiler that there is a backward
# pass, or what a recurrent network is. But the first and the last iteration of backward are not
# like the others. At the last step of time no gradient comes from a later one, so there is nothing
# to add; at the first, nobody wants the gradient of the initial state.
#
# ## Absorb: the ends become iterations too
#
# They would be, if one added a zero, or computed something that nobody looks at. `absorb` does
# that: the run of 2 becomes one of 4, and what stood around the loops is gone.


# %%
def loops_of(graph):
    """The lines of a graph's text that belong to loops."""
    kept, within = [], False
    for line in graph.text().splitlines():
        within = line.startswith("  for t") or (within and line.startswith("   "))
        kept += [line] * within
    return "\n".join(kept)


print(loops_of(after["absorb"]))
assert [loop.trips for loop in after["fold"].loops()] == [T, T - 2]
assert [loop.trips for loop in after["absorb"].loops()] == [T, T]
assert len(after["fold"].steps) > 2 * len(after["absorb"].steps)

# %% [markdown]
# The second loop is backward. It takes its items from the last to the first, and it carries the
# gradients of `b`, `Wh` and `Wx` as running sums, and that of h, which is the recurrence itself.
#
# ## Whole, then distribute: products leave the loop
#
# `whole` replaces lists of rows by arrays: `%0[t]` in place of item t of an `unstack`. Now look at
# the products in the loops above. `x @ Wx` needs no loop: x does not depend on h. Neither do two of
# backward: `dWx` and `dWh` are *sums* over t of products of what is known when the loop is over. A
# sum of T products of matrices is one product of T times longer ones:
#
# $\sum_t h_t^\top g_t = [h_1^\top \dots h_T^\top]\,[g_1; \dots; g_T]$.
#
# What remains lies on a cycle of delay edges: `h @ Wh` forward, `g @ Wh.T` backward. That is the
# recurrence, and nobody can take it out.

# %%
final = after["simplify"]
print(final)
assert products(final.steps) == [(T * B, 2 * H), (H, 2 * H), (D, 2 * H)]
assert [products(loop.body) for loop in final.loops()] == [[(B, 2 * H)], [(B, H)]]

# %% [markdown]
# Why is that worth a pass? Because one large product is done faster than many small ones: the
# weights are read once, not T times. In NumPy, with the sizes of a small network:

# %%
rng = np.random.default_rng(0)
rows = rng.normal(size=(100, 4, 128)).astype("float32")
W = rng.normal(size=(128, 512)).astype("float32")


def best(f, rounds=5 if FAST else 30):
    """The shortest time of several, in seconds: what other programs do can only add to it."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


small = best(lambda: [x @ W for x in rows])
large = best(lambda: rows.reshape(400, 128) @ W)
print(f"100 products of (4, 128): {small * 1e3:.2f} ms; one of (400, 128): {large * 1e3:.2f} ms")
together = (rows.reshape(400, 128) @ W).reshape(100, 4, 512)
assert np.allclose([x @ W for x in rows], together, atol=1e-3)

# %% [markdown]
# ## Fuse: kernels
#
# Elementwise ops between two products are one pass over memory: read each element once, compute
# all of it, write what somebody needs later. `for each of (2, 5)` below is such a kernel, with its
# body. The forward loop's body is a product and a kernel; of the values of nine instructions the
# kernel keeps four, for which the backward loop will ask.

# %%
fused = fuse(final)
print(loops_of(fused))
forward_loop, backward_loop = fused.loops()
assert [s.op.name for s in forward_loop.body] == ["matmul", "kernel"]
assert len(forward_loop.body[1].op.body) == 9 and len(forward_loop.body[1].outputs) == 4

# %% [markdown]
# ## Plan: where values lie
#
# Nothing is allocated while a program runs. A value that is a row of an array, or a result, is
# written right there; others share scratch memory with what is no longer needed. Where that is, and
# how far it moves with t, is known before.

# %%
where = plan(fused, lambda step: False)
made = [v for s in forward_loop.body for v in s.outputs]
for name, value in zip(("h @ Wh", "sigma(z)", "1 - sigma(z)", "tanh(c)", "h"), made, strict=True):
    buffer, view, moves = where.places[value]
    start, steps = buffer.offset + 8 * view.offset, [8 * move.step for move in moves]
    print(f"{name:12} {buffer.kind} from byte {start}, {sum(steps)} further in each iteration")
values = {v for s in trace.steps for v in s.outputs}
kept = sum(v.spec.dtype.itemsize * int(np.prod(v.spec.shape)) for v in values)
print(f"{where.bytes} bytes of scratch; all values of the trace together have {kept}")
assert where.places[made[0]].moves == () and 0 < where.bytes < kept

# %% [markdown]
# ## The report
#
# `report()` says all that of a compiled function, in numbers: what was captured and how long it
# took, what each pass has left, and what the backend made of it. If something was not folded, or
# runs op by op, or was captured again, the reason stands here; so this is where to look first.
# (Numba's "each thread some of 2 rows" says that threads share the batch, each through all steps of
# time, so that none waits for another.)

# %%
print(compiled.report())
assert f"a loop of {T} with" in compiled.report()

# %% [markdown]
# ## Source: the code
#
# What a backend emits differs, and `source()` shows it. NumPy's is Python text: calls of NumPy's
# functions, told where to write. Numba's is LLVM code, one native function for all. Backends that
# emit nothing interpret the graph.
#
# LLVM code is made of blocks that end in a jump, and there is no `for`: a loop is a block that
# counts (`phi`: where I come from says which value I have), compares, and jumps to its body or its
# end. The loop over t is the one whose body calls a product; within it are the rows of the batch,
# and the elements of a row, several at a time in vectors `<8 x double>` or what the processor has.


# %%
def blocks(text):
    """The blocks of LLVM code by label, as lists of lines."""
    found, label = {}, ""
    for line in text.splitlines():
        head = re.match(r'"?([\w.]+)"?:$', line)
        label = head[1] if head else label
        found.setdefault(label, []).append(line)
    return found


def nest(text):
    """The head of the first loop whose body has a product, and of the loops within."""
    parts = blocks(text)
    jumps = {name: re.findall(r'label %"([\w.]+)"', lines[-1]) for name, lines in parts.items()}
    heads = [name for name in parts if name.startswith("head")]
    at = next(n for n in heads if any("product" in line for line in parts[jumps[n][0]]))
    while at in heads:
        heads.remove(at)  # the innermost body jumps back to its own head
        body = jumps[at][0]
        yield from parts[at]
        yield from (line for line in parts[body] if re.search("call|load <| = f", line))
        at = jumps[body][0]


source = compiled.source()
native = "define void" in source
print(len(source.splitlines()), "lines of code")
print(
    *(line[:96] for line in (list(nest(source))[:24] if native else source.splitlines())), sep="\n"
)
assert not native or sum(line.startswith("head") for line in nest(source)) == 3  # t, rows, elements

# %% [markdown]
# ## The same numbers
#
# A compiled function computes what the eager one computes, to rounding: sums are added in another
# order. Fifty steps of training, twice, from the same start:

# %%
(cell, _, step), (twin, _, twin_step) = training(D, H), training(D, H)
compiled = mg.compile(twin_step)
xs, target = data(12, 8, D, H)
apart = 0.0
for _ in range(50):
    loss, same = step(xs, target).item(), compiled(xs, target).item()
    apart = max(apart, abs(loss - same) / loss)
print(f"loss {loss:.6f}; largest relative difference in 50 steps: {apart:.1e}")
print("of the weights:", max(np.abs(a.numpy() - b.numpy()).max() for a, b in zip(
    cell.parameters(), twin.parameters(), strict=True)))  # fmt: skip
assert apart < 1e-11

# %% [markdown]
# Both might be wrong together. So here is the loss literally, in NumPy, and a difference quotient
# of it for some weights, against the gradients that a compiled step leaves in `.grad`.


# %%
def literally(Wx, Wh, b, xs, target):
    h, total = np.zeros((xs.shape[1], len(Wh))), 0.0
    for x, y in zip(xs, target, strict=True):
        z, c = np.split(x @ Wx + h @ Wh + b, 2, axis=1)
        gate = 1 / (1 + np.exp(-z))
        h = gate * h + (1 - gate) * np.tanh(c)
        total += ((h - y) ** 2).sum()
    return total / target.size


weights = [p.numpy().copy() for p in twin.parameters()]
loss = compiled(xs, target).item()
gradients = [p.grad.numpy() for p in twin.parameters()]
print("loss:", loss, "and literally", literally(*weights, xs.numpy(), target.numpy()))
for i, gradient in enumerate(gradients):
    place = tuple(n // 2 for n in gradient.shape)
    ends = []
    for change in (1e-6, -1e-6):
        moved = [w.copy() for w in weights]
        moved[i][place] += change
        ends.append(literally(*moved, xs.numpy(), target.numpy()))
    print(f"gradient {gradient[place]:+.9f}, difference quotient {(ends[0] - ends[1]) / 2e-6:+.9f}")
    assert np.isclose(gradient[place], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-9)
assert np.isclose(loss, literally(*weights, xs.numpy(), target.numpy()), rtol=1e-12)

# %% [markdown]
# ## Another T
#
# Sequences of another length are another program: they are captured. But the loop is the same with
# another number of iterations, and native code takes it, all sizes and strides from a table. So
# Numba's code is not compiled again; the report says "code of an earlier program".

# %%
before = compiled.source()
compiled(*data(20, 8, D, H))
print("captures:", compiled.captures)
print(
    *(line for line in compiled.report().splitlines() if "captured in" in line or "native" in line),
    sep="\n",
)
assert compiled.captures == 2
assert BACKEND.name != "numba" or compiled.source() == before

# %% [markdown]
# ## What a capture cannot do
#
# During the capture there are no values. A function that looks at one, with `float`, `print` or
# `if`, says where:


# %%
@mg.compile
def careless(x):
    loss = (x**2).sum()
    return loss / 10 if float(loss) > 10 else loss


@mg.compile
def careful(x):
    loss = (x**2).sum()
    return mg.where(loss > 10, loss / 10, loss)


try:
    careless(mg.ones(3))
except mg.graph.CaptureError as refused:
    print(refused)
print(careful(mg.ones(3)).item(), careful(10 * mg.ones(3)).item())
assert careful(10 * mg.ones(3)).item() == 30 and careful.captures == 1

# %% [markdown]
# Other effects on Python happen once, at the capture, for the body does not run again: a `print`, a
# counter, an `append`. The report has them under `once:`. What changes from call to call is a
# tensor, and `assign` is the way to change it; an optimizer's state and its learning rate are that.
# A number that the function finds elsewhere is part of what was captured: change it, and the
# function is captured again, and the report says why.

# %%
calls, factor, seen = [], 2.0, mg.Tensor(0)


@mg.compile
def scaled(x):
    calls.append("called")
    seen.assign(seen + 1)
    return factor * x


for _ in range(3):
    scaled(mg.ones(2))
factor = 3.0
result = scaled(mg.ones(2))
print(f"{len(calls)} calls in Python, {seen.item()} by the tensor, result {result.numpy()}")
print(*scaled.report().splitlines()[:4], sep="\n")
assert (len(calls), seen.item(), result.tolist()) == (2, 4, [3.0, 3.0])

# %% [markdown]
# Random numbers are state too: the generator is a tensor, read and assigned by each draw. So a
# dropout mask is fresh at each call, and the same masks come as would without compile.

# %%
noisy = mg.compile(lambda x: mg.functional.dropout(x, 0.5))
mg.random.seed(7)
masks = [noisy(mg.ones(12)).numpy() for _ in range(3)]
mg.random.seed(7)
eager = [mg.functional.dropout(mg.ones(12), 0.5).numpy() for _ in range(3)]
print(np.array(masks).astype(int))
assert np.array_equal(masks, eager) and not np.array_equal(masks[0], masks[1])
assert noisy.captures == 1

# %% [markdown]
# ## Derivatives of a compiled function
#
# `backward` may stand within a compiled function, as in the step above, or gradients flow through
# it from outside, to any order: its derivative is a program as well, made when it is first asked
# for. A transform can itself be compiled: below, the product of the Hessian with a vector. Both
# against difference quotients, and the gradient against the eager one.


# %%
def energy(xs):
    return (outputs(twin, xs) ** 2).sum()


energy_compiled = mg.compile(energy)
curved = mg.compile(lambda xs, v: mg.hvp(energy, (xs,), (v,))[1][0])
xs = data(4, B, D, H)[0]
v = mg.Tensor(np.random.default_rng(1).normal(size=xs.shape))
g, Hv = mg.grad(energy_compiled)(xs), curved(xs, v)
slope, bend = (g * v).sum().item(), (Hv * v).sum().item()
eps = 1e-3
up, here, down = (energy_compiled(xs + e * v).item() for e in (eps, 0.0, -eps))
print(f"slope along v     {slope:.6f}, by differences {(up - down) / (2 * eps):.6f}")
print(f"curvature along v {bend:.5f}, by differences {(up - 2 * here + down) / eps**2:.5f}")
print(*(line.strip() for line in energy_compiled.report().splitlines() if "derivative" in line))
assert np.isclose(slope, (up - down) / (2 * eps), rtol=1e-4)
assert np.isclose(bend, (up - 2 * here + down) / eps**2, rtol=1e-3)
assert np.allclose(g.numpy(), mg.grad(energy)(xs).numpy(), rtol=1e-10, atol=1e-13)

# %% [markdown]
# ## Times
#
# Eager against compiled, float32, in alternation: whatever else your machine does then falls on
# both. Medians, and the smallest and the largest of the rounds' ratios; with few rounds on a busy
# machine believe the first digit, if that. (NumPy's products use several threads, which wait for
# each other where cores are busy: OPENBLAS_NUM_THREADS=1 then is faster.) Nothing is asserted: what
# you see is true of your machine, this backend and these sizes.

# %%
mg.set_default_dtype("float32")


def seconds(f, *args):
    start = time.perf_counter()
    f(*args).item()
    return time.perf_counter() - start


for T, B, D, H in ((20, 1, 32, 32),) if FAST else ((64, 1, 64, 64), (100, 16, 64, 128)):
    (_, _, step), (_, _, other_step) = training(D, H), training(D, H)
    compiled, (xs, target) = mg.compile(other_step), data(T, B, D, H)
    xs, target = xs.astype("float32"), target.astype("float32")
    first = seconds(compiled, xs, target)
    rounds = [
        (seconds(step, xs, target), seconds(compiled, xs, target)) for _ in range(3 if FAST else 15)
    ]
    eager, ours = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratios = sorted(a / b for a, b in rounds)
    print(f"T {T}, B {B}, D {D}, H {H}: eager {eager * 1e3:.2f} ms, compiled {ours * 1e3:.2f} ms,")
    print(
        f"    {statistics.median(ratios):.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    )
    if eager > ours:
        print(
            f"    the first call took {first:.2f} s, which {first / (eager - ours):.0f} calls repay"
        )
mg.set_default_dtype("float64")

# %% [markdown]
# A small network gains most: eagerly Python costs it more than arithmetic does. A large one spends
# its time in products, which nobody can leave out. `python -m minigrad.graph show train.py:step`
# prints the stages of your own step; `step.report()` says what to change.
#
# ## Exercises
#
# 1. Write `clipped(g, limit)`: g, and where its norm exceeds `limit`, g scaled to that norm. It
#    must work compiled, one capture for both cases, and give 0 for g = 0, no NaN.
# 2. Write `average(beta)`: a function of x, compiled, that returns the running average $a
#    \leftarrow \beta a + (1 - \beta) x$, of scalars, with a = 0 before the first call. Each call of
#    `average` begins a new one.
# 3. Write `left(f, xs)`: how many matrix products of f(xs) remain *inside* of loops after all
#    passes, in one iteration. How many does an LSTM have, and how many a feed-forward network that
#    a loop applies to each step?
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 17 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def clipped(g, limit):
    norm = mg.sqrt((g**2).sum())
    return g * mg.where(norm > limit, limit / mg.maximum(norm, limit), 1.0)


def average(beta):
    a = mg.Tensor(0.0)

    @mg.compile
    def update(x):
        a.assign(beta * a + (1 - beta) * x)
        return a * 1

    return update


def left(f, xs):
    *_, (_, graph) = stages(capture(f, xs).graph, BACKEND)
    return sum(len(products(loop.body)) for loop in graph.loops())


def check_1(clipped):
    f = mg.compile(lambda g: clipped(g, 2.0))
    for g, right in (([3.0, 4.0], [1.2, 1.6]), ([0.6, 0.8], [0.6, 0.8]), ([0.0, 0.0], [0.0, 0.0])):
        try:
            found = f(mg.Tensor(g))
        except mg.graph.CaptureError:
            raise AssertionError("it looks at a value: mg.where in place of if") from None
        assert isinstance(found, mg.Tensor) and found.shape == (2,), "return a tensor like g"
        assert np.isfinite(found.numpy()).all(), f"g = {g} gives {found.numpy()}: 0 / 0?"
        assert np.allclose(found.numpy(), right), f"g = {g} with limit 2 is {right}"
    assert f.captures == 1, "one capture serves both cases"


def check_2(average):
    f, other = average(0.5), average(0.5)
    assert callable(f), "return a function"
    found = [float(f(mg.Tensor(8.0))) for _ in range(3)]
    assert found != [4.0, 4.0, 4.0], "what lasts from call to call is a tensor, changed by assign"
    assert np.allclose(found, [4.0, 6.0, 7.0]), f"8, 8, 8 average to 4, 6, 7, not {found}"
    assert isinstance(f, mg.graph.Compiled), "put @mg.compile above the function you return"
    assert float(other(mg.Tensor(8.0))) == 4.0, "each begins anew: make the tensor in `average`"


def check_3(left):
    W, V = mg.ones((3, 3)), mg.ones((3, 4))
    xs = mg.Tensor(np.random.default_rng(0).normal(size=(6, 2, 3)))

    def ahead(xs):
        return mg.stack([mg.tanh(x @ W) @ V for x in xs])

    def recurrent(xs):
        h = mg.zeros((2, 3))
        for x in xs:
            h = mg.tanh(x @ W + mg.tanh(h @ W) @ W)
        return h

    found = left(recurrent, xs)
    assert isinstance(found, int), "return a number"
    assert found != 3, "that is before distribute: take the graph after the last pass"
    assert found == 2, "x @ W leaves the loop; the two products on the way from h to h stay"
    assert left(ahead, xs) == 0, "nothing is carried, so that all products leave"


check_1(clipped)
check_2(average)
check_3(left)
print("exercises: 3 of 3")

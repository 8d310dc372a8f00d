# %% [markdown]
# # Long sequences: truncation, checkpoints, RTRL, and a forecast
#
# You will cut backpropagation through time into chunks, by hand and then as an option; get the
# exact gradient in a fifth of the memory, and a third way, without going back at all; and train a
# network on a chaotic time series, where it has to beat the statistician's linear model.
#
# You need: tutorial 05. It takes about 20 minutes, of which the machine computes for half of one.
# It belongs to the slides "Backpropagation through time" and "Truncated Backpropagation through
# time", and to "time series" on the slide "Applications"; sections 10.2.2 and 10.11 of the book.

# %%
import os
import time
import tracemalloc

import numpy as np

import minigrad as mg
from minigrad_rnn import BPTT, RTRL, TBPTT, Checkpoint, Readout, Residual, RNNCell, unroll
from minigrad_rnn.series import Autoregression, forecasts, mackey_glass
from minigrad_rnn.training import segments

mg.set_default_dtype("float64")
FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
print("a small run" if FAST else "the whole run")

# %% [markdown]
# ## A series
#
# $dx/dt = 0.2 x(t - \tau) / (1 + x(t - \tau)^{10}) - 0.1 x(t)$, Mackey and Glass's model of how the
# body makes blood cells: more where there are few, but $\tau = 17$ days late. The delay makes it
# chaotic: never twice the same, and two series that start close drift apart. It is sampled every 6
# days, as most who use it do, and normalised by its first part, which is for training.

# %%
N, M = 2000, 600  # for training, held out


def series(seed, every=6):
    """One normalised series: its training part (N, 1) and what follows it (M, 1)."""
    x = mackey_glass(mg.random.key(seed), N + M, 1, every=every)
    x = (x - x[:N].mean()) / x[:N].std()
    return x[:N], x[N:]


train, test = series(0)
for value in train[:24, 0]:
    print(f"{value:6.2f}", " " * round(5 * (value + 3)) + "*")
assert abs(train.mean()) < 1e-12 and np.ptp(train) < 6

# %% [markdown]
# ## Chunks
#
# The slides' picture: run forward and backward through chunks of the sequence instead of the whole
# sequence; carry the hidden state forward forever, but backpropagate for a smaller number of steps.
# A model that answers $x_t$ with $x_{t+1}$ is a cell with an output layer, and with the input added
# to its output, because the next value is near the last one. In a loop, truncation is one word,
# `detach`:

# %%
T, H, k = 20, 8, 5
mg.random.seed(0)
model = Residual(Readout(RNNCell(1, H), mg.nn.Linear(H, 1)))
xs, targets = mg.Tensor(train[:T, :, None]), mg.Tensor(train[1 : T + 1, :, None])


def loss(ys, targets):
    return mg.sum(mg.square(ys - targets))


def gradient(parameters):
    """The gradients side by side, a NumPy vector; they are forgotten."""
    flat = np.concatenate([p.grad.numpy().ravel() for p in parameters])
    for p in parameters:
        p.grad = None
    return flat


parameters = model.parameters()
state = model.initial_state(1)
for start in range(0, T, k):
    ys, state = unroll(model, xs[start : start + k], state)
    loss(ys, targets[start : start + k]).backward()  # adds to what the chunks before have left
    state = state.detach()
by_hand = gradient(parameters)

TBPTT(k, k)(model, loss, xs, targets)
as_option = gradient(parameters)
print(f"{len(by_hand)} parameters, difference {np.abs(by_hand - as_option).max():.1e}")
assert np.abs(by_hand - as_option).max() < 1e-12

# %% [markdown]
# A *schedule* is called with the model, the loss, the inputs and the targets, and adds gradients:
# how they are found is an option, and neither the model nor the loss is rewritten. One thing it
# asks of the loss: to be a *sum* over steps (`reduction="sum"`), so that chunks add up to the
# whole. The mean of a chunk would weigh as much as the mean of everything, and nobody could tell.
#
# `TBPTT(k1, k2)` goes back every k1 steps, through the last k2. What is older gets nothing, at all:

# %%
inputs = mg.Tensor(xs, requires_grad=True)
last = np.eye(T)[:, -1:, None]  # as the targets: 1 at the last step, so that the loss is y(20)
TBPTT(k, k)(model, lambda ys, targets: mg.sum(targets * ys), inputs, last)
print("|d y(20) / d x(t)|, t = 11 ... 20:", np.abs(inputs.grad.numpy()[10:, 0, 0]).round(3))
assert (inputs.grad.numpy()[: T - k] == 0).all() and (inputs.grad.numpy()[T - k :] != 0).all()
gradient(parameters)  # forget them

BPTT()(model, loss, xs, targets)
whole = gradient(parameters)
cosines = {}
for k1, k2 in ((1, 1), (2, 2), (5, 5), (10, 10), (1, 5), (20, 20)):
    TBPTT(k1, k2)(model, loss, xs, targets)
    g = gradient(parameters)
    cosines[k1, k2] = g @ whole / np.linalg.norm(g) / np.linalg.norm(whole)
    print(f"TBPTT({k1}, {k2}): cosine with the whole gradient {cosines[k1, k2]:.4f}")
assert cosines[1, 1] < cosines[5, 5] < cosines[20, 20] and cosines[20, 20] > 1 - 1e-12
assert cosines[1, 5] > cosines[5, 5]

# %% [markdown]
# (1, 5) takes every loss back through five steps, where (5, 5) takes the first of a chunk through
# one and the last through five; on average three. It costs five times the work.
#
# ## Exactly, in less memory
#
# Truncation gives up some gradient. Checkpointing gives up some time instead: it keeps the state at
# a few places, and computes a segment again when backward gets there. `Checkpoint(memory)` holds at
# most so many steps at once, and cuts the sequence so that as little as possible is repeated. Where
# the memory is too small for one level of cuts, as 15 is for 200 steps, the segments are cut again
# when backward gets to them, and more is repeated.

# %%
T = 80 if FAST else 200
for memory in (T, T // 4, 15):
    print(f"{T} steps in the memory of {memory}: cut at", segments(T, memory))
assert segments(T, T) == [T]
assert FAST or segments(T, 50) == [40, 80, 120, 160, 200]

# %% [markdown]
# ## Forward in time
#
# The third way never goes back. The derivative of a state by all parameters obeys a recurrence of
# its own, and runs along with the state:
#
# $\partial_\theta h^{(t)} = J^{(t)} \partial_\theta h^{(t-1)} + \partial_\theta f$, where $J^{(t)}$
# is $\partial h^{(t)} / \partial h^{(t-1)}$ and the last term this step's own use of $\theta$.
#
# That is real-time recurrent learning. Here it is for one matrix of a small network, in a loop:

# %%
rng = np.random.default_rng(0)
U, W = mg.Tensor(rng.normal(size=(1, 3))), mg.Tensor(rng.normal(size=(3, 3)), requires_grad=True)


def f(h, W, x):
    return mg.tanh(x @ U + h @ W)


h, influence, g = mg.zeros(3), np.zeros((3, 9)), np.zeros(9)
for x in xs[:, 0]:
    before = h
    by_h = mg.jacobian(f, 0)(before, W, x).numpy()  # (3, 3)
    by_W = mg.jacobian(f, 1)(before, W, x).numpy().reshape(3, 9)
    influence = by_h @ influence + by_W
    h = f(before, W, x).detach()
    g += 2 * h.numpy() @ influence  # of the loss sum of h^2: complete at every step

hs, _ = unroll(lambda x, h: (f(h, W, x),) * 2, xs, mg.zeros((1, 3)))
backwards = mg.pullback(mg.sum(mg.square(hs)), W).numpy().ravel()
print("forward ", g.round(4)[:5])
print("backward", backwards.round(4)[:5])
assert np.abs(g - backwards).max() < 1e-10

# %% [markdown]
# Nothing of the past is kept, so a stream may be endless, and the gradient is exact at every step
# (as long as the weights stay; where they are updated on the way, the influence is that of older
# ones). The price is the influence: states times parameters numbers, here 27, and for the model
# above eight times its 89 parameters. Now all four schedules, on the same model and the same 200
# steps. Times are of one run each; what truncation saves is memory:

# %%
xs, targets = mg.Tensor(train[:T, :, None]), mg.Tensor(train[1 : T + 1, :, None])
found = {}
for schedule in (BPTT(), TBPTT(10, 10), Checkpoint(T // 4), Checkpoint(15), RTRL()):
    schedule(model, loss, xs[:20], targets[:20])  # warm up
    gradient(parameters)
    begin = time.process_time()
    schedule(model, loss, xs, targets)
    seconds = time.process_time() - begin
    gradient(parameters)
    tracemalloc.start()
    schedule(model, loss, xs, targets)
    peak = tracemalloc.get_traced_memory()[1] / 1024
    tracemalloc.stop()
    found[schedule] = gradient(parameters), peak
    exact = found[BPTT()][0]
    error = np.linalg.norm(found[schedule][0] - exact) / np.linalg.norm(exact)
    print(f"{schedule!s:22} {1000 * seconds:6.0f} ms {peak:7.0f} kB, error {error:.1e}")

g, most = found[BPTT()]
assert np.array_equal(found[Checkpoint(T // 4)][0], g)  # to the bit
assert np.abs(found[RTRL()][0] / g - 1).max() < 1e-9
assert np.linalg.norm(found[TBPTT(10, 10)][0] - g) > 0.01 * np.linalg.norm(g)
assert FAST or found[Checkpoint(15)][1] < found[Checkpoint(50)][1] < most / 5

# %% [markdown]
# ## The rival
#
# A statistician's first model of a series is autoregression, $x_t = w_0 + w_1 x_{t-1} + \dots + w_p
# x_{t-p}$, by least squares; how many terms, Akaike's criterion says, which charges for each.
# Forecasts further ahead go on from forecasts.

# %%
linear = Autoregression(train)
FROM, STEPS = 100, 20  # the first steps are context; 20 samples ahead are 120 days


def errors(ahead, test):
    """Root mean squared errors of forecasts (STEPS, M, 1), 1, ..., STEPS ahead, over all starts.

    The series has variance 1: that is the error of always saying the mean.
    """
    true = np.stack([test[FROM + n : M - STEPS + n] for n in range(1, STEPS + 1)])
    return np.sqrt(np.mean((ahead[:, FROM : M - STEPS] - true) ** 2, axis=(1, 2)))


of_linear = errors(linear.forecasts(test, STEPS), test)
print(f"order {linear.order}; errors at 1, 5, 20:", of_linear[[0, 4, 19]].round(3))
assert linear.order > 80 and 0.15 < of_linear[0] < of_linear[19] < 1

# %% [markdown]
# It takes terms back to almost 600 days, nearly all the 100 that it was offered (the series is
# chaotic: another processor's last digit makes another one), and still misses a fifth of a standard
# deviation at the first step: the series is not linear.
#
# ## Training on the stream
#
# 20 pieces of the series lie side by side. Truncated backpropagation goes along them, and after
# each chunk (`after=`) the optimizer takes a step. The state is carried from chunk to chunk.


# %%
def learn(train, seed, H=32, k=20, B=20, passes=40):
    """A network trained to say the next value of a series."""
    mg.random.seed(seed)
    model = Residual(Readout(RNNCell(1, H), mg.nn.Linear(H, 1)))
    L = (len(train) - 1) // B
    xs, targets = (
        mg.Tensor(part[: L * B].reshape(B, L).T[..., None]) for part in (train, train[1:])
    )
    parameters = model.parameters()
    optimizer = mg.optim.Adam(parameters, lr=0.01)
    decay = mg.optim.CosineSchedule(optimizer, passes * -(-L // k))

    def update(steps, value):
        mg.optim.clip_by_global_norm(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay.step()

    def scaled(ys, targets):  # by a constant: still a sum over steps
        return loss(ys, targets) / (k * B)

    for _ in range(passes):
        TBPTT(k, k)(model, scaled, xs, targets, after=update)
    return model


def compared(seed, every=6, passes=40):
    """The errors of the linear model and of the network on what follows one series."""
    train, test = series(seed, every)
    net = learn(train, seed, passes=passes)
    ahead = forecasts(net, mg.Tensor(test[..., None]), STEPS).numpy()[..., 0]
    return errors(Autoregression(train).forecasts(test, STEPS), test), errors(ahead, test)


passes, seeds = (8, (0,)) if FAST else (80, (0, 1, 2, 3, 4))
runs = []
print("seed    1 ahead: linear  network   20 ahead: linear  network")
for seed in seeds:
    runs.append(compared(seed, passes=passes))
    (l1, *_, l20), (n1, *_, n20) = runs[-1]
    print(f"{seed:4} {l1:16.3f} {n1:8.3f} {l20:17.3f} {n20:8.3f}")
    assert n1 < l1
    assert FAST or (n1 < l1 / 4 and n20 < l20)

# %% [markdown]
# In the whole run: five series, five networks, all better at both horizons.
#
# ## Forced and free-running
#
# One ahead, the network is *forced*: its input is the truth, at every step. Further ahead it runs
# *free*: its input is what it said itself, errors included, and chaos multiplies them. Training saw
# the first alone. The forced error is the same wherever it is measured; the free one grows:

# %%
free = np.mean([network for _, network in runs], axis=0)
for n in (1, 2, 5, 10, 15, 20):
    print(f"{n:3} ahead {free[n - 1]:.3f} ", "#" * round(100 * free[n - 1]))
growth = free[19] / free[0]
print(f"after 20 steps the error is {growth:.1f} times the forced one")
assert free[19] > free[9] > free[4] > free[0]
assert FAST or growth > 3

# %% [markdown]
# And where does the network lose? Sampled daily instead of every 6 days, the series is so smooth
# that a sum of the last values hits the next to three digits. There, one ahead, least squares is
# hard to beat by a few seconds of gradient descent, and 20 ahead, now 20 days, it wins as well.

# %%
daily_linear, daily = compared(0, every=1, passes=passes)
print(f" 1 ahead: linear {daily_linear[0]:.4f}, network {daily[0]:.4f}")
print(f"20 ahead: linear {daily_linear[19]:.4f}, network {daily[19]:.4f}")
assert daily_linear[0] < 0.001
assert FAST or (daily > daily_linear)[[0, 19]].all()

# %% [markdown]
# ## Exercises
#
# 1. Write `best_cut(T)`. Cut into s segments, a sequence of T steps needs s states and one segment
#    of $T/s$ steps, rounded up, at once. Return an s for which that is least.
# 2. Write `truncated(w, xs, k)` for $h^{(t)} = w h^{(t-1)} + x^{(t)}$, $h^{(0)} = 0$: w is a
#    parameter without axes, xs a list of numbers. Return the gradient of $\sum_t h^{(t)}$ by w, as
#    a number, truncated to chunks of k steps.
# 3. Write `rtrl(w, u, xs)` for one unit, $h^{(t)} = \tanh(w h^{(t-1)} + u x^{(t)})$, $h^{(0)} = 0$,
#    and the loss $\sum_t (h^{(t)})^2$: w and u are floats, xs an iterator, over which you can go
#    once. Return the pair of derivatives by w and u, without the engine and without keeping states.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 11 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def best_cut(T):
    return min(range(1, T + 1), key=lambda s: s + -(-T // s))


def truncated(w, xs, k):
    h, total = mg.Tensor(0.0), 0.0
    for t, x in enumerate(xs):
        if t % k == 0:
            h = h.detach()
        h = w * h + x
        total = total + h
    return mg.pullback(total, w).item()


def rtrl(w, u, xs):
    h = by_w = by_u = of_w = of_u = 0.0
    for x in xs:
        new = np.tanh(w * h + u * x)
        by_w, by_u = ((1 - new**2) * (s + w * by) for s, by in ((h, by_w), (x, by_u)))
        h = new
        of_w, of_u = of_w + 2 * h * by_w, of_u + 2 * h * by_u
    return of_w, of_u


def check_1(best_cut):
    for T in (1, 2, 10, 100, 1000):
        s = best_cut(T)
        assert s is not None, "return the number of segments"
        assert s == int(s) and 1 <= s <= T, f"between 1 and T segments, not {s}"
        least = min(n + (T + n - 1) // n for n in range(1, T + 1))
        held = s + (T + s - 1) // s
        assert held <= least, f"T = {T}: {s} segments hold {held}, {least} is possible; try sqrt(T)"


def check_2(truncated):
    w, xs = 0.5, [1.0, -2.0, 3.0, 0.5, -1.0, 2.0, 4.0]
    for k in (1, 2, 3, 7):
        h, expected = [0.0], 0.0  # share of the use of w at step s in h(t): w^(t - s) h(s - 1)
        for t, x in enumerate(xs):
            h.append(w * h[-1] + x)
            first = t - t % k  # of the chunk
            expected += sum(w ** (t - s) * h[s] for s in range(first, t + 1))
        found = truncated(mg.nn.Parameter(w), list(xs), k)
        assert found is not None, "return the gradient"
        assert abs(float(found) - expected) < 1e-9, (
            f"chunks of {k}: the state is carried on as it is, but detached where a chunk begins"
        )


def check_3(rtrl):
    w, u, xs = 0.8, -0.6, [0.5, -1.0, 2.0, 0.3, 0.9]

    def total(w, u):
        h = result = 0.0
        for x in xs:
            h = np.tanh(w * h + u * x)
            result += h * h
        return result

    found = rtrl(w, u, iter(xs))
    assert found is not None and len(found) == 2, "return the pair of derivatives, by w and by u"
    step = 1e-6
    by_w = (total(w + step, u) - total(w - step, u)) / (2 * step)
    by_u = (total(w, u + step) - total(w, u - step)) / (2 * step)
    hint = "dh(t) = (1 - h(t)^2) (w dh(t-1) + {}); the loss adds 2 h(t) dh(t)"
    assert abs(float(found[0]) - by_w) < 1e-6, "by w: " + hint.format("h(t-1)")
    assert abs(float(found[1]) - by_u) < 1e-6, "by u: " + hint.format("x(t)")


check_1(best_cut)
check_2(truncated)
check_3(rtrl)
print("exercises: 3 of 3")

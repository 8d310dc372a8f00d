# %% [markdown]
# # Vanishing and exploding gradients
#
# You will measure how much of a gradient is left after a hundred steps, stand at the cliff of the
# book's Fig 10.17 and go down it with and without clipping, and see a regulariser bring a vanished
# gradient back.
#
# You need: tutorial 05. It takes about 20 minutes, of which the machine computes for a quarter of
# one. It belongs to the slides "Vanishing/Exploding Gradients", "Vanishing (and Exploding) Gradient
# Problem", "How to deal with vanishing gradients?", to Fig 10.15 "Exploding Gradients from Function
# Composition" and Fig 10.17 "Gradient Clipping"; equations 10.36 to 10.39 and 10.48 to 10.52.

# %%
import math
import os

import numpy as np

import minigrad as mg
from minigrad_rnn import ClippedState, LSTMCell, RNNCell, unroll
from minigrad_rnn.landscapes import Unit, cliff, composed, extrema, flat_share
from minigrad_rnn.vanishing import jacobian_norms, omega, state_jacobians

mg.set_default_dtype("float64")
FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
print("a small run" if FAST else "the whole run")

# %% [markdown]
# ## Powers of one matrix
#
# Take the nonlinearity and the inputs away. What is left is $h^{(t)} = W^\top h^{(t-1)}$, equation
# 10.36, so $h^{(t)} = (W^t)^\top h^{(0)}$. Where $W = Q \Lambda Q^\top$, Q orthogonal, this is $Q
# \Lambda^t Q^\top h^{(0)}$, equation 10.39: every eigenvalue is raised to the power t. A gradient
# takes the same road back and meets the same powers.
#
# `jacobian_norms` gives the largest singular value of $\partial h^{(T)} / \partial h^{(t)}$ for
# every t. It is measured on the recorded graph, by pullbacks, and knows nothing of eigenvalues.

# %%
T, H = 100, 4
mg.random.seed(0)
Q = mg.nn.orthogonal((H, H)).numpy()
xs = mg.random.normal(mg.random.key(1), (T, 1, 1))


def symmetric(radius, activation):
    """A recurrent cell whose W is symmetric, its largest eigenvalue the radius."""
    cell = RNNCell(1, H, activation)
    cell.Wh.assign(Q @ np.diag(radius * np.array([1, -0.8, 0.5, -0.1])) @ Q.T)
    return cell


def linear(a):
    return a


curves = {}
for radius in (0.9, 1.0, 1.1):
    curves[radius] = jacobian_norms(symmetric(radius, linear), xs)[:, 0]
    after = curves[radius][[T - 1, T - 10, T - 50, 0]]
    print(f"radius {radius}: after 1, 10, 50, 100 steps", " ".join(f"{n:.3g}" for n in after))
    law = radius ** np.arange(T, -1, -1)
    assert np.abs(curves[radius] / law - 1).max() < 1e-10

# %% [markdown]
# A spectral radius of 0.9 leaves $0.9^{100} = 2.7 \times 10^{-5}$ of a gradient, 1.1 makes it
# 13,781 times as large. A gradient that lasts takes a radius of 1, hardly more and hardly less.
#
# ## With tanh, and with a gate
#
# tanh only makes it worse: $\tanh' \leq 1$, so each step's factor is at most the radius, and less
# wherever a unit is far from 0. "Must rely on network structure", says the slide: the LSTM's cell
# is carried on by a *sum*, $c^{(t)} = f c^{(t-1)} + i g$, and its gradient meets the forget gates
# alone. Give the forget gate a bias of 5 and all weights the value 0: the factor is $\sigma(5)$,
# 0.9933, at every step.

# %%
curves["tanh"] = jacobian_norms(symmetric(0.9, mg.tanh), xs)[:, 0]

lstm = LSTMCell(1, H)
for weight in (lstm.Wx, lstm.Wh):
    weight.assign(np.zeros(weight.shape))
lstm.b.assign(np.repeat([0.0, 5.0, 0.0, 0.0], H))  # gates in order i, f, g, o
jacobians = state_jacobians(lstm, xs).numpy()[:, 0]  # of (h, c), 2H by 2H
curves["lstm"] = np.linalg.norm(jacobians[:, H:, H:], ord=2, axis=(1, 2))  # c by c

sigma = 1 / (1 + math.exp(-5))
print(f"tanh, radius 0.9: {curves['tanh'][0]:.2g}    LSTM: {curves['lstm'][0]:.3f}")
assert curves["tanh"][0] <= 0.9**T
assert abs(curves["lstm"][0] - sigma**T) < 1e-9 and round(sigma**T, 3) == 0.511

# %% [markdown]
# On a logarithmic scale these are straight lines. (With matplotlib, `landscapes.draw_norms(curves)`
# draws them; here they are in characters, one row a curve, from lag 0 on the left to lag 100.)

# %%
MARKS = " .:-=+*#%@"


def bar(norms):
    """Norms from lag 0 on, as marks between 1e-6 (blank) and 1 (@)."""
    level = np.log10(np.clip(norms[::-1][::2], 1e-6, 1)) / 6 + 1
    return "".join(MARKS[round(9 * share)] for share in level)


for name, norms in curves.items():
    print(f"{name!s:5} |{bar(norms)}|")
assert bar(curves[0.9])[0] == "@" and bar(curves[1.0]) == 51 * "@"

# %% [markdown]
# ## What that does to learning
#
# Let a tanh network be asked about its state at the last step only. Its weight was used at each
# step, and each use has a share in the gradient (tutorial 05). Those of long ago hardly count,
# whatever happened there.

# %%
cell = symmetric(0.9, mg.tanh)
hs, _ = unroll(cell, xs)
parts = mg.pullback(mg.sum(mg.square(hs[-1])), cell.Wh, split="use").numpy()
sizes = np.linalg.norm(parts, axis=(1, 2))
print("steps  1..50 :", f"{sizes[:50].sum():.2g}")
print("steps 51..90 :", f"{sizes[50:90].sum():.2g}")
print("steps 91..100:", f"{sizes[90:].sum():.2g}")
assert parts.shape == (T, H, H)
assert sizes[:50].sum() < 0.01 * sizes[90:].sum()

# %% [markdown]
# ## Fig 10.15: composition folds a curve
#
# The same thing seen from the input. A line through a space of 100 dimensions goes through $\tanh(W
# h)$ once, twice, ..., six times, and one coordinate is looked at. With large weights each
# composition folds the curve again: it turns more often, and is almost flat between a few very
# steep places. Either there is nearly no gradient, or there is far too much of it.

# %%
x = mg.Tensor(np.linspace(-20, 20, 801 if FAST else 2001), requires_grad=True)
rng = np.random.default_rng(0)
turns, flat = np.zeros(6), np.zeros(6)
repeats = 4 if FAST else 15
for _ in range(repeats):
    W = mg.Tensor(3 * rng.normal(size=(100, 100)) / 10)
    direction, projection = (mg.Tensor(rng.normal(size=100) / 10) for _ in range(2))
    ys = composed(x, W, direction, projection, 5)
    for k, y in enumerate(ys):
        slopes = mg.pullback(mg.sum(y), x).numpy()
        turns[k] += extrema(y.numpy()) / repeats
        flat[k] += flat_share(slopes) / repeats
print("further compositions  ", *(f"{k:5}" for k in range(6)))
print("turns                 ", *(f"{n:5.1f}" for n in turns))
print("share that is flat    ", *(f"{share:5.2f}" for share in flat))
assert turns[0] < turns[2] < turns[5] and turns[5] > 3 * turns[0]
assert flat[3:].min() > 0.85 > flat[0]

# %% [markdown]
# ## Fig 10.17: the cliff
#
# One unit without input is enough: $x^{(t)} = w \sigma(x^{(t-1)}) + b$, $x^{(0)} = 0$, and after 20
# steps the error $E = (\sigma(x^{(20)}) - 0.7)^2$. At $b = -w/2$ the unit can settle at either of
# two values (for w above 4). A step to either side decides, and E has a cliff. How steep is it?
# Near $x = 0$ the slope of $w \sigma$ is $w/4$, so it should become $w/4$ times as steep with each
# further step. All distances from the edge are one batch: a `Unit` takes arrays for w and b.


# %%
def steepest(w, T):
    """The largest |dE/db| found close to the edge of the cliff."""
    distances = 20 * (w / 4) ** -T * np.linspace(1e-3, 1, 2000)
    unit = Unit(np.full(2000, w), -w / 2 - distances)
    mg.sum(cliff(unit, T)).backward()
    return np.abs(unit.b.grad.numpy()).max()


lengths = range(10, 51, 10)
for w in (5.0, 6.0, 8.0):
    logs = [math.log(steepest(w, T)) for T in lengths]
    slope = np.polyfit(lengths, logs, 1)[0]
    print(f"w = {w:.0f}: times {math.exp(slope):.3f} a step, w/4 = {w / 4:.3f}", end="; ")
    print(f"after 50 steps |dE/db| is {math.exp(logs[-1]):.2g}")
    assert abs(slope / math.log(w / 4) - 1) < 0.03

# %% [markdown]
# ## Down the cliff, with and without clipping
#
# The slide's rule is $\nabla L \leftarrow \min(1, \epsilon / |\nabla L|) \nabla L$, equations 10.48
# and 10.49. The norm is that of *all* parameters' gradients together: the direction stays, and
# where the norm is below $\epsilon$ nothing changes. Two runs from one place, one of them clipped.


# %%
def descend(clip, steps=100, rate=0.3):
    """Gradient descent on E from (6, -2.9), until it leaves the axes of the figure."""
    unit, path = Unit(np.array(6.0), np.array(-2.9)), [(6.0, -2.9)]
    sgd = mg.optim.SGD(unit.parameters(), lr=rate)
    for _ in range(steps):
        sgd.zero_grad()
        cliff(unit).backward()
        if clip:
            mg.optim.clip_by_global_norm(unit.parameters(), 1.0)
        sgd.step()
        path.append((unit.w.item(), unit.b.item()))
        if not (-2 <= path[-1][0] <= 8 and -4 <= path[-1][1] <= 2):
            break
    return path


for clip in (False, True):
    path = descend(clip)
    with mg.no_grad():
        E = cliff(Unit(*map(np.array, path[-1]))).item()
    print(f"{'clipped' if clip else 'plain':8}{len(path) - 1:4} steps, ", end="")
    print(f"then w = {path[-1][0]:.4g}, b = {path[-1][1]:.4g}, E = {E:.3f}")
    assert (len(path) == 101) == clip

# %% [markdown]
# The plain run meets the face of the cliff, and one step throws it off the figure. The clipped run
# may still step over the edge, but lands nearby. (`minigrad-rnn figure 10.17` draws the surface.)
#
# There are relatives. `mg.optim.clip_by_value` cuts each element by itself, and turns the
# direction. `ClippedState(cell, limit)` cuts what flows back from each step into the one before
# (Graves): the forward pass is unchanged. `mg.optim.step_if_nonfinite` puts a random step of a
# given size where a gradient is infinite or NaN; a large step in *any* direction gets away.

# %%
unit = Unit(np.array(6.0), np.array(-3.0 - 1e-3))
g = np.array([part.item() for part in mg.pullback(cliff(unit), unit.parameters())])
found = {"plain": g}
for name, clip in {
    "joint norm": mg.optim.clip_by_global_norm,
    "each value": mg.optim.clip_by_value,
}.items():
    for parameter, part in zip(unit.parameters(), g, strict=True):
        parameter.grad = mg.Tensor(part)
    clip(unit.parameters(), 1.0)
    found[name] = np.array([parameter.grad.item() for parameter in unit.parameters()])
pulled = mg.pullback(cliff(ClippedState(unit, 0.05)), unit.parameters())
found["each step"] = np.array([part.item() for part in pulled])
for name, v in found.items():
    cosine = v @ g / np.linalg.norm(v) / np.linalg.norm(g)
    print(f"{name:11} ({v[0]:8.3f}, {v[1]:8.3f})  norm {np.linalg.norm(v):8.3f}  cos {cosine:.3f}")
assert np.allclose(found["joint norm"], g / np.linalg.norm(g), rtol=1e-12)
assert np.abs(found["each value"]).tolist() == [1, 1]
assert np.linalg.norm(found["each step"]) <= 20 * 0.05 * 2

# %% [markdown]
# ## A vanished gradient cannot be scaled back
#
# Clipping is no help against small gradients, and neither is its opposite: the share of long ago is
# small *against that of yesterday*, and a factor keeps the ratio. Pascanu's regulariser asks each
# step to keep the norm of what passes through it, equation 10.52:
#
# $\Omega = \sum_t (|g^{(t)} \, \partial h^{(t)} / \partial h^{(t-1)}| / |g^{(t)}| - 1)^2$, with
# $g^{(t)} = \nabla_{h^{(t)}} L$.
#
# To train with it is to differentiate through a gradient. The book expects that to be difficult and
# reports an approximation, with $g^{(t)}$ taken for a constant; here gradients are recorded like
# all else, and `mode="exact"` is just the formula. First, is it? One entry of W, by differences:

# %%
mg.random.seed(3)
cell = RNNCell(2, 5)
inputs = mg.random.normal(mg.random.key(4), (6, 1, 2))


def last_square(hs):
    return mg.sum(mg.square(hs[-1]))


start, shift = cell.Wh.numpy().copy(), np.zeros((5, 5))
shift[1, 2] = 1e-6
values = []
for sign in (1, -1):
    cell.Wh.assign(start + sign * shift)
    values.append(omega(cell, last_square, inputs)[1].item())
cell.Wh.assign(start)
difference = (values[0] - values[1]) / 2e-6
modes = {
    mode: mg.pullback(omega(cell, last_square, inputs, mode=mode)[1], cell.Wh)[1, 2].item()
    for mode in ("exact", "approximate")
}
print(f"differences {difference:.7f}", *(f"{mode} {g:.7f}" for mode, g in modes.items()))
assert abs(modes["exact"] - difference) < 1e-7
assert abs(modes["approximate"] - difference) > 1e-3

# %% [markdown]
# Then, does it work? A tanh network whose recurrent weights start at half the size of an orthogonal
# matrix, over 20 steps, with a loss at the end. What share of the gradient at the last state still
# reaches the first one, before and after training with Omega alone?

# %%
mg.random.seed(0)
T, H = 20, 16
cell = RNNCell(4, H)
cell.Wh.assign(0.5 * cell.Wh.numpy())
readout = mg.Tensor(np.random.default_rng(1).normal(size=(H, 1)))


def loss(hs):
    return mg.mean(mg.square(hs[-1] @ readout - 1))


def reach():
    """|dL/dh(1)| / |dL/dh(T)| on inputs that were not trained with, the median over a batch."""
    states, h = [], cell.initial_state(50)
    for x in mg.random.normal(mg.random.key(99), (T, 50, 4)):
        _, h = cell(x, h)
        states.append(h)
    first, last = mg.pullback(loss(mg.stack(states)), [states[0], states[-1]])
    norms = (np.linalg.norm(g.numpy(), axis=1) for g in (first, last))
    return float(np.median(np.divide(*norms)))


before = reach()
optimizer = mg.optim.Adam(cell.parameters(), lr=0.01)
for n in range(20 if FAST else 100):
    optimizer.zero_grad()
    xs = mg.random.normal(mg.random.key(5).fold(n), (T, 20, 4))
    _, term = omega(cell, loss, xs)
    term.backward()
    optimizer.step()
after = reach()
print(f"Omega {term.item():.2f}; share that reaches step 1: {before:.2g} before, {after:.2g} after")
assert before < 1e-5 and after > 10 * before
assert FAST or after > 1e-2

# %% [markdown]
# Does a network that keeps its gradients then also *learn* over long lags? That takes longer to
# show: `minigrad-rnn experiment temporal_order` trains one to tell which of two symbols came first,
# with clipping, and with Omega besides (its gradient as published, which there learns every time,
# and the exact one, which does not). The other answers, gated cells and slower time scales, are
# the next tutorials' matter.
#
# ## Exercises
#
# 1. Write `clipped(gradients, limit)` that takes a list of NumPy arrays, the gradients of several
#    parameters, and returns the list clipped by their joint norm (equations 10.48 and 10.49).
# 2. Write `shares(loss, W)` that takes a recorded loss and a weight used at T steps, and returns
#    the norm of each step's share in the gradient of W, a NumPy array (T,).
# 3. Write `omega_of(loss, hs)` that takes a recorded loss which looks at the last state alone, and
#    the list of states, each (1, H), and returns Omega as a tensor that can itself be
#    differentiated. Hint: for such a loss, what is $\nabla_{h^{(t)}} L$ times $\partial h^{(t)} /
#    \partial h^{(t-1)}$?
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 9 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def clipped(gradients, limit):
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    return [g * min(1.0, limit / norm) if norm else g for g in gradients]


def shares(loss, W):
    return np.linalg.norm(mg.pullback(loss, W, split="use").numpy(), axis=(1, 2))


def omega_of(loss, hs):
    norms = [mg.sqrt(mg.sum(g * g)) for g in mg.pullback(loss, hs)]
    return sum(mg.square(norms[t - 1] / norms[t] - 1) for t in range(1, len(hs)))


def check_1(clipped):
    gradients = [np.array([3.0, 0.0]), np.array([[4.0]])]  # of norm 5
    found = clipped([g.copy() for g in gradients], 1.0)
    assert found is not None, "return the list of clipped arrays"
    assert len(found) == 2, "return one array for each of the given ones"
    right = np.allclose(found[0], [0.6, 0.0]) and np.allclose(found[1], [[0.8]])
    assert right, "the norm is that of all arrays together: here sqrt(3^2 + 4^2) = 5"
    same = clipped([g.copy() for g in gradients], 6.0)
    assert all(map(np.array_equal, same, gradients)), "below the limit nothing changes"
    with np.errstate(all="ignore"):
        still = clipped([np.zeros(2), np.zeros(1)], 1.0)
    assert all((g == 0).all() for g in still), "a gradient of zero stays zero: 0 / 0 is in the way"


def check_2(shares):
    w, T = 0.5, 4  # h(t) = w h(t-1) + 1: the share of step t in dh(T)/dw is w^(T - t) h(t-1)
    W, h = mg.nn.Parameter([[w]]), mg.zeros((1, 1))
    for _ in range(T):
        h = h @ W + 1.0
    found = shares(mg.sum(h), W)
    assert found is not None, "return the norms"
    found = np.asarray(found)
    assert found.shape == (T,), f'one norm a step, here {T}: mg.pullback has split="use"'
    states = [0, 1, 1.5, 1.75]
    expected = [w ** (T - 1 - t) * states[t] for t in range(T)]
    assert np.allclose(found, expected), "the norms, first step first, each over both axes of W"


def check_3(omega_of):
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])  # a rotation: keeps all norms
    for scale, T in ((1.0, 5), (0.7, 4)):
        W, h, hs = mg.nn.Parameter(scale * turn), mg.Tensor([[1.0, 2.0]]), []
        for _ in range(T):
            h = h @ W
            hs.append(h)
        found = omega_of(mg.sum(h), hs)
        assert found is not None, "return Omega"
        expected = (T - 1) * (scale - 1) ** 2
        assert abs(float(found) - expected) < 1e-9, (
            f"{scale} times a rotation scales every norm by {scale}: Omega is {expected:.3g}, a "
            f"sum over t = 2, ..., T"
        )
    assert isinstance(found, mg.Tensor) and found.requires_grad, "stay with tensors: mg.sqrt"
    by_scale = float(mg.sum(mg.pullback(found, W) * turn))
    assert abs(by_scale - 2 * 3 * (0.7 - 1)) < 1e-6, "its derivative by W is wrong"


check_1(clipped)
check_2(shares)
check_3(omega_of)
print("exercises: 3 of 3")

# %% [markdown]
# # Unfolding, and one weight in many places
#
# You will unroll a dynamical system and a recurrent network by a plain loop, see that the shared
# weight is *one* leaf with many uses, and take its gradient apart into one part per step: that is
# equation 10.25 of the book, measured. And you will see the loop found again in the graph.
#
# You need: tutorials 01 and 02. It takes about 20 minutes. It belongs to Fig 10.1 "Classical
# Dynamical Systems", Fig 10.2 "Unfolding Computation Graphs", Fig 10.3 "Recurrent Hidden Units"
# and to the slide "Re-use the same weight matrix at every time-step".

# %%
import numpy as np

import minigrad as mg
from minigrad_rnn import unroll

mg.set_default_dtype("float64")

# %% [markdown]
# ## Fig 10.1: a system that runs by itself
#
# $s^{(t)} = f(s^{(t-1)}; \theta)$, equation 10.1. Unfolded three times it is $s^{(3)} =
# f(f(f(s^{(0)}; \theta); \theta); \theta)$: an ordinary expression without recurrence. Here $f$
# rotates a point and shrinks it; $\theta$ is the pair (angle, factor).

# %%
theta = mg.nn.Parameter([0.3, 0.9])
theta.name = "theta"


def f(x, s):  # a cell: (input, state) -> (output, state); this one takes no input
    angle, factor = theta
    c, d = mg.cos(angle), mg.sin(angle)
    s = factor * mg.stack([c * s[..., 0] - d * s[..., 1], d * s[..., 0] + c * s[..., 1]], axis=-1)
    return s, s


s0 = mg.Tensor([[1.0, 0.0]])
path, last = unroll(f, None, s0, steps=3)
by_hand = f(None, f(None, f(None, s0)[1])[1])[1]
assert np.array_equal(last.numpy(), by_hand.numpy())
print(path.numpy()[:, 0])

# %% [markdown]
# The loop inside `unroll` is a Python `for`; without masks it reads: `y, state = cell(x, state)`.
# After it there is no loop left, only the graph it has recorded. The number of leaves does not
# grow with the number of steps:


# %%
def leaves(y):
    """The leaves that y depends on, found by walking the recorded nodes."""
    seen, waiting = {y.node}, [y.node]
    while waiting:
        for parent in waiting.pop().parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return sum(node.op is None for node in seen), len(seen)


for steps in (1, 3, 10, 30):
    count, nodes = leaves(unroll(f, None, s0, steps=steps)[1])
    print(f"{steps:2} steps: {count} leaf, {nodes} nodes")
    assert count == 1

# %% [markdown]
# ## Fig 10.3: hidden units with recurrence
#
# Equations 10.8 to 10.11, with the loss of 10.14, for one sequence of vectors with a label each:
#
# $a^{(t)} = b + W h^{(t-1)} + U x^{(t)}$, $h^{(t)} = \tanh a^{(t)}$, $o^{(t)} = c + V h^{(t)}$,
# $\hat y^{(t)} = \mathrm{softmax}(o^{(t)})$, $L = -\sum_t \log \hat y^{(t)}_{y^{(t)}}$.
#
# The book has columns, $W h$; code has a row for each sequence of a batch, `h @ W`. So every weight
# below is the book's, transposed.

# %%
T, D, H, K = 6, 3, 4, 3
rng = np.random.default_rng(0)
U, W, V = (mg.nn.Parameter(rng.normal(size=s)) for s in ((D, H), (H, H), (H, K)))
b, c = mg.nn.Parameter(np.zeros(H)), mg.nn.Parameter(np.zeros(K))
xs = mg.Tensor(rng.normal(size=(T, 1, D)))
labels = rng.integers(0, K, size=(T, 1))


def step(x, h):
    h = mg.tanh(b + h @ W + x @ U)
    return h, h


hs, _ = unroll(step, xs, mg.zeros((1, H)))
loss = mg.functional.cross_entropy(hs @ V + c, labels, reduction="sum")
print("L =", loss.item())

# %% [markdown]
# The output layer stands outside the loop: $o^{(t)}$ does not feed back, so all T products with V
# are one product of matrices.
#
# ## Equations 10.25 and 10.26: the gradient of a shared weight, use by use
#
# The book writes $\nabla_W L = \sum_t \mathrm{diag}(1 - (h^{(t)})^2) (\nabla_{h^{(t)}} L)
# h^{(t-1)\top}$, and introduces copies $W^{(t)}$, each used at step t only, to say what a single
# term means. The engine needs no copies: backward sends T contributions to `W`, and it can keep
# them apart:

# %%
parts = mg.pullback(loss, W, split="use")
total = mg.pullback(loss, W)
print(parts.shape)
assert parts.shape == (T, H, H)
assert np.abs(parts.numpy().sum(axis=0) - total.numpy()).max() < 1e-12

# %% [markdown]
# Check it against the book's copies: T parameters with equal values, one a step.

# %%
copies = [mg.nn.Parameter(W.numpy()) for _ in range(T)]
h, outputs = mg.zeros((1, H)), []
for x, W_t in zip(xs, copies, strict=True):
    h = mg.tanh(b + h @ W_t + x @ U)
    outputs.append(h)
copied_loss = mg.functional.cross_entropy(mg.stack(outputs) @ V + c, labels, reduction="sum")
copied = mg.pullback(copied_loss, copies)
assert all(
    np.abs(g.numpy() - part).max() < 1e-12 for g, part in zip(copied, parts.numpy(), strict=True)
)
# A backward that tells the norms alone; the graph is needed again below, so it is retained.
norms = loss.backward_norms(W, retain_graph=True).numpy()
print("norm of each step's share:", norms.round(3))
assert np.allclose(norms, np.linalg.norm(parts.numpy(), axis=(1, 2)))

# %% [markdown]
# The first share is zero: at the first step $h^{(0)} = 0$, and the term has $h^{(t-1)}$ as a
# factor.
#
# ## The same, literally
#
# Equations 10.18 to 10.21 give $\nabla_{h^{(t)}} L$ from the last step back, a loop of one line in
# NumPy. The book's $W^\top g$ is `W @ g` here, where W is transposed already:

# %%
hidden = hs.numpy()[:, 0]
logits = hidden @ V.numpy() + c.numpy()
probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
nabla_o = probabilities - np.eye(K)[labels[:, 0]]  # eq 10.18
nabla_h = nabla_o @ V.numpy().T  # eq 10.19 and the second term of 10.20
for t in reversed(range(T - 1)):
    nabla_h[t] += W.numpy() @ ((1 - hidden[t + 1] ** 2) * nabla_h[t + 1])  # its first, 10.21
before = np.vstack([np.zeros(H), hidden[:-1]])
literal = np.einsum("ti,tj->tij", before, (1 - hidden**2) * nabla_h)  # eq 10.26, term by term
assert np.abs(literal - parts.numpy()).max() < 1e-12
print("largest difference:", np.abs(literal - parts.numpy()).max())

# %% [markdown]
# The loss is a sum over steps. What the loss of step t *alone* sends to the use of `W` at step s is
# one such term, with a product of the Jacobians of the steps between. Each of them has slopes of
# tanh as factors, at most 1, and here it thins out on the way back: the gradient vanishes. (That
# the first share is 0 has the other reason, $h^{(0)} = 0$. `minigrad_rnn.instruments` measures this
# of any cell, and draws it.)


# %%
def literally(t):
    """The terms of eq 10.26 for the loss of step t alone, one for each use up to t."""
    g, terms = nabla_o[t] @ V.numpy().T, []
    for s in reversed(range(t + 1)):
        g = (1 - hidden[s] ** 2) * g
        terms.insert(0, np.outer(before[s], g))
        g = W.numpy() @ g
    return np.array(terms)


print("the last loss:", np.linalg.norm(literally(T - 1), axis=(1, 2)).round(3))
summed = sum(np.pad(literally(t), ((0, T - 1 - t), (0, 0), (0, 0))) for t in range(T))
assert np.abs(summed - literal).max() < 1e-12

# %% [markdown]
# ## Folded again
#
# The loop is gone from the recorded graph, but not lost: the graph repeats itself, and `mg.fold`
# finds the period. What it gives is the left side of Fig 10.2: one step, with the black square, the
# delay of one step, written out as `delay 1 of`. For another number of steps the numbers change, T
# in `for t in` and in the shapes, and the body stays. `mg.unfold` goes the other way.

# %%
for name, parameter in {"U": U, "W": W, "b": b}.items():
    parameter.name = name


def unrolled(xs):
    return unroll(step, xs, mg.zeros((1, H)))[0]


folded = mg.fold(unrolled, xs)
print(folded)
assert [loop.trips for loop in folded.loops()] == [T]
assert [edge.delay for edge in folded.delay_edges()] == [1]
body = folded.loops()[0].body
assert len(mg.unfold(folded).steps) == T * len(body) + 2  # unstack before, stack after

# %% [markdown]
# ## The picture
#
# Two steps of it. `W` and `U` stand there once each, with an arrow to every use.

# %%
small, _ = unroll(step, xs[:2], mg.zeros((1, H)))
picture = mg.draw(small.sum(), values=False, gradients=False)
assert picture.svg.count("tanh") >= 2
picture

# %% [markdown]
# ## Exercises
#
# 1. Write `uses(loss, weight)`: how often a weight was used in computing a loss. Why is it not T
#    for `V`?
# 2. Write `window(k)`: the gradient by `W` of the *last* step's loss, use by use, (k, H, H), when
#    nothing flows back past the last `k` steps: *truncated* backpropagation. Use `h.detach()` at
#    one place of the loop.
# 3. Write `matrix(losses, weight)`: for the T losses of an unrolled network, one a step, the norms
#    G[t, s] of what the loss of step t sends to the weight's use at step s, a NumPy array (T, T).
#    A loss may have fewer than T uses to tell of. What stands above the diagonal of G?
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 5 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def uses(loss, weight):
    return mg.pullback(loss, weight, split="use").shape[0]


def window(k):
    h = mg.zeros((1, H))
    for t, x in enumerate(xs):
        if t == T - k:
            h = h.detach()  # nothing flows past this point
        h = mg.tanh(b + h @ W + x @ U)
    last = mg.functional.cross_entropy(h @ V + c, labels[-1], reduction="sum")
    return mg.pullback(last, W, split="use")


def matrix(losses, weight):
    G = np.zeros((len(losses), len(losses)))
    for t, loss in enumerate(losses):
        parts = mg.pullback(loss, weight, split="use").numpy()
        G[t, : len(parts)] = np.linalg.norm(parts, axis=(1, 2))
    return G


def check_1(uses):
    assert uses(loss, U) == T, f"U is used once a step, {T} times: split='use' keeps uses apart"
    # One product of matrices serves all steps, because o(t) does not feed back.
    assert uses(loss, V) == 1, "V is used once, for all steps: count the first axis"


def check_2(window):
    for k in (1, 3, T):
        parts = window(k)
        assert parts is not None, "return the parts, mg.pullback(..., split='use')"
        whole = "the parts are (uses, H, H): mg.pullback(..., split='use') keeps them apart"
        assert np.ndim(mg.Tensor(parts).numpy()) == 3, whole
        uses = f"a window of {k}: the last {k} uses of W alone, not {len(parts)}"
        assert len(parts) == k, f"{uses}: detach h before step T - k"
        wrong = "not the last step's loss alone, by W"
        assert np.allclose(mg.Tensor(parts).numpy(), literally(T - 1)[-k:]), wrong


def check_3(matrix):
    hs, _ = unroll(step, xs, mg.zeros((1, H)))
    losses = [
        mg.functional.cross_entropy(h @ V + c, y, reduction="sum") for h, y in zip(hs, labels)
    ]
    G = matrix(losses, W)
    assert np.shape(G) == (T, T), f"G has a row a loss and a column a use, not {np.shape(G)}"
    assert not np.triu(G, 1).any(), "a loss sends nothing to later uses: zero above the diagonal"
    for t in range(T):
        norms = np.linalg.norm(literally(t), axis=(1, 2))
        assert np.allclose(G[t, : t + 1], norms), f"row {t} is off: take the norm of each use"


check_1(uses)
check_2(window)
check_3(matrix)
print("exercises: 3 of 3")

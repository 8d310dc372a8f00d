# %% [markdown]
# # Unfolding, and one weight in many places
#
# You will unroll a dynamical system and a recurrent network by a plain loop, see that the shared
# weight is *one* leaf with many uses, and take its gradient apart into one part per step: that is
# equation 10.25 of the book, measured.
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
# Equations 10.8 to 10.11, with the loss of 10.13, for one sequence of letters:
#
# $a^{(t)} = b + W h^{(t-1)} + U x^{(t)}$, $h^{(t)} = \tanh a^{(t)}$, $o^{(t)} = c + V h^{(t)}$,
# $\hat y^{(t)} = \mathrm{softmax}(o^{(t)})$, $L = -\sum_t \log \hat y^{(t)}_{y^{(t)}}$.

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
# ## Equation 10.25: the gradient of a shared weight, use by use
#
# The book writes $\nabla_W L = \sum_t \mathrm{diag}(1 - (h^{(t)})^2) (\nabla_{h^{(t)}} L)
# h^{(t-1)\top}$, and introduces copies $W^{(t)}$, each used at step t only, to say what a single
# term means. The engine needs no copies. It has sent T contributions to `W` and can keep them
# apart:

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
print("norm of each step's share:", np.linalg.norm(parts.numpy(), axis=(1, 2)).round(3))

# %% [markdown]
# The first share is zero: at the first step $h^{(0)} = 0$, and the term has $h^{(t-1)}$ as a
# factor.
#
# ## And literally
#
# Equations 10.20 and 10.21 give $\nabla_{h^{(t)}} L$ from the last step back. Three lines of
# NumPy, with the weights transposed into the book's orientation:

# %%
hidden = hs.numpy()[:, 0]
logits = hidden @ V.numpy() + c.numpy()
probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
nabla_o = probabilities - np.eye(K)[labels[:, 0]]  # eq 10.18
nabla_h = nabla_o @ V.numpy().T  # eq 10.20 and the second term of 10.21
for t in reversed(range(T - 1)):
    nabla_h[t] += W.numpy() @ ((1 - hidden[t + 1] ** 2) * nabla_h[t + 1])  # the first term of 10.21
before = np.vstack([np.zeros(H), hidden[:-1]])
literal = np.einsum("ti,tj->tij", before, (1 - hidden**2) * nabla_h)  # eq 10.25, term by term
assert np.abs(literal - parts.numpy()).max() < 1e-12
print("largest difference:", np.abs(literal - parts.numpy()).max())

# %% [markdown]
# ## The picture
#
# Two steps of it. `W` and `U` stand there once each, with an arrow to every use.

# %%
small, _ = unroll(step, xs[:2], mg.zeros((1, H)))
for name, parameter in {"U": U, "W": W, "b": b}.items():
    parameter.name = name
picture = mg.draw(small.sum(), values=False, gradients=False)
assert picture.svg.count("tanh") >= 2
picture

# %% [markdown]
# ## Exercises
#
# 1. How many contributions does `U` get? And `V`? Why is the second number not T?
# 2. Which use of `W` would you cut to get *truncated* backpropagation with a window of 3 steps?
#    Use `h.detach()` at one place of the loop and look at the norms again.
# 3. With `nabla_h` at hand: at which step does a change of `h` matter most for the loss?

# %%
assert mg.pullback(loss, U, split="use").shape[0] == T  # 1: once a step
assert mg.pullback(loss, V, split="use").shape[0] == 1  # one product for all steps

h, outputs = mg.zeros((1, H)), []
for t, x in enumerate(xs):
    if t == T - 3:
        h = h.detach()  # 2: nothing flows past this point
    h = mg.tanh(b + h @ W + x @ U)
    outputs.append(h)
tail = mg.functional.cross_entropy(outputs[-1] @ V + c, labels[-1], reduction="sum")
norms = np.linalg.norm(mg.pullback(tail, W, split="use").numpy(), axis=(1, 2))
assert len(norms) == 3
print("3: step", 1 + int(np.argmax(np.linalg.norm(nabla_h, axis=1))))

# %% [markdown]
# # Tensors, broadcasting, and the gradient of broadcasting
#
# You will replace the numbers of tutorial 01 by arrays, meet the one new thing that arrays bring
# to the backward pass, broadcasting, and look at a graph that minigrad recorded.
#
# You need: tutorial 01, and NumPy. It takes about 15 minutes. It belongs to the slides
# "Feed-Forward Networks" and "Vanilla Neural Networks" (one to one).

# %%
import numpy as np

import minigrad as mg

x = mg.Tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
print(x)
print(x.shape, x.dtype, x.backend.name)

# %% [markdown]
# Functions have NumPy's names and signatures. Python floats become `float32`, the default dtype;
# arrays keep theirs. A tensor never changes: there is no `x[0] = 1`, and `+=` makes a new one.

# %%
y = mg.sum(mg.exp(x) * 2, axis=1, keepdims=True)
assert y.shape == (2, 1)
try:
    x[0] = 1.0
except TypeError as error:
    print("TypeError:", error)

# %% [markdown]
# ## Recording
#
# A tensor made with `requires_grad=True` is a leaf whose gradient is wanted. What is computed
# from it knows the op it came from; that record is a *node*.

# %%
w = mg.Tensor([0.5, -1.0, 2.0], requires_grad=True)
z = x @ w
print(z)
print(z.node, "<-", z.node.parents)

# %% [markdown]
# `x` does not require a gradient, so its place among the parents is `None`: no rule runs for it.
# `backward` adds the gradient to `w.grad`. For $z_i = \sum_j x_{ij} w_j$ and $L = \sum_i z_i$
# that is $\partial L/\partial w_j = \sum_i x_{ij}$, the column sums of `x`.

# %%
z.sum().backward()
print(w.grad)
assert np.array_equal(w.grad.numpy(), x.numpy().sum(axis=0))

# %% [markdown]
# ## Broadcasting
#
# `x + b` with shapes (2, 3) and (3,) uses each element of `b` twice, once a row. An element that
# is used twice gets two contributions: **the gradient of broadcasting is a sum over the axes that
# were stretched**. Tutorial 01 said the same of a number with two users.

# %%
b = mg.Tensor([0.0, 0.0, 0.0], requires_grad=True)
c = mg.Tensor([[1.0], [1.0]], requires_grad=True)
((x + b) * c).sum().backward()
print(b.grad, c.grad)
assert b.grad.shape == b.shape and c.grad.shape == c.shape
assert np.array_equal(b.grad.numpy(), [2.0, 2.0, 2.0])
assert np.array_equal(c.grad.numpy(), [[6.0], [15.0]])

# %% [markdown]
# In the engine this sum is written once. The rule of `add` returns `g` for both operands,
# whatever their shapes; the traversal, when it sends a cotangent along an edge, compares its
# shape with that of the value at the other end (`Sweep.add` in `minigrad/sweep.py`). So no rule
# in `minigrad/ops/` mentions broadcasting. Walk through it, a node at a time:

# %%
b.grad = c.grad = None
loss = ((x + b) * c).sum()
for step in loss.backward_steps():
    name = "leaf" if step.op is None else step.op.name
    print(f"{name:9} receives {step.incoming.shape!s:7} sends", [g.shape for _, g in step.outgoing])

# %% [markdown]
# ## Silent broadcasting is a bug in a loss
#
# Predictions (4, 1) minus targets (4,) would give a (4, 4) table of differences, and a loss that
# trains towards the mean. Losses in `mg.functional` therefore want equal shapes.

# %%
prediction, target = mg.zeros((4, 1)), mg.zeros(4)
print((prediction - target).shape)
try:
    mg.functional.mse(prediction, target)
except mg.ShapeError as error:
    print("ShapeError:", error)

# %% [markdown]
# ## The picture
#
# A network with one hidden layer: one-to-one, no recurrence yet. Draw it before `backward`, which
# frees what the picture shows.

# %%
mg.random.seed(0)
W1 = mg.Tensor([[1.0, -0.5], [0.5, 1.0]], requires_grad=True)
W2 = mg.Tensor([[1.0], [-1.0]], requires_grad=True)
W1.name, W2.name = "W1", "W2"
hidden = mg.tanh(mg.Tensor([[1.0, 2.0]]) @ W1)
out = (hidden @ W2).sum()
picture = mg.draw(out)
assert "W1" in picture.svg and "tanh" in picture.svg
picture

# %% [markdown]
# ## Exercises
#
# 1. What are the shapes of the gradients of `p` and `q` in `(p * q).sum()` with `p` of shape (5,
#    1) and `q` of shape (1, 4)? And their values, if all elements are 1?
# 2. Write `mean over axis 0` with `mg.sum` only, and check its gradient.
# 3. `mg.maximum(a, b)` at a tie: which of the two gets the gradient in minigrad, and why does it
#    matter that the shares add up to one?
#
# The next cell tests the answers.

# %%
p = mg.Tensor(np.ones((5, 1)), requires_grad=True)
q = mg.Tensor(np.ones((1, 4)), requires_grad=True)
(p * q).sum().backward()
assert p.grad.shape == (5, 1) and np.all(p.grad.numpy() == 4)  # 1
assert q.grad.shape == (1, 4) and np.all(q.grad.numpy() == 5)

v = mg.Tensor(np.ones((5, 2)), requires_grad=True)
(mg.sum(v, axis=0) / v.shape[0]).sum().backward()
assert np.allclose(v.grad.numpy(), 0.2)  # 2

a = mg.Tensor(2.0, requires_grad=True)
m = mg.maximum(a, a)  # 3: half each, so that max(a, a) = a has the derivative 1 of a
m.backward()
assert a.grad.item() == 1.0
print("all answers hold")

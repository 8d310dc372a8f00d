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
# 1. Write `mean_rows(x)`: the mean over axis 0 of a tensor, by `mg.sum` alone.
# 2. Write `larger(a, b)`: `mg.maximum`, but at a tie the whole gradient goes to `a`. (`mg.maximum`
#    gives each half, so that max(a, a) = a has the derivative 1.)
# 3. Write `undo(g, shape)`: what `Sweep.add` does. `g` is a NumPy array, the cotangent of a value
#    of shape `shape` that was broadcast to `g.shape`; sum it back to `shape`.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 2 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def mean_rows(x):
    return mg.sum(x, axis=0) / x.shape[0]


def larger(a, b):
    return mg.where(a >= b, a, b)


def undo(g, shape):
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))  # axes that broadcasting put in front
    stretched = tuple(i for i, n in enumerate(shape) if n == 1)
    return g.sum(axis=stretched, keepdims=True)


def check_1(mean_rows):
    v = mg.Tensor(np.arange(10.0).reshape(5, 2), requires_grad=True)
    y = mean_rows(v)
    assert isinstance(y, mg.Tensor), "return a tensor"
    assert y.shape == (2,), f"the mean over axis 0 of (5, 2) has shape (2,), not {y.shape}"
    assert np.allclose(y.numpy(), [4.0, 5.0]), f"the means are 4 and 5, not {y.numpy()}"
    assert y.node is not None, "compute with the tensor, not with its numbers: nothing is recorded"
    y.sum().backward()
    assert np.allclose(v.grad.numpy(), 0.2), "each of five rows has a share of 1/5"


def check_2(larger):
    a = mg.Tensor([1.0, 2.0, 3.0], requires_grad=True)
    b = mg.Tensor([3.0, 2.0, 1.0], requires_grad=True)
    y = larger(a, b)
    assert isinstance(y, mg.Tensor), "return a tensor"
    assert np.array_equal(y.numpy(), [3.0, 2.0, 3.0]), f"the maxima are 3, 2, 3, not {y.numpy()}"
    da, db = mg.pullback(y.sum(), [a, b])
    assert np.array_equal(da.numpy() + db.numpy(), [1.0, 1.0, 1.0]), "the shares add up to one"
    assert da.numpy()[1] == 1.0, "at the tie a gets all: choose by a >= b with mg.where"
    assert np.array_equal(da.numpy(), [0.0, 1.0, 1.0]), "the larger one gets the gradient"


def check_3(undo):
    rng = np.random.default_rng(0)
    for shape, onto in [((3,), (2, 3)), ((2, 1), (2, 3)), ((1, 1), (4, 5)), ((), (2, 2))]:
        g = rng.normal(size=onto)
        found = undo(g, shape)
        assert found is not None, "return the array"
        case = f"from {onto} to {shape}"
        assert np.shape(found) == shape, f"{case}: the result has shape {np.shape(found)}"
        # The cotangent of one element is the sum of g over all places where that element stands.
        stands = np.broadcast_to(np.arange(np.prod(shape, dtype=int)).reshape(shape), onto)
        sums = [g[stands == i].sum() for i in range(stands.max() + 1)]
        assert np.allclose(np.ravel(found), sums), f"{case}: sum over the axes that were stretched"


check_1(mean_rows)
check_2(larger)
check_3(undo)
print("exercises: 3 of 3")

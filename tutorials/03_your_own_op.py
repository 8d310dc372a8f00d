# %% [markdown]
# # An op of your own
#
# You will add a function to the engine as one entry, check its derivative against differences, and
# get its second derivative, and the derivative of a whole gradient, without writing another line.
#
# You need: tutorial 02. It takes about 15 minutes. It belongs to the slide "Which activation
# function?" and to the project's principle that a rule is made of ops.

# %% [markdown]
# ## What an op consists of
#
# Look at the engine's own `tanh`, in `minigrad/ops/elementwise.py`:
#
#     tanh = op("tanh", lambda xp, x: xp.tanh(x), ..., x=lambda g, y: g * (1 - y * y))
#
# A name; the forward, written against an array namespace `xp`, which is NumPy or CuPy; and for
# each operand a *rule*, which turns the cotangent `g` of the result into that of the operand. A
# rule names what it needs, `g`, the result `y`, operands, and the node keeps just that: `tanh`
# keeps `y`, not `x`.
#
# Let us add *softplus*, $\log(1 + e^x)$, whose derivative is the sigmoid.

# %%
import numpy as np

import minigrad as mg
from minigrad.op import op
from minigrad.ops import specs

softplus = op(
    "tutorial_softplus",
    lambda xp, x: xp.logaddexp(x, x * 0),  # log(exp(x) + exp(0)), without overflow
    shape=specs.floating,  # the result's shape and dtype: x's shape, a floating dtype
    dtypes="float",  # integers become floating before forward sees them
    x=lambda g, x: g * mg.sigmoid(x),
)

x = mg.Tensor([-1000.0, -1.0, 0.0, 1.0, 1000.0], dtype="float64", requires_grad=True)
y = softplus(x)
y.sum().backward()
print(y.numpy())
print(x.grad.numpy())
assert np.allclose(y.numpy()[1:4], np.log1p(np.exp([-1.0, 0.0, 1.0])))

# %% [markdown]
# ## gradcheck
#
# Is the rule right? Compare it with central differences in float64. `order=2` checks the
# derivative of the derivative as well.

# %%
mg.gradcheck(softplus, mg.Tensor([-1.5, 0.3, 2.0], dtype="float64"), order=2)

# %% [markdown]
# A wrong rule is found and named:

# %%
wrong = op(
    "tutorial_wrong_softplus",
    lambda xp, x: xp.logaddexp(x, x * 0),
    shape=specs.floating,
    dtypes="float",
    x=lambda g, x: g * mg.tanh(x),
)
try:
    mg.gradcheck(wrong, mg.Tensor([0.3, 2.0], dtype="float64"))
except mg.MinigradError as error:
    print(error)
else:
    raise SystemExit("the wrong rule was not found")

# %% [markdown]
# ## Second derivatives come by themselves
#
# The rule `g * mg.sigmoid(x)` is made of ops, so it can be recorded and differentiated like
# anything else. The second derivative of softplus is $\sigma(1 - \sigma)$.

# %%
first = mg.grad(lambda v: softplus(v).sum())
second = mg.grad(lambda v: first(v).sum())
v = mg.Tensor([-1.0, 0.0, 2.0], dtype="float64")
s = 1 / (1 + np.exp(-v.numpy()))
print(first(v), second(v))
assert np.allclose(first(v).numpy(), s)
assert np.allclose(second(v).numpy(), s * (1 - s))

# %% [markdown]
# Forward mode needs nothing either: a rule is linear in `g`, so differentiating it by `g` turns it
# round. `mg.jvp` gives the derivative along a direction, `mg.hvp` a Hessian times a direction.

# %%
direction = mg.Tensor([1.0, 0.0, -1.0], dtype="float64")
_, along = mg.jvp(softplus, (v,), (direction,))
assert np.allclose(along.numpy(), s * direction.numpy())
_, (curved,) = mg.hvp(lambda u: softplus(u).sum(), (v,), (direction,))
assert np.allclose(curved.numpy(), s * (1 - s) * direction.numpy())
print(along, curved)

# %% [markdown]
# ## A gradient inside a loss
#
# Because gradients are recorded, one may stand in a loss. Here a penalty keeps the slope of a
# small network near 1; its own gradient goes through a gradient.

# %%
mg.random.seed(1)
W = mg.nn.Parameter(mg.random.normal(None, (3, 3), dtype="float64"))


def network(u):
    return softplus(u @ W).sum()


slope = mg.grad(network)(v)
penalty = ((slope * slope).sum() - 1) ** 2
penalty.backward()
assert W.grad is not None

eps = 1e-6
numeric = np.zeros((3, 3))
for i in range(3):
    for j in range(3):
        values = []
        for sign in (1, -1):
            moved = W.numpy().copy()
            moved[i, j] += sign * eps
            M = mg.Tensor(moved)
            g = mg.grad(lambda u, M=M: softplus(u @ M).sum())(v)
            values.append((((g * g).sum() - 1) ** 2).item())
        numeric[i, j] = (values[0] - values[1]) / (2 * eps)
print("largest difference:", np.abs(numeric - W.grad.numpy()).max())
assert np.allclose(numeric, W.grad.numpy(), rtol=1e-5, atol=1e-6)

# %% [markdown]
# ## Exercises
#
# 1. Write `swish(x)`, $x \sigma(x)$, as a composition of public functions. Does it need a rule?
# 2. Write `swish_rule(g, x)`: the rule of an op `swish` that keeps `x` alone, the cotangent of `x`
#    for a cotangent `g` of the result. It has to be made of ops, or there is no second derivative.
# 3. Write `halved(x)`: `x` itself, but only half of the gradient comes back through it. No op is
#    needed: `detach` stops a gradient. What does `gradcheck` say to it, and is it right?
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 3 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def swish(x):  # a composition is differentiated by its parts
    return x * mg.sigmoid(x)


def swish_rule(g, x):
    s = mg.sigmoid(x)
    return g * (s + x * s * (1 - s))


def halved(x):  # gradcheck objects, and is right to: this is no derivative of the forward
    return 0.5 * x + 0.5 * x.detach()


def check_1(swish):
    u = np.array([-2.0, 0.0, 1.5])
    t = mg.Tensor(u, requires_grad=True)
    y = swish(t)
    assert isinstance(y, mg.Tensor), "return a tensor"
    assert np.allclose(y.numpy(), u / (1 + np.exp(-u))), "swish is x / (1 + exp(-x))"
    assert y.node is not None, "use functions of mg, which are recorded"
    eps = 1e-6
    up, down = (v / (1 + np.exp(-v)) for v in (u + eps, u - eps))
    g = mg.pullback(y.sum(), t).numpy()
    assert np.allclose(g, (up - down) / (2 * eps)), (
        "its derivative is off: is x detached somewhere?"
    )


def check_2(swish_rule):
    u = np.array([-2.0, 0.0, 1.5])
    s = 1 / (1 + np.exp(-u))
    g = swish_rule(mg.Tensor([1.0, 1.0, 2.0], dtype="float64"), mg.Tensor(u))
    assert isinstance(g, mg.Tensor), "a rule returns the cotangent, a tensor"
    assert np.allclose(g.numpy()[:2], (s + u * s * (1 - s))[:2]), "the slope is s + x s (1 - s)"
    assert np.isclose(g.numpy()[2], 2 * (s + u * s * (1 - s))[2]), "a rule is linear in g"
    t = mg.Tensor(u, requires_grad=True)
    slope = swish_rule(mg.ones(3, dtype="float64"), t)
    assert slope.node is not None, "make the rule of functions of mg, which are recorded"
    second = mg.pullback(slope.sum(), t).numpy()
    curve = s * (1 - s) * (2 + u * (1 - 2 * s))
    assert np.allclose(second, curve), "the rule's own derivative is off: is x detached somewhere?"


def check_3(halved):
    t = mg.Tensor([-1.0, 0.3, 2.0], dtype="float64", requires_grad=True)
    y = halved(t)
    assert isinstance(y, mg.Tensor), "return a tensor"
    assert np.array_equal(y.numpy(), t.numpy()), "the value is x itself"
    assert y.node is not None, "some of the gradient comes through: do not detach all"
    g = mg.pullback(y.sum(), t).numpy()
    assert np.array_equal(g, [0.5, 0.5, 0.5]), f"the gradient is 1/2, not {g}"
    try:
        mg.gradcheck(halved, t)
    except mg.MinigradError:
        return
    raise AssertionError("gradcheck has nothing against it, so its gradient is not halved")


check_1(swish)
check_2(swish_rule)
check_3(halved)
print("exercises: 3 of 3")

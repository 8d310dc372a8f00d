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
# 1. Write `swish`, $x\,\sigma(x)$, as a composition of public functions. Does it need a rule?
# 2. Write it as an op whose rule keeps `x` only, and `gradcheck` it to second order.
# 3. An op that is the identity forward and halves the gradient: what does `gradcheck` say to it,
#    and is it right to do so?


# %%
def swish(x):  # 1: no: a composition is differentiated by its parts
    return x * mg.sigmoid(x)


def swish_rule(g, x):
    s = mg.sigmoid(x)
    return g * (s + x * s * (1 - s))


fused = op(
    "tutorial_swish",
    lambda xp, x: x / (1 + xp.exp(-x)),
    shape=specs.floating,
    dtypes="float",
    x=swish_rule,
)
assert np.allclose(swish(v).numpy(), fused(v).numpy())
mg.gradcheck(fused, v, order=2)  # 2

halved = op("tutorial_halved", lambda xp, x: x * 1, shape=specs.same, x=lambda g: 0.5 * g)
try:
    mg.gradcheck(halved, v)
except mg.MinigradError:
    print("3: it objects, and is right: this is no derivative of the forward")

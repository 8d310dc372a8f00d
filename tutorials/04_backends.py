# %% [markdown]
# # Backends: the same program elsewhere
#
# You will run one program on two backends without changing a line, see which kernel served which
# op, and write a backend of your own in under forty lines.
#
# You need: tutorial 02. It takes about 10 minutes. It belongs to no slide: the lectures say what
# to compute, this says where.

# %% [markdown]
# ## One variable
#
#     python train.py
#     MINIGRAD_BACKEND=numba python train.py
#     MINIGRAD_BACKEND=cupy python train.py
#
# The variable is read when the first tensor is made. In a notebook: `%env MINIGRAD_BACKEND=numba`
# before that, or `mg.set_backend("numba")`; for a part of a program `with
# mg.use_backend("numba"):`. What you ask for by name is what you get, or an error that says why
# not; nothing falls back silently.

# %%
import numpy as np

import minigrad as mg

mg.show_backends()

# %% [markdown]
# A wrong name is found out at once, with the nearest right one:

# %%
try:
    mg.set_backend("nubma")
except mg.UnknownBackendError as error:
    print(error)

# %% [markdown]
# ## A tensor stays where it was made
#
# It carries its backend, results inherit it, and two that live on different backends do not meet
# by accident. `.to(name)` moves one.

# %%
with mg.use_backend("numpy"):
    here = mg.Tensor([1.0, 2.0, 3.0])
print(here.backend.name, (here * 2).backend.name)

# %% [markdown]
# ## A backend of your own
#
# What the engine asks of a backend: an array namespace `xp` with NumPy's names, arrays in and
# out, and an addition at indices that counts duplicates. Everything else, broadcasting,
# gradients, random numbers, is written once above it. Here is one that counts what runs on it,
# and brings a faster (well: another) `sigmoid` of its own in `kernels`.


# %%
class CountingNamespace:
    """NumPy's functions, each use counted."""

    def __init__(self):
        self.uses = {}
        self.ndarray = np.ndarray

    def __getattr__(self, name):
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found

        def counted(*args, **kwargs):
            self.uses[name] = self.uses.get(name, 0) + 1
            return found(*args, **kwargs)

        return counted


class Counting:
    name, api = "counting", 1

    def __init__(self):
        self.xp = CountingNamespace()
        self.kernels = {"sigmoid": lambda x: 1 / (1 + np.exp(-x))}

    def asarray(self, data, dtype=None):
        return np.asarray(data, dtype=dtype)

    def to_numpy(self, array):
        return array

    def scatter_add(self, out, index, values):
        np.add.at(out, index, values)
        return out


counting = Counting()
with mg.use_backend(counting):
    x = mg.Tensor([[1.0, -2.0]])
    W = mg.Tensor([[0.5, 1.0], [-1.0, 0.5]], requires_grad=True)
    loss = mg.sum(mg.sigmoid(x @ W) * mg.tanh(x))
    loss.backward()
print(counting.xp.uses)
assert counting.xp.uses["tanh"] == 1 and counting.xp.uses["multiply"] == 1

# %% [markdown]
# `tanh` was asked of the namespace once; `sigmoid` not at all, its kernel took over. The
# gradients are the engine's, whoever computes the forward:

# %%
with mg.use_backend("numpy"):
    x2 = mg.Tensor([[1.0, -2.0]])
    W2 = mg.Tensor([[0.5, 1.0], [-1.0, 0.5]], requires_grad=True)
    mg.sum(mg.sigmoid(x2 @ W2) * mg.tanh(x2)).backward()
assert np.allclose(W.grad.numpy(), W2.grad.numpy(), rtol=1e-6)
try:
    x @ W2
except mg.BackendMismatchError as error:
    print(error)

# %% [markdown]
# To be found by name it becomes a package with an entry point of the group `minigrad.backends`:
#
#     [project.entry-points."minigrad.backends"]
#     counting = "my_package:backend"
#
# where `backend(device=None)` returns the object. `tests/plugin` in the repository is one.
#
# ## Random numbers are the same everywhere
#
# They are not drawn but counted: number $i$ of a key is a function of the key and $i$ (Philox).
# So a mask is the same on every backend, bit for bit.

# %%
key = mg.random.key(42)
one = mg.random.bits(key, (4,))
with mg.use_backend(counting):
    other = mg.random.bits(mg.random.key(42), (4,))
print(one)
assert np.array_equal(one.numpy(), other.numpy())

# %% [markdown]
# ## Exercises
#
# 1. Which op would you have to override for a matrix product that runs elsewhere? Write a
#    `kernels` entry that counts its calls, and count those of forward and backward for `x @ W`.
# 2. A backend whose namespace lacks `cumsum`: what happens in `mg.cumsum`?


# %%
class Lacking(Counting):
    name = "lacking"

    def __init__(self):
        super().__init__()
        self.products = 0
        self.kernels = {"matmul": self.matmul}

        class Namespace(CountingNamespace):
            def __getattr__(self, name):
                if name == "cumsum":
                    raise AttributeError("no cumsum", name=name, obj=self)
                return super().__getattr__(name)

        self.xp = Namespace()

    def matmul(self, a, b):
        self.products += 1
        return np.matmul(a, b)


lacking = Lacking()
with mg.use_backend(lacking):
    x = mg.Tensor(np.ones((2, 3)))
    W = mg.Tensor(np.ones((3, 4)), requires_grad=True)
    (x @ W).sum().backward()
    # 1: "matmul", twice: forward, and the rule of W, which is a product of matrices again.
    assert lacking.products == 2
    try:
        mg.cumsum(W)
    except mg.OpNotImplementedError as error:
        print(error)  # 2: an error, never a silent detour

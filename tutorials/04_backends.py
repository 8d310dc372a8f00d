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
# 1. Write `uses(program)`: run `program()` on a new `Counting` backend and return how often which
#    function of the namespace was used, a dict.
# 2. Write `with_kernel(name, kernel)`: a new `Counting` backend that serves the op of that name by
#    your function. Which op is the matrix product, and how often does `x @ W` run it, forward and
#    backward?
# 3. Write `lacking(name)`: a new `Counting` backend whose namespace has no function of that name.
#    What happens in `mg.cumsum` if it is `cumsum`?
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 4 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def uses(program):
    backend = Counting()
    with mg.use_backend(backend):
        program()
    return backend.xp.uses


def with_kernel(name, kernel):
    backend = Counting()
    backend.kernels[name] = kernel
    return backend


def lacking(name):
    class Lacking(CountingNamespace):
        def __getattr__(self, asked):
            if asked == name:
                raise AttributeError(f"no {name}", name=name, obj=self)
            return super().__getattr__(asked)

    backend = Counting()
    backend.xp = Lacking()
    return backend


def check_1(uses):
    def program():
        t = mg.Tensor([1.0, 2.0])
        return mg.tanh(mg.tanh(t)) * t

    found = uses(program)
    assert isinstance(found, dict), "return the namespace's dict of uses"
    assert found.get("tanh") == 2, f"tanh is used twice, not {found.get('tanh')} times"
    again = uses(program)
    assert again.get("multiply") == 1, "begin with a new Counting backend each time"


def check_2(with_kernel):
    calls = []

    def product(a, b):
        calls.append((a.shape, b.shape))
        return np.matmul(a, b)

    backend = with_kernel("matmul", product)
    assert hasattr(backend, "xp"), "return the backend"
    with mg.use_backend(backend):
        t = mg.Tensor(np.ones((2, 3)))
        M = mg.Tensor(np.ones((3, 4)), requires_grad=True)
        (t @ M).sum().backward()
    assert calls, "the kernel was not called: kernels maps the op's name to it"
    # Forward, and the rule of M, which is a product of matrices again. Nobody asks for t's.
    assert calls == [((2, 3), (3, 4)), ((3, 2), (2, 4))], f"its calls were {calls}"
    assert with_kernel("exp", np.exp).kernels.get("matmul") is None, "make a new backend each time"


def check_3(lacking):
    backend = lacking("cumsum")
    assert hasattr(backend, "xp"), "return the backend"
    with mg.use_backend(backend):
        t = mg.Tensor([1.0, 2.0])
        try:
            mg.cumsum(t)
        except mg.OpNotImplementedError:  # an error, never a silent detour
            pass
        else:
            raise AssertionError("mg.cumsum still works: __getattr__ raises AttributeError for it")
        assert np.allclose(mg.tanh(t).numpy(), np.tanh([1.0, 2.0])), "all else stays as it is"


check_1(uses)
check_2(with_kernel)
check_3(lacking)
print("exercises: 3 of 3")

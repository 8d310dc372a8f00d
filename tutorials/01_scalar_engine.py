# %% [markdown]
# # An engine on one page
#
# You will build a reverse-mode autograd engine for single numbers, in about thirty lines, and see
# why the obvious way to send gradients back is wrong. Everything that follows in these tutorials
# is the same engine with arrays in place of numbers.
#
# You need: Python, and the chain rule. It takes about 15 minutes. It belongs to the lectures'
# slides "Unrolling RNNs" (*regular backprop handles shared weights*) and "RNN: Computational
# Graph".

# %% [markdown]
# ## A number that remembers
#
# A computation is a graph: each result points at what it was computed from. So let a number carry
# its parents, and for each parent the local derivative. For $y = ab$ these are
# $\partial y/\partial a = b$ and $\partial y/\partial b = a$.

# %%
import math


class Number:
    """A value, the numbers it was computed from, and the derivative by each of them."""

    count = 0

    def __init__(self, value, parents=(), slopes=(), op="leaf"):
        self.value, self.parents, self.slopes, self.op = value, parents, slopes, op
        self.grad = 0.0
        Number.count += 1
        self.id = Number.count  # the order of creation

    def __add__(self, other):
        return Number(self.value + other.value, (self, other), (1.0, 1.0), "+")

    def __mul__(self, other):
        return Number(self.value * other.value, (self, other), (other.value, self.value), "*")

    def tanh(self):
        y = math.tanh(self.value)
        return Number(y, (self,), (1 - y * y,), "tanh")


a, b = Number(2.0), Number(-3.0)
y = (a * b).tanh() + a
print(y.value)

# %% [markdown]
# ## The obvious traversal
#
# The chain rule says: a number's gradient is the sum, over all that was computed from it, of their
# gradient times the slope of the edge. The obvious program follows each edge when it meets it.


# %%
def backward_by_recursion(y, g=1.0):
    y.grad += g
    for parent, slope in zip(y.parents, y.slopes):
        backward_by_recursion(parent, g * slope)


backward_by_recursion(y)
slope = 1 - math.tanh(-6.0) ** 2
print(a.grad, "should be", 1 + slope * -3.0)
assert math.isclose(a.grad, 1 + slope * -3.0)

# %% [markdown]
# Right so far. It walks every *path* from `y` to a leaf, though, and a graph has many more paths
# than edges: a number used twice doubles the work behind it, twice in a row quadruples it. Take
# $x \leftarrow x + x$ again and again, and count the visits.


# %%
def paths(doublings):
    x = Number(1.0)
    y = x
    for _ in range(doublings):
        y = y + y
    visits = 0

    def visit(node):
        nonlocal visits
        visits += 1
        for parent in node.parents:
            visit(parent)

    visit(y)
    return visits


print([paths(n) for n in range(1, 11)])
assert paths(10) == 2**11 - 1  # 2,047 visits for 11 numbers

# %% [markdown]
# The usual repair is to visit each number once, as soon as it is met, and to pass on what its
# gradient is by then. That is fast, and **wrong**: at a shared number it passes on a sum that is
# not complete yet, and, when the rest arrives, passes the first part on a second time.


# %%
def backward_too_early(y):
    y.grad = 1.0

    def visit(node):
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope
            visit(parent)  # parent.grad may not be complete: another path may still add to it

    visit(y)


x = Number(3.0)
s = x * x  # shared: used twice below
y = s + s  # y = 2 x^2, so dy/dx = 4 x = 12
backward_too_early(y)
print("double-counted:", x.grad, "instead of", 4 * x.value)
assert x.grad == 18.0  # s passed on 1 (6 for x), then 1 + 1 = 2 (12 more)

# %% [markdown]
# ## The right order
#
# A number's gradient is complete when everything computed *from* it has been handled. What is
# computed from a number is made after it. So go through the numbers from the last made to the
# first: then all of a number's users come before it. No recursion, no sorting by depth; each edge
# once.


# %%
def reached(y):
    """Everything that y depends on, last made first."""
    seen, waiting = {y}, [y]
    while waiting:
        for parent in waiting.pop().parents:
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return sorted(seen, key=lambda node: node.id, reverse=True)


def backward(y):
    order = reached(y)
    for node in order:
        node.grad = 0.0
    y.grad = 1.0
    for node in order:
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += node.grad * slope


backward(y)
print(x.grad)
assert x.grad == 12.0

# %% [markdown]
# Twelve. And a chain as long as we like, which the recursion could not follow:

# %%
x = Number(0.5)
y = x
for _ in range(20_000):
    y = y + x
backward(y)
print(x.grad)
assert x.grad == 20_001

# %% [markdown]
# ## A recurrent network, already
#
# One unit with $h^{(t)} = \tanh(w h^{(t-1)} + u x^{(t)})$ over three steps. The weight `w` is one
# leaf with three uses; its gradient is the sum over them, and nobody had to write
# *backpropagation through time*: that is just what the traversal does with this graph.

# %%
w, u = Number(0.8), Number(0.5)
inputs = [1.0, -1.0, 2.0]


def run(w, u):
    h = Number(0.0)
    for x in inputs:
        h = (w * h + u * Number(x)).tanh()
    return h


h = run(w, u)
backward(h)
eps = 1e-6
by_differences = (
    run(Number(0.8 + eps), Number(0.5)).value - run(Number(0.8 - eps), Number(0.5)).value
) / (2 * eps)
print(w.grad, by_differences)
assert abs(w.grad - by_differences) < 1e-9

# %% [markdown]
# ## Its picture
#
# Boxes are numbers, with value and gradient; the shared `w` and `u` stand there once.

# %%
from minigrad.pictures import Box, Edge, Picture

names = {w: "w", u: "u", h: "h(3)"}
order = reached(h)
boxes = {
    node.id: Box(
        (names.get(node, node.op), f"value {node.value:.3f}", f"grad {node.grad:.3f}"),
        "parameter" if node in (w, u) else "constant" if node.op == "leaf" else "op",
    )
    for node in order
}
edges = [Edge(parent.id, node.id) for node in reversed(order) for parent in node.parents]
picture = Picture(boxes, edges, title="three steps of one recurrent unit")
assert len(picture.boxes) == 18
picture

# %% [markdown]
# The engine itself, `minigrad/sweep.py`, is this page with arrays: `reached` has the same name
# and does the same, and `Sweep.step` is the body of the loop above. Its rules compute with tensors
# that may be recorded in their turn, which is all that second derivatives need. Here slopes are
# bare floats; this is a product whose slopes are `Number`s:


# %%
def times(p, q):
    return Number(p.value * q.value, (p, q), (q, p), "*")


print(times(Number(2.0), Number(3.0)).value)

# %% [markdown]
# ## Exercises
#
# 1. Write `exp(x)`, the exponential of a `Number`, as a `Number`. What is its slope?
# 2. Write `accumulated(losses, x)`: the gradient of the sum of all losses by `x`, with one
#    `backward` a loss. `backward` begins by setting gradients to zero, but only where it comes by.
# 3. Write `derivative(y, x)`: dy/dx as a `Number` that remembers in its turn, so that
#    `derivative(derivative(y, x), x)` is the second derivative. Let `times` above, whose slopes are
#    `Number`s, do every product. Which line of `backward` changes?
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 1 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def exp(x):
    y = math.exp(x.value)
    return Number(y, (x,), (y,), "exp")  # its own value


def accumulated(losses, x):
    total = 0.0
    for loss in losses:
        x.grad = 0.0  # backward passes by if the loss does not depend on x
        backward(loss)
        total += x.grad
    return total


def derivative(y, x):
    grads = {y: Number(1.0)}
    for node in reached(y):
        for parent, slope in zip(node.parents, node.slopes):
            if node in grads:
                slope = slope if isinstance(slope, Number) else Number(slope)
                part = times(grads[node], slope)
                grads[parent] = grads[parent] + part if parent in grads else part
    return grads[x]


def check_1(exp):
    x = Number(1.5)
    y = exp(x)
    assert isinstance(y, Number), "exp(x) is a Number again: Number(value, parents, slopes, op)"
    assert math.isclose(y.value, 4.4816890703), f"exp(1.5) is 4.4817, not {y.value}"
    backward(y + y)
    assert math.isclose(x.grad, 2 * 4.4816890703), "the slope of exp at x is exp(x)"


def check_2(accumulated):
    x, other = Number(3.0), Number(5.0)
    found = accumulated([x * x, x * x * x], x)
    assert found is not None, "return the sum of the gradients, a float"
    assert found == 33.0, f"2 x + 3 x^2 is 33 at x = 3, not {found}: add up what each loss gives"
    again = accumulated([x * x, other * other], x)
    assert again == 6.0, "a loss without x adds nothing: set x.grad to zero yourself"


def check_3(derivative):
    x = Number(1.5)
    dy = derivative(times(times(x, x), x), x)
    assert isinstance(dy, Number), "the derivative is a Number: let the gradients be Numbers"
    assert dy.value == 6.75, f"the derivative of x^3 is 3 x^2, 6.75 at 1.5, not {dy.value}"
    second = derivative(dy, x)
    assert second.value == 9.0, f"the second one is 6 x, 9 at 1.5, not {second.value}"
    third = derivative(second, x)
    assert third.value == 6.0, "the third one is 6: multiply gradients by slopes with times, not *"


check_1(exp)
check_2(accumulated)
check_3(derivative)
print("exercises: 3 of 3")

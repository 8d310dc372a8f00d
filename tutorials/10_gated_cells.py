# %% [markdown]
# # LSTM, peepholes, GRU: gates from their equations
#
# You will write the gated cells of the lectures as plain functions, equation by equation, find them
# equal to the library's, see why a sum carries a gradient where a product loses it, train one to
# hold a number, and look at its gates while it does.
#
# You need: tutorial 05; 09 for why anybody wants this. It takes about 20 minutes, of which the
# machine computes for half of one. It belongs to Fig 10.16 "LSTM", to the slides "Long Short-Term
# Memory (LSTM)", "Gated Recurrent Unit (GRU)", "LSTM" (of the book's figure, and of the peephole
# equations), "Bidirectional LSTMs" and "LSTM/GRU Networks"; equations 10.40 to 10.47.

# %%
import os

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad_rnn import (
    Bidirectional,
    BookGRUCell,
    BookLSTMCell,
    GRUCell,
    Layers,
    LearnedState,
    LSTMCell,
    PeepholeLSTMCell,
    RNNCell,
    VariationalDropout,
    Zoneout,
    unroll,
)

mg.set_default_dtype("float64")
FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
print("a small run" if FAST else "the whole run")

# %% [markdown]
# ## The equations of the slide
#
# $i_t = \sigma(W_{xi} x_t + W_{hi} h_{t-1} + W_{ci} c_{t-1} + b_i)$
#
# $f_t = \sigma(W_{xf} x_t + W_{hf} h_{t-1} + W_{cf} c_{t-1} + b_f)$
#
# $c_t = f_t c_{t-1} + i_t \tanh(W_{xc} x_t + W_{hc} h_{t-1} + b_c)$
#
# $o_t = \sigma(W_{xo} x_t + W_{ho} h_{t-1} + W_{co} c_t + b_o)$
#
# $h_t = o_t \tanh(c_t)$
#
# Two states, the cell c and the output h, and three gates between 0 and 1 that multiply: how much
# comes *in*, how much is kept (the *forget* gate, 1 to keep), how much is let *out*. The gates see
# the cell too, by $W_{ci}$, $W_{cf}$ and $W_{co}$: the *peepholes*. These are diagonal, one number
# a unit, so their product is elementwise. Read the indices: i and f see the old cell, $c_{t-1}$,
# and o the new one, $c_t$.
#
# In code the equations are what they are. Weights stand as (in, out), so x comes first:

# %%
D, H, B, T = 3, 4, 2, 6
rng = np.random.default_rng(0)
W = {f"x{k}": mg.nn.Parameter(rng.normal(size=(D, H))) for k in "ifco"}
W |= {f"h{k}": mg.nn.Parameter(rng.normal(size=(H, H))) for k in "ifco"}
W |= {f"c{k}": mg.nn.Parameter(rng.normal(size=H)) for k in "ifo"}
b = {k: mg.nn.Parameter(rng.normal(size=H)) for k in "ifco"}


def peephole_lstm(x, state):
    h, c = state
    i = mg.sigmoid(x @ W["xi"] + h @ W["hi"] + c * W["ci"] + b["i"])
    f = mg.sigmoid(x @ W["xf"] + h @ W["hf"] + c * W["cf"] + b["f"])
    c = f * c + i * mg.tanh(x @ W["xc"] + h @ W["hc"] + b["c"])
    o = mg.sigmoid(x @ W["xo"] + h @ W["ho"] + c * W["co"] + b["o"])
    h = o * mg.tanh(c)
    return h, (h, c)


xs = mg.Tensor(rng.normal(size=(T, B, D)))
zero = (mg.zeros((B, H)), mg.zeros((B, H)))
hs, (h, c) = unroll(peephole_lstm, xs, zero)
print(hs.shape, h.shape, c.shape)
assert np.array_equal(hs[-1].numpy(), h.numpy())

# %% [markdown]
# The library's cell keeps the four matrices of x side by side, and those of h, so that a step has
# two products of matrices and not eight. Gates are in the order i, f, g, o, where g is the new
# content that the slide calls c. With the weights put there, the two are one function.

# %%
cell = PeepholeLSTMCell(D, H)
cell.Wx.assign(np.concatenate([W[f"x{k}"].numpy() for k in "ifco"], axis=1))
cell.Wh.assign(np.concatenate([W[f"h{k}"].numpy() for k in "ifco"], axis=1))
cell.b.assign(np.concatenate([b[k].numpy() for k in "ifco"]))
cell.p.assign(np.stack([W[f"c{k}"].numpy() for k in "ifo"]))
ours, _ = unroll(cell, xs)
difference = np.abs(ours.numpy() - hs.numpy()).max()
print({name: p.shape for name, p in cell.named_parameters()}, "difference", difference)
assert difference < 1e-12

# %% [markdown]
# The gradients agree as well, those of the peepholes included. Nothing was written for that: the
# equations above are the backward pass, too.

# %%
of_mine = mg.pullback(mg.sum(mg.square(hs)), [W["ci"], W["cf"], W["co"]])
of_cell = mg.pullback(mg.sum(mg.square(ours)), cell.p)
for mine, theirs in zip(of_mine, of_cell.numpy(), strict=True):
    assert np.abs(mine.numpy() - theirs).max() < 1e-10
print(of_cell.numpy().round(3))

# %% [markdown]
# ## Without peepholes, and the one of the book
#
# Without them this is *the* LSTM of most libraries and of the other two lectures. The
# book's, Fig 10.16 and equations 10.40 to 10.44, calls the gates f, g (in) and q (out), the state
# s, and squashes the new content by a sigmoid and not by tanh: its state can only grow by what
# comes in, never be pushed down. The figure's caption leaves the choice open.

# %%
plain, book, chosen = LSTMCell(D, H), BookLSTMCell(D, H), BookLSTMCell(D, H, candidate="tanh")
for one in (plain, book, chosen):  # the same weights for all
    for ours, theirs in zip(one.parameters(), cell.parameters(), strict=False):  # Wx, Wh, b
        ours.assign(theirs.numpy())
cell.p.assign(np.zeros((3, H)))
results = {}
for name, one in {
    "peephole, p = 0": cell,
    "LSTM": plain,
    "book": book,
    "book, tanh": chosen,
}.items():
    results[name], (_, c) = unroll(one, xs)
    print(f"{name:16} h {results[name][-1, 0].numpy().round(3)}  c {c[0].numpy().round(3)}")
    assert name != "book" or (c.numpy() >= 0).all()
for name in ("peephole, p = 0", "book, tanh"):
    assert np.abs(results[name].numpy() - results["LSTM"].numpy()).max() < 1e-12
assert np.abs(results["book"].numpy() - results["LSTM"].numpy()).max() > 0.1

# %% [markdown]
# One step of it, drawn from the recorded graph: three sigmoids that end in products, and one sum
# through which c passes.

# %%
parts = {"x": xs[0], "h": mg.nn.Parameter(np.zeros((B, H))), "c": mg.nn.Parameter(np.ones((B, H)))}
for name, part in {**parts, "Wx": plain.Wx, "Wh": plain.Wh, "b": plain.b}.items():
    part.name = name
y, _ = plain(parts["x"], (parts["h"], parts["c"]))
picture = mg.draw(y, values=False, gradients=False)
assert picture.svg.count(">sigmoid<") == 3
picture

# %% [markdown]
# ## "Long-term memory", "similar to residual connections"
#
# Follow c alone: $\partial c_t / \partial c_{t-1} = f_t$, as long as the gates are taken as given.
# Over many steps the gradient along the cell is the *product of the forget gates*; there is no
# weight matrix on this road and no tanh'. With f = 1 and i = 0 it is the identity, as in a residual
# connection; whatever else the step does is added.

# %%
keep = LSTMCell(1, 2)
for weight in (keep.Wx, keep.Wh):
    weight.assign(np.zeros(weight.shape))


def path(i, f, steps=50):
    """c after so many steps from (1, -2), and its derivative by c at the start."""
    keep.b.assign(np.repeat([i, f, 0.3, 0.0], 2))
    start = mg.Tensor([[1.0, -2.0]], requires_grad=True)
    _, (_, c) = unroll(keep, mg.zeros((steps, 1, 1)), (mg.zeros((1, 2)), start))
    return c.numpy()[0], mg.pullback(mg.sum(c), start).numpy()[0]


for i, f in ((-800.0, 40.0), (0.0, 5.0), (0.0, 1.0), (0.0, 0.0)):
    c, gradient = path(i, f)
    gate = 1 / (1 + np.exp(-f))
    print(f"f = {gate:.4f}: c = {c.round(3)}, gradient {gradient[0]:.3g}")
    assert np.abs(gradient / gate**50 - 1).max() < 1e-12
c, gradient = path(-800.0, 40.0)
assert c.tolist() == [1, -2] and gradient.tolist() == [1, 1]  # to the bit

# %% [markdown]
# A forget gate that starts at $\sigma(0) = 0.5$ has forgotten a state in ten steps, and learns to
# keep only if something worth keeping gets through. So its bias starts at 1 in `LSTMCell`, where
# 0.73 is kept, and why some start it at 5 can be read off the table.
#
# ## The GRU: a single state, fewer gates
#
# $r = \sigma(W_{xr} x + W_{hr} h + b_r)$, $z = \sigma(W_{xz} x + W_{hz} h + b_z)$,
# $n = \tanh(W_{xn} x + r (W_{hn} h + b_h) + b_n)$, $h \leftarrow (1 - z) n + z h$.
#
# One gate for keeping and taking in, since what is kept is not overwritten: z and 1 - z. No output
# gate, hence no difference between c and h. Where r stands is a matter of taste, and there are two:
# after the product, as here (`reset="after"`), or before it, $W_{hn} (r h)$. In the book, equations
# 10.45 to 10.47, u keeps, the reset comes before the product, and the candidate is a sigmoid.


# %%
def gru(x, h, cell):
    """The four equations, with the weights of a GRUCell."""
    Wxr, Wxz, Wxn = mg.split(cell.Wx, 3, axis=1)
    Whr, Whz, Whn = mg.split(cell.Wh, 3, axis=1)
    br, bz, bn = mg.split(cell.b, 3)
    r = mg.sigmoid(x @ Wxr + h @ Whr + br)
    z = mg.sigmoid(x @ Wxz + h @ Whz + bz)
    if cell.reset == "after":
        n = mg.tanh(x @ Wxn + r * (h @ Whn + cell.bh) + bn)
    else:
        n = mg.tanh(x @ Wxn + (r * h) @ Whn + bn)
    h = (1 - z) * n + z * h
    return h, h


mg.random.seed(1)
for reset in ("after", "before"):
    one = GRUCell(D, H, reset=reset)
    ours, state = unroll(one, xs)
    mine, _ = unroll(lambda x, h, one=one: gru(x, h, one), xs, mg.zeros((B, H)))
    difference = np.abs((ours - mine).numpy()).max()
    print(f"reset {reset:6}  state {state.shape}  difference {difference:.1e}")
    assert difference < 1e-12

book = BookGRUCell(D, H)  # its x is the book's at t - 1, where u and r are computed
ours, _ = unroll(book, xs)
Wxr, Wxu, Wxn = mg.split(book.Wx, 3, axis=1)
Whr, Whu, Whn = mg.split(book.Wh, 3, axis=1)
h = mg.zeros((B, H))
for x in xs:
    u, r = mg.sigmoid(x @ Wxu + h @ Whu), mg.sigmoid(x @ Wxr + h @ Whr)  # eq 10.46, 10.47
    h = u * h + (1 - u) * mg.sigmoid(x @ Wxn + (r * h) @ Whn)  # eq 10.45
print("book          state", h.shape, " difference", np.abs((ours[-1] - h).numpy()).max())
assert np.abs((ours[-1] - h).numpy()).max() < 1e-12

sizes = {
    type(one).__name__: one.Wx.size + one.Wh.size
    for one in (RNNCell(D, H), GRUCell(D, H), BookGRUCell(D, H), LSTMCell(D, H))
}
print(sizes)
assert sizes["GRUCell"] / sizes["LSTMCell"] == 3 / 4

# %% [markdown]
# "Similar performance", the slide adds: a claim, and one that takes more than a cell to test.
# `minigrad-rnn experiment gru_lstm` compares the two at equal numbers of parameters, on three tasks
# and five seeds.
#
# ## Networks of them
#
# A gated cell is a cell: it stacks, runs backwards, goes into anything that takes a cell. Here is
# the last slide of the peephole lecture, one such network in each direction, with another on top.

# %%
network = Layers(
    [
        Bidirectional(PeepholeLSTMCell(D, H), PeepholeLSTMCell(D, H)),
        Bidirectional(GRUCell(2 * H, 5), GRUCell(2 * H, 5)),
    ]
)
ys, states = network(xs, lengths=[6, 4])
print(ys.shape, mg.tree.map(lambda s: s.shape, states))
assert ys.shape == (T, B, 10) and not ys.numpy()[4:, 1].any()

# %% [markdown]
# ## Where it begins, and noise that stays
#
# The state before the first step need not be zero: "initial state: zero or learned". Learned, it is
# one more parameter, shared by all rows of the batch, so its gradient is a sum over them.

# %%
cell = LearnedState(GRUCell(D, H))
loss = (unroll(cell, xs)[0] ** 2).sum()
loss.backward()
(start,) = cell.start
alone = [(unroll(cell, xs[:, b : b + 1])[0] ** 2).sum() for b in range(B)]
by_row = [mg.pullback(y, start).numpy() for y in alone]
assert np.abs(start.grad.numpy() - sum(by_row)).max() < 1e-12
print("gradient of the learned state:", start.grad.numpy().round(3))

# %% [markdown]
# Dropout that draws a new mask at every step wipes out a memory bit by bit: what a unit keeps
# survives $T$ steps with probability $(1 - p)^T$. One mask for the whole sequence (Gal 2016) drops
# a unit or spares it, all the way. Zoneout (Krueger et al. 2017) holds some units at their old
# value instead of zero. Both wrap any cell, and `eval()` switches both off.

# %%
mg.random.seed(0)
ones = mg.ones((T, B, D))
dropped = VariationalDropout(GRUCell(D, H), y=0.5)
ys, _ = unroll(dropped, ones)
gone = ys.numpy() == 0
assert (gone == gone[0]).all() and gone.any() and not gone.all()  # the same units at every step
held = Zoneout(GRUCell(D, H), p=0.5)
h = unroll(held, ones)[0].numpy()
stays = (h[1:] == h[:-1]).mean()
print(f"dropped at every step: {gone[0].mean():.2f} of the outputs; held at a step: {stays:.2f}")
dropped.eval()
held.eval()
assert (unroll(dropped, ones)[0].numpy() != 0).all()
assert (np.diff(unroll(held, ones)[0].numpy(), axis=0) != 0).all()

# %% [markdown]
# ## A task, to look at gates
#
# Sample and hold: at each step there is a number, and sometimes a mark beside it. The answer, at
# every step, is the number that was marked last. A gate that closes at marks and is open between
# them is just what it takes.


# %%
def sample_and_hold(key, T, B):
    """Inputs (T, B, 2), numbers and marks, the first step marked; answers (T, B, 1)."""
    numbers = 2 * mg.random.uniform(key.fold(0), (T, B)).numpy() - 1
    marks = mg.random.bernoulli(key.fold(1), (T, B), 0.1).numpy().astype(float)
    marks[0] = 1
    held, answers = np.zeros(B), []
    for number, mark in zip(numbers, marks, strict=True):
        held = np.where(mark > 0, number, held)
        answers.append(held)
    return np.stack([numbers, marks], axis=-1), np.stack(answers)[..., None]


def learn(cell, updates, key):
    """Train the cell and a linear readout on fresh sequences; returns the readout."""
    readout = mg.nn.Linear(cell.H, 1)
    parameters = cell.parameters() + readout.parameters()
    optimizer = mg.optim.Adam(parameters, lr=0.02)
    decay = mg.optim.CosineSchedule(optimizer, updates)
    for n in range(updates):
        inputs, answers = sample_and_hold(key.fold(n), 30, 16)
        hs, _ = unroll(cell, mg.Tensor(inputs))
        loss = F.mse(readout(hs), mg.Tensor(answers))
        optimizer.zero_grad()
        loss.backward()
        mg.optim.clip_by_global_norm(parameters, 1.0)
        optimizer.step()
        decay.step()
    return readout


updates = 60 if FAST else 500
trained, errors = {}, {}
inputs, answers = sample_and_hold(mg.random.key(99), 100, 200)  # longer, and new
for make in (RNNCell, LSTMCell, GRUCell):
    mg.random.seed(1)
    trained[make] = make(2, 4)
    readout = learn(trained[make], updates, mg.random.key(1))
    with mg.no_grad():
        hs, _ = unroll(trained[make], mg.Tensor(inputs))
        errors[make] = F.mse(readout(hs), mg.Tensor(answers)).item()
    print(f"{make.__name__:8} error {errors[make]:.4f}, the variance is {answers.var():.3f}")
assert FAST or max(errors[LSTMCell], errors[GRUCell]) < 0.05

# %% [markdown]
# The gated cells hold a number for a hundred steps, three times as long as they were trained for.
# The tanh network has to keep it in a loop through W that neither grows nor shrinks, for every
# value that there is: with some seeds it finds one that serves, with this one it does not.
#
# ## The gates, looked at
#
# A cell's `preactivations(x, h)` are what its gates are made of. Here is one sequence, the mean of
# the LSTM's forget gates beside the marks, and then, unit by unit, the mean at marked and at other
# steps.


# %%
def gates_of_lstm(cell, inputs):
    """i, f and o at every step, (T, B, H) each."""
    (h, c), found = cell.initial_state(inputs.shape[1]), []
    with mg.no_grad():
        for x in mg.Tensor(inputs):
            i, f, _, o = mg.split(cell.preactivations(x, h), 4, axis=-1)
            found.append([mg.sigmoid(gate).numpy() for gate in (i, f, o)])
            _, (h, c) = cell(x, (h, c))
    return np.swapaxes(found, 0, 1)


i, f, o = gates_of_lstm(trained[LSTMCell], inputs)
marked = inputs[..., 1] > 0
for t in range(12):
    gate = f[t, 0].mean()
    print(f"{'mark' if marked[t, 0] else '':5} {inputs[t, 0, 0]:6.2f}  f {gate:.2f} ", end="")
    print("#" * round(30 * gate))

later = np.arange(len(marked))[:, None] > 0  # at the first step there is nothing to forget
at_marks, between = (f[later & chosen].mean(axis=0) for chosen in (marked, ~marked))
print("forget gate of each unit, at marks ", at_marks.round(2))
print("                          otherwise", between.round(2))
assert FAST or (at_marks < between - 0.1).all()

# %% [markdown]
# At a mark the old number is let go, otherwise it is kept. Nobody told the gate; it is where
# gradient descent went. The GRU's z says the same, if not in every unit: some store the number when
# others can spare them.

# %%
gru_cell, zs = trained[GRUCell], []
h = gru_cell.initial_state(inputs.shape[1])
with mg.no_grad():
    for x in mg.Tensor(inputs):
        a = x @ gru_cell.Wx + gru_cell.b + h @ gru_cell.Wh
        zs.append(mg.sigmoid(a[:, 4:8]).numpy())  # r, z, n
        _, h = gru_cell(x, h)
zs = np.stack(zs)
at_marks, between = (zs[later & chosen].mean(axis=0) for chosen in (marked, ~marked))
print(f"z of each unit, at marks {at_marks.round(2)}, otherwise {between.round(2)}")
assert FAST or at_marks.mean() < between.mean()

# %% [markdown]
# ## Exercises
#
# 1. Write `kept(f)` that takes forget gates (T, H) and returns, (H,), what share of the cell's
#    first content is still there after T steps.
# 2. Write `coupled(x, h, c, Wx, Wh, b)`, the LSTM whose input gate is what the forget gate leaves,
#    f = 1 - i, and which therefore has three blocks of weights, i, g, o. It takes and returns
#    tensors: (h, c) of the next step.
# 3. Write `holding_cell()` that returns an `LSTMCell(2, 1)` with weights set by hand, not trained,
#    that samples and holds: its output is a tenth of the number that was marked last, to 0.005. The
#    tenth keeps tanh out of the way.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 10 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def kept(f):
    return np.prod(f, axis=0)


def coupled(x, h, c, Wx, Wh, b):
    i, g, o = mg.split(x @ Wx + h @ Wh + b, 3, axis=-1)
    i = mg.sigmoid(i)
    c = (1 - i) * c + i * mg.tanh(g)
    return mg.sigmoid(o) * mg.tanh(c), c


def holding_cell():
    cell = LSTMCell(2, 1)
    cell.Wh.assign(np.zeros((1, 4)))
    # i: open at marks, f: closed at marks, g: a tenth of the number, o: open
    cell.Wx.assign([[0.0, 0.0, 0.1, 0.0], [80.0, -80.0, 0.0, 0.0]])
    cell.b.assign([-40.0, 40.0, 0.0, 40.0])
    return cell


def check_1(kept):
    f = np.array([[0.5, 1.0], [0.5, 0.9], [0.8, 1.0]])
    found = kept(f)
    assert found is not None, "return the shares"
    assert np.shape(found) == (2,), "one number a unit: the steps are axis 0"
    assert np.allclose(found, [0.2, 0.9]), "each step keeps f of what there is: multiply over steps"


def check_2(coupled):
    rng = np.random.default_rng(5)
    x, h, c = (rng.normal(size=(1, n)) for n in (2, 1, 1))
    Wx, Wh, b = rng.normal(size=(2, 3)), rng.normal(size=(1, 3)), rng.normal(size=3)
    found = coupled(*map(mg.Tensor, (x, h, c, Wx, Wh, b)))
    assert found is not None and len(found) == 2, "return the pair (h, c) of the next step"
    i, g, o = (x @ Wx + h @ Wh + b)[0]
    i, o = 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-o))
    new = (1 - i) * c + i * np.tanh(g)
    assert np.allclose(found[1].numpy(), new), "c is (1 - i) c + i tanh(g), i after its sigmoid"
    assert np.allclose(found[0].numpy(), o * np.tanh(new)), "h is sigmoid(o) tanh of the new c"


def check_3(holding_cell):
    cell = holding_cell()
    assert isinstance(cell, LSTMCell), "return the cell: LSTMCell(2, 1), its weights assigned"
    assert (cell.D, cell.H) == (2, 1), "two inputs, the number and the mark, and one unit"
    numbers = np.cos(np.arange(60.0) ** 2)
    marks = (np.arange(60) % 17 == 0).astype(float)
    held = numbers[(np.arange(60) // 17) * 17]
    xs = mg.Tensor(np.stack([numbers, marks], axis=-1)[:, None])
    found = unroll(cell, xs)[0].numpy()[:, 0, 0]
    wrong = np.abs(found - held / 10) > 0.005
    assert not wrong[marks > 0].any(), (
        "at a mark: i near 1, f near 0, g a tenth of the number, o near 1 (order i, f, g, o)"
    )
    assert not wrong.any(), "between marks: i near 0 and f near 1, so that c stays as it is"


check_1(kept)
check_2(coupled)
check_3(holding_cell)
print("exercises: 3 of 3")

# %% [markdown]
# # Explicit memory: cells, heads, addresses
#
# You will build the parts of a neural Turing machine one by one: read and write softly, find a
# cell by its content, walk from cell to cell. Then the whole machine learns to copy lists and
# copies longer ones than it ever saw, where an LSTM cannot, and you will look over its shoulder.
# A second kind of memory answers questions that take two steps of thought.
#
# You need: tutorial 05. It takes about 20 minutes, of which the machine computes for less than
# one. It belongs to Fig 10.18 "Networks with explicit Memory" (section 10.12 of the book).

# %%
import os

import numpy as np

import minigrad as mg
from minigrad_rnn import EmitState, HiddenLayer, LSTMCell, MemoryNetwork, NTMCell, Readout, unroll
from minigrad_rnn.memory import address, by_content, read, sharpened, shifted, write

mg.set_default_dtype("float64")
FAST = os.environ.get("MINIGRAD_TUTORIAL_FAST", "0") not in ("", "0")
print("a small run" if FAST else "the whole run, less than a minute")

# %% [markdown]
# ## Reading softly
#
# A memory M has N cells, each a vector of M numbers. To read "from cell 3" is no function that one
# could differentiate; to read from all cells, with weights that sum to 1, is: $r = \sum_i w(i)
# M(i)$. Where do the weights come from? One way is the content: a head emits a key k, and each cell
# gets the weight $\exp(\beta \cos(k, M(i)))$ over the sum of all. The larger $\beta$, the harder
# the choice.
#
# In the library a batch has B memories (B, N, M) and K heads, whose keys are (B, K, M) and whose
# weights (B, K, N).

# %%
rng = np.random.default_rng(0)
N, M = 6, 5
memory = mg.Tensor(rng.normal(size=(1, N, M)))
key = memory[:, 3:4] + 0.3 * rng.normal(size=(1, 1, M))  # cell 3, remembered badly

for beta in (0.0, 3.0, 30.0):
    w = by_content(key, mg.full((1, 1, 1), beta), memory)
    miss = np.abs(read(memory, w).numpy()[0, 0] - memory.numpy()[0, 3]).max()
    print(f"beta {beta:4}: weights {w.numpy()[0, 0].round(3)}, cell 3 missed by {miss:.3f}")
    assert abs(w.numpy().sum() - 1) < 1e-12
assert w.numpy()[0, 0].argmax() == 3 and miss < 0.01

# %% [markdown]
# This is attention: a softmax over scores. What makes it a memory is that it can be written.
#
# ## Writing
#
# A write head first erases, then adds: $M(i) \leftarrow M(i) (1 - w(i) e) + w(i) a$, with e
# between 0 and 1. Where w(i) is 1 and e all ones, the cell becomes a; where w(i) is 0, nothing
# happens at all.

# %%
at_2 = mg.Tensor(np.eye(N)[None, 2:3])
note = mg.Tensor(np.arange(1.0, M + 1)[None, None])
after = write(memory, at_2, mg.ones((1, 1, M)), note)
print("cell 2 now:", after.numpy()[0, 2])
assert np.array_equal(read(after, at_2).numpy(), note.numpy())
others = [0, 1, 3, 4, 5]
assert np.array_equal(after.numpy()[0, others], memory.numpy()[0, others])

# %% [markdown]
# That "nothing happens at all" is why such a memory was built. A state of an RNN goes through the
# recurrent weights at every step; a cell that nobody writes to is *copied*, and the derivative of a
# copy is 1, after a hundred steps as after one: nothing fades on the way there, and no gradient on
# the way back. Write a note, let a hundred other notes go to the other cells, and read:

# %%
start = mg.Tensor(rng.normal(size=(1, 1, M)), requires_grad=True)
cells = write(memory, at_2, mg.ones((1, 1, M)), start)
for _ in range(100):
    elsewhere = np.zeros((1, 1, N))
    elsewhere[0, 0, rng.choice(others)] = 1
    noise = mg.Tensor(rng.normal(size=(1, 1, M)))
    cells = write(cells, mg.Tensor(elsewhere), mg.ones((1, 1, M)), noise)
gradient = mg.pullback(mg.sum(read(cells, at_2)), start).numpy()
print("d read / d written after 100 steps:", gradient[0, 0], f"(0.9 ** 100 is {0.9**100:.6f})")
assert np.array_equal(gradient, np.ones((1, 1, M)))

# %% [markdown]
# ## Walking
#
# A list wants another kind of address: the cell after the last one. So a head emits three more
# things. A gate g mixes the address by content with where the head was, $g w_c + (1 - g) w_{t-1}$;
# a distribution s over small shifts moves it around the ring of cells, which is a circular
# convolution; and $\gamma \geq 1$ sharpens what the convolution has blurred, $w(i)^\gamma$ over
# the sum of all. Twelve steps to the right by a head that is 90 % sure:

# %%
ring = mg.Tensor(np.eye(16)[None, :1])
one_right = mg.Tensor([[[0.05, 0.05, 0.9]]])  # the shares of -1, 0 and +1
blurred, sharp = ring, ring
for _ in range(12):
    blurred = shifted(blurred, one_right)
    sharp = sharpened(shifted(sharp, one_right), mg.full((1, 1, 1), 2.0))
for name, w in {"blurred": blurred, "sharpened": sharp}.items():
    print(f"{name:9}", "".join(" .:*#"[int(4 * v)] for v in w.numpy()[0, 0] ** 0.5), end="|")
    print(f" {w.numpy()[0, 0, 12]:.2f} at cell 12")
assert blurred.numpy()[0, 0, 12] < 0.5 and sharp.numpy()[0, 0, 12] > 0.95

# %% [markdown]
# All five together are `address`. With g = 0 the content says nothing, with g = 1 and no shift
# nothing else does:

# %%
one = mg.ones((1, 1, 1))
here = mg.Tensor(np.eye(N)[None, 4:5])
stay, step = mg.Tensor([[[0.0, 1.0, 0.0]]]), mg.Tensor([[[0.0, 0.0, 1.0]]])
walked = address(memory, here, key, 30 * one, 0 * one, step, one)
found = address(memory, here, key, 30 * one, one, stay, one)
print("walked to", walked.numpy()[0, 0].argmax(), "and found", found.numpy()[0, 0].argmax())
assert walked.numpy()[0, 0].argmax() == 5 and found.numpy()[0, 0].argmax() == 3

# %% [markdown]
# ## The machine
#
# A controller, here a single layer, sees the input and what was read last; a linear layer turns
# its output into the numbers of the heads. `NTMCell` is an ordinary cell, whose state is (memory,
# weights, what was read, the controller's state), and `unroll` runs it like any other. The task:
# a list of random bits comes in, then a mark, then silence, in which the list has to go out again.

# %%
mg.set_default_dtype("float32")
BITS, LONGEST = 3, 5


def lists(rng, length, B):
    """Inputs (2 length + 1, B, BITS + 1), the last channel the mark; and the bits to copy."""
    target = rng.integers(0, 2, (length, B, BITS)).astype("float32")
    xs = np.zeros((2 * length + 1, B, BITS + 1), "float32")
    xs[:length, :, :BITS] = target
    xs[length, :, BITS] = 1
    return xs, target


def turing_machine(H=32, N=12 if FAST else 32, M=8):
    return NTMCell(HiddenLayer(BITS + 1 + M, H), H, N, M)


def cost(cell, rng, length, B):
    """Bits of cross-entropy per bit; guessing costs 1."""
    xs, target = lists(rng, length, B)
    ys, _ = unroll(cell, xs)
    nats = mg.functional.binary_cross_entropy_with_logits(ys[-length:], target)
    return nats / np.log(2)


def learn(make, updates):
    mg.random.seed(0)
    rng, cell = np.random.default_rng(0), make()
    optimizer = mg.optim.Adam(cell.parameters(), lr=0.01)
    schedule = mg.optim.StepSchedule(optimizer, 2 * updates // 3)  # a tenth for the last third
    for _ in range(updates):
        optimizer.zero_grad()
        cost(cell, rng, int(rng.integers(1, LONGEST + 1)), 32).backward()
        mg.optim.clip_by_global_norm(cell.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return cell


def measured(cell, length):
    with mg.no_grad():
        return cost(cell, np.random.default_rng(1), length, 50).item()


copier = learn(lambda: Readout(turing_machine(), mg.nn.Linear(32 + 8, BITS)), 9 if FAST else 200)
lstm = learn(lambda: Readout(LSTMCell(BITS + 1, 64), mg.nn.Linear(64, BITS)), 9 if FAST else 400)
costs = {
    name: {length: measured(cell, length) for length in (LONGEST, 2 * LONGEST)}
    for name, cell in {"NTM": copier, "LSTM": lstm}.items()
}
print(f"bits per bit, for lists of {LONGEST} (the longest in training) and {2 * LONGEST}:")
for name, row in costs.items():
    print(f"{name:4}", {length: round(value, 3) for length, value in row.items()})
assert FAST or max(costs["NTM"].values()) < 0.1
assert FAST or costs["LSTM"][2 * LONGEST] > 0.8

# %% [markdown]
# The LSTM has seen twice as many lists. What it has learned is about the steps 1 to 5: on longer
# lists it is no better than guessing. The machine has learned what to do *next*. See it:
# `EmitState` makes a cell whose output is (y, state), so that `unroll` returns the weights of every
# step. Below, time runs to the right, the cells of the memory downwards: on the left the write
# head, while the list comes in, on the right the read head, from the mark on.

# %%
length = 2 * LONGEST
xs, target = lists(np.random.default_rng(2), length, 1)
with mg.no_grad():
    (_, (_, weights, _, _)), _ = unroll(EmitState(copier.cell), xs)
read_head, write_head = weights.numpy()[length:, 0, 0], weights.numpy()[:length, 0, 1]
for i in range(read_head.shape[1]):
    left, right = (
        "".join(" .:*#"[int(4.99 * v)] for v in w[:, i]) for w in (write_head, read_head)
    )
    if (left + right).strip():
        print(f"{i:3} |{left}|{right}|")
written, found = write_head.argmax(axis=1), read_head.argmax(axis=1)
same = max(np.mean(written == found[1 - ahead :][:length]) for ahead in (0, 1))
print(f"the read head goes the way of the write head: {same:.0%} of the steps")
assert FAST or same >= 0.8

# %% [markdown]
# Two diagonals: the machine has found out for itself what a programmer would have written, a
# pointer that moves on by one. Which way it goes, where it starts, and whether it reads in time or
# one step ahead (the controller sees what was read before) differs from seed to seed.
#
# ## Facts and questions
#
# A memory network is the other way to use a memory: the facts are given, nothing is written, and
# a question reads in several *hops*: $p_i = \mathrm{softmax}(u \cdot m_i)$, $o = \sum_i p_i c_i$,
# and $u + o$ is the next question. Some questions need two. Who has the ball? And where is she?

# %%
PEOPLE = ["Ann", "Bob", "Cid", "Dot"]
THINGS = ["ball", "cup", "drum", "egg"]
ROOMS = ["attic", "bath", "cellar", "den"]
NAMES = PEOPLE + THINGS + ROOMS


def stories(rng, B):
    """Facts (8, B, 12), each two names, in any order; a thing (B, 12); the room it is in (B,)."""
    facts = np.zeros((8, B, 12), "float32")
    question, answer = np.zeros((B, 12), "float32"), np.zeros(B, int)
    for b in range(B):
        holder, room = rng.integers(4, size=(2, 4))
        rows = [(holder[i], 4 + i) for i in range(4)] + [(i, 8 + room[i]) for i in range(4)]
        for i, place in enumerate(rng.permutation(8)):
            facts[place, b, list(rows[i])] = 1
        asked = rng.integers(4)
        question[b, 4 + asked], answer[b] = 1, room[holder[asked]]
    return facts, question, answer


facts, question, answer = stories(np.random.default_rng(3), 1)
print(*(" - ".join(NAMES[i] for i in np.flatnonzero(fact)) for fact in facts[:, 0]), sep="\n")
print(f"{NAMES[question[0].argmax()]}? {ROOMS[answer[0]]}")
assert (facts.sum(axis=2) == 2).all()


# %%
class Answering(mg.nn.Module):
    def __init__(self, hops, H=20):
        self.ask = mg.nn.Linear(12, H, bias=False)
        self.memory = MemoryNetwork(12, H, hops)
        self.answer = mg.nn.Linear(H, 4)

    def __call__(self, facts, question):
        return self.answer(self.memory(mg.Tensor(facts), self.ask(mg.Tensor(question))))


def study(hops, updates=20 if FAST else 250):
    mg.random.seed(1)
    rng, model = np.random.default_rng(1), Answering(hops)
    optimizer = mg.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(updates):
        facts, question, answer = stories(rng, 64)
        optimizer.zero_grad()
        mg.functional.cross_entropy(model(facts, question), answer).backward()
        optimizer.step()
    return model


def share_right(model):
    facts, question, answer = stories(np.random.default_rng(4), 500)
    with mg.no_grad():
        return float(np.mean(model(facts, question).numpy().argmax(axis=1) == answer))


facts, _, answer = stories(np.random.default_rng(4), 500)
commonest = float(np.mean(facts[:, :, 8:].sum(axis=0).argmax(axis=1) == answer))
right = {hops: share_right(study(hops)) for hops in (1, 2)}
print(f"right answers: {right[1]:.0%} with one hop, {right[2]:.0%} with two")
print(f"and {commonest:.0%} by always naming the room that occurs most often in the story")
assert FAST or (right[2] > 0.95 and right[1] < commonest + 0.1)

# %% [markdown]
# One hop finds the fact about the ball, and with it Ann; where Ann is stands in another fact,
# about which the question said nothing. So it can do no better than the commonest room.
#
# ## Exercises
#
# 1. Write `shift(w, s)` in NumPy that returns the weights (N,) after a circular convolution: s
#    holds the shares of the moves by -r, ..., 0, ..., r cells, and is 2r + 1 long.
# 2. Write `lookup(memory, key, beta)` in NumPy that returns the vector read by content, (M,), from
#    a memory (N, M) with a key (M,), for $\beta$ of any size.
# 3. Write `backwards(T)` that returns two lists of 2T moves, of -1, 0 or 1 each, for a write head
#    and a read head that both begin at cell 0 of a ring of T + 3 cells, so that a list of T symbols
#    comes out in reverse. At each step both heads move first; then, in the first T steps, a symbol
#    is written, and in the last T steps one is read.
#
# Put your functions into a file, say `mine.py`; `minigrad-rnn tutorial 15 --check mine.py` tests
# them, and gives a hint where one is wrong. The file sees all names of this tutorial. The next cell
# holds answers, and these tests.


# %%
def shift(w, s):
    r = len(s) // 2
    return sum(share * np.roll(w, move) for move, share in zip(range(-r, r + 1), s, strict=True))


def lookup(memory, key, beta):
    cosines = memory @ key / (np.linalg.norm(memory, axis=1) * np.linalg.norm(key))
    w = np.exp(beta * (cosines - cosines.max()))
    return w @ memory / w.sum()


def backwards(T):
    along = [0] + [1] * (T - 1)  # the read head walks with the writer, then turns
    return along + [0] * T, along + [0] + [-1] * (T - 1)


def check_1(shift):
    w = np.array([0.5, 0.3, 0.2, 0.0])
    found = shift(w, np.array([0.0, 1.0, 0.0]))
    assert isinstance(found, np.ndarray) and found.shape == (4,), "return weights (N,)"
    assert np.allclose(found, w), "the middle share is that of staying"
    right = shift(w, np.array([0.0, 0.0, 1.0]))
    assert np.allclose(right, [0.0, 0.5, 0.3, 0.2]), "the last share moves to the right, around"
    both = shift(w, np.array([0.1, 0.0, 0.0, 0.0, 0.9]))
    expected = [
        sum({2: 0.9, -2: 0.1}.get(d, 0) * w[(i - d) % 4] for d in (-2, 2)) for i in range(4)
    ]
    assert np.allclose(both, expected), "s may be longer than 3: its middle is at len(s) // 2"


def check_2(lookup):
    memory = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    found = lookup(memory, np.array([0.0, 5.0]), 0.0)
    assert isinstance(found, np.ndarray) and found.shape == (2,), "return a vector (M,)"
    hint = "with beta = 0 all cells weigh the same"
    assert np.allclose(found, [4 / 3, 2.0]), hint
    hard = lookup(memory, np.array([0.0, 5.0]), 1e4)
    assert np.allclose(hard, [0.0, 2.0]), (
        "a large beta gives the cell whose *direction* is the key's: divide by both lengths, and "
        "subtract the largest score before exp"
    )
    w = np.exp([0.0, 2.0, 1.6]) / np.exp([0.0, 2.0, 1.6]).sum()
    assert np.allclose(lookup(memory, np.array([0.0, 5.0]), 2.0), w @ memory), (
        "the weights are exp(beta cosine) over their sum"
    )


def check_3(backwards):
    for T in (1, 2, 7):
        made = backwards(T)
        assert isinstance(made, tuple) and len(made) == 2, "return two lists, write and read"
        for moves in made:
            assert len(moves) == 2 * T, f"T = {T}: {2 * T} moves for each head"
            assert set(moves) <= {-1, 0, 1}, "a head moves by one cell at most"
        ring, at, out = [None] * (T + 3), [0, 0], []
        for t in range(2 * T):
            at = [(place + moves[t]) % (T + 3) for place, moves in zip(at, made, strict=True)]
            if t < T:
                ring[at[0]] = t
            else:
                out.append(ring[at[1]])
        assert set(out) == set(range(T)), (
            "every symbol needs a cell of its own, and the read head has to come by it"
        )
        assert out == list(range(T))[::-1], (
            "the last symbol is read first: let the read head walk along while it is written"
        )


check_1(shift)
check_2(lookup)
check_3(backwards)
print("exercises: 3 of 3")

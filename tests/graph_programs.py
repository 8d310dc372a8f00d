"""Captured programs for the tests of the passes and of what backends emit.

Shapes: T time, B batch, D input, H hidden.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import functional, tree
from minigrad.graph import PASSES, Graph, capture
from minigrad_rnn.catalogue import CATALOGUE
from tests import test_compile_matrix as trainings
from tests import test_programs as pools
from tests.catalogue import make
from tests.op_checks import leaves_of
from tests.recurrent import leaf, random_cell, randomise

Captured = tuple[Graph, list[Any]]  # a graph as captured, and its inputs
# What together has every way in which a loop is fed and read.
FEW_CELLS = ("LSTM", "GRU", "clockwork", "delays 1 and 3", "mLSTM")


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def work(f: Callable[[], Any]) -> int:
    """How many functions are called, of Python and of C: the same on a machine that is busy."""
    calls = 0

    def count(frame: Any, event: str, called: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        f()
    finally:
        sys.setprofile(before)
    return calls


def optimised(graph: Graph) -> Graph:
    """What a backend is given to emit."""
    for optimise in PASSES:
        graph = optimise(graph)
    return graph


def captured(f: Callable[..., Any], *args: Any) -> Captured:
    found = capture(f, *args)
    return found.graph, found.inputs(tree.flatten(args)[0])


def with_gradients(net: Any, **options: Any) -> Callable[..., Any]:
    """ys, the last state, a loss of both, and its gradients by all weights and inputs."""

    def f(xs: Any) -> Any:
        ys, state = rnn.unroll(net, xs, **options)
        loss = mg.mean(ys**2)
        for part in tree.flatten(state)[0]:
            loss = loss + mg.mean(mg.tanh(part)) if part.dtype.kind == "f" else loss
        return ys, state, loss, mg.pullback(loss, [*net.parameters(), xs], allow_unused=True)

    return f


def cell(name: str, T: int = 4, B: int = 2, H: int = 4, dtype: str = "float64") -> Captured:
    """A cell of the catalogue, unrolled, with its gradients."""
    net = make(name, H, H) if dtype == "float64" else CATALOGUE[name](H, H, dtype=dtype).eval()
    if dtype != "float64":
        net.load_state_dict({k: v.astype(dtype) for k, v in make(name, H, H).state_dict().items()})
    return captured(with_gradients(net), leaf(rng_of(T).normal(size=(T, B, H)), dtype))


def sequence(T: int = 5, B: int = 2, D: int = 3, seed: int = 1) -> mg.Tensor:
    return leaf(rng_of(seed).normal(size=(T, B, D)))


def lstm_step(
    T: int = 5, B: int = 2, D: int = 3, H: int = 4, dtype: str = "float64", kind: str = "lstm"
) -> Captured:
    """A training step as a user writes it, with Adam."""
    net = random_cell(kind, D, H, rng_of(1), dtype)
    optimizer = mg.optim.Adam(net.parameters(), lr=0.01)

    def step(xs: Any, target: Any) -> Any:
        state, ys = net.initial_state(B), []
        for x in xs:
            y, state = net(x, state)
            ys.append(y)
        loss = ((mg.stack(ys) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    data = [mg.Tensor(rng_of(i).normal(size=(T, B, n)), dtype=dtype) for i, n in ((2, D), (3, H))]
    return captured(step, *data)


def training(name: str) -> Captured:
    """A training step of tests/test_compile_matrix.py."""
    rng = rng_of(1)
    mg.random.seed(2)
    step, _, _ = trainings.PROGRAMS[name](rng)
    shapes = [(trainings.T, trainings.B, n) for n in (trainings.D, trainings.H)]
    return captured(step, *(mg.Tensor(rng.normal(size=s)) for s in shapes))


def language_model(B: int = 2) -> Captured:
    """Embeddings, a cell, an output layer, and the cross-entropy of every step."""
    cell = random_cell("gru", 3, 4, rng_of(6))
    table, out = leaf(rng_of(7).normal(size=(7, 3))), leaf(rng_of(8).normal(size=(4, 7)))

    def f(ids: Any) -> Any:
        h, loss = cell.initial_state(B), 0.0
        for t in range(5):
            y, h = cell(mg.take(table, ids[t], axis=0), h)
            loss = loss + functional.cross_entropy(y @ out, ids[t + 1])
        return loss, mg.pullback(loss, [table, out, *cell.parameters()])

    return captured(f, mg.Tensor(rng_of(9).integers(0, 7, (6, B))))


def attention(B: int = 2, S: int = 5) -> Captured:
    """A decoder that looks at a memory (B, S, H) in every step, through a product and softmax."""
    H, D = 4, 3
    memory, V = leaf(rng_of(1).normal(size=(B, S, H))), leaf(rng_of(2).normal(size=(H, H)))
    W, K = leaf(rng_of(3).normal(size=(D + H, H))), leaf(rng_of(4).normal(size=(H, H)))

    def f(xs: Any) -> Any:
        h, hs = mg.zeros((B, H), dtype="float64"), []
        for x in xs:
            keys = mg.tanh(memory * h[:, None]) @ K
            scores = keys @ mg.expand_dims(h @ V, -1)
            context = mg.sum(functional.softmax(scores, axis=1) * memory, axis=1)
            h = mg.tanh(mg.concatenate([x, context], axis=-1) @ W)
            hs.append(h)
        loss = mg.mean(mg.stack(hs) ** 2)
        return loss, mg.pullback(loss, [memory, V, W, K, xs])

    return captured(f, sequence(6, B, D))


def schedule(which: Any) -> Callable[[], Captured]:
    """A training step of minigrad_rnn.training on eight time steps."""

    def build() -> Captured:
        net = random_cell("rnn", 3, 4, rng_of(16))

        def step(xs: Any, targets: Any) -> Any:
            for p in net.parameters():
                p.grad = None
            return which(net, lambda ys, ts: mg.mean((ys - ts) ** 2), xs, targets)

        return captured(step, sequence(8), mg.Tensor(rng_of(17).normal(size=(8, 2, 4))))

    return build


def second_axis() -> Captured:
    """Time along the second axis, from the end: rows that lie scattered, and are reshaped."""
    W, V = leaf(rng_of(1).normal(size=(3, 3))), leaf(rng_of(2).normal(size=(6, 6)))

    def f(xs: Any) -> Any:
        h, hs = mg.zeros((2, 3), dtype="float64"), []
        for t in reversed(range(5)):
            flat = mg.reshape(xs[:, t], (1, 6)) @ V
            h = mg.tanh(mg.reshape(flat, (2, 3)) + h @ W)
            hs.append(h)
        return hs, mg.pullback(mg.sum(mg.stack(hs, axis=1) ** 2), [W, V, xs])

    return captured(f, leaf(rng_of(3).normal(size=(2, 5, 3))))


def minibatches() -> Captured:
    """Gradients added up over batches: loops in loops."""
    net = random_cell("rnn", 3, 4, rng_of(21))

    def f(batches: Any) -> Any:
        for p in net.parameters():
            p.grad = None
        for xs in batches:
            mg.mean(rnn.unroll(net, xs)[0] ** 2).backward()
        return [p.grad for p in net.parameters()]

    return captured(f, mg.Tensor(rng_of(22).normal(size=(5, 4, 2, 3))))


def both_directions() -> Captured:
    sides = [
        rnn.Bidirectional(*(random_cell("lstm", n, 4, rng_of(i)) for i in (3, 4))) for n in (3, 8)
    ]
    net = rnn.Layers(sides)
    resets = rng_of(5).random((6, 2)) < 0.3

    def f(xs: Any) -> Any:
        ys, _ = net(xs, lengths=[6, 3], resets=resets)
        return ys, mg.pullback(mg.mean(ys**2), [*net.parameters(), xs])

    return captured(f, sequence(6))


def sampling() -> Captured:
    """Drawn symbols go back into the model."""
    net = random_cell("lstm", 4, 3, rng_of(27))
    out = randomise(mg.nn.Linear(3, 4, dtype="float64"), rng_of(28))

    def f() -> Any:
        state, x, drawn = net.initial_state(1), mg.zeros((1, 4), dtype="float64"), []
        for _ in range(5):
            y, state = net(x, state)
            drawn.append(mg.random.categorical(None, (1,), out(y)))
            x = mg.functional.one_hot(drawn[-1], 4, "float64")
        return mg.stack(drawn), state

    return captured(f)


def composed() -> Captured:
    """Ops that are written out: sums of products, logsumexp, cumulated sums, triangles."""

    def f(a: Any, b: Any, c: Any) -> Any:
        y = mg.einsum("bij,bjk->bik", a, b) + mg.einsum("bi,ik->bk", mg.sum(a, axis=1), c)[:, None]
        z = mg.logsumexp(y, axis=-1) + mg.sum(mg.einsum("bij,bik->jk", a, y))
        u = mg.tril(mg.cumsum(b, axis=1)) @ mg.roll(c, 1, 0)
        v = mg.einsum("bij,bij->b", a, a) + mg.einsum("i,j->", c[0], c[1])
        loss = mg.sum(z) + mg.mean(u) + mg.sum(v) + mg.max(mg.var(y, axis=0))
        return loss, y, v, mg.pullback(loss, [a, b, c])

    shapes = (2, 3, 3), (2, 3, 3), (3, 3)
    return captured(f, *(leaf(rng_of(i).normal(size=s)) for i, s in enumerate(shapes)))


OTHERS: dict[str, Callable[[], Captured]] = {
    "language model": language_model,
    "attention": attention,
    "bptt": schedule(rnn.BPTT()),
    "tbptt": schedule(rnn.TBPTT(4, 4)),
    "checkpoint": schedule(rnn.Checkpoint(6)),
    "rtrl": schedule(rnn.RTRL()),
    "second axis": second_axis,
    "minibatches": minibatches,
    "both directions": both_directions,
    "sampling": sampling,
    "composed": composed,
}
PROGRAMS: dict[str, Callable[[], Captured]] = {
    **{f"cell {name}": lambda name=name: cell(name) for name in CATALOGUE},
    **{f"training {name}": lambda name=name: training(name) for name in trainings.PROGRAMS},
    **OTHERS,
}
FEW = (
    *(f"cell {name}" for name in FEW_CELLS),
    *(f"training {name}" for name in ("lstm, adam", "dropout", "ragged, both ways")),
    *("attention", "language model", "tbptt", "second axis", "minibatches", "composed"),
)


def pooled(seed: int) -> Captured:
    """A random program of tests/test_programs.py with its gradients; one in four has empty axes."""
    rng = rng_of(seed)
    least = 0 if seed % 4 == 0 else 1
    shapes = [
        tuple(int(n) for n in rng.integers(least, 4, size=rng.integers(4)))
        for _ in range(rng.integers(1, 4))
    ]
    program = [
        (int(rng.integers(len(pools.INSTRUCTIONS))), *map(int, rng.integers(0, 16, 3)))
        for _ in range(rng.integers(3, 15))
    ]

    def f(*leaves: Any) -> Any:
        y = pools.run(program, list(leaves), ours=True)
        return y, mg.pullback(y, leaves, allow_unused=True)

    return captured(f, *leaves_of(pools.drawn(shapes, seed)))

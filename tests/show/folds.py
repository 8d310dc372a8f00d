"""`mg.fold` of programs as text, each with the check that `unfold` gives the same graph back.

`python tests/show/folds.py` prints all; `python tests/show/folds.py rnn` those named.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "backends")]

import numpy as np  # noqa: E402

import minigrad as mg  # noqa: E402
import minigrad_rnn as rnn  # noqa: E402
from minigrad.graph import capture, fingerprint, text, verify  # noqa: E402
from tests.test_graph_fold import isomorphic  # noqa: E402

T, B, D, H, V = 20, 2, 3, 4, 2


def weights(*shapes):
    rng = np.random.default_rng(0)
    return [mg.Tensor(0.5 * rng.normal(size=shape), requires_grad=True) for shape in shapes]


def net(cell):
    return lambda xs: rnn.unroll(cell, xs)


def training(cell):
    optimizer = mg.optim.SGD(cell.parameters(), lr=0.1)

    def step(xs):
        optimizer.zero_grad()
        loss = (rnn.unroll(cell, xs)[0] ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def output_recurrence():
    """B8, Fig 10.4: h(t) = tanh(b + o(t-1) W + x(t) U), o = h V + c."""
    W, U, b, V_, c = weights((V, H), (D, H), (H,), (H, V), (V,))

    def f(xs):
        o, os = mg.zeros((B, V), dtype="float64"), []
        for x in xs:
            o = mg.tanh(o @ W + x @ U + b) @ V_ + c
            os.append(o)
        return mg.stack(os)

    return f


def attention():
    """A decoder that looks at a memory (M, H), the same at every step."""
    memory, W, U = weights((5, H), (H, H), (D, H))

    def f(xs):
        h, ys = mg.zeros((B, H), dtype="float64"), []
        for x in xs:
            context = mg.functional.softmax(h @ memory.T) @ memory
            h = mg.tanh(x @ U + (h + context) @ W)
            ys.append(h)
        return mg.stack(ys)

    return f


def lstm(size):
    return rnn.LSTMCell(size, H, dtype="float64")


def programs():
    """Name -> (function of xs (T, B, D), what it is)."""
    two = rnn.Layers([rnn.Bidirectional(lstm(n), lstm(n)) for n in (D, 2 * H)])
    return {
        "rnn": net(rnn.RNNCell(D, H, dtype="float64")),
        "lstm": net(lstm(D)),
        "output": output_recurrence(),
        "attention": attention(),
        "bidirectional": lambda xs: two(xs),
        "training": training(rnn.RNNCell(D, H, dtype="float64")),
    }


def main(names: list[str]) -> int:
    xs = mg.Tensor(np.random.default_rng(1).normal(size=(T, B, D)))
    exact = True
    for name, program in programs().items():
        if names and name not in names:
            continue
        flat = capture(program, xs).graph
        folded = verify(mg.fold(flat))
        same = isomorphic(mg.unfold(folded), flat) and fingerprint(folded) == fingerprint(flat)
        exact &= same
        print(f"== {name}: {len(flat.steps)} steps, folded {len(folded.steps)}; ", end="")
        print("unfold(fold(g)) is g" if same else "unfold(fold(g)) DIFFERS from g")
        print(text(folded), end="\n\n")
    return 0 if exact else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""`mg.fold` of programs as text, each with the check that `unfold` gives the same graph back,
captured for any number of steps from 1 to 20.

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
LENGTHS = range(1, T + 1)


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


def attention_decoder():
    """Reads a memory (M, B, H) by additive attention, the keys U h_j made once, before the loop."""
    memory, W, U, v = weights((5, B, H), (H, H), (H, H), (H, 1))
    cell = rnn.GRUCell(D + H, H, dtype="float64")

    def decode(ys):
        keys = memory @ U

        def step(y, s):
            scores = mg.tanh(s @ W + keys) @ v  # (M, B, 1)
            context = mg.sum(mg.functional.softmax(scores, axis=0) * memory, axis=0)
            return cell(mg.concatenate([y, context], axis=-1), s)

        return rnn.unroll(step, ys, mg.zeros((B, H), dtype="float64"))

    return decode


def programs():
    """Name -> function of xs (T, B, D)."""
    f8 = {"dtype": "float64"}
    feedback = rnn.OutputFeedback(rnn.HiddenLayer(D + V, H, **f8), mg.nn.Linear(H, V, **f8))
    pairs = [[rnn.LSTMCell(size, H, **f8) for _ in range(2)] for size in (D, 2 * H)]
    two_layers = rnn.Layers([rnn.Bidirectional(*pair) for pair in pairs])
    return {
        "rnn": net(rnn.RNNCell(D, H, **f8)),
        "peephole": net(rnn.PeepholeLSTMCell(D, H, **f8)),
        "output": net(feedback),
        "clockwork": net(rnn.ClockworkCell(D, H, (1, 2), **f8)),
        "attention": attention_decoder(),
        "bidirectional": lambda xs: two_layers(xs),
        "training": training(rnn.RNNCell(D, H, **f8)),
    }


def at(program, steps):
    """The flat graph captured for so many steps."""
    return capture(program, mg.Tensor(np.ones((steps, B, D)))).graph


def main(names: list[str]) -> int:
    exact = True
    for name, program in programs().items():
        if names and name not in names:
            continue
        flat = at(program, T)
        folded = verify(mg.fold(flat))
        same = isomorphic(mg.unfold(folded), flat) and fingerprint(folded) == fingerprint(flat)
        graphs = (at(program, n) for n in LENGTHS)
        all_same = all(isomorphic(mg.unfold(mg.fold(g)), g) for g in graphs)
        exact &= same and all_same
        print(f"== {name}: {len(flat.steps)} steps, folded {len(folded.steps)}; ", end="")
        print("unfold(fold(g)) is g" if same else "unfold(fold(g)) DIFFERS from g", end="; ")
        print(f"of {LENGTHS[0]} to {LENGTHS[-1]} steps {'too' if all_same else 'NOT'}")
        print(text(folded), end="\n\n")
    return 0 if exact else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

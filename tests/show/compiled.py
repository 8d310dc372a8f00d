"""What `mg.compile` does: reports, one training step three ways, a cell of one's own, derivatives.

`python tests/show/compiled.py` prints all; `python tests/show/compiled.py reports` those named:
reports (LSTM, attention decoder, clockwork), example (eager, NumPy, Numba), own (in no catalogue),
derivatives (what they cost beside the forward run). Exits with 1 where numbers differ.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "backends")]

import numpy as np  # noqa: E402

import minigrad as mg  # noqa: E402
import minigrad_rnn as rnn  # noqa: E402
from minigrad_rnn import attention  # noqa: E402

T, B, D, H = 50, 16, 64, 128
FAILED: list[str] = []


def check(holds: bool, what: str) -> None:
    print(f"{'PASS' if holds else 'FAIL'} {what}")
    if not holds:
        FAILED.append(what)


def numbers(*shape: int) -> mg.Tensor:
    return mg.Tensor(np.random.default_rng(len(shape)).normal(size=shape), dtype="float32")


def training(cell, optimizer=None):
    """DESIGN's example: a plain loop over a cell, mean squared error, one update."""
    optimizer = optimizer or mg.optim.Adam(cell.parameters(), lr=1e-3)

    def step(xs, target):
        state = cell.initial_state(xs.shape[1])
        ys = []
        for x in xs:
            y, state = cell(x, state)
            ys.append(y)
        loss = ((mg.stack(ys) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def attention_decoder():
    memory = numbers(12, B, H)
    cell = attention.BahdanauCell(rnn.GRUCell(D + H, H), attention.Additive(H, H, H))
    optimizer = mg.optim.SGD(cell.parameters(), lr=0.1)

    def step(xs):
        ys, _ = rnn.unroll(cell, xs, cell.begin(memory))
        loss = (ys**2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def reports() -> None:
    mg.set_backend("numba")
    nets = {
        "LSTM": (training(rnn.LSTMCell(D, H)), (numbers(T, B, D), numbers(T, B, H))),
        "attention decoder": (attention_decoder(), (numbers(T, B, D),)),
        "clockwork": (
            training(rnn.ClockworkCell(D, H)),
            (numbers(T, B, D), numbers(T, B, H)),
        ),
    }
    for name, (step, data) in nets.items():
        compiled = mg.compile(step)
        compiled(*data)
        print(f"\n# {name}, T = {T}, B = {B}, D = {D}, H = {H}\n{compiled.report()}")


def example() -> None:
    print(f"\n# one training step three ways, T = {T}, B = {B}, D = {D}, H = {H}: 20 losses")
    losses = {}
    for name, backend, compiled in (
        ("eager NumPy", "numpy", False),
        ("compiled NumPy", "numpy", True),
        ("compiled Numba", "numba", True),
    ):
        with mg.use_backend(backend):
            mg.random.seed(0)
            step = training(rnn.LSTMCell(D, H))
            step = mg.compile(step) if compiled else step
            data = numbers(T, B, D), numbers(T, B, H)
            losses[name] = [step(*data).item() for _ in range(20)]
        print(f"{name:15} {losses[name][0]:.7f} ... {losses[name][-1]:.7f}")
    first = losses["eager NumPy"]
    for name, found in list(losses.items())[1:]:
        difference = max(abs(a - b) / abs(a) for a, b in zip(first, found, strict=True))
        check(difference < 1e-5, f"{name} differs from eager by {difference:.1e}, at most 1e-5")


class Own(mg.nn.Module):
    """A cell in no catalogue: two gates, one of which looks at the other's product."""

    def __init__(self, D: int, H: int) -> None:
        rng = np.random.default_rng(0)
        self.Wx = mg.nn.Parameter(rng.normal(size=(D, 3 * H)) / D**0.5)
        self.Wh = mg.nn.Parameter(rng.normal(size=(H, 2 * H)) / H**0.5)
        self.Wu = mg.nn.Parameter(rng.normal(size=(H, H)) / H**0.5)
        self.b = mg.nn.Parameter(np.zeros(3 * H))
        self.H = H

    def initial_state(self, batch: int):
        return mg.zeros((batch, self.H)), mg.zeros((batch, self.H))

    def __call__(self, x, state):
        h, m = state
        a, b, c = mg.split(x @ self.Wx + self.b, 3, axis=-1)
        p, q = mg.split(h @ self.Wh, 2, axis=-1)
        gate = mg.sigmoid(a + p)
        new = mg.tanh(b + (gate * h) @ self.Wu) / (1 + mg.exp(-q * c))
        m = 0.9 * m + 0.1 * new * new
        h = gate * h + (1 - gate) * new / mg.sqrt(m + 1e-3)
        return h, (h, m)


def timed(step, data) -> float:
    found = []
    for _ in range(15):
        start = time.perf_counter()
        step(*data)
        found.append(time.perf_counter() - start)
    return 1e3 * statistics.median(found)


def own() -> None:
    print(f"\n# a cell of one's own, T = {T}, B = {B}, D = {D}, H = {H}, with Adam")
    mg.set_backend("numba")
    data = numbers(T, B, D), numbers(T, B, H)
    eager, compiled = training(Own(D, H)), mg.compile(training(Own(D, H)))
    pairs = [(eager(*data).item(), compiled(*data).item()) for _ in range(10)]
    difference = max(abs(a - b) / abs(a) for a, b in pairs)
    check(difference < 1e-5, f"ten losses differ by {difference:.1e}, at most 1e-5")
    slow, fast = timed(eager, data), timed(compiled, data)
    print(f"eager {slow:.2f} ms a step, compiled {fast:.2f} ms: {slow / fast:.1f} times faster")


def derivatives() -> None:
    """Seen from outside, each is a call of a compiled function, of its pullbacks, and of theirs."""
    print(f"\n# derivatives of compiled cells, T = {T}, B = {B}, D = {D}, H = {H}: times forward")
    print(f"{'':10} {'forward':>11} {'gradient':>9} {'jvp':>6} {'double backward':>16}")
    mg.set_backend("numba")
    xs, v = numbers(T, B, D), mg.Tensor(np.random.default_rng(1).normal(size=(T, B, D)), "float32")
    for name, cell in (("LSTM", rnn.LSTMCell(D, H)), ("GRU", rnn.GRUCell(D, H)),
                       ("clockwork", rnn.ClockworkCell(D, H))):  # fmt: skip
        of_xs = mg.compile(lambda xs, cell=cell: mg.square(rnn.unroll(cell, xs)[0]).mean())
        gradient = mg.grad(of_xs)
        kinds = {
            "gradient": lambda xs: gradient(xs),  # noqa: B023
            "jvp": lambda xs: mg.jvp(of_xs, (xs,), (v,))[1],  # noqa: B023
            "double": mg.grad(lambda xs: (gradient(xs) * v).sum()),  # noqa: B023
        }
        eager = mg.grad(lambda xs, f=of_xs.f: (mg.grad(f)(xs) * v).sum())
        a, b = (f(xs).numpy() for f in (kinds["double"], eager))
        difference = float(np.abs(a - b).max() / np.abs(b).max())
        with mg.no_grad():
            forward = timed(of_xs, (xs,))
        ratios = {kind: timed(f, (xs,)) / forward for kind, f in kinds.items()}
        print(f"{name:10} {forward:8.2f} ms {ratios['gradient']:9.1f} {ratios['jvp']:6.1f} "
              f"{ratios['double']:16.1f}")  # fmt: skip
        check(
            difference < 1e-4, f"{name}: double backward differs by {difference:.1e}, at most 1e-4"
        )


def main() -> None:
    parts = {"reports": reports, "example": example, "own": own, "derivatives": derivatives}
    for name in sys.argv[1:] or parts:
        parts[name]()
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()

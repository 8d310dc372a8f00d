"""What `mg.compile` does: reports, one training step three ways, a cell of one's own, derivatives.

`python tests/show/compiled.py` prints all; `python tests/show/compiled.py reports` those named:
reports (LSTM, attention decoder, clockwork), example (eager, NumPy, Numba), own (in no catalogue),
derivatives (what they cost beside the forward run). Exits with 1 where numbers differ, or where
double backward takes more than six times the forward run.
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


def timed(step, data, rounds: int = 15) -> float:
    found = []
    for _ in range(rounds):
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


def times_forward(derivative, forward, xs) -> float:
    """The median over rounds of how many times the forward run's time the derivative takes."""
    return statistics.median(timed(derivative, xs, 1) / timed(forward, xs, 1) for _ in range(15))


def derivatives() -> None:
    """Each kind compiled whole, as one graph; then from outside: pullbacks of compiled code."""
    print(f"\n# derivatives of compiled cells, T = {T}, B = {B}, D = {D}, H = {H}: times forward;")
    print("# whole: mg.compile(mg.grad(f)), outside: mg.grad(mg.compile(f))")
    mg.set_backend("numba")
    xs, v = numbers(T, B, D), mg.Tensor(np.random.default_rng(1).normal(size=(T, B, D)), "float32")
    kinds = {
        "gradient": mg.grad,
        "jvp": lambda f: lambda xs: mg.jvp(f, (xs,), (v,))[1],
        "double backward": lambda f: mg.grad(lambda xs: (mg.grad(f)(xs) * v).sum()),
    }
    cells = (rnn.LSTMCell(D, H), rnn.GRUCell(D, H), rnn.ClockworkCell(D, H))
    for name, cell in zip(("LSTM", "GRU", "clockwork"), cells, strict=True):
        f = lambda xs, cell=cell: mg.square(rnn.unroll(cell, xs)[0]).mean()  # noqa: E731
        compiled = mg.compile(f)
        quiet = mg.no_grad()(compiled)
        print(f"{name}: forward {timed(quiet, (xs,)):.2f} ms")
        for kind, of in kinds.items():
            whole, outside = mg.compile(of(f)), of(compiled)
            eager, *found = (g(xs).numpy() for g in (of(f), whole, outside))
            scale = np.abs(eager).max()
            worst = max(float(np.abs(a - eager).max() / scale) for a in found)
            cost, from_outside = (times_forward(g, quiet, (xs,)) for g in (whole, outside))
            print(f"  {kind:15} whole {cost:5.1f}, outside {from_outside:5.1f}")
            check(worst < 1e-4, f"{name}, {kind}: {worst:.1e} from eager, at most 1e-4")
        check(cost <= 6, f"{name}: double backward takes {cost:.1f} times forward, at most 6")


def main() -> None:
    parts = {"reports": reports, "example": example, "own": own, "derivatives": derivatives}
    for name in sys.argv[1:] or parts:
        parts[name]()
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()

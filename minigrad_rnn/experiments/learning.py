"""Training on fresh data, told step by step: what the experiments share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.nn import Linear, Module
from minigrad_rnn.cells import GRUCell, LSTMCell
from minigrad_rnn.experiments.tasks import Batch
from minigrad_rnn.unrolling import unroll

Curve = Generator[tuple[float, float], None, None]
Task = Callable[[mg.random.Key], Batch]
POINTS = 50  # of a curve


class Answering(Module):
    """A cell and a linear layer over its outputs at the last steps, those that are asked."""

    def __init__(self, cell: Any, H: int, V: int) -> None:
        self.cell, self.readout = cell, Linear(H, V)

    def __call__(self, xs: Any, steps: int = 1) -> mg.Tensor:
        """Answers (steps, B, V) to xs (T, B, D)."""
        hs, _ = unroll(self.cell, mg.Tensor(xs))
        return self.readout(hs[-steps:])


def keys(seed: int) -> tuple[mg.random.Key, mg.random.Key]:
    """Seed the weights' draws; the keys of the data, for training and for the measure."""
    mg.random.seed(seed)
    return mg.random.key(seed).fold(1), mg.random.key(seed).fold(2)


def learn(
    draw: Callable[[int], Sequence[Any]],
    loss: Callable[..., mg.Tensor],
    parameters: Sequence[mg.Tensor],
    steps: int,
    rate: float = 0.01,
    *,
    clip: float | None = 1.0,
    optimizer: Callable[..., Any] = mg.optim.Adam,
    falling: bool = False,
) -> Curve:
    """Lower loss(*draw(n)), n the number of the update: yields (share done, mean loss) at times.

    The updates are compiled, once for each of the shapes that draw gives. With falling the rate
    goes to 0 along half a cosine.
    """
    update, seen = optimizer(parameters, lr=rate), []
    schedule = mg.optim.CosineSchedule(update, steps) if falling else None

    @mg.compile
    def step(*batch: Any) -> mg.Tensor:
        update.zero_grad()
        value = loss(*batch)
        value.backward()
        if clip is not None:
            mg.optim.clip_by_global_norm(parameters, clip)
        update.step()
        if schedule is not None:
            schedule.step()
        return value

    for n in range(steps):
        seen.append(step(*draw(n)).item())
        if (n + 1) % max(1, steps // POINTS) == 0:
            yield (n + 1) / steps, float(np.mean(seen))
            seen.clear()


def classify(
    make: Callable[[], Any], task: Task, steps: int, rate: float, seed: int, batches: int = 4
) -> Generator[tuple[float, float], None, float]:
    """Train make() on labels; its share of sequences with every answer right, on fresh data.

    model(xs, steps) gives logits (steps, B, V), task(key) inputs and labels (steps, B).
    """
    train, test = keys(seed)
    model = make()

    def loss(xs: Any, labels: Any) -> mg.Tensor:
        return F.cross_entropy(model(xs, len(labels)), labels)

    yield from learn(lambda n: task(train.fold(n)), loss, model.parameters(), steps, rate)
    return exact(model, [task(test.fold(n)) for n in range(batches)])


def exact(model: Any, batches: Sequence[Batch]) -> float:
    """The share of sequences with every answer right."""
    with mg.no_grad():
        right = [
            (model(xs, len(labels)).numpy().argmax(-1) == labels).all(axis=0)
            for xs, labels in batches
        ]
    return float(np.concatenate(right).mean())


def open_gates(cell: Any, lag: int) -> Any:
    """Let the gates of an LSTM or GRU begin with memories of up to `lag` steps; others as they are.

    A gate that keeps 1 - 1/u of a state has a memory of u steps: b = log(u - 1) of the LSTM's
    forget gate, its negative of the input gate, and of the GRU's z, with u uniform over [2, lag]
    (Tallec and Ollivier 2018, the "chrono" initialisation).
    """
    if isinstance(cell, (LSTMCell, GRUCell)):
        u = 2 + (lag - 2) * mg.random.uniform(None, cell.H).numpy()
        gates = cell.b.numpy().reshape(cell.gates, cell.H).copy()
        gates[1] = np.log(u - 1)
        if isinstance(cell, LSTMCell):
            gates[0] = -gates[1]
        cell.b.assign(gates.reshape(-1))
    return cell

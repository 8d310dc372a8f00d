"""How steep the cliff of Fig 10.17 is after T steps."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np

from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.landscapes import Unit, cliff

GOLDEN = (math.sqrt(5) - 1) / 2


def log_steepness(w: float, T: int) -> float:
    """The logarithm of the largest |dE/db| at b < -w/2, by golden section."""

    def slope(distance: float) -> float:
        unit = Unit(np.array(w), np.array(-w / 2 - distance))
        cliff(unit, T).backward()
        return abs(unit.b.grad.item())

    low, high = 0.0, 20 * (w / 4) ** -float(T)
    for _ in range(30):
        near, far = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, far) if slope(near) > slope(far) else (near, high)
    return math.log(slope((low + high) / 2))


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """The slope of the logarithm of the steepness over T = 10, ..., 50."""
    lengths, logs = range(10, 51, 10 if quick else 2), []
    for T in lengths:
        logs.append(log_steepness(float(variant.removeprefix("w=")), T))
        yield len(logs) / len(lengths), logs[-1]
    return float(np.polyfit(lengths, logs, 1)[0])


def _law(w: int) -> Bar:
    law = math.log(w / 4)
    return Bar(
        f"w={w}: ln(w/4) = {law:.4f} within 3 %",
        lambda r: all(abs(slope - law) <= 0.03 * law for slope in r[f"w={w}"]),
    )


EXPERIMENT = Experiment(
    name="cliff",
    row="D7",
    question="Does the cliff of Fig 10.17 steepen by a factor of w/4 a step?",
    measure="slope of log max |dE/db| over T = 10..50",
    variants=("w=5", "w=6", "w=8"),
    run=run,
    bars=tuple(map(_law, (5, 6, 8))),
    quick_bars=tuple(map(_law, (5, 6, 8))),
    random=False,
)

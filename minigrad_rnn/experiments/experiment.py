"""What an experiment is: a question, variants to compare, and bars fixed before the first run."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

SEEDS = (0, 1, 2, 3, 4)
QUICK_SEEDS = (0,)
QUICK_SECONDS = 20  # of one core, for all variants of a quick run

Run = Callable[[str, int, bool], Generator[tuple[float, float], None, float]]
Measures = Mapping[str, Sequence[float]]  # of each variant, one a seed; a failed one is not finite


class FailedSeed(ArithmeticError):
    """A measure was asked for that is not finite."""


class Finite(Mapping[str, Sequence[float]]):
    """Measures, of which a variant with a failed seed raises FailedSeed when it is read."""

    def __init__(self, measures: Measures) -> None:
        self.measures = measures

    def __getitem__(self, variant: str) -> Sequence[float]:
        values = self.measures[variant]
        if not all(map(math.isfinite, values)):
            raise FailedSeed(variant)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self.measures)

    def __len__(self) -> int:
        return len(self.measures)


@dataclass(frozen=True)
class Bar:
    """A claim about the measures of all seeds, in words with its threshold, and as a predicate."""

    text: str
    predicate: Callable[[Measures], bool]

    def holds(self, measures: Measures) -> bool:
        """Whether the claim is true; never where a seed of a variant that it looks at failed.

        min and max cannot tell: of [1, nan, 1] both are 1.
        """
        try:
            return bool(self.predicate(Finite(measures)))
        except FailedSeed:
            return False


@dataclass(frozen=True)
class Experiment:
    """A question of the lectures, with the answer that is expected.

    run(variant, seed, quick) yields (share done, value of the curve) now and then, and returns the
    measure. bars are about the full run with all SEEDS, quick_bars about the quick one with
    QUICK_SEEDS, which takes at most QUICK_SECONDS.
    """

    name: str
    row: str
    question: str
    measure: str
    variants: tuple[str, ...]
    run: Run
    bars: tuple[Bar, ...]
    quick_bars: tuple[Bar, ...] = ()
    random: bool = True  # False: no seed changes anything, and one is enough

    def seeds(self, quick: bool) -> tuple[int, ...]:
        """The seeds that the bars speak of."""
        return QUICK_SEEDS if quick or not self.random else SEEDS

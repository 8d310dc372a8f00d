"""What an experiment is: a question, variants to compare, and bars fixed before the first run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

SEEDS = (0, 1, 2, 3, 4)
QUICK_SEEDS = (0,)

Run = Callable[[str, int, bool], Generator[tuple[float, float], None, float]]
Measures = Mapping[str, Sequence[float]]  # of each variant, one a seed; a failed one is not finite


@dataclass(frozen=True)
class Bar:
    """A claim about the measures of all seeds, in words with its threshold, and as a predicate."""

    text: str
    holds: Callable[[Measures], bool]


@dataclass(frozen=True)
class Experiment:
    """A question of the lectures, with the answer that is expected.

    run(variant, seed, quick) yields (share done, value of the curve) now and then, and returns the
    measure. bars are about the full run with all SEEDS, quick_bars about the quick one, whose only
    seed is 0: at most 20 s for all variants on one core.
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

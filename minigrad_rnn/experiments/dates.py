"""Row B12 (and H2): dates as people write them, normalised to ISO 8601, character by character."""

from __future__ import annotations

import calendar
from collections.abc import Generator
from datetime import date, timedelta

import numpy as np

import minigrad as mg
from minigrad_rnn.experiments import pairs
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.text import Vocabulary

QUICK = ("{d} {month} {y}", "{month} {d}, {y}", "{d:02}.{m:02}.{y}")
SPELLINGS = (
    *QUICK,
    "{weekday}, {d} {month} {y}",
    "{d}-{short}-{y}",
    "{short} {d} {y}",
    "{d}/{m}/{y}",
    "{y}/{m:02}/{d:02}",
    "{d}{nth} of {month}, {y}",
)
DIGITS = "-0123456789"
FIRST, DAYS = date(1900, 1, 1), 73_000  # two centuries


def spelled(day: date, spelling: str) -> str:
    """The date in one of the spellings."""
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    return spelling.format(
        d=day.day,
        m=day.month,
        y=day.year,
        month=calendar.month_name[day.month],
        short=calendar.month_abbr[day.month],
        weekday=calendar.day_name[day.weekday()],
        nth="th" if 11 <= day.day <= 13 else suffix,
    )


def alphabet(spellings: tuple[str, ...]) -> Vocabulary:
    """All characters of a year's dates, and the digits."""
    year = [FIRST + timedelta(n) for n in range(365)]
    return Vocabulary(DIGITS + "".join(spelled(day, s) for day in year for s in spellings))


def written(
    rng: np.random.Generator, days: np.ndarray, spellings: tuple[str, ...], letters: Vocabulary
) -> pairs.Pairs:
    """Each day in one of the spellings, and as YYYY-MM-DD."""
    found = []
    for n in days:
        day = FIRST + timedelta(int(n))
        text = spelled(day, spellings[rng.integers(0, len(spellings))])
        found.append((letters.encode(text).tolist(), [DIGITS.index(c) for c in day.isoformat()]))
    return found


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """Exact match on dates that were in no training batch."""
    spellings, updates, H = (QUICK, 90, 24) if quick else (SPELLINGS, 8000, 64)
    mg.random.seed(seed)
    rng = np.random.default_rng(seed)
    days = rng.permutation(DAYS)
    seen, unseen = days[500:], days[:500]
    letters = alphabet(spellings)
    net = pairs.model(variant, (len(letters), len(DIGITS)), 16, H)
    draw = lambda: written(rng, rng.choice(seen, 32), spellings, letters)  # noqa: E731
    yield from pairs.train(net, draw, updates, 0.01 if quick else 0.003, falling=not quick)
    return pairs.exact_match(net, written(rng, unseen, spellings, letters))


EXPERIMENT = Experiment(
    name="dates",
    row="B12",
    question="Does an encoder-decoder normalise dates, and what does attention add?",
    measure="exact match",
    variants=("attention", "none"),
    run=run,
    bars=(Bar("attention: at least 99 % in every seed", lambda r: min(r["attention"]) >= 0.99),),
    quick_bars=(
        Bar(
            "attention is at least 40 points better",
            lambda r: min(r["attention"]) >= max(r["none"]) + 0.4,
        ),
    ),
)

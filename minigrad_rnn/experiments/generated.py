"""Data of applications, generated: reviews, drawings with captions, films, stories, speech.

Letters: T time, B batch, N pixels a side. Each takes a NumPy generator; what it gives is the same
on every backend.
"""

from __future__ import annotations

import itertools

import numpy as np

# --- reviews: sentiment with negation ------------------------------------------------------------

PRAISE = ("good", "clever", "funny", "moving", "bright", "fresh", "warm", "witty")
BLAME = ("bad", "dull", "slow", "silly", "flat", "stale", "cold", "weak")
TOPICS = ("plot", "cast", "music", "end", "film", "script")
DEGREES = ("very", "really", "quite", "rather", "so")
OPINIONS = list(itertools.product(PRAISE, BLAME))


def reviews(rng: np.random.Generator, n: int, opinions: list[tuple[str, str]]) -> list[list[str]]:
    """n reviews (n even), in twins of the same words: the first praises, the second blames.

    Each has a word of praise and one of blame, a pair out of `opinions`, and negates one of them:
    "the plot is not dull and the cast is very warm". A bag of words cannot tell twins apart.
    """
    found = []
    for _ in range(n // 2):
        pair = opinions[rng.integers(len(opinions))]
        topics = rng.choice(TOPICS, 2, replace=False).tolist()
        degrees = [rng.choice(DEGREES, rng.integers(3)).tolist() for _ in pair]
        order = [0, 1] if rng.integers(2) else [1, 0]
        for negated in (1, 0):
            parts = [
                ["the", topics[i], "is", *["not"] * (i == negated), *degrees[i], pair[i]]
                for i in order
            ]
            found.append([*parts[0], "and", *parts[1]])
    return found


# --- drawings and films: shapes ------------------------------------------------------------------

SHAPES = ("square", "ring", "cross")
SIZES = {"small": 3, "large": 4}
THINGS = list(itertools.product(SIZES, SHAPES))


def shape(name: str, radius: int, N: int, row: int, column: int) -> np.ndarray:
    """A picture (N, N), 1 inside the shape around a pixel, 0 outside."""
    y, x = np.abs(np.mgrid[:N, :N] - np.array([row, column]).reshape(2, 1, 1))
    inside = {
        "square": np.maximum(x, y) < radius,
        "ring": np.maximum(x, y) == radius - 1,
        "cross": (np.minimum(x, y) < 1) & (np.maximum(x, y) < radius),
    }
    return inside[name].astype("float32")


def drawing(
    rng: np.random.Generator, things: list[tuple[str, str]], N: int = 8
) -> tuple[np.ndarray, list[str]]:
    """One or two things, each anywhere in its half: a noisy picture (N, 2 N), and its caption."""
    halves, words = [np.zeros((N, N), "float32")] * 2, []
    for half, (size, name) in enumerate(things):
        row, column = rng.integers(SIZES[size] - 1, N - SIZES[size] + 1, 2)
        halves[half] = shape(name, SIZES[size], N, row, column)
        words += [*["beside"] * half, "a", size, name]
    noise = 0.1 * rng.normal(size=(N, 2 * N))
    return (np.concatenate(halves, axis=1) + noise).astype("float32"), words


MOVES = ("up", "down", "left", "right")


def films(
    rng: np.random.Generator, T: int, B: int, N: int = 6, turns: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """A shape moves by a pixel a frame on a torus: frames (T, B, N, N), moves (T - 1, B).

    It starts anywhere and turns at random with probability `turns`: what a frame shows is
    independent of all moves. moves[t] leads from frame t to frame t + 1.
    """
    moves = rng.integers(4, size=(T - 1, B))
    for t in range(1, T - 1):
        moves[t] = np.where(rng.random(B) < turns, moves[t], moves[t - 1])
    steps = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])[moves]
    path = np.cumsum(np.concatenate([rng.integers(N, size=(1, B, 2)), steps]), axis=0)
    kinds = [shape(SHAPES[k], 2, N, 2, 2) for k in rng.integers(3, size=B)]
    frames = [[np.roll(kinds[b], path[t, b], (0, 1)) for b in range(B)] for t in range(T)]
    return np.array(frames), moves


# --- stories: labels and headlines ---------------------------------------------------------------

NAMES = tuple(map("".join, itertools.product(("ba", "ke", "li", "mo", "ru"), repeat=3)))
DEEDS = {"found": "finds", "lost": "loses", "sold": "sells", "stole": "steals", "hid": "hides"}
GOODS = ("ring", "map", "coin", "horse", "boat", "lamp", "book", "key")
OTHER_DAYS = ("yesterday", "once", "sometimes")
STORY_WORDS = (*DEEDS, *DEEDS.values(), *GOODS, *OTHER_DAYS, "today", "a", ",", ".")


def story(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[list[str], int, list[str]]:
    """Two or three sentences, the place of who acts today, and the headline.

    "once , bakeli sold a coin . today , moruba found a key ." gives 9, the place of moruba, and
    "moruba finds key": a name and a thing to copy, and a word that the text does not hold.
    """
    n = int(rng.integers(2, 4))
    today, text, place, headline = int(rng.integers(n)), [], 0, []
    for i, name in enumerate(rng.choice(names, n, replace=False).tolist()):
        day = "today" if i == today else str(rng.choice(OTHER_DAYS))
        deed, thing = str(rng.choice(list(DEEDS))), str(rng.choice(GOODS))
        if i == today:
            place, headline = len(text) + 2, [name, DEEDS[deed], thing]
        text += [day, ",", name, deed, "a", thing, "."]
    return text, place, headline


# --- speech --------------------------------------------------------------------------------------

RATE, FRAME = 8000, 128  # samples a second, and a frame
FORMANTS = ((300, 2300), (700, 1200), (350, 800))  # in Hz, of vowels like i, a and u
EDGES = (100, 500, 1000, 1700, 3000)  # of the bands, in Hz
LASTS, ENDS = (1, 2), 0.5  # frames of a vowel; the probability that a pause is the last one


def utterance(rng: np.random.Generator) -> np.ndarray:
    """The wave (samples,) of a few vowels of one speaker, each with a pause of one frame after it.

    A vowel is the harmonics of a pitch, shaped by two resonances; breath is noise. The number of
    frames is a sum of independent draws of LASTS plus 1, as many as a coin of ENDS says.
    """
    pitch, tract = rng.uniform(90, 240), rng.normal(1, 0.05)
    tones = np.arange(pitch, EDGES[-1], pitch)[:, None]
    waves: list[np.ndarray] = []
    while not waves or rng.random() >= ENDS:
        frames = int(rng.choice(LASTS)) + 1
        t = np.arange(frames * FRAME) / RATE
        formants = tract * np.array(FORMANTS[rng.integers(len(FORMANTS))])
        gain = (1 / (1 + ((tones - formants) / 120) ** 2)).sum(axis=1, keepdims=True)
        phase = rng.uniform(0, 2 * np.pi, tones.shape)
        loud = np.append(np.exp(rng.normal(0, 0.2, frames - 1)), 0.02).repeat(FRAME)
        waves.append(loud * (gain * np.sin(2 * np.pi * tones * t + phase)).sum(axis=0))
    wave = np.concatenate(waves)
    return wave + 0.1 * rng.normal(size=wave.shape)


def band_energies(wave: np.ndarray) -> np.ndarray:
    """The logs of the energies in each frame and band, (T, bands)."""
    frames = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME) * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames)) ** 2
    band = np.searchsorted(EDGES, np.fft.rfftfreq(FRAME, 1 / RATE), side="right") - 1
    return np.log10(np.stack([power[:, band == k].sum(axis=1) for k in range(4)], axis=1))

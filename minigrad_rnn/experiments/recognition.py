"""Recognition without an alignment: pen strokes and speech, both drawn anew, labels read by CTC.

Letters: T time, B batch, D numbers a step, V labels, which are 1, ..., V; 0 is CTC's blank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad.nn import Linear, Module
from minigrad_rnn.cells import LSTMCell
from minigrad_rnn.compose import Bidirectional
from minigrad_rnn.likelihood import padded
from minigrad_rnn.losses import best_path, ctc

# Strokes of letters, points "xy" of a grid 3 wide and 5 high, whose line is y = 0.
FONT = {
    "a": "22 02 00 20,22 20", "c": "22 02 00 20", "d": "22 02 00 20,24 20",
    "e": "01 21 22 02 00 20", "h": "04 00,02 22 20", "i": "12 10,13 14", "l": "14 10",
    "n": "02 00,02 22 20", "o": "02 22 20 00 02", "s": "22 02 01 21 20 00", "t": "14 10 20,02 22",
    "z": "02 22 00 20",
}  # fmt: skip

# Sounds: the first two formants in Hz, of men's vowels as Peterson and Barney (1952) measured them
# and of a hum and a hiss; the last has no voice.
SOUNDS = {
    "a": (730, 1090), "i": (270, 2290), "u": (300, 870), "e": (530, 1840),
    "m": (250, 1250), "s": (2500, 3400),
}  # fmt: skip
VOICELESS = "s"
RATE, FRAME, HOP, BANDS = 8000, 256, 100, 16  # samples a second, a window, a step; features


class Batch(NamedTuple):
    """Ragged rows, padded: xs (T, B, D), lengths (B,), targets (S, B), target_lengths (B,)."""

    xs: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    target_lengths: np.ndarray


Draw = Callable[[np.random.Generator, Sequence[int]], np.ndarray]


def batch(draw: Draw, rng: np.random.Generator, B: int, V: int, longest: int = 4) -> Batch:
    """B rows of 1 to `longest` random labels, and what draw makes of them."""
    labels = [rng.integers(1, V + 1, rng.integers(1, longest + 1)) for _ in range(B)]
    return Batch(*padded([draw(rng, row) for row in labels]), *padded(labels))


# --- handwriting ---------------------------------------------------------------------------------


def written(rng: np.random.Generator, labels: Sequence[int]) -> np.ndarray:
    """What a pen reports while a writer writes: (T, 3), dx, dy, and 1 where it was lifted before.

    Each call is another writer, whose letters lean, are wide or narrow, high or low, and shake.
    """
    letters = list(FONT.values())
    slant, width, height = rng.normal([0, 1, 1], [0.15, 0.1, 0.1])
    points, lifted = [], []
    for place, label in enumerate(labels):
        for stroke in letters[label - 1].split(","):
            corners = np.array([[int(x), int(y)] for x, y in stroke.split()], float)
            at = np.append(0, np.cumsum(np.abs(np.diff(corners, axis=0)).max(axis=1)))
            steps = np.linspace(0, at[-1], int(at[-1]) + 1)
            points += [
                [np.interp(s, at, corners[:, 0]) + 3 * place, np.interp(s, at, corners[:, 1])]
                for s in steps
            ]
            lifted += [1] + [0] * (len(steps) - 1)
    pen = np.array(points) + rng.normal(0, 0.08, (len(points), 2))
    pen = pen @ [[width, 0], [slant, height]]
    moves = np.diff(pen, axis=0, prepend=pen[:1])
    return np.column_stack([moves, lifted]).astype("float32")


# --- speech --------------------------------------------------------------------------------------


class Speaker(NamedTuple):
    """A voice: its pitch in Hz, and what the vocal tract multiplies all formants by."""

    pitch: float
    tract: float


def speakers(rng: np.random.Generator, n: int) -> list[Speaker]:
    """n voices, of 90 to 250 Hz, whose formants are up to 15 % off."""
    return [Speaker(*rng.uniform([90, 0.87], [250, 1.15])) for _ in range(n)]


def spoken(rng: np.random.Generator, labels: Sequence[int], speaker: Speaker) -> np.ndarray:
    """The samples (N,) of sounds, RATE a second, in a speaker's voice, loud or soft.

    A sound is pulses or noise through its formants, swells and fades, and lasts 80 to 140 ms.
    """
    sounds = list(SOUNDS.items())
    parts = []
    for label in labels:
        name, formants = sounds[label - 1]
        source = rng.normal(0, 0.15, int(rng.uniform(0.08, 0.14) * RATE))
        if name not in VOICELESS:
            source = 0.1 * source
            source[:: int(RATE / speaker.pitch)] += 1
        hertz = np.fft.rfftfreq(len(source), 1 / RATE)
        gain = sum(1 / (1 + ((hertz - speaker.tract * f) / 80) ** 2) for f in formants)
        sound = np.fft.irfft(np.fft.rfft(source) * gain, len(source))
        parts.append(sound * np.sin(np.linspace(0, np.pi, len(sound))))
    return rng.uniform(0.5, 2) * np.concatenate(parts)


def features(samples: np.ndarray) -> np.ndarray:
    """Log energies of overlapping bands, evenly spaced in mel, every HOP samples: (T, BANDS).

    All of an utterance together have mean 0 and variance 1, so that loudness does not count.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP] * np.hanning(FRAME)
    energy = np.abs(np.fft.rfft(frames)) ** 2
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(FRAME, 1 / RATE) / 700)
    centres = np.linspace(0, mel[-1], BANDS + 2)[1:-1]
    weights = np.maximum(1 - np.abs(mel[:, None] - centres) / centres[0], 0)
    bands = energy @ weights
    bands = np.log(bands + 1e-6 * bands.max())
    return ((bands - bands.mean()) / bands.std()).astype("float32")


def heard(voices: Sequence[Speaker]) -> Draw:
    """A draw of features (T, BANDS): each row is said by one of the voices."""

    def draw(rng: np.random.Generator, labels: Sequence[int]) -> np.ndarray:
        return features(spoken(rng, labels, voices[rng.integers(len(voices))]))

    return draw


# --- the network ---------------------------------------------------------------------------------


class Recognizer(Module):
    """An LSTM from each end and a linear layer: logits (T, B, V + 1) of blank and labels."""

    def __init__(self, D: int, H: int, V: int) -> None:
        self.layer = Bidirectional(LSTMCell(D, H), LSTMCell(D, H))
        self.readout = Linear(2 * H, V + 1)

    def __call__(self, xs: Any, lengths: Any) -> mg.Tensor:
        return self.readout(self.layer(mg.Tensor(xs), lengths=lengths)[0])

    def loss(self, data: Batch) -> mg.Tensor:
        """CTC's, the mean over the rows."""
        logits = self(data.xs, data.lengths)
        return ctc(logits, data.targets, lengths=data.lengths, target_lengths=data.target_lengths)

    def read(self, data: Batch) -> list[list[int]]:
        """The labels of each row, by the likeliest path."""
        with mg.no_grad():
            return best_path(self(data.xs, data.lengths), lengths=data.lengths)


def label_error(read: Sequence[Sequence[int]], data: Batch) -> float:
    """Insertions, deletions and substitutions over the number of labels (Graves et al. 2006)."""
    wanted = [data.targets[:n, b] for b, n in enumerate(data.target_lengths)]
    return sum(map(edit_distance, read, wanted)) / sum(map(len, wanted))


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """The least number of insertions, deletions and substitutions from a to b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b):
            row.append(min(row[j] + 1, before[j + 1] + 1, before[j] + (x != y)))
    return row[-1]

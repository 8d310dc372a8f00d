"""A language model of characters or words: the network, its score, and text drawn from it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import tree
from minigrad.nn import Embedding, Linear, Module
from minigrad_rnn.cells import GRUCell, LSTMCell, RNNCell
from minigrad_rnn.compose import Stack
from minigrad_rnn.decode import check_choices, draw
from minigrad_rnn.text import Vocabulary, WordVocabulary
from minigrad_rnn.unrolling import unroll

PARTS = 50  # of a long text, which a score reads side by side
WARM = 200  # characters before a part that tell in which state it begins
PASSES = 3  # readings until these states agree
CHUNK = 50  # steps at a time, so that the logits of PARTS words stay small
CELLS: dict[str, Callable[[int, int], Any]] = {"lstm": LSTMCell, "gru": GRUCell, "rnn": RNNCell}


class CharacterModel(Module):
    """Symbols in, logits of the next symbol out (eq 10.31): embedding, cells, linear layer.

    Characters, or the words of a WordVocabulary. ids (T, B) and a state give logits (T, B, V) and
    the state after them. The embedding (V, H) is the first weight matrix applied to one-hot
    vectors, written as a gather.
    """

    def __init__(
        self, V: int, H: int, layers: int = 2, cell: str = "lstm", dropout: float = 0.0
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"cell is one of {', '.join(CELLS)}, not {cell!r}")
        if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
            raise ValueError(f"layers is a whole number >= 1, not {layers!r}")
        self.embedding = Embedding(V, H)
        self.cells = Stack([CELLS[cell](H, H) for _ in range(layers)], dropout)
        self.readout = Linear(H, V)

    def initial_state(self, batch: int) -> Any:
        """The zero state of B streams."""
        return self.cells.initial_state(batch)

    def here(self, ids: Any) -> mg.Tensor:
        """Symbols where the weights are: batches come from the host, whatever the backend."""
        return ids if isinstance(ids, mg.Tensor) else mg.Tensor(ids, backend=self.readout.W.backend)

    def __call__(self, ids: Any, state: Any) -> tuple[mg.Tensor, Any]:
        hs, state = unroll(self.cells, self.embedding(self.here(ids)), state)
        return self.readout(hs), state  # one product over all steps

    def step(self, ids: Any, state: Any) -> tuple[mg.Tensor, Any]:
        """One step, (B,) to (B, V): what beam search and Sequences take."""
        logits, state = self(self.here(ids).reshape(1, -1), state)
        return logits[0], state


@contextlib.contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """The model in evaluation mode within the block, then as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


Progress = Callable[[int], object]  # is told how many more characters are done


def log_loss(
    model: CharacterModel,
    ids: np.ndarray,
    state: Any,
    chunk: int = 200,
    progress: Progress | None = None,
) -> tuple[float, Any]:
    """-log P(ids[1:] | ids[0], state) in nats, summed over streams (T, B), and the state after it.

    The chain rule of eq 10.33, `chunk` characters at a time, whose number changes nothing.
    """
    total = 0.0
    with mg.no_grad():
        for start in range(0, len(ids) - 1, chunk):
            inputs, targets = ids[start : start + chunk], ids[start + 1 : start + chunk + 1]
            logits, state = model(inputs[: len(targets)], state)
            nats = mg.functional.cross_entropy(logits, model.here(targets), reduction="sum")
            total += float(nats)
            if progress is not None:
                progress(targets.size)
    return total, state


def bits_per_character(
    model: CharacterModel,
    ids: np.ndarray,
    progress: Progress | None = None,
    *,
    characters: int | None = None,
) -> float:
    """The mean of -log2 P(character | all before it) over a text (N,), from the second one on.

    What one pass gives that carries the state from the first character to the last, to rounding: a
    long text is read in parts side by side, each begun in the state in which the part before ends,
    and in one part after all where no number of readings finds those states. characters: how many
    ids[1:] stand for, where the symbols are words. Raises ValueError for a text of fewer than two.
    """
    if len(ids) < 2:
        raise ValueError(f"a score needs at least 2 characters, got {len(ids)}")
    with evaluating(model):
        nats, rest, state = _in_parts(model, ids, progress)
        nats += log_loss(model, rest[:, None], state, progress=progress)[0]
    return nats / math.log(2) / (characters or len(ids) - 1)


def _in_parts(
    model: CharacterModel, ids: np.ndarray, progress: Progress | None
) -> tuple[float, np.ndarray, Any]:
    """Nats of the text's PARTS parts, what is left to read, and the state to read it from.

    The ends of the parts tell where those after them begin, well enough if the model forgets.
    """
    zero, length = model.initial_state(PARTS), (len(ids) - 1) // PARTS
    if length < 2 * WARM:
        return 0.0, ids, model.initial_state(1)
    columns = ids[length * np.arange(PARTS) + np.arange(length + 1)[:, None]]
    _, end = log_loss(model, columns[-WARM:], zero, CHUNK)
    for _ in range(PASSES):
        start = tree.map(lambda z, s: mg.concatenate([z[:1], s[:-1]]), zero, end)
        nats, end = log_loss(model, columns, start, CHUNK, progress)
        progress = None  # has heard of all of it
        pairs = zip(tree.flatten(start)[0], tree.flatten(end)[0])
        if all(_near(a.numpy()[1:], b.numpy()[:-1]) for a, b in pairs):
            return nats, ids[PARTS * length :], tree.map(lambda s: s[-1:], end)
    return 0.0, ids, model.initial_state(1)


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two states differ by so little that the score does not: a part forgets its start."""
    return bool((abs(a - b) <= 10 * np.finfo(a.dtype).eps ** 0.5 * np.maximum(1, abs(b))).all())


def usual_prime(vocabulary: Vocabulary) -> str:
    """What a text begins with where nobody says: a word, or a line, if the vocabulary has it."""
    known = set(vocabulary.characters)
    return next((p for p in ("The ", "\n") if known.issuperset(p)), vocabulary.characters[0])


def generate(
    model: CharacterModel,
    vocabulary: Vocabulary | WordVocabulary,
    prime: str,
    length: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Iterator[str]:
    """`length` symbols after `prime`, one by one: each drawn from the model's conditional.

    Symbol i is drawn with key fold(i) of the seed, so that every backend writes the same text.
    Raises TextError for a character of prime that the vocabulary lacks, ValueError for bad choices.
    """
    check_choices(temperature, top_k, top_p)
    ids = vocabulary.encode(prime)
    if not len(ids):
        raise ValueError("prime needs at least one character")
    return _drawn(model, vocabulary, ids, length, mg.random.key(seed), temperature, top_k, top_p)


def _drawn(
    model: CharacterModel,
    vocabulary: Vocabulary | WordVocabulary,
    ids: np.ndarray,
    length: int,
    key: mg.random.Key,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> Iterator[str]:
    state = model.initial_state(1)
    for i in range(length):
        with mg.no_grad(), evaluating(model):  # not across the yield, where the caller goes on
            logits, state = model(ids[:, None], state)
            ids = draw(logits[-1], key.fold(i), temperature, top_k, top_p).numpy()
        yield vocabulary.decode(ids)

"""A training of a character model that can be stopped at any step, saved, and gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import arguments, tree
from minigrad_rnn import text
from minigrad_rnn.language import CELLS, CharacterModel, evaluating, log_loss

KIND = "minigrad_rnn character model"
LARGEST = 10**9  # of any setting that counts
EPOCHS = 3  # of the default training: two to three minutes on two cores, also on slow ones
STREAMS = 20  # that validation reads side by side, of at least STREAM characters each
STREAM = 2000
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")  # say how many threads a product may use


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the numbers of a training, besides the text; saved with the model."""

    cell: str = "lstm"
    layers: int = 2
    hidden: int = 128
    seq: int = 50
    batch: int = 50
    steps: int = 2000
    lr: float = 4e-3
    clip: float = 5.0
    dropout: float = 0.0
    validation: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"cell={self.cell!r}: give one of {', '.join(CELLS)}")
        for name in ("layers", "hidden", "seq", "batch", "steps"):
            arguments.number(name, arguments.size(name, getattr(self, name)), 1, LARGEST)
        arguments.number("lr", self.lr, 0)
        arguments.number("clip", self.clip, 0)
        arguments.number("dropout", self.dropout, 0, 1, open="high")
        arguments.number("validation", self.validation, 0, 1, open="both")
        arguments.size("seed", self.seed, least=0)


class Session:
    """Model, optimizer and position of one training; `advance()` makes one step.

    Truncated backpropagation through time: batches follow one another in the text, the state is
    carried from each to the next, its gradient is not. Each epoch starts from the zero state.
    Raises TextError for a text that is too short, to train or to validate on.
    """

    def __init__(self, settings: Settings, corpus: text.Corpus) -> None:
        self.settings, self.corpus = settings, corpus
        self.vocabulary = text.Vocabulary(corpus.text)
        ids = self.vocabulary.encode(corpus.text)
        self.train_ids, self.valid_ids = text.split(ids, settings.validation)
        self.per_epoch = text.batch_count(len(self.train_ids), settings.batch, settings.seq)
        if self.per_epoch == 0:
            text.batches(self.train_ids, settings.batch, settings.seq)  # says what is too short
        if len(self.valid_ids) < 2:
            raise text.TextError(
                f"validation={settings.validation:g} holds out {len(self.valid_ids)} of {len(ids)} "
                f"characters, and at least 2 are needed: give a longer text, or a larger share"
            )
        mg.random.seed(settings.seed)
        self.model = CharacterModel(
            len(self.vocabulary), settings.hidden, settings.layers, settings.cell, settings.dropout
        )
        self.parameters = self.model.parameters()
        self.optimizer = mg.optim.Adam(self.parameters, lr=settings.lr)
        self.update = mg.compile(self._update)
        self.step = 0
        self.state = self.model.initial_state(settings.batch)
        self.losses: list[float] = []  # nats per character, one a step
        self.validations: list[tuple[int, float]] = []  # (step, bits per character)
        self.made_with = circumstances()  # of a saved training: those it was saved under
        self._batches: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())

    @property
    def epoch(self) -> float:
        """How often the text has been gone through."""
        return self.step / self.per_epoch

    @property
    def done(self) -> bool:
        """Whether the last step has been made."""
        return self.step >= self.settings.steps

    def learning_rate(self) -> float:
        """Of the next step: up along a line for the first 5 %, then down along half a cosine."""
        warm = max(1, self.settings.steps // 20)
        rate = self.settings.lr * min(1.0, (self.step + 1) / warm)
        return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.settings.steps)))

    def advance(self) -> float:
        """One step: the loss of the next batch, in nats per character, before its update."""
        inputs, targets = self._next_batch()
        self.model.train()
        self.optimizer.lr = self.learning_rate()
        loss, self.state = self.update(inputs, targets, self.state, self.settings.clip)
        self.step += 1
        self.losses.append(float(loss))
        return self.losses[-1]

    def _update(
        self, inputs: np.ndarray, targets: np.ndarray, state: Any, clip: float
    ) -> tuple[mg.Tensor, Any]:
        """Mean nats per character of a batch (T, B), and the state after it; moves the weights."""
        logits, state = self.model(inputs, state)
        loss = mg.functional.cross_entropy(logits, self.model.here(targets))
        self.optimizer.zero_grad()
        loss.backward()
        if clip:
            mg.optim.clip_by_global_norm(self.parameters, clip)
        self.optimizer.step()
        return loss, tree.map(lambda part: part.detach(), state)

    def _next_batch(self) -> tuple[np.ndarray, np.ndarray]:
        place = self.step % self.per_epoch
        if place == 0:
            self.state = self.model.initial_state(self.settings.batch)
        found = next(self._batches, None) if place else None
        if found is None:
            seq, batch = self.settings.seq, self.settings.batch
            self._batches = text.batches(self.train_ids, batch, seq, first=place)
            found = next(self._batches)
        return found

    @property
    def held_out(self) -> np.ndarray:
        """The text to validate on, (T, B): B up to 20 streams, each a part of it."""
        streams = max(1, min(STREAMS, len(self.valid_ids) // STREAM))
        length = len(self.valid_ids) // streams
        return self.valid_ids[: streams * length].reshape(streams, length).T

    def validate(self) -> float:
        """Bits per character on the held-out text, kept in `validations`."""
        ids = self.held_out
        with evaluating(self.model):
            nats, _ = log_loss(self.model, ids, self.model.initial_state(ids.shape[1]))
        bits = nats / math.log(2) / (ids.size - ids.shape[1])
        self.validations.append((self.step, bits))
        return bits

    @contextlib.contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Steps made within the block count for nothing: to see how long they take."""
        kept = [(x, mg.Tensor(x)) for x in (*self.parameters, mg.random.generator)]
        moments = tree.map(mg.Tensor, self.optimizer.state_dict())
        before = self.step, self.state, self.losses[:], self.validations[:]
        try:
            yield
        finally:
            for tensor, value in kept:
                tensor.assign(value)
            self.optimizer.load_state_dict(moments)
            self.step, self.state, self.losses, self.validations = before
            self._batches = iter(())

    # --- on disk ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], keep: int = 2) -> None:
        """Write all that the next step depends on to one file, whole or not at all."""
        flat, _ = tree.flatten(self.state)
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": {str(i): part for i, part in enumerate(flat)},
            "generator": mg.random.generator,
            "losses": np.array(self.losses, dtype=np.float64),
        }
        metadata = {
            "kind": KIND,
            "settings": dataclasses.asdict(self.settings),
            "vocabulary": self.vocabulary.characters,
            "corpus": {"name": self.corpus.name, "sha256": self.corpus.sha256},
            "step": self.step,
            "validations": self.validations,
            "dtype": str(mg.default_dtype()),
            "made with": circumstances(),
        }
        mg.save(path, tensors, metadata, keep=keep)

    @classmethod
    def load(cls, path: str | os.PathLike[str], corpus: text.Corpus) -> Session:
        """The training that a file holds, to go on with; on the current backend.

        Raises CheckpointError for a damaged file, another kind of file, or another text.
        """
        tensors, metadata = mg.load(path)
        settings = _settings(path, tensors, metadata)
        saved = metadata.get("corpus")
        saved = saved if isinstance(saved, dict) else {}
        if saved.get("sha256") != corpus.sha256:
            raise mg.CheckpointError(
                f"{path}: was trained on {str(saved.get('name'))[:200]!r}, whose text was not that "
                f"of {corpus.name!r}; give the same text by --text, or train anew"
            )
        with _fitting(path):
            session = cls(settings, corpus)
            session.model.load_state_dict(mg.io.section(tensors, "model"))
            session.optimizer.load_state_dict(mg.io.section(tensors, "optimizer"))
            session.step = arguments.size("step", metadata["step"], least=0)
            session.losses = [float(x) for x in tensors["losses"].numpy()]
            if len(session.losses) != session.step:
                raise ValueError(f"{len(session.losses)} losses of {session.step} steps")
            session.validations = [
                (arguments.size("step", step), arguments.number("bits", bits, 0))
                for step, bits in metadata["validations"]
            ]
            for i, leaf in enumerate(tree.flatten(session.state)[0]):
                leaf.assign(tensors[f"state.{i}"])
            mg.random.generator.assign(tensors["generator"])
            session.made_with = dict(metadata["made with"])
        return session


def load_model(path: str | os.PathLike[str]) -> tuple[CharacterModel, text.Vocabulary]:
    """The model of a saved training, and its vocabulary; on the current backend.

    Raises CheckpointError for a damaged file or another kind of file.
    """
    tensors, metadata = mg.load(path)
    settings = _settings(path, tensors, metadata)
    vocabulary = text.Vocabulary(metadata["vocabulary"])
    with _fitting(path):
        model = CharacterModel(
            len(vocabulary), settings.hidden, settings.layers, settings.cell, settings.dropout
        )
        model.load_state_dict(mg.io.section(tensors, "model"))
    return model, vocabulary


@contextlib.contextmanager
def _fitting(path: Any) -> Iterator[None]:
    """CheckpointError in place of what a file raises whose parts do not fit together."""
    try:
        yield
    except (mg.MinigradError, LookupError, TypeError, ValueError) as error:
        raise mg.CheckpointError(f"{path}: does not fit its own settings: {error}") from error


def _settings(path: Any, tensors: dict[str, mg.Tensor], metadata: dict[str, Any]) -> Settings:
    """The settings of a file, believed only as far as its tensors bear them out.

    So that no model is built which is larger than the file: every weight matrix is looked at.
    """
    if metadata.get("kind") != KIND:
        raise mg.CheckpointError(f"{path}: is no model of `minigrad-rnn train`")
    with _fitting(path):
        settings = Settings(**metadata["settings"])
        characters, H = metadata["vocabulary"], settings.hidden
        if not isinstance(characters, str) or text.Vocabulary(characters).characters != characters:
            raise ValueError("the vocabulary is not a sorted string of distinct characters")
        _check_shape(tensors, "model.readout.W", (H, len(characters)))
        for k in range(settings.layers):
            _check_shape(tensors, f"model.cells.cells.{k}.Wh", (H, CELLS[settings.cell].gates * H))
        if metadata["dtype"] != str(mg.default_dtype()):
            raise ValueError(
                f"weights of {metadata['dtype']}, but the default dtype is {mg.default_dtype()}"
            )
    return settings


def _check_shape(tensors: dict[str, mg.Tensor], name: str, shape: tuple[int, ...]) -> None:
    if name not in tensors:
        raise ValueError(f"there is no {name}")
    if tensors[name].shape != shape:
        raise ValueError(f"{name} is {tensors[name].shape}, not {shape}")


def threads() -> int:
    """How many threads NumPy's products may use: as the environment says, or every processor."""
    for name in THREADS:
        given = os.environ.get(name, "")
        if given.isdecimal() and int(given):
            return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def circumstances() -> dict[str, Any]:
    """What may change the last bits of a number, for the checkpoint to remember."""
    return {
        "minigrad": mg.__version__,
        "backend": mg.zeros(()).backend.name,
        "compiled": os.environ.get("MINIGRAD_COMPILE") != "0",
        "threads": threads(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }

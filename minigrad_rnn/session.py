"""A training of a character model that can be stopped at any step, saved, and gone on with."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import tree
from minigrad_rnn import text
from minigrad_rnn.language import CELLS, CharacterModel, evaluating, log_loss

KIND = "minigrad_rnn character model"


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
            raise ValueError(f"cell is one of {', '.join(CELLS)}, not {self.cell!r}")
        for name in ("layers", "hidden", "seq", "batch", "steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is a whole number >= 1, not {value!r}")
        for name, low, high in (
            ("lr", 0, math.inf),
            ("clip", 0, math.inf),
            ("dropout", 0, 1),
            ("validation", 0, 1),
        ):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not low <= value < high
            ):
                raise ValueError(f"{name} is a number in [{low}, {high}), not {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed is a whole number >= 0, not {self.seed!r}")


class Session:
    """Model, optimizer and position of one training; `advance()` makes one step.

    Truncated backpropagation through time: batches follow one another in the text, the state is
    carried from each to the next, its gradient is not. Each epoch starts from the zero state.
    """

    def __init__(self, settings: Settings, corpus: text.Corpus) -> None:
        self.settings, self.corpus = settings, corpus
        self.vocabulary = text.Vocabulary(corpus.text)
        ids = self.vocabulary.encode(corpus.text)
        self.train_ids, self.valid_ids = text.split(ids, settings.validation)
        self.per_epoch = text.batch_count(len(self.train_ids), settings.batch, settings.seq)
        if self.per_epoch == 0:
            text.batches(self.train_ids, settings.batch, settings.seq)  # says what is too short
        mg.random.seed(settings.seed)
        self.model = CharacterModel(
            len(self.vocabulary), settings.hidden, settings.layers, settings.cell, settings.dropout
        )
        self.parameters = self.model.parameters()
        self.optimizer = mg.optim.Adam(self.parameters, lr=settings.lr)
        self.step = 0
        self.state = self.model.initial_state(settings.batch)
        self.losses: list[float] = []  # nats per character, one a step
        self.validations: list[tuple[int, float]] = []  # (step, bits per character)
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

    def loss(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[mg.Tensor, Any]:
        """Mean nats per character of a batch (T, B) from the carried state, and the state after it."""
        logits, state = self.model(inputs, self.state)
        return mg.functional.cross_entropy(logits, targets), state

    def advance(self) -> float:
        """One step: the loss of the next batch, in nats per character, before its update."""
        inputs, targets = self._next_batch()
        self.model.train()
        loss, state = self.loss(inputs, targets)
        self.optimizer.zero_grad()
        loss.backward()
        if self.settings.clip:
            mg.optim.clip_by_global_norm(self.parameters, self.settings.clip)
        self.optimizer.lr = self.learning_rate()
        self.optimizer.step()
        self.state = tree.map(lambda part: part.detach(), state)
        self.step += 1
        self.losses.append(float(loss))
        return self.losses[-1]

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

    def seconds_per_step(self, repeats: int = 1) -> float:
        """How long a step takes, from gradients computed and thrown away; changes nothing."""
        from time import perf_counter

        generator = mg.random.generator.detach()
        inputs, targets = next(text.batches(self.train_ids, self.settings.batch, self.settings.seq))
        self.model.train()
        times = []
        for _ in range(repeats + 1):
            start = perf_counter()
            self.loss(inputs, targets)[0].backward()
            times.append(perf_counter() - start)
            self.optimizer.zero_grad()
        mg.random.generator.assign(generator)
        return min(times)  # the first call may have compiled something

    def validate(self, progress: Callable[[int], object] | None = None) -> float:
        """Bits per character on the held-out text, in up to 20 streams; kept in `validations`."""
        streams = max(1, min(20, len(self.valid_ids) // 2000))
        length = len(self.valid_ids) // streams
        if length < 2:
            raise ValueError("there is no held-out text to validate on; choose a larger validation")
        ids = self.valid_ids[: streams * length].reshape(streams, length).T
        with evaluating(self.model):
            nats, _ = log_loss(
                self.model, ids, self.model.initial_state(streams), progress=progress
            )
        bits = nats / math.log(2) / (ids.size - streams)
        self.validations.append((self.step, bits))
        return bits

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
    def load(
        cls, path: str | os.PathLike[str], corpus: text.Corpus, steps: int | None = None
    ) -> Session:
        """Go on with a saved training; steps, if given, is the new total number of steps.

        Raises CheckpointError for a damaged file, another kind of file, or another text.
        """
        tensors, metadata = mg.load(path)
        settings = _settings(path, tensors, metadata)
        saved = metadata.get("corpus", {})
        if not isinstance(saved, dict) or saved.get("sha256") != corpus.sha256:
            name = saved.get("name") if isinstance(saved, dict) else None
            raise mg.CheckpointError(
                f"{path}: was trained on another text, {name}; give that text, or train anew with --save"
            )
        if steps is not None:
            settings = dataclasses.replace(settings, steps=steps)
        session = cls(settings, corpus)
        try:
            session.model.load_state_dict(mg.io.section(tensors, "model"))
            session.optimizer.load_state_dict(mg.io.section(tensors, "optimizer"))
            session.step = _integer(metadata["step"])
            session.losses = [float(x) for x in tensors["losses"].numpy()]
            session.validations = [
                (_integer(s), float(bits)) for s, bits in metadata["validations"]
            ]
            leaves, rebuild = tree.flatten(session.state)
            parts = mg.io.section(tensors, "state")
            for i, leaf in enumerate(leaves):
                leaf.assign(parts[str(i)])
            session.state = rebuild(leaves)
            mg.random.generator.assign(tensors["generator"])
        except (mg.MinigradError, KeyError, TypeError, ValueError) as error:
            raise mg.CheckpointError(f"{path}: does not fit its own settings: {error}") from error
        return session


def load_model(
    path: str | os.PathLike[str],
) -> tuple[CharacterModel, text.Vocabulary, dict[str, Any]]:
    """The model of a saved training, its vocabulary and the file's metadata.

    Raises CheckpointError for a damaged file or another kind of file.
    """
    tensors, metadata = mg.load(path)
    settings = _settings(path, tensors, metadata)
    vocabulary = text.Vocabulary(metadata["vocabulary"])
    model = CharacterModel(
        len(vocabulary), settings.hidden, settings.layers, settings.cell, settings.dropout
    )
    try:
        model.load_state_dict(mg.io.section(tensors, "model"))
    except mg.MinigradError as error:
        raise mg.CheckpointError(f"{path}: does not fit its own settings: {error}") from error
    return model, vocabulary, metadata


def _settings(path: Any, tensors: dict[str, mg.Tensor], metadata: dict[str, Any]) -> Settings:
    """The settings of a file, believed only as far as its tensors bear them out."""
    if metadata.get("kind") != KIND:
        raise mg.CheckpointError(f"{path}: is no model of `minigrad-rnn train`")
    try:
        settings = Settings(**metadata["settings"])
        characters = metadata["vocabulary"]
        if not isinstance(characters, str) or text.Vocabulary(characters).characters != characters:
            raise ValueError("the vocabulary is not a sorted string of distinct characters")
        shape = tensors["model.readout.W"].shape
        if shape != (settings.hidden, len(characters)):
            raise ValueError(f"readout of shape {shape} for hidden={settings.hidden}")
        if f"model.cells.cells.{settings.layers - 1}.Wh" not in tensors:
            raise ValueError(f"fewer cells than layers={settings.layers}")
        if metadata["dtype"] != str(mg.default_dtype()):
            raise ValueError(
                f"weights of {metadata['dtype']}, but the default dtype is {mg.default_dtype()}"
            )
    except (KeyError, TypeError, ValueError) as error:
        raise mg.CheckpointError(f"{path}: does not hold a usable model: {error}") from error
    return settings


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no whole number")
    return value


def threads() -> int:
    """How many threads the array library may use: OMP_NUM_THREADS, or the processors there are."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def circumstances() -> dict[str, Any]:
    """What may change the last bits of a number, for the checkpoint to remember."""
    return {
        "minigrad": mg.__version__,
        "backend": mg.zeros(()).backend.name,
        "threads": threads(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }

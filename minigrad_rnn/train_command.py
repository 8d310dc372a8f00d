"""`minigrad-rnn train`: says what it will do, shows how it goes, and loses nothing."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

import minigrad as mg
from minigrad_rnn import text
from minigrad_rnn.cli import DEFAULT_MODEL, UsageError
from minigrad_rnn.language import generate
from minigrad_rnn.session import Session, Settings, circumstances

EPOCHS = 4
SAVE_EVERY = 10.0  # seconds
FIRST_SAMPLE = 8.0  # seconds after the start
_CHOICES = (
    "cell",
    "layers",
    "hidden",
    "seq",
    "batch",
    "lr",
    "clip",
    "dropout",
    "validation",
    "seed",
)


def train(arguments: argparse.Namespace) -> int:
    """Run the command; 0 at the end, 130 after Ctrl-C."""
    path = Path(arguments.save)
    if path.suffix not in (".safetensors", ".npz"):
        raise UsageError(f"--save {path}: a model is saved as .safetensors or .npz")
    if not path.parent.is_dir():
        raise UsageError(f"--save {path}: there is no folder {path.parent}")
    corpus = _corpus(arguments.text)
    session = (
        _resumed(arguments, path, corpus) if arguments.resume else _new(arguments, path, corpus)
    )
    return _Run(session, path, arguments).run()


def _corpus(name: str | None) -> text.Corpus:
    if name is None:
        return text.default_corpus()
    return text.Corpus.of(text.read_text(name), str(name))


def _new(arguments: argparse.Namespace, path: Path, corpus: text.Corpus) -> Session:
    chosen = {n: getattr(arguments, n) for n in _CHOICES if getattr(arguments, n) is not None}
    try:
        session = Session(Settings(**chosen, steps=arguments.steps or 1), corpus)
    except ValueError as error:
        raise UsageError(str(error)) from error
    steps = arguments.steps or _steps(arguments, session)
    session.settings = dataclasses.replace(session.settings, steps=steps)
    if path.exists():
        kept = _free_name(path)
        os.replace(path, kept)
        print(f"kept      the model that {path} held as {kept}")
    return session


def _steps(arguments: argparse.Namespace, session: Session) -> int:
    if arguments.minutes is not None:
        return max(1, int(arguments.minutes * 60 / session.seconds_per_step(5)))
    epochs = EPOCHS if arguments.epochs is None else arguments.epochs
    return max(1, round(epochs * session.per_epoch))


def _free_name(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.stem}-earlier-{number}{path.suffix}")).exists():
        number += 1
    return kept


def _resumed(arguments: argparse.Namespace, path: Path, corpus: text.Corpus) -> Session:
    if not path.exists():
        raise UsageError(
            f"--resume: there is no {path}; leave --resume out, or name the file with --save"
        )
    session = Session.load(path, corpus)
    for name in _CHOICES:
        given, saved = getattr(arguments, name), getattr(session.settings, name)
        if given is not None and given != saved:
            raise UsageError(
                f"--resume: {path} was trained with {name}={saved}, not {given}; leave --{name} out, "
                f"or train anew without --resume"
            )
    if arguments.minutes is not None or arguments.epochs is not None or arguments.steps is not None:
        steps = arguments.steps or _steps(arguments, session)
        if arguments.minutes is not None:
            steps += session.step
        session.settings = dataclasses.replace(session.settings, steps=steps)
    _, metadata = mg.load(path)
    before, now = metadata.get("made with", {}), circumstances()
    for name in now:
        if isinstance(before, dict) and before.get(name) != now[name]:
            print(
                f"note      {name} was {before.get(name)}, now {now[name]}: the last bits may differ"
            )
    return session


class _Run:
    """One run of the command over a session."""

    def __init__(self, session: Session, path: Path, arguments: argparse.Namespace) -> None:
        self.session, self.path, self.arguments = session, path, arguments
        self.interrupted = False
        self.started = self.saved = time.perf_counter()
        self.sampled = False

    def run(self) -> int:
        session = self.session
        self._announce()
        if session.done:
            print(f"done      {session.step} steps are made; --epochs or --steps asks for more")
            return 0
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._loop()
        finally:
            signal.signal(signal.SIGINT, before)
            session.save(self.path)
        _write_curve(session, self.path)
        if self.interrupted:
            again = shlex.join(["minigrad-rnn", "train", *self._same(), "--resume"])
            print(
                f"\nstopped   after step {session.step} of {session.settings.steps}; all is saved. Go on with:"
            )
            print(f"  {again}")
            return 130
        self._closing()
        return 0

    def _announce(self) -> None:
        session, settings = self.session, self.session.settings
        corpus, made = session.corpus, circumstances()
        size = sum(p.size for p in session.parameters)
        print(f"text      {corpus.name}: {len(corpus.text):,} characters, "
              f"{len(session.vocabulary)} distinct, sha256 {corpus.sha256[:16]}")  # fmt: skip
        print(
            f"model     {settings.layers} x {settings.cell}, hidden {settings.hidden}: {size:,} parameters"
        )
        print(f"training  steps {session.step + 1:,} to {settings.steps:,} "
              f"({settings.steps / session.per_epoch:.3g} epochs), {settings.batch} streams of "
              f"{settings.seq} characters a step")  # fmt: skip
        print(f"running   on backend {made['backend']}, {made['threads']} threads; saved to {self.path} "
              f"every {SAVE_EVERY:.0f} s, Ctrl-C saves and stops", flush=True)  # fmt: skip
        left = session.settings.steps - session.step
        if left > 0:
            print(f"expected  {left * session.seconds_per_step() / 60:.1f} minutes", flush=True)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True  # the step that is being made is finished first

    def _loop(self) -> None:
        session = self.session
        steps, per_step = session.settings.steps, session.settings.batch * session.settings.seq
        with tqdm(
            total=steps,
            initial=session.step,
            unit="step",
            mininterval=0.2 if sys.stderr.isatty() else 10,
            dynamic_ncols=True,
        ) as bar:
            smooth = None
            first, since = session.step, time.perf_counter()
            while not session.done and not self.interrupted:
                loss = session.advance()
                if not math.isfinite(loss):
                    raise UsageError(
                        f"the loss became {loss} at step {session.step}; try a smaller --lr or --clip"
                    )
                smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
                rate = (session.step - first) * per_step / (time.perf_counter() - since)
                bar.set_postfix_str(
                    f"epoch {session.epoch:.2f}, loss {smooth:.3f}, {smooth / math.log(2):.3f} bits/char, "
                    f"{rate:,.0f} chars/s",
                    refresh=False,
                )
                bar.update()
                self._between_steps(bar)

    def _between_steps(self, bar: Any) -> None:
        session = self.session
        now = time.perf_counter()
        if not self.sampled and now - self.started > FIRST_SAMPLE:
            self.sampled = True
            self._sample(bar, 80)
        if session.step % session.per_epoch == 0 or session.done:
            bits = session.validate()
            tqdm.write(f"step {session.step:,}: validation {bits:.4f} bits per character")
            self._sample(bar, 200)
            session.save(self.path)
            _write_curve(session, self.path)
            self.saved = now
        elif now - self.saved > SAVE_EVERY:
            session.save(self.path)
            self.saved = time.perf_counter()

    def _sample(self, bar: Any, length: int) -> None:
        session = self.session
        prime = "\n" if "\n" in session.vocabulary.characters else session.corpus.text[0]
        written = generate(
            session.model, session.vocabulary, prime, length, seed=session.step, temperature=0.7
        )
        bar.clear()
        tqdm.write("\n".join(f"    | {line}" for line in "".join(written).split("\n")))

    def _same(self) -> list[str]:
        words = []
        if self.arguments.text is not None:
            words += ["--text", self.arguments.text]
        if self.path != Path(DEFAULT_MODEL):
            words += ["--save", str(self.path)]
        return words

    def _closing(self) -> None:
        minutes = (time.perf_counter() - self.started) / 60
        bits = self.session.validations[-1][1]
        curve = [
            str(p) for p in (_beside(self.path, ".csv"), _beside(self.path, ".png")) if p.exists()
        ]
        model = [] if self.path == Path(DEFAULT_MODEL) else ["--model", str(self.path)]
        print(f"done      {minutes:.1f} minutes, validation {bits:.4f} bits per character")
        print(f"saved     {self.path}, loss curve {' and '.join(curve)}")
        print("next")
        more = math.ceil(2 * self.session.settings.steps / self.session.per_epoch)
        for words in (
            ["sample", *model, "--prime", "The "],
            ["sample", *model, "--temperature", "1.0", "--length", "1000"],
            ["score", "FILE.txt", *model],
            ["train", *self._same(), "--resume", "--epochs", str(more)],
        ):
            print(f"  {shlex.join(['minigrad-rnn', *words])}")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_suffix(suffix)


def _write_curve(session: Session, path: Path) -> None:
    """The losses as a table and, where matplotlib is installed, as a picture beside the model."""
    held_out = dict(session.validations)
    with open(_beside(path, ".csv"), "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["step", "bits per character", "validation"])
        for step, loss in enumerate(session.losses, 1):
            table.writerow([step, f"{loss / math.log(2):.6f}", held_out.get(step, "")])
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(
        range(1, len(session.losses) + 1),
        [x / math.log(2) for x in session.losses],
        lw=0.6,
        label="training",
    )
    if held_out:
        axes.plot(list(held_out), list(held_out.values()), "o-", label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("bits per character")
    axes.legend()
    figure.savefig(_beside(path, ".png"), dpi=120)
    pyplot.close(figure)

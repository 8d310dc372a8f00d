"""`minigrad-rnn train`: says what it will do, shows how it goes, and loses nothing."""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import io
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

import minigrad as mg
from minigrad_rnn import text
from minigrad_rnn.language import evaluating, generate, log_loss, usual_prime
from minigrad_rnn.session import EPOCHS, THREADS, Session, Settings, circumstances

DEFAULT_MODEL = "minigrad-rnn.safetensors"
SAVE_EVERY = 10.0  # seconds
FIRST_SAMPLE = 8.0  # seconds after the start
CLOSING_SAMPLE = 200  # characters that the model writes after an epoch and at the end
STATUS_EVERY = 10.0  # seconds, where there is no terminal for a bar
GRACE = 1.05  # of --minutes, by when the clock ends what was planned to end by itself
CHOICES = [field.name for field in dataclasses.fields(Settings) if field.name != "steps"]


class UsageError(ValueError):
    """A command line that asks for something impossible; the message is one line."""


def train(options: argparse.Namespace) -> int:
    """Run the command; 0 at the end, 130 after Ctrl-C."""
    started = time.perf_counter()
    path = Path(options.save)
    if path.suffix not in (".safetensors", ".npz"):
        raise UsageError(f"--save {path}: a model is saved as .safetensors or .npz")
    if not path.parent.is_dir():
        raise UsageError(f"--save {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"--save {path}: is a folder; name a file in it")
    if options.text is None:
        corpus = text.default_corpus()
    else:
        corpus = text.Corpus.of(text.read_text(options.text), options.text)
    session = _resumed(options, path, corpus) if options.resume else _new(options, corpus)
    steps, deadline, pace = _plan(options, session, started)
    session.settings = dataclasses.replace(session.settings, steps=steps)
    return _Run(session, path, options, started, deadline, pace).run()


def _new(options: argparse.Namespace, corpus: text.Corpus) -> Session:
    chosen = {n: getattr(options, n) for n in CHOICES if getattr(options, n) is not None}
    try:
        return Session(Settings(**chosen), corpus)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _resumed(options: argparse.Namespace, path: Path, corpus: text.Corpus) -> Session:
    if not path.exists():
        raise UsageError(
            f"--resume: there is no {path}; leave --resume out, or name the file with --save"
        )
    session = Session.load(path, corpus)
    for name in CHOICES:
        given, saved = getattr(options, name), getattr(session.settings, name)
        if given is not None and given != saved:
            raise UsageError(
                f"--resume: {path} was trained with {name}={saved}, not {given}; "
                f"leave --{name} out, or train anew without --resume"
            )
    for name, now in circumstances().items():
        if (before := session.made_with.get(name)) != now:
            print(f"note      {name} was {before}, now {now}: the last bits may differ")
    return session


Pace = tuple[float, float]  # seconds that a step takes, and what follows an epoch
Plan = tuple[int, float, Pace | None]


def _plan(options: argparse.Namespace, session: Session, started: float) -> Plan:
    """The step at which to end, the time after which none is begun, and the pace if measured."""
    if options.steps is not None:
        return int(options.steps), math.inf, None
    if options.minutes is not None:
        return _measured_plan(60 * options.minutes, session, started)
    if options.epochs is None and options.resume:
        return session.settings.steps, math.inf, None
    epochs = EPOCHS if options.epochs is None else options.epochs
    return max(1, round(epochs * session.per_epoch)), math.inf, None


def _measured_plan(seconds: float, session: Session, started: float) -> Plan:
    """A plan that ends `seconds` after the start, measured on steps that count for nothing."""
    with session.rehearsal():
        session.advance()  # compiles what is to be compiled
        made, begin = 0, time.perf_counter()
        while made < 3 or time.perf_counter() - begin < min(3.0, 0.03 * seconds):
            session.advance()
            made += 1
        per_step = (time.perf_counter() - begin) / made
        _draw_curve(session, io.BytesIO())  # loads matplotlib
        begin = time.perf_counter()
        _draw_curve(session, io.BytesIO())
        closing = time.perf_counter() - begin + _closing(session)
    left = seconds - (time.perf_counter() - started) - closing
    steps = max(1, int(left / (per_step + closing / session.per_epoch)))
    return session.step + steps, started + GRACE * seconds - closing, (per_step, closing)


def _closing(session: Session) -> float:
    """Seconds that validation and the sample after an epoch take, measured on a piece of each."""
    piece, begin = session.held_out[:51], time.perf_counter()
    with evaluating(session.model):
        log_loss(session.model, piece, session.model.initial_state(piece.shape[1]))
    validation = (time.perf_counter() - begin) * len(session.held_out) / len(piece)
    begin = time.perf_counter()
    _written(session, CLOSING_SAMPLE // 4)
    return validation + 4 * (time.perf_counter() - begin)


class _Run:
    """One run of the command over a session."""

    def __init__(
        self,
        session: Session,
        path: Path,
        options: argparse.Namespace,
        started: float,
        deadline: float,
        pace: Pace | None,
    ) -> None:
        self.session, self.path, self.options, self.started = session, path, options, started
        self.pace = pace
        self.saved_step, self.saved_at, self.deadline = session.step, started, deadline
        self.interrupted = self.saving = False
        self.expected = self.sampled = self.late = False

    def run(self) -> int:
        session = self.session
        self._announce()
        if session.done:
            print(
                f"done      {session.step:,} steps ({session.epoch:.3g} epochs) are made; "
                f"--epochs or --steps asks for more\n"
                f"next\n  {self._command('train', '--resume', *self._twice())}"
            )
            return 0
        try:
            with self._listening():
                if not self.options.resume:
                    self._make_room()
                self._loop()
                if self.interrupted:
                    self._save()
                    _draw_curve(session, _beside(self.path, ".png"))
        except KeyboardInterrupt:
            print(f"\nstopped   at once; {self.path} holds step {self.saved_step}. Go on with:")
            print(f"  {self._command('train', '--resume')}")
            return 130
        if self.interrupted:
            print(
                f"\nstopped   after step {session.step} of {session.settings.steps}; all is saved"
            )
            print(f"next\n  {self._command('train', '--resume')}")
            return 130
        self._closing()
        return 0

    def _announce(self) -> None:
        session, settings, made = self.session, self.session.settings, circumstances()
        corpus, size = session.corpus, sum(p.size for p in session.parameters)
        print(
            f"text      {corpus.name}: {len(corpus.text):,} characters, "
            f"{len(session.vocabulary)} distinct, sha256 {corpus.sha256[:16]}\n"
            f"model     {settings.layers} x {settings.cell}, hidden {settings.hidden}: "
            f"{size:,} parameters",
            flush=True,
        )
        if session.done:
            return
        print(
            f"training  steps {session.step + 1:,} to {settings.steps:,} "
            f"({settings.steps / session.per_epoch:.3g} epochs), {settings.batch} streams of "
            f"{settings.seq} characters a step\n"
            f"running   {running()}, {made['threads']} threads in matrix products; saved to "
            f"{self.path} every {SAVE_EVERY:.0f} s (the save before it: "
            f"{_beside(self.path, f'.1{self.path.suffix}')}), losses to "
            f"{_beside(self.path, '.csv')}; Ctrl-C saves and stops",
            flush=True,
        )
        # At the default size two threads gain little, and lose 3 to 10 times where others compute.
        if made["threads"] > 1 and not any(name in os.environ for name in THREADS):
            print(f"          {THREADS[-1]}=1 is often faster on a busy machine", flush=True)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Ctrl-C lets the step that is being made end; the second one does not wait."""
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted and self.saving:
            return  # a save takes less than it would take to say so
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        # Not print: this may have come in the middle of one.
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    def _make_room(self) -> None:
        """Save the beginning, and keep what the file held under another name."""
        if not self.path.exists():
            return self._save()
        number = 1
        while (kept := _beside(self.path, f"-earlier-{number}{self.path.suffix}")).exists():
            number += 1
        os.replace(self.path, kept)
        try:
            self._save()
        except mg.MinigradError:
            os.replace(kept, self.path)
            raise
        print(f"kept      the model that {self.path} held as {kept}", flush=True)

    def _save(self) -> None:
        self.saving = True
        try:
            self.session.save(self.path)
            self.saved_step, self.saved_at = self.session.step, time.perf_counter()
            _write_losses(self.session, self.path)
        finally:
            self.saving = False

    def _loop(self) -> None:
        session = self.session
        per_step = session.settings.batch * session.settings.seq
        first, smooth, compiled, status = session.step, None, False, ""
        with tqdm(
            total=session.settings.steps,
            initial=first,
            unit="step",
            mininterval=0.2,
            dynamic_ncols=True,
            disable=None,  # unless standard error is a terminal
        ) as bar:
            begin = told = time.perf_counter()
            while not (session.done or self.interrupted or self.late):
                loss = self._advance()
                smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
                now = time.perf_counter()
                status = (
                    f"epoch {session.epoch:.2f}, loss {smooth:.3f}, "
                    f"{smooth / math.log(2):.3f} bits/char, "
                    f"{(session.step - first) * per_step / (now - begin):,.0f} chars/s"
                )
                bar.set_postfix_str(status, refresh=False)
                bar.update()
                if bar.disable and now - told > STATUS_EVERY:
                    told = now
                    self._tell(status)
                if not compiled:  # the first step, which may have compiled something, is no measure
                    first, begin, compiled = session.step, now, True
                elif not self.expected and now - begin > 0.4:
                    self._expect(bar, now, (now - begin) / (session.step - first))
                self._between_steps(bar, now)
            if bar.disable and status:
                self._tell(status)

    def _tell(self, status: str) -> None:
        session = self.session
        line = f"step {session.step:,} of {session.settings.steps:,}, {status}"
        print(line, file=sys.stderr, flush=True)

    def _advance(self) -> float:
        session, step = self.session, self.session.step + 1
        try:
            loss = session.advance()
        except mg.NonFiniteError:  # from the clipping
            loss = math.nan
        if not math.isfinite(loss):
            raise UsageError(
                f"the loss or its gradient became infinite in step {step}; "
                f"{self.path} holds step {self.saved_step}; train anew with a smaller --lr"
            )
        return loss

    def _expect(self, bar: Any, now: float, per_step: float) -> None:
        self.expected, session = True, self.session
        made, steps, per_epoch = session.step, session.settings.steps, session.per_epoch
        per_step, closing = self.pace or (per_step, _closing(session))
        ends = math.ceil(steps / per_epoch) - made // per_epoch  # of epochs, and the last step
        seconds = (steps - made) * per_step + ends * closing
        bar.clear()
        late = self.deadline + closing - now
        bar.write(f"expected  {duration(min(seconds, late))}")
        sys.stdout.flush()

    def _between_steps(self, bar: Any, now: float) -> None:
        session = self.session
        self.late = now > self.deadline
        if session.step % session.per_epoch == 0 or session.done or self.late:
            bits = session.validate()
            bar.write(f"step {session.step:,}: validation {bits:.4f} bits per character")
            self._sample(bar, CLOSING_SAMPLE)
            self._save()
            _draw_curve(session, _beside(self.path, ".png"))
        elif now - self.saved_at > SAVE_EVERY:
            self._save()
        if not self.sampled and now - self.started > FIRST_SAMPLE:
            self._sample(bar, 80)

    def _sample(self, bar: Any, length: int) -> None:
        self.sampled = True
        bar.write("\n".join(f"    | {line}" for line in _written(self.session, length).split("\n")))
        sys.stdout.flush()

    def _closing(self) -> None:
        session, bits = self.session, self.session.validations[-1][1]
        took = duration(time.perf_counter() - self.started)
        if not session.done:  # the machine was slower than while it was measured
            took += f", {session.step:,} of the {session.settings.steps:,} planned steps"
        curve = [_beside(self.path, suffix) for suffix in (".csv", ".png")]
        shown = " and ".join(str(file) for file in curve if file.exists())
        prime = usual_prime(session.vocabulary)
        print(
            f"done      {took}, validation {bits:.4f} bits per character\n"
            f"saved     {self.path}, loss curve {shown}\n"
            f"next"
        )
        for words in (
            ["sample", "--prime", prime] if prime.isprintable() else ["sample"],
            ["sample", "--temperature", "1.0", "--length", "1000"],
            ["score", "FILE.txt"],
            ["train", "--resume", *(self._twice() if session.done else [])],
        ):
            print(f"  {self._command(*words)}")

    def _twice(self) -> list[str]:
        """The options that ask for twice the steps that are made."""
        return ["--epochs", str(math.ceil(2 * self.session.epoch))]

    def _command(self, command: str, *words: str) -> str:
        """A command line on the same text, model and backend."""
        same = []
        if command == "train" and self.options.text is not None:
            same += ["--text", self.options.text]
        if command == "train" and not circumstances()["compiled"]:
            same += ["--no-compile"]
        if self.path != Path(DEFAULT_MODEL):
            same += ["--save" if command == "train" else "--model", str(self.path)]
        return " ".join([*program(), shlex.join([command, *same, *words])])


def program() -> list[str]:
    """How this command was called, so that it can be called again on the same backend."""
    called, name = sys.argv[0], "minigrad-rnn"
    backend = os.environ.get("MINIGRAD_BACKEND")
    chosen = [f"MINIGRAD_BACKEND={shlex.quote(backend)}"] if backend and os.name != "nt" else []
    if Path(called).stem != name:
        return [*chosen, shlex.quote(sys.executable), "-m", "minigrad_rnn.cli"]
    found = shutil.which(name)
    same = found is not None and os.path.exists(called) and os.path.samefile(found, called)
    return [*chosen, name if same else shlex.quote(called)]


def running() -> str:
    """On which backend, compiled or not."""
    made = circumstances()
    return f"on backend {made['backend']}, {'compiled' if made['compiled'] else 'eager'}"


def duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def _written(session: Session, length: int) -> str:
    """What the model writes at this step."""
    model, vocabulary = session.model, session.vocabulary
    characters = generate(
        model, vocabulary, usual_prime(vocabulary), length, seed=session.step, temperature=0.7
    )
    return "".join(characters)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.stem + end)


def _curve(session: Session) -> tuple[range, list[float], dict[int, float]]:
    """Steps, their bits per character, and the validations by step."""
    bits = [loss / math.log(2) for loss in session.losses]
    return range(1, len(bits) + 1), bits, dict(session.validations)


def _write_losses(session: Session, path: Path) -> None:
    """The losses as a table beside the model."""
    steps, bits, held_out = _curve(session)
    with open(_beside(path, ".csv"), "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["step", "bits per character", "validation"])
        for step, value in zip(steps, bits):
            table.writerow([step, f"{value:.6f}", held_out.get(step, "")])


def _draw_curve(session: Session, target: Path | io.BytesIO) -> None:
    """The losses as a picture, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    steps, bits, held_out = _curve(session)
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot(steps, bits, lw=0.6, label="training")
    axes.plot(list(held_out), list(held_out.values()), "o-", label="validation")
    axes.set(xlabel="step", ylabel="bits per character")
    axes.legend()
    figure.savefig(target, dpi=120, format="png")

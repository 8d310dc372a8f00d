"""The command as a user meets it: real processes, real signals, one line for every mistake."""

from __future__ import annotations

import csv
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import minigrad as mg
from minigrad_rnn import cli, train_command
from minigrad_rnn.session import EPOCHS, Session, Settings, load_model
from tests.conftest import usable_backends

ROOT = Path(__file__).resolve().parent.parent
STARTED: list[subprocess.Popen[str]] = []
WORDS = "the quick brown fox jumps over the lazy dog and runs away from it \n"
SMALL = ("--layers", "1", "--hidden", "8", "--seq", "10", "--batch", "4")
# Saves often, so that kills and signals meet them; the command itself waits ten seconds.
OFTEN = (
    "import sys; from minigrad_rnn import cli, train_command; "
    "train_command.SAVE_EVERY = 0.03; sys.exit(cli.main(sys.argv[1:]))"
)


def environment(**changes: str) -> dict[str, str]:
    own = ("MINIGRAD_", "PYTHONIO", "OPENBLAS_", "MKL_")  # what a shell sets must not decide here
    kept = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **changes}


def start(folder: Path, *words: str, often: bool = False, **changes: str) -> subprocess.Popen[str]:
    program = ["-c", OFTEN] if often else ["-m", "minigrad_rnn.cli"]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *program, *words],
        cwd=folder, env=environment(**changes), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        preexec_fn=heed_ctrl_c if os.name == "posix" else None,
    )  # fmt: skip
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """What a failed test left running would disturb those after it."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


def heed_ctrl_c() -> None:
    """In a suite that runs in the background Ctrl-C is ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(folder: Path, *words: str, code: int = 0, **how: Any) -> tuple[str, str]:
    process = start(folder, *words, **how)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = random.Random(0)
    words = WORDS.split()
    lines = (" ".join(draw.choices(words, k=9)) for _ in range(200))
    (tmp_path / "t.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For commands run within this process."""
    monkeypatch.chdir(folder)
    return folder


def until(
    condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60
) -> bool:
    """Wait for a condition; False if the process ended before it."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)
    return True


# --- a whole training ----------------------------------------------------------------------------


def test_a_training_from_its_first_line_to_the_next_commands(folder: Path) -> None:
    out, err = run(folder, "train", "--text", "t.txt", *SMALL, "--epochs", "2", "--save", "m.npz")
    characters = len((folder / "t.txt").read_text())
    lines = out.splitlines()
    assert re.match(
        rf"text      t\.txt: {characters:,} characters, \d+ distinct, sha256 \w{{16}}$", lines[0]
    )
    assert re.match(r"model     1 x lstm, hidden 8: [\d,]+ parameters$", lines[1])
    assert re.match(r"training  steps 1 to \d+ \(2 epochs\), 4 streams of 10 characters", lines[2])
    assert re.match(
        r"running   on backend numpy, compiled, 1 threads in matrix products; saved to m\.npz "
        r"every 10 s",
        lines[3],
    )
    validations = re.findall(r"^step (\d+): validation (\d\.\d{4}) bits per character$", out, re.M)
    steps = int(validations[1][0])
    assert [int(step) for step, _ in validations] == [steps // 2, steps]
    assert len(re.findall(r"^    \| ", out, re.M)) >= 2  # samples
    assert re.search(r"loss \d\.\d{3}, \d\.\d{3} bits/char, [\d,]+ chars/s", err)
    assert "Traceback" not in err
    assert (
        f"validation {validations[1][1]} bits per character\nsaved     m.npz, loss curve m.csv"
        in out
    )
    with open(folder / "m.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["step"]) for row in table] == list(range(1, steps + 1))
    losses = mg.load(folder / "m.npz")[0]["losses"].numpy()
    assert float(table[-1]["bits per character"]) == pytest.approx(losses[-1] / 0.693147, rel=1e-4)
    assert [row["step"] for row in table if row["validation"]] == [s for s, _ in validations]
    # What it says to type next works as it stands.
    commands = [shlex.split(line) for line in out.split("\nnext\n")[1].splitlines()]
    assert [words[3] for words in commands] == ["sample", "sample", "score", "train"]
    (folder / "FILE.txt").write_text("the dog runs")
    for words in commands:
        assert words[:3] == [sys.executable, "-m", "minigrad_rnn.cli"]
        out, _ = run(folder, *words[3:])
    assert f"steps {steps + 1:,} to {2 * steps:,} (4 epochs)" in out


def test_the_curve_is_drawn(here: Path) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "3"]) == 0
    content = (here / "minigrad-rnn.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(content[16:20], "big") == 840


def test_no_picture_without_matplotlib(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "3"]) == 0
    assert "loss curve minigrad-rnn.csv\n" in capsys.readouterr().out
    assert not (here / "minigrad-rnn.png").exists()


def test_what_it_will_do_is_said_within_two_seconds(tmp_path: Path) -> None:
    """On the default text; in seconds of the processor, for the machine may be busy. How long it
    will take is known once a step is compiled, within another two."""
    process = start(tmp_path, "train", "--steps", "100000")
    assert process.stdout is not None
    begin, lines, spent = time.monotonic(), [], {}
    while not lines or not lines[-1].startswith("expected"):
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()[1]
        seconds = time.monotonic() - begin
        if Path(f"/proc/{process.pid}/stat").exists():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            seconds = min(seconds, used)
        spent[lines[-1].split()[0]] = seconds
    process.kill()
    process.communicate()
    said = [line.split()[0] for line in lines if not line.startswith("    |")]
    assert said == ["text", "model", "training", "running", "expected"]
    assert "docstrings of the Python" in lines[0]
    assert re.match(r"expected  \d+\.\d minutes", lines[-1])
    assert spent["running"] < 2
    assert spent["expected"] < 4


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_first_sample_comes_early_and_every_epoch_has_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], epochs: int
) -> None:
    """A clock that says three seconds a step: the first sample before twenty have gone by."""
    now = [0.0]
    advance, said = Session.advance, []

    def slowly(self: Session) -> float:
        now[0] += 3.0
        return advance(self)

    def sample(self: Any, bar: Any, length: int) -> None:
        self.sampled = True
        said.append(now[0])

    monkeypatch.setattr(train_command.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Session, "advance", slowly)
    monkeypatch.setattr(train_command._Run, "_sample", sample)
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--epochs", str(epochs)]) == 0
    per_epoch = Session.load("minigrad-rnn.safetensors", _corpus("t.txt")).per_epoch
    assert 8 < said[0] < 20
    assert said[1:] == [3.0 * per_epoch * n for n in range(1, epochs + 1)]
    assert f"expected  {3 * (per_epoch * epochs - 2) / 60:.1f} minutes" in capsys.readouterr().out


def _corpus(name: str) -> Any:
    return train_command.text.Corpus.of(train_command.text.read_text(name), name)


def test_minutes_end_in_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock on which only steps and scores take time, the end is within a tenth."""
    now = [100.0]
    advance, log_loss = Session.advance, train_command.log_loss

    def slow_step(self: Session) -> float:
        now[0] += 0.05 if self.step else 2.0  # something is compiled at first
        return advance(self)

    def slow_score(model: Any, ids: Any, *rest: Any, **how: Any) -> Any:
        now[0] += 0.002 * len(ids)
        return log_loss(model, ids, *rest, **how)

    monkeypatch.setattr(train_command.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Session, "advance", slow_step)
    for module in ("train_command", "session"):
        monkeypatch.setattr(f"minigrad_rnn.{module}.log_loss", slow_score)
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--minutes", "1"]) == 0
    assert 54 < now[0] - 100 < 66
    begin = now[0]
    assert cli.main(["train", "--text", "t.txt", "--minutes", "0.5", "--resume"]) == 0
    assert 27 < now[0] - begin < 33


@pytest.mark.slow
def test_minutes_end_by_the_clock_where_the_measurement_was_off(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps that take five times as long as those measured: over after 1.05 times the minutes."""
    now, advance = [100.0], Session.advance

    def step(self: Session) -> float:
        now[0] += 0.1 if Path("minigrad-rnn.safetensors").exists() else 0.02
        return advance(self)

    monkeypatch.setattr(train_command.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Session, "advance", step)
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--minutes", "0.5"]) == 0
    assert 31.5 < now[0] - 100 < 31.7
    session = Session.load("minigrad-rnn.safetensors", _corpus("t.txt"))
    planned = session.settings.steps
    assert 300 <= session.step < 320 and 1300 < planned < 1500
    assert session.validations[-1][0] == session.step
    said = capsys.readouterr().out
    assert f"done      32 seconds, {session.step:,} of the {planned:,} planned steps, valid" in said
    assert resume_line(said) == ["train", "--text", "t.txt", "--resume"]
    assert cli.main(resume_line(said)) == 0
    assert Session.load("minigrad-rnn.safetensors", _corpus("t.txt")).step == planned


@pytest.mark.parametrize("how", [["--minutes", "1"], ["--epochs", "2"], ["--epochs", "1.5"]])
def test_what_is_expected_includes_validation_and_samples(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: list[str]
) -> None:
    """A clock on which a step takes 0.1 s, a score 2 ms a character, and a sample 3 s."""
    now, said_at = [0.0], []
    advance, log_loss, expect = Session.advance, train_command.log_loss, train_command._Run._expect

    def step(self: Session) -> float:
        now[0] += 0.1
        return advance(self)

    def score(model: Any, ids: Any, *rest: Any, **how: Any) -> Any:
        now[0] += 0.002 * len(ids)
        return log_loss(model, ids, *rest, **how)

    def sample(session: Session, length: int) -> str:
        now[0] += 0.015 * length
        return ""

    def said(self: Any, *rest: Any) -> None:
        expect(self, *rest)
        said_at.append(now[0])

    monkeypatch.setattr(train_command.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Session, "advance", step)
    monkeypatch.setattr(train_command, "_written", sample)
    monkeypatch.setattr(train_command._Run, "_expect", said)
    for module in ("train_command", "session"):
        monkeypatch.setattr(f"minigrad_rnn.{module}.log_loss", score)
    assert cli.main(["train", "--text", "t.txt", *SMALL, *how]) == 0
    value, unit = re.search(r"^expected  ([\d.]+) (\w+)$", capsys.readouterr().out, re.M).groups()
    expected = float(value) * (60 if unit == "minutes" else 1)
    assert expected == pytest.approx(now[0] - said_at[0], rel=0.05)


@pytest.mark.parametrize("slower", [1, 5])
def test_minutes_leave_time_for_what_follows_the_last_step(
    here: Path, monkeypatch: pytest.MonkeyPatch, slower: int
) -> None:
    """A curve that takes two seconds to draw, steps as fast as measured or slower than that."""
    now, advance, draw = [100.0], Session.advance, train_command._draw_curve

    def step(self: Session) -> float:
        now[0] += 0.02 * (slower if Path("minigrad-rnn.safetensors").exists() else 1)
        return advance(self)

    def curve(session: Session, target: Any) -> None:
        now[0] += 2.0
        draw(session, target)

    monkeypatch.setattr(train_command.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Session, "advance", step)
    monkeypatch.setattr(train_command, "_draw_curve", curve)
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--minutes", "0.25"]) == 0
    late = slower > 1
    assert (15.75 if late else 13.0) < now[0] - 100 < (15.95 if late else 15.1)


def test_a_status_line_every_ten_seconds_where_there_is_no_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three seconds a step: a line after 12, 24 and 36 of the 42 seconds, and at the end."""
    now, advance = [0.0], Session.advance

    def slowly(self: Session) -> float:
        now[0] += 3.0
        return advance(self)

    monkeypatch.setattr(train_command.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Session, "advance", slowly)
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "14"]) == 0
    said = capsys.readouterr()
    assert "\r" not in said.err
    assert re.findall(r"^step (\d+) of 14, epoch .* chars/s$", said.err, re.M) == [
        "4", "8", "12", "14",
    ]  # fmt: skip
    assert "expected  36 seconds\n" in said.out  # 12 steps, after the first and one to measure
    assert "done      42 seconds" in said.out


def test_the_losses_are_written_with_every_save(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, seen = Session.advance, []

    def step(self: Session) -> float:
        seen.append(len(Path("minigrad-rnn.csv").read_text().splitlines()) - 1)
        return advance(self)

    monkeypatch.setattr(train_command, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(Session, "advance", step)
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "5"]) == 0
    assert seen == [0, 1, 2, 3, 4]


def test_one_thread_is_advised_where_nobody_chose(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advice = "          OMP_NUM_THREADS=1 is often faster on a busy machine\n"
    words = ["train", "--text", "t.txt", *SMALL, "--steps", "1"]
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: {0, 1}, raising=False)
    assert cli.main(words) == 0
    assert advice in capsys.readouterr().out
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: {0}, raising=False)
    assert cli.main(words) == 0
    assert advice not in capsys.readouterr().out
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert cli.main(words) == 0
    assert advice not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [0.25, 1.0])
def test_minutes_end_in_time_on_a_real_clock(folder: Path, minutes: float) -> None:
    """On an idle machine."""
    begin = time.monotonic()
    run(folder, "train", "--minutes", str(minutes), "--hidden", "64", "--layers", "1")
    assert time.monotonic() - begin == pytest.approx(60 * minutes, rel=0.1)


def test_measuring_for_minutes_changes_no_number(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_command, "GRACE", 1e6)  # all planned steps are made
    words = ["train", "--text", "t.txt", *SMALL, "--layers", "2", "--dropout", "0.2"]
    assert cli.main([*words, "--minutes", "0.01", "--save", "a.npz"]) == 0
    steps = mg.load("a.npz")[1]["settings"]["steps"]
    assert cli.main([*words, "--steps", str(steps), "--save", "b.npz"]) == 0
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()


def test_the_loop_adds_nothing_to_speak_of(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two calls of advance less than 3 % of a step of the default model (60 ms)."""
    spent: list[float] = []
    ended = [0.0]

    def advance(self: Session) -> float:
        if ended[0]:
            spent.append(time.thread_time() - ended[0])
        self.step += 1
        self.per_epoch = 10**6
        self.losses.append(2.0)
        ended[0] = time.thread_time()
        return 2.0

    monkeypatch.setattr(Session, "advance", advance)
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "2000"]) == 0
    assert sum(spent) / len(spent) < 0.03 * 0.060


def test_an_earlier_model_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--text", "t.txt", *SMALL, "--save", "m.safetensors", "--steps"]
    files = []
    for steps in ("2", "3", "4"):
        assert cli.main([*words, steps]) == 0
        files.append(Path("m.safetensors").read_bytes())
    assert "kept      the model that m.safetensors held as m-earlier-2.safetensors" in (
        capsys.readouterr().out
    )
    assert Path("m-earlier-1.safetensors").read_bytes() == files[0]
    assert Path("m-earlier-2.safetensors").read_bytes() == files[1]
    assert cli.main([*words, "4", "--resume"]) == 0
    assert Path("m.safetensors").read_bytes() == files[2]
    assert not Path("m-earlier-3.safetensors").exists()


# --- stopped -------------------------------------------------------------------------------------


def resume_line(out: str) -> list[str]:
    return shlex.split(out.splitlines()[-1])[3:]


def test_ctrl_c_saves_and_says_how_to_go_on(folder: Path) -> None:
    words = ("train", "--text", "t.txt", *SMALL, "--steps", "700")
    run(folder, *words, "--save", "whole.npz")
    process = start(folder, *words, "--save", "m.npz", often=True)
    model = folder / "m.npz"
    assert until(model.exists, process)
    written = model.stat().st_mtime_ns
    assert until(lambda: model.stat().st_mtime_ns != written, process)  # some steps are made
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping after this step; Ctrl-C again stops at once" in err
    assert "Traceback" not in err
    (step,) = re.findall(r"stopped   after step (\d+) of 700; all is saved", out)
    assert 0 < int(step) < 700
    assert mg.load(model)[1]["step"] == int(step)
    assert (folder / "m.csv").read_text().count("\n") == int(step) + 1
    again = resume_line(out)
    assert again == ["train", "--text", "t.txt", "--save", "m.npz", "--resume"]
    run(folder, *again)
    assert model.read_bytes() == (folder / "whole.npz").read_bytes()


SLOW_FIRST_STEP = """
import sys, time
from minigrad_rnn import cli, train_command
from minigrad_rnn.session import Session
advance = Session.advance
def slowly(self):
    print("compiling", flush=True)
    for _ in range({tenths}):
        time.sleep(0.1)
    return advance(self)
Session.advance = slowly
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("presses", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_while_something_is_compiled(folder: Path, presses: int) -> None:
    """Once: the first step ends, and is saved. Twice: it ends at once, the last save is whole."""
    code = SLOW_FIRST_STEP.format(tenths=10 if presses == 1 else 600)
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", "--text", "t.txt", *SMALL, "--save", "m.npz"],
        cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    begun = ""
    while not begun.endswith("compiling\n"):
        begun += process.stdout.readline()
    begin = time.monotonic()
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert mg.load(folder / "m.npz")[1]["step"] == 2 - presses
    if presses == 2:
        assert time.monotonic() - begin < 20
        assert "stopped   at once; m.npz holds step 0" in out
    assert not list(folder.glob(".*.tmp"))
    run(folder, *resume_line(out), "--steps", "4")
    assert mg.load(folder / "m.npz")[1]["step"] == 4


def test_two_ctrl_c_in_a_row_never_lose_the_last_save(folder: Path) -> None:
    words = ("train", "--text", "t.txt", *SMALL, "--save", "m.npz")
    draw = random.Random(1)
    process = start(folder, *words, "--steps", "100000", often=True)
    for _ in range(3):
        assert until((folder / "m.npz").exists, process)
        written = (folder / "m.npz").stat().st_mtime_ns
        assert until(lambda: (folder / "m.npz").stat().st_mtime_ns != written, process)  # noqa: B023
        time.sleep(draw.random() * 0.05)
        for pause in (draw.random() * 0.002, 0):
            process.send_signal(signal.SIGINT)
            time.sleep(pause)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        step = mg.load(folder / "m.npz")[1]["step"]
        assert f"holds step {step}. Go on" in out or f"after step {step} of" in out
        process = start(folder, *resume_line(out), often=True)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_if_nothing_had_been(folder: Path, kills: int) -> None:
    """SIGKILL to a real training, which resumes each time: the file at its end is the same to the
    bit, with every weight, loss and validation, and so are its text and its curve."""
    words = ("train", "--text", "t.txt", *SMALL, "--layers", "2", "--dropout", "0.2",
             "--steps", str(200 * kills))  # fmt: skip
    run(folder, *words, "--save", "whole.safetensors")
    model, draw = folder / "m.safetensors", random.Random(kills)
    again = ("train", "--text", "t.txt", "--save", model.name)
    process = start(folder, *words, "--save", model.name, often=True)
    steps = []
    while len(steps) < kills:
        assert until(model.exists, process)
        for _ in range(draw.randint(1, 4)):
            seen = model.stat().st_mtime_ns
            if not until(lambda: model.stat().st_mtime_ns != seen, process):  # noqa: B023
                break
        time.sleep(draw.random() * 0.04)
        assert process.poll() is None, "too short a training for so many kills"
        process.kill()
        process.communicate()
        steps.append(mg.load(model)[1]["step"])  # old or new, whole in either case
        process = start(folder, *again, "--resume", often=True)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert steps == sorted(steps)
    assert len(set(steps)) > 1
    assert model.read_bytes() == (folder / "whole.safetensors").read_bytes()
    assert (folder / "m.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    texts = {run(folder, "sample", "--model", f"{n}.safetensors")[0] for n in ("m", "whole")}
    assert len(texts) == 1


def test_resuming_elsewhere_says_what_differs(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--text", "t.txt", "--steps"]
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert cli.main([*words, "2", *SMALL]) == 0
    assert "note" not in capsys.readouterr().out
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    assert cli.main([*words, "3", "--resume"]) == 0
    assert "note      threads was 1, now 7: the last bits may differ" in capsys.readouterr().out


def test_no_compile_makes_the_same_training_op_by_op(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINIGRAD_COMPILE", "1")  # put back at the end
    words = ["train", "--text", "t.txt", *SMALL, "--steps", "12", "--save"]
    assert cli.main([*words, "m.npz"]) == 0
    said = capsys.readouterr().out
    assert "on backend numpy, compiled, " in said
    assert "--no-compile" not in said
    assert cli.main([*words, "eager.npz", "--no-compile"]) == 0
    said = capsys.readouterr().out
    assert "on backend numpy, eager, " in said
    assert "--no-compile" in resume_line(said)
    losses = [mg.load(name)[0]["losses"].numpy() for name in ("m.npz", "eager.npz")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    monkeypatch.setenv("MINIGRAD_COMPILE", "1")
    assert cli.main(["train", "--text", "t.txt", "--save", "eager.npz", "--resume"]) == 0
    said = capsys.readouterr().out
    assert "note      compiled was False, now True: the last bits may differ" in said


def test_nothing_is_left_to_do(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--text", "t.txt", *SMALL, "--steps", "2"]
    assert cli.main(words) == 0
    capsys.readouterr()
    assert cli.main([*words, "--resume"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^done      2 steps \(0\.\d+ epochs\) are made; --epochs or --steps asks for more$",
        said,
        re.M,
    )
    assert "steps 3 to 2" not in said and "Ctrl-C" not in said
    assert cli.main(resume_line(said)) == 0
    assert Session.load("minigrad-rnn.safetensors", _corpus("t.txt")).step > 2


@pytest.mark.parametrize("error", [None, mg.NonFiniteError])
def test_an_infinite_loss_stops_and_does_not_reach_the_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Any
) -> None:
    advance = Session.advance

    def diverging(self: Session) -> float:
        if self.step == 4 and error is not None:
            raise error("the total norm is nan")
        return advance(self) if self.step != 4 else float("nan")

    monkeypatch.setattr(Session, "advance", diverging)
    assert cli.main(["train", "--text", "t.txt", *SMALL]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "minigrad-rnn train: the loss or its gradient became infinite in step 5; "
        "minigrad-rnn.safetensors holds step 0; train anew with a smaller --lr"
    )
    assert mg.load("minigrad-rnn.safetensors")[1]["step"] == 0


# --- mistakes: one line, exit status 2 -----------------------------------------------------------


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command line ends with (after the usage, where argparse found it)."""
    capsys.readouterr()
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = stop.code
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("usage: minigrad-rnn")
        lines = lines[-1:]
    else:
        lines = [
            line for line in capsys.readouterr().err.splitlines() if line and "step/s" not in line
        ]
    assert code == 2
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "nowhere.txt does not exist: check the path"),
        (b"", "is empty: give a file with at least 1000 characters"),
        (b"   \n", "is empty"),
        (b"short", "has 5 characters: give a text of at least 1000"),
        (b"a\x00b" * 999, "is a binary file (zero byte at position 1)"),
        (b"\xff\xfea\x00" * 999, "is UTF-16: save it as UTF-8"),
        (b"caf\xe9" * 999, "is not UTF-8 (byte 0xe9 at position 3)"),
        (b"ab cd " * 200, "1140 characters do not fill one batch of 50 x 50, which takes 2501"),
    ],
)
def test_texts_that_cannot_be_used(
    here: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, says: str
) -> None:
    if content is not None:
        Path("nowhere.txt").write_bytes(content)
    assert says in mistake(capsys, "train", "--text", "nowhere.txt")
    assert not list(here.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--text", "."], ". is a directory: name one text file in it"),
        (["train", "--cell", "lstn"], "invalid choice: 'lstn'"),
        (["train", "--layers", "0"], "argument --layers: a whole number >= 1 is needed, not '0'"),
        (["train", "--layers", "two"], "a whole number >= 1 is needed, not 'two'"),
        (["train", "--hidden", "-1"], "argument --hidden"),
        (["train", "--hidden", "1e3"], "a whole number >= 1 is needed, not '1e3'"),
        (["train", "--batch", str(10**30)], "argument --batch"),
        (["train", "--epochs", "nan"], "argument --epochs: a number > 0 is needed, not 'nan'"),
        (["train", "--minutes", "0"], "argument --minutes: a number > 0"),
        (["train", "--minutes", "inf"], "argument --minutes: a number > 0"),
        (["train", "--steps", "9", "--epochs", "2"], "not allowed with argument"),
        (["train", "--lr", "0"], "argument --lr"),
        (["train", "--dropout", "1"], "argument --dropout: a number from 0 to 0.999"),
        (["train", "--validation", "1"], "validation=1.0: give a number in (0, 1)"),
        (["train", "--validation", "1e-9"], "holds out 0 of"),
        (["train", "--layers", "1", "--dropout", "0.5"], "dropout acts between cells"),
        (["train", "--seed", "-3"], "argument --seed: a whole number >= 0"),
        (["train", "--save", "m.pt"], "m.pt: a model is saved as .safetensors or .npz"),
        (["train", "--save", "no/where/m.npz"], "there is no folder no/where"),
        (["train", "--save", "t.txt/m.npz"], "there is no folder t.txt"),
        (["train", "--save", "folder.npz"], "folder.npz: is a folder"),
        (["train", "--resume"], "there is no minigrad-rnn.safetensors; leave --resume out"),
        (["train", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["sample"], "there is no minigrad-rnn.safetensors: `minigrad-rnn train` makes one"),
        (["sample", "m.npz"], "unrecognized arguments: m.npz; --model FILE names the model"),
        (["sample", "--temperature", "-1"], "argument --temperature: 0, or a number from 1e-06"),
        (["sample", "--temperature", "1e-9"], "argument --temperature: 0, or a number from 1e-06"),
        (["sample", "--temperature", "nan"], "argument --temperature"),
        (["sample", "--top-p", "2"], "argument --top-p: a number in (0, 1] is needed, not '2'"),
        (["sample", "--top-p", "0"], "argument --top-p"),
        (["sample", "--top-k", "0"], "argument --top-k"),
        (["sample", "--length", "0"], "argument --length"),
        (["sample", "--model", "t.txt"], "must end in .safetensors or .npz"),
        (["sample", "--model", "bad.npz"], "bad.npz: cannot be read"),
        (["sample", "--model", "folder.npz"], "folder.npz: cannot be read: not a regular file"),
        (["score"], "the following arguments are required: FILE"),
        (["tutorial", "99"], "there is no tutorial 99; there are 1"),
        (["tutorial", "--notebook", "a.ipynb"], "--notebook needs the number of a tutorial"),
        (["tutorial", "1", "--notebook", "a.txt"], "a notebook is named *.ipynb"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
    ],
)
def test_mistakes_get_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    Path("folder.npz").mkdir()
    Path("bad.npz").write_bytes(b"PK nothing of the kind")
    if words[0] == "train" and "--text" not in words:
        words = [*words, "--text", "t.txt"]
    assert says in mistake(capsys, *words)


def test_mistakes_with_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "3"]) == 0
    before = Path("minigrad-rnn.safetensors").read_bytes()
    train = ("train", "--text", "t.txt", "--resume")
    for option, value, saved in (
        ("hidden", "9", "8"), ("cell", "gru", "lstm"), ("seed", "1", "0"), ("seq", "11", "10"),
        ("lr", "1", "0.004"), ("dropout", "0.1", "0.0"), ("clip", "1", "5.0"),
    ):  # fmt: skip
        said = mistake(capsys, *train, f"--{option}", value)
        assert f"was trained with {option}={saved}, not {value}" in said
        assert f"leave --{option} out, or train anew without --resume" in said
    Path("u.txt").write_text(Path("t.txt").read_text().replace("fox", "cat"))
    said = mistake(capsys, "train", "--text", "u.txt", "--resume")
    assert "was trained on 't.txt', whose text was not that of 'u.txt'" in said
    assert Path("minigrad-rnn.safetensors").read_bytes() == before
    assert "'Q' (U+0051, position 0) is not among" in mistake(capsys, "sample", "--prime", "Q")
    said = mistake(capsys, "sample", "--prime", "the 漢")
    assert said.startswith("minigrad-rnn sample: '漢' (U+6F22, position 4) is not among the ")
    assert said.endswith("characters that the model knows: choose another --prime")
    assert "--prime needs at least one" in mistake(capsys, "sample", "--prime", "")
    Path("v.txt").write_text("THE DOG")
    said = mistake(capsys, "score", "v.txt")
    assert "has never seen 6 of its characters ('D' 'E' 'G' 'H' 'O' ...)" in said
    assert "none of the model's characters" in mistake(capsys, "score", "v.txt", "--replace", "Q")
    assert "none of the model's characters" in mistake(capsys, "score", "v.txt", "--replace", "th")
    assert cli.main(["score", "v.txt", "--replace", "t"]) == 0
    assert re.match(r"\d+\.\d{4} bits per character  7 characters ", capsys.readouterr().out)


def test_a_damaged_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "3"]) == 0
    path = Path("minigrad-rnn.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    for words in (["train", "--text", "t.txt", "--resume"], ["sample"], ["score", "t.txt"]):
        assert "minigrad-rnn.safetensors: cannot be read" in mistake(capsys, *words)
    mg.save(path, {"w": mg.ones(3)}, {"kind": "\x1b[2Jother\nline"})
    said = mistake(capsys, "sample")
    assert "is no model of `minigrad-rnn train`" in said
    assert said.isprintable()


def test_what_a_file_says_of_itself_cannot_move_the_cursor(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "3"]) == 0
    tensors, metadata = mg.load("minigrad-rnn.safetensors")
    metadata["settings"]["cell"] = "\x1b[2J\nlstm\x07"
    mg.save("minigrad-rnn.safetensors", tensors, metadata)
    assert mistake(capsys, "sample").isprintable()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, where no file can be made")
def test_a_folder_that_cannot_be_written_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = mistake(capsys, "train", "--text", "t.txt", *SMALL, "--save", "/proc/m.npz")
    assert said.startswith("minigrad-rnn train: /proc/m.npz: not saved:")


def test_an_earlier_model_stays_where_it_is_if_the_new_one_cannot_be_saved(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "--text", "t.txt", *SMALL, "--steps", "3"]
    assert cli.main(words) == 0
    before = Path("minigrad-rnn.safetensors").read_bytes()

    def full(*rest: Any, **how: Any) -> None:
        raise mg.CheckpointError("m: not saved: No space left on device")

    monkeypatch.setattr(Session, "save", full)
    assert "No space left on device" in mistake(capsys, *words)
    assert Path("minigrad-rnn.safetensors").read_bytes() == before
    assert not list(here.glob("*-earlier-*"))


FULL_DISK = """
import os, resource, sys
from minigrad_rnn import cli
from minigrad_rnn.session import Session
save = Session.save
def save_once(self, path):
    save(self, path)
    limit = os.path.getsize(path) + 5
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
Session.save = save_once
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of the size of a file")
def test_a_full_disk_in_the_middle(folder: Path) -> None:
    """No file may grow beyond the first save: the one at the end fails, the first stays whole."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "train", "--text", "t.txt", *SMALL, "--steps", "20"],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "minigrad-rnn.safetensors: not saved: File too large; the old file is intact"
    )
    assert mg.load(folder / "minigrad-rnn.safetensors")[1]["step"] == 0


def test_not_enough_memory(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(self: Session) -> float:
        raise MemoryError

    monkeypatch.setattr(Session, "advance", too_much)
    said = mistake(capsys, "train", "--text", "t.txt", *SMALL)
    assert said == (
        "minigrad-rnn train: not enough memory: choose a smaller --hidden, --batch or --seq"
    )


@pytest.mark.parametrize("name", ["cupy", "nubma", "module://nowhere:backend"])
def test_a_backend_that_cannot_be_used(folder: Path, name: str) -> None:
    if name == "cupy" and "cupy" in usable_backends():
        name = "cupy:99"
    words = ("train", "--text", "t.txt", *SMALL)
    out, err = run(folder, *words, code=2, MINIGRAD_BACKEND=name)
    (line,) = err.splitlines()
    assert line.startswith("minigrad-rnn train: ")
    assert name.split(":")[0] in line
    if name == "nubma":
        assert "numba" in line
    assert out == ""
    assert not list(folder.glob("*.safetensors"))


# --- terminals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
                  {"PYTHONIOENCODING": "ascii"}]
)  # fmt: skip
def test_a_terminal_that_is_not_utf8(folder: Path, variables: dict[str, str]) -> None:
    (folder / "ä.txt").write_text("äöü ß\n" * 400, encoding="utf-8")
    words = ("train", "--text", "ä.txt", *SMALL, "--steps", "20", "--save", "m.npz")
    out, _ = run(folder, *words, **variables)
    assert "done" in out
    out, _ = run(folder, "sample", "--model", "m.npz", **variables)
    assert re.search(r"\\xe4|\\xf6", out)
    _, err = run(folder, "sample", "--model", "m.npz", "--prime", "ñ", code=2, **variables)
    assert "is not among" in err


def test_windows_newlines_and_a_byte_order_mark_change_nothing(folder: Path) -> None:
    written = (folder / "t.txt").read_text(encoding="utf-8")
    (folder / "w.txt").write_bytes(b"\xef\xbb\xbf" + written.replace("\n", "\r\n").encode())
    for name in ("t", "w"):
        run(
            folder,
            "train",
            "--text",
            f"{name}.txt",
            *SMALL,
            "--steps",
            "5",
            "--save",
            f"{name}.npz",
        )
    ours, theirs = (mg.load(folder / f"{name}.npz") for name in ("t", "w"))
    assert ours[1]["corpus"]["sha256"] == theirs[1]["corpus"]["sha256"]
    assert ours[0]["losses"].tolist() == theirs[0]["losses"].tolist()


def test_a_reader_that_has_read_enough(folder: Path) -> None:
    run(folder, "train", "--text", "t.txt", *SMALL, "--steps", "3")
    with start(folder, "sample", "--length", "20000") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(20)
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_ctrl_c_while_it_writes(folder: Path) -> None:
    run(folder, "train", "--text", "t.txt", *SMALL, "--steps", "3")
    process = start(folder, "sample", "--length", "1000000")
    assert process.stdout is not None
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, "")


# --- help, and what is printed -------------------------------------------------------------------


def test_help_shows_defaults_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for command in ("train", "sample", "score", "tutorial"):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0
        shown[command] = " ".join(capsys.readouterr().out.split())
        assert f"examples: minigrad-rnn {command}" in shown[command]
        assert "None" not in shown[command]
    options = {name.replace("_", "-"): value for name, value in vars(Settings()).items()}
    del options["steps"]  # which epochs decide
    for name, value in options.items():
        assert re.search(rf"--{name} [^(]*\(default: {re.escape(str(value))}\)", shown["train"])
    assert f"(default: {EPOCHS})" in shown["train"]
    assert "(default: 0.7)" in shown["sample"]
    assert "(default: 500)" in shown["sample"]


def test_examples_of_the_help_are_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "sample", "score", "tutorial"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        examples = capsys.readouterr().out.split("examples:\n")[1].splitlines()
        assert examples
        for line in examples:
            program, *words = shlex.split(line)
            assert program == "minigrad-rnn"
            assert cli._parser().parse_args(words).command == command


def test_without_a_command_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    for command in ("train", "sample", "score", "tutorial"):
        assert re.search(rf"^    {command} ", out, re.M)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"minigrad-rnn {mg.__version__}\n"


def test_the_tutorials_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tutorial"]) == 0
    assert re.search(r"^   1  \w+", capsys.readouterr().out, re.M)


def test_sample_writes_what_generate_gives(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from minigrad_rnn.language import bits_per_character, generate

    assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "30"]) == 0
    capsys.readouterr()
    model, vocabulary = load_model("minigrad-rnn.safetensors")
    how = {"seed": 3, "temperature": 0.9, "top_k": 5, "top_p": 0.8}
    words = "sample --prime dog --length 40 --seed 3 --temperature 0.9 --top-k 5 --top-p 0.8"
    assert cli.main(words.split()) == 0
    wanted = "dog" + "".join(generate(model, vocabulary, "dog", 40, **how))
    assert capsys.readouterr().out == wanted + "\n"
    Path("two.txt").write_text("the fox\n")
    assert cli.main(["score", "two.txt", "t.txt"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    bits = bits_per_character(model, vocabulary.encode("the fox\n"))
    assert first.startswith(f"{bits:.4f} bits per character  8 characters  ")
    assert first.endswith("  two.txt")
    assert second.endswith("  t.txt")


@pytest.mark.parametrize("prefix", ["numba", None])
def test_the_next_commands_keep_the_backend(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prefix: Any
) -> None:
    if prefix is None:
        monkeypatch.delenv("MINIGRAD_BACKEND", raising=False)
    else:
        monkeypatch.setenv("MINIGRAD_BACKEND", prefix)
    monkeypatch.setattr(sys, "argv", [str(here / "bin dir" / "minigrad-rnn")])
    with mg.use_backend("numpy"):
        assert cli.main(["train", "--text", "t.txt", *SMALL, "--steps", "3"]) == 0
    lines = capsys.readouterr().out.split("\nnext\n")[1].splitlines()
    called = [str(here / "bin dir" / "minigrad-rnn"), "sample"]
    assert shlex.split(lines[0]) == ([f"MINIGRAD_BACKEND={prefix}"] if prefix else []) + called

"""`minigrad-rnn experiment`: what it shows, keeps and goes on with; the quick runs' answers."""

import importlib.util
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad_rnn import cli, experiments
from minigrad_rnn.experiment_command import fingerprint
from minigrad_rnn.experiments import Bar, Experiment, tasks
from minigrad_rnn.experiments.experiment import QUICK_SECONDS, SEEDS
from minigrad_rnn.experiments.gru_lstm import interval, make
from minigrad_rnn.experiments.learning import open_gates
from tests.test_cli import environment, heed_ctrl_c

lecture = pytest.mark.lecture

OWN_TEST = ("copying", "gru_lstm", "recall", "temporal_order")
PROVED_HERE = ("dates", "listops", "time_scales")  # the other rows have another proof


@pytest.fixture
def quickly(backend, tmp_path, monkeypatch, capsys):
    """Run the quick form of an experiment: all its bars must hold, within the time promised."""
    monkeypatch.chdir(tmp_path)

    def run(name):
        begin = time.process_time()
        status = cli.main(["experiment", name, "--quick", "--no-picture"])
        assert status == 0, capsys.readouterr().out
        assert backend != "numpy" or time.process_time() - begin < QUICK_SECONDS

    return run


@lecture("A6", "quick")
@pytest.mark.long
@pytest.mark.parametrize("name", ["recall", "copying"])
def test_gated_cells_carry_symbols_over_a_delay(backend, quickly, name):
    quickly(name)


@lecture("D8", "quick")
@pytest.mark.long
def test_omega_helps_where_gradients_vanish(backend, quickly):
    quickly("temporal_order")


@lecture("E7", "quick")
@pytest.mark.long
def test_a_gru_performs_like_an_lstm(backend, quickly):
    quickly("gru_lstm")


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in PROVED_HERE else pytest.mark.slow)
        for name in experiments.NAMES
        if name not in OWN_TEST
    ],
)
def test_the_other_quick_runs_show_their_direction(backend, quickly, name):
    quickly(name)


# What experiments in full come to, and the clauses that this proves.
IN_FULL = {
    "recall": (("A6", "recall"), ("A6", "contrast")),
    "copying": (("A6", "copy"),),
    "temporal_order": (("D8", "temporal order"),),
    "gru_lstm": (("E7", "table"),),
    "dates": (("B12", "dates"),),
    "reversal": (("B12", "reversal"), ("H2", "reversal")),
    "ntm_copy": (("H5", "copy"),),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[lecture(row, clause, backend="any") for row, clause in clauses])
        for name, clauses in IN_FULL.items()
    ],
)
def test_the_claims_hold_in_full(tmp_path, name):
    """The command itself, compiled, on the faster backend there is; minutes each.

    From the first seed alone, but where the claim is about an interval of all five; all five of
    each are for `tests/show/experiments_full.sh`.
    """
    seeds = SEEDS if name == "gru_lstm" else SEEDS[:1]
    backend = "numba" if importlib.util.find_spec("numba") else "numpy"
    words = ["experiment", name, "--no-picture", "--seeds", *map(str, seeds)]
    done = subprocess.run(
        [sys.executable, "-m", "minigrad_rnn.cli", *words],
        cwd=tmp_path, env=environment(MINIGRAD_BACKEND=backend), text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# --- the command ----------------------------------------------------------------------------------


def toy(fails=(), **changed):
    """An experiment that counts its runs in a list, whose measure is known beforehand."""
    ran = []

    def run(variant, seed, quick):
        ran.append((variant, seed, quick))
        yield 0.5, 10.0
        if (variant, seed) in fails:
            raise mg.NonFiniteError("the total norm of the gradients is nan")
        yield 1.0, 5.0
        return {"slow": 1, "fast": 2}[variant] + seed / 100

    fields = {
        "name": "toy",
        "row": "Z1",
        "question": "Is fast faster?",
        "measure": "metres a second",
        "variants": ("slow", "fast"),
        "run": run,
        "bars": (Bar("fast: above 2.01", lambda r: min(r["fast"]) > 2.01),),
        "quick_bars": (Bar("fast: above slow", lambda r: min(r["fast"]) > max(r["slow"])),),
    }
    return Experiment(**{**fields, **changed}), ran


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command on an experiment, here: its status and what it wrote."""
    monkeypatch.chdir(tmp_path)

    def call(experiment, *words):
        monkeypatch.setattr(experiments, "find", lambda name: experiment)
        status = cli.main(["experiment", "toy", *words])
        return status, *capsys.readouterr()

    return call


def test_the_table_and_the_verdict(command):
    status, out, _ = command(toy()[0])
    assert status == 1  # seed 0 is at 2
    lines = [line.split() for line in out.splitlines()]
    assert ["slow", "1", "1.02", "1.04", "1", "1.01", "1.02", "1.03", "1.04"] in lines
    assert ["fast", "2", "2.02", "2.04", "2", "2.01", "2.02", "2.03", "2.04"] in lines
    assert "FAIL      fast: above 2.01 (fast 2 2.01 2.02 2.03 2.04)" in out
    status, out, _ = command(toy()[0], "--quick")
    assert status == 0
    assert "PASS      fast: above slow (slow 1, fast 2)" in out


def test_a_failed_seed_stays_in_the_table(command):
    status, out, _ = command(toy(fails=[("fast", 3)])[0])
    assert status == 1
    assert "failed    fast, seed 3: the total norm of the gradients is nan" in out
    [line] = [line.split() for line in out.splitlines() if line.startswith("fast  ")]
    assert line == ["fast", *["failed"] * 3, "2", "2.01", "2.02", "failed", "2.04"]
    [failed] = [
        r["measure"]
        for r in json.loads(Path("experiment-toy.json").read_text())["results"]
        if (r["variant"], r["seed"]) == ("fast", 3)
    ]
    assert failed is None
    again, ran = toy(fails=[("fast", 3)])
    assert command(again)[0] == 1  # kept as it is, not tried again until it fits
    assert not ran


def test_what_has_ended_is_kept(command, monkeypatch):
    first, ran = toy()
    assert command(first, "--quick")[0] == 0
    assert ran == [("slow", 0, True), ("fast", 0, True)]
    ran.clear()
    assert command(first, "--quick", "--seeds", "0", "7")[0] == 0
    assert ran == [("slow", 7, True), ("fast", 7, True)]
    ran.clear()
    _, out, _ = command(first, "--quick", "--seeds", "7")
    assert not ran
    assert "the bars speak of seeds 0" in out
    assert command(first, "--quick", "--fresh")[0] == 0
    assert len(ran) == 2


def test_results_of_something_else_are_not_gone_on_with(command):
    experiment, ran = toy()
    command(experiment, "--quick", "--save", "a.json")
    ran.clear()
    status, _, err = command(experiment, "--save", "a.json")
    assert (status, ran) == (2, [])
    assert err == (
        "minigrad-rnn experiment: a.json: quick was True, now False; --fresh starts over, --save "
        "names another file\n"
    )
    Path("b.json").write_text("[]", encoding="utf-8")
    status, _, err = command(experiment, "--save", "b.json")
    assert status == 2
    assert "b.json holds no results of an experiment" in err
    assert Path("b.json").read_text(encoding="utf-8") == "[]"


RESULT = {"variant": "slow", "seed": 0, "measure": 1, "seconds": 0.1, "curve": [[1, 2]]}


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": []},
        {"fingerprint": None},
        {"results": {"slow": 1}},
        {"results": [7]},
        *(
            {"results": [{**RESULT, name: value}]}
            for name, value in [
                ("seconds", "x"),
                ("seconds", None),
                ("measure", "1"),
                ("measure", 10**400),
                ("variant", ["slow"]),
                ("seed", 0.5),
                ("curve", [["a", 1]]),
                ("curve", [[1, "a"]]),
                ("curve", [[1]]),
                ("curve", 3),
            ]
        ),
    ],
)
def test_damaged_results_are_told_in_one_line(command, change):
    experiment, ran = toy()
    path = Path("experiment-toy-quick.json")
    command(experiment, "--quick")
    damaged = json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change})
    path.write_text(damaged, encoding="utf-8")
    ran.clear()
    status, _, err = command(experiment, "--quick")
    assert (status, ran) == (2, [])
    assert "experiment-toy-quick.json holds no results of an experiment" in err
    assert err.count("\n") == 1
    assert path.read_text(encoding="utf-8") == damaged


@pytest.mark.parametrize(
    "words, what", [([], "cannot be read"), (["--fresh"], "cannot be written")]
)
def test_a_place_that_cannot_hold_results_shows_before_the_first_run(command, words, what):
    Path("a.json").mkdir()
    experiment, ran = toy()
    status, _, err = command(experiment, "--quick", "--save", "a.json", *words)
    assert (status, ran) == (2, [])
    assert err.startswith(f"minigrad-rnn experiment: a.json {what}: ")
    assert err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["a.json"]


@pytest.mark.parametrize("ended, told", [(0, "nothing was saved"), (1, "holds 1 of 2 results")])
def test_what_comes_next_does_not_start_over(command, monkeypatch, ended, told):
    experiment, ran = toy()

    def run(*which):
        if len(ran) == ended:
            raise KeyboardInterrupt
        return (yield from experiment.run(*which))

    words = ["--quick", "--fresh", "--no-picture"]
    monkeypatch.setattr(sys, "argv", ["minigrad-rnn", "experiment", "toy", *words])
    status, out, _ = command(toy(run=run)[0], *words)
    assert status == 130
    assert told in out
    assert out.rstrip().endswith("experiment toy --quick --no-picture")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--save", "a.txt"], "results are saved as .json"),
        (["--save", "no/a.json"], "there is no folder no"),
        (["--seeds", "0", "3", "0"], "--seeds 0 3 0: a seed counts once"),
    ],
)
def test_mistakes_are_told_in_one_line(command, words, message):
    status, _, err = command(toy()[0], *words)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_unknown_names_the_list_and_the_help(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["experiment", "addign"]) == 2
    assert "there is no experiment 'addign', but adding, " in capsys.readouterr().err
    for words in ([], ["--list"]):
        assert cli.main(["experiment", *words]) == 0
        listed = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in listed] == list(experiments.NAMES)
    with pytest.raises(SystemExit) as end:
        cli.main(["experiment", "--help"])
    assert end.value.code == 0
    assert "exit status 1 where it does not" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_picture(command):
    pytest.importorskip("matplotlib")
    assert command(toy()[0], "--quick", "--no-picture")[0] == 0
    assert not Path("experiment-toy-quick.png").exists()
    _, out, _ = command(toy()[0], "--quick")
    assert "picture   experiment-toy-quick.png" in out
    assert Path("experiment-toy-quick.png").read_bytes()[:4] == b"\x89PNG"


def test_no_picture_without_matplotlib(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, _ = command(toy()[0], "--quick")
    assert status == 0
    assert "picture" not in out


SLOWLY = """
import sys, time
from minigrad_rnn import cli, experiments
def run(variant, seed, quick):
    for i in range(4):
        time.sleep(0.05)
        yield i / 4, 1.0
    return time.time()
bars = experiments.Bar("always", lambda r: True),
toy = experiments.Experiment("toy", "Z1", "Why?", "time", ("a", "b"), run, bars, bars)
experiments.find = lambda name: toy
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("stop", ["SIGKILL", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_stopped_at_any_moment_it_goes_on(tmp_path, stop):
    """Stopped in the third of ten runs, the second command makes the eight that are missing."""
    (tmp_path / "slowly.py").write_text(SLOWLY, encoding="utf-8")
    words = [sys.executable, "slowly.py", "experiment", "toy", "--no-picture"]
    how = {"cwd": tmp_path, "env": environment(), "text": True, "stdout": subprocess.PIPE}
    process = subprocess.Popen(words, preexec_fn=heed_ctrl_c, stderr=subprocess.PIPE, **how)
    kept = tmp_path / "experiment-toy.json"
    limit = time.monotonic() + 60
    while not kept.exists() or len(json.loads(kept.read_text())["results"]) < 2:
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(getattr(signal, stop))
    out, _ = process.communicate(timeout=60)
    before = json.loads(kept.read_text())["results"]
    assert 2 <= len(before) < 10
    if stop == "SIGINT":
        assert process.returncode == 130
        assert f"stopped   experiment-toy.json holds {len(before)} of 10 results" in out
        assert out.rstrip().endswith("experiment toy --no-picture")
    done = subprocess.run(words, check=True, stderr=subprocess.DEVNULL, **how)
    assert f"running   {10 - len(before)} of 2 variants x 5 seeds" in done.stdout
    after = json.loads(kept.read_text())["results"]
    assert after[: len(before)] == before
    assert len(after) == 10


# --- the parts ------------------------------------------------------------------------------------


def test_every_experiment_says_what_it_expects():
    """Bars for the full and the quick run, which a failed seed does not pass."""
    for name in experiments.NAMES:
        found = experiments.find(name)
        assert found.name == name
        assert found.variants
        for quick, bars in ((False, found.bars), (True, found.quick_bars)):
            assert bars
            failed = dict.fromkeys(found.variants, [np.nan] * len(found.seeds(quick)))
            assert not any(bar.holds(failed) for bar in bars)
            assert all(looked_at(bar, found.variants) for bar in bars)
    folder = Path(experiments.__file__).parent
    modules = {p.stem for p in folder.glob("*.py") if "EXPERIMENT = " in p.read_text("utf-8")}
    assert modules == set(experiments.NAMES)


class Watched(dict):
    """Measures that remember which variants were read."""

    def __init__(self, *values):
        super().__init__(*values)
        self.read = set()

    def __getitem__(self, variant):
        self.read.add(variant)
        return super().__getitem__(variant)


def looked_at(bar, variants):
    """The variants that a bar reads, whatever it says of them."""
    measures = Watched(dict.fromkeys(variants, [0.5] * 5))
    bar.predicate(measures)
    return measures.read


BARS = [
    pytest.param(bar, found.variants, id=f"{name}: {bar.text}")
    for name in experiments.NAMES
    for found in [experiments.find(name)]
    for bar in dict.fromkeys((*found.bars, *found.quick_bars))
]


@pytest.mark.parametrize("bar, variants", BARS)
def test_one_failed_seed_of_a_variant_it_looks_at_fails_a_bar(bar, variants):
    """Beside a seed that is not finite no value of the others passes the bar."""
    for variant in looked_at(bar, variants):
        for place, bad in itertools.product(range(5), (np.nan, np.inf, -np.inf)):
            for good in itertools.product((0.0, 1.0), repeat=len(variants)):
                measures = {v: [value] * 5 for v, value in zip(variants, good)}
                measures[variant][place] = bad
                assert not bar.holds(measures), (variant, measures)


def test_a_failed_seed_cannot_hide_in_a_minimum():
    recall = experiments.find("recall").bars[0]
    measures = {"rnn": [0.0] * 5, "gru": [1.0] * 5, "lstm": [1.0] * 5}
    assert recall.holds(measures)
    assert recall.holds({**measures, "rnn": [np.nan] * 5})  # it does not look there
    assert not recall.holds({**measures, "lstm": [1.0, *[np.nan] * 4]})


def test_results_hang_on_every_module_that_makes_them(tmp_path, monkeypatch):
    """A change in a module of the package changes the fingerprints of those that import it."""
    folder = tmp_path / "experiments"
    shutil.copytree(Path(experiments.__file__).parent, folder)
    found = {name: experiments.find(name) for name in experiments.NAMES}
    for name, one in found.items():
        module = sys.modules[one.run.__module__]
        monkeypatch.setattr(module, "__file__", str(folder / f"{name}.py"))
    monkeypatch.setattr(experiments, "__file__", str(folder / "__init__.py"))

    def prints():
        return {name: fingerprint(one, False)["source"] for name, one in found.items()}

    before = prints()
    assert len(set(before.values())) == len(before)
    for changed, others in {
        "experiment": set(before),
        "recall": {"recall", "copying"},
        "adding": {"adding", "gru_lstm"},
        "pairs": {"dates", "reversal", "translation"},
        "cliff": {"cliff"},
    }.items():
        with open(folder / f"{changed}.py", "a", encoding="utf-8") as file:
            file.write("# changed\n")
        after = prints()
        assert {name for name in after if after[name] != before[name]} == others
        before = after


def test_the_data_of_the_tasks():
    key, B = mg.random.key(5), 64
    xs, sums = tasks.adding(key, 11, B)
    assert xs.shape == (11, B, 2)
    assert (xs[:5, :, 1].sum(axis=0) == 1).all()
    assert (xs[5:, :, 1].sum(axis=0) == 1).all()
    np.testing.assert_allclose(
        sums[:, 0], [x[x[:, 1] == 1, 0].sum() for x in xs.transpose(1, 0, 2)]
    )
    _, many = tasks.adding(key, 4, 100_000)
    assert np.mean((many - 1) ** 2) == pytest.approx(1 / 6, rel=0.02)
    xs, labels = tasks.recall(key, 7, B)
    assert xs.shape == (8, B, 8)
    assert (xs[0].argmax(-1) == labels[0]).all()
    assert (xs[1:].argmax(-1) >= 4).all()
    xs, labels = tasks.copying(key, 7, B, 3)
    shown = xs.argmax(-1)
    assert (shown[:3] == labels).all()
    assert (shown[3:7] == 4).all()
    assert (shown[7:] == [[5], [6], [7]]).all()
    xs, labels = tasks.temporal_order(key, 20, B)
    shown = xs.argmax(-1)
    for row, label in zip(shown.T, labels[0]):
        first, second = np.flatnonzero(row < 2)
        assert 2 <= first < 4
        assert 10 <= second < 12
        assert 2 * row[first] + row[second] == label
    assert len(set(labels[0])) == 4


def test_gates_open_for_a_lag_and_cells_of_equal_size():
    mg.random.seed(0)
    lstm, gru = (make(kind, 8, 16, 4, 30).cell for kind in ("lstm", "gru"))
    sizes = [sum(p.size for p in cell.parameters()) for cell in (lstm, gru)]
    assert sizes[0] == 4 * 16 * (8 + 16 + 1)
    assert abs(sizes[1] - sizes[0]) < 0.05 * sizes[0]
    i, f = lstm.b.numpy().reshape(4, 16)[:2]
    np.testing.assert_allclose(i, -f)
    memory = 1 + np.exp([f, gru.b.numpy().reshape(3, -1)[1][:16]])  # u of a gate 1 - 1/u
    assert memory.min() >= 2 - 1e-3
    assert memory.max() <= 30 + 1e-3
    assert memory.std() > 3
    assert open_gates("any other", 30) == "any other"


def test_the_interval_of_a_difference():
    """By hand: differences 1, 2, 3, 4, 5 have mean 3 and standard error sqrt(2.5 / 5)."""
    low, high = interval([1, 2, 3, 4, 5], [0, 0, 0, 0, 0])
    assert (low + high) / 2 == pytest.approx(3)
    assert (high - low) / 2 == pytest.approx(2.776 * 0.5**0.5)

"""Every code block of the README runs, and prints what the README says it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [
    (code, BLOCKS[i + 1][1])
    for i, (kind, code) in enumerate(BLOCKS)
    if kind == "python" and BLOCKS[i + 1][0] == "output"
]
SHELL = [line for kind, code in BLOCKS if kind == "bash" for line in code.splitlines()]


def run(code: str, **environment: str) -> str:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MINIGRAD_")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**variables, "PYTHONPATH": path, **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FACTORY = next(code for _, code in BLOCKS if code.startswith("def backend(device"))


def test_every_python_block_says_what_it_prints() -> None:
    python = [code for kind, code in BLOCKS if kind == "python" and code != FACTORY]
    assert [code for code, _ in PYTHON] == python


def test_the_backend_with_its_factory_keeps_the_contract(tmp_path: Path) -> None:
    """By its name, as an installed package registers it."""
    example = next(code for code, _ in PYTHON if "class Loud" in code).partition("\nwith ")[0]
    (tmp_path / "my_package.py").write_text(f"{example}\n{FACTORY}")
    info = tmp_path / "loud-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1\n")
    entry = next(code for _, code in BLOCKS if 'loud = "' in code)
    name, value = re.findall(r'^(\w+) = "(.*)"$', entry, re.MULTILINE)[0]
    (info / "entry_points.txt").write_text(f"[minigrad.backends]\n{name} = {value}\n")
    path = os.pathsep.join(map(str, (ROOT, ROOT / "backends", tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract", "loud"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path},
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout


@pytest.mark.parametrize(("code", "output"), PYTHON)
def test_python_blocks_print_what_they_say(code: str, output: str) -> None:
    assert run(code) == output


def test_first_block_is_twelve_lines_and_runs_on_numba() -> None:
    pytest.importorskip("numba")
    code, output = PYTHON[0]
    assert len(code.splitlines()) == 12
    assert run(code, MINIGRAD_BACKEND="numba") == output.replace("'numpy'", "'numba'")


def test_shell_blocks_are_the_promised_commands() -> None:
    """The commands themselves run in tests/show/readme.sh; here: that nothing else is promised."""
    assert SHELL[0].endswith("&& .venv/bin/minigrad-rnn train")
    assert SHELL[1].endswith("&& .venv/bin/python -m pytest")
    assert SHELL[2:] == ["MINIGRAD_BACKEND=numba python first.py", "minigrad-rnn tutorial 1"]
    powershell = next(code for kind, code in BLOCKS if kind == "powershell").splitlines()
    for ours, theirs in zip(SHELL[:2], powershell, strict=True):
        translated = (
            ours.replace("python3 -m venv", "py -m venv")
            .replace(" &&", ";")
            .replace(".venv/bin/", ".venv\\Scripts\\")
        )
        assert translated == theirs


# --- coming from elsewhere -----------------------------------------------------------------------

ROWS = re.findall(
    r"^\| (`.+?) \| (.+?) \|$", README.split("## Coming from elsewhere")[1], re.MULTILINE
)
D, H, T, B = 3, 4, 5, 2


def namespace() -> dict[str, object]:
    rng = np.random.default_rng(0)
    model = mg.nn.Linear(D, H)
    x = mg.Tensor(rng.normal(size=(B, D)), requires_grad=True)
    return {
        "mg": mg,
        "np": np,
        **{name: getattr(minigrad_rnn, name) for name in minigrad_rnn.__all__},
        "D": D,
        "H": H,
        "xs": mg.Tensor(rng.normal(size=(T, B, D)), dtype="float32"),
        "x": x,
        "y": (x * x).sum(),
        "a": mg.ones((B, D)),
        "b": mg.ones((B, H)),
        "i": np.array([0, 0, 1]),
        "v": mg.ones((3, D), dtype="float64"),
        "cell": minigrad_rnn.LSTMCell(D, H),
        "lengths": [T, 1],
        "mask": np.ones((T, B), dtype=bool),
        "model": model,
        "optimizer": mg.optim.SGD(model.parameters(), lr=0.1),
    }


def snippets() -> list[str]:
    """The pieces of code of the right-hand column that stand for themselves."""
    found = []
    for _, right in ROWS:
        found += [code for code in re.findall(r"`([^`]+)`", right) if "..." not in code]
    skipped = ("ys", "MINIGRAD_BACKEND=numba", "op(...)")
    return [code for code in found if code not in skipped]


@pytest.mark.parametrize("code", snippets())
def test_what_replaces_other_libraries_runs(code: str) -> None:
    names = namespace()
    if code.startswith("with "):
        code += " pass"
    if code in ("optimizer.zero_grad()", "mg.optim.clip_by_global_norm(model.parameters(), 5)"):
        names["model"](mg.ones((B, D))).sum().backward()
    exec(compile(code, "README.md", "exec"), names)


def test_the_tables_are_found() -> None:
    assert len(ROWS) == 20


def test_replacements_mean_the_same_in_torch() -> None:
    """The rows whose two sides are expressions give the same shapes and values."""
    torch = pytest.importorskip("torch")
    a, b = torch.ones(B, D), torch.ones(B, H)
    ours = mg.concatenate([mg.ones((B, D)), mg.ones((B, H))], axis=1)
    assert ours.shape == tuple(torch.cat([a, b], dim=1).shape)
    assert mg.nn.Linear(3, 4).W.shape == tuple(torch.nn.Linear(3, 4).weight.T.shape)
    names = namespace()
    layers = next(code for code in snippets() if code.startswith("Layers"))
    ys, _ = eval_in(names, layers)(names["xs"])
    theirs = torch.nn.LSTM(D, H, num_layers=2, bidirectional=True)(torch.ones(T, B, D))[0]
    assert ys.shape == tuple(theirs.shape)
    x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((x**3).sum(), [x], create_graph=True)
    ours_x = mg.Tensor([1.0, -2.0], dtype="float64", requires_grad=True)
    (ours_g,) = mg.pullback((ours_x**3).sum(), [ours_x])
    second, (ours_second,) = (
        torch.autograd.grad(g.sum(), [x])[0],
        mg.pullback(ours_g.sum(), [ours_x]),
    )
    assert np.allclose(ours_second.numpy(), second.numpy(), rtol=1e-12)


def eval_in(names: dict[str, object], code: str) -> object:
    exec(f"result = {code}", names)
    return names["result"]

"""One wrong edit per row of the lectures: the tests that prove a row must notice it.

An edit is applied to a copy of the source in a temporary folder, and the tests marked with its row
run there, on NumPy. They must turn red. `python tests/show/sabotage.py` runs them all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("minigrad", "minigrad_rnn", "backends", "tests", "tutorials", "pyproject.toml")


@dataclass(frozen=True)
class Edit:
    """Replace `old`, which must occur once in the file `path`, by `new`; `row` must turn red."""

    row: str
    path: str
    old: str
    new: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """What became of an edit: caught, by how many failing tests of how many, in what time."""

    edit: Edit
    caught: bool
    summary: str
    seconds: float


CELLS, COMPOSE, UNROLLING = (
    f"minigrad_rnn/{name}.py" for name in ("cells", "compose", "unrolling")
)
GATED, CATALOGUE, TIMESCALES, DEPTH, REGULARIZE = (
    f"minigrad_rnn/{name}.py"
    for name in ("gated", "catalogue", "timescales", "depth", "regularize")
)
SWEEP, ELEMENTWISE = "minigrad/sweep.py", "minigrad/ops/elementwise.py"
PATTERNS, TRAINING, LANDSCAPES, VANISHING = (
    f"minigrad_rnn/{name}.py" for name in ("patterns", "training", "landscapes", "vanishing")
)
LIKELIHOOD, DECODE = "minigrad_rnn/likelihood.py", "minigrad_rnn/decode.py"
RECURSIVE = "minigrad_rnn/recursive.py"
GENERATED = "minigrad_rnn/experiments/generated.py"
FUNCTIONAL, PRODUCTS = "minigrad/functional.py", "minigrad/ops/linalg.py"

EDITS = (
    Edit(
        "A1",
        UNROLLING,
        "ys[t], state = y, new",
        "ys[t], _ = y, new",
        "every step starts from the first state",
    ),
    Edit("A2", UNROLLING, "x = inputs[t]", "x = inputs[t - 1]", "every step sees the input before"),
    Edit(
        "A4",
        "minigrad/op.py",
        "node = Node(op, plan, tuple(parents), tuple(slots),",
        "node = Node(op, plan, tuple(parents[:1] * len(parents)), tuple(slots),",
        "a node takes its first operand for all",
    ),
    Edit(
        "A3",
        "minigrad/graph/flattening.py",
        "{c.parameter: results[t] for",
        "{c.parameter: results[-1 - t // 9] for",
        "from the tenth iteration on, unfold takes a delay edge for one step longer",
    ),
    Edit(
        "A3",
        "minigrad/graph/rolling.py",
        "                    if use not in parameters:\n",
        '                    if use[0] == "carry" or use not in parameters:\n',
        "every use of a state has a delay edge of its own",
    ),
    Edit(
        "A4",
        "minigrad/graph/checks.py",
        "waiting = [len(needed) for needed in needs]",
        "waiting = [len(needed - {i}) for i, needed in enumerate(needs)]",
        "a step may be its own operand",
    ),
    Edit("A5", CELLS, "h @ self.Wh\n", "h @ Parameter(self.Wh)\n", "each step copies the weight"),
    Edit(
        "A6",
        UNROLLING,
        "ys[t], state = y, new",
        "ys[t], state = y, tree.map(lambda s: 0.7 * s, new)",
        "the state fades",
    ),
    Edit(
        "A7",
        SWEEP,
        'order = sorted(seen, key=attrgetter("id"), reverse=True)',
        'order = sorted(seen, key=attrgetter("id"))',
        "backward visits the oldest node first",
    ),
    Edit(
        "A8",
        CELLS,
        "h @ self.Wh\n",
        "h @ self.Wh + 1e-6 * h.sum(axis=0)\n",
        "the rows of a batch leak into one another",
    ),
    Edit("B1", CELLS, "mg.zeros((batch", "mg.ones((batch", "the first state is 1"),
    Edit(
        "B3",
        UNROLLING,
        "_choose(keep[t], new, state)",
        "new",
        "the state goes on through the padding",
    ),
    Edit("B6", CELLS, "else a + self.b", "else a + 2 * self.b", "the bias counts twice"),
    Edit("B7", CELLS, "a = x @ self.Wx + h", "a = h + x @ self.Wx + h", "the state passes W by"),
    Edit("C1", ELEMENTWISE, "g * (1 - y * y))", "g * (1 - y))", "tanh' is 1 - y"),
    Edit(
        "C2",
        FUNCTIONAL,
        "losses = log(sum(exp(shifted), -1)) - picked",
        "losses = log(sum(exp(shifted), -1)) - 1.0001 * picked",
        "the label's logit counts a little more",
    ),
    Edit(
        "C3",
        COMPOSE,
        "mg.broadcast_to(next(learned), s.shape)",
        "mg.broadcast_to(next(learned).detach(), s.shape)",
        "the learned state gets no gradient",
    ),
    Edit(
        "C4",
        "backends/minigrad_numpy/__init__.py",
        "numpy.add.at(out, index, values)",
        "out[index] += values",
        "a repeated index counts once",
    ),
    Edit(
        "C5",
        PRODUCTS,
        "return matmul(_flat_rows(a).T, _flat_rows(g))",
        "return matmul(a[0].T, g[0])",
        "the gradient of the hoisted product takes the first step alone",
    ),
    Edit(
        "D1",
        SWEEP,
        "cotangents[node] += g",
        "cotangents[node] += 0 * g",
        "the third and later steps add nothing to dW",
    ),
    Edit(
        "D2",
        SWEEP,
        "elif node not in cotangents:",
        "elif node not in cotangents or node.op is None:",
        "a leaf keeps its last contribution alone",
    ),
    Edit(
        "D5",
        FUNCTIONAL,
        "return sum(losses) / maximum(valid.sum(), 1).astype(losses.dtype)",
        "return mean(losses)",
        "the mean counts the padding",
    ),
    # --- patterns and training ---
    Edit("B2", PATTERNS, "u if isinstance(c, tuple) else u + c, inner)", "u, inner)", "no x R"),
    Edit(
        "B4",
        PATTERNS,
        "(T * B, *frame)))",
        "(T * B, *frame))[::-1])",
        "frames get one another's features",
    ),
    Edit("B5", PATTERNS, "ys[:-1]])", "ys[1:]])", "the decoder sees the symbol to come"),
    Edit(
        "B8",
        PATTERNS,
        "return self.activation(x @ self.Wx + self.b), ()",
        "return self.activation(x @ self.Wx + self.b + mg.mean(x)), ()",
        "steps and rows leak into one another",
    ),
    Edit(
        "B9",
        PATTERNS,
        "return self.readout(h), (c, inner)",
        "return self.readout(h), (c if isinstance(c, tuple) else c * 1.0, inner)",
        "x R is made anew at every step",
    ),
    Edit(
        "B10",
        "minigrad_rnn/forcing.py",
        "mg.where(use.reshape(-1, 1), y, fed)",
        "mg.where(use.reshape(-1, 1), 0 * y, fed)",
        "what is fed back says nothing",
    ),
    Edit("B11", COMPOSE, "resets=turned, reverse=True", "resets=turned", "both run forwards"),
    Edit("B11", COMPOSE, "(last, reset)", "(reset, reset)", "backwards, resets come a step early"),
    Edit(
        "B12",
        PATTERNS,
        "self.encoder(xs, lengths=lengths)",
        "self.encoder(xs)",
        "the encoder reads on into the padding",
    ),
    Edit(
        "D3",
        TRAINING,
        "self._begin = _detached(begin)",
        "self._begin = begin",
        "the state is not detached",
    ),
    Edit(
        "D4",
        "minigrad_rnn/forcing.py",
        "fed.reshape(1, *fed.shape), ys[:-1]",
        "ys",
        "each step sees its own target",
    ),
    Edit(
        "D6",
        "minigrad/optim.py",
        "norm = sqrt(stack([(g * g).sum() for g in wide]).sum())\n        if error",
        "norm = sqrt(stack([(g * g).sum() for g in wide]).max())\n        if error",
        "the norm is not the joint one",
    ),
    Edit("D7", LANDSCAPES, "mg.tanh(0.5 * state)", "mg.tanh(0.49 * state)", "not the sigmoid"),
    Edit(
        "D8", VANISHING, "mg.square(ratio - 1)", "mg.square(ratio - 0.99)", "another norm is kept"
    ),
    Edit(
        "D10",
        VANISHING,
        "entered.append(_copy(state))",
        "entered.append(tree.map(lambda s: 0.999 * s, state))",
        "the state fades",
    ),
    Edit("D11", LANDSCAPES, "mg.tanh(h @ W)", "mg.tanh(h @ W + 1e-3)", "a bias"),
    Edit(
        "D14", PATTERNS, "return -mg.sum(nats, axis=0)", "return -mg.mean(nats, axis=0)", "a mean"
    ),
    Edit("E2", CELLS, "i, f, g, o = mg", "f, i, g, o = mg", "input and forget gate change places"),
    Edit("E5", COMPOSE, "states.append(new)", "states.append(part)", "a stack forgets its states"),
    Edit(
        "D9",
        REGULARIZE,
        "key = mg.random.Key(words).fold(place)",
        "key = mg.random.next_key().fold(mg.arange(value.shape[0]))",
        "the mask is drawn anew at every step",
    ),
    Edit(
        "D12",
        TIMESCALES,
        "h = alpha * state + (1 - alpha)",
        "h = alpha * state + alpha",
        "a leaky unit takes in what it keeps",
    ),
    Edit(
        "D13",
        TIMESCALES,
        "a = a + state[d - 1] @ W",
        "a = a + state[0] @ W",
        "every delay is one step",
    ),
    Edit(
        "E1",
        GATED,
        "mg.sigmoid(i) * self.squash(g)",
        "mg.sigmoid(i) * mg.tanh(g)",
        "the book's candidate is squashed by tanh",
    ),
    Edit(
        "E3",
        GATED,
        """        c = f * c + i * mg.tanh(g)
        h = mg.sigmoid(o + see(c, p_o)) * mg.tanh(c)
""",
        """        o = o + see(c, p_o)
        c = f * c + i * mg.tanh(g)
        h = mg.sigmoid(o) * mg.tanh(c)
""",
        "the output gate sees the old cell",
    ),
    Edit(
        "E4",
        CELLS,
        "n = mg.tanh(ax_n + (r * h) @ Wh_n)",
        "n = mg.tanh(ax_n + r * (h @ Wh_n))",
        "the reset comes after the product",
    ),
    Edit(
        "E6",
        CATALOGUE,
        "c, n = f * c + i * mg.tanh(z), f * n + i",
        "c, n = f * c + i * mg.tanh(z), n + i",
        "an sLSTM's normaliser forgets nothing",
    ),
    Edit(
        "E7",
        CELLS,
        "h = n + z * (h - n)",
        "h = n + 0.7 * z * (h - n)",
        "the GRU's memory fades",
    ),
    Edit(
        "F2",
        DEPTH,
        "x = self.activation(layer(x))",
        "x = layer(x)",
        "hidden layers inside a step are linear",
    ),
    Edit(
        "F3",
        DEPTH,
        "a + state @ self.W)",
        "a + mg.tanh(state) @ self.W)",
        "the skip connection goes through units",
    ),
    Edit("F4", DEPTH, "x = x + block(x)", "x = block(x)", "a residual network without residuals"),
    # --- seen in the folded graph alone: the values are right ---
    Edit(
        "B8",
        PATTERNS,
        "return o, (inner, self.feed(o))",
        "return o, (inner, self.feed(o + 0 * mg.sum(h)))",
        "h leads to the next step past o",
    ),
    Edit(
        "D13",
        TIMESCALES,
        "a = a + state[d - 1] @ W",
        "a = a + (state[d - 1] + 0 * state[0]) @ W",
        "a connection of length one is left",
    ),
    Edit(
        "F4",
        DEPTH,
        "x = x + block(x)",
        "x = 1 * x + block(x)",
        "a ResNet is an RNN with one operation more",
    ),
    Edit(
        "H4",
        "minigrad_rnn/languages.py",
        "(languages + V).reshape(1, -1)",
        "(0 * languages + V).reshape(1, -1)",
        "every sentence asks for the same language",
    ),
    Edit(
        "H5",
        "minigrad_rnn/memory.py",
        "return memory + mg.swapaxes(",
        "return 0.999 * memory + mg.swapaxes(",
        "a cell that nobody writes to fades",
    ),
    Edit("F1", COMPOSE, "list(cells)", "list(cells)[::-1]", "a stack stands on its head"),
    Edit(
        "H2",
        "minigrad_rnn/attention.py",
        "mg.where(real, F.softmax(mg.where(real, scores, LOWEST)), 0)",
        "F.softmax(scores)",
        "padding is looked at",
    ),
    Edit(
        "H3",
        "minigrad_rnn/attention.py",
        "bottom = m if layer == 1 else bottom",
        "bottom = m",
        "the top layer drives the attention",
    ),
    Edit(
        "G1",
        LIKELIHOOD,
        "prefix = prefix * self.k + 1 + y",
        "prefix = y + 1",
        "the fit counts by the last symbol alone",
    ),
    Edit(
        "G2",
        LIKELIHOOD,
        "whole[missing] = values.T",
        "whole[missing] = values.T[::-1]",
        "the missing values are put back in reverse",
    ),
    Edit(
        "G3",
        LIKELIHOOD,
        "mg.sum(mg.where(real, go, 0), axis=0), end",
        "mg.sum(go, axis=0), end",
        "a score counts the padding",
    ),
    Edit(
        "G4",
        LIKELIHOOD,
        "keys.fold(t + 1)",
        "keys.fold(t // 2 + 1)",
        "two steps draw with one key",
    ),
    Edit(
        "G5",
        LIKELIHOOD,
        "stop = output.log_density(o, mg.full_like(y, self.end))",
        "stop = 0 * output.log_density(o, mg.full_like(y, self.end))",
        "the end symbol is not scored",
    ),
    Edit(
        "G6",
        LIKELIHOOD,
        "output.log_density(o[..., 1:], y) - F.softplus(a)",
        "output.log_density(o[..., 1:], y)",
        "going on costs nothing",
    ),
    Edit(
        "G7",
        LIKELIHOOD,
        "share = remaining.astype(u.dtype) / self.L",
        "share = 0 * remaining.astype(u.dtype) / self.L",
        "the model is not told how much remains",
    ),
    Edit(
        "H3",
        DECODE,
        "((5 + length) / 6) ** alpha",
        "(5 + length) ** alpha / 6",
        "the length penalty is raised before it is divided",
    ),
    Edit(
        "H3",
        DECODE,
        "rows(state, places)",
        "state",
        "beam search does not reorder the state",
    ),
    Edit("F5", RECURSIVE, "right @ self.W", "right @ self.U", "one matrix for both children"),
    Edit(
        "F5",
        RECURSIVE,
        "[below[i][k] for i in group])",
        "[below[group[0]][k] for i in group])",
        "the nodes of a level all have the first one's children",
    ),
    Edit(
        "F6",
        RECURSIVE,
        "mg.sigmoid(f + hs @ U_f)",
        "mg.sigmoid(f + total @ U_f)",
        "one forget gate for all children",
    ),
    Edit(
        "F6",
        RECURSIVE,
        "c = c + mg.sigmoid(f + into_k) * c_k",
        "c = c + mg.sigmoid(f + into_f[0]) * c_k",
        "all children share the first one's forget gate",
    ),
    Edit(
        "I11",
        "minigrad_rnn/series.py",
        "y, state = model(y, state)",
        "y, state = model(0 * y, state)",
        "running free, the network is not told what it said",
    ),
    # --- applications: depth, recognition ---
    Edit(
        "I7",
        "minigrad_rnn/losses.py",
        "may_skip = (extended != blank) & (extended != before)",
        "may_skip = extended != blank",
        "CTC needs no blank between equal symbols",
    ),
    Edit(
        "I9",
        "minigrad_rnn/experiments/recognition.py",
        "sliding_window_view(samples, FRAME)[::HOP]",
        "sliding_window_view(samples, FRAME)[: len(samples) // HOP]",
        "the windows move on by one sample, not by a hop",
    ),
    Edit(
        "I3",
        GENERATED,
        '*["not"] * (i == negated)',
        '*["not"] * (i == 0)',
        "both twins negate the word of praise",
    ),
    Edit(
        "I4",
        "minigrad_rnn/seq2seq.py",
        "mg.expand_dims(inner[0].weights, 1) @ shown",
        "mg.expand_dims(inner[0].coverage, 1) @ shown",
        "what was looked at earlier is copied again",
    ),
    Edit(
        "I5",
        PATTERNS,
        "o, state = self(chosen[-1], state)",
        "o, state = self(chosen[0], state)",
        "every word of a caption is preceded by the start symbol",
    ),
    Edit(
        "I6",
        PATTERNS,
        "return mg.reshape(ys, (T, B, *ys.shape[1:]))",
        "return mg.swapaxes(mg.reshape(ys, (B, T, *ys.shape[1:])), 0, 1)",
        "the frames of a film are those of others",
    ),
    Edit(
        "I10",
        LIKELIHOOD,
        "mg.random.bernoulli(keys.fold(1), (), mg.sigmoid(o[:, 0]))",
        "mg.random.bernoulli(keys.fold(1), (), mg.sigmoid(o[:, 0] - 1))",
        "samples halt less often than the model says",
    ),
    Edit(
        "I1",
        DECODE,
        "longer = np.where(free, NEVER, self.log_p[..., None] + shares.reshape(B, width, V))",
        "longer = np.where(free, NEVER, shares.reshape(B, width, V))",
        "beam search ranks by the last symbol alone",
    ),
    Edit(
        "I2",
        "minigrad_rnn/language.py",
        "hs, state = unroll(self.cells, self.embedding(self.here(ids)), state)",
        "hs, state = unroll(self.cells, self.embedding(self.here(ids)))",
        "every batch starts from the zero state",
    ),
    Edit(
        "I8",
        "minigrad_rnn/losses.py",
        "log_scale = log_scale - mg.log(cosh)",
        "log_scale = log_scale + mg.log(cosh)",
        "a correlated density is divided by what it should be multiplied by",
    ),
)


def apply(edit: Edit, folder: Path) -> None:
    """Make the edit in a tree; raises ValueError where it does not fit or is no valid Python."""
    path = folder / edit.path
    source = path.read_text("utf-8")
    if source.count(edit.old) != 1:
        raise ValueError(
            f"{edit.row}: {edit.path} holds {source.count(edit.old)} times, not once: {edit.old!r}"
        )
    if edit.old == edit.new:
        raise ValueError(f"{edit.row}: the edit of {edit.path} changes nothing")
    changed = source.replace(edit.old, edit.new)
    try:
        compile(changed, edit.path, "exec")
    except SyntaxError as error:
        raise ValueError(f"{edit.row}: the edit of {edit.path} is no Python: {error}") from None
    path.write_text(changed, "utf-8")


def row_files(row: str, folder: Path) -> list[str]:
    """Return the test files that mark a proof of `row`, relative to `folder`."""
    files = sorted((folder / "tests").rglob("test_*.py"))
    mark = re.compile(rf'lecture\(\s*"{row}"')
    return [str(path.relative_to(folder)) for path in files if mark.search(path.read_text("utf-8"))]


def run_rows(rows: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run the proofs of rows in a tree, on NumPy; return pytest's exit code and last line."""
    files = sorted({name for row in rows for name in row_files(row, folder)})
    if not files:
        return 5, "no test marks this row"
    paths = os.pathsep.join([str(folder), str(folder / "backends")])
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=no", "-p"]
    command += ["no:cacheprovider", "--backend", "numpy", *files]
    for row in rows:
        command += ["--lecture", row]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode, lines[-1] if lines else ""


def copy_tree(source: Path, folder: Path) -> None:
    """Copy what the tests need from one tree to another."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=ignore)
        elif (source / name).exists():
            shutil.copy2(source / name, folder / name)


def check(edit: Edit, source: Path = ROOT) -> Verdict:
    """Apply one edit to a copy of the tree and run its row: failing tests are what is wanted."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sabotage-") as name:
        folder = Path(name)
        copy_tree(source, folder)
        apply(edit, folder)
        code, summary = run_rows([edit.row], folder)
    # 1: tests ran and failed. Any other code but 0 says that they did not run.
    if code not in (0, 1):
        raise RuntimeError(f"{edit.row}: the tests did not run (exit code {code}): {summary}")
    return Verdict(edit, code == 1, summary, time.perf_counter() - start)

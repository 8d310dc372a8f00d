"""tutorials/LECTURES.md: every slide is there, in order, and every cell is true."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lecture_table import read_clauses

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "tutorials/LECTURES.md"
NOTHING = "–"
COLUMNS = ["slide", "rows", "in code", "test", "tutorial", "figure"]
_, CLAUSES = read_clauses(ROOT / "tests/lectures.toml")

# The slides' titles, in the lectures' order; a title that occurs again is numbered.
SLIDES = {
    "Sequence Modeling: Recurrent and Recursive Nets (Ian Goodfellow, 27 September 2016)": """
        Sequence Modeling: Recurrent and Recursive Nets
        Classical Dynamical Systems
        Unfolding Computation Graphs
        Recurrent Hidden Units
        Recurrence through only the Output
        Sequence Input, Single Output
        Teacher Forcing
        Fully Connected Graphical Model
        RNN Graphical Model
        Vector to Sequence
        Hidden and Output Recurrence
        Bidirectional RNN
        Sequence to Sequence Architecture
        Deep RNNs
        Recursive Network
        Exploding Gradients from Function Composition
        LSTM
        Gradient Clipping
        Networks with explicit Memory
    """,
    "Sequence Models": """
        Sequence Models
        Feed-Forward Networks
        Memory
        Recurrent Neural Network (RNN)
        Unrolling RNNs
        Applications
        Example: Language Generation
        Example: Translation
        Kinds of RNN
        Training RNNs
        Vanishing/Exploding Gradients
        Long Short-Term Memory (LSTM)
        Long Short-Term Memory (LSTM) (2)
        Long Short-Term Memory (LSTM) (3)
        Long Short-Term Memory (LSTM) (4)
        Long Short-Term Memory (LSTM) (5)
        Gated Recurrent Unit (GRU)
        LSTM/GRU Networks
    """,
    "Sequence Modeling: Recurrent and Recursive Networks (Markus Dumke, 27 January 2016)": """
        Sequence Modeling: Recurrent and Recursive Networks
        Contents
        Why RNN's?
        Applications
        Recurrent Neural Network
        Recurrent Neural Network (2)
        Recurrent Neural Network (3)
        Recurrent Neural Network (4)
        Which activation function?
        Optimization
        Vanishing (and Exploding) Gradient Problem
        How to deal with vanishing gradients?
        LSTM
        LSTM (2)
        LSTM (3)
        LSTM (4)
        LSTM (5)
        LSTM (6)
        LSTM (7)
        Sampling from an RNN
        Language Modeling
        RNN with output recurrence
        Teacher Forcing
        One-output RNN
        Deep RNNs
        Res-Net
        Bidirectional RNN
        Recursive Neural Network
        Encoder-Decoder Architecture
        Attention
        Attention (2)
        Google's Neural Machine Translation System
        Language Embeddings
        Bibliography
    """,
    "Deep Learning: Theory and Practice, Recurrent Neural Networks (4 April 2018)": """
        Recurrent Neural Networks
        Recurrent Operations
        Recurrent Networks
        Recurrent Networks (2)
        Recurrent Networks: Teacher Forcing Networks
        Recurrent Networks: Teacher Forcing Networks (2)
        Recurrent Networks: Multiple Input Single Output
        Recurrent Networks: Single Input Multiple Output
        Recurrent Networks: Bi-directional Networks
        Recurrent Networks: Sequence to Sequence Mapping Networks
        LSTM
        LSTM (2)
        Bidirectional LSTMs
    """,
    "Lecture 10: Recurrent Neural Networks": """
        Lecture 10: Recurrent Neural Networks
        “Vanilla” Neural Network
        Recurrent Neural Networks: Process Sequences
        Recurrent Neural Networks: Process Sequences (2)
        Recurrent Neural Networks: Process Sequences (3)
        Recurrent Neural Networks: Process Sequences (4)
        Recurrent Neural Network
        Recurrent Neural Network (2)
        Recurrent Neural Network (3)
        Recurrent Neural Network (4)
        (Vanilla) Recurrent Neural Network
        RNN: Computational Graph
        RNN: Computational Graph (2)
        RNN: Computational Graph (3)
        RNN: Computational Graph (4)
        RNN: Computational Graph: Many to Many
        RNN: Computational Graph: Many to Many (2)
        RNN: Computational Graph: Many to Many (3)
        RNN: Computational Graph: Many to One
        RNN: Computational Graph: One to Many
        Sequence to Sequence: Many-to-one + one-to-many
        Sequence to Sequence: Many-to-one + one-to-many (2)
        Backpropagation through time
        Truncated Backpropagation through time
        Truncated Backpropagation through time (2)
        Truncated Backpropagation through time (3)
    """,
}

# Nothing is to be built for these.
BARE = {
    "Sequence Modeling: Recurrent and Recursive Nets",
    "Sequence Models",
    "Sequence Modeling: Recurrent and Recursive Networks",
    "Contents",
    "Recurrent Neural Networks",
    "Lecture 10: Recurrent Neural Networks",
    "Bibliography",
}
# What these slides say in words needs no figure; tutorials on backends belong to no slide.
WORDS_ALONE = {
    "Applications",
    "Why RNN's?",
    "Which activation function?",
    "Optimization",
    "How to deal with vanishing gradients?",
    "Language Embeddings",
}
NO_SLIDE = {"04", "18"}


def read_page() -> dict[str, list[list[str]]]:
    """Return the cells of the page's tables by lecture, without their headings."""
    lectures: dict[str, list[list[str]]] = {}
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            lectures[line[3:]] = []
        elif line.startswith("| ") and line != f"| {' | '.join(COLUMNS)} |":
            next(reversed(lectures.values())).append([c.strip() for c in line[1:-1].split("|")])
    return lectures


LECTURES = read_page()
CELLS = [
    pytest.param(dict(zip(COLUMNS, cells, strict=True)), id=f"{number + 1}-{cells[0]}")
    for number, slides in enumerate(LECTURES.values())
    for cells in slides
    if cells[0] not in BARE
]


def links(cell: str) -> list[tuple[str, str]]:
    """Return the (text, address) pairs of a cell, which must hold nothing else."""
    found = re.findall(r"\[([^]]+)\]\(([^)]+)\)", cell)
    assert ", ".join(f"[{text}]({address})" for text, address in found) == cell
    return found


def resolve(name: str) -> object:
    """Return what a dotted public name stands for."""
    parts = name.split(".")
    assert not any(part.startswith("_") for part in parts)
    value: object = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], start=2):
        if not hasattr(value, part):
            importlib.import_module(".".join(parts[:depth]))
        value = getattr(value, part)
    return value


def test_no_slide_is_missing():
    expected = {
        lecture: [t.strip() for t in SLIDES[lecture].strip().splitlines()] for lecture in SLIDES
    }
    assert {lecture: [row[0] for row in rows] for lecture, rows in LECTURES.items()} == expected
    assert list(LECTURES) == list(expected)


def test_every_row_is_on_a_slide():
    rows = {row for cell in CELLS for row in cell.values[0]["rows"].split(", ")}
    assert rows == {clause.row for clause in CLAUSES.values()}


def test_bare_slides_claim_nothing():
    bare = [cells for slides in LECTURES.values() for cells in slides if cells[0] in BARE]
    assert len(bare) == len(BARE)
    assert all(cells[1:] == [NOTHING] * 5 for cells in bare)


@pytest.mark.parametrize("slide", CELLS)
def test_every_cell_is_true(slide):
    for name in slide["in code"].split(", "):
        assert re.fullmatch(r"`[\w.]+`", name)
        resolve(name.strip("`"))
    for name, address in links(slide["test"]):
        assert marked_rows(PAGE.parent / address, name) & set(slide["rows"].split(", "))
    for number, address in links(slide["tutorial"]):
        assert (PAGE.parent / address).is_file()
        assert address.startswith(f"{number}_")
    if slide["slide"] in WORDS_ALONE:
        assert slide["figure"] == NOTHING
        return
    for command in slide["figure"].split(", "):
        figure = re.fullmatch(r"`minigrad-rnn figure (\S+)`", command)
        assert figure and figure[1] in figures()


def test_every_tutorial_belongs_to_a_slide_and_every_row_to_a_tutorial():
    taught = {
        (number, row)
        for cell in CELLS
        for number, _ in links(cell.values[0]["tutorial"])
        for row in cell.values[0]["rows"].split(", ")
    }
    files = {path.name[:2] for path in PAGE.parent.glob("[0-9][0-9]_*.py")}
    assert {number for number, _ in taught} | NO_SLIDE == files
    assert {row for _, row in taught} == {clause.row for clause in CLAUSES.values()}


def marked_rows(path: Path, name: str) -> set[str]:
    """Return the rows that the test `name` of a file is marked with."""
    tree = ast.parse(path.read_text("utf-8"))
    (function,) = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name
    )
    return {
        ast.literal_eval(mark.args[0])
        for mark in function.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("lecture")
    }


@functools.cache
def figures() -> list[str]:
    """Return the names that `minigrad-rnn figure --list` prints first on each line."""
    command = [sys.executable, "-m", "minigrad_rnn.cli", "figure", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]

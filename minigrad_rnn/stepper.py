"""The tutorials: listed, stepped through in the terminal, written as notebooks."""

from __future__ import annotations

import ast
import re
import sys
import tempfile
import textwrap
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from minigrad_rnn.formulas import readable
from minigrad_rnn.text import TextError

RULE = "-" * 72


class Cell(NamedTuple):
    """A piece of a tutorial: prose (Markdown) or code, and the line it begins in."""

    prose: bool
    source: str
    line: int


def folder() -> Path:
    """Where the tutorials are: in the package, or beside it in a checkout."""
    try:
        package = resources.files("minigrad_rnn.tutorials")
        return Path(str(package))
    except ModuleNotFoundError:
        return Path(__file__).parent.parent / "tutorials"


def tutorials() -> dict[int, Path]:
    """The tutorial files by number."""
    found = sorted(folder().glob("[0-9][0-9]_*.py"))
    return {int(path.name[:2]): path for path in found}


def title(path: Path) -> str:
    """The first heading of a tutorial."""
    match = re.search(r"^# # (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1].strip() if match else path.stem[3:].replace("_", " ")


def listing() -> str:
    """The list that `minigrad-rnn tutorial` prints."""
    lines = [
        f"  {number:2}  {path.stem[3:].replace('_', ' '):24} {title(path)}"
        for number, path in tutorials().items()
    ]
    first = "Tutorials (minigrad-rnn tutorial N steps through one):"
    last = "minigrad-rnn tutorial N --check FILE tests your answers to its exercises."
    return "\n".join([first, *lines, last])


def find(number: int) -> Path:
    """The file of a tutorial; raises TextError for a number that there is not."""
    known = tutorials()
    if number not in known:
        raise TextError(f"there is no tutorial {number}; there are {', '.join(map(str, known))}")
    return known[number]


def cells(source: str) -> list[Cell]:
    """The cells of a file in percent format: `# %%` opens code, `# %% [markdown]` prose."""
    found: list[Cell] = []
    prose, lines, start = False, [], 1
    for number, line in enumerate([*source.splitlines(), "# %%"], 1):
        if not line.startswith("# %%"):
            lines.append(line)
            continue
        body = "\n".join(lines).strip("\n")
        if body:
            first = start + next(i for i, text in enumerate(lines) if text.strip())
            text = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if prose else body
            found.append(Cell(prose, text, first))
        prose, lines, start = "[markdown]" in line, [], number + 1
    return found


def parsed(cell: Cell, path: Path) -> ast.Module:
    """The syntax tree of a code cell, with the lines of its file."""
    return ast.parse("\n" * (cell.line - 1) + cell.source, filename=str(path))


def run_cell(cell: Cell, path: Path, names: dict[str, Any]) -> None:
    """Execute a code cell as a notebook does: the value of a last expression is shown."""
    tree = parsed(cell, path)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        call = ast.Call(ast.Name("__show__", ast.Load()), [tree.body[-1].value], [])
        tree.body[-1] = ast.copy_location(ast.Expr(call), tree.body[-1])
    code = compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True)
    exec(code, names)


def display(value: Any) -> None:
    """Show a value in the terminal: a picture is saved to a file, which is named."""
    if hasattr(value, "_repr_svg_"):
        handle, name = tempfile.mkstemp(prefix="minigrad-", suffix=".svg")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(value.svg)
        print(f"[picture: {name}]")
    elif value is not None:
        print(repr(value))


def step_through(path: Path, wait: bool) -> int:
    """Prose, cell, Enter, result; q leaves. Returns 1 if a cell raised.

    The last cell, which answers the exercises, is shown only after another Enter.
    """
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(path), "__show__": display}
    found, exercises = cells(path.read_text(encoding="utf-8")), False
    for cell in found:
        if cell.prose:
            exercises = exercises or "## Exercises" in cell.source
            print(RULE)
            print(_terminal_text(cell.source))
            continue
        hidden = exercises and cell is found[-1]
        if wait and hidden and _leaves("[Enter shows the answers, q leaves] "):
            return 0
        print(textwrap.indent(cell.source, "    "))
        if wait and _leaves("[Enter runs the cell, q leaves] "):
            return 0
        try:
            run_cell(cell, path, names)
        except Exception:
            import traceback

            traceback.print_exc()
            print(f"this cell begins in line {cell.line} of {path}", file=sys.stderr)
            return 1
    return 0


def _leaves(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("q", "quit")
    except EOFError:  # Ctrl-D
        print()
        return True


def _terminal_text(prose: str) -> str:
    """Markdown for this terminal: bold where it is one, formulas where it can show them."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return wrapped(prose, sys.stdout.isatty(), encoding.lower().startswith("utf"))


def wrapped(prose: str, bold: bool = False, formulas: bool = True) -> str:
    """Markdown with its paragraphs and list items filled, its formulas readable, its bold shown.

    Code, tables, headings and display formulas stay as they are; code spans keep their characters.
    """
    return "\n\n".join(_paragraph(p, bold, formulas) for p in prose.split("\n\n"))


def _paragraph(text: str, bold: bool, formulas: bool) -> str:
    if text.startswith(("    ", "|", "#", "$$", "```")):
        return text
    if formulas:
        text = re.sub(r"`[^`]*`|\$([^$]+)\$", lambda m: readable(m[1]) if m[1] else m[0], text)
    filled = [_filled(item) for item in re.split(r"\n(?=(?:\d+\.|-) )", text)]
    mark = "\033[1m{}\033[0m" if bold else "{}"
    return re.sub(
        r"`[^`]*`|\*\*(\S.*?)\*\*",
        lambda m: mark.format(m[1]) if m[1] else m[0],
        "\n".join(filled),
        flags=re.DOTALL,
    )


def _filled(item: str) -> str:
    start = re.match(r"(?:\d+\.|-) ", item)
    words = re.sub(r"\n +", "\n", item)
    return textwrap.fill(words, 92, subsequent_indent=" " * len(start[0]) if start else "")


def write_notebook(path: Path, target: str) -> None:
    """The tutorial as a Jupyter notebook, by jupytext; raises TextError where that is missing."""
    if Path(target).suffix != ".ipynb":
        raise TextError(f"--notebook {target}: a notebook is named *.ipynb")
    if Path(target).exists():  # with the reader's own cells, perhaps
        raise TextError(f"--notebook {target} exists: name another file, or remove it")
    try:
        import jupytext
    except ImportError:
        raise TextError("--notebook needs jupytext: pip install jupytext") from None
    jupytext.write(jupytext.read(str(path)), target)

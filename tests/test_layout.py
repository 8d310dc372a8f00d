"""The shape of the source itself: import arrows, the `._data` rule, names, forbidden calls, size.

Everything here reads the files with `ast` and `tokenize`. `python tests/test_layout.py` prints
the line budget alone.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import sys
import tokenize
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("minigrad_numpy", "minigrad_numba", "minigrad_cupy")
PRODUCT = ("minigrad", "minigrad_rnn", *(f"backends/{name}" for name in BACKENDS))

# Each set may import the sets before it, never its own neighbours and never a later one.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("tree", "errors", "arguments"),  # import nothing of ours
    ("backend",),
    ("tensor",),
    ("spec",),
    ("op",),
    ("ops",),
    ("sweep",),
    ("autodiff", "recompute", "functional", "state"),
    ("nn", "optim", "check", "io", "debug", "introspection"),
    ("graph",),
    ("pictures",),
    ("__init__", "__main__"),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
LAZY = {"graph", "pictures"}  # minigrad/__init__.py loads these at first use

# What each part may import from outside, besides the standard library.
ALLOWED = {
    "minigrad": {"numpy", "safetensors"},
    "minigrad_numpy": {"minigrad", "numpy"},
    "minigrad_numba": {"minigrad", "numpy", "numba", "llvmlite", "scipy"},
    "minigrad_cupy": {"minigrad", "numpy", "cupy", "cupyx"},
    "minigrad_rnn": {"minigrad", "numpy", "tqdm", "safetensors", "matplotlib", "jupytext"},
}

# Lines without docstrings, comments and blanks. A number is raised in a commit of its own.
BUDGET = {
    "minigrad, without graph and pictures": 4450,
    "minigrad/graph": 6550,
    "minigrad/pictures": 2600,
    "minigrad_numpy": 950,
    "minigrad_numba": 3150,
    "minigrad_cupy": 800,
    "minigrad_rnn, but for the next three": 6200,
    "minigrad_rnn/equations": 450,
    "minigrad_rnn/experiments": 1550,
    "minigrad_rnn/figures": 900,
}
FILE_LIMIT = 400


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    """`backends/minigrad_numpy/__init__.py` -> `minigrad_numpy.__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "backends" else parts)


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 1)}"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.Module, module: str) -> Iterator[tuple[ast.AST, str]]:
    """Every import in `tree`, inside functions too, as absolute dotted names.

    `from a import b` gives `a.b`: whether b is a module or a name in a, the caller decides.
    """
    package = module.split(".")[:-1]  # `a.__init__` and `a.b` both resolve `.` to `a`
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node, f"{start}.{alias.name}"
        elif isinstance(node, ast.Call):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else None
            called = function.id if isinstance(function, ast.Name) else called
            if called in ("import_module", "__import__") and node.args:
                target = node.args[0]
                if isinstance(target, ast.Constant) and isinstance(target.value, str):
                    yield node, target.value


def part_of(dotted: str) -> str:
    """`minigrad.ops.reduce` -> `ops`; a name that is no submodule -> `__init__`."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RANK else "__init__"


def wrong_arrows(tree: ast.Module, module: str) -> Iterator[tuple[ast.AST, str]]:
    """Imports of a module of minigrad/ that do not point down."""
    own = part_of(module)
    for node, target in imports(tree, module):
        if target.split(".")[0] != "minigrad":
            continue
        part = part_of(target)
        if own in ("__init__", "__main__") or part == own:
            continue
        if RANK[part] >= RANK[own]:
            yield node, f"{own} may not import {part} ({target})"


def data_touches(tree: ast.Module) -> Iterator[ast.AST]:
    """`x._data` in any context, and the same by name: getattr(x, "_data")."""
    for node in ast.walk(tree):
        by_name = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "setattr", "delattr")
            and len(node.args) > 1
            and isinstance(node.args[1], ast.Constant)
            and node.args[1].value == "_data"
        )
        if by_name or (isinstance(node, ast.Attribute) and node.attr == "_data"):
            yield node


def forbidden(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """What no shipped file may contain: it vanishes under -O, or runs what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node, "assert (vanishes under python -O: raise instead)"
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            if node.arg in ("shell", "allow_pickle") and node.value.value:
                yield node.value, f"{node.arg}=True"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "eval":
                yield node, "eval()"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in (("pickle", "load"), ("pickle", "loads")):
                yield node, f"pickle.{node.attr}"
            elif (node.value.id, node.attr) == ("os", "system"):
                yield node, "os.system"


def docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if first is not None and ast.get_docstring(node, clean=False) is not None:
                lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def count_lines(source: str) -> int:
    """Lines that hold code: not only blank, comment or docstring."""
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(ast.parse(source)))


def budget_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if parts[0] == "backends":
        return parts[1]
    part = f"{parts[0]}/{parts[1]}"
    return part if part in BUDGET else next(b for b in BUDGET if b.startswith(f"{parts[0]}, "))


def line_counts() -> dict[Path, int]:
    return {path: count_lines(path.read_text(encoding="utf-8")) for path in sources(*PRODUCT)}


def budget_table(counts: dict[Path, int]) -> str:
    rows = [f"{'part':<38}{'lines':>7}{'budget':>8}{'files':>7}  largest file"]
    for part, budget in BUDGET.items():
        files = {path: n for path, n in counts.items() if budget_of(path) == part}
        if files:
            largest = max(files, key=lambda path: files[path])
            shown = f"{largest.relative_to(ROOT).as_posix()} {files[largest]}"
            rows.append(f"{part:<38}{sum(files.values()):>7}{budget:>8}{len(files):>7}  {shown}")
    return "\n".join(rows)


def test_imports_of_the_engine_point_down() -> None:
    found = []
    for path in sources("minigrad"):
        module = name_of(path)
        if (part := module.split(".")[1]) not in RANK:
            found.append(f"{module}: give {part} a place in LAYERS")
            continue
        found += [f"{where(path, node)}: {why}" for node, why in wrong_arrows(parse(path), module)]
    assert not found, "\n".join(found)


def test_graph_and_pictures_are_loaded_at_first_use() -> None:
    """No import of either stands at the top level of any module below them."""
    found = []
    for path in sources("minigrad"):
        module = name_of(path)
        if module.split(".")[1] in LAZY:
            continue
        parsed = parse(path)
        inside = {
            id(node)
            for function in ast.walk(parsed)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for node in ast.walk(function)
        }
        for node, target in imports(parsed, module):
            if (
                target.startswith("minigrad.")
                and part_of(target) in LAZY
                and id(node) not in inside
            ):
                found.append(f"{where(path, node)}: imports {target} when it is imported itself")
    assert not found, "\n".join(found)


def test_only_declared_packages_are_imported() -> None:
    """Nothing shipped imports an oracle, or a package that no extra names."""
    found = []
    for path in sources(*PRODUCT):
        module = name_of(path)
        own = module.split(".")[0]
        for node, target in imports(parse(path), module):
            top = target.split(".")[0]
            if top not in {own, *sys.stdlib_module_names} | ALLOWED[own]:
                found.append(f"{where(path, node)}: {own} may not import {target}")
    assert not found, "\n".join(found)


def attributes_of_minigrad(tree: ast.Module) -> Iterator[ast.Attribute]:
    """`mg.name`, under whatever name the file imports minigrad."""
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "minigrad"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield from [node] if node.value.id in names else []


def test_networks_and_plugins_use_public_names_only() -> None:
    """minigrad_rnn and the plug-ins see minigrad as any user does: names of the package itself.

    What is public `__all__` says: without it a type checker holds every name of a typed package
    that was imported from elsewhere for private.
    """
    public = set(getattr(importlib.import_module("minigrad"), "__all__", ()))
    assert public, "minigrad/__init__.py has no __all__"
    found = []
    for path in sources("minigrad_rnn", "backends"):
        module, parsed = name_of(path), parse(path)
        for node, target in imports(parsed, module):
            parts = target.split(".")
            if parts[0] == "minigrad" and len(parts) > 1 and parts[1] not in public:
                found.append(f"{where(path, node)}: {target}")
            if parts[0] == "minigrad" and isinstance(node, ast.Import) and len(parts) > 1:
                found.append(f"{where(path, node)}: import minigrad as mg, not {target}")
        found += [
            f"{where(path, node)}: mg.{node.attr}"
            for node in attributes_of_minigrad(parsed)
            if node.attr not in public
        ]
    assert not found, "not in minigrad.__all__:\n" + "\n".join(found)


def test_only_tensor_and_op_touch_data() -> None:
    """Everything else goes through the three choke points of op.py, or it could not be captured."""
    found = [
        where(path, node)
        for path in sources(*PRODUCT)
        if path not in (ROOT / "minigrad/tensor.py", ROOT / "minigrad/op.py")
        for node in data_touches(parse(path))
    ]
    assert not found, "._data outside tensor.py and op.py:\n" + "\n".join(found)


def submodules(init: Path) -> set[str]:
    folder = init.parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    return files | {path.parent.name for path in folder.glob("*/__init__.py")}


def names_bound(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Names a package's __init__.py binds to something other than a submodule."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node, node.name
        elif isinstance(node, ast.ImportFrom) and not (node.level == 1 and node.module is None):
            yield from ((node, alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from ((node, name.id) for name in node.targets if isinstance(name, ast.Name))


def test_no_export_shadows_a_submodule() -> None:
    """`import package.name` rebinds package.name: an export of that name changes under the user."""
    found = []
    for path in sources(*PRODUCT):
        if path.name != "__init__.py":
            continue
        package = name_of(path).removesuffix(".__init__")
        for node, name in names_bound(parse(path)):
            # `from minigrad import ops` inside minigrad/__init__.py binds the submodule itself.
            itself = isinstance(node, ast.ImportFrom) and node.module == package
            if name in submodules(path) and not itself:
                found.append(f"{where(path, node)}: {package} binds {name}, one of its submodules")
    for package in ("minigrad", "minigrad_rnn"):
        module = importlib.import_module(package)
        for name in submodules(ROOT / package / "__init__.py"):
            value = getattr(module, name, None)
            if value is not None and not isinstance(value, types.ModuleType):
                found.append(f"{package}.{name} is a {type(value).__name__}, and a submodule")
    assert not found, "\n".join(found)


def test_the_engine_has_no_word_for_recurrence() -> None:
    """Backpropagation through time is the generic traversal: the engine need not know of time."""
    word = re.compile(r"rnn|lstm|gru|recurren|time_?step|bptt", re.IGNORECASE)
    found = []
    for path in sources("minigrad", "backends"):
        for token in tokenize.generate_tokens(
            io.StringIO(path.read_text(encoding="utf-8")).readline
        ):
            if token.type == tokenize.NAME and word.search(token.string):
                found.append(f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}")
    assert not found, "\n".join(found)


def test_nothing_forbidden_is_shipped() -> None:
    found = [
        f"{where(path, node)}: {what}"
        for path in sources(*PRODUCT)
        for node, what in forbidden(parse(path))
    ]
    assert not found, "\n".join(found)


def test_top_level_and_backend_folders() -> None:
    """A folder called like the library it wraps would shadow it from a bare checkout."""
    assert not (ROOT / "backends/__init__.py").exists()
    for library in ("numpy", "numba", "cupy"):
        assert not (ROOT / "backends" / library).exists()


def test_line_budget(capsys: pytest.CaptureFixture[str]) -> None:
    counts = line_counts()
    with capsys.disabled():
        print("\n" + budget_table(counts))
    over = [
        f"{path.relative_to(ROOT)}: {n} lines, limit {FILE_LIMIT}"
        for path, n in counts.items()
        if n > FILE_LIMIT
    ]
    for part, budget in BUDGET.items():
        total = sum(n for path, n in counts.items() if budget_of(path) == part)
        if total > budget:
            over.append(f"{part}: {total} lines, budget {budget}")
    assert not over, "\n".join(over)


# The checks themselves, on the smallest source that each must catch.


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("minigrad.tensor", "def f():\n    from . import ops"),
        ("minigrad.tensor", "import minigrad"),
        ("minigrad.op", "from minigrad.autodiff import grad"),
        ("minigrad.ops.reduce", "from ..nn import Module"),
        ("minigrad.functional", "from .autodiff import grad"),
        (
            "minigrad.autodiff",
            "from importlib import import_module as i\nimport_module('minigrad.io')",
        ),
        ("minigrad.graph.fold", "from minigrad.pictures import svg"),
        ("minigrad.tree", "from minigrad import Tensor"),
    ],
)
def test_an_upward_import_is_seen(module: str, source: str) -> None:
    assert list(wrong_arrows(ast.parse(source), module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("minigrad.op", "from .tensor import Tensor\nfrom . import tree"),
        ("minigrad.ops.__init__", "from . import reduce\nfrom ..op import op"),
        ("minigrad.ops.reduce", "from .elementwise import exp"),
        ("minigrad.io", "import numpy, io, os"),
        ("minigrad.__init__", "from . import nn"),
    ],
)
def test_a_downward_import_is_allowed(module: str, source: str) -> None:
    assert not list(wrong_arrows(ast.parse(source), module))


def test_every_spelling_of_data_is_seen() -> None:
    source = "a = x._data\ny._data = 1\ngetattr(z, '_data')\n_data = w._database"
    assert [getattr(node, "lineno", 0) for node in data_touches(ast.parse(source))] == [1, 2, 3]


@pytest.mark.parametrize(
    "source",
    [
        "assert x",
        "run(c, shell=True)",
        "np.load(p, allow_pickle=True)",
        "eval('1')",
        "pickle.loads(b)",
        "os.system('ls')",
    ],
)
def test_a_forbidden_construct_is_seen(source: str) -> None:
    assert len(list(forbidden(ast.parse(source)))) == 1
    assert not list(forbidden(ast.parse("model.eval()\nrun(c, shell=False)")))


def test_counted_lines_are_code() -> None:
    source = '"""Doc\nstring."""\n\n# comment\nx = (\n    1,\n\n)  # three\ny = """a\nb"""\n'
    assert count_lines(source) == 5
    assert count_lines("def f():\n    'doc'\n    return 1\n") == 2


if __name__ == "__main__":
    print(budget_table(line_counts()))

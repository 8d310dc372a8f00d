"""The package itself: what `import minigrad` loads, what it costs, and what it exports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import minigrad as mg

ROOT = Path(__file__).resolve().parent.parent


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "PYTHONPATH": path}  # as a user's: compiled modules are kept
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_minigrad_loads_numpy_alone() -> None:
    late = ("minigrad.pictures", "minigrad.graph", "numba", "scipy", "cupy", "safetensors", "tqdm",
            "matplotlib", "torch", "minigrad_numba", "minigrad_cupy")  # fmt: skip
    loaded = fresh(f"import sys, minigrad; print([m for m in {late} if m in sys.modules])")
    assert loaded == "[]"


def test_import_costs_at_most_a_tenth_of_a_second_beyond_numpy() -> None:
    code = (
        "import time, numpy; start = time.process_time(); import minigrad; "
        "print(time.process_time() - start)"
    )
    assert min(float(fresh(code)) for _ in range(5)) < 0.1  # processor time: others run here too


def test_draw_is_the_one_of_pictures() -> None:
    from minigrad.pictures import draw

    assert mg.draw is draw
    assert mg.draw is draw  # the second look-up too


def test_exports_exist_once_and_in_order() -> None:
    assert mg.__all__ == sorted(set(mg.__all__))
    assert [name for name in mg.__all__ if not hasattr(mg, name)] == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("softmax", "functional.softmax"),
        ("cat", "concatenate"),
        ("abs", "absolute"),
        ("conctenate", "concatenate"),
    ],
)
def test_a_name_of_another_library_leads_to_ours(name, nearest):
    with pytest.raises(AttributeError, match=f"did you mean minigrad.{nearest}"):
        getattr(mg, name)


def test_dir_shows_what_is_public():
    assert set(dir(mg)) == set(mg.__all__) and "draw" in dir(mg)
    assert not hasattr(mg, "_nothing") and not hasattr(mg, "xyzzy_plugh")

"""What only a GPU can show of the CuPy backend; the rest of the suite runs there too."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from tests.test_cupy import KEYS, classifier

ROOT = Path(__file__).parents[2]
SPEC = "cupy"


def unusable() -> str:
    """Why no GPU can be used here, or "" where one can."""
    try:
        mg.resolve(SPEC)
    except mg.BackendUnavailableError as error:
        return str(error.__cause__)
    return ""


WHY_NOT = unusable()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"needs a GPU: {WHY_NOT}")


def on_gpu(value: Any) -> Any:
    return mg.resolve(SPEC).asarray(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("shape, index", KEYS)
def test_scatter_add_has_the_bits_of_numpys(
    shape: tuple[int, ...], index: tuple[Any, ...], dtype: str
) -> None:
    random = np.random.default_rng(7)
    out = (random.normal(size=shape) * 8).astype(dtype)
    values = np.asarray(random.normal(size=out[index].shape) * 8).astype(dtype)
    expected = out.copy()
    np.add.at(expected, index, values)
    backend = mg.resolve(SPEC)
    got = backend.scatter_add(on_gpu(out), tuple(map(on_gpu, index)), on_gpu(values))
    np.testing.assert_array_equal(backend.to_numpy(got), expected)


def test_a_large_scatter_add_has_the_bits_of_numpys_every_time() -> None:
    random = np.random.default_rng(1)
    rows = random.zipf(1.3, 50_000) % 1000  # few rows take most of the values
    values = random.normal(size=(50_000, 64)).astype("float32")
    expected = np.zeros((1000, 64), "float32")
    np.add.at(expected, rows, values)
    backend = mg.resolve(SPEC)
    for _ in range(3):
        zeros = backend.xp.zeros((1000, 64), dtype="float32")
        got = backend.scatter_add(zeros, (on_gpu(rows),), on_gpu(values))
        np.testing.assert_array_equal(backend.to_numpy(got), expected)


def test_random_words_uniforms_and_masks_are_bit_equal_to_numpys() -> None:
    drawn = []
    for backend in ("numpy", SPEC):
        with mg.use_backend(backend):
            keys = mg.random.key(2**63 + 11).fold(mg.arange(3))
            draws = (
                mg.random.bits(keys, (5, 7)),
                mg.random.uniform(keys, 1001),
                mg.random.uniform(keys, 1001, "float64"),
                mg.random.bernoulli(keys, 1001, 0.3),
            )
            drawn.append([t.numpy() for t in draws])
    for ours, theirs in zip(*drawn):
        np.testing.assert_array_equal(ours, theirs)


def digest(steps: int = 3) -> str:
    """A hash of all parameters after some steps of training."""
    step, parameters = classifier(SPEC)
    for _ in range(steps):
        step()
    return hashlib.sha256(b"".join(p.numpy().tobytes() for p in parameters)).hexdigest()


def python(program: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, check=True, cwd=ROOT
    ).stdout.strip()


def test_two_processes_train_to_the_same_bits() -> None:
    program = "import runpy; print(runpy.run_path('tests/gpu/test_gpu.py')['digest']())"
    assert python(program) == python(program) == digest()


def test_training_never_waits_for_the_gpu_where_indices_are_not_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cupyx = pytest.importorskip("cupyx")
    step, _ = classifier(SPEC)
    step()  # compiles
    monkeypatch.setenv("MINIGRAD_CHECK_INDEX", "0")
    with cupyx.allow_synchronize(False):
        loss = step()
    assert np.isfinite(loss.item())


def test_training_agrees_with_numpys() -> None:
    losses = []
    for backend in ("numpy", SPEC):
        step, _ = classifier(backend)
        losses.append([step().item() for _ in range(10)])
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_the_first_gpu_has_two_names_and_one_backend() -> None:
    assert mg.resolve("cupy:0") is mg.resolve("cupy")
    count = len(mg.resolve("cupy").devices)
    with pytest.raises(mg.BackendUnavailableError, match=r"one GPU|there is no GPU"):
        mg.resolve(f"cupy:{count}")


def test_a_forked_child_is_told_so() -> None:
    program = """
import os
import minigrad as mg
x = mg.Tensor([1.0, 2.0], backend="cupy")
print((x + 1).tolist(), flush=True)
child = os.fork()
if child == 0:
    for use in (lambda: x + 1, lambda: x.tolist()):
        try:
            use()
        except RuntimeError as error:
            print("refused" if "forked" in str(error) else error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print((x * 2).tolist())
"""
    assert python(program).split("\n") == ["[2.0, 3.0]", "refused", "refused", "[2.0, 4.0]"]


def test_out_of_memory_says_how_full_the_gpu_is_and_training_goes_on() -> None:
    import cupy

    _, total = cupy.cuda.runtime.memGetInfo()
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError) as caught:
        mg.zeros(total, backend=SPEC)  # four bytes each
    assert any("Use smaller batches" in note for note in caught.value.__notes__)
    assert mg.ones(3, backend=SPEC).sum().item() == 3

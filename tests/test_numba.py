"""The Numba backend: values and error bounds, layouts, threads, fork, the files on disk."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.op import REGISTRY
from tests.oracles.philox import philox4x32

if importlib.util.find_spec("numba") is None:
    pytest.skip("numba is not installed", allow_module_level=True)

from minigrad_numba import disk, kernels

ROOT = Path(__file__).resolve().parent.parent
FLOATS = (np.float32, np.float64)
F32 = np.dtype("float32")
F64 = np.dtype("float64")

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid|divide):RuntimeWarning")


def wide(dtype: Any) -> np.ndarray:
    """Floats of every exponent and sign: subnormals, zeros, infinities and NaNs among them."""
    if dtype == np.float32:
        x = np.arange(0, 2**32, 4_093, dtype=np.uint64).astype(np.uint32).view(np.float32)
    else:
        x = np.arange(0, 2**64, 2**64 // 400_009, dtype=np.uint64)[:400_000].view(np.float64)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 88.72, 88.73, -103.97, -104.1, 709.78]
    return np.concatenate([x, np.array(special, dtype), np.linspace(-110, 95, 100_001, dtype=dtype),
                           np.linspace(-750, 712, 100_001, dtype=dtype)])  # fmt: skip


def exactly(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """A function in a wider floating type than x has, where the machine has one."""
    return function(x.astype(np.float64 if x.dtype == np.float32 else np.longdouble))


def ulps(y: np.ndarray, exact: np.ndarray) -> float:
    """The greatest error in units in the last place; NaN must stand where NaN belongs."""
    assert np.array_equal(np.isnan(y), np.isnan(exact))
    rounded = exact.astype(y.dtype)
    # Next to the greatest number, infinity may stand for what rounds to it and the reverse.
    edge = np.isinf(rounded) != np.isinf(y)
    assert np.all(np.abs(exact[edge] / np.finfo(y.dtype).max - 1) < 1e-6)
    fine = np.isfinite(rounded) & np.isfinite(y)
    error = np.abs(y[fine].astype(exact.dtype) - exact[fine])
    return float((error / np.spacing(np.abs(rounded[fine])).astype(exact.dtype)).max(initial=0))


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_polynomial_exp_is_within_two_ulp_over_the_whole_range(dtype: Any) -> None:
    x = wide(dtype)
    y = np.empty_like(x)
    kernels._exp(x, y)
    assert ulps(y, exactly(np.exp, x)) <= 1.1
    assert y[x == -np.inf].max() == 0 and np.all(y[x == np.inf] == np.inf)
    if dtype is np.float32:
        assert np.array_equal(kernels.exp(x), y, equal_nan=True)


@pytest.mark.parametrize("dtype", FLOATS)
def test_sigmoid_is_within_three_ulp(dtype: Any) -> None:
    x = wide(dtype)
    y = kernels.sigmoid(x)
    exact = exactly(lambda x: 1 / (1 + np.exp(-x)), x)
    normal = ~(exact < np.finfo(dtype).tiny)
    assert ulps(y[normal], exact[normal]) <= 3
    assert np.all(y[~normal] <= np.finfo(dtype).tiny) and np.all(y[~normal] >= 0)


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_exp_and_sigmoid_of_any_float(dtype: Any, data: Any) -> None:
    bits = F32.itemsize * 8 if dtype is np.float32 else 64
    x = np.array(data.draw(st.lists(st.floats(width=bits), min_size=1, max_size=40)), dtype)
    y = np.empty_like(x)
    kernels._exp(x, y)
    assert ulps(y, exactly(np.exp, x)) <= 1.1
    s = kernels.sigmoid(x)
    assert np.array_equal(np.isnan(s), np.isnan(x))
    np.testing.assert_allclose(
        s, exactly(lambda x: 1 / (1 + np.exp(-x)), x), rtol=4 * np.finfo(dtype).eps,
        atol=float(np.finfo(dtype).tiny))  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_value_does_not_depend_on_where_it_stands(dtype: Any) -> None:
    """The vector loop and the loop over what remains of it round alike."""
    x = np.random.default_rng(0).standard_normal(2_200).astype(dtype) * 20
    for kernel in (kernels.exp, kernels.sigmoid):
        whole = kernel(x)
        for start in range(1, 40):
            assert np.array_equal(kernel(x[start:]), whole[start:])
            assert np.array_equal(kernel(x[:-start]), whole[:-start])


def rows_of(dtype: Any) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(1)
    for rows, row in ((700, 3), (50, 96), (63, 33), (2, 1_024), (3, 1_025), (2_100, 1), (1, 7)):
        yield (draw.standard_normal((rows, row)) * 30).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_of_rows(dtype: Any, keepdims: bool) -> None:
    eps = float(np.finfo(dtype).eps)
    for x in rows_of(dtype):
        shape = (len(x), 1) if keepdims else (len(x),)
        sums = [math.fsum(row.tolist()) for row in x]
        sizes = np.abs(x).astype(np.float64).sum(axis=1)
        greatest = [max(row.tolist()) for row in x]
        logs = [
            m + math.log(math.fsum(math.exp(v - m) for v in row.tolist()))
            for m, row in zip(greatest, x, strict=True)
        ]
        for name in ("sum", "max", "logsumexp"):
            y = kernels.KERNELS[name](x, axis=(1,), keepdims=keepdims)
            assert y.shape == shape and y.dtype == dtype
            y = y.reshape(-1)
            if name == "sum":
                assert np.all(np.abs(y - sums) <= 0.5 * x.shape[1] * eps * sizes)
            elif name == "max":
                assert y.tolist() == greatest
            else:
                np.testing.assert_allclose(y, logs, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("dtype", FLOATS)
def test_reductions_of_nan_infinity_and_zeros(dtype: Any) -> None:
    inf, nan = np.inf, np.nan
    x = np.random.default_rng(2).standard_normal((300, 20)).astype(dtype)
    wanted = {
        0: ([-inf] * 20, -inf, -inf, -inf),
        1: ([inf, *[0.5] * 19], inf, inf, inf),
        2: ([nan, *[0.5] * 19], nan, nan, nan),
        3: ([0.5] * 19 + [-nan], nan, nan, nan),
        4: ([inf, nan, *[0.0] * 18], nan, nan, nan),
        5: ([inf, -inf, *[0.0] * 18], nan, inf, inf),
        6: ([-inf, *[0.0] * 19], -inf, 0, math.log(19)),
        7: ([-0.0] * 20, 0, 0, math.log(20)),
        8: ([float(np.finfo(dtype).max)] * 20, inf, np.finfo(dtype).max, np.finfo(dtype).max),
    }
    for row, (values, *_) in wanted.items():
        x[row] = values
    for position, name in enumerate(("sum", "max", "logsumexp"), start=1):
        y = kernels.KERNELS[name](x, axis=(1,), keepdims=False)
        expected = np.array([case[position] for case in wanted.values()])
        np.testing.assert_allclose(y[: len(wanted)], expected, rtol=4 * np.finfo(dtype).eps)
        assert np.isfinite(y[len(wanted) :]).all()


# --- layouts -------------------------------------------------------------------------------------


def layouts(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """x in every way that memory can hold it, and views of x of other shapes."""
    yield "C", x.copy()
    yield "Fortran", np.asfortranarray(x)
    yield "negative strides", x[::-1, ::-1]
    yield "a slice", np.concatenate([x, x], axis=1)[:, 1::2]
    yield "transposed", x.T
    yield "three axes", x.reshape(x.shape[0], 4, -1).transpose(2, 0, 1)
    yield "zero strides", np.broadcast_to(x[:1], x.shape)
    yield "0-d", np.array(x[0, 0])
    yield "no rows", x[:0]
    yield "empty rows", x[:, :0]
    readonly = x.copy()
    readonly.flags.writeable = False
    yield "read-only", readonly
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    yield "unaligned", unaligned


SAMPLE = np.random.default_rng(3).standard_normal((64, 40))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["exp", "sigmoid", "sum", "max", "logsumexp"])
def test_every_layout(name: str, dtype: Any) -> None:
    op = REGISTRY[name]
    for layout, x in layouts(SAMPLE.astype(dtype)):
        before = x.tobytes()
        axes = [()] if name in ("exp", "sigmoid") else subsets(x.ndim)
        for axis, keepdims in itertools.product(axes, (False, True)):
            static = {"axis": axis, "keepdims": keepdims} if op.static else {}
            if name == "max" and any(x.shape[a] == 0 for a in axis):
                continue  # has no value
            y = np.asarray(kernels.KERNELS[name](x, **static))
            expected = np.asarray(op.forward(np, x.astype(np.float64), **static))
            assert y.shape == expected.shape and y.dtype == dtype, (layout, axis)
            tolerance = 20 * np.finfo(dtype).eps
            np.testing.assert_allclose(
                y, expected, rtol=tolerance, atol=tolerance * 10, err_msg=f"{layout} {axis}"
            )
            assert not np.shares_memory(x, y)
        assert x.tobytes() == before, layout


def subsets(ndim: int) -> list[tuple[int, ...]]:
    return [c for n in range(ndim + 1) for c in itertools.combinations(range(ndim), n)]


def test_a_read_only_array_compiles_nothing_more() -> None:
    x = SAMPLE.astype(np.float32)
    kernels.sigmoid(x)
    before = list(kernels._sigmoid.signatures)
    x.flags.writeable = False
    kernels.sigmoid(x)
    assert kernels._sigmoid.signatures == before


@pytest.mark.parametrize("name", sorted(kernels.KERNELS))
def test_every_kernel_replaces_an_op_and_stands_in_the_benchmark(name: str) -> None:
    spec = importlib.util.spec_from_file_location("bench", ROOT / "tests/bench/kernels.py")
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    assert name in REGISTRY
    assert sum(row[0] == name for row in bench.ops()) >= (1 if name == "random_next" else 3)


@pytest.mark.parametrize("name", ["exp", "sigmoid", "logsumexp", "sum", "max"])
@pytest.mark.parametrize("dtype", ["bool", "int64", "float32", "float64"])
def test_the_public_function_on_both_backends(name: str, dtype: str) -> None:
    x = (SAMPLE * 3).astype(dtype)
    function = getattr(mg, name)
    arguments = () if name in ("exp", "sigmoid") else (-1,)
    ours, reference = (
        function(mg.Tensor(x, backend=backend), *arguments) for backend in ("numba", "numpy")
    )
    assert ours.dtype == reference.dtype and ours.backend.name == "numba"
    np.testing.assert_allclose(ours.numpy(), reference.numpy(), rtol=3e-6, atol=3e-6)


# --- random numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 511, 512, 513, 1_030])
def test_bits_are_philox(count: int) -> None:
    keys = np.array([[1, 2], [0xFFFFFFFF, 0xDEADBEEF]], np.uint32)
    words = kernels.random_bits(keys, shape=(count,))
    assert words.dtype == np.uint32 and words.shape == (2, count)
    for key, row in zip(keys.tolist(), words.tolist(), strict=True):
        blocks = [philox4x32((b, 0, 0, 0), (key[0], key[1])) for b in range((count + 3) // 4)]
        assert row == [word for block in blocks for word in block][:count]


@pytest.mark.parametrize("n", [0, 1, -1, 2**31, 2**40 + 5, -(2**63)])
def test_folded_keys_are_philox(n: int) -> None:
    key = np.array([7, 0x80000001], np.uint32)
    counter = (n & 0xFFFFFFFF, (n >> 32) & 0xFFFFFFFF, 1, 0)
    expected = list(philox4x32(counter, (7, 0x80000001))[:2])
    assert kernels.random_fold(key, np.array(n)).tolist() == expected
    state = np.array([7 + (0x80000001 << 32) - 2**64, n])  # a seed's 64 bits, read as signed
    expected = list(philox4x32((*counter[:2], 2, 0), (7, 0x80000001))[:2])
    assert kernels.random_next(state).tolist() == expected


def test_random_ops_equal_numpys_to_the_bit() -> None:
    draw = np.random.default_rng(4)
    keys = draw.integers(0, 2**32, (3, 1, 2), dtype=np.uint32)
    numbers = draw.integers(-(2**62), 2**62, (5,))
    words = draw.integers(0, 2**32, (6, 10), dtype=np.uint32)
    for name, operands, static in (
        ("random_bits", (keys,), {"shape": (7, 9)}),
        ("random_bits", (keys[::-1, :, ::-1],), {"shape": ()}),
        ("random_bits", (keys[:0],), {"shape": (3,)}),
        ("random_bits", (keys,), {"shape": (0, 3)}),
        ("random_fold", (keys, numbers), {}),
        ("random_fold", (keys, np.array(-4, np.int32)), {}),
        ("random_fold", (keys[0, 0], numbers[::-2]), {}),
        ("random_fold", (np.broadcast_to(keys[0], (5, 2)), numbers), {}),
        ("random_next", (np.array([-5, 2**40]),), {}),
        ("random_next", (np.array([9, 0, 2**50, 0])[::2],), {}),
        ("random_uniform", (words,), {"dtype": F32}),
        ("random_uniform", (words.T,), {"dtype": F32}),
        ("random_uniform", (words[:, ::-5],), {"dtype": F64}),
        ("random_uniform", (words[:0, :2],), {"dtype": F64}),
        ("random_uniform", (np.full((2, 2), 2**32 - 1, np.uint32),), {"dtype": F64}),
        ("random_uniform", (np.array(2**32 - 1, np.uint32),), {"dtype": F32}),
    ):
        y = kernels.KERNELS[name](*operands, **static)
        expected = REGISTRY[name].forward(np, *operands, **static)
        assert y.dtype == expected.dtype and y.shape == expected.shape, (name, static)
        assert y.tobytes() == expected.tobytes(), (name, static)


# --- scatter -------------------------------------------------------------------------------------


def added_one_by_one(out: np.ndarray, index: np.ndarray, values: np.ndarray) -> np.ndarray:
    out = out.copy()
    for i, value in zip(index.reshape(-1), values.reshape(-1, *out.shape[1:]), strict=True):
        out[i] = out[i] + value
    return out


@pytest.mark.parametrize("dtype", FLOATS)
def test_scatter_add_counts_every_duplicate_in_order(dtype: Any) -> None:
    draw = np.random.default_rng(5)
    for shape, chosen in (((5, 8), (400,)), ((7,), (90,)), ((4, 3, 5), (6, 50)), ((3, 70), (1,))):
        out = draw.standard_normal(shape).astype(dtype)
        index = draw.integers(-shape[0], shape[0], chosen)
        values = (draw.standard_normal(chosen + shape[1:]) * 10.0 ** draw.integers(-6, 6)).astype(
            dtype
        )
        expected = added_one_by_one(out, index, values)
        for i in (index, index.astype(np.int32), np.asfortranarray(index)):
            for v in (values, np.asfortranarray(values), values[::-1][::-1]):
                result = kernels.scatter_add(out.copy(), (i,), v)
                assert result.tobytes() == expected.tobytes()


def test_scatter_add_of_other_indices_is_numpys() -> None:
    draw = np.random.default_rng(6)
    out = draw.standard_normal((6, 7))
    rows, columns = draw.integers(0, 6, 100), draw.integers(0, 7, 100)
    for index in (
        (rows, columns),
        (slice(None), columns),
        (slice(1, 5, 2), columns),
        (2, columns),
        (rows, None, slice(2, 4)),
    ):
        values = draw.standard_normal(out[index].shape)
        expected = out.copy()
        np.add.at(expected, index, values)
        np.testing.assert_array_equal(kernels.scatter_add(out.copy(), index, values), expected)
    one = draw.standard_normal(7)
    expected = added_one_by_one(out, rows, np.broadcast_to(one, (100, 7)))
    np.testing.assert_array_equal(kernels.scatter_add(out.copy(), (rows,), one), expected)


@pytest.mark.parametrize("wrong", [5, -6, 2**40])
def test_scatter_add_refuses_a_wrong_index_before_it_writes(wrong: int) -> None:
    out, index = np.ones((5, 8)), np.zeros(50, np.int64)
    index[30] = wrong
    with pytest.raises(IndexError, match=f"index {wrong} is out of bounds for axis 0 of size 5"):
        kernels.scatter_add(out, (index,), np.ones((50, 8)))
    assert np.all(out == 1)


def test_gradient_of_an_embedding() -> None:
    tokens = np.random.default_rng(7).integers(0, 9, (20, 5))
    table = mg.Tensor(np.ones((9, 16)), requires_grad=True, backend="numba")
    (mg.take(table, tokens, axis=0) * 2.0).sum().backward()
    counts = np.bincount(tokens.reshape(-1), minlength=9)
    np.testing.assert_array_equal(table.grad.numpy(), np.repeat(2.0 * counts[:, None], 16, axis=1))


# --- threads, fork, repetition -------------------------------------------------------------------


def everything() -> list[bytes]:
    """What all kernels give on fixed operands."""
    x32, x64 = SAMPLE.astype(np.float32), SAMPLE
    results = [kernels.exp(x32), kernels.sigmoid(x32), kernels.sigmoid(x64)]
    for name, x in itertools.product(("sum", "max", "logsumexp"), (x32, x64)):
        results.append(kernels.KERNELS[name](x, axis=(1,), keepdims=False))
    bits = kernels.random_bits(np.array([1, 2], np.uint32), shape=(40, 2))
    results += [bits, *(kernels.random_uniform(bits, dtype=dtype) for dtype in (F32, F64))]
    results += [kernels.random_next(np.array([3, 4]))]
    index = np.arange(640).reshape(64, 10) % 7
    results += [kernels.scatter_add(np.zeros((7, 40)), (index[:, 0],), x64)]
    return [r.tobytes() for r in results]


def test_four_threads_at_once() -> None:
    expected = everything()
    start = threading.Barrier(4)

    def work() -> bool:
        start.wait()
        return all(everything() == expected for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(f.result() for f in [pool.submit(work) for _ in range(4)])


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process of its own, on this checkout."""
    path = os.pathsep.join(str(ROOT / part) for part in ("backends", "."))
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def printed_by(code: str, **environment: str) -> Any:
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


STEP = """
import hashlib, json
import numpy as np, minigrad as mg
draw = np.random.default_rng(0)
E, W, V = (mg.Tensor(draw.standard_normal(s), requires_grad=True, dtype="float32")
           for s in ((20, 32), (32, 128), (32, 20)))
tokens = draw.integers(0, 20, (6, 16))
h = c = mg.zeros((16, 32))
loss = 0.0
for x in mg.take(E, tokens, axis=0):
    i, f, g, o = mg.split((x + h) @ W, 4, axis=-1)
    c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
    h = mg.sigmoid(o) * mg.tanh(c) * mg.random.bernoulli(mg.random.key(3), (16, 32), 0.8)
    loss = loss + mg.logsumexp(h @ V, axis=-1).mean()
loss.backward()
digest = hashlib.sha256(b"".join(t.grad.numpy().tobytes() for t in (E, W, V))).hexdigest()
print(json.dumps([loss.backend.name, digest]))
"""


def test_two_processes_give_the_same_bits() -> None:
    first, second = (printed_by(STEP, MINIGRAD_BACKEND="numba") for _ in range(2))
    assert first == second and first[0] == "numba"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_another_thread_compiles(tmp_path: Path) -> None:
    """The child, in which that thread does not exist, compiles and runs kernels of its own."""
    code = """
import os, threading, time, warnings
import numpy as np
from minigrad_numba import kernels
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
x = np.linspace(-5, 5, 3000).reshape(30, 100)
expected = 1 / (1 + np.exp(-x))
def compile_logsumexp():
    kernels.logsumexp(x, axis=(1,), keepdims=True)
thread = threading.Thread(target=compile_logsumexp)
thread.start()
time.sleep(0.1)
if not thread.is_alive():
    raise SystemExit("the thread has compiled already: fork sooner")
child = os.fork()
if child == 0:
    right = np.allclose(kernels.sigmoid(x), expected)
    right &= np.allclose(kernels.logsumexp(x, axis=(1,), keepdims=False), np.log(np.exp(x).sum(1)))
    os._exit(0 if right else 1)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    raise SystemExit("the child hangs")
thread.join()
print(int(status == 0 and np.allclose(kernels.sigmoid(x), expected)))
"""
    assert printed_by(code, MINIGRAD_CACHE_DIR=str(tmp_path)) == 1


# --- the files on disk ---------------------------------------------------------------------------

SIGMOID = """
import json, sys
import numpy as np
from minigrad_numba import disk, kernels
right = all(abs(kernels.sigmoid(np.array([3.0], dtype)) - 1 / (1 + np.exp(-3.0))) < 1e-6
            for dtype in ("float32", "float64"))
hits = sum(kernels._sigmoid.stats.cache_hits.values())
print(json.dumps([bool(right), hits, disk.describe()]))
"""


def cached(folder: Path) -> tuple[int, str]:
    """How many of two versions of a kernel a new process finds in a folder, and what it says."""
    right, hits, note = printed_by(SIGMOID, MINIGRAD_CACHE_DIR=str(folder))
    assert right
    return hits, note


def test_a_new_process_finds_what_was_compiled_unless_it_is_damaged(tmp_path: Path) -> None:
    base = tmp_path / "made" / "on demand"
    hits, note = cached(base)
    assert hits == 0 and "kept in" in note and str(base) in note
    (version,) = base.iterdir()
    folder = version / "_sigmoid"
    if os.name == "posix":
        assert [p.stat().st_mode & 0o777 for p in (base, version, folder)] == [0o700] * 3
    assert cached(base)[0] == 2

    files = sorted(folder.glob("*.nb[ic]"))
    assert len(files) == 3

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)

    for damage in (
        lambda: flip(files[0]),
        lambda: flip(files[-1]),
        lambda: files[0].write_bytes(files[0].read_bytes()[:100]),
        lambda: files[1].unlink(),
        lambda: (folder / "checksums.json").write_text("{", encoding="ascii"),
    ):
        damage()
        assert not disk.intact(folder)
        assert cached(base)[0] == 0  # compiled anew ...
        assert disk.intact(folder)  # ... and sealed again
    assert cached(base)[0] == 2


def test_without_a_folder_kernels_are_compiled_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="ascii")
    hits, note = cached(tmp_path / "file" / "folder")
    assert hits == 0 and "anew in every process" in note


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
def test_a_folder_that_others_can_write_to_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIGRAD_CACHE_DIR", str(tmp_path))
    disk.prepared().chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by, another user"):
        disk.prepared()
    assert "anew in every process" in disk.describe()


def test_the_folder_of_a_version_changes_with_the_sources() -> None:
    code = "from minigrad_numba import disk; import json; print(json.dumps(disk.version()))"
    assert printed_by(code) == disk.version() and len(disk.version()) == 16


def test_a_long_compilation_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    announcement = disk.Announcement(patience=0.02)
    for _ in range(3):
        announcement.begin()
        if announcement.timer:
            announcement.timer.join()
        announcement.end()
    text = capsys.readouterr().err
    assert text.count("minigrad_numba: compiling kernels") == 1 and text.endswith("\n")


def test_short_compilations_say_so_only_when_they_add_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    announcement = disk.Announcement(patience=1_000.0)
    announcement.begin()
    timer = announcement.timer
    announcement.end()
    assert timer is not None and timer.interval == 1_000.0
    assert announcement.patience < 1_000.0 and not announcement.made
    assert capsys.readouterr().err == ""


# --- the plug-in ---------------------------------------------------------------------------------


def test_the_contract() -> None:
    backend = mg.resolve("numba")
    assert (backend.name, backend.api, backend.xp) == ("numba", 1, np)
    assert backend is mg.resolve("NUMBA") and backend.version and backend.note
    with pytest.raises(mg.BackendUnavailableError, match="numba has no device 'gpu'"):
        mg.resolve("numba:gpu")


def test_minigrad_loads_numba_only_when_it_is_chosen() -> None:
    code = """
import sys, json, minigrad as mg
mg.Tensor([1.0])
before = "numba" in sys.modules
mg.sigmoid(mg.Tensor([1.0], backend="numba"))
print(json.dumps([before, "numba" in sys.modules]))
"""
    assert printed_by(code, MINIGRAD_BACKEND="numpy") == [False, True]


def test_without_numba_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['numba'] = None; import minigrad as mg; mg.Tensor([1.0])"
    done = run(code, MINIGRAD_BACKEND="numba")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "BackendUnavailableError: MINIGRAD_BACKEND=numba" in last
    assert "Install: pip install" in last and "Usable here: numpy" in last

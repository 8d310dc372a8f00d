"""The native library: products, packing, the files on disk, threads and their barrier."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tolerances import close

if importlib.util.find_spec("numba") is None:
    pytest.skip("numba is not installed", allow_module_level=True)

from llvmlite import ir
from minigrad_numba.emit import library, objects, pool, products, target
from minigrad_numba.emit.loops import INDEX, ONE, POINTER, ZERO, define, index

ROOT = Path(__file__).resolve().parent.parent
DTYPES = st.sampled_from(["float32", "float64"])
SIZES = st.integers(0, 70)
LAYOUTS = st.sampled_from(["rows", "columns", "padded", "every second", "reversed"])
GUARD = 64  # elements on both sides of memory that is written
CANARY = -12345.0


# --- products against NumPy in float64 -----------------------------------------------------------


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same matrix with other strides."""
    m, n = x.shape
    if layout == "columns":
        return np.asfortranarray(x)
    if layout == "padded":
        return np.pad(x, ((0, 3), (0, 5)))[:m, :n]
    if layout == "every second":
        return np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)[::2, ::2]
    if layout == "reversed":
        return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    return np.ascontiguousarray(x)


def place(x: np.ndarray) -> tuple[int, int, int]:
    """Address, row stride and column stride in elements."""
    rows, columns = (stride // x.itemsize for stride in x.strides)
    return x.ctypes.data, rows, columns


class Guarded:
    """Memory between two bands that nobody may write to."""

    def __init__(self, size: int, dtype: str) -> None:
        self.memory = np.full(size + 2 * GUARD, CANARY, dtype)
        self.inside = self.memory[GUARD : GUARD + size]

    def address(self) -> int:
        return self.inside.ctypes.data

    def untouched(self) -> bool:
        return bool((self.memory[:GUARD] == CANARY).all() & (self.memory[-GUARD:] == CANARY).all())


def multiply(
    name: str, a: np.ndarray, b: np.ndarray, gap: int = 0,
    made: objects.Library | None = None, form: products.Shape | None = None,
) -> np.ndarray:  # fmt: skip
    """A product into memory full of NaN whose rows are `gap` elements further apart."""
    (m, depth), n, dtype = a.shape, b.shape[1], a.dtype.name
    made, form = made or library.load(), form or products.shape(dtype, target.host())

    def function(name: str) -> Any:
        return made.function(f"{name}_{dtype}", library.signature(f"{name}_{dtype}"))

    output = Guarded(m * (n + gap), dtype)
    rows = output.inside.reshape(m, n + gap)
    rows[:, :n] = np.nan  # which must not be read
    to = (output.address(), n + gap)
    if name == "product":
        extra = Guarded(products.packed_size(depth, n, form), dtype)
        function("pack")(*place(b), depth, n, extra.address())
        function("product")(m, n, depth, *place(a), extra.address(), *to)
    else:
        extra = Guarded(products.scratch_size(n, form), dtype)
        function("product_tall")(m, n, depth, *place(a), *place(b), *to, extra.address())
    assert output.untouched() and extra.untouched()
    assert (rows[:, n:] == CANARY).all()
    return rows[:, :n].copy()


@pytest.mark.parametrize("name", ["product", "product_tall"])
@given(DTYPES, SIZES, SIZES, SIZES, LAYOUTS, LAYOUTS, st.integers(0, 5))
@example("float32", 0, 8, 8, "rows", "rows", 0)
@example("float32", 8, 8, 0, "rows", "rows", 0)
@example("float64", 8, 0, 8, "rows", "rows", 1)
def test_a_product_is_numpys(
    name: str, dtype: str, m: int, n: int, depth: int, a_layout: str, b_layout: str, gap: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng([m, n, depth])
    a, b = (rng.standard_normal(s).astype(dtype) for s in ((m, depth), (depth, n)))
    got = multiply(name, laid_out(a, a_layout), laid_out(b, b_layout), gap)
    want = a.astype(np.float64) @ b.astype(np.float64)
    close(got, want, dtype, "product", f"{name} {m} {n} {depth}")


@functools.cache
def made_with(lanes: int, rows: int) -> objects.Library:
    """The products as a processor with other registers has them, for this one: slow, and right."""
    module = ir.Module("products")
    for form in (products.Shape("float32", lanes, rows), products.Shape("float64", lanes, rows)):
        products.products(module, form)
    return objects.compile(module)


@pytest.mark.parametrize(("lanes", "rows"), [(0, 0), (2, 6), (4, 12), (16, 12)])
@pytest.mark.parametrize("name", ["product", "product_tall"])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_every_tile_and_block(name: str, layout: str, lanes: int, rows: int) -> None:
    """Heights up to two tiles, the fringes of panels, and more than one block of each size.

    lanes, rows: of a processor's vectors and tiles; none: this processor's.
    """
    rng = np.random.default_rng(5)
    shapes = [(m, n, 5) for m, n in itertools.product(range(1, 26), (1, 15, 16, 17, 64, 97, 130))]
    blocks = (products.ROWS + 7, 40, products.DEPTH + 9), (2 * products.ROWS, 24, 2)
    for dtype, (m, n, depth) in itertools.product(("float32", "float64"), (*shapes, *blocks)):
        other = (made_with(lanes, rows), products.Shape(dtype, lanes, rows)) if lanes else ()
        # small integers: every order of additions gives the same number
        a, b = (rng.integers(-4, 5, s).astype(dtype) for s in ((m, depth), (depth, n)))
        got = multiply(name, laid_out(a, layout), laid_out(b, layout), 0, *other)
        np.testing.assert_array_equal(got, a @ b, err_msg=f"{dtype} {m} {n} {depth}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["product", "product_tall"])
def test_nan_and_infinity_stay_in_their_rows_and_columns(name: str, dtype: str) -> None:
    a, b = np.ones((9, 11), dtype), np.ones((11, 21), dtype)
    a[4, 3], b[2, 20], b[5, 7] = np.inf, np.nan, -np.inf
    want = np.full((9, 21), 11.0)
    want[4], want[:, 7], want[4, 7], want[:, 20] = np.inf, -np.inf, np.nan, np.nan
    np.testing.assert_array_equal(multiply(name, a, b), want)


@given(DTYPES, SIZES, SIZES, LAYOUTS)
def test_panels(dtype: str, depth: int, n: int, layout: str) -> None:
    width = products.shape(dtype, target.host()).width
    b = np.arange(1, depth * n + 1, dtype=dtype).reshape(depth, n)
    panels = Guarded(-(-n // width) * width * depth, dtype)
    source = laid_out(b, layout)
    library.function(f"pack_{dtype}")(*place(source), depth, n, panels.address())
    whole = np.pad(b, ((0, 0), (0, -n % width)))
    want = [whole[:, j : j + width].ravel() for j in range(0, n, width)]
    np.testing.assert_array_equal(panels.inside, np.concatenate([*want, np.zeros(0, dtype)]))
    assert panels.untouched()


def test_columns_of_c_by_threads() -> None:
    """Panels are independent: a thread may take some of them."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-4, 5, (7, 20)).astype("f4"), rng.integers(-4, 5, (20, 75)).astype("f4")
    form = products.shape("float32", target.host())
    panels, c = np.empty(products.packed_size(20, 75, form), "f4"), np.empty((7, 75), "f4")
    library.function("pack_float32")(*place(b), 20, 75, panels.ctypes.data)
    for first in range(0, 75, 2 * form.width):
        n = min(2 * form.width, 75 - first)
        part, to = panels[first * 20 :].ctypes.data, c[:, first:].ctypes.data
        library.function("product_float32")(7, n, 20, *place(a), part, to, 75)
    np.testing.assert_array_equal(c, a @ b)


# --- other processors ----------------------------------------------------------------------------

ARM = target.Target("aarch64-unknown-linux-gnu", "generic", "+neon")
AVX512 = target.Target(
    "x86_64-unknown-linux-gnu", "skylake-avx512", "+avx512f,+avx512vl,+avx512dq,+avx2,+fma"
)
OLD = target.Target("x86_64-unknown-linux-gnu", "x86-64", "+sse2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processor", "lanes", "rows", "instruction", "register"),
    [
        (ARM, 4, 12, "fmla", "v"),
        (AVX512, 16, 12, "vfmadd231ps", "zmm"),
        (OLD, 4, 6, "mulps", "xmm"),
    ],
)
def test_the_library_for_other_processors(
    processor: target.Target, lanes: int, rows: int, instruction: str, register: str
) -> None:
    form = products.shape("float32", processor)
    assert (form.lanes, form.rows) == (lanes, rows)
    optimised = target.optimise(library.module(processor), processor)
    lines = processor.machine().emit_assembly(optimised).splitlines()
    start = lines.index(f"tile_{rows}_2_float32:")
    tile = list(itertools.takewhile(lambda line: ".size" not in line, lines[start:]))
    places = [i for i, line in enumerate(tile) if instruction in line and register in line]
    assert len(places) == 2 * rows  # a row's two sums, in the loop alone
    loop = tile[places[0] : places[-1]]
    spilled = [line for line in loop if register in line and ("sp)" in line or "[sp" in line)]
    assert not spilled


# --- objects: compiled once, kept on disk --------------------------------------------------------

TRIPLE = """
define void @triple(ptr %x) {
  %1 = load double, ptr %x
  %2 = fmul double %1, 3.0
  store double %2, ptr %x
  ret void
}
"""
SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

PROGRAM = f"""
import ctypes, json, sys
from minigrad_numba import disk
from minigrad_numba.emit import objects
x = ctypes.c_double(7)
made = objects.compile({TRIPLE!r})
made.function("triple", ctypes.CFUNCTYPE(None, ctypes.c_void_p))(ctypes.addressof(x))
print(json.dumps([x.value, objects.counters.compiled, objects.counters.loaded, disk.describe()]))
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    """A Python process of its own, on this checkout."""
    environment = {**os.environ, "MINIGRAD_CACHE_DIR": str(folder)}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "backends")))
    command = [sys.executable, "-W", "error", "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def printed(process: subprocess.Popen[str]) -> Any:
    """What it printed, JSON."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def stored(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.object"))


def test_a_second_process_loads(tmp_path: Path) -> None:
    assert printed(start(PROGRAM, tmp_path))[:3] == [21, 1, 0]
    (path,) = stored(tmp_path)
    assert printed(start(PROGRAM, tmp_path))[:3] == [21, 0, 1]
    assert [*path.parent.iterdir()] == [path]
    if os.name == "posix":
        assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        *(pytest.param(d, marks=pytest.mark.slow) for d in ("first byte", "last byte", "empty")),
    ],
)
def test_a_damaged_file_is_compiled_anew(tmp_path: Path, damage: str) -> None:
    printed(start(PROGRAM, tmp_path))
    (path,) = stored(tmp_path)
    good = path.read_bytes()
    bad = {
        "first byte": bytes([good[0] ^ 1]) + good[1:],
        "last byte": good[:-1] + bytes([good[-1] ^ 1]),
        "cut": good[: len(good) // 2],
        "empty": b"",
    }[damage]
    path.write_bytes(bad)
    assert printed(start(PROGRAM, tmp_path))[:3] == [21, 1, 0]
    assert path.read_bytes()[:32] == good[:32]
    assert printed(start(PROGRAM, tmp_path))[:3] == [21, 0, 1]


@pytest.mark.slow
def test_processes_at_once(tmp_path: Path) -> None:
    results = [printed(p) for p in [start(PROGRAM, tmp_path) for _ in range(3)]]
    assert all(result[0] == 21 and sum(result[1:3]) == 1 for result in results)
    assert len(stored(tmp_path)) == 1
    assert printed(start(PROGRAM, tmp_path))[:3] == [21, 0, 1]


def test_no_folder_means_no_cache(tmp_path: Path) -> None:
    """A file where the folder should be: nobody, not even root, can make one."""
    (tmp_path / "file").touch()
    result = printed(start(PROGRAM, tmp_path / "file"))
    assert result[:3] == [21, 1, 0]
    assert "compiled anew in every process" in result[3]


def test_a_module_is_compiled_once_in_a_process() -> None:
    assert objects.compile(TRIPLE) is objects.compile(TRIPLE)
    assert objects.compile(TRIPLE) is not objects.compile(TRIPLE + "; another text\n")


def test_a_function_keeps_its_code_alive() -> None:
    function = objects.Library(code_of(TRIPLE)).function("triple", SIGNATURE)
    x = ctypes.c_double(1)
    function(ctypes.addressof(x))
    assert x.value == 3


def code_of(text: str) -> bytes:
    code: bytes = target.host().machine(jit=True).emit_object(target.optimise(text))
    return code


def test_an_unknown_function_is_refused() -> None:
    with pytest.raises(KeyError, match="no function 'quadruple'"):
        objects.compile(TRIPLE).address("quadruple")


def test_a_wrong_module_is_refused() -> None:
    with pytest.raises(RuntimeError, match="parsing error"):
        objects.compile("define nothing")


# --- threads -------------------------------------------------------------------------------------

ROUNDS = 300


def meeting() -> Any:
    """f(thread, threads, barrier, counts, early): each counts its rounds and, between two barriers,
    how often another thread had not counted as many.
    """
    module = ir.Module("meeting")
    code = define(module, "meeting", (INDEX, INDEX, POINTER, POINTER, POINTER, INDEX))
    thread, threads, barrier, counts, early, rounds = code.arguments
    meet = library.declare(module, "barrier")

    def at(array: Any, i: Any) -> Any:
        return code.gep(array, [i], source_etype=INDEX)

    with code.loop(ZERO, rounds) as turn:
        code.store(code.add(turn, ONE), at(counts, thread), align=8)
        code.call(meet, [barrier, threads])
        with code.loop(ZERO, threads) as other:
            count = code.load(at(counts, other), align=8, typ=INDEX)
            with code.if_then(code.icmp_signed("!=", count, code.add(turn, ONE))):
                missed = code.load(at(early, thread), align=8, typ=INDEX)
                code.store(code.add(missed, index(1)), at(early, thread), align=8)
        code.call(meet, [barrier, threads])
    code.ret_void()
    library.load()
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    signature = ctypes.CFUNCTYPE(None, integer, integer, pointer, pointer, pointer, integer)
    return objects.compile(module).function("meeting", signature)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_nobody_passes_the_barrier_early(threads: int) -> None:
    function, state = meeting(), np.zeros(library.BARRIER_SIZE, np.uint8)
    counts, early = np.zeros((2, threads), np.int64)
    for _ in range(3):  # the state is ready for the next program
        arrays = (state.ctypes.data, counts.ctypes.data, early.ctypes.data)
        pool.pool(threads).run(function, *arrays, ROUNDS)
        assert counts.tolist() == [ROUNDS] * threads
        assert not early.any()
        counts[:] = 0


def test_many_runs_from_several_python_threads() -> None:
    function = meeting()

    def work(_: int) -> bool:
        state, (counts, early) = np.zeros(library.BARRIER_SIZE, np.uint8), np.zeros((2, 2), "i8")
        arrays = (state.ctypes.data, counts.ctypes.data, early.ctypes.data)
        for rounds in range(1, 21):
            pool.pool(2).run(function, *arrays, rounds)
            if counts.tolist() != [rounds, rounds] or early.any():
                return False
        return True

    with ThreadPoolExecutor(3) as several:
        assert all(several.map(work, range(3)))


def test_threads_are_made_once() -> None:
    seen: set[tuple[int, int]] = set()
    for _ in range(20):
        pool.pool(3).run(lambda thread, threads: seen.add((thread, threading.get_ident())))
    assert len(seen) == 3
    assert (0, threading.get_ident()) in seen


def test_wrong_arguments_are_the_callers_error_and_the_pool_goes_on() -> None:
    with pytest.raises(TypeError, match="arguments"):
        pool.pool(2).run(meeting(), 0)
    test_nobody_passes_the_barrier_early(2)


def test_a_pool_of_no_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="one thread or more, not 0"):
        pool.Pool(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_pool_after_fork(tmp_path: Path) -> None:
    code = """
import os, warnings
from minigrad_numba.emit import pool
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
def count():
    seen = []
    pool.pool(3).run(lambda thread, threads: seen.append(thread))
    return sorted(seen) == [0, 1, 2]
right = count()
child = os.fork()
if child == 0:
    os._exit(0 if count() and count() else 1)
print(int(right and os.waitpid(child, 0)[1] == 0 and count()))
"""
    assert printed(start(code, tmp_path)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no signals for a thread")
def test_an_interrupted_run_ends_on_all_threads(tmp_path: Path) -> None:
    """Ctrl-C is raised when all threads have ended, whatever it interrupts; the next run works."""
    code = """
import signal, threading, time
from minigrad_numba.emit import pool
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
main, interrupted = threading.main_thread().ident, 0
def work(thread, threads):
    if thread == 1:
        time.sleep(moment)
        signal.pthread_kill(main, signal.SIGINT)
    time.sleep((0.01, 0.02, 0.04)[thread])
    ended.append(thread)
for moment in (0, 0.001, 0.005, 0.015, 0.03):
    ended = []
    try:
        pool.pool(3).run(work)
    except KeyboardInterrupt:
        interrupted += 1
    if not {1, 2} <= set(ended):
        raise SystemExit(f"{moment}: {ended}")
print(interrupted)
"""
    assert printed(start(code, tmp_path)) == 5


def test_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert pool.threads() == 7
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    assert pool.threads() == 5
    for useless in ("many", "0", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", useless)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 4}, raising=False)
        assert pool.threads() == 3

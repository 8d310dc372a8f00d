"""The CuPy backend without a GPU: over tests/fake_cupy.py, and against the installed CuPy."""

from __future__ import annotations

import ctypes
import inspect
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import minigrad_cupy
import numpy as np
import pytest
from minigrad_cupy.scatter import SEGMENT_SUM

import minigrad as mg
from minigrad_rnn import GRUCell, LSTMCell, Stack, unroll
from tests import fake_cupy
from tests.gpu import report
from tests.op_table import BY_OP, ROWS, Row
from tests.oracles.philox import philox4x32

FAKE = mg.resolve(fake_cupy.SPEC)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every copy to the host an error; the range check of indices, which reads two, is off."""
    monkeypatch.setattr(fake_cupy.ndarray, "get", refused_copy)
    monkeypatch.setenv("MINIGRAD_CHECK_INDEX", "0")


def refused_copy(array: Any) -> Any:
    raise AssertionError("a copy to the host that nobody asked for")


def tensors(value: Any, backend: Any, inputs: list[mg.Tensor]) -> Any:
    """A row's argument with its arrays as tensors; those of floats are noted as inputs."""
    if isinstance(value, (list, tuple)):
        return type(value)(tensors(item, backend, inputs) for item in value)
    if not isinstance(value, np.ndarray):
        return value
    tensor = mg.Tensor(value, requires_grad=value.dtype.kind == "f", backend=backend)
    if tensor.requires_grad:
        inputs.append(tensor)
    return tensor


def flat(value: Any) -> list[mg.Tensor]:
    return [value] if isinstance(value, mg.Tensor) else [t for part in value for t in flat(part)]


def evaluated(row: Row, sample: Any, backend: Any, dtype: str) -> list[mg.Tensor]:
    """The values of a row's sample, the gradients of their sum, and those of the sum of these."""

    def cast(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(cast(item) for item in value)
        floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        return value.astype(dtype) if floats else value

    inputs: list[mg.Tensor] = []
    with mg.use_backend(backend), np.errstate(all="ignore"):
        args = [tensors(cast(value), backend, inputs) for value in sample.args]
        kwargs = {k: tensors(cast(value), backend, inputs) for k, value in sample.kwargs.items()}
        found = flat(row.call(*args, **kwargs))
        last = found
        for _ in range(min(row.order, 2)):
            total = [t.sum() for t in last if t.requires_grad]
            if not total:
                break
            some = [x for x in inputs if x.requires_grad]
            last = [
                g
                for g in mg.pullback(mg.stack(total).sum(), some, allow_unused=True)
                if g is not None
            ]
            found = found + last
    return found


def agree(row: Row, dtype: str) -> int:
    """Compare values and derivatives on the pretended device with NumPy's, bit by bit."""
    count = 0
    for sample in (*row.samples, *row.extra):
        want = evaluated(row, sample, mg.resolve("numpy"), dtype)
        got = evaluated(row, sample, FAKE, dtype)
        assert len(got) == len(want)
        for ours, theirs in zip(got, want):
            assert isinstance(ours._data, fake_cupy.ndarray)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours._data.host, theirs.numpy(), err_msg=row.name)
            count += 1
    return count


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.usefixtures("on_device")
def test_every_op_and_its_derivatives_stay_on_the_device(row: Row, dtype: str) -> None:
    """But for finite, which looks at its operand: that is what it is for."""
    if row.name == "finite":
        with pytest.raises(AssertionError, match="a copy to the host"):
            agree(row, dtype)
    else:
        assert agree(row, dtype) > 0


# --- what the device does that NumPy does not ----------------------------------------------------


def classifier(backend: Any) -> tuple[Callable[[], mg.Tensor], list[mg.Tensor]]:
    """One step of training a small net (embedding, two cells, dropout), and its parameters."""
    with mg.use_backend(backend):
        mg.random.seed(5)
        embedding, cell = mg.nn.Embedding(7, 6), Stack([LSTMCell(6, 5), GRUCell(5, 4)])
        head = mg.nn.Linear(4, 7)
        parameters = [*embedding.parameters(), *cell.parameters(), *head.parameters()]
        optimizer = mg.optim.Adam(parameters, lr=0.05)
        text = np.random.default_rng(0).integers(0, 7, (6, 3))
        xs, labels = mg.Tensor(text[:-1]), mg.Tensor(text[1:])

    def step() -> mg.Tensor:
        with mg.use_backend(backend):
            ys, _ = unroll(cell, embedding(xs))
            logits = head(mg.functional.dropout(ys, 0.2))
            loss = mg.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

    return step, parameters


def test_training_copies_nothing_to_the_host_and_gives_numpys_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, parameters = classifier(FAKE)  # its initial weights are made on the host
    with monkeypatch.context() as patch:
        patch.setattr(fake_cupy.ndarray, "get", refused_copy)
        patch.setenv("MINIGRAD_CHECK_INDEX", "0")
        losses = [step() for _ in range(4)]
    reference, theirs = classifier("numpy")
    assert [t._data.host[()] for t in losses] == [reference().item() for _ in losses]
    for ours, other in zip(parameters, theirs):
        np.testing.assert_array_equal(ours._data.host, other.numpy())


def test_the_range_check_reads_two_numbers_a_gather_and_nothing_else_is_read() -> None:
    with mg.use_backend(FAKE):
        w = mg.Tensor(np.ones((4, 3)), requires_grad=True)
        indices = mg.Tensor([0, 3, 3])
        before = fake_cupy.host_copies
        w[indices].sum().backward()
        assert fake_cupy.host_copies - before == 2
        assert w.grad is not None
        assert w.grad.numpy().tolist() == [[1.0] * 3, [0.0] * 3, [0.0] * 3, [2.0] * 3]


@pytest.mark.parametrize("bad, position", [([0, 4], 1), ([-5, 0], 0)])
def test_an_index_out_of_range_is_refused_where_the_device_would_wrap_it(
    bad: list[int], position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mg.use_backend(FAKE):
        x = mg.arange(4)
        with pytest.raises(mg.IndexRangeError, match=rf"{bad[position]} at position \({position},"):
            x[mg.Tensor(bad)]
        monkeypatch.setenv("MINIGRAD_CHECK_INDEX", "0")
        assert x[mg.Tensor([4])].tolist() == [0]  # what the check is there for


def test_operands_of_the_host_are_refused() -> None:
    x = mg.Tensor([1.0, 2.0], backend=FAKE)
    with pytest.raises(mg.BackendMismatchError, match=r"\.to\("):
        x + mg.Tensor([1.0, 2.0], backend="numpy")
    with pytest.raises(mg.BackendMismatchError, match=r"numpy\.ndarray met a tensor on backend"):
        x + np.ones(2, dtype="float32")
    with pytest.raises(mg.BackendMismatchError, match=r"use tensor\.numpy\(\)"):
        np.asarray(x)
    assert (x.numpy().tolist(), x.to("numpy").backend.name) == ([1.0, 2.0], "numpy")


def test_random_words_are_those_of_the_reference_in_plain_integers() -> None:
    seed = 0x0123456789ABCDEF
    key = (seed & 0xFFFFFFFF, seed >> 32)
    words = [philox4x32((i // 4, 0, 0, 0), key)[i % 4] for i in range(10)]
    with mg.use_backend(FAKE):
        assert mg.random.bits(mg.random.key(seed), 10).tolist() == words
        uniform = mg.random.uniform(mg.random.key(seed), 10).tolist()
        assert uniform == [(word >> 8) / 2**24 for word in words]


def test_a_number_to_the_power_of_a_tensor_has_derivatives_of_every_order() -> None:
    x = mg.Tensor(3.0, dtype="float64", backend=FAKE)  # not the current backend
    f: Callable[[mg.Tensor], mg.Tensor] = lambda x: 2.0**x  # noqa: E731
    second = mg.grad(mg.grad(f))(x).item()
    assert second == pytest.approx(8 * np.log(2) ** 2, rel=1e-15)


# --- scatter-add ----------------------------------------------------------------------------------

KEYS: list[tuple[tuple[int, ...], tuple[Any, ...]]] = [
    ((5,), (np.array([0, 2, 2, -1, 0, 2]),)),
    ((5, 3), (np.array([[0, 4], [4, 4]]),)),
    ((5, 3), (np.array([1, 1, 4]), slice(None))),
    ((5, 3), (slice(None), np.array([2, 2, 0]))),
    ((4, 5, 3), (slice(None), np.array([2, 2, 0]))),
    ((4, 5, 3), (slice(1, 3), np.array([2, 2, 0]), slice(None))),
    ((4, 5, 3), (np.array([0, 0, 3]), slice(None, None, 2), np.array([1, 1, 1]))),
    ((4, 5, 3), (np.array([0, 0, 3]), np.array([4, 4, 1]), slice(None, 2))),
    ((4, 5, 3), (1, np.array([[0, 0], [3, 3]]))),
    ((4, 5, 3), (None, np.array([2, 2]), None, slice(None))),
    ((4, 5), (np.zeros(0, dtype=int),)),
    ((4, 0), (np.array([0, 0]),)),
    ((40,), (np.random.default_rng(1).integers(0, 40, 1000),)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("shape, index", KEYS)
def test_scatter_add_has_the_bits_of_numpys_in_any_order_of_threads(
    shape: tuple[int, ...], index: tuple[Any, ...], dtype: str
) -> None:
    random = np.random.default_rng(7)
    out = (random.normal(size=shape) * 8).astype(dtype)
    values = np.asarray(random.normal(size=out[index].shape) * 8).astype(dtype)
    expected = out.copy()
    np.add.at(expected, index, values)
    key = tuple(fake_cupy.ndarray(i) if isinstance(i, np.ndarray) else i for i in index)
    got = FAKE.scatter_add(fake_cupy.ndarray(out.copy()), key, fake_cupy.ndarray(values))
    np.testing.assert_array_equal(got.host, expected)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The kernel's own source text, compiled by the machine's C++ compiler instead of NVRTC."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to compile the kernel's text with")
    folder = tmp_path_factory.mktemp("kernel")
    inputs, outputs, operation, _ = SEGMENT_SUM
    parameters = [p.split() for p in f"{inputs}, {outputs}".split(", ")]
    signature = ", ".join(
        f"{'const ' if name != 'out' else ''}{kind[-1]}{' *' if kind[0] == 'raw' else ' '}{name}"
        for *kind, name in parameters
    )

    def build(real: str) -> Any:
        source, library = folder / f"{real}.cpp", folder / f"{real}.so".replace(" ", "_")
        source.write_text(
            f"#include <cstdint>\nusing int64 = int64_t; using T = {real};\n"
            f'extern "C" void run({signature}, int64 size) {{\n'
            f"for (int64 i = size - 1; i >= 0; --i) {{ {operation} }}\n}}\n"
        )  # the last thread first
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        return ctypes.CDLL(str(library)).run

    return build


@pytest.mark.parametrize("dtype, real", [("float32", "float"), ("float64", "double")])
@pytest.mark.parametrize("width", [1, 5])
def test_the_kernels_text_computes_what_its_twin_does(
    compiled: Callable[[str], Any], dtype: str, real: str, width: int
) -> None:
    random = np.random.default_rng(3)
    targets = random.integers(0, 9, 200)
    order = np.argsort(targets, kind="stable")
    rows = targets[order]
    values = random.normal(size=(200, width)).astype(dtype)
    start = random.normal(size=(9, width)).astype(dtype)
    expected, twin, out = start.copy(), start.copy(), start.copy()
    np.add.at(expected, targets, values)
    fake_cupy.segment_sum(rows, order, values, 200, width, twin, 200 * width)
    size = ctypes.c_int64
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (rows, order, values, out)]
    compiled(real)(*pointers[:3], size(200), size(width), pointers[3], size(200 * width))
    np.testing.assert_array_equal(twin, expected)
    np.testing.assert_array_equal(out, expected)


# --- the installed CuPy ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def used() -> Iterator[types.SimpleNamespace]:
    """Every name, keyword and combination of dtypes that the ops, their rules and training use."""
    for record in (fake_cupy.calls, fake_cupy.methods, fake_cupy.dtypes):
        record.clear()
    for row in ROWS:
        for sample in (*row.samples, *row.extra):
            for dtype in ("float32", "float64"):
                evaluated(row, sample, FAKE, dtype)
    step, _ = classifier(FAKE)
    step()
    yield types.SimpleNamespace(
        calls=set(fake_cupy.calls), methods=set(fake_cupy.methods), dtypes=set(fake_cupy.dtypes)
    )


def parameters_of(function: Any) -> tuple[list[str], bool, set[str]]:
    """Positional names, whether more are taken, and all keywords, from signature or docstring."""
    try:
        text = str(inspect.signature(function))
    except (TypeError, ValueError):
        found = re.match(r"\S*?(\(.*?\))(?: ->.*)?\n", f"{function.__doc__}\n".lstrip())
        if found is None:
            raise AssertionError(f"no signature of {function!r} to be found") from None
        text = found[1]
    names: list[str] = []
    keywords: set[str] = set()
    more = only = False
    for part in re.sub(r"\[[^][]*\]|\\|<[^>]*>|'", "", text.strip("()")).split(","):
        word = part.split(":")[0].split("=")[0].split(" ")[-1] if ":" in part else ""
        word = word or part.split("=")[0].strip().split(" ")[-1]
        if word.startswith("**"):
            keywords.add("**")
        elif word.startswith("*"):
            more, only = more or len(word) > 1, True
        elif word and word not in ("/", "self"):
            keywords.add(word)
            if not only:
                names.append(word)
    return names, more, keywords


def missing(owner: Any, name: str, count: int, keywords: tuple[str, ...]) -> str:
    """What of a recorded use the installed CuPy would refuse; "" where nothing."""
    if not hasattr(owner, name):
        return f"{name} is missing"
    if count < 0:
        return ""
    function = getattr(owner, name)
    names, more, accepted = parameters_of(function)
    positional = getattr(function, "nin", None) or len(names)
    if count > positional and not more:
        return f"{name} takes {positional} positional arguments, not {count}"
    if "**" in accepted:  # what these take stands in their documentation alone
        return "".join(
            f"{name} knows no {word}" for word in keywords if word not in function.__doc__
        )
    return "".join(f"{name} knows no {word}=" for word in keywords if word not in accepted)


def test_every_name_and_keyword_in_use_exists_in_the_installed_cupy(
    used: types.SimpleNamespace,
) -> None:
    cupy = pytest.importorskip("cupy")
    assert len(used.calls) > 80 and len(used.methods) > 5
    wrong = {missing(cupy, *use) for use in used.calls}
    wrong |= {missing(cupy.ndarray, *use) for use in used.methods}
    assert wrong - {""} == set()
    assert missing(cupy, "argsort", 1, ("order",)) == "argsort knows no order="
    assert missing(cupy, "vecdot_of_nothing", 1, ()) == "vecdot_of_nothing is missing"


def test_cupys_own_choice_of_dtypes_is_numpys_for_every_combination_in_use(
    used: types.SimpleNamespace,
) -> None:
    """float32 times a Python number stays float32, and so on: asked of CuPy's dispatcher itself."""
    cupy = pytest.importorskip("cupy")
    from cupy._sorting.search import _where_ufunc

    weak = {float: np.float64, int: np.int64}
    checked = 0
    for name, kinds, result in used.dtypes:
        function = _where_ufunc if name == "where" else getattr(cupy, name)
        if name == "matmul":  # no such dispatcher, and its operands have one dtype
            assert len(set(kinds)) == 1
            continue
        types_ = tuple(np.dtype(weak.get(kind, kind)) for kind in kinds)
        weaks = tuple(kind if kind in weak else False for kind in kinds)
        chosen = function._ops._guess_routine_from_in_types(types_, weaks)
        assert chosen is not None, (name, kinds)
        assert chosen.out_types[0] == np.dtype(result), (name, kinds)
        checked += 1
    assert checked > 100


def test_every_registered_op_was_run() -> None:
    from minigrad.op import REGISTRY

    assert {
        name for name, op in REGISTRY.items() if op.forward.__module__.startswith("minigrad")
    } <= (set(BY_OP))


def test_the_kernel_is_accepted_by_the_installed_cupy_without_a_gpu() -> None:
    cupy = pytest.importorskip("cupy")
    kernel = cupy.ElementwiseKernel(*SEGMENT_SUM)
    assert (kernel.nin, kernel.nout) == (5, 1)


# --- where it cannot run --------------------------------------------------------------------------


def machine(driver: int = 13000, gpus: int = 1, value: float = 1.0, broken: str = "") -> Any:
    """A CuPy as check_usable sees it, on a machine of a certain kind."""

    def count() -> int:
        if driver < 13000:
            raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
        return gpus

    def kernel(*text: str) -> Any:
        def run(x: Any) -> Any:
            if broken:
                raise OSError(broken)
            return fake_cupy.ndarray(np.array(value))

        return run

    runtime = types.SimpleNamespace(
        getDeviceCount=count, driverGetVersion=lambda: driver, runtimeGetVersion=lambda: 13020
    )
    device = types.SimpleNamespace(use=lambda: None)
    return types.SimpleNamespace(
        cuda=types.SimpleNamespace(runtime=runtime, Device=lambda number: device),
        is_available=lambda: gpus > 0,
        ElementwiseKernel=kernel,
        zeros=lambda *args, **options: None,
        __version__="14.2.0",
    )


@pytest.mark.parametrize(
    "cupy, device, error, words",
    [
        (machine(driver=0), 0, RuntimeError, "there is no NVIDIA driver on this machine"),
        (machine(driver=12040), 0, RuntimeError, r"serves CUDA 12\.4, this CuPy needs 13\.2"),
        (machine(gpus=0), 0, RuntimeError, r"serves CUDA 13\.0, which finds no GPU"),
        (machine(gpus=2), 2, ValueError, "there is no GPU 2: the driver finds 2, counted from 0"),
        (machine(broken="libnvrtc.so not found\nand so on"), 0, RuntimeError,
         r"cannot compile and run.*OSError: libnvrtc.so not found; CuPy's extra \[ctk\]"),
        (machine(value=0.0), 0, RuntimeError, "a kernel that adds 1 to 0 gave 0"),
    ],
)  # fmt: skip
def test_an_unusable_gpu_says_why(
    cupy: Any, device: int, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        minigrad_cupy.check_usable(cupy, device)
    minigrad_cupy.check_usable(machine(), 0)


def test_without_a_gpu_the_selection_says_why_and_what_is_usable() -> None:
    cupy = pytest.importorskip("cupy")
    if cupy.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(mg.BackendUnavailableError, match=r"NVIDIA driver.*Usable here: numpy"):
        mg.use_backend("cupy")
    with pytest.raises(mg.BackendUnavailableError, match="a CuPy device is a number from 0"):
        mg.use_backend("cupy:gpu")


def python(program: str) -> str:
    """What a fresh interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout


def test_importing_the_backend_imports_no_cupy() -> None:
    assert python("import minigrad_cupy, sys; print('cupy' in sys.modules)") == "False\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told_that_the_gpu_is_its_parents() -> None:
    program = f"""
import os, sys
import minigrad as mg
x = mg.Tensor([1.0, 2.0], backend="{fake_cupy.SPEC}")
print((x + 1).tolist(), flush=True)
child = os.fork()
if child == 0:
    for use in (lambda: x + 1, lambda: x.tolist(), lambda: mg.zeros(2, backend=x.backend)):
        try:
            use()
        except RuntimeError as error:
            print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print((x * 2).tolist())
"""
    first, *child, last = python(program).splitlines()
    assert (first, last) == ("[2.0, 3.0]", "[2.0, 4.0]")
    assert child == [minigrad_cupy.FORKED] * 3


def test_out_of_memory_says_how_full_the_pool_is_and_what_to_do() -> None:
    class OutOfMemoryError(MemoryError):
        pass

    class Pool:
        held = 0

        def malloc(self, size: int) -> str:
            if size > 1000:
                raise OutOfMemoryError("Out of memory")
            self.held = size
            return "memory"

        def used_bytes(self) -> int:
            return 300

        def total_bytes(self) -> int:
            return self.held

    pool, installed = Pool(), []
    cuda = types.SimpleNamespace(
        get_allocator=lambda: pool.malloc,
        set_allocator=installed.append,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=types.SimpleNamespace(memGetInfo=lambda: (50, 8000)),
    )
    cupy = types.SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool)
    minigrad_cupy.explain_out_of_memory(cupy)
    (allocate,) = installed
    assert [allocate(900), allocate(400)] == ["memory"] * 2
    with pytest.raises(OutOfMemoryError) as caught:
        allocate(2000)
    (note,) = caught.value.__notes__
    assert note.startswith(
        "2,000 bytes asked for; CuPy's pool has 300 in use and held 900 at most; of the GPU's "
        "8,000 bytes 50 are free. Use smaller batches"
    )
    cuda.get_allocator = lambda: "the user's own"
    minigrad_cupy.explain_out_of_memory(cupy)
    assert len(installed) == 1


def test_the_run_on_a_gpu_fails_without_one_and_says_why() -> None:
    cupy = pytest.importorskip("cupy")
    if cupy.is_available():
        pytest.skip("this machine has a GPU")
    command = ["bash", str(ROOT / "tests/gpu/run.sh")]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("FAIL no GPU to test on: RuntimeError: ")


def test_the_report_of_a_gpu_counts_by_file_and_backend(tmp_path: Path) -> None:
    path = tmp_path / "results.xml"
    path.write_text(
        """<testsuites><testsuite>
        <testcase classname="tests.test_ops" name="test_row[cupy-value-add]" time="0.5"/>
        <testcase classname="tests.test_ops" name="test_row[cupy-value-exp]" time="1.0">
          <failure message="no"/></testcase>
        <testcase classname="tests.test_ops" name="test_row[numpy-value-add]" time="0.25"/>
        <testcase classname="tests.test_nn" name="test_x" time="0.0"><skipped message="no torch"/>
        </testcase></testsuite></testsuites>"""
    )
    text = report.table([("device", "a GPU")], *report.read(path), seconds=9.0)
    assert [line for line in text.splitlines() if not line.startswith("|---")] == [
        "# The suite on a GPU",
        "",
        "| | |",
        "| device | a GPU |",
        "",
        "| tests | backend | passed | failed | skipped | seconds |",
        "| test_nn |  | 0 | 0 | 1 | 0.0 |",
        "| test_ops | cupy | 1 | 1 | 0 | 1.5 |",
        "| test_ops | numpy | 1 | 0 | 0 | 0.2 |",
        "| **all on cupy** | cupy | 1 | 1 | 0 | 1.5 |",
        "| **all** |  | 2 | 1 | 1 | 9.0 |",
        "",
        "Skipped:",
        "",
        "- 1 x no torch",
    ]


def test_a_function_that_cupy_lacks_is_named() -> None:
    with pytest.raises(AttributeError) as caught:
        FAKE.xp.no_such_function  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("no_such_function", FAKE.xp)

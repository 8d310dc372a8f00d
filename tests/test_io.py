"""Checkpoints: what is saved comes back, a crash leaves the old file, a hostile one an error."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import io

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = ("safetensors", "npz")
DTYPES = ("float32", "float64", "bool", "int8", "int64", "uint8", "uint32")


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"model.{request.param}"


def layouts() -> dict[str, np.ndarray]:
    a = np.arange(24, dtype=np.float32).reshape(4, 6)
    return {
        "c": a,
        "fortran": np.asfortranarray(a),
        "transposed": a.T,
        "strided": a[::2, ::3],
        "reversed": a[::-1, ::-1],
        "repeated": np.broadcast_to(a[:1], (5, 6)),
        "big_endian": a.astype(">f4"),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.float64),
        **{f"dtype.{name}": np.arange(-2, 3).astype(name) for name in DTYPES},
    }


# --- what is saved comes back --------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [np.asarray, mg.Tensor])
def test_every_layout_and_dtype_comes_back(path: Path, wrap: Callable) -> None:
    wanted = layouts()
    if wrap is mg.Tensor:
        del wanted["big_endian"]  # no tensor holds it
    mg.save(path, {name: wrap(a) for name, a in wanted.items()}, {"step": 3})
    tensors, metadata = mg.load(path)
    assert metadata == {"step": 3}
    assert set(tensors) == set(wanted)
    for name, a in wanted.items():
        assert tensors[name].dtype == a.dtype.newbyteorder("="), name
        assert tensors[name].shape == a.shape, name
        assert tensors[name].tolist() == a.tolist(), name


def test_other_programs_read_what_is_saved(tmp_path: Path) -> None:
    """The library's own reader and numpy.load see the same values: the layout on disk is right."""
    a = np.arange(6.0).reshape(2, 3).T
    mg.save(tmp_path / "a.safetensors", {"w": a})
    mg.save(tmp_path / "a.npz", {"w": a})
    assert safetensors.numpy.load_file(tmp_path / "a.safetensors")["w"].tolist() == a.tolist()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["w"].tolist() == a.tolist()


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    a = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "a.npz", w=a)
    safetensors.numpy.save_file(
        {"w": np.ascontiguousarray(a)}, tmp_path / "a.safetensors", {"format": "pt"}
    )
    for suffix, metadata in (("npz", {}), ("safetensors", {"format": "pt"})):
        tensors, found = mg.load(tmp_path / f"a.{suffix}")
        assert found == metadata
        assert tensors["w"].tolist() == a.tolist()


def test_nests_are_named_by_dots_and_cut_into_sections(path: Path) -> None:
    model = {"cell.Wx": mg.ones((2, 3)), "cell.b": mg.zeros(3)}
    generator = mg.random.generator.numpy().copy()
    mg.save(path, {"model": model, "optimizer": {"m": {"0": np.ones(2)}}, "generator": generator})
    tensors, _ = mg.load(path)
    assert set(tensors) == {"model.cell.Wx", "model.cell.b", "optimizer.m.0", "generator"}
    assert set(io.section(tensors, "model")) == set(model)
    assert io.section(tensors, "model")["cell.Wx"].tolist() == [[1.0] * 3] * 2
    assert io.section(tensors, "mod") == {}


def test_metadata_is_any_json(path: Path) -> None:
    metadata = {"a": [1, 2.5, None, True], "ü": "\u2028 \U0001f600", "nest": {"x": {}}, "": ""}
    mg.save(path, {}, metadata)
    assert mg.load(path) == ({}, metadata)


def test_equal_values_give_equal_bytes(path: Path) -> None:
    contents = set()
    for _ in range(5):
        mg.save(path, {"b": np.ones(3), "a": np.zeros(2)}, {"x": 0, "y": 1, "z": 2})
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_the_tensors_live_where_one_asks(path: Path, backend: str) -> None:
    mg.save(path, {"w": mg.Tensor([1.0, 2.0])})
    assert mg.load(path)[0]["w"].backend.name == backend
    assert mg.load(path, backend="numpy")[0]["w"].backend.name == "numpy"


def test_saving_wants_names_values_and_a_suffix_it_knows(tmp_path: Path) -> None:
    good = tmp_path / "a.npz"
    cases = [
        (tmp_path / "a.pt", {}, {}, "must end in .safetensors or .npz"),
        (good, {"a/../b": np.ones(1)}, {}, "'a/../b' is no name"),
        (good, {"/a": np.ones(1)}, {}, "'/a' is no name"),
        (good, {"a//b": np.ones(1)}, {}, "'a//b' is no name"),
        (good, {"C:a": np.ones(1)}, {}, "'C:a' is no name"),
        (good, {"..": np.ones(1)}, {}, "no name"),
        (good, {"__metadata__": np.ones(1)}, {}, "no name"),
        (good, {"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, {}, "two tensors are called 'a.b'"),
        (good, {"a": np.ones(1, np.float16)}, {}, "tensor 'a': .*float16"),
        (good, {"a": np.ones(1, complex)}, {}, "complex128"),
        (good, {"a": np.array([None])}, {}, "object"),
        (good, {}, {"loss": float("nan")}, "metadata must be JSON"),
        (good, {}, {"x": object()}, "metadata must be JSON"),
        (tmp_path / "no" / "a.npz", {}, {}, "not saved: No such file"),
    ]
    cases.append((good, mg.nn.Linear(2, 1), {}, r"Linear is no dict .* pass its .state_dict\(\)"))
    cases.append((good, [np.ones(1)], {}, "list is no dict of tensors by name$"))
    for path, tensors, metadata, words in cases:
        with pytest.raises(mg.CheckpointError, match=words):
            mg.save(path, tensors, metadata)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_a_file_keeps_its_permissions(path: Path, mode: int) -> None:
    for keep in (1, 2):
        mg.save(path, {"w": mg.zeros(2)}, keep=keep)
        path.chmod(mode)
        mg.save(path, {"w": mg.ones(2)}, keep=keep)
        assert path.stat().st_mode & 0o777 == mode
        assert mg.load(path)[0]["w"].tolist() == [1, 1]
    assert path.with_suffix(f".1{path.suffix}").stat().st_mode & 0o777 == mode


def test_the_last_n_are_kept(path: Path) -> None:
    for step in range(5):
        mg.save(path, {"x": np.full(3, step)}, {"step": step}, keep=3)
    steps = [path, path.with_suffix(f".1{path.suffix}"), path.with_suffix(f".2{path.suffix}")]
    assert [mg.load(p)[1]["step"] for p in steps] == [4, 3, 2]
    assert len(list(path.parent.iterdir())) == 3


@pytest.mark.parametrize("keep", [0, -1, True, 1.5])
def test_at_least_one_is_kept(path: Path, keep: object) -> None:
    with pytest.raises(ValueError, match=f"keep={keep}: give an integer >= 1"):
        mg.save(path, {}, keep=keep)
    assert not path.exists()


def test_names_with_slashes_are_read_by_others(tmp_path: Path) -> None:
    mg.save(tmp_path / "a.npz", {"0/kernel": np.ones(2)})
    mg.save(tmp_path / "a.safetensors", {"0/kernel": np.ones(2)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["0/kernel"].tolist() == [1.0, 1.0]
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert found["0/kernel"].tolist() == [1.0, 1.0]


def test_a_link_is_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real.npz", tmp_path / "link.npz"
    mg.save(real, {}, {"n": 1})
    link.symlink_to(real)
    mg.save(link, {}, {"n": 2})
    assert link.is_symlink()
    assert mg.load(real)[1] == {"n": 2}


# --- a crash leaves the old file -----------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mg.save(path, {"x": np.ones(3)}, {"old": True})

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(mg.CheckpointError, match="No space left on device; the old file is intact"):
        mg.save(path, {"x": np.zeros(3)}, {"old": False})
    monkeypatch.undo()
    assert mg.load(path)[1] == {"old": True}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="limits of the operating system")
def test_a_limit_of_the_system_leaves_the_old_file(path: Path) -> None:
    """The same with a real refusal to write, half way through the file."""
    mg.save(path, {"x": np.ones(3)}, {"old": True})
    script = f"""
        import resource, numpy as np, minigrad as mg
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            mg.save({str(path)!r}, {{"x": np.zeros(1_000_000)}}, {{"old": False}})
        except mg.CheckpointError as error:
            print(error)
    """
    said = python(script).stdout
    assert "File too large; the old file is intact" in said
    assert mg.load(path)[1] == {"old": True}
    assert list(path.parent.iterdir()) == [path]


def python(script: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=True, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment(),
        **options,
    )  # fmt: skip


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINIGRAD_")}
    return {**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_at_any_moment_the_file_is_old_or_new(path: Path) -> None:
    """A process saves as fast as it can and is killed, again and again, at random moments."""
    script = f"""
        import itertools, numpy as np, minigrad as mg
        print("started", flush=True)
        for n in itertools.count():
            tensors = {{"x": np.full(50_000, n), "y": np.full(7, n)}}
            mg.save({str(path)!r}, tensors, {{"n": n}}, keep=2)
    """
    moments = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            stdout=subprocess.PIPE, env=environment(), cwd=ROOT,
        )  # fmt: skip
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"started\n"
            while not path.exists() and process.poll() is None:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
        for file in path.parent.glob(f"model*{path.suffix}"):
            tensors, metadata = mg.load(file)
            assert set(tensors["x"].tolist()) == set(tensors["y"].tolist()) == {metadata["n"]}


def test_what_killed_saves_left_is_cleared_away(path: Path) -> None:
    stale, fresh = (path.with_name(f".{path.name}.{n}.tmp") for n in ("1-1", "2-2"))
    for file in (stale, fresh):
        file.write_bytes(b"half a file")
    os.utime(stale, (0, 0))
    mg.save(path, {})
    assert not stale.exists()
    assert fresh.exists()  # another process may be writing it


def test_what_another_process_renames_meanwhile_is_none_of_ours(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = path.with_name(f".{path.name}.1-1.tmp")
    monkeypatch.setattr(Path, "glob", lambda *args: iter([gone]))
    mg.save(path, {"x": np.ones(3)})
    assert mg.load(path)[0]["x"].tolist() == [1.0] * 3


def test_older_files_that_another_process_moves_meanwhile_are_none_of_ours(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mg.save(path, {}, {"n": 0})
    monkeypatch.setattr(Path, "exists", lambda self: True)  # as it was a moment ago
    mg.save(path, {}, {"n": 1}, keep=4)
    assert [mg.load(p)[1]["n"] for p in (path, path.with_suffix(f".1{path.suffix}"))] == [1, 0]


def test_debug_reads_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other bytes reach the disk, the debug switch notices before the rename."""
    mg.save(path, {"x": np.ones(3)}, {"old": True})
    make, read = io._FORMATS[path.suffix]

    def wrong(target: Path, arrays: dict[str, np.ndarray], text: str) -> bytes:
        return make(target, {name: a + 1 for name, a in arrays.items()}, text)

    monkeypatch.setitem(io._FORMATS, path.suffix, (wrong, read))
    monkeypatch.setenv("MINIGRAD_DEBUG", "nan")
    with pytest.raises(mg.CheckpointError, match="tensor 'x' reads back with other values"):
        mg.save(path, {"x": np.zeros(3)})
    assert mg.load(path)[1] == {"old": True}


# --- untrusted files -----------------------------------------------------------------------------


def refused(path: Path, words: str) -> None:
    """The one error, in time and memory that the file's size bounds."""
    size, start = path.stat().st_size, time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(mg.CheckpointError, match=words) as caught:
            mg.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 30 * size + 5_000_000
    assert time.perf_counter() - start < 5


def header(text: str | dict, data: bytes = b"") -> bytes:
    encoded = (text if isinstance(text, str) else json.dumps(text)).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def entry(shape: list, offsets: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


OWN = json.dumps(json.dumps({"format": 1, "metadata": {}}))
ONE = json.dumps(entry([1], [0, 4]))
BROKEN = "cannot be read"
HOSTILE_SAFETENSORS = {
    "nothing": (b"", "header"),
    "a few bytes": (b"\x01\x02\x03", "header"),
    "header longer than the file": (struct.pack("<Q", 1 << 62) + b"{}", "header of 46116860184"),
    "huge header": (struct.pack("<Q", (1 << 24) + 1) + b" " * ((1 << 24) + 1), "header"),
    "no JSON": (header("hello"), BROKEN),
    "no UTF-8": (struct.pack("<Q", 4) + b"\xff\xfe{}", BROKEN),
    "no table": (header("[]"), "no table"),
    "deep": (header("[" * 100_000), BROKEN),
    "long integer": (header('{"a": ' + "9" * 10_000 + "}"), BROKEN),
    "a number as entry": (header({"a": 1}), "dtype"),
    "unknown dtype": (header({"a": entry([1], [0, 2], "BF16")}, b"\0" * 2), "BF16"),
    "dtype is a list": (header({"a": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}), "dtype"),
    "shape larger than the bytes": (header({"a": entry([1 << 40], [0, 4])}, b"\0" * 4), BROKEN),
    "shape that overflows": (header({"a": entry([1 << 32, 1 << 32], [0, 0])}), BROKEN),
    "negative shape": (header({"a": entry([-1], [0, 4])}, b"\0" * 4), BROKEN),
    "offsets beyond the file": (header({"a": entry([2], [0, 8])}, b"\0" * 4), BROKEN),
    "offsets reversed": (header({"a": entry([1], [4, 0])}, b"\0" * 4), BROKEN),
    "overlap": (header({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}, b"\0" * 12), BROKEN),
    "hole": (header({"a": entry([1], [0, 4]), "b": entry([1], [8, 12])}, b"\0" * 12), BROKEN),
    "bytes that nobody owns": (header({"a": entry([1], [0, 4])}, b"\0" * 8), BROKEN),
    "duplicate": (header(f'{{"a": {ONE}, "a": {ONE}}}', b"\0" * 4), "a name occurs twice"),
    "path": (header({"../../etc/passwd": entry([1], [0, 4])}, b"\0" * 4), "no name of a tensor"),
    "absolute path": (header({"/etc/passwd": entry([1], [0, 4])}, b"\0" * 4), "no name"),
    "backslashes": (header({"..\\x": entry([1], [0, 4])}, b"\0" * 4), "no name"),
    "NUL": (header({"a\0b": entry([1], [0, 4])}, b"\0" * 4), "no name"),
    "newline": (header({"a\n": entry([1], [0, 4])}, b"\0" * 4), "no name"),
    "long name": (header({"a" * 2000: entry([1], [0, 4])}, b"\0" * 4), "no name"),
    "bool of 7": (header({"a": entry([1], [0, 1], "BOOL")}, b"\7"), "neither 0 nor 1"),
    "metadata no table": (header({"__metadata__": [1]}), BROKEN),
    "metadata no text": (header({"__metadata__": {"minigrad": 1}}), BROKEN),
    "metadata no JSON": (header({"__metadata__": {"minigrad": "{"}}), BROKEN),
    "metadata of another shape": (header({"__metadata__": {"minigrad": "[]"}}), "its metadata"),
    "metadata NaN": (
        header({"__metadata__": {"minigrad": '{"format": 1, "metadata": {"a": NaN}}'}}),
        "NaN is no JSON number",
    ),
    "metadata duplicate": (
        header({"__metadata__": {"minigrad": '{"format": 1, "metadata": {"a": 1, "a": 2}}'}}),
        "twice",
    ),
    "a format to come": (
        header({"__metadata__": {"minigrad": '{"format": 2, "metadata": {}}'}}),
        "format 2; this minigrad reads 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_SAFETENSORS)
def test_a_hostile_safetensors_file_gets_one_error(tmp_path: Path, case: str) -> None:
    path = tmp_path / "hostile.safetensors"
    content, words = HOSTILE_SAFETENSORS[case]
    path.write_bytes(content)
    refused(path, words)


def test_the_smallest_of_the_hostile_files_would_load_if_it_were_right(tmp_path: Path) -> None:
    """The cases above differ from this one in the fault they are named for."""
    path = tmp_path / "good.safetensors"
    path.write_bytes(header(f'{{"__metadata__": {{"minigrad": {OWN}}}, "a": {ONE}}}', b"\0" * 4))
    assert mg.load(path)[0]["a"].tolist() == [0.0]


def npy(shape: str, dtype: str = "<f4", data: bytes = b"", order: str = "False") -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


HOSTILE_NPZ = {
    "pickled object": ([("a", npy("(1,)", "|O", b"cposix\nsystem\n"))], "never unpickled"),
    "huge shape": ([("a", npy(f"({1 << 40},)", data=b"\0" * 4))], "does not have its bytes"),
    "overflowing shape": ([("a", npy(f"({1 << 32}, {1 << 32})"))], "does not have its bytes"),
    "negative shape": ([("a", npy("(-1,)", data=b"\0" * 4))], "its bytes"),
    "two negatives": ([("a", npy("(-1, -1)", data=b"\0" * 4))], "its bytes"),
    "code as shape": ([("a", npy("(__import__('os').getpid(),)"))], "cannot be read"),
    "complex": ([("a", npy("()", "<c16", b"\0" * 16))], "complex128"),
    "half": ([("a", npy("()", "<f2", b"\0" * 2))], "float16"),
    "record": ([("a", npy("()", "<f4,<f4", b"\0" * 8))], "cannot be read"),
    "text": ([("a", npy("()", "<U2", b"\0" * 8))], "cannot be read"),
    "magic": ([("a", b"hello")], "cannot be read"),
    "version": ([("a", b"\x93NUMPY\x09\x00" + b"\0" * 50)], "version"),
    "path": ([("../a", npy("(1,)", data=b"\0" * 4))], "no name"),
    "bool of 7": ([("a", npy("(1,)", "|b1", b"\7"))], "neither 0 nor 1"),
    "metadata no JSON": ([("__metadata__", npy("(1,)", "|u1", b"{"))], "cannot be read"),
    "metadata no UTF-8": ([("__metadata__", npy("(1,)", "|u1", b"\xff"))], "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_NPZ)
def test_a_hostile_npz_file_gets_one_error(tmp_path: Path, case: str) -> None:
    path = tmp_path / "hostile.npz"
    members, words = HOSTILE_NPZ[case]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content)
    refused(path, words)


def test_the_npy_of_the_cases_is_one(tmp_path: Path) -> None:
    path = tmp_path / "good.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "a.npy", npy("(2, 2)", data=np.arange(4, dtype="<f4").tobytes(), order="True")
        )
    assert mg.load(path)[0]["a"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy("(100000000,)", "|u1", b"\0" * 100_000_000))
    refused(path, "compressed")


def test_an_npz_with_a_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "twice.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy("(1,)", data=b"\0" * 4))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy("(1,)", data=b"\0" * 4))
    refused(path, "twice")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    for name, words in (
        ("absent.npz", "No such file"),
        ("folder.npz", "not a regular file"),
        ("a.pt", "must end in"),
    ):
        with pytest.raises(mg.CheckpointError, match=words):
            mg.load(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="devices")
def test_an_endless_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.npz")  # opening it would wait for a writer for ever
    for name in ("zero.npz", "pipe.npz"):
        with pytest.raises(mg.CheckpointError, match="not a regular file"):
            mg.load(tmp_path / name)


CONTENT: dict[str, bytes] = {}


def good(suffix: str, folder: Path) -> bytes:
    if suffix not in CONTENT:
        path = folder / f"good.{suffix}"
        mg.save(path, {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(3, bool)}, {"step": 1})
        CONTENT[suffix] = path.read_bytes()
    return CONTENT[suffix]


mutation = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
    st.tuples(st.just("flip"), st.floats(0, 1), st.binary(min_size=1, max_size=1)),
    st.tuples(st.just("overwrite"), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("delete"), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
)


def mutated(content: bytes, kind: str, place: float, payload: bytes) -> bytes:
    at = int(place * (len(content) - 1))
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + payload + content[at:]
    if kind == "delete":
        return content[:at] + content[at + len(payload) :]
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (payload[0] or 1)]) + content[at + 1 :]
    return content[:at] + payload + content[at + len(payload) :]


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(changes=st.lists(mutation, min_size=1, max_size=3))
@example(changes=[("cut", 0.5, b"")])
def test_a_mutated_file_loads_or_gets_the_one_error(
    suffix: str, changes: list, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A flip within the values cannot be seen; other damage is a CheckpointError, or harmless."""
    folder = tmp_path_factory.getbasetemp()
    content = good(suffix, folder)
    for change in changes:
        content = mutated(content, *change) if content else content
    path = folder / f"mutated.{suffix}"
    path.write_bytes(content)
    try:
        tensors, metadata = mg.load(path)
    except mg.CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(metadata, dict)
        assert sum(t.size for t in tensors.values()) <= len(content)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_truncation_is_refused(suffix: str, tmp_path: Path) -> None:
    content = good(suffix, tmp_path)
    path = tmp_path / f"cut.{suffix}"
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(mg.CheckpointError):
            mg.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(content=st.binary(max_size=200))
def test_noise_gets_the_one_error(
    suffix: str, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"noise.{suffix}"
    path.write_bytes(content)
    with pytest.raises(mg.CheckpointError):
        mg.load(path)

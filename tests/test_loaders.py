"""minigrad_rnn.loaders: small files whose contents are written out by hand, and hostile ones."""

from __future__ import annotations

import io
import json
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad_rnn import loaders
from minigrad_rnn.loaders import DataError, labelled, parallel, sound, strokes
from minigrad_rnn.text import TextError


@pytest.fixture
def file(tmp_path):
    """Writes text or bytes to a file and returns its path."""

    def write(content, name="data.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


def message(load, *args):
    """The one line that an error says."""
    with pytest.raises(DataError) as caught:
        load(*args)
    assert isinstance(caught.value, TextError) and "\n" not in str(caught.value)
    return str(caught.value)


# --- labelled text --------------------------------------------------------------------------------


def test_a_table_of_texts_and_labels(file):
    path = file("good film\tpos\r\n\nbad film\tneg\nnot bad\tpos\n")
    found = labelled(path)
    assert found.texts == ("good film", "bad film", "not bad")
    assert found.names == ("neg", "pos")
    assert found.labels.tolist() == [1, 0, 1] and found.labels.dtype == np.int64


def test_columns_by_number_and_by_name(file):
    path = file("id\tstars\treview\n7\t5\tgrand\n8\t1\tdull\n")
    for columns in (("review", "stars"), (2, "stars"), ("review", 1)):
        found = labelled(path, *columns)
        assert found.texts == ("grand", "dull") and found.names == ("1", "5")
        assert found.labels.tolist() == [1, 0]
    assert labelled(path, 2, 1).texts == ("review", "grand", "dull")


def test_unicode_line_separators_do_not_end_a_line(file):
    assert labelled(file("a\u2028b\x0bc\tyes\n")).texts == ("a\u2028b\x0bc",)


@pytest.mark.parametrize(
    ("content", "columns", "words"),
    [
        ("a\tx\nb\n", (0, 1), "line 2 has 1 columns, not the columns 0 and 1"),
        ("a\tx\n\n\tx\n", (0, 1), "line 3 has an empty cell"),
        ("a\tx\n", (0, 5), "line 1 has 2 columns, not the columns 0 and 5"),
        ("a\tx\n", (-1, 0), "line 1 has 2 columns, not the columns -1 and 0"),
        ("text\tlabel\na\tx\n", ("text", "lable"), "line 1: no column 'lable', but text, label"),
        ("text\tlabel\n", ("text", "label"), "has no row"),
        ("", (0, 1), "is empty"),
        (b"caf\xe9\tx\n", (0, 1), "is not UTF-8 (byte 0xe9 at position 3)"),
        (b"a\0\tx\n", (0, 1), "is a binary file"),
        (b"\xff\xfea\0", (0, 1), "is UTF-16"),
    ],
)
def test_what_is_wrong_with_a_table(file, content, columns, words):
    path = file(content)
    said = message(labelled, path, *columns)
    assert words in said and str(path) in said


# --- parallel text --------------------------------------------------------------------------------


def test_two_files_line_by_line(file):
    a, b = file("one\n\ntwo  words\n", "a"), file("eins\n\nzwei Wörter", "b")
    assert parallel(a, b) == [("one", "eins"), ("two  words", "zwei Wörter")]


def test_one_table(file):
    path = file("1\tone\teins\n2\ttwo\tzwei\n")
    assert parallel(path, columns=(1, 2)) == [("one", "eins"), ("two", "zwei")]


def test_what_is_wrong_with_two_files(file):
    a, b, c = file("x\ny\n", "a"), file("1\n", "b"), file("1\n \n", "c")
    assert "a has 2 lines and" in message(parallel, a, b)
    assert f"{c}, line 2 is blank" in message(parallel, a, c)
    assert f"{c}, line 2 is blank" in message(parallel, c, a)
    assert "line 1 has 1 columns" in message(parallel, a)


# --- pen strokes ----------------------------------------------------------------------------------


def test_strokes_in_json_lines(file):
    path = file('{"strokes": [[0, 0, 0], [1.5, -2, 1]], "text": "i"}\n\n{"strokes": [[3, 4, 1]]}\n')
    first, second = strokes(path)
    assert first.text == "i" and second.text == ""
    assert first.points.dtype == np.float32 and first.points.tolist() == [[0, 0, 0], [1.5, -2, 1]]
    assert second.points.tolist() == [[3, 4, 1]]


INKML = """<?xml version="1.0" encoding="UTF-8"?>
<ink xmlns="http://www.w3.org/2003/InkML">
  <annotation type="truth">hi</annotation>
  <trace>10 20 5, 11 22 6, 13 22 7</trace>
  <trace id="b"> 20 20,
    21.5 19 </trace>
</ink>
"""


@pytest.mark.parametrize("space", [' xmlns="http://www.w3.org/2003/InkML"', ""])
def test_the_traces_of_inkml(file, space):
    (drawing,) = strokes(file(INKML.replace(' xmlns="http://www.w3.org/2003/InkML"', space)))
    assert drawing.text == "hi" and drawing.points.dtype == np.float32
    assert drawing.points.tolist() == [[0, 0, 0], [1, 2, 0], [2, 0, 1], [7, -2, 0], [1.5, -1, 1]]


BOMB = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "line 1 is no JSON"),
        ("\n[1, 2]", 'line 2: give {"strokes"'),
        ('{"text": "a"}', "line 1: give points of 3 finite numbers"),
        ('{"strokes": []}', "at least one"),
        ('{"strokes": [[1, 2]]}', "points of 3"),
        ('{"strokes": [[1, 2, 0], [1]]}', "points of 3"),
        ('{"strokes": [[1, 2, "0"]]}', "points of 3"),
        ('{"strokes": [[1, 2, true]]}', "points of 3"),
        ('{"strokes": [[1e39, 2, 0]]}', "finite"),
        ('{"strokes": [[NaN, 2, 0]]}', "finite"),
        (f'{{"strokes": [[{"9" * 400}, 2, 0]]}}', "finite"),
        ('{"strokes": [[1, 2, 0.5]]}', "line 1: pen is 1"),
        ('{"strokes": [[1, 2, 0]], "text": 3}', 'line 1: give {"strokes"'),
        ("[" * 100_000, "line 1 is no JSON"),
        ("<ink><trace>1 2", "is no InkML"),
        ("<ink></ink>", "has no <trace>"),
        ("<ink><trace>1 2, 3</trace></ink>", "trace 1: give points of 2"),
        ("<ink><trace>1 2</trace><trace>1 nan</trace></ink>", "trace 2: give points of 2"),
        ("<ink><trace>1 2, '3 '4</trace></ink>", "trace 1"),
        (f'<!DOCTYPE ink [<!ENTITY e0 "a">{BOMB}]><ink>&e9;</ink>', "remove the document type"),
        ('<!DOCTYPE ink [<!ENTITY x SYSTEM "file:///etc/passwd">]><ink>&x;</ink>', "document type"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_strokes(file, content, words):
    assert words in message(strokes, file(content))


# --- sound ----------------------------------------------------------------------------------------


def wav(data, width=2, channels=1, rate=8000):
    """The bytes of a WAV file with these samples, as they stand."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setparams((channels, width, rate, 0, "NONE", "not compressed"))
        out.writeframes(data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("width", "data", "expected"),
    [
        (1, bytes([0, 64, 128, 255]), [-1, -0.5, 0, 127 / 128]),
        (2, struct.pack("<4h", -32768, 0, 16384, 32767), [-1, 0, 0.5, 32767 / 32768]),
        (3, b"\x00\x00\x80\x00\x00\x40\xff\xff\xff", [-1, 0.5, -1 / 2**23]),
        (4, struct.pack("<3i", -(2**31), 2**30, 0), [-1, 0.5, 0]),
    ],
)
def test_samples_of_every_width(file, width, data, expected):
    samples, rate = sound(file(wav(data, width)))
    assert rate == 8000 and samples.dtype == np.float32
    np.testing.assert_array_equal(samples, np.array(expected, np.float32))


def test_channels_are_mixed(file):
    data = struct.pack("<6h", 16384, 0, -32768, -32768, 100, -100)
    samples, rate = sound(file(wav(data, channels=2, rate=44100)))
    assert samples.tolist() == [0.25, -1.0, 0.0] and rate == 44100


def test_what_is_wrong_with_a_sound(file, tmp_path):
    good = wav(struct.pack("<4h", 1, 2, 3, 4))
    assert "is no WAV file" in message(sound, file(b"RIFFxxxx"))
    assert "is no WAV file" in message(sound, file(b""))
    assert "6 bytes of sound, but 4 frames" in message(sound, file(good[:-2]))
    assert "0 bytes of sound" in message(sound, file(wav(b"")))
    huge = good[:40] + struct.pack("<I", 2**32 - 2) + good[44:]  # declares four gigabytes
    assert "bytes of sound" in message(sound, file(huge))
    assert "is no WAV file" in message(sound, file(good[:20] + struct.pack("<H", 3) + good[22:]))
    assert "at 0 Hz" in message(sound, file(good[:24] + bytes(4) + good[28:]))
    assert "is no file" in message(sound, tmp_path)


# --- all ------------------------------------------------------------------------------------------

LOADERS = (labelled, parallel, strokes, sound)


@pytest.mark.parametrize("load", LOADERS)
def test_a_path_that_is_no_file(load, tmp_path):
    assert "is no file: check the path" in message(load, tmp_path / "missing")
    assert "is no file" in message(load, tmp_path)


@pytest.mark.parametrize("load", LOADERS)
def test_a_file_that_is_too_large(load, file, monkeypatch):
    monkeypatch.setattr(loaders, "LARGEST", 10)
    assert "has 11 bytes: cut it" in message(load, file("x" * 11))


@pytest.mark.parametrize("load", LOADERS)
def test_a_file_that_may_not_be_read(load, file, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)  # a mode would not stop root
    assert "Permission denied" in message(load, file("a\tb\n"))


VALID = (
    b"good film\tpos\nbad film\tneg\n",
    json.dumps({"strokes": [[0, 1, 0], [2, 3, 1]], "text": "a"}).encode(),
    INKML.encode(),
    wav(struct.pack("<4h", 1, 2, 3, 4)),
)


@st.composite
def broken(draw):
    """A valid file of some kind, cut, with bytes changed and others put in."""
    data = bytearray(draw(st.sampled_from(VALID)))
    for place in draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
        data[place] = draw(st.integers(0, 255))
    place = draw(st.integers(0, len(data)))
    data[place:place] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(place, len(data)))])


@settings(max_examples=150)
@given(st.one_of(broken(), st.binary(max_size=60)))
def test_no_file_gets_anything_but_the_documented_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(data)
    for load in LOADERS:
        try:
            found = load(path)
        except DataError as error:
            assert "\n" not in str(error)
        else:
            if load is strokes:
                assert all(np.isfinite(d.points).all() and d.points.shape[1] == 3 for d in found)
            if load is sound:
                assert np.abs(found[0]).max() <= 1

"""minigrad_rnn.text against ast, plain dictionaries and indices counted out by hand."""

import ast
import hashlib
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad_rnn.text import (
    Corpus,
    TextError,
    Vocabulary,
    batch_count,
    batches,
    code_points,
    default_corpus,
    docstrings,
    read_text,
    split,
)


def docstrings_by_ast(source):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


# --- the default corpus ---


def test_docstrings_are_those_that_ast_finds():
    folder = Path(sysconfig.get_path("stdlib"))
    sources = [path.read_text("utf-8") for path in sorted(folder.glob("[qrst]*.py"))]
    expected = Counter(text for source in sources for text in docstrings_by_ast(source))
    found = Counter(text for source in sources for text in docstrings(source))
    both = (expected & found).total()
    assert expected.total() > 300
    assert both > 0.95 * expected.total()
    assert both > 0.99 * found.total()


def test_docstrings_of_a_module_written_for_it():
    source = '''# -*- coding: utf-8 -*-
# A comment first.
"""Module."""
text = """not a docstring"""
table = {"a": 1,
  "b": [2]}
class C(Base):  # why
    """Class, a \\"quote\\" and \\x41 in it."""
    async def f(self, x: int = 1) -> str:
        # a comment between
        r"""Raw \\d.

        Then
            indented more.
        """
        return """not one either"""
    def g(self): return 1
    def h(self):
        """"""
'''
    expected = ["Module.", 'Class, a "quote" and A in it.', "Raw \\d.\n\nThen\n    indented more."]
    assert docstrings(source) == expected
    assert sorted(docstrings_by_ast(source)) == sorted(expected)


def test_default_corpus_is_bounded_reproducible_and_imports_nothing():
    script = (
        "import sys, time, minigrad_rnn.text as text\n"
        "import sysconfig; sysconfig.get_path('stdlib')  # imports a table of its own\n"
        "before, start = set(sys.modules), time.process_time()  # other tests run beside\n"
        "corpus = text.default_corpus()\n"
        "seconds = time.process_time() - start\n"
        "print(seconds, sorted(set(sys.modules) - before), corpus.sha256)\n"
    )
    seconds, rest = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    ).stdout.split(maxsplit=1)
    corpus = default_corpus()
    assert rest.split() == ["[]", corpus.sha256]
    assert float(seconds) < 1.5
    assert 500_000 < len(corpus.text) <= 1_000_000
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()
    assert "Python " + ".".join(map(str, sys.version_info[:3])) in corpus.name
    assert default_corpus(5000).text == corpus.text[:5000]


def test_default_corpus_takes_whole_docstrings_once_and_in_order():
    text = default_corpus().text
    folder = Path(sysconfig.get_path("stdlib"))
    places = []
    for module in ("bisect", "heapq", "shlex", "textwrap"):
        docstring = ast.get_docstring(ast.parse((folder / f"{module}.py").read_text("utf-8")))
        assert text.count(docstring) == 1
        places.append(text.index(docstring))
    assert places == sorted(places)


def test_default_corpus_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(TextError, match=r"no library sources .*--text FILE"):
        default_corpus()


# --- files ---


def test_read_text_takes_any_line_ends_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n\xc3\xa9")
    assert read_text(path, minimum=1) == "one\ntwo\nthree\né"
    assert read_text(str(path), minimum=15) == "one\ntwo\nthree\né"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"short", "has 5 characters: give a text of at least 1000"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "binary file .zero byte at position 8.: give a UTF-8"),
        (b"caf\xe9 " * 300, "not UTF-8 .byte 0xe9 at position 3.: save it as UTF-8"),
        ("text".encode("utf-16"), "is UTF-16: save it as UTF-8"),
    ],
)
def test_read_text_says_in_one_line_what_is_wrong(tmp_path, data, message):
    path = tmp_path / "notes.txt"
    path.write_bytes(data)
    with pytest.raises(TextError, match=f"notes.txt.*{message}") as caught:
        read_text(path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_read_text_wants_a_file(tmp_path):
    with pytest.raises(TextError, match=r"none\.txt does not exist: check the path"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(TextError, match="is a directory: name one text file in it"):
        read_text(tmp_path)
    with pytest.raises(TextError, match="cannot be read"):
        read_text("x" * 5000)


def test_corpus_digest():
    # The digest of "abc" is the example of FIPS 180-2, appendix B.1.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Corpus.of("abc", "letters") == Corpus("abc", "letters", digest)


# --- vocabularies ---


@given(st.text(min_size=1))
def test_vocabulary_is_a_sorted_dictionary(text):
    vocabulary = Vocabulary(text)
    table = {character: index for index, character in enumerate(sorted(set(text)))}
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int64
    assert ids.tolist() == [table[character] for character in text]
    assert vocabulary.decode(ids) == vocabulary.decode(ids.tolist()) == text
    assert len(vocabulary) == len(table)
    assert Vocabulary(vocabulary.characters) == vocabulary


def test_vocabulary_of_characters_beyond_the_first_plane():
    vocabulary = Vocabulary("a😀b😀")
    assert vocabulary.characters == "ab😀"
    assert vocabulary.encode("😀ba").tolist() == [2, 1, 0]
    assert code_points("😀").tolist() == [0x1F600]


def test_unknown_characters_are_named_or_replaced():
    vocabulary = Vocabulary("abc?")
    with pytest.raises(TextError, match=r"'é' \(U\+00E9, position 2\) is not among the 4 char"):
        vocabulary.encode("abéz")
    assert vocabulary.decode(vocabulary.encode("abéz", replacement="?")) == "ab??"
    with pytest.raises(TextError, match=r"'!' \(U\+0021"):
        vocabulary.encode("abé", replacement="!")
    with pytest.raises(TextError, match="one character, not '--'"):
        vocabulary.encode("é", replacement="--")
    with pytest.raises(TextError, match="empty"):
        Vocabulary("")


def test_empty_text_and_indices():
    vocabulary = Vocabulary("ab")
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.encode("").dtype == np.int64
    assert vocabulary.decode([]) == ""


@pytest.mark.parametrize("ids", [[0, 2], [-1], [[0, 1]], [0.0]])
def test_decode_refuses_what_is_no_index(ids):
    with pytest.raises(TextError):
        Vocabulary("ab").decode(ids)


# --- splits and batches ---


@pytest.mark.parametrize(
    ("share", "train"), [(0.05, 95), (0.0, 100), (0.1, 90), (0.999, 1), (0.004, 100)]
)
def test_split_keeps_the_order(share, train):
    text = "".join(chr(0x4E00 + i) for i in range(100))
    assert split(text, share) == (text[:train], text[train:])
    first, second = split(np.arange(100), share)
    assert np.concatenate([first, second]).tolist() == list(range(100))
    assert len(first) == train


@pytest.mark.parametrize("share", [-0.1, 1.0, 2])
def test_split_refuses_other_shares(share):
    with pytest.raises(TextError, match="0 <= share < 1"):
        split("text", share)


def test_batches_counted_out():
    # 14 characters: 13 pairs, two streams of 6, pieces of 4.
    pieces = list(batches(np.arange(14), batch=2, seq=4))
    assert len(pieces) == batch_count(14, 2, 4) == 1
    inputs, targets = pieces[0]
    assert inputs.tolist() == [[0, 6], [1, 7], [2, 8], [3, 9]]
    assert targets.tolist() == [[1, 7], [2, 8], [3, 9], [4, 10]]
    _, (inputs, targets) = batches(np.arange(14), batch=2, seq=4, partial=True)
    assert inputs.tolist() == [[4, 10], [5, 11]]
    assert targets.tolist() == [[5, 11], [6, 12]]


@given(st.integers(2, 200), st.integers(1, 6), st.integers(1, 9), st.booleans())
def test_rows_of_consecutive_batches_are_one_stream(length, batch, seq, partial):
    ids = np.arange(length)
    if length < batch * (1 if partial else seq) + 1:
        with pytest.raises(TextError, match="do not fill one batch"):
            batches(ids, batch, seq, partial=partial)
        return
    pieces = list(batches(ids, batch, seq, partial=partial))
    inputs = np.concatenate([x for x, _ in pieces])
    targets = np.concatenate([y for _, y in pieces])
    stream = (length - 1) // batch
    assert inputs.shape[0] == (stream if partial else stream // seq * seq)
    for row in range(batch):
        start = row * stream
        assert inputs[:, row].tolist() == list(range(start, start + len(inputs)))
    assert np.array_equal(targets, inputs + 1)
    assert all(x.flags.c_contiguous and y.flags.c_contiguous for x, y in pieces)
    if not partial:
        assert len(pieces) == batch_count(length, batch, seq)


def test_batches_go_on_where_they_were_left_and_copy():
    ids = np.arange(101)
    rest = list(batches(ids, 3, 5))[2:]
    again = list(batches(ids, 3, 5, first=2))
    assert len(rest) == len(again) == 4
    assert all(np.array_equal(a, b) for x, y in zip(rest, again, strict=True) for a, b in zip(x, y))
    again[0][0][:] = -1
    assert ids.tolist() == list(range(101))


@pytest.mark.parametrize(("batch", "seq"), [(0, 5), (2, 0)])
def test_batches_refuse_empty_sizes(batch, seq):
    with pytest.raises(TextError, match="at least 1"):
        batches(np.arange(50), batch, seq)

"""Text for character models: a default corpus, files, vocabularies, batches."""

from __future__ import annotations

import ast
import hashlib
import inspect
import platform
import re
import stat
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

Sliceable = TypeVar("Sliceable", str, np.ndarray)

WORD = re.compile(r" ?\w+| ?[^\w\s]|\s")  # a word or a mark keeps the space before it

# A triple-quoted string that opens a file or follows a line ending in a colon: 96 % of what ast
# finds, and nothing else, in a tenth of the two seconds that ast takes for these five megabytes.
DOCSTRING = re.compile(
    r"(?:\A|:[ \t]*(?:\#.*)?\n)(?:[ \t]*(?:\#.*)?\n)*[ \t]*"
    r"""(?P<string>[rR]?(?:"{3}[^"\\]*(?:(?:\\[\s\S]|"(?!""))[^"\\]*)*"{3}"""
    r"""|'{3}[^'\\]*(?:(?:\\[\s\S]|'(?!''))[^'\\]*)*'{3}))"""
)


class TextError(ValueError):
    """A text that cannot be used; the message says why and what to do, in one line."""


@dataclass(frozen=True)
class Corpus:
    """A text with the name it is reported under; `sha256` is that of its UTF-8 bytes."""

    text: str
    name: str
    sha256: str

    @classmethod
    def of(cls, text: str, name: str) -> Corpus:
        """Return the corpus of `text`, its digest computed."""
        return cls(text, name, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def default_corpus(limit: int = 1_000_000) -> Corpus:
    """Return up to `limit` characters: the docstrings of the standard library's top-level modules.

    The modules' source files are read in order of name, and nothing is imported. A docstring that
    occurs twice is taken once, so that the part kept for validation holds no copies.
    Raises TextError where this Python came without its sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    found: dict[str, None] = {}
    characters = 0
    for name in sorted(sys.stdlib_module_names - {"test"}):
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file() and characters < limit:
                for docstring in docstrings(path.read_text("utf-8", errors="replace")):
                    if docstring not in found:
                        found[docstring] = None
                        characters += len(docstring) + 2
    if not found:
        raise TextError(f"no library sources in {folder}: give a text of your own, --text FILE")
    name = f"docstrings of the Python {platform.python_version()} standard library"
    return Corpus.of("\n\n".join(found)[:limit], name)


def docstrings(source: str) -> list[str]:
    """Return the docstrings in Python source code, in order, indentation removed."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape, which is not ours to mend
        for match in DOCSTRING.finditer(source):
            try:
                text = inspect.cleandoc(ast.literal_eval(match["string"]))
            except SyntaxError:  # the pattern met something that is no string
                continue
            if text:
                found.append(text)
    return found


def read_text(path: str | Path, minimum: int = 1000) -> str:
    """Return the text of a UTF-8 file, line ends as "\\n", a byte order mark dropped.

    Raises TextError for a path that is missing or no regular file, for a binary or otherwise
    encoded file, and for a text of fewer than `minimum` characters.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise TextError(f"{path} is a directory: name one text file in it")
        if not stat.S_ISREG(mode):
            raise TextError(f"{path} is not a regular file: save the text to a file first")
        data = path.read_bytes()
    except FileNotFoundError:
        raise TextError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise TextError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise TextError(f"{path} is UTF-16: save it as UTF-8")
    if 0 in data:
        raise TextError(
            f"{path} is a binary file (zero byte at position {data.index(0)}): "
            "give a UTF-8 text file"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path} is not UTF-8 (byte 0x{data[error.start]:02x} at position {error.start}): "
            "save it as UTF-8, or give another text file"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise TextError(f"{path} is empty: give a file with at least {minimum} characters")
    if len(text) < minimum:
        raise TextError(f"{path} has {len(text)} characters: give a text of at least {minimum}")
    return text


class Vocabulary:
    """The distinct characters of a text, sorted; `Vocabulary(v.characters)` equals `v`."""

    def __init__(self, text: str) -> None:
        if not text:
            raise TextError("a vocabulary needs at least one character: the text is empty")
        self.characters = "".join(sorted(set(text)))
        self._codes = code_points(self.characters)

    def __len__(self) -> int:
        return len(self.characters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __repr__(self) -> str:
        return f"Vocabulary({self.characters!r})"

    def encode(self, text: str, replacement: str | None = None) -> np.ndarray:
        """Return the int64 indices (N,) of the N characters of `text`.

        An unknown character counts as `replacement`, or raises TextError where there is none.
        """
        codes = code_points(text)
        ids = np.minimum(np.searchsorted(self._codes, codes), len(self) - 1)
        unknown = self._codes[ids] != codes
        if unknown.any():
            if replacement is None:
                where = int(np.argmax(unknown))
                raise TextError(
                    f"{text[where]!r} (U+{ord(text[where]):04X}, position {where}) is not among "
                    f"the {len(self)} characters of the vocabulary: "
                    "remove it, or choose a replacement"
                )
            if len(replacement) != 1:
                raise TextError(f"the replacement must be one character, not {replacement!r}")
            ids[unknown] = self.encode(replacement)[0]
        return ids.astype(np.int64, copy=False)

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """Return the text of a sequence (N,) of indices."""
        array = np.asarray(ids)
        if array.size == 0:
            return ""
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise TextError(f"decode takes integers (N,), not {array.dtype} {array.shape}")
        if array.min() < 0 or array.max() >= len(self):
            wrong = array[(array < 0) | (array >= len(self))][0]
            raise TextError(f"index {wrong} is outside the vocabulary of {len(self)} characters")
        return str(self._codes[array].tobytes(), "utf-32-le", "surrogatepass")


class WordVocabulary:
    """The words that a text has at least `least` times, and its characters, to spell the others.

    Words and marks keep the space before them. Every text of these characters, and of those given
    besides, has one encoding, and decoding it gives the text, so that a model of words also has its
    bits per character.
    """

    def __init__(self, text: str, least: int = 5, characters: str = "") -> None:
        self.letters = Vocabulary(text + characters)
        counts = Counter(WORD.findall(text))
        words = [word for word, n in counts.items() if n >= least and len(word) > 1]
        self.symbols = [*self.letters.characters, *sorted(words)]
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def __repr__(self) -> str:
        words = len(self) - len(self.letters)
        return f"<WordVocabulary of {len(self.letters)} characters and {words} words>"

    def encode(self, text: str) -> np.ndarray:
        """Return the int64 indices (N,) of the words of `text`, rare ones letter by letter.

        Raises TextError for a character that is not among those of the vocabulary.
        """
        letters = self.letters.encode(text)
        parts = [
            [self._ids[word[0]]] if word[0] in self._ids else letters[slice(*word.span())]
            for word in WORD.finditer(text)
        ]
        return np.concatenate([letters[:0], *parts])

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """Return the text of a sequence (N,) of indices."""
        array = np.asarray(ids)
        if array.size and not 0 <= array.min() <= array.max() < len(self):
            raise TextError(f"indices are 0 to {len(self) - 1}, the vocabulary's words")
        return "".join(self.symbols[i] for i in array)


def code_points(text: str) -> np.ndarray:
    """Return the code points (N,) of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def split(text: Sliceable, validation: float = 0.05) -> tuple[Sliceable, Sliceable]:
    """Cut a text, or its indices, into (train, validation): contiguous, the last part validates."""
    if not 0 <= validation < 1:
        raise TextError(f"validation is a share of the text, 0 <= share < 1, not {validation}")
    cut = len(text) - int(len(text) * validation)
    return text[:cut], text[cut:]


def batch_count(length: int, batch: int, seq: int) -> int:
    """Return how many whole batches `batches` cuts from a text of `length` characters."""
    return max(length - 1, 0) // batch // seq


def batches(
    ids: np.ndarray, batch: int, seq: int, *, first: int = 0, partial: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield inputs and targets, each (T, B): T = `seq` characters of B = `batch` streams.

    The text is cut into B streams of equal length. Row b of a batch goes on where row b of the
    batch before it stopped, so that a state may be carried over; targets are the inputs one
    character later. `first` skips that many batches; `partial` also yields the shorter last piece.
    Raises TextError where the text does not fill one batch (one row with `partial`).
    """
    if batch < 1 or seq < 1:
        raise TextError(f"batch and seq must be at least 1, not {batch} and {seq}")
    length = max(len(ids) - 1, 0) // batch
    needed = batch * (1 if partial else seq) + 1
    if len(ids) < needed:
        raise TextError(
            f"{len(ids)} characters do not fill one batch of {batch} x {seq}, "
            f"which takes {needed}: give a longer text, or a smaller batch or seq"
        )
    inputs = ids[: batch * length].reshape(batch, length).T
    targets = ids[1 : batch * length + 1].reshape(batch, length).T
    stop = length if partial else length - seq + 1
    return (
        (np.ascontiguousarray(inputs[t : t + seq]), np.ascontiguousarray(targets[t : t + seq]))
        for t in range(first * seq, stop, seq)
    )

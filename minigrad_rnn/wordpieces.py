"""Pieces of words, and BLEU: what a translation model reads and writes, and how it is scored."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from minigrad import arguments
from minigrad_rnn.text import TextError

Pair = tuple[int, int]
WORD = re.compile(r"\s?\S+|\s")  # a word keeps the space before it, so that nothing is lost


class WordPieces:
    """A byte-pair encoding (Sennrich et al. 2016): 256 bytes, and the pairs that were merged.

    Piece 256 + i is the pair merges[i]. Every string has an encoding, and its decoding is the
    string; pieces do not cross from word to word.
    """

    def __init__(self, merges: Iterable[Sequence[int]] = ()) -> None:
        self.ranks: dict[Pair, int] = {}  # in the order they were merged
        self.pieces = [bytes([b]) for b in range(256)]
        for left, right in merges:
            if not 0 <= min(left, right) <= max(left, right) < len(self.pieces):
                raise TextError(f"merge {len(self.ranks)} joins {left} and {right}: no such piece")
            if (left, right) in self.ranks:
                raise TextError(f"merge {len(self.ranks)} joins {left} and {right} once more")
            self._merge((left, right))

    def _merge(self, pair: Pair) -> None:
        self.ranks[pair] = len(self.ranks)
        self.pieces.append(self.pieces[pair[0]] + self.pieces[pair[1]])

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def merges(self) -> list[Pair]:
        """The pairs that were merged, in order."""
        return list(self.ranks)

    @classmethod
    def learn(cls, texts: Iterable[str], merges: int) -> WordPieces:
        """Merge the most frequent neighbours, `merges` times or until no pair occurs twice.

        Of pairs that occur equally often, the one with the smaller numbers.
        """
        if isinstance(texts, str):
            raise TextError("WordPieces.learn: takes several texts, not one; give [text]")
        made = cls()
        counts = Counter(w for text in texts for w in WORD.findall(text))
        words = {tuple(_bytes(word)): n for word, n in counts.items()}
        for _ in range(merges):
            pairs: Counter[Pair] = Counter()
            for word, n in words.items():
                for pair in pairwise(word):
                    pairs[pair] += n
            if not pairs or max(pairs.values()) < 2:
                break
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            words = {tuple(_joined(word, best, len(made))): n for word, n in words.items()}
            made._merge(best)
        return made

    def encode(self, text: str) -> list[int]:
        """The pieces of a text: the merges, in the order they were learned, word by word."""
        rank, found = self.ranks, []
        for part in WORD.findall(text):
            word = list(_bytes(part))
            while known := [p for p in pairwise(word) if p in rank]:
                first = min(known, key=rank.__getitem__)
                word = _joined(word, first, 256 + rank[first])
            found += word
        return found

    def decode(self, pieces: Iterable[int]) -> str:
        """The text of pieces; bytes that are no UTF-8 by themselves become U+FFFD."""
        known = [int(p) for p in pieces]
        for p in known:
            if not 0 <= p < len(self):
                raise TextError(f"piece {p} is not one of the {len(self)} pieces")
        return b"".join(self.pieces[p] for p in known).decode("utf-8", errors="replace")

    def save(self, path: str | Path) -> None:
        """Write the merges as JSON."""
        Path(path).write_text(json.dumps({"merges": self.merges}) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | Path) -> WordPieces:
        """Read what `save` wrote."""
        return cls(json.loads(Path(path).read_text("utf-8"))["merges"])


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(f"{text!r} is not UTF-8: {error.reason}") from None


def _joined(word: Sequence[int], pair: Pair, piece: int) -> list[int]:
    """The word with each occurrence of the pair, from the left, as one piece."""
    out: list[int] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] = piece
        else:
            out.append(symbol)
    return out


# --- BLEU ----------------------------------------------------------------------------------------

Tokens = Sequence[Any]


def modified_precision(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], n: int
) -> tuple[int, int]:
    """(matched, total) n-grams of all candidates (Papineni et al. 2002, section 2.1).

    One counts at most as often as it occurs in the one of its references that has it most.
    """

    def grams(tokens: Tokens) -> Counter[tuple[Any, ...]]:
        return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    matched = total = 0
    for candidate, own in zip(candidates, references, strict=True):
        lists = not isinstance(own, str) and all(isinstance(text, Sequence) for text in own)
        if not lists or any(isinstance(text, str) != isinstance(candidate, str) for text in own):
            raise ValueError(
                f"bleu: a candidate has a list of references, each a text, not {own!r}"
            )
        most: Counter[tuple[Any, ...]] = Counter()
        for reference in own:
            most |= grams(reference)
        found = grams(candidate)
        matched += sum((found & most).values())
        total += sum(found.values())
    return matched, total


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], N: int = 4) -> float:
    """BLEU in [0, 1]: BP exp(sum over n of log p_n / N) (Papineni et al. 2002, section 2.3).

    BP = min(1, exp(1 - r / c)), c the length of all candidates, r of the references nearest to each
    in length. references: those of each candidate. 0 where no n-gram of some length matches.
    """
    N = arguments.size("N", N)
    shares = [modified_precision(candidates, references, n) for n in range(1, N + 1)]
    if not all(matched for matched, _ in shares):
        return 0.0
    c = sum(map(len, candidates))
    r = sum(
        min((abs(len(own) - len(candidate)), len(own)) for own in several)[1]
        for candidate, several in zip(candidates, references, strict=True)
    )
    mean = sum(math.log(matched / total) for matched, total in shares) / N
    return min(1.0, math.exp(1 - r / c)) * math.exp(mean)

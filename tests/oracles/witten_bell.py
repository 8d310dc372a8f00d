"""An interpolated Witten-Bell model of characters (Witten & Bell 1991; Chen & Goodman 1998).

    P(c | h) = (n(hc) + N(h) P(c | h')) / (n(h) + N(h))

n counts in the training text, n(h) = sum_c n(hc), N(h) is the number of different characters
seen after h, h' is h without its oldest character. After the empty h comes the uniform
distribution over the vocabulary. A history never seen says nothing: P(c | h) = P(c | h').
"""

from collections import Counter
from collections.abc import Iterable
from math import log2


class WittenBell:
    """The model with `order` characters of history (a trigram model, in n-grams, has order 2)."""

    def __init__(self, text: str, vocabulary: Iterable[str] | None = None, order: int = 3) -> None:
        self.order = order
        self.vocabulary = frozenset(text if vocabulary is None else vocabulary)
        self._refuse_unknown(text)
        self.count: Counter[str] = Counter()  # n(hc), by the string hc
        for length in range(1, order + 2):
            self.count.update(text[i : i + length] for i in range(len(text) - length + 1))
        self.total: Counter[str] = Counter()  # n(h)
        self.kinds: Counter[str] = Counter()  # N(h)
        for gram, n in self.count.items():
            self.total[gram[:-1]] += n
            self.kinds[gram[:-1]] += 1

    def _refuse_unknown(self, text: str) -> None:
        unknown = sorted(set(text) - self.vocabulary)
        if unknown:
            raise ValueError(f"characters outside the vocabulary: {unknown}")

    def probability(self, character: str, history: str = "") -> float:
        """Return P(character | the last `order` characters of history)."""
        history = history[max(0, len(history) - self.order) :]
        p = 1 / len(self.vocabulary)
        for start in range(len(history), -1, -1):  # from the empty history to the longest
            h = history[start:]
            if self.total[h]:
                n, kinds = self.count[h + character], self.kinds[h]
                p = (n + kinds * p) / (self.total[h] + kinds)
        return p

    def bits_per_character(self, text: str) -> float:
        """Return -1/N sum_i log2 P(text_i | text_<i); the first characters have short histories."""
        if not text:
            raise ValueError("an empty text has no bits per character")
        self._refuse_unknown(text)
        order = self.order
        grams = Counter(text[max(0, i - order) : i + 1] for i in range(len(text)))
        bits = sum(-n * log2(self.probability(gram[-1], gram[:-1])) for gram, n in grams.items())
        return bits / len(text)

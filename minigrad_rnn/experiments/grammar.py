"""Two invented languages and what one says in the other: sentences for translation models.

The first is a piece of English. In the second an adverb comes first, adjectives follow their nouns,
verbs end their clauses, `l` ends a noun in place of an article, and `jn` the object of a verb.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

from minigrad_rnn.experiments.translation import ADJECTIVES, ADVERBS, NOUNS, VERBS

Sentence = tuple[str, str]

# "perhaps" is said in six ways, of which the first is the likeliest, though more sentences begin
# with the other word: a search that looks one word ahead takes the wrong one.
PERHAPS = {"eble": 0.4, **{f"povas {word}": 0.12 for word in ("ke", "se", "nun", "do", "ja")}}


def pick(rng: np.random.Generator, words: Iterable[str]) -> str:
    """One of the words."""
    several = list(words)
    return several[rng.integers(len(several))]


def noun_phrase(rng: np.random.Generator, article: tuple[str, str], clauses: float) -> Sentence:
    """A noun and what belongs to it: with probability `clauses`, a clause of its own too."""
    noun, adjective, verb = (pick(rng, words) for words in (NOUNS, ADJECTIVES, VERBS))
    first, last = article
    ours = f"{first} {adjective} {noun}{'' if first else 's'}"
    theirs = f"{NOUNS[noun]}{last} {ADJECTIVES[adjective]}"
    if rng.random() < clauses:
        a, b = noun_phrase(rng, ("", "jn"), 0)
        ours, theirs = (
            f"{ours} that {verb if first else verb[:-1]} {a}",
            f"{theirs} kiu {b} {VERBS[verb]}",
        )
    return ours, theirs


def sentence(rng: np.random.Generator, clauses: float = 0.3, perhaps: float = 0.3) -> Sentence:
    """A sentence and a translation drawn from those that it has."""
    verb, adverb = pick(rng, VERBS), pick(rng, ADVERBS)
    subject = noun_phrase(rng, ("the", "l") if rng.integers(2) else ("a", ""), clauses)
    thing = noun_phrase(rng, ("", "jn"), clauses)
    doubt = ("", "")
    if rng.random() < perhaps:
        doubt = "perhaps", str(rng.choice(list(PERHAPS), p=list(PERHAPS.values())))
    ours = f"{doubt[0]} {subject[0]} {verb} {thing[0]} {adverb}"
    theirs = f"{doubt[1]} {ADVERBS[adverb]} {subject[1]} {thing[1]} {VERBS[verb]}"
    return " ".join(ours.split()), " ".join(theirs.split())


def sentences(
    rng: np.random.Generator, count: int, unseen: bool, clauses: float = 0.3
) -> list[Sentence]:
    """Sentences of the tenth that is kept for the test, or of the others."""
    found: list[Sentence] = []
    while len(found) < count:
        pair = sentence(rng, clauses)
        if (zlib.crc32(pair[0].encode()) % 10 == 0) == unseen:
            found.append(pair)
    return found


def likeliest(ours: str, theirs: str) -> str:
    """The likeliest of a sentence's translations, given any of them."""
    if not ours.startswith("perhaps"):
        return theirs
    return " ".join(["eble", *theirs.split()[1 if theirs.startswith("eble") else 2 :]])

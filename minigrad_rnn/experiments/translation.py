"""Row H3: a small GNMT between two invented grammars, on wordpieces."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Sequence

import numpy as np

import minigrad as mg
from minigrad_rnn.experiments import pairs
from minigrad_rnn.experiments.experiment import Bar, Experiment
from minigrad_rnn.seq2seq import AttentionEncoderDecoder, gnmt
from minigrad_rnn.wordpieces import WordPieces, bleu

NOUNS = {"cat": "kato", "dog": "hundo", "house": "domo", "tree": "arbo", "bird": "birdo"}
ADJECTIVES = {"": "", "red": "ruzha", "small": "eta", "old": "maljuna"}
VERBS = {"sees": "vidas", "hears": "audas", "likes": "shatas", "finds": "trovas"}
ADVERBS = {"": "", "today": "hodiau", "often": "ofte"}


def sentence(rng: np.random.Generator) -> tuple[str, str]:
    """A sentence and its translation, in which adjectives follow their nouns and verbs end.

    Subject, verb, object, adverb become adverb, subject, object, verb; the article is an ending of
    the noun, and -jn marks an object in the plural.
    """
    noun, adjective, verb, object_, adverb = (
        str(rng.choice(list(words))) for words in (NOUNS, ADJECTIVES, VERBS, NOUNS, ADVERBS)
    )
    article, ending = ("the", "l") if rng.integers(2) else ("a", "")
    ours = f"{article} {adjective} {noun} {verb} {object_}s {adverb}"
    theirs = (
        f"{ADVERBS[adverb]} {NOUNS[noun]}{ending} {ADJECTIVES[adjective]} "
        f"{NOUNS[object_]}jn {VERBS[verb]}"
    )
    return " ".join(ours.split()), " ".join(theirs.split())


def sentences(rng: np.random.Generator, count: int, unseen: bool) -> list[tuple[str, str]]:
    """Sentences of the tenth that is kept for the test, or of the others."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        pair = sentence(rng)
        if (zlib.crc32(pair[0].encode()) % 10 == 0) == unseen:
            found.append(pair)
    return found


def translate(
    net: AttentionEncoderDecoder, pieces: WordPieces, texts: Sequence[str], steps: int = 40
) -> list[str]:
    """The greedy translation of each text, up to the end symbol."""
    xs, lengths = pairs.padded([pieces.encode(text) for text in texts])
    rows = net.greedy(xs, steps, lengths=lengths).numpy().T.tolist()
    end = len(pieces)
    return [pieces.decode(row[: row.index(end)] if end in row else row) for row in rows]


def scores(found: Sequence[str], wanted: Sequence[str]) -> tuple[float, float]:
    """BLEU of words, and the share of sentences that are exactly as wanted."""
    exact = sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)
    return bleu([text.split() for text in found], [[text.split()] for text in wanted]), exact


def trained(
    seed: int, layers: int, H: int, updates: int, merges: int
) -> Generator[tuple[float, float], None, tuple[AttentionEncoderDecoder, WordPieces]]:
    """The wordpieces of both languages together, and a model trained on nine tenths."""
    mg.random.seed(seed)
    rng = np.random.default_rng(seed)
    corpus = sentences(rng, 1000, False)
    pieces = WordPieces.learn([text for pair in corpus for text in pair], merges)
    net = gnmt(len(pieces), len(pieces) + 1, H, H, layers)
    encoded = [(pieces.encode(a), pieces.encode(b)) for a, b in corpus]

    def draw() -> pairs.Pairs:
        return [encoded[n] for n in rng.integers(0, len(encoded), 32)]

    yield from pairs.train(net, draw, updates)
    return net, pieces


def run(variant: str, seed: int, quick: bool) -> Generator[tuple[float, float], None, float]:
    """BLEU on sentences of which none was in training."""
    sizes = (3, 48, 100, 150) if quick else (8, 64, 6000, 60)
    net, pieces = yield from trained(seed, *sizes)
    test = sentences(np.random.default_rng(1000 + seed), 200, True)
    return scores(translate(net, pieces, [a for a, _ in test]), [b for _, b in test])[0]


EXPERIMENT = Experiment(
    name="translation",
    row="H3",
    question="Does a small GNMT learn to translate, words reordered?",
    measure="BLEU",
    variants=("gnmt",),
    run=run,
    bars=(Bar("BLEU at least 0.95 in every seed", lambda r: min(r["gnmt"]) >= 0.95),),
    quick_bars=(Bar("BLEU at least 0.6", lambda r: min(r["gnmt"]) >= 0.6),),
)

"""The course's two corpora behind one door: captions (written for it) and multi30k (real)."""

from dataclasses import dataclass
from pathlib import Path

CORPORA = ("captions", "multi30k")


class CorpusError(RuntimeError):
    """A corpus cannot be had or cannot be read; the message says where and what to do."""


def pairs(corpus: str, split: str, directory: Path | None = None) -> list[tuple[str, str]]:
    """Read one split of a corpus.

    Returns (German, English) pairs. `directory` is where multi30k's files lie; captions has none.
    Raises ValueError for an unknown corpus or split, CorpusError where the files fail.
    """
    if corpus == "captions":
        from course.corpora import captions

        return [(caption.de, caption.en) for caption in captions.load(split)]
    if corpus == "multi30k":
        from course.corpora import multi30k

        return multi30k.load(split, directory)
    raise ValueError(f"unknown corpus {corpus!r}: choose one of {', '.join(CORPORA)}")


def choose() -> str:
    """Name the corpus to go on with: "multi30k" where it can be had, else "captions"."""
    from course.corpora import multi30k

    return "multi30k" if multi30k.available() else "captions"


@dataclass(frozen=True)
class Side:
    """One language of a corpus, counted in tokens between white space."""

    tokens: int
    distinct: int
    mean_length: float
    max_length: int


@dataclass(frozen=True)
class Statistics:
    """The size of a corpus: its pairs, and each of its two languages."""

    pairs: int
    de: Side
    en: Side


def statistics(pairs: list[tuple[str, str]]) -> Statistics:
    """Count a corpus.

    Returns its pairs and, for each language, tokens, distinct words, mean and maximal length in
    tokens. Raises ValueError where there is no pair to count.
    """
    if not pairs:
        raise ValueError("no pairs to count: the list is empty; pass what pairs() returned")
    german, english = zip(*pairs, strict=True)
    return Statistics(len(pairs), _count(german), _count(english))


def _count(sentences: tuple[str, ...]) -> Side:
    tokens = [sentence.split() for sentence in sentences]
    lengths = [len(words) for words in tokens]
    distinct = {word for words in tokens for word in words}
    return Side(sum(lengths), len(distinct), sum(lengths) / len(lengths), max(lengths))

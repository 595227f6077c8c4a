"""Pasted text: whatever its spelling, the shipped model translates it like clean text."""

import os
import unicodedata

import pytest

from course.cache import translate
from course.corpora import pairs
from course.evaluation import score
from course.runs import load_checkpoint
from course.text import BPE

pytestmark = pytest.mark.skipif(
    not os.environ.get("COURSE_DATA"), reason="needs Multi30k: set COURSE_DATA to its directory"
)
SPELLINGS = {
    "decomposed": lambda s: unicodedata.normalize("NFD", s),
    "one no-break blank": lambda s: s.replace(" ", "\u00a0", 1),
    "one tab": lambda s: s.replace(" ", "\t", 1),
    "one soft hyphen": lambda s: f"{s[:3]}\u00ad{s[3:]}",
    "all blanks no-break": lambda s: s.replace(" ", "\u00a0"),
    "zero width": lambda s: s.replace(" ", " \u200b"),
    "each blank twice": lambda s: s.replace(" ", "  "),
    "a line end": lambda s: s + "\r\n",
    "soft hyphens everywhere": "\u00ad".join,
}


@pytest.fixture(scope="module")
def sentences() -> tuple[list[str], list[str]]:
    """300 sentences of the test, and what they mean."""
    source, target = zip(*pairs("multi30k", "test_2016_flickr")[:300], strict=True)
    return list(source), list(target)


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint("multi30k-de-en")


@pytest.fixture(scope="module")
def said(shipped, sentences) -> list[str]:
    return translate(*shipped, sentences[0], 1, 0.6)


def test_clean_text_scores_as_lesson_06_says(said, sentences):
    assert score(said, sentences[1]).bleu == pytest.approx(42.16, abs=0.1)


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_has_the_ids_and_the_translation_of_clean_text(
    name, said, shipped, sentences
):
    model, bpe = shipped
    spelled = [SPELLINGS[name](one) for one in sentences[0]]
    assert [bpe.encode(one) for one in spelled] == [bpe.encode(one) for one in sentences[0]]
    assert translate(model, bpe, spelled[:25], 1, 0.6) == said[:25]


def test_without_normalising_a_decomposed_text_loses_nine_points(shipped, sentences):
    model, bpe = shipped
    as_trained = BPE(bpe.alphabet, bpe.merges, normalises=False)
    assert all(as_trained.encode(one) == bpe.encode(one) for one in sentences[0])
    spelled = [SPELLINGS["decomposed"](one) for one in sentences[0]]
    found = score(translate(model, as_trained, spelled, 1, 0.6), sentences[1]).bleu
    assert found == pytest.approx(32.76, abs=0.1)

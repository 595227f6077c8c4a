"""torchtext's last environment: the course runs there, and torchtext's figures are the course's.

`make test-torchtext` builds that environment beside the usual one and runs this file in it.
"""

import importlib
import json
import math
import random
import signal
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import spacy
import torch
import torch.nn.functional as F

import course
from course.attention import scaled_dot_product_attention
from course.cache import translate
from course.corpora import multi30k, pairs
from course.decoding import bleu
from course.masking import Batch
from course.runs import SHIPPED, Budget, Trainer, load_checkpoint, read_log
from course.text import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, Vocabulary, tokenize
from course.training import PRESETS, preset_model, weights_of

torchtext = pytest.importorskip(
    "torchtext", reason="needs an environment of its own, 5 GB: make test-torchtext"
)
torchtext.disable_torchtext_deprecation_warning()
metrics, transforms, utils, vocab = (
    importlib.import_module(f"torchtext.{name}")
    for name in ("data.metrics", "transforms", "data.utils", "vocab")
)

MODULES = sorted(path.stem for path in Path(course.__file__).parent.glob("[a-z]*.py"))
SIDES = {"de": 0, "en": 1}


@pytest.fixture(scope="module")
def report():
    """Collect lines; `pytest -s` shows them at the end."""
    lines: list[str] = []
    yield lines.append
    print("", *lines, sep="\n")


def test_this_is_the_environment_that_the_file_is_about():
    assert torchtext.__version__.startswith("0.18.") and torch.__version__.startswith("2.3.")


# ---------------------------------------------------------------- the course on torch 2.3


@pytest.mark.parametrize("name", MODULES)
def test_every_module_loads(name):
    importlib.import_module(f"course.{name}")


PAIRS = pairs("captions", "train")[:20]
VAL = pairs("captions", "val")[:10]


class Breaking(Trainer):
    """A trainer that gets Ctrl-C after its fifth step."""

    def step(self, group):
        values = super().step(group)
        if self.position.step == 5:
            signal.raise_signal(signal.SIGINT)
        return values


def trainer(directory: Path, kind: type[Trainer] = Trainer, seed: int = 0) -> Trainer:
    """Return a run of the preset `tiny` over a few captions; `seed` makes the fresh weights."""
    model, bpe = preset_model("tiny", (sentence for pair in PAIRS for sentence in pair), seed)
    config = replace(PRESETS["tiny"][1], max_tokens=250, warmup=20)
    return kind(model, bpe, config, Budget(epochs=30), directory, quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trainer:
    run = trainer(tmp_path_factory.mktemp("unbroken"))
    assert run.run(PAIRS, VAL)
    return run


def test_training_learns(trained):
    losses = [line["loss"] for line in read_log(trained.directory) if "loss" in line]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("beam", [1, 4])
def test_what_was_trained_translates(trained, beam):
    german, english = zip(*PAIRS)
    said = translate(*load_checkpoint(trained.directory), german, beam)
    assert bleu(map(str.split, said), map(str.split, english)) > 80


def test_a_run_that_is_broken_off_resumes_to_the_same_bits(trained, tmp_path):
    first = trainer(tmp_path, Breaking)
    assert not first.run(PAIRS, VAL) and first.position.step == 5
    second = trainer(tmp_path, seed=1)
    assert second.run(PAIRS, VAL, resume=True)
    wanted = weights_of(trained.model)
    assert all(torch.equal(wanted[name], w) for name, w in weights_of(second.model).items())
    assert any(not torch.equal(wanted[name], w) for name, w in weights_of(first.model).items())


def test_only_a_query_that_may_see_nothing_fares_otherwise():
    """Today's fused attention gives it zeros. No batch holds one: each sentence has a token."""
    x, mask = torch.ones(1, 2, 4), torch.tensor([[True, True], [False, False]])
    explicit, _ = scaled_dot_product_attention(x, x, x, mask)
    fused = F.scaled_dot_product_attention(x, x, x, mask)
    assert explicit.tolist() == [[[1] * 4, [0] * 4]]
    assert torch.equal(fused[:, 0], explicit[:, 0]) and fused[:, 1].isnan().all()


# ---------------------------------------------------------------- words and ids


def sentences(corpus: str, split: str, language: str) -> list[str]:
    """Return one side of a split; skips the test where Multi30k cannot be had."""
    if corpus == "multi30k" and not multi30k.available(split):
        pytest.skip("Multi30k cannot be had: go online, or set COURSE_DATA to its directory")
    return [pair[SIDES[language]] for pair in pairs(corpus, split)]


@pytest.fixture(scope="module", params=["captions", "multi30k"])
def corpus(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=SIDES)
def language(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def texts(corpus, language) -> list[str]:
    return sentences(corpus, "train", language)


@pytest.fixture(scope="module")
def words(texts, language) -> list[list[str]]:
    return [tokenize(text, language) for text in texts]


def test_tokens_are_theirs_without_white_space(corpus, language, texts, words, tmp_path, report):
    spacy.blank(language).to_disk(tmp_path)  # stands for the pipeline that tutorials download
    cut = utils.get_tokenizer("spacy", language=str(tmp_path))
    blank = Counter()
    for text, ours in zip(texts, words):
        theirs = cut(text)
        assert ours == [token for token in theirs if not token.isspace()]
        blank.update(filter(str.isspace, theirs))
    report(f"{corpus} {language}: {blank.total()} tokens of white space, which the course drops")
    assert blank.total() > 0 or corpus == "captions"


@pytest.mark.parametrize("min_freq", [1, 2])
def test_vocabulary_equals_build_vocab_from_iterator(corpus, language, words, min_freq, report):
    ours = Vocabulary.from_sentences(words, min_count=min_freq)
    theirs = vocab.build_vocab_from_iterator(words, min_freq, specials=list(SPECIAL_TOKENS))
    theirs.set_default_index(UNK)
    assert theirs.get_itos() == ours.tokens
    for text in sentences(corpus, "val", language):
        tokens = tokenize(text, language)
        assert theirs(tokens) == ours.encode(tokens)
        assert theirs.lookup_tokens(theirs(tokens)) == ours.decode(ours.encode(tokens))
    report(f"{corpus} {language}, min_freq={min_freq}: {len(ours):,} tokens, the same ids")


def test_another_order_of_ties_is_another_vocabulary(words):
    theirs = vocab.build_vocab_from_iterator(words, specials=list(SPECIAL_TOKENS))
    counts = Counter(token for sentence in words for token in sentence)
    as_met = Vocabulary(token for token, _ in counts.most_common())
    assert sorted(theirs.get_itos()) == sorted(as_met.tokens)
    assert theirs.get_itos() != as_met.tokens


def test_their_text_can_write_a_special_id_and_ours_cannot():
    tokens = ["a", "<pad>"]
    theirs = vocab.build_vocab_from_iterator([tokens], specials=list(SPECIAL_TOKENS))
    theirs.set_default_index(UNK)
    ours = Vocabulary.from_sentences([["a"]])
    assert theirs(tokens) == [4, PAD] and ours.encode(tokens) == [4, UNK]


def test_a_batch_is_what_their_transforms_make(words):
    ours = Vocabulary.from_sentences(words)
    theirs = vocab.build_vocab_from_iterator(words, specials=list(SPECIAL_TOKENS))
    pipeline = transforms.Sequential(
        transforms.VocabTransform(theirs),
        transforms.AddToken(BOS, begin=True),
        transforms.AddToken(EOS, begin=False),
        transforms.ToTensor(PAD),
    )
    chosen = words[:50]
    rows = pipeline(chosen)  # (B, 1 + T)
    examples = [[*ours.encode(tokens), EOS] for tokens in chosen]
    batch = Batch.from_sequences(examples, examples, PAD, BOS)
    assert len(set(map(len, chosen))) > 1
    assert torch.equal(rows[:, :-1], batch.tgt_in) and torch.equal(rows[:, 1:], batch.tgt_out)


def test_lesson_06_calls_gone_what_is_gone():
    assert not {"Field", "BucketIterator"} & set(dir(torchtext.data))
    assert find_spec("torchtext.legacy") is None
    assert callable(importlib.import_module("torchtext.datasets").Multi30k)


# ---------------------------------------------------------------- BLEU


def their_bleu(hypotheses: list[list[str]], references: list[list[str]]) -> float:
    """Return torchtext's BLEU, 0 to 100, with one reference a sentence."""
    return 100 * metrics.bleu_score(hypotheses, [[reference] for reference in references])


def test_bleu_is_theirs_on_corpora_at_random():
    """Empty and short hypotheses and corpora without a right 4-gram, which score 0, are among."""
    draw, scores = random.Random(0), []
    for _ in range(300):
        sides = [
            [draw.choices("ab", k=draw.randrange(13)) for _ in range(1 + len(scores) % 5)]
            for _ in range(2)
        ]
        scores.append(bleu(*sides))
        assert scores[-1] == pytest.approx(their_bleu(*sides), rel=1e-5)
    assert scores.count(0) > 20 and len(set(scores)) > 100


def test_a_token_with_a_space_in_it_breaks_theirs():
    """They join n-grams by spaces and cut them there again (pytorch/text, issue 2095)."""
    tokens = ["a", "dog", " ", "barks", "here"]
    assert bleu([tokens], [tokens]) == pytest.approx(100)
    with pytest.raises(IndexError):
        their_bleu([tokens], [tokens])


def test_the_figure_of_the_shipped_checkpoint_is_theirs(report):
    """Lesson 09: BLEU of lowercased spaCy tokens, greedy, on test_2016_flickr."""
    german, english = (sentences("multi30k", "test_2016_flickr", side) for side in SIDES)
    said = translate(*load_checkpoint("multi30k-de-en"), german, beam=1)
    hypotheses, references = (
        [tokenize(text.lower(), "en") for text in side] for side in (said, english)
    )
    theirs, ours = their_bleu(hypotheses, references), bleu(hypotheses, references)
    card = json.loads((SHIPPED / "multi30k-de-en" / "results.json").read_text("utf-8"))
    figure = card["tutorial_metric"]["bleu"]
    report(f"torchtext's bleu_score {theirs:.4f}, the course's {ours:.4f}, the card {figure:.4f}")
    assert theirs == pytest.approx(ours, rel=1e-5)
    # another version of torch rounds differently, and now and then another word wins
    assert theirs == pytest.approx(figure, abs=0.3)

    cased = [[tokenize(text, "en") for text in side] for side in (said, english)]
    each = [their_bleu([hyp], [ref]) for hyp, ref in zip(hypotheses, references)]
    assert abs(their_bleu(*cased) - theirs) > 0.01, "upper and lower case must count"
    assert abs(math.fsum(each) / len(each) - theirs) > 1, "a mean over sentences is not BLEU"

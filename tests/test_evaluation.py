"""Lesson 09: the scores are sacrebleu's, and the shipped model earns what its card says."""

import json
import os
import subprocess
import sys

import pytest
import sacrebleu
import torch

from course import ASSETS
from course.cache import translate
from course.corpora import pairs
from course.evaluation import evaluate, rank_correlation, score
from course.runs import load_checkpoint, read_log
from course.viz.evaluation import attention_grid, learning_curves, need_and_weight

DIRECTORY = ASSETS / "checkpoints" / "multi30k-de-en"
CARD = json.loads((DIRECTORY / "results.json").read_text("utf-8"))
SAID = ["A dog is running on the grass .", "Two men are Cooking outside.", "a child"]
MEANT = ["A dog runs on the grass.", "Two men are cooking outside.", "A child sleeps."]

real_corpus = pytest.mark.skipif(
    not os.environ.get("COURSE_DATA"), reason="needs Multi30k: set COURSE_DATA to its directory"
)


# ---------------------------------------------------------------- the metric


def test_scores_are_those_of_sacrebleu():
    result = score(SAID, MEANT)
    assert result.bleu == sacrebleu.corpus_bleu(SAID, [MEANT]).score
    assert result.bleu_lowercased == sacrebleu.corpus_bleu(SAID, [MEANT], lowercase=True).score
    assert result.chrf == sacrebleu.corpus_chrf(SAID, [MEANT]).score
    assert result.bleu < result.bleu_lowercased and result.chrf < result.chrf_lowercased
    assert result.sentences == 3
    assert "case:mixed" in result.signatures["bleu"]
    assert "case:lc" in result.signatures["bleu_lowercased"]
    assert all("tok:13a" in s for name, s in result.signatures.items() if "bleu" in name)


def test_the_reference_gets_100_and_nonsense_next_to_nothing():
    assert score(MEANT, MEANT).bleu == pytest.approx(100)
    assert score(["x y z", "q", "1 2"], MEANT).bleu < 5


@pytest.mark.parametrize("said, meant", [(["one"], []), (["a", "b"], ["a"]), ([], [])])
def test_unequal_counts_are_refused(said, meant):
    with pytest.raises(ValueError, match="translations for"):
        score(said, meant)


def test_who_only_judges_loads_no_pictures_no_homework_and_no_spacy():
    program = ("import sys, course.evaluation; "
               "heavy = ('spacy', 'matplotlib', 'altair', 'course.homework', 'course.viz'); "
               "print([m for m in heavy if m in sys.modules])")
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


# ---------------------------------------------------------------- the shipped model


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint("multi30k-de-en")


def test_evaluate_keeps_the_order(shipped):
    sources = ["Zwei Hunde spielen im Schnee.", "Ein Mann.", "Eine Frau liest ein Buch."]
    sentence_pairs = list(zip(sources, MEANT))
    scores, said = evaluate(*shipped, sentence_pairs, beam=2)
    assert said == [translate(*shipped, [source], beam=2)[0] for source in sources]
    assert scores == score(said, MEANT)


def test_the_shipped_model_translates(shipped):
    said = translate(*shipped, ["Zwei Hunde spielen im Schnee.", "Ein Mann fährt Fahrrad."])
    assert said[0] in ("Two dogs are playing in the snow.", "Two dogs play in the snow.")
    assert said[1] == "A man is riding a bicycle."


def test_the_card_belongs_to_the_model_and_to_its_log(shipped):
    model, _ = shipped
    assert sum(p.numel() for p in model.parameters()) == CARD["parameters"]
    last = read_log(DIRECTORY)[-1]
    assert (last["step"], last["val_loss"]) == (CARD["steps"], CARD["val_loss"])
    assert CARD["test_2016_flickr"]["bleu"] >= 40


@real_corpus
def test_the_shipped_model_earns_the_bleu_of_its_card(shipped):
    scores, _ = evaluate(*shipped, pairs("multi30k", "test_2016_flickr"), beam=1)
    card = CARD["test_2016_flickr_greedy"]
    assert scores.sentences == card["sentences"] == 1000
    # another processor rounds differently, and now and then another word wins
    assert scores.bleu == pytest.approx(card["bleu"], abs=0.3)
    assert scores.chrf == pytest.approx(card["chrf"], abs=0.3)


@real_corpus
def test_a_damaged_model_does_not(shipped):
    model, bpe = load_checkpoint("multi30k-de-en")
    with torch.no_grad():
        model.decoder.layers[0].cross_attention.w_o.weight.mul_(-1)
    scores, _ = evaluate(model, bpe, pairs("multi30k", "test_2016_flickr")[:100], beam=1)
    assert scores.bleu < CARD["test_2016_flickr_greedy"]["bleu"] - 3


# ---------------------------------------------------------------- the pictures


def test_learning_curves_show_the_log():
    log = [{"step": 1, "loss": 7.0}, {"step": 2, "loss": 5.0}, {"step": 2, "val_loss": 4.5}]
    axis = learning_curves(log, {"ln V": 8.5}, "title").axes[0]
    trained, checked, baseline = axis.get_lines()
    assert list(trained.get_xydata().ravel()) == [1, 7, 2, 5]
    assert list(checked.get_xydata().ravel()) == [2, 4.5]
    assert set(baseline.get_ydata()) == {8.5}


def test_attention_grid_shows_a_map_per_layer():
    weights = torch.rand(3, 4, 5)
    figure = attention_grid(weights, list("abcd"), list("vwxyz"), "title")
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert all((image.get_array() == map_.numpy()).all() for image, map_ in zip(images, weights))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list("vwxyz")


def test_need_and_weight_stand_side_by_side():
    axes = need_and_weight(["Ein", "Hund"], [0.5, 4.0], [1.0, 2.0], "title").axes
    assert [[bar.get_width() for bar in axis.patches] for axis in axes] == [[0.5, 4.0], [1.0, 2.0]]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["Ein", "Hund"]


def test_rank_correlation_shares_ranks_between_ties():
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [9, 2, 1]) == pytest.approx(-1)
    # by hand: ranks 1.5 1.5 3 4 and 1 3 2 4, both with mean 2.5
    cov = (-1) * (-1.5) + (-1) * 0.5 + 0.5 * (-0.5) + 1.5 * 1.5
    spread = (1 + 1 + 0.25 + 2.25) * (2.25 + 0.25 + 0.25 + 2.25)
    assert rank_correlation([7, 7, 8, 9], [0, 2, 1, 5]) == pytest.approx(cov / spread**0.5)

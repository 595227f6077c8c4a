"""Lesson 09: the scores are sacrebleu's, and the shipped model earns what its card says."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
import torch
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from course import ASSETS
from course.cache import translate
from course.corpora import captions, pairs
from course.evaluation import Interval, chance, compare, evaluate, score, with_interval
from course.runs import load_checkpoint, read_log
from course.viz.evaluation import learning_curves, p_values

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
    others = {"spacy", "matplotlib", "altair", "course.homework", "course.viz"}
    program = f"import sys, course.evaluation; print({others} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert loaded.stdout.strip() == b"set()"


# ---------------------------------------------------------------- scores and comparisons

LONG = [c.en for c in captions.load("val")[:40]]
SHORT = [" ".join(s.split()[: 3 + i % 9]) for i, s in enumerate(LONG)]
OTHER = [" ".join(s.split()[: 3 + 7 * i % 9]) for i, s in enumerate(LONG)]
WORSE = [" ".join(sorted(s.split())) for s in SHORT]


@pytest.mark.parametrize("name, metric", [("bleu", BLEU), ("chrf", CHRF)])
def test_the_interval_is_that_of_resampled_corpora(name, metric):
    found = with_interval(SHORT, LONG, name)
    assert found.score == metric().corpus_score(SHORT, [LONG]).score
    draw_lots = random.Random(3)
    scores = []
    for _ in range(300):
        chosen = draw_lots.choices(range(len(LONG)), k=len(LONG))
        picked = [SHORT[i] for i in chosen], [[LONG[i] for i in chosen]]
        scores.append(metric().corpus_score(*picked).score)
    scores.sort()
    assert found.margin == pytest.approx((scores[292] - scores[7]) / 2, rel=0.2)
    assert str(Interval(12.34, 1.0, 5)) == "12.3 ± 1.0"


def test_the_p_value_is_the_loop_over_coins():
    found = compare(SHORT, WORSE, LONG, samples=60)["BLEU"]
    scores = [BLEU().corpus_score(side, [LONG]).score for side in (SHORT, WORSE)]
    assert (found.baseline, found.system) == pytest.approx(scores)
    assert found.difference == pytest.approx(scores[1] - scores[0])
    as_large = 0
    for coins in np.random.default_rng(12345).integers(2, size=(60, len(LONG)), dtype=bool):
        mixed = [[a if coin else b for coin, a, b in zip(coins, *sides)]
                 for sides in ((SHORT, WORSE), (WORSE, SHORT))]
        first, second = (BLEU().corpus_score(side, [LONG]).score for side in mixed)
        as_large += abs(first - second) >= abs(found.difference) - 1e-9
    assert found.p_value == pytest.approx((as_large + 1) / 61)


@pytest.mark.parametrize("name, metric", [("BLEU", BLEU()), ("chrF2", CHRF())])
def test_the_p_value_is_sacrebleus_and_the_coins_that_tie(name, metric):
    close = [" ".join(s.split()[: 2 + i % 9 + i % 2 * 2]) for i, s in enumerate(LONG)]
    theirs = PairedTest([("a", SHORT), ("b", close)], {name: metric}, [LONG], "ar", 300)()[1]
    found = compare(SHORT, close, LONG, samples=300)[name]
    sums = [np.array(metric._extract_corpus_statistics(side, [LONG])) for side in (SHORT, close)]
    ties = 0
    for coins in np.random.default_rng(12345).integers(2, size=(300, len(LONG)), dtype=bool):
        mixed = [np.where(c[:, None], *sums).sum(0).tolist() for c in (coins, ~coins)]
        one, other = (metric._compute_score_from_stats(counts).score for counts in mixed)
        ties += abs(abs(one - other) - abs(found.difference)) < 1e-9
    assert ties > 0 and found.p_value == pytest.approx(float(theirs[name][1].p_value) + ties / 301)


def test_a_broken_system_is_found_and_a_copy_is_not():
    for comparison in compare(SHORT, WORSE, LONG, samples=200).values():
        assert comparison.difference < 0 and comparison.p_value < 0.05
        assert "significant" in str(comparison)
    for comparison in compare(SHORT, list(SHORT), LONG, samples=200).values():
        assert comparison.difference == 0 and comparison.p_value == 1
        assert "may be chance" in str(comparison)


def test_one_changed_sentence_proves_nothing():
    changed = [*SHORT[:-1], "nothing of the kind"]
    assert all(c.p_value == 1 for c in compare(SHORT, changed, LONG, samples=200).values())
    theirs = PairedTest([("a", SHORT), ("b", changed)], {"BLEU": BLEU()}, [LONG], "ar", 200)()[1]
    assert theirs["BLEU"][1].p_value < 0.05  # mended one day? Then section 7 must say so


def test_one_in_twenty_mixtures_of_equal_systems_is_called_significant():
    one, other = (np.array(BLEU()._extract_corpus_statistics(side, [LONG]))
                  for side in (SHORT, OTHER))
    coins = np.random.default_rng(7)
    alarms, n = 0, 400
    for _ in range(n):
        heads = coins.integers(2, size=(len(one), 1), dtype=bool)
        mixed = np.where(heads, one, other), np.where(heads, other, one)
        alarms += chance(BLEU(), *mixed, samples=99) < 0.05
    assert 0.02 < alarms / n < 0.08  # the share of 0.05 within 2.8 standard errors


@pytest.mark.parametrize("sides", [(["a"], ["a"], []), (["a"], ["a", "b"], ["a"]), ([], [], [])])
def test_lists_that_do_not_fit_are_refused(sides):
    with pytest.raises(ValueError, match="translations for"):
        compare(*sides)
    with pytest.raises(ValueError, match="translations for"):
        with_interval(["a"], ["a", "b"])


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


def test_the_p_values_below_a_twentieth_are_coloured():
    axis = p_values([0.01, 0.02, 0.3, 0.9], "t").axes[0]
    assert [bar.get_height() for bar in axis.patches][0] == 2
    colours = [bar.get_facecolor() for bar in axis.patches]
    assert colours[0] not in colours[1:]

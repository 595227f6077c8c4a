"""Shipping a run: half precision, decoding chosen on val, a card that says what was measured."""

import json
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from course.ablations import Trial, append_trial
from course.authoring import ship
from course.authoring.ship import choose_by, search_once
from course.cache import beam_search, cached_log_probs, translate
from course.corpora import CorpusError, captions
from course.decoding import Hypothesis, length_penalty
from course.evaluation import evaluate
from course.masking import pad
from course.rundir import write_tensors
from course.runs import SHIPPED, load_checkpoint, save_checkpoint
from course.text import BPE, EOS, PAD
from course.training import weights_of
from course.transformer import Transformer, TransformerConfig

TRIAL = Trial("tiny", {"dropout": 0.3}, 1, 4.0, 100, 2000, 1.5, 10_000, [3.0, 2.1], 2.0, 30.0, 50.0,
              "chip", 2, {"python": "3.11", "torch": "2.13.0"},
              "python -m course train")
PAIRS = [("Ein Hund rennt.", "A dog runs."), ("Zwei Katzen.", "Two cats."), ("Ball.", "A ball.")]


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    bpe = BPE.learn([sentence for pair in PAIRS for sentence in pair], 300)
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(len(bpe), len(bpe), d_model=16, n_heads=2, n_layers=1))
    run = tmp_path / "run"
    save_checkpoint(run, model, bpe)
    (run / "log.jsonl").write_text('{"step": 1}\n')
    for number in range(1, 4):
        write_tensors(run / "snapshots" / f"{number:03d}.safetensors", weights_of(model))
        with torch.no_grad():
            model.tgt_embedding.weight.mul_(1.5)

    def pairs(corpus, split):
        if split.startswith("test_201") and "2016" not in split:
            raise CorpusError("not here")
        return PAIRS

    monkeypatch.setattr(ship, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(ship, "pairs", pairs)
    append_trial(tmp_path / "runs.jsonl", replace(TRIAL, seed=9))
    append_trial(tmp_path / "runs.jsonl", TRIAL)
    arguments = [str(run), "mine", "--trials", str(tmp_path / "runs.jsonl")]
    assert ship.main(arguments) == 0
    return tmp_path / "shipped" / "mine"


def test_a_shipped_run_is_whole_and_half_as_large(shipped):
    weights = load_file(shipped / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    model, _ = load_checkpoint(shipped)
    assert next(model.parameters()).dtype == torch.float32
    assert (shipped / "log.jsonl").read_text() == '{"step": 1}\n'


def test_the_results_are_those_of_the_shipped_weights(shipped):
    results = json.loads((shipped / "results.json").read_text())
    found, _ = evaluate(*load_checkpoint(shipped), PAIRS, beam=1)
    assert results["test_2016_flickr_greedy"]["chrf"] == found.chrf
    assert results["seed"] == 1 and results["changes"] == {"dropout": 0.3}
    assert "test_2017_flickr" not in results  # it was not there, so nothing is said


def test_averages_of_the_last_snapshots_are_compared(shipped):
    found = json.loads((shipped / "results.json").read_text())["averaging"]
    assert [line["snapshots"] for line in found] == [1, 2]
    assert found[0]["val_loss"] != found[1]["val_loss"]


def test_the_decoding_is_the_best_of_all_that_were_tried(shipped):
    chosen = json.loads((shipped / "results.json").read_text())["decoding"]
    tried = {(beam, alpha): value for beam, alpha, value in chosen["tried"]}
    assert len(tried) == len(chosen["tried"]) == 1 + (len(ship.BEAMS) - 1) * len(ship.ALPHAS)
    assert tried[chosen["beam"], chosen["length_penalty"]] == max(tried.values())


def test_the_card_says_what_was_measured(shipped):
    text = (shipped / "README.md").read_text("utf-8")
    results = json.loads((shipped / "results.json").read_text())
    assert f"{results['test_2016_flickr']['bleu']:.2f} ±" in text
    assert "python -m course train" in text and "dropout 0.3; seed 1" in text
    assert "{" not in text


def test_nothing_is_shipped_without_a_run(tmp_path, capsys):
    append_trial(tmp_path / "runs.jsonl", TRIAL)
    arguments = [str(tmp_path / "none"), "mine", "--trials", str(tmp_path / "runs.jsonl")]
    assert ship.main(arguments) == 1
    assert "no checkpoint" in capsys.readouterr().err
    assert ship.main([*arguments[:-1], str(tmp_path / "no.jsonl")]) == 1


@pytest.mark.parametrize("directory", sorted(SHIPPED.iterdir()), ids=lambda path: path.name)
def test_every_card_of_the_course_is_made_of_its_results(directory):
    results = json.loads((directory / "results.json").read_text("utf-8"))
    assert (directory / "README.md").read_text("utf-8") == ship.card(directory.name, results)
    assert sum(path.stat().st_size for path in directory.iterdir()) < 12e6


# ---------------------------------------------------------------- beams


def test_search_once_finds_what_the_searches_find():
    captioned = [(c.de, c.en) for c in captions.load("val")[:6]]
    bpe = BPE.learn([sentence for pair in captioned for sentence in pair], 300)
    torch.manual_seed(0)
    sizes = TransformerConfig(len(bpe), len(bpe), d_model=24, n_heads=3, d_ff=32, n_layers=2,
                              tie_embeddings=False)
    model = Transformer(sizes).eval()
    german = [de for de, _ in captioned]
    greedy = [bpe.decode(found[0].ids) for found in search_once(model, bpe, german, 1)]
    assert greedy == translate(model, bpe, german)
    found = search_once(model, bpe, german, 3, batch_size=4)
    sources = [[*bpe.encode(s), EOS] for s in german]
    limits = [len(s) + 50 for s in sources]
    score = cached_log_probs(model, pad(sources, PAD))
    direct = beam_search(score, len(german), limits, 3, alpha=0.8, follow=score.follow)
    for hypotheses, expected in zip(found, direct):
        chosen = choose_by(hypotheses, 0.8)
        assert chosen.finished == expected[0].finished
        penalty = length_penalty(len(chosen.ids) + chosen.finished, 0.8)
        assert chosen.score / penalty == pytest.approx(expected[0].score, abs=1e-4)


def test_the_chosen_text_never_becomes_shorter_with_alpha():
    lots = random.Random(0)
    for _ in range(200):
        hypotheses = [Hypothesis((9,) * lots.randint(0, 20), -10 * lots.random() - 0.01)
                      for _ in range(6)]
        lengths = [len(choose_by(hypotheses, a / 5).ids) for a in range(8)]
        assert lengths == sorted(lengths)


def test_a_finished_text_goes_before_one_that_was_cut_off():
    cut, done = Hypothesis((5,), -1.0, finished=False), Hypothesis((5,), -9.0)
    assert choose_by([cut, done], 0.6) is done

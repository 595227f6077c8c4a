"""Lesson 09c: a trial is one honest line, and a margin is what luck reaches."""

import json
from dataclasses import asdict, replace
from statistics import stdev

import pytest
import torch

from course import ASSETS
from course.ablations import (
    Spread,
    Trial,
    append_trial,
    difference,
    pooled_spread,
    read_trials,
    run_trial,
    student,
)
from course.runs import Budget
from course.training import recipe_of
from course.viz import ablations as draw

RESULTS = ASSETS / "results"
WORDS = {"Hund": "dog", "Mann": "man", "Ball": "ball", "Baum": "tree", "Hut": "hat"}
PAIRS = [(f"Ein {a} und ein {b}.", f"A {WORDS[a]} and a {WORDS[b]}.") for a in WORDS for b in WORDS]
TRIAL = Trial("tiny", {"dropout": 0.3}, 1, 4.0, 100, 2000, 1.5, 10_000, [3.0, 2.1], 2.0, 30.0, 50.0,
              "chip", 2, {"torch": "2.13.0"}, "python -m course train")


# ---------------------------------------------------------------- lines


def test_a_trial_survives_its_file(tmp_path):
    path = tmp_path / "new" / "runs.jsonl"
    append_trial(path, TRIAL)
    append_trial(path, replace(TRIAL, seed=2, changes={"betas": [0.9, 0.98]}))
    first, second = read_trials(path)
    assert first == TRIAL and second.seed == 2 and second.changes == {"betas": [0.9, 0.98]}


@pytest.mark.parametrize("line", ["{", "[1]", '{"seed": 1}', '{"bleu": 3}'])
def test_a_line_that_is_no_trial_is_named(tmp_path, line):
    path = tmp_path / "runs.jsonl"
    append_trial(path, TRIAL)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match="line 2 is not a trial"):
        read_trials(path)


@pytest.mark.parametrize("name", ["table3", "recipe"])
def test_the_stored_trials_are_runs_of_recipes_that_exist(name):
    trials = read_trials(RESULTS / f"{name}.jsonl")
    assert len({(t.preset, json.dumps(t.changes), t.seed, t.epochs) for t in trials}) == len(trials)
    for trial in trials:
        recipe_of(trial.preset, trial.changes)  # raises for a name that is none
        assert 0 < trial.val_bleu < 60 and trial.val_loss > 0 and trial.device and trial.command
        assert f"--preset {trial.preset}" in trial.command


def test_a_pass_is_named_only_if_every_pass_is_there():
    trial = replace(TRIAL, epochs=3.0, val_losses=[3.0, 2.0, 1.0])
    assert [trial.loss_after(n) for n in (1, 2, 3)] == [3.0, 2.0, 1.0]
    assert replace(trial, epochs=2.4).loss_after(2) == 2.0
    with pytest.raises(ValueError, match="one is missing"):
        replace(trial, val_losses=[3.0, 1.0]).loss_after(2)
    for passes in (0, -1, 4):
        with pytest.raises(ValueError, match="there was no pass"):
            trial.loss_after(passes)


@pytest.mark.parametrize("name", ["table3", "recipe"])
def test_the_stored_trials_hold_every_pass(name):
    for trial in read_trials(RESULTS / f"{name}.jsonl"):
        assert trial.loss_after(1) == trial.val_losses[0]


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def trials():
    budget = Budget(epochs=2)
    runs = [({}, 0), ({}, 0), ({}, 1), ({"n_heads": 1, "max_tokens": 100}, 0)]
    return [run_trial("tiny", changes, seed, budget, PAIRS, PAIRS[:5]) for changes, seed in runs]


def test_a_seed_decides_a_run(trials):
    same, again, other, _ = (replace(trial, minutes=0.0) for trial in trials)
    assert same == again and other.val_loss != same.val_loss and other.seed == 1


def test_a_trial_says_what_was_run(trials):
    base, changed = trials[0], trials[-1]
    assert base.changes == {} and changed.changes == {"n_heads": 1, "max_tokens": 100}
    assert len(base.val_losses) == 2 and base.val_losses[0] > base.val_losses[1] > 0
    assert base.epochs == changed.epochs == 2.0 and changed.steps > base.steps
    assert base.parameters == changed.parameters  # heads cost no parameters
    assert base.threads == torch.get_num_threads() and "torch" in base.versions
    assert json.loads(json.dumps(asdict(base))) == asdict(base)


def test_a_run_that_was_stopped_is_no_trial(monkeypatch):
    monkeypatch.setattr("course.ablations.Trainer.run", lambda *_: False)
    with pytest.raises(KeyboardInterrupt):
        run_trial("tiny", {}, 0, Budget(epochs=1), PAIRS, PAIRS[:5])


def test_an_unknown_choice_is_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="n_head is nothing that a recipe sets"):
        run_trial("tiny", {"n_head": 1}, 0, Budget(epochs=1), PAIRS, PAIRS[:5])


# ---------------------------------------------------------------- margins


def test_one_group_has_its_standard_deviation():
    values = [1.0, 2.5, 7.0, 3.0]
    assert pooled_spread([values]).sigma == pytest.approx(stdev(values))


def test_the_level_of_a_group_does_not_count():
    spread = pooled_spread([[0.0, 2.0], [100.0, 102.0], [5.0]])
    assert spread.sigma == pytest.approx(2**0.5) and spread.freedom == 2


def test_single_runs_say_nothing():
    with pytest.raises(ValueError, match="another seed"):
        pooled_spread([[1.0], [2.0]])


def test_a_difference_needs_more_than_its_margin():
    spread = Spread(0.5, freedom=100)
    found = difference([3.0, 5.0], [1.0, 1.0], spread)
    assert found.value == 3.0 and found.margin == pytest.approx(0.992, abs=1e-3) and found.clear
    assert not difference([1.5], [1.0], spread).clear
    assert difference([1.0], [3.0], spread).clear  # downwards, too


def test_more_runs_make_a_smaller_margin():
    few, many = (difference([1.0] * n, [0.0] * n, Spread(1.0, 9)).margin for n in (1, 4))
    assert many == pytest.approx(few / 2)


@pytest.mark.parametrize("freedom, outside, factor", [
    (1, 0.05, 12.706), (3, 0.05, 3.182), (14, 0.05, 2.145), (1000, 0.05, 1.962),
    (1, 0.001, 636.62), (14, 0.001, 4.140), (10, 0.01, 3.169),
])
def test_the_factors_are_those_of_students_table(freedom, outside, factor):
    assert student(freedom, outside) == pytest.approx(factor, rel=1e-3)


def test_few_runs_and_many_comparisons_pay_for_knowing_little():
    factors = [Spread(1.0, freedom).factor() for freedom in (1, 2, 3, 9, 11, 1000)]
    assert factors == sorted(factors, reverse=True)
    assert Spread(1.0, 14).factor(23) == pytest.approx(student(14, 0.05 / 23))
    assert student(11, 0.05 / 23) == pytest.approx(3.976, rel=1e-3)  # the table of lesson 09c
    alone, family = (difference([3.0], [1.0], Spread(0.5, 14), k) for k in (1, 23))
    assert alone.clear and not family.clear and alone.value == family.value


def test_twenty_three_equal_rows_rarely_hold_a_clear_one():
    torch.manual_seed(0)
    alarms = {1: 0, 23: 0}
    for _ in range(300):
        draws = torch.randn(24, 3).tolist()
        spread = pooled_spread(draws)
        for k in alarms:
            alarms[k] += any(difference(row, draws[0], spread, k).clear for row in draws[1:])
    assert alarms[1] / 300 > 0.4 and alarms[23] / 300 < 0.07


# ---------------------------------------------------------------- pictures


def test_the_picture_shows_values_margins_and_the_paper():
    rows = [("A", "1 head", -1.5, 0.5, 1.0, [-1.0, -2.0], -0.9),
            ("B", "d_k", -0.7, 0.5, 1.0, [-0.7], None),
            ("E", "learned", 0.1, 0.5, 1.0, [0.1], None)]
    axis = draw.differences(rows, "title").axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["1 head", "d_k", "learned"]
    drawn = {tuple(map(float, line.get_xdata())) for line in axis.get_lines()}
    assert {(-1.5,), (0.1,), (-0.9,), (-1.0, -2.0)} <= drawn
    filled = [line.get_markerfacecolor() for line in axis.get_lines() if line.get_marker() == "o"]
    assert len(set(filled)) == 3 and filled[2] == "white"


def test_loss_and_bleu_are_points_with_names():
    points = {"base": (2.0, 30.0), "other": (2.5, 20.0), "one more": (2.1, 29.0)}
    axis = draw.loss_and_bleu(points, "base", {"other"}, "t").axes[0]
    assert [text.get_text() for text in axis.texts] == ["base", "other"]
    assert [tuple(line.get_xydata()[0]) for line in axis.get_lines()] == list(points.values())


def test_curves_over_epochs():
    axis = draw.learning_by_budget({"dropout 0.1": ([1, 2], [3.0, 2.0])}, "t").axes[0]
    assert list(axis.get_lines()[0].get_ydata()) == [3.0, 2.0]


def test_the_enlarged_end_tells_three_hundredths_apart():
    curves = {"a": (range(1, 17), [3 - i / 12 for i in range(16)]),
              "b": (range(1, 17), [3.03 - i / 12 for i in range(16)])}
    _, end = draw.learning_by_budget(curves, "t").axes
    low, high = end.get_ylim()
    assert 0.03 / (high - low) > 0.08
    assert [text.get_text() for text in end.texts] == ["1.750", "1.780"]

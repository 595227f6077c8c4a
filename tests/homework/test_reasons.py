"""Checked reasons, counts and guesses: what is right passes, each misconception is answered."""

import json
import re
from collections import Counter
from functools import cache

import jupytext
import nbformat
import pytest

from course import progress
from course.authoring import NOTEBOOKS
from course.homework import CheckFailed, CheckResult, check, compare, i_am
from course.homework.reasons import Question, ask, judge, questions, reasons
from course.homework.reasons.counts import COUNTS
from course.homework.report import guess_lines, reason_lines

NAMES = list(reasons())


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A learner's progress of their own."""
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr("course.progress.here", "")


def letter(name: str, learner: str, right: bool = True) -> str:
    options = reasons()[name].shuffled(learner)
    return next(key for key, option in options.items() if option.right == right)


def test_there_are_sixty_and_three_for_each_topic():
    count = Counter(reason.topic for reason in reasons().values())
    asked = """attention and self-attention; the scale; several heads; cost of a layer; masks;
        residuals; positions; the bottleneck; teacher forcing and what runs in parallel;
        ByteNet, ConvS2S, Extended Neural GPU and path length; memory networks;
        warm-up, smoothing, dropout; averaging; Table 3; parsing; BERT and GPT; BLEU"""
    assert len(NAMES) >= 60
    assert all(count[" ".join(topic.split())] >= 3 for topic in asked.split(";\n") for topic in
               topic.split(";") if topic.strip())


@pytest.mark.parametrize("name", NAMES)
def test_a_reason_is_whole(name):
    reason = reasons()[name]
    right = [option for option in reason.options if option.right]
    assert len(right) == 1 and 4 <= len(reason.options) <= 5
    texts = [option.text for option in reason.options]
    assert len({*texts}) == len(texts)
    assert all(len(option.verdict) > 25 for option in reason.options)
    verdicts = [option.verdict for option in reason.options]
    assert len({*verdicts}) == len(verdicts)


@cache
def headings(lesson: str) -> list[str]:
    """Return the headings of a lesson's sections."""
    cells = jupytext.read(NOTEBOOKS / f"{lesson}.py").cells
    return [line for cell in cells if cell.cell_type == "markdown"
            for line in cell.source.splitlines() if line.startswith("##")]


@pytest.mark.parametrize("name", NAMES)
def test_the_section_that_shows_it_is_there(name):
    lesson, heading = reasons()[name].where
    assert any(heading in line for line in headings(lesson)), headings(lesson)


def test_the_longest_option_is_no_hint():
    longest = [max(reason.options, key=lambda option: len(option.text)).right
               for reason in reasons().values()]
    assert sum(longest) / len(longest) < 0.3


def test_letters_differ_between_learners_and_are_spread():
    learners = [f"learner {i}" for i in range(40)]
    letters = [letter(name, learner) for name in NAMES for learner in learners]
    share = Counter(letters)
    assert max(share.values()) / len(letters) < 0.3
    ann, bob = ([letter(name, who) for name in NAMES] for who in ("Ann", "Bob"))
    assert sum(a == b for a, b in zip(ann, bob)) < len(NAMES) / 2
    assert ann == [letter(name, "Ann") for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_each_option_gets_its_own_answer(name):
    said = set()
    for key, option in reasons()[name].shuffled("Ann").items():
        right, text = judge(name, key.upper(), "Ann")
        assert right is option.right and option.verdict in text
        assert option.right or reasons()[name].shown_in() in text
        said.add(text)
    assert len(said) == len(reasons()[name].options)
    assert judge(name, "z", "Ann")[0] is None and judge(name, 3, "Ann")[0] is None


def test_a_reason_is_asked_answered_and_kept(kept):
    i_am("Ann")
    assert str(ask("why_scale")) == str(check("why_scale"))
    wrong = check("why_scale", letter("why_scale", "Ann", right=False))
    assert isinstance(wrong, CheckResult) and not wrong.passed
    again = ask("why_scale").as_html(folds=False, again=True)
    assert again in wrong._repr_html_()
    assert "passed" not in progress.load()["exercises"]["why_scale"]
    assert check("why_scale", letter("why_scale", "Ann")).passed
    assert progress.load()["exercises"]["why_scale"]["checks"] == 2
    with pytest.raises(CheckFailed):
        check("why_scale", letter("why_scale", "Ann", right=False), strict=True)
    scale = next(line for line in reason_lines() if line[0] == "the scale")
    assert scale == ("the scale", 1, 4, 3)


def test_who_answers_is_one_for_cards_checks_and_patients(kept, monkeypatch):
    from course.homework.illnesses import illness_of

    for setting in ({"COURSE_PROGRESS": "off"}, {"COURSE_PAGE": "1"}, {}):
        with monkeypatch.context() as patch:
            for name, value in setting.items():
                patch.setenv(name, value)
            i_am("Ann")
            assert ask("why_scale").learner == check("patient_1").learner == "Ann"
            assert check("why_scale", letter("why_scale", "Ann"), strict=True).passed
            assert check("patient_7", illness_of(7, "Ann")).passed
            patch.setattr("course.progress.here", "")  # another kernel
            who = {"off": "nobody", "1": "page"}.get("".join(setting.values()), "Ann")
            assert ask("why_scale").learner == check("patient_1").learner == who
            with pytest.raises(CheckFailed, match="whose letters"):
                check("why_scale", letter("why_scale", who), strict=True)
    with pytest.raises(CheckFailed, match="name"):
        i_am(" ")
    assert "place of None" in str(check("why_scale", None))
    i_am("Ann")
    with pytest.raises(CheckFailed, match="no answer yet"):
        check("why_scale", None, strict=True)


def test_a_learner_without_a_name_keeps_an_order(kept):
    assert str(check("why_scale")) == str(check("why_scale"))
    assert re.fullmatch(r"[0-9a-f]{8}", progress.learner())


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_stored_page_shows_each_question_as_it_is_today(path):
    for cell in nbformat.read(path, 4).cells:
        asked = re.fullmatch(r'check\("(\w+)"\)', cell.source.strip())
        if cell.cell_type == "code" and asked and asked[1] in NAMES:
            shown = Question(reasons()[asked[1]], "page").as_html(folds=True)
            stored = [output.data["text/html"] for output in cell.outputs]
            assert stored == [shown], f"store it anew: python -m course.authoring run {path.stem}"


def test_a_page_without_a_kernel_opens_to_the_verdicts(monkeypatch):
    asked = ask("why_scale")._repr_html_()
    verdicts = [option.verdict for option in reasons()["why_scale"].options]
    assert not any(verdict in asked for verdict in verdicts)
    monkeypatch.setenv("COURSE_PAGE", "1")
    page = ask("why_scale")._repr_html_()
    assert page.count("<details>") == 5 and all(verdict in page for verdict in verdicts)
    assert page == ask("why_scale")._repr_html_()


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_right_or_named(name, kept):
    count = COUNTS[name]
    sizes = count.draw("any")
    right = count.right(**sizes)
    assert count.judge(right, sizes)[0]
    for key, message, formula in count.mistakes:
        if formula(**sizes) != right[key]:
            passed, said = count.judge(right | {key: formula(**sizes)}, sizes)
            same = [text for k, text, other in count.mistakes
                    if k == key and other(**sizes) == formula(**sizes)]
            assert not passed and any(text in said for text in same) and message in same
    assert not count.judge(right | {"path": -1}, sizes)[0]
    assert not count.judge([1, 2, 3], sizes)[0] and not count.judge({"steps": 1}, sizes)[0]
    assert check(name, count.right).passed
    assert not check(name, lambda **given: count.right(**given) | {"steps": 0}).passed


def test_sizes_are_drawn_afresh_after_each_answer(kept):
    shown = []
    for _ in range(4):
        shown.append(check("count_recurrence").given)
        check("count_recurrence", {"multiplications": 1, "steps": 1, "path": 1})
    assert len({*shown}) > 2
    given = dict(re.findall(r"(\w) = (\d+)", check("count_recurrence").given))
    n, d = int(given["n"]), int(given["d"])
    right = {"multiplications": 2 * n * d * d, "steps": n, "path": n}
    assert check("count_recurrence", right).passed


def test_a_guess_is_compared_and_never_scolded(kept):
    assert "no guess" in repr(compare(None, 0.3, "share"))
    assert progress.load()["guesses"] == {}
    assert "0.2 above" in repr(compare(0.5, 0.3, "share"))
    assert "factor of 10" in repr(compare(3, 0.3)) and "below by a factor" in repr(compare(1, 9))
    assert "exactly" in repr(compare(2, 2)) and "as you said" in repr(compare(" Two", "two"))
    assert "a number" in repr(compare("many", 3, "count"))
    compare(0.9, 0.3, "share")  # the first guess is the guess
    assert guess_lines() == [("share", "0.5", "0.3")]


def test_a_progress_file_of_before_is_read(kept):
    progress.location().write_text(json.dumps({"exercises": {}, "answers": {}, "runs": {"a": 1}}))
    assert progress.load()["runs"] == {"a": 1} and progress.load()["guesses"] == {}


def test_names_are_unlike_those_of_the_code():
    from course.homework.exercises import EXERCISES

    assert not questions().keys() & set(EXERCISES)
    with pytest.raises(ValueError, match="did you mean 'why_scale'") as raised:
        check("why_scales", "a")
    assert raised.value._render_traceback_() == [str(raised.value)]

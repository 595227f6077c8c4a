"""The command line of the homework, the questions' answers, and the page that is handed in."""

import json
import re

import pytest
from PIL import Image

from course import progress
from course.__main__ import keep_for_report, main
from course.authoring import NOTEBOOKS
from course.homework import report
from course.homework.exercises import EXERCISES
from course.homework.illnesses import patients
from course.homework.questions import QUESTIONS, answer, count_words, model_answer
from course.homework.reasons import questions

RIGHT = "def merge_heads(x):\n    return x.transpose(1, 2).flatten(-2)\n"


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))


def test_list_names_every_exercise_and_what_is_passed(capsys):
    progress.record_check("softmax", True, "abc")
    assert main(["homework", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EXERCISES) + len(questions()) + len(patients()) + 1
    assert [line for line in lines if line.endswith("passed")][0].split()[1] == "softmax"


def test_check_runs_a_file_and_its_status_says_whether_all_passed(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(RIGHT)
    assert main(["homework", "check", str(file)]) == 0
    assert "PASSED  merge_heads" in capsys.readouterr().out
    file.write_text(RIGHT + "\n# %%\n1 / 0\n\n# %%\n%matplotlib inline\ndef softmax(x, dim):\n"
                    "    return x\n\n# %%\ncheck('softmax', softmax, strict=True)\n")
    assert main(["homework", "check", str(file)]) == 1
    printed = capsys.readouterr()
    assert "NOT YET  softmax" in printed.out and "1 of 2 passed" in printed.out
    assert "mine.py, cell 2: Your code raises ZeroDivisionError" in printed.err
    assert "in line 1: 1 / 0" in printed.err
    first = progress.load()["exercises"]["merge_heads"]
    assert main(["homework", "check", str(file)]) == 1
    assert progress.load()["exercises"]["merge_heads"]["code"] == first["code"]
    assert set(progress.load()["exercises"]) == {"merge_heads", "softmax"}


def test_check_takes_the_released_notebook_and_is_polite(capsys):
    notebook = NOTEBOOKS / "homework" / "release" / "attention" / "attention.ipynb"
    assert main(["homework", "check", str(notebook)]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("Not written yet") == 5 and not printed.err
    assert "0 of 5 passed" in printed.out


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.ipynb", None, "does not exist"),
        ("half.ipynb", b'{"cells": [', "can't be read as a notebook"),
        ("latin.py", "# Übung\nx = 'ä'\n".encode("latin-1"), "can't be read as a notebook"),
        ("empty.py", b"", "defines no exercise"),
        ("notes.txt", b"softmax", "only notebooks"),
    ],
)
def test_a_bad_file_gets_a_clear_message(tmp_path, capsys, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["homework", "check", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert says in error and name in error and "Traceback" not in error


def test_words_are_counted_in_both_scripts():
    assert count_words("Attention is a weighted mean.") == 5
    assert count_words("注意力是加权平均。") == 8 + 1  # the full stop stands alone
    assert count_words("用 softmax 归一") == 4


def test_an_answer_comes_before_the_model_answer():
    assert "First your own answer" in repr(model_answer(2))
    assert "3 of 100 words" in repr(answer(2, "they add input"))
    assert "First your own answer" in repr(model_answer(2))
    assert "kept" in repr(answer(2, "word " * 100)) and "kept" in repr(answer(3, "字" * 100))
    assert "100 characters" in repr(answer(3, "字" * 100)) and "100 words" in repr(answer(
        2, "word " * 50 + "\n\n" + "word " * 50))
    shown = repr(answer(2, "word " * 100 + "\n\nsecond " * 9)).splitlines()  # read, not scrolled
    assert max(map(len, shown)) < 100 and sum(line == ">" for line in shown) == 9
    assert progress.load()["answers"]["2"]["text"].startswith("word")
    assert model_answer(2)._repr_markdown_().startswith("# ")
    for call in (model_answer, lambda number: answer(number, "x")):
        with pytest.raises(ValueError, match="no question 7"):
            call(7)


@pytest.mark.parametrize("number", QUESTIONS)
def test_model_answers_have_points_and_references(number, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", "off")
    text = repr(model_answer(number))
    assert text.startswith("# ")
    body, points, references = re.split(r"(?m)^## (?:Points|References)$", text)
    assert 120 <= count_words(body) <= 450
    assert 4 <= len(re.findall(r"(?m)^[-*\d]", points)) <= 9
    assert re.search(r"\d{4}\.\d{5}", references)


def test_the_report_collects_everything(tmp_path, capsys, monkeypatch):
    progress.record_check("softmax", True, "0123456789ab")
    progress.record_check("merge_heads", False, "ba9876543210")
    answer(1, "<b>bold</b> " * 120)
    figures = {"bleu": 39.684, "corpus": "multi30k", "split": "test", "sentences": 1000}
    keep_for_report("my run, beam 4", figures)
    progress.record_check("patient_3", True, "untied")
    progress.record_guess("03: weight", 0.5, 0.4)
    progress.record_guess("03: grows?", "grows", "grows")
    progress.record_sentence("Zwei <Hunde> spielen.", "Two dogs are playing.")
    page, picture = report.write_report(tmp_path, "Li <Wei>")
    text = page.read_text("utf-8")
    assert "0123456789ab" in text and "BLEU 39.68 on multi30k test, 1,000 sentences" in text
    assert "1 of 16 diagnosed: 3" in text and report.numeric_guesses() == [(0.5, 0.4)]
    assert "Zwei &lt;Hunde&gt; spielen." in text and "Two dogs are playing." in text
    assert "by Li &lt;Wei&gt;" in text and "<b>bold" not in text and "not answered yet" in text
    assert not re.search(r"""(?:src|href)=["']""", text)  # self-contained
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width > 600


def test_a_walkthrough_run_in_the_notebook_counts_too(tmp_path, monkeypatch):
    build = tmp_path / "build"
    build.mkdir()
    figures = {"bleu": 30.0, "corpus": "captions", "split": "test", "sentences": 40}
    (build / "walkthrough.json").write_text(json.dumps(figures))
    assert report.run_lines()[0][1].startswith("BLEU 30.00 on captions test, 40 sentences")


def test_an_empty_report_can_be_written_too(tmp_path):
    page, _ = report.write_report(tmp_path)
    assert "none yet" in page.read_text("utf-8")

"""A class hands in: who is right gets the points, and no stranger's program harms anybody."""

import csv
import time

import jupytext
import nbformat
import pytest

from course.__main__ import main
from course.authoring import NOTEBOOKS
from course.grading import marks, sandbox
from course.grading.definitions import definitions, said_of

PAGE = NOTEBOOKS / "homework" / "source" / "masking" / "masking.py"
RIGHT = [cell.source for cell in jupytext.read(PAGE).cells if cell.cell_type == "code"]
CAUSAL = ("import torch\ndef causal_mask(length):\n    {}\n"
          "    return torch.ones(1, 1, length, length).tril().bool()")
closed = pytest.mark.skipif(sandbox.protection() is None, reason="no bubblewrap that works here")


def hand_in(folder, student, *cells):
    """Write a student's notebook and return its path."""
    place = folder / student / "masking.ipynb"
    place.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)]), place)
    return place


STRANGERS = {
    # (what stands on the page, points or None where a human must look, what is said)
    "right": (RIGHT, 3, "marked"),
    "blank": (["def causal_mask(length):\n    raise NotImplementedError"], 0, "marked"),
    "half": ([CAUSAL.format("pass"), "1 / 0", "def padding_mask(x): return x"], 1, "marked"),
    "replaces": (["import course.homework\ncourse.homework.check = lambda *a, **k: 1", "check = 3",
                  "from course.homework import checking\nchecking.mismatch = lambda *a: None",
                  "def causal_mask(length): return 1"], 0, "marked"),
    "patches": (["import course.homework.checking as c\ndef causal_mask(length, _=setattr("
                 "c, 'mismatch', lambda *a: None)):\n    return 1"], None, "replaces course"),
    "late": (["import course.homework.checking as c\ndef causal_mask(length):\n"
              "    c.mismatch = lambda *a: None\n    return 1"], None, "replaces course"),
    "copies": ([f"exec(open('{PAGE}').read())", "exec(open('../right/masking.ipynb').read())",
                f"import torch\ndef causal_mask(n):\n    exec(open('{PAGE}').read(), d := dict())\n"
                "    return d['causal_mask'](n)"], 0, "marked"),
    "vandal": ([CAUSAL.format("for p in ('../gradebook.db', '/submission/x', '{}'):\n        "
                              "open(p, 'w').write('x')")], 0, "marked"),
    "spy": ([CAUSAL.format("raise ValueError(open('{}').read())")], 0, "marked"),
    "calls": ([CAUSAL.format("import urllib.request as u; u.urlopen('http://127.0.0.1:{}')")],
              0, "marked"),
    "leaves": ([CAUSAL.format("import os; os._exit(0)")], None, "ends the process"),
    "loops": (["def padding_mask(ids, pad_id=0):\n    while True: pass",
               "def causal_mask(length): return padding_mask(2)"], 0, "marked"),
    "eats": ([CAUSAL.format("x = [[0] * 2**24 for _ in range(10**6)]")], 0, "marked"),
    "talks": ([CAUSAL.format("print('x' * 2**26)"), "while True: print('x' * 2**20)"],
              1, "marked"),
    "forges": ([CAUSAL.format("import os\n    for f in range(20):\n        try: os.write(f, b'"
                              '{{"nonce": "", "check": "padding_mask", "passed": true}}' "\\n')\n"
                              "        except OSError: pass")], 1, "marked"),
    "patient": (["from __future__ import annotations\nimport torch",
                 "%matplotlib inline\ndef helper(n): return torch.ones(1, 1, n, n)",
                 "class Box: pass\nBox.lower = lambda self, x: x.tril()",
                 "def causal_mask(length: Later):\n    return Box().lower(helper(length)).bool()"],
                1, "marked"),
    "timed": (["%%time\n" + CAUSAL.format("pass")], 1, "marked"),
    "below an if": (["import torch\nif True:\n    def causal_mask(n): return 1"],
                    None, "causal_mask is not defined"),
    "made elsewhere": (["import torch\nfor ones in [torch.ones]: pass",
                        "def causal_mask(n): return ones(1, 1, n, n).tril().bool()"], None,
                       "NameError"),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Hand all strangers in, mark them, and return {student: Mark} and the folder of marks."""
    place = tmp_path_factory.mktemp("class")
    secret = place / "teacher.txt"
    secret.write_text("the teacher's own " * 9)
    for student, (cells, _, _) in STRANGERS.items():
        hand_in(place / "submitted", student, *(cell.replace("{}", str(secret)) for cell in cells))
    (place / "submitted" / "broken").mkdir()
    (place / "submitted" / "broken" / "masking.ipynb").write_text('{"cells": [')
    (place / "submitted" / "absent").mkdir()
    (place / "gradebook.db").write_text("13")
    program = sandbox.protection()
    done = marks.mark_all(place / "submitted", place / "out", None, 2, program, 60, progress=False)
    return {mark.student: mark for mark in done}, place


@closed
@pytest.mark.parametrize("student", STRANGERS)
def test_everybody_gets_what_they_wrote(graded, student):
    mark, (_, points, said) = graded[0][student], STRANGERS[student]
    assert (mark.points, said in mark.status) == (points, True), mark


@closed
def test_what_does_not_return_is_waited_for_once(graded):
    said = {name: said for name, (_, said) in graded[0]["loops"].checks.items()}
    assert "had not returned after 20 s" in said["padding_mask"]
    assert said["causal_mask"] == "it uses padding_mask, which does not return"


@closed
def test_nobody_is_harmed(graded):
    _, place = graded
    assert (place / "gradebook.db").read_text() == "13"
    assert (place / "teacher.txt").read_text().startswith("the teacher's own")
    given = [path.read_text("utf-8") for path in (place / "out" / "feedback").rglob("*.md")]
    assert len(given) == len(STRANGERS)
    private = ("teacher's own", str(place / "submitted"))
    assert not [text for text in given for secret in private if secret in text]


@closed
def test_a_broken_file_is_no_zero(graded):
    done, place = graded
    assert "can't be read" in done["broken"].status and "nothing handed in" in done["absent"].status
    with open(place / "out" / "gradebook.csv", encoding="utf-8-sig") as file:
        scores = {row["student"]: row["score"] for row in csv.DictReader(file)}
    assert scores["broken"] == scores["absent"] == scores["leaves"] == ""
    assert scores["blank"] == "0.0" and scores["right"] == "3.0"
    said = marks.summary([*done.values()], place / "out")
    first = said.splitlines()[:7]  # who needs a human stands above
    assert all("a human must look" in line for line in first) and "7 for a human" in said
    assert {"absent", "broken"} <= {line.split()[0] for line in first}


@closed
def test_marking_goes_on_where_it_stopped(graded, monkeypatch):
    _, place = graded
    stored = place / "out" / "marks" / "half.masking.json"
    stored.write_text(stored.read_text()[:40])
    called = []
    monkeypatch.setattr(marks, "ask_judge", lambda file, *_: called.append(file.parent.name) or
                        ([], "not asked"))
    marks.mark_all(place / "submitted", place / "out", None, 1, None, 60, progress=False)
    assert called == ["half"]


@closed
def test_processes_without_end_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "PROCESSES", 5)
    file = hand_in(tmp_path, "bomb", "import os, time\ndef causal_mask(n):\n"
                   "    for _ in range(12):\n        if os.fork() == 0: time.sleep(99)\n"
                   "    time.sleep(99)")
    begun = time.monotonic()
    mark = marks.mark("bomb", "masking", file, sandbox.protection(), 60)
    assert "processes without end" in mark.status and mark.points is None
    assert time.monotonic() - begun < 55


def test_without_a_closed_room_it_says_what_is_open(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sandbox, "protection", lambda: None)
    hand_in(tmp_path / "in", "ann", *RIGHT)
    arguments = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(arguments) == 1
    assert "can read your files" in capsys.readouterr().err
    assert main([*arguments, "--unprotected"]) == 0
    assert "ann                  masking          3 of 3" in capsys.readouterr().out


@pytest.mark.parametrize(("names", "said"), [
    ((), "is no folder"), (("in",), "holds no STUDENT"), (("in", "in/ann"), "holds no STUDENT"),
])
def test_a_wrong_folder_is_told(tmp_path, capsys, names, said):
    for name in names:
        (tmp_path / name).mkdir()
    assert main(["grade", str(tmp_path / "in"), "--unprotected", "--out", str(tmp_path / "o")]) == 1
    assert said in capsys.readouterr().err
    assert main(["grade", str(tmp_path), "--assignment", "nosuch", "--unprotected"]) == 1
    assert "attention" in capsys.readouterr().err


def test_letters_are_marked_by_the_name_on_the_page(tmp_path):
    release = NOTEBOOKS / "homework" / "release" / "reasons" / "reasons.ipynb"
    source = NOTEBOOKS / "homework" / "source" / "reasons" / "reasons.ipynb"
    right = [cell.source for cell in nbformat.read(source, 4).cells if cell.cell_type == "code"]
    ann = [cell.replace('"The course"', '"Ann"') for cell in right]  # whose letters are others
    bob = [cell.replace('"The course"', '"Bob"') for cell in right]
    vague = [cell.replace('"The course"', "input()") for cell in right]
    blank = [cell.source for cell in nbformat.read(release, 4).cells if cell.cell_type == "code"]
    for student, cells in {"right": right, "same": right, "Ann": ann, "Bob": bob, "vague": vague,
                           "blank": blank}.items():
        hand_in(tmp_path / "in", student, *cells).rename(tmp_path / "in" / student
                                                         / "reasons.ipynb")
    done = {m.student: m for m in marks.mark_all(tmp_path / "in", tmp_path / "out", None, 1, None,
                                                 progress=False)}
    assert done["right"].points is done["same"].points is done["vague"].points is None
    assert "answered as 'The course': right, same" in done["right"].status
    assert sum(got for got, _ in done["right"].checks.values()) == done["right"].out_of == 34
    assert done["blank"].points == 0 and done["blank"].status == "marked"
    assert max(done["Ann"].points, done["Bob"].points) < 17
    assert done["Ann"].status == "marked as 'Ann'"
    assert "no name in quotes" in done["vague"].status
    (tmp_path / "in" / "same" / "reasons.ipynb").unlink()
    again = marks.mark_all(tmp_path / "in", tmp_path / "out", "reasons", 1, None, progress=False)
    assert {m.student: m.points for m in again}["right"] == 34


def test_only_definitions_that_are_needed_are_chosen():
    cells = ["import os, torch\nos.remove = 1\nprint(1)", "def g(): return h",
             "x = y = 2; z[0] = 3", "def f(): return g() + x", "f.cache = {}", "def (",
             "def h(): pass", "h = 3"]
    found = definitions(cells, "f")
    assert [node.cell for node in found] == [2, 3, 4, 5, 7, 8]
    assert definitions(cells, "nothing") == []
    said = ["me = None\nme = 'Ann '", "x = (", "me = 'Bob'; me = 'Ann'", "me = ''", "a = b"]
    assert said_of(said, "me") == ["Bob", "Ann"] and said_of(said, "a") == [...]


def test_every_assignment_has_its_points():
    points = marks.assignments()
    assert points["attention"]["MultiHeadAttention"] == 4
    assert sum(points["attention"].values()) == 13
    assert marks.mark("ann", "questions", PAGE, None).status == "is marked by hand"

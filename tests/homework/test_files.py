"""Homework as people do it: magics, input, endless loops, dying processes, halves of a pair."""

import json
import os
import time

import jupytext
import pytest

from course.__main__ import main
from course.grading.marks import unreadable
from course.homework import pairs
from course.homework.files import check_file

MERGE = "def merge_heads(x):\n    return x.transpose(1, 2).flatten(-2)"


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "kept" / "progress.json"))


def write(path, *cells):
    """Write cells of code as a notebook of format 4."""
    cells = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": [],
              "execution_count": None} for cell in cells]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4,
                                "nbformat_minor": 4}), encoding="utf-8")
    return path


def test_what_jupyter_runs_is_run(tmp_path, capsys):
    (tmp_path / "helper.py").write_text("factor = 1\n")
    file = write(
        tmp_path / "mine.ipynb",
        "from __future__ import annotations",
        "%matplotlib inline\nlines = !echo hello\nif lines:\n    !echo indented\n"
        "assert lines == ['hello']\n%load_ext autoreload",
        'text = """\n%not a magic\n!nor this\n"""\ntotal = 7 \\\n%4\n'
        'assert total == 3 and "%n" in text',
        "%%time\nfrom dataclasses import dataclass\n@dataclass\nclass Point:\n    x: Unknown",
        "import asyncio, os\nawait asyncio.sleep(0)\nassert os.path.exists('helper.py')\n" + MERGE,
        "import helper\nfrom unittest import mock\nassert helper.factor == 1 and Point(3).x == 3\n"
        "def scale(x: Later): return x",
        "print('much' * 9)\nget_ipython()",
    )
    assert [result.passed for result in check_file(file)] == [True]
    assert capsys.readouterr().err == ""


def test_no_cell_hangs_or_kills_the_check(tmp_path, capsys):
    file = write(
        tmp_path / "mine.ipynb", "name = input('who? ')", "import sys\nsys.exit(3)",
        "import os\nos._exit(0)", "while True: pass", "1 / 0", "%nosuchmagic", "def (", MERGE,
        "def softmax(x, dim):\n    import os\n    os.abort()",
    )
    results = {result.name: result for result in check_file(file, seconds=8)}
    said = capsys.readouterr().err.splitlines()
    assert results["merge_heads"].passed
    assert "ends the process" in results["softmax"].message and not results["softmax"].passed
    for number, what in enumerate(("asks for input", "leaves Python", "ends the process (status 0",
                                   "had not returned after 8 s", "ZeroDivisionError",
                                   "nosuchmagic", "SyntaxError"), 1):
        assert sum(f"cell {number}: " in line and what in line for line in said) == 1, said
    assert len(said) == 7


STUB = "def f(x):\n    raise NotImplementedError  # your code"


def page(path, saved, **exercises):
    """Write a half of a pair with solution cells, saved so many seconds ago."""
    notebook = jupytext.reads("# %%\nimport math\n", fmt="py:percent")
    notebook.metadata.clear()  # its filter would leave the marks of the cells out
    for name, code in exercises.items():
        cell = jupytext.reads(f"# %%\n{code}\n", fmt="py:percent").cells[0]
        cell.metadata["nbgrader"] = {"solution": True, "grade_id": name}
        notebook.cells.append(cell)
    jupytext.write(notebook, path, fmt="py:percent" if path.suffix == ".py" else "ipynb")
    os.utime(path, (time.time() - saved,) * 2)
    return path


@pytest.mark.parametrize("newer", [".py", ".ipynb"])
def test_work_in_either_half_is_kept(tmp_path, capsys, newer):
    mine = {".py": {"a": "a = 'py'", "b": STUB}, ".ipynb": {"a": STUB, "b": "b = 'ipynb'"}}
    for suffix, exercises in mine.items():
        page(tmp_path / f"mine{suffix}", 10 if suffix == newer else 500, **exercises)
    assert pairs.differ(tmp_path / "mine.py")
    assert main(["homework", "sync", str(tmp_path / "mine.ipynb")]) == 0
    assert f"mine{newer} was saved last" in capsys.readouterr().out
    for half in pairs.halves(tmp_path / "mine.py"):
        sources = [cell.source for cell in jupytext.read(half).cells]
        assert sources == ["import math", "a = 'py'", "b = 'ipynb'"]
    notebook, script = pairs.halves(tmp_path / "mine.py")
    assert script.stat().st_mtime >= notebook.stat().st_mtime  # or JupyterLab refuses the pair
    assert not pairs.differ(notebook) and len(list(tmp_path.glob("mine*"))) == 2


def test_what_both_halves_wrote_is_not_lost(tmp_path, capsys):
    page(tmp_path / "mine.py", 500, a="a = 'old'")
    page(tmp_path / "mine.ipynb", 10, a="a = 'new'")
    (tmp_path / "mine.mine-1.py").write_text("taken")
    pairs.sync(tmp_path / "mine.py")
    assert "'new'" in (tmp_path / "mine.py").read_text()
    assert "'old'" in (tmp_path / "mine.mine-2.py").read_text()


def test_one_half_becomes_two_and_none_is_told(tmp_path, capsys):
    page(tmp_path / "mine.py", 10, a="a = 1")
    pairs.sync(tmp_path / "mine.py")
    assert jupytext.read(tmp_path / "mine.ipynb").cells[1].source == "a = 1"
    assert main(["homework", "sync", str(tmp_path / "no.ipynb")]) == 1
    assert "no such notebook" in capsys.readouterr().err


def test_check_and_report_offer_to_make_a_pair_one(tmp_path, capsys, monkeypatch):
    script = page(tmp_path / "mine.py", 500, merge=MERGE)
    notebook = page(tmp_path / "mine.ipynb", 10, merge=MERGE.replace("1, 2", "1, -2"))
    assert check_file(script)[0].passed
    assert "homework sync mine.ipynb" in capsys.readouterr().err
    monkeypatch.setattr(pairs, "released", lambda: [notebook])
    monkeypatch.setattr("course.homework.report.write_report", lambda *_: [])
    assert main(["homework", "report"]) == 0
    assert "homework sync" in capsys.readouterr().err


def test_marks_of_a_merge_are_told_by_every_command(tmp_path, capsys):
    file = tmp_path / "mine.ipynb"
    file.write_text('{"cells": [\n<<<<<<< HEAD\n]}\n=======\n>>>>>>> theirs\n')
    for task in ("check", "sync"):
        assert main(["homework", task, str(file)]) != 0
        assert "marks of a merge" in capsys.readouterr().err
    assert "marks of a merge" in unreadable(file)
    file.with_suffix(".py").write_text("x = 1\n")
    os.utime(file, (1, 1))
    assert pairs.differ(file)  # so that the report says so, and goes on

"""What every notebook of the course owes its reader."""

import ast
import os
import re

import jupytext
import nbformat
import pytest

from course.authoring import NOTEBOOKS, is_homework, sources
from course.authoring.minutes import measure
from course.corpora import multi30k

SOURCES = {("homework/" if is_homework(path) else "") + path.stem: path for path in sources()}
NAMES = [name for name in SOURCES if not name.startswith("homework/")]
# a lesson may use the modules of earlier lessons, and these, which belong to none
GROUND = {"device", "progress", "pages", "corpora"}
READERS = ("mine = ", "check(", "compare(")  # cells in which the reader's guess or answer goes
SHARED = {*GROUND, "viz", "bench", "doctor", "authoring", "homework"}


def cells(name: str, kind: str) -> list[str]:
    return [c.source for c in jupytext.read(SOURCES[name]).cells if c.cell_type == kind]


def stored_text(name: str) -> str:
    """All that the stored notebook shows as text."""
    parts = []
    for cell in nbformat.read(SOURCES[name].with_suffix(".ipynb"), as_version=4).cells:
        for output in cell.get("outputs", ()):
            parts.append(output.get("text", ""))
            parts += [t for kind, t in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(parts)


def used_modules(code: str) -> set[str]:
    """The modules of the course that some code imports, by their first name: {"attention"}."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "course":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("course.")}
    return found


def test_used_modules_sees_every_way_to_import():
    code = "import course.text\nfrom course import viz\nfrom course.viz.text import x\nimport math"
    assert used_modules(code) == {"text", "viz"}


def test_there_are_notebooks():
    assert {"00_start_here", "05_transformer", "walkthrough"} <= set(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name[:2].isdigit()])
def test_a_lesson_uses_only_what_earlier_lessons_built(name: str):
    later = {other.split("_", 1)[1] for other in NAMES if other[:2].isdigit() and other >= name}
    code = "\n".join(cells(name, "code"))
    # the style check of `authoring check` keeps magics out of export cells; here lines with % or !
    plain = "\n".join(line for line in code.split("\n") if not re.match(r"\s*[%!]", line))
    used = used_modules(plain) - SHARED - {"ASSETS"}
    assert used & later == set()


@pytest.mark.parametrize("name", SOURCES)
def test_no_link_is_dead(name: str):
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(cells(name, "markdown"))):
        path = target.split("#")[0]
        if path and not re.match(r"https?:|attachment:", path):
            linked = SOURCES[name].parent / path
            assert linked.exists() or linked.with_suffix(".py").exists()


@pytest.mark.parametrize("name", NAMES)
def test_two_fifths_of_the_cells_check_something(name: str):
    ours = [c for c in cells(name, "code") if not c.startswith(("#| export", *READERS))]
    checking = [c for c in ours if "assert " in c or c.startswith("# NBVAL_CHECK_OUTPUT")]
    assert len(checking) >= 0.4 * len(ours)


@pytest.mark.parametrize("name", SOURCES)
def test_stored_outputs_tell_nothing_about_the_machine(name: str):
    path = re.search(r"/(work|home|root|tmp|Users|usr)/|site-packages|C:\\", stored_text(name))
    assert path is None


@pytest.mark.skipif(not os.environ.get("COURSE_DATA"), reason="needs the real Multi30k")
@pytest.mark.parametrize("split", ["val", "test_2016_flickr"])
def test_stored_outputs_hold_no_sentence_of_multi30k(split: str):
    long = [s for pair in multi30k.load(split) for s in pair if len(s.split()) > 4]
    for name in SOURCES:
        text = stored_text(name)
        assert [s for s in long if s in text] == [], name


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_has_words(name: str):
    cells = nbformat.read(SOURCES[name].with_suffix(".ipynb"), as_version=4).cells
    shown = [output for cell in cells for output in cell.get("outputs", ())
             if "image/png" in output.get("data", {})]
    words = [output.metadata.get("image/png", {}).get("alt") or output.metadata.get("alt")
             for output in shown]
    assert all(words), f"{words.count(None)} of {len(words)} pictures have none: run the page"


def relative_paths(code: str) -> list[str]:
    """What code opens or names as a file beside it: found only where the kernel began there."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Path", "open"):
            first = node.args[0] if node.args else ast.Constant("")
            start = first.values[0] if isinstance(first, ast.JoinedStr) else first
            if isinstance(first, ast.JoinedStr) and not isinstance(start, ast.Constant):
                start = ast.Constant("")
            if isinstance(start, ast.Constant) and not str(start.value).startswith("/"):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Attribute) and node.attr in ("getcwd", "cwd", "chdir"):
            found.append(ast.unparse(node))
    return found


def test_the_path_takes_nine_hours():
    path = [page for page in NOTEBOOKS.glob("0*.py") if re.match(r"\d\d_", page.name)]
    assert len(path) == 10 and sum(measure(page)[0] for page in path) <= 540


@pytest.mark.parametrize("name", SOURCES)
def test_a_page_runs_from_any_working_directory(name: str):
    found = [path for code in cells(name, "code") if "!" not in code and "%" not in code[:1]
             for path in relative_paths(code)]
    assert not found


def test_relative_paths_are_seen():
    seen = relative_paths("Path('a'); open(f'{name}.py'); Path(); os.getcwd()")
    assert len(seen) == 4
    assert not relative_paths("Path(directory); open(ASSETS / 'a'); Path(course.__file__)")


def test_lesson_00_finds_its_pages_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as where VS Code starts a kernel
    code = cells("00_start_here", "code")
    wanted = [code[0], *(cell for cell in code[1:] if "PAGES" in cell)]
    assert len(wanted) > 3
    names: dict = {"display": print}
    for cell in wanted:
        exec(compile(cell, "00_start_here", "exec"), names)  # the course's own cells
    assert all(names["here"].values()) and len(names["minutes"]) > 10


@pytest.mark.parametrize("name", NAMES)
def test_chinese_passages_carry_their_language(name: str):
    for text in cells(name, "markdown"):
        open_ = False
        for line in text.splitlines():
            open_ = (open_ or 'lang="zh"' in line) and "</div>" not in line
            assert open_ or len(re.findall(r"[\u4e00-\u9fff]", line)) <= 12, line

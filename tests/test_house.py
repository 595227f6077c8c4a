"""The house: what may import what, and what each door loads before it opens."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import course
from course.authoring import NOTEBOOKS, ROOT
from course.authoring.tangle import module_path

PACKAGE = Path(course.__file__).parent
GROUND = ("corpora", "device", "progress", "pages", "rundir")  # below all: they import no other
LESSONS = [
    module_path(page).stem
    for page in sorted(NOTEBOOKS.glob("[0-9]*.py"), key=lambda page: page.stem.split("_")[0])
    if module_path(page).exists()
]


def modules() -> dict[str, Path]:
    """Return every module of the package under its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, at_once: bool = False) -> set[str]:
    """Return the course's modules that a module imports; at_once: not those inside functions."""
    path, every = modules()[name], modules()
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if at_once else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            names = {f"{base}.{alias.name}" for alias in node.names} & every.keys()
            found |= names or {base}
    return found & (every.keys() - {name, "course"})


def room(name: str) -> str:
    """Return the room of a module: the part behind `course.`."""
    return name.split(".")[1]


def test_lessons_stand_in_the_order_of_their_numbers():
    assert LESSONS[:4] == ["foundations", "seq2seq", "attention", "masking"]
    pages = [page.stem.split("_")[0] for page in sorted(NOTEBOOKS.glob("[0-9]*.py"))]
    assert all(a < b for a, b in pairwise(sorted(set(pages)))) and len(pages) == len(set(pages))


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_imports_the_ground_floor_and_earlier_lessons_only(lesson):
    earlier = {*GROUND, *LESSONS[: LESSONS.index(lesson)]}
    assert {room(name) for name in imported(f"course.{lesson}")} <= earlier


def test_the_ground_floor_imports_nothing_above_it():
    for name in modules():
        if name != "course" and room(name) in GROUND:
            assert {room(other) for other in imported(name)} <= set(GROUND), name


def test_no_circle():
    graph = {name: imported(name, at_once=True) for name in modules()}
    for name, above in graph.items():  # a package's own parts may use what it defines first
        above -= {name.rpartition(".")[0]}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", LESSONS)
def test_a_tangled_module_can_be_read_in_one_sitting(module):
    assert len((PACKAGE / f"{module}.py").read_text("utf-8").splitlines()) <= 450


def test_exercises_do_not_borrow_from_each_other():
    prefix = "course.homework.exercises."
    for name in modules():
        if name.startswith(prefix):
            assert not {other for other in imported(name) if other.startswith(prefix)}, name


@pytest.mark.parametrize("module", LESSONS)
def test_help_says_in_a_sentence_what_a_module_is(module):
    said = ast.get_docstring(ast.parse((PACKAGE / f"{module}.py").read_text("utf-8")))
    assert said and said[0].isupper() and said.partition("\n\n")[0].endswith(".")


def loaded_by(code: str) -> set[str]:
    """Return the modules and packages that a fresh Python holds after some code."""
    code = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], input="", capture_output=True,
                          text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


SLOW = {"torch", "spacy", "jupytext", "matplotlib", "sacrebleu", "nbconvert", "IPython"}
MAIN = "from course.__main__ import main\n"


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import course.evaluation",
         {"course.homework", "spacy", "jupytext", "matplotlib", "IPython"}),
        ("from course.homework import check", SLOW),
        (MAIN + "try: main(['--help'])\nexcept SystemExit: pass", SLOW),
        (MAIN + "main(['homework', 'list'])", SLOW),
        (MAIN + "main(['homework', 'check', 'MINE'])", SLOW),
        (MAIN + "main(['homework', 'report'])", {"torch", "spacy", "jupytext", "sacrebleu"}),
        (MAIN + "main(['translate', '--checkpoint', 'multi30k-de-en'])",
         SLOW - {"torch"} | {"course.homework"}),
    ],
    ids=["evaluation", "check", "help", "list", "check a file", "report", "translate"],
)
def test_a_door_opens_without_loading_what_it_does_not_use(code, without, tmp_path, monkeypatch):
    mine = tmp_path / "mine.py"
    mine.write_text("def merge_heads(x):\n    return x.transpose(1, 2).flatten(-2)\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert not without & loaded_by(code.replace("MINE", mine.as_posix()))

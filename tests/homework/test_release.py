"""What learners get is what the sources say, and a hostile submission harms only its author."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbgrader.api import Gradebook

from course import authoring
from course.authoring import release, sources
from course.homework.exercises import EXERCISES

HOMEWORK = [source for source in sources() if authoring.is_homework(source)]


def graded(notebook) -> dict[str, nbformat.NotebookNode]:
    cells = (cell for cell in notebook.cells if "nbgrader" in cell.metadata)
    return {cell.metadata.nbgrader.grade_id: cell for cell in cells}


def test_every_assignment_has_its_exercises_and_its_release():
    text = "\n".join(source.read_text("utf-8") for source in HOMEWORK)
    for name, exercise in EXERCISES.items():
        assert f"<!-- card: {name} -->" in text
        assert re.search(rf"(?m)^check\(\"{name}\", {name}\)$", text)
        assert re.search(rf"(?m)^assert check\(\"{name}\", {name}, strict=True\)\.passed$", text)
        assert f"homework/source/{exercise.assignment}/" in " ".join(map(str, HOMEWORK))


@pytest.mark.parametrize("source", HOMEWORK, ids=lambda source: source.stem)
def test_the_release_is_current_and_holds_no_solution(source: Path):
    assert release.release_problems(source) == []
    path = release.release_folder(source) / f"{source.stem}.ipynb"
    if release.worked_in(path):
        pytest.skip(f"{path.name}: somebody works in this copy")
    stored = path.read_text("utf-8")
    assert "SOLUTION" not in stored
    cells = graded(nbformat.reads(stored, as_version=4))
    solutions = [c for c in cells.values() if c.metadata.nbgrader.solution]
    assert solutions and not any(authoring.written(c.source) for c in solutions)


@pytest.mark.parametrize("source", HOMEWORK, ids=lambda source: source.stem)
def test_points_are_the_difficulty(source: Path):
    for cell in graded(jupytext.read(source)).values():
        found = re.search(r'(?m)^assert check\("(\w+)", \w+, strict=True\)', cell.source)
        if found:
            worth = EXERCISES[found[1]].difficulty if found[1] in EXERCISES else 1  # or a reason
            assert cell.metadata.nbgrader.points == worth
            assert cell.metadata.nbgrader.locked and cell.metadata.nbgrader.grade
            assert cell.source.startswith("from course.homework import check")  # not a learner's


def test_an_old_release_is_found_and_the_mend_is_named(monkeypatch, tmp_path):
    original = authoring.NOTEBOOKS / "homework" / "source" / "attention"
    source = tmp_path / "homework" / "source" / "attention" / "attention.py"
    shutil.copytree(original, source.parent)
    release.release(source)
    assert release.release_problems(source) == []
    text = source.read_text("utf-8").replace("def softmax(x: Tensor", "def softmax(y: Tensor")
    source.write_text(text.replace("numbers into weights", "numbers into loads"), "utf-8")
    problems = release.release_problems(source)
    assert len(problems) == 3 and "card of softmax" in problems[0]
    assert all("python -m course.authoring release homework/attention" in p for p in problems)
    assert release.refresh_cards(source) and not release.refresh_cards(source)


def test_a_copy_that_was_run_or_worked_in_is_no_problem(tmp_path):
    original = authoring.NOTEBOOKS / "homework" / "source" / "masking"
    source = tmp_path / "homework" / "source" / "masking" / "masking.py"
    shutil.copytree(original, source.parent)
    release.release(source)
    path = release.release_folder(source) / "masking.ipynb"
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].outputs, code[0].execution_count = [nbformat.v4.new_output("stream", text="hello")], 1
    nbformat.write(notebook, path)
    assert release.release_problems(source) == []
    code[0].source += "\nmine = 1"
    nbformat.write(notebook, path)
    assert len(release.release_problems(source)) == 1
    next(c for c in code if "NotImplementedError" in c.source).source = "done = True"
    nbformat.write(notebook, path)
    assert release.release_problems(source) == []


def test_a_release_that_somebody_has_worked_in_is_kept(tmp_path):
    original = authoring.NOTEBOOKS / "homework" / "source" / "attention"
    source = tmp_path / "homework" / "source" / "attention" / "attention.py"
    shutil.copytree(original, source.parent)
    release.release(source)
    folder = release.release_folder(source)
    assert sorted(p.name for p in folder.iterdir()) == ["attention.ipynb", "attention.py"]
    mine = (folder / "attention.py").read_text("utf-8")
    mine = mine.replace("    raise NotImplementedError  # your code", "    return x", 1)
    (folder / "attention.py").write_text(mine, "utf-8")
    release.release(source)
    assert (folder / "attention.mine-1.py").read_text("utf-8") == mine
    assert release.release_problems(source) == []


HOSTILE = {
    "loop": "while True:\n    pass",
    "exit": "import os\nos._exit(0)",
    "memory": "lists = [[0] * 2**24 for _ in range(10**6)]",  # 128 MB each, without end
    "peek": "from pathlib import Path\n"
            "files = [p for p in Path('.').rglob('*') if p.is_file()]\n"
            "Path('seen.txt').write_text('\\n'.join(p.read_text() for p in files))",
}


WARNS = """import sys
import course.homework
kept = course.homework.check
def check(*arguments, **options):
    print("a bar", file=sys.stderr)
    return kept(*arguments, **options)
course.homework.check = check"""  # in every test cell, as the exam's own progress bar is

PRAISES_ITSELF = """

class check:
    passed = True
    def __init__(self, *arguments, **options): ...
"""


@pytest.fixture(scope="module")
def marks(tmp_path_factory) -> dict[str, float]:
    """Release, hand in, autograde; return {student: points}."""
    place = tmp_path_factory.mktemp("class")
    original = authoring.NOTEBOOKS / "homework"
    shutil.copy(original / "nbgrader_config.py", place)
    for assignment in ("attention", "exam", "reasons"):
        shutil.copytree(original / "source" / assignment, place / "source" / assignment)

    def nbgrader(*arguments: str) -> str:
        command = [sys.executable, "-m", "nbgrader", *arguments]
        environment = {**os.environ, "COURSE_KERNEL_GB": "2"}
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True,
                              timeout=500)
        return done.stdout + done.stderr

    def solutions_of(assignment: str) -> dict:
        return graded(jupytext.read(original / "source" / assignment / f"{assignment}.py"))

    def hand_in(
        student: str, solved: list[str], code: str = "", assignment: str = "attention",
        below: str = "",
    ) -> None:
        name_of_file = f"{assignment}.ipynb"
        copy = nbformat.read(place / "release" / assignment / name_of_file, as_version=4)
        for name, cell in graded(copy).items():
            if name in solved:
                cell.source = solutions_of(assignment)[name].source + below
        if code:
            copy.cells.insert(2, nbformat.v4.new_code_cell(code))
        folder = place / "submitted" / student / assignment
        folder.mkdir(parents=True)
        nbformat.write(copy, folder / name_of_file)

    print(nbgrader("generate_assignment", "attention"), nbgrader("generate_assignment", "exam"))
    solutions = solutions_of("attention")

    everything = [n for n, c in solutions.items() if c.metadata.nbgrader.solution]
    hand_in("ann", everything)
    hand_in("zoe", ["softmax", "merge_heads"])
    for name, code in HOSTILE.items():
        hand_in(name, ["softmax"], code)
    hand_in("twice", everything, WARNS)
    hand_in("praise", ["softmax"], below=PRAISES_ITSELF)
    path = place / "submitted" / "twice" / "attention" / "attention.ipynb"
    copied = nbformat.read(path, as_version=4)
    copied.cells.append(graded(copied)["softmax"])  # a cell copied, its id with it
    nbformat.write(copied, path)
    hand_in("deletes", everything)
    path = place / "submitted" / "deletes" / "attention" / "attention.ipynb"
    less = nbformat.read(path, as_version=4)
    tests = [c for c in graded(less).values() if not c.metadata.nbgrader.solution]
    less.cells.remove(tests[0])
    del graded(less)["merge_heads"].metadata["nbgrader"]  # a cell of the learner's own, as good
    tests[2].cell_type = "markdown"
    del tests[2]["outputs"], tests[2]["execution_count"]
    nbformat.write(less, path)
    said = nbgrader("autograde", "attention", "--ExecutePreprocessor.timeout=20")
    closing = said.partition("were put back")[2]
    assert all(f"{c.metadata.nbgrader.grade_id}" in closing for c in (tests[0], tests[2])), said
    assert closing.count("attention:") == 1, said
    assert sorted(p.name for p in (place / "release" / "attention").iterdir()) == [
        "attention.ipynb"
    ]
    seen = (place / "autograded" / "peek" / "attention" / "seen.txt").read_text()
    unsolved = solutions["multi_head"].source.splitlines()[5]  # self.w_q, ... = nn.Linear ...
    assert "nn.Linear" in unsolved and unsolved.strip() not in seen and "def split_heads" in seen
    right = [n for n, c in solutions_of("exam").items() if c.metadata.nbgrader.solution]
    hand_in("ann", right, assignment="exam")
    print(nbgrader("autograde", "exam"))
    nbgrader("generate_assignment", "reasons")
    letters = [*solutions_of("reasons")]
    for student in ("ann", "copies", "shares", "blank"):
        hand_in(student, [] if student == "blank" else letters, assignment="reasons")
    path = place / "submitted" / "shares" / "reasons" / "reasons.ipynb"
    path.write_text(path.read_text("utf-8").replace("The course", "Bob"), "utf-8")
    assert "reasons: ann, copies answer as 'The course'" in nbgrader("autograde", "reasons")
    with Gradebook(f"sqlite:///{place}/gradebook.db") as gradebook:
        students = {"ann", "zoe", "twice", "praise", "deletes", *HOSTILE}
        found = {s.student.id: s.score for s in gradebook.assignment_submissions("attention")}
        exam = gradebook.find_submission("exam", "ann").score
        reasons = {f"reasons of {s.student.id}": s.score
                   for s in gradebook.assignment_submissions("reasons")}
        return {"exam": exam} | reasons | {student: found.get(student) for student in students}


@pytest.mark.long  # a class by nbgrader
@pytest.mark.skipif(os.name == "nt", reason="nbgrader runs on Linux and macOS")
def test_a_hostile_submission_harms_only_its_author(marks):
    assert marks["ann"] == 13 and marks["zoe"] == 4
    assert {name: marks[name] for name in ("loop", "exit", "memory")} == {
        "loop": 2, "exit": 0, "memory": 2
    }


@pytest.mark.long  # a class by nbgrader
def test_a_right_exam_gets_its_points(marks):
    assert marks["exam"] == 5


@pytest.mark.long  # a class by nbgrader
def test_letters_count_for_the_name_on_the_page(marks):
    assert marks["reasons of ann"] == marks["reasons of copies"] == 34  # and both are named
    assert marks["reasons of blank"] == 0 and marks["reasons of shares"] < 17


@pytest.mark.long  # a class by nbgrader
def test_warnings_progress_bars_and_copied_cells_cost_nothing(marks):
    assert marks["twice"] == 13


@pytest.mark.long  # a class by nbgrader
def test_a_check_of_ones_own_gives_no_points(marks):
    assert marks["praise"] == 2


@pytest.mark.long  # a class by nbgrader
def test_a_deleted_or_converted_test_comes_back(marks):
    assert marks["deletes"] == 13


@pytest.mark.long  # a class by nbgrader
def test_there_is_nothing_to_steal(marks):
    assert marks["peek"] == 2

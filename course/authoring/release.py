"""Releasing homework: source/ (with solutions) becomes release/ (what a learner opens)."""

import contextlib
import io
import logging
import re
import tempfile
from itertools import count
from pathlib import Path

import jupytext
import nbformat
from nbgrader.apps import NbGraderAPI
from nbgrader.converters import GenerateAssignment
from nbgrader.preprocessors import ClearSolutions, SaveCells
from traitlets.config import Config

from course.authoring import STUB, UNANSWERED, AuthoringError, written
from course.homework.cards import card
from course.homework.exercises import EXERCISES
from course.pages import as_saved

CARD = re.compile(r"<!-- card: (\w+) -->")


class ClearAnswers(ClearSolutions):
    """nbgrader's, but `why_scale = None  # your letter` above a solution is its stub."""

    def _replace_solution_region(self, cell, language):
        replaced = super()._replace_solution_region(cell, language)
        if replaced and UNANSWERED.search(cell.source):
            cell.source = cell.source.replace("\n" + STUB["python"], "")
        return replaced


def refresh_cards(source: Path) -> bool:
    """Write the card of every exercise into its marked cell; return whether the file changed.

    Raises AuthoringError for a card of an exercise that does not exist.
    """
    before = source.read_text(encoding="utf-8")
    notebook = jupytext.reads(before, fmt="py:percent")
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := CARD.match(cell.source)):
            if found[1] not in EXERCISES:
                raise AuthoringError(f"{source.name}: there is no exercise {found[1]!r}")
            cell.source = card(EXERCISES[found[1]])
    after = jupytext.writes(notebook, fmt="py:percent")
    if after == before:
        return False
    source.write_text(after, encoding="utf-8")
    return True


def released(source: Path) -> dict[str, str]:
    """Return the learner's copy of an assignment as nbgrader makes it: {file name: text}."""
    name = source.stem
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "source", name)
        folder.mkdir(parents=True)
        notebook = jupytext.read(source)
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number:03d}"
        nbformat.write(notebook, folder / f"{name}.ipynb")
        config = Config()
        config.CourseDirectory.root = place
        config.GenerateAssignment.no_database = True
        config.GenerateAssignment.preprocessors = [
            ClearAnswers if step is ClearSolutions else step
            for step in GenerateAssignment.preprocessors.default() if step is not SaveCells
        ]  # the gradebook is the teacher's
        config.ClearSolutions.code_stub = STUB
        logging.disable(logging.INFO)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                result = NbGraderAPI(config=config).generate_assignment(name)
        finally:
            logging.disable(logging.NOTSET)
        if not result["success"]:
            raise AuthoringError(f"nbgrader can't release {name}:\n{result['log']}")
        copy = nbformat.read(Path(place, "release", name, f"{name}.ipynb"), as_version=4)
    as_saved(copy)
    text = jupytext.writes(copy, fmt="py:percent")
    return {f"{name}.ipynb": nbformat.writes(copy) + "\n", f"{name}.py": text}


def release_folder(source: Path) -> Path:
    return source.parents[2] / "release" / source.stem


def release(source: Path) -> None:
    """Write the learner's copy of an assignment, both halves of the pair.

    A copy that somebody has worked in is moved aside (attention.mine-1.ipynb), never overwritten.
    """
    folder = release_folder(source)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in released(source).items():
        path = folder / name
        if path.exists() and worked_in(path):
            names = (path.with_suffix(f".mine-{n}{path.suffix}") for n in count(1))
            aside = next(candidate for candidate in names if not candidate.exists())
            print(f"somebody has worked in {name}: kept as {path.replace(aside).name}")
        path.write_text(text, encoding="utf-8")


def worked_in(path: Path) -> bool:
    """Return whether a released notebook holds a solution where a stub should be."""
    cells = jupytext.read(path).cells
    solutions = [c for c in cells if c.metadata.get("nbgrader", {}).get("solution")]
    return any(written(cell.source) for cell in solutions)


def contents(text: str) -> list[tuple[str, str, dict]]:
    """Return the type, source and nbgrader's marks of each cell of a notebook, without outputs."""
    fmt = "ipynb" if text.startswith("{") else "py:percent"
    cells = jupytext.reads(text, fmt=fmt).cells
    return [(c.cell_type, c.source, dict(c.metadata.get("nbgrader", {}))) for c in cells]


def release_problems(source: Path) -> list[str]:
    """Return what in an assignment's cards or release is not current, and what mends it.

    A released copy may have been run; one that somebody has worked in is theirs, and not judged.
    """
    mend = f"Mend: python -m course.authoring release homework/{source.stem}"
    found = []
    for cell in jupytext.read(source).cells:
        marked = CARD.match(cell.source) if cell.cell_type == "markdown" else None
        if marked and (marked[1] not in EXERCISES or cell.source != card(EXERCISES[marked[1]])):
            found.append(f"homework/source/{source.stem}: the card of {marked[1]} is old. {mend}")
    for name, text in released(source).items():
        path = release_folder(source) / name
        mine = path.exists() and worked_in(path)
        if not mine and (not path.exists() or contents(path.read_text("utf-8")) != contents(text)):
            found.append(f"homework/release/{source.stem}/{name} is not current. {mend}")
    return found

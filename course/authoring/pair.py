"""Pairs: notebooks/NN_name.py is reviewed, NN_name.ipynb carries the outputs of a real run."""

from pathlib import Path

import jupytext
import nbformat
from jupytext.cli import jupytext as jupytext_cli

from course import authoring
from course.authoring import is_homework
from course.authoring.tangle import module_path, tangled
from course.pages import as_saved


def synchronise(source: Path) -> None:
    """Carry the newer half of a pair over to the older one; both get JupyterLab's metadata."""
    jupytext_cli(["--sync", str(source)])
    stored = source.with_suffix(".ipynb")
    notebook = nbformat.read(stored, as_version=4)
    if as_saved(notebook):
        nbformat.write(notebook, stored)
    # last: JupyterLab refuses a pair whose text half is the older one
    source.write_text(as_text(source), encoding="utf-8")


def as_text(source: Path) -> str:
    """Return a .py as JupyterLab and jupytext save it."""
    notebook = jupytext.read(source)
    as_saved(notebook)
    return jupytext.writes(notebook, fmt="py:percent")


def problems(source: Path) -> list[str]:
    """Return what is wrong with a notebook, its pair and its module, each with what mends it."""
    found = []
    text, module = "" if is_homework(source) else tangled(source), module_path(source)
    name = f"homework/{source.stem}" if is_homework(source) else source.stem
    shown = source.relative_to(authoring.ROOT).with_suffix("").as_posix()
    if text and (not module.exists() or module.read_text(encoding="utf-8") != text):
        found.append(
            f"course/{module.name} is not what {shown}.py tangles to. "
            f"Mend: python -m course.authoring tangle {name}"
        )
    stored_path = source.with_suffix(".ipynb")
    mend = f"Mend: python -m course.authoring run {name}"
    if not stored_path.exists():
        return [*found, f"{shown}.ipynb is missing. {mend}"]
    written = jupytext.read(source).cells
    notebook = nbformat.read(stored_path, as_version=4)
    stored = notebook.cells
    if as_saved(notebook) or as_text(source) != source.read_text(encoding="utf-8"):
        found.append(
            f"{shown}: JupyterLab would save other metadata. "
            f"Mend: python -m course.authoring pair {name}"
        )
    content = [[(cell.cell_type, cell.source) for cell in cells] for cells in (written, stored)]
    if content[0] != content[1]:
        pairs = enumerate(zip(*content))
        first = next((i for i, (a, b) in pairs if a != b), min(map(len, content)))
        found.append(
            f"{shown}.py and .ipynb differ from cell {first} on. {mend} "
            f"(or, to carry over the newer half: python -m course.authoring pair {name})"
        )
    for number, cell in enumerate(stored):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        where = f"{shown}.ipynb, cell {number}"
        if any(output.output_type == "error" for output in cell.outputs):
            found.append(f"{where}, holds an error. {mend}")
        elif cell.execution_count is None:
            found.append(f"{where}, is stored without its outputs. {mend}")
    return found

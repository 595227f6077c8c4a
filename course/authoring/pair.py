"""Pairs: notebooks/NN_name.py is reviewed, NN_name.ipynb carries the outputs of a real run."""

from pathlib import Path

import jupytext
import nbformat
from jupytext.cli import jupytext as jupytext_cli
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from course import authoring
from course.authoring import AuthoringError, is_homework
from course.authoring.tangle import module_path, tangled


def execute(source: Path, target: Path, progress: bool = False) -> nbformat.NotebookNode:
    """Run a py:percent notebook from top to bottom and write it with its outputs.

    progress: show a bar over its cells. Raises AuthoringError that shows the cell that failed;
    `target` is then left as it was.
    """
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(source.parent)}}, coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )
    bar = tqdm(total=len(notebook.cells), unit="cell", disable=not progress)
    client.on_cell_start = lambda cell, cell_index: bar.update(cell_index - bar.n)
    try:
        with bar:
            client.execute()
    except CellExecutionError as error:
        raise AuthoringError(f"{source.name} stopped in a cell:\n{error}") from error
    notebook.metadata.pop("language_info", None)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    return notebook


def synchronise(source: Path) -> None:
    """Carry the newer half of a pair over to the older one."""
    jupytext_cli(["--sync", str(source)])


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
    stored = nbformat.read(stored_path, as_version=4).cells
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

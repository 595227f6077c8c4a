"""What the answers say: each change that a reader is asked to try, tried.

tests/changes/NN_name.toml holds a table [[change]] for each: `cell`, a text that stands in one code
cell of the page; `old` and `new`, what is replaced in it; `then`, lines to run afterwards; and
what comes out: `expect`, an expression that holds, or `fails`, a text of the line that raises
(`raises`, AssertionError if not named). `long = true` leaves it to make test-all. Only the cells
whose names are needed run, at smoke scale.
"""

import ast
import builtins
import linecache
import os
import re
import tomllib
import traceback
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from course.authoring import NOTEBOOKS

TABLES = {path.stem: tomllib.loads(path.read_text("utf-8"))["change"]
          for path in sorted((Path(__file__).parent / "changes").glob("*.toml"))}
CHANGES = [pytest.param(page, number, marks=pytest.mark.long if change.get("long") else ())
           for page, table in TABLES.items() for number, change in enumerate(table)]


def code_cells(page: str) -> list[str]:
    """The code cells of a page, as Python runs them."""
    python = TransformerManager().transform_cell
    return [python(cell.source) for cell in jupytext.read(NOTEBOOKS / f"{page}.py").cells
            if cell.cell_type == "code"]


def used_names(code: str) -> set[str]:
    """The names that code reads, inside of its functions, too."""
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def bound_names(code: str) -> set[str]:
    """The names that code binds or changes: x = 1, x[0] = 1, x.y = 1, x.append(1), import x."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            found |= root_name(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            method = node.value.func
            found |= root_name(method) if isinstance(method, ast.Attribute) else set()
    return found


def root_name(node: ast.expr) -> set[str]:
    """The name that an expression like x.y[0].z begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def needed(cells: list[str], code: str) -> list[str]:
    """Those of the cells, in order, without which the code could not run."""
    names, chosen = used_names(code), []
    for cell in reversed(cells):
        if bound_names(cell) & names - set(dir(builtins)):
            names |= used_names(cell)
            chosen.append(cell)
    return chosen[::-1]


def run(code: str, names: dict, where: str) -> None:
    """Run code in a namespace; a traceback shows its lines."""
    linecache.cache[where] = len(code), None, code.splitlines(keepends=True), where
    exec(compile(code, where, "exec"), names)


def try_change(page: str, change: dict) -> None:
    """Make one change and assert what its answer says."""
    cells = code_cells(page)
    places = [number for number, cell in enumerate(cells) if change["cell"] in cell]
    assert len(places) == 1, f"{change['cell']!r} stands in {len(places)} code cells of {page}"
    cell = cells[places[0]]
    if "old" in change:
        assert cell.count(change["old"]) == 1, f"{change['old']!r} does not stand there once"
        cell = cell.replace(change["old"], change["new"])
    then, expect = change.get("then", ""), change.get("expect", "True")
    names = {"__name__": "__main__"}
    for number, earlier in enumerate(needed(cells[:places[0]], f"{cell}\n{then}\n{expect}")):
        run(earlier, names, f"<{page}: earlier {number}>")
    try:
        run(cell, names, f"<{page}: changed>")
        run(then, names, f"<{page}: then>")
    except Exception as error:
        assert type(error).__name__ == change.get("raises", "AssertionError"), repr(error)
        lines = [frame.line or "" for frame in traceback.extract_tb(error.__traceback__)]
        assert "fails" in change and any(change["fails"] in line for line in lines), lines
    else:
        assert "fails" not in change, f"nothing fails; {change['fails']!r} should"
        assert eval(expect, names), expect


@pytest.mark.parametrize(("page", "number"), CHANGES)
def test_a_change_does_what_its_answer_says(page, number, monkeypatch):
    monkeypatch.chdir(NOTEBOOKS)
    try:
        try_change(page, TABLES[page][number])
    finally:
        plt.close("all")


def test_a_false_answer_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cells = ["x = [1]", "y = 2", "x.append(3)", "total = sum(x)\nassert total == 4"]
    (tmp_path / "page.py").write_text("".join(f"# %%\n{cell}\n\n" for cell in cells))
    monkeypatch.setitem(globals(), "NOTEBOOKS", tmp_path)
    change = {"cell": "total", "old": "sum(x)", "new": "sum(x) + 1"}
    try_change("page", {**change, "fails": "assert total == 4"})
    try_change("page", {"cell": "total", "then": "twice = 2 * total", "expect": "twice == 8"})
    for wrong in (change, {**change, "fails": "sum"},
                  {**change, "fails": "assert total", "raises": "KeyError"},
                  {"cell": "total", "old": "sum", "new": "sum", "fails": "assert total"},
                  {"cell": "total", "expect": "total == 5"}, {"cell": "x", "expect": "True"},
                  {"cell": "total", "old": "max", "new": "min", "expect": "True"}):
        with pytest.raises(AssertionError):
            try_change("page", wrong)
    assert needed(code_cells("page")[:3], "total = sum(x)") == ["x = [1]\n", "x.append(3)\n"]


@pytest.mark.parametrize("page", sorted(path.stem for path in NOTEBOOKS.glob("*.py")))
def test_every_question_has_its_answer(page: str):
    """A Try it, and each exercise: below it, in its cell, a folded answer."""
    for cell in jupytext.read(NOTEBOOKS / f"{page}.py").cells:
        if cell.cell_type == "markdown":
            asked = len(re.findall(r"^> \*\*Try it", cell.source, re.M))
            exercises = re.search(r"^## Exercises.*?(?=^## |\Z)", cell.source, re.M | re.S)
            asked += len(re.findall(r"^\d+\. ", exercises[0], re.M)) if exercises else 0
            assert cell.source.count("<details><summary>Answer") >= asked, cell.source[:200]


def test_changes_run_at_smoke_scale():
    assert os.environ["COURSE_SCALE"] == "smoke"

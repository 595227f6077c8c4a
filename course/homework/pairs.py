"""The two halves of a homework page, attention.ipynb and attention.py, and how they become one.

JupyterLab writes both at each save. VS Code, or an editor, writes one: then the other is old, and
JupyterLab refuses to open the pair.
"""

from itertools import count
from pathlib import Path

from course.authoring import NOTEBOOKS, merge_marks, written

RELEASE = NOTEBOOKS / "homework" / "release"


def halves(path: Path) -> tuple[Path, Path]:
    """Return the paths of the notebook and of the .py beside it."""
    return path.with_suffix(".ipynb"), path.with_suffix(".py")


def released() -> list[Path]:
    """Return the notebook of every released assignment."""
    return sorted(RELEASE.glob("*/*.ipynb"))


def differ(path: Path) -> bool:
    """Return whether both halves are there, were saved apart, and hold different code."""
    both = halves(path)
    if not all(half.exists() for half in both):
        return False
    saved = [half.stat().st_mtime for half in both]
    if abs(saved[0] - saved[1]) < 2:  # seconds: JupyterLab saved both
        return False
    if any(map(merge_marks, both)):
        return True
    notebook, script = map(_code, both)
    return notebook != script


def sync(path: Path) -> str:
    """Make the two halves one and return what was done.

    The half that was saved last counts; an exercise that only the other half has written is taken
    from there. What an old half held is kept beside it (attention.mine-1.py) where both had
    written the same exercise. Raises ValueError where neither half is there, or
    one holds marks of a merge.
    """
    import jupytext

    from course.pages import as_saved

    notebook, script = halves(path)
    there = [half for half in (notebook, script) if half.exists()]
    if not there or path.suffix not in (".ipynb", ".py"):
        raise ValueError(f"{path}: there is no such notebook; give attention.ipynb or attention.py")
    if marks := next(filter(None, map(merge_marks, there)), ""):
        raise ValueError(marks)
    new, *old = sorted(there, key=lambda half: half.stat().st_mtime, reverse=True)
    kept = jupytext.read(new)
    done = [f"{new.name} was saved last"]
    if old:
        other = {cell.metadata["nbgrader"]["grade_id"]: cell.source
                 for cell in jupytext.read(old[0]).cells if _is_solution(cell)}
        taken, lost = [], []
        for cell in filter(_is_solution, kept.cells):
            name = cell.metadata["nbgrader"]["grade_id"]
            theirs = other.get(name, cell.source)
            if written(theirs) and not written(cell.source):
                cell.source = theirs
                taken.append(name)
            elif theirs != cell.source and written(theirs):
                lost.append(name)
        if taken:
            done.append(f"from {old[0].name}: {', '.join(taken)}")
        if lost:
            names = (old[0].with_name(f"{old[0].stem}.mine-{n}{old[0].suffix}") for n in count(1))
            aside = next(name for name in names if not name.exists())
            aside.write_bytes(old[0].read_bytes())
            done.append(f"its own {', '.join(lost)} is kept in {aside.name}")
    if notebook.exists():  # what had run keeps its outputs
        ran = {cell.source: cell for cell in jupytext.read(notebook).cells
               if cell.cell_type == "code"}
        for cell in kept.cells:
            if cell.cell_type == "code" and cell.source in ran:
                cell.outputs = ran[cell.source].outputs
                cell.execution_count = ran[cell.source].execution_count
    as_saved(kept)
    jupytext.write(kept, notebook)
    jupytext.write(kept, script, fmt="py:percent")  # last: JupyterLab wants it no older
    return f"{notebook.name} and {script.name} are one: {'; '.join(done)}"


def _code(path: Path) -> list[str]:
    import jupytext

    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]


def _is_solution(cell) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))

"""Minutes: how long a page takes to read, its core and the whole, at one measured pace."""

import re
from pathlib import Path

import jupytext

WORDS_A_MINUTE, LINES_A_MINUTE = 180, 12
MORE = "· more"  # ends the heading of a section that a first reading may leave folded
FOLDED = "jp-MarkdownHeadingCollapsed"  # JupyterLab's own mark for a heading that starts folded


def measure(notebook: Path) -> tuple[int, int]:
    """Return the minutes for a page's core and for all of it, rounded to five.

    180 words of text and 12 lines of code a minute; a section whose heading ends in "· more" is
    not core, down to the next heading of its level or above. Folded answers do not count.
    """
    core = whole = 0.0
    folded_at = 9  # the level of the heading that we are below, 9 for none
    for cell in jupytext.read(notebook).cells:
        if cell.cell_type == "markdown":
            if heading := re.match(r"(#+) .*", cell.source):
                level = len(heading[1])
                if level <= folded_at:
                    folded_at = level if heading[0].endswith(MORE) else 9
            read = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.S)  # answers wait
            minutes = len(read.split()) / WORDS_A_MINUTE
        else:
            minutes = sum(map(bool, map(str.strip, cell.source.splitlines()))) / LINES_A_MINUTE
        whole += minutes
        core += minutes * (folded_at == 9)
    return 5 * round(core / 5), 5 * round(whole / 5)


def stated(core: int, whole: int) -> str:
    """Return how a page's head says what `measure` found."""
    more = f"; {whole} with all that is marked *more*" if whole > core else ""
    return f"**Time:** {core} minutes{more}."


def problems(notebook: Path) -> list[str]:
    """Return what is wrong with a lesson's stated minutes and its folded sections."""
    found = []
    cells = [cell for cell in jupytext.read(notebook).cells if cell.cell_type == "markdown"]
    head = " ".join(" ".join(cell.source for cell in cells[:2]).split())
    said = re.search(r"\*\*Time:\*\* (\d+) minutes(?:; (\d+) with)?", head)
    core, whole = measure(notebook)
    if said is None or max(abs(int(said[1]) - core), abs(int(said[2] or said[1]) - whole)) > 5:
        found.append(f"notebooks/{notebook.name}: its head should say {stated(core, whole)!r}")
    for cell in cells:
        heading = cell.source.partition("\n")[0]
        if heading.startswith("#") and heading.endswith(MORE) != bool(cell.metadata.get(FOLDED)):
            found.append(
                f"notebooks/{notebook.name}: {heading!r} ends in {MORE!r} if and only if its cell "
                f"is marked {FOLDED}=true"
            )
    return found


ROW = re.compile(r"^(\| \[[^]]+\]\(notebooks/(\w+)\.ipynb\) \|.*\|) \d+(?: / \d+)? \|$", re.M)


def refreshed(readme: str, notebooks: Path) -> str:
    """Return README with the measured minutes, core / all, in each row that links a page."""
    def row(found: re.Match[str]) -> str:
        core, whole = measure(notebooks / f"{found[2]}.py")
        return f"{found[1]} {core} / {whole} |"

    return ROW.sub(row, readme)

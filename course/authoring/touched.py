"""python -m course.authoring.touched: the tests and pages that the change against HEAD touches."""

import re
import subprocess
from collections.abc import Iterable
from pathlib import PurePosixPath

from course.authoring import ROOT


def changed() -> list[str]:
    """Return the files that differ from HEAD, new ones too."""
    asked = ("diff --name-only --diff-filter=d HEAD", "ls-files --others --exclude-standard")
    return [line for words in asked for line in subprocess.run(
        ["git", *words.split()], cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()]


def name_of(file: str) -> str:
    """Return what a module, its page and its tests have in common: attention, of test_attention."""
    return re.sub(r"^(test_|\d+[a-z]?_)|_homework$", "", PurePosixPath(file).stem)


def touched(files: Iterable[str], there: Iterable[str]) -> list[str]:
    """Return those of the tests and pages `there` that bear the name of a file, or of its room."""
    names = set()
    for file in files:
        room, *inner = PurePosixPath(file).parts
        if room in ("course", "notebooks", "tests"):
            names |= {inner[0], "house" if room == "course" else "notebooks"}
            names |= {name_of(file)} if file.endswith((".py", ".ipynb")) else set()
    return sorted(path for path in there if name_of(path) in names)


if __name__ == "__main__":
    places = ("notebooks/*.ipynb", "tests/test_*.py", "tests/homework/test_*.py")
    found = [path for place in places for path in ROOT.glob(place)]
    print(*touched(changed(), [path.relative_to(ROOT).as_posix() for path in found]), sep="\n")

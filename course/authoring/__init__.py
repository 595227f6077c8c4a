"""What authors run and learners never: tangle notebooks into modules, run them, check, publish."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
STUB = {"python": "raise NotImplementedError  # your code"}  # where a solution stood
UNANSWERED = re.compile(r"(?m)^\w+ = None  # your ")  # a line that asks, and is its own stub


class AuthoringError(ValueError):
    """A notebook, its pair or its module is not as it should be; the message says what mends it."""


def merge_marks(path: Path) -> str:
    """Return a sentence where git has left the marks of a merge in a file, else nothing."""
    if not path.exists() or not re.search(rb"(?m)^(<{7}|>{7}) ", path.read_bytes()):
        return ""
    return (f"{path} holds marks of a merge (<<<<<<<): take one side whole, git checkout --ours "
            f"{path.name} or git checkout --theirs {path.name}, and git add it")


def written(source: str) -> bool:
    """Return whether a learner has put something in the place of a stub."""
    return "NotImplementedError" not in source and not UNANSWERED.search(source)


def is_homework(source: Path) -> bool:
    return "homework" in source.parts[:-1]


def sources(names: list[str] | None = None) -> list[Path]:
    """Return the py:percent notebooks of the given names (all of them if None), in order.

    Lessons are named like 03_attention, homework like homework/attention. Raises AuthoringError
    for a name that is none of them, and for a half of a pair that holds marks of a merge.
    """
    found = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.py"))}
    homework = sorted(NOTEBOOKS.glob("homework/source/*/*.py"))
    found |= {f"homework/{path.stem}": path for path in homework}
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise AuthoringError(f"no notebook {unknown[0]!r}: there are {', '.join(found)}")
    chosen = [found[name] for name in names or found]
    for half in (path.with_suffix(suffix) for path in chosen for suffix in (".py", ".ipynb")):
        if marks := merge_marks(half):
            raise AuthoringError(marks)
    return chosen

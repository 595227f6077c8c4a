"""What authors run and learners never: tangle notebooks into modules, run them, check, publish."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
STUB = {"python": "raise NotImplementedError  # your code"}  # where a solution stood


class AuthoringError(RuntimeError):
    """A notebook, its pair or its module is not as it should be; the message says what mends it."""


def is_homework(source: Path) -> bool:
    return "homework" in source.parts[:-1]


def sources(names: list[str] | None = None) -> list[Path]:
    """Return the py:percent notebooks of the given names (all of them if None), in order.

    Lessons are named like 03_attention, homework like homework/attention. Raises AuthoringError
    for a name that is none of them.
    """
    found = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.py"))}
    homework = sorted(NOTEBOOKS.glob("homework/source/*/*.py"))
    found |= {f"homework/{path.stem}": path for path in homework}
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise AuthoringError(f"no notebook {unknown[0]!r}: there are {', '.join(found)}")
    return [found[name] for name in names or found]

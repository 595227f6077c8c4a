"""Check a whole homework file from the terminal: `python -m course homework check FILE`."""

import contextlib
import io
import json
import linecache
import re
import sys
import types
from pathlib import Path

from course.homework import CheckResult, check
from course.homework.exercises import EXERCISES

OWN_CALL = r"\s*(from course\.homework import check\b.*\s+)?(assert )?(check|answer|model_answer)\("


class HomeworkError(ValueError):
    """A file that can't be checked; the message says why and what to do."""


def check_file(path: Path) -> list[CheckResult]:
    """Run the code cells of a notebook (or a .py file), and check every exercise that it defines.

    Its own calls of `check` are left out. A cell that fails is reported on stderr, and the next
    one runs. Raises HomeworkError for a file that is missing, empty or not a notebook.
    """
    from course.homework.checking import explain_error

    module = types.ModuleType("homework")
    for number, code in enumerate(_cells(path), 1):
        if re.match(OWN_CALL, code):
            continue
        name = f"{path.name}, cell {number}"
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)  # inspect reads it
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, name, "exec"), module.__dict__)
        except (Exception, SystemExit) as error:
            print(f"{name}: {explain_error(error)}", file=sys.stderr)
    found = [exercise for exercise in EXERCISES if exercise in module.__dict__]
    if not found:
        raise HomeworkError(
            f"{path} defines no exercise: it should define functions or classes of these names: "
            f"{', '.join(EXERCISES)}"
        )
    return [check(exercise, module.__dict__[exercise]) for exercise in found]


def _cells(path: Path) -> list[str]:
    """Return the code cells of a file, without magics; of a plain .py file, all of it."""
    if path.suffix not in (".ipynb", ".py"):
        raise HomeworkError(f"{path}: only notebooks (.ipynb) and .py files can be checked")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            kinds = re.split(r"(?m)^# %%(.*)$", "# %%\n" + text)[1:]  # its first line, its rest
            code = [rest for first, rest in zip(kinds[::2], kinds[1::2]) if "[" not in first]
        else:
            cells = json.loads(text)["cells"]
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except FileNotFoundError:
        raise HomeworkError(f"{path} does not exist: give the path of your notebook") from None
    except (ValueError, KeyError, TypeError) as error:
        raise HomeworkError(f"{path} can't be read as a notebook: {error}") from error
    magic = ("%", "!")
    cells = [cell.strip("\n").splitlines() for cell in code]
    return ["\n".join(s for s in lines if not s.lstrip().startswith(magic)) for lines in cells]

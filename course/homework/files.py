"""Check a whole homework file from the terminal: `python -m course homework check FILE`."""

import contextlib
import io
import linecache
import re
import sys
import types
from pathlib import Path

import jupytext
from jupytext.formats import JupytextFormatError
from nbformat.reader import NotJSONError

from course.homework import CheckResult, check
from course.homework.checking import explain_error
from course.homework.exercises import EXERCISES

OWN_CALL = r"\s*(from course\.homework import check\b.*\s+)?(assert )?(check|answer|model_answer)\("


class HomeworkError(ValueError):
    """A file that can't be checked; the message says why and what to do."""


def check_file(path: Path) -> list[CheckResult]:
    """Run the code cells of a notebook (or a .py file), and check every exercise that it defines.

    Its own calls of `check` are left out. A cell that fails is reported on stderr, and the next
    one runs. Raises HomeworkError for a file that is missing, empty or not a notebook.
    """
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
    """Return the code cells of a file, without magics."""
    if path.suffix not in (".ipynb", ".py"):
        raise HomeworkError(f"{path}: only notebooks (.ipynb) and .py files can be checked")
    try:
        notebook = jupytext.read(path)
    except FileNotFoundError:
        raise HomeworkError(f"{path} does not exist: give the path of your notebook") from None
    except (JupytextFormatError, NotJSONError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise HomeworkError(f"{path} can't be read as a notebook: {error}") from error
    code = [cell.source.splitlines() for cell in notebook.cells if cell.cell_type == "code"]
    magic = ("%", "!")
    return ["\n".join(s for s in lines if not s.lstrip().startswith(magic)) for lines in code]

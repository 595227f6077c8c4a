"""Check a whole homework file from the terminal: `python -m course homework check FILE`."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from course.authoring import merge_marks
from course.homework import CheckResult
from course.homework.cells import read_cells
from course.homework.exercises import EXERCISES

SECONDS = 120.0  # what a cell may last
PATIENCE = 300.0  # what a start or a check may last: a check has limits of its own


class HomeworkError(ValueError):
    """A file that can't be checked; the message says why and what to do."""


def check_file(path: Path, seconds: float = SECONDS) -> list[CheckResult]:
    """Run the code cells of a notebook (or a .py file), and check every exercise that it defines.

    The cells run as in Jupyter, in a process of their own. A cell that fails, that lasts longer
    than `seconds`, or that ends the process is named on stderr, and the others count. Calls of
    `check` are left out. Raises HomeworkError for a file that is missing, empty or not a notebook.
    """
    if path.suffix not in (".ipynb", ".py"):
        raise HomeworkError(f"{path}: only notebooks (.ipynb) and .py files can be checked")
    try:
        read_cells(path) if path.suffix == ".ipynb" else path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise HomeworkError(f"{path} does not exist: give the path of your notebook") from None
    except (ValueError, KeyError, TypeError) as error:
        said = merge_marks(path) or f"{path} can't be read as a notebook: {error}"
        raise HomeworkError(said) from error
    results, found = {}, []
    for what, value in _told(path, seconds):
        if what == "fault":
            print(value, file=sys.stderr)
        elif what == "result":
            value["hints"] = tuple(value["hints"])
            results[value["name"]] = CheckResult(**value)
        elif what == "done":
            found = value
    if not found:
        raise HomeworkError(
            f"{path} defines no exercise: it should define functions or classes of these names: "
            f"{', '.join(EXERCISES)}"
        )
    return [results[name] for name in found]


def _told(path: Path, seconds: float) -> Iterator[tuple[str, object]]:
    """Run the file until a process comes to its end; what stops one is left out of the next."""
    skip: dict[str, list] = {"cells": [], "checks": []}
    faults: set[str] = set()
    while True:
        last: tuple[str, object] = ("cell", 0)
        for what, value in _lines(path, skip, seconds):
            if what in ("cell", "check"):
                last = (what, value)
            elif what != "fault" or value not in faults:
                faults |= {value} if what == "fault" else set()
                skip["checks"] += [value["name"]] if what == "result" else []
                yield what, value
            if what == "done":
                return
            ended = value
        where, culprit = last
        if where == "cell" and culprit:
            said = f"{path.name}, cell {culprit}: {ended}; it was left out, and the others count"
            skip["cells"].append(culprit)
            yield "fault", said
        elif where == "check":
            skip["checks"].append(culprit)
            yield "result", {"name": culprit, "passed": False, "message": ended, "hints": ()}
        else:
            raise HomeworkError(f"{path} can't be checked: {ended} before its first cell")


def _lines(path: Path, skip: dict, seconds: float) -> Iterator[tuple[str, object]]:
    """Start a process on the file and hand on what it writes; last ("ended", why) without "done".

    Nobody can type to it, and what does not return is stopped.
    """
    from course.authoring import ROOT

    with tempfile.TemporaryDirectory() as own:
        environment = {**os.environ, "MPLBACKEND": "Agg", "IPYTHONDIR": own, "PYTHONPATH":
                       os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        process = subprocess.Popen(
            [sys.executable, "-m", "course.homework.cells", str(path.resolve()), json.dumps(skip)],
            cwd=path.resolve().parent, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        lines: queue.Queue[bytes] = queue.Queue()

        def read() -> None:
            for line in process.stdout:
                lines.put(line)
            lines.put(b"")

        threading.Thread(target=read, daemon=True).start()
        limit, ended = PATIENCE, ""
        try:
            while line := lines.get(timeout=limit):
                (what, value), = json.loads(line).items()
                limit = seconds if what == "cell" else PATIENCE
                yield what, value
                if what == "done":
                    return
        except queue.Empty:
            ended = f"your code had not returned after {limit:.0f} s (a loop without end?)"
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        died = f"your code ends the process (status {process.returncode}: os._exit, or a crash)"
        yield "ended", ended or died

"""Mark one submission: `python -m course.grading.judge FILE`, in a sandbox, with nobody's secrets.

Standard input holds JSON: {"nonce": text, "checks": [names], "seconds": limit}. For each check the
definitions that it needs are run in a namespace of their own, and the course examines the result;
what comes out is one JSON object a line, with the nonce, so that no line of a submission is taken
for a verdict.
"""

import __future__

import ast
import json
import linecache
import os
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path

from course.grading.sandbox import limit

TIMED = r"\A\s*%%(time|timeit|capture|prun)\b.*\n"  # what such a cell defines is defined, too
WATCHED = ("course", "torch", "builtins", "json", "inspect", "copy", "math", "threading", "sys")


def snapshot() -> dict[tuple[str, str], tuple]:
    """Return what every function and class of the judging modules is now."""
    seen = {}
    for module_name, module in [*sys.modules.items()]:
        if module_name.partition(".")[0] in WATCHED and isinstance(module, types.ModuleType):
            for name, thing in [*vars(module).items()]:
                if callable(thing):
                    code = getattr(thing, "__code__", None)
                    seen[module_name, name] = id(thing), id(code), getattr(thing, "__defaults__", 0)
                    if isinstance(thing, type) and thing.__module__.startswith("course"):
                        parts = {part: id(value) for part, value in vars(thing).items()
                                 if callable(value)}
                        seen[module_name, name] += (tuple(parts.items()),)
    return seen


def changed(before: dict, after: dict) -> list[str]:
    """Return the names that stood for something else before."""
    return [".".join(key) for key in before if after.get(key) != before[key]]


def main(file: str) -> None:
    told = json.loads(sys.stdin.readline())
    limit(told["seconds"])
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)

    def say(**what: object) -> None:
        print(json.dumps({"nonce": told["nonce"], **what}), file=lines, flush=True)

    from course.homework.reasons import reasons

    if set(told["checks"]) <= set(reasons()):
        return judge_reasons(Path(file), told["checks"], say)

    from IPython.core.inputtransformer2 import TransformerManager

    from course.grading.definitions import bound, definitions
    from course.homework.cells import read_cells
    from course.homework.checking import examine, explain_error
    from course.homework.exercises import EXERCISES

    exercises = {name: EXERCISES[name] for name in told["checks"]}
    path = Path(file)
    sys.path[0] = str(path.parent)
    python = TransformerManager().transform_cell
    cells = [python(re.sub(TIMED, "", cell)) for cell in read_cells(path)]
    for number, cell in enumerate(cells, 1):  # for messages that show a line
        place = f"{path.name}, cell {number}"
        linecache.cache[place] = len(cell), None, cell.splitlines(True), place
    later = "from __future__ import annotations" in "\n".join(cells)
    flags = later and __future__.annotations.compiler_flag
    before = snapshot()
    endless: set[str] = set()  # of the checks: what did not return, and need not be tried again
    for name in told["checks"]:
        say(begins=name)
        chosen = definitions(cells, name)
        if used := endless & set().union(*map(bound, chosen)):
            say(check=name, passed=False, human=False,
                message=f"it uses {min(used)}, which does not return")
            continue
        page = types.ModuleType("__main__")
        sys.modules["__main__"] = page
        fault = ""
        for statement in chosen:
            place, body = f"{path.name}, cell {statement.cell}", ast.Module([statement], [])
            try:
                exec(compile(body, place, "exec", flags, dont_inherit=True), vars(page))
            except (Exception, SystemExit) as error:
                fault = fault or f"{', '.join(bound(statement))}: {explain_error(error)}"
        if name not in vars(page):
            # somewhere below an if, or made by a line that is not run: a human sees it
            elsewhere = any(re.search(rf"\b(def|class) {name}\b|\b{name} *=", c) for c in cells)
            say(check=name, passed=False, message=fault or f"{name} is not defined",
                human=bool(chosen) or elsewhere)
            continue
        wrong = examine(exercises[name], vars(page)[name], int.from_bytes(os.urandom(7)))
        tampered = changed(before, snapshot())
        if tampered:
            say(check=name, passed=False, human=True,
                message=f"it replaces {', '.join(tampered[:3])}: nothing here is marked")
            return
        if wrong is not None and "had not returned after" in wrong.message:
            endless.add(name)
        message = "right, in every case" if wrong is None else wrong.message
        # a name that the definitions lack may come from a line that was not run
        human = wrong is not None and bool(fault or "NameError" in wrong.message)
        say(check=name, passed=wrong is None, message=fault if human and fault else message,
            human=human)
    say(done=True)


def judge_reasons(path: Path, names: list[str], say: Callable[..., None]) -> None:
    """Mark letters by the name that the page gives; they are read, and nothing is run."""
    from course.grading.definitions import said_of
    from course.homework.cells import read_cells
    from course.homework.reasons import judge

    cells = read_cells(path)
    who = said_of(cells, "me")
    named = len(who) == 1 and isinstance(who[0], str)
    if named:
        say(who=who[0])
    for name in names:
        say(begins=name)
        letters = said_of(cells, name)[-1:]
        if not letters:
            passed, said = False, "not answered"
        elif not named or not isinstance(letters[0], str):
            passed, said = None, "no name in quotes" if not named else "no letter in quotes"
        else:
            passed, said = judge(name, letters[0], who[0])
            passed = passed is True
        say(check=name, passed=bool(passed), human=passed is None, message=said)
    say(done=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

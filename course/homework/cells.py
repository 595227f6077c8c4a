"""The cells of a homework file, run as Jupyter runs them, in a process of their own.

`python -m course.homework.cells FILE TOLD` runs the cells and then the checks, and writes what
happens to its standard output, one JSON object a line: {"cell": 3} before a cell runs, {"fault":
"..."} for what is to be told, {"check": "softmax"} before a check, {"result": {...}} after it, and
{"done": names} at the end. Who started it (`files.check_file`) sees from the last line what hung
or died. TOLD is JSON: which cells and which checks are left out.
"""

import json
import os
import re
import sys
import types
from dataclasses import asdict
from pathlib import Path

# a cell that only calls the course: what it would say is said by the check of the whole file
OWN_CALL = (r"\s*(from course\.homework import check\b.*\s+)?"
            r"(assert )?(check|answer|model_answer)\(")

ASKS = "Your cell asks for input, and nobody is here to type: set the value in the cell"


def read_cells(path: Path) -> list[str]:
    """Return the code cells of a notebook or of a .py file, as they are written.

    Raises ValueError, KeyError or TypeError if that can't be read as a notebook.
    """
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".py":
        import jupytext  # knows that a magic stands as a comment in a .py

        cells = jupytext.reads(text, fmt="py:percent").cells
        return [cell.source for cell in cells if cell.cell_type == "code"]
    cells = json.loads(text)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def quiet_shell(module: types.ModuleType):
    """Return IPython without history, colours or a profile of the learner's."""
    from IPython.core.history import HistoryManager
    from IPython.core.interactiveshell import InteractiveShell

    HistoryManager.enabled = False
    shell = InteractiveShell.instance(user_module=module, colors="nocolor")
    shell.enable_gui = lambda gui=None: None  # %matplotlib inline
    shell.showtraceback = shell.showsyntaxerror = lambda *_, **__: None  # told in a sentence
    return shell


def run(cell: str, shell) -> BaseException | None:
    """Run one cell and return what it raised; magics, ! and await mean what they mean there."""
    result = shell.run_cell(cell, silent=True)
    return result.error_before_exec or result.error_in_exec


def main(file: str, told: str) -> None:
    """Run the cells of a file, then every check that is not left out."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what the cells print is theirs, and no line of ours
    os.dup2(nowhere, 2)

    def say(**what: object) -> None:
        print(json.dumps(what), file=lines, flush=True)

    from course.homework import check
    from course.homework.checking import explain_error
    from course.homework.exercises import EXERCISES
    from course.homework.pairs import differ
    from course.homework.reasons import reasons

    path, skip = Path(file), json.loads(told)
    sys.path[0] = ""  # as in a notebook: modules beside it, wherever it was called from
    module = types.ModuleType("__main__")
    shell = quiet_shell(module)
    for number, cell in enumerate(read_cells(path), 1):
        if number not in skip["cells"] and not re.match(OWN_CALL, cell):
            say(cell=number)
            if error := run(cell, shell):
                said = ASKS if isinstance(error, EOFError) else explain_error(error)
                say(fault=f"{path.name}, cell {number}: {said}")
    found = [name for name in EXERCISES if name in module.__dict__]
    found += [name for name in reasons() if module.__dict__.get(name)]
    for name in found:
        if name not in skip["checks"]:
            say(check=name)
            say(result=asdict(check(name, module.__dict__[name])))
    if differ(path):
        say(fault=f"{path.stem}.ipynb and {path.stem}.py hold different code, and {path.name} was "
                  f"checked. To make them one: python -m course homework sync {path.stem}.ipynb")
    say(done=found)


if __name__ == "__main__":
    main(*sys.argv[1:])

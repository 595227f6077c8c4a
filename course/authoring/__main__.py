"""python -m course.authoring: the commands of those who write the course."""

import argparse
import os
import sys
import time

from course.authoring import (
    NOTEBOOKS,
    ROOT,
    AuthoringError,
    is_homework,
    minutes,
    sources,
    translate,
)
from course.authoring.pair import as_text, problems, synchronise
from course.authoring.release import refresh_cards, release, release_problems
from course.authoring.tangle import tangle
from course.pages import NotebookError, execute

COMMANDS = {
    "tangle": "write course/NAME.py from the export cells of notebooks/NN_NAME.py",
    "run": "tangle, run the notebook, and store it with its outputs beside the .py",
    "pair": "carry the newer half of each pair (.py, .ipynb) over to the older one",
    "release": "homework: refresh the cards, and write the learners' copies by nbgrader",
    "check": "fail if a module, a pair or a stored output is not up to date",
    "translate": "bring po/zh_CN and notebooks/zh up to date; "
                 "translate pages | lint | todo | fill: see po/zh_CN/STYLE.md",
    "minutes": "print how long each page takes to read: its core, and the whole of it",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m course.authoring",
        description="Tangle, run, check and publish the notebooks.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:8} {text}" for name, text in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("names", nargs="*", help="03_attention, homework/attention; all if none; "
                        "of translate: first what to do")
    parser.add_argument("--readme", action="store_true",
                        help="minutes: write them into README's table, too")
    options = parser.parse_args(arguments)
    if options.readme:
        readme = ROOT / "README.md"
        readme.write_text(minutes.refreshed(readme.read_text("utf-8"), NOTEBOOKS), "utf-8")
    try:
        return run(options.command, options.names)
    except (AuthoringError, NotebookError) as error:
        print(error, file=sys.stderr)
        return 1


def run(command: str, names: list[str]) -> int:
    """Apply a command to notebooks; return 0, or 1 if `check` found a problem."""
    if command == "translate":
        return translate.main(names)
    found = translate.problems(names) if command == "check" else []
    for source in sources(names):
        if command in ("release", "run") and is_homework(source) and refresh_cards(source):
            print(f"refreshed the cards of homework/{source.stem}")
        if command in ("tangle", "run") and not is_homework(source) and tangle(source):
            print(f"tangled {source.name}")
        if command == "run":
            begun = time.monotonic()
            os.environ["COURSE_PAGE"] = "1"  # checked reasons are stored as folds
            execute(source, source.with_suffix(".ipynb"))
            source.write_text(as_text(source), encoding="utf-8")
            print(f"ran {source.name} in {time.monotonic() - begun:.0f} s")
        elif command == "pair":
            synchronise(source)
        elif command == "release" and is_homework(source):
            release(source)
            print(f"released homework/{source.stem}")
        elif command == "check":
            found += problems(source)
            found += [] if is_homework(source) else minutes.problems(source)
            found += release_problems(source) if is_homework(source) else []
        elif command == "minutes" and not is_homework(source):
            print("{:16} core {:3}, all {:3}".format(source.stem, *minutes.measure(source)))
        if command in ("run", "pair", "release"):
            translate.follow(source)
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

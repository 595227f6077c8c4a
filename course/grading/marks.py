"""Mark a class: `python -m course grade submitted/`, each submission in a room of its own."""

import csv
import hashlib
import json
import os
import queue
import re
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from tqdm import tqdm

from course.authoring import NOTEBOOKS, merge_marks
from course.grading import sandbox

SECONDS = 240  # what a whole submission may last
MEGABYTES = 1.0  # what it may say
CHECKED = re.compile(r'check\("(\w+)", ')


@dataclass
class Mark:
    """What one submission got. points: None where nobody can say: a human looks.

    checks: for each check of the assignment its points and what was said.
    """

    student: str
    assignment: str
    points: float | None
    out_of: float
    status: str  # "marked", or why a human must look
    checks: dict[str, tuple[float, str]] = field(default_factory=dict)
    who: str = ""  # the name by which a page of reasons was answered
    key: str = ""  # of the file and of the course that marked it: the same key, the same mark


@cache
def assignments() -> dict[str, dict[str, float]]:
    """Return the checks of every assignment with their points; none: it is marked by hand."""
    found = {}
    for source in sorted((NOTEBOOKS / "homework" / "release").glob("*/*.ipynb")):
        cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
        points = {}
        for cell in cells:
            graded = cell["metadata"].get("nbgrader", {})
            if graded.get("grade") and (name := CHECKED.search("".join(cell["source"]))):
                points[name[1]] = float(graded["points"])
        found[source.stem] = points
    return found


def submissions(folder: Path, only: str | None = None) -> list[tuple[str, str, Path | None]]:
    """Return (student, assignment, file) for all that was handed in; file None: nothing usable.

    Both STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb, as nbgrader collects, and STUDENT/ASSIGNMENT.ipynb.
    A .py counts where no notebook is. Raises ValueError if the folder holds nothing of that kind.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give the one that holds a folder a student")
    known, found = assignments(), []
    if only is not None and only not in known:
        raise ValueError(f"no assignment {only!r} is marked by a program: {', '.join(known)}")
    for student in sorted(path for path in folder.iterdir() if path.is_dir()):
        handed_in = {}
        for suffix in (".py", ".ipynb"):  # the notebook, if both are there
            for name in known:
                for place in (student / f"{name}{suffix}", student / name / f"{name}{suffix}"):
                    if place.is_file():
                        handed_in[name] = place
        if only is not None:
            handed_in = {only: handed_in.get(only)}
        found += [(student.name, name, path) for name, path in (handed_in or {"": None}).items()]
    if not any(path for _, _, path in found):
        raise ValueError(f"{folder} holds no STUDENT/ASSIGNMENT.ipynb of {', '.join(known)}")
    return found


def mark(student: str, assignment: str, file: Path | None, program: str | None,
         seconds: float = SECONDS) -> Mark:
    """Mark one submission in a process of its own; whatever it does becomes a status."""
    points = assignments().get(assignment, {})
    result = Mark(student, assignment, None, sum(points.values()), "")
    if file is None:
        result.status = "nothing handed in that has an assignment's name"
        return result
    if not points:
        result.status = "is marked by hand"
        return result
    result.key = fingerprint(file)
    if trouble := unreadable(file):
        result.status = trouble
        return result
    said, ended = ask_judge(file, list(points), program, seconds)
    verdicts = {line["check"]: line for line in said if "check" in line}
    begun = [line["begins"] for line in said if "begins" in line]
    if not begun:
        result.status = f"its judge could not begin: {ended}"
        return result
    result.who = next((line["who"] for line in said if "who" in line), "")
    looked_at = [f"{name}: {line['message']}" for name, line in verdicts.items() if line["human"]]
    for name, worth in points.items():
        line = verdicts.get(name)
        passed = bool(line and line["passed"])
        why = line["message"] if line else ended if name == begun[-1] else "not reached"
        result.checks[name] = (worth * passed, why)
    missing = [name for name in points if name not in verdicts]
    if missing or looked_at:
        stopped = [f"{begun[-1]}: {ended}"] if missing and not looked_at else []
        result.status = "; ".join(looked_at + stopped)
        return result
    result.points = sum(got for got, _ in result.checks.values())
    result.status = f"marked as {result.who!r}" if result.who else "marked"
    return result


def unreadable(file: Path) -> str:
    """Say why a file can't be read as a notebook, or nothing."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        cells = json.loads(text)["cells"] if file.suffix == ".ipynb" else [text]
    except (OSError, ValueError, KeyError, TypeError) as error:
        marks = " (marks of a merge, <<<<<<<)" if merge_marks(file) else ""
        return f"{file.name} can't be read: {type(error).__name__}{marks}"
    return "" if cells else f"{file.name} is empty"


def fingerprint(file: Path) -> str:
    """Return what a mark depends on, in 16 hex digits: the file, and the course's own code."""
    return hashlib.sha256(file.read_bytes() + course_code()).hexdigest()[:16]


@cache
def course_code() -> bytes:
    """Return the digest of what judges."""
    package, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for source in sorted([*package.glob("homework/**/*.py"), *package.glob("homework/**/*.toml"),
                          *package.glob("grading/*.py")]):
        digest.update(source.read_bytes())
    return digest.digest()


def ask_judge(file: Path, checks: list[str], program: str | None,
              seconds: float) -> tuple[list[dict], str]:
    """Run the judge on a file; return what it said, and why it ended ("" if by itself)."""
    with tempfile.TemporaryDirectory() as own:  # the file alone: nothing that lies beside it
        place = Path(own, file.name)
        place.write_bytes(file.read_bytes())
        inside = f"/submission/{file.name}" if program else str(place)
        nonce = secrets.token_hex(16)
        told = json.dumps({"nonce": nonce, "checks": checks, "seconds": int(seconds)}) + "\n"
        call = sandbox.command(program, place.parent, ["-m", "course.grading.judge", inside])
        mine = {} if program else {**os.environ, **sandbox.environment(),
                                   "PYTHONPATH": str(NOTEBOOKS.parent)}
        process = subprocess.Popen(
            call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, env=mine or None,
        )
        lines: queue.Queue[bytes] = queue.Queue()

        def read() -> None:
            left = int(MEGABYTES * 2**20)
            while left > 0 and (line := process.stdout.readline(left)):
                left -= len(line)
                lines.put(line)
            lines.put(b"")

        threading.Thread(target=read, daemon=True).start()
        process.stdin.write(told.encode())
        process.stdin.close()
        said, ended, until = [], "", time.monotonic() + seconds
        try:
            while not ended:
                try:
                    line = lines.get(timeout=0.2)
                except queue.Empty:
                    if time.monotonic() > until:
                        ended = f"it had not returned after {seconds:.0f} s"
                    elif sandbox.family(process.pid) > sandbox.PROCESSES:
                        ended = "it starts processes without end"
                    continue
                verdict = _verdict(line, nonce)
                said += [verdict] if verdict else []
                if not line:
                    ended = "it ends the process that marks it"
                elif verdict and "done" in verdict:
                    break
        finally:
            sandbox.stop(process)
            process.stdout.close()
    return said, ended


def _verdict(line: bytes, nonce: str) -> dict | None:
    try:
        said = json.loads(line)
        return said if said["nonce"] == nonce else None
    except (ValueError, KeyError, TypeError):
        return None


def mark_all(folder: Path, out: Path, only: str | None, jobs: int, program: str | None,
             seconds: float = SECONDS, progress: bool = True) -> list[Mark]:
    """Mark every submission, several at a time; what is marked already, and the same, is kept."""
    kept = out / "marks"
    kept.mkdir(parents=True, exist_ok=True)

    def one(task: tuple[str, str, Path | None]) -> Mark:
        student, assignment, file = task
        stored = kept / f"{student}.{assignment or 'none'}.json"
        if file is not None and stored.exists():
            try:
                old = Mark(**json.loads(stored.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                old = None  # half a file: marked again
            if old and old.key == fingerprint(file):
                return old
        result = mark(student, assignment, file, program, seconds)
        beside = stored.with_suffix(".tmp")
        beside.write_text(json.dumps(asdict(result), ensure_ascii=False), encoding="utf-8")
        beside.replace(stored)
        return result

    tasks = submissions(folder, only)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            marks = list(tqdm(pool.map(one, tasks), total=len(tasks), unit="submission",
                              disable=not progress))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for name in {m.who for m in marks} - {""}:
        same = [m for m in marks if m.who == name and m.points is not None]
        for m in same if len(same) > 1 else ():  # one of them has another one's letters
            m.points = None
            m.status = f"answered as {name!r}: {', '.join(other.student for other in same)}"
    write(marks, out, folder)
    return marks


def write(marks: list[Mark], out: Path, folder: Path) -> None:
    """Write marks.csv (all that a teacher wants), gradebook.csv, and each student's feedback."""
    def table(name: str, head: list[str], rows: Callable[[Mark], list]) -> None:
        with open(out / name, "w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows([head, *map(rows, marks)])

    table("marks.csv", ["student", "assignment", "points", "of", "status", "checks"],
          lambda m: [m.student, m.assignment, "" if m.points is None else m.points, m.out_of,
                     m.status, "; ".join(f"{name} {got:g}" for name, (got, _) in m.checks.items())])
    table("gradebook.csv", ["student", "assignment", "score", "max_score"],
          lambda m: [m.student, m.assignment, "" if m.points is None else m.points, m.out_of])
    for m in marks:
        if m.checks:
            place = out / "feedback" / m.student / f"{m.assignment}.md"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(feedback(m, [folder.resolve(), Path.home()]), encoding="utf-8")


def feedback(m: Mark, private: list[Path]) -> str:
    """Return what a student gets to read: the course's sentences, and nothing of this machine.

    private: places of the teacher's. A sentence that names one, or that is longer than the
    course's own are, may carry what is not the student's: it is held back.
    """
    total = "a teacher looks at it" if m.points is None else f"{m.points:g} of {m.out_of:g}"
    lines = [f"# {m.assignment}: {total}", ""]
    for name, (got, said) in m.checks.items():
        if len(said) > 600 or any(str(place) in said for place in private):
            said = "what your code raises here is not shown"
        lines.append(f"- `{name}`: {got:g}. {said}")
    return "\n".join(lines) + "\n"


def summary(marks: list[Mark], out: Path) -> str:
    """Return the table of marks, those that need a human first, and where the files are."""
    human = [m for m in marks if m.points is None]
    lines = [f"{m.student:20} {m.assignment:12} a human must look: {m.status[:90]}" for m in human]
    lines += [f"{m.student:20} {m.assignment:12} {m.points:5g} of {m.out_of:g}"
              for m in marks if m.points is not None]
    return "\n".join([*lines, f"{len(marks) - len(human)} marked, {len(human)} for a human: "
                      f"{out / 'marks.csv'}, gradebook.csv, feedback/"])

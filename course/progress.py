"""What a learner has passed, answered and measured: one JSON file on this machine."""

import json
import os
import secrets
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_data_path

EMPTY = {"exercises": {}, "answers": {}, "runs": {}, "guesses": {}, "learner": {}}

here = ""  # the name that `i_am` was told in this process

FIRST = ("exercises", "answers", "runs")  # parts that every file has; later ones may be missing


def location() -> Path | None:
    """Return where progress is kept: COURSE_PROGRESS, or the user's data folder.

    None, and so nothing is kept, if COURSE_PROGRESS is "off".
    """
    named = os.environ.get("COURSE_PROGRESS")
    if named == "off":
        return None
    return Path(named) if named else user_data_path("attention-course") / "progress.json"


def load() -> dict:
    """Return all that is kept; what can't be read is moved aside and said, never overwritten."""
    path = location()
    if path is None or not path.exists():
        return json.loads(json.dumps(EMPTY))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        later = {part: {} for part in EMPTY if part not in FIRST}
        return {part: dict((later | content)[part]) for part in EMPTY}
    except (ValueError, KeyError, TypeError):
        aside = path.with_suffix(f".unreadable-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json")
        os.replace(path, aside)
        warnings.warn(f"{path} can't be read: it is now {aside.name}, and a new one begins",
                      stacklevel=2)
    except OSError as error:
        warnings.warn(f"{path} can't be read ({error}): progress is not shown", stacklevel=2)
    return json.loads(json.dumps(EMPTY))


def update(change: Callable[[dict], None]) -> dict:
    """Apply a change to what is kept and return it; safe with several notebooks at once.

    Where the file can't be written, a warning says so and the change is lost; nothing is raised.
    """
    path = location()
    if path is None:
        content = load()
        change(content)
        return content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=10):
            content = load()
            change(content)
            beside = path.with_suffix(f".{os.getpid()}.tmp")
            try:
                beside.write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")
                os.replace(beside, path)
            finally:
                with suppress(OSError):
                    beside.unlink()
    except (OSError, Timeout) as error:
        warnings.warn(f"progress is not kept: {path} can't be written ({error})", stacklevel=2)
        content = load()
        change(content)
    return content


def now() -> str:
    """Return the time as it is kept: 2026-05-01T12:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_check(name: str, passed: bool, code: str, tried: bool = True) -> int:
    """Keep the outcome of a check; return how often it has failed since it last passed.

    code: the hash of what was checked. tried: whether a failure counts. What has passed once stays
    passed.
    """

    def change(content: dict) -> None:
        entry = content["exercises"].setdefault(name, {"failures": 0, "checks": 0})
        entry["checks"] += 1
        if passed:
            entry |= {"failures": 0, "passed": entry.get("passed") or now(), "code": code}
        else:
            entry["failures"] += tried

    return update(change)["exercises"][name]["failures"]


def record_answer(number: int, text: str) -> None:
    """Keep the answer to one of the six questions."""
    update(lambda content: content["answers"].update({str(number): {"text": text, "at": now()}}))


def record_run(name: str, figures: dict) -> None:
    """Keep the figures of the walkthrough or of an evaluation, under its name."""
    update(lambda content: content["runs"].update({name: {**figures, "at": now()}}))


def record_guess(name: str, guess: object, truth: object) -> None:
    """Keep a learner's first guess of a figure that a page then measured."""
    entry = {"guess": guess, "truth": truth, "at": now()}
    update(lambda content: content["guesses"].setdefault(name, entry))


def record_sentence(sentence: str, translation: str) -> None:
    """Keep the latest sentence of a learner's own, and what the shipped model made of it."""
    own = {"sentence": sentence, "translation": translation}
    update(lambda content: content["learner"].update(own))


def learner() -> str:
    """Return what options, numbers and patients are drawn by for whoever answers here.

    The name that `i_am` was told; without one "page", where a page is stored for readers without a
    kernel (COURSE_PAGE), else the name that was kept, or a number.
    """
    if here or os.environ.get("COURSE_PAGE"):
        return here or "page"
    kept = load()["learner"].get("name")
    if kept or location() is None:
        return kept or "nobody"
    number = secrets.token_hex(4)
    return update(lambda content: content["learner"].setdefault("name", number))["learner"]["name"]

"""How the banks of candidates are tried: on several seeds, with the misconception by name."""

import re
import time

from course.homework.checking import examine
from course.homework.exercises import EXERCISES

SEEDS = (1, 2, 3)


def accepted(name: str, candidate: object, seconds: float = 3.0) -> None:
    """The check passes a right candidate, with any numbers, in good time."""
    for seed in SEEDS:
        begun = time.process_time()
        wrong = examine(EXERCISES[name], candidate, seed)
        assert wrong is None, wrong.message
        assert time.process_time() - begun < seconds


def rejected(name: str, candidate: object, misconception: str) -> None:
    """The check rejects a wrong candidate, with any numbers, and its message names why.

    misconception: a regular expression that the message must contain.
    """
    for seed in SEEDS:
        wrong = examine(EXERCISES[name], candidate, seed)
        assert wrong is not None, "a wrong candidate passed"
        assert re.search(misconception, wrong.message), wrong.message

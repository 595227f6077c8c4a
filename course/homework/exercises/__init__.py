"""Every exercise of the course by its name, in the order of the lessons; loaded when asked for."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course.homework.checking import Exercise

MODULES = ("foundations", "backward", "seq2seq", "attention", "masking", "transformer", "layers",
           "text", "training", "noise", "decoding", "modern", "trees", "exam")


@dataclass(frozen=True)
class Entry:
    """What a list of exercises says of one; module: where it stands."""

    name: str
    assignment: str
    difficulty: int
    minutes: int
    module: str


def entries(module: str) -> Iterator[Entry]:
    """Read the cards of a module from its source: to list them, nothing heavy is imported."""
    source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        call = statement.value if isinstance(statement, ast.Assign) else None
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Exercise":
            wanted = ("name", "assignment", "difficulty", "minutes")
            card = {word.arg: word.value for word in call.keywords if word.arg in wanted}
            yield Entry(**{key: ast.literal_eval(value) for key, value in card.items()},
                        module=module)


LISTED = {entry.name: entry for module in MODULES for entry in entries(module)}


class Exercises(Mapping[str, "Exercise"]):
    """The exercises by name; a module of them is imported when one of its exercises is wanted."""

    def __getitem__(self, name: str) -> "Exercise":
        module = import_module(f"{__name__}.{LISTED[name].module}")
        return next(exercise for exercise in module.EXERCISES if exercise.name == name)

    def __iter__(self) -> Iterator[str]:
        return iter(LISTED)

    def __len__(self) -> int:
        return len(LISTED)

    def __contains__(self, name: object) -> bool:
        return name in LISTED


EXERCISES = Exercises()

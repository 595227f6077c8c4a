"""What a patient of lesson 11 may have, and what is said to a diagnosis; who has what is drawn."""

import html
import os
import random
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from course import progress
from course.homework.reasons import marked, plain
from course.messages import say

TOOLS = {  # of lesson 11, in its order -> what it says where it reacts
    "start": "the first loss is not near ln V",
    "overfit": "one batch is not learned by heart",
    "future": "later positions send a gradient to earlier ones",
    "answer": "the scores for a word depend on that word",
    "padding": "padding changes scores or loss",
    "company": "the sentence before it changes a sentence's scores",
    "shuffled": "another source is as good as the right one",
    "by_layer": "a part has no gradient, does not move, or should not be there",
    "twin": "it parts from a healthy twin",
    "rows": "the weights of a query do not add up to 1",
    "halves": "the loss of a batch is not that of its halves together",
    "twice": "two answers to one question differ",
    "relearned": "there are pieces that training text does not give",
}


@dataclass(frozen=True)
class Illness:
    """One thing that people get wrong.

    reacts: the tools that see it; told: answers to other names.
    """

    name: str
    title: str
    planted: str
    because: str
    reacts: tuple[str, ...]
    told: dict[str, str]


@cache
def illnesses() -> dict[str, Illness]:
    """Return all illnesses by their names."""
    text = (Path(__file__).parent / "illnesses.toml").read_text(encoding="utf-8")
    return {name: Illness(name, e["title"], e["planted"], e["because"], tuple(e["reacts"]),
                          e.get("told", {})) for name, e in tomllib.loads(text).items()}


def patients() -> list[str]:
    """Return the names under which patients are checked: patient_1, ..."""
    return [f"patient_{number}" for number in range(1, len(illnesses()) + 1)]


def illness_of(patient: int | str, learner: str) -> str:
    """Return what a learner's patient has; raises ValueError for a number that there is not."""
    names = sorted(illnesses())
    number = int(str(patient).removeprefix("patient_"))
    if not 1 <= number <= len(names):
        raise ValueError(f"there is no patient {number}: they have the numbers 1 to {len(names)}")
    random.Random(f"{learner}/patients").shuffle(names)
    return names[number - 1]


def apart(has: str, said: str) -> str:
    """Return what tells an illness from the one that was named."""
    ill, named = illnesses()[has], illnesses()[said]
    if said in ill.told:
        return ill.told[said]
    for tool, means in TOOLS.items():
        if tool in named.reacts and tool not in ill.reacts:
            return f"Then `{tool}` would react: {means}. It does not."
        if tool in ill.reacts and tool not in named.reacts:
            return f"That leaves `{tool}` unexplained: {means}."
    return "Its twin tells at which stage they part: `twin`."


def judge(patient: str, answer: object, learner: str) -> tuple[bool | None, str]:
    """Return whether a diagnosis is right, and what is to be said; None for no known name."""
    known, has = illnesses(), illness_of(patient, learner)
    said = str(answer).strip().lower().replace(" ", "_").replace("-", "_")
    if said not in known:
        near = get_close_matches(said, known, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}"
        return None, f"{answer!r} is none of the illnesses: {meant}"
    if said == has:
        return True, f"{known[has].title}. Planted: {known[has].planted}. {known[has].because}"
    return False, f"You say: {known[said].title}. {apart(has, said)}"


@dataclass(frozen=True)
class Diagnosis:
    """A patient's question: all illnesses that it may have, each with its name."""

    patient: str
    learner: str

    def __str__(self) -> str:
        lines = [f"  {name:20} {say(ill.title)}" for name, ill in sorted(illnesses().items())]
        return plain("\n".join([say(f"What is wrong with {self.patient}?"), *lines,
                                self._foot().replace("`", "")]))

    __repr__ = __str__

    def _foot(self) -> str:
        return say(f'Answer with a name: `check("{self.patient}", "no_scale")`')

    def _repr_html_(self) -> str:
        lines = []
        for name, illness in sorted(illnesses().items()):
            text = f"<code>{name}</code>&ensp;{html.escape(say(illness.title))}"
            if os.environ.get("COURSE_PAGE"):  # no kernel: each name opens to its verdict
                right, verdict = judge(self.patient, name, self.learner)
                text = (f"<details><summary>{text}</summary><div style=\"margin:.2em 2em\">"
                        f"{'✓' if right else '✗'} {marked(say(verdict))}</div></details>")
            lines.append(f'<div style="margin:.1em 0">{text}</div>')
        return ('<div style="border-left:6px solid #0072B2;padding:.3em 1em;margin:.3em 0">'
                f"<p style=\"margin:.2em 0\"><b>"
                f'{say(f"What is wrong with {self.patient}?")}</b></p>'
                f'{"".join(lines)}<p style="margin:.4em 0 0">{marked(self._foot())}</p></div>')


def ask(patient: str) -> Diagnosis:
    """Return a patient's question."""
    return Diagnosis(patient, progress.learner())

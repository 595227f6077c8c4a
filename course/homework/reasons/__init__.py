"""Checked reasons: a question with options, of which each wrong one has an answer of its own."""

import html
import os
import random
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from course import progress
from course.messages import say

LETTERS = "abcde"


@dataclass(frozen=True)
class Option:
    """One thing that somebody may think, and what is to be said to it."""

    text: str
    verdict: str
    right: bool


@dataclass(frozen=True)
class Reason:
    """A question on why something is so. where: (lesson, heading) of the section that shows it."""

    name: str
    topic: str
    where: tuple[str, str]
    question: str
    options: tuple[Option, ...]

    def shuffled(self, learner: str) -> dict[str, Option]:
        """Return the options by their letters, in an order that follows from the learner."""
        options = list(self.options)
        random.Random(f"{learner}/{self.name}").shuffle(options)
        return dict(zip(LETTERS, options))

    def shown_in(self) -> str:
        """Return where the course shows it: lesson 03, "How large is a dot product?"."""
        lesson, heading = self.where
        return f"lesson {lesson.partition('_')[0]}, “{heading}”"


@cache
def reasons() -> dict[str, Reason]:
    """Return all checked reasons by their names, in the order of their files."""
    found = {}
    for file in ("before", "attention", "model", "text", "training", "judging", "beyond",
                 "clinic"):
        text = (Path(__file__).parent / f"{file}.toml").read_text(encoding="utf-8")
        for name, entry in tomllib.loads(text).items():
            right = Option(entry["right"], entry["because"], True)
            wrong = (Option(*pair, False) for pair in entry["wrong"])
            found[name] = Reason(
                name, entry["topic"], tuple(entry["where"]), entry["question"], (right, *wrong)
            )
    return found


def questions() -> dict[str, str]:
    """Return the topic of every reason and every count, by their names."""
    from course.homework.reasons.counts import COUNTS

    topics = {name: reason.topic for name, reason in reasons().items()}
    return topics | {name: "cost of a layer, in numbers" for name in COUNTS}


# **bold** and *emphasis*, which in code are powers and products
BOLD, EMPHASIS = (rf"(?<![\w)\]*]){stars}(?!\s)([^*]+)(?<!\s){stars}(?![\w(*])"
                  for stars in (r"\*\*", r"\*"))


def marked(text: str) -> str:
    """Return text as HTML, `code`, **bold** and *emphasis* as such."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    text = re.sub(BOLD, r"<strong>\1</strong>", text, flags=re.ASCII)
    return re.sub(EMPHASIS, r"<em>\1</em>", text, flags=re.ASCII)


def plain(text: str) -> str:
    """Return text for a terminal: without the stars of **bold**."""
    return re.sub(BOLD, r"\1", text, flags=re.ASCII)


@dataclass(frozen=True)
class Question:
    """A reason as it is asked: a card in a notebook, text in a terminal.

    On a page that was run for readers without a kernel each option opens to its verdict. in_cell:
    the answer is written in the place of the None that asked.
    """

    reason: Reason
    learner: str
    in_cell: bool = False

    def __str__(self) -> str:
        lines = [say(self.reason.question)]
        lines += [f"  {letter}  {say(o.text)}" for letter, o in self._options().items()]
        return plain("\n".join([*lines, self._foot().replace("`", "")]))

    __repr__ = __str__

    def _options(self) -> dict[str, Option]:
        return self.reason.shuffled(self.learner)

    def _foot(self) -> str:
        if self.in_cell:
            return say('Write your letter in the place of None, in quotes: "a"')
        return say(f'Answer with a letter: `check("{self.reason.name}", "a")`')

    def _repr_html_(self) -> str:
        return self.as_html(folds=bool(os.environ.get("COURSE_PAGE")))

    def as_html(self, folds: bool, again: bool = False) -> str:
        """Return the card; folds: each option opens to its verdict, for a page without a kernel.

        again: whoever reads it has answered once, and knows how.
        """
        lines = []
        for letter, option in self._options().items():
            text = f"<b>{letter}</b>&ensp;{marked(say(option.text))}"
            if folds:
                verdict = f"{'✓' if option.right else '✗'} {marked(say(option.verdict))}"
                text = (f'<details><summary>{text}</summary>'
                        f'<div style="margin:.2em 2em">{verdict}</div></details>')
            lines.append(f'<div style="margin:.15em 0">{text}</div>')
        return (
            '<div style="border-left:6px solid #0072B2;padding:.3em 1em;margin:.3em 0">'
            f"<p style=\"margin:.2em 0\"><b>{marked(say(self.reason.question))}</b></p>"
            f'{"".join(lines)}'
            f'<p style="margin:.4em 0 0">{"" if again else marked(self._foot())}</p></div>'
        )


def ask(name: str, in_cell: bool = False) -> Question:
    """Return a reason's question, its options in the learner's order."""
    return Question(reasons()[name], progress.learner(), in_cell)


def judge(name: str, answer: object, learner: str) -> tuple[bool | None, str]:
    """Return whether a letter is the right option, and what is to be said; None for no letter."""
    reason = reasons()[name]
    options = reason.shuffled(learner)
    letter = answer.strip().lower() if isinstance(answer, str) else answer
    if letter not in options:
        return None, f'{answer!r} is none of the options: answer with a letter in quotes, like "a"'
    option = options[letter]
    end = "" if option.text.endswith((".", "?", "!")) else "."
    said = f"{option.text}{end} {option.verdict}"
    return option.right, said if option.right else f"{said} See {reason.shown_in()}"

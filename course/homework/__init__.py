"""Homework: `check(name, candidate)` says what is right, and what was misunderstood."""

import ast
import difflib
import hashlib
import html
import inspect
import re
import secrets
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from course import progress
from course.homework import illnesses
from course.homework.cards import wrapped
from course.homework.exercises import EXERCISES
from course.homework.guesses import compare
from course.homework.reasons import Question, ask, judge, marked, plain, reasons
from course.homework.reasons.counts import COUNTS
from course.homework.reasons.counts import KEYS as COUNT_KEYS
from course.messages import say

if TYPE_CHECKING:
    from course.clinic import Case

__all__ = ["CheckFailed", "CheckResult", "check", "compare", "i_am", "patient"]


class CheckFailed(AssertionError):
    """Raised by `check(..., strict=True)`; a notebook shows its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


class NoSuchExercise(ValueError):
    """Raised for a name that no exercise, reason or patient has; shown without a traceback."""

    _render_traceback_ = CheckFailed._render_traceback_


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a check: a card in a notebook, text in a terminal.

    hints: the one that fits the mistake; where nobody knows what was misunderstood, the first, and
    from the second miss on the second, too. The third stands under the card alone.
    expected, actual, given: the small example on which it failed, as text.
    """

    name: str
    passed: bool
    message: str
    hints: tuple[str, ...] = ()
    expected: str = ""
    actual: str = ""
    given: str = ""

    def __str__(self) -> str:
        mark = say("PASSED") if self.passed else say("NOT YET")
        lines = [f"{mark}  {self.name}: {plain(self.message)}"]
        for title, text in self._example():
            lines += [f"  {title}:", textwrap.indent(text, "    ")]
        lines += [f"  {say('hint')}: {plain(hint)}" for hint in self.hints]
        return "\n".join(lines)

    __repr__ = __str__

    def _example(self) -> list[tuple[str, str]]:
        named = ((say("expected"), self.expected), (say("yours"), self.actual),
                 (say("called"), self.given))
        return [(title, text) for title, text in named if text]

    def _repr_html_(self) -> str:
        colour = "#009E73" if self.passed else "#D55E00"  # a bar: text has the theme's
        example = [
            (title, f'<pre style="margin:.2em 0;font:90%/1.4 monospace">{html.escape(text)}</pre>')
            for title, text in self._example()
        ]
        called = ""
        if len(example) > 1 and self.given:  # long, and so below what it led to
            called = f"<details><summary>{say('called')}</summary>{example.pop()[1]}</details>"
        boxes = "".join(f'<div style="margin-right:2em"><b>{title}</b>{text}</div>'
                        for title, text in example)
        hints = "".join(
            f"<details{' open' if hint is self.hints[-1] else ''}><summary>{say('hint')}</summary>"
            f"{marked(hint)}</details>"
            for hint in self.hints
        )
        again = ""  # a reason's question, for the next try
        if self.name in reasons() and not self.passed:
            again = ask(self.name).as_html(folds=False, again=True)
        verdict = f"✓ {say('passed')}" if self.passed else f"✗ {say('not yet')}"
        return (
            f'<div style="border-left:6px solid {colour};padding:.3em 1em;margin:.3em 0">'
            f"<b>{verdict}</b> <code>{html.escape(self.name)}</code>"
            f'<div style="display:flex;flex-wrap:wrap">{boxes}</div>'
            f"<p>{marked(self.message)}</p>{hints}{called}</div>{again}"
        )


ASKED = object()  # check("why_scale"): no answer yet


def check(name: str, candidate: object = ASKED, strict: bool = False) -> object:
    """Examine an answer and return what came out; progress is kept.

    name: an exercise, a reason or a count of the course (`python -m course homework list` names
    them all). candidate: the function or class that you wrote; for a reason the letter of an
    option; for a count a dictionary of numbers, or a function that returns it; for a patient the
    name of its illness. Without one: the question. A wrong candidate never raises, except with
    strict=True: then CheckFailed, and it is no try that unlocks a hint. Raises ValueError for an
    unknown name.
    """
    if name in EXERCISES:
        result = _check_code(name, candidate, strict)
    elif name in reasons():
        result = _check_reason(name, candidate, strict)
    elif name in COUNTS:
        result = _check_count(name, candidate, strict)
    elif name in illnesses.patients():
        result = _check_patient(name, candidate, strict)
    else:
        known = [*EXERCISES, *reasons(), *COUNTS, *illnesses.patients()]
        near = difflib.get_close_matches(str(name), known, n=1)
        names = ", ".join(known)
        raise NoSuchExercise(say(
            f"there is no exercise {name!r}: did you mean {near[0]!r}?" if near else
            f"there is no exercise {name!r}. There are: {names}"))
    if isinstance(result, CheckResult):
        result = replace(result, message=say(result.message), hints=(*map(say, result.hints),), **{
            part: said_lines(getattr(result, part)) for part in ("expected", "actual", "given")})
    if strict and not result.passed:
        raise CheckFailed(str(result))
    return result


def said_lines(text: str) -> str:
    """Return an example, the lines that are words in the reader's language: numbers stay."""
    return "\n".join(say(line) if re.search("[a-z]{2,} [a-z]+ [a-z]+", line) else line
                     for line in text.split("\n"))


def i_am(name: str | None) -> None:
    """Say who answers here: the options of the reasons are shuffled by this name, on any machine.

    A notebook that is handed in says it once, so that a letter means the same where it is marked.
    Raises CheckFailed without a name.
    """
    if not (name or "").strip():
        raise CheckFailed(say("Write your name here first, in quotes: the options are shuffled by "
                              "it"))
    progress.here = name.strip()
    progress.update(lambda content: content["learner"].update(name=progress.here))


def patient(number: int, steps: int = 120) -> "Case":
    """Return a patient of lesson 11, trained: the number says nothing, and is yours alone."""
    from course.homework.patients import sick  # imports torch: a list needs none

    return sick(illnesses.illness_of(number, progress.learner()), steps)


def _check_code(name: str, candidate: object, strict: bool) -> CheckResult:
    from course.homework.checking import UNWRITTEN, examine  # imports torch: a list needs none

    exercise = EXERCISES[name]
    if candidate is ASKED:
        return CheckResult(name, False, f"hand it over: check({name!r}, {name}). {exercise.what}",
                           given=wrapped(say(exercise.signature)))
    wrong = examine(exercise, candidate, secrets.randbits(62))
    tried = not strict and not (wrong and wrong.message.startswith(UNWRITTEN))
    failures = progress.record_check(name, wrong is None, code_hash(candidate), tried)
    if wrong is None:
        return CheckResult(name, True, f"right, in every case. {exercise.why}")
    hints = exercise.hints[: min(failures, 2)]
    if wrong.hint != 0:
        hints = exercise.hints[wrong.hint - 1 : wrong.hint] if wrong.hint else ()
    return CheckResult(name, False, wrong.message, hints, wrong.expected, wrong.actual, wrong.given)


def _check_reason(name: str, answer: object, strict: bool) -> CheckResult | Question:
    if answer is ASKED:
        return ask(name)
    if strict and not progress.here:
        return CheckResult(name, False, "whose letters are these? Write your name into "
                           "the first cell of the page and run it: options are shuffled by it")
    if answer is None:
        empty = CheckResult(name, False, "no answer yet: write a letter in quotes")
        return empty if strict else ask(name, in_cell=True)
    right, said = judge(name, answer, progress.learner())
    progress.record_check(name, right is True, str(answer)[:12], right is not None and not strict)
    return CheckResult(name, right is True, said)


def _check_patient(name: str, answer: object, strict: bool) -> CheckResult | illnesses.Diagnosis:
    if answer is ASKED:
        return illnesses.ask(name)
    right, said = illnesses.judge(name, answer, progress.learner())
    progress.record_check(name, right is True, str(answer)[:12], right is not None and not strict)
    return CheckResult(name, right is True, said)


def _check_count(name: str, answer: object, strict: bool) -> CheckResult:
    count, kept = COUNTS[name], progress.load()["exercises"].get(name, {})
    seed = f"{progress.learner()}/{kept.get('checks', 0)}"
    sizes = count.draw(seed)
    if answer is ASKED:
        given = ", ".join(f"{letter} = {value}" for letter, value in sizes.items())
        keys = ", ".join(f'"{key}": ...' for key in COUNT_KEYS)
        return CheckResult(name, False, f"{count.question} Answer: check({name!r}, {{{keys}}})",
                           given=given)
    fresh = [count.draw(secrets.token_hex(8)) for _ in range(5)]
    for drawn in fresh if callable(answer) else [sizes]:
        right, said = count.judge(answer(**drawn) if callable(answer) else answer, drawn)
        if not right:
            break
    progress.record_check(name, right, "", not strict)
    if not right and not callable(answer):
        said += f". New sizes are drawn: check({name!r}) shows them"
    return CheckResult(name, right, said)


def code_hash(candidate: object) -> str:
    """Return 12 hex digits that name the code of a function or class; comments do not count."""
    parts = [candidate]
    if inspect.isclass(candidate):
        parts = [part for part in vars(candidate).values() if inspect.isfunction(part)]
    try:
        sources = [textwrap.dedent(inspect.getsource(part)) for part in parts]
        text = "\n".join(ast.unparse(ast.parse(source)) for source in sources)
    except (OSError, TypeError, SyntaxError):
        text = repr(candidate)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

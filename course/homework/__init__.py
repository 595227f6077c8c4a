"""Homework: `check(name, candidate)` says what is right, and what was misunderstood."""

import ast
import difflib
import hashlib
import html
import inspect
import secrets
import textwrap
from dataclasses import dataclass

from course import progress
from course.homework.exercises import EXERCISES

__all__ = ["CheckFailed", "CheckResult", "check"]


class CheckFailed(AssertionError):
    """Raised by `check(..., strict=True)`; a notebook shows its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a check: a card in a notebook, text in a terminal.

    hints: those unlocked so far, one for each failed try, three at most; code that was not written
    yet is no try.
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
        lines = [f"{'PASSED' if self.passed else 'NOT YET'}  {self.name}: {self.message}"]
        for title, text in self._example():
            lines += [f"  {title}:", textwrap.indent(text, "    ")]
        lines += [f"  hint {number}: {hint}" for number, hint in enumerate(self.hints, 1)]
        return "\n".join(lines)

    __repr__ = __str__

    def _example(self) -> list[tuple[str, str]]:
        named = (("called", self.given), ("expected", self.expected), ("yours", self.actual))
        return [(title, text) for title, text in named if text]

    def _repr_html_(self) -> str:
        colour = "#009E73" if self.passed else "#D55E00"  # Okabe-Ito green and vermillion
        boxes = "".join(
            f'<div style="margin-right:2em"><b>{title}</b>'
            f'<pre style="margin:.2em 0;font:90%/1.4 monospace">{html.escape(text)}</pre></div>'
            for title, text in self._example()
        )
        hints = "".join(
            f"<details{' open' if number == len(self.hints) else ''}><summary>hint {number}"
            f"</summary>{html.escape(hint)}</details>"
            for number, hint in enumerate(self.hints, 1)
        )
        verdict = "✓ passed" if self.passed else "✗ not yet"
        return (
            f'<div style="border-left:6px solid {colour};padding:.3em 1em;margin:.3em 0">'
            f'<b style="color:{colour}">{verdict}</b> <code>{html.escape(self.name)}</code>'
            f"<p>{html.escape(self.message)}</p>"
            f'<div style="display:flex;flex-wrap:wrap">{boxes}</div>{hints}</div>'
        )


def check(name: str, candidate: object, strict: bool = False) -> CheckResult:
    """Examine a candidate for an exercise and return what came out; progress is kept.

    name: an exercise of the course ("softmax"; `python -m course homework list` names them all).
    candidate: the function or class that you wrote. A wrong candidate never raises, except with
    strict=True: then CheckFailed, and it is no try that unlocks a hint. Raises ValueError for an
    unknown name.
    """
    if name not in EXERCISES:
        near = difflib.get_close_matches(str(name), EXERCISES, n=1)
        meant = f": did you mean {near[0]!r}?" if near else f". There are: {', '.join(EXERCISES)}"
        raise ValueError(f"there is no exercise {name!r}{meant}")
    from course.homework.checking import UNWRITTEN, examine  # imports torch: a list needs none

    exercise = EXERCISES[name]
    wrong = examine(exercise, candidate, secrets.randbits(62))
    tried = not strict and not (wrong and wrong.message.startswith(UNWRITTEN))
    failures = progress.record_check(name, wrong is None, code_hash(candidate), tried)
    if wrong is None:
        return CheckResult(name, True, f"right, in every case. {exercise.why}")
    result = CheckResult(
        name, False, wrong.message, exercise.hints[:failures], wrong.expected, wrong.actual,
        wrong.given,
    )
    if strict:
        raise CheckFailed(str(result))
    return result


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

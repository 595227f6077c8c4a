"""Guesses: what a reader expects of a measurement, compared with what came out."""

from dataclasses import dataclass
from numbers import Real

from course import progress
from course.messages import say


@dataclass(frozen=True)
class Comparison:
    """A guess beside the figure that was measured, in a line."""

    text: str

    def __repr__(self) -> str:
        return say(self.text)


def compare(mine: object, measured: object, name: str = "") -> Comparison:
    """Say how far a guess is off; nothing is scolded, and no guess is fine, too.

    mine: a number, a choice (text), or None for no guess. measured: what the page found. name: what
    is guessed, under which the first guess is kept for the report ("03: largest weight").
    """
    shown = _shown(measured)
    if mine is None:
        return Comparison(f"no guess; measured: {shown}")
    if isinstance(measured, Real) and not isinstance(measured, bool):
        try:
            mine, truth = float(mine), float(measured)
        except (TypeError, ValueError):
            return Comparison(f"a guess here is a number, not {mine!r}; measured: {shown}")
        said = _distance(mine, truth)
    else:
        truth = measured
        same = str(mine).strip().lower() == str(measured).lower()
        said = "as you said" if same else "another one"
    if name:
        progress.record_guess(name, mine, truth)
    return Comparison(f"your guess {_shown(mine)}, measured {shown}: {said}")


def _shown(value: object) -> str:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return f"{float(value):.3g}" if number else str(value)


def _distance(mine: float, truth: float) -> str:
    """Return how far a number is off: in its own terms, or as a factor where it is far."""
    if mine == truth:
        return "exactly"
    if mine * truth > 0:
        factor = max(mine / truth, truth / mine)
        if factor >= 2:
            return f"{'above' if abs(mine) > abs(truth) else 'below'} by a factor of {factor:.2g}"
    return f"{abs(mine - truth):.2g} {'above' if mine > truth else 'below'}"

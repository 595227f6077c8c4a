"""The engine of the checks: run a candidate on fresh values, and name what went wrong."""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Generator, Tensor, nn

from course.homework.errors import explain_error, meaning
from course.homework.gradients import cut
from course.homework.guard import (
    READY_MADE,
    Clock,
    ForbiddenCall,
    Stopped,
    forbidding,
    looks_inside,
    run_in_time,
)
from course.homework.values import alike, kind, mismatch, show

UNWRITTEN = "Not written yet."  # such a candidate is no try, and unlocks no hint


class Wrong(Exception):
    """A candidate's fault, as the learner will read it.

    hint: the number of the hint that helps here; None: what it says is hint enough; 0: nobody knows
    what was misunderstood.
    """

    def __init__(self, message: str, expected: str = "", actual: str = "", given: str = "",
                 hint: int | None = None) -> None:
        super().__init__(message)
        self.message, self.expected, self.actual, self.given = message, expected, actual, given
        self.hint = hint


@dataclass(frozen=True)
class Case:
    """One set of arguments. blame: what a candidate does wrong that fails here and passed the
    cases before, as a clause ("you transpose with .T, which turns the batch too"). hint: the number
    of the one that helps who fails here. learn: whether gradients are compared, too, where the
    exercise compares any."""

    label: str
    args: tuple
    blame: str = ""
    hint: int = 0
    learn: bool = True


@dataclass(frozen=True)
class Exercise:
    """What a learner is asked for, and how it is examined.

    signature: with shapes. hints: three, of growing strength. examine: raises Wrong.
    forbidden: see `guard.forbidding`. mutable: positions of arguments that a candidate may change.
    seconds: what one call may last.
    """

    name: str
    assignment: str
    signature: str
    what: str
    why: str
    difficulty: int
    minutes: int
    hints: tuple[str, str, str]
    examine: Callable[["Candidate", Generator], None]
    forbidden: tuple[str, ...] = ()
    mutable: tuple[int, ...] = ()
    seconds: float = 20.0


@dataclass
class Candidate:
    """What the learner wrote, called only through here: watched, timed, its inputs compared."""

    thing: object
    exercise: Exercise
    clock: Clock = field(default_factory=Clock)
    given: str = ""

    def __call__(self, *args):
        """Call the candidate; raises Wrong if it raises, changes its inputs, or cheats."""
        return self.call(self.thing, *args)

    def call(self, function: Callable, *args, watched: bool = True):
        """Call a function or a module of the learner. watched=False: quick, for training loops."""
        if not watched:
            with self.clock.running():
                return self._run(function, args)
        self.given = describe(function, args)
        _check_signature(function, args)
        before = copy.deepcopy(args)
        handed = chain(args, *(vars(type(argument)).values() for argument in args))
        allowed = {f.__code__ for f in handed if inspect.isfunction(f)}
        with self.clock.running():
            try:
                with forbidding(self.exercise.forbidden, allowed):
                    result = self._run(function, args)
            except ForbiddenCall as error:
                raise Wrong(
                    f"You call {error} here. That is ready-made, and this exercise asks you to "
                    "build it: take it apart into simpler steps, and you will own it."
                ) from None
        for position, (old, new) in enumerate(zip(before, args)):
            if position not in self.exercise.mutable and mismatch(new, old):
                how = "Make a new tensor (x = x + y, not x += y; masked_fill, not masked_fill_)"
                raise Wrong(
                    f"You change argument {position + 1} in place: whoever called you still needs "
                    f"it. {how if isinstance(old, Tensor) else 'Change a copy of it'}",
                    show(old), show(new), self.given,
                )
        return result

    def build(self, *args) -> nn.Module:
        """Make the learner's module; raises Wrong if it is none."""
        module = self.call(self.thing, *args)
        if not isinstance(module, nn.Module):
            raise Wrong(f"{describe(self.thing, args)} gives {kind(module)}: make it an nn.Module")
        return module

    def _run(self, function: Callable, args: tuple):
        try:
            return function(*args)
        except (ForbiddenCall, Stopped, Wrong):
            raise
        except NotImplementedError as error:
            raise Wrong(f"{UNWRITTEN} {error}".strip()) from error
        except BaseException as error:
            said = explain_error(error)
            hint = 0 if said.startswith("Your code") else None
            raise Wrong(said, given=describe(function, args), hint=hint) from error


def describe(function: Callable, args: tuple) -> str:
    """Return a call in short: softmax(x=tensor (2, 3) float32, dim=1)."""
    parts = []
    for argument in args:
        if isinstance(argument, Tensor):
            dtype = str(argument.dtype).removeprefix("torch.")
            parts.append(f"tensor {tuple(argument.shape)} {dtype}")
        elif inspect.isfunction(argument):
            parts.append(argument.__name__)
        else:
            text = repr(argument)
            parts.append(text if len(text) <= 80 else f"{text[:77]}...")
    name = getattr(function, "__name__", None) or type(function).__name__
    named = _parameters(function, len(args)) or [""] * len(args)
    called = (f"{key}={part}" if key else part for key, part in zip(named, parts))
    return f"{name}({', '.join(called)})"


def normal(generator: Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return fresh values of unit variance."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _check_signature(function: Callable, args: tuple) -> None:
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        inspect.signature(target).bind(*args)
    except TypeError as error:
        raise Wrong(
            f"It can't be called as {describe(function, args)}: {error}. Keep the parameters of "
            "the signature, in their order"
        ) from None
    except ValueError:
        pass  # a builtin without a signature


def function_exam(
    reference: Callable,
    cases: Callable[[Generator], Iterable[Case]],
    mistakes: Iterable[tuple[str, Callable]] = (),
    returns: str = "the result",
    explain: Callable[[tuple, object, object], str | None] = lambda args, actual, expected: None,
    call: Callable[[Candidate, tuple], object] = lambda candidate, args: candidate(*args),
    learns: Callable[[object], Tensor] | None = None,
    names: tuple[str, ...] = (),
) -> Callable[[Candidate, Generator], None]:
    """Return an `examine` that compares a function with a reference, case by case.

    cases: from simple to hard, values drawn from the generator. mistakes: (what it says of the
    learner's thinking, a function that makes this mistake, and perhaps the number of the hint that
    it wants); the first whose results equal the candidate's in all cases so far is named.
    returns: the name of the result, or of its parts: "(output, weights)".
    explain: (args, actual, expected) -> a named misconception seen from properties, or None.
    call: how a candidate is called with a case's arguments, if it is not a plain function.
    learns: picks from a result the tensor that models learn through, for a function that they are
    trained through: there the gradients of all arguments are compared, too. names: of a case's
    arguments, if they are not those of the function.
    """
    mistakes = list(mistakes)

    def examine(candidate: Candidate, generator: Generator) -> None:
        passed: list[str] = []
        history: list[tuple[tuple, object]] = []  # arguments and what the candidate made of them
        to_learn: list[tuple] = []  # arguments for which gradients are compared
        for case in cases(generator):
            try:
                actual = call(candidate, case.args)
            except Wrong as wrong:
                raise _in_context(wrong, case, passed) from wrong
            expected = reference(*case.args)  # only now: a candidate could look up the stack
            history.append((case.args, actual))
            found = mismatch(actual, expected, returns)
            if found is None:
                passed.append(case.label)
                to_learn += [case.args] * case.learn
                continue
            named = zip(names or _numbered(candidate.thing, len(case.args)), case.args)
            given = "\n".join([candidate.given, *(f"{name}: {show(a)}" for name, a in named)])
            message, hint = _named(history, expected, mistakes) or (
                explain(case.args, actual, expected), None)
            if not message and found.of_values and not passed:
                message, hint = _unearned(call, candidate, case, actual), 1
            both = found.expected, found.actual
            if message:
                raise Wrong(message, *both, given, hint)
            raise _in_context(Wrong(found.message, *both, given, hint=0), case, passed)
        for args in to_learn if learns else ():
            called = names or _numbered(candidate.thing, len(args))
            found = cut(lambda args: call(candidate, args), reference, args, called, learns,
                        generator, candidate.thing)
            if found:
                raise Wrong(found.message, found.expected, found.actual, candidate.given)

    return examine


def _parameters(function: object, n: int) -> list[str]:
    """Return what the n arguments of a function are called in its signature; []: nobody knows."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return []
    single = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return single[:n] if len(single) >= n else []


def _numbered(function: object, n: int) -> list[str]:
    """Return the names of a function's arguments, or their numbers."""
    return _parameters(function, n) or [f"argument {i}" for i in range(1, n + 1)]


def _in_context(wrong: Wrong, case: Case, passed: list[str]) -> Wrong:
    """Add what the case shows: right for A, wrong for B, hence the blame, or the hint."""
    context = f"Right for {'; '.join(passed)}. Not for {case.label}: " if passed else ""
    raised = wrong.hint == 0 or "Your code raises" in wrong.message
    blame = f". Probably {case.blame}" if case.blame and passed and raised else ""
    hint = wrong.hint if blame or wrong.hint is None else case.hint
    message = f"{context}{wrong.message}{blame}"
    return Wrong(message, wrong.expected, wrong.actual, wrong.given, hint)


def _named(
    history: list[tuple[tuple, object]], expected, mistakes: list
) -> tuple[str, int | None] | None:
    """Return the first mistake that gives the candidate's result, wrong now and right before, and
    the number of its hint."""
    for message, mistaken, *hint in mistakes:
        try:
            now, *before = reversed(history)  # the last one first: there most mistakes differ
            result = mistaken(*copy.deepcopy(now[0]))
            if (
                alike(now[1], result)
                and not alike(result, expected)
                and all(alike(a, mistaken(*copy.deepcopy(args))) for args, a in before)
            ):
                return message, (hint or [None])[0]
        except Exception:
            continue  # this mistake can't be made with these arguments
    return None


def _unearned(call: Callable, candidate: Candidate, case: Case, actual) -> str | None:
    """Say so if the candidate returns its input, or always the same."""
    for position, argument in enumerate(case.args, 1):
        if isinstance(argument, Tensor) and mismatch(actual, argument) is None:
            return f"You return argument {position} as it came"
    changed = tuple(a.flip(0) * 2 if isinstance(a, Tensor) and a.is_floating_point() else a
                    for a in case.args)
    if any(a is not b for a, b in zip(changed, case.args)):
        try:
            again = call(candidate, changed)
        except Wrong:
            return None
        if mismatch(again, actual) is None:
            return "Your result is the same for other inputs: it does not depend on them"
    return None


def examine(exercise: Exercise, thing: object, seed: int) -> Wrong | None:
    """Examine a candidate with values drawn from a seed; return what is wrong, or None."""
    if not callable(thing):
        return Wrong(
            f"check got {kind(thing)}: hand over the function or class itself, without calling it"
        )
    if (getattr(thing, "__module__", None) or "").partition(".")[0] in READY_MADE:
        return Wrong(f"{thing.__module__} holds that ready-made. Write your own: then "
                     "you will own it.")
    if name := looks_inside(thing):
        return Wrong(f"Your code uses {name}, to look into the check or round it. It holds no "
                     "answers; the paper does.")
    candidate = Candidate(thing, exercise)
    generator = torch.Generator().manual_seed(seed)

    def body() -> None:
        with torch.random.fork_rng(devices=[]):  # the learner's random numbers go on undisturbed
            torch.manual_seed(seed)
            exercise.examine(candidate, generator)

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with warnings.catch_warnings(record=True) as warned:  # of what fails, the card will tell
            warnings.simplefilter("always")
            run_in_time(body, candidate.clock, exercise.seconds)
    except Wrong as wrong:
        meant = next(filter(None, (meaning(str(w.message)) for w in warned)), "")
        if meant and "Your code raises" not in wrong.message:
            return Wrong(f"{meant}. {wrong.message}", wrong.expected, wrong.actual, wrong.given)
        return wrong
    except TimeoutError:
        return Wrong(
            f"{candidate.given} had not returned after {exercise.seconds:.0f} s: look for a loop "
            "whose condition never becomes false. (If the notebook stays slow, restart the kernel.)"
        )
    except Exception as error:  # a result that can't even be compared
        return Wrong(f"What you return breaks the check: {type(error).__name__}: {error}")
    finally:
        torch.set_default_dtype(default)
    return None

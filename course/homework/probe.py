"""Fresh values for a check: random numbers, and arguments that tell mistakes apart."""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Generator

from course.homework.twins import Mistake
from course.homework.values import mismatch


def whole(generator: Generator, low: int, high: int) -> int:
    """Return a fresh whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def dice(generator: Generator) -> random.Random:
    """Return Python's random numbers, seeded by torch's."""
    return random.Random(torch.randint(2**62, (), generator=generator).item())


def first_to_show(
    draw: Callable[[], tuple], readings: Sequence[Callable], shown: Sequence[Mistake] = (),
    hidden: Sequence[Mistake] = (),
) -> tuple:
    """Draw arguments until they show some mistakes, each with another result, and hide others.

    Cases that show one mistake after the other name one mistake after the other. readings: right
    functions, which must agree, the first is the reference.
    """

    def result(function: Callable, args: tuple):
        try:
            return function(*args)
        except (ArithmeticError, LookupError, ValueError) as error:
            return repr(error)

    for _ in range(20_000):
        args = draw()
        outcomes = [result(readings[0], args)]
        for _, mistake in shown:
            outcomes.append(result(mistake, args))
            if any(mismatch(outcomes[-1], other) is None for other in outcomes[:-1]):
                break
        else:
            same = (*readings[1:], *(mistake for _, mistake in hidden))
            if all(mismatch(result(function, args), outcomes[0]) is None for function in same):
                return args
    raise RuntimeError("no arguments found that tell these mistakes apart")

"""Wrong twins: functions that make a learner's mistake on purpose, so that it can be named."""

import itertools
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from course.homework.values import mismatch

Mistake = tuple[str, Callable]  # what it says of the learner's thinking, a function that makes it
Fault = tuple[str, dict[str, object]]  # what it says, the dials of a twin that make this mistake
INVERTED = "The mask is inverted: in this course True = may attend (masked_fill needs ~mask)"
FLOAT32 = "somewhere you go through float32: a torch.zeros(...) without dtype, or a .float()"


def twins(make: Callable[..., Callable], faults: Sequence[Fault]) -> list[tuple[str, Callable]]:
    """Return one wrong twin for each fault: make(**dials) with these dials turned."""
    return [(message, make(**dials)) for message, dials in faults]


def double_twins(
    make: Callable[..., Callable], faults: Sequence[Fault]
) -> Iterator[tuple[str, Callable]]:
    """Return a wrong twin for every two faults that can be made together."""
    for (first, one), (second, other) in itertools.combinations(faults, 2):
        if not one.keys() & other.keys():
            yield f"Two things at once. {first}. And: {second}", make(**one, **other)


def named_part(part: object, args: tuple, actual, candidates) -> str | None:
    """Return what is said of the first twin whose result has the same part; None: the whole."""
    for message, twin in candidates:
        try:
            result = twin(*args)
        except Exception:
            continue  # this mistake can't be made with these arguments
        if part is not None:
            result = result[part]
        if mismatch(actual if part is None else actual[part], result) is None:
            return message
    return None


def alike(actual: object, expected: Tensor) -> bool:
    """Say whether it is a tensor of the right shape and type."""
    return isinstance(actual, Tensor) and (actual.shape, actual.dtype) == (
        expected.shape, expected.dtype
    )


def near(actual: object, expected: Tensor) -> bool:
    """Say whether it is right but for rounding."""
    return alike(actual, expected) and bool(
        (actual - expected).abs().max() < 0.01 * expected.abs().max()
    )

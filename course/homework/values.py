"""Compare what came with what should have come, in the words of a learner; and show both."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

TOLERANCE = {torch.float64: (1e-9, 1e-10), torch.float32: (1e-4, 1e-5)}  # relative, absolute


@dataclass(frozen=True)
class Mismatch:
    """What is wrong with a value, and the part of both sides that shows it.

    of_values: type and shape are right, and nothing is NaN; only the values differ.
    """

    message: str
    expected: str = ""
    actual: str = ""
    of_values: bool = False


def mismatch(actual, expected, name: str = "the result") -> Mismatch | None:
    """Return the first way in which `actual` is not `expected`, or None.

    Tensors are compared by type, shape, dtype, device, NaN and value; numbers by value; tuples,
    lists and dicts part by part. name: what the value is called in the message.
    """
    if isinstance(expected, Tensor):
        return _tensors(actual, expected, name)
    if isinstance(expected, float):
        return _numbers(actual, expected, name)
    if isinstance(expected, Mapping):
        return _dicts(actual, expected, name)
    if isinstance(expected, tuple | list):
        return _sequences(actual, expected, name)
    if actual != expected or isinstance(actual, bool) != isinstance(expected, bool):
        of_values = type(actual) is type(expected)
        message = f"{name}: not what it should be"
        return Mismatch(message, show(expected), show(actual), of_values)
    return None


def alike(actual, expected) -> bool:
    """Return whether `mismatch` finds nothing, without writing down what it finds."""
    if isinstance(expected, Tensor):
        return (isinstance(actual, Tensor) and actual.shape == expected.shape
                and actual.dtype == expected.dtype and actual.device == expected.device
                and bool(_close(actual, expected).all()))
    if isinstance(expected, tuple | list) and isinstance(actual, tuple | list):
        return len(actual) == len(expected) and all(map(alike, actual, expected))
    return mismatch(actual, expected) is None


def kind(value) -> str:
    """Name the type of a value as a learner would: "a tensor", "a tuple of 2"."""
    if value is None:
        return "None (is a return missing?)"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    named = {"Tensor": "tensor", "ndarray": "numpy array", "str": "string"}
    noun = named.get(type(value).__name__, type(value).__name__)
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def show(value, lead: tuple[int, ...] = ()) -> str:
    """Return a value as short text: tensors with their shape, three decimals."""
    if isinstance(value, Tensor):
        head = f"shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
        if value.device.type == "meta":
            return f"{head}, device meta"
        part = value.detach().cpu()[lead]
        place = f", at {list(lead)}" if lead else ""
        numbers = part.double().numpy() if part.is_floating_point() else part.numpy()
        text = np.array2string(numbers, precision=3, suppress_small=True, threshold=64, edgeitems=4)
        return f"{head}{place}\n{text}"
    if inspect.isfunction(value):
        return value.__doc__ or value.__name__
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {show(item)}" for key, item in value.items())
    if isinstance(value, tuple | list) and any(isinstance(item, Tensor) for item in value):
        return "\n".join(show(item) for item in value)
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 600 else f"{text[:600]}..."


def _close(actual: Tensor, expected: Tensor) -> Tensor:
    relative, absolute = TOLERANCE.get(expected.dtype, (0, 0))
    return torch.isclose(actual, expected, rtol=relative, atol=absolute, equal_nan=True)


def _tensors(actual, expected: Tensor, name: str) -> Mismatch | None:
    if alike(actual, expected):
        return None
    both = show(expected), show(actual)
    if not isinstance(actual, Tensor):
        return Mismatch(f"{name}: {kind(actual)}, it should be a tensor", *both)
    if actual.shape != expected.shape:
        shapes = f"{tuple(actual.shape)}, it should be {tuple(expected.shape)}"
        return Mismatch(f"{name}: shape {shapes}", *both)
    if actual.dtype != expected.dtype:
        return Mismatch(f"{name}: {actual.dtype}, it should be {expected.dtype}", *both)
    if actual.device != expected.device:
        return Mismatch(f"{name}: on device {actual.device}, it should be on {expected.device}, as "
                        "the input", *both)
    nan = actual.isnan() & ~expected.isnan()
    wrong = nan if nan.any() else ~_close(actual, expected)
    place = tuple(wrong.nonzero()[0].tolist())
    lead = place[:-2]
    both = show(expected, lead), show(actual, lead)
    if nan.any():
        return Mismatch(f"{name}: NaN (not a number), first at {list(place)}", *both)
    return Mismatch(f"{name}: wrong values, first at {list(place)}", *both, of_values=True)


def _numbers(actual, expected: float, name: str) -> Mismatch | None:
    both = show(expected), show(actual)
    if isinstance(actual, Tensor) and actual.numel() == 1:
        actual = actual.item()
    if not isinstance(actual, int | float | np.floating) or isinstance(actual, bool):
        return Mismatch(f"{name}: {kind(actual)}, it should be a number", *both)
    if math.isnan(actual):
        return Mismatch(f"{name}: NaN (not a number)", *both)
    if not math.isclose(actual, expected, rel_tol=1e-6, abs_tol=1e-9):
        message = f"{name}: {actual:.6g}, it should be {expected:.6g}"
        return Mismatch(message, *both, of_values=True)
    return None


def _dicts(actual, expected: Mapping, name: str) -> Mismatch | None:
    if not isinstance(actual, Mapping):
        keys = ", ".join(map(str, expected))
        return Mismatch(f"{name}: {kind(actual)}, it should be a dict with the keys {keys}")
    for key in expected:
        if key not in actual:
            both = show([*expected]), show([*actual])
            return Mismatch(f"{name}: the key {key!r} is missing", *both)
    for key in actual:
        if key not in expected:
            return Mismatch(f"{name}: nobody asked for the key {key!r}")
    for key, value in expected.items():
        if found := mismatch(actual[key], value, f"{name}[{key!r}]"):
            both = f"{key}: {found.expected}", f"{key}: {found.actual}"
            if isinstance(value, float):
                both = show(expected), show(actual)
            return replace(found, expected=both[0], actual=both[1])
    return None


def _sequences(actual, expected: Sequence, name: str) -> Mismatch | None:
    if isinstance(actual, tuple | list) and alike(actual, expected):
        return None
    both = show(expected), show(actual)
    if isinstance(expected, tuple) and name.startswith("("):
        names = name.strip("()").split(", ")  # a result of several values, each with its name
    else:
        names = [f"{name}[{i}]" for i in range(len(expected))]
    if not isinstance(actual, tuple | list):
        return Mismatch(f"you return {kind(actual)}: it should be {name}", *both)
    if len(actual) != len(expected):
        return Mismatch(f"{name}: {len(expected)} values are wanted, not {len(actual)}", *both)
    for a, e, part in zip(actual, expected, names):
        if found := mismatch(a, e, part):
            if isinstance(e, Tensor):  # of a pair: say which of the two
                both = f"{part}, {found.expected}", f"{part}, {found.actual}"
            return replace(found, expected=both[0], actual=both[1])
    return None

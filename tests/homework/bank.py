"""How the banks of candidates are tried: on several seeds, with the misconception by name."""

import itertools
import re
from collections.abc import Callable

import torch

from course.homework.checking import examine
from course.homework.exercises import EXERCISES

SEEDS = (1, 2, 3)


def accepted(name: str, candidate: object) -> None:
    """The check passes a right candidate, with any numbers."""
    for seed in SEEDS:
        wrong = examine(EXERCISES[name], candidate, seed)
        assert wrong is None, wrong.message


def cutters(right: Callable) -> dict[str, tuple[Callable, str]]:
    """Return a right candidate's values without its gradient: how, the candidate, the verdict."""

    def afterwards(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
        def candidate(*args):
            result = right(*args)
            several = isinstance(result, tuple | list)
            return tuple(map(change, result)) if several else change(result)

        return candidate

    def without_past(*args):
        return right(*(a.data if isinstance(a, torch.Tensor) else a for a in args))

    def by_items(tensor: torch.Tensor) -> torch.Tensor:
        result = torch.zeros_like(tensor)
        for place in itertools.product(*map(range, tensor.shape)):
            result[place] = tensor[place].item()
        return result

    return {
        "detach": (afterwards(lambda t: t.detach()), r"\.detach\(\) cuts"),
        "data": (without_past, r"\.data cuts.*the tensor itself"),
        "no_grad": (torch.no_grad()(right), "no_grad cuts"),
        "numpy": (afterwards(lambda t: torch.from_numpy(t.detach().numpy())), "numpy cuts"),
        "bare numpy": (afterwards(lambda t: torch.from_numpy(t.numpy())), "numpy cuts"),
        "item": (afterwards(by_items), r"\.item\(\) cuts.*torch\.stack"),
        "tensor": (afterwards(lambda t: torch.tensor(t.tolist(), dtype=t.dtype)), "tensor.*cuts"),
    }


def rejected(name: str, candidate: object, misconception: str) -> None:
    """The check rejects a wrong candidate, with any numbers, and its message names why.

    misconception: a regular expression that the message must contain.
    """
    for seed in SEEDS:
        wrong = examine(EXERCISES[name], candidate, seed)
        assert wrong is not None, "a wrong candidate passed"
        assert re.search(misconception, wrong.message), wrong.message

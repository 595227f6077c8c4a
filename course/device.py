"""What this machine can do: its device, and the sizes that fit it."""

import os
from typing import TypeVar

import torch

SCALES = ("smoke", "cpu", "gpu")
Size = TypeVar("Size")


def pick() -> torch.device:
    """Return the fastest device there is: cuda, then mps, then cpu; or what COURSE_DEVICE names."""
    if name := os.environ.get("COURSE_DEVICE"):
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def scale() -> str:
    """Return the scale that COURSE_SCALE names, or by itself gpu where there is one, else cpu.

    Raises ValueError for a name that is none of smoke, cpu, gpu, auto.
    """
    name = os.environ.get("COURSE_SCALE", "auto")
    if name == "auto":
        return "cpu" if pick().type == "cpu" else "gpu"
    if name not in SCALES:
        raise ValueError(f"COURSE_SCALE={name!r} is unknown: choose smoke, cpu, gpu or auto")
    return name


def by_scale(*, smoke: Size, cpu: Size, gpu: Size) -> Size:
    """Return the size that fits this scale: for tests, for two cores and two minutes, for a GPU."""
    return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[scale()]

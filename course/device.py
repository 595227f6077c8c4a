"""What this machine can do: its device, and the sizes that fit it."""

import os

import torch

SCALES = ("smoke", "cpu", "gpu")

# the one table of sizes: (smoke, cpu, gpu); smoke is for tests, cpu for two cores and two minutes
SIZES: dict[str, tuple[float, float, float]] = {
    "walkthrough_minutes": (0.3, 6.0, 3.0),
}


def pick() -> torch.device:
    """Return the fastest device there is: cuda, then mps, then cpu."""
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


def size(name: str) -> float:
    """Return how large `name` is at this scale. Raises KeyError for a name not in SIZES."""
    return SIZES[name][SCALES.index(scale())]

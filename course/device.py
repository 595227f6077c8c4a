"""What this machine is and can do: its device, its name, versions, and the sizes that fit it."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
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


def device_name(device: torch.device | str) -> str:
    """Return what the device calls itself."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and (info := Path("/proc/cpuinfo")).is_file():
        for line in info.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    found = {"python": platform.python_version()}
    for package in ("torch", "ctranslate2"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def load_average() -> float | None:
    """Return how many processes wanted to run in the last minute, where the system says."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread while the block, or the decorated function, runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

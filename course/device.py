"""What this machine is and can do: its device, its name, versions, and the sizes that fit it.

torch is loaded where a function needs it: who asks for versions alone does not wait for it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

SCALES = ("smoke", "cpu", "gpu")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
CPUINFO = Path("/proc/cpuinfo")
Size = TypeVar("Size")


def pick() -> torch.device:
    """Return the fastest device there is: cuda, then mps, then cpu; or what COURSE_DEVICE names."""
    import torch

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
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    name = cpu_lines("model name") if kind == "cpu" else []
    return name[0] if name else platform.processor() or platform.machine()


def cpu_lines(key: str) -> list[str]:
    """Return what /proc/cpuinfo says of a key, for each core; nothing where there is none."""
    if not CPUINFO.is_file():
        return []
    lines = CPUINFO.read_text("utf-8", "replace").splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]


def instruction_sets() -> list[str]:
    """Return the processor's instructions that decide how fast it multiplies, where it says so."""
    flags = " ".join([*cpu_lines("flags")[:1], *cpu_lines("Features")[:1]]).split()
    return [name for name in INSTRUCTIONS if name in flags]


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
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

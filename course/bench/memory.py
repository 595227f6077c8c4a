"""The memory that a piece of work takes at its peak, where the system can say."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROC = Path("/proc/self")


class PeakMemory:
    """Measures how much memory this process comes to hold beyond what it held at `reset`.

    On the CPU that is resident memory, in bytes, to about a quarter of a megabyte. Linux can start
    anew at every `reset`; other systems know one peak since the process began, so there only the
    first `reset` counts. On CUDA it is what torch's tensors take. `growth` is None where nothing
    can be known (Windows, MPS).
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.start: int | None = None
        self.reset()

    def reset(self) -> None:
        """Measure from here."""
        if self.device.startswith("cuda"):
            self.start = reset_cuda(self.device)
        elif self.device == "cpu":
            with suppress(OSError, AttributeError):
                libc().malloc_trim(0)  # what is free goes back to the system
            try:
                (PROC / "clear_refs").write_text("5")  # Linux: the peak becomes what is held now
                self.start = host_peak()
            except OSError:
                self.start = self.start or host_peak()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Measure the work of the block alone: start anew, and give all that is freed back at once.

        Otherwise the C library (glibc) keeps freed memory for later, and the peak depends on what
        happened before. Giving back costs time: not for work that is timed.
        """
        set_mmap_threshold(2**16)  # what is larger comes from the system, and returns to it
        self.reset()
        try:
            yield
        finally:
            set_mmap_threshold(2**25)  # where glibc's own adjustment ends

    def growth(self) -> int | None:
        """Return the peak since `reset` less what was held then, in bytes."""
        peak = cuda_peak(self.device) if self.device.startswith("cuda") else host_peak()
        return None if self.start is None or peak is None else peak - self.start


def libc() -> ctypes.CDLL:
    """Return glibc; raises OSError where there is none."""
    return ctypes.CDLL("libc.so.6")


def set_mmap_threshold(size: int) -> None:
    """Let glibc fetch every block of `size` bytes or more from the system; mallopt(3)."""
    with suppress(OSError, AttributeError):
        libc().mallopt(-3, size)  # M_MMAP_THRESHOLD


def host_peak() -> int | None:
    """Return the largest resident memory of this process so far, in bytes."""
    with suppress(OSError):
        for line in (PROC / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_cuda(device: str) -> int:
    """Return the bytes that tensors hold on a GPU, from which the peak is counted anew."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def cuda_peak(device: str) -> int | None:
    """Return the most bytes that torch's tensors have held on a GPU; None without torch."""
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_allocated(device) if torch else None

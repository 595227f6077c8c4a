"""A room for a stranger's program: no network, no file but its own, limits on what it takes."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

UNPROTECTED = """grade: bubblewrap (bwrap) is not here, or may not close a room.
What students wrote is a stranger's program. Without a closed room it can read your files and those
of other students, write wherever you can, and use the network; only its time, its memory and the
number of its processes are limited. On Debian and Ubuntu: sudo apt install bubblewrap. In a
container that holds nothing else, or under an account of its own, say --unprotected."""
GIGABYTES, PROCESSES, FILE_MB = 4, 64, 16


def protection() -> str | None:
    """Return the program that closes a room here, bubblewrap's, or None if it is not there."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    tried = subprocess.run([program, *_rooms(), "true"], capture_output=True, check=False)
    return program if tried.returncode == 0 else None


def _rooms() -> list[str]:
    """The switches that close everything: users, processes, network, terminal; and what is read."""
    closed = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
              "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    system = [part for folder in ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache",
                                  "/etc/alternatives")
              for part in ("--ro-bind-try", folder, folder)]
    return closed + system


def command(program: str | None, folder: Path, arguments: list[str]) -> list[str]:
    """Return the call that runs Python with these arguments in a room that holds one folder.

    program: what closes the room, from `protection`, or None for none. folder: the submission's
    own; it is /submission there, and cannot be written. Of the course the room holds the package,
    not the notebooks: neither solutions, nor the gradebook, nor another submission.
    """
    package = Path(__file__).resolve().parents[1]
    if program is None:
        return [sys.executable, *arguments]
    places = {Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_paths()["stdlib"]),
              *map(Path, site.getsitepackages())}
    outside = [str(place) for place in sorted(places) if not place.is_relative_to("/usr")]
    python = [part for place in outside for part in ("--ro-bind-try", place, place)]
    # a virtual environment's python is a link: what it points to has to be there, too
    real = Path(sys.executable).resolve().parent
    if not real.is_relative_to("/usr"):
        python += ["--ro-bind", str(real), str(real)]
    own = ["--ro-bind", str(package), "/course/course",
           "--ro-bind", str(package.parent / "assets"), "/course/assets",
           "--ro-bind", str(folder.resolve()), "/submission", "--chdir", "/submission"]
    wanted = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "PYTHONPATH": "/course", **environment()}
    settings = [part for name, value in wanted.items() for part in ("--setenv", name, value)]
    return [program, *_rooms(), *python, *own, *settings, sys.executable, *arguments]


def environment() -> dict[str, str]:
    """Return the variables that a submission sees: none of the teacher's."""
    return {"PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg",
            "COURSE_PROGRESS": "off", "COURSE_OFFLINE": "1", "IPYTHONDIR": "/tmp",
            "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}


def limit(seconds: int) -> None:
    """Limit the present process, for good, in memory, file size and time, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for what, value in ((resource.RLIMIT_DATA, GIGABYTES * 2**30),
                        (resource.RLIMIT_FSIZE, FILE_MB * 2**20),
                        (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (value, value))


def family(pid: int) -> int:
    """Return how many processes descend from one; 0 where that cannot be seen."""
    import psutil

    try:
        return len(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return 0


def stop(process: subprocess.Popen) -> None:
    """End a room with everybody in it."""
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    with suppress(OSError):
        os.killpg(process.pid, 9) if hasattr(os, "killpg") else process.kill()
    process.kill()
    process.wait()

"""Files, signals and a lock: what keeps the directory of a run whole (lesson 07b says why)."""

import hashlib
import json
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor
from tqdm import tqdm


class CheckpointError(RuntimeError):
    """A checkpoint or a run that cannot be read or written; the message says what to do."""


UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError,
              SafetensorError)  # what a file raises that is missing, cut, or of something else
ANEW = "Copy it again, or start anew in another directory"


@contextmanager
def advised(
    what: str, advice: str, kinds: type[Exception] | tuple = UNREADABLE
) -> Iterator[None]:
    """Turn errors of these kinds into a CheckpointError: what failed, why, and what to do."""
    try:
        yield
    except kinds as error:
        reason = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{what} ({reason}). {advice}") from error


# ---------------------------------------------------------------- files


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then move it there: a crash leaves the old one whole.

    Raises CheckpointError if the file system refuses, as when the disk is full.
    """
    beside = path.with_name(path.name + ".part")
    with advised(f"cannot write {path}", "What stood there before is unharmed: make room, or mend "
                 "the permissions, then give the same command again", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            move(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def move(source: Path, target: Path, patience: float = 2.0) -> None:
    """Move a file over another one, at once; on Windows, wait while another program reads it."""
    until = time.monotonic() + patience
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > until:
                raise
            time.sleep(0.1)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(path, lambda p: p.write_text(text + "\n", encoding="utf-8"))


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, object] | None = None
) -> None:
    """Write safetensors atomically, with the permissions that any new file gets."""
    content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {name: json.dumps(value) for name, value in header.items()} if header else None
    write_atomically(path, lambda p: p.write_bytes(tensors_to_bytes(content, metadata)))


def header(path: Path) -> dict[str, dict]:
    """Return what a file of `write_tensors` holds beside its tensors."""
    with safe_open(path, "pt") as file:
        return {name: json.loads(value) for name, value in file.metadata().items()}


def whole_lines(path: Path) -> list[dict[str, float]]:
    """Return the lines of a log; one without an end, cut off by a crash, is no line yet.

    Raises CheckpointError that names a damaged line.
    """
    lines = []
    for number, raw in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if raw.endswith(b"\n"):
            with advised(f"{path}, line {number} is no line of a log", "Delete this line; the run "
                         "needs none of them, only its curves do"):
                lines.append(json.loads(raw))
                int(lines[-1]["step"]), int(lines[-1]["epoch"]), int(lines[-1]["batch"])
    return lines


# ---------------------------------------------------------------- directories


def found(directory: Path, shipped: Path) -> Path:
    """Return a directory, or the shipped checkpoint of its name; raises CheckpointError if none."""
    for place in (directory, shipped / directory):
        if place.is_dir():
            return place
    known = ", ".join(sorted(path.name for path in shipped.glob("*") if path.is_dir())) or "none"
    raise CheckpointError(
        f"no checkpoint {str(directory)!r}: neither a directory nor one of those that come with "
        f"the course ({known}). Train one: python -m course train --help"
    )


def digest(content: object) -> str:
    """Return a short fingerprint of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def read_record(path: Path) -> dict[str, object]:
    """Return what a run was started with."""
    with advised(f"cannot tell how this run was started: {path} cannot be read", ANEW):
        return dict(json.loads(path.read_text("utf-8")))


def check_record(path: Path, record: Mapping[str, object]) -> None:
    """Raise CheckpointError that names the first difference from what a run was started with."""
    started = read_record(path)
    for name in record:
        if started.get(name) != record[name]:
            raise CheckpointError(
                f"cannot resume {path.parent}: it was started with {name}={started.get(name)!r}, "
                f"not {record[name]!r}. Give it the same again, or start anew in another directory"
            )


def claim(directory: Path, record: Mapping[str, object], resume: bool) -> None:
    """Make sure that a run may write here; raises CheckpointError if it would mix or lose runs."""
    state, model = (directory / f"{name}.safetensors" for name in ("state", "model"))
    if resume:
        if state.exists():
            check_record(directory / "training.json", record)
        return
    try:
        worth = header(state)["position"]["step"] > 0 if state.exists() else model.exists()
        way = "go on with --resume, or choose another directory"
    except UNREADABLE:
        worth, way = True, "its state cannot be read. Choose another directory"
    if worth:
        raise CheckpointError(f"{directory} holds a run already: {way}")
    write_json(directory / "training.json", record)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory for the time of the block; raises CheckpointError that names its owner.

    The system takes the lock back when a process ends, however it ends.
    """
    owner, lock = directory / "run.owner", FileLock(directory / "run.lock", timeout=0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    refused = (f"cannot write into {directory}",
               "Choose another directory, make room or mend the permissions", OSError)
    with advised(*refused):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            held = owner.read_text("utf-8") if owner.exists() else "another process"
            raise CheckpointError(f"{directory} is in use by {held}. Wait until it has ended, or "
                                  "choose another directory") from error
        except NotImplementedError:
            pass  # a file system without locks: who shares it must take care
    try:
        with advised(*refused):
            owner.write_text(f"process {os.getpid()} on {platform.node()}, since {since}", "utf-8")
        yield
    finally:
        with suppress(OSError):
            owner.unlink()
        lock.release()


# ---------------------------------------------------------------- who runs it


@contextmanager
def stop_request() -> Iterator[threading.Event]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into an event, so that a step is never cut in two.

    A second Ctrl-C, a second later or more, stops at once. Outside the main thread signals stay
    as they are.
    """
    event = threading.Event()
    heard = math.inf
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handler(signum, frame) -> None:
        nonlocal heard
        now = time.monotonic()
        if now - heard >= 1:
            raise KeyboardInterrupt
        heard = min(heard, now)
        event.set()

    signals = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)  # a lost terminal; Windows has none
    if hang_up and signal.getsignal(hang_up) != signal.SIG_IGN:  # nohup asked to ignore it
        signals.append(hang_up)
    before = {s: signal.signal(s, handler) for s in signals}
    try:
        yield event
    finally:
        for s, old in before.items():
            signal.signal(s, old)


def write_line(text: str) -> None:
    """Print a line without breaking the progress bar."""
    tqdm.write(text)


def bar(initial: float, quiet: bool) -> tqdm:
    """Return a bar that shows the share of the budget spent, the time left, loss and tokens/s."""
    layout = "{percentage:3.0f}% |{bar:20}| {elapsed} gone, {remaining} left{postfix}"
    return tqdm(total=1.0, initial=initial, bar_format=layout, mininterval=0.5, disable=quiet)


def update_bar(shown: tqdm, position, values: Mapping[str, float]) -> None:
    """Move the bar to the progress of the latest step."""
    speed = position.tokens / max(position.seconds, 1e-9)
    text = f"step {position.step}, loss {values['loss']:.3f}, {speed:,.0f} tokens/s"
    shown.set_postfix_str(text, refresh=False)
    shown.update(values["progress"] - shown.n)

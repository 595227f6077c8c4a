"""A race in rounds, A B C A B C ..., so that a busy moment of the machine hits everybody."""

import importlib
import importlib.util
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

from tqdm import tqdm

from course.bench.memory import PeakMemory

HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # Windows has none


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop a race as Ctrl-C does: with what has been measured."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler)
              for number in (signal.SIGTERM, *HANGUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """Says on standard error how far a race is: a bar on a terminal, else a line for each round.

    When the round that warms up is over, it says how long the others will take.
    """

    def __init__(self, rounds: int, turns: int) -> None:
        self.rounds, self.turns, self.done, self.begun = rounds, turns, 0, time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(total=(rounds + 1) * turns, unit="turn", leave=False,
                        disable=not self.terminal)
        self.bar.set_postfix_str("setting up")

    def set_up(self) -> None:
        """All contestants are ready."""
        self.begun = time.monotonic()

    def turn(self, name: str) -> None:
        """The turn of `name` begins."""
        self.bar.set_postfix_str(name if self.done >= self.turns else f"{name}, warming up")

    def finished(self) -> None:
        """A turn is over."""
        self.bar.update()
        self.done += 1
        number, rest = divmod(self.done, self.turns)
        if rest or number > self.rounds:
            return
        left = (time.monotonic() - self.begun) / number * (self.rounds + 1 - number)
        if number == 1:
            tqdm.write(f"bench: warmed up; {in_time(left)} for {self.rounds} rounds of "
                       f"{self.turns} turns", file=sys.stderr)
        elif not self.terminal:
            print(f"bench: round {number - 1} of {self.rounds} done, {in_time(left)} left",
                  file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()


def in_time(seconds: float) -> str:
    """Return a time as one says it."""
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} minutes"


@dataclass(frozen=True)
class Work:
    """What one turn did: how much, in the race's unit; its useful FLOPs; and what came out."""

    amount: float
    flops: float | None = None
    outcome: object = None


@dataclass(frozen=True)
class Contestant:
    """Who takes part: `factory`, "module:function" or "file.py:function", called with `settings`.

    `at`: where it stands on a growth curve, if the race draws one by a process for each point.
    """

    name: str
    factory: str
    settings: Mapping[str, object] = field(default_factory=dict)
    at: int | None = None


@dataclass(frozen=True)
class Turn:
    """One timed piece of work."""

    seconds: float
    amount: float
    flops: float | None = None

    @property
    def rate(self) -> float:
        """Return the amount done in a second."""
        return self.amount / self.seconds


@dataclass
class Result:
    """All that one contestant did, at one point `at` of a growth curve if there is one.

    memory: bytes at the peak, None where it was not measured; outcome: what the last turn made;
    error: why it left the race.
    """

    name: str
    at: int | None = None
    turns: list[Turn] = field(default_factory=list)
    outcome: object = None
    memory: int | None = None
    error: str | None = None

    @property
    def rates(self) -> list[float]:
        """Return the rate of every turn."""
        return [turn.rate for turn in self.turns]


@dataclass(frozen=True)
class Race:
    """The results, in the order of the contestants; `stopped`: by Ctrl-C, before the last round."""

    results: list[Result]
    stopped: bool = False

    def __getitem__(self, name: str) -> Result:
        return next(result for result in self.results if result.name == name)

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """Return how many times as fast `name` is as `other`: lower quartile, median, upper.

        Both are compared round by round, so what slows a whole round down does not count.
        """
        return quartiles([a / b for a, b in zip(self[name].rates, self[other].rates)])


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def resolve(factory: str) -> Callable:
    """Return the function that "module:function" or "file.py:function" names.

    Raises ValueError where there is no such module, file or function.
    """
    where, _, name = factory.rpartition(":")
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise ValueError(f"there is no file {where!r}: check its path")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise ValueError(f"{factory!r}: {error}") from error
    if not callable(getattr(module, name, None)):
        raise ValueError(f"{where} has no function {name!r}: define {name}(job) there")
    return getattr(module, name)


def wait_for(device: str) -> None:
    """Wait until the device has done all that it was told, if its process uses torch."""
    torch = sys.modules.get("torch")
    if torch and device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif torch and device.startswith("mps"):
        torch.mps.synchronize()


def take_turn(work: Callable, case: int | None, device: str) -> tuple[Turn, object]:
    """Do one piece of work; return its time and its outcome."""
    wait_for(device)
    begun = time.perf_counter()
    done = work() if case is None else work(case)
    wait_for(device)
    seconds = time.perf_counter() - begun
    if not isinstance(done, Work):
        done = Work(float(done))
    return Turn(seconds, done.amount, done.flops), done.outcome


def in_words(error: BaseException) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def serve(pipe: Connection, contestant: Contestant, device: str) -> None:
    """Set a contestant up, then take a turn for each order that comes, until None does.

    An order is (case, whether to measure the memory of this turn alone). Answers None when ready,
    then (turn, outcome, memory) each time; a text is an error, the last answer. Runs in a process
    of its own.
    """
    for number in (signal.SIGINT, *HANGUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C and a closed terminal: the parent's affair
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that it leaves nothing behind
    os.dup2(2, 1)  # the parent's standard output is for its table alone
    try:
        factory = resolve(contestant.factory)
        memory = PeakMemory(device)
        work = factory(**contestant.settings)
        pipe.send(None)
        while (order := pipe.recv()) is not None:
            case, measure = order
            with memory.alone() if measure else nullcontext():
                turn, outcome = take_turn(work, case, device)
            pipe.send((turn, outcome, memory.growth()))
    except EOFError:
        pass  # the parent is gone
    except BaseException as error:
        pipe.send(in_words(error))


class Worker:
    """The process of one contestant, as its parent sees it."""

    def __init__(self, contestant: Contestant, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.at = contestant.name, contestant.at
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, contestant, device))
        self.process.start()
        theirs.close()  # so that its death ends the pipe

    def answer(self) -> object:
        """Return its next answer; an error text if it died."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return (f"its process ended with exit code {self.process.exitcode}"
                    + (", perhaps for want of memory" if self.process.exitcode == -9 else ""))

    def take_turn(self, case: int | None, measure: bool) -> object:
        """Return the answer to one order."""
        with suppress(OSError):  # it died while waiting: the answer says how
            self.pipe.send((case, measure))
        return self.answer()

    def end(self) -> None:
        """End the process, gently if it lets us."""
        self.process.terminate()
        self.process.join(timeout=5)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def race(
    contestants: Sequence[Contestant],
    rounds: int,
    device: str = "cpu",
    cases: Sequence[int | None] = (None,),
    pause: float = 0.0,
) -> Race:
    """Let the contestants take turns, each in a process of its own; one round warms up, untimed.

    cases: what `work` is called with in each round, rising; without cases, with nothing. Memory
    is the peak since a contestant began to set up, with cases that of each case alone. pause:
    seconds between two turns, in which the threads of the last one fall asleep. Whoever fails
    leaves with its error and the others go on; Ctrl-C, SIGTERM or SIGHUP end the race with what it
    has.
    """
    results = {
        (c.name, c.at if case is None else case): Result(c.name, c.at if case is None else case)
        for c in contestants for case in cases
    }
    workers: list[Worker] = []
    failed: dict[Worker, str] = {}
    stopped = False
    progress = Progress(rounds, len(cases) * len(contestants))
    try:
        with stoppable():
            workers += [Worker(contestant, device) for contestant in contestants]
            failed |= {worker: error for worker in workers if (error := worker.answer())}
            progress.set_up()
            for number, case, worker in product(range(rounds + 1), cases, workers):
                if worker not in failed:
                    progress.turn(worker.name)
                    time.sleep(pause)
                    measure = number == 0 and case is not None
                    answer = worker.take_turn(case, measure)
                    if isinstance(answer, str):
                        failed[worker] = answer
                    else:
                        at = worker.at if case is None else case
                        record(results[worker.name, at], number, answer,
                               memory=measure or case is None)
                progress.finished()
    except KeyboardInterrupt:
        stopped = True
    finally:
        progress.close()
        for worker in workers:
            worker.end()
    for worker, error in failed.items():
        for result in results.values():
            if result.name == worker.name and (worker.at is None or worker.at == result.at):
                result.error = error
    return Race(list(results.values()), stopped)


def record(result: Result, number: int, answer: tuple, memory: bool) -> None:
    """Write a worker's answer of one round down; round 0 warms up."""
    turn, result.outcome, peak = answer
    if number:
        result.turns.append(turn)
    if memory:
        result.memory = peak


def race_here(
    contestants: Mapping[str, Callable[[], float | Work]], rounds: int, device: str = "cpu"
) -> Race:
    """Let functions that are set up already take turns in this process, as a lesson's cell does.

    Each is called once to warm up, then once a round. No memory is measured, and an error is
    raised where it happens.
    """
    results = {name: Result(name) for name in contestants}
    turns = product(range(rounds + 1), contestants)
    for number, name in tqdm(list(turns), unit="turn", disable=None, leave=False):
        turn, outcome = take_turn(contestants[name], None, device)
        record(results[name], number, (turn, outcome, None), memory=False)
    return Race(list(results.values()))

"""`python -m course bench gpu`: all that a machine with a GPU should be asked, in one run.

Each answer is a line of JSON, written when it is there: a run that breaks off keeps what it has.
"""

import gc
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from course.bench import attention, decode, train
from course.bench.flops import matrix_product
from course.bench.jobs import AttentionJob, corpus_pairs, decode_job, train_job
from course.bench.memory import PeakMemory
from course.bench.race import in_words, stoppable, take_turn
from course.bench.report import spread

OUT = Path("build/bench_gpu.jsonl")
WANTED = 36.5  # BLEU on val at which the race against the clock ends
CHECKPOINT = "multi30k-de-en"


@dataclass(frozen=True)
class Asked:
    """What is asked: of which device, with how many threads, and whether at sizes of seconds."""

    device: str
    threads: int
    quick: bool
    scratch: Path

    @property
    def cuda(self) -> bool:
        """Return whether the device is one of NVIDIA's."""
        return self.device.startswith("cuda")


def repeated(set_up: Callable, asked: Asked, until: float, case: int | None = None) -> dict:
    """Set a contestant up, warm it up, and repeat its work until the time is over, 3 to 20 times.

    Where even a third repeat would come too late, there are fewer.
    """
    memory = PeakMemory(asked.device)
    work = set_up()
    begun = time.monotonic()
    take_turn(work, case, asked.device)
    warming = time.monotonic() - begun
    rates, flops, outcome = [], [], None
    most = 2 if asked.quick else 20
    while len(rates) < most and (not rates or time.monotonic() < until):
        turn, outcome = take_turn(work, case, asked.device)
        rates.append(turn.rate)
        flops.append(turn.flops / turn.seconds if turn.flops else None)
    return {"rate": spread(rates), "flops_a_second": spread([f for f in flops if f]),
            "repeats": len(rates), "warming_seconds": round(warming, 2),
            "peak_memory": memory.growth(), "outcome": outcome}


# --- the parts: each yields its answers, and ends at about `until` --------------------------------


def products(asked: Asked, until: float) -> Iterator[dict]:
    """Multiply matrices in both precisions: the rate that shares are taken of."""
    size, seconds = (128, 0.01) if asked.quick else (8192, 0.5)
    for kind in ("float32", "bfloat16"):
        set_up = partial(matrix_product, kind, size, asked.device, asked.threads, seconds)
        found = repeated(set_up, asked, until)
        yield {"precision": kind, "size": size, **found}


def training(asked: Asked, until: float) -> Iterator[dict]:
    """Train base sizes: the naive loop, then ours in float32, in bfloat16, and compiled."""
    preset, n_batches = ("tiny", 1) if asked.quick else ("base", 24)
    job = train_job(asked.device, asked.threads, preset, n_batches, asked.quick)
    contestants = {
        "naive, float32": partial(train.naive, job),
        "ours, float32": partial(train.ours, job),
        "ours, bfloat16": partial(train.ours, job, bfloat16=True),
    }
    if asked.cuda:
        contestants["ours, bfloat16, compiled"] = partial(
            train.ours, job, bfloat16=True, compiled=True)
    else:
        yield {"contestant": "ours, bfloat16, compiled", "left_out": "it pays on a GPU only"}
    yield from each(contestants, asked, until, preset=preset, corpus=job.corpus,
                    unit="target tokens")


def each(contestants: dict[str, Callable], asked: Asked, until: float, **said) -> Iterator[dict]:
    """Repeat the work of each contestant; they share the time, and one that fails is named."""
    names = list(contestants)
    for number, name in enumerate(names):
        now = time.monotonic()
        try:
            part = now + max(0.0, until - now) / (len(names) - number)
            found = repeated(contestants[name], asked, part)
        except Exception as error:
            found = {"error": in_words(error)}
        found.pop("outcome", None)
        yield {"contestant": name, **said, **found}
        forget(asked)


def forget(asked: Asked) -> None:
    """Give back what the last contestant held."""
    gc.collect()
    if asked.cuda:
        import torch

        torch.cuda.empty_cache()


def decoding(asked: Asked, until: float) -> Iterator[dict]:
    """Translate with the shipped checkpoint: greedily, and with a beam of 4."""
    job, _, _ = decode_job(asked.device, asked.threads, CHECKPOINT, Path(), asked.quick)
    beams = {"greedy": 1, "beam 4": 4}
    contestants = {name: partial(decode.ours, job, beam) for name, beam in beams.items()}
    yield from each(contestants, asked, until, corpus=job.corpus, sentences=len(job.sentences),
                    unit="sentences")


def attention_by_length(asked: Asked, until: float) -> Iterator[dict]:
    """Attend by hand, by torch's fused function, and by flash attention, over rising lengths."""
    lengths = (64, 128) if asked.quick else (512, 1024, 2048, 4096, 8192, 16384)
    ways = {"by hand": attention.manual, "fused": attention.fused, "flash": attention.flash}
    for name, way in ways.items():
        for length in lengths:
            job = AttentionJob(asked.device, asked.threads, (length,), batch=1, heads=8)
            try:
                found = repeated(partial(way, job), asked, time.monotonic() + 0.5,
                                 length)
            except Exception as error:
                found = {"error": in_words(error)}
            yield {"way": name, "length": length, "unit": "passes", **found}
            forget(asked)
            if "error" in found or time.monotonic() > until:
                break


def command(asked: Asked, *words: str, seconds: float, ranks: int = 1) -> str:
    """Run `python -m course WORDS` on the device; return its output.

    Raises RuntimeError with its last line where it fails or takes longer.
    """
    launcher = ["torch.distributed.run", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
    environment = dict(os.environ)
    if not asked.cuda:
        environment["COURSE_DEVICE"] = asked.device
    try:
        done = subprocess.run([sys.executable, "-m", *launcher, "course", *words],
                              capture_output=True, encoding="utf-8", errors="replace",
                              timeout=max(1.0, seconds), env=environment)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(words[:1])}: not done after {seconds:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{' '.join(words[:1])}: {lines[-1]}")
    return done.stdout


def last_line(run: Path) -> dict:
    """Return where a run's log says that it stands."""
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    return json.loads(next(line for line in reversed(lines) if '"seconds"' in line))


def by_the_clock(asked: Asked, until: float) -> Iterator[dict]:
    """Train on Multi30k, two passes at a time, until greedy BLEU on val is reached; then test."""
    corpus, _ = corpus_pairs("val", asked.quick)
    preset, tests = ("cpu", ("val", "test_2016_flickr"))
    if corpus != "multi30k":
        preset, tests = "tiny", ("val", "test")
    run = asked.scratch / "run"
    words = ["train", "--corpus", corpus, "--preset", preset, "--out", str(run)]
    judge = ["evaluate", "--checkpoint", str(run), "--corpus", corpus, "--beam", "1", "--json"]
    for epochs in (0,) if asked.quick else range(2, 100, 2):
        budget = ["--epochs", str(epochs)] if epochs else ["--minutes", "0.03"]
        command(asked, *words, *budget, *(["--resume"] if run.exists() else []),
                seconds=max(60.0, until - time.monotonic()))
        found = json.loads(command(asked, *judge, "--split", tests[0], seconds=120))
        stands = last_line(run)
        yield {"corpus": corpus, "preset": preset, "split": tests[0], "epochs": epochs,
               "bleu": found["bleu"], "training_seconds": stands["seconds"],
               "steps": stands["step"]}
        if found["bleu"] >= WANTED or time.monotonic() > until:
            break
    found = json.loads(command(asked, *judge, "--split", tests[1], seconds=120))
    yield {"corpus": corpus, "preset": preset, "split": tests[1], "bleu": found["bleu"],
           "training_seconds": stands["seconds"], "reached": found["bleu"] >= WANTED}


def ranks(asked: Asked, until: float) -> Iterator[dict]:
    """Train the same number of passes on one device and on two."""
    import torch

    if not asked.quick and torch.cuda.device_count() < 2:
        yield {"left_out": "one GPU is here"}
        return
    corpus, _ = corpus_pairs("val", asked.quick)
    for world in (1, 2):
        run = asked.scratch / f"ranks{world}"
        command(asked, "train", "--corpus", corpus, "--preset", "tiny" if asked.quick else "cpu",
                *(("--minutes", "0.03") if asked.quick else ("--epochs", "2")),
                "--out", str(run), ranks=world,
                seconds=max(60.0, until - time.monotonic()))
        stands = last_line(run)
        yield {"ranks": world, "corpus": corpus, "tokens": stands["tokens"],
               "training_seconds": stands["seconds"], "val_loss": stands.get("val_loss")}


def notebooks(asked: Asked, until: float) -> Iterator[dict]:
    """Run each page at the gpu scale as far as the time goes; list the cells that fail."""
    from course.authoring import NOTEBOOKS

    pages = sorted(path for path in NOTEBOOKS.glob("[01]*.py") if path.stem[:2].isdigit())
    if asked.quick:
        pages = [page for page in pages if page.stem == "04_masking"]
    for page in pages:
        if time.monotonic() > until:
            yield {"page": page.stem, "left_out": "no time was left"}
            continue
        yield {"page": page.stem, **failing_cells(page, asked, until - time.monotonic())}


def failing_cells(page: Path, asked: Asked, seconds: float) -> dict:
    """Return how long a page ran, and the cells that raised: their first line and the error."""
    import jupytext
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError

    notebook = jupytext.read(page)
    client = NotebookClient(notebook, timeout=max(5, int(seconds)), kernel_name="python3",
                            allow_errors=True, resources={"metadata": {"path": str(page.parent)}})
    scale = "smoke" if asked.quick else "gpu"
    environment = {**os.environ, "COURSE_SCALE": scale, "COURSE_DEVICE": asked.device}
    begun, late = time.monotonic(), {}
    try:
        client.execute(env=environment)
    except CellTimeoutError:
        late = {"left_out": "its time was over before its end"}
    failed = [{"cell": cell.source.splitlines()[0], "error": f"{out.ename}: {out.evalue[:200]}"}
              for cell in notebook.cells if cell.cell_type == "code"
              for out in cell.get("outputs", []) if out.output_type == "error"]
    return {"scale": scale, "seconds": round(time.monotonic() - begun, 1), "failed": failed, **late}


# --- the run ------------------------------------------------------------------------------------

# each part with its share of the time; what one leaves goes to the next ones
PARTS: dict[str, tuple[float, Callable[[Asked, float], Iterator[dict]]]] = {
    "products": (0.04, products),
    "training": (0.26, training),
    "decoding": (0.10, decoding),
    "attention": (0.08, attention_by_length),
    "clock": (0.32, by_the_clock),
    "ranks": (0.06, ranks),
    "notebooks": (1.0, notebooks),
}


def machine(asked: Asked, command_line: str) -> dict:
    """Return what the figures belong to."""
    from course.device import device_name, instruction_sets, load_average, versions

    found = {"command": command_line, "device": device_name(asked.device),
             "device_type": asked.device, "processor": device_name("cpu"),
             "instruction_sets": instruction_sets(),
             "threads": asked.threads, "load_before": load_average(), "versions": versions(),
             "quick": asked.quick}
    if asked.cuda:
        import torch

        properties = torch.cuda.get_device_properties(asked.device)
        found |= {"gpus": torch.cuda.device_count(), "memory": properties.total_memory,
                  "capability": f"{properties.major}.{properties.minor}",
                  "cuda": torch.version.cuda}
    return found


def in_a_line(part: str, found: dict) -> str:
    """Return an answer to read: what is measured, without its repeats."""
    shown = {key: value for key, value in found.items() if value not in (None, [], {})}
    for key in ("rate", "flops_a_second"):
        if isinstance(shown.get(key), dict):
            shown[key] = f"{shown[key]['median']:.4g}"
    return f"{part}: " + ", ".join(f"{key} {value}" for key, value in shown.items())


def run(options: Namespace, device: str, threads: int, command_line: str) -> int:
    """Ask all parts in turn; return 1 if one of them failed, 130 if it was stopped.

    Raises ValueError where there is no GPU, unless the sizes are those of --quick.
    """
    if device == "cpu" and not options.quick:
        raise ValueError("bench gpu asks a GPU, and there is none here: `--quick` tries every part "
                         "on the CPU, at sizes of seconds")
    path = options.out or OUT
    path.parent.mkdir(parents=True, exist_ok=True)
    begun, status = time.monotonic(), 0
    end = begun + 60 * options.minutes
    with path.open("w", encoding="utf-8") as file, TemporaryDirectory() as scratch:
        asked = Asked(device, threads, options.quick, Path(scratch))

        def write(part: str, found: dict) -> None:
            line = {"part": part, "at": round(time.monotonic() - begun, 1), **found}
            file.write(json.dumps(line) + "\n")
            file.flush()
            if not options.json:
                print(in_a_line(part, found), flush=True)

        write("machine", machine(asked, command_line))
        print(f"bench: {options.minutes:g} minutes at most, for {', '.join(PARTS)}; each answer is "
              f"kept at once in {path}", file=sys.stderr)
        try:
            with stoppable():
                for part, (share, answers) in PARTS.items():
                    now = time.monotonic()
                    if now >= end:
                        write(part, {"left_out": "no time was left"})
                        continue
                    print(f"bench: {part}, {(end - now) / 60:.1f} minutes left", file=sys.stderr)
                    try:
                        for found in answers(asked, min(end, now + share * 60 * options.minutes)):
                            write(part, found)
                            status |= "error" in found or bool(found.get("failed"))
                    except Exception as error:
                        write(part, {"error": in_words(error)})
                        status = 1
                    forget(asked)
        except KeyboardInterrupt:
            write("end", {"stopped": True})
            return 130
        write("end", {"minutes": round((time.monotonic() - begun) / 60, 2)})
    return int(status)

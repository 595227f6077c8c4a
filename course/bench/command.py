"""`python -m course bench`: plan, race, report."""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from course.bench import plans
from course.bench.race import race
from course.bench.report import failed, report_of, text_of, troubles

BENCHES = ("train", "decode", "attention")
HELP = """python -m course bench train
  python -m course bench decode --peer ctranslate2 --rounds 9 --out decode.json
  python -m course bench attention --json
  python -m course bench gpu --minutes 8

Peers that the course carries. train: nn.Transformer, same-dropout, naive. decode: uncached,
naive, ctranslate2. Without --peer all take part; with it, those you name. A path adds yours:
  python -m course bench train --peer all mine.py
mine.py defines train(job), decode(job) or attention(job), which sets up and returns a function that
does one fixed piece of work and says how much it was. `pydoc course.bench.jobs` lists what is in
`job`; the shortest peer:
  def train(job):
      model = ...                      # of the sizes in job.model, on job.device
      def work():
          for batch in job.batches:    # [(source ids, target ids), ...]
              ...                      # one optimizer step
          return job.tokens
      return work

Contestants take turns in rounds, each in a process of its own; medians and quartiles are over the
rounds, ratios are taken within each. Threads: OMP_NUM_THREADS, else all cores."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench`."""
    parser.add_argument("what", nargs="?", choices=(*BENCHES, "gpu"),
                        metavar="train|decode|attention|gpu",
                        help="what to measure; the first three if left out; gpu: all that a "
                        "machine with a GPU should be asked, a line of JSON for each answer")
    parser.add_argument("--minutes", type=minutes, default=8.0, metavar="M", help="of gpu: 8")
    parser.add_argument("--device", help="cpu, cuda, mps (the fastest there is)")
    parser.add_argument("--peer", nargs="+", metavar="NAME_OR_PATH", help="see below")
    parser.add_argument("--rounds", type=rounds, default=5, metavar="N", help="5")
    parser.add_argument("--growth", nargs="?", const="length", choices=("length", "beam"),
                        metavar="beam",
                        help="how the cost grows: train over width, decode over output length, "
                        "or over the width of the beam: decode --growth beam")
    parser.add_argument("--preset", help="sizes for train: cpu, on CUDA base")
    parser.add_argument("--checkpoint", default="multi30k-de-en", help="what decode runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object to a file")
    parser.add_argument("--quick", action="store_true",
                        help="tiny sizes, to see that everything runs; its figures mean nothing")


def minutes(text: str) -> float:
    """Read a number of minutes above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return value


def rounds(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def plan_of(
    what: str, options: argparse.Namespace, device: str, threads: int, scratch: Path
) -> plans.Plan:
    """Return the race that the options ask for."""
    common = (device, threads, options.peer)
    if what == "attention":
        return plans.attention_plan(*common, options.quick)
    if what == "train":
        plan = plans.train_growth if options.growth else plans.train_plan
        return plan(*common, options.preset, options.quick)
    if options.growth:
        grows = plans.beam_growth if options.growth == "beam" else plans.decode_growth
        return grows(*common, options.checkpoint, options.quick)
    return plans.decode_plan(*common, options.checkpoint, options.quick, scratch)


def command_line(options: argparse.Namespace) -> str:
    """Return the command that a report names, without the directories of this machine."""
    words = ["python -m course bench", options.what or ""]
    if options.what == "gpu":
        words.append(f"--minutes {options.minutes:g}")
    words += [f"--{name} {value}" for name in ("device", "preset")
              if (value := getattr(options, name))]
    if options.peer:
        words.append("--peer " + " ".join(Path(peer).name for peer in options.peer))
    if options.what != "gpu":
        words.append(f"--rounds {options.rounds}")
    if options.growth:
        words.append("--growth beam" if options.growth == "beam" else "--growth")
    words += ["--quick"] * options.quick
    if options.what == "decode":
        words.append(f"--checkpoint {Path(options.checkpoint).name}")
    return " ".join(filter(None, words))


def check(options: argparse.Namespace) -> tuple[str, int]:
    """Return the device and its number of threads; raises ValueError for options that cannot be."""
    import torch

    from course.device import pick

    device = options.device or str(pick())
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {device!r} here: leave --device out, or name cpu") from error
    if options.peer and not options.what:
        raise ValueError("--peer goes with one of train, decode, attention: name it")
    if options.growth == "beam" and options.what != "decode":
        raise ValueError("--growth beam goes with decode: bench decode --growth beam")
    if options.out and not options.out.resolve().parent.is_dir():
        raise ValueError(f"--out {options.out}: there is no such directory; make it first")
    return device, torch.get_num_threads()


def run(options: argparse.Namespace) -> int:
    """Run the races and print their reports; return 1 if a contestant failed, 130 after Ctrl-C.

    Raises ValueError for a device, peer or preset that there is not, CheckpointError for a
    checkpoint that cannot be read.
    """
    device, threads = check(options)
    if options.what == "gpu":
        from course.bench import gpu

        return gpu.run(options, device, threads, command_line(options))
    from course.device import load_average

    load = load_average()
    if not options.quick:
        print("bench: how long it takes is said when each contestant has had one turn, which may "
              "take minutes;\nbench: Ctrl-C stops, and keeps the rounds that are done",
              file=sys.stderr)
    reports, status = {}, 0
    for what in [options.what] if options.what else BENCHES:
        with TemporaryDirectory() as scratch:
            plan = plan_of(what, options, device, threads, Path(scratch))
            result = race(plan.contestants, options.rounds, device, plan.cases,
                          pause=0.0 if options.quick else 0.25)
        report = report_of(plan, result, options.rounds, device, threads,
                           command_line(options), load)
        reports[what] = report
        if not options.json:
            print(text_of(report), end="\n\n", flush=True)
        for trouble in troubles(report):
            print(f"bench: {trouble}", file=sys.stderr)
        if failed(report):
            status = 1
        if result.stopped:
            print("bench: stopped before the last round", file=sys.stderr)
            status = 130
            break
    content = json.dumps(report if options.what else reports)
    if options.json:
        print(content)
    if options.out:
        options.out.write_text(content + "\n", encoding="utf-8")
    return status

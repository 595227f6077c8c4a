"""python -m course: the course's commands."""

import argparse
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from course import ASSETS, output_folder
from course.corpora import CORPORA, CorpusError
from course.messages import language, say

MAX_LINE_TOKENS = 500
OUT = "where to write; else build/ of the course, or your own data folder if that is read-only"
LONG_LINE = 1000  # characters: more than any sentence has


def parser(command_name: str = "") -> argparse.ArgumentParser:
    """Return the command line, whose --help teaches by examples.

    The options of `bench` are there if it is the command: they take a while to load.
    """
    argparse._ = say  # for argparse's own words: its gettext knows no catalogue of ours
    top = argparse.ArgumentParser(
        prog="python -m course",
        description="Attention Is All You Need, built in notebooks that run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""A first tour:
  python -m course doctor                          is everything here?
  python -m course look "Ein Hund rennt."          your sentence: translation, every head
  python -m course walkthrough                     the whole paper, run from top to bottom
  python -m course train --corpus captions --preset tiny --out runs/first --minutes 2
  echo "Ein Hund rennt." | python -m course translate --checkpoint runs/first
  python -m course evaluate --checkpoint runs/first --corpus captions --split test

`python -m course COMMAND --help` explains each one.""",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + ".",
            epilog="Example:\n  " + example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    command("doctor", "check Python, packages, device and data", "python -m course doctor")

    data = command("data", "fetch or generate a corpus, verify it, print its statistics",
                   "python -m course data --corpus multi30k")
    data.add_argument("--corpus", choices=CORPORA, default="multi30k")
    data.add_argument("--dir", type=Path, help="where Multi30k's .gz files lie (or: COURSE_DATA)")

    train = command("train", "train a Transformer to translate",
                    "python -m course train --corpus multi30k --preset cpu --out runs/cpu "
                    "--minutes 40\n\nCtrl-C stops after the current step; the same command with "
                    "--resume goes on.\nA budget in epochs is exact: one seed and one --precision, "
                    "one result, broken off\nor not. A budget in minutes follows the clock, so "
                    "its result varies.\n"
                    "Your own languages (lesson 06), line n of one file the translation of line n "
                    "of the other:\n"
                    "  python -m course train --src hindi.txt --tgt english.txt --preset small "
                    "--out runs/hi --minutes 20\n"
                    "Several devices (lesson 07c; Linux, macOS, WSL):\n"
                    "  torchrun --nproc-per-node 2 -m course train ...")
    source = train.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", choices=CORPORA)
    source.add_argument("--pairs", type=Path, metavar="DIR", help="your own: a directory with "
                        "train.src, train.tgt and, if you like, val.src, val.tgt")
    source.add_argument("--src", type=Path, metavar="FILE", help="your own, with --tgt FILE: a "
                        "sentence a line, and its translation; one in twenty is held out for val")
    train.add_argument("--tgt", type=Path, metavar="FILE", help="the translations of --src")
    train.add_argument("--preset", required=True,
                       help="tiny, small, cpu, rnn-attention, base: see lesson 07")
    train.add_argument("--out", type=Path, required=True, help="directory for log and checkpoint")
    budget = train.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float)
    budget.add_argument("--epochs", type=positive)
    train.add_argument("--set", type=setting, action="append", default=[], metavar="NAME=VALUE",
                       dest="changes", help="another value than the preset's: --set dropout=0.3")
    train.add_argument("--seed", type=seed, default=0, help="a whole number of 0 or more: 0")
    train.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
                       help="of the products; auto measures which is faster")
    train.add_argument("--compile", action="store_true",
                       help="let torch.compile fuse the model (GPU, or a C++ compiler; see 07c)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.add_argument("--record", type=Path, metavar="FILE",
                       help="at the end, translate val and add the run to FILE, a JSON line each")
    train.add_argument("--dir", type=Path, help="where Multi30k's .gz files lie (or: COURSE_DATA)")

    translate = command("translate", "translate text, a line in, a line out",
                        'echo "Ein Hund rennt." | python -m course translate --checkpoint runs/cpu')
    look = command("look", "translate one sentence and write a page that shows every head on it",
                   'python -m course look "Ein Hund rennt durch den Schnee."')
    look.add_argument("sentence", help="German, in quotes")
    look.add_argument("--checkpoint", default="multi30k-de-en",
                      help="a directory, or one that is shipped (multi30k-de-en)")
    look.add_argument("--out", type=Path, help="the page to write (build/look.html)")
    evaluate = command("evaluate", "measure BLEU and chrF of a checkpoint on a split",
                       "python -m course evaluate --checkpoint runs/cpu --corpus multi30k "
                       "--split test_2016_flickr --beam 4")
    for sub in (translate, evaluate):
        sub.add_argument("--checkpoint", required=True, help="a directory, or one that is shipped")
        sub.add_argument("--beam", type=positive, default=4, help="4, as in the paper; 1 is greedy")
        sub.add_argument("--length-penalty", type=penalty, default=0.6, metavar="A",
                         help="0.6, as in the paper; from 0 to 10")
    judged = evaluate.add_mutually_exclusive_group(required=True)
    judged.add_argument("--corpus", choices=CORPORA, help="with --split")
    judged.add_argument("--src", type=Path, metavar="FILE", help="your own sentences, with --tgt")
    evaluate.add_argument("--split", help="val, test, test_2016_flickr ...")
    evaluate.add_argument("--tgt", type=Path, metavar="FILE", help="the translations of --src")
    evaluate.add_argument("--dir", type=Path, help="where Multi30k's .gz files lie")
    evaluate.add_argument("--against", metavar="CHECKPOINT", help="compare with this one, too, on "
                          "the same sentences: is the difference more than luck? (lesson 09)")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    export = command("export", "write a checkpoint in the format of CTranslate2, to translate fast",
                     "python -m course export --format ctranslate2 --checkpoint multi30k-de-en "
                     "--out build/ctranslate2")
    export.add_argument("--format", choices=("ctranslate2",), default="ctranslate2")
    export.add_argument("--checkpoint", required=True, help="a directory, or one that is shipped")
    export.add_argument("--out", type=Path, required=True, help="a directory that is not there yet")

    page = command("page", "write a translator that runs in a browser, as one HTML file",
                   "python -m course page --checkpoint runs/mine --out build/mine.html")
    page.add_argument("--checkpoint", default="multi30k-de-en",
                      help="a directory, or one that is shipped (multi30k-de-en)")
    page.add_argument("--out", type=Path, default=Path("build/translator.html"))
    page.add_argument("--lang", choices=("en", "zh"), default="zh" if language() else "en",
                      help="what it speaks until its reader chooses (COURSE_LANG, if not given)")
    page.add_argument("--lessons", metavar="LINK", default="book/{}.html",
                      help="where its links to lessons lead, seen from the file: book/{}.html")

    what = "measure how fast training, decoding and attention are here"
    if command_name != "bench":
        command("bench", what, "python -m course bench train")
    else:
        from course.bench.command import HELP, add_arguments

        add_arguments(command("bench", what, HELP))

    walk = command("walkthrough", "run the walkthrough of the paper, as notebook and page",
                   "python -m course walkthrough")
    walk.add_argument("--out", type=Path, metavar="DIR", help=OUT)

    lab = command("lab", "open JupyterLab on the course's pages", "python -m course lab")
    lab.add_argument("page", nargs="?", type=Path, metavar="PAGE", help="00_start_here, if none")

    homework = command("homework", "list the exercises, check a file, write the report",
                       "python -m course homework list\n"
                       "  python -m course homework check my/attention.ipynb\n"
                       "  python -m course homework report --name \"Li Wei\"")
    tasks = homework.add_subparsers(dest="task", required=True, metavar="TASK")
    tasks.add_parser("list", help="every exercise, and what you have passed")
    check = tasks.add_parser("check", help="check every exercise that a notebook or .py defines")
    check.add_argument("file", type=Path, metavar="FILE")
    sync = tasks.add_parser("sync", help="make the .ipynb and the .py of a page one, after work "
                                         "in VS Code or in an editor")
    sync.add_argument("file", type=Path, nargs="?", metavar="FILE",
                      help="every released page, if none")
    report = tasks.add_parser("report", help="write report.html and .png: your own page")
    report.add_argument("--name", default="", help="whose report it is")
    report.add_argument("--out", type=Path, metavar="DIR", help=OUT)

    grade = command("grade", "mark a class's homework, each submission in a closed room",
                    "python -m course grade submitted/ --assignment attention --out build/marks")
    grade.add_argument("folder", type=Path, metavar="SUBMITTED",
                       help="holds STUDENT/ASSIGNMENT.ipynb or STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb")
    grade.add_argument("--assignment", metavar="NAME", help="only this one")
    grade.add_argument("--out", type=Path, default=Path("build/marks"), help="where marks.csv, "
                       "gradebook.csv and feedback/ go; what is there already is not marked again")
    grade.add_argument("--jobs", type=positive, default=os.cpu_count() or 1)
    grade.add_argument("--seconds", type=positive, default=240, help="what a submission may last")
    grade.add_argument("--unprotected", action="store_true",
                       help="run what students wrote without bubblewrap: with all your rights")
    return top


def positive(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(say(f"{text!r} is not a whole number of 1 or more"))
    return int(text)


def penalty(text: str) -> float:
    """Read a length penalty, as `course.decoding.check_search` wants it."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 10:
        raise argparse.ArgumentTypeError(
            say(f"{text!r} is no length penalty from 0 to 10 (paper: 0.6)"))
    return number


def seed(text: str) -> int:
    """Read a seed."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(say(f"{text!r} is not a whole number from 0 to 2**32 - 1"))
    return int(text)


def setting(text: str) -> tuple[str, object]:
    """Read NAME=VALUE; the value as JSON, or as the text that it is."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(say(f"{text!r} is not NAME=VALUE"))
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def data(options: argparse.Namespace) -> int:
    """Print the size of every split that can be had."""
    from course.corpora import multi30k, pairs, statistics

    splits = multi30k.SPLITS if options.corpus == "multi30k" else ("train", "val", "test")
    print(f"{'split':18}{'pairs':>8}{'tokens de':>11}{'tokens en':>11}{'mean':>6}{'longest':>9}")
    missing = 0
    for split in splits:
        try:
            counts = statistics(pairs(options.corpus, split, options.dir))
        except CorpusError as error:
            missing += 1
            print(f"{split:18}{error}", file=sys.stderr)
            if split == "train":
                return 1
            continue
        longest = max(counts.de.max_length, counts.en.max_length)
        print(f"{split:18}{counts.pairs:8,}{counts.de.tokens:11,}{counts.en.tokens:11,}"
              f"{counts.de.mean_length:6.1f}{longest:9}")
    return 1 if missing else 0


def train(options: argparse.Namespace) -> int:
    """Train or go on training; 130 if it was stopped."""
    from course.speed import device_of_rank, joined

    device = device_of_rank()
    with joined(device) as ranks:
        return train_on(device, ranks, options)


def train_on(device, ranks, options: argparse.Namespace) -> int:
    """Train on one device, alone or as one of several ranks."""
    from course.runs import Budget, CheckpointError, Trainer, load_checkpoint
    from course.speed import FastStep, Switches, recorded_switches, restarted
    from course.training import recipe_of

    changes = dict(options.changes)
    recipe = recipe_of(options.preset, changes)
    config = replace(recipe.training, seed=options.seed)
    there = (options.out / "state.safetensors").exists()
    resume = options.resume or (there and restarted(options.out))
    if resume and not there:
        raise ValueError(f"nothing to resume in {str(options.out)!r}: leave --resume out to begin")
    budget = Budget(options.epochs, options.minutes)
    train_pairs, val_pairs = chosen_pairs(options)

    def tell(text: str) -> None:
        with suppress(OSError):  # the terminal may be gone; the run goes on, or is saved
            if ranks.chief:
                print(text, file=sys.stderr)

    tell(f"{options.corpus or options.pairs or options.src}: {len(train_pairs):,} pairs to learn "
         f"from, {len(val_pairs):,} to check by")
    switches = recorded_switches(options.out) if resume else Switches.best(device)
    try:
        model, bpe = load_checkpoint(options.out) if resume else (None, None)
    except CheckpointError:  # the state has the weights; what is built anew is compared with it
        tell(f"The checkpoint in {options.out} is not whole: it is built anew from the state.")
        model = None
    if model is None:
        text = (sentence for pair in train_pairs for sentence in pair)
        model, bpe = recipe.fresh(text, options.seed)
    check_lengths(bpe, [*train_pairs, *val_pairs], config.max_tokens)
    if options.compile:
        switches = replace(switches, compile=True)
    if options.precision != "auto":
        switches = replace(switches, bfloat16=options.precision == "bfloat16")
    model.to(device)
    size = sum(parameter.numel() for parameter in model.parameters())
    products = "bfloat16" if switches.bfloat16 else "float32"
    tell(f"{size:,} parameters, {len(bpe):,} tokens in the vocabulary, "
         f"on {ranks.world} x {device}, products in {products}")
    stepper = partial(FastStep, switches=switches, ranks=ranks)
    trainer = Trainer(model, bpe, config, budget, options.out, stepper=stepper)
    if trainer.run(train_pairs, val_pairs, resume=resume):
        if ranks.chief:
            if options.record:
                record(trainer, options, changes, val_pairs)
            print(f"Done: {options.out}")
        return 0
    tell("Nothing is lost: the same command with --resume goes on.")
    return 130


def chosen_pairs(options: argparse.Namespace) -> tuple[list, list]:
    """Return the pairs to learn from and those to check by: of a corpus, or the reader's own."""
    from course.corpora import pairs, plain

    if bool(options.src) != bool(options.tgt):
        raise ValueError("--src FILE and --tgt FILE go together: give both")
    if options.src:
        return plain.own_pairs(options.src, options.tgt)
    if options.pairs:
        return plain.pairs_of(options.pairs)
    return tuple(pairs(options.corpus, part, options.dir) for part in ("train", "val"))


def check_lengths(bpe, sentence_pairs, max_tokens: int) -> None:
    """Raise ValueError that shows the first sentence which no batch can hold."""
    for sentence in (sentence for pair in sentence_pairs for sentence in pair):
        if len(sentence) >= max_tokens / 4:  # a character is four tokens at the most
            n = len(bpe.encode(sentence)) + 1
            if n > max_tokens:
                raise ValueError(
                    f"a sentence of {n:,} tokens is more than a batch of {max_tokens:,} holds "
                    f"({sentence[:60]!r}...): shorten it, or --set max_tokens={n}"
                )


def record(trainer, options: argparse.Namespace, changes: dict, val_pairs) -> None:
    """Measure a run that is done on the validation set, and keep it as a line of a file."""
    from course.ablations import append_trial, measured

    command = shlex.join(["python", "-m", "course", *options.arguments])
    trial = measured(trainer, options.preset, changes, val_pairs, command)
    append_trial(options.record, trial)
    print(f"val: loss {trial.val_loss:.3f}, greedy BLEU {trial.val_bleu:.2f}; in {options.record}")


def translate(options: argparse.Namespace) -> int:
    """Translate standard input; at a terminal each line at once, else in groups."""
    size = 200
    if sys.stdin.isatty():  # said before torch is loaded, which takes a while
        size = 1
        print("This waits for lines: write a sentence and press Enter; end with Ctrl-D (on Windows "
              "Ctrl-Z, Enter).", file=sys.stderr, flush=True)
    from course import cache
    from course.device import pick
    from course.runs import load_checkpoint

    model, bpe = load_checkpoint(options.checkpoint)
    model.to(pick())
    for group in lines_of(sys.stdin.buffer, size):
        sentences = [shortened(bpe, number, line) for number, line in group]
        for line in cache.translate(model, bpe, sentences, options.beam, options.length_penalty):
            print(line.replace("\n", " "), flush=True)
    return 0


def look(options: argparse.Namespace) -> int:
    """Write the page of a sentence and print what is on it."""
    from course import look as looking

    page = options.out or output_folder() / "look.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    found = looking.look(options.sentence, options.checkpoint)
    page.write_text(found.to_html(), encoding="utf-8")
    print(found, found.question(), page, sep="\n")
    return 0


def lines_of(stream, size: int) -> Iterator[list[tuple[int, str]]]:
    """Yield groups of numbered lines, each ended by LF or CR LF.

    Says on stderr if all of a long text was one line. Raises ValueError for a line that is not
    UTF-8.
    """
    from course.corpora.plain import converted, narrow_encoding, other_line_ends, wide_encoding

    group, number = [], 0
    for number, raw in enumerate(stream, 1):
        if number == 1 and (wide := wide_encoding(raw)):
            raise ValueError(f"the text is not UTF-8 but {wide.upper()}. {converted(wide, 'FILE')}")
        try:
            code = "utf-8-sig" if number == 1 else "utf-8"  # some editors begin a file with a mark
            group.append((number, raw.decode(code).rstrip("\r\n")))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"line {number} is not UTF-8 (byte {raw[error.start]:#04x}). "
                + converted(narrow_encoding(raw), "FILE")
            ) from error
        if len(group) == size:
            yield group
            group = []
    if number == 1 and group:
        text = group[0][1]
        ends = other_line_ends(text)
        if ends or len(text) > LONG_LINE:
            print(f"1 line was read, of {len(text):,} characters: only LF (or CR LF) ends a line"
                  + (f"; {ends}" if ends else ""), file=sys.stderr)
    if group:
        yield group


def shortened(bpe, number: int, line: str) -> str:
    """Return a line as it is, or, with a warning, the beginning that the model can take."""
    ids = bpe.encode(line)
    if len(ids) <= MAX_LINE_TOKENS:
        return line
    print(f"line {number} has {len(ids):,} tokens; only the first {MAX_LINE_TOKENS} are "
          "translated. The model knows single sentences: split the text into lines.",
          file=sys.stderr)
    return beginning(bpe.decode(ids), bpe.decode(ids[:MAX_LINE_TOKENS]))


def beginning(text: str, cut: str) -> str:
    """Return what a cut, perhaps within a character's bytes, holds of a text in whole characters.

    A character is what is seen as one: a letter stays with its marks, an emoji with its parts.
    """
    end = len(os.path.commonprefix([text, cut]))
    whole = end
    while whole and whole < len(text) and joined(text[whole - 1], text[whole]):
        whole -= 1
    return text[: whole or end]


def joined(before: str, after: str) -> bool:
    """Say whether two neighbouring characters of a text are seen as one."""
    skin, joiner = "\U0001f3fb" <= after <= "\U0001f3ff", "\u200d"
    return unicodedata.category(after)[0] == "M" or skin or joiner in (before, after)


def evaluate(options: argparse.Namespace) -> int:
    """Print the scores of a checkpoint, and how it compares with another."""
    from course import evaluation
    from course.device import pick
    from course.runs import load_checkpoint

    corpus, split, sentence_pairs = judged_pairs(options)
    names = [options.checkpoint, *([options.against] if options.against else [])]
    loaded = [load_checkpoint(name) for name in names]  # what is missing is said before the work
    scored, seconds = [], []
    for model, bpe in loaded:
        begun = time.monotonic()
        scored.append(evaluation.evaluate(model.to(pick()), bpe, sentence_pairs, options.beam,
                                        options.length_penalty, progress=sys.stderr.isatty()))
        seconds.append(round(time.monotonic() - begun, 1))
    scores, said = scored[0]
    result = {
        "checkpoint": str(options.checkpoint), "corpus": corpus, "split": split,
        "beam": options.beam, "length_penalty": options.length_penalty,
        **asdict(scores), "seconds": seconds[0],
    }
    if options.against:
        references = [english for _, english in sentence_pairs]
        result["against"] = compared(options.against, scored[1][1], said, references)
    title = f"{Path(options.checkpoint).name}, {split}, beam {options.beam}"
    keep_for_report(title, result)
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{split}: {scores.sentences:,} sentences in {result['seconds']} s, "
          f"beam {options.beam}, length penalty {options.length_penalty}")
    for name in ("bleu", "bleu_lowercased", "chrf", "chrf_lowercased"):
        print(f"{name:16}{getattr(scores, name):6.2f}  {scores.signatures[name]}")
    for metric in ("BLEU", "chrF2") if options.against else ():
        found = result["against"][metric]
        print(f"against {options.against}, {metric}: {found['baseline']:.2f} -> "
              f"{found['system']:.2f} ({found['difference']:+.2f}), p = {found['p_value']:.3f}: "
              f"{found['verdict']}")
    return 0


def judged_pairs(options: argparse.Namespace) -> tuple[str, str, list]:
    """Return the names of corpus and split, and the pairs to judge by, which may be one's own."""
    from course.corpora import pairs, plain

    if options.src and options.tgt:
        return "own", options.src.name, plain.read_parallel(options.src, options.tgt)
    if options.src or options.tgt:
        raise ValueError("--src FILE and --tgt FILE go together: give both")
    if not options.split:
        raise ValueError("--corpus needs --split: val, test, test_2016_flickr ...")
    return options.corpus, options.split, pairs(options.corpus, options.split, options.dir)


def compared(name: str, baseline: list[str], said: list[str], references: list[str]) -> dict:
    """Return how translations compare with those of a baseline, by approximate randomisation."""
    from course.evaluation import compare

    comparisons = compare(baseline, said, references)
    return {"checkpoint": name} | {
        metric: {**asdict(found), "verdict": found.verdict} for metric, found in comparisons.items()
    }


def export(options: argparse.Namespace) -> int:
    """Write a checkpoint for CTranslate2 and say how to translate with it."""
    from course.runs import load_checkpoint
    from course.to_ctranslate2 import export_ctranslate2

    export_ctranslate2(*load_checkpoint(options.checkpoint), options.out)
    print(f"Done: {options.out}. To translate with it, in Python:\n"
          "from course.to_ctranslate2 import translate_exported\n"
          f"print(translate_exported({str(options.out)!r}, ['Ein Hund rennt.'], beam=4))")
    return 0


def bench(options: argparse.Namespace) -> int:
    """Race the course's code against others and print how fast each one is."""
    from course.bench.command import run

    return run(options)


def keep_for_report(name: str, figures: dict) -> None:
    """Remember the figures of a run, for `python -m course homework report`."""
    from course.device import pick
    from course.progress import record_run

    wanted = ("bleu", "corpus", "split", "sentences", "against")
    kept = {key: figures[key] for key in wanted if key in figures}
    record_run(name, {**kept, "device": str(pick())})


def homework(options: argparse.Namespace) -> int:
    """List the exercises, check a file, or write the report."""
    from course import progress
    from course.authoring import ROOT

    if options.task == "list":
        from course.grading.marks import assignments
        from course.homework.exercises import LISTED
        from course.homework.illnesses import patients
        from course.homework.reasons import questions

        kept = progress.load()["exercises"]
        for exercise in LISTED.values():
            passed = say("passed") if kept.get(exercise.name, {}).get("passed") else ""
            print(f"{exercise.assignment:12} {exercise.name:30}",
                  say(f"difficulty {exercise.difficulty}  {exercise.minutes:3} min"),
                  f" {passed}".rstrip())
        marked = assignments()["reasons"]
        for name, topic in questions().items():
            point = say("1 point") if name in marked else ""
            passed = say("passed") if kept.get(name, {}).get("passed") else ""
            print(f"{'reasons':12} {name:30} {say(topic):54} {point:8} {passed}".rstrip())
        for name in patients():
            topic = "what is wrong with it? lesson 11"
            passed = say("passed") if kept.get(name, {}).get("passed") else ""
            print(f"{'clinic':12} {name:30} {say(topic):54} {passed}".rstrip())
        where = ROOT / "notebooks" / ("zh/homework" if language() else "homework/release")
        print(say(f"Notebooks: {where}"))
    elif options.task == "check":
        from course.homework.files import check_file

        results = check_file(options.file)
        print("\n".join(map(str, results)))
        passed = sum(result.passed for result in results)
        print(say(f"{passed} of {len(results)} passed"))
        return 0 if passed == len(results) else 1
    elif options.task == "sync":
        from course.homework import pairs

        for path in [options.file] if options.file else filter(pairs.differ, pairs.released()):
            print(pairs.sync(path))
    else:
        from course.homework import pairs
        from course.homework.report import write_report

        for path in filter(pairs.differ, pairs.released()):
            print(f"{path.name} and {path.stem}.py hold different code: python -m course homework "
                  "sync makes them one", file=sys.stderr)
        print(*write_report(output_folder(options.out), options.name), sep="\n")
    return 0


def page(options: argparse.Namespace) -> int:
    """Write the translator's page."""
    from course.page import write_page

    size = write_page(options.checkpoint, options.out, options.lessons, options.lang)
    print(f"{options.out}: {size / 1e6:.1f} MB; open it in a browser, it needs nothing else")
    return 0


def lab(options: argparse.Namespace) -> int:
    """Start JupyterLab with the course's settings; its exit status."""
    settings = [str(ASSETS / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, settings))
    pages = ASSETS.parent / "notebooks" / ("zh" if language() else "")
    first = options.page or pages / "00_start_here.ipynb"
    return subprocess.run([sys.executable, "-m", "jupyterlab", str(first)], check=False).returncode


def grade(options: argparse.Namespace) -> int:
    """Mark a class and print the table; 0 if every submission has its mark."""
    from course.grading import marks, sandbox

    program = sandbox.protection()
    if program is None and not options.unprotected:
        print(sandbox.UNPROTECTED, file=sys.stderr)
        return 1
    done = marks.mark_all(options.folder, options.out, options.assignment, options.jobs, program,
                          options.seconds)
    print(marks.summary(done, options.out))
    return 0 if all(mark.points is not None for mark in done) else 1


def walkthrough(options: argparse.Namespace) -> int:
    """Run the walkthrough and print where it is and how it ended."""
    from course.authoring import NOTEBOOKS
    from course.device import pick
    from course.pages import execute, to_html

    source, build = NOTEBOOKS / "walkthrough.py", output_folder(options.out)
    build = build.resolve()
    print(f"Running the walkthrough: about ten minutes on two quiet cores. It writes into {build}",
          flush=True)
    os.environ["COURSE_BUILD"] = str(build)  # for the notebook's own note
    notebook = execute(source, build / "walkthrough.ipynb", progress=True)
    to_html(notebook, build / "walkthrough.html", NOTEBOOKS, "Attention Is All You Need")
    result = json.loads((build / "walkthrough.json").read_text("utf-8"))
    keep_for_report("walkthrough", result)
    print(build / "walkthrough.ipynb", build / "walkthrough.html", sep="\n")
    print(f"device: {pick()}")
    print(f"{result['german']}\n-> {result['english']}")
    print(f"BLEU {result['bleu']:.1f} on {result['corpus']} {result['split']} "
          f"({result['sentences']} sentences, {result['signature']})")
    print(f"The model that comes with the course, BLEU {result['shipped_bleu']:.1f}:\n"
          f"-> {result['shipped']}")
    return 0


def in_language(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser, its help in the reader's language."""
    parser.description = say(parser.description)
    if parser.epilog:  # line by line, and in a line what stands behind its command
        words = r"(?m)(?<=  )(?!python|torchrun|echo)\S.*$|^\S.*$"
        parser.epilog = re.sub(words, lambda part: say(part[0]), parser.epilog)
    for action in parser._actions:
        action.help = say(action.help)
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                choice.help = say(choice.help)
            for below in action.choices.values():
                in_language(below)
    return parser


def told() -> tuple[type[Exception], ...]:
    """Return the errors that are told in a line; those of modules not loaded were not raised."""
    ours = (("course.rundir", "CheckpointError"), ("course.pages", "NotebookError"))
    loaded = (getattr(sys.modules[module], name) for module, name in ours if module in sys.modules)
    return (CorpusError, FloatingPointError, ModuleNotFoundError, OSError, ValueError, *loaded)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what is piped on Windows would be cp1252
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    if not ASSETS.is_dir():  # an installed wheel
        print("course: here is only the package, without its notebooks, models and data. Clone or "
              "unpack the course's folder, and there: python -m pip install -r requirements.txt",
              file=sys.stderr)
        return 1
    if arguments == ["doctor"]:  # before anything that needs a package
        from course.doctor import doctor

        return 0 if doctor() else 1
    options = in_language(parser(*arguments[:1])).parse_args(arguments)
    options.arguments = arguments
    commands = {"data": data, "train": train, "translate": translate, "look": look,
                "evaluate": evaluate, "export": export, "bench": bench, "page": page,
                "walkthrough": walkthrough, "homework": homework,
                "grade": grade, "lab": lab}
    try:
        return commands[options.command](options)
    except told() as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        print(f"{options.command}: {say(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{options.command}: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

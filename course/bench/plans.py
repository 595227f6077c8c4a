"""Who races against whom: the three races of `python -m course bench`, and their growth curves."""

import importlib.util
import subprocess
import symtable
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from course.bench.flops import flops_of
from course.bench.jobs import (
    AttentionJob,
    DecodeJob,
    TrainJob,
    decode_job,
    target_tokens,
    train_job,
    wider,
)
from course.bench.race import Contestant, Result, Turn

WIDTHS = (64, 128, 256, 512)
OUTPUT_LENGTHS = (8, 16, 32, 64, 128, 256)
BEAMS = (1, 2, 4, 8, 16)
ATTENTION_LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Plan:
    """One race: its contestants, the unit they are counted in, and what a reader must know.

    against: for each contestant the one it is compared with; over: what grows, at `cases`, where
    a curve is measured; finish: completes a result when the race is over and returns what to
    report of its outcome; left_out: who cannot take part, and why.
    """

    what: str
    unit: str
    corpus: str | None
    sizes: Mapping[str, object]
    contestants: Sequence[Contestant]
    against: Mapping[str, str] = field(default_factory=dict)
    over: str | None = None
    cases: Sequence[int | None] = (None,)
    notes: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    finish: Callable[[Result], Mapping[str, object]] = lambda result: result.outcome or {}


def matrix_products(device: str, threads: int, kinds: Sequence[str], quick: bool):
    """Return the contestants that measure how fast the device multiplies matrices."""
    size = 256 if quick else 2048
    seconds = 0.01 if quick else 0.5
    return [
        Contestant(f"{kind} product", "course.bench.flops:matrix_product",
                   dict(dtype=kind, size=size, device=device, threads=threads, seconds=seconds))
        for kind in kinds
    ]


def check_file(path: str, function: str) -> None:
    """Raise ValueError if a peer's file is not there or does not define the function."""
    if not Path(path).is_file():
        raise ValueError(f"--peer {path}: there is no such file")
    try:
        names = symtable.symtable(Path(path).read_text("utf-8"), path, "exec").get_identifiers()
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"--peer {path} is no Python file: {error}") from error
    if function not in names:
        raise ValueError(
            f"--peer {path} does not define {function}(job): `python -m course bench --help` "
            "says what it must return"
        )


def peers_of(
    chosen: Sequence[str] | None, known: Mapping[str, Sequence[Contestant]], what: str, job: object
) -> list[Contestant]:
    """Return the peers that were asked for: all that are known, or those named or given by path."""
    names: list[Contestant] = []
    for peer in chosen or ["all"]:
        if peer == "all":
            names += [contestant for group in known.values() for contestant in group]
        elif peer in known:
            names += known[peer]
        elif peer.endswith(".py") or "/" in peer or "\\" in peer:
            check_file(peer, what)
            names.append(Contestant(Path(peer).stem, f"{peer}:{what}", {"job": job}))
        else:
            raise ValueError(f"no peer {peer!r} for bench {what}: choose from "
                             f"{', '.join([*known, 'all'])}, or give the path of a .py file")
    return names


def distinct(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Return the contestants; raises ValueError if two bear one name."""
    names = [(contestant.name, contestant.at) for contestant in contestants]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two contestants are called {name[0]!r}: rename the peer's file")
    return list(contestants)


def alone(peers: Sequence[str] | None) -> None:
    """Raise ValueError for peers where a curve of our own is measured."""
    if peers:
        raise ValueError("--growth measures the course's own code alone: leave --peer out")


# --- training ---------------------------------------------------------------------------------


def half_precision(device: str) -> tuple[bool, dict[str, str]]:
    """Return whether the race goes over bfloat16, too, and who is left out for what reason.

    First a product is timed in both precisions: a processor without instructions for bfloat16
    emulates them, and would make all others wait.
    """
    if device.startswith("mps"):
        return False, {}
    import torch

    from course.speed import bfloat16_gain

    gain = bfloat16_gain(torch.device(device), repeats=3)
    if gain >= 1:
        return True, {}
    return False, {"ours-bfloat16": f"a product takes {1 / gain:.1f} times as long in bfloat16 as "
                                    "in float32 on this processor"}


def train_notes(job: TrainJob) -> list[str]:
    """Return what a reader of the training table must know."""
    return [
        f"A repeat: one step on each of {len(job.batches)} batches of lesson 06, evenly spread "
        f"over the lengths of {job.corpus}, at most {job.max_tokens:,} padded tokens each; "
        f"{job.tokens:,} target tokens. naive: {target_tokens(job.shuffled):,}.",
        "Tokens are real target tokens; padding is no work. Batches lie on the device beforehand.",
        "Shares: three times the forward pass's matrix products over real tokens, by the device's "
        "own rate for 2048 x 2048 matrices, measured in the same rounds.",
        "nn.Transformer has biases in attention, and its one dropout rate also drops attention "
        "weights and within the feed-forward layer; same-dropout drops what ours does. Loss: of "
        "the last step; each contestant learns the same few batches again and again.",
    ]


def train_sizes(job: TrainJob) -> dict[str, object]:
    """Return the sizes that the figures belong to."""
    return {
        "preset": job.preset, **job.model, "batches": len(job.batches),
        "sentences": sum(map(len, job.batches)), "max_tokens": job.max_tokens,
        "target_tokens": job.tokens, "naive_target_tokens": target_tokens(job.shuffled),
    }


def train_plan(
    device: str, threads: int, peers: Sequence[str] | None, preset: str | None, quick: bool
) -> Plan:
    """Return the race of training loops."""
    preset = preset or ("tiny" if quick else "base" if device.startswith("cuda") else "cpu")
    n_batches = 1 if quick else 24 if device.startswith("cuda") else 6
    job = train_job(device, threads, preset, n_batches, quick)
    where = "course.bench.train:"
    mine = [Contestant("ours", where + "ours", {"job": job})]
    half, left_out = half_precision(device)
    if half:
        mine.append(Contestant("ours-bfloat16", where + "ours", {"job": job, "bfloat16": True}))
    mine.append(Contestant("lesson-07", where + "lesson_07", {"job": job}))
    torch_peer = "course.bench.torch_peer:nn_transformer"
    known = {
        "nn.Transformer": [Contestant("nn.Transformer", torch_peer, {"job": job})],
        "same-dropout": [
            Contestant("nn.Transformer same-dropout", torch_peer,
                       {"job": job, "same_dropout": True})
        ],
        "naive": [Contestant("naive", where + "naive", {"job": job})],
    }
    contestants = [*mine, *peers_of(peers, known, "train", job)]
    kinds = ("float32", "bfloat16") if half else ("float32",)
    products = matrix_products(device, threads, kinds, quick)
    return Plan(
        "train", "target tokens", job.corpus, train_sizes(job),
        distinct([*contestants, *products]),
        against={contestant.name: "ours" for contestant in contestants[1:]},
        notes=train_notes(job), left_out=left_out,
    )


def train_growth(
    device: str, threads: int, peers: Sequence[str] | None, preset: str | None, quick: bool
) -> Plan:
    """Return the race of our own training at several widths."""
    alone(peers)
    preset = preset or ("tiny" if quick else "cpu")
    job = train_job(device, threads, preset, 2 if quick else 3, quick)
    contestants = [
        Contestant("ours", "course.bench.train:ours", {"job": wider(job, width)}, at=width)
        for width in (WIDTHS[:2] if quick else WIDTHS)
    ]
    return Plan(
        "train", "target tokens", job.corpus, train_sizes(job),
        [*contestants, *matrix_products(device, threads, ("float32",), quick)],
        over="width",
        notes=["d_ff grows with the width (d_model); layers, heads and vocabulary stay."],
    )


# --- decoding ---------------------------------------------------------------------------------


def exported(checkpoint: str, directory: Path) -> str | None:
    """Write the checkpoint for CTranslate2 into a directory; return why not, where it fails.

    Another process does it, so that this one need not hold two OpenMP runtimes.
    """
    if importlib.util.find_spec("ctranslate2") is None:
        return "CTranslate2 is not installed: python -m pip install ctranslate2"
    command = ["export", "--format", "ctranslate2", "--checkpoint", checkpoint, "--out", directory]
    done = subprocess.run(
        [sys.executable, "-m", "course", *map(str, command)],
        capture_output=True, encoding="utf-8", errors="replace",
    )
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit status {done.returncode}") if done.returncode else None


def decode_notes(job: DecodeJob) -> list[str]:
    """Return what a reader of the decoding table must know."""
    return [
        f"A repeat: {len(job.sentences):,} sentences of {job.corpus}, text to text; uncached: "
        f"{len(job.sample)} of them, every k-th by length, a batch of one, the whole prefix again "
        f"for every token. naive: the same, padded to {job.longest}, and always {job.longest - 1} "
        "tokens, as well-known walkthroughs do. CTranslate2: float32, the same weights, names of "
        "tokens to names of tokens; its beam ranks and ends by its own rules.",
        "Shares: the matrix products of one forward pass over the source and the translation. "
        "Alike: how many translations are those of the contestant that it is compared with.",
    ]


def decode_plan(
    device: str, threads: int, peers: Sequence[str] | None, checkpoint: str, quick: bool,
    scratch: Path,
) -> Plan:
    """Return the race of decoders; `scratch` is an empty directory for CTranslate2's files."""
    directory = scratch / "ctranslate2"
    job, model, bpe = decode_job(device, threads, checkpoint, directory, quick)
    where = "course.bench.decode:"
    greedy, beam = {"job": job, "beam": 1}, {"job": job, "beam": 4}
    known = {
        "uncached": [Contestant("uncached", where + "uncached", {"job": job})],
        "naive": [Contestant("naive", where + "naive", {"job": job})],
        "ctranslate2": [
            Contestant("ctranslate2 greedy", "course.bench.ctranslate2_peer:decode", greedy),
            Contestant("ctranslate2 beam 4", "course.bench.ctranslate2_peer:decode", beam),
        ],
    }
    chosen = peers_of(peers, known, "decode", job)
    left_out = {}
    if any(contestant in known["ctranslate2"] for contestant in chosen):
        left_out = {"ctranslate2": why} if (why := exported(job.checkpoint, directory)) else {}
        chosen = [c for c in chosen if not (left_out and c in known["ctranslate2"])]
    mine = [Contestant("ours greedy", where + "ours", greedy),
            Contestant("ours beam 4", where + "ours", beam)]
    against = {contestant.name: "ours greedy" for contestant in [*mine[1:], *chosen]}
    against["ctranslate2 beam 4"] = "ours beam 4"
    all_written: dict[str, dict[int, str]] = {}

    def finish(result: Result) -> dict[str, object]:
        """Count a decoder's tokens and FLOPs, and compare what it wrote with its rival's."""
        if result.outcome is None:
            return {}
        written = all_written[result.name] = by_number(result.outcome, bpe)
        rival = all_written.get(against.get(result.name), {})
        pairs = [(job.sources[i], [*bpe.encode(text), job.eos_id]) for i, text in written.items()]
        flops = flops_of(model.config, pairs)
        result.turns = [Turn(turn.seconds, turn.amount, flops) for turn in result.turns]
        alike = sum(rival.get(i) == text for i, text in written.items())
        return {
            "tokens_a_sentence": sum(len(tgt) for _, tgt in pairs) / len(pairs),
            "sentences": len(written),
            **({"alike": alike} if rival else {}),
        }

    return Plan(
        "decode", "sentences", job.corpus,
        {"checkpoint": Path(checkpoint).name, "sentences": len(job.sentences),
         "sample": len(job.sample), "alpha": job.alpha},
        distinct([*mine, *chosen, *matrix_products(device, threads, ("float32",), quick)]),
        against=against, notes=decode_notes(job), left_out=left_out, finish=finish,
    )


def by_number(outcome: object, bpe) -> dict[int, str]:
    """Return translations by the number of their sentence, as text; they may come as ids."""
    numbered = outcome if isinstance(outcome, dict) else dict(enumerate(outcome))
    return {i: t if isinstance(t, str) else bpe.decode(t) for i, t in numbered.items()}


def decode_growth(
    device: str, threads: int, peers: Sequence[str] | None, checkpoint: str, quick: bool
) -> Plan:
    """Return the race over output lengths, with the cache and without."""
    alone(peers)
    job, _, _ = decode_job(device, threads, checkpoint, Path(), quick)
    where = "course.bench.decode:growing"
    return Plan(
        "decode", "sentences", job.corpus, {"checkpoint": Path(checkpoint).name},
        [Contestant(name, where, {"job": job, "cached": name == "cached"})
         for name in ("cached", "uncached")],
        over="output length", cases=OUTPUT_LENGTHS[:3] if quick else OUTPUT_LENGTHS,
        notes=["Greedy search for one sentence, which cannot end before the length is reached."],
    )


def beam_growth(
    device: str, threads: int, peers: Sequence[str] | None, checkpoint: str, quick: bool
) -> Plan:
    """Return the race over beams: the job's sample, in batches, with the cache."""
    alone(peers)
    job, _, _ = decode_job(device, threads, checkpoint, Path(), quick)
    return Plan(
        "decode", "sentences", job.corpus,
        {"checkpoint": Path(checkpoint).name, "sample": len(job.sample), "alpha": job.alpha},
        [Contestant("cached", "course.bench.decode:widening", {"job": job})],
        over="beam", cases=BEAMS[:3] if quick else BEAMS,
        notes=[f"{len(job.sample)} sentences, every k-th by length, in batches of like lengths."],
    )


# --- attention --------------------------------------------------------------------------------


def attention_plan(
    device: str, threads: int, peers: Sequence[str] | None, quick: bool
) -> Plan:
    """Return the race of the two paths through attention over length."""
    lengths = ATTENTION_LENGTHS[:3] if quick else ATTENTION_LENGTHS
    job = AttentionJob(device, threads, lengths)
    mine = [Contestant(name, f"course.bench.attention:{name}", {"job": job})
            for name in ("manual", "fused")]
    added = peers_of(peers, {}, "attention", job) if peers else []
    return Plan(
        "attention", "passes", None,
        {"batch": job.batch, "heads": job.heads, "d_k": job.d_k},
        distinct([*mine, *added]), over="length", cases=lengths,
        notes=[
            f"A pass: causal attention, batch {job.batch}, {job.heads} heads, d_k {job.d_k}, "
            "float32, forward and back. Memory: the peak beyond inputs, weights and libraries.",
        ],
    )

"""What the contestants get to do: plain Python, the same for all, made before the race."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a contestant's process that needs no torch loads none
    from course.text import BPE
    from course.transformer import Transformer

Example = tuple[list[int], list[int]]  # source and target ids, both ending in eos_id


@dataclass(frozen=True)
class TrainJob:
    """Training steps: one on each of `batches`, which hold sentences of similar length.

    corpus: its name; model: sizes as `course.transformer.TransformerConfig` takes them, in its
    `dropout` too; max_tokens: of a batch, padded, the longer side; shuffled: batches of the naive
    kind, 128 sentences in random order; longest: what the naive loop pads to. Target tokens are
    counted with their eos_id, without padding. The rate of Adam is constant.
    """

    device: str
    threads: int
    corpus: str
    preset: str
    model: dict[str, object]
    batches: list[list[Example]]
    shuffled: list[list[Example]]
    max_tokens: int
    longest: int = 72
    rate: float = 3e-4
    label_smoothing: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    clip: float = 1.0
    pad_id: int = 0
    bos_id: int = 1
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Return the target tokens of `batches`."""
        return target_tokens(self.batches)


@dataclass(frozen=True)
class DecodeJob:
    """Translation: `sources` are the ids of `sentences`, each with its eos_id.

    checkpoint: directory of config.json, tokenizer.json, model.safetensors; exported: where the
    same lies for CTranslate2, with each token's name in `names`; sample: the sentences that stand
    for all where all would take too long; at most `room` tokens more than the source are written;
    longest: what the naive decoder pads to, and how far it writes.
    `work` returns a `Work(sentences, outcome=translations)`: texts or lists of ids, in order, or a
    dict from a sentence's number to its translation.
    """

    device: str
    threads: int
    corpus: str
    checkpoint: str
    exported: str
    sentences: list[str]
    sources: list[list[int]]
    sample: list[int]
    names: list[str]
    alpha: float = 0.6
    room: int = 50
    longest: int = 72
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2


@dataclass(frozen=True)
class AttentionJob:
    """Causal attention over one sentence of each of `lengths`, forward and back.

    query, key and value have (batch, heads, length, d_k). For short lengths `work(length)` makes
    `passes(length)` passes, so that there is something to time.
    """

    device: str
    threads: int
    lengths: tuple[int, ...]
    batch: int = 1
    heads: int = 4
    d_k: int = 64
    seed: int = 0

    def passes(self, length: int) -> int:
        """Return how many passes make one turn."""
        return max(1, (1024 // length) ** 2)


def target_tokens(batches: Sequence[Sequence[Example]]) -> int:
    """Return the target tokens of batches, padding left out."""
    return sum(len(tgt) for batch in batches for _, tgt in batch)


def evenly(items: Sequence, count: int) -> list:
    """Return `count` items of a sorted sequence, evenly spread: the middle of each part."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def corpus_pairs(split: str, quick: bool) -> tuple[str, list[tuple[str, str]]]:
    """Return the corpus and a split of it: Multi30k where it can be had, else captions."""
    from course.corpora import CorpusError, pairs

    if not quick:
        try:
            return "multi30k", pairs("multi30k", split)
        except CorpusError as error:
            print(f"bench: {error}\nbench: going on with captions", file=sys.stderr)
    found = pairs("captions", "test" if split.startswith("test") else split)
    return "captions", found[:300] if quick else found


def train_job(
    device: str, threads: int, preset: str, n_batches: int = 6, quick: bool = False
) -> TrainJob:
    """Return training steps of a preset's sizes on `n_batches` batches from the whole corpus.

    The batches are those of lesson 06, evenly spread over the lengths. Raises ValueError for a
    preset that is no Transformer.
    """
    from course.text import BPE, encode_pairs, token_batches
    from course.training import PRESETS

    transformers = [name for name, (sizes, _) in PRESETS.items() if "model" not in sizes]
    if preset not in transformers:
        raise ValueError(f"no Transformer preset {preset!r}: choose from {', '.join(transformers)}")
    sizes, config = dict(PRESETS[preset].sizes), PRESETS[preset].training
    corpus, pairs = corpus_pairs("train", quick)
    bpe = BPE.learn((sentence for pair in pairs for sentence in pair), sizes.pop("vocab"))
    examples = encode_pairs(bpe, pairs)
    lengths = [(len(src), len(tgt)) for src, tgt in examples]
    sorted_batches = token_batches(lengths, config.max_tokens)
    fit = [example for example in examples if max(map(len, example)) <= TrainJob.longest]
    random.Random(0).shuffle(fit)
    size = 16 if quick else 128
    return TrainJob(
        device, threads, corpus, preset,
        model=dict(src_vocab=len(bpe), tgt_vocab=len(bpe), **sizes),
        batches=[[examples[i] for i in batch] for batch in evenly(sorted_batches, n_batches)],
        shuffled=[fit[size * i : size * (i + 1)] for i in range(max(1, n_batches // 6))],
        max_tokens=config.max_tokens,
    )


def wider(job: TrainJob, width: int) -> TrainJob:
    """Return the same steps for a model of another width, its feed-forward layer in proportion."""
    d_ff = job.model["d_ff"] * width // job.model["d_model"]
    return replace(job, model={**job.model, "d_model": width, "d_ff": d_ff})


def decode_job(
    device: str, threads: int, checkpoint: str, exported: Path, quick: bool = False
) -> tuple[DecodeJob, Transformer, BPE]:
    """Return the translation of test_2016_flickr (else captions' test), model and tokeniser.

    Raises CheckpointError for a checkpoint that cannot be read, ValueError for one that is no
    Transformer.
    """
    from course.runs import SHIPPED, load_checkpoint
    from course.text import encode_sentence
    from course.to_ctranslate2 import vocabulary
    from course.transformer import Transformer

    model, bpe = load_checkpoint(checkpoint)
    if not isinstance(model, Transformer):
        raise ValueError(f"{checkpoint} is a {type(model).__name__}: bench decode needs a "
                         "Transformer, whose cache it measures")
    directory = Path(checkpoint) if Path(checkpoint).is_dir() else SHIPPED / checkpoint
    corpus, pairs = corpus_pairs("test_2016_flickr", quick)
    sentences = [src for src, _ in pairs][: 20 if quick else 1000]
    sources = [encode_sentence(bpe, sentence) for sentence in sentences]
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    job = DecodeJob(
        device, threads, corpus, str(directory), str(exported), sentences, sources,
        sample=evenly(order, 4 if quick else 20), names=vocabulary(bpe),
    )
    return job, model, bpe

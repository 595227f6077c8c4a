"""The course's own decoders as contestants: with the cache, and without it."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.bench.jobs import DecodeJob
from course.bench.race import Work
from course.cache import cached_log_probs, translate
from course.decoding import NextLogProbs, greedy_search, next_log_probs, until_eos
from course.runs import load_checkpoint
from course.text import BPE
from course.transformer import Transformer


def model_of(job: DecodeJob) -> tuple[Transformer, BPE]:
    """Return the job's model on its device, and its tokeniser."""
    torch.set_num_threads(job.threads)
    model, bpe = load_checkpoint(job.checkpoint)
    return model.to(job.device), bpe


def ours(job: DecodeJob, beam: int = 1) -> Callable[[], Work]:
    """Return `course.cache.translate`: batches of similar lengths, cached; text to text."""
    model, bpe = model_of(job)

    def work() -> Work:
        translations = translate(model, bpe, job.sentences, beam, job.alpha)
        return Work(len(translations), outcome=translations)

    return work


def uncached(job: DecodeJob) -> Callable[[], Work]:
    """Return greedy search with a batch of one, the whole prefix read again for every token.

    It translates the job's sample only: every k-th sentence by length, so that its sentences per
    second stand for the corpus.
    """
    model, _ = model_of(job)

    def alone(source: list[int]) -> list[int]:
        score = next_log_probs(model, torch.tensor([source], device=job.device))
        return greedy_search(score, 1, len(source) + job.room, job.device)[0]

    return on_sample(job, alone)


def naive(job: DecodeJob) -> Callable[[], Work]:
    """Return the decoder of well-known walkthroughs, on the job's sample; `until_eos` cuts it.

    One sentence, padded to `job.longest`; the whole prefix read again for every token; and always
    `job.longest` - 1 tokens, whether or not the translation ended long before.
    """
    model, _ = model_of(job)

    def alone(source: list[int]) -> list[int]:
        padded = source + [job.pad_id] * (job.longest - len(source))
        score = next_log_probs(model, torch.tensor([padded], device=job.device))
        prefix = torch.tensor([[job.bos_id]], device=job.device)
        row = torch.zeros(1, dtype=torch.long, device=job.device)
        while prefix.size(1) < job.longest:
            token = score(prefix, row).argmax(-1, keepdim=True)
            prefix = torch.cat([prefix, token], dim=1)
        return until_eos(prefix[0].tolist())

    return on_sample(job, alone)


def on_sample(job: DecodeJob, alone: Callable[[list[int]], list[int]]) -> Callable[[], Work]:
    """Return work that translates the job's sample, one sentence after the other."""

    def work() -> Work:
        translations = {i: alone(job.sources[i]) for i in job.sample}
        return Work(len(translations), outcome=translations)

    return work


def widening(job: DecodeJob) -> Callable[[int], Work]:
    """Return `course.cache.translate` of the job's sample, with the beam that is asked for."""
    model, bpe = model_of(job)
    sentences = [job.sentences[i] for i in job.sample]

    def work(beam: int) -> Work:
        return Work(len(translate(model, bpe, sentences, beam, job.alpha)))

    return work


def endless(score: NextLogProbs, eos_id: int) -> NextLogProbs:
    """Return the same scores, except that no sentence can end by itself."""

    def endless_score(prefixes: Tensor, rows: Tensor) -> Tensor:
        log_probs = score(prefixes, rows)
        log_probs[:, eos_id] = -torch.inf
        return log_probs

    return endless_score


def growing(job: DecodeJob, cached: bool) -> Callable[[int], Work]:
    """Return greedy search that writes exactly `length` tokens for one medium sentence."""
    model, _ = model_of(job)
    source = sorted(job.sources, key=len)[len(job.sources) // 2]
    src = torch.tensor([source], device=job.device)
    scorer = cached_log_probs if cached else next_log_probs

    def work(length: int) -> Work:
        written = greedy_search(endless(scorer(model, src), job.eos_id), 1, length, job.device)
        if len(written[0]) != length:
            raise RuntimeError(f"{len(written[0])} tokens written, not {length}")
        return Work(1)

    work(4)  # what the first call alone needs is not the decoder's
    return work

"""The course's own training loops as contestants: lesson 07c's, lesson 07's, and the naive one."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from course.bench.flops import flops_of
from course.bench.jobs import Example, TrainJob, target_tokens
from course.bench.race import Work
from course.masking import Batch, causal_mask, padding_mask, shift_right
from course.speed import FastStep, Switches
from course.training import TrainingConfig, make_optimizer, train_step
from course.transformer import Transformer, TransformerConfig


def model_of(job: TrainJob) -> Transformer:
    """Return a fresh model of the job's sizes on its device."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    return Transformer(TransformerConfig(**job.model)).to(job.device).train()


def config_of(job: TrainJob) -> TrainingConfig:
    """Return the job's way of training."""
    return TrainingConfig(label_smoothing=job.label_smoothing, betas=job.betas, eps=job.eps,
                          clip=job.clip)


def batches_of(job: TrainJob) -> list[Batch]:
    """Return the job's batches as tensors, padded to the longest of each, on its device."""
    return [
        Batch.from_sequences(*zip(*batch), job.pad_id, job.bos_id).to(job.device)
        for batch in job.batches
    ]


def steps(job: TrainJob, update: Callable[[Batch], float]) -> Callable[[], Work]:
    """Return work that makes one step on each batch and gives the last loss."""
    batches = batches_of(job)
    flops = 3 * sum(flops_of(TransformerConfig(**job.model), batch) for batch in job.batches)

    def work() -> Work:
        for batch in batches:
            loss = update(batch)
        return Work(job.tokens, flops, {"loss": loss})

    return work


def ours(job: TrainJob, bfloat16: bool = False, compiled: bool = False) -> Callable[[], Work]:
    """Return lesson 07c's steps, with what pays on the device; bfloat16, compiled as asked for."""
    model, config = model_of(job), config_of(job)
    on_cpu = job.device == "cpu"
    switches = Switches(cheap_dropout=on_cpu, keep_memory=on_cpu, bfloat16=bfloat16,
                        compile=compiled)
    step = FastStep(model, make_optimizer(model, config), config, switches)
    return steps(job, lambda batch: step.update([batch], job.rate)[0])


def lesson_07(job: TrainJob) -> Callable[[], Work]:
    """Return lesson 07's steps."""
    model, config = model_of(job), config_of(job)
    optimizer = make_optimizer(model, config)
    return steps(job, lambda batch: train_step(model, [batch], optimizer, job.rate, config)[0])


def padded(sequences: list[list[int]], length: int, pad_id: int) -> Tensor:
    """Return the sequences as rows of `length` columns, whatever they need."""
    return torch.tensor([ids + [pad_id] * (length - len(ids)) for ids in sequences])


def naive_batch(batch: list[Example], job: TrainJob) -> tuple[Tensor, Tensor]:
    """Return source and target of a batch, both padded to `job.longest` columns."""
    src, tgt = ([list(ids) for ids in side] for side in zip(*batch))
    return tuple(padded(side, job.longest, job.pad_id).to(job.device) for side in (src, tgt))


def naive(job: TrainJob) -> Callable[[], Work]:
    """Return the loop of many tutorials: random sentences, all padded to 72, everything projected.

    The same model in float32 with torch's dropout; Adam without fusing; no other handicap.
    """
    model = model_of(job)
    optimizer = torch.optim.Adam(model.parameters(), job.rate, job.betas, job.eps)
    batches = [naive_batch(batch, job) for batch in job.shuffled]
    flops = 3 * sum(flops_of(model.config, batch) for batch in job.shuffled)
    tokens = target_tokens(job.shuffled)

    def work() -> Work:
        for src, tgt in batches:
            tgt_in = shift_right(tgt, job.bos_id)
            causal = causal_mask(job.longest, tgt.device)
            tgt_mask = padding_mask(tgt_in, job.pad_id) & causal
            logits = model(src, tgt_in, padding_mask(src, job.pad_id), tgt_mask)
            loss = F.cross_entropy(
                logits.flatten(0, 1), tgt.flatten(), ignore_index=job.pad_id,
                label_smoothing=job.label_smoothing,
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), job.clip)
            optimizer.step()
            value = loss.item()
        return Work(tokens, flops, {"loss": value})

    return work

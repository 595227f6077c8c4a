# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Training
#
# > Training: the loss, the schedule, the loop, checkpoints and their average (paper, section 5).

# %%
#| export
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from course import ASSETS
from course.masking import Batch
from course.text import BPE, PAD, Example, Pair, encode_pairs, make_batches, token_batches
from course.transformer import Transformer, TransformerConfig


# %%
#| export
def label_smoothed_loss(logits: Tensor, target: Tensor, epsilon: float = 0.1) -> Tensor:
    """Return the cross-entropy, in nats, against a softened target, summed over the tokens.

    logits (N, V), target (N,) -> scalar. The target gives 1 - epsilon to the right word and
    spreads epsilon over all V words, the right one too, as `F.cross_entropy` does.
    Paper, section 5.4; Szegedy et al. 2015.
    """
    log_probs = logits.log_softmax(-1)  # (N, V)
    right = log_probs.gather(-1, target[:, None]).squeeze(-1)  # (N,)
    return -((1 - epsilon) * right + epsilon * log_probs.mean(-1)).sum()


# %%
#| export
def batch_loss(model: Transformer, batch: Batch, epsilon: float = 0.0) -> Tensor:
    """Return the loss summed over the real tokens of a batch; padding is never projected."""
    memory = model.encode(batch.src, batch.src_mask)
    states = model.decode(batch.tgt_in, memory, batch.src_mask, batch.tgt_mask)  # (B, T, D)
    real = batch.tgt_out != PAD  # (B, T)
    return label_smoothed_loss(model.project(states[real]), batch.tgt_out[real], epsilon)


# %%
#| export
def paper_learning_rate(step: int, d_model: int, warmup: int = 4000) -> float:
    """Return the paper's learning rate at a step, counted from 1.

    It rises linearly for `warmup` steps, then falls with the inverse square root of the step.
    Raises ValueError for step 0. Paper, equation 3.
    """
    if step < 1:
        raise ValueError(f"steps are counted from 1, not {step}: 0 ** -0.5 is infinite")
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


# %%
#| export
def linear_learning_rate(step: int, progress: float, peak: float, warmup: int) -> float:
    """Return a rate that rises to `peak` in `warmup` steps and falls to 0 as `progress` goes to 1."""
    return peak * min(step / warmup, 1.0 - progress)


# %%
#| export
@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained: the batch, the schedule, the regularisation, the average.

    max_tokens: padded tokens of a batch, the longer side; accumulate: batches a step;
    average: how many snapshots of the last `average_span` of the run are averaged at its end.
    """

    max_tokens: int = 1600
    accumulate: int = 1
    schedule: Literal["linear", "paper"] = "linear"
    peak_lr: float = 1.5e-3
    warmup: int = 300
    label_smoothing: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    clip: float = 1.0
    average: int = 8
    average_span: float = 0.1
    seed: int = 0


# %%
#| export
def learning_rate(config: TrainingConfig, d_model: int, step: int, progress: float) -> float:
    """Return the rate for a step (from 1) when a share `progress` of the budget is spent."""
    if config.schedule == "paper":
        return paper_learning_rate(step, d_model, config.warmup)
    return linear_learning_rate(step, progress, config.peak_lr, config.warmup)


# %%
#| export
def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Adam:
    """Return the paper's Adam; the rate is set before every step."""
    return torch.optim.Adam(
        model.parameters(), lr=0.0, betas=config.betas, eps=config.eps, fused=True
    )


# %%
#| export
def train_step(
    model: Transformer,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    rate: float,
    config: TrainingConfig,
) -> tuple[float, float]:
    """Make one optimizer step over one or more batches; return the loss per token, and the
    gradient's norm before clipping.

    The sum of the losses is divided by the tokens of the whole step, so that many small batches
    give the gradient of one large one.
    """
    n_tokens = sum(batch.n_tokens for batch in batches)
    total = 0.0
    for batch in batches:
        loss = batch_loss(model, batch, config.label_smoothing)
        (loss / n_tokens).backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return total / n_tokens, norm.item()


# %%
#| export
@torch.no_grad()
def evaluate_loss(model: Transformer, batches: Iterable[Batch]) -> float:
    """Return the mean loss per real token in nats, without dropout and without smoothing."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    total, n_tokens = 0.0, 0
    for batch in batches:
        total += batch_loss(model, batch.to(device)).item()
        n_tokens += batch.n_tokens
    model.train(training)
    return total / n_tokens


# %%
#| export
def average_checkpoints(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several models' weights, name by name. Paper, section 6.1."""
    total: dict[str, Tensor] = {}
    count = 0
    for state in states:
        count += 1
        for name, weight in state.items():
            total[name] = total.get(name, 0) + weight.double()
    if not count:
        raise ValueError("no checkpoint to average")
    return {name: (weight / count).float() for name, weight in total.items()}


# %%
#| export
class CheckpointError(RuntimeError):
    """A checkpoint that is not there or cannot be read; the message says what to do."""


SHIPPED = ASSETS / "checkpoints"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then move it there: a crash leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    write(beside)
    os.replace(beside, path)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(path, lambda p: p.write_text(text + "\n", encoding="utf-8"))


def save_checkpoint(
    directory: Path, model: Transformer, bpe: BPE, dtype: torch.dtype = torch.float32
) -> None:
    """Write what translation needs: config.json, tokenizer.json, model.safetensors."""
    write_json(directory / "config.json", asdict(model.config))
    write_atomically(directory / "tokenizer.json", bpe.save)
    state = weights_of(model)
    weights = {name: weight.to(dtype).contiguous() for name, weight in state.items()}
    write_atomically(directory / "model.safetensors", lambda p: save_file(weights, p))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter on the CPU, each shared one once."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set every parameter; raises KeyError or RuntimeError if one is missing or has another shape."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


# %%
#| export
def load_checkpoint(where: Path | str) -> tuple[Transformer, BPE]:
    """Return the model, in eval mode, and the tokeniser of a directory or a shipped checkpoint.

    Raises CheckpointError that names what is missing and what can be had.
    """
    directory = Path(where)
    if not directory.is_dir() and (SHIPPED / directory).is_dir():
        directory = SHIPPED / directory
    if not directory.is_dir():
        shipped = sorted(p.name for p in SHIPPED.glob("*") if p.is_dir())
        raise CheckpointError(
            f"no checkpoint {str(where)!r}: neither a directory nor one of those that come with "
            f"the course ({', '.join(shipped) or 'none'}). Train one: python -m course train --help"
        )
    try:
        config = TransformerConfig(**json.loads((directory / "config.json").read_text("utf-8")))
        bpe = BPE.load(directory / "tokenizer.json")
        model = Transformer(config)
        load_weights(model, load_file(directory / "model.safetensors"))
    except Exception as error:
        raise CheckpointError(
            f"{directory} is no whole checkpoint ({type(error).__name__}: {error}). It needs "
            "config.json, tokenizer.json and model.safetensors as `python -m course train` writes "
            "them; a run that was cut off becomes whole with --resume"
        ) from error
    return model.eval(), bpe


# %%
#| export
@contextmanager
def stop_request() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event, so that a step is never cut in two.

    A second Ctrl-C stops at once.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handler(signum, frame) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for s, old in before.items():
            signal.signal(s, old)


# %%
#| export
@dataclass(frozen=True)
class Position:
    """Where a run stands: steps made, the epoch and the batch within it, seconds and tokens spent."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    tokens: int = 0


def save_state(
    directory: Path, position: Position, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write all that the next step depends on: weights, Adam's moments, dropout's generator."""
    tensors = {"rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda_rng"] = torch.cuda.get_rng_state()
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach().cpu()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = value.cpu()
    metadata = {"position": json.dumps(asdict(position))}
    write_atomically(
        directory / "state.safetensors",
        lambda p: save_file({k: v.contiguous() for k, v in tensors.items()}, p, metadata),
    )


def load_state(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Position:
    """Read what `save_state` wrote back into the model and the optimizer; return the position."""
    path = directory / "state.safetensors"
    if not path.exists():
        raise CheckpointError(f"nothing to resume: {path} is not there. Start without --resume")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        position = Position(**json.loads(file.metadata()["position"]))
    load_weights(model, {k[7:]: v for k, v in tensors.items() if k.startswith("weight.")})
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            key: tensors[f"{key}.{name}"].to(parameter.device)
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
    torch.set_rng_state(tensors["rng"])
    if "cuda_rng" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda_rng"])
    return position


# %%
#| export
@dataclass(frozen=True)
class Budget:
    """How long to train: epochs or minutes, one of the two.

    Runs by epochs are exact: the same seed gives the same weights on a CPU, broken off or not.
    Runs by minutes follow the clock.
    """

    epochs: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError("give a budget of epochs or of minutes, one of the two")
        if (self.epochs or self.minutes or 0) <= 0:
            raise ValueError(f"a budget is more than 0, not {self.epochs or self.minutes}")

    def progress(self, position: Position, batches_an_epoch: int) -> float:
        """Return the share of the budget that is spent, 0 to 1."""
        if self.minutes is not None:
            return min(1.0, position.seconds / 60 / self.minutes)
        return min(1.0, (position.epoch + position.batch / batches_an_epoch) / self.epochs)


# %%
#| export
class Log:
    """A JSON-lines file; on resuming, the lines after the checkpoint's step are dropped."""

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        kept = []
        if last_step and path.exists():
            lines = path.read_text("utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= last_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in kept), "utf-8")

    def write(self, position: Position, **values: float) -> None:
        """Append one line."""
        line = {**asdict(position), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: _rounded(v) for k, v in line.items()}) + "\n")


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read_log(directory: Path) -> list[dict[str, float]]:
    """Return the lines of a run's log."""
    text = (directory / "log.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


# %%
#| export
def groups_of(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield `size` batches at a time; the last group may be smaller, and is not dropped."""
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group


def due_snapshot(config: TrainingConfig, before: float, after: float) -> int | None:
    """Return the number (from 1) of the snapshot that falls due between two points of progress."""
    due = None
    for number in range(1, config.average + 1):
        moment = 1 - config.average_span * (1 - number / config.average)
        if before < moment <= after:
            due = number
    return due


# %%
#| export
class Trainer:
    """One run: a model, its data, a budget, and a directory that always holds a way back.

    Writes log.jsonl (every ten steps and every epoch), state.safetensors (to resume from) and
    the checkpoint: the latest weights, at the end the average of the last snapshots.
    """

    def __init__(
        self, model: Transformer, bpe: BPE, config: TrainingConfig, budget: Budget, directory: Path
    ) -> None:
        self.model, self.bpe, self.config = model, bpe, config
        self.budget, self.directory = budget, directory
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, config)
        self.position = Position()

    def step(self, group: Sequence[Batch], n_batches: int) -> dict[str, float]:
        """Make one step on a group of batches and move the position; return what to log."""
        before = self.budget.progress(self.position, n_batches)
        step = self.position.step + 1
        rate = learning_rate(self.config, self.model.config.d_model, step, before)
        on_device = [batch.to(self.device) for batch in group]
        loss, norm = train_step(self.model, on_device, self.optimizer, rate, self.config)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}: lower the peak rate")
        self.position = replace(
            self.position,
            step=step,
            batch=self.position.batch + len(group),
            seconds=time.monotonic() - self.begun,
            tokens=self.position.tokens + sum(batch.n_tokens for batch in group),
        )
        after = self.budget.progress(self.position, n_batches)
        if number := due_snapshot(self.config, before, after):
            path = self.directory / "snapshots" / f"{number:03d}.safetensors"
            write_atomically(path, lambda p: save_file(weights_of(self.model), p))
        return {"loss": loss, "rate": rate, "norm": norm, "progress": after}

    def save(self) -> None:
        """Write the checkpoint and the state to resume from."""
        save_checkpoint(self.directory, self.model, self.bpe)
        save_state(self.directory, self.position, self.model, self.optimizer)
        self.saved = time.monotonic()

    def run(
        self,
        train_pairs: Sequence[Pair],
        val_pairs: Sequence[Pair],
        resume: bool = False,
        save_seconds: float = 60.0,
    ) -> bool:
        """Train until the budget is spent; return False if Ctrl-C or SIGTERM came before.

        Raises CheckpointError if there is nothing to resume, or something to lose.
        """
        if resume:
            self.position = load_state(self.directory, self.model, self.optimizer)
        elif (self.directory / "state.safetensors").exists():
            raise CheckpointError(
                f"{self.directory} holds a run already: go on with --resume, or choose another place"
            )
        else:
            torch.manual_seed(self.config.seed)
        examples = encode_pairs(self.bpe, train_pairs)
        val_batches = list(make_batches(encode_pairs(self.bpe, val_pairs), self.config.max_tokens))
        self.log = Log(self.directory / "log.jsonl", self.position.step)
        self.begun = time.monotonic() - self.position.seconds
        self.saved = time.monotonic()
        self.model.train()
        with stop_request() as stop, progress_bar() as bar:
            done = self.budget.progress(self.position, 1) >= 1
            while not done:
                done = self.epoch(examples, stop, bar, save_seconds)
                if stop.is_set():
                    self.save()
                    return False
                val_loss = evaluate_loss(self.model, val_batches)
                self.log.write(self.position, val_loss=val_loss)
                bar.write(f"step {self.position.step}: val loss {val_loss:.3f}")
        self.save()
        self.finish(val_batches)
        return True

    def epoch(
        self, examples: Sequence[Example], stop: threading.Event, bar: tqdm, save_seconds: float
    ) -> bool:
        """Go through the corpus once from the current position; return whether the budget is spent."""
        seed = self.config.seed * 1_000_003 + self.position.epoch
        order = [(len(src), len(tgt)) for src, tgt in examples]
        n_batches = len(token_batches(order, self.config.max_tokens, seed))
        batches = make_batches(examples, self.config.max_tokens, seed, self.position.batch)
        for group in groups_of(batches, self.config.accumulate):
            values = self.step(group, n_batches)
            update_bar(bar, self.position, values)
            if self.position.step % 10 == 0:
                self.log.write(self.position, **values)
            if stop.is_set() or self.budget.minutes and values["progress"] >= 1:
                return True
            if time.monotonic() - self.saved > save_seconds:
                self.save()
        self.position = replace(self.position, epoch=self.position.epoch + 1, batch=0)
        return self.budget.progress(self.position, n_batches) >= 1

    def finish(self, val_batches: Sequence[Batch]) -> None:
        """Make the average of the snapshots the checkpoint."""
        paths = sorted((self.directory / "snapshots").glob("*.safetensors"))
        if paths:
            load_weights(self.model, average_checkpoints(load_file(p) for p in paths))
            val_loss = evaluate_loss(self.model, val_batches)
            self.log.write(self.position, averaged=len(paths), val_loss=val_loss)
            save_checkpoint(self.directory, self.model, self.bpe)


# %%
#| export
def progress_bar() -> tqdm:
    """Return a bar that shows the share of the budget spent, the time left, loss and tokens/s."""
    layout = "{percentage:3.0f}% |{bar:20}| {elapsed} < {remaining} {postfix}"
    return tqdm(total=1.0, bar_format=layout, mininterval=0.5)


def update_bar(bar: tqdm, position: Position, values: Mapping[str, float]) -> None:
    """Move the bar to the progress of the latest step."""
    speed = position.tokens / max(position.seconds, 1e-9)
    text = f"step {position.step}, loss {values['loss']:.3f}, {speed:,.0f} tokens/s"
    bar.set_postfix_str(text, refresh=False)
    bar.update(values["progress"] - bar.n)


# %%
#| export
PRESETS: dict[str, tuple[dict, TrainingConfig]] = {
    # sizes of the model beyond the paper's base, and how it is trained
    "tiny": (
        dict(vocab=1000, d_model=64, n_heads=4, d_ff=128, n_layers=2, norm="pre"),
        TrainingConfig(max_tokens=1000, peak_lr=3e-3, warmup=100),
    ),
    "cpu": (
        dict(vocab=5000, d_model=256, n_heads=4, d_ff=512, n_layers=3, dropout=0.15, norm="pre"),
        TrainingConfig(),
    ),
    "base": (
        dict(vocab=10000),
        TrainingConfig(max_tokens=12500, accumulate=2, schedule="paper", warmup=4000),
    ),
}


def preset_model(preset: str, sentences: Iterable[str], seed: int) -> tuple[Transformer, BPE]:
    """Return a fresh model of a preset's sizes and a tokeniser learned from training sentences."""
    sizes = dict(PRESETS[preset][0])
    bpe = BPE.learn(sentences, sizes.pop("vocab"))
    torch.manual_seed(seed)
    return Transformer(TransformerConfig(len(bpe), len(bpe), **sizes)), bpe

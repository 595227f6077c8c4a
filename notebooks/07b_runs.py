# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07b · Runs
#
# > Runs: checkpoints, the state of a run, stopping, resuming exactly, the trainer.

# %% [markdown]
# Lesson 07's loop forgets everything when the notebook closes. This page is the machine room of training: it
# saves a run so that it can be stopped, killed and continued, and arrives at the same weights. It may be skipped
# at a first reading; who wants to train for hours comes back.
#
# **After this lesson you can**
#
# - save a model so that a full disk or a crash in the middle harms nothing;
# - list all that the next step of a training depends on, and say what each forgotten part costs;
# - stop a run politely, go on with it, and prove that nothing has changed.
#
# **You need first** lesson 07. **Time:** 55 minutes. **In the paper:** section 5.2 says how long they trained;
# how they survived it they do not say.
#
# The first code cell holds what the exported code needs; the cells with `#| export` become `course/runs.py`.

# %%
#| export
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from course import ASSETS, rundir
from course.masking import Batch
from course.rundir import CheckpointError, advised, write_atomically, write_json, write_tensors
from course.text import BPE, Example, Pair, encode_pairs, make_batches, token_batches
from course.training import MODELS, TrainingConfig, average_checkpoints, evaluate_loss, groups_of
from course.training import learning_rate, load_weights, make_optimizer, train_step, weights_of
from course.transformer import Transformer

# %% [markdown]
# The demonstrations need a few more things, and some captions.

# %%
import inspect
import signal
import tempfile

from IPython.display import Markdown

from course.corpora import pairs
from course.device import by_scale
from course.homework import compare
from course.text import BOS, EOS, PAD
from course.training import PRESETS, preset_model
from course.transformer import TransformerConfig
from course.viz import training as draw

torch.manual_seed(0)
WORK = Path(tempfile.mkdtemp())  # every run of this lesson writes here
some = pairs("captions", "train")[: by_scale(smoke=40, cpu=200, gpu=200)]
new = pairs("captions", "val")[:20]
small = TransformerConfig(40, 40, d_model=32, n_heads=4, d_ff=64, n_layers=2, dropout=0.0)


# %% [markdown]
# ## 1 · Keeping the result: checkpoints
#
# A **checkpoint** is the model on
# disk. Ours is a directory with three files:
#
# | file | holds |
# |---|---|
# | `config.json` | the sizes of the model |
# | `tokenizer.json` | the merges of the tokeniser, without which the weights mean nothing |
# | `model.safetensors` | the weights, each under its name |
#
# Why not `torch.save`? It writes Python's *pickle* format, and loading a pickle can run any code
# that somebody put into it. A safetensors file holds numbers and names, nothing else.
#
# What can go wrong while a file is written? The process is killed, or the disk is full, and half
# a file remains in place of the good one. The cure is old and simple: write to a second file
# beside the first, wait until it is on the disk (`fsync`), then rename it. The system renames in
# one indivisible moment. At each instant there is either the whole old file or the whole new one.
# Such an operation is called **atomic**.
#
# Such care with files, disks and signals is a craft of its own, and has a module of its own, `course/rundir.py`. This
# page shows of it what a run cannot do without. (`advised` turns an error of the system into a `CheckpointError`, which
# says what failed, why, and what to do; `move` renames.)

# %%
Markdown(f"```python\n{inspect.getsource(write_atomically)}```")


# %% [markdown]
# The claim: a write that stops in the middle harms nothing.

# %%
note = WORK / "note.txt"
write_atomically(note, lambda p: p.write_text("the old text"))


def killed_in_the_middle(path: Path) -> None:
    path.write_text("the new te")
    raise KeyboardInterrupt


with suppress(KeyboardInterrupt):
    write_atomically(note, killed_in_the_middle)
assert note.read_text() == "the old text"
print("after a write that was cut off:", note.read_text())


# %% [markdown]
# Now the model: three writes, one for each file of the table. `dtype` can halve the file: 16-bit numbers
# instead of 32.

# %%
#| export
def save_checkpoint(
    directory: Path, model: Transformer, bpe: BPE, dtype: torch.dtype = torch.float32
) -> None:
    """Write what translation needs: config.json, tokenizer.json, model.safetensors."""
    kind = next(name for name, (model_class, _) in MODELS.items() if type(model) is model_class)
    write_json(directory / "config.json", {"model": kind, **asdict(model.config)})
    write_atomically(directory / "tokenizer.json", bpe.save)
    weights = {name: weight.to(dtype) for name, weight in weights_of(model).items()}
    write_tensors(directory / "model.safetensors", weights)


# %% [markdown]
# Loading is the place where a reader meets errors: a wrong name, a copy that stopped half-way,
# files of two different models in one directory. One kind of error for all of them, and a message
# that says what is wrong and what to do.

# %%
#| export
SHIPPED = ASSETS / "checkpoints"


def load_checkpoint(where: Path | str) -> tuple[Transformer, BPE]:
    """Return the model, in eval mode, and the tokeniser of a directory or a shipped checkpoint.

    Raises CheckpointError that names what is missing and what can be had.
    """
    directory = rundir.found(Path(where), SHIPPED)
    with advised(f"{directory} is no whole checkpoint", "It needs config.json, tokenizer.json and "
                 "model.safetensors as `python -m course train` writes them. Copy it again; a run "
                 "with its state.safetensors becomes whole with --resume"):
        sizes = json.loads((directory / "config.json").read_text("utf-8"))
        model_class, config_class = MODELS[sizes.pop("model")]
        config = config_class(**sizes)
        bpe = BPE.load(directory / "tokenizer.json")
        if len(bpe) != config.src_vocab:
            raise ValueError(f"{len(bpe)} tokens, but a model for {config.src_vocab}")
        model = model_class(config)
        load_weights(model, load_file(directory / "model.safetensors"))
    return model.eval(), bpe


# %% [markdown]
# **Guess:** does a model that was saved and loaded give *nearly* the same logits, or *exactly*
# the same? And what if it is saved with 16-bit numbers, half the size?

# %%
mine = None  # your guess of the first: "nearly" or "exactly"

# %%
learner, bpe = preset_model("tiny", [sentence for pair in some for sentence in pair], seed=0)
learner.eval()
save_checkpoint(WORK / "full", learner, bpe)
save_checkpoint(WORK / "half", learner, bpe, torch.float16)
batch = next(make_batches(encode_pairs(bpe, new), 500))
inputs = batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask
with torch.no_grad():
    wanted = learner(*inputs)
    exact = load_checkpoint(WORK / "full")[0](*inputs)
    rounded = load_checkpoint(WORK / "half")[0](*inputs)
weight = [(WORK / kind / "model.safetensors").stat().st_size for kind in ("full", "half")]
assert torch.equal(exact, wanted)  # bit for bit
assert not torch.equal(rounded, wanted) and (rounded - wanted).abs().max() < 0.1
assert 0.5 <= weight[1] / weight[0] < 0.55
print(f"float32: the same bits; float16: {weight[1] / weight[0]:.2f} of the size, almost the same")
compare(mine, "exactly" if torch.equal(exact, wanted) else "nearly", "07b: logits after loading")

# %%
try:
    load_checkpoint("multi31k")
    raise AssertionError("a checkpoint that does not exist was loaded")
except CheckpointError as error:
    print(error)


# %% [markdown]
# ## 2 · Stopping and going on
#
# A long run will be interrupted. A laptop is closed, a shared machine sends SIGTERM, a colleague
# uses `kill -9`. To *go on* means more than loading the weights. **Guess before you read on:**
# what else does the next step depend on? Try to find five things.
#
# - **Adam's averages** $m$ and $v$ and its step count. Without them the run begins again with the
#   first steps of lesson 07, section 4: each of full length.
# - **The position**: step, epoch, batch. The rate depends on it, and so does which batch comes
#   next.
# - **The order of the data.** It is computed from the seed and the epoch, so the position is
#   enough.
# - **The generator of the random numbers** that dropout draws.
# - **Everything that you chose**: configuration, seed, corpus, tokeniser. The program cannot
#   restore your command line; but it can notice that it is not the same.
#
# A position is a small record. A state is one safetensors file with all tensors, and the position
# in its header, so that they can never be of different moments.

# %%
#| export
@dataclass(frozen=True)
class Position:
    """Where a run stands: steps, the epoch and the batch within it, seconds and tokens spent."""

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
    device = next(model.parameters()).device  # a GPU has a generator of its own
    if device.type == "cuda":
        tensors["device_rng"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        tensors["device_rng"] = torch.mps.get_rng_state()
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = value
    write_tensors(directory / "state.safetensors", tensors, {"position": asdict(position)})


# %% [markdown]
# And back again. The generator's state is set last, so that nothing can draw from it in between.

# %%
#| export
def load_state(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Read what `save_state` wrote back into the model and the optimizer; return the position.

    Raises CheckpointError if there is nothing to resume from.
    """
    path = directory / "state.safetensors"
    if not path.exists():
        raise CheckpointError(f"nothing to resume: {path} is not there. Start without --resume")
    device = next(model.parameters()).device
    with advised(f"cannot resume: {path} cannot be read, or is of another run", rundir.ANEW):
        tensors, position = load_file(path), Position(**rundir.header(path)["position"])
        load_weights(model, {k[7:]: v for k, v in tensors.items() if k.startswith("weight.")})
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"].to(device, copy=True)  # not a view of the file
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors  # there are none before the first step
            }
        if device.type == "cuda" and "device_rng" in tensors:
            torch.cuda.set_rng_state(tensors["device_rng"], device)
        elif device.type == "mps" and "device_rng" in tensors:
            torch.mps.set_rng_state(tensors["device_rng"])
        torch.set_rng_state(tensors["rng"])
    return position


# %% [markdown]
# Do we need all of it? The next cell makes three steps, saves the state, and makes two more. Then
# it goes back to the saved state and makes the two steps again: with everything, without Adam's
# averages, and without the generator. (Position, order and choices need a whole run. Section 4
# tests all five together.)

# %%
torch.manual_seed(1)
sentences = [[*torch.randint(4, 40, (n - 1,)).tolist(), EOS] for n in (3, 3, 4, 6, 8, 11, 12)]
parts = [Batch.from_sequences(s, s, PAD, BOS) for s in (sentences[:2], sentences[2:])]


def two_more_steps(forget: str) -> Tensor:
    """Go on from the saved state without one part of it; return the weights as one vector."""
    walker = Transformer(replace(small, dropout=0.2))
    optimizer = make_optimizer(walker, TrainingConfig())
    torch.manual_seed(3)
    for step in range(5):
        if step == 3:
            save_state(WORK / "state", Position(step), walker, optimizer)
            if forget:
                walker = Transformer(replace(small, dropout=0.2))
                optimizer = make_optimizer(walker, TrainingConfig())
                load_state(WORK / "state", walker, optimizer)
            if forget == "Adam's averages":
                optimizer = make_optimizer(walker, TrainingConfig())
            if forget == "the random generator":
                torch.manual_seed(4)
        train_step(walker, parts, optimizer, 1e-3, TrainingConfig())
    return nn.utils.parameters_to_vector(walker.parameters()).detach()


def same_start(forget: str) -> Tensor:
    torch.manual_seed(2)
    return two_more_steps(forget)


unbroken = same_start("")
assert torch.equal(same_start("nothing"), unbroken)
for forgotten in ("Adam's averages", "the random generator"):
    distance = (same_start(forgotten) - unbroken).abs().max().item()
    assert distance > 1e-4
    print(f"without {forgotten}: a weight is off by {distance:.4f}")
print("with the whole state: the same bits")


# %% [markdown]
# ### A polite stop
#
# Ctrl-C normally raises an exception wherever the program happens to be, perhaps when half of the
# weights have been changed. For the time of the training we replace this: the signal only sets a
# flag, and the loop looks at the flag between two steps. A second Ctrl-C, a second later or more,
# stops at once, for the impatient. (Two signals at the same moment are one wish: programs that
# start others pass on a Ctrl-C that the others have heard, too.) Against `kill -9` no program can
# defend itself. There the last state on disk helps.

# %%
Markdown(f"```python\n{inspect.getsource(rundir.stop_request)}```")

# %%
with rundir.stop_request() as stop:
    assert not stop.is_set()
    signal.raise_signal(signal.SIGINT)  # what Ctrl-C sends
    print("Ctrl-C has come, and the program goes on; the flag is up:", stop.is_set())
    assert stop.is_set()


# %% [markdown]
# ### How long to train
#
# A budget is a number of epochs or of minutes. A run by epochs is *exact*: everything follows
# from the seed. A run by minutes follows the clock, so it differs a little each time; it is the
# honest choice when you want to know "what can I get in ten minutes on my machine?".

# %%
#| export
@dataclass(frozen=True)
class Budget:
    """How long to train: epochs or minutes, one of the two.

    Runs by epochs are exact: the same seed gives the same weights on a CPU, broken off or not.
    Runs by minutes follow the clock. Raises ValueError for both, none, or nothing to spend.
    """

    epochs: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError("give a budget of epochs or of minutes, one of the two")
        amount = self.minutes if self.epochs is None else self.epochs
        if not 0 < amount < math.inf:
            raise ValueError(f"a budget is more than 0 and finite, not {amount}")

    @property
    def unit(self) -> str:
        """Return "epochs" or "minutes"."""
        return "minutes" if self.epochs is None else "epochs"

    def progress(self, position: Position, batches_an_epoch: int) -> float:
        """Return the share of the budget that is spent, 0 to 1."""
        if self.minutes is not None:
            return min(1.0, position.seconds / 60 / self.minutes)
        return min(1.0, (position.epoch + position.batch / batches_an_epoch) / self.epochs)


# %% [markdown]
# At the end of a run the weights are averaged over *snapshots*, taken at even distances in the
# last part of the budget (`average_span`, a tenth), the last one at the very end. How many are
# due at a given moment follows from the progress alone, so a resumed run takes the same ones.

# %%
#| export
def snapshots_due(config: TrainingConfig, progress: float) -> int:
    """Return how many snapshots a run has taken by then; the last is due at its very end."""
    moments = (
        1 - config.average_span * (1 - number / config.average)
        for number in range(1, config.average + 1)
    )
    return sum(moment <= progress for moment in moments)


def snapshot_paths(directory: Path) -> dict[int, Path]:
    """Return the snapshots of a run by their number."""
    paths = sorted((directory / "snapshots").glob("[0-9][0-9][0-9].safetensors"))
    return {int(path.stem): path for path in paths}


# %%
# NBVAL_CHECK_OUTPUT
ten = Budget(epochs=10)
for epoch, batch in ((0, 0), (0, 10), (9, 0), (9, 10), (10, 0)):
    progress = ten.progress(Position(epoch=epoch, batch=batch), batches_an_epoch=20)
    taken = snapshots_due(TrainingConfig(), progress)
    print(f"epoch {epoch}, batch {batch} of 20: {progress:.0%} spent, {taken} of 8 snapshots")
assert progress == 1 and taken == 8


# %% [markdown]
# ### The diary of a run
#
# Each tenth step, and each epoch, adds a line of JSON to `log.jsonl`. After a crash the log may
# be *ahead* of the state: its last lines tell of steps that will be made again. They are dropped
# on resuming. The very last line may be half a line; it is dropped too.

# %%
#| export
class Log:
    """A JSON-lines file; on resuming, the lines after the position are dropped."""

    def __init__(self, path: Path, position: Position) -> None:
        self.path = path
        here = (position.epoch, position.batch)
        lines = rundir.whole_lines(path) if position.step and path.exists() else []
        kept = [line for line in lines if (line["epoch"], line["batch"]) <= here]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(path, lambda p: p.write_text(text, "utf-8"))

    def write(self, position: Position, **values: float) -> None:
        """Append one line."""
        line = {**asdict(position), **values}
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in line.items()}
        advice = advised(f"cannot write {self.path}", "Make room, then go on with --resume", OSError)
        with advice, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")


def read_log(directory: Path) -> list[dict[str, float]]:
    """Return the lines of a run's log."""
    return rundir.whole_lines(directory / "log.jsonl")


# %%
log = Log(WORK / "log.jsonl", Position())
for step in range(1, 6):
    log.write(Position(step=step, batch=step), loss=1 / step)
with log.path.open("a") as file:
    file.write('{"step": 6, "ba')  # what kill -9 can leave behind
Log(WORK / "log.jsonl", Position(step=3, batch=3))  # resume from a state of step 3
assert [line["step"] for line in read_log(WORK)] == [1, 2, 3]
print([line["step"] for line in read_log(WORK)])


# %% [markdown]
# ### Is it the same run?
#
# Resuming with another seed, another batch size or another corpus would give a mixture that
# nobody can repeat. So a run writes into `training.json` what it was started with. Of corpus and
# tokeniser a *digest* is enough, a short fingerprint (SHA-256) that changes if anything in them
# changes. The length of the budget is not compared: a run may be extended.

# %%
#| export
def run_record(
    model: Transformer, bpe: BPE, config: TrainingConfig, budget: Budget, corpus: Sequence[Pair]
) -> dict[str, object]:
    """Return what must be the same to resume a run, as JSON holds it."""
    record = {
        **asdict(config),
        **{f"model.{name}": value for name, value in asdict(model.config).items()},
        "budget": budget.unit,
        "tokenizer": rundir.digest([bpe.alphabet, bpe.merges]),
        "corpus": rundir.digest(corpus),
    }
    return json.loads(json.dumps(record))


# %% [markdown]
# On resuming, the record is compared, and the message names the first difference (`check_record` in
# `course/rundir.py`). A fresh run writes its record; where a run or a checkpoint already lies, it refuses, because it would
# overwrite hours of work. A run that has made no step yet is no work: if the disk was full at its first save, the
# same command simply begins again.
#
# And two programs must not write into one directory at the same time. A **lock** is a mark that only one
# process can hold; the system takes it back when the process ends, however it ends, so a dead one locks
# nobody out. `locked` holds one; its owner stands beside it, for the message.
#
# ## 3 · The whole trainer
#
# Now the parts come together, in three classes. A **stepper** changes the weights. A **desk** writes down what
# must not be lost. The **trainer** holds both and knows the order of things. A part that is held can be changed
# for another: lesson 07c puts a faster stepper in this one's place, and on several devices one process alone has a desk.
#
# The stepper first. What is it asked for, beyond a step? Only what several processes must agree on: who writes the
# files, what time it is, whether to stop. One process has nobody to ask.

# %%
#| export
class PlainStep:
    """Lesson 07's step, by one process. What a Trainer asks it for, lesson 07c answers faster."""

    chief = True  # whether this process writes files and shows progress

    def __init__(
        self, model: Transformer, optimizer: torch.optim.Optimizer, config: TrainingConfig
    ) -> None:
        self.model, self.optimizer, self.config = model, optimizer, config
        self.device = next(model.parameters()).device

    def record(self) -> dict[str, bool]:
        """Return what else must be the same to resume a run."""
        return {}

    def meet(self, directory: Path) -> None:
        """Wait until every process knows that the run has begun there."""

    def feed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of an epoch, ready to be sent to the device."""
        return batches

    def update(self, batches: Sequence[Batch], rate: float, step: int) -> tuple[float, float]:
        """Make a step after `step` others; return the loss per token and the gradient's norm."""
        sent = [batch.to(self.device) for batch in batches]
        return train_step(self.model, sent, self.optimizer, rate, self.config)

    def clock(self, seconds: float) -> float:
        """Return the time that counts for every process."""
        return seconds

    def stops(self, wish: bool) -> bool:
        """Return whether any process wishes to stop."""
        return wish


# %% [markdown]
# The desk is opened when the run begins or goes on. Snapshots that lie ahead of the position are deleted: their
# steps will be made again, or they are left over from an earlier run, and must not get into the average.

# %%
#| export
class Desk:
    """Where a run is written down: its log, its state and checkpoint, its snapshots.

    directory: the run's; position: where it goes on; taken: how many snapshots it has by then.
    """

    def __init__(self, directory: Path, position: Position, taken: int, quiet: bool) -> None:
        self.directory, self.taken, self.quiet = directory, taken, quiet
        for number, path in snapshot_paths(directory).items():
            if number > taken:  # of steps that will be made again, or of an earlier end
                path.unlink()
        self.log = Log(directory / "log.jsonl", position)
        self.saved = time.monotonic()

    def save(self, run: "Trainer") -> None:
        """Write the state to resume from, then the checkpoint to translate with."""
        save_state(self.directory, run.position, run.model, run.optimizer)
        save_checkpoint(self.directory, run.model, run.bpe)
        self.saved = time.monotonic()

    def snapshot(self, run: "Trainer") -> None:
        """Write the weights for the average, if the moment for one has passed."""
        due = snapshots_due(run.config, run.progress())
        if due > self.taken:
            path = self.directory / "snapshots" / f"{due:03d}.safetensors"
            write_tensors(path, weights_of(run.model))
            self.taken = due

    def average(self, model: nn.Module) -> int:
        """Give the model the mean of the snapshots, if there are any; return their number."""

        def read(path: Path) -> dict[str, Tensor]:
            with advised(f"{path} is no snapshot of this run", "Delete it: with --resume the "
                         "others are averaged"):
                weights = load_file(path)
                load_weights(model, weights)  # does it fit?
                return weights

        if paths := snapshot_paths(self.directory).values():
            load_weights(model, average_checkpoints(map(read, paths)))
        return len(paths)

    def say(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        if not self.quiet:
            rundir.write_line(text)


# %% [markdown]
# And the trainer. Read `step` first: it is the heart. Compare its method `epoch` with lesson 07's `train`: the
# core is the same, a seed for each epoch, groups, a step. Around it stand the log, the bar, the
# flag, and a save each minute. `quiet=True` switches the bar and the lines off. Four decisions deserve a sentence:
#
# - A fresh run saves at once, before its first step, and at the end of each epoch before the
#   validation. So there is always a way back, even for a process that is killed in its first
#   minute.
# - If the minutes run out during validation, the run is over; the last snapshot is then taken
#   there.
# - The state is the whole truth. If only the checkpoint beside it is damaged, resuming writes it anew; if a snapshot is,
#   the message says which to delete. A test follows each piece of advice that a message on this page gives.
# - A run that is finished and is resumed again with the same budget does nothing but load its
#   result. With a larger budget it goes on: from its last weights, not from their average.

# %%
#| export
class Trainer:
    """A run from its first step to the average at its end; it can be stopped and resumed.

    Writes training.json (what it was started with), log.jsonl (every ten steps and every epoch),
    state.safetensors (to resume from), snapshots/ and the checkpoint: the latest weights, at the
    end the average of the snapshots. `quiet`: no progress bar, nothing printed. `stepper`: makes
    what changes the weights, from model, optimizer and config.
    """

    def __init__(
        self,
        model: Transformer,
        bpe: BPE,
        config: TrainingConfig,
        budget: Budget,
        directory: Path | str,
        quiet: bool = False,
        stepper: Callable[..., PlainStep] = PlainStep,
    ) -> None:
        self.model, self.bpe, self.config = model, bpe, config
        self.budget, self.directory, self.quiet = budget, Path(directory), quiet
        self.optimizer = make_optimizer(model, config)
        self.stepper = stepper(model, self.optimizer, config)
        self.desk: Desk | None = None  # opened when the run begins, by the chief alone
        self.position, self.n_batches = Position(), 0  # batches an epoch
        self.begun, self.stop = time.monotonic(), threading.Event()

    def run(
        self,
        train_pairs: Sequence[Pair],
        val_pairs: Sequence[Pair],
        resume: bool = False,
        save_seconds: float = 60.0,
    ) -> bool:
        """Train until the budget is spent; return False if Ctrl-C or SIGTERM came before.

        The model is left in eval mode. Raises CheckpointError if there is nothing to resume, or
        something to lose; FloatingPointError if the loss is not finite.
        """
        if not train_pairs or not val_pairs:
            raise ValueError("training needs pairs to train on and pairs to validate on")
        examples = encode_pairs(self.bpe, train_pairs)
        val_batches = list(make_batches(encode_pairs(self.bpe, val_pairs), self.config.max_tokens))
        lengths = [(len(src), len(tgt)) for src, tgt in examples]
        self.n_batches = len(token_batches(lengths, self.config.max_tokens))
        chief = self.stepper.chief
        with rundir.locked(self.directory) if chief else nullcontext():
            self.begin(train_pairs, resume)
            with (rundir.stop_request() as self.stop,
                  rundir.bar(self.progress(), self.quiet or not chief) as bar):
                missing = self.validation_is_due() and not self.logged("val_loss")
                if resume and missing:  # it was killed while it validated
                    self.validate(val_batches)
                while self.progress() < 1 and not self.stopped():
                    self.epoch(examples, bar, save_seconds)
                    if self.desk:
                        self.desk.save(self)
                    if self.validation_is_due():
                        self.validate(val_batches)
            if (done := self.progress() >= 1) and chief:
                self.finish(val_batches)
        self.model.eval()
        return done

    def begin(self, corpus: Sequence[Pair], resume: bool) -> None:
        """Start afresh, or load the state and forget what came after it."""
        if self.stepper.chief:
            record = run_record(self.model, self.bpe, self.config, self.budget, corpus)
            rundir.claim(self.directory, record | self.stepper.record(), resume)
            torch.manual_seed(self.config.seed)
            if resume:
                self.position = load_state(self.directory, self.model, self.optimizer)
            taken = snapshots_due(self.config, self.progress())
            self.desk = Desk(self.directory, self.position, taken, self.quiet)
            self.begun = time.monotonic() - self.position.seconds
            if not resume:
                self.desk.save(self)  # from now on there is a way back
        self.stepper.meet(self.directory)
        if not self.stepper.chief:
            self.position = load_state(self.directory, self.model, self.optimizer)

    def epoch(self, examples: Sequence[Example], bar: rundir.tqdm, save_seconds: float) -> None:
        """Go on from the current position to the end of the epoch, of the budget, or to a stop."""
        self.model.train()
        seed = self.config.seed * 1_000_003 + self.position.epoch
        left = make_batches(examples, self.config.max_tokens, seed, self.position.batch)
        for group in groups_of(self.stepper.feed(left), self.config.accumulate):
            values = self.step(group)
            rundir.update_bar(bar, self.position, values)
            if self.desk and self.position.step % 10 == 0:
                self.desk.log.write(self.position, **values)
            if self.stopped() or self.progress() >= 1:
                break
            if self.desk and time.monotonic() - self.desk.saved > save_seconds:
                self.desk.save(self)
        if self.position.batch >= self.n_batches:
            self.position = replace(self.position, epoch=self.position.epoch + 1, batch=0)

    def step(self, group: Sequence[Batch]) -> dict[str, float]:
        """Make one step on a group of batches and move the position; return what to log."""
        step = self.position.step + 1
        rate = learning_rate(self.config, self.model.config.d_model, step, self.progress())
        try:
            loss, norm = self.stepper.update(group, rate, self.position.step)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"step {step} at rate {rate:.2g}: {error}. Start again with a lower peak_lr or a "
                "longer warmup"
            ) from error
        self.position = replace(
            self.position,
            step=step,
            batch=self.position.batch + len(group),
            seconds=self.seconds(),
            tokens=self.position.tokens + sum(batch.n_tokens for batch in group),
        )
        if self.desk:
            self.desk.snapshot(self)
        return {"loss": loss, "rate": rate, "norm": norm, "progress": self.progress()}

    def progress(self) -> float:
        """Return the share of the budget that is spent, 0 to 1."""
        return self.budget.progress(self.position, self.n_batches)

    def seconds(self) -> float:
        """Return how long this run has trained, earlier parts counted."""
        return self.stepper.clock(time.monotonic() - self.begun)

    def stopped(self) -> bool:
        """Return whether somebody asked the run to stop."""
        return self.stepper.stops(self.stop.is_set())

    def validation_is_due(self) -> bool:
        """Return whether an epoch, or the budget, has just ended."""
        return self.position.step > 0 and (self.position.batch == 0 or self.progress() >= 1)

    def logged(self, name: str) -> bool:
        """Return whether the log holds such a value for the current step."""
        here = (line for line in read_log(self.directory) if line["step"] == self.position.step)
        return any(name in line for line in here)

    def validate(self, val_batches: Sequence[Batch]) -> None:
        """Log the loss on the validation set; the time that it takes counts."""
        val_loss = evaluate_loss(self.model, val_batches) if self.desk else 0.0
        self.position = replace(self.position, seconds=self.seconds())
        if self.desk:
            self.desk.log.write(self.position, val_loss=val_loss)
            self.desk.say(f"step {self.position.step}: val loss {val_loss:.3f}")

    def finish(self, val_batches: Sequence[Batch]) -> None:
        """Make the average of the snapshots the checkpoint, unless that has been done."""
        if self.logged("averaged"):
            with suppress(*rundir.UNREADABLE):  # a damaged model is averaged once more
                load_weights(self.model, load_file(self.directory / "model.safetensors"))
                step = self.position.step
                self.desk.say(f"finished already: a larger budget goes on from step {step}")
                return
        self.desk.snapshot(self)
        self.desk.save(self)
        if averaged := self.desk.average(self.model):
            save_checkpoint(self.directory, self.model, self.bpe)
        val_loss = evaluate_loss(self.model, val_batches)
        self.desk.log.write(self.position, averaged=averaged, val_loss=val_loss)
        self.desk.say(f"average of {averaged} snapshots: val loss {val_loss:.3f}")


# %% [markdown]
# ## 4 · The proof: break a run
#
# We train the preset `tiny` twice on the CPU, for two epochs, with dropout and two batches a
# step. The first run goes through. In the second we press Ctrl-C after a third of the steps:
# `signal.raise_signal` sends the same signal as the key. Then a new `Trainer`, with a new model
# from *another* seed, resumes.
#
# **Guess:** will the final weights of the two runs differ by 0.1, by 0.000001, or by nothing at
# all?

# %%
mine = None  # your guess: the largest difference of a weight

# %%
class Recorder(Trainer):
    """A Trainer that keeps every loss, and that can press Ctrl-C after a certain step."""

    def __init__(self, *args, press_after: int | None = None) -> None:
        super().__init__(*args, quiet=True)
        self.losses: dict[int, float] = {}
        self.press_after = press_after

    def step(self, group: Sequence[Batch]) -> dict[str, float]:
        values = super().step(group)
        self.losses[self.position.step] = values["loss"]
        if self.position.step == self.press_after:
            signal.raise_signal(signal.SIGINT)  # what Ctrl-C sends
        return values


recipe = replace(PRESETS["tiny"][1], max_tokens=100, accumulate=2, warmup=10)


def recorder(name: str, seed: int = 0, press_after: int | None = None) -> Recorder:
    """Return a trainer with a fresh model on the CPU."""
    model, bpe = preset_model("tiny", [sentence for pair in some for sentence in pair], seed)
    return Recorder(model, bpe, recipe, Budget(epochs=2), WORK / name, press_after=press_after)


# %%
unbroken = recorder("unbroken")
assert unbroken.run(some, new)
third = unbroken.position.step // 3

first_part = recorder("broken", press_after=third)
assert not first_part.run(some, new)  # False: stopped before the budget was spent
second_part = recorder("broken", seed=99)  # other weights, about to be replaced
assert second_part.run(some, new, resume=True)

left, right = weights_of(unbroken.model), weights_of(second_part.model)
assert all(torch.equal(left[name], right[name]) for name in left)  # bit for bit
assert unbroken.losses == first_part.losses | second_part.losses
assert 0 < third < unbroken.position.step and min(second_part.losses) == third + 1
above = unbroken.losses[1] - math.log(len(unbroken.bpe))
assert 0 < above < 2
print(f"the first loss is {above:.2f} nats above ln V")
draw.resumed(unbroken.losses, {"until Ctrl-C": first_part.losses, "resumed": second_part.losses})

# %%
apart = max((left[name] - right[name]).abs().max().item() for name in left)
compare(mine, apart, "07b: difference of the weights after a resume")

# %% [markdown]
# Nothing at all. All losses and all weights are equal to the last bit: the order of the data, the
# random numbers of dropout, Adam's averages, the learning rate, the snapshots and their average.
# (On the same machine with the same number of threads. On a GPU some sums are computed in an
# order that changes from run to run; there, expect equality to a few digits only.) The first loss
# lies a little above $\ln V$, as in lesson 07, section 6.
#
# What does the directory hold, and what does the trainer refuse?

# %%
# NBVAL_CHECK_OUTPUT
held = sorted(p.name for p in (WORK / "broken").iterdir())
refusals = []
for attempt in (
    lambda: recorder("broken").run(some, new),  # a new run where one lies
    lambda: recorder("elsewhere").run(some, new, resume=True),
    lambda: recorder("broken").run(some[1:], new, resume=True),  # another corpus
):
    try:
        attempt()
    except CheckpointError as error:
        refusals.append(str(error).replace(str(WORK), "WORK").replace("\\", "/"))
assert len(refusals) == 3 and "state.safetensors" in held
print(held)
print(*[refusal.split(":")[0] for refusal in refusals], sep="\n")

# %% [markdown]
# > **Try it.** Change `recipe` so that the resumed trainer has another `warmup`, and read the
# > message. Then press the stop button of the notebook (it sends SIGINT) while a longer run is
# > going on, and resume it.
#
# <details><summary>Answer</summary>
#
# "cannot resume ...: it was started with warmup=10, not 20. Give it the same again, or start anew in another directory". The
# record is compared name by name, and the first difference is told. The stop button does what `raise_signal` did
# above: the step is finished, the state saved, and `run` returns False.
#
# </details>

# %% [markdown]
# ## What you built
#
# | name | takes → gives |
# |---|---|
# | `write_atomically`, `stop_request` (`course/rundir.py`) | a whole file or none; Ctrl-C raises a flag |
# | `save_checkpoint`, `load_checkpoint`, `CheckpointError` | model and tokeniser ↔ a directory |
# | `Position`, `Budget` | frozen records: where a run stands, how long it lasts |
# | `save_state`, `load_state`, `Log`, `read_log` | resume, remember |
# | `Trainer(...).run(train_pairs, val_pairs)` | a run from start to end; True if it is finished; it holds a stepper (`PlainStep`) and a `Desk` |
#
# ## Summary · 小结
#
# - To resume exactly, keep the weights, Adam's averages, the position, the random generator, and
#   a record of all choices. Write atomically.
# - A signal sets a flag, and the loop looks at it between two steps: a step is never cut in two.
# - What a run was started with is written down and compared, so that no two runs are mixed.
#
# <div lang="zh">
#
# **小结**
#
# - 要精确地恢复训练，需要保存权重、Adam 的两个滑动平均、训练位置、随机数生成器的状态，
#   以及所有设置的记录；写文件要用原子操作。
# - 信号只设置一个标志，循环在两个更新步之间检查它，因此一步不会被切成两半。
# - 训练开始时的全部设置都被记录，恢复时逐项比较，两次训练不会混在一起。
#
# </div>
#
# ## Further reading
#
# - Pillai et al. 2014, *All File Systems Are Not Created Equal*, OSDI: what `rename` and `fsync` promise, and
#   what programs wrongly expect of them.
# - The safetensors format: https://huggingface.co/docs/safetensors
#
# > **Try it.** Give `Trainer` a `Budget(minutes=0.5)` and `quiet=False`, press the stop button,
# > and resume with `Budget(minutes=1)`. What happens to the learning rate at that moment, and
# > why?
#
# <details><summary>Answer</summary>
#
# It jumps up. The rate is $r_{\max}(1 - s)$ after the warm-up, and $s$ is the share of the budget that is spent. After
# 12 of 30 seconds $s$ is 0.4; with a minute to spend, the same 12 seconds are 0.2. So the rate goes from 0.6 to 0.8 of its
# peak. Whoever wants more time does better to say so at the start.
#
# </details>
#
# **Next:** [07c](07c_speed.ipynb) makes the steps fast; or go on to [lesson 08](08_decoding.ipynb).

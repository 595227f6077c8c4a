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
# # 07b · 训练的保存与恢复
#
# > 一次训练的全部：检查点、状态、停止、精确恢复，以及训练器。

# %% [markdown]
# 第 07 课的训练循环，笔记本一关就什么都忘了。这一页属于工程篇：把一次训练保存下来，可以停下，可以中途断掉，再接着训练，最后得到同样的权重。第一遍可以跳过；想训练几个小时的人，自然会回来。
#
# **学完这一课，你能**
#
# - 保存模型，即使磁盘满了、程序中途崩溃，也不会损坏文件；
# - 列出训练的下一步取决于哪些东西，并说出漏掉任何一样会有什么后果；
# - 让训练从容地停下，再接着训练，并证明什么也没有变。
#
# **先修：** 第 07 课。**时间：** 55 分钟。**论文：** 5.2 节说训练了多久；这么久是怎样撑过来的，论文没有说。
#
# 第一个代码单元格放的是导出代码要用的东西；带 `#| export` 的单元格合起来就是 `course/runs.py`。

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
# 演示还需要几样东西，以及一些图片说明。

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
# ## 1 · 保住结果：检查点
#
# **检查点**（checkpoint）就是存在磁盘上的模型。我们的检查点是一个文件夹，里面有三个文件：
#
# | 文件 | 内容 |
# |---|---|
# | `config.json` | 模型的各项尺寸 |
# | `tokenizer.json` | 词元化程序的合并规则，没有它，权重毫无意义 |
# | `model.safetensors` | 权重，每个都有名字 |
#
# 为什么不用 `torch.save`？它写的是 Python 的 **pickle** 格式，而加载 pickle 时，别人放在里面的任何代码都可能运行。safetensors 文件里只有数和名字，别的什么也没有。
#
# 写文件的时候会出什么事？进程被杀掉，或者磁盘满了，好好的文件就只剩半个。办法古老而简单：先写到旁边的另一个文件里，等它真正到了磁盘上（`fsync`），再改名。系统改名是一瞬间的事，不可分割。任何时刻，磁盘上叫这个名字的不是完整的旧文件，就是完整的新文件。这样的操作叫做**原子**操作（atomic）。
#
# 怎样稳妥地处理文件、磁盘和信号，本身就是一门学问，所以另有一个模块 `course/rundir.py`。这一页只展示其中训练离不开的部分。（`advised` 把系统的错误变成 `CheckpointError`，说清什么失败了、为什么、该怎么办；`move` 负责改名。）

# %%
Markdown(f"```python\n{inspect.getsource(write_atomically)}```")


# %% [markdown]
# 断言：写到一半停下，也不会损坏任何东西。

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
# 现在来保存模型：表中的三个文件，各写一次。`dtype` 可以让文件小一半：每个数用 16 位，不用 32 位。

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
# 加载的时候最容易碰到错误：名字写错了，文件只拷贝了一半，一个文件夹里混着两个模型的文件。这些情况都报同一种错误，报错信息会说清哪里不对、该怎么办。

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
# **先猜**：模型存下来再加载，给出的 logit 是**差不多**相同，还是**完全**相同？如果用 16 位数保存，大小减半，又会怎样？

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
# ## 2 · 停下，再接着训练
#
# 训练久了，总会中断。笔记本电脑合上了，共用的机器发来 SIGTERM，同事用了 `kill -9`。要**接着训练**，光加载权重不够。**先猜再往下读**：下一步还取决于什么？试着找出五样。
#
# - **Adam 的滑动平均** $m$ 和 $v$，以及它的步数。没有它们，训练又从第 07 课第 4 节的最初几步开始：每一步都是满步长。
# - **位置**：第几步，第几个轮次，第几个批次。学习率由它决定，下一个是哪个批次也由它决定。
# - **数据的次序。** 次序由随机种子和轮次算出，所以有位置就够了。
# - **随机数发生器**的状态：暂退法用的随机数从那里来。
# - **你选择的一切**：配置、随机种子、语料库、词元化程序。程序没法替你恢复当初的命令行，但能发现这次的选择与当初不同。
#
# 位置是一个小的数据结构。状态存成一个 safetensors 文件：所有的张量都在里面，位置写在文件头里，这样，张量和位置绝不会来自不同的时刻。

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
# 再读回来。随机数发生器的状态放到最后才恢复，免得中间有别的代码取走随机数。

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
# 样样都需要吗？下一个单元格走三步，保存状态，再走两步。然后回到保存的状态，把这两步重走一遍：一次样样都有，一次没有 Adam 的滑动平均，一次没有随机数发生器的状态。（位置、次序和选择，要用完整的训练才能检验；第 4 节把五样一起检验。）

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
# ### 从容地停下
#
# 通常，按下 Ctrl-C，程序不管走到哪里都会引发异常，也许权重正好改了一半。训练期间，我们换一种做法：信号只设一个标志，循环在两步之间看这个标志。等不及的话，隔一秒以上再按一次 Ctrl-C，程序就立刻停下。（同一时刻来两个信号，只算一次：有些程序会启动别的程序，还会把 Ctrl-C 转过去，而那些程序自己也已经收到了。）`kill -9` 是哪个程序也防不了的，这时就靠磁盘上最后存下的状态。

# %%
Markdown(f"```python\n{inspect.getsource(rundir.stop_request)}```")

# %%
with rundir.stop_request() as stop:
    assert not stop.is_set()
    signal.raise_signal(signal.SIGINT)  # what Ctrl-C sends
    print("Ctrl-C has come, and the program goes on; the flag is up:", stop.is_set())
    assert stop.is_set()


# %% [markdown]
# ### 训练多久
#
# 预算是若干轮次，或若干分钟。按轮次训练是**精确**的：一切都由随机种子决定。按分钟训练要看实际用了多少时间，所以每次都有一点不同；如果你想知道“在我的机器上，十分钟能得到什么”，按分钟训练才能如实回答。

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
# 训练结束时，要把若干**快照**的权重取平均。快照在预算的最后一段（`average_span`，十分之一）里等距离地取，最后一个正好在终点。到某一时刻该有几个快照，只看进度，所以恢复后的训练，取的快照也一样。

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
# ### 训练日志
#
# 每走十步，每过一个轮次，都在 `log.jsonl` 里添一行 JSON。崩溃之后，日志可能**走在**状态前面：最后几行记的是还要重走的步。恢复时就删掉这些行。最后一行可能只有半行，也删掉。

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
# ### 还是同一次训练吗？
#
# 换了随机种子、批次大小或语料库再恢复，得到的是谁也没法重复的大杂烩。所以训练一开始，就把自己的设置写进 `training.json`。语料库和词元化程序只要一个**摘要**（digest）就够了：一个短短的指纹（SHA-256），语料库或词元化程序只要有一点改动，指纹就会变。预算的长短不在比较之列：训练可以延长。

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
# 恢复时会比对这份记录，报错信息指出第一处不同（`course/rundir.py` 里的 `check_record`）。新的训练会写下自己的记录；如果文件夹里已经有一次训练或一个检查点，新的训练就会报错停下，免得覆盖几个小时的成果。一步也没走过的训练不算成果：如果第一次保存时磁盘满了，把同样的命令再运行一次，从头开始就是。
#
# 还有，两个程序不许同时往一个文件夹里写。**锁**（lock）是一种标记，一次只有一个进程能拿着；进程不管怎样结束，系统都会把锁收回，所以进程死了，也不会把别人锁在外面。`locked` 负责拿锁；哪个进程拿着锁，也写在旁边，供报错时用。
#
# ## 3 · 完整的训练器
#
# 现在把各部分合起来，分成三个类。**步进器**（stepper）改变权重。**记录员**（desk，原意是书桌）记下不能丢的东西。**训练器**（trainer）指挥前两样，知道先做什么、后做什么。步进器和记录员都可以换：第 07c 课换上一个更快的步进器；在几台设备上训练时，只有一个进程有记录员。
#
# 先看步进器。除了走一步，它还管什么？只管几个进程必须商量一致的事：谁写文件，现在几点，要不要停。只有一个进程时，没有谁可商量。

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
# 训练开始或恢复时，记录员就位。比当前位置更靠后的快照要删掉：那些步还会重走，或者快照本来就是以前的训练留下的，绝不能混进平均里。

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
# 再看训练器。先读 `step`，这是核心。然后把训练器的 `epoch` 方法与第 07 课的 `train` 比一比：主干一样，每个轮次一个随机种子，分组，走一步。外面加上日志、进度条、标志，以及每分钟一次的保存。`quiet=True` 关掉进度条和打印。有四个决定值得一提：
#
# - 新的训练在第一步之前就保存，每个轮次结束后、验证之前也保存。所以总有退路，哪怕进程在第一分钟里就被杀掉。
# - 如果时间在验证中途用完，训练就结束，最后一个快照就在那时取。
# - 一切以状态为准。如果只有旁边的检查点坏了，恢复时会重写；如果坏的是快照，报错会说该删哪一个。这一页的报错给出的每条建议，都有一个测试照着做一遍。
# - 已经完成的训练，用同样的预算恢复，只是加载结果，别的什么也不做。预算大一些，就接着训练：起点是最后的权重，不是平均后的权重。

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
# ## 4 · 证明：打断一次训练
#
# 我们在 CPU 上用预设 `tiny` 训练两次，两个轮次，开着暂退法，每步两个批次。第一次一口气跑完。第二次在走了三分之一的步数之后按 Ctrl-C：`signal.raise_signal` 发的信号与按键一样。然后换一个新的 `Trainer` 来恢复，新模型用的是**另一个**随机种子。
#
# **先猜**：两次训练最后的权重会相差 0.1，相差 0.000001，还是分毫不差？

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
# 分毫不差。所有的损失、所有的权重，到最后一位都相等：数据的次序、暂退法的随机数、Adam 的滑动平均、学习率、快照和它们的平均。（条件是同一台机器、同样的线程数。在 GPU 上，有些求和的次序每次都不同，那里只能指望前几位数字相等。）第一个损失比 $\ln V$ 高一点，和第 07 课第 6 节一样。
#
# 文件夹里有什么？哪些情况下训练器会报错、不肯运行？

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
# > **试一试。** 改动 `recipe`，让恢复的训练器用另一个 `warmup`，读一读报错。然后在一次较长的训练中途，按下笔记本的停止按钮（它发出 SIGINT），再恢复。
#
# <details><summary>答案</summary>
#
# “cannot resume ...: it was started with warmup=10, not 20. Give it the same again, or start anew in another directory”（无法恢复：它开始时 warmup=10，不是 20。请给同样的值，或者换一个文件夹从头开始）。记录逐项比对，报出第一处不同。停止按钮的作用与上面的 `raise_signal` 相同：这一步走完，状态保存下来，`run` 返回 False。
#
# </details>

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 → 输出 |
# |---|---|
# | `write_atomically`, `stop_request` (`course/rundir.py`) | 要么写成整个文件，要么什么也不写；Ctrl-C 只设一个标志 |
# | `save_checkpoint`, `load_checkpoint`, `CheckpointError` | 模型和词元化程序 ↔ 文件夹 |
# | `Position`, `Budget` | 冻结的数据类：训练到了哪里，还要多久 |
# | `save_state`, `load_state`, `Log`, `read_log` | 恢复训练，记下经过 |
# | `Trainer(...).run(train_pairs, val_pairs)` | 一次训练，从头到尾；完成则返回 True；里面有一个步进器（`PlainStep`）和一个 `Desk` |
#
# ## 小结
#
# - 要精确恢复，就要保存权重、Adam 的滑动平均、位置、随机数发生器的状态，以及所有选择的记录。写文件用原子操作。
# - 信号只设一个标志，循环到两步之间才去看，所以一步绝不会切成两半。
# - 训练开始时的设置要写下来，恢复时比对，这样不会把两次训练混在一起。
#
# ## 延伸阅读
#
# - Pillai et al. 2014, *All File Systems Are Not Created Equal*, OSDI：`rename` 和 `fsync` 保证了什么，程序又误以为它们保证了什么。
# - safetensors 格式：https://huggingface.co/docs/safetensors
#
# > **试一试。** 给 `Trainer` 一个 `Budget(minutes=0.5)` 和 `quiet=False`，按停止按钮，再用 `Budget(minutes=1)` 恢复。恢复的那一刻，学习率会怎样？为什么？
#
# <details><summary>答案</summary>
#
# 学习率会跳上去。预热之后，它等于 $r_{\max}(1 - s)$，$s$ 是用掉的预算所占的比例。30 秒的预算用掉 12 秒，$s$ 是 0.4；预算变成一分钟，同样的 12 秒就只占 0.2。所以学习率从峰值的 0.6 倍跳到 0.8 倍。想多要时间，最好一开始就说。
#
# </details>
#
# **下一课：** [第 07c 课](07c_speed.ipynb)让每一步变快；也可以直接去[第 08 课](08_decoding.ipynb)。

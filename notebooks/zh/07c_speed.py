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
# # 07c · 加速：从一台设备到许多台设备
#
# > 速度：更省的训练步、16 位乘法、编译好的内核、多台设备（论文 5.2 节）。
#
# 论文的 base 模型在八块 GPU 上训练了十二小时。你也许只有两个处理器核。这两种情况需要同样的本领：知道时间花在哪里，去掉不必要的计算，还要确保结果不变。第 07 课让训练**正确**。这一课让同样的训练步变**快**，先在一台设备上，再同时在几台上。
#
# **学完这一课，你能**
#
# - 说出一个训练步要做多少次乘法，用到了设备的几成速度；
# - 说出普通的循环慢在哪里（一共七个原因），并在自己的机器上测量其中要紧的几个；
# - 说明哪种 16 位格式用在哪里，为什么求和仍用 32 位；
# - 把一个训练步分给几个进程，而结果与一个进程单独做时相同；
# - 在几台设备上启动、中断、恢复一次训练，并估计网络要花多少时间。
#
# **先修：** 第 06 和 07 课。**时间：** 85 分钟。**论文：** 5.2 节（硬件和训练时间）；3.2.1 节说了点积为什么快：“matrix multiplication code”（矩阵乘法的代码）。
#
# 除非写明了设备，这一页的每个时间都是在运行这一页的机器上测的。正文只写每次测都成立的结论，读的时候请对照你自己的数字。

# %%
#| export
import ctypes
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from course.device import pick
from course.masking import Batch
from course.text import PAD
from course.rundir import read_record
from course.training import TrainingConfig, apply_gradient, batch_loss
from course.transformer import Transformer

# %%
import copy
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable

import psutil
import torch.nn.functional as F
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from course import ASSETS
from course.bench.flops import flops_of, matrix_product
from course.bench.race import Work, race_here
from course.corpora import pairs
from course.device import by_scale
from course.masking import causal_mask, padding_mask, shift_right
from course.text import BOS, Example, encode_pairs, make_batches
from course.runs import load_checkpoint, read_log
from course.training import evaluate_loss, make_optimizer, recipe_of, train_step
from course.transformer import TransformerConfig
from course.viz import bench as draw_race
from course.viz import speed as draw

torch.manual_seed(0)
os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler has nothing to say but its result
DEVICE = pick()
WORK = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1 · 最快能有多快？
#
# 加速之前，先算一算最快能有多快。Transformer 的计算几乎全是矩阵乘法。$(n, m)$ 的矩阵乘 $(m, p)$ 的矩阵，要 $2nmp$ 次浮点运算（FLOPs）：$nmp$ 次乘法，加法也这么多。一个有 $P$ 个数的权重矩阵，每处理一个词元（token）要 $2P$ 次。前向每做一次矩阵乘法，反向要做两次：一次算权重的梯度，一次算输入的梯度。所以，只要每个词元都用到这些权重，就有
#
# $$\text{FLOPs of a training step} \approx 6 \cdot P \cdot \text{tokens} .$$
#
# 设备每秒能做多少 FLOPs？把两个大矩阵相乘，计一下时就知道。训练步的实际速度占这个速度的比例，叫做**利用率**（utilisation）：从它可以看出还有多大的提速余地。
#
# 我们取一个小模型和真实的批次（用课程的图片说明），照第 07 课那样做普通的训练步。
#
# **先猜**：在这一步里，你的设备用到了几成速度：90%、60%、30%，还是 5%？

# %%
corpus = pairs("captions", "train")[: by_scale(smoke=800, cpu=3000, gpu=12000)]
recipe = recipe_of("small", {"dropout": 0.1})
fresh, bpe = recipe.fresh([s for pair in corpus for s in pair], seed=0)
config = recipe.training
examples = encode_pairs(bpe, corpus)
sorted_batches = list(make_batches(examples, by_scale(smoke=600, cpu=1600, gpu=8000), seed=0))


def some_of(batches: list, steps: int) -> list:
    """Return so many batches, evenly spread over the short and the long ones."""
    ordered = sorted(batches, key=lambda batch: batch.src.size(1))
    return ordered[:: max(1, len(ordered) // steps)][:steps]


few = [batch.to(DEVICE) for batch in some_of(sorted_batches, by_scale(smoke=3, cpu=8, gpu=8))]


def plain_work() -> Work:
    """Make one step of lesson 07 on each of a few batches."""
    for batch in few:
        train_step(plain, [batch], optimizer, 3e-4, config)
    return Work(sum(batch.n_tokens for batch in few), 3 * flops)


def real_tokens(batch: Batch) -> list[Example]:
    """Return the sentences of a batch without their padding."""
    return [([*s[s != PAD]], [*t[t != PAD]]) for s, t in zip(batch.src, batch.tgt_out)]


plain = copy.deepcopy(fresh).to(DEVICE).train()
optimizer = make_optimizer(plain, config)
flops = sum(flops_of(plain.config, real_tokens(batch)) for batch in few)  # of a forward pass
product = matrix_product("float32", 1024, str(DEVICE), torch.get_num_threads(), seconds=0.1)
raced = race_here({"a training step": plain_work, "a matrix product": product}, 3, str(DEVICE))
rates = {r.name: max(turn.flops / turn.seconds for turn in r.turns) / 1e9 for r in raced.results}
utilisation = rates["a training step"] / rates["a matrix product"]
for name, rate in rates.items():
    print(f"{name:17} {rate:8.1f} GFLOP/s")
print(f"the step reaches {utilisation:.0%} of what the device can do")

# %% [markdown]
# 按每词元 $6P$ 来粗略估算，足够了。精确的数与它接近吗？几乎每个权重都与自己那一侧的每个词元相乘一次（交叉注意力的 $W^K$ 和 $W^V$ 属于解码器，与它们相乘的却是源句：这里有一点误差）；共享的表只在投影里与目标词元相乘。这条规则没有算上注意力本身的乘法，因为那里没有权重。

# %%
batch = max(few, key=lambda batch: batch.n_tokens)
source, target = (sum(len(pair[side]) for pair in real_tokens(batch)) for side in (0, 1))
count = {name: sum(p.numel() for p in part.parameters() if p.dim() > 1)
         for name, part in (("encoder", plain.encoder), ("decoder", plain.decoder), ("projection", plain.w_vocab))}
by_rule = 6 * (count["encoder"] * source + (count["decoder"] + count["projection"]) * target)
exact = 3 * flops_of(plain.config, real_tokens(batch))
assert abs(exact / by_rule - 1) < 0.1
print(f"6P per token: {by_rule / 1e9:.2f} GFLOP, counted product by product: {exact / 1e9:.2f} GFLOP")

# %% [markdown]
# 其余的时间去了哪里？PyTorch 的**性能分析器**（profiler）记下每个运算。我们把它们分成几组。

# %%
GROUPS = {  # what the names of PyTorch's operations have in them; the first that fits counts
    "products with weights": r"^(mm|bmm|addmm|baddbmm|linear|linear_backward)$",
    "random numbers": "bernoulli|random_|uniform_|native_dropout",
    "loss": "log_softmax|gather|nll_loss|logsumexp|scatter_add",
    "attention": "scaled_dot_product|flash_attention|_softmax",
    "norms": "native_layer_norm",
    "fresh or copied memory": "fill_|zero_|copy_|empty|clone",
    "optimizer": "_fused_adam_|_foreach_|linalg_vector_norm",
    "everything else": "",
}


def group_of(name: str) -> str:
    """Return the group of an operation of the profiler."""
    name = name.removeprefix("aten::")
    return next(group for group, pattern in GROUPS.items() if re.search(pattern, name))


activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (DEVICE.type == "cuda")
with profile(activities=activities) as profiled:
    plain_work()
shares: dict[str, float] = {}
for event in profiled.key_averages():
    if event.device_type != DeviceType.CPU:
        continue  # a kernel of a GPU: the operation that started it has its time, too
    spent = event.self_device_time_total if DEVICE.type == "cuda" else event.self_cpu_time_total
    shares[group_of(event.key)] = shares.get(group_of(event.key), 0.0) + spent
shares = {name: value / sum(shares.values()) for name, value in shares.items()}
assert shares["products with weights"] > 0 and math.isclose(sum(shares.values()), 1)
draw.time_shares(shares)

# %% [markdown]
# 蓝色是与权重的乘法，再加上注意力的两个乘法（连同 softmax，合在一个程序里），这些才是有用的计算。其余的都是为它们服务的；在 CPU 上，看看暂退法的随机数占了多少。模型越宽，乘法占的份额越大：乘法按宽度的平方增长，其余的只与宽度成正比。
#
# > **试一试。** 把预设 `small` 换成 `tiny`，再换成 `cpu`。利用率会怎样？
#
# <details><summary>答案</summary>
#
# 换成 `tiny`（宽 64），利用率下降；换成 `cpu`（宽 256），利用率上升：乘法按宽度的平方增长，其余的只与宽度成正比。在第 11 节的机器上，宽 256 的模型与宽 64 的相比，FLOPs 是 9 倍，时间是 3.5 倍，所以每秒完成的 FLOPs 是 2.5 倍。
#
# </details>
#
# ## 2 · 朴素的循环，浪费在哪里
#
# 许多教程里的循环就是这样：句子按随机次序取，全部填充到固定长度 72，每个位置都投影到词表。

# %%
def naive_batches(steps: int, sentences: int = 64, length: int = 72) -> list[tuple[Tensor, Tensor]]:
    """Return source and target of batches in random order, every sentence padded to `length`."""
    order = torch.randperm(len(examples)).tolist()
    padded = [[[*ids, *[PAD] * (length - len(ids))] for ids in examples[i]] for i in order]
    return [
        tuple(torch.tensor(side) for side in zip(*padded[start : start + sentences]))
        for start in range(0, steps * sentences, sentences)
    ]


def naive_loss(model: Transformer, src: Tensor, tgt: Tensor) -> Tensor:
    """Return the mean loss of a batch; every position is projected."""
    tgt_in = shift_right(tgt, BOS)
    tgt_mask = padding_mask(tgt_in, PAD) & causal_mask(tgt.size(1), tgt.device)
    logits = model(src, tgt_in, padding_mask(src, PAD), tgt_mask)  # (B, 72, V)
    return F.cross_entropy(logits.flatten(0, 1), tgt.flatten(), ignore_index=PAD, label_smoothing=0.1)


def naive_step(optimizer: torch.optim.Optimizer, model: Transformer, loss: Tensor) -> float:
    """Make one step; return the loss."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return loss.item()

# %% [markdown]
# 它没有错。下一个单元格会证明，同样的句子，它得到的梯度和我们的一样。只是大部分计算白做了。**先猜**：我们的图片说明，每句大约十四个词元。朴素循环的位置里，填充占多大比例？第 06 课排过序的批次呢？

# %%
padded_to_72 = naive_batches(by_scale(smoke=3, cpu=8, gpu=8))
waste = {
    "random order, padded to 72": [(side == PAD).float().mean().item() for batch in padded_to_72 for side in batch],
    "similar lengths together": [(side == PAD).float().mean().item()
                                 for batch in sorted_batches for side in (batch.src, batch.tgt_out)],
}
waste = {name: sum(shares) / len(shares) for name, shares in waste.items()}
for name, share in waste.items():
    print(f"{name:28} {share:.0%} of the positions are padding")
assert waste["random order, padded to 72"] > 0.7 and waste["similar lengths together"] < 0.1

src, tgt = padded_to_72[0]
twin = Transformer(replace(fresh.config, dropout=0.0)).double()
same = copy.deepcopy(twin)
naive_step(torch.optim.SGD(twin.parameters(), 1.0), twin, naive_loss(twin, src, tgt))
rows = [[[i for i in row if i != PAD] for row in side.tolist()] for side in (src, tgt)]
ours = Batch.from_sequences(*rows, PAD, BOS)
train_step(same, [ours], torch.optim.SGD(same.parameters(), 1.0), 1.0, config)
for name, weight in twin.named_parameters():
    torch.testing.assert_close(weight, same.get_parameter(name), msg=lambda m, name=name: f"{name}: {m}")
print("the same weights after one step: padding costs time, and changes nothing")

# %% [markdown]
# 这是朴素循环慢的第一个原因，也是最主要的一个。第二个是**投影**：在小模型里，它是最宽的矩阵，而朴素循环让它与每个填充的位置相乘。我们先挑出真实的位置（第 07 课第 2 节）。第三个是**优化器**：Adam 对每个权重要处理四个数（权重、梯度、两个滑动平均）；写成十个单独的运算，内存就要从头到尾过十遍，**融合**（fused）之后只过一遍。
#
# 这三项第 07 课已经用上了。下面再加四项，一项一项地看。
#
# ## 3 · 更省的随机数：用字节做暂退法
#
# 暂退法为每个数掷一次骰子：以概率 $1 - P_{\mathrm{drop}}$ 留下。在大多数 CPU 上，PyTorch 一个接一个地做这些决定，每次用一个 32 位或更长的随机数。（Intel 的处理器上有一个库能一次抽许多个。下一个单元格打印的倍数，是在运行这一页的处理器上测得的。）留还是丢，根本用不着那么高的精度。一个随机**字节**有 256 个值，不小于 $t$ 就留下：丢掉的概率是 $t / 256$，所以 $P_{\mathrm{drop}}$ 为 0.1 就变成 $26/256 = 0.1016$。一个 64 位的随机数，可以做八次决定。
#
# 为了保持期望值，要除以**真正**用到的概率 $1 - t/256$。

# %%
#| export
def byte_mask(x: Tensor, drop: float) -> Tensor:
    """Return what dropout multiplies x by: 0 with probability `drop`, else 1 / (1 - drop).

    `drop` is rounded to a multiple of 1/256, at most 255/256: each element needs one random byte
    only.
    """
    threshold = min(round(drop * 256), 255)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None)  # 64 random bits, 8 bytes
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return kept.float().mul_(256 / (256 - threshold))


class ByteDropout(nn.Module):
    """Dropout from random bytes, in any shape; nothing happens in eval mode."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        return x * byte_mask(x, self.drop) if self.training else x


def replace_dropout(model: nn.Module) -> None:
    """Put a `ByteDropout` in the place of every `nn.Dropout` of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, ByteDropout(child.p).train(child.training))

# %% [markdown]
# 断言：丢掉的比例符合要求；相邻的数虽然来自同一个随机数，却互相独立；平均值不变。而且八个字节**全都**必须真的随机：如果发生器只给 63 位，最高的字节就总在 128 以下。

# %%
x = torch.ones(1_000_000)
mask = byte_mask(x, 0.1)
dropped = (mask == 0).view(-1, 8).float()
sigma = (0.1 * 0.9 / len(dropped)) ** 0.5
assert ((dropped.mean(0) - 26 / 256).abs() < 5 * sigma).all()  # in each of the eight bytes
correlation = torch.corrcoef(dropped.T) - torch.eye(8)
assert correlation.abs().max() < 5 / len(dropped) ** 0.5
assert abs(mask.mean().item() - 1) < 0.002 and len(mask.unique()) == 2
print(f"dropped {dropped.mean():.4f}, wanted {26 / 256:.4f}; mean {mask.mean():.4f}; "
      f"largest correlation between neighbours {correlation.abs().max():.4f}")

dice = race_here({"torch": lambda: Work(x.numel(), outcome=F.dropout(x, 0.1)),
                  "bytes": lambda: Work(x.numel(), outcome=x * byte_mask(x, 0.1))}, 10)
low, middle, high = dice.ratio("bytes", "torch")
print(f"bytes are {middle:.1f} times as fast here ({low:.1f} to {high:.1f})")

# %% [markdown]
# 在 GPU 上，这样做没有好处。CUDA 的发生器（**Philox**）不用排队：每个位置的随机数由同一个种子和一个计数器算出，所以几千个核可以同时抽，一个程序就完成了。因此这个开关只给 CPU 用。
#
# ## 4 · 内存不急着还
#
# 一个训练步要生成几百个大张量，用完就扔。它们的内存从哪里来？大多数 Linux 系统的 C 库是 `glibc`。遇到很大的张量，它就向操作系统要一块新内存（超过 32 MiB 时总是这样）；释放的内存只要连成一大片，就马上还回去。要新内存很费时间：系统按**页**（page）发放，每页 4 KiB，第一次碰到时要先填上零（这叫**缺页**，page fault）。一批 2,000 个词元，每个要对 5,000 个词各算一个 logit，每个 logit 占 4 字节，一共就是 40 MB，即 9,800 页。
#
# 用过的内存，进程完全可以留着不还。`glibc` 有一个设置管这件事：`mallopt`。（在 GPU 上，PyTorch 自己就这样做，它的**缓存分配器**（caching allocator）是同样的想法。macOS 和 Windows 用别的库；在这些系统上，这个函数什么也不做，并且会告诉你。）

# %%
#| export
def keep_freed_memory(keep: bool = True) -> bool:
    """Tell the C library whether freed memory stays with the process; False where it cannot.

    Without it, every large tensor is fresh memory from the system, which must be mapped page by
    page and zeroed. Works with glibc, the C library of most Linux systems: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except OSError:
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    at_most = 2**30 if keep else 2**25  # above 1 GiB always fresh; glibc's own limit is 32 MiB
    return bool(mallopt(mmap_threshold, at_most) and mallopt(trim_threshold, 2 * at_most - 1))

# %%
program = WORK / "touch.py"
program.write_text("""
import resource, sys, time, torch
from course.speed import keep_freed_memory
works = sys.argv[1] == "keep" and keep_freed_memory()
faults, seconds = [], []
for _ in range(10):
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    [torch.ones(10_000_000) for _ in range(8)]  # eight times 40 MB, then all are free again
    seconds.append(time.perf_counter() - begun)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(works), sorted(faults)[5], sorted(seconds)[5])
""")


def touched(how: str) -> tuple[bool, int, float]:
    """Return, for a process of its own: does the switch work, fresh pages, seconds; medians."""
    done = subprocess.run([sys.executable, str(program), how], capture_output=True, encoding="utf-8", check=True)
    works, faults, seconds = done.stdout.split()
    return works == "1", int(faults), float(seconds)


if sys.platform == "linux" and touched("keep")[0]:
    pages = {how: touched(how)[1:] for how in ("as usual", "keep")}
    assert pages["keep"][0] < 0.5 * pages["as usual"][0] + 100
    for how, (faults, seconds) in pages.items():
        print(f"{how:9} {faults:6,} fresh pages, {1e3 * seconds:5.1f} ms for eight tensors of 40 MB")
else:
    print("this system's C library has no mallopt: the switch does nothing here")

# %% [markdown]
# 代价是什么？内存用得最多的时候占了多少，进程就一直占着多少。训练时没有关系；在与人共用的机器上，也许就有关系了。
#
# ## 5 · 十六位：bfloat16
#
# 一个 `float32` 有 1 位符号、8 位指数、23 位尾数。许多场合只要一半的位数就够了，省的办法有两种。
#
# | 格式 | 符号、指数、尾数 | 最大的数 | 1 之后的下一个数 |
# |---|---|---|---|
# | float32 | 1, 8, 23 | $3.4 \cdot 10^{38}$ | $1 + 1.2 \cdot 10^{-7}$ |
# | float16 | 1, 5, 10 | 65,504 | $1 + 0.00098$ |
# | bfloat16 | 1, 8, 7 | $3.4 \cdot 10^{38}$ | $1 + 0.0078$ |
#
# float16 保住了三位十进制的精度，却丢了范围：小于 $3 \cdot 10^{-8}$ 的梯度变成 0，大于 65,504 的分数变成无穷大，训练时要靠一个技巧（**损失缩放**，loss scaling），才能让数值不超出这个范围。bfloat16（b 来自 Google **Brain**）保住了范围，精度却只有两位多一点。数粗糙一点，网络不怕，因为由一个批次算出的梯度本来就粗糙；怕的是数变成了 0 或无穷大。
#
# **先猜**：在 bfloat16 里，256 + 1 是多少？把 0.01 一个接一个地加一万次，和是多少？

# %%
# NBVAL_CHECK_OUTPUT
half, brain = torch.float16, torch.bfloat16
assert torch.tensor(70_000.0).to(half).isinf() and torch.tensor(70_000.0).to(brain).isfinite()
assert torch.tensor(1e-8).to(half) == 0 and torch.tensor(1e-8).to(brain) > 0
one_more = (torch.tensor(256.0, dtype=brain) + 1).item()
total, step = torch.tensor(0.0, dtype=brain), torch.tensor(0.01, dtype=brain)
for _ in range(10_000):
    total = total + step
assert one_more == 256 and total < 5
print(f"256 + 1 = {one_more:.0f}; ten thousand times 0.01 = {total.item():.2f}, not 100")

# %% [markdown]
# 总和卡在 4 就不动了：从那里起，0.01 还不到相邻两个数间距的一半。所以规则是：**用 16 位乘，用 32 位加。** 两个 bfloat16 矩阵相乘时，硬件自己就用 float32 求和。权重仍用 float32，因为 Adam 的一步比权重小得多，会像上面的 1 那样被舍掉。
#
# `torch.autocast` 做的就是这个：在它的代码块里，矩阵乘法的输入舍入到 bfloat16，而权重本身不变。在 CUDA 上，softmax、归一化和损失也用 float32 计算。在 CPU 上，给它们什么类型，它们就用什么类型：我们的归一化拿到的是 float32（残差的通路是一个和，仍用 32 位），损失拿到的却是最后一个乘法的 bfloat16 分数。所以第 07 课的损失先把分数变成 float32：用 bfloat16 求和的话，2587.8 的损失算出来是 2592。

# %%
#| export
def bfloat16_gain(device: torch.device, repeats: int = 10) -> float:
    """Return how many times faster the device multiplies in bfloat16 than in float32."""
    width = 512 if device.type == "cpu" else 8192  # large enough that the product is what takes time
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(width, width, device=device).to(dtype)
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            a = (a @ a).clamp(-1, 1)
            a[0, 0].item()  # waits for the device
            times.append(time.perf_counter() - begun)
        seconds[dtype] = min(times)
    return seconds[torch.float32] / seconds[torch.bfloat16]

# %%
if DEVICE.type == "mps":
    gain = 0.0
    print("mps: not measured; this lesson leaves bfloat16 off there")
else:
    gain = bfloat16_gain(DEVICE)
    print(f"{DEVICE}: a bfloat16 product is {gain:.2f} times as fast as a float32 product")

# %% [markdown]
# 在你的机器上，这种乘法更快吗？NVIDIA 2020 年以来的 GPU（从 Ampere 起）有专门的单元，有些处理器也有（AVX512-BF16、AMX、较新的 ARM）。别的处理器只能模拟，反而**更慢**，有的慢得多。所以我们不看处理器的型号，直接测。如果在你的机器上更慢，这一页长时间的训练就不用这种乘法。训练有一组开关，其中一个就按测得的结果来定：

# %%
#| export
@dataclass(frozen=True)
class Switches:
    """The tricks of this lesson, each on or off."""

    cheap_dropout: bool = False
    keep_memory: bool = False
    bfloat16: bool = False
    compile: bool = False

    @classmethod
    def best(cls, device: torch.device | str) -> "Switches":
        """Return what usually pays on a device; bfloat16 only if a short measurement says so."""
        device = torch.device(device)
        on_cpu = device.type == "cpu"
        bfloat16 = device.type in ("cpu", "cuda") and bfloat16_gain(device) > 1.5
        return cls(cheap_dropout=on_cpu, keep_memory=on_cpu, bfloat16=bfloat16)

# %% [markdown]
# ## 6 · 许多内核合成一个：torch.compile
#
# 拿一处残差连接来看：暂退法、加法、归一化，各是一个**内核**（kernel），也就是一个小程序，从内存读输入，再把输出写回去。计算本身花不了什么时间，时间全在读写上。`torch.compile` 跟踪模型，写出新的内核，读一次内存就把几个运算一起做完，然后为 GPU（或者有 C++ 编译器时，为 CPU）编译。开头大约要花一分钟。
#
# 有一个陷阱：默认情况下，编译器只为它最先看到的**形状**写程序；再来一个不同的形状，它就重新编译一次，这次的程序适用于任何形状。我们的批次每次形状都不同：`dynamic=True` 一开始就写通用的程序。能快多少要看设备，别的技巧都没有它这么挑设备；它本来就是给 CUDA 用的，第 8 节逐级测量时，会在 CUDA 上测它。在别的设备上，这一课只检查数字不变。
#
# 我们把各个开关装进一个模块，它的 `forward` 返回的就是一个批次的损失。

# %%
#| export
class Objective(nn.Module):
    """The summed loss of a batch, as a module: what is cast, compiled and shared."""

    def __init__(self, model: Transformer, switches: Switches, epsilon: float) -> None:
        super().__init__()
        self.model, self.epsilon, self.bfloat16 = model, epsilon, switches.bfloat16
        if switches.keep_memory:
            keep_freed_memory()
        if switches.cheap_dropout:
            replace_dropout(model)
        if switches.compile:
            model.encoder.compile(dynamic=True)
            model.decoder.compile(dynamic=True)

    def forward(self, batch: Batch) -> Tensor:
        with lower_precision(batch.src.device) if self.bfloat16 else nullcontext():
            return batch_loss(self.model, batch, self.epsilon)


@contextmanager
def lower_precision(device: torch.device) -> Iterator[None]:
    """Multiply matrices in bfloat16 within the block; the weights stay in float32."""
    # the fused attention of the CPU is slow in bfloat16, backwards above all
    plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with plain, torch.autocast(device.type, torch.bfloat16):
        yield

# %% [markdown]
# 断言：暂退法设为 0 时，打开前两个开关，结果不许有任何变化。用 bfloat16 时，损失可以相差百分之一，但梯度必须指向同一方向。`compile` 放到再下一个单元格里，只用一层来试。

# %%
def loss_and_gradient(switches: Switches) -> tuple[float, Tensor]:
    """Return loss and gradient of a batch with a dropout of 0; the gradient as one long vector."""
    model = copy.deepcopy(fresh).to(DEVICE).train()
    for dropout in (module for module in model.modules() if isinstance(module, nn.Dropout)):
        dropout.p = 0.0
    loss = Objective(model, switches, 0.1)(batch)
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])


batch = few[0]
exact_loss, exact_gradient = loss_and_gradient(Switches())
for name in ("cheap_dropout", "keep_memory", "bfloat16"):
    if name == "bfloat16" and DEVICE.type == "mps":
        continue
    loss, gradient = loss_and_gradient(Switches(**{name: True}))
    cosine = F.cosine_similarity(gradient.cpu().double(), exact_gradient.cpu().double(), dim=0).item()
    assert abs(loss / exact_loss - 1) < 0.01 and cosine > 0.99
    assert name == "bfloat16" or torch.allclose(gradient, exact_gradient, rtol=1e-4, atol=1e-4)
    print(f"{name:14} loss off by {abs(loss / exact_loss - 1):.1e}, cosine of the gradients {cosine:.6f}")

# %%
def compiled_once() -> str:
    """Compile one feed-forward layer and use it at several lengths; return what came out."""
    layer = copy.deepcopy(fresh.encoder.layers[0].feed_forward).to(DEVICE)
    twin = copy.deepcopy(layer)
    backend = by_scale(smoke="eager", cpu="inductor", gpu="inductor")  # "eager" traces only
    layer.compile(dynamic=True, backend=backend)
    torch._dynamo.utils.counters.clear()
    for length in (5, 9, 17, 33):
        x = torch.randn(3, length, fresh.config.d_model, device=DEVICE)
        torch.testing.assert_close(layer(x), twin(x), atol=1e-4, rtol=1e-4)
    return f"{torch._dynamo.utils.counters['stats']['unique_graphs']} program(s) for 4 lengths, equal outputs"


compiles = False
try:
    print(compiled_once())
    compiles = True
except AssertionError:
    raise
except Exception as error:  # no compiler on this machine: the lesson goes on without
    print(f"torch.compile does not work here ({type(error).__name__}); everything else does")

# %% [markdown]
# ## 7 · 一个训练步
#
# `FastStep` 就是第 07 课的 `train_step` 加上这些开关。（它还能与其他进程分担工作：那是第 10 节的事，`ranks` 先不管。）在 GPU 上，损失每步只取一次，不是每个批次都取：每个 `.item()` 都让处理器等到 GPU 把一切做完。

# %% [markdown]
# 先准备第 10 节要用的一条小记录，它说明当前进程是几个进程里的哪一个。只有一个进程时，这个进程就是 1 个里的第 0 号，批次里归它的 `share`（一份）就是整个批次。

# %%
#| export
@dataclass(frozen=True)
class Ranks:
    """Which of `world` processes this one is; together they take every step."""

    rank: int = 0
    world: int = 1

    @property
    def chief(self) -> bool:
        """Return whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """Return this rank's sentences of a batch: every `world`-th one.

        Where there are fewer sentences than ranks, some ranks get one that has nothing to predict.
        """
        if self.world == 1:
            return batch
        if self.rank < len(batch.src):
            mine = batch.map(lambda x: x[self.rank :: self.world])
            return replace(mine, n_tokens=int((mine.tgt_out != PAD).sum()))
        blank = batch.map(lambda x: x[:1])
        return replace(blank, tgt_out=torch.full_like(blank.tgt_out, PAD), n_tokens=0)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the values over all ranks, on every rank. Every rank must call it."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

# %%
#| export
class FastStep:
    """The step of lesson 07 with the switches of this lesson, on one rank or several.

    A stepper for lesson 07b's Trainer. switches: by default those that usually pay on the device.
    """

    def __init__(
        self,
        model: Transformer,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        switches: Switches | None = None,
        ranks: Ranks = Ranks(),
    ) -> None:
        self.model, self.optimizer, self.config, self.ranks = model, optimizer, config, ranks
        self.device, self.chief = next(model.parameters()).device, ranks.chief
        self.switches = switches or Switches.best(self.device)
        self.objective = Objective(model, self.switches, config.label_smoothing)
        if ranks.world > 1:
            self.objective = DistributedDataParallel(self.objective)

    def record(self) -> dict[str, bool]:
        """Return what else must be the same to resume a run: the switches."""
        return {f"switches.{name}": on for name, on in asdict(self.switches).items()}

    def send(self, x: Tensor) -> Tensor:
        """Copy to the device; to a GPU that reads pinned memory without waiting for it."""
        return x.to(self.device, non_blocking=self.device.type == "cuda")

    def update(
        self, batches: Sequence[Batch], rate: float, step: int = 0
    ) -> tuple[float, float]:
        """Make one step over the batches, shared among the ranks; return loss and norm.

        The loss is per token, the norm that of the gradient before clipping, both of the whole
        step, and both the same on every rank. Several ranks drop out each other elements, which
        follow from the number of the `step`. Raises FloatingPointError as `train_step` does.
        """
        if self.ranks.world > 1:
            seed = self.config.seed * 1_000_003 + step
            torch.manual_seed(seed * self.ranks.world + self.ranks.rank)
        n_tokens = max(1, sum(batch.n_tokens for batch in batches))  # of all ranks
        total = torch.zeros((), device=self.device)
        self.optimizer.zero_grad()
        for batch, last in zip(batches, [*[False] * (len(batches) - 1), True]):
            mine = self.ranks.share(batch).map(self.send)
            with nullcontext() if last or self.ranks.world == 1 else self.objective.no_sync():
                loss = self.objective(mine)
                (loss * self.ranks.world / n_tokens).backward()  # DDP takes the mean of the ranks
            total += loss.detach()
        loss = self.ranks.total(total).item() / n_tokens
        return loss, apply_gradient(self.model, self.optimizer, rate, self.config.clip, loss)

    def feed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches; for a GPU, made ahead in memory that it can read (section 9)."""
        if self.device.type != "cuda":
            return batches
        return ahead(batch.map(Tensor.pin_memory) for batch in batches)

    def meet(self, directory: Path) -> None:
        """Let the other ranks wait until the first one has begun the run, or gone on with it."""
        launch = os.environ.get("TORCHELASTIC_RUN_ID")
        if launch and self.chief:
            (directory / "torchrun_id").write_text(launch, "utf-8")
        self.everyone(0.0)

    def clock(self, seconds: float) -> float:
        """Return the first rank's time."""
        return self.everyone(seconds if self.chief else 0.0)

    def stops(self, wish: bool) -> bool:
        """Return whether any rank wishes to stop."""
        return self.everyone(float(wish)) > 0

    def everyone(self, number: float) -> float:
        """Return the sum of a number over all ranks, on every rank. Every rank must call it."""
        if self.ranks.world == 1:
            return number
        exact = torch.tensor(number, dtype=torch.float64, device=self.device)
        return self.ranks.total(exact).item()

# %% [markdown]
# ## 8 · 一级一级往上加
#
# 现在在你的设备上全部测一遍：从朴素的循环往上，一次加一个技巧。
#
# **先猜**：哪一级的收益最大？最上面的速度是最下面的几倍？

# %%
def naive_work(model: Transformer, real: bool) -> Callable[[], Work]:
    """Return work that makes the naive loop's steps; `real`: only real tokens are projected."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-4, config.betas, config.eps)  # PyTorch's choice
    batches = [(src.to(DEVICE), tgt.to(DEVICE)) for src, tgt in padded_to_72[:2]]
    tokens = sum(int((tgt != PAD).sum()) for _, tgt in batches)

    def loss_of(src: Tensor, tgt: Tensor) -> Tensor:
        if not real:
            return naive_loss(model, src, tgt)
        tgt_in, src_mask = shift_right(tgt, BOS), padding_mask(src, PAD)
        tgt_mask = padding_mask(tgt_in, PAD) & causal_mask(tgt.size(1), tgt.device)
        padded = Batch(src, tgt_in, tgt, src_mask, tgt_mask, int((tgt != PAD).sum()))
        return batch_loss(model, padded, 0.1) / padded.n_tokens

    def work() -> Work:
        losses = [naive_step(optimizer, model, loss_of(src, tgt)) for src, tgt in batches]
        return Work(tokens, outcome=losses)

    return work


def sorted_work(model: Transformer, fused: bool, switches: Switches) -> Callable[[], Work]:
    """Return work that makes steps on sorted batches."""
    optimizer = torch.optim.Adam(model.parameters(), 0.0, config.betas, config.eps,
                                 fused=True if fused else None)
    fast = FastStep(model, optimizer, config, switches)

    def work() -> Work:
        losses = [fast.update([batch], 3e-4)[0] for batch in few]
        return Work(sum(batch.n_tokens for batch in few), outcome=losses)

    return work


def keeping(work: Callable[[], Work], keep: bool) -> Callable[[], Work]:
    """Return the same work; before each turn the C library is told whether memory stays."""

    def turn() -> Work:
        keep_freed_memory(keep)
        return work()

    return turn


best = Switches.best(DEVICE)
on_cpu = DEVICE.type == "cpu"
rungs = {
    "naive: random order, padded to 72": lambda model: naive_work(model, False),
    "+ only real tokens projected": lambda model: naive_work(model, True),
    "+ similar lengths together": lambda model: sorted_work(model, False, Switches()),
    "+ fused Adam (lesson 07)": lambda model: sorted_work(model, True, Switches()),
}
if on_cpu:
    rungs["+ dropout from bytes"] = lambda model: sorted_work(model, True, Switches(True))
    rungs["+ memory that stays"] = lambda model: sorted_work(model, True, Switches(True, True))
if gain > 1:
    rungs["+ bfloat16"] = lambda model: sorted_work(model, True, Switches(on_cpu, on_cpu, True))
if DEVICE.type == "cuda" and compiles:
    rungs["+ torch.compile"] = lambda model: sorted_work(model, True, Switches(False, False, True, True))

works = {
    name: keeping(make(copy.deepcopy(fresh).to(DEVICE).train()), name in ("+ memory that stays", "+ bfloat16"))
    for name, make in rungs.items()
}
ladder = race_here(works, by_scale(smoke=2, cpu=3, gpu=10), str(DEVICE)).results  # they take turns
keep_freed_memory(best.keep_memory)
best_rate = {result.name: max(result.rates) for result in ladder}
names = list(best_rate)
if on_cpu or by_scale(smoke=600, cpu=1600, gpu=8000) > 1000:  # a GPU is idle with smaller batches: only launches count
    assert best_rate[names[3]] > 2 * best_rate[names[0]]  # lesson 07 against the naive loop
draw_race.ladder({result.name: result.rates for result in ladder}, f"target tokens on {DEVICE},")

# %% [markdown]
# 提速最多的一级与硬件毫无关系：用不着的结果，就不去计算。（“similar lengths”这一级同时改了两样，填充和一步里的真实词元数；这两样的作用都记在这一级。）为了让这一页跑得快，模型用小的，张量也就小：随机字节和留着不还的内存，在这里省不了多少，甚至可能多花一点。`python -m course bench train` 在单独的进程里测量预设 `cpu`，并与 PyTorch 自己的 `nn.Transformer` 比较。下面是它在一台写明了名称的机器上测得的数字：

# %%
stored = json.loads((ASSETS / "results" / "bench_train.json").read_text("utf-8"))
rate_of = {entry["name"]: entry["rate"]["median"] for entry in stored["contestants"]}
print(f"{stored['device']}, {stored['threads']} threads, preset {stored['sizes']['preset']}")
for name, rate in sorted(rate_of.items(), key=lambda item: item[1]):
    print(f"{name:28} {rate:6,.0f} target tokens/s")
print(f"bytes and memory that stays, over lesson 07: {rate_of['ours'] / rate_of['lesson-07']:.2f} times; "
      f"bfloat16 on top: {rate_of['ours-bfloat16'] / rate_of['ours']:.2f} times")

# %% [markdown]
# 用了这些技巧，还是同样的训练吗？快的训练步如果学到了别的东西，就毫无价值。我们训练几十步，一次用第 07 课的训练步，一次用上全部技巧。

# %%
def curve_of(switches: Switches, seed: int = 1) -> tuple[list[float], float]:
    """Train one or more epochs; return the losses and the loss on val. The seed is that of dropout."""
    torch.manual_seed(seed)
    model = copy.deepcopy(fresh).to(DEVICE).train()
    fast = FastStep(model, make_optimizer(model, config), config, switches)
    losses = []
    for epoch in range(by_scale(smoke=3, cpu=2, gpu=4)):
        for batch in make_batches(examples, by_scale(smoke=600, cpu=1600, gpu=8000), seed=epoch):
            rate = 2e-3 * min(1.0, (len(losses) + 1) / 50)
            losses.append(fast.update([batch.to(DEVICE)], rate)[0])
    return losses, evaluate_loss(model, make_batches(new, 2000))


new = encode_pairs(bpe, pairs("captions", "val")[:300])
fastest = Switches(on_cpu, on_cpu, gain > 1)  # section 6 has tried bfloat16 in any case
curves = {"lesson 07": curve_of(Switches()), "lesson 07, another seed": curve_of(Switches(), seed=2),
          "all tricks": curve_of(fastest)}
ends = {name: val for name, (_, val) in curves.items()}
assert abs(ends["lesson 07"] - ends["all tricks"]) < 0.15
assert max(ends.values()) < 0.8 * math.log(len(bpe))
if gain <= 1:
    print(f"{DEVICE}: without bfloat16, which is {gain:.2f} times as fast as float32 here")
draw.same_curves({name: losses for name, (losses, _) in curves.items()}, ends)

# %% [markdown]
# 两条曲线画出来会叠在一起，所以右边的图画的是两者之差。两条曲线其实并不处处相等：暂退法的掩码不同，就像第 07 课里只换随机种子的两次训练那样。蓝色曲线说明，单凭这一点，两次训练会相差多远。
#
# 各跑一次，说明不了更多。两边各用十二个随机种子：训练这两个轮次之后，用上全部技巧的验证损失高出 $0.021 \pm 0.010$ 奈特。为什么？用字节生成的掩码，丢弃的概率是 26/256，不是 0.1；让 `nn.Dropout` 也用这个概率，损失就高出 $0.007 \pm 0.004$（六个种子）。换成用 16 位生成的掩码，概率就正好是 0.1，这时与 `nn.Dropout` 相差 $0.008 \pm 0.011$，和偶然波动没有两样。
#
# > **试一试。** 把 `curve_of` 里的轮次加倍。现在技巧带来的差别，比随机种子带来的大吗？
#
# <details><summary>答案</summary>
#
# 各跑一次，回答不了：这里换一个随机种子差 0.009 奈特，用上全部技巧差 0.037，再换一个种子又是别的数。要像上面那样多取几个种子。如果只是起步慢一些，多训练几个轮次就会补回来；如果哪个技巧弄坏了梯度，每过一遍就会差得更远，而且总偏向一边。
#
# </details>
#
# ## 9 · 喂饱 GPU
#
# GPU 不等程序：PyTorch 只是让内核**排队**。队列一空，GPU 就闲着，例如程序正在用 Python 列表拼下一个批次的时候。有两个办法。一是用一个**线程**，趁当前批次还在计算，把后面的批次准备好。二是用**锁页**（pinned）内存：操作系统保证不移动这块内存，GPU 就能一边计算，一边自己来读。

# %%
#| export
Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items in order; a thread prepares the next two while one is in use."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(2))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item

# %%
made = []


def slow_items() -> Iterator[int]:
    for number in range(6):
        made.append(number)
        yield number


seen = []
for number in ahead(slow_items()):
    seen.append(number)
    deadline = time.monotonic() + 30
    while len(made) < min(6, number + 2) and time.monotonic() < deadline:
        time.sleep(0.001)  # this one is in use
    assert len(made) >= min(6, number + 2)  # and meanwhile the next one was made
assert seen == list(range(6))
print("in order, and the next one is made while one is in use")

# %% [markdown]
# ## 10 · 许多设备，合做一步（论文 5.2 节）
#
# base 模型的一个训练步，八块 GPU 用了 0.4 秒。八个进程怎样合起来做**一个**训练步？每个进程都有一份模型，叫做**副本**（replica）。每个进程分到一部分句子，算出这一部分的梯度。然后把所有进程的梯度加起来，这叫 **all-reduce**（全归约），每个进程再用同样的和做同样的更新。副本始终相等，因为起点相等，每次的更新也相等。一个进程叫做一个 **rank**；rank 的总数叫 **world**。
#
# 这里的陷阱，第 07 课第 5 节见过：各个 rank 的**词元数不同**，所以平均的平均是错的。设 $L_r$ 是 rank $r$ 的损失之和，$n$ 是**整个**一步的词元数，那么
#
# $$\nabla L = \frac{1}{n} \sum_{r} \nabla L_r
# = \frac{1}{W} \sum_{r} \nabla \left( \frac{W}{n} L_r \right) .$$
#
# PyTorch 的 `DistributedDataParallel`（DDP）在 $W$ 个 rank 上求平均，算出的就是等式的右边。所以我们交给它的是：损失之和，乘以 $W$，除以整个一步的词元数。在上面的 `FastStep` 里，这只是一行代码。
#
# 数据怎样分？**每个**批次里，rank $r$ 拿第 $r, r + W, r + 2W, \dots$ 个句子。这样，不管有几个 rank，批次、步数和学习率都一样：rank 多了，改变的是速度，不是训练本身（只有暂退法的掩码不同）。想用上所有设备的内存，就调大 `max_tokens`。一个批次的句子可能比 rank 还少。没有分到句子的 rank 也必须参加 all-reduce，不然别的 rank 会永远等下去。所以我们给它一个没有词要预测的句子：第 07 课证明过，这样的句子损失是 0，梯度恰好是 0。
#
# 做这件事的，就是第 7 节的记录 `Ranks` 和它的方法 `share`。不用第二个进程也能检验公式：把各份的梯度一个接一个算出来，加起来必须等于整个批次的梯度。

# %%
def gradient_of(batches: Sequence[Batch], per: Sequence[int]) -> Tensor:
    """Return the sum of the gradients of several losses, each divided by its number."""
    model = copy.deepcopy(fresh).double().eval()
    loss = sum(batch_loss(model, batch, 0.1) / n for batch, n in zip(batches, per))
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])


lengths = (3, 4, 4, 5, 7, 9, 12)
sentences = [torch.randint(4, 200, (n,)).tolist() for n in lengths]
whole = Batch.from_sequences(sentences, sentences, PAD, BOS)
wanted = gradient_of([whole], [whole.n_tokens])
for world in (2, 3, 9):
    shares = [Ranks(rank, world).share(whole) for rank in range(world)]
    tokens = [share.n_tokens for share in shares]
    assert sum(tokens) == whole.n_tokens and len(set(tokens)) > 1
    torch.testing.assert_close(gradient_of(shares, [whole.n_tokens] * world), wanted)
    means = gradient_of(shares, [max(1, n) * world for n in tokens])  # the mean of the means
    error = ((means - wanted).norm() / wanted.norm()).item()
    assert error > 0.02
    print(f"{world} ranks with {tokens} tokens: sum exact, mean of means off by {error:.0%}")

# %% [markdown]
# 九个 rank，七个句子：有两个 rank 没分到句子，什么也不用算，结果照样正确。
#
# DDP 比“最后再把梯度加起来”的循环好在哪里？它不等。最后几层的梯度最先算好；前面的层还在计算，DDP 就把算好的梯度按 25 MB 一桶送出去了。有梯度累积时，它只在一步的最后一个批次之后才送（`no_sync`）。
#
# ### 训练器：一个 rank 或几个
#
# `torchrun --nproc-per-node 2 program` 把程序启动两次，用环境变量告诉每个进程它是谁。进程在**会合点**（rendezvous）找到彼此：那是大家都知道的一个地址，每个进程都到那里登记。崩溃之后，死掉的进程留下的登记还在，新的进程会一直等它们答复，却再也等不到；所以每次重启都另用一块登记区（`PrefixStore`）。传送梯度的库，GPU 用 **nccl**，CPU 用 **gloo**。

# %%
#| export
@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, for the time of the block; alone, if it did not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Ranks()
        return
    store, rank, world = next(dist.rendezvous("env://"))  # where the ranks leave their addresses
    if os.environ["GROUP_WORLD_SIZE"] == "1":  # after a restart, not those of the dead
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=timedelta(minutes=10)
    )
    try:
        yield Ranks(rank, world)
    finally:
        dist.destroy_process_group()


def device_of_rank() -> torch.device:
    """Return the device that this process trains on: the GPU of its number on the machine."""
    device = pick()
    if device.type == "mps" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return torch.device("cpu")  # gloo carries no tensors of MPS
    if device.type == "cuda":
        if "LOCAL_RANK" in os.environ or device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    return device


def restarted(directory: Path) -> bool:
    """Return whether a launch of torchrun with our id began the run there: then we go on with it.

    On one machine each launch has an id of its own; on several, `--rdzv-id` names it.
    """
    mark = directory / "torchrun_id"
    return mark.exists() and mark.read_text("utf-8") == os.environ.get("TORCHELASTIC_RUN_ID")

# %% [markdown]
# 进程虽多，哪些东西只能有一份？进度条、日志、检查点：都由第一个 rank 写，其他 rank 上的训练器没有记录员（desk，第 07b 课）。时钟只能有一个，不然训练限定了分钟数时，各个 rank 会停在不同的步。停不停也只能有一个决定：Ctrl-C 到达各个 rank 可能前后差一步，没停下的就会永远等下去。`FastStep` 的方法 `clock` 和 `stops`，每个 rank 每步之后都要调用，大家就在那里统一这两件事；在 `meet` 里，其他 rank 等第一个 rank 写好大家的起点。所以第 07b 课的训练器不用改：`Trainer(..., stepper=FastStep)`；要指定选项，就写 `Trainer(..., stepper=partial(FastStep, switches=..., ranks=...))`。

# %%
#| export
def recorded_switches(directory: Path) -> Switches:
    """Return the switches that a run was started with; none for a run of lesson 07."""
    record = read_record(directory / "training.json")
    return Switches(**{f.name: record.get(f"switches.{f.name}", False) for f in fields(Switches)})

# %% [markdown]
# 现在用两个真正的进程来证明。同样在图片说明上训练，一次单独跑，一次用两个 rank，都不用暂退法（因为各个 rank 的随机数不同）。不管这一页用什么设备，两次都在 CPU 上跑，一个进程一个核。第三次只用一个 rank，但是开两个线程，把两个核都给它：只有一台机器的读者，不分 rank 的话，就会这样做。
#
# **先猜**：在一台机器的两个核上，两个 rank 能快一倍吗？两个线程呢？

# %%
captions = WORK / "captions"
captions.mkdir()
for split, smoke in (("train", 300), ("val", 50)):
    for side, lines in zip(("src", "tgt"), zip(*pairs("captions", split)[: by_scale(smoke=smoke, cpu=None, gpu=None)])):
        (captions / f"{split}.{side}").write_text("\n".join(lines) + "\n", "utf-8")


def train(name: str, ranks: int) -> list[str]:
    """Return the command that trains on captions, into a directory of that name."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--max-restarts", "1"]
    return [sys.executable, *(torchrun if ranks > 1 else []), "-m", "course", "train",
            "--pairs", str(captions), "--preset", "tiny", "--out", str(WORK / name), "--precision", "float32",
            "--epochs", "2", "--set", "dropout=0.0", "--set", f"max_tokens={by_scale(smoke=600, cpu=4000, gpu=4000)}"]


alone = {**os.environ, "COURSE_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "COURSE_PROGRESS": "off"}
TORCHRUN = sys.platform != "win32"  # it asks for libuv, which PyTorch for Windows is built without
if TORCHRUN:
    for name, ranks, threads in (("one", 1, "1"), ("two", 2, "1"), ("threads", 1, "2")):
        done = subprocess.run(train(name, ranks), env={**alone, "OMP_NUM_THREADS": threads},
                              capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr[-2000:]

    logs = {name: read_log(WORK / name) for name in ("one", "two", "threads")}
    losses = {name: [line["loss"] for line in log if "loss" in line] for name, log in logs.items()}
    apart = [abs(a - b) for a, b in zip(losses["one"], losses["two"])]  # after 10, 20, 30 ... steps
    assert len(losses["one"]) == len(losses["two"]) and apart[0] < 1e-4 and max(apart) < 0.2
    assert logs["one"][-1]["tokens"] == logs["two"][-1]["tokens"]
    speed = {name: log[-1]["tokens"] / log[-1]["seconds"] for name, log in logs.items()}
    print(f"{logs['one'][-1]['step']} steps each; the losses are {apart[0]:.6f} apart after 10 steps, "
          f"{apart[-1]:.4f} at the end")
    print(f"one rank {speed['one']:,.0f} tokens/s, two ranks {speed['two']:,.0f}: "
          f"{speed['two'] / speed['one']:.2f} times; two threads {speed['threads'] / speed['one']:.2f} times")
else:
    print("torchrun does not start on Windows: read on, or use WSL")

# %% [markdown]
# 撇开舍入误差，这就是同一次训练：浮点求和的结果与次序有关，每一步又把末位的差放大一点。每个轮次里，每个句子恰好用了一次：词元数对得上。
#
# ### 一个 rank 挂了
#
# 机器会坏；Llama 3 在 16,384 块 GPU 上训练时，大约每三小时就要出一次故障（Meta 2024）。我们用两个 rank 开始训练，等到第一个检查点，就 `kill -9` 杀掉其中一个。torchrun 发现后停下另一个，再把两个都重新启动（`--max-restarts`）。程序看出自己是重启的，在磁盘上找到状态，接着训练。

# %%
if TORCHRUN:
    process = subprocess.Popen(train("killed", 2), env=alone, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, encoding="utf-8")

    def workers() -> list[psutil.Process]:
        """Return the ranks that torchrun has started."""
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "train" in child.cmdline()]

    def first_epoch_is_saved() -> bool:
        log = WORK / "killed" / "log.jsonl"
        return log.exists() and any("val_loss" in line for line in read_log(WORK / "killed"))


    deadline = time.monotonic() + 240
    try:
        while not first_epoch_is_saved() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert first_epoch_is_saved() and process.poll() is None, "no first epoch in time, or all was over"
        victims = workers()
        victims[-1].kill()  # SIGKILL: no chance to clean up
        said, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, said[-2000:]
    survivor = read_log(WORK / "killed")
    assert survivor[-1]["val_loss"] == logs["two"][-1]["val_loss"]
    assert [line["step"] for line in survivor] == [line["step"] for line in logs["two"]]
    print(f"killed one of {len(victims)} ranks; final val loss {survivor[-1]['val_loss']}, "
          f"unbroken {logs['two'][-1]['val_loss']}")

# %% [markdown]
# 损失相同，日志记下的每一位都一样。
#
# ### 几台机器
#
# 有 4 台机器，每台 8 块 GPU，就在每台上运行同样的命令，写上其中一台的地址：
#
# ```
# export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1   # 重启后换用新的地址
# torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint first-machine:29500 \
#     --rdzv-id base-run --max-restarts 3 -m course train --corpus multi30k --preset base --out /shared/runs/base --epochs 30
# ```
#
# `--out` 必须是所有机器都看得到的文件夹（第一个 rank 写，启动时大家读）。id 是这次训练的名字：同样的命令再运行一次，就接着训练。程序里什么也不用改，改变的是梯度传送的方式。
#
# **网络要花多少时间？** 在**环形**（ring）all-reduce 里，共有 $W$ 个 rank，每个 rank 发出和收到的数据，各是梯度大小的 $2 (W-1)/W$ 倍（转一圈相加，再转一圈分发）。设梯度有 $G$ 字节，带宽每秒 $b$ 字节，$2(W-1)$ 条消息每条延迟 $\ell$，那么
#
# $$t_{\text{network}} = 2\,\frac{W-1}{W} \cdot \frac{G}{b} + 2 (W-1)\, \ell .$$
#
# 不管有多少个 rank，第一项总小于 $2G/b$。第二项随 $W$ 增长，但要到 rank 非常多时才不可忽略。所以环形是标准的做法（机器很多时，库也用树形）。base 模型有 6500 万参数，$G = 260$ MB。

# %%
def ring_seconds(gradient: float, world: int, bandwidth: float, delay: float = 5e-6) -> float:
    """Return how long a ring all-reduce takes: bytes, ranks, bytes per second, seconds a message."""
    return 2 * (world - 1) / world * gradient / bandwidth + 2 * (world - 1) * delay


GRADIENT = 4 * 65e6  # bytes of the base model in float32
STEP = 0.4  # seconds a step of the base model took on 8 P100, their exchange included (paper, section 5.2)
networks = {"NVLink, 300 GB/s": 300e9, "PCIe 4, 25 GB/s": 25e9, "10-gigabit Ethernet, 1.25 GB/s": 1.25e9}
worlds = (1, 2, 4, 8, 16, 32, 64)
efficiency = {
    name: [STEP / (STEP + ring_seconds(GRADIENT, world, bandwidth)) for world in worlds]
    for name, bandwidth in networks.items()
}
assert ring_seconds(GRADIENT, 64, 25e9) < 2.1 * GRADIENT / 25e9 + 1e-3  # bounded
assert efficiency["10-gigabit Ethernet, 1.25 GB/s"][-1] < 0.6 < 0.9 < efficiency["PCIe 4, 25 GB/s"][-1]
for name, shares in efficiency.items():
    seconds = ring_seconds(GRADIENT, 64, networks[name])
    print(f"{name:32} 64 ranks: {1e3 * seconds:6.1f} ms on the network a step, {shares[-1]:.0%} of the time computing")
draw.efficiency(worlds, efficiency)

# %% [markdown]
# 图中把论文的每步 0.4 秒全算作计算时间。这其实是八块 GPU 上的时间，已经包含交换梯度，所以单是计算没有那么久，每条曲线都略偏高。图中还假定批次随 rank 数增大。（如果像我们的 `share` 那样批次固定，每个 rank 算得少，网络占的份额就更大。）图中也没有考虑重叠：DDP 把大部分传送藏在反向传播后面，所以实际的训练会更好。从图上可以看出该注意什么：在一台机器内部，网络几乎没有影响；机器之间如果是普通的以太网，传送 260 MB 的梯度，用的时间就和一步本身一样长。怎么办，看公式就知道：少传字节（传 bfloat16），或者每次交换之间多算一些（梯度累积、更大的批次）。
#
# 在**这台**机器上用两个 rank，就能测出 $b$，看看同一个 $b$ 是否适用于各种大小的数据。这里的“网络”就是操作系统：gloo 通过本机连接传送，字节在内存里复制。

# %%
if TORCHRUN:
    program = WORK / "all_reduce.py"
    program.write_text("""
import time, torch, torch.distributed as dist
dist.init_process_group("gloo")
for megabytes in (1, 4, 16, 64):
    gradient = torch.ones(megabytes * 250_000)
    seconds = []
    for _ in range(6):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(gradient)
        seconds.append(time.perf_counter() - begun)
    if dist.get_rank() == 0:
        print(megabytes, min(seconds))
dist.destroy_process_group()
""")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)],
                          env=alone, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    measured = {float(m): float(s) for m, s in (line.split() for line in done.stdout.split("\n") if line)}
    bandwidth = 64e6 / measured[64.0]  # with two ranks, 2(W-1)/W is 1
    parameters = sum(p.numel() for p in load_checkpoint(WORK / "two")[0].parameters())
    lost = ring_seconds(4 * parameters, 2, bandwidth)
    step_seconds = logs["two"][-1]["seconds"] / logs["two"][-1]["step"]
    assert measured[64.0] > measured[4.0]
    print(f"gloo, two ranks on this machine: {bandwidth / 1e9:.2f} GB/s, from 64 MB")
    for megabytes in (1.0, 4.0, 16.0):
        print(f"{megabytes:4.0f} MB: {1e3 * measured[megabytes]:6.2f} ms measured, "
              f"{1e3 * ring_seconds(1e6 * megabytes, 2, bandwidth):6.2f} ms by the formula")
    print(f"the model of the two ranks has {4 * parameters / 1e6:.1f} MB of gradient: {1e3 * lost:.1f} ms by the "
          f"formula, {lost / step_seconds:.1%} of a step of {1e3 * step_seconds:.0f} ms")

# %% [markdown]
# 先看交换在一步里占多大份额，再决定要不要怪网络：模型这么小，交换只占一小部分，两个 rank 没有快一倍，不能怪它。剩下的原因是：快的要等慢的（两份句子的长度不同）；两个 rank 都要更新全部权重；验证和保存只有一个在做；两个核共用一份内存。想弄清楚，就在交换之前测一测 `dist.barrier()` 的时间。
#
# > **试一试。** 运行两个 rank 的命令，先加 `--set max_tokens=1000`，再用 16000。倍数什么时候变大？公式的哪一项没有变？
#
# <details><summary>答案</summary>
#
# 批次大的时候，倍数变大。一次交换的代价 $2 \frac{W-1}{W} \cdot \frac{G}{b}$ 取决于梯度的大小，与词元数无关：每一步都一样；一步的计算量越大，这笔通信开销就分摊得越薄。而且大批次在 rank 之间也分得更均匀。
#
# </details>
#
# ## 11 · 代价怎样增长
#
# 最后一个问题：模型大了，代价增加多少？`python -m course bench train --growth` 训练几种宽度的模型；下面的曲线画的就是它写出的文件，图下写明了是哪台机器。

# %%
growth = json.loads((ASSETS / "results" / "bench_train_growth.json").read_text("utf-8"))
print(growth["device"], growth["threads"], "threads")
shape = {name: growth["sizes"][name] for name in ("src_vocab", "tgt_vocab", "n_heads", "n_layers")}
widths, seconds = (growth["curves"][0][name] for name in ("at", "seconds"))
caption = [([4] * 15, [4] * 15)]
flops_at = [flops_of(TransformerConfig(d_model=width, d_ff=2 * width, **shape), caption) for width in widths]
for i, (narrow, wide) in enumerate(zip(widths, widths[1:])):
    print(f"width {narrow:3} -> {wide:3}: {flops_at[i + 1] / flops_at[i]:.1f} times the FLOPs, "
          f"{seconds[i + 1] / seconds[i]:.1f} times the time")
draw_race.growth(growth)

# %% [markdown]
# 宽度加倍，层里的权重变成四倍，词表那张表里的权重却只变成两倍，所以 FLOPs 增长的倍数在这两个数之间。只要设备离最高速度还远，时间就增长得更慢，因为矩阵宽了，乘法更能发挥设备的能力；所以没有哪一个幂次能描述整条曲线，图例里写的幂次只是平均斜率（色带：重复测量的四分位数）。另一个方向是长度，第 03 课测过：注意力按长度的平方增长。
#
# ## 你实现了什么
#
# | 名称 | 输入 → 输出 |
# |---|---|
# | `byte_mask`, `ByteDropout`, `replace_dropout` | x → 形状相同的掩码；换上字节暂退法的模型 |
# | `keep_freed_memory` | 让 glibc 不归还已有的内存；有效时返回 True |
# | `bfloat16_gain` | 设备 → 它的 16 位乘法快几倍 |
# | `Switches`, `Switches.best(device)` | 各个技巧的开关；在某个设备上值得打开哪些 |
# | `Objective`, `lower_precision` | `Batch` → 损失之和，降不降精度、编不编译，由开关决定 |
# | `FastStep(...).update(batches, rate)` | 批次 → 每词元的损失、梯度的范数 |
# | `ahead` | 一个迭代器 → 同样的内容，由线程提前准备 |
# | `Ranks`, `joined`, `device_of_rank`, `restarted` | 当前进程是几个进程里的哪一个 |
# | `Trainer(..., stepper=FastStep)` | 第 07b 课的 `Trainer`，又快，又能用任意多个 rank |
#
# `python -m course train` 把这些都用上了：`--precision`、`--compile`，前面还可以加 torchrun。
#
# ## 小结
#
# - 一个训练步，每词元大约要 $6P$ 次 FLOPs。用 FLOPs 除以时间，再与普通矩阵乘法的速度相比，就是利用率。
# - 朴素循环的时间大多花在填充上。办法是按长度排序，只投影真实的词元，再用融合的优化器。
# - 在 CPU 上，如果张量很大，用字节做暂退法、内存留着不还，还能再省一些时间：请测一测。用 bfloat16 乘，用 float32 加，权重保持 float32。
# - 几个 rank 合做一个训练步：句子分给各个 rank，梯度加起来，再除以整个一步的词元数。平均的平均是错的。
# - 环形 all-reduce 在每条链路上传送的数据最多是梯度的两倍，不管有多少个 rank。
#
# ## 延伸阅读
#
# - Kaplan et al. 2020, *Scaling Laws for Neural Language Models*, 2.1 节：怎样数 FLOPs。arXiv 2001.08361
# - Micikevicius et al. 2018, *Mixed Precision Training*. arXiv 1710.03740
# - Kalamkar et al. 2019, *A Study of BFLOAT16 for Deep Learning Training*. arXiv 1905.12322
# - Ansel et al. 2024, *PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph Compilation*, ASPLOS
# - Li et al. 2020, *PyTorch Distributed: Experiences on Accelerating Data Parallel Training*. arXiv 2006.15704
# - Meta 2024, *The Llama 3 Herd of Models*, 3.3.4 节：54 天里中断 419 次。arXiv 2407.21783
# - Patarasuk, Yuan 2009, *Bandwidth optimal all-reduce algorithms for clusters of workstations*, JPDC 69
#
# **作业。** 写一个测试：把一个批次切成两半，把两半的梯度加起来，再除以整个批次的真实词元数。它必须等于没切开的批次的梯度；如果先对两半各自求平均，再把两个平均值求平均，得到的梯度必须与它不同。[作业：训练](homework/training/training.ipynb)里有损失和优化器。
#
# **下一课：** [第 08 课](08_decoding.ipynb)：从训练好的模型到句子，解码也要快。

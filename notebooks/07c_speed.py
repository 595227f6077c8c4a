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
# # 07c · Fast, on one device and on many
#
# > Speed: cheaper steps, 16-bit products, compiled kernels, several devices (paper, section 5.2).
#
# The paper's base model was trained for twelve hours on eight GPUs. You have perhaps two processor
# cores. Both need the same skill: to know where the time goes, to take away what is not needed, and to
# be sure that the result stays the same. Lesson 07 made training *right*. This lesson makes the same
# steps *fast*, first on one device, then on several at once.
#
# **After this lesson you can**
#
# - say how many multiplications a training step needs, and which share of your device it uses;
# - name seven reasons why a plain loop is slow, and measure those that count on your own machine;
# - tell which 16-bit format to use for what, and why the sums stay in 32 bits;
# - split a step among several processes so that the result is the step of one;
# - start, kill and continue a run on several devices, and estimate what the network costs.
#
# **You need first** lessons 06 and 07. **Time:** 85 minutes. **In the paper:** section 5.2 (hardware
# and schedule); section 3.2.1 says why dot products are fast: "matrix multiplication code".
#
# Every timing on this page was measured on the machine that ran it, except where a device is named.
# The text says what was the same each time that we looked; read your own numbers beside it.

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
# ## 1 · How fast could it be?
#
# Before you make anything faster, compute what is possible. Nearly all the work of a Transformer is
# matrix products, and a product of an $(n, m)$ with an $(m, p)$ matrix costs $2nmp$ floating-point
# operations (FLOPs): $nmp$ multiplications, as many additions. A weight matrix with $P$ numbers that
# meets one token costs $2P$. The backward pass needs two products for each one of the forward pass,
# one for the gradient of the weights and one for the gradient of the input. So, for weights that meet
# every token,
#
# $$\text{FLOPs of a training step} \approx 6 \cdot P \cdot \text{tokens} .$$
#
# How many FLOPs a second can the device do? Multiply two large matrices and look at the clock. The
# share of that rate which a training step reaches tells how much there is to gain: it is called
# *utilisation*.
#
# We take a small model and real batches, the captions of this course, and the plain step of lesson 07.
#
# **Guess:** which share of its speed does your device use in that step: 90 %, 60 %, 30 %, 5 %?

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
# The rule $6P$ per token is good enough for the back of an envelope. Is the exact count close to it?
# Almost every weight meets each token of its side once (in cross-attention $W^K$ and $W^V$ belong to the
# decoder and meet the source: a small error here); the tied table meets the target tokens, in the projection.
# What the rule leaves out is attention itself, whose products have no weights.

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
# Where does the rest of the time go? PyTorch's *profiler* notes every operation. We sort them into
# a few groups.

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
# The products with weights, in blue, and the two products of attention (with its softmax, in one program) are the
# useful arithmetic. All the rest only serves it; on a CPU, look at the random numbers of dropout. The wider
# the model, the larger the share of the products: they grow with the square of the width, all the rest only in
# proportion.
#
# > **Try it.** Take the preset `tiny` instead of `small`, then `cpu`. What becomes of the utilisation?
#
# <details><summary>Answer</summary>
#
# It falls with `tiny` (width 64) and rises with `cpu` (width 256): the products grow with the square of the width, all the
# rest only in proportion. On the machine of section 11 a model of width 256 does 9 times the FLOPs of width 64 in 3.5
# times the time, so 2.5 times as many a second.
#
# </details>
#
# ## 2 · The naive loop, and what it wastes
#
# This is the loop of many tutorials. It takes sentences in random order, pads all of them to a fixed
# length of 72, and projects every position to the vocabulary.

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
# It is not wrong. With the same sentences it follows the same gradient as ours, as the next cell shows.
# Only, most of its work is for nothing. **Guess:** our captions have about fourteen tokens. Which share
# of the naive loop's positions is padding? And which share in the sorted batches of lesson 06?

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
# That was the first reason, and the largest. The second is the **projection**: for a small model it is
# the widest matrix of all, and the naive loop multiplies it with every padded position. Ours picks the
# real positions first (lesson 07, section 2). The third is the **optimizer**: Adam works on four numbers for
# each weight (weight, gradient, two averages); written as ten separate operations it walks through the
# memory ten times, *fused* it walks once.
#
# These three were switched on in lesson 07 already. Now four more, one by one.
#
# ## 3 · Cheaper dice: dropout from bytes
#
# Dropout throws a die for every number: keep it with probability $1 - P_{\mathrm{drop}}$. On most CPUs PyTorch
# draws these decisions one after another, each from a random number of 32 bits or more. (On Intel's processors a
# library draws many at once. The ratio that the next cell prints is of the processor that ran this page.) That is far more precision than the question needs. One random **byte** has 256 values. Keep the element if its
# byte is at least $t$: the probability to drop is $t / 256$, so a $P_{\mathrm{drop}}$ of 0.1 becomes
# $26/256 = 0.1016$. One random number of 64 bits gives eight decisions.
#
# To keep the expected value, divide by the probability that is *really* used, $1 - t/256$.

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
# Claims: the share of dropped elements is what it should be, neighbours are independent although they
# come from one random number, and the mean stays. And the thing must really be random in *all* eight
# bytes: a generator that gives 63 bits would leave the top byte below 128.

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
# On a GPU nothing is to be gained. CUDA's generator (*Philox*) needs no turn-taking: it computes the random number of
# each place from one seed and a counter, so thousands of cores draw at the same time, in one program. So this is a
# switch for CPUs.
#
# ## 4 · Memory that stays
#
# A training step makes hundreds of large tensors and throws them away. Where does their memory come
# from? `glibc`, the C library of most Linux systems, asks the operating system for a fresh piece for a very
# large tensor (always above 32 MiB), and gives freed memory back as soon as much of it lies together. Fresh memory is expensive: the system hands it out in
# *pages* of 4 KiB, each filled with zeros at the first touch (a *page fault*). The logits of a batch of 2,000
# tokens, times 5,000 words, times 4 bytes, are 40 MB, or 9,800 pages.
#
# Nothing forbids the process to keep what it has. `glibc` has a setting for it, `mallopt`. (On a GPU, PyTorch does this by itself; its *caching allocator* is the same idea. macOS and
# Windows have other libraries; there the function does nothing and says so.)

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
# What does it cost? The process holds on to the most that it ever needed. For training that is fine; on a
# machine that you share it may not be.
#
# ## 5 · Sixteen bits: bfloat16
#
# A `float32` has 1 bit for the sign, 8 for the exponent and 23 for the digits. Half of that is enough for
# many purposes; there are two ways to save.
#
# | format | sign, exponent, digits | largest number | next number after 1 |
# |---|---|---|---|
# | float32 | 1, 8, 23 | $3.4 \cdot 10^{38}$ | $1 + 1.2 \cdot 10^{-7}$ |
# | float16 | 1, 5, 10 | 65,504 | $1 + 0.00098$ |
# | bfloat16 | 1, 8, 7 | $3.4 \cdot 10^{38}$ | $1 + 0.0078$ |
#
# float16 keeps three decimal digits and loses the range: gradients below $3 \cdot 10^{-8}$ become 0,
# scores above 65,504 become infinite, and training needs a trick (*loss scaling*) to stay in between.
# bfloat16 (from Google *Brain*) keeps the range and has barely more than two digits. Networks do not
# mind rough numbers, since a gradient from a batch is rough already; they do mind numbers that are
# not there.
#
# **Guess:** in bfloat16, what is 256 + 1? And what is the sum of ten thousand times 0.01, one after
# another?

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
# The sum sticks at 4: from there on, 0.01 is less than half the distance to the next number. So the
# rule is: **multiply in 16 bits, add in 32.** The hardware multiplies two bfloat16 matrices and sums in
# float32 by itself. The weights stay in float32, because a step of Adam is far smaller than a weight, and
# would be rounded away like the 1 above.
#
# `torch.autocast` does this: within its block, matrix products get their inputs rounded to bfloat16, and the
# weights themselves stay as they are. On CUDA it also computes softmax, norms and losses in float32. On a CPU
# these take the type of what they are given: our norms get float32 (the residual stream is a sum, and stays
# in 32 bits), the loss gets the bfloat16 scores of the last product. So lesson 07's loss turns its scores to
# float32 first: summed in bfloat16, a loss of 2587.8 came out as 2592.

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
# Is it faster on your machine? NVIDIA's GPUs since 2020 (Ampere) have units for it, and some processors, too (AVX512-BF16,
# AMX, recent ARM). Others imitate it and are *slower*, some by far. So we do not ask for the name of the
# processor, we measure. Where it is slower, this page makes no long run with it. The answer is one of the switches of
# a run:

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
# ## 6 · One kernel for many: torch.compile
#
# Look at one residual: dropout, an addition, a norm. Each is a *kernel*, a small program that reads its
# input from memory and writes its output back. The arithmetic is nothing; the reading and writing is
# all. `torch.compile` traces the model, writes new kernels that do several operations at one reading, and
# compiles them, for a GPU or (with a C++ compiler) for a CPU. This takes a minute or so at the start.
#
# One trap: by default the compiler makes a program for the exact *shapes* that it sees first, and when another
# shape comes, it compiles once more, for any shape. Our batches have another shape each time: `dynamic=True`
# makes the general program at once. What it gains depends on the device more than any other trick; the ladder of
# section 8 measures it on CUDA, where it is meant for. On other devices this lesson only checks that the
# numbers stay.
#
# The switches come together in one module, whose `forward` is the loss of a batch.

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
# The claims. With a dropout of 0, the first two switches must change nothing. bfloat16 may change the loss by one
# percent, and its gradient must point in the same direction. `compile` is tried on one layer, in the cell
# after this one.

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
# ## 7 · The step
#
# `FastStep` is lesson 07's `train_step` with the switches. (It can also share its work with others: that is
# section 10; ignore `ranks` for now.) On a GPU the loss is fetched once a step, not after every batch:
# each `.item()` makes the processor wait until the GPU has done everything.

# %% [markdown]
# First a small record that section 10 will need: which of several processes this is. Alone, it is rank 0
# of 1, and its `share` of a batch is the batch.

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
# ## 8 · The ladder
#
# Now all of it, measured on your device: from the naive loop up, one trick after the other.
#
# **Guess:** which rung brings the largest gain? By which factor is the top faster than the bottom?

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
# The largest step is free of any hardware: do not compute what nobody needs. (The rung "similar lengths" changes
# two things, the padding and the number of real tokens in a step; both count here.) The model is small, so
# that the page stays quick, and so are its tensors: cheap bytes and memory that stays have little to save here, and
# may even cost a little. `python -m course bench train` measures the preset `cpu`, in separate
# processes and against PyTorch's own `nn.Transformer`. Its figures, from a named machine:

# %%
stored = json.loads((ASSETS / "results" / "bench_train.json").read_text("utf-8"))
rate_of = {entry["name"]: entry["rate"]["median"] for entry in stored["contestants"]}
print(f"{stored['device']}, {stored['threads']} threads, preset {stored['sizes']['preset']}")
for name, rate in sorted(rate_of.items(), key=lambda item: item[1]):
    print(f"{name:28} {rate:6,.0f} target tokens/s")
print(f"bytes and memory that stays, over lesson 07: {rate_of['ours'] / rate_of['lesson-07']:.2f} times; "
      f"bfloat16 on top: {rate_of['ours-bfloat16'] / rate_of['ours']:.2f} times")

# %% [markdown]
# Is it still the same training? A fast step that learns something else is worth nothing. We train some dozens
# of steps with lesson 07's step and with all the tricks.

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
# The curves would lie on each other, so the picture on the right shows their differences. They are not equal number by
# number: the masks of dropout differ, as they do between the two seeds of lesson 07. The blue curve says how far that
# alone takes two runs apart.
#
# One pair of runs cannot say more. Over twelve seeds each, the tricks end $0.021 \pm 0.010$ nats higher on val after these two
# passes. Why? Bytes drop 26/256 instead of 0.1: `nn.Dropout` with that probability ends $0.007 \pm 0.004$ higher (six seeds).
# And masks made in the same way from 16 bits, so with 0.1, differ from `nn.Dropout` by $0.008 \pm 0.011$: nothing that chance
# does not do.
#
# > **Try it.** Double the epochs in `curve_of`. Do the tricks differ by more than the seeds now?
#
# <details><summary>Answer</summary>
#
# One run of each cannot say: here another seed is 0.009 nats away on val, all tricks 0.037, and the next seed has other
# numbers. Take several seeds, as above. A slower start would be made up for with more passes; a trick that broke the
# gradient would be further away with every pass, and always on one side.
#
# </details>
#
# ## 9 · Feeding a GPU
#
# A GPU does not wait for the program: PyTorch only *queues* kernels. The GPU is idle whenever the queue is
# empty, for example while the program builds the next batch from Python lists. Two cures. A **thread**
# prepares the next batches while the current one is in use. And memory that is **pinned**, which the
# operating system promises not to move, can be read by the GPU itself, while it computes.

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
# ## 10 · Many devices: one step, shared (paper, section 5.2)
#
# Eight GPUs took 0.4 seconds for a step of the base model. How do eight processes make *one* step? Each
# holds a copy of the model, called a *replica*. Each takes its share of the sentences and computes the
# gradient of that share. Then the gradients are added up over all processes, which is called
# **all-reduce**, and every process makes the same step with the same sum. The replicas stay equal, because
# they started equal and made equal steps. A process is called a *rank*; their number is the *world*.
#
# The trap is the one of lesson 07, section 5: the ranks hold **different numbers of tokens**, so the mean
# of their means is wrong. With $L_r$ the summed loss of rank $r$ and $n$ the tokens of the *whole* step,
#
# $$\nabla L = \frac{1}{n} \sum_{r} \nabla L_r
# = \frac{1}{W} \sum_{r} \nabla \left( \frac{W}{n} L_r \right) .$$
#
# PyTorch's `DistributedDataParallel` (DDP) averages over the $W$ ranks; that is the right-hand side. So we
# hand it the summed loss, times $W$, over the tokens of all. In `FastStep` above it is one line.
#
# How do we split the data? We give rank $r$ the sentences $r, r + W, r + 2W, \dots$ of *every* batch.
# Then the batches, the steps and the learning rate are the same for any number of ranks: more ranks
# change the speed, not the run (only the masks of dropout differ). To use the memory of all devices,
# raise `max_tokens`. A batch may
# have fewer sentences than there are ranks. A rank without a sentence must still take part in the
# all-reduce, or the others wait for it for ever. It gets a sentence with nothing to predict: lesson 07
# showed that its loss is 0 and its gradient exactly 0.
#
# That is the record `Ranks` of section 7, and its method `share`. We can check the formula without any second
# process: the gradients of the shares, computed one after another, must add up to the gradient of the whole.

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
# Nine ranks for seven sentences: two of them had nothing to do, and did it correctly.
#
# What does DDP do better than a loop that adds up gradients at the end? It does not wait. The gradients of
# the last layers are ready first; DDP sends them in buckets of 25 MB while the earlier layers are still
# computing. And with accumulation it sends only after the last batch of the step (`no_sync`).
#
# ### The trainer, on one rank or several
#
# `torchrun --nproc-per-node 2 program` starts the program twice and tells each process, in environment
# variables, who it is. The processes find each other at a *rendezvous*: an address that all of them know, where each
# leaves word of its own. After a crash the words of the dead still lie there, and a new process would wait for
# somebody who no longer answers; so each restart gets a drawer of its own (`PrefixStore`). The library that carries the
# gradients is *nccl* for GPUs and *gloo* for CPUs.

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
# What must be one, although there are many? One progress bar, one log, one checkpoint: the first rank writes
# them; on the others the trainer has no desk. One clock, or a budget of minutes would end at different steps. One
# decision to stop: Ctrl-C may reach one rank a step earlier than another, and the others would wait for it for ever. The
# methods `clock` and `stops` of `FastStep`, which every rank calls after every step, are where they agree on both; in
# `meet` the others wait until the first rank has written what they start from. So the trainer of lesson 07b needs no
# change: `Trainer(..., stepper=FastStep)`, and with the choices made,
# `Trainer(..., stepper=partial(FastStep, switches=..., ranks=...))`.

# %%
#| export
def recorded_switches(directory: Path) -> Switches:
    """Return the switches that a run was started with; none for a run of lesson 07."""
    record = read_record(directory / "training.json")
    return Switches(**{f.name: record.get(f"switches.{f.name}", False) for f in fields(Switches)})

# %% [markdown]
# Now the proof, with two real processes. One run alone, one run with two ranks, without dropout (each rank
# throws its own dice), on captions. Both run on the CPU, one core for each process, whatever device this page
# uses. A third run has one rank, and gives it both cores as two threads: that is what a reader with one
# machine would do otherwise.
#
# **Guess:** two ranks on two cores of one machine: twice as fast? And two threads?

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
# The same run, up to rounding: floating-point sums depend on their order, and every step makes a
# difference in the last digit a little larger. Every sentence was used exactly once an epoch: the token
# counts agree.
#
# ### A rank dies
#
# Machines fail; when Llama 3 was trained on 16,384 GPUs, something broke down about every three hours (Meta
# 2024). We start a run on two ranks, wait for its
# first checkpoint, and `kill -9` one of them. torchrun notices, stops the other, and starts both again
# (`--max-restarts`). The program sees that it was restarted, finds the state on disk, and goes on.

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
# The same loss, to the last digit that the log holds.
#
# ### Several machines
#
# On each of 4 machines with 8 GPUs, the same command, with the address of one of them:
#
# ```
# export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1   # fresh addresses after a restart
# torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint first-machine:29500 \
#     --rdzv-id base-run --max-restarts 3 -m course train --corpus multi30k --preset base --out /shared/runs/base --epochs 30
# ```
#
# `--out` must be a directory that all machines see (the first rank writes, all read when they start). The id
# names the run: the same command, given again, goes on with it.
# Nothing in the program changes. What changes is the way that the gradients travel.
#
# **What does the network cost?** In a *ring* all-reduce each of $W$ ranks sends and receives
# $2 (W-1)/W$ times the size of the gradient (once around to add up, once around to distribute). With
# $G$ bytes of gradient, a bandwidth of $b$ bytes a second and a delay $\ell$ for each of the $2(W-1)$
# messages,
#
# $$t_{\text{network}} = 2\,\frac{W-1}{W} \cdot \frac{G}{b} + 2 (W-1)\, \ell .$$
#
# The first term stays below $2G/b$ for any number of ranks. The second grows with $W$, but is small until there
# are very many. This is why the ring is a standard scheme (for many machines, libraries also use trees). The
# base model has 65 million parameters, $G = 260$ MB.

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
# The figure takes the paper's 0.4 s a step as computing alone. They are the time on eight GPUs and hold their exchange
# already, so the computing was shorter, and each curve is a little too high. It also assumes that the batch grows with
# the ranks. (With a fixed batch, as in our `share`, each rank computes less, and the network's share is
# larger.) And it assumes no overlap: DDP hides a large part of the traffic behind the backward pass, so real
# runs do better. It says what to look at: within one
# machine the network hardly matters; between machines with ordinary Ethernet the gradient of 260 MB takes
# as long as the step itself. The cures follow from the formula: fewer bytes (send bfloat16), or more
# computing for each exchange (accumulation, larger batches).
#
# Two ranks on *this* machine let us measure $b$, and see whether one $b$ fits all sizes. Here the "network" is
# the operating system: gloo sends through local connections, and the bytes are copied in memory.

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
# Look at the share before you blame the network: for a model as small as this, the exchange is a small part of a
# step, and cannot explain what two ranks lack to twice the speed. What is left: each waits for the slower one
# (their shares have different lengths); each steps on all weights; one alone validates and saves; and two cores
# share one memory. To find out, time a `dist.barrier()` before the exchange.
#
# > **Try it.** Run the two-rank command with `--set max_tokens=1000`, then with 16000. When does the factor
# > grow? Which term of the formula stayed the same?
#
# <details><summary>Answer</summary>
#
# With the large batches. What an exchange costs, $2 \frac{W-1}{W} \cdot \frac{G}{b}$, follows from the size of the gradient and
# not from the tokens: it is the same for each step, and a long step has more computing to set against it. Large batches are
# also shared more evenly between the ranks.
#
# </details>
#
# ## 11 · How the cost grows
#
# The last question: what does a larger model cost? `python -m course bench train --growth` trains models of
# several widths; the curves below are the file that it wrote on the machine that is named below.

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
# Twice the width has four times the weights in the layers, but only twice as many in the table of the
# vocabulary: the FLOPs grow by a factor in between. The time grows even less while the device is far from its
# rate, since wide products use it better; so no single power fits the whole curve, and the one in the legend is
# only its mean slope (the band: quartiles of the repeats). Lesson 03 measured the other axis, the length:
# attention grows with its square.
#
# ## What you built
#
# | name | takes → gives |
# |---|---|
# | `byte_mask`, `ByteDropout`, `replace_dropout` | x → mask of the same shape; a model with cheap dice |
# | `keep_freed_memory` | glibc keeps what it has; True where that works |
# | `bfloat16_gain` | device → how many times faster its 16-bit products are |
# | `Switches`, `Switches.best(device)` | the tricks, on or off; what pays on a device |
# | `Objective`, `lower_precision` | `Batch` → summed loss, cast and compiled as switched |
# | `FastStep(...).update(batches, rate)` | batches → loss per token, norm of the gradient |
# | `ahead` | an iterator → the same, prepared by a thread |
# | `Ranks`, `joined`, `device_of_rank`, `restarted` | who this process is among several |
# | `Trainer(..., stepper=FastStep)` | lesson 07b's `Trainer`, fast and on any number of ranks |
#
# `python -m course train` uses all of it: `--precision`, `--compile`, and torchrun in front of it.
#
# ## Summary · 小结
#
# - A training step costs about $6P$ FLOPs a token. Divide by the clock and compare with a plain matrix product:
#   that is the utilisation.
# - Most of the naive loop's time goes into padding. Sort by length, project only real tokens, fuse the optimizer.
# - On a CPU, cheap random bytes and memory that stays can save more, where tensors are large: measure it. Multiply
#   in bfloat16, add in float32; keep float32 weights.
# - Several ranks make one step: share the sentences, sum the gradients, divide by the tokens of all. The mean of
#   means is wrong.
# - A ring all-reduce moves at most twice the gradient through each link, however many ranks there are.
#
# <div lang="zh">
#
# **小结**
#
# - 训练时每个词元约需 $6P$ 次浮点运算；与纯矩阵乘法的速度相比，就得到设备的利用率。
# - 朴素训练循环的大部分时间花在填充上：按长度分批，只对真实词元做输出投影，使用融合的优化器。
# - 在 CPU 上，张量较大时，用随机字节做暂退法（dropout）、不把释放的内存还给系统，可以再省下一部分时间（请自己测量）。乘法用 bfloat16，
#   累加和权重用 float32。
# - 多个进程共同完成一步：各自计算一部分句子的梯度，求和后除以整步的真实词元总数；“平均值的平均”是错的。
# - 环形 all-reduce 中每条链路传输的数据量不超过梯度大小的两倍，与进程数无关。
#
# </div>
#
# ## Further reading
#
# - Kaplan et al. 2020, *Scaling Laws for Neural Language Models*, section 2.1: counting FLOPs. arXiv 2001.08361
# - Micikevicius et al. 2018, *Mixed Precision Training*. arXiv 1710.03740
# - Kalamkar et al. 2019, *A Study of BFLOAT16 for Deep Learning Training*. arXiv 1905.12322
# - Ansel et al. 2024, *PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and
#   Graph Compilation*, ASPLOS
# - Li et al. 2020, *PyTorch Distributed: Experiences on Accelerating Data Parallel Training*. arXiv 2006.15704
# - Meta 2024, *The Llama 3 Herd of Models*, section 3.3.4: 419 interruptions in 54 days. arXiv 2407.21783
# - Patarasuk, Yuan 2009, *Bandwidth optimal all-reduce algorithms for clusters of workstations*, JPDC 69
#
# **Homework.** Write a test: cut a batch in two, add the gradients of the halves, and divide by the real tokens of
# the whole batch. It must give the gradient of the uncut batch; the mean of the two means must not.
# [Assignment training](homework/release/training/training.ipynb) has the loss and the optimiser.
#
# **Next:** [lesson 08](08_decoding.ipynb): from the trained model to sentences, and fast there, too.

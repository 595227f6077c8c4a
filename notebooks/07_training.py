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
# > Training: loss, learning rate, steps, checkpoints, resuming, averaging (paper, section 5).

# %% [markdown]
# A fresh Transformer (lesson 05) translates every sentence into noise. This lesson turns noise
# into German-to-English translation, and it does so in a way that you can trust: the run can be
# stopped, killed and continued, and it arrives at the same weights.
#
# **After this lesson you can**
#
# - say what label smoothing punishes, and compute the lowest loss that it allows;
# - compute the paper's learning rate by hand, and say what each part of Adam does;
# - make one large training step out of several small batches without changing the result;
# - read a loss curve against baselines that you computed before training;
# - save a run so that it survives Ctrl-C, a lost terminal and a full disk;
# - average checkpoints, and say when that helps.
#
# **You need first** lessons 04 (masks and `Batch`), 05 (the model) and 06 (tokens and batches),
# and what a gradient is (lesson 01). **Time:** 130 minutes. **In the paper:** section 5, all
# of it; the averaging of checkpoints is in section 6.1.
#
# Five words that we use all the time:
#
# | word | meaning here |
# |---|---|
# | loss | one number that says how bad the predictions are; training makes it small |
# | gradient | for each weight: how the loss changes if the weight grows a little |
# | step | one change of all the weights (the paper: *training step*) |
# | epoch | one pass over all the training sentences |
# | learning rate | how far one step moves the weights |
#
# The first code cell holds what the exported code needs. Cells that begin with `#| export` become
# the module `course/training.py`; all the others are demonstrations.

# %%
#| export
import hashlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn
from tqdm import tqdm

from course import ASSETS
from course.masking import Batch
from course.seq2seq import RNNTranslator, Seq2SeqConfig
from course.text import BPE, PAD, Example, Pair, encode_pairs, make_batches, token_batches
from course.transformer import Transformer, TransformerConfig

# %% [markdown]
# ## 1 · What is a good prediction? The loss (paper, section 5.4)
#
# At each position the decoder gives one score, a *logit*, to each of the $V$ tokens of the
# vocabulary. Softmax turns the logits $z$ into probabilities $p$. The text says which token $y$
# comes next. The usual loss is the **cross-entropy**: the negative logarithm of the probability
# that the right token got.
#
# $$L = -\ln p_y$$
#
# The natural logarithm measures it in *nats*. A model that gives the right token probability 1
# has loss 0. A model that has no idea, $p_y = 1/V$, has loss $\ln V$. People often report
# $e^{L}$, called **perplexity**: a perplexity of 5 means "as unsure as a fair choice among 5
# tokens". It counts per token of *this* vocabulary: cut the same text into other tokens, and the
# number changes.
#
# Now think about what this loss wants. It falls as long as $p_y$ grows. Softmax reaches 1 only
# when one logit is infinitely larger than the others, so the model is asked for ever larger
# logits, on sentences where several translations would be right. The paper's answer is **label
# smoothing** (Szegedy et al. 2015): do not ask for probability 1. Take a small share
# $\varepsilon = 0.1$ away from the right token and spread it evenly over all tokens. The target
# becomes
#
# $$q_k = (1-\varepsilon)\,[k = y] + \frac{\varepsilon}{V}$$
#
# where $[k = y]$ is 1 for the right token and 0 otherwise. The cross-entropy against it is
#
# $$L = -\sum_{k=1}^{V} q_k \ln p_k
# = -(1-\varepsilon) \ln p_y - \frac{\varepsilon}{V} \sum_{k=1}^{V} \ln p_k .$$
#
# The second term is $-\varepsilon$ times the *mean* of the log-probabilities. The code is that
# line. It returns a **sum** over the tokens, not a mean. Section 5 of this lesson shows why.

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


# %% [markdown]
# The demonstrations of this lesson need a few more things than the exported code.

# %%
import copy
import tempfile

import torch.nn.functional as F

from course.corpora import pairs
from course.device import by_scale, pick
from course.text import BOS, EOS
from course.viz import training as draw

torch.manual_seed(0)
DEVICE = pick()
WORK = Path(tempfile.mkdtemp())  # every run of this lesson writes here

# %% [markdown]
# **Before you run the next cell, guess.** The vocabulary has 8 words, the right one is *dog*, and
# $\varepsilon = 0.1$. A model becomes surer and surer of *dog*: 0.5, 0.9, 0.99, 0.9999. With the
# plain loss this is always better. With the smoothed loss: where is the lowest point, and is the
# loss 0 there?

# %%
words = ["a", "the", "dog", "cat", "runs", "sleeps", ".", "</s>"]
right = torch.tensor([words.index("dog")])
soft = torch.full((8,), 0.1 / 8)
soft[right] += 1 - 0.1

confidence = torch.arange(100, 2000) / 2000  # 0.05 to 0.9995
wrong = ((1 - confidence) / 7)[:, None].expand(-1, 8)  # the rest, shared by the 7 wrong words
logits = wrong.scatter(1, right.expand(1900, 1), confidence[:, None]).log()  # (1900, V)
losses = {
    f"ε = {epsilon}": [label_smoothed_loss(z[None], right, epsilon).item() for z in logits]
    for epsilon in (0.0, 0.1)
}
entropy = -(soft * soft.log()).sum().item()
lowest = min(losses["ε = 0.1"])
best = confidence[losses["ε = 0.1"].index(lowest)].item()
assert abs(best - soft[right].item()) < 1e-3 and abs(lowest - entropy) < 1e-4
assert losses["ε = 0.1"][-1] > lowest + 0.2 and losses["ε = 0.0"][-1] < 1e-3
hard = F.one_hot(right, 8)[0].tolist()
draw.smoothed_target(words, hard, soft.tolist(), confidence.tolist(), losses, (best, lowest))

# %% [markdown]
# The dashed curve, the plain loss, falls all the way to the right. The smoothed one turns: it is
# lowest where the model gives *dog* exactly what the target gives it,
# $1 - \varepsilon + \varepsilon / V = 0.9125$. After that, being surer costs more.
#
# And the lowest value is not 0. For any $p$, the cross-entropy $-\sum q_k \ln p_k$ is at least
# the **entropy** of the target, $H(q) = -\sum q_k \ln q_k$, with equality only for $p = q$
# (Gibbs' inequality). So a smoothed loss has a **floor** that no model can go below. Remember it:
# the loss printed during training includes this floor. For comparisons we always compute the
# plain loss, $\varepsilon = 0$.
#
# The gradient says the same in one line. For the logits,
#
# $$\frac{\partial L}{\partial z_k} = p_k - q_k .$$
#
# The gradient is the difference between what the model says and what the target says. A model
# that is surer than the target, $p_y > q_y$, is pushed *back*. The next cell checks this formula
# by automatic differentiation. It then compares the whole function with PyTorch's, loss and
# gradient. It also settles a detail on which libraries differ: **over how many tokens is
# $\varepsilon$ spread?** Ours and PyTorch's spread it over all $V$. Others, tensor2tensor (the code
# of the paper's authors) among them, spread it over the $V - 1$ wrong ones, which is the same with
# $\varepsilon' = \varepsilon\,(V-1)/V$. Published values of $\varepsilon$ mean slightly different
# things; for a vocabulary of thousands the difference is tiny.

# %%
logits = torch.randn(6, 50, dtype=torch.double, requires_grad=True)  # (N, V)
target = torch.randint(50, (6,))
ours = label_smoothed_loss(logits, target, 0.1)
(gradient,) = torch.autograd.grad(ours, logits)

q = torch.full((6, 50), 0.1 / 50, dtype=torch.double).scatter_add(
    1, target[:, None], torch.full((6, 1), 0.9, dtype=torch.double)
)
torch.testing.assert_close(gradient, logits.softmax(-1) - q)  # p - q

theirs = F.cross_entropy(logits, target, label_smoothing=0.1, reduction="sum")
torch.testing.assert_close(ours, theirs)
torch.testing.assert_close(gradient, torch.autograd.grad(theirs, logits)[0])

wrong_only = 0.1 * 49 / 50  # ε' spread over the V - 1 wrong tokens
log_p = logits.log_softmax(-1)
right_log_p = log_p.gather(1, target[:, None]).sum()
others = -(1 - wrong_only) * right_log_p - wrong_only / 49 * (log_p.sum() - right_log_p)
torch.testing.assert_close(ours, others)
assert abs(ours.item() - others.item()) < 1e-9
print("gradient = p - q; equal to F.cross_entropy; ε over V equals ε(V-1)/V over V-1")

# %% [markdown]
# Does it help? In the paper's table 3 (row D) the base model without smoothing has the *better*
# perplexity, 4.67 against 4.92, and the *worse* translations, 25.3 BLEU against 25.8. A model
# that is told to stay unsure is measured as less sure, and still translates better. Why? The paper
# does not say. Two likely reasons: the model overfits less, and its probabilities tell better how
# often it is right, which helps a search that adds them up (beam search, lesson 08). Müller et al.
# (2019) discuss both.
#
# > **Try it.** Set $\varepsilon$ to 0.5 in the figure. Where is the lowest point now? At which
# > $\varepsilon$ would the best model be one that ignores the input?

# %% [markdown]
# ## 2 · Which tokens count? Padding does not
#
# Sentences of one batch have different lengths, so the short ones are filled up with a padding
# token (lesson 04). Padding is not text: it must add nothing to the loss. Two common ways go
# wrong:
#
# - Compute the loss of every position and multiply the padded ones by 0. The result is right, but
#   the most expensive product of the model, states times vocabulary, has been computed for
#   nothing.
# - Use `F.cross_entropy(..., ignore_index=PAD)` with its default, the mean. If a batch (or one
#   computer's part of it) holds no real token, this mean is 0/0, which is NaN, "not a number".
#   One NaN destroys all the weights in the next step.
#
# We choose the real positions *before* the projection to the vocabulary: `states[real]` picks the
# rows where `real` is True, so $(B, T, D)$ becomes $(N, D)$, with $N$ the number of real tokens.

# %%
#| export
def batch_loss(model: Transformer, batch: Batch, epsilon: float = 0.0) -> Tensor:
    """Return the loss summed over the real tokens of a batch; padding is never projected."""
    memory = model.encode(batch.src, batch.src_mask)
    states = model.decode(batch.tgt_in, memory, batch.src_mask, batch.tgt_mask)  # (B, T, D)
    real = batch.tgt_out != PAD  # (B, T)
    return label_smoothed_loss(model.project(states[real]), batch.tgt_out[real], epsilon)


# %% [markdown]
# **Guess:** three sentences with 3, 9 and 5 target tokens are put in one batch. How many rows
# reach the projection: 27, 17 or 9? And is the loss of the batch the sum of the three losses
# alone?

# %%
small = TransformerConfig(40, 40, d_model=32, n_heads=4, d_ff=64, n_layers=2, dropout=0.0)
model = Transformer(small).double()  # float64, so that equal means equal
sources = [[*torch.randint(4, 40, (n,)).tolist(), EOS] for n in (4, 6, 2)]
targets = [[*torch.randint(4, 40, (n - 1,)).tolist(), EOS] for n in (3, 9, 5)]

projected = []  # how many rows the projection sees
hook = model.w_vocab.register_forward_hook(lambda module, x, y: projected.append(x[0].shape[0]))
together = batch_loss(model, Batch.from_sequences(sources, targets, PAD, BOS)).item()
hook.remove()
alone = [
    batch_loss(model, Batch.from_sequences([s], [t], PAD, BOS)).item()
    for s, t in zip(sources, targets)
]
assert projected == [3 + 9 + 5]
assert abs(together - sum(alone)) < 1e-9
print(f"{projected[0]} rows projected, not {3 * 9}; the batch's loss is the sum of the sentences'")

# %% [markdown]
# What a sentence adds to the sum does not depend on which sentences share its batch. And a batch
# of nothing but padding? An empty sum is 0, with gradient 0. The mean of nothing is NaN.

# %%
nothing = Batch.from_sequences([[PAD, PAD]], [[PAD, PAD]], PAD, BOS)
loss = batch_loss(model, nothing, 0.1)
loss.backward()
assert nothing.n_tokens == 0 and loss.item() == 0
assert all(p.grad.abs().max() == 0 for p in model.parameters())  # no NaN, exactly 0
naive = F.cross_entropy(torch.randn(2, 40), nothing.tgt_out[0], ignore_index=PAD)
assert naive.isnan()
print(f"sum: {abs(loss.item())}, mean with ignore_index: {naive.item()}")

# %% [markdown]
# ## 3 · How far to step? The learning rate (paper, section 5.3)
#
# The gradient says in which direction to change the weights; the learning rate says how far. The
# paper changes the rate during training. With $t$ the number of the step, counted from 1, and $w$
# the number of warm-up steps (*warmup_steps*, 4000 in the paper), equation 3 is
#
# $$\mathrm{rate}(t) = d_{\mathrm{model}}^{-1/2} \cdot
# \min\left(t^{-1/2},\ t \cdot w^{-3/2}\right) .$$
#
# The second term is a straight line through 0; the first falls like $1/\sqrt{t}$. The minimum
# follows the line first and the root later. They meet where $t^{-1/2} = t \cdot w^{-3/2}$, that
# is $t^{3/2} = w^{3/2}$, so $t = w$. There the rate has its **peak**,
# $(d_{\mathrm{model}} \cdot w)^{-1/2}$.
#
# Why begin small? Fresh weights give large gradients in some layers, above all next to the output
# when the norms stand after the residuals as in the paper (Xiong et al. 2020). Adam's estimates,
# next section, also rest on few gradients at first. Large steps in the wrong direction at the
# very beginning are hard to repair.

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


# %% [markdown]
# **Guess:** the base model has $d_{\mathrm{model}} = 512$ and 4000 warm-up steps. Is its highest
# rate nearer to 0.1, 0.01, 0.001 or 0.0001? And what happens if you give this function to
# PyTorch's `LambdaLR`, which counts steps from 0?

# %%
for d_model, warmup in ((512, 4000), (1024, 4000), (64, 100)):
    rates = [paper_learning_rate(step, d_model, warmup) for step in range(1, 3 * warmup)]
    assert rates.index(max(rates)) + 1 == warmup
    assert math.isclose(max(rates), (d_model * warmup) ** -0.5)
    print(f"d_model {d_model}, warm-up {warmup}: peak {max(rates):.2e} at step {warmup}")

some_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
try:
    torch.optim.lr_scheduler.LambdaLR(some_optimizer, lambda t: paper_learning_rate(t, 512))
    raise AssertionError("step 0 was accepted")
except ValueError as error:
    print("LambdaLR:", error)

# %% [markdown]
# The paper's schedule has one property that matters to us: it never ends. It falls slowly, and it
# does not know when you will stop. If you can say in advance how long you will train, a schedule
# that reaches exactly 0 at the end leaves a model that has come to rest. So our default
# rises to a peak and then falls on a straight line. With $s$ the share of the budget that is
# spent, from 0 to 1,
#
# $$\mathrm{rate}(t) = r_{\max} \cdot \min\left(\frac{t}{w},\ 1 - s\right) .$$
#
# The budget may be a number of epochs, or *minutes*: $s$ is then read from the clock.

# %%
#| export
def linear_learning_rate(step: int, progress: float, peak: float, warmup: int) -> float:
    """Return a rate that rises to `peak` in `warmup` steps and falls to 0 with the budget.

    progress: the share of the budget that is spent, 0 to 1.
    """
    return peak * min(step / warmup, 1.0 - progress)


# %%
paper = {
    f"d_model {d}, warm-up {w}": [paper_learning_rate(t, d, w) for t in range(1, 20001)]
    for d, w in ((512, 4000), (512, 8000), (1024, 4000))
}
ours = {
    f"{n} steps": [linear_learning_rate(t, t / n, 1.5e-3, 300) for t in range(1, n + 1)]
    for n in (1000, 3000)
}
assert all(rates[-1] == 0 for rates in ours.values())  # at the end of the budget
assert all(rates[-1] > max(rates) / 4 for rates in paper.values())  # after 20,000 steps
draw.schedules(paper, ours, warmup=300)

# %% [markdown]
# Left: doubling the warm-up moves the peak to the right and divides it by $\sqrt{2}$; after that
# the two curves are one. A wider model gets a lower rate everywhere. Right: both runs end at 0,
# whatever their length. The two lines of the minimum meet a little before the warm-up ends, so
# the highest rate stays a little below $r_{\max}$, and for a short run further below.
#
# All choices of a training run go into one frozen record. "Frozen" means that nothing can change
# it after it is made: what you read there is what was used.

# %%
#| export
@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained: the batch, the schedule, the regularisation, the average.

    max_tokens: padded tokens of a batch, the longer side; accumulate: batches a step;
    average: how many snapshots of the last `average_span` of the run are averaged at its end.
    Raises ValueError for a value that cannot be.
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

    def __post_init__(self) -> None:
        for name in ("max_tokens", "accumulate", "peak_lr", "warmup", "clip", "average_span"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is more than 0, not {getattr(self, name)}")
        if self.schedule not in ("linear", "paper"):
            raise ValueError(f"schedule={self.schedule!r} is unknown: choose linear or paper")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is in [0, 1), not {self.label_smoothing}")
        if self.average < 0 or self.average_span > 1:
            raise ValueError(f"average={self.average}, average_span={self.average_span}: give a "
                             "number of snapshots, and a share of the run up to 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are two numbers in [0, 1), not {self.betas}")


def learning_rate(config: TrainingConfig, d_model: int, step: int, progress: float) -> float:
    """Return the rate for a step (from 1) when a share `progress` of the budget is spent."""
    if config.schedule == "paper":
        return paper_learning_rate(step, d_model, config.warmup)
    return linear_learning_rate(step, progress, config.peak_lr, config.warmup)


# %% [markdown]
# > **Try it.** For which `warmup` does the paper's schedule with $d_{\mathrm{model}} = 64$ have
# > the peak 0.003? Solve it on paper, then check with `paper_learning_rate`.

# %% [markdown]
# ## 4 · From gradient to step: Adam (paper, section 5.3)
#
# Gradients of different weights can differ widely in size (think of the embedding of a rare word
# and of a frequent one), so one rate cannot fit all. **Adam** (Kingma and Ba 2014) gives each weight
# its own scale. For each weight it keeps two running averages: $m$ of the gradient $g$, and $v$ of
# its square.
#
# $$\begin{aligned}
# m_t &= \beta_1 m_{t-1} + (1-\beta_1)\, g_t , & \hat{m}_t &= \frac{m_t}{1-\beta_1^t} \\
# v_t &= \beta_2 v_{t-1} + (1-\beta_2)\, g_t^2 , & \hat{v}_t &= \frac{v_t}{1-\beta_2^t}
# \end{aligned}$$
#
# $$\theta_t = \theta_{t-1} - \mathrm{rate}(t) \cdot \frac{\hat{m}_t}{\sqrt{\hat{v}_t} + \epsilon}$$
#
# Read the last line: the average gradient divided by its typical size. If all gradients of a
# weight are the same, this is $+1$ or $-1$, and the weight moves by exactly the rate. If the sign
# changes from step to step, $m$ is near 0 and the weight hardly moves.
#
# **Why the hats?** $m$ and $v$ begin at 0, so at first both are too small. (The step divides one by
# the root of the other; which of them lacks more, we shall see in a picture.) Write $v_t$ out as a
# sum and suppose that every $g_i^2$ has the same mean $\mathrm{E}[g^2]$:
#
# $$v_t = (1-\beta_2) \sum_{i=1}^{t} \beta_2^{t-i} g_i^2
# \quad\Rightarrow\quad
# \mathrm{E}[v_t] = \mathrm{E}[g^2]\,(1-\beta_2) \sum_{i=1}^{t} \beta_2^{t-i}
# = \mathrm{E}[g^2]\,(1-\beta_2^t) .$$
#
# Dividing by $1-\beta_2^t$ removes exactly this error. It is called **bias correction**.
#
# **Why $\beta_2 = 0.98$?** The weights $\beta_2^{t-i}$ of the sum fade over about $1/(1-\beta_2)$
# steps: 50 steps for the paper's 0.98, 1000 for PyTorch's default 0.999. The paper gives no reason
# for its choice. A likely one: gradients change their size quickly at the beginning, and a memory
# of 1000 steps would go on dividing by sizes that are long past.
#
# **What is $\epsilon$ for?** It keeps the division safe when $v = 0$. It also sets a size below
# which gradients are treated as noise: for $|g| \gg \epsilon$ the first step has the length of
# the rate, for $|g| \ll \epsilon$ almost none. The paper's $10^{-9}$ is smaller than PyTorch's
# default $10^{-8}$.
#
# In code there is nothing to write: PyTorch has this optimizer. `fused=True` does the whole
# update in one pass over the memory.

# %%
#| export
def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Adam:
    """Return the paper's Adam; the rate is set before every step. Paper, section 5.3."""
    fused = torch.__version__ >= (2, 4)  # before, there was none for CPUs
    return torch.optim.Adam(
        model.parameters(), lr=0.0, betas=config.betas, eps=config.eps, fused=fused
    )


# %% [markdown]
# But do we understand it? The next cell writes the four equations by hand and compares 20 steps
# with PyTorch's. **Guess for the first two lines:** how far does a weight move in the *first* step
# if its gradient is 1000, and how far if it is 0.001? The rate is 0.01.

# %%
def adam_by_hand(theta, gradients, rate, beta1=0.9, beta2=0.98, eps=1e-9):
    """Follow the equations above; return the weights after each gradient."""
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        theta = theta - rate * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
        yield theta


layer = nn.Linear(3, 1, bias=False).double()
start = layer.weight.detach().clone()
optimizer = make_optimizer(layer, TrainingConfig())
gradients = list(torch.randn(20, 1, 3, dtype=torch.double))
for by_hand, g in zip(adam_by_hand(start, gradients, 0.01), gradients):
    layer.weight.grad = g
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), by_hand)

sizes = torch.tensor([1000.0, 0.001, 1e-9, 1e-12], dtype=torch.double)
(first,) = adam_by_hand(torch.zeros(4, dtype=torch.double), [sizes], 0.01)
assert torch.allclose(-first / 0.01, sizes / (sizes + 1e-9))
for g, share in zip(sizes.tolist(), (-first / 0.01).tolist()):
    print(f"gradient {g:g}: the first step is {share:.3f} times the rate")

# %% [markdown]
# A million times more gradient, the same step. This is why warm-up and Adam belong together: in
# the first steps each weight moves by the full rate, even if its gradient is almost only noise.
#
# The picture shows what the bias correction is good for. All gradients are equal here, so each
# step should have length 1 (in units of the rate). **Guess:** without the correction, $m$ and $v$
# are both too small. Are the steps too short or too long?

# %%
t = torch.arange(1, 1001, dtype=torch.double)
raw = {
    f"without correction, $\\beta_2$ = {b}": ((1 - 0.9**t) / (1 - b**t).sqrt()).tolist()
    for b in (0.98, 0.999)
}
ones = [torch.ones(1, dtype=torch.double)] * 1000
path = torch.cat([torch.zeros(1), *adam_by_hand(torch.zeros(1), ones, 1.0)])
corrected = (-path.diff()).tolist()
assert max(abs(length - 1) for length in corrected) < 1e-6
short, long = raw.values()  # beta_2 = 0.98 and 0.999
assert abs(short[0] - 0.71) < 0.01 and 1.5 < max(short) < 1.6
assert abs(long[0] - 3.16) < 0.01 and 6.5 < max(long) < 6.7
draw.step_lengths(raw, corrected)

# %% [markdown]
# Mostly too long! The step is the quotient $m / \sqrt{v}$, and with $\beta_2 = 0.999$ the divisor
# lacks more: after one step $m$ has $1 - \beta_1 = 0.1$ of its full size, $\sqrt{v}$ only
# $\sqrt{1 - \beta_2} \approx 0.03$. The first step is 3.2 times too long, the longest 6.6 times.
# With 0.98 the first step is too short (0.71), and later ones are up to 1.6 times too long.
#
# > **Try it.** Put $\beta_1 = 0$ into `adam_by_hand`. What remains of Adam in its first step? Why
# > is it sometimes called "sign descent"?

# %% [markdown]
# ## 5 · One step, from many batches: gradient accumulation
#
# The paper's batches hold about 25,000 source and 25,000 target tokens. They do not fit into the
# memory of a laptop. But a gradient is a sum over tokens, and a sum can be computed in parts: run
# several small batches, add up their gradients, then make **one** step. This is *gradient
# accumulation*.
#
# There is one trap. We want the gradient of the mean loss per token. With $L_1$ and $L_2$ the
# summed losses of two batches that hold $n_1$ and $n_2$ real tokens,
#
# $$\frac{\nabla L_1 + \nabla L_2}{n_1 + n_2} \quad\text{is right,}\qquad
# \frac{1}{2} \left( \frac{\nabla L_1}{n_1} + \frac{\nabla L_2}{n_2} \right)
# \quad\text{is wrong unless } n_1 = n_2 .$$
#
# The second formula is what you get from a loss with a mean in each batch: a token in a small
# batch counts more than a token in a large one. So: sum in each batch, and divide by the tokens
# of the **whole step**.
#
# The step itself comes last, in `apply_gradient`. It does two more things. It **clips** the
# gradient: if its norm (the length of the gradient seen as one long vector) is above `clip`, it is
# scaled down to that length, so that one strange batch cannot do much damage. (The paper does not
# mention clipping; it is common and cheap.) And it refuses to step on a loss or a gradient that is
# not finite, because after such a step all the weights would be NaN.

# %%
#| export
def apply_gradient(
    model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, clip: float, loss: float
) -> float:
    """Clip the gradient, make the step, and return the gradient's norm before clipping.

    Raises FloatingPointError, with the weights as they were, if loss or norm is not finite.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(f"loss {loss}, gradient norm {norm}")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return norm


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
    give the gradient of one large one. Raises FloatingPointError, with the weights as they were,
    if loss or gradient is not finite.
    """
    n_tokens = max(1, sum(batch.n_tokens for batch in batches))
    total = 0.0
    optimizer.zero_grad()
    for batch in batches:
        loss = batch_loss(model, batch, config.label_smoothing)
        (loss / n_tokens).backward()  # adds to the gradient
        total += loss.item()
    norm = apply_gradient(model, optimizer, rate, config.clip, total / n_tokens)
    return total / n_tokens, norm


# %% [markdown]
# How can we see the gradient that a step used? With plain gradient descent (SGD) at rate 1 and
# without clipping, the weights change by exactly the negative gradient. So we give `train_step`
# that optimizer and look at the difference.
#
# **Guess:** two batches with 2 and 10 sentences. How far is the mean of the two means from the
# right gradient: 1 %, 10 % or more?

# %%
def gradient_of(batches: Sequence[Batch]) -> Tensor:
    """Return the gradient that `train_step` follows, as one long vector."""
    trial = copy.deepcopy(model)
    before = nn.utils.parameters_to_vector(trial.parameters())
    plain = TrainingConfig(clip=math.inf)
    train_step(trial, batches, torch.optim.SGD(trial.parameters()), 1.0, plain)
    return (before - nn.utils.parameters_to_vector(trial.parameters())).detach()


torch.manual_seed(1)
lengths = [3] * 2 + [4, 5, 6, 7, 8, 9, 10, 11, 12, 12]
sentences = [[*torch.randint(4, 40, (n - 1,)).tolist(), EOS] for n in lengths]
full = Batch.from_sequences(sentences, sentences, PAD, BOS)
parts = [Batch.from_sequences(s, s, PAD, BOS) for s in (sentences[:2], sentences[2:])]

whole, accumulated = gradient_of([full]), gradient_of(parts)
mean_of_means = (gradient_of(parts[:1]) + gradient_of(parts[1:])) / 2
error = ((mean_of_means - whole).norm() / whole.norm()).item()
torch.testing.assert_close(accumulated, whole)
assert parts[0].n_tokens != parts[1].n_tokens and error > 0.1
print(f"tokens: {parts[0].n_tokens} and {parts[1].n_tokens}")
print(f"accumulated: equal to the full batch; mean of means: off by {error:.0%}")

# %% [markdown]
# Note what this claim contains: the full batch is padded in another way than its parts, and still
# the gradient is the same. Padding contributes nothing here either.
#
# Who forms the groups? An epoch of 7 batches with `accumulate=3` gives groups of 3, 3 and **1**.
# It is a frequent error to step only on every third batch: the last sentences of the epoch are
# then never used, or their gradient leaks into the next epoch. Since the divisor is the number of
# tokens, a smaller last group needs no special treatment.

# %%
#| export
def groups_of(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield `size` batches at a time; the last group may be smaller, and is not dropped."""
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group


# %%
# NBVAL_CHECK_OUTPUT
assert [len(group) for group in groups_of(range(7), 3)] == [3, 3, 1]
assert [batch for group in groups_of(range(7), 3) for batch in group] == list(range(7))
print([len(group) for group in groups_of(range(7), 3)])

# %% [markdown]
# > **Try it.** Give both batches the same number of tokens. What becomes of the error of the mean
# > of means? Why is it still wrong to rely on it?

# %% [markdown]
# ## 6 · Is it learning? A loop of ten lines
#
# A model is judged on sentences that it was not trained on, the *validation* set (val). Two
# switches matter: dropout off (`model.eval()`), and no smoothing. Nothing else may happen:
# evaluating must not change what training does next, so it must not draw random numbers, and it
# must put the model back into the mode in which it found it.

# %%
#| export
@torch.no_grad()
def evaluate_loss(model: Transformer, batches: Iterable[Batch]) -> float:
    """Return the mean loss per real token in nats, without dropout and without smoothing.

    The model's mode and the random generator stay as they are. Raises ValueError without a token.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    total, n_tokens = 0.0, 0
    for batch in batches:
        total += batch_loss(model, batch.to(device)).item()
        n_tokens += batch.n_tokens
    model.train(training)
    if not n_tokens:
        raise ValueError("nothing to evaluate: the batches hold no real token")
    return total / n_tokens


# %%
noisy = Transformer(replace(small, dropout=0.5)).train()
before = torch.get_rng_state()
first, second = evaluate_loss(noisy, [full]), evaluate_loss(noisy, parts)
assert math.isclose(first, second, rel_tol=1e-5)  # no dropout; batches do not matter
assert torch.equal(before, torch.get_rng_state()) and noisy.training
assert batch_loss(noisy, full).item() != batch_loss(noisy, full).item()  # training: dropout is on
assert 0 < first - math.log(40) < 1.5  # a little worse than no idea
print(f"untrained: {first:.2f} nats per token; ln V = {math.log(40):.2f}")

# %% [markdown]
# Why is a fresh model *worse* than no idea, $\ln V$? Its logits are random, but not all equal, so it
# prefers some tokens for no reason, and mostly the wrong ones. Random logits of variance 1 cost
# about half a nat. A start by several nats above $\ln V$ would point to an error.
#
# Now everything is there for a training loop. This one is complete:

# %%
def train_simply(model: Transformer, examples, config: TrainingConfig, epochs: int):
    """Train; yield the number of each epoch that ends."""
    optimizer = make_optimizer(model, config)
    step = 0
    for epoch in range(epochs):
        batches = make_batches(examples, config.max_tokens, seed=epoch)
        for group in groups_of((batch.to(DEVICE) for batch in batches), config.accumulate):
            step += 1
            rate = learning_rate(config, model.config.d_model, step, epoch / epochs)
            train_step(model, group, optimizer, rate, config)
        yield epoch + 1


# %% [markdown]
# We use it to answer a question of section 5.4: **what does dropout do?** During training,
# dropout sets each number to 0 with probability $P_{\mathrm{drop}}$ and multiplies the others by
# $1/(1-P_{\mathrm{drop}})$. The paper applies it to the output of each sub-layer and to the sum
# of embeddings and positions, with $P_{\mathrm{drop}} = 0.1$. (The big model has 0.3 for
# English-German and 0.1 for English-French, table 3 and section 6.1.)
#
# The data are image captions in German and English, made for this course by a small grammar. We
# take very few of them, far too few to learn translation from.
#
# **Guess:** without dropout, what will the two curves do, the loss on the sentences that it
# trains on and the loss on new ones? What will change with dropout 0.3?

# %%
few = pairs("captions", "train")[: by_scale(smoke=50, cpu=200, gpu=200)]
new = pairs("captions", "val")[: by_scale(smoke=50, cpu=200, gpu=200)]
bpe = BPE.learn([sentence for pair in few for sentence in pair], 500)
known, unknown = encode_pairs(bpe, few), encode_pairs(bpe, new)
epochs = 40

histories = {}
for dropout in (0.0, 0.3):
    torch.manual_seed(0)
    shape = TransformerConfig(len(bpe), len(bpe), 64, 4, 128, 2, dropout=dropout, norm="pre")
    learner = Transformer(shape).to(DEVICE)
    recipe = TrainingConfig(max_tokens=500, peak_lr=3e-3, warmup=20, label_smoothing=0.0)
    histories[f"dropout {dropout}"] = [
        (
            epoch,
            evaluate_loss(learner, make_batches(known, 2000)),
            evaluate_loss(learner, make_batches(unknown, 2000)),
        )
        for epoch in train_simply(learner, known, recipe, epochs)
        if epoch % (epochs // 10) == 0
    ]

gap = {label: history[-1][2] - history[-1][1] for label, history in histories.items()}
without, dropped = histories["dropout 0.0"], histories["dropout 0.3"]
assert gap["dropout 0.0"] > gap["dropout 0.3"] + 0.1
assert without[-1][2] > min(new_loss for _, _, new_loss in without) + 0.1  # it rises again
assert dropped[-1][1] > without[-1][1] and dropped[-1][2] < without[-1][2]
draw.overfitting(histories)

# %% [markdown]
# Left: the loss on the known sentences goes towards 0, and the loss on new sentences first falls
# and then **rises**. The model has learned the sentences by heart. This is *overfitting*. Right:
# with dropout the model must find the answer from an incomplete picture, a different one each
# time, so learning by heart does not pay. The known sentences cost more, the new ones less, and
# the gap is smaller. Dropout is no free gift: with much data and few epochs it may only
# slow learning down.
#
# > **Try it.** Use `label_smoothing=0.1` instead of dropout in this experiment. The paper calls
# > both of them regularisation. Do they do the same here? Guess first, then measure the gap.

# %% [markdown]
# ## 7 · Keeping the result: checkpoints
#
# The loop above forgets everything when the notebook closes. A **checkpoint** is the model on
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

# %%
#| export
class CheckpointError(RuntimeError):
    """A checkpoint or a run that cannot be read or written; the message says what to do."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then move it there: a crash leaves the old one whole.

    Raises CheckpointError if the file system refuses, as when the disk is full.
    """
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        move(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise CheckpointError(
            f"cannot write {path} ({error}). What stood there before is unharmed: make room, or "
            "mend the permissions, then go on with --resume"
        ) from error


def move(source: Path, target: Path, patience: float = 2.0) -> None:
    """Move a file over another one, at once; on Windows, wait while another program reads it."""
    until = time.monotonic() + patience
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > until:
                raise
            time.sleep(0.1)


# %% [markdown]
# Everything that this lesson writes goes through it: JSON and tensors.

# %%
#| export
def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(path, lambda p: p.write_text(text + "\n", encoding="utf-8"))


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write safetensors atomically, with the permissions that any new file gets."""
    content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda p: p.write_bytes(tensors_to_bytes(content, metadata)))


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
# Now the model. Two details. A tied embedding (lesson 05) is one matrix with several names;
# `named_parameters` lists it once, so it is stored once. And when we load, we compare names and
# shapes ourselves: PyTorch's `copy_` would silently *broadcast* a vector into a matrix, and
# nobody would notice until the translations are nonsense.

# %%
#| export
def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter on the CPU, each shared one once."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set every parameter; raises ValueError if a name or a shape does not fit."""
    parameters = dict(model.named_parameters())
    if other := sorted(parameters.keys() ^ weights.keys()):
        raise ValueError(f"the weights are of another model: {other[0]} is on one side only")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, not {tuple(parameter.shape)}"
            raise ValueError(f"the weights are of another model: {name} has shape {shapes}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


# %% [markdown]
# With these, saving a checkpoint is three writes, one for each file of the table. `dtype` can
# halve the file: 16-bit numbers instead of 32.

# %%
#| export
MODELS = {  # the name in config.json -> the class and its sizes
    "transformer": (Transformer, TransformerConfig),
    "rnn": (RNNTranslator, Seq2SeqConfig),
}


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
        sizes = json.loads((directory / "config.json").read_text("utf-8"))
        model_class, config_class = MODELS[sizes.pop("model")]
        config = config_class(**sizes)
        bpe = BPE.load(directory / "tokenizer.json")
        if len(bpe) != config.src_vocab:
            raise ValueError(f"{len(bpe)} tokens, but a model for {config.src_vocab}")
        model = model_class(config)
        load_weights(model, load_file(directory / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory} is no whole checkpoint ({type(error).__name__}: {error}). It needs "
            "config.json, tokenizer.json and model.safetensors as `python -m course train` writes "
            "them; a run that was cut off becomes whole with --resume"
        ) from error
    return model.eval(), bpe


# %% [markdown]
# **Guess:** does a model that was saved and loaded give *nearly* the same logits, or *exactly*
# the same? And what if it is saved with 16-bit numbers, half the size?

# %%
learner = learner.cpu().eval()
save_checkpoint(WORK / "full", learner, bpe)
save_checkpoint(WORK / "half", learner, bpe, torch.float16)
batch = next(make_batches(unknown, 500))
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

# %%
try:
    load_checkpoint("multi31k")
    raise AssertionError("a checkpoint that does not exist was loaded")
except CheckpointError as error:
    print(error)

# %% [markdown]
# ### The average of several checkpoints (paper, section 6.1)
#
# The paper does not translate with the last checkpoint. It averages the **weights** of the last 5
# (base) or 20 (big), name by name:
#
# $$\bar{\theta} = \frac{1}{K} \sum_{k=1}^{K} \theta_k$$
#
# The idea: near the end, the weights move around a good place, pushed by the noise of single
# batches. The mean of several positions is at least as near to the centre as they are *on average*
# (the triangle inequality); the best of them may still be nearer. It costs nothing at translation
# time. We sum in float64: its rounding errors depend on the order of the checkpoints too, but they
# are too small to show in the float32 result.

# %%
#| export
def average_checkpoints(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several models' weights, name by name. Paper, section 6.1.

    Raises ValueError if there is none, or if they are of different models.
    """
    total: dict[str, Tensor] = {}
    count = 0
    for state in states:
        if count and state.keys() != total.keys():
            raise ValueError("checkpoints of different models cannot be averaged")
        for name, weight in state.items():
            total[name] = total[name] + weight.double() if count else weight.double()
        count += 1
    if not count:
        raise ValueError("no checkpoint to average")
    return {name: (weight / count).float() for name, weight in total.items()}


# %%
three = [weights_of(Transformer(small)) for _ in range(3)]
mean = average_checkpoints(three)
for name in mean:
    expected = torch.stack([state[name] for state in three]).double().mean(0)
    torch.testing.assert_close(mean[name].double(), expected, atol=1e-7, rtol=0)
same = average_checkpoints([three[0]] * 5)
assert all(torch.equal(same[name], three[0][name]) for name in same)
backwards = average_checkpoints(reversed(three))
assert all(torch.equal(backwards[name], mean[name]) for name in mean)
assert mean.keys() == three[0].keys() and len(mean) > 10
print(f"{len(mean)} tensors: each is the mean of its three, in whichever order they come")

# %% [markdown]
# > **Try it.** Average two models that were trained from *different* seeds and measure the loss.
# > It is bad. Why may we average checkpoints of one run, but not of two? (Hint: exchange two
# > columns of $w_1$ and the two matching rows of $w_2$ in a feed-forward layer. Is it another
# > model?)

# %% [markdown]
# ## 8 · Stopping and going on
#
# A long run will be interrupted. A laptop is closed, a shared machine sends SIGTERM, a colleague
# uses `kill -9`. To *go on* means more than loading the weights. **Guess before you read on:**
# what else does the next step depend on? Try to find five things.
#
# - **Adam's averages** $m$ and $v$ and its step count. Without them the run begins again with the
#   first steps of section 4: each of full length.
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
    metadata = {"position": json.dumps(asdict(position))}
    write_tensors(directory / "state.safetensors", tensors, metadata)


# %% [markdown]
# And back again. The generator's state is set last, so that nothing can draw from it in between.

# %%
#| export
def load_state(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Position:
    """Read what `save_state` wrote back into the model and the optimizer; return the position.

    Raises CheckpointError if there is nothing to resume from.
    """
    path = directory / "state.safetensors"
    if not path.exists():
        raise CheckpointError(f"nothing to resume: {path} is not there. Start without --resume")
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            position = Position(**json.loads(file.metadata()["position"]))
        rng = tensors["rng"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"cannot resume: {path} cannot be read ({error})") from error
    load_weights(model, {k[7:]: v for k, v in tensors.items() if k.startswith("weight.")})
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            key: tensors[f"{key}.{name}"].to(parameter.device, copy=True)  # not a view of the file
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{key}.{name}" in tensors  # there are none before the first step
        }
    device = next(model.parameters()).device
    if device.type == "cuda" and "device_rng" in tensors:
        torch.cuda.set_rng_state(tensors["device_rng"], device)
    elif device.type == "mps" and "device_rng" in tensors:
        torch.mps.set_rng_state(tensors["device_rng"])
    torch.set_rng_state(rng)
    return position


# %% [markdown]
# Do we need all of it? The next cell makes three steps, saves the state, and makes two more. Then
# it goes back to the saved state and makes the two steps again: with everything, without Adam's
# averages, and without the generator. (Position, order and choices need a whole run. Section 10
# tests all five together.)

# %%
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
#| export
@contextmanager
def stop_request() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event, so that a step is never cut in two.

    A second Ctrl-C, a second later or more, stops at once. Outside the main thread signals stay
    as they are.
    """
    event = threading.Event()
    heard = math.inf
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handler(signum, frame) -> None:
        nonlocal heard
        now = time.monotonic()
        if now - heard >= 1:
            raise KeyboardInterrupt
        heard = min(heard, now)
        event.set()

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for s, old in before.items():
            signal.signal(s, old)


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
        lines = parse_lines(path.read_text("utf-8")) if position.step and path.exists() else []
        kept = [line for line in lines if (line["epoch"], line["batch"]) <= here]
        write_atomically(path, lambda p: p.write_text("".join(map(as_line, kept)), "utf-8"))

    def write(self, position: Position, **values: float) -> None:
        """Append one line."""
        line = {**asdict(position), **values}
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in line.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(as_line(rounded))


def as_line(values: Mapping[str, float]) -> str:
    """Return a line of JSON."""
    return json.dumps(values) + "\n"


def parse_lines(text: str) -> list[dict[str, float]]:
    """Return the whole lines; one without an end, cut off by a crash, is no line yet."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def read_log(directory: Path) -> list[dict[str, float]]:
    """Return the lines of a run's log."""
    return parse_lines((directory / "log.jsonl").read_text("utf-8"))


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
    sizes = {f"model.{name}": value for name, value in asdict(model.config).items()}
    record = {
        **asdict(config),
        **sizes,
        "budget": budget.unit,
        "tokenizer": digest([bpe.alphabet, bpe.merges]),
        "corpus": digest(corpus),
    }
    return json.loads(json.dumps(record))


def digest(content: object) -> str:
    """Return a short fingerprint of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


# %% [markdown]
# On resuming, the record is compared, and the message names the first difference. A fresh run
# writes its record; where a run or a checkpoint already lies, it refuses, because it would
# overwrite hours of work.

# %%
#| export
def check_record(path: Path, record: Mapping[str, object]) -> None:
    """Raise CheckpointError that names the first difference from what a run was started with."""
    try:
        started = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot tell how this run was started: {path} ({error})") from error
    for name in record:
        if started.get(name) != record[name]:
            raise CheckpointError(
                f"cannot resume {path.parent}: it was started with {name}={started.get(name)!r}, "
                f"not {record[name]!r}. Give it the same again, or start anew in another directory"
            )


def claim_directory(directory: Path, record: Mapping[str, object], resume: bool) -> None:
    """Make sure that a run may write here; raises CheckpointError if it would mix or lose runs."""
    state, model = (directory / f"{name}.safetensors" for name in ("state", "model"))
    if resume and state.exists():
        check_record(directory / "training.json", record)
    elif not resume and (state.exists() or model.exists()):
        raise CheckpointError(
            f"{directory} holds a run already: go on with --resume, or choose another directory"
        )
    elif not resume:
        write_json(directory / "training.json", record)


# %% [markdown]
# ## 9 · The whole trainer
#
# Now the parts come together in two classes. The first, `Run`, knows one step: compute the rate,
# make the step, move the position, take a snapshot if one is due, save if asked. It begins in one
# of two ways, fresh or resumed. Snapshots that lie ahead of the position are deleted: their steps
# will be made again, or they are left over from an earlier run, and must not get into the
# average.
#
# The class is long, but each method is short. Read `step` first: it is the heart. Then `begin`, and
# then what the two call.

# %%
#| export
class Run:
    """A model, its budget and a directory that always holds a way back: one step at a time."""

    def __init__(
        self,
        model: Transformer,
        bpe: BPE,
        config: TrainingConfig,
        budget: Budget,
        directory: Path | str,
        quiet: bool = False,
    ) -> None:
        self.model, self.bpe, self.config = model, bpe, config
        self.budget, self.directory, self.quiet = budget, Path(directory), quiet
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, config)
        self.position = Position()

    def begin(self, corpus: Sequence[Pair], n_batches: int, resume: bool) -> None:
        """Start afresh, or load the state and forget what came after it."""
        claim_directory(self.directory, self.record(corpus), resume)
        if resume:
            self.position = load_state(self.directory, self.model, self.optimizer)
        else:
            torch.manual_seed(self.config.seed)
        self.n_batches = n_batches
        self.taken = snapshots_due(self.config, self.progress())
        for number, path in snapshot_paths(self.directory).items():
            if number > self.taken:  # of steps that will be made again, or of an earlier end
                path.unlink()
        self.log = Log(self.directory / "log.jsonl", self.position)
        self.begun = time.monotonic() - self.position.seconds
        self.saved = time.monotonic()
        if not resume:
            self.save()  # from now on there is a way back

    def record(self, corpus: Sequence[Pair]) -> dict[str, object]:
        """Return what must be the same to resume this run."""
        return run_record(self.model, self.bpe, self.config, self.budget, corpus)

    def progress(self) -> float:
        """Return the share of the budget that is spent, 0 to 1."""
        return self.budget.progress(self.position, self.n_batches)

    def step(self, group: Sequence[Batch]) -> dict[str, float]:
        """Make one step on a group of batches and move the position; return what to log."""
        step = self.position.step + 1
        rate = learning_rate(self.config, self.model.config.d_model, step, self.progress())
        try:
            loss, norm = self.update(group, rate)
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
        self.take_snapshot()
        return {"loss": loss, "rate": rate, "norm": norm, "progress": self.progress()}

    def update(self, group: Sequence[Batch], rate: float) -> tuple[float, float]:
        """Change the weights by one step; return the loss per token and the gradient's norm."""
        batches = [batch.to(self.device) for batch in group]
        return train_step(self.model, batches, self.optimizer, rate, self.config)

    def seconds(self) -> float:
        """Return how long this run has trained, earlier parts counted."""
        return time.monotonic() - self.begun

    def take_snapshot(self) -> None:
        """Write the weights for the average, if the moment for one has passed."""
        due = snapshots_due(self.config, self.progress())
        if due > self.taken:
            path = self.directory / "snapshots" / f"{due:03d}.safetensors"
            write_tensors(path, weights_of(self.model))
            self.taken = due

    def save(self) -> None:
        """Write the state to resume from, then the checkpoint to translate with."""
        save_state(self.directory, self.position, self.model, self.optimizer)
        save_checkpoint(self.directory, self.model, self.bpe)
        self.saved = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        if not self.quiet:
            tqdm.write(text)


# %% [markdown]
# The progress bar shows the share of the budget, the time left, the loss and the tokens per
# second. In a notebook whose outputs are stored it is switched off by `quiet=True`.

# %%
#| export
def progress_bar(initial: float = 0.0, quiet: bool = False) -> tqdm:
    """Return a bar that shows the share of the budget spent, the time left, loss and tokens/s."""
    layout = "{percentage:3.0f}% |{bar:20}| {elapsed} gone, {remaining} left{postfix}"
    return tqdm(total=1.0, initial=initial, bar_format=layout, mininterval=0.5, disable=quiet)


def update_bar(bar: tqdm, position: Position, values: Mapping[str, float]) -> None:
    """Move the bar to the progress of the latest step."""
    speed = position.tokens / max(position.seconds, 1e-9)
    text = f"step {position.step}, loss {values['loss']:.3f}, {speed:,.0f} tokens/s"
    bar.set_postfix_str(text, refresh=False)
    bar.update(values["progress"] - bar.n)


# %% [markdown]
# The second class, `Trainer`, knows the loop. Compare its method `epoch` with `train_simply`: the
# core is the same, a seed for each epoch, groups, a step. Around it stand the log, the bar, the
# flag, and a save each minute. Three decisions deserve a sentence:
#
# - A fresh run saves at once, before its first step, and at the end of each epoch before the
#   validation. So there is always a way back, even for a process that is killed in its first
#   minute.
# - If the minutes run out during validation, the run is over; the last snapshot is then taken
#   there.
# - A run that is finished and is resumed again with the same budget does nothing but load its
#   result. With a larger budget it goes on: from its last weights, not from their average.

# %%
#| export
class Trainer(Run):
    """A run from its first step to the average at its end; it can be stopped and resumed.

    Writes training.json (what it was started with), log.jsonl (every ten steps and every epoch),
    state.safetensors (to resume from), snapshots/ and the checkpoint: the latest weights, at the
    end the average of the snapshots. `quiet`: no progress bar, nothing printed.
    """

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
        self.begin(train_pairs, len(token_batches(lengths, self.config.max_tokens)), resume)
        with stop_request() as self.stop, progress_bar(self.progress(), self.quiet) as bar:
            while self.progress() < 1 and not self.stopped():
                self.epoch(examples, bar, save_seconds)
                self.save()
                if self.position.batch == 0 or self.progress() >= 1:
                    self.validate(val_batches)
        done = self.progress() >= 1
        if done:
            self.finish(val_batches)
        self.model.eval()
        return done

    def epoch(self, examples: Sequence[Example], bar: tqdm, save_seconds: float) -> None:
        """Go on from the current position to the end of the epoch, of the budget, or to a stop."""
        self.model.train()
        for group in groups_of(self.batches(examples), self.config.accumulate):
            values = self.step(group)
            update_bar(bar, self.position, values)
            if self.position.step % 10 == 0:
                self.log.write(self.position, **values)
            if self.stopped() or self.progress() >= 1:
                break
            if time.monotonic() - self.saved > save_seconds:
                self.save()
        if self.position.batch >= self.n_batches:
            self.position = replace(self.position, epoch=self.position.epoch + 1, batch=0)

    def batches(self, examples: Sequence[Example]) -> Iterator[Batch]:
        """Yield what is left of the current epoch, in an order that follows from the seed."""
        seed = self.config.seed * 1_000_003 + self.position.epoch
        return make_batches(examples, self.config.max_tokens, seed, self.position.batch)

    def stopped(self) -> bool:
        """Return whether somebody asked the run to stop."""
        return self.stop.is_set()

    def validate(self, val_batches: Sequence[Batch]) -> None:
        """Log the loss on the validation set; the time that it takes counts."""
        val_loss = evaluate_loss(self.model, val_batches)
        self.position = replace(self.position, seconds=self.seconds())
        self.log.write(self.position, val_loss=val_loss)
        self.say(f"step {self.position.step}: val loss {val_loss:.3f}")

    def finish(self, val_batches: Sequence[Batch]) -> None:
        """Make the average of the snapshots the checkpoint, unless that has been done."""
        step = self.position.step
        if any("averaged" in line and line["step"] == step for line in read_log(self.directory)):
            load_weights(self.model, load_file(self.directory / "model.safetensors"))
            self.say(f"finished already, at step {step}: a larger budget goes on from there")
            return
        self.take_snapshot()
        self.save()
        if paths := snapshot_paths(self.directory).values():
            load_weights(self.model, average_checkpoints(load_file(path) for path in paths))
            save_checkpoint(self.directory, self.model, self.bpe)
        val_loss = evaluate_loss(self.model, val_batches)
        self.log.write(self.position, averaged=len(paths), val_loss=val_loss)
        self.say(f"average of {len(paths)} snapshots: val loss {val_loss:.3f}")


# %% [markdown]
# Last, five presets: sizes of the model and how to train it. `tiny` learns the captions in a
# minute or two. On a laptop and a real corpus, `small` is the choice for ten minutes, `cpu` for
# forty. `base` is the paper's base model. The first three put the norms *before* the sub-layers
# (lesson 05): that needs less care with the warm-up.
#
# `rnn-attention` is the recurrent translator of lesson 02. It answers to the same calls as the
# Transformer, so the same loop trains it, on the same tokens and for the same budget: the two can be
# compared on equal terms.

# %%
#| export
PRESETS: dict[str, tuple[dict, TrainingConfig]] = {
    # sizes of the model beyond the paper's base, and how it is trained
    "tiny": (
        dict(vocab=1000, d_model=64, n_heads=4, d_ff=128, n_layers=2, norm="pre"),
        TrainingConfig(max_tokens=1000, peak_lr=1e-2, warmup=100),
    ),
    "small": (
        dict(vocab=4000, d_model=128, n_heads=4, d_ff=256, n_layers=2, norm="pre"),
        TrainingConfig(peak_lr=3e-3, warmup=200),
    ),
    "cpu": (
        dict(vocab=5000, d_model=256, n_heads=4, d_ff=512, n_layers=3, dropout=0.15, norm="pre"),
        TrainingConfig(),
    ),
    "rnn-attention": (
        dict(model="rnn", vocab=5000, d_model=256, attention="additive", dropout=0.15),
        TrainingConfig(peak_lr=3e-3, warmup=100),
    ),
    "base": (
        dict(vocab=10000),
        TrainingConfig(max_tokens=12500, accumulate=2, schedule="paper", warmup=4000),
    ),
}


# %% [markdown]
# A preset is a beginning. `--set NAME=VALUE` on the command line changes any of its numbers, such as
# `--set dropout=0.3 --set d_ff=1024`; here the same is a dictionary. A name that does not exist, or
# a value of another kind, is refused.

# %%
#| export
def recipe_of(
    preset: str, changes: Mapping[str, object] | None = None
) -> tuple[dict[str, object], TrainingConfig]:
    """Return a preset's sizes and its training, some values changed.

    Raises ValueError for a preset, a name or a kind of value that does not exist. The seed is no
    part of a recipe.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is unknown: choose from {', '.join(PRESETS)}")
    sizes, config = PRESETS[preset]
    known = asdict(MODELS[sizes.get("model", "transformer")][1](1, 1)) | {"vocab": 1}
    given = {"seed", "src_vocab", "tgt_vocab"}  # elsewhere: --seed, and the vocabulary's real size
    allowed = [name for name in (*asdict(config), *known) if name not in given]
    for name, value in (changes or {}).items():
        if name not in allowed:
            raise ValueError(
                f"{name} is nothing that a recipe sets: it sets {', '.join(allowed)}"
            )
        usual = getattr(config, name, known.get(name))
        if usual is None:
            usual = 64  # d_k and d_v, which follow from the other sizes unless they are given
        if (type(usual), type(value)) in ((float, int), (tuple, list)):
            value = type(usual)(value)  # JSON knows 1 and [0.9, 0.98] only
        if type(value) is not type(usual):
            kind = type(usual).__name__
            article = "an" if kind == "int" else "a"
            raise ValueError(f"{name}={value!r}: give {article} {kind}, such as {usual!r}")
        if hasattr(config, name):
            config = replace(config, **{name: value})
        else:
            sizes = {**sizes, name: value}
    return sizes, config


# %% [markdown]
# From the sizes to a model: the vocabulary is learned from the training sentences, and the seed
# decides the first weights.

# %%
#| export
def preset_model(
    preset: str,
    sentences: Iterable[str],
    seed: int,
    changes: Mapping[str, object] | None = None,
) -> tuple[Transformer, BPE]:
    """Return a fresh model of a recipe's sizes and a tokeniser learned from training sentences."""
    sizes = dict(recipe_of(preset, changes)[0])
    bpe = BPE.learn(sentences, sizes.pop("vocab"))
    model_class, config_class = MODELS[sizes.pop("model", "transformer")]
    torch.manual_seed(seed)
    return model_class(config_class(len(bpe), len(bpe), **sizes)), bpe


# %%
sizes, config = recipe_of("cpu", {"dropout": 0.3, "peak_lr": 1e-3})
assert sizes["dropout"] == 0.3 and config.peak_lr == 1e-3 and config.warmup == 300
for wrong in ({"droput": 0.3}, {"d_model": "wide"}):
    try:
        recipe_of("cpu", wrong)
        raise AssertionError("accepted")
    except ValueError as error:
        print(str(error)[:90])

# %% [markdown]
# ## 10 · The proof: break a run
#
# We train the preset `tiny` twice on the CPU, for two epochs, with dropout and two batches a
# step. The first run goes through. In the second we press Ctrl-C after a third of the steps:
# `signal.raise_signal` sends the same signal as the key. Then a new `Trainer`, with a new model
# from *another* seed, resumes.
#
# **Guess:** will the final weights of the two runs differ by 0.1, by 0.000001, or by nothing at
# all?

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


some = pairs("captions", "train")[: by_scale(smoke=40, cpu=200, gpu=200)]
recipe = replace(PRESETS["tiny"][1], max_tokens=100, accumulate=2, warmup=10)


def recorder(name: str, seed: int = 0, press_after: int | None = None) -> Recorder:
    """Return a trainer with a fresh model on the CPU."""
    model, bpe = preset_model("tiny", [sentence for pair in some for sentence in pair], seed)
    return Recorder(model, bpe, recipe, Budget(epochs=2), WORK / name, press_after=press_after)


# %%
unbroken = recorder("unbroken")
assert unbroken.run(some, new[:20])
third = unbroken.position.step // 3

first_part = recorder("broken", press_after=third)
assert not first_part.run(some, new[:20])  # False: stopped before the budget was spent
second_part = recorder("broken", seed=99)  # other weights, about to be replaced
assert second_part.run(some, new[:20], resume=True)

left, right = weights_of(unbroken.model), weights_of(second_part.model)
assert all(torch.equal(left[name], right[name]) for name in left)  # bit for bit
assert unbroken.losses == first_part.losses | second_part.losses
assert 0 < third < unbroken.position.step and min(second_part.losses) == third + 1
above = unbroken.losses[1] - math.log(len(unbroken.bpe))
assert 0 < above < 2
print(f"the first loss is {above:.2f} nats above ln V")
draw.resumed(unbroken.losses, {"until Ctrl-C": first_part.losses, "resumed": second_part.losses})

# %% [markdown]
# Nothing at all. All losses and all weights are equal to the last bit: the order of the data, the
# random numbers of dropout, Adam's averages, the learning rate, the snapshots and their average.
# (On the same machine with the same number of threads. On a GPU some sums are computed in an
# order that changes from run to run; there, expect equality to a few digits only.) The first loss
# lies a little above $\ln V$, as in section 6.
#
# What does the directory hold, and what does the trainer refuse?

# %%
# NBVAL_CHECK_OUTPUT
held = sorted(p.name for p in (WORK / "broken").iterdir())
refusals = []
for attempt in (
    lambda: recorder("broken").run(some, new[:20]),  # a new run where one lies
    lambda: recorder("elsewhere").run(some, new[:20], resume=True),
    lambda: recorder("broken").run(some[1:], new[:20], resume=True),  # another corpus
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

# %% [markdown]
# ## 11 · A real run, read against baselines
#
# Now we train `tiny` on more captions. Before looking at any curve, compute what *no knowledge*
# costs. A loss of 2.0 alone says nothing. Compared with these levels it does:
#
# - **Uniform**: all $V$ tokens equally likely. Loss $\ln V$.
# - **Unigram**: the model knows how frequent each token is, and nothing else. Its loss on new
#   text is $-\frac{1}{N} \sum_{i} \ln f(y_i)$, with $f$ the frequencies counted in the training
#   text. Our training loss is the *smoothed* one, and so must be the line that we compare it with:
#   0.9 times this, and 0.1 times the mean of $-\ln f$ over all $V$ tokens.
# - **Floor of the smoothed loss**: the entropy of the smoothed target (section 1). The *training*
#   loss cannot fall below it, the plain validation loss can.

# %%
corpus = pairs("captions", "train")[: by_scale(smoke=300, cpu=6000, gpu=12000)]
val = pairs("captions", "val")[: by_scale(smoke=50, cpu=300, gpu=500)]
model, bpe = preset_model("tiny", [sentence for pair in corpus for sentence in pair], seed=0)
V = len(bpe)

counts = torch.ones(V)  # each token once more than it was seen, so that none has probability 0
for _, tgt in encode_pairs(bpe, corpus):
    counts += torch.bincount(torch.tensor(tgt), minlength=V)
log_frequency = (counts / counts.sum()).log()
val_tokens = [token for _, tgt in encode_pairs(bpe, val) for token in tgt]
unigram = -log_frequency[val_tokens].mean().item()
smoothed_unigram = 0.9 * unigram - 0.1 * log_frequency.mean().item()

soft = torch.full((V,), 0.1 / V)
soft[0] += 0.9
floor = -(soft * soft.log()).sum().item()
assert 0 < floor < unigram < min(math.log(V), smoothed_unigram)
print(f"V = {V}; nats per token: ln V = {math.log(V):.2f}, unigram {unigram:.2f} "
      f"(smoothed {smoothed_unigram:.2f}), floor {floor:.2f}")

# %% [markdown]
# **Guess:** where will the loss be after ten steps, and in which order will it pass the lines?

# %%
recipe = replace(
    PRESETS["tiny"][1], max_tokens=by_scale(smoke=250, cpu=1000, gpu=1000), warmup=by_scale(smoke=30, cpu=100, gpu=100)
)
budget = Budget(epochs=by_scale(smoke=4, cpu=4, gpu=10))
trainer = Trainer(model.to(DEVICE), bpe, recipe, budget, WORK / "ours", quiet=True)
assert trainer.run(corpus, val)  # True: the budget is spent

log = read_log(WORK / "ours")
steps = [line for line in log if "loss" in line]
final = log[-1]["val_loss"]
assert steps[0]["loss"] > unigram > final
assert min(line["loss"] for line in steps) > floor
levels = {"uniform, ln V": math.log(V), "unigram, smoothed": smoothed_unigram,
          "floor of the smoothed loss": floor}
draw.run_curves(log, levels)

# %%
print(f"{trainer.position.step} steps, {trainer.position.tokens:,} target tokens")
print(f"val loss {final:.3f} nats, perplexity {math.exp(final):.2f}")
val_batches = make_batches(encode_pairs(bpe, val), 2000)
assert math.isclose(final, evaluate_loss(trainer.model, val_batches), rel_tol=1e-3)
assert log[-1]["averaged"] == 8

# %% [markdown]
# Read it from the top.
#
# - The three lines belong to the blue curve, the smoothed loss. (For equal probabilities smoothing
#   changes nothing: $\ln V$ either way.)
# - A loss that *starts* far above $\ln V$ would point to an error in the initial weights. A fresh
#   model lies a little above it (sections 6 and 10): by half a nat or one, not by five.
# - The fast first fall ends near the unigram line. How frequent each token is can be learned without
#   reading any sentence, and it comes first.
# - Everything below the unigram line needs context: the words before, and the German source.
# - The smoothed training loss stays above its floor, and the validation loss may lie far below
#   it. That is not a mistake: the two curves measure different things.
# - Look at the gradient's norm: is it clipped anywhere, and does it grow towards the end? If it did,
#   the rate would be too high.
# - **Do not be proud of the perplexity.** A small grammar made these captions, so the next token is
#   often certain. On real captions, with a larger vocabulary, lesson 09 gets about 4.
#
# ## 12 · When does averaging help?
#
# First in two dimensions, where we know the centre: a bowl with its lowest point at (0, 0). Each step
# follows the slope plus noise, as if from small batches. **Guess:** where does the mean of the last 60
# positions lie, if the rate stays the same, and if it falls to 0?

# %%
noise = 2 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
curvature, walks = torch.tensor([1.0, 3.0]), {}
for title, falls in (("a constant rate", 0.0), ("a rate that falls to 0", 1.0)):
    point, walk = torch.tensor([3.0, 1.5]), []
    for t in range(300):
        point = point - 0.3 * (1 - falls * t / 300) * (curvature * point + noise[t])
        walk.append(point)
    walks[title] = torch.stack(walk)  # (300, 2)

gains = []  # by how much the mean is nearer to the centre than the positions, on average
for title, walk in walks.items():
    each, of_mean = walk[-60:].norm(dim=1).mean().item(), walk[-60:].mean(0).norm().item()
    gains.append(each - of_mean)
    print(f"{title}: from the centre, the positions {each:.3f} on average, their mean {of_mean:.3f}")
assert gains[0] > 2 * gains[1] > 0
draw.bowl({title: walk.tolist() for title, walk in walks.items()}, curvature.tolist(), last=60)

# %% [markdown]
# With a constant rate the positions are scattered around the centre, and their mean lies much nearer
# to it than they do. Where the rate falls to 0, the last positions already lie near it, and there is
# less to gain.
#
# Now in the real model. The run wrote 8 snapshots in the last tenth of its budget. We train once
# more with the paper's schedule, whose rate is still high at the end, and measure each snapshot and
# the average.
#
# **Guess:** in which of the two runs does the average gain more over a typical snapshot?

# %%
other = preset_model("tiny", [sentence for pair in corpus for sentence in pair], seed=0)[0]
recipe = replace(recipe, schedule="paper", warmup=2 * recipe.warmup)
assert Trainer(other.to(DEVICE), bpe, recipe, budget, WORK / "paper", quiet=True).run(corpus, val)

val_batches = list(make_batches(encode_pairs(bpe, val), 2000))
runs = {}
for title, directory in (("our schedule", "ours"), ("the paper's schedule", "paper")):
    snapshots = [load_file(p) for p in sorted((WORK / directory / "snapshots").iterdir())]
    measured = []
    for weights in [*snapshots, average_checkpoints(snapshots)]:
        load_weights(other, weights)
        measured.append(evaluate_loss(other, val_batches))
    runs[title] = (measured[:-1], measured[-1])

gain = {title: sum(s) / len(s) - average for title, (s, average) in runs.items()}
assert gain["the paper's schedule"] > max(0, gain["our schedule"])
draw.averages(runs)

# %%
for title, (snapshots, average) in runs.items():
    typical = sum(snapshots) / len(snapshots)
    print(f"{title}: a snapshot has {typical:.4f} on average, the averaged model {average:.4f}")
    print(f"  its last snapshot has {snapshots[-1]:.4f}")
    assert len(snapshots) == 8 and average < 1.02 * typical  # never much worse than a typical one

# %% [markdown]
# With the paper's schedule the weights still jump around when the run ends, and the average is
# better than a typical snapshot. With a rate that falls to 0 the snapshots are already close together,
# and the average changes less; it can even be slightly worse than the last one. Lowering the rate and
# averaging both remove the noise of the last steps. The paper's schedule ends high, so the paper needs
# the average.
#
# **Which schedule is better?** Look at the printed numbers once more. In the run that this page
# stores, the paper's schedule with averaging is clearly the best of all, and our default, the linear
# one, loses. Why do we keep it? Not because of this comparison, which speaks against it. It has two
# practical merits: it fits a budget that is known in advance, in epochs or in minutes; and its last
# weights are good as they are, so a run can be judged by its last checkpoint. (On real captions,
# lesson 09, the last weights of such a run and their average are equally good.) What we have here is
# one run of each, one seed, a few epochs of captions that a grammar made, and neither peak was tuned
# for it. If it matters to you, train with both on your data, with several seeds.
#
# > **Try it.** Set `average_span=0.9` and train again. Why does an average over almost the whole
# > run hurt?

# %% [markdown]
# ## What comes next
#
# This loop is right; it is not yet fast. [Lesson 07c](07c_speed.ipynb) measures where its time goes and
# makes the same steps several times as fast: cheaper random numbers, **mixed precision** (products with
# 16-bit numbers), **compiling** (`torch.compile`), and **several devices** that share each batch. For the
# last, keep section 5 in mind: each device has another number of real tokens, so the mean of their means
# is wrong there as well.
#
# ## What you built
#
# | name | takes → gives |
# |---|---|
# | `label_smoothed_loss` | logits $(N, V)$, target $(N)$ → sum of the losses, a scalar |
# | `batch_loss` | model, `Batch` → sum over the real tokens |
# | `paper_learning_rate`, `linear_learning_rate`, `learning_rate` | step, progress → rate |
# | `TrainingConfig`, `Budget`, `Position` | frozen records: how, how long, where |
# | `make_optimizer`, `train_step`, `groups_of` | batches → one step; loss, gradient norm |
# | `apply_gradient` | clips, refuses what is not finite, steps; gives the gradient's norm |
# | `evaluate_loss` | model, batches → mean loss per token, plain |
# | `save_checkpoint`, `load_checkpoint`, `CheckpointError` | model and tokeniser ↔ a directory |
# | `average_checkpoints` | several sets of weights → their mean |
# | `save_state`, `load_state`, `stop_request`, `Log`, `read_log` | stop, resume, remember |
# | `Trainer(...).run(train_pairs, val_pairs)` | a run from start to end; True if it is finished |
# | `PRESETS`, `recipe_of`, `preset_model` | `tiny`, `small`, `cpu`, `rnn-attention`, `base`; changed, built |
#
# ## Summary · 小结
#
# - Cross-entropy is $-\ln p_y$. Label smoothing asks for $1-\varepsilon+\varepsilon/V$ instead of
#   1, punishes being too sure, and has a floor: the entropy of its target. The gradient is
#   $p - q$.
# - Sum the losses and divide by the real tokens of the whole step. Then padding, the way of
#   batching and accumulation do not matter.
# - The paper's rate rises for $w$ steps to $(d_{\mathrm{model}} w)^{-1/2}$ and falls like
#   $1/\sqrt{t}$. Adam divides by the typical size of the gradient; its first steps have full
#   length, so warm up.
# - To resume exactly, keep the weights, Adam's averages, the position, the random generator, and
#   a record of all choices. Write atomically.
# - Read a loss against baselines. Average snapshots if the rate is still high at the end.
#
# **小结**
#
# - 交叉熵损失是 $-\ln p_y$。标签平滑把目标从 1 降到 $1-\varepsilon+\varepsilon/V$，惩罚过度自信；
#   它的损失有一个下限，即平滑后目标分布的熵。对 logits 的梯度是 $p - q$。
# - 先对损失求和，再除以整个更新步中真实词元的总数。这样填充、分批方式和梯度累积都不影响结果。
# - 论文的学习率先线性上升 $w$ 步，到达峰值 $(d_{\mathrm{model}} w)^{-1/2}$，然后按 $1/\sqrt{t}$
#   下降。Adam 用梯度的典型大小作归一化，最初几步总是走满步长，因此需要预热（warm-up）。
# - 要精确地恢复训练，需要保存权重、Adam 的两个滑动平均、训练位置、随机数生成器的状态，
#   以及所有设置的记录；写文件要用原子操作。
# - 读损失曲线要与事先算好的基线比较。如果训练结束时学习率仍然较高，检查点平均会有明显帮助。
#
# ## Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*, sections 5 and 6.1. arXiv 1706.03762
# - Szegedy et al. 2015, *Rethinking the Inception Architecture for Computer Vision*, section 7:
#   label smoothing. arXiv 1512.00567
# - Müller, Kornblith, Hinton 2019, *When Does Label Smoothing Help?* arXiv 1906.02629
# - Kingma, Ba 2014, *Adam: A Method for Stochastic Optimization*. arXiv 1412.6980
# - Srivastava et al. 2014, *Dropout: A Simple Way to Prevent Neural Networks from Overfitting*,
#   JMLR 15
# - Xiong et al. 2020, *On Layer Normalization in the Transformer Architecture*: why warm-up.
#   arXiv 2002.04745
# - Popel, Bojar 2018, *Training Tips for the Transformer Model*. arXiv 1804.00247
# - Ott et al. 2018, *Scaling Neural Machine Translation*: accumulation, large batches. arXiv
#   1806.00187
#
# Three more to try:
#
# > **Try it.** Write a `batch_loss` that uses the mean of each batch, run the claim of section 5
# > with it, and see which assertion fails.
#
# > **Try it.** Give `Trainer` a `Budget(minutes=0.5)` and `quiet=False`, press the stop button,
# > and resume with `Budget(minutes=1)`. What happens to the learning rate at that moment, and
# > why?
#
# > **Try it.** Train with `peak_lr=1.0`. Compare the loss with $\ln V$: what has the model
# > learned?
#
# **Homework.** [Assignment training](homework/release/training/training.ipynb): write the learning
# rate, label smoothing, Adam, and averaging yourself; the check names what went wrong.
#
# **Next:** [lesson 07c](07c_speed.ipynb) makes it fast; or go on to [lesson 08](08_decoding.ipynb): from the
# trained model to sentences.

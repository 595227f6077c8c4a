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
# # 07 · Training
#
# > Training: loss, learning rate, steps, averaging, recipes (paper, section 5).

# %% [markdown]
# A fresh Transformer (lesson 05) translates every sentence into noise. This lesson turns noise into
# German-to-English translation, and shows what each part of the training is good for.
#
# **After this lesson you can**
#
# - say what label smoothing punishes, and compute the lowest loss that it allows;
# - compute the paper's learning rate by hand, and say what each part of Adam does;
# - (more) make one large training step out of several small batches without changing the result;
# - read a loss curve against baselines that you computed before training;
# - average checkpoints, and say when that helps.
#
# **You need first** lessons 04 (masks and `Batch`), 05 (the model) and 06 (tokens and batches),
# and what a gradient is (lesson 01). **Time:** 55 minutes; 75 with all that is marked *more*.
# **In the paper:** section 5, all of it; the averaging of checkpoints is in section 6.1. This page is on
# the path. Saving, stopping and going on are in the machine room, [07b](07b_runs.ipynb).
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
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from course.masking import Batch
from course.seq2seq import RNNTranslator, Seq2SeqConfig
from course.text import BPE, PAD
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
# line. It returns a **sum** over the tokens, not a mean, so that each real token can count the same,
# whatever batch it is in (section 5 shows it).

# %%
#| export
def label_smoothed_loss(logits: Tensor, target: Tensor, epsilon: float = 0.1) -> Tensor:
    """Return the cross-entropy, in nats, against a softened target, summed over the tokens.

    logits (N, V), target (N,) -> scalar. The target gives 1 - epsilon to the right word and
    spreads epsilon over all V words, the right one too, as `F.cross_entropy` does.
    Paper, section 5.4; Szegedy et al. 2015.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)  # 16 bits are too few for a sum
    log_probs = logits.to(wide).log_softmax(-1)  # (N, V)
    loss = -log_probs.gather(-1, target[:, None]).squeeze(-1)  # (N,)
    if epsilon:  # without it a forbidden word, of logit -inf, would give 0 * inf
        loss = (1 - epsilon) * loss - epsilon * log_probs.mean(-1)
    return loss.sum()


# %% [markdown]
# The demonstrations of this lesson need a few more things than the exported code.

# %%
import copy

import torch.nn.functional as F

from course.corpora import pairs
from course.device import by_scale, pick
from course.homework import check, compare
from course.text import BOS, EOS, encode_pairs, make_batches
from course.viz import training as draw

torch.manual_seed(0)
DEVICE = pick()

# %% [markdown]
# **Before you run the next cell, guess.** The vocabulary has 8 words, the right one is *dog*, and
# $\varepsilon = 0.1$. A model becomes surer and surer of *dog*: 0.5, 0.9, 0.99, 0.9999. With the
# plain loss this is always better. With the smoothed loss: where is the lowest point, and is the
# loss 0 there? Write your guess into the cell; a later one compares it with what was measured.

# %%
mine = None  # your guess: the probability of *dog* where the smoothed loss is lowest, 0 to 1

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

# %%
compare(mine, best, "07: probability at the lowest smoothed loss")

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
# does not say. Two likely reasons: the model overfits less (it learns less by heart), and its probabilities tell better how
# often it is right, which helps a search that adds them up (beam search, lesson 08). Müller et al.
# (2019) discuss both.
#
# > **Try it.** Set $\varepsilon$ to 0.5 in the figure (`soft` and `losses`). Where is the lowest point now?
# > At which $\varepsilon$ would the best model be one that ignores the input?
#
# <details><summary>Answer</summary>
#
# At $1 - 0.5 + 0.5/8 = 0.5625$, and the loss there is 1.54 instead of 0.47: half of the target is spread. With
# $\varepsilon = 1$ every word gets $1/V$, whatever the right word is. The best model then says $1/V$ everywhere, and
# has no reason to read the source.
#
# </details>
#
# Two questions on the section, with a reason each. Answer by `check("smoothing_floor", "b")`.

# %%
check("smoothing_floor")

# %%
check("smoothing_perplexity")

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
mine = None  # your guess: 27, 17 or 9

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
compare(mine, projected[0], "07: rows that reach the projection")

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
mine = None  # your guess: the highest rate of the base model

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
compare(mine, paper_learning_rate(4000, 512), "07: highest rate of the base model")


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
        if not (math.isfinite(self.peak_lr) and 0 <= self.eps < 1):
            raise ValueError(f"peak_lr={self.peak_lr}, eps={self.eps}: give a finite rate, and an "
                             "eps from 0 to below 1")
        if not (self.average < 1000 and 0 <= self.seed < 2**32):
            raise ValueError(f"average={self.average}, seed={self.seed}: at most 999 snapshots are "
                             "numbered, and a seed is from 0 to 2**32 - 1")
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
#
# <details><summary>Answer</summary>
#
# The peak is $(64\,w)^{-1/2} = 0.003$, so $w = 1 / (64 \cdot 0.003^2) = 1736$. `paper_learning_rate(1736, 64, 1736)` gives
# 0.0030. A rate twice as high needs a quarter of the warm-up, 434 steps: the root is in the formula.
#
# </details>

# %%
check("warmup_why")

# %%
check("warmup_peak")

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
# the root of the other; which of them lacks more, the folded part below shows.) Write $v_t$ out as a
# sum and suppose that every $g_i^2$ has the same mean $\mathrm{E}[g^2]$:
#
# $$v_t = (1-\beta_2) \sum_{i=1}^{t} \beta_2^{t-i} g_i^2
# \quad\Rightarrow\quad
# \mathrm{E}[v_t] = \mathrm{E}[g^2]\,(1-\beta_2) \sum_{i=1}^{t} \beta_2^{t-i}
# = \mathrm{E}[g^2]\,(1-\beta_2^t) .$$
#
# (The sum is a geometric series.) Dividing by $1-\beta_2^t$ removes exactly this error. It is called **bias correction**.
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
# One property matters in what follows. At $t = 1$ the hats leave $\hat m = g$ and $\hat v = g^2$: in the first
# step each weight moves by the full rate, whether its gradient is 1000 or 0.001 (it need only be far above
# $\epsilon$), and even if it is almost only noise. So warm-up and Adam belong together.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The four equations by hand · more
#
# For those who want to see that: Adam in six lines, equal to PyTorch's, and what the hats are good for.

# %% [markdown]
# The next cell writes the four equations by hand and compares 20 steps with PyTorch's. **Guess for the first two lines:** how far does a weight move in the *first* step
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
# A million times more gradient, the same step.
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
#
# <details><summary>Answer</summary>
#
# With $\beta_1 = 0$ the first step is $g / (|g| + \epsilon)$ times the rate: the *sign* of the gradient. Whatever the
# gradient's size, each weight moves by the rate, up or down. Later steps divide by the typical size of the last fifty
# gradients, so a larger gradient than usual moves the weight further again.
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 5 · One step, from many batches: gradient accumulation · more
#
# For those whose memory is too small for the paper's batches: several small ones, one step.
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
mine = None  # your guess: the error as a share, such as 0.01

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
compare(mine, error, "07: error of the mean of means")


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
#
# <details><summary>Answer</summary>
#
# It disappears, up to rounding (and the last assertion stops the cell, as it wants different numbers): with $n_1 = n_2$ both formulas are the same. But batches that are made by
# padded size almost never hold the same number of real tokens, and the last batch of an epoch has whatever is left. A
# formula that needs luck is a mistake that waits.
#
# </details>

# %% [markdown]
# ## 6 · Is it learning? A loop of twenty lines
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
noisy = Transformer(replace(small, dropout=0.5)).train()  # on section 5's sentences: one batch, and two parts
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
# Now everything is there for a training loop. `train_step` is written out in folded section 5: gradients
# to zero, the loss over the real tokens, `backward()`, a gradient longer than `clip` shortened to it, Adam's
# step; it returns the loss and the gradient's length, `norm`. `groups_of` hands out `accumulate` batches for
# each step, here one. The loop *yields* after each step: who calls it decides what to print, to measure and to
# keep.

# %%
def train(model: Transformer, examples, config: TrainingConfig, epochs: int):
    """Train; after each step yield what it was: step, epoch, progress, loss, rate, norm."""
    optimizer = make_optimizer(model, config)
    n_batches = sum(1 for _ in make_batches(examples, config.max_tokens))
    step = done = 0
    for epoch in range(epochs):
        model.train()
        batches = make_batches(examples, config.max_tokens, seed=epoch)
        for group in groups_of((batch.to(DEVICE) for batch in batches), config.accumulate):
            step += 1
            progress = done / (n_batches * epochs)
            rate = learning_rate(config, model.config.d_model, step, progress)
            loss, norm = train_step(model, group, optimizer, rate, config)
            done += len(group)
            yield dict(step=step, epoch=done // n_batches, progress=done / (n_batches * epochs),
                       ends_epoch=done % n_batches == 0, loss=loss, rate=rate, norm=norm)


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
        for now in train(learner, known, recipe, epochs)
        if now["ends_epoch"] and (epoch := now["epoch"]) % (epochs // 10) == 0
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
#
# <details><summary>Answer</summary>
#
# No. In one run each, smoothing alone leaves the gap nearly as it was: 3.07 nats instead of 3.02 (with dropout 0.3: 0.80).
# The known sentences cost 0.13 nats instead of 0.015, since certainty is no longer asked for. The loss on new sentences
# rises as before, from 2.48 to 3.20. Smoothing hides no part of the picture, as dropout does.
#
# </details>

# %%
check("dropout_eval")

# %%
check("dropout_val")

# %% [markdown]
# ## 7 · A real run, read against baselines
#
# Now we train on more captions. Before looking at any curve, compute what *no knowledge*
# costs. A loss of 2.0 alone says nothing. Compared with these levels it does:
#
# - **Uniform**: all $V$ tokens equally likely. Loss $\ln V$.
# - **Unigram**: the model knows how frequent each token is, and nothing else. Its loss on new
#   text is $-\frac{1}{N} \sum_{i} \ln f(y_i)$, with $f$ the frequencies counted in the training
#   text. Our training loss is the *smoothed* one. There the best prediction without any context is not
#   $f$ but the mean of the smoothed targets, $p = 0.9 f + 0.1/V$, and its smoothed loss is the line.
# - **Floor of the smoothed loss**: the entropy of the smoothed target (section 1). The *training*
#   loss cannot fall below it, the plain validation loss can.

# %%
corpus = pairs("captions", "train")[: by_scale(smoke=300, cpu=6000, gpu=12000)]
val = pairs("captions", "val")[: by_scale(smoke=50, cpu=300, gpu=500)]
bpe = BPE.learn([sentence for pair in corpus for sentence in pair], 1000)
V = len(bpe)

counts = torch.ones(V)  # each token once more than it was seen, so that none has probability 0
for _, tgt in encode_pairs(bpe, corpus):
    counts += torch.bincount(torch.tensor(tgt), minlength=V)
frequency = counts / counts.sum()
val_tokens = [token for _, tgt in encode_pairs(bpe, val) for token in tgt]
unigram = -frequency.log()[val_tokens].mean().item()
alone = 0.9 * frequency + 0.1 / V  # the same prediction at every place: the mean smoothed target
smoothed_unigram = (-0.9 * alone.log()[val_tokens].mean() - 0.1 * alone.log().mean()).item()

soft = torch.full((V,), 0.1 / V)
soft[0] += 0.9
floor = -(soft * soft.log()).sum().item()
assert 0 < floor < unigram < smoothed_unigram < math.log(V)
print(f"V = {V}; nats per token: ln V = {math.log(V):.2f}, unigram {unigram:.2f} "
      f"(smoothed {smoothed_unigram:.2f}), floor {floor:.2f}")


# %% [markdown]
# **Guess:** where will the loss be after ten steps, and in which order will it pass the lines?

# %%
mine = None  # your guess: the training loss of the tenth step, in nats

# %%
def run(config: TrainingConfig, epochs: int) -> tuple[Transformer, list, list]:
    """Train a fresh model; return it, its log, and up to 8 snapshots of its last tenth."""
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(V, V, 64, 4, 128, 2, norm="pre")).to(DEVICE)
    log, snapshots = [], []
    for now in train(model, encode_pairs(bpe, corpus), config, epochs):
        log.append(now)
        if now["progress"] > 0.9 + 0.1 * (len(snapshots) + 1) / 8 - 1e-9:
            copied = {name: p.detach().clone() for name, p in model.named_parameters()}
            snapshots.append(copied)  # section 8 says what for
        if now["ends_epoch"]:
            log.append({"step": now["step"], "val_loss": evaluate_loss(model, val_batches)})
    return model, log, snapshots


val_batches = list(make_batches(encode_pairs(bpe, val), 2000))
epochs = by_scale(smoke=4, cpu=4, gpu=10)
recipe = TrainingConfig(max_tokens=by_scale(smoke=250, cpu=1000, gpu=1000), peak_lr=1e-2,
                        warmup=by_scale(smoke=30, cpu=100, gpu=100))
model, log, snapshots = run(recipe, epochs)

steps = [line for line in log if "loss" in line]
final = log[-1]["val_loss"]
assert steps[0]["loss"] > smoothed_unigram > unigram > final
assert min(line["loss"] for line in steps) > floor
levels = {"uniform, ln V": math.log(V), "unigram, smoothed": smoothed_unigram,
          "floor of the smoothed loss": floor}
draw.run_curves(log, levels)

# %%
print(f"{len(steps)} steps; val loss {final:.3f} nats, perplexity {math.exp(final):.2f}")
compare(mine, steps[9]["loss"], "07: training loss of the tenth step")


# %% [markdown]
# Read it from the top.
#
# - The three lines belong to the blue curve, the smoothed loss. (For equal probabilities smoothing
#   changes nothing: $\ln V$ either way.)
# - A loss that *starts* far above $\ln V$ would point to an error in the initial weights. A fresh
#   model lies a little above it (section 6): by half a nat or one, not by five.
# - The fast first fall ends near the unigram line. How frequent each token is can be learned without
#   reading any sentence, and it comes first.
# - Everything below the unigram line needs context: the words before, and the German source.
# - The smoothed training loss stays above its floor, and the validation loss may lie far below
#   it. That is not a mistake: the two curves measure different things.
# - Look at the gradient's norm: is it clipped anywhere, and does it grow towards the end? If it did,
#   the rate would be too high.
# - **Do not be proud of the perplexity.** A small grammar made these captions, so the next token is
#   often certain. On real captions, with a larger vocabulary, lesson 09 gets about 4.

# %% [markdown]
# ## 8 · The average of several checkpoints (paper, section 6.1)
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

# %% [markdown]
# The weights are copied out of the model as a dictionary, name by name, and later copied back in. Two
# details. A tied embedding (lesson 05) is one matrix with several names; `named_parameters` lists it once.
# And on the way back we compare names and shapes ourselves: PyTorch's `copy_` would silently *broadcast* a
# vector into a matrix, and nobody would notice until the translations are nonsense.

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
# > It is bad. Why may we average checkpoints of one run, but not of two? (Hint: in a feed-forward layer
# > exchange two *rows* of `w_1.weight`, the two matching numbers of its bias, and the two matching
# > *columns* of `w_2.weight`. Is it another model? And the average of the two?)
#
# <details><summary>Answer</summary>
#
# The two models have 0.294 and 0.288 nats, their average 4.74: hardly better than word frequencies alone (4.92). Exchanged as in the
# hint, it is the same function (0.294 again): the sum over inner units does not ask for their order. But the mean of both
# versions mixes unit 1 with unit 2. With *all* inner units of every layer in another order, it has 0.84 nats. Two seeds
# differ in such an order, and in more.
#
# </details>

# %% [markdown]
# ### When does averaging help?
#
# The folded part asks a bowl whose lowest point we know; then we ask our model.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### First in two dimensions · more
#
# A walk of 300 noisy steps whose centre we know: for who wants to see why an average helps.

# %% [markdown]
# A bowl with its lowest point at (0, 0). Each step
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

# %% [markdown]
# ### In the real model
#
# The run kept snapshots of its last tenth. We train once more with the paper's schedule, whose rate is still high at the end, and measure each snapshot and
# the average.
#
# **Guess:** in which of the two runs does the average gain more over a typical snapshot?

# %%
mine = None  # "our schedule" or "the paper's schedule"

# %%
paper_recipe = replace(recipe, schedule="paper", warmup=2 * recipe.warmup)
other, _, paper_snapshots = run(paper_recipe, epochs)

runs = {}
for title, taken in (("our schedule", snapshots), ("the paper's schedule", paper_snapshots)):
    measured = []
    for weights in [*taken, average_checkpoints(taken)]:
        load_weights(other, weights)
        measured.append(evaluate_loss(other, val_batches))
    runs[title] = (measured[:-1], measured[-1])

gain = {title: sum(s) / len(s) - average for title, (s, average) in runs.items()}
assert gain["the paper's schedule"] > max(0, gain["our schedule"])
draw.averages(runs)

# %%
for title, (taken, average) in runs.items():
    typical = sum(taken) / len(taken)
    print(f"{title}: a snapshot has {typical:.4f} on average, the averaged model {average:.4f}")
    print(f"  its last snapshot has {taken[-1]:.4f}")
    assert len(taken) > 1 and average < 1.02 * typical  # never much worse than a typical one
compare(mine, max(gain, key=gain.get), "07: where the average gains more")

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
# > **Try it.** Take the snapshots from the last nine tenths of the run (in `run`: `0.1 + 0.9 * ...`). Why does such an
# > average hurt?
#
# <details><summary>Answer</summary>
#
# The eight snapshots have 2.00, 1.20, 0.82, 0.58, 0.46, 0.40, 0.32 and 0.29 nats, their average 0.54: worse than the
# last four. The mean of points along a way lies back on the way.
#
# </details>

# %%
check("averaging_what")

# %%
check("averaging_last")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 9 · Recipes: sizes and training under one name · more
#
# What the command line and later lessons call a *preset*: five of them, how one is changed, and how a model is
# built from it.

# %% [markdown]
# A preset names the sizes of the model and how to train it. `tiny` learns the captions in a
# minute or two. On a laptop and a real corpus, `small` is the choice for ten minutes, `cpu` for
# forty. `base` is the paper's base model. The first three put the norms *before* the sub-layers
# (lesson 05): that needs less care with the warm-up.
#
# `rnn-attention` is the recurrent translator of lesson 02. It answers to the same calls as the
# Transformer, so the same loop trains it, on the same tokens and for the same budget: the two can be
# compared on equal terms.

# %%
#| export
MODELS = {  # the name in a checkpoint's config.json -> the class and its sizes
    "transformer": (Transformer, TransformerConfig),
    "rnn": (RNNTranslator, Seq2SeqConfig),
}


class Recipe(NamedTuple):
    """How a model is made and trained: its sizes beyond the paper's base, and its training."""

    sizes: Mapping[str, object]
    training: TrainingConfig

    def fresh(self, sentences: Iterable[str], seed: int) -> tuple[Transformer, BPE]:
        """Return a fresh model of these sizes and a tokeniser learned from training sentences."""
        sizes = dict(self.sizes)
        bpe = BPE.learn(sentences, sizes.pop("vocab"))
        model_class, config_class = MODELS[sizes.pop("model", "transformer")]
        torch.manual_seed(seed)
        return model_class(config_class(len(bpe), len(bpe), **sizes)), bpe


PRESETS = {
    "tiny": Recipe(
        dict(vocab=1000, d_model=64, n_heads=4, d_ff=128, n_layers=2, norm="pre"),
        TrainingConfig(max_tokens=1000, peak_lr=1e-2, warmup=100),
    ),
    "small": Recipe(
        dict(vocab=4000, d_model=128, n_heads=4, d_ff=256, n_layers=2, norm="pre"),
        TrainingConfig(peak_lr=3e-3, warmup=200),
    ),
    "cpu": Recipe(
        dict(vocab=5000, d_model=256, n_heads=4, d_ff=512, n_layers=3, dropout=0.15, norm="pre"),
        TrainingConfig(),
    ),
    "rnn-attention": Recipe(
        dict(model="rnn", vocab=5000, d_model=256, attention="additive", dropout=0.15),
        TrainingConfig(peak_lr=3e-3, warmup=100),
    ),
    "base": Recipe(
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
def recipe_of(preset: str, changes: Mapping[str, object] | None = None) -> Recipe:
    """Return a preset, some values changed.

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
    return Recipe(sizes, config)


# %% [markdown]
# From a recipe to a model: `fresh` learns the vocabulary from the training sentences, and the seed
# decides the first weights. Most often we want a preset as it is:

# %%
#| export
def preset_model(
    preset: str, sentences: Iterable[str], seed: int
) -> tuple[Transformer, BPE]:
    """Return a fresh model of a preset and a tokeniser learned from training sentences."""
    return recipe_of(preset).fresh(sentences, seed)


# %%
sizes, chosen = recipe_of("cpu", {"dropout": 0.3, "peak_lr": 1e-3})
assert sizes["dropout"] == 0.3 and chosen.peak_lr == 1e-3 and chosen.warmup == 300
for wrong in ({"droput": 0.3}, {"d_model": "wide"}):
    try:
        recipe_of("cpu", wrong)
        raise AssertionError("accepted")
    except ValueError as error:
        print(str(error)[:90])

# %% [markdown]
# ## What comes next
#
# This loop is right; it forgets everything when the notebook closes, and it is not yet fast. The machine room has
# both: [07b](07b_runs.ipynb) saves a run so that it can be stopped, killed and continued, and arrives at the same
# weights; [07c](07c_speed.ipynb) measures where the time goes and makes the same steps in less of it. Both may be
# skipped at a first reading.
#
# ## What you built
#
# | name | takes → gives |
# |---|---|
# | `label_smoothed_loss` | logits $(N, V)$, target $(N)$ → sum of the losses, a scalar |
# | `batch_loss` | model, `Batch` → sum over the real tokens |
# | `paper_learning_rate`, `linear_learning_rate`, `learning_rate` | step, progress → rate |
# | `TrainingConfig` | a frozen record: how a model is trained |
# | `make_optimizer`, `train_step`, `groups_of` | batches → one step; loss, gradient norm |
# | `apply_gradient` | clips, refuses what is not finite, steps; gives the gradient's norm |
# | `evaluate_loss` | model, batches → mean loss per token, plain |
# | `weights_of`, `load_weights`, `average_checkpoints` | model ↔ weights; several sets → their mean |
# | `Recipe`, `PRESETS`, `recipe_of`, `preset_model` | `tiny`, `small`, `cpu`, `rnn-attention`, `base`; changed, built |
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
# - Read a loss against baselines. Average snapshots if the rate is still high at the end.
#
# <div lang="zh">
#
# **小结**
#
# - 交叉熵损失是 $-\ln p_y$。标签平滑把目标从 1 降到 $1-\varepsilon+\varepsilon/V$，惩罚过度自信；
#   它的损失有一个下限，即平滑后目标分布的熵。对 logits 的梯度是 $p - q$。
# - 先对损失求和，再除以整个更新步中真实词元的总数。这样填充、分批方式和梯度累积都不影响结果。
# - 论文的学习率先线性上升 $w$ 步，到达峰值 $(d_{\mathrm{model}} w)^{-1/2}$，然后按 $1/\sqrt{t}$
#   下降。Adam 用梯度的典型大小作归一化，最初几步总是走满步长，因此需要预热（warm-up）。
# - 读损失曲线要与事先算好的基线比较。如果训练结束时学习率仍然较高，检查点平均会有明显帮助。
#
# </div>
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
# Two more to try:
#
# > **Try it.** Let `train_step` divide each batch's loss by the tokens of *that batch*, and by the number of batches.
# > Run the claim of section 5 with it, and see which assertion fails.
#
# <details><summary>Answer</summary>
#
# `torch.testing.assert_close(accumulated, whole)`: the accumulated gradient is now the mean of means, and off by as much as
# the cell prints. The claim for the full batch alone still holds. With one batch a step the mistake cannot be seen.
#
# </details>
#
# > **Try it.** Train with `peak_lr=1.0`. Compare the loss with $\ln V$: what has the model
# > learned?
#
# <details><summary>Answer</summary>
#
# The rate is a hundred times as high as here. The loss rises to 8.2, above $\ln V = 6.9$. After one pass the plain loss on
# val is 4.64, little below the unigram line (4.92): the model knows how frequent each token is, and not much more.
#
# </details>
#
# **Homework.** [Assignment training](homework/release/training/training.ipynb): write the learning
# rate, label smoothing, Adam, and averaging yourself; the check names what went wrong.
#
# **Next:** [lesson 08](08_decoding.ipynb): from the trained model to sentences. In the machine room:
# [07b](07b_runs.ipynb) saves a run and goes on with it, [07c](07c_speed.ipynb) makes it fast.

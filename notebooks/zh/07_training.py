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
# # 07 · 训练
#
# > 训练：损失、学习率、训练步、平均、配方（论文第 5 节）。

# %% [markdown]
# 刚初始化的 Transformer（第 05 课）把每个句子都译成胡言乱语。这一课教它把德语译成英语，并说明训练的每个部分有什么用。
#
# **学完这一课，你能**
#
# - 说清标签平滑惩罚什么，算出它允许的最低损失；
# - 手算论文的学习率，说出 Adam 的每个部分起什么作用；
# - （选读）用几个小批次拼成一个大的训练步，结果不变；
# - 对照训练前就算好的基线来读损失曲线；
# - 给检查点取平均，并说出什么时候有用。
#
# **先修：** 第 04 课（掩码和 `Batch`）、第 05 课（模型）、第 06 课（词元和批次），以及知道梯度是什么（第 01 课）。**时间：** 55 分钟；连标有“选读”的部分一起 75 分钟。**论文：** 第 5 节全部；检查点平均在 6.1 节。这一页在主线上。保存、停下和接着训练在工程篇，见 [07b](07b_runs.ipynb)。
#
# 五个词，从头用到尾：
#
# | 词 | 在这里的意思 |
# |---|---|
# | 损失（loss）| 一个数，说明预测有多差；训练要让它变小 |
# | 梯度（gradient）| 每个权重增大一点时，损失怎样变 |
# | 步（step）| 把所有权重改动一次（论文叫“training step”，即训练步） |
# | 轮次（epoch）| 把所有训练句子过一遍 |
# | 学习率（learning rate）| 一步把权重移动多远 |
#
# 第一个代码单元格放的是导出代码要用的东西。以 `#| export` 开头的单元格合起来就是模块 `course/training.py`，其余都是演示。

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
# ## 1 · 什么是好的预测？损失（论文 5.4 节）
#
# 在每个位置，解码器给词表（vocabulary）的 $V$ 个词元（token）各打一个分数，叫 logit。softmax 把这些 logit，即 $z$，变成概率 $p$。下一个词元 $y$ 是哪一个，文本里写着。常用的损失是**交叉熵**（cross-entropy）：正确词元得到的概率，取对数再取负。
#
# $$L = -\ln p_y$$
#
# 用自然对数，单位就是“奈特”（nat）。模型如果给正确词元的概率是 1，损失就是 0；如果毫无头绪，$p_y = 1/V$，损失就是 $\ln V$。人们常报告 $e^{L}$，叫做**困惑度**（perplexity）：困惑度为 5，意思是“没把握的程度，就像在 5 个同样可能的词元里选一个”。困惑度按当前这个词表的词元来算：同一段文本换一种切法，数值就变了。
#
# 想一想这个损失鼓励什么。只要 $p_y$ 还在增大，损失就还在下降。softmax 要达到 1，必须有一个 logit 比其他的大无穷多，所以这个损失会逼着模型给出越来越大的 logit，哪怕这个句子有好几种译法都对。论文的对策是**标签平滑**（label smoothing，Szegedy 等 2015）：不要求概率为 1。从正确词元那里拿走一小份 $\varepsilon = 0.1$，平均分给所有词元。于是目标变成
#
# $$q_k = (1-\varepsilon)\,[k = y] + \frac{\varepsilon}{V}$$
#
# 其中 $[k = y]$ 对正确词元是 1，否则是 0。对这个目标的交叉熵是
#
# $$L = -\sum_{k=1}^{V} q_k \ln p_k
# = -(1-\varepsilon) \ln p_y - \frac{\varepsilon}{V} \sum_{k=1}^{V} \ln p_k .$$
#
# 第二项是 $-\varepsilon$ 乘以对数概率的**平均值**。代码写的就是上面这一行。它返回的是各词元损失的**和**，不是平均：这样，每个真正的词元不管在哪个批次里，分量都一样（第 5 节会验证）。

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
# 除了导出的代码，这一课的演示还要用一些别的东西。

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
# **运行下一个单元格之前，先猜。** 词表有 8 个词，正确的是“dog”，$\varepsilon = 0.1$。模型对“dog”越来越有把握：0.5、0.9、0.99、0.9999。用普通的损失，总是越有把握越好。用平滑后的损失，最低点在哪里？那里的损失是 0 吗？把猜测写进单元格，后面会与测得的结果比较。

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
# 虚线是普通的损失，一路向右下降。平滑后的损失却会掉头：目标给“dog”的概率是 $1 - \varepsilon + \varepsilon / V = 0.9125$，模型给的概率正好等于它时，损失最低。再往后，越有把握，损失越大。
#
# 而且最低值不是 0。不管 $p$ 是什么，交叉熵 $-\sum q_k \ln p_k$ 至少是目标的**熵**（entropy）$H(q) = -\sum q_k \ln q_k$，只有 $p = q$ 时才相等（吉布斯不等式）。所以平滑后的损失有一个**下限**（floor），任何模型都不可能更低。记住：训练时打印的损失包含这个下限。要做比较，我们总是计算普通的损失，即 $\varepsilon = 0$。
#
# 看梯度，一行公式就说明了同样的道理。对 logit 求导，
#
# $$\frac{\partial L}{\partial z_k} = p_k - q_k .$$
#
# 梯度就是模型给出的概率与目标概率之差。模型比目标更有把握，即 $p_y > q_y$ 时，梯度就把它**往回**推。下一个单元格用自动求导检验这个公式，再拿整个函数与 PyTorch 的函数比较，损失和梯度都比。最后还要弄清一个细节，各个库的做法并不一致：**$\varepsilon$ 分给多少个词元？** 我们和 PyTorch 分给全部 $V$ 个。另一些库，包括 tensor2tensor（论文作者的代码），只分给 $V - 1$ 个错误的词元，这等于取 $\varepsilon' = \varepsilon\,(V-1)/V$。所以各篇文章里的 $\varepsilon$ 值，意思稍有出入；词表有几千个词元时，差别极小。

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
# 标签平滑有用吗？论文的表 3（D 行）里，不用平滑的 base 模型困惑度**更好**，4.67 对 4.92；译文却**更差**，BLEU 是 25.3 对 25.8。要求模型别太有把握，测出来它确实没那么有把握，可是译文反而更好。为什么？论文没有说。可能的原因有两个：一是模型过拟合较少（死记硬背的少）；二是模型给出的概率更能反映它有多大机会译对，而束搜索（第 08 课）要把概率累加起来，就从中得益。Müller 等（2019）讨论了这两点。
#
# > **试一试。** 在图里把 $\varepsilon$ 设为 0.5（`soft` 和 `losses`）。现在最低点在哪里？$\varepsilon$ 等于多少时，最好的模型干脆不看输入？
#
# <details><summary>答案</summary>
#
# 在 $1 - 0.5 + 0.5/8 = 0.5625$，那里的损失是 1.54，原来是 0.47：目标的一半都分出去了。$\varepsilon = 1$ 时，不管正确的词是哪个，每个词都得到 $1/V$。这时最好的模型在哪里都给 $1/V$，没有必要去读源句。
#
# </details>
#
# 这一节有两道题，每个选项都附有理由。用 `check("smoothing_floor", "b")` 作答。

# %%
check("smoothing_floor")

# %%
check("smoothing_perplexity")

# %% [markdown]
# ## 2 · 哪些词元要算？填充不算
#
# 同一批次的句子长短不一，短的要用填充（padding）词元补齐（第 04 课）。填充不是文本，绝不能算进损失。有两种常见的做法会出问题：
#
# - 算出每个位置的损失，再把填充位置的乘以 0。结果是对的，但模型里计算量最大的那次乘法（状态乘以词表矩阵），有一部分白算了。
# - 用 `F.cross_entropy(..., ignore_index=PAD)`，沿用默认设置，也就是取平均。如果一个批次（或者分给某台计算机的那部分）里没有一个真实词元，这个平均就是 0/0，得到 NaN，“不是一个数”。只要有一个 NaN，下一步就会毁掉全部权重。
#
# 我们在投影到词表**之前**就挑出真实的位置：`states[real]` 取出 `real` 为 True 的行，于是 $(B, T, D)$ 变成 $(N, D)$，$N$ 是真实词元的个数。

# %%
#| export
def batch_loss(model: Transformer, batch: Batch, epsilon: float = 0.0) -> Tensor:
    """Return the loss summed over the real tokens of a batch; padding is never projected."""
    memory = model.encode(batch.src, batch.src_mask)
    states = model.decode(batch.tgt_in, memory, batch.src_mask, batch.tgt_mask)  # (B, T, D)
    real = batch.tgt_out != PAD  # (B, T)
    return label_smoothed_loss(model.project(states[real]), batch.tgt_out[real], epsilon)


# %% [markdown]
# **先猜**：三个句子，目标句各有 3、9、5 个词元，放在一个批次里。有多少行会进入投影：27、17 还是 9？这个批次的损失，是三个句子单独的损失之和吗？

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
# 一个句子给总和添上多少，与同批次有哪些句子无关。那么，一个全是填充的批次呢？一项都没有，和是 0，梯度也是 0；求平均，得到的却是 NaN。

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
# ## 3 · 走多远？学习率（论文 5.3 节）
#
# 梯度说权重往哪个方向改，学习率说改多远。论文在训练中不断改变学习率。设 $t$ 是步的编号，从 1 数起，$w$ 是预热（warm-up）的步数（warmup_steps，论文里是 4000），公式 3 就是
#
# $$\mathrm{rate}(t) = d_{\mathrm{model}}^{-1/2} \cdot
# \min\left(t^{-1/2},\ t \cdot w^{-3/2}\right) .$$
#
# 第二项是一条过 0 的直线，第一项像 $1/\sqrt{t}$ 那样下降。取两者中较小的，就是先沿直线上升，后按平方根的倒数下降。两者在 $t^{-1/2} = t \cdot w^{-3/2}$ 处相交，即 $t^{3/2} = w^{3/2}$，所以 $t = w$。那里是学习率的**峰值**（peak）：$(d_{\mathrm{model}} \cdot w)^{-1/2}$。
#
# 学习率为什么要从很小开始？权重刚初始化时，有些层的梯度很大；如果像论文那样把归一化放在残差之后，最靠近输出的层尤其如此（Xiong 等 2020）。下一节要讲的 Adam，起初也只能靠很少的梯度来估计。一开始就朝错误的方向迈大步，很难补救。

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
# **先猜**：base 模型的 $d_{\mathrm{model}} = 512$，预热 4000 步。它的最高学习率最接近 0.1、0.01、0.001 还是 0.0001？PyTorch 的 `LambdaLR` 从 0 开始数步，如果把这个函数交给它，会怎样？

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
# 论文的调度（schedule）有个特点，对我们很要紧：没有终点。学习率只管慢慢下降，并不知道你什么时候停。如果事先知道要训练多久，就可以让学习率到最后正好降到 0，这时模型也稳定下来了。所以我们的默认方案是先升到峰值，再沿直线下降。设 $s$ 是预算用掉的比例，从 0 到 1，
#
# $$\mathrm{rate}(t) = r_{\max} \cdot \min\left(\frac{t}{w},\ 1 - s\right) .$$
#
# 预算可以是轮次数，也可以是**分钟数**：这时 $s$ 由已经用掉的时间算出。

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
# 左图：预热加倍，峰值就右移，高度要除以 $\sqrt{2}$；过了峰值，两条曲线合为一条。模型越宽，整条曲线越低。右图：两次训练长短不同，最后都降到 0。公式取两条直线中较小的一条，而两条直线在预热结束前一点就相交，所以最高学习率比 $r_{\max}$ 略低；训练短的，低得更多。
#
# 一次训练的全部选择，都写进一个冻结的数据类对象。“冻结”（frozen）是说创建之后什么也改不了：里面写的是什么，训练时用的就是什么。

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
# > **试一试。** $d_{\mathrm{model}} = 64$ 时，`warmup` 取多少，论文调度的峰值才是 0.003？先在纸上解，再用 `paper_learning_rate` 核对。
#
# <details><summary>答案</summary>
#
# 峰值是 $(64\,w)^{-1/2} = 0.003$，所以 $w = 1 / (64 \cdot 0.003^2) = 1736$。`paper_learning_rate(1736, 64, 1736)` 给出 0.0030。峰值要加倍，预热就得减到四分之一，即 434 步：公式里是平方根。
#
# </details>

# %%
check("warmup_why")

# %%
check("warmup_peak")

# %% [markdown]
# ## 4 · 从梯度到一步：Adam（论文 5.3 节）
#
# 不同权重的梯度大小可以相差很远（想想少见的词和常见的词的嵌入），一个学习率不可能适合所有权重。**Adam** 优化器（Kingma 和 Ba 2014）给每个权重自己的尺度。它为每个权重记两个滑动平均：$m$ 是梯度 $g$ 的，$v$ 是梯度平方的。
#
# $$\begin{aligned}
# m_t &= \beta_1 m_{t-1} + (1-\beta_1)\, g_t , & \hat{m}_t &= \frac{m_t}{1-\beta_1^t} \\
# v_t &= \beta_2 v_{t-1} + (1-\beta_2)\, g_t^2 , & \hat{v}_t &= \frac{v_t}{1-\beta_2^t}
# \end{aligned}$$
#
# $$\theta_t = \theta_{t-1} - \mathrm{rate}(t) \cdot \frac{\hat{m}_t}{\sqrt{\hat{v}_t} + \epsilon}$$
#
# 看最后一行：平均梯度除以它的典型大小。如果一个权重的梯度每步都相同，这个商就是 $+1$ 或 $-1$，权重移动的距离正好是学习率。如果符号步步在变，$m$ 就接近 0，权重几乎不动。
#
# **公式里为什么要加帽子？** $m$ 和 $v$ 都从 0 开始，所以起初都太小。（一步的大小，是 $m$ 除以 $v$ 的平方根；哪一个偏小得更多，见下面折叠的部分。）把 $v_t$ 写成求和，并假设每个 $g_i^2$ 的均值都是 $\mathrm{E}[g^2]$：
#
# $$v_t = (1-\beta_2) \sum_{i=1}^{t} \beta_2^{t-i} g_i^2
# \quad\Rightarrow\quad
# \mathrm{E}[v_t] = \mathrm{E}[g^2]\,(1-\beta_2) \sum_{i=1}^{t} \beta_2^{t-i}
# = \mathrm{E}[g^2]\,(1-\beta_2^t) .$$
#
# （这个和是等比级数。）除以 $1-\beta_2^t$，恰好消去这个误差。这叫**偏差修正**（bias correction）。
#
# **为什么 $\beta_2 = 0.98$？** 求和里的权重 $\beta_2^{t-i}$ 大约经过 $1/(1-\beta_2)$ 步就淡去了：论文的 0.98 是 50 步，PyTorch 默认的 0.999 是 1000 步。论文没有说明为什么这样选。一个可能的原因：训练开头，梯度的大小变得很快，如果带着 1000 步的记忆，就会一直除以早已过时的大小。
#
# **$\epsilon$ 有什么用？** $v = 0$ 时，它保证除法不出错。它还划出一条界线，比这条线小的梯度都当作噪声：$|g| \gg \epsilon$ 时，第一步的长度就是学习率；$|g| \ll \epsilon$ 时，几乎不动。论文的 $10^{-9}$ 比 PyTorch 默认的 $10^{-8}$ 小。
#
# 代码不用自己写，PyTorch 有这个优化器（optimizer）。`fused=True` 只把内存过一遍，就做完全部更新。

# %%
#| export
def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Adam:
    """Return the paper's Adam; the rate is set before every step. Paper, section 5.3."""
    fused = torch.__version__ >= (2, 4)  # before, there was none for CPUs
    return torch.optim.Adam(
        model.parameters(), lr=0.0, betas=config.betas, eps=config.eps, fused=fused
    )


# %% [markdown]
# 后面要用到 Adam 的一个特点。$t = 1$ 时，修正之后正好是 $\hat m = g$、$\hat v = g^2$。也就是说，第一步里，不管梯度是 1000 还是 0.001（只要远大于 $\epsilon$），哪怕几乎全是噪声，每个权重都移动整整一个学习率。所以预热和 Adam 要一起用。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 手写四个公式 · 选读
#
# 写给想亲眼看看的人：用六行代码写出 Adam，结果与 PyTorch 的相等；再看看公式里的帽子有什么用。

# %% [markdown]
# 我们在下一个单元格里自己动手写出这四个公式，走 20 步，再与 PyTorch 的结果比较。**先猜输出的前两行**：如果梯度是 1000，权重在**第一步**移动多远？如果是 0.001 呢？学习率是 0.01。

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
# 梯度是一百万倍，步长却一样。
#
# 下图说明偏差修正有什么用。这里所有的梯度都相等，所以每一步的长度都应该是 1（以学习率为单位）。**先猜**：不修正的话，$m$ 和 $v$ 都太小，那么步子是太短还是太长？

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
# 多半太长！步长是商 $m / \sqrt{v}$，而 $\beta_2 = 0.999$ 时，除数偏小得更多：走完一步，$m$ 达到应有大小的 $1 - \beta_1 = 0.1$，$\sqrt{v}$ 却只达到 $\sqrt{1 - \beta_2} \approx 0.03$。第一步是应有长度的 3.2 倍，最长的一步是 6.6 倍。用 0.98，第一步太短（0.71），后面最长是 1.6 倍。
#
# > **试一试。** 在 `adam_by_hand` 里令 $\beta_1 = 0$。Adam 的第一步还剩下什么？为什么有人叫它“符号下降”（sign descent）？
#
# <details><summary>答案</summary>
#
# $\beta_1 = 0$ 时，第一步是学习率乘以 $g / (|g| + \epsilon)$，也就是梯度的**符号**。不管梯度多大，每个权重都移动一个学习率，或增或减。后面的步要除以最近五十个梯度的典型大小，所以比平常大的梯度又会让权重多移动一些。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 5 · 许多批次合成一步：梯度累积 · 选读
#
# 写给内存太小、装不下论文那种大批次的人：用几个小批次合成一步。
#
# 论文的一个批次约有 25,000 个源语言词元和 25,000 个目标语言词元，笔记本电脑的内存放不下。不过梯度是对词元求和，求和可以分几部分算：跑几个小批次，把梯度加起来，再走**一**步。这叫“梯度累积”（gradient accumulation）。
#
# 这里有一个陷阱。我们要的，是先把损失平均到每个词元，再求梯度。设两个批次的损失之和是 $L_1$ 和 $L_2$，真实词元数是 $n_1$ 和 $n_2$。下面第一个式子是对的；第二个只有在两个批次的词元数相等时才对：
#
# $$\frac{\nabla L_1 + \nabla L_2}{n_1 + n_2} \quad\text{is right,}\qquad
# \frac{1}{2} \left( \frac{\nabla L_1}{n_1} + \frac{\nabla L_2}{n_2} \right)
# \quad\text{is wrong unless } n_1 = n_2 .$$
#
# 如果每个批次的损失各取平均，得到的就是第二个式子：小批次里的一个词元，比大批次里的一个词元算得更重。所以：每个批次求和，再除以**整个训练步**的词元数。
#
# 最后才真正走这一步，由 `apply_gradient` 来做。它还做两件事。一是**裁剪**（clip）梯度：把梯度看成一个长向量，它的长度叫范数；范数如果超过 `clip`，就缩短到这个长度，这样，一个异常的批次也造不成多大的破坏。（论文没有提裁剪；这种做法很常用，花费也很小。）二是检查：损失或梯度只要不是有限的数，就不走这一步，因为走完之后所有权重都会变成 NaN。

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
# 走一步时用的是什么梯度，怎样才能看到？用普通的梯度下降（SGD），学习率取 1，不裁剪，权重的变化就正好是梯度取负。所以我们把这个优化器交给 `train_step`，看前后之差。
#
# **先猜**：两个批次，一个有 2 句，一个有 10 句。先各取平均，再把两个平均取平均，与正确的梯度差多少：1%、10%，还是更多？

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
# 注意，这条断言里还有一层意思：整批一起算，与分成两批算，填充方式不同，梯度却一样。可见在这里，填充也不影响结果。
#
# 批次怎样分组？一个轮次有 7 个批次，`accumulate=3`，分成 3 个、3 个和 **1** 个。一个常见的错误是每到第三个批次才走一步：轮次末尾的句子就永远用不上，或者它们的梯度漏进下一个轮次。我们除的是词元数，所以最后一组少一些，不需要特殊处理。

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
# > **试一试。** 让两个批次的词元数相同。“平均的平均”还会有误差吗？为什么还是不能指望它？
#
# <details><summary>答案</summary>
#
# 误差没有了，只剩舍入误差（最后一条断言会让单元格停下，因为它要求两个数不同）：$n_1 = n_2$ 时，两个公式是一回事。可是按补齐后的大小来分的批次，真实词元数几乎不会相同，轮次的最后一个批次更是剩多少算多少。碰巧才对的公式，迟早会出错。
#
# </details>

# %% [markdown]
# ## 6 · 它在学吗？二十行的循环
#
# 评判一个模型，要用训练时没有用过的句子，即“验证集”（validation set，简写 val）。有两个开关要注意：关掉暂退法（`model.eval()`），不用平滑。此外不能留下任何影响：评估不能改变后面的训练，所以不能动用随机数，评估完还要把模型放回原来的模式。

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
# 刚初始化的模型，为什么比毫无头绪的 $\ln V$ **还差**？它的 logit 是随机的，但不全相等，所以会无缘无故地偏爱某些词元，而且多半是错的。方差为 1 的随机 logit，大约让损失高出半个奈特。如果一开始就比 $\ln V$ 高出好几个奈特，说明有错。
#
# 写训练循环要的东西都齐了。`train_step` 写在折起来的第 5 节里：梯度清零，算真正词元的损失，`backward()`，梯度长于 `clip` 就缩短到这个长度，再走一步 Adam；返回损失和梯度的长度 `norm`。`groups_of` 给每一步分 `accumulate` 个批次，这里是一个。循环每走一步就交出（yield）一次结果：打印什么、测量什么、留下什么，由调用它的人决定。

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
# 用它来回答 5.4 节的一个问题：**暂退法（dropout）起什么作用？** 训练时，它以概率 $P_{\mathrm{drop}}$ 把一个数置为 0，其余的乘以 $1/(1-P_{\mathrm{drop}})$。论文把它用在每个子层的输出上，以及嵌入与位置编码之和上，$P_{\mathrm{drop}} = 0.1$。（big 模型在英德上用 0.3，在英法上用 0.1，见表 3 和 6.1 节。）
#
# 数据是德语和英语的图片说明，是用一套小语法专为本课程生成的。我们只取很少几条，远不够学会翻译。
#
# **先猜**：没有暂退法，两条曲线会怎样走？一条是训练句子上的损失，一条是新句子上的损失。暂退法取 0.3，会有什么变化？

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
# 左图：已知句子的损失趋向 0，新句子的损失先降，然后**上升**。模型把句子背了下来。这就是“过拟合”（overfitting）。右图：有了暂退法，模型每次看到的都残缺不全，而且每次缺的地方都不一样，照样得找出答案，死记硬背就不划算了。已知句子的损失高了，新句子的损失低了，差距变小。暂退法也有代价：数据多、轮次少时，它可能只会让学习变慢。
#
# > **试一试。** 在这个实验里不用暂退法，改用 `label_smoothing=0.1`。论文把两者都叫做正则化（regularisation）。在这里它们的作用一样吗？先猜，再测量差距。
#
# <details><summary>答案</summary>
#
# 不一样。各跑一次，只用平滑，差距几乎不变：3.07 奈特，原来是 3.02（暂退法取 0.3 时是 0.80）。已知句子的损失是 0.13 奈特，原来是 0.015，因为不再要求完全有把握。新句子的损失照样上升，从 2.48 升到 3.20。暂退法会遮住一部分内容，平滑不会。
#
# </details>

# %%
check("dropout_eval")

# %%
check("dropout_val")

# %% [markdown]
# ## 7 · 一次真正的训练，对照基线来读
#
# 现在用更多的图片说明来训练。看曲线之前，先算一算“什么都不知道”的损失是多少。单说损失是 2.0，什么也说明不了；和下面几条线比，就有意义了：
#
# - **Uniform（均匀）**：全部 $V$ 个词元一样可能。损失是 $\ln V$。
# - **Unigram（一元语法）**：模型只知道每个词元有多常见，别的都不知道。它在新文本上的损失是 $-\frac{1}{N} \sum_{i} \ln f(y_i)$，$f$ 是在训练文本里数出来的频率。我们的训练损失是**平滑后**的。这时，如果不看上下文，最好的预测就不是 $f$，而是把平滑后的各个目标平均，即 $p = 0.9 f + 0.1/V$；这样预测，平滑后的损失就是图中那条线。
# - **平滑后损失的下限**（floor）：平滑后目标的熵（第 1 节）。**训练**损失不可能比它低，普通的验证损失可以。

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
# **先猜**：十步之后，损失会在哪里？它会按什么次序穿过这几条线？

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
# 从上往下读。
#
# - 三条线都对应蓝色曲线，也就是平滑后的损失。（概率全相等时，平滑不平滑都是 $\ln V$。）
# - 如果损失**一开始**就远高于 $\ln V$，说明初始权重有错。刚初始化的模型会比它高一点（第 6 节）：高半个或一个奈特，不会高五个。
# - 开头的快速下降，到 unigram 线附近结束。每个词元有多常见，一个句子都不用读懂就能学会，所以最先学会的就是它。
# - 要降到 unigram 线以下，全靠上下文：前面的词，以及德语源句。
# - 平滑后的训练损失一直在下限之上，验证损失却可以远低于它。这没有错：两条曲线量的是不同的东西。
# - 看梯度的范数：有没有哪里被裁剪过？到末尾是不是在变大？如果在变大，就是学习率太高了。
# - **不要为这个困惑度得意。** 这些图片说明是用一套小语法生成的，下一个词元常常是确定的。用真实的图片说明、更大的词表，第 09 课得到的大约是 4。

# %% [markdown]
# ## 8 · 几个检查点取平均（论文 6.1 节）
#
# 论文翻译时，用的不是最后一个检查点，而是把最后 5 个（base）或 20 个（big）检查点的**权重**按名字一一对应，取平均：
#
# $$\bar{\theta} = \frac{1}{K} \sum_{k=1}^{K} \theta_k$$
#
# 想法是这样：训练快结束时，权重围着一个好位置转，各个批次的噪声把它推来推去。把几个位置取平均，得到的点离中心有多远？不会超过各个位置到中心的**平均**距离（三角不等式）；不过，其中最好的一个可能还要更近。翻译时不增加任何开销。我们用 float64 求和：舍入误差同样取决于检查点的次序，但太小了，在 float32 的结果里看不出来。

# %% [markdown]
# 权重按名字从模型里复制出来，存成一个字典，以后再复制回去。有两个细节。一是共享的嵌入（第 05 课）只有一个矩阵，却有几个名字，`named_parameters` 只列一次。二是复制回去时，名字和形状由我们自己比较：PyTorch 的 `copy_` 会一声不响地把向量**广播**成矩阵，等到译文变成胡言乱语才有人发现。

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
# > **试一试。** 把两个用**不同**种子训练的模型取平均，测量损失。结果很差。为什么同一次训练的检查点可以平均，两次训练的就不行？（提示：在一个前馈层里，对调 `w_1.weight` 的两**行**、偏置里对应的两个数，以及 `w_2.weight` 里对应的两**列**。这样得到的是另一个模型吗？把对调前后的两个平均，又会怎样？）
#
# <details><summary>答案</summary>
#
# 两个模型的损失是 0.294 和 0.288 奈特，把权重平均后，损失是 4.74：不比只知道词频（4.92）好多少。照提示对调，函数不变（还是 0.294），因为对内部单元求和，与次序无关。但是对调前后的两个版本一平均，就把第 1 个单元和第 2 个混在了一起。如果把每一层的**所有**内部单元都换了次序，再与原来的模型平均，损失是 0.84 奈特。用两个种子训练，内部单元的次序也会这样不同，而且差别还不止这些。
#
# </details>

# %% [markdown]
# ### 平均什么时候有用？
#
# 折叠的部分先拿一个碗形的函数来试，它的最低点我们是知道的；然后再拿我们的模型来试。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 先在二维里看 · 选读
#
# 写给想看平均为什么有用的人：带着噪声走 300 步，中心在哪里是已知的。

# %% [markdown]
# 设想一只碗，最低点在 (0, 0)。每一步都沿着坡往下走，再加上一点噪声，就像用小批次训练那样。**先猜**：学习率不变时，最后 60 个位置的平均落在哪里？学习率降到 0 时呢？

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
# 学习率不变时，各个位置散布在中心周围，取了平均，离中心就近得多。学习率降到 0 时，最后的位置本来就在中心附近，取平均能改善的就不多了。

# %% [markdown]
# ### 在真正的模型里
#
# 前面那次训练，在最后十分之一的路程里留下了几个快照（snapshot）。我们再用论文的调度训练一次，这种调度到最后学习率仍然很高；然后测量每个快照和它们的平均。
#
# **先猜**：两次训练中，在哪一次里，取平均比典型的快照改善得更多？

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
# 用论文的调度，训练结束时权重还在跳来跳去，平均就比典型的快照好。学习率降到 0 时，快照已经挤在一起，平均带来的变化就小，甚至可能比最后一个还略差。降低学习率和取平均，都能去掉最后几步的噪声。论文的调度结束时学习率还高，所以论文需要平均。
#
# **哪种调度更好？** 再看一遍打印的数字。在这一页存下来的那次运行里，论文的调度加上平均，明显最好，我们默认的线性调度比不过它。那为什么还留着线性调度？单看这次比较，没有理由：结果对它不利。不过它有两个实际的好处：一是适合事先知道的预算，不管按轮次还是按分钟；二是最后的权重直接就能用，所以看最后一个检查点就能评判一次训练。（第 09 课用真实的图片说明这样训练，最后的权重和平均后的权重一样好。）这里每种调度只跑了一次，一个种子，几个轮次，数据是语法生成的图片说明，两个峰值都没有为此调过。如果你很在意选哪一种，就在你的数据上把两种都训练一遍，多用几个种子。
#
# > **试一试。** 快照改从训练的后十分之九里取（在 `run` 里：`0.1 + 0.9 * ...`）。这样的平均为什么反而有害？
#
# <details><summary>答案</summary>
#
# 八个快照的损失是 2.00、1.20、0.82、0.58、0.46、0.40、0.32 和 0.29 奈特，平均之后的损失是 0.54，比最后四个都差。把一路上的各点取平均，等于退回到路上早已走过的地方。
#
# </details>

# %%
check("averaging_what")

# %%
check("averaging_last")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 9 · 配方：尺寸和训练合用一个名字 · 选读
#
# 命令行和后面的课里有个词叫“预设”（preset）。这一节说明它是什么：有哪五种，怎样改动，怎样据此建立模型。

# %% [markdown]
# 一个预设规定模型的尺寸和训练方法。`tiny` 用一两分钟学会图片说明。在笔记本电脑上用真实的语料库，有十分钟就选 `small`，有四十分钟就选 `cpu`。`base` 是论文的 base 模型。前三个把归一化放在子层**之前**（第 05 课）：这样对预热不必那么小心。
#
# `rnn-attention` 是第 02 课的循环翻译模型。它的调用方式和 Transformer 一样，所以同一个循环就能训练它，词元相同，预算也相同：两者可以在同样的条件下比较。

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
# 预设只是起点。命令行上的 `--set NAME=VALUE` 可以改动其中任何一个数，例如 `--set dropout=0.3 --set d_ff=1024`；在这里，同样的改动写成一个字典。名字不存在，或者值的类型不对，程序都不接受，会报错。

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
# 从配方到模型：`fresh` 从训练句子里学出词表，初始权重由种子决定。大多数时候，预设原样拿来就够了：

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
# ## 接下来
#
# 这个循环没有错；但笔记本一关，它就什么都忘了，而且还不够快。这两个问题，工程篇来解决：[07b](07b_runs.ipynb) 把一次训练存起来，可以停下，可以中断，也可以接着训练，最后得到同样的权重；[07c](07c_speed.ipynb) 测量时间花在哪里，让同样的训练步用时更少。第一遍读，两页都可以跳过。
#
# ## 你实现了什么
#
# | 名称 | 输入 → 输出 |
# |---|---|
# | `label_smoothed_loss` | logits $(N, V)$、目标 $(N)$ → 损失之和，一个标量 |
# | `batch_loss` | 模型、`Batch` → 对真实词元求和 |
# | `paper_learning_rate`、`linear_learning_rate`、`learning_rate` | 步、进度 → 学习率 |
# | `TrainingConfig` | 一个冻结的数据类对象：记下模型怎样训练 |
# | `make_optimizer`、`train_step`、`groups_of` | 几个批次 → 一步；损失、梯度范数 |
# | `apply_gradient` | 裁剪梯度，遇到不是有限的数就报错，否则走一步；给出梯度的范数 |
# | `evaluate_loss` | 模型、几个批次 → 每个词元的平均损失，不平滑 |
# | `weights_of`、`load_weights`、`average_checkpoints` | 模型 ↔ 权重；几组权重 → 它们的平均 |
# | `Recipe`、`PRESETS`、`recipe_of`、`preset_model` | `tiny`、`small`、`cpu`、`rnn-attention`、`base`；改动，建立模型 |
#
# ## 小结
#
# - 交叉熵是 $-\ln p_y$。标签平滑要求的不是 1，而是 $1-\varepsilon+\varepsilon/V$；它惩罚过分自信，并且有一个下限：平滑后目标的熵。梯度是 $p - q$。
# - 把损失加起来，再除以整个训练步的真实词元数。这样，填充、分批方式和梯度累积都不影响结果。
# - 论文的学习率先升 $w$ 步，到达 $(d_{\mathrm{model}} w)^{-1/2}$，然后像 $1/\sqrt{t}$ 那样下降。Adam 除以梯度的典型大小，最初几步总是走满步长，所以要预热。
# - 对照基线来读损失。如果最后学习率还高，就给快照取平均。
#
# ## 延伸阅读
#
# - Vaswani et al. 2017, *Attention Is All You Need*：第 5 节和 6.1 节。arXiv 1706.03762
# - Szegedy et al. 2015, *Rethinking the Inception Architecture for Computer Vision*：第 7 节，标签平滑。arXiv 1512.00567
# - Müller, Kornblith, Hinton 2019, *When Does Label Smoothing Help?* arXiv 1906.02629
# - Kingma, Ba 2014, *Adam: A Method for Stochastic Optimization*. arXiv 1412.6980
# - Srivastava et al. 2014, *Dropout: A Simple Way to Prevent Neural Networks from Overfitting*, JMLR 15
# - Xiong et al. 2020, *On Layer Normalization in the Transformer Architecture*：为什么要预热。arXiv 2002.04745
# - Popel, Bojar 2018, *Training Tips for the Transformer Model*. arXiv 1804.00247
# - Ott et al. 2018, *Scaling Neural Machine Translation*：梯度累积，大批次。arXiv 1806.00187
#
# 再试两个：
#
# > **试一试。** 改 `train_step`，把每个批次的损失除以**这个批次**的词元数，再除以批次的个数。用它运行第 5 节的断言，看哪一条不成立。
#
# <details><summary>答案</summary>
#
# `torch.testing.assert_close(accumulated, whole)`：累积的梯度现在成了“平均的平均”，偏差就是单元格打印的那个数。只检验整批的那条断言仍然成立。如果每步只有一个批次，这个错误就看不出来。
#
# </details>
#
# > **试一试。** 用 `peak_lr=1.0` 训练。把损失与 $\ln V$ 比较：模型学会了什么？
#
# <details><summary>答案</summary>
#
# 这个学习率是本课所用的一百倍。损失升到 8.2，高于 $\ln V = 6.9$。过一遍数据之后，val 上的普通损失是 4.64，比 unigram 线（4.92）低不了多少：模型知道每个词元有多常见，别的知道得不多。
#
# </details>
#
# **作业。** [作业：训练](homework/training/training.ipynb)：自己写出学习率、标签平滑、Adam 和取平均；哪里错了，检查会指出来。
#
# **下一课：** [第 08 课](08_decoding.ipynb)：从训练好的模型到句子。工程篇里：[07b](07b_runs.ipynb) 把训练存起来，接着训练；[07c](07c_speed.ipynb) 让训练变快。

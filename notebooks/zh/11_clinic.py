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
# # 11 · 诊所
#
# > 从论文到能用的代码：读别人的代码，找出自己代码里的毛病。
#
# 你写的第一个 Transformer 不会好用，但也不会崩溃：形状都对得上，损失也在下降，译文却很糟；有时译文倒不错，靠的却是不该靠的东西。别的课告诉你“收集自己的错误，逐个解决”，然后就撒手不管了。这一页要管到底。
#
# **学完这一课，你能**
#
# - 先评估一个代码仓库能不能用，再从入口一路读到最后一个张量；
# - 按固定的次序检查模型，每一步用一个几行代码的小工具；
# - 分辨十六种大家真的会犯的错误：有的一看就没救，有的看上去很健康。
#
# **先修：** 第 03 课到第 08 课。**时间：** 50 分钟。**论文：** 没有对应的内容。从论文到程序，中间还隔着一段路，这一课讲的就是这段路。
#
# 这是深入的一课，第一遍可以跳过。

# %%
#| export
import math
import random
from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from course.attention import record_attention
from course.decoding import bleu, greedy_search
from course.masking import causal_mask, combine_masks, pad, padding_mask, shift_right
from course.text import BOS, BPE, PAD, encode_pairs
from course.training import label_smoothed_loss, linear_learning_rate, load_weights, weights_of
from course.transformer import Transformer, TransformerConfig

# %%
from course.device import by_scale
from course.homework import check, compare, patient
from course.homework.illnesses import TOOLS, illnesses
from course.homework.patients import sick
from course.viz import clinic as draw

steps = by_scale(smoke=80, cpu=120, gpu=120)

# %% [markdown]
# ## 1 · 别人的代码
#
# 你想找一个现成的实现，一找就是上百个。星标只说明来过多少人，不说明代码对不对，不如自己花五分钟看一看。下面看最有名的两个：*The Annotated Transformer*（`harvardnlp/annotated-transformer`，下文简称 **AT**，提交 `debc9fd`）和 `jadore801120/attention-is-all-you-need-pytorch`（简称 **JA**，提交 `132907d`）。为写这一页，两个我们都读过：
#
# | 要问的 | 怎么查 | AT | JA |
# |---|---|---|---|
# | 我可以用吗？| LICENSE | MIT | MIT |
# | 还有人维护吗？| 最后一次提交的日期 | 2022 年 5 月 | 2021 年 2 月 |
# | 有测试吗？| 有没有 `tests` 文件夹，CI 运行什么 | CI 只查代码风格，没有测试 | 没有测试，没有 CI |
# | 现在还装得上吗？| 看依赖清单，有没有锁定版本 | torch 1.11、torchtext 0.12 | Python 3.6、torch 1.3.1；用到了 torchtext，清单里却没有 |
# | 它声称做到了什么？| 有没有分数，用的是什么指标 | 打印译文；没有报自己训练的分数 | 损失、困惑度、准确率；“Testing: coming soon”（测试：即将推出） |
# | 写完了吗？| 搜索 TODO、“not ready”，看未解决的 issue | 绑定权重的代码写在 `if False` 下面 | README 说：BPE 之后的翻译“not ready”（还没做好） |
#
# 列出这些，不是说代码不好。靠这两个仓库学会的人，比这门课将来能教会的还多。只是要提醒**你**：拿来用之前，得先核对什么。
#
# ### 给老仓库准备环境
#
# **锁定版本**（pin），就是写明确切的版本：`torch==1.11.0`。不锁定，2019 年的代码今天几乎没有一份还跑得起来。出问题的包里，最有名的是 **torchtext**。这两个仓库都靠它取数据，而它已经停止维护；最后一版（0.18，2024 年 4 月）只能与 torch 2.3 一起加载，换成更新的 torch，就会报错退出：`undefined symbol`。JA 导入的 `torchtext.data.Field`，后来的版本里已经没有了。所以：
#
# 1. 绝不要把老项目的依赖装进你平时工作的环境。另建一个：`python -m venv old`。
# 2. Python 也要用当年的：每个 wheel 安装包，都只适用于某一个 Python 版本和某一个包版本。
# 3. **所有**版本都取同一时期的。要用 torchtext，在 Python 3.11 上能配到一起的是：torch 2.3.1、torchtext 0.18.0、torchdata 0.7.1、`numpy<2` 和 portalocker（课程把它们写在 `requirements-torchtext.txt` 里）。
# 4. 如果坏的只有读数据的那一段，就自己写一段，模型照用：逐行读两个文件，没什么难的。

# %%
check("clinic_pins")

# %% [markdown]
# ## 2 · 从入口到张量
#
# 读代码仓库，不要从第一个文件读到最后一个。分四步往下走，弄清了想知道的就停：**入口**（README 让我运行什么？调用的是哪个函数？）、**模型树**、**形状**、**一个张量**。我们拿自己的模型来走一遍；换成哪个模型都行。
#
# **模型树**：打印一个 PyTorch 模型，就能看到它由哪些部分组成。看两层就够了。再数一数参数：各部分各有多少？

# %%
#| export
WHO = "ein Hund=a dog|eine Frau=a woman|das Kind=the child|der Mann=the man|ein Koch=a cook"
DOES = "sieht=sees|malt=paints|findet=finds|sucht=looks for"
WHAT = "ein Buch=a book|eine Blume=a flower|den Hut=the hat|einen Stein=a stone|die Uhr=the clock"
WHERE = "im Park=in the park|am See=at the lake|im Haus=in the house|auf der Wiese=on the meadow"
WHEN = "heute=today|morgen=tomorrow|oft=often|abends=in the evening"


@cache
def world() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the clinic's sentences, German and English: those to train on, and 60 held out.

    Some held-out sentences speak of a fox, which no other one does.
    """
    def pairs(who: str) -> list[tuple[str, str]]:
        parts = ([w.split("=") for w in words.split("|")] for words in (who, DOES, WHAT, WHERE, WHEN))
        return [(f"{when[0]} {does[0]} {who[0]} {where[0]} {what[0]}",
                 f"{who[1]} {does[1]} {what[1]} {where[1]} {when[1]}")
                for who, does, what, where, when in product(*parts)]

    known, fox = pairs(WHO), pairs("ein Fuchs=a fox")
    dice = random.Random(11)
    dice.shuffle(known)
    return known[54:], known[:54] + dice.sample(fox, 6)

@cache
def pieces_of(sides: tuple[str, ...], size: int) -> BPE:
    return BPE.learn(sides, size)


def learned(pairs: Sequence[tuple[str, str]], size: int) -> BPE:
    """Return the pieces of both sides of some pairs; the same pairs are learned once."""
    return pieces_of(tuple(side for pair in pairs for side in pair), size)


# %%
#| export
class Case:
    """A small translator and the loop that trains it. This one is healthy; a patient has one
    method, or one module of its model, that is not as it should be.

    A batch is (src (B, S), tgt_in (B, T), tgt_out (B, T)).
    """

    vocab, smoothing, peak, warmup, size = 500, 0.1, 1e-2, 15, 16

    def __init__(self, steps: int, seed: int = 0) -> None:
        self.train, self.held_out = world()
        self.steps, self.seed, self.losses = steps, seed, []
        self.bpe = self.learn_pieces()
        torch.manual_seed(seed)
        self.model = self.build()
        self.optimizer = self.make_optimizer()

    def fresh(self) -> "Case":
        """Return the same case as it was before training."""
        return type(self)(self.steps, self.seed)

    def learn_pieces(self) -> BPE:
        return learned(self.train, self.vocab)

    def build(self) -> Transformer:
        return Transformer(TransformerConfig(
            len(self.bpe), len(self.bpe), d_model=32, n_heads=4, d_ff=64, n_layers=2, norm="pre"))

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9)

    def rate(self, step: int) -> float:
        return linear_learning_rate(step, step / (self.steps + 1), self.peak, self.warmup)

    def batch(self, pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
        src, tgt = zip(*encode_pairs(self.bpe, pairs))
        tgt_out = pad(tgt, PAD)
        return pad(src, PAD), shift_right(tgt_out, BOS), tgt_out

    def masks(self, src: Tensor, tgt_in: Tensor) -> tuple[Tensor, Tensor]:
        causal = causal_mask(tgt_in.size(1))
        return padding_mask(src, PAD), combine_masks(padding_mask(tgt_in, PAD), causal)

    def logits(self, src: Tensor, tgt_in: Tensor) -> Tensor:
        return self.model(src, tgt_in, *self.masks(src, tgt_in))

    def loss(self, src: Tensor, tgt_in: Tensor, tgt_out: Tensor) -> Tensor:
        real = tgt_out != PAD
        logits = self.logits(src, tgt_in)
        return label_smoothed_loss(logits[real], tgt_out[real], self.smoothing) / real.sum()

    def step(self, *batch: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(len(self.losses) + 1)
        self.optimizer.zero_grad()
        loss = self.loss(*batch)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())

    def fit(self) -> "Case":
        """Train for all steps, and return the case."""
        dice = random.Random(self.seed)
        self.model.train()
        while len(self.losses) < self.steps:
            self.step(*self.batch(dice.sample(self.train, self.size)))
        return self

    def eval(self) -> None:
        self.model.eval()

    @torch.no_grad()
    def evaluate(self, pairs: Sequence[tuple[str, str]] | None = None) -> float:
        """Return the loss of held-out pairs, without dropout and without smoothing."""
        self.eval()
        smoothing, self.smoothing = self.smoothing, 0.0
        loss = self.loss(*self.batch(pairs or self.held_out)).item()
        self.smoothing = smoothing
        return loss

    @torch.no_grad()
    def translate(self, sentences: Sequence[str]) -> list[str]:
        self.eval()
        src = self.batch([(sentence, "") for sentence in sentences])[0]
        written = greedy_search(lambda prefixes, rows: self.logits(src[rows], prefixes)[:, -1],
                                len(src), 24)
        return [self.bpe.decode(ids) for ids in written]

    def bleu(self) -> float:
        """Return the corpus BLEU of greedy translations of the held-out sentences."""
        sources, references = zip(*self.held_out)
        return bleu([text.split() for text in self.translate(sources)],
                    [text.split() for text in references])

# %% [markdown]
# 模型和训练它的循环，你刚刚都见到了。把这个类读一遍：它用 90 行代码写出了第 04 到 08 课的内容。每一步各是一个方法，这样后面可以只让其中**一个**出错。句子由 `world` 生成：五个人物，四种动作，五样东西，再加上地点和时间。德语里，时间放在最前，东西放在最后。
#
# **模型树和参数**：

# %%
# NBVAL_CHECK_OUTPUT
healthy = Case(steps)
for name, part in healthy.model.named_children():
    print(f"{name:14} {type(part).__name__:19} {sum(p.numel() for p in part.parameters()):6,}")
total = sum(p.numel() for p in healthy.model.parameters())
assert total == 56_832
print("all, each once:", f"{total:,}")

# %% [markdown]
# 各部分加起来比总数还多：`src_embedding`、`tgt_embedding` 和 `w_vocab` 是**同一个**矩阵（绑定）。参数量与论文的公式对不对得上，数一数就知道：要找问题，没有比这更省力的办法了。
#
# **形状**：用**钩子函数**（hook）来看。一个模块算完之后，PyTorch 就会调用它。进去的是什么，出来的是什么，它都看得到；受检查的代码一个字也不用改。

# %%
# NBVAL_CHECK_OUTPUT
src, tgt_in, tgt_out = healthy.batch(healthy.held_out[:4])
shapes = {}
hooks = [module.register_forward_hook(lambda m, i, out, name=name: shapes.update({name: tuple(out.shape)}))
         for name, module in healthy.model.named_modules() if name.count(".") < 3 and name]
healthy.logits(src, tgt_in)
for hook in hooks:
    hook.remove()
for name, shape in shapes.items():
    if "layers.1" not in name:
        print(f"{name:34} {shape}")
assert shapes["decoder"] == (*tgt_in.shape, 32) and shapes["w_vocab"] == (*tgt_in.shape, len(healthy.bpe))

# %% [markdown]
# **一个张量**：取一个句子里的一个词，自己动手一步步算，算到你怀疑的那一处为止。这里要问：解码器的第一个状态，真的是 `<s>` 的向量乘以 $\sqrt{d}$，再加上位置 0 的编码吗？读陌生的代码时，这样一问，就能查出漏掉的缩放。

# %%
healthy.model.eval()
embedded = healthy.model.tgt_embedding(tgt_in)[0, 0]
by_hand = healthy.model.tgt_embedding.weight[BOS] * math.sqrt(32)
at_bottom = healthy.model.positions(healthy.model.tgt_embedding(tgt_in))[0, 0]
assert torch.allclose(embedded, by_hand) and torch.allclose(at_bottom[1::2], by_hand[1::2] + 1)
print("scaled by √32, and position 0 adds 0 to even columns and 1 to odd ones")

# %% [markdown]
# ### 两个仓库的选择
#
# 我们就按这四步读了 AT 和 JA，把它们的选择与课程的并排放在下面。没有哪一行只是个人偏好的问题：你要是把一个实现的权重装进另一个，每一行都可能让你白忙一天。
#
# | 选择 | AT | JA | 本课程 |
# |---|---|---|---|
# | `MultiHeadAttention`、`w_q`、`FeedForward` 各叫什么 | `MultiHeadedAttention`、`linears[0]`、`PositionwiseFeedForward` | `MultiHeadAttention`、`w_qs`、`PositionwiseFeedForward` | 就用行首这三个名称 |
# | 归一化 | 前归一化：x + f(norm(x))，最后一层之后再来一次（正文写的是后归一化；有一条注释说这样更简单）| 后归一化，嵌入上也有一次 | 两种都有，由 `norm=` 指定 |
# | LayerNorm 除以什么 | 按 n - 1 项算的标准差，在根号外加 1e-6 | 方差加 1e-6 再开方 | 方差加 1e-5 再开方 |
# | 掩码 | True 或 1 = 可以关注；其余设为 -1e9 | 相同 | True = 可以关注；其余 -inf，全被遮住的行给出零 |
# | 注意力的投影带不带偏置 | 带 | 不带 | 不带 |
# | 注意力的权重用不用暂退法 | 用 | 用 | 不用 |
# | 嵌入 | 乘以 √d；表用 Xavier 初始化 | 原样使用；绑定权重时，**logits** 除以 √d（类的默认设置）| 乘以 √d；按 N(0, 1/d) 抽取 |
# | 绑定权重 | 不绑 | 有两个开关；`train.py` 里，不指定就不绑 | 默认三个全绑 |
# | 平滑的 ε 分给谁 | V - 2 个词：正确的词和填充除外 | 另外的 V - 1 个词 | 全部 V 个 |
# | 求梯度的损失 | 批次的损失之和 / 批次的词元数 | 批次的损失之和 | 整个训练步的损失之和 / 这一步的词元数 |
# | 学习率何时变化 | 每个**批次**，尽管十个批次才更新一步 | 每一步 | 每一步 |
# | 平均什么 | 写了函数，但没有地方调用 | 不平均：留下最好的一轮 | 最后几份快照 |
# | 词表取自 | train、val **和 test**，至少出现两次的词 | train | train |
# | 解码 | 贪心 | 束宽 5，除以长度^0.7 | 两种都有；论文的长度惩罚 |
# | 报告什么 | 平滑后的损失；五句译文 | 损失、困惑度和准确率，都是先把前面的正确词告诉模型再算的 | BLEU 和它的签名 |
#
# 细心的人还能看出更多。在 JA 里，模型类在 `forward` 里把 logits 除以 √d；可是它的 `Translator` 不调用 `forward`，而是分别调用解码器和投影，于是漏了这次除法。可能性最大的下一个词不会变；可是束搜索比较各个候选，靠的是对数概率**之和**，这个和就变了。还有，训练时设了的那个开关，`translate.py` 建模型时没有设。在 AT 里，`average` 调用 `m.params()`，可是没有哪个模块有这个方法：从不调用的函数，永远不会出错。（这些都是从源代码里读出来的，我们没有运行过。）

# %%
check("clinic_unscaled_search")

# %% [markdown]
# ## 3 · 调试的次序
#
# 不要一上来就看译文，也不要一上来就改学习率。先问**答案已知**的问题，从最省事的问起。一共七个问题，每个写成一个函数：函数接收一个病例（要检查的模型），必要时按同样的配置新建一个没训练过的，最后返回一个数。
#
# **一：刚开始时，模型像不像一无所知？** 训练之前，V 个词的可能性相等，损失约为 $\ln V$。
#
# **先猜**：绑定的权重按 N(0, 1/d) 抽取，开始时 logits 的方差是 1。最初的损失比 ln V 大、比它小，还是正好相等？

# %%
mine = None  # "above", "below" or "on it"

# %%
#| export
def start(case: Case) -> float:
    """Return by how many nats the first loss lies above ln V, the loss of one who knows nothing."""
    case = case.fresh()
    return case.evaluate() - math.log(len(case.bpe))

# %%
lies = start(healthy)
assert 0.2 < lies < 1
print(f"ln V = {math.log(len(healthy.bpe)):.2f}; the first loss lies {lies:+.2f} nats from it")
compare(mine, "above", "11: first loss and ln V")

# %% [markdown]
# 比 ln V 大，大约大出 logits 方差的一半：随机乱猜，损失比老实承认自己不知道还要高。如果大出 1 奈特以上，就是 logits 太大，去查缩放。如果**比 ln V 小**，说明模型已经知道答案了，这绝不是好消息。
#
# > **试一试。** 做一个大嗓门的病例：写一个类 `Loud(Case)`，在 `build` 里把嵌入表放大，`model.src_embedding.weight.data *= 3`。
#
# <details><summary>答案</summary>
#
# logits 变成三倍，方差变成九倍：最初的损失比 ln V 大出 3 奈特以上。在模型内部，归一化掩盖了这个问题；到最后一层才露出来。
#
# </details>
#
# **二：一个批次，它背得下来吗？** 八个句子，50 步，不用暂退法，不用平滑。背不下来，就别忙着买更大的 GPU。

# %%
#| export
def overfit(case: Case, steps: int = 50) -> float:
    """Return the loss that is left when one small batch has been seen again and again."""
    case = case.fresh()
    case.steps, case.smoothing = 2 * steps, 0.0
    case.model.eval()  # no dropout: it must learn this batch by heart
    for _ in range(steps):
        case.step(*case.batch(case.train[:8]))
    return case.losses[-1]

# %%
left = overfit(healthy)
assert left < 0.1
print(f"loss left on one batch: {left:.3f}")

# %% [markdown]
# **三：未来的信息有没有漏过来？** 前面的分数对后面的位置求梯度，结果必须**恰好**为零（第 04 课）。还有一种情况 `future` 查不出来：答案会不会就在输入里，而且就放在该写它的位置上？所以要从原始文本改起，把答案换掉一个词。**这个词**的分数不许有任何反应。

# %%
#| export
def future(case: Case) -> float:
    """Return the largest gradient from later words to the score of the first word; 0 is right."""
    seen, case = [], case.fresh()
    case.model.eval()
    case.model.tgt_embedding.register_forward_hook(lambda module, inputs, out: seen.append(out))
    scores = case.logits(*case.batch(case.held_out[:4])[:2])
    gradient, = torch.autograd.grad(scores[:, 0].abs().sum(), seen[-1])
    return gradient[:, 1:].abs().max().item()


@torch.no_grad()
def answer(case: Case) -> float:
    """Return how much the scores for a word change when the answer has another word there."""
    case = case.fresh()
    case.model.eval()
    src, here, out = case.batch([(case.held_out[0][0], "a dog")])
    there = case.batch([(case.held_out[0][0], "the dog")])[1]
    return (case.logits(src, here)[:, 0] - case.logits(src, there)[:, 0]).abs().max().item()

# %%
assert future(healthy) == 0 and answer(healthy) == 0
print("nothing from later positions; scores for a word do not depend on it")

# %% [markdown]
# > **试一试。** 不用因果掩码：让 `masks` 返回两个填充掩码。`future` 和 `answer` 各有什么反应？你能不能只骗过 `future`？
#
# <details><summary>答案</summary>
#
# 两个都有反应。要只骗过 `future`，就把答案直接放在它自己的位置上（`tgt_in = tgt_out`）：这样用不着后面的位置。所以才要有两个工具。
#
# </details>
#
# **四：填充真的什么都不改变吗？** 分数和损失都不该变。同一批次里的其他句子呢，会不会影响结果？

# %%
#| export
@torch.no_grad()
def padding(case: Case) -> tuple[float, float]:
    """Return how much five columns of padding change the scores, and the loss; 0, 0 is right."""
    case = case.fresh()
    case.model.eval()
    batch = case.batch(case.held_out[:1])
    longer = [F.pad(part, (0, 5), value=PAD) for part in batch]
    scores = case.logits(*longer[:2])[:, : batch[1].size(1)] - case.logits(*batch[:2])
    return scores.abs().max().item(), abs(case.loss(*longer) - case.loss(*batch)).item()


@torch.no_grad()
def company(case: Case) -> float:
    """Return how much the scores of a sentence change when it stands behind another; 0 is right."""
    case = case.fresh()
    case.model.eval()
    one, two = (case.batch(pairs)[:2] for pairs in (case.held_out[:1], case.held_out[:1] * 2))
    return (case.logits(*two)[1] - case.logits(*one)[0]).abs().max().item()

# %%
scores, loss = padding(healthy)
assert max(scores, loss, company(healthy)) < 1e-4
print("padding and company change nothing but the last digit")

# %% [markdown]
# > **试一试。** 模型也接受 `None` 作掩码。让 `masks` 给源句返回 `None`。
#
# <details><summary>答案</summary>
#
# 分数的变化超过 0.01；程序不会崩溃，训练也会照常进行，好像没事一样。`company` 没有反应：它比较的是同一个句子的两份，用不着填充。
#
# </details>
#
# **五：源句有没有用？** 这一步要先训练。训练完，给每个目标句换上另一句的源句。损失必须上升；如果不升，你费了这么大力气，得到的只是一个语言模型。
#
# **先猜**：健康的模型训练完，在留出的句子上损失大约是多少？不看源句的话，只能在 5 个人物、4 个动词、5 样东西、4 个地点和 4 个时间里猜：每句 $\ln 5 + \ln 4 + \ln 5 + \ln 4 + \ln 4 = 7.4$ 奈特，一句约有十一个词元。还有，六十个留出的句子里，有六句说的是狐狸，这个词训练时从没见过。

# %%
mine = None  # nats a piece on held-out sentences after training

# %%
#| export
def shuffled(case: Case) -> float:
    """Return by how much the loss of a trained case rises when every source is another's."""
    sources, targets = zip(*case.held_out)
    strange = list(zip((*sources[1:], sources[0]), targets))
    return case.evaluate(strange) - case.evaluate()

# %%
healthy.fit()
kept = healthy.evaluate()
rise = shuffled(healthy)
assert rise > by_scale(smoke=0.1, cpu=0.5, gpu=0.5)
print(f"held out: {kept:.2f} nats; with the sources of others {kept + rise:.2f}; BLEU {healthy.bleu():.0f}")
print(f"without the six sentences of the fox: {healthy.evaluate(healthy.held_out[:54]):.2f} nats")
compare(mine, kept, "11: loss of the healthy case")

# %% [markdown]
# 不看源句，十一个词元的损失一共是 7.4 奈特，平均每个 0.67。不算有狐狸的句子，健康的模型平均每个只有 0.39：它确实看了源句。单是那六句有狐狸的，就把平均抬到了 0.70；两类句子混在一起取平均，这两件事都看不出来了。
#
# **六：每个部分都在学吗？** 每个部分看两个数：梯度的范数，以及五步之后移动了多远。这是两回事：一个部分可能有梯度，却没有交给优化器。

# %%
#| export
def by_layer(case: Case) -> dict[str, tuple[float, float]]:
    """Return for each part the norm of its gradient after five steps, and how far they moved it."""
    case = case.fresh()
    before = weights_of(case.model)
    found: dict[str, tuple[float, float]] = {}
    for _ in range(5):
        case.step(*case.batch(case.train[:16]))
    for name, parameter in case.model.named_parameters():
        part = ".".join(name.split(".")[:3]) if "layers" in name else name.split(".")[0]
        norm, moved = found.get(part, (0.0, 0.0))
        grad = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        step = (parameter.detach() - before[name]).norm().item()
        found[part] = math.hypot(norm, grad), math.hypot(moved, step)
    return found


def still(case: Case) -> list[str]:
    """Return the parts that got no gradient, or did not move."""
    return [part for part, figures in by_layer(case).items() if min(figures) < 1e-9]

# %%
parts = by_layer(healthy)
assert not still(healthy) and len(parts) == 7
for part, (gradient, moved) in parts.items():
    print(f"{part:18} gradient {gradient:.3f}   moved {moved:.3f}")

# %% [markdown]
# > **试一试。** 冻结编码器（在 `build` 里写 `model.encoder.requires_grad_(False)`）。`still` 会怎么说？
#
# <details><summary>答案</summary>
#
# `['encoder.layers.0', 'encoder.layers.1', 'encoder']`：没有梯度，也没有移动。列表里的最后一个，是最后一层之后的归一化。很多程序里都有这样一行冻结的代码，当初是有意写的，后来忘了删。
#
# </details>
#
# **七：与对照模型相比，从哪里开始不同？** 只要有**任何一个**你信得过的实现，就给两边同样的权重、同样的批次，逐段比较：词元、批次、掩码、每个模块的输出、损失、两步之后的权重。从哪里开始不同，毛病就在哪里。七个工具里，它最有力，也最费事：你得有一个对照模型（twin），还得有一张上面那样的名称对照表。

# %%
#| export
def trace(case: Case, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a case computes with given weights, stage by stage, from pieces to a step."""
    case = case.fresh()
    kept = {"pieces": torch.tensor(len(case.bpe)),
            "parameters": torch.tensor(sum(p.numel() for p in case.model.parameters()))}
    if {n: w.shape for n, w in weights_of(case.model).items()} != {n: w.shape for n, w in weights.items()}:
        return kept
    load_weights(case.model, weights)
    case.model.eval()
    batch = case.batch(case.train[:8])
    kept |= dict(zip(("src", "tgt_in", "tgt_out"), batch))
    kept |= dict(zip(("src_mask", "tgt_mask"), case.masks(*batch[:2])))
    hooks = [module.register_forward_hook(lambda m, i, out, name=name: kept.update({name: out.detach()}))
             for name, module in case.model.named_modules() if name]
    for _ in range(2):
        case.step(*batch)
        for hook in hooks:
            hook.remove()
    after = {f"{name} after two steps": w for name, w in weights_of(case.model).items()}
    return kept | {"loss": torch.tensor(case.losses[0])} | after


def twin(case: Case, healthy: Case) -> str | None:
    """Return the first stage at which a case and a healthy one with its weights part, or None."""
    weights = weights_of(healthy.fresh().model)
    ours, theirs = trace(case, weights), trace(healthy, weights)
    for stage, right in theirs.items():
        if stage not in ours or ours[stage].shape != right.shape:
            return stage
        if not torch.allclose(ours[stage].double(), right.double(), atol=1e-5):
            return stage
    return None

# %%
# NBVAL_CHECK_OUTPUT
assert twin(healthy, Case(steps)) is None
print("the healthy case and its twin never part")

# %% [markdown]
# > **试一试。** 与一个用 `norm="post"` 建的对照模型比较。它们从哪里开始不同？
#
# <details><summary>答案</summary>
#
# 在 `parameters` 处就不同了：前归一化在最后一层之后还多一个归一化，编码器和解码器各多 64 个数。什么都不用算，看名称就知道了。要比较两个模型，最省事的是数一数参数。
#
# </details>

# %%
check("clinic_order")

# %% [markdown]
# ### 还有四个工具，都是从病人身上学来的
#
# 这七个工具也有查不出来的毛病。同样的输入问两遍，回答一样吗？一个批次的损失，等于两半各自的损失按词数加权平均吗？一个查询的权重加起来是 1 吗？词表是从训练文本学来的吗？

# %%
#| export
def twice(case: Case) -> float:
    """Return how far two answers to one question lie apart."""
    return abs(case.evaluate() - case.evaluate())


@torch.no_grad()
def halves(case: Case) -> float:
    """Return how far the loss of a batch is from that of its short and its long half together."""
    case = case.fresh()
    case.model.eval()
    pairs = sorted(case.train[:16], key=lambda pair: len(case.bpe.encode(pair[1])))
    (whole, n), *parts = ((case.loss(*batch).item(), (batch[2] != PAD).sum().item())
                          for batch in map(case.batch, (pairs, pairs[:8], pairs[8:])))
    return abs(whole - sum(loss * m for loss, m in parts) / n)


def rows(case: Case) -> float:
    """Return how far the sums of attention's rows lie from 1, at the worst."""
    case = case.fresh()
    case.model.eval()
    with torch.no_grad(), record_attention(case.model) as weights:
        case.logits(*case.batch(case.held_out[:1])[:2])
    return max((w.sum(-1) - 1).abs().max().item() for w in weights.values())


def relearned(case: Case) -> list[str]:
    """Return the pieces that a vocabulary learned from the training sentences does not have."""
    return sorted({*case.bpe.names} - {*learned(case.train, case.vocab).names})

# %%
#| export
def examine(case: Case, healthy: Case) -> dict[str, bool]:
    """Return which tools react to a trained case, by their names."""
    return {
        "start": abs(start(case)) > 1,
        "overfit": overfit(case) > 0.1,
        "future": future(case) > 0,
        "answer": answer(case) > 1e-4,
        "padding": max(padding(case)) > 1e-4,
        "company": company(case) > 1e-4,
        "shuffled": shuffled(case) < 0.1,
        "by_layer": bool(still(case)) or by_layer(case).keys() != by_layer(healthy).keys(),
        "twin": twin(case, healthy) is not None,
        "rows": rows(case) > 1e-4,
        "halves": halves(case) > 1e-5,
        "twice": twice(case) > 1e-6,
        "relearned": bool(relearned(case)),
    }

# %%
found = examine(healthy, Case(steps))
assert found.keys() == TOOLS.keys() and not any(found.values())
print("the healthy case:", len(found), "tools, none reacts")

# %% [markdown]
# ## 4 · 一起检查一个病人
#
# 下面这个错误，我们摆在明处：两步之间没有把梯度清零，于是越积越多。（它不在那十六种之内。）其他病人也是这样造出来的：一个健康的模型，只有一个方法写得不对。

# %%
class Forgetful(Case):
    def step(self, *batch):
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(len(self.losses) + 1)
        loss = self.loss(*batch)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())


forgetful = Forgetful(steps).fit()
found = examine(forgetful, healthy)
print("reacts:", *(tool for tool, hit in found.items() if hit))
assert found["twin"] and not found["future"] and not found["padding"]
early, late = (sum(forgetful.losses[i : i + 10]) / 10 for i in (15, steps - 10))
assert forgetful.losses[0] - early > 2 and late > early - 0.3  # no more after 20 steps


# %%
def sheet(case, title):
    """Draw a trained case beside the healthy one."""
    source, target = case.held_out[0]
    src, tgt_in, tgt_out = case.batch([(source, target)])
    case.model.eval()
    with torch.no_grad(), record_attention(case.model) as weights:
        case.logits(src, tgt_in)
    words = ([case.bpe.names[i] for i in tgt_out[0]], [case.bpe.names[i] for i in src[0]])
    seen = weights["decoder.layers.1.cross_attention"][0].mean(0)
    figures = {"loss": (healthy.evaluate(), case.evaluate()),
               "BLEU / 100": (healthy.bleu() / 100, case.bleu() / 100)}
    both = {"healthy": healthy.losses, "this case": case.losses}
    return draw.sheet(both, figures, seen, words, title)


print("parts from its twin at:", twin(forgetful, healthy))
sheet(forgetful, "Gradients that add up: it learns for 20 steps, and then no more")

# %% [markdown]
# 前向计算是对的：未来的信息没有漏进来，填充也没有影响。第一步也是对的，而且必然是对的：那时还没有什么可清零。与对照模型的不同，出现在**第二步之后**。剩下的可疑之处，就只有循环里两步之间的那一段：有个状态该清零而没有清零。诊断就是这样做的：不凭感觉，把每个工具都用一遍，看最后还剩下哪种可能。
#
# > **试一试。** 给 `Forgetful` 换上普通的 SGD，不用 Adam（让 `make_optimizer` 返回 `torch.optim.SGD(self.model.parameters(), lr=0.0)`），再问一次 `twin`。现在从哪里开始不同？为什么这个问题问得不公平？
#
# <details><summary>答案</summary>
#
# 还是在两步之后。可是这样一来，就算模型没病，只要它用 SGD 而对照模型用 Adam，也会从这里开始不同：一下子改了两样，工具就分不清差别来自哪一样。所以对照模型也要换上 SGD。一次只改一样：做消融实验要守这条规矩，用工具也要守。
#
# </details>
#
# ## 5 · 十六个病人
#
# 从 `patient(1)` 到 `patient(16)`，每个病人各有一种病，都在一份十六种病的清单里。编号说明不了什么，而且每个同学的编号都不一样。每个病人要训练几秒钟。看看病历，用工具检查，再说出得了什么病。诊断错了，`check` 会告诉你用哪个工具就能区分这两种病。凡是在陌生人的仓库里能看的，你都可以看，只有一个例外：课程的文件 `course/homework/patients.py` 里写着埋下的错误，读它就是自己骗自己。
#
# 换一个编号，把下面两个单元格再运行一遍，直到全部治好。（哪些已经治好，`python -m course homework list` 会列出来。）

# %%
number = 1
case = patient(number, steps)
sheet(case, f"Patient {number}")

# %%
# your examination: any tool, on `case`
print("start", f"{start(case):+.2f}", " padding", padding(case), " twice", twice(case))

# %%
check(f"patient_{number}")

# %% [markdown]
# 写 `check("patient_1", "no_scale")`，就是交上你的诊断。按次序从第一个问题问起；**先**记下每个工具说了什么，再说病名。

# %%
check("clinic_fast_learner")

# %% [markdown]
# ## 6 · 什么病有什么症状
#
# **从这里开始，就要说出哪种病用哪个工具查得出来了。先去治好几个病人，再往下读。**
#
# 十六个病人的训练都与健康的模型一样，随机种子相同，句子也相同。**先猜**：十六个里，有几个的 BLEU 与健康的模型相差不到 5 分，或者比它还高？

# %%
mine = None  # how many of 16, 0 to 16

# %%
chosen = by_scale(smoke=["not_shifted", "cross_to_itself"], cpu=sorted(illnesses()), gpu=sorted(illnesses()))
cases = {"healthy": healthy} | {name: sick(name, steps) for name in chosen}
table = {name: examine(case, healthy) for name, case in cases.items()}
scores = {name: case.bleu() for name, case in cases.items()}
ends = {name: sum(case.losses[-10:]) / 10 for name, case in cases.items()}
for name in chosen:
    seen = {tool for tool, hit in table[name].items() if hit}
    assert seen - {"overfit", "shuffled"} == {*illnesses()[name].reacts} - {"overfit", "shuffled"}
assert ends["not_shifted"] < ends["healthy"] and scores["not_shifted"] < 5
alike = [name for name in chosen if scores[name] > scores["healthy"] - 5]
if len(chosen) == 16:  # what the text below says of them
    assert {*alike} == {"mean_of_means", "no_scale", "pad_in_loss", "pieces_from_test", "smoothing_over_pads", "untied"}
    assert max(ends, key=ends.get) == "warmup_stands_still" and ends["warmup_stands_still"] > 6
    for name in "not_shifted", "wrong_axis", "view_for_transpose":
        assert ends[name] < ends["healthy"] - 0.05 and scores[name] < 10
    assert abs(ends["causal_missing"] - ends["healthy"]) < 0.1 and scores["causal_missing"] < 0.7 * scores["healthy"]
    assert all(20 < scores[name] < scores["healthy"] - 5 for name in ("half_optimizer", "positions_by_row", "eval_forgotten"))
    sees = {tool: {name for name in chosen if table[name][tool]} for tool in TOOLS}
    assert {*chosen} - sees["twin"] == {"eval_forgotten"} and sees["start"] == {"not_shifted"}
compare(mine, len(alike), "11: patients that translate like the healthy one")

# %%
words = "; ".join(f"{name}: " + ", ".join(tool for tool in TOOLS if table[name][tool]) for name in chosen)
seen_by_twin = sum(table[name]["twin"] for name in chosen)
title = f"The twin sees {seen_by_twin} of {len(chosen)}; {len(alike)} translate as well as the healthy case"
draw.symptoms({name: [table[name][tool] for tool in TOOLS] for name in table}, list(TOOLS), list(ends.values()),
              list(scores.values()), title, words)

# %% [markdown]
# 先一行一行地读这张图，再一列一列地读（只有一个随机种子，120 步：BLEU 相差几分只是运气）。
#
# - **一看就没救：** `warmup_stands_still`。损失一直停在原处。人人都怕这种错误，其实它最好找。
# - **论损失，比健康的还好：** `not_shifted`（0.96，健康的是 1.35）、`wrong_axis`（1.20）、`view_for_transpose`（1.26）。它们的 BLEU 是 0、6 和 0。训练损失说的是：**答案就在手边**时，词猜得准不准。模型要是看得到答案，或者训练时用到了翻译时没有的东西，当然猜得准。`causal_missing` 的损失与健康的差不多，BLEU 却只有一半。
# - **半死不活：** `half_optimizer`、`positions_by_row`、`eval_forgotten` 都能写出点东西。很多人就是看到这样的分数，才去改学习率的。
# - **论 BLEU，健康得不能再健康：** 平均的平均、没有缩放、填充算进损失、从测试集学词元、平滑也分给了填充、权重没有绑定。在这一个种子上，其中四个的得分甚至比健康的模型还高。但这些全都是错的：有的损失跟谁的都没法比，有的分数不可信，有的多出论文没有的 14,720 个参数，有的少了缩放，等到 d_k = 64 时就会出问题。
#
# 再按列看：对照模型只漏掉一个，而且要查出缺了缩放，只能靠它。漏掉的是 `eval_forgotten`，因为这个病人的前向计算是对的；能查出这种病的只有 `twice`。`start` 只查得出一个病人，不过也只需要一次前向计算。一个工具没有反应，只说明它查得到的那些地方没有问题，别的什么也说明不了。
#
# > **试一试。** $d_k = 8$ 时，`no_scale` 不容易发现。模型做到多大，你会去查它？
#
# <details><summary>答案</summary>
#
# $\sqrt{d_k}$ 大的时候：论文取 64，不缩放，分数就大到 8 倍，这时 softmax 会让梯度变成什么样，第 03 课测过。诊所的模型做得小，训练十六次才只要几分钟；也正因为小，这件事它演示不出来。
#
# </details>

# %%
check("clinic_bleu_alone")

# %% [markdown]
# ## 练习
#
# 1. 埋下第十七个错误：标签取**下下一个**词（`tgt_out` 再移一位）。哪些工具有反应？
#
#    <details><summary>答案</summary>
#
#    写一个 `Case`，在 `batch` 里把 `tgt_out` 的第一列去掉，末尾补 PAD，再返回。`answer` 和 `future` 没有反应，`twin` 在 `tgt_out` 处发现不同。看看译文，缺了哪些词，一眼就能发现：给什么标签，模型就学什么。
#
#    </details>
#
# 2. `company` 把一个句子与它自己的副本比较。为什么用副本，不用另一个句子？
#
#    <details><summary>答案</summary>
#
#    另一个句子可能更长，会带来填充。这样一来，填充的错误看上去就像批次里行与行之间的错误。一次只改一样。
#
#    </details>
#
# 3. 写一个 `gradient_noise`：同一个批次，在训练模式下送进模型两次。结果不同，算是病吗？
#
#    <details><summary>答案</summary>
#
#    不算：训练时，暂退法本来就该每次不同。要是模型的暂退概率是 0，那就算病。工具得知道健康是什么样子。
#
#    </details>
#
# ## 你实现了什么
#
# | 名称 | 给出什么 |
# |---|---|
# | `Case` | 一个小翻译模型和它的训练循环，每一步是一个方法 |
# | `start`、`overfit`、`future`、`answer`、`padding`、`company`、`shuffled`、`by_layer`、`still` | 各给出一个数或一个列表；这里的次序就是调试的次序 |
# | `trace`、`twin` | 两个病例从哪一段开始不同 |
# | `twice`、`halves`、`rows`、`relearned`、`examine` | 查那七个问题查不出的毛病；一次做完全部检查 |
#
# **小结。** 一个代码仓库，先评估再读；读的时候从入口往下。调试时问答案已知的问题，从最省事的问起。模型写错了，程序不会崩溃，有的还比正确的学得更快：损失好得过分，也是一种症状。分数看不出的，要靠工具来看。
#
# **延伸阅读。** Karpathy, *A Recipe for Training Neural Networks* (2019)；Rush, *The Annotated Transformer*（2018；Huang 等 2022 年修订）。**作业。** 就是那十六个病人：`python -m course homework list`。

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
# # 10 · 翻译之外
#
# > 同样的层，换几种问法：接着写（GPT）、填空（BERT）、画句法树（论文 6.3 节）。
#
# **学完这一课，你能**
#
# - 说清“仅编码器”和“仅解码器”是什么意思，并证明两者只差一个掩码；
# - 用第 05 课的层训练一个小 GPT 和一个小 BERT，并说出两者的损失各要模型回答什么；
# - 看懂以奈特为单位的损失（拿三条事先算得出的线作对照），并用抽签的办法写文本；
# - 用测量结果说明：看得到空白两侧的模型，为什么更会填空；
# - 说明从无标注文本里学习有什么用：少量的标注，能发挥更大的作用；
# - 把树变成序列，再变回来；让翻译模型**原封不动**地做句法分析，并用括号 F1 打分；
# - 分清今天的模型里，哪些部分写在论文里，哪些是后来才有的。
#
# **先修：** 第 04 到 08 课（另有两个小工具来自 07c 和 09b）。**时间：** 85 分钟，另加五分钟计算（两个核）。这是深入的一课，第一遍可以跳过。**论文：** 6.3 节和第 7 节。
#
# 论文在结尾许下诺言：作者“plan to apply”（打算）把注意力用到翻译以外的任务上。6.3 节其实已经这样做了：同一个模型学会了画句法树。不到两年，别人就把模型拆成了两半，一半成了 GPT，另一半成了 BERT。这一课就用你已经认识的类，在笔记本电脑上把 GPT、BERT 和画句法树都做一遍。
#
# **形状：** B 是句子数，L 是词元数（不分源句和目标句，所以没有 S 和 T），D 是宽度，V 是词表大小，n 是要提问的位置数。

# %%
#| export
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.corpora.captions import constituents
from course.decoding import NextLogProbs, scorer
from course.masking import causal_mask, combine_masks, pad, padding_mask, shift_right
from course.text import BOS, EOS, PAD, UNK
from course.transformer import Encoder, PositionalEncoding, TokenEmbedding, TransformerConfig

# %%
import copy
import math
import random
import time
from functools import partial

from course.attention import record_attention
from course.corpora import captions, choose, pairs
from course.cache import beam_search, cached_log_probs
from course.decoding import greedy_search
from course.device import by_scale, pick
from course.homework import check, compare
from course.inside import word_index
from course.speed import keep_freed_memory
from course.text import BPE, Vocabulary, make_batches, token_batches
from course.training import (
    TrainingConfig,
    apply_gradient,
    linear_learning_rate,
    make_optimizer,
    train_step,
)
from course.transformer import Transformer
from course.viz import bar
from course.viz import beyond as draw
from course.viz.masking import influence, masks

device = pick()
_ = keep_freed_memory()  # lesson 07c: on a CPU, large tensors then cost less

# %% [markdown]
# ## 1 · 三个家族
#
# Transformer 的两半，单独拿出来各能做什么？
#
# - **编码器**（encoder）把每个词元变成一个向量，里面含有整句的信息。它什么也不写。
# - **解码器**（decoder）一个词一个词地写。它可以看源句，也可以看自己写过的词。
#
# **先猜**：取出解码器，再去掉源句。它的三个子层里，哪一个没事可做了？剩下的是什么？

# %% [markdown]
# 没事可做的是交叉注意力（cross-attention）。剩下带掩码的自注意力和前馈层，这就是一个“编码器”层，只是调用时换了掩码。所以著名的“仅解码器”与“仅编码器”之分，根本不在于层，而在于谁可以看哪里，以及问的是什么。
#
# | | 编码器-解码器 | 仅解码器 | 仅编码器 |
# |---|---|---|---|
# | 代表 | 这篇论文；T5、BART | GPT、Llama、大多数聊天模型 | BERT、嵌入模型 |
# | 读什么 | 源句和自己写的词 | 自己写的词 | 带空白的完整句子 |
# | 能看什么 | 整个源句；自己前面写的词 | 前面的词 | 全部 |
# | 问什么 | 已知源句，下一个词 | 下一个词 | 空白处的词 |
# | 擅长什么 | 把一段文本变成另一段 | 接着写：文章、对话、代码 | 判断、搜索、标注 |

# %%
words = ["the", "dog", "runs", "through", "snow"]
past, everything = causal_mask(5)[0, 0], torch.ones(5, 5, dtype=torch.bool)
prefix = past.clone()
prefix[:, :2] = True  # the first two words are given: all may see them
masks(
    {
        "decoder-only: the past": (past, words, words),
        "encoder-only: everything": (everything, words, words),
        "prefix: a given beginning, then the past": (prefix, words, words),
    },
    "The three families differ in who may look where",
    columns=3,
)

# %% [markdown]
# 第三幅图画的就是编码器-解码器的规则，只是排成了一个序列：开头的部分（源句或问题）是给定的，里面的词互相都看得见；后面的部分一步一步地写。用这个掩码，单独一组层也能翻译，练习 3 就来做。

# %% [markdown]
# ## 2 · 同一组层，两种用法
#
# 一个嵌入，一个位置编码，一摞编码器层，再加一个投影，权重直接用嵌入的（3.4 节）：这就是一个完整的语言模型（language model）。用什么掩码，它自己不管，由调用者给。

# %%
#| export
class LanguageModel(nn.Module):
    """A stack of encoder layers that scores each word at each place: (B, L) -> logits (B, L, V).

    The mask makes it what it is: causal, as GPT is, or without a future to hide, as BERT is.
    `config.src_vocab` is its vocabulary; embedding and projection share their weights.
    Radford et al. 2018; Devlin et al. 2018.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.src_vocab, config.d_model)
        self.positions = PositionalEncoding(config)
        self.encoder = Encoder(config)
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def states(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the vector that stands at each token: (B, L) -> (B, L, D)."""
        return self.encoder(self.positions(self.embedding(tokens)), mask)

    def project(self, states: Tensor) -> Tensor:
        """Score every word of the vocabulary: (..., D) -> logits (..., V)."""
        return F.linear(states, self.embedding.weight)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.project(self.states(tokens, mask))


# %% [markdown]
# 批次也很简单，只需说明三件事：读什么，谁可以看哪里，正确答案是什么。不提问的位置，答案写 `PAD`。
#
# - **接着写**（causal，因果）：在每个位置，问题都是**下一个**词。没有哪个位置看得到自己的答案，所以和第 04 课一样，所有的词可以同时当题目。
# - **填空**（masked，掩码）：每个位置什么都看得到，连自己的答案也看得到，所以必须把答案藏起来。BERT 问 15% 的词。其中大多数（80%）换成记号 `MASK`，一些（10%）换成随机的词，一些（10%）保持原样。为什么不全换成 `MASK`？因为实际使用时，谁也不会给模型看 `MASK`。这样一来，**每个**词都可能是要问的词，模型就得在每个词上都保留一个好的向量。（BERT 还要回答一句话是不是跟在另一句后面，我们略去。）
#
# 我们的词元化程序从不写 `UNK`（它会退到字节，第 06 课），所以这个编号空着，正好拿来当 `MASK`。

# %%
#| export
MASK = UNK  # the course's BPE never writes it


@dataclass(frozen=True, eq=False)
class LanguageBatch:
    """tokens (B, L): what is read; mask, True = may attend; answers (B, L): PAD asks nothing."""

    tokens: Tensor
    mask: Tensor
    answers: Tensor

    def to(self, device: torch.device | str) -> "LanguageBatch":
        """Return the batch on another device."""
        return LanguageBatch(
            self.tokens.to(device), self.mask.to(device), self.answers.to(device)
        )


def causal_batch(sentences: Sequence[Sequence[int]]) -> LanguageBatch:
    """Ask for the next word everywhere: ids without BOS and EOS, from the first word to EOS."""
    answers = pad([[*ids, EOS] for ids in sentences], PAD)
    tokens = shift_right(answers, BOS)
    mask = combine_masks(padding_mask(tokens, PAD), causal_mask(tokens.size(1)))
    return LanguageBatch(tokens, mask, answers)


# %%
#| export
def masked_batch(
    sentences: Sequence[Sequence[int]],
    vocab: int,
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> LanguageBatch:
    """Ask for a share of the words, which are hidden; BOS and EOS are read and never asked for.

    Of the words asked for 80 % become MASK, 10 % a word drawn from the vocabulary, 10 % stay.
    Devlin et al. 2018, section 3.1.
    """
    clean = pad([[BOS, *ids, EOS] for ids in sentences], PAD)  # (B, L)
    asked = (clean > MASK) & (torch.rand(clean.shape, generator=generator) < share)
    lot = torch.rand(clean.shape, generator=generator)
    others = torch.randint(MASK + 1, vocab, clean.shape, generator=generator)
    tokens = clean.masked_fill(asked & (lot < 0.8), MASK)
    tokens = torch.where(asked & (lot >= 0.9), others, tokens)
    return LanguageBatch(tokens, padding_mask(clean, PAD), clean.masked_fill(~asked, PAD))


# %%
#| export
def language_loss(model: LanguageModel, batch: LanguageBatch) -> Tensor:
    """Return the cross-entropy in nats, summed over the places that ask."""
    asked = batch.answers != PAD  # (B, L)
    states = model.states(batch.tokens, batch.mask)[asked]  # (n, D)
    return F.cross_entropy(model.project(states), batch.answers[asked], reduction="sum")


# %% [markdown]
# 损失相同，模型相同，不同的只有批次。这一课只用第 09 课语料库里的英语句子，词元化程序也是从这些句子学来的。（到第 6 节之前，什么都不翻译。）

# %%
corpus = choose()
english = [en for _, en in pairs(corpus, "train")]
bpe = BPE.learn(english, by_scale(smoke=2000, cpu=5000, gpu=8000))
longest = by_scale(smoke=12, cpu=500, gpu=500)  # for quick tests; on larger scales no caption is left out


def captions_of(split: str, limit: float) -> list[list[int]]:
    """Return the English captions of a split as ids, without those that are too long."""
    texts = (bpe.encode(en) for _, en in pairs(corpus, split))
    return [ids for ids in texts if len(ids) <= longest][: int(limit)]


train_ids = captions_of("train", by_scale(smoke=4000, cpu=29000, gpu=29000))
val_ids = captions_of("val", by_scale(smoke=300, cpu=1014, gpu=1014))
n_words = sum(len(ids) + 1 for ids in train_ids)  # EOS is a word to be said, too
assert all(UNK not in bpe.encode(text) for text in (*english[:1000], "Ein Hündchen 🐕", "<unk>"))
print(f"{corpus}: {len(train_ids):,} captions to learn from, {n_words:,} tokens of {len(bpe):,} kinds; "
      f"{len(val_ids):,} captions held out")

# %% [markdown]
# 同一个句子，在两种模型眼里各是什么样？第二组的两行里问了 40% 的词；随机种子从头一个个试，直到三种处理都出现为止。**先猜**：“fill in”那一行里，哪个词是随机的？哪个词问到了却没有改？

# %%
def show_batch(name: str, batch: LanguageBatch) -> None:
    """Print what is read above what is asked."""
    names = [name.strip("▁") for name in (*bpe.names[:MASK], "MASK", *bpe.names[MASK + 1 :])]
    print(f"\n{name:7}", *(f"{names[i]:>7}" for i in batch.tokens[0].tolist()))
    answers = batch.answers[0].tolist()
    print(f"{'answer':7}", *(f"{names[i] if i != PAD else '':>7}" for i in answers))


def treatments(batch: LanguageBatch) -> list[int]:
    """Count what is asked for: blanked, left as it was, replaced by a random word."""
    asked, blank, same = batch.answers != PAD, batch.tokens == MASK, batch.tokens == batch.answers
    return [int((asked & kind).sum()) for kind in (blank, same, ~blank & ~same)]


example = bpe.encode("A dog is running in front of a house.")
going_on = causal_batch([example])
show_batch("go on", going_on)
trials = (masked_batch([example], len(bpe), 0.4, torch.Generator().manual_seed(seed))
          for seed in range(1000))
show_batch("fill in", next(trial for trial in trials if all(treatments(trial))))

# %% [markdown]
# 不光每个 `MASK` 下面有答案，随机的词、保持原样的词，下面也都有答案：这三种位置都要回答。而看得见的词里哪些要回答，模型读的时候看不出来。
#
# 现在来看第 1 节的断言：区别全在一个掩码。取一个**没训练过**的模型，像第 04 课那样用梯度来测：位置 $i$ 的状态，有多依赖位置 $j$ 的词？权重不变，掩码换两种。

# %%
config = TransformerConfig(
    src_vocab=len(bpe), tgt_vocab=len(bpe), d_model=by_scale(smoke=64, cpu=128, gpu=256), n_heads=4,
    d_ff=4 * by_scale(smoke=64, cpu=128, gpu=256), n_layers=by_scale(smoke=2, cpu=3, gpu=4), dropout=0.0, norm="pre",
)


def dependence(model: LanguageModel, tokens: Tensor, mask: Tensor) -> Tensor:
    """Return how strongly state i reacts to word j: the size of a gradient, (L, L)."""
    model.eval()
    x = model.positions(model.embedding(tokens)).detach().requires_grad_()  # (1, L, D)
    states = model.encoder(x, mask)
    probe = torch.randn(states.size(2), generator=torch.Generator().manual_seed(0)).to(states)
    rows = [torch.autograd.grad(states[0, i] @ probe, x, retain_graph=True)[0][0].norm(dim=-1)
            for i in range(tokens.size(1))]
    return torch.stack(rows)


torch.manual_seed(0)
untrained = LanguageModel(config).to(device)
sentence = going_on.tokens.to(device)
length = sentence.size(1)
open_mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
reactions = {
    "causal mask: a GPT": dependence(untrained, sentence, causal_mask(length, device)),
    "no mask: a BERT": dependence(untrained, sentence, open_mask),
}
influence(reactions, [bpe.names[i] for i in sentence[0].tolist()],
          "The same weights: with the causal mask nothing comes from the future")

# %%
# NBVAL_CHECK_OUTPUT
blind, seeing = reactions.values()
future = torch.ones_like(blind).triu(1).bool()
assert (blind[future] == 0).all() and (blind[~future] > 0).all() and (seeing > 0).all()
print("causal: every word after one's own has a gradient of exactly 0; without the mask, none has")

# %% [markdown]
# ### 那些有名的模型有多大？
#
# 现在只凭公布的尺寸，你就能数出两个名留青史的模型有多少参数。我们的模型有的，它们都有，还多一点：注意力里的偏置，可学习的位置；BERT 还有一个表示“第一句还是第二句”的向量，嵌入后面多一个归一化，以及最后一层（“pooler”），从第一个词元读出整段文本的意思。

# %%
# NBVAL_CHECK_OUTPUT
def stack_size(d: int, n_layers: int) -> int:
    """Return the parameters of layers with four times wider feed-forward, biases everywhere."""
    attention = 4 * (d * d + d)  # queries, keys, values, output
    feed_forward = (d * 4 * d + 4 * d) + (4 * d * d + d)
    norms = 2 * 2 * d  # gain and bias, twice
    return n_layers * (attention + feed_forward + norms)


d = 768
gpt_2 = 50_257 * d + 1024 * d + stack_size(d, 12) + 2 * d  # words, positions, layers, last norm
bert = (30_522 + 512 + 2) * d + 2 * d + stack_size(d, 12) + (d * d + d)
assert gpt_2 == 124_439_808 and bert == 109_482_240
print(f"GPT-2 small: {gpt_2:,}   BERT base: {bert:,}   both: 12 layers with {stack_size(d, 12):,}")

# %% [markdown]
# 两者各层的参数个数完全相同。不同的是：词表、首尾两端、归一化的位置（第 7 节），还有掩码。试着用一句话说出来；用 `check("bert_gpt_difference", "b")` 作答。

# %%
check("bert_gpt_difference")

# %% [markdown]
# ## 3 · 接着写：一个小 GPT
#
# ### 读损失要对照的三条线
#
# 损失 3 奈特，好不好？训练**之前**先算算更简单的模型能做到多少。
#
# 1. **Uniform（均匀）**：什么都不知道。$V$ 个词各有概率 $1/V$：$\ln V$ 奈特。
# 2. **Unigram（一元语法）**：知道每个词有多常见。
# 3. **Bigram（二元语法）**：知道**在某个词之后**，每个词有多常见。词 $v$ 出现 $n(v)$ 次，其中 $n(v, w)$ 次后面是 $w$。大多数词对从没出现过，所以我们假想每个词后面另外再跟过十个词，按一元语法 $p(w)$ 的比例分配：$\frac{n(v, w) + 10\, p(w)}{n(v) + 10}$。
#
# 损失要是比第三条线还低，低出来的那部分就是这个二元语法不知道的：模型用上了更靠前的词，或者看出了哪些词彼此相似。

# %%
flat = [w for ids in train_ids for w in (*ids, EOS)]
counts = Counter(flat)
after = Counter(pair for ids in train_ids for pair in zip((BOS, *ids), (*ids, EOS)))
before = Counter(v for ids in train_ids for v in (BOS, *ids))


def unigram(word: int) -> float:
    """Return the probability of a word; each of the vocabulary has been seen once more."""
    return (counts[word] + 1) / (len(flat) + len(bpe))


def bigram(previous: int, word: int) -> float:
    """Return the probability of a word after another one."""
    return (after[previous, word] + 10 * unigram(word)) / (before[previous] + 10)


asked = [(v, w) for ids in val_ids for v, w in zip((BOS, *ids), (*ids, EOS))]
lines = {
    "uniform": math.log(len(bpe)),
    "unigram": -sum(math.log(unigram(w)) for _, w in asked) / len(asked),
    "bigram": -sum(math.log(bigram(v, w)) for v, w in asked) / len(asked),
}
assert lines["bigram"] < lines["unigram"] < lines["uniform"]
print("nats a token on held-out captions:", {name: round(value, 2) for name, value in lines.items()})

# %% [markdown]
# ### 训练
#
# 训练循环是第 07 课的简化版：Adam，先升后降的学习率，长度相近的批次。没有用暂退法：只过几遍，这么小的模型背不下文本。`ask` 把句子变成批次；训练出来的是 GPT 还是 BERT，只由它决定。

# %%
def learn(ask, epochs: int, seed: int = 0) -> tuple[LanguageModel, list[tuple[float, float]]]:
    """Train a fresh model on what `ask` asks; return it, and (passes, loss on val) as it went."""
    torch.manual_seed(seed)
    model = LanguageModel(config).to(device)
    optimizer = make_optimizer(model, TrainingConfig())
    lengths = [len(ids) + 2 for ids in train_ids]
    plan = [b for e in range(epochs) for b in token_batches(lengths, by_scale(smoke=400, cpu=800, gpu=2000), e)]
    every, curve = max(1, len(plan) // 8), []
    for step, chosen in enumerate(bar(plan, "batch"), start=1):
        model.train()
        batch = ask([train_ids[i] for i in chosen]).to(device)
        n_asked = max(1, int((batch.answers != PAD).sum()))
        loss = language_loss(model, batch) / n_asked
        optimizer.zero_grad()
        loss.backward()
        rate = linear_learning_rate(step, (step - 1) / len(plan), peak=4e-3, warmup=len(plan) // 20 + 1)
        apply_gradient(model, optimizer, rate, clip=1.0, loss=loss.item())
        if step % every == 0 or step == len(plan):
            curve.append((step / len(plan) * epochs, mean_loss(model, ask)))
    return model.eval(), curve


@torch.no_grad()
def mean_loss(model: LanguageModel, ask) -> float:
    """Return the loss of a model on held-out captions, in nats for each question."""
    model.eval()
    total, n = 0.0, 0
    for chosen in token_batches([len(ids) + 2 for ids in val_ids], 2000):
        batch = ask([val_ids[i] for i in chosen]).to(device)
        total += language_loss(model, batch).item()
        n += int((batch.answers != PAD).sum())
    return total / n


begun = time.perf_counter()
passes = by_scale(smoke=10, cpu=4, gpu=12)
gpt, gpt_curve = learn(causal_batch, passes)
n_parameters = sum(p.numel() for p in gpt.parameters())
print(f"{n_parameters:,} parameters, {time.perf_counter() - begun:.0f} s; "
      f"held out: {gpt_curve[-1][1]:.2f} nats a token")

# %%
draw.loss_ladder(gpt_curve, lines, "The GPT falls below what counting pairs can do")

# %%
# NBVAL_CHECK_OUTPUT
final = gpt_curve[-1][1]
assert final < lines["bigram"] < lines["unigram"] < lines["uniform"]
print("held-out loss: GPT < bigram < unigram < uniform")

# %% [markdown]
# ### 写作
#
# 仅解码器模型不用改动，就能用第 08 课的搜索：搜索要的只是一个给下一个词打分的函数。

# %%
#| export
def next_word(model: LanguageModel) -> NextLogProbs:
    """Return the score function of a causal model: prefixes (n, t), each from BOS on -> (n, V)."""

    def read(prefixes: Tensor, rows: Tensor) -> Tensor:
        return model.states(prefixes, causal_mask(prefixes.size(1), prefixes.device))[:, -1]

    return scorer(model, read)


# %% [markdown]
# **先猜**：翻译要的是可能性最大的句子。**写作**也该这样吗？

# %%
score = next_word(gpt)
greedy = greedy_search(score, 1, 40, device)[0]
widest = beam_search(score, 1, 40, beam=8, alpha=0.0, device=device)[0][0]
print("greedy:", bpe.decode(greedy))
print("beam 8:", bpe.decode(widest.ids))

# %% [markdown]
# 贪心搜索写出来的，总是这一句。束搜索会去找可能性更大的文本；没有长度惩罚时，找到的往往更短（第 08 课）；如果两行相同，就说明没找到可能性更大的文本。可能性最大的文本，是毫无意外的文本。人不是这样写的：人写的每个词都带有一些信息。所以要让模型写文章，就得**抽签**，也叫**采样**（sample）：词 $w$ 抽中的概率就是 $p(w)$。常用的调节办法有两种。
#
# - **温度**（temperature）$\tau$：从 $\mathrm{softmax}(\ln p / \tau)$ 里抽。小于 1，偏向可能性大的词（接近 0 就是贪心搜索）；大于 1，偏向可能性小的词。
# - **核采样**（nucleus，又叫 top-$p$；Holtzman 等 2019）：去掉长长的尾巴。按可能性从大到小取词，累计概率达到 $p$ 就停，然后在这些词当中抽。

# %%
#| export
def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Return log-probabilities (n, V) with -inf for all but the likeliest that hold `top_p`.

    The likeliest word always stays. Holtzman et al. 2019.
    """
    if top_p >= 1:
        return log_probs
    ordered, words = log_probs.sort(-1, descending=True)
    likelier = ordered.exp().cumsum(-1) - ordered.exp()  # what stands before each word
    kept = ordered.masked_fill(likelier >= top_p, -torch.inf)
    kept[:, 0] = ordered[:, 0]
    return torch.empty_like(log_probs).scatter(-1, words, kept)


# %%
#| export
@torch.no_grad()
def sample(
    score: NextLogProbs,
    n_texts: int,
    max_len: int,
    prompt: Sequence[int] = (),
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> list[list[int]]:
    """Draw texts word by word after a prompt; return their ids, the prompt's too, without EOS.

    A text ends with EOS or after `max_len` tokens. Raises ValueError for a temperature that is
    not positive (greedy search is the limit at 0) or a `top_p` outside (0, 1].
    """
    if not (temperature > 0 and 0 < top_p <= 1):
        raise ValueError(f"temperature={temperature}, top_p={top_p}: give a temperature above 0 "
                         "and a share above 0, up to 1")
    texts = [[*prompt] for _ in range(n_texts)]
    rows = torch.arange(n_texts, device=device)  # texts that are still being written
    prefixes = torch.tensor([[BOS, *prompt]] * n_texts, device=device)  # (n, t)
    while len(rows) and prefixes.size(1) <= max_len:
        log_probs = (score(prefixes, rows) / temperature).log_softmax(-1)  # (n, V)
        token = torch.multinomial(nucleus(log_probs, top_p).exp(), 1, generator=generator)
        live = token[:, 0] != EOS
        rows, prefixes = rows[live], torch.cat([prefixes, token], dim=1)[live]
        for row, word in zip(rows.tolist(), prefixes[:, -1].tolist()):
            texts[row].append(word)
    return texts


# %%
lots = torch.Generator(device).manual_seed(0)
prompt = bpe.encode("A little girl")
for temperature, top_p in ((0.5, 1.0), (1.0, 0.9), (1.0, 1.0), (1.5, 1.0)):
    print(f"\ntemperature {temperature}, top-p {top_p}")
    for ids in sample(score, 2, 40, prompt, temperature, top_p, lots, device):
        print("   ", bpe.decode(ids))

# %% [markdown]
# 四种里哪一种最像人写的？有一个可以测量的指标：每种文本让模型感到多**意外**，也就是平均每个词元的负对数概率，以奈特计。对人写的图片说明，这就是留出集上的损失。如果模型知道自己有多不确定，那么对它自己抽出来的文本（不作任何调节），这个数应该差不多。

# %%
def surprise(texts: list[list[int]], limit: int | None = None) -> float:
    """Return the GPT's mean loss on texts, in nats a token; one cut at `limit` never said EOS."""
    batch = causal_batch(texts).to(device)
    if limit:
        batch.answers[:, limit:] = PAD
    with torch.no_grad():
        return language_loss(gpt, batch).item() / int((batch.answers != PAD).sum())


settings = {"temperature 0.5": (0.5, 1.0), "top-p 0.9": (1.0, 0.9), "as it is": (1.0, 1.0),
            "temperature 1.5": (1.5, 1.0)}
n_texts = by_scale(smoke=40, cpu=100, gpu=200)
texts = {name: sample(score, n_texts, 40, (), *knobs, lots, device)
         for name, knobs in settings.items()}
found = {"greedy": greedy, "beam 8": list(widest.ids)}
if found["greedy"] == found["beam 8"]:
    found = {"greedy and beam 8": greedy}  # one text, one bar
likeliest = {name: surprise([text]) for name, text in found.items()}
surprises = likeliest | {name: surprise(written, limit=40) for name, written in texts.items()}
draw.surprises(surprises, surprise(val_ids), "The likeliest text is not a typical one")

# %%
people = surprise(val_ids)
drawn = surprises["as it is"]
assert surprises["temperature 0.5"] < drawn < surprises["temperature 1.5"]
assert max(likeliest.values()) < drawn and abs(drawn / people - 1) < 0.25
print(f"nats a token: searched for {max(likeliest.values()):.2f}, drawn {drawn:.2f}, people {people:.2f}")

# %% [markdown]
# 意外程度相同，并不说明文本就好（再读一遍第三对）。但是意外程度远低于那条线的，就不是典型的文本。
#
# 只要一个答案时，贪心搜索是对的，翻译就是这样：后面该写什么，源句已经说了。下一个词真的有许多可能时，就该如实按概率抽签；谨慎一点（top-p 0.9），就去掉尾巴：大多数失误出自尾巴，不过文本的变化也会少一些。
#
# > **试一试。** 把温度设为 0.1，再设为 5。在两头，文本各变成什么样？温度无穷大时，每个词抽到的机会相等：那么意外程度为什么还会高于“uniform”那条线？（意外程度是用哪个分布来算的：抽签用的分布，还是 GPT 的分布？）
#
# <details><summary>答案</summary>
#
# 0.1 时，几乎每次都抽到可能性最大的词：变成了贪心搜索，写来写去都是同一篇文本。5 时，各个词几乎互不相干。意外程度是用 GPT 的分布来算的，而这个分布并不均匀：它给大多数词的概率远小于 $1/V$。对均匀抽出的词取 $-\ln p(w)$ 的平均，等于 $\ln V$ 加上从均匀分布到 GPT 分布的距离（Kullback-Leibler），这个距离不会是负数。所以意外程度高于那条线，是必然的。
#
# </details>

# %% [markdown]
# ## 4 · 填空：一个小 BERT
#
# 文本、尺寸、训练循环都不变，只换批次，就成了**掩码语言模型**（masked language model）；GPT 则是**因果语言模型**（causal）。
#
# **先猜**：BERT 的损失只算 15% 的词，GPT 的损失算全部的词。同样过一遍文本，哪个学到的更多？

# %% [markdown]
# 按理说是 GPT：同样过一遍文本，它能得到更多的答案。为了能比较，两个模型过的遍数相同；不过我们让 BERT 回答 30% 的词，而不是 15%。

# %%
lots = torch.Generator().manual_seed(0)
begun = time.perf_counter()
bert_model, bert_curve = learn(
    lambda sentences: masked_batch(sentences, len(bpe), share=0.3, generator=lots), passes
)
print(f"{time.perf_counter() - begun:.0f} s; held out: {bert_curve[-1][1]:.2f} nats a question")

# %% [markdown]
# 填空吧！`[MASK]` 代表一个词元。在这个模型眼里，右边的上下文和左边的没有两样，所以只改空白**后面**的内容：

# %%
def fill_in(text: str, k: int = 5) -> list[tuple[str, float]]:
    """Return the k likeliest tokens, with probabilities, for the one [MASK] of a text, a word."""
    left, right = text.split("[MASK]")
    first = bpe.encode(left.rstrip()) if left.strip() else []
    stand_in = len(bpe.encode("x"))  # a word in its place keeps the spaces around it right
    rest = bpe.encode(left + "x" + right)[len(first) + stand_in :]
    tokens = torch.tensor([[BOS, *first, MASK, *rest, EOS]], device=device)
    with torch.no_grad():
        probabilities = bert_model(tokens)[0, 1 + len(first)].softmax(-1)
    best = probabilities.topk(k)
    return [(bpe.names[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist())]


blanks = [
    "A man is playing a [MASK] on stage.",
    "A man is playing a [MASK] of chess.",
    "A dog is [MASK] through the snow.",
    "A dog is [MASK] on the sofa.",
    "Children are [MASK] in the pool.",
    "Children are [MASK] at a table.",
]
filled = {text: fill_in(text) for text in blanks}
first = [words[0][0] for words in filled.values()]  # of two texts side by side only the end differs
differ = sum(a != b for a, b in zip(first[::2], first[1::2]))
assert corpus != "multi30k" or differ >= by_scale(smoke=0, cpu=2, gpu=2)
draw.blanks(filled, "What follows the blank decides, too")

# %% [markdown]
# （用小语料库时，其中有些词模型从没读过，这时横条说明不了什么。）
#
# 看到两侧真的有好处吗，还是这六个句子挑得巧？让两个模型比一比，它们读的是同样的文本，遍数也相同。每条留出的说明里随机取三个位置：GPT 必须根据左边的内容说出那里的词元；给 BERT 看的句子里，那里是空白，其余的都看得到。还有第三位选手：同一个 BERT，但右边的内容也全部换成空白。

# %%
def hit_rate(model: LanguageModel, questions: list[tuple[list[int], int, int]], causal: bool) -> float:
    """Return the share of questions (tokens, place, answer) whose answer the model puts first."""
    hits = 0
    for k in range(0, len(questions), 100):
        part = questions[k : k + 100]
        tokens = pad([ids for ids, _, _ in part], PAD).to(device)
        mask = padding_mask(tokens, PAD)
        mask = combine_masks(mask, causal_mask(tokens.size(1), device)) if causal else mask
        places = torch.tensor([place for _, place, _ in part], device=device)
        with torch.no_grad():
            states = model.states(tokens, mask)[torch.arange(len(part), device=device), places]
        best = model.project(states).argmax(-1).tolist()
        hits += sum(word == answer for word, (_, _, answer) in zip(best, part))
    return hits / len(questions)


chance = random.Random(0)
asked = [(ids, chance.randrange(len(ids))) for ids in val_ids for _ in range(3)]
rates = {
    "GPT, sees the left": hit_rate(gpt, [([BOS, *ids], i, ids[i]) for ids, i in asked], causal=True),
    "BERT, the right side blanked": hit_rate(
        bert_model,
        [([BOS, *ids[:i], *[MASK] * (len(ids) - i), EOS], i + 1, ids[i]) for ids, i in asked],
        causal=False,
    ),
    "BERT, sees both sides": hit_rate(
        bert_model,
        [([BOS, *ids[:i], MASK, *ids[i + 1 :], EOS], i + 1, ids[i]) for ids, i in asked],
        causal=False,
    ),
}
print({name: f"{rate:.1%}" for name, rate in rates.items()}, f"of {len(asked):,} tokens")

# %%
left, half, both = rates.values()
assert both > left and both > half
print(f"both sides: {100 * (both - left):+.1f} points over the GPT, {100 * (both - half):+.1f} over itself "
      "with the right side blanked")

# %% [markdown]
# （一连串这么多空白，BERT 训练时几乎没遇到过：中间那个数对它有点不公平。GPT 可没有这个借口。）

# %%
check("bert_writes")

# %%
check("bert_signal")

# %% [markdown]
# ## 5 · 这有什么用？少量标注，用处更大
#
# 填空本身没有什么用处，BERT 的目的不在于此。填空只是个**由头**：为了填空，模型必须学会语法和意思，而这不需要标注，只要文本。这第一阶段叫**预训练**（pre-training）。之后是**微调**（fine-tuning）：在真正的任务上再训练一点，而这个任务的标注很少。
#
# 我们真正的任务，是给出每个词的**词性**（`NN` 名词，`VBG` -ing 形式，`IN` 介词，等等），这是语法分析的第一步。课程自带的图片说明有标准的树（说明本来就是用一套语法生成的，每句的树当然知道），所以正确的词性是已知的。

# %%
# NBVAL_CHECK_OUTPUT
def with_tags(split: str) -> list[tuple[captions.Caption, list[str]]]:
    """Return the captions of a split, each with the part of speech of each English word."""
    return [(c, re.findall(r"\(([^\s()]+) [^\s()]+\)", c.tree)) for c in captions.load(split)]


tagged = with_tags("train")
tag_of = {tag: i for i, tag in enumerate(sorted({tag for _, tags in tagged for tag in tags}))}
uses: dict[str, set[str]] = {}
for c, tags in tagged:
    for word, tag in zip(c.en_tokens, tags, strict=True):
        uses.setdefault(word.lower(), set()).add(tag)
shown, tags = tagged[3]
print(" ".join(f"{word}/{tag}" for word, tag in zip(shown.en_tokens, tags)))
print(f"{len(uses)} words, {len(tag_of)} tags; words with two tags:",
      {word: sorted(found) for word, found in uses.items() if len(found) > 1})

# %% [markdown]
# 在这个语料库里，几乎每个词都只有一种词性，只有五个词要看上下文。所以要是有一本完整的**词典**，查词典就够了：有标注的词，取它最常见的词性；没有标注的，一律算 `NN`。这就是我们的基线，难点也看得出来：只标注四条图片说明时，语料里不同的词大多没有标注。**先猜**：如果从来没有人标注过“juggling”，模型能知道它是 `VBG` 吗？

# %% [markdown]
# 输出头是一个线性映射，作用在每个词**最后一个**词元的状态上。所有部分都训练，只是原有的各层用小的学习率，一共训练几十步。起点有三种：随机权重、GPT（保留它的因果掩码）、BERT。（三种起点的训练办法完全一样；从随机权重开始的，多训练一阵会更好。）

# %%
def tagging_batch(chosen) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens (B, L), where each word ends (n, 2) and its tag (n,) for tagged captions."""
    rows, ends, answers = [], [], []
    for row, (caption, tags) in enumerate(chosen):
        ids, number = bpe.encode(caption.en), word_index(bpe, caption.en)
        assert number[-1] + 1 == len(tags), "words and tags would shift"
        last = {word: 1 + i for i, word in enumerate(number)}  # BOS stands at 0
        rows.append([BOS, *ids, EOS])
        ends += [(row, last[word]) for word in range(len(tags))]
        answers += [tag_of[tag] for tag in tags]
    return pad(rows, PAD).to(device), torch.tensor(ends).to(device), torch.tensor(answers).to(device)


def states_at_ends(model: LanguageModel, tokens: Tensor, ends: Tensor, causal: bool) -> Tensor:
    """Return the state of each word's last token, (n, D)."""
    mask = padding_mask(tokens, PAD)
    mask = combine_masks(mask, causal_mask(tokens.size(1), device)) if causal else mask
    return model.states(tokens, mask)[ends[:, 0], ends[:, 1]]


def dictionary_accuracy(labelled, judged) -> float:
    """Return the share of right tags of a dictionary made from the labelled captions."""
    seen: dict[str, Counter[str]] = {}
    for caption, tags in labelled:
        for word, tag in zip(caption.en_tokens, tags):
            seen.setdefault(word.lower(), Counter())[tag] += 1
    said = [(seen[w.lower()].most_common(1)[0][0] if w.lower() in seen else "NN", tag)
            for caption, tags in judged for w, tag in zip(caption.en_tokens, tags)]
    return sum(ours == tag for ours, tag in said) / len(said)


def tag_accuracy(start: LanguageModel, causal: bool, labelled, judged, seed: int) -> float:
    """Fine-tune a copy on a few labelled captions; return the share of right tags on others."""
    torch.manual_seed(seed)
    model, head = copy.deepcopy(start).train(), nn.Linear(config.d_model, len(tag_of)).to(device)
    optimizer = torch.optim.Adam([{"params": model.parameters(), "lr": 5e-4},
                                  {"params": head.parameters(), "lr": 5e-3}])
    tokens, ends, answers = tagging_batch(labelled)
    for _ in range(by_scale(smoke=60, cpu=40, gpu=60)):
        loss = F.cross_entropy(head(states_at_ends(model, tokens, ends, causal)), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    tokens, ends, answers = judged
    with torch.no_grad():
        said = head(states_at_ends(model, tokens, ends, causal)).argmax(-1)
    return (said == answers).float().mean().item()


pool = random.Random(0).sample(tagged, 700)
others = with_tags("val")[:300]
judged = tagging_batch(others)
amounts, seeds = (4, 16, 64), range(by_scale(smoke=1, cpu=3, gpu=5))
portions = [[pool[100 * seed : 100 * seed + n] for seed in seeds] for n in amounts]
torch.manual_seed(1)
starts = {"random weights": (LanguageModel(config).to(device), False),
          "GPT, sees the left": (gpt, True), "BERT, sees both sides": (bert_model, False)}
accuracy = {"a dictionary": [[dictionary_accuracy(p, others) for p in row] for row in portions]}
for name, (start, causal) in starts.items():
    accuracy[name] = [[tag_accuracy(start, causal, p, judged, seed) for seed, p in enumerate(row)]
                      for row in portions]
draw.few_labels(amounts, accuracy, "Who has read before needs fewer labels")

# %%
means = {name: [sum(runs) / len(runs) for runs in rows] for name, rows in accuracy.items()}
dictionary, fresh, from_gpt, from_bert = (row[:2] for row in means.values())
assert all(min(g, b) > f for f, g, b in zip(fresh, from_gpt, from_bert))
share = by_scale(smoke=0.95, cpu=1, gpu=1)  # the quick run's small models do not reach a dictionary
assert all(g > share * d for d, g in zip(dictionary, from_gpt))
print("labelled captions:", amounts)
for name, row in means.items():
    print(f"{name:22}", "  ".join(f"{a:.1%}" for a in row))

# %% [markdown]
# 预先读过文本的两个模型，都胜过从随机权重开始的模型；GPT 还胜过词典，词典把没有标注的词一律算作 `NN`。一个可能的原因：出现在同样位置的词，从纯文本里得到了相近的向量，所以一个词有了标注，向量与它相近的词也就跟着学会了。填空，以及猜下一个词，为的就是这个。
#
# 读过文本的两个模型，在这里哪个更好？关于 BERT 你也许听说过什么，先别急着信，看结果。有两件事可能对 GPT 有利：大多数词根本不需要上下文，所以多看一侧没多大用处；每过一遍文本，GPT 在每个词上都要回答，BERT 只在 30% 的词上回答。（规模更大、任务是句子和问题时，BERT 胜过了第一个 GPT：Devlin 等 2018，表 1 和表 4。）

# %% [markdown]
# ## 6 · 画句法树：把句法分析当作翻译（6.3 节）
#
# 回到完整的 Transformer，编码器和解码器都在。除了翻译，它还有什么用？作者选了一个看上去很不一样的任务：**成分句法分析**（constituency parsing）。答案不是句子，而是一棵树；这棵树比问题还长，而且要守严格的规则：每个括号都要关上，一个词也不能丢。
#
# 窍门来自 Vinyals（2015）。把树写成序列，句法分析**就是**翻译，译成一种由括号组成的语言。词本身不必重复，每个词写成记号 `XX`。

# %%
#| export
def linearise(tree: str) -> list[str]:
    """Return a bracketed tree as symbols: "(NP" opens, ")NP" closes, XX stands for each word.

    Vinyals et al. 2015. Raises ValueError where the brackets do not balance.
    """
    symbols: list[str] = []
    opened: list[str] = []
    for token in re.findall(r"\([^\s()]+ [^\s()]+\)|\([^\s()]+|\)", tree):
        if token == ")":
            if not opened:
                raise ValueError(f"a bracket closes that was not opened: {tree}")
            symbols.append(")" + opened.pop())
        elif token.endswith(")"):
            symbols.append("XX")
        else:
            opened.append(token[1:])
            symbols.append(token)
    if opened:
        raise ValueError(f"({opened[-1]} is never closed: {tree}")
    return symbols


# %%
#| export
def as_tree(symbols: Sequence[str], words: Sequence[str]) -> str:
    """Return the bracketed tree that symbols spell over words; the parts of speech are all XX.

    Raises ValueError that says what is wrong: a bracket that closes another one, an empty one, one
    left open, no tree or two, or another number of XX than of words.
    """
    text: list[str] = []
    opened: list[str] = []
    rest = list(words)
    for i, symbol in enumerate(symbols):
        if i and not opened:
            raise ValueError(f"the tree ends before {symbol}, symbol {i + 1} of {len(symbols)}")
        if not i and not symbol.startswith("("):
            raise ValueError(f"a tree begins with a bracket that opens, not with {symbol}")
        if symbol == "XX":
            if not rest:
                raise ValueError(f"more XX than the {len(words)} words")
            text.append(f" (XX {rest.pop(0)})")
        elif symbol.startswith("("):
            opened.append(symbol[1:])
            text.append(" " + symbol)
        elif symbol[1:] != opened[-1] or text[-1].endswith("(" + opened[-1]):
            what = "is empty" if symbol[1:] == opened[-1] else f"is closed by {symbol}"
            raise ValueError(f"({opened[-1]} {what}, symbol {i + 1} of {len(symbols)}")
        else:
            opened.pop()
            text.append(")")
    if opened or rest:
        raise ValueError(f"left over: {len(opened)} open brackets and {len(rest)} words")
    return "".join(text).strip()


# %%
# NBVAL_CHECK_OUTPUT
tree = "(S (NP (DT A) (NN dog)) (VP (VBZ sleeps) (PP (IN on) (NP (DT a) (NN bench)))) (. .))"
symbols = linearise(tree)
print(" ".join(symbols))
back = as_tree(symbols, ["A", "dog", "sleeps", "on", "a", "bench", "."])
assert constituents(back) == constituents(tree) and linearise(back) == symbols
print(constituents(tree))

# %% [markdown]
# 打分时看的是第二行：每个**成分**（constituent）记成一个标签、第一个词的位置和最后一个词后面的位置（从 0 数起）。给一个预测打分，要在所有句子上数三样东西：对的括号（标签相同，范围相同），预测的括号，标准树里的括号。
#
# $$\text{precision} = \frac{\text{right}}{\text{predicted}}, \qquad \text{recall} = \frac{\text{right}}{\text{gold}}, \qquad
# F_1 = \frac{2 \cdot \text{right}}{\text{predicted} + \text{gold}} .$$
#
# 这就是论文表 4 的“括号 F1”（bracket F1）。（那里用的程序 `evalb` 计算范围时不算标点，并把 `ADVP` 和 `PRT` 看作一样；我们两样都不做。）

# %%
#| export
Bracket = tuple[str, int, int]  # label, first word, the word after the last


@dataclass(frozen=True)
class BracketScore:
    """Brackets counted over a corpus: right ones, predicted ones, those of the gold trees."""

    right: int
    predicted: int
    gold: int

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall, 0 to 1."""
        return 2 * self.right / max(1, self.predicted + self.gold)


def bracket_score(
    predicted: Sequence[Sequence[Bracket]], gold: Sequence[Sequence[Bracket]], labelled: bool = True
) -> BracketScore:
    """Compare the brackets of each sentence; a bracket that comes twice counts twice.

    A prediction that is no tree has no brackets: []. Raises ValueError for two lists of different
    lengths. Black et al. 1991.
    """
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} predictions for {len(gold)} gold trees")
    cut = 0 if labelled else 1
    right = 0
    for ours, theirs in zip(predicted, gold):
        right += (Counter(b[cut:] for b in ours) & Counter(b[cut:] for b in theirs)).total()
    return BracketScore(right, sum(map(len, predicted)), sum(map(len, gold)))


# %% [markdown]
# 手算一个：“children watch dogs on beds”。标准树里，“on beds”说的是在哪里看（watch）；假设分析器把它挂到了“dogs”上。**先猜**：六个标准括号，分析器还能答对几个？

# %%
mine = None  # your guess: 0 to 6

# %%
# NBVAL_CHECK_OUTPUT
who, where = "(NP (NNS children))", "(PP (IN on) (NP (NNS beds)))"
gold = constituents(f"(S {who} (VP (VBP watch) (NP (NNS dogs)) {where}))")
other = constituents(f"(S {who} (VP (VBP watch) (NP (NP (NNS dogs)) {where})))")
print("gold ", gold)
print("other", other)
judged_by_hand = bracket_score([other], [gold])
assert judged_by_hand.right == len(gold) == 6 and bracket_score([gold], [gold]).f1 == 1
assert math.isclose(judged_by_hand.f1, 2 * 6 / (7 + 6))
print(judged_by_hand, f"F1 {judged_by_hand.f1:.3f}")
compare(mine, judged_by_hand.right, "10: gold brackets left after a wrong attachment")

# %% [markdown]
# 六个全对：这样挂错，只是多出一个错误的括号。F1 很高，意思仍然可能是错的。

# %%
check("parsing_linear")

# %% [markdown]
# ### 训练分析器
#
# 源句是图片说明的词，目标是它的树的记号。模型是第 05 课的 `Transformer`，批次用第 06 课的，训练步用第 07 课的。什么也没有加。

# %%
def parsing_examples(split: str, limit: int) -> list[tuple[list[int], list[int]]]:
    """Return the captions of a split as (word ids, symbol ids), both ending in EOS."""
    return [([*vocabulary.encode(c.en_tokens), EOS], [*symbol_vocabulary.encode(linearise(c.tree)), EOS])
            for c in captions.load(split)[:limit]]


n_trees = by_scale(smoke=3000, cpu=12000, gpu=12000)
trees = captions.load("train")[:n_trees]
vocabulary = Vocabulary.from_sentences([c.en_tokens for c in trees])
symbol_vocabulary = Vocabulary.from_sentences([linearise(c.tree) for c in trees])
parser_config = TransformerConfig(
    src_vocab=len(vocabulary), tgt_vocab=len(symbol_vocabulary), d_model=128, n_heads=4, d_ff=256, n_layers=2,
    dropout=0.0, norm="pre", tie_embeddings=False,
)
examples = parsing_examples("train", n_trees)
longer = sum(len(tgt) > len(src) for src, tgt in examples) / len(examples)
print(f"{len(examples):,} trees, {len(vocabulary):,} words, {len(symbol_vocabulary)} symbols: "
      f"{' '.join(symbol_vocabulary.tokens[4:])}")
print(f"the target is the longer side in {longer:.0%} of the examples")

# %%
def train_parser(epochs: int, seed: int = 0) -> tuple[Transformer, list[float]]:
    """Train a fresh parser; return it, and the loss of each step in nats a symbol."""
    torch.manual_seed(seed)
    model = Transformer(parser_config).to(device)
    recipe = TrainingConfig(label_smoothing=0.0)
    optimizer = make_optimizer(model, recipe)
    plan = [b for e in range(epochs) for b in make_batches(examples, by_scale(smoke=400, cpu=800, gpu=2000), e)]
    losses = []
    for step, batch in enumerate(bar(plan, "batch"), start=1):
        rate = linear_learning_rate(step, (step - 1) / len(plan), peak=2e-3, warmup=len(plan) // 20 + 1)
        losses.append(train_step(model, [batch.to(device)], optimizer, rate, recipe)[0])
    return model.eval(), losses


begun = time.perf_counter()
parser, losses = train_parser(by_scale(smoke=3, cpu=3, gpu=6))
print(f"{time.perf_counter() - begun:.0f} s, {len(losses)} steps, last loss {losses[-1]:.3f} nats a symbol")

# %% [markdown]
# ### 每个答案都是树吗？
#
# 模型里没有哪一部分知道括号是什么。它可能停得太早，可能关上从没打开过的括号，也可能数错词数。这样的答案，`as_tree` 一律不接受。**先猜**：一百个答案里有多少是树？

# %%
mine = None  # your guess, in percent

# %%
test = captions.load("test")[: by_scale(smoke=100, cpu=500, gpu=500)]


def parse(sentences, beam: int = 1, alpha: float = 0.3, wrap=None) -> tuple[list[str | None], Counter]:
    """Return the tree of each sentence (words), None where the answer is none, and the reasons.

    wrap: what is put around the score function; it gets that, and each sentence's number of words.
    """
    found: list[str | None] = [None] * len(sentences)
    reasons: Counter[str] = Counter()
    waiting = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    for k in range(0, len(waiting), 50):
        part = waiting[k : k + 50]
        source = pad([[*vocabulary.encode(sentences[i]), EOS] for i in part], PAD).to(device)
        cached = cached_log_probs(parser, source)
        score = wrap(cached, [len(sentences[i]) for i in part]) if wrap else cached
        limits = [len(sentences[i]) + 300 for i in part]  # the paper's limit
        hypotheses = beam_search(score, len(part), limits, beam, alpha, device, cached.follow)
        for i, best in zip(part, hypotheses):
            try:
                found[i] = as_tree(symbol_vocabulary.decode(best[0].ids), sentences[i])
            except ValueError as error:
                reasons[re.sub(r"\d+", "N", re.sub(r", symbol.*", "", str(error)))] += 1
    return found, reasons


free, reasons = parse([c.en_tokens for c in test])
n_free = sum(tree is not None for tree in free)
print(f"of {len(test)} captions never seen, {n_free} answers are trees")
print("the others, most frequent first:", dict(reasons.most_common(4)))
compare(mine, 100 * n_free / len(test), "10: answers that are trees, percent")

# %%
check("parsing_wellformed")

# %% [markdown]
# ### 只许写接得下去的记号
#
# 括号的规则是已知的，何必碰运气？每次选择之前，把不能接在后面的记号的分数都设为 $-\infty$。（连续打开的括号最多四个，这样总会写完。）于是**不管**权重是多少，写出来的都是树。剩下的记号保留原来的分数。如果重新归一化，让它们的概率加起来等于 1，那么规则只留下一种选择时，那一步的概率就成了 1，不扣一点分，束搜索就会偏爱模型自己也认为不太可能的树。今天让聊天模型输出合法的 JSON，用的是同样的办法：**受约束解码**（constrained decoding）。

# %%
#| export
def may_follow(symbols: Sequence[str], n_words: int, most_opened: int = 4) -> Callable[[str], bool]:
    """Return a test of what may come after a beginning of a tree over `n_words` words.

    most_opened: so many brackets may open in a row, else a weak model opens them for ever.
    """
    if "</s>" in symbols:
        return lambda symbol: symbol == "</s>"
    opened: list[str] = []
    left, run = n_words, 0
    for symbol in symbols:
        run = run + 1 if symbol.startswith("(") else 0
        if symbol == "XX":
            left -= 1
        elif symbol.startswith("("):
            opened.append(symbol[1:])
        else:
            opened.pop()
    closable = bool(opened) and run == 0 and (len(opened) > 1 or left == 0)

    def fits(symbol: str) -> bool:
        if not opened:
            return symbol == "</s>" if symbols else symbol.startswith("(")
        if symbol == "XX":
            return left > 0
        if symbol.startswith("("):
            return left > 0 and run < most_opened
        return closable and symbol == ")" + opened[-1]

    return fits


def only_trees(names: Sequence[str], score: NextLogProbs, n_words: Sequence[int]) -> NextLogProbs:
    """Return the score function, with -inf for what cannot go on to a tree.

    What may come keeps its score: the total of a tree stays the model's own log-probability.
    names: the symbol of each id, "</s>" for EOS; n_words: of each source sentence.
    """

    def strict(prefixes: Tensor, rows: Tensor) -> Tensor:
        log_probs = score(prefixes, rows)  # (n, V)
        allowed = []
        for prefix, row in zip(prefixes.tolist(), rows.tolist()):
            fits = may_follow([names[i] for i in prefix[1:]], n_words[row])
            allowed.append([fits(name) for name in names])
        forbidden = ~torch.tensor(allowed, device=log_probs.device)
        return log_probs.masked_fill(forbidden, -torch.inf)

    return strict


# %%
# NBVAL_CHECK_OUTPUT
begun_tree = ["(S", "(NP", "XX", "XX"]
for n in (2, 3):
    fits = may_follow(begun_tree, n)
    allowed = [s for s in ("(NP", "(VP", "XX", ")NP", ")S", "</s>") if fits(s)]
    print(f"{' '.join(begun_tree)} ... over {n} words may go on with: {' '.join(allowed)}")
for symbols in (linearise(c.tree) for c in trees[:500]):  # the rules forbid no tree of ours
    assert all(may_follow(symbols[:i], symbols.count("XX"))(s) for i, s in enumerate(symbols))

# %%
constrain = partial(only_trees, symbol_vocabulary.tokens)
parsed, reasons = parse([c.en_tokens for c in test], wrap=constrain)
assert all(parsed) and not reasons
gold = [constituents(c.tree) for c in test]
said = [constituents(tree) for tree in parsed]
exact = sum(ours == theirs for ours, theirs in zip(said, gold))
print(f"{len(parsed)} of {len(test)} answers are trees, {exact} of them the gold one")

# %%
wrong = [i for i in range(len(test)) if said[i] != gold[i]]
same = sum([b[0] for b in said[i]] == [b[0] for b in gold[i]] for i in wrong)
print(f"{len(wrong)} wrong trees, {same} of them with all labels right and in order: only spans differ")
pick_one = min(wrong, key=lambda i: len(gold[i])) if wrong else 0
draw.bracketings(test[pick_one].en_tokens, gold[pick_one], said[pick_one],
               "The shortest caption that it gets wrong" if wrong else "A tree of the parser")

# %% [markdown]
# 橙色的部分，是两棵树里只有一棵才有的。标签都对、次序也对、范围却错了的树，多半是数错了；其余的树里，有些误解了某个短语。
#
# ### 和什么比？
#
# F1 有 90%，听起来不错；可是括号很容易猜。下面三个分析器，一个词也不读：
#
# - **flat**（平的）：一个括号括住整句；
# - **right-branching**（向右分支）：英语向右展开，所以每个词都打开一个括号，一直到句号前的最后一个词；
# - **by length**（按长度）：训练集里同样长度的说明，最常见的那棵树。
#
# 前两个除了 S 给不出别的标签，所以我们让所有方法再比一次，这次不看标签。

# %%
def right_branching(n: int) -> list[Bracket]:
    """Return the brackets of a sentence of n words, the last of which is its full stop."""
    return [("S", 0, n), *(("X", i, n - 1) for i in range(n - 2))]


shapes: dict[int, Counter[tuple[Bracket, ...]]] = {}
for c in trees:
    shapes.setdefault(len(c.en_tokens), Counter())[tuple(constituents(c.tree))] += 1
usual = {n: list(found.most_common(1)[0][0]) for n, found in shapes.items()}
lengths = [len(c.en_tokens) for c in test]
systems = {
    "flat": [[("S", 0, n)] for n in lengths],
    "right-branching": [right_branching(n) for n in lengths],
    "by length": [usual.get(n, [("S", 0, n)]) for n in lengths],
    "Transformer, free": [constituents(tree) if tree else [] for tree in free],
    "Transformer, only trees": said,
}
table = {name: [bracket_score(answers, gold, labelled).f1 for labelled in (True, False)]
         for name, answers in systems.items()}
draw.parsing_bars(table, "The translator has learned to parse")

# %%
ours, unlabelled = table["Transformer, only trees"]
know_nothing = max(f1 for name in ("flat", "right-branching", "by length") for f1 in table[name])
assert unlabelled >= ours > know_nothing
print(f"bracket F1 on held-out captions: {ours:.1%}, without labels {unlabelled:.1%}; "
      f"right-branching without labels {table['right-branching'][1]:.1%}")
print(f"without the constraint {table['Transformer, free'][0]:.1%}")

# %% [markdown]
# 比较最后两对柱子。约束保证的是**形式**：现在每个答案都是树。可是模型不懂的，约束也教不会它：数错了的答案，只是变成了范围错误的树。凡是靠合法的 JSON 来搭建系统的人，都该记住这一点。

# %%
check("parsing_f1")

# %% [markdown]
# 论文解码用束宽 21 和 $\alpha = 0.3$，并允许答案比问题长 300 个记号。**先猜**：第 08 课里，束搜索有时有用，有时有害。这里呢？

# %%
mine = None  # "helps", "hurts" or "neither"

# %%
few = range(0, len(test), max(1, len(test) // 100))
wide, _ = parse([test[i].en_tokens for i in few], beam=21, wrap=constrain)
of_beam = bracket_score([constituents(tree) for tree in wide], [gold[i] for i in few]).f1
of_greedy = bracket_score([said[i] for i in few], [gold[i] for i in few]).f1
print(f"F1 on {len(few)} captions: greedy {of_greedy:.2%}, beam 21 {of_beam:.2%}")
verdict = "helps" if of_beam > of_greedy else "hurts" if of_beam < of_greedy else "neither"
compare(mine, verdict, "10: what beam 21 does to the parser")

# %% [markdown]
# 贪心搜索已经近乎完美时，能改善的很少：最多就是离 100% 还差的那一点。这一点里，束搜索也许能补上一部分。拿来比较的图片说明不多，最后几位数字不要当真。
#
# ### 分析器怎么数数？
#
# 要给每个词写一个 `XX`，分析器必须知道写到哪里了。像第 09b 课那样看它的交叉注意力：它为第 $i$ 个词写 `XX` 时，有多少权重落在这个词上，有多少落在相邻的词上？一个头如果没有特别关注哪个词，给每个词的权重就是 $1/S$，$S$ 是源句的词元数。

# %%
def while_saying_words(words: Sequence[str], tree: str) -> Tensor:
    """Return the last layer's cross-attention while each word's XX is said: (H, words, words + 1)."""
    symbols = linearise(tree)
    source = torch.tensor([[*vocabulary.encode(words), EOS]], device=device)
    read = torch.tensor([[BOS, *symbol_vocabulary.encode(symbols)]], device=device)
    with record_attention(parser) as seen, torch.no_grad():
        parser(source, read, None, causal_mask(read.size(1), device))
    weights = seen[f"decoder.layers.{parser_config.n_layers - 1}.cross_attention"][0]  # (H, T, S)
    return weights[:, [i for i, symbol in enumerate(symbols) if symbol == "XX"]].cpu()


looks = [while_saying_words(c.en_tokens, c.tree) for c in test[:100]]
offsets = range(-5, 6)  # of the word looked at from the word that is due
at = {offset: torch.cat([w.diagonal(offset, dim1=1, dim2=2) for w in looks if w.size(1) > 5], dim=1)
      for offset in offsets}  # (H, places) each
profile = torch.stack([weights.mean(1) for weights in at.values()], dim=1)  # (H, offsets)
nowhere = sum(1 / w.size(2) for w in looks) / len(looks)
peaks = [place - 5 for place in profile.argmax(1).tolist()]  # of each head, from the word that is due
place, n = Counter(peaks).most_common(1)[0]
where = {-1: "at the word before the one that is due", 0: "at the word that is due", 1: "at the word after it"}
draw.looked_at(offsets, profile, nowhere,
               f"{n} of {len(peaks)} heads look most {where.get(place, f'{place:+d} words away')}")

# %%
best = profile.amax(1)  # (H,)
head = int(best.argmax())
assert best[head] > 2 * nowhere and abs(peaks[head]) <= 1
print(f"over {len(looks)} captions the sharpest head, {head + 1}, has {best[head]:.0%} of its weight {where[peaks[head]]}; "
      f"a head that looks nowhere has {nowhere:.0%} on each")
print("peaks of the heads, from the word that is due:", peaks)

# %% [markdown]
# 每写一个词，权重就往前移一步，这可没有人教过。权重不一定落在该写的那个词上（换了另外两个随机种子，每次四个头里都有一个最关注前一个词）：要知道写到哪里了，看刚写过的那个词也一样管用。分析器是不是靠这些权重来**数数**，只有干预才能回答（第 09b 课）。
#
# 作者得到了什么结果？他们用的是真实的英语，即有 40,000 棵树的《华尔街日报》，模型有四层，宽度 1024。只用这些树，F1 是 91.3%（表 4 里最好的是 91.7%）；再加上大约 1700 万个句子（已由别的分析器分析好），是 92.7%（所有方法里最好的是 93.3%）。要知道，谁也没有告诉过模型什么是树。我们的图片说明出自一套小语法，高分来得容易得多，不要拿这个数与论文比。
#
# > **试一试。** 用最多 12 个词的图片说明训练，用更长的测试。先出错的是标签，还是数数？`positions="learned"` 会更好还是更差？
#
# <details><summary>答案</summary>
#
# 看 `parse` 统计的原因：“left over”和“more XX”说明模型数错了；报“closed by”（括号配错），说明标签丢了。用可学习的位置，有一点不用跑就能肯定：超出所有训练说明长度的那些位置，向量还和一开始一样随机。正弦曲线至少会按规则延续下去；至于各层有没有学会使用延续出来的编码，只有你自己跑了才知道。
#
# </details>

# %% [markdown]
# ## 7 · 论文还剩下什么？
#
# 论文发表七年之后，有了一个八十亿参数的开放模型（Llama 3，2024）。对照学过的各课，逐项打钩：
#
# | 部分（课）| 论文，2017 | BERT，2018 | GPT-2，2019 | Llama 3 8B，2024 |
# |---|---|---|---|---|
# | $\mathrm{softmax}(QK^T/\sqrt{d_k})V$，分成多个头（03）| 是 | 是 | 是 | 是；四个查询头共用一对键和值 |
# | 掩码（04）| 解码器里用因果掩码 | 只有填充 | 因果 | 因果 |
# | 位置（05）| 正弦，加一次 | 可学习，加一次 | 可学习，加一次 | 每一层旋转查询和键（RoPE） |
# | 残差与归一化（05）| 后归一化 | 后归一化 | 前归一化 | 前归一化，不减平均值（RMSNorm） |
# | 前馈（05）| ReLU，4 倍宽 | GELU，4 倍 | GELU，4 倍 | 一个门（SwiGLU），3.5 倍 |
# | 词元（06）| BPE，37,000（英德）| 词片，30,522 | 字节 BPE，50,257 | 字节 BPE，128,256 |
# | 优化器（07）| Adam，预热 | Adam，预热 | 未说明（GPT：Adam，预热）| AdamW，预热 |
# | 暂退法、标签平滑（07）| 0.1、0.1 | 0.1、无 | 未说明（GPT：0.1、无）| 发布的模型里没有 |
# | 训练时读了多少 | 450 万对句子（英德）| 33 亿个词 | 40 GB 文本 | 15 万亿个词元 |
#
# （GELU 是拐角磨圆的 ReLU；门把两个线性映射相乘，其中一个先经过非线性函数。）第一行几乎没有变。其他各行的变化，大多只要几行代码。模型的大小，数一数参数就能核对：

# %%
# NBVAL_CHECK_OUTPUT
d, layers, query_heads, key_heads, d_k, d_ff, vocab = 4096, 32, 32, 8, 128, 14_336, 128_256
attention = 2 * d * query_heads * d_k + 2 * d * key_heads * d_k  # queries, output; keys, values
gated = 3 * d * d_ff  # a third matrix: the gate
llama = 2 * vocab * d + layers * (attention + gated + 2 * d) + d  # embeddings not tied; norms
# keys and values of a token, 2 bytes each, in KiB
cache = {heads: 2 * layers * heads * d_k * 2 // 1024 for heads in (query_heads, key_heads)}
assert llama == 8_030_261_248 and cache == {32: 512, 8: 128}
print(f"Llama 3 8B: {llama:,} parameters")
print(f"KV cache of a token in 16 bits: {cache[32]} KiB with keys for every head, {cache[8]} KiB shared by four")

# %% [markdown]
# 为什么几个头要共用键？第 08b 课讲过：模型生成文本时，必须留着已写内容的全部键和值。一段 8,000 个词元的文本，每个头各用各的键要 4 GB，共用只要 1 GB；有多少人同时在用，就要多少份。
#
# 那么，后来为什么是解码器占了上风？常见的回答是：并不是因为它看得更多（填空的时候，看得到两侧的模型反而更好），而是因为每篇文本的每个词都能用来训练它，而且任何任务都可以**写成**一篇等着续写的文本：翻译、问答、程序。作者为翻译设计的架构，后来发现只用一半就够了。

# %%
check("layers_kept")

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `LanguageModel` | 词元 (B, L)、一个掩码 | logits (B, L, V)；`states` (B, L, D) |
# | `LanguageBatch`、`causal_batch`、`masked_batch` | 编号组成的句子 | 词元 (B, L)、掩码、答案 (B, L) |
# | `language_loss` | 模型、批次 | 奈特，对提问的位置求和 |
# | `next_word` | 因果模型 | 给第 08 课的搜索用的打分函数 |
# | `nucleus`、`sample` | 对数概率 (n, V)；打分函数 | 可能性最大的那些；抽签写出的文本 |
# | `linearise`、`as_tree` | 带括号的树；记号和词 | 记号；一棵树，或者错在哪里 |
# | `may_follow`、`only_trees` | 开头；打分函数 | 后面可以接什么；同样的分数，只许写树 |
# | `bracket_score` | 预测的括号和标准的括号 | 对的、预测的、标准的个数；`f1` |
#
# ## 练习
#
# 1. **藏多少？（难度 2/5，20 分钟）** 分别藏 5%、15%、40% 和 80% 来训练 BERT。不要比较损失（为什么？），要比较第 4 节的命中率。Wettig 等（2022）发现，对大模型来说，15% 太少了。
#
#    <details><summary>答案</summary>
#
#    给 `masked_batch` 传 `share=`，让四个模型都回答 `asked` 里的问题。四个损失不能比，因为问的问题不同：藏 80% 时，每个空白的上下文更少，所以哪怕模型懂得更多，损失也更高。藏得多，每过一遍得到的答案就多，但每个答案依据的上下文少：遍数定下来之后，最好的比例就在两头之间的某处。
#
#    </details>
# 2. **自己定一种格式（难度 3/5，30 分钟）。** 为另一种格式写一个 `may_follow`：让第 3 节的 GPT 写正好八个词的说明，或者不含字母“e”的说明。约束的代价是每个词元多少奈特？
#
#    <details><summary>答案</summary>
#
#    像 `only_trees` 包住分析器那样包住 `next_word(gpt)`：`log_probs.masked_fill(forbidden, -torch.inf)`。对字母“e”，禁止 `bpe.names` 里所有带 e 的词元；对八个词，第八个词结束之前禁止 `</s>`，结束之后禁止一切开始新词的词元（`▁`）。代价是：有约束的文本的 `surprise`，减去没有约束时抽出的文本的。
#
#    </details>
# 3. **只用一组层来翻译（难度 4/5，60 分钟）。** 把德语、`EOS`、英语排成一个序列，用第 1 节的前缀掩码，损失只算英语那一半。参数一样多时，它与第 09 课的小模型差多远？
#
#    <details><summary>答案</summary>
#
#    思路：词元是 `[*german, EOS, BOS, *english]`，除了英语那一半，答案都是 `PAD`；掩码有两个条件：一是填充掩码允许；二是因果掩码允许，或者键在德语那一半。先数参数：只有一组层，就没有交叉注意力，所以可以多几层。用第 09 课的 `evaluate` 评判，各用三个种子。
#
#    </details>
# 4. **RMSNorm、SwiGLU、RoPE（难度 4/5，45 分钟）。** 各写成一个能放进 `EncoderLayer` 的模块。参数和遍数都相同，哪一个能降低这里的 GPT 的损失？用三个种子（第 09c 课）。
#
#    <details><summary>答案</summary>
#
#    RMSNorm：`gain * x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()`。SwiGLU：`w_2(F.silu(w_1(x)) * w_3(x))`，$d_{ff}$ 取原来的三分之二，因为它有三个矩阵。RoPE：把查询和键的每一对分量旋转一个角度，角度是位置乘以频率；用“分数只取决于距离”这条断言来检验。
#
#    </details>
#
# ## 小结
#
# - 仅解码器和仅编码器的模型，用的是同样的层，只是掩码不同，问的问题不同。
# - GPT 在每个位置都问下一个词，BERT 问藏起来的词。损失和模型都一样。
# - 读损失时，拿算得出来的线作对照：uniform（均匀）、unigram（一元）、bigram（二元）。
# - 可能性最大的文本不是典型的文本：只要一个答案时用搜索，答案很多时用抽签。
# - 看得到两侧，填空就更准；先从纯文本里学过，少量的标注就能发挥更大的作用。
# - 凡是能写成序列的，都可以当作翻译来学，树也一样。打分看括号，并与一个词也不读的基线比较。
# - 注意力的公式至今未变；变的是位置、归一化、激活函数和尺寸。
#
# ## 延伸阅读
#
# - Radford, Narasimhan, Salimans, Sutskever 2018, *Improving Language Understanding by Generative Pre-Training*; Radford et al. 2019, *Language Models are Unsupervised Multitask Learners*.
# - Devlin, Chang, Lee, Toutanova 2018, *BERT*, arXiv 1810.04805; Wettig, Gao, Zhong, Chen 2022, *Should You Mask 15% in Masked Language Modeling?*, arXiv 2202.08005.
# - Raffel et al. 2019, *Exploring the Limits of Transfer Learning*（T5：比较各个家族和各种掩码）, arXiv 1910.10683。
# - Holtzman, Buys, Du, Forbes, Choi 2019, *The Curious Case of Neural Text Degeneration*, arXiv 1904.09751.
# - Vinyals et al. 2015, *Grammar as a Foreign Language*, arXiv 1412.7449; Black et al. 1991, *A Procedure for Quantitatively Comparing the Syntactic Coverage of English Grammars*, H91-1060.
# - Su et al. 2021（RoPE）, arXiv 2104.09864；Zhang and Sennrich 2019（RMSNorm）, arXiv 1910.07467；Shazeer 2020（门）, arXiv 2002.05202；Ainslie et al. 2023（共用的键）, arXiv 2305.13245；Grattafiori et al. 2024, *The Llama 3 Herd of Models*, arXiv 2407.21783。
#
# **作业。** 上面的练习；还有[考试](homework/exam/exam.ipynb)，如果你还没敢试的话。
#
# **下一课：** 论文本身，从头到尾：[导读](walkthrough.ipynb)；要是自己的模型出了毛病，去[诊所](11_clinic.ipynb)。

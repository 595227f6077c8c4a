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
# # 02 · 从序列到序列
#
# > 循环神经网络（recurrent neural network，RNN）怎样做翻译：编码器、解码器，以及最早的注意力（论文第 1 节和第 2 节）。
#
# **学完这一课，你能**
#
# - 说清什么是序列到序列问题，为什么要用一个网络读、另一个网络写；
# - 用教师强制训练一个翻译模型；再撤掉正确的前文，让它只接着自己写的词往下写，看看会出什么问题；
# - 用实验说明：只有一个向量的模型翻不好长句，训练时间加到四倍还是翻不好；
# - 给模型加上 Bahdanau（2014）和 Luong（2015）的注意力，再测一测它看的词对不对；
# - 说出有了注意力之后还剩下什么问题，论文的标题又许诺要解决什么。
#
# **先修：** 第 01 课（嵌入、GRU、网络怎样训练）。这一页在主线上，下一课是第 03 课。
#
# **时间：** 70 分钟；加上标有“选读”的部分，共 95 分钟。**论文：** 第 1 节和第 2 节。这两节加起来只有一页纸，却提到了六类网络，而且默认读者早就熟悉；这一课就来补上。
#
# **形状**写在代码后面的注释里。B 是一个批次（batch）里的句子数，S 是源句长度，T 是目标句长度，D 是 $d_{\mathrm{model}}$（这一页里每个向量的宽度），V 是词表（vocabulary）里的词数。

# %%
#| export
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# %% [markdown]
# 上面的单元格会写进库文件 `course/seq2seq.py`，凡是以 `#| export` 开头的单元格都是这样。下一个单元格只给这一页用。

# %%
import random
import time
from collections import Counter

import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from course.corpora import captions
from course.device import by_scale, pick
from course.homework import check, compare
from course.viz import seq2seq as draw

device = pick()
torch.backends.cudnn.allow_tf32 = False  # else NVIDIA GPUs round what they multiply to 10 bits

# %% [markdown]
# ## 1 · 什么是序列问题？
#
# 序列（sequence）是一列有次序的东西，长度不固定。许多问题都是给一个序列，求另一个序列：
#
# | 问题 | 输入 | 输出 | 典型长度：输入，输出 |
# |---|---|---|---|
# | 文本：翻译 | 一种语言的词 | 另一种语言的词 | 12 个词，13 个词 |
# | 语音：识别 | 声音，每秒 100 帧 | 词 | 1,000 帧，30 个词 |
# | 图像：写图片说明 | 16 x 16 像素的小块 | 词 | 196 个小块，12 个词 |
# | 金融：预测 | 每个交易日一个价格 | 下一周的价格 | 250 天，5 天 |
# | 交通：预测 | 每个传感器每 5 分钟计一次数 | 下一个小时的计数 | 每天 288 个，12 个 |
#
# 难在三个地方。
#
# 1. **长度不一。** 每个样本长短不同，输出也不和输入一样长。
# 2. **次序有意义。**“The dog chases the man”（狗追人）和“the man chases the dog”（人追狗）不是一回事。
# 3. **相关的词隔得远。** 输出的最后一个词，可能由输入的第一个词决定。德语就常把动词的一部分甚至整个动词放在分句末尾。
#
# 我们和论文一样，选表里的第一行。课程自带一个小语料库：德语和英语的图片说明。每对句子都带有**标准对齐**（gold alignment）：哪个词对应哪个词。网络看不到这些对齐；到第 7 节，我们要用它们来检查网络自己找到了什么。

# %%
longest = by_scale(smoke=8, cpu=26, gpu=26)  # a limit for quick tests; no caption has more than 26
train_pairs = [c for c in captions.load("train") if len(c.de_tokens) <= longest]
train_pairs = train_pairs[: by_scale(smoke=3200, cpu=8000, gpu=12000)]
val_pairs = captions.load("val")[: by_scale(smoke=240, cpu=300, gpu=500)]
shown = next(c for c in val_pairs if c.de == "Auf einem Zaun sitzt ein großer Vogel.")
linked = [(shown.de_tokens[i], shown.en_tokens[j]) for i, j in shown.alignment]
assert [en for de, en in linked if de == "sitzt"] == ["is", "sitting"]
assert "There" in shown.en_tokens and "There" not in [en for _, en in linked]
draw.links(shown.de_tokens, shown.en_tokens, shown.alignment,
           "Word by word will not do: the links cross")

# %% [markdown]
# 一条连线只要与别的连线交叉，就画成橙色；不与任何连线交叉，就画成蓝色虚线。德语的“sitzt”一个词，连着英语的“is”和“sitting”两个词。“There”不对应任何德语词。
#
# **先猜**：假如从左到右逐词翻译，第一个德语词译成第一个英语词，依此类推。有多少条图片说明的连线真有这么简单（第 $i$ 个词连第 $i$ 个词，此外没有别的连线）？

# %%
mine = None  # your guess: a share, 0 to 1

# %%
# NBVAL_CHECK_OUTPUT
everything = captions.load("val")
parallel = [c for c in everything if set(c.alignment) == {(i, i) for i in range(len(c.de_tokens))}]
crossed = [c for c in everything if draw.crossings(c.alignment)]
same_length = [c for c in everything if len(c.de_tokens) == len(c.en_tokens)]
assert len(parallel) < 0.15 * len(everything) and len(crossed) > 0.5 * len(everything)
print(f"of {len(everything)} captions: {len(parallel)} word by word, {len(crossed)} with crossing "
      f"links, {len(same_length)} of equal length")

# %%
compare(mine, len(parallel) / len(everything), "02: captions that go word by word")

# %% [markdown]
# ### 从词到数
#
# 网络只会算数，所以每个词都得有个编号，就是它在一张表里的位置。这张表叫**词表**。表的最前面四个位置留给四个特殊符号，它们都不是词：
#
# - `PAD`（0）把短句补齐，批次才能排成矩阵；
# - `BOS`（1）即“begin of sentence”（句子开始），解码器最先读到的就是这个符号；
# - `EOS`（2）即“end of sentence”（句子结束），解码器用它表示写完了；
# - `UNK`（3）即“unknown”（未知），训练数据里没有的词都用它代替。
#
# 语料库分成三份：训练集（train）用来学习，验证集（val）在搭建模型时用来检查，测试集（test）只用来算最后的分数。词表只根据**训练**句子来建。把测试句子也数进去，就等于偷看了答案。（第 06 课用更小的片段代替词，就不需要 `UNK` 了。）

# %%
PAD, BOS, EOS, UNK = range(4)


def vocabulary(sentences: list[tuple[str, ...]]) -> dict[str, int]:
    """Number the words, the frequent ones first; 0 to 3 are PAD, BOS, EOS, UNK."""
    counts = Counter(word.lower() for sentence in sentences for word in sentence)
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *[word for word, _ in counts.most_common()]]
    return {word: number for number, word in enumerate(words)}


def encode_words(words: tuple[str, ...], vocab: dict[str, int]) -> Tensor:
    return torch.tensor([*[vocab.get(word.lower(), UNK) for word in words], EOS])


german = vocabulary([c.de_tokens for c in train_pairs])
english = vocabulary([c.en_tokens for c in train_pairs])
english_words = list(english)  # from a number back to the word

example = encode_words(("Ein", "Hund", "schläft", "."), german)
assert example[-1] == EOS and encode_words(("Zyklotron",), german).tolist() == [UNK, EOS]
assert all(german[word] > UNK for word in ("ein", "hund", "."))
print(f"{len(german)} German words, {len(english)} English words; an example: {example.tolist()}")

# %% [markdown]
# 一个批次就是一个矩阵（每行一个句子）。给解码器的目标句有两个版本，互相错开一个位置：`tgt_in` 是它读的，`tgt_out` 是它要说的。读了 `BOS`，要说出第一个词；读了最后一个词，要说出 `EOS`。

# %%
Example = tuple[Tensor, Tensor]  # the numbers of a German and of an English sentence


def mask_of(src: Tensor) -> Tensor:
    return (src != PAD)[:, None, None, :]  # (B, 1, 1, S), True = a real word


def rectangle(examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad sentence pairs: src (B, S), tgt_in (B, T), tgt_out (B, T), on the device."""
    src = pad_sequence([src for src, _ in examples], batch_first=True, padding_value=PAD)
    tgt_out = pad_sequence([tgt for _, tgt in examples], batch_first=True, padding_value=PAD)
    begin = torch.full_like(tgt_out[:, :1], BOS)
    tgt_in = torch.cat([begin, tgt_out[:, :-1]], dim=1)
    return src.to(device), tgt_in.to(device), tgt_out.to(device)


def examples_of(pairs: list[captions.Caption]) -> list[Example]:
    return [(encode_words(c.de_tokens, german), encode_words(c.en_tokens, english)) for c in pairs]


train_set, val_set = examples_of(train_pairs), examples_of(val_pairs)
src, tgt_in, tgt_out = rectangle(sorted(val_set, key=lambda e: len(e[0]))[:: len(val_set) // 3])
assert (src[0] == PAD).any() and (src[-1] != PAD).all()  # the longest one needs no padding
assert torch.equal(tgt_in[:, 1:], tgt_out[:, :-1]) and (tgt_in[:, 0] == BOS).all()
print(tgt_in[0].tolist(), "is read,\n", tgt_out[0].tolist(), "must be said")

# %% [markdown]
# 这个句子没有最长的那句长，所以 `EOS`（2）后面都是填充（padding）：填充的位置上，解码器读什么、说什么都不算数（第 3 节会把这些位置排除在损失之外）。
#
# ## 2 · 一个网络读，另一个网络写
#
# 第 01 课的循环神经网络能翻译吗？它每读一个输入，当场给出一个输出。可是译文可能比原文长，也可能比原文短；译文的第一个词，也许要等读到源句的最后一个词才能定。所以必须先读完整个源句，才能写第一个词。这就是**编码器-解码器**（encoder-decoder）的想法（Kalchbrenner 和 Blunsom 2013，用卷积来读；Cho 等 2014 和 Sutskever 等 2014，两边都用循环神经网络）：
#
# 1. **编码器**（encoder）是一个循环神经网络，读完源句 $x_1, \ldots, x_S$，留下一些向量；
# 2. **解码器**（decoder）是另一个循环神经网络，从这些向量出发，一个词接一个词地写 $y_1, y_2, \ldots$，直到写出 `EOS`。每一步，它都读自己刚写的那个词。
#
# 一个词一个词地写，什么也没有丢：任何句子的概率都可以这样拆开。这就是概率的链式法则，不需要任何假设：
#
# $$p(y_1, \ldots, y_T \mid x) = \prod_{t=1}^{T} p(y_t \mid y_1, \ldots, y_{t-1},\, x) .$$
#
# 这样写句子的模型叫做**自回归**（auto-regressive）模型。论文的模型也是。

# %%
draw.machine(shown.de_tokens[:4], shown.en_tokens[:4], attention=False)

# %% [markdown]
# 两个网络都是门控循环单元（GRU）。第 01 课从头写过 GRU（第 12 节，选读），这里直接用 PyTorch 的，看一行公式就能想起来。GRU 由旧状态 $h_{t-1}$ 和输入 $x_t$ 得到新状态：
#
# $$h_t = \operatorname{GRU}(x_t, h_{t-1}) = (1 - z_t) \odot n_t + z_t \odot h_{t-1} .$$
#
# 对每个分量，门 $z_t$（由 sigmoid 得到）决定旧状态留下多少，新的候选 $n_t$（由 $\tanh$ 得到）采用多少。门和候选都由 $x_t$ 和 $h_{t-1}$ 算出。
#
# ### 尺寸
#
# 定下这几项，整个模型就定了。`attention` 有三个取值，就是这一页要比较的三个模型；第一个是不带注意力的编码器-解码器。`dropout`（暂退法）规定把多大比例的数随机置零，只在训练时用：这样，网络就不能依赖其中任何一个数。

# %%
#| export
@dataclass(frozen=True)
class Seq2SeqConfig:
    """The sizes and choices that make one RNNTranslator.

    d_model: the width of embeddings, memory and states; attention: how the decoder looks at the
    memory. Raises ValueError for a value that cannot be.
    """

    src_vocab: int
    tgt_vocab: int
    d_model: int = 256
    attention: Literal["none", "additive", "dot"] = "additive"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("src_vocab", "tgt_vocab", "d_model"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        if self.d_model % 2:
            raise ValueError(
                f"d_model={self.d_model} is odd: the encoder reads in two directions, and each "
                "fills half of a vector. Choose an even number"
            )
        if self.attention not in ("none", "additive", "dot"):
            raise ValueError(
                f"attention={self.attention!r} is unknown: choose none, additive or dot"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is in [0, 1), not {self.dropout}")


# %% [markdown]
# ### 编码器
#
# 从左往右读的 GRU，读到一个词时只知道它前面有什么。再加一个从右往左读的，把两个状态拼在一起，位置 $j$ 的向量就既知道这个词，也知道它左右两边有什么（**双向**网络，bidirectional）：
#
# $$\overrightarrow{h}_j = \operatorname{GRU}(x_j, \overrightarrow{h}_{j-1}) , \qquad
# \overleftarrow{h}_j = \operatorname{GRU}(x_j, \overleftarrow{h}_{j+1}) , \qquad
# h_j = [\, \overrightarrow{h}_j \,;\, \overleftarrow{h}_j \,] .$$
#
# 每个方向有 $D/2$ 个分量，所以 $h_j$ 有 $D$ 个。所有这些向量合起来叫做**记忆**（memory），形状是 (B, S, D)。论文也用这个名字称呼编码器的输出。
#
# 填充在这里是个陷阱。GRU 如果接着读五个 `PAD`，状态就会变五次；从右往左读的那个更糟，一上来读的就是 `PAD`。于是同一个短句，换一个批次，译文就不同了。`pack_padded_sequence` 告诉 PyTorch 每个句子到哪里结束，填充就永远不会读到。要知道结尾在哪里，就需要**掩码**（mask）：是真正的词就为 True。第 04 课专门讲掩码。它在这里的形状是 (B, 1, 1, S)，以后各课都一样；为什么要两个长度为 1 的轴，到时候你会明白。

# %%
#| export
def lengths_of(mask: Tensor) -> Tensor:
    """Count the real words of each sentence: mask (B, 1, 1, S), True = a real word -> (B,).

    Raises ValueError for a sentence without a word, or with padding before a word.
    """
    mask = mask.flatten(1)  # (B, S)
    lengths = mask.sum(dim=1)
    places = torch.arange(mask.size(1), device=mask.device)
    if not torch.equal(mask, places < lengths[:, None]):
        raise ValueError("the mask has padding before a real word: pad on the right")
    if not lengths.all():
        raise ValueError("a source sentence has no word: leave empty sentences out of the batch")
    return lengths


# %% [markdown]
# 从这里起，梯度交给 PyTorch 算。继承 `nn.Module` 的类，在 `__init__` 里声明自己有哪些部件，在 `forward` 里说明输入怎样经过它们；`model(x)` 会调用 `forward`，`model.parameters()` 会列出里面的全部权重。

# %%
#| export
class RNNEncoder(nn.Module):
    """Read sentences in both directions: word vectors (B, S, D), lengths (B,) -> (B, S, D).

    The first D/2 components come from the left, the others from the right; zero at padding.
    Bahdanau et al. 2014, section 3.2.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gru = nn.GRU(d_model, d_model // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        memory, _ = self.gru(packed)
        return pad_packed_sequence(memory, batch_first=True, total_length=x.size(1))[0]


# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 编码器不管填充会怎样 · 选读
#
# 想亲眼看看这个陷阱，就读这一节：同一个句子，带着填充读一遍，不带填充再读一遍。

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
encoder = RNNEncoder(8)
x = torch.randn(1, 6, 8)  # a sentence of three words, and three words of rubbish
alone = encoder(x[:, :3], torch.tensor([3]))
padded = encoder(x, torch.tensor([3]))
careless, _ = encoder.gru(x)  # reads on to the end of the padding
assert torch.allclose(alone, padded[:, :3]) and not padded[:, 3:].any()
assert not torch.allclose(alone[..., 4:], careless[:, :3, 4:], atol=0.01)
assert torch.allclose(alone[..., :4], careless[:, :3, :4])  # from the left: not yet reached
print("packed: padding changes nothing. Careless: the half that reads from the right is spoiled")

# %% [markdown]
# ### 一个向量装下整个句子
#
# 最早的编码器-解码器只保留编码器的“最后一个”状态：读完最后一个词，网络就读过了整个句子。双向时有两个“最后的状态”：从左往右读的停在最后一个真正的词，从右往左读的停在第一个词。两者拼在一起就是 $c$，一个有 $D$ 个数的向量。不管句子有 4 个词还是 26 个词，都是 $D$ 个数。

# %%
#| export
def fixed_vector(memory: Tensor, mask: Tensor) -> Tensor:
    """Return the last state of both directions: memory (B, S, D), mask (B, 1, 1, S) -> (B, D)."""
    from_left, from_right = memory.chunk(2, dim=-1)  # (B, S, D/2) each
    rows = torch.arange(len(memory), device=memory.device)
    last = lengths_of(mask) - 1  # (B,)
    return torch.cat([from_left[rows, last], from_right[:, 0]], dim=-1)


# %%
check("bottleneck_what")

# %% [markdown]
# ### 解码器
#
# 解码器是一个沿目标句运行的 GRU。它的初始状态由 $c$ 算出；为了不让它吃亏，还允许它每一步都再看一眼 $c$，不必一路记着（Cho 等 2014）：
#
# $$s_t = \operatorname{GRU}\big([\, y_{t-1} \,;\, c \,],\; s_{t-1}\big) , \qquad
# \tilde s_t = \tanh\big(W_s\, [\, s_t \,;\, c \,]\big) , \qquad
# p(y_t) = \operatorname{softmax}(W_v\, \tilde s_t) .$$
#
# （公式里的 $y_{t-1}$ 是前一个词的向量，即它的嵌入。）初始状态是 $s_0 = \tanh(W_0\, c)$。向量 $\tilde s_t$ 来自另外一层，这一层把状态和上下文合在一起。$y$、$c$、$s$ 和 $\tilde s$ 都有 $D$ 个分量，所以 $W_0$ 是 $D \times D$，$W_s$ 是 $D \times 2D$，$W_v$ 是 $V \times D$。三者各自还要加一个偏置，公式里省略了。
#
# $W_v\, \tilde s_t$ 里，$V$ 个词各有一个分数。这样的分数叫做 **logit**。**softmax** 把任意分数 $z$ 变成概率，个个为正，总和为 1：
#
# $$\operatorname{softmax}(z)_k = \frac{\exp(z_k)}{\sum_i \exp(z_i)} .$$
#
# 公式里与状态并排的那个向量，叫做**上下文**（context）。在这里，上下文每一步都相同；到第 5 节和第 6 节，它会随 $t$ 改变。三种解码器形式一样：输入是目标句的词向量、初始状态和记忆，返回状态、上下文和注意力权重。现在这一种还没有注意力权重。

# %%
#| export
Decoded = tuple[Tensor, Tensor, Tensor | None]  # states (B, T, D), contexts (B, T, D), weights


class FixedDecoder(nn.Module):
    """Write from one vector of the source, the same at every step. Cho et al. 2014.

    Called (y (B, T, D), start (B, D), memory (B, S, D), mask (B, 1, 1, S)), y the vectors of the
    words read so far -> states (B, T, D), contexts (B, T, D), None.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gru = nn.GRU(2 * d_model, d_model, batch_first=True)

    def forward(self, y: Tensor, start: Tensor, memory: Tensor, mask: Tensor) -> Decoded:
        fixed = fixed_vector(memory, mask)[:, None]  # (B, 1, D)
        contexts = fixed.expand(-1, y.size(1), -1)  # (B, T, D)
        states, _ = self.gru(torch.cat([y, contexts], dim=-1), start[None])
        return states, contexts, None


# %% [markdown]
# 现在把整个翻译模型拼起来：两张词向量表、一个编码器、三种解码器中的一种，再加上面公式里的最后两个矩阵。`encode`、`decode` 和 `project` 是翻译的三步。第 05 课的 Transformer 也是这三步，参数也一样，所以第 07 到 09 课能在同等条件下训练和比较两者。（`tgt_mask` 是为 Transformer 准备的：循环神经网络看不到未来，用不着它。）

# %%
#| export
DECODERS: dict[str, type[nn.Module]] = {"none": FixedDecoder}


class RNNTranslator(nn.Module):
    """An encoder-decoder of GRUs: src (B, S), tgt_in (B, T), masks -> logits (B, T, V).

    `encode`, `decode` and `project` are its three steps. src_mask (B, 1, 1, S) is boolean, True =
    a real word, with all padding on the right; without it, every word is real. tgt_mask is
    accepted and not needed: a recurrent network cannot see the future. Bahdanau et al. 2014.
    """

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        d_model = config.d_model
        self.src_embedding = nn.Embedding(config.src_vocab, d_model)
        self.tgt_embedding = nn.Embedding(config.tgt_vocab, d_model)
        self.encoder = RNNEncoder(d_model)
        self.w_start = nn.Linear(d_model, d_model)
        self.decoder = DECODERS[config.attention](d_model)
        self.w_state = nn.Linear(2 * d_model, d_model)
        self.w_vocab = nn.Linear(d_model, config.tgt_vocab)
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """Read the source once: (B, S) -> memory (B, S, D)."""
        mask = all_real(src) if src_mask is None else src_mask
        return self.encoder(self.dropout(self.src_embedding(src)), lengths_of(mask))

    def run(self, tgt_in: Tensor, memory: Tensor, src_mask: Tensor | None = None) -> Decoded:
        """Run the decoder over (B, T): states and contexts (B, T, D), weights (B, T, S) or None."""
        mask = all_real(memory[..., 0]) if src_mask is None else src_mask
        start = torch.tanh(self.w_start(fixed_vector(memory, mask)))  # (B, D)
        return self.decoder(self.dropout(self.tgt_embedding(tgt_in)), start, memory, mask)

    def decode(
        self,
        tgt_in: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        """Read what is written so far and the memory: (B, T) -> states (B, T, D)."""
        states, contexts, _ = self.run(tgt_in, memory, src_mask)
        return self.dropout(torch.tanh(self.w_state(torch.cat([states, contexts], dim=-1))))

    def project(self, states: Tensor) -> Tensor:
        """Score every word of the vocabulary: (..., D) -> logits (..., V)."""
        return self.w_vocab(states)

    def forward(
        self,
        src: Tensor,
        tgt_in: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        memory = self.encode(src, src_mask)
        return self.project(self.decode(tgt_in, memory, src_mask, tgt_mask))

    def attend(self, src: Tensor, tgt_in: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """Return where each output word looks: (B, T, S), every row sums to one.

        Row t belongs to the word that follows tgt_in[:, t]. Raises ValueError for attention="none".
        """
        _, _, weights = self.run(tgt_in, self.encode(src, src_mask), src_mask)
        if weights is None:
            raise ValueError('attention="none" has no weights: choose additive or dot')
        return weights


def all_real(words: Tensor) -> Tensor:
    """Return the mask of sentences without padding: (B, S) -> (B, 1, 1, S), all True."""
    return torch.ones_like(words, dtype=torch.bool)[:, None, None, :]


# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 训练之前先查两件事 · 选读
#
# 填充不能改变任何结果；一个词的分数不能取决于后面的词。我们改掉解码器读到的最后一个词，看哪些分数会变。

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
toy = RNNTranslator(Seq2SeqConfig(20, 30, d_model=16, attention="none", dropout=0.0))
toy_src, toy_in = torch.randint(4, 20, (2, 7)), torch.randint(4, 30, (2, 5))
logits = toy(toy_src, toy_in)
wider = F.pad(toy_src, (0, 4), value=PAD)
assert torch.allclose(toy(wider, toy_in, mask_of(wider)), logits, atol=1e-6)

other = toy_in.clone()
other[:, -1] = 3
moved = (toy(toy_src, other) - logits).abs().amax(dim=(0, 2)) > 0  # (T,)
assert moved.tolist() == [False] * 4 + [True]
print("logits:", tuple(logits.shape), "· padding changes nothing · the future changes nothing")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 后面的课对模型有什么要求 · 选读
#
# 想自己写一个模型，就读这一节：训练、搜索和评测要用到模型的哪些部件，都列在一个类型里。

# %% [markdown]
# 第 07 到 09 课的函数既适用于这个翻译模型，也适用于 Transformer，你自己写的也可以。要求都写在一个**协议**（protocol）里：一个类只要有这些部件就行，不必继承什么。（`...` 在 Python 里表示“这里什么都不用做”：协议只说明必须有什么。）

# %%
#| export
@runtime_checkable
class Translator(Protocol):
    """What lessons 07 to 09 use of a model; a class that has these parts need not inherit them.

    src (B, S), tgt_in (B, T); masks are boolean, True = may be seen: src_mask (B, 1, 1, S),
    tgt_mask (1, 1, T, T). `RNNTranslator` has them, and the Transformer of lesson 05.
    """

    config: Any  # a frozen dataclass of the sizes, one of them d_model
    training: bool  # True: dropout is on

    def encode(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """Read the source once: (B, S) -> memory (B, S, D)."""
        ...

    def decode(
        self,
        tgt_in: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        """Read what is written so far and the memory: (B, T) -> states (B, T, D)."""
        ...

    def project(self, states: Tensor) -> Tensor:
        """Score every word of the vocabulary: (..., D) -> logits (..., V)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def train(self, mode: bool = True) -> Self: ...

    def eval(self) -> Self: ...


# %%
# NBVAL_CHECK_OUTPUT
assert isinstance(toy, Translator) and not isinstance(toy.encoder, Translator)
print("an RNNTranslator is a Translator; its encoder alone is none")

# %% [markdown]
# ## 3 · 教师强制：前面的词都给对的
#
# 怎么训练它？对目标句的每个词，模型给词表里的每个词一个概率。损失是**交叉熵**（cross-entropy）：取正确词的 $-\ln p$，再对所有的词取平均。模型如果什么都不知道，给 $V$ 个词的概率就各是 $1/V$，损失是 $\ln V$（用的是自然对数，单位叫**奈特**，nat）。
#
# 可是训练的时候，解码器读什么？翻译时，它读自己写的词。如果一开始就这样，它读到的全是胡话，学会的也是怎么接着说胡话。所以训练时，不管它自己会怎么说，我们给它的前文都是**正确的**词。这叫做**教师强制**（teacher forcing，Williams 和 Zipser 1989）。它还有一个好处：所有输入事先都知道，全部 $T$ 个词的损失，调用一次就能算出来。
#
# 训练循环和第 01 课一样，不同的是：反向传播交给自动求导（`loss.backward()`），每一步只看一个批次的句子，更新交给 Adam：它也是梯度下降，但每个权重有自己的步长。`backward()` 会把新的梯度“加”到 `.grad` 里原有的梯度上（汇合的梯度要相加），所以必须先用 `zero_grad()` 清掉旧的。长度相近的句子放进同一个批次，填充就少；学习率沿直线降到零。这里没讲的，第 07 课会讲。

# %%
def batches_of(examples: list[Example], batch: int, seed: int) -> list[list[Example]]:
    """Cut the examples into batches of similar length, in random order."""
    dice = random.Random(seed)
    ordered = sorted(examples, key=lambda e: (len(e[1]) + len(e[0]), dice.random()))
    batches = [ordered[i : i + batch] for i in range(0, len(ordered), batch)]
    dice.shuffle(batches)
    return batches


def loss_of(model: RNNTranslator, examples: list[Example]) -> Tensor:
    """Return the mean cross-entropy of a target word, in nats, with teacher forcing."""
    src, tgt_in, tgt_out = rectangle(examples)
    states = model.decode(tgt_in, model.encode(src, mask_of(src)), mask_of(src))  # (B, T, D)
    real = tgt_out != PAD  # padding is neither scored nor learned
    return F.cross_entropy(model.project(states[real]), tgt_out[real])  # softmax and logarithm are inside


# %%
EPOCHS = by_scale(smoke=3, cpu=3, gpu=4)


def train(attention: str, epochs: int = EPOCHS) -> RNNTranslator:
    """Train a new translator on the captions, always with the same seed."""
    torch.manual_seed(0)
    config = Seq2SeqConfig(len(german), len(english), by_scale(smoke=96, cpu=96, gpu=128), attention)
    model = RNNTranslator(config).to(device)
    size = by_scale(smoke=32, cpu=64, gpu=64)  # sentences in a batch
    steps = [batch for epoch in range(epochs) for batch in batches_of(train_set, size, epoch)]
    adam = torch.optim.Adam(model.parameters(), lr=by_scale(smoke=0.02, cpu=0.01, gpu=0.01))
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / len(steps))
    for batch in steps:
        adam.zero_grad()
        loss_of(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # no step may be too large
        adam.step()
        decay.step()
    return model.eval()  # training is over: dropout off


# %%
started = time.perf_counter()
models = {"none": train("none")}
with torch.no_grad():
    losses = {"none": loss_of(models["none"], val_set).item()}
knows_nothing = torch.tensor(float(len(english))).log().item()
assert losses["none"] < 0.5 * knows_nothing
print(f"loss on unseen captions: {losses['none']:.2f} nats a word; a model that knows nothing has "
      f"ln V = {knows_nothing:.2f}; {time.perf_counter() - started:.0f} s")

# %%
check("teacher_forcing")

# %% [markdown]
# ### 用一个数衡量质量
#
# 损失说明的是：前文都正确时，模型做得怎样。那么整个句子写得好不好，怎么衡量？把一个句子变成另一个，最少要插入、删除或替换多少个词，叫做这两个句子的**编辑距离**（edit distance，Levenshtein 1966）。算法是一行一行地填表。设 $d_{i,j}$ 是一句的前 $i$ 个词与另一句的前 $j$ 个词之间的距离，那么最后一步只有三种可能：
#
# $$d_{i,j} = \min\big( d_{i-1,j} + 1,\;\; d_{i,j-1} + 1,\;\; d_{i-1,j-1} + [a_i \ne b_j] \big) ,
# \qquad d_{i,0} = i , \quad d_{0,j} = j .$$
#
# 我们的**词准确率**（word accuracy），是 1 减去距离与较长句长度之比：句子相同，得 1；没有一个词能保留，得 0。（这个领域通用的是 BLEU，第 08 课会实现它。）

# %%
#| export
def edit_distance(a: Sequence, b: Sequence) -> int:
    """Count the words to insert, delete or replace to turn a into b. Levenshtein 1966."""
    row = list(range(len(b) + 1))  # distances between no word of a and the first j of b
    for i, word in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def word_accuracy(written: Sequence, reference: Sequence) -> float:
    """Return 1 minus the edit distance over the longer length: from 0, nothing alike, to 1."""
    return 1 - edit_distance(written, reference) / max(len(written), len(reference), 1)


# %%
# NBVAL_CHECK_OUTPUT
reference = ["a", "dog", "sleeps", "on", "the", "sofa"]
for attempt in ("a dog sleeps on the sofa", "a small dog sleeps on the sofa", "the dog sleeps",
                "six cats"):
    print(f"{word_accuracy(attempt.split(), reference):.2f}  {attempt}")
assert edit_distance("kitten", "sitting") == 3 == edit_distance("sitting", "kitten")
assert word_accuracy(reference, reference) == 1 and word_accuracy(["six", "cats"], reference) == 0

# %% [markdown]
# ### 没有教师：接着自己的词往下写
#
# 现在教师走开。解码器从 `BOS` 开始，取自己认为概率最大的词，读进去，再往下写，直到说出 `EOS`。总是取概率最大的词，叫做**贪心搜索**（greedy search）；第 08 课会介绍更好的搜索方法。（`write` 的代码简短，但运行不快：每写一个新词，前面的词都要重读一遍，32 个词就要 1 + 2 + ... + 32 = 528 步，其实 32 步就够了。第 08b 课会把读过的内容存起来。）

# %%
@torch.no_grad()
def write(model: RNNTranslator, src: Tensor, max_len: int = 32) -> Tensor:
    """Translate without a teacher: src (B, S) -> words (B, T), each row up to its EOS, then PAD."""
    memory = model.encode(src, mask_of(src))
    words = torch.full_like(src[:, :1], BOS)
    ended = torch.zeros_like(words, dtype=torch.bool)
    while not ended.all() and words.size(1) <= max_len:
        states = model.decode(words, memory, mask_of(src))  # (B, t, D)
        best = model.project(states[:, -1:]).argmax(dim=-1)  # (B, 1)
        words = torch.cat([words, best.masked_fill(ended, PAD)], dim=1)
        ended |= best == EOS
    return words[:, 1:]


def text_of(numbers: Tensor) -> str:
    return " ".join(english_words[n] for n in numbers.tolist() if n not in (PAD, EOS))


src, tgt_in, tgt_out = rectangle(val_set)
with torch.no_grad():
    forced = models["none"](src, tgt_in, mask_of(src)).argmax(dim=-1)  # (B, T) after the RIGHT words
free = F.pad(write(models["none"], src), (0, tgt_out.size(1)))[:, : tgt_out.size(1)]
wrong = (forced != tgt_out) & (tgt_out != PAD)  # (B, T)
first = torch.where(wrong.any(dim=1), wrong.int().argmax(dim=1), -1).tolist()  # the first mistake
rows = [i for i, t in enumerate(first) if t >= 0]
same = [torch.equal(free[i, : first[i] + 1], forced[i, : first[i] + 1]) for i in rows]
assert sum(same) > 0.99 * len(same)  # but for a tie, decided by the last digit
one = max(rows, key=lambda i: (free[i] != tgt_out[i]).sum() - wrong[i].sum())
for name, row in (("right", tgt_out), ("forced", forced.masked_fill(tgt_out == PAD, PAD)), ("free", free)):
    print(f"{name:7}", text_of(row[one]))

# %% [markdown]
# （打印出来的，是所有句子里两种解码器差别最大的一句。）到第一个错误为止，教师强制下的解码器和自由的解码器读的词相同，所以说的也一样；单元格里的断言已经检查过这一点。再往后，两者就分道扬镳：教师强制下的不管自己写了什么，读的都是正确的词；自由的读自己写的词。
#
# 训练时，解码器只**接触**过（exposed）正确的词；犯了一个错，它就落入一个从没到过的状态。这叫做**暴露偏差**（exposure bias，Ranzato 等 2015）。对策有：训练时让解码器有时也读自己的词（scheduled sampling，Bengio 等 2015）；用束搜索（第 08 课）；或者少犯错。Transformer 也用教师强制训练。

# %%
check("exposure_bias")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 一个错误的代价 · 选读
#
# 如果想用一个数来衡量暴露偏差，还想弄清这个数里有多少只是计数方法造成的，就读这一节。

# %% [markdown]
# **先猜**：看每个句子的第一个错误。在它后面的词里，教师强制下的解码器能说对多少？自由的呢？

# %%
mine = None  # your guess: the free decoder's share of right words, place by place, 0 to 1

# %% [markdown]
# 再加上第三个解码器一起比较。它只读**一个**错词，就是它自己犯的第一个错，之后读的都是正确的词。这样就能看出，单单一个错词会有什么影响。
#
# 句子剩下的部分，我们用两种方法计数。**按位置**：第三个词必须就是参考译文的第三个词。这对自由的解码器很苛刻：它把“a dog”说成“a small dog”，后面的词就全都右移一位，全算错。**词准确率**则不计较这种移位。

# %%
spoiled_in = tgt_in.clone()
for i in rows:
    if first[i] + 1 < tgt_in.size(1):
        spoiled_in[i, first[i] + 1] = forced[i, first[i]]  # read your own mistake, once
with torch.no_grad():
    spoiled = models["none"](src, spoiled_in, mask_of(src)).argmax(dim=-1)


def by_place(said: Tensor, distance: int) -> float:
    """Of all words `distance` after the first mistake, the share that is right."""
    places = [(i, first[i] + distance) for i in rows if first[i] + distance < tgt_out.size(1)]
    real = [(i, t) for i, t in places if tgt_out[i, t] != PAD]
    return sum(bool(said[i, t] == tgt_out[i, t]) for i, t in real) / len(real)


def of_the_rest(said: Tensor) -> tuple[float, float]:
    """Return how much of what follows the first mistake is right: by place, and shifts forgiven."""
    both = [[text[i, first[i] + 1 :].tolist() for text in (said, tgt_out)] for i in rows]
    both = [(ours, right) for ours, right in both if any(word > EOS for word in right)]
    place = [sum(a == b for a, b in zip(*pair) if b > EOS) / sum(b > EOS for b in pair[1])
             for pair in both]
    shifted = [word_accuracy(*([n for n in text if n > EOS] for text in pair)) for pair in both]
    return sum(place) / len(both), sum(shifted) / len(both)


reach = 6
decoders = {"right words (teacher forcing)": forced, "one own mistake, then right words": spoiled,
            "only own words (free running)": free}
after = {name: [by_place(said, d) for d in range(1, reach + 1)] for name, said in decoders.items()}
behind = tgt_out == PAD  # where nobody is asked
rest = {name: of_the_rest(said if said is free else said.masked_fill(behind, PAD))
        for name, said in decoders.items()}
draw.after_a_mistake(after, rest)

# %%
lost, lost_free = ([a - b for a, b in zip(after["right words (teacher forcing)"], after[name])]
                   for name in list(after)[1:])
assert lost[0] > 0.1 and lost[-1] < lost[0] / 2  # one mistake hurts at once, and heals
assert min(lost_free) > 0.1  # on its own words it does not heal
gaps = {}
for way, shares in zip(("by place", "forgiving shifts"), zip(*rest.values())):
    by_forced, by_spoiled, by_free = shares
    gaps[way] = by_forced - by_free
    assert by_free < by_spoiled < by_forced
    print(f"{way:16} after right words {by_forced:.0%}, after one mistake {by_spoiled:.0%}, "
          f"on its own words {by_free:.0%}")
assert 0.05 < gaps["forgiving shifts"] < 0.8 * gaps["by place"]
print(f"of the gap, {1 - gaps['forgiving shifts'] / gaps['by place']:.0%} is our way of counting")

# %%
compare(mine, rest["only own words (free running)"][0], "02: right words after a mistake")

# %% [markdown]
# 一个错词，对紧接着的那一步影响最大；只要后面读到的词都正确，影响就慢慢消退。自由的解码器一直读自己写的词，就一直落后。不过这个差距有一大部分来自计数方法：不计较移位，差距就小得多，但还不是零。（还有一点这样测不出来：用了一个恰当的同义词之后，参考译文的下一个词可能就不再正确了。）
#
# > **试一试。** 在 `spoiled_in` 里，不放解码器自己的错词，改放一个“随机”的词。影响更大还是更小？为什么？
#
# <details><summary>答案</summary>
#
# 影响几乎没有变大。用三个种子训练，每个种子各抽十次随机词：放随机词，下一个词说对的句子占 26 到 28%（十次的平均）；放自己的错词，占 28 到 29%。把句子剩下的部分合起来看，放随机词说对 64 到 66%，放自己的错词说对 65 到 68%。如果只抽一次，23 到 34% 之间的结果都有可能，所以这么小的差别也许只是偶然。按理说，自己的错词影响应该小些，因为这个词多半放在那里也说得通；可是在这里，即使有这种差别，也小得很。
#
# </details>

# %% [markdown]
# ## 4 · 瓶颈：质量与句长
#
# 不管什么句子，固定的向量都只有 $D$ 个数。**先猜**：受影响的是短句、长句，还是所有句子？如果训练时间加到四倍，谁会受益？

# %%
mine = None  # your guess, after the longer training it is a problem for: "short", "long" or "all"

# %% [markdown]
# 我们让模型翻译从没见过的图片说明，按德语句子的长度排序，从最短到最长分成四等份。

# %%
def accuracies(model: RNNTranslator, examples: list[Example]) -> list[float]:
    """Translate freely; return the word accuracy of each sentence."""
    src, _, tgt_out = rectangle(examples)
    both = zip(write(model, src).tolist(), tgt_out.tolist())
    return [word_accuracy(*([n for n in row if n > EOS] for row in pair)) for pair in both]


def quarters(values: list[float]) -> list[float]:
    """Return the mean of each quarter."""
    cuts = [round(len(values) * q / 4) for q in range(5)]
    return [sum(values[a:b]) / (b - a) for a, b in zip(cuts, cuts[1:])]


by_length = sorted(val_set, key=lambda e: len(e[0]))
mean_length = quarters([len(src) - 1 for src, _ in by_length])  # words of the source, EOS left out
longer = by_scale(smoke=1, cpu=4, gpu=4)  # times as many epochs
models["none, longer"] = train("none", longer * EPOCHS)
quality = {kind: quarters(accuracies(model, by_length)) for kind, model in models.items()}
draw.quality_over_length(mean_length, quality, "One vector for all: more training helps, the end stays low")

# %%
for kind, row in quality.items():
    assert row[0] > row[-1] + 0.02
    print(f"{kind:13} word accuracy by quarter", [f"{share:.0%}" for share in row])
if longest > 8:  # not at the smallest scale, which learns from short captions only
    short, *_, long = quality["none, longer"]
    assert short > 0.9 and long < short - 0.15

# %%
ends = quality["none, longer"]
compare(mine, "long" if ends[-1] < ends[0] - 0.15 else "all", "02: whom the fixed vector hurts")

# %% [markdown]
# （这些比例都很高，因为这些图片说明是由一套小语法生成的。真实的图片说明更难，见第 09 课。）训练时间加到四倍，短句几乎全对。长句也有进步，但差距仍然很大；这类模型刚出现时，Cho 等（2014b）看到的也是这样。
#
# 是不是该怪那个向量太窄，装不下长句？人们把它叫做这类模型的**瓶颈**（bottleneck）。但光凭这张图还不能断定：不管什么模型，句子长，出错的机会本来就多。如果真要怪向量，那么摆脱了它的模型，就该在长句上进步最大。第 6 节见分晓。（也可以把向量加宽，Sutskever 等用了 8,000 个数。可是句子总能更长。）
#
# 人翻译长句子，不会读一遍就合上书，全凭记忆来写。译者会回头再看。

# %%
check("bottleneck_control")

# %% [markdown]
# ## 5 · 加性注意力：回头看（Bahdanau 2014）
#
# 记忆里每个源词有一个向量，而用固定向量的解码器只用了其中两个，还各取一半，其余全扔了。不如让解码器自己选，每一步需要哪些就取哪些。选要选得“软”，所以取加权平均。这就是第 $t$ 步的上下文：
#
# $$c_t = \sum_{j=1}^{S} \alpha_{t,j}\, h_j , \qquad
# \alpha_{t,j} = \frac{\exp(e_{t,j})}{\sum_{i=1}^{S} \exp(e_{t,i})} .$$
#
# 权重 $\alpha_{t,j}$ 都是正数，总和为一：又用到 softmax，只是这次是在源句的各个词上算。（这些**注意力权重**不是第 01 课那种学出来的权重，而是每个句子当场算的；学出来的是下面的 $W_q$、$W_k$、$v$ 和 $b$。）**分数** $e_{t,j}$ 表示源词 $j$ 有多符合解码器此刻的需要。解码器需要什么，写在它的状态 $s_{t-1}$ 里；这个词能提供什么，写在 $h_j$ 里。Bahdanau、Cho 和 Bengio 用一个小网络来比较两者：
#
# $$e_{t,j} = v^{T} \tanh\left( W_q\, s_{t-1} + W_k\, h_j + b \right) .$$
#
# $W_q$ 和 $W_k$ 是 $D \times D$，$v$ 和 $b$ 有 $D$ 个分量，四个都是学出来的。之所以叫**加性**（additive），是因为公式里把状态的一项与源词的一项相加。每一部分都可以求导。没有人告诉网络该看哪里，它只靠下一个词的损失就学会了。

# %%
draw.machine(shown.de_tokens[:4], shown.en_tokens[:4], attention=True)

# %% [markdown]
# 到第 03 课，提问的状态叫做**查询**（query），与它比较的向量叫做**键**（key）。我们现在就用这两个名字，以及字母 q 和 k。注意一个细节：$W_k h_j$ 与 $t$ 无关，所以每个句子只算一次，不必每个词都算。
#
# 填充的位置不能得到权重。把它的分数设为 $-\infty$，而 $\exp(-\infty) = 0$。

# %%
#| export
def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Make weights of scores (B, T, S); where mask (B, 1, 1, S) is False, the weight is 0."""
    return scores.masked_fill(~mask[:, 0], float("-inf")).softmax(dim=-1)


class AdditiveAttention(nn.Module):
    """Score by a small network, v^T tanh(W_q query + W_k key + b). Bahdanau et al. 2014.

    Called (query (B, T, D), keys (B, S, D), mask (B, 1, 1, S)), the keys already multiplied by
    `w_k` -> weights (B, T, S).
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.w_q = nn.Linear(d_model, d_model, bias=False)
        self.w_k = nn.Linear(d_model, d_model)
        self.v = nn.Linear(d_model, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        mixed = torch.tanh(self.w_q(query)[:, :, None] + keys[:, None])  # (B, T, S, D)
        return masked_softmax(self.v(mixed).squeeze(-1), mask)  # (B, T, S)


# %% [markdown]
# 下面是用上这种注意力的解码器：每一步先看，再往前走。
#
# $$s_t = \operatorname{GRU}\big([\, y_{t-1} \,;\, c_t \,],\; s_{t-1}\big) , \qquad
# \tilde s_t = \tanh\big(W_s\, [\, s_t \,;\, c_t \,]\big) .$$
#
# 与第 2 节比较：$c$ 变成了 $c_t$，别的都没变。可是第 $t$ 步看哪里取决于 $s_{t-1}$，而 $s_{t-1}$ 又取决于上一步看了哪里。所以这里连训练也要用循环。

# %%
#| export
class AdditiveDecoder(nn.Module):
    """Look at the memory before each step. Called as FixedDecoder -> weights (B, T, S), too.

    Bahdanau et al. 2014, section 3.1.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.attention = AdditiveAttention(d_model)
        self.cell = nn.GRUCell(2 * d_model, d_model)

    def forward(self, y: Tensor, start: Tensor, memory: Tensor, mask: Tensor) -> Decoded:
        keys, state, steps = self.attention.w_k(memory), start, []
        for y_t in y.unbind(dim=1):  # (B, D)
            weights = self.attention(state[:, None], keys, mask)  # (B, 1, S)
            context = (weights @ memory).squeeze(1)  # (B, D)
            state = self.cell(torch.cat([y_t, context], dim=-1), state)
            steps.append((state, context, weights.squeeze(1)))
        states, contexts, weights = (torch.stack(parts, dim=1) for parts in zip(*steps))
        return states, contexts, weights


DECODERS["additive"] = AdditiveDecoder

# %%
check("bottleneck_attention")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 代码与公式对照 · 选读
#
# 不放心的话，就读这一节：用普通循环写一个慢版本，逐个数比较。

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(1)
attention = AdditiveAttention(6).double()
query, memory = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 6).double()
real = torch.tensor([[True, True, True, True], [True, True, False, False]])[:, None, None]
weights = attention(query, attention.w_k(memory), real)  # (B, T, S)
for b in range(2):
    for t in range(3):
        scores = [attention.v(torch.tanh(attention.w_q(query[b, t]) + attention.w_k(memory[b, j])))
                  for j in range(4) if real[b, 0, 0, j]]
        total = sum(score.exp() for score in scores)
        for j, score in enumerate(scores):
            assert torch.allclose(weights[b, t, j], score.exp() / total)
assert not weights[1, :, 2:].any() and torch.allclose(weights.sum(-1), torch.ones(2, 3).double())
print("additive attention equals the slow loops, and padding gets no weight")

# %% [markdown]
# ## 6 · 乘性注意力：点积（Luong 2015）
#
# 一年后，Luong、Pham 和 Manning 问：能用的分数里，最简单的是哪一种？就用**点积**（dot product）：两个向量逐个数相乘，再加起来。方向相同，点积就大；互相垂直，点积是 0；方向相反，点积是负数。他们比较了三种分数：
#
# $$e_{t,j} = s_t^{T} h_j \quad \text{("dot")} , \qquad
# e_{t,j} = s_t^{T}\, W\, h_j \quad \text{("general")} , \qquad
# e_{t,j} = v^T \tanh\left( W\, [\, s_t \,;\, h_j \,] \right) \quad \text{("concat")} .$$
#
# 第三种就是加性的。前两种叫做**乘性**（multiplicative），我们取第一种。它自己一个参数也没有，所以编码器和解码器必须学会一种共同的语言。这样，所有步的全部分数只要**一次**矩阵乘法；而加性的分数，每一对词、每一个分量（共 $D$ 个）都要算一次 tanh。
#
# 他们还调换了次序：先往前走，再看。看到的内容不再送进 GRU。所以用教师强制训练时，GRU 可以一次走完目标句的全部词，然后所有的词同时回头看。为了公平比较，我们让它和第 2 节里一样，也读固定的向量 $c$：
#
# $$s_t = \operatorname{GRU}\big([\, y_{t-1} \,;\, c \,],\, s_{t-1}\big) , \qquad
# c_t = \sum_j \alpha_{t,j}\, h_j , \qquad \tilde s_t = \tanh\big(W_s\, [\, s_t \,;\, c_t \,]\big) .$$
#
# （原文还提供一种做法：把 $\tilde s_{t-1}$ 送进下一步，叫做“input feeding”。这样一来，循环又回来了。）

# %%
#| export
class DotDecoder(FixedDecoder):
    """Run over the words first, then look at the memory. Called as AdditiveDecoder.

    The score is the dot product of state and memory. Luong et al. 2015, section 3.1, "dot".
    """

    def forward(self, y: Tensor, start: Tensor, memory: Tensor, mask: Tensor) -> Decoded:
        states, _, _ = super().forward(y, start, memory, mask)  # (B, T, D)
        weights = masked_softmax(states @ memory.mT, mask)  # (B, T, S)
        return states, weights @ memory, weights


DECODERS["dot"] = DotDecoder

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(1)
decoder, memory = DotDecoder(6).double(), torch.randn(2, 4, 6).double()
real = torch.tensor([[True, True, True, True], [True, True, False, False]])[:, None, None]
y, start = torch.randn(2, 3, 6).double(), torch.randn(2, 6).double()
states, contexts, weights = decoder(y, start, memory, real)
expected = F.scaled_dot_product_attention(states, memory, memory, real[:, 0], scale=1.0)
assert torch.allclose(contexts, expected)
print("dot-product attention equals PyTorch's function:", tuple(contexts.shape))

# %% [markdown]
# `F.scaled_dot_product_attention` 是 Transformer 的核心，我们刚刚就把它写了出来，可以说比论文早了两年。第 03 课还要加上几样：前面的可学习矩阵、一个缩放、多个头，还有扔掉 GRU 的勇气。
#
# ### 回头看有用吗？
#
# 数据、宽度、步数和种子都相同。不带注意力、训练了四倍时间的那个模型，也留在图里。**先猜**：质量的提高主要在短句，还是在长句？

# %%
mine = None  # your guess: "short" or "long"

# %%
for kind in ("additive", "dot"):
    started = time.perf_counter()
    models[kind] = train(kind)
    with torch.no_grad():
        losses[kind] = loss_of(models[kind], val_set).item()
    quality[kind] = quarters(accuracies(models[kind], by_length))
    print(f"{kind:8} loss {losses[kind]:.2f}, word accuracy by quarter",
          [f"{q:.0%}" for q in quality[kind]], f"{time.perf_counter() - started:.0f} s")
draw.quality_over_length(mean_length, quality, "Looking back helps most where the vector fails")

# %%
assert losses["additive"] < losses["dot"] < losses["none"]
for kind in ("additive", "dot"):
    gains = {rival: [looking - blind for looking, blind in zip(quality[kind], quality[rival])]
             for rival in ("none", "none, longer")}
    assert min(gains["none"]) > 0 and gains["none"][-1] > 0.02
    if longest > 8:
        assert gains["none"][-1] > 2 * gains["none"][0]
        assert abs(gains["none, longer"][0]) < 0.05 and gains["none, longer"][-1] > 0.1
    for rival, row in gains.items():
        print(f"{kind:8} against {rival + ':':13} {100 * row[0]:+3.0f} points in the shortest quarter, "
              f"{100 * row[-1]:+3.0f} in the longest")
parameters = {kind: sum(p.numel() for p in model.parameters()) for kind, model in models.items()}
assert parameters["dot"] == parameters["none"]
print("parameters:", parameters)

# %%
gain = [looking - blind for looking, blind in zip(quality["additive"], quality["none"])]
compare(mine, "long" if gain[-1] > gain[0] else "short", "02: where attention gains most")

# %% [markdown]
# 和训练时间相同的模型比，四份都有进步，最长的一份进步最大。和训练了**四倍**时间的模型比，最短的一份没有进步：短句的差距，多训练就能补上；最长的一份却补不上。这也不是权重多少的缘故：点积模型的参数与不带注意力的模型**完全一样多**。（每个模型只训练了一次。又换了两个种子，最长的一份结果也差不多：不带注意力、训练四倍时间是 66 到 69%，dot 是 82 到 85%，additive 是 89 到 90%。）
#
# 两种注意力相比，在这里加性的结果更好，但也更慢。一个可能的原因（我们没有检验）：加性模型的解码器，每一步的上下文到下一步都会读进去，所以能知道自己看过哪里。（它的参数也稍多一些。）

# %% [markdown]
# ## 7 · 注意力看对词了吗？
#
# 权重的每一行对应一个目标词，表示解码器写这个词之前看了哪里。下面是第一张图里的那条图片说明，两个模型各一幅。橙色方框是标准对齐，网络从没见过。

# %%
@torch.no_grad()
def looks_of(model: RNNTranslator, examples: list[Example]) -> list[Tensor]:
    """Return the attention weights of each sentence, (T, S), without padding."""
    src, tgt_in, _ = rectangle(examples)
    weights = model.attend(src, tgt_in, mask_of(src)).cpu()
    return [w[: len(tgt), : len(src)] for w, (src, tgt) in zip(weights, examples)]


aligned = [c for c in val_pairs if len(c.de_tokens) <= longest]  # as long as those it learned from
looks = {kind: looks_of(models[kind], examples_of(aligned)) for kind in ("additive", "dot")}
place = aligned.index(shown)
panels = {kind: rows[place][:-1] for kind, rows in looks.items()}  # the row of EOS left out
draw.alignment_maps(panels, [*shown.de_tokens, "EOS"], shown.en_tokens, shown.alignment)

# %% [markdown]
# 图很有说服力，可是一张图只是一个句子。放到全部图片说明上，权重能找到多少标准连线？权重本身还不是连线，所以我们照 Luong 的做法，把每个目标词连到权重最大的源词；如果权重最大的是源句的 `EOS`，这个词就不连。
#
# 要知道一个数好不好，得有基线来比。这里有两个。**随机**基线毫无头绪：每个目标词随便连一个源词。**对角线**基线笔直往前：第一个目标词连第一个源词，最后一个连最后一个，中间的按比例来。两种语言次序相同时，这样猜很不错。**先猜**：两种注意力、两个基线，十条连线里各能找到几条？

# %%
mine = None  # your guess for additive attention: links out of ten

# %%
def links_of(weights: Tensor) -> set[tuple[int, int]]:
    """Link each target word to where it looks most: (T, S), EOS last -> pairs (source, target)."""
    best = weights[:-1].argmax(dim=-1).tolist()
    return {(i, j) for j, i in enumerate(best) if i < weights.size(1) - 1}


def diagonal(n_source: int, n_target: int) -> set[tuple[int, int]]:
    return {(round(j * (n_source - 1) / max(n_target - 1, 1)), j) for j in range(n_target)}


gold = [c.alignment for c in aligned]
lengths = [(len(c.de_tokens), len(c.en_tokens)) for c in aligned]
chance = random.Random(0)
found = {
    "random": [{(chance.randrange(s), j) for j in range(t)} for s, t in lengths],
    "diagonal": [diagonal(s, t) for s, t in lengths],
    **{kind: [links_of(weights) for weights in rows] for kind, rows in looks.items()},
}
hit = {name: sum(len(a & set(g)) for a, g in zip(links, gold)) / sum(map(len, gold))
       for name, links in found.items()}
if longest > 8:  # not at the smallest scale: its short captions lie near the diagonal
    for kind in ("additive", "dot"):
        assert max(hit["random"], hit["diagonal"]) + 0.1 < hit[kind] < 0.9
print("of all gold links they find:", {name: f"{share:.0%}" for name, share in hit.items()})

# %%
compare(mine, 10 * hit["additive"], "02: gold links of ten that attention finds")

# %% [markdown]
# 两种注意力找到的标准连线都远远超过一半，比随机多，也比对角线多。没有人教过它们怎样连：知道了连线，下一个词就更容易猜对，有这一点就够了。这在 2014 年引起了轰动。在那以前的统计翻译系统里，对齐要用一个单独的程序，在训练开始之前运行。不过权重只说明解码器从哪里“取”了信息，不能当作写出这个词的理由（第 09 课会再谈）。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 对齐错误率，以及哪些连线错了 · 选读
#
# 以后要读对齐方面的论文，就看看这一节：这类论文用什么指标，网络又连错了哪些词。

# %% [markdown]
# 这个领域用的指标是**对齐错误率**（alignment error rate，AER；Och 和 Ney 2003）。设 $A$ 是找到的连线的集合。标准连线有两种：**确定**的（sure）$S$ 必须找到，**可能**的（possible）$P \supseteq S$ 找到也行。（这里的 $S$ 是连线的集合，不是源句长度。）于是
#
# $$\operatorname{AER} = 1 - \frac{|A \cap S| + |A \cap P|}{|A| + |S|} ,$$
#
# 其中所有计数都对整个语料库求和。全部找到、又没有多余的，错误率是 0；一条也没找对，错误率是 1。我们的语料库里，所有连线都是确定的，即 $P = S$。这时 AER 等于 1 减去 **F1 值**。F1 是两个比例的调和平均：找到的连线里有多少是对的，对的连线里有多少找到了。

# %%
#| export
Links = Collection[tuple[int, int]]  # pairs (source word, target word)


def alignment_error_rate(
    found: Sequence[Links], sure: Sequence[Links], possible: Sequence[Links] | None = None
) -> float:
    """Return 1 - (|A & S| + |A & P|) / (|A| + |S|) over a corpus: 0 is perfect, 1 all wrong.

    found, sure, possible: the links of each sentence; a sure link is always possible, too, and
    without `possible` no other is. Raises ValueError if the numbers of sentences differ, or if
    there is no link at all. Och and Ney 2003.
    """
    possible = sure if possible is None else possible
    if not len(found) == len(sure) == len(possible):
        raise ValueError(
            f"links of {len(found)}, {len(sure)} and {len(possible)} sentences: give one set of "
            "links for each sentence"
        )
    right = total = 0
    for a, s, p in zip(map(set, found), map(set, sure), map(set, possible)):
        right += len(a & s) + len(a & (p | s))
        total += len(a) + len(s)
    if not total:
        raise ValueError("no link at all, neither found nor sure: nothing to compare")
    return 1 - right / total


# %%
# NBVAL_CHECK_OUTPUT
sure, possible = [{(0, 0), (1, 2)}], [{(0, 0), (1, 2), (2, 1)}]
tried = {"all sure ones": [{(0, 0), (1, 2)}], "and a possible one": possible,
         "one of two": [{(0, 0)}], "a wrong one more": [{(0, 0), (1, 2), (2, 2)}],
         "all wrong": [{(0, 1)}]}
rates = [alignment_error_rate(found, sure, possible) for found in tried.values()]
assert rates[:2] == [0, 0] and abs(rates[2] - 1 / 3) < 1e-9 and rates[-1] == 1
print({name: round(rate, 2) for name, rate in zip(tried, rates)})

# %% [markdown]
# 两种语言次序相同时，对角线很合适；次序不同时呢？我们数两遍：一遍数全部图片说明，一遍只数连线有交叉的图片说明。**先猜**：四种方法中，哪一种在第二遍里会差很多？

# %%
mine = None  # your guess: "random", "diagonal", "additive" or "dot"

# %%
crossed = [i for i, links in enumerate(gold) if draw.crossings(links)]
aer = {name: alignment_error_rate(links, gold) for name, links in found.items()}
aer_crossed = {name: alignment_error_rate([links[i] for i in crossed], [gold[i] for i in crossed])
               for name, links in found.items()}
draw.error_rates({"all captions": aer, "captions with crossing links": aer_crossed})

# %%
assert aer_crossed["diagonal"] > aer["diagonal"] + 0.08  # straight ahead fails where links cross
for kind in ("additive", "dot"):
    assert aer[kind] < 0.75 * aer["random"]
    assert aer_crossed[kind] < aer_crossed["diagonal"] - 0.02
    assert longest == 8 or aer[kind] < aer["diagonal"]
print("where links cross, AER:", {name: round(rate, 2) for name, rate in aer_crossed.items()})
one_each = [{j: (i, j) for i, j in links}.values() for links in gold]
least = alignment_error_rate(one_each, gold)
assert least < 0.05
print(f"the best AER that one link for each English word allows: {least:.3f}")

# %%
worse = max(aer, key=lambda name: aer_crossed[name] - aer[name])
compare(mine, worse, "02: who suffers where links cross")

# %% [markdown]
# 我们的规则（每个英语词一条连线）必然会漏掉一些：有的词对应两个德语词（“juggling”对应“jongliert”和“mit”）。这种情况很少，照这条规则，AER 最好可以接近 0。所以大多数错误要算在网络头上。哪些词连错了？**先猜**：是常见的词（“a”“is”“the”），还是少见的词（“kitchen”“reading”）？

# %%
mine = None  # your guess: "frequent" or "rare"

# %%
frequent = set(english_words[4:14])  # the ten most frequent English words, signs included


def share_at_gold(links: list[set[tuple[int, int]]], is_frequent: bool) -> float:
    """Of the frequent (or the other) English words, the share that looks at a gold partner."""
    hits = [bool({(i, j) for i, j in pairs if j == place} & set(caption.alignment))
            for pairs, caption in zip(links, aligned)
            for place, word in enumerate(caption.en_tokens)
            if (word.lower() in frequent) == is_frequent]
    return sum(hits) / len(hits)


print("the ten:", *sorted(frequent))
for kind in ("additive", "dot"):
    common, rare = (share_at_gold(found[kind], is_frequent) for is_frequent in (True, False))
    assert rare > common + 0.05
    print(f"{kind:8} looks at a right word for {common:.0%} of the ten, for {rare:.0%} of the others")

texts = [" ".join(c.en_tokens).lower() for c in train_pairs]
women, followed = (sum(text.count(words) for text in texts) for words in ("a woman ", "a woman is "))
assert 0.4 < followed / women < 0.8
print(f'in the training captions "is" follows "a woman" in {followed / women:.0%} of the cases')

# %%
compare(mine, "frequent" if common < rare else "rare", "02: words that are linked wrongly")

# %% [markdown]
# 要写少见的词，网络会去看对应的德语词。要写常见的词，为什么就不看呢？有两个可能的原因，我们都没有检验。在“a woman”后面，一个德语词都不用看就能猜到“is”，所以不太需要去看。另外，每个 $h_j$ 都带着前后各词的信息，一个词的意思也可以从旁边的向量得到：Koehn 和 Knowles（2017）就发现过，有的注意力错开了一个词，翻译却很好。
#
# > **试一试。** 在 `links_of` 里，把一个目标词连到权重大于 0.3 的“每个”源词。AER 变好了吗？哪个阈值最好？又该在哪些数据上选它？
#
# <details><summary>答案</summary>
#
# `additive` 几乎没有变好。从 0.05 到 0.5 试十个阈值：取 0.3，AER 为 0.358；取 0.35 最好，也只到 0.357；而只连权重最大的词是 0.363。阈值低了，会添上错的连线（0.05 时是 0.535）；高了，会丢掉对的。`dot` 的十个阈值里，0.5 最好：AER 为 0.328，只连权重最大的词是 0.333。选阈值要用标准连线，所以应该在一部分图片说明上选阈值，在另一部分上报告结果：选和报告都用同一批，报出的错误率就会偏低。
#
#     links = {(i, j) for j in range(w.size(0) - 1) for i in range(w.size(1) - 1) if w[j, i] > 0.3}
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 8 · 看两次：记忆网络（Sukhbaatar 2015）· 选读
#
# 论文第 2 节提到一种网络，它要连看几次才回答。想早点认识 Transformer 里的“输入加注意力”，就读这一节。

# %% [markdown]
# 每写一个词，注意力看一次。有些问题要看两次：“球在哪里？”先找球在谁手里，再找这个人又在哪里。端到端的记忆网络（memory network）存着一组事实，不需要沿位置循环：它重复的是注意力本身。
#
# 每个事实 $x_i$ 存成两个向量：$m_i$（用来找到这个事实）和 $c_i$（这个事实要说的内容）。问题是向量 $u$。看一次，他们叫做一**跳**（hop），就是
#
# $$p_i = \operatorname{softmax}_i(u^{T} m_i) , \qquad o = \sum_i p_i\, c_i , \qquad u' = u + o .$$
#
# 新的问题 $u'$ 是旧问题加上找到的内容。然后再跳一次。

# %%
#| export
def memory_hop(question: Tensor, found_by: Tensor, says: Tensor) -> tuple[Tensor, Tensor]:
    """Look once into a memory of N facts and add what was found to the question.

    question u (B, D), found_by m (B, N, D), says c (B, N, D) -> u + o (B, D), weights p (B, N).
    Sukhbaatar et al. 2015, section 2.
    """
    weights = (found_by @ question[..., None]).squeeze(-1).softmax(dim=-1)  # (B, N)
    answer = (weights[:, None] @ says).squeeze(1)  # (B, D)
    return question + answer, weights


# %% [markdown]
# 向量由我们亲手设定，这样每个数你都能跟着算。每个名字占一个分量。“Anna has the ball”（Anna 有球）凭“ball”找到，说的是“Anna”。下一跳应该问刚找到的东西，而不是再问一遍旧问题，所以把 $c_i$ 放大到两倍。$m_i$ 则放大到五倍：这样，对的事实分数是 5，另外五个是 0，于是它得到 $e^5 / (e^5 + 5) \approx 97\,\%$ 的权重。（训练好的网络会自己学出这样的向量。）
#
# **先猜**：第一跳看哪些事实？第二跳呢？

# %%
facts = [("ball", "Anna", "Anna has the ball"), ("book", "Ben", "Ben has the book"),
         ("Ben", "garden", "Ben is in the garden"), ("Anna", "kitchen", "Anna is in the kitchen"),
         ("hat", "Carla", "Carla has the hat"), ("Carla", "cellar", "Carla is in the cellar")]
names = sorted({name for by, says, _ in facts for name in (by, says)})


def one_hot(words: list[str]) -> Tensor:
    return F.one_hot(torch.tensor([names.index(word) for word in words]), len(names)).float()


found_by = 5 * one_hot([by for by, _, _ in facts])[None]  # (1, N, D)
says = 2 * one_hot([says for _, says, _ in facts])[None]  # (1, N, D)
questions, hops = [one_hot(["ball"])], []
for _ in range(2):
    question, weights = memory_hop(questions[-1], found_by, says)
    questions.append(question)
    hops.append(weights[0])
draw.hops([text for _, _, text in facts], torch.stack(hops), "Where is the ball?")

# %%
# NBVAL_CHECK_OUTPUT
added = [new - old for old, new in zip(questions, questions[1:])]  # what each hop has found
asked = ["ball", *(names[int(answer.argmax())] for answer in added)]
assert asked == ["ball", "Anna", "kitchen"]
assert hops[0].argmax() == 0 and hops[1].argmax() == 3
as_attention = F.scaled_dot_product_attention(questions[0][:, None], found_by, says, scale=1.0)
assert torch.allclose(questions[1], questions[0] + as_attention[:, 0], atol=1e-6)
order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(0))
assert torch.allclose(memory_hop(questions[0], found_by[:, order], says[:, order])[0], questions[1],
                      atol=1e-6)
print("asked:", " -> ".join(asked), "· one hop = dot-product attention + the question itself")

# %% [markdown]
# 读一读断言打印的内容。（“Anna”还留在问题里，分量几乎和“kitchen”一样重；最后一跳加上的那个才是答案。）一跳就是点积注意力，然后再加上输入。到第 05 课，这种“输入加输出”叫做残差连接；Transformer 的每一层里，你都会认出这一跳。
#
# 再读这个单元格的最后一条断言：把事实打乱，答案不变。记忆网络看到的是一个“集合”。可是“Anna went to the kitchen, then to the garden”（Anna 先去了厨房，又去了花园）离不开次序；Sukhbaatar 等给每个事实加一个表示时间的向量，Transformer 则会给每个位置加一个。
#
# > **试一试。** 让 `says` 不再放大，与问题一样长（2 改成 1）。现在第二跳看什么？为什么？
#
# <details><summary>答案</summary>
#
# 看两个事实：“Anna has the ball”又得到 0.53 的权重，“Anna is in the kitchen”得到 0.45。第一跳之后，问题里既有原来的“ball”，也有刚找到的“Anna”，两者分量差不多：分数是 5 和 4.8。只有答案的分量比旧问题重，第二跳才会继续往前。
#
# </details>

# %%
check("memory_hop_is")

# %%
check("memory_waits")

# %% [markdown]
# ## 9 · 注意力没有解决的：一步等一步
#
# 有了注意力，任何目标词一步就能到达任何源词。那还有什么可抱怨的？论文第 1 节用一句话说了出来：循环沿着位置计算，一个状态接一个状态，所以同一个句子的各个状态不能同时计算。
#
# **数一数。** 自动求导记下了哪个结果由哪些结果算出。我们从输出一直走回词，数出**最长的链**上有多少次矩阵乘法：每一次都必须等前一次。哪怕机器有无穷多个处理器，也不可能比这条链更快。**先猜**：源句和目标句都变成两倍长，链会变成几倍长？

# %%
mine = None  # your guess: a factor

# %% [markdown]
# `result.grad_fn` 是算出这个结果的那一步；这一步的各个输入又是由哪些步算出的，记在它的 `next_functions` 里。（怎样在这张图里搜索，可以跳过不看。）

# %%
def longest_chain(result: Tensor) -> int:
    """Count the matrix products, each waiting for the one before, that lead to a result."""
    depth, stack = {None: 0}, [result.grad_fn]
    while stack:
        before = [node for node, _ in stack[-1].next_functions]
        unknown = [node for node in before if node not in depth]
        stack += unknown
        if not unknown:
            node = stack.pop()
            product = "mmbackward" in node.name().lower()  # mm, addmm, bmm
            depth[node] = max((depth[n] for n in before), default=0) + product
    return depth[result.grad_fn]


def chain(kind: str, n: int) -> int:
    """Return the longest chain of a forward pass, with n words on both sides."""
    model = RNNTranslator(Seq2SeqConfig(9, 9, d_model=8, attention=kind))
    words = torch.full((1, n), 5)
    return longest_chain(model(words, words).logsumexp(-1).sum())


ns = [4, 8, 16, 32]
chains = {kind: [chain(kind, n) for n in ns] for kind in DECODERS}
print("words:", ns, *[f"\n{kind:8} {row}" for kind, row in chains.items()])

# %%
compare(mine, chains["additive"][-1] / chains["additive"][-2], "02: the chain at twice the length")

# %%
# NBVAL_CHECK_OUTPUT
for row in chains.values():
    steps = [(b - a) / (m - n) for a, b, n, m in zip(row, row[1:], ns, ns[1:])]
    assert len(set(steps)) == 1 and steps[0] >= 2  # a straight line: so much for each word
assert chains["additive"][-1] > chains["dot"][-1]
print("each further word makes the chain longer by the same amount: it grows like n")

# %% [markdown]
# 三条都是直线。加性的解码器等得最久：它的注意力就在链“里面”。注意力刚发明出来时，这条链一环也没有少。
#
# 论文就是从这个问题开始的。注意力一步就能把任意两个词连起来，循环却不能。**如果留下注意力，去掉循环，会怎样？**

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 真的计时又怎样？· 选读
#
# 不相信数出来的步数，就来计时：同样的矩阵乘法，一遍连成链，一遍不连，看看各花多少时间。

# %% [markdown]
# 要比得公平，就要找一个这样的对手：单元一样，矩阵乘法也一样，只是哪一步都不用等。于是我们把链剪断：每一步拿到的不是前一步的状态，而是全零的状态。这个网络没有任何用处，但计算量一点不少，而且全部 $n$ 步同时进行。应该拿它与 PyTorch 的 `nn.GRU` 相比，因为两者都运行编译好的代码。第三条线是用 Python 循环写的链。

# %%
cell, gru = nn.GRUCell(128, 128).to(device), nn.GRU(128, 128).to(device)
gru.load_state_dict({f"{name}_l0": tensor for name, tensor in cell.state_dict().items()})


@torch.no_grad()
def chained(x: Tensor) -> Tensor:
    state = torch.zeros_like(x[:1])  # (1, D)
    for x_t in x.split(1):
        state = cell(x_t, state)  # waits for the state before
    return state


@torch.no_grad()
def cut(x: Tensor) -> Tensor:
    return cell(x, torch.zeros_like(x))[-1:]  # n steps at once, each from a state of zeros


@torch.no_grad()
def compiled(x: Tensor) -> Tensor:
    return gru(x)[0][-1:]  # the same chain


def seconds(network, n: int, repeats: int = 5) -> float:
    """The fastest of a few runs: the one that other programs disturbed least."""
    x, taken = torch.randn(n, 128, device=device), []
    for _ in range(repeats):
        started = time.perf_counter()
        network(x).sum().item()  # .item() waits for a graphics processor, too
        taken.append(time.perf_counter() - started)
    return min(taken)


sentence_lengths = [2**i for i in range(3, by_scale(smoke=8, cpu=10, gpu=10) + 1)]
clock = {name: [seconds(network, n) for n in sentence_lengths]
         for name, network in (("in a chain", chained), ("chain cut", cut),
                               ("in a chain, nn.GRU", compiled))}
draw.wall_time(sentence_lengths, clock,
               f"The same products, one after the other or all at once ({device.type})")

# %%
x = torch.randn(20, 128, device=device)
assert torch.allclose(chained(x), compiled(x), atol=1e-4)
slow, fast, built_in = clock.values()
assert built_in[-1] > by_scale(smoke=2, cpu=3, gpu=3) * fast[-1]  # the price of waiting, no Python in it
print(f"{sentence_lengths[-1]} steps: in a chain {1000 * slow[-1]:.1f} ms, with nn.GRU "
      f"{1000 * built_in[-1]:.1f} ms, chain cut {1000 * fast[-1]:.1f} ms: nn.GRU takes "
      f"{built_in[-1] / fast[-1]:.1f} times as long")

# %% [markdown]
# 三条线做的是同样的运算；$n$ 越大，要算的越多，所以三条线都随 $n$ 增长。`nn.GRU` 与剪断的链这两条线之间的距离，就是等待的代价。（Python 循环每次调用还要多花几微秒。）也可以把许多句子放进一个批次，让每一步有更多东西可算，我们就是这样做的。但这个办法受机器内存的限制。

# %% [markdown]
# ## 10 · 各类网络并排看
#
# 论文第 2 节还举出了另外几种串行步数较少的网络。下面这张表现在读一遍，第 05 课之后再读一遍。“路径”是相隔 $n$ 个位置的两个词之间要走几步：越短，就越容易学到两者有关（第 01 课）。“等待”是读完一个有 $n$ 个词的句子，有多少步必须串行，也就是一步等一步地走。$k$ 是卷积的宽度。
#
# | 类别 | 最初用来做什么 | 长处 | 短处 | 路径 | 等待 |
# |---|---|---|---|---|---|
# | RNN 编码器-解码器（Cho、Sutskever 2014；带注意力：Bahdanau 2014）| 长度不一的序列 | 模型小；可以边收边读；注意力一步连接两边 | 摆脱不了那条链；在句子内部，远处的词影响会变弱 | $n$ | $n$ |
# | ConvS2S（Gehring 2017）| 所有位置同时训练 | 并行；解码器每层都有注意力 | 要许多层才能看到远处的词 | $n/k$ | $n/k$ 层 |
# | ByteNet（Kalchbrenner 2016）| 线性时间，逐字符处理 | 间隔逐层加倍：几层就看得很远 | 没有注意力：远处的词还是要穿过许多层 | $\log n$ | $\log n$ 层 |
# | Extended Neural GPU（Kaiser 和 Bengio 2016）| 多位数加法之类的算法；后来用于翻译 | 用卷积一次改写整个记忆 | 输入多长，就要多少步 | $n/k$ | $n$ |
# | 记忆网络（Sukhbaatar 2015）| 回答关于已存事实的问题 | 看一次（一跳，hop）就能看到任何地方，而且可以看几次 | 记忆是集合，次序要另外加；只有几跳 | 1 | 跳数 |
# | **Transformer**（Vaswani 2017）| 训练快，路径短 | 任意两个词只差一步；所有位置同时算 | 要比较 $n^2$ 对；次序要另外加 | 1 | 层数 |
#
# 四点说明。一，对卷积网络来说，最后两栏数的都是两个词相遇之前需要的层数。（写 $n/k$ 只表示增长的量级；第 01 课数得准确，是 $n/(k-1)$。论文的表 1 数的是“一层”之内的等待，卷积在一层之内只有一步。ByteNet 按间隔一直加倍来算；原文里间隔会从头再来，见第 01 课。）二，最后一栏说的是读句子时、以及用教师强制训练时的等待。生成译文时，表中凡是做翻译的网络都是一个词接一个词地写，Transformer 也一样。（记忆网络的回答只有一个词。）三，路径为 1 要付代价：取平均会让信息变模糊。论文在第 2 节承认了这一点，并用多个头来应对（第 03 课）。四，这张表说的是什么“能”轻松学会，不是实际学会了什么：数据足够多，带注意力的 RNN 也翻译得很好，第 09 课会让它试试。

# %%
check("path_neural_gpu")

# %%
check("new_in_2017")

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `Seq2SeqConfig` | 词表大小、`d_model`、`attention`、`dropout` | 检查过的各项选择 |
# | `RNNTranslator` | src (B, S)、tgt_in (B, T)、掩码 | logits (B, T, V) |
# | `.encode` · `.decode` · `.project` | src · tgt_in 和记忆 · 状态 | 记忆 (B, S, D) · 状态 (B, T, D) · logits |
# | `.attend` | src、tgt_in、掩码 | 注意力权重 (B, T, S) |
# | `AdditiveAttention` | 查询 (B, T, D)、键 (B, S, D)、掩码 | 权重 (B, T, S) |
# | `alignment_error_rate` | 找到的、确定的和可能的连线 | 0 到 1 之间的一个数 |
# | `edit_distance`、`word_accuracy` | 两个句子 | 一个计数、0 到 1 之间的一个数 |
# | `memory_hop` | 问题 (B, D)、记忆 (B, N, D) 两份 | 新问题 (B, D)、权重 (B, N) |
#
# ## 练习
#
# 1. **手算（难度 1/5，10 分钟）。** 在纸上为“a b c”和“b c d”填 `edit_distance` 的表。代价最小的走法用了哪几步？
#
#    <details><summary>答案</summary>
#
#    距离是 2：删去“a”，保留“b”和“c”，插入“d”。
#
#    | | | b | c | d |
#    |---|---|---|---|---|
#    | | 0 | 1 | 2 | 3 |
#    | a | 1 | 1 | 2 | 3 |
#    | b | 2 | 1 | 2 | 3 |
#    | c | 3 | 2 | 1 | 2 |
#
#    （右下角的数就是距离。三个词全部替换，代价是 3。）
#
#    </details>
#
# 2. **更宽的瓶颈（难度 2/5，15 分钟）。** 给 `train` 加一个参数 `width`，代替 `by_scale(smoke=96, cpu=96, gpu=128)`，用两倍的宽度训练 `"none"`。注意力带来的提升，光靠加宽能得到几成？为此多用了多少参数？
#
#    <details><summary>答案</summary>
#
#    `train("none", width=192)` 有 872,280 个参数；宽度 96 的加性注意力有 302,904 个。把它在四份上的结果与上面的比较。也要看曲线的形状：瓶颈宽了，能装下更长的句子；但句子再长下去，曲线还是会往下掉。两次训练各只有一个种子，可能相差几个百分点。
#
#    </details>
#
# 3. **倒着读（难度 3/5，20 分钟）。** Sutskever 等把源句倒过来，结果变好了。在 `fixed_vector` 里，让从右往左读的那一半返回零，重新训练 `"none"`。然后在 `examples_of` 里把德语词倒过来（`c.de_tokens[::-1]`），重新生成 `train_set`、`val_set` 和 `by_length`，再训练一次。倒过来为什么可能有用？
#
#    <details><summary>答案</summary>
#
#    德语词与对应的英语词之间的平均距离没有变。但是从右往左读，德语句子“最前面”的词最后才读到，紧接着就要写最前面的英语词：这些词的梯度要走的路变短了。Sutskever 等就是这样解释的。解码器读的是自己写的词，所以开头写得好，后面也会更好。在 `fixed_vector` 里只多一行：`torch.zeros_like(from_right[:, 0])`。
#
#    </details>
#
# 4. **厉害的老对手（难度 4/5，45 分钟）。** IBM 模型 1（Brown 等 1993）不用网络，靠计数来学习 $p(\text{English word} \mid \text{German word})$：先把每个德语词与每个英语词都连上，数一遍；再按数出的次数给连线定权重，重新数一遍。十行代码就够。它的 AER（第 7 节，选读）比注意力好吗？
#
#    <details><summary>答案</summary>
#
#    比注意力好。计数五次，每次之后的 AER 依次是 0.33、0.26、0.24、0.24、0.23；注意力是 0.36（additive）和 0.33（dot）。它找到 77% 的标准连线，注意力找到 64% 和 65%。模型 1 只学连线，而且每个词单独看；注意力找的却不限于连线，只要有助于写出下一个词，它都找。
#
#    ```python
#    p = defaultdict(lambda: 1.0)  # p[English word, German word], all alike
#    for _ in range(5):
#        count, total = Counter(), Counter()
#        for c in train_pairs:
#            for e in c.en_tokens:
#                whole = sum(p[e, d] for d in c.de_tokens)
#                for d in c.de_tokens:
#                    count[e, d] += p[e, d] / whole
#                    total[d] += p[e, d] / whole
#        p = defaultdict(float, {(e, d): n / total[d] for (e, d), n in count.items()})
#    links = [{(max(range(len(c.de_tokens)), key=lambda i: p[e, c.de_tokens[i]]), j)
#              for j, e in enumerate(c.en_tokens)} for c in aligned]
#    ```
#
#    （`from collections import defaultdict`；词都用小写。）
#
#    </details>
#
# 5. **Scheduled sampling（难度 4/5，40 分钟）。** 在 `loss_of` 里，把 `tgt_in` 的四分之一换成模型自己的词。再画一次第 3 节末尾（选读）的图。
#
#    <details><summary>答案</summary>
#
#    在算损失之前，把要读的词换掉四分之一。换上的是模型自己的词，做一次前向计算就能得到，不求梯度：
#
#    ```python
#    with torch.no_grad():
#        said = model(src, tgt_in, mask_of(src)).argmax(dim=-1)  # (B, T)
#    own = torch.cat([tgt_in[:, :1], said[:, :-1]], dim=1)  # shifted as tgt_in is
#    lot = torch.rand(tgt_in.shape, device=device) < 0.25
#    lot[:, 0] = False  # BOS stays
#    tgt_in = torch.where(lot & (tgt_in != PAD), own, tgt_in)
#    ```
#
#    看图时，既看教师强制的线与自由的线之间的距离，也看教师强制的线本身：自由的解码器变好了，教师强制下的却可能变差。只用一个种子跑一次，什么也说明不了。
#
#    </details>
#
# ## 小结
#
# 序列到序列模型用编码器读，用解码器逐词写。它用教师强制训练，使用时却只能靠自己写的词，两者的差别就是暴露偏差。一个固定的向量是瓶颈：训练时间加到四倍，短句就好了，长句还是不行。有了注意力，长句也好了。每一步，解码器对记忆取加权平均，权重来自一个小网络（加性）或点积（乘性）。没有人教过注意力怎样对齐，它找到的标准连线却远远超过一半，比两个基线都多。记忆网络可以连看几次。剩下的是那条链：循环网络必须一步接一步地走，花的时间随句长增长。
#
# ## 延伸阅读
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762：第 1 节和第 2 节。
# - Kalchbrenner, Blunsom 2013, *Recurrent Continuous Translation Models*；Sutskever, Vinyals, Le 2014, *Sequence to Sequence Learning with Neural Networks*, arXiv 1409.3215；Cho et al. 2014, *Learning Phrase Representations using RNN Encoder-Decoder*, arXiv 1406.1078：编码器-解码器。Cho et al. 2014b, *On the Properties of Neural Machine Translation*, arXiv 1409.1259：翻译质量与句长。
# - Bahdanau, Cho, Bengio 2014, *Neural Machine Translation by Jointly Learning to Align and Translate*, arXiv 1409.0473；Luong, Pham, Manning 2015, *Effective Approaches to Attention-based Neural Machine Translation*, arXiv 1508.04025：本页的第 5 节和第 6 节。
# - Williams, Zipser 1989, *A Learning Algorithm for Continually Running Fully Recurrent Neural Networks*；Bengio et al. 2015, *Scheduled Sampling*, arXiv 1506.03099；Ranzato et al. 2015, *Sequence Level Training with Recurrent Neural Networks*, arXiv 1511.06732：本页的第 3 节。
# - Och, Ney 2003, *A Systematic Comparison of Various Statistical Alignment Models*：AER。Brown et al. 1993, *The Mathematics of Statistical Machine Translation*：IBM 模型。Koehn, Knowles 2017, *Six Challenges for Neural Machine Translation*, arXiv 1706.03872：注意力在哪些情况下不等于对齐。
# - Sukhbaatar et al. 2015, *End-To-End Memory Networks*, arXiv 1503.08895；Kaiser, Bengio 2016, *Can Active Memory Replace Attention?*, arXiv 1610.08613；Kalchbrenner et al. 2016, *Neural Machine Translation in Linear Time*, arXiv 1610.10099；Gehring et al. 2017, *Convolutional Sequence to Sequence Learning*, arXiv 1705.03122：其他几类网络。
#
# **作业。** [作业：序列到序列](homework/seq2seq/seq2seq.ipynb)：自己写出加性注意力；哪里错了，检查会指出来。
#
# **下一课：** [第 03 课](03_attention.ipynb)，不用循环的注意力。

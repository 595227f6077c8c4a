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
# # 05 · Transformer
#
# > Transformer：嵌入、位置、子层、层、堆叠（论文第 3 节）。
#
# **学完这一课，你能**
#
# - 写出论文的整个模型，并逐个说清：少了这个部件，模型会坏在哪里；
# - 用测量说明论文的模型为什么需要位置、残差连接、层归一化和前馈网络；
# - 手算 base 模型和 big 模型的参数量；
# - 训练一个 Transformer，让它复制没见过的序列，一个错也没有。
#
# **先修：** 第 03 课（注意力）和第 04 课（掩码）。这一页在主线上，后面是第 06 课。**时间：** 70 分钟；连标有“选读”的部分一起 110 分钟。**论文：** 第 3 节，3.1、3.3、3.4、3.5、5.4 节，以及表 3 的参数量一列。
#
# 注意力只是模型的一个部件。论文把它与另外五个部件叠在一起，只用两页就讲完了。这一课按句子经过它们的次序，一个一个地讲：
#
# | 部件 | 它回答的问题 | 论文的节 |
# |---|---|---|
# | `TokenEmbedding` | 词元怎样变成向量？| 3.4 |
# | `PositionalEncoding` | 词元在什么位置？| 3.5 |
# | `LayerNorm` | 数的大小怎样保持稳定？| 3.1 |
# | `FeedForward` | 根据收集来的信息，能得出什么？| 3.3 |
# | `Residual` | 层数很多时，怎样保住已有的信息？| 3.1 |
# | `Encoder`、`Decoder` | 部件怎样叠成一摞？| 3.1 |
#
# 注释里用字母表示形状：一个批次有 B 个句子，源句 S 个词元，目标句 T 个词元，D 是 `d_model`，F 是 `d_ff`，词表有 V 个词。

# %%
#| export
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.attention import MultiHeadAttention

# %% [markdown]
# ## 1 · 模型的尺寸
#
# 几个数就决定了整个模型：向量多宽（$d_{model}$），几个头，前馈网络多宽（$d_{ff}$），几层（$N$），暂退法（dropout）丢多少。我们把它们放进一个创建后就不能再改的对象。默认值是论文的 base 模型；`big` 是表 3 的最后一行。几个选择如果互相矛盾，马上就报错，不会等到一个小时以后。
#
# 有三个字段不是尺寸，而是选择：`norm`、`positions` 和 `tie_embeddings`。下面各有一节讲它们。

# %%
#| export
@dataclass(frozen=True)
class TransformerConfig:
    """The sizes and choices that make one Transformer; the defaults are the paper's base model.

    Raises ValueError for sizes that do not fit together. Paper, table 3.
    """

    src_vocab: int
    tgt_vocab: int
    d_model: int = 512
    n_heads: int = 8
    d_ff: int = 2048
    n_layers: int = 6
    d_k: int | None = None
    d_v: int | None = None
    dropout: float = 0.1
    norm: Literal["post", "pre"] = "post"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    tie_embeddings: bool = True
    max_len: int = 512

    def __post_init__(self) -> None:
        for name in ("d_model", "n_heads", "d_ff", "n_layers", "d_k", "d_v", "max_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is 1 or more, not {value}")
        if self.tie_embeddings and self.src_vocab != self.tgt_vocab:
            raise ValueError(
                f"tied embeddings need one vocabulary, not src_vocab={self.src_vocab} and "
                f"tgt_vocab={self.tgt_vocab}: make them equal, or set tie_embeddings=False"
            )
        for name, known in (("norm", ("post", "pre")), ("positions", ("sinusoidal", "learned"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose from {known}")
        if (self.d_k is None or self.d_v is None) and self.d_model % self.n_heads:
            raise ValueError(
                f"d_model={self.d_model} does not divide into n_heads={self.n_heads}: "
                "choose a divisor, or give d_k and d_v"
            )
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout={self.dropout} is no probability: choose it from 0 to 1")

    @classmethod
    def base(cls, vocab: int) -> "TransformerConfig":
        """Return the paper's base model over one shared vocabulary."""
        return cls(vocab, vocab)

    @classmethod
    def big(cls, vocab: int) -> "TransformerConfig":
        """Return the paper's big model over one shared vocabulary."""
        return cls(vocab, vocab, d_model=1024, d_ff=4096, n_heads=16, dropout=0.3)

# %% [markdown]
# 下一个单元格导入的东西，只有本页的演示才用得到。

# %%
import random

import matplotlib.pyplot as plt

from course.attention import record_attention
from course.device import by_scale, pick
from course.homework import check, compare
from course.masking import Batch, causal_mask, padding_mask
from course.viz import GREY, bar
from course.viz import transformer as draw

# %% [markdown]
# **先猜**：big 模型的 $d_{model}$、$d_{ff}$ 和头数都加倍。一个头的宽度 $d_k = d_{model} / h$ 会怎样变？（把猜测写在 `None` 的位置，不打分；测量之后的那个单元格会作比较。）

# %%
mine = None  # "grows", "stays" or "shrinks"

# %%
# NBVAL_CHECK_OUTPUT
base, big = TransformerConfig.base(37_000), TransformerConfig.big(37_000)
assert base.d_model / base.n_heads == big.d_model / big.n_heads == 64
assert base.d_ff / base.d_model == big.d_ff / big.d_model == 4
print("a head is 64 wide in both; the feed-forward network is 4 times as wide as the model")

# %%
compare(mine, "stays", "05: the width of one head in the big model")

# %% [markdown]
# ## 2 · 从词元到向量（3.4 节）
#
# 词元是一个数，即它在词表里的编号。模型存着一张表，每个词元占一行，每行 $d_{model}$ 个数；用的时候查出那一行。表和所有权重一样，也是学出来的。
#
# 3.4 节还有两句简短的话，大多数读者一眼就带过了：
#
# 1. 查出来的那一行要**乘以 $\sqrt{d_{model}}$**。
# 2. **一张表用三次**：源语言的词元用它，目标语言的词元用它，到了最后，它还是给词表里每个词打分的矩阵。这叫**绑定**（tying，Press 与 Wolf 2017）。
#
# 论文没有说为什么要乘。其实这两句话要放在一起看。看看模型的两端各需要什么：
#
# - **在输入端**，查出的行要加上位置编码（本页第 3 节），位置编码的分量大小约为 0.7。词不该被位置淹没，所以词向量的分量大小应该约为 1。
# - **在输出端**，一个词的分数，是状态与表中那一行的点积；状态的分量大小为 1（由层归一化保证，见本页第 4 节）。如果表中一行的分量方差是 $\sigma^2$，$d_{model}$ 个乘积之和的方差就是 $d_{model} \sigma^2$。要让分数的大小为 1，就需要 $\sigma^2 = 1 / d_{model}$。
#
# 一张表，要满足两个要求。查出之后再乘上这个因子，就都满足了：
#
# $$E \sim \mathcal{N}\left(0, \frac{1}{d_{model}}\right), \qquad
# \operatorname{embed}(t) = \sqrt{d_{model}} \, E_t .$$

# %%
#| export
class TokenEmbedding(nn.Module):
    """Look up a vector for each token: (B, L) -> (B, L, D), scaled by sqrt(d_model).

    The table starts as N(0, 1/d_model), so that what comes out has unit variance.
    Paper, section 3.4.
    """

    def __init__(self, vocab: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab, d_model) * d_model**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight) * math.sqrt(self.weight.size(1))

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 四种初始化这张表的办法 · 选读
#
# 许多程序用别的办法初始化这张表。这样做，在输入端和输出端各有什么坏处？

# %% [markdown]
# 有个流行的程序，对模型里的**每个**矩阵都调用 `xavier_uniform_`。这条规则是给**乘**向量的矩阵用的。前向传播时，方差取 $1 / n_{in}$ 能保持向量的大小；反向传播时，方差取 $1 / n_{out}$ 能保持梯度的大小。Xavier 规则（Glorot 与 Bengio 2010）取在两者之间：$2 / (n_{in} + n_{out})$，这里就是 $2 / (V + D)$。可是查表并不做乘法：词表一大，表里的数就小得过头了。
#
# 取 V = 10,000，D = 512，比较四种初始化办法：一个词与位置（0.71）相比有多大？最初的损失是多少？一无所知的模型，只要给每个词同样的概率，总能达到 $\ln V = 9.21$。**先猜**：用 $\mathcal{N}(0, 1)$，也就是 PyTorch 自己初始化嵌入表的办法，最初的损失是多少？

# %%
mine = None  # in nats

# %%
torch.manual_seed(0)
vocab, d_model = 10_000, 512
normal = torch.randn(vocab, d_model)
xavier = nn.init.xavier_uniform_(torch.empty(vocab, d_model))
starts = {  # name: (the table, the factor after the look-up)
    "N(0, 1/D), times √D": (normal * d_model**-0.5, d_model**0.5),
    "N(0, 1/D), no factor": (normal * d_model**-0.5, 1.0),
    "N(0, 1), no factor": (normal, 1.0),
    "Xavier, times √D": (xavier, d_model**0.5),
}
states = torch.randn(200, d_model)  # what a fresh decoder hands to the output
targets = torch.randint(vocab, (200,))
word_size = {name: (table * factor).std().item() for name, (table, factor) in starts.items()}
first_loss = {
    name: F.cross_entropy(states @ table.T, targets).item() for name, (table, _) in starts.items()
}
draw.starts(word_size, first_loss, position_size=0.5**0.5, uniform=math.log(vocab))

# %% [markdown]
# 只有第一种办法，在输入端和输出端都合适。去掉因子，词就只有位置的十六分之一大。用 PyTorch 里 `nn.Embedding` 默认的 $\mathcal{N}(0, 1)$，绑定的输出还没训练一步就自信过头，损失是 $\ln V$ 的好几倍。用 Xavier，损失没有问题，但词的大小还不到位置的一半。

# %%
assert abs(word_size["N(0, 1/D), times √D"] - 1) < 0.02
assert first_loss["N(0, 1/D), times √D"] < math.log(vocab) + 1
assert word_size["N(0, 1/D), no factor"] < 0.5**0.5 / 15
assert first_loss["N(0, 1), no factor"] > 6 * math.log(vocab)
assert abs(word_size["Xavier, times √D"] - math.sqrt(2 / (vocab + d_model) * d_model)) < 0.01
print(f"size of a word after Xavier: {word_size['Xavier, times √D']:.2f}, where 1 is wanted")
print(f"first loss after N(0, 1): {first_loss['N(0, 1), no factor']:.0f} nats, ln V is 9.21")
compare(mine, first_loss["N(0, 1), no factor"], "05: first loss with a table of N(0, 1)")

# %% [markdown]
# > **试一试。** 正确的办法给出的最初损失约为 $\ln V + \frac{1}{2}$，而不是 $\ln V$。这二分之一从哪里来？（提示：分数的方差为 1 时，$e^{score}$ 的均值是 $e^{1/2}$。）
#
# <details><summary>答案</summary>
#
# 损失是所有 $e^{score}$ 之和的对数，减去正确的词的分数。这个和有 $V$ 项，每项的均值是 $e^{1/2}$，所以对数是 $\ln V + \frac{1}{2}$；正确的词的分数平均为 0。分数毫无理由地有高有低，损失就多出了这二分之一。
#
# </details>

# %% [markdown]
# ## 3 · 每个词在哪里？（3.5 节）
#
# 第 03 课说过，注意力不知道输入的次序：它是加权平均，各项换个次序，平均值不变。
#
# **先猜**：把 dog bites man（狗咬人）和 man bites dog（人咬狗）交给同一个注意力层。在 bites 处出来的两个向量，相同还是不同？

# %%
mine = None  # "the same" or "different"

# %%
torch.manual_seed(0)
words = TokenEmbedding(3, 16)  # dog 0, bites 1, man 2
sentences = words(torch.tensor([[0, 1, 2], [2, 1, 0]])).detach()  # (2, 3, 16)
attention = MultiHeadAttention(16, n_heads=4)
place = torch.randn(3, 16)  # for now: any vector that differs from place to place


def bites_apart(x: Tensor) -> float:
    """Return how far apart the two sentences' vectors of `bites` are after attention."""
    first, second = attention(x, x, x)[:, 1]
    return (first - second).norm().item()


assert bites_apart(sentences) < 1e-5
assert bites_apart(sentences + place) > 0.1
print(f"distance at 'bites' without positions: {bites_apart(sentences):.0e}")
print(f"with a vector added for each place:   {bites_apart(sentences + place):.1e}")
compare(mine, "the same", "05: 'bites' in two sentences, without positions")

# %% [markdown]
# 没有位置，句子就只是一个**词袋**（bag of words）。所以给每个词加上一个只取决于位置的向量。（为什么是相加，而不是像第 03 课那样并排放？因为相加之后宽度仍然是 $D$，而投影时两部分都用得上：$(x + p) W = x W + p W$。）加什么向量呢？
#
# 位置的编号本身（0、1、2……）会无限增大，它的二进制各位却不会。看看二进制是怎样数数的：

# %%
numbers = torch.arange(32)
digits = (numbers[:, None] >> torch.arange(4, -1, -1)) & 1  # (32, 5), highest digit first
assert (digits * torch.tensor([16, 8, 4, 2, 1])).sum(1).equal(numbers)
draw.counting(digits)

# %% [markdown]
# 最低位每步都变，下一位每两步变一次，依此类推。每一位都是一个波，各有各的快慢。所有的位合在一起就定出这个数，而且没有哪一位大于 1。
#
# 二进制的位在 0 与 1 之间跳。论文的编码是它的平滑版：每一位换成**一对波**，一个正弦，一个余弦；每一对都比前一对慢一个固定的倍数：
#
# $$PE_{(pos,\, 2i)} = \sin\left(pos \cdot \omega_i\right), \qquad
# PE_{(pos,\, 2i+1)} = \cos\left(pos \cdot \omega_i\right), \qquad
# \omega_i = 10000^{-2i / d_{model}} .$$
#
# 第一对每 $2\pi \approx 6.3$ 个位置转一圈；最后一对要将近 $10000 \cdot 2\pi \approx 63{,}000$ 个位置才转完一圈。

# %% [markdown]
# **轮到你了**，先别看我们的答案。写好，运行这个单元格，`check` 会告诉你哪里对、哪里理解错了。不写也行，它会说“not written yet”（还没写），后面照样用课程自己的版本。

# %%
def my_positional_encoding(max_len, d_model):
    """Sines in columns 0, 2, ..., cosines in 1, 3, ...: two numbers -> float32 (max_len, D)."""
    raise NotImplementedError


check("positional_encoding", my_positional_encoding)

# %% [markdown]
# 下面是课程的版本：

# %%
#| export
def positional_encoding(length: int, d_model: int) -> Tensor:
    """Return sines (even columns) and cosines (odd columns) of falling frequency, (length, D).

    Paper, section 3.5.
    """
    position = torch.arange(length, dtype=torch.float32)[:, None]  # (L, 1)
    frequency = 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)  # (D/2,)
    angle = position * frequency  # (L, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :d_model]

# %%
table = positional_encoding(100, 64)  # (100, 64)
assert table.abs().max() <= 1 and len(table.unique(dim=0)) == 100  # bounded, and no two alike
assert (table[:, 48:] - table[0, 48:]).abs().max() < 0.1
draw.encoding_map(table, columns=[0, 8, 16, 24])

# %% [markdown]
# 一行就是一个位置，可以当成二进制数来读，只是各位是平滑的（最低位在左边）。右边四分之一的列，在 100 个位置里几乎不变，这些列就空出来给词用。每一对都有 $\sin^2 + \cos^2 = 1$，所以各行长度相同，都是 $\sqrt{d_{model} / 2}$；分量的均方根是 $\sqrt{1/2} \approx 0.71$，也就是本页第 2 节用到的那个数。
#
# **先猜**：求位置 20 与 25 的编码的点积，再求位置 50 与 55 的。哪个大？

# %%
mine = None  # "the first", "the second" or "equal"

# %%
chosen = [20, 50, 80]
draw.dot_products(table[chosen] @ table.T, chosen)

# %% [markdown]
# 一样大。三条曲线其实是同一条：点积取决于**距离**，与位置无关。放到一对波上，这就是中学学过的公式：$\sin a \sin b + \cos a \cos b = \cos(a - b)$；把各对加起来，就是
#
# $$PE_{pos} \cdot PE_{pos+k} = \sum_i \cos(k \, \omega_i) .$$
#
# 注意力算的正是点积。所以单凭编码，一个头就能找到“离我近的”：相距不超过 5 的任何位置，都比相距 10 或更远的任何位置更匹配。

# %%
products = table @ table.T  # (100, 100)
frequencies = 10_000.0 ** (-torch.arange(0, 64, 2) / 64)
for distance in (0, 1, 5, 30):
    expected = torch.cos(distance * frequencies).sum()
    assert torch.allclose(products.diagonal(distance), expected, atol=1e-4)
assert torch.allclose(table.norm(dim=1), torch.tensor(math.sqrt(64 / 2)))
near = min(products.diagonal(distance).min() for distance in range(1, 6))
far = max(products.diagonal(distance).max() for distance in range(10, 100))
assert near > far + 1
print("the dot product at distance k is the sum of cos(k ω) over the 32 pairs, at every place")
print(f"up to 5 places away it is at least {near:.1f}, from 10 places on at most {far:.1f}")
compare(mine, "equal", "05: dot products of positions 20, 25 and 50, 55")

# %% [markdown]
# 接下来是论文里难倒大多数读者的一句话：之所以选这种编码，是因为对任意固定的偏移 $k$，$PE_{pos+k}$ 都是 $PE_{pos}$ 的**线性函数**。意思是：同一个矩阵 $R_k$，能把**每一个**位置都往后移 $k$ 位。这个矩阵不能取决于 $pos$。
#
# 怎样得到这个矩阵？把一对波看作钟的指针。每过一个位置，第 $i$ 对的指针就转过角度 $\omega_i$。往后移 $k$ 位，不论指针原来指着哪里，都再转 $k\,\omega_i$；而旋转就是一个矩阵：
#
# $$\begin{pmatrix} \sin((pos + k)\,\omega) \\ \cos((pos + k)\,\omega) \end{pmatrix} =
# \begin{pmatrix} \cos k\omega & \sin k\omega \\ -\sin k\omega & \cos k\omega \end{pmatrix}
# \begin{pmatrix} \sin(pos\,\omega) \\ \cos(pos\,\omega) \end{pmatrix} .$$
#
# 模型要这样的矩阵做什么？一个头拿查询与键比较。如果 $W^Q$ 里含有 $R_k$，位置 $pos$ 上的词，查询就是 $pos + k$ 的编码，最匹配的键就是后面第 $k$ 个词的键。所以，一个头要看后一个词或者前一个词，不必为每个位置专设参数：一个旋转矩阵管所有位置。

# %%
def turn(k: int, d_model: int) -> Tensor:
    """Return the matrix R_k, (D, D), that moves an encoding k places on."""
    angle = k * 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)
    blocks = [torch.tensor([[c, s], [-s, c]]) for s, c in zip(angle.sin(), angle.cos())]
    return torch.block_diag(*blocks)


for k in (1, 7, 40):
    moved = table[:-k] @ turn(k, 64).T  # every position, the same matrix
    assert torch.allclose(moved, table[k:], atol=1e-4)
    assert (moved @ table.T).argmax(dim=1).equal(torch.arange(k, 100))  # the key that fits best
print("one matrix moves all positions, and finds the word k places on: k = 1, 7 and 40")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 随便一张表行不行？· 选读
#
# 同一个矩阵管所有位置，这有什么特别吗？用随机数做个对照。

# %% [markdown]
# 只要行数少，几乎任何一张表都能找到合适的矩阵。所以要有对照：一张随机数的表，也是 100 行，用最小二乘法找出 $k = 1$ 时**最好**的矩阵。我们只取 16 列：行数一定，列越多，**任何**表都拟合得越好。

# %%
torch.manual_seed(0)


def misfit(table: Tensor) -> float:
    """Return the part of the next row that the best single matrix fails to predict, 0 to 1."""
    # gelsd: the solver that bears columns which are nearly copies of each other
    matrix = torch.linalg.lstsq(table[:-1], table[1:], driver="gelsd").solution
    return ((table[:-1] @ matrix - table[1:]).norm() / table[1:].norm()).item()


table_16, random_16 = positional_encoding(100, 16).double(), torch.randn(100, 16).double()
assert misfit(table_16) < 1e-4 and misfit(random_16) > 0.5
print(f"left unexplained: sinusoids {misfit(table_16):.0e}, random table {misfit(random_16):.2f}")

# %% [markdown]
# ### 正弦曲线，还是学一张表？
#
# 论文也试过另一种办法：**学**出来的位置，就是一张普通的权重表（表 3 的 E 行）。得分几乎一样，25.7 BLEU 对 25.8。句子比表还长时，区别才显出来：正弦曲线不论多长都能算出来，学出来的表却已经到头了。（训练时没见过的长度，模型能不能**用好**，是另一回事。论文也只是希望如此。）
#
# 下面这个类，两种位置都支持。可学习的位置一开始几乎不起作用，大小只有 0.02，而词是 1。模型里的第一处**暂退法**（dropout）也在这个类里：训练时，它以概率 $P_{drop}$ 把每个分量置零，并把其余的放大。5.4 节规定它放在这里，作用于词与位置之和。

# %%
#| export
class PositionalEncoding(nn.Module):
    """Add to each vector a pattern that says where it stands: (B, L, D) -> (B, L, D).

    Dropout follows. Sinusoids go on for any length; learned positions end at `max_len`
    (ValueError beyond).
    Paper, sections 3.5 and 5.4.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.learned = config.positions == "learned"
        if self.learned:
            self.table = nn.Parameter(torch.randn(config.max_len, config.d_model) * 0.02)
        else:
            table = positional_encoding(config.max_len, config.d_model)
            self.register_buffer("table", table, persistent=False)  # no parameter, not saved

    def forward(self, x: Tensor) -> Tensor:
        length = x.size(1)
        if length > len(self.table):
            if self.learned:
                raise ValueError(
                    f"a sentence of {length} tokens, but learned positions end at "
                    f"max_len={len(self.table)}: shorten it, or use sinusoidal positions"
                )
            longer = max(length, 2 * len(self.table))  # a writer asks for one more, again and again
            self.table = positional_encoding(longer, x.size(2)).to(self.table)
        return self.dropout(x + self.table[:length])

# %%
# NBVAL_CHECK_OUTPUT
small = dict(src_vocab=10, tgt_vocab=10, d_model=16, max_len=8, dropout=0.0)
sinusoidal = PositionalEncoding(TransformerConfig(**small))
learned = PositionalEncoding(TransformerConfig(**small, positions="learned"))
long = torch.zeros(1, 12, 16)
assert torch.equal(sinusoidal(long)[0], positional_encoding(12, 16))
assert len(sinusoidal.table) == 16  # doubled: the next four tokens need no new table
try:
    learned(long)
    raise AssertionError("a learned table of 8 rows accepted 12 tokens")
except ValueError as error:
    print(error)

# %% [markdown]
# > **试一试。** 在 `positional_encoding` 里把 10,000 换成 10，再画一次点积。现在，相距 11 个位置的两个词，和相距 50 个位置的两个词，哪一对更像？这为什么会让模型糊涂？
#
# <details><summary>答案</summary>
#
# 相距 50 的两个词更像：它们的点积是 3.0，而相距 11 时是 −6.8。现在最慢的一对每 58 个位置就转一圈，所以 100 个位置之内，所有的波都会转回来。一个头想找“近的”，有些远的词反而会排在更近的词前面。
#
# </details>

# %% [markdown]
# 下面有两道题，问的都是为什么。`check("...")` 给出题目，用字母作答：`check("positions_sum", "b")`。每个错误选项都有专门的解释。

# %%
check("positions_sum")

# %%
check("positions_learned")

# %% [markdown]
# ## 4 · 不让数走样：层归一化（3.1 节）
#
# 很深的模型要乘很多次，加很多次。每一层都把输入放大一点点，叠起来就大得吓人；都缩小一点点，最后什么也不剩。本页第 6 节会把两种情形都测出来。**层归一化**（layer normalisation，Ba、Kiros 与 Hinton 2016）就是对策：对每个向量单独处理，减去各分量的均值，再除以它们的标准差。然后每个分量再有一个可学习的**增益** $g$ 和**偏置** $b$，模型需要别的大小时，可以自己选：
#
# $$\operatorname{LayerNorm}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} \odot g + b, \qquad
# \mu = \frac{1}{D} \sum_i x_i, \qquad \sigma^2 = \frac{1}{D} \sum_i (x_i - \mu)^2 .$$
#
# 符号 $\odot$ 是逐分量相乘。小数 $\varepsilon$ 在 Ba 等人的论文里没有，是 PyTorch 加的，这样，即使向量的各分量全相等，也不会除以 0。

# %% [markdown]
# **轮到你了：**

# %%
def my_layer_norm(x, gain, bias, eps):
    """Normalise each vector: x (..., D), gain and bias (D,) -> (..., D)."""
    raise NotImplementedError


check("layer_norm", my_layer_norm)

# %%
#| export
def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return each vector of x (..., D) with mean 0 and variance 1, then times gain plus bias (D,).

    Ba et al. 2016, with the biased variance; eps inside the root is PyTorch's.
    """
    mean = x.mean(-1, keepdim=True)
    variance = x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias

# %%
torch.manual_seed(0)
tokens = torch.randn(3, 16) * torch.tensor([[0.2], [1.0], [3.0]]) + torch.tensor([[4.0], [0], [-2]])
normed = layer_norm(tokens, torch.ones(16), torch.zeros(16))
assert normed.mean(-1).abs().max() < 1e-5 and (normed.square().mean(-1) - 1).abs().max() < 1e-3
figure, axes = plt.subplots(1, 2, figsize=(8, 2.4), sharex=True, sharey=True)
titles = "Before: each has its own centre and size", "After: all have the same"
for axis, values, title in zip(axes, (tokens, normed), titles):
    for row, marker in enumerate("os^"):
        axis.plot(values[row], torch.full((16,), row), marker, alpha=0.6)
    axis.axvline(0, color=GREY, lw=0.8)
    axis.set(xlabel="value of a component", title=title, yticks=range(3))
axes[0].set_ylabel("token")
draw.finish(figure)

# %% [markdown]
# 每个词元单独处理：与相邻的词无关，与批次里别的句子无关，训练和使用时也没有区别。（批归一化把一个批次的句子混在一起，这三条它一条也不满足。）
#
# **先猜**：把一个词元的向量乘以 3，再给每个分量加上 7，归一化之后有什么变化？

# %%
mine = None  # "the size", "the centre", "both" or "nothing"

# %%
one, zero = torch.ones(16), torch.zeros(16)
assert torch.allclose(layer_norm(3 * tokens + 7, one, zero), normed, atol=1e-3)
assert torch.allclose(layer_norm(tokens[1], one, zero), normed[1], atol=1e-6)
assert torch.allclose(normed, F.layer_norm(tokens, (16,)), atol=1e-6)
print("nothing changes; a token alone gives the same as a token among others; PyTorch agrees")
compare(mine, "nothing", "05: a layer norm after times 3 plus 7")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 公式的两个细节 · 选读
#
# 用哪种方差，$\varepsilon$ 放在哪里：这两点，许多程序写得不一样。

# %% [markdown]
# **方差是有偏的那种。** 它除以 $D$，不是 $D - 1$。除以 $D - 1$ 是统计学的做法，那里要用样本去**估计**总体的方差。这里没有什么要估计：这个向量就是总体。用 $D - 1$，结果的方差就不是 1。PyTorch 的 `x.std()` 如果不另外说明，除的是 $D - 1$。
#
# **$\varepsilon$ 在根号里面。** 它防的是各分量全相等时除以零。放在根号外面，写成 $\sigma + \varepsilon$，算出的值也没有问题。可是要学习，还需要**梯度**，而 $\sqrt{v}$ 在 $v = 0$ 处的斜率是无穷大：照公式直接写，梯度就是 NaN。（PyTorch 的 `x.std()` 把这一点藏起来了：它**规定** 0 处的斜率为 0。）

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
x = torch.randn(1000, 4, dtype=torch.float64)
biased = layer_norm(x, torch.ones(4), torch.zeros(4), eps=0)
unbiased = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
assert abs(biased.square().mean() - 1) < 1e-9
assert abs(unbiased.square().mean() - 3 / 4) < 1e-9  # (D - 1) / D


def gradient_is_finite(norm: Callable[[Tensor], Tensor]) -> bool:
    """Return whether a vector of equal components gets a usable gradient through `norm`."""
    flat = torch.full((4,), 2.0, requires_grad=True)
    (norm(flat) * torch.arange(4.0)).sum().backward()
    return bool(flat.grad.isfinite().all())


assert gradient_is_finite(lambda x: layer_norm(x, torch.ones(4), torch.zeros(4)))
assert not gradient_is_finite(lambda x: (x - x.mean()) / (x.var(unbiased=False).sqrt() + 1e-5))
assert gradient_is_finite(lambda x: (x - x.mean()) / (x.std(unbiased=False) + 1e-5))
print("D = 4: variance 1 with D, only 0.75 with D - 1")
print("gradient: finite with eps inside the root, NaN for sqrt(var) + eps")

# %% [markdown]
# ### 写成模块
#
# 增益和偏置变成参数。PyTorch 自己的函数一步就完成同样的计算；上面有个单元格已经验证过，结果一致。

# %%
#| export
class LayerNorm(nn.Module):
    """Normalise each vector, with a learned gain and bias: (..., D) -> (..., D)."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # `layer_norm` above, in one step
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias, self.eps)

# %% [markdown]
# > **试一试。** 把向量 $(1, -1, 1, -1)$ 和 $(100, -100, 100, -100)$ 归一化。层归一化忘掉了向量的什么？模型的哪个部分能把它留住？
#
# <details><summary>答案</summary>
#
# 两个都变成 $(1, -1, 1, -1)$：归一化忘掉了向量的长度，也忘掉了均值，只剩下方向。绕过归一化的路可以留住长度：在前归一化（pre-norm）里，残差连接就是这样一条路（第 6 节）；在后归一化（post-norm）里，每个和都要归一化，没有什么能留住它。
#
# </details>

# %% [markdown]
# ## 5 · 该动脑筋了：前馈网络（3.3 节）
#
# 注意力负责收集信息。权重一旦定下，输出就是值的加权平均，也就是值的**线性**函数：先把两个句子的值相加，再做注意力，和先各做注意力、再相加，结果一样。
#
# **先猜**：让六个注意力层（连同所有的投影）处理只有一个词的句子。（每个结果都加到输入上，和第 04 课那个写句子的模型一样；原因见第 6 节。）对这个词的向量，它们能算出哪一类函数？

# %%
mine = None  # "linear", "quadratic" or "any"

# %%
torch.manual_seed(0)
layers = nn.ModuleList(MultiHeadAttention(16, 4) for _ in range(6))


def attend_six_times(x: Tensor) -> Tensor:
    """Six attention layers, each added to its input: (B, L, 16) -> (B, L, 16)."""
    for layer in layers:
        x = x + layer(x, x, x)
    return x


a, b = torch.randn(2, 1, 1, 16)  # two sentences of one word each
both = attend_six_times(2 * a - 3 * b)
apart = 2 * attend_six_times(a) - 3 * attend_six_times(b)
assert torch.allclose(both, apart, atol=1e-4)
print("six attention layers on one word: linear, up to rounding")
compare(mine, "linear", "05: six attention layers on one word")

# %% [markdown]
# 线性函数，仅此而已。只有一个词，它就占全部权重，所以每一层都只是给向量乘一个矩阵，只有一个头时是 $I + W^V W^O$；六个矩阵连乘，还是一个矩阵。（词多了，情况稍有不同。**权重**通过 softmax 取决于各个词，而 softmax 不是线性的。但按这些权重算出来的，仍然是平均。）
#
# 语言光靠平均是不够的。英语的词尾 **-s** 加在**复数名词**（dogs）和**单数动词**（barks）上，却不加在单数名词（dog）和复数动词（bark）上。所以词尾取决于一个词的两个特征，单看哪一个都不行：这是**异或**。没有一条直线能把这四个角分开。**前馈网络**（feed-forward network）可以：
#
# $$\operatorname{FFN}(x) = \max(0,\; x W_1 + b_1)\, W_2 + b_2 .$$
#
# 每个位置用的都是同一个小网络：把向量加宽到 $d_{ff}$，只留下正数，再收窄回来。$d_{ff}$ 个隐藏单元，每个都向这个向量提一个问题（“它指着这个方向吗？”）；如果答案是“是”，就把自己的向量加到结果里。

# %% [markdown]
# **轮到你了：**

# %%
def my_feed_forward(x, w_1, b_1, w_2, b_2):
    """Equation 2: x (..., D), w_1 (D, F), b_1 (F,), w_2 (F, D), b_2 (D,) -> (..., D)."""
    raise NotImplementedError


check("feed_forward", my_feed_forward)

# %%
#| export
class FeedForward(nn.Module):
    """Widen each position to `d_ff`, keep what is positive, narrow again: (B, L, D) -> (B, L, D).

    Paper, equation 2.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.w_2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(torch.relu(self.w_1(x)))

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 训练试试：直线分不开的词尾 · 选读
#
# 两个小模型学习加词尾：一个只有注意力，另一个有前馈网络。

# %% [markdown]
# 我们训练两个模型：一个是六个注意力层，没有前馈网络；另一个是一个注意力层，加一个前馈网络。六层的那个参数更多。

# %%
class Ending(nn.Module):
    """Decide on -s: features (B, 1, 2) -> logits (B, 1, 2), with or without a feed-forward net."""

    def __init__(self, n_attention: int, with_ffn: bool) -> None:
        super().__init__()
        self.w_in, self.w_out = nn.Linear(2, 16), nn.Linear(16, 2)
        self.attention = nn.ModuleList(MultiHeadAttention(16, 4) for _ in range(n_attention))
        self.feed_forward = FeedForward(16, 64) if with_ffn else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.w_in(x)
        for attention in self.attention:
            x = x + attention(x, x, x)
        if self.feed_forward is not None:
            x = x + self.feed_forward(x)
        return self.w_out(x)


def random_words(n: int) -> tuple[Tensor, Tensor]:
    """Return n random words as noisy features (n, 1, 2) and whether each takes -s, (n, 1)."""
    verb, plural = torch.randint(0, 2, (2, n, 1))
    features = 2.0 * torch.stack([verb, plural], dim=-1) - 1
    return features + 0.2 * torch.randn(features.shape), verb ^ plural

# %%
def learn_endings(n_attention: int, with_ffn: bool) -> tuple[Ending, float]:
    """Train one model for 300 steps; return it and its accuracy on new words."""
    torch.manual_seed(0)
    model = Ending(n_attention, with_ffn)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        features, answer = random_words(128)
        loss = F.cross_entropy(model(features).flatten(0, 1), answer.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, answer = random_words(2000)
    return model, (model(features).argmax(-1) == answer).float().mean().item()


mixing, mixing_right = learn_endings(n_attention=6, with_ffn=False)
thinking, thinking_right = learn_endings(n_attention=1, with_ffn=True)
sizes = [sum(p.numel() for p in model.parameters()) for model in (mixing, thinking)]
assert mixing_right < 0.78 and thinking_right > 0.99 and sizes[0] > sizes[1]
print(f"parameters: six attention layers {sizes[0]}, one with a net {sizes[1]}")
print(f"right endings: six attention layers {mixing_right:.0%}, with a net {thinking_right:.0%}")

# %%
features, answer = random_words(80)
line = torch.linspace(-1.8, 1.8, 60)
grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 1, 2)
chance = {
    title: model(grid).softmax(-1)[..., 1].detach().reshape(60, 60)
    for title, model in (("Attention alone: no line will do", mixing),
                         ("With a feed-forward net: four corners", thinking))
}
corners = [(8, 8), (8, 51), (51, 8), (51, 51)]  # (plural, verb) as rows and columns of the grid
thought = list(chance.values())[1]
assert [thought[corner].item() > 0.5 for corner in corners] == [False, True, True, False]
draw.decision_maps(chance, features[:, 0], answer[:, 0], extent=1.8)

# %% [markdown]
# > **试一试。** 把六个注意力层读的句子，从一个词换成五个随机的词，对每个词都问同样的问题。这回它们居然学会了！靠的是 softmax。一个词怎样借助相邻的词，算出自己该用什么词尾？为什么用这个办法代替前馈网络并不好？
#
# <details><summary>答案</summary>
#
# 通过 softmax，注意力权重取决于这个词自己的特征。所以一个词可以凭一个特征决定看**谁**；看的词不同，得到的信息也不同。这就相当于把特征相乘，任何平均都做不到。用它代替前馈网络并不好，因为相邻的词得碰巧能提供有用的信息。句子只有一个词时，没有相邻的词，模型又变回线性的。
#
# </details>

# %% [markdown]
# 所以，注意力在位置**之间**搬运信息，前馈网络在每个位置**内部**做计算。

# %%
check("feed_forward_why")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 前馈网络占多少权重，还有两个别名 · 选读
#
# 前馈网络有多大，后来的研究又怎样称呼它。

# %% [markdown]
# 这个网络对每个位置一视同仁，单独处理：论文把它叫做两个宽度为 1 的卷积。在 base 模型里，它占编码器层三分之二的权重。后来的研究把它看作一种记忆：每个隐藏单元识别某个方向，识别出来了，就把相应的内容加到结果里（Geva et al. 2021）。

# %%
torch.manual_seed(0)
ffn = FeedForward(512, 2048)
x = torch.randn(2, 7, 512)
assert torch.allclose(ffn(x)[:, 3], ffn(x[:, 3]), atol=1e-4)  # a position alone: the same
n_ffn = sum(p.numel() for p in ffn.parameters())
share = n_ffn / (n_ffn + 4 * 512**2)
assert 0.66 < share < 0.67
print(f"the feed-forward network holds {share:.0%} of the weights of an encoder layer")

# %% [markdown]
# ## 6 · 保住已有的信息：残差连接（3.1 节）
#
# 每个子层，无论是注意力还是前馈网络，都用同样的方式包起来。它的结果不是**替换**输入，而是**加**到输入上：这就是**残差连接**（residual connection，He et al. 2016）。相加之后再归一化：
#
# $$x \leftarrow \operatorname{LayerNorm}\left(x +
# \operatorname{Dropout}(\operatorname{Sublayer}(x))\right) \qquad \text{(post-norm, section 3.1)}$$
#
# 后来，另一种次序更常用。归一化放在子层**之前**，从底到顶的那条路上没有归一化（这叫前归一化，pre-norm；上面那种叫后归一化，post-norm）：
#
# $$x \leftarrow x + \operatorname{Dropout}(\operatorname{Sublayer}(\operatorname{LayerNorm}(x)))
# \qquad \text{(pre-norm)}$$
#
# 暂退法的第二处也在这里：作用于每个子层的输出，在相加之前（5.4 节）。

# %%
#| export
class Residual(nn.Module):
    """Add what a sub-layer finds to what came in, and normalise: (B, L, D) -> (B, L, D).

    post: norm(x + dropout(sublayer(x))), as the paper prints it (section 3.1);
    pre: x + dropout(sublayer(norm(x))), as its code came to do.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.pre = config.norm == "pre"

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))

# %% [markdown]
# `sublayer` 是一个函数，这样同一个包装既能包注意力，也能包前馈网络。于是一个**编码器层**只要两行：自注意力包上残差，前馈网络也包上残差。

# %% [markdown]
# **轮到你了**，如果你有半个小时：把这一层写成自己的类，连同子层、归一化和相加。（检查时不许用 `course` 里现成的东西；注意力部分，把你在第 03 课写的类贴在上面。）

# %%
class MyEncoderLayer(nn.Module):
    """Called (x (B, S, D), mask (B, 1, 1, S), True = may attend) -> (B, S, D)."""

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        raise NotImplementedError


check("EncoderLayer", MyEncoderLayer)

# %%
#| export
def attention_of(config: TransformerConfig) -> MultiHeadAttention:
    """Return a fresh attention sub-layer of the configured sizes."""
    return MultiHeadAttention(config.d_model, config.n_heads, config.d_k, config.d_v)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each in a residual: x (B, S, D), mask -> (B, S, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attention = attention_of(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.residuals = nn.ModuleList(Residual(config) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.residuals[0](x, lambda x: self.self_attention(x, x, x, mask))
        return self.residuals[1](x, self.feed_forward)

# %% [markdown]
# **编码器**就是 $N$ 个这样的层叠起来，每层各有自己的权重。在前归一化里，最后的和没有归一化，所以顶上还要再加一个归一化。

# %%
#| export
class Encoder(nn.Module):
    """`n_layers` encoder layers; a pre-norm stack ends in one more norm: (B, S, D) -> (B, S, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)

# %% [markdown]
# **为什么相加和归一化两样都要？** 没有残差，梯度往下传时，每过一个子层，就要乘一次它的 $f'$。有了 $y = x + f(x)$，乘的是 $1 + f'(x)$：有了这个 1，梯度就有一条路可以原样传下去（第 01 课：加法把梯度原样往下传）。可是相加也有坏处：如果 $f(x)$ 随 $x$ 一起变大，每加一次，$x$ 就放大一个倍数；24 层有 48 个这样的倍数，乘起来就爆炸了。归一化就是用来制止这种爆炸的。
#
# 理论就到这里。现在来测，先不训练。我们搭五种刚初始化的编码器，2 到 24 层：两样都没有，只有归一化，只有残差，两样都有（两种次序）。底部送进随机的向量，顶部送进长度为 1 的随机梯度，测两个量：
#
# - **底部的梯度有多长。** 接近 0，最低的一层什么也学不到；太大，走一步就把这一层毁了；
# - **顶部各个位置有多像**：两个位置的向量的余弦，取平均。等于 1，就是所有的词都变成了同一个向量，什么也分不出来。
#
# **先猜**：只有归一化、没有残差，一层层堆上去，会坏在哪一个量上？

# %%
mine = None  # "the gradient" or "the likeness"

# %%
class Partial(Residual):
    """A residual connection with parts left out, for the experiments of this page only."""

    def __init__(self, config: TransformerConfig, kind: str) -> None:
        super().__init__(config)
        self.kind = kind

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.kind == "nothing at all":
            return x
        if self.kind == "neither":
            return sublayer(x)
        if self.kind == "norm only":
            return self.norm(sublayer(x))
        if self.kind == "residual only":
            return x + sublayer(x)
        return super().forward(x, sublayer)


def fresh_stack(attention: str, net: str, n_layers: int, gain: float = 1.0) -> Encoder:
    """Return an untrained encoder of width 64, its connections around the two parts as named."""
    norm = "pre" if attention == "pre-norm" else "post"
    config = TransformerConfig(9, 9, 64, 4, 256, n_layers, dropout=0.0, norm=norm)
    encoder = Encoder(config)
    for layer in encoder.layers:
        layer.residuals = nn.ModuleList(Partial(config, kind) for kind in (attention, net))
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, gain)  # the usual start: section 9
    return encoder

# %%
def mean_cosine(vectors: Tensor) -> float:
    """Return the mean cosine between the vectors of two positions of a sentence, (B, L, D)."""
    unit = F.normalize(vectors, dim=-1)
    cosines = unit @ unit.transpose(1, 2)  # (B, L, L)
    n_sentences, length, _ = cosines.shape
    return ((cosines.sum() / n_sentences - length) / (length * (length - 1))).item()


def measure(attention: str, net: str, n_layers: int, gain: float = 1.0) -> tuple[float, float]:
    """Return the length of the gradient at the bottom and how alike positions are at the top."""
    found = []
    for seed in range(by_scale(smoke=1, cpu=3, gpu=3)):
        torch.manual_seed(seed)
        x = torch.randn(8, 16, 64, requires_grad=True)  # 8 sentences, 16 positions
        y = fresh_stack(attention, net, n_layers, gain)(x)
        y.backward(F.normalize(torch.randn(y.numel()), dim=0).view_as(y))
        found.append((x.grad.norm().item(), mean_cosine(y.detach())))
    return tuple(sum(values) / len(found) for values in zip(*found))


depths = (2, 6, 12, 24)
kinds = ("neither", "residual only", "norm only", "post-norm", "pre-norm")
bottom, alike = {}, {}  # {kind: {depth: value}}
for kind in kinds:
    values = {n: measure(kind, kind, n) for n in depths}
    bottom[kind], alike[kind] = ({n: pair[i] for n, pair in values.items()} for i in (0, 1))

# %%
draw.lines_by_depth([
    ("The gradient dies with neither,\nexplodes with the residual only",
     "length of the gradient at the bottom", "log", bottom),
    ("Without residuals all positions\nare alike after six layers",
     "mean cosine between positions", "linear", alike),
])

# %%
for kind in kinds:
    print(f"{kind:14} 24 layers: gradient {bottom[kind][24]:5.0e}", end="")
    print(f"   positions alike: 6 layers {alike[kind][6]:.2f}, 24 layers {alike[kind][24]:.2f}")
assert bottom["neither"][24] < 1e-5 and bottom["residual only"][24] > 1e5
assert all(0.4 < bottom[kind][24] < 2.5 for kind in ("norm only", "post-norm", "pre-norm"))
assert alike["norm only"][6] > 0.999
assert alike["pre-norm"][6] + 0.2 < alike["post-norm"][6] < 0.95
assert alike["post-norm"][12] > 0.99 and alike["pre-norm"][24] < 0.93
compare(mine, "the likeness", "05: what spoils a stack of norms without residuals")

# %% [markdown]
# 刚初始化时，各种情形是这样的：
#
# - **两样都没有：** 每过一层，梯度大致缩小同一个倍数。24 层之后几乎不剩什么，最低的几层没法学习。
# - **只有残差：** 每个和都比两个加数大，信号一层层增大，梯度也一样。
# - **只有归一化：** 梯度的大小很合适。许多文章讲到这里就停了，说残差是为了保住梯度的大小。可是毛病要看右图：六层之后，**所有的词都是同一个向量**。哪个词原来在哪个位置，再也分不清了。
# - **两样都有：** 归一化保持大小，残差让各个词不那么快变得一样。论文用的是六层，这时各个词还有区别。用这样的初始权重，后归一化到 12 层就分不清各个词了；前归一化到 24 层还留下一点区别。
#
# （刚初始化的模型只能说明训练怎样开始，不能说明怎样结束。第 12 节会训练其中四种。）

# %% [markdown]
# > **试一试。** 残差的输入和输出要相加，所以宽度必须相同。这就定死了模型的哪些尺寸？论文 3.1 节的哪句话说到这一点？
#
# <details><summary>答案</summary>
#
# 定死的是进出每个子层的向量：$W^O$ 的输出、前馈网络的输出、嵌入和位置，宽度都是 $d_{model}$。子层内部的宽度是自由的（$h d_k$、$h d_v$、$d_{ff}$）。那句话是 3.1 节讲编码器的最后一句：所有子层和嵌入的输出维度都是 $d_{model} = 512$，“to facilitate these residual connections”（为了方便做残差连接）。
#
# </details>

# %%
check("residual_gradient")

# %%
check("residual_alike")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 是谁让词变得一样？是初始化的缘故吗？· 选读
#
# 两个对照：去掉注意力或前馈网络；初始权重取小一些。

# %% [markdown]
# 是谁让词变得一样？注意力取平均，而平均会把词拉近（Dong et al. 2021 对纯注意力证明了这一点）。不过做个对照很容易：只保留归一化，一次去掉注意力，一次去掉前馈网络。

# %%
without_attention = {n: measure("nothing at all", "norm only", n)[1] for n in (6, 24)}
without_net = {n: measure("norm only", "nothing at all", n)[1] for n in (6, 24)}
assert without_net[6] > 0.99
assert 0.6 < without_attention[6] < 0.9 < without_attention[24]
print(f"attention alone:     6 layers {without_net[6]:.2f}, 24 layers {without_net[24]:.2f}")
print(f"feed-forward alone:  6 layers {without_attention[6]:.2f}, "
      f"24 layers {without_attention[24]:.2f}")

# %% [markdown]
# 可见，注意力把词变得一样，速度更快，但原因不只在它：刚初始化的前馈网络，虽然从来看不到第二个词，照样会把词变得一样。
#
# 第二个对照。我们的初始权重照 Xavier 规则取，没有缩小，第 9 节的模型也是这样。权重小一些，每个子层在和里占的份额就小一些。下面把所有矩阵缩到 0.3 倍，再做同样的测量。

# %%
small_start = {kind: {n: measure(kind, kind, n, gain=0.3)[1] for n in (12, 24)}
               for kind in ("post-norm", "pre-norm")}
for kind, points in small_start.items():
    for n, value in points.items():
        print(f"{kind:9} {n} layers: full size {alike[kind][n]:.2f}, 0.3 times {value:.2f}")
assert max(points[24] for points in small_start.values()) < 0.12
assert abs(small_start["post-norm"][24] - small_start["pre-norm"][24]) < 0.01

# %% [markdown]
# 权重小的时候，无论哪种次序，到 24 层各个词仍然分得清。所以“后归一化会分不清词”，说的是后归一化**加上**这种初始化；单凭归一化的位置，定不了结果。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 7 · 后归一化还是前归一化？· 选读
#
# 只看前面那幅图的左图，两种次序一样好。它们的区别在**顶部**，论文的训练之所以从小步开始（预热，第 07 课），这就是原因之一。

# %% [markdown]
# 看**最后**一层的最后一个权重矩阵（前馈网络的 $W_2$）：下面的层越叠越多时，它的梯度怎样变。
#
# **先猜**：最后一层的梯度，应该取决于它下面有多少层吗？

# %%
def last_gradient(kind: str, n_layers: int) -> float:
    """Return the length of the gradient of the last W_2, a mean over fresh stacks."""
    lengths = []
    for seed in range(by_scale(smoke=1, cpu=3, gpu=3)):
        torch.manual_seed(seed)
        encoder = fresh_stack(kind, kind, n_layers)
        y = encoder(torch.randn(8, 16, 64))
        y.backward(F.normalize(torch.randn(y.numel()), dim=0).view_as(y))
        lengths.append(encoder.layers[-1].feed_forward.w_2.weight.grad.norm().item())
    return sum(lengths) / len(lengths)


last = {kind: {n: last_gradient(kind, n) for n in depths} for kind in ("post-norm", "pre-norm")}
draw.lines_by_depth([
    ("The last layer's gradient stays large in\npost-norm, and shrinks in pre-norm",
     "gradient of the last W₂", "linear", last),
], names=kinds)

# %%
def slope(points: dict[int, float]) -> float:
    """Return the exponent p of the power law value ~ depth^p that fits best."""
    x = torch.tensor([math.log(n) for n in points])
    y = torch.tensor([math.log(value) for value in points.values()])
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x * x).sum()).item()


exponent = {kind: slope(points) for kind, points in last.items()}
assert abs(exponent["post-norm"]) < 0.15
assert -0.7 < exponent["pre-norm"] < -0.35
print(f"the last gradient goes like depth^{exponent['post-norm']:.2f} in post-norm,")
print(f"and like depth^{exponent['pre-norm']:.2f} in pre-norm; 1/√depth would be depth^-0.50")

# %%
check("norm_where")

# %% [markdown]
# 对刚初始化的模型，Xiong et al. (2020) 把两种情形都证明了。在前归一化里，每过一层，和就增大一些（每次方差的增量大致相同），最后的归一化再除以它的大小，约为 $\sqrt{N}$。所以堆得越深，每一层对结果的影响就越小：梯度按 $1/\sqrt{N}$ 的比例缩小。在后归一化里，最后一层对结果的影响总是足量的。他们的结论是：用后归一化，第一步就用足学习率，对上面几层来说太猛了。这就是需要**预热**（warm-up）的一个原因：学习率先从小的开始（第 07 课）。
#
# 论文写的是后归一化；作者自己的代码（tensor2tensor）后来改成了前归一化。我们的模型两种都有，默认用后归一化，与论文一致。

# %% [markdown]
# ## 8 · 解码器（3.1 节）
#
# 解码器一个词元接一个词元地写出译文。它的层有**三个**子层，各回答一个问题：
#
# 1. “我已经写了什么？”目标句上的自注意力，用第 04 课的因果掩码。
# 2. “源句是怎么说的？”**交叉注意力**：查询来自解码器，键和值来自编码器的输出，代码里叫 `memory`（记忆）。
# 3. “由此能得出什么？”前馈网络。

# %% [markdown]
# **轮到你了：**

# %%
class MyDecoderLayer(nn.Module):
    """Called (x (B, T, D), memory (B, S, D), src_mask (B, 1, 1, S), tgt_mask (B or 1, 1, T, T))."""

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        raise NotImplementedError


check("DecoderLayer", MyDecoderLayer)

# %%
#| export
class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the source, feed-forward, each in a residual.

    x (B, T, D), memory (B, S, D), src_mask (B, 1, 1, S), tgt_mask (B, 1, T, T) -> (B, T, D).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attention = attention_of(config)
        self.cross_attention = attention_of(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.residuals = nn.ModuleList(Residual(config) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        x = self.residuals[0](x, lambda x: self.self_attention(x, x, x, tgt_mask))
        x = self.residuals[1](x, lambda x: self.cross_attention(x, memory, memory, src_mask))
        return self.residuals[2](x, self.feed_forward)

# %%
#| export
class Decoder(nn.Module):
    """`n_layers` decoder layers; a pre-norm stack ends in one more norm: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        for layer in self.layers:
            x = layer(x, memory, src_mask, tgt_mask)
        return self.norm(x)

# %%
check("cross_attention_sources")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 谁能看到谁？· 选读
#
# 一个输出取决于哪些位置，又是通过哪个子层：问梯度就知道。

# %% [markdown]
# 不要相信代码，去问梯度。对每个输出位置，我们计算：如果改动目标句或源句的一个位置，这个输出会变多少。看不到的位置，梯度恰好为 0。

# %%
torch.manual_seed(0)
decoder = Decoder(TransformerConfig(9, 9, 32, 4, 64, n_layers=2, dropout=0.0))
x = torch.randn(1, 5, 32, requires_grad=True)  # 5 target positions
memory = torch.randn(1, 7, 32, requires_grad=True)  # 7 source positions
src_mask = padding_mask(torch.tensor([[1, 1, 1, 1, 1, 0, 0]]), pad_id=0)  # the last two are padding
direction = torch.randn(32)
from_target, from_source = torch.zeros(5, 5), torch.zeros(5, 7)
for t, moved in enumerate(decoder(x, memory, src_mask, causal_mask(5))[0] @ direction):
    to_target, to_source = torch.autograd.grad(moved, (x, memory), retain_graph=True)
    from_target[t], from_source[t] = to_target[0].norm(dim=1), to_source[0].norm(dim=1)
draw.influence_maps([
    ("A position sees itself and the past", "target position", from_target),
    ("... and every real token of the source", "source position (5, 6: padding)", from_source),
])

# %%
# NBVAL_CHECK_OUTPUT
assert from_target.triu(1).eq(0).all() and from_target.tril().ne(0).sum() == 15
assert from_source[:, 5:].eq(0).all() and from_source[:, :5].ne(0).all()
print("future: exactly 0; padding: exactly 0; past, itself and the source: never 0")

# %% [markdown]
# **先猜**：三个子层中，解码器层只能通过哪一个得到源句的信息？哪一个能看到不止一个目标位置？我们一次关掉一个。

# %%
def hears(layer: DecoderLayer) -> tuple[bool, bool]:
    """Return whether the last output of a layer depends on the source, and on the past."""
    x, memory = torch.randn(1, 5, 32, requires_grad=True), torch.randn(1, 7, 32, requires_grad=True)
    moved = layer(x, memory, None, causal_mask(5))[0, -1] @ direction
    past, source = torch.autograd.grad(moved, (x, memory))
    return bool(source.ne(0).any()), bool(past[0, :-1].ne(0).any())


layer = decoder.layers[0]
print("sub-layer switched off   hears the source   hears the past")
for name in ("nothing", "self_attention", "cross_attention", "feed_forward"):
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    if name != "nothing":
        for parameter in getattr(layer, name).parameters():
            parameter.data.zero_()
    source, past = hears(layer)
    assert (source, past) == (name != "cross_attention", name != "self_attention")
    print(f"{name:24} {source!s:18} {past}")
    layer.load_state_dict(before)

# %% [markdown]
# ## 9 · 整个模型（图 1）
#
# 部件都齐了，最后一个类只是把它们拼起来。`encode` 把源句读一遍。`decode` 读已经写出的部分和记忆。`project` 给词表里的每个词打分（即 logit）；分数经过 softmax 就是概率。这一步 softmax 留给损失和搜索去做。
#
# 其他矩阵怎样初始化？它们要乘向量，所以用 Xavier 规则。要保持大小，前向传播时方差应取 $1/n_{in}$，反向传播时应取 $1/n_{out}$；这条规则取 $2/(n_{in}+n_{out})$。矩阵是方阵时，两个要求恰好一致。嵌入和可学习的位置是查表用的，所以保留我们给它们的初始值。

# %%
#| export
class Transformer(nn.Module):
    """The whole model: src (B, S), tgt_in (B, T) and their masks -> logits (B, T, V).

    `encode`, `decode` and `project` are its three steps, for a decoder that takes them one by one.
    Paper, figure 1.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.src_embedding = TokenEmbedding(config.src_vocab, config.d_model)
        self.tgt_embedding = (
            self.src_embedding
            if config.tie_embeddings
            else TokenEmbedding(config.tgt_vocab, config.d_model)
        )
        self.positions = PositionalEncoding(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.w_vocab = nn.Linear(config.d_model, config.tgt_vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name and "positions" not in name:
                nn.init.xavier_uniform_(parameter)
        if config.tie_embeddings:
            self.w_vocab.weight = self.tgt_embedding.weight

    def encode(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """Read the source once: (B, S) -> memory (B, S, D)."""
        return self.encoder(self.positions(self.src_embedding(src)), src_mask)

    def decode(
        self,
        tgt_in: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        """Read what is written so far and the memory: (B, T) -> states (B, T, D)."""
        x = self.positions(self.tgt_embedding(tgt_in))
        return self.decoder(x, memory, src_mask, tgt_mask)

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

# %% [markdown]
# ### 让模型画自己
#
# 手画的图可能有错，所以让模型画自己。`draw.trace` 让它运行一遍，输入 7 个源词元和 5 个目标词元，记下谁调用了谁，形状是什么。图上的线也不是从代码里读出来的。程序先让每个部件的结果与之前的计算断开，再问自动求导（autograd）：下一个部件的输入取决于其中哪些结果？取决于一个，就画一条线；取决于两个，就是相加，各画一条线；一个也没有，就不画。

# %%
torch.manual_seed(0)
post_model = Transformer(TransformerConfig.base(1000)).eval()
src, tgt_in = torch.randint(1000, (2, 7)), torch.randint(1000, (2, 5))
traced = draw.trace(post_model, src=src, tgt_in=tgt_in)
assert traced.shape_out == (2, 5, 1000)
draw.draw_model(traced, "The base model's layers, drawn from a run, with a toy vocabulary of 1,000")

# %% [markdown]
# 从下往上看，编码器在左，解码器在右。与论文的图 1 对照一下。圆圈是残差连接的相加。虚线框是暂退法。从左到右只有一条线，传的就是记忆。带 ◆ 的三个框共用同一个矩阵，即权重绑定。
#
# 同一摞里的六层，连接方式相同，所以只画一层作代表。线是查出来的，不是想当然画的，所以换一个模型，图就不同：去掉一处相加，那个圆圈就没了。用 `norm="pre"` 时，看看归一化移到了哪里，再找出新增的两个。

# %%
pre_model = Transformer(TransformerConfig(1000, 1000, norm="pre")).eval()
pre_traced = draw.trace(pre_model, src=src, tgt_in=tgt_in)
draw.draw_model(pre_traced, "Pre-norm: the norm moves into the branch")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 数一数部件，再看一个去掉了相加的模型 · 选读
#
# 各种部件各有多少个；每个解码器层是否都拿到记忆；还有一个去掉了相加的模型。

# %%
# NBVAL_CHECK_OUTPUT
calls = list(traced.walk())
counted = [call.kind for call in calls]
assert counted.count("MultiHeadAttention") == 6 + 2 * 6 and counted.count("FeedForward") == 6 + 6
assert counted.count("LayerNorm") == counted.count("Residual") == 2 * 6 + 3 * 6
assert counted.count("Dropout") == 30 + 2
sums = sum(len(feed) == 2 for call in calls for feed in call.fed_by)
assert sums == 30  # each norm is fed by two results: a sub-layer's, and what went into it
assert [call.kind for call in pre_traced.walk()].count("LayerNorm") == 30 + 2
memory = next(call for call in calls if call.kind == "Encoder").source
crossing = [call for call in calls if call.name.endswith("cross_attention")]
assert len(crossing) == 6 and all(call.fed_by[1:] == [[memory], [memory]] for call in crossing)

lonely = Transformer(TransformerConfig(1000, 1000, 32, 4, 64, n_layers=2)).eval()
for stack in (lonely.encoder, lonely.decoder):
    for layer in stack.layers:
        layer.residuals = nn.ModuleList(Partial(lonely.config, "norm only") for _ in layer.residuals)
lonely_calls = draw.trace(lonely, src=src, tgt_in=tgt_in).walk()
assert not any(len(feed) > 1 for call in lonely_calls for feed in call.fed_by)
print("18 attentions, 12 feed-forward networks, 30 sums; pre-norm adds 2 norms")
print("keys and values of all 6 cross-attentions are the memory; dropout acts 32 times")
print("a model without residual connections: no sum is found")

# %% [markdown]
# > **试一试。** 建一个 `tie_embeddings=False` 的模型，参数多了多少？再让源语言词表为 80，目标语言词表为 50。嵌入绑定时，也这样设置两个词表，程序会怎样回答？
#
# <details><summary>答案</summary>
#
# 多出 $2 \, V \, d_{model}$ 个：绑定时三张表是同一张，不绑定就多了两张。V = 37,000 的 base 模型多出 37.9M 个参数（M 表示百万），总数从 63.0M 变成 100.9M。词表为 80 和 50 时，不绑定的模型可以建立；绑定的建立不了，会报错：`tied embeddings need one vocabulary, not src_vocab=80 and tgt_vocab=50`（绑定嵌入只能有一个词表）。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 暂退法放在哪里 · 选读
#
# 漏掉一处暂退法，很难察觉。用两项测试就能查出来。

# %% [markdown]
# 5.4 节说了两处：每个子层的输出，在相加和归一化之前；以及嵌入与位置之和。注意力权重上没有，前馈网络内部也没有（作者的代码里有一些，论文的正文里没有）。
#
# 两项测试。暂退概率为 0 时，训练模式下运行两次，结果必须完全相同：这样能发现哪里的暂退法没有按配置来。暂退概率为 1 时，每个部件都不能有任何贡献：位置编码那一步输出全是零；残差不管子层输出什么，结果都一样。这样能发现哪里漏了暂退法。

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
model = Transformer(TransformerConfig(50, 50, 32, 4, 64, 2, dropout=0.0)).train()
assert torch.equal(model(src % 50, tgt_in % 50), model(src % 50, tgt_in % 50))

silent = Transformer(TransformerConfig(50, 50, 32, 4, 64, 2, dropout=1.0)).train()
x = torch.randn(1, 6, 32)
residuals = [module for module in silent.modules() if isinstance(module, Residual)]
assert silent.positions(x).eq(0).all()
for residual in residuals:
    assert torch.equal(residual(x, torch.randn_like), residual(x, torch.zeros_like))
print(f"dropout 0: the same twice; dropout 1: positions and {len(residuals)} residuals are silent")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 整个模型里的掩码 · 选读
#
# 第 04 课只对一层作过保证；所有层合在一起，这些保证也必须成立。

# %% [markdown]
# 第 04 课的掩码，经过整个模型之后也必须有效。要保证两条：任何一个 logit 都不取决于后面的目标词元；源句末尾的填充不改变任何结果。

# %%
model.eval()
src, tgt_in = torch.randint(1, 50, (1, 6)), torch.randint(1, 50, (1, 5))
logits = model(src, tgt_in, padding_mask(src, 0), causal_mask(5))
changed = tgt_in.clone()
changed[0, 3:] = torch.randint(1, 50, (2,))
future_changed = model(src, changed, padding_mask(src, 0), causal_mask(5))
padded = F.pad(src, (0, 4), value=0)
source_padded = model(padded, tgt_in, padding_mask(padded, 0), causal_mask(5))
assert torch.allclose(future_changed[:, :3], logits[:, :3], atol=1e-6)
assert not torch.allclose(future_changed[:, 3:], logits[:, 3:], atol=1e-2)
assert torch.allclose(source_padded, logits, atol=1e-5)
assert not torch.allclose(model(padded, tgt_in, None, causal_mask(5)), logits, atol=1e-2)
print("the future changes nothing before it; padding changes nothing, as long as it is masked")

# %% [markdown]
# ## 10 · 数参数：65M 和 213M？
#
# 每个矩阵的大小都知道了，在纸上加一加，就能算出参数量：
#
# $$\begin{aligned}
# \text{attention} &= 2 \, d_{model} \, h \, d_k + 2 \, d_{model} \, h \, d_v \\
# \text{feed-forward} &= 2 \, d_{model} \, d_{ff} + d_{ff} + d_{model} \\
# \text{norm} &= 2 \, d_{model} \\
# \text{encoder layer} &= \text{attention} + \text{feed-forward} + 2 \cdot \text{norm} \\
# \text{decoder layer} &= 2 \cdot \text{attention} + \text{feed-forward} + 3 \cdot \text{norm} \\
# \text{model} &= N \cdot (\text{encoder layer} + \text{decoder layer}) + V \, d_{model}
# \end{aligned}$$
#
# 嵌入绑定时，$V \times d_{model}$ 的表只算一次。位置不算：它们是算出来的，不是学出来的。

# %%
def parameters_by_formula(config: TransformerConfig) -> int:
    """Return the number of parameters of a post-norm model with tied embeddings."""
    d, h, f = config.d_model, config.n_heads, config.d_ff
    d_k, d_v = config.d_k or d // h, config.d_v or d // h
    attention = 2 * d * h * d_k + 2 * d * h * d_v
    feed_forward = 2 * d * f + f + d
    norm = 2 * d
    encoder_layer = attention + feed_forward + 2 * norm
    decoder_layer = 2 * attention + feed_forward + 3 * norm
    return config.n_layers * (encoder_layer + decoder_layer) + config.src_vocab * d


def parameters_by_model(config: TransformerConfig) -> int:
    """Build the model without memory for its weights, and add up the sizes of its parameters."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config).parameters())


for config in (base, big):
    assert parameters_by_formula(config) == parameters_by_model(config)
assert abs(parameters_by_model(base) / 65e6 - 1) < 0.031
assert abs(parameters_by_model(big) / 213e6 - 1) < 0.0061
print(f"base {parameters_by_model(base):,}   big {parameters_by_model(big):,}")

# %% [markdown]
# 用公式算出的参数量，与模型的完全一致。论文的表 3 说 base 有 **65M** 个参数，big 有 **213M** 个。按论文 5.1 节的“about 37000 tokens”（约 37000 个词元）取词表为 37,000，我们数出来是 63.0M 和 214.2M。很接近，但一个少了 3%，另一个多了 0.5%。原因就藏在表 3 里：词表如果取约 41,100 个词元，它的十一行中有十行与我们的层完全吻合；big 则要取约 35,900 个。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 像侦探一样读表 3 · 选读
#
# 是我们的模型错了，还是词表不是 37,000？十一个四舍五入的数能给出答案。

# %% [markdown]
# 答案就在表 3 里。它列出十一个模型的尺寸和参数量。参数量都四舍五入到百万，所以由每一行只能推出词表大小的一个区间。如果我们的模型就是论文的模型，这些区间必须有公共部分。
#
# **先猜**：如果**层**写错了，从哪些行看得出来？如果**词表**不对，又从哪些行看得出来？

# %%
table_3 = {  # row of table 3: (what differs from base, millions of parameters in the paper)
    "base": ({}, 65),
    "B: d_k = 16": ({"d_k": 16}, 58),
    "B: d_k = 32": ({"d_k": 32}, 60),
    "C: N = 2": ({"n_layers": 2}, 36),
    "C: N = 4": ({"n_layers": 4}, 50),
    "C: N = 8": ({"n_layers": 8}, 80),
    "C: d_model = 256": ({"d_model": 256}, 28),
    "C: d_model = 1024": ({"d_model": 1024}, 168),
    "C: d_ff = 1024": ({"d_ff": 1024}, 53),
    "C: d_ff = 4096": ({"d_ff": 4096}, 90),
    "big": ({"d_model": 1024, "d_ff": 4096, "n_heads": 16}, 213),
}


def vocabularies(millions: float, sizes: dict[str, int]) -> tuple[float, float]:
    """Return the smallest and the largest vocabulary whose model rounds to `millions`."""
    config = TransformerConfig(0, 0, **sizes)
    rest = parameters_by_formula(config)  # all but the embedding
    return tuple((1e6 * (millions + e) - rest) / config.d_model for e in (-0.5, 0.5))


intervals = {name: vocabularies(millions, sizes) for name, (sizes, millions) in table_3.items()}
without_big = [interval for name, interval in intervals.items() if name != "big"]
common = max(low for low, _ in without_big), min(high for _, high in without_big)
assert common[0] < common[1]  # the intervals do have a common part
draw.vocabulary_intervals(intervals, common, stated=37_000)

# %%
# NBVAL_CHECK_OUTPUT
assert common[1] < common[0] + 300
assert intervals["big"][1] < common[0] - 4000
assert abs(sum(intervals["big"]) / 2 - 35_900) < 100
without_table = parameters_by_formula(TransformerConfig(0, 0))
assert (65.5e6 - without_table) / (3 * base.d_model) < 14_000
for name, (sizes, millions) in table_3.items():
    config = TransformerConfig(41_100, 41_100, **sizes)
    ours = parameters_by_model(config) / 1e6
    assert parameters_by_formula(config) == parameters_by_model(config)
    assert round(ours) == millions or name == "big"
    print(f"{name:18} paper {millions:4}   ours with V = 41,100: {ours:6.1f}")

# %% [markdown]
# 十一行中有十行，包括深度、宽度、头的大小各不相同的那些行，都指向同样大小的词表：约 **41,100** 个词元。所以我们各层的大矩阵与论文的一致。只有 big 模型对不上：它有 213M 个参数，词表要有约 **35,900** 个词元才对得上。也许它用了别的词表；论文没有说。取 37,000 时，我们数出的 base 比论文少 3.0%，big 多 0.6%。
#
# 小的细节看不出来：如果有偏置，18 个注意力各多 $4D$ 个参数，合起来只相当于 72 个词元。绑没绑定却看得出来：不绑定，表要算三次，65M 个参数容得下的词表就不到 14,000 个词元。
#
# 从哪些行能看出什么？用 $d_{model}$ 不同的行检验词表，因为 $V \, d_{model}$ 也跟着变。用 $N$、$d_{ff}$ 或 $d_k$ 不同的行检验层：它们与 base 之差不含 $V$。所以看差值，比看各行本身更能说明问题：

# %%
rest = parameters_by_formula(TransformerConfig(0, 0))
print("row              change in millions: paper, ours")
for name, (sizes, millions) in table_3.items():
    if "d_model" in sizes or not sizes:
        continue  # another width changes the embedding too
    change = (parameters_by_formula(TransformerConfig(0, 0, **sizes)) - rest) / 1e6
    assert abs(change - (millions - 65)) < 1  # two figures, each rounded by up to half a million
    print(f"{name:18} {millions - 65:+4}  {change:+6.1f}")

# %% [markdown]
# ## 11 · 它能学会吗？复制任务，一个错也没有
#
# 在翻译上花几个小时之前，先给新模型一个你知道答案的任务。我们的任务是：读一行字母，写出同样的一行。听上去简单，其实不然。模型一开始并不知道，目标句的位置 3 对应源句的位置 3。它必须学会看源句里对应的位置（按位置做交叉注意力），把字母搬过来，还要学会停。
#
# 十个字母，每行 3 到 8 个，还有三个特殊词元：填充、开始 `<` 和结束 `>`。

# %%
PAD, BOS, EOS, LETTERS = 0, 1, 2, "abcdefghij"
SHORTEST, LONGEST = 3, 8
symbols = "_<>" + LETTERS


def copy_batch(n: int, rng: random.Random, avoid: frozenset = frozenset()) -> Batch:
    """Return n random rows of letters, each to be copied; none of the rows to avoid."""
    rows = []
    while len(rows) < n:
        row = (*rng.choices(range(3, len(symbols)), k=rng.randint(SHORTEST, LONGEST)), EOS)
        if row not in avoid:
            rows.append(row)
    return Batch.from_sequences(rows, rows, pad_id=PAD, bos_id=BOS)


unseen = copy_batch(200, random.Random(2017))
held_out = frozenset(tuple(i for i in row if i != PAD) for row in unseen.src.tolist())


def spell(ids: Tensor) -> str:
    """Write token ids as letters."""
    return "".join(symbols[i] for i in ids.tolist())

# %% [markdown]
# 用模型的时候，就让它自己写：给它 `<`，取概率最大的词元，接在后面，再让它预测下一个。这叫**贪心解码**（greedy decoding）；第 08 课有更好的办法。这样检验才算数：模型接着**自己**写的词元往下写，错一个，后面就可能全毁了。

# %%
@torch.no_grad()
def write(model: Transformer, src: Tensor, src_mask: Tensor, n_tokens: int) -> Tensor:
    """Return the n_tokens that the model writes for each row of src: (B, S) -> (B, n_tokens)."""
    memory = model.encode(src, src_mask)
    written = torch.full_like(src[:, :1], BOS)  # (B, 1)
    for _ in range(n_tokens):
        mask = causal_mask(written.size(1), device=src.device)
        states = model.decode(written, memory, src_mask, mask)
        best = model.project(states[:, -1]).argmax(-1, keepdim=True)  # (B, 1)
        written = torch.cat([written, best], dim=1)
    return written[:, 1:]


device = pick()
torch.manual_seed(0)
width = by_scale(smoke=32, cpu=64, gpu=64)
copier = Transformer(
    TransformerConfig(13, 13, width, 4, 2 * width, by_scale(smoke=1, cpu=2, gpu=2), dropout=0.0)
).to(device)
unseen = unseen.to(device)

# %%
def show_copies(n: int = 4) -> None:
    """Print what the model makes of the first unseen rows."""
    written = write(copier.eval(), unseen.src[:n], unseen.src_mask[:n], LONGEST + 1)
    for source, copy in zip(unseen.src, written):
        print(f"{spell(source).rstrip('_'):10} -> {spell(copy)}")


show_copies()

# %% [markdown]
# 第一个 `>` 之前的内容才算答案。没训练过的模型，翻来覆去只写一个词元。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 它为什么重复自己？· 选读
#
# 我们猜想有两个原因；做对照，把它们逐一去掉。

# %% [markdown]
# 刚初始化的模型为什么会重复输入？可能的原因有两个，都是你已经知道的。残差连接把最后一个词元的向量从底部带到顶部，而输出层又拿状态与**同一张**表相比。要检验这个猜想，就给六个刚初始化的模型随机的字母，数一数概率最大的下一个词元，有多少次就是刚刚送进去的那个。如果纯属碰巧，13 次里会有一次。然后把两个原因分别去掉。

# %%
def repeats(tied: bool, kind: str, seed: int) -> tuple[float, float]:
    """Return how often a fresh model repeats: a token that it is given, and its own last one."""
    torch.manual_seed(seed)
    sizes = dict(d_model=width, n_heads=4, d_ff=2 * width, n_layers=copier.config.n_layers)
    model = Transformer(TransformerConfig(13, 13, dropout=0.0, tie_embeddings=tied, **sizes)).eval()
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        layer.residuals = nn.ModuleList(Partial(model.config, kind) for _ in layer.residuals)
    letters_in = torch.randint(3, 13, (200, 9))
    with torch.no_grad():
        guesses = model(letters_in, letters_in, None, causal_mask(9)).argmax(-1)
    alone = write(model, letters_in, None, 9)
    given_back = (guesses == letters_in).float().mean().item()
    return given_back, (alone[:, 1:] == alone[:, :-1]).float().mean().item()


models = {"as the paper has it": (True, "post-norm"), "two tables": (False, "post-norm"),
          "no residual": (True, "norm only")}
repeated = {name: [repeats(*choice, seed) for seed in range(6)] for name, choice in models.items()}
for name, shares in repeated.items():
    given, alone = zip(*shares)
    print(f"{name:20} repeats what it is given {min(given):3.0%} to {max(given):3.0%}; "
          f"when it writes alone {min(alone):3.0%} to {max(alone):4.0%}")
given, *controls = ([share for share, _ in shares] for shares in repeated.values())
assert min(given) > 2 / 13 > max(map(max, controls))

# %% [markdown]
# 两个原因缺一不可：少了任何一个，刚初始化的模型重复输入的比例就和纯属碰巧时差不多（8%）。不过，请看最后一列。自己往下写的时候，没有残差的模型也会卡住，有两张表的模型也常常卡住。所以，刚初始化的模型翻来覆去写一个词元，原因不只是爱重复输入。

# %% [markdown]
# ### 训练它
#
# 现在来训练。循环只有十几行；第 07 课会写一个正式的。每一步都取一个新的批次，并避开测试用的 200 行，模型始终见不到它们。学习率用 50 步升上去，后来再降到 0。
#
# 损失应该是多少？有两条基线，**训练之前就能算出来**：
#
# - 一无所知的模型，给 13 个词元同样的概率：$\ln 13 = 2.56$ 奈特。
# - 知道游戏规则、却看不到源句的模型，最好也只能达到这个任务的熵：长度从 6 种里选一种，每个位置从 10 个字母里选一个，总的熵再除以平均 6.5 个词元（5.5 个字母加上结束符）。

# %%
mean_length = (SHORTEST + LONGEST) / 2
baselines = {
    "knows nothing": math.log(len(symbols)),
    "knows the rules, cannot read the source": (
        math.log(LONGEST - SHORTEST + 1) + mean_length * math.log(len(LETTERS))
    ) / (mean_length + 1),
}
assert baselines["knows the rules, cannot read the source"] < baselines["knows nothing"]
print({name: round(value, 2) for name, value in baselines.items()})

# %%
def learn_to_copy(
    model: Transformer, n_steps: int, peak: float, batch_size: int = 64
) -> list[float]:
    """Train on fresh random rows; return the loss of every step, in nats per token."""
    rng, losses = random.Random(0), []
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    model.train()
    for step in bar(range(1, n_steps + 1), "step"):
        optimizer.param_groups[0]["lr"] = peak * min(step / 50, 1, 1.2 * (1 - step / n_steps))
        batch = copy_batch(batch_size, rng, avoid=held_out).to(device)
        logits = model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)  # (B, T, 13)
        real = batch.tgt_out != PAD
        loss = F.cross_entropy(logits[real], batch.tgt_out[real])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


losses = learn_to_copy(copier, by_scale(smoke=500, cpu=600, gpu=800), peak=0.128 / width)
assert losses[0] > baselines["knows nothing"] and losses[-1] < 0.1
draw.learning_curve(losses, baselines)

# %% [markdown]
# 曲线从第一条基线**上方**开始。没训练过的模型比一无所知还差：它的分数毫无理由地有高有低，损失因此多了半个到一个奈特。接着它学会了规则。再往后，损失降到第二条线以下，说明它开始读源句了：除了源句，没有别的信息能让损失降到这里。

# %%
show_copies()

# %%
# NBVAL_CHECK_OUTPUT
written = write(copier.eval(), unseen.src, unseen.src_mask, LONGEST + 1)
ends = [(row == EOS).nonzero()[0, 0].item() + 1 for row in unseen.src]  # up to the first >
right = [torch.equal(source[:n], copy[:n]) for source, copy, n in zip(unseen.src, written, ends)]
assert len(right) == 200
assert all(right), f"{sum(right)} of 200 are right: make a new copier and train it for more steps"
print(f"{sum(right)} of {len(right)} unseen rows copied without a mistake")

# %% [markdown]
# 200 行全对，而且每一行都是一个词元一个词元写出来的。
#
# > **试一试。**（1）去掉位置：训练之前写 `copier.positions = nn.Identity()`。损失能降到多少？（2）用 3 到 8 个字母的行训练，用 12 个字母的行测试。哪里会坏？（3）把一行倒着抄。你预计图是什么样子？
#
# <details><summary>答案</summary>
#
# （1）降到第二条线以下，但到不了 0。模型仍然知道行里有**哪些**字母，写过的还能划掉，但不可能知道次序。（2）模型从来没有必要看位置 9 到 12：拿 200 行 12 个字母的来试，数一数它抄对几行。句子再长也有编码可用，但模型会不会用是另一回事（第 3 节）。（3）一条从右上到左下的对角线：第 $t$ 步必须看倒数第 $t$ 个字母。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 复制时它看哪里？· 选读
#
# 训练好的模型的交叉注意力，一个头一个头地看。

# %% [markdown]
# 它学到的办法和我们想的一样吗？用第 03 课的 `record_attention`，可以看到解码器写的时候看哪里。**先猜**：每一步的查询，都来自**前一步**写出的字母。那么它该看源句的哪个字母？解码器有好几层，图里只画一层：各层都拿最接近对角线的那个头来比，画的是其中最接近的那一层。

# %%
letters = [*(symbols.index(letter) for letter in "headbfig"), EOS]
example = Batch.from_sequences([letters], [letters], pad_id=PAD, bos_id=BOS).to(device)
with record_attention(copier) as recorded, torch.no_grad():
    copier(example.src, example.tgt_in, example.src_mask, example.tgt_mask)
cross = {name: w[0].cpu() for name, w in recorded.items() if "cross" in name}  # each (H, T, S)
on_diagonal = {name: w.diagonal(dim1=1, dim2=2).mean(-1) for name, w in cross.items()}
layer_name = max(on_diagonal, key=lambda name: on_diagonal[name].max().item())
labels = [symbols[i] for i in letters]
best_head = on_diagonal[layer_name].argmax().item()
draw.attention_heads(
    cross[layer_name], labels, labels,
    f"Head {best_head} looks at the letter that comes next; the others look elsewhere, too",
)

# %%
looked_at = cross[layer_name][best_head].argmax(-1)
n_letters = LONGEST
assert (looked_at[:n_letters] == torch.arange(n_letters)).float().mean() >= 0.75
print(f"shown: {layer_name}; weight on the diagonal, by head:")
for name, weights in on_diagonal.items():
    print(f"{name}: {[round(w, 2) for w in weights.tolist()]}")
print(f"uniform attention would have {1 / (n_letters + 1):.2f}")

# %% [markdown]
# 一条对角线：第 $t$ 步，这一层看的是源句的位置 $t$。没有人教过它，只是因为看这个位置能降低损失。它是凭本页第 3 节的编码找到位置的，还是凭前后的字母，单看这幅图说不清。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 12 · 六层的模型，残差和归一化真的都要吗？· 选读
#
# 取第 6 节里的四种模型，用复制任务来训练。

# %% [markdown]
# 第 6 节看的是训练之前的模型，而刚初始化的模型可能误导人：权重会变。所以这里来试一试。四个六层的模型都学复制任务，区别只在每个子层外面包着什么。其他完全一样：行、步数、学习率。
#
# **先猜**：训练之后，四种里哪一种最好？只有残差，只有归一化，后归一化，还是前归一化？

# %%
mine = None  # "residual only", "norm only", "post-norm" or "pre-norm"

# %%
def six_layers(kind: str, n_steps: int) -> list[float]:
    """Train a model of six layers whose connections are of the given kind; return its losses."""
    torch.manual_seed(0)
    norm = "pre" if kind == "pre-norm" else "post"
    config = TransformerConfig(13, 13, 32, 4, 64, n_layers=6, dropout=0.0, norm=norm)
    model = Transformer(config)
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        layer.residuals = nn.ModuleList(Partial(config, kind) for _ in layer.residuals)
    return learn_to_copy(model.to(device), n_steps, peak=4e-3, batch_size=32)


n_steps = by_scale(smoke=40, cpu=300, gpu=300)
trained = {kind: six_layers(kind, n_steps) for kind in kinds[1:]}
reached = {kind: sum(losses[-10:]) / 10 for kind, losses in trained.items()}
draw.training_curves(trained, ("knows nothing", math.log(len(symbols))), names=kinds)

# %%
print(f"mean loss of the last 10 of {n_steps} steps, in nats per token:")
for kind, loss in reached.items():
    print(f"{kind:14} {loss:8.3f}")
assert max(reached, key=reached.get) == "residual only"
assert reached["residual only"] > math.log(len(symbols)) > reached["pre-norm"]
compare(mine, min(reached, key=reached.get), "05: the best of four kinds of six layers")

# %% [markdown]
# 一个随机种子，300 步：只有残差，损失一直远高于一无所知的水平（2.56）。只有归一化，损失几乎没有降（2.2）；后归一化还在下降（1.4）；前归一化已经会抄了（0.04）。所以两样都要；在这里，归一化放在哪里，决定的是学得快还是慢。（后归一化需要预热，见第 07 课。）

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 → 输出 | 说明 |
# |---|---|---|
# | `TransformerConfig` | | 尺寸和选择；`base(vocab)`、`big(vocab)` |
# | `TokenEmbedding` | (B, L) → (B, L, D) | 初始为 N(0, 1/D)，乘以 √D |
# | `positional_encoding`、`PositionalEncoding` | (B, L, D) → (B, L, D) | 之后是暂退法 |
# | `layer_norm`、`LayerNorm` | (..., D) → (..., D) | 有偏的方差，ε 在根号里面 |
# | `FeedForward` | (B, L, D) → (B, L, D) | 内部宽度 F |
# | `Residual` | (B, L, D) → (B, L, D) | 后归一化或前归一化，带暂退法 |
# | `EncoderLayer`、`Encoder` | (B, S, D) → (B, S, D) | 每层两个子层 |
# | `DecoderLayer`、`Decoder` | (B, T, D), (B, S, D) → (B, T, D) | 每层三个子层 |
# | `Transformer` | (B, S), (B, T) → (B, T, V) | `encode`、`decode`、`project` |
#
# ## 小结
#
# - 一张向量表，源句、目标句和输出共用。初始为 N(0, 1/D)，再乘以 √D，在两端大小都合适。
# - 注意力不知道次序。有了正弦曲线，每个位置都得到一个平滑的二进制数；往后移 k 位就是乘一个矩阵，不论在哪个位置，都是同一个矩阵。
# - 注意力只是线性地汇集信息；前馈网络负责计算，占编码器层三分之二的权重。
# - 层归一化保持信号的大小，残差连接让各个词不那么快变得一样。用 Xavier 规则取初始权重，未经训练的后归一化模型到 12 层就分不清各个词了，前归一化到 24 层还留下一点区别；权重小一些，两种都分得清。
# - 在后归一化里，不论堆多深，最后一层的梯度都很大，这是需要预热的一个原因；在前归一化里，它按 1/√N 的比例缩小。
# - 词表取约 41,100 个词元时，表 3 有十行与我们数出的参数量吻合；big 模型则要取约 35,900 个。
# - 模型复制没见过的行，一个错也没有；在它的一个交叉注意力层里，能看到一条对角线。
#
# ## 延伸阅读
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762：第 3 节、5.4 节和表 3。
# - Glorot and Bengio 2010, *Understanding the Difficulty of Training Deep Feedforward Neural Networks*, AISTATS：Xavier 规则的出处。
# - Ba, Kiros and Hinton 2016, *Layer Normalization*, arXiv 1607.06450.
# - He et al. 2016, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385.
# - Press and Wolf 2017, *Using the Output Embedding to Improve Language Models*, arXiv 1608.05859.
# - Xiong et al. 2020, *On Layer Normalization in the Transformer Architecture*, arXiv 2002.04745.
# - Dong, Cordonnier and Loukas 2021, *Attention is Not All You Need: Pure Attention Loses Rank Doubly Exponentially with Depth*, arXiv 2103.03404.
# - Geva et al. 2021, *Transformer Feed-Forward Layers Are Key-Value Memories*, arXiv 2012.14913.
#
# ## 练习
#
# 1. **深度（难度 2/5，10 分钟）。** 用第 10 节的公式算一算：base 模型要有多少层，编码器与解码器合起来的参数才会超过嵌入的参数（V = 37,000）？
# 2. **与 PyTorch 比（难度 3/5，30 分钟）。** 凭记忆写出 `EncoderLayer`，再把你的权重复制到 `nn.TransformerEncoderLayer` 里，比较两者。
# 3. **另一种次序（难度 2/5，10 分钟）。** 复制任务改用 `norm="pre"`。曲线有什么不同？
#
# <details><summary>答案 1</summary>
#
# $N = 3$。一个编码器层加一个解码器层共 7.35M 个参数，嵌入表有 18.94M 个；编码器和解码器各两层是 14.70M，各三层是 22.05M。
#
# </details>
#
# <details><summary>答案 2</summary>
#
# PyTorch 把三个矩阵合成了一个：`in_proj_weight` 就是 $W^Q, W^K, W^V$ 上下叠放；`linear1`、`linear2` 是前馈网络，`norm1`、`norm2` 是归一化。要设 `batch_first=True`、`dropout=0.0`，注意力的偏置为零；前归一化再加 `norm_first`。我们的测试做的就是这件事（`tests/test_transformer.py`）：结果相等，梯度也相等。
#
# </details>
#
# <details><summary>答案 3</summary>
#
# 看每条曲线在第几步穿过第二条线；先别急着下结论，换一个随机种子再试。六层的情形，第 12 节已经测过。
#
# </details>
#
# **作业。** [作业：Transformer](homework/transformer/transformer.ipynb)：亲手写出位置、归一化、前馈网络、编码器层和解码器层；哪里错了，检查会指出来。
#
# **下一课：** [第 06 课](06_text.ipynb)把真正的句子变成词元。

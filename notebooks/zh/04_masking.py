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
# # 04 · 掩码
#
# > 掩码（mask）规定一个位置能看到什么；批次（batch）把句子连同掩码装在一起（论文 3.2.3 节）。
#
# 掩码就是一张写满“可以”与“不可以”的表。它是 Transformer 里最小的部件，却很容易写错。写错了也不报错：形状对得上，训练损失照样下降，往往还降得比正常更快。这一页里，你会亲手训练一个掩码出错的模型：损失接近零，却连一个句子都写不出来。
#
# - **你将学会：** 写出填充掩码和因果掩码，并证明它们有效；说清解码器读到的答案为什么要右移一位；只求一次梯度就找出泄漏；解释为什么训练 Transformer 时，一个句子只要算一遍；写出后面每一课都要用的批次。
# - **位置：** 主线，接在第 03 课之后。**先修：** 注意力和 `MultiHeadAttention`（第 03 课）；知道 softmax 和梯度是什么。
# - **时间：** 50 分钟；连标有“选读”的部分一起 75 分钟。
# - **论文：** 3.1 节（解码器的掩码；输出“offset by one position”，即错开一个位置）和 3.2.3 节（注意力的三种用法）。带小数点的是论文的节号，1 到 11 是本页的节号。

# %%
#| export
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

# %% [markdown]
# 首行写着 `#| export` 的单元格会导出，它们合起来就是库文件 `course/masking.py`；其余单元格只作演示。（以 `# NBVAL_CHECK_OUTPUT` 开头的单元格，在任何机器上打印的内容都一样，课程的测试会逐一比对。）

# %%
import math
from functools import partial

import torch.nn.functional as F
from torch import nn

from course.attention import MultiHeadAttention, attention_weights
from course.corpora import captions
from course.device import by_scale, pick
from course.homework import check, compare
from course.viz import bar
from course.viz import masking as draw

# %% [markdown]
# ## 1 · 两个问题，一个工具
#
# 第 03 课讲了掩码起什么作用。这一课来写翻译模型需要的掩码。没有掩码，会出两个问题。
#
# 1. **句子长短不一。** GPU 要的是整齐的矩阵，每行一样长，所以短句要用特殊词元 `<pad>` 补齐，这叫**填充**（padding）。可是注意力会把它当成一个真正的词来读。
# 2. **解码器训练时，答案就摆在眼前。** 它应该学会根据第 1 到第 4 个词预测第 5 个词。可是训练时整个答案都在同一个张量里，第 5 个词也在，注意力会直接读到它。
#
# 一个工具就能解决这两个问题。**掩码** $M$ 对每个查询 $i$ 和每个键 $j$ 规定 $i$ 能不能关注 $j$：可以就是 $M_{ij} = 1$（True），不可以就是 0（False）。它作用在分数 $s_{ij} = q_i \cdot k_j / \sqrt{d_k}$ 与 softmax 之间，也就是论文图 2 中写着“Mask (opt.)”的方框：
#
# $$\alpha_{ij} = \frac{M_{ij} \exp(s_{ij})}{\sum_{k} M_{ik} \exp(s_{ik})}$$
#
# 被禁止的键，权重为零；其余的键分掉全部权重，加起来还是 1。写成代码，就是在 softmax 之前把被禁止的分数设为 $-\infty$；效果一样，因为 $\exp(-\infty) = 0$。论文就是这样写的（3.2.3 节）。
#
# **先猜**：能不能让 softmax 先看全部的键，**事后**再把被禁止的权重改成零？为什么不行？

# %%
scores = torch.tensor([2.0, 1.0, 0.0, 3.0])
allowed = torch.tensor([True, True, True, False])

before = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
after = scores.softmax(-1) * allowed

assert math.isclose(before.sum().item(), 1.0, rel_tol=1e-6)
assert after.sum() < 0.5
for name, weights in (("before", before), ("after", after)):
    numbers = " ".join(f"{w:.2f}" for w in weights.tolist())
    print(f"masked {name:6} the softmax: {numbers}, sum {weights.sum():.2f}")

# %% [markdown]
# 事后就晚了。被禁止的键已经从总和里分走了一份，剩下的权重加起来不再是 1；而且从**少了多少**，模型就能知道那个被禁止的键有多匹配。
#
# 第 03 课的约定一直用到课程结束：**掩码是布尔型，True 表示“可以关注”；它的维数与分数相同**，即 (B, H, Q, K)，大小为 1 的维表示“对全部都一样”。（别的库含义相反，第 10 节会看到后果。）

# %% [markdown]
# ## 2 · 填充：谁也不许看的词元
#
# 先要有句子。从课程自带的语料库里取三条长短不同的图片说明：

# %%
# NBVAL_CHECK_OUTPUT
train, val = captions.load("train"), captions.load("val")
three = [next(c for c in val if len(c.en_tokens) == n) for n in (5, 7, 9)]
for caption in three:
    print(" ".join(caption.en_tokens), "|", " ".join(caption.de_tokens))

# %% [markdown]
# 模型读的是数，不是词。这里的做法很简单：训练集里的每个词各得一个编号。（第 06 课会做得更好，没见过的词也能处理。这个语料库里，`val` 的每个词都在 `train` 里出现过，所以用不着 `UNK`。）最前面三个编号留给三个**特殊词元**，就是第 02 课的 PAD、BOS 和 EOS：`<pad>` 用来补齐，`<s>` 表示“句子开始”，`</s>` 表示“句子结束”。每个句子末尾都加上 `</s>`，模型才能学会什么时候停。

# %%
PAD, BOS, EOS = 0, 1, 2


def number(sentences):
    """Return the list of all words, special tokens first, and the number of each word."""
    words = ["<pad>", "<s>", "</s>", *sorted({w for sentence in sentences for w in sentence})]
    return words, {word: i for i, word in enumerate(words)}


en_words, en_ids = number(c.en_tokens for c in train)
de_words, de_ids = number(c.de_tokens for c in train)


def encode(tokens, ids):
    return [*(ids[w] for w in tokens), EOS]


def read(ids):
    return [en_words[i] for i in ids]


english = [encode(c.en_tokens, en_ids) for c in three]
assert read(english[0]) == [*three[0].en_tokens, "</s>"]
print(*english, sep="\n")

# %% [markdown]
# 三个列表长短不一。`pad` 把它们装进一个矩阵，每个列表占一行，右边不够的地方补齐：

# %%
#| export
def pad(sequences: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Return the sequences as the rows of one tensor, (B, longest), filled up with `pad_id`.

    Raises ValueError if there is no sequence.
    """
    if len(sequences) == 0:
        raise ValueError("no sequences to pad: a batch holds one sentence or more")
    longest = max(len(s) for s in sequences)
    rows = [[*s, *[pad_id] * (longest - len(s))] for s in sequences]
    return torch.tensor(rows, dtype=torch.long)


# %%
# NBVAL_CHECK_OUTPUT
tokens = pad(english, PAD)  # (B, K)
print(tuple(tokens.shape))
for row in tokens.tolist():
    print(" ".join(read(row)))

# %% [markdown]
# 哪些位置可以读？不是填充的位置。作为键，`<pad>` 必须对本句的**所有**查询都不可见，所以这个掩码与查询无关，每个键只需要一个数，形状是 $(B, 1, 1, K)$。两个大小为 1 的维表示“所有的头”和“所有的查询”；它们怎样展开，见第 7 节。

# %% [markdown]
# **轮到你了**，先别看我们的答案：写好，运行这个单元格，`check` 会告诉你哪里对、哪里理解错了。不写也行，它会说“not written yet”（还没写），后面照样用课程自己的版本。

# %%
def my_padding_mask(tokens, pad_id):
    """tokens (B, K) -> boolean (B, 1, 1, K), True = may attend."""
    raise NotImplementedError


check("padding_mask", my_padding_mask)

# %%
#| export
def padding_mask(tokens: Tensor, pad_id: int) -> Tensor:
    """Return which keys are real tokens: tokens (B, K) -> (B, 1, 1, K), True = may attend."""
    return (tokens != pad_id)[:, None, None, :]


# %%
mask = padding_mask(tokens, PAD)  # (3, 1, 1, K)
assert mask.shape == (3, 1, 1, tokens.size(1)) and mask.sum() == sum(map(len, english))
words = read(tokens[1].tolist())
draw.masks(
    {"sentence 1: every row is the same": (mask[1, 0].expand(len(words), -1), words, words)},
    "A padding mask closes columns",
    columns=1,
)

# %% [markdown]
# 一行一行地读：“**这一行**的查询可以看**那几列**的键”。`<pad>` 自己所在的行并没有遮住。看起来像疏忽，其实没有错：这些位置的输出本来就没有意义，没有人读，损失也会跳过它们。把这些行也遮住，没有任何好处，反而会出现一个**什么都看不到**的查询。（我们的实现这时给出零；别人的给出什么，见第 9 节。）

# %% [markdown]
# ### 这个掩码有效吗？
#
# **填充不能改变任何结果。** 一个句子，不管是单独算，还是和更长的句子放在一起算，输出都必须相同。**先猜**：**没有**掩码时，只补一个 `<pad>`，输出会差多少？补二十个呢？误差会一直增大，还是慢慢变平？（把猜测写在 `None` 的位置。不打分，`compare` 只是把它和测得的结果放在一起。）
#
# 再往下一个单元格来测：用第 03 课的 `MultiHeadAttention`，词向量随机生成。

# %%
mine = None  # "for ever" or "flattens"

# %%
torch.manual_seed(0)
attention = MultiHeadAttention(d_model=32, n_heads=4)
embedding = nn.Embedding(len(en_words), 32)
alone = pad(english[:1], PAD)  # (1, 6): no padding
x = embedding(alone)
expected = attention(x, x, x)  # (1, 6, 32)


def error(n_pads: int, masked: bool) -> float:
    """Return the largest change of the real outputs when padding stands behind the sentence."""
    padded = F.pad(alone, (0, n_pads), value=PAD)
    x = embedding(padded)
    output = attention(x, x, x, padding_mask(padded, PAD) if masked else None)
    return (output[:, : alone.size(1)] - expected).abs().max().item()


added = [1, 2, 5, 10, 20, 50, 100]
with_mask = [error(n, masked=True) for n in added]
without = [error(n, masked=False) for n in added]
assert without == sorted(without) and without[0] > 0.05 and max(with_mask) < 1e-6
draw.padding_errors(added, without, with_mask)

# %% [markdown]
# 没有掩码，一个 `<pad>` 就足以毁掉输出：它的向量混进了每一个词。`<pad>` 越多，误差越大，但曲线会变平：参加平均的几乎全是 `<pad>` 之后，再多补几个，也变不了多少。有了掩码，就只剩下浮点数的舍入误差。（差恰好为零时，图上画成 $10^{-9}$。）
#
# **断言**，用真正的批次来检验：每个句子单独算，与放在批次里算，结果相同。

# %%
flattens = without[-1] - without[-2] < (without[-1] - without[0]) / 4
assert flattens  # from 50 to 100 pads it grows by less than a quarter of all its growth
compare(mine, "flattens", "04: how the error grows with padding")

# %%
x = embedding(tokens)  # (3, K, 32)
together = attention(x, x, x, padding_mask(tokens, PAD))
careless = attention(x, x, x)
worst = {"with": 0.0, "without": 0.0}
for i, sentence in enumerate(english):
    x_alone = embedding(torch.tensor([sentence]))
    single = attention(x_alone, x_alone, x_alone)[0]  # (length, 32)
    for name, output in (("with", together), ("without", careless)):
        difference = (output[i, : len(sentence)] - single).abs().max().item()
        worst[name] = max(worst[name], difference)

assert worst["with"] < 1e-6 < 1e-2 < worst["without"]
print(f"alone or in a batch: less than 1e-6 apart with the mask, {worst['without']:.2f} without")

# %% [markdown]
# > **试一试。** 不遮键，改遮查询：在上面的单元格里改用 `padding_mask(tokens, PAD).transpose(-2, -1)`，形状是 $(B, 1, K, 1)$。这样，`<pad>` 所在的行遮住了，`<pad>` 所在的列却没有遮。断言还成立吗？为什么这个错误很容易犯？
#
# <details><summary>答案</summary>
#
# 不成立：最大的变化是 0.63，和完全没有掩码时一模一样。这样遮住的，是本来就没人读的行，真正的词照样读到每一个 `<pad>`。这个错误容易犯，是因为 (B, 1, K, 1) 和 (B, 1, 1, K) 一样能用：查询与键一样多，广播不会检查你想要的是哪一个。
#
# </details>

# %% [markdown]
# 那么**为什么**呢？`check("mask_padding")` 会给出一道题，用字母作答：`check("mask_padding", "b")`。每个错误选项都有专门的解释。

# %%
check("mask_padding")

# %% [markdown]
# ## 3 · 解码器读什么：右移一位的答案
#
# 解码器从左到右写句子，每个词都根据前面的词来预测：
#
# $$p(y_1, \dots, y_T) = \prod_{t=1}^{T} p(y_t \mid y_1, \dots, y_{t-1})$$
#
# （翻译时，每个因子还取决于源句。第 7 节之前先不管源句，一次只引进一样新东西。）
#
# **生成**译文时，解码器读自己写的词。**训练**时，哪怕它自己会选别的词，给它读的也总是正确的词，这叫**教师强制**（teacher forcing，第 02 课）。所以正确答案有两个用途：既是解码器要读的（`tgt_in`），也是它要预测的（`tgt_out`）。在位置 $t$，它要预测 $y_t$，最多只能读到 $y_{t-1}$。因此把要读的内容右移一位，空出来的第一个位置放起始词元 `<s>`：这就是论文所说的“offset by one position”（3.1 节）。

# %% [markdown]
# **轮到你了：**

# %%
def my_shift_right(tgt, bos_id):
    """tgt (B, T) -> (B, T), a new tensor: bos_id first."""
    raise NotImplementedError


check("shift_right", my_shift_right)

# %%
#| export
def shift_right(tgt: Tensor, bos_id: int) -> Tensor:
    """Return the decoder's input: `bos_id` first, then tgt (B, T) without its last column."""
    return torch.cat([torch.full_like(tgt[:, :1], bos_id), tgt[:, :-1]], dim=1)


# %%
# NBVAL_CHECK_OUTPUT
tgt_out = pad(english[:1], PAD)
tgt_in = shift_right(tgt_out, BOS)
for reads, predicts in zip(read(tgt_in[0].tolist()), read(tgt_out[0].tolist())):
    print(f"reads {reads:10} predicts {predicts}")

# %% [markdown]
# 长度不变：进来一个起始词元，挤掉最后一个词元。（最长的句子，挤掉的正是 `</s>`，它后面再没有要预测的词了。）

# %%
check("why_shift")

# %% [markdown]
# ## 4 · 泄漏：一个不加掩码的实验
#
# 再看一遍上面打印的表。第 1 行的答案就写在第 2 行的“reads”一栏里，第 2 行的答案写在第 3 行。没有掩码的注意力能同时看到所有行。
#
# **先猜**：我们用英语图片说明训练一个小模型，故意不加掩码。与掩码正确的模型相比，它的训练损失会怎样？它又会写出什么？

# %%
mine = None  # "lower", "higher" or "the same"

# %% [markdown]
# 这个模型小得不能再小：只有一个注意力层。`place` 给每个位置一个可学习的向量，加到每个词上。没有它不行，因为注意力本身不知道次序（第 03 课）。更好的做法见第 05 课。`x +` 把词本身的信息留下来，与注意力的输出相加：这叫**残差连接**，也留到第 05 课讲。

# %%
class TinyWriter(nn.Module):
    """Score the next word at every position: tokens (B, T), mask -> logits (B, T, V)."""

    def __init__(self, vocab: int, d_model: int = 64, max_len: int = 64):
        super().__init__()
        self.word = nn.Embedding(vocab, d_model)
        self.place = nn.Embedding(max_len, d_model)
        self.attention = MultiHeadAttention(d_model, n_heads=4)
        self.to_vocab = nn.Linear(d_model, vocab)

    def embed(self, tokens):
        return self.word(tokens) + self.place.weight[: tokens.size(1)]  # (B, T, D)

    def score(self, x, mask):
        return self.to_vocab(x + self.attention(x, x, x, mask))  # (B, T, V)

    def forward(self, tokens, mask):
        return self.score(self.embed(tokens), mask)


# %% [markdown]
# 这样的模型有多好，该怎么衡量？有两种问法，这一课讲的就是这两种问法的区别。
#
# - **一次算完**：把整个 `tgt_in` 交给模型，再拿它的所有预测与 `tgt_out` 比较。训练时的损失就是这样算的。
# - **按前缀**：对每个位置 $t$，**只给它正确句子的前 $t$ 个词元**，看它的最后一个预测。后面的词真的不在输入里。
#
# 第二种问法更接近实际使用，但还不完全一样。真正生成时，模型读的是**自己**写的词，错了也照读（第 02 课把这叫做暴露偏差）。这里的前缀全是正确的，所以在同样的句子上，两种损失的区别只有一处：后面的词在不在输入里。
#
# 损失用交叉熵：把模型给正确词的概率取对数再取负，对所有真正的词求平均。单位是**奈特**（nat），因为用的是自然对数。（`F.cross_entropy` 直接接收 logits，并跳过 `ignore_index` 指定的词元。）

# %%
def loss_in_one_pass(model, tgt_in, tgt_out, mask):
    logits = model(tgt_in, mask)  # (B, T, V)
    return F.cross_entropy(logits.transpose(1, 2), tgt_out, ignore_index=PAD)


@torch.no_grad()
def loss_by_prefix(model, tgt_in, tgt_out, mask):
    lengths = range(1, tgt_in.size(1) + 1)
    last = [model(tgt_in[:, :t], mask[..., :t, :t])[:, -1] for t in lengths]  # T of (B, V)
    return F.cross_entropy(torch.stack(last, dim=2), tgt_out, ignore_index=PAD).item()


# %% [markdown]
# 先准备要学习的图片说明，再留出一些用来检验。接着写训练循环。有两样东西我们要故意弄错，所以写成循环的参数：一个是掩码，一个是输入要不要右移。

# %%
device = pick()
sentences = [encode(c.en_tokens, en_ids) for c in train]
held_out = [c.en_tokens for c in val][:64]
val_out = pad([encode(words, en_ids) for words in held_out], PAD).to(device)
val_in = shift_right(val_out, BOS)
assert val_in.shape == val_out.shape and len(val_in) == 64
print(f"{len(sentences):,} captions to learn from, {len(val_in)} others to check with")


# %%
def train_writer(mask_of, shifted=True):
    """Train a TinyWriter; return it with the losses on the way."""
    torch.manual_seed(0)
    model = TinyWriter(len(en_words)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    log = {"steps": [], "train": [], "checked": [], "alone": []}
    steps = by_scale(smoke=100, cpu=300, gpu=300)
    for step in bar(range(steps + 1), "step"):
        chosen = torch.randint(len(sentences), (64,)).tolist()
        tgt_out = pad([sentences[i] for i in chosen], PAD).to(device)
        tgt_in = shift_right(tgt_out, BOS) if shifted else tgt_out
        loss = loss_in_one_pass(model, tgt_in, tgt_out, mask_of(tgt_in))
        log["steps"].append(step)
        log["train"].append(loss.item())
        if step % (steps // 10) == 0:
            log["checked"].append(step)
            log["alone"].append(loss_by_prefix(model, val_in, val_out, mask_of(val_in)))
        if step == steps:
            break  # the last losses belong to the model that is returned
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.cpu().eval(), log


# %% [markdown]
# 第一次训练：只遮住填充。

# %%
only_padding = partial(padding_mask, pad_id=PAD)  # tokens -> mask
leaky, leaky_log = train_writer(only_padding)
final = sum(leaky_log["train"][-5:]) / 5
assert final < 0.1 < leaky_log["train"][0]
print(f"training loss: {leaky_log['train'][0]:.2f} at the start, {final:.3f} at the end")
compare(mine, "lower", "04: the training loss without a causal mask")

# %% [markdown]
# 几乎是零！在每个位置，模型都把几乎全部概率给了正确的词。可是谁来写都做不到这一点：“A man is”后面可以接许多词，谁也不可能知道接的是哪一个。结果好得不像真的，多半是还有错没找到。我们让它写写看：给它开头两个词，让它选概率最大的下一个词，读进去，再往下写，直到 `</s>`：

# %%
@torch.no_grad()
def write(model, start, mask_of, longest=16):
    """Continue a sentence, always with the most probable word."""
    tokens = torch.tensor([[BOS, *(en_ids[w] for w in start.split())]])
    while tokens[0, -1] != EOS and tokens.size(1) <= longest:
        best = model(tokens, mask_of(tokens))[:, -1:].argmax(-1)  # (1, 1)
        tokens = torch.cat([tokens, best], dim=1)
    return " ".join(read(tokens[0, 1:].tolist()))


starts = ["A man", "Two women", "The old"]
for start in starts:
    print(write(leaky, start, only_padding))

# %% [markdown]
# 它不会造句。那它学会了什么？问问梯度：**如果位置 $j$ 的输入变一点，位置 $i$ 上正确的词的分数会变多少？** 这就是 $\partial\, \text{score}_i / \partial x_j$ 的大小，每对 $i$、$j$ 得到一个数。（`retain_graph=True`：对同一次计算，每一行都要求一遍梯度，所以 PyTorch 必须保留这次计算的记录。）

# %%
def influence(model, tokens, target, mask):
    """Return the size of the gradient of each right word's score by each input, (T, T)."""
    x = model.embed(tokens).detach().requires_grad_()  # (1, T, D)
    scores = model.score(x, mask)[0].gather(-1, target[0][:, None])  # (T, 1)
    rows = [torch.autograd.grad(score, x, retain_graph=True)[0][0] for score in scores]
    return torch.stack(rows).norm(dim=-1)  # (T, T, D) -> (T, T)


tgt_out = torch.tensor([english[1]])
tgt_in = shift_right(tgt_out, BOS)
reads = read(tgt_in[0].tolist())
leak = influence(leaky, tgt_in, tgt_out, only_padding(tgt_in))
draw.influence({"trained without a causal mask": leak}, reads,
               "Most predictions at i come from the word at i + 1")

# %% [markdown]
# 深色的线落在对角线**右边**一格。在大多数行里，对位置 $i$ 影响最大的是位置 $i + 1$ 的输入，也就是位置 $i$ 要预测的那个词。模型学会的是往右看一格，照抄。等到自己写的时候，右边什么也没有。

# %%
def next_is_strongest(words):
    """Return for each row of a caption, but the last, if the next input is the strongest."""
    answer = torch.tensor([encode(words, en_ids)])
    given = shift_right(answer, BOS)
    strongest = influence(leaky, given, answer, only_padding(given))[:-1].argmax(-1)
    return strongest == torch.arange(1, len(words) + 1)


copied = torch.cat([next_is_strongest(words) for words in held_out[:20]]).float().mean().item()
assert copied > 0.8
print(f"20 captions: the next input is the strongest in {copied:.0%} of the rows")

# %%
check("mask_leak")

# %% [markdown]
# ## 5 · 因果掩码
#
# 解决办法就是一条规则：**查询只能看自己所在的位置和之前的键**，即 $j \le i$。“自己所在的位置”可以看，是因为有右移：位置 $i$ 读的是 $y_{i-1}$，预测的是 $y_i$。画成表，这条规则是一个下三角：
#
# $$M_{ij} = \begin{cases} 1 & j \le i \\ 0 & j > i \end{cases}$$
#
# 它对所有句子、所有的头都一样，所以形状是 $(1, 1, T, T)$。“因果”（causal）这个名字是说：过去决定未来，反过来不行。

# %% [markdown]
# **轮到你了：**

# %%
def my_causal_mask(size):
    """A number -> boolean (1, 1, size, size), the last two are (Q, K), True = may attend."""
    raise NotImplementedError


check("causal_mask", my_causal_mask)

# %%
#| export
def causal_mask(size: int, device: torch.device | str | None = None) -> Tensor:
    """Return which keys lie at or before each query: (1, 1, size, size), True = may attend.

    Paper, section 3.2.3: no leftward flow of information in the decoder.
    """
    return torch.ones(1, 1, size, size, dtype=torch.bool, device=device).tril()


# %%
targets = read(tgt_out[0].tolist())
draw.exercises(causal_mask(len(reads))[0, 0], reads, targets,
               "The causal mask turns one sentence into T exercises")

# %% [markdown]
# 每一行是一道练习题：蓝色方格是已知的，右边的词是要预测的。现在开始第二次训练。一切照旧，随机种子也一样，只多了掩码。（`&` 是逻辑“与”：一个键要两个掩码都允许才行。）

# %%
def padding_and_causal(tokens):
    return padding_mask(tokens, PAD) & causal_mask(tokens.size(1), tokens.device)


honest, honest_log = train_writer(padding_and_causal)
texts = [write(honest, start, padding_and_causal) for start in starts]
assert all(text.endswith("</s>") for text in texts)
print(*texts, sep="\n")

# %% [markdown]
# 这些才是句子，而且每句都有结尾：只有小小的一层，就学会了哪些词后面可以接哪些词。
#
# 比较两次训练的过程。点线是不用网络也能得到的损失：给 $V$ 个词同样的概率，损失是 $\ln V$；按各个词在语料库中的频率给概率，损失是这些频率的**熵**，$-\sum p \ln p$。

# %%
counts = torch.bincount(torch.tensor([i for s in sentences for i in s])).float()
p = counts[counts > 0] / counts.sum()
levels = {
    "all words equal": math.log(len(en_words)),
    "frequencies only": -(p * p.log()).sum().item(),
}
draw.learning_curves(
    {"without a causal mask": leaky_log, "with a causal mask": honest_log},
    levels,
    "Without the mask, the loss in training hides how bad the model is",
)

# %% [markdown]
# 左图：训练损失趋于零，而按正确前缀算的损失降了一小段之后反而**上升**，最后比“所有词概率相同”的模型还差。训练得越久，它越差，看上去却越好。右图：两条曲线走势一致，因为两种问法已经变成同一个问题。没有泄漏的损失不会到零，也不该到零：一句话怎么接下去，不是开头几个词就能决定的。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 换成没见过的句子 · 选读
#
# 做个对照：按正确前缀算的损失这么高，会不会只是因为这些句子是新的？

# %% [markdown]
# 不是：同样这些句子，一次算完时损失也接近零（中间一列）。

# %%
print("nats per word      training   held out: in one pass   by true prefixes")
worth = {}
for name, model, log, mask_of in (("without the mask", leaky, leaky_log, only_padding),
                                  ("with the mask", honest, honest_log, padding_and_causal)):
    end = sum(log["train"][-5:]) / 5
    one_pass = loss_in_one_pass(model, val_in.cpu(), val_out.cpu(), mask_of(val_in.cpu())).item()
    worth[name] = end, one_pass, log["alone"][-1]
    print("{:18} {:8.2f} {:23.3f} {:18.3f}".format(name, *worth[name]))

end, one_pass, by_prefix = worth["without the mask"]
assert max(end, one_pass) < 0.5 and by_prefix > levels["all words equal"]
assert by_prefix > min(leaky_log["alone"]) + 1
end, one_pass, by_prefix = worth["with the mask"]
assert end > 1.0 and by_prefix < levels["frequencies only"]
assert abs(one_pass - by_prefix) < 1e-3

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 用数字比较两个模型写的句子 · 选读
#
# 三个句子说明不了多少。这里让每个模型续写五十个开头，然后数一数。

# %% [markdown]
# 没有泄漏的模型写出来的，也不是每句都通。这一层能看到前面所有的词，但只能把它们的意思加在一起。写得好不好不能凭感觉判断，要用一个数来衡量：在模型写出的所有相邻词对中（我们给的两个词不算），有多少曾在训练句子里出现过？

# %%
pairs = {pair for sentence in sentences for pair in zip(sentence, sentence[1:])}
fifty = list(dict.fromkeys(" ".join(c.en_tokens[:2]) for c in val))[:50]  # fifty different ones


def share_of_known_pairs(model, mask_of):
    written = [[en_ids[w] for w in write(model, start, mask_of).split()] for start in fifty]
    found = [pair in pairs for ids in written for pair in zip(ids[1:], ids[2:])]
    return sum(found) / len(found)


shares = share_of_known_pairs(leaky, only_padding), share_of_known_pairs(honest, padding_and_causal)
assert len(fifty) == 50 and shares[0] < 0.3 and shares[1] > 0.95
print(f"known pairs: {shares[0]:.0%} without the causal mask, {shares[1]:.0%} with it")

# %% [markdown]
# ### 来自未来的梯度：恰好为零
#
# 给两个模型画同样的热图。圆点表示梯度恰好为零：不只是很小，而是真正等于零。

# %%
seen = influence(honest, tgt_in, tgt_out, padding_and_causal(tgt_in))
draw.influence(
    {"trained without a causal mask": leak, "trained with a causal mask": seen},
    reads,
    "With the mask, nothing above the diagonal reaches an output",
)

# %% [markdown]
# **断言**，用两种互不依赖的方法检验。看梯度：对角线以上恰好是 0.0。看输出：把后面的词全部换掉，前面的预测一个比特也不变。

# %%
future = torch.ones_like(seen, dtype=torch.bool).triu(diagonal=1)
assert (seen[future] == 0).all() and (seen.diagonal() > 0).all()
assert leak[future].max() > 0.1

cut = 4
changed = tgt_in.clone()
changed[:, cut:] = en_ids["the"]
mask = padding_and_causal(tgt_in)
with torch.no_grad():
    moved = (honest(changed, mask) - honest(tgt_in, mask)).abs().amax(-1)[0]  # (T,)
assert (moved[:cut] == 0).all() and (moved[cut:] > 0).any()
print("gradient from the future:", seen[future].sum().item())
print(f"later words replaced: the first {cut} predictions move by", moved[:cut].sum().item())

# %% [markdown]
# 记住这个检验方法。它不需要训练；只要梯度能穿过模型，它就能找出泄漏（经过 `argmax` 的泄漏找不到，那里没有梯度）：**对一个输出求梯度，看哪里不为零。**
#
# > **试一试。** 把掩码改成 `torch.ones(...).tril(diagonal=1)`，多放开一格。训练之前先想：它的损失会是多少？再改成 `tril(diagonal=-1)`，少放开一格。这时的损失还可信吗？掩码的第一行又有什么问题？
#
# <details><summary>答案</summary>
#
# `diagonal=1`：位置 $i$ 能看到 $i + 1$ 的输入，也就是它自己的答案。所以损失趋于零，和没有掩码一样：放开一格就是泄漏。`diagonal=-1`：后面的词都读不到，所以损失是可信的。（刚读到的词还能通过 `x +` 传过去。）但是第一行是空的：它的查询什么都看不到。我们的注意力这时给出零，别的实现给出 NaN（第 9 节）。
#
# </details>

# %% [markdown]
# ## 6 · 算一遍等于算 T 遍
#
# 论文为什么非要用这个掩码？不用它也有办法：把每个句子切成一个个前缀，每个前缀预测一个词。**先猜**：句子有 8 个词元，这样做，网络要算几遍？带掩码的模型又要算几遍？

# %%
mine = None  # passes over the beginnings of 8 tokens

# %% [markdown]
# 三角形的第 $t$ 行只看前 $t$ 个词元，别的都看不到，所以它算出的结果，与单独把这 $t$ 个词元算一遍相同。带掩码算一遍，就得到全部 $T$ 个预测，还省了计算：所有前缀加起来有 $1 + 2 + \ldots + T$ 个位置，而整句只有 $T$ 个。
#
# 许多层叠在一起，这一点仍然成立。第一层的位置 $j$ 只看过 1 到 $j$。第二层的第 $t$ 行只读 $j \le t$ 的位置，所以也只看过 1 到 $t$；再往上也一样。只要有一层没有掩码，这条链就断了。

# %%
with torch.no_grad():
    at_once = honest(tgt_in, padding_and_causal(tgt_in))[0]  # (T, V)
    prefixes = [tgt_in[:, :t] for t in range(1, tgt_in.size(1) + 1)]
    one_by_one = torch.stack([honest(p, padding_and_causal(p))[0, -1] for p in prefixes])  # (T, V)

assert torch.allclose(at_once, one_by_one, atol=1e-4)
n = len(at_once)
positions = sum(p.size(1) for p in prefixes)
assert positions == n * (n + 1) // 2
print(f"{len(prefixes)} passes or 1, {positions} positions or {n}: the same {n} predictions")
assert len(prefixes) == 8
compare(mine, len(prefixes), "04: passes for the beginnings of 8 tokens")

# %% [markdown]
# RNN（第 02 课）读一个句子也只要一遍，但它必须把 $T$ 个位置**一个接一个**地算，因为每个状态都要等前一个状态。这里所有位置同时算：论文引言里想要的并行训练，就是这样实现的。不过只有训练时才能这样。**生成**时，第 5 个词还没选定，第 6 个词就没法算：$T$ 个词还是要 $T$ 步。

# %%
check("mask_one_pass")

# %%
check("parallel_training")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 让泄漏的模型做同样的检验 · 选读
#
# 另外看看：一个轮次里，只算一遍能省多少计算量。

# %% [markdown]
# 泄漏的模型通不过这个检验：算一遍与算 $T$ 遍的结果不一致，因为它的预测取决于后面的词。可以说，这个等式就是解码器的**定义**。

# %%
with torch.no_grad():
    at_once = leaky(tgt_in, None)[0]
    one_by_one = torch.stack([leaky(p, None)[0, -1] for p in prefixes])
difference = (at_once - one_by_one).abs().max().item()
assert difference > 1

total, n = sum(map(len, sentences)), len(sentences)
assert total > 5 * n
print(f"the leaky model: predictions differ by up to {difference:.1f}")
print(f"one epoch of {n:,} captions: {n:,} sentences to pass, or {total:,} beginnings")

# %% [markdown]
# ### 差一格的错误
#
# 掩码允许 $j \le i$，包括自己的位置。这样做没有错，**前提**是输入右移了。忘了 `shift_right`，位置 $i$ 读到的就是它要预测的那个词。**先猜**：因果掩码还在，这时的损失可信吗？

# %%
mine = None  # "yes" or "no"

# %%
unshifted, unshifted_log = train_writer(padding_and_causal, shifted=False)
draw.learning_curves(
    {"causal mask, but the input is not shifted": unshifted_log}, levels,
    "Not shifted: a loss of zero, for nothing",
)

# %%
end = sum(unshifted_log["train"][-5:]) / 5
written = write(unshifted, "A man", padding_and_causal)
print(written)
assert end < 0.1 and unshifted_log["alone"][-1] > levels["all words equal"]
assert "man man man" in written
print(f"training loss {end:.3f}; it repeats the word that it just read")
compare(mine, "no", "04: is the loss honest with the mask alone?")

# %% [markdown]
# 掩码与右移是同一条规则的两半：**要预测的词，不能让模型读到**。有右移、没有掩码，答案就在右边一格；有掩码、没有右移，答案就在原地。两样都要有。
#
# > **试一试。** 也可以不右移输入，而用 `tril(diagonal=-1)` 禁止看自己的位置。这个掩码的哪一行有问题？（答案在第 9 节。）另外，遇上残差连接，也就是 `TinyWriter.score` 里的 `x +`，这个办法还行得通吗？
#
# <details><summary>答案</summary>
#
# 第一行：它什么都看不到。而且掩码遮住的信息，残差连接又送了回来：`x +` 把位置 $i$ 的词直接交给输出，没有右移时，这个词**就是**答案。所以，注意力虽然没有泄漏，损失还是又降到了零。
#
# </details>

# %% [markdown]
# ## 7 · 把掩码合起来
#
# 解码器的自注意力两个掩码都要：既不看填充，**也**不看未来。不需要某个限制，就写 `None`；几个都不需要，合起来还是 `None`，即“全都允许”。

# %%
#| export
def combine_masks(*masks: Tensor | None) -> Tensor | None:
    """Return the mask that allows what every given mask allows; None stands for no restriction."""
    combined = None
    for mask in masks:
        if mask is not None:
            combined = mask if combined is None else combined & mask
    return combined


# %% [markdown]
# 形状不同，没有关系。PyTorch 的**广播**（broadcasting）让各个形状靠右对齐，大小为 1 的维自动重复。**先猜**：得到的形状是什么？
#
# | | B（句子）| H（头）| Q（查询）| K（键） |
# |---|---|---|---|---|
# | 填充掩码：取决于句子和键 | B | 1 | 1 | K |
# | 因果掩码：取决于查询和键 | 1 | 1 | T | T |
# | 合起来 | B | 1 | T | T |
# | 掩码所作用的分数 | B | H | T | T |

# %%
two = shift_right(pad([english[0], english[1]], PAD), BOS)  # (2, T)
draw.broadcast(padding_mask(two, PAD), causal_mask(two.size(1)), [read(r) for r in two.tolist()])

# %%
# NBVAL_CHECK_OUTPUT
padding, causal = padding_mask(two, PAD), causal_mask(two.size(1))
both = combine_masks(padding, None, causal)
assert combine_masks() is None and combine_masks(None, None) is None
for b, q, k in [(0, 2, 1), (0, 2, 3), (0, 7, 6), (0, 7, 7), (1, 7, 7)]:
    assert both[b, 0, q, k] == (two[b, k] != PAD) & (k <= q)
print(tuple(padding.shape), "&", tuple(causal.shape), "->", tuple(both.shape))

# %% [markdown]
# ### 翻译模型的三个掩码
#
# 论文在三个地方用注意力（3.2.3 节），每个地方都有自己的掩码。行是查询，列是键，所以每次都要想清楚：**谁在查询，查询的是谁？**
#
# | 位置 | 查询 | 键 | 掩码 | 形状 |
# |---|---|---|---|---|
# | 编码器，自注意力 | 源句 | 源句 | 源句的填充 | (B, 1, 1, S) |
# | 解码器，自注意力 | 目标句 | 目标句 | 因果，**加上**目标句的填充 | (B, 1, T, T) |
# | 解码器，交叉注意力 | 目标句 | 源句 | **源句**的填充 | (B, 1, 1, S) |
#
# 交叉注意力没有因果掩码：源句是完整的，目标句的每个词都可以看整个源句。（图里把解码器的掩码画了两次：先画只有因果掩码的，再画加上填充掩码的。）

# %%
source = pad([encode(c.de_tokens, de_ids) for c in three], PAD)  # (3, S)
target = shift_right(pad(english, PAD), BOS)  # (3, T)
de, en = [de_words[i] for i in source[1].tolist()], read(target[1].tolist())
src_mask, tgt_mask = padding_mask(source, PAD)[1, 0], padding_mask(target, PAD)[1, 0]  # (1, K)
causal = causal_mask(len(en))[0, 0]  # (T, T)
draw.masks(
    {
        "encoder: padding of the source": (src_mask.expand(len(de), -1), de, de),
        "decoder: causal": (causal, en, en),
        "decoder: causal and padding": (causal & tgt_mask, en, en),
        "cross-attention: padding of the source": (src_mask.expand(len(en), -1), en, de),
    },
    "Padding closes columns, causality closes the upper triangle",
)

# %%
check("mask_encoder")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 目标句的填充掩码有必要吗？· 选读
#
# 填充在右边时，因果掩码已经把它遮住了。为什么还要留着填充掩码？

# %% [markdown]
# 看解码器的两个掩码。对**真正的词**（`<pad>` 上面的那些行），加不加填充掩码都一样：填充在末尾，因果掩码已经把它遮住了。变的只有 `<pad>` 自己的行，而那些行从来不用。可是填充一旦出现在左边，填充掩码就必不可少。留着它又不多花什么，所以我们留着，以后就不用再操心了。

# %%
both = combine_masks(padding_mask(target, PAD), causal_mask(target.size(1)))
causal = causal_mask(target.size(1)).expand_as(both)
real = (target != PAD)[:, None, :, None].expand_as(both)  # which queries are real
assert torch.equal(both[real], causal[real])
assert not torch.equal(both[~real], causal[~real])
print("padding on the right: the causal mask alone protects all real queries")

# %% [markdown]
# ## 8 · 批次
#
# 现在东西都齐了。**批次**（batch）就是一个训练步读入的内容：排成矩阵的若干句对，以及消除补齐影响的掩码。它是一个冻结的数据类（frozen dataclass），字段不会被无意中改掉。

# %%
#| export
@dataclass(frozen=True, eq=False)
class Batch:
    """Sentences of several lengths in one rectangle, with the masks that undo the padding.

    src (B, S); tgt_in, tgt_out (B, T): what the decoder reads and what it must predict;
    src_mask (B, 1, 1, S), tgt_mask (B, 1, T, T): boolean, True = may attend; n_tokens: the real
    tokens of tgt_out. Paper, sections 3.1 and 3.2.3.
    """

    src: Tensor
    tgt_in: Tensor
    tgt_out: Tensor
    src_mask: Tensor
    tgt_mask: Tensor
    n_tokens: int

    @classmethod
    def from_sequences(
        cls, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], pad_id: int, bos_id: int
    ) -> "Batch":
        """Pad token ids (each ending in its eos) on the right and build the masks.

        Raises ValueError if there are not as many sources as targets, or if bos_id is pad_id.
        """
        if len(src) != len(tgt):
            raise ValueError(f"{len(src)} sources but {len(tgt)} targets: give them in pairs")
        if bos_id == pad_id:
            raise ValueError(
                f"bos_id and pad_id are both {pad_id}: the start token would be masked as padding"
            )
        src_ids, tgt_ids = pad(src, pad_id), pad(tgt, pad_id)
        tgt_in = shift_right(tgt_ids, bos_id)
        return cls(
            src=src_ids,
            tgt_in=tgt_in,
            tgt_out=tgt_ids,
            src_mask=padding_mask(src_ids, pad_id),
            tgt_mask=combine_masks(padding_mask(tgt_in, pad_id), causal_mask(tgt_in.size(1))),
            n_tokens=int((tgt_ids != pad_id).sum()),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with the same change to each of its tensors; n_tokens stays."""
        names = [f.name for f in fields(self) if f.name != "n_tokens"]
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on another device."""
        return self.map(lambda tensor: tensor.to(device))


# %% [markdown]
# 我们把一个批次逐个字段看一遍。源语言是德语，目标语言是英语，还是开头那三条图片说明。先别看，**先猜**：五个张量各是什么形状，`n_tokens` 是多少（三条英语图片说明各有 5、7、9 个词）？

# %%
mine = None  # n_tokens

# %%
# NBVAL_CHECK_OUTPUT
german = [encode(c.de_tokens, de_ids) for c in three]
batch = Batch.from_sequences(german, english, pad_id=PAD, bos_id=BOS)
for name in ("src", "tgt_in", "tgt_out", "src_mask", "tgt_mask"):
    tensor = getattr(batch, name)
    print(f"{name:9} {str(tuple(tensor.shape)):15} {tensor.dtype}")
print(f"n_tokens  {batch.n_tokens}")
assert batch.n_tokens == sum(map(len, english))

# %%
compare(mine, batch.n_tokens, "04: n_tokens of captions of 5, 7 and 9 words")

# %% [markdown]
# 把编号换成对应的词，看看这些词元：

# %%
# NBVAL_CHECK_OUTPUT
for name, words in (("src", de_words), ("tgt_in", en_words), ("tgt_out", en_words)):
    print(name)
    for row in getattr(batch, name).tolist():
        print("   ", " ".join(words[i] for i in row))

# %% [markdown]
# 看短句的 `tgt_in`：它们会**读到**自己的 `</s>`，而在那个位置要预测的是 `<pad>`。这没有害处：凡是 `tgt_out` 为填充的位置，损失都跳过，`n_tokens` 也不计入。所以一个批次的损失，是对真实词元求和，再除以 `n_tokens`。如果除以 $B \cdot T$，填充越多，损失就显得越小。

# %% [markdown]
# > **试一试。** 有些模型让解码器从 `<pad>` 开始，而不是 `<s>`。用 `bos_id=PAD` 调用 `from_sequences`，读一读报错。假如它不报错，`tgt_mask` 的哪一行会是空的？
#
# <details><summary>答案</summary>
#
# `bos_id and pad_id are both 0: the start token would be masked as padding`（起始词元会被当成填充遮住）。每个句子的第一行会是空的：它的查询只能看第 0 个键，而第 0 个键成了填充。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 把批次的掩码打印出来，逐条检查这一页的保证 · 选读
#
# 把批次的两个掩码写成 1 和 0；再拿这个批次，逐条检查这一页作出的保证。

# %% [markdown]
# 掩码，写成 1 和 0：

# %%
# NBVAL_CHECK_OUTPUT
print("src_mask[:, 0, 0]")
for row in batch.src_mask[:, 0, 0].int().tolist():
    print("   ", *row)
print("tgt_mask[0, 0]")
for row, word in zip(batch.tgt_mask[0, 0].int().tolist(), read(batch.tgt_in[0].tolist())):
    print("   ", *row, word)

# %% [markdown]
# 拿这个批次，逐条检查这一页的保证：输入就是右移一位的输出；每个查询至少能看到一个键，那就是 `<s>`；没有哪个查询能看到 `<pad>` 或未来。

# %%
moved = batch.to(device)
assert moved.src.device.type == device.type and batch.src.device.type == "cpu"
assert torch.equal(batch.tgt_in[:, 1:], batch.tgt_out[:, :-1]) and (batch.tgt_in[:, 0] == BOS).all()
assert batch.tgt_mask.any(-1).all() and batch.src_mask.any(-1).all()
_, _, queries, keys = batch.tgt_mask.nonzero(as_tuple=True)
assert (keys <= queries).all()
assert not batch.tgt_mask[(batch.tgt_in == PAD)[:, None, None].expand_as(batch.tgt_mask)].any()
print("shifted, causal, no padding is seen, no row is empty")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 9 · 什么都看不到的查询 · 选读
#
# 真实代码里有五种遮法。一整行都是 False 时，它们各会得到什么：零、NaN，还是所有不该看的内容的平均？写给要自己写掩码的人。

# %% [markdown]
# 如果一整行都是 False 呢？那么第 1 节的公式里，分母一项也没有，就成了 $0/0$。这种情况确实会出现：源句是空的，连 `</s>` 也没有；填充在左边，又用了因果掩码（最前面几行只看得到 `<pad>`）；有人把查询也遮住了。
#
# 合理的做法是：什么都看不到，就什么都得不到，即**权重为零，输出为零**。我们比较五种遮法，每种都用两行来试：一行普通的（最后两个键被禁止），一行空的。**先猜**：哪几种会得到 NaN（“不是一个数”）？

# %%
def ours(query, key, mask):
    return attention_weights(query, key, mask)


def torch_sdpa(query, key, mask):  # with unit vectors as values, the output is the weights
    return F.scaled_dot_product_attention(query, key, torch.eye(4)[None, None], attn_mask=mask)


def minus_infinity(query, key, mask):
    return (query @ key.mT).masked_fill(~mask, float("-inf")).softmax(-1)


def minus_1e9(query, key, mask):
    return (query @ key.mT).masked_fill(~mask, -1e9).softmax(-1)


def added_zero_one(query, key, mask):
    return torch_sdpa(query, key, mask.float())


# %%
query = torch.ones(1, 1, 1, 1)  # d_k = 1: the score of a key is the key
key = torch.tensor([1.0, 0.5, 2.0, 1.5]).reshape(1, 1, 4, 1)
ordinary = torch.tensor([True, True, False, False]).reshape(1, 1, 1, 4)
empty = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
ways = {
    "ours (lesson 03)": ours,
    "F.sdpa, boolean mask": torch_sdpa,
    "forbidden scores = -inf": minus_infinity,
    "forbidden scores = -1e9": minus_1e9,
    "0/1 as floats, given to F.sdpa": added_zero_one,
}
rows = {n: [way(query, key, m).flatten() for m in (ordinary, empty)] for n, way in ways.items()}
draw.ways(
    rows,
    ["ordinary row: keys 3 and 4 forbidden", "empty row: all forbidden"],
    ["key 1", "key 2", "key 3", "key 4"],
    "Four ways agree on an ordinary row; only two give zeros on an empty one",
)

# %% [markdown]
# 一行一行地看：
#
# - **我们的实现**和用布尔掩码的 **`F.sdpa`**：零。（`F.sdpa` 是 `F.scaled_dot_product_attention` 的简写；它的早期版本在这里给出 NaN。）
# - **自己填 −∞**：$0/0$，得到 NaN，而且会扩散：在下一层，凡是能看到这个词的词也都变成 NaN，损失也一样。
# - **−1e9**（“减去很大的数”）：所有分数都一样低，softmax 就把权重平均分配。查询读到的是**所有不该看的内容的平均**。不报错，没有 NaN，只是错了。
# - **用浮点数 0 和 1**：浮点掩码会**加**到分数上。于是“允许”多得一分，“禁止”却一分没少：掩码变成了提示。普通的那一行就已经错了。（第 03 课的 `MultiHeadAttention` 不接受非布尔的掩码，就是这个原因。）

# %%
zeros = torch.zeros(4)
for name in ("ours (lesson 03)", "F.sdpa, boolean mask"):
    assert torch.equal(rows[name][1], zeros)
assert rows["forbidden scores = -inf"][1].isnan().all()
assert torch.allclose(rows["forbidden scores = -1e9"][1], torch.full((4,), 0.25))
for name in list(ways)[:4]:
    assert torch.allclose(rows[name][0], rows["ours (lesson 03)"][0])
leaked = rows["0/1 as floats, given to F.sdpa"][0][2:].sum().item()
assert leaked > 0.3
print(f"a 0/1 float mask: {leaked:.0%} of the weight on forbidden keys, in an ordinary row")

# %% [markdown]
# −1e9 还有一个陷阱。半精度（`float16`，GPU 上常用）最大只到 65,504，根本表示不了 −1e9：用它来填充，PyTorch 会报错；如果是**加**上去，它就变成了 −∞，NaN 又回来了。

# %%
# NBVAL_CHECK_OUTPUT
half = torch.zeros(4, dtype=torch.float16)
try:
    half.masked_fill(~empty[0, 0, 0], -1e9)
    refused = False
except RuntimeError:
    refused = True
added = (half + torch.tensor(-1e9).half()).softmax(-1)
assert refused and added.isnan().all()
print("filled:", "refused" if refused else "accepted", "| added:", added.tolist())

# %% [markdown]
# ### 前向为零，反向也为零
#
# 输出是零还不够。如果梯度是 NaN，训练照样毁了。断言：空行的输出为 0，传回的梯度为 0，而且不影响其他行。

# %%
torch.manual_seed(0)
layer = MultiHeadAttention(d_model=32, n_heads=4)
x = torch.randn(2, 5, 32, requires_grad=True)
mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
mask[0, :, 2] = False  # sentence 0, query 2 may see nothing
output = layer(x, x, x, mask)
output[0, 2].sum().backward()
assert torch.equal(output[0, 2], torch.zeros(32)) and torch.equal(x.grad, torch.zeros_like(x))

free = layer(x, x, x)
others = torch.ones(2, 5, dtype=torch.bool)
others[0, 2] = False
assert torch.allclose(output[others], free[others], atol=1e-6)
print("empty row: output", output[0, 2].abs().max().item(), "gradient", x.grad.abs().max().item())

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 10 · 接口处：别人的掩码 · 选读
#
# 三种错了也不报错的掩码：一种维数太少，一种含义相反，还有一种是查询比键少时用 `is_causal`。写给直接调用 PyTorch 注意力的人。

# %% [markdown]
# ### 维数太少
#
# 广播把形状从右边对齐，并不知道各维的含义。省掉两个大小为 1 的维，把形状为 $(B, K)$ 的填充掩码交给 PyTorch 的函数。**先猜**：句子数 $B$ 是 1、7、8 时，哪些会报错？每个句子有 8 个词。

# %%
eight = pad([encode(c.en_tokens, en_ids) for c in val if len(c.en_tokens) < 8][:8], PAD)  # (8, 8)
for n_sentences in (1, 7, 8):
    some = eight[:n_sentences]
    x = embedding(some)[:, None]  # (B, 1, 8, 32): one head
    right = F.scaled_dot_product_attention(x, x, x, attn_mask=padding_mask(some, PAD))
    try:
        flat = F.scaled_dot_product_attention(x, x, x, attn_mask=some != PAD)  # (B, K)
        found = "the right answer" if torch.allclose(flat, right) else "a wrong answer, no error"
    except RuntimeError:
        found = "an error"
    assert found == {1: "the right answer", 7: "an error", 8: "a wrong answer, no error"}[n_sentences]
    print(f"(B, K) = ({n_sentences}, 8): {found}")

# %% [markdown]
# 句子数与词数相等，即 $B = Q$ 时，批次的各行会被当成查询的各行：第 3 个查询用上了第 3 个句子的填充。7 个句子时会报错，本该如此。真正的陷阱是 $B = 1$：人们总是先拿一个句子来试，而这时结果**恰好是对的**。所以我们的函数只要发现掩码的维数与分数不同，不管有几个句子，一律报错：

# %%
# NBVAL_CHECK_OUTPUT
x = embedding(eight[:1])
try:
    attention(x, x, x, eight[:1] != PAD)
    raise AssertionError("a mask of two dimensions was taken")
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# ### 含义相反
#
# PyTorch 较早的模块 `nn.MultiheadAttention` 也接受布尔掩码。但在那里，**True 表示“不许关注”**，`attn_mask` 和 `key_padding_mask` 都是如此。形状对，类型也对。直接把我们的掩码交给它，会怎样？先把我们那一层的权重复制过去，这样一来，两边的结果必须一致：

# %%
theirs = nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
with torch.no_grad():
    theirs.in_proj_weight.copy_(torch.cat([layer.w_q.weight, layer.w_k.weight, layer.w_v.weight]))
    theirs.out_proj.weight.copy_(layer.w_o.weight)
    x = torch.randn(1, 6, 32)
    mask = causal_mask(6)
    expected = layer(x, x, x, mask)
    right, _ = theirs(x, x, x, attn_mask=~mask[0, 0], need_weights=False)
    wrong, _ = theirs(x, x, x, attn_mask=mask[0, 0], need_weights=False)

assert torch.allclose(right, expected, atol=1e-5)
assert wrong.isfinite().all() and (wrong - expected).abs().max() > 0.1
print("converted with ~: equal to ours")
print(f"not converted: no error, no NaN, and off by up to {(wrong - expected).abs().max():.2f}")

# %% [markdown]
# 没有任何提示：`need_weights=False` 甚至把最后一行（什么都看不到的那一行）变成了零。用默认的 `need_weights=True`，那一行是 NaN，运气好的话你会发现。要知道那个层做了什么，就让它返回权重，把不为零的地方标出来：

# %%
words = en[:6]
with torch.no_grad():
    converted = theirs(x, x, x, attn_mask=~mask[0, 0])[1][0]  # (6, 6) weights
    out, as_it_is = theirs(x, x, x, attn_mask=mask[0, 0])
    assert out[:, -1].isnan().all() and out[:, :-1].isfinite().all()
    as_it_is = as_it_is[0].nan_to_num()
draw.masks(
    {"given ~mask: the past": (converted > 0, words, words),
     "given mask: only the future": (as_it_is > 0, words, words)},
    "The opposite meaning shows each word exactly what it must not see",
)

# %% [markdown]
# 本课程的规矩是：自己的代码里，掩码只有一种含义。**在接口处转换**，就用一个 `~`，写在调用外部函数的那一行，别处都不写。填充也一样：`key_padding_mask=~padding_mask(tokens, pad_id)[:, 0, 0]`，形状是 $(B, K)$。

# %%
with torch.no_grad():
    x = embedding(tokens)  # (3, K, 32)
    expected = layer(x, x, x, padding_mask(tokens, PAD))
    foreign = ~padding_mask(tokens, PAD)[:, 0, 0]  # (3, K), True = padding
    right, _ = theirs(x, x, x, key_padding_mask=foreign, need_weights=False)
assert torch.allclose(right, expected, atol=1e-5)
assert foreign.sum() == (tokens == PAD).sum()
print("key_padding_mask: True on", foreign.sum().item(), "of", foreign.numel(), "positions")

# %% [markdown]
# ### `is_causal` 从第一个键数起
#
# `F.scaled_dot_product_attention` 可以自己生成因果掩码：`is_causal=True`，更快，也不用在内存里放一张表。查询与键一样多时，它就是我们的掩码。可是模型**生成**时有个省力的办法：旧词的键留着不动，只让新词来查询（第 08 课）。这时查询比键少，就要问一问：三角形从哪里开始？
#
# **先猜**：已知六个词，查询是最后两个。“第五个词”可以看哪些键？`is_causal=True` 允许它看哪些？

# %%
def seen_with(n_queries, **how):
    """Return which keys F.sdpa reads: equal scores, unit vectors as values."""
    query, key = torch.zeros(1, 1, n_queries, 8), torch.zeros(1, 1, 6, 8)
    value = torch.eye(6)[None, None]
    return F.scaled_dot_product_attention(query, key, value, **how)[0, 0] > 0


assert torch.equal(seen_with(6, is_causal=True), causal_mask(6)[0, 0])
wanted = seen_with(2, attn_mask=causal_mask(6)[:, :, -2:])  # the last two rows of the triangle
given = seen_with(2, is_causal=True)
assert wanted.sum(-1).tolist() == [5, 6] and given.sum(-1).tolist() == [1, 2]
draw.masks(
    {"wanted: causal_mask(6)[:, :, -2:]": (wanted, words[-2:], words),
     "is_causal=True": (given, words[-2:], words)},
    "With fewer queries than keys, is_causal starts at the wrong corner",
)

# %% [markdown]
# 它把三角形对齐在左上角：这两个查询被当成了第 1 个和第 2 个词。最常见的情况是只有一个新词，那它就只看得到句子的第一个词。这回也不报错。正确的掩码是完整三角形的最后几行。只有一个新词时，那一行全是 True，根本不需要掩码。另外，掩码和 `is_causal` 只能给**一个**，不能都给：PyTorch 的文档说都给会报错，但别指望每个版本、每个内核都会报。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 11 · 填充的代价 · 选读
#
# 随机排列时，和按长度排序时，各有多少计算花在 `<pad>` 上。第 06 课要用到。

# %% [markdown]
# 有了掩码，填充不再有害，计算量却一点没省：每个 `<pad>` 都和真正的词一样，要与模型的每个矩阵相乘。**先猜**：图片说明按随机次序排列，每 64 条一个批次，每个批次的宽度等于其中最长句子的长度。所有词元里有多大比例是填充？如果先按长度排序呢？

# %%
mine = None  # in random order, 0 to 1

# %%
lengths = [len(s) for s in sentences]  # the corpus is in random order already
orders = {"random order": lengths, "sorted by length": sorted(lengths)}


def shares_of_padding(lengths, batch_size=64):
    """Return the share of padding of each batch, and of all, cut in the order given."""
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    rectangles = [len(b) * max(b) for b in batches]
    each = [1 - sum(b) / size for b, size in zip(batches, rectangles)]
    return each, 1 - sum(lengths) / sum(rectangles)


panels = {}
for order, row in orders.items():
    each, whole = shares_of_padding(row)
    middle = len(each) // 2
    panels[f"{order}: {each[middle]:.1%} here, {whole:.1%} of all"] = row[64 * middle :][:64]
draw.rectangles(panels, "Padding in one batch of 64, and in the whole corpus: sorting by length helps")

# %%
shares = [shares_of_padding(row)[1] for row in orders.values()]
assert shares[0] > 0.4 and shares[1] < 0.01
print(f"padding: {shares[0]:.1%} in random order, {shares[1]:.1%} sorted")
compare(mine, shares[0], "04: share of padding in random order")

# %% [markdown]
# 可是批次排好序之后，不能就照这个次序训练，否则模型先学的全是短句，后学的全是长句。第 06 课的办法是先排序，再按**词元数**切成批次，最后打乱批次的次序。

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `pad(sequences, pad_id)` | 编号的列表 | (B, 最长的长度) |
# | `padding_mask(tokens, pad_id)` | (B, K) | (B, 1, 1, K)，有词的地方是 True |
# | `causal_mask(size, device=None)` | 一个数 T | (1, 1, T, T)，对角线及以下是 True |
# | `combine_masks(*masks)` | 掩码或 None | 它们的“与”，或 None |
# | `shift_right(tgt, bos_id)` | (B, T) | (B, T)，第一个是 `<s>` |
# | `Batch.from_sequences(src, tgt, pad_id, bos_id)` | 两个嵌套列表 | 一个冻结的数据类对象 |
#
# `Batch` 的字段：`src` (B, S)；`tgt_in` 和 `tgt_out` (B, T)；`src_mask` (B, 1, 1, S)；`tgt_mask` (B, 1, T, T)；`n_tokens`，一个数。

# %% [markdown]
# ## 小结
#
# - 掩码作用在 softmax 之前的分数上。它是布尔型，True 表示“可以关注”。
# - 填充掩码遮住的是整列，对所有查询都一样。有了它，一个句子单独算与放在批次里算，输出相同。
# - 因果掩码是下三角。有了它，来自未来的梯度恰好为零。没有它，模型训练时只会抄下一个词：损失接近零，却什么句子也写不出来。
# - 解码器读到的是右移一位的答案。掩码与右移缺一不可：要预测的词，不能让模型读到。
# - 掩码和右移都有了，不必算 $T$ 遍，只算一遍就得到全部 $T$ 个预测。所以训练可以并行。
# - 什么都看不到的查询应该得到零，而不是 NaN，也不是所有内容的平均。
# - 别人的掩码在接口处转换；查询比键少时，不要相信 `is_causal`。

# %% [markdown]
# ## 练习
#
# 1. **在左边填充。** 写一个 `pad_left`，从左边补齐。对两个长度不同的句子写出两种掩码，数一数空行。自己填 −∞ 的掩码在这里会怎样？
# 2. **窗口。** 写 `window_mask(size, r)`：每个查询能看自己和之前的 `r - 1` 个位置（就是论文表 1 里的“restricted”，即受限自注意力）。要多少层，最后一个输出才会取决于第一个输入？用梯度检验你的答案。
# 3. **前缀。** 有些模型读提示词时前后都能看，往下写时才按因果规则。写 `prefix_mask(size, n_prompt)`。因果掩码的哪些行变了？
# 4. **找出泄漏。** 在 `TinyWriter` 的注意力之后加一步归一化：减去句中各位置的平均值。因果掩码不动，再画一次 `influence`。这次，未来的信息是从哪里漏进来的？
#
# <details><summary>答案 1</summary>
#
# 短句比长句多两个 `<pad>`，而且它们排在最前面：在因果掩码下，它的前两行只看得到 `<pad>`，所以两个掩码合起来就有两个空行。自己填 −∞ 的话，这两行是 NaN。
#
# </details>
#
# <details><summary>答案 2</summary>
#
# `causal_mask(size) & ~torch.ones(size, size, dtype=torch.bool).tril(-r)`。每层能往回看 $r - 1$ 个位置，所以需要 $(n - 1) / (r - 1)$ 层，向上取整：$n = 9$、$r = 3$ 时是 4 层，$r = 5$ 时是 2 层。少一层，梯度就恰好为零。
#
# </details>
#
# <details><summary>答案 3</summary>
#
# `mask = causal_mask(size); mask[..., :n_prompt] = True`。现在每一行都能看到整个提示，变的是提示最后一个词之前的行：`n_prompt=3` 时是第 0 行和第 1 行。
#
# </details>
#
# <details><summary>答案 4</summary>
#
# 对角线以上处处都有影响：各位置的平均值包含了后面的位置，所以后面每一个位置都会影响每个输出。注意力那里遮住了，泄漏发生在它后面。（层归一化是对同一个位置的各个**特征**求平均，不会泄漏。）
#
# </details>

# %% [markdown]
# ## 延伸阅读
#
# - Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin (2017), *Attention Is All You Need*, arXiv 1706.03762：3.1 节和 3.2.3 节。
# - Williams, Zipser (1989), *A Learning Algorithm for Continually Running Fully Recurrent Neural Networks*, Neural Computation 1(2)：教师强制。
# - Bengio, Vinyals, Jaitly, Shazeer (2015), *Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks*, arXiv 1506.03099：教师强制漏掉了什么。
# - Germain, Gregor, Murray, Larochelle (2015), *MADE: Masked Autoencoder for Distribution Estimation*, arXiv 1502.03509：早在 Transformer 之前，就用掩码让网络变成自回归的。
# - Radford, Narasimhan, Salimans, Sutskever (2018), *Improving Language Understanding by Generative Pre-Training*：整个模型靠的就是因果掩码。
#
# **作业。** [作业：掩码](homework/masking/masking.ipynb)：自己写出填充掩码、因果掩码和右移；哪里错了，检查会指出来。
#
# **下一课：** [第 05 课](05_transformer.ipynb)把注意力、掩码和另外三个部件合在一起，就是 Transformer。

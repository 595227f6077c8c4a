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
# # 09b · 打开翻译模型看一看
#
# > 训练好的模型，内部在做什么，错在哪里：用测量说话（论文第 4 节）。
#
# **学完这一课，你能**
#
# - 在真正的翻译模型里查看任何一个注意力权重（attention weight），并说清楚为什么单凭一张图什么也证明不了；
# - 在整个语料库上测量一个头在看什么，并与漫无目标、什么也不专看的头比较；
# - 根据交叉注意力得出词对齐，并给对齐结果打分；
# - 把头从模型里拿掉再放回去，说出每个头有多重要；
# - 让模型算完第 1 层就停下，读出它这时会写什么词；
# - 把解码器看的词，与译文需要的词比一比；
# - 找出翻译模型弱在**哪里**：长句、少见的词，还是没见过的复合词。
#
# **先修：** 第 03、05、08、09 课；第 02 课的对齐错误率。**时间：** 85 分钟；连标有“选读”的部分一起 100 分钟。**论文：** 第 4 节末尾，附录中的图，表 3 的 (A) 行，6.1 节。
#
# 这是深入的一课，第一遍可以跳过。
#
# 论文在第 4 节末尾许诺：注意力是可以**拿出来看**的。它说，各个头学会了不同的任务，许多头似乎与语法和意义有关。附录给了三张图。图很漂亮，但那是挑出来的。这一课用数字来问同样的问题：不问“能不能找到一个句子，让某个头正好这样做”，而问“这个头经常这样做吗？与什么相比算经常？少了它有没有影响？”
#
# **形状：** B 句子数，S 和 T 源句、目标句的词元（token）数，Q 查询数，K 键数，N 层数，H 头数，D 宽度，V 词表大小。代码里层和头从 0 数起，正文里从 1 数起：头 2.4 是第二层的第四个头。

# %%
#| export
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from course.attention import MultiHeadAttention, record_attention
from course.masking import Batch
from course.text import BOS, BPE, EOS, PAD, Pair, encode_pairs
from course.training import batch_loss
from course.transformer import Transformer

# %%
import csv
import json
import random

from sacrebleu.metrics import CHRF

from course import ASSETS
from course.corpora import captions, choose, pairs
from course.cache import translate
from course.device import by_scale, pick
from course.evaluation import compare, score, with_interval
from course.homework import check, guesses
from course.seq2seq import alignment_error_rate
from course.text import make_batches
from course.runs import load_checkpoint
from course.training import evaluate_loss
from course.viz import inside as draw
from course.viz import bar, show
from course.viz.attention import maps
from course.viz.seq2seq import crossings

device = pick()

# %% [markdown]
# 要研究的是课程自带的模型。用来考它的句子有三种：四十个**探针句**，你可以自己读；**captions**（图片说明），正确的词对齐是已知的；**Multi30k** 的验证集，用来计数和打分。（没有 Multi30k，也由 captions 代替，下一个单元格会说明。模型训练时没有用过 captions。）

# %%
model, bpe = load_checkpoint("multi30k-de-en")
model.to(device)
corpus = choose()
val = pairs(corpus, "val")
aligned = captions.load("val")[: by_scale(smoke=60, cpu=300, gpu=1000)]
with (ASSETS / "probe_sentences.tsv").open(encoding="utf-8") as file:
    probes = list(csv.DictReader(file, delimiter="\t"))
said_of_probes = translate(model, bpe, [row["de"] for row in probes], beam=4)

sizes = model.config
assert not model.training and len(said_of_probes) == len(probes) == 40
print(f"{sizes.n_layers} + {sizes.n_layers} layers, {sizes.n_heads} heads each, width "
      f"{sizes.d_model}, {len(bpe):,} tokens, norm: {sizes.norm}")
print(f"corpus: {corpus}, {len(val):,} validation pairs; {len(aligned)} captions with alignments")

# %% [markdown]
# ## 1 · 注意力浏览器
#
# Transformer 在三个地方用注意力（论文 3.2.3 节）。在**编码器**里，源句看自己。在**解码器**里，已经写出的部分看自己，而且只往回看。在**交叉注意力**里，解码器看源句。三个地方的每一层，都有自己的头。一共多少个？我们给每个头起个名字。

# %%
#| export
KINDS = {  # kind of attention -> the stack and the sub-layer that hold it
    "encoder": ("encoder", "self_attention"),
    "decoder": ("decoder", "self_attention"),
    "cross": ("decoder", "cross_attention"),
}


class Head(NamedTuple):
    """One head: its kind (a key of KINDS), its layer and its number, both from 0."""

    kind: str
    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.kind} {self.layer + 1}.{self.head + 1}"


def heads_of(model: Transformer) -> list[Head]:
    """Return every head of a model: kind by kind, layer by layer."""
    config = model.config
    return [Head(kind, layer, head) for kind in KINDS
            for layer in range(config.n_layers) for head in range(config.n_heads)]


def sublayer(model: Transformer, kind: str, layer: int) -> MultiHeadAttention:
    """Return the attention of one kind in one layer."""
    stack, name = KINDS[kind]
    return getattr(getattr(model, stack).layers[layer], name)


# %%
heads = heads_of(model)
assert len(heads) == 3 * sizes.n_layers * sizes.n_heads
print(f"{len(heads)} heads, from {heads[0]} to {heads[-1]}")

# %% [markdown]
# 第 03 课的 `record_attention` 记下整个批次的权重。要看得清楚，最好一句一句分开，去掉填充，旁边标上词元。`Look` 就是做这个的。
#
# 这里的解码器**照着给定的译文走**：我们给什么译文，它就读什么，不管它自己会写什么（教师强制，第 02 课）。所以并行算一遍，就能看到每一步。别忘了右移：在第 $t$ 步，解码器**读**的是词元 $t-1$，要**写**的是词元 $t$。所以权重的第 $t$ 行，既属于读的词元，也属于写的词元。到底更该算谁的，第 3 节再说。

# %%
#| export
@dataclass(frozen=True)
class Look:
    """Where every head looks while one sentence is read and one translation is written.

    src (S), tgt (T): token ids, each ending in EOS. weights: kind -> (N, H, Q, K), where Q x K is
    S x S in the encoder, T x T in the decoder and T x S across. Row t of the last two is the step
    that reads tgt_in[t] and must write tgt[t].
    """

    src: list[int]
    tgt: list[int]
    weights: dict[str, Tensor]

    @property
    def tgt_in(self) -> list[int]:
        """What the decoder reads: BOS, then tgt without its last token."""
        return [BOS, *self.tgt[:-1]]


@torch.no_grad()
def look_inside(
    model: Transformer, bpe: BPE, pairs: Sequence[Pair], batch_size: int = 50
) -> list[Look]:
    """Force the decoder along the English of (German, English) pairs; return a Look at each.

    Raises ValueError if the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode, its dropout is on: call model.eval()")
    device = next(model.parameters()).device
    examples, looks = encode_pairs(bpe, pairs), []
    for begin in range(0, len(examples), batch_size):
        chunk = examples[begin : begin + batch_size]
        batch = Batch.from_sequences(*zip(*chunk), PAD, BOS).to(device)
        with record_attention(model) as recorded:
            model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)
        layers = range(model.config.n_layers)
        stacked = {  # kind -> (B, N, H, Q, K)
            kind: torch.stack([recorded[f"{stack}.layers.{i}.{name}"] for i in layers], 1).cpu()
            for kind, (stack, name) in KINDS.items()
        }
        for i, (src, tgt) in enumerate(chunk):
            s, t = len(src), len(tgt)
            sides = {"encoder": (s, s), "decoder": (t, t), "cross": (t, s)}
            weights = {kind: stacked[kind][i, :, :, :q, :k] for kind, (q, k) in sides.items()}
            looks.append(Look(src, tgt, weights))
    return looks


# %%
look = look_inside(model, bpe, [(probes[0]["de"], said_of_probes[0])])[0]
for kind, weights in look.weights.items():
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)  # padding took nothing away
    print(f"{kind:8} {tuple(weights.shape)}")
assert not look.weights["decoder"].triu(1).any()  # the decoder cannot look ahead
print(f"{len(look.src)} tokens read, {len(look.tgt)} written; every row sums to one")

# %% [markdown]
# 全部的头都在这里了，用的是十个探针句和模型自己的译文。选择注意力的类型、层、头（或所有头的平均）和句子；把鼠标移到方格上，就能读出权重。解码器的每一行，箭头前面是它读的，后面是它写的。不需要内核：权重就存在页面里。（阅读器如果不运行脚本，就只显示一张图。）
#
# **先猜**：在交叉注意力里，解码器要写 *Frau*（女人）的译词，这一行会看 *Frau* 吗？一个头要是没有什么可找，又会看哪里？（图里有答案；权重最大的那个键占多大份额，可以在下面猜一个数。）

# %%
#| export
def labels_of(look: Look, kind: str, bpe: BPE) -> tuple[list[str], list[str]]:
    """Return the names of the queries and of the keys; a decoder's step is named read → written."""
    read, wrote, source = ([bpe.names[i] for i in ids] for ids in (look.tgt_in, look.tgt, look.src))
    steps = [f"{a} → {b}" for a, b in zip(read, wrote)]
    return {"encoder": (source, source), "decoder": (steps, read), "cross": (steps, source)}[kind]


def sharpness(look: Look, kind: str) -> Tensor:
    """Return how much of its weight a query gives to its favourite, on average: (N, H)."""
    return look.weights[kind].amax(-1).mean(-1)


# %%
CHOSEN = ("p01", "p03", "p08", "p11", "p13", "p18", "p21", "p25", "p34", "p36")
chosen = [i for i, row in enumerate(probes) if row["id"] in CHOSEN]
looks = look_inside(model, bpe, [(probes[i]["de"], said_of_probes[i]) for i in chosen])
sharp = {kind: sum(sharpness(look, kind) for look in looks) / len(looks) for kind in KINDS}
best = max((h for h in heads if h.kind == "cross"), key=lambda h: sharp["cross"][h.layer, h.head])
records = [(kind, probes[i]["de"], *labels_of(look, kind, bpe), look.weights[kind])
           for kind in KINDS for i, look in zip(chosen, looks)]
show(draw.explorer(records, sharp, best, f"{len(heads)} heads; the sharpest across is {best}"))

# %%
mine = None  # your guess: what share of its weight the sharpest head of cross-attention gives to one key, 0 to 1

# %%
favourite = sharp["cross"].flatten()
assert len(looks) == 10 and favourite.max() > 1.3 * favourite.min()
print(f"across, the sharpest head gives its favourite key {favourite.max():.0%} of the weight, the vaguest "
      f"{favourite.min():.0%} (means over the queries of ten sentences)")
guesses.compare(mine, favourite.max().item(), "09b: favourite key of the sharpest head")

# %% [markdown]
# 玩五分钟。你会发现：有一个头顺着源句一个词一个词地往后看，像用手指点着读；有一个头总看前一个词；还有几个头，说不清在看什么。每个头你都能编出一个故事，危险就在这里：人看云也能看出图案来。所以从现在起，不再看单张的图，改用测量。
#
# ## 2 · 各个头的专长
#
# 关于一个头的假设，可以写成矩阵：对每个查询，标出它应该看的键。“前一个词元”为每个查询标出一个键。“同一个词的另一片段”标出若干个；没切开的词，一个也不标。然后看标记的键一共得到多少权重，并对所有带标记的查询求平均：
#
# $$\text{share} = \frac{1}{|R|} \sum_{q \in R} \sum_{k} m_{qk} \, w_{qk} , \qquad
# \text{uniform share} = \frac{1}{|R|} \sum_{q \in R} \frac{\sum_k m_{qk}}{K_q} ,$$
#
# 其中 $m_{qk}$ 在标记的键上取 1，在其他键上取 0；$R$ 是带标记的行；$K_q$ 是查询 $q$ 能看到的键数。第二个数叫“均匀份额”（uniform share）：一个头如果对所有键一视同仁，得到的就是这么多。**要看的是两者之比**：同样把 20% 的权重给前一个词元，一共有二十个词元时算多，只有四个时就算少。

# %%
#| export
def mean_share(
    kind: str, weights: Sequence[Tensor], marks: Sequence[Tensor]
) -> tuple[Tensor, float]:
    """Return the mean weight of each head on the marked keys, (N, H), and uniform attention's.

    weights (N, H, Q, K) and marks (Q, K), boolean, of each sentence. Only rows with a marked key
    count; in the decoder a query sees no later key. Raises ValueError if nothing is marked.
    """
    total, uniform, rows = 0.0, 0.0, 0
    for w, m in zip(weights, marks):
        visible = torch.ones_like(m).tril() if kind == "decoder" else torch.ones_like(m)
        m = m & visible
        chosen = m.any(-1)  # (Q,)
        total = total + (w * m)[:, :, chosen].sum((-2, -1))  # (N, H)
        uniform += (m.sum(-1) / visible.sum(-1))[chosen].sum().item()
        rows += int(chosen.sum())
    if not rows:
        raise ValueError("no key is marked in any sentence: there is nothing to average")
    return total / rows, uniform / rows


# %%
# NBVAL_CHECK_OUTPUT
toy = torch.tensor([[[[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]]])  # one head, 3 x 3
before = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.bool)  # one key to the left
share, uniform = mean_share("encoder", [toy], [before])
assert abs(share.item() - (0.1 + 1.0) / 2) < 1e-6 and abs(uniform - 1 / 3) < 1e-6
print(f"by hand: share {share.item():.2f}, uniform {uniform:.2f}: {share.item() / uniform:.2f} times")

# %% [markdown]
# > **试一试。** 把同样的三行当作解码器的权重：`mean_share("decoder", [toy], [before])`。什么变了？
#
# <details><summary>答案</summary>
#
# 份额仍是 0.55，但均匀注意力现在达到 (1/2 + 1/3) / 2 = 0.42，因为解码器的查询看不到后面的键。所以比值从 1.65 降到 1.32，关于均匀份额的断言不再成立。
#
# </details>
#
# 现在列出各个假设：固定的偏移；查询自己；同一个词的另一片段；别处的同一个词元；标点；句末的符号（在解码器里是句首的）。BERT 的许多头把大部分权重放在这样的分隔符上，仿佛在说“没什么可找的”（Clark et al. 2019）。
#
# 要知道哪些片段合成一个词，就得知道词从哪里开始。第 06 课的 `BPE.pieces` 在 BPE 之前先切一次文本；每个词元都属于其中一块：一个词，或一个标点。

# %%
#| export
def word_index(bpe: BPE, text: str) -> list[int]:
    """Return for each token of a text the number of the word, or mark, that it belongs to."""
    return [number for number, piece in enumerate(bpe.pieces(text))
            for symbol in bpe.split(piece) for _ in bpe.symbol_ids(symbol)]


def marks_of(look: Look, kind: str, bpe: BPE) -> dict[str, Tensor]:
    """Return what a head of this kind may be looking for: name -> marked keys (Q, K)."""
    queries, keys = {
        "encoder": (look.src, look.src),
        "decoder": (look.tgt_in, look.tgt_in),
        "cross": (look.tgt, look.src),
    }[kind]
    row, column = torch.arange(len(queries))[:, None], torch.arange(len(keys))[None]
    names = [bpe.names[i].strip("▁") for i in keys]
    sign = torch.tensor([not any(map(str.isalnum, name)) for name in names])
    edge = torch.tensor([i in (BOS, EOS) for i in keys])
    marks = {"a mark": (sign & ~edge).expand(len(row), -1),
             "start" if kind == "decoder" else "end": edge.expand(len(row), -1)}
    if kind == "cross":
        straight = row * (len(keys) - 1) / max(len(queries) - 1, 1)
        return {"same place": straight.round() == column, **marks}
    offsets = range(-2, 3) if kind == "encoder" else range(-3, 1)
    at = {f"{o:+d}" if o else "itself": column - row == o for o in offsets}
    own = column == row
    ids = torch.tensor(keys)
    word = torch.tensor([*word_index(bpe, bpe.decode(keys)), -1])  # EOS: a word of its own
    word = word.roll(1) if kind == "decoder" else word  # ... and BOS
    same_word = (word[:, None] == word) & ~own
    same_token = (ids[:, None] == ids) & ~own
    return {**at, "same word": same_word, "same token": same_token, **marks}


# %%
# NBVAL_CHECK_OUTPUT
german = "Ein Kürbissuppenwagen, ein Hund."
index = word_index(bpe, german)
assert len(index) == len(bpe.encode(german))
rebuilt = [bpe.decode([i for i, w in zip(bpe.encode(german), index) if w == word])
           for word in range(max(index) + 1)]
assert rebuilt == ["Ein", "Kürbissuppenwagen", ",", "ein", "Hund", "."]
print("the tokens, put together word by word:", rebuilt)

# %% [markdown]
# 数字要有比较才有意义。除了均匀份额，我们再拿一个同样大小、**什么也没学过**的模型，刚刚随机初始化。如果它的头也达到同样的比值，那么表里反映的就只是句子本身的构造，说明不了头学会了什么。**先猜**：训练过的头里，最好的一个给前一个词元的权重是均匀份额的几倍？随机的头里，最好的一个又是几倍？

# %%
mine = None  # your guess: how many times the uniform share the best learned head puts on the token before

# %%
def profile(
    kind: str, looks: list[Look], marks: list[dict[str, Tensor]]
) -> dict[str, tuple[Tensor, float]]:
    """hypothesis -> shares (N, H) and the uniform share."""
    weights = [look.weights[kind] for look in looks]
    return {name: mean_share(kind, weights, [m[name] for m in marks]) for name in marks[0]}


torch.manual_seed(0)
untrained = Transformer(sizes).to(device).eval()
sample = val[: by_scale(smoke=60, cpu=300, gpu=1000)]
learned, random_start = {}, {}
for table, network in ((learned, model), (random_start, untrained)):
    looks = look_inside(network, bpe, sample)
    for kind in ("encoder", "decoder"):
        table[kind] = profile(kind, looks, [marks_of(look, kind, bpe) for look in looks])

# %% [markdown]
# 交叉注意力还多一个假设，也是最要紧的：**它看的是它正在翻译的那个词**。到底是哪个词，通常谁也说不准，除非语料库两边的句子都是由同一套语法生成的。captions 就是这样，自带对齐。我们按标准答案标记源词的片段，一共标两次：一次标解码器正要**写**的词元所对应的源词，一次标它刚刚**读**到的词元所对应的源词。所以交叉注意力的所有假设，都在 captions 上测量。
#
# 这里有个陷阱。德语和英语的词序常常一致，这时标准答案的词就在**同一个位置**：一个头只要沿着对角线往前看，就好像认得这个词似的。所以“writes, off”只数标准答案里**不在**同一位置的那些片段。

# %%
def gold_marks(look: Look, caption: captions.Caption, reads: bool) -> Tensor:
    """Source tokens aligned with the target word of each step: (T, S)."""
    source, target = word_index(bpe, caption.de), word_index(bpe, caption.en)
    links = {*caption.alignment}
    steps = [-1, *target] if reads else [*target, -1]  # BOS and EOS have no word
    return torch.tensor([[(s, t) in links for s in [*source, -1]] for t in steps])


looks, blank = (look_inside(network, bpe, [(c.de, c.en) for c in aligned]) for network in (model, untrained))
marks = [marks_of(look, "cross", bpe) for look in looks]
for look, caption, mark in zip(looks, aligned, marks):
    mark["reads"] = gold_marks(look, caption, reads=True)
    mark["writes"] = gold_marks(look, caption, reads=False)
    mark["writes, off"] = mark["writes"] & ~mark["same place"]
learned["cross"], random_start["cross"] = profile("cross", looks, marks), profile("cross", blank, marks)

# %% [markdown]
# 对每个假设，画出所有头的比值，再画出未训练模型中最好的一个。如果一个头的某个比值很大，就说它**有规律**：用一条简单的规则，就能说出它的许多权重放在哪里。比值最大的那个头，就是**最有规律**的头。

# %%
def strongest(table, kind: str, name: str) -> tuple[float, Head]:
    """The largest ratio of share to uniform share, and whose it is."""
    shares, uniform = table[kind][name]
    place = int(shares.argmax())
    return shares.max().item() / uniform, Head(kind, *divmod(place, sizes.n_heads))


best_of = {name: strongest(learned, "encoder", name) for name in learned["encoder"]}
where = max(best_of, key=best_of.get)
times, who = best_of[where]
draw.profiles(learned, random_start, f"In the encoder, {str(who).split()[1]} is the most regular head: {times:.1f} times "
              f"the uniform share on {where!r}",
              {"encoder": corpus, "decoder": corpus, "cross": "captions"})

# %% [markdown]
# 一个点是一个头，最好的那个旁边写着名字；1 是均匀注意力。叉号是未训练的模型里比值最大的头：落在它左边的点，不训练也能达到。−1 是前一个词元，+1 是后一个词元；“a mark”是句号、逗号之类；“writes”和“reads”是标准答案的词，“writes, off”是其中不在同一位置的。在解码器里，偏移从刚读到的词元算起。下面是断言，每一条说的都是所有头里最好的那个：

# %%
claims = [("encoder", ("-2", "-1", "+1", "+2"), 3.0), ("decoder", ("itself", "-1"), 1.7),
          ("cross", ("writes",), 3.0), ("cross", ("writes, off",), 3.0)]
for kind, names, least in claims:
    times, who, name = max((*strongest(learned, kind, name), name) for name in names)
    chance = max(strongest(random_start, kind, name)[0] for name in names)
    assert times > least and times > 1.25 * chance
    print(f"{str(who):12} puts {times:.1f} times the uniform share on {name!r}; "
          f"the best untrained head {chance:.1f} times")
twins, uniform = learned["encoder"]["same token"]
assert twins.median() < uniform
spread = [max(strongest(table, kind, name)[0] for kind in KINDS for name in table[kind])
          for table in (learned, random_start)]
end = max(strongest(learned, kind, name) for kind, name in
          (("encoder", "end"), ("decoder", "start"), ("cross", "end")))
before = strongest(learned, "encoder", "-1")[0], strongest(random_start, "encoder", "-1")[0]
print(f"on the token before: {before[0]:.1f} times, untrained {before[1]:.1f}")
print(f"over all hypotheses: {spread[0]:.1f} times at most, untrained {spread[1]:.1f}")
print(f"on the sign at the end or start: {end[1]} most, {end[0]:.1f} times the uniform share:",
      "it parks there, as heads of BERT do" if end[0] > 3 else "no head parks there, as heads of BERT do")
guesses.compare(mine, before[0], "09b: best head on the token before")

# %% [markdown]
# 所以，各有专长的头确实存在，而且是学出来的。在编码器里，最强的头看**相邻的词元**；在交叉注意力里，最强的头看要**翻译**的词。“看要翻译的词”这一条，有一部分只是沾了词序的光：“same place”的比值也大。不过，标准答案的词在别处时，断言也成立。解码器里的“a mark”要小心：句中唯一的标点往往是末尾的句号，只有读到它的那个查询才看得到它。这时“a mark”和“itself”是同一个键。各个假设会重叠，所以比值高只说明头在看哪里，不说明为什么。Voita et al. (2019) 在一个更大的英俄模型里找到了这种看位置的头，另外还有看句法的头，以及几个专看少见词的头。大多数点都在 1 附近：这些头什么都做一点。书和文章里展示的注意力图，挑的都是有专长的头。
#
# 图里还有两点值得看。在编码器里，一般的头给“same token”的权重低于均匀份额。这不一定是有意避开：重复的词元大多是冠词，也许没有哪个查询会多看冠词。再看句末或句首的符号：如果有的头给它的权重达到均匀份额的三倍，输出的最后一行就会说，这个头把权重停放（park）在这个符号上。BERT 的头有这个习惯，但一个模型的习惯不是定律。
#
# 为什么要这样比较？下一个单元格有一道题（用字母回答：`check("pattern_baseline", "a")`）。
#
# > **试一试。** 在 `marks_of` 里加一个假设：句子的第一个词元；或者在解码器里，最近的一个逗号。有没有哪个头超过均匀份额的三倍？
#
# <details><summary>答案</summary>
#
# 一个也没有（150 个验证句）。在编码器里看第一个词元，最多是 1.4 倍，而未训练的头也有 1.6 倍。在解码器里看写出的第一个词元，是 0.9 倍。看最近的逗号，最多是 2.5 倍，那是解码器的头 3.4；未训练的头最多 1.7 倍。
#
# </details>

# %%
check("pattern_baseline")

# %% [markdown]
# ## 3 · 模型知道自己在翻译哪个词吗？
#
# 上面的“writes”一栏是平均权重。还可以问得更具体：挑一个头，把每个英语词与这个头看得最多的德语词连起来，这些连线有多少是对的？第 02 课对 RNN 做过这件事，用**对齐错误率**（alignment error rate，AER）打分，0 是完美，1 是全错。
#
# 首先，词元要合成词，方法如下（Clark et al. 2019）：
#
# - 一个**源**词的权重，是它各片段权重的**和**：看了哪个片段，都算看了这个词；
# - 一个**目标**词有几个片段，就有几行：取这些行的**平均**。
#
# 这样每一行的和仍然是一。（`EOS` 在末尾单独算一个词；目标词如果最看重它，就没有连线。）

# %%
#| export
def to_words(weights: Tensor, tgt_words: Sequence[int], src_words: Sequence[int]) -> Tensor:
    """Merge weights over tokens (..., T, S) into weights over words (..., Tw, Sw).

    tgt_words (T), src_words (S): the number of the word of each token. Summed over the pieces of a
    source word, averaged over those of a target word: rows still sum to one.
    """
    rows = F.one_hot(torch.tensor(tgt_words)).float()  # (T, Tw)
    columns = F.one_hot(torch.tensor(src_words)).float()  # (S, Sw)
    return (rows / rows.sum(0)).T @ weights @ columns


def word_attention(look: Look, bpe: BPE, reads: bool = False) -> Tensor:
    """Return the cross-attention of a Look over words, EOS last on both sides: (N, H, Tw, Sw).

    The row of a word holds the steps that write it or, if `reads`, the steps that read it.
    """
    weights = look.weights["cross"]  # (N, H, T, S)
    if reads:
        weights = weights.roll(-1, dims=2)  # token t is read at step t + 1
    src, tgt = (word_index(bpe, bpe.decode(ids)) for ids in (look.src, look.tgt))
    return to_words(weights, [*tgt, tgt[-1] + 1], [*src, src[-1] + 1])


def links_of(weights: Tensor) -> set[tuple[int, int]]:
    """Link each target word to where it looks most: (Tw, Sw), EOS last -> (source, target)."""
    best = weights[:-1].argmax(-1).tolist()
    return {(i, j) for j, i in enumerate(best) if i < weights.size(1) - 1}


# %%
# NBVAL_CHECK_OUTPUT
toy = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.0, 0.6]])
merged = to_words(toy, tgt_words=[0, 0, 1], src_words=[0, 1, 1])  # pieces 0, 1 are one word
by_hand = torch.tensor([[(0.5 + 0.1) / 2, (0.3 + 0.2 + 0.2 + 0.7) / 2], [0.4, 0.6]])
assert torch.allclose(merged, by_hand) and torch.allclose(merged.sum(-1), torch.ones(2))
print("two target words over two source words:", [[round(w, 2) for w in row] for row in merged.tolist()])

# %% [markdown]
# > **试一试。** 让最后**两**行成为一个词：`tgt_words=[0, 1, 1]`。第二行是什么？
#
# <details><summary>答案</summary>
#
# (0.25, 0.75)，即 (0.1, 0.9) 与 (0.4, 0.6) 的平均；第一行是 (0.5, 0.5)。每行的和仍然是一，而针对旧的 `by_hand` 的断言不再成立。
#
# </details>
#
# 再说右移。在第 $t$ 步，解码器读词 $t-1$，要写词 $t$。这一步的权重，属于**读**的词还是**写**的词？两边都有道理。要写下一个词，就该看它的源词。可是这时模型还不知道下一个是什么词；等读到了，才能确定。Chen et al. (2020) 的模型更深，那里的答案是“读”：错开一步，由注意力得到的对齐好得多。我们两种都测，既测每个头，也测一层各头的平均。
#
# 解码器要照着标准的英语译文走，所以有些地方它自己不会这样写，也得这样“翻译”。**先猜**：读还是写？第一层还是最后一层？

# %%
mine = None  # "reading" or "writing"

# %%
gold = [c.alignment for c in aligned]


def error_rates(reads: bool) -> Tensor:
    """AER of every head, and in the last column of the mean of a layer's heads: (N, H + 1)."""
    words = [word_attention(look, bpe, reads) for look in looks]
    words = [torch.cat([w, w.mean(1, keepdim=True)], 1) for w in words]
    return torch.tensor([[alignment_error_rate([links_of(w[layer, head]) for w in words], gold)
                          for head in range(sizes.n_heads + 1)]
                         for layer in range(sizes.n_layers)])


def diagonal(c: captions.Caption) -> set[tuple[int, int]]:
    """Straight ahead, from the first word to the last."""
    source, target = len(c.de_tokens) - 1, len(c.en_tokens) - 1
    return {(round(j * source / max(target, 1)), j) for j in range(target + 1)}


aer = {"the word it writes": error_rates(False), "the word it has read": error_rates(True)}
straight = alignment_error_rate([diagonal(c) for c in aligned], gold)
lowest = min(aer, key=lambda name: aer[name].min())
draw.alignment_errors(aer, straight, f"A step of cross-attention belongs to {lowest}")

# %%
writes, reads = (rates.min().item() for rates in aer.values())
layer, column = divmod(int(aer["the word it writes"].argmin()), sizes.n_heads + 1)
assert writes < reads - 0.1 and writes < 0.85 * straight
assert all((rates[:, -1] <= rates[:, :-1].mean(1) + 0.02).all() for rates in aer.values())
found = f"head {column + 1}" if column < sizes.n_heads else "the mean of the heads"
print(f"best AER: {writes:.3f} (writing; layer {layer + 1}, {found}), {reads:.3f} (reading), "
      f"straight ahead {straight:.3f}")
guesses.compare(mine, "writing" if writes < reads else "reading", "09b: a step belongs to the word")

# %% [markdown]
# 在这里，答案是“写”，而且优势很明显。一个可能的原因（我们没有检验）：这个解码器层数少，每一层都得用来找下一个词，腾不出一层往回看。（最初几步是猜的：什么都还没写，译文**多半**从哪里开始，权重就落在哪里。）所以答案取决于模型；想从注意力得到对齐，先测一测该不该错开一步。
#
# 另外，把一层的各个头平均起来，效果绝不会比这一层的普通头差多少，有时还胜过最好的头：各个头错在不同的地方，一平均，错误就冲淡了。没有人教过模型对齐，该看哪里全靠它自己摸索：看对了，下一个词的概率就更大。
#
# 来看一条图片说明，标准连线加了框：

# %%
example = next(i for i, c in enumerate(aligned)
               if 7 <= len(c.en_tokens) <= 12 and crossings(c.alignment))
caption = aligned[example]
layer = int(aer["the word it writes"][:, -1].argmin())
rows = {"row: the word it writes": False, "row: the word it has read": True}
panels = [(name, word_attention(looks[example], bpe, reads)[layer].mean(0)[:-1, :-1],
           caption.en_tokens, caption.de_tokens) for name, reads in rows.items()]
seen = links_of(word_attention(looks[example], bpe)[layer].mean(0))
assert seen & {*caption.alignment}
maps(panels, f"Layer {layer + 1}, mean of its heads: the same weights, shifted by one step",
     [(j, i) for i, j in caption.alignment])

# %% [markdown]
# > **试一试。** 1. 只给有交叉连线的图片说明打分。这时，直接取对角线的办法，是不是比各个头退步得更多？2. 对源词的各个片段取**最大值**，不求和。AER 会变吗？
#
# <details><summary>答案</summary>
#
# 1. 是的，对角线退步得多得多：有交叉时，它的 AER 是 0.59（204 条），没有交叉时是 0.15（96 条）。第 2 层各头的平均，分别是 0.34 和 0.21。所以在词序一致的句子上，直接取对角线甚至比注意力还好。2. 几乎不变：0.303，原来是 0.310。
#
# </details>

# %% [markdown]
# ## 4 · 模型看的，就是它需要的吗？
#
# 这里画出一个探针句的全部交叉注意力：解码器要写每个词（行）的时候，看了哪些德语片段（列）。每一层画一张图，是各个头的平均。**先猜**：三层看的东西不同吗？

# %%
german, english = probes[0]["de"], said_of_probes[0]
rows, columns = [*bpe.tokens(english), "</s>"], [*bpe.tokens(german), "</s>"]


def cross_attention(german: str, english: str) -> Tensor:
    """Weights of every layer and head while the model writes `english`: (N, H, T, S)."""
    return look_inside(model, bpe, [(german, english)])[0].weights["cross"]


favourites = [cross_attention(row["de"], text).mean(1).argmax(-1) for row, text in zip(probes, said_of_probes)]
agree = {(i, j): sum((f[i] == f[j]).float().mean().item() for f in favourites) / len(favourites)
         for j in range(sizes.n_layers) for i in range(j)}
low, high = min(agree.values()), max(agree.values())
assert low > 0.3 and high < 0.9
draw.attention_grid(cross_attention(german, english).mean(1), rows, columns,
                    f"One diagonal, three times: two layers share their favourite in {low:.0%} to {high:.0%} of the steps")

# %% [markdown]
# 三层看的东西基本相同（百分数是全部四十个探针句的平均）：三层之间没有分工，不是各管源句的一部分。
#
# 得到权重多的词，就是译文**需要**的词吗？光看图说不清，做实验可以：从源句里去掉一个词，看同样的译文概率降低多少。译文的对数概率降低了多少，就叫做这个词的**需要度**（need），单位是奈特。（少了一个词，德语句子也不通了，后面的位置也变了：这些影响都算在需要度里。）
#
# 用的是第一个探针句。看柱状图之前，先看上面这句的译文：源词要是根本没有译出来，译文就不可能需要它。需要度为**负**，是说没有这个词，模型反而觉得自己的译文**更有可能**：这个词支持的是另一个译法。

# %%
def log_probability(src_ids: list[int], tgt_ids: list[int]) -> float:
    """Log-probability, in nats, that the model gives a translation."""
    batch = Batch.from_sequences([src_ids], [[*tgt_ids, EOS]], PAD, BOS).to(device)
    with torch.no_grad():
        return -batch_loss(model, batch).item()  # summed over the tokens


def needed_and_attended(german: str, english: str) -> tuple[list[str], list[float], list[float]]:
    """The words of the source, what the translation loses without each, the weight each got."""
    src_ids, tgt_ids = bpe.encode(german), bpe.encode(english)
    received = cross_attention(german, english).mean((0, 1)).sum(0)  # (S,)
    whole, names, needed, attended = log_probability([*src_ids, EOS], tgt_ids), [], [], []
    index = torch.tensor(word_index(bpe, german))
    for word in range(int(index.max()) + 1):
        rest = [id_ for id_, place in zip(src_ids, index.tolist()) if place != word]
        names.append(bpe.decode([id_ for id_, place in zip(src_ids, index.tolist()) if place == word]).strip())
        needed.append(whole - log_probability([*rest, EOS], tgt_ids))
        attended.append(received[:-1][index == word].sum().item())
    return names, needed, attended


# %%
names, needed, attended = needed_and_attended(german, english)
print(f"words with a negative need: {sum(nats < 0 for nats in needed)} of {len(needed)}")
draw.need_and_weight(names, needed, attended, "What the translation needs, and where the model looks")

# %% [markdown]
# 左右两边说的是同一回事吗？一个句子证明不了什么，所以我们用全部四十个。**秩相关**（rank correlation）比较两种次序：1 是次序相同，0 是没有关系，−1 是次序相反。还要有一个根本不看模型的量来作对照：每个词的**字母数**。冠词短，名词长。**先猜**：字母数与需要度的秩相关有多高？

# %%
#| export
def rank_correlation(a: Iterable[float], b: Iterable[float]) -> float:
    """Spearman's: the correlation of the ranks of two lists of equal length; ties share a rank."""
    lists = [torch.tensor(list(values)).float() for values in (a, b)]
    ranks = [((x[:, None] > x).sum(1) + (x[:, None] >= x).sum(1)).float() for x in lists]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


# %%
# NBVAL_CHECK_OUTPUT
assert rank_correlation([1.0, 2.0, 9.0], [3.0, 5.0, 6.0]) > 0.999
tie = rank_correlation([1.0, 1.0, 2.0], [5.0, 3.0, 9.0])  # the tie shares a rank
assert abs(tie - 0.75**0.5) < 1e-6
print(f"with a tie: {tie:.3f}")

# %% [markdown]
# > **试一试。** 把第一个断言里的 9.0 换成 9000.0。
#
# <details><summary>答案</summary>
#
# 仍然是 1：只有次序算数。单独一个需要度极大的词，左右不了秩相关。
#
# </details>
#
# 第三个数是**偏**相关（partial correlation）：词长相同时，从注意力还能看出多少需要度（只就秩而言）。用 $r$ 表示注意力 $a$、需要度 $n$、字母数 $l$ 之间的秩相关：
#
# $$r_{an \cdot l} = \frac{r_{an} - r_{al} \, r_{nl}}{\sqrt{(1 - r_{al}^2)(1 - r_{nl}^2)}} .$$

# %%
mine = None  # your guess: rank correlation of the number of letters and need, -1 to 1

# %%
def beyond(a: float, b: float, both: float) -> float:
    """The partial correlation: `both` between two things, a and b between each of them and a third."""
    return (both - a * b) / ((1 - a**2) * (1 - b**2)) ** 0.5


studied = [needed_and_attended(row["de"], text) for row, text in zip(probes, said_of_probes)]
correlations = {"attention": [], "letters": [], "attention, letters taken out": []}
for words, needs, weights in studied:
    if len(words) >= 5:
        letters = [len(word) for word in words]
        by_attention, by_letters = rank_correlation(weights, needs), rank_correlation(letters, needs)
        shared = rank_correlation(weights, letters)
        for values, value in zip(correlations.values(), (by_attention, by_letters,
                                                         beyond(shared, by_letters, by_attention))):
            values.append(value)
found = {}
for name, values in correlations.items():
    values = torch.tensor(values)
    found[name] = values.mean().item(), 2 * values.std().item() / len(values) ** 0.5
    print(f"{name:29} and need: {found[name][0]:.2f} ± {found[name][1]:.2f}, mean over {len(values)} sentences")
(by_attention, margin), (by_letters, _), (rest, rest_margin) = found.values()
assert by_letters > by_attention - margin  # the letters alone do as well
assert 1.5 * rest_margin < rest < 0.75 * by_attention  # something is left, and less
negative = [nats < 0 for _, needs, _ in studied for nats in needs]
print(f"words with a negative need, all sentences: {sum(negative)} of {len(negative)}")
guesses.compare(mine, by_letters, "09b: letters and need")

# %% [markdown]
# 要估计需要度，数字母并不比看注意力差。词越长，注意力给的权重越多，译文也越需要；只在一样长的词之间比，从注意力能看出的就少得多，虽然不是零。以后看到漂亮的注意力图，请记住：图上画的是模型**看**哪里，不是模型**用**什么。（注意力能在多大程度上解释模型，是有争议的：见 Jain and Wallace 2019；反方见 Wiegreffe and Pinter 2019。）

# %%
check("attended_needed")

# %% [markdown]
# ## 5 · 少了一个头，有没有影响？
#
# 一个头可以看得很有规律，画出来很漂亮，模型却可能根本用不着它。一个部件有多**重要**，拿掉它就知道了。对多头注意力，这很容易做到，因为它的输出就是各个头之和：
#
# $$\operatorname{MultiHead}(Q, K, V) = \sum_{h=1}^{H} \xi_h \; \mathrm{head}_h \, W^O_h ,
# \qquad \xi_h = 1 ,$$
#
# 其中 $W^O_h$ 是 $W^O$ 里属于头 $h$ 的那些行。**门**（gate）$\xi_h$ 不在论文里；它等于 1，所以什么也不改变。设为 0，头 $h$ 就没有了（Michel et al. 2019）。权重一个也不动：进入 $W^O$ 的数，先由一个钩子函数乘上门；代码块结束时，钩子函数就撤掉。

# %%
#| export
@contextmanager
def gated(model: Transformer, gates: Mapping[tuple[str, int], Tensor]) -> Iterator[None]:
    """While the block is open, multiply the output of each head by its gate, before `w_o`.

    gates: (kind, layer) -> (H,), or (B, H) for gates of each sentence. Nothing stays behind.
    """

    def hook_of(gate: Tensor):
        def hook(module, args):
            heads = args[0].unflatten(-1, (gate.size(-1), -1))  # (B, L, H, Dv)
            return (heads * gate[..., None, :, None]).flatten(-2)

        return hook

    handles = [sublayer(model, *place).w_o.register_forward_pre_hook(hook_of(gate))
               for place, gate in gates.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def prune(model: Transformer, heads: Iterable[Head]) -> Iterator[None]:
    """While the block is open, the model works without these heads: their output is zero.

    Raises ValueError for a head that the model does not have. Michel et al. 2019.
    """
    heads = [Head(*head) for head in heads]
    if strangers := set(heads) - set(heads_of(model)):
        raise ValueError(f"the model has no head {min(strangers)}: heads_of(model) lists them all")
    device = next(model.parameters()).device
    gates = {(h.kind, h.layer): torch.ones(model.config.n_heads, device=device) for h in heads}
    for kind, layer, head in heads:
        gates[kind, layer][head] = 0.0
    with gated(model, gates):
        yield


# %%
ten = [row["de"] for row in probes[:10]]
whole = translate(model, bpe, ten)
with prune(model, [h for h in heads if h.kind == "cross"]):
    blind = translate(model, bpe, ten)
begins = {" ".join(text.split()[:5]) for text in blind}
assert len(begins) == 1 < len(set(whole))
assert translate(model, bpe, ten) == whole
print("without any cross-attention, every translation begins:", *begins, "...")
print("outside the block the model is as it was")

# %% [markdown]
# 翻译模型看不到源句，就只剩一个语言模型，只会写它最爱写的图片说明。现在一次拿掉一个头。BLEU 太粗：在一百个句子上，一个头带来的变化比偶然的波动还小（本节末尾会试）。正确译文的**损失**（每词元多少奈特）能反映小的变化。（这些代价也有误差范围：两个代价几乎相等时，不要相信它们谁大谁小。）**先猜**：三种注意力里，少了哪一种影响最大？一个注意力子层的所有头一起拿掉，代价与单个代价之和相比如何？

# %%
mine = None  # "encoder", "decoder" or "cross"

# %%
n = min(by_scale(smoke=40, cpu=120, gpu=500), len(val) // 2)  # the rest is for what comes later
judged = [batch.to(device) for batch in make_batches(encode_pairs(bpe, val[:n]), 2000)]
untouched = evaluate_loss(model, judged)


def cost(gone: list[Head]) -> float:
    """How much the loss rises, in nats a token, without these heads."""
    with prune(model, gone):
        return evaluate_loss(model, judged) - untouched


alone = {head: cost([head]) for head in bar(heads, "head")}
places = list(dict.fromkeys((head.kind, head.layer) for head in heads))
together = {place: cost([h for h in heads if h[:2] == place]) for place in places}

# %%
ordered = sorted(heads, key=alone.get)
quarter = len(heads) // 4
total = sum(alone.values())
cheap, costly = (sum(alone[h] for h in part) / total for part in (ordered[:quarter], ordered[-quarter:]))
draw.removal_costs(alone, together, f"The costliest quarter of the heads holds {costly:.0%} of the cost, "
                   f"the cheapest {cheap:.0%}")

# %%
extra = sum(together.values()) / total
assert cheap < 0.15 and costly > 0.4 and extra > 1.2
print(f"loss of the whole model {untouched:.3f} nats a token; costliest head {ordered[-1]}: "
      f"+{alone[ordered[-1]]:.3f}; cheapest {ordered[0]}: {alone[ordered[0]]:+.3f}")
print("sub-layers as a whole:", {kind: round(sum(c for (k, _), c in together.items() if k == kind), 2)
                                 for kind in KINDS})
print(f"all heads of a sub-layer together cost {extra:.1f} times the sum of their single costs")
kind_costs = {kind: sum(c for (k, _), c in together.items() if k == kind) for kind in KINDS}
guesses.compare(mine, max(kind_costs, key=kind_costs.get), "09b: kind of attention that is missed most")

# %% [markdown]
# 三个发现。
#
# - **代价很不平均。** 四分之一的头占了代价的一大部分。Michel et al. 研究过一个每层十六个头的大 Transformer：大多数头，只要**一次只拿掉一个**，都看不出损失。
# - **一起拿掉的代价，大于单个代价之和。** 这说明各个头可能在互相代替：有的头单独拿掉不要紧，可是旁边的头一没，担子就可能全落到它身上。所以说“这个头没用”，总要加上一句：**其他头都在**的时候。
# - **规律与代价是两回事。** 第 2 节里最有规律的头不一定代价高，代价高的头也不一定有规律。两者有多大关系，后面有一个相关系数来回答。

# %%
check("head_without_cost")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 互相代替的两个头 · 选读
#
# 找出并画出两个头：一起拿掉的代价，大于分别拿掉的代价之和。

# %% [markdown]
# 能不能**看见**两个头互相代替？有的子层，所有头一起拿掉的代价比单个代价之和高出很多。取高出最多的那个子层，把其中的头两两配对：各自单独拿掉，再一起拿掉。

# %%
def surplus(place: tuple[str, int]) -> float:
    """What all heads of a sub-layer cost together, above the sum of their single costs."""
    return together[place] - sum(alone[h] for h in heads if h[:2] == place)


crowded = max(places, key=surplus)
inside = [h for h in heads if h[:2] == crowded]
both = {(a, b): cost([a, b]) for a in inside for b in inside if a < b}
a, b = max(both, key=lambda pair: both[pair] - alone[pair[0]] - alone[pair[1]])
added = alone[a] + alone[b]
draw.stand_in({str(a): alone[a], str(b): alone[b], "the two,\nadded": added, "both\nat once": both[a, b]},
              f"Both heads at once cost {abs(both[a, b] - added):.3f} nats a token "
              f"{'more' if both[a, b] > added else 'less'} than the two added")

# %%
assert surplus(crowded) > 0
more = sum(both[pair] > alone[pair[0]] + alone[pair[1]] for pair in both)
print(f"{crowded[0]} {crowded[1] + 1}: {more} of {len(both)} pairs cost more than the sum of the two")
print(f"all {len(inside)} heads of it: {together[crowded]:.3f}; their single costs add up to "
      f"{together[crowded] - surplus(crowded):.3f}")

# %% [markdown]
# （图中画的是高出最多的一对，是特意挑出来的。这里的代价，是把头的输出设为零、不再训练时测出来的。如果允许模型适应，或者用这个头的平均输出代替零，代价就不同了。）

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 反向传播一遍，先猜个大概 · 选读
#
# 只要一遍反向传播，就能一次猜出所有头的代价。适合手里有大模型的读者。

# %% [markdown]
# 这里头少，为每个头跑一遍费不了多少时间；模型有一千个头，就太费时间了。不过代价是一个差，差如果小，就可以用导数来近似：$L(\xi_h{=}0) \approx L - \partial L / \partial \xi_h$。从 1 到 0 这一步并不小，所以这只是粗略的猜测；好处是只要反向传播一遍，所有的门就一次猜完。Michel et al. 取导数的绝对值，对句子 $x$ 求平均：
#
# $$I_h = \mathbb{E}_x \left| \frac{\partial L(x)}{\partial \xi_h} \right| .$$
#
# 他们**先**取绝对值再平均。所以 $I_h$ 并不就是代价：一个头如果让一个句子变好，又让另一个句子变差同样多，它的代价就是零，却仍然重要。我们只比较**次序**。每个句子有自己的一组门。（他们还除以每层的范数，我们不除。）

# %%
#| export
def importance(model: Transformer, batches: Iterable[Batch]) -> dict[Head, float]:
    """Return for each head the mean size of the loss's slope at its gate, in nats a sentence.

    The parameters get no gradient. Michel et al. 2019, section 4.1.
    """
    heads, count = heads_of(model), 0
    totals = torch.zeros(len(heads))
    for batch in batches:
        shape = len(batch.src), model.config.n_heads
        gates = {(h.kind, h.layer): torch.ones(shape, device=batch.src.device, requires_grad=True)
                 for h in heads}
        with gated(model, gates):
            loss = batch_loss(model, batch)  # summed over the tokens
        slopes = torch.autograd.grad(loss, list(gates.values()))  # (B, H) each
        totals += torch.cat([slope.abs().sum(0).cpu() for slope in slopes])
        count += len(batch.src)
    return dict(zip(heads, (totals / count).tolist()))


# %%
slopes = importance(model, judged)
agreement = rank_correlation(slopes.values(), alone.values())
assert list(slopes) == list(alone) and agreement > 0.3
assert not any(p.grad is not None for p in model.parameters())
print(f"rank correlation of slope and measured cost over {len(heads)} heads: {agreement:.2f}")
regular = [max((shares[h.layer, h.head] / uniform).item() for shares, uniform in learned[h.kind].values())
           for h in heads]
print(f"of regularity (section 2) and measured cost: {rank_correlation(regular, alone.values()):.2f}")

# %% [markdown]
# ### 直到模型垮掉
#
# 现在拿掉的头越来越多，翻译的是**另外**一些验证句，不是算代价用的那些。次序有三种：代价最小的先拿；随机拿；代价最大的先拿。随机的次序要多试几种，每种还要倒过来用一遍，免得某个头总是早早就拿掉。**先猜**：代价最小的先拿，要拿掉多大比例的头，第 09 课的配对检验才看出损失？

# %%
mine = None  # your guess: a share of the heads, 0 to 1

# %%
part = val[n : n + by_scale(smoke=20, cpu=80, gpu=500)]
shares = [0.1, 0.2, 0.3, 0.45, 0.6]
orders = {"cheapest first": ordered, "costliest first": ordered[::-1]}
for seed in range(by_scale(smoke=1, cpu=2, gpu=3)):
    drawn = random.Random(seed).sample(heads, len(heads))
    orders[f"random {seed + 1}"], orders[f"random {seed + 1}, backwards"] = drawn, drawn[::-1]


def said_without(gone: list[Head]) -> list[str]:
    with prune(model, gone):
        return translate(model, bpe, [german for german, _ in part], max_tokens=4000)


def bleu_without(gone: list[Head]) -> float:
    return score(said_without(gone), [english for _, english in part]).bleu


written, meant = said_without([]), [english for _, english in part]
with_all = with_interval(written, meant)
curves = {name: [with_all.score, *(bleu_without(order[: round(share * len(heads))]) for share in shares)]
          for name, order in bar(orders.items(), "order")}
shares = [0, *shares]

# %%
means = {name: sum(curve) / len(curve) for name, curve in curves.items()}
by_chance = [value for name, value in means.items() if name.startswith("random")]
verdicts = {name: [compare(written, said_without(orders[name][: round(share * len(heads))]), meant)["BLEU"]
                   for share in shares[1:]] for name in ("cheapest first", "costliest first")}
hurts = {name: next((share for share, verdict in zip(shares[1:], some)
                     if verdict.difference < 0 and verdict.p_value < 0.05), 1.0)
         for name, some in verdicts.items()}
draw.removal_curves(shares, curves, f"The first significant loss: cheapest first at {hurts['cheapest first']:.0%} of the "
                    f"heads, costliest first at {hurts['costliest first']:.0%}", with_all.margin)

# %%
low, high = means["costliest first"], means["cheapest first"]
assert high > low and high > sum(by_chance) / len(by_chance)
assert hurts["cheapest first"] >= hurts["costliest first"]
for share, *both in zip(shares[1:], *verdicts.values()):
    print(f"without {share:.0%}: " + "; ".join(f"{name} {verdict}" for name, verdict in zip(verdicts, both)))
single = {head: compare(written, said_without([head]), meant)["BLEU"] for head in (ordered[0], ordered[-1])}
print("one head only: " + "; ".join(f"{head} {verdict}" for head, verdict in single.items()))
as_bad = sum(value <= low for value in by_chance)
print(f"{len(part)} sentences, mean BLEU along the way: cheapest first {high:.1f}, costliest first {low:.1f}, "
      f"random orders from {min(by_chance):.1f} to {max(by_chance):.1f}")
beaten = sum(value < high for value in by_chance)
print(f"cheapest first is better than {beaten} of {len(by_chance)} random orders")
print("costliest first is worse than every random order" if not as_bad else
      f"costliest first is no worse than chance: {as_bad} of {len(by_chance)} random orders are as bad, or worse")
guesses.compare(mine, hurts["cheapest first"], "09b: share of heads gone at the first significant loss")

# %% [markdown]
# **留下**代价高的头，有好处。**先拿**它们，却不一定比随机更糟（这里怎样，见最后一行）：每个代价都是在其他头都在时测的，而单个代价不能相加。随机的次序可能早早就把某个子层的头全拿光，分数因此大跌。左边的竖线是单个 BLEU 的 95% 区间：句子这么少，区间就有这么宽。各条曲线用的是同样的句子，所以曲线之间的差，比这个区间显示的要可靠；但是只差几分，仍说明不了什么。因此图的标题依据的是第 09 课的配对检验，而“还不显著”也不证明没有损失：句子更多，就能看出更小的损失。
#
# Voita et al. (2019) 走得更远：他们让模型在训练中自己学着把门关上，拿掉了 48 个编码器头中的 38 个，只降了 0.15 BLEU。那为什么还要用许多头来训练？在表 3 的 (A) 行，只用一个头**训练**的模型低 0.9 BLEU。两个结果合起来提示我们：头多，有助于**找到**好的解；找到之后，头少也保得住。
#
# > **试一试。** 选代价最小的九个头，这次不看 `alone`，改看 `slopes`。有几个相同？这九个一起拿掉，代价是多少？
#
# <details><summary>答案</summary>
#
# 九个里有六个相同（全部 36 个的秩相关：0.64）。拿掉实测代价最小的九个，损失上升 0.068；按斜率选的九个，上升 0.092。一遍反向传播猜得还可以，也仅此而已。
#
# </details>

# %% [markdown]
# ## 6 · 算到一半时，模型在想什么？
#
# 残差连接（第 05 课）为每个位置保留一个向量，每个子层只往上加一点东西。要到最后一层之后，这个向量才变成各个词的分数。不过每一层之后，它的宽度都一样。那么，不等到最后，提前来问会怎样？取第 $\ell$ 层之后的向量，直接用**最后的**归一化和词表投影，把它读出来。这就是 **logit 透镜**（logit lens，nostalgebraist 2020）：
#
# $$\text{logits}_\ell = W_{\text{vocab}} \; \operatorname{norm}_{\text{final}} (x_\ell) , \qquad
# \ell = 0, 1, \dots, N .$$
#
# $\ell = N$ 时，读出的就是模型自己的输出。$\ell = 0$ 时，还没有经过任何层，只有刚读到的词元的嵌入，加上位置。（后归一化的模型没有最后的归一化，每一层都以自己的归一化结束。）

# %%
#| export
@torch.no_grad()
def states_of(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the vectors before the first layer and after each one.

    Encoder (N + 1, B, S, D), decoder (N + 1, B, T, D); a pre-norm stack's final norm is not applied.
    """
    source = [model.positions(model.src_embedding(batch.src))]
    for layer in model.encoder.layers:
        source.append(layer(source[-1], batch.src_mask))
    memory = model.encoder.norm(source[-1])
    target = [model.positions(model.tgt_embedding(batch.tgt_in))]
    for layer in model.decoder.layers:
        target.append(layer(target[-1], memory, batch.src_mask, batch.tgt_mask))
    return torch.stack(source), torch.stack(target)


@torch.no_grad()
def logit_lens(model: Transformer, states: Tensor) -> Tensor:
    """Return what a decoder that stopped here would say: (..., D) -> log-probabilities (..., V).

    nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    return model.project(model.decoder.norm(states)).log_softmax(-1)


# %%
some = [batch.to(device) for batch in make_batches(encode_pairs(bpe, sample), 800)]
batch = some[0]
with torch.no_grad():
    logits = model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)
last = logit_lens(model, states_of(model, batch)[1][-1])
assert torch.allclose(last, logits.log_softmax(-1), atol=1e-4)
print("through the lens, the last layer is the model itself")

# %% [markdown]
# 在整个语料库上，对每一层问四件事。这一层排第一的词，是否已经是**最终的**词元（图中的“final”），即整个模型排第一的词？是否是**正确的**词元（“right”），即参考译文里的那个？是否还是刚刚**读到**的词元（“read”）？最终的词元在这一层又排第几**名**？
#
# **先猜**：在第 0 层，模型会说什么？这个模型的嵌入和投影是同一张表：在表里查出刚读到的词，再用同一张表乘一遍。

# %%
mine = None  # what the model says at layer 0: "the right word", "the word read" or "noise"

# %%
def through_the_lens(batches: list[Batch]) -> dict[str, Tensor]:
    """For each layer: shares of first choices (N + 1,), and the ranks of the final token (N + 1, n)."""
    counts = {"final": 0, "right": 0, "read": 0}
    ranks = []
    for batch in batches:
        real = batch.tgt_out != PAD
        said = logit_lens(model, states_of(model, batch)[1][:, real])  # (N + 1, n, V)
        first, final = said.argmax(-1), said[-1].argmax(-1)
        asked = {"final": final, "right": batch.tgt_out[real], "read": batch.tgt_in[real]}
        counts = {name: counts[name] + (first == asked[name]).sum(1) for name in asked}
        ours = said.gather(-1, final.expand(len(said), -1)[..., None])  # (N + 1, n, 1)
        ranks.append(1 + (said > ours).sum(-1))
    ranks = torch.cat(ranks, 1).cpu()
    return {**{name: (count / ranks.size(1)).cpu() for name, count in counts.items()}, "ranks": ranks}


lens = through_the_lens(some)
half = int((lens["final"] >= 0.5).int().argmax())
draw.lens_by_layer(lens, f"From layer {half} of {sizes.n_layers} on, the first choice is mostly the "
                   "final one")

# %%
final, read, right = lens["final"], lens["read"], lens["right"]
assert (final.diff() > 0).all()
assert read[-1] < 0.1 and right[-1] > right[0] + 0.3
if sizes.tie_embeddings:
    assert read[0] > 0.9  # the embedding, multiplied by itself
medians = lens["ranks"].median(1).values.tolist()
assert medians[max(half - 1, 1)] < medians[0] / 5  # on its way up, before it is first
print(f"layer{'final':>8}{'right':>8}{'read':>8}{'median rank':>13}")
for layer, median in enumerate(medians):
    print(f"{layer:5}{final[layer]:8.1%}{right[layer]:8.1%}{read[layer]:8.1%}{median:13}")
print(f"before the last layer {final[-2]:.0%} of the first choices are the final ones; it changes the other "
      f"{1 - final[-2]:.0%}")
guesses.compare(mine, "the word read" if read[0] > 0.5 else "noise", "09b: what layer 0 says")

# %% [markdown]
# 一个位置上的向量，开始时代表**读到**的词，最后代表要**写**的词，中途总要转变过来：解码器的预测，就是这样一步步变出来的。请看“median rank”（排名的中位数）和旁边的“final”一栏：最终的词还没排到第一，名次就已经很靠前了。到最后一层才定下来的词占多大比例，见表下面那一行。
#
# 来看一个探针句，一层一层地看，从下往上读。格子里是这一层之后排第一的词；颜色深浅表示，**最终**选定的词在这一层已经有多大的概率。（解码器照着束搜索的译文走，所以最上面一行不一定就是那个译文。）

# %%
shown = 0
pair = [(probes[shown]["de"], said_of_probes[shown])]
batch = next(iter(make_batches(encode_pairs(bpe, pair), 400))).to(device)
said = logit_lens(model, states_of(model, batch)[1][:, 0]).cpu()  # (N + 1, T, V)
first, final_ids = said.argmax(-1), said[-1].argmax(-1)
probability = said.gather(-1, final_ids.expand(len(said), -1)[..., None])[..., 0].exp()
words = [[bpe.names[i] for i in row] for row in first.tolist()]
read_names = [bpe.names[i] for i in batch.tgt_in[0].tolist()]
changed = sum(a != b for a, b in zip(words[-2], words[-1]))
assert probability[-1].mean() > probability[0].mean() + 0.3
draw.lens_grid(words, probability, read_names, f"{changed} of {len(words[-1])} words change in the last layer")

# %% [markdown]
# 提醒一点：透镜用的是**最后**一层的读法。在靠前的层里读不出某个词，不等于这个词不在那里；它可能表示在空间的别的方向上。（Belrose et al. 2023 为每一层训练一个小小的“翻译器”，叫 **tuned lens**，这样从靠前的层就能读出更多。）

# %%
check("lens_early")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 那么编码器呢？· 选读
#
# 编码器的向量里，还保留着多少原词的信息。

# %% [markdown]
# 编码器什么也不预测，透镜没有东西可读。但是可以问，向量里还保留着多少原来那个**词**的信息：每一层之后，词元的向量与它自己的嵌入的余弦是多少，与同句其他词元的嵌入又是多少。再问：在词表的所有嵌入里，最近的还是它自己的吗？**先猜**：这么多层混合下来，有多大比例的词元还是这样？

# %%
mine = None  # your guess: a share of the tokens, 0 to 1

# %%
def word_left(batches: list[Batch]) -> dict[str, Tensor]:
    """For each layer of the encoder: cosine with the own embedding and with the others', and the
    share of tokens whose own embedding is the nearest of all: (N + 1,) each."""
    table = F.normalize(model.src_embedding.weight.detach(), dim=-1)  # (V, D)
    sums, tokens = {"own": 0.0, "others": 0.0, "nearest": 0.0}, 0
    for batch in batches:
        states = F.normalize(states_of(model, batch)[0], dim=-1)  # (N + 1, B, S, D)
        real = batch.src != PAD
        both = real[:, :, None] & real[:, None] & ~torch.eye(real.size(1), dtype=bool, device=device)
        cosine = states @ table[batch.src].mT  # (N + 1, B, S, S)
        sums["own"] = sums["own"] + cosine.diagonal(dim1=-2, dim2=-1)[:, real].sum(1)
        sums["others"] = sums["others"] + (cosine * both / both.sum(-1, keepdim=True).clamp(1)).sum((1, 2, 3))
        nearest = (states[:, real] @ table.T).argmax(-1)
        sums["nearest"] = sums["nearest"] + (nearest == batch.src[real]).sum(1)
        tokens += int(real.sum())
    return {name: (total / tokens).cpu() for name, total in sums.items()}


left = word_left(some)
draw.word_left(left, f"After the last layer {left['nearest'][-1]:.0%} of the tokens can still be told by "
               "their vector")

# %%
assert left["own"][-1] < left["own"][0] and (left["own"] > left["others"] + 0.1).all()
assert left["nearest"][-1] > 0.5
for layer, (own, others, nearest) in enumerate(zip(*(left[k].tolist() for k in ("own", "others", "nearest")))):
    print(f"layer {layer}: cosine with its own embedding {own:.2f}, with the others' {others:.2f}; "
          f"own is nearest: {nearest:.0%}")
guesses.compare(mine, left["nearest"][-1].item(), "09b: tokens whose own embedding is nearest")

# %% [markdown]
# 向量渐渐偏离自己的嵌入，但并不靠近同句其他词元的嵌入：注意力带进来的东西经过了 $W^V$ 和 $W^O$，这个余弦看不出来。不过原来的词没有丢：残差这条路能把它一直带到顶层。这对解码器很方便：它查看记忆（编码器的输出）时，既要问“主语在哪里？”，又要问“是哪个词？”。
#
# > **试一试。** 把透镜的“final”曲线按最终的词元拆开：词首的片段（`▁`）、词中的片段、标点和结束符。哪些定得早？为什么？
#
# <details><summary>答案</summary>
#
# 在第 1 层和第 2 层之后（300 个验证句）：词首 5% 和 77%，词中 18% 和 69%，标点和结束符 49% 和 92%。标点种类少，模型很早就有把握。词中的片段，前面已经有了词头，起初可选的较少；可是切成片段的词都少见，更多的要等到最后一层才定得下来。
#
# </details>

# %% [markdown]
# ## 7 · 模型错在哪里
#
# 整个语料库只算一个 BLEU，只能说明总体有多好，不能说明**哪里**不好。我们把验证句分组，问三个问题：模型怕**长句**吗？怕**少见的词**吗？怕没见过的**复合词**吗？
#
# 一组只有一百来句，分数会有波动；图中的竖线是第 09 课的误差范围，用自助法得到。

# %%
tested = val[n : n + by_scale(smoke=100, cpu=500, gpu=1014)]  # not those that gave the prices
sources, references = (list(side) for side in zip(*tested))
greedy = translate(model, bpe, sources, max_tokens=4000)
print(f"BLEU of all {len(tested)} sentences: {with_interval(greedy, references)}")

# %% [markdown]
# ### 少见的词，切成几片
#
# 怎样知道一个词少见？去训练文本里数。或者去问词元化程序：BPE 合并的是常见的东西（第 06 课），所以**常见的词往往是一个词元，少见的词是几个**。后一种办法不需要语料库，只要模型自带的词元化程序。

# %%
def german_words(sentence: str) -> list[str]:
    return re.findall(r"\w+", sentence)


def n_pieces(word: str) -> int:
    return len(bpe.encode(word))


train_counts = Counter()
if corpus == "multi30k":
    train_counts.update(word.lower() for german, _ in pairs(corpus, "train") for word in german_words(german))
    distinct = sorted({word for german in sources for word in german_words(german)})
    relation = rank_correlation([train_counts[w.lower()] for w in distinct], map(n_pieces, distinct))
    assert relation < -0.4
    print(f"{len(distinct):,} distinct words; rank correlation of count and pieces: {relation:.2f}")
else:
    print("Multi30k is not here: the tokeniser's pieces stand for the counts.")

# %% [markdown]
# ### 复合词
#
# 德语把复合词写成一个词，而且天天造新的。*Kürbissuppenwagen*（南瓜汤车）哪本词典里都没有，它的各部分却有。要在没见过的词里找出复合词，需要一个切分程序。Koehn and Knight (2003) 的办法是：试遍所有切法，把词切成认识的词；前一部分后面可以有连接字母（我们用 *-s-, -es-, -n-, -en-, -er-*）；最后选各部分最常见的切法，“常见”用频次的几何平均来衡量。

# %%
#| export
LINKERS = ("", "s", "es", "n", "en", "er")


def split_compound(
    word: str, counts: Mapping[str, int], shortest: int = 4
) -> tuple[str, ...]:
    """Return the known words that a German compound is made of, () if there is no way to cut it.

    counts: how often each lower-case word was seen. Parts have `shortest` letters or more, and may
    be followed by a linking element; of several ways the one with the largest geometric mean of
    counts wins. A word that is known counts as a way, too. Koehn and Knight 2003.
    """

    def frequency(part: str) -> int:
        return counts.get(part, 0) if len(part) >= shortest else 0

    @cache
    def ways(rest: str) -> list[tuple[str, ...]]:
        found = [(rest,)] if frequency(rest) else []
        for cut in range(shortest, len(rest) - shortest + 1):
            stems = [rest[:cut].removesuffix(link) for link in LINKERS if rest[:cut].endswith(link)]
            part = max(stems, key=frequency)
            if frequency(part):
                found += [(part, *more) for more in ways(rest[cut:])]
        return found

    def likelihood(way: tuple[str, ...]) -> float:
        return sum(log(frequency(part)) for part in way) / len(way)

    return max(ways(word.lower()), key=likelihood, default=())


# %%
# NBVAL_CHECK_OUTPUT
known = {"kürbis": 5, "suppe": 9, "wagen": 80, "regen": 70, "schirm": 30, "regenschirm": 90, "hund": 900}
for word in ("Kürbissuppenwagen", "Regenschirm", "Hundewagen", "Hund"):
    print(f"{word:18}", split_compound(word, known))
assert split_compound("Kürbissuppenwagen", known) == ("kürbis", "suppe", "wagen")
assert split_compound("Regenschirm", known) == ("regenschirm",)  # known as a whole, and more frequent
assert split_compound("Hundewagen", known) == ()  # -e- is not among the linkers

# %% [markdown]
# > **试一试。** 在 `LINKERS` 里加上 `"e"`。现在找得到 *Hundewagen* 吗？
#
# <details><summary>答案</summary>
#
# 找得到，切成 *hund* + *wagen*，于是最后一个断言不成立。连接字母列得太少，会漏掉复合词；列得太多，会把不是复合词的也切开。
#
# </details>

# %%
def hardest(sentence: str) -> int:
    """The number of pieces of the word that is cut into most."""
    return max(map(n_pieces, german_words(sentence)), default=1)


def unknown(sentence: str) -> str:
    """What in a sentence training never saw: nothing, another word, or a compound of known words."""
    new = [word for word in german_words(sentence) if not train_counts[word.lower()]]
    if not new:
        return "all known"
    return "compound" if any(split_compound(word, train_counts) for word in new) else "another word"


def rarest(sentence: str) -> int:
    """How often training saw the rarest word of a sentence."""
    return min((train_counts[word.lower()] for word in german_words(sentence)), default=0)


def cut_at(value: float, bounds: Sequence[int], names: Sequence[str]) -> str:
    return names[sum(value >= bound for bound in bounds)]


long_words = sorted(len(german_words(german)) for german in sources)
bounds = [long_words[len(long_words) * i // 4] for i in (1, 2, 3)]
length_names = [f"to {bounds[0] - 1}", f"to {bounds[1] - 1}", f"to {bounds[2] - 1}", "longer"]
questions = {
    "words in the sentence": lambda s: cut_at(len(german_words(s)), bounds, length_names),
    "pieces of its hardest word": lambda s: cut_at(hardest(s), (2, 3, 4, 5), ("1", "2", "3", "4", "5 +")),
}
order = {"words in the sentence": length_names, "pieces of its hardest word": ["1", "2", "3", "4", "5 +"]}
if corpus == "multi30k":
    counts_names = ("never", "1 to 4", "5 to 19", "20 to 99", "100 +")
    questions["training saw its rarest word"] = lambda s: cut_at(rarest(s), (1, 5, 20, 100), counts_names)
    questions["training never saw"] = unknown
    order["training saw its rarest word"] = counts_names
    order["training never saw"] = ("all known", "another word", "compound")

# %% [markdown]
# **先猜**：按最难的词给句子分组。一组句子里，最难的词只有一个片段；另一组里，最难的词切得最碎。两组的 chrF 相差多少分？

# %%
mine = None  # your guess, in points of chrF

# %%
bars = {}  # question -> metric -> group -> Interval
for question, group_of in questions.items():
    groups = {name: [i for i, german in enumerate(sources) if group_of(german) == name]
              for name in order[question]}
    bars[question] = {metric: {name: with_interval([greedy[i] for i in chosen],
                                                   [references[i] for i in chosen], metric, 300)
                               for name, chosen in groups.items() if len(chosen) >= 8}
                      for metric in ("bleu", "chrf")}


draw.error_bars(bars, "Quality by the length of the sentence, and by how hard its words are")

# %%
stairs = bars["pieces of its hardest word"]["chrf"]
first, *_, last = stairs.values()
assert first.score > last.score
if corpus == "multi30k":
    seen = list(bars["training saw its rarest word"]["chrf"].values())
    assert seen[-1].score > seen[0].score
    new = {word for german in sources for word in german_words(german) if not train_counts[word.lower()]}
    compounds = {word for word in new if split_compound(word, train_counts)}
    print(f"{len(new)} words that training never saw, {len(compounds)} of them compounds of known words")
    old = {word for german in sources for word in german_words(german)} - new
    for name, some_words in (("known", old), ("new, a compound", compounds), ("new, another", new - compounds)):
        print(f"{name:16} {sum(map(n_pieces, some_words)) / max(len(some_words), 1):.1f} pieces a word")
    groups = bars["training never saw"]["chrf"]
    print("chrF, sentences with an unknown word:", {name: str(value) for name, value in groups.items()})
    if {"compound", "another word"} <= set(groups):
        one, other = groups["compound"], groups["another word"]
        gap, width = one.score - other.score, (one.margin**2 + other.margin**2) ** 0.5
        print(f"a compound instead of another unknown word: {gap:+.1f} ± {width:.1f} chrF:",
              "no clear difference" if abs(gap) < width else "easier" if gap > 0 else "harder")
print(f"chrF, hardest word whole: {first}; in most pieces: {last}")
guesses.compare(mine, first.score - last.score, "09b: chrF between easiest and hardest words")

# %% [markdown]
# 先说第三个问题。句子里有没见过的词，就译得差，复合词也不例外。复合词比其他没见过的词**更糟**吗？答案在输出里，附有误差范围。这是两个不同的组之差，所以误差范围要这样算：两组误差范围的平方和，再开平方。（没有 Multi30k 就没有频次，也就没有答案。）
#
# 词越少见，分数越低，而且降得很陡。但是长句里词多，少见的词也就多：会不会只是句子太长，让少见的词**背了黑锅**？公平的比较，是把**等长的句子两两配对**：每个有难词（四个片段以上）的句子，配一个词数相同、但没有哪个词超过两个片段的句子。

# %%
CHRF_OF = CHRF()
quality = [CHRF_OF.sentence_score(a, [b]).score for a, b in zip(greedy, references)]
words_in = [len(german_words(german)) for german in sources]
easy = {}
for i, german in enumerate(sources):
    if hardest(german) < 3:
        easy.setdefault(words_in[i], []).append(i)
matched = [(i, easy[words_in[i]].pop()) for i, german in enumerate(sources)
           if hardest(german) >= 4 and easy.get(words_in[i])]
gaps = torch.tensor([quality[b] - quality[a] for a, b in matched])
gap, margin = gaps.mean().item(), 2 * gaps.std().item() / len(gaps) ** 0.5
assert len(matched) >= 5 and gap > 0
print(f"{len(matched)} pairs of equal length: the sentence without a hard word is better by {gap:.1f} ± "
      f"{margin:.1f} chrF")

# %% [markdown]
# 所以单凭长度解释不了。（少见的词也可能伴随别的困难，例如少见的场景。）切成五片的复合词，模型并不认识，只能一片一片地拼着读。专为这一点写的两个探针句，结果如下：

# %%
for row, english in zip(probes, said_of_probes):
    if row["probes"] == "unknown compound":
        word = max(german_words(row["de"]), key=len)
        print(f"{word}: {' '.join(bpe.tokens(word))}\n  model:     {english}\n  reference: {row['en']}")
        assert n_pieces(word) >= 4

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 最差的十句 · 选读
#
# 写个程序，指出译文错在哪里；再看探针句里最差的十句。

# %% [markdown]
# 现在按句子的 chrF，从最差的开始列出探针句。每句附有说明，指出错在哪里。说明由规则得出：比较时先去掉词尾。“missing”（缺）：参考译文里有，译文里没有；“added”（多）：正相反；“form”（形）：同一个词，词尾不同（数或时态）；“twice”（重）：说的次数多了。规则毕竟是死的：换成一个好的同义词，也算缺一个、多一个。所以请自己读句子。

# %%
#| export
SMALL_WORDS = frozenset(re.findall(r"\w+",
    "a an the and or but of in on at to by for from with into onto over under up down out off "
    "is are was were be been being has have had his her its their him them it he she they "
    "who which that this while as some"
))


def stem(word: str) -> str:
    """Return an English word without its ending: gives, giving -> giv; runs, running -> run."""
    word = word.lower().removesuffix("'s")
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending)
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return re.sub("i$", "y", re.sub("e$", "", word))


# %% [markdown]
# 词干相同的两个词，算同一个词。有了这条约定，四种说明都能用集合的差求出来：

# %%
#| export
def diagnose(said: str, meant: str) -> dict[str, list[str]]:
    """Return what is wrong with a translation, by rule: "missing", "added", "form", "twice".

    Only what was found is in the dict. Small words (articles, prepositions, auxiliaries) count
    for "twice" alone, and there only if they follow each other. Synonyms it does not know.
    """
    words = [re.findall(r"\w+(?:'\w+)?", text.lower()) for text in (said, meant)]
    ours, theirs = ({stem(w): w for w in side if w not in SMALL_WORDS} for side in words)
    counts = [Counter(stem(w) for w in side if w not in SMALL_WORDS) for side in words]
    stutter = [a for a, b in zip(words[0], words[0][1:]) if a == b]
    exact = [set(side) for side in words]
    notes = {
        "missing": [word for key, word in theirs.items() if key not in ours],
        "added": [word for key, word in ours.items() if key not in theirs],
        "form": [f"{word} for {theirs[key]}" for key, word in ours.items()
                 if key in theirs and word not in exact[1] and theirs[key] not in exact[0]],
        "twice": list(dict.fromkeys(
            [word for key, word in ours.items() if counts[0][key] > max(counts[1][key], 1)] + stutter
        )),
    }
    return {name: found for name, found in notes.items() if found}


# %%
# NBVAL_CHECK_OUTPUT
example = diagnose("The old man gives the the dogs a dog.", "The old woman is giving the cat a red ball.")
assert example == {"missing": ["woman", "cat", "red", "ball"], "added": ["man", "dog"],
                   "form": ["gives for giving"], "twice": ["dog", "the"]}
assert diagnose("A dog is running.", "A dog is running.") == {}
print(example)

# %% [markdown]
# > **试一试。** `diagnose("A person is running.", "A woman is running.")`
#
# <details><summary>答案</summary>
#
# 缺 *woman*，多 *person*。规则看到两个错，读者却觉得没有错，最多算半个。
#
# </details>

# %%
meant = [row["en"] for row in probes]
quality = [CHRF_OF.sentence_score(a, [b]).score for a, b in zip(said_of_probes, meant)]
worst = sorted(range(len(probes)), key=quality.__getitem__)
for i in worst[:10]:
    print(f"{probes[i]['id']}  chrF {quality[i]:.0f}  [{probes[i]['probes']}]")
    print(f"  {probes[i]['de']}\n  model:     {said_of_probes[i]}\n  reference: {meant[i]}")
    for name, found in diagnose(said_of_probes[i], meant[i]).items():
        print(f"  {name}: {', '.join(found)}")

# %%
found = [diagnose(a, b) for a, b in zip(said_of_probes, meant)]
tally = Counter(name for notes in found for name in notes)
missing = [sum(len(found[i].get("missing", ())) for i in ten) for ten in (worst[:10], worst[-10:])]
assert missing[0] > 2 * missing[1]
print("of forty translations:", ", ".join(f"{count} with {name!r}" for name, count in tally.most_common()))
print(f"words missing in the ten worst: {missing[0]}; in the ten best: {missing[1]}")

# %% [markdown]
# 再读一遍这十句，分成两类：一类连英语都不通；另一类是**通顺的胡话**，英语很好，内容却错了。第二类更危险，因为不看源句，谁也发现不了。词要一片一片拼的时候，模型往往猜一个适合**场景**的词。人不认识一个词，会问，或者空着；语言模型却总得说点什么。
#
# > **试一试。** 用自己造的复合词写三个德语句子，翻译一下，再看看 `bpe.tokens`。把复合词用连字符写开，对模型有帮助吗？
#
# <details><summary>答案</summary>
#
# 我们试了三个，束宽 4。*Zwiebelhut*（洋葱帽）：*a twirl hat*；*Zwiebel-Hut*：*a zel hat*。*Nudelfahrrad*（面条自行车）：两种写法都是 *a bicycle with a poodle*。*Wolkenball*（云球）：*a cloudy ball*；*Wolken-Ball*：*a cloudy book*。连字符在这里没有帮助：它后面要用大写字母，原来的片段 `ball` 就变成了 `B all`。
#
# </details>

# %% [markdown]
# ## 8 · 束要多宽，惩罚要多强？
#
# 解码有两个旋钮可以调：束宽和长度惩罚的 $\alpha$。[第 08 课](08_decoding.ipynb)讲过这两个。对自带的模型，在全部验证句上试了 55 种设置。**先猜**：最好与最差之间，相差几分 BLEU？

# %%
mine = None  # your guess, in points of BLEU

# %%
card = json.loads((ASSETS / "checkpoints" / "multi30k-de-en" / "results.json").read_text("utf-8"))
tried = {(beam, alpha): bleu for beam, alpha, bleu in card["decoding"]["tried"]}
(beam, alpha), top = max(tried.items(), key=lambda item: item[1])
span = top - min(tried.values())
margin = card["test_2016_flickr_greedy"]["margin"]  # of one score on a thousand sentences
assert (beam, alpha) == (card["decoding"]["beam"], card["decoding"]["length_penalty"]) and span < margin
print(guesses.compare(mine, span, "09b: BLEU between 55 decodings"))
draw.beam_grid(tried, f"All {len(tried)} settings lie within {span:.1f} BLEU; one score on a thousand sentences is ± {margin:.1f}")

# %% [markdown]
# 自带的模型用的是束宽 3，α 为 2.1。（¹ 这个 α 只适用于我们的搜索，为什么不能搬到别的程序，见[第 09 课](09_evaluation.ipynb)第 8 节。）最好的设置是从 55 种里挑出来的，它领先，有一部分靠的是运气。这种图的正确用法是：在平坦的部分取最小的束宽，用尽可能多的验证句选 α，然后就别再动旋钮，在测试集上绝对不要动。

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `heads_of` | 模型 | `Head(kind, layer, head)` 的列表 |
# | `look_inside` | 模型、词元化程序、句对 | 每对一个 `Look`：三种注意力的权重 (N, H, Q, K) |
# | `marks_of`, `mean_share` | 一个 Look；权重 (N, H, Q, K)、标记 (Q, K) | 各个假设；份额 (N, H) 和均匀份额 |
# | `word_index`, `to_words`, `word_attention`, `links_of` | 词元、权重 (..., T, S) | 词、权重 (..., Tw, Sw)、连线 |
# | `prune`, `gated` | 模型、头或门 | 一个代码块；在块内，这些头或门都关闭 |
# | `importance` | 模型、批次 | 头 -> 门上斜率绝对值的平均 |
# | `states_of`, `logit_lens` | 模型、批次；状态 (..., D) | 状态 (N + 1, B, L, D)；对数概率 (..., V) |
# | `rank_correlation` | 两列数 | −1 到 1：次序相同吗？ |
# | `split_compound`, `diagnose` | 一个词和频次；两个句子 | 认识的各部分；由规则得出的说明 |
#
# ## 练习
#
# 1. **你自己的假设（难度 2/5，20 分钟）。** 德语**从句**的动词放在最后（探针句 p11 到 p14）。从句以逗号或句号结尾；在编码器里，标出这个逗号或句号前面的那个词，只对这个从句里的查询标。有没有头找得到它？
#
# <details><summary>答案</summary>
#
# 有。在 71 条带 *während*（正当……时）或关系从句的图片说明上，头 1.2 把 15% 的权重放在那里，是均匀份额的三倍；未训练的头最多 1.1 倍。（它找的不一定是**动词**：也可能是标点前的最后一个词。）
#
# </details>
#
# 2. **贪心剪枝（难度 3/5，20 分钟）。** 在交叉注意力的每一层，反复拿掉**此刻**代价最小的头，每次都重新测量代价。这样比按单个代价的次序好吗？
#
# <details><summary>答案</summary>
#
# 好一点。第 1 层拿掉三个头，代价是 0.054；按单个代价的次序拿，代价是 0.063，因为头 2 和 4 拿掉之后，头 1 就变得重要了。第 2 层拿掉两个头，两种拿法的代价是 0.026 和 0.035。第 3 层是 0.032 和 0.034。
#
# </details>
#
# 3. **跳过一层（难度 3/5，20 分钟）。** 在一个层上挂一个钩子函数 `lambda module, args, output: args[0]`，就跳过了整层。少了哪一层影响最大？头的代价最高的也是这一层吗？
#
# <details><summary>答案</summary>
#
# 损失上升的量（以每词元奈特计）：编码器第 1 到 3 层依次是 +0.10、+0.06、+0.02，解码器依次是 +1.40、+0.20、+0.33。影响最大的是解码器第一层，遥遥领先，它的头代价也最高（去掉头 +0.25，去掉前馈部分 +0.15）。但是这两个代价加起来离 1.40 还差得远：一层的各部分也像头一样，能互相代替。
#
# </details>
#
# 4. **调过的透镜（tuned lens；难度 4/5，45 分钟）。** 为每一层学一个矩阵，把这一层的状态变成最后的状态：在一半图片说明上用最小二乘法求出，再到另一半上测量。最终的词能提前多少读出来？
#
# <details><summary>答案</summary>
#
# 大约早一层。下面是该层排第一的词与最终的词相同的比例，前一个数用普通透镜，后一个数用调过的透镜（两半各 150 条图片说明，矩阵带偏置）：第 0 层：0% 和 35%；第 1 层：14% 和 70%；第 2 层：77% 和 90%。词早就在那里，只是在别的方向上。
#
# </details>
#
# ## 小结
#
# - 一张注意力图只是个例。把假设写成标记的键，在语料库上求平均，再与均匀注意力和未训练的模型比较。
# - 有的头固定看相邻的位置，有的看要翻译的词；许多头什么都做一点。
# - 没有人要求过，交叉注意力却自己学会了词对齐。从注意力得到对齐时，要说明片段怎样合成词，每一步的权重是算给读到的词，还是算给要写的词。
# - 一个头看什么是一回事，有多重要是另一回事：拿掉它，测一测。各个头能互相代替。
# - 透过 logit 透镜，可以看到解码器里的向量怎样从读到的词变成要写的词。
# - 注意力图画的是模型看哪里，不是它需要什么：要估计需要度，数字母并不比看注意力差。
# - 即使句子一样长，有难词的仍然译得更差。
#
# ## 延伸阅读
#
# - Voita, Talbot, Moiseev, Sennrich, Titov 2019, *Analyzing Multi-Head Self-Attention*, arXiv 1905.09418; Michel, Levy, Neubig 2019, *Are Sixteen Heads Really Better than One?*, arXiv 1905.10650.
# - Clark, Khandelwal, Levy, Manning 2019, *What Does BERT Look At?*, arXiv 1906.04341：句末的符号；由片段到词。
# - Garg, Peitz, Nallasamy, Paulik 2019, *Jointly Learning to Align and Translate with Transformer Models*, arXiv 1909.02074; Chen, Liu, Chen, Jiang, Liu 2020, *Accurate Word Alignment Induction from Neural Machine Translation*, arXiv 2004.14837：错开一步。
# - nostalgebraist 2020, *interpreting GPT: the logit lens*, LessWrong; Belrose et al. 2023, *Eliciting Latent Predictions from Transformers with the Tuned Lens*, arXiv 2303.08112.
# - Koehn and Knight 2003, *Empirical Methods for Compound Splitting*, E03-1076; Sennrich, Haddow, Birch 2016, *Neural Machine Translation of Rare Words with Subword Units*, arXiv 1508.07909.
# - Jain and Wallace 2019, *Attention is not Explanation*, arXiv 1902.10186; Wiegreffe and Pinter 2019, *Attention is not not Explanation*, arXiv 1908.04626.
#
# **作业。** 六个问题（[问题](homework/questions/questions.ipynb)）问的就是你在这里看到的：为什么要几个头，每个头有什么用。
#
# **下一课：** [第 09c 课](09c_ablations.ipynb)问：配方里的每个选择带来多少好处？

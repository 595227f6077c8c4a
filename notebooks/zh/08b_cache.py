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
# # 08b · 缓存
#
# > 键值缓存、成批的束、并列时怎么取：把第 08 课的搜索变快（工程篇）。
#
# 第 08 课的搜索写得好读，但每写一个新词，都要把每个前缀从头再读一遍，句子也是一句一句地翻。这一页分四步把它们变快，每一步都与第 08 课的朴素代码对照：**译文不变。**
#
# **你将学会：**
# - 实现一个键值缓存（KV cache），并证明它只改变时间和内存；
# - 算出缓存要占多少内存；
# - 让许多束在一个批次里一起增长；
# - 说出解码一步的时间花在哪里。
#
# **先修：** 第 08 课。**时间：** 55 分钟。**论文：** 没有讲这些；可是没有它们，论文的解码器就没法实用。**位置：** 工程篇。第一遍可以跳过这一页：第 09 课只用到它的 `translate`，而它写出的译文与第 08 课的一样。

# %%
#| export
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from course.attention import MultiHeadAttention
from course.decoding import (
    Hypothesis,
    NextLogProbs,
    check_search,
    greedy_search,
    limits_of,
    next_log_probs,
    ranked,
    scorer,
)
from course.masking import pad, padding_mask
from course.seq2seq import Translator
from course.text import BOS, BPE, EOS, PAD, encode_sentence
from course.transformer import Transformer

# %%
import itertools
import os
import tempfile
import time
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from course import decoding, device
from course.corpora import pairs
from course.runs import Budget, Trainer, load_checkpoint
from course.training import PRESETS, preset_model
from course.transformer import TransformerConfig
from course.viz import decoding as draw

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or the profiler says when it starts and stops

# %% [markdown]
# ## 1 · 每个位置只读一次
#
# **第 08 课的 `next_log_probs` 重复算了什么？** 为了选第 $t$ 个词，它让解码器把 $t$ 个位置全读一遍，从 `<s>` 到 $y_{t-1}$。但是有了第 04 课的因果掩码，前面的位置看不到新词：解码器在前面这些位置上算出的一切，包括键和值，都和上次一样。一个 $T$ 个词的句子（算上 `</s>`）要读
#
# $$1 + 2 + \dots + T = \frac{T (T + 1)}{2}$$
#
# 个位置，其实 $T$ 个就够了。**先猜**：算新的位置，要用到前面各位置的哪些数？把解码器的一层走一遍：前馈网络和归一化在每个位置上单独计算；只有注意力（attention）看别的位置，看的是它们的**键和值**。所以我们留下键和值，其余都扔掉。这就是**键值缓存**（KV cache）。解码器的一层有两个注意力：
#
# - **自注意力**看的是前缀里已经写了什么。它的键和值每一步增加一个位置，每个前缀各有一份；
# - **交叉注意力**看的是源句。它的键和值始终不变，同一个束的所有前缀共用一份：不用为每个前缀复制。
#
# 下图是解码器的一层，正在读一个前缀的第 5 个位置，源句有 7 个词元（token）：

# %%
draw.layer_with_cache(written=5, source=7)

# %% [markdown]
# 两个注意力都要用同一种小部件：一块可以**就地写入**的内存。在用的位置后面还留着一些空位，新词把键和值写进下一个空位，别的都不动。（用 `torch.cat` 的话，每一步都要把已有的全部复制一遍。）这块内存写满了，就整个复制一次，换到两倍长的一块。三个矩阵 $W^Q$、$W^K$、$W^V$ 上下叠在一起，这样新的位置只要做一次乘法，不用三次。

# %%
#| export
class AttentionCache:
    """What one attention has read: keys and values of `length` places for n rows, kept in `room`."""

    def __init__(self, attention: MultiHeadAttention, x: Tensor) -> None:
        a = self.attention = attention
        self.weight = torch.cat([a.w_q.weight, a.w_k.weight, a.w_v.weight])  # (H * (2 Dk + Dv), D)
        self.n_keys = a.w_k.out_features  # H * Dk, the size of the queries, too
        self.room = F.linear(x, self.weight[self.n_keys :])  # (n, places, H * (Dk + Dv))
        self.length = x.size(1)  # places in use

    @property
    def keys(self) -> Tensor:
        """The keys, (n, H, length, Dk)."""
        return self.attention.split_heads(self.room[:, : self.length, : self.n_keys])

    @property
    def values(self) -> Tensor:
        """The values, (n, H, length, Dv)."""
        return self.attention.split_heads(self.room[:, : self.length, self.n_keys :])

    def look(self, query: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend with query (n, Q, H * Dk) to what is here -> the heads side by side, (n, Q, H * Dv)."""
        query = self.attention.split_heads(query)
        heads = F.scaled_dot_product_attention(query, self.keys, self.values, attn_mask=mask)
        return self.attention.merge_heads(heads)

    def read(self, x: Tensor, slots: Tensor) -> Tensor:
        """Write the keys and values of x (n, 1, D) into the rows `slots`, and attend -> (n, 1, D)."""
        query, new = F.linear(x, self.weight).tensor_split([self.n_keys], dim=-1)
        if self.length == self.room.size(1):
            self.room = F.pad(self.room, (0, 0, 0, self.length + 16))
        self.room[slots, self.length] = new[:, 0]
        self.length += 1
        queries = query.new_zeros(len(self.room), 1, self.n_keys)  # rows out of use ask nothing
        queries[slots] = query
        return self.attention.w_o(self.look(queries)[slots])

    def keep(self, rows: Tensor) -> None:
        """Make row i what row rows[i] was; or keep the rows where `rows` (n,) is True."""
        self.room = self.room[rows]

    def copy(self, rows: Tensor, to: Tensor) -> None:
        """Write what is in `rows` into the rows `to` as well."""
        self.room[to, : self.length] = self.room[rows, : self.length]

    def __repr__(self) -> str:
        n, heads, places, d_k = self.keys.shape
        megabytes = (self.keys.nbytes + self.values.nbytes) / 1e6
        return f"{n} rows x {heads} heads x {places} places x {d_k}: {megabytes:.2f} MB"


# %% [markdown]
# 在整个解码器里，每一层都有这样两个缓存，两种各一个。前缀变了，缓存必须**跟上**。一个新前缀去掉最后一个词元，就是它的**父前缀**；父前缀已经读过的内容，新前缀要接着用。在贪心搜索里，每个前缀都是父前缀唯一的孩子。在束搜索里，有的父前缀有好几个孩子，有的一个也没有。第一个孩子留在父前缀的行里，只有其余的孩子才复制到空闲的行。所以行的次序和前缀的次序并不一致：`slots` 说明哪一行属于哪个前缀。前缀或句子消失了，它们的行就留在原处闲着；等到四分之一的行都闲着，再重新整理一次。

# %%
#| export
class DecoderCache:
    """What the decoder has read so far of n prefixes, for m source sentences.

    own: for each layer the keys and values of the prefixes, prefix i in row slots[i]; source: those
    of the sentences, whose numbers are in `sentences`.
    """

    def __init__(self, model: Transformer, src: Tensor) -> None:
        self.src_mask = padding_mask(src, PAD)  # (m, 1, 1, S)
        memory = model.encode(src, self.src_mask)  # (m, S, D), read once
        layers = model.decoder.layers
        self.source = [AttentionCache(layer.cross_attention, memory) for layer in layers]
        self.own = [AttentionCache(layer.self_attention, memory[:, :0]) for layer in layers]
        self.sentences = self.slots = torch.arange(len(src), device=src.device)

    def follow(self, parents: Tensor) -> None:
        """Give prefix i of the next step what prefix parents[i] of the step before has read."""
        slots, n_rows = self.slots[parents], len(self.own[0].room)
        if not 0.75 * n_rows <= len(slots) <= n_rows:
            for cache in self.own:
                cache.keep(slots)
            self.slots = torch.arange(len(slots), device=slots.device)
            return
        ordered, index = slots.sort(stable=True)
        further = torch.zeros_like(slots, dtype=torch.bool)  # a child, but not the first
        further[index[1:]] = ordered[1:] == ordered[:-1]
        free = torch.ones(n_rows, dtype=torch.bool, device=slots.device)
        free[slots] = False
        to = free.nonzero()[: int(further.sum()), 0]
        for cache in self.own:
            cache.copy(slots[further], to)
        self.slots = slots.masked_scatter(further, to)

    def leave(self, rows: Tensor) -> None:
        """Let sentences that are not in `rows` leave, once a quarter of them can."""
        present = torch.isin(self.sentences, rows)
        if present.sum() < 0.75 * len(present):
            self.sentences, self.src_mask = self.sentences[present], self.src_mask[present]
            for cache in self.source:
                cache.keep(present)

    def __repr__(self) -> str:
        lines = [f"layer {i}: own {own}, source {source}"
                 for i, (own, source) in enumerate(zip(self.own, self.source))]
        return "\n".join(lines)


# %% [markdown]
# 一步只读每个前缀的最后一个词元。看源句时，我们把一个束当作一个小批次：同一个句子的 $k$ 个前缀面对的是同一组键，相当于 $k$ 个查询，就像编码器里一个句子的各个词。所以在这里，批次那一维数的是句子，不是前缀；每个前缀就要有两个数：它属于缓存里的哪个句子，它在这个句子的前缀里是第**几个**。第几个是这样算的：从头数到这个前缀（含），看有几个前缀与它属于同一个句子，再减 1。

# %%
three = torch.tensor([4, 4, 7])  # the rows of three prefixes: two of sentence 4, one of 7
cached_sentences = torch.tensor([2, 4, 7])  # sentence 2 is there, but nobody asks it any more
sentence = torch.searchsorted(cached_sentences, three)  # where each stands
same = sentence[:, None] == sentence  # (n, n)
number = same.tril().sum(1) - 1  # tril: only up to and with itself
assert sentence.tolist() == [1, 1, 2] and number.tolist() == [0, 1, 0]
print("sentence", sentence.tolist(), " number", number.tolist())

# %% [markdown]
# 代码里的 `own: AttentionCache = own`，是把**这一层**的缓存交给每个小函数。不这样写，Python 要到调用函数时才去找 `own` 这个名字；换成别的循环，到那时这个名字指的往往已经不是这一层的缓存了。

# %%
#| export
def read_step(model: Transformer, cache: DecoderCache, prefixes: Tensor, rows: Tensor) -> Tensor:
    """Read the last token of each prefix (n, t); return the decoder's states there, (n, D)."""
    sentence = torch.searchsorted(cache.sentences, rows)  # (n,) which of the cache's sentences
    number = (sentence[:, None] == sentence).tril().sum(1) - 1  # (n,) which of its prefixes
    x = model.tgt_embedding(prefixes[:, -1:])  # (n, 1, D)
    x = x + model.positions(x.new_zeros(1, prefixes.size(1), x.size(2)))[:, -1:]
    shape = len(cache.sentences), int(number.max()) + 1  # (m, k)
    for layer, own, source in zip(model.decoder.layers, cache.own, cache.source):

        def ask_own(x: Tensor, own: AttentionCache = own) -> Tensor:
            return own.read(x, cache.slots)

        def ask_source(x: Tensor, source: AttentionCache = source) -> Tensor:
            queries = x.new_zeros(*shape, source.n_keys)  # (m, k, H * Dk)
            queries[sentence, number] = source.attention.w_q(x[:, 0])
            heads = source.look(queries, cache.src_mask)[sentence, number]
            return source.attention.w_o(heads)[:, None]  # (n, 1, D)

        x = layer.residuals[0](x, ask_own)
        x = layer.residuals[1](x, ask_source)
        x = layer.residuals[2](x, layer.feed_forward)
    return model.decoder.norm(x)[:, 0]


# %% [markdown]
# `cached_log_probs` 交给搜索的函数，用法和以前一样，只多一件事：束搜索每次再调用之前，要先通过 `follow` 告诉它，接下来的每个前缀是从哪个前缀长出来的。贪心搜索用不着说，因为每个句子只有一个前缀。缓存如果跟错了父前缀，译文就会出错，而且没有任何提示；所以每次调用都会把前缀与上一次的比对。

# %%
#| export
class CachedLogProbs:
    """What `next_log_probs` returns, with a cache inside: every position is read once.

    Each call must show prefixes that grew by one token out of those of the call before; any other
    raises ValueError. `follow(parents)` says which out of which, wherever a sentence has several.
    """

    def __init__(self, model: Transformer, src: Tensor) -> None:
        self.score = scorer(model, self.read)
        self.model, self.cache = model, DecoderCache(model, src)
        self.rows = torch.arange(len(src), device=src.device)  # what the last call has shown
        self.prefixes = self.rows.new_zeros(len(src), 0)
        self.parents: Tensor | None = None

    def follow(self, parents: Tensor) -> None:
        """Say which prefix of the last call each prefix of the next one continues: (n,)."""
        self.parents = parents

    def read(self, prefixes: Tensor, rows: Tensor) -> Tensor:
        """Let the cache follow; return the decoder's states at the last tokens, (n, D)."""
        parents = self.parents
        if parents is None:  # one prefix a sentence: the row says it
            parents = (rows[:, None] == self.rows).int().argmax(1)
        before = self.prefixes[parents], self.rows[parents]
        if not (torch.equal(prefixes[:, :-1], before[0]) and torch.equal(rows, before[1])):
            raise ValueError(
                "the prefixes did not grow out of those of the step before: a cache goes one token a "
                "step, and a beam search must be given follow=score.follow; begin again with a new one"
            )
        self.cache.follow(parents)
        self.cache.leave(rows)
        self.prefixes, self.rows, self.parents = prefixes, rows, None
        return read_step(self.model, self.cache, prefixes, rows)

    def __call__(self, prefixes: Tensor, rows: Tensor) -> Tensor:
        return self.score(prefixes, rows)


@torch.no_grad()
def cached_log_probs(model: Transformer, src: Tensor) -> CachedLogProbs:
    """Return a score function with a cache for source sentences src (B, S)."""
    return CachedLogProbs(model, src)


# %% [markdown]
# ## 2 · 许多束在一个批次里
#
# 第 08 课一句一句地搜索。许多句一起算，处理器的利用率高得多：批次里所有的句子一起增长，$n$ 个句子各有 $k$ 个前缀；写完的句子就**离开批次**。
#
# 先准备一件工具。第 08 课把全部 $k \cdot V$ 个候选排序，取前 $k$ 个。`torch.topk` 不排序就能找到最大的 $k$ 个，但几个数相等时，它不保证取哪一个，于是两台机器的结果可能不同。`argmax` 保证取第一个：`in_turn` 连续调用它 $k$ 次。如果行很长，用 `largest` 更快，答案也一样：它把一行分成若干块，每块 64 个数，只看块内最大值排在前面的那 $k$ 块。（具体怎么实现可以跳过。下一个单元格检验这两个函数的保证是否成立。）

# %%
#| export
def in_turn(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row of values (n, m), by k looks, and where they are."""
    values = values.clone()
    found, where = [], []
    for _ in range(min(k, values.size(1))):
        index = values.argmax(1, keepdim=True)  # (n, 1)
        found.append(values.gather(1, index))
        where.append(index)
        values.scatter_(1, index, -math.inf)
    return torch.cat(found, 1), torch.cat(where, 1)


def largest(values: Tensor, k: int, width: int = 64) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row of values (n, m), and where they are; both (n, min(k, m)).

    Like `torch.topk`, but of equal values the first comes first, on every device. Where a row has
    fewer than k finite values, the rest are -inf, and their places mean nothing.
    """
    n, m = values.shape
    full = m // width  # so many blocks, and a rest
    blocks = values[:, : full * width].reshape(n, full, width).amax(2)
    rest = F.pad(values[:, full * width :], (0, 1), value=-math.inf).amax(1, keepdim=True)
    best = torch.cat([blocks, rest], 1).clamp(min=torch.finfo(values.dtype).min)  # finite: once each
    chosen = in_turn(best, k)[1].sort(1).values  # (n, k) blocks, in their order
    places = (chosen[..., None] * width + torch.arange(width, device=values.device)).flatten(1)
    inside = values.gather(1, places.clamp(max=m - 1)).masked_fill(places >= m, -math.inf)  # (n, k * w)
    found, where = in_turn(inside, min(k, m))
    return found, places.gather(1, where)


# %%
# NBVAL_CHECK_OUTPUT
tied = torch.zeros(1, 1000)
tied[0, [7, 70, 700]] = 1.0  # three equal numbers, in three blocks
for tool in (in_turn, largest):
    numbers, where = tool(tied, 2)
    assert numbers.tolist() == [[1.0, 1.0]] and where.tolist() == [[7, 70]]
print("7, 70 and 700 hold the same number; the two largest are at", where[0].tolist())

# %% [markdown]
# **先猜**：一个前缀后面可以接 $V$ 个词，其中**哪些**可能进入**所有**前缀合起来的前 $k$ 名？只有这个前缀自己的前 $k$ 名。这些词都加在同一个和上，所以其他任何一个词，前面都已经排了 $k$ 个候选：概率更大，或者概率相等、在行里更靠前。所以我们只取每个前缀的前 $k$ 名。这样，要比较的候选最多只剩 $k \cdot k$ 个，不必是 $k \cdot V$ 个。
#
# 前缀写完之后怎么办？这里用一个小技巧：后面只能接一个词，就是再来一个 `</s>`，而且分数不变：$\log 1 = 0$。

# %%
#| export
def is_live(prefixes: Tensor, totals: Tensor) -> Tensor:
    """Return which prefixes can grow: (n, k, t) and (n, k) -> (n, k).

    Not those that have written EOS, and not those of probability 0.
    """
    return (prefixes[..., -1] != EOS) & totals.isfinite()


# %%
#| export
def continuations(
    score: NextLogProbs, rows: Tensor, prefixes: Tensor, totals: Tensor, best: int
) -> tuple[Tensor, Tensor]:
    """Return the `best` likeliest continuations of every prefix: log-probability and last token.

    rows (n,): the source sentences; prefixes (n, k, t): k of each; totals (n, k): their
    log-probabilities; returns two of (n, k, c), where c is the smaller of `best` and V. Only live
    prefixes are shown to the model. In the row of a finished one EOS comes first, for nothing, and
    the other places are -inf.
    """
    live = is_live(prefixes, totals)  # (n, k)
    which = rows[live.nonzero()[:, 0]]  # the source sentence of each live prefix
    scored, words = largest(score(prefixes[live], which), best)  # (live ones, c)
    log_probs = scored.new_full((*live.shape, scored.size(1)), -math.inf)
    tokens = torch.full_like(log_probs, EOS, dtype=torch.long)
    log_probs[..., 0][~live] = 0.0
    log_probs[live], tokens[live] = scored, words
    return log_probs + totals[..., None], tokens


# %% [markdown]
# 搜索的一步，就是从这些候选里取出最好的。一个句子的所有候选排成一行，每个前缀占 $c$ 个（$c = k$，除非词表更小）。候选的位置除以 $c$ 再向下取整，就知道它来自哪个前缀；它的词在 `tokens` 里的同一位置。

# %%
#| export
def beam_step(
    score: NextLogProbs, rows: Tensor, prefixes: Tensor, totals: Tensor, beam: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Let every prefix grow by one token and keep the `beam` likeliest of each sentence.

    prefixes (n, k, t), totals (n, k) -> prefixes (n, k', t + 1), totals (n, k'), the best first, and
    parents (n, k'), the place in the beam that each grew out of; k' is `beam`, or k * c where that is smaller. Of equal totals the child of the better prefix
    comes first. A place that no possible candidate fills has the total -inf.
    """
    candidates, tokens = continuations(score, rows, prefixes, totals, beam)  # (n, k, c)
    totals, place = in_turn(candidates.flatten(1), beam)  # (n, k')
    parent, token = place // candidates.size(-1), tokens.flatten(1).gather(1, place)
    sentence = torch.arange(len(rows), device=rows.device)[:, None]  # (n, 1)
    return torch.cat([prefixes[sentence, parent], token[..., None]], dim=-1), totals, parent


# %% [markdown]
# 搜索还是第 08 课的搜索，只是所有句子同时做。还能增长的前缀，按交给模型时的次序排，`number` 就是一个前缀排在第几：这样，搜索就能告诉缓存，每个新前缀是从哪一个长出来的。

# %%
#| export
@torch.no_grad()
def beam_search(
    score: NextLogProbs,
    n_sentences: int,
    max_len: int | Sequence[int],
    beam: int = 4,
    alpha: float = 0.6,
    device: torch.device | str = "cpu",
    follow: Callable[[Tensor], None] | None = None,
) -> list[list[Hypothesis]]:
    """Keep the `beam` likeliest prefixes of every sentence; return them when they end, best first.

    A finished prefix keeps its place and stops growing; a sentence leaves the batch when nothing
    can grow, or after `max_len` tokens (one number, or one for each sentence). The length penalty
    chooses among what is found. follow: told before each further call of `score` which prefix of
    the last call each of the next ones continues; for a score function with a cache. Raises ValueError as `check_search`. Paper, section 6.1.
    """
    check_search(beam, alpha)
    found: list[list[Hypothesis]] = [[] for _ in range(n_sentences)]
    limits = limits_of(max_len, n_sentences, device)
    rows = torch.arange(n_sentences, device=device)  # sentences still being searched
    prefixes = torch.full((n_sentences, 1, 1), BOS, device=device)  # (n, k, 1 + tokens)
    totals = torch.zeros(n_sentences, 1, device=device)  # (n, k)
    while len(rows):
        shown = is_live(prefixes, totals)
        number = (shown.flatten().cumsum(0) - 1).view_as(shown)  # (n, k)
        prefixes, totals, parents = beam_step(score, rows, prefixes, totals, beam)
        leaving = ~is_live(prefixes, totals).any(1) | (prefixes.size(-1) > limits[rows])
        for i in leaving.nonzero()[:, 0].tolist():
            found[rows[i]] = ranked(prefixes[i].tolist(), totals[i].tolist(), alpha)
        rows, prefixes, totals = rows[~leaving], prefixes[~leaving], totals[~leaving]
        if follow:
            parents = number.gather(1, parents)[~leaving]
            follow(parents[is_live(prefixes, totals)])
    return found


# %% [markdown]
# ## 3 · 翻译整个语料库
#
# 一个函数把一批源句变成目标句的编号，另一个把一列句子变成一列译文。有三件事容易弄错，而且不到评估时谁也不会发现：**次序**（我们按长度排序，让一个批次里的句子少用填充；交还译文时，必须恢复原来的次序）；**空行**（空行仍是空行，不然后面每一行都会拿去和错误的参考译文比较）；**上限**（每句是输入长度 + 50，而且不超过可学习的位置总数）。

# %%
#| export
def room_of(model: Translator) -> float:
    """Return how many tokens a model can write at most: learned positions end, others do not."""
    learned = isinstance(model, Transformer) and model.config.positions == "learned"
    return model.config.max_len if learned else math.inf


def translate_batch(
    model: Translator, sources: Sequence[Sequence[int]], beam: int, alpha: float
) -> list[list[int]]:
    """Return the best target ids of source ids (each ending in EOS); beam 1 is greedy search.

    At most 50 tokens more than the source are written (paper, section 6.1), and no more than
    learned positions have. Raises ValueError for a source longer than those, and as `check_search`.
    """
    check_search(beam, alpha)
    device = next(model.parameters()).device
    limits = [min(len(source) + 50, room_of(model)) for source in sources]
    src = pad(sources, PAD).to(device)
    if isinstance(model, Transformer):
        score = cached_log_probs(model, src)
        found = beam_search(score, len(sources), limits, beam, alpha, device, score.follow)
    else:  # a recurrent model has no keys to keep: it reads its prefixes again
        found = beam_search(next_log_probs(model, src), len(sources), limits, beam, alpha, device)
    return [list(hypotheses[0].ids) for hypotheses in found]


# %%
#| export
def translate(
    model: Translator,
    bpe: BPE,
    sentences: Sequence[str],
    beam: int = 1,
    alpha: float = 0.6,
    max_tokens: int = 4000,
    progress: bool = False,
) -> list[str]:
    """Return the translation of each sentence, in the same order; an empty line stays empty.

    beam 1 is greedy search. Batches hold at most `max_tokens` padded source tokens, counted once
    for each place in the beam; their size changes a translation only where rounding decides between
    two that are almost equal. Dropout is off meanwhile.
    """
    check_search(beam, alpha)
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: a batch holds at least one token")
    if isinstance(sentences, str):
        raise TypeError("translate takes a list of sentences: write [sentence] for a single one")
    sources = {i: encode_sentence(bpe, s) for i, s in enumerate(sentences) if s.strip()}
    waiting = sorted(sources, key=lambda i: len(sources[i]))  # the longest last
    translations = [""] * len(sentences)
    training = model.training
    model.eval()
    bar = tqdm(total=len(sources), unit="sentence", disable=not progress)
    try:
        while waiting:
            size = max(1, max_tokens // (beam * len(sources[waiting[-1]])))
            chosen, waiting = waiting[-size:], waiting[:-size]
            written = translate_batch(model, [sources[i] for i in chosen], beam, alpha)
            for i, ids in zip(chosen, written):
                translations[i] = bpe.decode(ids)
            bar.update(len(chosen))
    finally:
        bar.close()
        model.train(training)
    return translations


# %% [markdown]
# 现在换上一个真正的模型：预设 `tiny`，用 captions 语料库，训练和第 08 课一样提前停下。

# %%
train_pairs = pairs("captions", "train")[: device.by_scale(smoke=1000, cpu=12000, gpu=12000)]
model, bpe = preset_model("tiny", [s for pair in train_pairs for s in pair], seed=0)
model = model.to(device.pick())
budget = Budget(epochs=device.by_scale(smoke=4, cpu=2, gpu=2))
with tempfile.TemporaryDirectory() as directory:
    trainer = Trainer(model, bpe, PRESETS["tiny"][1], budget, Path(directory))
    finished = trainer.run(train_pairs, pairs("captions", "val")[:100])
model.eval()
assert finished
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(bpe):,} tokens")

# %% [markdown]
# ## 4 · 什么也没有变
#
# **断言 1：快的 `translate` 与慢的写得一样**，束宽 1 和束宽 3 都是，不管批次的次序和大小。（比较时，模型的权重用 float64：如果两个句子的概率几乎相等，乘法的舍入误差就可能决定取哪个，而舍入误差取决于批次的形状。）最后一步的 softmax，两边都用 float32。
#
# **先猜**：什么会让这个断言不成立？（这一页上有三处可能出错：掩码，上限，还有缓存里的某一行跟错了父前缀。）

# %%
exact = model.cpu().double()
german = [source for source, _ in pairs("captions", "val")[: device.by_scale(smoke=16, cpu=40, gpu=40)]]
mixed = ["", *german, "   ", *reversed(german)]
for beam in (1, 3):
    slow = decoding.translate(exact, bpe, german, beam)
    fast = translate(exact, bpe, mixed, beam)
    assert fast == ["", *slow, "", *reversed(slow)]
    assert fast == translate(exact, bpe, mixed, beam, max_tokens=50)
print(f"{len(german)} captions, two ways, two beams: the same translations")

# %% [markdown]
# > **试一试。** 在 `translate_batch` 里，让一个批次的所有句子都用其中最大的上限。用你的模型，哪个断言会不成立？还是都成立？什么情况下一定不成立？
#
# <details><summary>答案</summary>
#
# 用训练好的模型，都成立：译文远远写不到输入长度 + 50 就结束了，碰不到上限。如果一个句子自己不会结束，就一定不成立：这时译文写多长、写成什么样，都取决于批次里的其他句子。`tests/test_cache.py` 里用一个永不结束的打分函数说明了这一点（`test_the_limit_is_the_source_and_fifty`）。
#
# </details>

# %% [markdown]
# **断言 2：同样的束，同样的分数。** 不只是最好的候选译文一样，整个束都一样；用不用缓存，一句一句算还是成批算，都是如此。然后我们看看缓存里面：四条图片说明，束宽 3，五步之后停下。（为了不让哪一句提前结束，我们禁止 `</s>`。）**先猜**：`own` 和 `source` 各有几行？

# %%
some = german[:16]
sources = [[*bpe.encode(s), EOS] for s in some]
score_some = next_log_probs(exact, pad(sources, PAD))
truth = decoding.beam_search(score_some, len(some), 60, beam=3)
cached = cached_log_probs(exact, pad(sources, PAD))
for score, follow in ((score_some, None), (cached, cached.follow)):
    found = beam_search(score, len(some), 60, beam=3, follow=follow)
    for ours, theirs in zip(itertools.chain(*found), itertools.chain(*truth), strict=True):
        assert ours.ids == theirs.ids and math.isclose(ours.score, theirs.score, rel_tol=1e-5)
print("the same beams, the same scores")

# %%
# NBVAL_CHECK_OUTPUT
asked = cached_log_probs(exact, pad(sources[:4], PAD))


def endless(prefixes, rows):
    """Score with the cache, but never let a sentence end."""
    return asked(prefixes, rows).index_fill(1, torch.tensor([EOS]), -math.inf)


beam_search(endless, 4, max_len=5, beam=3, follow=asked.follow)
cache = asked.cache
own, source = cache.own[0].keys.shape, cache.source[0].keys.shape
assert own[0] == 12 and own[2] == 5 and source[0] == 4
print("own: 12 rows, one for each prefix, 5 places; source: 4 rows, shared by the beams")

# %%
cache

# %% [markdown]
# ## 5 · 要占多少内存
#
# 解码器有 $N$ 层，每一层都为每个词元保存一个键和一个值，各 $d_{\mathrm{model}}$ 个数。每个数 $b$ 字节，于是一个前缀的每个词元占
#
# $$2 \cdot N \cdot d_{\mathrm{model}} \cdot b$$
#
# 字节（自注意力）；每个**源句**的每个词元也占这么多（交叉注意力；只存一份，由它的所有前缀共用；预留的空位另算）。我们的例子用 float64，所以 $b = 8$。**先猜**：论文的 base 模型有 6 层，$d_{\mathrm{model}} = 512$，如果用 float32，每个词元要多少字节？

# %%
def bytes_a_token(config: TransformerConfig, bytes_a_number: int) -> int:
    """Keys and values of one token in all layers of the decoder."""
    return 2 * config.n_layers * config.d_model * bytes_a_number


def held(caches: list[AttentionCache]) -> int:
    return sum(c.keys.nbytes + c.values.nbytes for c in caches)


places = cache.source[0].keys.size(2)  # the longest of the four captions; the others are padded
assert held(cache.own) == 12 * 5 * bytes_a_token(model.config, 8)  # 12 prefixes of 5 tokens
assert held(cache.source) == 4 * places * bytes_a_token(model.config, 8)
base = bytes_a_token(TransformerConfig(1, 1), 4)
assert base == 24_576
print(f"here: {bytes_a_token(model.config, 8):,} bytes a token; base model, float32: {base:,}")
print(f"base model, 32 sentences, beam 4, 100 tokens written: {32 * 4 * 100 * base / 1e6:.0f} MB")

# %% [markdown]
# ## 6 · 省了多少时间
#
# 先数位置，再在这台机器上计时。我们禁止 `</s>`，让每个句子都长到我们要的长度。

# %%
counted = {"read": 0, "new": 0}


def counting(prefixes, rows):
    """Score as before, and count the decoder positions that the plain way reads."""
    counted["read"] += prefixes.numel()
    counted["new"] += len(prefixes)
    return score_some(prefixes, rows)


written = greedy_search(counting, len(some), [len(s) + 50 for s in sources])
steps = [min(len(ids) + 1, len(s) + 50) for ids, s in zip(written, sources)]
assert counted["read"] == sum(t * (t + 1) // 2 for t in steps)
assert counted["new"] == sum(steps)
share = 1 - counted["new"] / counted["read"]
print(f"{counted['read']:,} positions read, {counted['new']:,} of them new: {share:.0%} recomputed")

# %%
model = exact.float().to(device.pick())
LENGTHS = [2**n for n in range(3, device.by_scale(smoke=6, cpu=8, gpu=9) + 1)]
few = pad(sources[:8], PAD).to(device.pick())


def seconds_to_write(way, length: int) -> float:
    """Return the time of greedy search over 8 captions, each `length` tokens long."""
    score = way(model, few)

    def endless(prefixes, rows):
        return score(prefixes, rows).index_fill(1, torch.tensor([EOS], device=few.device), -math.inf)

    begun = time.perf_counter()
    greedy_search(endless, len(few), length, few.device)
    return time.perf_counter() - begun


ways = {"plain": next_log_probs, "cached": cached_log_probs}
seconds_to_write(cached_log_probs, 8)  # the first call of anything is slower
clock = {name: [min(seconds_to_write(way, n) for _ in range(2)) for n in LENGTHS]
         for name, way in ways.items()}
for n, plain, cached in zip(LENGTHS, clock["plain"], clock["cached"]):
    print(f"{n:4} tokens: plain {plain:6.3f} s, cached {cached:6.3f} s, {plain / cached:5.1f} times")
for name, taken in clock.items():
    print(f"{name}: the last doubling has the slope {math.log2(taken[-1] / taken[-2]):.1f}")

# %%
draw.cache_time(LENGTHS, clock)

# %%
gains = [plain / cached for plain, cached in zip(clock["plain"], clock["cached"])]
caption = counted["new"] / len(some)
near = min(range(len(LENGTHS)), key=lambda i: abs(LENGTHS[i] - caption))
print(f"one of these captions has {caption:.0f} tokens on average, as the model writes it")
for i in (near, len(LENGTHS) - 1):
    print(f"gain at {LENGTHS[i]} tokens: {gains[i]:.1f} times")

# %% [markdown]
# 数过位置之后，你是不是以为会快得更多？图片说明这么短，缓存省不了多少：模型这么小，一步的时间主要花在启动许多小运算上，不管要它们算多少；而两种方法启动的次数差不多。要到长文本里，才看得出省了多少。两个坐标轴都是对数的，所以时间如果与长度的某次幂成正比，画出来就是直线，斜率就是这个指数。如果只有位置数起作用，朴素方法的斜率是 2，带缓存的是 1（注意力本身的开销增长得还要更快，也要加进来）。打印出的斜率正朝这两个数靠近，只是每一步的固定开销把斜率压低了。在 GPU 上，这份开销的比重更大，句子只有这么长，缓存可能一点也不省。
#
# 每个能写几千字的聊天模型，都有这样的缓存。模型能同时为多少人服务，主要限制之一就是缓存占的内存：每个词元的字节数，乘以所有人的词元总数，就是要占的内存。

# %% [markdown]
# ## 7 · 一级一级往上加
#
# 这一页的每项改进，各提速多少？我们用一个实际大小的模型，即课程自带的那个（宽 256，三层，5,000 个词元），让它以束宽 4 翻译图片说明，每次只改一样。第三级的缓存每一步都复制所有的行，这一页最初的版本就是这样。
#
# **先猜**：哪一级提速最多：成批、缓存，还是就地写入？

# %%
class CopiesAll(DecoderCache):
    """A cache that takes every row to a new place at every step."""

    def follow(self, parents: Tensor) -> None:
        rows = self.slots[parents]
        for cache in self.own:
            cache.room = F.pad(cache.room[:, : cache.length][rows], (0, 0, 0, 1))
        self.slots = torch.arange(len(parents), device=parents.device)


shipped, shipped_bpe = load_checkpoint("multi30k-de-en")
shipped.to(device.pick())
n_sentences = device.by_scale(smoke=4, cpu=64, gpu=200)
texts = [source for source, _ in pairs("captions", "val")[:n_sentences]]
ids = [[*shipped_bpe.encode(text), EOS] for text in texts]
src, limits = pad(ids, PAD).to(device.pick()), [len(i) + 50 for i in ids]


def searched(score, follow=None) -> list[str]:
    """Translate all captions in one batch, with a beam of 4."""
    found = beam_search(score, len(ids), limits, 4, 0.6, device.pick(), follow)
    return [shipped_bpe.decode(hypotheses[0].ids) for hypotheses in found]


def copying() -> list[str]:
    score = cached_log_probs(shipped, src)
    with torch.no_grad():
        score.cache = CopiesAll(shipped, src)
    return searched(score, score.follow)


def in_place() -> list[str]:
    score = cached_log_probs(shipped, src)
    return searched(score, score.follow)


rungs = {
    "lesson 08, one sentence after the other": lambda: decoding.translate(shipped, shipped_bpe, texts, 4),
    "all in one batch": lambda: searched(next_log_probs(shipped, src)),
    "with a cache that copies all": copying,
    "with a cache written in place": in_place,
}

# %%
said, speed = {}, {}
for name, rung in rungs.items():
    times = []
    for _ in range(1 if name.startswith("lesson") else 3):
        begun = time.perf_counter()
        said[name] = rung()
        times.append(time.perf_counter() - begun)
    speed[name] = len(texts) / min(times)
    alike = sum(a == b for a, b in zip(said[name], next(iter(said.values()))))
    print(f"{name:40} {speed[name]:7.1f} sentences/s, {alike} of {len(texts)} as in lesson 08")
    assert alike >= 0.9 * len(texts)  # float32: rounding may decide between two that are almost equal

# %% [markdown]
# ### 一步的时间花在哪里？
#
# PyTorch 可以记下每个运算用了多久。我们按种类加起来：与权重矩阵的**乘法**（products，这些计算省不掉），**注意力**，**复制与索引**，以及其余的（归一化、softmax、选最好的）。总时间减去这些，剩下的就是运算之间 Python 用掉的时间。

# %%
KINDS = {
    "products": ("mm", "bmm", "matmul", "linear"),
    "attention": ("attention",),
    "copying and indexing": ("index", "copy", "cat", "gather", "scatter", "pad", "fill", "zeros", "where"),
}


def shares(work) -> dict[str, float]:
    """Return the share of each kind of operation in the time of work(), in percent."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        begun = time.perf_counter()
        work()
        wall = 1e6 * (time.perf_counter() - begun)
    taken = dict.fromkeys([*KINDS, "norms, softmax, choice"], 0.0)
    for event in recorded.key_averages():
        kinds = [kind for kind, words in KINDS.items() if any(word in event.key for word in words)]
        taken[kinds[-1] if kinds else "norms, softmax, choice"] += event.self_cpu_time_total
    taken["Python"] = max(0.0, wall - sum(taken.values()))
    return {kind: 100 * microseconds / wall for kind, microseconds in taken.items()}


where = {name: shares(rungs[name]) for name in list(rungs)[2:]}
print(f"{'':24}{'copies all':>12}{'in place':>12}")
for kind in next(iter(where.values())):
    print(f"{kind:24}" + "".join(f"{found[kind]:11.0f}%" for found in where.values()))

# %% [markdown]
# （存下来的数字是在一台繁忙的机器上测的。请比较各级，不要看秒数。）提速几乎全部来自成批和缓存。图片说明很短，要复制的本来就少，所以就地写入几乎没有什么用。
#
# 乘法省不掉，能省的只有其他各行。这些行加起来大约占一半时间：就算全都不花时间，也只快一倍左右。CTranslate2 是专门为解码而写的程序，用同样的权重，贪心搜索的速度是我们的 1.5 倍，束宽 4 时是 1.8 倍（`assets/results/bench_decode.json`，两个支持 AVX-512 的核；`python -m course bench decode` 可以在你的机器上测）。所以贪心搜索要达到它的 0.8 倍，乘法以外的时间就得省掉三分之一。

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `DecoderCache(model, src)` | src (m, S) | 键和值：own (n, H, t, Dk)，source (m, H, S, Dk) |
# | `cached_log_probs(model, src)` | src (B, S) | 与 `next_log_probs` 相同，每个位置只读一次；还有 `follow` |
# | `largest(values, k)` | (n, m) | 每行最大的 k 个数及其位置；相等时，在前的优先 |
# | `beam_step(score, rows, prefixes, totals, beam)` | (n, k, t)，(n, k) | (n, k, t + 1)，(n, k)，父前缀 (n, k) |
# | `beam_search(score, n, max_len, beam, alpha)` | 一个打分函数 | n 个 `Hypothesis` 列表，同第 08 课 |
# | `translate(model, bpe, sentences)` | n 个句子 | n 个句子，同第 08 课 |
#
# ## 小结
#
# 键值缓存保存已写部分的键和值，所以每一步只读一个位置，不用读全部。源句的键和值只算一次，由一个束的所有前缀共用。束变化时，每个前缀接过父前缀的行。许多句子在一个批次里一起增长，写完的就离开。对不对，以第 08 课的朴素搜索为准：快的都要与它们比对。
#
# ## 延伸阅读
#
# - Shazeer (2019), *Fast Transformer Decoding: One Write-Head is All You Need*, arXiv 1911.02150：为什么限制速度的是缓存，而不是计算。
# - Pope et al. (2022), *Efficiently Scaling Transformer Inference*, arXiv 2211.05102.
#
# **下一课：** [第 09 课](09_evaluation.ipynb)把前面的全部内容合在一起：真正的图片说明，真正的模型，还有带签名的 BLEU。

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
# # 08 · 解码
#
# > 解码：贪心搜索、带长度惩罚的束搜索，以及 BLEU（论文 6.1 节）。
#
# 第 07 课的模型并不会写句子，它只给出**下一个词**的概率。这一课把这些概率变成译文，再用一个数来衡量译文有多好。
#
# **你将学会：**
# - 写出贪心搜索和束搜索；
# - 说出束搜索为什么需要长度惩罚，论文里的 α = 0.6 起什么作用；
# - 手算 BLEU，报告时把该说明的都写明，让别人能拿来比较；
# - 说清楚：束再宽，BLEU 再高，也**不能**保证什么。
#
# **先修：** 第 04 课（掩码）、第 05 课（模型）、第 06 课（词元编号）、第 07 课（训练）。**时间：** 50 分钟；连标有“选读”的部分一起 70 分钟。**论文：** 6.1 节，表 2 的 BLEU 几栏，以及第 3 节的一句话（“auto-regressive”即自回归：每个词都是下一个词的输入）。**位置：** 主线。这里的代码是为了好读而写的；工程篇的 [08b](08b_cache.ipynb) 让同样的搜索变快。

# %%
#| export
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course.masking import causal_mask, padding_mask
from course.seq2seq import Translator
from course.text import BOS, BPE, EOS, PAD, UNK, encode_sentence

# %% [markdown]
# 下一个单元格里的代码，只供这一页的演示使用。

# %%
import itertools
import json
import tempfile
from pathlib import Path

import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from course import ASSETS, device
from course.corpora import pairs
from course.homework import check, compare
from course.runs import Budget, Trainer
from course.training import PRESETS, preset_model
from course.viz import decoding as draw

# %% [markdown]
# ## 1 · 模型回答什么，我们问什么
#
# 模型每次回答的是：“已知源句 $x$ 和已经写出的词 $y_1 \dots y_{t-1}$，各个词接在后面的可能性有多大？”我们想知道的却是：“哪个**完整**的句子 $y$ 可能性最大？”两者由概率的链式法则联系起来。句子的概率是一个乘积：
#
# $$P(y \mid x) = \prod_{t=1}^{T} P(y_t \mid y_1 \dots y_{t-1}, x)
# \qquad\quad \log P(y \mid x) = \sum_{t=1}^{T} \log P(y_t \mid y_1 \dots y_{t-1}, x)$$
#
# 最后一个词 $y_T$ 总是 `</s>`，即“句子结束”的标志：没有结束的句子还不算句子。我们用对数之和，因为许多很小的数相乘，乘积很快就小到计算机的浮点数表示不了。概率的对数最大是 0。记住这一点：**每多一个词，这个和就变小，最多保持不变。**
#
# **先猜**：词表（vocabulary）里有 5,000 个词，一个句子 20 个词，这样的句子一共有多少个？计算机能全部看一遍吗？

# %%
n_sentences = 5_000**20
seconds = n_sentences / 1e9  # a computer that scores a billion sentences each second
years = seconds / (365 * 24 * 3600)
assert 1e73 < n_sentences < 1e74 and years > 1e57
print(f"{n_sentences:.1e} sentences; at a billion a second, {years:.0e} years")

# %% [markdown]
# 不可能把所有句子看完，所以只能**搜索**：只看其中几个，而且要挑得好。
#
# 搜索不必知道 Transformer 是什么。它只要一个函数，我们叫它 `score`：
#
# - 输入：若干前缀（句子的开头，写成词元编号，都以 `<s>` 开始），以及每个前缀属于第几个源句（它的“行”，row）；
# - 输出：词表里每个词作为下一个词的对数概率。

# %%
#| export
NextLogProbs = Callable[[Tensor, Tensor], Tensor]  # prefixes (n, t), rows (n,) -> (n, V)

# %% [markdown]
# 搜索只和这个函数打交道，所以可以先给它换上一个**玩具模型**：一张小小的概率表，表里的概率相乘，心算就行。下面这张表翻译的是“Ein Hund schläft.”（一只狗在睡觉）。它会说十二个英语句子，写满三个词就结束。

# %%
TABLE = {
    "": {"the": 0.5, "a": 0.4, "one": 0.1},
    "the": {"dog": 0.4, "puppy": 0.35, "hound": 0.25},
    "a": {"dog": 0.9, "puppy": 0.1},
    "one": {"dog": 1.0},
    "the dog": {"sleeps": 0.6, "rests": 0.4},
    "the puppy": {"sleeps": 0.7, "rests": 0.3},
    "the hound": {"sleeps": 0.5, "rests": 0.5},
    "a dog": {"sleeps": 0.7, "rests": 0.3},
    "a puppy": {"sleeps": 0.5, "rests": 0.5},
    "one dog": {"sleeps": 0.8, "rests": 0.2},
}
END = {"</s>": 1.0}
WORDS = str.split("<pad> <s> </s> <unk> the a one dog puppy hound sleeps rests on sofa")


def say(ids) -> str:
    """Return the words of ids."""
    return " ".join(WORDS[i] for i in ids)


# %% [markdown]
# 两行代码就能把这样的表变成 `score` 函数：按已经写出的词查表，再把各个概率的对数放进对应的列。表里没有的词不可能出现：概率是 0，对数是 $-\infty$。

# %%
def table_score(table: dict[str, dict[str, float]]):
    """Return a score function over WORDS that reads a table; what is not in it ends at once."""

    def score(prefixes, rows):
        log_probs = torch.full((len(prefixes), len(WORDS)), -math.inf)
        for i, prefix in enumerate(prefixes.tolist()):
            for word, p in table.get(say(prefix[1:]), END).items():
                log_probs[i, WORDS.index(word)] = math.log(p)
        return log_probs

    return score


score = table_score(TABLE)
first = score(torch.tensor([[BOS]]), torch.tensor([0]))  # (1, V)
assert torch.isclose(first.exp().sum(), torch.tensor(1.0))
print("the likeliest first word is", say(first.argmax(-1)), f"with {first.exp().max():.1f}")

# %% [markdown]
# ## 2 · 贪心搜索
#
# 最简单的搜索：取可能性最大的词，写下来，再问下一个词，从不回头。
#
# $$y_t = \operatorname{argmax}_{w} \; \log P(w \mid y_1 \dots y_{t-1}, x)$$
#
# **先猜**：看看表。贪心搜索（greedy search）会写出哪个句子？它的概率是多少？有没有更好的句子？

# %%
mine = None  # your guess: the probability of what greedy search writes

# %% [markdown]
# 句子什么时候停？模型写出 `</s>` 的时候。可是模型，尤其是没训练好的模型，可能永远不写。所以还要有一个上限。论文允许的是“输入长度加 50 个词元（token）”。上限按单个句子算，不按整个批次（batch）算：不然，一个句子的译文就可能受同批次其他句子的影响。

# %%
#| export
def limits_of(
    max_len: int | Sequence[int], n_sentences: int, device: torch.device | str
) -> Tensor:
    """Return how many tokens each sentence may have, (n_sentences,): one number for all, or a list.

    Raises ValueError for a limit below 1, or if there are not as many limits as sentences.
    """
    limits = torch.as_tensor(max_len, device=device)
    if limits.dim() and len(limits) != n_sentences:
        raise ValueError(f"{len(limits)} limits for {n_sentences} sentences: give one for each")
    if limits.numel() and limits.min() < 1:
        raise ValueError(f"max_len={int(limits.min())}: a sentence has at least one token")
    return limits.expand(n_sentences)


def until_eos(prefix: Sequence[int]) -> list[int]:
    """Return what a prefix says: its ids after BOS, up to the first EOS if there is one."""
    end = prefix.index(EOS) if EOS in prefix else len(prefix)
    return list(prefix[1:end])


# %% [markdown]
# 现在写搜索。每走一步，批次里的每个句子都加一个词。句子一结束就**离开批次**，不再为它花工夫。所以要有 `rows`：它记住还留在批次里的是哪些句子。

# %%
#| export
@torch.no_grad()
def greedy_search(
    score: NextLogProbs,
    n_sentences: int,
    max_len: int | Sequence[int],
    device: torch.device | str = "cpu",
) -> list[list[int]]:
    """Take the likeliest token again and again; return each sentence's ids, without BOS and EOS.

    A sentence ends with EOS, or as it stands after `max_len` tokens (one number, or one for each
    sentence).
    """
    written: list[list[int]] = [[] for _ in range(n_sentences)]
    limits = limits_of(max_len, n_sentences, device)
    rows = torch.arange(n_sentences, device=device)  # sentences still being written
    prefixes = torch.full((n_sentences, 1), BOS, device=device)  # (n, 1 + tokens)
    while len(rows):
        token = score(prefixes, rows).argmax(-1)  # (n,)
        prefixes = torch.cat([prefixes, token[:, None]], dim=1)
        leaving = (token == EOS) | (prefixes.size(1) > limits[rows])
        for row, ids in zip(rows[leaving].tolist(), prefixes[leaving].tolist()):
            written[row] = until_eos(ids)
        rows, prefixes = rows[~leaving], prefixes[~leaving]
    return written


# %% [markdown]
# 要评判贪心搜索的答案，我们得会算一个给定句子的概率，还得知道所有句子中哪个最好。表很小，每个句子都可以试一遍，这叫**穷举搜索**（exhaustive search）。它给出的就是标准答案，别的方法都拿来和它比。

# %%
def probability(ids) -> float:
    """Multiply the probabilities of a sentence's words and of its end, in the table."""
    prefix, p = [BOS], 1.0
    for word in (*ids, EOS):
        p *= score(torch.tensor([prefix]), torch.tensor([0]))[0, word].exp().item()
        prefix.append(word)
    return p


every = list(itertools.product(range(4, len(WORDS)), repeat=3))
best = max(every, key=probability)
greedy = greedy_search(score, 1, max_len=10)[0]
assert say(greedy) == "the dog sleeps" and math.isclose(probability(greedy), 0.12, rel_tol=1e-6)
assert say(best) == "a dog sleeps" and math.isclose(probability(best), 0.252, rel_tol=1e-6)
print(f"greedy: {say(greedy)}, 0.5 · 0.4 · 0.6 = {probability(greedy):.3f}")
print(f"best:   {say(best)}, 0.4 · 0.9 · 0.7 = {probability(best):.3f}")
compare(mine, probability(greedy), "08: probability of greedy search's sentence")

# %% [markdown]
# 贪心搜索选“the”，因为 0.5 大于 0.4。可是在“the”之后，模型拿不定主意；在“a”之后，它几乎确定。等贪心搜索发现这一点，已经晚了。它写的句子，可能性还不到最好句子的一半。
#
# > **试一试。** 改动表里的一个数（再改另一个，让总和仍是 1），使贪心搜索找到最好的句子。从“the”那里拿走多少，就给“a”多少：“a”作为第一个词的概率超过多少，贪心搜索才会成功？
#
# <details><summary>答案</summary>
#
# 两个词的概率合起来是 0.9，所以“a”的概率一超过 0.45，贪心搜索就先选它。“a”取 0.46、“the”取 0.44，贪心搜索写出“a dog sleeps”；“a”取 0.44，它还是写“the dog sleeps”。第一个词**后面**会怎样，它选的时候从不考虑。
#
# </details>
#
# 贪心搜索一个词接一个词地写，机器擅长的却是许多事同时做。对机器来说，这样写意味着什么？用 `check("parallel_writing", "b")` 作答。

# %%
check("parallel_writing")

# %% [markdown]
# ## 3 · 束搜索
#
# 办法是：不只留一个前缀，而是留下可能性最大的 $k$ 个，这叫**束**（beam）。每一步：
#
# 1. $k$ 个前缀各自试着接上 $V$ 个词，得到 $k \cdot V$ 个和；
# 2. 留下最大的 $k$ 个。
#
# 已经写出 `</s>` 的前缀呢？它已经**完成**，不能再往下写。它留在束里和别的前缀竞争，但不再拿去问模型：它只能再接一个 `</s>`，这一步不扣分，因为 $\log 1 = 0$。

# %%
#| export
def continuations(score: NextLogProbs, row: int, prefixes: Tensor, totals: Tensor) -> Tensor:
    """Return the log-probability of every prefix of a sentence with every next token.

    row: which source sentence; prefixes (k, t), totals (k,): their log-probabilities -> (k, V).
    Only prefixes that have not ended are shown to the model; the others go on with EOS, for nothing.
    """
    live = prefixes[:, -1] != EOS  # (k,)
    asked = prefixes[live]
    scored = score(asked, torch.full((len(asked),), row, device=asked.device))  # (live ones, V)
    log_probs = scored.new_full((len(prefixes), scored.size(1)), -math.inf)
    log_probs[~live, EOS] = 0.0
    log_probs[live] = scored
    return totals[:, None] + log_probs


# %% [markdown]
# 搜索的一步，就是把所有候选排好序，取最前面的。候选排成长长的一行，每个前缀占 $V$ 个，所以候选的位置除以 $V$ 再向下取整，就知道它来自哪个前缀；余数就是它的词。`stable` 的意思是：两个和相等时，原来在前的仍排在前。这样，在任何机器上答案都一样。

# %%
#| export
def beam_step(
    score: NextLogProbs, row: int, prefixes: Tensor, totals: Tensor, beam: int
) -> tuple[Tensor, Tensor]:
    """Let every prefix of a sentence grow by one token and keep the `beam` likeliest, best first.

    prefixes (k, t), totals (k,) -> prefixes (k', t + 1), totals (k',); k' is `beam`, or fewer where
    fewer are possible.
    """
    candidates = continuations(score, row, prefixes, totals)  # (k, V)
    totals, place = candidates.flatten().sort(descending=True, stable=True)
    totals, place = totals[:beam], place[:beam]
    totals, place = totals[totals.isfinite()], place[totals.isfinite()]
    parent, token = place // candidates.size(1), place % candidates.size(1)
    return torch.cat([prefixes[parent], token[:, None]], dim=1), totals


# %% [markdown]
# 来看搜索怎么走。开头只放一个前缀 `<s>`，不能放两个：两个前缀相同，接出来的也相同，束里就全是重复的了。**先猜**：束宽为 2，第一个词之后留下哪两个前缀？第二个词之后呢？

# %%
# NBVAL_CHECK_OUTPUT
prefixes, totals = torch.tensor([[BOS]]), torch.zeros(1)
for _ in range(4):
    prefixes, totals = beam_step(score, 0, prefixes, totals, beam=2)
    kept = zip(prefixes.tolist(), totals.exp().tolist())
    print("   ".join(f"{say(ids[1:])} ({p:.3f})" for ids, p in kept))


# %% [markdown]
# 关键是第二行：“a dog”（0.36）超过了“the dog”（0.20），因为它还在束里。把同样的搜索画成树，凡是模型给了概率的续写都画上：

# %%
nodes = draw.search_tree(score, WORDS, beam=2)
draw.beam_tree(nodes, 'A beam of 2 keeps "a" alive and reaches 0.252; greedy search, 0.120')

# %% [markdown]
# 边上写的是一个词的概率，方框里写的是整个前缀的概率。灰色的方框没有进入束。注意束漏掉了什么：它的第二名“the dog sleeps”（0.120）并不是真正的第二名。真正的第二名是“the puppy sleeps”（0.5 · 0.35 · 0.7 = 0.1225），它的开头早就被扔掉了。**束搜索更好，但并不完美。**
#
# > **试一试。** 画出 `beam=1` 和 `beam=3` 的树。束宽多少，才能找到“the puppy sleeps”？
#
# <details><summary>答案</summary>
#
# 束宽 3 就能找到，它排第二：两个词之后，留下“a dog”（0.36）、“the dog”（0.20）和“the puppy”（0.175）。束宽 1 的树就是贪心搜索的那条线，终点是 0.120。
#
# </details>

# %% [markdown]
# ## 4 · 短句太占便宜
#
# 束搜索结束时，手里有几个写完的句子，长短不一。返回哪一个？按说应该是对数概率最大的那个。**先猜**：下面这张表翻译的是“Ein Hund schläft auf dem Sofa.”（一只狗在沙发上睡觉）。模型误以为说到“a dog”可能就够了（0.42），不过它更愿意往下写（0.58）。写完的句子里，哪个可能性最大？

# %%
LONG_TABLE = {
    "": {"a": 1.0},
    "a": {"dog": 1.0},
    "a dog": {"</s>": 0.42, "sleeps": 0.58},
    "a dog sleeps": {"</s>": 0.2, "on": 0.8},
    "a dog sleeps on": {"the": 0.8, "a": 0.2},
    "a dog sleeps on the": {"sofa": 1.0},
    "a dog sleeps on a": {"sofa": 1.0},
}
short, long = 0.42, 0.58 * 0.8 * 0.8
assert short > long
print(f"a dog: {short:.4f}   a dog sleeps on the sofa: 0.58 · 0.8 · 0.8 = {long:.4f}")

# %% [markdown]
# 排第一的竟是半句话，尽管每一步模型都更愿意往下写！每多一个词，就要乘以一个不超过 1 的数。所以拿这些和来比，每多写一个词就多扣一次分，谁停得最早，谁扣得最少。这就叫**偏向短句**。而且束越宽，找到的句子里就越常有过早写出 `</s>` 的。
#
# Wu 等（2016，公式 14，去掉其中的覆盖项）给出了办法，论文也用它，取 $\alpha = 0.6$：把和除以一个随长度 $|Y|$ 增大的数，即**长度惩罚**（length penalty）。
#
# $$s(Y, X) = \frac{\log P(Y \mid X)}{\operatorname{lp}(Y)} \qquad\quad
# \operatorname{lp}(Y) = \frac{(5 + |Y|)^{\alpha}}{(5 + 1)^{\alpha}}$$
#
# 这个和是负数，除以更大的数，反而变**好**。“惩罚”这个名字容易误导人：对长句，它其实是奖励。$\alpha = 0$ 什么也不改变；$\alpha = 1$ 时，长句几乎是按每个词的平均值来排名的。`</s>` 也算 $Y$ 的一个词，因为和里有它的概率。

# %%
#| export
def length_penalty(length: int, alpha: float) -> float:
    """Return what a log-probability is divided by; 1 for alpha 0. Wu et al. 2016, equation 14.

    length: the number of tokens, EOS counted.
    """
    return ((5 + length) / 6) ** alpha


# %% [markdown]
# **先猜**：$\alpha$ 要大到多少，长句才会胜出？两个分数在 $\log 0.42 / 8^{\alpha} = \log 0.3712 / 12^{\alpha}$ 时相等（长度是 3 和 7，公式里各加 5）。解出 $\alpha$，再运行单元格。

# %%
mine = None  # your guess: from which alpha on, 0 to 1

# %%
crossing = math.log(math.log(long) / math.log(short)) / math.log(12 / 8)
scores = math.log(short) / length_penalty(3, crossing), math.log(long) / length_penalty(7, crossing)
assert math.isclose(*scores) and crossing < 0.6
print(f"the long sentence wins from alpha = {crossing:.2f} on; the paper's 0.6 is enough here")
compare(mine, crossing, "08: alpha from which the long sentence wins")

# %%
sentences = {"a dog": (math.log(short), 3), "a dog sleeps on the sofa": (math.log(long), 7)}
draw.length_penalties(length_penalty, sentences, (0.0, 0.6, 1.0, 2.0), crossing)

# %% [markdown]
# 左图：除数增长得多快。右图：两个分数都随 α 上升，长句的升得更快。
#
# 现在部件都齐了。搜索返回的叫**候选译文**（hypothesis）：一个句子和它的分数。还要定一件事：前缀到了上限还没有结束，怎么办？它只是半句话，所以不管分数多少，写完的候选译文总是排在它前面。要是一个写完的都没有，那就有什么返回什么，和贪心搜索一样。

# %%
#| export
@dataclass(frozen=True)
class Hypothesis:
    """A translation: its ids without BOS and EOS, its log-probability over the length penalty,
    and whether it ended by itself or was cut off at the limit."""

    ids: tuple[int, ...]
    score: float
    finished: bool = True


def ranked(
    prefixes: Sequence[Sequence[int]], totals: Sequence[float], alpha: float
) -> list[Hypothesis]:
    """Return the beam of one sentence as hypotheses: finished ones first, then by their score."""
    hypotheses = []
    for prefix, total in zip(prefixes, totals):
        if total > -math.inf:
            ids, finished = until_eos(prefix), EOS in prefix
            value = total / length_penalty(len(ids) + finished, alpha)
            hypotheses.append(Hypothesis(tuple(ids), value, finished))
    return sorted(hypotheses, key=lambda h: (h.finished, h.score), reverse=True)


# %% [markdown]
# 再来写搜索本身。对每个句子，它重复 `beam_step`，直到所有前缀都结束，或者到了上限。有两个数由调用者传入，所以它先检查这两个数是否合理。

# %%
#| export
def check_search(beam: int, alpha: float) -> None:
    """Raise ValueError for a beam below 1, and for a length penalty that is not from 0 to 10."""
    if beam < 1:
        raise ValueError(f"beam={beam}: a beam keeps at least one prefix (1 is greedy search)")
    if not 0 <= alpha <= 10:  # nan is refused, too
        raise ValueError(
            f"length penalty {alpha}: choose a number from 0 (none) to 10; the paper takes 0.6"
        )


@torch.no_grad()
def beam_search(
    score: NextLogProbs,
    n_sentences: int,
    max_len: int | Sequence[int],
    beam: int = 4,
    alpha: float = 0.6,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Keep the `beam` likeliest prefixes of every sentence; return them when they end, best first.

    A finished prefix keeps its place and stops growing; a sentence is done when nothing can grow,
    or after `max_len` tokens (one number, or one for each sentence). The length penalty chooses
    among what is found. Raises ValueError as `check_search`. Paper, section 6.1.
    """
    check_search(beam, alpha)
    found = []
    for row, limit in enumerate(limits_of(max_len, n_sentences, device).tolist()):
        prefixes = torch.full((1, 1), BOS, device=device)  # (k, 1 + tokens)
        totals = torch.zeros(1, device=device)  # (k,)
        while (prefixes[:, -1] != EOS).any() and prefixes.size(1) <= limit:
            prefixes, totals = beam_step(score, row, prefixes, totals, beam)
        found.append(ranked(prefixes.tolist(), totals.tolist(), alpha))
    return found


# %%
# NBVAL_CHECK_OUTPUT
for alpha in (0.0, 0.6):
    hypotheses = beam_search(table_score(LONG_TABLE), 1, max_len=10, beam=2, alpha=alpha)[0]
    listed = ", ".join(f"{say(h.ids)} ({h.score:.3f})" for h in hypotheses)
    print(f"alpha {alpha}: {listed}")

# %% [markdown]
# 两次搜索找到的是同样的两个句子。在我们的搜索里，α 只用来在束最后留下的句子当中**挑选**；哪些前缀留下来，由不带惩罚的对数概率之和决定。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 搜索写对了吗？· 选读
#
# 三条断言，在我们完全了解的模型上检验。写给想看看怎样检查搜索的读者。

# %% [markdown]
# 下面的每棵随机树，可用的词只有三个，最多写四个词就结束，所以共有 $1 + 3 + 9 + 27 + 81 = 121$ 个句子。打分函数给批次的每一行配一棵不同的树。

# %%
N_WORDS, DEPTH = 3, 4


def random_trees(n_trees: int, seed: int):
    """Return a score function in which every row has random probabilities of its own."""
    generator = torch.Generator().manual_seed(seed)
    tables = []
    for t in range(DEPTH + 1):
        logits = 2 * torch.randn(n_trees, N_WORDS**t, 4 + N_WORDS, generator=generator)
        logits[..., [PAD, BOS, UNK]] = -math.inf
        logits[..., EOS] -= 3  # most sentences have several words
        if t == DEPTH:
            logits[..., 4:] = -math.inf  # only </s> is left
        tables.append(logits.log_softmax(-1))  # (trees, prefixes of t words, V)

    def score(prefixes, rows):
        which = torch.zeros(len(prefixes), dtype=torch.long)
        for token in prefixes[:, 1:].unbind(1):
            which = which * N_WORDS + token - 4
        return tables[prefixes.size(1) - 1][rows, which]

    return score


# %% [markdown]
# **断言 1：束宽为 1 就是贪心搜索**，逐词相同，不管 α 是多少。这是必然的：束里只有一个位置，`</s>` 第一次胜出就占住它，搜索随即结束。单元格检验的是代码，不是这句话。

# %%
N_TREES = 1_000
trees = random_trees(N_TREES, seed=1)
greedy = greedy_search(trees, N_TREES, DEPTH + 1)
for alpha in (0.0, 0.6, 2.0):
    single = beam_search(trees, N_TREES, DEPTH + 1, beam=1, alpha=alpha)
    assert [list(h[0].ids) for h in single] == greedy
print(f"{N_TREES} random models: beam 1 and greedy search write the same words")

# %% [markdown]
# **断言 2：束宽到能容纳整棵树，就是穷举搜索。** 这也是必然的：一个前缀也不会扔掉。要检验代码，我们不用任何搜索，给每棵树的全部 121 个句子打分，除以长度惩罚，取最好的。

# %%
N_FULL = 50  # the first 50 trees are enough here
all_sentences = [s for n in range(DEPTH + 1) for s in itertools.product(range(4, 7), repeat=n)]
all_totals = torch.zeros(N_FULL, len(all_sentences))
for j, sentence in enumerate(all_sentences):
    prefix = torch.full((N_FULL, 1), BOS)
    for word in (*sentence, EOS):
        all_totals[:, j] += trees(prefix, torch.arange(N_FULL))[:, word]
        prefix = torch.cat([prefix, torch.full((N_FULL, 1), word)], dim=1)
assert torch.allclose(all_totals.exp().sum(1), torch.ones(N_FULL), atol=1e-4)

for alpha in (0.0, 0.6, 1.0, 2.0):
    divisor = torch.tensor([length_penalty(len(s) + 1, alpha) for s in all_sentences])
    truth = (all_totals / divisor).argmax(1).tolist()
    full = beam_search(trees, N_FULL, DEPTH + 1, beam=len(all_sentences), alpha=alpha)
    assert [h[0].ids for h in full] == [all_sentences[j] for j in truth]
print(f"{len(all_sentences)} sentences in each tree: the full beam finds the best, for every alpha")

# %% [markdown]
# **断言 3：束越宽，平均来说，找到的句子可能性越大；单看一个句子，就不一定了。** **先猜**：1,000 棵树里，有多少棵会出现这种情况：束宽 2 找到的句子，可能性反而**小于**贪心搜索的句子？看得更多，怎么会找到更差的？

# %%
mine = None  # your guess: so many of the 1,000 trees

# %%
beams = (1, 2, 4, 8)
found = {b: [h[0] for h in beam_search(trees, N_TREES, DEPTH + 1, b, alpha=0.0)] for b in beams}
mean = {b: sum(h.score for h in found[b]) / N_TREES for b in beams}
worse = [i for i in range(N_TREES) if found[2][i].score < found[1][i].score - 1e-4]
assert all(mean[a] <= mean[b] for a, b in itertools.pairwise(beams))
assert 0 < len(worse) < N_TREES / 20
print("mean log-probability:", ", ".join(f"beam {b}: {m:.3f}" for b, m in mean.items()))
print(f"beam 2 is worse than greedy search in {len(worse)} of {N_TREES} trees, for example:")
for b in (1, 2):
    h = found[b][worse[0]]
    words = [i - 3 for i in h.ids]
    print(f"  tree {worse[0]}, beam {b}: words {words}, P = {math.exp(h.score):.4f}")
compare(mine, len(worse), "08: trees in which beam 2 finds less than greedy search")

# %% [markdown]
# 少见，但确实会发生。下面用几个能心算的数来说明。第一个词之后，“the”领先。第二个词之后，束的两个位置都让“a”的后代占了（各是 0.35 · 0.5 = 0.175），“the dog”（0.4 · 0.4 = 0.16）就被扔掉了。可偏偏是从“the dog”接着写，概率一点也不会再变小。

# %%
TRAP = {
    "": {"the": 0.4, "a": 0.35, "one": 0.25},
    "the": {"dog": 0.4, "puppy": 0.3, "hound": 0.3},
    "a": {"dog": 0.5, "puppy": 0.5},
    "one": {"dog": 0.4, "puppy": 0.3, "hound": 0.3},
    "the dog": {"sleeps": 1.0},
    "a dog": {"sleeps": 0.6, "rests": 0.4},
    "a puppy": {"sleeps": 0.5, "rests": 0.5},
}
probabilities = []
for beam in (1, 2, 3):
    best = beam_search(table_score(TRAP), 1, max_len=10, beam=beam, alpha=0.0)[0][0]
    probabilities.append(math.exp(best.score))
    print(f"beam {beam}: {say(best.ids)}, P = {probabilities[-1]:.3f}")
assert torch.allclose(torch.tensor(probabilities), torch.tensor([0.16, 0.105, 0.16]))

# %% [markdown]
# > **试一试。** 让这些树更有把握（随机数乘以 5，而不是 2），再让它们更没把握（乘以 0.5）。束搜索什么时候最有用？为什么？
#
# <details><summary>答案</summary>
#
# 300 棵树里，贪心搜索在 70 棵上错过了束宽 8 找到的最好句子；树更有把握时是 19 棵，更没把握时是 127 棵。有把握的模型把几乎全部概率给一个词，所以第一次就选对了。如果许多词可能性差不多，就要看后面怎么接才能分出高下，而只有束搜索会等到那时候。
#
# </details>

# %% [markdown]
# ## 5 · 用 Transformer 当打分函数
#
# 两种搜索对 Transformer 都一无所知，还缺一个 `score` 函数，由它去问 Transformer。编码器把源句读**一遍**；解码器读每个前缀，给出最后一个位置的答案。有两件事要先定下来：
#
# - **模型可以写 `<pad>` 或 `<s>` 吗？** 它们是我们自己的记号，从来不是译文的一部分。`<unk>` 也不是，因为用 BPE 词表，没有不认识的词。训练好的模型给它们的概率极小，但不是零。我们在 softmax 之前把它们的 logit 设为 $-\infty$：这样就写不出它们了，而其余的概率加起来仍是 1。
# - **暂退法（dropout）怎么办？** 搜索不能是随机的，所以模型必须处于 eval 模式。模型刚训练完时不在这个模式；不切换的话，表面上什么也看不出来，只是译文会差一些。所以我们要检查。
#
# （凡是有 `encode`、`decode` 和 `project` 的模型，都是 `Translator`；第 02 课和第 05 课的模型都是。）

# %%
#| export
def scorer(model: Translator, read: Callable[[Tensor, Tensor], Tensor]) -> NextLogProbs:
    """Return a score function for the searches; PAD, BOS and UNK get -inf.

    read(prefixes (n, t), rows (n,)) gives the decoder's state at the last token of each prefix,
    (n, D). Raises ValueError if the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode, its dropout is on: call model.eval()")

    @torch.no_grad()
    def score(prefixes: Tensor, rows: Tensor) -> Tensor:
        logits = model.project(read(prefixes, rows)).float()  # (n, V)
        logits[:, [PAD, BOS, UNK]] = -math.inf
        return logits.log_softmax(-1)

    return score


# %%
#| export
@torch.no_grad()
def next_log_probs(model: Translator, src: Tensor) -> NextLogProbs:
    """Return a function that scores the next token of prefixes, given the source sentences.

    src (B, S). The function takes prefixes (n, t), each beginning with BOS, and rows (n,), the
    source sentence of each prefix, and returns log-probabilities (n, V).
    """
    src_mask = padding_mask(src, PAD)
    memory = model.encode(src, src_mask)  # (B, S, D), read once

    def read(prefixes: Tensor, rows: Tensor) -> Tensor:
        tgt_mask = causal_mask(prefixes.size(1), prefixes.device)
        return model.decode(prefixes, memory[rows], src_mask[rows], tgt_mask)[:, -1]  # (n, D)

    return scorer(model, read)


# %% [markdown]
# 把句子变成译文，一个函数就够了。有两处很容易写错：**空行**必须仍是空行，不然后面的每一行都会和错的参考译文比较；**上限**（输入加 50）要按每个句子来算。

# %%
#| export
def translate(
    model: Translator, bpe: BPE, sentences: Sequence[str], beam: int = 1, alpha: float = 0.6
) -> list[str]:
    """Return the translation of each sentence, in the same order; an empty line stays empty.

    beam 1 is greedy search. One sentence after the other: slow, and easy to check;
    `course.cache.translate` writes the same, fast. Raises ValueError if the model is in training
    mode, and as `check_search`. At most 50 tokens more than the source (paper, section 6.1).
    """
    translations = []
    for sentence in sentences:
        source = encode_sentence(bpe, sentence)
        src = torch.tensor([source], device=next(model.parameters()).device)  # (1, S)
        score, limit = next_log_probs(model, src), len(source) + 50
        found = beam_search(score, 1, limit, beam, alpha, src.device)[0]
        translations.append(bpe.decode(found[0].ids) if sentence.strip() else "")
    return translations


# %% [markdown]
# 现在用真正的模型。我们用 `tiny` 预设在图片说明的语料库上训练（**预设**（preset）是一个名字，代表一组大小和一份训练配方，见第 07 课第 9 节；`Trainer` 就是第 07 课的循环，另外还会保存，见 07b）。我们**故意停得太早**：模型要是从不出错，就没法拿来讲搜索了。即便这样，它还是相当好，这不奇怪：这些图片说明是一套小语法生成的，比真实的容易得多。

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

# %%
test_pairs = pairs("captions", "val")[: device.by_scale(smoke=16, cpu=120, gpu=120)]
german, english = [list(side) for side in zip(*test_pairs)]
by_greedy = translate(model, bpe, german, beam=1)
by_beam = translate(model, bpe, german, beam=4)
different = [i for i in range(len(german)) if by_greedy[i] != by_beam[i]]
for i in different[:3]:
    print(f"source     {german[i]}\nreference  {english[i]}")
    print(f"greedy     {by_greedy[i]}\nbeam 4     {by_beam[i]}\n")
print(f"greedy search and beam 4 differ in {len(different)} of {len(german)} sentences")

# %% [markdown]
# **断言 4：束很宽时，译文的平均对数概率更高。** 不一定总是这样：束宽了，可能早早就把更好的前缀挤出去。所以我们在图片说明上测量，取 $\alpha = 0$。单元格只断言最宽的束胜过贪心搜索；中间各种束宽是不是依次上升，你自己看输出。所有的束都留着，第 8 节（选读）还要用。

# %%
BEAMS = (1, 2, 4, 8)
beams_found = {beam: [] for beam in BEAMS}
for source in ([*bpe.encode(s), EOS] for s in german):
    score_caption = next_log_probs(model, torch.tensor([source], device=device.pick()))
    for beam in BEAMS:
        limit = len(source) + 50
        beams_found[beam] += beam_search(score_caption, 1, limit, beam, 0.0, device.pick())
model_score = [sum(f[0].score for f in beams_found[b]) / len(german) for b in BEAMS]
assert model_score[-1] > model_score[0]
print("mean log-probability:", ", ".join(f"beam {b}: {s:.2f}" for b, s in zip(BEAMS, model_score)))


# %% [markdown]
# 束很宽时，模型给自己的译文打分更高。**我们**也更喜欢这些译文吗？要回答，得请一位不问模型的裁判。

# %% [markdown]
# ## 6 · BLEU：译文有多好？
#
# BLEU（Papineni 等 2002）把一个译文，即“候选译文”（hypothesis），与人写的译文，即“参考译文”（reference），作比较。它问两个问题：
#
# 1. **精确率（precision）：** 候选译文里的词，以及连续 2、3、4 个词（n 元语法，n-gram），有多少出现在参考译文里？
# 2. **长度：** 候选译文比参考译文短吗？短了，精确率就容易高，所以要扣分。
#
# 我们手算一对。**先猜**：候选译文连句号在内有九个词，有几个能和参考译文对上？“the”要看两遍。

# %%
mine = None  # your guess: 0 to 9

# %%
#| export
def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Count the runs of n tokens."""
    return Counter(zip(*(tokens[i:] for i in range(n))))


# %%
# NBVAL_CHECK_OUTPUT
reference = str.split("a small dog is sleeping on the red sofa .")
hypothesis = str.split("a small dog sleeping on the the sofa .")
matched, total = [], []
for n in range(1, 5):
    ours, wanted = ngrams(hypothesis, n), ngrams(reference, n)
    common = ours & wanted  # for each n-gram the smaller of the two counts
    matched.append(common.total())
    total.append(ours.total())
    print(f"{n}-grams: {matched[-1]} of {total[-1]}")
assert matched == [8, 5, 2, 0] and total == [9, 8, 7, 6]
compare(mine, matched[0], "08: words of nine that the reference confirms")

# %% [markdown]
# 八个，不是九个。“the”在候选译文里有两个，在参考译文里只有一个，所以只算一个。计数是**截断**的（clipped）：每个 n 元语法最多算参考译文里有的那么多次。不截断的话，“the the the the”这样的“译文”也会得到 100% 的精确率。在 Python 里，两个 `Counter` 之间的 `&` 就是取这个较小值。

# %%
draw.ngram_boxes(hypothesis, reference)

# %% [markdown]
# 每根横条代表候选译文的一个 n 元语法。精确率只管**写出来**的词，所以从第一行看不出少了“is”。更长的片段就看得出来：凡是跨过“dog”和“sleeping”之间那个缺口的，都断了。单个的词衡量用词，长的 n 元语法衡量词序和通顺。
#
# BLEU 是四个精确率 $p_n$ 的几何平均，再乘以**简短惩罚**（brevity penalty）BP。设候选译文共有 $c$ 个词元，参考译文共有 $r$ 个：
#
# $$\operatorname{BLEU} = 100 \cdot \operatorname{BP}
# \cdot \left( p_1 \, p_2 \, p_3 \, p_4 \right)^{1/4}
# \qquad\quad \operatorname{BP} = \min\left(1, \; e^{1 - r/c}\right)$$
#
# 我们这一对没有共同的 4 元语法：$p_4 = 0$。句子明明相当好，BLEU 却是 0。所以 BLEU 是给**语料库**（corpus）用的：先把所有句子的计数加起来，再相除。下面再加一对，把整个计算手算一遍。

# %%
references = [reference, str.split("two children are playing with a ball in the park .")]
hypotheses = [hypothesis, str.split("two children are playing with a ball in a park .")]
matched, total = [0] * 4, [0] * 4
for ours, wanted in zip(hypotheses, references):
    for n in range(4):
        matched[n] += (ngrams(ours, n + 1) & ngrams(wanted, n + 1)).total()
        total[n] += ngrams(ours, n + 1).total()
c, r = sum(map(len, hypotheses)), sum(map(len, references))
brevity = min(1.0, math.exp(1 - r / c))
by_hand = 100 * brevity * math.prod(m / t for m, t in zip(matched, total)) ** 0.25
print("matched/total:", "  ".join(f"{m}/{t}" for m, t in zip(matched, total)))
print(f"c = {c}, r = {r}, brevity penalty e^(1 - {r}/{c}) = {brevity:.3f}, BLEU = {by_hand:.2f}")
assert matched == [18, 13, 8, 5] and total == [20, 18, 16, 14] and (c, r) == (20, 21)

# %% [markdown]
# 写成函数，用对数代替乘积的四次方根：

# %%
#| export
def bleu(hypotheses: Iterable[Sequence[str]], references: Iterable[Sequence[str]]) -> float:
    """Return corpus BLEU, 0 to 100: tokens in, one reference a sentence, up to 4-grams.

    Counts are summed over the corpus before anything is divided; no smoothing, so a corpus
    without a single right 4-gram scores 0. Raises ValueError if there are not as many hypotheses
    as references, TypeError for text that is not cut into tokens. Papineni et al. 2002.
    """
    hypotheses, references = list(hypotheses), list(references)
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    if any(isinstance(sentence, str) for sentence in (*hypotheses, *references)):
        raise TypeError("bleu takes lists of tokens, and a string is a list of letters: split it")
    matched, total = [0] * 4, [0] * 4
    for hyp, ref in zip(hypotheses, references):
        for n in range(1, 5):
            found, wanted = ngrams(hyp, n), ngrams(ref, n)
            matched[n - 1] += (found & wanted).total()  # clipped: as often as it is wanted
            total[n - 1] += found.total()
    if min(matched) == 0:
        return 0.0
    hyp_len, ref_len = sum(map(len, hypotheses)), sum(map(len, references))
    precision = math.exp(sum(math.log(m / t) for m, t in zip(matched, total)) / 4)
    return 100 * min(1.0, math.exp(1 - ref_len / hyp_len)) * precision


# %% [markdown]
# 写论文通用的程序是 `sacrebleu`，它接受普通文本，按自己的规则（叫 `13a`）切成词元。词元相同时，我们的函数给出同样的结果：

# %%
split_13a = Tokenizer13a()


def our_bleu(texts: list[str], gold: list[str]) -> float:
    """BLEU of plain text, by our function over sacrebleu's tokens."""
    return bleu([split_13a(t).split() for t in texts], [split_13a(g).split() for g in gold])



assert math.isclose(our_bleu(by_beam, english), sacrebleu.corpus_bleu(by_beam, [english]).score)
print(f"beam 4 on these captions: BLEU {our_bleu(by_beam, english):.1f}, by both")

# %%
check("bleu_clip")

# %%
check("bleu_brevity")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 与 `sacrebleu` 对照 · 选读
#
# 我们的数字与论文通用的那个程序一致；平滑起什么作用；各句 BLEU 的平均为什么是另一回事。

# %% [markdown]
# **断言 5：我们的 BLEU 就是 `sacrebleu` 的 BLEU。** `sacrebleu` 是写论文通用的程序，接受普通文本，按自己的规则（叫 `13a`）切成词元；我们把同样的词元交给自己的函数。拿来比较的，有模型在各种束宽下的译文，还有一堆胡话：200 个小语料库，里面全是随机的词。

# %%
generator = torch.Generator().manual_seed(0)


def nonsense(n: int) -> list[str]:
    """Return n sentences of 0 to 11 random words out of five."""
    lengths = torch.randint(12, (n,), generator=generator).tolist()
    sentences = [torch.randint(5, (k,), generator=generator).tolist() for k in lengths]
    return [" ".join("abcde"[i] for i in sentence) for sentence in sentences]


corpora = [(nonsense(5), nonsense(5)) for _ in range(200)]
texts = [[bpe.decode(f[0].ids) for f in beams_found[b]] for b in BEAMS]
corpora += [(t, english) for t in [by_greedy, by_beam, *texts]]
for texts_, gold in corpora:
    theirs = sacrebleu.corpus_bleu(texts_, [gold], smooth_method="none").score
    assert math.isclose(our_bleu(texts_, gold), theirs, abs_tol=1e-6)
print(f"{len(corpora)} corpora: the same BLEU")

# %% [markdown]
# 为什么要 `smooth_method="none"`？sacrebleu 默认会**平滑**（`exp`）：哪个精确率是 0，就换成一个很小的数（第一个这样的 $n$ 算半次匹配，下一个算四分之一次，依此类推）。另一种方式是 `floor`，换成一个固定的很小的数。测试集有一千个句子时，没有哪个精确率是 0，几种方式的结果都一样；只有一个句子时，差别就很大：

# %%
# NBVAL_CHECK_OUTPUT
one, gold = " ".join(hypothesis), " ".join(reference)
smoothed = {
    method: sacrebleu.corpus_bleu([one], [[gold]], smooth_method=method).score
    for method in ("none", "floor", "exp")
}
assert bleu([hypothesis], [reference]) == smoothed["none"] == 0
assert 10 < smoothed["floor"] < smoothed["exp"]
print(", ".join(f"{method}: {value:.1f}" for method, value in smoothed.items()))

# %% [markdown]
# **语料库的 BLEU 不是各句 BLEU 的平均。** 我们的两个句子：

# %%
# NBVAL_CHECK_OUTPUT
each = [bleu([h], [r]) for h, r in zip(hypotheses, references)]
whole = bleu(hypotheses, references)
assert math.isclose(whole, by_hand) and abs(sum(each) / 2 - whole) > 5
print(f"sentences: {each[0]:.1f} and {each[1]:.1f}, mean {sum(each) / 2:.1f}; corpus: {whole:.1f}")

# %% [markdown]
# > **试一试。** 给两个系统排名次，按各句 BLEU 的平均来排，谁先谁后？按语料库的 BLEU 呢？写出两个系统，各两个句子，使这两种名次不同。
#
# <details><summary>答案</summary>
#
# 参考译文：“a dog runs fast .”和“two old men are playing chess in the park today .”。系统 A 短句全对，长句写成“two old men are playing cards at a table .”；系统 B 短句写成“one cat sleeps here .”，长句全对。句子 BLEU 的平均：68.6 和 50.0。语料库：53.8 和 75.3。取平均时，两个句子的分量相同；按语料库算，长句的 n 元语法多，分量就更大。
#
# </details>

# %%
check("bleu_corpus")

# %% [markdown]
# ## 7 · 怎样报告 BLEU，它又漏掉了什么
#
# BLEU 是多少，要看文本怎样切成词元，还要看分不分大小写。这些都相同，两篇论文的 BLEU 才能比较（Post 2018）。**先猜**：同样的两个句子，用四种方式算分，哪种分数最高？

# %%
system = ["A man's well-known dog doesn't sleep.", "The old woman is reading a blue book."]
human = ["The man's well-known dog doesn't sleep.", "the old woman is reading the blue book."]
ways = {
    "sacrebleu on plain text (13a)": our_bleu(system, human),
    "split at spaces": bleu(map(str.split, system), map(str.split, human)),
    "13a, all in lower case": our_bleu([s.lower() for s in system], [s.lower() for s in human]),
    "letter by letter": bleu(map(list, system), map(list, human)),
}
plain = sacrebleu.corpus_bleu(system, [human]).score
assert math.isclose(ways["sacrebleu on plain text (13a)"], plain)
assert max(ways.values()) - min(ways.values()) > 20
for name, value in ways.items():
    print(f"{value:5.1f}  {name}")

# %% [markdown]
# 从第一行到第四行，译文一点也没有变好。由此得到两条规矩：
#
# - **用去词元化的文本打分。** 交给 sacrebleu 的，要是完整的、像人写的句子（`bpe.decode` 返回的就是），参考译文文件则原封不动。这样，谁用什么分词程序、什么词表、转不转小写，都不会影响这个数。
# - **打印签名（signature）。** 它写明每一个选择：

# %%
metric = sacrebleu.BLEU()
metric.corpus_score(system, [human])
signature = str(metric.get_signature())
assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
print(signature)

# %% [markdown]
# 每个句子一个参考译文（`nrefs:1`）；区分大小写（`case:mixed`）；总是用四个精确率，短句也一样（`eff:no`）；按 `13a` 的规则切词元；精确率为 0 时用什么代替，由 `exp` 规定；最后是程序的版本。论文在英德上的 27.3 和 28.4 是**词元化之后**的 BLEU，2017 年通常都这样：文本由另一个程序切成词元，德语复合词在连字符处断开。Post（2018）发现，常见的几种设置之间最多相差 1.8 分。所以你的数和论文的数，不能一分一分地细比。

# %%
check("bleu_tokens")

# %% [markdown]
# ### BLEU 漏掉了什么
#
# BLEU 只认词，不认意思。**先猜**：一个参考译文，四个译文，哪个译文的 BLEU 最高？你自己会选哪个？最后一栏是另一个数，容易和 BLEU 弄混：把两段文本并排放好，逐个位置比较，看词元相同的位置占多大比例。

# %%
gold = "A dog is sleeping on the red sofa in the kitchen ."
candidates = {
    "same meaning, other words": "In the kitchen , a hound takes a nap on a scarlet couch .",
    "wrong meaning, same words": "A dog is not sleeping on the red sofa in the kitchen .",
    "one small word too many": "So a dog is sleeping on the red sofa in the kitchen .",
    "one wrong noun": "A cat is sleeping on the red sofa in the kitchen .",
}


def position_accuracy(text: str, gold: str) -> float:
    """Share of the reference's places at which the text has the same token, in percent."""
    tokens, wanted = text.split(), gold.split()
    return 100 * sum(t == w for t, w in zip(tokens, wanted)) / len(wanted)


rated = {name: (bleu([t.split()], [gold.split()]), position_accuracy(t, gold))
         for name, t in candidates.items()}
for name, (by_bleu, by_position) in rated.items():
    print(f"{name:26} BLEU {by_bleu:5.1f}   same place {by_position:5.1f} %")
assert rated["same meaning, other words"][0] < 10 < 70 < rated["wrong meaning, same words"][0]
assert rated["one small word too many"][0] > 70 and rated["one small word too many"][1] == 0

# %%
draw.what_is_missed(rated)

# %% [markdown]
# - 意思对、只是换了说法的译文，一分不得。多一个“not”，意思就反了，100 分里却只扣 24 分；错一个名词扣 17 分：只数个数，看不出哪个词要紧。
# - 译文是对的，只是错开了一个词，按位置算的准确率就是 0。所以报一个数，一定要说明用的是哪种指标。
# - 两个系统在一个测试集上的差别可能只是偶然；差距只有一分上下，甚至更小，就别急着下结论。
#
# BLEU 仍然有用：它算起来省事，人人都能用，一千个句子下来，小的不公平就互相抵消了。不过，译文也要亲自读一些。

# %%
check("bleu_meaning")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 8 · BLEU 与束宽、α 的关系 · 选读
#
# 写给想把这一课的两部分合起来看的读者：多宽的束、多大的 α，BLEU 最高。
#
# 现在把这一课的两部分合起来。断言 4 留下的束还在，每个源句最多有八个候选译文。α 只用来从中挑选，所以不必重新搜索，换一个 α 重新挑一遍就行。**先猜**：束宽从 1 到 8，模型的平均分数升高了。BLEU 呢？长度呢？

# %%
ALPHAS = (0.0, 0.6, 1.0, 2.0)


def choose(hypotheses: list[Hypothesis], alpha: float) -> Hypothesis:
    """Return the best of hypotheses that were found with alpha 0."""

    def key(h):
        return h.finished, h.score / length_penalty(len(h.ids) + h.finished, alpha)

    return max(hypotheses, key=key)


# %%
bleus, lengths, n_words = {}, {}, sum(len(s.split()) for s in english)
for alpha in ALPHAS:
    texts = [[bpe.decode(choose(f, alpha).ids) for f in beams_found[b]] for b in BEAMS]
    bleus[alpha] = [sacrebleu.corpus_bleu(t, [english]).score for t in texts]
    lengths[alpha] = [sum(len(s.split()) for s in t) / n_words for t in texts]
assert len({bleus[alpha][0] for alpha in ALPHAS}) == 1  # a beam of 1 holds one sentence: no choice
for alpha in ALPHAS:
    print(f"alpha {alpha}:", "  ".join(f"beam {b}: {v:.1f}" for b, v in zip(BEAMS, bleus[alpha])))
more = [f"{new - old:+.1f} with beam {b}" for b, old, new in zip(BEAMS, bleus[0.0], bleus[0.6])]
print("alpha 0.6 changes the BLEU of alpha 0 by", ", ".join(more[1:]))

# %%
draw.over_beam(BEAMS, model_score, bleus, lengths)

# %% [markdown]
# 左图是搜索答应给我们的：可能性更大的句子。右图是随之而来的后果。先看 $\alpha = 0$：正如第 4 节所说，可能性更大的句子通常也更短，束一变宽，文本就变短。中间那张图，才是我们想要的：更好的译文。没有惩罚，加宽束不一定有用；文本变得太短时反而有害，因为每缺一个词，BLEU 的简短惩罚都要计较。同样这些束，取 $\alpha = 0.6$ 会怎样，看上面输出的最后一行。
#
# **不要把这里的 BLEU 当作通常的水平。** 这些图片说明是一套小语法生成的，所以哪怕是小模型，训练一小会儿也能达到 80 左右（这一页存下来的那次运行就是这样）。在真实的图片说明上，第 09 课得到的大约是 40。
#
# 也不要根据这张图来选 α：只有一个小模型、几个句子。论文的束宽 4 和 $\alpha = 0.6$ 是在开发集上选的；做句法分析时用的是束宽 21 和 $\alpha = 0.3$（6.3 节）。
#
# 搜索更好，结果就总是更好吗？不是。Stahlberg 和 Byrne（2019）做了精确的搜索，发现在一半以上的句子上，一个好模型认为**可能性最大**的译文是空的。束窄，反而替我们挡住了模型真正认为最好的译文。这件事很奇怪，至今没有解决。
#
# > **试一试。**
# > 1. 画出束宽 16 和 32 的曲线。BLEU 还跟着模型的分数走吗？
# > 2. 在 `greedy_search` 里不用 `argmax`，改成按概率抽取一个词（`torch.multinomial`）。BLEU 会怎样？什么任务更适合这样做？
#
# <details><summary>答案</summary>
#
# 1. 在 `BEAMS` 里加上 16 和 32（要花几分钟）。模型的分数可以继续上升，但升得越来越少；BLEU 不一定跟着升，在 $\alpha = 0$ 时，文本一变短，它就下降。第 09b 课用真实的图片说明画了同样的图。
# 2. BLEU 多半会下降：模型认为不大可能的词也会写出来，而每个错词最多会打断十个 n 元语法。做翻译，源句已经说了该写什么；写故事或聊天，许多写法都对，抽取就更好（第 10 课会测量）。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 换一种搜索，换一个 α · 选读
#
# 最好的 α 因模型而异，**也因搜索而异**。想拿自己的 α 与论文的比较，就读这一段。

# %% [markdown]
# 在我们的搜索里，完成的前缀仍占着束里的位置，α 只在最后剩下的当中挑选。论文自己的代码（tensor2tensor）把完成的前缀**另外存放**：不占别人的位置，立刻按**惩罚后**的分数排名；搜索一直进行，直到还没写完的前缀里，没有一个胜得过存下来的最差的那个。在这种搜索里，α 还决定要搜索多久。**先猜**：α 取得大，对哪一种搜索有危险？

# %%
#| export
@torch.no_grad()
def beam_apart(
    score: NextLogProbs,
    row: int,
    limit: int,
    beam: int,
    alpha: float,
    follow: Callable[[Tensor], None] | None = None,
) -> Hypothesis:
    """Return the best of a beam search for one sentence that keeps finished prefixes apart.

    As tensor2tensor's: the `beam` best finished ones by penalised score, until no live prefix can
    beat the worst of them. follow: told which prefix each of the next ones grew out of (lesson 08b).
    """
    prefixes, totals, done = torch.tensor([[BOS]]), torch.zeros(1), []
    while True:
        log_probs = totals[:, None] + score(prefixes, torch.full((len(prefixes),), row))  # (k, V)
        totals, place = (best[: 2 * beam] for best in log_probs.flatten().sort(descending=True))
        totals, place = totals[totals.isfinite()], place[totals.isfinite()]
        parent, token = place // log_probs.size(1), place % log_probs.size(1)
        prefixes = torch.cat([prefixes[parent], token[:, None]], dim=1)  # up to 2k: k can go on
        ended = token == EOS
        done += ranked(prefixes[ended].tolist(), totals[ended].tolist(), alpha)
        done = sorted(done, key=lambda h: h.score, reverse=True)[:beam]
        prefixes, totals, parent = (x[~ended][:beam] for x in (prefixes, totals, parent))
        if not len(prefixes) or prefixes.size(1) > limit:
            return (done or ranked(prefixes.tolist(), totals.tolist(), alpha))[0]
        if len(done) == beam and done[-1].score >= totals[0] / length_penalty(limit, alpha):
            return done[0]
        if follow:
            follow(parent)


# %% [markdown]
# 这种搜索也该如此：束宽到能容纳整棵树，就必须找到最好的句子。先检验这一点。然后用课程附带的翻译模型，在 Multi30k 的验证集上比较两种搜索，束宽 4；表里的数是用 `python -m course.authoring.alpha` 测出来的。

# %%
for alpha in (0.0, 0.6, 2.0):
    divisor = torch.tensor([length_penalty(len(s) + 1, alpha) for s in all_sentences])
    truth = (all_totals / divisor).argmax(1).tolist()
    for row, j in enumerate(truth):
        best = beam_apart(trees, row, DEPTH + 1, len(all_sentences), alpha)
        assert best.ids == all_sentences[j]
print("the wide beam finds the best sentence of every tree")

# %%
measured = json.loads((ASSETS / "results" / "length_penalty.json").read_text("utf-8"))
print("finished prefixes   alpha   BLEU   length of the text, by the reference's")
for r in measured["rows"]:
    print(f"{r['finished']:18}  {r['alpha']:5}  {r['bleu']:5.2f}   {r['length_ratio']:.3f}")
in_beam, apart = (
    {r["alpha"]: r["bleu"] for r in measured["rows"] if r["finished"] == kind}
    for kind in ("in the beam", "kept apart")
)
assert max(in_beam, key=in_beam.get) == 2.1 and max(apart, key=apart.get) == 1.5

# %% [markdown]
# α 取 0.6 时，两种搜索的分数一样。在我们的搜索里，α 加大到 2.1 还略有好处，因为它只用来在束里剩下的几个候选当中挑选。在另外存放完成前缀的搜索里，三个值中 1.5 最好，取 2.1 要损失 3.6 BLEU：这时 α 还决定留下谁、什么时候停，文本变得比参考译文长 9%。所以一篇论文如果只写 α，不写用的是哪种搜索，这个 α 说明不了多少。

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `next_log_probs(model, src)` | src (B, S) | 一个函数：前缀 (n, t)、行号 (n,) -> (n, V) |
# | `greedy_search(score, n, max_len)` | 上面的函数 | n 个编号列表 |
# | `beam_step(score, row, prefixes, totals, beam)` | (k, t)、(k,) | (k, t + 1)、(k,) |
# | `beam_search(score, n, max_len, beam, alpha)` | 上面的函数 | n 个 `Hypothesis` 列表 |
# | `length_penalty(length, alpha)` | 以词元计的长度 | 一个除数 |
# | `translate(model, bpe, sentences)` | n 个句子 | n 个句子 |
# | `bleu(hypotheses, references)` | 词元列表 | 0 到 100 |
#
# ## 小结
#
# 模型给出下一个词的概率，搜索把这些概率变成句子。贪心搜索每次取可能性最大的词，可能错过可能性更大的句子。束搜索留下可能性最大的 $k$ 个前缀，完成的不再增长。$k = 1$ 就是贪心搜索；束宽到能容纳整棵树，就是穷举搜索；在两者之间，平均分数随 $k$ 上升，但不是每个句子都如此。对数概率之和偏爱短句，除以 $((5 + |Y|)/6)^{\alpha}$ 可以纠正。BLEU 是截断的 n 元语法精确率的几何平均，再乘以简短惩罚，计数对整个语料库相加。报告时用 sacrebleu，在去词元化的文本上计算，并附上签名。
#
# ## 延伸阅读
#
# - Sutskever, Vinyals, Le (2014), *Sequence to Sequence Learning with Neural Networks*, arXiv 1409.3215：束宽 2 就已得到大部分好处。
# - Wu et al. (2016), *Google's Neural Machine Translation System*, arXiv 1609.08144：第 7 节，长度惩罚。
# - Koehn, Knowles (2017), *Six Challenges for Neural Machine Translation*, arXiv 1706.03872：束太宽，质量又会下降。
# - Stahlberg, Byrne (2019), *On NMT Search Errors and Model Errors: Cat Got Your Tongue?*, arXiv 1908.10090.
# - Papineni, Roukos, Ward, Zhu (2002), *BLEU: a Method for Automatic Evaluation of Machine Translation*, ACL.
# - Post (2018), *A Call for Clarity in Reporting BLEU Scores*, arXiv 1804.08771.
#
# **作业。** [作业：解码](homework/decoding/decoding.ipynb)：自己写出贪心搜索、束搜索和 BLEU；哪里错了，检查会指出来。
#
# **下一课：** [第 08b 课](08b_cache.ipynb)让搜索变快（可以跳过）；[第 09 课](09_evaluation.ipynb)把一切合在一起：真实的图片说明、真正的模型，以及带签名的 BLEU。

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
# # 06 · 文本
#
# > 文本：句子怎样变成词元编号，再排成批次，又怎样变回文本（论文 5.1 节）。
#
# **学完这一课，你能**
#
# - 把句子变成数，再变回来，一个字母也不丢，粘贴来的文本也一样；
# - 自己动手，从文本里学出字节对编码（BPE），并说清每次合并的理由；
# - 说明为什么词表只能从训练句子里学；
# - 把语料库切成批次，其中填充不到十分之一。
#
# **先修：** 第 04 课（填充、`Batch`），以及 Python 的 `dict` 和 `Counter`；正则表达式用到时会解释。**时间：** 45 分钟；连标有“选读”的部分一起 90 分钟。**论文：** 5.1 节，以及 3.4 节的一句话。
#
# Transformer 只会对数做加法和乘法，不会读字。句子要经过四步才能交给它，这一课把这四步都做出来：
#
# | 步骤 | 例子 | 本页写出的部件 |
# |---|---|---|
# | 一个句子 | `A girl sings.` | |
# | 词元：文本的片段 | `▁A` `▁girl` `▁sing` `s` `.` | `BPE` |
# | 编号：嵌入表的行 | `339 479 732 303 262` | `BPE.encode` |
# | 批次：编号排成的矩阵 | 形状 (B, S) | `token_batches`、`make_batches` |
#
# 表里的编号是真的：第 4 节里折起来的一个单元格会算出来。

# %%
#| export
import heapq
import json
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models

from course.masking import Batch

PAD, BOS, EOS, UNK = range(4)
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")

# %% [markdown]
# 最前面四个编号不对应任何文字，它们是信号：
#
# | 编号 | 显示为 | 意思 | 谁来读 |
# |---|---|---|---|
# | `PAD` = 0 | `<pad>` | 这里什么也没有，只是填充 | 谁也不读：第 04 课的掩码把它遮住了 |
# | `BOS` = 1 | `<s>` | 句子开始 | 解码器，作为它的第一个输入 |
# | `EOS` = 2 | `</s>` | 句子结束 | 编码器要读它，解码器必须写出它 |
# | `UNK` = 3 | `<unk>` | 词表里没有的词 | 用了 BPE，永远没有谁会读到它 |
#
# 下面的演示要用两种句子：一种是课程自带的图片说明（德语和英语）；另一种是单独写的 40 个探针句，拿来充当真实世界里的句子。

# %%
import csv
from statistics import mean
from time import perf_counter

import course
from course.corpora import pairs
from course.homework import check, compare
from course.viz import text as draw

train = pairs("captions", "train")  # list of (German, English)
val = pairs("captions", "val")
probe_file = Path(course.__file__).parents[1] / "assets" / "probe_sentences.tsv"
with open(probe_file, encoding="utf-8") as f:
    probes = [(row["de"], row["en"]) for row in csv.DictReader(f, delimiter="\t")]
german, english = [de for de, _ in train], [en for _, en in train]

assert not set(train) & set(val) and not set(train) & set(probes)
print(f"{len(train)} pairs to train, {len(val)} to validate, {len(probes)} probes; none in common")

# %% [markdown]
# ## 1 · 词：最先想到的办法
#
# **问题：一个词到哪里为止？** 你会说，到空格为止。
#
# **先猜**：`Dr. Wolf's dog can't swim, e.g. here.` 有几个词？自己先数，再看 spaCy 的规则数出几个。`spacy.blank("en")` 给出一条流水线，里面只有这些规则；它是软件包自带的，不用下载任何模型。


# %%
#| export
@cache
def spacy_pipeline(language: str) -> Callable[[str], Iterable[Any]]:
    """Return spaCy's rule-based pipeline for "de" or "en"; needs no model download."""
    import spacy  # takes a second or two, and who only translates cuts no words

    return spacy.blank(language)


def tokenize(text: str, language: str) -> list[str]:
    """Split a sentence into words and punctuation with spaCy's rules; white space is dropped."""
    return [token.text for token in spacy_pipeline(language)(text) if not token.is_space]


# %%
# NBVAL_CHECK_OUTPUT
print(tokenize("Dr. Wolf's dog can't swim, e.g. here.", "en"))
print(tokenize("Der Hund z. B. kann's nicht.", "de"))

# %% [markdown]
# `Dr.` 的点属于这个词，`here` 后面的点却不属于；`can't` 是两个词。这样的规则，每种语言都有人写好了。中文和日文不写空格，光靠规则就不够了。
#
# **词表**（vocabulary）给词编号。给哪些词编号？训练句子里的词，最常见的排在最前；次数相同的，按字母排序。这样，句子还是那些句子，不管以什么次序进来，编号总是一样。这一点很要紧：训练好的模型只认嵌入表的第 57 行，并不认识那个词。


# %%
#| export
class Vocabulary:
    """A two-way table between words and ids; the ids of the special tokens come first.

    Words that it does not hold become UNK. No word becomes another special id, not even "<pad>".
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        words = list(tokens)
        self.tokens = [*SPECIAL_TOKENS, *words]
        self.ids = {word: i for i, word in enumerate(words, start=len(SPECIAL_TOKENS))}
        if len(self.ids) < len(words):
            twice = [t for t, n in Counter(words).items() if n > 1]
            raise ValueError(f"a vocabulary holds each token once; these come twice: {twice[:5]}")

    @classmethod
    def from_sentences(cls, sentences: Iterable[Sequence[str]], min_count: int = 1) -> "Vocabulary":
        """Count the tokens of the training sentences; keep those seen `min_count` times or more."""
        counts = Counter(token for sentence in sentences for token in sentence)
        kept = [t for t, n in counts.items() if n >= min_count]
        return cls(sorted(kept, key=lambda t: (-counts[t], t)))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens."""
        return [self.ids.get(token, UNK) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids."""
        return [self.tokens[i] for i in ids]


# %%
words_de = [tokenize(s, "de") for s in german]
vocabulary_de = Vocabulary.from_sentences(words_de)
backwards = Vocabulary.from_sentences(reversed(words_de))

val_de = [tokenize(de, "de") for de, _ in val]
sentence = ["Ein", "Mann", "trägt", "einen", "Hut", "."]
ids = vocabulary_de.encode(sentence)
assert backwards.tokens == vocabulary_de.tokens, "the order of the sentences must not matter"
assert vocabulary_de.decode(ids) == sentence
assert vocabulary_de.encode(["<pad>", "</s>"]) == [UNK, UNK], "no text may write a special id"
print(f"{len(vocabulary_de)} German words; {sentence} -> {ids}")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 两个老习惯 · 选读
#
# 写给在别处见过转小写和 `min_freq` 的人：这两种做法各有什么代价。

# %% [markdown]
# 以词为单位的词表会丢掉什么？**先猜**：把验证句子编码，再解码，有多少句能原样变回来？如果先把每个词都转成小写呢？如果至少出现十次的词才有编号呢（`min_count=10`，常叫 `min_freq`）？
#
# 这两种老习惯，都是为了缩小词表。我们比的是一个个词，所以丢掉空格在这里不算。


# %%
def exact(vocabulary: Vocabulary, sentences: list[list[str]], prepare=str) -> float:
    """Share of the sentences whose words all come back as they were."""
    back = [vocabulary.decode(vocabulary.encode(map(prepare, words))) for words in sentences]
    return mean(b == words for b, words in zip(back, sentences))


lower = Vocabulary.from_sentences([[w.lower() for w in words] for words in words_de])
often = Vocabulary.from_sentences(words_de, min_count=10)
kept = exact(vocabulary_de, val_de), exact(lower, val_de, str.lower), exact(often, val_de)
assert all(any(w != w.lower() for w in words) for words in val_de)  # so lower-casing loses all
assert kept[0] == 1 and kept[1] == 0 and 0.9 < kept[2] < 0.99
for label, vocabulary, share in zip(
    ("as it is", "lower-cased", "min_count=10"), (vocabulary_de, lower, often), kept
):
    print(f"{label:13} {len(vocabulary):4} words, {share:6.1%} of the sentences come back exactly")

# %% [markdown]
# 一转小写，德语句子必定句句都毁：德语名词要大写，句子的第一个词也要大写。这还不只是好不好看的问题：*der Arm* 是“胳膊”，*arm* 是“穷”。模型如果从不写大写，就只有参考译文也转成小写，得分才会高。这门课保留大写。

# %% [markdown]
# ## 2 · 以词为单位为什么不行
#
# 图片说明全都出自同一套语法和一本小词典，真实的文本可没有这么规整。每个 Python 都自带、篇幅又够大的真实文本只有一份，就是 Python 自己的帮助页面，我们就用它。把里面的词按出现次数排序，画出次数随名次的变化。Zipf 在 1930 年代就注意到，次数大致与名次成反比（1/rank），所以有许多词只出现一次。
#
# **先猜**：把这些页面里**不同的**词都列出来，只出现过一次的占多大比例？

# %%
mine = None  # your guess: a share, 0 to 1

# %%
from pydoc_data.topics import topics

help_words = re.findall(r"[A-Za-z']+", "\n".join(topics[name] for name in sorted(topics)))
help_counts = sorted(Counter(help_words).values(), reverse=True)
caption_counts = sorted(Counter(w for words in words_de for w in words).values(), reverse=True)
once = mean(n == 1 for n in help_counts)
draw.zipf(
    {"Python's help pages (real text)": help_counts, "German captions (a grammar)": caption_counts},
    f"Real text has a long tail: {once:.0%} of its distinct words come once",
)

# %% [markdown]
# 图片说明的曲线在右端突然掉下去：用一套语法写出来的句子，几乎没有罕见的词。真实文本的曲线却一路延伸下去，直到只出现一次的词。在真实文本的十分之九处切一刀：最后十分之一里的词，前面都见过吗？


# %%
def unknown_share(vocabulary: Vocabulary, words: Iterable[str]) -> float:
    """Share of the words that become UNK: the out-of-vocabulary (OOV) rate."""
    ids = vocabulary.encode(words)
    return ids.count(UNK) / len(ids)


at = len(help_words) * 9 // 10
help_unknown = unknown_share(Vocabulary.from_sentences([help_words[:at]]), help_words[at:])
assert once > 0.15 and help_unknown > 0.01
print(f"{once:.0%} of the distinct words come once")
print(f"{help_unknown:.1%} of the words of the last tenth are unknown")
compare(mine, once, "06: words that come once")

# %% [markdown]
# 德语更难办，因为它把复合词连写成一个词，谁都可以造新词：*Kürbissuppenwagen* 是卖南瓜汤的推车。探针句里就有这样的词。其中有多少词，是图片说明的词表不认识的？

# %%
probe_words = [tokenize(de, "de") for de, _ in probes]
val_unknown = unknown_share(vocabulary_de, [w for words in val_de for w in words])
probe_unknown = unknown_share(vocabulary_de, [w for words in probe_words for w in words])
assert val_unknown < 0.01 and probe_unknown > 0.2
compound = next(words for words in probe_words if "Kürbissuppenwagen" in words)
print(f"unknown words: validation {val_unknown:.1%}, probes {probe_unknown:.1%}")
print(" ".join(vocabulary_de.decode(vocabulary_de.encode(compound))))

# %% [markdown]
# 翻译模型没法翻译 `<unk>`。验证句子与训练句子出自同一套语法，所以用验证句子看不出这个问题。这也是一个提醒：测试数据与训练数据太像，测出来的结果就靠不住。
#
# **检查你的理由。** 下一个单元格会提问；用 `check("text_words", "b")` 这样的形式回答。

# %%
check("text_words")

# %% [markdown]
# ### 词表绝不能看验证集和测试集
#
# 要让不认识的词变少，有个简单的办法：把**所有**文件的词都数进来。可这也是在骗自己，叫做**数据泄漏**（leakage）：测试集的东西漏进了训练。下面，没有泄漏的词表只看训练句子，有泄漏的词表还看了探针句。

# %%
honest = Vocabulary.from_sentences(words_de)
leaking = Vocabulary.from_sentences([*words_de, *probe_words])
tested = [w for words in probe_words for w in words]
shares = unknown_share(honest, tested), unknown_share(leaking, tested)
assert shares[0] > 0.2 and shares[1] == 0  # the 0 by construction: it has counted them
print(f"unknown words in the probes: honest {shares[0]:.1%}, leaking {shares[1]:.1%}")

# %% [markdown]
# 一个不认识的词也没有：数字很漂亮，却是假的。将来要翻译的句子，不在你现有的任何文件里；对那些句子来说，算数的是第一个数字。在这门课里，凡是 `learn` 和 `from_sentences`，都只给 `"train"` 这一份，别的都不给。
#
# > **试一试。** 把只有 `leaking` 认识的词按长度排序：`sorted(set(leaking.ids) - set(honest.ids), key=len)[-9:]`。最长的是哪些？
#
# <details><summary>答案</summary>
#
# 一共 147 个词，最长的几乎全是复合词：*Regenbogenpudelmütze*、*Kürbissuppenwagen*、*Wasserflasche*、*Gummistiefeln*、*Gemüsehändler*、*Kuchenformen*（其中也有动词 *hinauftragen* 和外来词 *Skateboarder*）。短的那些并不罕见：*vier*、*müde*、*hat*、*will*。
#
# </details>

# %%
check("text_train_only")

# %% [markdown]
# ## 3 · 从字符开始合并
#
# 另一个极端，是让每个字符自成一个词元。这样几乎不会遇到不认识的词元，词表也极小。代价是序列变长：自注意力要拿每个位置与所有位置相比（第 03 课），所以长度变成五倍，要算的分数就变成 25 倍。
#
# 论文 5.1 节取两者之间：**字节对编码**（byte-pair encoding，Sennrich、Haddow 与 Birch 2016）。从字符开始，找出出现次数最多的一对相邻符号，把它合成一个符号，再找下一对。常见的词会合并成一个词元；罕见的词仍是几块，但每一块都认识。

# %% [markdown]
# ### 3.1 片段：合并不能越过的界限
#
# 如果不加限制，`. A` 很快就会变成一个词元。所以先把文本切成**片段**（piece），合并绝不跨越片段的边界。一个片段是一个词，或者一串标点，连同前面的**一个**空格。片段用**正则表达式**（描述文本的模式）来找：`\w+` 是一串字母和数字（以及 `_`）；`[^\w\s]+` 是一串别的字符，空白除外；` ?` 表示有空格就带上一个；`|` 表示“或”。最后的 `\s` 接住剩下的空白：两个空格中的第一个，或者制表符。
#
# **先猜**：`Ein Hund, zwei Katzen!` 切成几个片段？注意 `Katzen` 前面有两个空格。
#
# 有一类字符要小心。印地语、泰米尔语、带元音符号的希伯来语等，元音写成跟在字母后面的**记号**。`\w` 不把记号当字母，词就会在元音处断开。所以规定：词遇到记号不断开，遇到这些文字所用的两个看不见的连接符（U+200C、U+200D），也不断开。

# %%
#| export
MARKS = "".join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.category(c)[0] == "M")
PIECE = re.compile(rf" ?\w[\w{MARKS}\u200c\u200d]*| ?[^\w\s]+|\s")


def pieces(text: str) -> list[str]:
    """Split text before each word and each run of punctuation; the space goes with what follows.

    Joined, the pieces are the text again: nothing is lost.
    """
    return PIECE.findall(text)


def count_pieces(sentences: Iterable[str]) -> Counter[str]:
    """Count the pieces of sentences; a space before each makes its first word like any other."""
    return Counter(piece for sentence in sentences for piece in pieces(" " + sentence))


# %%
# NBVAL_CHECK_OUTPUT
for text in ("Ein Hund, zwei  Katzen!", "3,50 €\tso", "हिन्दी किताब"):
    assert "".join(pieces(text)) == text, "cutting must lose nothing"
    print(len(pieces(text)), pieces(text))

# %% [markdown]
# > **试一试。** 从 `PIECE` 里去掉 `{MARKS}`。*हिन्दी किताब* 会碎成几个片段？把它放回去，再去掉 ` ?[^\w\s]+|`：*Ein Hund, alt* 会变成什么？
#
# <details><summary>答案</summary>
#
# 去掉记号，原来的 2 个片段就碎成 11 个：每遇到一个元音记号断一次。去掉第二部分，逗号就不属于任何片段，片段拼起来成了 *Ein Hund alt*。“片段拼起来就是原文”，靠的就是这一部分。
#
# </details>
#
# 空格留在文本**里**，放在词的前头。我们像 SentencePiece 那样把它显示成 `▁`；在数据里，它就是普通的空格。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# #### 2016 年的词尾标记 · 选读
#
# 写给在作业里或别处见过 `</w>` 的人：它会丢掉什么。

# %% [markdown]
# 当时先由分词程序把词和标点切开，Sennrich 的程序再在每个词末尾做个标记：`Hund` 变成 `H u n d</w>`，空格就扔掉了。这样会丢掉什么？


# %%
def end_marked(text: str) -> list[str]:
    """Cut words and punctuation apart, then mark the last letter of each: the way of 2016."""
    return [symbol for w in tokenize(text, "de") for symbol in (*w[:-1], w[-1] + "</w>")]


assert end_marked("Ein Hund, alt") == end_marked("Ein Hund , alt"), "two texts, the same symbols"
assert pieces("Ein Hund, alt") != pieces("Ein Hund , alt")
print(end_marked("Ein Hund, alt"))

# %% [markdown]
# 两段不同的文本，变成了同样的符号。分词程序在 BPE **之前**运行，那时就把空格扔掉了，有了词尾标记也补不回来：负责把词重新连起来的程序（detokeniser，去词元化程序）只能猜空格原来在哪里。空格留在里面，就什么也不用猜。

# %% [markdown]
# ### 3.2 亲手做前几次合并
#
# 六个德语词，都与雨（*Regen*）、屏或伞面（*Schirm*）、大衣（*Mantel*）有关，次数是编的。**先猜**：哪一对相邻的字符出现得最多？多少次？一个词出现几次，里面的每一对就算几次。

# %%
mine = None  # your guess: how often the most frequent pair occurs

# %%
rain = {" Regen": 5, " Regenschirm": 4, " Schirm": 2, " Bildschirm": 2}
rain |= {" Regenmantel": 2, " Mantel": 3}


def count_pairs(words: Mapping[tuple[str, ...], int]) -> Counter[tuple[str, str]]:
    """Count the pairs of neighbouring symbols, each word as often as it occurs."""
    counts = Counter()
    for symbols, n in words.items():
        for pair in zip(symbols, symbols[1:]):
            counts[pair] += n
    return counts


letters = {tuple(word): n for word, n in rain.items()}
first = count_pairs(letters)
for pair, n in sorted(first.items(), key=lambda item: (-item[1], item[0]))[:5]:
    print(pair, n)
assert first["e", "g"] == first["g", "e"] == 5 + 4 + 2 and max(first.values()) == 11
compare(mine, max(first.values()), "06: most frequent pair")

# %% [markdown]
# 有好几对次数相同。总得选出一对，而且每台机器都必须选同一对：看字符的 Unicode 编号，选排在最前的那一对。次序是空格、大写字母、小写字母，然后 ß、ä、ö、ü。
#
# 合并一对的意思是：从左到右走过这个词，凡是遇到这一对就连起来。

# %%
#| export
Pair = tuple[str, str]


def merge_pair(symbols: Sequence[str], pair: Pair) -> tuple[str, ...]:
    """Return the symbols with every neighbouring `pair` joined, from the left."""
    merged, i = [], 0
    while i < len(symbols):
        step = 2 if tuple(symbols[i : i + 2]) == pair else 1
        merged.append("".join(symbols[i : i + step]))
        i += step
    return tuple(merged)


# %%
# NBVAL_CHECK_OUTPUT
assert merge_pair("aaa", ("a", "a")) == ("aa", "a"), "from the left, and each symbol once"
print(merge_pair(" Regen", ("e", "n")))

# %% [markdown]
# ### 3.3 完整的算法
#
# 每一轮，设 $n(w)$ 是词 $w$ 的次数，$n_w(a, b)$ 是这一对在词里出现的次数，
#
# $$(a^*, b^*) = \operatorname{argmax}_{(a, b)} \; \sum_{w} n(w) \, n_w(a, b),$$
#
# 然后把每个 $a^* b^*$ 合成一个符号。下面的代码就照这个说法直接写，而且故意写得慢，每一轮都从头数一遍：


# %%
def learn_bpe_slowly(piece_counts: Mapping[str, int], n_merges: int):
    """Return the merges, and the words as they look after each of them."""
    words = {tuple(piece): n for piece, n in piece_counts.items()}
    merges, history = [], [words]
    for _ in range(n_merges):
        counts = count_pairs(words)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = {merge_pair(symbols, best): n for symbols, n in words.items()}
        history.append(words)
    return merges, history


rain_merges, rain_history = learn_bpe_slowly(rain, 100)
symbols_left = [sum(len(w) * n for w, n in words.items()) for words in rain_history]
moments = {f"{k} merges: {symbols_left[k]} symbols": list(rain_history[k]) for k in (0, 5, 10, 15)}
draw.merge_panels(moments, "Merge by merge the list shrinks; what words share becomes one box")

# %% [markdown]
# 图标题里的数是按词频算的：一个词出现几次就算几次。五次合并之后，*Regen* 成了一个符号；十次之后，*schirm* 也是；第 15 次把两者连起来。没有人告诉过算法，德语会用词拼出新词；它能找出这些组成部分，是因为好几个词里都有。它也会找出语法书里根本没有的部分：比如 `chirm`，它是 *Schirm*（大写 S）与 *Bildschirm*、*Regenschirm*（小写 s）共有的最长部分。

# %%
assert all(a > b for a, b in zip(symbols_left, symbols_left[1:])), "each merge shortens the text"
assert all(len(word) == 1 for word in rain_history[-1]), "at the very end each word is one token"
assert rain_merges[4] == (" Rege", "n") and rain_merges[9] == ("s", "chirm")
assert rain_merges[14] == (" Regen", "schirm")
print(f"{len(rain_merges)} merges: {symbols_left[0]} symbols become {symbols_left[-1]}, one a word")
print("the first ten:", ["".join(pair).replace(" ", "▁") for pair in rain_merges[:10]])

# %% [markdown]
# > **试一试。** 让 *Schirm* 出现 20 次：`learn_bpe_slowly(rain | {" Schirm": 20}, 100)`。最先合并的是什么？合并到第几次，` Schirm` 才成为一个符号？
#
# <details><summary>答案</summary>
#
# `c` + `h`，现在这一对出现 20 + 4 + 2 = 26 次。（`h` + `i`、`i` + `r` 和 `r` + `m` 也是这么多次，但按 Unicode 排在后面。）接着是 `chi`、`chir`、`chirm`，再是 ` S`，第 6 次合并把 ` S` + `chirm` 连起来。
#
# </details>

# %% [markdown]
# 在真实的语料库上，如果每一轮都从头数，要花几分钟。折起来的那一节写了 `learn_bpe`，几秒钟就能得到同样的合并。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 3.4 同样的结果，更快 · 选读
#
# 写给想知道怎样几秒钟就学完合并的人：一个索引加一个堆。

# %% [markdown]
# 每次都从头数太浪费：一次合并只影响含有这一对的词。这样的词有多少？**先猜**：把图片说明里不同的词都列出来，含有要合并那一对的占多大比例（取前 60 次合并的平均）？

# %%
caption_pieces = count_pieces([*german, *english])
begun = perf_counter()
slow_merges, history = learn_bpe_slowly(caption_pieces, 60)
slow_seconds = perf_counter() - begun


def holds(symbols: Sequence[str], pair: Pair) -> bool:
    return pair in zip(symbols, symbols[1:])


touched = [mean(holds(w, pair) for w in words) for pair, words in zip(slow_merges, history)]
assert mean(touched) < 0.2
print(f"a merge touches {mean(touched):.1%} of the {len(caption_pieces)} distinct words")

# %% [markdown]
# 所以快的版本不重新数，只随时更新两样东西。一个是**索引**：给出一对，就能查到哪些词含有它，或曾经含有它（后一种词多看一次，结果也不变）。一个是**堆**：一种队列，次数最大的总是最先出来。堆里的条目不能修改：次数变了，就再放进一个新条目；条目出来时，次数如果已经不对，就扔掉。


# %%
#| export
def learn_bpe(piece_counts: Mapping[str, int], n_merges: int) -> list[Pair]:
    """Return the merges that join, again and again, the most frequent pair of neighbours.

    piece_counts: how often each piece occurs. Ties go to the lexicographically smallest pair.
    Stops early when nothing is left to merge. Sennrich et al. 2016, algorithm 1, with an index
    from pairs to words, so that each merge touches only the words that hold it.
    """
    words = [tuple(piece) for piece in piece_counts]
    counts = list(piece_counts.values())
    pair_counts: Counter[Pair] = Counter()
    found_in: defaultdict[Pair, set[int]] = defaultdict(set)

    def count_word(i: int, sign: int) -> None:
        for pair in zip(words[i], words[i][1:]):
            pair_counts[pair] += sign * counts[i]
            found_in[pair].add(i)

    for i in range(len(words)):
        count_word(i, +1)
    queue = [(-n, pair) for pair, n in pair_counts.items()]
    heapq.heapify(queue)
    merges: list[Pair] = []
    while queue and len(merges) < n_merges:
        negative, best = heapq.heappop(queue)
        if -negative != pair_counts[best]:  # out of date: a newer entry waits in the queue
            continue
        merges.append(best)
        changed: set[Pair] = set()
        for i in found_in.pop(best):
            changed.update(zip(words[i], words[i][1:]))
            count_word(i, -1)
            words[i] = merge_pair(words[i], best)
            count_word(i, +1)
            changed.update(zip(words[i], words[i][1:]))
        for pair in changed:
            if pair_counts[pair] > 0:
                heapq.heappush(queue, (-pair_counts[pair], pair))
    return merges


# %% [markdown]
# 代码一求快，最容易藏错，尤其是遇到次数相同的几对，或者像 `aaaa` 这样同一对出现不止一次的词。所以让慢的版本当裁判：先在图片说明上比一遍，再在随机的词上比一遍，随机词只用三个字母，几乎处处次数相同。

# %%
random.seed(0)
begun = perf_counter()
fast_merges = learn_bpe(caption_pieces, 60)
fast_seconds = perf_counter() - begun
assert fast_merges == slow_merges
for _ in range(200):
    drawn = ["".join(random.choices("abc", k=random.randint(1, 9))) for _ in range(6)]
    words = {word: random.randint(1, 3) for word in drawn}
    assert learn_bpe(words, 30) == learn_bpe_slowly(words, 30)[0], words
print("fast and slow agree: 60 merges of the captions, 200 random word lists")
print(f"60 merges: slow {slow_seconds:.2f} s, fast {fast_seconds:.2f} s")

# %% [markdown]
# ## 4 · 编码与解码
#
# 学完，得到一张合并表。要**编码**一个新词，还是从字符开始，按学到的次序做合并：所有能合并的相邻符号里，哪一对最先学到，就先合并哪一对。这个词不必在训练句子里出现过。


# %%
def apply_merges_slowly(piece: str, ranks: Mapping[Pair, int]) -> tuple[str, ...]:
    """The rule as it is said: look at all neighbours, join the best, look again."""
    symbols = list(piece)
    while True:
        neighbours = zip(symbols, symbols[1:])
        known = [(ranks[pair], i) for i, pair in enumerate(neighbours) if pair in ranks]
        if not known:
            return tuple(symbols)
        _, i = min(known)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


# %%
caption_pieces = count_pieces([*german, *english])
caption_merges = learn_bpe(caption_pieces, 60)
ranks = {pair: rank for rank, pair in enumerate(caption_merges)}
rain_ranks = {pair: rank for rank, pair in enumerate(rain_merges)}
for new in (" Regenbild", " Mantelregen"):
    print(new, "->", apply_merges_slowly(new, rain_ranks))

# %% [markdown]
# `▁Regenbild` 从没见过，也不成问题：它照样能切成认识的符号。`▁Mantelregen` 在 `▁Mantel` 之后碎成字母：合并表里的 `▁Regen` 带着空格和大写的 R，别的写法不在表里。
#
# 折起来的那一节写了 `apply_merges`，切出来一样，用时更少。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 超长的词 · 选读
#
# 写给想知道怎样用十分之一秒切开一个 16,000 个字母的词的人。

# %% [markdown]
# 文件损坏时，里面可能有一个 16,000 个字母的词，按前面的规则，就要把所有相邻符号看上几千遍。这里又要靠堆来帮忙：合并一次，变的只是左右相邻的两对。`right` 和 `left` 记着下一个还在的符号在哪里；已经并掉的符号变成 ""。

# %%
#| export
def apply_merges(piece: str, ranks: Mapping[Pair, int]) -> tuple[str, ...]:
    """Return the symbols of a piece: the neighbours whose merge was learned first are joined first.

    ranks: the number of each merge in the order learned. Where the best merge fits twice, the left
    one is done first. The time grows like n log n with the length n.
    """
    symbols, end = list(piece), len(piece)
    left, right = list(range(-1, end - 1)), list(range(1, end + 1))
    pairs = enumerate(zip(symbols, symbols[1:]))
    queue = [(ranks[pair], i) for i, pair in pairs if pair in ranks]
    heapq.heapify(queue)
    while queue:
        rank, i = heapq.heappop(queue)
        j = right[i]
        if j == end or ranks.get((symbols[i], symbols[j])) != rank:
            continue  # out of date: one of the two has been joined since
        symbols[i], symbols[j] = symbols[i] + symbols[j], ""
        right[i] = right[j]
        if right[j] < end:
            left[right[j]] = i
        for start in (left[i], i):
            if start >= 0 and right[start] < end:
                new = ranks.get((symbols[start], symbols[right[start]]))
                if new is not None:
                    heapq.heappush(queue, (new, start))
    return tuple(filter(None, symbols))


# %%
learned = set(history[-1])  # the words as they look after 60 merges
assert {apply_merges(piece, ranks) for piece in caption_pieces} == learned
for piece in [*caption_pieces, *("".join(random.choices("en Rg", k=40)) for _ in range(200))]:
    assert apply_merges(piece, ranks) == apply_merges_slowly(piece, ranks)
print(f"encoding repeats the training on all {len(learned)} distinct pieces of the captions")

# %% [markdown]
# ### 从没见过的字符
#
# 还剩一个漏洞：训练时从没见过的**字符**，比如表情符号、汉字、带罕见重音的字母。**先猜**：词表不能无限增大，`<unk>` 又不许用。还有什么能用来表示任何一个字符？
#
# 用它的字节。在 UTF-8 里，Unicode 的 150,000 多个字符，每个都写成一到四个字节，而不同的字节只有 256 个。给每个字节一个编号，没有编号的字符就用字节拼出来：这叫**字节回退**（byte fallback）。

# %%
# NBVAL_CHECK_OUTPUT
for character in "aß猫🙂":
    print(character, [f"<0x{byte:02X}>" for byte in character.encode("utf-8")])

# %% [markdown]
# 编号只看位置，从不看拼写：先是 4 个特殊词元，再是 256 个字节，然后是字母表里的字符，最后是合并。为什么这很重要？文本里可能恰好有 `<0x41>` 这六个字符，或者 `<pad>` 这五个字符。如果按名字去查，这样的文本就会变成一个字节或填充，写文本的人就能把控制信号塞进模型。这里不会出这种事：文本只会变成符号（编号从 260 起），遇到不认识的字符，就变成它的字节（编号 4 到 259）。不管什么文本，都得不到编号 0 到 3。
#
# 下一个单元格把这些位置固定下来；合并表如果不可能成立，就报错。单元格里其余的代码，下面折起来的部分要用到。

# %%
#| export
FIRST_BYTE = len(SPECIAL_TOKENS)
FIRST_SYMBOL = FIRST_BYTE + 256
BYTE_NAMES = tuple(f"<0x{byte:02X}>" for byte in range(256))
CACHED_PIECES = 100_000
OLD_PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s")  # of tokenisers that do not normalise


def check_merges(alphabet: Iterable[str], merges: Iterable[Pair]) -> None:
    """Raise ValueError if the alphabet holds more than characters, or a merge can never happen."""
    known = set(alphabet)
    for character in known:
        if len(character) != 1:
            raise ValueError(f"the alphabet holds {character!r}, which is not one character")
    for number, pair in enumerate(merges):
        for part in pair:
            if part not in known:
                raise ValueError(f"merge {number}, {pair}: nothing before it makes {part!r}")
        known.add("".join(pair))


# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 一个字母，一种写法 · 选读
#
# 写给会从各处粘贴文本的人：看上去一样，写法可能不同，模型翻译的就成了另一段文本。
#
# 人们会从网页、PDF 和文件名里粘贴文本。这样的文本看上去和平常一样，其实不同。`ä` 可能是一个字符，也可能是两个（`a` 加一个记号）；空格可能是不换行空格、制表符，或者两个空格；**软连字符**（标出**可以**换行的地方）和**零宽**字符根本看不见。模型从没学过这些写法：在它眼里，这是别的词。代价有多大？用课程自带的模型，贪心解码，翻译 Multi30k 测试集的 300 句：
#
# | 源文本 | 不用 `normalise` 的 BLEU | 用了以后 |
# |---|---|---|
# | 原样 | 42.2 | 42.2 |
# | 拆开写：`ä` 写成 `a` 加记号 | 32.8 | 42.2 |
# | 第一个空格换成不换行空格 / 制表符 | 34.0 / 33.1 | 42.2 |
# | 最长的词里有一个软连字符 | 32.7 | 42.2 |
# | 除第一个词外，每个词前有一个零宽空格 | 0.2 | 42.2 |
# | 每个空格都写两个 | 32.7 | 42.2 |
# | 每个空格都换成不换行空格 | 1.8 | 42.2 |
#
# 所以，无论训练还是使用，文本进来时都先**规范化**，分四步：
#
# 1. 把字母和它的记号合成一个字符（Unicode 把这种形式叫做 NFC）；
# 2. 去掉没有宽度的东西：软连字符、零宽字符、书写方向的标记。连接符 U+200C 和 U+200D 有意义时要保留：从阿拉伯文到藏文的各种文字，字符之间的这两种都保留；两个表情符号之间的，保留 U+200D（一只狗加一件背心，就是一只导盲犬）；
# 3. 再合成一次，因为第 2 步可能让字母和它的记号碰到了一起；
# 4. 把每串空白（制表符和换行也是空白）变成一个空格，两端不留空格。

# %%
#| export
UNSEEN = re.compile(  # joiners that carry meaning (group 1), or what has no width
    "((?<=[\u0600-\u0fff])[\u200c\u200d](?=[\u0600-\u0fff])"
    "|(?<=[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])\u200d(?=[\u2190-\u2bff\U0001f000-\U0001faff]))"
    "|[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)


def normalise(text: str) -> str:
    """Return text in one spelling: NFC, one space between words, nothing that has no width.

    U+200D stays inside emoji, U+200C and U+200D stay inside words of the scripts from Arabic to
    Tibetan. Done twice it changes nothing more.
    """
    seen = UNSEEN.sub(r"\1", unicodedata.normalize("NFC", text))
    return " ".join(unicodedata.normalize("NFC", seen).split())


# %%
plain = "Ein Mädchen läuft über die Straße."
pasted = {
    "decomposed": unicodedata.normalize("NFD", plain), "no-break": plain.replace(" ", "\u00a0"),
    "tab": plain.replace(" ", "\t", 1), "soft hyphen": plain.replace("Mäd", "Mäd\u00ad"),
    "zero width": plain.replace(" ", " \u200b"), "two blanks": plain.replace(" ", "  "),
}
assert all(text != plain == normalise(text) for text in pasted.values())
assert normalise("🐕\u200d🦺 a\u200db") == "🐕\u200d🦺 ab"
print("six other spellings become the same text")

# %% [markdown]
# > **试一试。** 在 `normalise` 里，把第一个 `"NFC"` 改成 `"NFKC"`。这种形式还会把一些字符换成**差不多**的字符。`3 m² ﬁnden` 会变成什么？其中的 `ﬁ` 是一个字符，PDF 就是这样写的。
#
# <details><summary>答案</summary>
#
# `3 m2 finden`。后一半改好了，前一半却改坏了：平方米写作 m²，不是“m2”，而且 `decode` 没法把 ² 找回来。所以这门课用 NFC，它绝不改变读出来的内容。
#
# </details>

# %%
check("text_normalise")

# %% [markdown]
# 现在来看这个类。从 `encode` 和 `decode` 读起，其余的都是为它们作准备。语料库里的词大多会重复，所以 `cache` 把见过的片段的编号存下来；存满 100,000 个片段就清空，免得运行久了占满内存。


# %%
#| export
class BPE:
    """A byte-pair encoder whose `decode(encode(text))` is `normalise(text)`, whatever the text.

    A character that training never saw is spelled in its UTF-8 bytes, so UNK never occurs.
    alphabet: the characters that have ids of their own; merges: in the order learned. Ids: special
    tokens, 256 bytes, alphabet, merges; `names` shows each of them. `normalises` is False for a
    tokeniser stored before there was `normalise`: it takes text as it comes, and cuts words at
    marks. Raises ValueError for merges that can never happen.
    """

    def __init__(
        self, alphabet: Iterable[str], merges: Iterable[Pair], normalises: bool = True
    ) -> None:
        self.normalises = normalises
        self.alphabet = sorted(set(alphabet))
        self.merges = list(dict.fromkeys((left, right) for left, right in merges))
        check_merges(self.alphabet, self.merges)
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        # two different merges can spell the same symbol: it has one id
        self.symbols = list(dict.fromkeys([*self.alphabet, *map("".join, self.merges)]))
        self.ids = {symbol: i for i, symbol in enumerate(self.symbols, start=FIRST_SYMBOL)}
        shown = (symbol.replace(" ", "▁") for symbol in self.symbols)
        self.names = [*SPECIAL_TOKENS, *BYTE_NAMES, *shown]
        self.cache: dict[str, list[int]] = {}

    @classmethod
    def learn(cls, sentences: Iterable[str], vocab_size: int, min_char_count: int = 2) -> "BPE":
        """Learn at most `vocab_size` tokens from training sentences.

        Characters seen fewer than `min_char_count` times are left to the bytes. Raises ValueError
        if `vocab_size` cannot hold special tokens, bytes and alphabet.
        """
        if isinstance(sentences, str):
            raise TypeError("BPE.learn needs a list of sentences; this is one string")
        piece_counts = count_pieces(map(normalise, sentences))
        characters: Counter[str] = Counter()
        for piece, n in piece_counts.items():
            for character in piece:
                characters[character] += n
        alphabet = {c for c, n in characters.items() if n >= min_char_count}
        basis = FIRST_SYMBOL + len(alphabet)
        if vocab_size < basis:
            raise ValueError(
                f"vocab_size={vocab_size} is too small: special tokens, bytes and the alphabet "
                f"alone take {basis}"
            )
        known = {p: n for p, n in piece_counts.items() if alphabet.issuperset(p)}
        return cls(alphabet, learn_bpe(known, vocab_size - basis))

    def __len__(self) -> int:
        return len(self.names)

    def split(self, piece: str) -> tuple[str, ...]:
        """Return the symbols of one piece: the merges applied in the order they were learned."""
        return apply_merges(piece, self.ranks)

    def symbol_ids(self, symbol: str) -> list[int]:
        """Return the id of a symbol, or those of its bytes if it has none."""
        if symbol in self.ids:
            return [self.ids[symbol]]
        return [FIRST_BYTE + byte for byte in symbol.encode("utf-8")]

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a sentence as `encode` cuts it, a space before the first word."""
        if self.normalises:
            return pieces(" " + normalise(text))
        return OLD_PIECE.findall(" " + text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a sentence, without BOS and EOS."""
        ids: list[int] = []
        for piece in self.pieces(text):
            if piece not in self.cache:
                if len(self.cache) >= CACHED_PIECES:
                    self.cache.clear()
                self.cache[piece] = [i for s in self.split(piece) for i in self.symbol_ids(s)]
            ids += self.cache[piece]
        return ids

    def tokens(self, text: str) -> list[str]:
        """Return the sentence cut into its tokens, for the eye; a space shows as ▁."""
        return [self.names[i] for i in self.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens are skipped, broken bytes become U+FFFD.

        Raises ValueError for a number that is no id.
        """
        raw = bytearray()
        for i in ids:
            if not 0 <= i < len(self):
                raise ValueError(f"{i} is no id: this tokeniser has ids 0 to {len(self) - 1}")
            if i >= FIRST_SYMBOL:
                raw += self.symbols[i - FIRST_SYMBOL].encode("utf-8")
            elif i >= FIRST_BYTE:
                raw.append(i - FIRST_BYTE)
        return raw.decode("utf-8", errors="replace").removeprefix(" ")

    def save(self, path: Path) -> None:
        """Write the tokeniser as JSON."""
        content = {"alphabet": self.alphabet, "merges": self.merges}
        if self.normalises:
            content["normalise"] = True
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "BPE":
        """Read a tokeniser that `save` wrote; raises ValueError if the file is none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            return cls(content["alphabet"], content["merges"], content.get("normalise", False))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no tokeniser as BPE.save writes it ({type(error).__name__}: {error}). "
                "Copy it again; a trained model needs the tokeniser that it was trained with"
            ) from error


# %%
bpe = BPE.learn([*german, *english], vocab_size=1000)
text = "Ein Mann verkauft heiße Kürbissuppe."
ids = bpe.encode(text)
assert bpe.decode(ids) == text and UNK not in ids
assert len(bpe) == 1000 and max(ids) < 1000
assert bpe.encode("A girl sings.") == [339, 479, 732, 303, 262], "the table at the top of the page"
largest = BPE.learn([*german, *english], vocab_size=5000)  # as many as the captions can fill
print(text, "->", ids)
print(bpe.tokens(text))

# %% [markdown]
# 大写字母一个没丢，也没有 `<unk>`。常见的词是一个词元（`▁Ein`、`▁Mann`）；*Kürbissuppe*（南瓜汤）没有在图片说明里出现过，就用几个小块来拼。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 一个复合词的形成 · 选读
#
# 写给想看 *Regenschirm* 怎样一次次合并、最后成为一个词元的人。

# %% [markdown]
# 常出现的复合词，怎样长成一个词元？下一幅图用 *Regenschirm*（雨伞）把训练重放一遍。**先猜**：它是由 *Regen* + *schirm* 拼成的吗？


# %%
def grow(piece: str, bpe: BPE) -> list[tuple[str, tuple[str, ...]]]:
    """Return (label, symbols) for each merge that changed the piece, in the order learned."""
    symbols = tuple(piece)
    stages = [("characters", symbols)]
    for number, pair in enumerate(bpe.merges, start=1):
        joined = merge_pair(symbols, pair)
        if joined != symbols:
            symbols = joined
            stages.append((f"merge {number}", symbols))
    return stages


stages = grow(" Regenschirm", largest)
parts = "one token" if len(stages[-1][1]) == 1 else f"{len(stages[-1][1])} tokens"
draw.build_up(stages, f"Regenschirm grows from {len(stages[0][1])} characters to {parts}")

# %%
assert stages[-1][1] == largest.split(" Regenschirm"), "replaying the training and encoding agree"
assert [len(s) for _, s in stages] == sorted([len(s) for _, s in stages], reverse=True)
family = sorted(piece for piece in caption_pieces if "schirm" in piece.lower())
assert (" Regen", "schirm") not in largest.merges and len(family) == 2
print(f"{len(stages) - 1} merges; the last one joins {stages[-2][1]}")
print("pieces of the captions that hold -schirm:", family)

# %% [markdown]
# 不是 *Regen* + *schirm*，这与我们那张小表不同。小表里还有 *Schirm* 和 *Bildschirm*，看得出接缝在哪里。图片说明里的 *schirm* 只在 *Regenschirm(e)* 里出现，接缝就看不出来了：常见的 `en`、`ch`、`ir` 合并好之后，剩下的相邻符号次数几乎一样，只好由 Unicode 编号的次序来决定。BPE 只会数数，不懂语法。

# %% [markdown]
# ### 恒等：除了写法，什么也不变
#
# 折起来的部分把这些功能合成一个类 `BPE`。它先把文本**规范化**，再切分：ü 统一成一种编码，连续的空格合并成一个，首尾不留空格。我们的 `bpe` 有 1,000 个词元，是从图片说明里学来的。
#
# 这一节的保证是：对**任何** Unicode 文本 $t$，都有 $\operatorname{decode}(\operatorname{encode}(t)) = \operatorname{normalise}(t)$。下面专门挑了一些文本来考验它：从没见过的字符，各种空格，自成一个字符的重音记号，以及看上去像我们自己的控制信号的文本。
#
# **先猜**：其中哪一个需要的词元最多？

# %%
mine = None  # "emoji", "Chinese", "combining marks", "Arabic" or another label below

# %%
nasty = {
    "empty": "", "one space": " ", "spaces at both ends": "  Hund ", "double space": "ein  Hund",
    "tab, line end": "ein\tHund\r\n", "no-break space": "3\u00a0km", "emoji": "Ein Hund 🐕‍🦺!",
    "Chinese": "一个女孩在笑。", "combining marks": "u\u0308 e\u0301 = ü é", "Arabic": "كلب",
    "a name of ours": "<pad></s><unk>", "a byte's name": "<0x41> <0xFF>", "our sign": "▁Ein ▁",
    "replacement": "\ufffd", "zero byte": "a\x00b", "highest": "\U0010ffff",
}
for label, text in nasty.items():
    ids = bpe.encode(text)
    assert bpe.decode(ids) == normalise(text), label
    assert all(i > UNK for i in ids), f"{label}: no text may write a special id"
    print(f"{label:20} {text!r:28} {len(ids):3} tokens")
compare(mine, max(nasty, key=lambda label: len(bpe.encode(nasty[label]))), "06: most tokens")

# %% [markdown]
# 空文本也有一个词元，就是 `encode` 放在前面的空格。七个汉字（连标点）要 22 个词元：每个字符三个字节。词表是从德语和英语学来的，用在中文上很不好，序列会变长，但绝不会出错。
#
# 这一课的测试让机器去搜索违反这条保证的文本（`hypothesis`），一个也没有找到。只有一个限制：Python 字符串里可能有半个**代理对**（surrogate pair），它不是 Unicode 文本，也没法写成 UTF-8。遇到它，`encode` 会抛出 `UnicodeEncodeError`。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 反过来 · 选读
#
# 写给想问这个问题的人：有的编号序列不对应任何文本，`decode` 拿到了怎么办？

# %% [markdown]
# 反过来，恒等并不成立，也不必成立：同一段文本，可以由许多编号序列解码得到；模型还可能写出不对应任何文本的序列，比如半个字符。这时 `decode` 显示 U+FFFD，即替换字符，然后继续。

# %%
h, u = bpe.ids["H"], bpe.ids["u"]
broken = bpe.decode([h, FIRST_BYTE + 0xC3, u])
assert broken == "H\ufffdu"
assert bpe.decode([BOS, h, PAD, u, EOS]) == "Hu", "special tokens say nothing"
assert bpe.encode(bpe.decode([h, u])) != [h, u], "other ids, the same text"
print("half a character:", broken)

# %% [markdown]
# ## 5 · 两种语言，一个词表
#
# 论文给英语和德语**合起来**学一个词表，约 37,000 个词元（5.1 节）。这样，3.4 节的做法才可行：源语言的嵌入、目标语言的嵌入、softmax 之前的矩阵，三者是同一个。而且，名字、数字和两种语言写法相同的词（*warm*、*blond*），在两边是同一个词元，照抄就很容易。德语的 *Ball* 和英语的 *ball* 却沾不到这个光：在词元化程序看来，大写字母是另一个字母。
#
# **先猜**：图片说明用到 587 个词元。其中有多少是两种语言都用的？

# %%
mine = None  # your guess: a number of tokens

# %%
used_de = {i for sentence in german for i in bpe.encode(sentence)}
used_en = {i for sentence in english for i in bpe.encode(sentence)}
both = sorted(used_de & used_en)
longer = [bpe.names[i] for i in both if len(bpe.names[i]) > 3 and bpe.names[i][0] == "▁"]
assert used_de - used_en and used_en - used_de and len(both) > 30
assert len(longer) < len(both) / 10 and len(used_de | used_en) == 587
assert any(" an " in s for s in german) and any(" an " in s for s in english)
only_de, only_en = len(used_de - used_en), len(used_en - used_de)
print(f"German only {only_de}, English only {only_en}, both {len(both)}")
print("begun by a space and three letters or more:", longer)
compare(mine, len(both), "06: tokens of both languages")

# %% [markdown]
# 共用的词元大多是单个字符和很短的片段。而且，词元相同不等于意思相同：`▁an` 在德语里是“在……旁”，在英语里是冠词。
#
# 共用一个词表也有代价：一张表的行要分给两种语言用。而且这张表很大：取 $d_{\mathrm{model}} = 512$，37,000 行就有 19M 个参数（M 表示百万），而我们的 base 模型这时一共才 63M（第 05 课）。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 6 · 合并多少次？· 选读
#
# 写给要选词表大小的人：每次合并能省下多少，两种语言分开看。

# %% [markdown]
# 合并是一次接一次学到的，所以较小的词表就是较大的词表的开头：学一次，再把表截短就行。选哪种大小，都要有所取舍。词元越多，序列越短，但嵌入表越大，而且有些行用到的次数太少，学不好。
#
# **先猜**：一次也不合并，一个句子有多少词元？曲线最后停在哪里？

# %%
basis = FIRST_SYMBOL + len(largest.alphabet)  # special tokens, bytes, characters: no merge yet
larger = [n for n in (350, 420, 500, 600, 800, 1000, 1500) if basis < n < len(largest)]
sizes = [basis, *larger, len(largest)]


def mean_length(bpe: BPE, sentences: Sequence[str]) -> float:
    return mean(len(bpe.encode(sentence)) for sentence in sentences)


nested = [BPE(largest.alphabet, largest.merges[: n - basis]) for n in sizes]
lengths = {
    "German": [mean_length(b, [de for de, _ in val]) for b in nested],
    "English": [mean_length(b, [en for _, en in val]) for b in nested],
}
floor = {
    "German": mean(len(pieces(" " + de)) for de, _ in val),
    "English": mean(len(pieces(" " + en)) for _, en in val),
}
title = "The first merges shorten the text most; the last ones hardly"
draw.trade_off(sizes, lengths, floor, title)

# %% [markdown]
# 我们要的是 5,000 个词元，学习却提前停了：图片说明的词太少，每个词都已变成一个词元，没有什么可合并了。真实文本里不会这样。用 Multi30k 的 29,000 个句对来学，5,000 个词元的词表能装满，长尾里的罕见词也仍要切成几块。

# %%
assert bpe.merges == largest.merges[: len(bpe.merges)], "a smaller vocabulary is a beginning"
for language, means in lengths.items():
    assert all(a >= b for a, b in zip(means, means[1:])), "more merges, no longer text"
    gain_first = (means[0] - means[1]) / (sizes[1] - sizes[0])  # tokens saved by each merge
    gain_last = (means[-2] - means[-1]) / (sizes[-1] - sizes[-2])
    assert gain_first > 10 * gain_last and means[-1] >= floor[language]
    print(f"{language}: {means[0]:.1f} tokens at {sizes[0]}, {means[-1]:.1f} at {sizes[-1]}")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 6.1 词、词元、字符 · 选读
#
# 写给想知道这两件事的人：没见过的文本切出来有多长，数据泄漏怎样通过词元化程序发生。

# %% [markdown]
# 现在用探针句来看长度本身，句里的词，词元化程序大多没见过。**先猜**：哪种语言的字符更多，哪种语言的词更多？

# %%
panels = {
    language: {
        "words": [len(tokenize(s, code)) for s in sentences],
        "BPE": [len(bpe.encode(s)) for s in sentences],
        "characters": [len(s) for s in sentences],
    }
    for language, code, sentences in (
        ("German", "de", [de for de, _ in probes]),
        ("English", "en", [en for _, en in probes]),
    )
}
draw.length_histograms(panels, "BPE lies between words and characters, for unseen text too")

# %%
averages = {name: {cut: mean(n) for cut, n in cuts.items()} for name, cuts in panels.items()}
for name, cuts in averages.items():
    assert cuts["words"] < cuts["BPE"] < 0.75 * cuts["characters"]
    print(name, {cut: round(n, 1) for cut, n in cuts.items()})
assert averages["German"]["words"] < averages["English"]["words"]
assert averages["German"]["characters"] > averages["English"]["characters"]

# %% [markdown]
# 德语的词比英语少，字符却比英语多：还是因为复合词。没见过的文本会切出许多词元，但每个都认识：前面以词为单位时，有一部分成了 `<unk>`；用 BPE，一个也没有。

# %%
probe_sides = [sentence for pair in probes for sentence in pair]
leaking_bpe = BPE.learn([*german, *english, *probe_sides], vocab_size=5000)
honest_ids = [i for sentence in probe_sides for i in largest.encode(sentence)]
leaked_ids = [i for sentence in probe_sides for i in leaking_bpe.encode(sentence)]
assert UNK not in honest_ids and all(largest.decode(largest.encode(s)) == s for s in probe_sides)
assert len(leaked_ids) < 0.9 * len(honest_ids)
print(f"unknown in the probes: words {probe_unknown:.1%}, BPE {honest_ids.count(UNK)}")
print(f"their tokens: {len(honest_ids)} honest, {len(leaked_ids)} if they leak into the learning")

# %% [markdown]
# 第二行又是数据泄漏，这次更不起眼。词元化程序看没看过测试集，都没有不认识的词元；但看过以后，它把测试集切得块数更少，也更合理，换成新文本，就切不了这么好。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 7 · 与现成的库比：结果相同 · 选读
#
# 写给想要旁证，或者要用 `tokenizers` 的人：生产环境里用的库，给出的编号完全相同。

# %% [markdown]
# 我们的 BPE 对吗？`tokenizers` 库用 Rust 写成，在生产环境里使用；给它同样的合并，它必须给出同样的编号。它切片段有自己的规则，所以我们把切好的片段给它（`is_pretokenized=True`），其余的由它来做。


# %%
#| export
def to_tokenizers(bpe: BPE) -> Tokenizer:
    """Return the same tokeniser from the `tokenizers` library, with the same ids.

    Feed it our pieces: `encode(bpe.pieces(text), is_pretokenized=True).ids`. Raises ValueError if a
    symbol is spelled like a special token or a byte, for the library knows tokens by their names.
    """
    names = [*SPECIAL_TOKENS, *BYTE_NAMES, *bpe.symbols]
    ids = {name: i for i, name in enumerate(names)}
    if len(ids) < len(names):
        twice = sorted({*SPECIAL_TOKENS, *BYTE_NAMES} & set(bpe.symbols))
        raise ValueError(f"the library cannot tell these symbols from special ones: {twice[:5]}")
    tokenizer = Tokenizer(models.BPE(ids, bpe.merges, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


# %%
fast = to_tokenizers(bpe)


def library_ids(text: str) -> list[int]:
    return fast.encode(bpe.pieces(text), is_pretokenized=True).ids


tried = [*german, *english, *(de for de, _ in probes), *nasty.values()]
assert all(library_ids(text) == bpe.encode(text) for text in tried)
assert all(fast.decode(library_ids(text)) == normalise(text) for text in tried)
print(f"the same ids for {len(tried)} texts, nasty ones among them")

# %% [markdown]
# 两者各有多快？秒数取决于你的机器，所以这里不作断言。比较三种文本：一是图片说明，同样的词一再出现；二是 Python 帮助页面里的词，去掉重复，个个都是新的；三是编造的词，每个长 1,000 个字母，损坏的文件里就有这样的词。


# %%
def per_second(encode, texts: Sequence[str]) -> float:
    """How many texts are encoded in a second, from an empty cache."""
    bpe.cache.clear()
    begun = perf_counter()
    for text in texts:
        encode(text)
    return len(texts) / (perf_counter() - begun)


endless = ["".join(random.choices("aeinrst", k=1000)) for _ in range(5)]
new_words = sorted(set(help_words))
for label, texts in (("captions", german), ("new words", new_words), ("endless words", endless)):
    ours, theirs = per_second(bpe.encode, texts), per_second(library_ids, texts)
    print(f"{label:14} a second: ours {ours:10,.0f}, tokenizers {theirs:10,.0f}")

# %% [markdown]
# 对普通句子，纯 Python 已经够快：重复的词直接从缓存里取，而库的每次调用都有自己的开销。对新词和超长的词，库更快：它和 `apply_merges` 一样用队列，而且是编译好的代码。它还能用上所有的核心（`encode_batch`）。这门课用自己的版本：文本经过了哪些处理，你都看得到。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 8 · 保存 · 选读
#
# 写给要保存模型的人：模型旁边还必须放什么。

# %% [markdown]
# 训练好的模型，离了自己的词元化程序就毫无用处：嵌入的第 57 行，代表的是训练时的第 57 号词元。所以两者存在同一个文件夹里。要写下什么？只要字母表、按次序排列的合并，以及文本要不要规范化。有了这些，别的都能推出来。

# %%
from tempfile import TemporaryDirectory

with TemporaryDirectory() as directory:
    path = Path(directory, "tokenizer.json")
    bpe.save(path)
    again = BPE.load(path)
    assert again.names == bpe.names and again.encode(german[0]) == bpe.encode(german[0])
    path.write_text(path.read_text(encoding="utf-8")[:-300], encoding="utf-8")  # a broken copy
    try:
        BPE.load(path)
        raise AssertionError("half a file was accepted")
    except ValueError as error:
        print("half a file:", type(error).__name__, "that names it:", path.name in str(error))

# %% [markdown]
# ## 9 · 从编号到批次
#
# 两侧的每个句子都加上 `EOS`，但理由不同。**目标句**加上它，解码器才能学会写它；不会写，就永远停不下来。**源句**加上它，编码器才知道句子在哪里结束，也才能区分完整的句子和截断的句子。`BOS` 由 `Batch`（第 04 课）放在最前面，只用于解码器的输入。

# %%
#| export
Example = tuple[list[int], list[int]]


def encode_sentence(bpe: BPE, sentence: str) -> list[int]:
    """Return a sentence as token ids, ending in EOS."""
    return [*bpe.encode(sentence), EOS]


def encode_pairs(bpe: BPE, pairs: Iterable[Pair]) -> list[Example]:
    """Return each sentence pair as token ids, both sides ending in EOS."""
    return [(encode_sentence(bpe, src), encode_sentence(bpe, tgt)) for src, tgt in pairs]


# %%
examples = encode_pairs(bpe, train)
assert all(src[-1] == EOS == tgt[-1] for src, tgt in examples)
assert all(EOS not in src[:-1] and EOS not in tgt[:-1] for src, tgt in examples)
src, tgt = examples[0]
assert (bpe.decode(src), bpe.decode(tgt)) == train[0]
print(f"{len(examples)} examples, each side with one EOS, at its end")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 一个陷阱：截短的句子 · 选读
#
# 写给必须限制句子长度的人：什么不能丢。

# %% [markdown]
# 有些程序把长句截到最大长度。`ids[:n]` 会把 `EOS` 一起切掉，模型就会从这样的例子里学到：写满 $n$ 个词元，句子还没有结束。怎样做才对？


# %%
def shorten(ids: list[int], longest: int) -> list[int]:
    """Return at most `longest` ids, the last of them EOS."""
    return ids if len(ids) <= longest else [*ids[: longest - 1], EOS]


long = max((src for src, _ in examples), key=len)
assert long[:10][-1] != EOS, "plain slicing loses the end of the sentence"
assert len(shorten(long, 10)) == 10 and shorten(long, 10)[-1] == EOS
assert shorten(long, 1000) == long
for label, ids in (("sliced", long[:10]), ("right", shorten(long, 10))):
    print(f"{label:7}", *(bpe.names[i] for i in ids))

# %% [markdown]
# 这门课从不截短：源句一截短，意思就和目标句对不上了。句子放不下，就报一个说得清楚的错误，由你来决定。

# %% [markdown]
# ### 填充占多少？
#
# 批次是一个矩阵，每行一个句子，宽度等于其中最长句子的长度。填充花的时间和正文一样多，模型却从中什么也学不到。一个批次有 $n$ 个句对，源句长度为 $s_i$，目标句长度为 $t_i$，浪费的比例是
#
# $$
# \operatorname{waste} = 1 - \frac{\sum_i (s_i + t_i)}{n \left( \max_i s_i + \max_i t_i \right)},
# $$
#
# 计算一个轮次（epoch）的比例，就把分子和分母各自对所有批次求和。
#
# **先猜**：每批 64 句，次序随机，填充占多少？如果像 *The Annotated Transformer* 那样，不管多长，每句都补到 72 个词元呢？

# %%
mine = None  # your guess: the share of padding in random order, 0 to 1

# %%
sizes_of = [(len(src), len(tgt)) for src, tgt in examples]


def waste(batches: Sequence[Sequence[int]], width: int | None = None) -> float:
    """Share of padding in an epoch; each batch as wide as its longest sentence, or as `width`."""
    real = rectangle = 0
    for batch in batches:
        real += sum(sum(sizes_of[i]) for i in batch)
        longest = [width or max(sizes_of[i][side] for i in batch) for side in (0, 1)]
        rectangle += len(batch) * sum(longest)
    return 1 - real / rectangle


def in_rows(order: Sequence[int], n: int = 64) -> list[Sequence[int]]:
    """Cut an order into batches of n."""
    return [order[i : i + n] for i in range(0, len(order), n)]


anyhow = random.Random(0).sample(range(len(examples)), len(examples))
by_source = sorted(range(len(examples)), key=lambda i: sizes_of[i][0])
by_both = sorted(range(len(examples)), key=lambda i: sizes_of[i][::-1])  # target, then source
rows = in_rows(anyhow)
print(f"random order: {waste(rows):.0%}; all padded to 72: {waste(rows, 72):.0%}")
compare(mine, waste(rows), "06: padding in random order")

# %% [markdown]
# 长度相近的句子应该放在一起。论文也是这样做的（5.1 节）。还有一点：论文固定的不是一个批次的**句子**数，而是**词元**数，每一侧约 25,000。这样，一批长句和一批短句，计算量一样大，内存也占得一样多。这就是**词元预算**（token budget）：
#
# $$n \cdot \max\left(\max_i s_i, \; \max_i t_i\right) \le \text{max tokens}.$$
#
# 先按目标句长度、再按源句长度排序，然后一个批次一个批次地装满。训练还需要随机性：用一个种子，先在长度相同的句子之间打乱，再打乱批次的次序。


# %%
#| export
def token_batches(
    lengths: Sequence[int] | Sequence[Sequence[int]], max_tokens: int, seed: int | None = None
) -> list[list[int]]:
    """Cut a corpus into batches of similar lengths, each at most `max_tokens` after padding.

    lengths: of each example, a number or a (source, target) pair; a batch of n examples costs n
    times its longest. Returns lists of indices; with a `seed`, ties and the order of the batches
    are shuffled. Every index comes exactly once. Raises ValueError for an example that alone is
    longer than `max_tokens`.
    """
    sizes = [(n,) if isinstance(n, int) else tuple(n) for n in lengths]
    shuffle = random.Random(seed)
    order = list(range(len(sizes)))
    if seed is not None:
        shuffle.shuffle(order)
    order.sort(key=lambda i: sizes[i][::-1])
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        size = max(sizes[i])
        if size > max_tokens:
            raise ValueError(
                f"example {i} has {size} tokens, more than max_tokens={max_tokens}: "
                "raise max_tokens, or leave the example out"
            )
        longest = max(longest, size)
        if not batches or (len(batches[-1]) + 1) * longest > max_tokens:
            batches.append([])
            longest = size
        batches[-1].append(i)
    if seed is not None:
        shuffle.shuffle(batches)
    return batches


# %%
budget = token_batches(sizes_of, max_tokens=1600, seed=0)
once_each = sorted(i for batch in budget for i in batch)
assert once_each == list(range(len(examples))), "each index exactly once"


def costs(batches: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of each batch after padding: its sentences times the longest of them."""
    return [len(batch) * max(max(sizes_of[i]) for i in batch) for batch in batches]


assert max(costs(budget)) <= 1600 and waste(budget) < 0.10, "less than a tenth is padding"
print(f"{len(budget)} batches of {min(map(len, budget))} to {max(map(len, budget))} sentences")
print(f"the most expensive batch: {max(costs(budget))} of 1600 tokens; {waste(budget):.1%} padding")

# %%
check("text_budget")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 这些办法各起什么作用？· 选读
#
# 写给想看对照的人：排序起什么作用，预算起什么作用。

# %%
schemes = {
    "all padded to 72": waste(in_rows(anyhow), 72),
    "random order, 64 sentences": waste(in_rows(anyhow)),
    "sorted by source, 64 sentences": waste(in_rows(by_source)),
    "sorted by both, 64 sentences": waste(in_rows(by_both)),
    "token budget, 1600 tokens": waste(budget),
}
draw.padding(
    schemes,
    {
        "random order": [sizes_of[i][0] for i in in_rows(anyhow)[0]],
        "token budget": [sizes_of[i][0] for i in budget[len(budget) // 2]],
    },
    f"Random order wastes {waste(in_rows(anyhow)):.0%} of the positions, "
    f"sorting by both sides only {waste(in_rows(by_both)):.0%}",
)

# %%
fixed, at_random, one_side, both_sides, by_tokens = schemes.values()
assert by_tokens < 0.10, "the claim of this lesson: less than a tenth is padding"
assert fixed > 1.2 * at_random and at_random > 2 * one_side and one_side > 2 * both_sides
assert abs(both_sides - by_tokens) < 0.01
full = [sorted(costs(batches))[1:] for batches in (in_rows(by_both), budget)]  # without the rest
spread = [cost[-1] / cost[0] for cost in full]
assert spread[0] > 4 and spread[1] < 1.2
print(f"waste: fixed {fixed:.0%}, random {at_random:.0%}, sorted by source {one_side:.1%}")
print(f"waste: sorted by both {both_sides:.1%}, token budget {by_tokens:.1%}")
print(f"most expensive full batch / cheapest: 64 sentences {spread[0]:.1f}, budget {spread[1]:.1f}")

# %% [markdown]
# 每个办法的作用不同。**排序**能去掉填充，前提是两侧的长度都要看：源句一样长，目标句未必一样长。**预算**让批次大小均匀：不设预算，64 个长句的批次所用的内存和时间，就是 64 个短句的几倍。

# %% [markdown]
# ### 批次
#
# 最后一个函数把每个序号列表变成一个 `Batch`（第 04 课）。每个轮次有自己的种子：种子相同，批次就相同，所以中断的训练可以接着来（`start`）；下一个轮次用另一个种子，次序就不同了。


# %%
#| export
def make_batches(
    examples: Sequence[Example], max_tokens: int, seed: int | None = None, start: int = 0
) -> Iterator[Batch]:
    """Yield the padded batches of one epoch, from batch number `start` on."""
    lengths = [(len(src), len(tgt)) for src, tgt in examples]
    for indices in token_batches(lengths, max_tokens, seed)[start:]:
        chosen = [examples[i] for i in indices]
        yield Batch.from_sequences([s for s, _ in chosen], [t for _, t in chosen], PAD, BOS)


# %% [markdown]
# 取一个批次，一路变回文本。目标句出现两次，错开一个位置（第 04 课）。

# %%
batches = list(make_batches(examples, max_tokens=1600, seed=0))
batch = max(batches, key=lambda b: b.src.size(0))
print("src", tuple(batch.src.shape), "tgt_in", tuple(batch.tgt_in.shape), batch.n_tokens, "tokens")
for name in ("src", "tgt_in", "tgt_out"):
    print(f"{name:8}", *(bpe.names[i] for i in getattr(batch, name)[0].tolist()))
assert (bpe.decode(batch.src[0].tolist()), bpe.decode(batch.tgt_out[0].tolist())) in set(train)

# %% [markdown]
# > **试一试。**
# > 1. 在 `token_batches` 里改成先按源句排序（把 `sizes[i][::-1]` 换成 `sizes[i]`）。两侧的浪费各有什么变化？
# > 2. 把 `max_tokens` 设成 200、800、3200 和 12800。预算大到多少，浪费开始超过十分之一？浪费为什么会变大？
# > 3. 只从德语一侧学词表，再用它编码英语一侧。句子会变长多少？有没有不认识的词元？
#
# <details><summary>答案</summary>
#
# 1. 两侧对调了：原来源句浪费 8.7%，目标句 0.4%；现在是 0.5% 和 8.9%。合起来仍是 5%。先按哪一侧排序，同一批次里那一侧的长度就相等。
# 2. 0.6%、2.7%、7.9%、18.3%：在 3200 与 6400（13.1%）之间超过十分之一。批次越大，收进来的句子长度相差越大：预算到 12800 时，各种长度的句子总共只分成 25 个批次。
# 3. 每句 39.7 个词元，原来是 17.4 个：英语词都碎成小块。没有不认识的词元；只有 `x` 没在德语图片说明里出现过，要用字节来拼。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 同样的种子，接得分毫不差 · 选读
#
# 写给会中断训练的人：重新得到一个轮次的后半段，并在张量里数一数填充。

# %%
resumed = list(make_batches(examples, max_tokens=1600, seed=0, start=5))
assert all(a.src.equal(b.src) and a.tgt_out.equal(b.tgt_out) for a, b in zip(batches[5:], resumed))
assert len(resumed) == len(batches) - 5
assert token_batches(sizes_of, 1600, seed=1) != budget, "another epoch, another order"
padded = sum((b.src == PAD).sum().item() + (b.tgt_out == PAD).sum().item() for b in batches)
positions = sum(b.src.numel() + b.tgt_out.numel() for b in batches)
assert abs(padded / positions - waste(budget)) < 1e-9, "the tensors waste what we computed"
print(f"{len(batches)} batches, {padded / positions:.1%} padding; the same seed resumes exactly")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 10 · 你自己的两种语言 · 选读
#
# 写给想翻译德语和英语之外的语言的人：两个文件就够了。

# %% [markdown]
# 一个文件的第 *n* 行，是另一个文件第 *n* 行的译文；UTF-8 纯文本，一行一句。哪一行没有对应的译文、是空行或编码不对，程序会指出文件名和行号。
#
# ```
# python -m course train --src hindi.txt --tgt english.txt --preset small --out runs/hi --minutes 20
# python -m course translate --checkpoint runs/hi < new.txt
# python -m course evaluate --checkpoint runs/hi --src test-hindi.txt --tgt test-english.txt
# ```
#
# 每二十个源句留出一个作验证，**连同它的所有译文**：不然又是数据泄漏。如果你已经自己分好，`--pairs DIR` 会从一个文件夹读取 `train.src`、`train.tgt`、`val.src` 和 `val.tgt`。
#
# 换一种文字，有什么不同？在别的文字里，片段也必须是词。下面用四个印地语句子数一数片段，一次按这一课的规则，一次按没有考虑记号的旧规则：

# %%
hindi = ["लड़का लाल किताब देखता है।", "औरत सुंदर फूल लाती है।", "बिल्ली गेंद चाहती है।", "कुत्ता गोल पत्थर रखता है।"]
n_words = sum(len(sentence.split()) for sentence in hindi)
cut = [sum(len(rule(" " + s)) for s in hindi) / n_words for rule in (OLD_PIECE.findall, pieces)]
assert n_words == 19 and cut[0] > 3 and cut[1] == 23 / 19  # 19 words and four full stops
print(f"pieces a word: {cut[0]:.1f} if marks are no letters, {cut[1]:.1f} if they are")

# %% [markdown]
# - **字符很多**（中文、日文）：至少出现两次的字符，各得一个编号。如果预设的词表装不下，提示信息会说差多少，照着调大就行：`--set vocab=8000`。
# - **没有空格**（中文、日文、泰文）：直到下一个标点，整串文字算一个片段，合并可以跨词。这样也行得通，只是词元就不是词了。
# - **要多少句对？** 课程有一项测试：用 **tiny** 预设训练几秒钟，训练句子有 608 个，出自一小套印地语语法；再拿 32 个没见过的句子来译，必须有 28 个译得准确无误。真实文本没有这样的语法：Multi30k 的 29,000 个句对都算少的。

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `tokenize`、`Vocabulary` | 一个句子 | 词；它们的编号，不认识的是 `UNK` |
# | `pieces`、`count_pieces` | 文本；若干句子 | 片段，拼起来就是原文；片段的次数 |
# | `learn_bpe`、`merge_pair`、`apply_merges` | 片段的次数 | 合并，以及用合并切开的词 |
# | `normalise` | 任何文本 | 同样的文本，统一的写法 |
# | `BPE.learn`、`encode`、`decode` | 训练句子；文本 | 编号，以及变回来的规范化文本 |
# | `BPE.save`、`BPE.load` | 一个路径 | 同样的词元化程序 |
# | `to_tokenizers` | 一个 `BPE` | `tokenizers` 库里同样的词元化程序 |
# | `encode_sentence`、`encode_pairs` | 句子；若干句对 | 编号；例子 `(src, tgt)`，都以 `EOS` 结尾 |
# | `token_batches` | 长度、预算、种子 | 若干个序号列表，每个序号恰好出现一次 |
# | `make_batches` | 例子、预算、种子 | `Batch`：src (B, S)，tgt_in 和 tgt_out (B, T) |
#
# 你用过 torchtext 吗？README 里有一张表：旧教程里用的名字，现在由什么代替。

# %% [markdown]
# ## 小结
#
# 模型读的是编号。以词为词元行不通，因为真实文本总有新词；以字符为词元，序列又太长。字节对编码从字符开始，一次次合并出现最多的一对，常见的词就成为一个词元，罕见的词成为几个。空格留在词元里，不认识的字符用字节来拼，于是任何文本都能解码回来，写法统一，而且永远用不着 `UNK`。词表只从训练句子里学。批次里的句子长度相近，装多少由词元预算决定：填充不到全部位置的十分之一。

# %% [markdown]
# ## 延伸阅读
#
# - Sennrich, Haddow, Birch (2016). *Neural Machine Translation of Rare Words with Subword Units.* ACL. arXiv 1508.07909. 把 BPE 带进翻译的论文。
# - Gage (1994). *A New Algorithm for Data Compression.* C Users Journal. 还没有用到语言上的 BPE。
# - Kudo, Richardson (2018). *SentencePiece.* EMNLP. arXiv 1808.06226. 空格也是符号；什么都不丢。
# - Wu et al. (2016). *Google's Neural Machine Translation System.* arXiv 1609.08144. 论文在英法翻译里用的词片（word piece）。
# - Provilkov, Emelianenko, Voita (2020). *BPE-Dropout.* ACL. arXiv 1910.13267. 同一个词有几种切法，用来作正则化。
#
# **作业。** [作业：文本](homework/text/text.ipynb)：亲手写出 BPE 的学习和使用，以及按词元数划分的批次；哪里错了，检查会指出来。
#
# **下一课：** [第 07 课](07_training.ipynb)：用这些批次来训练。
